"""Ctrl-C in every phase of a connection: real programs, which have to be gone within a second.

A busy machine gets more, which is still less than they would wait: 10 seconds or longer.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from certificates import server_context
from helpers import PATIENCE, PROMPT, ROOT

from wsmini.testing import IgnoreClose, Refuse, Stall, echo_server, fault_server

DELAY = 0.2  # seconds from "ready" until the program surely waits

pytestmark = pytest.mark.skipif(os.name != "posix", reason="Ctrl-C is a signal on POSIX only")

# Said before the wait begins.
READY = "print('ready', flush=True)\n"

HANGING_RESOLVER = """
import socket, time
look_up = socket.getaddrinfo
def getaddrinfo(host, *args, **kwargs):
    if kwargs.get("flags") != socket.AI_NUMERICHOST:
        time.sleep(600)
    return look_up(host, *args, **kwargs)
socket.getaddrinfo = getaddrinfo
"""


@contextlib.contextmanager
def silent_address():
    """One where connecting gets no answer: its queue of connections is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            sock = stack.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(listener.getsockname())
        yield "ws://127.0.0.1:%d" % listener.getsockname()[1]


@contextlib.contextmanager
def unknown_name():
    yield "ws://nobody.knows.example"


@contextlib.contextmanager
def silent_tls():
    """A server that accepts TCP and says nothing, not even TLS."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield "wss://127.0.0.1:%d" % listener.getsockname()[1]


@contextlib.contextmanager
def silent_proxy():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield "http://127.0.0.1:%d" % listener.getsockname()[1]


def serving(*args, **options):
    @contextlib.contextmanager
    def server():
        with fault_server(*args, **options) as server:
            yield server.url

    return server


@contextlib.contextmanager
def secure_echo():
    with echo_server(ssl=server_context()) as server:
        yield server.url


stalled, echo = serving(then=Stall()), serving()
CONNECT = "ws = wsmini.connect(url)\n" + READY
WITH = "with wsmini.connect(url) as ws:\n    " + READY + "    "
UNVERIFIED = WITH.replace("(url)", "(url, ssl=wsmini.unverified_context())")


def asynchronous(*lines):
    """A program that runs *lines* on asyncio."""
    body = "".join(f"    {line}\n" for line in lines)
    return f"import asyncio\nfrom wsmini import aio\nasync def main():\n{body}asyncio.run(main())"


SAY = READY.rstrip("\n")
ENTER = "async with aio.connect(url) as ws:"

# Phase: the server, and the program.
PHASES = {
    "dns": (unknown_name, HANGING_RESOLVER + READY + "wsmini.connect(url)"),
    "tcp": (silent_address, READY + "wsmini.connect(url)"),
    "proxy": (silent_proxy, READY + "wsmini.connect('ws://localhost', proxy=url)"),
    "tls": (silent_tls, READY + "wsmini.connect(url)"),
    "upgrade": (serving(then=Stall(handshake=True)), READY + "wsmini.connect(url)"),
    "recv": (echo, WITH + "ws.recv()"),
    "recv, tls": (secure_echo, UNVERIFIED + "ws.recv()"),
    "recv, dead server": (stalled, CONNECT + "ws.recv()"),
    "recv, timeout": (echo, WITH + "ws.recv(timeout=60)"),
    "iteration": (echo, WITH + "list(ws)"),
    "streaming": (echo, WITH + "list(ws.recv_streaming())"),
    "send": (stalled, CONNECT + "ws.send(bytes(1 << 26))"),
    "send, timeout": (stalled, CONNECT + "ws.send(bytes(1 << 26), timeout=60)"),
    "send, fragments": (stalled, CONNECT + "ws.send(bytes(1 << 22) for _ in range(20))"),
    "with, dead server": (stalled, WITH + "ws.recv()"),
    "with, send": (stalled, WITH + "ws.send(bytes(1 << 26))"),
    "pong": (stalled, CONNECT + "ws.ping().wait()"),
    "close": (serving(then=IgnoreClose()), CONNECT + "ws.close()"),
    "close, dead server": (stalled, CONNECT + "ws.close()"),
    "with, close": (serving(then=IgnoreClose()), WITH + "pass"),
    "threads": (
        echo,
        "from threading import Event, Thread\n" + WITH
        + "Thread(target=list, args=[ws], daemon=True).start()\n"
        "    ws.ping().wait()\n    Event().wait()",
    ),
    "asyncio, dns": (
        unknown_name, HANGING_RESOLVER + asynchronous(SAY, "await aio.connect(url)"),
    ),
    "asyncio, tls": (silent_tls, asynchronous(SAY, "await aio.connect(url)")),
    "asyncio, recv": (echo, asynchronous(ENTER, f"    {SAY}", "    await ws.recv()")),
    "asyncio, iteration": (
        echo, asynchronous(ENTER, f"    {SAY}", "    async for message in ws: pass"),
    ),
    "asyncio, dead server": (stalled, asynchronous(ENTER, f"    {SAY}", "    await ws.recv()")),
    "asyncio, send": (
        stalled, asynchronous(ENTER, f"    {SAY}", "    await ws.send(bytes(1 << 26))"),
    ),
    "asyncio, close": (
        serving(then=IgnoreClose()),
        asynchronous("ws = await aio.connect(url)", SAY, "await ws.close()"),
    ),
    "asyncio, with, close": (serving(then=IgnoreClose()), asynchronous(ENTER, f"    {SAY}")),
    "asyncio, loop": (
        stalled,
        asynchronous(
            "async for ws in aio.connect(url):",
            f"    async with ws: await ws.recv() if {SAY} is None else None",
        ),
    ),
    "asyncio, waiting": (
        serving(then=Refuse(503)),
        asynchronous(
            f"report = lambda *args: {SAY}",
            "policy = wsmini.Fixed(60)",
            "async for ws in aio.connect(url, policy=policy, on_reconnect=report): pass",
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize("phase", PHASES)
def test_ctrl_c_leaves_within_a_second(phase, tmp_path):
    serve, code = PHASES[phase]
    program = tmp_path / "program.py"
    program.write_text("import sys, wsmini\nurl = sys.argv[1]\n" + code + "\n")
    with serve() as url, subprocess.Popen(
        [sys.executable, program, url],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as process:  # fmt: skip
        try:
            assert process.stdout.readline() == b"ready\n"
            time.sleep(DELAY)
            assert process.poll() is None, process.stderr.read()
            started = time.monotonic()
            process.send_signal(signal.SIGINT)
            status = process.wait(PATIENCE)
            took = time.monotonic() - started
        finally:
            process.kill()
        errors = process.stderr.read().decode()
        assert errors.rstrip().endswith("KeyboardInterrupt"), errors
        assert "Exception ignored" not in errors
        assert "Exception in thread" not in errors
        assert status == -signal.SIGINT
        assert took < PROMPT
