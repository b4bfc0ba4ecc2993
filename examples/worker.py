"""A worker: does what a server asks for, one job after the other, and leaves when it is told to.

    python3 examples/worker.py wss://example.com/jobs FOLDER

Shows the blocking API in a loop with ``reconnect()``, and a clean end. A job is the name of a file
in FOLDER, ``{"name": "firmware.bin"}``; the answer has its checksum. Pings are answered during a
long job too: wsmini has a thread for that.

SIGTERM and Ctrl-C let the job in hand come to its end, and its answer go out. Without a job, they
end the program within a second, whether it is connected, connecting, or waiting to connect. A
second signal doesn't wait for anything.

Exit status: 0 when the server has closed with 1000, as it has no more jobs; 1 when it is of no use
to connect again, and standard error says why. Ctrl-C and SIGTERM close with 1001, and then the
program dies of them.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import wsmini

SIGNALS = {signal.SIGINT, signal.SIGTERM}
GRACE = 0.5  # seconds for the end of what is going on when a signal has come
SEND_TIMEOUT = 10.0  # seconds for the server to take an answer


def note(text: str) -> None:
    print(f"worker: {text}", file=sys.stderr, flush=True)


class Worker:
    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.folder = url, folder
        self.status = 0
        self.stop = threading.Event()
        self.job = threading.Lock()  # held while one is done
        self.ws: wsmini.Connection | None = None  # the present one, or the last

    def run(self) -> int:
        """Work until a signal comes, or the server has nothing more to do; the exit status."""
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # that ends a program where it isn't blocked
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # in all threads, for wait_for_signal()
        threading.Thread(target=self.wait_for_signal, daemon=True).start()
        policy = wsmini.Backoff(after_normal_close=False)
        for ws in wsmini.reconnect(
            self.url, policy=policy, stop=self.stop, on_reconnect=self.report, close_timeout=GRACE
        ):
            self.ws = ws
            if self.stop.is_set():
                break  # the other thread has closed the connection before
            try:
                self.work(ws)
            except (wsmini.ConnectionClosed, TimeoutError):
                pass  # the server will give the job to somebody again
        return self.status

    def work(self, ws: wsmini.Connection) -> None:
        for request in ws:
            with self.job:
                if self.stop.is_set():
                    ws.close(1001)
                    return
                ws.send(self.answer(request), timeout=SEND_TIMEOUT)

    def answer(self, request: str | bytes) -> str:
        """Do the job, right or wrong: the server has to hear of it in any case."""
        name = None
        try:
            name = json.loads(request)["name"]
            if name != Path(name).name:
                raise ValueError("that isn't the name of a file")
            digest = hashlib.sha256()
            with open(self.folder / name, "rb") as file:
                for block in iter(lambda: file.read(65536), b""):
                    digest.update(block)
        except (OSError, ValueError, LookupError, TypeError) as exc:
            return json.dumps({"name": name, "error": f"{type(exc).__name__}: {exc}"})
        return json.dumps({"name": name, "sha256": digest.hexdigest()})

    def report(self, attempt: int, delay: float, exception: Exception) -> None:
        note(f"connecting again in {delay:.1f} s: {exception}")

    def wait_for_signal(self) -> None:
        """In a thread, where it can't come in the middle of something, as in a handler."""
        number = signal.sigwait(SIGNALS)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # a second one ends the program
        note("leaving, behind the job in hand if there is one")
        self.status = 128 + number
        self.stop.set()
        with self.job:
            if self.ws is not None:
                self.ws.close(1001)
        time.sleep(GRACE)
        os.kill(os.getpid(), number)  # it is connecting, which can't be told to end


def main() -> int:
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    try:
        return Worker(sys.argv[1], Path(sys.argv[2])).run()
    except (OSError, ValueError, wsmini.WebSocketException) as exc:
        note(str(exc))
        return 1


if __name__ == "__main__":
    wsmini.exit_with(main())
