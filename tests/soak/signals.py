"""Real signals while a front end works, as JSON: ``python signals.py NAME SECONDS SEED URL``.

Handlers raise, send, receive and cancel at times that nobody chooses, and threads are switched as
often as can be. On each connection numbers are echoed: each comes once, in order, but for those
that an exception may have met; and no thread hangs.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import wsmini  # noqa: E402
import wsmini.aio  # noqa: E402

TRUSTING = {"ssl": wsmini.unverified_context(), "proxy": None, "close_timeout": 1}
PATIENCE = 60  # seconds that a message takes at most
BURSTS, MESSAGES = 20, 50  # of a connection, and of each of these


class Left(BaseException):
    """What a handler raises."""


class Storm:
    """Signals at random times.

    Attributes:
        counts: how often each of *acts* was done.
    """

    def __init__(self, rng, *acts):
        self._rng, self._acts, self._armed = rng, acts, False
        self.counts = {act.__name__: 0 for act in acts}
        signal.signal(signal.SIGALRM, self._handle)

    def _handle(self, *args):
        if self._armed:
            act = self._rng.choice(self._acts)
            self.counts[act.__name__] += 1
            self._armed = act is not leave
            self._set()
            act()

    def _set(self):
        signal.setitimer(signal.ITIMER_REAL, self._rng.uniform(0.0001, 0.003))

    def start(self):
        self._armed = True
        self._set()

    def stop(self):
        self._armed = False

    def during(self, function):
        """Call *function*; whether a handler's exception has ended it."""
        try:
            try:
                self.start()
                function()
            finally:
                self.stop()
        except Left:  # which has stopped it, too
            return True
        return False


def leave():
    raise Left


class Numbers:
    """What was sent and what comes back, on one connection: no number twice, and in order.

    Attributes:
        lost: how many may be missing: one for each exception.
    """

    def __init__(self):
        self.sent = self.lost = 0
        self.seen = set()

    def next(self):
        self.sent += 1  # before it is sent: who knows whether it goes out
        return str(self.sent - 1)

    def receive(self, message, after=-1):
        """The number of *message*, or *after*, the one before it, if it has none."""
        if message == "from a handler":
            return after
        number = int(message)
        assert after < number < self.sent, (after, number, self.sent)
        assert number not in self.seen, number
        self.seen.add(number)
        return number

    def check(self, sent=None):
        missing = (self.sent if sent is None else sent) - len(self.seen)
        assert missing <= self.lost, (missing, self.lost, self.sent, self.seen)


def blocking(seconds, rng, url):
    """Exceptions of handlers in ``recv`` and ``send``, beside a thread that waits for pongs."""
    counts = {"connections": 0, "intact": 0}
    numbers = ws = None

    def send():
        with contextlib.suppress(wsmini.ConnectionClosed):
            ws.send("from a handler")

    def poll():
        with contextlib.suppress(TimeoutError, wsmini.ConcurrencyError, wsmini.ConnectionClosed):
            numbers.receive(ws.recv(timeout=0))

    def ping():
        with contextlib.suppress(wsmini.ConnectionClosed):
            while True:
                ws.ping().wait(PATIENCE)

    def echo():
        number = -1
        for _ in range(MESSAGES):
            ws.send(numbers.next())
            number = numbers.receive(ws.recv(timeout=PATIENCE), number)

    storm = Storm(rng, leave, send, poll)
    ended = time.monotonic() + seconds
    while time.monotonic() < ended:
        numbers, ws = Numbers(), wsmini.connect(url, compression=None, **TRUSTING)
        other = threading.Thread(target=ping)
        other.start()
        counts["connections"] += 1
        try:
            for _ in range(BURSTS):
                if storm.during(echo):
                    numbers.lost += 2  # one that was being sent, and one that was returned
            ws.send("the end")
            for message in ws:
                if message == "the end":
                    break
                numbers.receive(message)
            numbers.check()
            counts["intact"] += 1
        except wsmini.ConnectionClosed:
            with contextlib.suppress(wsmini.ConnectionClosed):
                while True:
                    numbers.receive(ws.recv(timeout=PATIENCE))  # if sending has failed
            numbers.check(max(numbers.seen, default=-1) + 1)
        ws.close()
        other.join(PATIENCE)
        assert not other.is_alive()
    return {**counts, **storm.counts}


def client(seconds, rng, url):
    """Exceptions of handlers that end the running of the loop, and what handlers send."""
    counts = {"messages": 0, "opened": 0}

    def on_open(client):
        counts["opened"] += 1
        client.numbers = Numbers()
        client.send(client.numbers.next())

    def on_message(client, message):
        counts["messages"] += 1
        client.numbers.receive(message)
        with contextlib.suppress(wsmini.ConnectionClosed):  # at the end
            client.send(client.numbers.next())

    def send():
        with contextlib.suppress(wsmini.InvalidState):
            ws.send("from a handler")

    def ping():
        with contextlib.suppress(wsmini.InvalidState):
            ws.ping()

    def run():
        while time.monotonic() < ended:
            loop.run_once()

    storm = Storm(rng, leave, send, ping)
    ended = time.monotonic() + seconds
    with wsmini.Loop() as loop:
        ws = wsmini.Client(
            url, on_open=on_open, on_message=on_message, reconnect=wsmini.Fixed(0),
            compression=None, **TRUSTING,
        ).start(loop)  # fmt: skip
        while time.monotonic() < ended:
            while ws.state is not wsmini.State.OPEN:  # which takes longer than a burst
                loop.run_once()
            ws.send(ws.numbers.next())  # what went on may have been interrupted
            storm.during(run)
            if ws.state is wsmini.State.CLOSED:  # an opening that is interrupted ends the client
                with contextlib.suppress(wsmini.InvalidState):  # it was at it
                    ws.start(loop)
        ws.close()
        while ws.state is not wsmini.State.CLOSED:
            loop.run_once()
    return {**counts, **storm.counts}


def aio(seconds, rng, url):
    """Handlers that cancel what a task awaits: nothing that comes is lost."""
    counts = {"connections": 0, "messages": 0}

    async def main():
        loop, working = asyncio.get_running_loop(), None

        def cancel():
            if working is not None:
                loop.call_soon_threadsafe(working.cancel)

        storm = Storm(rng, cancel)
        ended = time.monotonic() + seconds
        while time.monotonic() < ended:
            async with wsmini.aio.connect(url, compression=None, **TRUSTING) as ws:
                counts["connections"] += 1
                numbers = Numbers()

                async def echo(ws=ws, numbers=numbers):
                    number = -1
                    for _ in range(MESSAGES):
                        await ws.send(numbers.next())
                        number = numbers.receive(await ws.recv(timeout=PATIENCE), number)
                        counts["messages"] += 1

                for _ in range(BURSTS):
                    working = asyncio.ensure_future(echo())
                    storm.start()
                    try:
                        await working
                    except asyncio.CancelledError:
                        numbers.lost += 1  # it was to be sent
                    storm.stop()
                    working = None
                await ws.send("the end")
                while True:
                    message = await ws.recv(timeout=PATIENCE)
                    if message == "the end":
                        break
                    numbers.receive(message)
                numbers.check()
        return {**counts, **storm.counts}

    return asyncio.run(main())


if __name__ == "__main__":
    name, seconds, seed, url = sys.argv[1:]
    sys.setswitchinterval(1e-6)
    front_end = {f.__name__: f for f in (blocking, client, aio)}[name]
    figures = front_end(float(seconds), random.Random(int(seed)), url)
    signal.setitimer(signal.ITIMER_REAL, 0)  # Python's end would find no handler
    print(json.dumps(figures))
