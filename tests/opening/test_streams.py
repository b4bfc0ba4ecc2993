"""Streams over a socket, how much to read next, and waiting with poll and with select."""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import time

import pytest
from helpers import PATIENCE

from wsmini.opening import streams
from wsmini.opening.streams import (
    HEADER,
    LARGE,
    MAX_READ_SIZE,
    READ,
    READ_SIZE,
    WRITE,
    SocketStream,
    next_read_size,
    wait,
)

WAYS = ["poll", "select"]


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


@pytest.fixture(params=WAYS)
def way(request, monkeypatch):
    if request.param == "select":
        monkeypatch.delattr(select, "poll", raising=False)
    elif not hasattr(select, "poll"):
        pytest.skip("this platform has no poll()")
    return request.param


def test_waiting_for_something_to_read(way, pair):
    one, other = pair
    assert wait({one: READ}, 0) == []
    other.send(b"x")
    assert wait({one: READ, other: READ}, None) == [one]
    assert wait({one: READ}, PATIENCE) == [one]


def test_waiting_to_write(way, pair):
    one, other = pair
    assert wait({one: WRITE}, None) == [one]
    one.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            one.send(bytes(65536))
    assert wait({one: WRITE}, 0) == []
    assert wait({one: READ | WRITE}, 0) == []
    assert wait({one: READ | WRITE, other: READ}, None) == [other]
    other.send(b"x")
    assert wait({one: READ | WRITE}, None) == [one]


def test_a_socket_that_is_waited_for_in_vain_is_never_ready(way, pair):
    """Not even if it is hung up: whoever waits for something else would spin."""
    one, other = pair
    other.close()
    assert wait({one: 0}, 0.01) == []
    assert wait({one: READ}, None) == [one]


def test_a_socket_that_can_do_both_is_named_once(way, pair):
    one, other = pair
    other.send(b"x")
    assert wait({one: READ | WRITE}, None) == [one]


def test_the_end_and_the_refusal_are_something_to_wait_for(way, refused):
    one, other = socket.socketpair()
    with one:
        other.close()
        assert wait({one: READ}, PATIENCE) == [one]
    with socket.socket() as sock:
        sock.setblocking(False)
        sock.connect_ex(refused[4])
        assert wait({sock: WRITE}, PATIENCE) == [sock]
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED


@pytest.mark.parametrize("timeout", [0, -1, -1e9, 0.0])
def test_no_time_left(way, pair, timeout):
    assert wait({pair[0]: READ}, timeout) == []
    assert wait({}, timeout) == []


def test_waiting_is_not_too_short(way, pair):
    for timeout in (0.0001, 0.0019, 0.01):
        start = time.monotonic()
        assert wait({pair[0]: READ}, timeout) == []
        assert time.monotonic() - start >= timeout


@pytest.mark.parametrize("timeout", [1e7, 2**31 / 1000, 1e12, float("inf")])
def test_a_timeout_of_months_is_no_error(way, pair, timeout):
    one, other = pair
    other.send(b"x")
    assert wait({one: READ}, timeout) == [one]


def test_waiting_for_time_only(way):
    start = time.monotonic()
    assert wait({}, 0.01) == []
    assert time.monotonic() - start >= 0.01


def test_select_is_not_called_with_nothing(monkeypatch, clock):
    monkeypatch.delattr(select, "poll", raising=False)
    monkeypatch.setattr(select, "select", None)  # Windows refuses
    assert wait({}, 5) == []
    assert sum(clock.slept) == 5
    monkeypatch.setattr(streams, "in_main_thread", lambda: False)
    assert wait({}, None) == []
    assert clock.slept[-1] > 60
