"""The reconnect policies: what is retried, and when."""

from __future__ import annotations

import errno
import math
import socket
import ssl
import sys

import pytest
from tables import each_row

from wsmini.exceptions import (
    Close,
    ConnectionClosed,
    InvalidHandshake,
    InvalidMessage,
    InvalidProxy,
    InvalidProxyMessage,
    InvalidProxyStatus,
    InvalidRedirect,
    InvalidStatus,
    InvalidUpgrade,
    InvalidURI,
    NegotiationError,
    ProtocolError,
    ProxyError,
    TooManyRedirects,
    connection_closed,
)
from wsmini.interrupts import mark_failure
from wsmini.options import Options
from wsmini.policies import (
    Attempts,
    Backoff,
    Fixed,
    NoReconnect,
    read_policy,
    retry_after,
    retryable,
)
from wsmini.sansio.http11 import Response
from wsmini.sansio.uri import DestinationRefused

LOST = ConnectionResetError(errno.ECONNRESET, "reset")


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


def status(code, *headers, proxy=False):
    return (InvalidProxyStatus if proxy else InvalidStatus)(Response(code, "", headers))


def hung_up(exc):
    exc.hung_up = True
    return exc


def caused(exc, cause):
    exc.__cause__ = cause
    return exc


def received(code):
    """The server closed with *code*, and we have answered."""
    close = Close(code, "")  # the same object, as the protocol has it
    return connection_closed(close, close, True)


def sent(code, answered=True):
    """We closed with *code*, and the server has answered, or hasn't."""
    close = Close(code, "")
    return connection_closed(close if answered else None, close, False if answered else None)


def certificate(code):
    exc = ssl.SSLCertVerificationError(1, "certificate verify failed")
    exc.verify_code = code
    exc.reason = "CERTIFICATE_VERIFY_FAILED"
    return exc


def tls(reason, first_bytes=b"\x16\x03\x03"):
    exc = ssl.SSLError(1, f"[SSL: {reason}]")
    exc.reason, exc.first_bytes = reason, first_bytes
    return exc


# -- what is retried --

YES = {
    "refused": ConnectionRefusedError(errno.ECONNREFUSED, "refused"),
    "reset": LOST,
    "no route": OSError(errno.ENETUNREACH, "unreachable"),
    "no number": OSError("something"),
    "timeout": TimeoutError("not open after 10 s"),
    "too many files": OSError(errno.EMFILE, "too many open files"),
    "unix socket not there yet": FileNotFoundError(errno.ENOENT, "no such file"),
    "resolver busy": socket.gaierror(socket.EAI_AGAIN, "temporary failure"),
    # Some resolvers say so without a network: systemd issues 15076 and 20786.
    "name unknown": socket.gaierror(socket.EAI_NONAME, "name not known"),
    "certificate not yet valid": certificate(9),
    "revocation list not yet valid": certificate(11),
    "tls ended early": ssl.SSLEOFError(8, "EOF occurred in violation of protocol"),
    "a broken record": tls("RECORD_LAYER_FAILURE"),
    "tls failed inside": tls("TLSV1_ALERT_INTERNAL_ERROR"),
    "hung up": hung_up(InvalidMessage("connection closed without a response")),
    "proxy hung up": caused(InvalidProxyMessage("x"), hung_up(InvalidMessage("closed"))),
    "socks proxy hung up": hung_up(InvalidProxyMessage("closed in the middle of SOCKS")),
    "socks proxy can't reach it": DestinationRefused("host unreachable"),
    **{f"status {code}": status(code) for code in (408, 425, 429, 500, 502, 503, 504, 599)},
    "proxy 502": status(502, proxy=True),
    **{
        f"received {code}": received(code)
        for code in (1000, 1001, 1005, 1011, 1012, 1013, 1014, 3008)
    },
    "lost": connection_closed(None, None, None),
    "received, not answered": connection_closed(Close(1012, ""), None, None),
    "no pong": sent(1011, answered=False),
    "message abandoned": sent(1011),
}

