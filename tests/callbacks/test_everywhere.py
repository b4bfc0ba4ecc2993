"""Every method of a client, and of a loop, in every state, called from everywhere: what it raises
goes to its caller, and nothing but what a callback raises ever comes out of the loop."""

from __future__ import annotations

import array
import asyncio
import itertools
import re
import signal
import socket
import threading
from types import SimpleNamespace

import fakes
import pytest
from helpers import ROOT
from joined import parsed
from tables import each_row

import wsmini
import wsmini.aio
from wsmini.callbacks.client import CALLBACKS, Client
from wsmini.callbacks.loop import Loop
from wsmini.exceptions import ConnectionClosed, InvalidState, SendBufferFull
from wsmini.opening.streams import SocketStream
from wsmini.policies import Fixed
from wsmini.sansio.frames import Opcode
from wsmini.sansio.protocol import State
from wsmini.testing import frame

METHODS = {  # by their names, and what is special about the call
    "send": lambda client: client.send("x"),
    "send bytes": lambda client: client.send(array.array("b", b"abc")),
    "send parts": lambda client: client.send(part for part in ["a", "b"]),
    "ping": lambda client: client.ping(),
    "ping with the same data": lambda client: [client.ping(b"x"), client.ping(b"x")],
    "pong": lambda client: client.pong("x"),
    "pong of too much": lambda client: client.pong(bytes(126)),
    "close": lambda client: client.close(1000, "done"),
    "stop": lambda client: client.stop(),
    "pause": lambda client: client.pause(),
    "pause and resume": lambda client: [client.pause(), client.resume()],
    "resume": lambda client: client.resume(),
    "start": lambda client: client.start(client.home),
    # Else it would do so, and wait for the end.
    "run_forever": lambda client: client._running and client.run_forever(),
    "wait_open": lambda client: client.wait_open(timeout=0),
    "wait_closed": lambda client: client.wait_closed(timeout=0),
    "facts": lambda client: [getattr(client, name) for name in FACTS],
    "repr": lambda client: repr(client),
    "fileno": lambda client: client.fileno(),
}
FACTS = (
    "state", "unsent", "buffered_amount", "latency", "ssl_object", "request", "response", "id",
    "request_headers", "response_headers", "subprotocol", "extensions", "timings", "close_code",
    "close_reason", "local_address", "remote_address", "loop",
)  # fmt: skip
# What a method may raise, to who has called it.
TOLD = (ConnectionClosed, InvalidState, SendBufferFull, TimeoutError, ValueError, RuntimeError)


REFUSED_WHILE_OPEN = (
    "start", "run_forever", "wait_open", "wait_closed", "ping with the same data",
    "pong of too much",
)  # fmt: skip


def test_each_public_name_of_a_client_is_tried():
    tried = {name.split()[0] for name in METHODS} - {"facts", "repr"}
    public = {name for name in dir(Client) if name[0] != "_"}
    assert tried | {*FACTS, *CALLBACKS} == public | {"loop"}


