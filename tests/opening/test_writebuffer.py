"""What the write buffer makes of a stream that takes a part of what it gets."""

from __future__ import annotations

import random
from errno import EAGAIN

from helpers import SEED
from pairs import frames_of

from wsmini.opening.streams import SocketStream
from wsmini.opening.writebuffer import JOIN, WriteBuffer
from wsmini.sansio.frames import FIN, PIECE, Opcode
from wsmini.sansio.protocol import ClientProtocol

TEXT, CLOSE = Opcode.TEXT, Opcode.CLOSE
PING, PONG = Opcode.PING, Opcode.PONG


class Narrow:
    """A stream that takes as much as it is told to, in all."""

    unsent = False
    flush = SocketStream.flush

    def __init__(self):
        self.taken, self.room = b"", 0

    def send(self, data, flags):
        if not self.room:
            raise BlockingIOError(EAGAIN, "no room")
        taken = bytes(data[: self.room])
        self.room -= len(taken)
        self.taken += taken
        return len(taken)


def new_buffer():
    stream, protocol = Narrow(), ClientProtocol(ping_interval=None)
    return stream, protocol, WriteBuffer(stream, protocol)


def test_a_small_message_does_not_get_into_a_pong_of_which_a_part_is_written():
    stream, protocol, buffer = new_buffer()
    protocol.pong(b"x" * 100)
    stream.room = 50
    assert not buffer.flush()
    assert not buffer.write(protocol.encode_message(TEXT, b"y"), 1)
    stream.room = 1000
    assert buffer.flush()
    assert frames_of(stream.taken) == [(FIN | PONG, b"x" * 100), (FIN | TEXT, b"y")]


def test_frames_are_whole_and_those_of_each_kind_in_order_whatever_the_stream_takes():
    rng = random.Random(SEED)
    sizes = [0, 1, 10, 126, 5000, JOIN - 8, JOIN, PIECE, PIECE + 1]
    for _ in range(100):
        stream, protocol, buffer = new_buffer()
        messages, controls = [], []
        gathers = rng.randrange(2)  # as a loop does
        for number in range(rng.randint(1, 12)):
            stream.room += rng.choice([0, 1, 5, 50, 500, 70000])
            data = b"%d " % number + b"x" * rng.choice(sizes)
            what = rng.randrange(3)
            if what == 0:
                protocol.ping(data[:100])
                controls.append((PING, data[:100]))
            elif what == 1:
                buffer.flush()
            else:
                write = buffer.put if gathers else buffer.write
                write(protocol.encode_message(TEXT, data), len(data))
                messages.append((TEXT, data))
        protocol.close()
        stream.room = 1 << 30
        assert buffer.flush()
        found = [(head & ~FIN, data) for head, data in frames_of(stream.taken)]
        assert [each for each in found if each[0] == TEXT] == messages
        assert [each for each in found if each[0] == PING] == controls
        assert found[-1][0] == CLOSE and not buffer and not buffer.waits
