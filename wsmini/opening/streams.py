"""Streams of bytes, which the opening and the connections read and write, and how to wait for them.

A *stream* is a plain socket (``SocketStream``) or TLS over another stream (``tls.TLSStream``).
``recv`` and ``send`` raise ``BlockingIOError`` where they would have to wait: always while opening
and on loops; in blocking connections with ``DONTWAIT``, without which they wait. How much an open
connection asks for at once is one rule, for all front ends: ``next_read_size``.

``wait`` blocks this thread, with ``poll`` where the system has it, else with ``select``.
"""

from __future__ import annotations

import math
import select
import socket
import struct
import sys
import time
from _thread import get_ident
from collections.abc import Callable

from ..interrupts import pass_on_handlers

# Where a flag makes one call not wait, sockets can stay blocking, which is the fastest way to
# wait for data. Elsewhere they are non-blocking, and polled before each call: Windows has no such
# flag, and other systems than Linux may wait for room to send in spite of it. (As plain integers:
# to combine members of an enum takes microseconds.)
DONTWAIT = int(getattr(socket, "MSG_DONTWAIT", 0)) if sys.platform.startswith("linux") else 0
WAITALL = int(socket.MSG_WAITALL) if DONTWAIT else 0

# How many bytes an open connection asks for: at first, and at most, as reads come back full. What
# is longer falls out of the cache before it is parsed. (For so much, malloc maps memory, but only
# at first.)
READ_SIZE, MAX_READ_SIZE = 32768, 1 << 19
CHUNK = 1 << 17  # while a message is taken in chunks: the longest
LARGE = 65536  # a frame that lacks at least so much is read exactly, without a copy
LAST_READS = 64  # of what comes behind the end, so that closing doesn't reset the connection
HEADER = 10  # bytes; all that is read behind a large frame, so that the next one needs no copy

# What to wait for, as poll has it.
READ, WRITE = int(getattr(select, "POLLIN", 1)), int(getattr(select, "POLLOUT", 4))

# Seconds that the main thread waits without a look at signals: a signal that comes just before the
# system call, or is delivered to another thread, doesn't interrupt the wait.
HEED = 1.0
# Poll takes its timeout as a C int of milliseconds; a longer wait is begun again.
_LONGEST_WAIT = 2.0e6
MAX_WAIT = 86400.0  # seconds; a longer wait wakes once a day: some event loops have limits

SLOW_CLOSE = "the closing handshake took longer than close_timeout"
NO_CLOSE = "the server ended the connection without a Close frame"


class Stream:
    """What streams have; the attributes and answers are those of one that holds nothing itself.

    Attributes:
        sock: the socket, or that of the stream below.
        recv: called with a size and flags, the bytes; ``b""`` at the end.
        send: called with bytes and flags; how many were taken.
        unsent: whether accepted bytes wait for ``flush``.
        busy: whether ``recv`` was left with bytes in its hands.
        unread: whether ``recv`` shall be called again without a wait.
        cut: whether the peer ended without a goodbye, where that takes bytes.
    """

    __slots__ = ("sock",)

    sock: socket.socket
    recv: Callable[..., bytes]
    send: Callable[..., int]

    unsent = busy = cut = False

    @property
    def unread(self) -> bool:
        return False

    def close(self) -> None:
        """Close the socket."""
        self.sock.close()

    def buffered(self) -> bool:
        """Whether there may be bytes to receive that the socket doesn't show."""
        return False

    def flush(self, flags: int = 0) -> bool:
        """Send accepted bytes; whether all of them are sent."""
        return True

    def passed_on(self, taken: int) -> int:
        """How many of the last *taken* bytes the socket has, while ``unsent``: see TLS's."""
        return taken

    def say_goodbye(self) -> None:
        """Say that nothing more will be sent, where that takes bytes."""


class SocketStream(Stream):
    """A stream of bytes over a plain socket, which it owns."""

    __slots__ = ("recv", "send")

    def __init__(self, sock: socket.socket) -> None:
        self.sock, self.recv, self.send = sock, sock.recv, sock.send


def next_read_size(asked: int, came: int, missing: int) -> int:
    """How many bytes to ask for next, after a read.

    Args:
        asked: bytes that the read asked for.
        came: bytes that it returned.
        missing: bytes that a frame lacked before it; 0 if the reader doesn't ask.
    """
    if missing >= LARGE:
        # Behind a large frame that is complete now, another one begins, quite often.
        return HEADER if came == missing else READ_SIZE
    if asked < READ_SIZE or came < READ_SIZE:
        return READ_SIZE
    return min(2 * came, MAX_READ_SIZE) if came == asked else asked


# -- waiting --


def wait(sockets: dict[socket.socket, int], timeout: float | None) -> list[socket.socket]:
    """Block until some of *sockets* are ready or *timeout* seconds are over; those ready."""
    if timeout is not None:
        timeout = min(max(timeout, 0.0), _LONGEST_WAIT)
    # Only the main thread runs signal handlers, and so has to look for them.
    if (timeout is None or timeout > HEED) and in_main_thread():
        left = math.inf if timeout is None else timeout
        while left > HEED:
            ready = _wait_once(sockets, HEED)
            if ready:
                return ready
            left -= HEED  # counted, not measured: the clocks of tests may stand still
        timeout = left
    return _wait_once(sockets, timeout)


def in_main_thread() -> bool:
    """Whether this is the main thread, which runs the handlers of signals."""
    threading = sys.modules.get("threading")  # without it, there are no others, nearly always
    return threading is None or threading.main_thread().ident == get_ident()


def _wait_once(sockets: dict[socket.socket, int], timeout: float | None) -> list[socket.socket]:
    if not hasattr(select, "poll"):
        return _wait_select(sockets, timeout)
    poll = select.poll()
    by_fd = {}
    for sock, events in sockets.items():
        if events:  # poll would tell of a socket that is hung up in any case
            by_fd[sock.fileno()] = sock
            poll.register(sock, events)
    # Rounded up: waking too early would mean waiting once more, for nothing.
    ready = poll.poll(None if timeout is None else int(timeout * 1000) + (timeout > 0))
    return [by_fd[fd] for fd, _ in ready]


def _wait_select(sockets: dict[socket.socket, int], timeout: float | None) -> list[socket.socket]:
    readers = [sock for sock, events in sockets.items() if events & READ]
    writers = [sock for sock, events in sockets.items() if events & WRITE]
    if not readers and not writers:  # Windows refuses to select nothing.
        time.sleep(3600.0 if timeout is None else timeout)
        return []
    # A failed connection attempt is an exceptional condition on Windows.
    ready = select.select(readers, writers, writers, timeout)
    return list(dict.fromkeys(sock for group in ready for sock in group))


def set_receive_timeout(sock: socket.socket, seconds: float) -> bool:
    """Make blocking calls of ``recv`` return after *seconds*; whether that is possible."""
    whole, part = divmod(int(min(max(seconds, 0.01), _LONGEST_WAIT) * 1e6), 1000000)
    # A struct timeval of two longs; of two 64-bit numbers where time has outgrown a long.
    for layout in ("ll", "qq"):
        try:
            value = struct.pack(layout, whole, part)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)
            return True
        except OSError as exc:
            pass_on_handlers(exc)
    return False
