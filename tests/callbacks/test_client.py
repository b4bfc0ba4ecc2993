from __future__ import annotations

import os
import random
import signal
import socket
import threading
import time
from errno import ECONNREFUSED

import fakes
import pytest
from helpers import PATIENCE, SEED

from wsmini.callbacks.client import _NEXT, Client
from wsmini.callbacks.loop import Loop
from wsmini.exceptions import (
    ConnectionClosed,
    ConnectionClosedOK,
    InvalidState,
    InvalidStatus,
    SendBufferFull,
)
from wsmini.opening.steps import Wait
from wsmini.opening.streams import SocketStream
from wsmini.policies import Backoff, Fixed, NoReconnect
from wsmini.sansio.protocol import State
from wsmini.testing import (
    CloseWith,
    Cut,
    Refuse,
    Reset,
    echo_server,
    fault_server,
    frame,
    scripted_server,
)


@pytest.fixture
def server():
    with echo_server() as running:
        yield running


def test_a_client_echoes_and_closes(server):
    events = []

    def on_message(client, message):
        events.append(message)
        if len(events) == 3:
            client.close(1000, "bye")

    def on_open(client):
        events.append("open")
        client.send("text")
        client.send(b"binary")

    client = Client(
        server.url, on_open=on_open, on_message=on_message,
        on_close=lambda client, code, reason: events.append((code, reason)),
    )  # fmt: skip
    assert client.run_forever() == 0
    assert events == ["open", "text", b"binary", (1000, "")]
    assert client.state is State.CLOSED


def test_every_state_is_left_and_reached():
    states = set(State) - {State.CLOSING}  # which is the protocol's
    assert set(_NEXT) == states
    assert {state for states in _NEXT.values() for state in states} == states


def test_callbacks_are_methods_of_a_subclass_or_attributes(server):
    class Mine(Client):
        def on_open(self):
            self.send("hello")

        def on_message(self, message):
            self.got = message
            self.close()

    client, codes = Mine(server.url), []
    client.on_close = lambda client, code, reason: codes.append(code)
    client.run_forever()
    assert client.got == "hello" and codes == [1000]


RAISES = {
    "on_open": lambda client: None,
    "on_message": lambda client: client.send("x"),
    "on_pong": lambda client: client.ping(b"x"),
    "on_close": lambda client: client.close(),
}


@pytest.mark.parametrize("name", RAISES)
def test_an_exception_in_a_callback_ends_the_run_with_its_traceback(server, name):
    codes = []

    def raises(client, *args):
        raise ZeroDivisionError(name)

    def on_open(client):
        RAISES[name](client)

    callbacks = {
        "on_open": on_open,
        "on_close": lambda client, code, reason: codes.append(code),
        name: raises,
    }
    client = Client(server.url, **callbacks)
    with pytest.raises(ZeroDivisionError, match=name) as caught:
        client.run_forever()
    assert caught.traceback[-1].name == "raises"
    assert len(codes) == (name != "on_close")
    assert client.state is State.CLOSED


@pytest.mark.parametrize("name", RAISES)
def test_an_exception_goes_to_on_error_and_the_client_goes_on(server, name):
    errors, codes = [], []

    def raises(client, *args):
        raise ZeroDivisionError(name)

    def on_open(client):
        RAISES[name](client)

    def on_error(client, exc):
        errors.append(exc)
        client.close()

    callbacks = {
        "on_open": on_open, "on_error": on_error,
        "on_close": lambda client, code, reason: codes.append(code), name: raises,
    }  # fmt: skip
    Client(server.url, **callbacks).run_forever()
    assert [type(exc) for exc in errors] == [ZeroDivisionError]
    assert len(codes) == (name != "on_close")


