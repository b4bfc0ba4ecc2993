from __future__ import annotations

import contextlib
import gc
import os
import random
import select
import selectors
import signal
import socket
import threading
import time
import weakref

import fakes
import helpers
import pytest

from wsmini.callbacks.loop import LONGEST_WAIT, MIN_CANCELLED, Loop
from wsmini.clock import SLEPT


@pytest.fixture
def clock():
    return fakes.Clock()


@pytest.fixture
def loop(clock):
    with Loop(clock=clock, wall=clock.wall, selector=fakes.Selector(clock)) as fake:
        yield fake


@pytest.fixture
def real():
    with Loop() as loop:
        yield loop


@pytest.fixture(params=["system's", "given"])
def either(request):
    """Of the ways to wait, the system's own and any selector."""
    given = selectors.SelectSelector() if request.param == "given" else None
    with Loop(selector=given) as loop:
        yield loop


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        yield ours, theirs


def run_until(loop, condition, most=10000):
    for _ in range(most):
        if condition():
            return
        loop.run_once()
    raise AssertionError("it doesn't happen")


# -- calls and timers --


def test_calls_are_made_in_order_and_those_they_add_in_the_next_iteration(loop):
    calls = []
    loop.call_soon(lambda: loop.call_soon(calls.append, 3))
    loop.call_soon(calls.append, 1)
    loop.call_soon(calls.append, 2)
    loop.run_once()
    assert calls == [1, 2]
    loop.run_once()
    assert calls == [1, 2, 3]


def test_timers_fire_in_the_order_of_their_times_and_then_of_their_setting(loop, clock):
    calls = []
    for delay, name in ((2, "c"), (1, "a"), (2, "d"), (1, "b"), (0, "now"), (-5, "late")):
        loop.call_later(delay, calls.append, (clock.now + max(delay, 0), name))
    loop.call_at(clock.now + 3, loop.stop)
    start = clock.now
    loop.run_forever()
    assert [name for _, name in calls] == ["late", "now", "a", "b", "c", "d"]
    assert clock.now == start + 3


def test_random_timers_fire_when_they_are_due_unless_cancelled(loop, clock):
    rng = random.Random(helpers.SEED)
    fired, expected = [], []
    for number in range(2000):
        when = clock.now + rng.randrange(50)
        timer = loop.call_at(when, lambda n=number: fired.append((clock.now, n)))
        if rng.random() < 0.6:
            timer.cancel()
            timer.cancel()
        else:
            expected.append((when, number))
    loop.call_later(51, loop.stop)
    loop.run_forever()
    assert fired == sorted(expected)


def test_a_cancelled_call_is_not_made_even_if_it_is_ready(loop):
    calls = []
    loop.call_soon(lambda: handle.cancel() or timer.cancel())
    handle = loop.call_soon(calls.append, "soon")
    timer = loop.call_later(0, calls.append, "timer")
    assert not handle.cancelled() and not timer.cancelled()
    loop.run_once()
    loop.run_once(0)
    assert calls == [] and handle.cancelled() and timer.cancelled()


def test_cancelled_timers_leave_nothing_behind(loop):
    class Thing:
        def method(self):
            raise AssertionError("cancelled")

    thing = Thing()
    gone = weakref.ref(thing)
    kept = loop.call_later(7, loop.stop)
    timer = loop.call_later(100, thing.method, thing)
    timer.cancel()
    del thing
    gc.collect()
    assert gone() is None
    for _ in range(10 * MIN_CANCELLED):
        loop.call_later(1000, print).cancel()
    assert len(loop._timers) <= 2 * MIN_CANCELLED + 2
    loop.run_forever()
    assert kept.when == loop.time()


def test_cancelling_a_timer_that_has_fired_changes_nothing(loop):
    timer = loop.call_later(0, int)
    loop.run_once()
    timer.cancel()
    assert loop._cancelled == 0 and loop.timeout() is None


def test_an_exception_leaves_the_run_with_its_traceback_and_the_rest_is_not_lost(loop):
    def fail():
        raise ValueError("mine")

    calls = []
    loop.call_soon(fail)
    loop.call_soon(calls.append, 1)
    with pytest.raises(ValueError, match="mine") as caught:
        loop.run_forever()
    assert caught.traceback[-1].name == "fail"
    assert calls == []
    loop.run_once()
    assert calls == [1]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_what_ends_programs_propagates(loop, kind):
    def end():
        raise kind

    loop.call_soon(end)
    with pytest.raises(kind):
        loop.run_forever()


