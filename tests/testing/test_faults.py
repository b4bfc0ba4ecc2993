"""Each fault, and what the blocking client says to it."""

from __future__ import annotations

import contextlib
import socket
import time

import pytest
from certificates import client_context, server_context
from helpers import PATIENCE
from tables import each_row

import wsmini
from wsmini.opening import exchange, opening, steps, tcp
from wsmini.testing import (
    Bomb,
    Challenge,
    CloseWith,
    Cut,
    Drip,
    EndlessHeader,
    Fault,
    Garbage,
    IgnoreClose,
    Opcode,
    Redirect,
    Refuse,
    Reset,
    Send,
    Stall,
    WrongAccept,
    echo_server,
    fault_server,
    frame,
)

HELLO = len(frame(Opcode.TEXT, "hello"))


def connect(server, **options):
    return wsmini.connect(server.url, **{"proxy": None, "open_timeout": PATIENCE, **options})


def echo(server, **options):
    """Send a message to *server*, and receive one."""
    with connect(server, **options) as ws:
        ws.send("hello")
        return ws.recv(timeout=PATIENCE)


def test_each_connection_has_its_fault_and_then_there_are_none():
    with fault_server(Refuse(503), Cut(), None) as server:
        with pytest.raises(wsmini.InvalidStatus):
            connect(server)
        with pytest.raises(wsmini.ConnectionClosedError):
            echo(server)
        for _ in range(3):
            assert echo(server) == "hello"
        assert server.connections == 5
        assert len(server.requests) == 5
        assert server.errors == []


def test_then_is_the_fault_of_all_others():
    with fault_server(None, then=Refuse(404)) as server:
        assert echo(server) == "hello"
        for _ in range(2):
            with pytest.raises(wsmini.InvalidStatus):
                connect(server)


def test_a_function_will_do():
    def script(peer):
        peer.accept(subprotocol="chat")
        peer.send_message(f"you are number {peer.number}")
        peer.close()

    with fault_server(None, script) as server:
        assert echo(server) == "hello"
        with connect(server, subprotocols=["chat"]) as ws:
            assert list(ws) == ["you are number 2"]


def test_what_goes_wrong_in_a_function_is_raised():
    def script(peer):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), fault_server(script) as server:
        connect(server)


def test_messages_come_before_the_echo():
    with fault_server(messages=["a", b"b"]) as server, connect(server) as ws:
        assert [ws.recv(PATIENCE), ws.recv(PATIENCE)] == ["a", b"b"]
        ws.send("c")
        assert ws.recv(PATIENCE) == "c"


def test_the_echo_has_the_options_of_echo_server():
    with fault_server(subprotocols=["chat"], compression=True) as server:
        with connect(server, subprotocols=["chat"]) as ws:
            assert ws.subprotocol == "chat"
            assert ws.extensions


# -- of the network --


@each_row("fault", [Cut, Reset])
@each_row("after", range(HELLO + 1))
def test_the_connection_ends_at_any_byte_of_a_frame(fault, after):
    with fault_server(fault(after=after), messages=["hello"]) as server, connect(server) as ws:
        with pytest.raises(wsmini.ConnectionClosedError) as caught:
            # After a reset, what was sent before may be lost.
            while ws.recv(timeout=PATIENCE) == "hello":
                assert after == HELLO
        assert caught.value.code == 1006


def test_a_cut_loses_nothing_that_was_sent_before():
    with fault_server(Cut(after=HELLO), messages=["hello"]) as server, connect(server) as ws:
        assert ws.recv(timeout=PATIENCE) == "hello"
        with pytest.raises(wsmini.ConnectionClosedError):
            ws.recv(timeout=PATIENCE)


@pytest.mark.parametrize("after", [0, 1, 50])
def test_the_connection_ends_at_any_byte_of_the_response(after):
    with fault_server(Cut(after, handshake=True), Reset(after, handshake=True)) as server:
        with pytest.raises(wsmini.InvalidMessage, match="closed"):
            connect(server)
        with pytest.raises((wsmini.InvalidMessage, ConnectionError)):
            connect(server)


