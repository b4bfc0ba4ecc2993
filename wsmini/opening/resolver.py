"""Name resolution: the addresses of a host, without waiting for the resolver.

Threads: a name that isn't an address is looked up in a daemon thread, because ``getaddrinfo`` can
hang for as long as it likes. Openings that ask for the same name at the same time share a
``Lookup``; beyond ``MAX_LOOKUPS`` threads, look-ups queue. A generator that waits owns one end of a
socket pair, the look-up closes the other one when it has the answer. Nothing here takes a lock:
each step is one operation of a list, a set, a dictionary or a deque. Each side first puts down what
the other one looks for, and then looks itself: so one of two that come at once sees the other.
"""

from __future__ import annotations

import os
import socket
import time
from collections import deque

from ..interrupts import mark_failure
from .steps import Wait
from .streams import READ

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Sequence, TypeVar

    from .steps import Steps

    T = TypeVar("T")
    # family, type, protocol, canonical name, address: what getaddrinfo returns
    Address = tuple[int, int, int, str, Any]

MAX_LOOKUPS = 64  # threads that look names up at the same time, hanging ones included
SHARED_FOR = 5.0  # seconds after which a look-up that hangs is no longer joined by others

_threads: set[object] = set()  # one token for each
_queue: deque[Lookup] = deque()  # not begun
_shared: dict[object, Lookup] = {}  # by what is looked up


def _forget_threads() -> None:
    """In a forked child: the threads stay with the parent."""
    _threads.clear()
    _queue.clear()
    _shared.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)


class Lookup:
    """A call that takes its time in a thread, and the openings that wait for its answer.

    Attributes:
        key: what tells that another call would give the same; ``None`` if none does.
        answer: what it has returned or raised, once it is there.
        waiters: sockets, each closed when the answer is there.
    """

    __slots__ = ("_call", "answer", "begun", "key", "waiters")

    def __init__(self, call: Callable[[], Any], key: object) -> None:
        self._call, self.key = call, key
        self.answer: list[Any] = []
        self.waiters: list[socket.socket] = []
        self.begun = time.monotonic()

    def run(self) -> None:
        """Make the call, and wake the openings that wait."""
        try:
            self.answer.append(self._call())
        except BaseException as exc:  # raised again in the openings that wait
            self.answer.append(exc.with_traceback(None))  # whose frames would make a cycle
        self.withdraw()
        while self.waiters:
            try:
                self.waiters.pop().close()
            except IndexError:
                break  # one has given up just now

    def withdraw(self) -> None:
        """Let no other opening join."""
        if _shared.get(self.key) is self:
            _shared.pop(self.key, None)

    def leave(self, waiter: socket.socket) -> None:
        """Take *waiter* off. A look-up without waiters isn't begun."""
        _discard(self.waiters, waiter)
        if not self.waiters:
            self.withdraw()
            if not self.waiters:  # nor has another joined until just now
                _discard(_queue, self)


def _discard(items: list[T] | deque[T], item: T) -> None:
    try:
        items.remove(item)
    except ValueError:
        pass  # another thread has taken it


def resolve(host: str, port: int, family: int = 0) -> Steps[Sequence[Address]]:
    """The addresses of *host*, in the resolver's order.

    Args:
        host: in ASCII.
        family: the only one to look for; 0 for any.

    Raises:
        socket.gaierror: if there are none.
    """
    if _is_genuine():
        try:
            return _getaddrinfo(host, port, family, socket.AI_NUMERICHOST)
        except socket.gaierror:
            pass  # not an address
    asked = (host, port, family)
    return (yield from in_thread(lambda: _getaddrinfo(*asked), asked))


def in_thread(look_up: Callable[[], T], key: object = None) -> Steps[T]:
    """Call *look_up* in a thread, which is left to itself if it takes too long; its result.

    Where no thread can be started (after the end of the main thread, say, or where their number is
    limited), it is called in this one.

    Args:
        key: as that of the ``Lookup``.

    Raises:
        Exception: whatever *look_up* raises.
    """
    reader, writer = socket.socketpair()
    with reader, writer:
        lookup = Lookup(look_up, key)
        # In the list before others can find the look-up: it is never seen without a waiter, and so
        # never withdrawn by another thread before we wait.
        lookup.waiters.append(writer)
        # What a signal handler interrupts in here, _join() too, must not be found by others: it may
        # never begin.
        try:
            lookup = _join(lookup, writer)
            while not lookup.answer:
                yield Wait({reader: READ}, None)
        finally:
            lookup.leave(writer)
    found = lookup.answer[0]
    if isinstance(found, BaseException):
        try:
            if key is not None and isinstance(found, OSError):
                # Others may have got it, too, and each adds what it knows.
                found = type(found)(*found.args)
            raise mark_failure(found)
        finally:
            del found, lookup  # no cycle through the traceback
    result: T = found
    return result


def _join(new: Lookup, waiter: socket.socket) -> Lookup:
    """Let *waiter* wait for a look-up that is under way, or begin the *new* one."""
    key = new.key
    if key is not None:
        found = _shared.setdefault(key, new)
        if found is not new and new.begun - found.begun <= SHARED_FOR:
            # Joined first, then checked: an answer that comes in between closes this waiter, too; a
            # look-up that was withdrawn in between may not run any more.
            found.waiters.append(waiter)
            if found.answer or _shared.get(key) is found:
                return found
            _discard(found.waiters, waiter)  # the last one before us left meanwhile
        _shared[key] = new
    # In the queue first: a thread that is about to end sees it, or we see that the thread has gone.
    _queue.append(new)
    if len(_threads) < MAX_LOOKUPS:
        _start_thread(new)
    return new


def _start_thread(lookup: Lookup) -> None:
    import threading  # not needed for addresses

    token = object()
    try:
        _threads.add(token)
        thread = threading.Thread(target=_work, args=(token,), name="wsmini-lookup", daemon=True)
        thread.start()
    # There can be no more threads (RuntimeError), or a signal handler has raised.
    except BaseException as exc:
        _threads.discard(token)
        if not isinstance(exc, RuntimeError):
            raise
        if not _threads:  # else one of these goes on with it
            _discard(_queue, lookup)
            lookup.run()


def _work(token: object) -> None:
    """Look up what is in the queue; in a thread."""
    while True:
        try:
            lookup = _queue.popleft()
        except IndexError:
            break
        lookup.run()
    _threads.discard(token)
    # An opening that saw MAX_LOOKUPS threads has put its look-up there, and started none.
    if _queue and len(_threads) < MAX_LOOKUPS:
        _start_thread(_queue[0])


def _is_genuine() -> bool:
    """Whether ``socket.getaddrinfo`` is that of the standard library.

    Programs replace it, to pin a name or to have IPv4 only. (A wrapper can take over the name and
    the module, but not the globals.)
    """
    return getattr(socket.getaddrinfo, "__globals__", None) is vars(socket)


def _getaddrinfo(host: str, port: int, family: int, flags: int = 0) -> Sequence[Address]:
    try:
        if _is_genuine():
            # Bytes need no idna codec, which small systems lack, and which takes 300 KiB.
            name = host.encode("ascii")
            return socket.getaddrinfo(name, port, family, socket.SOCK_STREAM, 0, flags)
        # As http.client and urllib3 call it, which replacements are made for.
        return list(socket.getaddrinfo(host, port, family, socket.SOCK_STREAM))
    except UnicodeError as exc:
        raise socket.gaierror(socket.EAI_NONAME, f"{host!r} is no name: {exc}") from exc
