"""Messages as bytes of standard input and output: lines, encodings, JSON.

Nothing here waits or writes.
"""

from __future__ import annotations

import binascii
import re
import time
from codecs import BOM_UTF8, iterdecode
from itertools import chain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from typing import Callable, Iterable, Iterator

    from ..exceptions import ConnectionClosed

    Sendable = str | bytes | Iterable[str] | Iterable[bytes]

READ_SIZE = 1 << 16  # bytes read from standard input at once
BLOCK = 1 << 20  # bytes of binary input sent as one frame
_BASE64 = re.compile(rb"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")
_MOST_INDENTED = 16  # times its size, that a message may take when its JSON is indented

# -- input --


def messages_in(read: Callable[[], bytes], args: Namespace) -> Iterator[Sendable]:
    """The messages in the input, of which *read* gives chunk by chunk."""
    if args.binary:
        return blocks(read)
    if args.text:
        return text_blocks(read)
    return map(parser_for(args), lines(read, b"\0" if args.null else b"\n"))


def parser_for(args: Namespace) -> Callable[[bytes], str | bytes]:
    """Choose the parser of one line."""
    if args.binary:
        return bytes
    if args.ndjson:
        return from_json
    if args.hex:
        return from_hex
    return from_base64 if args.base64 else decoded


def lines(read: Callable[[], bytes], end: bytes = b"\n") -> Iterator[bytes]:
    """Lines without their *end* (LF or CR LF, or NUL), in time linear in their lengths."""
    parts: list[bytes] = []
    # The parts of a line are joined once, when its end has come: it may be a large one.
    for chunk in iter(read, b""):
        *ended, rest = chunk.split(end)
        for last in ended:
            line = b"".join([*parts, last])
            parts.clear()
            yield line[:-1] if end == b"\n" and line.endswith(b"\r") else line
        parts.append(rest)
    line = b"".join(parts)
    # An end of a line at the end of the input begins no empty line.
    if line:
        yield line


def decoded(line: bytes) -> str:
    """A line of text.

    Raises:
        UnicodeError: if it isn't UTF-8.
    """
    try:
        return line.decode()
    except UnicodeDecodeError as exc:
        problem = f"not UTF-8 ({exc.reason} at byte {exc.start} of a line); try --binary"
        raise UnicodeError(problem) from exc


def blocks(read: Callable[[], bytes]) -> Iterator[bytes | Iterable[bytes]]:
    """One message, or none if there is no input; fragmented if it is large."""
    blocks = _grouped(read)
    # One block more than needed is read, to know whether the message has to be fragmented.
    first = next(blocks)
    second = next(blocks, None)
    if second is not None:
        yield chain([first, second], blocks)
    elif first:
        yield first


def _grouped(read: Callable[[], bytes]) -> Iterator[bytes]:
    """Blocks of ``BLOCK`` bytes or a little more, and a last one of less."""
    parts: list[bytes] = []
    size = 0
    for chunk in iter(read, b""):
        parts.append(chunk)
        size += len(chunk)
        if size >= BLOCK:
            yield b"".join(parts)
            parts.clear()
            size = 0
    yield b"".join(parts)


def text_blocks(read: Callable[[], bytes]) -> Iterator[str | Iterable[str]]:
    """As ``blocks``, for text: a fragment may end within a character, but a ``str`` can't."""
    # A character that a chunk cuts in two comes with the next chunk.
    texts = iterdecode(iter(read, b""), "utf-8")

    def read_text() -> bytes:
        try:
            return next(texts, "").encode()
        except UnicodeDecodeError as exc:
            raise UnicodeError(f"not UTF-8 ({exc.reason}); try --binary") from exc

    for message in blocks(read_text):
        yield message.decode() if isinstance(message, bytes) else map(bytes.decode, message)


def from_hex(line: bytes) -> bytes:
    """The bytes for hexadecimal digits, with spaces wherever they are.

    Raises:
        UnicodeError: if it is something else.
    """
    try:
        return bytes.fromhex(line.decode("ascii"))
    except ValueError as exc:
        raise UnicodeError(f"a line isn't hexadecimal: {exc}") from exc


