"""What a client's connection keeps of what is sent and received, and when it tells."""

from __future__ import annotations

import functools
import gc
import socket
import threading
import weakref
from errno import EPIPE

import pytest
from helpers import PATIENCE
from joined import Joined, parsed

from wsmini.callbacks.client import Client
from wsmini.exceptions import SendBufferFull
from wsmini.opening.streams import SocketStream
from wsmini.sansio.frames import Opcode
from wsmini.sansio.protocol import State
from wsmini.testing import frame

TEXT, PING, PONG = Opcode.TEXT, Opcode.PING, Opcode.PONG


def fill(client, message="x" * 100):
    with pytest.raises(SendBufferFull):
        while True:
            client.send(message)


def test_a_burst_that_finds_no_room_is_looked_through_once():
    """Once for each message took a minute for 20,000 of them."""
    with Joined(small=True) as it:
        connection = it.client._connection
        it.loop.call_soon(lambda: [it.client.send("x" * 100) for _ in range(20000)])
        it.loop.run_once(0)
        it.loop.run_once(0)
        assert sum(handle._callback == connection._trim for handle in it.loop._ready) == 1
        it.spin()
        assert len(it.client._outbox.ends) > 10000
        assert not it.loop._ready


def test_what_waits_behind_pongs_is_unsent_until_it_is_written():
    with Joined(small=True, on_close=lambda client, code, reason: kept.extend(client.unsent)) as it:
        kept = []
        messages = ["A" * 200000, "B" * 200000, "last"]
        it.call(lambda: [it.client.send(message) for message in messages])
        it.peer.send(b"".join(frame(PING, b"p" * 125) for _ in range(30)))
        it.spin()
        data = b""
        while len(data) < 205000:  # A, the pongs behind it, and some of B
            data += it.peer.recv(1000)
            it.loop.run_once(0)
        assert it.client.buffered_amount > 100000
        it.client._connection.transport.abort()
        it.spin()
        assert [message[0] for message in kept] == ["B", "l"]
        assert sum(opcode == PONG for opcode, _ in parsed(data)) > 0


def test_a_message_in_pieces_is_unsent_until_its_last_byte_is_written():
    size = 300000
    with Joined(small=True) as it:
        it.call(lambda: it.client.send(bytes(size)))
        transport, got = it.client._connection.transport, 0
        while transport.buffered:
            got += len(it.peer.recv(1000))
            it.loop.run_once(0)
        it.peer.setblocking(True)
        while got < size + 14:
            got += len(it.peer.recv(65536))
        assert got == size + 14


@pytest.mark.parametrize("opened", [True, False], ids=["open", "not open yet"])
def test_on_drain_comes_after_a_refusal(opened):
    drained = []
    with Joined(
        opened=opened, outbox=1000, max_send_buffer=5000, on_drain=lambda client: drained.append(1)
    ) as it:
        it.call(lambda: fill(it.client))
        if not opened:
            assert not drained
            it.open()
        it.take()
        assert (drained, it.client.buffered_amount) == ([1], 0)


def test_on_drain_comes_though_something_small_is_sent_just_then():
    drained, sent = [], []
    with Joined(small=True, max_send_buffer=20000, on_drain=lambda client: drained.append(1)) as it:
        it.call(lambda: fill(it.client, "x" * 1000))

        def write():
            if not sent and not it.client.buffered_amount:
                sent.append(1)
                it.client.send("small")
            it.loop.call_soon(write)

        it.loop.call_soon(write)
        it.take()
        assert sent and drained
        assert not it.client._drain_due


def test_a_refusal_on_a_connection_that_is_lost_is_made_up_for_on_the_next_one():
    drained = []
    with Joined(
        small=True, max_send_buffer=200000, on_drain=lambda client: drained.append(1)
    ) as it:
        it.call(lambda: fill(it.client))
        it.peer.close()
        while it.client.state is not State.CLOSED:
            it.loop.run_once(5)
        it.spin()
        assert not it.loop._ready  # it has stopped asking for that
        assert it.client._drain_due and not drained
        ours, it.peer = socket.socketpair()
        it.peer.setblocking(False)
        it._stream = SocketStream(ours)
        it.call(lambda: it.client.start(it.loop))
        it.open()
        assert drained == [1]


def test_what_could_not_be_written_to_a_connection_that_is_lost_does_not_drain():
    drained = []
    with Joined(small=True, on_drain=lambda client: drained.append(1)) as it:
        it.call(lambda: it.client.send(bytes(1 << 20)))
        assert it.client._connection.transport._writing
        it.client._connection.transport.buffer.fail(BrokenPipeError(EPIPE, "no"))
        it.call(it.client._connection.transport._wait_for_room)
        assert not it.client._drain_due and not drained


