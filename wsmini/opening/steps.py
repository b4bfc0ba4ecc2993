"""The steps of an opening, run on an event loop: as ``net.run`` does, but without blocking."""

from __future__ import annotations

import time

from .sockets import READ, WRITE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, List, Optional, Tuple, TypeVar

    from typing_extensions import Protocol

    from .sockets import Ready, Steps, Wait

    T = TypeVar("T")
    Done = Callable[[Optional[T], Optional[BaseException]], object]

    class Cancellable(Protocol):
        def cancel(self) -> object: ...

    class HostLoop(Protocol):
        """What a link needs of an event loop."""

        def time(self) -> float: ...
        def call_soon(self, callback: Callable[..., Any], *args: Any) -> Cancellable: ...
        def call_later(
            self, delay: float, callback: Callable[..., Any], *args: Any
        ) -> Cancellable: ...
        def add_reader(self, fd: Any, callback: Callable[..., Any], *args: Any) -> Any: ...
        def add_writer(self, fd: Any, callback: Callable[..., Any], *args: Any) -> Any: ...
        def remove_reader(self, fd: Any) -> Any: ...
        def remove_writer(self, fd: Any) -> Any: ...


LATER = 86400.0  # seconds; who waits longer wakes once a day: some loops have limits


def run_on_loop(loop: HostLoop, steps: Steps[T], done: Done[T], at_once: bool = False) -> LoopRun:
    """Run *steps* on *loop*, and call ``done(result, exception)`` once.

    From the loop, later; but with *at_once*, the first step is made, and may be the last, in here.
    """
    return LoopRun(loop, steps, done, at_once)


class LoopRun:
    """Steps that are under way."""

    __slots__ = ("_call", "_deadline", "_done", "_loop", "_registered", "_steps")

    def __init__(
        self, loop: HostLoop, steps: Steps[Any], done: Done[Any], at_once: bool = False
    ) -> None:
        self._loop, self._steps, self._done = loop, steps, done
        self._registered: List[Tuple[Callable[[int], Any], int]] = []
        # The timer is kept from wait to wait if it stays the same.
        self._call: Optional[Cancellable] = None
        self._deadline: Optional[float] = None
        if at_once:
            self._go_on(None)
        else:
            self._call = loop.call_soon(self._go_on, None)

    def cancel(self) -> None:
        """Give up: close what the steps have opened. *done* isn't called any more."""
        self._stop_watching()
        self._stop_timer()
        self._steps.close()

    def _stop_watching(self) -> None:
        for remove, fd in self._registered:
            remove(fd)
        self._registered.clear()

    def _stop_timer(self) -> None:
        self._deadline = None
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _go_on(self, ready: Optional[Ready]) -> None:
        self._stop_watching()  # before the step, which may close the sockets
        if ready is None:
            self._call = None  # it was this one
        try:
            wanted = next(self._steps) if ready is None else self._steps.send(ready)
        except StopIteration as stop:
            self._stop_timer()
            self._done(stop.value, None)
        except BaseException as exc:
            self._stop_timer()
            self._done(None, exc)
        else:
            self._try_to_wait(wanted)

    def _try_to_wait(self, wanted: Wait) -> None:
        try:
            self._wait(wanted)
        except BaseException as exc:  # the loop can't watch that socket: it may be somebody else's
            self.cancel()
            self._done(None, exc)

    def _time_is_over(self) -> None:
        self._stop_timer()
        self._go_on([])

    def _wait(self, wanted: Wait) -> None:
        loop, registered = self._loop, self._registered
        for sock, events in wanted.sockets.items():
            fd = sock.fileno()
            if events & READ:
                loop.add_reader(fd, self._go_on, [sock])
                registered.append((loop.remove_reader, fd))
            if events & WRITE:
                loop.add_writer(fd, self._go_on, [sock])
                registered.append((loop.remove_writer, fd))
        if wanted.deadline == self._deadline:
            return
        self._stop_timer()
        if wanted.deadline is not None:
            delay = min(max(0.0, wanted.deadline - time.monotonic()), LATER)
            self._deadline = wanted.deadline
            self._call = loop.call_later(delay, self._time_is_over)
