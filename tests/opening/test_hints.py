"""What is advised when a connection can't be opened."""

from __future__ import annotations

import errno
import socket
import ssl
from urllib.error import URLError

import pytest
from certificates import client_context, server_context
from helpers import CERTS, PATIENCE, ROOT
from tables import each_row

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
from wsmini.opening.opening import Opening
from wsmini.opening.steps import run_blocking
from wsmini.options import Options
from wsmini.sansio.http11 import Response
from wsmini.testing import scripted_server

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
    426: "Upgrade",
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


@each_row("code", STATUSES)
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
    "not HTTP": (InvalidMessage("x"), "HTTP/1.1"),
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


@each_row("exc, part", ANSWERS.values(), ids=ANSWERS)
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


@each_row("code", CERTIFICATES)
@each_row("phase", ["tls", "proxy"])
def test_a_certificate(code, phase):
    expected = CERTIFICATES[code]
    if phase == "proxy":
        expected = expected.replace(" ssl=", " proxy_ssl=").replace(" server", " proxy_server")
    assert expected in hint(tls_error("CERTIFICATE_VERIFY_FAILED", code), phase)


REASONS = {
    "WRONG_VERSION_NUMBER": "ws://",
    "wrong_version_number": "ws://",
    "RECORD_LAYER_FAILURE": "",
    "HTTP_REQUEST": "ws://",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "load_cert_chain",
    "SSLV3_ALERT_BAD_CERTIFICATE": "load_cert_chain",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "load_cert_chain",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "load_cert_chain",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "ciphers",
    "TLSV1_ALERT_UNKNOWN_CA": "our client certificate",
    "TLSV1_UNRECOGNIZED_NAME": "server_hostname=",
    "TLSV1_ALERT_PROTOCOL_VERSION": "minimum_version",
    "UNSUPPORTED_PROTOCOL": "minimum_version",
    "TLSV1_ALERT_NO_APPLICATION_PROTOCOL": "http/1.1 by ALPN",
    "TLSV1_ALERT_INTERNAL_ERROR": "log",
    "SOMETHING_ELSE": "",
    None: "",
}


@each_row("reason", REASONS)
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


@each_row("exc, phase, part", NETWORK.values(), ids=NETWORK)
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


# -- each situation of docs/errors.md, played --


def failed(url, **options):
    """What opening *url* raises."""
    options.setdefault("proxy", None)
    with pytest.raises((OSError, InvalidHandshake)) as caught:
        run_blocking(Opening(Options(url, open_timeout=PATIENCE, **options)).steps())
    return caught.value


def answered(script, scheme="ws", server_ssl=None, **options):
    """What happens where *script* answers, or these bytes do."""

    def send(peer):
        peer.request()
        peer.send_raw(script)

    run = send if isinstance(script, bytes) else script
    with scripted_server(run, ssl=server_ssl) as server:
        return failed(f"{scheme}://localhost:{server.port}/", **options)


def page(status, words=b"", **headers):
    def script(peer):
        peer.request()
        peer.respond(status, "No", {k.replace("_", "-"): v for k, v in headers.items()}, words)

    return script


def through(script, scheme="http", **options):
    with scripted_server(script) as proxy:
        return failed("ws://h.example/", proxy=f"{scheme}://u:p@127.0.0.1:{proxy.port}", **options)


def unused_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def plain_http_for_tls(peer):
    peer.sock.recv(65536)
    peer.send_raw(b"HTTP/1.1 400 Bad Request\r\n\r\nwhat?")


def hang_up(peer):
    peer.request()


def socks_unreachable(peer):
    peer._read(4)
    peer.send_raw(b"\5\0")
    peer._read(10)
    peer.send_raw(b"\5\4\0\1" + bytes(6))


def redirected_away():
    with scripted_server(page(401)) as other:
        location = f"http://localhost:{other.port}/"
        exc = answered(page(302, Location=location), additional_headers={"X-Api-Key": "k"})
        exc.hint = exc.hint.replace(f"localhost:{other.port}", "HOST")
        return exc


