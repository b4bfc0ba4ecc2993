"""As much HTTP/1.1 (RFC 9110, RFC 9112) as an opening handshake needs: one request, one response.

Text that isn't ASCII is sent as UTF-8, and read as UTF-8, or as Latin-1 where a head isn't UTF-8.
"""

from __future__ import annotations

from ..exceptions import InvalidMessage, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Iterable, Iterator, Mapping, Union

    HeadersLike = Union["Headers", Mapping[str, str], Iterable[tuple[str, str]]]

MAX_LINE = 65536  # policies and cookies get long
MAX_HEADERS = 128
MAX_HEAD = 262144
MAX_BODY = 65536
MAX_INTERIM = 8

# RFC 9110, 5.6.2. For strip(), which leaves nothing of a text that has no others.
_TOKEN = "abcdefghijklmnopqrstuvwxyz-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ!#$%&'*+.^_`|~"

# Of most handshakes; a copy of each for each connection would be half a kilobyte.
_SHARED = {
    text: text
    for name in (
        "Host", "Upgrade", "Connection", "Sec-WebSocket-Key", "Sec-WebSocket-Version", "User-Agent",
        "Sec-WebSocket-Accept", "Sec-WebSocket-Extensions", "Date", "Server", "websocket",
        "Switching Protocols", "permessage-deflate; client_max_window_bits",
    )
    for text in (name, name.lower())
}  # fmt: skip

# Line feeds are where lines end; carriage returns that were followed by one are gone by then.
_CONTROLS = bytes({*range(32), 127} - set(b"\t\n"))
_VERSIONS = {"HTTP/1.0": "1.0", "HTTP/1.1": "1.1"}
_HEX = b"0123456789abcdefABCDEF"

_SECRETS = "authorization proxy-authorization cookie cookie2 set-cookie set-cookie2".split()
_SECRET_PARTS = "token secret passw credential session signature".split()
_NO_SECRET = "sec-websocket-key"  # RFC 6455, 10.3


def is_token(text: str) -> bool:
    """Whether *text* is a token (RFC 9110, 5.6.2), such as the name of a header."""
    # Most are letters and hyphens, which takes half of the time to find out.
    simple = str.isascii(text) and text.replace("-", "_").isidentifier()
    return simple or (text != "" and not text.strip(_TOKEN))


def is_value(text: str) -> bool:
    """Whether *text* has only what the value of a header can have, and UTF-8 (RFC 9110, 5.5)."""
    return text.isprintable() or not any(
        character < " " != character != "\t"
        or character == "\x7f"
        or "\ud800" <= character <= "\udfff"
        for character in text
    )


def redacted(name: str, value: str) -> str:
    """*value* of the header *name* as it may be shown: ``***`` for credentials and the like."""
    name = name.lower()
    is_secret = (
        name in _SECRETS
        or name.startswith("x-auth")
        or (name.endswith("key") and name != _NO_SECRET)
        or any(part in name for part in _SECRET_PARTS)
    )
    return "***" if is_secret else value


