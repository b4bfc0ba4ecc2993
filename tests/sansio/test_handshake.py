"""The opening handshake: what is asked for, and which answers are accepted."""

from __future__ import annotations

import binascii
import os
import sys
import types
from collections import OrderedDict

import pytest
from helpers import splits
from tables import each_row

from wsmini.exceptions import (
    InvalidHeader,
    InvalidStatus,
    InvalidUpgrade,
    InvalidURI,
    NegotiationError,
)
from wsmini.sansio import handshake
from wsmini.sansio.deflate import Deflate
from wsmini.sansio.extensions import Extension, ExtensionOffer
from wsmini.sansio.handshake import (
    accept_key,
    build_request,
    check_response,
    check_subprotocols,
    make_key,
    tokens,
    user_headers,
)
from wsmini.sansio.http11 import Headers, Response
from wsmini.sansio.response import ResponseParser
from wsmini.sansio.uri import parse_uri

KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # RFC 6455, 1.3
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
URI = parse_uri("ws://example.com/chat?x=1")


class Mark(ExtensionOffer):
    """An extension that changes nothing."""

    def __init__(self, name, params=()):
        self.name = name
        self.params = list(params)

    def offer(self):
        return self.params

    def accept(self, params, accepted):
        if params != self.params:
            raise self.refusal(params, "not as offered")
        return Extension()


def request(additional=(), uri=URI, **options):
    return build_request(uri, KEY, additional=user_headers(additional), **options)


# -- keys --


def test_the_accept_key_of_rfc_6455():
    assert accept_key(KEY) == ACCEPT


def forbidden(data):
    raise ValueError("SHA-1 is not available in FIPS mode")


@pytest.mark.parametrize("module", [None, types.SimpleNamespace(sha1=forbidden)])
def test_accept_keys_where_only_hashlib_may_make_them(module, monkeypatch):
    pytest.importorskip("_hashlib", reason="without OpenSSL, hashlib's is _sha1's")
    monkeypatch.setitem(sys.modules, "_sha1", module)
    monkeypatch.setattr(handshake, "_sha1", None)
    assert accept_key(KEY) == ACCEPT


def test_keys_are_16_random_bytes(monkeypatch):
    keys = {make_key() for _ in range(100)}
    assert len(keys) == 100
    assert {len(binascii.a2b_base64(key)) for key in keys} == {16}
    monkeypatch.setattr(os, "urandom", lambda size: b"the sample nonce"[:size])
    assert make_key() == KEY


# -- requests --


def test_the_plain_request():
    assert request().serialize() == (
        b"GET /chat?x=1 HTTP/1.1\r\n"
        b"Host: example.com\r\n"
        b"Upgrade: websocket\r\n"
        b"Connection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        b"Sec-WebSocket-Version: 13\r\n"
        b"\r\n"
    )


def test_the_full_request():
    found = request(
        origin="http://example.com",
        user_agent="x/1",
        subprotocols=["chat", "superchat"],
        offers=[Mark("x-a", [("b", None), ("c", "1")]), Mark("x-d")],
        additional={"X-More": "1"},
    )
    assert found.method == "GET"
    assert found.target == "/chat?x=1"
    assert found.headers.items()[4:] == [
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Extensions", "x-a; b; c=1, x-d"),
        ("Sec-WebSocket-Protocol", "chat, superchat"),
        ("Origin", "http://example.com"),
        ("User-Agent", "x/1"),
        ("X-More", "1"),
    ]


HOSTS = {
    "ws://example.com": "example.com",
    "ws://example.com:80": "example.com",
    "ws://example.com:8080": "example.com:8080",
    "wss://example.com:443/": "example.com",
    "wss://example.com:80/": "example.com:80",
    "ws://[::1]:8080": "[::1]:8080",
    "ws://user:secret@EXAMPLE.com": "example.com",
    "ws+unix:/run/x.sock:/chat": "localhost",
}


@pytest.mark.parametrize("url, host", HOSTS.items())
def test_host(url, host):
    assert request(uri=parse_uri(url)).headers.items()[0] == ("Host", host)


OFFERED = {"origin": "o", "user_agent": "u", "subprotocols": ["s"]}
DEFAULTS = [
    ("Host", "example.com"),
    ("Upgrade", "websocket"),
    ("Connection", "Upgrade"),
    ("Sec-WebSocket-Key", KEY),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Protocol", "s"),
    ("Origin", "o"),
    ("User-Agent", "u"),
]


