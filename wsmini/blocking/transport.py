"""The socket of a blocking connection and its protocol: what the connection's threads share.

Who may do what, and what may interleave:

* **The consumer** is the thread inside ``recv`` or ``recv_streaming``, one at a time. Only it takes
  messages out.
* **The receiver** is the thread that holds ``receiving``. Only it reads from the stream, feeds the
  protocol, lets the keepalive tick (the background thread does, for a receiver that sleeps past
  it) and closes the socket. Usually it is the consumer. A thread that waits for something else (a
  pong, the end of the closing handshake, room to write) steps in as long as there is no receiver,
  and the background thread looks in while there is none. They keep what messages they meet, about
  ``max_queue`` at most; then they stop reading, and TCP makes the peer wait.
* **The writer** is the thread that holds ``sending``. Only it writes to the stream, whole frames
  one after the other, so frames never mix. What is encoded but not taken by the stream stays in the
  ``WriteBuffer``, and the next writer begins with that. A send with a timeout waits for room before
  it encodes, so that nothing has to be taken back, least of all a compressor's state.
* **The protocol** isn't thread-safe. Whatever changes its state (parsing, closing, pings, ticks)
  holds ``mutex``. Encoding a message needs ``sending`` only: it looks at the state and changes
  nothing that the receiver uses.
* Locks are taken in the order ``receiving``, ``sending``, ``mutex``; each may be skipped. A thread
  never waits for ``receiving`` while it holds another, and never waits while it holds the mutex.
* Frames of the protocol's own (pongs, a Close) are queued in it. ``flush()`` writes them if there
  is no writer now, and a writer looks for them when it stops being it, so they can't be forgotten
  between the two. A receiver asleep in ``recv`` doesn't notice what others leave in the buffer:
  they stay until it is empty (``flush_or_wait``).
* What signal handlers and finalizers do to all this is told in ``interrupts``.

The end. ``protocol.state`` says what the protocol knows; ``closed``, that the socket is closed,
comes last. Only the receiver closes the socket, as the writer too, so that no other thread can be
using it, or a new one with the same number. Others shut it down, which wakes whoever is blocked in
it; the receiver then finds the end.
"""

from __future__ import annotations

import socket
from time import monotonic

from ..clock import LEAVING, NEVER
from ..exceptions import SendBufferFull
from ..interrupts import Waiters, new_lock, pass_on_handlers
from ..opening.streams import DONTWAIT, HEED, WRITE, Stream, set_receive_timeout, wait
from ..opening.writebuffer import WriteBuffer
from ..sansio.protocol import OPEN, ClientProtocol

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

    from ..interrupts import Lock
    from ..options import Options
    from ..sansio.frames import Data

GLANCE = 0.1  # seconds until a writer that is blocked looks again whether it should step in

MAX_DEFERRED = 128  # messages that signal handlers leave to the sender they have interrupted

INTERRUPTED = "interrupted in the middle of sending or receiving"


