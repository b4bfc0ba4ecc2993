"""The exceptions of wsmini, and the words for close codes.

One base class, and below it only what a program would handle differently. Network failures stay
``OSError``, expired deadlines the built-in ``TimeoutError``, wrong arguments ``TypeError`` or
``ValueError``.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Sequence

from .sansio.http11 import Response
from .sansio.redaction import shown

# RFC 6455, 7.4.1 and the IANA registry of close codes.
CLOSE_CODES = {
    1000: "normal closure",
    1001: "going away",
    1002: "protocol error",
    1003: "unsupported data",
    1005: "no status code received",
    1006: "connection lost without a close frame",
    1007: "invalid payload data",
    1008: "policy violation",
    1009: "message too big",
    1010: "extension required",
    1011: "internal error",
    1012: "service restart",
    1013: "try again later",
    1014: "bad gateway",
    1015: "TLS failure",
}

NORMAL = frozenset({1000, 1001})  # close codes of an end without an error


def failure_context(phase: str, address: str, elapsed: float, hint: str) -> str:
    """Say where and when a connection couldn't be opened; stands behind the failure's own text."""
    return f" ({phase}: {address}, after {elapsed:.2f} s{'; ' + hint if hint else ''})"


class Close(namedtuple("Close", "code reason")):
    """A close code and its reason, as in a Close frame (RFC 6455, 5.5.1).

    Attributes:
        code: an ``int``, 1005 where the frame was empty.
        reason: a ``str``.
    """

    __slots__ = ()

    code: int
    reason: str

    def __str__(self) -> str:
        if 3000 <= self.code < 4000:
            meaning = "registered"
        elif 4000 <= self.code < 5000:
            meaning = "private use"
        else:
            meaning = CLOSE_CODES.get(self.code, "unknown")
        # A terminal must not be driven by what a peer sent.
        reason = self.reason if self.reason.isprintable() else shown(self.reason)[1:-1]
        return f"{self.code} ({meaning}) {reason}".rstrip()


class WebSocketException(Exception):
    """Base of all exceptions that wsmini defines."""


class ConnectionClosed(WebSocketException):
    """The connection is closed; nothing more can be sent or received.

    Its text tells the Close frames, and behind them what else has ended it: ``__cause__``.

    Attributes:
        rcvd: the ``Close`` that was received, or ``None``.
        sent: the ``Close`` that was sent, or ``None``.
        rcvd_then_sent: whether the peer closed first; ``None`` unless both are there.
    """

    def __init__(
        self, rcvd: Close | None, sent: Close | None, rcvd_then_sent: bool | None = None
    ) -> None:
        # Here and below, args are what __init__ takes: pickle and copy make another one of them.
        super().__init__(rcvd, sent, rcvd_then_sent)
        self.rcvd, self.sent, self.rcvd_then_sent = rcvd, sent, rcvd_then_sent

    @property
    def code(self) -> int:
        """The close code received (RFC 6455, 7.1.5): 1005 if it had none, 1006 if none came."""
        return 1006 if self.rcvd is None else self.rcvd.code

    @property
    def reason(self) -> str:
        """The close reason received, or an empty string."""
        return "" if self.rcvd is None else self.rcvd.reason

    def __str__(self) -> str:
        cause = self.__cause__
        # Another of these would say the same, or have this one as its own cause.
        if cause is None or isinstance(cause, ConnectionClosed):
            return self._frames()
        # The reason that we have sent is often the text of the failure itself.
        text = str(cause) or type(cause).__name__
        if self.sent is not None and self.sent.reason == text:
            return self._frames()  # it says so
        return f"{self._frames()} ({text})"

    def _frames(self) -> str:
        if self.rcvd is None:
            if self.sent is None:
                return "no close frame received or sent"
            return f"sent {self.sent}; no close frame received"
        if self.sent is None:
            return f"received {self.rcvd}; no close frame sent"
        if self.rcvd_then_sent:
            return f"received {self.rcvd}; then sent {self.sent}"
        return f"sent {self.sent}; then received {self.rcvd}"


class ConnectionClosedOK(ConnectionClosed):
    """The connection was closed normally, by either side: 1000 or 1001."""


class ConnectionClosedError(ConnectionClosed):
    """The connection was closed with an error, or was lost; then ``__cause__`` is why."""


def connection_closed(
    rcvd: Close | None,
    sent: Close | None,
    rcvd_then_sent: bool | None,
    cause: BaseException | None = None,
) -> ConnectionClosed:
    """The exception for how a connection ended, because of *cause* if it failed."""
    # The side that closes first gives the reason; an answer without a code agrees with it.
    first, second = (rcvd, sent) if rcvd_then_sent else (sent, rcvd)
    kind: type[ConnectionClosed] = ConnectionClosedError
    if cause is None and first is not None and second is not None:
        if first.code in NORMAL and (second.code in NORMAL or second.code == 1005):
            kind = ConnectionClosedOK
    exc = kind(rcvd, sent, rcvd_then_sent)
    exc.__cause__ = cause
    return exc


class InvalidURI(WebSocketException, ValueError):
    """The URL isn't a WebSocket URL (RFC 6455, 3).

    Attributes:
        uri: without its secrets.
        problem: what is wrong with it.
    """

    def __init__(self, uri: str, problem: str) -> None:
        super().__init__(uri, problem)
        self.uri, self.problem = uri, problem

    def __str__(self) -> str:
        return f"{shown(self.uri)} can't be used as a WebSocket URL: {self.problem}"


class InvalidProxy(WebSocketException, ValueError):
    """The proxy URL can't be used.

    Attributes:
        proxy: without its secrets.
        problem: what is wrong with it.
    """

    def __init__(self, proxy: str, problem: str) -> None:
        super().__init__(proxy, problem)
        self.proxy, self.problem = proxy, problem

    def __str__(self) -> str:
        return f"{shown(self.proxy)} isn't a valid proxy: {self.problem}"


class InvalidHandshake(WebSocketException):
    """The answer to the opening handshake can't be accepted (RFC 6455, 4.1).

    ``connect()`` sets the first four attributes, also those of an ``OSError`` that it raises.

    Attributes:
        phase: where it happened: ``"dns"``, ``"tcp"``, ``"proxy"``, ``"tls"`` or ``"upgrade"``.
        address: to which host and port it was.
        elapsed: after how many seconds.
        hint: one thing to try, or an empty string.
        hung_up: whether the peer closed the connection where its answer should have been.
        first_bytes: how the answer began, where that isn't HTTP; an ``ssl.SSLError`` of the
            handshake has it, too.
    """

    phase = address = hint = ""
    elapsed = 0.0
    hung_up = False
    first_bytes = b""

    def __str__(self) -> str:
        if not self.phase:
            return self._text()
        return self._text() + failure_context(self.phase, self.address, self.elapsed, self.hint)

    def _text(self) -> str:
        return super().__str__()


class InvalidMessage(InvalidHandshake):
    """The answer isn't a well-formed HTTP/1.1 response, or it exceeds a limit."""


