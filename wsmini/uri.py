"""WebSocket URLs (RFC 6455, 3): parsed, shown without secrets, and resolved for redirects.

IRIs are accepted: a host that isn't ASCII goes through the standard library's ``idna`` codec, a
path or query that isn't becomes percent-encoded UTF-8 (RFC 3987, 3.1). What goes on the wire is
ASCII. Problems are told without quoting the URL's parts, since any of them may be a password that
wasn't percent-encoded.
"""

from __future__ import annotations

import re
from collections import namedtuple
from functools import lru_cache
from sys import intern

from .exceptions import InvalidURI

_PORTS = {False: 80, True: 443}
_SCHEMES = {"ws": False, "wss": True}
_UNIX_SCHEMES = {"ws+unix": False, "wss+unix": True}
_REDIRECT_SCHEMES = {"ws": False, "http": False, "wss": True, "https": True}

_CODEC = "idna"

# RFC 3986, appendix B, once the fragment is gone.
_PARTS = re.compile(r"(?:([A-Za-z][A-Za-z0-9+.-]*):)?(?://([^/?]*))?([^?]*)(?:\?(.*))?", re.DOTALL)
_FORBIDDEN = re.compile("[\x00-\x20\x7f-\x9f\ud800-\udfff]")
_HOST_PORT = re.compile(r"(\[[^\]]*\]|[^:\[\]]*)(?::(.*))?", re.DOTALL)
_PORT = re.compile(r"[0-9]{1,5}")
# Names that DNS or a hosts file can hold, underscores included; one dot may end them.
_NAME = re.compile(r"(?:[a-z0-9_-]{1,63}\.)*[a-z0-9_-]{1,63}\.?")
_MAX_NAME = 253
# Most programs never need these: re compiles them for those that do.
_SCHEME = r"[A-Za-z][A-Za-z0-9+.-]*://"
_CONTROL = "[\x00-\x1f\x7f-\x9f]"
_ZONE = r"[A-Za-z0-9._~-]+"
_IPV6_GROUP = r"[0-9a-f]{1,4}"
_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IPV4 = rf"{_OCTET}(?:\.{_OCTET}){{3}}"
_ESCAPES = rb"%([0-9A-Fa-f]{2})"

_UNRESERVED = r"A-Za-z0-9._~\-"
_PATH_SAFE = "/:@!$&'()*+,;=%"
_QUERY_SAFE = _PATH_SAFE + "?"
_SOCKET_SAFE = "/@!$&'()*+,;="


class Authority(namedtuple("Authority", "username password host port")):
    """The parts of ``user:password@host:port``; ``None`` for those that aren't there.

    The user and the password are percent-decoded. The host is ASCII in lower case, an IPv6
    address without brackets but with its zone. (Proxy URLs have one, too.)
    """

    __slots__ = ()

    username: str | None
    password: str | None
    host: str
    port: int | None

    def __repr__(self) -> str:
        return f"<Authority {_bracketed(self.host)} {self.port}>"


