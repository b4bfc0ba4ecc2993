"""Proxies: which one to use, and what is said to them.

No sockets here: the proxy is a list of answers behind a stream of ours. Proxies that are reached
over sockets, by the whole opening, are in ``test_opening.py``.
"""

from __future__ import annotations

import errno
import socket
import urllib.request

import pytest
from helpers import splits
from tables import each_row

from wsmini.exceptions import (
    InvalidProxy,
    InvalidProxyMessage,
    ProxyError,
)
from wsmini.opening import proxy as module
from wsmini.opening.proxy import (
    choose_proxy,
    connect_socks4,
    connect_socks5,
    is_excluded,
)
from wsmini.opening.streams import READ, WRITE
from wsmini.sansio.response import ResponseParser
from wsmini.sansio.uri import DestinationRefused, Proxy, parse_proxy, parse_uri

PASSWORD = "pa55-phrase"

# -- which proxy --

WS, WSS = "ws://host.example/", "wss://host.example/"

CHOICES = {
    "none": (WS, {}, None),
    "ws": (WS, {"ws_proxy": "a"}, "a"),
    "http for ws": (WS, {"http_proxy": "a"}, "a"),
    "wss": (WSS, {"wss_proxy": "a"}, "a"),
    "https for wss": (WSS, {"https_proxy": "a"}, "a"),
    "not https for ws": (WS, {"https_proxy": "a", "wss_proxy": "a"}, None),
    "not http for wss": (WSS, {"http_proxy": "a", "ws_proxy": "a"}, None),
    "all": (WS, {"all_proxy": "a"}, "a"),
    "all for wss": (WSS, {"all_proxy": "a"}, "a"),
    "ws before http": (WS, {"ws_proxy": "a", "http_proxy": "b", "all_proxy": "c"}, "a"),
    "http before all": (WS, {"http_proxy": "b", "all_proxy": "c"}, "b"),
    "wss before https": (WSS, {"wss_proxy": "a", "https_proxy": "b", "all_proxy": "c"}, "a"),
    "https before all": (WSS, {"https_proxy": "b", "all_proxy": "c"}, "b"),
    "upper case": (WS, {"HTTP_PROXY": "a"}, "a"),
    "upper case of all": (WSS, {"ALL_PROXY": "a"}, "a"),
    "lower before upper": (WS, {"http_proxy": "a", "HTTP_PROXY": "b"}, "a"),
    "empty counts as none": (WS, {"ws_proxy": "", "http_proxy": " ", "all_proxy": "c"}, "c"),
    "empty lower, upper set": (WS, {"http_proxy": "", "HTTP_PROXY": "b"}, "b"),
    "CGI": (WS, {"HTTP_PROXY": "evil", "REQUEST_METHOD": "GET"}, None),
    "CGI, lower case": (WS, {"http_proxy": "a", "REQUEST_METHOD": "GET"}, "a"),
    "CGI, others": (WSS, {"HTTPS_PROXY": "a", "REQUEST_METHOD": "GET"}, "a"),
    "excluded": (WS, {"http_proxy": "a", "no_proxy": "example"}, None),
    "excluded in upper case": (WS, {"http_proxy": "a", "NO_PROXY": "*"}, None),
    "not excluded": (WS, {"http_proxy": "a", "no_proxy": "other.example"}, "a"),
    "excluded by port": (WSS, {"https_proxy": "a", "no_proxy": "host.example:443"}, None),
}


@pytest.mark.parametrize("url, environ, host", CHOICES.values(), ids=CHOICES)
def test_choose_proxy(url, environ, host, monkeypatch):
    monkeypatch.setattr(module.sys, "platform", "linux")
    monkeypatch.setattr(module.os, "environ", environ)
    proxy = choose_proxy(parse_uri(url))
    assert (proxy and proxy.host) == host


def test_the_environment_of_the_process(monkeypatch):
    for name in ("ws_proxy", "WS_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ws_proxy", "http://a:1")
    assert choose_proxy(parse_uri(WS)) == ("http", "a", 1, None, None)


