"""Steps: what takes time is a generator that never waits itself, and the two ways to run it.

Such a generator yields a ``Wait`` and is resumed with the sockets that are ready, none if the time
is over. ``run_blocking`` runs it to its end in this thread; a ``LoopRun`` does so on an event loop,
and calls back. Closing the generator, at any point, closes what it has opened.
"""

from __future__ import annotations

import time
from collections import namedtuple

from .streams import MAX_WAIT, READ, WRITE, wait

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Any, Callable, Generator, Protocol, Sequence, TypeVar

    T = TypeVar("T")
    Ready = Sequence[socket.socket]
    Steps = Generator["Wait", Ready, T]
    Done = Callable[[T | None, BaseException | None], object]

    class Cancellable(Protocol):
        def cancel(self) -> object: ...

    class HostLoop(Protocol):
        """The methods of an event loop that openings and transports call."""

        def time(self) -> float: ...
        def call_soon(self, callback: Callable[..., Any], *args: Any) -> Cancellable: ...
        def call_later(
            self, delay: float, callback: Callable[..., Any], *args: Any
        ) -> Cancellable: ...
        def add_reader(self, fd: Any, callback: Callable[..., Any], *args: Any) -> Any: ...
        def add_writer(self, fd: Any, callback: Callable[..., Any], *args: Any) -> Any: ...
        def remove_reader(self, fd: Any) -> Any: ...
        def remove_writer(self, fd: Any) -> Any: ...


class Wait(namedtuple("Wait", "sockets deadline")):
    """A generator's wish: wait for one of *sockets* (``READ``, ``WRITE``), or until *deadline*."""

    __slots__ = ()

    sockets: dict[socket.socket, int]
    deadline: float | None


class Expired(TimeoutError):
    """Thrown into steps whose time is over, which tells it from what a signal handler raises."""


def run_blocking(steps: Steps[T]) -> T:
    """Run *steps* to their end in this thread, and return their result."""
    try:
        wanted = next(steps)
        while True:
            timeout = None if wanted.deadline is None else wanted.deadline - time.monotonic()
            wanted = steps.send(wait(wanted.sockets, timeout))
    except StopIteration as stop:
        result: T = stop.value
    finally:
        steps.close()  # after a KeyboardInterrupt in wait(), too
    return result


class LoopRun:
    """Steps that run on *loop*, which calls ``done(result, exception)`` once, at their end.

    From the loop, later; but with *at_once*, the first step is made, and may be the last, in here.
    """

    __slots__ = ("_call", "_deadline", "_done", "_loop", "_registered", "_steps")

    def __init__(
        self, loop: HostLoop, steps: Steps[T], done: Done[T], at_once: bool = False
    ) -> None:
        self._loop: Any = loop  # None when it is over, as a timer's
        self._steps, self._done = steps, done
        self._registered: list[tuple[Callable[[int], Any], int]] = []
        # The timer is kept from wait to wait if it stays the same.
        self._call: Cancellable | None = None
        self._deadline: float | None = None
        if at_once:
            self._step(None)
        else:
            self._call = loop.call_soon(self._step, None)

    def cancel(self) -> None:
        """Give up: close what the steps have opened. *done* isn't called any more."""
        self._loop = None  # first: a call that is left by an interruption does nothing then
        self._stop_watching()
        self._stop_timer()
        self._steps.close()

    def _recover(self) -> None:
        """For wsmini's loop: a signal handler's exception has come in here, or at our beginning.

        A step may be lost, so this ends; whoever waits for that finds out by its own ``_recover``.
        """
        self.cancel()
        recover = getattr(getattr(self._done, "__self__", None), "_recover", None)
        if recover is not None:
            recover()

    def _stop_watching(self) -> None:
        for remove, fd in self._registered:
            remove(fd)
        self._registered.clear()

    def _stop_timer(self) -> None:
        self._deadline = None
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _step(self, ready: Ready | None) -> None:
        """Go on behind a wait for which *ready* is the answer; ``None`` begins the first step."""
        if self._loop is None:
            return  # over, and interrupted before it could cancel this call
        try:
            self._stop_watching()  # before the step, which may close the sockets
            # The call that has led here, at first or when the time is over, needs no cancel().
            if not ready:
                self._call = self._deadline = None
            self._wait(next(self._steps) if ready is None else self._steps.send(ready))
        except StopIteration as stop:
            self._end(stop.value, None)
        # The loop may refuse, too: another owner has it watch this socket, say. And a signal
        # handler may raise in between: what nothing watches any more would never end.
        except BaseException as exc:
            self._end(None, exc)

    def _end(self, result: Any, exc: BaseException | None) -> None:
        try:
            self.cancel()
        finally:  # a signal handler may raise in there: nobody shall wait for ever
            self._done(result, exc)

    def _wait(self, wanted: Wait) -> None:
        loop: HostLoop = self._loop
        registered = self._registered
        for sock, events in wanted.sockets.items():
            fd = sock.fileno()
            # Where both are ready, the first to be called takes the other one off the loop.
            if events & READ:
                loop.add_reader(fd, self._step, [sock])
                registered.append((loop.remove_reader, fd))
            if events & WRITE:
                loop.add_writer(fd, self._step, [sock])
                registered.append((loop.remove_writer, fd))
        # Most waits of an opening have the deadline of the whole: its timer goes on.
        if wanted.deadline == self._deadline:
            return
        self._stop_timer()
        if wanted.deadline is not None:
            delay = min(max(0.0, wanted.deadline - time.monotonic()), MAX_WAIT)
            self._deadline = wanted.deadline
            self._call = loop.call_later(delay, self._step, [])
