"""An open connection on asyncio.

A connection belongs to the event loop in which it was opened, and to its thread. Any number of
tasks may send, each message goes out whole; one at a time receives. No task runs for a connection:
the loop calls its ``EventTransport`` when there is something to do.

Cancellation: a cancelled ``recv`` loses nothing. A cancelled ``send`` has sent nothing if it waited
for its turn, else the loop sends the message to its end; a fragmented message that can't be
completed ends the connection with 1011. A cancelled ``close``, or opening, drops the connection.
Where ``async with`` is cancelled, the server is told, and has half a second to answer.

Fairness: ``recv`` doesn't suspend while there are messages that came with one read, but once in
four batches of them; ``send`` lets others run once in ``MAX_TURN`` messages. A task that waits for
a message goes on as soon as it comes alone, in front of what else the loop has to do: see
``EagerFuture``.
"""

from __future__ import annotations

import asyncio
from _thread import get_ident
from collections import deque

from ..clock import LEAVING, deadline_after
from ..events.transport import EventTransport
from ..exceptions import ConcurrencyError, ConnectionClosed, ConnectionClosedOK
from ..info import ConnectionInfo
from ..sansio.frames import close_payload, control_payload
from ..sansio.messages import chunk_decoder, decode_message, encode_message, encode_whole, parts_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Collection, Generator
    from contextvars import Context
    from typing import Any, Callable, Iterable, Literal, overload

    from ..opening.opening import Opened
    from ..opening.steps import HostLoop
    from ..options import Options
    from ..sansio.frames import Data
    from ..sansio.messages import Message

    Part = str | Data
    _Future = asyncio.Future[None]
else:
    _Future = asyncio.Future

MAX_BUFFER = 65536  # bytes that wait for the stream, until send() waits too
MAX_TURN = 256  # messages sent in one go before other tasks get a turn

TWO_RECEIVERS = "another task is receiving already"

_asyncio = vars(asyncio)  # nest_asyncio leaves its mark there
_add_done_callback = _Future.add_done_callback  # super() would take as long as that


class EagerFuture(_Future):
    """The future of a task that receives; it awaits it at once. To be made with *loop*.

    Who waits for a future of asyncio goes on in the next iteration of the loop, behind one more
    system call. When a message comes, the loop has called the connection and no task runs, so that
    the one that waits can run there and then: for a short round trip, a fifth of the time.

    Where tasks may run the loop that runs them, as ``nest_asyncio`` has it in notebooks, they are
    not let go on in there: the loop couldn't call the connection meanwhile.
    """

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


class Ping:
    """A ping that was sent; ``await`` it for the round trip in seconds, as ``wait()``."""

    __slots__ = ("_future",)

    def __init__(self, future: asyncio.Future[float]) -> None:
        self._future = future

    def __await__(self) -> Generator[Any, None, float]:
        return self.wait().__await__()

    async def wait(self, timeout: float | None = None) -> float:
        """Wait for the pong.

        Returns:
            The round trip in seconds.

        Raises:
            TimeoutError: if it didn't come within *timeout* seconds; call again to wait on.
            ConnectionClosed: if the connection was closed before.
            RuntimeError: in another event loop than the connection's.
        """
        if asyncio.get_running_loop() is not self._future.get_loop():
            raise RuntimeError("this ping belongs to another event loop, which sent it")
        # Not by asyncio.shield, which may complain of the exception that nobody waits for any more.
        if not self._future.done():
            await asyncio.wait([self._future], timeout=timeout)
        if not self._future.done():
            raise TimeoutError(f"no pong within {timeout} s")
        return self._future.result()