def test_a_reset_is_a_reset():
    with fault_server(Reset(after=1, handshake=True)) as server:
        with socket.create_connection((server.host, server.port), timeout=PATIENCE) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
            with pytest.raises(ConnectionResetError):
                assert sock.recv(100) == b"H"
                raise AssertionError(f"not a reset: {sock.recv(100)!r}")


class Hours:
    """Stands in for the module ``time`` where connections are opened; hours pass when told to."""

    def __init__(self):
        self.passed = 0.0
        self.sleep = time.sleep

    def monotonic(self):
        return time.monotonic() + self.passed


@pytest.fixture
def give_up(monkeypatch):
    """Let ``open_timeout`` pass; something must wake the client up, then: a request, or a byte."""
    hours = Hours()
    for module in (exchange, opening, steps, tcp):
        monkeypatch.setattr(module, "time", hours)

    def give_up():
        hours.passed += 3600

    return give_up


def test_silence_instead_of_an_answer_is_a_timeout(give_up):
    with fault_server(Stall(handshake=True)) as server:
        with pytest.raises(TimeoutError, match="upgrade"):
            connect(server, trace=lambda record: record["event"] == "request" and give_up())


def test_silence_in_the_middle_of_the_response_is_a_timeout():
    with fault_server(Stall(after=20, handshake=True)) as server:
        with pytest.raises(TimeoutError):
            connect(server, open_timeout=0.1)


def test_a_server_that_dies_silently_is_found_by_keepalive():
    with fault_server(Stall()) as server:
        with connect(server, ping_interval=0.1, ping_timeout=0.1) as ws:
            with pytest.raises(wsmini.ConnectionClosedError) as caught:
                ws.recv()
            assert caught.value.sent.code == 1011


def test_a_server_that_stalls_does_not_read():
    with fault_server(Stall()) as server:
        with connect(server, ping_interval=None, close_timeout=0.1) as ws:
            with pytest.raises(TimeoutError):
                for _ in range(1000):
                    ws.send(bytes(100000), timeout=0)


def test_a_server_that_stalls_closes_with_its_block():
    with fault_server(Stall(after=3), messages=["hello"]) as server:
        ws = connect(server)
    with pytest.raises(wsmini.ConnectionClosedError):
        ws.recv(timeout=PATIENCE)
    ws.close()


@pytest.mark.parametrize("handshake", [False, True])
def test_bytes_that_drip_are_put_together(handshake):
    started = time.monotonic()
    with fault_server(Drip(2, 0.001, handshake)) as server:
        assert echo(server) == "hello"
    assert time.monotonic() - started > 0.004


def test_a_dripping_server_can_be_closed():
    with fault_server(Drip(1, 1000)) as server, connect(server, close_timeout=0.1) as ws:
        ws.send("hello")
        with pytest.raises(TimeoutError):
            ws.recv(timeout=0.05)


# -- of the handshake --


def test_a_refusal_tells_what_it_was_told():
    fault = Refuse(429, retry_after=5, headers={"X-Why": "busy"}, body=b"later", reason="Slow")
    with fault_server(fault) as server, pytest.raises(wsmini.InvalidStatus) as caught:
        connect(server)
    response = caught.value.response
    assert (response.status_code, response.reason_phrase, response.body) == (429, "Slow", b"later")
    assert (response.headers["Retry-After"], response.headers["X-Why"]) == ("5", "busy")


def test_a_redirect_leads_elsewhere_or_in_a_loop():
    with echo_server() as goal, fault_server(Redirect(goal.url), then=Redirect()) as server:
        assert echo(server) == "hello"
        with pytest.raises(wsmini.TooManyRedirects):
            connect(server)


