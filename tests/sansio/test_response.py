"""Responses of HTTP/1.1, however they arrive."""

from __future__ import annotations

import random

import pytest
from helpers import SEED, splits
from tables import each_row

from wsmini.exceptions import InvalidMessage
from wsmini.sansio.http11 import Headers
from wsmini.sansio.response import ResponseParser


def parser_for(method="GET", **limits):
    parser = ResponseParser(method)
    vars(parser).update(limits)
    return parser


def parse(chunks, eof=False, **options):
    parser = parser_for(**options)
    for chunk in chunks:
        parser.receive_data(chunk)
    if eof:
        parser.receive_eof()
    return parser


def head_of(data, **options):
    """What is read from *data*, however it is split: status, reason, headers, version."""
    results = []
    for chunks in splits(data):
        response = parse(chunks, **options).response
        results.append(
            response
            and (
                response.status_code,
                response.reason_phrase,
                response.headers.items(),
                response.http_version,
            )
        )
    assert results.count(results[0]) == len(results)
    return results[0]


HEADS = {
    "upgrade": (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        (
            101,
            "Switching Protocols",
            [("Upgrade", "websocket"), ("Connection", "Upgrade")],
            "1.1",
        ),
    ),
    "no reason": (b"HTTP/1.1 101 \r\n\r\n", (101, "", [], "1.1")),
    "no reason and no space": (b"HTTP/1.1 101\r\n\r\n", (101, "", [], "1.1")),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\nA: b\r\n\r\n", (200, "OK", [("A", "b")], "1.0")),
    "unknown status": (b"HTTP/1.1 999 Odd\r\n\r\n", (999, "Odd", [], "1.1")),
    "long reason": (b"HTTP/1.1 200 a  b:\tc \r\n\r\n", (200, "a  b:\tc", [], "1.1")),
    "LF only": (b"HTTP/1.1 101 OK\nA: b\nC: d\n\n", (101, "OK", [("A", "b"), ("C", "d")], "1.1")),
    "mixed line ends": (b"HTTP/1.1 101 OK\r\nA: b\n\r\n", (101, "OK", [("A", "b")], "1.1")),
    "LF at the end only": (b"HTTP/1.1 101 OK\r\nA: b\r\n\n", (101, "OK", [("A", "b")], "1.1")),
    "whitespace around values": (
        b"HTTP/1.1 101 OK\r\nA:b\r\nC: \t d e\t \r\nF:\r\nG: \r\n\r\n",
        (101, "OK", [("A", "b"), ("C", "d e"), ("F", ""), ("G", "")], "1.1"),
    ),
    "colons in values": (
        b"HTTP/1.1 101 OK\r\nA: b:c :\r\n\r\n",
        (101, "OK", [("A", "b:c :")], "1.1"),
    ),
    "names in any case, repeated": (
        b"HTTP/1.1 101 OK\r\naB-c: 1\r\nAB-C: 2\r\n!#$%&'*+-.^_`|~09: 3\r\n\r\n",
        (101, "OK", [("aB-c", "1"), ("AB-C", "2"), ("!#$%&'*+-.^_`|~09", "3")], "1.1"),
    ),
    "folded values": (
        b"HTTP/1.1 101 OK\r\nA: b\r\n  c\r\n\td: e\r\nF:\r\n g\r\n\r\n",
        (101, "OK", [("A", "b c d: e"), ("F", "g")], "1.1"),
    ),
    "line of spaces": (b"HTTP/1.1 101 OK\r\nA: b\r\n \r\n\r\n", (101, "OK", [("A", "b")], "1.1")),
    "UTF-8": (
        "HTTP/1.1 403 Défendu\r\nA: é\u2028日\r\n\r\n".encode(),
        (403, "Défendu", [("A", "é\u2028日")], "1.1"),
    ),
    "Latin-1": (
        b"HTTP/1.1 403 D\xe9fendu\r\nA: \xc3\xa9\xe9\x85\r\n\r\n",
        (403, "Défendu", [("A", "Ã©é\x85")], "1.1"),
    ),
    "interim responses": (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n"
        b"HTTP/1.1 101 OK\r\n\r\n",
        (101, "OK", [], "1.1"),
    ),
    "8 interim responses": (
        b"HTTP/1.1 102 Wait\r\n\r\n" * 8 + b"HTTP/1.1 200 OK\r\n\r\n",
        (200, "OK", [], "1.1"),
    ),
    "nothing": (b"", None),
    "only an interim response": (b"HTTP/1.1 100 Continue\r\nContent-Length: 3\r\n\r\n", None),
    "no blank line": (b"HTTP/1.1 101 OK\r\nA: b\r\n", None),
    "no blank line after LF": (b"HTTP/1.1 101 OK\nA: b\n\r", None),
    "only the version": (b"HTTP/", None),
}