def changed(*changes, behind=()):
    """The default headers with some replaced, in their places, and more behind them."""
    changes = dict(changes)
    found = [changes.get(name, (name, value)) for name, value in DEFAULTS]
    return [pair for pair in found if pair is not None] + list(behind)


ADDITIONAL = {  # additional headers -> all headers
    "none": (None, changed()),
    "empty mapping": ({}, changed()),
    "empty list": ([], changed()),
    "mapping": ({"B": "1", "A": "2"}, changed(behind=[("B", "1"), ("A", "2")])),
    "pairs": ([("B", "1"), ("A", "2")], changed(behind=[("B", "1"), ("A", "2")])),
    "lists as pairs": ([["B", "1"]], changed(behind=[("B", "1")])),
    "iterator": (iter([("B", "1")]), changed(behind=[("B", "1")])),
    "headers": (Headers([("B", "1"), ("b", "2")]), changed(behind=[("B", "1"), ("b", "2")])),
    "other mapping": (OrderedDict(B="1"), changed(behind=[("B", "1")])),
    "duplicates": (
        [("A", "1"), ("B", "2"), ("a", "3")],
        changed(behind=[("A", "1"), ("B", "2"), ("a", "3")]),
    ),
    "list of values": (
        {"A": ["1", "2"], "B": ("3",)},
        changed(behind=[("A", "1"), ("A", "2"), ("B", "3")]),
    ),
    "replaced in its place": (
        {"origin": "x"},
        changed(("Origin", ("origin", "x"))),
    ),
    "Host stays in front": (
        {"X-A": "1", "HOST": "other:1"},
        changed(("Host", ("HOST", "other:1")), behind=[("X-A", "1")]),
    ),
    "replaced by several": (
        {"User-Agent": ["x", "y"]},
        changed(("User-Agent", ("User-Agent", "x")), behind=[("User-Agent", "y")]),
    ),
    "removed": ({"user-agent": None, "Host": None}, changed(("User-Agent", None), ("Host", None))),
    "removed by an empty list": ({"Origin": []}, changed(("Origin", None))),
    "removed and added": (
        [("Origin", None), ("X", "1"), ("Origin", "x")],
        changed(("Origin", None), behind=[("X", "1"), ("Origin", "x")]),
    ),
    "removed what isn't there": ({"X": None}, changed()),
    "removed twice": ([("Origin", None), ("Origin", None)], changed(("Origin", None))),
    "empty value": (
        {"Origin": "", "X": ""},
        changed(("Origin", ("Origin", "")), behind=[("X", "")]),
    ),
    "not ASCII": ({"X": "Zürich €"}, changed(behind=[("X", "Zürich €")])),
    "credentials": (
        {"Authorization": "Bearer t", "Cookie": "a=b"},
        changed(behind=[("Authorization", "Bearer t"), ("Cookie", "a=b")]),
    ),
}


@each_row("additional, expected", ADDITIONAL.values(), ids=ADDITIONAL)
def test_additional_headers(additional, expected):
    found = request(additional, **OFFERED)
    assert found.headers.items() == expected
    lines = found.serialize().split(b"\r\n")
    assert lines[1:-2] == [f"{name}: {value}".encode() for name, value in expected]


RESERVED = {
    "Upgrade": "wsmini sets it",
    "connection": "wsmini sets it",
    "SEC-WEBSOCKET-KEY": "wsmini sets it",
    "Sec-WebSocket-Version": "wsmini sets it",
    "Sec-WebSocket-Accept": "belongs to the response",
    "Sec-WebSocket-Extensions": "extensions or compression",
    "Sec-WebSocket-Protocol": "use subprotocols",
    "Content-Length": "no body",
    "Transfer-Encoding": "no body",
}


@each_row("value", ["x", None, [], ["x", "y"]], ids=["value", "None", "[]", "list"])
@each_row("name, hint", RESERVED.items())
def test_reserved_headers_are_refused_with_a_hint(name, value, hint):
    with pytest.raises(ValueError, match=f"^{name} can't be set .*{hint}"):
        user_headers({"X": "1", name: value})


