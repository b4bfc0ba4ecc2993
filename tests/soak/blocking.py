"""One measurement of the blocking API, as JSON: ``python blocking.py NAME URL [...]``."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path

from blocking_server import COUNT, MIB, SIZE, pattern

import wsmini

SENDERS, CONNECTIONS = 8, 500
STATUS = Path("/proc/self/status")


def memory(name="VmRSS"):
    return int(STATUS.read_text().split(name + ":")[1].split()[0])  # KiB


class Growth:
    """How much the highest memory in the block exceeds that at its beginning, in MiB."""

    def __enter__(self):
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak
        self._before = memory()
        return self

    def __exit__(self, *exc_info):
        self.mib = round((memory("VmHWM") - self._before) / 1024, 1)


def connect(url, **options):
    return wsmini.connect(url, ssl=wsmini.unverified_context(), proxy=None, **options)


def senders(url, count):
    """Threads that send numbered messages, of different sizes, to an echo; one that receives."""
    count, errors = int(count), []

    def send(sender):
        try:
            for number in range(count):
                ws.send(f"{sender} {number} " + "x" * (number * 7 % 300))
        except BaseException as exc:
            errors.append(repr(exc))

    start = time.monotonic()
    with connect(url, compression=None) as ws:
        threads = [threading.Thread(target=send, args=[sender]) for sender in range(SENDERS)]
        for thread in threads:
            thread.start()
        following = [0] * SENDERS
        for _ in range(SENDERS * count):
            sender, number, rest = ws.recv(timeout=60).split(" ")
            assert int(number) == following[int(sender)], (sender, number, following)
            assert rest == "x" * (int(number) * 7 % 300)
            following[int(sender)] += 1
        for thread in threads:
            thread.join()
    seconds = time.monotonic() - start
    return {"python": sys.version.split()[0], "right": following == [count] * SENDERS,
            "errors": errors, "per_second": round(SENDERS * count / seconds)}  # fmt: skip


def flood(url):
    """100 MiB each way; a thread sends and another receives."""
    received = []

    def send():
        for number in range(COUNT):
            ws.send(bytes([number]) * MIB)

    with connect(url, max_size=None, compression=None) as ws, Growth() as growth:
        sending = threading.Thread(target=send)
        sending.start()
        for message in ws:
            received.append(message == bytes([len(received)]) * MIB)
        sending.join()
        assert ws.close_code == 1000
    return {"right": received == [True] * COUNT, "growth_mib": growth.mib}


def streamed(url):
    position, right = 0, True
    with connect(url, max_size=None, compression=None) as ws, Growth() as growth:
        start = time.monotonic()
        for chunk in ws.recv_streaming():
            right = right and chunk == pattern(position, len(chunk))
            position += len(chunk)
        seconds = time.monotonic() - start
    return {"right": right and position == SIZE, "growth_mib": growth.mib,
            "mib_per_second": round(SIZE / MIB / seconds)}  # fmt: skip


def into(url):
    position, right, buffer = 0, True, bytearray(MIB)
    with connect(url, compression=None) as ws, Growth() as growth:
        start = time.monotonic()
        while position < SIZE:
            size = ws.recv_into(buffer, timeout=60)
            right = right and buffer == pattern(position, size)
            position += size
        seconds = time.monotonic() - start
    return {"right": right and position == SIZE, "growth_mib": growth.mib,
            "mib_per_second": round(SIZE / MIB / seconds)}  # fmt: skip


def fragments(url):
    with connect(url, compression=None) as ws, Growth() as growth:
        start = time.monotonic()
        ws.send(pattern(position, MIB) for position in range(0, SIZE, MIB))
        answer = ws.recv(timeout=60)
        seconds = time.monotonic() - start
    return {"right": answer == f"{SIZE} True", "growth_mib": growth.mib,
            "mib_per_second": round(SIZE / MIB / seconds)}  # fmt: skip


def away(url, seconds):
    """An application that is busy with something else."""
    with connect(url) as ws:
        time.sleep(float(seconds))
        state = ws.state.name
    return {"state": state, "close_code": ws.close_code}


def many(url):
    """Threads, and CPU time of connections that nobody receives from; and what stays behind."""
    before = len(os.listdir("/proc/self/fd"))
    connections = [connect(url) for _ in range(CONNECTIONS)]
    time.sleep(2.5)  # until the keeper waits for all of them
    cpu, start = time.process_time(), time.monotonic()
    time.sleep(3)
    cpu = (time.process_time() - cpu) / (time.monotonic() - start)
    threads = threading.active_count()
    for ws in connections:
        ws.send("x")
    right = all(ws.recv(timeout=20) == "x" for ws in connections)
    for ws in connections:
        ws.close()
    end = time.monotonic() + 5
    while threading.active_count() > 1 and time.monotonic() < end:
        time.sleep(0.1)  # the keeper is about to end
    return {"extra_threads": threads - 1, "cpu": round(cpu, 4), "right": right,
            "threads_after": threading.active_count() - 1,
            "descriptors_after": len(os.listdir("/proc/self/fd")) - before}  # fmt: skip


if __name__ == "__main__":
    name, *args = sys.argv[1:]
    functions = (senders, flood, streamed, into, fragments, away, many)
    print(json.dumps({f.__name__: f for f in functions}[name](*args)))
