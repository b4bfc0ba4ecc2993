from __future__ import annotations

import ssl

import pytest
from peers import every

import wsmini

secure = every(schemes=["wss"])


@secure
def test_an_authority_that_is_not_known_is_refused(peer):
    with pytest.raises(ssl.SSLCertVerificationError):
        wsmini.connect(peer.url + "/echo")


@secure
def test_a_certificate_for_another_host_is_refused(peer):
    with pytest.raises(ssl.SSLCertVerificationError):
        peer.connect(server_hostname="elsewhere.example")


@secure
def test_the_certificate_is_for_the_name_in_the_url(peer):
    url = peer.url.replace("127.0.0.1", "localhost") + "/echo"
    with wsmini.connect(url, **peer.options) as ws:
        ws.send("hello")
        assert ws.recv(timeout=10) == "hello"


@secure
@pytest.mark.parametrize("version", (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3))
def test_versions_of_tls(peer, authority, version):
    context = ssl.create_default_context()
    authority.configure_trust(context)
    context.minimum_version = context.maximum_version = version
    with peer.connect(ssl=context) as ws:
        ws.send(b"x" * 2**20)
        assert ws.recv(timeout=10) == b"x" * 2**20


@secure
def test_tls_where_none_is_spoken(peer, server, context):
    _, ports = server(peer.name)
    with pytest.raises((OSError, wsmini.InvalidHandshake)):
        wsmini.connect(f"wss://127.0.0.1:{ports['ws']}/echo", ssl=context)


@secure
def test_no_tls_where_it_is_spoken(peer):
    with pytest.raises((OSError, wsmini.InvalidHandshake)):
        wsmini.connect(peer.url.replace("wss:", "ws:") + "/echo")
