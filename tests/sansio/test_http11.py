"""HTTP/1.1: headers that can be sent, requests, and responses however they arrive."""

from __future__ import annotations

import pytest
from tables import each_row

from wsmini.sansio.http11 import Headers, Request, Response, is_token


@each_row(
    "text, expected",
    [("chat.v1", True), ("!#$%&'*+-.^_`|~09aZ", True)]
    + [(text, False) for text in ("", "a b", "a,b", "a\n", "é", 'a"', "a/b", "a\0")],
)
def test_tokens(text, expected):
    assert is_token(text) is expected


def test_headers_are_found_in_any_case():
    headers = Headers([("Upgrade", "websocket")])
    assert headers["upgrade"] == headers["UPGRADE"] == "websocket"
    assert headers.get("uPGRADE") == "websocket"
    assert headers.get_all("upgrade") == ["websocket"]
    assert "UPgrade" in headers
    assert headers.items() == [("Upgrade", "websocket")]


def test_headers_that_are_not_there():
    headers = Headers()
    assert "A" not in headers
    assert headers.get("A") is None
    assert headers.get("A", "b") == "b"
    assert headers.get_all("A") == []
    assert len(headers) == 0
    assert not headers
    with pytest.raises(KeyError, match="A"):
        headers["A"]
    with pytest.raises(KeyError, match="A"):
        del headers["A"]


def test_repeated_headers_keep_their_order_and_spelling():
    headers = Headers([("A", "1"), ("B", "2"), ("a", ""), ("A", "3")])
    assert headers["a"] == headers.get("a") == "1, , 3"
    assert headers.get_all("A") == ["1", "", "3"]
    assert headers.items() == [("A", "1"), ("B", "2"), ("a", ""), ("A", "3")]
    assert headers.keys() == list(headers) == ["A", "B"]
    assert len(headers) == 2


