"""What users of other clients suffer from, in whichever front end: each keeps the same promises."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import os
import re
import socket
import sys
import threading
import time

import pytest
from helpers import PATIENCE, PROMPT

import wsmini
from wsmini import aio
from wsmini.opening import resolver
from wsmini.sansio.frames import Opcode
from wsmini.testing import Stall, echo_server, fault_server, scripted_server

NOW = wsmini.Fixed(0, after_normal_close=False)


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, PATIENCE))


# -- a peer that is dead without a word --


def recv(url, **options):
    with wsmini.connect(url, **options) as ws:
        ws.recv()


def iteration(url, **options):
    with wsmini.connect(url, **options) as ws:
        list(ws)


def send(url, **options):
    with wsmini.connect(url, **options) as ws:
        while True:
            ws.send(bytes(1 << 20))


def client(url, **options):
    failures = []
    wsmini.Client(
        url, reconnect=wsmini.Backoff(retryable=failures.append), on_error=lambda *args: None,
        **options,
    ).run_forever()  # fmt: skip
    raise failures[0]


def client_sending(url, **options):
    client(url, on_open=lambda client: client.send(bytes(1 << 23)), **options)


def aio_recv(url, **options):
    async def main():
        async with aio.connect(url, **options) as ws:
            await ws.recv()

    run(main())


def aio_iteration(url, **options):
    async def main():
        async with aio.connect(url, **options) as ws:
            async for _ in ws:
                pass

    run(main())


def aio_send(url, **options):
    async def main():
        async with aio.connect(url, **options) as ws:
            while True:
                await ws.send(bytes(1 << 20))

    run(main())


def aio_wait_closed(url, **options):
    async def main():
        ws = await aio.connect(url, **options)
        await ws.wait_closed()
        await ws.recv()

    run(main())


CALLS = [
    recv, iteration, send, client, client_sending,
    aio_recv, aio_iteration, aio_send, aio_wait_closed,
]  # fmt: skip


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
def test_whoever_waits_for_a_dead_peer_is_told_in_time(call):
    with fault_server(Stall()) as server:
        start = time.monotonic()
        with pytest.raises(wsmini.ConnectionClosedError, match="nothing received for") as caught:
            call(server.url, ping_interval=0.05, ping_timeout=0.05, close_timeout=0.05)
        assert time.monotonic() - start < PROMPT
    assert (caught.value.code, caught.value.sent.code) == (1006, 1011)


# -- connecting again --


def reconnect_blocking(url, **options):
    for ws in wsmini.reconnect(url, policy=NOW, **options):
        with contextlib.suppress(wsmini.ConnectionClosed):
            ws.recv()


def reconnect_client(url, **options):
    wsmini.Client(url, reconnect=NOW, on_error=lambda *args: None, **options).run_forever()


def reconnect_aio(url, **options):
    async def main():
        async for ws in aio.connect(url, policy=NOW, **options):
            await ws.wait_closed()

    run(main())


LOOPS = pytest.mark.parametrize(
    "loop", [reconnect_blocking, reconnect_client, reconnect_aio], ids=lambda loop: loop.__name__
)


@LOOPS
def test_pings_go_on_after_connecting_again(loop):
    pings = []

    def script(peer):
        peer.accept()
        received = peer.recv_frame()
        pings.append(received.opcode)
        peer.send_frame(Opcode.PONG, received.data)
        peer.close(1012 if len(pings) < 3 else 1000)

    with scripted_server(script) as server:
        loop(server.url, ping_interval=0.05)
    assert pings == [Opcode.PING] * 3


@LOOPS
def test_a_server_that_accepts_and_objects_is_left_alone(loop):
    connections = []

    def script(peer):
        connections.append(peer)
        peer.accept()
        peer.close(1008, "who are you?")

    with scripted_server(script) as server:
        with contextlib.suppress(wsmini.ConnectionClosedError):
            loop(server.url)
    assert len(connections) == 1


def failures_of(loop, url, **options):
    """What *loop* over connections to *url* has failed with in the end."""
    told = []
    if loop is reconnect_client:
        client = wsmini.Client(url, on_error=lambda client, exc: told.append(exc), **options)
        client.run_forever()
        client.run_forever()  # which counts from the beginning
        return told

    async def main():
        async for ws in aio.connect(url, **options):
            await ws.wait_closed()

    def work():
        for ws in wsmini.reconnect(url, policy=options["reconnect"]):
            with contextlib.suppress(wsmini.ConnectionClosed):
                ws.recv()

    for _ in range(2):
        with pytest.raises((OSError, wsmini.WebSocketException)) as caught:
            run(main()) if loop is reconnect_aio else work()
        told.append(caught.value)
    return told


@LOOPS
@pytest.mark.parametrize(
    "outcomes, said",
    [
        ([503, 503, 503], "after 3 failed attempts in a row"),
        ([1012, 503, 503], "after 2 failed attempts in a row"),
        ([503, 1012, 503], "after 1 failed attempt in a row"),
        ([503, 503, 1012], "after the connection ended"),
    ],
)
def test_who_gives_up_tells_the_attempts(loop, outcomes, said):
    policy, left = wsmini.Fixed(0, attempts=2), outcomes * 2

    def script(peer):
        peer.request()
        outcome = left.pop(0)
        if outcome == 503:
            peer.respond(503)
            return
        peer.accept()
        peer.close(outcome)

    with scripted_server(script) as server:
        failures = failures_of(loop, server.url, reconnect=policy)
    who = {reconnect_blocking: "reconnect()", reconnect_client: "Client"}
    name = who.get(loop, "aio.connect()")
    note = f"wsmini.{name} gave up {said}, as {policy!r} says"
    assert [failure.__notes__ for failure in failures] == [[note], [note]]


def descriptors():
    return set(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else set()


def frames():
    """How deep the stack is."""
    frame, count = sys._getframe(), 0
    while frame is not None:
        frame, count = frame.f_back, count + 1
    return count


@LOOPS
def test_connecting_again_often_keeps_nothing(loop):
    last, depths = 40, []

    def script(peer):
        peer.accept()
        peer.close(1012 if len(depths) < last else 1000)

    def trace(record):
        if record["event"] == "request":
            depths.append(frames())

    with scripted_server(script) as server:
        before, threads = len(descriptors()), threading.active_count()
        loop(server.url, trace=trace)
        gc.collect()
        assert threading.active_count() <= threads + 2
        assert len(descriptors()) <= before + 4
    assert len(depths) == last
    assert set(depths) == {depths[0]}


# -- one end --


def listing(closes):
    """A server that answers the first Close frame, and goes on listening to the end."""

    def script(peer):
        peer.accept()
        with contextlib.suppress(EOFError):
            while True:
                received = peer.recv_frame()
                if received.opcode == Opcode.CLOSE:
                    closes.append(received.data[:2])
                    peer.send_frame(Opcode.CLOSE, received.data)
                    peer.sock.shutdown(socket.SHUT_WR)

    return scripted_server(script)


def test_a_client_that_is_closed_again_and_again_says_so_once():
    closes, ends = [], []

    def on_open(client):
        client.close(4000)
        client.close()
        client.stop()

    with listing(closes) as server:
        wsmini.Client(
            server.url, on_open=on_open,
            on_close=lambda client, code, reason: ends.append(code) or client.close(),
        ).run_forever()  # fmt: skip
    assert closes == [(4000).to_bytes(2, "big")]
    assert ends == [4000]


def test_tasks_that_close_at_once_send_one_close_frame():
    closes = []

    async def main(url):
        async with aio.connect(url) as ws:
            await asyncio.gather(ws.close(4000), ws.close(), ws.close(1001))
            assert ws.close_code == 4000

    with listing(closes) as server:
        run(main(server.url))
    assert closes == [(4000).to_bytes(2, "big")]


# -- close() from another thread, whatever the client is doing --


@pytest.fixture
def reached():
    """Set when the client is in the state that is to be left; *over*: the test is."""
    return threading.Event()


@pytest.fixture
def over():
    event = threading.Event()
    yield event
    event.set()


def close_when(reached, client):
    assert reached.wait(PATIENCE)
    client.close()


def assert_it_ends(client, reached):
    """Run *client*, and close it from another thread when the state is reached."""
    thread = threading.Thread(target=close_when, args=(reached, client))
    thread.start()
    ended = []
    client.on_reconnect = client.on_reconnect or (lambda *args: ended.append("again"))
    assert client.run_forever() == 0
    thread.join()
    assert ended == []
    assert client.state is wsmini.State.CLOSED


@pytest.mark.parametrize("scheme", ["ws", "wss"])
def test_a_client_is_closed_while_the_server_says_nothing(scheme, reached, over):
    def script(peer):
        peer._read(1)  # of the request, or of TLS
        reached.set()
        over.wait(PATIENCE)

    with scripted_server(script) as server:
        start = time.monotonic()
        client = wsmini.Client(f"{scheme}://127.0.0.1:{server.port}", open_timeout=PATIENCE)
        assert_it_ends(client, reached)
        assert time.monotonic() - start < PATIENCE / 2
        over.set()


def test_a_client_is_closed_while_a_name_is_looked_up(reached, over, monkeypatch):
    real = resolver._getaddrinfo

    def hang(name, port, family, flags=0):
        if flags & socket.AI_NUMERICHOST:
            return real(name, port, family, flags)
        reached.set()
        over.wait(PATIENCE)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(resolver, "_getaddrinfo", hang)
    start = time.monotonic()
    client = wsmini.Client("ws://a-name.invalid", open_timeout=PATIENCE, proxy=None)
    assert_it_ends(client, reached)
    assert time.monotonic() - start < PATIENCE / 2


def test_a_client_is_closed_while_it_waits_to_connect_again(reached):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"ws://127.0.0.1:{listener.getsockname()[1]}"
    start = time.monotonic()
    client = wsmini.Client(
        url, reconnect=wsmini.Fixed(PATIENCE), on_reconnect=lambda *args: reached.set()
    )
    assert_it_ends(client, reached)
    assert time.monotonic() - start < PATIENCE / 2


@pytest.mark.parametrize("callback", ["on_open", "on_message", "on_pong"])
def test_a_client_is_closed_in_a_callback(callback):
    def on_open(client):
        client.send("hello")
        client.ping()

    with echo_server() as server:
        client = wsmini.Client(server.url, on_open=on_open)
        setattr(client, callback, lambda client, *args: client.close())
        assert client.run_forever() == 0


def test_a_client_is_closed_in_on_close_and_on_reconnect():
    def drop(peer):
        peer.accept()

    for callback in ("on_close", "on_reconnect"):
        with scripted_server(drop) as server:
            client = wsmini.Client(server.url, reconnect=wsmini.Fixed(PATIENCE))
            setattr(client, callback, lambda client, *args: client.close())
            start = time.monotonic()
            assert client.run_forever() == 0
            assert time.monotonic() - start < PATIENCE / 2


# -- what a message is --


class Numbered:
    """What ``iter()`` takes without an ``__iter__``."""

    def __getitem__(self, index):
        return ["a", "b"][index]


def blocking_echo(url, message):
    with wsmini.connect(url) as ws:
        ws.send(message)
        return ws.recv()


def asyncio_echo(url, message):
    async def main():
        async with aio.connect(url) as ws:
            await ws.send(message)
            return await ws.recv()

    return run(main())


def client_echo(url, message):
    echoed = []
    client = wsmini.Client(url, on_message=lambda client, got: echoed.append(got) or client.close())
    client.on_open = lambda client: client.send(message)
    client.run_forever()
    return echoed[0]


@pytest.mark.parametrize("echo", [blocking_echo, asyncio_echo, client_echo])
def test_a_message_in_parts_is_what_can_be_iterated_over(echo):
    with echo_server() as server:
        for message in (["a", "b"], iter("ab"), Numbered()):
            assert echo(server.url, message) == "ab"
        for message in (5, None, {"a": 1}):
            problem = "^a message is str, bytes-like or an iterable of these, not "
            with pytest.raises(TypeError, match=problem + type(message).__name__):
                echo(server.url, message)


# -- what a connection tells of itself --


@pytest.mark.parametrize("front_end", ["blocking", "asyncio"])
def test_the_attributes_of_a_connection_are_those_of_its_docstring(front_end):
    async def attributes(url):
        async with aio.connect(url) as ws:
            return vars(ws)

    with echo_server() as server:
        if front_end == "asyncio":
            kind, held = aio.Connection, run(attributes(server.url))
        else:
            with wsmini.connect(server.url) as ws:
                kind, held = wsmini.Connection, vars(ws)
    section = inspect.getdoc(kind).partition("Attributes:\n")[2]
    told = ", ".join(re.findall(r"^    (\w[\w, ]*):", section, re.M)).split(", ")
    assert sorted(name for name in held if name[0] != "_") == sorted(told)