@each_row("data, expected", HEADS.values(), ids=HEADS)
def test_heads(data, expected):
    assert head_of(data) == expected


BAD_HEADS = {  # data -> a part of the message
    "another protocol": (b"SSH-2.0-OpenSSH_9.6\r\n", "got b'S"),
    "TLS alert": (b"\x15\x03\x01\x00\x02\x02\x46", "got b'"),
    "HTTP/0.9": (b"<html>\r\n\r\n", "got b'<"),
    "HTTP/2": (b"HTTP/2.0 200 OK\r\n\r\n", "got 'HTTP/2.0 200 OK'"),
    "lower case": (b"http/1.1 200 OK\r\n\r\n", "got b'h"),
    "blank line in front": (b"\r\nHTTP/1.1 200 OK\r\n\r\n", "got b'"),
    "HTTP/1.2": (b"HTTP/1.2 200 OK\r\n\r\n", "status code"),
    "no status": (b"HTTP/1.1\r\n\r\n", "status code"),
    "empty status": (b"HTTP/1.1 \r\n\r\n", "status code"),
    "short status": (b"HTTP/1.1 20 OK\r\n\r\n", "status code"),
    "long status": (b"HTTP/1.1 2000 OK\r\n\r\n", "status code"),
    "status 000": (b"HTTP/1.1 000 OK\r\n\r\n", "status code"),
    "negative status": (b"HTTP/1.1 -10 OK\r\n\r\n", "status code"),
    "status in Arabic digits": ("HTTP/1.1 ٢٠٠ OK\r\n\r\n".encode(), "status code"),
    "two spaces": (b"HTTP/1.1  200 OK\r\n\r\n", "status code"),
    "tab": (b"HTTP/1.1\t200 OK\r\n\r\n", "status code"),
    "request": (b"HTTP/1.1 GET /\r\n\r\n", "status code"),
    "space before the colon": (b"HTTP/1.1 101 OK\r\nA : b\r\n\r\n", "got 'A '"),
    "space before the first name": (b"HTTP/1.1 101 OK\r\n A: b\r\n\r\n", "got ' A'"),
    "tab before the first name": (b"HTTP/1.1 101 OK\r\n\tA: b\r\n\r\n", "name of a header"),
    "space in a name": (b"HTTP/1.1 101 OK\r\nA b: c\r\n\r\n", "got 'A b'"),
    "empty name": (b"HTTP/1.1 101 OK\r\n: b\r\n\r\n", "got ''"),
    "name not ASCII": ("HTTP/1.1 101 OK\r\né: b\r\n\r\n".encode(), "got 'é'"),
    "no colon": (b"HTTP/1.1 101 OK\r\nA\r\n\r\n", "got 'A'"),
    "no colon and spaces": (b"HTTP/1.1 101 OK\r\nA b\r\n\r\n", "got 'A b'"),
    "CR in a value": (b"HTTP/1.1 101 OK\r\nA: b\rC: d\r\n\r\n", "control characters"),
    "CR CR LF": (b"HTTP/1.1 101 OK\r\nA: b\r\r\n\r\n", "control characters"),
    "NUL in a value": (b"HTTP/1.1 101 OK\r\nA: b\0\r\n\r\n", "control characters"),
    "NUL in the reason": (b"HTTP/1.1 101 O\0K\r\n\r\n", "control characters"),
    "escape in a value": (b"HTTP/1.1 101 OK\r\nA: \x1b[31m\r\n\r\n", "control characters"),
    "DEL in a name": (b"HTTP/1.1 101 OK\r\nA\x7f: b\r\n\r\n", "control characters"),
    "9 interim responses": (b"HTTP/1.1 102 Wait\r\n\r\n" * 9, "more than 8 interim"),
    "junk behind an interim response": (
        b"HTTP/1.1 100 Continue\r\n\r\njunk",
        "got b'j",
    ),
    "two lengths": (
        b"HTTP/1.1 403 No\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        "one Content-Length, got '1, 2'",
    ),
    "two lengths in one": (b"HTTP/1.1 403 No\r\nContent-Length: 1,2\r\n\r\n", "one Content-Length"),
    "negative length": (b"HTTP/1.1 403 No\r\nContent-Length: -1\r\n\r\n", "one Content-Length"),
    "length with a sign": (b"HTTP/1.1 403 No\r\nContent-Length: +1\r\n\r\n", "one Content-Length"),
    "length with an underscore": (b"HTTP/1.1 403 No\r\nContent-Length: 1_0\r\n\r\n", "got '1_0'"),
    "hexadecimal length": (b"HTTP/1.1 403 No\r\nContent-Length: 0x1\r\n\r\n", "got '0x1'"),
    "superscript length": (b"HTTP/1.1 403 No\r\nContent-Length: \xc2\xb2\r\n\r\n", "got '²'"),
    "length of 19 digits": (
        b"HTTP/1.1 403 No\r\nContent-Length: " + b"1" * 19 + b"\r\n\r\n",
        "one Content-Length",
    ),
    "empty length": (b"HTTP/1.1 403 No\r\nContent-Length:\r\n\r\n", "got ''"),
    "length of many digits": (
        b"HTTP/1.1 403 No\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
        "one Content-Length",
    ),
}


