"""Reading the response to an opening handshake, of a server or of a proxy (RFC 9112).

Heads are read as UTF-8, or as Latin-1 where they aren't UTF-8.
"""

from __future__ import annotations

from ..exceptions import InvalidMessage
from .http11 import Headers, Response, is_token, shared, stripped_field, trusted_headers
from .redaction import shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

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
        """The bytes behind the head of a 101, or of a 2xx to ``CONNECT``: no longer HTTP."""
        return bytes(self._buffer) if self._is_tunnel else b""

    def receive_data(self, data: bytes) -> None:
        """Go on with *data*. Linear, however small the pieces.

        Raises:
            InvalidMessage: if this isn't an HTTP/1.x response, or its head exceeds a limit.
        """
        self._buffer += data
        while self._step():
            pass

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
            self._finish(truncated=not clean or self._step != self._read_until_eof)

    def _read_head(self) -> bool:
        buffer = self._buffer
        blank, size = _find_blank_line(buffer, self._searched)
        if not b"HTTP/".startswith(buffer[:5]):  # Don't wait for a head that never comes.
            raise _no_status_line(bytes(buffer[:size]).partition(b"\n")[0])
        if size > self.max_head:
            raise InvalidMessage(f"the head of the response exceeds {self.max_head} bytes")
        if blank < 0:
            # The next search begins where a blank line may have begun: two bytes before the end.
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
            first, *lines = text.split("\n")
            text = first + "".join(
                " " + line.lstrip(" \t") if line.startswith((" ", "\t")) else "\n" + line
                for line in lines
            )
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

    def _receive_head(self, response: Response) -> None:
        status = response.status_code
        if status < 200 and status != 101:
            self._interim += 1
            if self._interim > MAX_INTERIM:
                raise InvalidMessage(f"more than {MAX_INTERIM} interim responses")
            # The step stays: another head follows.
            return
        # What follows is no body, but the next protocol's (RFC 9110, 9.3.6 and 15.2.2).
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
        # Several values, or headers, are right if they say the same (RFC 9110, 8.6).
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
        # No chunk is so long that more digits are needed.
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
        # The chunk is longer than it says: where the next one begins, nothing tells.
        if line:
            return self._finish(truncated=True)
        self._step = self._read_chunk_size
        return True

    def _read_trailer(self) -> bool:
        line = self._take_line()
        if line is None:
            return False
        # Trailers tell nothing that is needed here, and are dropped.
        self._trailers += 1
        if line and self._trailers <= self.max_headers:
            return True
        return self._finish()

    def _take(self, count: int) -> int:
        """Move up to *count* bytes to the body; say how many of them are missing."""
        room = self.max_body - len(self._body)
        data = self._buffer[: min(count, room)]
        self._body += data
        del self._buffer[: len(data)]
        # There is more of the body than is kept. What follows is dropped, see _drop.
        if count > room == len(data):
            self._finish(truncated=True)
        return count - len(data)

    def _take_line(self) -> bytes | None:
        """The next line between chunks, or ``None`` if it isn't there, or too long."""
        end = self._buffer.find(b"\n", self._searched)
        size = len(self._buffer) if end < 0 else end
        if size > self.max_line:
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
    # Before that only; if there is none, blank + 1 is 0, and the search goes on to the end.
    short = buffer.find(b"\n\n", start, blank + 1 or None)
    if short >= 0:
        return short, short + 2
    return blank, blank + 3 if blank >= 0 else len(buffer)


def _no_status_line(line: bytes | str) -> InvalidMessage:
    return InvalidMessage(f"expected 'HTTP/1.1' and a status code, got {shown(line)}")
