"""The future of a task that receives, for ``aio``: it goes on as soon as there is a message.

Who waits for a future of asyncio goes on in the next iteration of the loop, behind one more system
call. When a message comes, the loop has called the connection and no task runs, so that the one
that waits can run there and then: for a short round trip, a fifth of the time.

Where tasks may run the loop that runs them, as ``nest_asyncio`` has it in notebooks, they are not
let go on in there: the loop couldn't call the connection meanwhile.
"""

from __future__ import annotations

import asyncio

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextvars import Context
    from typing import Any, Callable

    _Future = asyncio.Future[None]
else:
    _Future = asyncio.Future

_asyncio = vars(asyncio)  # nest_asyncio leaves its mark there
_add_done_callback = _Future.add_done_callback  # super() would take as long as that


class EagerFuture(_Future):
    """A future that one task awaits, at once; to be made with *loop*."""

    __slots__ = ("_resume",)  # what a task has given; there is none before

    def add_done_callback(
        self, callback: Callable[[Any], object], *, context: Context | None = None
    ) -> None:
        """As of futures; a task adds one when it begins to wait."""
        self._resume = callback, context
        _add_done_callback(self, callback, context=context)

    def wake(self, loop: asyncio.AbstractEventLoop) -> None:
        """Let the task go on: in here if none runs, else soon. For callbacks of *loop*, its own."""
        if self.done():
            return
        resume: tuple[Any, Context | None] = getattr(self, "_resume", (None, None))
        callback, context = resume
        nested = "_nest_patched" in _asyncio
        if context is None or nested or asyncio.current_task(loop) is not None:
            self.set_result(None)
            return
        self.remove_done_callback(callback)
        self.set_result(None)
        context.run(callback, self)
