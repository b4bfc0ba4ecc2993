from __future__ import annotations

import asyncio
import contextvars

import pytest

from wsmini.aio.connection import EagerFuture


@pytest.fixture
def loop():
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


@pytest.fixture
def run(loop):
    return loop.run_until_complete


async def waiting(waiter, seen):
    """A task that waits, and has begun to."""

    async def wait():
        try:
            await waiter
            seen.append("woken")
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    task = asyncio.ensure_future(wait())
    await asyncio.sleep(0)
    return task


def test_a_callback_of_the_loop_lets_the_task_go_on_in_there(loop, run):
    async def main():
        seen = []
        waiter = EagerFuture(loop=loop)
        task = await waiting(waiter, seen)

        def callback():
            waiter.wake(loop)
            seen.append("behind")
            waiter.wake(loop)  # does nothing more

        loop.call_soon(callback)
        loop.call_soon(seen.append, "other")
        await task
        await asyncio.sleep(0)
        assert seen == ["woken", "behind", "other"]

    run(main())


def test_where_a_task_runs_it_goes_on_later(loop, run):
    async def main():
        seen = []
        waiter = EagerFuture(loop=loop)
        task = await waiting(waiter, seen)
        waiter.wake(loop)
        seen.append("behind")
        await task
        assert seen == ["behind", "woken"]

    run(main())


def test_where_tasks_may_run_the_loop_it_goes_on_later(loop, run, monkeypatch):
    async def main():
        seen = []
        waiter = EagerFuture(loop=loop)
        task = await waiting(waiter, seen)

        def callback():
            waiter.wake(loop)
            seen.append("behind")

        loop.call_soon(callback)
        await task
        assert seen == ["behind", "woken"]

    monkeypatch.setattr(asyncio, "_nest_patched", True, raising=False)
    run(main())


def test_a_task_that_was_cancelled_is_not_woken(loop, run):
    async def main():
        seen = []
        waiter = EagerFuture(loop=loop)
        task = await waiting(waiter, seen)
        task.cancel()
        loop.call_soon(waiter.wake, loop)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert seen == ["cancelled"] and waiter.cancelled()

    run(main())


def test_it_can_be_woken_before_anybody_waits(loop, run):
    async def main():
        waiter = EagerFuture(loop=loop)
        waiter.wake(loop)
        await waiter
        assert waiter.done()

    run(main())


def test_the_task_goes_on_in_its_own_context(loop, run):
    name = contextvars.ContextVar("name", default="nobody's")

    async def main():
        waiter, seen = EagerFuture(loop=loop), []

        async def wait():
            name.set("the task's")
            await waiter
            seen.append((name.get(), asyncio.current_task()))

        task = asyncio.ensure_future(wait())
        await asyncio.sleep(0)

        def callback():
            waiter.wake(loop)
            seen.append((name.get(), asyncio.current_task()))

        loop.call_soon(callback)
        await task
        assert seen == [("the task's", task), ("nobody's", None)]

    run(main())


def test_what_ends_the_program_leaves_the_callback(loop, run):
    async def main():
        waiter = EagerFuture(loop=loop)

        async def wait():
            await waiter
            raise KeyboardInterrupt

        task = asyncio.ensure_future(wait())
        await asyncio.sleep(0)
        caught = []

        def callback():
            try:
                waiter.wake(loop)
            except KeyboardInterrupt:
                caught.append(True)

        loop.call_soon(callback)
        await asyncio.wait([task])
        assert caught == [True] and isinstance(task.exception(), KeyboardInterrupt)

    run(main())
