"""Frames: building masked ones, and the checks that need only a frame (RFC 6455, 5).

Masking keys come from ``os.urandom`` in bulk: a system call for each frame would cost more than
building the frame. Each key is used once; a forked child throws away what it inherited, so that
parent and child never share one (RFC 6455, 5.3, 10.3).

How a payload is masked depends on its size, as measured: the XOR of one big integer wins up to one
or two thousand bytes, translating every fourth byte beyond. A program that masks many megabytes
gets libcrypto for that, which is some ten times faster but takes as long to load as translating
the first of them. The tests compare all three with the plain loop of RFC 6455, 5.3.
"""

from __future__ import annotations

import enum
import os
import struct
from collections import namedtuple

from ..exceptions import Close, ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Iterator

    Data = bytes | bytearray | memoryview


class Opcode(enum.IntEnum):
    """The kinds of frames (RFC 6455, 5.2)."""

    CONT = 0
    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10


class Frame(namedtuple("Frame", "opcode data fin rsv1 rsv2 rsv3")):
    """A frame as extensions see it (RFC 6455, 5.2): unmasked, whole.

    Args:
        opcode: an ``int``.
        data: bytes-like.
        fin: whether the message ends here.
        rsv1, rsv2, rsv3: the reserved bits.
    """

    __slots__ = ()

    def __new__(
        cls,
        opcode: int,
        data: Data,
        fin: bool = True,
        rsv1: bool = False,
        rsv2: bool = False,
        rsv3: bool = False,
    ) -> Frame:
        return super().__new__(cls, opcode, data, fin, rsv1, rsv2, rsv3)

    @property
    def head(self) -> int:
        """The first byte on the wire."""
        bits = self.fin << 7 | self.rsv1 << 6 | self.rsv2 << 5 | self.rsv3 << 4
        return int(bits | self.opcode)


FIN, RSV1, RSV2, RSV3 = 0x80, 0x40, 0x20, 0x10

MAX_CONTROL = 125  # bytes in the payload of a control frame (RFC 6455, 5.5)
LANES = 2048  # from this many bytes on, translating beats the XOR of integers
LIBCRYPTO_AFTER = 4194304  # bytes translated before libcrypto is loaded, which takes some 5 ms
PIECE = 262144  # longer payloads are masked and sent in pieces, while these are in the cache

_from_bytes = int.from_bytes

# -- masking keys --

_keys: list[int] = []
_next_key = _keys.pop  # atomic under the GIL, where a shared iterator would not be
_pack_medium = struct.Struct(">BBHI").pack  # a header up to the empty key field
_unpack_keys = struct.Struct("1024I").unpack


def _more_keys() -> int:
    keys: list[int] = list(_unpack_keys(os.urandom(4096)))
    # Taken before other threads can see the rest of them, and use it up.
    key = keys.pop()
    _keys.extend(keys)
    return key


# Windows has no fork.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keys.clear)


def masking_key() -> bytes:
    """A masking key of 4 unpredictable bytes, used once in this process. Thread-safe."""
    try:
        key = _next_key()
    except IndexError:
        key = _more_keys()
    return key.to_bytes(4, "big")


# -- masking --


class _Translations(dict):  # type: ignore[type-arg]
    """For each byte of a key, the table that XORs with it; built when first used."""

    def __missing__(self, key: int) -> bytes:
        self[key] = table = bytes([byte ^ key for byte in range(256)])
        return table


_TRANSLATIONS = _Translations()


def translate_in_place(data: bytearray, start: int, key: bytes) -> None:
    """Mask ``data[start:]``: all bytes at distance 4 have the same key byte."""
    tables = _TRANSLATIONS
    for i in (0, 1, 2, 3):
        lane = slice(start + i, None, 4)
        data[lane] = data[lane].translate(tables[key[i]])


def _translate_at_first(data: bytearray, start: int, key: bytes) -> None:
    """Translate until there was so much of it that libcrypto is worth loading."""
    global _to_translate, _mask_in_place
    translate_in_place(data, start, key)
    _to_translate -= len(data) - start
    if _to_translate <= 0:  # two threads may come here; it is only loaded twice
        _mask_in_place = _fastest() or translate_in_place  # type: ignore[assignment]


def _fastest() -> Callable[[bytearray, int, bytes], None] | None:
    try:
        from .libcrypto import load
    except ImportError:  # a copy of the package may be without it
        return None
    return load(translate_in_place)


_to_translate = LIBCRYPTO_AFTER
_mask_in_place = _translate_at_first


def mask_in_place(data: bytearray, start: int, key: bytes) -> None:
    """Mask ``data[start:]``, as is fastest here."""
    _mask_in_place(data, start, key)