class Connection(ConnectionInfo):
    """An open WebSocket connection. Use ``connect()`` to make one.

    Attributes:
        request, response: of the opening handshake, with ``headers``.
        subprotocol: the one that the server chose, or ``None``.
        timings: seconds that each phase of the opening took, by its name.
        ssl_object: the ``ssl.SSLObject`` that speaks TLS with the server, to be asked for its
            ``getpeercert()``, ``version()`` and ``cipher()``; ``None`` for ``ws://``.
        local_address, remote_address: of the socket, as the ``socket`` module has them.
    """

    _called = "wsmini.aio"

    def __init__(
        self, loop: asyncio.AbstractEventLoop, host: HostLoop, opened: Opened, options: Options
    ) -> None:
        super().__init__(opened)
        self._loop, self._max_queue = loop, options.max_queue
        self._thread = get_ident()
        self._unread: deque[Message] = deque()
        self._chunks: list[tuple[Message, bool]] = []  # an empty deque takes 600 bytes
        self._stream: MessageStream | None = None  # a recv_streaming() that goes on
        self._waiter: EagerFuture | None = None  # of the task that receives
        self._reading_to_end = False
        self._waiting: list[asyncio.Future[None]] = []  # for room, for their turn, or for the end
        self._turn_of: asyncio.Task[Any] | None = None  # which sends a fragmented message
        self._sent = 0
        self._pings: set[asyncio.Future[float]] = set()
        self._transport = EventTransport(host, opened, options, self, gather=False)
        self._protocol = self._transport.protocol
        self._transport.start()

    def _check_loop(self) -> None:
        """Raise ``RuntimeError`` in another event loop than the connection's."""
        if asyncio.get_running_loop() is not self._loop:
            raise RuntimeError("this connection belongs to another event loop, which opened it")

    # -- for the transport --

    def _on_message(self, message: Message, now: float) -> None:
        if self._reading_to_end:
            self._on_messages([message])
            return
        unread = self._unread
        unread.append(message)
        self._transport.half_done = False
        if self._waiter is not None:
            self._waiter.wake(self._loop)  # and it has gone on, mostly
        if len(unread) >= self._max_queue:
            self._transport.pause()

    def _on_messages(self, messages: list[Message]) -> bool:
        """Who receives has its turn before more is parsed."""
        unread = self._unread
        # While closing, nobody may be there to make room, and the answer has to be seen.
        if self._reading_to_end and len(unread) >= self._max_queue:
            self._max_queue = 0  # and nothing any more: messages don't go missing in the middle
            return False
        unread.extend(messages)
        self._received(len(unread))
        return not self._reading_to_end

    def _on_chunk(self, chunk: tuple[Message, bool]) -> None:
        if self._reading_to_end and len(self._chunks) >= self._max_queue:
            self._max_queue = 0
            self._transport.skip()
            return
        self._chunks.append(chunk)
        if self._stream is not None:
            self._received(len(self._chunks))
        elif chunk[1]:  # recv() came instead, before a chunk was taken: it gets the whole message
            self._join_chunks()

    def _received(self, count: int) -> None:
        if count >= self._max_queue and not self._reading_to_end:
            self._transport.pause()
        _wake(self._waiter)

    def _on_drain(self) -> None:
        for future in self._waiting:
            _wake(future)

    def _on_end(self) -> None:
        self._on_drain()
        _wake(self._waiter)
        for future in self._pings:
            if not future.done():
                future.set_exception(self._protocol.close_exc())
                future.exception()  # who doesn't wait needn't hear of it

    # -- receiving --

    if TYPE_CHECKING:

        @overload
        async def recv(self, timeout: float | None = None, *, decode: Literal[True]) -> str: ...

        @overload
        async def recv(self, timeout: float | None = None, *, decode: Literal[False]) -> bytes: ...

        @overload
        async def recv(self, timeout: float | None = None, *, decode: None = None) -> Message: ...

    async def recv(self, timeout: float | None = None, *, decode: bool | None = None) -> Message:
        """Receive a message: ``str`` if it is text, ``bytes`` if it is binary.

        A timeout loses nothing, nor does to be cancelled. What is left of a message that
        ``recv_streaming`` has begun is skipped.

        Args:
            timeout: seconds to wait, ``None`` for no limit. Unlike this, ``asyncio.wait_for`` may
                swallow a cancellation before Python 3.12.
            decode: ``False`` for ``bytes`` and ``True`` for ``str`` (from UTF-8) in any case.

        Raises:
            TimeoutError: if no message is complete in time.
            ConnectionClosed: if the connection is closed and all messages were received.
            ConcurrencyError: if another task is receiving.
            UnicodeDecodeError: with ``decode=True``, if a binary message isn't UTF-8; it is lost.
            RuntimeError: in another event loop than the connection's.
        """
        unread = self._unread
        if timeout is not None and (not unread or self._waiter or self._stream):
            await self._wait_for(unread, None, timeout)
        # Again where another task was faster to take it, and where a stream has to be left first.
        while not unread or self._waiter is not None or self._stream is not None:
            waiter = self._begin_to_wait(unread)
            if waiter is not None:  # here and in __anext__, as a coroutine would cost 3%
                try:
                    await waiter
                finally:  # an exception keeps this frame, which is not to keep the task
                    self._waiter = waiter = None
        message = unread.popleft()
        return message if decode is None else decode_message(message, decode)

    async def _wait_for(
        self, queue: Collection[Any], stream: MessageStream | None, timeout: float | None
    ) -> None:
        """Wait until there is something in *queue*; not by ``asyncio.wait_for``, so that a
        cancellation ends the task that waits."""
        timer, deadline = None, None
        if timeout is not None:
            deadline = deadline_after(timeout, self._loop.time)
        waiter = self._begin_to_wait(queue, stream)
        while waiter is not None:
            if deadline is not None:
                left = deadline - self._loop.time()
                # With timeout=0, too, what is in the kernel's hands gets one turn of the loop.
                if timer is not None and left <= 0:
                    self._waiter = None
                    raise TimeoutError("no message was complete in time; nothing is lost")
                timer = self._loop.call_later(max(left, 0.0), _wake, waiter)
            try:
                await waiter
            finally:
                if timer is not None:
                    timer.cancel()
                self._waiter = waiter = None
            waiter = self._begin_to_wait(queue, stream)

    def _begin_to_wait(
        self, queue: Collection[Any], stream: MessageStream | None = None
    ) -> EagerFuture | None:
        """What to wait for as the receiver; ``None`` if there is something in *queue*.

        That is the one of messages or the one of *stream*'s chunks. ``_waiter`` is to be reset
        when the waiting is over.
        """
        if self._waiter is not None:
            raise ConcurrencyError(TWO_RECEIVERS)
        if self._stream is not stream:
            self._leave_stream()
        if queue:
            return None
        transport = self._transport
        if transport.paused:
            transport.resume()
        transport.pump()  # what was read before is parsed only now
        if queue:
            return None
        if transport.closed:
            self._stream = None
            raise self._protocol.close_exc()
        self._waiter = waiter = EagerFuture(loop=self._loop)
        return waiter

    def _leave_stream(self) -> None:
        """Skip the rest of the message that came in chunks; join them if none was taken."""
        stream, self._stream = self._stream, None
        if stream is None:
            return
        if stream.taken:
            self._chunks.clear()
            self._transport.skip()
        elif not self._chunks:
            self._transport.streaming = False
        elif self._chunks[-1][1]:
            self._join_chunks()

    def _join_chunks(self) -> None:
        parts: list[Any] = [chunk for chunk, _ in self._chunks]
        self._chunks.clear()
        # Those that are here came behind it.
        self._unread.appendleft(type(parts[0])().join(parts))
        self._received(len(self._unread))

    def __aiter__(self) -> Connection:
        """Receive messages until the connection is closed with 1000 or 1001.

        Raises:
            ConnectionClosedError: if it is closed in another way.
            ConcurrencyError: as ``recv``.
        """
        return self

    async def __anext__(self) -> Message:
        unread = self._unread
        while not unread or self._waiter is not None or self._stream is not None:
            try:
                waiter = self._begin_to_wait(unread)
            except ConnectionClosedOK:
                raise StopAsyncIteration from None
            if waiter is not None:
                try:
                    await waiter
                finally:
                    self._waiter = waiter = None
        return unread.popleft()

    if TYPE_CHECKING:

        @overload
        def recv_streaming(self, decode: Literal[True]) -> AsyncIterator[str]: ...

        @overload
        def recv_streaming(self, decode: Literal[False]) -> AsyncIterator[bytes]: ...

        @overload
        def recv_streaming(self, decode: None = None) -> AsyncIterator[Message]: ...

    def recv_streaming(self, decode: bool | None = None) -> AsyncIterator[Any]:
        """Receive one message in chunks, as they arrive: for messages that are large or slow.

        Chunks end where the network or the sender cut; they aren't the fragments of the sender. To
        receive something else before its end skips the rest of the message. The limit on the size
        of a message holds.

        Args:
            decode: as in ``recv``.

        Raises:
            ConnectionClosed: if the connection is closed; perhaps after some chunks.
            ConcurrencyError: as ``recv``.
        """
        return MessageStream(self, decode)

    async def recv_into(self, buffer: bytearray | memoryview, timeout: float | None = None) -> int:
        """Receive a message, text as UTF-8, into *buffer*.

        Args:
            buffer: a ``bytearray``, or what else can be written to.
            timeout: as for ``recv``.

        Returns:
            The number of bytes of the message.

        Raises:
            ValueError: if the message is longer than *buffer*; it can be received still.
            TypeError: if *buffer* can't be written to.
            TimeoutError, ConnectionClosed, ConcurrencyError: as ``recv``.
        """
        view = memoryview(buffer).cast("B")
        if view.readonly:
            raise TypeError(f"a {type(buffer).__name__} can't be written to")
        message = await self.recv(timeout)
        data = message.encode() if isinstance(message, str) else message
        if len(data) > len(view):
            self._unread.appendleft(message)
            raise ValueError(f"a message of {len(data)} bytes doesn't fit into {len(view)}")
        view[: len(data)] = data
        return len(data)

    # -- sending --

    async def send(
        self,
        message: Part | Iterable[Part] | AsyncIterable[Part],
        *,
        text: bool | None = None,
        compress: bool | None = None,
        timeout: float | None = None,
    ) -> None:
        """Send a message. Any number of tasks may: each message goes out whole.

        It waits while more than ``MAX_BUFFER`` bytes are to be sent yet; with a *timeout*, only in
        front of the message, which is accepted as a whole then, or not at all.

        Args:
            message: ``str`` is sent as text, bytes-like as binary. Anything else that can be
                iterated over, asynchronously too, is sent as one fragmented message, a fragment
                for each ``str`` or bytes-like in it; an empty one sends nothing. If it fails
                behind its first fragment, or yields something else, the message can't be
                completed, and the connection is closed with 1011. An asynchronous generator is
                closed when this returns.
            text: ``True`` or ``False`` to send as text or as binary whatever the type.
            compress: ``False`` to leave this message out of compression.
            timeout: seconds until there has to be room for it, ``None`` for no limit; for all
                fragments of one that can be iterated over.

        Raises:
            ConnectionClosed: if the connection is closed, or closing.
            TimeoutError: if the timeout passes before anything of it was accepted. If fragments
                were, the connection can't go on, and this is a ``ConnectionClosedError``.
            TypeError: if *message* is none of these.
            ValueError: if ``text=True`` and the bytes aren't UTF-8, or a ``str`` has surrogates.
        """
        data: Data
        deadline = None if timeout is None else deadline_after(timeout, self._loop.time)
        if type(message) is str and text is None:
            opcode, data = 1, message.encode()
        else:
            whole = encode_whole(message, text)
            if whole is None:
                await self._send_fragments(message, text, compress, deadline)
                return
            # What isn't masked at once must not change until it is.
            opcode, data = whole[0], bytes(whole[1])
        # Nearly never in need of a call: another thread, or a loop within another one.
        if get_ident() != self._thread or not self._loop.is_running():
            self._check_loop()
        transport, buffer = self._transport, self._transport.buffer
        self._sent += 1
        waiting = buffer.accepted - buffer.written
        if self._sent >= MAX_TURN or self._turn_of is not None or waiting > MAX_BUFFER:
            await self._wait_for_turn(deadline)
        try:
            transport.send(opcode, data, compress)
        except ConnectionClosed:
            raise await self._close_exc_when_known() from self._protocol.failure
        # It is accepted: with a timeout, nothing is said any more that would make the caller think
        # that it isn't.
        waiting = buffer.accepted - buffer.written
        if buffer.error is not None or (waiting > MAX_BUFFER and deadline is None):
            await self._wait_for_room()

    async def _wait_for_turn(self, deadline: float | None = None) -> None:
        """Let others go first. Raises as ``_wait_for_room``."""
        if self._sent >= MAX_TURN:
            self._sent = 0
            await asyncio.sleep(0)
        while True:
            await self._wait_for_room(deadline)
            if self._turn_of is None:
                break
            if self._turn_of is asyncio.current_task():
                raise ConcurrencyError("this task is in the middle of sending a fragmented message")
            if self._transport.gone:  # the task whose turn it is may wait for something else
                raise await self._close_exc_when_known() from self._protocol.failure
            await self._wait(deadline)

    async def _wait_for_room(self, deadline: float | None = None) -> None:
        """Wait until the stream has taken what waits.

        Raises:
            ConnectionClosed: if the connection is lost before.
            TimeoutError: if *deadline* passes first.
        """
        transport = self._transport
        while transport.buffered > MAX_BUFFER and not transport.gone:
            await self._wait(deadline)
        # Not if the connection has closed since, and all of it had gone out before.
        if transport.buffer.error is not None or (transport.closed and transport.buffered):
            raise await self._close_exc_when_known() from self._protocol.failure

    async def _close_exc_when_known(self) -> ConnectionClosed:
        """The exception for the end; after the answer to our Close frame, if one is to come."""
        if not self._protocol.finished and not self._transport.closed:
            self._read_to_end()
            await self._wait_for_end()
        return self._protocol.close_exc()

    def _read_to_end(self) -> None:
        self._reading_to_end = True
        self._transport.resume()

    async def _send_fragments(
        self, message: Any, text: bool | None, compress: bool | None, deadline: float | None
    ) -> None:
        self._check_loop()
        parts, first = iterate(message), 0
        try:
            async for part in parts:
                opcode, data = encode_message(part, text, first)
                if not first:
                    # Not before there is a part: an iterable that takes its time holds nobody up.
                    await self._wait_for_turn(deadline)
                    self._turn_of, first = asyncio.current_task(), opcode
                await self._send_fragment(opcode, bytes(data), compress)
                try:
                    await self._wait_for_room(deadline)
                except TimeoutError as exc:
                    self._transport.abandon_message()
                    raise self._protocol.close_exc() from exc
            if first:
                await self._send_fragment(first, None, compress)
                if deadline is None:
                    await self._wait_for_room()
        except BaseException as exc:
            if first and self._protocol.sending:
                self._transport.abandon_message()
                # A cancelled task doesn't wait for the server's answer.
                if isinstance(exc, Exception) and not isinstance(exc, ConnectionClosed):
                    await self._close(1011)
            raise
        finally:
            if first:
                self._turn_of = None
                self._on_drain()
            await parts.aclose()

    async def _send_fragment(self, opcode: int, data: bytes | None, compress: bool | None) -> None:
        """Send a fragment; the last one, which is empty, if *data* is ``None``."""
        try:
            self._transport.send_fragment(opcode, data or b"", data is None, compress)
        except ConnectionClosed:
            raise await self._close_exc_when_known() from self._protocol.failure

    # -- control --

    async def ping(self, data: str | bytes | None = None) -> Ping:
        """Send a ping.

        Args:
            data: at most 125 bytes; ``None`` for 8 random digits.

        Returns:
            A ``Ping``; await it for the round trip in seconds.

        Raises:
            ConnectionClosed: if the connection is closed, or closing.
            ValueError: if *data* is too long, or a ping with it isn't answered yet.
            SendBufferFull: if 1024 pings aren't answered yet.
        """
        self._check_loop()
        payload = None if data is None else control_payload(data)
        future: asyncio.Future[float] = self._loop.create_future()

        def answered(round_trip: float) -> None:
            self._pings.discard(future)
            if not future.done():
                future.set_result(round_trip)

        await self._raise_if_refused(self._transport.ping(payload, answered))
        self._pings.add(future)
        return Ping(future)

    async def pong(self, data: str | bytes = b"") -> None:
        """Send a pong that nobody asked for (RFC 6455, 5.5.3).

        Args:
            data: at most 125 bytes.

        Raises:
            ConnectionClosed, ValueError: as ``ping``.
        """
        self._check_loop()
        await self._raise_if_refused(self._transport.pong(control_payload(data)))

    async def _raise_if_refused(self, refusal: Exception | None) -> None:
        if isinstance(refusal, ConnectionClosed):
            raise await self._close_exc_when_known() from self._protocol.failure
        if refusal is not None:
            raise refusal

    # -- closing --

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close the connection, with the closing handshake of RFC 6455, 7.

        Returns when it is closed: the server has answered, or ``close_timeout`` has passed. Does
        nothing if it is closed already, and never raises because of the network. What was received
        before can still be received (up to ``max_queue`` messages of what comes meanwhile). To be
        cancelled drops the connection at once, and so does a loop that is closed.

        Args:
            code: 1000, 1001, or 3000 to 4999, mostly (RFC 6455, 7.4).
            reason: at most 123 bytes of UTF-8.

        Raises:
            ValueError, TypeError: if *code* or *reason* can't be sent.
        """
        close_payload(code, reason)  # what can't be sent is told here
        self._closed_by_program = True
        await self._close(code, reason)

    async def _close(self, code: int, reason: str = "") -> None:
        if self._loop.is_closed():
            self._transport.drop()
            return
        self._check_loop()
        self._transport.close(code, reason)
        if self._transport.closed:
            return
        self._read_to_end()
        try:
            await self._wait_for_end()
        except asyncio.CancelledError:
            self._transport.abort()
            raise

    async def wait_closed(self) -> None:
        """Wait until the connection is closed, by whomever; to be cancelled closes nothing.

        What is received meanwhile waits for ``recv``, up to ``max_queue`` messages. While there are
        more, the end isn't seen either: somebody has to receive them.
        """
        self._check_loop()
        await self._wait_for_end()

    async def _wait_for_end(self) -> None:
        while not self._transport.closed:
            await self._wait()

    async def _wait(self, deadline: float | None = None) -> None:
        """Wait until there may be what is waited for; ``TimeoutError`` if *deadline* passes first.

        With a future of its own, as each may be cancelled.
        """
        left = None if deadline is None else deadline - self._loop.time()
        if left is not None and left <= 0:
            raise TimeoutError("there was no room for the message in time")
        future = self._loop.create_future()
        self._waiting.append(future)
        try:
            if left is None:
                await future  # goes on a turn of the loop sooner
            else:
                # It doesn't swallow a cancellation of the task, as wait_for() may.
                await asyncio.wait([future], timeout=left)
        finally:
            self._waiting.remove(future)

    async def __aenter__(self) -> Connection:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *exc_info: object) -> None:
        """Close: with 1000, or with 1011 after an error in the block.

        If the task is cancelled, by Ctrl-C for one, or a loop over connections is left, with 1001,
        and the server has half a second to answer.
        """
        # (A closed loop can't wait: close() drops the connection then.)
        if kind is None or issubclass(kind, ConnectionClosed) or self._loop.is_closed():
            await self._close(1000)
        elif issubclass(kind, Exception):
            await self._close(1011)
        else:
            self._transport.end_within(LEAVING)
            await self._close(1001)


def _wake(future: asyncio.Future[None] | None) -> None:
    if future is not None and not future.done():
        future.set_result(None)


class MessageStream:
    """One message, chunk by chunk, for ``recv_streaming``."""

    __slots__ = ("_begun", "_convert", "_decode", "_fin", "_ws", "taken")

    def __init__(self, ws: Connection, decode: bool | None) -> None:
        self._ws, self._decode, self._convert = ws, decode, chunk_decoder(decode)
        self._begun = self._fin = self.taken = False

    def __aiter__(self) -> MessageStream:
        return self

    async def __anext__(self) -> Message:
        ws = self._ws
        if self._fin or (self._begun and ws._stream is not self):
            raise StopAsyncIteration
        if not self._begun:
            if ws._waiter is not None:
                raise ConcurrencyError(TWO_RECEIVERS)
            ws._leave_stream()
            if ws._unread:
                self._begun = self._fin = True
                message = ws._unread.popleft()
                return message if self._decode is None else decode_message(message, self._decode)
            ws._stream, ws._transport.streaming, self._begun = self, True, True
        await ws._wait_for(ws._chunks, self, None)
        chunk, self._fin = ws._chunks.pop(0)
        self.taken = True
        if self._fin:
            ws._stream = None
        return self._convert(chunk, self._fin)


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
    for part in parts_of(parts):
        yield part