@pytest.mark.parametrize("data", ["small", bytes(100000)])
def test_what_is_sent_behind_a_pong_that_could_not_be_written_is_unsent(data):
    def fail(data, flags):
        raise BrokenPipeError(EPIPE, "no")

    with Joined() as joined:
        joined.client._connection.transport.buffer._send = fail
        joined.peer.send(frame(PING, b""))
        joined.loop.run_once(0)
        assert joined.client._connection.transport.gone
        joined.call(lambda: joined.client.send(data))
        joined.peer.close()
        joined.spin()
        assert joined.client.state is State.CLOSED and joined.client.unsent == [data]


def test_messages_of_a_thread_stay_in_order_when_it_connects_again():
    def send(text):
        thread = threading.Thread(target=it.client.send, args=(text,))
        thread.start()
        thread.join()

    def on_open(client):
        send("B")
        client.send("first")

    with Joined(opened=False, outbox=10, on_open=on_open) as it:
        send("A")
        it.spin()
        it.open()
        assert parsed(it.take()) == [(TEXT, b"first"), (TEXT, b"A"), (TEXT, b"B")]


def test_on_message_may_be_another_for_each_message():
    seen = []

    class Method(Client):
        def on_message(self, message):
            seen.append(("method", self is it.client, message))

    def attribute(client, message):
        seen.append(("attribute", client is it.client, message))

    for kind in (Client, Method):
        with Joined(kind) as it:
            for message in (b"1", b"2", b"3", b"4"):
                it.peer.send(frame(TEXT, message))
                it.spin()
                it.client.on_message = attribute if message < b"3" else None
    assert seen == [
        ("attribute", True, "2"),
        ("attribute", True, "3"),
        ("method", True, "1"),
        ("attribute", True, "2"),
        ("attribute", True, "3"),
    ]


def test_pausing_after_each_message_makes_the_server_wait():
    got = []

    def on_message(client, message):
        got.append(message)
        client.pause()
        client.loop.call_soon(client.resume)

    with Joined(on_message=on_message) as it:
        sent, data = 0, frame(TEXT, b"x" * 1000)
        while len(got) < 300:
            try:
                it.peer.send(data)
                sent += 1
            except BlockingIOError:
                pass
            it.loop.run_once(0)
        held = sent - len(got)
        it.take()
        # What the sockets hold, and one batch.
        assert sum(1 for _ in it.client._connection._unread) * 1000 < 200000, held


def test_what_an_exception_leaves_comes_before_what_is_read_next():
    got = []

    def on_ping(client, data):
        raise ZeroDivisionError

    with Joined(on_ping=on_ping, on_message=lambda client, message: got.append(message)) as it:
        it.peer.send(frame(PING, b"1") + frame(PING, b"2") + frame(TEXT, b"first"))
        with pytest.raises(ZeroDivisionError):
            it.loop.run_once()
        it.peer.send(frame(TEXT, b"second"))
        with pytest.raises(ZeroDivisionError):
            it.spin()
        it.spin()
        assert got == ["first", "second"]


class Descriptor:
    def __init__(self, function):
        self._function = function

    def __get__(self, client, kind=None):
        return functools.partial(self._function, client)


def ways():
    """Kinds of callbacks: a class, and whether it gets the client besides."""

    def method(self, message):
        self.got.append(message)

    def function(client, message):
        client.got.append(message)

    class Static(Client):
        on_message = staticmethod(lambda message: Static.got.append(message))
        got = []

    class OfClass(Client):
        got = []
        on_message = classmethod(method)

    class Partial(Client):
        got = []

        def handle(self, kind, message):
            self.got.append(message)

        on_message = functools.partialmethod(handle, "kind")

    class Property(Client):
        got = []
        on_message = property(lambda self: lambda message: self.got.append(message))

    class Other(Client):
        got = []
        on_message = Descriptor(method)

    class Same(Client):
        """Its function, set as an attribute as well: that gets the client."""

        got = []
        on_message = function

        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.on_message = function

    class Method(Client):
        got = []
        on_message = method

    return [Static, OfClass, Partial, Property, Other, Same, Method]


@pytest.mark.parametrize("kind", ways(), ids=lambda kind: kind.__name__)
def test_callbacks_of_all_kinds(kind):
    with Joined(kind) as it:
        it.peer.send(frame(TEXT, b"hello"))
        it.spin()
        assert it.client.got == ["hello"]


def test_a_loop_that_is_dropped_takes_its_connections_along():
    joined = Joined(ping_interval=20)
    loop = weakref.ref(joined.loop)
    joined.loop.close()
    joined._stream.close()
    joined.peer.close()
    del joined
    gc.collect()
    assert loop() is None


def test_a_server_that_does_not_answer_a_stop_is_left(monkeypatch):
    monkeypatch.setattr("wsmini.callbacks.client.LEAVING", 0.01)
    closed = []
    with Joined(on_close=lambda client, *how: closed.append(how), close_timeout=None) as it:
        it.client.stop()
        while not closed:
            it.loop.run_once(PATIENCE)
        assert closed == [(1006, "")]
        assert parsed(it.peer.recv(100)) == [(Opcode.CLOSE, b"\x03\xe9")]
