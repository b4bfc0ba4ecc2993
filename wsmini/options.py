"""The options of a connection: named, typed and checked once, for every front end."""

from __future__ import annotations

import socket
import sys

from .exceptions import InvalidProxy, InvalidURI
from .sansio.deflate import Deflate, available
from .sansio.extensions import ExtensionOffer
from .sansio.handshake import check_subprotocols, user_headers
from .sansio.http11 import Headers
from .sansio.protocol import size_limits
from .sansio.redaction import shown
from .sansio.uri import URIProblem, parse_authority, parse_proxy, parse_uri
from .version import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl as ssl_module
    from http.cookiejar import CookieJar
    from logging import Logger
    from typing import Any, Callable, Literal, Sequence, TypedDict, TypeVar

    from typing_extensions import Unpack

    from .sansio.auth import Credentials
    from .sansio.handshake import HeaderSource
    from .sansio.protocol import MaxSize

    T = TypeVar("T")
    SocketOption = tuple[int, int, int | bytes]
    Trace = Callable[[dict[str, object]], None]

    class ConnectOptions(TypedDict, total=False):
        """The keyword arguments of ``connect()``, for type checkers; ``_Table`` has them, too."""

        host: str | None
        port: int | None
        unix_path: str | None
        sock: socket.socket | None
        source_address: tuple[str, int] | None
        happy_eyeballs_delay: float
        socket_options: Sequence[SocketOption] | None
        family: int
        proxy: Literal[True] | str | None
        proxy_ssl: Literal[True] | ssl_module.SSLContext | None
        proxy_server_hostname: str | None
        ssl: Literal[True] | ssl_module.SSLContext | None
        server_hostname: str | None
        tls_resumption: bool | None
        origin: str | None
        subprotocols: Sequence[str] | None
        extensions: Sequence[ExtensionOffer] | None
        compression: Literal["deflate"] | None
        additional_headers: HeaderSource
        user_agent_header: str | None
        auth: Credentials | None
        cookies: CookieJar | None
        max_redirects: int
        open_timeout: float | None
        close_timeout: float | None
        ping_interval: float | None
        ping_timeout: float | None
        max_size: MaxSize
        max_queue: int
        busy_poll: float
        logger: Logger | None
        trace: Trace | None


FOREVER = 1e6  # seconds: what waits so long may wait on, and the clocks of systems have limits

_DEFLATE = Deflate()

# What other clients call an option.
_UNVERIFIED = "ssl=wsmini.unverified_context() to verify nothing"
_NAMES_ELSEWHERE = {
    "extra_headers": "additional_headers",
    "header": "additional_headers",
    "headers": "additional_headers",
    "cookie": "cookies, or additional_headers",
    "timeout": "open_timeout, and the timeouts of recv() and send()",
    "ssl_context": "ssl",
    "sslopt": "ssl, with an ssl.SSLContext",
    "verify": _UNVERIFIED,
    "verify_ssl": _UNVERIFIED,
    "subprotocol": "subprotocols",
    "protocols": "subprotocols",
    "heartbeat": "ping_interval",
    "max_msg_size": "max_size",
    "sockopt": "socket_options",
    "ip": "host",
    "http_proxy_host": "proxy, with a URL",
}

USER_AGENT = f"Python/{sys.version_info[0]}.{sys.version_info[1]} wsmini/{__version__}"


# -- what checks one of them --


def ssl_problem() -> str:
    """Why there can't be TLS; empty if there can."""
    problem = ""
    try:
        import ssl  # noqa: F401  # large: only where it is needed
    except ImportError as exc:
        problem = f"this Python has no ssl module, so wss:// and https:// can't be used: {exc}"
    return problem


def _host(name: str, host: str | None) -> str | None:
    """A host as URLs have it: ASCII, in lower case, without brackets."""
    if host is None:
        return None
    if not isinstance(host, str):
        raise TypeError(f"{name} is a str, not {host!r}")
    # An IPv6 address may come without the brackets that URLs need.
    is_bare = ":" in host and not host.startswith("[")
    try:
        user, _, parsed, port = parse_authority(f"[{host}]" if is_bare else host)
        if user is not None or port is not None:
            raise URIProblem("it has more than that")
    except (URIProblem, UnicodeError) as exc:
        raise ValueError(f"{name} is a host, which {shown(host)} isn't: {exc}") from None
    return parsed


def _port(name: str, port: int | None) -> int | None:
    return None if port is None else check_count(name, port, 1, 65535)


def _unix_path(name: str, path: str | None) -> str | None:
    if path is not None and not isinstance(path, str):
        raise TypeError(f"unix_path is a str, not {path!r}")
    if path == "":
        raise ValueError("unix_path is empty")
    return path


