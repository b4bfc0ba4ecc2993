"""The receiving half of a connection, blocking. Who may call what when is told in ``wire``.

Sockets are blocking where a flag (``net.DONTWAIT``) makes single calls not wait: then a receive
without a timeout is one system call. ``SO_RCVTIMEO`` ends that call from time to time for signals
and for the keepalive, which then goes on with exact polling.
"""

from __future__ import annotations

import errno
import time
from _thread import get_ident

from ..opening.sockets import (
    CHUNK,
    DONTWAIT,
    HEADER,
    HEED,
    LARGE,
    MAX_READ_SIZE,
    NO_CLOSE,
    READ,
    READ_SIZE,
    SLOW_CLOSE,
    WAITALL,
    WRITE,
    set_receive_timeout,
    wait,
)
from ..sansio.protocol import State
from .boxes import MessageQueue, WriteBuffer
from .locks import Locks

TYPE_CHECKING = False
if TYPE_CHECKING:
    import threading
    from typing import Callable, Iterator, List, Optional

    from ..opening.sockets import Stream
    from ..options import Options
    from ..sansio.messages import Message
    from ..sansio.protocol import ClientProtocol
    from .boxes import Chunk

MAX_LARGE = 1 << 26  # bytes of a frame to read at once: a header alone must not cost memory

# Seconds.
NEVER = float("inf")
MAX_WAIT = 86400.0  # poll() counts milliseconds in an int; who waits longer wakes once a day
SLACK = 0.05  # for a receive behind its deadline, as long as bytes are there

OPEN, CLOSED = State.OPEN, State.CLOSED
monotonic = time.monotonic

_NO_FLAGS = (0,)