def test_a_bad_proxy_in_the_environment(monkeypatch):
    monkeypatch.setattr(module.os, "environ", {"http_proxy": f"gopher://u:{PASSWORD}@h"})
    with pytest.raises(InvalidProxy) as info:
        choose_proxy(parse_uri(WS))
    assert PASSWORD not in str(info.value)


def test_a_bad_proxy_that_is_not_used(monkeypatch):
    monkeypatch.setattr(module.os, "environ", {"http_proxy": "gopher://h", "no_proxy": "*"})
    assert choose_proxy(parse_uri(WS)) is None


SYSTEM = {
    "win32": ("win32", {"https": "http://a:1", "http": "b"}, WSS, "http://a:1"),
    "darwin": ("darwin", {"http": "http://b:1"}, WS, "http://b:1"),
    "nothing": ("darwin", {}, WS, None),
    "other scheme": ("darwin", {"https": "http://b:1"}, WS, None),
    "socks on macOS": ("darwin", {"socks": "http://s:1"}, WS, "socks5h://s:1"),
    "socks on Windows": ("win32", {"socks": "socks://s:1"}, WSS, "socks4://s:1"),
    "http before socks": (
        "darwin",
        {"socks": "http://s:1", "http": "http://a:1"},
        WS,
        "http://a:1",
    ),
    "elsewhere": ("linux", {"http": "http://b:1"}, WS, None),
}


@pytest.mark.parametrize("platform, found, url, expected", SYSTEM.values(), ids=SYSTEM)
@pytest.mark.parametrize("excepted", [False, True])
def test_the_settings_of_the_system(platform, found, url, expected, excepted, monkeypatch):
    asked = []
    monkeypatch.setattr(module.sys, "platform", platform)
    monkeypatch.setattr(urllib.request, "getproxies", lambda: found)
    monkeypatch.setattr(urllib.request, "proxy_bypass", lambda host: asked.append(host) or excepted)
    monkeypatch.setattr(module.os, "environ", {})
    proxy = choose_proxy(parse_uri(url))
    assert proxy == (parse_proxy(expected) if expected and not excepted else None)
    assert asked == (["host.example"] if expected else [])


def test_the_environment_comes_before_the_system(monkeypatch):
    monkeypatch.setattr(module.sys, "platform", "win32")
    monkeypatch.setattr(urllib.request, "getproxies", lambda: {"http": "system"})
    environ = {"all_proxy": "a", "no_proxy": "host.example"}
    monkeypatch.setattr(module.os, "environ", environ)
    assert choose_proxy(parse_uri(WS)) is None


