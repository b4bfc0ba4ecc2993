"""What the servers in Python share: see ../README.md for the paths that each of them serves."""

from __future__ import annotations

import json
import ssl
import sys
from urllib.parse import parse_qs, urlsplit

SUBPROTOCOLS = ["chat.v2", "chat.v1"]
FRAGMENT = 1000  # bytes
REFUSAL = "Not today: the reason is ünknown.\n"


def announce(**ports):
    """Tell the tests that the server listens: the first line of output."""
    print(json.dumps({"ports": ports}), flush=True)


def tell_closed(query, code, reason, **more):
    """Tell the tests how a connection ended, if its URL had a tag."""
    if "tag" in query:
        report = {"closed": query["tag"], "code": code, "reason": reason, **more}
        print(json.dumps(report), flush=True)


def tls_context():
    """The certificate and key are in the one file that is this program's argument."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[1])
    return context


def split_target(target):
    """The path and the query, as a dict, of a request target."""
    parts = urlsplit(target)
    query = parse_qs(parts.query, keep_blank_values=True)
    return parts.path, {name: values[0] for name, values in query.items()}


def fragments(data):
    """*data* in pieces, at least one, that don't respect characters."""
    return [data[i : i + FRAGMENT] for i in range(0, len(data), FRAGMENT)] or [data]