class Headers:
    """Header fields in order: names in any case, kept as written, and repeated where needed.

    A dictionary of names, whose values are joined with ``", "`` where a name comes several times
    (RFC 9110, 5.3); ``get_all()`` keeps them apart. Whitespace around values is dropped.

    Setting a header raises ``ValueError``, which doesn't quote the value, if the name isn't a
    token or the value has control characters (RFC 9110, 5), and ``TypeError`` if one of them
    isn't a ``str``. So what is in here can be sent. ``str()`` and ``repr()`` show ``***`` for the
    values of ``Authorization``, ``Cookie`` and other secrets.

    Args:
        source: other headers, a mapping, or pairs of name and value.
    """

    __slots__ = ("_flat",)

    def __init__(self, source: HeadersLike = ()) -> None:
        # A name, its value, the next name...: open connections keep their headers, and a tuple
        # for each would double them.
        self._flat: list[str] = []
        pairs = source.items() if hasattr(source, "items") else source
        for name, value in pairs:
            self.add(name, value)

    def __getitem__(self, name: str) -> str:
        values = self.get_all(name)
        if not values:
            raise KeyError(name)
        return ", ".join(values)

    def get(self, name: str, default: str | None = None) -> str | None:
        """The value of *name*, several joined with ``", "``; *default* if there is none."""
        values = self.get_all(name)
        return ", ".join(values) if values else default

    def get_all(self, name: str) -> list[str]:
        """The values of *name*, one for each time it comes."""
        key, flat = name.lower(), self._flat
        return [flat[n + 1] for n in range(0, len(flat), 2) if flat[n].lower() == key]

    def items(self) -> list[tuple[str, str]]:
        """All pairs of name and value in their order, repeated names too."""
        return list(self._pairs())

    def keys(self) -> list[str]:
        """The names in their order, each once and as first written."""
        names: dict[str, str] = {}
        for name in self._flat[::2]:
            names.setdefault(name.lower(), name)
        return list(names.values())

    def add(self, name: str, value: str) -> None:
        """Append a header *name* with this *value*, even if there is one of this name."""
        self._flat += _checked(name, value)

    def copy(self) -> Headers:
        """Headers that can be changed without changing these."""
        return trusted_headers(self._flat.copy())

    def __setitem__(self, name: str, value: str) -> None:
        field = _checked(name, value)
        places = self._places(name.lower())
        if not places:
            self._flat += field
            return
        self._flat[places[0] : places[0] + 2] = field
        self._delete(places[1:])

    def __delitem__(self, name: str) -> None:
        places = self._places(name.lower())
        if not places:
            raise KeyError(name)
        self._delete(places)

    def __contains__(self, name: str) -> bool:
        key = name.lower()
        return any(field.lower() == key for field in self._flat[::2])

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self.keys())

    def __eq__(self, other: object) -> bool:
        # The order counts within a name only (RFC 9110, 5.3).
        if not isinstance(other, Headers):
            return NotImplemented
        return self._values() == other._values()

    __hash__ = None  # type: ignore[assignment]  # They can change.

    def __str__(self) -> str:
        return "\n".join(f"{name}: {redacted(name, value)}" for name, value in self._pairs())

    def __repr__(self) -> str:
        pairs = [(name, redacted(name, value)) for name, value in self._pairs()]
        return f"Headers({pairs!r})"

    def _pairs(self) -> Iterator[tuple[str, str]]:
        return zip(self._flat[::2], self._flat[1::2])

    def _places(self, key: str) -> list[int]:
        """Where the names are that are *key* in lower case."""
        return [2 * n for n, name in enumerate(self._flat[::2]) if name.lower() == key]

    def _delete(self, places: list[int]) -> None:
        for place in reversed(places):
            del self._flat[place : place + 2]

    def _values(self) -> dict[str, list[str]]:
        values: dict[str, list[str]] = {}
        for name, value in self._pairs():
            values.setdefault(name.lower(), []).append(value)
        return values


def _checked(name: str, value: str) -> tuple[str, str]:
    if not isinstance(name, str):
        raise TypeError(f"the name of a header must be a str, not {type(name).__name__}")
    if not is_token(name):
        raise ValueError(f"{shown(name)} isn't the name of a header")
    if not isinstance(value, str):
        raise TypeError(f"the {name} header must be a str, not {type(value).__name__}")
    if not is_value(value):
        raise ValueError(f"the {name} header has characters that no header can have")
    return _field(name, value)


def _field(name: str, value: str) -> tuple[str, str]:
    """As ``Headers`` keeps it."""
    value = value.strip(" \t")
    return _SHARED.get(name, name), _SHARED.get(value, value)


def trusted_headers(flat: list[str]) -> Headers:
    """Headers of names and values that have been checked."""
    headers = Headers()
    headers._flat = flat
    return headers


