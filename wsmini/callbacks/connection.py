"""One connection of a callback client: its transport, and what goes through it both ways."""

from __future__ import annotations

from functools import partial
from itertools import chain

from ..clock import NEVER
from ..events.transport import EventTransport
from ..exceptions import ConnectionClosed
from ..info import ConnectionInfo
from ..sansio.frames import Opcode
from ..sansio.protocol import State
from .outbox import MOST_SMALL, SMALL, Fragments

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Iterator

    from typing_extensions import Protocol

    from ..opening.opening import Opened
    from ..options import Options
    from ..sansio.messages import Message
    from .loop import Loop
    from .outbox import Item, Outbox

    class Owner(Protocol):
        """What a connection needs of its client."""

        on_message: Any
        _outbox: Outbox
        _serve_due: bool
        _drain_due: bool
        _slow_after: float
        _returned: list[Item]

        def _callback(self, name: str) -> Callable[..., object] | None: ...
        def _call(self, name: str, *args: object) -> None: ...
        def _failed(self, exc: Exception) -> None: ...
        def _watch(self, name: str, start: float) -> None: ...
        def _ended(self, connection: ClientConnection) -> None: ...
        def _serve_soon(self) -> None: ...
        def _recover_alone(self) -> None: ...


FRAGMENTS = 64  # of a message in parts, in one iteration of the loop,
MAX_AHEAD = 65536  # and bytes of it that wait for the socket until the next part is asked for

OPEN = State.OPEN

_NOTHING: Iterator[Any] = iter(())  # which all the idle share


