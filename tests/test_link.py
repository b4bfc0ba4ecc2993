from __future__ import annotations

import socket
from types import SimpleNamespace

import fakes
import pytest

from wsmini.frames import Opcode
from wsmini.link import Link, drive
from wsmini.loop import Loop
from wsmini.net import READ, SocketStream, Wait
from wsmini.options import Options
from wsmini.testing import frame


class Handler:
    def __init__(self):
        self.seen = []

    def on_messages(self, messages):
        self.seen += messages

    def on_ping(self, data):
        self.seen.append(("ping", data))

    def on_pong(self, data):
        self.seen.append(("pong", data))

    def on_drain(self):
        self.seen.append("drain")

    def on_end(self):
        self.seen.append("end")


@pytest.fixture
def joined():
    clock = fakes.Clock()
    ours, theirs = socket.socketpair()
    with theirs, Loop(clock=clock, wall=clock.wall, selector=fakes.Selector(clock)) as loop:
        handler = Handler()
        options = Options("ws://localhost")
        opened = fakes.opened(SocketStream(ours), rest=frame(Opcode.TEXT, b"first"))
        link = Link(loop, opened, options, handler, gather=True)
        link.start()
        yield SimpleNamespace(loop=loop, clock=clock, link=link, peer=theirs, seen=handler.seen)
        link.abort()
        while not link.closed:
            loop.run_once()


def run_until_the_end(joined):
    while not joined.link.closed:
        joined.loop.run_once()


def test_messages_behind_the_handshake_come_from_the_loop(joined):
    assert joined.seen == []
    joined.loop.run_once()
    assert joined.seen == ["first"]


def test_a_silent_peer_is_pinged_and_then_given_up(joined):
    start = joined.clock.now
    run_until_the_end(joined)
    assert joined.peer.recv(100)[0] == 0x89
    assert joined.seen == ["first", "end"]
    assert 40 <= joined.clock.now - start < 41


def test_a_close_without_an_answer_ends_after_close_timeout(joined):
    start = joined.clock.now
    joined.link.close(1000, "")
    run_until_the_end(joined)
    assert joined.clock.now - start == pytest.approx(10)
    assert joined.link.protocol.close_exc().code == 1006


def test_messages_are_gathered_into_one_write(joined):
    for _ in range(10):
        joined.link.send(Opcode.BINARY, b"x" * 20)
    assert joined.link.buffered == 260
    joined.loop.run_once()
    assert joined.link.written == 260 and len(joined.peer.recv(1000)) == 260


def test_a_close_with_its_reason_is_read_though_writing_fails(joined):
    joined.peer.send(frame(Opcode.CLOSE, b"\x03\xf0why"))
    joined.peer.close()
    joined.link.send(Opcode.TEXT, b"too late")
    run_until_the_end(joined)
    exc = joined.link.protocol.close_exc()
    assert (exc.code, exc.reason) == (1008, "why")


@pytest.mark.parametrize("outcome", ["value", "error", "cancel"])
def test_an_opening_is_driven_to_its_end(outcome):
    ours, theirs = socket.socketpair()
    results = []

    def steps():
        try:
            ready = yield Wait({ours: READ}, None)
            if outcome == "error":
                raise OSError("no")
            return list(ready)
        finally:
            ours.close()

    with theirs, Loop() as loop:
        drive_ = drive(loop, steps(), lambda *result: results.append(result))
        assert results == []
        loop.run_once()
        if outcome == "cancel":
            drive_.cancel()
            loop.run_once(0)
            assert results == []
        else:
            theirs.send(b"x")
            loop.run_once()
            ((value, exc),) = results
            assert (value == [ours]) if outcome == "value" else (str(exc) == "no")
    assert ours.fileno() == -1
