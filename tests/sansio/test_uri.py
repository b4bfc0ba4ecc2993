"""URLs: what is read from them, what is refused, what is shown, where redirects lead."""

from __future__ import annotations

import ipaddress
import random

import pytest
from helpers import SEED
from tables import each_row

from wsmini.exceptions import InvalidProxy, InvalidURI
from wsmini.sansio import uri as uri_module
from wsmini.sansio.redaction import redacted_uri, tag
from wsmini.sansio.uri import (
    URI,
    Proxy,
    join,
    parse_authority,
    parse_proxy,
    parse_uri,
    quote,
    shown_address,
    unquote,
)

VALID = {  # text -> secure, host, port, path, query, username, password
    "plain": ("ws://example.com", (False, "example.com", 80, "/", None, None, None)),
    "secure": ("wss://example.com/", (True, "example.com", 443, "/", None, None, None)),
    "port": ("ws://h:8000/feed", (False, "h", 8000, "/feed", None, None, None)),
    "lowest port": ("ws://h:1/", (False, "h", 1, "/", None, None, None)),
    "highest port": ("ws://h:65535/", (False, "h", 65535, "/", None, None, None)),
    "leading zeros in the port": ("ws://h:00080/", (False, "h", 80, "/", None, None, None)),
    "empty port": ("wss://h:/", (True, "h", 443, "/", None, None, None)),
    "upper case": ("WSS://EXAMPLE.Com/Feed", (True, "example.com", 443, "/Feed", None, None, None)),
    "query": ("ws://h/p?a=1&b=?/", (False, "h", 80, "/p", "a=1&b=?/", None, None)),
    "query without a path": ("ws://h?a", (False, "h", 80, "/", "a", None, None)),
    "empty query": ("ws://h/?", (False, "h", 80, "/", "", None, None)),
    "slashes": ("ws://h//a//", (False, "h", 80, "//a//", None, None, None)),
    "dot segments are kept": ("ws://h/a/../b", (False, "h", 80, "/a/../b", None, None, None)),
    "colon and @ in the path": ("ws://h/a:b@c", (False, "h", 80, "/a:b@c", None, None, None)),
    "underscore": ("ws://my_app-1/", (False, "my_app-1", 80, "/", None, None, None)),
    "final dot": ("ws://example.com./", (False, "example.com.", 80, "/", None, None, None)),
    "longest label": (f"ws://{'a' * 63}.b/", (False, "a" * 63 + ".b", 80, "/", None, None, None)),
    "longest name": (
        f"ws://{'a.' * 126}a./",
        (False, "a." * 126 + "a.", 80, "/", None, None, None),
    ),
    "IPv4": ("ws://127.0.0.1:9/", (False, "127.0.0.1", 9, "/", None, None, None)),
    "IPv6": ("ws://[::1]/", (False, "::1", 80, "/", None, None, None)),
    "IPv6 and port": (
        "wss://[2001:DB8::1]:8443",
        (True, "2001:db8::1", 8443, "/", None, None, None),
    ),
    "IPv6 and empty port": ("ws://[::1]:/", (False, "::1", 80, "/", None, None, None)),
    "zone": ("ws://[FE80::1%25Eth0.1]/", (False, "fe80::1%Eth0.1", 80, "/", None, None, None)),
    "zone not escaped": (
        "ws://[fe80::1%eth0]/",
        (False, "fe80::1%eth0", 80, "/", None, None, None),
    ),
    "zone 25": ("ws://[fe80::1%25]/", (False, "fe80::1%25", 80, "/", None, None, None)),
    "user": ("ws://ann@h/", (False, "h", 80, "/", None, "ann", None)),
    "user and password": ("ws://ann:pw@h:81/", (False, "h", 81, "/", None, "ann", "pw")),
    "empty password": ("ws://ann:@h/", (False, "h", 80, "/", None, "ann", "")),
    "password only": ("ws://:pw@h/", (False, "h", 80, "/", None, "", "pw")),
    "empty userinfo": ("ws://@h/", (False, "h", 80, "/", None, None, None)),
    "colon and @ in the password": ("ws://a:b:c@d@h/", (False, "h", 80, "/", None, "a", "b:c@d")),
    "escapes in userinfo": (
        "ws://a%40b:%c3%A9%2F%25@h/",
        (False, "h", 80, "/", None, "a@b", "é/%"),
    ),
    "stray % in userinfo": ("ws://a:100%@h/", (False, "h", 80, "/", None, "a", "100%")),
    "userinfo not ASCII": ("ws://ä:é%C3%A9@h/", (False, "h", 80, "/", None, "ä", "éé")),
    "user before IPv6": ("ws://a:b@[::1]:81/", (False, "::1", 81, "/", None, "a", "b")),
    "host not ASCII": (
        "ws://Bücher.example",
        (False, "xn--bcher-kva.example", 80, "/", None, None, None),
    ),
    "dots not ASCII": (
        "ws://例え。テスト",
        (False, "xn--r8jz45g.xn--zckzah", 80, "/", None, None, None),
    ),
    "path and query not ASCII": (
        "ws://h/é/日?ö=😀",
        (False, "h", 80, "/%C3%A9/%E6%97%A5", "%C3%B6=%F0%9F%98%80", None, None),
    ),
    "escapes are kept": ("ws://h/%2f%C3%a9?%20", (False, "h", 80, "/%2f%C3%a9", "%20", None, None)),
    "stray % in the path": (
        "ws://h/100%?%g0%2",
        (False, "h", 80, "/100%25", "%25g0%252", None, None),
    ),
    "not printable but no control": (
        "ws://%c2%a0:%20@h/\xa0\u2028\ue000",
        (False, "h", 80, "/%C2%A0%E2%80%A8%EE%80%80", None, "\xa0", " "),
    ),
    "characters that URLs lack": (
        'ws://h/<"^`{|}\\[>?[]\\',
        (False, "h", 80, "/%3C%22%5E%60%7B%7C%7D%5C%5B%3E", "%5B%5D%5C", None, None),
    ),
}


