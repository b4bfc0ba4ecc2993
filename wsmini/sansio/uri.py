"""URLs: of WebSockets (RFC 6455, 3), parsed and resolved for redirects, and of proxies.

IRIs are accepted: a host that isn't ASCII goes through the standard library's ``idna`` codec, a
path or query that isn't becomes percent-encoded UTF-8 (RFC 3987, 3.1). What goes on the wire is
ASCII. Problems are told without quoting the URL's parts, since any of them may be a password that
wasn't percent-encoded.
"""

from __future__ import annotations

import os
from collections import namedtuple
from sys import intern

from ..exceptions import InvalidProxy, InvalidURI, ProxyError
from .redaction import is_scheme, redacted_query, redacted_uri

_PORTS = {False: 80, True: 443}
_SCHEMES = {"ws": False, "wss": True}
_UNIX_SCHEMES = {"ws+unix": False, "wss+unix": True}
_REDIRECT_SCHEMES = {"ws": False, "http": False, "wss": True, "https": True}
_PROXY_PORTS = {
    "http": 80,
    "https": 443,
    **dict.fromkeys(("socks4", "socks4a", "socks5", "socks5h"), 1080),
}

_CODEC = "idna"
_DEVIATIONS = frozenset("\xdf\u03c2")  # ß and ς

# Characters, for strip(), which leaves nothing of a text that has no others.
UNRESERVED = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ-._~"
_LABEL = "abcdefghijklmnopqrstuvwxyz0123456789-_"  # DNS and hosts files know underscores, too
_HEX = b"0123456789abcdefABCDEF"
_MAX_LABEL = 63
_MAX_NAME = 253
_PATH_SAFE = "/:@!$&'()*+,;=%"
_QUERY_SAFE = _PATH_SAFE + "?"
_SOCKET_SAFE = "/@!$&'()*+,;="


class URIProblem(ValueError):
    """What is wrong with a URL. (Of its own class: a signal handler may raise a ``ValueError``.)"""


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

    ``str()`` and ``repr()`` show ``***`` for the user and the password, and a tag for each value of
    the query: see ``redaction``.
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
        """The target to request: the path, then ``?`` and the query unless it is empty."""
        return f"{self.path}?{self.query}" if self.query else self.path

    @property
    def origin(self) -> tuple[str, str, int]:
        """Scheme, host and port: credentials and cookies stay where these are equal."""
        if self.unix_path is not None:  # Another server has the TCP port 80 of localhost.
            return f"{self.scheme}+unix", self.unix_path, self.port
        return self.scheme, self.host, self.port

    def __str__(self) -> str:
        query = "" if self.query is None else f"?{redacted_query(self.query)}"
        if self.unix_path is not None:
            socket_path = quote(self.unix_path, _SOCKET_SAFE)
            # Behind an empty host, two slashes at its start don't read as the front of one.
            empty = "//" if socket_path.startswith("//") else ""
            return f"{self.scheme}+unix:{empty}{socket_path}:{self.path}{query}"
        userinfo = "" if self.username is None else "***@"
        authority = self._authority(self.host.replace("%", "%25"))
        return f"{self.scheme}://{userinfo}{authority}{self.path}{query}"

    def __repr__(self) -> str:
        return f"<URI {self}>"

    def _authority(self, host: str) -> str:
        host = _bracketed(host)
        # Connections to one server share it, and each keeps it in the Host header.
        return intern(host if self.port == _PORTS[self.secure] else f"{host}:{self.port}")


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


class DestinationRefused(ProxyError):
    """A SOCKS proxy couldn't connect to this address, but perhaps can to another one."""


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
    except URIProblem as exc:
        raise InvalidURI(redacted_uri(text), str(exc)) from None


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
    if scheme not in _PROXY_PORTS:
        known = ", ".join(sorted(_PROXY_PORTS))
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
    except URIProblem as exc:
        raise InvalidProxy(redacted_uri(text), str(exc)) from None
    return Proxy(scheme, host, port or _PROXY_PORTS[scheme], username, password)


