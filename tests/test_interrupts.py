"""Waiting threads are woken, whatever a signal handler raises while they are told."""

from __future__ import annotations

from _thread import allocate_lock

import points
import pytest
from pairs import Task, eventually

from wsmini.clock import NEVER, lock_timeout
from wsmini.interrupts import Waiters


def never():
    return False


@pytest.mark.parametrize(
    "kind", [KeyboardInterrupt, RuntimeError, ValueError, IndexError, KeyError]
)
def test_waking_may_be_interrupted(kind):
    """What the handler raises arrives, and the next one to tell them tells all that wait still."""
    at, where = 0, ""

    def interrupt():
        raise kind("from the handler")

    while where is not None:
        waiters = Waiters()
        tasks = [Task(waiters.wait, never, lock_timeout(NEVER)) for _ in range(2)]
        eventually(lambda waiters=waiters: len(waiters.locks) == 2)
        _, error, reached = points.run(waiters.notify, at, interrupt)
        where, at = reached.where, at + 1
        assert (type(error), str(error).strip("'")) == (kind, "from the handler") or where is None
        waiters.notify()
        for task in tasks:
            task.result()
        assert not waiters.locks, where
    assert at > 3


def test_a_thread_that_is_told_twice_before_it_runs():
    waiters = Waiters()
    waiters.locks[allocate_lock()] = None  # released, and its thread hasn't taken it out yet
    waiters.notify()
    assert not waiters.locks
