"""Cookies of the handshake, with the standard library's jar."""

from __future__ import annotations

import copy
import http.cookiejar

import pytest
from tables import each_row

from wsmini.opening.cookies import cookie_header, store_cookies
from wsmini.sansio.http11 import Headers
from wsmini.sansio.uri import parse_uri

HOME = "ws://www.example.com/chat/room?x=1"


def stored(url, *values, jar=None, home=None):
    """A jar with what a response to a request of *url* sets."""
    jar = http.cookiejar.CookieJar() if jar is None else jar
    headers = Headers([("Set-Cookie", value) for value in values])
    store_cookies(jar, parse_uri(url), parse_uri(home or url), headers)
    return jar


def sent(jar, url, home=None):
    value = cookie_header(jar, parse_uri(url), parse_uri(home or url))
    return None if value is None else set(value.split("; "))


def test_several_cookies_are_stored_and_sent():
    jar = stored(HOME, "a=1; Path=/", "b=2; HttpOnly")
    assert sent(jar, HOME) == {"a=1", "b=2"}


def test_no_cookies():
    jar = stored(HOME)
    assert len(jar) == 0
    assert cookie_header(jar, parse_uri(HOME), parse_uri(HOME)) is None


URLS = {
    "the same": (HOME, "a=1", HOME, True),
    "with TLS": (HOME, "a=1", "wss://www.example.com/chat/", True),
    "another port": (HOME, "a=1", "ws://www.example.com:8080/chat/", True),
    "another path": (HOME, "a=1", "ws://www.example.com/other", False),
    "whole host": (HOME, "a=1; Path=/", "ws://www.example.com/other", True),
    "another host": (HOME, "a=1; Path=/", "ws://example.com/", False),
    "domain": (HOME, "a=1; Path=/; Domain=example.com", "ws://api.example.com/", True),
    "foreign domain": (HOME, "a=1; Path=/; Domain=other.example", "ws://other.example/", False),
    "secure to ws": ("wss://h.example/", "a=1; Secure", "ws://h.example/", False),
    "secure to wss": ("wss://h.example/", "a=1; Secure", "wss://h.example/", True),
    "expired": (HOME, "a=1; Max-Age=0", HOME, False),
    "IPv4": ("ws://127.0.0.1:8080/", "a=1", "ws://127.0.0.1:9090/", True),
    "IPv6": ("ws://[::1]:8080/", "a=1", "ws://[::1]:8080/x", True),
    "localhost": ("ws://localhost:8080/", "a=1", "ws://localhost:8080/", True),
    "Unix socket": ("ws+unix:/s:/", "a=1", "ws+unix:/s:/x", True),
}


@each_row("url, value, then, goes", URLS.values(), ids=URLS)
def test_where_cookies_go(url, value, then, goes):
    assert sent(stored(url, value), then) == ({"a=1"} if goes else None)


def test_a_cookie_is_replaced():
    jar = stored(HOME, "a=1")
    stored(HOME, "a=2", jar=jar)
    assert sent(jar, HOME) == {"a=2"}


@pytest.mark.parametrize("value", ["", "=", ";", "a=1; Expires=never", "\xff=\xfe", "a" * 5000])
def test_odd_values_break_nothing(value):
    stored(HOME, value)


def test_what_no_cookie_may_be():
    """A TAB would poison the jar's file, and other things its memory."""
    jar = stored(HOME, "a=b\tc", "b=" + "x" * 4095, "c=" + "é" * 2048, "d=" + "x" * 4094)
    assert [cookie.name for cookie in jar] == ["d"]


ADDRESSES = {
    "no domain": ("127.0.0.1", "a=1", True),
    "itself": ("127.0.0.1", "a=1; Domain=127.0.0.1", True),
    "the end of it": ("127.0.0.1", "a=1; Domain=.0.0.1", False),
    "another case": ("127.0.0.1", "a=1; Path=/; DOMAIN = .0.1", False),
    "several": ("127.0.0.1", "a=1; Domain=; domain=.1", False),
    "a name with digits": ("www.1and1.example", "a=1; Domain=.1and1.example", True),
}


