"""A service with many feeds, on asyncio: prints what each says, and loses none of them.

    python3 examples/service.py wss://example.com/feed /run/feeds.json EURUSD GBPUSD USDJPY

Shows what a service needs that has to run for months: a connection for each feed, which subscribes
again whenever it has connected; logs of one JSON object a line, for machines; a file that tells how
it is, for a probe; and a clean end. Whatever happens to a feed, it is tried again, since nobody is
there to start it: what looks permanent is logged as an error. ``service_callbacks.py`` is the same
with ``Client``.

Exit status: 1 when an argument is wrong, and standard error says why. Ctrl-C and SIGTERM close with
1001, and then the program dies of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from typing import Any

import wsmini
from wsmini.aio import connect

OPTIONS = {
    "open_timeout": 5.0,
    "ping_interval": 2.0,  # seconds: prices are of no use when they are old,
    "ping_timeout": 2.0,  # so a dead connection is to be found soon
    "close_timeout": 0.5,  # who sends SIGTERM won't wait long
}
HEALTH = 5.0  # seconds between two writings of the file


def log(event: str, **fields: object) -> None:
    record = {"time": round(time.time(), 3), "event": event, **fields}
    print(json.dumps(record), file=sys.stderr, flush=True)


class Health:
    """The file for the probe: how many feeds there are, which aren't open, and when it was."""

    def __init__(self, path: str, feeds: list[str]) -> None:
        self.path, self.feeds = path, feeds
        self.open: set[str] = set()
        self.write()

    def write(self) -> None:
        closed = sorted(set(self.feeds) - self.open)
        fields = {"time": time.time(), "feeds": len(self.feeds), "closed": closed}
        with open(f"{self.path}.new", "w", encoding="utf-8") as file:
            json.dump(fields, file)
        os.replace(f"{self.path}.new", self.path)  # there is always a whole one

    async def keep_writing(self) -> None:
        while True:
            self.write()
            await asyncio.sleep(HEALTH)


async def run_feed(url: str, feed: str, health: Health) -> None:
    def report(attempt: int, delay: float, failure: Exception) -> None:
        level = "warning" if wsmini.retryable(failure) else "error"
        why = f"{type(failure).__name__}: {failure}"
        log("connecting again", feed=feed, level=level, attempt=attempt, delay=delay, why=why)

    policy = wsmini.Backoff(retryable=lambda failure: True)
    async for ws in connect(url, policy=policy, on_reconnect=report, **OPTIONS):  # type: ignore
        with contextlib.suppress(wsmini.ConnectionClosed, TimeoutError):
            async with ws:  # closes with 1001 when the task is cancelled
                health.open.add(feed)
                health.write()
                log("open", feed=feed, level="info", connection=ws.id)
                await ws.send(json.dumps({"subscribe": feed}))
                async for message in ws:
                    print(feed, json.dumps(message if isinstance(message, str) else message.hex()))
                    sys.stdout.flush()
        health.open.discard(feed)
        health.write()


async def run(url: str, health: Health) -> int:
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[int] = loop.create_future()

    def stop(number: int) -> None:
        if not ended.done():
            ended.set_result(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, number)
    tasks: list[asyncio.Future[Any]] = [
        loop.create_task(run_feed(url, feed, health)) for feed in health.feeds
    ]
    tasks.append(loop.create_task(health.keep_writing()))
    # A task ends by itself only with an error of ours, which has to be seen.
    await asyncio.wait([ended, *tasks], return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        if task.done():
            task.result()
        task.cancel()
    await asyncio.wait(tasks)
    log("stopped", level="info")
    return ended.result()


def main() -> int:
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    try:
        return asyncio.run(run(sys.argv[1], Health(sys.argv[2], sys.argv[3:])))
    except (OSError, ValueError) as exc:
        log("failed", level="error", why=str(exc))
        return 1


if __name__ == "__main__":
    wsmini.exit_with(main())