@each_row("text, expected", VALID.values(), ids=VALID)
def test_parts_of_a_url(text, expected):
    uri = parse_uri(text)
    assert tuple(uri) == (*expected, None)
    assert "".join(map(str, (uri.host, uri.path, uri.query))).isascii()


UNIX = {  # text -> secure, path, query, unix_path
    "one slash": ("ws+unix:/run/a.sock:/chat?x=1", (False, "/chat", "x=1", "/run/a.sock")),
    "three slashes": ("ws+unix:///run/a.sock:/chat", (False, "/chat", None, "/run/a.sock")),
    "TLS": ("WSS+UNIX:/a.sock:/", (True, "/", None, "/a.sock")),
    "four slashes": ("ws+unix:////a.sock:/b", (False, "/b", None, "//a.sock")),
    "no resource": ("ws+unix:/a.sock", (False, "/", None, "/a.sock")),
    "empty resource": ("ws+unix:/a.sock:", (False, "/", None, "/a.sock")),
    "query only": ("ws+unix:/a.sock?x", (False, "/", "x", "/a.sock")),
    "relative": ("ws+unix:a.sock:/b", (False, "/b", None, "a.sock")),
    "escapes": ("ws+unix:/a%3a%3f%20%25.sock:/%20", (False, "/%20", None, "/a:? %.sock")),
    "not ASCII": ("ws+unix:/é@.sock:/é", (False, "/%C3%A9", None, "/é@.sock")),
}


@each_row("text, expected", UNIX.values(), ids=UNIX)
def test_url_of_a_unix_socket(text, expected):
    uri = parse_uri(text)
    secure, path, query, unix_path = expected
    port = 443 if secure else 80
    assert uri == URI(secure, "localhost", port, path, query, None, None, unix_path)
    assert uri.authority == "localhost"
    assert uri.origin == ("wss+unix" if secure else "ws+unix", unix_path, port)
    assert parse_uri(str(uri._replace(query=None))) == uri._replace(query=None)


