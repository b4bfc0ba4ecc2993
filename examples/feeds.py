"""Many feeds in one thread: prints what each of them says, with its name in front.

    python3 examples/feeds.py eur=wss://example.com/EURUSD usd=wss://example.org/usd

Shows many ``Client`` objects on one ``Loop``. Each connects again by itself; one that gives up is
reported, and the others go on. Once a minute, and at SIGUSR1, standard error tells how each of them
is doing.

Exit status: 1 when it was of no use to connect to any of them again. Ctrl-C and SIGTERM close all
with 1001, and then the program dies of them.
"""

from __future__ import annotations

import signal
import sys

import wsmini

REPORT = 60.0  # seconds


def note(text: str) -> None:
    print(f"feeds: {text}", file=sys.stderr, flush=True)


class Feed(wsmini.Client):
    def __init__(self, name: str, url: str, feeds: Feeds) -> None:
        super().__init__(url)
        self.name, self.feeds = name, feeds
        self.count = 0

    def on_message(self, message: str | bytes) -> None:
        self.count += 1
        print(self.name, message if isinstance(message, str) else message.hex(), flush=True)

    def on_close(self, code: int, reason: str) -> None:
        self.feeds.look()

    def on_reconnect(self, attempt: int, delay: float, exception: Exception) -> None:
        note(f"{self.name}: connecting again in {delay:.1f} s: {exception}")

    def on_error(self, exception: Exception) -> None:
        """This feed has given up; or, before that, a callback has a bug, which is raised again."""
        if self.state is not wsmini.State.CLOSED:
            raise exception
        note(f"{self.name}: {exception}")
        self.feeds.status = self.feeds.status or 1
        self.feeds.look()


class Feeds:
    def __init__(self, loop: wsmini.Loop, urls: list[tuple[str, str]]) -> None:
        self.loop, self.status = loop, 0
        self.all = [Feed(name, url, self) for name, url in urls]
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.stop, number)
        if hasattr(signal, "SIGUSR1"):
            loop.add_signal_handler(signal.SIGUSR1, self.report)

    def run(self) -> int:
        for feed in self.all:
            feed.start(self.loop)
        self.loop.call_later(REPORT, self.report_again)
        self.loop.run_forever()
        return self.status

    def stop(self, number: int) -> None:
        self.status = 128 + number
        for feed in self.all:
            feed.stop()
        self.look()

    def look(self) -> None:
        """End if that was the last feed; soon, when it's decided whether it connects again."""
        self.loop.call_soon(self.end_if_all_have)

    def end_if_all_have(self) -> None:
        if all(feed.state is wsmini.State.CLOSED for feed in self.all):
            self.loop.stop()

    def report(self) -> None:
        for feed in self.all:
            note(f"{feed.name}: {feed.state.name.lower()}, {feed.count} messages")

    def report_again(self) -> None:
        self.report()
        self.loop.call_later(REPORT, self.report_again)


def main() -> int:
    urls = [(name, url) for name, equals, url in (a.partition("=") for a in sys.argv[1:]) if equals]
    if not urls or len(urls) != len(sys.argv) - 1:
        sys.exit(__doc__)
    try:
        with wsmini.Loop() as loop:
            return Feeds(loop, urls).run()
    except (OSError, ValueError, wsmini.WebSocketException) as exc:
        note(str(exc))
        return 1


if __name__ == "__main__":
    wsmini.exit_with(main())