@pytest.mark.parametrize(
    "additional",
    [
        {"Host": ["a", "b"]},
        [("Host", "a"), ("host", "b")],
        [("Host", None), ("Host", "b")],
    ],
)
def test_there_is_one_host_at_most(additional):
    with pytest.raises(ValueError, match="more than one Host"):
        user_headers(additional)


WRONG_TYPES = {
    "str": "X: 1",
    "bytes": b"X: 1",
    "number": 5,
    "names": ["X"],
    "two letters": ["XY"],
    "triples": [("X", "1", "2")],
    "numbers": [1, 2],
    "name is bytes": {b"X": "1"},
    "name is a number": {1: "1"},
    "name is None": {None: None},
    "value is bytes": {"X": b"1"},
    "value is a number": {"X": 1},
    "values are numbers": {"X": [1]},
    "None among values": {"X": ["1", None]},
    "value is a mapping": {"X": {"a": 1}},
}


@each_row("additional", WRONG_TYPES.values(), ids=WRONG_TYPES)
def test_what_are_no_headers(additional):
    with pytest.raises(TypeError):
        user_headers(additional)


# -- nothing breaks out of its place --

BREAKS = {
    "CRLF": "a\r\nX-Evil: 1",
    "CR": "a\rX-Evil: 1",
    "LF": "a\nX-Evil: 1",
    "NUL": "a\0X-Evil: 1",
    "at the end": "a\n",
    "at the start": "\na",
}
ARGUMENTS = {  # whatever makes the request of an argument
    "URL": lambda text: request(uri=parse_uri(f"ws://example.com/{text}")),
    "query": lambda text: request(uri=parse_uri(f"ws://example.com/?{text}")),
    "host": lambda text: request(uri=parse_uri(f"ws://{text}/")),
    "header name": lambda text: request({text: "1"}),
    "name of a removed header": lambda text: request({text: None}),
    "header value": lambda text: request({"X": text}),
    "value among several": lambda text: request({"X": ["1", text]}),
    "replaced header": lambda text: request({"Host": text}),
    "origin": lambda text: request(origin=text),
    "user agent": lambda text: request(user_agent=text),
    "subprotocol": lambda text: request(subprotocols=check_subprotocols([text])),
    "unchecked subprotocol": lambda text: request(subprotocols=[text]),
    "extension": lambda text: request(offers=[Mark(text)]),
    "extension parameter": lambda text: request(offers=[Mark("x", [(text, None)])]),
    "value of a parameter": lambda text: request(offers=[Mark("x", [("a", text)])]),
}


@each_row("make", ARGUMENTS.values(), ids=ARGUMENTS)
def test_line_breaks_and_nul_are_refused_everywhere(make):
    for text in BREAKS.values():
        with pytest.raises(ValueError) as caught:
            make(text).serialize()
        assert isinstance(caught.value, InvalidURI) or "\n" not in str(caught.value)


# -- subprotocols --


@pytest.mark.parametrize("given", [[], ("a",), ["b", "a"], iter(["a", "A"])])
def test_subprotocols(given):
    found = check_subprotocols(given)
    assert isinstance(found, list)
    assert found in ([], ["a"], ["b", "a"], ["a", "A"])


@pytest.mark.parametrize("given", [[""], ["a b"], ["a,b"], ["é"], ["a\n"], ["a", "b", "a"]])
def test_subprotocols_that_cannot_be_asked_for(given):
    with pytest.raises(ValueError, match="subprotocol"):
        check_subprotocols(given)


@pytest.mark.parametrize("given", ["chat", b"chat", [1], ["a", None], [b"a"]])
def test_what_are_no_subprotocols(given):
    with pytest.raises(TypeError, match="subprotocol"):
        check_subprotocols(given)


# -- responses --


def response(*extra, status=101, version="1.1", **changes):
    """A good response; header names with ``_``, ``None`` to leave one out, a list for several."""
    headers = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Accept": ACCEPT}
    headers.update({name.replace("_", "-"): value for name, value in changes.items()})
    pairs = [
        (name, one)
        for name, value in headers.items()
        if value is not None
        for one in (value if isinstance(value, list) else [value])
    ]
    return Response(status, "Switching Protocols", [*pairs, *extra], http_version=version)


