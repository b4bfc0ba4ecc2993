"""Steps: what takes time is a generator that never waits itself, and the two ways to run it.

Such a generator yields a ``Wait`` and is resumed with the sockets that are ready, none if the time
is over. ``run_blocking`` runs it to its end in this thread; a ``LoopRun`` does so on an event loop,
and calls back. Closing the generator, at any point, closes what it has opened.

Here are those, too, that send requests and receive responses, over a stream that is being opened.
"""

from __future__ import annotations

import time
from collections import namedtuple

from ..exceptions import InvalidMessage
from ..interrupts import pass_on_handlers
from .streams import MAX_WAIT, READ, WRITE, Stream, wait

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Any, Callable, Generator, Protocol, Sequence, TypeVar

    from ..sansio.http11 import Response
    from ..sansio.response import ResponseParser

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


RESPONSE_READ = 65536  # bytes asked for at once while opening
BODY_TIME = 1.0  # seconds for the body of a refusal, whose head says enough


class Wait(namedtuple("Wait", "sockets deadline")):
    """A generator's wish: wait for one of *sockets* (``READ``, ``WRITE``), or until *deadline*."""

    __slots__ = ()

    sockets: dict[socket.socket, int]
    deadline: float | None


class Expired(TimeoutError):
    """Thrown into steps whose time is over, which tells it from what a signal handler raises."""


# -- how they are run --


def run_blocking(steps: Steps[T]) -> T:
    """Run *steps* to their end in this thread, and return their result."""
    try:
        wanted = next(steps)
        while True:
            timeout = None if wanted.deadline is None else wanted.deadline - time.monotonic()
            wanted = steps.send(wait(wanted.sockets, timeout))
    except StopIteration as stop:
        result: T = stop.value
        return result
    finally:
        steps.close()  # after a KeyboardInterrupt in wait(), too


class LoopRun:
    """Steps that run on *loop*, which calls ``done(result, exception)`` once, at their end.

    From the loop, later; but with *at_once*, the first step is made, and may be the last, in here.
    """

    __slots__ = ("_call", "_deadline", "_done", "_loop", "_registered", "_steps")

    def __init__(
        self, loop: HostLoop, steps: Steps[T], done: Done[T], at_once: bool = False
    ) -> None:
        self._loop, self._steps, self._done = loop, steps, done
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

    def _step(self, ready: Ready | None) -> None:
        """Go on behind a wait for which *ready* is the answer; ``None`` begins the first step."""
        self._stop_watching()  # before the step, which may close the sockets
        # The call that has led here, at first or when the time is over, needs no cancel().
        if not ready:
            self._call = self._deadline = None
        try:
            self._wait(next(self._steps) if ready is None else self._steps.send(ready))
        except StopIteration as stop:
            self.cancel()
            self._done(stop.value, None)
        # The loop may refuse, too: another owner has it watch this socket, say.
        except BaseException as exc:
            self.cancel()
            self._done(None, exc)

    def _wait(self, wanted: Wait) -> None:
        loop, registered = self._loop, self._registered
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


# -- what is sent and received --


def send_all(stream: Stream, data: bytes) -> Steps[ConnectionError | None]:
    """Send all of *data*; less if the peer has hung up, and then return the exception.

    What it said before that tells more than the reset: a response, or TLS's alert that it wants a
    certificate, say. So receiving comes next, and the exception counts if there is nothing.
    """
    view = memoryview(data)
    try:
        # TLS takes bytes before the socket does: flush() sends what it still holds.
        while view or not stream.flush():
            try:
                view = view[stream.send(view) :]
                continue
            except BlockingIOError as exc:
                pass_on_handlers(exc)
            # Out of the except, so that what is thrown into the wait has no context.
            yield Wait({stream.sock: WRITE}, None)
    except ConnectionError as exc:
        pass_on_handlers(exc)
        return exc
    return None


def receive_some(
    stream: Stream, size: int = RESPONSE_READ, deadline: float | None = None
) -> Steps[bytes]:
    """The next bytes, at most *size*; ``b""`` at the end, or when *deadline* is over."""
    while deadline is None or time.monotonic() < deadline:
        try:
            return stream.recv(size)
        except BlockingIOError as exc:
            pass_on_handlers(exc)
        # TLS may have to answer before more comes: a renegotiation, or a late wish for a
        # certificate. (RFC 8446, 4.6.2)
        flushed = stream.flush()
        # With more to look at, there is room to write nearly always: this is for others' sake.
        waits = READ if flushed and not stream.unread else READ | WRITE
        yield Wait({stream.sock: waits}, deadline)
    return b""


def ask(stream: Stream, request: bytes, parser: ResponseParser) -> Steps[Response]:
    """Send *request*, and feed *parser* until the head of the response is complete.

    Raises:
        InvalidMessage: if it isn't an HTTP response; its ``first_bytes`` are what it is instead.
        OSError: if the connection is lost before the end of the head.
    """
    send_error = yield from send_all(stream, request)
    first_bytes = b""
    while parser.response is None:
        data = yield from receive_some(stream)
        if not data and send_error is not None:
            raise send_error
        first_bytes = first_bytes or data[:1024]
        try:
            if data:
                parser.receive_data(data)
            else:
                parser.receive_eof()
        except InvalidMessage as exc:
            exc.first_bytes = first_bytes
            raise
    return parser.response


def receive_body(stream: Stream, parser: ResponseParser) -> Steps[None]:
    """Feed *parser*, which has the head, with what comes of the body within ``BODY_TIME``.

    The body may have no length and no end, and isn't what matters: whatever goes wrong cuts it off.
    """
    deadline = time.monotonic() + BODY_TIME
    clean = True
    while not parser.complete:
        try:
            data = yield from receive_some(stream, deadline=deadline)
        except OSError as exc:
            # If the time of the whole opening is over, the refusal still tells more than that.
            if exc.errno is None and not isinstance(exc, Expired):
                raise  # a signal handler's
            data, clean = b"", False
        try:
            if data:
                parser.receive_data(data)
            else:
                parser.receive_eof(clean and not stream.cut)
        except InvalidMessage:
            return