def test_a_callback_cannot_run_the_loop(loop):
    loop.call_soon(loop.run_once)
    with pytest.raises(RuntimeError, match="runs already"):
        loop.run_once()
    loop.call_soon(loop.close)
    with pytest.raises(RuntimeError, match="stop"):
        loop.run_once()


def test_a_callback_that_has_stopped_the_loop_cannot_run_it_either(loop):
    def run():
        loop.stop()
        with pytest.raises(RuntimeError, match="runs already"):
            loop.run_forever()
        seen.append(loop.thread == threading.get_ident())

    seen = []
    loop.call_soon(run)
    loop.call_later(1, seen.append, "too late")
    loop.run_forever()
    assert seen == [True]


def test_stop_before_the_run_ends_it_at_once(loop):
    loop.stop()
    loop.run_forever()
    loop.call_soon(loop.stop)
    loop.run_forever()


def test_an_idle_loop_asks_the_selector_once_for_each_timer(loop, clock):
    for delay in range(1, 11):
        loop.call_later(delay * 100, int)
    loop.call_later(1001, loop.stop)
    loop.run_forever()
    assert loop._selector.selector.selects == 11


def test_waits_have_a_limit_that_systems_can_count(loop, clock):
    loop.call_later(float("inf"), int)
    start = clock.now
    loop.run_once()
    assert clock.now == start + LONGEST_WAIT


# -- descriptors --


def test_readers_and_writers_of_one_descriptor_come_and_go(either, pair):
    ours, theirs = pair
    calls = []
    either.add_writer(ours, calls.append, "w")
    either.run_once()
    assert calls == ["w"]
    either.add_reader(ours, calls.append, "r")
    theirs.send(b"x")
    either.run_once()
    assert sorted(calls[1:]) == ["r", "w"]
    assert either.remove_writer(ours) and not either.remove_writer(ours)
    either.run_once()
    assert calls[3:] == ["r"]
    either.add_reader(ours.fileno(), calls.append, "replaced")
    either.run_once()
    assert calls[4:] == ["replaced"]
    assert either.remove_reader(ours) and not either.remove_reader(ours)
    either.run_once(0)
    assert len(calls) == 5
    ours.close()
    assert not either.remove_reader(ours)


def test_a_reader_that_is_removed_by_another_callback_is_not_called(either, pair):
    ours, theirs = pair
    theirs.send(b"x")
    calls = []
    either.add_reader(ours, calls.append, "r")
    either.call_soon(either.remove_reader, ours)
    either.run_once()
    either.run_once(0)
    assert calls == []


def test_the_end_is_for_readers_and_writers(either, pair):
    ours, theirs = pair
    theirs.close()
    calls = []
    either.add_reader(ours, calls.append, "r")
    either.run_once()
    either.add_writer(ours, calls.append, "w")
    either.run_once()
    either.remove_reader(ours)
    either.run_once()
    assert calls == ["r", "r", "w", "w"]


def test_a_file_that_was_closed_can_be_removed_and_its_number_used_again(either, pair):
    ours, theirs = pair
    fd = ours.fileno()
    calls = []
    either.add_reader(ours, calls.append, "closed")
    ours.close()
    assert either.remove_reader(ours) and not either.remove_reader(ours)
    os.dup2(theirs.fileno(), fd)
    try:
        either.add_writer(fd, calls.append, "again")
        either.run_once()
        assert calls == ["again"]
        assert either.remove_writer(fd)
    finally:
        os.close(fd)


def test_what_cannot_be_watched_is_refused(either, pair):
    ours, _ = pair
    ours.close()
    for what in ("a file", ours, -1):
        with pytest.raises(ValueError):
            either.add_reader(what, int)
        assert not either.remove_reader(what)


def test_a_negative_timeout_is_no_time(either):
    either.run_once(-1)


@pytest.mark.skipif(not hasattr(select, "epoll"), reason="select says so only when it waits")
def test_what_the_system_cannot_watch_is_refused_and_forgotten(real):
    with open(__file__) as file:  # always ready
        for _ in range(2):
            with pytest.raises(PermissionError):
                real.add_reader(file, int)
        assert not real.remove_reader(file)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows selects sockets only")
def test_a_pipe_is_read_from(real):
    reader, writer = os.pipe()
    try:
        got = []
        real.add_reader(reader, lambda: got.append(os.read(reader, 100)))
        os.write(writer, b"data")
        real.run_once()
        assert got == [b"data"]
        real.remove_reader(reader)
    finally:
        os.close(reader)
        os.close(writer)