def test_what_on_error_raises_is_not_guarded(server):
    def fail(client, *args):
        raise ZeroDivisionError("on_error" if args else "on_open")

    with pytest.raises(ZeroDivisionError, match="on_error"):
        Client(server.url, on_open=fail, on_error=fail).run_forever()


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_what_ends_programs_passes_on_error(server, kind):
    def end(client):
        raise kind

    errors = []
    client = Client(server.url, on_open=end, on_error=lambda client, exc: errors.append(exc))
    with pytest.raises(kind):
        client.run_forever()
    assert errors == []


def test_a_refusal_that_stays_one_ends_the_run():
    tries = []

    def refuse(peer):
        tries.append(1)
        peer.respond(401)

    with scripted_server(refuse) as server:
        with pytest.raises(InvalidStatus):
            Client(server.url).run_forever()
    assert tries == [1]


def test_retry_after_is_waited_for():
    tries, delays, clock = [], [], fakes.Clock()

    def busy_once(peer):
        tries.append(peer)
        if len(tries) == 1:
            peer.respond(503, headers=[("Retry-After", "1")])
            return
        peer.accept()
        peer.close()

    with scripted_server(busy_once) as server, Loop(clock=clock, wall=clock.wall) as loop:
        client = Client(
            server.url,
            on_reconnect=lambda client, n, delay, exc: delays.append(delay),
            policy=Backoff(after_normal_close=False),
        )
        client.start(loop)
        while client.state is not State.WAITING:
            loop.run_once(PATIENCE)
        assert 1 <= delays[0] < 1.5  # a tenth is added at random, at most
        clock.now += delays[0] - 0.01
        loop.run_once(0)
        assert client.state is State.WAITING
        clock.now += 0.02
        while client._running:
            loop.run_once(PATIENCE)
    assert len(tries) == 2


def test_a_server_that_accepts_and_drops_meets_longer_and_longer_delays():
    delays = []

    def drop(peer):
        peer.accept()

    def on_reconnect(client, attempt, delay, exc):
        delays.append(delay)
        if len(delays) == 4:
            client.close()

    policy = Backoff(initial=0.01, jitter=None)
    with scripted_server(drop) as server:
        Client(server.url, reconnect=policy, on_reconnect=on_reconnect).run_forever()
    assert delays == [0.01, 0.02, 0.04, 0.08]


@pytest.mark.parametrize(
    "fault, least, most",
    [(Refuse(503, retry_after=2), 2, 3), (Refuse(503), 0, 0.5), (Cut(), 0, 0.5), (Reset(), 0, 0.5)],
)
def test_what_may_pass_is_tried_again_after_a_delay(fault, least, most):
    delays = []

    def on_reconnect(client, attempt, delay, exc):
        delays.append(delay)
        client.close()

    with fault_server(then=fault) as server:
        assert Client(server.url, on_reconnect=on_reconnect).run_forever() == 0
    assert len(delays) == 1 and least <= delays[0] <= most


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_what_will_not_change_stops_at_once(status):
    events = []
    with fault_server(Refuse(status)) as server:
        client = Client(server.url, on_error=lambda client, exc: events.append(exc))
        client.on_reconnect = lambda client, *args: events.append("again")
        assert client.run_forever() == 1
        (exc,) = events
        assert exc.response.status_code == status
        client.on_open = lambda client: client.close()
        assert client.run_forever() == 0  # of this run, which the server has let in


def test_the_exit_status_is_that_of_the_last_start():
    def on_error(client, exc):
        client.start(client.loop)

    with fault_server(Refuse(401)) as server:
        client = Client(server.url, on_error=on_error, on_open=lambda client: client.close())
        assert client.run_forever() == 0


@pytest.mark.skipif(os.name == "nt", reason="there, os.kill() ends the process")
def test_a_signal_in_the_last_callback_is_in_the_exit_status():
    def on_close(client, code, reason):
        os.kill(os.getpid(), signal.SIGTERM)

    with fault_server(then=CloseWith(4000)) as server:
        client = Client(server.url, on_close=on_close, on_error=lambda client, exc: None)
        assert client.run_forever() == 128 + signal.SIGTERM


