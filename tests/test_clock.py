"""Whether the machine has slept."""

from __future__ import annotations

import time

import fakes
import pytest
from tables import each_row

from wsmini.clock import SLEPT, suspend_detector


@each_row("slept", [0, 1, SLEPT - 0.1, SLEPT, 3600])
@each_row("waited", [0, 10, 86400])
def test_sleep_is_what_the_wall_clock_has_ahead(slept, waited):
    clock = fakes.Clock()
    watch = suspend_detector(clock(), clock.wall)
    clock.now += waited
    clock.sleep(slept)
    assert watch(clock(), clock()) is (slept >= SLEPT)
    clock.now += 10
    assert watch(clock(), clock()) is False


@pytest.mark.parametrize("late", [0, 1, SLEPT, 3600])
def test_sleep_is_a_wait_that_was_far_too_long(late):
    clock = fakes.Clock()
    watch = suspend_detector(clock(), clock.wall)
    until = clock() + 10
    clock.now = until + late
    assert watch(clock(), until) is (late >= SLEPT)


def test_a_wall_clock_that_is_put_back_is_no_sleep():
    clock = fakes.Clock()
    watch = suspend_detector(clock(), clock.wall)
    clock.sleep(-3600)
    assert not watch(clock(), clock())
    clock.sleep(SLEPT)
    assert watch(clock(), clock())


def test_the_system_s_clocks_keep_pace():
    now = time.monotonic()
    assert not suspend_detector(now)(time.monotonic(), now)
