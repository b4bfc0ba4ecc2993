"""A relay that records a connection, and a parser for what was recorded that isn't wsmini's."""

from __future__ import annotations

import socket
import threading
from collections import namedtuple

Frame = namedtuple("Frame", "opcode fin rsv1 masked payload")


class Tap:
    """Relays one connection to *port*; ``port`` is where to connect to instead.

    After the block, ``sent`` and ``received`` hold the client's frames and the server's.
    """

    def __init__(self, port):
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._target = port
        self._streams = [bytearray(), bytearray()]
        self._thread = threading.Thread(target=self._relay)
        self._thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes up who waits to accept
        except OSError:
            pass
        self._thread.join()
        self._listener.close()

    def wait(self):
        """Wait until both sides have hung up."""
        self._thread.join(10)
        assert not self._thread.is_alive()
        return self

    def _relay(self):
        try:
            client, _ = self._listener.accept()
        except OSError:
            return  # Nobody came.
        with client, socket.create_connection(("127.0.0.1", self._target)) as server:
            upwards = threading.Thread(target=pump, args=(client, server, self._streams[0]))
            upwards.start()
            pump(server, client, self._streams[1])
            upwards.join()

    @property
    def sent(self):
        return list(frames(self._streams[0]))

    @property
    def received(self):
        return list(frames(self._streams[1]))


def pump(source, sink, record):
    """Copy until the end of *source*, which is passed on; nobody is there to be told of errors."""
    try:
        for data in iter(lambda: source.recv(65536), b""):
            record += data
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def frames(stream):
    """The frames behind the HTTP head of *stream* (RFC 6455, 5.2), unmasked, still compressed."""
    pos = stream.index(b"\r\n\r\n") + 4
    while pos < len(stream):
        first, second = stream[pos : pos + 2]
        pos += 2
        size = second & 127
        if size > 125:
            width = 2 if size == 126 else 8
            size = int.from_bytes(stream[pos : pos + width], "big")
            pos += width
        key = bytes(4)
        if second & 128:
            key = stream[pos : pos + 4]
            pos += 4
        payload = stream[pos : pos + size]
        mask = (key * (size // 4 + 1))[:size]
        data = int.from_bytes(payload, "big") ^ int.from_bytes(mask, "big")
        unmasked = data.to_bytes(size, "big")
        yield Frame(first & 15, first >= 128, bool(first & 64), second >= 128, unmasked)
        pos += size