class InvalidStatus(InvalidHandshake):
    """The server refused the upgrade: its status isn't 101.

    Attributes:
        response: the ``Response``: ``status_code``, ``reason_phrase``, ``headers`` and ``body``
            (as many bytes of it as came before the body limit).
    """

    def __init__(self, response: Response) -> None:
        super().__init__(response)
        self.response = response

    def _text(self) -> str:
        said = _beginning(self.response.body)
        said = f": {said}" if said else ""
        return f"server refused the WebSocket connection: HTTP {_status(self.response)}{said}"


def _beginning(body: bytes) -> str:
    """The first words of *body*, on one line, of at most 200 printable characters."""
    # A body may be large; 1000 bytes have 200 characters, unless they are white space mostly.
    text = " ".join(body[:1000].decode("utf-8", "replace").split())
    text = "".join(filter(str.isprintable, text))
    return text if len(text) <= 200 else text[:199] + "…"


def _status(response: Response) -> str:
    """The status for people; the phrase is the peer's."""
    phrase = shown(response.reason_phrase)[1:-1]
    return f"{response.status_code} {phrase}" if phrase else str(response.status_code)


class InvalidHeader(InvalidHandshake):
    """A header of the answer is missing or wrong.

    Attributes:
        name: of the header.
        value: what it says, ``None`` if it is missing.
    """

    def __init__(self, name: str, value: str | None = None) -> None:
        super().__init__(name, value)
        self.name, self.value = name, value

    def _text(self) -> str:
        if self.value is None:
            return f"missing {self.name} header"
        return f"invalid {self.name} header: {shown(self.value)}"


