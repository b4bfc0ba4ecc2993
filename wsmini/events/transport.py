"""A stream and a protocol joined on an event loop: what ``aio`` and the callback client share.

A *host loop* has the names of asyncio's: ``time``, ``call_soon``, ``call_later``, ``add_reader``,
``add_writer`` and their ``remove_``; ``wsmini.Loop``, asyncio's selector loops and uvloop do. All
of it happens in the loop's thread, and nothing here waits. Nobody else touches the socket.

* **Reading.** A readable event reads once and parses; each batch of messages goes to the handler in
  one call. A message that came alone, as in most short round trips, takes a shorter way. Control
  frames go to the handler before the messages that came behind them. What a handler's exception
  leaves undelivered comes with the next iteration of the loop; so does what is behind a batch if
  the handler asks for that, to answer it before a Close frame, or an error, is looked at.
* **Turns are bounded**: of what was read, a few batches are handed over in one iteration of the
  loop, so that no peer keeps the others waiting.
* **Pausing** stops parsing at once, and reading when the next bytes come, so that a reader who is
  only a moment behind costs no system call.
* **Writing.** Frames that don't go out at once wait in the ``WriteBuffer``. With ``gather``, what
  is sent while the handler is at work goes out together when it is done, and what is sent in one
  iteration of the loop otherwise.
* **Time**: a transport waits for one moment, the keepalive's next look, or the end of
  ``close_timeout``. What is received doesn't touch that. Looks are moved to full sixteenths of a
  second, so that those of many transports come in one wake-up and share a timer
  (``SharedTimers``), and the answers in another.
* **The end.** Once both Close frames are there, our side of TCP is shut down and the socket closed,
  without waiting for the server's end (RFC 6455, 7.1.1). ``_on_end`` comes last, from the loop,
  and again behind an exception. A write that fails ends nothing by itself: the peer may have said
  why, and is read first.
* **Interruptions.** A signal handler may raise anything between two bytecodes. While something that
  was received is in local variables only, or half written, ``half_done`` or the buffer's ``busy``
  is set. An exception that comes then fails the connection for good (``_recover``, or the next
  event); any other leaves it as it was.
"""

from __future__ import annotations

import socket
from _weakref import ref  # weakref itself would bring other modules along
from functools import partial

from ..clock import NEVER, SETTLE, suspend_detector
from ..interrupts import pass_on_handlers
from ..opening.streams import (
    CHUNK,
    DONTWAIT,
    LARGE,
    LAST_READS,
    MAX_READ_SIZE,
    MAX_WAIT,
    NO_CLOSE,
    READ,
    READ_SIZE,
    SLOW_CLOSE,
    SocketStream,
    next_read_size,
    wait,
)
from ..opening.writebuffer import WriteBuffer
from ..sansio.protocol import CLOSED, OPEN, ClientProtocol

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    from typing_extensions import Protocol

    from ..opening.opening import Opened
    from ..opening.steps import Cancellable, HostLoop
    from ..options import Options
    from ..sansio.frames import Data
    from ..sansio.messages import Message

    class Handler(Protocol):
        """Gets what a transport receives; its exceptions go to the loop.

        The names are private, as a program may hold a handler: ``aio``'s ``Connection`` is one.
        ``_on_messages`` returns whether to parse no further, until ``pump`` or the next iteration.
        ``_on_message`` gets one that came alone, and when, if there is a keepalive. When it has
        stored what it gets, or hands it on, it resets ``half_done`` of the transport. If it is to
        hear of pings and pongs, it makes itself the protocol's ``listener``, and uses ``report``.
        """

        def _on_message(self, message: Message, now: float) -> object: ...
        def _on_messages(self, messages: list[Message]) -> bool | None: ...
        def _on_chunk(self, chunk: tuple[Message, bool]) -> None: ...
        def _on_drain(self) -> None: ...
        def _on_end(self) -> None: ...


TOGETHER = 16  # times a second, many idle transports look after their peers in one wake-up
HURRIED = "the closing handshake took longer than {} s"
# In one iteration of the loop: batches, which the reader bounds, and pings and pongs.
BATCHES, EVENTS = 4, 1000


