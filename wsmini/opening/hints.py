"""What to try when a connection can't be opened: one thing, for people.

It looks at the phase, the class and the plain data of the exception. ``ssl`` and ``socket`` aren't
imported for that: an exception of theirs brings what there is to know. Only where a certificate
isn't trusted does it look around: small systems may have no clock, or no authorities.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
import time

from ..exceptions import (
    InvalidHeader,
    InvalidMessage,
    InvalidProxyStatus,
    InvalidRedirect,
    InvalidStatus,
    InvalidUpgrade,
    ProxyError,
    TooManyRedirects,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..sansio.http11 import Response

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
_NAME = "is it the right host? server_hostname= names another one to check for"
_STRICT = "it breaks RFC 5280, which Python 3.13 checks; see ssl.VERIFY_X509_STRICT"
_CERTIFICATES = {
    **dict.fromkeys((9, 10, 11, 12), _CLOCK),
    **dict.fromkeys((2, 18, 19, 20, 21, 24, 27), _TRUST),
    **dict.fromkeys((62, 63, 64), _NAME),
    **dict.fromkeys(range(79, 94), _STRICT),
}

# Parts of OpenSSL's reasons.
_REFUSED = "the server refuses our certificate, or wants one: ssl= with load_cert_chain()"
_VERSION = "the server wants another version of TLS: ssl= with minimum_version"
_TLS = {
    "WRONG_VERSION_NUMBER": "does the server speak TLS on this port? if not, use ws://",
    "RECORD_LAYER_FAILURE": "does the server speak TLS on this port? if not, use ws://",
    "CERTIFICATE_REQUIRED": "the server wants a client certificate: ssl= with load_cert_chain()",
    "BAD_CERTIFICATE": _REFUSED,
    "CERTIFICATE_EXPIRED": _REFUSED,
    "CERTIFICATE_UNKNOWN": _REFUSED,
    "HANDSHAKE_FAILURE": "the server wants a client certificate, or other TLS versions or ciphers",
    "UNKNOWN_CA": "the server doesn't know the CA of our client certificate",
    "UNRECOGNIZED_NAME": _NAME,
    "PROTOCOL_VERSION": _VERSION,
    "UNSUPPORTED_PROTOCOL": _VERSION,
    "INTERNAL_ERROR": "see the server's log",
}

_STATUSES = {
    400: "does the server want another origin, subprotocol or header?",
    401: "are there credentials, the right ones? auth=(user, password) passes them",
    403: "does the server want a certain origin=, or credentials?",
    404: "check the path of the URL",
    405: "check the path of the URL",
    407: "are there a user and a password in the proxy's URL, the right ones?",
    426: "does the server want another subprotocol, or another version of WebSocket?",
    429: "try again later: Retry-After may say when",
    502: "is the server behind this proxy or balancer up?",
    503: "try again later: Retry-After may say when",
    504: "is the server behind this proxy or balancer up?",
}

# Wherever they happen.
_ERRORS = {
    errno.EMFILE: "too many files are open: close some, or raise the limit (ulimit -n)",
    errno.ENFILE: "too many files are open on this machine",
    errno.EADDRNOTAVAIL: "is IPv6 switched off here, or source_address another machine's?",
}


def hint(exc: BaseException, phase: str) -> str:
    """One thing to try after *exc* in *phase*; empty if nothing better than its text is known."""
    if isinstance(exc, (InvalidStatus, InvalidProxyStatus)):
        return _for_status(exc.response, isinstance(exc, InvalidProxyStatus))
    if isinstance(exc, ProxyError):
        return "check the proxy's address, kind and credentials; proxy=None goes without"
    if isinstance(exc, InvalidMessage):
        return "does a server for HTTP/1.1 listen there? one that speaks TLS wants wss://"
    if isinstance(exc, InvalidUpgrade):
        return "is there a proxy or balancer on the way that doesn't pass WebSocket on?"
    if isinstance(exc, InvalidHeader):
        return "the server is at fault; without the option that offers it, it may work"
    if isinstance(exc, InvalidRedirect):
        return "is it the right URL? the server seems to expect another one"
    if isinstance(exc, TooManyRedirects):
        return "is it the right URL? some servers want cookies= or auth= first"
    if isinstance(exc, OSError):
        return _for_tls(exc, phase) or _for_network(exc, phase)
    return ""


def _for_status(response: Response, by_proxy: bool) -> str:
    code = response.status_code
    if by_proxy and code == 401:
        code = 407  # some proxies confuse them
    if by_proxy and code != 407:
        return "does the proxy allow connections to this host and port?"
    if 200 <= code < 300:
        return "does this URL lead to a WebSocket server? it answers like a website"
    if 300 <= code < 400 and "Location" in response.headers:
        return "it redirects, which max_redirects=0 doesn't follow: pass the final URL"
    fallback = "the server failed: see its log, or try again later" if code >= 500 else ""
    return _STATUSES.get(code, fallback)


def _for_tls(exc: OSError, phase: str) -> str:
    code = getattr(exc, "verify_code", None)
    reason = getattr(exc, "reason", None)
    found = ""
    if code:
        found = _CERTIFICATES.get(code, "the certificate isn't acceptable")
        if found is _CLOCK:
            found = _CLOCK.format(time.strftime("%Y-%m-%d", time.gmtime()))
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
    except OSError:
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
    if isinstance(exc, ConnectionRefusedError):
        return "is a server listening there?"
    if isinstance(exc, FileNotFoundError):
        return "is a server listening on this Unix socket?"
    if isinstance(exc, PermissionError):
        return "does a firewall or a file's mode forbid it?"
    if isinstance(exc, ConnectionError):
        return (
            "does the server speak TLS on this port?" if phase == "tls"
            else "the peer ended the connection: see its log"
        )  # fmt: skip
    return "is the network up, and is there a route to this address?" if phase == "tcp" else ""
