"""Proxies: which one to use, and how to get through it.

HTTP proxies by CONNECT (RFC 9110, 9.3.6), SOCKS5 (RFC 1928, RFC 1929), SOCKS4 and SOCKS4a. An
``https://`` proxy is an HTTP proxy behind TLS, which is the opening's business, as are the
connection to the proxy and another one when it wants authentication.

The generators here talk to a proxy over a stream; they yield ``steps.Wait`` where they would block.
"""

from __future__ import annotations

import os
import socket
import sys

from ..exceptions import InvalidMessage, InvalidProxy, InvalidProxyMessage, ProxyError
from ..sansio.http11 import Request, Response
from ..sansio.uri import URI, DestinationRefused, Proxy, parse_proxy
from .exchange import ask, receive_some, send_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..sansio.response import ResponseParser
    from .resolver import Address
    from .steps import Steps
    from .streams import Stream

# RFC 1928, 6
_SOCKS5_REPLIES = {
    1: "general failure",
    2: "connection not allowed by its rules",
    3: "network unreachable",
    4: "host unreachable",
    5: "connection refused",
    6: "TTL expired",
    7: "command not supported",
    8: "address type not supported",
}
_SOCKS4_REPLIES = {
    91: "request rejected or failed",
    92: "it can't reach identd on this machine",
    93: "identd says that the user is another one",
}


# -- which proxy --


def choose_proxy(uri: URI) -> Proxy | None:
    """The proxy for *uri* that the environment asks for, or the settings of the system.

    ``wss_proxy`` or ``https_proxy`` for wss URLs, ``ws_proxy`` or ``http_proxy`` for ws URLs, then
    ``all_proxy``, each in lower or upper case; ``no_proxy`` names exceptions. Without any of
    these, what Windows or macOS is set to.

    Raises:
        InvalidProxy: if it isn't valid.
    """
    # A variable comes before the settings of the system, with its own exceptions.
    name, text = proxy_variable(uri)
    source = f"the variable {name} of the environment"
    if text:
        _, exceptions = _variable("no_proxy")
        excluded = is_excluded(uri.host, uri.port, exceptions)
    elif asks_system():
        source = "the settings of the system"
        text, excluded = _system_proxy(uri)
    if not text or excluded:
        return None
    try:
        return parse_proxy(text)
    except InvalidProxy as exc:
        raise InvalidProxy(exc.proxy, f"{exc.problem} (it comes from {source})") from None


def proxy_variable(uri: URI) -> tuple[str, str]:
    """The variable that names a proxy for *uri*, and its value; empty if there is none."""
    found = (_variable(f"{name}_proxy") for name in _names(uri))
    return next(filter(any, found), ("", ""))


def _names(uri: URI) -> tuple[str, ...]:
    return ("wss", "https", "all") if uri.secure else ("ws", "http", "all")


def _variable(name: str) -> tuple[str, str]:
    """An environment variable in lower or upper case, the former first: its name and value."""
    for spelling in (name, name.upper()):
        value = os.environ.get(spelling, "").strip()
        if value:
            return spelling, value
        if name == "http_proxy" and "REQUEST_METHOD" in os.environ:
            break  # in a CGI script, HTTP_PROXY is a header of the request: CVE-2016-5385
    return "", ""


def asks_system() -> bool:
    """Whether ``choose_proxy`` may ask the system's settings, and so may take a while."""
    return sys.platform in ("win32", "darwin")


def _system_proxy(uri: URI) -> tuple[str, bool]:
    """The proxy that Windows or macOS is set to, and whether the host is an exception."""
    from urllib.request import getproxies, proxy_bypass  # it knows these systems

    proxies = getproxies()
    text = next((proxies[name] for name in _names(uri) if proxies.get(name)), "")
    if not text and proxies.get("socks"):
        # The schemes that it gives it tell nothing. Windows' own client speaks SOCKS4.
        scheme = "socks4" if sys.platform == "win32" else "socks5h"
        text = f"{scheme}://{proxies['socks'].rpartition('://')[2]}"
    host = f"[{uri.host}]" if ":" in uri.host else uri.host
    return text, bool(text and proxy_bypass(host))


