"""The options: what they default to, that each is checked, and that their two lists agree."""

from __future__ import annotations

import ast
import http.cookiejar
import inspect
import logging
import re
import socket
import ssl
import sys
from pathlib import Path

import pytest
from tables import each_row

import wsmini
from wsmini import options as module
from wsmini.exceptions import InvalidProxy, InvalidURI
from wsmini.options import FOREVER, Options

URL = "ws://h.example/"
PASSWORD = "pa55-phrase"
NAMES = list(module.TABLE)


def class_body(name):
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    [found] = [n for n in ast.walk(tree) if isinstance(n, ast.ClassDef) and n.name == name]
    return found


def test_they_have_the_same_names_in_the_same_order():
    fields = [field.target.id for field in class_body("ConnectOptions").body[1:]]
    assert fields == NAMES


def test_every_option_is_keyword_only_documented_and_an_attribute():
    documented = re.findall(
        r"^    ((?:\w+, )*\w+): ", inspect.getdoc(Options).partition("Raises:")[0], re.M
    )
    names = [name for names in documented for name in names.split(", ")]
    assert names == ["url", *NAMES]
    options = Options(URL)
    for name in ("uri", "offers", *NAMES):
        assert hasattr(options, name)
    assert not hasattr(options, "__dict__")  # each client keeps its options
    with pytest.raises(TypeError):
        Options(URL, "h")


DEFAULTS = {
    "proxy": True,
    "happy_eyeballs_delay": 0.25,
    "compression": "deflate",
    "family": 0,
    "max_redirects": 5,
    "open_timeout": 10,
    "close_timeout": 10,
    "ping_interval": 20,
    "ping_timeout": 20,
    "max_size": 2**20,
    "max_queue": 16,
    "busy_poll": 0,
    "user_agent_header": module.USER_AGENT,
}


def test_defaults():
    for name, (default, check) in module.TABLE.items():
        assert default == DEFAULTS.get(name, default) == check(name, default)
        if name not in DEFAULTS:
            assert default in (None, ())
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert re.fullmatch(rf"Python/{re.escape(version)} wsmini/\d[\w.]*", module.USER_AGENT)


GOOD = {
    "host": ("host", "H.Example.", "h.example."),
    "IPv4": ("host", "127.0.0.1", "127.0.0.1"),
    "IPv6": ("host", "::1", "::1"),
    "IPv6 in brackets": ("host", "[::1]", "::1"),
    "IPv6 with a zone": ("host", "fe80::1%eth0", "fe80::1%eth0"),
    "international host": ("host", "bücher.example", "xn--bcher-kva.example"),
    "server_hostname": ("server_hostname", "a_b.example", "a_b.example"),
    "proxy_server_hostname": ("proxy_server_hostname", "p", "p"),
    "port": ("port", 65535, 65535),
    "unix_path": ("unix_path", "/run/s", "/run/s"),
    "source_address": ("source_address", ("127.0.0.1", 0), ("127.0.0.1", 0)),
    "socket_options": ("socket_options", ((1, 2, 3), (1, 2, b"x")), ((1, 2, 3), (1, 2, b"x"))),
    "no proxy": ("proxy", None, None),
    "the default context": ("ssl", True, None),
    "IPv6 only": ("family", socket.AF_INET6, socket.AF_INET6),
    "resumption": ("tls_resumption", False, False),
    "delay": ("happy_eyeballs_delay", 0, 0),
    "delay without end": ("happy_eyeballs_delay", float("inf"), FOREVER),
    "timeout": ("open_timeout", 0.5, 0.5),
    "no timeout": ("open_timeout", None, None),
    "infinite timeout": ("open_timeout", float("inf"), None),
    "a very long timeout": ("close_timeout", 10**9, None),
    "no pings": ("ping_interval", None, None),
    "pings so rare": ("ping_interval", float("inf"), None),
    "ping_timeout": ("ping_timeout", 1e-3, 1e-3),
    "max_redirects": ("max_redirects", 0, 0),
    "max_queue": ("max_queue", 1, 1),
    "max_size": ("max_size", None, None),
    "two sizes": ("max_size", (None, 5), (None, 5)),
    "busy_poll": ("busy_poll", 1e-4, 1e-4),
    "subprotocols": ("subprotocols", ["a", "b"], ("a", "b")),
    "headers": ("additional_headers", {"A": ["1"], "B": None}, (("A", "1"), ("B", None))),
    "origin": ("origin", "https://x", "https://x"),
    "user agent": ("user_agent_header", None, None),
    "headers when asked": ("additional_headers", print, print),
    "trace": ("trace", print, print),
}  # fmt: skip


