"""Signal handlers that close, and signals that raise, in whatever the connection is doing."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time

import pytest
from certificates import client_context, server_context
from helpers import PATIENCE, PROMPT, ROOT, SEED
from pairs import Task, eventually, fill, is_locked, is_receiving, pair

from wsmini.blocking import reader, receiver, sender, transport
from wsmini.blocking.connection import connect
from wsmini.exceptions import (
    ConcurrencyError,
    ConnectionClosed,
    ConnectionClosedError,
    ConnectionClosedOK,
)
from wsmini.opening import streams
from wsmini.sansio.frames import Opcode
from wsmini.sansio.protocol import ClientProtocol, State
from wsmini.testing import echo_server, frame

TEXT, CLOSE, PONG = Opcode.TEXT, Opcode.CLOSE, Opcode.PONG

pytestmark = pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="needs pthread_kill")


class handler:
    """Call *function* in the main thread at a signal, which ``send()`` sends when it's time."""

    def __init__(self, function):
        self._function = function

    def __enter__(self):
        self._previous = signal.signal(signal.SIGUSR1, lambda *args: self._function())
        return self

    def __exit__(self, *exc_info):
        signal.signal(signal.SIGUSR1, self._previous)

    def send(self, ready=lambda: True, delay=0.02):
        """From another thread: when *ready*, and a moment later, so that it is in the system."""
        main = threading.main_thread().ident

        def kill():
            eventually(ready)
            time.sleep(delay)
            signal.pthread_kill(main, signal.SIGUSR1)

        return Task(kill)


def answer_close(peer):
    """Read up to the client's Close and answer it; its code."""
    while True:
        received = peer.recv_frame()
        if received.opcode == CLOSE:
            peer.send_raw(frame(CLOSE, received.data))
            peer.sock.close()
            return int.from_bytes(received.data[:2], "big")


