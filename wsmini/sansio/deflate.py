"""permessage-deflate: compressed messages (RFC 7692).

A compressed message is a raw deflate stream that ends with an empty stored block, less the last
four bytes of that, which are always the same. With context takeover, messages refer back to
earlier ones: there is one stream in each direction for as long as the connection lives.

Nothing is loaded or allocated before it is needed: zlib and the two contexts come with the first
compressed message in either direction. Without context takeover a context lives as long as a
message; creating one takes a microsecond or four, keeping it up to 300 KB.

Window sizes. Inflating with a larger window than the peer's is always right, so nothing less than
512 bytes is used there. zlib has no raw deflate with a window of 256 bytes; but with one of 512 it
never refers back by more than 512 - MIN_LOOKAHEAD = 250 bytes (deflate.h), so that is what a
server gets that asks for 8 bits. A test checks the distances.

Truncated data is not always noticed: zlib inflates what is there and waits for more.
"""

from __future__ import annotations

import sys

from ..exceptions import PayloadTooBig, ProtocolError
from .extensions import Extension, ExtensionOffer
from .frames import Frame
from .redaction import shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    import zlib

    from .extensions import Params

    Data = bytes | bytearray | memoryview

NAME = "permessage-deflate"

# For small messages that are alike, a window of 4 KiB with small tables is faster than the largest
# (14 µs against 19 for 1 KiB of JSON), 5% worse, and takes 32 KiB instead of 256.
WINDOW_BITS = 12
MEM_LEVEL = 5

# In the order in which they are offered (RFC 7692, 7.1).
_PARAMETERS = (
    "server_no_context_takeover", "client_no_context_takeover",
    "server_max_window_bits", "client_max_window_bits",
)  # fmt: skip
_WINDOW_BITS = frozenset(map(str, range(8, 16)))  # RFC 7692, 7.1.2
_SYNC_FLUSH = 2  # zlib.Z_SYNC_FLUSH, but zlib may not be loaded or not be there
_TAIL = b"\0\0\xff\xff"  # what senders leave off the end of a message (RFC 7692, 7.2.1)
_EMPTY = b"\0"  # an empty message, whatever came before it (RFC 7692, 7.2.3.6)
_WINDOW = 32768  # bytes; the farthest that deflate can refer back
_STEP = 4096  # bytes inflated at a time behind a final block
# Final blocks in a payload, and more for each KiB. Each takes a new context, some 10 µs, and can be
# of two bytes; but no honest peer needs more than one for each fragment.
MAX_FINALS = 8


def available() -> bool:
    """Whether zlib can be imported: without it, permessage-deflate must not be offered."""
    try:
        import zlib  # noqa: F401
    except ImportError:
        return False
    return True


def _zlib_error() -> type[Exception]:
    import zlib

    return zlib.error