def check(found, offers=(), subprotocols=()):
    return check_response(found, KEY, offers, subprotocols)


GOOD = {
    "plain": response(),
    "any case": response(Upgrade="WebSocket", Connection="UPGRADE"),
    "names in any case": Response(
        101, "", {"UPGRADE": "websocket", "connection": "upgrade", "sec-websocket-accept": ACCEPT}
    ),
    "keep-alive": response(Connection="keep-alive, Upgrade"),
    "keep-alive behind": response(Connection="Upgrade , keep-alive"),
    "several Connection": response(Connection=["keep-alive", "upgrade"]),
    "several Upgrade": response(Upgrade=["h2c", "websocket"]),
    "list of Upgrade": response(Upgrade="h2c,\twebsocket"),
    "empty elements": response(Connection=", ,upgrade,"),
    "the same twice": response(Upgrade=["websocket", "websocket"]),
    "no phrase": Response(101, "", response().headers),
    "HTTP/1.0": response(version="1.0"),
    "others": response(("Server", "x"), ("Set-Cookie", "a=b"), ("Content-Length", "0")),
}


@each_row("found", GOOD.values(), ids=GOOD)
def test_responses_that_are_accepted(found):
    assert check(found) == ([], None)


REFUSED = {  # response -> exception, text
    "200": (response(status=200), InvalidStatus, "HTTP 200"),
    "302": (response(status=302), InvalidStatus, "HTTP 302"),
    "401": (response(status=401), InvalidStatus, "HTTP 401"),
    "status in HTTP/1.0": (response(status=403, version="1.0"), InvalidStatus, "HTTP 403"),
    "no Upgrade": (response(Upgrade=None), InvalidUpgrade, "missing Upgrade"),
    "empty Upgrade": (response(Upgrade=""), InvalidUpgrade, "Upgrade header: ''"),
    "another Upgrade": (response(Upgrade="h2c"), InvalidUpgrade, "Upgrade header: 'h2c'"),
    "part of Upgrade": (response(Upgrade="websockets"), InvalidUpgrade, "'websockets'"),
    "versioned Upgrade": (response(Upgrade="websocket/13"), InvalidUpgrade, "websocket/13"),
    "Upgrade with the Kelvin sign": (
        response(Upgrade="WEBSOC\u212aET"),
        InvalidUpgrade,
        "Upgrade header",
    ),
    "no Connection": (response(Connection=None), InvalidUpgrade, "missing Connection"),
    "another Connection": (
        response(Connection="keep-alive"),
        InvalidUpgrade,
        "Connection header: 'keep-alive'",
    ),
    "part of Connection": (response(Connection="no upgrade"), InvalidUpgrade, "no upgrade"),
    "no Accept": (
        response(Sec_WebSocket_Accept=None),
        InvalidUpgrade,
        "missing Sec-WebSocket-Accept",
    ),
    "empty Accept": (response(Sec_WebSocket_Accept=""), InvalidUpgrade, "Accept header: ''"),
    "key as Accept": (response(Sec_WebSocket_Accept=KEY), InvalidUpgrade, KEY),
    "Accept in another case": (
        response(Sec_WebSocket_Accept=ACCEPT.upper()),
        InvalidUpgrade,
        ACCEPT.upper()[:9],
    ),
    "longer Accept": (response(Sec_WebSocket_Accept=ACCEPT + "="), InvalidUpgrade, "Accept"),
    "Accept twice": (
        response(Sec_WebSocket_Accept=[ACCEPT, ACCEPT]),
        InvalidUpgrade,
        f"{ACCEPT}, {ACCEPT}"[:30].replace("+", "[+]"),
    ),
    "two Accepts": (response(Sec_WebSocket_Accept=[ACCEPT, "x"]), InvalidUpgrade, "Accept"),
}


@each_row("found, exception, text", REFUSED.values(), ids=REFUSED)
def test_responses_that_are_refused(found, exception, text):
    with pytest.raises(exception, match=text) as caught:
        check(found)
    assert type(caught.value) is exception
    if exception is InvalidStatus:
        assert caught.value.response is found


def test_a_long_value_is_not_shown_whole():
    with pytest.raises(InvalidUpgrade) as caught:
        check(response(Upgrade="x" * 8000))
    assert len(str(caught.value)) < 300