class Play:
    """A client whose servers are sockets of this thread; a connection each time it opens."""

    def __init__(self, outbox, **callbacks):
        self.clock = fakes.Clock()
        self.loop = Loop(clock=self.clock, wall=self.clock.wall)
        self.peers, self.opened, self.closed, self.refused = [], 0, 0, False
        chunks = callbacks.get("on_chunk")
        callbacks = {name: self.counting(name, callbacks.get(name)) for name in CALLBACKS}
        if chunks is None:
            callbacks["on_chunk"] = None
        self.client = Client(
            "ws://user:secret@localhost/?token=secret", reconnect=Fixed(5), outbox=outbox,
            ping_interval=None, **callbacks,
        )  # fmt: skip
        self.client._steps, self.client.home = self.steps, self.loop

    def counting(self, name, callback):
        def called(client, *args):
            self.opened += name == "on_open"
            self.closed += name == "on_close"
            if callback is not None:
                callback(client)

        return called

    def steps(self):
        if self.refused:
            raise ConnectionRefusedError(111, "no")
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        self.peers.append(theirs)
        opened = fakes.opened(SocketStream(ours))
        opened.request = opened.response = SimpleNamespace(headers=())
        return opened
        yield

    def spin(self, turns=6):
        for _ in range(turns):
            self.loop.run_once(0)

    def reach(self, state):
        if state == "new":
            return
        self.refused = state == "waiting"
        self.client.start(self.loop)
        if state == "connecting":
            return
        self.spin()
        if state == "closing":
            self.client.close()
            self.spin(2)
        elif state == "closed by the server":
            self.client.pause()  # so that on_close doesn't come yet
            self.peers[-1].send(frame(Opcode.PING) + frame(Opcode.CLOSE, b"\x03\xe8"))
            self.spin(2)
        elif state == "lost":
            self.peers[-1].close()
        elif state == "ended":
            self.client.close()
            self.answer_close()

    def answer_close(self):
        self.spin(3)
        for peer in self.peers:
            try:
                peer.send(frame(Opcode.CLOSE, b"\x03\xe8"))
            except OSError:
                pass
        self.spin()

    def end(self):
        self.client.stop()
        self.answer_close()
        self.clock.now += 20
        self.spin()
        assert not self.client._running and self.client.state is State.CLOSED
        assert self.opened == self.closed
        self.loop.close()
        for peer in self.peers:
            peer.close()


def quietly(method, client):
    try:
        METHODS[method](client)
    except TOLD as exc:
        return exc
    return None


def from_thread(play, call):
    thread = threading.Thread(target=call)
    thread.start()
    thread.join()


def from_loop(play, call):
    play.loop.call_soon(call)
    play.spin(1)


def from_handler(play, call):
    """While a callback is running."""
    old = signal.signal(signal.SIGUSR1, lambda number, frame: call())
    try:
        play.loop.call_soon(signal.raise_signal, signal.SIGUSR1)
        play.spin(1)
    finally:
        signal.signal(signal.SIGUSR1, old)


STATES = [
    "new", "connecting", "open", "closing", "closed by the server", "lost", "waiting", "ended",
]  # fmt: skip
PLACES = [from_loop, from_thread, from_handler]


@each_row("method", METHODS)
def test_a_method_tells_its_caller_and_never_the_loop(method):
    # Only what is sent depends on what is kept for later.
    outboxes = (0, 5) if method.startswith("send") else (5,)
    for state, where, outbox in itertools.product(STATES, PLACES, outboxes):
        check_who_is_told(method, state, where, outbox)


def check_who_is_told(method, state, where, outbox):
    play = Play(outbox)
    play.reach(state)
    told = []
    where(play, lambda: told.append(quietly(method, play.client)))
    play.spin()
    assert len(told) == 1
    if state == "open" and method not in REFUSED_WHILE_OPEN:
        assert told == [None]
    if state == "open" and method.startswith("send") and play.client.state is State.OPEN:
        assert parsed(play.peers[-1].recv(1000))[0][0] in (Opcode.TEXT, Opcode.BINARY)
    play.end()


@pytest.mark.parametrize("name", CALLBACKS)
def test_every_method_may_be_called_in_a_callback(name):
    for method in METHODS:
        check_called_in_a_callback(method, name)


def check_called_in_a_callback(method, name):
    told = []
    play = Play(2, **{name: lambda client: told.append(quietly(method, client))})
    play.refused = True
    play.client.start(play.loop)
    play.spin(3)  # on_reconnect
    play.refused = False
    play.clock.now += 6
    play.spin()
    if play.peers:
        peer = play.peers[0]
        peer.send(frame(Opcode.PING) + frame(Opcode.TEXT, b"x") + frame(Opcode.PONG))
        play.loop.call_soon(play.client._failed, ZeroDivisionError())
        play.client._drain_due = True
        play.spin()
        if play.client._connection is not None:
            play.client._connection.trim_soon()
        play.spin()
        peer.close()
    play.spin()
    play.end()
    assert told


