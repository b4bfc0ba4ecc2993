"""A stream and a protocol joined on an event loop, any that has asyncio's names. Nothing blocks.

One thread, the loop's, may call what is here. ``drive`` runs an opening; ``Link`` is what follows.
Messages go to the handler in batches as they are parsed; what is sent meanwhile goes out together
behind each batch. After a failed write it still reads, since the peer may have said why it left.

The end: when the protocol is ``finished``, the server has ``close_timeout`` to end the TCP
connection. Then, or when that is lost, the socket is closed and ``on_end`` called, once, last.
"""

from __future__ import annotations

import time
from collections import deque

from .net import READ, WRITE
from .protocol import ClientProtocol, State

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Deque, List, Optional, TypeVar, Union

    from .frames import Data
    from .net import Steps
    from .opening import Opened
    from .options import Options
    from .protocol import Frames

    T = TypeVar("T")

READ_SIZE = 32768  # bytes asked of the stream; it grows while reads come back full,
MAX_READ_SIZE = 131000  # but stays below the size from which malloc maps memory for each read
LARGE = 65536  # a frame that lacks at least so much is read exactly; as much is joined for a write
HEADER = 10  # bytes; all that is read behind a large frame, so that the next one needs no copy
SETTLE = 1.0  # seconds to find out by reading why writing has failed

SLOW_CLOSE = "the closing handshake took longer than close_timeout"
NO_CLOSE = "the server ended the connection without a Close frame"
NEVER = float("inf")
OPEN, CLOSED = State.OPEN, State.CLOSED


class Drive:
    """A generator of waits that a loop resumes; see ``drive``."""

    def __init__(self, loop: Any, steps: Steps[Any], done: Callable[[Any, Any], object]) -> None:
        self._loop, self._steps, self._done = loop, steps, done
        self._sockets: List[Any] = []
        self._send: Callable[[Any], Any] = lambda ready: next(steps)
        self._timer: Any = loop.call_soon(self._resume)

    def cancel(self) -> None:
        """Close the generator with all its sockets; ``done`` isn't called."""
        self._forget()
        self._steps.close()

    def _forget(self) -> None:
        for sock, events in self._sockets:
            if events & READ:
                self._loop.remove_reader(sock)
            if events & WRITE:
                self._loop.remove_writer(sock)
        self._sockets = []
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _resume(self, *ready: Any) -> None:
        self._forget()
        try:
            send, self._send = self._send, self._steps.send
            wanted = send(ready)
        except StopIteration as stop:
            self._done(stop.value, None)
            return
        except Exception as exc:
            self._done(None, exc)
            return
        self._sockets = list(wanted.sockets.items())
        for sock, events in self._sockets:
            if events & READ:
                self._loop.add_reader(sock, self._resume, sock)
            if events & WRITE:
                self._loop.add_writer(sock, self._resume, sock)
        if wanted.deadline is not None:
            delay = max(0.0, wanted.deadline - time.monotonic())
            self._timer = self._loop.call_later(delay, self._resume)


def drive(loop: Any, steps: Steps[T], done: Callable[[Optional[T], Any], object]) -> Drive:
    """Run *steps* on *loop*; then call ``done(result, exception)``, once, from the loop."""
    return Drive(loop, steps, done)