NO = {
    "url": InvalidURI("x", "y"),
    "proxy url": InvalidProxy("x", "y"),
    "argument": ValueError("x"),
    "bug": ZeroDivisionError(),
    "interrupt": KeyboardInterrupt(),
    "protocol error alone": ProtocolError("x"),
    "wrong name": certificate(62),
    "self-signed": certificate(18),
    "expired": certificate(10),
    "verification failed somehow": tls("CERTIFICATE_VERIFY_FAILED"),
    "our certificate": tls("TLSV13_ALERT_CERTIFICATE_REQUIRED"),
    "no tls there": tls("WRONG_VERSION_NUMBER"),
    "no tls there, in other words": tls("RECORD_LAYER_FAILURE", b"HTTP/1.1 400 Bad Request"),
    "tls versions": tls("TLSV1_ALERT_PROTOCOL_VERSION"),
    "not http": InvalidMessage("not a status line"),
    "no upgrade": InvalidUpgrade("Upgrade"),
    "subprotocol": NegotiationError("Sec-WebSocket-Protocol", "x", "not offered"),
    "redirect": InvalidRedirect("ws://x", "wss to ws"),
    "redirects": TooManyRedirects(["a", "a"]),
    "handshake": InvalidHandshake("x"),
    "proxy": ProxyError("refused the user"),
    "proxy's answer": caused(InvalidProxyMessage("x"), InvalidMessage("no HTTP")),
    **{f"status {code}": status(code) for code in (200, 302, 400, 401, 403, 404, 410, 426, 600)},
    "proxy 407": status(407, proxy=True),
    "proxy 403": status(403, proxy=True),
    **{
        f"received {code}": received(code)
        for code in (1002, 1003, 1007, 1008, 1009, 1010, 3000, 4000, 4999)
    },
    **{f"we failed it: {code}": sent(code, False) for code in (1002, 1003, 1007, 1008, 1009, 1010)},
    "we failed it, answered": sent(1002),
    "we closed": sent(1000),
    "we closed, no answer": sent(1000, answered=False),
    "we left": sent(1001),
    "we closed with 4000": sent(4000),
}


@each_row("failure", YES.values(), ids=YES)
def test_what_may_pass_is_retried(failure):
    assert retryable(failure)


@each_row("failure", NO.values(), ids=NO)
def test_what_would_go_wrong_again_is_not_retried(failure):
    assert not retryable(failure)


def test_ssl_is_not_needed_to_decide(monkeypatch):
    monkeypatch.delitem(sys.modules, "ssl")
    assert retryable(LOST)


# -- when --


def delays(retries, count, failure=LOST):
    return [retries.next_delay(failure) for _ in range(count)]


def test_each_wait_is_longer_up_to_the_maximum():
    retries = Backoff(jitter=None).start()
    assert delays(retries, 9) == [0.5, 1, 2, 4, 8, 16, 32, 60, 60]


def test_it_never_overflows():
    retries = Backoff(jitter=None, factor=1e308, maximum=1e308).start()
    assert delays(retries, 3) == [0.5, 5e307, 1e308]


def test_full_jitter_is_a_share_of_the_wait():
    policy = Backoff(initial=1)
    policy._random = iter([0.0, 0.25, 0.999]).__next__
    retries = policy.start()
    assert delays(retries, 3) == [0.0, 0.5, 0.999 * 4]


def test_without_a_random_function_waits_differ_and_stay_in_range():
    found = {Backoff(initial=1).start().next_delay(LOST) for _ in range(200)}
    assert len(found) == 200
    assert 0 <= min(found) < 0.2 and 0.8 < max(found) < 1


def test_clients_of_one_policy_count_for_themselves():
    policy = Backoff(jitter=None)
    a, b = policy.start(), policy.start()
    assert delays(a, 3) == [0.5, 1, 2]
    assert delays(b, 1) == [0.5]


def test_what_is_not_retryable_ends_it():
    retries = Backoff(jitter=None).start()
    assert retries.next_delay(status(404)) is None


def test_the_caller_decides_what_is_retried():
    retries = Backoff(jitter=None, retryable=lambda failure: failure is not LOST).start()
    assert delays(retries, 1) == [None]
    assert delays(retries, 1, received(4000)) == [0.5]


def test_it_gives_up_after_so_many_attempts():
    assert delays(Backoff(jitter=None, attempts=2).start(), 4) == [0.5, 1, None, None]
    assert delays(Backoff(attempts=0).start(), 1) == [None]


@pytest.mark.parametrize(
    "seconds, expected", [(29.9, [2, None]), (30, [0.5, 1, 2, None])], ids=["short", "stable"]
)
def test_counting_starts_again_after_a_stable_connection_only(seconds, expected):
    clock, policy = Clock(), Backoff(jitter=None, attempts=3)
    policy._clock = clock
    retries = policy.start()
    assert delays(retries, 2) == [0.5, 1]
    retries.opened()
    clock.now += seconds
    assert delays(retries, len(expected)) == expected


