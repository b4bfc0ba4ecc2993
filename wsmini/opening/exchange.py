"""Steps that send requests and receive responses, over a stream that is being opened."""

from __future__ import annotations

import time

from ..exceptions import InvalidMessage
from ..interrupts import pass_on_handlers
from .steps import Expired, Wait
from .streams import READ, WRITE, Stream

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..sansio.http11 import Response
    from ..sansio.response import ResponseParser
    from .steps import Steps

RESPONSE_READ = 65536  # bytes asked for at once while opening
BODY_TIME = 1.0  # seconds for the body of a refusal, whose head says enough


def send_all(stream: Stream, data: bytes) -> Steps[ConnectionError | None]:
    """Send all of *data*; less if the peer has hung up, and then return the exception.

    What it said before that tells more than the reset: a response, or TLS's alert that it wants a
    certificate, say. So receiving comes next, and the exception counts if there is nothing.
    """
    view = memoryview(data)
    lost = None
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
        lost = exc
    return lost


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
