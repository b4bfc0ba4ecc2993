"""Worlds for a blocking connection: its peer, and what a handler may do that interrupts it.

A ``World`` knows what each side has said, and so what must be found afterwards, whatever happened
in between: all of it in order, or nothing behind a gap.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import ssl
import zlib

from certificates import client_context, server_context
from helpers import PATIENCE
from pairs import Task, connection, eventually, frames_of
from points import VERSION, not_interrupted

from wsmini import Client, ConcurrencyError, ConnectionClosed
from wsmini.opening.streams import SocketStream, wait
from wsmini.opening.tls import TLSStream
from wsmini.sansio.deflate import PerMessageDeflate
from wsmini.sansio.frames import Opcode
from wsmini.sansio.protocol import State
from wsmini.testing import frame

TEXT, CONT, CLOSE = Opcode.TEXT, Opcode.CONT, Opcode.CLOSE

CLOSED_BY_SERVER = frame(CLOSE, b"\x03\xe8")
LAST = "the last one"

# CPython 3.8 and 3.9 look for signals in front of a `return` or `yield`, too, and in the caller in
# front of the opcode that stores it: the one message that is handed over is lost in either case.
HANDS_OVER = re.compile(r"connection\.py:\d+ (recv|recv_into|recv_streaming),")


class Handler(Exception):
    """None of those that mean something to wsmini."""


# -- what a handler does --


class Raising:
    def __init__(self, kind):
        self.kind = kind

    def __call__(self, world):
        world.raised = self.kind("from the handler")
        raise world.raised


class Calling:
    """Calls the connection; it may say that this can't be done here, and nothing else."""

    refusals = (ConnectionClosed, ConcurrencyError)

    def __init__(self, call):
        self.call = call

    def __call__(self, world):
        with contextlib.suppress(*self.refusals):
            self.call(world)


def send_one(world):
    world.ws.send("from the handler")
    world.sent.append("from the handler")


def receive_one(world):
    with contextlib.suppress(TimeoutError):
        world.received.append(world.ws.recv(timeout=0))


def close(world):
    world.closed = True
    world.ws.close(1001)


def fork(world):
    """In the child, a connection of its own works: no lock that it needs was held."""
    child = os.fork()
    if not child:
        status = 1
        try:
            ours, theirs = socket.socketpair()
            own = connection(SocketStream(ours))
            theirs.sendall(frame(TEXT, "child"))
            if own.recv(timeout=PATIENCE) == "child":
                own.send("parent")
                status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0


def end_tls(world):
    other, _ = secure_pair()
    other.close()


def send_by_client(world):
    world.client.send("kept")


ACTIONS = {
    "KeyboardInterrupt": Raising(KeyboardInterrupt),
    "TimeoutError": Raising(TimeoutError),
    "OSError": Raising(OSError),
    "ValueError": Raising(ValueError),
    "Handler": Raising(Handler),
    "close": Calling(close),
    "send": Calling(send_one),
    "recv": Calling(receive_one),
    "Client.send": Calling(send_by_client),
    "fork": Calling(fork),
    "end of TLS": Calling(end_tls),
}


# -- a connection and its peer, in one thread --


class TLSPeer:
    """The server's side of TLS over a socket, without waiting."""

    def __init__(self, sock):
        self.sock = sock
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = SERVER.wrap_bio(self.incoming, self.outgoing, server_side=True)

    def pump(self, size=1 << 20):
        with contextlib.suppress(BlockingIOError, ConnectionError):
            self.incoming.write(self.sock.recv(size, socket.MSG_DONTWAIT))

    def shake_hands(self, stream):
        steps, done = stream.handshake(), False
        while not done:
            done = next(steps, None) is None
            self.pump()
            with contextlib.suppress(ssl.SSLWantReadError):
                self.tls.do_handshake()
            self.sock.sendall(self.outgoing.read())

    def send(self, data):
        self.tls.write(data)
        self.sock.sendall(self.outgoing.read())

    def read(self, size):
        self.pump(size)
        found = b""
        with contextlib.suppress(ssl.SSLError):
            while True:
                data = self.tls.read(1 << 20)
                if not data:
                    break
                found += data
        return found


class PlainPeer:
    def __init__(self, sock):
        self.sock = sock

    def send(self, data):
        self.sock.sendall(data)

    def read(self, size):
        found = b""
        with contextlib.suppress(BlockingIOError, ConnectionError):
            while len(found) < size:
                data = self.sock.recv(size, socket.MSG_DONTWAIT)
                if not data:
                    break
                found += data
        return found


SERVER, TRUSTING = server_context(), client_context()
CLIENT = Client("ws://localhost", outbox=1 << 30)


def secure_pair():
    ours, theirs = socket.socketpair()
    for sock in (ours, theirs):
        sock.setblocking(False)
    stream, peer = TLSStream(SocketStream(ours), TRUSTING, "localhost", 443), TLSPeer(theirs)
    peer.shake_hands(stream)
    return stream, peer


