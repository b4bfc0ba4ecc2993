"""``add_reader`` and ``add_writer`` for event loops that have none: Windows' default, say.

One daemon thread for each such loop waits for its sockets, and tells it by
``call_soon_threadsafe``. It starts with the first socket and ends with the last. The loop's thread
alone changes what is watched, and wakes the other by a socket pair; that takes a copy, which is one
step. When some are ready, nothing is watched until it is woken: by their callbacks, when these have
run, so that it doesn't spin. If something else wakes it before, some may be called once too often,
which does as little harm as with other loops.

What is watched is kept by the loop, by a timer, as others keep it in their selectors: not by the
thread. If a loop is closed and forgotten, so are its connections, and the thread ends.
"""

from __future__ import annotations

import asyncio
import selectors
import socket
import threading
from weakref import WeakKeyDictionary, finalize, ref

from ..opening.streams import MAX_WAIT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, MutableMapping

    from ..opening.steps import Cancellable, HostLoop

    Key = tuple[int, int]  # a descriptor, and READ or WRITE
    Callback = tuple[Callable[..., Any], tuple[Any, ...]]

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE

# The hosts are kept by the transports: they keep their loops, which must not be kept from here.
_hosts: MutableMapping[asyncio.AbstractEventLoop, ref[SelectorThreadLoop]] = WeakKeyDictionary()


def host_loop(loop: asyncio.AbstractEventLoop) -> HostLoop:
    """*loop* itself if it can watch sockets, else what can for it."""
    if _watches(loop):
        return loop
    known = _hosts.get(loop)
    host = None if known is None else known()
    if host is None:
        host = SelectorThreadLoop(loop)
        _hosts[loop] = ref(host)
    return host


_able: dict[type, bool] = {}


def _watches(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether *loop* watches sockets; tried once for each kind of loop."""
    kind = type(loop)
    if kind not in _able:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            try:
                loop.add_reader(ours.fileno(), int)
                loop.remove_reader(ours.fileno())
                _able[kind] = True
            except NotImplementedError:
                _able[kind] = False
    return _able[kind]


class SelectorThreadLoop:
    """The host loop for *loop*, which can't watch sockets."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.time, self.call_soon, self.call_later = loop.time, loop.call_soon, loop.call_later
        self._call_soon_threadsafe = loop.call_soon_threadsafe
        self.watched: dict[Key, Callback] = {}
        self._wakeup: socket.socket | None = None
        self._end_thread: Callable[[], object] = int
        self._timer: Cancellable | None = None

    def add_reader(self, fd: int, callback: Callable[..., Any], *args: Any) -> None:
        """As of asyncio's loops."""
        self._add((fd, READ), (callback, args))

    def add_writer(self, fd: int, callback: Callable[..., Any], *args: Any) -> None:
        """As of asyncio's loops."""
        self._add((fd, WRITE), (callback, args))

    def remove_reader(self, fd: int) -> None:
        """As of asyncio's loops."""
        self._remove((fd, READ))

    def remove_writer(self, fd: int) -> None:
        """As of asyncio's loops."""
        self._remove((fd, WRITE))

    def _add(self, key: Key, callback: Callback) -> None:
        self.watched[key] = callback
        if self._wakeup is None:
            self._start()
        else:
            self._wake(self._wakeup)

    def _start(self) -> None:
        """Start the thread."""
        ours, wakeup = socket.socketpair()
        wakeup.setblocking(False)
        self._wakeup = wakeup
        self._end_thread = finalize(self, wakeup.close)  # the thread sees that
        args = ref(self), ours
        threading.Thread(target=_run, args=args, name="wsmini-select", daemon=True).start()
        self._stay()

    def _stay(self) -> None:
        """Be kept by the loop."""
        self._timer = self.call_later(MAX_WAIT, self._stay)

    def _remove(self, key: Key) -> None:
        if self.watched.pop(key, None) is None or self._wakeup is None:
            return
        if self.watched:
            self._wake(self._wakeup)
            return
        self._end_thread()
        self._wakeup = None
        if self._timer is not None:
            self._timer.cancel()

    def _wake(self, wakeup: socket.socket) -> None:
        """Have the thread look at what is watched now."""
        try:
            wakeup.send(b"\0")
        except BlockingIOError:
            pass  # it will wake

    def fire(self, ready: list[Key]) -> None:
        """Have the loop call back for those that are *ready*; in the thread."""
        try:
            self._call_soon_threadsafe(self._call, [(key, self.watched.get(key)) for key in ready])
        except RuntimeError:
            pass  # the loop is closed; who closes the connections ends this thread

    def _call(self, ready: list[tuple[Key, Callback | None]]) -> None:
        """Call back, in the loop's thread, unless that was taken back meanwhile."""
        try:
            for key, callback in ready:
                if callback is not None and self.watched.get(key) is callback:
                    function, args = callback
                    function(*args)
        finally:  # what an exception leaves is ready still
            if self._wakeup is not None:
                self._wake(self._wakeup)


def _run(kept: ref[SelectorThreadLoop], wakeup: socket.socket) -> None:
    """Watch until the other end of *wakeup* is closed; in the thread."""
    wakeup.setblocking(False)
    with wakeup:
        while not _is_closed(wakeup):
            host = kept()
            watched = [] if host is None else list(host.watched)
            del host  # which mustn't be kept while waiting, nor a callback
            ready = _select(wakeup, watched)
            host = kept()
            if ready and host is not None:
                host.fire(ready)
            del host
            if ready:  # wait until the callbacks have run, or something else has changed
                _select(wakeup, [])


def _is_closed(wakeup: socket.socket) -> bool:
    """Take the bytes that have woken us; whether the other end is closed."""
    try:
        while wakeup.recv(4096):
            pass
    except BlockingIOError:
        return False
    return True


def _select(wakeup: socket.socket, watched: list[Key]) -> list[Key]:
    """Block until *wakeup* or some of *watched* are ready; which of these."""
    wanted: dict[int, int] = {}
    for fd, event in watched:
        wanted[fd] = wanted.get(fd, 0) | event
    with selectors.DefaultSelector() as selector:
        selector.register(wakeup, READ)
        for fd, events in wanted.items():
            try:
                selector.register(fd, events)
            except (OSError, ValueError):
                pass  # closed meanwhile: it won't be wanted next time
        try:
            found = {key.fd: events for key, events in selector.select()}
        except OSError:  # select() notices only here what is closed meanwhile: we will be woken
            found = None
    if found is None:
        return _select(wakeup, [])
    return [(fd, event) for fd, event in watched if found.get(fd, 0) & event]
