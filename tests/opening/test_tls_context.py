"""Contexts and sessions, which TLS connections share."""

from __future__ import annotations

import ssl

import pytest
from helpers import CERTS

from wsmini.opening import tls_context
from wsmini.opening.tls_context import (
    default_context,
    refuse_sessions,
    remember_session,
    server_key,
    session_of,
    unverified_context,
)


@pytest.fixture(autouse=True)
def nothing_is_shared(monkeypatch):
    monkeypatch.setattr(tls_context, "_default", None)
    monkeypatch.setattr(tls_context, "_sessions", {})
    # Loading the system's authorities takes longer than all the rest.
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTS / "ca.pem"))


def test_the_default_context_verifies_and_is_made_once():
    context = default_context()
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert default_context() is context


def test_the_default_context_is_made_again_for_other_authorities(monkeypatch, tmp_path):
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    named = tmp_path / "ca.pem"
    monkeypatch.setenv("SSL_CERT_FILE", str(named))
    assert not default_context().get_ca_certs()  # the file isn't there
    named.write_text((CERTS / "ca.pem").read_text())
    assert len(default_context().get_ca_certs()) == 1  # now it is
    context = default_context()
    assert default_context() is context
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    assert default_context() is not context


def test_the_unverified_context():
    context = unverified_context()
    assert context.verify_mode is ssl.CERT_NONE
    assert not context.check_hostname


@pytest.mark.skipif(
    not hasattr(ssl.SSLContext, "keylog_filename"), reason="this OpenSSL logs no keys"
)
@pytest.mark.parametrize("make", [default_context, unverified_context])
def test_keys_are_logged_if_the_environment_says_so(make, monkeypatch, tmp_path):
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
    assert make().keylog_filename == str(tmp_path / "keys")


@pytest.mark.parametrize("resumption", [None, True, False])
def test_whose_sessions_are_resumed(resumption):
    ours, theirs = default_context(), ssl.create_default_context()
    tls_context._default = ((), ours)
    assert bool(server_key(ours, b"h", 443, resumption)) is (resumption is not False)
    assert bool(server_key(theirs, b"h", 443, resumption)) is (resumption is True)


def test_a_context_without_sessions_needs_no_hash():
    class Context(ssl.SSLContext):
        __hash__ = None

    context = Context(ssl.PROTOCOL_TLS_CLIENT)
    assert session_of(context, server_key(context, b"h", 443, None)) is None


class Session:
    id = b"x"


def test_sessions_are_bounded():
    contexts = [
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) for _ in range(tls_context.MAX_CONTEXTS + 1)
    ]
    for port in range(tls_context.MAX_SESSIONS + 10):
        remember_session(contexts[0], port, Session())
        remember_session(contexts[0], 0, Session())  # in use again and again
    kept = tls_context._sessions[contexts[0]]
    assert len(kept) == tls_context.MAX_SESSIONS
    assert 0 in kept and 1 not in kept and tls_context.MAX_SESSIONS + 9 in kept
    for context in contexts[1:]:
        remember_session(context, 0, Session())
        remember_session(contexts[1], 0, Session())
    assert list(tls_context._sessions) == [contexts[2], contexts[3], contexts[4], contexts[1]]


def test_a_server_that_fails_to_resume_is_not_asked_again():
    context = default_context()
    remember_session(context, 443, Session())
    assert session_of(context, 443)
    refuse_sessions(context, 443)
    remember_session(context, 443, Session())  # which it gives out all the same
    assert session_of(context, 443) is None
