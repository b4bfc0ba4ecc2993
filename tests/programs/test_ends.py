"""Programs that end by a signal, in the middle of everything, or beside another interpreter."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from helpers import PATIENCE, PROMPT, ROOT

from wsmini.testing import echo_server, scripted_server

PROGRAM = """
import os, sys, wsmini
# Not by print(): whoever is in it when the process ends, in another thread, has its lock.
def said(*words): os.write(1, (" ".join(map(str, words)) + "\\n").encode())
client = wsmini.Client(sys.argv[1], reconnect=wsmini.Fixed(60), open_timeout=60,
    on_open=lambda client: said("open"),
    on_close=lambda client, code, reason: said("close", code),
    on_reconnect=lambda client, attempt, delay, exc: said("waiting"))
if sys.argv[2] == "closing":
    client.on_open = lambda client: client.close() or said("closing")
elif sys.argv[2] == "resolving":
    import socket, time
    real = socket.getaddrinfo
    def getaddrinfo(*args, flags=0, **options):
        if flags & socket.AI_NUMERICHOST:
            return real(*args, flags=flags, **options)
        said("resolving")
        time.sleep(60)
    socket.getaddrinfo = getaddrinfo
elif sys.argv[2] in ("connecting", "securing"):
    said(sys.argv[2])
sys.exit(client.run_forever())
"""


reached, release = threading.Event(), threading.Event()


def silent(peer):
    peer.accept()
    release.wait(PATIENCE)


def hang(peer):
    peer._read(1)  # of the request, or of TLS
    reached.set()
    release.wait(PATIENCE)


@pytest.mark.skipif(os.name == "nt", reason="there are no such signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    "state, script, said",
    [
        ("open", None, ["open", "close 1001"]),
        ("closing", silent, ["closing", "close 1006"]),
        ("resolving", hang, ["resolving"]),
        ("connecting", hang, ["connecting"]),
        ("securing", hang, ["securing"]),
        ("waiting", None, ["waiting"]),
    ],
)
def test_signals_end_a_program_promptly_in_each_state(state, script, said, number):
    reached.clear()
    release.clear()
    with echo_server() if script is None else scripted_server(script) as server:
        urls = {
            "waiting": "ws://127.0.0.1:9", "resolving": "ws://a-name.invalid",
            "securing": "wss" + server.url[2:],
        }  # fmt: skip
        url = urls.get(state, server.url)
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, url, state], cwd=ROOT,
            stdout=subprocess.PIPE, universal_newlines=True,
        )  # fmt: skip
        with process:
            first = process.stdout.readline()
            if state in ("connecting", "securing"):
                assert reached.wait(PATIENCE)
            start = time.monotonic()
            process.send_signal(number)
            rest = process.stdout.read()
            assert process.wait() == 128 + number
            assert time.monotonic() - start < PROMPT
            release.set()
    assert (first + rest).split("\n")[:-1] == said


INTERPRETER = """
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
import sys
failure = interpreters.run_string(interpreters.create(), sys.argv[1])
if failure is not None:  # before 3.13, it was raised
    print(failure.errdisplay)
"""

IN_INTERPRETER = """
import sys
sys.path.insert(0, {root!r})
import wsmini
said = []
client = wsmini.Client(
    {url!r},
    on_open=lambda client: client.send("hello"),
    on_message=lambda client, message: said.append(message) or client.close(),
    on_close=lambda client, code, reason: said.append(code),
)
said.append(client.run_forever())
with wsmini.connect({url!r}) as ws:
    ws.send("blocking")
    said.append(ws.recv())
print(*said)
"""


def test_a_client_runs_in_a_sub_interpreter_without_signals():
    if not any(map(importlib.util.find_spec, ("_interpreters", "_xxsubinterpreters"))):
        pytest.skip("this Python has no sub-interpreters")
    with echo_server() as server:
        code = IN_INTERPRETER.format(root=str(ROOT), url=server.url)
        run = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", INTERPRETER, code], cwd=ROOT, timeout=PATIENCE,
            stdout=subprocess.PIPE, universal_newlines=True,
        )  # fmt: skip
    assert run.stdout == "hello 1000 0 blocking\n"


ABANDON = """
import asyncio, threading
from wsmini.aio import connect
from wsmini.testing import echo_server, scripted_server

over = threading.Event()

def deaf(peer):
    peer.accept()
    over.wait(20)

def mute(peer):
    peer.request()
    peer.recv_frame()

async def block(url, work):
    async with connect(url) as ws:
        await work(ws)

async def iterate(ws):
    async for _ in ws:
        pass

async def stream(ws):
    async for _ in ws.recv_streaming():
        pass

async def again(url):
    async for ws in connect(url):
        await ws.recv()

async def main(url, deaf, mute):
    asyncio.get_running_loop().slow_callback_duration = 60
    tasks = [
        block(url, lambda ws: ws.recv()), block(url, iterate), block(url, stream), again(url),
        block(deaf, lambda ws: ws.send(bytes(1 << 23))), block(mute, lambda ws: ws.recv()),
    ]
    tasks = [asyncio.ensure_future(each) for each in tasks]
    await asyncio.sleep(0.2)
    print(sum(not task.done() for task in tasks))

with echo_server() as server, scripted_server(deaf) as deaf, scripted_server(
    mute
) as mute:
    asyncio.run(main(server.url, deaf.url, mute.url))
    over.set()
"""


def test_a_loop_that_is_shut_down_in_the_middle_of_everything_is_silent():
    run = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", ABANDON], timeout=PATIENCE * 2,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=ROOT,
    )  # fmt: skip
    assert (run.stdout.decode().strip(), run.returncode) == ("6", 0)
