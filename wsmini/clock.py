"""Time: deadlines, and whether the machine has slept.

The monotonic clock stands still while most machines sleep, and timers with it: what was due in ten
seconds is due ten seconds after the lid is opened. The peer has seen an hour pass, and may be gone.
Nothing wakes up for this: a waiting thread or loop asks at its next wake-up.
"""

from __future__ import annotations

import time
from _thread import TIMEOUT_MAX

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

    HasSlept = Callable[[float, float], bool]

NEVER = float("inf")
# Seconds.
LEAVING = 0.5  # for the closing handshake when the program or the task has to end
SETTLE = 1.0  # to read, behind a write that has failed, why it has
SLEPT = 5.0  # missing on the monotonic clock


def deadline_after(timeout: float, clock: Callable[[], float] = time.monotonic) -> float:
    """When *timeout* seconds have passed, by *clock*.

    Raises:
        TypeError: if that isn't a number.
    """
    try:
        return clock() + timeout
    except TypeError:
        raise TypeError(f"timeout is a number of seconds or None, not {timeout!r}") from None


def lock_timeout(deadline: float | None) -> float:
    """Seconds until *deadline*, as locks take them: -1 for no limit."""
    if deadline is None:
        return -1.0
    # Locks raise OverflowError for more than TIMEOUT_MAX.
    return min(max(0.0, deadline - time.monotonic()), TIMEOUT_MAX)


def suspend_detector(now: float, wall: Callable[[], float] | None = None) -> HasSlept:
    """Make a function that says whether the machine has slept, or the process was stopped.

    Args:
        now: the time by its clock: seconds that never go backwards.
        wall: seconds of a clock that goes on while the machine sleeps; ``time.time`` by default.

    Returns:
        A function: called with *now* and the time *until* when the waiting was to be over, it says
        whether the machine has slept since it was asked last: the wall clock has gone ahead of the
        other one, or the wait was longer than it should be.
    """
    wall_time = time.time if wall is None else wall
    offset = wall_time() - now  # a closure, as a loop calls this in each iteration

    def has_slept(now: float, until: float) -> bool:
        nonlocal offset
        before, offset = offset, wall_time() - now
        # Where the monotonic clock stands still, the wall clock gains on it; where it goes on, or
        # the process was stopped, the wait ends late. A wall clock that is set back says nothing.
        return offset - before >= SLEPT or now - until >= SLEPT

    return has_slept