WAYS = {
    "blocking": {},
    "no keepalive": {"ping_interval": None},
    "short keepalive": {"ping_interval": 0.03, "ping_timeout": 60},
    "busy poll": {"busy_poll": 0.001},
}
RECEIVING = {
    "recv": lambda ws: ws.recv(),
    "recv with a timeout": lambda ws: ws.recv(timeout=PATIENCE),
    "iteration": lambda ws: next(iter(ws)),
    "streaming": lambda ws: next(ws.recv_streaming()),
    "waiting for a pong": lambda ws: ws.ping().wait(PATIENCE),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("receive", RECEIVING.values(), ids=RECEIVING)
def test_a_handler_that_closes_ends_what_it_has_interrupted(receive, way):
    with pair(**way) as (ws, peer), handler(lambda: ws.close(1001, "SIGTERM")) as signals:
        answering = Task(answer_close, peer)
        sent = signals.send(is_receiving(ws))
        with pytest.raises((ConnectionClosedOK, StopIteration)):
            receive(ws)
        assert answering.result() == 1001
        sent.result()
        eventually(lambda: ws.state is State.CLOSED)
        assert ws.close_code == 1001


def test_a_handler_that_closes_ends_an_iteration_cleanly():
    with pair() as (ws, peer), handler(lambda: ws.close()) as signals:
        peer.send_message("a")
        answering = Task(answer_close, peer)
        received = []
        for message in ws:
            received.append(message)
            sent = signals.send(is_receiving(ws))
        assert received == ["a"]
        assert answering.result() == 1000
        sent.result()


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_server_that_does_not_answer_is_left_in_time(way):
    with pair(close_timeout=0.3, **way) as (ws, _), handler(lambda: ws.close()) as signals:
        sent = signals.send(is_receiving(ws))
        started = time.monotonic()
        with pytest.raises(ConnectionClosedError):
            ws.recv()
        assert time.monotonic() - started < PROMPT
        sent.result()


@pytest.mark.parametrize("timeout", [None, PATIENCE])
def test_a_handler_that_closes_ends_a_blocked_send(timeout):
    with pair(close_timeout=0.3) as (ws, _), handler(lambda: ws.close()) as signals:
        fill(ws)
        sent = signals.send(is_locked(ws._transport.sending))
        with pytest.raises(ConnectionClosed):
            ws.send(bytes(1 << 24), timeout=timeout)
        sent.result()
        eventually(lambda: ws.fileno() == -1)


def test_a_handler_may_close_what_is_being_closed():
    with pair() as (ws, peer), handler(lambda: ws.close(1001)) as signals:
        closing_by_us = threading.Event()

        def answer():
            received = peer.recv_frame()
            closing_by_us.set()
            signals.send(is_receiving(ws)).result()
            peer.send_raw(frame(CLOSE, received.data))
            peer.sock.close()
            return received.data

        answering = Task(answer)
        ws.close(1000)
        assert answering.result()[:2] == b"\x03\xe8"
        assert ws.close_code == 1000


@pytest.mark.parametrize(
    "method", ["receive_message", "receive_data", "next_messages", "encode_message"]
)
def test_a_handler_may_close_wherever_the_thread_is(method, monkeypatch):
    """Also while it holds a lock: the mutex, the receiver's, the writer's."""
    with pair() as (ws, peer), handler(lambda: ws.close(1001)):
        call = getattr(ClientProtocol, method)

        def interrupted(*args):
            monkeypatch.undo()
            signal.raise_signal(signal.SIGUSR1)
            return call(*args)

        monkeypatch.setattr(ClientProtocol, method, interrupted)
        if method == "encode_message":
            ws.send("x")
            assert peer.recv_message() == "x"
        else:
            more = b"" if method == "receive_message" else frame(PONG, b"!")
            peer.send_raw(more + frame(TEXT, b"x"))
            assert ws.recv() == "x"
        answering = Task(answer_close, peer)
        with pytest.raises(ConnectionClosedOK):
            ws.recv()
        assert answering.result() == 1001


MISUSES = {
    "a close code that can't be sent": (lambda ws: ws.close(42), ValueError),
    "receiving while its thread receives": (lambda ws: ws.recv(), ConcurrencyError),
}


@pytest.mark.parametrize("misuse, error", MISUSES.values(), ids=MISUSES)
def test_what_a_handler_may_not_do_is_told_in_the_handler(misuse, error):
    with pair() as (ws, peer):
        errors = []

        def misusing():
            try:
                misuse(ws)
            except error as exc:
                errors.append(exc)
            peer.send_message("go on")

        with handler(misusing) as signals:
            sent = signals.send(is_receiving(ws))
            assert ws.recv() == "go on"
            sent.result()
        assert len(errors) == 1


def test_a_handler_that_sends_while_its_thread_sends_is_served_behind_it():
    with pair() as (ws, peer), handler(lambda: ws.send("from the handler")) as signals:
        count = fill(ws)
        sent = signals.send(is_locked(ws._transport.sending))
        reading = Task(lambda: sent.join() or [peer.recv_frame() for _ in range(count + 2)])
        ws.send(bytes(1 << 20))
        sent.result()
        assert [f.data for f in reading.result()[-2:]] == [bytes(1 << 20), b"from the handler"]


def test_a_handler_may_send_while_the_thread_receives():
    with pair() as (ws, peer), handler(lambda: ws.send("from the handler")) as signals:
        sent = signals.send(is_receiving(ws))
        echoing = Task(lambda: peer.send_message(peer.recv_message()))
        assert ws.recv() == "from the handler"
        echoing.result()
        sent.result()


class Left(Exception):
    pass


def leave():
    raise Left


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("receive", RECEIVING.values(), ids=RECEIVING)
def test_an_exception_of_a_handler_leaves_the_connection_usable(receive, way):
    with pair(**way) as (ws, peer), handler(leave) as signals:
        sent = signals.send(is_receiving(ws))
        with pytest.raises(Left):
            receive(ws)
        sent.result()
        peer.send_message("x")
        assert ws.recv(timeout=PATIENCE) == "x"
        ws.send("y")
        while True:
            received = peer.recv_frame()
            if received.opcode == TEXT:
                break
        assert received.data == b"y"


# Python itself drops what a handler raises in a finalizer or the callback of a weak reference.
@pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs setitimer")
@pytest.mark.parametrize("secure", [False, True], ids=["ws", "wss"])
def test_signals_at_random_times_lose_no_message_unless_the_connection_is_closed(secure):
    """What is received has no gap but where an exception passed, and nothing hangs."""
    rng = random.Random(SEED)
    counts = {"usable": 0, "closed": 0}
    options, context = {}, None
    if secure:
        context = server_context()
        options["ssl"] = client_context()
    with echo_server(ssl=context) as server:
        for _ in range(30):
            with connect(server.url, compression=None, close_timeout=1, **options) as ws:
                flood(ws, rng, counts)
    # How many of each depends on how busy the machine is; other tests say which are usable.
    assert counts["usable"] + counts["closed"] == 30


def flood(ws, rng, counts):
    """Echo numbers while signals raise; say how it went."""
    sent, expected = 0, 0
    armed = []
    previous = signal.signal(signal.SIGALRM, lambda *args: armed and leave())
    try:
        for _ in range(2):
            number = None
            try:
                armed.append(True)
                # Again, if Python drops the exception, as it does in finalizers.
                signal.setitimer(signal.ITIMER_REAL, rng.uniform(0.0002, 0.003), 0.05)
                while True:
                    text = str(sent)
                    sent += 1  # before it: who knows whether it goes out then
                    ws.send(text)
                    number = None
                    number = int(ws.recv(timeout=PATIENCE))
                    assert number >= expected
                    expected = number + 1
            except Left:
                pass
            finally:
                armed.clear()
                signal.setitimer(signal.ITIMER_REAL, 0)
        check_the_rest(ws, expected, sent)
    except ConnectionClosed:
        counts["closed"] += 1
    else:
        counts["usable"] += 1
    finally:
        signal.signal(signal.SIGALRM, previous)


def check_the_rest(ws, expected, sent):
    """The numbers behind it come in order, up to one that is sent now."""
    ws.send("last")
    missing = 0
    while True:
        message = ws.recv(timeout=PATIENCE)
        if message == "last":
            break
        assert expected <= int(message) < sent
        missing += int(message) - expected
        expected = int(message) + 1
    # At most one for each signal: the one that was just being sent or returned.
    assert missing <= 2


def test_an_interrupt_between_reading_and_delivering_closes(monkeypatch):
    with pair() as (ws, peer):
        peer.send_raw(frame(TEXT, "a") + frame(TEXT, "b"))
        with monkeypatch.context() as patch:
            patch.setattr(ClientProtocol, "receive_data", lambda *args: leave())
            with pytest.raises(Left):
                ws.recv()
        with pytest.raises(ConnectionClosedError) as caught:
            ws.recv()
        assert isinstance(caught.value.__cause__, InterruptedError)


def test_sigterm_recipe_in_a_real_process(tmp_path):
    program = tmp_path / "client.py"
    program.write_text(
        "import signal, sys, wsmini\n"
        "with wsmini.connect(sys.argv[1]) as ws:\n"
        "    signal.signal(signal.SIGTERM, lambda *args: ws.close(1001))\n"
        "    ws.send('ready')\n"
        "    for message in ws:\n"
        "        print(message, flush=True)\n"
        "print('bye', ws.close_code, flush=True)\n"
    )
    with echo_server() as server:
        process = subprocess.Popen(
            [sys.executable, str(program), server.url],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        with process:
            assert process.stdout.readline() == b"ready\n"
            started = time.monotonic()
            process.terminate()
            assert process.stdout.read() == b"bye 1001\n"
            assert process.wait(PATIENCE) == 0
            assert time.monotonic() - started < PROMPT


@pytest.mark.parametrize("interval", [None, 20])
@pytest.mark.parametrize("what", ["recv", "recv with a timeout", "send", "pong"])
def test_a_signal_that_interrupts_no_system_call_is_heeded_soon(interval, what, monkeypatch):
    """As one that comes just before the call, or, here, to another thread."""
    for module in (streams, reader, receiver, sender, transport):
        monkeypatch.setattr(module, "HEED", 0.05)

    def heed(*args):
        raise Left

    before = signal.signal(signal.SIGUSR1, heed)
    try:
        with pair(ping_interval=interval, close_timeout=0.3) as (ws, _):
            if what == "send":
                fill(ws)
            calls = {
                "recv": ws.recv,
                "recv with a timeout": lambda: ws.recv(PATIENCE),
                "send": lambda: ws.send(bytes(1 << 24)),
                "pong": lambda: ws.ping().wait(),
            }
            busy = ws._transport.sending if what == "send" else ws._transport.receiving

            def interrupt():
                eventually(is_locked(busy))
                signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)

            other = Task(interrupt)
            with pytest.raises(Left):
                calls[what]()
            other.result()
    finally:
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="handlers may run between any two bytecodes")
def test_a_message_that_is_handed_out_is_lost_only_with_the_connection():
    """A signal in one of the last steps of recv(): the next call must not go on behind a gap."""
    ends = {"kept": 0, "closed": 0}
    for step in range(200):
        with pair(ping_interval=None, close_timeout=0.2) as (ws, peer):
            peer.send_raw(frame(TEXT, b"first"))
            got = interrupted_at(step, ws.recv)
            if got == "first":
                break
            with contextlib.suppress(OSError):
                peer.send_raw(frame(TEXT, b"second"))
            try:
                assert ws.recv() == "first", step
                ends["kept"] += 1
            except ConnectionClosed:
                ends["closed"] += 1
    assert got == "first" and ends["kept"] > 3 and ends["closed"] > 3


def interrupted_at(step, function):
    """Call *function*, and raise behind its *step*th call of anything; what it returns if at all.

    Python looks for signals there, when a call begins or has returned to Python code.
    """
    count = 0

    def profile(frame, event, argument):
        nonlocal count
        if event in ("call", "c_return") and "wsmini" in frame.f_code.co_filename:
            count += 1
            if count == step + 1:
                sys.setprofile(None)
                raise Left

    sys.setprofile(profile)
    try:
        return function()
    except Left:
        return None
    finally:
        sys.setprofile(None)
