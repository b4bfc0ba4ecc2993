"""How many bytes to ask of the stream of an open connection: one rule, for all front ends."""

from __future__ import annotations

# At first, and at most, as reads come back full. What is longer falls out of the cache before it is
# parsed. (For so much, malloc maps memory, but only at first.)
READ_SIZE, MAX_READ_SIZE = 32768, 1 << 19
CHUNK = 1 << 17  # while a message is taken in chunks: the longest
LARGE = 65536  # a frame that lacks at least so much is read exactly, without a copy
LAST_READS = 64  # of what comes behind the end, so that closing doesn't reset the connection
HEADER = 10  # bytes; all that is read behind a large frame, so that the next one needs no copy


def next_read_size(asked: int, came: int, missing: int) -> int:
    """How many bytes to ask for next, after a read.

    Args:
        asked: bytes that the read asked for.
        came: bytes that it returned.
        missing: bytes that a frame lacked before it; 0 if the reader doesn't ask.
    """
    if missing >= LARGE:
        # Behind a large frame that is complete now, another one begins, quite often.
        return HEADER if came == missing else READ_SIZE
    if asked < READ_SIZE or came < READ_SIZE:
        return READ_SIZE
    return min(2 * came, MAX_READ_SIZE) if came == asked else asked
