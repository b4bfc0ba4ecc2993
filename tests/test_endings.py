"""How a connection ends, or fails to open, and what comes next: docs/reconnecting.md in practice.

What is expected is read from the two tables of that page. Each way is shown twice in a row to each
front end, by a server that does it; delays tell which of the rules was at work.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.cookiejar
import io
import re
import signal
import socket
import ssl
import sys
import threading
import urllib.error
from functools import partial
from itertools import count, repeat

import pytest
from certificates import client_context, server_context, shared_server_context
from helpers import CERTS, ROOT
from tables import each_row

import wsmini
from wsmini import aio, cli
from wsmini.opening import opening, tcp
from wsmini.sansio.frames import Opcode
from wsmini.testing import frame, scripted_server

FIRST, SECOND, LONGEST = 0.001, 0.002, 0.01
WORDS = {  # of the page -> the delays, and whether it raises
    "the loop ends": ([], False),
    "another one, after the first delay": ([FIRST, FIRST], False),
    "another one": ([FIRST, SECOND], False),
    "another one: the code counts nevertheless": ([FIRST, SECOND], False),
    "another one, after up to `maximum`": ([LONGEST, LONGEST], False),
    "another attempt": ([FIRST, SECOND], False),
    "another attempt, after up to `maximum`": ([LONGEST, LONGEST], False),
    "it gives up": ([], True),
}


def tables():
    """The rows of the page: (the first one's, the second one's), by their first cells."""
    text = (ROOT / "docs" / "reconnecting.md").read_text(encoding="utf-8")
    found = []
    for title in ("who has ended the connection", "why no connection could be opened"):
        rows = re.search(rf"\| {title} \|.*\n\| --- .*\n((?:\|.*\n)+)", text)[1].splitlines()
        cells = [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows]
        found.append({first: rest for first, *rest in cells})
    return found


ENDS, FAILURES = tables()


# -- what servers do --


def closing(code):
    def act(peer):
        peer.accept()
        if code == 1005:
            peer.send_frame(Opcode.CLOSE)
            peer.recv_frame()
        else:
            peer.close(code)

    return act


def sending(data):
    def act(peer):
        peer.accept()
        peer.send_raw(data)
        with contextlib.suppress(EOFError, OSError):
            while peer.recv_frame().opcode != Opcode.CLOSE:
                pass

    return act


def staying(peer):
    peer.accept()
    with contextlib.suppress(EOFError, OSError, wsmini.ConnectionClosed):
        while True:
            peer.recv_message()


def silent(peer):
    """Answer no pings, until the client has gone."""
    peer.accept()
    with contextlib.suppress(EOFError, OSError):
        while True:
            peer.recv_frame()


def answering(status, **headers):
    return lambda peer: peer.respond(status, headers=list(headers.items()))


def hanging_up(peer):
    peer.sock.close()


def babbling(peer):
    peer.request()
    peer.send_raw(b"SSH-2.0-OpenSSH_9.6\r\n")


def certified(name):
    """A server with another certificate."""
    accepting = lambda peer: peer.accept()  # noqa: E731  # an object for each
    accepting.certificate = name
    return accepting


def program(name, server=staying):
    """What the program does itself, while the server mostly stays."""
    act = lambda peer: server(peer)  # noqa: E731  # an object for each
    act.program = name
    return act


BROKEN_CLOSES = [code.to_bytes(2, "big") for code in (1005, 1006)] + [b"\x03\xf4\xe2\x82"]
ACTS = {  # a row of the page -> what shows it: of servers, or of the program
    "the program: `close()`, `break`, `stop()` of a `Client`": [
        program("close"),
        program("break"),
    ],
    "the program has set `stop=`, and whoever ends the connection": [
        program("stop="),
        program("stop= and recv", closing(1008)),
    ],
    "the program: it has left the body, or a `with` block in it": [
        program("leave"),
        program("with"),
    ],
    "the server: 1000": [closing(1000)],
    "the server: 1001, 1011 to 1014, 3008, or no code (1005)": [
        closing(code) for code in (1001, 1011, 1012, 1013, 1014, 3008, 1005)
    ],
    "the server: 1002, 1003, 1007 to 1010": [
        closing(code) for code in (1002, 1003, 1007, 1008, 1009, 1010)
    ],
    "the server: other codes from 3000 on": [closing(code) for code in (3000, 4000, 4999)],
    "the server: a Close frame that breaks the rules, with 1005 or 1006, or with 1012 and half a "
    "character": [sending(frame(Opcode.CLOSE, data)) for data in BROKEN_CLOSES],
    "nobody: the connection was lost (1006)": [lambda peer: peer.accept()],
    "wsmini: no answer to pings (1011)": [silent],
    "wsmini: bytes that break the protocol (1002, 1007)": [
        sending(b"\x83\x00"),
        sending(b"\x81\x01\xff"),
    ],
    "wsmini: a message that is too large (1009)": [sending(b"\x82\x7e\xff\xff")],
}
REFUSALS = {
    "the network, timeouts, unknown names": [hanging_up],
    "HTTP 408, 425, 429 and 5xx, not before `Retry-After`": [
        answering(status) for status in (408, 425, 429, 500, 503)
    ],
    "HTTP 401 and 407": [answering(401)],
    "HTTP 401 and 407, with credentials that a callable makes": [answering(401)],
    "other answers: 200, 403, 404...": [answering(status) for status in (200, 403, 404)],
    "what isn't an answer to the handshake: garbage, a wrong `Sec-WebSocket-Accept`, redirects in "
    "a circle": [
        babbling,
        lambda peer: peer.accept(headers={"Sec-WebSocket-Accept": "AAAAAAAAAAAAAAAAAAAAAAAAAAA="}),
        lambda peer: peer.respond(302, headers=[("Location", "/")]),
    ],
    "a certificate that isn't trusted, has expired, or is for another name": [
        certified(name) for name in ("self-signed", "expired", "wrong-host")
    ],
    "a certificate that isn't valid yet: devices without a clock": [certified("not-yet-valid")],
}
OPTIONS = {"max_size": 1000, "ping_interval": None, "ping_timeout": 0.05, "close_timeout": 0.05}


def test_each_row_of_the_page_is_tried():
    assert set(ENDS) == set(ACTS)
    assert set(FAILURES) == set(REFUSALS)
    assert {word for rest in (*ENDS.values(), *FAILURES.values()) for word in rest} <= set(WORDS)


@contextlib.contextmanager
def serving(serve, acts):
    """A server whose connections are those of *acts*, by TLS where one shows its certificate."""
    if not any(hasattr(act, "certificate") for act in acts):
        with scripted_server(serve) as server:
            yield server.url, {}
        return
    numbers, context = count(), server_context()

    def choose(sock, name, context):
        act = dict(enumerate(acts)).get(next(numbers))
        sock.context = shared_server_context(getattr(act, "certificate", "server"))

    context.sni_callback = choose
    with scripted_server(serve, ssl=context) as server:
        yield f"wss://localhost:{server.port}/", {"ssl": client_context()}


# -- front ends: a loop over connections, of which the program ends the one called LAST --


class Loop:
    """What the front ends share: a policy, what was told, and what the program does when."""

    def __init__(self, acts, **options):
        self.acts, self.options = acts, {**OPTIONS, **options}
        self.delays, self.raised, self.opened = [], False, 0
        self.policy = wsmini.Backoff(initial=FIRST, maximum=LONGEST, jitter=None)

    def report(self, attempt, delay, failure):
        self.delays.append(delay)

    def act(self):
        """What the program does with the connection that has just opened, if anything."""
        self.opened += 1
        turn = self.turn
        return getattr(self.acts[turn], "program", "") if turn < len(self.acts) else "close"

    def calls(self, ws, stop):
        """That as calls, ``None`` to leave the loop, and the exception that ends them."""
        act = self.act()
        if act.startswith("stop="):
            stop.set()
        calls = {"close": [ws.close], "with": [partial(self.enter, ws)], "leave": [], "stop=": []}
        calls["break"] = None
        return (calls[act], ()) if act in calls else (repeat(ws.recv), wsmini.ConnectionClosed)

    def serve(self, peer):
        self.turn = peer.number - 1
        (self.acts[self.turn] if self.turn < len(self.acts) else staying)(peer)

    def run(self):
        with serving(self.serve, self.acts) as (url, tls):
            self.options.update(tls)
            try:
                self.loop(url)
            except (OSError, wsmini.WebSocketException):
                self.raised = True
        return self.delays, self.raised


class Blocking(Loop):
    def loop(self, url):
        stop = threading.Event()
        for ws in wsmini.reconnect(
            url, policy=self.policy, on_reconnect=self.report, stop=stop, **self.options
        ):
            calls, ends = self.calls(ws, stop)
            if calls is None:
                break
            with contextlib.suppress(ends):
                for call in calls:
                    call()

    def enter(self, ws):
        with ws:
            pass


class Asyncio(Loop):
    def loop(self, url):
        asyncio.run(self.main(url))

    async def main(self, url):
        stop = asyncio.Event()
        async for ws in aio.connect(
            url, policy=self.policy, on_reconnect=self.report, stop=stop, **self.options
        ):
            calls, ends = self.calls(ws, stop)
            if calls is None:
                break
            with contextlib.suppress(ends):
                for call in calls:
                    await call()

    async def enter(self, ws):
        async with ws:
            pass


class Callbacks(Loop):
    def loop(self, url):
        wsmini.Client(
            url, policy=self.policy, on_open=self.on_open,
            on_reconnect=lambda client, *args: self.report(*args), **self.options,
        ).run_forever()  # fmt: skip

    def on_open(self, client):
        act = self.act()
        if act == "close":
            client.close()
        elif act == "break":
            client.stop()


FRONT_ENDS = [Blocking, Asyncio, Callbacks]


def cases(acts, front_ends):
    """Each way with each front end that has it: a ``Client`` has no body that could be left, and
    ``stop()`` for ``break``; the command line has no credentials that a callable makes."""
    return [
        pytest.param(row, act, front_end, id=f"{row}, {number}, {front_end.__name__}")
        for row, shown in acts.items()
        for number, act in enumerate(shown)
        for front_end in front_ends
        if front_end is not Callbacks or getattr(act, "program", "close") in ("close", "break")
        if front_end is not cli.main or "callable" not in row
    ]


@each_row("row, act, front_end", cases(ACTS, FRONT_ENDS))
def test_what_comes_after_a_connection(row, act, front_end):
    options = {"ping_interval": 0.05} if act is silent else {}
    assert front_end([act, act], **options).run() == WORDS[ENDS[row][0]]


@pytest.mark.parametrize("worked", [False, True], ids=["at first", "once one has been open"])
@each_row("row, act, front_end", cases(REFUSALS, FRONT_ENDS))
def test_what_comes_after_a_failure_to_open_one(row, act, worked, front_end):
    options = {"auth": lambda *args: None} if "callable" in row else {}
    loop = front_end([lambda peer: peer.accept(), act, act] if worked else [act, act], **options)
    delays, raised = loop.run()
    expected, gives_up = WORDS[FAILURES[row][worked]]
    if worked:
        # The connection that was lost has grown the delay.
        assert delays.pop(0) == FIRST
        expected = [{FIRST: SECOND, SECOND: 2 * SECOND}.get(delay, delay) for delay in expected]
    assert (delays, raised) == (expected, gives_up)


SERVERS = {row: acts for row, acts in ACTS.items() if not row.startswith("the program")}


def command_line(main, acts, interval=0):
    """What the command line does with these and one that sends a message: (attempts, status)."""
    asked = []

    def serve(peer):
        asked.append(peer)
        if peer.number <= len(acts):
            acts[peer.number - 1](peer)
        else:
            peer.accept()
            peer.send_message("here")

    with serving(serve, acts) as (url, tls), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
        argv = ["--reconnect=0", "-n1", "--wait=inf", "--max-size=1000", "--close-timeout=0.05"]
        argv += [f"--cafile={CERTS / 'ca.pem'}"] if tls else []
        status = main([url, *argv, "--ping-timeout=0.05", f"--ping-interval={interval}"])
    return len(asked), status


@each_row("row, act, main", cases(SERVERS, [cli.main]))
def test_what_comes_after_a_connection_of_the_command_line(row, act, main):
    asked, status = command_line(main, [act, act], 0.05 if act is silent else 0)
    delays, raised = WORDS[ENDS[row][0]]
    assert (asked - 1, status != 0) == (len(delays), raised)


@pytest.mark.parametrize("worked", [False, True], ids=["at first", "once one has been open"])
@each_row("row, act, main", cases(REFUSALS, [cli.main]))
def test_what_comes_after_a_failure_of_the_command_line_to_open_one(row, act, worked, main):
    # Once, as Fixed(0) has no longest delay.
    _, status = command_line(main, [lambda peer: peer.accept()] * worked + [act, act])
    assert (status != 0) == WORDS[FAILURES[row][worked]][1]


# -- what is raised within an opening, and is not the network's --


def once(exc, function=lambda *args, **options: None):
    """*function*, the first call of which raises *exc*."""
    errors = [exc]

    def call(*args, **options):
        if errors:
            raise errors.pop()
        return function(*args, **options)

    return call


PLACES = [(opening, "make_key"), (opening, "check_response"), (tcp, "configure")]
UNNUMBERED = [OSError, TimeoutError, ConnectionResetError, urllib.error.URLError]


@contextlib.contextmanager
def interrupted(place, error):
    """A signal handler raises *error* where that function is called for the first time."""
    genuine = getattr(*place)

    def interrupt(*args, **options):
        signal.raise_signal(signal.SIGALRM)
        return genuine(*args, **options)

    before = signal.signal(signal.SIGALRM, once(error))
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(*place, interrupt)
            yield
    finally:
        signal.signal(signal.SIGALRM, before)


in_an_opening = pytest.mark.parametrize("place", PLACES, ids=[name for _, name in PLACES])
without_a_number = pytest.mark.parametrize("kind", UNNUMBERED)
with_signals = pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="signals need POSIX")


@with_signals
@pytest.mark.parametrize("front_end", FRONT_ENDS)
@in_an_opening
@without_a_number
def test_what_a_signal_handler_raises_in_an_opening_leaves_the_loop(kind, place, front_end):
    error = kind("from the handler")
    with serving(staying, []) as (url, _), interrupted(place, error):
        with pytest.raises(kind) as caught:
            front_end([]).loop(url)
    assert caught.value is error
    assert not hasattr(error, "phase")  # it is as it was


@with_signals
@in_an_opening
@without_a_number
def test_what_a_signal_handler_raises_in_an_opening_ends_the_command_line(kind, place):
    with interrupted(place, kind("from the handler")):
        asked, status = command_line(cli.main, [])
    assert asked <= 1 and status != 0


class Logger:
    """All that wsmini calls of one."""

    def __init__(self, exc):
        self.debug = once(exc)

    def info(self, *args):
        pass


class Jar(http.cookiejar.CookieJar):
    """One whose method *name* fails once."""

    def __init__(self, name, exc):
        super().__init__()
        setattr(self, name, once(exc, getattr(self, name)))


CALLABLES = {
    "additional_headers": lambda exc: {"additional_headers": once(exc, dict)},
    "auth": lambda exc: {"auth": once(exc, lambda *args: "Bearer abc")},
    "trace": lambda exc: {"trace": once(exc)},
    "logger": lambda exc: {"logger": Logger(exc)},
    "cookies to send": lambda exc: {"cookies": Jar("add_cookie_header", exc)},
    "cookies to store": lambda exc: {"cookies": Jar("extract_cookies", exc)},
}


@pytest.mark.parametrize("front_end", FRONT_ENDS)
@pytest.mark.parametrize("name", CALLABLES)
@without_a_number
def test_what_a_callable_raises_in_an_opening_is_tried_again(kind, name, front_end):
    acts = [answering(401)] if name == "auth" else []
    loop = front_end(acts, **CALLABLES[name](kind("from the callable")))
    assert loop.run() == ([FIRST], False)


@pytest.mark.parametrize("front_end", FRONT_ENDS)
@without_a_number
def test_what_a_context_of_ones_own_raises_is_tried_again(kind, front_end, monkeypatch):
    def act(peer):
        staying(peer)

    act.certificate, act.program = "server", "close"
    error = kind("no more handles")
    monkeypatch.setattr(ssl.SSLContext, "wrap_bio", once(error, ssl.SSLContext.wrap_bio))
    assert front_end([act]).run() == ([FIRST], False)


@pytest.mark.parametrize("front_end", FRONT_ENDS)
@without_a_number
def test_what_a_replaced_getaddrinfo_raises_is_tried_again(kind, front_end, monkeypatch):
    error = kind("no such name")
    monkeypatch.setattr(socket, "getaddrinfo", once(error, socket.getaddrinfo))
    assert front_end([]).run() == ([FIRST], False)
