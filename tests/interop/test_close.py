from __future__ import annotations

import pytest
from peers import every, target

import wsmini

CLOSES = {
    "normal": (1000, ""),
    "with reason": (1000, "done"),
    "going away": (1001, ""),
    "error": (1011, "ünwell"),
    "registered": (3000, "registered"),
    "longest reason": (4999, "x" * 123),
}
closes = pytest.mark.parametrize("code, reason", CLOSES.values(), ids=CLOSES)


def kind(code):
    return wsmini.ConnectionClosedOK if code in (1000, 1001) else wsmini.ConnectionClosedError


@every()
@closes
def test_the_client_closes(peer, tag, code, reason):
    with peer.connect(target("/echo", tag=tag)) as ws:
        ws.close(code, reason)
        with pytest.raises(wsmini.ConnectionClosed) as info:
            ws.recv(timeout=10)
        assert (info.value.sent.code, info.value.sent.reason) == (code, reason)
        # aiohttp answers 1000 whatever it gets.
        assert info.value.rcvd.code == (1000 if peer.name == "aiohttp" else code)
        assert info.value.rcvd_then_sent is False
        assert type(info.value) is kind(code)
        assert (ws.close_code, ws.close_reason) == (info.value.rcvd.code, info.value.rcvd.reason)
    report = peer.closed(tag)
    assert report["code"] == code
    assert report["reason"] in (reason, None)  # None: the server's API doesn't tell


@every()
@closes
def test_the_server_closes(peer, tag, code, reason):
    with peer.connect(target("/close", tag=tag, code=code, reason=reason)) as ws:
        with pytest.raises(wsmini.ConnectionClosed) as info:
            ws.recv(timeout=10)
        assert (info.value.rcvd.code, info.value.rcvd.reason) == (code, reason)
        assert info.value.sent.code == code
        assert info.value.rcvd_then_sent is True
        assert type(info.value) is kind(code)
        assert (ws.close_code, ws.close_reason) == (code, reason)
    assert peer.closed(tag)["code"] == code


@every()
def test_the_server_closes_without_a_code(peer, tag):
    with peer.connect(target("/close", tag=tag)) as ws:
        with pytest.raises(wsmini.ConnectionClosedError) as info:
            ws.recv(timeout=10)
        assert (info.value.rcvd.code, info.value.rcvd.reason) == (1005, "")
        assert (ws.close_code, ws.close_reason) == (1005, "")
    assert peer.closed(tag)["code"] == 1005


@every()
def test_leaving_the_block_closes_normally(peer, tag):
    with peer.connect(target("/echo", tag=tag)) as ws:
        pass
    assert peer.closed(tag)["code"] == ws.close_code == 1000


@every()
@pytest.mark.parametrize("compression", ("deflate", None))
def test_messages_before_the_end_all_arrive(peer, compression):
    with peer.connect(target("/burst", count=1000), compression=compression) as ws:
        assert list(ws) == [str(n) for n in range(1000)]
        assert ws.close_code == 1000


@every()
def test_iteration_ends_with_an_error_unless_the_end_is_normal(peer):
    with peer.connect(target("/close", code=1011, reason="ouch")) as ws:
        with pytest.raises(wsmini.ConnectionClosedError, match="ouch"):
            list(ws)


@every()
def test_a_connection_that_is_cut(peer):
    with peer.connect("/drop") as ws:
        ws.send("now")
        with pytest.raises(wsmini.ConnectionClosedError) as info:
            ws.recv(timeout=10)
        assert info.value.rcvd is None
        assert ws.close_code == info.value.code == 1006


@every()
def test_nothing_can_be_sent_after_the_end(peer):
    with peer.connect(target("/close", code=4001, reason="over")) as ws:
        with pytest.raises(wsmini.ConnectionClosedError):
            ws.recv(timeout=10)
        with pytest.raises(wsmini.ConnectionClosedError, match="4001.*over"):
            ws.send("too late")
        ws.close()


@every()
@pytest.mark.parametrize("compression", ("deflate", None))
def test_a_message_that_is_too_big_closes_with_1009(peer, tag, compression):
    options = {"max_size": 1000, "compression": compression}
    with peer.connect(target("/echo", tag=tag), **options) as ws:
        ws.send("x" * 1000)
        assert ws.recv(timeout=10) == "x" * 1000
        ws.send("x" * 100000)
        with pytest.raises(wsmini.ConnectionClosedError) as info:
            ws.recv(timeout=10)
        assert info.value.sent.code == 1009
    assert peer.closed(tag)["code"] == 1009
