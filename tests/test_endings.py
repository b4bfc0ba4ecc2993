"""How a connection ends, or fails to open, and what comes next: docs/reconnecting.md in practice.

What is expected is read from the two tables of that page. Each way is shown twice in a row to each
front end, by a server that does it; delays tell which of the rules was at work.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import re
import sys

import pytest
from helpers import ROOT

import wsmini
from wsmini import aio, cli
from wsmini.sansio.frames import Opcode
from wsmini.testing import scripted_server

FIRST, SECOND, LONGEST = 0.001, 0.002, 0.01
WORDS = {  # of the page -> the delays, and whether it raises
    "the loop ends": ([], False),
    "another one, after the first delay": ([FIRST, FIRST], False),
    "another one": ([FIRST, SECOND], False),
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


def program(name):
    """What the program does itself; the server only stays."""
    staying_for = lambda peer: staying(peer)  # noqa: E731  # an object for each
    staying_for.program = name
    return staying_for


ACTS = {  # a row of the page -> what shows it: of servers, or of the program
    "the program: `close()`": [program("close")],
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
}
ELSEWHERE = {  # test_policies has them: they need certificates of other times
    "a certificate that isn't trusted, has expired, or is for another name",
    "a certificate that isn't valid yet: devices without a clock",
}
OPTIONS = {"max_size": 1000, "ping_interval": None, "ping_timeout": 0.05, "close_timeout": 0.05}


def test_each_row_of_the_page_is_tried():
    assert set(ENDS) == set(ACTS)
    assert set(FAILURES) == {*REFUSALS, *ELSEWHERE}
    assert {word for rest in (*ENDS.values(), *FAILURES.values()) for word in rest} <= set(WORDS)


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

    def serve(self, peer):
        self.turn = peer.number - 1
        (self.acts[self.turn] if self.turn < len(self.acts) else staying)(peer)

    def run(self):
        with scripted_server(self.serve) as server:
            try:
                self.loop(server.url)
            except (OSError, wsmini.WebSocketException):
                self.raised = True
        return self.delays, self.raised


class Blocking(Loop):
    def loop(self, url):
        for ws in wsmini.reconnect(
            url, policy=self.policy, on_reconnect=self.report, **self.options
        ):
            act = self.act()
            if act == "close":
                ws.close()
            elif act == "with":
                with ws:
                    pass
            elif act != "leave":
                with contextlib.suppress(wsmini.ConnectionClosed):
                    while True:
                        ws.recv()


class Asyncio(Loop):
    def loop(self, url):
        asyncio.run(self.main(url))

    async def main(self, url):
        async for ws in aio.connect(
            url, policy=self.policy, on_reconnect=self.report, **self.options
        ):
            act = self.act()
            if act == "close":
                await ws.close()
            elif act == "with":
                async with ws:
                    pass
            elif act != "leave":
                with contextlib.suppress(wsmini.ConnectionClosed):
                    while True:
                        await ws.recv()


class Callbacks(Loop):
    def loop(self, url):
        wsmini.Client(
            url, policy=self.policy, on_open=self.on_open,
            on_reconnect=lambda client, *args: self.report(*args), **self.options,
        ).run_forever()  # fmt: skip

    def on_open(self, client):
        if self.act() == "close":
            client.close()


FRONT_ENDS = [Blocking, Asyncio, Callbacks]


def cases(acts, front_ends):
    """Each way with each front end that has it: a ``Client`` has no body that could be left."""
    return [
        pytest.param(row, act, front_end, id=f"{row}, {number}, {front_end.__name__}")
        for row, shown in acts.items()
        for number, act in enumerate(shown)
        for front_end in front_ends
        if front_end is not Callbacks or getattr(act, "program", "close") == "close"
    ]


@pytest.mark.parametrize("row, act, front_end", cases(ACTS, FRONT_ENDS))
def test_what_comes_after_a_connection(row, act, front_end):
    options = {"ping_interval": 0.05} if act is silent else {}
    assert front_end([act, act], **options).run() == WORDS[ENDS[row][0]]


@pytest.mark.parametrize("row, act, front_end", cases(REFUSALS, FRONT_ENDS))
@pytest.mark.parametrize("worked", [False, True], ids=["at first", "once one has been open"])
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


@pytest.mark.parametrize("row, act, main", cases(SERVERS, [cli.main]))
def test_what_comes_after_a_connection_of_the_command_line(row, act, main, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    connections = []

    def serve(peer):
        connections.append(peer)
        if peer.number < 3:
            act(peer)
        else:
            peer.accept()
            peer.send_message("here")

    with scripted_server(serve) as server:
        interval = 0.05 if act is silent else 0
        argv = ["--reconnect=0", "-n1", "--wait=inf", "--max-size=1000", "--close-timeout=0.05"]
        status = main([server.url, *argv, "--ping-timeout=0.05", f"--ping-interval={interval}"])
    delays, raised = WORDS[ENDS[row][0]]
    assert (len(connections) - 1, status != 0) == (len(delays), raised)
