"""HTTP authentication: challenges however they are written, and what answers them when."""

from __future__ import annotations

import binascii
import copy
import hashlib
import os
import random
import re
import sys
import traceback

import pytest
from helpers import SEED
from tables import each_row

from wsmini.sansio import auth
from wsmini.sansio.auth import Authenticator, Challenge, basic, digest, parse_challenges, strength

USER, PASSWORD = "Mufasa", "Circle of Life"
PAIR = (USER, PASSWORD)
BASIC = 'Basic realm="r"'


def challenge(text):
    (found,) = parse_challenges([text])
    return found


def fields(value):
    """The parameters of what an ``Authorization`` header says."""
    return challenge(value).params


# -- challenges --

CHALLENGES = {  # header values -> challenges
    "none": ([], []),
    "empty": (["", " ", ",, ,"], []),
    "scheme alone": (["Negotiate"], [("negotiate", {}, None)]),
    "scheme and space": (["Negotiate \t"], [("negotiate", {}, None)]),
    "schemes": (
        ["Negotiate,NTLM ,  Basic"],
        [(n, {}, None) for n in ("negotiate", "ntlm", "basic")],
    ),
    "token68": (["Negotiate a-._~+/9=="], [("negotiate", {}, "a-._~+/9==")]),
    "token68 without padding": (["X abc , Y"], [("x", {}, "abc"), ("y", {}, None)]),
    "quoted": (['Basic realm="a b"'], [("basic", {"realm": "a b"}, None)]),
    "token": (["Basic realm=a"], [("basic", {"realm": "a"}, None)]),
    "empty quoted": (['Basic realm=""'], [("basic", {"realm": ""}, None)]),
    "any case": (['BASIC Realm="A"'], [("basic", {"realm": "A"}, None)]),
    "spaces": (
        ['  Digest \t realm = "a" ,\tnonce\t=\tb ,'],
        [("digest", {"realm": "a", "nonce": "b"}, None)],
    ),
    "no spaces": (['X a="1",b="2",c=3'], [("x", {"a": "1", "b": "2", "c": "3"}, None)]),
    "empty elements": (["X ,,a=1,, b=2,"], [("x", {"a": "1", "b": "2"}, None)]),
    "escapes": ([r'X a="\"b\\\c, d=\""'], [("x", {"a": r'"b\c, d="'}, None)]),
    "comma and scheme in quotes": (
        ['X a="1, Basic realm=", Y b="2"'],
        [("x", {"a": "1, Basic realm="}, None), ("y", {"b": "2"}, None)],
    ),
    "several in one header": (
        # RFC 9110, 11.6.1
        ['Basic realm="simple", Newauth realm="apps", type=1, title="Login to \\"apps\\""'],
        [
            ("basic", {"realm": "simple"}, None),
            ("newauth", {"realm": "apps", "type": "1", "title": 'Login to "apps"'}, None),
        ],
    ),
    "several headers": (
        ["Negotiate abc=", 'Basic realm="a", NTLM', "X"],
        [
            ("negotiate", {}, "abc="),
            ("basic", {"realm": "a"}, None),
            ("ntlm", {}, None),
            ("x", {}, None),
        ],
    ),
    "not ASCII": (['Basic realm="Zürich €"'], [("basic", {"realm": "Zürich €"}, None)]),
    "realm without quotes": (
        ["Basic realm=My Router (admin) , X"],
        [("basic", {"realm": "My Router (admin)"}, None), ("x", {}, None)],
    ),
    "base64 without quotes": (
        ["Digest realm=r, nonce=ab+/==, opaque="],
        [("digest", {"realm": "r", "nonce": "ab+/==", "opaque": ""}, None)],
    ),
    "equals sign only": (["X a="], [("x", {}, "a=")]),
}


@each_row("values, expected", CHALLENGES.values(), ids=CHALLENGES)
def test_challenges(values, expected):
    assert parse_challenges(values) == expected


