"""What threads of one connection do to each other, and how connections end."""

from __future__ import annotations

import contextlib
import errno
import itertools
import select
import signal
import socket
import sys
import threading
import time
import zlib

import fakes
import pytest
from helpers import PROMPT
from pairs import (
    PATIENCE,
    Task,
    closing,
    connection,
    eventually,
    feeding,
    fill,
    is_blocked,
    is_receiving,
    pair,
    peer_of,
    receiving,
    reset,
    stuff,
    tcp_pair,
)

from wsmini.blocking import (
    background,
    consumer,
    reader,
    receiver,
    sender,
    transport,
)
from wsmini.blocking import connection as connection_module
from wsmini.blocking.reader import Reader
from wsmini.blocking.receiver import LockedIterator, LockedQueue, MessageQueue, Receiver
from wsmini.blocking.sender import Sender
from wsmini.blocking.transport import BlockingTransport
from wsmini.exceptions import (
    Close,
    ConcurrencyError,
    ConnectionClosed,
    ConnectionClosedError,
    ConnectionClosedOK,
)
from wsmini.opening import writebuffer
from wsmini.opening.streams import CHUNK, READ, WRITE, SocketStream
from wsmini.opening.writebuffer import WriteBuffer
from wsmini.sansio.deflate import PerMessageDeflate
from wsmini.sansio.frames import PIECE, Opcode
from wsmini.sansio.protocol import ClientProtocol, State
from wsmini.testing import frame

TEXT, BINARY, CONT = Opcode.TEXT, Opcode.BINARY, Opcode.CONT
CLOSE, PING, PONG = Opcode.CLOSE, Opcode.PING, Opcode.PONG

LARGE = 6 << 20  # bytes, more than the buffers of the sockets hold


def answer_close(peer, code=1000):
    """Read up to the client's Close, answer it, close; the frames before it."""
    frames = []
    while not frames or frames[-1].opcode != CLOSE:
        frames.append(peer.recv_frame())
    peer.send_raw(closing(code))
    peer.sock.close()
    return frames


def until_close(peer):
    """All frames until the client ends the connection."""
    frames = []
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            frames.append(peer.recv_frame())
    return frames


# How sockets are waited for: each main test runs in every way.
WAYS = {
    "blocking": {},
    "no keepalive": {"ping_interval": None},
    "short keepalive": {"ping_interval": 0.02, "ping_timeout": 3 * PATIENCE},
    "busy poll": {"busy_poll": 0.001},
    "no flags": {"ping_interval": 20},
    "select": {"ping_interval": None},
}


@pytest.fixture(params=WAYS)
def way(request, monkeypatch):
    """Options for a connection, on a system that waits in one way or another."""
    if request.param in ("no flags", "select"):
        for module in (reader, transport, writebuffer):
            monkeypatch.setattr(module, "DONTWAIT", 0)
        monkeypatch.setattr(reader, "WAITALL", 0)
    if request.param == "select" and hasattr(select, "poll"):
        monkeypatch.delattr(select, "poll")
    return WAYS[request.param]


# -- every way of waiting --


def test_messages_of_all_sizes_come_and_go(way):
    sizes = [0, 1, 125, 126, 65535, 65536, 70000, PIECE, PIECE + 1, LARGE]
    with pair(max_size=None, **way) as (ws, peer):

        def echo():
            for _ in sizes:
                received = peer.recv_message()
                peer.send_message(received)

        echoing = Task(echo)
        for size, timeout in zip(sizes, itertools.cycle([None, PATIENCE])):
            message = bytes([size % 251]) * size
            ws.send(message, timeout=timeout)
            assert ws.recv(timeout) == message
        echoing.result()


def test_large_messages_one_after_the_other(way):
    messages = [bytes([i]) * n for i, n in enumerate([LARGE, 65536, 10, LARGE, LARGE, 0, 100000])]
    with pair(max_size=None, **way) as (ws, peer):
        sending = Task(lambda: [peer.send_message(message) for message in messages])
        for message, timeout in zip(messages, itertools.cycle([None, PATIENCE])):
            assert ws.recv(timeout) == message
        sending.result()


def test_a_frame_that_dribbles_in_arrives(way):
    data = frame(TEXT, "x" * 130)
    with pair(**way) as (ws, peer):
        for i in range(len(data) - 3):
            peer.send_raw(data[i : i + 1])
            with pytest.raises(TimeoutError):
                ws.recv(timeout=0.0001)
        task = Task(ws.recv)
        for i in range(len(data) - 3, len(data)):
            receiving(ws)
            peer.send_raw(data[i : i + 1])
        assert task.result() == "x" * 130


def test_two_ends_that_both_send_do_not_wait_for_each_other(way):
    with pair(max_size=None, max_queue=64, **way) as (ws, peer):

        def talk():
            for _ in range(2):
                peer.send_message(bytes(LARGE))
            return [len(peer.recv_message()) for _ in range(2)]

        task = Task(talk)
        for _ in range(2):
            ws.send(bytes(LARGE))
        assert [len(ws.recv()) for _ in range(2)] == [LARGE] * 2
        assert task.result() == [LARGE] * 2


def test_both_ends_close_in_order(way):
    with pair(**way) as (ws, peer):
        answer = Task(answer_close, peer)
        ws.close(1000, "bye")
        assert [f.data for f in answer.result() if f.opcode == CLOSE] == [b"\x03\xe8bye"]
        assert (ws.state, ws.close_code, ws.fileno()) == (State.CLOSED, 1000, -1)
        with pytest.raises(ConnectionClosedOK) as caught:
            ws.recv()
        assert caught.value.sent == Close(1000, "bye")
        assert caught.value.rcvd_then_sent is False


def test_closing_wakes_who_receives(way):
    with pair(**way) as (ws, peer):
        task = Task(ws.recv)
        receiving(ws)
        answer = Task(answer_close, peer)
        ws.close()
        answer.result()
        with pytest.raises(ConnectionClosedOK):
            task.result()


def test_closing_ends_a_receive_though_the_server_is_silent(way):
    with pair(close_timeout=0.05, **way) as (ws, peer):
        task = Task(ws.recv)
        receiving(ws)
        ws.close()
        assert ws.fileno() == -1 or ws.state is State.CLOSED
        with pytest.raises(ConnectionClosedError) as caught:
            task.result()
        assert caught.value.sent == Close(1000, "")
        eventually(lambda: ws.fileno() == -1)


def test_a_dead_peer_is_found_while_receiving(way):
    options = {**way, "ping_interval": 0.02, "ping_timeout": 0.02}
    for receive in (lambda ws: ws.recv(), lambda ws: ws.recv(timeout=PATIENCE), list):
        started = time.monotonic()
        with pair(**options) as (ws, peer):
            with pytest.raises(ConnectionClosedError) as caught:
                receive(ws)
            assert 0.035 < time.monotonic() - started < PROMPT
            assert isinstance(caught.value.__cause__, TimeoutError)
            frames = until_close(peer)
            assert [f.opcode for f in frames] == [PING, CLOSE]
            assert frames[1].data[:2] == b"\x03\xf3"
            assert ws.state is State.CLOSED
            eventually(lambda: ws.fileno() == -1)


# -- one receiver --


def test_a_second_receiver_is_refused_and_the_first_goes_on():
    with pair() as (ws, peer):
        first = Task(ws.recv)
        receiving(ws)
        for receive in (ws.recv, lambda: ws.recv(0), lambda: next(ws.recv_streaming())):
            with pytest.raises(ConcurrencyError):
                receive()
        peer.send_raw(frame(TEXT, "a"))
        assert first.result() == "a"
        peer.send_raw(frame(TEXT, "b"))
        assert ws.recv() == "b"


RECEIVING = {
    "recv": lambda ws: ws.recv(),
    "recv(timeout)": lambda ws: ws.recv(0),
    "iteration": lambda ws: next(iter(ws)),
    "recv_streaming": lambda ws: next(ws.recv_streaming()),
    "recv_into": lambda ws: ws.recv_into(bytearray(9)),
}


@pytest.mark.parametrize("receive", RECEIVING.values(), ids=RECEIVING)
def test_a_second_receiver_is_refused_while_the_first_has_a_message_in_its_hands(receive):
    with pair() as (ws, peer):
        ws._consumer._token[0] = first = object()
        ws._consumer.handing = True
        with pytest.raises(ConcurrencyError):
            receive(ws)
        assert ws._consumer.handing and ws.state is State.OPEN
        ws._consumer.handing = False
        ws._consumer.stop(first)
        peer.send_raw(frame(TEXT, "a"))
        assert ws.recv() == "a"


