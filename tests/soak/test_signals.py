"""Real signals for a minute, in each front end; see ``signals.py``."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from helpers import SEED
from soak.test_blocking import FOLDER, SCALE, SECURE, serving

SECONDS = 60 * SCALE


@SECURE
@pytest.mark.parametrize("front_end", ["blocking", "client", "aio"])
def test_nothing_is_lost_or_hangs_in_a_storm_of_signals(front_end, secure):
    with serving("echo", secure) as url:
        output = subprocess.check_output(
            [sys.executable, FOLDER / "signals.py", front_end, str(SECONDS), str(SEED), url],
            timeout=SECONDS + 55,
        )
    figures = json.loads(output)
    print(f"\n{front_end}{' tls' if secure else ''}: {figures}")
    assert min(figures.values()) > 0
