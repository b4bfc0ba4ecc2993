"""Contexts and sessions, which the TLS connections of a process share.

Nothing here takes a lock: each step is one operation of a dictionary, so that threads, signal
handlers, finalizers and forks may come between any two of them.
"""

from __future__ import annotations

import os
import ssl
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Server = tuple[bytes, int, int, int, bool] | None
    Sessions = dict[Server, ssl.SSLSession | None]

MAX_SESSIONS = 64  # remembered for each context
MAX_CONTEXTS = 4  # that sessions are remembered of: a session keeps its context alive

# The default context, and the environment that it was made in.
_default: tuple[tuple[object, ...], ssl.SSLContext] | None = None

# By context, the last session with each server: a handshake that resumes it is cheaper. OpenSSL
# takes one only in the context that it belongs to, and what was verified then holds for it. None is
# a server that fails when it is asked to resume one.
_sessions: dict[ssl.SSLContext, Sessions] = {}


def default_context() -> ssl.SSLContext:
    """The context of all connections that don't bring one: verifies chain and host name.

    It is made once, since loading the system's certificates takes tens of milliseconds; and again
    if the environment names others, or the file that it names is there now.
    """
    global _default
    file, folder = map(os.environ.get, ("SSL_CERT_FILE", "SSL_CERT_DIR"))
    made_in = file, folder, file is not None and os.path.exists(file)
    if _default is None or _default[0] != made_in:
        _default = made_in, _offering_http(ssl.create_default_context())
    return _default[1]


def unverified_context() -> ssl.SSLContext:
    """Make a context that accepts any certificate: encrypted, to an unknown peer."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # loads no authorities, which takes long
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    key_log = os.environ.get("SSLKEYLOGFILE")  # which create_default_context() heeds, too
    if key_log and not sys.flags.ignore_environment and hasattr(context, "keylog_filename"):
        context.keylog_filename = key_log
    return _offering_http(context)


def _offering_http(context: ssl.SSLContext) -> ssl.SSLContext:
    """*context*, which tells servers that speak HTTP/2, too, to speak HTTP/1.1 (RFC 7301)."""
    if ssl.HAS_ALPN:
        context.set_alpn_protocols(["http/1.1"])
    return context


def server_key(context: ssl.SSLContext, name: bytes, port: int, resumption: bool | None) -> Server:
    """The key under which the sessions with a server are remembered.

    What is verified is a part of it: a context may be changed between two connections. (As plain
    numbers, which hash without a step of Python.)

    Args:
        resumption: as ``tls_resumption``; where it says that none is resumed, the key is ``None``.
    """
    # ssl can't tell whether a context presents another certificate, or trusts others, than it did
    # when the session began. Our own context never changes.
    if resumption is None:
        resumption = _default is not None and context is _default[1]
    if not resumption:
        return None
    mode, flags = int(context.verify_mode), int(context.verify_flags)
    return name, port, mode, flags, context.check_hostname


def session_of(context: ssl.SSLContext, server: Server) -> ssl.SSLSession | None:
    """The session to resume with *server*, if there is one."""
    # The program's own context may have no hash: it isn't looked for in vain.
    return None if server is None else _sessions.get(context, {}).get(server)


def remember_session(
    context: ssl.SSLContext, server: Server, session: ssl.SSLSession | None
) -> None:
    """Remember *session*, and forget the sessions unused for the longest time."""
    # With TLS 1.3 there is a session before it can be resumed.
    if session is None or not session.id:
        return
    # None: it fails when it is asked to resume, see refuse_sessions.
    if _sessions.get(context, {}).get(server, session) is None:
        return
    _remember(context, server, session)


def refuse_sessions(context: ssl.SSLContext, server: Server) -> None:
    """Ask *server* no more to resume a session: it has failed when it was asked."""
    _remember(context, server, None)


def _remember(context: ssl.SSLContext, server: Server, session: ssl.SSLSession | None) -> None:
    # Out and in again: so the first of a dictionary is the one unused for the longest time.
    sessions = _sessions.pop(context, {})
    _sessions[context] = sessions
    sessions.pop(server, None)
    sessions[server] = session
    _drop_oldest(_sessions, MAX_CONTEXTS)
    _drop_oldest(sessions, MAX_SESSIONS)


def _drop_oldest(remembered: dict[Any, Any], most: int) -> None:
    while len(remembered) > most:
        try:
            remembered.pop(next(iter(remembered)), None)
        except (StopIteration, RuntimeError):
            return  # another thread does the same
