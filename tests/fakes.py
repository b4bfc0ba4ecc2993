"""Time that passes only while a loop has nothing to do."""

from __future__ import annotations

import errno
import selectors
from types import SimpleNamespace

from wsmini.opening.streams import SocketStream


class Clock:
    """A monotonic and a wall clock; ``sleep`` moves the wall clock alone, as a lid does."""

    def __init__(self, now=1000.0):
        self.now = now
        self.slept = 0.0

    def __call__(self):
        return self.now

    def wall(self):
        return 1e9 + self.now + self.slept

    def sleep(self, seconds):
        self.slept += seconds


class Selector(selectors.DefaultSelector):
    """Real descriptors; but where it would wait, it moves the clock to the end of the wait.

    ``selects`` counts how often it was asked: each is a wake-up.
    """

    def __init__(self, clock):
        super().__init__()
        self.clock = clock
        self.selects = 0

    def select(self, timeout=None):
        self.selects += 1
        ready = super().select(0)
        if not ready and timeout:
            self.clock.now += timeout
        return ready


class Fruitless(SocketStream):
    """As TLS is whose peer sends records without data: it has read all, and looks at it bit by bit.

    Args:
        count: how often ``recv`` finds nothing in front of what has come.
    """

    __slots__ = ("count", "kept")

    def __init__(self, sock, count):
        super().__init__(sock)
        self.count, self.kept, self.recv = count, b"", self._recv

    def _recv(self, size, flags=0):
        self.kept = self.kept or self.sock.recv(1 << 16, flags)
        if self.kept and self.count:
            self.count -= 1
            raise BlockingIOError(errno.EAGAIN, "no data")
        data, self.kept = self.kept[:size], self.kept[size:]
        return data

    @property
    def unread(self):
        return bool(self.kept)

    def buffered(self):
        return self.unread


def opened(stream, rest=b"", extensions=()):
    """The result of an opening that was none."""
    return SimpleNamespace(
        stream=stream, request=None, response=None, subprotocol=None, timings={}, ssl_object=None,
        extensions=list(extensions), rest=rest,
    )  # fmt: skip