def _socket(name: str, sock: socket.socket | None) -> socket.socket | None:
    if sock is not None and (not isinstance(sock, socket.socket) or hasattr(sock, "do_handshake")):
        raise TypeError(f"sock is a plain socket (TLS is up to ssl and wss://), not {sock!r}")
    return sock


def _source_address(name: str, address: tuple[str, int] | None) -> tuple[str, int] | None:
    if address is None:
        return None
    if isinstance(address, tuple) and len(address) == 2:
        host, port = address
        if isinstance(host, str) and isinstance(port, int):
            check_count("the port of source_address", port, 0, 65535)
            return address
    raise TypeError(f"source_address is a tuple (host, port), not {address!r}")


def _socket_options(name: str, options: Sequence[SocketOption] | None) -> Sequence[SocketOption]:
    checked = tuple(options or ())
    for option in checked:
        if not isinstance(option, tuple) or len(option) != 3:
            raise TypeError(f"socket_options are tuples (level, option, value), not {option!r}")
    return checked


def _family(name: str, family: int) -> int:
    # A Python without IPv6 has no AF_INET6.
    if family not in (0, socket.AF_INET, getattr(socket, "AF_INET6", 0)):
        raise ValueError(f"family is 0, AF_INET or AF_INET6, not {family!r}")
    return family


def _flag(name: str, value: bool | None) -> bool | None:
    if value is not None and not isinstance(value, bool):
        raise TypeError(f"{name} is True, False or None, not {value!r}")
    return value


def _context(
    name: str, context: Literal[True] | ssl_module.SSLContext | None
) -> ssl_module.SSLContext | None:
    """Something false must never switch verification off in silence."""
    if context is None or context is True:
        return None
    import ssl  # only users of the option need it

    if not isinstance(context, ssl.SSLContext):
        raise TypeError(
            f"{name} must be an ssl.SSLContext, not {context!r}; to switch verification off,"
            " use wsmini.unverified_context()"
        )
    # The ssl module refuses it, too, but only once TCP is connected.
    if context.protocol == ssl.PROTOCOL_TLS_SERVER:
        raise ValueError(f"{name} is for servers; ssl.create_default_context() is for clients")
    return context


def _header(header: str) -> Callable[[str, str | None], str | None]:
    def check(name: str, value: str | None) -> str | None:
        if value is not None and value is not USER_AGENT:
            # Made to be checked: it raises for what HTTP doesn't allow.
            Headers([(header, value)])
        return value

    return check


def _additional_headers(name: str, headers: HeaderSource) -> Any:
    """A callable as it is; else the pairs."""
    return headers if callable(headers) else tuple(user_headers(headers))


def _subprotocols(name: str, subprotocols: Sequence[str] | None) -> Sequence[str]:
    return tuple(check_subprotocols(() if subprotocols is None else subprotocols))


def _as_it_is(name: str, value: Any) -> Any:
    return value


def _object_with(what: str, *methods: str) -> Callable[[str, Any], Any]:
    """Make a check for ``None`` or an object with these *methods*; *what* names it."""

    def check(name: str, value: Any) -> Any:
        if value is not None and not all(hasattr(value, method) for method in methods):
            raise TypeError(f"{name} is {what}, not {type(value).__name__}")
        return value

    return check


def _compression(name: str, compression: str | None) -> str | None:
    if compression not in ("deflate", None):
        raise ValueError(f'compression is "deflate" or None, not {compression!r}')
    return compression


def _extensions(name: str, extensions: Sequence[ExtensionOffer] | None) -> Sequence[ExtensionOffer]:
    offers = tuple(extensions or ())
    for offer in offers:
        if not isinstance(offer, ExtensionOffer):
            raise TypeError(f"extensions takes ExtensionOffer objects, not {offer!r}")
        if isinstance(offer, Deflate) and not available():
            raise ValueError("Deflate() needs the zlib module, which this Python lacks")
    return offers


def _max_size(name: str, max_size: MaxSize) -> MaxSize:
    size_limits(max_size)
    return max_size


def _from(least: int) -> Callable[[str, int], int]:
    return lambda name, value: check_count(name, value, least)


