"""Receiving, blocking: becoming the receiver, and what a thread does as it that isn't the consumer.

Who may do what when is told in ``transport``; what signal handlers do to it, in ``interrupts``.
"""

from __future__ import annotations

import sys
from _thread import RLock
from _weakref import ref  # weakref itself would bring other modules along
from time import monotonic

from ..clock import NEVER, SETTLE, lock_timeout
from ..opening.streams import HEED, READ, SLOW_CLOSE
from ..sansio.protocol import CLOSED, OPEN
from .reader import Reader
from .transport import GLANCE, BlockingTransport

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Iterator, Sequence, TypeVar

    from ..options import Options
    from ..sansio.messages import Message

    Chunk = tuple[Message, bool]  # and whether it ends the message
    T = TypeVar("T")

_has_gil: Callable[[], bool] = getattr(sys, "_is_gil_enabled", lambda: True)  # from 3.13 on
_NONE_LEFT = object()


class MessageQueue:
    """Messages on their way to the consumer.

    What other threads than the consumer have met waits until it is taken. They keep up to *limit*
    messages and chunks, and about as many more as one read brings. Beyond that, while closing, what
    comes is dropped, and then everything, so that messages never go missing in the middle.

    Attributes:
        ready: what is parsed, for the consumer: ``recv`` and iteration share this iterator, and
            whoever comes takes the next one.
        messages: whole ones that others have met.
        chunks: of a message that is being streamed, met by others as well.
        dropping: whether everything is dropped from now on.
    """

    __slots__ = ("_limit", "chunks", "dropping", "messages", "ready")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.ready: Iterator[Message] = iter(())
        self.messages: list[Message] = []
        self.chunks: list[Chunk] = []
        self.dropping = False

    def __len__(self) -> int:
        return len(self.messages) + len(self.chunks)

    def has_room(self) -> bool:
        return len(self) < self._limit

    def put(self, messages: Sequence[Message], chunks: Sequence[Chunk]) -> None:
        """Keep what others than the consumer have met, or begin to drop it, for want of room."""
        if self.has_room():
            self.messages.extend(messages)
            self.chunks.extend(chunks)
        elif messages or chunks:
            self.dropping = True

    def clear(self) -> None:
        self.messages.clear()
        self.chunks.clear()


class LockedQueue(MessageQueue):
    """A ``MessageQueue`` for threads that run at the same time: one by one takes what is ready."""

    __slots__ = ("_iterator", "_receiver")

    def __init__(self, limit: int, receiver: Receiver) -> None:
        self._receiver = ref(receiver)  # no cycle: what is dropped without close() goes away
        super().__init__(limit)

    @property
    def ready(self) -> Iterator[Message]:
        return self._iterator

    @ready.setter
    def ready(self, messages: Iterator[Message]) -> None:
        self._iterator: Iterator[Message] = LockedIterator(messages, self._receiver)


class LockedIterator:
    """*messages*, of which no two threads get the same one, and none is missed.

    The standard library's iterators don't see to that without the GIL.
    """

    __slots__ = ("_lock", "_messages", "_receiver")

    def __init__(self, messages: Iterator[Message], receiver: ref[Receiver]) -> None:
        self._messages, self._receiver = messages, receiver
        self._lock = RLock()  # which lets a signal handler in that has interrupted this

    def __iter__(self) -> LockedIterator:
        return self

    def __next__(self) -> Message:
        try:
            with self._lock:
                message = next(self._messages, _NONE_LEFT)
        except BaseException as exc:
            receiver = self._receiver()
            if receiver is not None:
                receiver.fail(exc)  # perhaps there was a message on its way
            raise
        if message is _NONE_LEFT:
            raise StopIteration
        return message  # type: ignore[return-value]