def test_any_selector_will_do(pair):
    ours, theirs = pair
    with Loop(selector=selectors.SelectSelector()) as loop:
        with pytest.raises(NotImplementedError, match="SelectSelector"):
            loop.fileno()
        theirs.send(b"x")
        loop.add_reader(ours, loop.stop)
        loop.run_forever()


# -- threads --


def test_threads_wake_the_loop_and_no_call_is_lost(real):
    count, total = 300, 0

    def called():
        nonlocal total
        total += 1
        if total == 4 * count:
            real.stop()

    def work():
        for _ in range(count):
            real.call_soon_threadsafe(called)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    real.run_forever()
    for thread in threads:
        thread.join()
    assert total == 4 * count


def test_many_wake_ups_are_one_byte(real):
    for _ in range(100000):
        real.call_soon_threadsafe(int)
    assert real._woken_by.recv(1000) == b"\0"


def test_stop_wakes_the_loop_from_another_thread(real):
    timer = threading.Timer(0.01, real.stop)
    timer.start()
    real.run_forever()
    timer.join()


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="Windows has no such signals")
def test_stop_in_a_signal_handler_that_interrupts_the_wait_ends_it(real):
    previous = signal.signal(signal.SIGUSR1, lambda *args: real.stop())
    late = []
    real.call_later(10, late.append, True)
    real.call_later(10, real.stop)
    timer = threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGUSR1))
    timer.start()
    try:
        real.run_forever()
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, previous)
    assert not late


# -- embedding --


def test_a_foreign_loop_can_wait_for_it(real, pair):
    ours, theirs = pair
    calls = []
    assert real.timeout() is None
    later = real.call_later(helpers.PATIENCE, int)
    assert 0 < real.timeout() <= helpers.PATIENCE
    later.cancel()
    real.call_later(0.01, calls.append, "timer")
    assert not select.select([real], [], [], real.timeout())[0]
    real.run_once(0)
    assert calls == ["timer"]
    real.add_reader(ours, lambda: calls.append(ours.recv(10)))
    theirs.send(b"x")
    assert select.select([real], [], [], helpers.PATIENCE)[0]
    real.run_once(0)
    assert calls == ["timer", b"x"]
    real.call_soon_threadsafe(calls.append, "soon")
    assert real.timeout() == 0
    assert select.select([real], [], [], helpers.PATIENCE)[0]
    real.run_once(0)
    assert calls[2:] == ["soon"] and not select.select([real], [], [], 0)[0]


def test_run_once_waits_no_longer_than_asked(loop, clock):
    start = clock.now
    loop.run_once(3)
    loop.call_later(10, int)
    loop.run_once(4)
    assert clock.now == start + 7


# -- signals --


@contextlib.contextmanager
def signal_restored(number):
    before = signal.getsignal(number)
    try:
        yield before
    finally:
        signal.signal(number, before)


def raise_signal(number):
    os.kill(os.getpid(), number)


