"""Proxies: their URL, as ``proxy=`` and the environment have it, and what one may refuse."""

from __future__ import annotations

from collections import namedtuple

from ..exceptions import InvalidProxy, ProxyError
from .redaction import redacted_uri
from .uri import URIProblem, parse_authority, shown_address

_PORTS = {
    "http": 80,
    "https": 443,
    **dict.fromkeys(("socks4", "socks4a", "socks5", "socks5h"), 1080),
}


class DestinationRefused(ProxyError):
    """A SOCKS proxy couldn't connect to this address, but perhaps can to another one."""


class Proxy(namedtuple("Proxy", "scheme host port username password")):
    """A proxy. ``str()`` and ``repr()`` hide the user and the password.

    ``scheme`` is http, https, socks4, socks4a, socks5 or socks5h: with the last and with socks4a,
    the proxy looks names up.
    """

    __slots__ = ()

    scheme: str
    host: str
    port: int
    username: str | None
    password: str | None

    def __str__(self) -> str:
        userinfo = "" if self.username is None else "***@"
        return f"{self.scheme}://{userinfo}{shown_address((self.host, self.port))}"

    def __repr__(self) -> str:
        return f"<Proxy {self}>"

    @property
    def resolves_names(self) -> bool:
        """Whether the proxy looks the server's name up, rather than we."""
        return self.scheme not in ("socks4", "socks5")


def parse_proxy(text: object) -> Proxy:
    """Parse the URL of a proxy; without a scheme, it is an HTTP proxy.

    ``socks``, which desktops put into ``all_proxy``, is taken for ``socks5h``.

    Raises:
        InvalidProxy: if it isn't valid, or the scheme isn't known.
        TypeError: if *text* isn't a ``str``.
    """
    if not isinstance(text, str):
        raise TypeError(f"proxy is a URL, True for the environment's or None, not {text!r}")
    scheme, found, rest = text.strip().partition("://")
    if not found:
        scheme, rest = "http", scheme
    # Of the socks schemes, the one that keeps the name from the local resolver.
    scheme = "socks5h" if scheme.lower() == "socks" else scheme.lower()
    if scheme not in _PORTS:
        known = ", ".join(sorted(_PORTS))
        raise InvalidProxy(redacted_uri(text), f"its scheme isn't one of {known}")
    authority, _, path = rest.partition("/")
    # No problem quotes the URL's parts, any of which may be a password.
    try:
        if path:
            raise URIProblem("it has a path")
        username, password, host, port = parse_authority(authority)
        longest = max(len((part or "").encode()) for part in (username, password))
        if scheme.startswith("socks") and longest > 255:  # RFC 1929, 2
            raise URIProblem("its user or password exceeds 255 bytes")
        if scheme.startswith("http") and ":" in (username or ""):
            raise URIProblem("its user has a colon, which Basic authentication can't send")
    except (URIProblem, UnicodeError) as exc:
        raise InvalidProxy(redacted_uri(text), str(exc)) from None
    return Proxy(scheme, host, port or _PORTS[scheme], username, password)
