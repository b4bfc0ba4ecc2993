"""Basic and Digest authentication at nginx, Apache and lighttpd."""

from __future__ import annotations

import pytest
from witness import PASSWORD, REALM, STRONG, USER, seen, userinfo, values

import wsmini

pytest_plugins = ["proxies"]

# The program, the scheme, the path, and the user.
WAYS = {
    "nginx-basic-ws": ("nginx", "ws", "/protected", USER),
    "nginx-basic-wss": ("nginx", "wss", "/protected", USER),
    "apache-basic-ws": ("apache", "ws", "/basic", USER),
    "apache-basic-wss": ("apache", "wss", "/basic", USER),
    "apache-md5-ws": ("apache", "ws", "/md5", USER),
    "apache-md5-wss": ("apache", "wss", "/md5", USER),
    "lighttpd-md5": ("lighttpd", "ws", "/md5", USER),
    "lighttpd-sha-256": ("lighttpd", "ws", "/sha-256", USER),
    "lighttpd-both": ("lighttpd", "ws", "/both", USER),
    # This one's password is known with SHA-256 only.
    "lighttpd-strongest": ("lighttpd", "ws", "/both", STRONG),
    "lighttpd-userhash": ("lighttpd", "ws", "/userhash", USER),
}
BASIC = [name for name in WAYS if "basic" in name]
DIGEST = [name for name in WAYS if "basic" not in name]
# lighttpd lets those who are wrong wait for a second.
QUICK = [name for name in WAYS if "lighttpd" not in name]
every = pytest.mark.parametrize("way", WAYS)


@pytest.fixture
def connect(software, trust):
    """Connect on one of WAYS; *user* is what stands before the host in the URL."""

    def connect(way, path="/request?x=1&y=%2F", user="", **options):
        program, scheme, prefix, name = WAYS[way]
        options.setdefault("auth", (name, PASSWORD))
        url = f"{scheme}://{user}127.0.0.1:{software.port(program, scheme)}{prefix}{path}"
        return wsmini.connect(url, ssl=trust, **options)

    return connect


@every
def test_user_and_password(connect, way):
    with connect(way) as ws:
        report = seen(ws)
        ws.send("hello")
        assert ws.recv(timeout=10) == "hello"
    assert report["target"] == WAYS[way][2] + "/request?x=1&y=%2F"
    # Digest never shows it; lighttpd and Apache pass on what they have checked.
    shown = values(report, "authorization")
    assert shown[0].startswith("Basic " if way in BASIC else "Digest ")
    assert PASSWORD not in shown[0]


@every
def test_user_and_password_in_the_url(connect, way):
    user = userinfo(user=WAYS[way][3])
    with connect(way, user=user, auth=None) as ws:
        assert seen(ws)["target"].startswith(WAYS[way][2])


@every
def test_nothing_is_sent_unasked(connect, way):
    records = []
    with connect(way, trace=records.append):
        pass
    requests = [dict(record["headers"]) for record in records if record["event"] == "request"]
    assert ["Authorization" in headers for headers in requests] == [False, True]


@pytest.mark.parametrize("auth", (None, (USER, "wr0ng"), ("nobody", PASSWORD), ("", "")))
@pytest.mark.parametrize("way", (*QUICK, "lighttpd-both"))
def test_wrong_ones(connect, way, auth):
    records = []
    with pytest.raises(wsmini.InvalidStatus, match="401") as info:
        connect(way, auth=auth, trace=records.append)
    assert info.value.response.status_code == 401
    assert REALM in info.value.response.headers["WWW-Authenticate"]
    assert "auth" in info.value.hint
    # No weaker way is tried, and no password shown.
    requests = [record for record in records if record["event"] == "request"]
    assert len(requests) == (1 if auth is None else 2)
    assert "wr0ng" not in f"{info.value} {records}"


@pytest.mark.parametrize("way", QUICK)
def test_a_wrong_password_in_the_url(connect, way):
    with pytest.raises(wsmini.InvalidStatus, match="401") as info:
        connect(way, user=userinfo("wr0ng", WAYS[way][3]), auth=None)
    assert "wr0ng" not in str(info.value)


@every
def test_a_callable_sees_the_challenges(connect, way):
    asked = []

    def auth(challenges, method, target):
        asked.append((challenges, method, target))
        return None

    with pytest.raises(wsmini.InvalidStatus, match="401"):
        connect(way, auth=auth)
    [(challenges, method, target)] = asked
    assert (method, target) == ("GET", WAYS[way][2] + "/request?x=1&y=%2F")
    schemes = {challenge.scheme for challenge in challenges}
    assert schemes == ({"basic"} if way in BASIC else {"digest"})
    assert {challenge.params["realm"] for challenge in challenges} == {REALM}


@pytest.mark.parametrize("way", DIGEST)
def test_targets_of_digest(connect, way):
    for path in ("/request", "/request?", "/request?a=b%20c,%22d%22", "/%C3%A9/request?é"):
        with connect(way, path) as ws:
            assert seen(ws)["target"].startswith(WAYS[way][2])


@pytest.mark.parametrize("scheme", ("ws", "wss"))
def test_a_redirect_within_the_server_keeps_them(software, trust, scheme):
    url = f"{scheme}://localhost:{software.port('nginx', scheme)}/protected/redirect"
    auth = (USER, PASSWORD)
    with wsmini.connect(f"{url}?to=/protected/request", auth=auth, ssl=trust) as ws:
        assert seen(ws)["target"] == "/protected/request"