@pytest.mark.parametrize("scheme", ["basic", "digest"])
def test_a_challenge_is_passed_with_the_right_credentials_only(scheme):
    with fault_server(then=Challenge("user", "secret", scheme)) as server:
        assert echo(server, auth=("user", "secret")) == "hello"
        bearer = {"additional_headers": {"Authorization": "Bearer secret"}}
        for options in ({}, {"auth": ("user", "wrong")}, bearer):
            with pytest.raises(wsmini.InvalidStatus) as caught:
                connect(server, **options)
            assert caught.value.response.status_code == 401


@pytest.mark.parametrize("scheme", ["basic", "digest"])
def test_a_proxy_is_passed_with_the_right_credentials_only(scheme):
    with fault_server(then=Challenge("user", "secret", scheme, proxy=True)) as server:
        proxy = server.url.replace("ws://", "http://{}@")
        with wsmini.connect("ws://example.com/", proxy=proxy.format("user:secret")) as ws:
            ws.send("hello")
            assert ws.recv(timeout=PATIENCE) == "hello"
        for user in ("user:wrong", "other:secret"):
            with pytest.raises(wsmini.InvalidProxyStatus) as caught:
                wsmini.connect("ws://example.com/", proxy=proxy.format(user))
            assert caught.value.response.status_code == 407


@pytest.mark.parametrize(
    "fault, error",
    [
        (Garbage(), wsmini.InvalidMessage),
        (Garbage(b"\x15\x03\x01\0\x02\x02\x46"), wsmini.InvalidMessage),
        (EndlessHeader(), wsmini.InvalidMessage),
        (WrongAccept(), wsmini.InvalidUpgrade),
    ],
    ids=repr,
)
def test_a_wrong_answer_is_refused(fault, error):
    with fault_server(fault) as server, pytest.raises(error):
        connect(server)


@pytest.mark.parametrize("fault", [CloseWith(), Send(b""), Bomb(), IgnoreClose(), Cut(), Drip()])
def test_what_is_no_handshake_is_refused_before_the_fault(fault):
    with fault_server(fault) as server:
        with socket.create_connection((server.host, server.port), timeout=PATIENCE) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert sock.recv(100).startswith(b"HTTP/1.1 400 ")


# -- of the protocol --


@pytest.mark.parametrize(
    "data, code",
    [
        (frame(Opcode.TEXT, "hi", masked=True), 1002),
        (frame(3), 1002),
        (frame(Opcode.TEXT, b"\xff"), 1007),
        (b"\x82\x7f" + (2**62).to_bytes(8, "big"), 1009),
    ],
    ids=["masked", "opcode", "utf-8", "too large"],
)
def test_wrong_frames_fail_the_connection(data, code):
    with fault_server(Send(data)) as server, connect(server) as ws:
        with pytest.raises(wsmini.ConnectionClosedError) as caught:
            ws.recv(timeout=PATIENCE)
        assert caught.value.sent.code == code


def test_a_bomb_does_not_get_in():
    with fault_server(Bomb(8 * 2**20)) as server, connect(server) as ws:
        with pytest.raises(wsmini.ConnectionClosedError) as caught:
            ws.recv(timeout=PATIENCE)
        assert caught.value.sent.code == 1009


def test_a_bomb_is_as_large_as_it_says():
    with fault_server(Bomb(100001)) as server, connect(server) as ws:
        assert ws.recv(timeout=PATIENCE) == bytes(100001)


def test_a_bomb_without_compression_is_a_mistake_of_the_test():
    with pytest.raises(wsmini.ProtocolError, match="Bomb"), fault_server(Bomb()) as server:
        with contextlib.suppress(wsmini.ConnectionClosed), connect(server, compression=None) as ws:
            ws.recv(timeout=PATIENCE)


