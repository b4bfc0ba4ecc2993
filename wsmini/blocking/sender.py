"""Sending, blocking: whole messages and fragmented ones, in the order of who gets to write.

Who may do what when is told in ``transport``. A send that a signal handler does while its thread is
in another call of the connection never waits: what can't be written at once is left to that call.
"""

from __future__ import annotations

from _thread import get_ident
from time import monotonic

from ..clock import NEVER, SETTLE, deadline_after, lock_timeout
from ..exceptions import ConnectionClosed
from ..opening.streams import HEED, READ, WRITE
from ..sansio.messages import encode_message, parts_of
from ..sansio.protocol import CLOSED, OPEN
from .receiver import Receiver
from .transport import GLANCE, BlockingTransport

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterator

    from ..sansio.frames import Data


class Sender:
    """See above; ``Connection.send`` has the short way for messages that are written at once."""

    __slots__ = ("_fragments_by", "_receiver", "protocol", "transport")

    def __init__(self, transport: BlockingTransport, receiver: Receiver) -> None:
        self.transport, self.protocol = transport, transport.protocol
        self._receiver = receiver
        self._fragments_by = 0  # the thread that is sending a fragmented message

    def start(self, deadline: float | None) -> bool:
        """Become the writer, between two messages; not if this thread may be in the middle of one.

        Raises:
            TimeoutError: if *deadline* passes first.
            ConnectionClosed: if the connection isn't open any more.
        """
        transport, protocol = self.transport, self.protocol
        while self._acquire(deadline):
            # Nothing is raised under the lock: a handler's exception might come on top of that.
            ours = self._fragments_by == get_ident()
            in_time = True
            if protocol.state is OPEN and not protocol.sending:
                in_time = deadline is None or self._wait_for_room(deadline)
                if in_time and protocol.state is OPEN:
                    return True
            elif not ours:
                transport.flush_as_writer()  # which this thread stops being now
            transport.sending.release()
            transport.flush()  # what others have left to the writer meanwhile
            if protocol.state is not OPEN:
                raise self.close_exc_when_known() from protocol.failure
            if not in_time:
                raise TimeoutError("the peer didn't take anything in time; nothing was sent")
            if ours:
                break
            self._wait_for_fragments(deadline)
        return False

    def _acquire(self, deadline: float | None) -> bool:
        """Wait for the lock; ``False`` if this call may have interrupted what its owner does."""
        transport, sending = self.transport, self.transport.sending
        if sending.acquire(False):
            return True
        if transport.is_interrupted():
            return False
        if not sending.acquire(True, lock_timeout(deadline)):
            raise TimeoutError("another thread's message wasn't taken in time")
        return True

    def _wait_for_fragments(self, deadline: float | None) -> None:
        """Wait a while for the end of another thread's fragmented message."""
        if deadline is not None and monotonic() >= deadline:
            raise TimeoutError("another thread's fragmented message didn't end in time")
        self._receiver.tick_if_due(monotonic())
        timeout = HEED if deadline is None else min(HEED, lock_timeout(deadline))
        self.transport.waiters.wait(self._between_messages, timeout)

    def _between_messages(self) -> bool:
        return not self.protocol.sending or self.transport.closed

    def _wait_for_room(self, deadline: float) -> bool:
        """Wait, as the writer, until the stream takes something of what comes next."""
        transport = self.transport
        while not transport.flush_as_writer() or not transport.poll(WRITE, 0.0):
            if transport.buffer.error is not None:
                return True  # writing will tell
            if not self._wait_writable(deadline):
                return self.protocol.state is not OPEN  # which the caller looks at
        return True

    def wait_written(self, deadline: float | None) -> bool:
        """Wait, as the writer, until all is written; ``False`` if it won't be."""
        transport = self.transport
        while not transport.flush_as_writer():
            if transport.buffer.error is not None:
                return False
            if transport.receiving._is_owned() or transport.mutex._is_owned():
                return True  # it will be, by the call that this one has interrupted
            if not self._wait_writable(deadline):
                if deadline is not None and monotonic() >= deadline:
                    transport.lose(
                        TimeoutError("the peer didn't take a message in time; a part was sent")
                    )
                return False
        return True

    def _wait_writable(self, deadline: float | None) -> bool:
        """Wait for room, receiving meanwhile if nobody does.

        Two ends that both send and don't read would wait for each other forever.

        Returns:
            ``False`` if *deadline* passed, or the connection has ended.
        """
        transport, protocol = self.transport, self.protocol
        events = 0 if transport.buffer.needs_read else WRITE
        until = limit = NEVER if deadline is None else deadline
        progress = self._receiver.step_in(self._receiver.receive_now)
        if progress is None or transport.buffer.needs_read:
            # Another thread may read what this one waits for, or TLS to be able to write.
            until = min(until, monotonic() + GLANCE)
        if progress is not None:
            events, until = events | READ, min(until, transport.tick_at)
            progress = progress or transport.stream.unread
        if protocol.state is CLOSED:
            return False
        if not progress:
            transport.poll(events, min(until, transport.end_by()))
        now = monotonic()
        # There was no room before: the peer's TCP has taken some.
        if not transport.buffer.needs_read and transport.poll(WRITE, 0.0):
            protocol.heard(now)
        self._receiver.tick_if_due(now)
        if now >= transport.end_by():
            transport.lose(
                TimeoutError("the peer didn't take a message before the connection closed")
            )
            return False
        return not protocol.abort and now < limit

    def why_not_written(self) -> ConnectionClosed:
        """The exception for who has stopped being the writer, as writing has failed.

        The peer may have said why, in a Close frame that waits to be read.
        """
        transport, protocol, error = self.transport, self.protocol, self.transport.buffer.error
        if transport.is_interrupted():
            return protocol.close_exc()
        # A server that refuses a message says so in a Close frame, and resets the connection.
        if error is not None and not self._receiver.wait_until(self._ends, monotonic() + SETTLE):
            transport.lose(error)
        exc = self.close_exc_when_known() if error is None else protocol.close_exc()
        exc.__cause__ = protocol.failure or error
        return exc

    def _ends(self) -> bool:
        return self._receiver.is_at_end() or not self._receiver.queue.has_room()

    def close_exc_when_known(self) -> ConnectionClosed:
        """The exception for the end; after the answer to our Close frame, if one is to come."""
        transport, receiver = self.transport, self._receiver
        if not transport.is_interrupted():
            receiver.wait_until(receiver.is_at_end, transport.closing_deadline())
        return self.protocol.close_exc()

    # -- fragmented messages --

    def send_fragments(
        self, message: object, text: bool | None, compress: bool | None, timeout: float | None
    ) -> None:
        """Send a fragment for each part, and an empty one to end the message.

        Other threads may send control frames between the fragments, but no messages.
        """
        parts = parts_of(message)
        if self.transport.is_interrupted() or self._fragments_by == get_ident():
            self._send_joined(parts, text, compress)
            return
        deadline = None if timeout is None else deadline_after(timeout)
        first = 0
        try:
            for opcode, data in _encoded(parts, text):
                self._send_fragment(opcode, data, False, compress, deadline)
                first = opcode
            if first:
                self._send_fragment(first, b"", True, compress, deadline)
        except BaseException as exc:
            # Not if it couldn't begin, and another thread's has begun since.
            if self._fragments_by == get_ident():
                self._abandon_message(exc)
            raise

    def _send_joined(
        self, parts: Iterator[str | Data], text: bool | None, compress: bool | None
    ) -> None:
        """The same for a signal handler, which can't wait between fragments: as one frame."""
        encoded = list(_encoded(parts, text))
        if encoded:
            self.transport.defer(encoded[0][0], b"".join(data for _, data in encoded), compress)

    def _send_fragment(
        self, opcode: int, data: Data, fin: bool, compress: bool | None, deadline: float | None
    ) -> None:
        transport, protocol, busy = self.transport, self.protocol, False
        try:
            if self._fragments_by != get_ident():
                self.start(deadline)
                self._fragments_by = get_ident()
            else:  # no message comes in between; control frames may be going out
                transport.sending.acquire()
                if protocol.state is not OPEN:
                    transport.sending.release()
                    raise self.close_exc_when_known() from protocol.failure
            busy = True
            frames = protocol.encode_fragment(opcode, data, fin, compress)
            written = transport.buffer.write(frames, len(data))
            busy = False
            written = written or self.wait_written(deadline)
            if fin:
                self._fragments_by = 0
            transport.sending.release()
            if not written:
                raise self.why_not_written()
            if fin:
                transport.waiters.notify()
            self._receiver.flush_or_wait(deadline)
        except BaseException as exc:
            transport.stop_writing(exc, busy)
            raise

    def _abandon_message(self, exc: BaseException) -> None:
        """A message that began and can't be completed: nothing else can be sent any more."""
        transport, protocol = self.transport, self.protocol
        if protocol.sending:
            transport.change(protocol.abandon_message)
        self._fragments_by = 0
        transport.waiters.notify()
        if isinstance(exc, ConnectionClosed) or protocol.state is OPEN:
            return
        if not isinstance(exc, Exception):
            transport.shorten_close()  # the program is leaving
        self._receiver.wait_closed()


def _encoded(parts: Iterator[str | Data], text: bool | None) -> Iterator[tuple[int, Data]]:
    """The opcode and the payload of each fragment."""
    first = 0
    for part in parts:
        first, data = encode_message(part, text, first)
        yield first, data
