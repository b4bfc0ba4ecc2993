"""``--bench``: round trips of pings and messages, and the throughput of a server that echoes."""

from __future__ import annotations

import os
from collections.abc import Callable
from time import monotonic

from ..blocking.connection import Connection
from ..exceptions import ConnectionClosed
from .arguments import Status
from .output import Progress, described, note, write

_PERCENTILES = (50.0, 90.0, 99.0, 99.9, 100.0)
_PATIENCE = 5.0  # seconds for a pong, or for the first echo
_WINDOW = 64  # messages under way at once while the throughput is measured
_WIDTH = 30  # of the bar


def bench(ws: Connection, seconds: float, size: int) -> int:
    """Measure, and write down what comes out; return the exit status."""
    try:
        with ws:
            for line in measure(ws, seconds, size):
                write(f"{line}\n".encode())
    except TimeoutError as exc:
        note(str(exc))
        return Status.TIMEOUT
    except ConnectionClosed as exc:
        note(f"connection closed: {described(exc)}")
        return Status.ABNORMAL
    return Status.OK


def measure(ws: Connection, seconds: float, size: int) -> list[str]:
    """Measure for about *seconds*, with messages of *size* bytes; return lines with the results.

    Raises:
        TimeoutError: if the server doesn't answer a ping.
        ConnectionClosed: if the connection is lost.
    """
    # At random, so that compression has little to gain, and unlike what a server says by itself.
    message = os.urandom((size + 1) // 2).hex()[:size]
    bar = _Bar(seconds)
    lines = [_row("", [f"p{p:g}" if p < 100 else "max" for p in _PERCENTILES])]
    pings = _timed(lambda: ws.ping().wait(_PATIENCE), seconds / 3, bar)
    lines.append(_latencies("ping", pings))
    try:
        _echo(ws, message)
    except TimeoutError:
        bar.end()
        return [*lines, "the server doesn't echo: no round trips of messages"]
    # The first echo, which only tells whether there is one, doesn't count: it may be slower.
    lines.append(_latencies("echo", _timed(lambda: _echo(ws, message), seconds / 3, bar)))
    count, took = _throughput(ws, message, seconds / 3, bar)
    bar.end()
    rate = count / took
    lines.append(f"throughput: {rate:,.0f} messages/s, {rate * size / 1e6:.2f} MB/s each way")
    return lines


def _echo(ws: Connection, message: str) -> float:
    start = monotonic()
    ws.send(message)
    deadline = start + _PATIENCE
    while ws.recv(max(0.0, deadline - monotonic())) != message:
        pass  # what the server says by itself
    return monotonic() - start


def _timed(trip: Callable[[], float], seconds: float, bar: _Bar) -> list[float]:
    """The round trips made one after the other in *seconds*, at least one; sorted."""
    end = monotonic() + seconds
    trips: list[float] = []
    while not trips or monotonic() < end:
        trips.append(trip())
        bar.draw()
    return sorted(trips)


def _throughput(ws: Connection, message: str, seconds: float, bar: _Bar) -> tuple[int, float]:
    """How many messages came back, and in how many seconds, with some under way all the time."""
    start = monotonic()
    # Few enough bytes that sending never has to wait for room, and so never for the other side.
    window = max(1, min(_WINDOW, 65536 // max(1, len(message))))
    under_way = count = 0
    while under_way or monotonic() < start + seconds:
        while under_way < window and monotonic() < start + seconds:
            ws.send(message)
            under_way += 1
        # A server that talks by itself sends other messages in between: they don't count.
        if under_way:
            if ws.recv(_PATIENCE) == message:
                under_way -= 1
                count += 1
            bar.draw()
    return count, monotonic() - start


def percentile(ordered: list[float], percent: float) -> float:
    """The nearest-rank percentile of numbers in ascending order."""
    rank = -(-len(ordered) * percent // 100)  # rounded up
    return ordered[max(0, int(rank) - 1)]


def _latencies(name: str, trips: list[float]) -> str:
    shown = [f"{percentile(trips, p) * 1000:.3f}" for p in _PERCENTILES]
    return _row(name, shown, f" ms, {len(trips)} round trips")


def _row(name: str, cells: list[str], more: str = "") -> str:
    return (f"{name:<5}" + "".join(f"{cell:>10}" for cell in cells) + more).rstrip()


class _Bar(Progress):
    """How much of the time is over."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def text(self, took: float) -> str:
        done = min(1.0, took / self.seconds)
        return f"{done:4.0%} [{'#' * int(done * _WIDTH):<{_WIDTH}}]"