INVALID = {  # text -> a word of the problem
    "empty": ("", "start with ws://"),
    "no scheme": ("example.com/feed", "start with ws://"),
    "host and port only": ("localhost:8000", "start with ws://"),
    "another scheme": ("http://h/", "wss://; write ws://"),
    "similar scheme": ("wsss://h/", "start with ws://"),
    "no slashes": ("ws:h/", "start with ws://"),
    "one slash": ("ws:/h/", "start with ws://"),
    "network-path": ("//h/", "start with ws://"),
    "space in front": (" ws://h/", "U+0020 at offset 0"),
    "space in the path": ("ws://h/a b", "U+0020 at offset 8"),
    "space in the host": ("ws://a b/", "U+0020"),
    "line feed at the end": ("ws://h/\n", "U+000A"),
    "CR LF in the path": ("ws://h/\r\nX: 1", "U+000D"),
    "CR LF in the host": ("ws://h\r\nX: 1", "U+000D"),
    "CR LF in the query": ("ws://h/?\r\nX: 1", "U+000D"),
    "CR LF in the userinfo": ("ws://a:\r\n@h", "U+000D"),
    "NUL": ("ws://h/\0", "U+0000"),
    "tab": ("ws://h/\t", "U+0009"),
    "DEL": ("ws://h/\x7f", "U+007F"),
    "C1 control": ("ws://h/\x85", "U+0085"),
    "last C1 control": ("ws://h/é\x9f", "U+009F at offset 8"),
    "lone surrogate": ("ws://h/\udcff", "U+DCFF"),
    "first surrogate": ("ws://h/😀\ud800", "U+D800 at offset 8"),
    "last surrogate": ("ws://h/\ue000\udfff", "U+DFFF at offset 8"),
    "fragment": ("ws://h/#f", "fragment"),
    "empty fragment": ("ws://h/#", "fragment"),
    "fragment behind the host": ("ws://h#f", "fragment"),
    "no host": ("ws://", "no host"),
    "no host but a path": ("ws:///feed", "no host"),
    "no host but a port": ("ws://:80/", "no host"),
    "no host but a user": ("ws://a@/", "no host"),
    "port 0": ("ws://h:0/", "port"),
    "port 000000": ("ws://h:000000/", "port"),
    "port too high": ("ws://h:65536/", "port"),
    "port of many digits": ("ws://h:" + "9" * 10000, "port"),
    "port with a sign": ("ws://h:+80/", "port"),
    "negative port": ("ws://h:-1/", "port"),
    "port that isn't a number": ("ws://h:http/", "port"),
    "port with an underscore": ("ws://h:8_0/", "port"),
    "port in Arabic digits": ("ws://h:٨٠/", "port"),
    "superscript port": ("ws://h:8²/", "port"),
    "percent in the host": ("ws://ex%61mple.com/", "isn't a name"),
    "comma in the host": ("ws://a,b/", "isn't a name"),
    "dot in front": ("ws://.a/", "isn't a name"),
    "two dots": ("ws://a..b/", "isn't a name"),
    "two dots at the end": ("ws://a../", "isn't a name"),
    "dots only": ("ws://./", "isn't a name"),
    "long label": (f"ws://{'a' * 64}/", "isn't a name"),
    "long name": (f"ws://{'a.' * 126}ab/", "isn't a name"),
    "longer name": (f"ws://{'a.' * 128}/", "253 characters"),
    "backslash for a slash": ("ws://good.example\\@evil.example/", "backslash"),
    "host becomes ambiguous": ("ws://evil.example／.good.example/", "isn't a name"),
    "host becomes a userinfo": ("ws://a＠b/", "isn't a name"),
    "label that isn't international": ("ws://xn--é/", "international"),
    "label that vanishes": ("ws://a.\u00ad.b/", "international"),
    "bare IPv6": ("ws://::1/", "needs brackets"),
    "bare IPv6 and port": ("ws://2001:db8::1:80/", "needs brackets"),
    "bracket not closed": ("ws://[::1/", "brackets"),
    "bracket not opened": ("ws://::1]/", "brackets"),
    "bracket inside": ("ws://a[::1]/", "misplaced brackets"),
    "closing bracket in a name": ("ws://a]:80/", "misplaced brackets"),
    "opening bracket in a name": ("ws://a[:80/", "misplaced brackets"),
    "two opening brackets": ("ws://[[::1]/", "something else than an IPv6 address"),
    "two closing brackets": ("ws://[::1]]/", "misplaced brackets"),
    "text behind the bracket": ("ws://[::1]a/", "brackets"),
    "empty brackets": ("ws://[]/", "IPv6"),
    "name in brackets": ("ws://[localhost]/", "IPv6"),
    "IPv4 in brackets": ("ws://[127.0.0.1]/", "IPv6"),
    "IPvFuture": ("ws://[v1.a]/", "IPv6"),
    "empty zone": ("ws://[fe80::1%]/", "zone"),
    "bad zone": ("ws://[fe80::1%25a%20b]/", "zone"),
    "userinfo that isn't UTF-8": ("ws://a%ff@h/", "the user isn't"),
    "password that isn't UTF-8": ("ws://a:%ff@h/", "the password isn't"),
    "CR LF in the user": ("ws://a%0d%0ab:@h/", "the user has control"),
    "NUL in the password": ("ws://a:%00@h/", "the password has control"),
    "last C0 control in the user": ("ws://%1f@h/", "the user has control"),
    "DEL in the user": ("ws://%7f@h/", "the user has control"),
    "last C1 control in the user": ("ws://%c2%9f@h/", "the user has control"),
    "Unix socket of a host": ("ws+unix://h/a.sock:/", "host"),
    "no path of a Unix socket": ("ws+unix:", "no path"),
    "no path of a Unix socket but a resource": ("ws+unix::/a", "no path"),
    "NUL in the path of a Unix socket": ("ws+unix:/a%00b", "control"),
    "path of a Unix socket isn't UTF-8": ("ws+unix:/a%ff", "UTF-8"),
    "colon in the path of a Unix socket": ("ws+unix:/a:b:/c", "start with '/'"),
}