class URI(
    namedtuple(
        "URI",
        "secure host port path query username password unix_path",
        defaults=("/", None, None, None, None),
    )
):
    """A WebSocket URL in its parts.

    Attributes:
        secure: whether the connection goes over TLS.
        host: ASCII, in lower case; IPv6 addresses without brackets, with their zone.
        port: 1 to 65535, the scheme's default if the URL has none.
        path: percent-encoded, never empty.
        query: percent-encoded, without ``?``; ``None`` if there is no ``?``.
        username: percent-decoded, or ``None``.
        password: percent-decoded, or ``None``.
        unix_path: the Unix socket to connect to, or ``None``.

    ``str()`` and ``repr()`` show ``***`` for the user and the password.
    """

    __slots__ = ()

    secure: bool
    host: str
    port: int
    path: str
    query: str | None
    username: str | None
    password: str | None
    unix_path: str | None

    @property
    def scheme(self) -> str:
        """``"ws"`` or ``"wss"``, over a Unix socket as well."""
        return "wss" if self.secure else "ws"

    @property
    def authority(self) -> str:
        """The ``Host`` header: ``host``, or ``host:port`` if the port isn't the default one."""
        # A zone means something on this machine only (RFC 6874, 4).
        return self._authority(self.host.partition("%")[0])

    @property
    def resource_name(self) -> str:
        """What to request: the path, and ``?`` and the query unless it is empty (RFC 6455, 3)."""
        return f"{self.path}?{self.query}" if self.query else self.path

    @property
    def origin(self) -> tuple[str, str, int]:
        """Scheme, host and port: credentials and cookies stay where these are equal."""
        if self.unix_path is not None:  # The TCP port 80 of localhost is somebody else.
            return f"{self.scheme}+unix", self.unix_path, self.port
        return self.scheme, self.host, self.port

    def __str__(self) -> str:
        query = "" if self.query is None else f"?{self.query}"
        if self.unix_path is not None:
            socket_path = quote(self.unix_path, _SOCKET_SAFE)
            return f"{self.scheme}+unix:{socket_path}:{self.path}{query}"
        userinfo = "" if self.username is None else "***@"
        authority = self._authority(self.host.replace("%", "%25"))
        return f"{self.scheme}://{userinfo}{authority}{self.path}{query}"

    def __repr__(self) -> str:
        return f"<URI {self}>"

    def _authority(self, host: str) -> str:
        host = _bracketed(host)
        # Connections to one server share it, and each keeps it in the Host header.
        return intern(host if self.port == _PORTS[self.secure] else f"{host}:{self.port}")


def parse_uri(text: str) -> URI:
    """Parse a ``ws:``, ``wss:``, ``ws+unix:`` or ``wss+unix:`` URL.

    ``ws+unix:/run/app.sock:/chat?x=1`` asks for ``/chat?x=1`` through the socket
    ``/run/app.sock``; a ``:``, ``?`` or ``%`` in the socket's path has to be percent-encoded.

    Raises:
        InvalidURI: for anything else, and for fragments, spaces, control characters, port 0.
        TypeError: if *text* isn't a ``str``.
    """
    if not isinstance(text, str):
        raise TypeError(f"a URL must be a str, not {type(text).__name__}")
    try:
        return _parse(text)
    except ValueError as exc:
        raise InvalidURI(redacted_uri(text), str(exc)) from None


def join(base: URI, reference: str) -> URI:
    """Resolve the ``Location`` of a redirect against the URL that was asked for.

    RFC 3986, 5.2, where ``http`` means ``ws`` and ``https`` means ``wss``. A fragment is dropped.
    The user and the password are kept within one origin only. Whether to follow (from ``wss`` to
    ``ws``, say) is the caller's to decide; Unix sockets can't be reached from elsewhere.

    Raises:
        InvalidURI: if *reference* isn't a URL, or one that no WebSocket can be opened to.
    """
    text = reference.partition("#")[0]
    try:
        _check_characters(text)
        return _resolve(base, *_split(text))
    except ValueError as exc:
        raise InvalidURI(redacted_uri(reference), str(exc)) from None


def parse_authority(text: str) -> Authority:
    """Parse ``user:password@host:port``, of which only the host is needed (RFC 3986, 3.2).

    The last ``@`` counts, and a ``%`` that starts no escape stands for itself: passwords get
    pasted as they are. An empty port means none, as in RFC 3986.

    Raises:
        ValueError: with the problem, which doesn't quote *text*.
    """
    if "\\" in text:  # Some clients read it as a slash, and would find another host.
        raise ValueError("it has a backslash before the path; write \\ as %5C")
    userinfo, _, host_port = text.rpartition("@")
    match = _HOST_PORT.fullmatch(host_port)
    if match is None:
        raise ValueError("its host has misplaced brackets")
    if not host_port.startswith("[") and host_port.count(":") > 1:
        raise ValueError("it has several colons in its host; an IPv6 address needs brackets")
    username, password = _parse_userinfo(userinfo)
    return Authority(username, password, _parse_host(match[1]), _parse_port(match[2]))


