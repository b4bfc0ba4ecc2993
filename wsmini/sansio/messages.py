"""From bytes to messages: parsing frames, gathering fragments, limits and UTF-8.

``MessageReader`` has two ways through the same grammar. ``_step`` is the plain one: a frame, or the
part of it that is there, each check of RFC 6455, 5 in its place. ``_plain_messages`` is the fast
one, for what nearly all traffic is: whole, unfragmented messages, many to a read. It stops at
whatever it doesn't know and leaves that to the plain way; the tests compare the two.

What makes it fast, as measured: one loop over one ``bytes`` object with local names, nothing built
for a frame; the buffer is decoded once as Latin-1, and a slice of that which is ASCII is the
message; it stops after ``BATCH`` bytes, so that what it made is still in the cache when it is used.
Longer messages count for less: there, what a batch costs by itself weighs more.

Messages come out before anything behind them takes effect: a control frame or an error waits until
the messages before it are taken, so that an answer to those can still be sent.

No call does more than a bounded amount of work, whatever a peer sends: it returns after ``BATCH``
bytes with messages, or after ``FRAMES`` frames without any, and ``pending`` stays true. The worst
of it, final blocks in compressed messages, takes some 50 ms.
"""

from __future__ import annotations

import codecs

from ..exceptions import PayloadTooBig, ProtocolError
from .frames import FIN, MAX_CONTROL, RSV1, RSV2, RSV3, Frame, Opcode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

    from typing_extensions import Protocol

    from .deflate import PerMessageDeflate
    from .extensions import Extension
    from .frames import Data

    Message = str | bytes

    class Owner(Protocol):
        def receive_control(self, opcode: int, data: bytes) -> None: ...


BATCH = 16384  # bytes parsed ahead, at most and about
FRAMES = 256  # frames parsed without a message coming out: pongs, empty fragments
INFLATED = 64  # bytes that a compressed message counts for, besides its own: even an empty one
MERGE = 4096  # shorter chunks are merged, so that their number costs no memory
UNLIMITED = 1 << 63  # no frame can be longer (RFC 6455, 5.2)

_TEXT, _BINARY = FIN | Opcode.TEXT, FIN | Opcode.BINARY
_DEFLATED_TEXT, _DEFLATED_BINARY = _TEXT | RSV1, _BINARY | RSV1
_KNOWN_OPCODES = frozenset(Opcode)

_from_bytes = int.from_bytes


class ByteQueue:
    """Bytes gathered chunk by chunk; a million short ones cost no more than a long one."""

    __slots__ = ("_chunks", "size")

    def __init__(self) -> None:
        self._chunks: list[bytes | bytearray] | None = None
        self.size = 0

    def add(self, chunk: bytes) -> None:
        self.size += len(chunk)
        chunks = self._chunks
        if chunks is None:
            chunks = self._chunks = []
        if len(chunk) >= MERGE:
            chunks.append(chunk)
        # A bytearray was made here, and can grow; bytes may be the caller's.
        elif chunks and type(chunks[-1]) is bytearray:
            chunks[-1] += chunk
        elif chunk:
            chunks.append(bytearray(chunk))

    def take(self) -> bytes:
        """Take out all of it. A single chunk of ``bytes`` isn't copied."""
        chunks, self._chunks, self.size = self._chunks or (), None, 0
        if len(chunks) == 1:
            return bytes(chunks[0])
        return b"".join(chunks)


def only_deflate(extensions: Sequence[Extension]) -> PerMessageDeflate | None:
    """The package's own extension, if it is alone: it may be called without frames around."""
    if len(extensions) != 1:
        return None
    from .deflate import PerMessageDeflate  # where nobody compresses, it isn't loaded

    # A subclass may have its own encode() and decode(), which the short ways wouldn't call.
    only = extensions[0]
    return only if type(only) is PerMessageDeflate else None


