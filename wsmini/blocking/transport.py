"""A stream and a protocol joined, blocking: what the threads of one connection share.

Who may do what, and what may interleave:

* **The consumer** is the thread inside ``recv`` or ``recv_streaming``: one at a time, which
  ``Connection`` sees to. Only it takes messages out.
* **The receiver** is the thread that holds ``receiving``. Only it reads from the stream, feeds the
  protocol and lets the keepalive tick. Usually it is the consumer. A thread that waits for
  something else (a pong, the end of the closing handshake, room to write) steps in as long as there
  is no receiver, and keeps the messages it meets in the ``MessageQueue``, about ``max_queue`` at
  most; then it stops reading, and TCP makes the peer wait. A consumer that comes goes first:
  ``wanted``.
* **The writer** is the thread that holds ``sending``. Only it writes to the stream, whole frames
  one after the other, so frames never mix. It may block, polling for room. What is encoded but not
  taken by the stream stays in the ``WriteBuffer``, and the next writer begins with that: an
  exception in a wait (``KeyboardInterrupt``) leaves no frame half written; one in writing ends the
  connection. A send with a timeout waits for room before it encodes, so that nothing has to be
  taken back, least of all a compressor's state.
* **The protocol** isn't thread-safe. Whatever changes its state (parsing, closing, pings, ticks)
  holds ``mutex``, never while waiting. Encoding a message needs ``sending`` only: it looks at the
  state and changes nothing that the receiver uses.
* Locks are taken in the order ``receiving``, ``sending``, ``mutex``; each may be skipped. A thread
  never waits for ``receiving`` while it holds another.
* The receiver waits for the writer only at the very end. Frames of the protocol's own (pongs, a
  Close) are queued in it; ``flush()`` writes them if there is no writer now, and a writer looks for
  them when it stops being it, so they can't be forgotten between the two. A receiver asleep in
  ``recv`` doesn't notice what others leave in the outbox: they stay until it is empty (``push``).
* Who waits on ``_changed`` is woken when the receiver changes and when the connection ends.
* **The keeper**, a thread for all connections, looks at it while there is no receiver: it is
  one then for a moment, never waits, and keeps messages as others do. See ``keeper``.

``receiving`` has what the consumer and the receiver do; the rest is here. What signals do to all
this is told in ``locks``.

The end. ``protocol.state`` says what the protocol knows; ``closed``, that the socket is closed,
comes last. Only the receiver closes the socket, as the writer too, so that no other thread can be
using it, or a new one with the same number. Others shut it down, which wakes whoever is blocked in
it; the receiver then finds the end. All of it, from the first Close frame on, is over within
``close_timeout``. Messages received before the end, and those kept, can still be taken. What comes
during the closing handshake beyond ``max_queue`` is dropped, and from there on everything, so that
messages never go missing in the middle.
"""

from __future__ import annotations

import socket

from ..exceptions import ConnectionClosed, WebSocketException
from ..opening.sockets import DONTWAIT, HEED, NO_CLOSE, READ, READ_SIZE, SLOW_CLOSE, WRITE, patience
from .receiver import CLOSED, NEVER, OPEN, Receiving, monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Optional

    from ..opening.sockets import Stream
    from ..options import Options
    from ..sansio.protocol import ClientProtocol
    from .background import Charge

# Seconds.
GLANCE = 0.1  # until a writer that is blocked looks again whether it should step in
SETTLE = 1.0  # for the receiver to find out why writing has failed
HURRY = 0.5  # for the closing handshake when the program is leaving