@each_row("text, problem", INVALID.values(), ids=INVALID)
def test_what_is_no_websocket_url(text, problem):
    with pytest.raises(InvalidURI) as caught:
        parse_uri(text)
    assert problem in caught.value.problem
    assert caught.value.uri == redacted_uri(text)


@pytest.mark.parametrize("value", [None, b"ws://h/", 1])
def test_a_url_is_a_str(value):
    with pytest.raises(TypeError, match="must be a str"):
        parse_uri(value)


DEVIATIONS = {  # where IDNA 2003 has another name
    "straße.example": "xn--strae-oqa.example",
    "STRAẞE.example": "xn--strae-oqa.example",
    "βόλος.example": "xn--nxasmm1c.example",
    "ΒΌΛΟσ.example": "xn--nxasmq6b.example",
    "bücher。straße.": "xn--bcher-kva.xn--strae-oqa.",
    "a.ß": "a.xn--zca",
}


@pytest.mark.parametrize("host", DEVIATIONS)
def test_names_that_idna_2003_gives_to_others(host):
    assert parse_uri(f"ws://{host}/").host == DEVIATIONS[host]


@pytest.mark.parametrize("host", ["a\u200cb", "a\u200db.example", "ßא.example", "xn--ß", "ß" * 64])
def test_names_that_are_not_encoded(host):
    with pytest.raises(InvalidURI):
        parse_uri(f"ws://{host}/")


def test_without_the_idna_codec_only_hosts_in_ascii_work(monkeypatch):
    monkeypatch.setattr(uri_module, "_CODEC", "no-such-codec")
    assert parse_uri("ws://xn--bcher-kva.example/é").host == "xn--bcher-kva.example"
    with pytest.raises(InvalidURI, match="idna codec; write it as xn--"):
        parse_uri("ws://bücher.example/")


