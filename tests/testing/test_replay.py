"""A recorded session, served again: by the process that records and the server that replays."""

from __future__ import annotations

import json

import pytest
from helpers import PATIENCE

import wsmini
from wsmini import cli
from wsmini.testing import replay, scripted_server

OPEN = {"type": "open", "subprotocol": None}


def written(tmp_path, *records):
    path = tmp_path / "session"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def test_what_was_recorded_is_served_again(tmp_path):
    def script(peer):
        peer.accept(subprotocol="chat")
        assert peer.recv_message() == "a"
        peer.send_message("b")
        peer.send_message(b"\x00\xff")
        peer.close(4001, "bye")

    path = str(tmp_path / "session")
    with scripted_server(script) as server:
        argv = ["-m", "a", "--subprotocol", "chat", "--wait=inf", "--record", path, server.url]
        argv.append(f"--output={tmp_path / 'out'}")
        assert cli.main(argv) == 6
    with replay(path) as server:
        for _ in range(2):
            with wsmini.connect(server.url, subprotocols=["chat"]) as ws:
                assert ws.subprotocol == "chat"
                ws.send("a")
                assert (ws.recv(PATIENCE), ws.recv(PATIENCE)) == ("b", b"\x00\xff")
                with pytest.raises(wsmini.ConnectionClosed) as raised:
                    ws.recv(PATIENCE)
            assert raised.value.rcvd == (4001, "bye")


def test_the_connections_of_a_session_follow_each_other(tmp_path):
    def received(text):
        return {"direction": "received", "type": "text", "payload": text}

    lost = {"direction": "received", "type": "close", "code": 1006, "reason": ""}
    path = written(tmp_path, OPEN, received("a"), lost, OPEN, received("b"), lost)
    with replay(path) as server:
        for text in "aba":
            with wsmini.connect(server.url) as ws:
                assert ws.recv(PATIENCE) == text
                with pytest.raises(wsmini.ConnectionClosedError, match="no close frame received"):
                    ws.recv(PATIENCE)


WRONG = {
    "another message": ({"type": "text", "payload": "a"}, "'a' from the client, got 'b'"),
    "another code": ({"type": "close", "code": 1001, "reason": ""}, "=1001.* got Close.*=1000"),
    "a Close frame for a message": ({"type": "text", "payload": ""}, "'' .* got Close.*=1000"),
}


@pytest.mark.parametrize("record, problem", WRONG.values(), ids=WRONG)
def test_a_client_that_does_something_else(record, problem, tmp_path):
    with pytest.raises(AssertionError, match=f"expected .*{problem}") as caught:
        with replay(written(tmp_path, OPEN, {"direction": "sent", **record})) as server:
            with wsmini.connect(server.url) as ws:
                if record.get("payload"):
                    ws.send("b")
    cause = caught.value.__cause__  # says who has closed first, if one has
    assert (cause is None) == ("got Close" not in problem)


OPENED = json.dumps(OPEN) + "\n"
CLOSED = '{"type": "close", "direction": "received", "code": %s, "reason": ""}'
SENT = '{"type": "text", "direction": "sent", "payload": "%s"}'
BROKEN = {
    "empty": "",
    "no JSON": "a",
    "no open": '{"type": "x"}',
    "no record": "[]",
    "deep": "[" * 100_000,
    "a code that is none": OPENED + CLOSED % (1 << 16),
    "a code in words": OPENED + CLOSED % '"1000"',
    "half of a character": OPENED + SENT % "\\ud800",
    "a subprotocol that is none": json.dumps({**OPEN, "subprotocol": "a\r\nb"}),
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
def test_what_is_no_session(text, tmp_path):
    (tmp_path / "session").write_text(text)
    with pytest.raises(ValueError, match="isn't a recorded session"):
        replay(str(tmp_path / "session"))