def is_excluded(host: str, port: int, no_proxy: str) -> bool:
    """Whether *no_proxy* excepts *host*.

    It is a list with commas or spaces: ``*`` for everything; names, which stand for their
    subdomains too (with or without a leading dot or ``*.``); addresses and networks
    (``10.0.0.0/8``); each optionally with ``:port``.
    """
    host = host.rstrip(".").lower()
    entries = no_proxy.lower().replace(",", " ").split()
    return any(_entry_matches(entry, host, port) for entry in entries)


def _entry_matches(entry: str, host: str, port: int) -> bool:
    # Only brackets or a single colon tell a port from an IPv6 address: [::1]:80, host:80, but ::1.
    if entry.startswith("["):
        entry, _, rest = entry[1:].partition("]")
        wanted = rest[1:] if rest.startswith(":") else ""
        entry += rest if rest.startswith("/") else ""
    elif entry.count(":") == 1:
        entry, _, wanted = entry.partition(":")
    else:
        wanted = ""
    if wanted and wanted != str(port):
        return False
    if entry == "*" or _in_network(host, entry):
        return True
    name = entry.lstrip("*").strip(".")
    if not name or _packed(host):  # an address has no subdomains
        return False
    return host == name or host.endswith("." + name)


def _in_network(host: str, network: str) -> bool:
    """Whether *host* is an address in *network*, an address with or without ``/bits``."""
    base, slash, bits = network.partition("/")
    address, first = _packed(host), _packed(base)
    if not address or len(address) != len(first):
        return False
    width = 8 * len(first)
    if slash and not (bits.isascii() and bits.isdigit() and int(bits) <= width):
        return False
    # Shifted by its host bits, what is left of an address is its network.
    shift = width - int(bits) if slash else 0
    return int.from_bytes(address, "big") >> shift == int.from_bytes(first, "big") >> shift


