from __future__ import annotations

import contextlib
import socket
import time
from errno import EAGAIN, ECONNRESET, EPIPE
from types import SimpleNamespace

import fakes
import pytest

from wsmini.callbacks.loop import Loop
from wsmini.events.transport import EventTransport
from wsmini.opening.steps import LoopRun, Wait
from wsmini.opening.streams import CHUNK, READ, SocketStream
from wsmini.options import Options
from wsmini.sansio.frames import Opcode
from wsmini.testing import frame


class Handler:
    def __init__(self):
        self.seen = []

    def _on_message(self, message, now):
        self._on_messages([message])

    def _on_messages(self, messages):
        self.seen += messages
        self.transport.half_done = False

    def on_control(self, opcode, data):
        self.transport.report(self.control, (Opcode(opcode).name.lower(), data))

    def control(self, what):
        self.seen.append(what)

    def _on_drain(self):
        self.seen.append("drain")

    def _on_end(self):
        self.seen.append("end")


class Stream(SocketStream):
    """A stream whose ``send`` a test may replace; *unsent* as TLS has it."""

    __slots__ = ("unsent",)

    def __init__(self, sock):
        super().__init__(sock)
        self.unsent = False

    def flush(self, flags=0):
        return not self.unsent


@contextlib.contextmanager
def join(send=None, gather=False, rest=b"", stream=Stream, **options):
    """A transport over a socket pair, in a loop whose clock moves when there is nothing to do."""
    clock = fakes.Clock()
    ours, theirs = socket.socketpair()
    with theirs, Loop(clock=clock, wall=clock.wall, selector=fakes.Selector(clock)) as loop:
        handler, stream = Handler(), stream(ours)
        if send is not None:
            stream.send = send
        opened = fakes.opened(stream, rest=rest)
        transport = EventTransport(
            loop, opened, Options("ws://localhost", **options), handler, gather=gather
        )
        handler.transport, transport.protocol.listener = transport, handler
        transport.start()
        yield SimpleNamespace(
            loop=loop, clock=clock, transport=transport, peer=theirs, seen=handler.seen,
            handler=handler, stream=stream,
        )  # fmt: skip
        transport.abort()
        while not transport.closed:
            loop.run_once()


@pytest.fixture
def joined():
    with join(gather=True, rest=frame(Opcode.TEXT, b"first")) as joined:
        yield joined


@pytest.fixture
def plain():
    with join() as joined:
        yield joined


def run_until(joined, condition):
    for _ in range(100000):
        if condition():
            return
        joined.loop.run_once()
    raise AssertionError("it doesn't happen")


def received(joined, size):
    """*size* bytes that the peer gets, while the loop runs."""
    joined.peer.setblocking(False)
    data = b""
    while len(data) < size:
        with contextlib.suppress(BlockingIOError):
            data += joined.peer.recv(1 << 20)
        joined.loop.run_once(0)
    return data


def run_until_the_end(joined):
    while not joined.transport.closed:
        joined.loop.run_once()


def test_messages_behind_the_handshake_come_from_the_loop(joined):
    assert joined.seen == []
    joined.loop.run_once()
    assert joined.seen == ["first"]


def test_a_silent_peer_is_pinged_and_then_given_up(joined):
    start = joined.clock.now
    run_until_the_end(joined)
    assert joined.peer.recv(100)[0] == 0x89
    assert joined.seen == ["first", "end"]
    assert 40 <= joined.clock.now - start < 41


def test_a_close_without_an_answer_ends_after_close_timeout(joined):
    start = joined.clock.now
    joined.transport.close(1000, "")
    run_until_the_end(joined)
    assert joined.clock.now - start == pytest.approx(10)
    assert joined.transport.protocol.close_exc().code == 1006


def test_messages_are_gathered_into_one_write(joined):
    for _ in range(10):
        joined.transport.send(Opcode.BINARY, b"x" * 20)
    assert joined.transport.buffered == 260
    joined.loop.run_once()
    assert joined.transport.buffer.written == 260 and len(joined.peer.recv(1000)) == 260


@pytest.mark.parametrize("gather, writes", [(True, [28]), (False, [7, 7, 7, 7])])
@pytest.mark.parametrize("whole", [True, False])
def test_what_is_sent_on_a_message_is_written_together_or_at_once(whole, gather, writes):
    seen = []

    def send(data, flags=0):
        seen.append(len(data))
        return len(data)

    def answer(*_):
        joined.transport.half_done = False
        for _ in range(4):
            joined.transport.send(Opcode.TEXT, b"x")
        seen.append("done")

    with join(send=send, gather=gather) as joined:
        joined.handler._on_message = joined.handler._on_messages = answer
        data = frame(Opcode.TEXT, b"question")
        joined.peer.send(data if whole else data[:3])
        joined.loop.run_once()
        joined.peer.send(b"" if whole else data[3:])
        joined.loop.run_once(0)
        assert seen == (["done", *writes] if gather else [*writes, "done"])


