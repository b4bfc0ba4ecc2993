"""The opening handshake, sans I/O: what to ask for and how to judge the answer (RFC 6455, 4.1).

Strict where the RFC says MUST; how real servers write HTTP is the business of ``response``.
"""

from __future__ import annotations

import binascii
import os
import sys

from ..exceptions import InvalidStatus, InvalidUpgrade, NegotiationError
from .extensions import Extension, ExtensionOffer, format_extensions, negotiate
from .http11 import Headers, Request, Response, is_token, trusted_headers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Awaitable, Callable, Iterable, Mapping, Sequence

    from .uri import URI

    HeaderItems = (
        Mapping[str, str | Sequence[str] | None] | Iterable[tuple[str, str | None]] | Headers | None
    )
    # Asked for each opening; a coroutine only by asyncio's API.
    HeaderSource = HeaderItems | Callable[[], HeaderItems | Awaitable[HeaderItems]]

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

_sha1: Callable[[bytes], Any] | None = None  # what accept_key() has found
# Understood from Python 3.9 on.
_NOT_FOR_SECURITY: dict[str, Any] = {"usedforsecurity": False} if sys.version_info >= (3, 9) else {}

# The handshake depends on these; the options named here say the same safely.
_RESERVED = {
    "upgrade": "wsmini sets it",
    "connection": "wsmini sets it",
    "sec-websocket-key": "wsmini sets it",
    "sec-websocket-version": "wsmini sets it",
    "sec-websocket-accept": "it belongs to the response",
    "sec-websocket-extensions": "use extensions or compression",
    "sec-websocket-protocol": "use subprotocols",
    "content-length": "the request has no body",
    "transfer-encoding": "the request has no body",
}


def make_key() -> str:
    """A fresh value for ``Sec-WebSocket-Key``: 16 random bytes in base64."""
    return binascii.b2a_base64(os.urandom(16), newline=False).decode()


def accept_key(key: str) -> str:
    """The ``Sec-WebSocket-Accept`` that answers *key* (RFC 6455, 4.2.2)."""
    global _sha1
    if _sha1 is None:
        _sha1 = _find_sha1()
    return binascii.b2a_base64(_sha1(key.encode() + _GUID).digest(), newline=False).decode()


def _find_sha1() -> Callable[[bytes], Any]:
    """The function that makes SHA-1 hashes here; asked for once, as trying it may raise."""
    try:
        # hashlib takes OpenSSL with it: 5 ms and 600 KiB.
        from _sha1 import sha1  # type: ignore[import-not-found]

        sha1(b"")
        return sha1  # type: ignore[no-any-return]
    except (ImportError, ValueError):
        import hashlib
    # It is no security measure here; where policy forbids it for those, it must be said.
    return lambda data: hashlib.sha1(data, **_NOT_FOR_SECURITY)


def user_headers(headers: HeaderItems) -> list[tuple[str, str | None]]:
    """The pairs of ``additional_headers``; a value of ``None`` removes a default header.

    Raises:
        TypeError: if it isn't a mapping or an iterable of pairs of strings.
        ValueError: if a name or a value isn't valid in HTTP, or the handshake depends on it.
    """
    pairs: list[tuple[str, str | None]] = []
    checked = Headers()
    for name, values in _items(headers):
        # The name of a header to remove is checked as well.
        for value in values or [""]:
            checked.add(name, value)
        reason = _RESERVED.get(name.lower())
        if reason is not None:
            raise ValueError(f"{name} can't be set with additional_headers: {reason}")
        pairs += [(name, value) for value in values or (None,)]
    if len(checked.get_all("Host")) > 1:  # Servers must refuse that: RFC 9112, 3.2.
        raise ValueError("additional_headers has more than one Host")
    return pairs


def _items(headers: HeaderItems) -> Iterable[tuple[str, Sequence[str]]]:
    """The names in *headers*, each with its values: none to remove it."""
    if headers is None:
        return
    items: Iterable[tuple[str, str | Sequence[str] | None]]
    items = headers.items() if hasattr(headers, "items") else headers
    if isinstance(headers, (str, bytes)) or not hasattr(items, "__iter__"):
        kind = type(headers).__name__
        raise TypeError(f"additional_headers is a mapping or pairs of name and value, not {kind}")
    for pair in items:
        if isinstance(pair, str) or len(pair) != 2:
            raise TypeError("additional_headers is a mapping or pairs of name and value")
        name, values = pair
        if not isinstance(values, (list, tuple)):
            values = [] if values is None else [values]  # which Headers checks
        yield name, values


