"""Tests of many rows: each is tried, whichever fail, and none passes for having been skipped."""

from __future__ import annotations

import pytest
from tables import each_row


def test_each_row_is_tried_and_those_that_fail_are_named():
    seen = []

    @each_row("a", [1, 2, 3], ids={"x": 1, "y": 2, "z": 3})
    @each_row("b, c", [(4, 5), pytest.param(6, 7, id="given")])
    def check(b, a, c):
        seen.append((a, b, c))
        assert a != 2 or b != 6
        if a == 3:
            pytest.fail("never 3")

    with pytest.raises(
        AssertionError, match="(?s)2 of 3:.*1: y.*1: given.*2: z.*never 3"
    ) as caught:
        check()
    assert seen == [(a, b, c) for a in (1, 2, 3) for b, c in ((4, 5), (6, 7))]
    assert caught.value.__cause__ is not None


def test_a_row_that_is_skipped_fails():
    @each_row("a", [1])
    def check(a):
        pytest.skip("not here")

    with pytest.raises(AssertionError, match="not here"):
        check()


@pytest.fixture
def fixture():
    return "a fixture"


@pytest.mark.parametrize("outer", ["x", "y"])
@each_row("number", range(2))
def test_fixtures_and_parameters_are_for_all_rows(number, fixture, outer):
    assert number in (0, 1) and fixture == "a fixture" and outer in ("x", "y")


@pytest.mark.parametrize(
    "names, rows",
    {
        "no rows": ("a", []),
        "too few values": ("a, b", [(1,)]),
        "marks": ("a, b", [pytest.param(1, 2, marks=pytest.mark.skip)]),
        "another name": ("a, c", [(1, 2)]),
    }.values(),
)
def test_what_is_no_table(names, rows):
    with pytest.raises(AssertionError):

        @each_row(names, rows)
        def check(a, b):
            raise ZeroDivisionError
