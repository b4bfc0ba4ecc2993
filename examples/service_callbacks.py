"""A service with many feeds, with callbacks: prints what each says, and loses none of them.

    python3 examples/service_callbacks.py wss://example.com/feed /run/feeds.json EURUSD GBPUSD

Shows the same as ``service.py``, which tells more of it, with a ``Client`` for each feed on one
``Loop``, without asyncio.

Exit status: 1 when an argument is wrong, and standard error says why. Ctrl-C and SIGTERM close with
1001, and then the program dies of them.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time

import wsmini

HEALTH = 5.0  # seconds between two writings of the file


def log(event: str, **fields: object) -> None:
    record = {"time": round(time.time(), 3), "event": event, **fields}
    print(json.dumps(record), file=sys.stderr, flush=True)


class Feed(wsmini.Client):
    def __init__(self, url: str, name: str, service: Service) -> None:
        super().__init__(
            url,
            policy=wsmini.Backoff(retryable=lambda failure: True),
            open_timeout=5.0,
            ping_interval=2.0,  # seconds: prices are of no use when they are old,
            ping_timeout=2.0,  # so a dead connection is to be found soon
        )
        self.name, self.service = name, service

    def on_open(self) -> None:
        self.service.write_health()
        log("open", feed=self.name, level="info")
        self.send(json.dumps({"subscribe": self.name}))

    def on_message(self, message: str | bytes) -> None:
        text = json.dumps(message if isinstance(message, str) else message.hex())
        print(self.name, text, flush=True)

    def on_close(self, code: int, reason: str) -> None:
        self.service.write_health()

    def on_reconnect(self, attempt: int, delay: float, exception: Exception) -> None:
        level = "warning" if wsmini.retryable(exception) else "error"
        why = f"{type(exception).__name__}: {exception}"
        log("connecting again", feed=self.name, level=level, attempt=attempt, delay=delay, why=why)


class Service:
    def __init__(self, loop: wsmini.Loop, url: str, path: str, names: list[str]) -> None:
        self.loop, self.path, self.status = loop, path, 0
        self.feeds = [Feed(url, name, self) for name in names]

    def run(self) -> int:
        for number in (signal.SIGINT, signal.SIGTERM):
            self.loop.add_signal_handler(number, self.stop, number)
        self.keep_writing_health()
        for feed in self.feeds:
            feed.start(self.loop)
        self.loop.run_until_done()
        log("stopped", level="info")
        return self.status

    def stop(self, number: int) -> None:
        self.status = 128 + number
        for feed in self.feeds:
            feed.stop()

    def write_health(self) -> None:
        """Tell the probe how many feeds there are, which aren't open, and when that was."""
        closed = [feed.name for feed in self.feeds if feed.state is not wsmini.State.OPEN]
        fields = {"time": time.time(), "feeds": len(self.feeds), "closed": sorted(closed)}
        with open(f"{self.path}.new", "w", encoding="utf-8") as file:
            json.dump(fields, file)
        os.replace(f"{self.path}.new", self.path)  # there is always a whole one

    def keep_writing_health(self) -> None:
        self.write_health()
        self.loop.call_later(HEALTH, self.keep_writing_health)


def main() -> int:
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    try:
        with wsmini.Loop() as loop:
            return Service(loop, sys.argv[1], sys.argv[2], sys.argv[3:]).run()
    except (OSError, ValueError) as exc:
        log("failed", level="error", why=str(exc))
        return 1


if __name__ == "__main__":
    wsmini.exit_with(main())
