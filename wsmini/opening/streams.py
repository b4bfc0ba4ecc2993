"""Streams of bytes: what the opening and the connections read from and write to.

A *stream* is a plain socket (``SocketStream``) or TLS over another stream (``tls.TLSStream``).
``recv`` and ``send`` raise ``BlockingIOError`` where they would have to wait.
"""

from __future__ import annotations

import socket
import sys
import time

from ..exceptions import InvalidMessage
from .steps import Expired, Wait
from .waiting import READ, WRITE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Protocol

    from ..sansio.http11 import Response
    from ..sansio.response import ResponseParser
    from .steps import Steps

    class Stream(Protocol):
        """The interface of ``SocketStream`` and ``tls.TLSStream``."""

        sock: socket.socket
        unsent: bool
        busy: bool
        cut: bool

        @property
        def unread(self) -> bool: ...
        @property
        def recv(self) -> Callable[..., bytes]: ...
        @property
        def send(self) -> Callable[..., int]: ...
        def close(self) -> None: ...
        def buffered(self) -> bool: ...
        def flush(self, flags: int = 0) -> bool: ...
        def passed_on(self, taken: int) -> int: ...
        def say_goodbye(self) -> None: ...


# Where a flag makes one call not wait, sockets can stay blocking, which is the fastest way to
# wait for data. Elsewhere they are non-blocking, and polled before each call: Windows has no such
# flag, and other systems than Linux may wait for room to send in spite of it. (As plain integers:
# to combine members of an enum takes microseconds.)
DONTWAIT = int(getattr(socket, "MSG_DONTWAIT", 0)) if sys.platform.startswith("linux") else 0
WAITALL = int(socket.MSG_WAITALL) if DONTWAIT else 0

RESPONSE_READ = 65536  # bytes asked for at once while opening
BODY_TIME = 1.0  # seconds for the body of a refusal, whose head says enough

SLOW_CLOSE = "the closing handshake took longer than close_timeout"
NO_CLOSE = "the server ended the connection without a Close frame"


class SocketStream:
    """A stream of bytes over a plain socket, which it owns."""

    __slots__ = ("recv", "send", "sock")

    unsent = False  # whether accepted bytes wait for flush(): never here
    busy = False  # whether recv() was left with bytes in its hands: never here
    unread = False  # whether recv() shall be called again without a wait: never here
    cut = False  # whether the peer ended without a goodbye that takes bytes: there's none here

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.recv = sock.recv  # (size, flags=0); b"" at the end
        self.send = sock.send  # (data, flags=0); how many bytes were taken

    def close(self) -> None:
        """Close the socket."""
        self.sock.close()

    def buffered(self) -> bool:
        """Whether there may be bytes to receive that the socket doesn't show."""
        return False

    def flush(self, flags: int = 0) -> bool:
        """Send accepted bytes; whether all of them are sent."""
        return True

    def passed_on(self, taken: int) -> int:
        """How many of the last *taken* bytes the socket has, while ``unsent``: see TLS's."""
        return taken

    def say_goodbye(self) -> None:
        """Say that nothing more will be sent, where that takes bytes: not here."""


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
                if exc.errno is None:
                    raise  # a signal handler's
            # Out of the except, so that what is thrown into the wait has no context.
            yield Wait({stream.sock: WRITE}, None)
    except ConnectionError as exc:
        if exc.errno is None:
            raise  # a signal handler's
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
            if exc.errno is None:
                raise  # a signal handler's
        # TLS may have to answer before more comes: a renegotiation, or a late wish for a
        # certificate. (RFC 8446, 4.6.2)
        flushed = stream.flush()
        # With more to look at, there is room to write nearly always: this is for others' sake.
        waits = READ if flushed and not stream.unread else READ | WRITE
        yield Wait({stream.sock: waits}, deadline)
    return b""


def receive_head(
    stream: Stream, parser: ResponseParser, send_error: ConnectionError | None = None
) -> Steps[Response]:
    """Feed *parser* until the head of the response is complete.

    Args:
        send_error: what ``send_all`` returned for the request.

    Raises:
        InvalidMessage: if it isn't an HTTP response; its ``first_bytes`` are what it is instead.
        OSError: if the connection is lost before the end of the head.
    """
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
        # The time of the whole opening is over: the refusal still tells more than that.
        except Expired:
            data, clean = b"", False
        except OSError as exc:
            if exc.errno is None:
                raise  # a signal handler's
            data, clean = b"", False
        try:
            if data:
                parser.receive_data(data)
            else:
                parser.receive_eof(clean and not stream.cut)
        except InvalidMessage:
            return
