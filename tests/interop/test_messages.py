from __future__ import annotations

import pytest
from peers import every

SIZES = (1, 125, 126, 65535, 65536, 2**20)
MESSAGES = {
    "empty text": "",
    "empty binary": b"",
    **{f"text {size}": "abcdefg"[: size % 8] + "x" * (size - size % 8) for size in SIZES},
    **{f"binary {size}": (bytes(range(256)) * (size // 256 + 1))[:size] for size in SIZES},
    "non-ASCII": "Grüße, 世界 🌍 \x00 \ufeff\U0010ffff" * 1000,
}
COMPRESSION = ("deflate", None)
ids = "compression={}".format


@every()
@pytest.mark.parametrize("compression", COMPRESSION, ids=ids)
@pytest.mark.parametrize("message", MESSAGES.values(), ids=MESSAGES)
def test_echo(peer, message, compression):
    with peer.connect(compression=compression) as ws:
        ws.send(message)
        echo = ws.recv(timeout=10)
    assert type(echo) is type(message)
    assert echo == message


@every()
@pytest.mark.parametrize("kind", (bytearray, memoryview))
def test_any_bytes_like_object_is_a_binary_message(peer, kind):
    with peer.connect() as ws:
        ws.send(kind(b"abc" * 100))
        assert ws.recv(timeout=10) == b"abc" * 100


@every()
@pytest.mark.parametrize("compression", COMPRESSION, ids=ids)
def test_many_messages_on_one_connection_keep_their_order(peer, compression):
    messages = [f"message {n} " + "abc" * n for n in range(300)]
    messages += [message.encode() for message in messages]
    with peer.connect(compression=compression) as ws:
        for message in messages:
            ws.send(message)
        assert [ws.recv(timeout=10) for _ in messages] == messages


@every()
def test_large_messages_both_ways_at_once(peer):
    messages = [bytes([n]) * 2**20 for n in range(8)]
    with peer.connect() as ws:
        for message in messages:
            ws.send(message)
        assert [ws.recv(timeout=10) for _ in messages] == messages


@every()
def test_an_iterable_is_one_message_in_fragments(peer):
    pieces = ["Grüße, ", "", "世", "x" * 70000, "界"]
    with peer.connect() as ws:
        ws.send(iter(pieces))
        assert ws.recv(timeout=10) == "".join(pieces)
        ws.send(piece.encode() for piece in pieces)
        assert ws.recv(timeout=10) == "".join(pieces).encode()


@every(schemes=["ws"])
@pytest.mark.parametrize("compression", COMPRESSION, ids=ids)
def test_the_fragments_of_an_iterable_on_the_wire(peer, tap, compression):
    pieces = ["one", "two", "three"]
    with peer.connect(port=tap.port, compression=compression) as ws:
        ws.send(pieces)
        assert ws.recv(timeout=10) == "onetwothree"
        compressed = bool(ws.extensions)
    frames = [frame for frame in tap.wait().sent if frame.opcode < 8]
    assert [frame.opcode for frame in frames] == [1] + [0] * (len(frames) - 1)
    assert [frame.fin for frame in frames] == [False] * (len(frames) - 1) + [True]
    assert [frame.rsv1 for frame in frames] == [compressed] + [False] * (len(frames) - 1)
    assert all(frame.masked for frame in frames)
    if not compressed:
        assert [frame.payload for frame in frames if frame.payload] == [b"one", b"two", b"three"]


@every("fragments")
@pytest.mark.parametrize("compression", COMPRESSION, ids=ids)
@pytest.mark.parametrize("message", MESSAGES.values(), ids=MESSAGES)
def test_fragments_from_the_server_are_one_message(peer, message, compression):
    with peer.connect("/fragments", compression=compression) as ws:
        ws.send(message)
        echo = ws.recv(timeout=10)
    assert type(echo) is type(message)
    assert echo == message


@every("fragments")
@pytest.mark.parametrize("message", ["Grüße, 世界 🌍" * 1000, bytes(range(256)) * 100, "", "short"])
def test_fragments_from_the_server_can_be_had_as_they_come(peer, message):
    with peer.connect("/fragments") as ws:
        ws.send(message)
        pieces = list(ws.recv_streaming())
        assert type(message)().join(pieces) == message
        assert len(pieces) > 1 or len(message) < 1000
        ws.send("next")
        assert ws.recv(timeout=10) == "next"


@every()
def test_a_timeout_of_recv_loses_nothing(peer):
    with peer.connect() as ws:
        with pytest.raises(TimeoutError):
            ws.recv(timeout=0.01)
        ws.send("hello")
        assert ws.recv(timeout=10) == "hello"