class Link:
    """See the module. *handler* has ``on_messages``, ``on_ping``, ``on_pong``, ``on_drain``, and
    ``on_end``; *gather* collects what is sent until the loop's next iteration.
    """

    __slots__ = (
        "_blocked", "_broken", "_close_by", "_close_timeout", "_events", "_flushing", "_gather",
        "_handing", "_handler", "_heard", "_loop", "_patience", "_paused", "_ping_timeout",
        "_queue", "_size", "_tick_at", "_timer", "_timer_at", "buffered", "closed", "protocol", "stream",
        "written",
    )  # fmt: skip

    def __init__(
        self, loop: Any, opened: Opened, options: Options, handler: Any, gather: bool = False
    ) -> None:
        self._loop, self._handler, self._gather = loop, handler, gather
        self.stream = opened.stream
        now = loop.time()
        self.protocol = protocol = ClientProtocol(
            max_size=options.max_size,
            ping_interval=options.ping_interval,
            ping_timeout=options.ping_timeout,
        )
        protocol.open(opened.extensions, now)
        protocol.on_ping, protocol.on_pong = self._note_ping, self._note_pong
        self._events: List[Any] = []  # pings and pongs: callbacks mustn't raise in the parser
        # Made when needed: an empty deque takes 600 bytes.
        self._queue: Optional[Deque[Union[bytes, bytearray, memoryview]]] = None
        self.buffered = self.written = 0  # bytes
        self.closed = self._paused = self._blocked = self._broken = False
        self._flushing = self._handing = False
        self._size = READ_SIZE
        self._heard, self._ping_timeout = now, options.ping_timeout
        self._close_timeout, self._close_by = options.close_timeout, NEVER
        self._patience = (options.ping_interval or NEVER) + (options.ping_timeout or NEVER)
        self._tick_at = NEVER if options.ping_interval is None else now + options.ping_interval
        self._timer: Any = None
        self._timer_at = NEVER
        if opened.rest:
            protocol.receive_data(opened.rest, now)

    def start(self) -> None:
        """Begin to read; nothing is delivered before this has returned."""
        self.stream.sock.setblocking(False)
        self._loop.add_reader(self.stream.sock, self._readable)
        self._arm()
        if self.protocol.pending or self.stream.buffered():
            self._loop.call_soon(self._advance)

    # -- sending --

    def send(self, opcode: int, data: Data, compress: Optional[bool] = None) -> None:
        """Send a message. Raises ConnectionClosed if the connection isn't open."""
        self._put(self.protocol.send_message(opcode, data, compress))

    def send_fragment(
        self, opcode: int, data: Data, fin: bool, compress: Optional[bool] = None
    ) -> None:
        """Send a fragment. Raises as ``send``."""
        self._put(self.protocol.send_fragment(opcode, data, fin, compress))

    def _put(self, frames: Frames) -> None:
        pieces: List[Union[bytes, bytearray]] = []
        if self.protocol.has_output and not self._blocked:
            pieces.append(self.protocol.data_to_send())  # a pong goes before what comes later
        if isinstance(frames, (bytes, bytearray)):
            pieces.append(frames)
        else:
            pieces.extend(frames)
        if self._queue is None:
            self._queue = deque()
        self._queue.extend(pieces)
        self.buffered += sum(map(len, pieces))
        self._flush_soon()

    def ping(
        self, data: Optional[bytes] = None, callback: Optional[Callable[[float], None]] = None
    ) -> None:
        """Send a ping. Raises as ``ClientProtocol.ping``."""
        self.protocol.ping(data, self._loop.time(), callback)
        self._flush_soon()

    def pong(self, data: bytes = b"") -> None:
        """Send an unsolicited pong."""
        self.protocol.pong(data)
        self._flush_soon()

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Begin the closing handshake."""
        self.protocol.close(code, reason)
        self._limit_close()
        self._flush_soon()

    def _flush_soon(self) -> None:
        if self._blocked or self._handing or self._flushing:
            return
        if self._gather:
            self._flushing = True
            self._loop.call_soon(self._flush)
        else:
            self._flush()

    def _flush(self) -> None:
        """Write what there is, and as much as there is room for."""
        self._flushing = False
        if self.closed or self._broken:
            return
        try:
            has_room = self.stream.flush() and self._write()
        except BlockingIOError:
            has_room = False
        except OSError as exc:
            self._broken = True
            self.protocol.failure = self.protocol.failure or exc
            self._close_by = min(self._close_by, self._loop.time() + SETTLE)
            self._arm()
            has_room = True  # nothing more is written
        if has_room == self._blocked:
            self._blocked = not has_room
            if self._blocked:
                self._loop.add_writer(self.stream.sock, self._writable)
            else:
                self._loop.remove_writer(self.stream.sock)
                self._handler.on_drain()

    def _writable(self) -> None:
        self.protocol.heard(self._loop.time())  # its TCP has taken something
        self._flush()

    def _write(self) -> bool:
        """Write the queue, and the protocol's frames behind it; whether all of that is sent."""
        queue, stream, protocol = self._queue or deque(), self.stream, self.protocol
        self._queue = queue
        while True:
            if not queue:
                data: Union[bytes, bytearray, memoryview] = protocol.data_to_send()
                if not data:
                    self._queue = None
                    return not stream.unsent
                self.buffered += len(data)
            else:
                data = queue.popleft()
                if queue and len(data) < LARGE:
                    data = self._join(data)
            queue.appendleft(data)
            sent = stream.send(data)
            self.written += sent
            self.buffered -= sent
            queue.popleft()
            if sent < len(data):
                queue.appendleft(memoryview(data)[sent:])

    def _join(self, data: Union[bytes, bytearray, memoryview]) -> bytes:
        """*data* and small buffers behind it as one, up to about ``LARGE``."""
        queue, parts, size = self._queue or deque(), [data], len(data)
        while queue and size + len(queue[0]) <= LARGE:
            size += len(queue[0])
            parts.append(queue.popleft())
        return b"".join(parts)

    # -- receiving --

    def pause(self) -> None:
        """Read no more, until ``resume()``."""
        if not self._paused and not self.closed:
            self._paused = True
            self._loop.remove_reader(self.stream.sock)

    def resume(self) -> None:
        """Read on."""
        if self._paused and not self.closed:
            self._paused = False
            self._loop.add_reader(self.stream.sock, self._readable)
            self._loop.call_soon(self._advance)

    def _readable(self) -> None:
        if self._read():
            self._advance()

    def _read(self) -> bool:
        """Read once; whether there was anything, be it the end."""
        protocol = self.protocol
        if self.closed or self._paused:
            return False
        missing = protocol.missing
        size = min(missing, MAX_READ_SIZE) if missing >= LARGE else self._size
        try:
            data = self.stream.recv(size)
        except BlockingIOError:
            if self.stream.unsent:
                self._flush_soon()
            return False
        except OSError as exc:
            protocol.connection_lost(exc)
            return True
        if not data:
            protocol.connection_lost(EOFError(NO_CLOSE))
            return True
        n = len(data)
        if missing >= LARGE and n == missing:
            self._size = HEADER
        elif n < READ_SIZE or self._size < READ_SIZE:
            self._size = READ_SIZE
        elif n == self._size:
            self._size = min(2 * n, MAX_READ_SIZE)
        self._heard = now = self._loop.time()
        protocol.receive_data(data, now)
        return True

    def _advance(self) -> None:
        """Hand over what there is; then write what that has led to; then see if it is the end."""
        protocol, handler = self.protocol, self._handler
        if self.closed:
            return
        self._handing = True
        try:
            while protocol.pending and not self._paused:
                batch = protocol.next_messages()
                self._tell_events()
                if not batch:
                    break
                handler.on_messages(batch)
            self._tell_events()
        except BaseException:
            self._loop.call_soon(self._advance)
            raise
        finally:
            self._handing = False
            if self._queue or protocol.has_output:
                self._flush()
        if protocol.state is not OPEN:
            self._limit_close()
        if protocol.state is CLOSED or protocol.abort:
            if not protocol.pending or not self._paused:
                self._end()
        elif self.stream.buffered() and not self._paused:
            self._loop.call_soon(self._readable)

    def _note_ping(self, data: bytes) -> None:
        self._events.append((self._handler.on_ping, data))

    def _note_pong(self, data: bytes) -> None:
        self._events.append((self._handler.on_pong, data))

    def _tell_events(self) -> None:
        while self._events:
            callback, data = self._events.pop(0)
            callback(data)

    # -- time and the end --

    def _limit_close(self) -> None:
        if self._close_by == NEVER and self._close_timeout is not None:
            self._close_by = self._loop.time() + self._close_timeout
            self._arm()

    def _arm(self) -> None:
        """Have the timer fire when something is due; one that fires too early sets it again."""
        due = min(self._tick_at, self._close_by)
        if due < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = due
            self._timer = self._loop.call_later(max(0.0, due - self._loop.time()), self._on_timer)

    def _on_timer(self) -> None:
        self._timer, self._timer_at = None, NEVER
        now, protocol = self._loop.time(), self.protocol
        if self.closed:
            return
        if now >= self._close_by:
            self.abort(protocol.failure or TimeoutError(SLOW_CLOSE))
            return
        if now >= self._tick_at:
            if self._paused:
                protocol.heard(now)  # what it says lies unread: nobody can call it dead
            elif now - self._heard >= self._patience and self._read():  # what waits is life
                self._loop.call_soon(self._advance)
            again = protocol.tick(now)
            # A little later, or a timer after each pong would only find out about that.
            self._tick_at = NEVER if again is None else again + (again - now) / 100
            self._flush_soon()
            if protocol.abort:
                self._flush()
                self._loop.call_soon(self._advance)
        self._arm()

    def probe(self) -> None:
        """Ping now; give the peer up unless something comes within ``ping_timeout``."""
        if self.protocol.state is OPEN and self._ping_timeout is not None:
            self.ping()
            self._loop.call_later(self._ping_timeout, self._check_probe, self._loop.time())

    def _check_probe(self, asked_at: float) -> None:
        if self._heard < asked_at and not self.closed and not self._paused:
            self.abort(TimeoutError("nothing received since the machine slept: the peer is dead"))

    def abort(self, exc: Optional[BaseException] = None) -> None:
        """Drop the connection; ``on_end`` comes from the loop."""
        if not self.closed:
            self.protocol.connection_lost(exc)
            self._paused = False
            self._loop.call_soon(self._advance)

    def _end(self) -> None:
        sock = self.stream.sock
        self.closed = True
        self._loop.remove_reader(sock)
        self._loop.remove_writer(sock)
        if self._timer is not None:
            self._timer.cancel()
        self.protocol.connection_lost(None)
        self.stream.close()
        self._handler.on_end()
