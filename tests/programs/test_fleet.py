"""The simulation of a fleet in benchmarks/, with few clients; and the page that tells of it."""

from __future__ import annotations

import re
import sys

from helpers import ROOT
from programs.terminals import completed

PROGRAM = ROOT / "benchmarks" / "fleet.py"


def test_a_fleet_comes_back_and_better_with_jitter(tmp_path):
    picture = tmp_path / "fleet.svg"
    argv = [sys.executable, PROGRAM, "--clients", "400", "--svg", picture]
    status, stdout, _ = completed(argv)
    assert status == 0
    rows = [row.strip("|").split("|") for row in stdout.decode().splitlines()[2:]]
    by_name = {(name.strip(" `"), asked.strip()): cells for name, asked, *cells in rows}
    usual, habit = by_name["Backoff()", "none"], by_name["1 s, 2 s, ... 60 s, no jitter", "none"]
    assert float(usual[3].strip(" s")) < 240  # of 200, if they stood in a line
    assert habit[3].strip() == "> 1,800 s"
    assert picture.read_text().count("<polyline") == 5


def test_the_page_has_the_policies_of_the_simulation():
    text = (ROOT / "docs" / "reconnecting.md").read_text(encoding="utf-8")
    source = PROGRAM.read_text(encoding="utf-8")
    table = source[source.index("POLICIES = {") : source.index("\n}\n", source.index("POLICIES"))]
    for name in re.findall(r'^    "(.*?)": ', table, re.M):
        assert re.search(rf"^\| `?{re.escape(name)}`? \| none \|", text, re.M), name