def check_subprotocols(subprotocols: Sequence[str]) -> list[str]:
    """The subprotocols to ask for.

    Raises:
        TypeError: if it is a ``str``, whose letters would be taken for subprotocols, or one isn't.
        ValueError: if one isn't an HTTP token, or comes twice (RFC 6455, 4.1).
    """
    if isinstance(subprotocols, str):
        raise TypeError("subprotocols is a sequence of strings, not a str: write [...] around it")
    wanted = list(subprotocols)
    for subprotocol in wanted:
        if not isinstance(subprotocol, str):
            raise TypeError(f"a subprotocol is a str, not {type(subprotocol).__name__}")
        if not is_token(subprotocol):
            raise ValueError(f"a subprotocol is an HTTP token, which {subprotocol!r} isn't")
    if len(set(wanted)) != len(wanted):
        raise ValueError("a subprotocol is asked for twice")
    return wanted


def build_request(
    uri: URI,
    key: str,
    *,
    origin: str | None = None,
    user_agent: str | None = None,
    subprotocols: Sequence[str] = (),
    offers: Sequence[ExtensionOffer] = (),
    additional: Iterable[tuple[str, str | None]] = (),
) -> Request:
    """The request that opens the connection (RFC 6455, 4.1).

    *additional* replaces headers of the same name, the first time in its place, and adds the rest
    in its order.
    """
    headers = trusted_headers([
        "Host", uri.authority, "Upgrade", "websocket", "Connection", "Upgrade",
        "Sec-WebSocket-Key", key, "Sec-WebSocket-Version", "13",
    ])  # fmt: skip
    if offers:
        extensions = format_extensions([(offer.name, offer.offer()) for offer in offers])
        headers.add("Sec-WebSocket-Extensions", extensions)
    if subprotocols:
        headers.add("Sec-WebSocket-Protocol", ", ".join(subprotocols))
    if origin is not None:
        headers.add("Origin", origin)
    if user_agent is not None:
        headers.add("User-Agent", user_agent)
    replaced = set()
    for name, value in additional:
        # The first header of a name takes the place of the default, others of that name are added:
        # so repeated headers of the user stay repeated.
        first = name.lower() not in replaced
        replaced.add(name.lower())
        if value is None:
            if name in headers:
                del headers[name]
        elif first:
            headers[name] = value
        else:
            headers.add(name, value)
    return Request("GET", uri.resource_name, headers.copy())  # of just the size


def check_response(
    response: Response, key: str, offers: Sequence[ExtensionOffer], subprotocols: Sequence[str]
) -> tuple[list[Extension], str | None]:
    """The extensions and the subprotocol that the server chose.

    Raises:
        InvalidStatus: if the status isn't 101.
        InvalidUpgrade: if ``Upgrade``, ``Connection`` or ``Sec-WebSocket-Accept`` isn't right.
        NegotiationError: if the server chose what wasn't offered.
    """
    if response.status_code != 101:
        raise InvalidStatus(response)
    # Of HTTP/1.0, too, which has no upgrades (RFC 9110, 7.8): some servers say that nevertheless.
    headers = response.headers
    for name, wanted in (("Upgrade", "websocket"), ("Connection", "upgrade")):
        if wanted not in tokens(headers.get_all(name)):
            raise InvalidUpgrade(name, headers.get(name))
    # One value, and the right one: RFC 6455, 4.1.
    if headers.get("Sec-WebSocket-Accept") != accept_key(key):
        raise InvalidUpgrade("Sec-WebSocket-Accept", headers.get("Sec-WebSocket-Accept"))
    extensions = negotiate(headers.get_all("Sec-WebSocket-Extensions"), offers)
    return extensions, _chosen_subprotocol(headers, subprotocols)


def _chosen_subprotocol(headers: Headers, wanted: Sequence[str]) -> str | None:
    """The subprotocol chosen, or ``None``: a server may choose none (RFC 6455, 4.2.2)."""
    name = "Sec-WebSocket-Protocol"
    values = [value for value in headers.get_all(name) if value]  # an empty one means none, too
    if not values:
        return None
    if len(values) > 1:
        raise NegotiationError(name, ", ".join(values), "the server chose more than one")
    if values[0] not in wanted:
        asked = f"only {', '.join(wanted)} was asked for" if wanted else "none was asked for"
        raise NegotiationError(name, values[0], asked)
    return values[0]


def tokens(values: Sequence[str]) -> list[str]:
    """The elements of a comma-separated header, in lower case where they are ASCII."""
    found = [token.strip(" \t") for value in values for token in value.split(",")]
    # Only that has no case: lower() would make a plain k of the Kelvin sign.
    return [token.lower() if token.isascii() else token for token in found]
