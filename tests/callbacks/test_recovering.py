"""A client, one method of which a signal handler interrupts at each point, one after the other."""

from __future__ import annotations

import errno
import socket
import threading
from functools import partial

import fakes
import points
import pytest
from helpers import PATIENCE
from pairs import Task, eventually

from wsmini.callbacks.client import Client, ClientConnection
from wsmini.callbacks.loop import Loop
from wsmini.clock import LEAVING
from wsmini.events.transport import EventTransport, SharedTimers
from wsmini.opening.steps import LoopRun
from wsmini.opening.streams import SocketStream
from wsmini.policies import Fixed, NoReconnect
from wsmini.sansio.frames import Opcode
from wsmini.sansio.protocol import State
from wsmini.testing import frame

# CPython 3.8 and 3.9 look for signals between nearly all opcodes: a mark and what it tells of can't
# be set at once there.
needs_few_points = pytest.mark.skipif(points.VERSION < (3, 10), reason="it has more points")


class Interrupt(BaseException):
    """What no code but the test catches."""


def interrupt():
    raise Interrupt


def ignore(*args):
    pass


class Peers:
    """The other ends of the connections that a client opens, each at once."""

    def __init__(self):
        self.sockets, self.streams = [], []

    def steps(self):
        ours, theirs = socket.socketpair()
        self.sockets.append(theirs)
        self.streams.append(SocketStream(ours))
        return fakes.opened(self.streams[-1])
        yield

    def hang_up(self):
        for sock in self.sockets:
            sock.close()


def refused():
    raise ConnectionRefusedError(errno.ECONNREFUSED, "refused")
    yield


def turn(loop, times=8):
    """What comes out of some iterations of *loop*."""
    raised = []
    for _ in range(times):
        try:
            loop.run_once(0)
        except BaseException as exc:
            raised.append(exc)
    return raised


def started(loop, steps, **arguments):
    client = Client("ws://localhost/", **{"reconnect": NoReconnect(), **arguments})
    client._steps = steps
    client.start(loop)
    return client


def end(client, loop, peers):
    """Whatever has happened, the client comes to its end, and nothing is left."""
    client.stop()
    peers.hang_up()
    turn(loop)
    assert not client._running and not loop._clients
    assert [stream.sock.fileno() for stream in peers.streams] == [-1] * len(peers.streams)
    loop.close()


def each_point(scenario, owner, name, act=interrupt, only=None):
    """Run *scenario*, in which *act* comes at a point of the first call of a method.

    At the first point, then at the second and so on. *only*: of the first call with that argument.
    """
    original, at, where = getattr(owner, name), 0, ""

    def interrupted(self, *args):
        nonlocal where
        if only is not None and args[:1] != (only,):
            return original(self, *args)
        setattr(owner, name, original)
        result, error, reached = points.run(lambda: original(self, *args), at, act)
        where = reached.where
        if error is not None:
            raise error
        return result

    try:
        while where is not None:
            where = "not called"
            setattr(owner, name, interrupted)
            try:
                scenario()
            except AssertionError as exc:
                raise AssertionError(f"interrupted at {where}") from exc
            assert where != "not called"
            at += 1
    finally:
        setattr(owner, name, original)
    assert at > 1


@pytest.mark.parametrize("action", ["close", pytest.param("raise", marks=needs_few_points)])
def test_start(action):
    """It connects if that has returned, unless it was closed."""
    at, where = 0, ""
    while where is not None:
        loop, peers = Loop(), Peers()
        client = Client("ws://localhost/", reconnect=NoReconnect(), on_error=ignore)
        client._steps = peers.steps
        act = client.close if action == "close" else interrupt
        _, error, reached = points.run(partial(client.start, loop), at, act)
        where, at = reached.where, at + 1
        assert turn(loop) == [], where
        if error is not None:
            assert not peers.sockets and client.state is State.CLOSED and not client._running, where
        end(client, loop, peers)
    assert at > 1


