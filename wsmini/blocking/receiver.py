"""Receiving, blocking: from the stream to the consumer, or to the queue for it, up to the end.

Who may do what when is told in ``transport``; what signal handlers do to it, in ``interrupts``.
"""

from __future__ import annotations

import socket
import time
from itertools import repeat

from ..clock import NEVER, lock_timeout
from ..exceptions import ConcurrencyError
from ..opening.streams import (
    CHUNK,
    DONTWAIT,
    LARGE,
    LAST_READS,
    MAX_READ_SIZE,
    NO_CLOSE,
    READ_SIZE,
    SLOW_CLOSE,
    WAITALL,
    next_read_size,
)
from ..opening.waiting import HEED, READ
from ..sansio.protocol import State

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Dict, Iterator, List, Optional, Tuple, TypeVar

    from ..options import Options
    from ..sansio.messages import Message
    from .transport import BlockingTransport

    Chunk = Tuple[Message, bool]  # and whether it ends the message
    T = TypeVar("T")

MAX_LARGE = 1 << 26  # bytes of a frame to read at once: a header alone must not cost memory
# Reads in a row of a connection that the background thread looks after, while others wait: one full
# of compressed messages that bring nothing takes 20 ms.
READS_AHEAD = 16

# Seconds.
CHECK = 1.0  # until a connection that has a receiver is looked at again
GLANCE = 0.1  # until a writer that is blocked looks again whether it should step in
SETTLE = 1.0  # for the receiver to find out why writing has failed
SLACK = 0.05  # for a receive behind its deadline, as long as bytes are there

TWO_RECEIVERS = "another thread, or a recv_streaming() that goes on, is receiving already"
IN_A_HANDLER = "a signal handler, or the like, can't receive in the middle of what it interrupts"

OPEN, CLOSED = State.OPEN, State.CLOSED
monotonic = time.monotonic

_LAST, _NO_FLAGS = (-1,), (0,)


class MessageQueue:
    """Messages that others than the consumer have met, until it takes them.

    They keep up to *limit* messages and chunks, and about as many more as one read brings. Beyond
    that, while closing, what comes is dropped, and then everything, so that messages never go
    missing in the middle.

    Attributes:
        messages: whole ones.
        chunks: of a message that is being streamed.
        dropping: whether everything is dropped from now on.
    """

    __slots__ = ("_limit", "chunks", "dropping", "messages")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.messages: List[Message] = []
        self.chunks: List[Chunk] = []
        self.dropping = False

    def __len__(self) -> int:
        return len(self.messages) + len(self.chunks)

    def has_room(self) -> bool:
        return len(self) < self._limit

    def clear(self) -> None:
        self.messages.clear()
        self.chunks.clear()


