"""What the tests with proxies, TLS ends and web servers share: see proxies.py for these.

Behind each of them is the witness, servers/witness_server.py, which tells what it saw.
"""

from __future__ import annotations

import contextlib
import json
import random
import socket
import ssl
from urllib.parse import quote

import pytest
from peers import HERE

CERTS = HERE.parent / "certs"
# Of servers; "server" is the good one.
CERTIFICATES = ("server", "self-signed", "expired", "not-yet-valid", "wrong-host", "other-server")

TLS_VERSIONS = ("TLSv1.2", "TLSv1.3")

REALM = "interop"
USER = "user"
# What only the right encoding survives; and for programs whose configuration can't hold that.
PASSWORD, PLAIN_PASSWORD = "pä:ss @wörd%41", "secret-password"
# A user that is known only to the strongest way of those a server offers.
STRONG = "strong"


def userinfo(password=PASSWORD, user=USER):
    return f"{quote(user, safe='')}:{quote(password, safe='')}@"


def seen(ws):
    """What the witness saw of a request for ``/request``: see its module."""
    return json.loads(ws.recv(timeout=10))


def is_direct(ws, report):
    """Whether the witness and the client have the same connection, with nobody in between."""
    return tuple(report["peer"]) == ws.local_address[:2]


def values(report, name):
    """The values of a header in a report of the witness."""
    return [value for key, value in report["headers"] if key.lower() == name.lower()]


def trusting(*certificates):
    """A context that trusts the authority of the certificates here, and shows some of its own."""
    context = ssl.create_default_context(cafile=str(CERTS / "ca.pem"))
    for name in certificates:
        context.load_cert_chain(str(CERTS / f"{name}.pem"))
    return context


def free_port():
    """A port where nothing listens; below those that the system gives to clients by itself."""
    for port in random.sample(range(20000, 32000), 100):
        with socket.socket() as sock:
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError("no port is free")


FAMILIES = {"::1": socket.AF_INET6, "127.0.0.1": socket.AF_INET, "127.0.0.2": socket.AF_INET}


@contextlib.contextmanager
def blackhole(host):
    """An address that nothing comes back from: Linux drops what a full backlog can't take."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.socket(FAMILIES[host]))
        server.bind((host, 0))
        server.listen(0)
        address = server.getsockname()[:2]
        for _ in range(4):
            client = stack.enter_context(socket.socket(FAMILIES[host]))
            client.setblocking(False)
            client.connect_ex(address)
        with pytest.raises(socket.timeout):
            socket.create_connection(address, 0.1)
        yield address