EXCLUDED = [
    ("", "h.example", 80, False),
    ("*", "h.example", 80, True),
    ("other, *", "h.example", 80, True),
    ("*:80", "h.example", 80, True),
    ("*:80", "h.example", 443, False),
    ("h.example", "h.example", 80, True),
    ("H.Example", "h.example", 80, True),
    ("h.example", "H.example.", 80, True),
    ("h.example.", "h.example", 80, True),
    ("example", "h.example", 80, True),
    (".example", "h.example", 80, True),
    ("*.example", "h.example", 80, True),
    ("*.h.example", "h.example", 80, True),
    ("xample", "h.example", 80, False),
    ("ample", "example", 80, False),
    ("x.h.example", "h.example", 80, False),
    ("a b,c ,\td", "d", 80, True),
    ("a b,c ,\td", "c", 80, True),
    (",, ,", "h.example", 80, False),
    (".", "h.example", 80, False),
    ("h.example:80", "h.example", 80, True),
    ("h.example:80", "h.example", 443, False),
    ("h.example:", "h.example", 443, True),
    ("h.example:http", "h.example", 80, False),
    ("localhost", "localhost", 80, True),
    ("10.0.0.1", "10.0.0.1", 80, True),
    ("10.0.0.1:80", "10.0.0.1", 80, True),
    ("10.0.0.1:81", "10.0.0.1", 80, False),
    ("0.0.1", "10.0.0.1", 80, False),
    (".1", "10.0.0.1", 80, False),
    ("10.0.0.0/8", "10.255.0.1", 80, True),
    ("10.0.0.0/8", "11.0.0.1", 80, False),
    ("10.0.0.0/8:80", "10.1.1.1", 80, True),
    ("10.0.0.0/8:81", "10.1.1.1", 80, False),
    ("192.168.1.77/24", "192.168.1.1", 80, True),
    ("192.168.1.128/25", "192.168.1.127", 80, False),
    ("0.0.0.0/0", "8.8.8.8", 80, True),
    ("0.0.0.0/0", "h.example", 80, False),
    ("0.0.0.0/0", "::1", 80, False),
    ("10.0.0.1/32", "10.0.0.1", 80, True),
    ("10.0.0.0/33", "10.0.0.0", 80, False),
    ("10.0.0.0/-1", "10.0.0.0", 80, False),
    ("10.0.0.0/", "10.0.0.0", 80, False),
    ("10.0.0.0/x", "10.0.0.0", 80, False),
    ("10.0.0.0/²", "10.0.0.0", 80, False),
    ("::1", "::1", 80, True),
    ("0:0::1", "::1", 80, True),
    ("[::1]", "::1", 80, True),
    ("[::1]:80", "::1", 80, True),
    ("[::1]:81", "::1", 80, False),
    ("fe80::/10", "fe80::1%eth0", 80, True),
    ("fe80::1%eth0", "fe80::1%eth0", 80, True),
    ("2001:db8::/32", "2001:db8:1::1", 80, True),
    ("2001:db8::/32", "2001:db9::1", 80, False),
    ("[2001:db8::]/32", "2001:db8:1::1", 80, True),
    ("::/0", "10.0.0.1", 80, False),
    ("[", "::1", 80, False),
]


@each_row("no_proxy, host, port, expected", EXCLUDED)
def test_is_excluded(no_proxy, host, port, expected):
    assert is_excluded(host, port, no_proxy) is expected


# -- through it --


class Stream:
    """A stream on which a proxy says *chunks*. It blocks before each call that does something."""

    sock = "the socket"
    unsent = unread = False

    def __init__(self, chunks):
        self.chunks = list(chunks)
        self.sent = b""
        self.blocks = True

    def _block(self):
        self.blocks = not self.blocks
        if not self.blocks:
            raise BlockingIOError(errno.EAGAIN, "not now")

    def send(self, data, flags=0):
        self._block()
        self.sent += bytes(data[:5])
        return min(len(data), 5)

    def recv(self, size, flags=0):
        self._block()
        if not self.chunks:
            return b""
        data = self.chunks[0][:size]
        self.chunks[0] = self.chunks[0][size:]
        if not self.chunks[0]:
            del self.chunks[0]
        return data

    def flush(self, flags=0):
        return True


def talk(connect, data, *args, chunks=None):
    """What was sent to a proxy that says *data*."""
    stream = Stream([data] if chunks is None else chunks)
    for wanted in connect(stream, *args):
        assert wanted.deadline is None
        assert wanted.sockets in ({"the socket": READ}, {"the socket": WRITE})
    assert not stream.chunks
    return stream.sent


def each(connect, data, *args):
    """The same, however the answer is cut."""
    [sent] = {talk(connect, b"", *args, chunks=[c for c in cut if c]) for cut in splits(data)}
    return sent


def connect_http(stream, target, headers):
    return module.connect_http(stream, ResponseParser(method="CONNECT"), target, headers)


def test_an_http_proxy():
    headers = [("User-Agent", "me"), ("Proxy-Authorization", "x")]
    sent = each(connect_http, b"HTTP/1.1 200 Go ahead\r\nVia: x\r\n\r\n", "h.example:80", headers)
    assert sent == (
        b"CONNECT h.example:80 HTTP/1.1\r\nHost: h.example:80\r\n"
        b"User-Agent: me\r\nProxy-Authorization: x\r\n\r\n"
    )


