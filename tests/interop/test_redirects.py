"""Redirects by nginx, to itself and to the witness, who tells what it really received."""

from __future__ import annotations

import json
import ssl
from http.cookiejar import CookieJar

import pytest
from witness import PASSWORD, USER, seen, userinfo, values

import wsmini
from wsmini.sansio.uri import parse_uri

pytest_plugins = ["proxies"]

CODES = (301, 302, 303, 307, 308)
SCHEMES = ("ws", "wss")
SECRETS = {
    "Authorization": "Bearer s3cret",
    "Cookie": "session=s3cret",
    "Proxy-Authorization": "Basic s3cret",
    "X-Api-Key": "s3cret",
}

codes = pytest.mark.parametrize("code", CODES)
schemes = pytest.mark.parametrize("scheme", SCHEMES)


@pytest.fixture
def nginx(software):
    """The URL of something of nginx; it asks for redirects with ``/302?to=``."""

    def url(scheme, path, host="localhost"):
        return f"{scheme}://{host}:{software.port('nginx', scheme)}{path}"

    return url


@pytest.fixture
def witness(software):
    """The URL of something of the witness, which is another origin."""

    def url(scheme, path="/request", host="localhost"):
        port = {"http": "ws", "https": "wss"}.get(scheme, scheme)
        return f"{scheme}://{host}:{software.port('witness', port)}{path}"

    return url


@pytest.fixture
def connect(trust):
    return lambda url, **options: wsmini.connect(url, ssl=trust, **options)


# -- where to --

# From /here/request.
RELATIVE = {
    "name": ("request?", "/here/request"),
    "dot": ("./request?", "/here/request"),
    "deeper": ("down/request", "/here/down/request"),
    "parent": ("../request", "/request"),
    "too-many-parents": ("../../../request", "/request"),
    "query": ("?a=1", "/here/request?a=1"),
    "dots-in-between": ("/a/b/../c/./request", "/a/c/request"),
    "dots-at-the-end": ("request?a=..", "/here/request?a=.."),
}


@schemes
@codes
def test_to_a_path(connect, nginx, scheme, code):
    with connect(nginx(scheme, f"/{code}?to=/request?from={code}")) as ws:
        assert seen(ws)["target"] == f"/request?from={code}"
        ws.send("hello")
        assert ws.recv(timeout=10) == "hello"


@schemes
@codes
@pytest.mark.parametrize("style", ("http", "ws"))
def test_to_another_server(connect, nginx, witness, scheme, code, style):
    to = style + scheme[2:]  # https, say
    with connect(nginx(scheme, f"/{code}?to={witness(to)}")) as ws:
        report = seen(ws)
    assert report["target"] == "/request"
    assert values(report, "host") == [witness(to, "").partition("//")[2]]


@codes
@pytest.mark.parametrize("to", ("https", "wss"))
def test_from_ws_to_wss(connect, nginx, witness, code, to):
    with connect(nginx("ws", f"/{code}?to={witness(to)}")) as ws:
        assert seen(ws)["target"] == "/request"
        assert ws.timings["tls"] > 0


@schemes
@pytest.mark.parametrize("kind", RELATIVE)
def test_relative_ones(connect, nginx, scheme, kind):
    location, target = RELATIVE[kind]
    with connect(nginx(scheme, f"/here/request?to={location}")) as ws:
        assert seen(ws)["target"] == target


@schemes
def test_to_the_same_server_without_the_scheme(connect, nginx, scheme):
    authority = nginx(scheme, "").partition(":")[2]
    with connect(nginx(scheme, f"/302?to={authority}/request")) as ws:
        assert seen(ws)["target"] == "/request"


@schemes
def test_several(connect, nginx, scheme):
    way = "/301?to=/302?to=/303?to=/307?to=/308?to=/request"
    with connect(nginx(scheme, way)) as ws:
        assert seen(ws)["target"] == "/request"


# -- where not to --


@codes
@pytest.mark.parametrize("to", ("http", "ws"))
def test_never_from_wss_to_ws(connect, nginx, witness, code, to):
    with pytest.raises(wsmini.InvalidRedirect, match="from wss to ws") as info:
        connect(nginx("wss", f"/{code}?to={witness(to)}"))
    assert info.value.phase == "upgrade"
    assert info.value.__cause__.response.status_code == code


def test_never_back_from_wss_to_ws(connect, nginx, witness):
    back = nginx("wss", f"/302?to={witness('ws')}")
    with pytest.raises(wsmini.InvalidRedirect, match="from wss to ws"):
        connect(nginx("ws", f"/302?to={back}"))


@schemes
def test_in_a_loop(connect, nginx, scheme):
    # Without a query, it redirects to "", which is itself.
    url = nginx(scheme, "/302?to=/301")
    with pytest.raises(wsmini.TooManyRedirects, match="in a loop") as info:
        connect(url)
    loop = nginx(scheme, "/301")
    assert info.value.uris == [str(parse_uri(url)), loop, loop]
    assert str(info.value).count(loop) == 2


