"""The services of examples/, for minutes, against a server with every fault that there is."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest
from programs.test_examples import FAULTS, SERVICES, Program

from wsmini.testing import CloseWith, Drip, IgnoreClose, fault_server

SECONDS = 120 * float(os.environ.get("WSMINI_SOAK") or 1)
FEEDS = [f"feed{number}" for number in range(20)]


@pytest.mark.parametrize("name", SERVICES)
def test_no_feed_is_lost_in_minutes(name, tmp_path):
    health = tmp_path / "health"
    # One fault after the other, and in between connections that last for a message each; but for
    # those with which a connection would stay.
    ending = [fault for fault in FAULTS if not isinstance(fault, (Drip, IgnoreClose))]
    faults = [fault for one in ending * 1000 for fault in (one, CloseWith(1012))]
    with fault_server(*faults, messages=["news"]) as server:
        with Program(name, server.url, health, *FEEDS) as program:
            threading.Thread(target=program.process.stderr.read, daemon=True).start()
            heard = {}
            ended = time.monotonic() + SECONDS
            lines = 0
            while time.monotonic() < ended:
                heard[program.line().partition(" ")[0]] = server.connections
                lines += 1
            behind = server.connections - min(heard.values())
            print(f"\n{name}: {server.connections} connections, {lines} messages, {behind} behind")
            assert set(heard) == set(FEEDS)
            # Each has had a connection lately, and so comes back after whatever has happened.
            assert behind < 40 * len(FEEDS)
            assert program.end(signal.SIGTERM)[0] == -signal.SIGTERM
