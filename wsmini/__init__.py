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
    from typing import List

    from .callbacks.client import Client
    from .callbacks.loop import Loop

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
    "reconnect",
    "retryable",
    "unverified_context",
]


# Loaded when they are asked for, and not in every copy of the package.
_LATER = {
    "Client": "callbacks.client",
    "Loop": "callbacks.loop",
    "aio": "aio",
    "testing": "testing",
}


def __getattr__(name: str) -> object:
    """The callback API and the other folders, loaded when they are asked for."""
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    try:
        module = import_module(f".{_LATER[name]}", __name__)
    except ModuleNotFoundError as exc:
        raise _explained(exc) from None
    value = globals()[name] = getattr(module, name, module)
    return value


def _explained(exc: ModuleNotFoundError) -> ImportError:
    """The same, or which part this copy lacks, if that is what couldn't be found."""
    here = f"{__name__}."
    name = exc.name or ""
    if not name.startswith(here):
        return exc
    return ImportError(f"this copy of {__name__} has no {name[len(here) :]}", name=name)


def __dir__() -> List[str]:
    return sorted({*globals(), *__all__})


def unverified_context() -> SSLContext:
    """An ``ssl.SSLContext`` that accepts any certificate: for ``connect(..., ssl=...)``.

    The connection is encrypted, but anybody can be at its other end. For a server with a private
    CA, ``ssl.create_default_context(cafile="ca.pem")`` is what you want.
    """
    from .opening.tls import unverified_context  # ssl is large, and ws:// doesn't need it

    return unverified_context()
