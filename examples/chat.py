"""A chat for the terminal: what is typed is sent, what is received is printed.

    python3 examples/chat.py wss://example.com/chat

Shows the blocking API with two threads: the main one receives, and another one reads the keyboard
and sends. When the connection is lost, there is another one; what is typed meanwhile isn't sent,
and that is said. The end of input (Ctrl-D) closes the connection.

Exit status: 0 after the end of input; 1 when it is of no use to connect again, and standard error
says why. Ctrl-C and SIGTERM close with 1001, and then the program dies of them.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

import wsmini

SIGNALS = {signal.SIGINT, signal.SIGTERM}
GRACE = 0.5  # seconds for the end of what is going on when a signal has come


def note(text: str) -> None:
    print(f"chat: {text}", file=sys.stderr, flush=True)


class Chat:
    def __init__(self, url: str) -> None:
        self.url = url
        self.status = 0
        self.over = threading.Event()
        self.ws: wsmini.Connection | None = None  # the present one, or the last

    def run(self) -> int:
        """Print what comes, over one connection after the other; the exit status."""
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # that ends a program where it isn't blocked
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # in all threads, for wait_for_signal()
        threading.Thread(target=self.wait_for_signal, daemon=True).start()
        keyboard = threading.Thread(target=self.read_keyboard, daemon=True)
        for ws in wsmini.reconnect(
            self.url, stop=self.over, on_reconnect=self.report, close_timeout=GRACE
        ):
            self.ws = ws
            if self.over.is_set():
                break  # the others have closed the connection before
            note("connected")
            if keyboard.ident is None:
                keyboard.start()
            try:
                for message in ws:
                    print(shown(message), flush=True)
            except wsmini.ConnectionClosed:
                pass  # report() tells of it
        return self.status

    def report(self, attempt: int, delay: float, exception: Exception) -> None:
        note(f"connecting again in {delay:.1f} s: {exception}")

    def read_keyboard(self) -> None:
        """Send what is typed; in a thread, because nothing else interrupts reading."""
        # Not sys.stdin, whose lock would be held when the program ends.
        with open(0, "rb", buffering=0, closefd=False) as stdin:
            for line in stdin:
                text = line.decode(errors="replace").rstrip("\r\n")
                try:
                    if text and self.ws is not None:
                        self.ws.send(text, timeout=10)
                except (wsmini.ConnectionClosed, TimeoutError):
                    note(f"not sent: {text}")
        self.close(1000)

    def wait_for_signal(self) -> None:
        """In a thread, where it can't come in the middle of something, as in a handler."""
        number = signal.sigwait(SIGNALS)
        self.status = 128 + number
        self.close(1001)
        time.sleep(GRACE)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        os.kill(os.getpid(), number)  # it is connecting, which can't be told to end

    def close(self, code: int) -> None:
        self.over.set()
        if self.ws is not None:
            self.ws.close(code)


def shown(message: str | bytes) -> str:
    """A message for the terminal, which nobody else may drive."""
    if isinstance(message, bytes):
        return f"({len(message)} bytes)"
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in message)


def main() -> int:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    try:
        return Chat(sys.argv[1]).run()
    except (OSError, ValueError, wsmini.WebSocketException) as exc:
        note(str(exc))
        return 1


if __name__ == "__main__":
    wsmini.exit_with(main())
