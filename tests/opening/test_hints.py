"""What is advised when a connection can't be opened."""

from __future__ import annotations

import errno
import socket
import ssl
from urllib.error import URLError

import pytest
from helpers import CERTS

from wsmini.exceptions import (
    InvalidHandshake,
    InvalidHeader,
    InvalidMessage,
    InvalidProxyMessage,
    InvalidProxyStatus,
    InvalidRedirect,
    InvalidStatus,
    InvalidUpgrade,
    NegotiationError,
    ProxyError,
    TooManyRedirects,
)
from wsmini.opening.hints import hint
from wsmini.sansio.http11 import Response

PHASES = ["dns", "tcp", "proxy", "tls", "upgrade"]


def status(code, kind=InvalidStatus, **headers):
    return kind(Response(code, "", headers))


STATUSES = {
    200: "answers like a website",
    204: "answers like a website",
    400: "origin",
    401: "auth=",
    403: "origin=",
    404: "path",
    405: "path",
    426: "subprotocol",
    429: "Retry-After",
    500: "its log",
    502: "balancer",
    503: "Retry-After",
    504: "balancer",
    599: "its log",
    100: "",
    301: "",
    304: "",
    418: "",
}


@pytest.mark.parametrize("code", STATUSES)
def test_a_refusal(code):
    advice = hint(status(code), "upgrade")
    assert STATUSES[code] in advice
    assert bool(advice) == bool(STATUSES[code])


def test_a_redirect_is_only_said_not_to_be_followed_if_there_is_one():
    assert "max_redirects=0" in hint(status(302, Location="/x"), "upgrade")


@pytest.mark.parametrize("code, part", [(407, "proxy's URL"), (403, "allow"), (502, "allow")])
def test_a_refusal_by_the_proxy(code, part):
    assert part in hint(status(code, InvalidProxyStatus), "proxy")


ANSWERS = {
    "not HTTP": (InvalidMessage("x"), "wss://"),
    "no upgrade": (InvalidUpgrade("Upgrade", None), "balancer"),
    "extension": (NegotiationError("x", "y", "z"), "the server is at fault"),
    "header": (InvalidHeader("x", "y"), "the server is at fault"),
    "redirect": (InvalidRedirect("x", "y"), "right URL"),
    "redirects": (TooManyRedirects(["x", "y"]), "cookies="),
    "proxy": (ProxyError("x"), "proxy=None"),
    "not a proxy": (InvalidProxyMessage("x"), "proxy=None"),
    "something": (InvalidHandshake("x"), ""),
    "something else": (ValueError("x"), ""),
}


@pytest.mark.parametrize("exc, part", ANSWERS.values(), ids=ANSWERS)
def test_an_answer(exc, part):
    advice = hint(exc, "upgrade")
    assert part in advice
    assert bool(advice) == bool(part)


def tls_error(reason=None, verify_code=None):
    exc = ssl.SSLError(1, "x")
    exc.reason = reason
    if verify_code is not None:
        exc.verify_code = verify_code
    return exc


CERTIFICATES = {
    9: "clock",
    10: "clock",
    11: "clock",
    12: "clock",
    18: " ssl=ssl.create_default_context(cafile=",
    19: " ssl=ssl.create_default_context(cafile=",
    20: " ssl=ssl.create_default_context(cafile=",
    21: " ssl=ssl.create_default_context(cafile=",
    62: " server_hostname=",
    64: " server_hostname=",
    85: "VERIFY_X509_STRICT",
    92: "VERIFY_X509_STRICT",
    23: "isn't acceptable",
}


@pytest.mark.parametrize("code", CERTIFICATES)
@pytest.mark.parametrize("phase", ["tls", "proxy"])
def test_a_certificate(code, phase):
    expected = CERTIFICATES[code]
    if phase == "proxy":
        expected = expected.replace(" ssl=", " proxy_ssl=").replace(" server", " proxy_server")
    assert expected in hint(tls_error("CERTIFICATE_VERIFY_FAILED", code), phase)


