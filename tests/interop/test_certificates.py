"""Which certificates are accepted, on every way to a server: behind haproxy, nginx and stunnel."""

from __future__ import annotations

import socket
import ssl
import threading
from collections import namedtuple

import pytest
from witness import CERTIFICATES, seen, trusting

import wsmini

pytest_plugins = ["proxies"]

WAYS = {
    "direct": None,
    "connect": ("http", "squid", "plain"),
    "https-proxy": ("https", "stunnel", "squid-plain"),
    "socks5h": ("socks5h", "dante", "plain"),
}
ways = pytest.mark.parametrize("way", WAYS)

Refusal = namedtuple("Refusal", "text hint")
REFUSALS = {
    "self-signed": Refusal("self-signed certificate|self signed certificate", "cafile"),
    "expired": Refusal("certificate has expired", "clock"),
    "not-yet-valid": Refusal("certificate is not yet valid", "clock"),
    "wrong-host": Refusal("Hostname mismatch", "server_hostname"),
    "other-server": Refusal("unable to get local issuer certificate", "cafile"),
}
VERSIONS = {"tls1.2": ssl.TLSVersion.TLSv1_2, "tls1.3": ssl.TLSVersion.TLSv1_3}


@pytest.fixture
def connect_to(software, trust):
    """Connect on one of WAYS to a URL."""

    def connect_to(way, url, **options):
        if WAYS[way] is not None:
            scheme, proxy, which = WAYS[way]
            options["proxy"] = f"{scheme}://127.0.0.1:{software.port(proxy, which)}"
        return wsmini.connect(url, **{"ssl": trust, "proxy_ssl": trust, **options})

    return connect_to


@pytest.fixture
def connect(software, connect_to):
    """Connect on one of WAYS to a port of haproxy or nginx, and to the witness behind it."""

    def connect(way, port, program="haproxy", host="localhost", **options):
        url = f"wss://{host}:{software.port(program, port)}/request"
        return connect_to(way, url, **options)

    return connect


def works(ws):
    with ws:
        assert seen(ws)["target"] == "/request"
        ws.send("hello")
        assert ws.recv(timeout=10) == "hello"


def test_every_certificate_is_tried():
    assert set(REFUSALS) | {"server"} == set(CERTIFICATES)


# -- of the server --


@ways
def test_a_good_one(connect, way):
    works(connect(way, "server"))


@ways
@pytest.mark.parametrize("kind", REFUSALS)
def test_a_bad_one(software, connect, way, kind):
    text, hint = REFUSALS[kind]
    with pytest.raises(ssl.SSLCertVerificationError, match=text) as info:
        connect(way, kind)
    exc = info.value
    assert exc.phase == "tls"
    assert exc.address == f"localhost:{software.port('haproxy', kind)}"
    assert exc.address in str(exc)
    assert hint in exc.hint and exc.hint in str(exc)
    assert 0 < exc.elapsed < 10


@ways
@pytest.mark.parametrize("version", VERSIONS)
def test_a_bad_one_in_each_version_of_tls(connect, way, version):
    context = trusting()
    context.minimum_version = context.maximum_version = VERSIONS[version]
    works(connect(way, "server", ssl=context))
    for kind in REFUSALS:
        with pytest.raises(ssl.SSLCertVerificationError):
            connect(way, kind, ssl=context)


@ways
def test_an_authority_that_the_system_does_not_know(connect, way):
    with pytest.raises(ssl.SSLCertVerificationError, match="cafile"):
        connect(way, "server", ssl=None)


@ways
def test_an_address_that_the_certificate_does_not_have(connect, way):
    with pytest.raises(ssl.SSLCertVerificationError, match="IP address mismatch"):
        connect(way, "wrong-host", host="127.0.0.1")


@ways
def test_any_is_good_enough_if_asked_for(connect, way):
    for kind in CERTIFICATES:
        works(connect(way, kind, ssl=wsmini.unverified_context()))


@ways
def test_another_name_to_check_for(connect, way):
    works(connect(way, "wrong-host", server_hostname="wrong.example"))
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        connect(way, "server", server_hostname="wrong.example")


def test_another_destination_has_the_same_name_to_check_for(software, trust):
    where = {"host": "127.0.0.1", "port": software.port("haproxy", "by-name")}
    works(wsmini.connect("wss://localhost/request", ssl=trust, **where))
    with pytest.raises(ssl.SSLCertVerificationError, match="elsewhere.example"):
        wsmini.connect("wss://elsewhere.example/request", ssl=trust, **where)


@ways
def test_the_server_chooses_it_by_the_name(connect, way):
    works(connect(way, "by-name"))
    works(connect(way, "by-name", server_hostname="wrong.example"))
    with connect(way, "wss", "nginx") as ws:
        assert ws.response_headers["X-Server-Name"] == "localhost"
    with connect(way, "wss", "nginx", host="127.0.0.1") as ws:
        assert ws.response_headers.get("X-Server-Name", "") == ""


