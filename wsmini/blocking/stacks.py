"""Whether somebody is inside a method of a connection, told from the stacks of the threads.

A signal handler (or a finalizer) interrupts its own thread anywhere, also where that holds a lock.
To know, one could write down who is where at each call; looking when it matters, which is seldom,
costs nothing on the hot path. Methods count of the ``Wire`` and of what has it as its ``_wire``.
"""

from __future__ import annotations

import sys
from _thread import get_ident

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _thread import LockType
    from types import FrameType
    from typing import Optional


def interrupted(wire: object) -> bool:
    """Whether, below the methods that called this, this thread is in another method of *wire*.

    That is so in a signal handler that has interrupted it, and in what it calls of the user's.
    """
    frame: Optional[FrameType] = sys._getframe(1)
    while frame is not None and _is_method(frame, wire):
        frame = frame.f_back
    return _has_method(frame, wire)


def others_inside(wire: object, but_for: Optional[LockType] = None) -> bool:
    """Whether another thread is in a method of *wire*; not only to wait for *but_for*."""
    here = get_ident()
    for thread, top in sys._current_frames().items():
        frame: Optional[FrameType] = top
        while frame is not None and not _is_method(frame, wire):
            frame = frame.f_back
        if thread == here or frame is None:
            continue
        waits = frame.f_code.co_name == "lock" and frame.f_locals.get("lock") is but_for
        if but_for is None or not waits:
            return True
    return False


def _has_method(frame: Optional[FrameType], wire: object) -> bool:
    while frame is not None:
        if _is_method(frame, wire):
            return True
        frame = frame.f_back
    return False


def _is_method(frame: FrameType, wire: object) -> bool:
    if frame.f_code.co_varnames[:1] != ("self",):
        return False  # looking at the locals of just any frame may have effects
    this = frame.f_locals.get("self")
    if this is wire:
        return True
    try:
        return object.__getattribute__(this, "_wire") is wire  # no __getattr__ of the user's
    except AttributeError:
        return False