def by_recv(ws, mine):
    try:
        mine.append(ws.recv(PATIENCE))
    except ConnectionClosed:
        return True
    return False


def by_iteration(ws, mine):
    for message in ws:
        mine.append(message)
    return True


@pytest.mark.parametrize("has_gil", [True, False])
@pytest.mark.parametrize("how", [by_recv, by_iteration])
def test_each_message_goes_to_one_of_two_threads_that_receive(how, has_gil, monkeypatch):
    if not has_gil or receiver._has_gil():  # what can't be shown without it isn't promised there
        monkeypatch.setattr(receiver, "_has_gil", lambda: has_gil)
    got = [], []

    def receive(mine):
        over = False
        while not over:
            with contextlib.suppress(ConcurrencyError):
                over = how(ws, mine)

    with pair() as (ws, peer):
        tasks = [Task(receive, mine) for mine in got]
        for i in range(0, 20000, 100):
            peer.send_raw(b"".join(frame(TEXT, str(i + n)) for n in range(100)))
        peer.send_raw(closing(1000))
        for task in tasks:
            task.result()
    assert sorted(got[0] + got[1], key=int) == [str(i) for i in range(20000)]
    for mine in got:
        assert mine == sorted(mine, key=int)


def test_threads_take_messages_one_by_one_where_they_run_at_the_same_time():
    has_gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    with pair() as (ws, _):
        assert type(ws._receiver.queue) is (MessageQueue if has_gil else LockedQueue)


def test_no_two_threads_are_in_the_iterator_of_what_is_ready():
    inside = []

    def messages():  # a generator says so itself, if two threads are in it
        for i in range(1000):
            inside.append(i)
            time.sleep(0)  # lets the other thread run
            yield inside.pop()

    locked = LockedIterator(messages(), lambda: None)
    tasks = [Task(list, locked) for _ in range(2)]
    assert sorted(tasks[0].result() + tasks[1].result()) == list(range(1000))


def test_an_exception_on_the_way_of_a_message_fails_the_connection():
    def messages():
        yield "a"
        raise LookupError

    with pair() as (ws, _):
        ws._receiver.queue = queue = LockedQueue(16, ws._receiver)
        queue.ready = messages()
        assert next(queue.ready) == "a"
        with pytest.raises(LookupError):
            next(queue.ready)
        with pytest.raises(ConnectionClosedError, match="interrupted in the middle.*LookupError"):
            ws.recv()


def test_who_waits_for_a_pong_leaves_messages_to_who_receives():
    with pair() as (ws, peer):
        waiting = Task(ws.ping(b"!").wait)
        receiving(ws)
        for i in range(50):
            task = Task(ws.recv)
            eventually(lambda: ws._consumer._token)
            peer.send_message(str(i))
            assert task.result() == str(i)
        peer.send_raw(frame(PONG, b"!"))
        # Whoever reads it: the thread that waits, or the next to receive.
        assert waiting.result() >= 0


@pytest.mark.parametrize("streaming", [False, True], ids=["recv", "recv_streaming"])
def test_what_is_kept_just_before_the_receiver_is_asked_to_leave(streaming):
    """It may be reading on then, and nothing else need ever come."""

    class Held:
        """The receiver's lock, at the moment when that has kept something and reads on."""

        def acquire(self, blocking=True, timeout=-1):
            if not blocking and not len(ws._receiver.queue):
                ws._receiver.reader.read_until(None)
                ws._receiver.keep()
            return False

        def _is_owned(self):
            return False

    with pair() as (ws, peer):
        peer.send_message("a")
        lock = ws._transport.receiving
        ws._transport.receiving = held = Held()
        ws._consumer._acquire = held.acquire
        chunks = ws.recv_streaming()
        assert (next(chunks) if streaming else ws.recv(timeout=PATIENCE)) == "a"
        chunks.close()
        ws._transport.receiving, ws._consumer._acquire = lock, lock.acquire


def test_a_poll_takes_what_who_waits_for_a_pong_has_kept():
    with pair() as (ws, peer):
        waiting = Task(ws.ping(b"!").wait)
        receiving(ws)
        peer.send_raw(frame(TEXT, "a") + frame(TEXT, "b", fin=False))
        eventually(lambda: len(ws._receiver.queue))
        receiving(ws)
        assert ws.recv(timeout=0) == "a"
        with pytest.raises(TimeoutError):
            ws.recv(timeout=0)
        peer.send_raw(frame(PONG, b"!") + frame(CONT, "c"))
        waiting.result()
        assert ws.recv() == "bc"


def test_a_pong_wakes_who_waits_while_another_thread_receives():
    with pair() as (ws, peer):
        receiver = Task(ws.recv)
        receiving(ws)
        pings = [Task(ws.ping(data).wait, PATIENCE) for data in (b"1", b"2", b"3")]
        with pytest.raises(TimeoutError):
            ws.ping(b"4").wait(timeout=0.001)
        peer.send_raw(frame(PONG, b"2"))  # answers the first, too
        assert pings[0].result() >= pings[1].result() >= 0
        assert pings[2].is_alive()
        peer.send_raw(frame(PONG, b"3") + frame(TEXT, "x"))
        assert pings[2].result() >= 0
        assert receiver.result() == "x"


def test_who_waits_for_a_pong_goes_on_reading_when_the_receiver_leaves():
    with pair() as (ws, peer):
        receiver = Task(ws.recv)
        receiving(ws)
        ping = Task(ws.ping(b"!").wait)
        eventually(lambda: ws._transport.waiters.locks)
        peer.send_message("a")
        assert receiver.result() == "a"
        peer.send_raw(frame(TEXT, "b") + frame(PONG, b"!"))
        assert ping.result() >= 0
        assert ws.recv() == "b"


# -- backpressure --


def test_beyond_max_queue_unread_messages_reading_stops():
    with pair(max_queue=3) as (ws, peer):
        sent = []

        def send():
            for i in itertools.count():
                peer.send_message(bytes([i % 256]) * 20000)
                sent.append(i)

        waiting = Task(ws.ping().wait)
        sending = Task(send)

        def stuck():
            """Nobody reads, who would wants no more, and there is no room to send."""
            reading = is_receiving(ws)() or not ws._transport.waiters.locks
            return not reading and not select.select([], [peer.sock], [], 0)[1]

        eventually(lambda: len(ws._receiver.queue) >= 3 and stuck())
        kept = len(ws._receiver.queue)
        assert 3 <= kept < 10 and kept < len(sent)
        assert [ws.recv()[0] for _ in range(100)] == [i % 256 for i in range(100)]
        peer.sock.shutdown(socket.SHUT_RDWR)
        with pytest.raises(OSError):
            sending.result()
    with pytest.raises(ConnectionClosed):
        waiting.result()


def test_taking_messages_lets_who_waits_for_a_pong_go_on():
    with pair(max_queue=1) as (ws, peer):
        waiting = Task(ws.ping(b"!").wait)
        peer.send_raw(frame(TEXT, "a"))
        eventually(lambda: ws._transport.waiters.locks)
        peer.send_raw(frame(TEXT, "b"))
        eventually(lambda: ws._transport.waiters.locks)
        peer.send_raw(frame(PONG, b"!"))
        assert ws.recv() == "a"
        assert ws.recv() == "b"
        assert waiting.result() >= 0


def test_a_writer_takes_over_reading_when_the_receiver_stops():
    with pair(max_size=None, tcp=True) as (ws, peer):
        received = []

        def receive_and_join():
            received.append(ws.recv())
            writer.join(PATIENCE)

        receiver = Task(receive_and_join)
        receiving(ws)
        writer = Task(ws.send, bytes(2 * LARGE))
        eventually(is_blocked(ws))
        peer.send_message("go")
        peer.send_message(bytes(2 * LARGE))  # which waits until somebody reads it
        assert len(peer.recv_message()) == 2 * LARGE
        writer.result()
        receiver.result()
        assert received == ["go"]
        assert len(ws.recv()) == 2 * LARGE


# -- sending --


