"""A stream and a protocol joined on an event loop: what ``aio`` and the callback client share.

A *host loop* has the names of asyncio's: ``time``, ``call_soon``, ``call_later``, ``add_reader``,
``add_writer`` and their ``remove_``; ``wsmini.Loop``, asyncio's selector loops and uvloop do. All
of it happens in the loop's thread, and nothing here waits. Nobody else touches the socket.

* **Reading.** A readable event reads once and parses; each batch of messages goes to the handler in
  one call. A message that came alone, as in most short round trips, takes a shorter way. Control
  frames go to the handler before the messages that came behind them. What a handler's exception
  leaves undelivered comes with the next iteration of the loop; so does what is behind a batch if
  the handler asks for that, to answer it before a Close frame, or an error, is looked at.
* **Pausing** stops parsing at once, and reading when the next bytes come, so that a reader who is
  only a moment behind costs no system call.
* **Writing.** Frames that don't go out at once wait in a queue, small ones joined. With ``gather``,
  what is sent while the handler is at work goes out together when it is done, and what is sent in
  one iteration of the loop otherwise. The protocol's own frames go in front of what waits, between
  two frames; but its Close frame goes last (RFC 6455, 5.5.1).
* **Time**: a transport waits for one moment, the keepalive's next look, or the end of
  ``close_timeout``. What is received doesn't touch that. Looks are moved to full sixteenths of a
  second, so that those of many transports come in one wake-up and share a timer
  (``SharedTimers``), and the answers in another.
* **The end.** When the protocol has finished, the server may close the TCP connection first, for a
  while (RFC 6455, 7.1.1). Then the socket is closed, and ``_on_end`` comes, once, last, from the
  loop. A write that fails ends nothing by itself: the peer may have said why, and is read first.
"""

from __future__ import annotations

from ..opening.readsizes import CHUNK, HEADER, LARGE, MAX_READ_SIZE, READ_SIZE
from ..opening.streams import NO_CLOSE, SLOW_CLOSE, SocketStream
from ..opening.waiting import MAX_WAIT, READ, wait
from ..opening.writebuffer import WriteBuffer
from ..sansio.frames import Opcode
from ..sansio.protocol import ClientProtocol, State
from .timers import shared_timers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, List, Optional, Tuple, Union

    from typing_extensions import Protocol

    from ..opening.opening import Opened
    from ..opening.steps import Cancellable, HostLoop
    from ..options import Options
    from ..sansio.frames import Data
    from ..sansio.messages import Message
    from ..sansio.protocol import Frames

    class Handler(Protocol):
        """Who gets what a transport receives; its exceptions go to the loop.

        The names are private, as a program may hold a handler: ``aio``'s ``Connection`` is one.
        ``_on_messages`` returns whether to parse no further, until ``pump`` or the next iteration.
        ``_on_message`` gets one that came alone, and when, if there is a keepalive.
        """

        def _on_message(self, message: Message, now: float) -> object: ...
        def _on_messages(self, messages: List[Message]) -> Optional[bool]: ...
        def _on_ping(self, data: bytes) -> None: ...
        def _on_pong(self, data: bytes) -> None: ...
        def _on_drain(self) -> None: ...
        def _on_end(self) -> None: ...


# Seconds.
NEVER = float("inf")
TOGETHER = 16  # times a second, many idle transports look after their peers in one wake-up
SETTLE = 1.0  # to find out why writing has failed

OPEN, CLOSED = State.OPEN, State.CLOSED


