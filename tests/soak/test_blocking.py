"""The blocking API under load, and beside servers that die or go on; see ``blocking.py``.

``WSMINI_SOAK_AWAY`` is for how many seconds the application is away (60).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from pairs import Task

from wsmini.blocking.connection import connect
from wsmini.exceptions import ConnectionClosedError
from wsmini.testing import Stall, fault_server

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parents[1]
PEM = FOLDER.parent / "certs" / "server.pem"
SCALE = float(os.environ.get("WSMINI_SOAK") or 1)
AWAY = os.environ.get("WSMINI_SOAK_AWAY") or "60"
SECURE = pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])


@contextmanager
def serving(mode, secure=False):
    command = [sys.executable, FOLDER / "blocking_server.py", mode, *([PEM] if secure else [])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield process.stdout.readline().decode().strip()
        finally:
            process.stdin.close()
    assert process.returncode == 0  # what its script met


def measure(name, mode, *args, secure=False):
    with serving(mode, secure) as url:
        output = subprocess.check_output(
            [sys.executable, FOLDER / "blocking.py", name, url, *args],
            timeout=110, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
    figures = json.loads(output)
    print(f"\n{name}{' tls' if secure else ''}: {figures}")
    return figures


@pytest.fixture(scope="module", autouse=True)
def away():
    """It takes long and costs nothing, so it goes on beside the other tests."""
    task = Task(measure, "away", "away", AWAY)
    yield task
    task.join(110)


@SECURE
def test_messages_of_many_senders_come_whole_and_in_order(secure):
    figures = measure("senders", "echo", str(max(1, int(10000 * SCALE))), secure=secure)
    assert figures["right"]
    assert not figures["errors"]


@pytest.mark.parametrize("mode, secure", [("flood", False), ("flood", True), ("exchange", False)])
def test_a_flood_both_ways_neither_hangs_nor_costs_memory(mode, secure):
    figures = measure("flood", mode, secure=secure)
    assert figures["right"]
    assert figures["growth_mib"] < 20


@pytest.mark.parametrize(
    "name, mode", [("streamed", "source"), ("into", "messages"), ("fragments", "sink")]
)
def test_a_gibibyte_passes_without_costing_memory(name, mode):
    figures = measure(name, mode)
    assert figures["right"]
    assert figures["growth_mib"] < 20


def send_on(ws):
    while True:
        ws.send(bytes(1 << 16))


CALLS = {"recv": lambda ws: ws.recv(), "for": list, "send": send_on,
         "recv, timeout": lambda ws: ws.recv(timeout=60),
         "streaming": lambda ws: list(ws.recv_streaming())}  # fmt: skip


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_peer_that_is_dead_without_a_word_is_found_in_time(call):
    interval, timeout = 0.7, 0.6
    with fault_server(then=Stall()) as server:
        with connect(server.url, ping_interval=interval, ping_timeout=timeout) as ws:
            started = time.monotonic()
            with pytest.raises(ConnectionClosedError) as caught:
                call(ws)
            took = time.monotonic() - started
    assert isinstance(caught.value.__cause__, TimeoutError)
    print(f"\n{took:.2f} s")
    assert interval + timeout - 0.1 < took < interval + timeout + 0.5


def test_hundreds_of_connections_have_one_thread():
    figures = measure("many", "echo")
    assert figures["extra_threads"] == 1
    assert figures["right"]
    assert figures["cpu"] < 0.02
    assert figures["threads_after"] == 0
    assert figures["descriptors_after"] == 0


def test_an_application_that_is_away_stays_connected(away):
    """It doesn't receive, and the server pings every second, with two for the answer."""
    away.join(110)
    assert away.result() == {"state": "OPEN", "close_code": 1000}