def test_to_run_a_client_twice_leaves_the_first_run_alone():
    """Another thread does, or a callback."""
    play = Play(0)
    play.reach("open")
    told = []
    for where in (from_thread, from_loop):
        where(play, lambda: told.append(quietly("run_forever", play.client)))
        assert play.client.state is State.OPEN
    assert [type(exc) for exc in told] == [InvalidState, InvalidState]
    play.end()


def test_a_client_that_is_used_when_its_loop_is_closed():
    play = Play(0)
    play.reach("open")
    play.client._connection.transport.drop()
    play.loop.close()
    for method in METHODS:
        quietly(method, play.client)
    assert play.client.unsent == [] or play.client.unsent
    play.peers[-1].close()


def test_a_start_that_failed_leaves_a_client_that_can_be_started():
    play = Play(0)
    closed = Loop()
    closed.close()
    with pytest.raises(RuntimeError, match="closed"):
        play.client.start(closed)
    assert play.client.state is State.CLOSED
    play.reach("open")
    assert play.client.state is State.OPEN
    play.end()


def test_ping_from_a_thread_as_the_connection_is_closing_does_not_end_the_loop():
    play = Play(0)
    play.reach("open")
    from_thread(play, play.client.ping)  # waits in the loop's queue
    play.peers[-1].send(frame(Opcode.CLOSE, b"\x03\xe8"))
    send = play.client._connection.transport.ping
    from_thread(play, lambda: play.client._request(play.client._send_control, send, b""))
    play.spin()
    play.end()


def test_state_follows_the_close_frame_at_once():
    states = []
    play = Play(0)
    play.reach("open")
    play.client.on_ping = lambda client, data: states.append(client.state)
    play.peers[-1].send(frame(Opcode.PING) + frame(Opcode.CLOSE, b"\x03\xe8"))
    play.client.on_close = lambda client, code, reason: states.append(client.state)
    play.spin(2)
    assert states == [State.CLOSING, State.CLOSED] or states == [State.OPEN, State.CLOSED]
    with pytest.raises(InvalidState):
        play.client.send("x")
    play.loop.close()
    play.peers[-1].close()


def test_the_connection_is_closed_as_soon_as_both_close_frames_are_there():
    """The server keeps its end of TCP open."""
    play = Play(0)
    play.reach("open")
    play.client.close()
    play.spin(2)
    assert play.client.state is State.CLOSING
    play.peers[-1].send(frame(Opcode.CLOSE, b"\x03\xe8"))
    play.spin(3)
    assert (play.client.state, play.client.fileno(), play.closed) == (State.CLOSED, -1, 1)
    assert play.client.close_code == 1000
    play.end()


def test_a_client_shows_what_it_is_but_no_secret():
    play = Play(0)
    assert repr(play.client) == "<wsmini.Client of ws://localhost, CLOSED>"
    play.reach("open")
    shown = repr(play.client)
    assert play.client.id in shown and "OPEN" in shown and "secret" not in shown
    play.end()


async def coroutine(client, *args):
    """No callback."""


class Method(Client):
    async def on_message(self, message):
        """No callback."""


@pytest.mark.parametrize(
    "make",
    [
        lambda: Client("ws://localhost", on_message=coroutine),
        lambda: Client("ws://localhost", on_close="x"),
        lambda: Client("ws://localhost", on_mesage=print),
        lambda: Method("ws://localhost"),
        lambda: Loop(on_error=coroutine),
        lambda: Client("ws://localhost", reconnect=wsmini.Backoff),
        lambda: Client("ws://localhost", reconnect=Fixed(1), policy=Fixed(1)),
    ],
)
def test_what_can_not_be_called_is_refused_at_once(make):
    with pytest.raises(TypeError, match=r"async|function|callback|policy"):
        make()


def test_an_attribute_that_can_not_be_called_is_refused_at_the_start():
    client = Client("ws://localhost")
    client.on_message = coroutine
    with Loop() as loop, pytest.raises(TypeError, match="async"):
        client.start(loop)


