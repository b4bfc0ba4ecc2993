"""What a link has encoded and its stream hasn't taken yet."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, List, Tuple, Union

    from .protocol import Frames

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
    """

    __slots__ = ("_cost", "_items", "_pieces", "_tail", "_view", "accepted", "written")

    def __init__(self) -> None:
        self.accepted = self.written = 0
        self._items = _NO_ITEMS  # few, as small frames are joined
        self._tail: Union[bytes, bytearray] = b""  # small frames, behind the items
        self._view = _NO_BYTES  # what goes out now, of the frame that has begun;
        self._pieces: Any = _NO_PIECES  # the rest of that frame,
        self._cost = 0  # and what is still to be counted of both

    def __bool__(self) -> bool:
        return bool(self._view or self._cost or self._items or self._tail)

    def put(self, frames: Frames, size: int) -> None:
        """Append *frames* of a message of *size* bytes."""
        if not isinstance(frames, (bytes, bytearray)):
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
        if not self._tail:
            self._tail = bytearray()
        self._tail += frames
        if len(self._tail) >= JOIN:
            self._seal()

    def _seal(self) -> None:
        if self._tail:
            self._append(self._tail, len(self._tail))
            self._tail = b""

    def _append(self, frames: Frames, cost: int) -> None:
        if not self._items:
            self._items = []
        self._items.append((frames, cost))

    def take_small(self) -> Union[bytes, bytearray]:
        """The small frames, if they are all there is: to be written now, by whoever has them."""
        if self._items or self._view or self._cost:
            return b""
        tail, self._tail = self._tail, b""
        return tail

    def between_frames(self) -> bool:
        """Whether something else may go out now."""
        self._advance()
        return not self._view

    def _advance(self) -> None:
        """Go on in the frame that has begun; it is complete if there is no more of it."""
        if not self._view:
            piece = next(self._pieces, None)
            if piece is not None:
                self._view = memoryview(piece)
                return
            self.written += self._cost
            self._cost, self._pieces = 0, _NO_PIECES

    def begin(self, data: memoryview, cost: int) -> None:
        """Put *data* in front of all, while ``between_frames``; *cost* of it was accepted."""
        self._view, self._cost = data, cost

    def head(self) -> memoryview:
        """What to write next; empty if there is nothing."""
        self._advance()
        while not self._view:
            if not self._items:
                self._seal()
                if not self._items:
                    break
            frames, self._cost = self._items.pop(0)
            self._pieces = iter((frames,)) if isinstance(frames, (bytes, bytearray)) else frames
            self._advance()
        return self._view

    def took(self, count: int) -> None:
        """The stream has taken *count* bytes of ``head``."""
        # An empty slice would keep the frame.
        self._view = self._view[count:] if count < len(self._view) else _NO_BYTES
        # The last one counts when all is taken: the header of what comes in pieces has no cost.
        counted = min(count, max(0, self._cost - 1))
        self._cost -= counted
        self.written += counted

    def clear(self) -> None:
        """Forget it all; it will never be written."""
        self._items, self._tail, self._cost = _NO_ITEMS, b"", 0
        self._view, self._pieces = _NO_BYTES, _NO_PIECES