@each_row("name, value, expected", GOOD.values(), ids=GOOD)
def test_good_options(name, value, expected):
    assert getattr(Options(URL, **{name: value}), name) == expected


BAD = [
    ("host", "", ValueError, "no host"),
    ("host", "a b", ValueError, "host is a host"),
    ("host", "h:80", ValueError, "host is a host"),
    ("host", "[::1]:80", ValueError, "more than that"),
    ("host", "u@h", ValueError, "more than that"),
    ("host", "h\0", ValueError, "host is a host"),
    ("host", "h/x", ValueError, "host is a host"),
    ("host", b"h", TypeError, "host is a str"),
    ("server_hostname", "", ValueError, "server_hostname"),
    ("server_hostname", "a\0.example", ValueError, "server_hostname"),
    ("server_hostname", False, TypeError, "server_hostname"),
    ("proxy_server_hostname", "", ValueError, "proxy_server_hostname"),
    ("port", 0, ValueError, "from 1 to 65535"),
    ("port", 65536, ValueError, "from 1 to 65535"),
    ("port", "80", TypeError, "port is an int"),
    ("unix_path", "", ValueError, "unix_path is empty"),
    ("unix_path", b"/s", TypeError, "unix_path is a str"),
    ("sock", 5, TypeError, "plain socket"),
    ("source_address", "127.0.0.1", TypeError, "tuple"),
    ("source_address", ("127.0.0.1",), TypeError, "tuple"),
    ("source_address", ("127.0.0.1", "0"), TypeError, "tuple"),
    ("source_address", (None, 0), TypeError, "tuple"),
    ("source_address", ("127.0.0.1", 65536), ValueError, "port of source_address"),
    ("socket_options", [(1, 2)], TypeError, "socket_options"),
    ("socket_options", [None], TypeError, "socket_options"),
    ("proxy", False, TypeError, "proxy"),
    ("proxy", "", InvalidProxy, "no host"),
    ("proxy", f"ftp://u:{PASSWORD}@h", InvalidProxy, "scheme"),
    ("proxy", f"http://a%3Ab:{PASSWORD}@h", InvalidProxy, "colon"),
    ("ssl", False, TypeError, "unverified_context"),
    ("ssl", 0, TypeError, "unverified_context"),
    ("ssl", "", TypeError, "unverified_context"),
    ("ssl", 1, TypeError, "unverified_context"),
    ("family", 99, ValueError, "AF_INET6"),
    ("tls_resumption", 1, TypeError, "True, False or None"),
    ("ssl", {}, TypeError, "unverified_context"),
    ("ssl", ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ValueError, "for servers"),
    ("proxy_ssl", False, TypeError, "unverified_context"),
    ("proxy_ssl", 0, TypeError, "unverified_context"),
    ("proxy_ssl", ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ValueError, "for servers"),
    ("happy_eyeballs_delay", -1, ValueError, "happy_eyeballs_delay"),
    ("happy_eyeballs_delay", None, TypeError, "happy_eyeballs_delay"),
    ("open_timeout", 0, ValueError, "open_timeout is a number of seconds above 0, or None"),
    ("open_timeout", -0.1, ValueError, "open_timeout is a number of seconds above 0, or None"),
    ("open_timeout", False, ValueError, "above 0"),
    ("port", True, TypeError, "port is an int"),
    ("cookies", {}, TypeError, "CookieJar, not dict"),
    ("trace", True, TypeError, "trace is a callable, not bool"),
    ("open_timeout", float("nan"), ValueError, "open_timeout"),
    ("open_timeout", "10", TypeError, "open_timeout"),
    ("open_timeout", True, TypeError, "open_timeout"),
    ("close_timeout", -1, ValueError, "close_timeout"),
    ("ping_interval", 0, ValueError, "None for none"),
    ("ping_interval", -1, ValueError, "ping_interval"),
    ("ping_timeout", 0, ValueError, "None for none"),
    ("ping_timeout", "1", TypeError, "ping_timeout"),
    ("busy_poll", -1, ValueError, "busy_poll"),
    ("busy_poll", None, TypeError, "busy_poll"),
    ("max_size", -1, ValueError, "max_size"),
    ("max_size", 0, ValueError, "max_size is a number of bytes above 0, or None, not 0"),
    ("max_size", (1, 0), ValueError, "above 0"),
    ("max_size", "1", TypeError, "max_size"),
    ("max_queue", 0, ValueError, "max_queue"),
    ("max_queue", None, TypeError, "max_queue"),
    ("max_queue", 1.5, TypeError, "max_queue"),
    ("max_redirects", -1, ValueError, "max_redirects"),
    ("max_redirects", None, TypeError, "max_redirects"),
    ("max_redirects", True, TypeError, "max_redirects"),
    ("origin", "a\r\nb", ValueError, "Origin"),
    ("origin", 5, TypeError, "Origin"),
    ("user_agent_header", "a\nb", ValueError, "User-Agent"),
    ("user_agent_header", b"x", TypeError, "User-Agent"),
    ("subprotocols", "chat", TypeError, "subprotocols"),
    ("subprotocols", ["a\r\nb"], ValueError, "subprotocol"),
    ("subprotocols", 5, TypeError, "iterable"),
    ("additional_headers", {"A": "b\r\nc"}, ValueError, "A header"),
    ("additional_headers", {"A\0": "b"}, ValueError, "name of a header"),
    ("additional_headers", {"Upgrade": "x"}, ValueError, "Upgrade"),
    ("additional_headers", 5, TypeError, "additional_headers"),
    ("additional_headers", 0, TypeError, "additional_headers"),
    ("additional_headers", "", TypeError, "additional_headers"),
    ("extensions", ["x"], TypeError, "ExtensionOffer"),
    ("compression", True, ValueError, "compression"),
    ("compression", "gzip", ValueError, "compression"),
    ("auth", "user", TypeError, "auth"),
    ("auth", ("user",), TypeError, "auth"),
    ("auth", ("user", f"{PASSWORD}\n"), ValueError, "control"),
    ("auth", ("user", PASSWORD.encode()), TypeError, "auth"),
    ("cookies", {"a": PASSWORD}, TypeError, "cookies"),
    ("cookies", PASSWORD, TypeError, "cookies"),
    ("logger", print, TypeError, "logger"),
    ("trace", [], TypeError, "trace"),
]