@pytest.mark.parametrize("extensions", [[], [PerMessageDeflate]], ids=["plain", "deflate"])
def test_messages_of_many_threads_are_whole_and_in_order(extensions):
    threads, count = 6, 60
    with pair([extension() for extension in extensions], tcp=True) as (ws, peer):

        def send(me):
            for i in range(count):
                text = f"{me} {i} " + "é" * (i * i)
                if i % 3 == 0:
                    ws.send(text[j : j + 500] for j in range(0, len(text), 500))
                elif i % 3 == 1:
                    ws.send(text)
                else:
                    ws.send(text, timeout=PATIENCE, compress=False)
                if i % 10 == 0:
                    ws.ping()

        inflater = zlib.decompressobj(-15)
        tasks = [Task(send, me) for me in range(threads)]
        seen, message, compressed = dict.fromkeys(range(threads), 0), None, False
        while sum(seen.values()) < threads * count:
            received = peer.recv_frame()
            if received.opcode == PING:
                peer.send_frame(PONG, received.data)
                continue
            assert (received.opcode == TEXT) == (message is None)
            if message is None:
                message, compressed = b"", received.rsv1
            message += received.data
            if received.fin:
                if compressed:
                    message = inflater.decompress(message + b"\0\0\xff\xff")
                me, i, rest = message.decode().split(" ")
                assert seen[int(me)] == int(i)
                assert rest == "é" * (int(i) ** 2)
                seen[int(me)] += 1
                message = None
        for task in tasks:
            task.result()


def test_messages_of_others_wait_for_a_fragmented_one_and_control_frames_do_not():
    with pair() as (ws, peer):
        go_on = threading.Event()

        def parts():
            yield "a"
            go_on.wait(PATIENCE)
            yield "b"

        fragmented = Task(ws.send, parts())
        assert peer.recv_frame().data == b"a"
        others = [Task(ws.send, "c"), Task(ws.send, ["d"])]
        eventually(lambda: ws._transport.waiters.locks)
        with pytest.raises(TimeoutError):
            ws.send("e", timeout=0.001)
        ws.ping(b"1")
        ws.pong(b"2")
        assert [peer.recv_frame().data for _ in range(2)] == [b"1", b"2"]
        go_on.set()
        assert [peer.recv_frame().data for _ in range(2)] == [b"b", b""]
        assert {peer.recv_message() for _ in range(2)} == {"c", "d"}
        for task in (fragmented, *others):
            task.result()


def test_closing_ends_a_wait_for_a_fragmented_message():
    with pair() as (ws, peer):
        go_on = threading.Event()

        def parts():
            yield "a"
            go_on.wait(PATIENCE)
            yield "b"

        fragmented = Task(ws.send, parts())
        assert peer.recv_frame().data == b"a"
        other = Task(ws.send, "c")
        eventually(lambda: ws._transport.waiters.locks)
        answer = Task(answer_close, peer)
        ws.close()
        assert [f.opcode for f in answer.result()] == [CLOSE]
        with pytest.raises(ConnectionClosedOK):
            other.result()
        go_on.set()
        with pytest.raises(ConnectionClosedOK):
            fragmented.result()


def test_an_abandoned_message_is_not_followed_by_others():
    with pair() as (ws, peer):
        go_on = threading.Event()

        def parts():
            yield "a"
            go_on.wait(PATIENCE)
            raise LookupError

        fragmented = Task(ws.send, parts())
        assert peer.recv_frame().data == b"a"
        others = [Task(ws.send, "c") for _ in range(3)]
        eventually(lambda: ws._transport.waiters.locks)
        go_on.set()
        assert [f.opcode for f in answer_close(peer, 1011)] == [CLOSE]
        with pytest.raises(LookupError):
            fragmented.result()
        for other in others:
            with pytest.raises(ConnectionClosedError):
                other.result()


def test_a_send_that_can_not_begin_in_time_changes_nothing():
    with pair([PerMessageDeflate(client_max_window_bits=15)]) as (ws, peer):
        count = fill(ws)
        message = b"".join(i.to_bytes(2, "big") for i in range(5000))
        for _ in range(2):  # and the compressor forgets what wasn't sent
            with pytest.raises(TimeoutError):
                ws.send(message, timeout=0.01)
            with pytest.raises(TimeoutError):
                ws.send([message], timeout=0.01)
        inflater, sizes = zlib.decompressobj(-15), []

        def receive():
            received = peer.recv_frame()
            assert received.rsv1
            return inflater.decompress(received.data + b"\0\0\xff\xff")

        sizes = [len(receive()) for _ in range(count)]
        assert sizes == [1000] * count
        ws.send(message, timeout=PATIENCE)
        assert receive() == message
        ws.send("still open")
        assert receive() == b"still open"


def test_a_message_that_could_not_begin_leaves_the_next_one_alone(monkeypatch):
    with pair() as (ws, peer):
        count, go_on, tasks = fill(ws), threading.Event(), []
        stop_writing = BlockingTransport.stop_writing

        def parts():
            yield "a"
            go_on.wait(PATIENCE)
            yield "b"

        def stop_and_be_overtaken(transport, exc, busy):
            monkeypatch.undo()
            stop_writing(transport, exc, busy)
            for _ in range(count):
                peer.recv_frame()
            tasks.append(Task(ws.send, parts()))
            assert peer.recv_frame().data == b"a"

        monkeypatch.setattr(BlockingTransport, "stop_writing", stop_and_be_overtaken)
        with pytest.raises(TimeoutError):
            ws.send(["x"], timeout=0)
        go_on.set()
        assert [peer.recv_frame().data for _ in range(2)] == [b"b", b""]
        tasks[0].result()


def test_a_send_that_waits_for_another_one_can_time_out():
    with pair() as (ws, peer):
        first = Task(ws.send, bytes(LARGE))
        eventually(is_blocked(ws))
        with pytest.raises(TimeoutError):
            ws.send("a", timeout=0.01)
        assert len(peer.recv_message()) == LARGE
        first.result()


@pytest.mark.parametrize("message", [bytes(LARGE), [b"a", bytes(LARGE)]], ids=["one", "fragments"])
def test_a_send_that_times_out_in_the_middle_ends_the_connection(message):
    with pair() as (ws, peer):
        receiver = Task(ws.recv)
        receiving(ws)
        with pytest.raises(ConnectionClosedError) as caught:
            ws.send(message, timeout=0.05)
        assert isinstance(caught.value.__cause__, TimeoutError)
        with pytest.raises(ConnectionClosedError):
            receiver.result()
        assert ws.state is State.CLOSED
        with pytest.raises(ConnectionClosedError):
            ws.send("a")
        frames = until_close(peer)  # a frame that is cut, and nothing behind it
        assert len(frames) == len(message) - 1 if isinstance(message, list) else not frames


def test_a_frame_queued_while_a_send_times_out_is_written_later():
    with pair() as (ws, peer):
        count = fill(ws)
        peer.send_raw(frame(PING, b"?"))
        with pytest.raises(TimeoutError):
            ws.send("a", timeout=0.01)
        for _ in range(count):
            peer.recv_frame()
        with pytest.raises(TimeoutError):
            ws.recv(timeout=0)
        assert peer.recv_frame()[:2] == (PONG, b"?")


def test_a_ping_reaches_a_peer_that_did_not_read_though_the_receiver_sleeps():
    with pair(ping_interval=None) as (ws, peer):
        count = stuff(ws)
        receiver = Task(ws.recv)
        receiving(ws)
        time.sleep(0.01)  # until it is really asleep
        pinging = Task(ws.ping, b"!")
        eventually(is_blocked(ws))
        for _ in range(count):
            assert peer.recv_frame().data == b""
        assert peer.recv_frame().data == b"!"
        pinging.result()
        peer.send_message("x")
        assert receiver.result() == "x"


# -- closing --


def test_a_server_that_closes_but_does_not_end_the_connection():
    with pair(close_timeout=PATIENCE * 2) as (ws, peer):
        peer.send_raw(frame(TEXT, "last") + closing(1001))
        assert ws.recv(timeout=0) == "last"
        with pytest.raises(ConnectionClosedOK):
            ws.recv(timeout=0)
        assert (ws.state, ws.fileno()) == (State.CLOSED, -1)
        assert [f.opcode for f in until_close(peer)] == [CLOSE]


def test_a_server_that_answers_but_does_not_end_the_connection():
    with pair(close_timeout=PATIENCE * 2) as (ws, peer):
        answering = Task(lambda: (peer.recv_frame(), peer.send_raw(closing(1000))))
        ws.close(1000)
        answering.result()
        assert (ws.state, ws.close_code, ws.fileno()) == (State.CLOSED, 1000, -1)


def test_our_answer_arrives_though_the_server_has_said_more_than_it_should():
    """Unread bytes would make the kernel reset the connection, and the answer be lost."""
    with pair(tcp=True) as (ws, peer):
        peer.send_raw(closing(1000) + frame(TEXT, "x" * 100000))
        with pytest.raises(ConnectionClosedOK):
            ws.recv()
        assert [f.opcode for f in until_close(peer)] == [CLOSE]


