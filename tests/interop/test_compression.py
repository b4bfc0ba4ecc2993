from __future__ import annotations

import random

import pytest
from peers import every

from wsmini.sansio.deflate import Deflate

OFFERS = {
    "default": {},
    "server resets": {"server_no_context_takeover": True},
    "client resets": {"client_no_context_takeover": True},
    "both reset": {"server_no_context_takeover": True, "client_no_context_takeover": True},
    "server's window 9": {"server_max_window_bits": 9},
    "server's window 15": {"server_max_window_bits": 15},
    "client's window 9": {"client_max_window_bits": 9},
    "client's window 15": {"client_max_window_bits": 15},
    "client's window fixed": {"client_max_window_bits": None},
    "all": {
        "server_no_context_takeover": True,
        "client_no_context_takeover": True,
        "server_max_window_bits": 10,
        "client_max_window_bits": 10,
    },
}
offers = pytest.mark.parametrize("offer", OFFERS.values(), ids=OFFERS)
RESETS = {"server_no_context_takeover", "client_no_context_takeover"}
WINDOWS = {"server_max_window_bits=9", "client_max_window_bits=9"}
SERVERS = {"reset": RESETS, "small": WINDOWS, "small-reset": RESETS | WINDOWS}


def noise(size):
    rng = random.Random(size)
    return bytes(rng.getrandbits(8) for _ in range(size))


def messages():
    """Compressible, not compressible, empty; near, and far beyond the smaller windows' reach."""
    rng = random.Random(7692)
    words = [f"word{n} " for n in range(5000)]
    text = "".join(rng.choice(words) for _ in range(10000))
    near = [text[:500], text[:500], "", noise(700), noise(700), b""]
    return [*near, text, noise(40000), *near, text[::-1], text]


def parameters(ws):
    """The parameters of the server's choice, as a set of strings."""
    name, *parameters = ws.response_headers["Sec-WebSocket-Extensions"].split(";")
    assert name.strip() == "permessage-deflate"
    assert [extension.name for extension in ws.extensions] == ["permessage-deflate"]
    return {parameter.strip().replace('"', "") for parameter in parameters}


def check_echo(ws):
    for message in messages():
        ws.send(message)
        assert ws.recv(timeout=10) == message


@every("deflate")
@offers
def test_offers_of_the_client(peer, offer):
    with peer.connect(extensions=[Deflate(**offer)]) as ws:
        chosen = parameters(ws)
        if offer.get("server_no_context_takeover"):
            assert "server_no_context_takeover" in chosen
        if offer.get("server_max_window_bits", 15) < 15:
            assert f"server_max_window_bits={offer['server_max_window_bits']}" in chosen
        check_echo(ws)


@every("windows")
@pytest.mark.parametrize("wish, expected", SERVERS.items(), ids=SERVERS)
def test_wishes_of_the_server(peer, wish, expected):
    with peer.connect(f"/deflate?as={wish}") as ws:
        assert parameters(ws) >= expected
        check_echo(ws)


@every("deflate", schemes=["ws"])
def test_compression_is_used_by_default(peer, tap):
    with peer.connect(port=tap.port) as ws:
        ws.send("compressible " * 5000)
        assert ws.recv(timeout=10) == "compressible " * 5000
    tap.wait()
    for frames in (tap.sent, tap.received):
        data = [frame for frame in frames if frame.opcode < 8]
        assert data[0].rsv1
        assert sum(len(frame.payload) for frame in data) < 5000


@every("deflate", schemes=["ws"])
def test_the_context_is_kept_unless_it_is_reset(peer, tap):
    message = noise(400)
    with peer.connect(port=tap.port) as ws:
        for _ in range(2):
            ws.send(message)
            assert ws.recv(timeout=10) == message
    first, second = (frame.payload for frame in tap.wait().sent if frame.opcode < 8)
    assert len(second) < len(first) / 10


@every("deflate", schemes=["ws"])
def test_a_context_that_is_reset_forgets(peer, tap):
    message = noise(400)
    offer = Deflate(client_no_context_takeover=True)
    with peer.connect(port=tap.port, extensions=[offer]) as ws:
        for _ in range(2):
            ws.send(message)
            assert ws.recv(timeout=10) == message
    first, second = (frame.payload for frame in tap.wait().sent if frame.opcode < 8)
    assert first == second


@every("deflate", schemes=["ws"])
def test_a_message_can_be_sent_uncompressed(peer, tap):
    with peer.connect(port=tap.port) as ws:
        for message, compress in (("a" * 100, None), ("b" * 100, False), ("a" * 100, True)):
            ws.send(message, compress=compress)
            assert ws.recv(timeout=10) == message
    frames = [frame for frame in tap.wait().sent if frame.opcode < 8]
    assert [frame.rsv1 for frame in frames] == [True, False, True]
    assert frames[1].payload == b"b" * 100


@every(schemes=["ws"])
def test_no_compression_unless_offered(peer, tap):
    with peer.connect(port=tap.port, compression=None) as ws:
        assert list(ws.extensions) == []
        ws.send("a" * 1000)
        assert ws.recv(timeout=10) == "a" * 1000
    tap.wait()
    assert not any(frame.rsv1 for frame in tap.sent + tap.received)


@pytest.mark.parametrize("peer", ["picows-ws", "picows-wss"], indirect=True)
def test_a_server_without_compression(peer):
    with peer.connect() as ws:
        assert list(ws.extensions) == []
        check_echo(ws)
