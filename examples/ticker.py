"""A ticker: subscribes whenever it has connected, and prints prices as they come.

    python3 examples/ticker.py wss://example.com/ticker EURUSD GBPUSD

Shows a ``Client`` with its callbacks as methods. A lost connection comes back by itself, and
``on_open`` subscribes again. Prices are JSON, ``{"symbol": "EURUSD", "price": 1.08}``; what isn't
one of those asked for is reported and skipped, rather than trusted.

Exit status: 1 when it is of no use to connect again, and standard error says why. Ctrl-C and
SIGTERM close with 1001, and then the program dies of them.
"""

from __future__ import annotations

import json
import sys

import wsmini


def note(text: str) -> None:
    print(f"ticker: {text}", file=sys.stderr, flush=True)


class Ticker(wsmini.Client):
    def __init__(self, url: str, symbols: list[str]) -> None:
        super().__init__(url)
        self.symbols = symbols

    def on_open(self) -> None:
        for symbol in self.symbols:
            self.send(json.dumps({"subscribe": symbol}))

    def on_message(self, message: str | bytes) -> None:
        try:
            tick = json.loads(message)
            symbol, price = tick["symbol"], float(tick["price"])
        except (ValueError, LookupError, TypeError):
            symbol = None
        if symbol in self.symbols:
            print(symbol, price, flush=True)
        else:
            note(f"not a price: {message[:80]!r}")

    def on_close(self, code: int, reason: str) -> None:
        note(f"closed with {code} {reason!r}")

    def on_reconnect(self, attempt: int, delay: float, exception: Exception) -> None:
        note(f"connecting again in {delay:.1f} s: {exception}")


def main() -> int:
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    try:
        # In the main thread, this handles SIGINT and SIGTERM. There is no on_error, so what the
        # client gives up for is raised here, and so would be a bug in a callback.
        return Ticker(sys.argv[1], sys.argv[2:]).run_forever()
    except (OSError, ValueError, wsmini.WebSocketException) as exc:
        note(str(exc))
        return 1


if __name__ == "__main__":
    wsmini.exit_with(main())
