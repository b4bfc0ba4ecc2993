from __future__ import annotations

import autobahn
import pytest
from autobahn_client import FRONT_ENDS
from process import stopwatch


# uvloop only waits differently; run it with autobahn.py --front-end uvloop.
@pytest.mark.parametrize("front_end", [name for name in FRONT_ENDS if name != "uvloop"])
def test_every_case_has_the_best_verdict(tmp_path, capsys, front_end):
    elapsed = stopwatch()
    complaints = autobahn.run(tmp_path, front_end=front_end)
    counts, problems = autobahn.judge(autobahn.load(tmp_path), complaints, autobahn.TOTAL)
    with capsys.disabled():
        print(f"\n{counts}\n{elapsed():.0f} seconds")
    assert not problems, problems
