"""The URLs of proxies."""

from __future__ import annotations

import pytest
from tables import each_row

from wsmini.exceptions import InvalidProxy
from wsmini.sansio.proxy_url import Proxy, parse_proxy

PASSWORD = "pa55-phrase"

PROXIES = {
    "http://h:3128": ("http", "h", 3128, None, None),
    "http://h": ("http", "h", 80, None, None),
    "https://h": ("https", "h", 443, None, None),
    "socks4://h": ("socks4", "h", 1080, None, None),
    "socks4a://h": ("socks4a", "h", 1080, None, None),
    "socks5://h": ("socks5", "h", 1080, None, None),
    "socks5h://h:9": ("socks5h", "h", 9, None, None),
    "socks://h": ("socks5h", "h", 1080, None, None),
    "HTTP://H.Example/": ("http", "h.example", 80, None, None),
    " http://h \n": ("http", "h", 80, None, None),
    "h:3128": ("http", "h", 3128, None, None),
    "h": ("http", "h", 80, None, None),
    "u:p@h:1": ("http", "h", 1, "u", "p"),
    "http://u@h": ("http", "h", 80, "u", None),
    "http://u%40x:p%3A%2F@h": ("http", "h", 80, "u@x", "p:/"),
    "http://u:p@ss@h": ("http", "h", 80, "u", "p@ss"),
    "http://[::1]:3128": ("http", "::1", 3128, None, None),
    "[::1]": ("http", "::1", 80, None, None),
    "socks5://a%3Ab:c@h": ("socks5", "h", 1080, "a:b", "c"),
    f"socks5://{'u' * 255}:{'p' * 255}@h": ("socks5", "h", 1080, "u" * 255, "p" * 255),
}


@each_row("text", PROXIES)
def test_parse_proxy(text):
    assert parse_proxy(text) == PROXIES[text]


BAD_PROXIES = {
    "": "no host",
    "http://": "no host",
    "ftp://h": "scheme",
    "://h": "scheme",
    "http://h/path": "path",
    "http://h:0": "port",
    "http://h:99999": "port",
    "http://a b": "host",
    "http://::1": "brackets",
    f"http://a%3Ab:{PASSWORD}@h": "colon",
    f"https://a%3Ab:{PASSWORD}@h": "colon",
    f"ftp://u:{PASSWORD}@h": "scheme",
    f"http://u:{PASSWORD}%00@h": "control",
    f"http://u:{PASSWORD}@h:x": "port",
    f"socks5://u:{PASSWORD}{'p' * 255}@h": "255",
    f"socks5://{'u' * 256}:z{PASSWORD}@h": "255",
    f"socks5://{'ü' * 128}:{PASSWORD}@h": "255",
}


@each_row("text", BAD_PROXIES)
def test_bad_proxies(text):
    with pytest.raises(InvalidProxy) as info:
        parse_proxy(text)
    assert BAD_PROXIES[text] in str(info.value)
    assert PASSWORD not in str(info.value) + repr(info.value)
    assert info.value.__cause__ is None


@pytest.mark.parametrize("value", [False, 0, b"http://h", 3128, None])
def test_what_is_no_text(value):
    with pytest.raises(TypeError, match="proxy is a URL"):
        parse_proxy(value)


def test_a_proxy_is_shown_without_secrets():
    proxy = parse_proxy(f"socks5://user:{PASSWORD}@[::1]")
    assert str(proxy) == "socks5://***@[::1]:1080"
    assert repr(proxy) == "<Proxy socks5://***@[::1]:1080>"
    assert str(parse_proxy("h")) == "http://h:80"


def test_who_looks_names_up():
    schemes = ["http", "https", "socks4", "socks4a", "socks5", "socks5h"]
    remote = [s for s in schemes if Proxy(s, "h", 1, None, None).resolves_names]
    assert remote == ["http", "https", "socks4a", "socks5h"]