SOURCES = {
    "mapping": {"A": "1", "B": "2"},
    "pairs": [("A", "1"), ("B", "2")],
    "iterator": iter([("A", "1"), ("B", "2")]),
    "headers": Headers([("A", "1"), ("B", "2")]),
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_what_headers_are_made_of(source):
    assert Headers(source).items() == [("A", "1"), ("B", "2")]


def test_setting_a_header_replaces_it_in_its_place():
    headers = Headers([("A", "1"), ("B", "2"), ("a", "3"), ("C", "4")])
    headers["a"] = "5"
    headers["D"] = "6"
    assert headers.items() == [("a", "5"), ("B", "2"), ("C", "4"), ("D", "6")]


def test_deleting_a_header_deletes_all_of_its_name():
    headers = Headers([("A", "1"), ("B", "2"), ("a", "3")])
    del headers["a"]
    assert headers.items() == [("B", "2")]


def test_a_copy_changes_alone():
    headers = Headers({"A": "1"})
    copy = headers.copy()
    copy["A"] = "2"
    copy.add("B", "3")
    assert headers.items() == [("A", "1")]
    assert copy.items() == [("A", "2"), ("B", "3")]


EQUAL = {
    "same": (Headers({"A": "1"}), Headers({"A": "1"}), True),
    "case of the name": (Headers({"A": "1"}), Headers({"a": "1"}), True),
    "case of the value": (Headers({"A": "b"}), Headers({"A": "B"}), False),
    "order of names": (Headers({"A": "1", "B": "2"}), Headers({"B": "2", "A": "1"}), True),
    "order of values": (
        Headers([("A", "1"), ("A", "2")]),
        Headers([("A", "2"), ("A", "1")]),
        False,
    ),
    "another type": (Headers({"A": "1"}), {"A": "1"}, False),
}


@pytest.mark.parametrize("one, other, equal", EQUAL.values(), ids=EQUAL)
def test_equality(one, other, equal):
    assert (one == other) is equal
    assert (one != other) is not equal


def test_headers_are_shown_without_secrets():
    headers = Headers([("A", "b"), ("Cookie", "c=secret"), ("A", "d")])
    assert str(headers) == "A: b\nCookie: ***\nA: d"
    assert repr(headers) == "Headers([('A', 'b'), ('Cookie', '***'), ('A', 'd')])"
    assert headers["Cookie"] == "c=secret"


def test_headers_can_change_and_so_have_no_hash():
    with pytest.raises(TypeError, match="unhashable"):
        hash(Headers())


def test_whitespace_around_a_value_is_dropped():
    assert Headers({"A": " \tb c\t "})["A"] == "b c"


def test_a_value_may_have_what_is_not_printable_but_no_control():
    value = "a\tb\x80\x9f\xa0\u2028\ue000\U000e0001"
    assert Headers({"A": value})["A"] == value


BAD_FIELDS = {  # name, value -> exception
    "CR LF in the value": ("A", "b\r\nX-Evil: hunter2", ValueError),
    "LF in the value": ("A", "b\nhunter2", ValueError),
    "CR in the value": ("A", "hunter2\r", ValueError),
    "LF at the end of the value": ("A", "hunter2\n", ValueError),
    "NUL in the value": ("A", "\0hunter2", ValueError),
    "escape in the value": ("A", "\x1b[31mhunter2", ValueError),
    "DEL in the value": ("A", "hunter2\x7f", ValueError),
    "lone surrogate in the value": ("A", "hunter2\ud800", ValueError),
    "last surrogate in the value": ("A", "é\udfffhunter2", ValueError),
    "last control in the value": ("A", "hunter2\x1f", ValueError),
    "CR LF in the name": ("A\r\nB", "hunter2", ValueError),
    "LF at the end of the name": ("A\n", "hunter2", ValueError),
    "colon in the name": ("A:", "hunter2", ValueError),
    "space in the name": ("A B", "hunter2", ValueError),
    "empty name": ("", "hunter2", ValueError),
    "name not ASCII": ("É", "hunter2", ValueError),
    "name that isn't a str": (b"A", "hunter2", TypeError),
    "bytes": ("A", b"hunter2", TypeError),
    "None": ("A", None, TypeError),
    "number": ("A", 1, TypeError),
}


@each_row("name, value, exception", BAD_FIELDS.values(), ids=BAD_FIELDS)
def test_a_header_that_could_not_be_sent(name, value, exception):
    headers = Headers({"B": "1"})
    attempts = (
        lambda: headers.add(name, value),
        lambda: headers.__setitem__(name, value),
        lambda: Headers([(name, value)]),
        lambda: Headers({name: value}),
        lambda: Request("GET", "/", [(name, value)]),
    )
    for attempt in attempts:
        with pytest.raises(exception) as caught:
            attempt()
        assert "header" in str(caught.value)
        assert "hunter2" not in str(caught.value)
    assert headers.items() == [("B", "1")]


def test_a_request_is_sent_as_its_headers_are():
    request = Request(
        "GET", "/chat?x=1", [("host", "h"), ("X-B", "1"), ("X-B", "é"), ("Empty", "")]
    )
    assert request.serialize() == (
        b"GET /chat?x=1 HTTP/1.1\r\nhost: h\r\nX-B: 1\r\nX-B: \xc3\xa9\r\nEmpty: \r\n\r\n"
    )
    assert repr(request).startswith("Request('GET', '/chat?x=…")


def test_a_request_keeps_the_headers_that_it_is_given():
    headers = Headers()
    request = Request("CONNECT", "h:443", headers)
    headers["Host"] = "h:443"
    assert request.headers is headers
    assert request.serialize() == b"CONNECT h:443 HTTP/1.1\r\nHost: h:443\r\n\r\n"
    assert Request("GET", "/").serialize() == b"GET / HTTP/1.1\r\n\r\n"


BAD_REQUESTS = {
    "empty method": ("", "/"),
    "space in the method": ("GET /x", "/"),
    "CR LF in the method": ("GET\r\n", "/"),
    "empty target": ("GET", ""),
    "space in the target": ("GET", "/ HTTP/1.1"),
    "CR LF in the target": ("GET", "/\r\nX: 1"),
    "NUL in the target": ("GET", "/\0"),
    "target not ASCII": ("GET", "/é"),
}


@pytest.mark.parametrize("method, target", BAD_REQUESTS.values(), ids=BAD_REQUESTS)
def test_a_request_that_could_not_be_sent(method, target):
    with pytest.raises(ValueError, match="HTTP method|target"):
        Request(method, target).serialize()


def test_headers_are_checked_when_a_request_is_changed_later():
    request = Request("GET", "/")
    with pytest.raises(ValueError):
        request.headers["A"] = "b\r\nc"
    request.target = "/\r\n"
    with pytest.raises(ValueError):
        request.serialize()


def test_response():
    response = Response(403, "Forbidden", {"A": "b"}, b"no", "1.0")
    assert response.headers["a"] == "b"
    assert (response.body, response.http_version) == (b"no", "1.0")
    assert not response.body_truncated
    assert repr(response) == "Response(403, 'Forbidden', Headers([('A', 'b')]), <2 bytes>)"
