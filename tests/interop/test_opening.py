from __future__ import annotations

import json

import pytest
from peers import every, target

import wsmini

REFUSAL = "Not today: the reason is ünknown.\n".encode()
MAX_BODY = 65536


def seen(ws):
    """What the server saw: the request target, and a function that gives the values of a header."""
    request = json.loads(ws.recv(timeout=10))

    def values(name):
        return [value for key, value in request["headers"] if key.lower() == name]

    return request["target"], values


@every()
def test_headers_that_the_server_sees(peer):
    options = {
        "origin": "https://example.org",
        "user_agent_header": "interop/1",
        "additional_headers": [("X-Many", "1"), ("X-Own", "own"), ("X-Many", "2")],
    }
    with peer.connect("/request?a=1&b=%20", **options) as ws:
        where, values = seen(ws)
        key = values("sec-websocket-key")
        assert ws.request_headers["Sec-WebSocket-Key"] == key[0]
    assert where == "/request?a=1&b=%20"
    assert values("host") == [f"127.0.0.1:{peer.port}"]
    assert [value.lower() for value in values("connection")] == ["upgrade"]
    assert values("upgrade") == ["websocket"]
    assert values("sec-websocket-version") == ["13"]
    assert len(key[0]) == 24
    assert values("origin") == ["https://example.org"]
    assert values("user-agent") == ["interop/1"]
    assert values("x-many") == ["1", "2"]
    assert values("x-own") == ["own"]
    assert values("authorization") == values("sec-websocket-protocol") == []


@every()
def test_characters_that_a_url_cannot_have_are_encoded(peer):
    with peer.connect("/request?name=Grüße&x=世界&pair=%C3%A9") as ws:
        where, _ = seen(ws)
    expected = "/request?name=Gr%C3%BC%C3%9Fe&x=%E4%B8%96%E7%95%8C&pair=%C3%A9"
    assert where == expected


@every()
def test_user_and_password_in_the_url_become_basic_authentication(peer):
    url = peer.url.replace("://", "://user:p%40ss@") + "/request"
    with wsmini.connect(url, **peer.options) as ws:
        _, values = seen(ws)
    assert values("authorization") == ["Basic dXNlcjpwQHNz"]
    assert values("host") == [f"127.0.0.1:{peer.port}"]


@every()
def test_the_response_can_be_inspected(peer):
    with peer.connect() as ws:
        assert ws.response.status_code == 101
        assert ws.response_headers["upgrade"].lower() == "websocket"
        assert len(ws.response_headers["SEC-WEBSOCKET-ACCEPT"]) == 28


@every()
def test_the_server_chooses_a_subprotocol(peer):
    with peer.connect("/subprotocols", subprotocols=["unknown", "chat.v1"]) as ws:
        assert ws.subprotocol == "chat.v1"
        ws.send("hello")
        assert ws.recv(timeout=10) == "hello"


@every()
def test_the_server_chooses_no_subprotocol(peer):
    with peer.connect("/echo", subprotocols=["chat.v1"]) as ws:
        assert ws.subprotocol is None


@every()
def test_no_subprotocol_is_offered(peer):
    with peer.connect("/subprotocols") as ws:
        assert ws.subprotocol is None


@every()
@pytest.mark.parametrize("status", (400, 403, 404, 503))
def test_a_refusal_has_status_headers_and_body(peer, status):
    with pytest.raises(wsmini.InvalidStatus, match=str(status)) as info:
        peer.connect(target("/refuse", status=status))
    response = info.value.response
    assert response.status_code == status
    assert response.body == REFUSAL
    assert response.headers["x-why"] == "interop"
    assert response.headers.get_all("Set-Cookie") == ["a=1", "b=2"]


@every()
def test_the_body_of_a_refusal_is_bounded(peer):
    with pytest.raises(wsmini.InvalidStatus) as info:
        peer.connect(target("/refuse", status=403, times=10000))
    body = info.value.response.body
    assert body == (REFUSAL * 10000)[: len(body)]
    assert len(body) == MAX_BODY


@pytest.mark.parametrize("peer", ["aiohttp-ws", "aiohttp-wss"], indirect=True)
@pytest.mark.parametrize("times", (1, 1000))
def test_a_refusal_in_chunks(peer, times):
    with pytest.raises(wsmini.InvalidStatus) as info:
        peer.connect(target("/refuse", status=403, times=times, chunked=""))
    assert info.value.response.headers["Transfer-Encoding"] == "chunked"
    assert info.value.response.body == REFUSAL * times


@pytest.mark.parametrize("peer", ["nginx-ws", "nginx-wss"], indirect=True)
def test_a_refusal_by_the_proxy_itself(peer):
    with pytest.raises(wsmini.InvalidStatus) as info:
        peer.connect("/forbidden")
    assert info.value.response.status_code == 403
    assert info.value.response.headers["X-Why"] == "nginx"
    assert info.value.response.body == b"Not through this door.\n"


@pytest.mark.parametrize("peer", ["nginx-ws", "nginx-wss"], indirect=True)
def test_a_proxy_with_nobody_behind_it(peer):
    with pytest.raises(wsmini.InvalidStatus) as info:
        peer.connect("/nobody")
    assert info.value.response.status_code == 502
    assert info.value.response.reason_phrase == "Bad Gateway"
    assert b"502 Bad Gateway" in info.value.response.body


@pytest.mark.parametrize("peer", ["nginx-ws", "nginx-wss"], indirect=True)
def test_the_server_behind_the_proxy_knows_the_scheme(peer):
    with peer.connect("/request") as ws:
        _, values = seen(ws)
    assert values("x-forwarded-proto") == ["https" if peer.url.startswith("wss") else "http"]