@pytest.mark.parametrize("host, value, kept", ADDRESSES.values(), ids=ADDRESSES)
def test_an_address_is_in_no_domain_but_itself(host, value, kept):
    assert len(stored(f"ws://{host}/", value)) == kept


def test_as_many_cookies_of_a_domain_are_kept_as_browsers_do():
    jar = http.cookiejar.CookieJar()
    stored("ws://other.example/", "mine=1", jar=jar)
    for n in range(5):
        stored(HOME, *(f"c{n * 120 + i}=1; Path=/" for i in range(120)), jar=jar)
    names = {cookie.name for cookie in jar}
    assert len(names) == len(jar) == 181
    assert {"mine", *(f"c{n}" for n in range(480, 600))} < names


def test_a_full_jar_of_the_program_is_left_alone():
    jar = stored("ws://other.example/", *(f"a{n}=1" for n in range(180)))
    cookie = next(iter(jar))
    for n in range(50):
        extra = copy.copy(cookie)
        extra.name = f"extra{n}"
        jar.set_cookie(extra)
    stored(HOME, "a=1", jar=jar)
    stored(HOME, jar=jar)
    assert len(jar) == 231


def test_a_request_has_16_kib_of_cookies_at_most():
    jar = stored(HOME, *(f"{n:02}={'x' * 4000}; Path=/" for n in range(10)))
    jar = stored(HOME, "first=1; Path=/chat", jar=jar)
    value = cookie_header(jar, parse_uri(HOME), parse_uri(HOME))
    assert value.startswith("first=1; 00=") and len(value) == 9 + 4 * 4003 + 3 * 2
    exact = stored(HOME, *(f"{n}={'x' * size}" for n, size in enumerate([4092, 4092, 4092, 4094])))
    assert len(cookie_header(exact, parse_uri(HOME), parse_uri(HOME))) == 16384

    class Jar(http.cookiejar.CookieJar):
        def add_cookie_header(self, request):
            request.add_unredirected_header("Cookie", "x" * 20000)

    assert cookie_header(Jar(), parse_uri(HOME), parse_uri(HOME)) is None


def test_a_policy_may_refuse_hosts_that_nobody_asked_for():
    policy = http.cookiejar.DefaultCookiePolicy(strict_ns_unverifiable=True)
    jar = http.cookiejar.CookieJar(policy)
    elsewhere = "ws://elsewhere.test/"
    stored(elsewhere, "a=1", jar=jar, home=HOME)
    assert len(jar) == 0
    stored(elsewhere, "a=1", jar=jar)
    assert sent(jar, elsewhere) == {"a=1"}
    assert sent(jar, elsewhere, home=HOME) is None


class Rfc2965Jar(http.cookiejar.CookieJar):
    """A jar that asks for all that jars ask for."""

    def __init__(self):
        super().__init__(http.cookiejar.DefaultCookiePolicy(rfc2965=True, hide_cookie2=False))


def test_the_obsolete_headers_are_left_alone():
    jar = Rfc2965Jar()
    headers = Headers([("Set-Cookie2", 'b="2"; Version=1'), ("Set-Cookie", "a=1")])
    store_cookies(jar, parse_uri(HOME), parse_uri(HOME), headers)
    assert cookie_header(jar, parse_uri(HOME), parse_uri(HOME)).startswith("$Version=1; ")


def test_a_jar_that_looks_at_headers():
    class Jar(http.cookiejar.CookieJar):
        def add_cookie_header(self, request):
            assert not request.has_header("Cookie")
            assert request.get_header("Host") is None
            assert request.get_header("Host", "") == ""
            request.add_unredirected_header("Cookie2", "x")
            request.add_unredirected_header("Cookie", request.get_full_url())

    expected = "http://www.example.com/chat/room?x=1"
    assert cookie_header(Jar(), parse_uri(HOME), parse_uri(HOME)) == expected
