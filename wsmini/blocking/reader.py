"""Reading, blocking: one read from the stream, into the protocol, with the keepalive in time.

At the end, the closing handshake's last bytes are read and dropped, and the socket is closed. The
receiver alone calls all this (see ``transport``); what becomes of messages is up to it.
"""

from __future__ import annotations

import socket
from itertools import repeat
from time import monotonic

from ..clock import NEVER, lock_timeout
from ..interrupts import pass_on_handlers
from ..opening.streams import (
    CHUNK,
    DONTWAIT,
    HEED,
    LARGE,
    LAST_READS,
    MAX_READ_SIZE,
    NO_CLOSE,
    READ,
    READ_SIZE,
    SLOW_CLOSE,
    WAITALL,
    next_read_size,
)
from ..sansio.protocol import CLOSED, OPEN
from .transport import GLANCE, BlockingTransport

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..sansio.messages import Message

MAX_LARGE = 1 << 26  # bytes of a frame to read at once: a header alone must not cost memory

_NO_FLAGS = (0,)


class Reader:
    """See above. *rest* is what came behind the handshake.

    Attributes:
        read_not_fed: what was read last, until the protocol is fed with it. A receive puts it here
            without a bytecode between, so that an exception of a signal handler can't lose it.
        unstored: whether the receiver has something in local variables only.
    """

    __slots__ = (
        "_busy_poll", "_recv_onto", "_size", "protocol", "read_not_fed", "stream", "transport",
        "unstored",
    )  # fmt: skip

    def __init__(self, transport: BlockingTransport, busy_poll: float, rest: bytes) -> None:
        self.transport = transport
        self.protocol, self.stream = transport.protocol, transport.stream
        self._recv_onto = getattr(self.stream, "recv_onto", None)  # of TLS
        self._busy_poll = busy_poll
        self._size = READ_SIZE
        self.read_not_fed: list[bytes] = []
        self.unstored = False
        if rest:
            self.protocol.receive_data(rest, monotonic())

    def read_message(self) -> Message | None:
        """What ``read_until(None)`` nearly always does, in one go: a blocking read.

        Returns:
            A message, if that and nothing else was what came. The caller stores it, and clears
            ``unstored``.
        """
        protocol, transport, landed = self.protocol, self.transport, self.read_not_fed
        odd = landed or not transport.blocks or transport.buffer.waits
        if odd or protocol.reader.missing >= LARGE or protocol.state is not OPEN:
            self.read_until(None)
            return None
        try:
            if self._recv_onto is None:
                landed.extend(map(self.stream.recv, (self._size,), _NO_FLAGS))
            else:
                self._recv_onto(landed, self._size)
        except BlockingIOError as exc:
            pass_on_handlers(exc)
        except OSError as exc:
            self.lost(exc)
            return None
        if not landed:  # SO_RCVTIMEO: it is time for the keepalive
            self._poll_and_read(self._size, 0, None)
            return None
        data = landed[0]
        if not data:
            self._feed(0)
            return None
        if len(data) >= READ_SIZE or self._size != READ_SIZE:
            self._size = next_read_size(self._size, len(data), 0)
        self.unstored = True
        landed.clear()
        now = monotonic()
        message = protocol.receive_message(data, now)
        if message is None:
            protocol.receive_data(data, now)
            self.unstored = False
        return message

    def read_until(self, deadline: float | None, in_chunks: bool = False) -> bool:
        """Read once, blocking, and feed the protocol; ``in_chunks``: not more than one takes.

        Returns:
            ``False`` if *deadline* passed first. ``True`` may be for nothing.
        """
        protocol, transport = self.protocol, self.transport
        missing, size, flags = protocol.reader.missing, self._size, 0
        if self.read_not_fed:  # an exception came in between
            self._feed(missing)
            return True
        if in_chunks or protocol.reader.streaming:
            missing, size = 0, min(size, CHUNK)
        elif missing >= LARGE:
            size, flags = min(missing, MAX_LARGE), WAITALL
        at_leisure = deadline is None and protocol.state is OPEN
        if transport.blocks and at_leisure and not transport.buffer.waits:
            if self.receive_once(size, flags):
                self._feed(missing)
                return True  # else SO_RCVTIMEO
        return self._poll_and_read(min(size, MAX_READ_SIZE), missing, deadline)

    def _poll_and_read(self, size: int, missing: int, deadline: float | None) -> bool:
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
            if self.receive_once(size, DONTWAIT):
                self._feed(missing)
                return True
            # Records of TLS that bring no data may want answers, and may go on for ever: whoever
            # calls looks at the time, and at what others have done to the connection.
            self.transport.answer()
            if poll or self.stream.unread:
                return True
            poll = monotonic() >= spin_until

    def _wait_readable(self, deadline: float | None) -> bool | None:
        """Wait until there may be something to read.

        Returns:
            ``False`` if there won't be; ``None`` if *deadline* passed first.
        """
        transport, limit = self.transport, NEVER if deadline is None else deadline
        now = monotonic()
        while True:
            self.transport.answer()  # the peer may wait for what TLS has to say
            until = min(limit, transport.tick_at, transport.end_by())
            ahead = now - monotonic()  # of a clock that a test has stopped
            ready = transport.poll(READ | transport.unwritten(), until - ahead)
            if transport.buffer.waits:
                transport.flush()
            if ready and monotonic() < transport.end_by():
                return True
            now = max(monotonic(), now + min(until - now, HEED))
            if now >= transport.tick_at and not transport.tick(now):
                return False
            if now >= limit:
                return None
            if now >= transport.end_by():
                transport.lose(TimeoutError(SLOW_CLOSE))
                return False

    def read_now(self) -> bool:
        if not self.receive_once(READ_SIZE, DONTWAIT):
            return False
        self._feed(0)
        return True

    def receive_once(self, size: int, flags: int) -> bool:
        """Read once; whether there is something to feed the protocol with, the end included."""
        landed = self.read_not_fed
        try:
            if landed:
                return True
            if self._recv_onto is None:
                landed.extend(map(self.stream.recv, (size,), (flags,)))
            else:
                self._recv_onto(landed, size, flags)
        except BlockingIOError as exc:
            pass_on_handlers(exc)
            if self.transport.buffer.needs_read:
                self.transport.flush()  # TLS may have read what it wanted
            return False
        except OSError as exc:
            self.lost(exc)
        return True

    def _feed(self, missing: int) -> None:
        """Feed what was read to the protocol; *missing* bytes were asked for."""
        landed = self.read_not_fed
        if not landed:
            return  # the connection is lost
        data = landed[0]
        self.unstored = True
        landed.clear()
        if data:
            self._size = next_read_size(self._size, len(data), missing)
            self.protocol.receive_data(data, monotonic())
        else:
            self.lost(EOFError(NO_CLOSE))
        self.unstored = False

    def lost(self, exc: BaseException) -> None:
        """Reading has met *exc*.

        Raises:
            OSError: *exc* itself, if it isn't the network's.
        """
        if isinstance(exc, OSError):
            pass_on_handlers(exc)
        transport = self.transport
        # What a write met says more than the end that reading finds afterwards.
        transport.change(self.protocol.connection_lost, transport.buffer.error or exc)

    # -- the end --

    def reach_end(self, deadline: float | None) -> bool:
        """Reach the end, as the receiver; ``False`` if *deadline* passes before.

        With both Close frames there, or none to come, the socket is closed at once. Else what comes
        is dropped until the server ends the connection, within ``close_timeout``.
        """
        close_by = self.transport.closing_deadline()
        until = close_by if deadline is None else min(deadline, close_by)
        while not self._is_over():
            self._drop_or_wait(until)
            if monotonic() >= until:
                break
        if until < close_by and not self._is_over():
            return False
        return self._close_socket(deadline)

    def _is_over(self) -> bool:
        protocol, transport = self.protocol, self.transport
        if protocol.abort or protocol.state is CLOSED:
            return True
        transport.flush()
        both = protocol.rcvd is not None and protocol.sent is not None
        return both and not transport.buffer.waits and not protocol.has_output

    def _drop_or_wait(self, until: float) -> None:
        """Drop what comes, or wait for it."""
        transport = self.transport
        if self.receive_once(READ_SIZE, DONTWAIT):
            if self.read_not_fed and not self.read_not_fed.pop():
                self.lost(EOFError(NO_CLOSE))
            return
        if not self.stream.unread:
            transport.poll(READ | transport.unwritten(), until)

    def _close_socket(self, deadline: float | None) -> bool:
        """Close the socket, as the receiver; ``False`` if the writer isn't back by *deadline*."""
        transport, sending = self.transport, self.transport.sending
        if transport.closed or sending._is_owned():
            return True  # the call that this one has interrupted goes on with it
        try:
            if not self._become_last_writer(deadline):
                return False
            self._stop_talking()
            transport.change(self._close_now)
            sending.release()
        except BaseException as exc:
            transport.stop_writing(exc, busy=True)
            raise
        transport.waiters.notify()
        return True

    def _become_last_writer(self, deadline: float | None) -> bool:
        transport, sending = self.transport, self.transport.sending
        if sending.acquire(False):
            return True
        # Who writes now may have our Close frame in its hands.
        if not transport.buffer.waits and sending.acquire(True, GLANCE):
            return True
        transport.shut_down()  # a blocked writer comes back
        return sending.acquire(True, lock_timeout(deadline))

    def _stop_talking(self) -> None:
        """End our side of TCP, as the writer, too, and take what has come: unread, it would make
        the kernel reset the connection, and the server might lose our Close frame."""
        buffer, landed = self.transport.buffer, self.read_not_fed
        if self.protocol.state is CLOSED:
            return
        if not buffer.waits and buffer.error is None:
            self.stream.say_goodbye()
            self.transport.end_tcp(socket.SHUT_WR)
        for _ in repeat(None, LAST_READS):
            if not (self.receive_once(READ_SIZE, DONTWAIT) and landed and landed.pop()):
                break  # nothing more is there, or nothing more can come

    def _close_now(self) -> None:
        """Under all locks."""
        transport = self.transport
        self.protocol.connection_lost(transport.buffer.error)
        self.read_not_fed.clear()
        transport.buffer.clear()
        self.stream.close()
        transport.closed = True
