"""Two threads that send and two that receive, of each of two connections, as fast as they can.

Each message comes once, whole, and in the order of its sender. Without the GIL they do so at the
same time; ``make platforms`` does it there.
"""

from __future__ import annotations

import contextlib
import time

from certificates import client_context, server_context
from helpers import PATIENCE
from pairs import Task
from soak.test_blocking import SCALE, SECURE

import wsmini
from wsmini.testing import echo_server

SECONDS = 15 * SCALE


def message(sender, number):
    """Mostly short ones, and some that take more than one read."""
    size = number * 7919 % (40000 if number % 5 == 0 else 200)
    return f"{sender} {number} " + "ab"[sender] * size


def send(ws, sender, until):
    number = 0
    while time.monotonic() < until:
        ws.send(message(sender, number))
        number += 1
    ws.send(f"{sender} {number}")  # that's all
    return number


def receive(ws, ends):
    """The numbers of the messages of each sender, as they come to this thread."""
    got = [], []
    while len(ends) < 2:
        try:
            text = ws.recv(1)
        except wsmini.ConcurrencyError:
            time.sleep(0.001)
            continue
        except TimeoutError:  # the other one has got the last
            continue
        sender, number, *rest = text.split(" ")
        if rest:
            assert text == message(int(sender), int(number))
            got[int(sender)].append(int(number))
        else:
            ends.append(sender)
    return got


@SECURE
def test_each_message_of_each_thread_comes_once(secure):
    serving = {"ssl": server_context()} if secure else {}
    options = {"ssl": client_context()} if secure else {}
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(echo_server(**serving))
        url = f"ws{'s' * secure}://localhost:{server.port}/"
        connections = [
            stack.enter_context(wsmini.connect(url, ping_timeout=PATIENCE, **options))
            for _ in range(2)
        ]
        until = time.monotonic() + SECONDS
        senders = [[Task(send, ws, n, until) for n in range(2)] for ws in connections]
        receivers = []
        for ws in connections:
            ends = []
            receivers.append([Task(receive, ws, ends) for _ in range(2)])
        for sending, receiving in zip(senders, receivers):
            first, second = (end_of(task) for task in receiving)
            for sender, task in enumerate(sending):
                assert all(got[sender] == sorted(got[sender]) for got in (first, second))
                numbers = sorted(first[sender] + second[sender])
                assert numbers == list(range(end_of(task)))
                print(f"{len(numbers)} messages", end=", ")


def end_of(task):
    task.join(SECONDS + 10 * PATIENCE)
    return task.result()
