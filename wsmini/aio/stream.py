"""Messages in parts, on asyncio: those of one that comes, and of one that is to be sent."""

from __future__ import annotations

from ..exceptions import ConcurrencyError, ConnectionClosed
from ..sansio.payload import chunk_decoder, decode_message

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, AsyncGenerator, Optional, Union

    from ..sansio.frames import Data
    from ..sansio.messages import Message
    from .connection import Connection

    Part = Union[str, Data]

TWO_RECEIVERS = "another task is receiving already"


class MessageStream:
    """One message, chunk by chunk, for ``recv_streaming``."""

    __slots__ = ("_begun", "_convert", "_decode", "_fin", "_ws", "taken")

    def __init__(self, ws: Connection, decode: Optional[bool]) -> None:
        self._ws, self._decode, self._convert = ws, decode, chunk_decoder(decode)
        self._begun = self._fin = self.taken = False

    def __aiter__(self) -> MessageStream:
        return self

    async def __anext__(self) -> Message:
        ws = self._ws
        if self._fin or (self._begun and ws._stream is not self):
            raise StopAsyncIteration
        if not self._begun:
            if ws._receiver is not None:
                raise ConcurrencyError(TWO_RECEIVERS)
            if ws._stream is not None:
                ws._leave_stream()
            if ws._unread:
                self._begun = self._fin = True
                message = ws._unread.popleft()
                return message if self._decode is None else decode_message(message, self._decode)
            ws._stream, ws._transport.streaming, self._begun = self, True, True
        try:
            await self._wait()
        except ConnectionClosed:
            ws._stream = None
            raise
        chunk, self._fin = ws._chunks.pop(0)
        self.taken = True
        if self._fin:
            ws._stream = None
        return self._convert(chunk, self._fin)

    async def _wait(self) -> None:
        """Wait until there is a chunk."""
        ws = self._ws
        waiter = ws._waiter_for(ws._chunks, self)
        while waiter is not None:
            try:
                await waiter
            finally:
                ws._receiver = waiter = None
            waiter = ws._waiter_for(ws._chunks, self)


async def iterate(parts: Any) -> AsyncGenerator[Part, None]:
    """The parts of a message, from an iterable of either kind; a generator is closed then."""
    if hasattr(parts, "__aiter__"):
        try:
            async for part in parts:
                yield part
        finally:
            if hasattr(parts, "aclose"):
                await parts.aclose()  # not by Python, which gets around to it later, or never
        return
    if isinstance(parts, dict):
        raise TypeError("a message is str, bytes-like, or an iterable of these, not a dict")
    try:
        iterator = iter(parts)
    except TypeError:
        problem = "a message is str, bytes-like, or an iterable of these, not "
        raise TypeError(problem + type(parts).__name__) from None
    for part in iterator:
        yield part