SHOWN = {  # text -> authority, resource name, origin, str
    "default port": ("ws://h:80", "h", "/", ("ws", "h", 80), "ws://h/"),
    "default port for TLS": ("wss://h:443", "h", "/", ("wss", "h", 443), "wss://h/"),
    "port of the other scheme": ("ws://h:443", "h:443", "/", ("ws", "h", 443), "ws://h:443/"),
    "IPv6": ("ws://[::1]:8000", "[::1]:8000", "/", ("ws", "::1", 8000), "ws://[::1]:8000/"),
    "zone": (
        "ws://[fe80::1%eth0]",
        "[fe80::1]",
        "/",
        ("ws", "fe80::1%eth0", 80),
        "ws://[fe80::1%25eth0]/",
    ),
    "query": ("ws://h/p?q=1", "h", "/p?q=1", ("ws", "h", 80), f"ws://h/p?q={tag('1')}"),
    "empty query": ("ws://h/p?", "h", "/p", ("ws", "h", 80), "ws://h/p?"),
    "user": ("ws://ann@h/", "h", "/", ("ws", "h", 80), "ws://***@h/"),
    "password": ("ws://ann:pw@h:81/", "h:81", "/", ("ws", "h", 81), "ws://***@h:81/"),
}


@pytest.mark.parametrize("text, authority, resource, origin, string", SHOWN.values(), ids=SHOWN)
def test_what_is_sent_and_shown(text, authority, resource, origin, string):
    uri = parse_uri(text)
    assert uri.scheme == text.partition(":")[0]
    assert uri.authority == authority
    assert uri.resource_name == resource
    assert uri.origin == origin
    assert str(uri) == string
    assert repr(uri) == f"<URI {string}>"


@each_row("text", [text for text, _ in VALID.values()], ids=VALID)
def test_what_is_shown_means_the_same(text):
    uri = parse_uri(text)._replace(username=None, password=None, query=None)
    assert parse_uri(str(uri)) == uri


SECRETS = {
    "password": "ws://ann:hunter2@h/",
    "user": "ws://hunter2@h/",
    "slash": "ws://ann:hunter2/hunter2@h/",
    "question mark": "ws://ann:hunter2?hunter2@h/",
    "fragment": "ws://ann:hunter2#hunter2@h/",
    "query": "ws://h/?a=hunter2",
    "space": "ws://ann:hunter2 hunter2@h/",
    "bad port": "ws://ann:hunter2@h:bad/",
    "bad port behind a slash": "ws://h:hunter2/x@h:1/",
    "no scheme": "ann:hunter2@h",
    "another scheme": "ftp://ann:hunter2@h",
    "not UTF-8": "ws://ann:hunter2%ff@h",
    "several @": "ws://ann:hunter2@hunter2@h/",
}


@each_row("text", SECRETS.values(), ids=SECRETS)
def test_userinfo_is_never_shown(text):
    try:
        uri = parse_uri(text)
    except InvalidURI as exc:
        assert "***" in str(exc)
        assert "hunter2" not in str(exc) + repr(exc)
    else:
        assert "hunter2" not in f"{uri}{uri!r}{uri!s}"


def test_authority_without_a_scheme():
    assert parse_authority("u:p@[::1]:1080") == ("u", "p", "::1", 1080)
    assert parse_authority("proxy") == (None, None, "proxy", None)
    with pytest.raises(ValueError, match="port"):
        parse_authority("proxy:x")


def is_ipv6(text):
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def test_ipv6_addresses_as_the_standard_library_reads_them():
    rng = random.Random(SEED)
    pieces = [":", ":", ":", "::", "1", "0", "ffff", "abc", "12345", "g", "1.2.3.4", "1.2.3", "256"]
    good = 0
    for _ in range(2000):
        if rng.random() < 0.5:  # nearly right
            text = ":".join(rng.choice(["0", "1", "ff", "abcd"]) for _ in range(rng.randint(5, 9)))
            text = text.replace(":0:", "::", rng.randint(0, 2))
            text += rng.choice(
                ["", "", ":1.2.3.4", ":255.255.255.255", ":1.2.3.256", "::", ":01.2.3.4"]
            )
        else:
            text = "".join(rng.choice(pieces) for _ in range(rng.randint(0, 9)))
        good += is_ipv6(text)
        try:
            host = parse_uri(f"ws://[{text}]/").host
        except InvalidURI:
            host = None
        # Before 3.9.5, ipaddress took leading zeros in IPv4 addresses.
        if ":01." not in text:
            assert (host == text) == is_ipv6(text), text
        else:
            assert host is None
    assert good > 200


