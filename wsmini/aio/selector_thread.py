"""``add_reader`` and ``add_writer`` for event loops that have none: Windows' default, say.

One daemon thread for each such loop waits for its sockets, and tells it by
``call_soon_threadsafe``. It starts with the first socket and ends with the last. The loop's thread
changes what is watched, under a lock, and wakes the other by a socket pair. A socket that is ready
isn't watched until its callback has run, so that the thread doesn't spin; the callback's outcome is
what the socket is watched for then.

What is watched is kept by the loop, by a timer, as others keep it in their selectors: not by the
thread. If a loop is closed and forgotten, so are its connections, and the thread ends.
"""

from __future__ import annotations

import asyncio
import selectors
import socket
import threading
import weakref

from ..opening.streams import MAX_WAIT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, MutableMapping

    from ..opening.steps import Cancellable, HostLoop

    Callback = tuple[Callable[..., Any], tuple[Any, ...]]

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE

# The hosts are kept by the transports: they keep their loops, which must not be kept from here.
_hosts: MutableMapping[asyncio.AbstractEventLoop, weakref.ref[SelectorThreadLoop]] = (
    weakref.WeakKeyDictionary()
)


def host_loop(loop: asyncio.AbstractEventLoop) -> HostLoop:
    """*loop* itself if it can watch sockets, else what can for it."""
    known = _hosts.get(loop)
    host = None if known is None else known()
    if host is not None:
        return host
    if _watches(loop):
        return loop
    host = SelectorThreadLoop(loop)
    _hosts[loop] = weakref.ref(host)
    return host


_able: dict[type, bool] = {}


def _watches(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether *loop* watches sockets; tried once for each kind of loop."""
    kind = type(loop)
    if kind not in _able:
        ours, theirs = socket.socketpair()
        try:
            loop.add_reader(ours.fileno(), int)
            loop.remove_reader(ours.fileno())
            _able[kind] = True
        except NotImplementedError:
            _able[kind] = False
        finally:
            ours.close()
            theirs.close()
    return _able[kind]


class SelectorThreadLoop:
    """The host loop for *loop*, which can't watch sockets."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        # Not *loop* itself: the dictionary of hosts must not keep it alive.
        self._ref = weakref.ref(loop)
        self.time, self.call_soon, self.call_later = loop.time, loop.call_soon, loop.call_later
        self._lock = threading.Lock()
        self._watched: dict[tuple[int, int], Callback] = {}
        self._fired: dict[tuple[int, int], Callback] = {}  # and its callback hasn't run
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

    def _add(self, key: tuple[int, int], callback: Callback) -> None:
        with self._lock:
            self._watched[key] = callback
            self._fired.pop(key, None)  # the new callback hasn't been told yet
            if self._wakeup is None:
                self._start()
                return
        self._wake()

    def _start(self) -> None:
        """Start the thread."""
        ours, wakeup = socket.socketpair()
        wakeup.setblocking(False)
        self._wakeup = wakeup
        self._end_thread = weakref.finalize(self, wakeup.close)  # the thread sees that
        args = weakref.ref(self), ours
        threading.Thread(target=_run, args=args, name="wsmini-select", daemon=True).start()
        self._stay()

    def _stay(self) -> None:
        """Be kept by the loop."""
        self._timer = self.call_later(MAX_WAIT, self._stay)

    def _remove(self, key: tuple[int, int]) -> None:
        with self._lock:
            self._fired.pop(key, None)
            known = self._watched.pop(key, None)
            if not self._watched and self._wakeup is not None:
                self._end_thread()
                self._wakeup = None
                if self._timer is not None:
                    self._timer.cancel()
                return
        if known is not None:
            self._wake()

    def _wake(self) -> None:
        try:
            if self._wakeup is not None:
                self._wakeup.send(b"\0")
        except BlockingIOError:
            pass  # it will wake

    def _wanted(self) -> dict[int, int]:
        """What to watch now: events by descriptor."""
        wanted: dict[int, int] = {}
        with self._lock:
            for key in self._watched.keys() - self._fired.keys():
                wanted[key[0]] = wanted.get(key[0], 0) | key[1]
        return wanted

    def _fire(self, fd: int, event: int) -> None:
        loop = self._ref()
        with self._lock:
            for key in ((fd, READ), (fd, WRITE)):
                callback = self._watched.get(key)
                if callback is None or not key[1] & event or key in self._fired or loop is None:
                    continue
                self._fired[key] = callback
                try:
                    loop.call_soon_threadsafe(self._call, key, callback)
                except RuntimeError:
                    return  # the loop is closed; who closes the connections ends this thread

    def _call(self, key: tuple[int, int], callback: Callback) -> None:
        """Call back, in the loop's thread, unless that was taken back meanwhile."""
        if self._fired.get(key) is not callback:
            return
        function, args = callback
        try:
            function(*args)
        finally:
            with self._lock:
                if self._fired.get(key) is callback:
                    del self._fired[key]
            self._wake()  # from here on it is watched again


def _run(ref: weakref.ref[SelectorThreadLoop], wakeup: socket.socket) -> None:
    """Watch until the other end of *wakeup* is closed; in the thread."""
    wakeup.setblocking(False)
    with wakeup:
        while not _is_closed(wakeup):
            host = ref()
            wanted = {} if host is None else host._wanted()
            del host  # which mustn't be kept while waiting
            for fd, event in _select(wakeup, wanted):
                host = ref()
                if host is not None and fd != wakeup.fileno():
                    host._fire(fd, event)
                del host


def _is_closed(wakeup: socket.socket) -> bool:
    """Take the bytes that have woken us; whether the other end is closed."""
    try:
        while wakeup.recv(4096):
            pass
    except BlockingIOError:
        return False
    return True


def _select(wakeup: socket.socket, wanted: dict[int, int]) -> Any:
    """Block until some are ready: pairs of descriptor and events."""
    with selectors.DefaultSelector() as selector:
        selector.register(wakeup, READ)
        for fd, events in wanted.items():
            try:
                selector.register(fd, events)
            except (OSError, ValueError):
                pass  # closed meanwhile: it won't be wanted next time
        return [(key.fd, events) for key, events in selector.select()]
