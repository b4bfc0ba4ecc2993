"""The asyncio front end: over real sockets, in debug mode."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import selectors
import socket
import ssl
import sys
import threading
import time
import types
import weakref
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import fakes
import pytest
from certificates import client_context, server_context
from helpers import CERTS, PATIENCE
from joined import joined
from pairs import TRANSCRIPT, eventually, frames_of, reset
from tables import each_row

from wsmini import (
    ConcurrencyError,
    ConnectionClosed,
    ConnectionClosedError,
    Fixed,
    InvalidState,
    InvalidStatus,
    NoReconnect,
    State,
    reconnect,
)
from wsmini import clock as slept
from wsmini.aio import Connection, connect
from wsmini.aio import connection as aio
from wsmini.aio.selector_thread import READ, _select, host_loop
from wsmini.events.transport import BATCHES
from wsmini.opening.streams import SocketStream
from wsmini.options import Options
from wsmini.sansio.frames import Opcode
from wsmini.sansio.messages import BATCH
from wsmini.testing import echo_server, frame, scripted_server

LARGE = bytes(1 << 19)  # more than the system takes with this option, if the peer doesn't read
SMALL_BUFFER = [(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 15)]


class NoReaders(asyncio.SelectorEventLoop):
    """As Windows' default loop: it can't watch sockets."""

    def add_reader(self, fd, callback, *args):
        raise NotImplementedError

    add_writer = remove_writer = add_reader

    def remove_reader(self, fd):
        raise NotImplementedError


KINDS = pytest.mark.parametrize("kind", [asyncio.SelectorEventLoop, NoReaders])


@pytest.fixture(params=[asyncio.SelectorEventLoop, NoReaders], ids=["selector", "no readers"])
def run(request, monkeypatch):
    """Run a coroutine on a loop of either kind, which must be silent."""
    # Where each callback and future was made costs more than all the rest, and is only for
    # complaints; asyncio in C leaves the limit of futures to the interpreter.
    monkeypatch.setattr(asyncio.constants, "DEBUG_STACK_DEPTH", 1)
    monkeypatch.setattr(sys, "tracebacklimit", 1, raising=False)

    def run(coroutine):
        loop = request.param()
        loop.set_debug(True)
        complaints = []
        loop.set_exception_handler(lambda loop, context: complaints.append(context))
        asyncio.set_event_loop(loop)
        try:
            result = loop.run_until_complete(asyncio.wait_for(coroutine, PATIENCE))
            assert asyncio.all_tasks(loop) == set()
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            asyncio.set_event_loop(None)
            loop.close()
        assert not complaints
        return result

    return run


@pytest.fixture(scope="module")
def url():
    with echo_server() as server:
        yield server.url


@contextlib.contextmanager
def serving(script, **options):
    with scripted_server(script, **options) as server:
        yield server.url


def test_an_opening_that_ends_in_the_turn_of_its_cancellation_is_closed(run, monkeypatch):
    closed = []
    stream = SimpleNamespace(close=lambda: closed.append("stream"))

    def run_on_loop(host, steps, done, at_once):
        dones.append(done)
        return SimpleNamespace(cancel=lambda: closed.append("steps"))

    async def open_one():
        return await connect("ws://localhost")

    async def main(cancel_first):
        task = asyncio.ensure_future(open_one())
        await asyncio.sleep(0)
        if cancel_first:
            task.cancel()
        dones.pop()(SimpleNamespace(stream=stream), None)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert closed == ["stream", "steps"]
        closed.clear()

    async def interrupted():
        task = asyncio.ensure_future(open_one())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(KeyboardInterrupt):
            dones.pop()(None, KeyboardInterrupt())
        with pytest.raises(asyncio.CancelledError):
            await task

    dones = []
    monkeypatch.setattr("wsmini.aio.connecting.LoopRun", run_on_loop)
    run(main(True))
    run(main(False))
    run(interrupted())


def test_echoes_of_all_kinds(run, url):
    async def main():
        async with connect(url, max_size=None) as ws:
            for message in ["é", b"", b"x" * 70000, bytes(3000000)]:
                await ws.send(message)
                assert await ws.recv() == message
            await ws.send(["a", "b"])
            assert await ws.recv(decode=False) == b"ab"
            await ws.send("large" * 100000)
            assert "".join([chunk async for chunk in ws.recv_streaming()]) == "large" * 100000
            buffer = bytearray(2)
            with pytest.raises(TimeoutError):
                await ws.recv_into(buffer, timeout=0)
            await ws.send(b"abc")
            with pytest.raises(ValueError):
                await ws.recv_into(buffer)
            assert await ws.recv_into(bytearray(3)) == 3
            assert await (await ws.ping()) > 0
            assert ws.latency > 0
        assert (ws.state, ws.close_code, ws.fileno()) == (State.CLOSED, 1000, -1)

    run(main())


def test_headers_and_their_older_name(run, url):
    async def main():
        async with connect(url, extra_headers={"X-A": "b"}) as ws:
            assert ws.request_headers["X-A"] == "b"
            assert ws.response.status_code == 101

    run(main())
    with pytest.raises(TypeError):
        connect(url, extra_headers={}, additional_headers={})
    with pytest.raises(TypeError):
        connect(url, no_such_option=1)


def test_a_cancelled_recv_loses_nothing(run, url):
    async def main():
        async with connect(url) as ws:
            for number in range(50):
                task = asyncio.ensure_future(ws.recv())
                await asyncio.sleep(0)
                await ws.send(str(number))
                for _ in range(number % 7):
                    await asyncio.sleep(0)
                task.cancel()
                try:
                    received = await task
                except asyncio.CancelledError:
                    received = await ws.recv()
                assert received == str(number)

    run(main())


def test_a_cancelled_stream_loses_nothing(run, url):
    async def main():
        async with connect(url) as ws:
            for turns in range(30):
                task = asyncio.ensure_future(ws.recv_streaming().__anext__())
                await asyncio.sleep(0)
                await ws.send(["lo", "ng"])
                for _ in range(turns):
                    await asyncio.sleep(0)
                task.cancel()
                try:
                    assert "long".startswith(await task)
                except asyncio.CancelledError:
                    assert await ws.recv() == "long"

    run(main())


def test_two_receivers(run, url):
    async def main():
        async with connect(url) as ws:
            task = asyncio.ensure_future(ws.recv())
            await asyncio.sleep(0)
            with pytest.raises(ConcurrencyError):
                await ws.recv()
            await ws.send("for the first")
            assert await task == "for the first"

    run(main())


def test_concurrent_senders(run, url):
    async def main():
        async with connect(url, max_size=None) as ws:
            messages = {bytes([n]) * (n * 40000) for n in range(1, 21)}
            sends = [asyncio.ensure_future(ws.send(message)) for message in messages]
            assert {await ws.recv() for _ in messages} == messages
            await asyncio.gather(*sends)

    run(main())


def test_a_message_that_has_gone_out_whole_is_sent_though_the_connection_has_closed_since(run):
    begun = threading.Event()

    def script(peer):
        peer.accept()
        assert begun.wait(PATIENCE)
        peer.recv_message()
        peer.close()

    async def talk(url):
        async with connect(url) as ws:
            transport, over = ws._transport, time.monotonic() + PATIENCE
            sending = asyncio.ensure_future(ws.send(bytes(15 << 20)))
            await asyncio.sleep(0)
            assert ws._waiting
            begun.set()
            while not transport._ending:  # all of it before the task goes on
                assert time.monotonic() < over
                transport._on_writable() if transport.buffered else transport._on_readable()
            await sending
            with pytest.raises(ConnectionClosed):
                await ws.send("no more")

    with serving(script) as url:
        run(talk(url))


def test_sending_waits_while_the_peer_does_not_read(run):
    def script(peer):
        peer.accept()
        peer.recv_message()
        for _ in range(20):
            assert len(peer.recv_message()) == 1 << 20
        peer.close()

    async def talk(url):
        async with connect(url) as ws:
            await ws.send("begin")
            for _ in range(20):
                await ws.send(bytes(1 << 20))
                assert ws._transport.buffered <= 1 << 16
            with pytest.raises(ConnectionClosed):
                await ws.recv()

    with serving(script) as url:
        run(talk(url))


def test_unread_messages_make_the_peer_wait(run):
    def script(peer):
        peer.accept()
        for number in range(3000):
            peer.send_message(b"%d" % number + bytes(5000))
        peer.close()

    async def main(url):
        async with connect(url, max_queue=4) as ws:
            while not ws._transport.paused:
                await asyncio.sleep(0)
            assert len(ws._unread) < 20
            numbers = [int(message[:-5000]) async for message in ws]
            assert numbers == list(range(3000))

    with serving(script) as url:
        run(main(url))


def test_reconnecting_until_it_is_enough(run, url):
    async def main():
        count = 0
        connections = connect(url, policy=Fixed(0.0)).__aiter__()
        async for ws in connections:
            await ws.send("x")
            assert await ws.recv() == "x"
            count += 1
            if count == 3:
                break
            ws._transport.abort()
            await asyncio.sleep(0)
        await connections.aclose()
        assert (count, ws.state) == (3, State.CLOSED)

    run(main())


BAD = frame(Opcode.TEXT, b"", rsv1=True)


@pytest.mark.parametrize(
    "last, sent", [(frame(Opcode.CLOSE, b"\x03\xe8"), 1000), (BAD, 1002)], ids=["close", "error"]
)
def test_messages_are_answered_before_the_end_that_came_with_them(run, last, sent):
    heard = []

    def script(peer):
        peer.accept()
        peer.send_raw(
            frame(Opcode.TEXT, b"a") + frame(Opcode.PING) + frame(Opcode.TEXT, b"b") + last
        )
        while not heard or heard[-1].opcode != Opcode.CLOSE:
            heard.append(peer.recv_frame())

    async def main(url):
        async with connect(url, compression=None) as ws:
            with contextlib.suppress(ConnectionClosedError):
                async for message in ws:
                    await ws.send(message)

    with serving(script) as url:
        run(main(url))
    assert [each.data for each in heard if each.opcode == Opcode.TEXT] == [b"a", b"b"]
    assert heard[-1].data[:2] == sent.to_bytes(2, "big")


def test_a_refused_connection_ends_reconnecting_with_its_failure(run):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

    async def main():
        with pytest.raises(ConnectionRefusedError):
            async for _ in connect(f"ws://127.0.0.1:{port}", policy=Fixed(0.0, attempts=2)):
                raise AssertionError("there is no server")

    run(main())


@pytest.mark.parametrize("turns", range(12))
def test_a_cancelled_opening_leaves_nothing(run, url, turns):
    async def main():
        task = asyncio.ensure_future(connect(url).__aenter__())
        for _ in range(turns):
            await asyncio.sleep(0.001 if turns > 8 else 0)
        task.cancel()
        try:
            ws = await task
        except asyncio.CancelledError:
            return
        await ws.close()

    run(main())


@types.coroutine
def cancelled_at(coroutine, counts, soon):
    """Run *coroutine*, and cancel the task at the suspension for which *counts*() is true.

    Or *soon* after. Returns whether it was cancelled; it isn't if it doesn't get there in time.
    """
    task, error, timer = asyncio.current_task(), None, None
    while True:
        try:
            future = coroutine.send(None) if error is None else coroutine.throw(error)
        except StopIteration:
            if timer is not None:
                timer.cancel()
            return False
        except asyncio.CancelledError:
            return True
        if counts():
            if soon:
                timer = asyncio.get_running_loop().call_soon(task.cancel)
            else:
                task.cancel()
        try:
            yield future
            error = None
        except BaseException as exc:
            error = exc


async def exchange(url, reached, reading):
    """All that suspends, in order; *reached* tells how far it is."""
    reached.step = "open"
    reached.ws = ws = await connect(url, socket_options=SMALL_BUFFER)
    reached.step = "send"
    asyncio.get_running_loop().call_later(0.01, reading.set)
    await ws.send(LARGE)
    reached.step = "recv"
    await ws.recv()
    reached.taken, reached.step = 1, "stream"
    async for _ in ws.recv_streaming():
        reached.taken = 2
    reached.step = "ping"
    await (await ws.ping()).wait()
    reached.step = "close"
    await ws.close()


@pytest.mark.parametrize("soon", [False, True], ids=["at once", "soon"])
@pytest.mark.parametrize("step", ["open", "send", "recv", "stream", "ping", "close"])
def test_an_exchange_cancelled_at_each_suspension(run, step, soon):
    messages = ["answer", "long" * 10000, "last"]
    reading, sizes = threading.Event(), []

    def script(peer):
        peer.accept()
        reading.wait(PATIENCE)
        sizes.append(len(peer.recv_message()))
        peer.send_message(messages[0])
        halves = frame(Opcode.TEXT, messages[1].encode())
        peer.send_raw(halves[:20000])
        peer.send_raw(halves[20000:])
        peer.send_message(messages[2])
        peer.recv_message()  # the Close frame, and a ping perhaps

    async def main(url, number):
        """Cancel the suspension *number* of the step; whether there is one."""
        reached, suspensions = SimpleNamespace(ws=None, taken=0, step=""), []

        def counts():
            if reached.step == step:
                suspensions.append(1)
            return reached.step == step and len(suspensions) == number

        cancelled = await cancelled_at(exchange(url, reached, reading), counts, soon)
        ws = reached.ws
        if not cancelled:
            await ws.close()
        elif reached.step == "open":
            assert ws is None
        elif reached.step == "close":
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert (ws.state, ws.fileno()) == (State.CLOSED, -1)
        else:
            reading.set()
            rest = messages[reached.taken :]
            assert [await ws.recv() for _ in rest] == rest
            await ws.close()
            assert ws.close_code == 1000
            assert sizes == [len(LARGE)]
        return cancelled

    number = 0
    with serving(script) as url:
        more = True
        while more and number < 30:
            number += 1
            reading.clear()
            sizes.clear()
            more = run(main(url, number))
            reading.set()
    # The answer may be there already, and the message whole.
    assert number > 1 or soon or step in ("recv", "stream")


def test_a_send_cancelled_before_its_turn_sends_nothing(run):
    received = []

    def script(peer):
        peer.accept()
        received.append(peer.recv_message())
        received.append(peer.recv_message())
        peer.close()

    async def parts(go):
        yield "a"
        await go.wait()
        yield "b"

    async def main(url):
        async with connect(url) as ws:
            go = asyncio.Event()
            first = asyncio.ensure_future(ws.send(parts(go)))
            await asyncio.sleep(0)
            second = asyncio.ensure_future(ws.send("never"))
            await asyncio.sleep(0)
            second.cancel()
            with pytest.raises(asyncio.CancelledError):
                await second
            go.set()
            await first
            await ws.send("last")
            with pytest.raises(ConnectionClosed):
                await ws.recv()

    with serving(script) as url:
        run(main(url))
    assert received == ["ab", "last"]


def test_a_cancelled_message_in_fragments_ends_the_connection(run):
    async def parts():
        yield "a"
        await asyncio.sleep(PATIENCE)

    def script(peer):
        peer.accept()
        assert peer.recv_frame().data == b"a"
        assert peer.recv_frame().data[:2] == (1011).to_bytes(2, "big")

    async def main(url):
        ws = await connect(url)
        task = asyncio.ensure_future(ws.send(parts()))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(ConnectionClosed):
            await ws.send("more")
        await ws.close()

    with serving(script) as url:
        run(main(url))


def test_a_send_with_a_timeout_accepts_a_message_whole_or_not_at_all(run):
    async def main():
        ws, peer = joined()
        peer.setblocking(False)
        accepted = 0
        with contextlib.suppress(TimeoutError):
            while True:  # into the socket, and up to MAX_BUFFER bytes behind that
                await ws.send(bytes(50000), timeout=0)
                accepted += 1
        with pytest.raises(TimeoutError, match="no room"):
            await ws.send("never", timeout=0.01)
        late = asyncio.ensure_future(ws.send("late", timeout=PATIENCE))
        data = b""
        while not (late.done() and len(data) >= ws._transport.buffer.accepted):
            await asyncio.sleep(0)
            with contextlib.suppress(BlockingIOError):
                data += peer.recv(1 << 20)
        await late
        sizes = [len(payload) for _, payload in frames_of(data)]
        assert sizes == [50000] * accepted + [4]
        ws._transport.abort()
        await ws.wait_closed()
        peer.close()

    run(main())


async def sending_fragments(ws):
    """A message whose first fragment is on its way: (its task, the event that lets it end)."""
    go = asyncio.Event()

    async def parts():
        yield "a"
        await go.wait()

    task = asyncio.ensure_future(ws.send(parts()))
    while not ws._protocol.sending:
        await asyncio.sleep(0)
    return task, go


def test_a_send_with_a_timeout_waits_no_longer_for_its_turn(run):
    async def main():
        ws, peer = joined()
        first, go = await sending_fragments(ws)
        for timeout in (0, 0.01):
            with pytest.raises(TimeoutError):
                await ws.send("never", timeout=timeout)
        go.set()
        await first
        await ws.send("b", timeout=0)
        data = b""
        while len(data) < ws._transport.buffer.accepted:
            data += peer.recv(100)
            await asyncio.sleep(0)
        assert [payload for _, payload in frames_of(data)] == [b"a", b"", b"b"]
        ws._transport.abort()
        await ws.wait_closed()
        peer.close()

    run(main())


def test_a_message_in_fragments_that_has_no_room_in_time_ends_the_connection(run):
    async def main():
        ws, peer = joined(close_timeout=0)
        with pytest.raises(ConnectionClosedError) as caught:
            await ws.send([bytes(1 << 20)] * 3, timeout=0.01)
        assert caught.value.sent.code == 1011
        assert isinstance(caught.value.__cause__, TimeoutError)
        await ws.wait_closed()
        peer.close()

    run(main())


def test_the_timeout_of_a_send_is_a_number(run, url):
    async def main():
        async with connect(url) as ws:
            with pytest.raises(TypeError, match="timeout is a number of seconds or None, not 'x'"):
                await ws.send("a", timeout="x")

    run(main())


@pytest.mark.parametrize("code, fails", [(1000, False), (1001, True), (1011, True)])
def test_reconnecting_ends_as_the_last_connection_did(run, code, fails):
    def script(peer):
        peer.accept()
        peer.close(code)

    async def main(url):
        count = 0
        async for ws in connect(url, reconnect=NoReconnect()):
            count += 1
            with contextlib.suppress(ConnectionClosed):
                await ws.recv()
        return count

    with serving(script) as url:
        if fails:
            with pytest.raises(ConnectionClosed) as caught:
                run(main(url))
            assert caught.value.code == code
            assert caught.value.__notes__ == [
                "wsmini.aio.connect() gave up after the connection ended, as NoReconnect() says"
            ]
        else:
            assert run(main(url)) == 1


def test_reconnecting_goes_on_where_the_body_has_left_an_open_connection(run, url):
    async def main(policy):
        count = 0
        connections = connect(url, policy=policy).__aiter__()
        async for ws in connections:
            await ws.send("x")
            count += 1
            if count == 3:
                break
        await connections.aclose()
        return count

    assert run(main(Fixed(0.0))) == 3
    assert run(main(Fixed(0.0, attempts=1))) == 3  # nothing has failed
    assert run(main(NoReconnect())) == 1


def test_reconnecting_goes_on_behind_async_with(run, url):
    async def main():
        count = 0
        async for ws in connect(url, policy=Fixed(0.0)):
            count += 1
            async with ws:
                await ws.send("x")
                if count == 3:
                    await ws.close()
        return count

    assert run(main()) == 3


@pytest.mark.parametrize("code", [1000, 1001, 4000])
def test_reconnecting_ends_when_the_program_closes(run, url, code):
    async def main():
        count = 0
        async for ws in connect(url, policy=Fixed(0.0)):
            count += 1
            await ws.close(code)
        return count

    assert run(main()) == 1


def test_reconnecting_cancelled_between_two_connections(run, url):
    async def main():
        opened = []

        async def work():
            async for ws in connect(url, policy=Fixed(PATIENCE)):
                opened.append(ws)
                ws._transport.abort()

        task = asyncio.ensure_future(work())
        while not opened or opened[0].state is not State.CLOSED:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(opened) == 1

    run(main())


def test_leaving_a_reconnecting_loop_closes_the_connection(run, url):
    async def main():
        connections = connect(url).__aiter__()
        ws = await connections.__anext__()
        await connections.aclose()
        assert (ws.state, ws.close_code) == (State.CLOSED, 1001)
        with pytest.raises(TypeError):
            connect(url, policy=Fixed(0), reconnect=Fixed(0))

    run(main())


POLICY = Fixed(0.0, after_normal_close=False)


class Loops:
    """A server that drops *drops* connections, refuses the next two and accepts the one behind."""

    def __init__(self, drops):
        self.count, self.drops = 0, drops

    def __call__(self, peer):
        self.count += 1
        peer.request()
        if self.drops < self.count <= self.drops + 2:
            peer.respond(503)
            return
        peer.accept()
        peer.close(1012 if self.count <= self.drops else 1000)


@pytest.mark.parametrize("is_coroutine", [False, True])
def test_attempts_are_reported_as_by_the_blocking_loop(run, is_coroutine):
    def scripts():
        return serving(Loops(1))

    def told(reports):
        return [(attempt, delay, str(exc)[:20]) for attempt, delay, exc in reports]

    plain, reports = [], []

    def report(*words):
        reports.append(words)

    async def report_later(*words):
        await asyncio.sleep(0)
        reports.append(words)

    async def main(url):
        on_reconnect = report_later if is_coroutine else report
        async for ws in connect(url, policy=POLICY, on_reconnect=on_reconnect):
            with contextlib.suppress(ConnectionClosed):
                await ws.recv()

    with scripts() as url:
        run(main(url))
    with scripts() as url:
        for ws in reconnect(url, policy=POLICY, on_reconnect=lambda *a: plain.append(a)):
            with contextlib.suppress(ConnectionClosed):
                ws.recv()
    assert told(reports) == told(plain)
    assert [attempt for attempt, _, _ in reports] == [1, 2, 3]


def test_the_last_failure_tells_the_attempts(run):
    async def main(url):
        async for ws in connect(url, policy=Fixed(0.0, attempts=2)):
            await ws.wait_closed()

    with serving(Loops(1)) as url, pytest.raises(InvalidStatus) as caught:
        run(main(url))
    [note] = caught.value.__notes__
    assert note.startswith("wsmini.aio.connect() gave up after 2 failed attempts in a row, as F")


def test_stop_ends_the_wait_for_another_connection(run, url):
    async def main():
        stop, opened = asyncio.Event(), []

        def stop_soon(*args):
            asyncio.get_running_loop().call_soon(stop.set)

        async for ws in connect(url, policy=Fixed(1e9), stop=stop, on_reconnect=stop_soon):
            opened.append(ws)
            ws._transport.abort()
            await ws.wait_closed()
        async for ws in connect(url, stop=stop):
            opened.append(ws)
        return len(opened)

    assert run(main()) == 1


def test_without_a_stop_the_wait_passes(run):
    async def main(url):
        count, stop = 0, asyncio.Event()
        policy = Fixed(0.01, after_normal_close=False)
        async for ws in connect(url, policy=policy, stop=stop):
            count += 1
            await ws.wait_closed()
        return count

    with serving(Loops(1)) as url:
        assert run(main(url)) == 2


def test_a_wait_that_could_be_stopped_can_be_cancelled(run, url):
    async def main():
        waiting = asyncio.Event()

        async def work():
            options = {"stop": asyncio.Event(), "on_reconnect": lambda *args: waiting.set()}
            async for ws in connect(url, policy=Fixed(PATIENCE), **options):
                ws._transport.abort()

        task = asyncio.ensure_future(work())
        await waiting.wait()
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main())


def test_two_loops_over_the_same_connections_count_apart(run):
    async def main(url):
        numbers = []
        policy = Fixed(0.0, after_normal_close=False)
        connections = connect(url, policy=policy, on_reconnect=lambda *a: numbers.append(a[0]))
        for _ in range(2):
            async for ws in connections:
                await ws.wait_closed()
        return numbers

    statuses = [503, 101, 503, 101]

    def script(peer):
        peer.request()
        if statuses.pop(0) == 503:
            peer.respond(503)
        else:
            peer.accept()
            peer.close(1000)

    with serving(script) as url:
        assert run(main(url)) == [2, 2]


@pytest.mark.parametrize(
    "options, text",
    [
        ({"policy": Fixed}, "policy"),
        ({"stop": True}, "stop"),
        ({"stop": threading.Event()}, "asyncio.Event"),
        ({"on_reconnect": 1}, "on_reconnect"),
    ],
)
def test_arguments_are_checked_at_once(options, text):
    with pytest.raises(TypeError, match=text):
        connect("ws://127.0.0.1:1", **options)


def test_one_socket_is_not_enough_to_reconnect(run):
    async def main(sock):
        async for _ in connect("ws://127.0.0.1", sock=sock):
            pass

    with socket.socket() as sock, pytest.raises(ValueError, match="sock"):
        run(main(sock))


# -- headers for each attempt --


@pytest.mark.parametrize("name", ["additional_headers", "extra_headers"])
@pytest.mark.parametrize("is_coroutine", [False, True])
def test_each_attempt_has_a_token_of_its_own(run, name, is_coroutine):
    asked, sent = [], []

    def headers():
        asked.append(None)
        return {"Authorization": str(len(asked))}

    async def headers_later():
        await asyncio.sleep(0)
        return headers()

    def script(peer):
        sent.append(peer.request().headers["Authorization"])
        if len(sent) == 2:
            peer.respond(503)
            return
        peer.accept()
        peer.close(1012 if len(sent) == 1 else 1000)

    async def main(url):
        options = {name: headers_later if is_coroutine else headers}
        async for ws in connect(url, policy=POLICY, **options):
            await ws.wait_closed()

    with serving(script) as url:
        run(main(url))
    assert sent == ["1", "2", "3"]


def test_headers_that_can_not_be_had_fail_the_attempt(run):
    async def headers():
        raise LookupError("no token")

    async def main():
        with pytest.raises(LookupError, match="no token"):
            await connect("ws://127.0.0.1:1", additional_headers=headers)
        with pytest.raises(TypeError, match="additional_headers"):
            await connect("ws://127.0.0.1:1", additional_headers=lambda: 5)

    run(main())


def test_waiting_for_headers_can_be_cancelled(run, url):
    async def main():
        asked = asyncio.Event()

        async def headers():
            asked.set()
            await asyncio.sleep(PATIENCE)

        task = asyncio.ensure_future(connect(url, additional_headers=headers).__aenter__())
        await asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main())


# -- leaving --


def test_a_cancelled_block_does_not_wait_long_for_the_server(run, monkeypatch):
    monkeypatch.setattr(aio, "LEAVING", 0.05)
    closes, over = [], threading.Event()

    def script(peer):
        peer.accept()
        closes.append(peer.recv_frame().data[:2])
        over.wait(PATIENCE)

    async def main(url):
        opened = asyncio.Event()

        async def work():
            async with connect(url, close_timeout=None) as ws:
                opened.set()
                await ws.recv()

        task = asyncio.ensure_future(work())
        await opened.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, PATIENCE / 2)
        over.set()

    with serving(script) as url:
        run(main(url))
    assert closes == [(1001).to_bytes(2, "big")]


# -- sleep --


@pytest.fixture
def clock(monkeypatch):
    """The time of the loop that ``run_faked`` uses; it passes when there is nothing to do."""
    clock = fakes.Clock()
    monkeypatch.setattr(slept, "time", SimpleNamespace(time=clock.wall))
    return clock


def run_faked(clock, main, *intervals):
    """Run *main* with a connection and a silent peer for each of the *intervals* of keepalives."""
    loop = asyncio.SelectorEventLoop(fakes.Selector(clock))
    loop.time = clock

    async def connected():
        pairs = []
        for interval in intervals:
            ours, theirs = socket.socketpair()
            theirs.setblocking(False)
            opened = fakes.opened(SocketStream(ours))
            options = Options("ws://localhost", ping_interval=interval)
            pairs.append((Connection(loop, host_loop(loop), opened, options), theirs))
        try:
            await main(*pairs)
        finally:
            for ws, theirs in pairs:
                theirs.close()
                await ws.close()

    try:
        loop.run_until_complete(connected())
    finally:
        loop.close()


def heard(peer):
    """The first bytes of the frames that *peer* got, each of a keepalive."""
    try:
        return set(peer.recv(1000)[::14])  # with 8 digits each
    except BlockingIOError:
        return set()


@pytest.mark.parametrize("seconds, code", [(3600, 1006), (1, None)])
def test_sleep_makes_all_connections_probe_their_peers(clock, seconds, code):
    async def main(lively, silent):
        await asyncio.sleep(3)
        clock.sleep(seconds)
        await asyncio.sleep(7.5)
        assert heard(lively[1]) == {0x89}
        lively[1].send(frame(Opcode.PONG))
        assert heard(silent[1]) == ({0x89} if code else set())
        await asyncio.sleep(20)
        assert silent[0].close_code == code and lively[0].state is State.OPEN

    run_faked(clock, main, 10, 1000)


def test_sleep_is_noticed_by_the_one_that_was_heard_just_before(clock):
    async def main(alone):
        ws, peer = alone
        await asyncio.sleep(990)
        peer.send(frame(Opcode.TEXT, b"x"))
        assert await ws.recv() == "x"
        clock.sleep(3600)
        await asyncio.sleep(11)
        assert heard(peer) == {0x89}
        await asyncio.sleep(20)
        assert ws.state is State.CLOSED

    run_faked(clock, main, 1000)


def test_a_message_costs_who_receives_it_one_wake_up(clock):
    async def main(alone):
        ws, peer = alone
        selector = asyncio.get_running_loop()._selector
        before = selector.selects
        for _ in range(10):
            peer.send(frame(Opcode.TEXT, b"x"))
            assert await ws.recv() == "x"
        assert selector.selects == before + 10

    run_faked(clock, main, None)


def test_what_is_sent_on_a_message_is_sent_at_once(clock):
    async def main(alone):
        ws, peer = alone
        asyncio.get_running_loop().call_soon(peer.send, frame(Opcode.TEXT, b"question"))
        await ws.recv()
        await ws.send("answer")
        assert peer.recv(1000)[:2] == b"\x81\x86"  # though the task hasn't given way
        await ws.ping(b"data")
        assert peer.recv(1000)[:2] == b"\x89\x84"

    run_faked(clock, main, None)


def test_a_task_that_fails_on_a_message_leaves_the_connection_alone(clock):
    async def main(alone):
        ws, peer = alone

        async def fail():
            raise ValueError(await ws.recv())

        task = asyncio.ensure_future(fail())
        await asyncio.sleep(0)
        peer.send(frame(Opcode.TEXT, b"first"))
        with pytest.raises(ValueError, match="first"):
            await task
        peer.send(frame(Opcode.TEXT, b"second"))
        assert await ws.recv() == "second"

    run_faked(clock, main, None)


def test_a_connection_may_be_closed_on_a_message(clock):
    async def main(alone):
        ws, peer = alone

        async def close():
            assert await ws.recv() == "bye"
            await ws.close(1001)

        task = asyncio.ensure_future(close())
        await asyncio.sleep(0)
        peer.send(frame(Opcode.TEXT, b"bye"))
        await asyncio.sleep(0.1)
        assert peer.recv(1000)[:2] == b"\x88\x82"
        peer.send(frame(Opcode.CLOSE, (1001).to_bytes(2, "big")))
        peer.close()
        await task
        assert ws.state is State.CLOSED and ws.close_code == 1001

    run_faked(clock, main, None)


def test_nothing_wakes_up_to_notice_a_sleep(clock):
    async def main(alone):
        selector = asyncio.get_running_loop()._selector
        await asyncio.sleep(1)
        before = selector.selects
        await asyncio.sleep(900)
        assert selector.selects <= before + 2

    run_faked(clock, main, 1000)


def test_a_connection_that_is_opened_after_the_sleep_knows_nothing_of_it(clock):
    async def main(idle, late):
        ws, peer = late
        clock.sleep(3600)
        ours, theirs = socket.socketpair()
        options = Options("ws://localhost", ping_interval=1000)
        with theirs:
            loop = asyncio.get_running_loop()
            ws = Connection(loop, host_loop(loop), fakes.opened(SocketStream(ours)), options)
            theirs.setblocking(False)
            await asyncio.sleep(600)
            theirs.send(frame(Opcode.TEXT, b"x"))
            assert await ws.recv() == "x"
            await asyncio.sleep(600)
            assert heard(theirs) == set()
        await ws.close()

    run_faked(clock, main, None, None)


# -- waiting for the end --


def test_waiting_for_the_end_leaves_messages_to_be_received(run):
    def script(peer):
        peer.accept()
        for number in range(3):
            peer.send_message(str(number))
        peer.close(4000, "enough")

    async def main(url):
        ws = await connect(url)
        await ws.wait_closed()
        assert (ws.state, ws.close_code, ws.close_reason) == (State.CLOSED, 4000, "enough")
        await ws.wait_closed()
        assert [await ws.recv() for _ in range(3)] == ["0", "1", "2"]
        with pytest.raises(ConnectionClosed):
            await ws.recv()

    with serving(script) as url:
        run(main(url))


def test_waiting_for_the_end_can_be_cancelled(run, url):
    async def main():
        async with connect(url) as ws:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(ws.wait_closed(), 0.01)
            await ws.send("still here")
            assert await ws.recv() == "still here"
            waiting = asyncio.ensure_future(ws.wait_closed())
            await ws.close()
            await waiting

    run(main())


def test_the_end_waits_behind_more_messages_than_may_wait(run):
    def script(peer):
        peer.accept()
        for _ in range(5):
            peer.send_message(bytes(1 << 15))
        peer.close(1000)

    async def main(url):
        async with connect(url, max_queue=1) as ws:
            waiting = asyncio.ensure_future(ws.wait_closed())
            assert len([message async for message in ws]) == 5
            await waiting

    with serving(script) as url:
        run(main(url))


@pytest.mark.parametrize(
    "ending, secure", [("fin", False), ("rst", False), ("fin", True)], ids=["fin", "rst", "tls"]
)
def test_a_connection_cut_at_every_byte(ending, secure):
    at = 0

    def script(peer):
        peer.accept()
        peer.send_raw(TRANSCRIPT[:at])
        if ending == "rst":
            reset(peer.sock)

    options = {}
    if secure:
        options["ssl"] = server_context()
        context = client_context()

    async def main(url):
        received = []
        ws = await connect(url, **({"ssl": context} if secure else {}))
        with pytest.raises(ConnectionClosed) as caught:
            while True:
                received.append(await ws.recv())
        assert received == ["one", "two"][: len(received)]
        if at == len(TRANSCRIPT) and ending == "fin":
            assert received == ["one", "two"]
            assert caught.value.code == 1000
        else:
            assert caught.value.code in (1000, 1006)
            assert isinstance(caught.value, ConnectionClosedError) or at == len(TRANSCRIPT)
        await ws.close()
        assert ws.fileno() == -1

    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    with serving(script, **options) as url:
        if secure:
            url = url.replace("127.0.0.1", "localhost")
        while at <= len(TRANSCRIPT):
            asyncio.run(asyncio.wait_for(main(url), PATIENCE))
            at += 1
    if before:
        assert len(os.listdir("/proc/self/fd")) <= before


def test_tls_can_be_looked_into(run):
    trusting = client_context()

    async def main(url):
        async with connect(url, ssl=trusting) as ws:
            return ws.ssl_object.getpeercert(binary_form=True)

    with echo_server(ssl=server_context()) as server:
        certificate = ssl.DER_cert_to_PEM_cert(run(main(server.url)))
    assert certificate in (CERTS / "server.pem").read_text()


# -- ends that others run into --


def test_who_waits_for_a_message_in_fragments_to_end_learns_of_the_end(run):
    async def main():
        ws, peer = joined()
        first, go = await sending_fragments(ws)
        second = asyncio.ensure_future(ws.send("b"))
        await asyncio.sleep(0)
        peer.close()
        for send in (second, ws.send("c")):
            with pytest.raises(ConnectionClosedError):
                await send
        go.set()
        with pytest.raises(ConnectionClosedError):
            await first

    run(main())


def test_all_senders_learn_of_a_reset_though_nobody_receives(run):
    async def parts(go):
        yield bytes(1 << 24)
        await go.wait()

    async def main():
        ws, peer = joined(tcp=True, max_queue=2)
        peer.sendall(frame(Opcode.TEXT, "x" * 1000) * 50)
        while not ws._transport.paused:
            await asyncio.sleep(0)
        sends = [asyncio.ensure_future(ws.send(bytes(1 << 24))) for _ in range(3)]
        while len(ws._waiting) < 3:
            await asyncio.sleep(0)
        reset(peer)
        ended = await asyncio.gather(*sends, return_exceptions=True)
        assert [type(each) for each in ended] == [ConnectionClosedError] * 3
        assert isinstance(ended[0].__cause__, ConnectionError)

    run(main())


def test_a_stream_that_is_being_closed_keeps_as_much_as_a_queue_may(run):
    async def main():
        ws, peer = joined(max_size=None, max_queue=4, close_timeout=PATIENCE)
        peer.setblocking(False)
        peer.send(frame(Opcode.BINARY, b"first", fin=False))
        stream = ws.recv_streaming()
        assert await stream.__anext__() == b"first"
        closing = asyncio.ensure_future(ws.close())
        sent = 0
        while sent < 1 << 23:
            with contextlib.suppress(BlockingIOError):
                sent += peer.send(frame(Opcode.CONT, bytes(50000), fin=False)[sent % 50004 :])
            await asyncio.sleep(0)
        assert sum(len(chunk) for chunk, _ in ws._chunks) < 1 << 20
        peer.close()
        await closing
        with pytest.raises(ConnectionClosed):
            while True:
                await stream.__anext__()

    run(main())


def test_a_generator_that_can_not_be_sent_is_closed_at_once(run, url):
    closed = []

    async def parts(*values):
        try:
            for value in values:
                yield value
        finally:
            await asyncio.sleep(0)
            closed.append(values)

    async def main():
        async with connect(url) as ws:
            await ws.send(parts("a", "b"))
            with pytest.raises(TypeError):
                await ws.send(parts("a", 5, "b"))
        ws, peer = joined()
        sending = asyncio.ensure_future(ws.send(parts(LARGE, b"")))
        while not ws._waiting:
            await asyncio.sleep(0)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        assert closed == [("a", "b"), ("a", 5, "b"), (LARGE, b"")]
        peer.close()
        await ws.close()

    run(main())


def test_a_ping_that_nobody_waits_for_any_more_may_fail(run):
    async def main():
        ws, peer = joined()
        ping = await ws.ping()
        with pytest.raises(TimeoutError, match="pong"):
            await ping.wait(timeout=0.01)
        waiting = [asyncio.ensure_future(ping.wait()) for _ in range(2)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        peer.close()
        with pytest.raises(ConnectionClosedError):
            await waiting[1]
        with pytest.raises(ConnectionClosedError):
            await ping
        await ws.close()

    run(main())


def test_one_connect_has_one_block_at_a_time(run, url):
    async def main():
        connecting = connect(url)
        for _ in range(2):
            async with connecting as ws:
                with pytest.raises(InvalidState):
                    async with connecting:
                        raise AssertionError("which of them would the end of the block close?")
                assert ws.state is State.OPEN
            assert ws.state is State.CLOSED
        refused = connect("ws://127.0.0.1:1", proxy=None)
        for _ in range(2):
            with pytest.raises(OSError):
                await refused.__aenter__()

    run(main())


def test_a_socket_that_the_loop_can_not_watch_fails_the_opening():
    async def main():
        ours, theirs = socket.socketpair()
        with theirs, ours:
            loop = asyncio.get_running_loop()
            transport, _ = await loop.create_connection(asyncio.Protocol, sock=ours)
            with pytest.raises(RuntimeError, match="used by transport"):
                await connect("ws://localhost", sock=ours)
            transport.abort()

    loop = asyncio.SelectorEventLoop()
    try:
        loop.run_until_complete(asyncio.wait_for(main(), PATIENCE))
        loop.run_until_complete(asyncio.sleep(0))
    finally:
        loop.close()


@KINDS
def test_a_connection_that_nobody_keeps_is_kept_by_its_loop(kind):
    pongs = []

    def script(peer):
        peer.accept()
        opened.wait(PATIENCE)
        peer.send_frame(Opcode.PING, b"there?")
        pongs.append(peer.recv_frame().data)
        done.set()

    async def main(url):
        gone = weakref.ref(await connect(url))
        gc.collect()
        opened.set()
        while not done.is_set():
            await asyncio.sleep(0.001)
        await gone().close()

    opened, done, loop = threading.Event(), threading.Event(), kind()
    try:
        with serving(script) as url:
            loop.run_until_complete(asyncio.wait_for(main(url), PATIENCE))
    finally:
        loop.close()
    assert pongs == [b"there?"]


@KINDS
@pytest.mark.parametrize("cancel", [False, True])
@pytest.mark.parametrize("how", ["recv", "iteration", "streaming"])
def test_a_task_that_ends_in_receiving_is_freed_without_the_collector(
    kind, how, cancel, monkeypatch
):
    monkeypatch.setattr(aio, "LEAVING", 0.05)

    def script(peer):
        peer.accept()
        peer.send_frame(Opcode.TEXT, b"one")
        peer.recv_frame()  # an answer, or the Close of who was cancelled
        peer.close(1011)

    async def receive(url):
        async with connect(url) as ws:
            ways = {"recv": ws.recv, "iteration": ws.__anext__}
            for _ in range(2):
                await ways.get(how, ws.recv_streaming().__anext__)()
                begun.append(weakref.ref(asyncio.current_task()))
                if not cancel:
                    await ws.send("more")

    async def main(url):
        task = asyncio.ensure_future(receive(url))
        while not begun:
            await asyncio.sleep(0.001)
        if cancel:
            task.cancel()
        await asyncio.wait([task])
        outcome = "cancelled" if task.cancelled() else str(task.exception())
        del task
        assert outcome == "cancelled" if cancel else "1011" in outcome
        while begun[0]() is not None:
            await asyncio.sleep(0.001)

    begun, loop = [], kind()  # the task, as soon as it has one message
    gc.disable()
    try:
        with serving(script) as url:
            loop.run_until_complete(asyncio.wait_for(main(url), PATIENCE))
    finally:
        gc.enable()
        loop.close()


@KINDS
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_connection_goes_with_its_loop(kind):
    left = []

    def script(peer):
        peer.accept()
        with contextlib.suppress(EOFError, OSError):
            peer.recv_frame()
        left.append(1)

    async def main(url):
        return weakref.ref(await connect(url))

    with serving(script) as url:
        loop = kind()
        ws = loop.run_until_complete(main(url))
        loop.close()
        gone = weakref.ref(loop)
        del loop
        eventually(lambda: gc.collect() and False or ws() is None and gone() is None)
        eventually(lambda: left)
        eventually(lambda: "wsmini-select" not in [each.name for each in threading.enumerate()])


@KINDS
def test_what_is_closed_behind_its_loop_is_dropped(kind, url):
    async def work():
        async with connect(url) as ws:
            opened.append(ws)
            await ws.recv()

    async def main():
        asyncio.ensure_future(working)._log_destroy_pending = False
        opened.append(await connect(url))
        while len(opened) < 2:
            await asyncio.sleep(0)

    opened, loop, working = [], kind(), work()
    loop.run_until_complete(asyncio.wait_for(main(), PATIENCE))
    loop.close()
    working.close()  # as when the task is forgotten: its block is left
    for ws in opened:
        asyncio.run(ws.close())
        assert (ws.state, ws.fileno()) == (State.CLOSED, -1)


# -- timeouts, other loops, the end --


@pytest.mark.parametrize("timeout", [0, 0.01])
def test_a_timeout_in_recv_loses_nothing(run, timeout):
    async def main():
        ws, peer = joined()
        async with ws:
            whole = frame(Opcode.TEXT, b"hello")
            peer.send(whole[:3])
            with pytest.raises(TimeoutError):
                await ws.recv(timeout=timeout)
            peer.send(whole[3:] + frame(Opcode.BINARY, b"x"))
            assert await ws.recv(timeout=PATIENCE) == "hello"
            assert await ws.recv(timeout=timeout, decode=True) == "x"
            with pytest.raises(TypeError, match="seconds"):
                await ws.recv(timeout="5")
            ws._transport.abort()
        peer.close()

    run(main())


def test_recv_without_any_time_takes_what_is_there():
    async def main():
        ws, peer = joined()
        async with ws:
            peer.send(frame(Opcode.TEXT, b"here"))
            assert await ws.recv(0) == "here"
            ws._transport.abort()
        peer.close()

    asyncio.run(main())


USES = {
    "send": lambda ws: ws.send("x"),
    "send parts": lambda ws: ws.send(["x"]),
    "recv": lambda ws: ws.recv(),
    "recv with a timeout": lambda ws: ws.recv(timeout=1),
    "iteration": lambda ws: ws.__anext__(),
    "recv_streaming": lambda ws: ws.recv_streaming().__anext__(),
    "recv_into": lambda ws: ws.recv_into(bytearray(5)),
    "ping": lambda ws: ws.ping(),
    "pong": lambda ws: ws.pong(),
    "close": lambda ws: ws.close(),
    "wait_closed": lambda ws: ws.wait_closed(),
}


@each_row("use", USES)
@each_row("thread", [False, True])
def test_a_connection_says_that_it_belongs_to_another_loop(url, use, thread):
    async def misuse():
        with pytest.raises(RuntimeError, match="another event loop|different loop"):
            await USES[use](ws)
        done.append(True)

    async def main():
        with ThreadPoolExecutor(1) as pool:
            await loop.run_in_executor(pool, asyncio.run, misuse())

    done, loop = [], asyncio.new_event_loop()
    try:
        ws = loop.run_until_complete(connect(url).__aenter__())
        if thread:
            loop.run_until_complete(main())
        else:
            asyncio.run(misuse())
        loop.run_until_complete(ws.close())
    finally:
        loop.close()
    assert done


def test_the_end_does_not_wait_for_the_server_s_end_of_tcp(run):
    """The peer holds its end open until it is told."""

    async def main():
        for ours_first in (True, False):
            ws, peer = joined(close_timeout=None)
            if ours_first:
                closing = asyncio.ensure_future(ws.close())
                await asyncio.sleep(0)
            peer.send(frame(Opcode.CLOSE, b"\x03\xe8"))
            if ours_first:
                await closing
            else:
                with pytest.raises(ConnectionClosed):
                    await ws.recv()
            assert (ws.state, ws.fileno(), ws.close_code) == (State.CLOSED, -1, 1000)
            peer.close()

    run(main())


# -- fairness --


def test_others_run_while_one_receives_what_a_read_has_brought(run):
    """Counted in messages: a read may have brought thousands, and each may take its time."""
    count = 100 * BATCH // 50

    async def main():
        ws, peer = joined(max_queue=count)
        ws._protocol.receive_data(frame(Opcode.TEXT, b"x" * 48) * count, 0.0)
        received, turns = 0, []

        async def others():
            while received < count:
                turns.append(received)
                await asyncio.sleep(0)

        running = asyncio.ensure_future(others())
        for _ in range(count):
            assert await ws.recv() == "x" * 48
            received += 1
        await running
        most = (BATCHES + 1) * (BATCH // 50 + 1)
        assert all(later - earlier <= most for earlier, later in zip(turns, turns[1:]))
        assert len(turns) < 3 * count * 50 / BATCH
        peer.close()
        await ws.close()

    run(main())


def test_a_socket_that_is_closed_while_the_thread_begins_to_wait_does_not_end_it(monkeypatch):
    monkeypatch.setattr(selectors, "DefaultSelector", selectors.SelectSelector)  # as on Windows
    ours, theirs = socket.socketpair()
    with ours, theirs:
        with socket.socket() as sock:
            closed = sock.fileno()
        theirs.send(b"x")  # as whoever has closed it did before
        assert _select(ours, [(closed, READ)]) == []