def test_a_policy_of_ones_own():
    class Twice:
        def start(self):
            self.opens, self.failures = 0, []
            return self

        def opened(self):
            self.opens += 1

        def next_delay(self, failure):
            self.failures.append(failure)
            return 0.0 if len(self.failures) < 2 else None

    def drop(peer):
        peer.accept()

    policy = Twice()
    with scripted_server(drop) as server:
        with pytest.raises(ConnectionClosed):
            Client(server.url, reconnect=policy).run_forever()
    assert policy.opens == 2 and len(policy.failures) == 2


def test_messages_wait_in_the_outbox_and_on_open_goes_first(server):
    got = []

    def on_message(client, message):
        got.append(message)
        if len(got) == 3:
            client.close()

    client = Client(
        server.url, outbox=2, on_message=on_message, on_open=lambda client: client.send("hello")
    )
    client.send("a")
    client.send("b")
    assert client.buffered_amount == 2
    with pytest.raises(SendBufferFull):
        client.send("c")
    client.run_forever()
    assert got == ["hello", "a", "b"] and client.unsent == [] and client.buffered_amount == 0


def test_what_cannot_be_sent_any_more_is_handed_back():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        client = Client(f"ws://127.0.0.1:{closed.getsockname()[1]}", outbox=5)
        client.on_reconnect = lambda client, attempt, delay, exc: client.close()
        client.send("a")
        client.send(b"b")
        client.run_forever()
    assert client.unsent == ["a", b"b"]


def test_without_an_outbox_offline_sends_are_refused(server):
    client = Client(server.url)
    with pytest.raises(InvalidState):
        client.send("x")
    with pytest.raises(InvalidState):
        client.ping()
    with pytest.raises(TypeError):
        client.send(5)


def test_the_send_buffer_has_a_limit_and_on_drain_tells_of_room():
    release, events = threading.Event(), []

    def script(peer):
        peer.accept()
        release.wait(PATIENCE)
        while not isinstance(peer.recv_message(), str):
            pass
        peer.close()

    def on_open(client):
        try:
            while True:
                client.send(bytes(100000))
        except SendBufferFull:
            events.append(client.buffered_amount)
            release.set()

    def on_drain(client):
        events.append("drained")
        client.send("end")

    with scripted_server(script) as server:
        client = Client(
            server.url,
            max_send_buffer=1 << 23,
            on_open=on_open,
            on_drain=on_drain,
            policy=Backoff(after_normal_close=False),
        )
        client.run_forever()
    assert 8000000 < events[0] <= 1 << 23 and events[1:] == ["drained"]


def test_threads_send_and_close(server):
    got = []

    def on_message(client, message):
        got.append(message)

    opened = threading.Event()
    client = Client(server.url, on_message=on_message, on_open=lambda client: opened.set())

    def work():
        assert opened.wait(PATIENCE)
        for number in range(500):
            client.send(str(number))
        while len(got) < 500:
            time.sleep(0.001)
        client.close()

    thread = threading.Thread(target=work)
    thread.start()
    client.run_forever()
    thread.join()
    assert got == [str(number) for number in range(500)]


def test_pause_stops_messages_in_the_middle_of_a_batch(server):
    got, counts = [], []

    def on_open(client):
        for number in range(20):
            client.send(str(number))

    def on_message(client, message):
        got.append(message)
        if len(got) == 5:
            client.pause()
            client.loop.call_later(0.05, lambda: counts.append(len(got)) or client.resume())
        if len(got) == 20:
            client.close()

    Client(server.url, on_open=on_open, on_message=on_message).run_forever()
    assert counts == [5] and got == [str(number) for number in range(20)]


# -- TLS: what the socket doesn't show --


@pytest.fixture
def tls():
    """The context of the server, and the options of the client."""
    pytest.importorskip("ssl")
    from certificates import client_context, server_context

    return server_context(), {"ssl": client_context()}


