"""The exceptions: their tree, what they say, and that they can be copied and sent on."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest
from helpers import offenders
from tables import each_row

import wsmini
from wsmini import exceptions
from wsmini.exceptions import Close, connection_closed
from wsmini.sansio.http11 import Response

RESPONSE = Response(503, "Service Unavailable", {"Retry-After": "5", "Set-Cookie": "a=b"}, b"busy")
BARE = Response(599, "", {})

TREE = {  # class -> its bases
    "WebSocketException": {Exception},
    "ConnectionClosed": {"WebSocketException"},
    "ConnectionClosedOK": {"ConnectionClosed"},
    "ConnectionClosedError": {"ConnectionClosed"},
    "InvalidURI": {"WebSocketException", ValueError},
    "InvalidProxy": {"WebSocketException", ValueError},
    "InvalidHandshake": {"WebSocketException"},
    "InvalidMessage": {"InvalidHandshake"},
    "InvalidStatus": {"InvalidHandshake"},
    "InvalidHeader": {"InvalidHandshake"},
    "InvalidUpgrade": {"InvalidHeader"},
    "NegotiationError": {"InvalidHeader"},
    "InvalidRedirect": {"InvalidHandshake"},
    "TooManyRedirects": {"InvalidHandshake"},
    "ProxyError": {"InvalidHandshake"},
    "InvalidProxyMessage": {"ProxyError"},
    "InvalidProxyStatus": {"ProxyError"},
    "ProtocolError": {"WebSocketException"},
    "PayloadTooBig": {"WebSocketException"},
    "InvalidState": {"WebSocketException"},
    "ConcurrencyError": {"WebSocketException"},
    "SendBufferFull": {"WebSocketException"},
}
CLASSES = {
    name: value
    for name, value in vars(exceptions).items()
    if inspect.isclass(value) and issubclass(value, BaseException)
}


def test_the_tree():
    found = {
        name: {base.__name__ if base.__name__ in CLASSES else base for base in value.__bases__}
        for name, value in CLASSES.items()
    }
    assert found == TREE


def test_every_exception_is_public():
    assert [name for name in TREE if getattr(wsmini, name) is not CLASSES[name]] == []
    assert set(TREE) <= set(wsmini.__all__)


def test_no_exception_is_a_network_failure():
    assert [name for name in TREE if issubclass(CLASSES[name], OSError)] == []


GOING, NORMAL, LOST = Close(1001, "bye"), Close(1000, ""), Close(1011, "oops")

EXAMPLES = {  # class, arguments -> attributes, text
    "WebSocketException": (("what",), {}, "what"),
    "ConnectionClosed": (
        (GOING, NORMAL, True),
        {"rcvd": GOING, "sent": NORMAL, "rcvd_then_sent": True, "code": 1001, "reason": "bye"},
        "received 1001 (going away) bye; then sent 1000 (normal closure)",
    ),
    "ConnectionClosedOK": (
        (GOING, NORMAL, False),
        {"rcvd_then_sent": False, "code": 1001, "reason": "bye"},
        "sent 1000 (normal closure); then received 1001 (going away) bye",
    ),
    "ConnectionClosedError": (
        (None, None, None),
        {"rcvd": None, "sent": None, "rcvd_then_sent": None, "code": 1006, "reason": ""},
        "no close frame received or sent",
    ),
    "InvalidURI": (
        ("http://x", "no"),
        {"uri": "http://x", "problem": "no"},
        "'http://x' can't be used as a WebSocket URL: no",
    ),
    "InvalidProxy": (
        ("ftp://x", "no"),
        {"proxy": "ftp://x", "problem": "no"},
        "'ftp://x' isn't a valid proxy: no",
    ),
    "InvalidHandshake": (("what",), {}, "what"),
    "InvalidMessage": (("what",), {}, "what"),
    "InvalidStatus": (
        (RESPONSE,),
        {"response": RESPONSE},
        "server refused the WebSocket connection: HTTP 503 Service Unavailable: busy",
    ),
    "InvalidHeader": (
        ("Upgrade", "h2c"),
        {"name": "Upgrade", "value": "h2c"},
        "invalid Upgrade header: 'h2c'",
    ),
    "InvalidUpgrade": (
        ("Connection", None),
        {"name": "Connection", "value": None},
        "missing Connection header",
    ),
    "NegotiationError": (
        ("Sec-WebSocket-Protocol", "a", "unasked"),
        {"name": "Sec-WebSocket-Protocol", "value": "a", "problem": "unasked"},
        "invalid Sec-WebSocket-Protocol header: 'a': unasked",
    ),
    "InvalidRedirect": (
        ("ftp://x", "no"),
        {"location": "ftp://x", "problem": "no"},
        "can't follow the redirect to 'ftp://x': no",
    ),
    "TooManyRedirects": (
        (["ws://a/", "ws://b/"],),
        {"uris": ["ws://a/", "ws://b/"]},
        "the server redirects too often: ws://a/ -> ws://b/",
    ),
    "ProxyError": (("what",), {}, "what"),
    "InvalidProxyMessage": (("what",), {}, "what"),
    "InvalidProxyStatus": (
        (RESPONSE,),
        {"response": RESPONSE},
        "proxy refused the connection: HTTP 503 Service Unavailable",
    ),
    "ProtocolError": (("what",), {}, "what"),
    "PayloadTooBig": (
        (11, 10),
        {"size": 11, "limit": 10},
        "11 bytes exceed the limit of 10 bytes (max_size)",
    ),
    "InvalidState": (("what",), {}, "what"),
    "ConcurrencyError": (("what",), {}, "what"),
    "SendBufferFull": (("what",), {}, "what"),
}


def test_every_exception_has_an_example():
    assert set(EXAMPLES) == set(TREE)


@each_row("name", EXAMPLES)
def test_what_exceptions_say_and_carry(name):
    args, attributes, text = EXAMPLES[name]
    exc = CLASSES[name](*args)
    assert str(exc) == text
    assert exc.args == args
    assert {name: getattr(exc, name) for name in attributes} == attributes


MORE_TEXTS = {  # class, arguments -> text
    "sent only": ("ConnectionClosed", (None, LOST), "sent 1011 (internal error) oops; no close"),
    "received only": ("ConnectionClosed", (LOST, None), "received 1011 (internal error) oops; no"),
    "status without a phrase": ("InvalidStatus", (BARE,), "connection: HTTP 599"),
    "proxy without a phrase": ("InvalidProxyStatus", (BARE,), "connection: HTTP 599"),
    "negotiation without a value": (
        "NegotiationError",
        ("X", None, "what"),
        "missing X header: what",
    ),
    "loop": (
        "TooManyRedirects",
        (["ws://a/", "ws://b/", "ws://a/"],),
        "redirects in a loop: ws://a/ -> ws://b/ -> ws://a/",
    ),
}


@pytest.mark.parametrize("name, args, text", MORE_TEXTS.values(), ids=MORE_TEXTS)
def test_what_exceptions_also_say(name, args, text):
    assert text in str(CLASSES[name](*args))


CAUSES = {  # cause -> the text of a lost connection
    "none": (None, "no close frame received or sent"),
    "keepalive": (
        TimeoutError("nothing received for 40.2 s: the peer is dead"),
        "no close frame received or sent (nothing received for 40.2 s: the peer is dead)",
    ),
    "of the system": (
        ConnectionResetError(104, "Connection reset by peer"),
        "no close frame received or sent ([Errno 104] Connection reset by peer)",
    ),
    "without words": (EOFError(), "no close frame received or sent (EOFError)"),
    "its like": (
        CLASSES["ConnectionClosedError"](None, None),
        "no close frame received or sent",
    ),
}


@pytest.mark.parametrize("cause, text", CAUSES.values(), ids=CAUSES)
def test_a_lost_connection_says_why(cause, text):
    exc = CLASSES["ConnectionClosedError"](None, None)
    exc.__cause__ = cause
    assert str(exc) == text
    assert exc.args == (None, None, None)


def test_what_ended_a_connection_is_behind_the_close_frames():
    exc = CLASSES["ConnectionClosedError"](None, LOST)
    exc.__cause__ = CLASSES["PayloadTooBig"](5, 4)
    assert str(exc) == (
        "sent 1011 (internal error) oops; no close frame received"
        " (5 bytes exceed the limit of 4 bytes (max_size))"
    )


def test_what_ended_a_connection_is_not_said_twice():
    cause = CLASSES["PayloadTooBig"](5, 4)
    exc = CLASSES["ConnectionClosedError"](None, Close(1009, str(cause)))
    exc.__cause__ = cause
    assert str(exc).endswith(f"(message too big) {cause}; no close frame received")


def test_a_connection_that_is_its_own_cause_has_a_text():
    exc = CLASSES["ConnectionClosedError"](None, None)
    exc.__cause__ = exc
    assert str(exc) == "no close frame received or sent"


CLOSES = {
    Close(1000, ""): "1000 (normal closure)",
    Close(1008, "no"): "1008 (policy violation) no",
    Close(1004, ""): "1004 (unknown)",
    Close(2999, ""): "2999 (unknown)",
    Close(3000, ""): "3000 (registered)",
    Close(3999, "x"): "3999 (registered) x",
    Close(4000, ""): "4000 (private use)",
    Close(4999, ""): "4999 (private use)",
    Close(5000, ""): "5000 (unknown)",
}


@pytest.mark.parametrize("close, text", CLOSES.items())
def test_closes(close, text):
    assert str(close) == text
    assert close == (close.code, close.reason)


# -- hostile values --

LIMIT = 600  # characters, which still fit on a screen
HUGE = "\x1b\n" + "x\u202e\0" * 30_000
HOSTILE = {
    "InvalidURI": (HUGE, "no"),
    "InvalidProxy": (HUGE, "no"),
    "InvalidStatus": (Response(500, HUGE, {}),),
    "InvalidHeader": ("X", HUGE),
    "InvalidUpgrade": ("X", HUGE),
    "NegotiationError": ("X", HUGE, "no"),
    "InvalidRedirect": (HUGE, "no"),
    "TooManyRedirects": ([HUGE, HUGE],),
    "InvalidProxyStatus": (Response(500, HUGE, {}),),
    "ConnectionClosed": (Close(1000, "\x1b\n\u202e" * 41), Close(1000, "\x1b" * 123), True),
}


@each_row("name", HOSTILE)
def test_what_a_peer_sent_neither_floods_nor_breaks_a_message(name):
    text = str(CLASSES[name](*HOSTILE[name]))
    assert len(text) < LIMIT
    assert text.isprintable()


# -- copies --

COPIES = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    **{
        f"pickle {number}": lambda value, number=number: pickle.loads(pickle.dumps(value, number))
        for number in range(2, pickle.HIGHEST_PROTOCOL + 1)
    },
}


def facts(value):
    """What makes a value of ours the same as another one."""
    if isinstance(value, BaseException):
        return type(value), str(value), facts(value.args), facts(vars(value))
    if isinstance(value, Response):
        return [facts(getattr(value, name)) for name in Response.__slots__]
    if isinstance(value, dict):
        return {name: facts(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value), [facts(one) for one in value]
    return value


@pytest.mark.parametrize("make", COPIES.values(), ids=COPIES)
def test_exceptions_can_be_copied_and_sent_to_other_processes(make):
    def check(name):
        check_copy(name, make)

    assert offenders(check, {name: (name,) for name in EXAMPLES}) == {}


def check_copy(name, make):
    exc = CLASSES[name](*EXAMPLES[name][0])
    exc.note = "kept"
    again = make(exc)
    assert again is not exc
    assert facts(again) == facts(exc)


# -- where an opening failed --

OPENING = sorted(name for name in TREE if issubclass(CLASSES[name], CLASSES["InvalidHandshake"]))


@each_row("name", OPENING)
def test_a_failed_opening_says_where_and_when_and_what_to_try(name):
    exc = CLASSES[name](*EXAMPLES[name][0])
    assert (exc.phase, exc.address, exc.elapsed, exc.hint) == ("", "", 0.0, "")
    exc.phase, exc.address, exc.elapsed = "upgrade", "h:80", 1.234
    plain = EXAMPLES[name][2] + " (upgrade: h:80, after 1.23 s"
    assert str(exc) == plain + ")"
    exc.hint = "try this"
    assert str(exc) == plain + "; try this)"
    assert str(pickle.loads(pickle.dumps(exc))) == str(exc)
    assert exc.args == EXAMPLES[name][0]


# -- how a connection ended --

EMPTY, MINE, AWAY = Close(1005, ""), Close(1000, ""), Close(1001, "")
BAD, TEXT = Close(1002, ""), Close(1007, "")
APP = Close(4000, "")

ENDINGS = {  # received, sent, received first -> normal
    "nothing": (None, None, None, False),
    "only received": (MINE, None, None, False),
    "only sent": (None, MINE, None, False),
    "lost with an error": (None, BAD, None, False),
    "we closed": (MINE, MINE, False, True),
    "we went away": (MINE, AWAY, False, True),
    "we closed, they went away": (AWAY, MINE, False, True),
    "they closed": (MINE, MINE, True, True),
    "they went away": (AWAY, AWAY, True, True),
    "we closed, they answered without a code": (EMPTY, MINE, False, True),
    "they closed, we answered without a code": (MINE, EMPTY, True, True),
    "they closed without a code": (EMPTY, EMPTY, True, False),
    "they closed without a code, we answered with one": (EMPTY, MINE, True, False),
    "we closed without a code": (EMPTY, EMPTY, False, False),
    "they closed with an error": (BAD, BAD, True, False),
    "they closed with an error, we normally": (BAD, MINE, True, False),
    "they closed normally, we with an error": (MINE, TEXT, True, False),
    "we closed with an error": (BAD, BAD, False, False),
    "we closed with an error, they normally": (MINE, BAD, False, False),
    "we closed normally, they with an error": (BAD, MINE, False, False),
    "we closed for the application": (APP, APP, False, False),
    "they closed for the application": (APP, APP, True, False),
    "they closed for the application, we normally": (APP, MINE, True, False),
}


@each_row("rcvd, sent, first, normal", ENDINGS.values(), ids=ENDINGS)
def test_how_a_connection_ended(rcvd, sent, first, normal):
    exc = connection_closed(rcvd, sent, first)
    assert type(exc).__name__ == ("ConnectionClosedOK" if normal else "ConnectionClosedError")
    assert (exc.rcvd, exc.sent, exc.rcvd_then_sent) == (rcvd, sent, first)
    assert exc.code == (1006 if rcvd is None else rcvd.code)
    assert exc.reason == ""
    failed = connection_closed(rcvd, sent, first, OSError())
    assert type(failed) is CLASSES["ConnectionClosedError"] and type(failed.__cause__) is OSError


def test_every_close_code_has_words():
    for code, words in exceptions.CLOSE_CODES.items():
        assert str(Close(code, "")) == f"{code} ({words})"