def test_time_without_a_connection_does_not_count_as_stable():
    clock, policy = Clock(), Backoff(jitter=None)
    policy._clock = clock
    retries = policy.start()
    retries.opened()
    assert delays(retries, 1) == [0.5]
    clock.now += 1000
    assert delays(retries, 1) == [1]


# -- once a connection has been open --

EVEN_THEN_NOT = {
    *("url", "proxy url", "argument", "bug", "interrupt", "protocol error alone"),
    *("status 401", "proxy 407", "we failed it, answered"),
    *(name for name in NO if name.startswith(("received", "we "))),
} - {"we failed it: 1002", "we failed it: 1007", "we failed it, answered"}


@each_row("name", NO)
def test_what_looks_permanent_may_pass_where_a_connection_has_been_open(name):
    retries = Backoff(jitter=None).start()
    retries.opened()
    assert retries.next_delay(NO[name]) == (None if name in EVEN_THEN_NOT else 60)


def test_what_looks_permanent_counts_as_an_attempt():
    retries = Backoff(jitter=None, attempts=2).start()
    retries.opened()
    assert delays(retries, 2, status(404)) == [60, 60]
    assert delays(retries, 1) == [None]


def test_what_looks_permanent_is_the_callers_to_judge():
    retries = Backoff(retryable=lambda failure: retryable(failure)).start()
    retries.opened()
    assert delays(retries, 1, status(404)) == [None]


@pytest.mark.parametrize("option", ["auth", "additional_headers"])
@pytest.mark.parametrize("failure", [status(401), status(407, proxy=True)], ids=["401", "407"])
def test_credentials_that_a_callable_makes_may_be_right_the_next_time(option, failure):
    kept = Attempts("x", Fixed(3), Options("ws://x", **{option: lambda *args: None}))
    with pytest.raises(type(failure)):
        kept.failed(failure)
    kept.opened()
    assert kept.failed(failure) == 3


# -- a server's 1000, and connections that are left --


@pytest.mark.parametrize("policy", [Backoff(after_normal_close=False), NoReconnect()])
def test_a_normal_close_ends_quietly_where_the_policy_says_so(policy):
    assert attempts(policy).failed(received(1000)) is None
    assert attempts(policy).failed(connection_closed(Close(1000, ""), None, None)) is None


def test_a_normal_close_is_retried_else_and_no_way_to_end_silently():
    kept = attempts(Fixed(3, attempts=1))
    kept.opened()
    assert kept.failed(received(1000)) == 3
    kept.opened()
    with pytest.raises(ConnectionClosed):
        kept.failed(received(1000))


@pytest.mark.parametrize("failure", [received(1000), received(1012), sent(1000), LOST])
def test_a_connection_that_the_program_has_closed_is_the_last(failure):
    assert attempts(Fixed(0)).failed(failure, closed_by_program=True) is None


@pytest.mark.parametrize("code", [1000, 1001])
def test_a_connection_that_was_left_is_followed_after_the_first_delay(code):
    kept = attempts(Backoff(jitter=None, attempts=3, retryable=lambda failure: False))
    for _ in range(5):
        kept.opened()
        assert kept.failed(sent(code)) == 0.5
    assert attempts(Backoff(attempts=0)).failed(sent(code)) is None
    assert attempts(NoReconnect()).failed(sent(code, answered=False)) is None


def test_the_time_since_a_connection_was_left_does_not_count_as_stable():
    clock, policy = Clock(), Backoff(jitter=None)
    policy._clock = clock
    retries = policy.start()
    assert delays(retries, 2) == [0.5, 1]
    retries.opened()
    assert retries.left() == 0.5
    clock.now += 1000
    assert delays(retries, 1) == [2]


def test_a_policy_of_the_users_is_asked_for_its_first_delay():
    class Policy:
        def start(self):
            self.count = 0
            return self

        def opened(self):
            pass

        def next_delay(self, failure):
            self.count += 1
            return float(self.count)

    assert attempts(Policy()).failed(sent(1000)) == 1


def test_fixed_waits_the_same_each_time():
    assert delays(Fixed(3).start(), 4) == [3, 3, 3, 3]
    assert delays(Fixed(0, attempts=2).start(), 3) == [0, 0, None]
    policy = Fixed(4, jitter="full")
    policy._random = lambda: 0.5
    assert delays(policy.start(), 2) == [2, 2]