QUOTED = {  # text, safe -> result
    "unreserved": ("aZ09-._~", "", "aZ09-._~"),
    "others": ("a b/%é", "", "a%20b%2F%25%C3%A9"),
    "safe": ("a/b?c^-]", "/^]-", "a/b%3Fc^-]"),
    "escapes": ("%20%2g%", "%", "%20%252g%25"),
    "empty": ("", "", ""),
}


@pytest.mark.parametrize("text, safe, expected", QUOTED.values(), ids=QUOTED)
def test_quote(text, safe, expected):
    assert quote(text, safe) == expected
    assert quote(expected, safe + "%") == expected
    if "%" not in safe:
        assert unquote(expected, "it") == text


@pytest.mark.parametrize(
    "text, expected", [("", ""), ("a", "a"), ("%41%c3%A9é", "Aéé"), ("%%41%4", "%A%4")]
)
def test_unquote(text, expected):
    assert unquote(text, "it") == expected


@pytest.mark.parametrize("text", ["%ff", "a\ud800", "%ed%a0%80"])
def test_unquote_needs_utf_8(text):
    with pytest.raises(ValueError, match="it isn't percent-encoded UTF-8"):
        unquote(text, "it")


# RFC 3986, 5.4, for a base of wss://a/b/c/d;p?q.
RFC_3986 = {
    "g": "wss://a/b/c/g",
    "./g": "wss://a/b/c/g",
    "g/": "wss://a/b/c/g/",
    "/g": "wss://a/g",
    "//g": "wss://g/",
    "?y": "wss://a/b/c/d;p?y",
    "g h?i j": "wss://a/b/c/g%20h?i%20j",
    "g?y": "wss://a/b/c/g?y",
    "#s": "wss://a/b/c/d;p?q",
    "g#s": "wss://a/b/c/g",
    "g?y#s": "wss://a/b/c/g?y",
    ";x": "wss://a/b/c/;x",
    "g;x": "wss://a/b/c/g;x",
    "g;x?y#s": "wss://a/b/c/g;x?y",
    "": "wss://a/b/c/d;p?q",
    ".": "wss://a/b/c/",
    "./": "wss://a/b/c/",
    "..": "wss://a/b/",
    "../": "wss://a/b/",
    "../g": "wss://a/b/g",
    "../..": "wss://a/",
    "../../": "wss://a/",
    "../../g": "wss://a/g",
    "../../../g": "wss://a/g",
    "../../../../g": "wss://a/g",
    "/./g": "wss://a/g",
    "/../g": "wss://a/g",
    "g.": "wss://a/b/c/g.",
    ".g": "wss://a/b/c/.g",
    "g..": "wss://a/b/c/g..",
    "..g": "wss://a/b/c/..g",
    "./../g": "wss://a/b/g",
    "./g/.": "wss://a/b/c/g/",
    "g/./h": "wss://a/b/c/g/h",
    "g/../h": "wss://a/b/c/h",
    "g;x=1/./y": "wss://a/b/c/g;x=1/y",
    "g;x=1/../y": "wss://a/b/c/y",
    "g?y/./x": "wss://a/b/c/g?y/./x",
    "g?y/../x": "wss://a/b/c/g?y/../x",
}
REDIRECTS = {
    **RFC_3986,
    "https://h": "wss://h/",
    "HTTP://H:81/a/../b?c#d": "ws://h:81/b?c",
    "ws://h/": "ws://h/",
    "wss://h/": "wss://h/",
    "//h:81/": "wss://h:81/",
    "?": "wss://a/b/c/d;p?",
    "/é?ö": "wss://a/%C3%A9?%C3%B6",
    "1:2": "wss://a/b/c/1:2",
    "ws_:2": "wss://a/b/c/ws_:2",
    "é:2": "wss://a/b/c/%C3%A9:2",
    "//bücher.example/%2e": "wss://xn--bcher-kva.example/%2e",
}


