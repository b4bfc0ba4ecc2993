"""Name resolution: the addresses of a host, without waiting for the resolver.

Threads: a name that isn't an address is looked up in a daemon thread, because ``getaddrinfo`` can
hang for as long as it likes. The thread owns one end of a socket pair and closes it when it has an
answer; the generator owns the other end and forgets the thread when it is closed first. Nothing
else is shared but the list that the answer is put into before the end is closed.
"""

from __future__ import annotations

import errno
import os
import socket

from .steps import Wait
from .waiting import READ

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Sequence, TypeVar

    from .steps import Steps

    T = TypeVar("T")
    # family, type, protocol, canonical name, address: what getaddrinfo returns
    Address = tuple[int, int, int, str, Any]

MAX_LOOKUPS = 64  # threads that look names up at the same time, hanging ones included

_lookups: set[socket.socket] = set()  # the threads' ends; changed by them without a lock

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_lookups.clear)  # the threads stay with the parent


def resolve(host: str, port: int) -> Steps[Sequence[Address]]:
    """The addresses of *host*, in the resolver's order.

    Raises:
        socket.gaierror: if there are none.
        OSError: if ``MAX_LOOKUPS`` lookups are going on.
    """
    # Bytes need no idna codec, which small systems lack.
    name = host.encode("ascii")
    try:
        return _getaddrinfo(name, port, socket.AI_NUMERICHOST)
    except socket.gaierror:
        pass  # not an address
    return (yield from in_thread(lambda: _getaddrinfo(name, port)))


def in_thread(look_up: Callable[[], T]) -> Steps[T]:
    """What *look_up* returns, called in a thread that is left to itself if that takes too long.

    Raises:
        OSError: if ``MAX_LOOKUPS`` lookups are going on; and whatever *look_up* raises.
    """
    reader, answer = _start_lookup(look_up)
    try:
        while not answer:
            yield Wait({reader: READ}, None)
    finally:
        reader.close()
    found = answer.pop()
    if isinstance(found, BaseException):
        try:
            raise found
        finally:
            del found  # no cycle through the traceback
    return found


def _getaddrinfo(name: bytes, port: int, flags: int = 0) -> Sequence[Address]:
    return socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=flags)


def _start_lookup(
    look_up: Callable[[], T],
) -> tuple[socket.socket, list[T | BaseException]]:
    """Call it in a thread: a socket that gets readable, and where the answer will be."""
    import threading  # not needed for addresses

    if len(_lookups) >= MAX_LOOKUPS:
        raise OSError(errno.EAGAIN, f"{MAX_LOOKUPS} name lookups are going on; does DNS answer?")
    reader, writer = socket.socketpair()
    answer: list[T | BaseException] = []

    def call() -> None:
        try:
            answer.append(look_up())
        except BaseException as exc:  # it belongs to the thread that asked
            answer.append(exc)
        finally:
            _lookups.discard(writer)
            writer.close()

    _lookups.add(writer)
    try:
        threading.Thread(target=call, name="wsmini-lookup", daemon=True).start()
    except BaseException as exc:
        _lookups.discard(writer)
        reader.close()
        writer.close()
        if isinstance(exc, RuntimeError):  # no memory for its stack, mostly: later there may be
            raise OSError(errno.EAGAIN, f"{exc}, which a name lookup needs") from exc
        raise
    return reader, answer
