"""Streams over a socket, and how much to read next."""

from __future__ import annotations

import pytest

from wsmini.opening.streams import (
    HEADER,
    LARGE,
    MAX_READ_SIZE,
    READ_SIZE,
    SocketStream,
    next_read_size,
)


def test_a_stream_over_a_socket(pair):
    one, other = pair
    stream = SocketStream(one)
    assert stream.sock is one
    assert stream.send(b"abc") == 3
    assert other.recv(10) == b"abc"
    other.send(b"xyz")
    assert stream.recv(2) == b"xy"
    assert not stream.buffered()
    assert not stream.unsent
    assert stream.flush() is True
    assert stream.flush(0) is True
    stream.say_goodbye()
    assert stream.recv(2) == b"z"
    one.setblocking(False)
    with pytest.raises(BlockingIOError):
        stream.recv(2)
    other.close()
    assert stream.recv(2) == b""
    stream.close()
    assert one.fileno() == -1


CASES = {  # bytes asked for, that came, that a frame lacked before -> bytes to ask for next
    "little": (READ_SIZE, 1, 0, READ_SIZE),
    "all that was asked for": (READ_SIZE, READ_SIZE, 0, 2 * READ_SIZE),
    "again": (2 * READ_SIZE, 2 * READ_SIZE, 0, 4 * READ_SIZE),
    "up to the limit": (MAX_READ_SIZE, MAX_READ_SIZE, 0, MAX_READ_SIZE),
    "much, but not all": (MAX_READ_SIZE, READ_SIZE, 0, MAX_READ_SIZE),
    "little again": (MAX_READ_SIZE, READ_SIZE - 1, 0, READ_SIZE),
    "the end of a large frame": (LARGE, LARGE, LARGE, HEADER),
    "a part of a large frame": (LARGE, LARGE - 1, LARGE, READ_SIZE),
    "a header": (HEADER, HEADER, 0, READ_SIZE),
}


@pytest.mark.parametrize("asked, came, missing, expected", CASES.values(), ids=CASES)
def test_the_next_read(asked, came, missing, expected):
    assert next_read_size(asked, came, missing) == expected
