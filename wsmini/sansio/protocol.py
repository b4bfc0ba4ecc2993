"""The protocol after the opening handshake: one state machine, no sockets, no clock, no threads.

Bytes go in with ``receive_data``, messages come out of ``next_messages``; messages go in with
``encode_message``, after ``check_can_send``, and bytes come out of it. What the protocol has to say
by itself (pongs, keepalive pings, Close frames) is in ``data_to_send()``. The front end owns the
socket, the waiting and the locks, and passes the time in: seconds of any clock that doesn't go
backwards.

The life of a connection, RFC 6455, 7::

    OPEN ── Close sent or received, or failed ──▶ CLOSING
      └──────── connection lost ───────▶ CLOSED ◀────┘

A front end reads until ``finished``: nothing more will be delivered. It then writes what
``data_to_send()`` has, and calls ``connection_lost()``: at once if both Close frames are there, or
with ``abort``; else it drops what comes until the server ends the TCP connection, for a while.
"""

from __future__ import annotations

import enum

from ..exceptions import (
    Close,
    InvalidState,
    PayloadTooBig,
    ProtocolError,
    SendBufferFull,
    connection_closed,
)
from .frames import (
    FIN,
    MAX_CONTROL,
    PIECE,
    RSV1,
    Frame,
    Opcode,
    check_close,
    close_payload,
    masked,
    masked_pieces,
    masking_key,
    read_close,
)
from .messages import UNLIMITED, MessageReader, only_deflate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Iterator, Protocol, Sequence

    from ..exceptions import ConnectionClosed
    from .extensions import Extension
    from .frames import Data
    from .messages import Message

    Frames = bytes | bytearray | Iterator[bytearray]
    MaxSize = int | tuple[int | None, int | None] | None

    Answered = Callable[[float], None]  # gets the round trip in seconds

    class Listener(Protocol):
        def on_control(self, opcode: int, data: bytes) -> None: ...


MAX_QUEUED = 128  # pongs that wait to be sent, the latest; as many other control frames
EARLY = 1 / 64  # of the interval, by which a ping may come sooner if the time is asked for
MAX_PINGS = 1024  # pings that wait for their pong

NEVER = float("inf")  # a time behind all others; -NEVER is before them

# All the idle share these, which stay empty.
_NO_PINGS: dict[bytes, tuple[float, Answered | None]] = {}
_NO_FRAMES: list[bytes | bytearray] = []


class State(enum.IntEnum):
    """Where a connection is in its life (RFC 6455, 4 and 7)."""

    CONNECTING = 0  # only a ``Client``, as WAITING
    OPEN = 1
    CLOSING = 2
    CLOSED = 3
    WAITING = 4  # to connect again

    # An IntEnum shows its number, on some Pythons in f-strings only.
    def __str__(self) -> str:
        return self.name

    def __format__(self, spec: str) -> str:
        return format(self.name, spec)


# Names of a module are found faster than members of an enum.
OPEN, CLOSING, CLOSED = State.OPEN, State.CLOSING, State.CLOSED


def size_limits(max_size: MaxSize) -> tuple[int, int]:
    """The limits for a message and for a fragment that ``max_size`` stands for.

    Raises:
        TypeError, ValueError: if it isn't ``None``, a number of bytes, or a pair of these.
    """
    pair = max_size if isinstance(max_size, tuple) else (max_size, None)
    if len(pair) != 2:
        raise ValueError("max_size is a limit or a pair (message, fragment)")
    for limit in pair:
        if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool)):
            raise TypeError(f"max_size is a number of bytes or None, not {limit!r}")
        if limit is not None and limit <= 0:  # 0 means "no limit" elsewhere
            raise ValueError(f"max_size is a number of bytes above 0, or None, not {limit}")
    message, fragment = (UNLIMITED if limit is None else limit for limit in pair)
    return message, min(message, fragment)


