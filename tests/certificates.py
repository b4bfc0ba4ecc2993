"""Contexts for TLS, with the certificates of ``tests/certs``."""

from __future__ import annotations

import functools
import ssl

from helpers import CERTS


def server_context(name="server", client_ca=None, version=None, **settings):
    """For a server with the certificate *name*, which wants one that *client_ca* has signed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(str(CERTS / f"{name}.pem"))
    if client_ca:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(str(CERTS / f"{client_ca}.pem"))
    if version:
        context.minimum_version = context.maximum_version = version
    for setting, value in settings.items():
        setattr(context, setting, value)
    return context


# For who changes nothing about it: making one takes as long as a handshake. A session of one test
# can't be resumed in another, as the clients' contexts are their own.
shared_server_context = functools.lru_cache(maxsize=None)(server_context)


def client_context(ca="ca", certificate=None):
    """For a client that trusts *ca* alone, and shows *certificate* if it is asked for one."""
    context = ssl.create_default_context(cafile=str(CERTS / f"{ca}.pem"))
    if certificate:
        context.load_cert_chain(str(CERTS / f"{certificate}.pem"))
    return context
