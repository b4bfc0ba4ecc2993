"""A signal handler's exception wherever one can come in a client's work on its loop: afterwards
the connection is intact, or has failed for good, and nothing is lost, doubled or forgotten.

It is raised by a profiling function, at the starts of functions and behind each call, which is
where CPython runs handlers (loops apart). A sample of places in each run of the tests, all of them
with ``WSMINI_TEST_ALL=1``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import selectors
import socket
import sys
import time

import fakes
import pytest
from helpers import PATIENCE, SEED
from joined import End, handshake, parsed

from wsmini.callbacks.client import Client, ClientConnection
from wsmini.callbacks.loop import Loop
from wsmini.callbacks.outbox import Outbox
from wsmini.events.transport import EventTransport
from wsmini.exceptions import ConnectionClosed, ConnectionClosedError, InvalidState
from wsmini.opening.steps import LoopRun, Wait
from wsmini.opening.streams import SocketStream
from wsmini.policies import Attempts, Fixed, NoReconnect
from wsmini.sansio.frames import Opcode
from wsmini.sansio.protocol import State
from wsmini.testing import frame

TEXT, PING = Opcode.TEXT, Opcode.PING
WHERE = ("wsmini/events", "wsmini/callbacks", "writebuffer.py", "opening/tls.py")
IN = [b"%d" % number for number in range(4)]
LARGE = "x" * 300_000  # more than the socket takes at once


class Interrupt(BaseException):
    """What no code but the test catches."""


class Scenario:
    """A client that echoes what comes; each step is what a signal handler may find."""

    def __init__(self, tls, policy=None):
        self.loop = Loop()
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        stream, engine = handshake(theirs)(ours) if tls else (SocketStream(ours), None)
        self.peer = End(theirs, engine)
        self.got, self.accepted, self.closed = [], [], []

        def steps():
            return fakes.opened(stream)
            yield

        self.client = Client(
            "ws://localhost/", reconnect=policy or NoReconnect(), on_message=self.on_message,
            on_error=lambda client, exc: None,
            on_close=lambda client, code, reason: self.closed.append(code),
        )  # fmt: skip
        self.client._steps = steps
        self.client.start(self.loop)
        while self.client.state is not State.OPEN:
            self.loop.run_once(0)

    def on_message(self, client, message):
        self.got.append(message)
        client.send(message)
        self.accepted.append(message)

    def say(self, message):
        self.accepted.append(message)
        try:
            self.client.send(message)
        except (ConnectionClosed, InvalidState):
            self.accepted.remove(message)

    def run(self):
        yield self.peer.send, frame(TEXT, IN[0])
        yield self.loop.run_once, 0
        yield self.peer.send, frame(TEXT, IN[1]) + frame(PING, b"p") + frame(TEXT, IN[2])
        for _ in range(3):
            yield self.loop.run_once, 0
        self.loop.call_later(0, self.client.send, "timer")
        self.accepted.append("timer")
        self.loop.call_soon_threadsafe(int)
        for _ in range(3):
            yield self.loop.run_once, 0
        yield self.say, LARGE
        for _ in range(6):
            yield self.loop.run_once, 0
            yield self.peer.take, 65536
        yield self.peer.send, frame(TEXT, IN[3])
        for _ in range(3):
            yield self.loop.run_once, 0

    def settle(self):
        for _ in range(20):
            self.loop.run_once(0)
            self.peer.take(1 << 20)

    def check(self, where):
        expected = [data.decode() for data in IN]
        assert self.got == expected[: len(self.got)], where
        sent = [data.decode() for opcode, data in parsed(self.peer.wire) if opcode == TEXT]
        unsent = self.client.unsent
        if self.closed:
            assert len(self.closed) == 1 and self.client.state is State.CLOSED, where
        else:
            assert self.client.state is State.OPEN, where
            assert self.got == expected and not unsent, where
        return sent, unsent

    def end(self):
        self.client.close()
        self.peer.sock.close()
        while self.client._running:
            self.loop.run_once(0)
        self.loop.close()
        assert len(self.closed) == 1


def interrupted_at(number, tls):
    """Run a scenario with an exception at place *number*; where that was, ``None`` if behind it.

    And how many places there were until then.
    """
    scenario, count, where = Scenario(tls), 0, None

    def profile(frame, event, arg):
        nonlocal count, where
        code = frame.f_code
        if event not in ("call", "c_return") or arg is sys.setprofile:
            return
        ours = any(part in code.co_filename for part in WHERE)
        if not ours or code.co_name == "_settle":
            return  # in _settle, one exception was there already
        count += 1
        if count == number:
            where = f"{os.path.basename(code.co_filename)}:{frame.f_lineno} {event} {arg}"
            sys.setprofile(None)
            raise Interrupt

    for function, argument in scenario.run():
        try:
            if function in (scenario.loop.run_once, scenario.say):
                sys.setprofile(profile)
            function(argument)
        except Interrupt:
            pass
        except OSError:
            pass  # the peer sends to a connection that has failed
        finally:
            sys.setprofile(None)
    scenario.settle()
    sent, unsent = scenario.check(where)
    accepted = scenario.accepted
    if where is None:
        assert sent == accepted and not unsent
    else:
        # A timer or a callback that was interrupted as it began has sent nothing.
        missing = [message for message in accepted if message not in sent + unsent]
        assert missing in ([], ["timer"]) or len(missing) == 1, (where, accepted, sent, unsent)
        if not scenario.closed:  # else it isn't known whether what was being written is
            assert len(set(sent + unsent)) == len(sent + unsent), (where, sent, unsent)
    scenario.end()
    return where, count


def test_what_is_left_half_dropped_is_dropped_though_more_was_sent_since():
    class Interrupted(Outbox):
        def settle(self):
            if self.forgetting is not None and len(self.messages) == 1:
                raise Interrupt
            super().settle()

    outbox = Interrupted()
    outbox.messages.append((1, b"a", None))
    outbox.ends.append(7)
    with pytest.raises(Interrupt):
        outbox.drop_written(7)
    outbox.messages.append((1, b"b", None))
    outbox.ends.append(14)
    outbox.drop_written(7)
    assert (outbox.messages, outbox.ends) == ([(1, b"b", None)], [14])


@pytest.mark.parametrize("selector", [None, selectors.SelectSelector, selectors.PollSelector])
def test_a_descriptor_that_is_left_half_added_or_removed(selector):
    with Loop(selector=selector and selector()) as loop:
        ours, theirs = socket.socketpair()
        theirs.send(b"x")
        got = []
        for handlers in (loop._readers, loop._writers):
            for add in (loop.add_reader, loop.add_writer):
                loop.add_reader(ours, got.append, "readable")
                loop.add_writer(ours, got.append, "writable")
                del handlers[ours.fileno()]  # the selector hasn't heard of that
                add(ours, got.append, "added")
                got.clear()
                loop.run_once(0)
                loop.run_once(0)
                assert got.count("added") == 2
                loop.remove_reader(ours)
                loop.remove_writer(ours)
        loop.add_writer(ours, got.append, "writable")
        del loop._writers[ours.fileno()]
        loop.run_once(0)  # which finds out
        got.clear()
        assert loop._selector.poll(0, 5) == []
        ours.close()
        theirs.close()


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_the_loop_and_the_client_may_be_interrupted_anywhere(tls):
    where, places = interrupted_at(1 << 30, tls)
    assert where is None
    rng = random.Random(SEED)
    every = range(1, places + 1)
    sample = every if os.environ.get("WSMINI_TEST_ALL") else rng.sample(every, min(60, places))
    for number in sample:
        interrupted_at(number, tls)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (ClientConnection, "_on_end"),
        (Client, "_ended"),
        (Client, "_connect"),
        (Client, "_move"),
        (Outbox, "take_back"),
        (Outbox, "count_waiting"),
    ],  # fmt: skip
)
def test_the_end_and_the_next_beginning_may_be_interrupted(kind, name, monkeypatch):
    scenario, interrupts, tried = Scenario(False, policy=Fixed(0)), [], []

    def interrupted(*args):
        monkeypatch.undo()
        interrupts.append(name)
        raise Interrupt

    def never():
        tried.append(name)
        yield Wait({}, None)

    scenario.client.send(LARGE)
    scenario.loop.run_once(0)
    scenario.client._steps = never
    monkeypatch.setattr(kind, name, interrupted)
    scenario.peer.sock.close()
    over = time.monotonic() + PATIENCE
    while not tried and time.monotonic() < over:
        with contextlib.suppress(Interrupt):
            scenario.loop.run_once(0.01)
    assert (interrupts, tried) == ([name], [name])
    assert (scenario.closed, scenario.client.unsent) == ([1006], [LARGE])
    scenario.client.close()
    while scenario.client._running:
        scenario.loop.run_once(0)
    scenario.loop.close()
    assert scenario.closed == [1006]


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (LoopRun, "_step"), (LoopRun, "cancel"), (Client, "_opened"), (Client, "_move"),
        (ClientConnection, "__init__"), (EventTransport, "__init__"), (Attempts, "opened"),
        (Client, "_tell_waiters"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("behind", [False, True], ids=["before", "behind"])
def test_the_end_of_an_opening_may_be_interrupted(kind, name, behind, monkeypatch):
    """And its beginning: the client opens another connection then, or this one is open."""
    original, interrupts, streams, opens = getattr(kind, name), [], [], []

    def interrupted(*args, **options):
        if interrupts:
            return original(*args, **options)
        if behind:
            original(*args, **options)
        interrupts.append(name)
        raise Interrupt

    def steps():
        ours, theirs = socket.socketpair()
        streams.append(SocketStream(ours))
        peers.append(theirs)
        return fakes.opened(streams[-1])
        yield

    peers = []
    loop = Loop()
    client = Client("ws://localhost/", reconnect=Fixed(0), on_open=opens.append)
    client._steps = steps
    client.start(loop)
    monkeypatch.setattr(kind, name, interrupted)
    over = time.monotonic() + PATIENCE
    while not (interrupts and opens) and time.monotonic() < over:
        with contextlib.suppress(Interrupt):
            loop.run_once(0.01)
    assert (interrupts, opens, client.state) == ([name], [client], State.OPEN)
    for peer in peers:
        peer.close()
    while client._running:
        client.close()
        loop.run_once(0)
    loop.close()
    if kind is Client:  # only the frames of the exception know the stream
        streams[0].close()
    assert [stream.sock.fileno() for stream in streams] == [-1] * len(streams)


@pytest.mark.parametrize("name", ["_tell_closed", "_lost", "_finish", "_move"])
@pytest.mark.parametrize("opens", [True, False])
def test_the_policy_decides_behind_an_interruption(opens, name, monkeypatch):
    """Whether it was a connection that ended, or an opening that failed."""
    original, interrupts, tried, errors, closed = getattr(Client, name), [], [], [], []

    def interrupted(*args):
        if interrupts or name == "_move" and args[1] is not State.CLOSED:
            return original(*args)
        interrupts.append(name)
        raise Interrupt

    def steps():
        tried.append(name)
        if not opens:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "refused")
        ours, theirs = socket.socketpair()
        theirs.close()
        return fakes.opened(SocketStream(ours))
        yield

    loop = Loop()
    client = Client(
        "ws://localhost/", reconnect=NoReconnect(),
        on_error=lambda client, exc: errors.append(type(exc)),
        on_close=lambda client, code, reason: closed.append(code),
    )  # fmt: skip
    client._steps = steps
    client.start(loop)
    monkeypatch.setattr(Client, name, interrupted)
    over = time.monotonic() + PATIENCE
    while client._running and time.monotonic() < over:
        with contextlib.suppress(Interrupt):
            loop.run_once(0.01)
    loop.close()
    never = ("_tell_closed", False), ("_move", True)  # a connection's end sets the state itself
    called = [] if (name, opens) in never else [name]
    assert (interrupts, tried, client.state) == (called, [name], State.CLOSED)
    assert closed == ([1006] if opens else [])
    assert errors == [ConnectionClosedError if opens else ConnectionRefusedError]


def test_what_is_taken_back_in_part_is_there_once():
    """Python 3.8 and 3.9 look for signals behind any opcode."""

    class Interrupted(Outbox):
        def settle(self):
            if self.taking is not None and not interrupts:
                interrupts.append(self.taking)
                raise Interrupt
            super().settle()

    for take_back in (lambda outbox: outbox.take_back(0), lambda outbox: outbox.give_up()):
        interrupts, outbox = [], Interrupted()
        outbox.messages.append((1, b"a", None))
        with pytest.raises(Interrupt):
            take_back(outbox)
        outbox.messages.append((1, b"b", None))
        outbox.take_back(0)
        assert sorted(outbox.returned) == [(1, b"a", None), (1, b"b", None)]
        assert (outbox.messages, len(interrupts)) == ([], 1)


def test_a_timer_that_has_fired_does_not_begin_an_attempt_beside_another(monkeypatch):
    tried, errors, original, interrupts = [], [], Client._serve, []

    def serve(client):
        if interrupts:
            return original(client)
        interrupts.append(client)
        raise Interrupt

    def steps():
        tried.append(len(tried))
        if len(tried) == 1:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "refused")
        yield Wait({}, None)

    loop = Loop(on_error=lambda loop, exc: errors.append(exc))
    client = Client("ws://localhost/", reconnect=Fixed(0))
    client._steps = steps
    client.start(loop)
    while client.state is not State.WAITING:
        loop.run_once(0)
    monkeypatch.setattr(Client, "_serve", serve)
    client._serve_soon()
    for _ in range(6):
        with contextlib.suppress(Interrupt):
            loop.run_once(0)
    assert (tried, errors, interrupts, client.state) == ([0, 1], [], [client], State.CONNECTING)
    client.close()
    while client._running:
        loop.run_once(0)
    loop.close()


def test_a_machine_that_has_slept_does_not_keep_the_policy_from_deciding(monkeypatch):
    original, interrupts, tried = Client._lost, [], []

    def lost(*args):
        if interrupts:
            return original(*args)
        interrupts.append(args)
        raise Interrupt

    def steps():
        tried.append(len(tried))
        raise ConnectionRefusedError(errno.ECONNREFUSED, "refused")
        yield

    loop = Loop()
    client = Client("ws://localhost/", reconnect=NoReconnect(), on_error=lambda client, exc: None)
    client._steps = steps
    client.start(loop)
    monkeypatch.setattr(Client, "_lost", lost)
    while not interrupts:
        with contextlib.suppress(Interrupt):
            loop.run_once(0)
    client._wake()
    while client._running:
        loop.run_once(0)
    loop.close()
    assert tried == [0]


def test_steps_on_a_loop_are_over_once_though_a_timer_is_left(monkeypatch):
    original, interrupts, ended = LoopRun._stop_timer, [], []

    def stop_timer(run):
        if interrupts:
            return original(run)
        interrupts.append(run)
        raise Interrupt

    def steps():
        yield Wait({}, time.monotonic())
        return "result"

    with Loop() as loop:
        run = LoopRun(loop, steps(), lambda *result: ended.append(result))
        loop.run_once(0)  # it waits
        monkeypatch.setattr(LoopRun, "_stop_timer", stop_timer)
        while not interrupts:
            with contextlib.suppress(Interrupt):
                loop.run_once(0)
        run._step([])  # the timer's
    assert ended == [("result", None)]


def test_a_loop_that_refuses_a_socket_is_a_failure_for_the_policy(monkeypatch):
    errors, peers, tried = [], [], []

    def refuse(*args):
        raise OSError(errno.ENOSPC, "no watches")

    def steps():
        tried.append(len(tried))
        ours, theirs = socket.socketpair()
        peers.append(theirs)
        return fakes.opened(SocketStream(ours))
        yield

    loop = Loop()
    client = Client(
        "ws://localhost/", reconnect=NoReconnect(),
        on_error=lambda client, exc: errors.append(exc.errno),
    )  # fmt: skip
    client._steps = steps
    client.start(loop)
    monkeypatch.setattr(loop, "add_reader", refuse)
    for _ in range(10):
        loop.run_once(0)
    assert (tried, errors, client.state) == ([0], [errno.ENOSPC], State.CLOSED)
    assert not client._running
    assert peers[0].recv(1) == b""  # the connection is closed
    peers[0].close()
    loop.close()


def test_parts_that_can_not_be_closed_do_not_keep_a_client_from_its_end():
    class Parts:
        def __iter__(self):
            return self

        def __next__(self):
            return LARGE

        def close(self):
            errors.append("closed")
            raise ValueError("close() of the parts")

    errors, scenario = [], Scenario(False)
    parts = Parts()
    scenario.client.send(parts)
    for _ in range(5):
        scenario.loop.run_once(0)
    scenario.peer.sock.close()
    for _ in range(20):
        with contextlib.suppress(ValueError):
            scenario.loop.run_once(0)
    assert (errors, scenario.closed, scenario.client.state) == (["closed"], [1006], State.CLOSED)
    assert scenario.client.unsent == [parts]
    scenario.loop.close()


def test_what_is_dropped_in_part_is_not_given_again():
    """As where a handler's exception comes between the two steps of that."""
    scenario = Scenario(False)
    for _ in range(2):
        scenario.client.send("written")
        scenario.loop.run_once(0)
    outbox = scenario.client._outbox
    outbox.forgetting = outbox.messages[0], outbox.ends[0], len(outbox.messages)
    outbox.messages.clear()
    scenario.client.send("next")
    scenario.settle()
    sent = [data for opcode, data in parsed(scenario.peer.wire) if opcode == TEXT]
    assert sent == [b"written", b"written", b"next"]
    scenario.end()
