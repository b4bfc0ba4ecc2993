"""One connection of a callback client: its transport, and what goes through it both ways."""

from __future__ import annotations

from itertools import chain

from ..events.transport import NEVER, EventTransport
from ..exceptions import ConnectionClosed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Iterator, List, Optional, Tuple

    from ..opening.opening import Opened
    from ..options import Options
    from ..sansio.messages import Message
    from .client import Client
    from .loop import Loop, Timer

    Item = Tuple[int, bytes, Optional[bool]]  # opcode, payload, compress

SMALL = 4096  # bytes; what a shorter message takes may be freed later,
MOST_SMALL = 64  # if there aren't so many of them

# What all the idle share.
_NOTHING: Iterator[Any] = iter(())
_NO_FLIGHT: List[Tuple[int, Item]] = []


class ClientConnection:
    """It lasts as long as the connection; all of it is for the loop's thread."""

    __slots__ = (
        "_client", "_ended", "_flight", "_loop", "_paused", "_timer", "_trims", "_unread",
        "ssl_object", "transport",
    )  # fmt: skip

    def __init__(self, client: Client, loop: Loop, opened: Opened, options: Options) -> None:
        self._client, self._loop = client, loop
        self._unread: Iterator[Message] = _NOTHING
        self._paused = self._ended = False
        self._timer: Optional[Timer] = None
        # What the transport has accepted: how many bytes it will have written when each is sent.
        self._flight = _NO_FLIGHT
        self._trims = False  # soon
        self.ssl_object = opened.ssl_object
        self.transport = EventTransport(loop, opened, options, self, gather=True)
        self.transport.start()

    # -- for the client --

    def send(self, item: Item) -> bool:
        """Send it; ``False`` if the connection is closing."""
        transport, flight = self.transport, self._flight
        opcode, data, compress = item
        try:
            transport.send(opcode, data, compress)
        except ConnectionClosed:
            return False
        queue = transport.queue
        if not flight:
            self._flight = flight = []
        elif flight[-1][0] <= queue.written:
            flight.clear()
        flight.append((queue.accepted, item))
        # Small ones that are written may stay till then: to look for each would cost a wake-up.
        if len(data) > SMALL or len(flight) >= MOST_SMALL or self._client._full:
            self.trim_soon()
        return True

    def trim_soon(self) -> None:
        if not self._trims:
            self._trims = True
            self._loop.call_soon(self.trim)

    def trim(self) -> None:
        """Forget what is written; and tell the client if it waits for that."""
        self._trims = False
        flight, written = self._flight, self.transport.queue.written
        if flight and flight[-1][0] <= written:
            self._flight = flight = _NO_FLIGHT
        else:
            del flight[: _written(flight, written)]
        transport, client = self.transport, self._client
        if not client._full or transport.closed or transport.write_error is not None:
            return
        if not flight:
            client._full = False
            client._call("on_drain")
        elif not transport.blocked:
            self.trim_soon()  # it is on its way; if there is no room, the transport will tell

    def ping(self, data: Optional[bytes]) -> None:
        self.transport.ping(data)

    def pause(self) -> None:
        self._paused = True
        self.transport.pause()

    def resume(self) -> None:
        if self._paused:
            self._paused = False
            self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        """Hand over what is unread; read on when that is done, and nobody has paused again."""
        try:
            self._deliver()
        finally:
            if self._unread is _NOTHING and not self._paused:
                self.transport.resume()
            elif not self._paused:
                self._loop.call_soon(self._go_on)

    def close(self, code: int, reason: str) -> None:
        self.resume()
        self.transport.close(code, reason)

    def limit_close(self, grace: float) -> None:
        """Leave the server in *grace* seconds, whether it has answered or not."""
        if self._timer is None:
            self._timer = self._loop.call_later(grace, self.transport.abort)

    # -- for the transport --

    def _on_message(self, message: Message, now: float) -> None:
        """As ``_on_messages``, for one; without what costs time where there is nothing else."""
        client = self._client
        if self._paused or self._unread is not _NOTHING or type(client).on_message is not None:
            self._on_messages([message])
            return
        callback = client.on_message
        if callback is None:
            return
        try:
            callback(client, message)
        except Exception as exc:
            client._watch("on_message", now)
            client._failed(exc)
            return
        if client._slow_after < NEVER and self._loop.time() - now > client._slow_after:
            client._watch("on_message", now)

    def _on_messages(self, messages: List[Message]) -> None:
        none = self._unread is _NOTHING
        self._unread = iter(messages) if none else chain(self._unread, messages)
        self._deliver()

    def _deliver(self) -> None:
        """Hand over what is unread; and tell the end behind it."""
        if self._paused:
            return
        client, start = self._client, self._loop.time()
        callback = client._callback("on_message") or _ignore
        try:
            for message in self._unread:
                callback(message)
                if self._paused:
                    break
            else:
                self._unread = _NOTHING  # which all the idle share
        except BaseException as exc:
            self._loop.call_soon(self._deliver)  # the rest
            if not isinstance(exc, Exception):
                raise
            client._failed(exc)
            return
        finally:
            client._watch("on_message", start)
        if self._ended and not self._paused:
            self._ended = False
            written = self.transport.queue.written
            unsent = [item for end, item in self._flight if end > written]
            client._ended(self.transport.protocol.close_exc(), unsent)

    def _on_ping(self, data: bytes) -> None:
        self._client._call("on_ping", data)

    def _on_pong(self, data: bytes) -> None:
        self._client._call("on_pong", data)

    def _on_drain(self) -> None:
        if self.transport.write_error is not None:
            return
        self._client._full = True
        self.trim()

    def _on_end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._ended = True
        self._deliver()


def _written(flight: List[Tuple[int, Item]], written: int) -> int:
    """How many of the first entries end at *written* or before; they are in order."""
    low, high = 0, len(flight)
    while low < high:
        middle = (low + high) // 2
        if flight[middle][0] <= written:
            low = middle + 1
        else:
            high = middle
    return low


def _ignore(message: Message) -> None:
    """For a client without ``on_message``."""