class World:
    """A connection with messages on their way to it, and what has become of them.

    Args:
        kind: "plain", "deflate" or "TLS".
        incoming: what the server says at once.
        second: what another thread does meanwhile, called with this.
        blocked: what the server does each time that the thread would have to wait for it, one after
            the other; then it reads. There is little room for what it doesn't read.
        options: of the connection.
    """

    def __init__(self, kind, incoming, second=None, blocked=None, **options):
        self.kind = kind
        extensions = [PerMessageDeflate()] if kind == "deflate" else []
        if kind == "TLS":
            stream, self.peer = secure_pair()
        else:
            ours, theirs = socket.socketpair()
            theirs.setblocking(False)
            stream, self.peer = SocketStream(ours), PlainPeer(theirs)
        if blocked is not None:
            stream.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        options = {"ping_interval": None, "close_timeout": 0.05, **options}
        self.ws = connection(stream, extensions, **options)
        self.blocked = None if blocked is None else list(blocked)
        self.client = CLIENT
        self.deflater = zlib.compressobj(6, zlib.DEFLATED, -15)
        self.expected, self.received, self.sent = [], [], []
        self.received_by_second, self.sent_by_second = [], []
        self.taken = b""  # what the server has read
        self.parts = []  # of a message that is streamed
        self.raised, self.closed = None, False
        self.server_closes = any(each is CLOSED_BY_SERVER for each in incoming)
        for message in incoming:
            self.say(message)
        self.threads = second is not None or options["ping_interval"] is not None
        self.second = None if second is None else Task(second, self)

    def wait(self, sockets, timeout):
        """In the place of the transport's: the server does something instead of the waiting."""
        ready = wait(sockets, 0.0)
        ours = self.blocked is not None and self.ws._transport.stream.sock in sockets
        if not ready and timeout > -1.0 and ours:  # else it only looks
            with not_interrupted():
                (self.blocked or [World.read]).pop(0)(self)
            timeout = 0.0
        return ready or wait(sockets, timeout)

    def read(self, size=1 << 20):
        self.taken += self.peer.read(size)

    def say(self, message):
        """Let the server send *message*."""
        if isinstance(message, bytes):  # a frame that is made already
            self.peer.send(message)
            return
        self.expected.append(message)
        data = message.encode()
        if self.kind == "deflate":
            data = self.deflater.compress(data) + self.deflater.flush(zlib.Z_SYNC_FLUSH)
            data = data[:-4]
        rsv1 = self.kind == "deflate"
        if len(message) % 3 == 0:  # in fragments
            half = len(data) // 2
            self.peer.send(frame(TEXT, data[:half], fin=False, rsv1=rsv1))
            self.peer.send(frame(CONT, data[half:]))
        else:
            self.peer.send(frame(TEXT, data, rsv1=rsv1))

    # -- afterwards --

    def check(self, error, where):
        transport = self.ws._transport
        if self.raised is not None:
            assert error is self.raised, (where, error)
        # Nothing is left that nobody will do.
        assert not transport.requests, where
        if not transport.buffer.waits:
            self.settle(lambda: not self.ws._protocol.has_output, where)
        self.check_received(where)
        self.check_sent(where)
        for name in ("receiving", "sending", "mutex"):
            lock = getattr(transport, name)
            self.settle(lambda lock=lock: repr(lock).startswith("<unlocked"), (name, where))
        assert not self.ws._consumer._token, where
        assert not transport.waiters.locks, where

    def settle(self, condition, where):
        """Whether *condition* holds; soon, if another thread may do something about it."""
        if self.threads:
            eventually(condition)
        assert condition(), where

    def check_received(self, where):
        """All of it, or up to a gap, and then nothing."""
        if self.parts:  # what is left of a message that was left is skipped
            begun = self.expected[len(self.received)]
            assert begun.startswith("".join(self.parts)), where
            self.received.append(begun)
        intact = self.is_open()
        if intact and not self.server_closes:
            self.say(LAST)
        if self.second is not None:
            self.second.result()
        with contextlib.suppress(ConnectionClosed, TimeoutError):
            while LAST not in self.received + self.received_by_second:
                self.received.append(self.ws.recv(timeout=PATIENCE if intact else 0))
        order = [self.expected.index(message) for message in self.received]
        if where.startswith("recv "):  # a handler's own may come before what it interrupts
            order.sort()
        by_second = [self.expected.index(message) for message in self.received_by_second]
        assert (order, by_second) == (sorted(order), sorted(by_second)), where
        order = sorted(order + by_second)
        gap = min(set(range(len(order) + 1)) - set(order))
        if gap < len(self.expected) and VERSION < (3, 10) and HANDS_OVER.search(where):
            order.insert(gap, gap)
        assert order == list(range(len(order))), (where, self.received, self.received_by_second)
        if intact:
            assert len(order) == len(self.expected), (where, self.received)

    def is_open(self):
        return self.ws.state is State.OPEN

    def check_sent(self, where):
        """Each message that was accepted is there, whole and in order, or nothing behind a gap."""
        intact = self.is_open()
        if intact:
            assert not self.ws._transport._deferred, where
            self.ws.send("the end")
            self.sent.append("the end")
        self.read()
        if self.ws.state is State.CLOSING and not self.ws._transport.buffer.waits:
            assert CLOSE in [head & 0x0F for head, _ in frames_of(self.taken, False)], where
        found = messages(self.taken, intact)
        assert len(set(found)) == len(found), where
        if intact:
            assert [each for each in found if each in self.sent_by_second] == self.sent_by_second
            found = [each for each in found if each in self.sent]
            if where.startswith("send "):  # a handler's may have to go behind what it interrupts
                found.sort(key=self.sent.index)
            assert found == self.sent, where

    def end(self):
        self.peer.sock.close()
        self.ws.close()


def messages(data, whole):
    """The text messages among frames of a client; with *whole*, no frame may be cut."""
    inflater, found, parts, coded = zlib.decompressobj(-15), [], b"", False
    for head, payload in frames_of(data, whole):
        if head & 0x0F < 8:
            coded = bool(head & 0x40) if head & 0x0F else coded
            parts += payload
            if head & 0x80:
                if coded:
                    parts = inflater.decompress(parts + b"\0\0\xff\xff")
                found.append(parts.decode("latin-1"))
                parts = b""
    return found