def check_count(name: str, value: int, least: int, most: int | None = None) -> int:
    """Check that *value* is a whole number from *least* to *most*, and return it."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} is an int, not {value!r}")
    if value < least or most is not None and value > most:
        end = "on" if most is None else f"to {most}"
        raise ValueError(f"{name} is a number from {least} {end}, not {value}")
    return value


def _seconds(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} is a number of seconds, not {value!r}")
    if 0 <= value <= FOREVER:
        return value
    if not value > 0:  # nor can it be NaN
        raise ValueError(f"{name} is a number of seconds from 0 on, not {value!r}")
    return FOREVER


def _limit(name: str, value: float | None) -> float | None:
    """Seconds, or ``None`` for no limit."""
    # What is longer than clocks can count, math.inf among it, is no limit either.
    return None if value is None or _seconds(name, value) == FOREVER else value


def _interval(name: str, value: float | None) -> float | None:
    if isinstance(value, (int, float)) and not value > 0:  # 0 means "none" elsewhere
        raise ValueError(f"{name} is a number of seconds above 0, or None for none, not {value!r}")
    return _limit(name, value)


# -- the options --


def _option(default: Any, check: Callable[[str, Any], T]) -> T:
    """A row of the table: an option's default, and what checks its value, given the name and that.

    To type checkers, it is the attribute of ``Options``.
    """
    return default, check  # type: ignore[return-value]


class _Table:
    """Each option, in the order of ``Options``' docstring; ``ConnectOptions`` has it, too."""

    __slots__ = ()

    host = _option(None, _host)
    port = _option(None, _port)
    unix_path = _option(None, _unix_path)
    sock = _option(None, _socket)
    source_address = _option(None, _source_address)
    happy_eyeballs_delay = _option(0.25, _seconds)
    socket_options = _option((), _socket_options)
    family = _option(0, _family)
    proxy: Literal[True] | str | None = _option(True, _as_it_is)
    proxy_ssl = _option(None, _context)
    proxy_server_hostname = _option(None, _host)
    ssl = _option(None, _context)
    server_hostname = _option(None, _host)
    tls_resumption = _option(None, _flag)
    origin = _option(None, _header("Origin"))
    subprotocols = _option((), _subprotocols)
    extensions = _option((), _extensions)
    compression = _option("deflate", _compression)
    additional_headers = _option((), _additional_headers)
    user_agent_header = _option(USER_AGENT, _header("User-Agent"))
    auth: Credentials | None = _option(None, _as_it_is)
    cookies: CookieJar | None = _option(
        None, _object_with("an http.cookiejar.CookieJar", "add_cookie_header", "extract_cookies")
    )
    max_redirects = _option(5, _from(0))
    open_timeout = _option(10, _interval)
    close_timeout = _option(10, _limit)
    ping_interval = _option(20, _interval)
    ping_timeout = _option(20, _interval)
    max_size = _option(1 << 20, _max_size)
    max_queue = _option(16, _from(1))
    busy_poll = _option(0, _seconds)
    logger: Logger | None = _option(None, _object_with("a logging.Logger", "debug"))
    trace: Trace | None = _option(None, _object_with("a callable", "__call__"))


# Name -> default and check.
TABLE: dict[str, tuple[Any, Callable[[str, Any], Any]]] = {
    name: row for name, row in vars(_Table).items() if name[0] != "_"
}


