"""Hints: one thing to try, in words for people, when a connection can't be opened.

The contents of the failure decide: the peer's first words, its challenges, the header that stayed
behind; the class of the exception only where there is nothing else. ``ssl`` isn't imported for
that: an exception of its brings what there is to know. Only where a certificate isn't trusted does
it look around: small systems may have no clock, or no authorities.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
import time
from collections import namedtuple
from collections.abc import Sequence

from ..exceptions import (
    InvalidHeader,
    InvalidMessage,
    InvalidProxyStatus,
    InvalidRedirect,
    InvalidStatus,
    InvalidUpgrade,
    NegotiationError,
    ProxyError,
    TooManyRedirects,
)
from ..interrupts import pass_on_handlers
from ..policies import speaks_no_tls
from ..sansio.http11 import Response
from ..sansio.uri import DestinationRefused


class Situation(namedtuple("Situation", "secure redirected dropped proxy_from")):
    """The opening's part of the evidence, beside the exception.

    Attributes:
        secure: whether the URL is a ``wss`` one.
        redirected: the authority that redirects have led to; empty without any.
        dropped: names of the user's headers that it didn't get, being another origin.
        proxy_from: the environment's variable that names the proxy which isn't reached.
    """

    __slots__ = ()

    secure: bool
    redirected: str
    dropped: Sequence[str]
    proxy_from: str


_PLAIN = Situation(False, "", (), "")

_TIMEOUTS = {
    "dns": "does DNS work on this machine?",
    "tcp": "does a firewall drop packets to this address, or is a proxy needed?",
    "proxy": "is it a proxy of this kind, and can it reach the server?",
    "tls": "does the server speak TLS on this port?",
    "upgrade": "does this URL lead to a WebSocket server? raise open_timeout if it is slow",
}

# OpenSSL's codes for what is wrong with a certificate (X509_V_ERR_*).
_CLOCK = "check the clock of this device, which says {}, then the certificate's dates"
_CAFILE = "pass ssl=ssl.create_default_context(cafile=...)"
_TRUST = f"for a private CA, {_CAFILE}"
_NOBODY = f"no CAs are installed: set SSL_CERT_FILE or {_CAFILE}"
_NO_FILE = "SSL_CERT_FILE names a file that isn't there"
_NAME = "is it the right host? server_hostname= names another one to check for"
_STRICT = "it breaks RFC 5280, which Python 3.13 checks; see ssl.VERIFY_X509_STRICT"
_CERTIFICATES = {
    **dict.fromkeys((9, 10, 11, 12), _CLOCK),
    **dict.fromkeys((2, 18, 19, 20, 21, 24, 27), _TRUST),
    **dict.fromkeys((62, 63, 64), _NAME),
    **dict.fromkeys(range(79, 94), _STRICT),
}

# Parts of OpenSSL's reasons.
_NO_TLS = "does the server speak TLS on this port? if not, use ws://"
_REFUSED = "the server refuses our certificate, or wants one: ssl= with load_cert_chain()"
_VERSION = "the server wants another version of TLS: ssl= with minimum_version"
_TLS = {
    "WRONG_VERSION_NUMBER": _NO_TLS,
    "HTTP_REQUEST": _NO_TLS,
    "CERTIFICATE_REQUIRED": "the server wants a client certificate: ssl= with load_cert_chain()",
    "BAD_CERTIFICATE": _REFUSED,
    "CERTIFICATE_EXPIRED": _REFUSED,
    "CERTIFICATE_UNKNOWN": _REFUSED,
    "HANDSHAKE_FAILURE": "the server wants a client certificate, or other TLS versions or ciphers",
    "UNKNOWN_CA": "the server doesn't know the CA of our client certificate",
    "UNRECOGNIZED_NAME": _NAME,
    "PROTOCOL_VERSION": _VERSION,
    "UNSUPPORTED_PROTOCOL": _VERSION,
    "NO_APPLICATION_PROTOCOL": "the server doesn't offer http/1.1 by ALPN: is it for HTTP/2 only?",
    "INTERNAL_ERROR": "see the server's log",
}

_STATUSES = {
    400: "does the server want another origin, subprotocol or header?",
    401: "are the user and the password right? auth=(user, password) passes them",
    403: "does the server want a certain origin=, or credentials?",
    404: "check the path of the URL",
    405: "check the path of the URL",
    407: "are there a user and a password in the proxy's URL, the right ones?",
    426: "the server wants another version of WebSocket, which its headers name",
    429: "try again later: Retry-After may say when",
    502: "is the server behind this proxy or balancer up?",
    503: "try again later: Retry-After may say when",
    504: "is the server behind this proxy or balancer up?",
    511: "this network wants a login first (a captive portal): open a web page in a browser",
}
_NOT_PASSED_ON = "a proxy or balancer on the way doesn't pass the Upgrade and Connection headers on"
_WEBSITE = "does this URL lead to a WebSocket server? it answers like a website"
_PORTAL = f"{_WEBSITE}, or a network's login page"

# Wherever they happen.
_ERRORS = {
    errno.EMFILE: "too many files are open: close some, or raise the limit (ulimit -n)",
    errno.ENFILE: "too many files are open on this machine",
    errno.EADDRNOTAVAIL: "is IPv6 switched off here, or source_address another machine's?",
}

# Where the class says it all; the first one counts.
_CLASSES = {
    DestinationRefused: (
        "the proxy works, but doesn't reach the server: is that up at this address?"
    ),
    ProxyError: "check the proxy's address, kind and credentials; proxy=None goes without",
    InvalidUpgrade: "is there a proxy or balancer on the way that doesn't pass WebSocket on?",
    InvalidHeader: "the server is at fault; without the option that offers it, it may work",
    InvalidRedirect: "is it the right URL? the server seems to expect another one",
    TooManyRedirects: "is it the right URL? some servers want cookies= or auth= first",
    ConnectionRefusedError: "is a server listening there?",
    ConnectionError: "the peer ended the connection: see its log",
    FileNotFoundError: "is a server listening on this Unix socket?",
    PermissionError: "does a firewall or a file's mode forbid it?",
}


def hint(exc: BaseException, phase: str, situation: Situation = _PLAIN) -> str:
    """One thing to try after *exc* in *phase*; empty if nothing better than its text is known."""
    if isinstance(exc, OSError):
        found = _for_tls(exc, phase)
        # The environment may name a proxy without the user's knowing.
        if not found and situation.proxy_from:
            named = f"{situation.proxy_from} names it; proxy=None goes without"
            return f"is it the right proxy? {named}"
        return found or _for_network(exc, phase)
    if isinstance(exc, (InvalidStatus, InvalidProxyStatus)):
        return _for_status(exc, situation)
    if isinstance(exc, InvalidMessage):
        return _for_nonsense(exc, situation)
    if isinstance(exc, NegotiationError) and exc.name == "Sec-WebSocket-Protocol" and exc.value:
        return f"the server speaks this subprotocol: pass subprotocols=[{exc.value[:40]!r}]"
    return _for_class(exc)


def _for_class(exc: BaseException) -> str:
    return next((advice for kind, advice in _CLASSES.items() if isinstance(exc, kind)), "")


def _for_status(exc: InvalidStatus | InvalidProxyStatus, situation: Situation) -> str:
    response, by_proxy = exc.response, isinstance(exc, InvalidProxyStatus)
    code = response.status_code
    if code in (401, 407):
        found = _for_challenges(response, by_proxy)
    elif by_proxy:
        return "does the proxy allow connections to this host and port?"
    else:
        found = _for_refusal(response, situation)
    if situation.redirected and 400 <= code < 500:
        left = ", ".join(situation.dropped)[:60]
        without = f" doesn't get {left}, being another origin" if left else " refuses"
        found = f"the redirect's target {situation.redirected}{without}: pass the final URL"
    return found


def _for_challenges(response: Response, by_proxy: bool) -> str:
    from ..sansio.auth import parse_challenges, strength

    # Some proxies confuse the two.
    values = response.headers.get_all("WWW-Authenticate")
    values += response.headers.get_all("Proxy-Authenticate")
    challenges = parse_challenges(values)
    if not challenges or any(map(strength, challenges)):
        return _STATUSES[407 if by_proxy else 401]
    names = (challenge.scheme.capitalize() for challenge in challenges)
    offered = ", ".join(names).replace("Ntlm", "NTLM")[:40]
    if by_proxy:
        return f"this proxy takes only {offered}: use one that takes Basic or Digest, or a helper"
    return f"this server takes only {offered}: auth= a callable, or additional_headers="


def _for_refusal(response: Response, situation: Situation) -> str:
    code, words = response.status_code, response.body[:2000].lower()
    if 200 <= code < 300:
        is_page = "html" in (response.headers.get("Content-Type") or "").lower()
        return _PORTAL if is_page else _WEBSITE
    if 300 <= code < 400 and "Location" in response.headers:
        return "it redirects, which max_redirects=0 doesn't follow: pass the final URL"
    if code == 400 and not situation.secure and (b"https" in words or b"tls" in words):
        return "this port wants TLS: use wss://"
    # Servers that haven't seen the headers say that they are missing.
    if code == 400 and b"upgrade" in words:
        return _NOT_PASSED_ON
    if code == 426 and "Sec-WebSocket-Version" not in response.headers:
        return _NOT_PASSED_ON
    fallback = "the server failed: see its log, or try again later" if code >= 500 else ""
    return _STATUSES.get(code, fallback)


def _for_nonsense(exc: InvalidMessage, situation: Situation) -> str:
    """For an answer that isn't HTTP, by how it begins."""
    # The types of TLS records, an alert or a handshake, and the first half of their version.
    first = exc.first_bytes
    if first[:2] in (b"\x15\x03", b"\x16\x03"):
        return "the server speaks TLS on this port: use wss://"
    if first[3:5] == b"\x04\x00" and not first[5:9].strip(b"\0"):  # SETTINGS: RFC 9113, 3.4
        return "the server speaks HTTP/2 only; this takes HTTP/1.1"
    if exc.hung_up and situation.secure:
        return "the server hung up instead of answering: see its log, and check host and path"
    if exc.hung_up:
        return "the server hung up instead of answering: see its log; if it wants TLS, use wss://"
    if first.startswith(b"HTTP/"):
        return "the server, or a proxy on the way, breaks the rules of HTTP: see its log"
    return "does a server for HTTP/1.1 listen there?"