# -- the names of the blocking API --


def public(value):
    return {name for name in dir(value) if name[0] != "_"}


def test_the_page_tells_which_names_of_a_connection_a_client_has():
    async def names_of_asyncio(url):
        async with wsmini.aio.connect(url) as ws:
            return public(ws)

    with wsmini.testing.echo_server() as server:
        with wsmini.connect(server.url) as ws:
            blocking = public(ws)
        names = blocking, asyncio.run(names_of_asyncio(server.url)), public(Client) | {"loop"}
    page = (ROOT / "docs" / "callbacks.md").read_text(encoding="utf-8")
    table = re.search(r"\| `wsmini.Connection` \|.*\n\| --- .*\n((?:\|.*\n)+)", page)[1]
    told = [set(), set(), set()]
    for row in table.splitlines():
        cells = row.strip("| ").split(" | ")
        of_row = set(re.findall(r"`(\w+)`", cells[0]))
        for column, cell in enumerate(cells):
            if cells[0] == "no":  # the names are in the cell
                told[column] |= set(re.findall(r"`(\w+)`", cell))
            elif not cell.startswith("no"):
                told[column] |= of_row
    told[2] |= set(CALLBACKS)
    assert told == list(names)


# -- the loop's methods --

LOOP_METHODS = {
    "call_soon": lambda loop: loop.call_soon(int).cancel(),
    "call_soon_threadsafe": lambda loop: loop.call_soon_threadsafe(int),
    "call_later": lambda loop: loop.call_later(0, int).cancelled(),
    "call_at": lambda loop: loop.call_at(0, int),
    "add_reader": lambda loop: loop.add_reader(loop.pair[0], loop.pair[0].recv, 1),
    "add_reader of nothing": lambda loop: loop.add_reader(object(), int),
    "add_writer": lambda loop: loop.add_writer(loop.pair[0], loop.remove_writer, loop.pair[0]),
    "remove_reader": lambda loop: loop.remove_reader(loop.pair[0]),
    "remove_writer": lambda loop: loop.remove_writer(loop.pair[0]),
    "add_signal_handler": lambda loop: loop.add_signal_handler(signal.SIGUSR2, int),
    "add_signal_handler of none": lambda loop: loop.add_signal_handler(12345, int),
    "remove_signal_handler": lambda loop: loop.remove_signal_handler(signal.SIGUSR2),
    "add_sleep_handler": lambda loop: loop.add_sleep_handler(int),
    "remove_sleep_handler": lambda loop: loop.remove_sleep_handler(int),
    "run_once": lambda loop: loop.run_once(0),
    "run_forever": lambda loop: [loop.stop(), loop.run_forever()],
    "run_until_done": lambda loop: loop.run_until_done(),
    "stop": lambda loop: loop.stop(),
    "close": lambda loop: loop.close(),
    "is_closed": lambda loop: loop.is_closed(),
    "fileno": lambda loop: loop.fileno(),
    "timeout": lambda loop: loop.timeout(),
    "time": lambda loop: loop.time(),
    "thread": lambda loop: loop.thread,
}
ANYWHERE = ("call_soon_threadsafe", "stop", "is_closed", "time", "thread")


def test_each_public_name_of_a_loop_is_tried():
    with Loop() as loop:
        public = {name for name in dir(loop) if name[0] != "_"}
    assert {name.split()[0] for name in LOOP_METHODS} == public


