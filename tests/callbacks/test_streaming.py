"""Messages in parts: ``on_chunk``, and ``send()`` of what can be iterated over."""

from __future__ import annotations

import array
import ctypes
import mmap

import pytest
from joined import Joined, parsed

from wsmini.exceptions import SendBufferFull
from wsmini.sansio.frames import Opcode
from wsmini.sansio.protocol import State
from wsmini.testing import frame

TEXT, BINARY, CONT, CLOSE = Opcode.TEXT, Opcode.BINARY, Opcode.CONT, Opcode.CLOSE


def fragments(data):
    """Opcode, payload and FIN of each frame."""
    found, at = [], 0
    for opcode, payload in parsed(data):
        n = len(payload)
        found.append((opcode, payload, bool(data[at] & 0x80)))
        at += n + (6 if n < 126 else 8 if n < 65536 else 14)
    return found


def test_chunks_come_as_they_arrive_and_tell_the_end():
    got = []
    with Joined(on_chunk=lambda client, chunk, fin: got.append((chunk, fin))) as it:
        whole = frame(TEXT, b"x" * 1000)
        it.peer.send(whole[:500])
        it.spin()
        assert got == [("x" * 496, False)]
        it.peer.send(whole[500:] + frame(BINARY, b"next") + frame(TEXT, b""))
        it.spin()
        assert got[1:] == [("x" * 504, True), (b"next", True), ("", True)]


def test_pausing_holds_chunks_back():
    got = []

    def on_chunk(client, chunk, fin):
        got.append(chunk)
        client.pause()

    with Joined(on_chunk=on_chunk) as it:
        it.peer.send(frame(TEXT, b"1") + frame(TEXT, b"2") + frame(TEXT, b"3"))
        it.spin()
        assert got == ["1"]
        for number in (2, 3):
            it.client.resume()
            it.spin()
            assert len(got) == number


@pytest.mark.parametrize(
    "message, expected",
    [
        (["a", "b"], [(TEXT, b"a", False), (CONT, b"b", False), (CONT, b"", True)]),
        ((b for b in [b"a"]), [(BINARY, b"a", False), (CONT, b"", True)]),
        ([], []),
        (array.array("b", b"abc"), [(BINARY, b"abc", True)]),
        ((ctypes.c_char * 3)(b"a", b"b", b"c"), [(BINARY, b"abc", True)]),
        (bytearray(b"abc"), [(BINARY, b"abc", True)]),
    ],
    ids=repr,
)
def test_what_can_be_sent(message, expected):
    with Joined() as it:
        it.call(lambda: it.client.send(message))
        it.call(lambda: it.client.send("behind"))
        assert fragments(it.take()) == [*expected, (TEXT, b"behind", True)]


def test_a_mapped_file_can_be_sent():
    with Joined() as it, mmap.mmap(-1, 4096) as mapped:
        it.call(lambda: it.client.send(mapped))
        assert fragments(it.take()) == [(BINARY, bytes(4096), True)]


@pytest.mark.parametrize("message", [5, None, {"a": 1}])
def test_what_can_not_be_sent_is_refused_at_once(message):
    with Joined() as it, pytest.raises(TypeError, match="a message is"):
        it.client.send(message)


def test_the_next_fragment_is_asked_for_when_there_is_room():
    asked = []

    def parts():
        for number in range(200):
            asked.append(number)
            yield bytes(10000)

    with Joined(small=True) as it:
        it.client.send(parts())
        it.client.send("behind")
        it.spin(50)
        assert len(asked) < 50 and it.client.buffered_amount < 200000
        data = bytearray(it.take())
        while len(asked) < 200 or it.client.buffered_amount:
            data += it.take()
        data += it.take()
        found = fragments(bytes(data))
        assert len(found) == 202 and found[-1] == (TEXT, b"behind", True)


def test_a_long_message_lets_others_have_their_turn():
    turns, sent = [], []

    def parts():
        for _ in range(1000):
            sent.append(len(turns))
            yield b"x"

    with Joined() as it:
        it.client.send(parts())
        while len(sent) < 1000:
            turns.append(1)
            it.spin(1)
        assert max(sent.count(turn) for turn in set(sent)) <= 64


@pytest.mark.parametrize("before", [0, 1])
@pytest.mark.parametrize("wrong", ["raises", "mixed"])
def test_parts_that_fail_are_told_and_close_with_1011_if_some_are_sent(before, wrong):
    errors = []

    def parts():
        yield from ["a"] * before
        if wrong == "raises":
            raise ZeroDivisionError
        yield 5

    with Joined(on_error=lambda client, exc: errors.append(type(exc))) as it:
        message = parts()
        it.client.send(message)
        it.client.send("behind")
        it.spin()
        assert errors == [ZeroDivisionError if wrong == "raises" else TypeError]
        found = parsed(it.take())
        if before:
            assert [opcode for opcode, _ in found] == [TEXT, CLOSE]
            assert found[1][1][:2] == b"\x03\xf3"
        else:
            assert found == [(TEXT, b"behind")] and it.client.state is State.OPEN


def test_parts_that_are_cut_are_closed_and_handed_back():
    closed = []

    def parts():
        try:
            while True:
                yield bytes(10000)
        finally:
            closed.append(True)

    with Joined(small=True) as it:
        message = parts()
        it.client.send(message)
        it.client.send("behind")
        it.spin()
        it.peer.close()
        it.spin(10)
        assert it.client.state is State.CLOSED and closed == [True]
        assert it.client.unsent == [message, "behind"]


def test_parts_of_a_message_may_send():
    """They are asked for in the loop's thread, like a callback."""

    with Joined() as it:

        def parts():
            yield "a"
            it.client.send("behind")
            yield "b"

        it.client.send(parts())
        it.spin()
        found = fragments(it.take())
        assert [payload for _, payload, _ in found] == [b"a", b"b", b"", b"behind"]


def test_small_messages_are_charged_what_they_cost():
    with Joined(opened=False, outbox=1 << 30, max_send_buffer=100000) as it:
        count = 0
        with pytest.raises(SendBufferFull, match="max_send_buffer"):
            while True:
                it.client.send("")
                count += 1
        assert 100 < count <= 500
