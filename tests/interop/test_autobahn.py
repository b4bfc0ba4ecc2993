from __future__ import annotations

import os

import autobahn
import pytest
from process import stopwatch

# Compression is the protocol's, which the front ends share: one runs all of its 216 cases, four
# minutes of them, and the others 36. `autobahn.py --front-end NAME` runs all with any. Where that
# takes too long, WSMINI_AUTOBAHN=some has all run the same.
SOME = [f"{group}.*" for group in (1, 2, 3, 4, 5, 6, 7, 9, 10, "12.1", "13.1")]
ALL = (SOME, 337) if os.environ.get("WSMINI_AUTOBAHN") == "some" else (["*"], autobahn.TOTAL)
FRONT_ENDS = {
    "blocking": ALL,
    "callbacks": (SOME, 337),
    "asyncio": (SOME, 337),
}


@pytest.mark.parametrize("front_end", FRONT_ENDS)
def test_every_case_has_the_best_verdict(tmp_path, capsys, front_end):
    elapsed = stopwatch()
    cases, total = FRONT_ENDS[front_end]
    complaints = autobahn.run(tmp_path, cases, front_end=front_end)
    counts, problems = autobahn.judge(autobahn.load(tmp_path), complaints, total)
    with capsys.disabled():
        print(f"\n{counts}\n{elapsed():.0f} seconds")
    assert not problems, problems