class EventTransport:
    """An open connection on an event loop. See above.

    Args:
        gather: write once an iteration of the loop, not at once.

    Attributes:
        protocol: the ``ClientProtocol``: its ``state``, ``close_exc()``, ``latency``.
        stream: the stream, which the transport owns.
        buffer: the ``WriteBuffer``: what was accepted, what is written, how that has failed.
        streaming: set it to get the next message in chunks, by the handler's ``_on_chunk``, which
            takes ``(chunk, fin)``; ``False`` again behind the last one. ``skip`` leaves the rest.
        paused: by ``pause``; closing lifts it.
        closed: whether the socket is closed.
        half_done: whether something is in local variables only; see above.
    """

    __slots__ = (
        "_close_by", "_close_timeout", "_drain_due", "_ending", "_events", "_fd",
        "_flushing", "_gather", "_handing_over", "_handler", "_hides", "_loop", "_more",
        "_processing", "_pumped", "_reading", "_recv", "_size", "_tick_at", "_timer_at", "_timers",
        "_too_slow", "_writing", "buffer", "closed", "half_done", "paused", "protocol", "stream",
        "streaming",
    )  # fmt: skip

    def __init__(
        self, loop: HostLoop, opened: Opened, options: Options, handler: Handler, gather: bool
    ) -> None:
        self._loop, self._handler, self._gather = loop, handler, gather
        self.stream = stream = opened.stream
        stream.sock.setblocking(False)
        self._fd = stream.sock.fileno()
        self._recv = stream.recv
        now = loop.time()
        self.protocol = protocol = ClientProtocol(
            opened.extensions,
            now,
            max_size=options.max_size,
            ping_interval=options.ping_interval,
            ping_timeout=options.ping_timeout,
        )
        self._events: list[tuple[Callable[[Any], object], Any]] | None = None
        if opened.rest:
            protocol.receive_data(opened.rest, now)
        self.streaming = False
        self.buffer = WriteBuffer(stream, protocol)
        self._size = READ_SIZE
        self.paused = self._reading = self._writing = False
        # One behind the other: the end is due from the loop, the socket is closed.
        self._ending = self.closed = False
        # Whether the stream may hold more, after a read that brought something: TLS does, where
        # a plain socket shows all.
        self._more = self._hides = type(stream) is not SocketStream
        self._handing_over = self.half_done = False
        self._pumped = 0
        self._processing: Cancellable | None = None  # due from the loop
        self._flushing = False  # due from the loop
        self._drain_due = False  # whether the handler is to hear of room
        self._timers = shared_timers(loop)
        self._timer_at = self._close_by = NEVER
        self._too_slow = ""  # what is told then
        self._close_timeout = options.close_timeout
        self._tick_at = NEVER if options.ping_interval is None else now + options.ping_interval

    @property
    def buffered(self) -> int:
        """Bytes that were accepted by ``send`` and not taken by the socket."""
        return self.buffer.accepted - self.buffer.written

    @property
    def gone(self) -> bool:
        """Whether nothing more can be written; the end will come, when reading has told why."""
        return self.closed or self.buffer.error is not None

    def start(self) -> None:
        """Begin to read. The loop delivers, or answers, what came behind the handshake."""
        try:
            self._read_on()
            self._set_timer()
            if self.protocol.pending or self.stream.buffered() or self.stream.unsent:
                self._process_soon()
        except BaseException:
            self.drop()  # nobody has it yet; and the loop must not keep what it watches
            raise

    # -- reading --

    def _read_on(self) -> None:
        if not self._reading and not self.closed:
            self._reading = True
            self._loop.add_reader(self._fd, self._on_readable)

    def _stop_reading(self) -> None:
        if self._reading:
            self._loop.remove_reader(self._fd)
            self._reading = False  # behind it: who is interrupted in there has to do it again

    def _on_readable(self) -> None:
        protocol = self.protocol
        reader = protocol.reader
        # Out of the ordinary: there is something to do before a read, or in place of one.
        if self.paused or self.half_done or reader.pending or self._processing or self._ending:
            if not self._may_read():
                return
        missing, size = reader.missing, self._size
        if missing >= LARGE:
            size = min(missing, MAX_READ_SIZE)
        if self.streaming:
            size = min(size, CHUNK)
        # Half done from here on, until the handler has stored the message.
        self._more, self.half_done, data = False, True, b""
        try:
            # Once: what is left, if anything, makes the next iteration's event.
            data = self._recv(size)
        except OSError as exc:
            self._read_failed(exc)
        else:
            if size != READ_SIZE or len(data) >= READ_SIZE:
                self._size = next_read_size(size, len(data), missing)
            if not data:
                self._lost(EOFError(NO_CLOSE))  # but what came before is handed over still
            self._more = self._hides
        # What came is nearly always one message that the peer sends alone, in an ordinary moment.
        plain = data and not (self.streaming or self._handing_over or self._events)
        if plain and protocol.state is OPEN:
            message = reader.whole_message(data)
            if message is not None:  # hand it over, as _process does: a call is 1.5% of an echo
                now, done = 0.0, False
                if protocol.keepalive is not None:
                    protocol.keepalive.received = now = self._loop.time()
                self._handing_over = True
                try:
                    self._handler._on_message(message, now)
                    done = True
                finally:  # what was sent goes out, also behind an exception
                    self._handing_over = False
                    buffer = self.buffer
                    waits = buffer.accepted != buffer.written or self.stream.unsent
                    if waits or protocol.has_output or self._drain_due:
                        self._flush()
                    if not done:
                        self._process_soon()
                if self._more or protocol.state is not OPEN:
                    self._read_again_or_end()
                return
        if data:
            protocol.receive_data(data, self._loop.time())
        self.half_done = False
        self._process()

    def _may_read(self) -> bool:
        """Whether there is nothing else to do first; it is done then."""
        if self.half_done:
            self._recover()
        if self._ending or self._processing is not None:
            return False  # the turn of this transport, in this iteration, is still to come
        if (self.paused or self.protocol.pending) and not self.protocol.finished:
            if self.paused:
                # TCP holds the peer up when the kernel's buffers are full.
                self._stop_reading()
            self._process()
            return False
        return True

    def _read_failed(self, exc: OSError) -> None:
        """Reading has met *exc*.

        Raises:
            OSError: *exc* itself, if it is a signal handler's.
        """
        pass_on_handlers(exc)
        if not isinstance(exc, (BlockingIOError, InterruptedError)):
            self._lost(exc)
        else:
            self._more = self.stream.unread

    def _process(self) -> None:
        """Hand over what has come, and write what protocol and handler say to it."""
        if self._processing is not None:
            self._processing.cancel()
            self._processing = None
        if self._ending or self._handing_over:
            return  # a handler that calls back, as pump() may: the outer call goes on
        done, self._handing_over = False, True
        try:
            self._hand_over()
            done = True
        finally:
            self._handing_over = False
            self._flush()
            if not done:
                self._process_soon()
        self._read_again_or_end()

    def _read_again_or_end(self) -> None:
        """See that there will be more, or an end."""
        if self._more and not self.paused and self.stream.buffered():
            self._process_soon()
        if self.protocol.state is not OPEN:
            self._look_for_end()

    def report(self, deliver: Callable[[Any], object], argument: object) -> None:
        """Call ``deliver(argument)`` soon, in the order of what comes.

        For the protocol's callbacks, which must not raise, as *deliver* may.
        """
        if self._events is None:
            self._events = []
        self._events.append((deliver, argument))

    def _hand_over(self) -> None:
        """Parse and deliver, as much as one iteration of the loop has time for."""
        reader, stops, batches = self.protocol.reader, False, 0
        while not self._ending and not stops:
            if self._events is not None:
                stops = self._deliver(self._events)
            elif self.paused or not reader.pending:
                break
            elif batches == BATCHES:
                stops = True  # others have their turn
            else:
                batches += 1
                stops = self._parse()
        if stops and (self._events or (reader.pending and not self.paused)):
            self._process_soon()

    def _parse(self) -> bool:
        """Parse a batch, or a chunk, and deliver it; but behind the pings that came before it.

        Returns:
            Whether the handler wants to stop.
        """
        self.half_done, stops = True, False
        if self.streaming:
            chunk = self.protocol.next_chunk()
            if chunk is not None:
                self.streaming = not chunk[1]  # before the handler, who may set it again
                self.report(self._handler._on_chunk, chunk)
        else:
            batch = self.protocol.next_messages()
            if batch and self._events is not None:
                self.report(self._handler._on_messages, batch)
            elif batch:
                stops = bool(self._handler._on_messages(batch))
        self.half_done = False
        return stops

    def _deliver(self, events: list[tuple[Callable[[Any], object], Any]]) -> bool:
        """Give the handler what is there for it, till it wants to stop; whether it does.

        What it leaves by an exception stays.
        """
        done, stops = 0, False
        while events and not stops:
            self.half_done = True
            deliver, argument = events.pop(0)  # at once: what comes out in between repeats nothing
            done += 1
            stops = bool(deliver(argument)) or done == EVENTS
            self.half_done = False
        if not events:
            self._events = None
        return stops

    def _process_soon(self) -> None:
        if self._processing is None and not self._ending:
            self._processing = self._loop.call_soon(self._process_now)

    def _process_now(self) -> None:
        """Go on where the last iteration of the loop has stopped."""
        self._processing = None
        if self.protocol.reader.pending or self._events or not self.stream.buffered():
            self._process()
        else:
            self._on_readable()  # TLS has decrypted more than was read: no event will tell

    def pump(self) -> None:
        """Hand over what is received and not parsed yet: from here, once in ``BATCHES`` from the
        loop, which has others to call, too."""
        if self.protocol.reader.pending or self._events:
            self._pumped = (self._pumped + 1) % BATCHES
            if self._pumped:
                self._process()
            else:
                self._process_soon()

    def skip(self) -> None:
        """Leave the rest of the message that comes in chunks."""
        self.streaming = False
        self.protocol.reader.skip()

    def pause(self) -> None:
        """Deliver no more messages than those of the batch in hand; the peer will have to wait."""
        self.paused = True

    def resume(self) -> None:
        """Go on delivering, from the loop."""
        if self.paused:
            self.paused = False
            self._read_on()
            self._process_soon()

    # -- writing --

    def send(self, opcode: int, data: Data, compress: bool | None = None) -> None:
        """Encode a message and write it, or queue it.

        Raises:
            ConnectionClosed: if the connection isn't open any more.
            InvalidState: if a fragmented message isn't complete.
        """
        protocol, buffer = self.protocol, self.buffer
        if protocol.state is not OPEN or protocol.sending:
            protocol.check_can_send()
        self.half_done = True
        frames = protocol.encode_message(opcode, data, compress)
        if self._gather or buffer.waits:
            buffer.put(frames, len(data))
            self.half_done = False
            self._flush_soon()
            return
        written = buffer.write(frames, len(data))
        self.half_done = False
        if not written:
            self._wait_for_room()

    def send_messages(self, messages: list[tuple[int, Any, bool | None]], ends: list[int]) -> None:
        """As ``send``, for those behind the first *ends*; up to the first without an opcode.

        Args:
            ends: gets, for each, how many bytes will be written when it is.
        """
        protocol, buffer = self.protocol, self.buffer
        if protocol.state is not OPEN:
            protocol.check_can_send()
        self.half_done = True
        for opcode, data, compress in messages[len(ends) :]:
            if not opcode:
                break
            frames = protocol.encode_message(opcode, data, compress)
            if type(frames) is bytes and buffer.accepted == buffer.written:
                buffer.accepted += len(frames)  # as put() does, where nothing waits
                buffer.tail = frames
            else:
                buffer.put(frames, len(data))
            ends.append(buffer.accepted)
        self.half_done = False
        if not self._handing_over:
            self._flush_soon()

    def send_fragment(self, opcode: int, data: Data, fin: bool, compress: bool | None) -> None:
        """The same for a fragment; raises as ``send``."""
        self.protocol.check_open()
        self.half_done = True
        frames = self.protocol.encode_fragment(opcode, data, fin, compress)
        self.buffer.put(frames, len(data))
        self.half_done = False
        self._flush_soon()

    def _flush_soon(self) -> None:
        """Write now, or with all that comes in this iteration of the loop."""
        if self.buffer.waits or self._flushing or (self._handing_over and self._gather):
            return  # it will come
        if self._gather:
            self._flushing = True
            self._loop.call_soon(self._flush)
        else:
            self._flush()

    def _flush(self) -> None:
        """Write what waits, as far as there is room."""
        self._flushing = False
        buffer = self.buffer
        if self._ending or self._writing or buffer.error is not None:
            return
        waits = buffer.accepted != buffer.written or self.stream.unsent
        if waits or self.protocol.has_output:
            if self.protocol.state is CLOSED:
                return  # what is left has been counted as unsent, and must stay so
            if not buffer.flush():
                self._wait_for_room()
                return
        if self._drain_due:
            self._tell_of_room()

    def _wait_for_room(self) -> None:
        """Something couldn't be written: go on when that is possible."""
        buffer = self.buffer
        if buffer.error is not None:
            self._stop_waiting_for_room()
            if self._drain_due:
                self._tell_of_room()  # who waits for some must not do so for ever
            self.end_within(SETTLE)
            return
        self._drain_due = True
        if buffer.needs_read:
            self._stop_waiting_for_room()  # it would be told that there is room, again and again
        elif not self._writing:
            self._writing = True
            self._loop.add_writer(self._fd, self._on_writable)

    def _stop_waiting_for_room(self) -> None:
        if self._writing:
            self._loop.remove_writer(self._fd)
            self._writing = False

    def _on_writable(self) -> None:
        buffer, before = self.buffer, self.buffer.written
        if self.protocol.state is CLOSED:
            self._stop_waiting_for_room()
            return
        if buffer.flush():
            self._stop_waiting_for_room()
            if self._drain_due:
                self._tell_of_room()
        else:
            self._wait_for_room()
        if buffer.written != before:  # a peer that reads is alive, even if its pong is late
            self.protocol.heard(self._loop.time())  # the peer's TCP has taken something
        self._look_for_end()

    def _tell_of_room(self) -> None:
        self._drain_due = False
        self._loop.call_soon(self._drained)  # not from here: the handler may be sending

    def _drained(self) -> None:
        if not self.closed:
            self._handler._on_drain()

    # -- control --

    def ping(
        self, data: bytes | None = None, callback: Callable[[float], None] | None = None
    ) -> Exception | None:
        """Send a ping; *callback* gets the round trip in seconds. Returns as ``protocol.ping``."""
        answered = None if callback is None else partial(self.report, callback)
        refusal = self.protocol.ping(data, self._loop.time(), answered)
        self._flush_soon()
        return refusal

    def pong(self, data: bytes = b"") -> Exception | None:
        """Send a pong that nobody asked for. Returns as ``protocol.pong``."""
        refusal = self.protocol.pong(data)
        self._flush_soon()
        return refusal

    def probe(self) -> None:
        """Ping now, and give the peer up after ``ping_timeout``: the machine may have slept."""
        self._tick_at = self.protocol.probe(self._loop.time())
        self._flush_soon()
        self._set_timer()

    # -- the end --

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Begin the closing handshake; ``_on_end`` comes within ``close_timeout``.

        Raises:
            ValueError, TypeError: if *code* or *reason* can't be sent.
        """
        self.protocol.close(code, reason)
        self._flush_soon()
        self._look_for_end()

    def abandon_message(self) -> None:
        """Close, as the fragmented message that has begun can't be completed."""
        self.protocol.abandon_message()
        self._flush_soon()
        self._look_for_end()

    def end_within(self, seconds: float, text: str = HURRIED) -> None:
        """Don't wait for the peer any longer than that, nor than it was said before.

        Args:
            text: of the exception, with the *seconds* filled in.
        """
        close_by = self._loop.time() + seconds
        if close_by < self._close_by:
            self._close_by, self._too_slow = close_by, text.format(seconds)
            self._set_timer()

    def abort(self, exc: BaseException | None = None) -> None:
        """Drop the connection, because of *exc*; ``_on_end`` comes from the loop."""
        if not self._ending:
            self.protocol.connection_lost(exc)
            self._end_soon()

    def drop(self) -> None:
        """Close the socket, and no more than that: nobody is told."""
        self.closed = self._ending = True
        self._release()

    def _recover(self) -> None:
        """Go on after an exception that has come out of a callback of the loop, or out of ``send``.

        ``wsmini.Loop`` calls it at once; on other loops the next readable event does.
        """
        self._fail_if_half_done()
        on_recover = getattr(self._handler, "_on_recover", None)
        if on_recover is not None:
            on_recover()
        if self._ending:
            self._loop.call_soon(self._close)
        else:
            self._register_again()

    def _fail_if_half_done(self) -> None:
        """If it came in the middle of something, nobody knows how far that has come."""
        if self.half_done or self.buffer.busy or self.stream.busy:
            self.buffer.clear()
            self.half_done = self.buffer.busy = False
            self._events = None
            exc = InterruptedError("interrupted in the middle of sending or receiving")
            self.protocol.abandon(self.protocol.failure or exc)
            self._end_soon()

    def _register_again(self) -> None:
        """Ask the loop for everything again: it may have lost what it was about to call.

        Nothing here does harm when it is done twice.
        """
        self._handing_over = self._flushing = False
        if self._processing is not None:
            self._processing.cancel()
            self._processing = None
        self._process_soon()  # and flush
        if self._reading:
            self._loop.add_reader(self._fd, self._on_readable)
        else:
            self._loop.remove_reader(self._fd)
        if self._writing:
            self._loop.add_writer(self._fd, self._on_writable)
        else:
            self._loop.remove_writer(self._fd)
        self._timers.discard(self._timer_at, self)
        self._timer_at = NEVER
        self._set_timer()

    def _end_soon(self) -> None:
        if not self._ending:
            self._ending = True
            self._loop.call_soon(self._close)

    def _lost(self, exc: BaseException) -> None:
        """The stream has ended with *exc*."""
        self.protocol.connection_lost(self.buffer.error or exc)
        self.buffer.clear()
        self.half_done = False

    def _look_for_end(self) -> None:
        """End the connection if it is time to; else see that it will be."""
        protocol = self.protocol
        if protocol.state is OPEN or self._ending:
            return
        # Whether all that came is delivered. Then it ends, if the stream is lost, the peer isn't
        # waited for, or both Close frames are through. What is lost and not delivered yet stays
        # until the handler takes it. Else close_timeout runs, and reading shows the peer go.
        done = protocol.finished and not protocol.pending and not self._events
        if done and (protocol.state is CLOSED or protocol.abort or self._all_is_said()):
            self._end_soon()
        elif protocol.state is CLOSED:
            self._stop_reading()  # what is there isn't taken yet
        else:
            if self._close_timeout is not None:
                self.end_within(self._close_timeout, SLOW_CLOSE)
            if done:
                self.paused = False
                self._read_on()  # to drop it, and to see the server go

    def _all_is_said(self) -> bool:
        """Whether both Close frames are there, ours with the socket.

        Nothing more can come then, and to wait for the server's end of TCP (RFC 6455, 7.1.1: it
        SHOULD close first) would tell nothing.
        """
        protocol = self.protocol
        if protocol.rcvd is None or protocol.sent is None or protocol.has_output:
            return False
        return not self.buffer and not self.stream.unsent

    def _close(self) -> None:
        """Close the socket, and say so. Called again, whole, where something was interrupted."""
        if not self.closed:
            self.closed = True
            # Not behind what hasn't gone out: that counts as unsent, and must stay so.
            if not (self.buffer or self.stream.unsent or self.buffer.error):
                self._stop_talking()
        self._release()
        self._handler._on_end()

    def _release(self) -> None:
        self._timers.discard(self._timer_at, self)
        if self._processing is not None:
            self._processing.cancel()
        self._stop_reading()
        self._stop_waiting_for_room()
        self.protocol.connection_lost(self.buffer.error)
        self.buffer.clear()
        self.stream.close()

    def _stop_talking(self) -> None:
        """End our side of TCP, and take what has come: unread, it would make the kernel reset the
        connection, and the server might lose our Close frame."""
        sock = self.stream.sock
        self.stream.say_goodbye()
        try:
            sock.shutdown(socket.SHUT_WR)
            for _ in range(LAST_READS):
                if not sock.recv(READ_SIZE, DONTWAIT):
                    break
        except OSError as exc:
            pass_on_handlers(exc)  # else there is nothing, or the server has gone

    # -- time --

    def _set_timer(self) -> None:
        """Set the timer to what is due next, unless it is early enough."""
        now, due = self._loop.time(), self._tick_at
        if 1 < due - now < MAX_WAIT:
            due = -(-due * TOGETHER // 1) / TOGETHER
        due = min(due, self._close_by)
        if due >= self._timer_at or self.closed:
            return
        self._timers.discard(self._timer_at, self)
        self._timer_at = due
        self._timers.add(due, self)

    def on_time(self) -> None:
        """For ``SharedTimers``: what was waited for may be due."""
        if self.closed:
            return
        self._timer_at, now = NEVER, self._loop.time()
        if now >= self._close_by:
            self._close_by = NEVER
            # Also where writing has failed, and reading couldn't find out why within SETTLE: then
            # buffer.error is told.
            self._lost(TimeoutError(self._too_slow))
            self._process()
            if self.buffer.error is None:
                self._end_soon()  # even if nobody takes what came
            return
        if now >= self._tick_at:
            self._tick(now)
        self._set_timer()

    def _tick(self, now: float) -> None:
        """Let the keepalive look; not while bytes of the peer wait unread."""
        protocol = self.protocol
        if protocol.pending or ((protocol.doubtful or not self._reading) and self._has_unread()):
            protocol.heard(now)
        self._tick_at = protocol.tick(now)
        self._flush()
        self._look_for_end()

    def _has_unread(self) -> bool:
        return self.stream.buffered() or bool(wait({self.stream.sock: READ}, 0.0))


class SharedTimers:
    """The times at which transports are due on one loop: one timer of the loop for all of a moment.

    Thousands of idle connections look after their peers at times that are rounded, so that many
    share one. A timer of its own would cost each of them a twelfth of its memory, and would find
    out that the machine has slept for itself alone, up to ``ping_interval`` later than the first
    one does: all are told to ``probe()`` then; but where the loop itself tells its clients, as
    ``wsmini.Loop`` does, this is left to them.

    Only for the loop's thread. The transports and the loop's timers keep it; it must not be kept
    otherwise, as it keeps these.
    """

    def __init__(self, loop: HostLoop) -> None:
        self._loop = loop
        self._due: dict[float, tuple[Cancellable, dict[EventTransport, None]]] = {}
        told = hasattr(loop, "add_sleep_handler")
        self._has_slept = None if told else suspend_detector(loop.time())

    def add(self, when: float, transport: EventTransport) -> None:
        """Call its ``on_time()`` at *when* of the loop's time, or after a day if that is sooner.

        Only one call for each pair of *when* and *transport*.
        """
        if when not in self._due:
            now = self._loop.time()
            if not self._due and self._has_slept is not None:
                self._has_slept(now, now)  # what was before concerns nobody who comes now
            delay = min(max(0.0, when - now), MAX_WAIT)
            self._due[when] = self._loop.call_later(delay, self._call, when), {}
        self._due[when][1][transport] = None

    def discard(self, when: float, transport: EventTransport) -> None:
        """Take that back, if it is still to come."""
        if when in self._due:
            timer, transports = self._due[when]
            transports.pop(transport, None)
            if not transports:
                timer.cancel()
                del self._due[when]

    def _call(self, when: float) -> None:
        loop = self._loop
        try:
            if self._has_slept is not None and self._has_slept(loop.time(), when):
                for _, transports in self._due.values():
                    for transport in transports:
                        loop.call_soon(transport.probe)
            # It isn't there, where an interrupted add() has left one timer more.
            for transport in self._due.get(when, (None, ()))[1]:
                loop.call_soon(transport.on_time)  # not from here, as one may raise
            self._due.pop(when, None)
        except BaseException:
            self._recover()
            raise

    def _recover(self) -> None:
        """A signal handler's exception came: call all, as to be called early or twice is fine."""
        for when, (timer, transports) in list(self._due.items()):
            timer.cancel()
            self._due[when] = self._loop.call_soon(self._call, when), transports


_timers: dict[ref[HostLoop], ref[SharedTimers]] = {}


def shared_timers(loop: HostLoop) -> SharedTimers:
    """Those of *loop*."""
    known = _timers.get(ref(loop))
    timers = None if known is None else known()
    if timers is None:
        timers = SharedTimers(loop)
        _timers[ref(loop, _timers.pop)] = ref(timers)  # until the loop is gone
    return timers
