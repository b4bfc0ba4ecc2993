from __future__ import annotations

import autobahn
from process import stopwatch


def test_every_case_has_the_best_verdict(tmp_path, capsys):
    elapsed = stopwatch()
    complaints = autobahn.run(tmp_path)
    counts, problems = autobahn.judge(autobahn.load(tmp_path), complaints, autobahn.TOTAL)
    with capsys.disabled():
        print(f"\n{counts}\n{elapsed():.0f} seconds")
    assert not problems, problems
