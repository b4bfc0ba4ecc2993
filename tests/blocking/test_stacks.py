"""Who is inside a method of an object."""

from __future__ import annotations

import threading

import pytest
from pairs import Task

from wsmini.blocking.stacks import interrupted, others_inside


class Wire:
    def call(self, function):
        return function()

    def ask(self):
        return interrupted(self)

    def ask_indirectly(self):
        return self.ask()


class Owner:
    """As a connection has its wire."""

    def __init__(self, wire):
        self._wire = wire

    def __getattr__(self, name):
        raise AssertionError("not looked for")

    def call(self, function):
        return function()

    def ask(self):
        return interrupted(self._wire)

    def ask_the_wire(self):
        return self._wire.ask_indirectly()


def test_a_direct_call_interrupts_nothing():
    wire = Wire()
    owner = Owner(wire)
    assert not wire.ask()
    assert not wire.ask_indirectly()
    assert not owner.ask()
    assert not owner.ask_the_wire()
    assert not interrupted(wire)


def test_a_call_out_of_a_method_interrupts_it():
    wire, other = Wire(), Wire()
    owner = Owner(wire)
    for inside in (wire, owner):
        for ask in (wire.ask, wire.ask_indirectly, owner.ask, owner.ask_the_wire):
            assert inside.call(lambda ask=ask: ask())
        assert inside.call(lambda: interrupted(wire))
        assert not inside.call(lambda: other.ask())


@pytest.mark.parametrize("kind", [Wire, lambda: Owner(Wire())], ids=["wire", "owner"])
def test_other_threads_are_seen_wherever_they_are(kind):
    inside, entered, leave = kind(), threading.Event(), threading.Event()
    wire = getattr(inside, "_wire", inside) if isinstance(inside, Owner) else inside

    def wait():
        entered.set()
        leave.wait()

    task = Task(inside.call, wait)
    entered.wait()
    try:
        assert others_inside(wire)
        assert not others_inside(Wire())
        assert not wire.ask()
    finally:
        leave.set()
        task.result()
    assert not others_inside(wire)
    assert not wire.call(lambda: others_inside(wire))


def test_who_waits_for_a_lock_only_is_not_inside():
    class Waiting(Wire):
        def lock(self, lock, entered):
            entered.set()
            return lock.acquire()

    wire, lock, other, entered = Waiting(), threading.Lock(), threading.Lock(), threading.Event()
    lock.acquire()
    task = Task(wire.lock, lock, entered)
    entered.wait()
    try:
        assert others_inside(wire)
        assert others_inside(wire, but_for=other)
        assert not others_inside(wire, but_for=lock)
    finally:
        lock.release()
        task.result()