def test_the_server_closes_with_any_code_after_its_messages():
    with fault_server(CloseWith(4242, "why"), messages=["a"]) as server, connect(server) as ws:
        assert ws.recv(timeout=PATIENCE) == "a"
        with pytest.raises(wsmini.ConnectionClosedError) as caught:
            ws.recv(timeout=PATIENCE)
        assert (caught.value.code, caught.value.reason) == (4242, "why")


def test_a_close_that_is_not_answered_ends_by_its_timeout():
    with fault_server(IgnoreClose()) as server, connect(server, close_timeout=0.1) as ws:
        ws.send("hello")
        assert ws.recv(timeout=PATIENCE) == "hello"
        ws.close()
        assert ws.close_code == 1006


# -- over TLS --


@pytest.mark.parametrize(
    "fault, error",
    [
        (Cut(), wsmini.ConnectionClosedError),
        (Reset(), wsmini.ConnectionClosedError),
        (Cut(handshake=True), (OSError, wsmini.InvalidMessage)),
        (Reset(handshake=True), OSError),
        (Refuse(500), wsmini.InvalidStatus),
    ],
    ids=repr,
)
def test_faults_are_the_same_over_tls(fault, error):
    trusting = client_context()
    with fault_server(fault, ssl=server_context()) as server:
        url = server.url.replace("127.0.0.1", "localhost")
        options = {"ssl": trusting, "host": "127.0.0.1", "proxy": None}
        with pytest.raises(error):
            with wsmini.connect(url, **options) as ws:
                ws.recv(timeout=PATIENCE)
        with wsmini.connect(url, **options) as ws:
            ws.send("hello")
            assert ws.recv(timeout=PATIENCE) == "hello"


# -- with reconnect() --


def test_a_program_that_reconnects_gets_through_all_of_them(give_up):
    class LongStall(Stall):
        def serve(self, peer, echo):
            # Here, for a client that is reset may or may not have sent its request: what it traces
            # doesn't tell which connection this is. The byte before the silence wakes it up.
            give_up()
            super().serve(peer, echo)

    faults = [
        Refuse(503), Cut(handshake=True), Reset(handshake=True), LongStall(1, handshake=True),
        Cut(), Reset(3), CloseWith(1001), CloseWith(1012), Refuse(429, retry_after=0.01),
    ]  # fmt: skip
    got = []

    with fault_server(*faults, messages=["hello"]) as server:
        policy, options = wsmini.Fixed(0), {"proxy": None, "close_timeout": 0.1}
        for ws in wsmini.reconnect(server.url, policy=policy, **options):
            try:
                for message in ws:
                    got.append(message)
                    if server.connections > len(faults):
                        ws.close()
            except wsmini.ConnectionClosed:
                continue
        assert server.connections == len(faults) + 1
    assert got == ["hello"] * 3


# -- arguments --


@pytest.mark.parametrize("fault", [Cut, 503, "cut", True])
def test_what_is_no_fault_is_refused(fault):
    with pytest.raises(TypeError, match="a fault is"):
        fault_server(fault)
    with pytest.raises(TypeError, match="a fault is"):
        fault_server(then=fault)


@pytest.mark.parametrize(
    "make, error",
    [
        (lambda: Cut(-1), ValueError),
        (lambda: Reset("3"), TypeError),
        (lambda: Stall(True), TypeError),
        (lambda: Drip(0), ValueError),
        (lambda: Drip(1, -1), ValueError),
        (lambda: Challenge("a", "b", "bearer"), ValueError),
    ],
)
def test_wrong_arguments_are_refused(make, error):
    with pytest.raises(error):
        make()


def test_faults_show_their_settings():
    assert repr(Cut(after=7)) == "Cut(after=7, handshake=False)"
    assert repr(EndlessHeader()) == "EndlessHeader()"


def test_a_fault_of_ones_own_has_to_serve():
    with pytest.raises(NotImplementedError), fault_server(Fault()) as server:
        with contextlib.suppress(wsmini.InvalidMessage, OSError):
            connect(server)
