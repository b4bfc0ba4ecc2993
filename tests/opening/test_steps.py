"""Steps, run to their end in this thread."""

from __future__ import annotations

import time

import pytest
from helpers import PATIENCE

from wsmini.opening import steps as steps_module
from wsmini.opening.steps import LoopRun, Wait, run_blocking
from wsmini.opening.streams import READ, WRITE


def test_running_to_the_end(pair):
    one, other = pair
    seen = []

    def steps():
        seen.append((yield Wait({one: WRITE, other: READ}, None)))
        one.send(b"x")
        seen.append((yield Wait({other: READ}, time.monotonic() + PATIENCE)))
        return "result"

    assert run_blocking(steps()) == "result"
    assert seen == [[one], [other]]


def test_a_deadline_resumes_with_nothing_ready(pair):
    seen = []

    def steps():
        for delay in (0.005, 0, -1):
            deadline = time.monotonic() + delay
            ready = yield Wait({pair[0]: READ}, deadline)
            seen.append((list(ready), time.monotonic() >= deadline))

    assert run_blocking(steps()) is None
    assert seen == [([], True)] * 3


def test_running_what_never_waits():
    def steps():
        return 5
        yield

    assert run_blocking(steps()) == 5


def test_an_exception_comes_out_of_run(pair):
    closed = []

    def steps():
        try:
            yield Wait({pair[0]: WRITE}, None)
            raise ZeroDivisionError
        finally:
            closed.append(True)

    with pytest.raises(ZeroDivisionError):
        run_blocking(steps())
    assert closed


def test_an_interrupted_wait_ends_the_steps(monkeypatch, pair):
    def interrupted(sockets, timeout):
        raise KeyboardInterrupt

    closed = []

    def steps():
        try:
            yield Wait({pair[0]: READ}, None)
        finally:
            closed.append(True)

    monkeypatch.setattr(steps_module, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_blocking(steps())
    assert closed


class InterruptedLoop:
    """A loop in which a signal handler raises where a reader is taken off for the first time."""

    def __init__(self):
        self.readers, self.errors = {}, [KeyboardInterrupt()]

    def add_reader(self, fd, callback, *args):
        self.readers[fd] = lambda: callback(*args)

    def remove_reader(self, fd):
        if self.errors:
            raise self.errors.pop()
        self.readers.pop(fd, None)


def test_steps_on_a_loop_end_though_they_are_interrupted_between_two(pair):
    def steps():
        with pair[0]:
            yield Wait({pair[0]: READ}, None)

    loop, results = InterruptedLoop(), []
    LoopRun(loop, steps(), lambda *result: results.append(result), at_once=True)
    loop.readers[pair[0].fileno()]()
    ((result, error),) = results
    assert result is None and isinstance(error, KeyboardInterrupt)
    assert pair[0].fileno() == -1 and not loop.readers


@pytest.mark.parametrize("outcome", ["a result", ZeroDivisionError()])
def test_steps_on_a_loop_are_told_to_be_over_though_their_end_is_interrupted(pair, outcome):
    class Timer:
        def cancel(self):
            raise KeyboardInterrupt

    def steps():
        yield Wait({pair[0]: READ}, time.monotonic() + PATIENCE)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    loop, results = InterruptedLoop(), []
    loop.errors.clear()
    loop.call_later = lambda *args: Timer()
    LoopRun(loop, steps(), lambda *result: results.append(result), at_once=True)
    with pytest.raises(KeyboardInterrupt):
        loop.readers[pair[0].fileno()]()
    assert results == [(outcome, None) if outcome == "a result" else (None, outcome)]
