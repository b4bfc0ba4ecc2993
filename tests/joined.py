"""A client on its loop, joined to a socket of the same thread: what the server would see."""

from __future__ import annotations

import asyncio
import socket

import fakes
from pairs import tcp_pair

from wsmini.aio import Connection
from wsmini.aio.selector_thread import host_loop
from wsmini.callbacks.client import Client
from wsmini.callbacks.loop import Loop
from wsmini.opening.streams import SocketStream
from wsmini.options import Options
from wsmini.policies import NoReconnect
from wsmini.sansio.frames import mask


def joined(tcp=False, **options):
    """A connection of asyncio's loop that is open, and the peer's socket."""
    ours, theirs = tcp_pair() if tcp else socket.socketpair()
    loop = asyncio.get_running_loop()
    opened = fakes.opened(SocketStream(ours))
    return Connection(loop, host_loop(loop), opened, Options("ws://localhost", **options)), theirs


class End:
    """The other end of a connection, in the same thread; *tls* is from ``handshake``."""

    def __init__(self, sock, tls):
        self.sock, self.tls, self.wire = sock, tls, b""
        if tls is not None:
            self.incoming, self.outgoing, self.engine = tls

    def take(self, size):
        """Read up to *size* bytes; ``False`` at the end."""
        try:
            data = self.sock.recv(size)
        except BlockingIOError:
            return True
        except OSError:
            return False
        if not data:
            return False
        if self.tls is None:
            self.wire += data
            return True
        import ssl

        self.incoming.write(data)
        try:
            while True:
                plain = self.engine.read(1 << 20)
                if not plain:
                    break
                self.wire += plain
        except ssl.SSLError:
            pass
        return True

    def send(self, data):
        if self.tls is not None:
            self.engine.write(data)
            data = self.outgoing.read()
        try:
            self.sock.send(data)
        except OSError:
            pass


def handshake(theirs):
    """A TLS stream on *ours* and the server's engine, joined in memory first."""
    import ssl

    from certificates import client_context, server_context

    from wsmini.opening.tls import TLSStream

    def start(ours):
        stream = TLSStream(SocketStream(ours), client_context(), "localhost", 443)
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        engine = server_context().wrap_bio(incoming, outgoing, server_side=True)
        steps, done = stream.handshake(), False
        ours.setblocking(False)
        while True:
            try:
                next(steps)
            except StopIteration:
                break
            try:
                incoming.write(theirs.recv(65536))
            except BlockingIOError:
                pass
            if not done:
                try:
                    engine.do_handshake()
                    done = True
                except ssl.SSLWantReadError:
                    pass
            theirs.send(outgoing.read() or b"") if outgoing.pending else None
        while not done:
            incoming.write(theirs.recv(65536))
            engine.do_handshake()
            done = True
        if outgoing.pending:
            theirs.send(outgoing.read())
        return stream, (incoming, outgoing, engine)

    return start


class Joined:
    """A client on a loop, and the other end of its socket."""

    def __init__(self, kind=Client, small=False, opened=True, **options):
        options = {"ping_interval": None, "reconnect": NoReconnect(), **options}
        if "on_ping" not in options:
            options.setdefault("on_error", lambda client, exc: None)
        self.loop = Loop()
        ours, self.peer = socket.socketpair()
        if small:
            for sock, option in ((ours, socket.SO_SNDBUF), (self.peer, socket.SO_RCVBUF)):
                sock.setsockopt(socket.SOL_SOCKET, option, 4096)
        self.peer.setblocking(False)
        self._stream = SocketStream(ours)
        self.client = kind("ws://localhost/", **options)
        self.client._open = lambda: None
        self.loop.call_soon(self.client.start, self.loop)
        self.spin()
        if opened:
            self.open()

    def open(self):
        self.loop.call_soon(self.client._opened, fakes.opened(self._stream), None)
        self.spin()

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.loop.close()
        self._stream.close()
        self.peer.close()

    def spin(self, turns=5):
        for _ in range(turns):
            self.loop.run_once(0)

    def call(self, function):
        """Call it in the loop's thread."""
        self.loop.call_soon(function)
        self.spin()

    def take(self):
        """All that the client has sent, and sends when there is room."""
        data, turns = bytearray(), 0  # which grows in linear time
        while turns < 5:
            try:
                data += self.peer.recv(65536)
                turns = 0
            except BlockingIOError:
                turns += 1
            self.loop.run_once(0)
        return bytes(data)


def parsed(data):
    """(opcode, payload) of each frame; the last may be cut."""
    found, at = [], 0
    while at + 2 <= len(data):
        n, begin = data[at + 1] & 127, at + 2
        if n > 125:
            begin += 2 if n == 126 else 8
            n = int.from_bytes(data[at + 2 : begin], "big")
        key, begin = data[begin : begin + 4], begin + 4
        payload = data[begin : begin + n]
        found.append((data[at] & 15, mask(payload, key)))
        at = begin + n
    return found
