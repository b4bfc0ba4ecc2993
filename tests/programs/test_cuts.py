"""A connection cut at every byte that the server sends: the handshake's, the frames', TLS's.

Each run ends with what is documented for it, at once; no message is wrong or missing, and no
descriptor stays open.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import threading
import time

import pytest
from certificates import client_context, server_context
from helpers import PATIENCE, PROMPT
from pairs import TRANSCRIPT, eventually, reset

from wsmini.blocking import background as keeper
from wsmini.blocking.connection import connect
from wsmini.exceptions import (
    ConnectionClosed,
    ConnectionClosedError,
    ConnectionClosedOK,
    InvalidHandshake,
)
from wsmini.sansio.handshake import accept_key
from wsmini.testing.peer import parse_request

RESPONSE = (
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Accept: {}\r\n\r\n"
)
OPEN = len(RESPONSE.format(accept_key("x")))  # bytes from which on the client is connected
# Where a message ends, "one" and "two", and where the Close frame does.
MESSAGES = [TRANSCRIPT.index(b"one") + 3, TRANSCRIPT.index(b"o\x88") + 1]
RECORD = 9  # bytes of frames in a TLS record, so that frames are cut between records too
OVERHEAD = 5 + 1 + 16  # bytes of a record, behind and in front of its data


def answer(head):
    return RESPONSE.format(accept_key(parse_request(head).headers["Sec-WebSocket-Key"])).encode()


class Server:
    """Serves one client after the other, each up to a byte; then ends the connection.

    Attributes:
        at: how many bytes are sent: with TLS, of ciphertext, counted from its handshake's first
            byte, or from the byte behind the handshake if *behind*.
        sent: how many bytes there were to send to the last client.
    """

    def __init__(self, ending, secure, behind=True):
        self._ending, self._behind, self.at, self.sent = ending, behind, 0, 0
        self._context = server_context() if secure else None
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        self.url = f"wss://localhost:{port}" if secure else f"ws://127.0.0.1:{port}"
        self._thread = threading.Thread(target=self._run, name="wsmini-test-cuts", daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exc_info):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(PATIENCE)
        self._listener.close()

    def _run(self):
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with sock, contextlib.suppress(ConnectionError, EOFError):
                self.sent = 0
                if self._context is None:
                    self._serve_plain(sock)
                else:
                    self._serve_secure(sock)
                self._end(sock)

    def _send(self, sock, data):
        left = self.at - self.sent
        self.sent += len(data)
        sock.sendall(data[: max(0, left)])
        if left < len(data):
            self._end(sock)
            raise EOFError

    def _end(self, sock):
        if self._ending == "rst":
            reset(sock)
            return
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(65536):
            pass  # what isn't read would make it a reset

    def _serve_plain(self, sock):
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += received(sock)
        self._send(sock, answer(head[:-4]) + TRANSCRIPT)

    def _serve_secure(self, sock):
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = self._context.wrap_bio(incoming, outgoing, server_side=True)

        def step(function, *args, cut=True):
            while True:
                try:
                    return function(*args)
                except ssl.SSLWantReadError:
                    pass
                finally:
                    self._send(sock, outgoing.read()) if cut else sock.sendall(outgoing.read())
                incoming.write(received(sock))

        step(tls.do_handshake, cut=not self._behind)
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += step(tls.read, 65536)
        tls.write(answer(head[:-4]))
        for start in range(0, len(TRANSCRIPT), RECORD):
            tls.write(TRANSCRIPT[start : start + RECORD])
        self._send(sock, outgoing.read())


def received(sock):
    data = sock.recv(65536)
    if not data:
        raise EOFError
    return data


def by_recv(ws):
    while True:
        yield ws.recv(timeout=PATIENCE)


def by_iteration(ws):
    yield from ws
    raise ws._protocol.close_exc()  # it ends silently, if that is a good end


def by_streaming(ws):
    for expected in ["one", "two", ""]:
        parts = []
        try:
            for part in ws.recv_streaming():
                parts.append(part)
        except ConnectionClosed:
            assert expected.startswith("".join(parts))
            raise
        yield "".join(parts)


WAYS = [by_recv, by_iteration, by_streaming]


@pytest.fixture(autouse=True)
def nothing_is_left(monkeypatch):
    """No descriptor; that of the keeper goes soon after the last connection."""
    monkeypatch.setattr(keeper, "CHECK", 0.02)
    monkeypatch.setattr(keeper, "LINGER", 0.02)
    folder = "/proc/self/fd"
    before = len(os.listdir(folder)) if os.path.isdir(folder) else 0
    yield
    if before:
        eventually(lambda: len(os.listdir(folder)) <= before)


def run(url, way, **options):
    """The messages that come, and the exception at the end, which has to come soon."""
    messages, started = [], time.monotonic()
    try:
        ws = connect(url, open_timeout=PATIENCE, **options)
    except (InvalidHandshake, OSError) as exc:
        assert not isinstance(exc, TimeoutError)
        return messages, exc
    finally:
        assert time.monotonic() - started < PROMPT
    with pytest.raises(ConnectionClosed) as caught:
        for message in way(ws):
            messages.append(message)
    assert time.monotonic() - started < PROMPT
    assert ws.fileno() == -1
    assert ws.close_code == caught.value.code
    with pytest.raises(type(caught.value)):
        ws.recv()
    with pytest.raises(type(caught.value)):
        ws.send("x")
    ws.close()
    assert time.monotonic() - started < PROMPT
    return messages, caught.value


def check(messages, end, count, closed, exactly):
    """*count* messages were sent whole; *closed*: the Close frame was. A reset may eat some."""
    if exactly:
        assert messages == ["one", "two"][:count]
    else:
        assert messages == ["one", "two"][: len(messages)]
        assert len(messages) <= count
    if isinstance(end, ConnectionClosedOK):
        assert closed
        assert (end.code, end.reason, messages) == (1000, "bye", ["one", "two"])
    else:
        assert not (closed and exactly)
        assert isinstance(end, ConnectionClosedError)
        assert end.code == 1006


@pytest.mark.parametrize("ending", ["fin", "rst"])
def test_a_connection_cut_at_every_byte(ending):
    with Server(ending, secure=False) as server:
        for at in range(OPEN + len(TRANSCRIPT) + 1):
            server.at = at
            for way in WAYS if at >= OPEN else [WAYS[at % 3]]:
                messages, end = run(server.url, way)
                if at < OPEN:
                    assert not isinstance(end, ConnectionClosed)
                    continue
                count = sum(at - OPEN >= place for place in MESSAGES)
                check(messages, end, count, at == OPEN + len(TRANSCRIPT), ending == "fin")
        assert server.sent == at


@pytest.mark.parametrize("ending", ["fin", "rst"])
def test_ciphertext_cut_at_every_byte(ending):
    """Of the records of the frames; and at every 8th of the one of the response."""
    context = client_context()
    with Server(ending, secure=True) as server:
        run(server.url, by_recv, ssl=context)
        ciphertext, counts = server.sent, []
        response = OPEN + OVERHEAD
        for at in [*range(0, response, 8), *range(response, ciphertext + 1)]:
            server.at = at
            messages, end = run(server.url, WAYS[at % 3], ssl=context)
            if not isinstance(end, ConnectionClosed):
                assert not messages
                counts.append(-1)
                continue
            check(messages, end, 2, at == ciphertext, False)
            counts.append(len(messages))
        # A cut further behind never brings less; and the last one is none.
        assert counts == sorted(counts) or ending == "rst"
        assert set(counts) == {-1, 0, 1, 2}
        assert isinstance(end, ConnectionClosedOK) or ending == "rst"


@pytest.mark.parametrize("ending", ["fin", "rst"])
def test_a_handshake_of_tls_that_is_cut(ending):
    """At every 20th byte, for it is long, and OpenSSL's business for the most part."""
    context = client_context()
    with Server(ending, secure=True, behind=False) as server:
        for at in range(0, 1000, 20):
            server.at = at
            messages, end = run(server.url, by_recv, ssl=context)
            # Behind the last flight of TLS, there is no response.
            assert isinstance(end, (OSError, InvalidHandshake))
            assert not messages
