"""A small event loop on epoll or ``selectors``: many sockets, timers and signals in one thread.

It knows nothing of WebSocket; the names are asyncio's. One thread runs it, and only that thread
may call its methods, but for ``call_soon_threadsafe`` and ``stop``, which any thread and any signal
handler may call. Nothing here waits but ``select``, and that only until the next timer is due: an
idle loop doesn't wake up.

One iteration, ``_turn``: wait; put what is due (descriptors, wake-ups, timers) into the ready
queue; call what was in that queue when the waiting ended. Callbacks are called nowhere else. What
one raises goes to ``on_error``, or leaves ``run_forever()`` or ``run_once()``; the rest stays in
the queue, so that the loop can go on. If it was a bound method, its object hears of the exception
first: a client may have ``on_error`` itself (``_on_loop_error``), and a transport has to know
whether it was interrupted in the middle of something (``_recover``).

Wake-up: one end of a socket pair is always registered. A thread, or a signal handler, appends to
the queue first, then sends a byte unless the loop is awake (``_awake``), or will be for another
byte, and will look at the queue before it sleeps. Before it does, the loop resets that flag, and
only then looks at the queue, so no call is left lying. Python writes the numbers of signals to the
same descriptor (``signal.set_wakeup_fd``), from C and at any moment.

A signal handler may raise between two bytecodes of the loop: what is in the queue or the heap is
taken out only when it is known to the next step.

A cancelled timer leaves its callback at once, and the heap as soon as half of that is cancelled.
After ``fork`` the child would share the parent's descriptors, epoll's included: a loop refuses to
be used in a child. ``close()`` works there, and touches nothing of the parent's.
"""

from __future__ import annotations

import os
import select
import selectors
import socket
import time
from _thread import get_ident
from collections import deque
from heapq import heapify, heappop, heappush
from itertools import count

from ..clock import suspend_detector

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any, Callable, Protocol, Sequence

    class HasFileno(Protocol):
        """A socket, a pipe, a serial port."""

        def fileno(self) -> int: ...

    File = int | HasFileno
    Callback = Callable[..., object]

LONGEST_WAIT = 86400.0  # seconds; poll and epoll count milliseconds in an int
MOST_EVENTS = 64  # descriptors of one iteration; with more than that, others come in the next one
MIN_CANCELLED = 64  # timers that may lie cancelled in the heap, however short it is

_COROUTINE = 0x80 | 0x200  # inspect's CO_COROUTINE and CO_ASYNC_GENERATOR; inspect is large

_forks = 0
READ, WRITE = 1, 4  # epoll's; what else it may report, errors, concerns both


def _after_fork() -> None:
    global _forks
    _forks += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class Handle:
    """A call to come. ``cancel()`` it any number of times, also after it has happened."""

    __slots__ = ("_args", "_callback")

    def __init__(self, callback: Callback, args: tuple[Any, ...]) -> None:
        self._callback: Callback | None = callback
        self._args = args

    def cancel(self) -> None:
        """Don't call; and forget the callback and its arguments."""
        self._callback, self._args = None, ()

    def cancelled(self) -> bool:
        """Whether it was cancelled."""
        return self._callback is None


class Timer(Handle):
    """A call at a certain time. Attribute: ``when``, in seconds of the loop's clock."""

    __slots__ = ("_loop", "when")

    def __init__(self, when: float, callback: Callback, args: tuple[Any, ...], loop: Loop) -> None:
        super().__init__(callback, args)
        self.when = when
        self._loop: Loop | None = loop  # while in its heap

    def cancel(self) -> None:
        """As ``Handle.cancel``."""
        if self._callback is not None:
            super().cancel()
            loop, self._loop = self._loop, None
            if loop is not None:
                loop._forget_timer()