def test_no_reconnect_gives_up():
    retries = NoReconnect().start()
    retries.opened()
    assert retries.next_delay(LOST) is None


# -- Retry-After --

NOV = "Sun, 06 Nov 1994 08:49:37 GMT"
LATER = [
    ("seconds", "120", 120),
    ("zero", "0", 0),
    ("a fraction", " 1.5 ", 1.5),
    ("nothing in front of the point", ".5", 0),
    ("nothing behind the point", "1.", 0),
    ("two points", "1.2.3", 0),
    ("years", "9" * 5000, 3600),
    ("negative", "-5", 0),
    ("words", "soon", 0),
    ("empty", "", 0),
    ("other digits", "\xb2", 0),
    ("exponent", "1e3", 0),
    ("date", "Sun, 06 Nov 1994 08:50:37 GMT", 60),
    ("rfc 850 date", "Sunday, 06-Nov-94 08:50:37 GMT", 60),
    ("asctime date", "Sun Nov  6 08:50:37 1994", 60),
    ("past date", "Sun, 06 Nov 1994 08:00:00 GMT", 0),
    ("far date", "Sun, 06 Nov 2094 08:49:37 GMT", 3600),
    ("two digits of this century", "Sunday, 06-Nov-24 08:49:37 GMT", 3600),
    ("no month", "Sun, 06 Nix 1994 08:50:37 GMT", 0),
    ("no zone", "Sun, 06 Nov 1994 08:50:37", 0),
]


@each_row("value, expected", [pytest.param(*case[1:], id=case[0]) for case in LATER])
def test_retry_after_is_read(value, expected):
    failure = status(503, ("Retry-After", value), ("Date", NOV))
    assert retry_after(failure) == expected


@pytest.mark.parametrize(
    "date, seconds",
    [
        ("Thu, 01 Jan 1970 00:00:10 GMT", 10),
        ("Tue, 29 Feb 2000 00:00:01 GMT", 951782401),
        ("Wed, 01 Mar 2000 00:00:00 GMT", 951868800),
        ("Fri, 31 Dec 2100 23:59:59 GMT", 4133980799),
        (NOV, 784111777),
    ],
)
def test_without_the_servers_date_the_clock_counts(date, seconds, monkeypatch):
    monkeypatch.setattr("time.time", lambda: seconds - 7)
    failure = status(503, ("Retry-After", date))
    assert retry_after(failure) == 7


def test_a_date_that_is_none_counts_as_missing(monkeypatch):
    monkeypatch.setattr("time.time", lambda: 784111700)
    failure = status(503, ("Retry-After", NOV), ("Date", "now"))
    assert retry_after(failure) == 77


def test_of_several_none_is_believed():
    assert retry_after(status(503, ("Retry-After", "5"), ("Retry-After", "6"))) == 0


def test_only_responses_ask_to_wait():
    assert retry_after(LOST) == 0
    assert retry_after(status(502, ("Retry-After", "7"), proxy=True)) == 7


def test_retry_after_is_the_least_and_spread():
    def after(seconds, random, **options):
        policy = Backoff(**options)
        policy._random = lambda: random
        return policy.start().next_delay(status(503, ("Retry-After", str(seconds))))

    assert after(120, 0.0) == 120
    assert after(120, 0.5) == 126
    assert after(1, 0.5) == 1.25
    assert after(120, 0.5, jitter=None) == 120
    assert after(1, 0.5, jitter=None, initial=2) == 2


# -- arguments --

WRONG = {
    "initial 0": ({"initial": 0}, ValueError, "Fixed"),
    "initial negative": ({"initial": -1}, ValueError, "initial"),
    "initial text": ({"initial": "1"}, TypeError, "initial"),
    "initial true": ({"initial": True}, TypeError, "initial"),
    "factor": ({"factor": 0.5}, ValueError, "factor is a finite number from 1 on"),
    "factor nan": ({"factor": math.nan}, ValueError, "factor"),
    "maximum": ({"maximum": math.inf}, ValueError, "maximum"),
    "maximum below": ({"initial": 5, "maximum": 4}, ValueError, "below initial"),
    "jitter": ({"jitter": True}, ValueError, "jitter"),
    "attempts": ({"attempts": -1}, ValueError, "attempts"),
    "attempts text": ({"attempts": "3"}, TypeError, "attempts"),
    "attempts true": ({"attempts": True}, TypeError, "attempts"),
    "stable_after": ({"stable_after": None}, TypeError, "stable_after"),
    "retryable": ({"retryable": (OSError,)}, TypeError, "retryable"),
}