class Deflate(ExtensionOffer):
    """The offer of permessage-deflate; as it is by default, servers accept it everywhere.

    Args:
        server_no_context_takeover: ask the server to compress each message on its own, which
            saves about 40 KiB on a connection that is idle; a server that doesn't promise it is
            refused.
        client_no_context_takeover: compress each message on its own; saves about as much.
        server_max_window_bits: 8 to 15, the largest window for the server to use, as the power of
            two; a server that doesn't promise it is refused. ``None`` leaves it to the server.
        client_max_window_bits: the largest window to use for sending: 8 to 15, or ``True`` for 12;
            in either case the server may ask for less. ``False`` or ``None`` for 12, and the
            server can't ask for less.
        level: of compression, 0 (none) to 9 (slow); -1 is zlib's default.
        mem_level: memory for compression, 1 to 9.

    Raises:
        ValueError, TypeError: if an option is out of range or of the wrong type.
    """

    __slots__ = (*_PARAMETERS, "level", "mem_level")

    name = NAME

    def __init__(
        self,
        *,
        server_no_context_takeover: bool = False,
        client_no_context_takeover: bool = False,
        server_max_window_bits: int | None = None,
        client_max_window_bits: int | bool | None = True,
        level: int = -1,
        mem_level: int = MEM_LEVEL,
    ) -> None:
        if server_max_window_bits is not None:
            _check("server_max_window_bits", server_max_window_bits, 8, 15)
        if client_max_window_bits is not None and not isinstance(client_max_window_bits, bool):
            _check("client_max_window_bits", client_max_window_bits, 8, 15)
        _check("level", level, -1, 9)
        _check("mem_level", mem_level, 1, 9)
        self.server_no_context_takeover = bool(server_no_context_takeover)
        self.client_no_context_takeover = bool(client_no_context_takeover)
        self.server_max_window_bits = server_max_window_bits
        self.client_max_window_bits = client_max_window_bits
        self.level = level
        self.mem_level = mem_level

    def offer(self) -> Params:
        """The parameters to offer (RFC 7692, 7.1)."""
        values = [(name, getattr(self, name)) for name in _PARAMETERS]
        return [(name, None if value is True else str(value)) for name, value in values if value]

    def accept(self, params: Params, accepted: list[Extension]) -> PerMessageDeflate:
        """The extension as the server's response wants it (RFC 7692, 7.1).

        Args:
            params, accepted: as for ``ExtensionOffer.accept``.

        Raises:
            NegotiationError: if a parameter is unknown, repeated or malformed, or says what the
                offer doesn't allow.
        """
        chosen = self._parse(params)
        server_resets = "server_no_context_takeover" in chosen
        if self.server_no_context_takeover and not server_resets:
            raise self.refusal(params, "server_no_context_takeover is missing, which was asked for")
        server_bits = chosen.get("server_max_window_bits", 15)
        if server_bits > (self.server_max_window_bits or 15):
            asked = f"server_max_window_bits={self.server_max_window_bits}"
            raise self.refusal(params, f"the server's window is larger than the offered {asked}")
        if "client_max_window_bits" in chosen and not self.client_max_window_bits:
            raise self.refusal(params, "client_max_window_bits wasn't offered")
        # RFC 7692, 7.1.2.2: the response may name more than was offered; less is always allowed.
        own_bits = self.client_max_window_bits
        if own_bits is True or not own_bits:
            own_bits = WINDOW_BITS
        return PerMessageDeflate(
            server_no_context_takeover=server_resets,
            client_no_context_takeover=(
                self.client_no_context_takeover or "client_no_context_takeover" in chosen
            ),
            server_max_window_bits=server_bits,
            client_max_window_bits=min(own_bits, chosen.get("client_max_window_bits", 15)),
            level=self.level,
            mem_level=self.mem_level,
        )

    def _parse(self, params: Params) -> dict[str, int]:
        """The parameters of a response by name; those without a value get 1."""
        chosen: dict[str, int] = {}
        for name, value in params:
            if name not in _PARAMETERS:
                raise self.refusal(params, f"parameter {shown(name)} isn't known")
            if name in chosen:
                raise self.refusal(params, f"{name} is repeated")
            if name.endswith("_max_window_bits"):
                if value not in _WINDOW_BITS:
                    was = "without a value" if value is None else shown(value)
                    raise self.refusal(params, f"{name} is 8 to 15 in decimal digits, not {was}")
                chosen[name] = int(value)
            elif value is not None:
                raise self.refusal(params, f"{name} has no value, not {shown(value)}")
            else:
                chosen[name] = 1
        return chosen


def _check(name: str, value: object, least: int, most: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} is an int, not {type(value).__name__}")
    if not least <= value <= most:
        raise ValueError(f"{name} is {least} to {most}, not {value}")