def join(base: URI, reference: str) -> URI:
    """Resolve the ``Location`` of a redirect against the URL that was asked for.

    RFC 3986, 5.2, where ``http`` means ``ws`` and ``https`` means ``wss``. A fragment is dropped.
    The user and the password are kept within one origin only. Whether to follow (from ``wss`` to
    ``ws``, say) is the caller's to decide; Unix sockets can't be reached from elsewhere.

    Raises:
        InvalidURI: if *reference* isn't a URL, or no WebSocket can be opened to it.
    """
    # Servers send spaces, and browsers and curl mend them.
    text = reference.partition("#")[0].replace(" ", "%20")
    try:
        _check_characters(text)
        return _resolve(base, *_split(text))
    except URIProblem as exc:
        raise InvalidURI(redacted_uri(reference), str(exc)) from None


def parse_authority(text: str) -> tuple[str | None, str | None, str, int | None]:
    """The user, the password, the host and the port in ``user:password@host:port``.

    Only the host is needed (RFC 3986, 3.2); an empty port means none. The user and the password
    are percent-decoded. The host is ASCII in lower case, an IPv6 address without brackets but with
    its zone. The last ``@`` counts, and a ``%`` that starts no escape stands for itself: passwords
    get pasted as they are.

    Raises:
        ValueError: with the problem, which doesn't quote *text*.
    """
    if "\\" in text:  # Some clients read it as a slash, and would find another host.
        raise URIProblem("it has a backslash before the path; write \\ as %5C")
    # The last @, as browsers have it: an earlier one is of a password that was pasted.
    userinfo, _, host_port = text.rpartition("@")
    host, port = _split_port(host_port)
    user, colon, secret = userinfo.partition(":")
    username = unquote(user, "the user") if userinfo else None
    password = unquote(secret, "the password") if colon else None
    return username, password, _parse_host(host), _parse_port(port)


def _split_port(text: str) -> tuple[str, str]:
    """The host, an IPv6 address in its brackets, and what is behind its colon."""
    if text.startswith("["):
        host, bracket, port = text.partition("]")
        misplaced = not bracket or port[:1] not in ("", ":")
        host, port = host + bracket, port[1:]
    else:
        host, _, port = text.partition(":")
        misplaced = "[" in host or "]" in host
        if ":" in port and not misplaced:
            raise URIProblem("it has several colons in its host; an IPv6 address needs brackets")
    if misplaced:
        raise URIProblem("its host has misplaced brackets")
    return host, port


def quote(text: str, safe: str = "") -> str:
    """Percent-encode the UTF-8 of *text*, but for unreserved characters (RFC 3986, 2.3).

    Args:
        text: the text, without lone surrogates.
        safe: more ASCII characters to leave alone. With ``%`` among them, what looks like an
            escape is left alone, so that quoting twice changes nothing.
    """
    safe += UNRESERVED
    data = text.encode()
    if not text.strip(safe) and all(map(_is_escape, data.split(b"%")[1:])):
        return text
    # A safe % stays in front of two hexadecimal digits only: "100%" becomes "100%25", "%20" stays.
    kept, quoted = safe.encode(), []
    for at, byte in enumerate(data):
        keep = byte in kept and (byte != 0x25 or _is_escape(data[at + 1 : at + 3]))
        quoted.append(chr(byte) if keep else f"%{byte:02X}")
    return "".join(quoted)


def unquote(text: str, what: str) -> str:
    """Decode percent-encoded UTF-8; a ``%`` that starts no escape stands for itself.

    Raises:
        ValueError: if the result, which the message calls *what*, isn't UTF-8 or has controls.
    """
    first, *others = text.encode("utf-8", "surrogatepass").split(b"%")
    parts = [first]
    for part in others:
        is_escape = _is_escape(part)
        parts.append(bytes((int(part[:2], 16),)) + part[2:] if is_escape else b"%" + part)
    data = b"".join(parts)
    # Compared, as the exception of a strict decoder would have the text, which may be secret.
    decoded = data.decode("utf-8", "replace")
    if decoded.encode() != data:
        raise URIProblem(f"{what} isn't percent-encoded UTF-8")
    # RFC 7617, 2; and a NUL would end a socket's path early.
    if any(character < " " or "\x7f" <= character <= "\x9f" for character in decoded):
        raise URIProblem(f"{what} has control characters")
    return decoded


def shown_address(address: object) -> str:
    """*address*, as sockets have it, for people: ``127.0.0.1:80``, ``[::1]:80``, a path."""
    if isinstance(address, tuple) and len(address) >= 2:
        return f"{_bracketed(address[0])}:{address[1]}"
    return os.fsdecode(address) if isinstance(address, (str, bytes)) else str(address)