def wrong_proxy_of_the_environment():
    with pytest.MonkeyPatch.context() as patch:
        for name in ("no_proxy", "NO_PROXY", "ws_proxy", "WS_PROXY"):
            patch.delenv(name, raising=False)
        patch.setenv("http_proxy", f"http://127.0.0.1:{unused_port()}")
        return failed("ws://h.example/", proxy=True)


def missing_authorities():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", "/nowhere/ca.pem")
        return answered(hang_up, "wss", server_context())


def offering_h2():
    context, theirs = client_context(), server_context()
    context.set_alpn_protocols(["h2", "http/1.1"])
    theirs.set_alpn_protocols(["h2"])
    return answered(hang_up, "wss", theirs, ssl=context)


BEARER, NTLM = 'Bearer error="invalid_token"', "Negotiate, NTLM"

SITUATIONS = {
    "nobody listens": lambda: failed(f"ws://127.0.0.1:{unused_port()}/"),
    "a proxy of the environment isn't reached": wrong_proxy_of_the_environment,
    "a SOCKS proxy can't reach the server": lambda: through(socks_unreachable, "socks5h"),
    "a proxy takes Negotiate or NTLM only": lambda: through(page(407, Proxy_Authenticate=NTLM)),
    "a proxy refuses the password": lambda: through(page(407, Proxy_Authenticate="Basic")),
    "`SSL_CERT_FILE` is wrong": missing_authorities,
    "`wss://`, and the server speaks plain HTTP": lambda: answered(
        plain_http_for_tls, "wss", ssl=client_context()
    ),
    "`ws://`, and the server says that this is its port for TLS": lambda: answered(
        page(400, b"The plain HTTP request was sent to HTTPS port")
    ),
    "`ws://`, and the server answers in TLS": lambda: answered(b"\x15\3\3\0\2\2\x46"),
    "`ws://`, and the server hangs up": lambda: answered(hang_up),
    "`wss://`, and the server hangs up": lambda: answered(
        hang_up, "wss", server_context(), ssl=client_context()
    ),
    "a server for HTTP/2 only": lambda: answered(b"\0\0\6\4\0\0\0\0\0\0\3\0\0\0\x64"),
    "a server of another kind": lambda: answered(b"SSH-2.0-x\r\n"),
    "a page where the WebSocket should be": lambda: answered(
        page(200, b"<p>Please log in", Content_Type="text/html")
    ),
    "the password is wrong": lambda: answered(
        page(401, WWW_Authenticate="Basic"), auth=("user", "wrong")
    ),
    "the server wants a token": lambda: answered(page(401, WWW_Authenticate=BEARER)),
    "another origin doesn't get a header": redirected_away,
    "a wrong path": lambda: answered(page(404)),
    "a redirect that isn't followed": lambda: answered(page(302, Location="/x"), max_redirects=0),
    "nginx without `proxy_set_header`": lambda: answered(
        page(400, b'Can "Upgrade" only to "WebSocket".')
    ),
    "the same, and another server": lambda: answered(page(426, Upgrade="websocket")),
    "a subprotocol that wasn't asked for": lambda: answered(
        lambda peer: (peer.request(), peer.accept(subprotocol="chat.v1"))
    ),
}


def documented():
    """The table: situation -> advice."""
    text = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    table = text.partition("| situation | hint |")[2].partition("\n\n")[0]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines()[2:]]
    return {situation: advice.strip("`") for situation, advice in rows}


@each_row("situation", SITUATIONS)
def test_a_situation(situation):
    assert SITUATIONS[situation]().hint == documented()[situation]


def test_every_situation_is_played():
    assert list(documented()) == list(SITUATIONS)


def test_http2_that_was_negotiated_is_named():
    exc = offering_h2()
    assert "leave h2 out" in str(exc)