@schemes
def test_too_many(connect, nginx, scheme):
    with pytest.raises(wsmini.TooManyRedirects, match="too often") as info:
        connect(nginx(scheme, "/longer"))
    assert len(info.value.uris) == 7
    with pytest.raises(wsmini.TooManyRedirects) as info:
        connect(nginx(scheme, "/longer"), max_redirects=2)
    assert [uri.rpartition("/")[2] for uri in info.value.uris] == [
        "longer", "longerx", "longerxx", "longerxxx",
    ]  # fmt: skip


@schemes
@codes
def test_none_if_not_wanted(nginx, trust, scheme, code):
    options = {"ssl": trust} if scheme == "wss" else {}
    with pytest.raises(wsmini.InvalidStatus, match="max_redirects") as info:
        wsmini.connect(nginx(scheme, f"/{code}?to=/request"), max_redirects=0, **options)
    assert info.value.response.status_code == code
    assert info.value.response.headers["Location"] == "/request"


BAD = ("ftp://localhost/", "mailto:me", "http://", "http://[::1", "http://localhost:0/", "data:,x")


@schemes
@pytest.mark.parametrize("location", BAD)
def test_to_where_no_websocket_can_be(connect, nginx, scheme, location):
    with pytest.raises(wsmini.InvalidRedirect):
        connect(nginx(scheme, f"/302?to={location}"))


# -- what stays at home --


def options():
    return {
        "additional_headers": SECRETS,
        "subprotocols": ["chat"],
        "user_agent_header": "interop/1",
        "origin": "https://example.org",
    }


def leaked(report):
    return {name for name in SECRETS if values(report, name)} | {
        name for name, value in report["headers"] if "s3cret" in value
    }


ELSEWHERE = {
    "another-port": ("ws", "ws", "localhost"),
    "another-port-with-tls": ("wss", "wss", "localhost"),
    "another-scheme": ("ws", "wss", "localhost"),
    "another-host": ("ws", "ws", "127.0.0.1"),
    "another-host-with-tls": ("wss", "wss", "127.0.0.1"),
}


@codes
@pytest.mark.parametrize("kind", ELSEWHERE)
def test_headers_stay_with_their_origin(connect, nginx, witness, kind, code):
    scheme, to, host = ELSEWHERE[kind]
    url = nginx(scheme, f"/{code}?to={witness(to, host=host)}")
    with connect(url, **options()) as ws:
        report = seen(ws)
    assert leaked(report) == set()
    # What isn't a secret goes along.
    assert values(report, "origin") == ["https://example.org"]
    assert values(report, "user-agent") == ["interop/1"]
    assert values(report, "sec-websocket-protocol") == ["chat"]


@codes
@schemes
def test_headers_go_along_within_the_origin(connect, nginx, scheme, code):
    with connect(nginx(scheme, f"/{code}?to=/request"), **options()) as ws:
        report = seen(ws)
    assert leaked(report) == set(SECRETS)


@pytest.mark.parametrize("kind", ELSEWHERE)
def test_user_and_password_stay_with_their_origin(connect, nginx, witness, kind):
    scheme, to, host = ELSEWHERE[kind]
    target = witness(to, "/private", host)
    for where, auth in (("", (USER, PASSWORD)), (userinfo(), None)):
        url = nginx(scheme, f"/protected/redirect?to={target}").replace("://", f"://{where}", 1)
        with pytest.raises(wsmini.InvalidStatus, match="401") as info:
            connect(url, auth=auth)
        report = json.loads(info.value.response.body)
        assert report["target"] == "/private"
        assert values(report, "authorization") == []


def test_a_callable_is_not_asked_for_another_origin(connect, nginx, witness):
    asked = []
    with pytest.raises(wsmini.InvalidStatus, match="401") as info:
        connect(
            nginx("ws", f"/302?to={witness('ws', '/private')}"),
            auth=lambda *args: asked.append(args),
        )
    assert not asked
    assert "witness" in info.value.response.headers["WWW-Authenticate"]


@schemes
def test_cookies_stay_with_their_host(connect, nginx, witness, scheme):
    jar = CookieJar()
    with connect(nginx(scheme, "/cookie?to=/request"), cookies=jar) as ws:
        assert values(seen(ws), "cookie") == ["flavour=oat"]
    assert [(cookie.name, cookie.value) for cookie in jar] == [("flavour", "oat")]
    with connect(nginx(scheme, "/request"), cookies=jar) as ws:
        assert values(seen(ws), "cookie") == ["flavour=oat"]
    url = nginx(scheme, f"/302?to={witness(scheme, host='127.0.0.1')}")
    with connect(url, cookies=jar) as ws:
        assert values(seen(ws), "cookie") == []


def test_the_destination_is_of_the_first_server_only(software, connect, witness):
    where = {"host": "127.0.0.1", "port": software.port("nginx", "ws")}
    url = f"ws://elsewhere.example/302?to={witness('ws')}"
    with connect(url, **where) as ws:
        assert seen(ws)["target"] == "/request"
        assert ws.remote_address[1] == software.port("witness", "ws")


def test_the_name_to_check_for_is_of_the_first_server_only(connect, nginx, witness):
    url = nginx("wss", f"/302?to={witness('wss')}", "127.0.0.1")
    with connect(url, server_hostname="localhost") as ws:
        assert seen(ws)["target"] == "/request"
    with pytest.raises(ssl.SSLCertVerificationError):
        connect(url, server_hostname="elsewhere.example")