class Receiver:
    """See above.

    Attributes:
        reader: what it does as the receiver.
        queue: what it has received, for the consumer.
        wanted: whether a consumer waits to become the receiver.
    """

    __slots__ = ("__weakref__", "protocol", "queue", "reader", "stream", "transport", "wanted")

    def __init__(self, transport: BlockingTransport, options: Options, rest: bytes) -> None:
        self.transport = transport
        self.protocol, self.stream = transport.protocol, transport.stream
        self.reader = Reader(transport, options.busy_poll, rest)
        limit = options.max_queue
        self.queue = MessageQueue(limit) if _has_gil() else LockedQueue(limit, self)
        self.wanted = False

    # -- being the receiver --

    def step_in(self, work: Callable[..., T], *args: object) -> T | None:
        """What *work* returns, called as the receiver, to read; ``None`` if a thread is that now.

        Also if there is no room for messages, or a consumer wants to be it.
        """
        if not self.may_step_in():
            return None
        # Another look: who was it just now may have filled the queue.
        return self.as_receiver(lambda: work(*args) if self.may_step_in() else None)

    def as_receiver(self, work: Callable[..., T], *args: object) -> T | None:
        """What *work* returns, called as the receiver; ``None`` if a thread is that now."""
        transport, receiving = self.transport, self.transport.receiving
        if receiving._is_owned() or transport.mutex._is_owned():
            return None
        try:
            if not receiving.acquire(False):
                return None
            result = work(*args)
            receiving.release()
        except BaseException as exc:
            self.stop_receiving(exc)
            raise
        transport.waiters.notify()
        return result

    def may_step_in(self) -> bool:
        """Whether there is room for what would be read, and no consumer that wants to read it."""
        if self.wanted:
            return False
        return self.queue.has_room() or self.protocol.state is not OPEN

    def is_at_end(self) -> bool:
        """Whether nothing more can come, but what is to be dropped."""
        return self.protocol.finished or self.protocol.state is CLOSED

    def _has_no_receiver(self) -> bool:
        """Whether this thread may step in now."""
        return self.step_in(bool) is not None

    def stop_receiving(self, exc: BaseException) -> None:
        """Stop being the receiver, if this is it, because of *exc*, and wake who may go on as one.

        What it had in its hands is lost, and so is the connection: nothing may follow the gap.
        """
        transport = self.transport
        if transport.receiving._is_owned():
            if transport.mutex._is_owned():
                transport.mutex.release()
            if self.reader.unstored or self.stream.busy:
                self.reader.unstored = False
                self.fail(exc)
            transport.receiving.release()
        transport.carry_out_requests()
        transport.waiters.notify()

    def fail(self, exc: BaseException) -> None:
        """Something that was received is lost, because of *exc*: deliver nothing any more."""
        transport = self.transport
        for _ in self.queue.ready:
            pass  # an iteration may have this iterator in its hands
        self.queue.dropping = True
        transport.fail(exc)
        transport.change(self._abandon, exc)

    def _abandon(self, exc: BaseException) -> None:
        """Under the mutex: a thread that has stepped in may be about to keep what it has parsed."""
        self.protocol.abandon(exc)
        self.queue.clear()

    # -- receiving for others than the consumer --

    def keep(self) -> bool:
        """Parse, as the receiver, and keep what there is; whether there was anything."""
        queue, mutex = self.queue, self.transport.mutex
        self.reader.unstored = True
        mutex.acquire()
        kept = len(queue)
        if not queue.dropping:
            queue.put(*self._parse())
        if queue.dropping:
            self.drop()
        mutex.release()
        self.reader.unstored = False
        self.transport.answer()
        return len(queue) > kept

    def _parse(self) -> tuple[Sequence[Message], Sequence[Chunk]]:
        """The next messages, or the next chunk of the one that is being streamed."""
        if not self.protocol.reader.streaming:
            return self.protocol.next_messages(), ()
        chunk = self.protocol.next_chunk()
        return (), [chunk] if chunk else ()

    def drop(self) -> None:
        """Drop what there is, under the mutex."""
        self.protocol.reader.skip()
        while self.protocol.next_messages() or self.protocol.pending:
            pass

    def receive_now(self) -> bool:
        """Receive without waiting, keeping the messages; whether there was anything."""
        if not self.protocol.pending and not self.reader.read_now():
            self.transport.answer()  # TLS may have read what it has to answer
            return False
        self.keep()
        return True

    def wait_until(self, done: Callable[[], bool], deadline: float | None) -> bool:
        """Block until *done()*, receiving if nobody does; ``False`` if *deadline* passes first.

        Who makes *done* true notifies the waiters, or is the receiver. Beyond ``max_queue`` unread
        messages, it waits for somebody to take them; while closing, it drops them.
        """
        transport, limit = self.transport, NEVER if deadline is None else deadline
        while not done():
            in_time = self.step_in(self._read_and_keep, done, deadline)
            if in_time is None:
                now = monotonic()
                self.tick_if_due(now)
                blocked = transport.buffer.waits and not transport.closed
                if not (blocked and transport.flush(min(now + GLANCE, limit))):
                    timeout = min(GLANCE if blocked else HEED, lock_timeout(limit))
                    transport.waiters.wait(lambda: done() or self._has_no_receiver(), timeout)
            if in_time is False or monotonic() >= limit:
                return done()
        return True

    def _read_and_keep(self, done: Callable[[], bool], deadline: float | None) -> bool:
        """Read once as the receiver, keeping the messages; ``False`` if *deadline* passed first."""
        if done():
            return True
        if self.is_at_end():
            self.reader.reach_end(deadline)  # what isn't parsed stays for the consumer
        elif self.protocol.pending or self.reader.read_until(deadline):
            self.keep()
        else:
            return False
        return True

    def wait_closed(self) -> None:
        """Wait for the end of the closing handshake that has begun; at most ``close_timeout``."""
        transport = self.transport
        if not self.wait_until(lambda: transport.closed, transport.closing_deadline()):
            transport.lose(TimeoutError(SLOW_CLOSE))
            # If the receiver is held up, it will find the end, and close.
            self.wait_until(lambda: transport.closed, monotonic() + SETTLE)

    # -- meanwhile --

    def tick_if_due(self, now: float) -> None:
        """Let the keepalive tick if nobody receives, perhaps for want of room for messages."""
        if now >= self.transport.tick_at:
            self.as_receiver(self.tick, now)

    def tick(self, now: float) -> None:
        if self.has_unread():
            self.protocol.heard(now)  # a peer whose bytes wait unread isn't dead
        self.transport.tick(now)

    def has_unread(self) -> bool:
        return self.stream.buffered() or self.transport.poll(READ, 0.0)

    def flush_or_wait(self, deadline: float | None = None) -> None:
        """Flush; and stay until it is done if another thread receives, for that may sleep."""
        transport, limit = self.transport, NEVER if deadline is None else deadline
        transport.flush()
        while transport.buffer.waits and not transport.closed:
            now = monotonic()
            if now >= limit or transport.is_interrupted() or self._has_no_receiver():
                return
            if not self.may_step_in() and not self.wanted:
                return  # for want of room, not of a receiver: whoever takes messages flushes
            if not transport.flush(min(now + GLANCE, limit)):
                return  # who is writing goes on with it