def _is_escape(text: bytes) -> bool:
    """Whether a ``%`` before *text* starts an escape."""
    return len(text) >= 2 and not text[:2].strip(_HEX)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _parse(text: str) -> URI:
    _check_characters(text)
    if "#" in text:  # RFC 6455, 3
        raise URIProblem("it has a fragment; write # as %23")
    scheme, authority, path, query = _split(text)
    if scheme in _UNIX_SCHEMES:
        return _parse_unix(_UNIX_SCHEMES[scheme], authority, path, query)
    if scheme not in _SCHEMES or authority is None:
        known = {"http": "; write ws://", "https": "; write wss://"}.get(scheme, "")
        raise URIProblem(f"it doesn't start with ws:// or wss://{known}")
    return _build(_SCHEMES[scheme], authority, path, query)


def _check_characters(text: str) -> None:
    if text.isprintable() and " " not in text:  # which is quickly seen
        return
    import re  # only where there is something odd

    wrong = re.search("[\0- \x7f-\x9f\ud800-\udfff]", text)  # surrogates can't be encoded
    if wrong is not None:
        raise URIProblem(
            f"it has the character U+{ord(wrong[0]):04X} at offset {wrong.start()}; "
            "spaces and controls must be percent-encoded"
        )


def _split(text: str) -> tuple[str, str | None, str, str | None]:
    """Scheme ("" if there is none), authority, path and query (RFC 3986, appendix B)."""
    text, mark, query = text.partition("?")
    scheme, colon, path = text.partition(":")
    if not colon or not is_scheme(scheme):
        scheme, path = "", text
    authority = None
    if path.startswith("//"):
        authority, slash, path = path[2:].partition("/")
        path = slash + path
    return scheme.lower(), authority, path, query if mark else None


def _build(secure: bool, authority: str, path: str, query: str | None) -> URI:
    username, password, host, port = parse_authority(authority)
    path, query = _quote_resource(path, query)
    return URI(secure, host, port or _PORTS[secure], path, query, username, password)


def _parse_unix(secure: bool, authority: str | None, path: str, query: str | None) -> URI:
    if authority:
        raise URIProblem("it has a host before the path of its socket")
    # The first colon ends it: one within is percent-encoded, which is decoded below.
    socket_path, _, path = path.partition(":")
    socket_path = unquote(socket_path, "the path of its socket")
    if not socket_path:
        raise URIProblem("it has no path of a socket")
    if path and not path.startswith("/"):
        raise URIProblem("what follows the socket's path and ':' doesn't start with '/'")
    path, query = _quote_resource(path, query)
    return URI(secure, "localhost", _PORTS[secure], path, query, unix_path=socket_path)


def _quote_resource(path: str, query: str | None) -> tuple[str, str | None]:
    return quote(path, _PATH_SAFE) or "/", None if query is None else quote(query, _QUERY_SAFE)


def _parse_port(text: str) -> int | None:
    if not text:
        return None
    # Port 0 can't be connected to: it only means "any" to a server that binds.
    is_number = len(text) <= 5 and text.isascii() and text.isdigit()
    if not is_number or not 1 <= int(text) <= 65535:
        raise URIProblem("its port isn't a number from 1 to 65535")
    return int(text)


def _parse_host(text: str) -> str:
    if text.startswith("["):
        return _parse_ipv6(text[1:-1])
    if not text:
        raise URIProblem("it has no host")
    if len(text) > _MAX_NAME + 1:
        raise URIProblem(f"its host has more than {_MAX_NAME} characters")
    host = (text if text.isascii() else _to_ascii(text)).lower()
    # Also for what the codec gives, which makes a plain slash of U+FF0F.
    if not _is_name(host):
        raise URIProblem("its host isn't a name, an IPv4 address or an IPv6 address in brackets")
    return intern(host)


def _is_name(host: str) -> bool:
    """Whether DNS or a hosts file can hold *host*, of lower case; one dot may end it."""
    name = host[:-1] if host.endswith(".") else host
    labels = name.split(".")
    return (
        not name.strip(_LABEL + ".")
        and len(name) <= _MAX_NAME
        and all(labels)
        and max(map(len, labels)) <= _MAX_LABEL
    )