class MessageReader:
    """The receiving half of a connection, without control frames and closing.

    Args:
        owner: its ``receive_control`` gets the opcode and the payload of each control frame, in
            order. (A bound method would be one more object for each connection.)
        max_size: the limits for a message and for a fragment, in bytes.
        extensions: those negotiated, in the order of the response; the last one decodes first.

    Attributes:
        pending: whether more may come out without more bytes going in.
        missing: how many bytes the data frame that has begun needs yet.
        streaming: whether ``next_chunk`` has begun a message that isn't complete.
    """

    __slots__ = (
        "missing", "pending", "streaming", "_at", "_coded", "_data", "_decoder", "_error",
        "_extensions", "_fast_limit", "_gathered", "_head", "_in_frame", "_inflate", "_latin1",
        "_max_fragment", "_max_message", "_opcode", "_owner", "_payload", "_received", "_rsv",
        "_skipping", "_stopped",
    )  # fmt: skip

    def __init__(
        self,
        owner: Owner,
        max_size: tuple[int, int] = (UNLIMITED, UNLIMITED),
        extensions: Sequence[Extension] = (),
    ) -> None:
        self._owner = owner
        self._max_message, self._max_fragment = max_size
        self._extensions = tuple(reversed(extensions))
        self._rsv = 0
        for extension in extensions:
            self._rsv |= extension.rsv1 * RSV1 | extension.rsv2 * RSV2 | extension.rsv3 * RSV3
        deflate = only_deflate(extensions)
        self._inflate = None if deflate is None else deflate.inflate
        # Extensions of the user's see every frame: no message is short enough for the fast way.
        self._fast_limit = -1 if extensions and deflate is None else min(max_size)
        # What is received but not parsed is _data[_at:]; _latin1 is _data decoded, if needed.
        self._data, self._at = b"", 0
        self._latin1: str | None = None
        self._error: Exception | None = None
        # The frame that has begun: its first byte and how much of its payload is missing.
        self._in_frame, self._head, self.missing = False, 0, 0
        self._gathered = ByteQueue()
        # Whether extensions decode the message's frames, and the payload of the frame till then.
        self._coded, self._payload = False, ByteQueue() if extensions else self._gathered
        # The message that has begun: 0 or its opcode, and what is there of it, decoded.
        self._opcode, self._received = 0, 0
        self._decoder: codecs.IncrementalDecoder | None = None
        self.pending = self.streaming = self._skipping = self._stopped = False

    def receive_data(self, data: bytes) -> None:
        """Take bytes from the network.

        Best when nothing is pending: what isn't parsed yet is copied to stand before *data*.
        """
        if self._stopped:
            return
        rest = self._data[self._at :] if self._at < len(self._data) else b""
        self._data, self._at, self._latin1 = (rest + data if rest else data), 0, None
        self.pending = True

    def whole_message(self, data: bytes) -> Message | None:
        """The message, if *data* is one and nothing else; else ``None``, and nothing has happened.

        Most reads bring just that. It does what ``receive_data`` and ``messages`` do, in a third of
        the time.
        """
        size, head = len(data), data[0]
        if head != _TEXT and head != _BINARY:
            return None
        if size < 128:
            if size < 2 or data[1] != size - 2:
                return None
            payload = data[2:]
        # The length in two bytes, where one would not do: else the plain way has to complain.
        elif size < 65540 and data[1] == 126 and data[2] << 8 | data[3] == size - 4 > 125:
            payload = data[4:]
        else:
            return None
        # Only between two messages, with half of none waiting.
        if self._data or self._opcode or self._stopped or len(payload) > self._fast_limit:
            return None
        if head == _BINARY:
            return payload
        try:
            return payload.decode()
        except UnicodeDecodeError:
            # The plain way comes to the same, and its caller knows what to do then.
            return None

    def stop(self) -> None:
        """Drop what isn't parsed and ignore what comes: a Close frame or an error ends it."""
        self._stopped = True
        self._data, self._at, self._latin1, self._error = b"", 0, None, None
        self.pending, self.missing, self.streaming = False, 0, False
        self._gathered.take()
        self._payload.take()

    def messages(self) -> list[Message]:
        """Some messages, in order; none if more bytes are needed, or if still ``pending``.

        Raises:
            ProtocolError, UnicodeDecodeError, PayloadTooBig: what is wrong with the first frame
                that isn't parsed; not before all messages in front of it were returned. It is
                raised again until ``stop()``.
        """
        batch: list[Message] = []
        if self._error is not None:
            raise self._error
        steps = 0
        try:
            while not batch and not self._stopped:
                # Between fragments, only the plain way knows which frames may come.
                if not self._opcode:
                    self._plain_messages(batch)
                    if batch:
                        break
                if not self._step(batch):
                    break
                steps += 1
                # So many frames, and no message: the caller may have others to look after.
                if steps == FRAMES:
                    self._drop_parsed()
                    return batch
        except (ProtocolError, UnicodeDecodeError, PayloadTooBig) as exc:
            self._error = exc
            if not batch:
                raise
        if self._at >= len(self._data):
            self._data, self._at, self._latin1 = b"", 0, None  # an idle connection keeps no buffer
            self.pending = self._error is not None
        # With messages in hand, what is left stays in its place: the next call goes on there.
        elif not batch:
            self._keep_half_a_frame()
        return batch

    def _drop_parsed(self) -> None:
        """Keep no data that is parsed to its end; else it is pending."""
        if self._at >= len(self._data):
            self._data, self._at, self._latin1 = b"", 0, None
        self.pending = bool(self._data)

    def _keep_half_a_frame(self) -> None:
        """Keep what isn't parsed, if anything, and nothing else: it needs more bytes."""
        self._data, self._at, self._latin1 = self._data[self._at :], 0, None
        self.pending = False

    def _plain_messages(self, batch: list[Message]) -> None:
        """Parse whole, unfragmented messages as long as there are some: the fast way.

        Long and unrolled for speed; ``_step`` says the same plainly.
        """
        append = batch.append
        data, at, latin1 = self._data, self._at, self._latin1
        limit, inflate = self._fast_limit, self._inflate
        size = len(data)
        stop = at + BATCH
        inflated_limit = limit if limit < UNLIMITED else None
        try:
            while at < stop and size - at > 1:
                head = data[at]
                n = data[at + 1]
                begin = at + 2
                if n > 125:
                    if n == 126:
                        if size - at < 4:
                            break
                        n = data[begin] << 8 | data[begin + 1]
                        begin = at + 4
                        # Not the shortest form: the plain way complains.
                        if n < 126:
                            break
                        # A long message counts for an eighth of its bytes.
                        stop += n - (n >> 3)
                    else:
                        # Above 127, the mask bit is set: the plain way complains.
                        if n != 127 or size - at < 10:
                            break
                        begin = at + 10
                        n = _from_bytes(data[at + 2 : begin], "big")
                        if n < 65536:
                            break
                end = begin + n
                if end > size or n > limit:
                    break
                if head == _TEXT:
                    if latin1 is None:
                        latin1 = self._latin1 = data.decode("latin-1")
                    text = latin1[begin:end]
                    append(text if text.isascii() else data[begin:end].decode())
                elif head == _BINARY:
                    append(data[begin:end])
                elif inflate is None or (head != _DEFLATED_TEXT and head != _DEFLATED_BINARY):
                    break
                else:
                    # A few bytes can become many, and those take the time.
                    message = inflate(data[begin:end], inflated_limit)
                    stop -= len(message) + INFLATED
                    append(message.decode() if head == _DEFLATED_TEXT else message)
                at = end
        finally:
            # Where one of them can't be decoded, those before it are in the batch, and parsed.
            self._at = at

    # -- the plain way --

    def _step(self, batch: list[Message]) -> bool:
        """Go on by a control frame or a chunk of a data frame; whether more may be there."""
        if not self._in_frame and not self._begin_frame():
            return False
        return not self._in_frame or self._continue_frame(batch)

    def _begin_frame(self) -> bool:
        """Parse a header, with the payload of a control frame; whether it was all there."""
        data, at = self._data, self._at
        available = len(data) - at
        if available < 2:
            # What is wrong by its first byte fails at once: the second may never come.
            if available:
                self._check_head(data[at])
            return False
        head, n = data[at], data[at + 1]
        self._check_head(head)
        if n & 0x80:
            raise ProtocolError("a frame from the server is masked")  # RFC 6455, 5.1
        begin = at + 2
        if head & 0x08 and n > MAX_CONTROL:
            raise ProtocolError("the payload of a control frame exceeds 125 bytes")  # 5.5
        if n > 125:
            begin = at + (4 if n == 126 else 10)
            if len(data) < begin:
                return False
            n = self.extended_length(data[at + 2 : begin])
        if head & 0x08:
            if len(data) - begin < n:
                return False
            # Set before the owner gets it: it calls stop() for a Close frame, which resets it.
            self._at = begin + n
            self._owner.receive_control(head & 0x0F, data[begin : begin + n])
            return True
        if head & 0x0F:
            self._opcode, self._received = head & 0x0F, 0
            # permessage-deflate has to do with marked messages only, other extensions with all.
            self._coded = bool(head & RSV1 if self._inflate else self._extensions)
        self._check_size(n)
        self._at = begin
        self._in_frame, self._head, self.missing = True, head, n
        return True

    def _check_head(self, head: int) -> None:
        """Check the first byte of a frame (RFC 6455, 5.2, 5.4, 5.5)."""
        opcode = head & 0x0F
        # Bits are claimed for data frames; the one of permessage-deflate for the first frame only.
        claimed = 0 if opcode & 0x08 or (self._inflate and not opcode) else self._rsv
        if head & 0x70 & ~claimed:
            if head == ord("H"):  # decided by the first byte, whatever follows
                raise ProtocolError(
                    "expected a frame, got 0x48, an H: does another HTTP response follow the 101?"
                )
            raise ProtocolError(f"reserved bits that no extension claims are set: 0x{head:02x}")
        if opcode not in _KNOWN_OPCODES:
            raise ProtocolError(f"opcode {opcode} isn't defined")
        if opcode & 0x08:
            if not head & FIN:
                raise ProtocolError("a control frame is fragmented")
        elif opcode and self._opcode:
            raise ProtocolError("a new message begins before the fragmented one has ended")
        elif not opcode and not self._opcode:
            raise ProtocolError("a continuation frame has no message to continue")

    @staticmethod
    def extended_length(field: bytes) -> int:
        """The payload length in 2 or 8 bytes, which must be the shortest form."""
        n = _from_bytes(field, "big")
        if n < (126 if len(field) == 2 else 65536):
            raise ProtocolError(f"payload length {n} isn't encoded in the shortest form")
        if n >= UNLIMITED:
            raise ProtocolError(f"payload length {n} is 2**63 or more")
        return n

    def _check_size(self, n: int) -> None:
        """Check the declared length of a data frame, before anything of it is kept."""
        if self._coded:
            # What doesn't compress grows, with small blocks by 4%. What comes out is checked too.
            n = max(0, n - 64 - (n >> 4))
        if n > self._max_fragment:
            raise PayloadTooBig(n, self._max_fragment)
        if self._received + n > self._max_message:
            raise PayloadTooBig(self._received + n, self._max_message)

    def _continue_frame(self, batch: list[Message]) -> bool:
        """Take what is there of the payload; whether the frame is complete."""
        at, missing = self._at, self.missing
        chunk = self._data[at : at + missing]
        self._at = at + len(chunk)
        self.missing = missing = missing - len(chunk)
        # Extensions decode whole frames; what needs no decoding is taken as it comes.
        if self._coded:
            self._payload.add(chunk)
            if missing:
                return False
            chunk = self._decode_frame()
        if not missing:
            self._in_frame = False
            if self._head & FIN:
                self._end_message(chunk, batch)
                return True
        self._received += len(chunk)
        self._keep(chunk)
        return not missing

    def _decode_frame(self) -> bytes:
        """The payload of the frame that is complete, as the extensions decode it."""
        head = self._head
        frame = Frame(
            head & 0x0F, self._payload.take(), bool(head & FIN),
            bool(head & RSV1), bool(head & RSV2), bool(head & RSV3),
        )  # fmt: skip
        limit = self._max_fragment
        if self._max_message < UNLIMITED:
            limit = min(limit, self._max_message - self._received)
        for extension in self._extensions:
            frame = extension.decode(frame, limit if limit < UNLIMITED else None)
        if len(frame.data) > limit:
            raise PayloadTooBig(len(frame.data), limit)
        return bytes(frame.data)

    def _keep(self, chunk: bytes) -> None:
        """Gather a chunk of a message that isn't complete; bad UTF-8 fails now."""
        # While streaming, text is decoded when it is handed out. As long as all of it was ASCII, no
        # character can be cut, and no decoder is needed.
        if self._opcode == Opcode.TEXT and not self.streaming:
            if self._decoder is not None or not chunk.isascii():
                self._decode_text(chunk)
        if not self._skipping:
            self._gathered.add(chunk)

    def _decode_text(self, chunk: bytes, final: bool = False) -> str:
        """Decode some of the message, and fail at the first wrong byte (RFC 6455, 8.1)."""
        if self._decoder is None:
            self._decoder = codecs.getincrementaldecoder("utf-8")()
        text = self._decoder.decode(chunk, final)
        # CPython keeps the first two bytes of a surrogate until there is a third.
        kept = self._decoder.getstate()[0]
        if kept[:1] == b"\xed" and kept[1:] >= b"\xa0":
            raise UnicodeDecodeError("utf-8", kept, 0, 1, "invalid continuation byte")
        return text

    def _end_message(self, chunk: bytes, batch: list[Message]) -> None:
        """Put the message together, or its remainder while streaming."""
        if self._gathered.size:
            self._gathered.add(chunk)
            chunk = self._gathered.take()
        message: Message = chunk
        if self._opcode == Opcode.TEXT:
            # What came before is gathered and decoded again, unless it was handed out or dropped.
            in_parts = self._decoder is not None and (self.streaming or self._skipping)
            message = self._decode_text(chunk, True) if in_parts else chunk.decode()
        if not self._skipping:
            batch.append(message)
        self._opcode, self._decoder = 0, None
        self.streaming = self._skipping = False

    # -- streaming --

    def next_chunk(self) -> tuple[Message, bool] | None:
        """Some of the next message and whether that ends it.

        ``None`` if more bytes are needed, or if still ``pending``.
        Between a first chunk and the last one only this method may be called, or ``skip``.

        Raises:
            ProtocolError, UnicodeDecodeError, PayloadTooBig: as ``messages``.
        """
        if self._error is not None:
            raise self._error
        batch: list[Message] = []
        steps = 0
        try:
            while not self._stopped:
                # A message has begun, here or in messages(): what is gathered of it is handed out
                # from its start, and decoded anew.
                if self._opcode and not self.streaming and not self._skipping:
                    self.streaming, self._decoder = True, None
                if self._gathered.size:
                    chunk = self._take_chunk()
                    # There may be only a part of a character, which the decoder keeps.
                    if chunk:
                        self._drop_parsed()
                        return chunk, False
                more = self._step(batch)
                if batch:
                    self._drop_parsed()
                    return batch[0], True
                if not more and not self._gathered.size:
                    break
                steps += 1
                if steps >= FRAMES and not self._gathered.size:
                    self._drop_parsed()
                    return None
        except (ProtocolError, UnicodeDecodeError, PayloadTooBig) as exc:
            self._error = exc
            raise
        self._keep_half_a_frame()
        return None

    def _take_chunk(self) -> Message:
        data = self._gathered.take()
        return self._decode_text(data) if self._opcode == Opcode.TEXT else data

    def skip(self) -> None:
        """Leave the rest of the message that is being streamed unread; it is still checked."""
        if self.streaming:
            self.streaming, self._skipping = False, True


