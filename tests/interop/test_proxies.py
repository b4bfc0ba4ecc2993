"""Every way through a proxy, to servers with and without TLS, and every way not to get through."""

from __future__ import annotations

import os
import socket
import ssl
from collections import namedtuple
from urllib.parse import unquote

import pytest
from witness import (
    PASSWORD,
    PLAIN_PASSWORD,
    STRONG,
    USER,
    free_port,
    is_direct,
    seen,
    trusting,
    userinfo,
    values,
)

import wsmini

pytest_plugins = ["proxies"]

Way = namedtuple("Way", "scheme program port user", defaults=("",))

KNOWN, KNOWN_PLAIN = userinfo(), userinfo(PLAIN_PASSWORD)
WAYS = {
    "squid": Way("http", "squid", "plain"),
    "squid-basic": Way("http", "squid", "basic", KNOWN),
    "squid-digest": Way("http", "squid", "digest", KNOWN),
    "squid-strongest": Way("http", "squid", "both", userinfo(user=STRONG)),
    "tinyproxy": Way("http", "tinyproxy", "plain"),
    "tinyproxy-basic": Way("http", "tinyproxy", "basic", KNOWN_PLAIN),
    "https-squid": Way("https", "stunnel", "squid-plain"),
    "https-squid-basic": Way("https", "stunnel", "squid-basic", KNOWN),
    "https-squid-digest": Way("https", "stunnel", "squid-digest", KNOWN),
    "https-tinyproxy": Way("https", "stunnel", "tinyproxy-plain"),
    "https-tinyproxy-basic": Way("https", "stunnel", "tinyproxy-basic", KNOWN_PLAIN),
    "socks5-dante": Way("socks5", "dante", "plain"),
    "socks5h-dante": Way("socks5h", "dante", "plain"),
    "socks4-dante": Way("socks4", "dante", "plain"),
    "socks4a-openssh": Way("socks4a", "openssh", "plain"),
    "socks5h-openssh": Way("socks5h", "openssh", "plain"),
    "socks5-microsocks": Way("socks5", "microsocks", "plain"),
    "socks5h-microsocks": Way("socks5h", "microsocks", "plain"),
    "socks5-microsocks-password": Way("socks5", "microsocks", "password", KNOWN),
    "socks5h-microsocks-password": Way("socks5h", "microsocks", "password", KNOWN),
}
LOOK_UP = [name for name in WAYS if WAYS[name].scheme not in ("socks4", "socks5")]
VERSION_4 = [name for name in WAYS if WAYS[name].scheme.startswith("socks4")]
WITH_USER = [name for name in WAYS if WAYS[name].user]

through = pytest.mark.parametrize("way", WAYS)
schemes = pytest.mark.parametrize("scheme", ("ws", "wss"))


@pytest.fixture
def connect(software, trust):
    """Connect to the witness through one of WAYS."""

    def connect(way, target, **options):
        if "proxy" not in options:
            options["proxy"] = proxy_url(software, WAYS[way])
        return wsmini.connect(target, **{"ssl": trust, "proxy_ssl": trust, **options})

    return connect


@pytest.fixture
def witness(software):
    """The URL of the witness for a scheme."""

    def url(scheme, path="/request", host="localhost"):
        return f"{scheme}://{host}:{software.port('witness', scheme)}{path}"

    return url


def proxy_url(software, way, user=None):
    port = software.port(way.program, way.port)
    return f"{way.scheme}://{way.user if user is None else user}127.0.0.1:{port}"


@schemes
@through
def test_messages_pass(connect, witness, way, scheme):
    with connect(way, witness(scheme)) as ws:
        report = seen(ws)
        ws.send("hello")
        assert ws.recv(timeout=10) == "hello"
        data = os.urandom(2**18)
        ws.send(data)
        assert ws.recv(timeout=10) == data
    assert not is_direct(ws, report)
    assert set(ws.timings) == {"dns", "tcp", "proxy", "upgrade", *(["tls"] * (scheme == "wss"))}


@schemes
@through
def test_nothing_for_the_proxy_reaches_the_server(connect, witness, way, scheme):
    with connect(way, witness(scheme), auth=("server-user", "server-password")) as ws:
        report = seen(ws)
    assert values(report, "proxy-authorization") == values(report, "authorization") == []


@schemes
@pytest.mark.parametrize("way", [way for way in WAYS if way not in VERSION_4])
def test_addresses_of_version_6(connect, witness, way, scheme):
    if not has_ipv6():
        pytest.skip("there is no ::1 here")
    with connect(way, witness(scheme, "/echo", "[::1]")) as ws:
        ws.send("hello")
        assert ws.recv(timeout=10) == "hello"