class Options(_Table):
    """A URL and the options of a connection to it; the attributes have the arguments' names.

    Args:
        url: ``ws://`` or ``wss://``, as ``str``.
        host, port: where to connect to instead of the URL's host and port, which still go into the
            ``Host`` header, SNI and the check of the certificate.
        unix_path: the path of a Unix socket to connect to instead.
        sock: a connected socket to use instead; the opening owns it from its first step on, and
            closes it if it fails.
        source_address: ``(host, port)`` to connect from; 0 for any port.
        happy_eyeballs_delay: seconds until the next address of a name is tried too (RFC 8305); 0.25
            by default.
        socket_options: ``(level, option, value)`` triples, set before connecting.
        family: ``socket.AF_INET`` or ``socket.AF_INET6`` for such addresses only; 0 for both.
        proxy: ``True``, the default, for what the environment says (``wss_proxy``, ``https_proxy``,
            ``ws_proxy``, ``http_proxy``, ``all_proxy``, ``no_proxy``), ``None`` for none, or the
            URL of one: http, https, socks5, socks5h, socks4 or socks4a.
        proxy_ssl: an ``ssl.SSLContext`` for an https proxy.
        proxy_server_hostname: the name for SNI and the certificate of an https proxy.
        ssl: an ``ssl.SSLContext`` for ``wss``; ``None`` or ``True`` for one that verifies the
            certificate and the host name against the system's certificates.
        server_hostname: the name for SNI and the certificate's check, instead of the URL's host.
        tls_resumption: whether later connections resume TLS sessions of earlier ones, which spares
            half the work; ``None`` for that with wsmini's own context only; with ``True``, also
            with yours, which you then must not change: a resumed session goes on with the old
            certificates; ``False`` for never.
        origin: the ``Origin`` header.
        subprotocols: those to offer, the preferred one first.
        extensions: ``ExtensionOffer`` objects, offered in this order, in front of compression.
        compression: ``"deflate"``, the default, to offer permessage-deflate (RFC 7692), ``None``
            not to.
        additional_headers: a mapping or pairs; they replace the headers that wsmini sends
            (``Host``, ``User-Agent``...), ``None`` as value removes one, a list gives several. Or a
            callable that returns these, called without arguments as each attempt to connect begins.
        user_agent_header: the ``User-Agent`` header, ``None`` for none.
        auth: ``(user, password)`` for servers that ask for Basic or Digest authentication, or a
            callable that sees the challenge, see ``sansio.auth.Authenticator``. The URL's user and
            password do the same, and are sent at once.
        cookies: an ``http.cookiejar.CookieJar`` to take cookies from and to put them into.
        max_redirects: how many redirects to follow, 5 by default; 0 to follow none.
        open_timeout: seconds for everything from the look-up of the name to the server's answer, 10
            by default; ``None`` for no limit.
        close_timeout: seconds to wait for the server while closing, 10 by default; ``None`` for no
            limit.
        ping_interval: seconds of silence until a ping is sent, 20 by default; ``None`` for no
            pings.
        ping_timeout: seconds from there on until the peer counts as dead, 20 by default; ``None``
            for never.
        max_size: limit in bytes, 1 or more, for a received message, or a pair of limits for a
            message and for a fragment; ``None`` for no limit; 1 MiB by default.
        max_queue: messages kept unread while another thread waits for something else; at the
            limit, 16 by default, reading stops. A ``Client`` keeps none: it has ``pause()``.
        busy_poll: seconds to poll the socket before waiting for it: faster answers for a busy CPU;
            0 by default. Only the blocking API waits for one socket; others don't look at it.
        logger: a ``logging.Logger`` or adapter; gets what ``trace`` gets, at debug level.
        trace: called with a ``dict`` for each event of the opening, without secrets: ``time`` in
            seconds since the start, ``phase``, ``event``, and what belongs to that.

    Raises:
        InvalidURI: if *url* isn't valid.
        TypeError, ValueError: if an option isn't, or there is no option of that name.
    """

    __slots__ = (*TABLE, "fixed_proxy", "offers", "uri")

    def __init__(self, url: str, /, **given: Unpack[ConnectOptions]) -> None:
        for name in given:
            if name not in TABLE:
                meant = _NAMES_ELSEWHERE.get(name)
                advice = f"use {meant}" if meant else "help(wsmini.options.Options) lists them all"
                raise TypeError(f"there is no option {name!r}: {advice}")
        self.uri = parse_uri(url)
        for name, (default, check) in TABLE.items():
            # A default is as its check leaves it.
            value = check(name, given.get(name)) if name in given else default
            setattr(self, name, value)
        # The option goes before what a ws+unix: URL says.
        if self.unix_path is None:
            self.unix_path = self.uri.unix_path
        proxy = self.proxy
        self.fixed_proxy = None if proxy is None or proxy is True else parse_proxy(proxy)
        self.offers = self.extensions
        if self.compression is not None and available():
            # A Deflate() of the program takes the place of ours: compression is negotiated once.
            if Deflate.name not in [offer.name for offer in self.extensions]:
                self.offers = (*self.extensions, _DEFLATE)
        self._check()

    def headers(self) -> Sequence[tuple[str, str | None]]:
        """The pairs of ``additional_headers`` for one opening; raises what a callable does."""
        given: Any = self.additional_headers
        return user_headers(given()) if callable(given) else given

    def _check(self) -> None:
        """Check the options against each other, and those that need another module."""
        if self.auth is not None or self.uri.username is not None:
            from .sansio.auth import Authenticator  # only users of the option need it

            # Made to be checked: what can't be sent is refused before anything is sent.
            if self.auth is not None:
                Authenticator(self.auth)
            if self.uri.username is not None:
                Authenticator((self.uri.username, self.uri.password or ""), preemptive=True)
        elsewhere = self.host is not None or self.port is not None
        if (self.sock is not None) + (self.unix_path is not None) + elsewhere > 1:
            raise ValueError("sock, unix_path, and host with port exclude each other")
        if self.fixed_proxy is not None and (self.sock or self.unix_path is not None):
            raise ValueError("there is no way through a proxy with sock or a Unix socket")
        self._check_tls()

    def _check_tls(self) -> None:
        # A redirect may lead to wss://, and the context is for that then.
        if self.ssl is not None and not self.uri.secure and self.max_redirects == 0:
            raise ValueError("ssl is for wss:// URLs, and this one is ws://")
        if self.uri.secure and ssl_problem():
            raise InvalidURI(str(self.uri), ssl_problem())
        if self.fixed_proxy is not None and self.fixed_proxy.scheme == "https" and ssl_problem():
            raise InvalidProxy(str(self.fixed_proxy), ssl_problem())