class Request:
    """An HTTP request without a body.

    Attributes:
        method: ``"GET"``, or ``"CONNECT"`` for a proxy.
        target: what is asked for, as on the wire: ``"/chat?x=1"``, or ``"host:port"``.
        headers: the ``Headers``.
    """

    __slots__ = ("headers", "method", "target")

    def __init__(self, method: str, target: str, headers: HeadersLike = ()) -> None:
        self.method = method
        self.target = target
        self.headers = headers if isinstance(headers, Headers) else Headers(headers)

    def __repr__(self) -> str:
        return f"Request({self.method!r}, {self.target!r}, {self.headers!r})"

    def serialize(self) -> bytes:
        """The request as bytes to send (RFC 9112, 2.1).

        Raises:
            ValueError: if the method isn't a token, or the target isn't visible ASCII.
        """
        if not is_token(self.method):
            raise ValueError(f"{shown(self.method)} isn't an HTTP method")
        target = self.target
        if not (target and target.isascii() and target.isprintable()) or " " in target:
            raise ValueError(
                "the target of a request must be visible ASCII; percent-encode the rest"
            )
        lines = [f"{self.method} {target} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        return ("\r\n".join(lines) + "\r\n\r\n").encode()


class Response:
    """An HTTP response.

    Attributes:
        status_code: an ``int``.
        reason_phrase: what follows it in the status line; may be empty.
        headers: the ``Headers``.
        body: ``bytes``, as they were encoded by ``Content-Encoding``.
        http_version: ``"1.1"`` or ``"1.0"``.
        body_truncated: whether *body* may be only the start of the body.
    """

    __slots__ = (
        "body",
        "body_truncated",
        "headers",
        "http_version",
        "reason_phrase",
        "status_code",
    )

    def __init__(
        self,
        status_code: int,
        reason_phrase: str,
        headers: HeadersLike = (),
        body: bytes = b"",
        http_version: str = "1.1",
    ) -> None:
        self.status_code = status_code
        self.reason_phrase = reason_phrase
        self.headers = headers if isinstance(headers, Headers) else Headers(headers)
        self.body = body
        self.http_version = http_version
        self.body_truncated = False

    def __repr__(self) -> str:
        return (
            f"Response({self.status_code!r}, {self.reason_phrase!r}, {self.headers!r}, "
            f"<{len(self.body)} bytes>)"
        )


class ResponseParser:
    """Reads one response: give it bytes until ``complete``.

    Tolerant where servers differ (RFC 9112, 2.2 and 5.2): lines that end with LF only, no reason
    phrase, whitespace around values, values that go on in the next line (unfolded). Strict where
    readings of one response could differ: control characters, space before a colon, conflicting
    lengths. A body that is too long, cut off or badly chunked is truncated and isn't an error,
    because the status says more.

    Args:
        method: of the request, since nothing follows the head of the answer to ``HEAD``, and a
            tunnel the successful one to ``CONNECT``.
        max_line: bytes in a line of the head, or in a line between chunks.
        max_headers: lines with headers, in the head and again behind chunks.
        max_head: bytes in a head.
        max_body: bytes of the body to keep.

    Attributes:
        response: the ``Response`` once its head is complete, else ``None``. Interim responses
            (RFC 9110, 15.2) other than 101 don't count.
        complete: whether the body is complete or truncated, too.
    """

    def __init__(
        self,
        method: str = "GET",
        max_line: int = MAX_LINE,
        max_headers: int = MAX_HEADERS,
        max_head: int = MAX_HEAD,
        max_body: int = MAX_BODY,
    ) -> None:
        self._method = method
        self._max_line = max_line
        self._max_headers = max_headers
        self._max_head = max_head
        self._max_body = max_body
        self.response: Response | None = None
        self.complete = False
        self._buffer = bytearray()
        self._searched = 0  # how much of the buffer has been searched for what ends the item
        self._interim = 0
        self._body = bytearray()
        self._left = 0  # bytes that belong to the body, or to this chunk
        self._trailers = 0
        self._is_tunnel = False
        # Each step takes one item off the buffer, if it is there, and says whether to go on.
        self._step: Callable[[], bool] = self._read_head

    @property
    def rest(self) -> bytes:
        """What came behind the head of a 101, or of a 2xx to ``CONNECT``: no longer HTTP."""
        return bytes(self._buffer) if self._is_tunnel else b""

    def receive_data(self, data: bytes) -> None:
        """Go on with *data*. Linear, however small the pieces.

        Raises:
            InvalidMessage: if this isn't an HTTP/1.x response, or its head exceeds a limit.
        """
        self._buffer += data
        while self._step():
            pass

    def receive_eof(self) -> None:
        """Nothing more comes. May also be called to make do with what is there of a body.

        Raises:
            InvalidMessage: if there is no complete head.
        """
        if self.response is None:
            size = len(self._buffer)
            when = "after an interim response" if self._interim else "without a response"
            when = f"after {size} bytes of the head of a response" if size else when
            exc = InvalidMessage(f"connection closed {when}")
            exc.hung_up = True
            raise exc
        if not self.complete:
            self._finish(truncated=self._step != self._read_until_eof)

    def _read_head(self) -> bool:
        buffer = self._buffer
        blank, size = _find_blank_line(buffer, self._searched)
        if not b"HTTP/".startswith(buffer[:5]):  # Don't wait for a head that never comes.
            raise _no_status_line(bytes(buffer[:size]).partition(b"\n")[0])
        if size > self._max_head:
            raise InvalidMessage(f"the head of the response exceeds {self._max_head} bytes")
        if blank < 0:
            self._searched = max(0, size - 2)
            return False
        head = bytes(buffer[: blank + 1])
        del buffer[:size]
        self._searched = 0
        self._receive_head(self._parse_head(head))
        return True

    def _parse_head(self, head: bytes) -> Response:
        head = head.replace(b"\r\n", b"\n")
        if len(head.translate(None, _CONTROLS)) != len(head):
            raise InvalidMessage("the head of the response has control characters")
        if len(head) > self._max_line and max(map(len, head.split(b"\n"))) > self._max_line:
            raise InvalidMessage(f"a line of the response exceeds {self._max_line} bytes")
        try:
            text = head.decode()
        except UnicodeDecodeError:
            text = head.decode("latin-1")
        status_line, _, fields = text.partition("\n")
        protocol, _, rest = status_line.partition(" ")
        code, _, reason = rest.partition(" ")
        version = _VERSIONS.get(protocol)
        is_code = len(code) == 3 and code.isascii() and code.isdigit() and code >= "100"
        if version is None or not is_code:
            raise _no_status_line(status_line)
        reason = reason.strip(" \t")
        headers = self._parse_fields(fields)
        return Response(int(code), _SHARED.get(reason, reason), headers, http_version=version)

    def _parse_fields(self, text: str) -> Headers:
        if text.count("\n") > self._max_headers:
            raise InvalidMessage(f"the response has more than {self._max_headers} headers")
        if "\n " in text or "\n\t" in text:  # obs-fold: RFC 9112, 5.2
            first, *lines = text.split("\n")
            text = first + "".join(
                " " + line.lstrip(" \t") if line.startswith((" ", "\t")) else "\n" + line
                for line in lines
            )
        flat: list[str] = []
        for line in text.split("\n")[:-1]:
            name, colon, value = line.partition(":")
            if not colon or not is_token(name):  # RFC 9112, 5.1
                raise InvalidMessage(
                    f"expected the name of a header and a colon, got {shown(name)}"
                )
            flat += _field(name, value)
        return trusted_headers(flat)

    def _receive_head(self, response: Response) -> None:
        status = response.status_code
        if status < 200 and status != 101:
            self._interim += 1
            if self._interim > MAX_INTERIM:
                raise InvalidMessage(f"more than {MAX_INTERIM} interim responses")
            return
        self._is_tunnel = status == 101 or (self._method == "CONNECT" and status < 300)
        if self._is_tunnel or self._method == "HEAD" or status in (204, 304):
            self.response = response
            self._finish()
        else:
            self._step = self._body_reader(response.headers)
            self.response = response

    def _body_reader(self, headers: Headers) -> Callable[[], bool]:
        """The step for the body of a response with *headers* (RFC 9112, 6.3)."""
        coding = headers.get("Transfer-Encoding")
        if coding is not None:  # It overrides Content-Length.
            last = coding.rpartition(",")[2].strip(" \t").lower()
            return self._read_chunk_size if last == "chunked" else self._read_until_eof
        length = headers.get("Content-Length")
        if length is None:
            return self._read_until_eof
        digits, *others = {item.strip(" \t") for item in length.split(",")}
        if others or len(digits) > 18 or not (digits.isascii() and digits.isdigit()):
            raise InvalidMessage(f"expected one Content-Length, got {shown(length)}")
        self._left = int(digits)
        return self._read_counted

    def _read_counted(self) -> bool:
        self._left = self._take(self._left)
        return False if self._left else self._finish()

    def _read_until_eof(self) -> bool:
        self._take(len(self._buffer))
        return False

    def _read_chunk_size(self) -> bool:
        line = self._take_line()
        if line is None:
            return False
        digits = line.partition(b";")[0].rstrip(b" \t")
        if not 0 < len(digits) <= 16 or digits.strip(_HEX):
            return self._finish(truncated=True)
        self._left = int(digits, 16)
        self._step = self._read_chunk if self._left else self._read_trailer
        return True

    def _read_chunk(self) -> bool:
        self._left = self._take(self._left)
        if self._left:
            return False
        self._step = self._read_chunk_end
        return True

    def _read_chunk_end(self) -> bool:
        line = self._take_line()
        if line is None:
            return False
        if line:
            return self._finish(truncated=True)
        self._step = self._read_chunk_size
        return True

    def _read_trailer(self) -> bool:
        line = self._take_line()
        if line is None:
            return False
        self._trailers += 1
        if line and self._trailers <= self._max_headers:
            return True
        return self._finish()

    def _take(self, count: int) -> int:
        """Move up to *count* bytes to the body; say how many of them are missing."""
        room = self._max_body - len(self._body)
        data = self._buffer[: min(count, room)]
        self._body += data
        del self._buffer[: len(data)]
        if count > room == len(data):
            self._finish(truncated=True)
        return count - len(data)

    def _take_line(self) -> bytes | None:
        """The next line between chunks, or ``None`` if it isn't there, or too long."""
        end = self._buffer.find(b"\n", self._searched)
        size = len(self._buffer) if end < 0 else end
        if size > self._max_line:
            self._finish(truncated=True)
            return None
        if end < 0:
            self._searched = size
            return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        self._searched = 0
        return line[:-1] if line.endswith(b"\r") else line

    def _finish(self, truncated: bool = False) -> bool:
        if self.response is None:
            raise AssertionError("a body before its head")
        self.response.body = bytes(self._body)
        self.response.body_truncated = truncated
        self._body.clear()
        self.complete = True
        self._step = self._drop
        return True

    def _drop(self) -> bool:
        if not self._is_tunnel:
            self._buffer.clear()
        return False


def _find_blank_line(buffer: bytearray, start: int) -> tuple[int, int]:
    """Where the line feed before the first empty line is, -1 if there is none, and what ends it."""
    blank = buffer.find(b"\n\r\n", start)
    short = buffer.find(b"\n\n", start, blank + 1 or None)  # before that
    if short >= 0:
        return short, short + 2
    return blank, blank + 3 if blank >= 0 else len(buffer)


def _no_status_line(line: bytes | str) -> InvalidMessage:
    return InvalidMessage(f"expected 'HTTP/1.1' and a status code, got {shown(line)}")