@ways
@pytest.mark.parametrize("kind", REFUSALS)
def test_a_bad_one_behind_a_redirect(software, connect_to, way, kind):
    target = f"https://localhost:{software.port('haproxy', kind)}/request"
    with pytest.raises(ssl.SSLCertVerificationError):
        connect_to(way, f"wss://localhost:{software.port('nginx', 'wss')}/302?to={target}")


# -- of the client --


@ways
@pytest.mark.parametrize("port", ("client", "client-tls1.2"))
def test_the_client_shows_one(connect, way, port):
    works(connect(way, port, ssl=trusting("client")))


@ways
@pytest.mark.parametrize("port", ("client", "client-tls1.2"))
def test_the_client_has_none(connect, way, port):
    # With TLS 1.3 the client learns of it when its handshake is done (RFC 8446, 4.4.2.4).
    for _ in range(20):
        with pytest.raises(ssl.SSLError, match="client certificate") as info:
            connect(way, port)
        assert info.value.phase == ("upgrade" if port == "client" else "tls")


@ways
@pytest.mark.parametrize("port", ("client", "client-tls1.2"))
def test_the_client_shows_one_of_another_authority(connect, way, port):
    with pytest.raises(ssl.SSLError, match="client certificate|our certificate") as info:
        connect(way, port, ssl=trusting("other-server"))
    assert info.value.phase == ("upgrade" if port == "client" else "tls")


@ways
def test_nginx_wants_one(connect, way):
    works(connect(way, "client", "nginx", ssl=trusting("client")))
    with pytest.raises(wsmini.InvalidStatus) as info:
        connect(way, "client", "nginx")
    assert info.value.response.status_code == 400
    assert b"No required SSL certificate was sent" in info.value.response.body


# -- not TLS at all --


@ways
def test_the_server_speaks_no_tls(connect, way):
    with pytest.raises(ssl.SSLError, match="ws://") as info:
        connect(way, "ws", "nginx")
    assert info.value.phase == "tls"


@ways
def test_the_server_says_nothing(connect_to, way):
    with socket.create_server(("127.0.0.1", 0)) as server:
        with pytest.raises(TimeoutError) as info:
            connect_to(way, f"wss://127.0.0.1:{server.getsockname()[1]}/", open_timeout=0.5)
    assert info.value.phase == "tls"


@ways
def test_the_server_hangs_up(connect_to, way):
    with socket.create_server(("127.0.0.1", 0)) as server:
        hang_up = threading.Thread(target=lambda: server.accept()[0].close())
        hang_up.start()
        with pytest.raises(ConnectionError) as info:
            connect_to(way, f"wss://127.0.0.1:{server.getsockname()[1]}/")
        hang_up.join()
    assert info.value.phase == "tls"


# -- sessions --


@ways
@pytest.mark.parametrize("version", VERSIONS)
def test_a_session_is_resumed(connect, way, version):
    context = trusting()
    resumed = []
    for _ in range(3):
        with connect(way, version, "nginx", ssl=context, tls_resumption=True) as ws:
            seen(ws)
            resumed.append(ws.response_headers["X-Resumed"])
            assert ws.response_headers["X-Version"] == version.upper().replace("TLS", "TLSv")
    assert resumed == [".", "r", "r"]


def test_the_sessions_of_proxy_and_server_are_resumed(connect):
    contexts, facts = {"ssl": trusting(), "proxy_ssl": trusting()}, []
    for _ in range(2):
        with connect(
            "https-proxy", "server", trace=facts.append, tls_resumption=True, **contexts
        ) as ws:
            seen(ws)
    resumed = [fact["resumed"] for fact in facts if fact["event"] == "secured"]
    assert resumed == [False, False, True, True]


def test_sessions_are_of_one_context_and_one_name(connect):
    context = trusting()
    for options, resumed in (
        ({}, "."),
        ({}, "r"),
        ({"host": "127.0.0.1"}, "."),
        ({"ssl": trusting()}, "."),
        ({}, "r"),
    ):
        options = {"ssl": context, "tls_resumption": True, **options}
        with connect("direct", "tls1.3", "nginx", **options) as ws:
            seen(ws)
            assert ws.response_headers["X-Resumed"] == resumed, options


def test_a_session_verifies_nothing_that_was_not_verified(connect):
    context = wsmini.unverified_context()
    works(connect("direct", "wrong-host", ssl=context))
    context.verify_mode = ssl.CERT_REQUIRED
    context.check_hostname = True
    with pytest.raises(ssl.SSLCertVerificationError):
        connect("direct", "wrong-host", ssl=context)