class ClientConnection:
    """It lasts as long as the connection; all of it is for the loop's thread."""

    __slots__ = (
        "_client", "_ended", "_ends", "_info", "_loop", "_messages", "_name", "_opened", "_outbox",
        "_paused", "_trims", "_unread", "buffer", "protocol", "transport",
    )  # fmt: skip

    def __init__(self, client: Owner, loop: Loop, opened: Opened, options: Options) -> None:
        self._client, self._loop, self._outbox = client, loop, client._outbox
        self._messages, self._ends = self._outbox.messages, self._outbox.ends
        self._unread: Iterator[Any] = _NOTHING
        self._paused = self._ended = False
        self._trims = False  # soon
        self._opened, self._info = opened, None  # type: Opened, ConnectionInfo | None
        self.transport = EventTransport(loop, opened, options, self, gather=True)
        self.buffer = self.transport.buffer
        self.protocol = self.transport.protocol
        self.protocol.listener = self
        # Chunks or messages: one or the other as long as the connection lasts.
        self._name = "on_message" if client._callback("on_chunk") is None else "on_chunk"
        self.transport.streaming = self._name == "on_chunk"
        self.transport.start()

    # -- for the client --

    @property
    def info(self) -> ConnectionInfo:
        """Made when it is asked for; what only an open socket knows isn't there later."""
        if self._info is None:
            self._info = ConnectionInfo(self._opened)
            self._info._protocol = self.protocol
        return self._info

    def give(self) -> None:
        """Have the transport send what the client has accepted."""
        messages, ends, outbox = self._messages, self._ends, self._outbox
        if outbox.dropping is not None:
            outbox.settle()
        size, outbox.waiting = outbox.waiting, 0  # as if all of it were given, which is the usual
        try:
            self.transport.send_messages(messages, ends)
            if len(ends) != len(messages):
                self._give_rest()
        except ConnectionClosed:  # what isn't given stays in the outbox, for the next one
            outbox.count_waiting()
        except Exception as exc:
            self._give_up(exc)
        # Small ones that are written may stay till then: to look for each would cost a wake-up.
        if size > SMALL or len(ends) >= MOST_SMALL or self._client._drain_due:
            self.trim_soon()

    def _give_rest(self) -> None:
        """The next message comes in parts, others may be behind it."""
        outbox, transport = self._outbox, self.transport
        messages, ends = outbox.messages, outbox.ends
        while len(ends) != len(messages):
            _, message, compress = messages[len(ends)]
            if isinstance(message, Fragments):
                if not self._give_fragments(message, compress):
                    break
                ends.append(transport.buffer.accepted)
            else:
                transport.send_messages(messages, ends)
        outbox.count_waiting()

    def _give_up(self, exc: Exception) -> None:
        """A message has raised *exc*: its parts have, or an extension."""
        client = self._client
        if self.transport.half_done:
            # An extension has failed within a frame: what the peer gets behind it can't be decoded.
            self.transport.half_done = False
            self.transport.abort(exc)
        client._returned = client._returned + [self._messages.pop(len(self._ends))]
        self._outbox.count_waiting()
        client._serve_soon()  # the others
        client._failed(exc)

    def _give_fragments(self, message: Fragments, compress: bool | None) -> bool:
        """Give some fragments, as many as there is room for; whether those are all."""
        transport = self.transport
        for _ in range(FRAGMENTS):
            if transport.buffer.waits or transport.buffered > MAX_AHEAD:
                break
            transport.protocol.check_open()
            try:
                part = message.next()
            except BaseException:
                if message.opcode:
                    transport.abandon_message()
                raise
            if part is None:
                if message.opcode:
                    transport.send_fragment(message.opcode, b"", True, compress)
                return True
            message.opcode = part[0]
            transport.send_fragment(part[0], part[1], False, compress)
        if not transport.buffer.waits:
            self._client._serve_soon()  # others have their turn first
        return False

    def trim_soon(self) -> None:
        if not self._trims:
            self._trims = True
            self._loop.call_soon(self._trim)

    def _trim(self) -> None:
        """Forget what is written; and tell the client if it waits for that."""
        self._trims = False
        transport, client, outbox = self.transport, self._client, self._outbox
        if self._ended:
            return  # Client._ended() looks through the outbox
        all_written = outbox.drop_written(transport.buffer.written)
        if not client._drain_due or transport.gone:
            return
        if all_written and not outbox.messages:
            client._drain_due = False
            client._call("on_drain")
            self._serve()
        elif all_written and outbox.messages[0][0]:
            # Not given yet, and not in parts, which go on by themselves when there is room.
            client._serve_soon()
            self.trim_soon()
        elif not transport.buffer.waits:
            self.trim_soon()  # it is on its way; if there is no room, the transport will tell

    def pause(self) -> None:
        """For any thread: deliver no more, but what is in a callback's hands."""
        if self.protocol.state is OPEN:  # closing lifts it for good
            self._paused = True
            self.transport.pause()

    def resume(self) -> None:
        if self._paused:
            self._paused = False
            self._loop.call_soon(self._deliver_and_resume)

    def _deliver_and_resume(self) -> None:
        """Hand over what is unread; read on when that is done, and nobody has paused again."""
        try:
            self._deliver()
        finally:  # what a callback raises ends nothing: the rest comes, too
            if self._unread is _NOTHING and not self._paused:
                self.transport.resume()
            elif not self._paused:
                self._loop.call_soon(self._deliver_and_resume)

    def close(self, code: int, reason: str) -> None:
        self.resume()  # a paused connection wouldn't see the answer
        self.transport.close(code, reason)

    # -- for the transport --

    def _on_message(self, message: Message, now: float) -> None:
        """As ``_on_messages``, for one; without what costs time where there is nothing else."""
        client = self._client
        if self._paused or self._unread is not _NOTHING or type(client).on_message is not None:
            self._on_messages([message])
            return
        callback = client.on_message
        # From here on the message is the callback's: if that is interrupted, it has had it.
        self.transport.half_done = False
        if callback is None:
            return
        client._serve_due = True  # what is sent meanwhile goes out together
        try:
            callback(client, message)
        except Exception as exc:
            client._watch("on_message", now)
            client._failed(exc)
        finally:
            client._serve_due = False
            if len(self._messages) != len(self._ends):
                self.give()
        if client._slow_after < NEVER and self._loop.time() - now > client._slow_after:
            client._watch("on_message", now)

    def _on_messages(self, messages: list[Any]) -> None:
        none = self._unread is _NOTHING
        self._unread = iter(messages) if none else chain(self._unread, messages)
        self.transport.half_done = False
        self._deliver()

    def _on_chunk(self, chunk: tuple[Message, bool]) -> None:
        self.transport.streaming = True  # the next message, too
        self._on_messages([chunk])

    def _deliver(self) -> None:
        """Hand over what is unread; and tell the end behind it."""
        if self._paused:
            return
        client, start = self._client, self._loop.time()
        callback = client._callback(self._name) or _ignore
        if self._name == "on_chunk":
            callback = partial(_unpacked, callback)
        client._serve_due = True
        try:
            for message in self._unread:
                callback(message)
                if self._paused:
                    break
            else:
                self._unread = _NOTHING
        except BaseException as exc:
            self._loop.call_soon(self._deliver)  # the rest, the iterator being behind this one
            if not isinstance(exc, Exception):
                raise
            client._failed(exc)
            return
        finally:
            client._watch(self._name, start)
            client._serve_due = False
            self._serve()
        # on_close comes behind the last message; a pause holds both back.
        if self._ended and not self._paused:
            self._ended = False
            client._ended(self)

    def _serve(self) -> None:
        if len(self._messages) != len(self._ends) and not self.transport.closed:
            self.give()

    def on_control(self, opcode: int, data: bytes) -> None:
        """For the protocol: a ping or a pong has come."""
        name = "on_ping" if opcode == Opcode.PING else "on_pong"
        self.transport.report(self._call_back, (name, data))

    def _call_back(self, what: tuple[str, bytes]) -> None:
        self.transport.half_done = False
        self._client._call(*what)

    def _on_drain(self) -> None:
        if not self.transport.gone:  # else on_close comes, and unsent tells
            self._client._drain_due = True
            self._serve()
            self.trim_soon()

    def _on_end(self) -> None:
        self._ended = True
        self._deliver()

    def _recover(self) -> None:
        """For the loop: an exception has come out of a callback of its own."""
        self.transport._recover()  # and come back

    def _on_recover(self) -> None:
        """A signal handler's exception may have come in the middle of anything."""
        self._outbox.settle()
        self._trims = False
        if self._unread is not _NOTHING or self._ended:
            self._loop.call_soon(self._deliver)
        self._client._recover_alone()


def _unpacked(callback: Callable[..., object], chunk: tuple[Message, bool]) -> None:
    callback(*chunk)


def _ignore(*args: object) -> None:
    """For a client without ``on_message``."""