def test_large_messages_go_both_ways_over_tls(tls):
    sent = [os.urandom(5 << 20), b"", b"small", os.urandom(300000)]
    got, codes = [], []

    def on_open(client):
        for message in sent:
            client.send(message)

    def on_message(client, message):
        got.append(message)
        if len(got) == len(sent):
            client.close()

    with echo_server(ssl=tls[0]) as server:
        client = Client(
            server.url, on_open=on_open, on_message=on_message, max_size=None, **tls[1],
            on_close=lambda client, code, reason: codes.append(code),
        )  # fmt: skip
        assert client.run_forever() == 0
    assert got == sent and codes == [1000]


@pytest.mark.parametrize("paused", [False, True])
def test_all_messages_of_a_record_are_delivered_though_nothing_follows(tls, paused):
    """They are out of the socket, which isn't readable any more."""
    got = []

    def script(peer):
        peer.accept()
        peer.send_raw(b"".join(frame(1, b"%d" % number) for number in range(2000)))
        assert peer.recv_message() == "all"

    def on_message(client, message):
        got.append(message)
        if paused and len(got) % 500 == 7:
            client.pause()
            client.loop.call_later(0.001, client.resume)
        if len(got) == 2000:
            client.send("all")

    with scripted_server(script, ssl=tls[0]) as server:
        client = Client(server.url, on_message=on_message, reconnect=NoReconnect(), **tls[1])
        client.on_error = lambda client, exc: None  # it leaves without a Close frame
        client.run_forever()
    assert got == [str(number) for number in range(2000)]


def test_a_flood_over_tls_is_delivered_in_order(tls):
    flood, got = [str(number) * 50 for number in range(5000)], []

    def on_message(client, message):
        got.append(message)
        if len(got) == len(flood):
            client.close()

    with fault_server(messages=flood, ssl=tls[0]) as server:
        assert Client(server.url, on_message=on_message, **tls[1]).run_forever() == 0
    assert got == flood


@pytest.mark.parametrize("fault", [Cut(after=100), Reset(after=100)])
def test_a_connection_over_tls_that_is_cut_is_opened_again(tls, fault):
    events = []

    def on_message(client, message):
        if "close" in events:
            client.close()

    with fault_server(fault, messages=["x" * 60] * 2, ssl=tls[0]) as server:
        Client(
            server.url, reconnect=Fixed(0), on_message=on_message,
            on_open=lambda client: events.append("open"),
            on_close=lambda client, code, reason: events.extend(["close", code]), **tls[1],
        ).run_forever()  # fmt: skip
    assert events == ["open", "close", 1006, "open", "close", 1000]


# -- a simulation: the clock and the network are those of the test --


class Network:
    """Servers that are the other ends of socket pairs, on the client's loop."""

    def __init__(self, loop, rng):
        self.loop, self.rng, self.ends = loop, rng, []

    def steps(self):
        if self.rng.random() < 0.3:
            raise ConnectionRefusedError(111, "simulated")
        ours, theirs = socket.socketpair()
        self.ends.append(theirs)
        for delay, action in self.plan():
            self.loop.call_later(delay, self.act, theirs, action)
        return fakes.opened(SocketStream(ours))
        yield

    def plan(self):
        for _ in range(self.rng.randrange(4)):
            yield (
                self.rng.random() * 40,
                self.rng.choice([frame(1, b"hi"), frame(9, b"p"), b"\x83"]),
            )
        yield self.rng.random() * 60, self.rng.choice([frame(8, b"\x03\xe9"), frame(8, b""), None])

    def act(self, sock, action):
        try:
            if action is None:
                sock.close()
            else:
                sock.send(action)
        except OSError:
            pass  # the client has left

    def close(self):
        for end in self.ends:
            end.close()


class Simulated(Client):
    network = None

    def _steps(self):
        return self.network.steps()


def test_there_is_one_on_close_for_each_connection_in_300_random_schedules():
    for number in range(300):
        rng = random.Random(SEED + number)
        simulate(rng)


