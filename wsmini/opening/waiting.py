"""Waiting for sockets: to be readable or writable, or until the time is over.

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

from ..interrupts import pass_on_handlers

READ, WRITE = 1, 2

# Seconds that the main thread waits without a look at signals: a signal that comes just before the
# system call, or is delivered to another thread, doesn't interrupt the wait.
HEED = 1.0
# Poll takes its timeout as a C int of milliseconds; a longer wait is begun again.
_LONGEST_WAIT = 2.0e6
MAX_WAIT = 86400.0  # seconds; a longer wait wakes once a day: some event loops have limits


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
        if not events:
            continue  # poll would tell of a socket that is hung up in any case
        fd = sock.fileno()
        by_fd[fd] = sock
        poll.register(
            fd, (select.POLLIN if events & READ else 0) | (select.POLLOUT if events & WRITE else 0)
        )
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
        except OSError as exc:
            pass_on_handlers(exc)
            continue
        return True
    return False
