"""The keeper: what happens to connections that nobody receives from."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import sys
import threading
import time
import weakref

import pytest
from helpers import PROMPT, watched
from pairs import PATIENCE, Task, closing, connection, eventually, feeding, fill, pair, receiving

from wsmini import clock as slept
from wsmini.blocking import (
    background,
    consumer,
    reader,
    receiver,
    sender,
    transport,
)
from wsmini.blocking.receiver import Receiver
from wsmini.exceptions import ConnectionClosedError, ConnectionClosedOK
from wsmini.opening.streams import SocketStream
from wsmini.sansio.frames import Opcode
from wsmini.sansio.protocol import ClientProtocol, State
from wsmini.testing import frame

TEXT, PING, PONG, CLOSE = Opcode.TEXT, Opcode.PING, Opcode.PONG, Opcode.CLOSE


@pytest.fixture(autouse=True)
def soon():
    """Connections are looked at, and the thread ends, without delay: each test has its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(background, "CHECK", 0.02)
        patch.setattr(background, "LINGER", 0.02)
        patch.setattr(background, "GRID", 1000)
        yield
        eventually(has_gone)


def keepers():
    return [thread for thread in threading.enumerate() if thread.name == "wsmini-background"]


def rouse():
    """Let it look at what has changed behind its back: a clock, or a connection that is over."""
    running = background._background
    if running is not None:
        running._rouse()


def has_gone():
    rouse()
    return not keepers()


def test_pings_are_answered_though_nobody_receives():
    with pair() as (ws, peer):
        for i in range(5):
            peer.send_frame(PING, b"%d" % i)
            pong = peer.recv_frame()
            assert (pong.opcode, pong.data) == (PONG, b"%d" % i)
        peer.send_message("x")
        assert ws.recv() == "x"


def test_an_application_that_is_away_stays_connected():
    # What a server does that pings and gives a client up that doesn't answer in time.
    with pair() as (ws, peer):
        peer.sock.settimeout(PROMPT)
        for i in range(20):
            peer.send_frame(PING, b"%d" % i)
            assert peer.recv_frame().data == b"%d" % i
        assert ws.state is State.OPEN


def test_the_keepalive_goes_on_and_the_round_trip_is_known():
    with pair(ping_interval=0.02, ping_timeout=PATIENCE) as (ws, peer):
        for _ in range(5):
            ping = peer.recv_frame()
            assert ping.opcode == PING
            peer.send_frame(PONG, ping.data)
        eventually(lambda: ws.latency > 0)


def test_a_dead_peer_is_found_though_nobody_receives():
    with pair(ping_interval=0.05, ping_timeout=0.05) as (ws, peer):
        started = time.monotonic()
        eventually(lambda: ws.state is State.CLOSED)
        assert time.monotonic() - started < PROMPT
        with pytest.raises(ConnectionClosedError) as caught:
            ws.recv()
        assert isinstance(caught.value.__cause__, TimeoutError)
        eventually(lambda: ws.fileno() == -1)  # which comes last


def test_messages_are_read_ahead_up_to_max_queue_and_the_rest_waits():
    with pair(max_queue=4) as (ws, peer):
        for i in range(12):
            eventually(lambda i=i: len(ws._receiver.queue) == min(i, 4))
            peer.send_message(str(i))
        assert [ws.recv() for _ in range(12)] == [str(i) for i in range(12)]


def test_what_waits_unread_is_a_sign_of_life(monkeypatch):
    beats, heard = [], ClientProtocol.heard
    monkeypatch.setattr(
        ClientProtocol, "heard", lambda self, now: (beats.append(now), heard(self, now))
    )
    ours, theirs = socket.socketpair()
    with theirs:
        data = b"".join(frame(TEXT, str(i) + " " * 100000) for i in range(12))
        task = feeding(theirs, data)  # before the keepalive begins
        options = {"max_queue": 4, "ping_interval": 0.02, "ping_timeout": 0.02}
        with contextlib.closing(connection(SocketStream(ours), **options)) as ws:
            # For several times as long as a dead peer would get.
            eventually(lambda: beats and beats[-1] - beats[0] > 0.2)
            assert ws.state is State.OPEN
            assert 4 <= len(ws._receiver.queue) < 12
            assert [int(ws.recv()) for _ in range(12)] == list(range(12))
            task.result()
            theirs.close()


def test_messages_received_before_a_close_are_delivered_after_it():
    with pair() as (ws, peer):
        peer.send_raw(frame(TEXT, "a") + frame(TEXT, "b") + closing(1001, "bye"))
        answer = peer.recv_frame()
        assert (answer.opcode, answer.data[:2]) == (CLOSE, b"\x03\xe9")
        peer.sock.close()
        eventually(lambda: ws.fileno() == -1)
        assert ws.state is State.CLOSED
        assert list(ws) == ["a", "b"]
        assert (ws.close_code, ws.close_reason) == (1001, "bye")


