"""Real signals, threads and forks around a client on its loop."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

import pytest
from helpers import PATIENCE

from wsmini.callbacks.client import Client
from wsmini.callbacks.loop import Loop
from wsmini.exceptions import ConnectionClosed, InvalidState
from wsmini.sansio.protocol import State
from wsmini.testing import echo_server


@pytest.fixture
def server():
    with echo_server() as running:
        yield running


@pytest.fixture
def often():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_a_handler_may_send_whatever_it_interrupts(server, often):
    got, sent = [], []

    def handler(number, frame):
        if len(sent) < 200:
            message = f"signal {len(sent)}"
            client.send(message)
            sent.append(message)
            # Each sets the timer for the next, which so doesn't interrupt this one: of two that are
            # nested, nobody knows whose message is sent first.
            signal.setitimer(signal.ITIMER_REAL, 0.0005)
        else:
            client.send("last")

    def on_open(client):
        signal.setitimer(signal.ITIMER_REAL, 0.0005)
        client.send("ping-pong")

    def on_message(client, message):
        got.append(message)
        if message == "last":
            client.close()
        elif message == "ping-pong" and client.state is State.OPEN:
            client.send(message)

    client = Client(server.url, on_open=on_open, on_message=on_message)
    old = signal.signal(signal.SIGALRM, handler)
    try:
        assert client.run_forever() == 0
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert [message for message in got if message.startswith("signal")] == sent
    assert len(sent) == 200 and client.unsent == []


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_fork_while_others_send_leaves_the_child_s_own_client_alone(server, often):
    def send(client, stop):
        while not stop.is_set():
            try:
                client.send("x" * 10)
            except Exception:
                time.sleep(0.001)

    with Loop() as loop:
        client = Client(server.url).start(loop)
        runner = threading.Thread(target=loop.run_until_done)
        runner.start()
        client.wait_open(PATIENCE)
        stop = threading.Event()
        threads = [threading.Thread(target=send, args=(client, stop)) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            children = [os.fork() or child(server.url) for _ in range(3)]
            stop.set()
            statuses = [os.waitpid(pid, 0)[1] for pid in children]
        finally:
            stop.set()
            for thread in threads:
                thread.join()
            client.close()
            runner.join()
    assert statuses == [0] * 3


def child(url):
    """Echo something with a client of one's own, or be ended by an alarm."""
    signal.alarm(int(PATIENCE))
    got = []

    def on_message(client, message):
        got.append(message)
        client.close()

    try:
        Client(
            url, on_open=lambda client: client.send("child"), on_message=on_message
        ).run_forever()
    finally:
        os._exit(0 if got == ["child"] else 1)


def test_what_threads_send_as_a_client_ends_is_sent_or_unsent(server, often):
    for _ in range(10):
        end_while_threads_send(server.url)


def end_while_threads_send(url):
    accepted, got = [], []

    def send(number):
        try:
            for index in range(1000):
                message = f"{number} {index}"
                client.send(message)
                accepted.append(message)
        except (ConnectionClosed, InvalidState):
            pass  # it has ended

    with Loop() as loop:
        client = Client(url, on_message=lambda client, message: got.append(message))
        client.start(loop)
        runner = threading.Thread(target=loop.run_until_done)
        runner.start()
        client.wait_open(PATIENCE)
        threads = [threading.Thread(target=send, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()
        client.close()
        runner.join()
        for thread in threads:
            thread.join()
    assert sorted(got + client.unsent) == sorted(accepted)
