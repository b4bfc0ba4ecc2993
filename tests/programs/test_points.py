"""Each call of a blocking connection, interrupted at each point where a signal handler may come.

Whatever the handler does, its exception arrives, no lock stays locked, no thread waits, and the
connection is intact (every message once, in order, right) or failed, and then nothing comes behind
the gap. ``make interrupts`` takes every point; else it's every so manieth, another one in each run.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import random
import threading
from functools import partial

import pytest
from certificates import client_context, server_context
from helpers import PATIENCE, SEED
from pairs import eventually, pair
from points import not_interrupted, run
from programs.worlds import ACTIONS, CLIENT, CLOSED_BY_SERVER, LAST, Calling, World

from wsmini import ConcurrencyError, ConnectionClosed
from wsmini.blocking import transport
from wsmini.blocking.connection import connect
from wsmini.sansio.frames import Opcode
from wsmini.sansio.protocol import State
from wsmini.testing import echo_server, frame

TEXT, PING, PONG = Opcode.TEXT, Opcode.PING, Opcode.PONG

# Of all points, one in so many, beginning at random; 1 in `make interrupts`.
STEP = int(os.environ.get("WSMINI_POINTS_STEP") or 40)

KINDS = ["plain", "deflate", "TLS"]

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="signals need POSIX"),
    # What a handler raises in the callback of a weak reference is dropped by Python itself.
    pytest.mark.filterwarnings("ignore:Exception ignored:pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]


# -- what is interrupted --

INCOMING = ["zero", "one", "two", frame(PING, b"?"), "three", "four", "5" * 3000, "7" * 70000]


def receive(how):
    def call(world):
        for _ in range(3):
            world.received.append(how(world.ws))

    return call


def iterate(world):
    for message in world.ws:
        world.received.append(message)
        if len(world.received) >= 3:
            break


def stream(world):
    for _ in range(3):
        for part in world.ws.recv_streaming():
            world.parts.append(part)
        world.received.append("".join(world.parts))
        world.parts = []


def into(world):
    buffer = bytearray(100000)
    for _ in range(3):
        n = world.ws.recv_into(buffer)
        world.received.append(buffer[:n].decode())


def send(message, name=None, timeout=None):
    def call(world):
        world.ws.send(message() if callable(message) else message, timeout=timeout)
        world.sent.append(name or message)

    return call


def pong(world):
    world.ws.ping(b"!").wait(PATIENCE)


def answered(world):
    ping = world.ws.ping(b"!")
    with not_interrupted(), contextlib.suppress(ConnectionError):  # a handler has closed it
        world.say(frame(PONG, b"!"))
    ping.wait(PATIENCE)


def closing(world):
    world.closed = True
    world.ws.close()


def leaving(world):
    world.closed = True
    with world.ws:
        pass


def leaving_with_an_error(world):
    world.closed = True
    with contextlib.suppress(LookupError), world.ws:
        raise LookupError


ENDING = ["zero", CLOSED_BY_SERVER]
CALLS = {
    "recv": (receive(lambda ws: ws.recv()), INCOMING),
    "recv(timeout)": (receive(lambda ws: ws.recv(timeout=PATIENCE)), INCOMING),
    "recv(decode)": (receive(lambda ws: ws.recv(decode=False).decode()), INCOMING),
    "iteration": (iterate, INCOMING),
    "recv_streaming": (stream, INCOMING),
    "recv_into": (into, INCOMING),
    "recv of what closes": (receive(lambda ws: ws.recv()), ENDING),
    "send": (send("small"), ["zero"]),
    "send(timeout)": (send("small", timeout=PATIENCE), ["zero"]),
    "send of much": (send("x" * 5000), ["zero"]),
    "send of fragments": (send(lambda: iter(["a", "b"]), "ab"), ["zero"]),
    "ping().wait": (pong, ["zero", "one", frame(PONG, b"!"), "two"]),
    "close": (closing, ENDING),
    "with": (leaving, ENDING),
    "with, an error": (leaving_with_an_error, ENDING),
}


def some(names, *values):
    """All combinations of *values*, or a sample of a tenth, another one in each run."""
    cases = list(itertools.product(*values))
    if STEP > 1:
        cases = random.Random(f"{SEED} {names}").sample(cases, len(cases) // 10)
    return pytest.mark.parametrize(names, cases)


def interrupt(name, make_world, function, *actions, gap=0):
    """Interrupt *function* of a new world, again and again, each time at a later point."""
    threads = threading.active_count()
    rng = random.Random(f"{SEED} {name}")
    at, reached = rng.randrange(STEP), True
    while reached:
        world = make_world()
        acts = [partial(act, world) for act in actions]
        behind = rng.randint(1, gap) if gap else 0
        _, error, points = run(partial(function, world), at, *acts, gap=behind)
        if error is not world.raised:
            assert isinstance(error, (ConnectionClosed, ConcurrencyError)), (points.where, error)
        reached = points.where is not None
        if reached:
            world.check(error, f"{name} at {points.where}, {behind}")
        world.end()
        world.raised = error = None
        at += STEP
    gc.collect()  # tracebacks, with frames that have sockets
    eventually(lambda: threading.active_count() <= threads)


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("call", CALLS)
def test_a_handler_may_come_at_each_point(call, kind, action):
    function, incoming = CALLS[call]
    interrupt(action, partial(World, kind, incoming), function, ACTIONS[action])


# -- while another thread is in the connection, too --


def receives(world):
    with contextlib.suppress(ConnectionClosed):
        while world.received_by_second[-1:] != [LAST]:
            with contextlib.suppress(ConcurrencyError):  # a handler receives just now
                world.received_by_second.append(world.ws.recv())


def sends(world):
    with contextlib.suppress(ConnectionClosed):
        for number in range(4):
            message = f"{number} " + "x" * (number % 2 * 5000)
            world.ws.send(message)
            world.sent_by_second.append(message)


TWO = {
    "recv while another thread sends": (*CALLS["recv"], sends),
    "recv(timeout) while another thread sends": (*CALLS["recv(timeout)"], sends),
    "iteration while another thread sends": (*CALLS["iteration"], sends),
    "recv_streaming while another thread sends": (*CALLS["recv_streaming"], sends),
    "recv_into while another thread sends": (*CALLS["recv_into"], sends),
    "ping().wait while another thread sends": (answered, ["zero"], sends),
    "send while another thread sends": (*CALLS["send"], sends),
    "send of fragments while another thread sends": (*CALLS["send of fragments"], sends),
    "close while another thread sends": (*CALLS["close"], sends),
    "send while another thread receives": (send("small"), INCOMING, receives),
    "send of much while another thread receives": (send("x" * 5000), INCOMING, receives),
    "send of fragments while another thread receives": (
        send(lambda: iter(["a", "b"]), "ab"), INCOMING, receives,
    ),
    "ping().wait while another thread receives": (answered, INCOMING, receives),
    "close while another thread receives": (closing, [*INCOMING, CLOSED_BY_SERVER], receives),
    "with while another thread receives": (leaving, [*INCOMING, CLOSED_BY_SERVER], receives),
}  # fmt: skip


@some("calls, kind, action", TWO, KINDS, ACTIONS)
def test_a_handler_may_come_at_each_point_beside_another_thread(calls, kind, action):
    function, incoming, second = TWO[calls]
    make_world = partial(World, kind, incoming, second)
    interrupt(action, make_world, function, ACTIONS[action])


# -- while the peer doesn't read --

LARGE = "".join(random.Random(1).choices("0123456789abcdef", k=9000))


def nothing(world):
    pass


def say(message):
    return lambda world: world.say(message)


BLOCKED = {
    "send": send(LARGE),
    "send(timeout)": send(LARGE, timeout=PATIENCE),
    "send of fragments": send(lambda: iter([LARGE, LARGE[::-1]]), LARGE + LARGE[::-1]),
}
MEANWHILE = {
    "silent": [nothing, nothing],
    "talking": [
        say("zero"), nothing, say(frame(PING, b"?")), lambda world: world.read(5000), say("one"),
    ],
}  # fmt: skip


@some("call, meanwhile, interval, kind, action", BLOCKED, MEANWHILE, [None, 0.001], KINDS, ACTIONS)
def test_a_handler_may_come_at_each_point_of_a_blocked_send(
    monkeypatch, call, meanwhile, interval, kind, action
):
    def make_world():
        options = {"ping_interval": interval, "ping_timeout": None, "close_timeout": 1}
        world = World(kind, [], None, MEANWHILE[meanwhile], **options)
        monkeypatch.setattr(transport, "wait", world.wait)
        return world

    with pair():  # so that the background thread is there before and after
        interrupt(action, make_world, BLOCKED[call], ACTIONS[action])


def each_point(function_of, act):
    """(connection, what it raised, the point) of calls that *act* interrupts, one after the other.

    *function_of* gives what is to be called for a connection, and *act* is given that, too.
    """
    at, reached = random.Random(f"{SEED}").randrange(STEP), True
    while reached:
        with pair(ping_interval=None, close_timeout=0.1) as (ws, peer):
            _, error, points = run(function_of(ws, peer), at, partial(act, ws, peer))
            reached = points.where is not None
            yield ws, error, points.where
        at += STEP


# -- two handlers, one soon after the other --


def ping_from_handler(world):
    world.ws.ping(b"from the handler")


LEAVING_WORK = {
    "close": ACTIONS["close"],
    "send": ACTIONS["send"],
    "ping": Calling(ping_from_handler),
}
SOON = 40  # points from the one to the other, at most


@pytest.mark.parametrize("raising", ["Handler", "ValueError"])
@pytest.mark.parametrize("left", LEAVING_WORK)
@pytest.mark.parametrize("call", CALLS)
def test_what_a_handler_leaves_to_a_call_is_done_though_another_one_ends_that(call, left, raising):
    function, incoming = CALLS[call]
    acts = LEAVING_WORK[left], ACTIONS[raising]
    interrupt(left, partial(World, "plain", incoming), function, *acts, gap=SOON)


# -- opening --


def open_and_echo(world):
    world.ws = connect(world.url, ssl=world.context, compression=None)


class Opening:
    """A connection that is being opened, to a server that echoes."""

    def __init__(self, server, context=None):
        self.url, self.context, self.client = server.url, context, CLIENT
        self.raised = self.ws = None

    def check(self, error, where):
        if self.raised is not None:
            assert error is self.raised, (where, error)
        if self.ws is not None:
            self.ws.send("x")
            assert self.ws.recv(timeout=PATIENCE) == "x", where

    def end(self):
        if self.ws is not None:
            self.ws.close()


def open_another(world):
    with connect(world.url, ssl=world.context) as ws:
        ws.send("y")
        assert ws.recv(timeout=PATIENCE) == "y"


BEFORE = {name: act for name, act in ACTIONS.items() if name not in ("close", "send", "recv")}
BEFORE["connect"] = Calling(open_another)


def descriptors():
    return len(os.listdir("/dev/fd"))


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # it is closed, at once
@some("secure, action", [False, True], BEFORE)
def test_a_handler_may_come_at_each_point_of_the_opening(secure, action):
    context = server_context() if secure else None
    with echo_server(ssl=context) as server, pair():
        open_another(Opening(server, client_context() if secure else None))
        before = descriptors()
        make_world = partial(Opening, server, client_context() if secure else None)
        interrupt(action, make_world, open_and_echo, BEFORE[action])
        eventually(lambda: descriptors() <= before)


# -- what a handler does in the middle of something else --


def ping_again(ws, peer=None):
    with contextlib.suppress(ConnectionClosed, ConcurrencyError):
        ws.ping(b"again")


def test_a_close_is_not_spoilt_by_a_handlers_ping_that_is_too_late():
    for ws, error, where in each_point(lambda ws, peer: ws.close, ping_again):
        assert error is None, where
        assert ws._transport.closed, where


def test_a_handlers_close_is_done_though_the_call_it_interrupts_is_refused():
    def twice(ws, peer):
        ws.ping(b"x")
        return partial(ws.ping, b"x")

    for ws, error, where in each_point(twice, lambda ws, peer: ws.close()):
        if where is not None:
            assert isinstance(error, (ValueError, ConnectionClosed)), where
            assert ws.state is not State.OPEN, where
            assert not ws._transport.requests, where


def test_a_message_that_does_not_fit_is_not_lost_to_what_a_handler_receives():
    received = []

    def receive_into(ws, peer):
        received.clear()
        peer.send_raw(frame(TEXT, b"one"))
        return partial(ws.recv_into, bytearray(2), PATIENCE)

    def receive(ws, peer):
        peer.send_raw(frame(TEXT, b"two"))
        with contextlib.suppress(ConcurrencyError):
            received.append(ws.recv(PATIENCE))

    for ws, error, where in each_point(receive_into, receive):
        if where is None:
            break
        assert isinstance(error, ValueError), (where, error)
        while len(received) < 2:
            received.append(ws.recv(PATIENCE))
        assert sorted(received) == ["one", "two"], where
