"""The messages of HTTP/1.1 (RFC 9110, RFC 9112): header fields, a request, a response.

Text that isn't ASCII is sent as UTF-8. Responses are read by ``response.ResponseParser``.
"""

from __future__ import annotations

from .redaction import redacted_header, redacted_uri, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterable, Iterator, Mapping

    from typing_extensions import TypeAlias

    HeadersLike: TypeAlias = "Headers | Mapping[str, str] | Iterable[tuple[str, str]]"

# RFC 9110, 5.6.2. For strip(), which leaves nothing of a text that has no others.
TOKEN = "abcdefghijklmnopqrstuvwxyz-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ!#$%&'*+.^_`|~"

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


def is_token(text: str) -> bool:
    """Whether *text* is a token (RFC 9110, 5.6.2), such as the name of a header."""
    # Most are letters and hyphens, which takes half of the time to find out.
    simple = str.isascii(text) and text.replace("-", "_").isidentifier()
    return simple or (text != "" and not text.strip(TOKEN))


def is_value(text: str) -> bool:
    """Whether *text* has only what the value of a header can have, and UTF-8 (RFC 9110, 5.5)."""
    # Nearly all are printable, which is quickly seen. Of the others, tabs are right, and what isn't
    # ASCII, surrogates excepted: isprintable() refuses a no-break space, say.
    if text.isprintable():
        return True
    import re

    return re.search("[\0-\x08\n-\x1f\x7f\ud800-\udfff]", text) is None


class Headers:
    """Header fields in order: names in any case, kept as written, and repeated where needed.

    A dictionary of names, whose values are joined with ``", "`` where a name comes several times
    (RFC 9110, 5.3); ``get_all()`` keeps them apart. Whitespace around values is dropped.

    Setting a header raises ``ValueError``, which doesn't quote the value, if the name isn't a
    token or the value has control characters (RFC 9110, 5), and ``TypeError`` if one of them
    isn't a ``str``. So what is in here can be sent. ``str()`` and ``repr()`` show no secrets: see
    ``redaction.redacted_header``.

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
        return [self._flat[place + 1] for place in self._places(name)]

    def items(self) -> list[tuple[str, str]]:
        """All pairs of name and value in their order, repeated names too."""
        return list(zip(self._flat[::2], self._flat[1::2]))

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
        # The first of them keeps its place, the others go.
        first, *others = self._places(name) or [len(self._flat)]
        self._flat[first : first + 2] = field
        self._delete(others)

    def __delitem__(self, name: str) -> None:
        places = self._places(name)
        if not places:
            raise KeyError(name)
        self._delete(places)

    def __contains__(self, name: str) -> bool:
        return bool(self._places(name))

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self.keys())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Headers):
            return NotImplemented
        return self._by_name() == other._by_name()

    # They can change. Python sees that from __eq__, type checkers don't.
    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        return "\n".join(f"{name}: {redacted_header(name, value)}" for name, value in self.items())

    def __repr__(self) -> str:
        pairs = [(name, redacted_header(name, value)) for name, value in self.items()]
        return f"Headers({pairs!r})"

    def _places(self, name: str) -> list[int]:
        """Where *name* is, in any case."""
        key, flat = name.lower(), self._flat
        return [n for n in range(0, len(flat), 2) if flat[n].lower() == key]

    def _delete(self, places: list[int]) -> None:
        # From the end: a deletion moves what is behind it.
        for place in reversed(places):
            del self._flat[place : place + 2]

    def _by_name(self) -> list[tuple[str, str]]:
        """The pairs, sorted by name: the order counts within a name only (RFC 9110, 5.3)."""
        pairs = [(name.lower(), value) for name, value in self.items()]
        return sorted(pairs, key=lambda pair: pair[0])


def _checked(name: str, value: str) -> tuple[str, str]:
    if not isinstance(name, str):
        raise TypeError(f"the name of a header must be a str, not {type(name).__name__}")
    if not is_token(name):
        raise ValueError(f"{shown(name)} isn't the name of a header")
    if not isinstance(value, str):
        raise TypeError(f"the {name} header must be a str, not {type(value).__name__}")
    if not is_value(value):
        raise ValueError(f"the {name} header has characters that no header can have")
    return stripped_field(name, value)


def stripped_field(name: str, value: str) -> tuple[str, str]:
    """A name and a value as ``Headers`` keeps them."""
    return shared(name), shared(value.strip(" \t"))


def shared(text: str) -> str:
    """*text*, or the one string for all connections if it is of most handshakes."""
    return _SHARED.get(text, text)


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
        return f"Request({self.method!r}, {redacted_uri(self.target)!r}, {self.headers!r})"

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
        # The headers were checked when they were set: none of them can end its line.
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
        "body", "body_truncated", "headers", "http_version", "reason_phrase", "status_code",
    )  # fmt: skip

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