@pytest.mark.parametrize(
    "name",
    [pytest.param("start", marks=needs_few_points), "_stop_reading", "_stop_waiting_for_room"],
)
def test_nothing_is_watched_once_a_connection_is_gone(name):
    """Or the next one, whose socket has the same number, would never be heard."""

    def scenario():
        loop, peers = Loop(), Peers()
        client = started(loop, peers.steps, reconnect=Fixed(100))
        turn(loop)
        if name == "_stop_waiting_for_room":
            client.send("x" * (1 << 20))
            turn(loop)
            assert loop._writers
        peers.hang_up()
        turn(loop)
        assert client.state is State.WAITING
        assert set(loop._readers) <= {loop._hears} and not loop._writers
        end(client, loop, peers)

    each_point(scenario, EventTransport, name)


def test_close():
    """It is carried out."""

    def scenario():
        loop, peers = Loop(), Peers()
        client = started(loop, peers.steps, close_timeout=0)
        turn(loop)
        client.close()
        eventually(lambda: turn(loop) == [] and not client._running)
        end(client, loop, peers)

    each_point(scenario, Client, "_close")


@pytest.mark.parametrize("owner, name", [(Client, "_carry_out"), (Client, "_close")])
def test_stop(owner, name):
    """It waits half a second for the server, no more."""

    def scenario():
        loop, peers = Loop(), Peers()
        client = started(loop, peers.steps, close_timeout=60)
        turn(loop)
        client.stop()
        turn(loop)
        if client._connection is not None:
            assert client._connection.transport._close_by - loop.time() <= LEAVING
        end(client, loop, peers)

    each_point(scenario, owner, name)


@pytest.mark.parametrize("owner, name", [(Client, "_carry_out"), (ClientConnection, "resume")])
def test_resume(owner, name):
    """It is carried out."""

    def scenario():
        loop, peers, got = Loop(), Peers(), []
        client = started(loop, peers.steps, on_message=lambda client, message: got.append(message))
        turn(loop)
        client.pause()
        peers.sockets[0].send(frame(Opcode.TEXT, b"x"))
        turn(loop)
        assert got == []
        client.resume()
        turn(loop)
        assert got == ["x"]
        end(client, loop, peers)

    each_point(scenario, owner, name)


def test_a_pause_behind_a_resume_counts_though_a_callback_has_raised():
    got, errors = [], []

    def on_message(client, message):
        got.append(message)
        if message == "1":
            client.resume()
            raise LookupError
        client.pause()

    loop, peers = Loop(on_error=lambda loop, exc: errors.append(exc)), Peers()
    client = started(loop, peers.steps, on_message=on_message)
    turn(loop)
    peers.sockets[0].send(b"".join(frame(Opcode.TEXT, b"%d" % number) for number in range(1, 5)))
    turn(loop)
    assert got == ["1", "2"] and [type(exc) for exc in errors] == [LookupError]
    end(client, loop, peers)


def test_nothing_that_was_delivered_comes_again():
    def scenario():
        loop, peers, got = Loop(), Peers(), []
        client = started(
            loop,
            peers.steps,
            on_message=lambda client, message: got.append(message),
            on_ping=lambda client, data: got.append(data.decode()),
        )
        turn(loop)
        pings = [frame(Opcode.PING, data) for data in (b"a", b"b")]
        peers.sockets[0].send(pings[0] + frame(Opcode.TEXT, b"x") + pings[1])
        turn(loop)
        assert len(set(got)) == len(got)
        # Where it has failed, nothing comes behind the gap. Python 3.8 and 3.9 look for signals
        # between the iterator, too, and the call that gets what it gives.
        assert "x" in got or client.state is not State.OPEN or points.VERSION < (3, 10)
        end(client, loop, peers)

    each_point(scenario, EventTransport, "_deliver")


def test_a_loop_can_be_run_again():
    def scenario():
        with Loop() as loop:
            left = [loop.stop, int, int]

            def callback():
                loop.call_soon(left.pop())
                if left:
                    loop.call_soon(callback)

            loop.call_soon(callback)
            try:
                loop.run_forever()
            finally:
                assert loop.thread == 0

    def tolerant():
        try:
            scenario()
        except Interrupt:
            pass

    each_point(tolerant, Loop, "_run")


