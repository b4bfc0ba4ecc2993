"""The end, blocking: the closing handshake's last bytes, and the socket, which the receiver closes.

Who may do what when is told in ``transport``.
"""

from __future__ import annotations

import socket
import time
from itertools import repeat

from ..clock import lock_timeout
from ..opening.streams import DONTWAIT, LAST_READS, NO_CLOSE, READ, READ_SIZE
from ..sansio.protocol import State
from .transport import GLANCE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional

    from .reader import Reader
    from .transport import BlockingTransport

CLOSED = State.CLOSED
monotonic = time.monotonic


class Ending:
    """See above; ``reach`` is all of it."""

    __slots__ = ("protocol", "reader", "stream", "transport")

    def __init__(self, transport: BlockingTransport, reader: Reader) -> None:
        self.transport, self.reader = transport, reader
        self.protocol, self.stream = transport.protocol, transport.stream

    def reach(self, deadline: Optional[float]) -> bool:
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
        reader, transport = self.reader, self.transport
        if reader.receive_once(READ_SIZE, DONTWAIT):
            if reader.read_not_fed and not reader.read_not_fed.pop():
                reader.lost(EOFError(NO_CLOSE))
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
            transport.change(self._close_now)
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

    def _stop_talking(self) -> None:
        """End our side of TCP, as the writer, too, and take what has come: unread, it would make
        the kernel reset the connection, and the server might lose our Close frame."""
        reader, buffer = self.reader, self.transport.buffer
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
            if not reader.receive_once(READ_SIZE, DONTWAIT) or not reader.read_not_fed:
                break
            if not reader.read_not_fed.pop():
                break

    def _close_now(self) -> None:
        """Under all locks."""
        transport = self.transport
        self.protocol.connection_lost(transport.buffer.error)
        self.reader.read_not_fed.clear()
        transport.buffer.clear()
        self.stream.close()
        transport.closed = True
        if transport.watched is not None:
            transport.watched.over = True
