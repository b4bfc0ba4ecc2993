"""One measurement, as JSON: ``python measure.py NAME ROUNDS [...] [URL]``; test_soak.py judges."""

from __future__ import annotations

import json
import os
import random
import resource
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import fakes  # noqa: E402

import wsmini  # noqa: E402
import wsmini.testing  # noqa: E402


def rss_kib():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() // 1024


def descriptors():
    return len(os.listdir("/proc/self/fd"))


def switches():
    status = Path("/proc/self/status").read_text()
    return int(status.split("voluntary_ctxt_switches:")[1].split()[0])


def depth():
    frame, count = sys._getframe(), 0
    while frame is not None:
        frame, count = frame.f_back, count + 1
    return count


def reconnects(rounds, url):
    """Growth from the 500th reconnect on."""
    rounds, seen = int(rounds), []
    warm = min(500, rounds // 2)

    def on_open(client):
        seen.append(1)
        if len(seen) in (warm, rounds):
            figures.append((descriptors(), depth(), rss_kib()))
        if len(seen) == rounds:
            client.close()

    figures = []
    start = time.monotonic()
    wsmini.Client(url, reconnect=wsmini.Fixed(0), on_open=on_open).run_forever()
    (fds, deep, rss), (fds2, deep2, rss2) = figures
    return {
        "reconnects": len(seen), "descriptors": fds2 - fds, "depth": deep2 - deep,
        "rss_kib": rss2 - rss, "threads": threading.active_count(),
        "per_second": round(len(seen) / (time.monotonic() - start)),
    }  # fmt: skip


def opened(loop, url, count, **options):
    """*count* open clients, at most 200 of them connecting at a time."""
    clients, state = [], {"open": 0}

    def on_open(client):
        state["open"] += 1
        start()

    def start():
        if len(clients) < count:
            clients.append(wsmini.Client(url, on_open=on_open, **options).start(loop))

    for _ in range(min(200, count)):
        start()
    while state["open"] < count:
        loop.run_once()
    return clients


def run_for(loop, seconds):
    loop.call_later(seconds, loop.stop)
    loop.run_forever()


def idle(count, url):
    """CPU and memory of idle connections; and the wake-ups where no timer is due."""
    count = int(count)
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    loop = wsmini.Loop()
    opened(loop, url, 500, ping_interval=20)  # what opening takes meanwhile can be used again
    rss = rss_kib()
    opened(loop, url, count, ping_interval=20)
    rss = rss_kib() - rss
    run_for(loop, 5)
    cpu, start = time.process_time(), time.monotonic()
    run_for(loop, 22)
    cpu = (time.process_time() - cpu) / (time.monotonic() - start)
    quiet = wsmini.Loop()
    opened(quiet, url, 10, ping_interval=100)
    run_for(quiet, 0.2)
    before = switches()
    run_for(quiet, 3)
    return {
        "connections": count, "cpu": round(cpu, 4), "kib_each": round(rss / count, 2),
        "threads": threading.active_count(), "switches_without_timers": switches() - before - 1,
    }  # fmt: skip


def traffic(connections, thousands, url):
    """CPU time for each message that is echoed, with one on its way on each connection.

    More of them on one connection would come in batches, which cost far less.
    """
    connections, total, done = int(connections), 1000 * int(thousands), [0]
    loop = wsmini.Loop()
    clients = opened(loop, url, connections)

    def on_message(client, message):
        done[0] += 1
        if done[0] >= total:
            loop.stop()
        else:
            client.send(message)

    for client in clients:
        client.on_message = on_message
    for client in clients:
        client.send("x" * 100)
    start = time.process_time()
    loop.run_forever()
    return {"us_each": round((time.process_time() - start) / total * 1e6, 2)}


def streams(mebibytes):
    """How much memory a message takes that comes in chunks, and one that is sent in parts."""
    size, part = int(mebibytes) << 20, bytes(1 << 16)
    got, sent, before = [0], [0], []

    def script(peer):
        peer.accept()
        head = b"\x7f" + len(part).to_bytes(8, "big") + part
        for number in range(size // len(part)):
            peer.send_raw((b"\x00" if number else b"\x02") + head)
        peer.send_raw(b"\x80\x00")
        while sent[0] < size:
            sent[0] += len(peer.recv_frame().data)
        peer.close()

    def parts():
        for _ in range(size // len(part)):
            yield part

    def on_chunk(client, chunk, fin):
        got[0] += len(chunk)
        if fin:
            client.send(parts())

    with wsmini.testing.scripted_server(script) as server:
        client = wsmini.Client(
            server.url, on_chunk=on_chunk, max_size=None, reconnect=wsmini.NoReconnect(),
            on_open=lambda client: before.append(rss_kib()),
        )  # fmt: skip
        start = time.monotonic()
        client.run_forever()
        seconds = time.monotonic() - start
    # What the server takes, which is in the same process, is in it.
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before[0]
    return {"received": got[0], "sent": sent[0], "rss_kib": most,
            "mib_per_second": round((got[0] + sent[0]) / seconds / (1 << 20))}  # fmt: skip


def fleet(count):
    """When clients that were cut off at the same moment are back, in tenths of the first window."""
    count = int(count)
    clock, delays = fakes.Clock(), []

    class Simulated(wsmini.Client):
        def _steps(self):
            raise ConnectionResetError(104, "cut off")
            yield

        def on_reconnect(self, attempt, delay, exception):
            delays.append(delay)
            self.close()

    with wsmini.Loop(clock=clock, wall=clock.wall, selector=fakes.Selector(clock)) as loop:
        for _ in range(count):
            Simulated("ws://localhost", reconnect=wsmini.Backoff(initial=10)).start(loop)
        while len(delays) < count:
            loop.run_once()
    return {"histogram": [sum(n <= delay < n + 1 for delay in delays) for n in range(10)]}


if __name__ == "__main__":
    random.seed(1)
    name, *args = sys.argv[1:]
    print(
        json.dumps(
            {f.__name__: f for f in (reconnects, idle, traffic, streams, fleet)}[name](*args)
        )
    )
    sys.stdout.flush()
    os._exit(0)