@each_row("data, message", BAD_HEADS.values(), ids=BAD_HEADS)
def test_bad_heads(data, message):
    for chunks in splits(data):
        with pytest.raises(InvalidMessage) as caught:
            parse(chunks)
        assert message in str(caught.value)
        assert len(str(caught.value)) < 250


START = b"HTTP/1.1 101 OK\r\n"
LIMITS = {  # data that is just right, data that is too much, message
    "line": (
        START + b"A: " + b"b" * 17 + b"\r\n\r\n",
        START + b"A: " + b"b" * 18 + b"\r\n\r\n",
        "a line of the response exceeds 20 bytes",
    ),
    "line of UTF-8": (
        START + b"A: " + "é".encode() * 8 + b"\r\n\r\n",
        START + b"A: " + "é".encode() * 9 + b"\r\n\r\n",
        "a line of the response exceeds 20 bytes",
    ),
    "status line": (
        b"HTTP/1.1 101 Protoco\r\n\r\n",
        b"HTTP/1.1 101 Protocol\r\n\r\n",
        "a line of the response exceeds 20 bytes",
    ),
    "headers": (
        START + b"A: b\r\n" * 4 + b"\r\n",
        START + b"A: b\r\n" * 5 + b"\r\n",
        "more than 4 headers",
    ),
    "folded lines": (
        START + b"A: b\r\n" + b" c\r\n" * 3 + b"\r\n",
        START + b"A: b\r\n" + b" c\r\n" * 4 + b"\r\n",
        "more than 4 headers",
    ),
    "head": (
        START + b"A: 12345678\r\n" * 3 + b"A: 1\r\n\r\n",
        START + b"A: 12345678\r\n" * 3 + b"A: 12\r\n\r\n",
        "the head of the response exceeds 64 bytes",
    ),
    "head without an end": (
        START + b"A: 12345678\r\n" * 3 + b"A: 12345",
        START + b"A: 12345678\r\n" * 3 + b"A: 123456",
        "the head of the response exceeds 64 bytes",
    ),
    "endless line": (
        b"HTTP/1.1 101 " + b"a" * 51,
        b"HTTP/1.1 101 " + b"a" * 1000,
        "the head of the response exceeds 64 bytes",
    ),
}


@pytest.mark.parametrize("good, bad, message", LIMITS.values(), ids=LIMITS)
def test_limits_of_the_head(good, bad, message):
    limits = {"max_line": 20, "max_headers": 4, "max_head": 64}
    head_of(good, **limits)
    for chunks in splits(bad):
        with pytest.raises(InvalidMessage, match=message):
            parse(chunks, **limits)


def test_what_follows_the_head_does_not_count_as_head():
    data = b"HTTP/1.1 101 OK\r\n\r\n"
    for chunks in splits(data + bytes(1000)):
        assert parse(chunks, max_head=len(data)).rest == bytes(1000)


def test_the_default_limits():
    pair = b"A: " + b"b" * 100 + b"\r\n"
    assert head_of(START + pair * 128 + b"\r\n")
    with pytest.raises(InvalidMessage, match="128"):
        parse([START + pair * 129 + b"\r\n"])
    assert head_of(START + b"A: " + b"b" * 65533 + b"\r\n\r\n")
    with pytest.raises(InvalidMessage, match="65536"):
        parse([START + b"A: " + b"b" * 65534 + b"\r\n\r\n"])
    with pytest.raises(InvalidMessage, match="262144"):
        parse([START] + [pair] * 3000)