def redacted_uri(text: str) -> str:
    """*text*, a URL good or bad, with ``***`` for what may be a user and a password.

    All up to the last ``@`` is hidden, wherever that is: in a password, ``/``, ``?`` and ``#`` are
    easily left unescaped.
    """
    place = text.rfind("@")
    if place < 0:
        return text
    scheme = re.match(_SCHEME, text)
    return f"{scheme[0] if scheme else ''}***{text[place:]}"


def quote(text: str, safe: str = "") -> str:
    """Percent-encode the UTF-8 of *text*, but for unreserved characters (RFC 3986, 2.3).

    Args:
        text: the text, without lone surrogates.
        safe: more ASCII characters to leave alone. With ``%`` among them, what looks like an
            escape is left alone, so that quoting twice changes nothing.
    """
    return _unsafe(safe).sub(_escape, text)


@lru_cache(maxsize=16)
def _unsafe(safe: str) -> re.Pattern[str]:
    """What ``quote`` encodes."""
    kept = f"[^{_UNRESERVED}{re.escape(safe)}]"
    return re.compile(f"(?:{kept}|%(?![0-9A-Fa-f]{{2}}))+" if "%" in safe else f"{kept}+")


def unquote(text: str) -> str:
    """Decode percent-encoded UTF-8; a ``%`` that starts no escape stands for itself.

    Raises:
        ValueError: if the result isn't UTF-8.
    """
    if "%" not in text:
        return text
    return re.sub(_ESCAPES, lambda match: bytes([int(match[1], 16)]), text.encode()).decode()


def _escape(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match[0].encode())


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _parse(text: str) -> URI:
    _check_characters(text)
    if "#" in text:  # RFC 6455, 3
        raise ValueError("it has a fragment; write # as %23")
    scheme, authority, path, query = _split(text)
    if scheme in _UNIX_SCHEMES:
        return _parse_unix(_UNIX_SCHEMES[scheme], authority, path, query)
    if scheme not in _SCHEMES or authority is None:
        known = {"http": "; write ws://", "https": "; write wss://"}.get(scheme, "")
        raise ValueError(f"it doesn't start with ws:// or wss://{known}")
    return _build(_SCHEMES[scheme], authority, path, query)


def _check_characters(text: str) -> None:
    found = _FORBIDDEN.search(text)
    if found:
        raise ValueError(
            f"it has the character U+{ord(found[0]):04X} at offset {found.start()}; "
            "spaces and controls must be percent-encoded"
        )


def _split(text: str) -> tuple[str, str | None, str, str | None]:
    """Scheme ("" if there is none), authority, path and query."""
    match = _PARTS.fullmatch(text)
    if match is None:  # It matches any text.
        raise AssertionError("any text has parts")
    scheme, authority, path, query = match.groups()
    return (scheme or "").lower(), authority, path, query


def _build(secure: bool, authority: str, path: str, query: str | None) -> URI:
    username, password, host, port = parse_authority(authority)
    path, query = _quote_resource(path, query)
    return URI(secure, host, port or _PORTS[secure], path, query, username, password)


def _parse_unix(secure: bool, authority: str | None, path: str, query: str | None) -> URI:
    if authority:
        raise ValueError("it has a host before the path of its socket")
    socket_path, _, path = path.partition(":")
    socket_path = _unquote_part(socket_path, "the path of its socket")
    if not socket_path:
        raise ValueError("it has no path of a socket")
    if path and not path.startswith("/"):
        raise ValueError("what follows the socket's path and ':' doesn't start with '/'")
    path, query = _quote_resource(path, query)
    return URI(secure, "localhost", _PORTS[secure], path, query, unix_path=socket_path)


def _quote_resource(path: str, query: str | None) -> tuple[str, str | None]:
    return quote(path, _PATH_SAFE) or "/", None if query is None else quote(query, _QUERY_SAFE)


def _parse_userinfo(text: str) -> tuple[str | None, str | None]:
    if not text:
        return None, None
    username, colon, password = text.partition(":")
    return _unquote_part(username, "the user"), (
        _unquote_part(password, "the password") if colon else None
    )