@each_row("name, value, kind, text", BAD)
def test_bad_options(name, value, kind, text):
    with pytest.raises(kind, match=re.escape(text)) as info:
        Options(URL, **{name: value})
    assert type(info.value) is kind
    assert PASSWORD not in str(info.value)


def test_every_option_is_checked():
    assert {name for name, *_ in BAD} == set(NAMES)


def test_nothing_is_sent_before_the_options_are_checked():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        url = "ws://127.0.0.1:%d/" % listener.getsockname()[1]
        for name, value, kind, _ in BAD:
            with pytest.raises(kind):
                wsmini.connect(url, **{name: value})
        with pytest.raises(BlockingIOError):
            listener.accept()


@pytest.mark.parametrize("name", ["subprotocols", "extensions", "socket_options"])
def test_none_stands_for_none_of_them(name):
    options = Options("ws://h/", compression=None, **{name: None})
    assert not getattr(options, "offers" if name == "extensions" else name)


UNKNOWN = {  # of other clients, or of none
    "extra_headers": "use additional_headers",
    "verify": "use ssl=wsmini.unverified_context()",
    "ip": "use host",
    "timeout": "use open_timeout",
    "sslopt": "use ssl, with",
    "on_message": r"help\(wsmini.options.Options\) lists",
    "self": "lists",
}


@pytest.mark.parametrize("name, advice", UNKNOWN.items(), ids=UNKNOWN)
def test_an_option_that_is_not_known(name, advice):
    with pytest.raises(TypeError, match=f"there is no option '{name}': .*{advice}"):
        wsmini.connect("ws://127.0.0.1/", **{name: 1})


@pytest.mark.parametrize(
    "url", ["", "http://h/", "ws://h/#x", "ws://h:0", f"ws://u:{PASSWORD}\n@h"]
)
def test_a_bad_url(url):
    with pytest.raises(InvalidURI) as info:
        Options(url)
    assert PASSWORD not in str(info.value)