class PerMessageDeflate(Extension):
    """permessage-deflate on one connection.

    ``inflate`` and ``deflate`` take whole messages, ``decode`` and ``encode`` frames; they share
    the contexts. Not thread-safe: one thread at a time in each direction.

    Attributes: the parameters as negotiated, window bits as used.
    """

    __slots__ = (
        *Deflate.__slots__,
        "_deflater", "_finals", "_history", "_inflater", "_inside", "_receiving",
    )  # fmt: skip

    name = NAME
    rsv1 = True
    optional = True

    def __init__(
        self,
        *,
        server_no_context_takeover: bool = False,
        client_no_context_takeover: bool = False,
        server_max_window_bits: int = 15,
        client_max_window_bits: int = WINDOW_BITS,
        level: int = -1,
        mem_level: int = MEM_LEVEL,
    ) -> None:
        self.server_no_context_takeover = server_no_context_takeover
        self.client_no_context_takeover = client_no_context_takeover
        self.server_max_window_bits = server_max_window_bits
        self.client_max_window_bits = client_max_window_bits
        self.level = level
        self.mem_level = mem_level
        self._deflater: zlib._Compress | None = None
        self._inflater: zlib._Decompress | None = None
        self._receiving = False  # whether the message being received is compressed
        self._inside = False  # whether the stream received is inside a message, fed in part
        self._finals = False  # whether the peer uses final blocks
        self._history = bytearray()  # the last 32 KiB inflated, as far as kept: see _keep_history

    def __repr__(self) -> str:
        options = [f"{name}={getattr(self, name)!r}" for name in Deflate.__slots__]
        return f"PerMessageDeflate({', '.join(options)})"

    # -- receiving --

    def inflate(self, data: Data, max_size: int | None = None, fin: bool = True) -> bytes:
        """A message from its compressed form; the hot path (RFC 7692, 7.2.2).

        Args:
            data: the payload of a message, or of a fragment.
            max_size: the most bytes to return, ``None`` for no limit. Inflating stops behind it.
            fin: whether *data* ends the message.

        Raises:
            PayloadTooBig: if there are more than *max_size* bytes.
            ProtocolError: if the data is corrupt. After either, the connection can't go on.
        """
        # Some servers send no bytes at all for an empty message, and go on from the same state.
        if not data and not self._inside:
            return b""
        # zlib's own limit can't tell "just full" from "more to come", so it gets one byte more. To
        # zlib, 0 is no limit.
        room = 0 if max_size is None or max_size >= sys.maxsize else max(max_size, 0) + 1
        inflater = self._inflater or self._new_inflater()
        try:
            out = inflater.decompress(b"".join((data, _TAIL)) if fin else data, room)
            if room and len(out) >= room:
                raise PayloadTooBig(len(out), room - 1)
            # Nearly never: a whole message without a final block needs none of it.
            if inflater.eof or not fin or self._inside or self._finals:
                out = self._keep_history(inflater, out, room, fin)
        # Looked up when something was raised: an inflater was made, so zlib is loaded.
        except _zlib_error() as exc:
            raise ProtocolError(f"compressed data is corrupt: {exc}") from exc
        if self.server_no_context_takeover and fin:
            self._inflater = None
            self._history.clear()
        return out

    def _new_inflater(self) -> zlib._Decompress:
        import zlib

        bits = max(9, self.server_max_window_bits)
        self._inflater = inflater = zlib.decompressobj(-bits, zdict=bytes(self._history))
        return inflater

    def _keep_history(self, inflater: zlib._Decompress, out: bytes, room: int, fin: bool) -> bytes:
        """Keep what was inflated last, and go on behind final blocks.

        Where a block has BFINAL set, the stream is over for zlib; for RFC 7692, 7.2.3.4 it isn't,
        and the window stays. So a new context starts from what was inflated last. zlib doesn't
        give that away, and keeping it takes time and memory. It is kept while a message comes in
        fragments, and for good once a final block has been seen: peers that use them do so from
        the first message on, having no other way to flush.
        """
        self._inside = not fin
        history = self._history
        history += out[-_WINDOW:]
        if inflater.eof:
            self._finals = True
            out = self._behind_final(inflater, bytearray(out), room - len(out) if room else 0, fin)
        del history[:-_WINDOW]
        if fin and not self._finals:
            history.clear()
        return out

    def _behind_final(
        self, inflater: zlib._Decompress, whole: bytearray, room: int, fin: bool
    ) -> bytes:
        """All that was inflated of a payload of which *whole* is the part up to a final block."""
        history = self._history
        rest = memoryview(inflater.unused_data)
        at, end = 0, len(rest) - (len(_TAIL) if fin else 0)
        left = limit = MAX_FINALS + len(rest) // 1024
        # Each zlib object copies what it leaves over: small steps keep the time linear. The tail
        # isn't fed to a new context, which would have nothing to complete.
        while at < len(rest) and not (inflater.eof and at >= end):
            if inflater.eof:
                left -= 1
                if not left:
                    raise ProtocolError(f"compressed data has {limit} final blocks or more")
                inflater = self._new_inflater()
            step = rest[at : at + _STEP]
            out = inflater.decompress(step, room)
            at += len(step) - len(inflater.unused_data)
            whole += out
            if room:
                room -= len(out)
                if not room:
                    raise PayloadTooBig(len(whole), len(whole) - 1)
            # The next final block may come in any step: its context starts from these bytes.
            history += out[-_WINDOW:]
            del history[:-_WINDOW]
        # What comes next begins a new stream. Where nothing more of the message comes, that has no
        # block to complete, and gets no tail.
        if inflater.eof:
            self._new_inflater()
            self._inside = False
        return bytes(whole)

    def decode(self, frame: Frame, max_size: int | None = None) -> Frame:
        """A frame with its payload inflated, as far as the message is compressed.

        Raises:
            ProtocolError: also if RSV1 is set on a continuation (RFC 7692, 6).
            PayloadTooBig: as ``inflate``.
        """
        opcode, data, fin, rsv1, rsv2, rsv3 = frame
        if opcode:
            self._receiving = rsv1
        elif rsv1:
            raise ProtocolError("RSV1 is set on a continuation frame")
        if not self._receiving:
            return frame
        return Frame(opcode, self.inflate(data, max_size, fin), fin, False, rsv2, rsv3)

    # -- sending --

    def deflate(self, data: Data, fin: bool = True) -> bytes:
        """The compressed form of a message; the hot path (RFC 7692, 7.2.1).

        Args:
            data: a message, or a fragment of one.
            fin: whether *data* ends the message. Fragments can be inflated when they arrive.
        """
        if not data:
            out = _EMPTY if fin else b""
        else:
            deflater = self._deflater or self._new_deflater()
            out = deflater.compress(data) + deflater.flush(_SYNC_FLUSH)
            # A fragment keeps the tail: what ends there can be inflated before the next one comes.
            if fin:
                out = out[:-4]
        if self.client_no_context_takeover and fin:
            self._deflater = None
        return out

    def _new_deflater(self) -> zlib._Compress:
        import zlib

        bits = max(9, self.client_max_window_bits)
        self._deflater = zlib.compressobj(self.level, zlib.DEFLATED, -bits, self.mem_level)
        return self._deflater

    def encode(self, frame: Frame) -> Frame:
        """A frame of a message to compress."""
        opcode, data, fin, rsv1, rsv2, rsv3 = frame
        return Frame(opcode, self.deflate(data, fin), fin, rsv1 or opcode != 0, rsv2, rsv3)