@pytest.mark.parametrize("ping_interval, time", [(20, 1001.0), (None, 0.0)])
def test_a_message_that_comes_alone_is_told_with_its_time_if_there_is_a_keepalive(
    ping_interval, time
):
    with join(ping_interval=ping_interval) as joined:

        def on_message(*told):
            joined.seen.append(told)
            joined.transport.half_done = False

        joined.handler._on_message = on_message
        joined.clock.now += 1
        joined.peer.send(frame(Opcode.TEXT, b"x"))
        joined.loop.run_once()
        assert joined.seen == [("x", time)]
        joined.loop.call_at(1019.5, joined.loop.stop)
        joined.loop.run_forever()
        assert joined.transport.protocol.doubtful is False
        joined.loop.call_at(1021.5, joined.loop.stop)
        joined.loop.run_forever()
        assert joined.transport.protocol.doubtful is (ping_interval is not None)


def test_a_close_with_its_reason_is_read_though_writing_fails(joined):
    joined.peer.send(frame(Opcode.CLOSE, b"\x03\xf0why"))
    joined.peer.close()
    joined.transport.send(Opcode.TEXT, b"too late")
    run_until_the_end(joined)
    exc = joined.transport.protocol.close_exc()
    assert (exc.code, exc.reason) == (1008, "why")


@pytest.mark.parametrize("outcome", ["value", "error", "cancel"])
def test_an_opening_is_driven_to_its_end(outcome):
    ours, theirs = socket.socketpair()
    results = []

    def steps():
        try:
            ready = yield Wait({ours: READ}, None)
            if outcome == "error":
                raise OSError("no")
            return list(ready)
        finally:
            ours.close()

    with theirs, Loop() as loop:
        drive_ = LoopRun(loop, steps(), lambda *result: results.append(result))
        assert results == []
        loop.run_once()
        if outcome == "cancel":
            drive_.cancel()
            loop.run_once(0)
            assert results == []
        else:
            theirs.send(b"x")
            loop.run_once()
            ((value, exc),) = results
            assert (value == [ours]) if outcome == "value" else (str(exc) == "no")
    assert ours.fileno() == -1


def test_an_opening_is_driven_at_once_with_one_timer_for_one_deadline():
    ours, theirs = socket.socketpair()
    results, timers = [], []
    later = time.monotonic() + 50

    def steps():
        for deadline in (later, later, None, later):
            assert (yield Wait({ours: READ}, deadline)) == [ours]
        assert (yield Wait({}, time.monotonic())) == []
        return "done"

    def call_later(*args):
        timers.append(real(*args))
        return timers[-1]

    theirs.send(b"x")
    with ours, theirs, Loop() as loop:
        real, loop.call_later = loop.call_later, call_later
        LoopRun(loop, steps(), lambda *result: results.append(result), at_once=True)
        assert len(timers) == 1
        while not results:
            loop.run_once()
        LoopRun(loop, iter_of_nothing(), lambda *result: results.append(result), at_once=True)
    assert results == [("done", None), (None, None)]
    assert len(timers) == 3


def iter_of_nothing():
    return
    yield


@pytest.mark.parametrize("size, count", [(1000, 2000), (100000, 20), (1 << 20, 3)])
def test_what_the_peer_does_not_take_waits_and_its_drain_is_told(plain, size, count):
    transport = plain.transport
    for _ in range(count):
        transport.send(Opcode.BINARY, bytes(size))
    assert transport.buffered > 0 and "drain" not in plain.seen
    header = 8 if size < 65536 else 14
    wire = received(plain, count * (size + header))
    assert len(wire) == count * (size + header) and wire[:1] == b"\x82"
    run_until(plain, lambda: "drain" in plain.seen)
    assert transport.buffered == 0 and plain.seen == ["drain"]


def test_a_pong_goes_between_two_frames_and_a_close_behind_them(plain):
    transport = plain.transport
    for _ in range(4):
        transport.send(Opcode.BINARY, bytes(200000))
    plain.peer.send(frame(Opcode.PING, b"p"))
    wire = received(plain, 2 * 200014)
    transport.close(1000, "")
    wire += received(plain, 4 * 200014 + 7 + 8 - len(wire))
    opcodes, at = [], 0
    while at < len(wire):
        opcodes.append(wire[at] & 15)
        at += 200014 if opcodes[-1] == 2 else 6 + (wire[at + 1] & 127)
    assert sorted(opcodes) == [2, 2, 2, 2, 8, 10]
    assert opcodes.index(10) < 4 and opcodes[-1] == 8