GOOD = {
    "HTTP/1.0": b"HTTP/1.0 200 Connection established\r\n\r\n",
    "no phrase": b"HTTP/1.1 200\r\n\r\n",
    "201": b"HTTP/1.1 201 x\r\n\r\n",
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",  # RFC 9110, 9.3.6: ignored
    "interim": b"HTTP/1.1 103 x\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
}


@pytest.mark.parametrize("answer", GOOD.values(), ids=GOOD)
def test_answers_that_open_the_tunnel(answer):
    assert each(connect_http, answer, "[::1]:443", []).startswith(b"CONNECT [::1]:443 HTTP/1.1\r\n")


BAD = {
    "nothing": b"",
    "cut off": b"HTTP/1.1 200 OK\r\n",
    "not HTTP": b"SSH-2.0-x\r\n",
    "SOCKS": b"\5\xff",
    "data behind": b"HTTP/1.1 200 OK\r\n\r\nhello",
}


@pytest.mark.parametrize("answer", BAD.values(), ids=BAD)
def test_answers_that_make_no_sense(answer):
    with pytest.raises(InvalidProxyMessage):
        talk(connect_http, answer, "h:80", [])


def address(host, port=80):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return (family, socket.SOCK_STREAM, 6, "", (host, port))


ANONYMOUS = Proxy("socks5h", "p", 1080, None, None)
KNOWN = Proxy("socks5h", "p", 1080, "user", PASSWORD)
BOUND = b"\5\0\0\1\x7f\0\0\1\x12\x34"

DESTINATIONS = {
    "name": ("h.example", None, b"\3\x09h.example"),
    "IPv4": ("192.0.2.1", None, b"\1\xc0\0\2\1"),
    "IPv6": ("2001:db8::1", None, b"\4\x20\1\x0d\xb8" + bytes(11) + b"\1"),
    "IPv6 with a zone": ("fe80::1%eth0", None, b"\4\xfe\x80" + bytes(13) + b"\1"),
    "ours": ("h.example", address("192.0.2.1"), b"\1\xc0\0\2\1"),
    "our IPv6": ("h.example", address("2001:db8::1"), b"\4\x20\1\x0d\xb8" + bytes(11) + b"\1"),
    "longest": ("h." * 126 + "x", None, b"\3\xfd" + b"h." * 126 + b"x"),
}


@pytest.mark.parametrize("host, found, expected", DESTINATIONS.values(), ids=DESTINATIONS)
def test_socks5(host, found, expected):
    sent = each(connect_socks5, b"\5\0" + BOUND, ANONYMOUS, host, 0x1234, found)
    assert sent == b"\5\1\0" + b"\5\1\0" + expected + b"\x12\x34"


BOUND_TO = {
    "IPv4": b"\1" + bytes(6),
    "IPv6": b"\4" + bytes(18),
    "name": b"\3\4host\0\0",
    "empty name": b"\3\0\0\0",
}


@pytest.mark.parametrize("bound", BOUND_TO.values(), ids=BOUND_TO)
def test_where_socks5_connects_from(bound):
    each(connect_socks5, b"\5\0\5\0\0" + bound, ANONYMOUS, "h", 80, None)


@pytest.mark.parametrize("method", [0, 2])
def test_socks5_with_a_password(method):
    answer = {0: b"\5\0", 2: b"\5\2\1\0"}[method]
    sent = each(connect_socks5, answer + BOUND, KNOWN, "h", 80, None)
    login = b"\1\4user\x0b" + PASSWORD.encode() if method else b""
    assert sent == b"\5\2\0\2" + login + b"\5\1\0\3\1h\0\x50"


def test_socks5_with_a_user_only_in_utf8():
    proxy = Proxy("socks5", "p", 1080, "ü", None)
    sent = each(connect_socks5, b"\5\2\1\0" + BOUND, proxy, "h", 80, None)
    assert sent.startswith(b"\5\2\0\2" + b"\1\2\xc3\xbc\0" + b"\5\1\0")


SOCKS5_REPLIES = {
    1: "general failure",
    2: "not allowed",
    3: "network unreachable",
    4: "host unreachable",
    5: "connection refused",
    6: "TTL expired",
    7: "command not supported",
    8: "address type not supported",
    9: "reply 9",
    255: "reply 255",
}