def test_a_server_that_does_not_end_tcp_is_left_in_time():
    with pair(close_timeout=0.1) as (ws, peer):
        peer.send_raw(closing(1000))
        eventually(lambda: ws.fileno() == -1)
        with pytest.raises(ConnectionClosedOK):
            ws.recv()


def test_it_helps_with_what_could_not_be_written():
    with pair() as (ws, peer):
        count = fill(ws)
        peer.send_frame(PING, b"!")
        frames = [peer.recv_frame() for _ in range(count + 1)]
        assert (frames[-1].opcode, frames[-1].data) == (PONG, b"!")


def test_it_gives_way_to_who_receives():
    with pair(ping_interval=0.05, ping_timeout=PATIENCE) as (ws, peer):
        for i in range(300):
            peer.send_message(str(i))
            assert ws.recv() == str(i)
        task = Task(ws.recv)
        receiving(ws)
        peer.send_message("x")
        assert task.result() == "x"


def test_one_thread_looks_after_all_and_ends_with_the_last():
    pairs = []
    try:
        for _ in range(50):
            ours, theirs = socket.socketpair()
            pairs.append((connection(SocketStream(ours)), theirs))
        assert len(keepers()) == 1
        assert watched(background) >= 50
    finally:
        for ws, theirs in pairs:
            theirs.close()
            ws.close()
    eventually(lambda: not keepers())
    assert watched(background) == 0
    with pair() as (ws, peer):  # and another one starts
        peer.send_frame(PING, b"!")
        assert peer.recv_frame().data == b"!"


def test_connections_one_after_the_other_have_the_same(monkeypatch):
    monkeypatch.setattr(background, "LINGER", PATIENCE)
    threads = set()
    for i in range(20):
        with pair():
            threads.update(keepers())
            if i == 19:
                monkeypatch.undo()
    assert len(threads) == 1
    eventually(lambda: not keepers())


def test_without_a_keepalive_there_is_none():
    eventually(lambda: not keepers())
    with pair(ping_interval=None):
        assert not keepers()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_connection_that_is_dropped_is_not_kept():
    ours, theirs = socket.socketpair()
    with theirs:
        ws = connection(SocketStream(ours))
        gone = weakref.ref(ws._receiver)
        del ours
        eventually(lambda: watched(background) == 1)
        del ws
        gc.collect()
        assert gone() is None
        theirs.settimeout(PATIENCE)
        assert theirs.recv(100) == b""


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_connection_that_is_dropped_while_its_queue_is_full_is_not_kept(monkeypatch):
    """The thread has found its socket ready before, and doesn't wait for it any more."""
    monkeypatch.setattr(background, "CHECK", 3600.0)
    ours, theirs = socket.socketpair()
    with theirs:
        ws = connection(SocketStream(ours), ping_interval=3600, max_queue=1)
        queue = ws._receiver.queue
        del ours
        rouse()  # for its first look, which is an hour away
        running = background._background
        running.watched[-1].at = 0.0
        rouse()
        eventually(lambda: running.watched[-1].events)
        theirs.sendall(frame(TEXT, "x"))
        eventually(lambda: len(queue))
        theirs.sendall(frame(TEXT, "y"))
        eventually(lambda: not running.watched[-1].events)
        time.sleep(0.01)  # the thread falls asleep
        del ws
        gc.collect()
        theirs.settimeout(PATIENCE)
        with contextlib.suppress(ConnectionResetError):  # as "y" is lost
            assert theirs.recv(100) == b""
    rouse()


def test_what_goes_wrong_with_one_connection_ends_that_and_no_other(monkeypatch):
    with pair() as (ws, peer), pair() as (other, other_peer):
        receive_now = Receiver.receive_now
        monkeypatch.setattr(
            Receiver,
            "receive_now",
            lambda self: 1 / 0 if self is ws._receiver else receive_now(self),
        )
        peer.send_message("x")
        eventually(lambda: ws.state is State.CLOSED)
        monkeypatch.undo()
        with pytest.raises(ConnectionClosedError) as caught:
            ws.recv()
        assert isinstance(caught.value.__cause__, ZeroDivisionError)
        other_peer.send_frame(PING, b"!")
        assert other_peer.recv_frame().data == b"!"


def test_a_socket_that_is_closed_while_it_is_about_to_be_waited_for_does_no_harm(monkeypatch):
    with pair() as (ws, _), pair() as (other, peer):
        failures = [ValueError("file descriptor cannot be a negative integer (-1)"), OSError()]

        def wait(sockets, timeout):
            if failures:
                raise failures.pop()
            return real(sockets, timeout)

        real = background.wait
        monkeypatch.setattr(background, "wait", wait)
        eventually(lambda: not failures)
        peer.send_frame(PING, b"!")
        assert peer.recv_frame().data == b"!"


