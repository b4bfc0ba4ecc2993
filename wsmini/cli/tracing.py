"""``-v``: TLS and the handshake; ``-vv``: each frame, shown as it passes to and from the stream.

A connection whose stream isn't wrapped pays nothing for this.
"""

from __future__ import annotations

from ..blocking.connection import Connection
from ..opening.opening import Opening
from ..opening.steps import run_blocking
from ..options import Options
from ..sansio.frames import Opcode, mask
from ..sansio.redaction import redacted_uri
from ..sansio.uri import shown_address
from .output import note, show_head, show_response

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ssl import SSLObject
    from typing import Any, Callable, Iterator

    from ..opening.streams import Stream
    from ..options import ConnectOptions
    from ..sansio.frames import Data

_SHOWN = 32  # bytes of a payload


def connect_traced(url: str, options: ConnectOptions, frames: bool) -> Connection:
    """As ``connect()``; shows TLS, if there is any, the handshake, and *frames* if wanted."""
    settings = Options(url, **options)
    opened = run_blocking(Opening(settings).steps())
    try:
        tls = getattr(opened.stream, "ssl_object", None)
        for line in tls_facts(tls) if tls is not None else ():
            note(line, "*")
        if frames:
            stream: Any = TracedStream(opened.stream, note)
            opened.stream = stream
            # Bytes that came with the response: the stream won't see them.
            stream.received(opened.rest)
        ws = Connection(opened, settings)
    except BaseException:
        opened.stream.close()
        raise
    _show_handshake(ws)
    return ws


def _show_handshake(ws: Connection) -> None:
    request = ws.request
    show_head(f"{request.method} {redacted_uri(request.target)} HTTP/1.1", request.headers, ">")
    show_response(ws.response)
    note(f"connected to: {shown_address(ws.remote_address)}", "*")
    note(f"subprotocol: {ws.subprotocol or 'none'}", "*")
    took = ", ".join(f"{phase} {t * 1000:.1f} ms" for phase, t in ws.timings.items())
    note(f"timings: {took}", "*")
    note(f"extensions: {', '.join(e.name for e in ws.extensions) or 'none'}", "*")


def tls_facts(tls: SSLObject) -> Iterator[str]:
    """Lines about a TLS connection: its version and cipher, and who the server is."""
    cipher = tls.cipher()
    resumed = ", a resumed session" if tls.session_reused else ""
    yield f"TLS: {tls.version()}, {cipher[0] if cipher else 'no cipher'}{resumed}"
    certificate: dict[str, Any] = tls.getpeercert() or {}
    if certificate:
        yield f"certificate: {_named(certificate['subject'])}"
        # A name of a directory is a tuple.
        names = [f"{name}" for _, name in certificate.get("subjectAltName", ())]
        yield f"certificate for: {', '.join(names) or 'no names'}"
        yield f"certificate by: {_named(certificate['issuer'])}"
        yield f"certificate valid: {certificate['notBefore']} to {certificate['notAfter']}"
    else:  # what it says is only to be had if it is verified
        import hashlib

        digest = hashlib.sha256(tls.getpeercert(True) or b"").hexdigest()
        yield f"certificate: not verified, its SHA-256 is {digest}"


def _named(name: tuple[tuple[tuple[str, str], ...], ...]) -> str:
    """A distinguished name."""
    return ", ".join(f"{key}={value}" for part in name for key, value in part) or "nobody"


class TracedStream:
    """A stream that tells which frames pass through it."""

    def __init__(self, stream: Stream, say: Callable[[str, str], None]) -> None:
        self._stream = stream
        self._ahead = 0  # bytes of what comes next that were shown, and not taken yet
        self.received = FrameScanner(lambda line: say(line, "<")).feed
        self.sent = FrameScanner(lambda line: say(line, ">")).feed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def recv(self, size: int, flags: int = 0) -> bytes:
        data = self._stream.recv(size, flags)
        self.received(data)
        return data

    def recv_onto(self, received: list[bytes], size: int, flags: int = 0) -> None:
        """As ``TLSStream.recv_onto``, which ``__getattr__`` would else find, past ``recv``."""
        received.append(self.recv(size, flags))

    def send(self, data: Data, flags: int = 0) -> int:
        # Before it goes out, or another thread may show the answer first.
        self.sent(bytes(memoryview(data)[self._ahead :]))
        # What the stream doesn't take comes again, perhaps with more behind it: it is shown once.
        self._ahead = max(self._ahead, len(data))
        taken = self._stream.send(data, flags)
        self._ahead -= taken
        return taken


class FrameScanner:
    """Finds frames (RFC 6455, 5.2) in bytes that come in any pieces, and shows their beginnings."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._begun = b""  # of a frame, too little to show it
        self._skip = 0  # bytes of a payload that aren't shown

    def feed(self, data: bytes) -> None:
        """Show the frames in *data*, which follows what was fed before; in linear time."""
        data = self._begun + data
        end: int | None = 0
        while end is not None:
            # What is left of the last payload isn't shown: only the beginnings of frames are.
            skipped = min(self._skip, len(data) - end)
            self._skip -= skipped
            start = end + skipped
            end = self._show_frame(data, start)
        self._begun = data[start:]

    def _show_frame(self, data: bytes, start: int) -> int | None:
        """Show the frame at *start*, if enough of it is here; return where the shown part ends."""
        if len(data) < start + 2:
            return None
        size = data[start + 1] & 0x7F
        at = start + (2 if size < 126 else 4 if size == 126 else 10)
        payload = at + (4 if data[start + 1] & 0x80 else 0)
        if len(data) < payload:
            return None
        # 126 and 127 say that the length is in the next 2 or 8 bytes.
        if size > 125:
            size = int.from_bytes(data[start + 2 : at], "big")
        end = payload + min(size, _SHOWN)
        if len(data) < end:
            return None
        shown = data[payload:end]
        if payload > at:
            shown = mask(shown, data[at:payload])
        self._say(_described(data[start], size, shown))
        # What feed() passes over before it looks for the next frame.
        self._skip = size - len(shown)
        return end


def _described(head: int, size: int, shown: bytes) -> str:
    try:
        name = Opcode(head & 0x0F).name
    except ValueError:
        name = f"opcode {head & 0x0F}"
    bits = "".join(f" {bit}" for value, bit in _BITS if head & value)
    more = "..." if size > len(shown) else ""
    # Text that RSV1 doesn't mark as compressed (RFC 7692, 6).
    text = repr(shown)[1:] if head & 0x4F == Opcode.TEXT else shown.hex()
    return f"{name}{bits} {size} bytes {text}{more}".rstrip()


_BITS = ((0x80, "FIN"), (0x40, "RSV1"), (0x20, "RSV2"), (0x10, "RSV3"))