def test_a_server_that_never_answers():
    with pair(close_timeout=0.05) as (ws, peer):
        started = time.monotonic()
        ws.close()
        assert 0.04 < time.monotonic() - started < PROMPT
        assert (ws.state, ws.close_code, ws.fileno()) == (State.CLOSED, 1006, -1)
        with pytest.raises(ConnectionClosedError) as caught:
            ws.recv()
        assert isinstance(caught.value.__cause__, TimeoutError)
        assert (caught.value.sent, caught.value.rcvd) == (Close(1000, ""), None)


@pytest.mark.parametrize("answer", [b"", closing(1000)], ids=["no answer", "answer"])
def test_a_server_that_never_stops_sending(answer):
    with pair(close_timeout=0.1) as (ws, peer):

        def flood():
            peer.send_raw(answer)
            with contextlib.suppress(ConnectionError):
                while True:
                    peer.send_raw(frame(BINARY, bytes(5000)))

        sending = Task(flood)
        started = time.monotonic()
        ws.close()
        assert time.monotonic() - started < PROMPT
        assert ws.fileno() == -1
        sending.result()


def test_what_comes_before_the_answer_is_kept_up_to_max_queue():
    with pair(max_queue=5, close_timeout=PATIENCE) as (ws, peer):

        def send():
            for i in range(300):
                peer.send_message(str(i) + " " * 10000)
            return answer_close(peer)

        sending = Task(send)
        ws.close()
        sending.result()
        assert ws.close_code == 1000
        received = []
        with pytest.raises(ConnectionClosedOK):
            while True:
                received.append(int(ws.recv()))
        assert 5 <= len(received) < 50
        assert received == list(range(len(received)))  # without a gap


def test_who_receives_during_the_closing_handshake_gets_all():
    with pair(max_queue=1) as (ws, peer):
        received = []

        def receive():
            for message in ws:
                received.append(message)

        receiver = Task(receive)
        receiving(ws)

        def send():
            sent = peer.recv_frame()
            for i in range(100):
                peer.send_message(str(i))
            peer.send_raw(closing(1000))
            peer.sock.close()
            return sent

        sending = Task(send)
        ws.close()
        assert sending.result().opcode == CLOSE
        receiver.result()
        # At most those are missing that came while it was busy, and they are the last ones.
        assert received == [str(i) for i in range(len(received))]


def test_what_was_received_before_the_end_is_still_delivered():
    with pair() as (ws, peer):
        peer.send_raw(frame(TEXT, "a") + frame(TEXT, "b"))
        peer.sock.close()
        with pytest.raises(ConnectionClosedError):
            while True:
                ws.ping().wait(timeout=PATIENCE)
        assert [ws.recv(), next(iter(ws))] == ["a", "b"]
        with pytest.raises(ConnectionClosedError):
            ws.recv()


def test_closing_again_and_from_many_threads_sends_one_close_frame():
    for first in ("client", "server", "both"):
        with pair() as (ws, peer):
            if first != "client":
                peer.send_raw(closing(1000))
            if first == "server":
                with pytest.raises(ConnectionClosedOK):
                    ws.recv(timeout=0)
            tasks = [Task(ws.close, 1000 + i % 2) for i in range(4)]
            tasks.append(Task(ws.recv))
            if first == "client":
                assert peer.recv_frame().opcode == CLOSE
                peer.send_raw(closing(1000))
            frames = until_close(peer)
            for task in tasks[:-1]:
                task.result()
            with pytest.raises(ConnectionClosedOK):
                tasks[-1].result()
            assert [f.opcode for f in frames] == ([] if first == "client" else [CLOSE])
            ws.close()
            ws.close(1011)
            assert ws.state is State.CLOSED


def test_closing_while_a_send_blocks_lets_it_end_first():
    with pair() as (ws, peer):
        sending = Task(ws.send, bytes(LARGE))
        eventually(is_blocked(ws))
        closer = Task(ws.close)
        frames = answer_close(peer)
        assert [(f.opcode, len(f.data)) for f in frames] == [(BINARY, LARGE), (CLOSE, 2)]
        closer.result()
        sending.result()


def test_closing_ends_a_send_that_the_peer_does_not_take():
    with pair(close_timeout=0.1) as (ws, peer):
        sending = Task(ws.send, bytes(LARGE))
        eventually(is_blocked(ws))
        started = time.monotonic()
        ws.close()
        assert time.monotonic() - started < PROMPT
        with pytest.raises(ConnectionClosedError):
            sending.result()
        assert (ws.state, ws.fileno()) == (State.CLOSED, -1)
        assert until_close(peer) == []


def test_a_send_ends_when_the_server_closes_and_does_not_read():
    with pair(close_timeout=0.1) as (ws, peer):
        sending = Task(ws.send, bytes(LARGE))
        eventually(is_blocked(ws))
        started = time.monotonic()
        peer.send_raw(closing(1001))
        with pytest.raises(ConnectionClosed) as caught:
            sending.result()
        assert 0.09 < time.monotonic() - started < PROMPT
        assert caught.value.rcvd == Close(1001, "")


def test_a_send_under_way_is_completed_though_the_server_closes():
    with pair(ping_interval=0.02, ping_timeout=PATIENCE) as (ws, peer):
        sending = Task(ws.send, bytes(LARGE))
        eventually(is_blocked(ws))
        peer.send_raw(closing(1000))
        eventually(lambda: ws.state is State.CLOSING)
        frames = answer_close(peer)
        assert [f.opcode for f in frames if f.opcode != PING] == [BINARY, CLOSE]
        sending.result()


@pytest.mark.parametrize("call", [lambda ws: ws.send("a"), lambda ws: ws.send(["a"]),
                                  lambda ws: ws.ping(), lambda ws: ws.pong()],
                         ids=["send", "fragments", "ping", "pong"])  # fmt: skip
def test_who_sends_while_another_thread_closes_learns_how_it_ended(call):
    with pair() as (ws, peer):
        closer = Task(ws.close)
        eventually(lambda: ws.state is State.CLOSING)
        sending = Task(call, ws)
        answer_close(peer)
        with pytest.raises(ConnectionClosedOK) as caught:
            sending.result()
        assert caught.value.rcvd == Close(1000, "")
        closer.result()


def test_who_sends_after_an_interrupted_close_learns_how_it_ended():
    with pair() as (ws, peer):
        ws._transport.change(ws._protocol.close, 1000)
        sending = Task(ws.send, "a")
        ws._transport.flush()
        answer_close(peer)
        with pytest.raises(ConnectionClosedOK):
            sending.result()
        ws.close()
        assert ws.fileno() == -1


def test_closing_waits_with_its_frame_until_there_is_room_though_the_receiver_sleeps():
    with pair(ping_interval=None) as (ws, peer):
        count = stuff(ws)
        receiver = Task(ws.recv)
        receiving(ws)
        time.sleep(0.01)  # until it is really asleep
        closer = Task(ws.close)
        eventually(is_blocked(ws))
        assert len(answer_close(peer)) == count + 1
        closer.result()
        with pytest.raises(ConnectionClosedOK):
            receiver.result()


def test_a_send_keeps_its_timeout_though_the_server_keeps_sending():
    with pair() as (ws, peer):
        stop = threading.Event()

        def flood():
            with contextlib.suppress(ConnectionError):
                while not stop.is_set():
                    peer.send_raw(frame(PONG, bytes(125)) * 100)

        flooding = Task(flood)
        with pytest.raises(ConnectionClosedError):
            ws.send(bytes(LARGE), timeout=0.05)
        stop.set()
        flooding.result()


def test_a_stream_waits_for_a_thread_that_has_stepped_in():
    with pair() as (ws, peer):
        waiting = Task(ws.ping(b"!").wait)
        receiving(ws)
        chunks = Task(lambda: list(ws.recv_streaming()))
        eventually(lambda: ws._receiver.wanted)
        peer.send_raw(frame(TEXT, "a") + frame(PONG, b"!"))
        assert chunks.result() == ["a"]
        assert waiting.result() >= 0


def test_a_stream_comes_in_chunks_even_if_its_header_came_alone():
    with pair() as (ws, peer):
        whole = frame(BINARY, bytes(1 << 20))
        chunks = Task(lambda: [len(chunk) for chunk in ws.recv_streaming()])
        peer.send_raw(whole[:10])
        eventually(lambda: ws._protocol.reader.missing)
        receiving(ws)
        peer.send_raw(whole[10:])
        sizes = chunks.result()
    assert sum(sizes) == 1 << 20 and max(sizes) <= CHUNK


# -- losing the connection --