class Loop:
    """An event loop: sockets, timers and signals, in the thread that runs it.

    That thread alone may call its methods, but for ``call_soon_threadsafe`` and ``stop``. Close it
    when done: ``with Loop() as loop:`` does.

    Args:
        on_error: ``(loop, exception)``: what a callback has raised; without it, that leaves
            ``run_forever()``. What it raises itself does.
        clock: what ``time()`` returns: seconds that never go backwards.
        wall: seconds of a clock that goes on while the machine sleeps.
        selector: to wait with, instead of the system's best.
    """

    def __init__(
        self,
        *,
        on_error: Callable[[Loop, Exception], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        selector: selectors.BaseSelector | None = None,
    ) -> None:
        check_callback("on_error", on_error)
        self.time, self._on_error = clock, on_error
        self._ready: deque[Handle] = deque()
        self._timers: list[tuple[float, int, Timer]] = []
        self._serial = count()  # timers of the same time fire in the order in which they were set
        self._cancelled = 0
        self._stopping = self._closed = False
        self._forks = _forks  # of this process's ancestors when the loop was made
        self.thread = 0  # get_ident() of the thread that is inside, 0 if none is
        self._signals: dict[int, tuple[Handle, Any]] = {}  # and the handler to be restored
        self._unheard: set[int] = set()  # signals that came, and their callbacks haven't run
        self._old_wakeup = -1
        self._sleep_handlers: dict[Callback, None] = {}
        self._slept = suspend_detector(clock(), wall)
        # What is watched, by its descriptor; and the objects, to find those that are closed.
        self._readers: dict[int, Handle] = {}
        self._writers: dict[int, Handle] = {}
        self._objects: dict[int, File] = {}
        self._selector: select.epoll | _Selector = _new_selector(selector)
        self._waker, self._woken_by = socket.socketpair()
        self._waker.setblocking(False)
        self._woken_by.setblocking(False)
        self._awake = False
        # Those that haven't ended. (A set of many takes four times the memory.)
        self._clients: dict[Any, None] = {}
        self._hears = self._woken_by.fileno()
        self._selector.register(self._hears, READ)

    def __enter__(self) -> Loop:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    # -- calls --

    def call_soon(self, callback: Callback, *args: Any) -> Handle:
        """Call ``callback(*args)`` in the next iteration; the handle can cancel it."""
        handle = Handle(callback, args)
        self._ready.append(handle)
        return handle

    def call_soon_threadsafe(self, callback: Callback, *args: Any) -> Handle:
        """Call ``callback(*args)`` soon, from any thread or signal handler: wakes the loop up.

        Raises:
            RuntimeError: if the loop is closed, or in a forked child.
        """
        self._check()
        handle = self.call_soon(callback, *args)
        self._wake()
        return handle

    def call_later(self, delay: float, callback: Callback, *args: Any) -> Timer:
        """Call ``callback(*args)``, *delay* seconds from now."""
        return self.call_at(self.time() + delay, callback, *args)

    def call_at(self, when: float, callback: Callback, *args: Any) -> Timer:
        """Call ``callback(*args)`` at *when*, in seconds of ``time()``."""
        timer = Timer(when, callback, args, self)
        heappush(self._timers, (when, next(self._serial), timer))
        return timer

    def _forget_timer(self) -> None:
        """One more timer in the heap is cancelled."""
        self._cancelled += 1
        if self._cancelled > MIN_CANCELLED and self._cancelled * 2 > len(self._timers):
            self._timers = [entry for entry in self._timers if not entry[2].cancelled()]
            heapify(self._timers)
            self._cancelled = 0

    # -- descriptors --

    def add_reader(self, file: File, callback: Callback, *args: Any) -> None:
        """Call ``callback(*args)`` whenever *file* is readable, or at its end.

        Args:
            file: a descriptor, or an object with ``fileno()``. Remove it before closing it.
            callback, args: instead of those of the reader that it has, if it has one.

        Raises:
            OSError, ValueError: if the selector can't wait for it.
        """
        self._add(file, READ, Handle(callback, args))

    def add_writer(self, file: File, callback: Callback, *args: Any) -> None:
        """Call ``callback(*args)`` whenever *file* is writable; otherwise as ``add_reader``."""
        self._add(file, WRITE, Handle(callback, args))

    def remove_reader(self, file: File) -> bool:
        """Don't call any more, even if *file* is readable now; whether there was a reader."""
        return self._remove(file, READ)

    def remove_writer(self, file: File) -> bool:
        """Don't call any more, even if *file* is writable now; whether there was a writer."""
        return self._remove(file, WRITE)

    def _add(self, file: File, event: int, handle: Handle) -> None:
        self._check()
        fd, handlers = self._descriptor(file), self._handlers(event)
        before = self._events(fd)
        if not before & event:
            self._watch(fd, before, before | event)
        if not isinstance(file, int):
            self._objects.setdefault(fd, file)
        # The selector first: it may refuse the descriptor, or be interrupted, and a descriptor that
        # is watched for nobody is found by _take_events(); one with a handler only never would.
        old = handlers.get(fd)
        handlers[fd] = handle
        if old is not None:
            old.cancel()

    def _remove(self, file: File, event: int) -> bool:
        if self._closed:
            return False
        self._check()
        try:
            fd = self._descriptor(file)
        except ValueError:
            return False  # closed, and not watched
        handle = self._handlers(event).pop(fd, None)
        if handle is None:
            return False
        handle.cancel()
        after = self._events(fd)
        if not after:
            self._objects.pop(fd, None)
        self._watch(fd, after | event, after)
        return True

    def _handlers(self, event: int) -> dict[int, Handle]:
        return self._readers if event == READ else self._writers

    def _events(self, fd: int) -> int:
        """What *fd* is to be watched for."""
        return READ * (fd in self._readers) | WRITE * (fd in self._writers)

    def _watch(self, fd: int, before: int, after: int) -> None:
        """Have the selector watch *fd* for the events *after*, instead of *before*.

        A call that was interrupted may have left it with more than is known; never with less.
        """
        if not after:
            try:
                self._selector.unregister(fd)
            except OSError:
                pass  # closed before
        elif before:
            self._selector.modify(fd, after)
        else:
            try:
                self._selector.register(fd, after)
            except FileExistsError:
                self._selector.modify(fd, after)

    def _descriptor(self, file: File) -> int:
        """The descriptor of *file*; if it is closed, the one by which it was watched.

        Raises:
            ValueError: if there is none.
        """
        try:
            fd = file if isinstance(file, int) else int(file.fileno())
        except (AttributeError, TypeError, ValueError):
            fd = -1
        if fd >= 0:
            return fd
        for fd, watched in self._objects.items():
            if watched is file:
                return fd
        raise ValueError(f"there is no descriptor to watch: {file!r}")

    # -- signals --

    def add_signal_handler(self, number: int, callback: Callback, *args: Any) -> None:
        """Call ``callback(*args)`` from the loop when signal *number* comes; in the main thread.

        If it comes again before the loop got around to the callback, which some other callback
        holds up, what the signal did before happens: Ctrl-C raises ``KeyboardInterrupt``.

        Raises:
            ValueError: if this isn't the main thread, of the main interpreter.
            OSError: if there is no such signal, or it can't be handled.
        """
        import signal

        self._check()
        handle = Handle(callback, args)
        if number in self._signals:
            self._signals[number] = handle, self._signals[number][1]
            return
        # Set anew with each signal, as the program may have set another one in between. A full pipe
        # is no reason to complain: the loop will wake up anyway.
        old_wakeup = signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        if not self._signals:
            self._old_wakeup = old_wakeup
        try:
            previous = signal.signal(number, self._on_signal)
            # Python retries what a signal interrupts (PEP 475), but extensions in C may not.
            if hasattr(signal, "siginterrupt"):
                signal.siginterrupt(number, False)
        except BaseException:
            if not self._signals:
                signal.set_wakeup_fd(self._old_wakeup)
            raise
        self._signals[number] = handle, previous

    def remove_signal_handler(self, number: int) -> bool:
        """Restore what signal *number* did before; whether there was a handler."""
        import signal

        if number not in self._signals:
            return False
        handle, previous = self._signals.pop(number)
        handle.cancel()
        self._unheard.discard(number)  # or a handler's first signal would count as its second
        # None: it wasn't set from Python, and can't be restored.
        signal.signal(number, signal.SIG_DFL if previous is None else previous)
        if not self._signals:
            signal.set_wakeup_fd(self._old_wakeup)
        return True

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """Python's handler, in the main thread at any moment; the loop hears by the descriptor."""
        if number not in self._unheard:
            self._unheard.add(number)  # the loop hears of it: Python has written to the descriptor
            return
        # The second one, and the loop doesn't get round to the first: as if there were no loop.
        previous = self._signals[number][1] if number in self._signals else None
        if callable(previous):
            previous(number, frame)
        elif previous is not None and previous == 0:  # SIG_DFL
            self.remove_signal_handler(number)
            os.kill(os.getpid(), number)

    # -- sleep --

    def add_sleep_handler(self, callback: Callback) -> None:
        """Call *callback* from now on whenever the machine or the process turns out to have slept.

        That is noticed at the first wake-up after it: the wall clock has gone ahead of the
        monotonic one, or a wait was longer than it should have been, by 5 seconds.
        """
        self._sleep_handlers[callback] = None

    def remove_sleep_handler(self, callback: Callback) -> None:
        """Undo ``add_sleep_handler`` of this *callback*."""
        self._sleep_handlers.pop(callback, None)

    # -- running --

    def run_forever(self) -> None:
        """Run until ``stop()``.

        Raises:
            RuntimeError: if it runs already, is closed, or in a forked child.
            BaseException: whatever a callback raises.
        """
        self._run(False)

    def run_until_done(self) -> None:
        """Run until every ``Client`` that was started on this loop has ended, or until ``stop()``.

        Raises:
            RuntimeError, BaseException: as ``run_forever``.
        """
        self._run(True)

    def _run(self, until_done: bool) -> None:
        self._check_idle()
        try:
            self.thread = get_ident()
            # Not a condition: since 3.13, its jump back isn't in this try.
            while True:
                if self._stopping or (until_done and not self._clients):
                    break
                self._turn(None)
            self.thread, self._stopping, self._awake = 0, False, False
        except BaseException:
            self.thread, self._stopping, self._awake = 0, False, False
            raise

    def run_once(self, timeout: float | None = None) -> None:
        """Wait until there is something to do, at most *timeout* seconds, and do it.

        Raises:
            RuntimeError, BaseException: as ``run_forever``.
        """
        self._check_idle()
        try:
            self.thread = get_ident()
            self._turn(timeout)
            self.thread, self._awake = 0, False
        except BaseException:  # not finally, at whose beginning Python 3.8 and 3.9 look for signals
            self.thread, self._awake = 0, False
            raise

    def _check_idle(self) -> None:
        if self._closed or self.thread or self._forks != _forks:
            self._check()
            raise RuntimeError("the loop runs already; a callback can't run it once more")

    def timeout(self) -> float | None:
        """Seconds until ``run_once(0)`` is due, if ``fileno()`` isn't readable before.

        0 if something is ready, ``None`` if nothing is planned. For embedding: ask before each wait
        of the foreign loop.
        """
        if self._ready:
            return 0.0
        self._drop_cancelled()
        return max(0.0, self._timers[0][0] - self.time()) if self._timers else None

    def fileno(self) -> int:
        """The selector's own descriptor, which is readable when a descriptor or wake-up is there.

        Raises:
            NotImplementedError: if the selector has none; epoll's and kqueue's do.
        """
        return self._selector.fileno()

    def stop(self) -> None:
        """Have ``run_forever`` return after this iteration, or when called next. Thread-safe."""
        if self._closed:
            return
        self._check()
        self._stopping = True
        self._awake = False  # it may have looked at _stopping already
        self._wake()

    def close(self) -> None:
        """Restore the signals, and release the descriptors and all that waits to be called.

        What was registered isn't closed. Not from a callback. May be called again.

        Raises:
            RuntimeError: if the loop runs.
        """
        if self._closed:
            return
        if self.thread:
            raise RuntimeError("the loop runs; stop() it first")
        if self._forks == _forks:
            for number in list(self._signals):
                self.remove_signal_handler(number)
        self._closed = True
        self._selector.close()
        self._waker.close()
        self._woken_by.close()
        self._readers.clear()
        self._writers.clear()
        self._objects.clear()
        self._ready.clear()
        for _, _, timer in self._timers:
            timer._loop = None  # so that cancelling one later doesn't count in an empty heap
        self._timers.clear()
        self._sleep_handlers.clear()

    def is_closed(self) -> bool:
        """Whether ``close()`` was called."""
        return self._closed

    def _check(self) -> None:
        if self._closed:
            raise RuntimeError("the loop is closed")
        if self._forks != _forks:
            raise RuntimeError("the loop belongs to the parent process: make a new one after fork")

    def _wake(self) -> None:
        """Have the loop look at its queue before it sleeps on."""
        if self._awake:
            return
        try:
            self._awake = True  # as good as: it will be
            self._waker.send(b"\0")
        except BaseException as exc:
            # The network's: it is full, or closed meanwhile. Any other is a signal handler's.
            if not isinstance(exc, OSError) or exc.errno is None:
                self._awake = False
                raise

    def _hear(self) -> None:
        """Take the bytes of wake-ups and signals."""
        try:
            data = self._woken_by.recv(4096)
        except BlockingIOError:
            return
        for number in data:
            if number in self._signals:
                self._ready.append(Handle(self._signal, (number,)))

    def _signal(self, number: int) -> None:
        self._unheard.discard(number)
        if number in self._signals:
            handle = self._signals[number][0]
            if handle._callback is not None:
                handle._callback(*handle._args)

    def _turn(self, timeout: float | None) -> None:
        """Wait, make ready what is due, and call what is ready.

        One function, as each call of another would cost a percent of a short round trip.
        """
        if self._forks != _forks:
            self._check()
        ready, timers, get_time, readers = self._ready, self._timers, self.time, self._readers
        start = get_time()
        limit = LONGEST_WAIT if timeout is None else max(0.0, min(timeout, LONGEST_WAIT))
        self._awake = False  # before the look at the queue: see above
        if ready:
            limit = 0.0
        elif timers:
            if timers[0][2]._callback is None:
                self._drop_cancelled()
            left = timers[0][0] - start if timers else limit
            if left < limit:
                limit = left if left > 0.0 else 0.0
        for fd, events in self._selector.poll(limit, MOST_EVENTS):
            if events == READ and fd in readers:
                ready.append(readers[fd])
            else:
                self._take_events(fd, events)
        self._awake = True
        now = get_time()
        if self._slept(now, start + limit):  # a wait that is over late shows it, too
            for handler in self._sleep_handlers:
                self.call_soon(handler)
            for client in list(self._clients):  # a handler of its own would cost each much memory
                self.call_soon(client._wake)
        if timers and timers[0][0] <= now:
            self._take_due(now)
        callback = None
        try:
            for _ in range(len(ready)):  # what these add comes in the next iteration
                handle = ready[0]
                callback, args = handle._callback, handle._args
                ready.popleft()  # only now: an exception in between would lose the call
                if callback is None:
                    continue
                if args:
                    callback(*args)
                else:  # faster by a tenth of a microsecond
                    callback()
        except BaseException as exc:
            if not self._settle(callback, exc):
                raise

    def _settle(self, callback: Callback | None, exc: BaseException) -> bool:
        """*callback* has raised *exc*, or a signal handler has meanwhile; whether that is heard."""
        owner = getattr(callback, "__self__", None)
        recover = getattr(owner, "_recover", None)
        if recover is not None:
            recover()
        if not isinstance(exc, Exception):
            return False
        on_error = getattr(owner, "_on_loop_error", None)
        if on_error is not None and on_error(exc):
            return True
        if self._on_error is None:
            return False
        self._on_error(self, exc)
        return True

    def _take_events(self, fd: int, events: int) -> None:
        """Make ready what is to be called for *events* of *fd*."""
        if fd == self._hears:
            self._hear()
            return
        reader = self._readers.get(fd) if events & ~WRITE else None
        writer = self._writers.get(fd) if events & ~READ else None
        if reader is not None:
            self._ready.append(reader)
        if writer is not None:
            self._ready.append(writer)
        if reader is None and writer is None:  # a call was interrupted that added or removed it
            self._watch(fd, events, self._events(fd))

    def _drop_cancelled(self) -> None:
        """Drop cancelled timers that would be the next ones."""
        timers = self._timers
        while timers and timers[0][2].cancelled():
            heappop(timers)
            self._cancelled -= 1

    def _take_due(self, now: float) -> None:
        """Make the timers ready that are due."""
        ready, timers = self._ready, self._timers
        while timers and timers[0][0] <= now:
            timer = timers[0][2]
            if timer.cancelled():
                self._cancelled -= 1
            elif timer._loop is not None or timer not in ready:  # it is, if this was interrupted
                timer._loop = None
                ready.append(timer)
            heappop(timers)


def check_callback(name: str, callback: object) -> None:
    """Raise ``TypeError`` unless *callback* can be one, or is ``None``."""
    function = getattr(callback, "func", callback)  # of a functools.partial
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    if callback is None:
        return
    if not callable(callback):
        raise TypeError(f"{name} is a function, not {callback!r}")
    if code is not None and code.co_flags & _COROUTINE:
        raise TypeError(f"{name} is an async function: wsmini.aio has an API for those")


class _Selector:
    """A selector that looks as epoll does, which the loop uses without one in between."""

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self.selector = selector
        self.close, self.unregister = selector.close, selector.unregister

    def register(self, fd: int, events: int) -> None:
        if fd in self.selector.get_map():
            raise FileExistsError(fd)  # as epoll does
        self.selector.register(fd, _swapped(events))

    def modify(self, fd: int, events: int) -> None:
        self.selector.modify(fd, _swapped(events))

    def poll(self, limit: float, most: int) -> Sequence[tuple[int, int]]:
        found = self.selector.select(limit)
        return [(key.fd, READ * (events & 1) | WRITE * (events >> 1)) for key, events in found]

    def fileno(self) -> int:
        if not hasattr(self.selector, "fileno"):
            raise NotImplementedError(f"{type(self.selector).__name__} has no descriptor")
        return int(self.selector.fileno())


def _swapped(events: int) -> int:
    """Epoll's *events* as selectors have them."""
    read = selectors.EVENT_READ if events & READ else 0
    return read | (selectors.EVENT_WRITE if events & WRITE else 0)


def _new_selector(given: selectors.BaseSelector | None) -> select.epoll | _Selector:
    kind = selectors.DefaultSelector
    if given is None and kind.__name__ == "EpollSelector":  # and epoll works: it may not
        return select.epoll()
    return _Selector(kind() if given is None else given)