class Keepalive:
    """When to ping and when to give up, from the times of what was received.

    Any byte from the peer counts as life, not only the answer to the ping.
    """

    __slots__ = ("_interval", "_pinged", "_timeout", "received")

    def __init__(self, interval: float, timeout: float | None) -> None:
        self._interval, self._timeout = interval, timeout
        self.received = self._pinged = -NEVER

    @property
    def unanswered(self) -> bool:
        """Whether nothing was received since the last ping."""
        return self.received < self._pinged

    def doubt(self, now: float) -> None:
        """Forget what was heard: a ping is due at *now*."""
        # As if the peer had been silent for an interval, if it hasn't been for longer.
        self.received, self._pinged = min(self.received, now - self._interval), -NEVER

    def tick(self, now: float) -> tuple[str, float]:
        """Decide what is due (``"wait"``, ``"ping"`` or ``"give up"``), and when to ask again."""
        # Three cases: a ping is out and has a deadline; a ping is out and may stay unanswered for
        # ever (no ping_timeout); or the peer was heard since, and silence counts from there.
        if self.unanswered:
            if self._timeout is not None:
                deadline = self._pinged + self._timeout
                return ("give up" if now >= deadline else "wait"), deadline
            due = self._pinged + self._interval  # routers forget silent connections
        else:
            due = self.received + self._interval
        # An answer counts from a moment after its ping: don't wake up twice for that.
        if now < due - self._interval * EARLY:
            return "wait", due
        self._pinged = now
        # If an answer comes, the interval counts from there: don't sleep for a long timeout.
        timeout = self._interval if self._timeout is None else self._timeout
        return "ping", now + min(self._interval, timeout)