@each_row("options, error, text", WRONG.values(), ids=WRONG)
def test_wrong_arguments_are_refused_at_once(options, error, text):
    with pytest.raises(error, match=text):
        Backoff(**options)


def test_fixed_checks_its_delay():
    with pytest.raises(ValueError, match="delay"):
        Fixed(-1)


@pytest.mark.parametrize("policy", [True, 5, Backoff, NoReconnect, lambda: None])
def test_what_is_no_policy_is_refused(policy):
    with pytest.raises(TypeError, match="Backoff"):
        read_policy(policy, None)
    with pytest.raises(TypeError, match="Backoff"):
        read_policy(None, policy)


@pytest.mark.parametrize("policy", [Backoff(), Fixed(1), NoReconnect()])
def test_policies_are_accepted_under_either_name(policy):
    assert read_policy(policy, None) is policy
    assert read_policy(None, policy) is policy
    assert isinstance(read_policy(None, None), Backoff)
    with pytest.raises(TypeError, match="the same"):
        read_policy(policy, policy)


def test_policies_show_their_settings():
    assert repr(Fixed(0)).startswith("Fixed(initial=0, factor=1, maximum=0, jitter=None")
    assert "stable_after=30.0" in repr(Backoff())
    assert repr(NoReconnect()) == "NoReconnect()"


def test_notes_gather_on_every_python():
    exc = ConnectionClosed(None, None)
    exc.__notes__ = ["a"]
    with pytest.raises(ConnectionClosed):
        attempts(NoReconnect()).failed(exc)
    assert exc.__notes__ == [
        "a",
        "the loop gave up after the connection ended, as NoReconnect() says",
    ]
    assert exc.args == (None, None, None)


# -- what a loop over connections keeps --


class Logger:
    def __init__(self):
        self.lines = []

    def info(self, text, *args):
        self.lines.append(text % args)

    def debug(self, text, *args):
        pass


def attempts(policy, on_reconnect=None, logger=None):
    return Attempts("the loop", policy, Options("ws://x", logger=logger), on_reconnect)


@pytest.mark.parametrize("closed_by_program", [False, True])
def test_what_a_signal_handler_raised_is_no_attempt(closed_by_program):
    calls = []
    kept = attempts(Fixed(2), lambda *args: calls.append(args))
    error = TimeoutError("without a number")
    with pytest.raises(TimeoutError) as caught:
        kept.failed(error, closed_by_program)
    assert caught.value is error and calls == []
    assert kept.failed(mark_failure(error)) == 2  # the opening's own


def test_attempts_are_counted_and_told():
    calls, logger = [], Logger()
    kept = attempts(Fixed(2), lambda *args: calls.append(args) or "told", logger)
    first, second = ConnectionRefusedError(1, "one"), TimeoutError(2, "two")
    assert kept.failed(first) == 2 and kept.told == "told"
    assert kept.failed(second) == 2
    kept.opened()
    lost = connection_closed(None, None, None)
    assert kept.failed(lost) == 2
    assert calls == [(2, 2, first), (3, 2, second), (1, 2, lost)]
    assert len(logger.lines) == 3 and logger.lines[0] == "connecting again in 2.0 s: [Errno 1] one"


@pytest.mark.parametrize(
    "failures, said",
    [(0, "after the connection ended"), (1, "1 failed attempt in"), (2, "2 failed attempts in")],
)
def test_who_gives_up_says_after_what(failures, said):
    kept = attempts(Fixed(0, attempts=max(0, failures - 1)))
    for _ in range(failures - 1):
        assert kept.failed(OSError(1, "refused")) == 0
    last = OSError(1, "refused") if failures else connection_closed(None, None, None)
    with pytest.raises(type(last)) as caught:
        kept.failed(last)
    assert caught.value is last
    assert said in last.__notes__[0] and last.__notes__[0].startswith("the loop gave up")


def test_delays_of_others_policies_are_kept_within_bounds():
    class Policy(NoReconnect):
        answers = [-1.0, float("inf")]

        def next_delay(self, failure):
            return self.answers.pop(0)

    kept = attempts(Policy())
    assert kept.failed(OSError(1, "refused")) == 0
    assert 1e5 < kept.failed(OSError(1, "refused")) < 1e12


def test_on_reconnect_is_callable():
    with pytest.raises(TypeError):
        read_policy(None, None, 3)
    read_policy(None, None, print)
