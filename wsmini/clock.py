"""Whether the machine has slept, or the process was stopped: whoever waits asks when it wakes up.

The monotonic clock stands still while most machines sleep, and timers with it: what was due in ten
seconds is due ten seconds after the lid is opened. The peer has seen an hour pass, and may be gone.
Nothing wakes up for this; it is noticed at the first wake-up that comes.
"""

from __future__ import annotations

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Optional

    Asked = Callable[[float, float], bool]

SLEPT = 5.0  # seconds that nobody accounts for


def suspend_detector(now: float, wall: Optional[Callable[[], float]] = None) -> Asked:
    """What tells, for one that waits, whether it has slept.

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

    def slept(now: float, until: float) -> bool:
        nonlocal offset
        before, offset = offset, wall_time() - now
        return offset - before >= SLEPT or now - until >= SLEPT

    return slept