@each_row("reference, expected", REDIRECTS.items(), ids=[*REDIRECTS])
def test_where_a_redirect_leads(reference, expected):
    assert join(parse_uri("wss://a/b/c/d;p?q"), reference) == parse_uri(expected)


INVALID_REFERENCES = {
    "another scheme": "ftp://h/",
    "no host": "http:///x",
    "no slashes": "https:x",
    "script": "javascript:alert(1)",
    "Unix socket": "ws+unix:/run/docker.sock:/",
    "CR LF": "/a\r\nX: 1",
    "bad port": "//h:0/",
    "bad host": "http://a..b/",
}


@pytest.mark.parametrize("reference", INVALID_REFERENCES.values(), ids=INVALID_REFERENCES)
def test_where_no_redirect_leads(reference):
    with pytest.raises(InvalidURI) as caught:
        join(parse_uri("ws://a/"), reference)
    assert caught.value.uri == reference


def test_an_invalid_redirect_is_shown_without_its_userinfo():
    with pytest.raises(InvalidURI) as caught:
        join(parse_uri("ws://a/"), "ftp://u:hunter2@h/")
    assert caught.value.uri == "ftp://***@h/"


USERINFO = {  # reference -> the userinfo after a redirect from ws://u:p@a:81/
    "/b": ("u", "p"),
    "?b": ("u", "p"),
    "//a:81/b": ("u", "p"),
    "http://A:81/b": ("u", "p"),
    "http://v@a:81/b": ("v", None),
    "http://v:w@c/": ("v", "w"),
    "http://a/b": (None, None),
    "https://a:81/b": (None, None),
    "http://b:81/": (None, None),
    "//a.:81/": (None, None),
}


@each_row("reference, expected", USERINFO.items(), ids=[*USERINFO])
def test_userinfo_stays_with_its_origin(reference, expected):
    uri = join(parse_uri("ws://u:p@a:81/"), reference)
    assert (uri.username, uri.password) == expected


def test_redirects_from_a_unix_socket():
    base = parse_uri("ws+unix:/a.sock:/b/c")
    assert join(base, "d?e") == parse_uri("ws+unix:/a.sock:/b/d?e")
    assert join(base, "//localhost/d") == parse_uri("ws://localhost/d")
    assert join(base, "//localhost/d").origin != base.origin


HUGE = {  # each would run into the time limit if reading it were quadratic
    "at": "ws://" + "@" * 200_000,
    "colons": "ws://" + ":" * 200_000,
    "brackets": "ws://" + "[" * 200_000,
    "groups": "ws://[" + ":0" * 200_000 + "]",
    "dots": "ws://" + "." * 200_000,
    "labels": "ws://" + "a." * 200_000,
    "international": "ws://" + "é" * 200_000,
    "port": "ws://h:" + "1" * 200_000,
    "escapes": "ws://h/" + "%zz" * 50_000,
    "userinfo": "ws://" + "%" * 200_000 + "@h/",
    "segments": "ws://h/" + "../a/" * 200_000,
    "scheme": "a" * 200_000,
}


@each_row("text", HUGE.values(), ids=HUGE)
def test_a_huge_url_is_read_in_linear_time(text):
    base = parse_uri("ws://h/")
    for read in (parse_uri, redacted_uri, lambda reference: join(base, reference)):
        try:
            read(text)
        except InvalidURI as exc:
            assert len(str(exc)) < 500


def test_dot_segments_are_removed_in_one_pass():
    path = "/a" * 100_000 + "/.." * 100_000 + "/b"
    assert join(parse_uri("ws://h/"), path).path == "/b"


SHOWN_ADDRESSES = {  # address -> text
    "IPv4": (("127.0.0.1", 80), "127.0.0.1:80"),
    "IPv6": (("::1", 443, 0, 0), "[::1]:443"),
    "zone": (("fe80::1%eth0", 1, 0, 2), "[fe80::1%eth0]:1"),
    "name": (("example.com", 8080), "example.com:8080"),
    "path": ("/run/x.sock", "/run/x.sock"),
    "bytes": (b"/run/x.sock", "/run/x.sock"),
    "number": (5, "5"),
    "short": (("x",), "('x',)"),
}