def test_an_endless_stream_to_one_does_not_keep_it_from_the_others(monkeypatch):
    monkeypatch.setattr(background, "CHECK", 3600.0)  # nothing is looked at but below
    with pair() as (ws, _):
        reads = []

        def receive_now(self):
            reads.append(1)
            return len(reads) < 1000

        monkeypatch.setattr(Receiver, "receive_now", receive_now)
        _, at = background.service(ws._receiver)
        assert len(reads) == background.READS_AHEAD
        assert at <= time.monotonic()
        ws._receiver.wanted = True  # nor a consumer that comes meanwhile
        monkeypatch.setattr(Receiver, "receive_now", lambda self: 1 / 0)
        background._read_ahead(ws._receiver)
        monkeypatch.undo()
        ws._receiver.wanted = False
    background._background._rouse()  # or else it would sleep an hour


def test_a_close_that_nobody_waits_for_ends_in_time():
    """A signal handler's, or one that Ctrl-C has interrupted; the server doesn't answer."""
    with pair(close_timeout=0.05) as (ws, peer):
        ws._transport.change(ws._protocol.close, 1000)
        assert peer.recv_frame()[0] == CLOSE
        eventually(lambda: ws._transport.closed)
        with pytest.raises(ConnectionClosedError, match="close_timeout"):
            ws.recv()


def test_what_is_overdue_is_not_slept_through():
    """Or else each look would have every peer asked whether it is there."""
    with contextlib.closing(background.Background()) as thread:
        overdue = background.Watched(lambda: None, lambda: None)
        overdue.at = time.monotonic() - 100
        thread.watched.append(overdue)
        _, timeout = thread._to_wait_for()
        assert timeout <= 0
        assert not thread._has_slept(time.monotonic(), thread._sleeps_until)


def test_a_flooded_connection_is_gone_on_with_at_once(monkeypatch):
    """Wake-ups are rounded for many connections' sake; what is there to be read isn't put off."""
    monkeypatch.setattr(background, "READS_AHEAD", 1)
    monkeypatch.setattr(background, "GRID", 1 / 3600)  # one wake-up an hour
    with pair() as (ws, peer):
        peer.send_message(bytes(100000))  # several reads
        eventually(lambda: len(ws._receiver.queue))


def test_without_threads_connections_work(monkeypatch):
    def refuse(self):
        raise RuntimeError("can't start new thread")

    eventually(lambda: not keepers())
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        ours, theirs = socket.socketpair()
        ws = connection(SocketStream(ours))
    with theirs:
        theirs.send(frame(TEXT, "x"))
        assert ws.recv() == "x"
    ws.close()


class Clocks:
    """How far they are ahead of the real ones: of the wall clock, ``slept`` and ``passed``."""

    def __init__(self):
        self.slept = self.passed = 0.0
        self.looks = []

    def time(self):
        return time.time() + self.slept + self.passed

    def monotonic(self):
        return time.monotonic() + self.passed

    def sleep(self):
        """An hour, after which the keeper wakes up."""
        self.slept += 3600.0
        rouse()

    def let_pass(self, seconds):
        """Until the keeper has looked at the connection at the time that it is then."""
        self.passed += seconds
        self.looks.clear()
        rouse()
        eventually(lambda: len(self.looks) > 1)


@pytest.fixture
def clocks(monkeypatch):
    clocks = Clocks()
    monkeypatch.setattr(slept, "time", clocks)
    for module in (background, consumer, reader, receiver, sender, transport):
        monkeypatch.setattr(module, "monotonic", clocks.monotonic)

    service = background.service

    def counted(receiver):
        served = service(receiver)
        clocks.looks.append(1)
        return served

    monkeypatch.setattr(background, "service", counted)
    yield clocks
    eventually(has_gone)  # before the clocks are put back


@pytest.mark.parametrize("in_main_thread", [False, True])
def test_after_a_sleep_all_peers_are_probed_and_the_dead_ones_given_up(clocks, in_main_thread):
    options = {"ping_interval": 1000, "ping_timeout": 0.05, "close_timeout": 0.05}
    with pair(ping_interval=1000, ping_timeout=1000) as (lively, peer):
        with pair(**options) as (ws, dead), pair(**options) as (idle, other):
            task = Task(ws.recv, PATIENCE * 50)  # which waits for the socket until it is time
            receiving(ws)
            clocks.sleep()
            for each in (peer, dead, other):
                assert each.recv_frame().opcode == PING
            peer.send_frame(PONG)
            if in_main_thread:
                with pytest.raises(ConnectionClosedError, match="nothing received"):
                    idle.recv()
            with pytest.raises(ConnectionClosedError, match="nothing received"):
                task.result()
            eventually(lambda: idle.state is State.CLOSED)
            assert dead.recv_frame().data[:2] == (1011).to_bytes(2, "big")
        peer.send_message("x")
        assert lively.recv() == "x"


