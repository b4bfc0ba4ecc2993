"""Parsers of peers' bytes take linear time: twice the input, at most 2.2 times the steps."""

from __future__ import annotations

import sys
import time

import pytest
from growth import CASES, MOST, challenges, steps
from tables import each_row

pytestmark = pytest.mark.skipif(
    sys.implementation.name != "cpython", reason="counts the steps of CPython"
)


# What Python executes shows with less than what C does: a part of the input for the instructions.
PART = 4


DEFLATED = {name: CASES[name] for name in CASES if "deflated" in name}  # which zlib is needed for
OTHERS = {name: CASES[name] for name in CASES if name not in DEFLATED}


@each_row("n, prepare", OTHERS.values(), ids=OTHERS)
def test_growth(n, prepare):
    check_growth(n, prepare)


@each_row("n, prepare", DEFLATED.values(), ids=DEFLATED)
def test_growth_of_what_is_deflated(n, prepare):
    check_growth(n, prepare)


# Steps show nothing of what a regular expression does. If one tries two readings of each part of a
# text, twice the input takes four times as long, or longer: seconds for this much.
MUCH = 1 << 16
READ_BY_RE = {
    name: CASES[name][1]
    for name in CASES
    if name.startswith(("challenges: ", "shown: ", "head: folded", "location: no"))
}


@each_row("prepare", READ_BY_RE.values(), ids=READ_BY_RE)
def test_regular_expressions_read_a_text_in_one_way(prepare):
    run = prepare(MUCH)
    start = time.process_time()
    run()
    assert time.process_time() - start < 5.0  # of the processor; a good pattern takes 0.3


def check_growth(n, prepare):
    n = -(-n // PART)
    prepare(n)()  # what is imported or made once
    once, twice = steps(prepare(n)), steps(prepare(2 * n))
    assert twice <= MOST * once + 100


def test_steps_are_counted():
    def quadratic(n):
        def run():
            for _ in range(n * n):
                pass

        return run

    assert steps(quadratic(20)) > 3.5 * steps(quadratic(10))
    assert steps(challenges("", "Basic, ")(100)) > 100
