"""The test server of libwebsockets, which has its own idea of what to serve: by subprotocol."""

from __future__ import annotations

import json
import ssl
from itertools import islice

import pytest
from tap import Tap

import wsmini

MIRROR = {"subprotocols": ["lws-mirror-protocol"]}  # sends text back, to all who are connected
COUNTER = {"subprotocols": ["dumb-increment-protocol"]}  # sends numbers
STATUS = {"subprotocols": ["lws-status"]}  # describes its connections


def only(scheme):
    return pytest.mark.parametrize("libwebsockets", [scheme], indirect=True)


def receive(ws, size):
    """Messages until there are *size* characters of them."""
    pieces = []
    while sum(map(len, pieces)) < size:
        pieces.append(ws.recv(timeout=10))
    return pieces


@pytest.mark.parametrize("size", (0, 1, 125, 126, 4000))
def test_echo(libwebsockets, size):
    with libwebsockets.connect("/", **MIRROR) as ws:
        ws.send("x" * size)
        assert ws.recv(timeout=10) == "x" * size


@pytest.mark.parametrize("size", (65535, 65536, 2**20))
def test_its_buffer_cuts_large_messages_up(libwebsockets, size):
    message = "".join(map(str, range(size)))[:size]
    with libwebsockets.connect("/", **MIRROR) as ws:
        ws.send(message)
        assert "".join(receive(ws, size)) == message


def test_it_sees_the_fragments_of_an_iterable(libwebsockets):
    with libwebsockets.connect("/", **MIRROR) as ws:
        ws.send(["one ", "Grüße, 世界", " three"])
        assert receive(ws, 18) == ["one ", "Grüße, 世界", " three"]


def test_two_connections_share_a_mirror(libwebsockets):
    with libwebsockets.connect("/", **MIRROR) as one, libwebsockets.connect("/", **MIRROR) as other:
        one.send("to both")
        assert one.recv(timeout=10) == other.recv(timeout=10) == "to both"


def test_messages_that_nobody_asked_for(libwebsockets):
    with libwebsockets.connect("/", **COUNTER) as ws:
        assert list(islice(ws, 4)) == ["0", "1", "2", "3"]
        ws.send("reset\n")
        assert "0" in islice(ws, 4)


@pytest.mark.parametrize("compression, name", [("deflate", "permessage-deflate"), (None, None)])
def test_compression(libwebsockets, compression, name):
    with libwebsockets.connect("/", compression=compression, **STATUS) as ws:
        assert [extension.name for extension in ws.extensions] == [name] * bool(name)
        status = json.loads(ws.recv(timeout=10))
        mine = status["conns"][-1]
        assert mine["ua"] == ws.request_headers["User-Agent"]


@only("ws")
def test_compression_is_used(libwebsockets):
    with Tap(libwebsockets.port) as tap:
        with libwebsockets.connect("/", port=tap.port, **STATUS) as ws:
            ws.recv(timeout=10)
        assert [frame.rsv1 for frame in tap.wait().received if frame.opcode == 1] == [True]


def test_subprotocols(libwebsockets):
    names = ["unknown", *COUNTER["subprotocols"], *STATUS["subprotocols"]]
    with libwebsockets.connect("/", subprotocols=names) as ws:
        assert ws.subprotocol == "dumb-increment-protocol"
    with libwebsockets.connect("/") as ws:
        assert ws.subprotocol is None


def test_it_hangs_up_if_it_knows_no_subprotocol(libwebsockets):
    with pytest.raises((wsmini.InvalidMessage, ConnectionError)):
        libwebsockets.connect("/", subprotocols=["unknown"])


def test_pings_are_answered(libwebsockets):
    with libwebsockets.connect("/", **MIRROR) as ws:
        assert 0 < ws.ping(b"are you there?").wait(10) < 10


@pytest.mark.parametrize("code, reason", [(1000, ""), (4321, "bye"), (4999, "x" * 123)])
def test_the_client_closes(libwebsockets, code, reason):
    with libwebsockets.connect("/", **MIRROR) as ws:
        ws.close(code, reason)
        with pytest.raises(wsmini.ConnectionClosed) as info:
            ws.recv(timeout=10)
        assert info.value.sent == info.value.rcvd == (code, reason)
        assert info.value.rcvd_then_sent is False


def test_the_server_closes(libwebsockets):
    with libwebsockets.connect("/", **COUNTER) as ws:
        ws.send("closeme\n")
        assert all(message.isdigit() for message in ws)
        assert (ws.close_code, ws.close_reason) == (1001, "seeya")
        with pytest.raises(wsmini.ConnectionClosedOK) as info:
            ws.recv(timeout=10)
        assert info.value.rcvd_then_sent is True


@only("wss")
def test_a_certificate_of_an_unknown_authority_is_refused(libwebsockets):
    with pytest.raises(ssl.SSLCertVerificationError):
        wsmini.connect(libwebsockets.url, **MIRROR)