def test_the_end_without_a_close_frame():
    with pair() as (ws, peer):
        peer.send_raw(frame(TEXT, "a") + frame(TEXT, "cut")[:4])
        peer.sock.close()
        assert ws.recv() == "a"
        with pytest.raises(ConnectionClosedError) as caught:
            ws.recv()
        assert (caught.value.code, caught.value.rcvd, caught.value.sent) == (1006, None, None)
        assert isinstance(caught.value.__cause__, EOFError)
        assert (ws.state, ws.close_code, ws.fileno()) == (State.CLOSED, 1006, -1)


@pytest.mark.parametrize("blocked", [False, True], ids=["before", "while blocked"])
def test_a_reset(blocked):
    with pair(tcp=True) as (ws, peer):
        peer.send_raw(frame(TEXT, "a"))
        assert ws.recv() == "a"
        task = Task(ws.recv) if blocked else None
        if blocked:
            receiving(ws)
        reset(peer.sock)
        with pytest.raises(ConnectionClosedError) as caught:
            (task or Task(ws.recv)).result()
        assert caught.value.code == 1006
        assert isinstance(caught.value.__cause__, ConnectionResetError)
        assert ws.fileno() == -1


@pytest.mark.parametrize("end", [lambda sock: sock.shutdown(socket.SHUT_WR), reset])
def test_a_blocked_send_notices_the_end(end):
    with pair(tcp=True) as (ws, peer):
        peer.send_raw(frame(TEXT, "a") + frame(TEXT, "cut")[:3])
        sending = Task(ws.send, bytes(2 * LARGE))
        eventually(is_blocked(ws))
        eventually(lambda: len(ws._receiver.queue))
        end(peer.sock)
        with pytest.raises(ConnectionClosedError) as caught:
            sending.result()
        assert isinstance(caught.value.__cause__, (EOFError, OSError))
        assert ws.recv() == "a"
        with pytest.raises(ConnectionClosedError):
            ws.recv()


def broken_by(send, before):
    """What a client that only sends is told by a server that has gone after *before*."""
    with pair(tcp=True) as (ws, peer):
        peer.send_raw(before)
        peer.sock.shutdown(socket.SHUT_RDWR)
        peer.sock.close()
        with pytest.raises(ConnectionClosed) as caught:
            for _ in range(10000):
                send(ws)
        assert isinstance(caught.value.__cause__, OSError)
        return caught.value, list(ws) if caught.value.code == 1000 else ws


SENDS = {
    "small": lambda ws: ws.send("x" * 100),
    "large": lambda ws: ws.send(bytes(LARGE)),
    "fragments": lambda ws: ws.send(["x"] * 100),
    "timeout": lambda ws: ws.send("x", timeout=PATIENCE),
}


@pytest.mark.parametrize("send", SENDS.values(), ids=SENDS)
def test_a_send_that_fails_tells_which_close_frame_has_come(send):
    exc, messages = broken_by(send, frame(TEXT, "a") + closing(1000, "enough"))
    assert exc.rcvd == Close(1000, "enough")
    assert messages == ["a"]


@pytest.mark.parametrize("send", SENDS.values(), ids=SENDS)
def test_a_send_that_fails_without_a_close_frame(send):
    exc, ws = broken_by(send, b"")
    assert (exc.code, exc.rcvd) == (1006, None)
    assert ws.state is State.CLOSED


def test_a_send_that_fails_loses_no_unread_messages():
    with pair(tcp=True, max_queue=2) as (ws, peer):
        for i in range(40):
            peer.send_message(str(i) + " " * 1500)
        peer.send_raw(closing(1000))
        ping = ws.ping()
        with pytest.raises(TimeoutError):
            ping.wait(timeout=0.001)  # some are kept, more wait
        reset_after_reading(peer)
        with pytest.raises(ConnectionClosed):
            for _ in range(10000):
                ws.send("x" * 100)
        assert [int(ws.recv()) for _ in range(40)] == list(range(40))
        with pytest.raises(ConnectionClosed) as caught:
            ws.recv()
        assert caught.value.rcvd == Close(1000, "")


def reset_after_reading(peer):
    """Read what is there, or closing would drop what isn't delivered yet; then close."""
    peer.sock.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while peer.sock.recv(65536):
            pass
    peer.sock.close()


def test_a_failed_flush_is_remembered_as_the_cause():
    with pair() as (ws, peer):
        peer.sock.shutdown(socket.SHUT_RD)
        ws.pong()
        peer.sock.close()
        with pytest.raises(ConnectionClosedError) as caught:
            ws.recv()
        assert isinstance(caught.value.__cause__, BrokenPipeError)


def test_a_socket_that_somebody_else_closed():
    for call in (lambda ws: ws.recv(timeout=PATIENCE), lambda ws: ws.send("a", timeout=PATIENCE)):
        with pair() as (ws, _):
            ws._transport.stream.sock.close()
            with pytest.raises(ConnectionClosedError):
                call(ws)


# -- keepalive --


def test_a_dead_peer_ends_a_send():
    started = time.monotonic()
    with pair(ping_interval=0.1, ping_timeout=0.1) as (ws, _):
        with pytest.raises(ConnectionClosedError) as caught:
            ws.send(bytes(LARGE))
        assert 0.19 < time.monotonic() - started < PROMPT
        assert isinstance(caught.value.__cause__, TimeoutError)


def test_a_dead_peer_ends_a_send_and_a_receive_at_the_same_time():
    with pair(ping_interval=0.1, ping_timeout=0.1) as (ws, _):
        receiver = Task(ws.recv)
        receiving(ws)
        with pytest.raises(ConnectionClosedError) as caught:
            ws.send(bytes(LARGE))
        assert isinstance(caught.value.__cause__, TimeoutError)
        with pytest.raises(ConnectionClosedError):
            receiver.result()
        eventually(lambda: ws.fileno() == -1)


class Clock:
    """A clock that stands still unless it is set."""

    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    for module in (consumer, reader, receiver, sender, transport):
        monkeypatch.setattr(module, "monotonic", clock)
    monkeypatch.setattr(connection_module, "monotonic", clock)
    monkeypatch.setattr(connection_module, "deadline_after", lambda timeout: clock.now + timeout)
    monkeypatch.setattr(background, "watch", lambda receiver: None)  # it has the real time
    yield clock
    clock.now += 1e6  # nothing that still waits has reason to


@pytest.mark.parametrize("timeout", [5, 20, 50])
def test_a_dead_peer_is_found_by_polling(clock, timeout):
    """After the interval and the timeout, whatever their ratio, from the last byte on."""
    with pair(ping_interval=20, ping_timeout=timeout) as (ws, peer):
        for _ in range(3):
            for seconds in (0, 19.6, 0.4, timeout - 0.1):
                clock.now += seconds
                with pytest.raises(TimeoutError):
                    ws.recv(timeout=0)
            assert peer.recv_frame().opcode == PING
            peer.send_frame(PONG)
            with pytest.raises(TimeoutError):
                ws.recv(timeout=0)
        clock.now += 20
        with pytest.raises(TimeoutError):
            ws.recv(timeout=0)
        clock.now += timeout
        with pytest.raises(ConnectionClosedError):
            ws.recv(timeout=0)


def test_a_dead_peer_ends_a_wait_for_a_pong():
    with pair(ping_interval=0.05, ping_timeout=0.05) as (ws, _):
        with pytest.raises(ConnectionClosedError):
            ws.ping().wait()


def test_any_byte_counts_as_life(clock):
    data = frame(TEXT, "x" * 40)
    with pair(ping_interval=20, ping_timeout=20) as (ws, peer):
        for i in range(len(data)):
            for seconds in (20, 19):
                clock.now += seconds
                with pytest.raises(TimeoutError):
                    ws.recv(timeout=0)
            peer.send_raw(data[i : i + 1])
            if i < len(data) - 1:
                with pytest.raises(TimeoutError):
                    ws.recv(timeout=0)
        assert ws.recv(timeout=0) == "x" * 40


def test_a_peer_whose_bytes_wait_unread_is_not_dead():
    ours, theirs = socket.socketpair()
    data = b"".join(frame(TEXT, str(i) + " " * 30000) for i in range(40))
    task = feeding(theirs, data)  # before the keepalive begins
    peer = peer_of(theirs)
    options = {"ping_interval": 0.02, "ping_timeout": 0.02, "max_queue": 1, "max_size": None}
    with contextlib.closing(connection(SocketStream(ours), **options)) as ws:
        sending = Task(ws.send, bytes(LARGE))
        eventually(is_blocked(ws))
        enough = time.monotonic() + 0.2  # several times what a dead peer would get
        eventually(lambda: time.monotonic() > enough)
        assert ws.state is State.OPEN
        assert len(peer.recv_message()) == LARGE
        sending.result()
        assert [int(ws.recv()) for _ in range(40)] == list(range(40))
        task.result()
        theirs.close()