def test_a_peer_whose_bytes_wait_for_a_receiver_that_is_held_up_is_not_dead(clocks):
    with pair(ping_interval=1000, ping_timeout=100) as (ws, peer):
        with ws._transport.receiving:  # as by one that a signal handler has interrupted
            clocks.sleep()
            assert peer.recv_frame().opcode == PING
            peer.send_message("x")
            clocks.let_pass(200)
            assert ws.state is State.OPEN
        assert ws.recv() == "x"


def test_a_receiver_that_was_probed_and_hears_something_goes_on(clocks):
    with pair(ping_interval=1000, ping_timeout=100) as (ws, peer):
        task = Task(ws.recv)
        receiving(ws)
        clocks.sleep()
        assert peer.recv_frame().opcode == PING
        peer.send_frame(PONG)
        eventually(lambda: not ws._protocol.doubtful)
        clocks.let_pass(200)
        peer.send_message("x")
        assert task.result() == "x"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_makes_its_own_and_leaves_the_parents_sockets_alone():
    with pair(ping_interval=0.05, ping_timeout=PATIENCE) as (ws, peer):
        eventually(lambda: keepers())
        child = os.fork()
        if not child:
            status = 1
            try:
                signal.alarm(int(PATIENCE))
                assert watched(background) == 0
                ours, theirs = socket.socketpair()
                own = connection(SocketStream(ours))
                theirs.send(frame(PING, b"child"))
                theirs.settimeout(PATIENCE)
                assert len(theirs.recv(100)) == 6 + 5
                assert watched(background) == 1
                theirs.close()
                own.close()
                status = 0
            finally:
                os._exit(status)
        for _ in range(5):
            ping = peer.recv_frame()
            assert ping.opcode == PING
            peer.send_frame(PONG, ping.data)
        assert os.waitpid(child, 0)[1] == 0
        peer.send_message("x")
        assert ws.recv() == "x"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_fork_where_the_background_waits_for_the_thread_that_forks(monkeypatch):
    """As in a signal handler that has interrupted whoever holds the mutex."""
    monkeypatch.setattr(background, "FORK_WAIT", 0.05)
    with pair() as (ws, peer):
        eventually(lambda: keepers())
        ident = keepers()[0].ident
        with ws._transport.mutex:
            peer.send_frame(PING, b"!")
            eventually(lambda: sys._current_frames()[ident].f_code.co_name == "keep")
            assert not background._busy.acquire(False)
            child = os.fork()
            if not child:
                os._exit(0 if watched(background) == 0 and background._busy.acquire(False) else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert peer.recv_frame().data == b"!"
    eventually(lambda: not keepers())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("forks", [True, False], ids=["forks, too", "raises"])
def test_a_signal_handler_interrupts_a_fork_that_has_the_lock(forks, monkeypatch):
    monkeypatch.setattr(background, "FORK_WAIT", PATIENCE)

    class Busy:
        """The lock; its first ``acquire`` is interrupted when it has it."""

        def __init__(self, lock):
            self.lock, self.release = lock, lock.release
            self.handlers = [self.handle]

        def acquire(self, *args, **kwargs):
            taken = self.lock.acquire(*args, **kwargs)
            if self.handlers:
                self.handlers.pop()()
            return taken

        def handle(self):
            if not forks:
                raise KeyboardInterrupt
            child = os.fork()
            if not child:
                os._exit(0)
            os.waitpid(child, 0)

        def __enter__(self):
            return self.lock.__enter__()

        def __exit__(self, *exc_info):
            self.lock.__exit__(*exc_info)

    with pair() as (_, peer):
        monkeypatch.setattr(background, "_busy", Busy(background._busy))
        began = time.monotonic()
        # As os.fork() calls them; which drops what the first one raises.
        with contextlib.suppress(KeyboardInterrupt):
            background._before_fork()
        background._after_fork_in_parent()
        assert time.monotonic() - began < PROMPT
        peer.send_frame(PING, b"!")
        assert peer.recv_frame().data == b"!"


def test_signals_are_left_to_other_threads():
    if not hasattr(signal, "pthread_sigmask"):
        pytest.skip("signals have no masks here")
    with pair() as (ws, peer):
        peer.send_frame(PING, b"!")
        assert peer.recv_frame().data == b"!"
        caught = []
        previous = signal.signal(signal.SIGUSR1, lambda *args: caught.append(1))
        try:
            thread = keepers()[0]
            signal.pthread_kill(thread.ident, signal.SIGUSR1)
            peer.send_frame(PING, b"?")
            assert peer.recv_frame().data == b"?"
            assert not caught
        finally:
            signal.signal(signal.SIGUSR1, previous)
