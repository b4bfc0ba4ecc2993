"""Tasks that receive from busy feeds with a timeout, each cancelled once: how many of them end?

As a program it prints that for ten seeds, for a Python that has no pytest::

    PYTHONPATH=.:tests python3.8 tests/aio/test_cancelled.py
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys

from helpers import SEED
from joined import joined

from wsmini.sansio.frames import Opcode
from wsmini.testing import frame

SEEDS = range(1, 11)
TASKS = 160
TURNS = 30  # of the loop, each with a message: an end doesn't take so many


class Feed:
    """A connection that hears in about every second turn of the loop, and a task that listens."""

    def __init__(self, receive, timeout):
        self.ws, self.peer = joined()
        self.sent, self.got, self.cancelled = [], [], False
        self.task = asyncio.ensure_future(self.listen(receive, timeout))

    async def listen(self, receive, timeout):
        while True:
            # What wait_for raises isn't the built-in one before Python 3.11.
            with contextlib.suppress(TimeoutError, asyncio.TimeoutError):
                self.got.append(await receive(self.ws, timeout))

    def say(self):
        self.sent.append(str(len(self.sent)))
        self.peer.send(frame(Opcode.TEXT, self.sent[-1].encode()))

    async def rest(self):
        while len(self.got) < len(self.sent):
            self.got.append(await self.ws.recv())

    async def end(self):
        while not self.task.done():
            self.task.cancel()
            await asyncio.sleep(0)
        self.ws._transport.abort()
        await self.ws.wait_closed()
        self.peer.close()


async def cancelled_once(receive, seed):
    """How many of the tasks end; and whether each message reached somebody, in order."""
    rng = random.Random(seed)
    feeds = [Feed(receive, rng.choice([0.001, 0.01, 60])) for _ in range(TASKS)]
    while not all(feed.cancelled for feed in feeds):
        for feed in feeds:
            if rng.random() < 0.5:
                feed.say()
            if not feed.cancelled and rng.random() < 0.1:
                feed.cancelled = feed.task.cancel()
        await asyncio.sleep(0)
    for _ in range(TURNS):
        for feed in feeds:
            feed.say()
        await asyncio.sleep(0)
    ended = [feed for feed in feeds if feed.task.done()]
    for feed in ended:
        await feed.rest()
    intact = all(feed.got == feed.sent for feed in ended)
    for feed in feeds:
        await feed.end()
    return len(ended), intact


def recv(ws, timeout):
    return ws.recv(timeout=timeout)


def wait_for(ws, timeout):
    return asyncio.wait_for(ws.recv(), timeout)


def run(receive, seed):
    return asyncio.run(cancelled_once(receive, seed))


def test_tasks_in_recv_with_a_timeout_end_and_lose_nothing():
    assert run(recv, SEED) == (TASKS, True)


def test_the_same_tasks_in_wait_for_go_on_in_older_pythons():
    """Which shows that the test above would notice; and why the docs advise against it."""
    ended, _ = run(wait_for, SEEDS[0])
    assert (ended < TASKS) == (sys.version_info < (3, 12))


if __name__ == "__main__":
    print(sys.version.split()[0])
    for function in (recv, wait_for):
        print(f"{function.__name__}:", *(run(function, seed)[0] for seed in SEEDS))