MALFORMED = {  # what comes behind a good challenge, and is left out
    "no scheme": '="x"',
    "junk": "@",
    "scheme and junk": "X @",
    "two tokens": "X a b",
    "two tokens and a parameter": "X a b=1",
    "token68 and a parameter": 'X a== b="1"',
    "unterminated": 'Digest nonce="a',
    "escaped end": 'Digest nonce="a\\"',
    "ends in a backslash": 'Digest nonce="a\\',
    "unterminated second": 'Digest nonce="a", algorithm="SHA-256',
    "no comma": 'Digest realm="a" nonce="b"',
    "quote in a token": 'Digest realm=a"b"',
    "behind a quote": 'Digest realm="a"b',
    "not ASCII": "Bäsic x=1",
    "repeated": "Digest nonce=a, NONCE=b",
    "too many parameters": "X " + ",".join(f"a{i}=1" for i in range(auth.MAX_PARAMS + 1)),
}


@each_row("text", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_challenge_and_what_follows_are_left_out(text):
    values = [f"Good abc=, {text}, Behind", "Other"]
    assert [found.scheme for found in parse_challenges(values)] == ["good", "other"]


def test_as_many_parameters_as_there_may_be():
    text = ",".join(f"a{i}={i}" for i in range(auth.MAX_PARAMS))
    assert len(challenge("X " + text).params) == auth.MAX_PARAMS


def test_challenges_are_bounded():
    assert len(parse_challenges(["X," * 100, "Y"] * 100)) == auth.MAX_CHALLENGES


HOSTILE = {  # repeated many times: quadratic time would take minutes
    "commas": ",",
    "spaces": " ",
    "spaces and junk": (" ", "@"),
    "token": "a",
    "padding": ("X a", "=", "@"),
    "token68": ("X ", "a", " @"),
    "spaces behind token68": ("X a", " ", "@"),
    "open quote": ('X a="', "b"),
    "escapes": ('X a="', "\\b"),
    "backslashes": ('X a="', "\\"),
    "open quotes": ('X a="', '\\"'),
    "values": ("X a=", "b ", '"'),
    "schemes": "X ,",
    "parameters": ("X ", 'a="b",'),
}


@each_row("parts", HOSTILE.values(), ids=HOSTILE)
def test_time_is_linear(parts):
    before, repeated, behind = ("", parts, "") if isinstance(parts, str) else (*parts, "")[:3]
    parse_challenges([before + repeated * 100_000 + behind])


def test_any_text_is_challenges_or_nothing():
    rng = random.Random(SEED)
    for _ in range(3000):
        text = "".join(rng.choice('aB =",\\\t;@é') for _ in range(rng.randrange(30)))
        for found in parse_challenges([text, 'Basic realm="x"']):
            assert found.scheme
            assert not found.params or found.token68 is None


def test_challenges_survive_writing_and_reading():
    rng = random.Random(SEED)
    for _ in range(300):
        written = []
        for _ in range(rng.randrange(1, 5)):
            params = {
                f"p{i}": "".join(rng.choice('ab \\",=é') for _ in range(rng.randrange(8)))
                for i in range(rng.randrange(4))
            }
            written.append(Challenge(rng.choice(["basic", "digest", "x"]), params, None))
        text = ", ".join(
            f"{c.scheme} " + ", ".join(f"{k}={auth._quoted(v)}" for k, v in c.params.items())
            for c in written
        )
        assert parse_challenges([text]) == written


# -- Basic --

BASIC_VECTORS = {  # user, password -> value
    "RFC 7617, 2": (("Aladdin", "open sesame"), "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="),
    "RFC 7617, 2.1": (("test", "123£"), "Basic dGVzdDoxMjPCow=="),
    "empty": (("", ""), "Basic Og=="),
    "colon in the password": (("a", "b:c"), "Basic YTpiOmM="),
}


@pytest.mark.parametrize("pair, expected", BASIC_VECTORS.values(), ids=BASIC_VECTORS)
def test_basic(pair, expected):
    assert basic(*pair) == expected


BAD_TEXTS = {  # in a user name or a password
    "CR": "secret\r",
    "LF": "sec\nret",
    "tab": "secret\t",
    "NUL": "\0secret",
    "DEL": "secret\x7f",
    "ESC": "secret\x1b[",
    "surrogate": "secret\udcff",
}


@each_row("text", BAD_TEXTS.values(), ids=BAD_TEXTS)
@each_row("place", [0, 1], ids=["user", "password"])
def test_characters_that_credentials_cannot_have(text, place):
    pair = ("secret", text) if place else (text, "secret")
    with pytest.raises(ValueError, match="control characters") as caught:
        Authenticator(pair)
    assert "secret" not in said(caught.value)


def said(exc):
    """All that is shown of an exception, and what it carries."""
    return "".join(traceback.format_exception_only(type(exc), exc)) + repr((exc, vars(exc)))


@pytest.mark.parametrize(
    "make", [lambda pair: basic(*pair), lambda pair: Authenticator(pair, preemptive=True)]
)
def test_a_user_of_basic_has_no_colon(make):
    with pytest.raises(ValueError, match="no colon") as caught:
        make(("a:b", "secret"))
    assert "secret" not in said(caught.value)


# -- Digest --

RFC_7616_1 = (
    'Digest realm="http-auth@example.org", qop="auth, auth-int", algorithm={}, '
    'nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", '
    'opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"'
)
RFC_7616_1_CNONCE = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ"
RFC_7616_2 = (
    'Digest realm="api@example.org", qop="auth", algorithm=SHA-512-256, '
    'nonce="5TsQWLVdgBdmrQ0XsxbDODV+57QdFR34I9HAbC/RVvkK", '
    'opaque="HRPCssKJSGjCrkzDg8OhwpzCiGPChXYjwrI2QmXDnsOS", charset=UTF-8, userhash={}'
)
RFC_7616_2_CNONCE = "NTg6RKcb9boFIAS3KrFK9BGeh+iDa/sm6jUMp2wds69v"
RFC_2617 = (
    'Digest realm="testrealm@host.com", qop="auth,auth-int", '
    'nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093", opaque="5ccc069c403ebaf9f0171e9517f40e41"'
)
# RFC 7616, 3.9.2 as corrected by erratum 4897.
DOE = "J\u00e4s\u00f8n Doe"
DOE_HASH = "793263caabb707a56211940d90411ea4a575adeccb7e360aeb624ed06ece9b0b"
DOE_RESPONSE = "3798d4131c277846293534c3edc11bd8a5e4cdcbff78b05db9d95eeb1cec68a5"

DIGEST_VECTORS = {  # challenge, credentials, target, cnonce -> parameters
    "RFC 7616, 3.9.1, SHA-256": (
        (RFC_7616_1.format("SHA-256"), PAIR, "/dir/index.html", RFC_7616_1_CNONCE),
        {
            "username": "Mufasa",
            "realm": "http-auth@example.org",
            "uri": "/dir/index.html",
            "algorithm": "SHA-256",
            "nonce": "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v",
            "nc": "00000001",
            "cnonce": RFC_7616_1_CNONCE,
            "qop": "auth",
            "response": "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1",
            "opaque": "FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS",
        },
    ),
    "RFC 7616, 3.9.1, MD5": (
        (RFC_7616_1.format("MD5"), PAIR, "/dir/index.html", RFC_7616_1_CNONCE),
        {"algorithm": "MD5", "response": "8ca523f5e9506fed4657c9700eebdbec"},
    ),
    "RFC 7616, 3.9.2": (
        (
            RFC_7616_2.format("true"),
            (DOE, "Secret, or not?"),
            "/doe.json",
            RFC_7616_2_CNONCE,
        ),
        {
            "username": DOE_HASH,
            "userhash": "true",
            "algorithm": "SHA-512-256",
            "response": DOE_RESPONSE,
        },
    ),
    "RFC 7616, 3.9.2 without userhash": (
        (
            RFC_7616_2.format("false"),
            (DOE, "Secret, or not?"),
            "/doe.json",
            RFC_7616_2_CNONCE,
        ),
        {"username*": "UTF-8''J%C3%A4s%C3%B8n%20Doe", "response": DOE_RESPONSE},
    ),
    "RFC 2617, 3.5": (
        (RFC_2617, ("Mufasa", "Circle Of Life"), "/dir/index.html", "0a4f113b"),
        {"response": "6629fae49393a05397450978507c4ef1", "qop": "auth"},
    ),
    "RFC 2069, 2.4, as corrected": (
        (
            'Digest realm="testrealm@host.com", nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093", '
            'opaque="5ccc069c403ebaf9f0171e9517f40e41"',
            ("Mufasa", "CircleOfLife"),
            "/dir/index.html",
            "unused",
        ),
        {
            "username": "Mufasa",
            "realm": "testrealm@host.com",
            "nonce": "dcd98b7102dd2f0e8b11d0f600bfb0c093",
            "uri": "/dir/index.html",
            "response": "1949323746fe6a43ef61f9606e7febea",
            "opaque": "5ccc069c403ebaf9f0171e9517f40e41",
        },
    ),
}


@pytest.mark.parametrize("given, expected", DIGEST_VECTORS.values(), ids=DIGEST_VECTORS)
def test_digest(given, expected):
    text, pair, target, cnonce = given
    if strength(challenge(text)) == 0:
        pytest.skip("this Python's OpenSSL lacks the algorithm")
    found = fields(digest(challenge(text), pair, "GET", target, cnonce, 1))
    assert {name: found.get(name) for name in expected} == expected
    assert "charset" not in found


def test_rfc_2069_has_exactly_these_parameters():
    (text, pair, target, cnonce), expected = DIGEST_VECTORS["RFC 2069, 2.4, as corrected"]
    assert fields(digest(challenge(text), pair, "GET", target, cnonce, 1)) == expected


def test_parameters_are_quoted_where_servers_expect_it():
    value = digest(challenge(RFC_7616_1.format("MD5")), PAIR, "GET", "/x", "c", 0x1F)
    assert re.sub(r'(?<==")[^"]*', "", value) == (
        'Digest username="", realm="", uri="", nonce="", nc=0000001f, cnonce="", qop=auth, '
        'response="", algorithm=MD5, opaque=""'
    )


ALGORITHMS = {"MD5": "md5", "SHA-256": "sha256", "SHA-512-256": "sha512_256"}


@pytest.mark.parametrize("session", [False, True], ids=["plain", "sess"])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_algorithms(name, session):
    def h(*parts):
        return hashlib.new(ALGORITHMS[name], ":".join(parts).encode()).hexdigest()

    algorithm = (name + ("-sess" if session else "")).title()
    offered = challenge(f'Digest realm="r", nonce="n", qop=AUTH, algorithm={algorithm}')
    if strength(offered) == 0:
        pytest.skip("this Python's OpenSSL lacks the algorithm")
    found = fields(digest(offered, PAIR, "CONNECT", "h:443", "c", 2))
    key = h(USER, "r", PASSWORD)
    if session:
        key = h(key, "n", "c")
    assert found["response"] == h(key, "n", "00000002", "c", "auth", h("CONNECT", "h:443"))
    assert found["algorithm"] == algorithm


def test_quotes_and_backslashes():
    offered = challenge(r'Digest realm="a\"b\\c", nonce="n\"", opaque="o\"", qop=auth')
    value = digest(offered, ('u"\\', "p"), "GET", "/", "c", 1)
    assert r'username="u\"\\"' in value
    assert r'realm="a\"b\\c"' in value
    assert r'nonce="n\""' in value
    assert r'opaque="o\""' in value
    plain = challenge("Digest nonce=x")
    plain.params.update(realm='a"b\\c', nonce='n"', opaque='o"', qop="auth")
    assert digest(plain, ('u"\\', "p"), "GET", "/", "c", 1) == value


def test_a_user_that_is_not_ascii_without_charset_goes_out_as_it_is():
    value = digest(challenge("Digest realm=r, nonce=n"), ("Zoë", "p"), "GET", "/", "c", 1)
    assert fields(value)["username"] == "Zoë"


DECOMPOSED = ("Zoe\u0308", "pa\u0308")
COMPOSED = ("Zo\u00eb", "p\u00e4")


@pytest.mark.parametrize("name", ["Digest realm=r, nonce=n, userhash=true", "Basic realm=r"])
@pytest.mark.parametrize(
    "charset, same", [("", False), (", charset=utf-8", True), (", charset=x", False)]
)
def test_names_are_normalized_for_servers_that_read_utf_8(name, charset, same):
    values = []
    for pair in (DECOMPOSED, COMPOSED):
        value = Authenticator(pair).respond([name + charset], "GET", "/")
        values.append(re.sub(" username\\*?=.*realm|.*(?=response)", "", value))
    assert (values[0] == values[1]) is same


def test_names_without_unicodedata(monkeypatch):
    monkeypatch.setitem(sys.modules, "unicodedata", None)
    value = Authenticator(DECOMPOSED).respond(["Basic realm=r, charset=UTF-8"], "GET", "/")
    assert value == basic(*DECOMPOSED)


# -- which challenge --

USELESS = {
    "nothing": [],
    "unknown scheme": ["Bearer", "Negotiate abc=="],
    "no nonce": ['Digest realm="r", qop=auth'],
    "unknown algorithm": ["Digest nonce=n, algorithm=SHA-1"],
    "session of an unknown algorithm": ["Digest nonce=n, qop=auth, algorithm=-sess"],
    "the name of a scheme": ["Digest nonce=n, algorithm=basic"],
    "auth-int alone": ['Digest nonce=n, qop="auth-int"'],
    "unknown qop": ['Digest nonce=n, qop="auth-x authx"'],
    "session without qop": ["Digest nonce=n, algorithm=MD5-sess"],
    "malformed": ['Digest nonce="n'],
}


@each_row("values", USELESS.values(), ids=USELESS)
def test_challenges_that_cannot_be_answered(values):
    assert [strength(found) for found in parse_challenges(values)] == [0] * len(
        parse_challenges(values)
    )
    assert Authenticator(PAIR).respond(values, "GET", "/") is None


USABLE = {
    "no algorithm": "Digest nonce=n, qop=auth",
    "no realm": "Digest nonce=n",
    "several qops": 'Digest nonce=n, qop=" auth-int ,Auth"',
    "empty qop": 'Digest nonce=n, qop=""',
    "quoted algorithm": 'Digest nonce=n, algorithm="md5"',
}


@pytest.mark.parametrize("text", USABLE.values(), ids=USABLE)
def test_challenges_that_can_be_answered(text):
    assert strength(challenge(text)) == strength(challenge("Digest nonce=n, algorithm=MD5")) > 1


OFFERS = {
    "Basic": BASIC,
    "MD5": "Digest nonce=m, qop=auth, algorithm=MD5",
    "MD5-sess": "Digest nonce=m, qop=auth, algorithm=MD5-sess",
    "SHA-256": "Digest nonce=m, qop=auth, algorithm=SHA-256",
    "SHA-512-256": "Digest nonce=m, qop=auth, algorithm=SHA-512-256",
}
STRONGEST = {  # offered -> chosen
    "Basic Bearer": "Basic",
    "Basic MD5": "MD5",
    "MD5 Basic": "MD5",
    "Basic MD5 SHA-256": "SHA-256",
    "SHA-256 MD5 Basic": "SHA-256",
    "SHA-256 SHA-512-256 MD5": "SHA-512-256",
    "MD5-sess MD5": "MD5-sess",
    "MD5 MD5-sess": "MD5",
}


@each_row("as_one", [False, True], ids=["several headers", "one header"])
@each_row("offered, chosen", STRONGEST.items())
def test_the_strongest_challenge_is_answered(offered, chosen, as_one):
    values = [OFFERS.get(name, name) for name in offered.split()]
    if chosen == "SHA-512-256" and strength(challenge(OFFERS[chosen])) == 0:
        chosen = "SHA-256"  # as this Python's OpenSSL lacks the stronger one
    value = Authenticator(PAIR).respond([", ".join(values)] if as_one else values, "GET", "/")
    assert (value if chosen == "Basic" else fields(value)["algorithm"]) == (
        basic(*PAIR) if chosen == "Basic" else chosen
    )


def test_an_algorithm_that_policy_forbids_is_passed_over(monkeypatch):
    new = hashlib.new

    def restricted(name, *args, **kwargs):
        if name == "md5":
            raise ValueError("disabled for FIPS")
        return new(name, *args, **kwargs)

    monkeypatch.setattr(hashlib, "new", restricted)
    values = [OFFERS["MD5"], OFFERS["SHA-256"]]
    assert "algorithm=SHA-256" in Authenticator(PAIR).respond(values, "GET", "/")
    assert Authenticator(PAIR).respond(values[:1], "GET", "/") is None


def test_a_user_with_a_colon_can_use_digest_only():
    value = Authenticator(("a:b", "p")).respond([BASIC, "Digest nonce=n"], "GET", "/")
    assert fields(value)["username"] == "a:b"
    assert Authenticator(("a:b", "p")).respond([BASIC], "GET", "/") is None


# -- rounds --


def test_the_names_for_servers_and_proxies():
    server, proxy = Authenticator(PAIR), Authenticator(PAIR, proxy=True)
    assert (server.status, server.challenge_name, server.name) == (
        401,
        "WWW-Authenticate",
        "Authorization",
    )
    assert (proxy.status, proxy.challenge_name, proxy.name) == (
        407,
        "Proxy-Authenticate",
        "Proxy-Authorization",
    )


def test_a_pair_waits_for_a_challenge():
    for credentials in (PAIR, list(PAIR)):
        authenticator = Authenticator(credentials)
        assert authenticator.first("GET", "/") is None
        assert authenticator.respond([BASIC], "GET", "/") == basic(*PAIR)


def test_a_preemptive_pair_is_sent_at_once():
    authenticator = Authenticator(PAIR, preemptive=True)
    assert authenticator.first("GET", "/") == basic(*PAIR)
    assert authenticator.first("GET", "/2") == basic(*PAIR)
    assert authenticator.respond([BASIC], "GET", "/2") is None


def test_a_preemptive_pair_answers_a_stronger_challenge():
    authenticator = Authenticator(PAIR, preemptive=True)
    authenticator.first("GET", "/")
    assert fields(authenticator.respond([BASIC, "Digest nonce=n"], "GET", "/"))["nonce"] == "n"


REFUSED = {  # challenges, one after the other -> whether the last one is answered
    "the same Basic": ([BASIC, BASIC], False),
    "Basic with another realm": ([BASIC, "Basic realm=other"], False),
    "stale Basic": ([BASIC, "Basic realm=r, stale=true, nonce=n"], False),
    "the same Digest": (["Digest nonce=a", "Digest nonce=a"], False),
    "another nonce": (["Digest nonce=a", "Digest nonce=b"], False),
    "not stale": (["Digest nonce=a", "Digest nonce=b, stale=false"], False),
    "stale": (["Digest nonce=a", "Digest nonce=b, stale=TRUE"], True),
    "quoted stale": (["Digest nonce=a", 'Digest nonce=b, stale="true"'], True),
    "stale, the same nonce": (["Digest nonce=a", "Digest nonce=a, stale=true"], False),
    "stale twice": (
        ["Digest nonce=a", "Digest nonce=b, stale=true", "Digest nonce=c, stale=true"],
        False,
    ),
    "stale and then wrong": (
        ["Digest nonce=a", "Digest nonce=b, stale=true", "Digest nonce=c"],
        False,
    ),
    "stale at first": (["Digest nonce=a, stale=true"], True),
    "weaker": (["Digest nonce=a, algorithm=SHA-256", "Digest nonce=b, algorithm=MD5"], False),
    "weaker and stale": (
        ["Digest nonce=a, algorithm=SHA-256", "Digest nonce=b, algorithm=MD5, stale=true"],
        False,
    ),
    "Basic behind Digest": (["Digest nonce=a", BASIC], False),
    "stronger": (["Digest nonce=a, algorithm=MD5", "Digest nonce=b, algorithm=SHA-256"], True),
    "Digest behind Basic": ([BASIC, "Digest nonce=b"], True),
    "no challenge any more": (["Digest nonce=a", "Bearer"], False),
}


@each_row("values, goes_on", REFUSED.values(), ids=REFUSED)
def test_when_an_answer_is_refused(values, goes_on):
    authenticator = Authenticator(PAIR)
    *before, last = values
    for value in before:
        assert authenticator.respond([value], "GET", "/") is not None
    answer = authenticator.respond([last], "GET", "/")
    if goes_on:
        assert fields(answer)["nonce"] == challenge(last).params["nonce"]
    else:
        assert answer is None
        assert authenticator.first("GET", "/") is None  # not again with the next request


def test_requests_with_one_nonce_are_counted():
    authenticator = Authenticator(PAIR)
    offered = "Digest realm=r, nonce=a, qop=auth, algorithm=SHA-256-sess"
    values = [authenticator.respond([offered], "GET", "/")]
    values += [authenticator.first("GET", target) for target in ("/2", "/3")]
    found = [fields(value) for value in values]
    assert [one["nc"] for one in found] == ["00000001", "00000002", "00000003"]
    assert [one["uri"] for one in found] == ["/", "/2", "/3"]
    assert len({one["cnonce"] for one in found}) == 1
    assert len({one["response"] for one in found}) == 3


def test_a_new_nonce_is_counted_from_one_and_has_a_new_cnonce():
    authenticator = Authenticator(PAIR)
    found = [
        fields(authenticator.respond([text], "GET", "/"))
        for text in ("Digest nonce=a, qop=auth", "Digest nonce=b, qop=auth, stale=true")
    ]
    assert [one["nc"] for one in found] == ["00000001"] * 2
    assert found[0]["cnonce"] != found[1]["cnonce"]


def test_the_cnonce_is_random(monkeypatch):
    monkeypatch.setattr(os, "urandom", lambda size: bytes(range(size)))
    value = Authenticator(PAIR).respond(["Digest nonce=a, qop=auth"], "GET", "/")
    assert fields(value)["cnonce"] == bytes(range(16)).hex()


def test_a_remembered_nonce_may_have_got_too_old():
    authenticator = Authenticator(PAIR)
    authenticator.respond(["Digest nonce=a, qop=auth"], "GET", "/")
    authenticator.first("GET", "/2")
    # That server doesn't say that it is stale.
    value = authenticator.respond(["Digest nonce=b, qop=auth"], "GET", "/2")
    assert (fields(value)["nonce"], fields(value)["nc"]) == ("b", "00000001")
    assert authenticator.respond(["Digest nonce=c, qop=auth"], "GET", "/2") is None


@pytest.mark.parametrize("text", [BASIC, "Digest nonce=a, qop=auth"])
def test_a_remembered_challenge_that_comes_again_means_wrong_credentials(text):
    authenticator = Authenticator(PAIR)
    authenticator.respond([text], "GET", "/")
    assert authenticator.first("GET", "/2") is not None
    assert authenticator.respond([text], "GET", "/2") is None


def test_rounds_are_bounded():
    rounds = []

    def answer(challenges, method, target):
        rounds.append(challenges)
        return f"X {len(rounds)}"

    authenticator = Authenticator(answer)
    values = [authenticator.respond(["X"], "GET", "/") for _ in range(auth.MAX_ROUNDS + 3)]
    assert values == [f"X {i + 1}" for i in range(auth.MAX_ROUNDS)] + [None] * 3
    assert len(rounds) == auth.MAX_ROUNDS
    authenticator.first("GET", "/2")
    assert authenticator.respond(["X"], "GET", "/2") is not None


# -- callables --


def test_a_callable_sees_the_challenges():
    seen = []

    def answer(challenges, method, target):
        seen.append((challenges, method, target))
        return "Bearer secret"

    authenticator = Authenticator(answer, preemptive=True)
    assert authenticator.first("GET", "/x") is None
    assert not seen
    assert authenticator.respond(['Bearer realm="r"', "X abc="], "GET", "/x") == "Bearer secret"
    assert seen == [([("bearer", {"realm": "r"}, None), ("x", {}, "abc=")], "GET", "/x")]


def test_a_callable_can_give_up():
    assert Authenticator(lambda *args: None).respond([BASIC], "GET", "/") is None


def test_what_a_callable_answers_is_sent_once():
    authenticator = Authenticator(lambda *args: "Bearer secret")
    assert authenticator.respond(["Bearer"], "GET", "/") == "Bearer secret"
    assert authenticator.respond(["Bearer"], "GET", "/") is None
    assert authenticator.first("GET", "/2") is None
    assert authenticator.respond(["Bearer"], "GET", "/2") == "Bearer secret"


@pytest.mark.parametrize("value", ["secret\r\nX: 1", "secret\0", "secret\n", b"secret", 5])
def test_what_a_callable_cannot_answer(value):
    with pytest.raises((ValueError, TypeError), match="Authorization") as caught:
        Authenticator(lambda *args: value).respond([BASIC], "GET", "/")
    assert "secret" not in said(caught.value)


def test_what_a_callable_raises_comes_out():
    with pytest.raises(ZeroDivisionError):
        Authenticator(lambda *args: 1 / 0).respond([BASIC], "GET", "/")


# -- secrets --

NO_CREDENTIALS = {
    "None": None,
    "str": "ab",
    "bytes": b"ab",
    "one": ("secret",),
    "three": ("secret", "secret", "secret"),
    "no str": ("secret", b"secret"),
    "user is no str": (1, "secret"),
    "set": {"secret", "x"},
}


@pytest.mark.parametrize("credentials", NO_CREDENTIALS.values(), ids=NO_CREDENTIALS)
def test_what_are_no_credentials(credentials):
    with pytest.raises(TypeError, match="pair of strings") as caught:
        Authenticator(credentials)
    assert "secret" not in said(caught.value)


def test_an_authenticator_shows_no_secrets():
    authenticator = Authenticator(("user", "secret"), preemptive=True)
    authenticator.first("GET", "/")
    authenticator.respond(["Digest nonce=a, qop=auth"], "GET", "/")
    shown = f"{authenticator!r} {authenticator} {copy.copy(authenticator)!r}"
    encoded = binascii.b2a_base64(b"user:secret", newline=False).decode()
    assert "secret" not in shown and encoded not in shown
    assert not hasattr(authenticator, "__dict__")


def test_no_credentials_can_break_out_of_the_header():
    user = 'a", evil="b\\'
    value = digest(challenge("Digest nonce=n, realm=r"), (user, "p"), "GET", "/", "c", 1)
    assert fields(value)["username"] == user
    assert "evil" not in fields(value)