class Receiving(Locks):
    """What a ``Wire`` is built on. *rest* is what came behind the handshake."""

    def __init__(
        self, stream: Stream, protocol: ClientProtocol, options: Options, rest: bytes
    ) -> None:
        import threading

        super().__init__()
        self.stream, self.protocol = stream, protocol
        self.inbox = MessageQueue(protocol, self.mutex, options.max_queue)
        self.outbox = WriteBuffer(stream)
        self.fragments: Optional[threading.Condition] = None  # a fragmented message has been sent
        self.ready: Iterator[Message] = iter(())  # messages that the consumer has taken
        self._busy_poll = options.busy_poll
        self._close_timeout, self._close_by = options.close_timeout, NEVER
        self.closed = False
        self.wanted = False  # by a consumer that waits to become the receiver
        self._size = READ_SIZE
        self.tick_at = NEVER if options.ping_interval is None else monotonic()
        self._write_error: Optional[OSError] = None
        self._changed = threading.Condition()
        self._waiting = 0
        self._blocks = self._set_up_socket(options.ping_interval)
        if rest:
            protocol.receive_data(rest, monotonic())

    def _set_up_socket(self, interval: Optional[float]) -> bool:
        """Make the socket blocking if that serves; whether it does."""
        sock = self.stream.sock
        if not DONTWAIT or self._busy_poll:
            sock.setblocking(False)
            return False
        sock.setblocking(True)
        return set_receive_timeout(sock, HEED if interval is None else min(HEED, interval / 4))

    def poll(self, events: int, until: float) -> bool:
        """Poll the socket; the caller is the receiver or the writer, so it can't be closed."""
        sock = self.stream.sock
        if sock.fileno() < 0:
            raise OSError(errno.EBADF, "the socket was closed behind the connection's back")
        return bool(wait({sock: events}, min(until - monotonic(), MAX_WAIT)))

    # -- for the consumer --

    def receive(self, deadline: Optional[float]) -> Message:
        """Block until there is a message; those that come with it are ``ready`` then.

        Raises:
            TimeoutError: if *deadline* passes; nothing is lost.
            ConnectionClosed: if there won't be any more.
        """
        if self.inbox.messages:
            return self._take()
        if not self.receiving.acquire(False):
            if not self._become_receiver(deadline, lambda: self.inbox.messages):
                return self._take()
        try:
            if self.inbox.messages:
                return self._take()
            batch = self._receive(deadline)
            if len(batch) > 1:
                ready = iter(batch)
                message = next(ready)
                self.ready = ready
                self.handing, self._critical = self._critical, 0
                return message
            self.handing, self._critical = self._critical, 0
            return batch.pop()  # and no second reference to what may be large
        finally:
            if self._critical:
                self.end_if_lost()
            self.receiving.release()
            if self._waiting:
                self.notify()

    def _become_receiver(self, deadline: Optional[float], kept: Callable[[], object]) -> bool:
        """Wait until a thread that has stepped in has read what it is reading.

        Returns ``False`` if it *kept* something before it saw that it should make room: it may be
        reading on, and wait for more than is needed.
        """
        self.wanted = True
        try:
            if kept():
                return False
            if not self.lock(self.receiving, deadline):
                raise TimeoutError("no message was complete in time; nothing is lost")
            return True
        finally:
            self.wanted = False
            self.notify()

    def release_receiving(self) -> None:
        """Stop being the receiver; who waits for something may go on as one."""
        if self._critical:
            self.end_if_lost()
        self.receiving.release()
        if self._waiting:
            self.notify()

    def _take(self) -> Message:
        self.handing = get_ident()
        message = self.inbox.take()
        self.notify()  # there is room
        return message

    def _receive(self, deadline: Optional[float]) -> List[Message]:
        protocol, reader, inbox, late = self.protocol, self.protocol.reader, self.inbox, False
        while True:
            if reader.pending or protocol.finished:
                self._critical = get_ident()
                if inbox.dropping:
                    batch = inbox.parse()
                else:  # the same without a call
                    with self.mutex:
                        batch = protocol.next_messages()
                if protocol.has_output or self.stream.unsent:
                    self.flush()
                if batch:
                    return batch
                self._critical = 0
                if protocol.finished:
                    self.end(deadline)
                    raise protocol.close_exc()
            if late:
                raise TimeoutError("no message was complete in time; nothing is lost")
            if deadline is None:
                message = self._read_simply()
                if message is not None:
                    if protocol.has_output or self.stream.unsent:
                        self.flush()
                    return [message]
            else:
                self._read(deadline)
                late = monotonic() >= deadline + SLACK

    def _read_simply(self) -> Optional[Message]:
        """What ``_read(None)`` nearly always does, in one go: a blocking read.

        Returns:
            The message, if that is what was read, the thread being ``_critical``; or ``None``.
        """
        protocol, landed = self.protocol, self._landed
        odd = landed or not self._blocks or self.outbox.blocked() or self.inbox.dropping
        if odd or protocol.reader.missing >= LARGE or protocol.state is not OPEN:
            self._read(None)
            return None
        try:
            landed.extend(map(self.stream.recv, (self._size,), _NO_FLAGS))  # see _land
        except BlockingIOError:
            pass
        except OSError as exc:
            self._lost(exc)
            return None
        if not landed:  # SO_RCVTIMEO: it is time for the keepalive
            self._read(None, polling=True)
            return None
        data = landed[0]
        if len(data) >= READ_SIZE or self._size != READ_SIZE:
            self._adapt(0, len(data))
        self._critical = get_ident()
        landed.clear()
        message = None
        if data:
            now = monotonic()
            message = protocol.receive_message(data, now)
            if message is None:
                protocol.receive_data(data, now)
                self._critical = 0
        else:
            self._lost(EOFError(NO_CLOSE))
            self._critical = 0
        return message

    def receive_chunk(self, begun: bool) -> Chunk:
        """Block until there is some of the next message; and whether that ends it.

        Args:
            begun: whether the message has begun with an earlier call.

        Raises:
            ConnectionClosed: as ``receive``.
        """
        kept = self.inbox.take_chunk(begun)
        while kept is None:
            if self.receiving.acquire(False) or self._become_receiver(None, self.inbox.__len__):
                try:
                    kept = self.inbox.take_chunk(begun) or self._receive_chunk()
                    self._critical = 0
                finally:
                    self.release_receiving()
            else:
                kept = self.inbox.take_chunk(begun)
        self.notify()  # there is room
        return kept

    def _receive_chunk(self) -> Chunk:
        protocol = self.protocol
        while True:
            self._critical = get_ident()
            chunk = self.inbox.parse_chunk()
            self.flush_output()
            if chunk is not None:
                return chunk
            self._critical = 0
            if protocol.finished:
                self.end(None)
                raise protocol.close_exc()
            self._read(None, in_chunks=True)

    def skip(self) -> None:
        """Leave the rest of the message that ``receive_chunk`` has begun."""
        self.inbox.skip()
        self.notify()

    # -- for the receiver --

    def _read(
        self, deadline: Optional[float], polling: bool = False, in_chunks: bool = False
    ) -> None:
        """Read once, blocking, and feed the protocol; ``in_chunks``: not more than one takes."""
        protocol = self.protocol
        missing, size, flags = protocol.missing, self._size, 0
        if in_chunks or protocol.streaming:
            missing, size = 0, min(size, CHUNK)
        elif missing >= LARGE:
            size, flags = min(missing, MAX_LARGE), WAITALL
        try:
            at_leisure = deadline is None and protocol.state is OPEN and not polling
            if self._blocks and at_leisure and not self.outbox.blocked():
                data = self._read_blocking(size, flags)
            else:
                data = self._read_polling(min(size, MAX_READ_SIZE), deadline)
        except OSError as exc:
            if isinstance(exc, TimeoutError) and exc.errno is None:
                raise  # ours; the kernel's has ETIMEDOUT
            self._lost(exc)
            return
        if data:
            self._adapt(missing, len(data))
        if data is not None:
            self._take_in(data)

    def _land(self, size: int, flags: int) -> bytes:
        """Read once. What was read stays in ``_landed`` until ``_take_in``, whatever happens."""
        landed = self._landed
        if not landed:  # an exception may have come in between
            landed.extend(map(self.stream.recv, (size,), (flags,)))
        return landed[0]

    def _take_in(self, data: bytes) -> None:
        """Feed what has landed to the protocol."""
        self._critical = get_ident()
        self._landed.clear()
        if data:
            self.protocol.receive_data(data, monotonic())
        else:
            self._lost(EOFError(NO_CLOSE))
        self._critical = 0

    def _adapt(self, missing: int, n: int) -> None:
        """Choose how much to ask for next time."""
        if missing >= LARGE and n == missing:
            self._size = HEADER
        elif self._size < READ_SIZE or n < READ_SIZE:
            self._size = READ_SIZE
        elif n == self._size:
            self._size = min(2 * n, MAX_READ_SIZE)

    def _read_blocking(self, size: int, flags: int) -> Optional[bytes]:
        try:
            return self._land(size, flags)
        except BlockingIOError:
            pass  # SO_RCVTIMEO; what comes next, Ctrl-C say, must not have this as its context
        return self._read_polling(min(size, MAX_READ_SIZE), None)

    def _read_polling(self, size: int, deadline: Optional[float]) -> Optional[bytes]:
        """Bytes, with the keepalive in time; ``None`` if it gave the peer up.

        Raises:
            TimeoutError: if *deadline* passes.
        """
        spin_until = 0.0
        if self._busy_poll:
            spin_until = monotonic() + self._busy_poll
            if deadline is not None:
                spin_until = min(spin_until, deadline)
        poll = not spin_until and not self.stream.buffered()
        while True:
            if poll and not self._wait_readable(deadline):
                return None
            try:
                return self._land(size, DONTWAIT)
            except BlockingIOError:
                poll = not spin_until or monotonic() >= spin_until

    def _wait_readable(self, deadline: Optional[float]) -> bool:
        """Wait until there may be something to read; ``False`` if the keepalive gave up."""
        while True:
            until = self.tick_at if deadline is None else min(deadline, self.tick_at)
            if self.protocol.state is not OPEN:
                until = min(until, self.closing_deadline())
            blocked = self.outbox.blocked()
            ready = self.poll(READ | WRITE if blocked else READ, until)
            if blocked:
                self.flush()
            if ready:
                return True
            now = monotonic()
            if now >= self.tick_at and not self.tick(now):
                return False
            if deadline is not None and now >= deadline:
                raise TimeoutError("no message was complete in time; nothing is lost")
            if self.protocol.state is not OPEN and now >= self.closing_deadline():
                self.cut(TimeoutError(SLOW_CLOSE))
                return False

    def receive_now(self) -> bool:
        """Receive without waiting, keeping the messages; whether there was anything."""
        if not self.protocol.pending:
            try:
                data = self._land(READ_SIZE, DONTWAIT)
            except BlockingIOError:
                return False
            except OSError as exc:
                self._lost(exc)
            else:
                self._take_in(data)
        return self.keep() or not self.protocol.pending

    def keep(self) -> bool:
        """Parse, as the receiver, and keep what there is; whether there was anything."""
        self._critical = get_ident()
        found = self.inbox.keep()
        self._critical = 0
        return found

    def tick(self, now: float) -> bool:
        """Let the keepalive do what is due; whether to go on."""
        with self.mutex:
            again = self.protocol.tick(now)
            self.tick_at = NEVER if again is None else again
        self.flush()
        return not self.protocol.finished

    def probe(self, now: float) -> None:
        """Ping at once, and look soon whether that is answered. For any thread."""
        with self.mutex:
            again = self.protocol.probe(now)
            self.tick_at = NEVER if again is None else again
        self.flush()

    def _lost(self, exc: BaseException) -> None:
        with self.mutex:
            # What a write met says more than the end that reading finds afterwards.
            self.protocol.connection_lost(self._write_error or exc)

    # -- what the rest is built on --

    def closing_deadline(self) -> float:
        """When the end has to be reached, counted from the first call."""
        if self._close_by == NEVER and self._close_timeout is not None:
            self._close_by = monotonic() + self._close_timeout
        return self._close_by

    def notify(self) -> None:
        """Something has changed that ``wait_until`` may wait for."""
        if self._waiting:
            with self._changed:
                self._changed.notify_all()

    def flush_output(self) -> None:
        """Flush, if there is something of the protocol's own."""
        if self.protocol.has_output or self.stream.unsent:
            self.flush()

    def flush(self) -> None:
        """Write the protocol's own frames, unless another thread is writing: it will then."""
        raise NotImplementedError

    def end(self, deadline: Optional[float]) -> None:
        """Reach the end, as the receiver.

        Raises:
            TimeoutError: if *deadline* passes before.
        """
        raise NotImplementedError