def test_a_peer_that_takes_a_long_message_slowly_is_alive(clock):
    data = bytes(LARGE)
    with pair(ping_interval=10, ping_timeout=10) as (ws, peer):
        task, received, begun = Task(ws.send, data), 0, clock.now
        keepalive, sock = ws._protocol.keepalive, ws._transport.stream.sock

        def stuck():
            """Whether the writer has nothing left, or has to wait for the peer."""
            return not task.is_alive() or not select.select([], [sock], [], 0)[1]

        while received < len(data):
            clock.now += 9
            while received < len(data) and keepalive.received < clock.now:
                eventually(stuck)
                received += len(peer.sock.recv(1 << 16))
        assert clock.now - begun > 2 * (10 + 10)  # which a dead peer would not get
        task.result()


def test_a_peer_that_answers_pings_is_not_dead():
    with pair(ping_interval=0.02, ping_timeout=PATIENCE) as (ws, peer):
        task = Task(ws.recv)
        for _ in range(5):
            ping = peer.recv_frame()
            assert ping.opcode == PING
            peer.send_frame(PONG, ping.data)
        peer.send_message("x")
        assert task.result() == "x"
        assert ws.latency > 0


# -- interruptions --


class Interrupt(Exception):
    pass


@pytest.fixture
def interrupted():
    """Run a function until another thread has found that it blocks, and interrupts it."""
    if not hasattr(signal, "pthread_kill"):
        pytest.skip("signals can't be sent to threads here")

    def handler(number, stack):
        raise Interrupt

    def interrupted(function, is_blocked):
        def interrupt():
            eventually(is_blocked)
            time.sleep(0.02)
            signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)

        task = Task(interrupt)
        with pytest.raises(Interrupt):
            function()
        task.result()

    old = signal.signal(signal.SIGUSR1, handler)
    yield interrupted
    signal.signal(signal.SIGUSR1, old)


def test_an_interrupted_receive_can_be_repeated(interrupted):
    with pair() as (ws, peer):
        peer.send_raw(frame(TEXT, "hello")[:4])
        for receive in (ws.recv, lambda: ws.recv(timeout=PATIENCE), lambda: ws.ping().wait()):
            interrupted(receive, is_receiving(ws))
        peer.send_raw(frame(TEXT, "hello")[4:])
        assert ws.recv() == "hello"


def test_an_interrupted_receive_while_another_thread_has_stepped_in(interrupted):
    with pair() as (ws, peer):
        waiting = Task(ws.ping(b"!").wait)
        receiving(ws)
        interrupted(ws.recv, lambda: ws._receiver.wanted)
        peer.send_raw(frame(TEXT, "a") + frame(PONG, b"!"))
        waiting.result()
        assert ws.recv() == "a"


@pytest.mark.parametrize("message", [bytes(PIECE), bytes(LARGE)], ids=["one piece", "pieces"])
def test_what_an_interrupted_send_began_is_sent(interrupted, message):
    with pair() as (ws, peer):
        fill(ws)
        interrupted(lambda: ws.send(message), is_blocked(ws))

        def receive():
            while len(received := peer.recv_message()) == 1000:
                pass
            return received, peer.recv_message()

        task = Task(receive)
        ws.send("next")
        assert task.result() == (message, "next")


@pytest.mark.parametrize("message", [b"a", bytes(LARGE)], ids=["one piece", "pieces"])
def test_an_interrupt_while_writing_ends_the_connection(message):
    """Nobody knows then how much was written, so nothing may follow."""
    with pair() as (ws, peer):
        stream, calls = ws._transport.stream, itertools.count()

        def send(data, flags):
            sent = stream.sock.send(data, flags)
            if next(calls) == 1:
                raise KeyboardInterrupt
            return sent

        ws._transport.buffer._send = send
        ws.send("before")
        with pytest.raises(KeyboardInterrupt):
            ws.send(message)
        assert peer.recv_message() == "before"
        with pytest.raises(ConnectionClosedError):
            ws.send("after")
        with pytest.raises(ConnectionClosedError):
            ws.recv()
        # What was written is whole or cut, but nothing is behind it.
        assert [f.data for f in until_close(peer)] == ([message] if len(message) == 1 else [])


def test_an_interrupted_fragmented_message_ends_the_connection(interrupted):
    with pair(close_timeout=0.1) as (ws, peer):
        interrupted(lambda: ws.send(["a", "b" * LARGE]), is_blocked(ws))
        assert ws.state is State.CLOSED
        assert ws.fileno() == -1


def test_an_interrupted_close_can_be_repeated(interrupted):
    with pair() as (ws, peer):
        interrupted(ws.close, is_receiving(ws))
        answer = Task(answer_close, peer)
        ws.close()
        answer.result()
        assert (ws.close_code, ws.fileno()) == (1000, -1)


def test_an_interrupted_wait_for_the_end_can_be_repeated(interrupted):
    with pair() as (ws, peer):
        peer.send_raw(frame(TEXT, "masked", masked=True))  # which no Close frame answers
        interrupted(ws.recv, lambda: ws.state is State.CLOSING)
        peer.sock.close()
        with pytest.raises(ConnectionClosedError):
            ws.recv()
        assert ws.fileno() == -1


# -- nothing is left --


def test_busy_polling_keeps_a_short_timeout():
    with pair(busy_poll=5) as (ws, _):
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            ws.recv(timeout=0.01)
        assert time.monotonic() - started < PROMPT


def test_the_receive_timeout_may_be_unsupported(monkeypatch):
    class Socket(socket.socket):
        def setsockopt(self, *args):
            raise OSError(errno.ENOPROTOOPT, "not here")

    ours, theirs = socket.socketpair()
    sock = Socket(fileno=ours.detach())
    with theirs, connection(SocketStream(sock), ping_interval=0.05, ping_timeout=0.05) as ws:
        with pytest.raises(ConnectionClosedError):
            ws.recv()


def descriptors():
    """How many file descriptors are open, as far as that can be told."""
    first = socket.socket()
    with first:
        return first.fileno()  # the lowest that is free


def test_connections_leave_no_descriptors_and_threads():
    def end(i, ws, peer):
        if i % 5 == 0:
            answer = Task(answer_close, peer)
            ws.close()
            answer.result()
        elif i % 5 == 1:
            reset(peer.sock)
            with pytest.raises(ConnectionClosedError):
                ws.recv()
        elif i % 5 == 2:
            peer.send_raw(closing(1001))
            peer.sock.close()
            list(ws)
        elif i % 5 == 3:
            peer.send_raw(frame(TEXT, "masked", masked=True))
            peer.sock.close()
            with pytest.raises(ConnectionClosedError):
                ws.recv()
        else:
            peer.sock.close()
            ws.close()

    with pair():  # so that the keeper is there before and after
        before, threads = descriptors(), threading.active_count()
        for i in range(200):
            ours, theirs = tcp_pair()
            ws = connection(SocketStream(ours))
            end(i, ws, peer_of(theirs))
            assert ws.fileno() == theirs.fileno() == -1
        assert descriptors() == before
        assert threading.active_count() == threads


def test_an_idle_connection_is_small():
    tracemalloc = pytest.importorskip("tracemalloc")  # only CPython counts what is allocated
    socks = [socket.socketpair() for _ in range(50)]
    connection(SocketStream(socks[0][0])).fileno()  # what is loaded once is
    tracemalloc.start()
    kept = [connection(SocketStream(ours)) for ours, _ in socks[1:]]
    size = tracemalloc.get_traced_memory()[0] / len(kept)
    tracemalloc.stop()
    for pair_of in socks:
        for sock in pair_of:
            sock.close()
    assert size < 10000 if sys.version_info < (3, 11) else size < 8000


def test_who_waits_for_a_pong_goes_on_when_a_stream_is_interrupted(monkeypatch):
    with pair(ping_interval=None) as (ws, peer):  # no keeper would help
        ping, waiting = ws.ping(b"!"), []

        def interrupt(reader, deadline, in_chunks=False):
            waiting.append(Task(ping.wait))
            eventually(lambda: ws._transport.waiters.locks)
            monkeypatch.undo()
            raise KeyboardInterrupt

        monkeypatch.setattr(Reader, "read_until", interrupt)
        with pytest.raises(KeyboardInterrupt):
            next(ws.recv_streaming())
        peer.send_frame(PONG, b"!")
        assert waiting[0].result() >= 0


# -- what comes between two steps of another thread --


