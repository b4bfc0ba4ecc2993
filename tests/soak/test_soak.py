"""What shows only after many rounds. ``WSMINI_SOAK=0.1`` makes a tenth of them.

Each measurement is a process of its own, ``measure.py``; here is what it has to keep to.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent
SCALE = float(os.environ.get("WSMINI_SOAK") or 1)


def rounds(count):
    return str(max(1, int(count * SCALE)))


def measure(name, *args, server=None):
    """The figures that ``measure.py NAME`` prints."""
    command = [sys.executable, FOLDER / "measure.py", name, *args]
    if server is None:
        output = subprocess.check_output(command, timeout=110)
    else:
        with subprocess.Popen(
            [sys.executable, FOLDER / "server.py", server],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        ) as process:  # fmt: skip
            url = process.stdout.readline().decode().strip()
            try:
                output = subprocess.check_output([*command, url], timeout=110)
            finally:
                process.stdin.close()
    figures = json.loads(output)
    print(f"\n{name}: {figures}")
    return figures


def test_reconnects_leave_nothing_behind():
    figures = measure("reconnects", rounds(10000), server="drop")
    assert figures["descriptors"] == 0
    assert figures["threads"] == 1
    assert figures["depth"] == 0
    assert figures["rss_kib"] < 2048


def test_idle_connections_cost_next_to_nothing():
    figures = measure("idle", rounds(5000), server="echo")
    assert figures["threads"] == 1
    assert figures["cpu"] < 0.02
    # What the process grew by (RSS) for each open Client over ws:// without compression.
    assert figures["kib_each"] <= 4
    assert figures["switches_without_timers"] <= 1


def test_the_cost_of_a_message_does_not_grow_with_the_connections():
    ratios = []
    for _ in range(3):
        one = measure("traffic", "1", rounds(10), server="echo")
        many = measure("traffic", rounds(1000), rounds(10), server="echo")
        ratios.append(many["us_each"] / one["us_each"])
    assert sorted(ratios)[1] <= 1.3, ratios


def test_a_gigabyte_in_chunks_and_in_parts_takes_the_memory_of_some():
    mebibytes = rounds(1024)
    figures = measure("streams", mebibytes)
    assert figures["received"] == figures["sent"] == int(mebibytes) << 20
    assert figures["rss_kib"] < 20 << 10


@pytest.mark.parametrize("spread", [0.5])
def test_a_fleet_that_is_cut_off_comes_back_spread_over_the_jitter(spread):
    figures = measure("fleet", "1000")
    assert len(figures["histogram"]) == 10
    assert all(60 <= count <= 145 for count in figures["histogram"])