def _for_tls(exc: OSError, phase: str) -> str:
    code = getattr(exc, "verify_code", None)
    reason = getattr(exc, "reason", None)
    found = ""
    if speaks_no_tls(exc):
        found = _NO_TLS
    elif code:
        found = _CERTIFICATES.get(code, "the certificate isn't acceptable")
        if found is _CLOCK:
            found = _CLOCK.format(time.strftime("%Y-%m-%d", time.gmtime()))
        # Without the variable, "/" is there: only a file that it names can be missing.
        elif found is _TRUST and not os.path.exists(os.environ.get("SSL_CERT_FILE") or "/"):
            found = _NO_FILE
        elif found is _TRUST and not _has_authorities():
            found = _NOBODY
    elif isinstance(reason, str):
        found = next((text for part, text in _TLS.items() if part in reason.upper()), "")
    if phase == "proxy":  # https proxies have options of their own
        for option in (" ssl=", " server_hostname="):
            found = found.replace(option, f" proxy_{option[1:]}")
        found = found.replace("use ws://", "use http:// for the proxy")
    return found


def _has_authorities() -> bool:
    """Whether the system has certificates of authorities, which contexts trust by default."""
    if sys.platform == "win32":
        return True  # it keeps them elsewhere
    import ssl  # which has been loaded: the exception is one of its own

    paths = ssl.get_default_verify_paths()
    try:
        return bool(paths.cafile or (paths.capath and os.listdir(paths.capath)))
    except OSError as exc:
        pass_on_handlers(exc)
        return False


def _for_network(exc: OSError, phase: str) -> str:
    if isinstance(exc, TimeoutError):
        return _TIMEOUTS.get(phase, "")
    if exc.errno in _ERRORS:
        return _ERRORS[exc.errno]
    if phase == "tcp" and isinstance(exc, socket.gaierror):  # of bind()
        return "is source_address an address, and of the server's kind (IPv4 or IPv6)?"
    if phase == "dns":
        return "is the name spelt right, and does DNS work on this machine?"
    if phase == "tls" and isinstance(exc, ConnectionError):
        return _TIMEOUTS["tls"]
    routeless = "is the network up, and is there a route to this address?"
    return _for_class(exc) or (routeless if phase == "tcp" else "")
