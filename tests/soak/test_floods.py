"""With a flood on one connection, others go on: pongs come in time, and turns of loops are short.

What a turn does is counted elsewhere: ``tests/sansio/test_messages.py`` for frames, and
``tests/opening/test_tls.py`` for records.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from forging import forges
from helpers import PATIENCE_FACTOR
from soak.floods import KINDS

FLOODS = Path(__file__).resolve().parent / "floods.py"
SECONDS = "4"

pytestmark = forges


@contextlib.contextmanager
def serving(*args):
    """The URL of a server; and what it prints at the end, in a list."""
    command = [sys.executable, FLOODS, *args]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        said = []
        try:
            yield process.stdout.readline().decode().strip(), said
        finally:
            process.stdin.close()
            said.append(process.stdout.read())


def measure(*args):
    output = subprocess.check_output([sys.executable, FLOODS, *args], timeout=100)
    return json.loads(output)


@pytest.mark.parametrize("kind", KINDS)
def test_a_pong_of_another_connection_is_not_late(kind):
    with serving("flood", kind) as (url, _), serving("calm", SECONDS) as (calm, said):
        figures = measure("blocking", url, calm, SECONDS)
    figures.update(json.loads(said[0]))
    print(f"\n{kind}: {figures}")
    assert figures["state"] == "OPEN"
    assert figures["pong"] <= 1.2 * PATIENCE_FACTOR


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["loop", "aio"])
def test_turns_are_short(name, kind):
    with serving("flood", kind) as (url, _):
        figures = measure(name, url, SECONDS)
    print(f"\n{name}, {kind}: {figures}")
    assert figures["state"] == "OPEN"
    assert figures["turn"] <= 0.05 * PATIENCE_FACTOR