def test_a_user_that_can_not_be_sent():
    with pytest.raises(ValueError, match="colon") as info:
        Options(f"ws://a%3Ab:{PASSWORD}@h/")
    assert PASSWORD not in str(info.value)


PLACES = {
    "host and socket": {"host": "h", "unix_path": "/s"},
    "port and socket": {"port": 80, "unix_path": "/s"},
    "Unix URL and host": {"url": "ws+unix:/s:/", "host": "h"},
}


@pytest.mark.parametrize("options", PLACES.values(), ids=PLACES)
def test_places_that_exclude_each_other(options):
    options = dict(options)
    with pytest.raises(ValueError, match="exclude each other"):
        Options(options.pop("url", URL), **options)


def test_a_given_socket_excludes_other_ways():
    with socket.socket() as sock:
        assert Options(URL, sock=sock).sock is sock
        for options in ({"host": "h"}, {"port": 1}, {"unix_path": "/s"}):
            with pytest.raises(ValueError, match="exclude each other"):
                Options(URL, sock=sock, **options)
        with pytest.raises(ValueError, match="through a proxy"):
            Options(URL, sock=sock, proxy="http://p")
    with pytest.raises(ValueError, match="through a proxy"):
        Options("ws+unix:/s:/", proxy="http://p")


def test_a_socket_with_tls_of_its_own():
    one, other = socket.socketpair()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    with other, context.wrap_socket(
        one, server_hostname="h", do_handshake_on_connect=False
    ) as secure:
        with pytest.raises(TypeError, match="plain socket"):
            Options(URL, sock=secure)


def test_host_and_port_go_together():
    options = Options(URL, host="h", port=80)
    assert (options.host, options.port) == ("h", 80)


def test_the_path_of_a_unix_url():
    assert Options("ws+unix:/s:/x").unix_path == "/s"
    assert Options("ws+unix:/s:/x", unix_path="/t").unix_path == "/t"


def test_tls_options_for_a_url_that_never_gets_there():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    assert Options(URL, ssl=context).ssl is context  # a redirect may lead to wss
    with pytest.raises(ValueError, match="wss"):
        Options(URL, ssl=context, max_redirects=0)
    assert Options("wss://h/", ssl=context, proxy_ssl=context, max_redirects=0).proxy_ssl is context


@pytest.fixture
def no_ssl(monkeypatch):
    monkeypatch.setitem(sys.modules, "ssl", None)


def test_wss_without_the_ssl_module(no_ssl):
    Options(URL)
    with pytest.raises(InvalidURI, match="ssl module") as info:
        Options(f"wss://u:{PASSWORD}@h/")
    assert PASSWORD not in str(info.value)
    with pytest.raises(InvalidProxy, match="ssl module"):
        Options(URL, proxy="https://p")
    Options(URL, proxy="http://p")


def test_what_is_offered(monkeypatch):
    assert [offer.name for offer in Options(URL).offers] == ["permessage-deflate"]
    assert Options(URL, compression=None).offers == ()
    mine = wsmini.Deflate(level=1)
    assert Options(URL, extensions=[mine]).offers == (mine,)
    assert Options(URL, extensions=[mine], compression=None).offers == (mine,)

    class Other(wsmini.ExtensionOffer):
        name = "x-other"

    other = Other()
    assert [offer.name for offer in Options(URL, extensions=[other]).offers] == [
        "x-other",
        "permessage-deflate",
    ]
    monkeypatch.setattr(module, "available", lambda: False)
    assert Options(URL).offers == ()


def test_what_is_passed_on():
    jar, logger = http.cookiejar.CookieJar(), logging.getLogger("test")
    adapter = logging.LoggerAdapter(logger, {})
    options = Options(URL, cookies=jar, logger=adapter, auth=("u", ""), proxy="socks5://p")
    assert (options.cookies, options.logger, options.auth) == (jar, adapter, ("u", ""))
    assert options.fixed_proxy.host == "p"
    assert Options(URL, auth=lambda challenges, method, target: None).auth


def test_options_are_shown_without_secrets():
    options = Options(f"ws://u:{PASSWORD}@h/", auth=("u", PASSWORD), proxy=f"http://u:{PASSWORD}@p")
    assert PASSWORD not in repr(options)
