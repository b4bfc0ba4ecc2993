from __future__ import annotations

import time

import pytest
from peers import every

import wsmini


@every()
def test_the_server_answers_pings_and_the_round_trip_is_measured(peer):
    with peer.connect() as ws:
        assert 0 < ws.ping(b"are you there?").wait(10) < 10
        assert 0 < ws.latency < 10


@every()
def test_one_pong_answers_all_pings_before_it(peer):
    with peer.connect() as ws:
        pings = [ws.ping() for _ in range(5)]
        assert all(0 < ping.wait(10) < 10 for ping in reversed(pings))


@every()
def test_waiting_for_a_pong_loses_no_messages(peer):
    with peer.connect() as ws:
        for n in range(3):
            ws.send(str(n))
        ws.ping().wait(10)
        assert [ws.recv(timeout=10) for _ in range(3)] == ["0", "1", "2"]


@every()
@pytest.mark.parametrize("payload", ["x", "ping ü", "x" * 125])
def test_pings_of_the_server_are_answered(peer, payload):
    with peer.connect("/ping") as ws:
        ws.send(payload)
        assert ws.recv(timeout=10) == f"pong {payload}"


@every()
def test_a_pong_nobody_asked_for_does_no_harm(peer):
    with peer.connect() as ws:
        ws.pong(b"unasked")
        ws.send("still here")
        assert ws.recv(timeout=10) == "still here"


def test_an_application_that_is_away_answers_the_pings_of_a_strict_server(server):
    _, ports = server("websockets")
    with wsmini.connect(f"ws://127.0.0.1:{ports['pinging']}/echo") as ws:
        time.sleep(10)
        ws.send("still here")
        assert ws.recv(timeout=10) == "still here"
    assert ws.close_code == 1000
