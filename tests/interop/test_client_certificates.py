"""Client certificates that are asked for late, and servers that can't resume; and proxy.py."""

from __future__ import annotations

import ssl

import pytest
from witness import TLS_VERSIONS, seen, trusting, values

import wsmini

pytest_plugins = ["proxies"]


@pytest.fixture
def context():
    context = trusting("client")
    context.post_handshake_auth = True
    return context


@pytest.mark.parametrize("port", ["tls12", "tls13"])
def test_a_location_that_wants_a_certificate(software, context, port):
    url = f"wss://localhost:{software.port('apache', port)}"
    for _ in range(3):
        with wsmini.connect(f"{url}/certificate/request", ssl=context) as ws:
            assert "CN=" in values(seen(ws), "X-Client")[0]
    refused = (wsmini.InvalidStatus, ssl.SSLError)  # in one way, and in the other
    with pytest.raises(refused):
        wsmini.connect(f"{url}/certificate/request", ssl=trusting())


@pytest.mark.parametrize("version", TLS_VERSIONS)
@pytest.mark.parametrize("resumption", [None, True])
def test_a_server_that_cannot_resume(software, context, version, resumption):
    url = f"wss://localhost:{software.port('pyopenssl', version)}/"
    for _ in range(4):
        with wsmini.connect(url, ssl=context, tls_resumption=resumption) as ws:
            assert ws.recv(timeout=10) == "hello"


def test_proxy_py(software):
    proxy = f"http://127.0.0.1:{software.port('proxy.py', 'plain')}"
    url = f"ws://127.0.0.1:{software.port('witness', 'ws')}/request"
    with wsmini.connect(url, proxy=proxy) as ws:
        assert seen(ws)
