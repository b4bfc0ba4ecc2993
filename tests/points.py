"""Interrupt a call at each point at which this Python can run a signal handler.

``run(function, at, action)`` calls *function* and, at its point number *at* within the package,
runs *action* in the same thread, as a handler would be: it may call anything, or raise. With more
actions, each runs *gap* points behind the one before it. Which points there are depends on the
version of CPython, as its source says:

* 3.8 and 3.9 look for signals in front of nearly each opcode, but not behind those that end with
  ``FAST_DISPATCH``, nor in front of those that begin a ``try`` or a ``with``;
* 3.10 looks at the start of a function, behind calls, and when a jump is taken, but not in front of
  a ``try`` or ``with`` either;
* since 3.11 it looks at the start of a function, behind calls of C functions, and when a jump goes
  backwards: up to 3.12 it is there then, since 3.13 it hasn't jumped yet. (Where a loop ends with a
  condition, that jump is outside of the ``try`` that the loop is in, CPython's issue 148278.)

Up to 3.10, points are found by tracing opcodes. Since then those of calls are found by profiling:
the exception belongs to the call then, as a handler's does, and not to what follows, which may
stand outside of the ``try``. Since 3.13 jumps are found by ``sys.monitoring``: tracing tells
nothing more of the opcodes of a function once an exception has come out of that.
"""

from __future__ import annotations

import contextlib
import dis
import inspect
import os
import sys
from _thread import get_ident

import wsmini

TOOL = 4  # of sys.monitoring, which nobody else uses
PACKAGE = os.path.dirname(wsmini.__file__) + os.sep
VERSION = sys.version_info[:2]

# In front of these 3.8 to 3.10 don't look.
BEGIN = {"SETUP_FINALLY", "SETUP_WITH", "BEFORE_ASYNC_WITH", "YIELD_FROM"}
# Behind these 3.8 and 3.9 don't look.
FAST = set(
    """
    NOP LOAD_FAST LOAD_CONST STORE_FAST POP_TOP ROT_TWO ROT_THREE ROT_FOUR DUP_TOP DUP_TOP_TWO
    UNARY_NOT POP_JUMP_IF_FALSE POP_JUMP_IF_TRUE JUMP_IF_FALSE_OR_POP JUMP_IF_TRUE_OR_POP
    JUMP_FORWARD EXTENDED_ARG
""".split()
) | ({"IS_OP", "CONTAINS_OP"} if VERSION == (3, 9) else set())
JUMPS = set(dis.opname[n] for n in dis.hasjrel + dis.hasjabs)

_instructions = {}


def instructions_of(code):
    """Offset -> (name of the opcode, offset of the next one)."""
    found = _instructions.get(code)
    if found is None:
        listed = list(dis.get_instructions(code))
        ends = [each.offset for each in listed[1:]] + [len(code.co_code)]
        found = {each.offset: (each.opname, end) for each, end in zip(listed, ends)}
        _instructions[code] = found
    return found


def is_point(code, before, now):
    """Whether Python looks for signals between two opcodes; *before* is -1 at the start."""
    instructions = instructions_of(code)
    name = instructions.get(now, ("",))[0]
    if before < 0:
        return VERSION < (3, 11) and name not in BEGIN
    previous, following = instructions.get(before, ("", now))
    if VERSION < (3, 10):
        return previous not in FAST and name not in BEGIN
    if VERSION < (3, 11):
        jumped = previous in JUMPS and now != following and previous != "FOR_ITER"
        return (previous.startswith("CALL_") or jumped) and name not in BEGIN
    if previous == "RESUME":  # of a generator that goes on; else profiling tells of it
        return code.co_flags & inspect.CO_GENERATOR
    return "JUMP" in previous and now <= before and "NO_INTERRUPT" not in previous


class Points:
    """Counts points, and runs the first of *actions* at number *at*, the others *gap* later.

    Attributes:
        where: the place of the last one that was run.
    """

    def __init__(self, at, actions, gap):
        self.at, self.gap, self.actions = at, gap, list(actions)
        self.count, self.where = 0, None
        self._last = {}

    def start(self):
        if VERSION >= (3, 13):
            instruction, self.thread = sys.monitoring.events.INSTRUCTION, get_ident()
            sys.monitoring.use_tool_id(TOOL, "points")
            sys.monitoring.register_callback(TOOL, instruction, self.instruction)
            sys.monitoring.set_events(TOOL, instruction)
        else:
            sys.settrace(self.trace)
        if VERSION >= (3, 11):
            sys.setprofile(self.profile)

    def instruction(self, code, now):
        if not code.co_filename.startswith(PACKAGE):
            return sys.monitoring.DISABLE
        if get_ident() != self.thread:  # it is for all threads, as tracing isn't
            return None
        instructions = instructions_of(code)
        resumes = instructions.get(now - 2, ("",))[0] == "RESUME"
        if instructions.get(now, ("",))[0] == "JUMP_BACKWARD" or (
            resumes and code.co_flags & inspect.CO_GENERATOR
        ):
            self.reach(sys._getframe(1))
        return None

    def trace(self, frame, event, arg):
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self._trace

    def _trace(self, frame, event, arg):
        if event == "opcode":
            before, now = self._last.get(frame, -1), frame.f_lasti
            self._last[frame] = now
            if is_point(frame.f_code, before, now):
                self.reach(frame)
        elif event == "return":
            self._last.pop(frame, None)
        return self._trace

    def profile(self, frame, event, arg):
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return
        generator = frame.f_code.co_flags & inspect.CO_GENERATOR
        if event == "c_return" or (event == "call" and not generator):
            self.reach(frame)

    def reach(self, frame):
        self.count += 1
        if self.count - 1 == self.at:
            self.where = f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_name}"
            stop()
            self.actions.pop(0)()
            if self.actions:
                self.at += self.gap
                self.start()
            else:
                self._last.clear()


def stop():
    sys.setprofile(None)
    sys.settrace(None)
    if VERSION >= (3, 13) and sys.monitoring.get_tool(TOOL) is not None:
        sys.monitoring.set_events(TOOL, 0)
        sys.monitoring.free_tool_id(TOOL)


@contextlib.contextmanager
def not_interrupted():
    """Something of the test's within a call that is interrupted."""
    trace, profile = sys.gettrace(), sys.getprofile()
    points = getattr(profile, "__self__", None)
    stop()
    yield
    if VERSION >= (3, 13) and isinstance(points, Points):
        points.start()  # monitoring, too
    else:
        sys.settrace(trace)
        sys.setprofile(profile)


def run(function, at, *actions, gap=0):
    """Call *function*, interrupted at that point; (what it returns, what it raises, the points)."""
    points = Points(at, actions, gap)
    result = error = None
    points.start()
    try:
        result = function()
    except BaseException as exc:
        error = exc
    finally:
        stop()
    return result, error, points