class EventTransport:
    """An open connection on an event loop. See above; *gather*: write once an
    iteration of the loop, not at once.

    Attributes:
        protocol: the ``ClientProtocol``: its ``state``, ``close_exc()``, ``latency``.
        stream: the stream, which the transport owns.
        queue: what waits to be written; its ``accepted`` and ``written`` count bytes.
        write_error: how writing has failed, or ``None``.
        streaming: set it to get the next message in chunks, by the handler's ``_on_chunk``, which
            takes ``(chunk, fin)``; ``False`` again behind the last one. ``skip`` leaves the rest.
        closed: whether the socket is closed.
    """

    __slots__ = (
        "_blocked", "_busy", "_close_by", "_close_timeout", "_drain_due", "_ending", "_events",
        "_fd", "_flushing", "_gather", "_handler", "_hides", "_loop", "_more", "_on_chunk",
        "_paused", "_processing", "_reading", "_recv", "_timers", "_send", "_size", "_tick_at",
        "_timer_at", "_writing", "closed", "protocol", "queue", "stream", "streaming",
        "write_error",
    )  # fmt: skip

    def __init__(
        self,
        loop: HostLoop,
        opened: Opened,
        options: Options,
        handler: Handler,
        gather: bool = False,
    ) -> None:
        self._loop, self._handler, self._gather = loop, handler, gather
        self.stream = stream = opened.stream
        stream.sock.setblocking(False)
        self._fd = stream.sock.fileno()
        self._recv, self._send = stream.recv, stream.send
        self.protocol = protocol = ClientProtocol(
            max_size=options.max_size,
            ping_interval=options.ping_interval,
            ping_timeout=options.ping_timeout,
        )
        now = loop.time()
        protocol.open(opened.extensions, now)
        # Protocol callbacks must not raise, and the handler may.
        self._events: Optional[List[Tuple[Callable[[Any], object], Any]]] = None
        protocol.listener = self
        if opened.rest:
            protocol.receive_data(opened.rest, now)
        self._on_chunk: Any = getattr(handler, "_on_chunk", None)
        self.streaming = False
        self.queue = WriteBuffer(stream, protocol)
        self._size = READ_SIZE
        self._paused = self._reading = self._writing = self._ending = self.closed = False
        # Whether the stream may hold more, after a read that brought something: TLS does, where
        # a plain socket shows all.
        self._more = self._hides = type(stream) is not SocketStream
        self._busy = False  # handing over
        self._processing: Optional[Cancellable] = None  # due from the loop
        self._flushing = False  # due from the loop
        # Whether the stream has taken less than it was given, and who sends is to hear of its end.
        self._blocked = self._drain_due = False
        self.write_error: Optional[OSError] = None
        self._timers = shared_timers(loop)
        self._timer_at = self._close_by = NEVER
        self._close_timeout = options.close_timeout
        self._tick_at = NEVER if options.ping_interval is None else now + options.ping_interval

    @property
    def buffered(self) -> int:
        """Bytes that were accepted by ``send`` and not taken by the stream."""
        queue = self.queue
        return queue.accepted - queue.written

    @property
    def broken(self) -> bool:
        """Whether writing has failed: the end will come, when reading has told why."""
        return self.write_error is not None

    @property
    def blocked(self) -> bool:
        """Whether something waits for room; the handler hears when there is some."""
        return self._blocked

    def start(self) -> None:
        """Begin to read. What came behind the handshake is delivered from the loop."""
        self._read_on()
        self._arm()
        if self.protocol.pending or self.stream.buffered():
            self._process_soon(self._process)

    # -- reading --

    def _read_on(self) -> None:
        if not self._reading and not self.closed:
            self._reading = True
            self._loop.add_reader(self._fd, self._on_readable)

    def _stop_reading(self) -> None:
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._fd)

    def _on_readable(self) -> None:
        protocol, reader = self.protocol, self.protocol.reader
        if self._ending:
            return
        if (self._paused or reader.pending) and not protocol.finished:
            if self._paused:
                self._stop_reading()  # the peer has to wait
            self._process()
            return
        missing = reader.missing
        size = self._size if missing < LARGE else min(missing, MAX_READ_SIZE)
        if self.streaming:
            size = min(size, CHUNK)
        self._more = False
        try:
            data = self._recv(size)
        except (BlockingIOError, InterruptedError):
            data = None
        except OSError as exc:
            data = None
            self._lost(exc)
        if data:
            self._more = self._hides
            if size != READ_SIZE or len(data) >= READ_SIZE:
                self._adapt(size, missing, len(data))
            odd = self.streaming or self._busy or self._events or self._processing
            if not odd and protocol.state is OPEN:
                message = reader.whole_message(data)
                if message is not None:  # there is nothing else: hand it over, as _process does
                    now, done = 0.0, False
                    if protocol.keepalive is not None:
                        protocol.keepalive.received = now = self._loop.time()
                    self._busy = True
                    try:
                        self._handler._on_message(message, now)
                        done = True
                    finally:
                        self._busy = False
                        queue = self.queue
                        waits = queue.accepted != queue.written or self.stream.unsent
                        if waits or protocol.has_output:
                            self._flush()
                        if not done:
                            self._process_soon(self._process)
                    if self._more or protocol.state is not OPEN:
                        self._go_on()
                    return
            protocol.receive_data(data, self._loop.time())
        elif data is not None:
            self._lost(EOFError(NO_CLOSE))
        self._process()

    def _adapt(self, size: int, missing: int, n: int) -> None:
        """Choose how much to ask for next time, after *n* bytes of *size*."""
        if missing >= LARGE:
            self._size = HEADER if n == missing else READ_SIZE
        elif n < READ_SIZE:
            self._size = READ_SIZE
        elif n == size:
            self._size = min(2 * n, MAX_READ_SIZE)

    def _process(self) -> None:
        """Hand over what has come, and write what protocol and handler say to it."""
        if self._processing is not None:
            self._processing.cancel()
            self._processing = None
        if self._ending or self._busy:
            return
        done, self._busy = False, True
        try:
            self._hand_over()
            done = True
        finally:
            self._busy = False
            self._flush()
            if not done:
                self._process_soon(self._process)
        self._go_on()

    def _go_on(self) -> None:
        """See that there will be more, or an end."""
        if self._more and not self._paused and self.stream.buffered():
            self._process_soon(self._on_readable)
        if self.protocol.state is not OPEN:
            self._look_for_end()

    def on_control(self, opcode: int, data: bytes) -> None:
        """For the protocol: a ping or a pong has come."""
        handler = self._handler
        self._event(handler._on_ping if opcode == Opcode.PING else handler._on_pong, data)

    def _event(self, deliver: Callable[[Any], object], argument: object) -> None:
        if self._events is None:
            self._events = []
        self._events.append((deliver, argument))

    def _hand_over(self) -> None:
        reader, stops = self.protocol.reader, False
        while not self._ending and not stops:
            if self._events is not None:
                stops = self._deliver(self._events)
            elif self._paused or not reader.pending:
                break
            elif self.streaming:
                self._take_chunk()
            else:
                batch = self.protocol.next_messages()
                if self._events is not None and batch:  # pings came first
                    self._event(self._handler._on_messages, batch)
                elif batch:
                    stops = bool(self._handler._on_messages(batch))
        if stops and (self._events or (reader.pending and not self._paused)):
            self._process_soon(self._process)

    def _take_chunk(self) -> None:
        chunk = self.protocol.next_chunk()
        if chunk is not None:
            self.streaming = not chunk[1]
            self._event(self._on_chunk, chunk)

    def _deliver(self, events: List[Tuple[Callable[[Any], object], Any]]) -> bool:
        """Give the handler what is there for it, till it wants to stop; whether it does.

        What it leaves by an exception stays.
        """
        done, stops = 0, False
        try:
            while done < len(events) and not stops:
                deliver, argument = events[done]
                done += 1
                stops = bool(deliver(argument))
        finally:
            del events[:done]
            if not events:
                self._events = None
        return stops

    def _process_soon(self, how: Callable[[], None]) -> None:
        if self._processing is None and not self._ending:
            self._processing = self._loop.call_soon(self._run_soon, how)

    def _run_soon(self, how: Callable[[], None]) -> None:
        self._processing = None
        how()

    def pump(self) -> None:
        """Hand over what is received and not parsed yet, from here."""
        if self.protocol.reader.pending or self._events:
            self._process()

    def skip(self) -> None:
        """Leave the rest of the message that comes in chunks."""
        self.streaming = False
        self.protocol.skip()

    def pause(self) -> None:
        """Deliver no more messages than those of the batch in hand; the peer will have to wait."""
        self._paused = True

    def resume(self) -> None:
        """Go on delivering, from the loop."""
        if self._paused:
            self._paused = False
            self._read_on()
            self._process_soon(self._process)

    # -- writing --

    def send(self, opcode: int, data: Data, compress: Optional[bool] = None) -> None:
        """Encode a message and write it, or queue it.

        Raises:
            ConnectionClosed: if the connection isn't open any more.
            InvalidState: if a fragmented message isn't complete.
        """
        frames, queue = self.protocol.send_message(opcode, data, compress), self.queue
        if type(frames) is not bytes or queue.accepted != queue.written:
            self._put(frames, data)
        elif self._busy and self._gather:  # nearly always: short, and nothing waits; as _put does
            queue.accepted += len(frames)
            queue.tail = frames
        elif self._gather or self._blocked or self.write_error is not None:
            self._put(frames, data)
        else:
            queue.accepted += len(frames)
            self._write(frames)

    def send_fragment(
        self, opcode: int, data: Data, fin: bool, compress: Optional[bool] = None
    ) -> None:
        """The same for a fragment; raises as ``send``."""
        self._put(self.protocol.send_fragment(opcode, data, fin, compress), data)

    def _put(self, frames: Frames, data: Data) -> None:
        queue = self.queue
        if self.write_error is not None:
            queue.accepted += len(data) + 1  # which won't be written; reading will tell
            return
        waits = self._gather or self._blocked or queue.accepted != queue.written
        if waits or not isinstance(frames, (bytes, bytearray)):
            queue.put(frames, len(data))
            self._flush_in_time()
            return
        queue.accepted += len(frames)
        self._write(frames)

    def _write(self, frames: Union[bytes, bytearray]) -> bool:
        """Write what is counted as accepted, while nothing else waits; whether it took all."""
        # Nearly always: one system call, and it takes everything.
        try:
            sent = self._send(frames)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as exc:
            self._broken(exc)
            return False
        self.queue.written += sent
        if sent == len(frames) and not self.stream.unsent:
            return True
        self.queue.begin(memoryview(frames)[sent:], len(frames) - sent)
        self._wait_for_room()
        return False

    def _flush_in_time(self) -> None:
        """Write now, or with all that comes in this iteration of the loop."""
        if self._blocked or self._flushing or (self._busy and self._gather):
            return  # it will come
        if self._gather:
            self._flushing = True
            self._loop.call_soon(self._flush)
        else:
            self._flush()

    def _flush(self) -> None:
        """Write what waits, as far as there is room."""
        self._flushing = False
        protocol, queue, stream = self.protocol, self.queue, self.stream
        if self._ending or self.write_error is not None or self._blocked:
            return
        if protocol.has_output or queue.items or queue.view or queue.cost or stream.unsent:
            done = self._write_all()
        else:
            small = queue.tail  # nearly always all there is, if anything
            if not small:
                return
            queue.tail = b""
            done = self._write(small)
        if done:
            if self._writing:
                self._stop_waiting_for_room()
            if self._drain_due:
                self._tell_of_room()

    def _tell_of_room(self) -> None:
        self._drain_due = False
        self._loop.call_soon(self._drained)

    def _drained(self) -> None:
        if not self.closed:
            self._handler._on_drain()

    def _write_all(self) -> bool:
        protocol, queue, stream, flushed = self.protocol, self.queue, self.stream, False
        try:
            if stream.unsent and not stream.flush():
                self._wait_for_room()
                return False
            flushed = True
            while True:
                if protocol.has_output and queue.between_frames():
                    # A Close has to be the last frame.
                    if protocol.state is OPEN or not queue:
                        queue.begin(memoryview(protocol.data_to_send()), 0)
                head = queue.head()
                if not head:
                    if not protocol.has_output:
                        break
                    continue
                queue.took(self._send(head))
                if stream.unsent:
                    self._wait_for_room()
                    return False
        except (BlockingIOError, InterruptedError):
            if flushed and stream.unsent:  # TLS has to read before it can write
                self._drain_due = True
                self._stop_waiting_for_room()
            else:
                self._wait_for_room()
            return False
        except OSError as exc:
            self._broken(exc)
            return False
        return True

    def _wait_for_room(self) -> None:
        self._blocked = self._drain_due = True
        if not self._writing:
            self._writing = True
            self._loop.add_writer(self._fd, self._on_writable)

    def _stop_waiting_for_room(self) -> None:
        self._blocked = False
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self._fd)

    def _on_writable(self) -> None:
        self._blocked, before = False, self.queue.written
        self._flush()
        if not self._blocked:
            self._stop_waiting_for_room()
        if self.queue.written != before:
            self.protocol.heard(self._loop.time())  # the peer's TCP has taken something
        self._look_for_end()

    def _broken(self, exc: OSError) -> None:
        """Writing has failed; reading may tell why."""
        self.write_error = exc
        self.queue.clear()
        self._stop_waiting_for_room()
        if self._drain_due:
            self._tell_of_room()  # whoever waits for some must not do so for ever
        self._close_by = min(self._close_by, self._loop.time() + SETTLE)
        self._arm()

    # -- control --

    def ping(
        self, data: Optional[bytes] = None, callback: Optional[Callable[[float], None]] = None
    ) -> None:
        """Send a ping; *callback* gets the round trip in seconds. Raises as ``protocol.ping``."""
        answered = None
        if callback is not None:
            deliver = callback

            def answered(round_trip: float) -> None:
                self._event(deliver, round_trip)

        self.protocol.ping(data, self._loop.time(), answered)
        self._flush_in_time()

    def pong(self, data: bytes = b"") -> None:
        """Send a pong that nobody asked for. Raises as ``protocol.pong``."""
        self.protocol.pong(data)
        self._flush_in_time()

    def probe(self) -> None:
        """Ping now, and give the peer up after ``ping_timeout``: the machine may have slept."""
        again = self.protocol.probe(self._loop.time())
        self._tick_at = NEVER if again is None else again
        self._flush_in_time()
        self._arm()

    # -- the end --

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Begin the closing handshake; ``_on_end`` comes within ``close_timeout``.

        Raises:
            ValueError, TypeError: if *code* or *reason* can't be sent.
        """
        self.protocol.close(code, reason)
        self._flush_in_time()
        self._look_for_end()

    def abandon_message(self) -> None:
        """Close, as the fragmented message that has begun can't be completed."""
        self.protocol.abandon_message()
        self._flush_in_time()
        self._look_for_end()

    def abort(self, exc: Optional[BaseException] = None) -> None:
        """Drop the connection, because of *exc*; ``_on_end`` comes from the loop."""
        if not self._ending:
            self.protocol.connection_lost(exc)
            self._end_soon()

    def drop(self) -> None:
        """Close the socket, and no more than that: the loop is closed, and calls nobody."""
        if not self.closed:
            self.closed = self._ending = True
            self._stop_reading()
            self._stop_waiting_for_room()
            self.protocol.connection_lost()
            self.queue.clear()
            self.stream.close()

    def _end_soon(self) -> None:
        if not self._ending:
            self._ending = True
            self._loop.call_soon(self._close)

    def _lost(self, exc: BaseException) -> None:
        self.protocol.connection_lost(self.write_error or exc)
        self.queue.clear()

    def _look_for_end(self) -> None:
        """End the connection if it is time to; else see that it will be."""
        protocol = self.protocol
        if protocol.state is OPEN or self._ending:
            return
        done = protocol.finished and not protocol.pending and not self._events
        if done and (protocol.state is CLOSED or protocol.abort):
            self._end_soon()
        elif protocol.state is CLOSED:
            self._stop_reading()  # what is there isn't taken yet
        else:
            if self._close_by == NEVER and self._close_timeout is not None:
                self._close_by = self._loop.time() + self._close_timeout
                self._arm()
            if done:
                self._paused = False
                self._read_on()  # to drop it, and to see the server go

    def _close(self) -> None:
        """Close the socket, and say so."""
        self.closed = True
        self._stop_reading()
        blocked = self._blocked or bool(self.queue)
        self._stop_waiting_for_room()
        self._timers.discard(self._timer_at, self)
        if self._processing is not None:
            self._processing.cancel()
        if not blocked and self.write_error is None:
            self.stream.say_goodbye()
        self.protocol.connection_lost(self.write_error)
        self.queue.clear()
        self.stream.close()
        self._handler._on_end()

    # -- time --

    def _arm(self) -> None:
        """Set the timer to what is due next, unless it is early enough."""
        now, due = self._loop.time(), self._tick_at
        if 1 < due - now < MAX_WAIT:
            due = -(-due * TOGETHER // 1) / TOGETHER
        due = min(due, self._close_by)
        if due >= self._timer_at or self.closed:
            return
        self._timers.discard(self._timer_at, self)
        self._timer_at = due
        self._timers.add(self._loop, due, self)

    def on_time(self) -> None:
        """For ``SharedTimers``: what was waited for may be due."""
        if self.closed:
            return
        self._timer_at, now = NEVER, self._loop.time()
        if now >= self._close_by:
            self._close_by = NEVER
            self._lost(TimeoutError(SLOW_CLOSE))
            self._process()
            if self.write_error is None:
                self._end_soon()  # even if nobody takes what came
            return
        if now >= self._tick_at:
            self._tick(now)
        self._arm()

    def _tick(self, now: float) -> None:
        """Let the keepalive look; not while bytes of the peer wait unread."""
        protocol = self.protocol
        if protocol.pending or ((protocol.doubtful or not self._reading) and self._has_unread()):
            protocol.heard(now)
        again = protocol.tick(now)
        self._tick_at = NEVER if again is None else again
        self._flush()
        self._look_for_end()

    def _has_unread(self) -> bool:
        return self.stream.buffered() or bool(wait({self.stream.sock: READ}, 0.0))