class Receiver:
    """See above. *rest* is what came behind the handshake.

    Attributes:
        ready: messages that are parsed, for the consumer: ``recv`` and iteration share this
            iterator, and whoever comes takes the next one.
        queue: what others have met.
        wanted: whether a consumer waits to become the receiver.
    """

    __slots__ = (
        "__weakref__", "_acquire", "_busy_poll", "_consumer", "_handing", "_is_changing",
        "_is_receiving", "_is_writing", "_read_not_fed", "_recv_onto", "_release", "_size",
        "_unstored", "_waiting", "protocol", "queue", "ready", "stream", "transport", "wanted",
    )  # fmt: skip

    def __init__(self, transport: BlockingTransport, options: Options, rest: bytes) -> None:
        self.transport = transport
        self.protocol, self.stream = transport.protocol, transport.stream
        # Bound here once, for fill().
        self._acquire, self._release = transport.receiving.acquire, transport.receiving.release
        self._is_receiving = transport.receiving._is_owned
        self._is_changing = transport.mutex._is_owned
        self._is_writing = transport.sending._is_owned
        self._recv_onto = getattr(self.stream, "recv_onto", None)  # of TLS
        self._waiting = transport.waiters.locks
        self.ready: Iterator[Message] = iter(())
        self.queue = MessageQueue(options.max_queue)
        self.wanted = False
        self._busy_poll = options.busy_poll
        self._size = READ_SIZE
        # The consumer's token; a dictionary, for setdefault() is atomic.
        self._consumer: Dict[int, object] = {}
        self._handing = False  # whether the consumer has a chunk in local variables only
        # What was read last, until the protocol is fed with it. A receive puts it here without a
        # bytecode between, so that an exception of a signal handler can't lose it.
        self._read_not_fed: List[bytes] = []
        self._unstored = False  # whether the receiver has something in local variables only
        if rest:
            self.protocol.receive_data(rest, monotonic())

    # -- being the consumer, and the receiver --

    def fill(self, used_up: Iterator[Message], deadline: Optional[float]) -> None:
        """Block until there are messages in ``ready``, as the consumer.

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
        token: List[None] = []
        try:
            if self._consumer.setdefault(0, token) is not token:
                raise ConcurrencyError(TWO_RECEIVERS)
            kept = self.queue.messages
            found: Optional[bool] = True
            if self.ready is used_up and not self._take_queue():
                found = False
                if self._acquire(False) or self._wait_for_receiver(deadline):
                    found = self._take_queue() if kept else self._receive(deadline)
                    self._release()
                elif kept:
                    found = self._take_queue()
            del self._consumer[0]
        except BaseException as exc:
            self.stop_receiving(exc)
            self.fail_if_handing(exc)
            self.stop_consuming(token)
            raise
        if self._waiting:
            self.transport.waiters.notify()
        if found is None:
            raise self.protocol.close_exc()
        if not found:
            raise TimeoutError("no message was complete in time; nothing is lost")

    def start_consuming(self, token: object) -> None:
        """Become the consumer until ``stop_consuming`` with the same *token*, within one ``try``.

        Raises:
            ConcurrencyError: if there is one.
        """
        if self.transport.is_interrupted():
            raise ConcurrencyError(IN_A_HANDLER)
        if self._consumer.setdefault(0, token) is not token:
            raise ConcurrencyError(TWO_RECEIVERS)

    def stop_consuming(self, token: object) -> None:
        if self._consumer.get(0) is token:
            del self._consumer[0]

    def _take_queue(self) -> bool:
        """Make what was kept ready, if anything; then there is room again."""
        kept = self.queue.messages
        if not kept:
            return False
        self._handing = True
        batch = kept[:]  # to which another thread may append meanwhile
        del kept[: len(batch)]
        self.ready = iter(batch)
        self._handing = False
        return True

    def _wait_for_receiver(self, deadline: Optional[float]) -> bool:
        """Wait until a thread that has stepped in has read what it is reading.

        Returns ``False`` if *deadline* passed, or if it kept something before it saw that it should
        make room: it may be reading on, and wait for more than is needed.
        """
        queue, receiving = self.queue, self.transport.receiving
        try:
            self.wanted = True
            return not len(queue) and receiving.acquire(True, lock_timeout(deadline))
        finally:
            self.wanted = False

    def step_in(self, work: Callable[..., T], *args: object) -> Optional[T]:
        """What *work* returns, called as the receiver, to read; ``None`` if a thread is that now.

        Also if there is no room for messages, or a consumer wants to be it.
        """
        if not self._may_step_in():
            return None
        # Another look: who was it just now may have filled the queue.
        return self.as_receiver(lambda: work(*args) if self._may_step_in() else None)

    def as_receiver(self, work: Callable[..., T], *args: object) -> Optional[T]:
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
        if transport.waiters.locks:
            transport.waiters.notify()
        return result

    def _may_step_in(self) -> bool:
        if self.wanted:
            return False
        return self.queue.has_room() or self.protocol.state is not OPEN

    def stop_receiving(self, exc: BaseException) -> None:
        """Stop being the receiver, if this is it, because of *exc*, and wake who may go on as one.

        What it had in its hands is lost, and so is the connection: nothing may follow the gap.
        """
        transport = self.transport
        if transport.receiving._is_owned():
            if transport.mutex._is_owned():
                transport.mutex.release()
            if self._unstored or self.stream.busy:
                self._unstored = False
                self.fail(exc)
            transport.receiving.release()
        transport.carry_out_requests()
        transport.waiters.notify()

    def fail(self, exc: BaseException) -> None:
        """Something that was received is lost, because of *exc*: deliver nothing any more."""
        transport = self.transport
        for _ in self.ready:
            pass  # an iteration may have this iterator in its hands
        self.queue.dropping = True
        transport.fail(exc)
        transport.change(self._abandon, exc)

    def _abandon(self, exc: BaseException) -> None:
        """Under the mutex: a thread that has stepped in may be about to keep what it has parsed."""
        self.protocol.abandon(exc)
        self.queue.clear()

    # -- receiving messages --

    def _receive(self, deadline: Optional[float]) -> Optional[bool]:
        """Make messages ready; ``False`` if *deadline* passed first, ``None`` if none will come.

        (Nothing is raised under a lock: a handler's exception might come on top of that.)
        """
        protocol, reader, late = self.protocol, self.protocol.reader, False
        while True:
            if reader.pending or protocol.finished:
                if self._parse():
                    return True
                if protocol.finished and not reader.pending:
                    return None if self.end(deadline) else False
                if reader.pending:  # parsing goes in slices
                    continue
            if late:
                return False
            if deadline is None:
                if self._read_message():
                    return True
            elif self._read(deadline):
                late = monotonic() >= deadline + SLACK
            else:
                late = True

    def _parse(self) -> bool:
        """Make what is parsed in one go ready; whether there was anything."""
        protocol, transport, mutex = self.protocol, self.transport, self.transport.mutex
        self._unstored = True
        mutex.acquire()
        if self.queue.dropping:
            self._drop()
        batch = protocol.next_messages()
        mutex.release()
        if batch:
            # No second reference to one that may be large.
            self.ready = iter(batch) if len(batch) > 1 else map(batch.pop, _LAST)
        self._unstored = False
        # As _answer(), without a call.
        if protocol.has_output or self.stream.unsent or transport.requests:
            transport.carry_out_requests()
        return bool(batch)

    def _answer(self) -> None:
        """Write what the protocol says to what was parsed, and do what handlers have asked for."""
        transport = self.transport
        if self.protocol.has_output or self.stream.unsent or transport.requests:
            transport.carry_out_requests()

    def _read_message(self) -> bool:
        """What ``_read(None)`` nearly always does, in one go: a blocking read.

        Returns:
            Whether a message, and nothing else, was what came; it is ready then.
        """
        protocol, transport, landed = self.protocol, self.transport, self._read_not_fed
        odd = landed or not transport.blocks or transport.buffer.waits or self.queue.dropping
        if odd or protocol.reader.missing >= LARGE or protocol.state is not OPEN:
            self._read(None)
            return False
        try:
            if self._recv_onto is None:
                landed.extend(map(self.stream.recv, (self._size,), _NO_FLAGS))
            else:
                self._recv_onto(landed, self._size)
        except BlockingIOError as exc:
            if exc.errno is None:
                raise
        except OSError as exc:
            self._lost(exc)
            return False
        if not landed:  # SO_RCVTIMEO: it is time for the keepalive
            self._read(None, polling=True)
            return False
        data = landed[0]
        if len(data) >= READ_SIZE or self._size != READ_SIZE:
            self._size = next_read_size(self._size, len(data), 0)
        self._unstored = True
        landed.clear()
        if not data:
            self._lost(EOFError(NO_CLOSE))
            self._unstored = False
            return False
        now = monotonic()
        message = protocol.receive_message(data, now)
        if message is None:
            protocol.receive_data(data, now)
            self._unstored = False
            return False
        self.ready = iter((message,))
        self._unstored = False
        if protocol.has_output or self.stream.unsent:
            transport.flush()
        return True

    # -- receiving chunks --

    def receive_chunk(self, begun: bool) -> Chunk:
        """Block until there is some of the next message; and whether that ends it.

        For the consumer, which says with ``handed_on()`` that it has handed it on.

        Args:
            begun: whether the message has begun with an earlier call.

        Raises:
            ConnectionClosed: if there won't be any more.
        """
        transport, receiving = self.transport, self.transport.receiving
        if transport.is_interrupted():
            raise ConcurrencyError(IN_A_HANDLER)
        try:
            self._handing = ended = False
            chunk = self._take_chunk(begun)
            while chunk is None and not ended:
                if receiving.acquire(False) or self._wait_for_receiver(None):
                    chunk = self._take_chunk(begun) or self._receive_chunk()
                    ended = chunk is None
                    receiving.release()
                else:
                    chunk = self._take_chunk(begun)
        except BaseException as exc:
            self.stop_receiving(exc)
            raise
        transport.waiters.notify()  # there is room
        if chunk is None:
            raise self.protocol.close_exc()
        return chunk

    def handed_on(self) -> None:
        self._handing = False

    def fail_if_handing(self, exc: BaseException) -> None:
        """The consumer is ended by *exc*; if it had a chunk in its hands, that is lost."""
        if self._handing:
            self._handing = False
            self.fail(exc)

    def _take_chunk(self, begun: bool) -> Optional[Chunk]:
        """What is there of the message that has *begun*, or of the next one."""
        queue = self.queue
        self._handing = True
        if queue.chunks:
            return queue.chunks.pop(0)
        if not begun:
            for message in self.ready:
                return message, True
            if queue.messages:
                return queue.messages.pop(0), True
        self._handing = False
        return None

    def _receive_chunk(self) -> Optional[Chunk]:
        """Some of the next message; ``None`` if there won't be any more."""
        protocol, mutex = self.protocol, self.transport.mutex
        while True:
            self._unstored = True
            mutex.acquire()
            if self.queue.dropping:
                self._drop()
            chunk = protocol.next_chunk()
            mutex.release()
            if chunk is not None:
                self._handing = True
            self._unstored = False
            self._answer()
            if chunk is not None:
                return chunk
            if protocol.finished:
                self.end(None)
                return None
            if not protocol.pending:  # parsing goes in slices
                self._read(None, in_chunks=True)

    def leave_stream(self, token: object) -> None:
        """Stop receiving chunks, and leave the rest of the message that has begun, if any."""
        if self._consumer.get(0) is token:
            self.transport.change(self._skip)  # another thread may be about to keep a chunk
            del self._consumer[0]
            self.transport.waiters.notify()

    def _skip(self) -> None:
        self.protocol.skip()
        self.queue.chunks.clear()

    # -- for others than the consumer --

    def keep(self) -> bool:
        """Parse, as the receiver, and keep what there is; whether there was anything."""
        protocol, queue, mutex = self.protocol, self.queue, self.transport.mutex
        self._unstored = True
        mutex.acquire()
        kept = len(queue)
        queue.dropping = queue.dropping or not queue.has_room()
        if queue.dropping:
            self._drop()
        elif protocol.reader.streaming:
            chunk = protocol.next_chunk()
            queue.chunks.extend([chunk] if chunk else ())
        else:
            queue.messages.extend(protocol.next_messages())
        mutex.release()
        self._unstored = False
        self._answer()
        return len(queue) > kept

    def _drop(self) -> None:
        self.protocol.skip()
        while self.protocol.next_messages() or self.protocol.pending:
            pass

    def receive_now(self) -> bool:
        """Receive without waiting, keeping the messages; whether there was anything."""
        if not self.protocol.pending and not self._read_now():
            self._answer()  # TLS may have read what it has to answer
            return False
        self.keep()
        return True

    def wait_until(self, done: Callable[[], bool], deadline: Optional[float]) -> bool:
        """Block until *done()*, receiving if nobody does; ``False`` if *deadline* passes first.

        Who makes *done* true notifies the waiters, or is the receiver. Beyond ``max_queue`` unread
        messages, it waits for somebody to take them; while closing, it drops them.
        """
        transport = self.transport
        while not done():
            in_time = self.step_in(self._read_once, done, deadline)
            if in_time is None:
                self.tick_if_due(monotonic())
                blocked = transport.buffer.waits and not transport.closed
                if blocked and transport.as_writer(self._wait_for_room, deadline) is not None:
                    transport.flush()
                else:
                    timeout = GLANCE if blocked else HEED
                    if deadline is not None:
                        timeout = min(timeout, lock_timeout(deadline))
                    transport.waiters.wait(lambda: done() or self._has_no_receiver(), timeout)
            if deadline is not None and (in_time is False or monotonic() >= deadline):
                return done()
        return True

    def _has_no_receiver(self) -> bool:
        """Whether this thread may step in now."""
        return self.step_in(bool) is not None

    def _read_once(self, done: Callable[[], bool], deadline: Optional[float]) -> bool:
        """Read once as the receiver, keeping the messages; ``False`` if *deadline* passed first."""
        protocol = self.protocol
        if done():
            return True
        if protocol.finished or protocol.state is CLOSED:
            self.end(deadline)  # what isn't parsed stays for the consumer
        elif protocol.pending or self._read(deadline):
            self.keep()
        else:
            return False
        return True

    def tick_if_due(self, now: float) -> None:
        """Let the keepalive tick if nobody receives, perhaps for want of room for messages."""
        if now >= self.transport.tick_at:
            self.as_receiver(self._tick, now)

    def _tick(self, now: float) -> None:
        if self.stream.buffered() or self.transport.poll(READ, 0.0):
            self.protocol.heard(now)  # a peer whose bytes wait unread isn't dead
        self.transport.tick(now)

    def _wait_for_room(self, deadline: Optional[float]) -> bool:
        """Wait for room to write a moment, as the writer; ``True``."""
        transport, soon = self.transport, monotonic() + GLANCE
        if not transport.closed:
            until = soon if deadline is None else min(soon, deadline)
            if transport.poll(transport.unwritten(), until):
                self.protocol.heard(monotonic())
        return True

    def flush_or_wait(self, deadline: Optional[float] = None) -> None:
        """Flush; and stay until it is done if another thread receives, for that may sleep."""
        transport = self.transport
        transport.flush()
        while transport.buffer.waits and not transport.closed:
            late = deadline is not None and monotonic() >= deadline
            if late or transport.is_interrupted() or self._has_no_receiver():
                return
            if not self._may_step_in() and not self.wanted:
                return  # for want of room, not of a receiver: whoever takes messages flushes
            if transport.as_writer(self._wait_for_room, deadline) is None:
                return  # who is writing goes on with it
            transport.flush()

    def service(self) -> Tuple[int, float]:
        """Do what the receiver would do, without waiting, if there is none: in the background.

        Returns:
            For which events of the socket to wait, and when to look again in any case.
        """
        now = monotonic()
        found = None if self.wanted else self.as_receiver(self._look, now)
        if found is not None:
            return found
        if now >= self.transport.tick_at + CHECK:
            self._tick_for_receiver(now)
        return 0, now + CHECK

    def _look(self, now: float) -> Tuple[int, float]:
        protocol, transport = self.protocol, self.transport
        if transport.buffer.waits:
            transport.flush()
        more = self._read_ahead()
        unread = not more and self._has_unread()
        if unread:
            protocol.heard(now)  # a peer whose bytes wait unread isn't dead
        if now >= transport.tick_at:
            transport.tick(now)
        if protocol.finished or protocol.state is CLOSED:
            if self.end(now):
                return 0, NEVER
            lost = protocol.state is CLOSED  # its socket would be readable all the time
            events = 0 if lost else READ | transport.unwritten()
            return events, min(transport.closing_deadline(), now + CHECK)
        at = transport.tick_at
        if protocol.state is not OPEN:
            at = min(at, transport.closing_deadline())
        if unread or more:
            return 0, now if more else min(at, now + CHECK)  # there may be room then
        return READ | transport.unwritten(), at

    def _read_ahead(self) -> bool:
        """Keep what is there, as far as there is room; whether to go on, after the others."""
        for _ in repeat(None, READS_AHEAD):
            if self.wanted or self._is_full():
                return False
            if not self.receive_now():
                return self.stream.unread
        return True

    def _is_full(self) -> bool:
        """Whether nothing is to be read: there is no room, or nothing more can come."""
        protocol = self.protocol
        if protocol.finished or protocol.state is CLOSED:
            return True
        return protocol.state is OPEN and not self.queue.has_room()

    def _has_unread(self) -> bool:
        """Whether something waits for room."""
        protocol = self.protocol
        if protocol.state is not OPEN or protocol.finished or self.queue.has_room():
            return False
        return self.stream.buffered() or self.transport.poll(READ, 0.0)

    def _tick_for_receiver(self, now: float) -> None:
        """Give a dead peer up whose receiver waits for a later moment, since before ``probe``."""
        transport, protocol = self.transport, self.protocol
        if transport.closed or self._read_not_fed or not protocol.doubtful:
            return
        if not transport.poll(READ, 0.0) and not transport.tick(now):
            transport.shut_down()  # which wakes it

    # -- for the receiver --

    def _read(
        self, deadline: Optional[float], polling: bool = False, in_chunks: bool = False
    ) -> bool:
        """Read once, blocking, and feed the protocol; ``in_chunks``: not more than one takes.

        Returns:
            ``False`` if *deadline* passed first. ``True`` may be for nothing.
        """
        protocol, transport = self.protocol, self.transport
        missing, size, flags = protocol.reader.missing, self._size, 0
        if self._read_not_fed:  # an exception came in between
            self._feed(missing)
            return True
        if in_chunks or protocol.reader.streaming:
            missing, size = 0, min(size, CHUNK)
        elif missing >= LARGE:
            size, flags = min(missing, MAX_LARGE), WAITALL
        at_leisure = deadline is None and protocol.state is OPEN and not polling
        if transport.blocks and at_leisure and not transport.buffer.waits:
            if self._receive_some(size, flags):
                self._feed(missing)
                return True  # else SO_RCVTIMEO
        return self._read_polling(min(size, MAX_READ_SIZE), missing, deadline)

    def _read_polling(self, size: int, missing: int, deadline: Optional[float]) -> bool:
        """The same with the keepalive in time."""
        spin_until = 0.0
        if self._busy_poll:
            spin_until = monotonic() + self._busy_poll
            if deadline is not None:
                spin_until = min(spin_until, deadline)
        poll = not spin_until and not self.stream.buffered()
        while True:
            if poll:
                ready = self._wait_readable(deadline)
                if not ready:
                    return ready is not None
            if self._receive_some(size, DONTWAIT):
                self._feed(missing)
                return True
            # Records of TLS that bring no data may want answers, and may go on for ever: whoever
            # calls looks at the time, and at what others have done to the connection.
            self._answer()
            if poll or self.stream.unread:
                return True
            poll = monotonic() >= spin_until

    def _wait_readable(self, deadline: Optional[float]) -> Optional[bool]:
        """Wait until there may be something to read.

        Returns:
            ``False`` if there won't be; ``None`` if *deadline* passed first.
        """
        protocol, transport = self.protocol, self.transport
        now = monotonic()
        while True:
            self._answer()  # the peer may wait for what TLS has to say
            until = transport.tick_at if deadline is None else min(deadline, transport.tick_at)
            if protocol.state is not OPEN:
                until = min(until, transport.closing_deadline())
            ahead = now - monotonic()  # of a clock that a test has stopped
            ready = transport.poll(READ | transport.unwritten(), until - ahead)
            if transport.buffer.waits:
                transport.flush()
            if ready and (protocol.state is OPEN or monotonic() < transport.closing_deadline()):
                return True
            now = max(monotonic(), now + min(until - now, HEED))
            if now >= transport.tick_at and not transport.tick(now):
                return False
            if deadline is not None and now >= deadline:
                return None
            if protocol.state is not OPEN and now >= transport.closing_deadline():
                transport.lose(TimeoutError(SLOW_CLOSE))
                return False

    def _read_now(self) -> bool:
        if not self._receive_some(READ_SIZE, DONTWAIT):
            return False
        self._feed(0)
        return True

    def _receive_some(self, size: int, flags: int) -> bool:
        """Read once; whether there is something to feed the protocol with, the end included."""
        landed = self._read_not_fed
        try:
            if landed:
                return True
            if self._recv_onto is None:
                landed.extend(map(self.stream.recv, (size,), (flags,)))
            else:
                self._recv_onto(landed, size, flags)
        except BlockingIOError as exc:
            if exc.errno is None:
                raise
            if self.transport.buffer.needs_read:
                self.transport.flush()  # TLS may have read what it wanted
            return False
        except OSError as exc:
            self._lost(exc)
        return True

    def _feed(self, missing: int) -> None:
        """Feed what was read to the protocol; *missing* bytes were asked for."""
        landed = self._read_not_fed
        if not landed:
            return  # the connection is lost
        data = landed[0]
        self._unstored = True
        landed.clear()
        if data:
            self._size = next_read_size(self._size, len(data), missing)
            self.protocol.receive_data(data, monotonic())
        else:
            self._lost(EOFError(NO_CLOSE))
        self._unstored = False

    def _lost(self, exc: BaseException) -> None:
        """Reading has met *exc*.

        Raises:
            OSError: *exc* itself, if it isn't the network's.
        """
        if isinstance(exc, OSError) and exc.errno is None:
            raise exc
        transport = self.transport
        # What a write met says more than the end that reading finds afterwards.
        transport.change(self.protocol.connection_lost, transport.buffer.error or exc)

    # -- the end --

    def end(self, deadline: Optional[float]) -> bool:
        """Reach the end, as the receiver; ``False`` if *deadline* passes before.

        With both Close frames there, or none to come, the socket is closed at once. Else what comes
        is dropped until the server ends the connection, within ``close_timeout``.
        """
        close_by = self.transport.closing_deadline()
        until = close_by if deadline is None else min(deadline, close_by)
        while not self._is_over():
            self._drain(until)
            if monotonic() >= until:
                break
        if until < close_by and not self._is_over():
            return False
        return self._close_socket(deadline)

    def _stop_talking(self) -> None:
        """End our side of TCP, as the writer, too, and take what has come: unread, it would make
        the kernel reset the connection, and the server might lose our Close frame."""
        buffer = self.transport.buffer
        if self.protocol.state is CLOSED:
            return
        if not buffer.waits and buffer.error is None:
            self.stream.say_goodbye()
            try:
                self.stream.sock.shutdown(socket.SHUT_WR)
            except OSError as exc:
                if exc.errno is None:
                    raise  # a signal handler's; else it isn't connected any more
        for _ in repeat(None, LAST_READS):
            if not self._receive_some(READ_SIZE, DONTWAIT) or not self._read_not_fed:
                break
            if not self._read_not_fed.pop():
                break

    def _is_over(self) -> bool:
        protocol, transport = self.protocol, self.transport
        if protocol.abort or protocol.state is CLOSED:
            return True
        transport.flush()
        both = protocol.rcvd is not None and protocol.sent is not None
        return both and not transport.buffer.waits and not protocol.has_output

    def _drain(self, until: float) -> None:
        """Drop what comes, or wait for it."""
        transport = self.transport
        if self._receive_some(READ_SIZE, DONTWAIT):
            if self._read_not_fed and not self._read_not_fed.pop():
                self._lost(EOFError(NO_CLOSE))
            return
        if not self.stream.unread:
            transport.poll(READ | transport.unwritten(), until)

    def _close_socket(self, deadline: Optional[float]) -> bool:
        """Close the socket, as the receiver; ``False`` if the writer isn't back by *deadline*."""
        transport, sending = self.transport, self.transport.sending
        if transport.closed or sending._is_owned():
            return True  # the call that this one has interrupted goes on with it
        try:
            if not self._become_last_writer(deadline):
                return False
            self._stop_talking()
            transport.change(self._closed)
            sending.release()
        except BaseException as exc:
            transport.stop_writing(exc, busy=True)
            raise
        transport.waiters.notify()
        return True

    def _become_last_writer(self, deadline: Optional[float]) -> bool:
        transport, sending = self.transport, self.transport.sending
        if sending.acquire(False):
            return True
        # Who writes now may have our Close frame in its hands.
        if not transport.buffer.waits and sending.acquire(True, GLANCE):
            return True
        transport.shut_down()  # a blocked writer comes back
        return sending.acquire(True, lock_timeout(deadline))

    def _closed(self) -> None:
        """Under all locks."""
        transport = self.transport
        self.protocol.connection_lost(transport.buffer.error)
        self._read_not_fed.clear()
        transport.buffer.clear()
        self.stream.close()
        transport.closed = True
        if transport.watched is not None:
            transport.watched.over = True

    def wait_closed(self) -> None:
        """Wait for the end of the closing handshake that has begun; at most ``close_timeout``."""
        transport = self.transport
        if not self.wait_until(lambda: transport.closed, transport.closing_deadline()):
            transport.lose(TimeoutError(SLOW_CLOSE))
            # If the receiver is held up, it will find the end, and close.
            self.wait_until(lambda: transport.closed, monotonic() + SETTLE)
