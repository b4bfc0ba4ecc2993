"""What is shown of URLs and headers, and that no secret is."""

from __future__ import annotations

import subprocess
import sys

import pytest
from helpers import ROOT
from tables import each_row

from wsmini.sansio.http11 import Headers, Request, Response
from wsmini.sansio.redaction import redacted_header, redacted_uri, shown, tag

REDACTED = {
    "Authorization": True,
    "PROXY-authorization": True,
    "Cookie": True,
    "Cookie2": True,
    "Set-Cookie": True,
    "Set-Cookie2": True,
    "X-Sec-WebSocket-Key": True,
    "X-CSRF-Token": True,
    "X-Amz-Security-Token": True,
    "X-Api-Key": True,
    "apikey": True,
    "Ocp-Apim-Subscription-Key": True,
    "X-Auth": True,
    "X-Session-Id": True,
    "Client-Secret": True,
    "X-Password": True,
    "Host": False,
    "Sec-WebSocket-Key": False,
    "Sec-WebSocket-Accept": False,
    "WWW-Authenticate": False,
    "Proxy-Authenticate": False,
    "Keep-Alive": False,
    "X-Keyboard": False,
    "My-Authorization": True,
    "Set-Cookies": True,
    "Authentication-Info": True,
    "X-JWT": True,
    "X-Sig": True,
    "X-Signal": False,
    "X-Design": False,
}


@each_row("name, hidden", REDACTED.items(), ids=[*REDACTED])
def test_secrets_are_not_shown(name, hidden):
    assert redacted_header(name, "hunter2") == ("***" if hidden else "hunter2")
    headers = Headers([(name, "hunter2"), ("A", "b")])
    shown = "***" if hidden else "hunter2"
    assert str(headers) == f"{name}: {shown}\nA: b"
    assert repr(headers) == f"Headers([({name!r}, {shown!r}), ('A', 'b')])"
    for message in (Request("GET", "/", headers), Response(200, "OK", headers)):
        assert ("hunter2" in repr(message)) is not hidden
    assert headers[name] == "hunter2"


S = "hunter2"
T = tag(S)

URLS = {  # text -> what is shown
    "nothing secret": ("ws://h:80/a/b", "ws://h:80/a/b"),
    "value": (f"ws://h/?token={S}", f"ws://h/?token={T}"),
    "whatever its name": (f"/?symbol={S}&a=;b={S}", f"/?symbol={T}&{tag('a=')};b={T}"),
    "no pair": (f"/?{S}", f"/?{T}"),
    "base64": (f"/?{S}==", f"/?{tag(S + '==')}"),
    "padded value": (f"/?a={S}==", f"/?a={tag(S + '==')}"),
    "fragment": (f"/#access_token={S}", f"/#access_token={T}"),
    "both": (f"/?a={S}#b={S}", f"/?a={T}#b={T}"),
    "question mark behind #": (f"/#a?b={S}", f"/#a?b={T}"),
    "empty": ("ws://h/?#", "ws://h/?#"),
    "userinfo": (f"ws://a:{S}@h/", "ws://***@h/"),
    "userinfo, no scheme": (f"//a:{S}@h/", "//***@h/"),
    "proxy": (f"socks5://u:{S}@h:1", "socks5://***@h:1"),
    "any scheme": (f"a+-.9Z://{S}@h", "a+-.9Z://***@h"),
    "IPv6": (f"ws://{S}@[fe80::1%25eth0]:80/", "ws://***@[fe80::1%25eth0]:80/"),
    "@ in a query": (f"ws://h/?mail=a@{S}&token={S}", f"ws://h/?mail={tag('a@' + S)}&token={T}"),
    "@ in a relative query": (f"/x?mail={S}@x", f"/x?mail={tag(S + '@x')}"),
    "@ in a query alone": (f"?mail={S}@x", f"?mail={tag(S + '@x')}"),
    "@ in a path": ("ws://h/@a", "ws://h/@a"),
    "@ in both": (f"ws://{S}@h/@a?{S}@", f"ws://***@h/@a?{tag(S + '@')}"),
    # What isn't a URL.
    "slash in a password": (f"ws://a:{S}/{S}@h/?b={S}", f"ws://***@h/?b={T}"),
    "question mark in a password": (f"ws://a:{S}?{S}@h/", "ws://***"),
    "# in a password": (f"ws://a:{S}#{S}@h/", "ws://***"),
    "no host": (f"ws:///?a={S}@b", "ws://***"),
    "no scheme": (f"a:{S}@h", "***@h"),
    "bad schemes": (f"pass_word://{S}@h", "***@h"),
    "not ASCII in a scheme": (f"é://{S}@h", "***@h"),
    "digit": (f"9://{S}@h", "***@h"),
    "no colon": (f"ws//{S}@h", "***@h"),
    "backslashes": (f"ws:\\\\a:{S}@h", "***@h"),
    "slash and backslash": (f"/\\a:{S}@h", "***@h"),
    "brackets": (f"ws://{S}@[::1/", "ws://***@[::1/"),
    "behind brackets": (f"ws://{S}@[::1]x/", "ws://***@[::1]x/"),
    "space": (f"ws://a:{S} {S}@h", "ws://***@h"),
}


@each_row("text, expected", URLS.values(), ids=URLS)
def test_urls(text, expected):
    assert redacted_uri(text) == expected
    assert S not in expected


@pytest.mark.parametrize("name", ["Location", "refresh", "LINK", "Referer", "Content-Location"])
def test_headers_with_urls(name):
    assert redacted_header(name, f"ws://a:{S}@h/?b={S}") == f"ws://***@h/?b={T}"


def test_the_target_of_a_request():
    assert repr(Request("GET", f"/a?b={S}")) == f"Request('GET', '/a?b={T}', Headers([]))"


@pytest.mark.skipif(sys.platform == "emscripten", reason="no processes here")
def test_tags_are_the_same_within_a_process_only():
    assert tag("a") == tag("a") and len({tag(str(n)) for n in range(100)}) > 90
    assert len(T) == 5 and T[0] == "…" and int(T[1:], 16) >= 0
    program = "from wsmini.sansio.redaction import tag; print(ascii(tag('a') + tag('b')))"
    # Not even where hashes are made predictable.
    command = [sys.executable, "-c", program]
    outputs = {
        subprocess.check_output(command, cwd=ROOT, env={"PYTHONHASHSEED": "0"}) for _ in range(2)
    }
    assert len(outputs) == 2


SHOWN = {  # value -> text
    "str": ("a", "'a'"),
    "quotes": ("a'b", '"a\'b"'),
    "control characters": ("\r\n\x1b\u202e", r"'\r\n\x1b\u202e'"),
    "bytes": (b"\0a", r"b'\x00a'"),
    "number": (5, "5"),
    "None": (None, "None"),
    "exactly": ("x" * 118, "'" + "x" * 118 + "'"),
    "too long": ("x" * 119, "'" + "x" * 119 + "…"),
    "much too long": (b"x" * 10**6, "b'" + "x" * 118 + "…"),
    "long when shown": ("\0" * 100, "'" + r"\x00" * 29 + r"\x0" + "…"),
    "a long object": (list(range(1000)), str(list(range(1000)))[:120] + "…"),
}


@each_row("value, text", SHOWN.values(), ids=SHOWN)
def test_shown(value, text):
    assert shown(value) == text


def test_shown_with_a_limit():
    assert shown("a" * 200) == "'" + "a" * 119 + "…"