class Wire(Receiving):
    """See above. *rest* is what came behind the handshake."""

    def __init__(
        self, stream: Stream, protocol: ClientProtocol, options: Options, rest: bytes
    ) -> None:
        super().__init__(stream, protocol, options, rest)
        self.charge: Optional[Charge] = None  # of the keeper, if that looks after this
        if options.ping_interval is not None:
            from .background import watch  # with threading, when there is a connection

            watch(self)

    # -- the end --

    def close(self, code: int, reason: str) -> None:
        """Begin the closing handshake and wait for its end; at most ``close_timeout``."""
        with self.mutex:
            self.protocol.close(code, reason)
        deadline = self.closing_deadline()
        if not self.closed:
            self.flush()
            if not self.wait_until(lambda: self.closed, deadline):
                self._abort()

    def hurry(self) -> None:
        """Let the end be reached soon: whoever has pressed Ctrl-C doesn't want to wait for it."""
        self._close_by = min(self.closing_deadline(), monotonic() + HURRY)

    def end(self, deadline: Optional[float]) -> None:
        """Let the server close the TCP connection first, for a while; then close the socket.

        Raises:
            TimeoutError: if *deadline* passes before; call again to go on.
        """
        protocol, close_by = self.protocol, self.closing_deadline()
        until = close_by if deadline is None else min(deadline, close_by)
        try:
            while not (protocol.abort or protocol.state is CLOSED):
                self._drain(until)
                if monotonic() >= until:
                    break
        except OSError as exc:
            self._lost(exc)  # reset: as good an end as any
        if until < close_by and not (protocol.abort or protocol.state is CLOSED):
            raise TimeoutError("the connection didn't end in time")
        self._close(deadline)

    def _drain(self, until: float) -> None:
        """Drop what comes, or wait for it."""
        self.flush()
        try:
            if not self.stream.recv(READ_SIZE, DONTWAIT):
                self._lost(EOFError(NO_CLOSE))
            return
        except BlockingIOError:
            pass  # as in _read_blocking
        self.poll(READ | WRITE if self.outbox.blocked() else READ, until)

    def _close(self, deadline: Optional[float] = None) -> None:
        """Close the socket, as the receiver. May be called more than once.

        Raises:
            TimeoutError: if the writer isn't back from the socket by *deadline*; call again.
        """
        if self.sending.acquire(False):
            try:
                if not self.closed and not self.outbox.blocked():
                    self.stream.say_goodbye()
            finally:
                self.sending.release()
        self._shut_down()  # a blocked writer comes back
        if not self.lock(self.sending, deadline):
            raise TimeoutError("the connection didn't end in time")
        try:
            with self.mutex:
                self.protocol.connection_lost(self._write_error)
                self.outbox.clear()
                self.stream.close()
                self.closed = True
                if self.charge is not None:
                    self.charge.over = True
            if self.fragments is not None:
                self.fragments.notify_all()
        finally:
            self.sending.release()
        self.notify()

    def _shut_down(self) -> None:
        """End the connection, without closing the socket that others may be using."""
        with self.mutex:  # it can't be closed meanwhile
            try:
                self.stream.sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # not connected any more

    def _abort(self) -> None:
        """Close the socket, whatever goes on."""
        self.cut(TimeoutError(SLOW_CLOSE))
        if self.receiving.acquire(timeout=SETTLE):
            try:
                self._close()
            finally:
                self.release_receiving()
        # Otherwise the receiver is held up; it will find the end, and close.

    def cut(self, exc: BaseException) -> None:
        """The connection can't go on, because of *exc*. The receiver will close the socket."""
        with self.mutex:
            self.protocol.connection_lost(exc)
        self._shut_down()

    def tick_for_receiver(self, now: float) -> None:
        """Give a dead peer up whose receiver waits for a later moment, since before ``probe``.

        For any thread, when what is due is long overdue.
        """
        with self.mutex:
            alive = self.closed or self._landed or not self.protocol.doubtful
            if alive or self.poll(READ, 0.0):
                return
            again = self.protocol.tick(now)
            self.tick_at = NEVER if again is None else again
        self.flush()
        if self.protocol.finished:
            self._shut_down()  # which wakes it

    # -- waiting for something else than messages --

    def wait_until(self, done: Callable[[], bool], deadline: Optional[float]) -> bool:
        """Block until *done()*, receiving if nobody does; ``False`` if *deadline* passes first.

        Who makes *done* true calls ``notify``, or is the receiver. Beyond ``max_queue`` unread
        messages, it waits for somebody to take them; while closing, it drops them.
        """
        while not done():
            if self._may_receive() and self.receiving.acquire(False):
                try:
                    if not done():
                        self._step_in(deadline)
                finally:
                    self.release_receiving()
            elif self.outbox.blocked() and not self.closed and self.sending.acquire(False):
                self._help_writing(deadline)
            else:
                self._wait_changed(done, deadline)
            if deadline is not None and monotonic() >= deadline:
                return done()
        return True

    def _may_receive(self) -> bool:
        if self.wanted or self.receiving.locked():
            return False
        return self.inbox.has_room() or self.protocol.state is not OPEN

    def _step_in(self, deadline: Optional[float]) -> None:
        """Read once as the receiver, keeping the messages."""
        protocol = self.protocol
        try:
            if protocol.finished or protocol.state is CLOSED:
                self.end(deadline)  # what isn't parsed stays for the consumer
                return
            if not protocol.pending:
                self._read(deadline)
        except TimeoutError:
            return  # the caller sees it
        self.keep()
        self.flush_output()

    def _wait_changed(self, done: Callable[[], bool], deadline: Optional[float]) -> None:
        """Wait for ``notify``, or until *deadline*."""
        with self._changed:
            self._waiting += 1
            try:
                if not done() and not self._may_receive():
                    timeout = HEED if deadline is None else min(HEED, patience(deadline))
                    self._changed.wait(GLANCE if self.outbox.blocked() else timeout)
            finally:
                self._waiting -= 1

    # -- writing --

    def flush(self) -> None:
        """Write the protocol's own frames, unless another thread is writing: it will then."""
        while self.sending.acquire(False):
            try:
                clear = self._flush_all()
            finally:
                self.sending.release()
            if not clear or not self.protocol.has_output:
                break

    def _flush_all(self) -> bool:
        """Write what waits and the protocol's own frames; whether there was room for all."""
        try:
            while self.outbox.flush():
                with self.mutex:
                    data = self.protocol.data_to_send()
                if not data:
                    return True
                self.outbox.put(data)
        except OSError as exc:
            self._write_error = exc  # reading tells the rest
            if not isinstance(exc, ConnectionError):
                self._shut_down()  # a frame is lost, and nothing may follow it
        return False

    def flush_as_writer(self) -> None:
        """Write the protocol's own frames, as the writer who is about to give way."""
        if self.protocol.has_output:
            self._flush_all()

    def push(self, deadline: Optional[float] = None) -> None:
        """Flush; and stay until it is done if another thread receives, for that may sleep."""
        self.flush()
        while self.outbox.blocked() and self.receiving.locked() and not self.closed:
            if deadline is not None and monotonic() >= deadline:
                return
            if not self.sending.acquire(False):
                return  # who is writing goes on with it
            self._help_writing(deadline)

    def _help_writing(self, deadline: Optional[float]) -> None:
        """Wait for room a moment, as the writer, and stop being it."""
        try:
            if not self.closed:
                soon = monotonic() + GLANCE
                if self.poll(WRITE, soon if deadline is None else min(soon, deadline)):
                    self.protocol.heard(monotonic())
        except OSError as exc:
            self._write_error = exc  # reading tells the rest
        finally:
            self.sending.release()
        self.flush()

    def wait_for_room(self, deadline: float) -> None:
        """Wait, as the writer, until the stream takes something of what comes next.

        Raises:
            TimeoutError: if *deadline* passes.
        """
        while not self.outbox.flush() or not self.poll(WRITE, 0.0):
            if not self._wait_writable(deadline):
                raise TimeoutError("the peer didn't take anything in time; nothing was sent")

    def wait_written(self, deadline: Optional[float]) -> None:
        """Wait, as the writer, until the outbox is empty.

        Raises:
            ConnectionClosed: if *deadline* passes, since a message is written in part then.
            OSError: if the connection is lost.
        """
        while not self.outbox.flush():
            if not self._wait_writable(deadline):
                self.cut(TimeoutError("the peer didn't take a message in time; a part was sent"))
                raise self.protocol.close_exc()

    def _wait_writable(self, deadline: Optional[float]) -> bool:
        """Wait for room, receiving meanwhile if nobody does; ``False`` if *deadline* passes.

        Two ends that both send and don't read would wait for each other forever.
        """
        events, until = WRITE, min(self.tick_at, NEVER if deadline is None else deadline)
        progress = False
        if self._may_receive() and self.receiving.acquire(False):
            try:
                progress = self.receive_now()
            finally:
                self.release_receiving()
            if self.protocol.state is CLOSED:
                raise self.protocol.close_exc()
            events |= READ
        else:
            until = min(until, monotonic() + GLANCE)
        if self.protocol.state is not OPEN:
            until = min(until, self.closing_deadline())
        progress = progress or self.poll(events, until)
        now = monotonic()
        if self.poll(WRITE, 0.0):  # there was no room before: the peer's TCP has taken something
            self.protocol.heard(now)
        if not progress and now >= self.tick_at:
            self._tick_as_writer(now)
        if self.protocol.state is not OPEN and now >= self.closing_deadline():
            self.cut(TimeoutError("the peer didn't take a message before the connection closed"))
            raise self.protocol.close_exc()
        return deadline is None or now < deadline

    def _tick_as_writer(self, now: float) -> None:
        """Let the keepalive tick if nobody receives; not while bytes of the peer wait unread.

        Raises:
            ConnectionClosed: if it gave the peer up.
        """
        if self.receiving.acquire(False):
            try:
                if self.stream.buffered() or self.poll(READ, 0.0):
                    self.tick_at = now + GLANCE
                elif not self.tick(now) and self.protocol.abort:
                    raise self.protocol.close_exc()
            finally:
                self.release_receiving()

    def fail_sending(self, exc: BaseException, encoding: bool) -> None:
        """Stop being the writer, because of *exc*; say how the connection ended if that is it.

        Args:
            encoding: whether it came between the encoding of a message and the outbox.

        Raises:
            ConnectionClosed: instead of the network's errors; and when the end is known, if it was
                closing.
        """
        if encoding and self.protocol.extensions:
            if not isinstance(exc, (OSError, WebSocketException)):
                self.cut(exc)  # what a compressor has taken may never be sent
        self.sending.release()
        self.flush_output()
        if isinstance(exc, ConnectionClosed):
            raise self.settled() from self.protocol.failure
        if isinstance(exc, OSError) and not (isinstance(exc, TimeoutError) and exc.errno is None):
            self._write_error = exc
            # The peer may have said why, in a Close frame that waits to be read.
            if not self.wait_until(self._ends_or_is_full, monotonic() + SETTLE):
                self.cut(exc)
            raise self.protocol.close_exc() from (self.protocol.failure or exc)

    def _ends_or_is_full(self) -> bool:
        protocol = self.protocol
        return protocol.finished or protocol.state is CLOSED or not self.inbox.has_room()

    def settled(self) -> ConnectionClosed:
        """The exception for the end; after the answer to our Close frame, if one is to come."""
        protocol = self.protocol
        self.wait_until(
            lambda: protocol.state is CLOSED or protocol.finished, self.closing_deadline()
        )
        return protocol.close_exc()
