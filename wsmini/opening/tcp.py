"""TCP connections to the first of many addresses that answers: Happy Eyeballs (RFC 8305)."""

from __future__ import annotations

import errno
import os
import socket
import time
from collections import deque
from itertools import zip_longest

from ..interrupts import pass_on_handlers
from ..sansio.uri import shown_address
from .steps import Wait
from .streams import WRITE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterable, Sequence

    from ..options import SocketOption
    from .resolver import Address
    from .steps import Steps


def interleaved(addresses: Iterable[Address]) -> list[Address]:
    """The address families in turn, beginning with the first one (RFC 8305, 4)."""
    families: dict[int, list[Address]] = {}
    for address in addresses:
        families.setdefault(address[0], []).append(address)
    turns = zip_longest(*families.values())
    return [address for turn in turns for address in turn if address is not None]


def connect_tcp(
    addresses: Iterable[Address],
    delay: float = 0.25,
    source_address: tuple[str, int] | None = None,
    options: Sequence[SocketOption] = (),
) -> Steps[socket.socket]:
    """A non-blocking socket that is connected to one of *addresses*: Happy Eyeballs, RFC 8305.

    An attempt starts when the one before has failed, or *delay* seconds after it; the first to
    connect wins and the others are closed. *options* are set before connecting.

    Raises:
        OSError: of the first attempt to fail, if all do; its message names them all.
    """
    waiting = deque(interleaved(addresses))
    attempts: dict[socket.socket, Address] = {}
    failures: list[tuple[Address, OSError]] = []
    next_start = 0.0
    try:
        while waiting or attempts:
            now = time.monotonic()
            # One address is begun in each round, when it is its turn. Behind a failure, that is at
            # once: next_start isn't in the future then, and so never while nothing is under way.
            if waiting and now >= next_start:
                address = waiting.popleft()
                try:
                    sock = _begin_connect(address, source_address, options)
                except OSError as exc:
                    pass_on_handlers(exc)
                    failures.append((address, exc))
                    continue
                attempts[sock] = address
                next_start = now + delay
            ready = yield Wait(dict.fromkeys(attempts, WRITE), next_start if waiting else None)
            for sock in ready:
                # A socket becomes writable when its attempt has ended, well or not: the kernel says
                # which.
                code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if code == 0:
                    del attempts[sock]
                    return sock
                failures.append((attempts.pop(sock), OSError(code, os.strerror(code))))
                sock.close()
                next_start = 0.0
        raise _no_connection(failures)
    finally:
        # All but the winner, which isn't among them any more.
        for sock in attempts:
            sock.close()


def _begin_connect(
    address: Address, source_address: tuple[str, int] | None, options: Iterable[SocketOption]
) -> socket.socket:
    """A non-blocking socket that is connecting to *address*, or is connected."""
    family, kind, protocol, *_ = address
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setblocking(False)
        configure(sock, options)
        if source_address is not None:
            sock.bind(source_address)
        code = _connect(sock, address)
        # Windows says EWOULDBLOCK. Elsewhere that is EAGAIN: the queue of a Unix socket is full,
        # and nothing is in progress.
        pending = (0, errno.EINPROGRESS, errno.EWOULDBLOCK)
        if code not in pending or code == errno.EAGAIN:
            raise OSError(code, os.strerror(code))
    except BaseException:
        sock.close()
        raise
    return sock


def _connect(sock: socket.socket, address: Address) -> int:
    """As ``connect_ex``, but what it raises has a number, unless it is a signal handler's."""
    try:
        return sock.connect_ex(address[4])
    except OSError as exc:
        if exc.errno is None and str(exc) == "AF_UNIX path too long":  # Python's own, unnumbered
            raise OSError(errno.ENAMETOOLONG, str(exc)) from None
        raise


def configure(sock: socket.socket, options: Iterable[SocketOption] = ()) -> None:
    """Set TCP_NODELAY, where it exists, and then *options*: (level, name, value) each."""
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for option in options:
        sock.setsockopt(*option)


def _no_connection(failures: Sequence[tuple[Address, OSError]]) -> OSError:
    """One exception for all *failures*: of the first one's class, telling each."""
    if not failures:
        return OSError(errno.EADDRNOTAVAIL, "there is no address to connect to")
    first = failures[0][1]
    if len(failures) == 1:
        return first
    each = "; ".join(f"{shown_address(a[4])}: {exc.strerror or exc}" for a, exc in failures)
    # OSError picks the class, such as ConnectionRefusedError, by the number.
    return OSError(first.errno, each)