def mask(data: Data, key: bytes) -> bytes:
    """*data* masked, or unmasked, with a 4-byte *key* (RFC 6455, 5.3)."""
    n = len(data)
    if n >= LANES:
        out = bytearray(data)
        mask_in_place(out, 0, key)
        return bytes(out)
    keys = _from_bytes((key * (n // 4 + 1))[:n], "big")
    return (_from_bytes(data, "big") ^ keys).to_bytes(n, "big")


# -- building frames --


def _small_tables(n: int) -> tuple[int, int]:
    """The factor that spreads a key over a frame with a payload of *n* < 126 bytes.

    It has a 1 in every fourth byte of the key field and the payload: multiplied with the key, it
    repeats the key. The second number says by how many bits the product is too long.
    """
    words = (n + 7) // 4
    return _from_bytes(b"\0\0\0\1" * words, "big"), 8 * (4 * words - n - 4)


_SMALL = tuple(_small_tables(n) for n in range(126))


# For longer ones, up to LANES: the same for 256, 512... bytes of payload.
_MEDIUM = tuple(_from_bytes(b"\0\0\0\1" * (1 + 64 * i), "big") for i in range(1, 9))


class _Heads(dict):  # type: ignore[type-arg]
    """For each first byte, the headers of frames of 0 to 125 bytes with an empty key field."""

    def __missing__(self, head: int) -> tuple[bytes, ...]:
        self[head] = headers = tuple(bytes((head, 0x80 | n, 0, 0, 0, 0)) for n in range(126))
        return headers


_HEADS = _Heads()


def header(head: int, n: int, mask_bit: int = 0x80) -> bytes:
    """The header up to the masking key: *head* is its first byte, *n* the payload's length."""
    if n < 126:
        return bytes((head, mask_bit | n))
    if n < 65536:
        return struct.pack(">BBH", head, mask_bit | 126, n)
    return struct.pack(">BBQ", head, mask_bit | 127, n)


def masked(head: int, data: Data) -> bytes | bytearray:
    """A masked frame, ready to send: *head* is its first byte, *data* the payload."""
    n = len(data)
    if n < LANES:
        # One XOR for all of it: header ^ 0, empty key field ^ key, payload ^ key, key...
        try:
            key = _next_key()
        except IndexError:
            key = _more_keys()
        if n < 126:
            ones, excess = _SMALL[n]
            frame = _from_bytes(_HEADS[head][n] + data, "big") ^ (key * ones >> excess)
            return frame.to_bytes(n + 6, "big")
        # The product with ones for the next multiple of 256 bytes, cut to size by the shift.
        ones, excess = _MEDIUM[n >> 8], 8 * (256 - (n & 255))
        frame = _from_bytes(_pack_medium(head, 0xFE, n, 0) + data, "big") ^ (key * ones >> excess)
        return frame.to_bytes(n + 8, "big")
    # The payload is copied once, into the frame, and masked there.
    key_bytes = masking_key()
    out = bytearray(header(head, n))
    out += key_bytes
    start = len(out)
    out += data
    mask_in_place(out, start, key_bytes)
    return out


def masked_pieces(head: int, data: Data) -> Iterator[bytearray]:
    """The same frame in pieces of about ``PIECE`` bytes, masked when they are asked for."""
    key = masking_key()
    view = memoryview(data)
    # PIECE is a multiple of 4: the key begins anew at each piece. A message without data is one
    # piece, of the header.
    for at in range(0, len(data) or 1, PIECE):
        piece = bytearray(header(head, len(data)) + key if at == 0 else b"")
        start = len(piece)
        piece += view[at : at + PIECE]
        mask_in_place(piece, start, key)
        yield piece


# -- Close frames --


def is_close_code(code: int) -> bool:
    """Whether *code* may stand in a Close frame (RFC 6455, 7.4)."""
    # 1004 is reserved; 1005, 1006 and 1015 are for APIs: they say what no frame has said. 1012 to
    # 1014 came later, by registration (RFC 6455, 11.7).
    return 1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999


def control_payload(data: Any) -> bytes:
    """The payload of a ping or pong with *data*; a copy, if it could be changed meanwhile.

    Raises:
        TypeError: if *data* is neither str nor bytes.
        ValueError: if it is longer than 125 bytes.
    """
    payload = data.encode() if isinstance(data, str) else data
    if not isinstance(payload, (bytes, bytearray)):
        raise TypeError(f"a ping or pong takes str or bytes, not {type(data).__name__}")
    if len(payload) > MAX_CONTROL:
        raise ValueError(f"a ping or pong has at most {MAX_CONTROL} bytes, not {len(payload)}")
    return bytes(payload)


def close_payload(code: int, reason: str = "") -> bytes:
    """The payload of a Close frame (RFC 6455, 5.5.1).

    Raises:
        ValueError: if *code* may not be sent, or *reason* exceeds 123 bytes of UTF-8.
        TypeError: if they aren't an ``int`` and a ``str``.
    """
    if not isinstance(code, int) or not isinstance(reason, str):
        raise TypeError(
            "a close code is an int and a reason a str,"
            f" not {type(code).__name__} and {type(reason).__name__}"
        )
    if not is_close_code(code):
        raise ValueError(f"close code {code} can't be sent: use 1000, 1001 or 3000 to 4999")
    data = reason.encode()
    if len(data) > MAX_CONTROL - 2:
        raise ValueError(f"a close reason has at most 123 bytes of UTF-8, not {len(data)}")
    return code.to_bytes(2, "big") + data


def read_close(data: bytes) -> Close:
    """Read a Close frame, valid or not; 1005 where there is no code (RFC 6455, 7.1.5)."""
    code = _from_bytes(data[:2], "big") if len(data) > 1 else 1005
    return Close(code, data[2:].decode("utf-8", "replace"))


def check_close(data: bytes) -> None:
    """Check the payload of a Close frame (RFC 6455, 5.5.1, 7.4).

    Raises:
        ProtocolError: if the payload is one byte or the code may not be sent.
        UnicodeDecodeError: if the reason isn't UTF-8.
    """
    if len(data) == 1:
        raise ProtocolError("a close frame has no payload or at least 2 bytes of it, not 1")
    if data:
        code = _from_bytes(data[:2], "big")
        if not is_close_code(code):
            raise ProtocolError(f"close code {code} may not be sent in a frame")
        data[2:].decode()


def parse_close(data: bytes) -> Close:
    """Read a valid Close frame; raises as ``check_close``."""
    check_close(data)
    return read_close(data)
