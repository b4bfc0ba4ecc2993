"""Reading, blocking: one read from the stream, into the protocol, with the keepalive in time.

The receiver alone calls this (see ``transport``); what becomes of messages is up to it.
"""

from __future__ import annotations

import time

from ..opening.streams import (
    CHUNK,
    DONTWAIT,
    HEED,
    LARGE,
    MAX_READ_SIZE,
    NO_CLOSE,
    READ,
    READ_SIZE,
    SLOW_CLOSE,
    WAITALL,
    next_read_size,
)
from ..sansio.protocol import State

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List, Optional

    from ..sansio.messages import Message
    from .transport import BlockingTransport

MAX_LARGE = 1 << 26  # bytes of a frame to read at once: a header alone must not cost memory

OPEN = State.OPEN
monotonic = time.monotonic

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
        self.read_not_fed: List[bytes] = []
        self.unstored = False
        if rest:
            self.protocol.receive_data(rest, monotonic())

    def read_message(self) -> Optional[Message]:
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
            if exc.errno is None:
                raise
        except OSError as exc:
            self.lost(exc)
            return None
        if not landed:  # SO_RCVTIMEO: it is time for the keepalive
            self.read_until(None, polling=True)
            return None
        data = landed[0]
        if len(data) >= READ_SIZE or self._size != READ_SIZE:
            self._size = next_read_size(self._size, len(data), 0)
        self.unstored = True
        landed.clear()
        if not data:
            self.lost(EOFError(NO_CLOSE))
            self.unstored = False
            return None
        now = monotonic()
        message = protocol.receive_message(data, now)
        if message is None:
            protocol.receive_data(data, now)
            self.unstored = False
        return message

    def read_until(
        self, deadline: Optional[float], polling: bool = False, in_chunks: bool = False
    ) -> bool:
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
        at_leisure = deadline is None and protocol.state is OPEN and not polling
        if transport.blocks and at_leisure and not transport.buffer.waits:
            if self.receive_once(size, flags):
                self._feed(missing)
                return True  # else SO_RCVTIMEO
        return self._poll_and_read(min(size, MAX_READ_SIZE), missing, deadline)

    def _poll_and_read(self, size: int, missing: int, deadline: Optional[float]) -> bool:
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

    def _wait_readable(self, deadline: Optional[float]) -> Optional[bool]:
        """Wait until there may be something to read.

        Returns:
            ``False`` if there won't be; ``None`` if *deadline* passed first.
        """
        protocol, transport = self.protocol, self.transport
        now = monotonic()
        while True:
            self.transport.answer()  # the peer may wait for what TLS has to say
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
            if exc.errno is None:
                raise
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
        if isinstance(exc, OSError) and exc.errno is None:
            raise exc
        transport = self.transport
        # What a write met says more than the end that reading finds afterwards.
        transport.change(self.protocol.connection_lost, transport.buffer.error or exc)