REASONS = {
    "WRONG_VERSION_NUMBER": "ws://",
    "wrong_version_number": "ws://",
    "RECORD_LAYER_FAILURE": "ws://",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "load_cert_chain",
    "SSLV3_ALERT_BAD_CERTIFICATE": "load_cert_chain",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "load_cert_chain",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "load_cert_chain",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "ciphers",
    "TLSV1_ALERT_UNKNOWN_CA": "our client certificate",
    "TLSV1_UNRECOGNIZED_NAME": "server_hostname=",
    "TLSV1_ALERT_PROTOCOL_VERSION": "minimum_version",
    "UNSUPPORTED_PROTOCOL": "minimum_version",
    "TLSV1_ALERT_INTERNAL_ERROR": "log",
    "SOMETHING_ELSE": "",
    None: "",
}


@pytest.mark.parametrize("reason", REASONS)
def test_an_alert(reason):
    advice = hint(tls_error(reason), "tls")
    assert REASONS[reason] in advice
    assert bool(advice) == bool(REASONS[reason])


def test_an_alert_of_the_proxy():
    assert " proxy_ssl= with" in hint(tls_error("CERTIFICATE_REQUIRED"), "proxy")
    assert "ws://" not in hint(tls_error("WRONG_VERSION_NUMBER"), "proxy")


NETWORK = {
    "timeout in dns": (TimeoutError(), "dns", "DNS"),
    "timeout in tcp": (TimeoutError(), "tcp", "firewall"),
    "timeout in proxy": (TimeoutError(), "proxy", "proxy"),
    "timeout in tls": (TimeoutError(), "tls", "TLS"),
    "timeout in upgrade": (TimeoutError(), "upgrade", "open_timeout"),
    "timeout elsewhere": (TimeoutError(), "done", ""),
    "timeout of the kernel": (OSError(errno.ETIMEDOUT, "x"), "tcp", "firewall"),
    "name": (socket.gaierror(socket.EAI_NONAME, "x"), "dns", "spelt"),
    "files": (OSError(errno.EMFILE, "x"), "dns", "ulimit"),
    "files of all": (OSError(errno.ENFILE, "x"), "tcp", "files"),
    "address": (OSError(errno.EADDRNOTAVAIL, "x"), "tcp", "source_address"),
    "another family": (socket.gaierror(socket.EAI_FAMILY, "x"), "tcp", "source_address"),
    "refused": (ConnectionRefusedError(), "tcp", "listening there"),
    "no Unix socket": (FileNotFoundError(), "tcp", "Unix socket"),
    "forbidden": (PermissionError(), "tcp", "firewall"),
    "reset in tls": (ConnectionResetError(), "tls", "TLS"),
    "reset in upgrade": (ConnectionResetError(), "upgrade", "log"),
    "pipe": (BrokenPipeError(), "proxy", "log"),
    "no route": (OSError(errno.EHOSTUNREACH, "x"), "tcp", "route"),
    "something": (OSError("x"), "upgrade", ""),
    "of the user's own": (URLError(OSError()), "upgrade", ""),
}


@pytest.mark.parametrize("exc, phase, part", NETWORK.values(), ids=NETWORK)
def test_the_network(exc, phase, part):
    advice = hint(exc, phase)
    assert part in advice
    assert bool(advice) == bool(part)


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("cas", [str(CERTS / "ca.pem"), "/nowhere"], ids=["", "no CAs"])
def test_advice_is_one_short_line(phase, cas, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", cas)
    monkeypatch.setenv("SSL_CERT_DIR", "/nowhere")
    excs = [
        *(exc for exc, _ in ANSWERS.values()),
        *(exc for exc, _, _ in NETWORK.values()),
        *map(status, STATUSES),
        *map(tls_error, REASONS),
        *(tls_error("X", code) for code in CERTIFICATES),
    ]
    for exc in excs:
        assert len(hint(exc, phase)) < 100, hint(exc, phase)
        assert not hint(exc, phase).endswith(".")
        assert "\n" not in hint(exc, phase)