def test_space_around_the_accept_key_is_dropped_on_the_way():
    for version in (b"1.1", b"1.0"):
        data = (
            b"HTTP/" + version + b" 101\n"
            b"upgrade:WebSocket\n"
            b"CONNECTION: Keep-Alive ,Upgrade\n"
            b"Sec-WebSocket-Accept: \t" + ACCEPT.encode() + b" \n\n\x81\x01a"
        )
        for chunks in splits(data):
            parser = ResponseParser()
            for chunk in chunks:
                parser.receive_data(chunk)
            assert parser.rest == b"\x81\x01a"
            assert check(parser.response) == ([], None)


PROTOCOL = "Sec-WebSocket-Protocol"
EXTENSIONS = "Sec-WebSocket-Extensions"

CHOSEN = {  # subprotocols asked for, header values -> the chosen one
    "none": ([], [], None),
    "none of one": (["a"], [], None),
    "first": (["a", "b"], ["a"], "a"),
    "second": (["a", "b"], ["b"], "b"),
    "only": (["chat.v1"], ["chat.v1"], "chat.v1"),
    "empty": (["a"], [""], None),
    "empty, unrequested": ([], [""], None),
    "one of two is empty": (["a"], ["", "a"], "a"),
}


@pytest.mark.parametrize("wanted, values, expected", CHOSEN.values(), ids=CHOSEN)
def test_the_chosen_subprotocol(wanted, values, expected):
    found = response(*((PROTOCOL, value) for value in values))
    assert check(found, subprotocols=wanted) == ([], expected)


WRONGLY_CHOSEN = {  # subprotocols asked for, header values -> text
    "unrequested": ([], ["a"], "'a': none was asked for"),
    "another": (["a", "b"], ["c"], "'c': only a, b was asked for"),
    "another case": (["chat"], ["Chat"], "'Chat': only chat"),
    "a list": (["a", "b"], ["a, b"], "'a, b': only"),
    "two headers": (["a", "b"], ["a", "b"], "more than one"),
    "the same twice": (["a"], ["a", "a"], "more than one"),
}


@pytest.mark.parametrize("wanted, values, text", WRONGLY_CHOSEN.values(), ids=WRONGLY_CHOSEN)
def test_a_subprotocol_that_cannot_be_chosen(wanted, values, text):
    found = response(*((PROTOCOL, value) for value in values))
    with pytest.raises(NegotiationError, match=text) as caught:
        check(found, subprotocols=wanted)
    assert caught.value.name == PROTOCOL


def test_extensions_are_negotiated():
    offers = [Mark("x-a"), Deflate(), Mark("x-b", [("c", "1")])]
    extensions, _ = check(response((EXTENSIONS, "permessage-deflate")), offers)
    assert [extension.name for extension in extensions] == ["permessage-deflate"]
    assert check(response(), offers) == ([], None)


WRONG_EXTENSIONS = {  # header values -> exception, text
    "unoffered": (["x-c"], NegotiationError, "wasn't offered"),
    "wrong parameters": (["x-a; b"], NegotiationError, "not as offered"),
    "twice": (["permessage-deflate", "permessage-deflate"], NegotiationError, "twice"),
    "bad window": (
        ["permessage-deflate; server_max_window_bits=99"],
        NegotiationError,
        "permessage-deflate",
    ),
    "junk": (["x-a; ="], InvalidHeader, "x-a; ="),
}


@pytest.mark.parametrize("values, exception, text", WRONG_EXTENSIONS.values(), ids=WRONG_EXTENSIONS)
def test_extensions_that_cannot_be_chosen(values, exception, text):
    found = response(*((EXTENSIONS, value) for value in values))
    with pytest.raises(exception, match=text) as caught:
        check(found, [Mark("x-a"), Deflate()])
    assert caught.value.name == EXTENSIONS


TOKENS = {
    "none": ([], []),
    "empty": ([""], [""]),
    "one": (["A"], ["a"]),
    "several": (["A, b\t", "C"], ["a", "b", "c"]),
    "not ASCII keeps its case": (["\u212a", "É"], ["\u212a", "É"]),
}


@pytest.mark.parametrize("values, expected", TOKENS.values(), ids=TOKENS)
def test_tokens(values, expected):
    assert tokens(values) == expected
