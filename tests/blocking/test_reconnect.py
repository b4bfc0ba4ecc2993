"""The loop over connections: who closes what, when it ends, and that waiting can be ended."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
import time

import pytest
from helpers import COUNTS_REFERENCES, PATIENCE

import wsmini
from wsmini.opening import steps
from wsmini.testing import echo_server, scripted_server

NOW = wsmini.Fixed(0)


class Server:
    """One of *acts* for each connection; what clients closed with is in ``closes``."""

    def __init__(self, *acts):
        self.acts = list(acts)
        self.closes = []

    def __call__(self, peer):
        act = self.acts.pop(0) if self.acts else (404, ())  # which ends a loop
        if act != "drop":
            peer.request()
        if isinstance(act, tuple):
            status, headers = act
            peer.respond(status, headers=headers)
        elif act != "drop":
            peer.accept()
            if isinstance(act, int):
                self.closes.append(peer.close(act).code)
            else:
                peer.send_message("hello")
                try:
                    peer.recv_message()
                except wsmini.ConnectionClosed as exc:
                    self.closes.append(exc.code)


@contextlib.contextmanager
def serving(*acts):
    script = Server(*acts)
    with scripted_server(script) as server:
        script.url = server.url
        yield script
    assert script.acts == []


def loop(server, policy=NOW, **options):
    return wsmini.reconnect(server.url, policy=policy, **options)


def test_the_next_connection_comes_when_one_is_lost():
    seen = []
    with serving("drop", 1001, 1012, (503, ()), "stay") as server:
        for ws in loop(server, on_reconnect=lambda *args: seen.append(args)):
            for _ in range(2):
                with contextlib.suppress(wsmini.ConnectionClosed):
                    if ws.recv() == "hello":
                        ws.close()
    assert sorted(server.closes) == [1000, 1001, 1012]  # told of by threads of their own
    assert [attempt for attempt, _, _ in seen] == [2, 1, 1, 2]
    assert [type(failure).__name__ for _, _, failure in seen] == [
        "InvalidMessage", "ConnectionClosedOK", "ConnectionClosedError", "InvalidStatus",
    ]  # fmt: skip


def test_a_normal_close_of_the_server_ends_it_only_where_the_policy_says_so():
    with serving(1000, 1000, "stay") as server:
        for number, ws in enumerate(loop(server), 1):
            if number < 3:
                assert list(ws) == []
            else:
                ws.close()
    with serving(1000) as server:
        policy = wsmini.Fixed(0, after_normal_close=False)
        assert [list(ws) for ws in loop(server, policy)] == [[]]


@pytest.mark.parametrize("act", [1000, 1012])
def test_a_close_is_remembered_whoever_was_first(act):
    with serving(act) as server:
        for ws in loop(server):
            with contextlib.suppress(wsmini.ConnectionClosed):
                ws.recv()
            ws.close()


@pytest.mark.parametrize("code", [1000, 1001, 4000])
def test_the_programs_own_close_ends_it(code):
    with serving("stay") as server:
        for ws in loop(server):
            ws.close(code)
    assert server.closes == [code]


def test_an_open_connection_that_the_body_leaves_is_closed_and_another_one_made():
    with serving("stay", "stay", "stay") as server:
        for number, ws in enumerate(loop(server), 1):
            assert ws.recv() == "hello"
            if number == 3:
                ws.close()
    assert server.closes == [1000, 1000, 1000]


@pytest.mark.parametrize("inner", [True, False], ids=["with", "body"])
def test_leaving_an_open_connection_goes_on_after_the_first_delay(inner):
    delays = []
    policy = wsmini.Backoff(initial=0.001, jitter=None, attempts=2)
    with serving(*["stay"] * 5) as server:
        for number, ws in enumerate(
            loop(server, policy, on_reconnect=lambda *args: delays.append(args[1])), 1
        ):
            if number == 5:
                ws.close()
            elif inner:
                with ws:
                    assert ws.recv() == "hello"
    assert delays == [0.001] * 4


def test_leaving_a_connection_that_is_not_to_be_replaced_ends_it():
    with serving("stay") as server:
        assert [ws.recv() for ws in loop(server, wsmini.NoReconnect())] == ["hello"]


left_at_once = pytest.mark.skipif(
    not COUNTS_REFERENCES, reason="an iterator that was left isn't closed at once"
)


@left_at_once
def test_break_closes_the_connection():
    with serving("stay") as server:
        for _ in loop(server):
            break
    assert server.closes == [1001]


@left_at_once
def test_an_exception_in_the_body_closes_the_connection():
    def body():
        for _ in loop(server):
            raise ZeroDivisionError

    with serving("stay", "stay") as server:
        with pytest.raises(ZeroDivisionError):
            body()
        with pytest.raises(ZeroDivisionError):
            body()
    assert server.closes == [1001, 1001]


def test_an_iterator_that_is_kept_closes_the_connection_by_its_close():
    with serving("stay") as server, contextlib.closing(loop(server)) as connections:
        ws = next(connections)
    assert ws.state is wsmini.State.CLOSED
    assert server.closes == [1001]


def test_what_is_not_retryable_is_raised_with_the_attempts():
    with serving((503, ()), (404, ())) as server:
        with pytest.raises(wsmini.InvalidStatus) as caught:
            list(loop(server))
    assert caught.value.response.status_code == 404
    assert "after 2 failed attempts in a row" in caught.value.__notes__[0]


def test_the_last_failure_is_raised_when_there_were_too_many():
    with serving(1012, (503, ()), (502, ())) as server:
        with pytest.raises(wsmini.InvalidStatus) as caught:
            for ws in loop(server, wsmini.Fixed(0, attempts=2)):
                with contextlib.suppress(wsmini.ConnectionClosed):
                    ws.recv()
    assert caught.value.response.status_code == 502


def test_a_connection_that_is_not_to_be_replaced_raises_its_end():
    with serving(1001) as server:
        with pytest.raises(wsmini.ConnectionClosedOK) as caught:
            for ws in loop(server, wsmini.NoReconnect()):
                list(ws)
    assert caught.value.__notes__ == [
        "wsmini.reconnect() gave up after the connection ended, as NoReconnect() says"
    ]


def test_retry_after_is_waited_for():
    delays = []
    with serving((503, {"Retry-After": "0.05"}), "stay") as server:
        started = time.monotonic()
        for ws in loop(server, on_reconnect=lambda *args: delays.append(args[1])):
            ws.close()
        assert time.monotonic() - started >= 0.05
    assert delays == [0.05]


# -- ending the wait --


def test_stop_ends_the_wait():
    stop, waiting = threading.Event(), threading.Event()
    ended = []

    def run():
        for _ in loop(
            server, wsmini.Fixed(1000), stop=stop, on_reconnect=lambda *args: waiting.set()
        ):
            pass
        ended.append(True)

    with serving("drop") as server:
        thread = threading.Thread(target=run)
        thread.start()
        assert waiting.wait(PATIENCE)
        stop.set()
        thread.join(PATIENCE)
    assert ended


def test_once_stopped_there_is_no_other_connection():
    stop = threading.Event()
    with serving(1012) as server:
        for ws in loop(server, stop=stop):
            with pytest.raises(wsmini.ConnectionClosed):
                ws.recv()
            stop.set()
        assert list(loop(server, stop=stop)) == []


class Stopped(Exception):
    pass


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there are no timers")
@pytest.mark.parametrize("stop", [None, threading.Event()], ids=["sleep", "event"])
def test_an_exception_in_a_signal_handler_ends_the_wait(stop):
    def handler(*args):
        raise Stopped

    before = signal.signal(signal.SIGALRM, handler)
    try:
        with serving("drop") as server:
            with pytest.raises(Stopped):
                for _ in loop(
                    server,
                    wsmini.Fixed(1000),
                    stop=stop,
                    on_reconnect=lambda *args: signal.setitimer(signal.ITIMER_REAL, 0.05),
                ):
                    pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there are no timers")
def test_a_signal_handler_may_stop_it():
    stop = threading.Event()
    before = signal.signal(signal.SIGALRM, lambda *args: stop.set())
    try:
        with serving("drop") as server:
            for _ in loop(
                server,
                wsmini.Fixed(1000),
                stop=stop,
                on_reconnect=lambda *args: signal.setitimer(signal.ITIMER_REAL, 0.05),
            ):
                pass
        assert stop.is_set()
    finally:
        signal.signal(signal.SIGALRM, before)


# -- arguments --


def test_a_delay_is_kept_within_what_systems_can_wait():
    class Policy(wsmini.NoReconnect):
        answers = [-1.0, float("inf")]

        def next_delay(self, failure):
            return self.answers.pop(0)

    stop = threading.Event()
    with serving("drop", "drop") as server:
        timer = threading.Timer(0.1, stop.set)
        timer.start()
        assert list(loop(server, Policy(), stop=stop)) == []
        timer.join()


@pytest.mark.parametrize(
    "options, error, text",
    [
        ({"policy": wsmini.Backoff}, TypeError, "policy"),
        ({"reconnect": wsmini.NoReconnect}, TypeError, "policy"),
        ({"policy": NOW, "reconnect": NOW}, TypeError, "the same"),
        ({"stop": True}, TypeError, "stop"),
        ({"on_reconnect": 1}, TypeError, "on_reconnect"),
        ({"nonsense": 1}, TypeError, "nonsense"),
        ({"max_queue": 0}, ValueError, "max_queue"),
    ],
)
def test_arguments_are_checked_before_the_first_attempt(options, error, text):
    with pytest.raises(error, match=text):
        wsmini.reconnect("ws://127.0.0.1:1", **options)


def test_a_url_is_checked_before_the_first_attempt():
    with pytest.raises(wsmini.InvalidURI):
        wsmini.reconnect("http://127.0.0.1")


def test_one_socket_is_not_enough():
    with socket.socket() as sock, pytest.raises(ValueError, match="sock"):
        wsmini.reconnect("ws://127.0.0.1", sock=sock)


def test_failures_are_logged():
    class Logger:
        def __init__(self):
            self.lines = []

        def debug(self, *args):
            pass

        def info(self, text, *args):
            self.lines.append(text % args)

    logger = Logger()
    with serving("drop", "stay") as server:
        for ws in loop(server, logger=logger):
            ws.close()
    assert len(logger.lines) == 1
    assert logger.lines[0].startswith("connecting again in 0.0 s: connection closed")


def test_reconnecting_often_keeps_nothing():
    count = 60
    with serving(*[1012] * count, 1000) as server:
        before = threading.active_count()
        opened = 0
        for ws in loop(server, wsmini.Fixed(0, after_normal_close=False)):
            opened += 1
            with contextlib.suppress(wsmini.ConnectionClosed):
                ws.recv()
        assert opened == count + 1
        assert threading.active_count() <= before + 2


def test_each_attempt_has_a_token_of_its_own():
    tokens, sent = iter("abc"), []
    statuses = [101, 503, 101]

    def script(peer):
        sent.append(peer.request().headers["X-Token"])
        status = statuses.pop(0)
        if status != 101:
            peer.respond(status)
            return
        peer.accept()
        peer.close(1012 if statuses else 1000)

    def headers():
        return {"X-Token": next(tokens)}

    with scripted_server(script) as server:
        policy = wsmini.Fixed(0, after_normal_close=False)
        for ws in wsmini.reconnect(server.url, policy=policy, additional_headers=headers):
            with contextlib.suppress(wsmini.ConnectionClosed):
                ws.recv()
    assert sent == ["a", "b", "c"]


def test_a_signal_handlers_timeout_in_an_opening_leaves_the_loop(monkeypatch):
    errors = [error := TimeoutError("from the handler")]

    def wait(*args):
        raise errors.pop()

    monkeypatch.setattr(steps, "wait", wait)
    with echo_server() as server, pytest.raises(TimeoutError) as caught:
        next(wsmini.reconnect(server.url, policy=wsmini.Fixed(0)))
    assert caught.value is error