def _to_ascii(host: str) -> str:
    if "\u200c" in host or "\u200d" in host:
        raise URIProblem("its host has a joiner, which can't be seen: U+200C or U+200D")
    host = host.replace("\u1e9e", "\xdf")  # the capital of the other one
    try:
        if _DEVIATIONS.isdisjoint(host):
            return host.encode(_CODEC).decode("ascii")
        for dot in "\u3002\uff0e\uff61":  # RFC 3490, 3.1
            host = host.replace(dot, ".")
        return ".".join(map(_label_to_ascii, host.split(".")))
    except (LookupError, ImportError):
        raise URIProblem(
            "its host isn't ASCII, and this Python has no idna codec; write it as xn--..."
        ) from None
    except UnicodeError:
        raise URIProblem("its host isn't a valid international name") from None


def _label_to_ascii(label: str) -> str:
    """*label*, whose ß and ς stay what they are, as in UTS 46 and for browsers.

    The codec knows IDNA 2003, which makes "ss" and σ of them: names that others may own.
    """
    if _DEVIATIONS.isdisjoint(label):
        return label.encode(_CODEC).decode("ascii")
    import re
    from encodings.idna import nameprep

    if label.lower().startswith("xn--"):
        raise UnicodeError("what is encoded has other characters than ASCII")
    nameprep(label.replace("\xdf", "s").replace("\u03c2", "\u03c3"))  # raises for what is forbidden
    # What is between them is prepared as ever.
    parts = re.split("([\xdf\u03c2])", label)
    prepared = "".join(part if part in _DEVIATIONS else nameprep(part) for part in parts)
    return "xn--" + prepared.encode("punycode").decode("ascii")


def _parse_ipv6(text: str) -> str:
    address, percent, zone = text.partition("%")
    address = address.lower()  # But not the zone: names of interfaces have a case.
    if not _is_ipv6(address):
        raise URIProblem("it has something else than an IPv6 address in brackets")
    if not percent:
        return address
    if zone.startswith("25") and len(zone) > 2:  # RFC 6874, 2; a bare "%" is common, too.
        zone = zone[2:]
    if not zone or zone.strip(UNRESERVED):
        raise URIProblem("the zone of its IPv6 address isn't the name of an interface")
    return f"{address}%{zone}"


def _is_ipv6(text: str) -> bool:
    """Whether *text* is an IPv6 address in lower case (RFC 4291, 2.2)."""
    if "." in text:
        start, _, ipv4 = text.rpartition(":")
        octets = ipv4.split(".")
        if len(octets) != 4 or not set(octets) <= {*map(str, range(256))}:
            return False
        # The last 32 bits are written as in IPv4: they stand for two groups.
        text = f"{start}:0:0"
    digits = "0123456789abcdef"
    halves = text.split("::")
    groups = [group for half in halves if half for group in half.split(":")]
    # "::" stands for one group or more, and comes once at most.
    enough = len(groups) == 8 if len(halves) == 1 else len(halves) == 2 and len(groups) < 8
    return enough and all(0 < len(group) <= 4 and not group.strip(digits) for group in groups)


def _resolve(base: URI, scheme: str, authority: str | None, path: str, query: str | None) -> URI:
    secure = base.secure
    if scheme:
        if scheme not in _REDIRECT_SCHEMES or authority is None:
            raise URIProblem("it isn't relative, and doesn't start with ws, wss, http or https")
        secure = _REDIRECT_SCHEMES[scheme]
    if authority is not None:
        uri = _build(secure, authority, _remove_dot_segments(path), query)
        # A server that redirects to itself by a whole URL seldom repeats the user.
        if uri.username is None and uri.origin == base.origin:
            uri = uri._replace(username=base.username, password=base.password)
        return uri
    # Without a path, the reference is a query, or empty: the rest is the base's (RFC 3986, 5.2.2).
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
        # The first segment is the empty one in front of the slash: ".." doesn't lead above it.
        if segment == "..":
            del kept[max(1, len(kept) - 1) :]
        elif segment != ".":
            kept.append(segment)
    # Dots at the end name a folder, whose path ends with a slash.
    if segments[-1] in (".", ".."):
        kept.append("")
    return "/".join(kept)
