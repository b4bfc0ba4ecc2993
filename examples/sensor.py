"""A sensor: reads measurements from a serial port, and sends them to a server.

    python3 examples/sensor.py /dev/ttyUSB0 wss://example.com/measurements

Shows a ``Loop`` that waits for a descriptor and a ``Client`` at once, in one thread. The device, or
a named pipe, gives one number a line; set its speed before, with ``stty -F /dev/ttyUSB0 9600``.
Measurements wait in the client's outbox while there is no connection. A device that is unplugged is
opened again when it is back.

Exit status: 1 when it is of no use to connect again, and standard error says why. Ctrl-C and
SIGTERM close with 1001, and then the program dies of them.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import termios
import time
import tty

import wsmini

OUTBOX = 1000  # measurements kept without a connection; the server has to live without the others
REOPEN = 1.0  # seconds until a device that can't be opened is tried again
LONGEST_LINE = 100  # bytes; a longer one is noise


def note(text: str) -> None:
    print(f"sensor: {text}", file=sys.stderr, flush=True)


class Device:
    """The serial port: calls *measured* with each number that it gives."""

    def __init__(self, path: str, loop: wsmini.Loop, client: wsmini.Client) -> None:
        self.path, self.loop, self.client = path, loop, client
        self.fd = -1
        self.rest = b""  # of a line that isn't complete

    def open(self) -> None:
        try:
            self.fd = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
            if os.isatty(self.fd):
                tty.setraw(self.fd, termios.TCSANOW)
            self.loop.add_reader(self.fd, self.read)
        except (OSError, termios.error) as exc:
            self.close(str(exc))
        else:
            note(f"reading {self.path}")

    def close(self, why: str) -> None:
        note(f"can't read {self.path}, will try again: {why}")
        if self.fd >= 0:
            self.loop.remove_reader(self.fd)  # before it is closed
            os.close(self.fd)
        self.fd, self.rest = -1, b""
        self.loop.call_later(REOPEN, self.open)

    def read(self) -> None:
        """There is something to read, or it has ended."""
        try:
            data = os.read(self.fd, 4096)
        except BlockingIOError:
            return
        except OSError as exc:  # it was unplugged
            self.close(str(exc))
            return
        if not data:
            self.close("end of file")
            return
        *lines, self.rest = (self.rest + data).split(b"\n")
        self.rest = self.rest[: LONGEST_LINE + 1]
        for line in lines:
            self.measured(line)

    def measured(self, line: bytes) -> None:
        try:
            value = float(line) if len(line) <= LONGEST_LINE else math.nan
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            note(f"not a number: {line[:LONGEST_LINE]!r}")
            return
        try:
            self.client.send(json.dumps({"time": time.time(), "value": value}))
        except (wsmini.SendBufferFull, wsmini.ConnectionClosed) as exc:
            note(f"lost {value}: {exc}")


class Uplink(wsmini.Client):
    def on_open(self) -> None:
        note("connected")

    def on_reconnect(self, attempt: int, delay: float, exception: Exception) -> None:
        note(f"connecting again in {delay:.1f} s: {exception}")


def run(path: str, url: str) -> int:
    status = 0

    def stop(number: int) -> None:
        nonlocal status
        status = 128 + number
        client.stop()

    client = Uplink(url, outbox=OUTBOX)
    with wsmini.Loop() as loop:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop, number)
        Device(path, loop, client).open()
        client.start(loop)
        while client.state is not wsmini.State.CLOSED:
            loop.run_once()
    if client.unsent:
        note(f"{len(client.unsent)} measurements weren't sent")
    return status


def main() -> int:
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    try:
        return run(sys.argv[1], sys.argv[2])
    except (OSError, ValueError, wsmini.WebSocketException) as exc:
        note(str(exc))
        return 1


if __name__ == "__main__":
    wsmini.exit_with(main())