@pytest.mark.parametrize("way", VERSION_4)
def test_addresses_of_version_6_are_too_long_for_socks4(connect, witness, way):
    with pytest.raises(wsmini.ProxyError, match="IPv4 addresses only; use socks5"):
        connect(way, witness("ws", "/echo", "[::1]"))


def has_ipv6():
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@schemes
@pytest.mark.parametrize("way", LOOK_UP)
def test_the_proxy_looks_the_name_up(connect, witness, monkeypatch, way, scheme):
    names = names_looked_up(monkeypatch)
    with connect(way, witness(scheme)) as ws:
        assert seen(ws)["target"] == "/request"
    assert names == {"127.0.0.1"}


@pytest.mark.parametrize("way", [way for way in WAYS if way not in LOOK_UP])
def test_the_client_looks_the_name_up(connect, witness, monkeypatch, way):
    names = names_looked_up(monkeypatch)
    with connect(way, witness("ws")) as ws:
        assert seen(ws)["target"] == "/request"
    assert names == {"127.0.0.1", "localhost"}


def names_looked_up(monkeypatch):
    names, getaddrinfo = set(), socket.getaddrinfo

    def spy(host, *args, **options):
        names.add(host.decode() if isinstance(host, bytes) else host)
        return getaddrinfo(host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", spy)
    return names


# -- credentials --


@pytest.mark.parametrize("way", WITH_USER)
@pytest.mark.parametrize("user", (userinfo("wrong"), "user@", userinfo("", "nobody"), ""))
def test_wrong_credentials(software, connect, witness, way, user):
    url = proxy_url(software, WAYS[way], user)
    with pytest.raises(wsmini.ProxyError) as info:
        connect(way, witness("ws"), proxy=url)
    exc = info.value
    if WAYS[way].scheme.startswith("http"):
        # tinyproxy 1.11 answers wrong credentials with 401.
        assert exc.response.status_code in ((401, 407) if "tinyproxy" in way else (407,))
    elif user:
        assert "refused the user or the password" in str(exc)
    else:
        assert "wants credentials" in str(exc)
    assert exc.phase == "proxy"
    assert "password" in exc.hint or "credentials" in exc.hint


@pytest.mark.parametrize("way", WITH_USER)
def test_secrets_are_in_no_message_and_no_trace(software, connect, witness, way):
    records = []
    wrong = userinfo("wr0ng-secret")
    url = proxy_url(software, WAYS[way], wrong)
    with pytest.raises(wsmini.ProxyError) as info:
        connect(way, witness("ws"), proxy=url, trace=records.append)
    with connect(way, witness("ws"), trace=records.append):
        pass
    told = f"{info.value} {info.value!r} {records}"
    for secret in ("wr0ng-secret", PASSWORD, PLAIN_PASSWORD, unquote(wrong), f"{USER}:"):
        assert secret not in told
    assert records[-1]["event"] == "open"


# -- what proxies refuse --

FORBIDDEN = {
    "squid": "HTTP 403",
    "https-squid": "HTTP 403",
    "socks5h-dante": "not allowed by its rules",
    "socks4-dante": "request rejected or failed",
}
CLOSED = {
    "squid": "HTTP 503",
    "https-squid": "HTTP 503",
    "tinyproxy": "HTTP 500",
    "socks5-dante": "connection refused",
    "socks5h-dante": "connection refused",
    "socks4-dante": "request rejected or failed",
    "socks5h-microsocks": "connection refused",
    # It hangs up.
    "socks5h-openssh": "closed the connection",
    "socks4a-openssh": "closed the connection",
}


@schemes
@pytest.mark.parametrize("way", FORBIDDEN)
def test_a_port_that_the_proxy_forbids(connect, way, scheme):
    with pytest.raises(wsmini.ProxyError, match=FORBIDDEN[way]) as info:
        connect(way, f"{scheme}://127.0.0.1:9/")
    assert info.value.phase == "proxy"
    assert info.value.hint


@schemes
@pytest.mark.parametrize("way", CLOSED)
def test_a_server_that_does_not_listen(connect, way, scheme):
    with pytest.raises(wsmini.ProxyError, match=CLOSED[way]) as info:
        connect(way, f"{scheme}://127.0.0.1:{free_port()}/")
    assert info.value.phase == "proxy"
    assert info.value.hint


@pytest.mark.parametrize("way", ("squid", "https-squid", "socks5h-dante", "socks5h-microsocks"))
def test_a_name_that_the_proxy_cannot_find(connect, way):
    with pytest.raises(wsmini.ProxyError) as info:
        connect(way, "ws://nobody.invalid/")
    assert info.value.phase == "proxy"


@pytest.mark.parametrize("way", WAYS)
def test_a_proxy_that_does_not_listen(connect, witness, way):
    port = free_port()
    url = f"{WAYS[way].scheme}://{WAYS[way].user}127.0.0.1:{port}"
    with pytest.raises(ConnectionRefusedError, match=rf"proxy .*127\.0\.0\.1:{port}") as info:
        connect(way, witness("ws"), proxy=url)
    assert info.value.phase == "tcp"
    assert PASSWORD not in str(info.value)


# Who listens -> what is spoken to it.
MISTAKEN = {
    "http-to-socks": ("dante", "plain", "http"),
    "http-to-microsocks": ("microsocks", "plain", "http"),
    "http-to-https": ("stunnel", "squid-plain", "http"),
    "https-to-http": ("squid", "plain", "https"),
    "https-to-tinyproxy": ("tinyproxy", "plain", "https"),
    "https-to-socks": ("dante", "plain", "https"),
    "socks5-to-http": ("squid", "plain", "socks5h"),
    "socks5-to-tinyproxy": ("tinyproxy", "plain", "socks5h"),
    "socks5-to-https": ("stunnel", "squid-plain", "socks5h"),
    "socks4-to-http": ("squid", "plain", "socks4a"),
    "socks4-to-microsocks": ("microsocks", "plain", "socks4a"),
    "http-to-server": ("witness", "ws", "http"),
    "https-to-server": ("witness", "wss", "https"),
    "socks5-to-server": ("witness", "ws", "socks5"),
}


@pytest.mark.parametrize("kind", MISTAKEN)
def test_a_proxy_of_another_kind(software, connect, witness, kind):
    program, port, scheme = MISTAKEN[kind]
    url = f"{scheme}://127.0.0.1:{software.port(program, port)}"
    with pytest.raises((OSError, wsmini.InvalidHandshake)) as info:
        connect("", witness("ws"), proxy=url, open_timeout=1)
    assert info.value.phase in ("proxy", "tls")
    assert info.value.hint


# -- TLS to the proxy --


@schemes
@pytest.mark.parametrize("certificate", ("self-signed", "expired", "wrong-host", "other-server"))
def test_a_proxy_that_cannot_be_trusted(software, connect, witness, certificate, scheme):
    url = f"https://127.0.0.1:{software.port('stunnel', certificate)}"
    with pytest.raises(ssl.SSLCertVerificationError) as info:
        connect("", witness(scheme), proxy=url)
    assert f"proxy {url}" in str(info.value)
    assert info.value.hint


def test_the_authority_for_the_server_is_not_for_the_proxy(software, connect, witness):
    with pytest.raises(ssl.SSLCertVerificationError):
        connect("https-squid", witness("wss"), proxy_ssl=None)


def test_the_name_in_the_certificate_of_the_proxy(software, connect, witness):
    url = f"https://127.0.0.1:{software.port('stunnel', 'wrong-host')}"
    with connect("", witness("wss"), proxy=url, proxy_server_hostname="wrong.example") as ws:
        assert not is_direct(ws, seen(ws))


@pytest.mark.parametrize("certificates", ((), ("client",)), ids=("without", "with"))
def test_a_proxy_that_wants_a_certificate(software, connect, witness, certificates):
    url = f"https://127.0.0.1:{software.port('stunnel', 'client')}"
    options = {"proxy": url, "proxy_ssl": trusting(*certificates)}
    if certificates:
        with connect("", witness("wss"), **options) as ws:
            assert not is_direct(ws, seen(ws))
        return
    for _ in range(50):  # It hangs up behind its alert, sometimes before CONNECT is sent.
        with pytest.raises(ssl.SSLError, match="client certificate") as info:
            connect("", witness("wss"), **options)
        assert info.value.phase == "proxy"


# -- which proxy --

HTTP, TRAP = "http://127.0.0.1:{proxy}", "http://127.0.0.1:{trap}"
# The scheme and the environment of a connection that goes through the proxy. {trap} is a port
# where nobody may come.
CHOSEN = {
    "wss_proxy": ("wss", {"wss_proxy": HTTP, "https_proxy": TRAP, "all_proxy": TRAP}),
    "https_proxy": ("wss", {"https_proxy": HTTP, "http_proxy": TRAP, "all_proxy": TRAP}),
    "all_proxy-wss": ("wss", {"all_proxy": HTTP, "ws_proxy": TRAP, "http_proxy": TRAP}),
    "ws_proxy": ("ws", {"ws_proxy": HTTP, "http_proxy": TRAP, "all_proxy": TRAP}),
    "http_proxy": ("ws", {"http_proxy": HTTP, "https_proxy": TRAP, "wss_proxy": TRAP}),
    "all_proxy-ws": ("ws", {"all_proxy": HTTP, "wss_proxy": TRAP}),
    "WSS_PROXY": ("wss", {"WSS_PROXY": HTTP}),
    "HTTPS_PROXY": ("wss", {"HTTPS_PROXY": HTTP}),
    "HTTP_PROXY": ("ws", {"HTTP_PROXY": HTTP}),
    "ALL_PROXY": ("ws", {"ALL_PROXY": HTTP}),
    "lower-case-first": ("ws", {"http_proxy": HTTP, "HTTP_PROXY": TRAP}),
    "empty": ("ws", {"ws_proxy": "", "http_proxy": HTTP}),
    "without-scheme": ("ws", {"ws_proxy": "127.0.0.1:{proxy}"}),
    "with-slash": ("ws", {"ws_proxy": HTTP + "/"}),
    "socks": ("wss", {"all_proxy": "socks5h://127.0.0.1:{socks}"}),
    "with-password": ("wss", {"https_proxy": f"http://{KNOWN}127.0.0.1:{{basic}}"}),
    "no_proxy-other-host": ("ws", {"http_proxy": HTTP, "no_proxy": "example.com,host"}),
    "no_proxy-other-port": ("ws", {"http_proxy": HTTP, "no_proxy": "localhost:1"}),
    "no_proxy-part-of-name": ("ws", {"http_proxy": HTTP, "no_proxy": "host, calhost"}),
}
ALL_TRAPS = dict.fromkeys(("ws_proxy", "wss_proxy", "http_proxy", "https_proxy", "all_proxy"), TRAP)
ALL_TRAPS.update({name.upper(): value for name, value in ALL_TRAPS.items()})
# The host in the URL and no_proxy, for which everything else in the environment doesn't count.
EXCEPTED = {
    "name": ("localhost", "localhost"),
    "list": ("localhost", "example.com,localhost"),
    "spaces": ("localhost", " example.com  localhost "),
    "commas-and-spaces": ("localhost", "example.com , LocalHost ,"),
    "dot": ("localhost", ".localhost"),
    "port": ("localhost", "localhost:{ws},localhost:{wss}"),
    "everything": ("localhost", "*"),
    "address": ("127.0.0.1", "127.0.0.1"),
    "network": ("127.0.0.1", "10.0.0.0/8,127.0.0.0/8"),
    "address-of-version-6": ("[::1]", "::1"),
    "brackets-and-port": ("[::1]", "[::1]:{ws} [::1]:{wss}"),
    "network-of-version-6": ("[::1]", "::/64"),
}


@pytest.fixture
def environment(software, monkeypatch):
    """Set environment variables; nobody may come to the port {trap} during the test."""
    with socket.create_server(("127.0.0.1", 0)) as trap:
        ports = {"trap": trap.getsockname()[1], **software.ports("witness")}
        ports["proxy"] = software.port("squid", "plain")
        ports["basic"] = software.port("squid", "basic")
        ports["socks"] = software.port("dante", "plain")

        def set_all(variables):
            for name, value in variables.items():
                monkeypatch.setenv(name, value.format(**ports))

        yield set_all
        trap.setblocking(False)
        with pytest.raises(BlockingIOError):
            trap.accept()


@pytest.mark.parametrize("kind", CHOSEN)
def test_the_environment_chooses_the_proxy(witness, trust, environment, kind):
    scheme, variables = CHOSEN[kind]
    environment(variables)
    with wsmini.connect(witness(scheme), ssl=trust) as ws:
        assert not is_direct(ws, seen(ws))


@schemes
@pytest.mark.parametrize("kind", EXCEPTED)
def test_the_environment_excepts_hosts(witness, trust, environment, kind, scheme):
    host, no_proxy = EXCEPTED[kind]
    if host == "[::1]" and not has_ipv6():
        pytest.skip("there is no ::1 here")
    environment({**ALL_TRAPS, "no_proxy": no_proxy})
    with wsmini.connect(witness(scheme, host=host), ssl=trust) as ws:
        assert is_direct(ws, seen(ws))


@schemes
def test_no_proxy_means_none(witness, trust, environment, scheme):
    environment(ALL_TRAPS)
    with wsmini.connect(witness(scheme), ssl=trust, proxy=None) as ws:
        assert is_direct(ws, seen(ws))


@schemes
def test_the_argument_is_stronger_than_the_environment(connect, witness, environment, scheme):
    environment({**ALL_TRAPS, "no_proxy": "*"})
    with connect("squid", witness(scheme)) as ws:
        assert not is_direct(ws, seen(ws))


@schemes
def test_a_redirect_chooses_the_proxy_anew(software, witness, trust, environment, scheme):
    # The proxy is for the first server only: the second one is an exception.
    target = witness(scheme, host="127.0.0.1")
    environment({"all_proxy": HTTP, "no_proxy": "127.0.0.1"})
    url = f"{scheme}://localhost:{software.port('nginx', scheme)}/302?to={target}"
    with wsmini.connect(url, ssl=trust) as ws:
        assert is_direct(ws, seen(ws))
    environment({"all_proxy": HTTP, "no_proxy": "localhost"})
    with wsmini.connect(url, ssl=trust) as ws:
        assert not is_direct(ws, seen(ws))
