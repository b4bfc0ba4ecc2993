"""Connections over socket pairs: the client's end is real, the other is a ``Peer`` of the test."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
import time

import fakes
from helpers import PATIENCE

from wsmini.blocking.connection import Connection
from wsmini.opening.streams import SocketStream
from wsmini.options import Options
from wsmini.sansio.frames import Opcode, mask
from wsmini.testing import Peer, frame

# What a server says: "one", a ping, "two" in fragments around a pong, and a Close frame.
TRANSCRIPT = (
    frame(Opcode.TEXT, b"one") + frame(Opcode.PING, b"p") + frame(Opcode.TEXT, b"tw", fin=False)
    + frame(Opcode.PONG) + frame(Opcode.CONT, b"o") + frame(Opcode.CLOSE, b"\x03\xe8bye")
)  # fmt: skip


def tcp_pair():
    """Two sockets connected over loopback: unlike a socket pair, they can be reset."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    for sock in (ours, theirs):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return ours, theirs


def connection(stream, extensions=(), rest=b"", **options):
    """A connection whose opening is behind it."""
    opened = fakes.opened(stream, rest, extensions)
    return Connection(opened, Options("ws://localhost", **options))


def peer_of(sock):
    """What a script for *sock* gets from a server of ``wsmini.testing``, after the handshake."""
    sock.settimeout(PATIENCE)
    return Peer(sock, [], timeout=PATIENCE, max_size=1 << 26)


def closing(code, reason=""):
    """A server's Close frame."""
    return frame(Opcode.CLOSE, code.to_bytes(2, "big") + reason.encode())


@contextlib.contextmanager
def pair(extensions=(), rest=b"", *, tcp=False, stream=SocketStream, **options):
    """(connection, peer); the peer is gone when it ends."""
    ours, theirs = tcp_pair() if tcp else socket.socketpair()
    ws = connection(stream(ours), extensions, rest, **options)
    try:
        yield ws, peer_of(theirs)
    finally:
        theirs.close()
        ws.close()


def frames_of(data, whole=True):
    """The first byte and the payload of each frame of a client; with *whole*, none may be cut."""
    at, found = 0, []
    while at < len(data):
        assert data[at] & 0x0F in list(Opcode), "frames are mixed"
        assert data[at + 1 : at + 2] == b"" or data[at + 1] & 0x80, "frames are mixed"
        n, begin = data[at + 1] & 0x7F if len(data) > at + 1 else 0, at + 2
        if n > 125:
            size = 2 if n == 126 else 8
            n, begin = int.from_bytes(data[begin : begin + size], "big"), begin + size
        key, payload = data[begin : begin + 4], data[begin + 4 : begin + 4 + n]
        if len(key) < 4 or len(payload) < n:
            assert not whole, "a frame is cut"
            break
        found.append((data[at], mask(payload, key)))
        at = begin + 4 + n
    return found


def reset(sock):
    """Close *sock* such that the other end gets an RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


class Task(threading.Thread):
    """A call in a thread of its own; ``result()`` returns or raises what it does."""

    def __init__(self, function, *args, **kwargs):
        super().__init__(name="wsmini-test", daemon=True)
        self._call = function, args, kwargs
        self._error = self._value = None
        self.start()

    def run(self):
        function, args, kwargs = self._call
        try:
            self._value = function(*args, **kwargs)
        except BaseException as exc:
            self._error = exc

    def result(self):
        self.join(PATIENCE)
        assert not self.is_alive(), "it hangs"
        if self._error is not None:
            raise self._error
        return self._value


def eventually(condition):
    """Wait for something that another thread does."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it doesn't happen"
        time.sleep(0.001)


def is_locked(lock):
    """A function that tells whether *lock*, which knows its owner, is locked."""
    return lambda: repr(lock).startswith("<locked")


def is_receiving(ws):
    """A function that tells whether a thread is the receiver of *ws*."""
    return is_locked(ws._transport.receiving)


def is_blocked(ws):
    """A function that tells whether something waits for the peer to read."""
    return lambda: ws._transport.buffer.waits


def receiving(ws):
    """Wait until a thread is about to block in reading."""
    eventually(is_receiving(ws))


def feeding(sock, data):
    """A task that sends *data*, more than the buffers hold: from now on, something waits unread."""
    task = Task(sock.sendall, data)
    eventually(lambda: not select.select([], [sock], [], 0)[1])
    return task


def fill(ws):
    """Send until the peer's buffers are full; how many messages of 1000 bytes that were."""
    count = 0
    with contextlib.suppress(TimeoutError):
        while True:
            ws.send(bytes(1000), timeout=0)
            count += 1
    return count


def stuff(ws):
    """Send empty messages until not even one of these has room; how many that were."""
    sock, data = ws._transport.stream.sock, frame(Opcode.BINARY, masked=True)
    count = 0
    sock.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            sock.send(data)
            count += 1
    sock.setblocking(True)
    return count
