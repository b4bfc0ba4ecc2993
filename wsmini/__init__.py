"""wsmini: a WebSocket client on the standard library alone (RFC 6455, RFC 7692).

::

    import wsmini

    with wsmini.connect("wss://example.com/feed") as ws:
        ws.send("hello")
        for message in ws:
            print(message)
"""

from __future__ import annotations

from .blocking.connection import Connection, Ping, connect
from .blocking.reconnect import reconnect
from .exceptions import (
    Close,
    ConcurrencyError,
    ConnectionClosed,
    ConnectionClosedError,
    ConnectionClosedOK,
    InvalidHandshake,
    InvalidHeader,
    InvalidMessage,
    InvalidProxy,
    InvalidProxyMessage,
    InvalidProxyStatus,
    InvalidRedirect,
    InvalidState,
    InvalidStatus,
    InvalidUpgrade,
    InvalidURI,
    NegotiationError,
    PayloadTooBig,
    ProtocolError,
    ProxyError,
    SendBufferFull,
    TooManyRedirects,
    WebSocketException,
)
from .policies import Backoff, Fixed, NoReconnect, retryable
from .sansio.deflate import Deflate
from .sansio.extensions import Extension, ExtensionOffer
from .sansio.frames import Frame
from .sansio.http11 import Headers
from .sansio.protocol import State
from .version import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ssl import SSLContext

    from .callbacks.client import Client
    from .callbacks.loop import Loop
    from .exiting import exit_with

__all__ = [
    "Backoff",
    "Client",
    "Close",
    "ConcurrencyError",
    "Connection",
    "ConnectionClosed",
    "ConnectionClosedError",
    "ConnectionClosedOK",
    "Deflate",
    "Extension",
    "ExtensionOffer",
    "Fixed",
    "Frame",
    "Headers",
    "InvalidHandshake",
    "InvalidHeader",
    "InvalidMessage",
    "InvalidProxy",
    "InvalidProxyMessage",
    "InvalidProxyStatus",
    "InvalidRedirect",
    "InvalidState",
    "InvalidStatus",
    "InvalidURI",
    "InvalidUpgrade",
    "Loop",
    "NegotiationError",
    "NoReconnect",
    "PayloadTooBig",
    "Ping",
    "ProtocolError",
    "ProxyError",
    "SendBufferFull",
    "State",
    "TooManyRedirects",
    "WebSocketException",
    "__version__",
    "connect",
    "exit_with",
    "reconnect",
    "retryable",
    "unverified_context",
]


def __getattr__(name: str) -> object:
    """Load what not all programs need, when it is asked for: the callback API is a quarter."""
    if name == "exit_with":
        from .exiting import exit_with

        globals()[name] = exit_with
    elif name in ("Client", "Loop"):
        from .callbacks import client, loop

        globals().update(Client=client.Client, Loop=loop.Loop)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def unverified_context() -> SSLContext:
    """An ``ssl.SSLContext`` that accepts any certificate: for ``connect(..., ssl=...)``.

    The connection is encrypted, but anybody can be at its other end. For a server with a private
    CA, ``ssl.create_default_context(cafile="ca.pem")`` is what you want.
    """
    from .opening.tls_context import unverified_context  # ssl is large, and ws:// doesn't need it

    return unverified_context()
