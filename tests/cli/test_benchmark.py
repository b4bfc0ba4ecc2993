"""Measuring a server with ``--bench``."""

from __future__ import annotations

import io
import re
import sys

import pytest

from wsmini import cli
from wsmini.cli import benchmark
from wsmini.cli.output import note
from wsmini.testing import echo_server, scripted_server

PERCENTILES = {
    "one": ([3.0], 50, 3.0),
    "median of two": ([1.0, 2.0], 50, 1.0),
    "above": ([1.0, 2.0], 51, 2.0),
    "maximum": ([1.0, 2.0, 5.0], 100, 5.0),
    "of a hundred": ([float(n) for n in range(1, 101)], 99, 99.0),
}


@pytest.mark.parametrize("ordered, percent, expected", PERCENTILES.values(), ids=PERCENTILES)
def test_percentiles_by_nearest_rank(ordered, percent, expected):
    assert benchmark.percentile(ordered, percent) == expected


@pytest.mark.parametrize("size", [0, 1, 1000, 200_000])
def test_a_server_that_echoes(size, capfdbinary):
    with echo_server() as server:
        assert cli.main([server.url, "--bench=0.03", f"--bench-size={size}"]) == 0
    lines = capfdbinary.readouterr().out.decode().splitlines()
    assert lines[0].split() == ["p50", "p90", "p99", "p99.9", "max"]
    for line, name in zip(lines[1:], ("ping", "echo")):
        row = re.fullmatch(name + r"((?: +[\d.]+){5}) ms, (\d+) round trips", line)
        numbers = [float(number) for number in row[1].split()]
        assert numbers == sorted(numbers) and numbers[-1] > 0 and int(row[2]) >= 1
    assert re.fullmatch(r"throughput: [\d,]+ messages/s, [\d.]+ MB/s each way", lines[3])


def test_a_server_that_does_not_echo(capfdbinary, monkeypatch):
    monkeypatch.setattr(benchmark, "_PATIENCE", 0.1)

    def script(peer):
        peer.accept()
        while True:
            peer.recv_message()

    with scripted_server(script) as server:
        assert cli.main([server.url, "--bench=0.1"]) == 0
    assert b"doesn't echo" in capfdbinary.readouterr().out


def test_a_server_that_leaves(capfdbinary):
    def script(peer):
        peer.accept()
        peer.close(1011)

    with scripted_server(script) as server:
        assert cli.main([server.url, "--bench=0.1"]) == 6


class Screen(io.StringIO):
    def isatty(self):
        return True

    def fileno(self):
        raise OSError("there is no terminal behind it")


def test_a_note_takes_the_place_of_the_bar(monkeypatch):
    monkeypatch.setattr("sys.stderr", Screen())
    bar = benchmark._Bar(60.0)
    bar.next = 0.0
    bar.draw()
    note("the server is gone")
    shown, rest = output_of_screen()
    assert shown == f"  0% [{'':30}]"
    assert rest == "wsmini: the server is gone\n"
    bar.draw()  # too early for another picture
    bar.end()
    assert output_of_screen() == (shown, rest)


def output_of_screen():
    """The line that was drawn, and what came when it was wiped out."""
    _, _, shown, _, rest = sys.stderr.getvalue().split("\r")
    return shown, rest