def _packed(text: str) -> bytes:
    """An IP address as bytes, without its zone; none if it isn't one."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            return socket.inet_pton(family, text.partition("%")[0])
        except (OSError, ValueError):
            continue
    return b""


# -- through the proxy --


def connect_http(
    stream: Stream, parser: ResponseParser, target: str, headers: list[tuple[str, str]]
) -> Steps[Response]:
    """Ask an HTTP proxy to connect to *target* (RFC 9110, 9.3.6), with *headers* besides ``Host``.

    Returns:
        The head of its answer. If the status is a 2xx one, the stream leads to *target*.

    Raises:
        InvalidProxyMessage: if the answer isn't HTTP.
    """
    request = Request("CONNECT", target, [("Host", target), *headers])
    try:
        response = yield from ask(stream, request.serialize(), parser)
    except InvalidMessage as exc:
        raise InvalidProxyMessage(f"the proxy's answer to CONNECT: {exc}") from exc
    if 200 <= response.status_code < 300 and parser.rest:
        # The server waits for us to speak, so this can only be the proxy's.
        raise InvalidProxyMessage("the proxy sent data behind its answer to CONNECT")
    return response


def connect_socks(
    stream: Stream, proxy: Proxy, host: str, port: int, address: Address | None
) -> Steps[None]:
    """Ask a SOCKS proxy to connect, to *address* or to *host*, in the version of its scheme."""
    connect = connect_socks4 if proxy.scheme.startswith("socks4") else connect_socks5
    return connect(stream, proxy, host, port, address)


def connect_socks5(
    stream: Stream, proxy: Proxy, host: str, port: int, address: Address | None
) -> Steps[None]:
    """Ask a SOCKS5 proxy to connect (RFC 1928): to *address* if there is one, else to *host*.

    Raises:
        ProxyError: if it refuses.
        InvalidProxyMessage: if it doesn't speak SOCKS5.
    """
    # Methods: 0 is no authentication, 2 is user and password (RFC 1929).
    methods = b"\0" if proxy.username is None else b"\0\2"
    version, method = yield from _ask(stream, bytes((5, len(methods))) + methods, 2)
    if version != 5:
        raise InvalidProxyMessage(f"expected an answer of SOCKS version 5, not {version}")
    # 255 says that the proxy takes none of them.
    if method == 2 and proxy.username is not None:
        yield from _authenticate(stream, proxy)
    elif method != 0:
        wants = "credentials" if proxy.username is None else "another way to authenticate"
        raise ProxyError(f"the SOCKS5 proxy wants {wants}")
    # Version, CONNECT and a reserved byte, the destination and its port (RFC 1928, 4).
    command = b"\5\1\0" + _socks5_destination(host, address) + port.to_bytes(2, "big")
    version, reply, _, kind = yield from _ask(stream, command, 4)
    if version != 5:
        raise InvalidProxyMessage(f"expected an answer of SOCKS version 5, not {version}")
    if reply != 0:
        meaning = _SOCKS5_REPLIES.get(reply, f"reply {reply}")
        raise DestinationRefused(f"the SOCKS5 proxy refused: {meaning}")
    size = {1: 4, 4: 16}.get(kind)
    # A name, behind the length of it.
    if kind == 3:
        size = (yield from _ask(stream, b"", 1))[0]
    if size is None:
        raise InvalidProxyMessage(f"the SOCKS5 proxy sent an address of unknown type {kind}")
    yield from _ask(stream, b"", size + 2)  # where it connects from: of no use


def _authenticate(stream: Stream, proxy: Proxy) -> Steps[None]:
    """Send the user and the password, each behind its length (RFC 1929)."""
    user, password = (proxy.username or "").encode(), (proxy.password or "").encode()
    message = bytes((1, len(user))) + user + bytes((len(password),)) + password
    _, status = yield from _ask(stream, message, 2)
    if status != 0:
        raise ProxyError("the SOCKS5 proxy refused the user or the password")


def _socks5_destination(host: str, address: Address | None) -> bytes:
    """The type of the address, and the address (RFC 1928, 5)."""
    packed = _packed(host if address is None else address[4][0])
    if packed:
        return (b"\1" if len(packed) == 4 else b"\4") + packed
    name = host.encode("ascii")
    return bytes((3, len(name))) + name


def connect_socks4(
    stream: Stream, proxy: Proxy, host: str, port: int, address: Address | None
) -> Steps[None]:
    """Ask a SOCKS4 proxy to connect to *address*, or a SOCKS4a proxy to *host*.

    Raises:
        ProxyError: if it refuses, or the address is an IPv6 one.
        InvalidProxyMessage: if it doesn't speak SOCKS4.
    """
    packed = _packed(host if address is None else address[4][0])
    if len(packed) == 16:
        raise ProxyError("SOCKS4 knows IPv4 addresses only; use socks5")
    # An impossible address says that the name follows.
    name = b"" if packed else host.encode("ascii") + b"\0"
    user = (proxy.username or "").encode() + b"\0"
    # Version, CONNECT, port, address.
    head = b"\4\1" + port.to_bytes(2, "big") + (packed or b"\0\0\0\1")
    answer = yield from _ask(stream, head + user + name, 8)
    if answer[0] not in (0, 4):  # 0 by the protocol, 4 by some proxies
        raise InvalidProxyMessage(f"expected an answer of SOCKS version 4, not {answer[0]}")
    if answer[1] != 90:
        meaning = _SOCKS4_REPLIES.get(answer[1], f"reply {answer[1]}")
        raise DestinationRefused(f"the SOCKS4 proxy refused: {meaning}")


def _ask(stream: Stream, message: bytes, size: int) -> Steps[bytes]:
    """The first *size* bytes of the answer to *message*."""
    send_error = yield from send_all(stream, message)
    data = b""
    while len(data) < size:
        some = yield from receive_some(stream, size - len(data))
        if not some:
            exc = InvalidProxyMessage("the proxy closed the connection in the middle of SOCKS")
            exc.hung_up = True
            raise send_error or exc
        data += some
    return data