@each_row(
    "method, where",
    [
        *((method, where) for method in LOOP_METHODS for where in ("outside", "in a callback")),
        *((method, where) for method in ANYWHERE for where in ("in a thread", "in a handler")),
    ],
)
@each_row("closed", [False, True])
def test_a_method_of_a_loop_tells_its_caller_and_never_the_loop(method, where, closed):
    told, pair = [], socket.socketpair()
    loop = Loop()
    loop.pair = pair

    def call():
        try:
            LOOP_METHODS[method](loop)
        except (RuntimeError, ValueError, OSError) as exc:
            told.append(exc)
        else:
            told.append(None)

    if closed:
        loop.close()
    if where == "in a callback":
        calls = loop.call_soon(call)
        if closed:  # it can't be, but for a callback of another loop
            calls.cancel()
            with Loop() as other:
                other.call_soon(call)
                other.run_once(0)
    elif where == "in a thread":
        from_thread(None, call)
    elif where == "in a handler":
        old = signal.signal(signal.SIGUSR1, lambda number, frame: call())
        signal.raise_signal(signal.SIGUSR1)
        signal.signal(signal.SIGUSR1, old)
    else:
        call()
    for _ in range(0 if loop.is_closed() else 3):
        loop.run_once(0)
    assert len(told) == 1
    if not closed and where != "in a callback":
        assert (told[0] is None) == (" of " not in method)
    for sock in pair:
        loop.remove_reader(sock)
        loop.remove_writer(sock)
    loop.close()
    for sock in pair:
        sock.close()


# -- exceptions in the loop's callbacks --


def test_a_method_of_a_client_as_a_callback_of_the_loop_fails_to_its_on_error():
    errors = []
    play = Play(0)
    play.client.on_error = lambda client, exc: errors.append(exc)
    play.reach("open")
    play.loop.call_later(0, play.client.send, "tick")
    play.spin(2)
    assert not errors
    play.refused = True
    play.peers[-1].close()
    play.spin()
    play.loop.call_later(0, play.client.send, "tick")
    play.spin(2)
    assert [type(exc) for exc in errors] == [InvalidState]
    play.end()


def test_what_else_callbacks_raise_goes_to_the_loop_s_on_error():
    errors = []
    with Loop(on_error=lambda loop, exc: errors.append((loop, exc))) as loop:
        loop.call_soon(lambda: 1 / 0)
        loop.call_soon(errors.append, "goes on")
        loop.run_once(0)
        loop.run_once(0)
        assert errors[0][0] is loop and isinstance(errors[0][1], ZeroDivisionError)
        assert errors[1:] == ["goes on"]

        def leave():
            raise KeyboardInterrupt

        loop.call_soon(leave)
        with pytest.raises(KeyboardInterrupt):
            loop.run_once(0)


def test_what_on_close_raises_is_not_displaced_by_the_connection_s_own_error():
    def fail(client, code, reason):
        raise ZeroDivisionError

    play = Play(0)
    play.client.on_close, play.client.on_error = fail, None
    play.client._policy = wsmini.NoReconnect()
    play.reach("open")
    play.peers[-1].close()
    with pytest.raises(ZeroDivisionError) as caught:
        play.spin()
    assert isinstance(caught.value.__context__, ConnectionClosed)
    play.loop.close()


# -- waiting --


def test_other_threads_wait_for_a_client_to_be_open_and_to_end():
    with wsmini.testing.echo_server() as server, Loop() as loop:
        client = Client(server.url, ssl=None)
        with pytest.raises(TimeoutError):
            client.wait_open(timeout=0.01)
        client.start(loop)
        thread = threading.Thread(target=loop.run_until_done)
        thread.start()
        client.wait_open(timeout=60)
        assert client.state is State.OPEN
        with pytest.raises(TimeoutError):
            client.wait_closed(timeout=0.01)
        client.close()
        client.wait_closed(timeout=60)
        thread.join()
        with pytest.raises(InvalidState, match="ended"):
            client.wait_open(timeout=1)


def test_a_loop_runs_until_all_its_clients_have_ended():
    ended = []
    with wsmini.testing.echo_server() as server, Loop() as loop:
        loop.run_until_done()
        for number in range(3):
            Client(
                server.url, on_open=lambda client: client.send("x"),
                on_message=lambda client, message: client.close(),
                on_close=lambda client, code, reason, number=number: ended.append(number),
            ).start(loop)  # fmt: skip
        loop.run_until_done()
    assert sorted(ended) == [0, 1, 2]