def test_a_paused_link_delivers_nothing_and_stops_reading(plain):
    transport = plain.transport
    transport.pause()
    plain.peer.setblocking(False)
    taken = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            taken += plain.peer.send(frame(Opcode.BINARY, bytes(1000)))
            plain.loop.run_once(0)
    assert plain.seen == [] and taken < 1 << 22
    transport.resume()
    run_until(plain, lambda: len(plain.seen) >= taken // 1004)
    assert set(plain.seen) == {bytes(1000)}


def test_pings_are_told_before_the_messages_behind_them(plain):
    round_trips = []
    plain.transport.ping(b"a", round_trips.append)
    plain.transport.pong(b"b")
    assert len(received(plain, 14)) == 14
    plain.clock.now += 0.5
    plain.peer.send(frame(Opcode.PING, b"c") + frame(Opcode.PONG, b"a") + frame(Opcode.TEXT, b"d"))
    run_until(plain, lambda: "d" in plain.seen)
    assert plain.seen == [("ping", b"c"), ("pong", b"a"), "d"]
    assert round_trips == [pytest.approx(0.5)]


def test_a_probe_gives_up_sooner_than_the_keepalive(plain):
    start = plain.clock.now
    plain.transport.probe()
    run_until_the_end(plain)
    assert 20 <= plain.clock.now - start < 21


def test_what_a_handler_s_exception_leaves_comes_later():
    with join() as joined:
        deliver = joined.handler.control

        def fail(what):
            joined.handler.control = deliver
            joined.transport.half_done = False
            raise ZeroDivisionError

        joined.handler.control = fail
        joined.peer.send(frame(Opcode.PING) + frame(Opcode.TEXT, b"behind"))
        with pytest.raises(ZeroDivisionError):
            joined.loop.run_once()
        joined.loop.run_once()
        assert joined.seen == ["behind"]


def test_a_message_in_chunks_and_the_rest_skipped(plain):
    chunks = []
    plain.handler._on_chunk = chunks.append
    plain.transport.streaming = True
    whole = frame(Opcode.TEXT, b"x" * 1000)
    plain.peer.send(whole[:500])
    plain.loop.run_once()
    assert chunks == [("x" * 496, False)]
    plain.transport.skip()
    plain.peer.send(whole[500:] + frame(Opcode.TEXT, b"next"))
    plain.loop.run_once()
    assert (len(chunks), plain.seen) == (1, ["next"])


def test_chunks_have_a_limit(plain):
    chunks = []
    plain.handler._on_chunk = lambda chunk: chunks.append(len(chunk[0]))
    plain.transport.streaming = True
    plain.peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    whole = frame(Opcode.BINARY, bytes(1 << 20))
    plain.peer.send(whole[:1010])
    plain.loop.run_once()
    plain.peer.send(whole[1010 : 1010 + CHUNK + 1000])
    plain.loop.run_once()
    assert chunks == [1000, CHUNK]
    plain.loop.run_once()
    assert chunks == [1000, CHUNK, 1000]


def test_a_handler_that_wants_its_turn_gets_one_batch_at_a_time(plain):
    def on_messages(messages):
        batches.append(messages)
        return True

    batches, transport = [], plain.transport
    plain.handler._on_messages = on_messages
    ping = frame(Opcode.PING)
    plain.peer.send(ping.join(frame(Opcode.TEXT, text) for text in (b"a", b"b", b"c")))
    plain.loop.run_once()
    assert batches == [["a"]]
    transport.pump()
    assert batches == [["a"], ["b"]]
    plain.peer.send(frame(Opcode.TEXT, b"d"))
    run_until(plain, lambda: len(batches) == 4)
    assert batches[2:] == [["c"], ["d"]]
    assert plain.seen == [("ping", b""), ("ping", b"")]


def failing(exc):
    def send(data, flags=0):
        raise exc

    return send


def test_a_write_that_fails_ends_the_connection_if_reading_does_not_tell_why():
    with join(send=failing(BrokenPipeError(EPIPE, "no"))) as joined:
        start = joined.clock.now
        joined.transport.send(Opcode.TEXT, b"lost")
        assert joined.transport.gone and not joined.transport.closed
        joined.transport.send(Opcode.TEXT, b"lost too")
        run_until_the_end(joined)
        assert joined.clock.now - start == pytest.approx(1)
        assert isinstance(joined.transport.protocol.close_exc().__cause__, BrokenPipeError)


def test_a_queued_write_that_fails_does_too():
    with join(send=failing(BrokenPipeError(EPIPE, "no")), gather=True) as joined:
        joined.transport.send(Opcode.TEXT, b"lost")
        run_until_the_end(joined)
        assert isinstance(joined.transport.protocol.close_exc().__cause__, BrokenPipeError)


@pytest.mark.parametrize("gather", [False, True])
def test_tls_that_has_to_read_before_it_writes(gather):
    with join(gather=gather) as joined:
        send, stream = joined.stream.send, joined.stream

        def want_read(data, flags=0):
            raise BlockingIOError(EAGAIN, "no")

        joined.transport.buffer._send = want_read
        joined.transport.send(Opcode.TEXT, b"later")
        joined.loop.run_once(0)
        assert joined.transport.buffered == 11
        joined.transport.buffer._send = send
        joined.peer.send(frame(Opcode.TEXT, b"what TLS wanted"))
        assert len(received(joined, 11)) == 11
        run_until(joined, lambda: joined.seen[-1:] == ["what TLS wanted"] or "drain" in joined.seen)
        assert joined.transport.buffered == 0 and not stream.unsent


def test_who_sends_is_told_when_tls_has_read_what_it_wanted(joined, monkeypatch):
    transport, send, stream, size = joined.transport, joined.stream.send, joined.stream, 100000

    def want_read(data, flags=0):
        stream.unsent = True
        raise BlockingIOError(EAGAIN, "no")

    def flush(self, flags=0):
        self.unsent = False  # nothing was taken
        return True

    monkeypatch.setattr(Stream, "flush", flush)
    transport.buffer._send = want_read
    transport.send(Opcode.BINARY, bytes(size))
    joined.loop.run_once(0)
    assert transport.buffered == size + 14 and not transport._writing
    transport.buffer._send = send
    joined.peer.send(frame(Opcode.TEXT, b"what TLS wanted"))
    run_until(joined, lambda: "drain" in joined.seen)
    assert transport.buffered == 0


def test_the_end_of_the_stream_and_an_error_of_it(plain):
    plain.peer.send(frame(Opcode.TEXT, b"last"))
    plain.peer.close()
    run_until_the_end(plain)
    assert plain.seen == ["last", "end"]
    assert isinstance(plain.transport.protocol.close_exc().__cause__, EOFError)
    with join() as joined:
        joined.transport._recv = failing(ConnectionResetError(ECONNRESET, "reset"))
        joined.peer.send(b"x")
        run_until_the_end(joined)
        assert isinstance(joined.transport.protocol.close_exc().__cause__, ConnectionResetError)


def test_a_connection_that_was_left_paused_ends_after_close_timeout():
    with join(close_timeout=3) as joined:
        joined.transport.pause()
        joined.peer.send(frame(Opcode.TEXT, b"unread") + frame(Opcode.CLOSE, b"\x03\xe8"))
        start = joined.clock.now
        joined.transport.close(1000, "")
        run_until_the_end(joined)
        assert joined.clock.now - start == pytest.approx(3)


def test_who_is_in_a_hurry_waits_no_longer_than_was_said_first(plain):
    start = plain.clock.now
    for seconds in (2, 1, 5):
        plain.transport.end_within(seconds)
    plain.transport.close(1000, "")
    run_until_the_end(plain)
    assert plain.clock.now - start == pytest.approx(1)
    cause = plain.transport.protocol.close_exc().__cause__
    assert isinstance(cause, TimeoutError)
    assert str(cause) == "the closing handshake took longer than 1 s"


def test_whose_time_has_passed_is_told():
    with join(close_timeout=3) as joined:
        joined.transport.close()
        joined.transport.end_within(5)
        run_until_the_end(joined)
        cause = joined.transport.protocol.close_exc().__cause__
        assert str(cause) == "the closing handshake took longer than close_timeout"


def test_what_tls_has_read_and_not_looked_at_comes_without_the_socket():
    with join(stream=lambda sock: fakes.Fruitless(sock, 3)) as joined:
        joined.peer.sendall(frame(Opcode.TEXT, b"x"))
        for left in (2, 1, 0):
            joined.loop.run_once(0)  # others have a turn in between
            assert joined.stream.count == left
            assert joined.seen == []
        joined.loop.run_once(0)
        assert joined.seen == ["x"]