def test_sending():
    """A handler's exception isn't taken for the message's."""

    def expire():
        raise TimeoutError("a handler's")

    def scenario():
        loop, peers, errors = Loop(), Peers(), []
        client = started(loop, peers.steps, on_error=lambda client, exc: errors.append(exc))
        turn(loop)
        client.send("x")
        assert turn(loop) == []
        assert [type(exc) for exc in errors[:1]] in ([], [TimeoutError])
        end(client, loop, peers)

    each_point(scenario, Client, "_serve", expire)


def test_the_end():
    """Those who wait for it learn of it."""

    def scenario():
        loop, peers = Loop(), Peers()
        client = started(loop, peers.steps)
        turn(loop)
        waiting = Task(client.wait_closed)
        eventually(lambda: client._waiters is not None and client._waiters.locks)
        peers.hang_up()
        turn(loop)
        waiting.result()
        end(client, loop, peers)

    each_point(scenario, Client, "_finish")


@needs_few_points
def test_on_close_comes_once():
    def scenario():
        loop, peers, closed = Loop(), Peers(), []
        client = started(
            loop, peers.steps, on_error=ignore, on_close=lambda *args: closed.append(args)
        )
        turn(loop)
        peers.hang_up()
        turn(loop)
        assert len(closed) == 1 and not client._running
        end(client, loop, peers)

    each_point(scenario, Client, "_tell_closed")


@needs_few_points
def test_no_connection_is_kept_whose_on_open_has_not_come():
    def scenario():
        loop, peers, opens = Loop(), Peers(), []
        client = started(loop, peers.steps, reconnect=Fixed(0), on_open=opens.append)
        turn(loop, 12)
        assert opens and client.state is State.OPEN
        end(client, loop, peers)

    each_point(scenario, Client, "_call", only="on_open")


def test_a_connection_whose_on_open_has_raised_is_kept():
    def on_open(client):
        raise LookupError

    loop, peers = Loop(), Peers()
    client = started(loop, peers.steps, on_open=on_open)
    assert [type(exc) for exc in turn(loop)] == [LookupError]
    assert client.state is State.OPEN
    end(client, loop, peers)


@pytest.mark.parametrize("kind", ["opening", "delay", "question"])
def test_what_an_interruption_has_left_makes_no_second_connection(kind):
    peers, errors, tried = Peers(), [], []

    def steps():
        tried.append(kind)
        return refused() if kind != "opening" and len(tried) == 1 else peers.steps()

    loop = Loop(on_error=lambda loop, exc: errors.append(exc))
    client = started(loop, steps, reconnect=Fixed(0))
    if kind == "opening":
        LoopRun(loop, steps(), client._opened)  # which nobody knows
    elif kind == "delay":
        while client.state is not State.WAITING:
            loop.run_once(0)
        loop.call_later(0, client._connect)
    else:
        turn(loop)
        loop.call_soon(client._judge, client._failure)
    turn(loop)
    assert errors == [] and client.state is State.OPEN
    assert sum(stream.sock.fileno() >= 0 for stream in peers.streams) == 1
    assert len(peers.streams) == (2 if kind == "opening" else 1)
    end(client, loop, peers)


def test_a_question_that_an_interruption_has_left_is_not_asked_while_it_waits():
    delays = []
    loop = Loop()
    client = started(
        loop,
        refused,
        reconnect=Fixed(100),
        on_reconnect=lambda client, attempt, delay, exc: delays.append(attempt),
    )
    turn(loop)
    loop.call_soon(client._judge, client._failure)
    turn(loop)
    assert delays == [1] and client.state is State.WAITING
    end(client, loop, Peers())


