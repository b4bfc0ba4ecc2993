"""Reading the response to an opening handshake, of a server or of a proxy (RFC 9112).

Heads are read as UTF-8, or as Latin-1 where they aren't UTF-8.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator

from ..exceptions import InvalidMessage
from .http11 import Headers, Response, is_token, shared, stripped_field, trusted_headers
from .redaction import shown

MAX_INTERIM = 8

# Line feeds are where lines end; carriage returns that were followed by one are gone by then.
_CONTROLS = bytes({*range(32), 127} - set(b"\t\n"))
_VERSIONS = {"HTTP/1.0": "1.0", "HTTP/1.1": "1.1"}
_HEX = b"0123456789abcdefABCDEF"


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

    Attributes:
        response: the ``Response`` once its head is complete, else ``None``. Interim responses
            (RFC 9110, 15.2) other than 101 don't count.
        complete: whether the body is complete or truncated, too.
    """

    max_line = 65536  # bytes, in the head and between chunks: policies and cookies get long
    max_headers = 128  # lines with headers, in the head and again behind chunks
    max_head = 262144  # bytes
    max_body = 65536  # bytes; of a longer body, the rest is dropped

    def __init__(self, method: str = "GET") -> None:
        self._method = method
        self.response: Response | None = None
        self.complete = False
        self._buffer = bytearray()
        self._interim = 0
        self._body = bytearray()
        self._is_tunnel = self._until_eof = False
        self._reading = self._read()

    @property
    def rest(self) -> bytes:
        """The bytes behind the head of a 101, or of a 2xx to ``CONNECT``: no longer HTTP."""
        return bytes(self._buffer) if self._is_tunnel else b""

    def receive_data(self, data: bytes) -> None:
        """Go on with *data*. Linear, however small the pieces.

        Raises:
            InvalidMessage: if this isn't an HTTP/1.x response, or its head exceeds a limit. After
                that, or an exception of a signal handler, it reads nothing more.
        """
        if self._is_tunnel or not self.complete:
            self._buffer += data
            next(self._reading, None)

    def receive_eof(self, clean: bool = True) -> None:
        """Note that nothing more comes; or make do with what is there of a body.

        Args:
            clean: ``False`` if the connection was lost, or TLS cut off, rather than closed by the
                server: then a body that goes on until the end isn't known to be complete.

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
        # Only a body without a length ends where the connection does (RFC 9112, 6.3).
        if not self.complete:
            self._finish(self.response, truncated=not (clean and self._until_eof))

    def _finish(self, response: Response, truncated: bool) -> None:
        response.body = bytes(self._body)
        response.body_truncated = truncated
        self._body.clear()
        self.complete = True

    # -- reading: each yield waits until there are more bytes in the buffer --

    def _read(self) -> Iterator[None]:
        response = yield from self._read_head()
        while response.status_code < 200 and response.status_code != 101:
            self._interim += 1
            if self._interim > MAX_INTERIM:
                raise InvalidMessage(f"more than {MAX_INTERIM} interim responses")
            response = yield from self._read_head()
        status = response.status_code
        # What follows is no body, but the next protocol's (RFC 9110, 9.3.6 and 15.2.2).
        self._is_tunnel = status == 101 or (self._method == "CONNECT" and status < 300)
        has_body = not (self._is_tunnel or self._method == "HEAD" or status in (204, 304))
        body = self._body_of(response.headers) if has_body else ()
        self.response = response
        truncated = False
        try:
            yield from body
        except _Truncated:
            truncated = True
        self._finish(response, truncated)

    def _read_head(self) -> Generator[None, None, Response]:
        buffer, searched = self._buffer, 0
        while True:
            blank, size = _find_blank_line(buffer, searched)
            if not b"HTTP/".startswith(buffer[:5]):  # Don't wait for a head that never comes.
                raise _no_status_line(bytes(buffer[:size]).partition(b"\n")[0])
            if size > self.max_head:
                raise InvalidMessage(f"the head of the response exceeds {self.max_head} bytes")
            if blank >= 0:
                break
            # The next search begins where a blank line may have begun: two bytes before the end.
            searched = max(0, size - 2)
            yield
        head = bytes(buffer[: blank + 1])
        del buffer[:size]
        return self._parse_head(head)

    def _parse_head(self, head: bytes) -> Response:
        head = head.replace(b"\r\n", b"\n")
        if len(head.translate(None, _CONTROLS)) != len(head):
            raise InvalidMessage("the head of the response has control characters")
        if len(head) > self.max_line and max(map(len, head.split(b"\n"))) > self.max_line:
            raise InvalidMessage(f"a line of the response exceeds {self.max_line} bytes")
        # RFC 9110, 5.5, wants ASCII, and was Latin-1 once; what servers send is mostly UTF-8.
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
        return Response(int(code), shared(reason), headers, http_version=version)

    def _parse_fields(self, text: str) -> Headers:
        if text.count("\n") > self.max_headers:
            raise InvalidMessage(f"the response has more than {self.max_headers} headers")
        if "\n " in text or "\n\t" in text:  # obs-fold: RFC 9112, 5.2
            import re  # servers have mostly given it up

            text = re.sub(r"\n[ \t]+", " ", text)
        flat: list[str] = []
        # The last line, too, ends with a line feed.
        for line in text.split("\n")[:-1]:
            name, colon, value = line.partition(":")
            if not colon or not is_token(name):  # RFC 9112, 5.1
                raise InvalidMessage(
                    f"expected the name of a header and a colon, got {shown(name)}"
                )
            flat += stripped_field(name, value)
        return trusted_headers(flat)

    def _body_of(self, headers: Headers) -> Iterator[None]:
        """What reads the body of a response with *headers* (RFC 9112, 6.3)."""
        coding = headers.get("Transfer-Encoding")
        if coding is not None:  # It overrides Content-Length.
            last = coding.rpartition(",")[2].strip(" \t").lower()
            return self._read_chunks() if last == "chunked" else self._read_until_eof()
        length = headers.get("Content-Length")
        if length is None:
            return self._read_until_eof()
        # Several values, or headers, are right if they say the same (RFC 9110, 8.6).
        digits, *others = {item.strip(" \t") for item in length.split(",")}
        if others or len(digits) > 18 or not (digits.isascii() and digits.isdigit()):
            raise InvalidMessage(f"expected one Content-Length, got {shown(length)}")
        return self._read_counted(int(digits))

    def _read_until_eof(self) -> Iterator[None]:
        self._until_eof = True
        while True:
            yield from self._read_counted(len(self._buffer))
            yield

    def _read_counted(self, count: int) -> Iterator[None]:
        """Move *count* bytes to the body, as they come."""
        while count:
            room = self.max_body - len(self._body)
            data = self._buffer[: min(count, room)]
            self._body += data
            del self._buffer[: len(data)]
            count -= len(data)
            if count and len(data) == room:  # There is more of it than is kept.
                raise _Truncated
            if count:
                yield

    def _read_chunks(self) -> Iterator[None]:
        while True:
            line = yield from self._read_line()
            digits = line.partition(b";")[0].rstrip(b" \t")
            # No chunk is so long that more digits are needed.
            if not 0 < len(digits) <= 16 or digits.strip(_HEX):
                raise _Truncated
            size = int(digits, 16)
            if not size:
                break
            yield from self._read_counted(size)
            # The chunk is longer than it says: where the next one begins, nothing tells.
            if (yield from self._read_line()):
                raise _Truncated
        # Trailers tell nothing that is needed here, and are dropped.
        for _ in range(self.max_headers + 1):
            if not (yield from self._read_line()):
                break

    def _read_line(self) -> Generator[None, None, bytes]:
        """The next line between chunks."""
        buffer, searched = self._buffer, 0
        while True:
            end = buffer.find(b"\n", searched)
            size = len(buffer) if end < 0 else end
            if size > self.max_line:
                raise _Truncated
            if end >= 0:
                break
            searched = size
            yield
        line = bytes(buffer[:end])
        del buffer[: end + 1]
        return line[:-1] if line.endswith(b"\r") else line


class _Truncated(Exception):
    """There may be more of a body, and it isn't read."""


def _find_blank_line(buffer: bytearray, start: int) -> tuple[int, int]:
    """Where the line feed before the first empty line is, -1 if there is none, and what ends it."""
    blank = buffer.find(b"\n\r\n", start)
    # Before that only; if there is none, blank + 1 is 0, and the search goes on to the end.
    short = buffer.find(b"\n\n", start, blank + 1 or None)
    if short >= 0:
        return short, short + 2
    return blank, blank + 3 if blank >= 0 else len(buffer)


def _no_status_line(line: bytes | str) -> InvalidMessage:
    return InvalidMessage(f"expected 'HTTP/1.1' and a status code, got {shown(line)}")