def simulate(rng):
    clock, events = fakes.Clock(), []
    with Loop(clock=clock, wall=clock.wall, selector=fakes.Selector(clock)) as loop:
        client = Simulated("ws://localhost", reconnect=Fixed(rng.random() * 10), outbox=2)
        client.network = Network(loop, rng)
        client.on_open = lambda client: events.append("open")
        client.on_close = lambda client, code, reason: events.append("close")
        client.on_error = lambda client, exc: events.append(exc)
        client.start(loop)
        end = rng.choice([client.close, client.stop])
        loop.call_later(rng.random() * 200, end)
        if rng.random() < 0.3:
            loop.call_later(rng.random() * 100, client.pause)
        while client._running:
            loop.run_once()
        client.network.close()
    opened = [event for event in events if event in ("open", "close")]
    assert opened == ["open", "close"] * (len(opened) // 2)
    assert client.state is State.CLOSED and client._connection is None
    assert all(isinstance(event, (str, ConnectionClosed)) for event in events), events


# -- sleep, and callbacks that are too slow --


def test_sleep_ends_a_delay():
    clock = fakes.Clock()
    with Loop(clock=clock, wall=clock.wall, selector=fakes.Selector(clock)) as loop:
        client = Simulated("ws://localhost", reconnect=Fixed(1000))
        client.network = Network(loop, random.Random(0))
        client.network.rng.random = lambda: 0.0  # refused
        attempts = []
        client.on_reconnect = lambda client, attempt, delay, exc: attempts.append(attempt)
        client.start(loop)
        while client.state is not State.WAITING:
            loop.run_once()
        assert client.state is State.WAITING and attempts == [1]
        before = clock.now
        clock.sleep(3600)
        for _ in range(3):
            loop.run_once(1)
        assert attempts == [1, 2] and clock.now <= before + 3
        client.close()
        loop.run_once(0)
        assert client.state is State.CLOSED


def test_sleep_makes_an_open_connection_probe_the_peer():
    clock, codes = fakes.Clock(), []
    with Loop(clock=clock, wall=clock.wall, selector=fakes.Selector(clock)) as loop:
        ours, theirs = socket.socketpair()
        client = Client("ws://localhost", reconnect=NoReconnect(), ping_interval=1000)
        client.on_close = lambda client, code, reason: codes.append((code, clock.now))
        client.on_error = lambda client, exc: None
        client._steps = lambda: opening(ours)
        client.start(loop)
        while client.state is not State.OPEN:
            loop.run_once()
        before = clock.now
        clock.sleep(3600)
        while client._running:
            loop.run_once(1)
        assert theirs.recv(100)[0] == 0x89  # a ping, and nobody answers
        theirs.close()
    assert codes == [(1006, pytest.approx(before + 20, abs=2))]


def test_a_client_may_start_while_the_others_are_told_of_sleep():
    class Starting(Loop):
        def call_soon(self, callback, *args):
            if getattr(callback, "__name__", "") == "_wake":
                self._clients[Client("ws://localhost")] = None  # as another thread's start()
            return super().call_soon(callback, *args)

    clock = fakes.Clock()
    with Starting(clock=clock, wall=clock.wall, selector=fakes.Selector(clock)) as loop:
        client = Client("ws://localhost", reconnect=Fixed(1000))
        loop._clients[client] = None
        clock.sleep(3600)
        loop.run_once(0)
        assert len(loop._clients) > 1
        loop._clients.clear()


def opening(sock):
    return fakes.opened(SocketStream(sock))
    yield


# -- start(), from another thread --


def test_the_loop_may_begin_before_start_has_returned():
    class Quick(Loop):
        def call_soon_threadsafe(self, callback, *args):
            callback(*args)

    with Quick() as loop:
        client = Client("ws://localhost", reconnect=NoReconnect(), proxy=None)
        client.start(loop)
        assert client._waits is not None
        client.close()
        loop.run_until_done()


def test_a_start_that_fails_leaves_the_client_as_it_was():
    class Interrupted(Loop):
        def call_soon_threadsafe(self, callback, *args):
            raise KeyboardInterrupt

    client = Client("ws://localhost", reconnect=NoReconnect(), proxy=None)
    with Interrupted() as loop:
        with pytest.raises(KeyboardInterrupt):
            client.start(loop)
        assert not loop._clients
    with Loop() as loop:
        client.start(loop)
        client.close()
        loop.run_until_done()


def test_a_callback_that_outlasts_the_keepalive_is_logged_once(server):
    lines, clock = [], fakes.Clock()

    class Logger:
        def debug(self, *args):
            pass

        def warning(self, text, *args):
            lines.append(text % args)

    def on_message(client, message):
        clock.now += 10.1
        client.close() if message == "2" else client.send("2")

    client = Client(
        server.url, on_open=lambda client: client.send("1"), on_message=on_message,
        ping_interval=100, ping_timeout=10, logger=Logger(),
    )  # fmt: skip
    with Loop(clock=clock, wall=clock.wall) as loop:
        client.start(loop)
        while client._running:
            loop.run_once(PATIENCE)
    assert len(lines) == 1 and lines[0].startswith("on_message of ws://")


def test_no_reconnect_ends_after_the_first_connection():
    def drop(peer):
        peer.accept()
        peer.close(1001)

    with scripted_server(drop) as server:
        with pytest.raises(ConnectionClosedOK):
            Client(server.url, policy=NoReconnect()).run_forever()
    with pytest.raises(TypeError, match="Backoff"):
        Client(server.url, reconnect=NoReconnect)
    with pytest.raises(TypeError, match="the same"):
        Client(server.url, reconnect=NoReconnect(), policy=NoReconnect())


def test_a_servers_normal_close_ends_the_run_where_the_policy_says_so():
    with fault_server(then=CloseWith(1000)) as server:
        policy = Fixed(0, after_normal_close=False)
        assert Client(server.url, reconnect=policy).run_forever() == 0


def test_a_client_runs_where_signals_can_not_be_set(server, monkeypatch):
    def refuse(*args, **options):
        raise ValueError("set_wakeup_fd only works in main thread of the main interpreter")

    monkeypatch.setattr(signal, "set_wakeup_fd", refuse)
    before = signal.getsignal(signal.SIGTERM)
    client = Client(server.url, on_open=lambda client: client.close())
    assert client.run_forever() == 0
    assert signal.getsignal(signal.SIGTERM) is before


def test_tls_can_be_looked_into_while_a_connection_is_open(tls):
    facts = []

    def on_open(client):
        facts.append(client.ssl_object.getpeercert()["subjectAltName"])
        client.close()

    def on_close(client, code, reason):
        facts.append(client.ssl_object)

    with echo_server(ssl=tls[0]) as server:
        client = Client(server.url, on_open=on_open, on_close=on_close, **tls[1])
        assert client.ssl_object is None
        client.run_forever()
    assert ("DNS", "localhost") in facts[0]
    assert facts[1:] == [None]


def serving_tokens(statuses, sent):
    """A server that answers with *statuses*; *sent*: a list for the tokens that it sees."""

    def script(peer):
        sent.append(peer.request().headers["Authorization"])
        status = statuses.pop(0)
        if status != 101:
            peer.respond(status)
            return
        peer.accept()
        peer.close(1012 if statuses else 1000)

    return scripted_server(script)


def test_each_attempt_has_a_token_of_its_own():
    threads, sent = [], []

    def headers():
        threads.append(threading.get_ident())
        return {"Authorization": str(len(threads))}

    with serving_tokens([101, 503, 101], sent) as server:
        policy = Fixed(0, after_normal_close=False)
        client = Client(server.url, additional_headers=headers, reconnect=policy)
        assert client.run_forever() == 0
    assert sent == ["1", "2", "3"]
    assert set(threads) == {threading.get_ident()}


def test_a_token_that_can_not_be_had_is_a_failure_like_others():
    answers = [OSError("the token server is down"), {"Authorization": "a"}, LookupError("no more")]
    delays, sent = [], []

    def headers():
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    with serving_tokens([101, 101], sent) as server:
        client = Client(
            server.url, additional_headers=headers, reconnect=Fixed(0),
            on_reconnect=lambda client, attempt, delay, exc: delays.append(type(exc).__name__),
        )  # fmt: skip
        with pytest.raises(LookupError, match="no more"):
            client.run_forever()
    assert delays == ["OSError", "ConnectionClosedError"]
    assert sent == ["a"]
    assert client.state is State.CLOSED


class Watched(Client):
    """Notes what other threads may see: after each attribute that changes."""

    def __init__(self, *args, **options):
        self.seen = []
        super().__init__(*args, **options)

    def __setattr__(self, name, value):
        super().__setattr__(name, value)
        if name != "seen" and "_connection" in self.__dict__:
            self.seen.append((self.state, self._connection is not None))


def test_other_threads_see_the_states_in_their_order():
    ours, theirs = socket.socketpair()
    with Loop() as loop:
        client = Watched("ws://localhost/", reconnect=NoReconnect(), on_error=lambda *_: None)
        client._steps = lambda: opening(ours)
        client.start(loop)
        while client.state is not State.OPEN:
            loop.run_once(0)
        theirs.close()
        while client._running:
            loop.run_once(0)
    assert all(has_connection for state, has_connection in client.seen if state is State.OPEN)
    states = [state for state, _ in client.seen]
    in_order = [state for i, state in enumerate(states) if states[i - 1 : i] != [state]]
    assert in_order == [
        State.CLOSED, State.CONNECTING, State.OPEN, State.CLOSING, State.CLOSED,
    ]  # fmt: skip


def test_another_thread_may_start_a_client_once_it_has_ended():
    """And not before its loop has forgotten it: ``run_until_done()`` would not wait for it."""

    class Clients(dict):
        def pop(self, *args):
            tried.append(client._running)
            return super().pop(*args)

    tried = []
    with Loop() as loop:
        loop._clients = Clients()
        client = Client("ws://localhost/", reconnect=NoReconnect(), on_error=lambda *_: None)
        client.start(loop)
        client.close()
        while client._running:
            loop.run_once(0)
    assert tried == [True]


@pytest.mark.parametrize("kind", ["waiting", "connecting", "open"])
def test_a_client_whose_loop_was_closed_may_be_started_on_another(kind):
    streams, peers = [], []

    def steps():
        if kind == "waiting" and not tried:
            tried.append(kind)
            raise ConnectionRefusedError(ECONNREFUSED, "refused")
        tried.append(kind)
        ours, theirs = socket.socketpair()
        streams.append(SocketStream(ours))
        peers.append(theirs)
        try:
            if kind == "connecting" and len(tried) == 1:
                yield Wait({}, None)
            return fakes.opened(streams[-1])
        except GeneratorExit:
            ours.close()
            raise

    tried = []
    client = Client("ws://localhost/", reconnect=Fixed(100))
    client._steps = steps
    with Loop() as loop:
        client.start(loop)
        while not tried or client.state.name.lower() != kind:
            loop.run_once(0)
        if kind == "open":
            client.send("written")
            while client.buffered_amount:
                loop.run_once(0)
            client.send("never given")
    client.close()
    with Loop() as loop:
        client.start(loop)
        assert client.state is State.CONNECTING
        assert client.unsent == (["never given"] if kind == "open" else [])
        while client.state is not State.OPEN:
            loop.run_once(0)
        assert all(stream.sock.fileno() == -1 for stream in streams[:-1])
        client.close()
        for peer in peers:
            peer.close()
        while client._running:
            loop.run_once(0)
    assert streams[-1].sock.fileno() == -1