def _unquote_part(text: str, what: str) -> str:
    try:
        text = unquote(text)
    except UnicodeDecodeError:
        raise ValueError(f"{what} isn't percent-encoded UTF-8") from None
    if re.search(_CONTROL, text):  # RFC 7617, 2; and a NUL would end a socket's path early.
        raise ValueError(f"{what} has control characters")
    return text


def _parse_port(text: str | None) -> int | None:
    if not text:
        return None
    # Port 0 can't be connected to: it only means "any" to a server that binds.
    if not _PORT.fullmatch(text) or not 1 <= int(text) <= 65535:
        raise ValueError("its port isn't a number from 1 to 65535")
    return int(text)


def _parse_host(text: str) -> str:
    if text.startswith("["):
        return _parse_ipv6(text[1:-1])
    if not text:
        raise ValueError("it has no host")
    if len(text) > _MAX_NAME + 1:
        raise ValueError(f"its host has more than {_MAX_NAME} characters")
    host = (text if text.isascii() else _to_ascii(text)).lower()
    # Also for what the codec gives, which makes a plain slash of U+FF0F.
    if not _NAME.fullmatch(host) or len(host.rstrip(".")) > _MAX_NAME:
        raise ValueError("its host isn't a name, an IPv4 address or an IPv6 address in brackets")
    return intern(host)


def _to_ascii(host: str) -> str:
    try:
        return host.encode(_CODEC).decode("ascii")
    except LookupError:
        raise ValueError(
            "its host isn't ASCII, and this Python has no idna codec; write it as xn--..."
        ) from None
    except UnicodeError:
        raise ValueError("its host isn't a valid international name") from None


def _parse_ipv6(text: str) -> str:
    address, percent, zone = text.partition("%")
    address = address.lower()  # But not the zone: names of interfaces have a case.
    if not _is_ipv6(address):
        raise ValueError("it has something else than an IPv6 address in brackets")
    if not percent:
        return address
    if zone.startswith("25") and len(zone) > 2:  # RFC 6874, 2; a bare "%" is common, too.
        zone = zone[2:]
    if not re.fullmatch(_ZONE, zone):
        raise ValueError("the zone of its IPv6 address isn't the name of an interface")
    return f"{address}%{zone}"


def _is_ipv6(text: str) -> bool:
    """Whether *text* is an IPv6 address in lower case (RFC 4291, 2.2)."""
    if "." in text:
        start, _, ipv4 = text.rpartition(":")
        if not re.fullmatch(_IPV4, ipv4):
            return False
        text = f"{start}:0:0"
    halves = text.split("::")
    groups = [group for half in halves if half for group in half.split(":")]
    enough = len(groups) == 8 if len(halves) == 1 else len(halves) == 2 and len(groups) < 8
    return enough and all(re.fullmatch(_IPV6_GROUP, group) for group in groups)


def _resolve(base: URI, scheme: str, authority: str | None, path: str, query: str | None) -> URI:
    secure = base.secure
    if scheme:
        if scheme not in _REDIRECT_SCHEMES or authority is None:
            raise ValueError("it isn't relative, and doesn't start with ws, wss, http or https")
        secure = _REDIRECT_SCHEMES[scheme]
    if authority is not None:
        uri = _build(secure, authority, _remove_dot_segments(path), query)
        if uri.username is None and uri.origin == base.origin:
            uri = uri._replace(username=base.username, password=base.password)
        return uri
    if not path:
        path, query = base.path, base.query if query is None else query
    elif not path.startswith("/"):
        path = base.path[: base.path.rfind("/") + 1] + path
    path, query = _quote_resource(_remove_dot_segments(path), query)
    return base._replace(path=path, query=query)


def _remove_dot_segments(path: str) -> str:
    """RFC 3986, 5.2.4, for a path that is empty or starts with a slash."""
    segments = path.split("/")
    kept: list[str] = []
    for segment in segments:
        if segment == "..":
            del kept[max(1, len(kept) - 1) :]
        elif segment != ".":
            kept.append(segment)
    if segments[-1] in (".", ".."):
        kept.append("")
    return "/".join(kept)
