"""Consuming, blocking: what the thread does that is inside ``recv`` or the like, for messages.

Usually it is the receiver, too. Who may do what when is told in ``transport``; what signal handlers
do to it, in ``interrupts``.
"""

from __future__ import annotations

import sys
from time import monotonic

from ..clock import lock_timeout
from ..exceptions import ConcurrencyError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterator

    from ..sansio.messages import Message
    from .receiver import Chunk, Receiver

SLACK = 0.05  # seconds for a receive behind its deadline, as long as bytes are there

TWO_CONSUMERS = "another thread, or a recv_streaming() that goes on, is receiving already"
IN_A_HANDLER = "a signal handler, or the like, can't receive in the middle of what it interrupts"

_LAST = (-1,)


class Consumer:
    """See above. What it takes comes from the queue of *receiver*.

    Attributes:
        handing: whether it has a chunk in local variables only.
    """

    __slots__ = (
        "_acquire", "_is_changing", "_is_receiving", "_is_writing", "_parser", "_release",
        "_token", "_waiting", "handing", "protocol", "queue", "reader", "receiver", "stream",
        "transport",
    )  # fmt: skip

    def __init__(self, receiver: Receiver) -> None:
        transport = self.transport = receiver.transport
        self.protocol, self.stream = transport.protocol, transport.stream
        self.receiver, self.queue = receiver, receiver.queue
        self.reader = receiver.reader
        # Bound here once, for fill().
        self._acquire, self._release = transport.receiving.acquire, transport.receiving.release
        self._is_receiving = transport.receiving._is_owned
        self._is_changing = transport.mutex._is_owned
        self._is_writing = transport.sending._is_owned
        self._waiting = transport.waiters.locks
        self._parser = self.protocol.reader
        # The consumer's token; a dictionary, for setdefault() is atomic.
        self._token: dict[int, object] = {}
        self.handing = False

    def fill(self, used_up: Iterator[Message], deadline: float | None) -> None:
        """Block until there are messages in ``queue.ready``, as the consumer.

        Args:
            used_up: ``ready`` as the caller has found it empty: another thread may have filled it
                since.
            deadline: until when to wait.

        Raises:
            TimeoutError: if *deadline* passes; nothing is lost.
            ConnectionClosed: if there won't be any more.
            ConcurrencyError: if there is another consumer.
        """
        if self._is_receiving() or self._is_writing() or self._is_changing():
            raise ConcurrencyError(IN_A_HANDLER)
        token: list[None] = []
        try:
            if self._token.setdefault(0, token) is not token:
                raise ConcurrencyError(TWO_CONSUMERS)
            queue = self.queue
            kept = queue.messages
            found: bool | None = True
            if queue.ready is used_up and not (kept and self._take_queue()):
                found = False
                if self._acquire(False) or self._wait_for_receiver(deadline):
                    found = self._take_queue() if kept else self._receive(deadline)
                    self._release()
                elif kept:
                    found = self._take_queue()
            del self._token[0]
        except BaseException as exc:
            self.receiver.stop_receiving(exc)
            self.stop(token)
            raise
        if self._waiting:
            self.transport.waiters.notify()
        if not found:
            raise self._why_none(found)

    def _why_none(self, found: bool | None) -> Exception:
        """The exception for what ``_receive`` has returned."""
        if found is None:
            return self.protocol.close_exc()
        return TimeoutError("no message was complete in time; nothing is lost")

    def start(self, token: object) -> None:
        """Become the consumer until ``stop`` with the same *token*, within one ``try``.

        Raises:
            ConcurrencyError: if there is one.
        """
        if self.transport.is_interrupted():
            raise ConcurrencyError(IN_A_HANDLER)
        if self._token.setdefault(0, token) is not token:
            raise ConcurrencyError(TWO_CONSUMERS)

    def stop(self, token: object) -> None:
        """Stop being the consumer, if it is who has *token*: what it has in its hands is lost."""
        if self._token.get(0) is token:
            if self.handing:
                self.receiver.fail(sys.exc_info()[1] or InterruptedError())
                self.handing = False
            del self._token[0]

    def _take_queue(self) -> bool:
        """Make what was kept ready, if anything; then there is room again."""
        kept = self.queue.messages
        if not kept:
            return False
        self.handing = True
        batch = kept[:]  # to which another thread may append meanwhile
        del kept[: len(batch)]
        self.queue.ready = iter(batch)
        self.handing = False
        return True

    def _wait_for_receiver(self, deadline: float | None) -> bool:
        """Wait until a thread that has stepped in has read what it is reading.

        Returns ``False`` if *deadline* passed, or if it kept something before it saw that it should
        make room: it may be reading on, and wait for more than is needed.
        """
        queue, receiving = self.queue, self.transport.receiving
        try:
            self.receiver.wanted = True
            return not len(queue) and receiving.acquire(True, lock_timeout(deadline))
        finally:
            self.receiver.wanted = False

    # -- whole messages --

    def _receive(self, deadline: float | None) -> bool | None:
        """Make messages ready; ``False`` if *deadline* passed first, ``None`` if none will come.

        (Nothing is raised under a lock: a handler's exception might come on top of that.)
        """
        protocol, parser, queue = self.protocol, self._parser, self.queue
        reader, late = self.reader, False
        while True:
            if parser.pending or protocol.finished:
                if self._parse():
                    return True
                if parser.pending:  # parsing goes in slices
                    continue
                if protocol.finished:
                    return self._end(deadline)
            if late:
                return False
            if deadline is None and not queue.dropping:
                message = reader.read_message()
                if message is not None:
                    queue.ready = iter((message,))
                    reader.unstored = False
                    if protocol.has_output or self.stream.unsent:
                        self.transport.flush()
                    return True
            elif not reader.read_until(deadline):
                late = True
            elif deadline is not None:
                late = monotonic() >= deadline + SLACK

    def _end(self, deadline: float | None) -> bool | None:
        """``None`` if the end is reached, ``False`` if *deadline* passes before."""
        return None if self.reader.reach_end(deadline) else False

    def _parse(self) -> bool:
        """Make what is parsed in one go ready; whether there was anything."""
        protocol, transport, mutex = self.protocol, self.transport, self.transport.mutex
        reader, queue = self.reader, self.queue
        reader.unstored = True
        mutex.acquire()
        if queue.dropping:
            self.receiver.drop()
        batch = protocol.next_messages()
        mutex.release()
        if batch:
            # No second reference to one that may be large.
            queue.ready = iter(batch) if len(batch) > 1 else map(batch.pop, _LAST)
        reader.unstored = False
        # As answer(), without a call.
        if protocol.has_output or self.stream.unsent or transport.requests:
            transport.carry_out_requests()
        return bool(batch)

    # -- chunks --

    def receive_chunk(self, begun: bool) -> Chunk:
        """Block until there is some of the next message; and whether that ends it.

        For the consumer, which clears ``handing`` when it has handed it on.

        Args:
            begun: whether the message has begun with an earlier call.

        Raises:
            ConnectionClosed: if there won't be any more.
        """
        transport, receiving = self.transport, self.transport.receiving
        if transport.is_interrupted():
            raise ConcurrencyError(IN_A_HANDLER)
        try:
            self.handing = ended = False
            chunk = self._take_chunk(begun)
            while chunk is None and not ended:
                if receiving.acquire(False) or self._wait_for_receiver(None):
                    chunk = self._take_chunk(begun) or self._receive_chunk()
                    ended = chunk is None
                    receiving.release()
                else:
                    chunk = self._take_chunk(begun)
        except BaseException as exc:
            self.receiver.stop_receiving(exc)
            raise
        transport.waiters.notify()  # there is room
        if chunk is None:
            raise self.protocol.close_exc()
        return chunk

    def _take_chunk(self, begun: bool) -> Chunk | None:
        """What is there of the message that has *begun*, or of the next one."""
        queue = self.queue
        self.handing = True
        if queue.chunks:
            return queue.chunks.pop(0)
        if not begun:
            for message in queue.ready:
                return message, True
            if queue.messages:
                return queue.messages.pop(0), True
        self.handing = False
        return None

    def _receive_chunk(self) -> Chunk | None:
        """Some of the next message; ``None`` if there won't be any more."""
        protocol, reader, mutex = self.protocol, self.reader, self.transport.mutex
        while True:
            reader.unstored = True
            mutex.acquire()
            if self.queue.dropping:
                self.receiver.drop()
            chunk = protocol.next_chunk()
            mutex.release()
            if chunk is not None:
                self.handing = True
            reader.unstored = False
            self.transport.answer()
            if chunk is not None:
                return chunk
            if protocol.finished:
                reader.reach_end(None)
                return None
            if not protocol.pending:  # parsing goes in slices
                reader.read_until(None, in_chunks=True)

    def leave_stream(self, token: object) -> None:
        """Stop receiving chunks, and leave the rest of the message that has begun, if any."""
        if self._token.get(0) is token:
            self.transport.change(self._skip)  # another thread may be about to keep a chunk
            self.stop(token)
            self.transport.waiters.notify()

    def _skip(self) -> None:
        self.protocol.reader.skip()
        self.queue.chunks.clear()