# -- as programs have them --
#
# send() of each front end asks encode_whole() first, and iterates with encode_message() over what
# that leaves: fragments, perhaps asynchronous ones.


def encode_whole(message: object, text: bool | None) -> tuple[int, Data] | None:
    """The opcode and the payload for *message*; ``None`` if it is neither str nor bytes-like.

    Then it may be an iterable of fragments. The payload may be the caller's own buffer.

    Args:
        text: ``True`` or ``False`` to send as text or as binary whatever the type.

    Raises:
        ValueError: if ``text=True`` and the bytes aren't UTF-8, or a ``str`` has surrogates.
    """
    if isinstance(message, str):
        return (Opcode.BINARY if text is False else Opcode.TEXT), message.encode()
    if not isinstance(message, (bytes, bytearray)):
        try:
            view = memoryview(message)  # type: ignore[arg-type]  # of an array, say
        except TypeError:
            return None
        message = view.cast("B") if view.c_contiguous else view.tobytes()
    if text:
        bytes(message).decode()  # RFC 6455, 5.6; UnicodeDecodeError is a ValueError
    return (Opcode.TEXT if text else Opcode.BINARY), message


def parts_of(message: Any) -> Iterator[Any]:
    """The parts of *message*, for which ``encode_whole`` has returned ``None``: all that ``iter()``
    takes has some, but for a dictionary.

    Raises:
        TypeError: if it is something else.
    """
    iterable = hasattr(message, "__iter__") or hasattr(message, "__getitem__")
    if isinstance(message, dict) or not iterable:
        problem = "a message is str, bytes-like or an iterable of these, not "
        raise TypeError(problem + type(message).__name__)
    return iter(message)