class ClientProtocol:
    """A client's side of one WebSocket connection, sans I/O. Not thread-safe.

    Args:
        extensions: those negotiated, in the order of the response.
        now: when it was opened.
        max_size: the limit in bytes for a message, or a pair of limits for a message and for a
            fragment of one; ``None`` for no limit.
        ping_interval: seconds without anything received until a keepalive ping; ``None`` for none.
        ping_timeout: seconds after such a ping until the connection is given up; ``None`` for
            never.

    Attributes:
        state: a ``State``.
        rcvd, sent: the ``Close`` received and sent, or ``None``.
        rcvd_then_sent: which came first; ``None`` unless both are there.
        finished: whether no more bytes are needed: the connection is closed or has failed. Look at
            it when ``next_messages`` returns none; before, there may be messages yet.
        abort: whether waiting for the peer is pointless, because it is dead.
        failure: the exception that made the connection fail, or ``None``.
        has_output: whether ``data_to_send()`` may have something.
        sending: the opcode of the fragmented message that has begun and may still be completed; 0
            if there is none.
        reader: the ``MessageReader``; look at its ``pending``, ``missing`` and ``streaming``, and
            ``skip`` there what ``next_chunk`` has begun. Its ``whole_message`` may be used instead
            of ``receive_data``, if what came is noted in ``keepalive.received``.
        keepalive: the ``Keepalive``; ``None`` if there is none.
        latency: seconds from the last ping that was answered to its pong; 0.0 before.
        listener: its ``on_control`` gets the opcode and the data of each ping and pong received, if
            it is set. That and the callbacks of pings must not raise.
    """

    __slots__ = (
        "_deflate", "_now", "_output", "_pings", "_pongs", "_sending_compressed", "abort",
        "extensions", "failure", "finished", "has_output", "keepalive", "latency", "listener",
        "rcvd", "rcvd_then_sent", "reader", "sending", "sent", "state",
    )  # fmt: skip

    def __init__(
        self,
        extensions: Sequence[Extension] = (),
        now: float = 0.0,
        *,
        max_size: MaxSize = 1 << 20,
        ping_interval: float | None = 20,
        ping_timeout: float | None = 20,
    ) -> None:
        self.state = OPEN
        self.rcvd: Close | None = None
        self.sent: Close | None = None
        self.rcvd_then_sent: bool | None = None
        self.finished = self.abort = False
        self.failure: BaseException | None = None
        self.extensions = extensions or ()  # an empty list would be one for each connection
        deflate = only_deflate(extensions)
        self._deflate = None if deflate is None else deflate.deflate
        self.reader = MessageReader(self, size_limits(max_size), extensions)
        self.keepalive = None if ping_interval is None else Keepalive(ping_interval, ping_timeout)
        self._now = 0.0
        self.has_output = False
        self.sending = 0
        self._sending_compressed: bool | None = None
        # Lists: each empty deque would take 600 bytes of an idle connection.
        self._pongs = self._output = _NO_FRAMES
        self._pings = _NO_PINGS
        self.latency = 0.0
        self.listener: Listener | None = None
        self.heard(now)

    # -- receiving --

    @property
    def pending(self) -> bool:
        """Whether ``next_messages`` may have something without more bytes."""
        return self.reader.pending

    def receive_data(self, data: bytes, now: float = 0.0) -> None:
        """Take bytes from the network that came at *now*."""
        if self.finished or self.state is CLOSED:
            return
        self._now = now
        if self.keepalive is not None:
            self.keepalive.received = now
        self.reader.receive_data(data)

    def receive_message(self, data: bytes, now: float = 0.0) -> Message | None:
        """The message, if *data* is one and nothing else; else ``None``: use ``receive_data``.

        For what came at *now*, while nothing is pending.
        """
        # In any other state, more than the message has to be looked at: see next_messages.
        if self.state is not OPEN:
            return None
        message = self.reader.whole_message(data)
        if message is not None:
            self._now = now
            if self.keepalive is not None:
                self.keepalive.received = now
        return message

    def next_messages(self) -> list[Message]:
        """Some messages, in order, after a bounded amount of work.

        If there is none: call again while ``pending``, in another turn of a loop where others wait
        for theirs. Else more bytes are needed, or ``finished``.
        """
        try:
            batch = self.reader.messages()
        except BaseException as exc:
            self._fail(exc)
            batch = []
        # TCP has ended, and these were the last messages that had come before.
        if self.state is CLOSED and not self.reader.pending:
            self._finish()
        return batch

    def next_chunk(self) -> tuple[Message, bool] | None:
        """Some of the next message, as it arrives, and whether that ends it.

        If ``None``: as for no messages of ``next_messages``.
        """
        try:
            chunk = self.reader.next_chunk()
        except BaseException as exc:
            self._fail(exc)
            return None
        if self.state is CLOSED and not self.reader.pending:
            self._finish()
        return chunk

    def connection_lost(self, exc: BaseException | None = None) -> None:
        """Note that the TCP connection has ended, because of *exc* if that isn't ``None``.

        What was received before can still be delivered. May be called more than once.
        """
        # The first reason counts: a connection that has failed, or that the peer has closed, isn't
        # lost because TCP ends as well.
        if self.state is not CLOSED:
            self.state = CLOSED
            if self.failure is None and self.rcvd is None:
                self.failure = exc
        if not self.pending:
            self._finish()
        self._pongs.clear()
        self._output.clear()
        self.has_output = False

    def abandon(self, exc: BaseException) -> None:
        """Drop what was received, of which nothing is known any more, and deliver nothing again."""
        self.connection_lost(exc)
        self._finish()

    def receive_control(self, opcode: int, data: bytes) -> None:
        """Act on a control frame: the reader calls this in the order of the frames."""
        if opcode == Opcode.PING:
            # Behind our Close frame nothing is sent, no pong either: nobody waits for it any more.
            if self.state is OPEN:
                if self._pongs is _NO_FRAMES:
                    self._pongs = []
                self._pongs.append(masked(FIN | Opcode.PONG, data))
                self.has_output = True
                if len(self._pongs) > MAX_QUEUED:  # the oldest gives way (RFC 6455, 5.5.3)
                    del self._pongs[:1]  # none, if another thread has just taken them
        elif opcode == Opcode.PONG:
            self._receive_pong(data)
        else:
            self._receive_close(data)
            return
        if self.listener is not None:
            self.listener.on_control(opcode, data)

    def _receive_pong(self, data: bytes) -> None:
        """A pong answers its ping and all before it (RFC 6455, 5.5.3)."""
        if data not in self._pings:
            return  # unsolicited, or answered by a later one
        # A dictionary keeps the order in which the pings were sent.
        payloads = list(self._pings)
        answered = [self._pings.pop(one) for one in payloads[: payloads.index(data) + 1]]
        self._pings = self._pings or _NO_PINGS
        # Called when none of them waits any more: a callback may send the next ping.
        for sent_at, callback in answered:
            self.latency = self._now - sent_at
            if callback is not None:
                callback(self.latency)

    def _receive_close(self, data: bytes) -> None:
        # Noted before it is checked: a reason that is cut in a character fails the connection, but
        # the code in front of it still says whether to come back.
        self.rcvd = close = read_close(data)
        # If open, our Close frame follows below, or from _fail() if the payload is wrong.
        if self.sent is not None:
            self.rcvd_then_sent = False
        elif self.state is OPEN:
            self.rcvd_then_sent = True
        check_close(data)
        self._send_close(close)  # RFC 6455, 5.5.1: with the same code
        self._finish()

    def _finish(self) -> None:
        """Deliver nothing more, and wait for no pong."""
        self.finished = True
        self.reader.stop()
        self._pings = _NO_PINGS

    def _fail(self, exc: BaseException) -> None:
        """Fail the connection (RFC 6455, 7.1.7); raise what isn't the peer's fault."""
        if not isinstance(exc, (ProtocolError, UnicodeDecodeError, PayloadTooBig)):
            # Of a signal handler or of a program's extension: what was being parsed is lost.
            self.abandon(exc)
            raise exc
        self.failure = exc.with_traceback(None)  # which would keep alive what was received
        if isinstance(exc, UnicodeDecodeError):
            code, reason = 1007, f"invalid UTF-8: {exc.reason}"
        else:
            code, reason = (1009 if isinstance(exc, PayloadTooBig) else 1002), str(exc)
        # The last character may be cut in the middle; then it is left out.
        cut = reason.encode("utf-8", "replace")[: MAX_CONTROL - 2]
        self._send_close(Close(code, cut.decode("utf-8", "ignore")))
        self._finish()

    # -- sending --

    def check_open(self) -> None:
        """Raise the exception that a send meets, unless the connection is open.

        A fragment needs no more than that, a message needs ``check_can_send``.
        """
        if self.state is not OPEN:
            raise self.close_exc()

    def check_can_send(self) -> None:
        """Raise unless a message can be sent now.

        Raises:
            ConnectionClosed: if the connection isn't open any more.
            InvalidState: if a fragmented message isn't complete.
        """
        self.check_open()
        if self.sending:
            raise InvalidState("a fragmented message isn't complete yet")

    def encode_message(self, opcode: int, data: Data, compress: bool | None = None) -> Frames:
        """Encode a whole message as a frame: a buffer, or an iterator of them if it is long.

        Call ``check_can_send`` first: what is raised in here isn't the protocol's.
        """
        # The usual cases need no Frame: no extension, or permessage-deflate alone, which always
        # compresses a whole message unless the program says not to.
        head = FIN | opcode
        if self._deflate is not None:
            if compress is not False:
                head |= RSV1
                data = self._deflate(data)
        elif self.extensions:
            frame = self._encode(Frame(opcode, data), compress)
            head, data = frame.head, frame.data
        return masked(head, data) if len(data) <= PIECE else masked_pieces(head, data)

    def encode_fragment(
        self, opcode: int, data: Data, fin: bool, compress: bool | None = None
    ) -> Frames:
        """Encode a fragment of a message; *opcode* and *compress* count in the first one.

        Call ``check_open`` first.
        """
        if self.sending:
            opcode, compress = Opcode.CONT, self._sending_compressed
        # If an extension raises, nothing has changed: no message has begun, or it still goes on.
        frame = self._encode(Frame(opcode, data, fin), compress)
        if fin:
            self.sending = 0
        # A continuation leaves what the first fragment has set.
        elif opcode:
            self.sending, self._sending_compressed = opcode, compress
        make = masked if len(frame.data) <= PIECE else masked_pieces
        return make(frame.head, frame.data)

    def abandon_message(self) -> None:
        """Close with 1011, if a fragmented message has begun: it can't be completed."""
        # The peer waits for the rest, and no other message can begin before it (RFC 6455, 5.4).
        if self.sending:
            self.close(1011, "message abandoned")
            self.sending = 0

    def _encode(self, frame: Frame, compress: bool | None) -> Frame:
        for extension in self.extensions:
            if compress is not False or not extension.optional:
                frame = extension.encode(frame)
        return frame

    def ping(
        self,
        data: bytes | None = None,
        now: float = 0.0,
        callback: Callable[[float], None] | None = None,
    ) -> Exception | None:
        """Queue a ping with *data*, or 8 random digits; *callback* gets the round trip in seconds.

        Args:
            data: as ``control_payload`` returns it.

        Returns:
            What refuses it, if anything, and has changed nothing; to be raised. (An exception that
            comes out of here is a signal handler's, and may come in the middle.)

            * ``ConnectionClosed``: if the connection isn't open any more.
            * ``ValueError``: if a ping with *data* isn't answered yet.
            * ``SendBufferFull``: if ``MAX_PINGS`` aren't answered yet, or ``MAX_QUEUED`` not sent.
        """
        refusal = self._why_no_control()
        if refusal is None and len(self._pings) >= MAX_PINGS:
            refusal = SendBufferFull(f"{MAX_PINGS} pings aren't answered yet")
        if refusal is not None:
            return refusal
        payload = self._new_ping_data() if data is None else data
        if payload in self._pings:
            return ValueError("a ping with the same data isn't answered yet")
        self._send_ping(payload, now, callback)
        return None

    def _send_ping(self, data: bytes, now: float, callback: Answered | None) -> None:
        """Queue a ping; where many aren't answered, it isn't remembered."""
        self._queue(masked(FIN | Opcode.PING, data))
        if self._pings is _NO_PINGS:
            self._pings = {}
        if len(self._pings) < MAX_PINGS:
            self._pings[data] = now, callback

    def _new_ping_data(self) -> bytes:
        # Printable: some servers take payloads for C strings, and lose one with a NUL.
        data = masking_key().hex().encode()
        while data in self._pings:
            data = masking_key().hex().encode()
        return data

    def pong(self, data: bytes = b"") -> Exception | None:
        """Queue an unsolicited pong (RFC 6455, 5.5.3). Returns as ``ping``."""
        refusal = self._why_no_control()
        if refusal is None:
            self._queue(masked(FIN | Opcode.PONG, data))
        return refusal

    def _why_no_control(self) -> Exception | None:
        """What refuses a ping or a pong, if anything."""
        if self.state is not OPEN:
            return self.close_exc()
        if len(self._output) >= MAX_QUEUED:
            return SendBufferFull(f"{MAX_QUEUED} pings and pongs wait to be sent")
        return None

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Begin the closing handshake; messages that are received yet are still delivered.

        Does nothing if the connection is closing or closed.

        Raises:
            ValueError, TypeError: if *code* or *reason* can't be sent (RFC 6455, 7.4).
        """
        close_payload(code, reason)
        self._send_close(Close(code, reason))

    def _send_close(self, close: Close) -> None:
        """Queue a Close frame, if the connection is open."""
        if self.state is not OPEN:
            return
        # The state changes before the frame is queued: whatever another thread sends now is
        # refused, and can't follow the Close frame.
        self.state = CLOSING
        self.sent = close
        # 1005 stands for a Close frame without a code, which is answered alike (RFC 6455, 7.4.1).
        payload = b"" if close.code == 1005 else close_payload(close.code, close.reason)
        self._queue(masked(FIN | Opcode.CLOSE, payload))

    def _queue(self, frame: bytes | bytearray) -> None:
        if self._output is _NO_FRAMES:
            self._output = []
        self._output.append(frame)
        self.has_output = True

    def data_to_send(self) -> bytes:
        """Control frames to write now, each once; not in the middle of another frame."""
        self.has_output = False
        # A Close is taken before the pongs that were queued earlier, and written behind them:
        # nothing follows it (RFC 6455, 5.5.1), whatever another thread queues meanwhile.
        others = _drained(self._output)
        return b"".join(_drained(self._pongs) + others)

    # -- time --

    @property
    def doubtful(self) -> bool:
        """Whether a keepalive ping isn't answered yet: ``tick`` may give the peer up."""
        return self.keepalive is not None and self.keepalive.unanswered

    def tick(self, now: float) -> float:
        """Do what is due at *now*, and say when to call again, perhaps ``NEVER``.

        Call it only when all that can be read was passed in: a peer whose bytes wait unread isn't
        dead.
        """
        if self.keepalive is None or self.state is not OPEN:
            return NEVER
        action, again = self.keepalive.tick(now)
        if action == "ping":
            if len(self._output) < MAX_QUEUED:  # if not, there are pings enough in it
                self._send_ping(self._new_ping_data(), now, None)
        elif action == "give up":
            silence = now - self.keepalive.received
            self.failure = TimeoutError(f"nothing received for {silence:.1f} s: the peer is dead")
            self._send_close(Close(1011, "keepalive ping timeout"))
            self.abort = self.finished = True
            # What has come before, and isn't parsed yet, is still delivered.
            if not self.pending:
                self._finish()
            return NEVER
        return again

    def probe(self, now: float) -> float:
        """Ping at *now*, however lately the peer was heard; returns as ``tick``."""
        if self.keepalive is not None:
            self.keepalive.doubt(now)
        return self.tick(now)

    def heard(self, now: float) -> None:
        """Note that the peer lives at *now*: it may say nothing, but its TCP takes what is sent."""
        if self.keepalive is not None:
            self.keepalive.received = now

    # -- how it ended --

    @property
    def close_code(self) -> int | None:
        """The close code received, 1006 if none was; ``None`` while not closed."""
        return self.close_exc().code if self.state is CLOSED else None

    @property
    def close_reason(self) -> str | None:
        """The close reason received; ``None`` while not closed."""
        return self.close_exc().reason if self.state is CLOSED else None

    def close_exc(self) -> ConnectionClosed:
        """The exception that says how the connection ended, or as far as it has."""
        return connection_closed(self.rcvd, self.sent, self.rcvd_then_sent, self.failure)


def _drained(queue: list[bytes | bytearray]) -> list[bytes | bytearray]:
    """All of *queue*, which another thread may append to or clear meanwhile."""
    items = queue[:]
    del queue[: len(items)]
    return items