class BlockingTransport:
    """See above.

    Attributes:
        receiving, sending, mutex: the locks.
        closed: whether the socket is closed.
        tick_at: when the keepalive wants to look.
        blocks: whether a receive without a flag waits.
        waiters: threads that wait for something to change.
        requests: what signal handlers have left to who has the mutex.
    """

    __slots__ = (
        "_close_by", "_close_timeout", "_deferred", "requests", "blocks", "buffer",
        "closed", "mutex", "protocol", "receiving", "sending", "stream", "tick_at", "waiters",
    )  # fmt: skip

    def __init__(self, stream: Stream, protocol: ClientProtocol, options: Options) -> None:
        self.stream, self.protocol = stream, protocol
        self.buffer = WriteBuffer(stream, protocol)
        self.receiving: Lock = new_lock()
        self.sending: Lock = new_lock()
        self.mutex: Lock = new_lock()
        self.waiters = Waiters()
        # What signal handlers have left to the call that they have interrupted.
        self.requests: list[tuple[Callable[..., object], tuple[object, ...]]] = []
        self._deferred: list[tuple[int, Data, bool | None]] = []
        self._close_timeout, self._close_by = options.close_timeout, NEVER
        self.closed = False
        interval = options.ping_interval
        self.tick_at = NEVER if interval is None else monotonic()
        sock = stream.sock
        # Blocking where a flag makes single calls not wait: then a receive without a timeout is one
        # system call. SO_RCVTIMEO ends that from time to time for signals and for the keepalive.
        blocking = DONTWAIT > 0 and not options.busy_poll
        sock.setblocking(blocking)
        seconds = HEED if interval is None else min(HEED, interval / 4)
        self.blocks = blocking and set_receive_timeout(sock, seconds)

    # -- waiting --

    def unwritten(self) -> int:
        """The event to wait for, besides others, because of what isn't written yet; 0 if none."""
        buffer = self.buffer
        # While TLS has to read first, there is room all the time.
        return WRITE if buffer.waits and not buffer.needs_read else 0

    def poll(self, events: int, until: float) -> bool:
        """Poll the socket until then, or a while: the caller looks at the time, and comes again.

        It is the receiver or the writer, so the socket can't be closed meanwhile.
        """
        sock = self.stream.sock
        if sock.fileno() < 0:
            return True  # closed behind the connection's back: using it will tell
        # Not longer: a signal handler may have begun to close meanwhile, which makes it sooner.
        return bool(wait({sock: events}, min(until - monotonic(), HEED)))

    def closing_deadline(self) -> float:
        """When the end has to be reached, counted from the first call."""
        if self._close_by == NEVER and self._close_timeout is not None:
            self._close_by = monotonic() + self._close_timeout
        return self._close_by

    def end_by(self) -> float:
        """When the end has to be reached; never, while the connection is open."""
        return NEVER if self.protocol.state is OPEN else self.closing_deadline()

    def shorten_close(self) -> None:
        """Let the end be reached soon: whoever has pressed Ctrl-C doesn't want to wait for it."""
        self._close_by = min(self.closing_deadline(), monotonic() + LEAVING)

    # -- signal handlers --

    def is_interrupted(self) -> bool:
        """Whether this thread is in another call of the connection, which a handler interrupts."""
        return self.receiving._is_owned() or self.sending._is_owned() or self.mutex._is_owned()

    def change(self, change: Callable[..., Exception | None], *args: object) -> Exception | None:
        """What *change* of the protocol returns, called under the mutex; and write what is to be.

        What it raises is a signal handler's, and fails the connection: a refusal is returned. If a
        signal handler has interrupted this thread under the mutex, it is left to that.
        """
        mutex = self.mutex
        if mutex._is_owned():
            self.requests.append((change, args))
            return None
        try:
            mutex.acquire()
            refusal = change(*args)
            mutex.release()
            if self.requests or self.protocol.has_output:
                self.carry_out_requests()
        except BaseException as exc:
            if mutex._is_owned():
                mutex.release()
                self.fail(exc)
            self.carry_out_requests()
            raise
        return refusal

    def carry_out_requests(self) -> None:
        """Do what was left to who had the mutex, or was writing. Behind an exception, too."""
        while self.requests and not self.mutex._is_owned():
            self.change(self._carry_out)
        self.flush()

    def answer(self) -> None:
        """Write what the protocol says to what was parsed, and do what handlers have asked for."""
        if self.protocol.has_output or self.stream.unsent or self.requests:
            self.carry_out_requests()

    def _carry_out(self) -> None:
        """Under the mutex: an exception on the way from the list fails the connection."""
        while self.requests:
            change, args = self.requests.pop(0)
            change(*args)  # whoever would have to hear of a refusal has returned

    def fail(self, exc: BaseException) -> None:
        """End the connection for good: *exc* came in the middle of something."""
        self.lose(InterruptedError(f"{INTERRUPTED}: {type(exc).__name__}"))

    # -- the end --

    def lose(self, exc: BaseException) -> None:
        """The connection can't go on, because of *exc*. The receiver will close the socket."""
        self.change(self.protocol.connection_lost, exc)
        self.shut_down()

    def shut_down(self) -> None:
        """End the connection, without closing the socket that others may be using."""
        self.change(self.end_tcp, socket.SHUT_RDWR)  # it can't be closed meanwhile

    def end_tcp(self, how: int) -> None:
        """End one side of TCP, or both."""
        try:
            self.stream.sock.shutdown(how)
        except OSError as exc:
            pass_on_handlers(exc)  # else it isn't connected any more

    # -- the keepalive --

    def tick(self, now: float) -> bool:
        """Let the keepalive do what is due, as the receiver; whether to go on."""
        self.change(self._ask, self.protocol.tick, now)
        return not self.protocol.finished

    def probe(self, now: float) -> None:
        """Ping at once, and look soon whether that is answered. For any thread."""
        self.change(self._ask, self.protocol.probe, now)

    def _ask(self, ask: Callable[[float], float], now: float) -> None:
        self.tick_at = ask(now)

    # -- writing --

    def defer(self, opcode: int, data: Data, compress: bool | None) -> None:
        """For a signal handler: leave a message to the call that it has interrupted.

        It is sent behind the message that is being sent, or at once if there is none.

        Raises:
            ConnectionClosed: if the connection is closed, or closing.
            SendBufferFull: if many are left already.
        """
        self.protocol.check_open()
        if len(self._deferred) >= MAX_DEFERRED:
            raise SendBufferFull("messages of signal handlers wait to be sent; there is no room")
        if not isinstance(data, bytes):
            data = bytes(data)  # it may be changed before
        self._deferred.append((opcode, data, compress))
        self.protocol.has_output = True  # which whoever stops writing looks at
        self.flush()

    def stop_writing(self, exc: BaseException, busy: bool = False) -> None:
        """Stop being the writer, if this is it, because of *exc*; *busy*: in the middle of it."""
        if self.sending._is_owned():
            busy = busy or self.buffer.busy
            if busy:
                self.buffer.busy = False
                self.buffer.clear()  # nothing may follow what was cut
            self.sending.release()
            if busy:
                self.fail(exc)
        self.flush()  # what others have left to the writer meanwhile

    def flush(self, until: float = 0.0) -> bool:
        """Write what waits, unless another thread is writing: it will then.

        Args:
            until: till when to wait for room before that, as the writer; 0 for no wait.

        Returns:
            ``False`` if another thread is writing, or a call that this one has interrupted.
        """
        sending, room, was_writer = self.sending, True, False
        if sending._is_owned():
            return False
        try:
            # Locked in here, as the jump back to a loop's condition isn't in this try since 3.13.
            while room:
                if not sending.acquire(False):
                    break
                if until and not self.closed and self.poll(self.unwritten(), until):
                    self.protocol.heard(monotonic())
                was_writer, until = True, 0.0
                room = self.flush_as_writer()
                sending.release()
                if not self.protocol.has_output and (not self._deferred or self.protocol.sending):
                    break
        except BaseException as exc:
            self.stop_writing(exc)
            raise
        return was_writer

    def flush_as_writer(self) -> bool:
        """Write what waits, the protocol's own frames included; whether there was room for all."""
        buffer, protocol = self.buffer, self.protocol
        while buffer.flush():
            if not self._deferred or protocol.sending:
                return True
            buffer.busy = True
            opcode, data, compress = self._deferred.pop(0)
            if protocol.state is OPEN:
                buffer.put(protocol.encode_message(opcode, data, compress), len(data))
            buffer.busy = False
        if buffer.error is not None and not isinstance(buffer.error, ConnectionError):
            self.shut_down()  # a frame is lost, and nothing may follow it
        return False
