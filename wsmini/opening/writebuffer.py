"""What a link has encoded and its stream hasn't taken yet."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, List, Tuple, Union

    from ..sansio.protocol import Frames

JOIN = 65536  # bytes of small frames that are joined into one buffer, at most and about

# All the idle queues share these.
_NO_BYTES, _NO_PIECES = memoryview(b""), iter(())
_NO_ITEMS: List[Tuple[Frames, int]] = []


class Queue:
    """Frames that are encoded and not taken by the stream yet, in order.

    Attributes:
        accepted, written: bytes that came in, and of these, that the stream has taken. A message
            that is encoded piece by piece counts with the size it had before. What the protocol
            says by itself goes in front of what waits, and doesn't count.
        tail: small frames, behind the others, in one buffer.
        items, view, cost: the others; false if there are none.
    """

    __slots__ = ("_pieces", "accepted", "cost", "items", "tail", "view", "written")

    def __init__(self) -> None:
        self.accepted = self.written = 0
        self.items = _NO_ITEMS  # few, as small frames are joined
        self.tail: Union[bytes, bytearray] = b""
        self.view = _NO_BYTES  # what goes out now, of the frame that has begun;
        self._pieces: Any = _NO_PIECES  # the rest of that frame,
        self.cost = 0  # and what is still to be counted of both

    def __bool__(self) -> bool:
        return bool(self.view or self.cost or self.items or self.tail)

    def put(self, frames: Frames, size: int) -> None:
        """Append *frames* of a message of *size* bytes."""
        if type(frames) is not bytes and not isinstance(frames, (bytes, bytearray)):
            self._seal()
            size += 1  # which tells an empty queue from an empty message's
            self.accepted += size
            self._append(frames, size)
            return
        self.accepted += len(frames)
        if len(frames) >= JOIN:
            self._seal()
            self._append(frames, len(frames))
            return
        tail = self.tail
        if not tail:
            self.tail = frames  # nearly always the only one
            return
        if type(tail) is bytes:
            self.tail = tail = bytearray(tail)
        tail += frames
        if len(tail) >= JOIN:
            self._seal()

    def _seal(self) -> None:
        if self.tail:
            self._append(self.tail, len(self.tail))
            self.tail = b""

    def _append(self, frames: Frames, cost: int) -> None:
        if not self.items:
            self.items = []
        self.items.append((frames, cost))

    def between_frames(self) -> bool:
        """Whether something else may go out now."""
        self._advance()
        return not self.view

    def _advance(self) -> None:
        """Go on in the frame that has begun; it is complete if there is no more of it."""
        if not self.view:
            piece = next(self._pieces, None)
            if piece is not None:
                self.view = memoryview(piece)
                return
            self.written += self.cost
            self.cost, self._pieces = 0, _NO_PIECES

    def begin(self, data: memoryview, cost: int) -> None:
        """Put *data* in front of all, while ``between_frames``; *cost* of it was accepted."""
        self.view, self.cost = data, cost

    def head(self) -> memoryview:
        """What to write next; empty if there is nothing."""
        self._advance()
        while not self.view:
            if not self.items:
                self._seal()
                if not self.items:
                    break
            frames, self.cost = self.items.pop(0)
            self._pieces = iter((frames,)) if isinstance(frames, (bytes, bytearray)) else frames
            self._advance()
        return self.view

    def took(self, count: int) -> None:
        """The stream has taken *count* bytes of ``head``."""
        # An empty slice would keep the frame.
        self.view = self.view[count:] if count < len(self.view) else _NO_BYTES
        # The last one counts when all is taken: the header of what comes in pieces has no cost.
        counted = min(count, max(0, self.cost - 1))
        self.cost -= counted
        self.written += counted

    def clear(self) -> None:
        """Forget it all; it will never be written."""
        self.items, self.tail, self.cost = _NO_ITEMS, b"", 0
        self.view, self._pieces = _NO_BYTES, _NO_PIECES
