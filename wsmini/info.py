"""The facts about an open connection, which all front ends share."""

from __future__ import annotations

import os

from .interrupts import pass_on_handlers

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    import ssl
    from typing import Any, Callable, Sequence

    from .sansio.extensions import Extension
    from .sansio.http11 import Headers, Request, Response
    from .sansio.protocol import ClientProtocol, State


class ConnectionInfo:
    """A connection's attributes. None of them is asked for while messages come and go.

    Args:
        opened: the ``Opened`` of ``opening``, a folder that no type here may name.
    """

    _called = "wsmini"
    _protocol: ClientProtocol  # which the connection sets
    _closed_by_program = False  # whether close() was called: then a loop over connections ends

    def __init__(self, opened: Any) -> None:
        self.request: Request = opened.request
        self.response: Response = opened.response
        self.subprotocol: str | None = opened.subprotocol
        self.timings: dict[str, float] = opened.timings
        self.ssl_object: ssl.SSLObject | None = opened.ssl_object
        self._sock: socket.socket = opened.stream.sock
        self.local_address: Any = address_of(self._sock.getsockname)
        self.remote_address: Any = address_of(self._sock.getpeername)
        self._id = ""

    @property
    def id(self) -> str:
        """16 hexadecimal digits that tell this connection from others, in logs."""
        if not self._id:
            self._id = os.urandom(8).hex()
        return self._id

    @property
    def state(self) -> State:
        """A ``State``: ``OPEN``, ``CLOSING`` or ``CLOSED``."""
        return self._protocol.state

    @property
    def close_code(self) -> int | None:
        """The close code received, 1006 if none was; ``None`` while not closed."""
        return self._protocol.close_code

    @property
    def close_reason(self) -> str | None:
        """The close reason received; ``None`` while not closed."""
        return self._protocol.close_reason

    @property
    def request_headers(self) -> Headers:
        """The headers of the handshake's request."""
        return self.request.headers

    @property
    def response_headers(self) -> Headers:
        """The headers of the handshake's response."""
        return self.response.headers

    @property
    def extensions(self) -> Sequence[Extension]:
        """The extensions negotiated, in the order of the response."""
        return self._protocol.extensions

    @property
    def latency(self) -> float:
        """The round trip of the last ping that was answered, in seconds; 0.0 before."""
        return self._protocol.latency

    def fileno(self) -> int:
        """The socket's file descriptor, -1 once closed.

        Readable doesn't mean that ``recv`` won't wait, nor the reverse: messages may be buffered.
        With asyncio, it is the event loop's to watch.
        """
        return self._sock.fileno()

    def __repr__(self) -> str:
        from .sansio.uri import shown_address  # loaded with the first opening, not before

        address = shown_address(self.remote_address) if self.remote_address else "?"
        return f"<{self._called}.Connection {self.id} to {address}, {self.state}>"


def address_of(ask: Callable[[], Any]) -> Any:
    """Ask a socket for an address; ``None`` if the connection is gone already."""
    try:
        return ask()
    except OSError as exc:
        pass_on_handlers(exc)
        return None  # receiving will tell