@each_row("reply", SOCKS5_REPLIES)
def test_socks5_refuses(reply):
    answer = b"\5\0\5" + bytes([reply]) + b"\0\1"  # and perhaps no address at all
    with pytest.raises(DestinationRefused, match=SOCKS5_REPLIES[reply]):
        talk(connect_socks5, answer, ANONYMOUS, "h", 80, None)


SOCKS5_ERRORS = {
    "wants credentials": (b"\5\xff", ANONYMOUS, ProxyError, "wants credentials"),
    "wants a password from nobody": (b"\5\2", ANONYMOUS, ProxyError, "wants credentials"),
    "wants something else": (b"\5\xff", KNOWN, ProxyError, "another way"),
    "refuses the password": (b"\5\2\1\1", KNOWN, ProxyError, "refused the user or the password"),
    "an HTTP proxy": (b"HT", ANONYMOUS, InvalidProxyMessage, "SOCKS version 5, not 72"),
    "SOCKS4": (b"\0\x5b", ANONYMOUS, InvalidProxyMessage, "SOCKS version 5, not 0"),
    "another version later": (b"\5\0\4\0\0\1", ANONYMOUS, InvalidProxyMessage, "not 4"),
    "unknown address": (b"\5\0\5\0\0\2", ANONYMOUS, InvalidProxyMessage, "type 2"),
}


@pytest.mark.parametrize("answer, proxy, kind, text", SOCKS5_ERRORS.values(), ids=SOCKS5_ERRORS)
def test_socks5_errors(answer, proxy, kind, text):
    with pytest.raises(ProxyError, match=text) as info:
        talk(connect_socks5, answer, proxy, "h", 80, None)
    assert type(info.value) is kind
    assert PASSWORD not in str(info.value)


@each_row("size", range(len(b"\5\2\1\0" + BOUND)))
def test_socks5_ends_early(size):
    answer = (b"\5\2\1\0" + BOUND)[:size]
    with pytest.raises(InvalidProxyMessage, match="middle of SOCKS"):
        talk(connect_socks5, answer, KNOWN, "h", 80, None)


SOCKS4 = Proxy("socks4a", "p", 1080, None, None)
SOCKS4_DESTINATIONS = {
    "name": ("h.example", None, b"\0\0\0\1", b"h.example\0"),
    "IPv4": ("192.0.2.1", None, b"\xc0\0\2\1", b""),
    "ours": ("h.example", address("192.0.2.1"), b"\xc0\0\2\1", b""),
}


@each_row("host, found, packed, name", SOCKS4_DESTINATIONS.values())
@each_row("user", [None, "user"])
@each_row("version", [0, 4])
def test_socks4(host, found, packed, name, user, version):
    proxy = SOCKS4._replace(username=user)
    sent = each(connect_socks4, bytes([version, 90]) + bytes(6), proxy, host, 0x1234, found)
    assert sent == b"\4\1\x12\x34" + packed + (user or "").encode() + b"\0" + name


@pytest.mark.parametrize("reply", [0, 91, 92, 93, 255])
def test_socks4_refuses(reply):
    text = module._SOCKS4_REPLIES.get(reply, f"reply {reply}")
    with pytest.raises(DestinationRefused, match=text):
        talk(connect_socks4, bytes([0, reply]) + bytes(6), SOCKS4, "h", 80, None)


@pytest.mark.parametrize(
    "host, found", [("::1", None), ("fe80::1%lo", None), ("h", address("::1"))]
)
def test_socks4_knows_no_ipv6(host, found):
    with pytest.raises(ProxyError, match="IPv4"):
        talk(connect_socks4, b"", SOCKS4, host, 80, found)


@pytest.mark.parametrize("answer", [b"HTTP/1.1", b"\5\xff\0\0\0\0\0\0", b"\0\x5a\0", b""])
def test_socks4_errors(answer):
    with pytest.raises(InvalidProxyMessage):
        talk(connect_socks4, answer, SOCKS4, "h", 80, None)