def test_who_is_refused_does_not_take_the_place_of_who_waits():
    with pair(ping_interval=None) as (ws, peer):
        waiting = Task(ws.ping(b"!").wait)
        receiving(ws)
        first = Task(ws.recv)
        eventually(lambda: ws._receiver.wanted)
        with pytest.raises(ConcurrencyError):
            ws.recv()
        assert ws._receiver.wanted
        peer.send_raw(frame(TEXT, "a") + frame(PONG, b"!"))
        assert first.result() == "a"
        assert waiting.result() >= 0


def test_who_steps_in_looks_for_room_when_it_has_become_the_receiver(monkeypatch):
    with pair(ping_interval=None) as (ws, peer):
        room = iter([True, False])  # another thread has filled the queue in between
        called = []
        with monkeypatch.context() as patch:
            patch.setattr(Receiver, "may_step_in", lambda receiver: next(room))
            assert ws._receiver.step_in(called.append, 1) is None
        assert not called
        assert not list(room)


def test_what_another_thread_is_about_to_keep_does_not_come_behind_a_gap(monkeypatch):
    with pair(ping_interval=None, close_timeout=0.1) as (ws, peer):
        peer.send_raw(frame(TEXT, "1") + frame(TEXT, "2"))
        assert ws.recv() == "1"
        entered, released, next_messages = (
            threading.Event(), threading.Event(), ClientProtocol.next_messages,
        )  # fmt: skip

        def held_up(protocol):
            found = next_messages(protocol)
            entered.set()
            released.wait(PATIENCE)
            return found

        monkeypatch.setattr(ClientProtocol, "next_messages", held_up)
        waiting = Task(ws.ping(b"!").wait)
        peer.send_raw(frame(TEXT, "3"))
        assert entered.wait(PATIENCE)
        failing = Task(ws._receiver.fail, KeyboardInterrupt())  # "2" is lost
        eventually(lambda: ws._receiver.queue.dropping)
        released.set()
        failing.result()
        with pytest.raises(ConnectionClosed):
            waiting.result()
        with pytest.raises(ConnectionClosed):
            ws.recv(timeout=PATIENCE)


def test_a_receive_within_ones_own_send_is_refused():
    with pair(ping_interval=None) as (ws, peer):
        with ws._transport.sending, pytest.raises(ConcurrencyError):
            ws.recv(timeout=PATIENCE)


@pytest.mark.parametrize("unread", [0, 20])
def test_a_ping_returns_though_the_peer_does_not_read_and_nobody_receives(unread):
    ours, theirs = socket.socketpair()
    ws = connection(SocketStream(ours), ping_interval=None, close_timeout=0.1)
    with theirs, ws:
        theirs.sendall(frame(TEXT, "x") * unread)
        fill(ws)
        stuff(ws)
        Task(ws.ping).result()


class Hold:
    """Holds threads other than this one behind a call of *method*, from its first time on."""

    def __init__(self, monkeypatch, owner, method, when=lambda result: True):
        original, first = getattr(owner, method), threading.current_thread()
        self.entered, self.released = threading.Event(), threading.Event()

        def held(*args):
            result = original(*args)
            if threading.current_thread() is not first and when(result):
                self.entered.set()
                self.released.wait(PATIENCE)
            return result

        monkeypatch.setattr(owner, method, held)


def test_a_chunk_that_another_thread_is_about_to_keep_is_skipped_too(monkeypatch):
    with pair(ping_interval=None, close_timeout=0.1, max_queue=1) as (ws, peer):
        ping = ws.ping(b"!")
        peer.send_raw(frame(TEXT, "begin", fin=False))
        stream = ws.recv_streaming()
        assert next(stream) == "begin"
        hold = Hold(monkeypatch, ClientProtocol, "next_chunk", lambda chunk: chunk is not None)
        waiting = Task(ping.wait)
        peer.send_raw(frame(CONT, "the end"))
        assert hold.entered.wait(PATIENCE)
        # Under the mutex, as the other one is: so this waits for it.
        leaving = Task(stream.close)
        eventually(lambda: not leaving.is_alive() or "locked" in repr(ws._transport.mutex))
        hold.released.set()
        leaving.result()
        peer.send_raw(frame(TEXT, "next") + frame(PONG, b"!"))
        assert ws.recv(timeout=PATIENCE) == "next"
        assert waiting.result() >= 0


@pytest.mark.parametrize("how", ["stops", "is interrupted"])
def test_a_close_frame_left_to_a_writer_is_written_when_it_stops(monkeypatch, how):
    with pair(ping_interval=None, close_timeout=PATIENCE) as (ws, peer):
        # It has written all that there was, and waits for room.
        hold = Hold(monkeypatch, WriteBuffer, "flush")
        if how == "is interrupted":

            def wait(sender, deadline):
                sender.transport.flush_as_writer()
                raise KeyboardInterrupt

            monkeypatch.setattr(Sender, "_wait_for_room", wait)
        writing = Task(ws.send, "x", timeout=PATIENCE)
        assert hold.entered.wait(PATIENCE)
        ws._transport.change(ws._protocol.close, 1000, "")
        ws._transport.flush()  # refused: there is a writer
        hold.released.set()
        assert peer.recv_frame().opcode == CLOSE
        peer.send_frame(CLOSE, b"\x03\xe8")
        with pytest.raises((KeyboardInterrupt, ConnectionClosed)):
            writing.result()


# -- what is left to others --


@pytest.fixture
def impatient(monkeypatch):
    """Who waits for another thread, or for its first look at the connection, doesn't wait long."""
    monkeypatch.setattr(background, "CHECK", 0.01)
    for module in (receiver, transport):
        monkeypatch.setattr(module, "HEED", 0.05)


def test_a_frame_that_had_no_room_is_written_in_the_background_when_there_is_some(impatient):
    with pair(ping_interval=PATIENCE * 4) as (ws, peer):  # not by the tick
        count = stuff(ws)
        ws.ping(b"!")
        for _ in range(count):
            peer.recv_frame()
        assert peer.recv_frame()[:2] == (PING, b"!")


def test_the_background_thread_waits_for_room_for_the_last_frame():
    """Not only for what the server says, or for the time to look again."""
    with pair(ping_interval=None, close_timeout=PATIENCE * 4) as (ws, peer):
        stuff(ws)
        ws._transport.change(ws._protocol.close, 1000)
        peer.send_raw(closing(1000))
        eventually(lambda: select.select([ws], [], [], 0)[0])
        background.service(ws._receiver)
        events, _ = background.service(ws._receiver)
        assert events == READ | WRITE
        peer.sock.close()


class Renegotiating(SocketStream):
    """As TLS 1.2: once the peer has begun to negotiate again, nothing is sent until it has ended.

    For that it says "begin" and "end", by themselves.
    """

    def __init__(self, sock):
        super().__init__(sock)
        self.begun = self.unsent = False
        self.recv, self.send, self.flush = self._recv, self._send, self._flush

    def _recv(self, size, flags=0):
        data = self.sock.recv(size, flags)
        if data not in (b"begin", b"end"):
            return data
        self.begun = self.unsent = data == b"begin"
        raise BlockingIOError(errno.EAGAIN, "only a part of a record")

    def _flush(self, flags=0):
        self.unsent = False
        return True

    def _send(self, data, flags=0):
        if self.begun:
            self.unsent = True
            raise BlockingIOError(errno.EAGAIN, "it has to read first")
        return self.sock.send(data, flags)


@pytest.fixture
def renegotiating(monkeypatch, impatient):
    """(connection, peer) in the middle of that; nobody may wait for room then."""
    ours, theirs = socket.socketpair()
    stream, wait = Renegotiating(ours), transport.wait

    def wait_unless_pointless(sockets, timeout):
        assert not (stream.begun and sockets[ours] & WRITE and timeout > 0)
        return wait(sockets, timeout)

    monkeypatch.setattr(transport, "wait", wait_unless_pointless)
    ws, peer = connection(stream, ping_interval=None, close_timeout=0.1), peer_of(theirs)
    peer.send_raw(b"begin")
    with pytest.raises(TimeoutError):
        ws.recv(timeout=0)
    assert stream.begun
    yield ws, peer
    theirs.close()
    ws.close()


@pytest.mark.parametrize("other", [None, "receives", "steps in"])
def test_a_send_that_has_to_wait_for_tls_to_read(renegotiating, other):
    ws, peer = renegotiating
    others = []
    if other is not None:
        others.append(Task(ws.recv if other == "receives" else ws.ping(b"!").wait))
        receiving(ws)
    sending = Task(ws.send, "x")
    eventually(lambda: ws._transport.buffer.needs_read)
    peer.send_raw(b"end")
    sending.result()
    received = [peer.recv_frame() for _ in range(1 + (other == "steps in"))]
    assert "x" in [each.data.decode() for each in received]
    peer.send_raw(frame(PONG, b"!") + frame(TEXT, "y"))
    for task in others:
        task.result()


