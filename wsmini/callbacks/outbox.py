"""The messages that a client has accepted and that its socket hasn't taken: one list, in order.

Any thread and any signal handler appends to it, which is one step that nothing can interrupt. The
rest is for the loop's thread. The first of the messages are *given* to the transport of the open
connection, which tells by ``WriteBuffer.written`` how far it has come; the others wait for the
connection, or for room. When a connection ends, none is given any more, and the list is what is
unsent, to be sent on the next one.
"""

from __future__ import annotations

from bisect import bisect_right

from ..sansio.frames import Opcode
from ..sansio.messages import encode_message, parts_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Iterable

SMALL = 4096  # bytes; what a shorter message takes may be freed later,
MOST_SMALL = 64  # if there aren't so many of them
COST = 200  # bytes that a message takes besides its own, about


class Fragments:
    """A message in parts, to be sent as fragments; *parts* are asked for in the loop's thread.

    Attributes:
        parts: as the program has passed it.
        opcode: the message's, once it has begun; else 0.
    """

    __slots__ = ("_iterator", "opcode", "parts", "text")

    def __init__(self, parts: Iterable[Any], text: bool | None) -> None:
        self._iterator = parts_of(parts)
        self.parts, self.text, self.opcode = parts, text, 0

    def __len__(self) -> int:
        return 0  # nobody knows

    def next(self) -> tuple[int, bytes] | None:
        """The message's opcode and the next fragment; ``None`` at the end. Raises what that does.

        Raises:
            TypeError: if a part isn't ``str`` or bytes-like, or not as the first one.
        """
        for part in self._iterator:
            opcode, data = encode_message(part, self.text, self.opcode)
            return opcode, bytes(data)
        return None

    def close(self) -> None:
        """Ask for no more."""
        close = getattr(self._iterator, "close", None)
        if close is not None:
            close()


if TYPE_CHECKING:
    Item = tuple[int, Any, bool | None]  # opcode, bytes, compress; 0 and Fragments

NO_ITEMS: list[Item] = []  # which all that are empty share


def message_of(item: Item) -> Any:
    """What the program has passed to ``send``, or its equal."""
    opcode, data, _ = item
    if isinstance(data, Fragments):
        return data.parts
    return data.decode() if opcode == Opcode.TEXT else data


class Outbox:
    """See above.

    Attributes:
        messages: all of them.
        ends: of those that are given: how many bytes will be written when each is.
        waiting: bytes of the others, and one for each; not exact while threads send at the same
            time.
        returned: those that can't be sent any more, since the last connection opened; replaced,
            never changed.
        forgetting: half done, where a signal handler's exception came: the first message that is to
            be dropped, its end, and how many are.
        taking: the same for what goes to *returned*: that, as it will be; the first message that
            goes, and where it is; the slice of *messages* that changes, and what it will be.
    """

    __slots__ = ("ends", "forgetting", "messages", "returned", "taking", "waiting")

    def __init__(self) -> None:
        self.messages: list[Item] = []
        self.ends: list[int] = []
        self.returned = NO_ITEMS
        self.waiting = 0
        self.forgetting: tuple[Item, int, int] | None = None
        self.taking: tuple[list[Item], Item, int, slice, list[Item]] | None = None

    def count_waiting(self) -> None:
        self.waiting = sum(len(item[1]) + 1 for item in self.messages[len(self.ends) :])

    def bytes_waiting(self) -> int:
        return max(0, self.waiting - len(self.messages) + len(self.ends)) if self.messages else 0

    def drop_written(self, written: int) -> bool:
        """Drop the messages of which *written* bytes are the last; whether all given ones are."""
        self.settle()
        ends = self.ends
        count = len(ends) if ends and ends[-1] <= written else bisect_right(ends, written)
        if count:
            self.forgetting = self.messages[0], ends[0], count
            self.settle()
        return not self.ends

    def settle(self) -> None:
        """Complete ``drop_written``, ``take_back`` and ``give_up``: they may be interrupted."""
        if self.forgetting is not None:
            first, end, count = self.forgetting
            if self.messages and self.messages[0] is first:
                del self.messages[:count]
            if self.ends and self.ends[0] == end:
                del self.ends[:count]
            self.forgetting = None
        if self.taking is not None:
            self.returned, item, index, changes, kept = self.taking
            if len(self.messages) > index and self.messages[index] is item:
                self.messages[changes] = kept
            self.taking = None

    def take_back(self, room: int) -> None:
        """The connection has ended: none is given any more. What has no *room* isn't kept; nor is
        a message in parts of which some are sent."""
        self.settle()
        self.ends.clear()
        messages, begun = self.messages, 0
        if messages and isinstance(messages[0][1], Fragments) and messages[0][1].opcode:
            begun = 1
        room, count = room + begun, len(messages)  # threads may append
        taken = messages[:begun] + messages[room:count]
        if taken:
            # What had room before was sent before the rest.
            returned, index = taken + self.returned, 0 if begun else room
            self.taking = returned, taken[0], index, slice(count), messages[begun:room]
            self.settle()
        self.count_waiting()
        if begun:  # last: it is the program's, and may raise, and isn't called again then
            taken[0][1].close()

    def give_up(self) -> None:
        """The first message that isn't given has failed."""
        index = len(self.ends)
        item = self.messages[index]
        self.taking = self.returned + [item], item, index, slice(index, index + 1), []
        self.settle()
        self.count_waiting()