class InvalidUpgrade(InvalidHeader):
    """``Upgrade``, ``Connection`` or ``Sec-WebSocket-Accept`` doesn't complete the upgrade."""


class InvalidRedirect(InvalidHandshake):
    """The server redirects to a place that can't be followed.

    Attributes:
        location: where it redirects to.
        problem: what is wrong with that.
    """

    def __init__(self, location: str, problem: str) -> None:
        super().__init__(location, problem)
        self.location, self.problem = location, problem

    def _text(self) -> str:
        return f"can't follow the redirect to {shown(self.location)}: {self.problem}"


class TooManyRedirects(InvalidHandshake):
    """The server redirects again and again.

    Attributes:
        uris: the way there, without secrets.
    """

    def __init__(self, uris: Sequence[str]) -> None:
        super().__init__(uris)
        self.uris = uris

    def _text(self) -> str:
        way = " -> ".join(shown(uri)[1:-1] for uri in self.uris)
        loop = "in a loop" if self.uris[-1] in self.uris[:-1] else "too often"
        return f"the server redirects {loop}: {way}"


class ProxyError(InvalidHandshake):
    """The proxy can't or won't connect to the server."""


class InvalidProxyMessage(ProxyError):
    """The proxy's answer isn't well-formed, or isn't of the protocol that was expected."""


class InvalidProxyStatus(ProxyError):
    """The HTTP proxy refused.

    Attributes:
        response: as that of ``InvalidStatus``.
    """

    def __init__(self, response: Response) -> None:
        super().__init__(response)
        self.response = response

    def _text(self) -> str:
        return f"proxy refused the connection: HTTP {_status(self.response)}"


REFUSALS = InvalidStatus, InvalidProxyStatus  # what has a response


class NegotiationError(InvalidHeader):
    """The server chose an extension or a subprotocol that wasn't offered, or chose it wrongly.

    Attributes:
        name, value, problem: as those of ``InvalidHeader``, and what is wrong.
    """

    def __init__(self, name: str, value: str | None, problem: str) -> None:
        super().__init__(name, value)
        # InvalidHeader has set two of the three that pickle needs.
        self.args = (name, value, problem)
        self.problem = problem

    def _text(self) -> str:
        return f"{super()._text()}: {self.problem}"


class ProtocolError(WebSocketException):
    """The peer broke the protocol; the connection fails with 1002.

    A connection raises ``ConnectionClosedError``, and this is its ``__cause__``. (Where a text
    isn't UTF-8, it fails with 1007, and the ``__cause__`` is a ``UnicodeDecodeError``.)
    """


class PayloadTooBig(WebSocketException):
    """A message or a fragment exceeds a limit; the connection fails with 1009.

    A connection raises ``ConnectionClosedError``, and this is its ``__cause__``.

    Attributes:
        size: in bytes, as far as it is known.
        limit: in bytes.
    """

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(size, limit)
        self.size, self.limit = size, limit

    def __str__(self) -> str:
        return f"{self.size} bytes exceed the limit of {self.limit} bytes (max_size)"


class InvalidState(WebSocketException):
    """The operation isn't possible in the connection's present state."""


class ConcurrencyError(WebSocketException):
    """Two threads or tasks receive from one connection at the same time.

    Or a signal handler receives within the call that it has interrupted; or, on asyncio, a task
    sends within its own fragmented message.
    """


class SendBufferFull(WebSocketException):
    """Too much is waiting to be sent; nothing of the refused message was."""
