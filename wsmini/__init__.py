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
from .sansio.extensions import Extension, ExtensionOffer
from .sansio.frames import Frame
from .sansio.http11 import Headers
from .sansio.protocol import State

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ssl import SSLContext

    from .blocking.reconnect import reconnect
    from .callbacks.client import Client
    from .callbacks.loop import Loop
    from .exiting import exit_with
    from .policies import Backoff, Fixed, NoReconnect, retryable
    from .sansio.deflate import Deflate
    from .version import __version__

__all__ = [
    "Backoff", "Client", "Close", "ConcurrencyError", "Connection", "ConnectionClosed",
    "ConnectionClosedError", "ConnectionClosedOK", "Deflate", "Extension", "ExtensionOffer",
    "Fixed", "Frame", "Headers", "InvalidHandshake", "InvalidHeader", "InvalidMessage",
    "InvalidProxy", "InvalidProxyMessage", "InvalidProxyStatus", "InvalidRedirect", "InvalidState",
    "InvalidStatus", "InvalidURI", "InvalidUpgrade", "Loop", "NegotiationError", "NoReconnect",
    "PayloadTooBig", "Ping", "ProtocolError", "ProxyError", "SendBufferFull", "State",
    "TooManyRedirects", "WebSocketException", "__version__", "connect", "exit_with", "reconnect",
    "retryable", "unverified_context",
]  # fmt: skip


# Loaded when they are asked for, and not in every copy of the package.
_LATER = {
    "Client": "callbacks.client",
    "Loop": "callbacks.loop",
    **dict.fromkeys(("Backoff", "Fixed", "NoReconnect", "retryable"), "policies"),
    "Deflate": "sansio.deflate",
    "__version__": "version",
    "aio": "aio",
    "exit_with": "exiting",
    "options": "options",
    "reconnect": "blocking.reconnect",
    "testing": "testing",
}


def __getattr__(name: str) -> object:
    """Load what not all programs need, when it is asked for."""
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    try:
        module = import_module(f".{_LATER[name]}", __name__)
    except ModuleNotFoundError as exc:
        raise _explained(exc) from None
    # A submodule (aio, testing) stands for itself. What is kept here isn't asked for again.
    value = globals()[name] = getattr(module, name, module)
    return value


def _explained(exc: ModuleNotFoundError) -> ModuleNotFoundError:
    """Say which part this copy of the package lacks, if *exc* is about one; else return *exc*."""
    package, dot, part = str(exc.name).partition(f"{__name__}.")
    # A module of another package, or this package itself, is no part that was left out.
    if package or not dot:
        return exc
    return ModuleNotFoundError(f"this copy of {__name__} has no {part}", name=exc.name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def unverified_context() -> SSLContext:
    """An ``ssl.SSLContext`` that accepts any certificate: for ``connect(..., ssl=...)``.

    The connection is encrypted, but anybody can be at its other end. For a server with a private
    CA, ``ssl.create_default_context(cafile="ca.pem")`` is what you want.
    """
    from .opening.tls_context import unverified_context  # ssl is large, and ws:// doesn't need it

    return unverified_context()