@pytest.mark.skipif(os.name == "nt", reason="there are no such signals")
class TestSignals:
    def test_a_signal_wakes_the_loop_and_everything_is_restored(self, real):
        with signal_restored(signal.SIGTERM) as before:
            got = []
            real.add_signal_handler(signal.SIGTERM, lambda n: got.append(n) or real.stop(), 1)
            real.add_signal_handler(signal.SIGUSR1, print)
            real.call_soon(raise_signal, signal.SIGTERM)
            real.run_forever()
            assert got == [1]
            assert real.remove_signal_handler(signal.SIGTERM)
            assert not real.remove_signal_handler(signal.SIGTERM)
            assert signal.getsignal(signal.SIGTERM) == before
            real.close()
            assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL
            assert signal.set_wakeup_fd(-1) == -1

    def test_a_handler_can_be_replaced(self, real):
        with signal_restored(signal.SIGTERM) as before:
            got = []
            real.add_signal_handler(signal.SIGTERM, got.append, 1)
            real.add_signal_handler(signal.SIGTERM, got.append, 2)
            raise_signal(signal.SIGTERM)
            real.run_once()
            assert got == [2]
            real.remove_signal_handler(signal.SIGTERM)
            assert signal.getsignal(signal.SIGTERM) == before

    def test_a_signal_that_came_before_its_handler_was_removed_is_forgotten(self, real):
        with signal_restored(signal.SIGTERM):
            got = []
            signal.signal(signal.SIGTERM, lambda number, frame: got.append("the second of two"))
            real.add_signal_handler(signal.SIGTERM, got.append, 1)
            raise_signal(signal.SIGTERM)
            real.remove_signal_handler(signal.SIGTERM)
            real.run_once(0)
            # The next one isn't the second of two, which would do what it did before the loop.
            real.add_signal_handler(signal.SIGTERM, got.append, 2)
            raise_signal(signal.SIGTERM)
            real.run_once()
            assert got == [2]

    def test_what_cannot_be_handled_leaves_nothing_behind(self, real):
        with pytest.raises(OSError):
            real.add_signal_handler(signal.SIGKILL, print)
        assert signal.set_wakeup_fd(-1) == -1

    def test_only_the_main_thread_handles_signals(self, real):
        errors = []

        def add():
            try:
                real.add_signal_handler(signal.SIGTERM, print)
            except ValueError as exc:
                errors.append(exc)

        thread = threading.Thread(target=add)
        thread.start()
        thread.join()
        assert len(errors) == 1

    def test_the_second_ctrl_c_interrupts_a_callback_that_hangs(self, real):
        def hang():
            raise_signal(signal.SIGINT)
            raise_signal(signal.SIGINT)
            time.sleep(60)

        real.add_signal_handler(signal.SIGINT, print)
        real.call_soon(hang)
        with pytest.raises(KeyboardInterrupt):
            real.run_forever()

    def test_an_exception_of_a_signal_callback_leaves_the_run(self, real):
        def fail():
            raise ValueError("mine")

        real.add_signal_handler(signal.SIGUSR1, fail)
        raise_signal(signal.SIGUSR1)
        with pytest.raises(ValueError, match="mine"):
            real.run_forever()


# -- sleep --


def test_sleep_is_noticed_by_the_wall_clock(loop, clock):
    calls = []
    loop.add_sleep_handler(lambda: calls.append(1))
    loop.call_later(10, int)
    loop.run_once()
    loop.run_once(0)
    assert calls == []
    clock.sleep(SLEPT + 1)
    loop.run_once(0)
    loop.run_once(0)
    loop.run_once(0)
    assert calls == [1]


def test_sleep_is_noticed_by_a_timer_that_fires_far_too_late(clock):
    calls = []

    def handler():
        calls.append(clock.now)

    class Slow(fakes.Selector):
        def select(self, timeout=None):
            clock.now += 3600
            return super().select(timeout)

    with Loop(clock=clock, wall=clock.wall, selector=Slow(clock)) as loop:
        loop.add_sleep_handler(handler)
        loop.call_later(1, int)
        loop.run_once()
        loop.run_once(0)
        assert calls
        del calls[:]
        loop.remove_sleep_handler(handler)
        loop.run_once(1)
        loop.run_once(0)
        assert calls == []


# -- the end --


def test_close_releases_all():
    loop = Loop()
    thing = threading.Event()
    gone = weakref.ref(thing)
    loop.call_soon(thing.set)
    timer = loop.call_later(1, thing.set)
    loop.close()
    loop.close()
    del thing
    timer.cancel()
    gc.collect()
    assert gone() is None
    loop.stop()
    assert loop.remove_reader(0) is False
    for call in (loop.run_once, loop.run_forever, lambda: loop.call_soon_threadsafe(int)):
        with pytest.raises(RuntimeError, match="closed"):
            call()


def fork_in_a_callback(loop):
    child = os.fork()
    if not child:
        try:
            loop._turn(0)  # what comes next
        except RuntimeError as exc:
            os._exit("fork" not in str(exc))
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    loop.stop()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_child_is_told_to_make_its_own_loop(real, pair):
    ours, theirs = pair
    real.add_reader(ours, real.stop)
    child = os.fork()
    if not child:
        wrong = 0
        calls = [real.run_once, real.stop, lambda: real.call_soon_threadsafe(int)]
        calls += [lambda: real.add_reader(ours, int), lambda: real.remove_reader(ours)]
        for call in calls:
            try:
                call()
                wrong += 1
            except RuntimeError as exc:
                wrong += "fork" not in str(exc)
        real.close()
        os._exit(wrong)
    assert os.waitpid(child, 0)[1] == 0
    real.call_soon(fork_in_a_callback, real)
    real.run_forever()
    theirs.send(b"x")  # the parent's registration is as it was
    real.run_forever()