def from_base64(line: bytes) -> bytes:
    """The bytes for base64. Raises as ``from_hex``."""
    # binascii alone skips whatever isn't base64.
    if not _BASE64.fullmatch(line):
        raise UnicodeError("a line isn't base64: wrong characters, or incorrect padding")
    return binascii.a2b_base64(line)


def from_json(line: bytes) -> str | bytes:
    """The message for an object with ``payload`` and perhaps ``type``. Raises as ``from_hex``."""
    import json  # only users of the option need it

    try:
        # A file from Windows begins with a mark.
        record = json.loads(decoded(line[3:] if line.startswith(BOM_UTF8) else line))
        payload = record["payload"]
        kind = record.get("type", "text")
        if not isinstance(payload, str) or kind not in ("text", "binary"):
            raise ValueError("its payload is no string, or its type neither text nor binary")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        raise UnicodeError(f'a line isn\'t JSON with a "payload": {exc}') from exc
    return from_base64(payload.encode()) if kind == "binary" else payload


# -- output --


def writing_for(args: Namespace) -> Callable[[str | bytes], bytes]:
    """Choose the writer of a message: it gives bytes, with the end of the line."""
    if args.raw:
        return lambda message: message.encode() if isinstance(message, str) else message
    if args.ndjson:
        return lambda message: as_json(record("received", message)) + b"\n"
    end = b"\0" if args.null else b"\n"
    pretty = indented if args.json else str
    binary = dumped if args.dump else encoded64 if args.base64 else bytes.hex
    stamped = args.timestamps

    def line(message: str | bytes) -> bytes:
        text = pretty(message) if isinstance(message, str) else binary(message)
        return (f"{clock()} {text}" if stamped else text).encode() + end

    return line


def encoded64(data: bytes) -> str:
    """*data* in base64."""
    return binascii.b2a_base64(data, newline=False).decode()


def record(direction: str, message: str | bytes) -> dict[str, object]:
    """A message as ``--ndjson`` and ``--record`` have it."""
    binary = not isinstance(message, str)
    return {
        "direction": direction,
        "time": round(time.time(), 6),
        "type": "binary" if binary else "text",
        "payload": encoded64(message) if isinstance(message, bytes) else message,
    }


def close_record(exc: ConnectionClosed) -> dict[str, object]:
    """Describe how a connection ended: the Close frame that began it, or 1006 if it was lost."""
    # Ours began it where it was sent first, or alone.
    ours = exc.sent is not None and not (exc.rcvd is not None and exc.rcvd_then_sent)
    close = exc.sent if ours else exc.rcvd
    return {
        "direction": "sent" if ours else "received",
        "time": round(time.time(), 6),
        "type": "close",
        "code": 1006 if close is None else close.code,
        "reason": "" if close is None else close.reason,
    }


def as_json(fields: dict[str, object]) -> bytes:
    """One line of JSON, without its end."""
    import json

    # ASCII, as is the default: neither locales nor lone surrogates matter.
    return json.dumps(fields).encode()


def indented(text: str) -> str:
    """*text* with its JSON indented; as it is if it has none, or that would make it too large."""
    import json

    parts, room = [], _MOST_INDENTED * len(text) + READ_SIZE
    try:
        # Deeply nested, a message of 1 MB would take gigabytes.
        for part in json.JSONEncoder(indent=2, ensure_ascii=False).iterencode(json.loads(text)):
            parts.append(part)
            room -= len(part)
            if room < 0:
                return text
    except (ValueError, RecursionError):
        return text
    return "".join(parts)


def dumped(data: bytes) -> str:
    """A hex dump: offset, 16 bytes, and those of them that are printable ASCII."""
    rows = []
    for at in range(0, len(data), 16):
        row = data[at : at + 16]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
        rows.append(f"{at:08x}  {' '.join(f'{byte:02x}' for byte in row):<47}  |{text}|")
    return "\n".join(rows) or f"{0:08x}"


def clock() -> str:
    """The time of day, in milliseconds."""
    now = time.time()
    return f"{time.strftime('%H:%M:%S', time.localtime(now))}.{int(now % 1 * 1000):03}"