@pytest.mark.parametrize("value", [0, ""])
def test_what_can_not_be_called_fails_in_a_batch_as_alone(value):
    errors, peers = [], Peers()
    loop = Loop(on_error=lambda loop, exc: errors.append(exc))
    client = started(loop, peers.steps)
    turn(loop)
    client.on_message = value
    peers.sockets[0].send(frame(Opcode.TEXT, b"1") + frame(Opcode.TEXT, b"2"))
    turn(loop)
    assert errors and {type(exc) for exc in errors} == {TypeError}
    client.on_message = None
    end(client, loop, peers)


def test_a_timer_that_an_interrupted_add_has_left_does_no_harm():
    clock, called = fakes.Clock(), []

    class Transport:
        def on_time(self):
            called.append(clock.now)

    with Loop(clock=clock, wall=clock.wall) as loop:
        timers, transport = SharedTimers(loop), Transport()
        loop.call_later(5, timers._call, clock.now + 5)  # which the loop alone knows
        timers.add(clock.now + 5, transport)
        clock.now += 5
        assert turn(loop) == []
    assert called == [clock.now]


def test_an_interruption_while_the_policy_is_asked_ends_nothing():
    asked, peers = [], Peers()

    class Policy:
        def start(self):
            return self

        def opened(self):
            pass

        def next_delay(self, failure):
            asked.append(failure)
            if len(asked) == 1:
                raise Interrupt  # a signal handler does
            return 0.0

    loop = Loop()
    client = started(
        loop, lambda: peers.steps() if asked else refused(), reconnect=None, policy=Policy()
    )
    assert [type(exc) for exc in turn(loop)] == [Interrupt]
    assert client.state is State.OPEN
    end(client, loop, peers)


# -- no signals, but another loop --


def test_run_forever_returns_when_the_client_is_started_on_another_loop():
    """And doesn't stop that when the client ends there."""
    with Loop() as shared:

        def on_error(client, exc):
            errors.append(exc)
            if len(errors) == 1:
                client.start(shared)
                raised.extend(turn(shared))  # it ends there, within its first loop

        errors, raised = [], []
        client = Client("ws://localhost/", reconnect=NoReconnect(), on_error=on_error)
        client._steps = refused
        Task(client.run_forever).result()
        assert raised == [] and len(errors) == 2
        assert not shared._stopping

        def go_on(client, exc):
            if client.loop is not shared:
                client.start(shared)

        client = Client("ws://localhost/", reconnect=NoReconnect(), on_error=go_on)
        client._steps = refused
        Task(client.run_forever).result()
        assert client._running
        turn(shared)
        assert not client._running


def test_a_client_whose_loop_is_closed_tells_those_who_wait():
    loop = Loop()
    client = Client("ws://localhost/")
    client.start(loop)
    waiting = Task(client.wait_closed, PATIENCE)
    eventually(lambda: client._waiters is not None and client._waiters.locks)
    loop.close()
    client.close()
    waiting.result()


def test_what_can_not_be_called_fails_once():
    """One that was set since start(), which checks them."""
    errors, peers = [], Peers()
    loop = Loop(on_error=lambda loop, exc: errors.append(exc))
    client = started(loop, peers.steps)
    turn(loop)
    client.on_close = 42
    client.close()
    peers.hang_up()
    turn(loop)
    assert [type(exc) for exc in errors] == [TypeError]
    end(client, loop, peers)


def test_run_forever_in_a_thread_while_another_one_leaves_it(monkeypatch):
    waits, go_on = threading.Event(), threading.Event()
    run = Loop.run_forever

    def slowly(self):
        run(self)
        if not waits.is_set():  # the first one's
            waits.set()
            go_on.wait(PATIENCE)

    monkeypatch.setattr(Loop, "run_forever", slowly)
    client = Client("ws://localhost/", reconnect=NoReconnect(), on_error=ignore)
    client._steps = refused
    first = Task(client.run_forever)
    waits.wait(PATIENCE)

    client._policy = Fixed(0)
    client.on_reconnect = lambda client, *args: (go_on.set(), first.result(), client.close())
    Task(client.run_forever).result()