def encode_message(part: object, text: bool | None, first: int = 0) -> tuple[int, Data]:
    """The opcode and the payload for a fragment of a message.

    Args:
        part, text: as for ``encode_whole``.
        first: the opcode of the first fragment; 0 if this is it.

    Raises:
        TypeError: if *part* is neither str nor bytes-like, or isn't what the first one was.
        ValueError: as ``encode_whole``.
    """
    encoded = encode_whole(part, text)
    if encoded is None:
        raise TypeError(f"a fragment is str or bytes-like, not {type(part).__name__}")
    if first and encoded[0] != first:
        raise TypeError("the fragments of a message are all str or all bytes-like")
    return encoded


def decode_message(message: Message, decode: bool) -> Message:
    """Return *message* as ``str`` if *decode* is set, else as ``bytes``."""
    if decode:
        return message if isinstance(message, str) else message.decode()
    return message.encode() if isinstance(message, str) else message


def chunk_decoder(decode: bool | None) -> Callable[[Message, bool], Message]:
    """Return a function that turns the chunks of one message into the type that is asked for."""
    if not decode:
        return lambda chunk, fin: chunk if decode is None else decode_message(chunk, False)
    decoder = codecs.getincrementaldecoder("utf-8")()
    return lambda chunk, fin: chunk if isinstance(chunk, str) else decoder.decode(chunk, fin)