@pytest.mark.parametrize("address, text", SHOWN_ADDRESSES.values(), ids=SHOWN_ADDRESSES)
def test_addresses_for_people(address, text):
    assert shown_address(address) == text


# -- of proxies --

PASSWORD = "pa55-phrase"

PROXIES = {
    "http://h:3128": ("http", "h", 3128, None, None),
    "http://h": ("http", "h", 80, None, None),
    "https://h": ("https", "h", 443, None, None),
    "socks4://h": ("socks4", "h", 1080, None, None),
    "socks4a://h": ("socks4a", "h", 1080, None, None),
    "socks5://h": ("socks5", "h", 1080, None, None),
    "socks5h://h:9": ("socks5h", "h", 9, None, None),
    "socks://h": ("socks5h", "h", 1080, None, None),
    "HTTP://H.Example/": ("http", "h.example", 80, None, None),
    " http://h \n": ("http", "h", 80, None, None),
    "h:3128": ("http", "h", 3128, None, None),
    "h": ("http", "h", 80, None, None),
    "u:p@h:1": ("http", "h", 1, "u", "p"),
    "http://u@h": ("http", "h", 80, "u", None),
    "http://u%40x:p%3A%2F@h": ("http", "h", 80, "u@x", "p:/"),
    "http://u:p@ss@h": ("http", "h", 80, "u", "p@ss"),
    "http://[::1]:3128": ("http", "::1", 3128, None, None),
    "[::1]": ("http", "::1", 80, None, None),
    "socks5://a%3Ab:c@h": ("socks5", "h", 1080, "a:b", "c"),
    f"socks5://{'u' * 255}:{'p' * 255}@h": ("socks5", "h", 1080, "u" * 255, "p" * 255),
}


@each_row("text", PROXIES)
def test_parse_proxy(text):
    assert parse_proxy(text) == PROXIES[text]


BAD_PROXIES = {
    "": "no host",
    "http://": "no host",
    "ftp://h": "scheme",
    "://h": "scheme",
    "http://h/path": "path",
    "http://h:0": "port",
    "http://h:99999": "port",
    "http://a b": "host",
    "http://::1": "brackets",
    f"http://a%3Ab:{PASSWORD}@h": "colon",
    f"https://a%3Ab:{PASSWORD}@h": "colon",
    f"ftp://u:{PASSWORD}@h": "scheme",
    f"http://u:{PASSWORD}%00@h": "control",
    f"http://u:{PASSWORD}@h:x": "port",
    f"socks5://u:{PASSWORD}{'p' * 255}@h": "255",
    f"socks5://{'u' * 256}:z{PASSWORD}@h": "255",
    f"socks5://{'ü' * 128}:{PASSWORD}@h": "255",
}


@each_row("text", BAD_PROXIES)
def test_bad_proxies(text):
    with pytest.raises(InvalidProxy) as info:
        parse_proxy(text)
    assert BAD_PROXIES[text] in str(info.value)
    assert PASSWORD not in str(info.value) + repr(info.value)
    assert info.value.__cause__ is None


@pytest.mark.parametrize("value", [False, 0, b"http://h", 3128, None])
def test_what_is_no_text(value):
    with pytest.raises(TypeError, match="proxy is a URL"):
        parse_proxy(value)


def test_a_proxy_is_shown_without_secrets():
    proxy = parse_proxy(f"socks5://user:{PASSWORD}@[::1]")
    assert str(proxy) == "socks5://***@[::1]:1080"
    assert repr(proxy) == "<Proxy socks5://***@[::1]:1080>"
    assert str(parse_proxy("h")) == "http://h:80"


def test_who_looks_names_up():
    schemes = ["http", "https", "socks4", "socks4a", "socks5", "socks5h"]
    remote = [s for s in schemes if Proxy(s, "h", 1, None, None).resolves_names]
    assert remote == ["http", "https", "socks4a", "socks5h"]