def test_a_send_looks_soon_whether_another_thread_has_read_for_tls(renegotiating, monkeypatch):
    """The background thread may have taken what this one has begun to wait for."""
    ws, peer = renegotiating
    waits, wait = [], transport.wait

    def noting(sockets, timeout):
        if isinstance(threading.current_thread(), Task) and timeout > 0:
            waits.append(timeout)
        return wait(sockets, timeout)

    monkeypatch.setattr(transport, "HEED", PATIENCE)
    monkeypatch.setattr(transport, "wait", noting)
    sending = Task(ws.send, "x")
    eventually(lambda: waits)
    peer.send_raw(b"end")
    sending.result()
    assert max(waits) <= transport.GLANCE


def test_a_ping_that_has_to_wait_for_tls_to_read(renegotiating):
    ws, peer = renegotiating
    waiting = Task(lambda: ws.ping(b"!").wait())
    eventually(lambda: ws._transport.buffer.needs_read and is_receiving(ws)())
    assert ws._transport.unwritten() == 0
    peer.send_raw(b"end")
    assert peer.recv_frame()[:2] == (PING, b"!")
    peer.send_raw(frame(PONG, b"!"))
    assert waiting.result() >= 0


@pytest.mark.parametrize("call", [lambda ws: ws.send("x"), lambda ws: ws.ping().wait()],
                         ids=["send", "ping"])  # fmt: skip
def test_nothing_spins_while_tls_has_to_read_and_there_is_no_room(monkeypatch, call):
    """A socket that is hung up shows that whatever is waited for."""
    ours, theirs = socket.socketpair()
    waits, wait = [], transport.wait

    def noting(sockets, timeout):
        ready = wait(sockets, timeout)
        if timeout > 0 and theirs.fileno() < 0:
            waits.append([sockets[each] for each in ready])
        return ready

    ws = connection(Renegotiating(ours), ping_interval=None, close_timeout=0.1, max_queue=1)
    with ws, theirs:
        peer = peer_of(theirs)
        peer.send_raw(b"begin")
        with pytest.raises(TimeoutError):
            ws.recv(timeout=0)
        peer.send_message("1")
        assert ws._receiver.receive_now()
        monkeypatch.setattr(transport, "wait", noting)
        blocked = Task(call, ws)
        eventually(lambda: ws._transport.buffer.needs_read)
        theirs.close()
        eventually(lambda: len(waits) >= 2)
        assert ws.recv() == "1"  # and so there is room
        with pytest.raises(ConnectionClosed):
            blocked.result()
    assert 0 not in sum(waits, [])


@pytest.mark.parametrize("call", [lambda ws: ws.send(bytes(LARGE)), lambda ws: ws.ping().wait()],
                         ids=["send", "ping"])  # fmt: skip
def test_a_dead_peer_is_found_though_there_is_no_room_and_no_background_thread(
    monkeypatch, impatient, call
):
    monkeypatch.setattr(background, "watch", lambda receiver: None)  # no more threads
    with pair(ping_interval=0.1, ping_timeout=0.1, max_queue=1) as (ws, peer):
        peer.send_raw(frame(TEXT, "1"))
        with pytest.raises(TimeoutError):
            ws.ping().wait(timeout=0.001)
        eventually(lambda: ws._receiver.receive_now() or len(ws._receiver.queue))
        with pytest.raises(ConnectionClosedError) as caught:
            call(ws)
        assert isinstance(caught.value.__cause__, TimeoutError)


@pytest.mark.parametrize("streaming", [False, True], ids=["recv", "recv_streaming"])
def test_a_read_that_brings_no_message_drops_none_that_comes_later(streaming):
    """While closing, with as many unread messages as are kept: there is room again later."""
    with pair(ping_interval=None, max_queue=1, close_timeout=PATIENCE) as (ws, peer):
        take = ws.recv
        if streaming:
            take = ws.recv_streaming().__next__
            peer.send_raw(frame(TEXT, "0", fin=False))
            assert take() == "0"
        peer.send_raw(frame(CONT if streaming else TEXT, "1", fin=not streaming))
        assert ws._receiver.receive_now()
        ws._transport.change(ws._protocol.close, 1000)
        peer.send_raw(frame(PING, b"!"))
        assert ws._receiver.receive_now()
        assert take() == "1"
        peer.send_raw(frame(CONT if streaming else TEXT, "2") + closing(1000))
        assert take() == "2"
        assert not ws._receiver.queue.dropping


def test_failing_leaves_what_has_landed_to_the_receiver():
    """Which may be about to take it."""
    with pair(ping_interval=None, close_timeout=0.1) as (ws, peer):
        landed = ws._receiver.reader.read_not_fed
        landed.append(frame(TEXT, "behind a gap"))
        Task(ws._receiver.fail, KeyboardInterrupt()).result()
        assert landed
        with pytest.raises(ConnectionClosed):
            ws.recv(timeout=PATIENCE)
        assert not landed


def test_a_ping_of_a_handler_that_is_refused_later_says_so():
    with pair(ping_interval=None) as (ws, peer):
        pings = [ws.ping(b"x")]
        with ws._transport.mutex:
            pings.append(ws.ping(b"x"))  # as in a handler: it is left to who has the mutex
        assert pings[1]._refused is None
        ws._transport.carry_out_requests()
        with pytest.raises(ValueError, match="isn't answered yet"):
            pings[1].wait()
        peer.send_raw(frame(PONG, b"x"))
        assert pings[0].wait() >= 0


def test_a_close_frame_that_another_thread_is_about_to_write_is_not_lost(monkeypatch):
    with pair(ping_interval=None) as (ws, peer):
        hold = Hold(monkeypatch, ClientProtocol, "data_to_send")
        closer = Task(ws.close)
        assert hold.entered.wait(PATIENCE)
        acquire = ws._transport.sending.acquire

        class Lock:
            """The lock of the writer, which goes on when it is waited for."""

            def acquire(self, blocking=True, timeout=-1):
                if blocking:
                    hold.released.set()
                return acquire(blocking, timeout)

            def __getattr__(self, name):
                return getattr(lock, name)

        lock, ws._transport.sending = ws._transport.sending, Lock()
        peer.send_raw(closing(1000))
        with pytest.raises(ConnectionClosedOK):
            ws.recv(timeout=PATIENCE)
        assert [f.opcode for f in until_close(peer)] == [CLOSE]
        closer.result()


# -- TLS whose peer sends records without data --


def fruitless(count):
    return lambda sock: fakes.Fruitless(sock, count)


@pytest.mark.parametrize("timeout", [None, PROMPT])
def test_what_tls_has_read_and_not_looked_at_comes_without_the_socket(timeout):
    with pair(stream=fruitless(5)) as (ws, peer):
        peer.send_message("x")
        assert Task(ws.recv, timeout).result() == "x"


def test_the_background_does_not_wait_for_the_socket_either(impatient):
    with pair(stream=fruitless(5)) as (ws, peer):
        peer.send_frame(Opcode.PING, b"?")
        assert peer.recv_frame().data == b"?"


@pytest.mark.parametrize("timeout", [0, 0.01])
def test_a_flood_without_data_does_not_go_on_behind_the_deadline(timeout):
    with pair(stream=fruitless(1 << 60)) as (ws, peer):
        peer.send_raw(b"x")
        with pytest.raises(TimeoutError, match="nothing is lost"):
            Task(ws.recv, timeout).result()
        ws._transport.stream.count = 0  # it lets the connection close


def test_a_flood_without_data_does_not_go_on_behind_the_closing_deadline():
    with pair(stream=fruitless(1 << 60), close_timeout=0.01) as (ws, peer):
        peer.send_raw(b"x")
        receiver = Task(ws.recv)
        receiving(ws)
        Task(ws.close).result()
        with pytest.raises(ConnectionClosedError, match="close_timeout"):
            receiver.result()


def test_a_blocked_send_looks_at_what_tls_has_read_without_the_socket():
    with pair(stream=fruitless(500), ping_interval=None, close_timeout=0) as (ws, peer):
        stuff(ws)
        sending = Task(ws.send, "never")
        peer.send_message("x")
        eventually(lambda: len(ws._receiver.queue))
        peer.sock.close()
        with pytest.raises(ConnectionClosed):
            sending.result()