CHUNKED = b"HTTP/1.1 403 No\r\nTransfer-Encoding: chunked\r\n\r\n"
BODIES = {  # head and body -> body, truncated (with max_body=8, max_line=60, max_headers=3)
    "length": (b"HTTP/1.1 403 No\r\nContent-Length: 5\r\n\r\nhello", b"hello", False),
    "more than the length": (
        b"HTTP/1.1 403 No\r\nContent-Length: 5\r\n\r\nhello you",
        b"hello",
        False,
    ),
    "length 0": (b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n", b"", False),
    "length repeated": (
        b"HTTP/1.1 403 No\r\nContent-Length: 2\r\nContent-Length: 2, 2\r\n\r\nhi",
        b"hi",
        False,
    ),
    "length at the limit": (
        b"HTTP/1.1 403 No\r\nContent-Length: 8\r\n\r\n12345678",
        b"12345678",
        False,
    ),
    "length over the limit": (
        b"HTTP/1.1 403 No\r\nContent-Length: 9\r\n\r\n123456789",
        b"12345678",
        True,
    ),
    "huge length": (
        b"HTTP/1.1 403 No\r\nContent-Length: 999999999999999999\r\n\r\n123456789",
        b"12345678",
        True,
    ),
    "one chunk": (CHUNKED + b"5\r\nhello\r\n0\r\n\r\n", b"hello", False),
    "chunks": (CHUNKED + b"2\r\nhe\r\n03\r\nllo\r\n000\r\n\r\n", b"hello", False),
    "chunks with LF": (CHUNKED + b"5\nhello\n0\n\n", b"hello", False),
    "hexadecimal chunk": (CHUNKED + b"00a\r\n1234567890\r\n0\r\n\r\n", b"12345678", True),
    "chunk extensions": (
        CHUNKED + b'2;a=b;c="d"\r\nhe\r\n3 \t;\r\nllo\r\n0;e\r\n\r\n',
        b"hello",
        False,
    ),
    "no chunks": (CHUNKED + b"0\r\n\r\n", b"", False),
    "trailers": (CHUNKED + b"2\r\nhi\r\n0\r\nA: b\r\nC: d\r\n\r\n", b"hi", False),
    "too many trailers": (CHUNKED + b"2\r\nhi\r\n0\r\n" + b"A: b\r\n" * 9, b"hi", False),
    "trailer too long": (CHUNKED + b"2\r\nhi\r\n0\r\n" + b"A" * 61 + b"\r\n", b"hi", True),
    "chunks at the limit": (CHUNKED + b"4\r\n1234\r\n4\r\n5678\r\n0\r\n\r\n", b"12345678", False),
    "chunks over the limit": (CHUNKED + b"4\r\n1234\r\n5\r\n56789\r\n0\r\n\r\n", b"12345678", True),
    "chunk behind the limit": (
        CHUNKED + b"8\r\n12345678\r\n1\r\n9\r\n0\r\n\r\n",
        b"12345678",
        True,
    ),
    "huge chunk": (CHUNKED + b"ffffffffffffffff\r\n123456789", b"12345678", True),
    "chunk larger than 64 bits": (CHUNKED + b"1ffffffffffffffff\r\n123456789", b"", True),
    "negative chunk": (CHUNKED + b"-1\r\nhello", b"", True),
    "chunk that isn't a number": (CHUNKED + b"2\r\nhe\r\nhello\r\n", b"he", True),
    "empty chunk size": (CHUNKED + b"\r\n\r\n", b"", True),
    "space before the chunk size": (CHUNKED + b" 2\r\nhi\r\n", b"", True),
    "space in the chunk size": (CHUNKED + b"0 2\r\nhi\r\n", b"", True),
    "space behind the chunk size": (CHUNKED + b"2 \t;a\r\nhi\r\n0\t\r\n\r\n", b"hi", False),
    "prefixed chunk size": (CHUNKED + b"0x2\r\nhi\r\n", b"", True),
    "chunk size too long": (CHUNKED + b"2;" + b"a" * 59 + b"\r\nhi", b"", True),
    "endless chunk size": (CHUNKED + b"2;" + b"a" * 100, b"", True),
    "chunk longer than said": (CHUNKED + b"2\r\nhello\r\n0\r\n\r\n", b"he", True),
    "chunked after gzip": (
        b"HTTP/1.1 403 No\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: ChunkeD\r\n\r\n"
        b"2\r\nhi\r\n0\r\n\r\n",
        b"hi",
        False,
    ),
    "chunked and a length": (
        b"HTTP/1.1 403 No\r\nContent-Length: 99\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"2\r\nhi\r\n0\r\n\r\n",
        b"hi",
        False,
    ),
    "until the end over the limit": (b"HTTP/1.1 403 No\r\n\r\n123456789", b"12345678", True),
}


@each_row("data, body, truncated", BODIES.values(), ids=BODIES)
def test_bodies(data, body, truncated):
    for chunks in splits(data):
        parser = parse(chunks, max_body=8, max_line=60, max_headers=3)
        assert parser.complete
        assert (parser.response.body, parser.response.body_truncated) == (body, truncated)
        assert parser.rest == b""
        parser.receive_data(b"more")
        parser.receive_eof()
        assert (parser.response.body, parser.response.body_truncated) == (body, truncated)
        assert parser.rest == b""


CUT = {  # data -> body, truncated, when the connection closes there
    "no body": (b"HTTP/1.1 403 No\r\n\r\n", b"", False),
    "no length": (b"HTTP/1.1 403 No\r\n\r\nhello", b"hello", False),
    "no length, at the limit": (b"HTTP/1.1 403 No\r\n\r\n12345678", b"12345678", False),
    "no length, closed by HTTP/1.0": (b"HTTP/1.0 403 No\n\nhello", b"hello", False),
    "other coding": (b"HTTP/1.1 403 No\r\nTransfer-Encoding: gzip\r\n\r\nhello", b"hello", False),
    "chunked but not at last": (
        b"HTTP/1.1 403 No\r\nTransfer-Encoding: chunked, gzip\r\n\r\nhello",
        b"hello",
        False,
    ),
    "shorter than its length": (b"HTTP/1.1 403 No\r\nContent-Length: 5\r\n\r\nhell", b"hell", True),
    "in a chunk": (CHUNKED + b"5\r\nhell", b"hell", True),
    "behind a chunk": (CHUNKED + b"5\r\nhello", b"hello", True),
    "in a chunk size": (CHUNKED + b"5\r\nhello\r\n0", b"hello", True),
    "before a chunk": (CHUNKED, b"", True),
    "before the end of the trailers": (CHUNKED + b"2\r\nhi\r\n0\r\nA: b\r\n", b"hi", True),
}


@each_row("data, body, truncated", CUT.values(), ids=CUT)
def test_a_body_ends_with_the_connection(data, body, truncated):
    for chunks in splits(data):
        parser = parse(chunks, max_body=8)
        assert parser.response.status_code == 403
        assert not parser.complete
        parser.receive_eof()
        assert parser.complete
        assert (parser.response.body, parser.response.body_truncated) == (body, truncated)
        lost = parse(chunks, max_body=8)
        lost.receive_eof(clean=False)  # TLS was cut off, say
        assert (lost.response.body, lost.response.body_truncated) == (body, True)


NO_BODY = {  # method, data -> complete with its head
    "204": ("GET", b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n"),
    "304": ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"),
    "HEAD": ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"),
    "101": ("GET", b"HTTP/1.1 101 OK\r\nContent-Length: 5\r\n\r\n"),
    "tunnel": ("CONNECT", b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
}


@pytest.mark.parametrize("method, data", NO_BODY.values(), ids=NO_BODY)
def test_responses_without_a_body(method, data):
    for chunks in splits(data):
        parser = parse(chunks, method=method)
        assert parser.complete
        assert parser.response.body == b""


def test_a_refused_tunnel_has_a_body():
    data = b"HTTP/1.1 407 Auth\r\nContent-Length: 2\r\n\r\nno"
    for chunks in splits(data):
        parser = parse(chunks, method="CONNECT")
        assert parser.complete
        assert (parser.response.body, parser.rest) == (b"no", b"")


@pytest.mark.parametrize("method, status", [("GET", 101), ("CONNECT", 200), ("CONNECT", 299)])
def test_the_rest_belongs_to_the_next_protocol(method, status):
    rest = b"\x81\x02hi\r\n\r\nHTTP/1.1 400 No\r\n\r\n"
    for chunks in splits(b"HTTP/1.1 %d OK\r\n\r\n" % status + rest):
        parser = parse(chunks, method=method)
        assert parser.complete
        assert parser.response.status_code == status
        assert parser.rest == rest
        parser.receive_eof()
        assert parser.rest == rest


def test_there_is_no_rest_before_the_head_is_complete():
    assert parse([START]).rest == b""
    assert parse([START]).response is None


NO_HEAD = {
    "nothing": (b"", "closed without a response"),
    "a part": (b"HTTP/1.1 101 OK\r\nA: b\r\n", "after 23 bytes"),
    "an interim response": (b"HTTP/1.1 100 Continue\r\n\r\n", "after an interim response"),
    "a part behind an interim response": (b"HTTP/1.1 100 Continue\r\n\r\nHTTP", "after 4 bytes"),
}


@pytest.mark.parametrize("data, message", NO_HEAD.values(), ids=NO_HEAD)
def test_a_connection_that_closes_before_the_head_is_complete(data, message):
    for chunks in splits(data):
        with pytest.raises(InvalidMessage, match=message):
            parse(chunks, eof=True)


def test_whatever_arrives_gives_a_response_or_an_invalid_message():
    rng = random.Random(SEED)
    pieces = [data for data, _ in BAD_HEADS.values()] + [data for data, *_ in BODIES.values()]
    alphabet = b"\r\n\r\n: \t\0aA0159;,-\xc3\xa9\xff"
    for _ in range(300):
        data = bytearray(rng.choice(pieces))
        for _ in range(rng.randint(1, 4)):
            place = rng.randrange(len(data) + 1)
            data[place : place + rng.randint(0, 2)] = bytes([rng.choice(alphabet)])
        outcomes = []
        for chunks in splits(data):
            try:
                response = parse(chunks, eof=True, max_body=8).response
            except InvalidMessage:
                outcomes.append(None)
            else:
                outcomes.append((repr(response), response.body, response.body_truncated))
                assert Headers(response.headers) == response.headers  # they could be sent on
        assert outcomes.count(outcomes[0]) == len(outcomes), bytes(data)


# Linear time, counted: how many bytes are searched or moved, however small the pieces.


class Counted(bytearray):
    """A buffer that counts the bytes it is asked to search and to copy."""

    work = 0

    def find(self, what, start=0, end=None):
        found = super().find(what, start, end)
        self.work += ((len(self) if end is None else end) if found < 0 else found) - start
        return found

    def __getitem__(self, key):
        result = super().__getitem__(key)
        self.work += len(result)
        return result


SLOW = {  # many bytes to come in small pieces
    "head": START + b"A: " + b"b" * 2500 + b"\r\n\r\n",
    "heads of many lines": START + b"A: b\r\n" * 500 + b"\r\n",
    "head of spaces": START + b"A:" + b" " * 2500 + b"\r\n\r\n",
    "head of carriage returns": START + b"A:" + b"\r" * 2500,
    "folded head": START + b"A: b\r\n" + b" \r\n" * 750 + b"\r\n",
    "body": b"HTTP/1.1 403 No\r\nContent-Length: 2500\r\n\r\n" + bytes(2500),
    "endless body": b"HTTP/1.1 403 No\r\n\r\n" + bytes(2500),
    "chunk": CHUNKED + b"9c4\r\n" + bytes(2500) + b"\r\n0\r\n\r\n",
    "chunks of one byte": CHUNKED + b"1\r\na\r\n" * 1250 + b"0\r\n\r\n",
    "chunk extension": CHUNKED + b"1;" + b"a" * 2500 + b"\r\na\r\n0\r\n\r\n",
    "trailers": CHUNKED + b"0\r\n" + b"A: b\r\n" * 500 + b"\r\n",
    "rest": START + b"\r\n" + bytes(2500),
}


@each_row("data", SLOW.values(), ids=SLOW)
def test_small_pieces_cost_linear_time(data):
    for size in (1, 7, 100, 1 << 20):
        parser = parser_for(max_line=20000, max_headers=10**5)
        parser._buffer = buffer = Counted()
        for place in range(0, len(data), size):
            parser.receive_data(data[place : place + size])
        assert parser._buffer is buffer
        # For each piece of a head: its first 5 bytes, and twice 2 more than what is new.
        assert buffer.work <= 12 * len(data) + 100


@pytest.mark.parametrize("filler", [b" ", b"\t", b"\r\n ", b"\n\t", b":", b"a", b", ", b"\xff"])
def test_a_huge_head_is_read_in_linear_time(filler):
    # A quadratic step would run into the time limit.
    data = START + b"A: b" + filler * (300_000 // len(filler)) + b"\r\n\r\n"
    parser = parser_for(max_line=1 << 21, max_headers=1 << 21, max_head=1 << 21)
    parser.receive_data(data)
    assert parser.complete
