"""An echo for one message a connection, over pyOpenSSL: it wants a client certificate.

OpenSSL fails each resumption if certificates are wanted and no session id context is set.
Arguments: the server's certificate with its key, and the authority of the clients'.
"""

from __future__ import annotations

import base64
import hashlib
import socket
import sys
import threading

from OpenSSL import SSL

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
VERSIONS = {"TLSv1.2": SSL.TLS1_2_VERSION, "TLSv1.3": SSL.TLS1_3_VERSION}


def context(version, pem, authority):
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(version)
    context.set_max_proto_version(version)
    context.use_certificate_chain_file(pem)
    context.use_privatekey_file(pem)
    context.load_verify_locations(authority)
    verified = SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT
    context.set_verify(verified, lambda *args: bool(args[-1]))
    return context


def serve(listener, context):
    while True:
        connection = SSL.Connection(context, listener.accept()[0])
        connection.set_accept_state()
        try:
            talk(connection)
        except SSL.Error as exc:
            print("failed:", exc, flush=True)
        finally:
            connection.close()


def talk(connection):
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += connection.recv(65536)
    (key,) = [
        line.split(b":")[1].strip()
        for line in head.split(b"\r\n")
        if line.lower().startswith(b"sec-websocket-key")
    ]
    accept = base64.b64encode(hashlib.sha1(key + GUID).digest())
    connection.sendall(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n\x81\x05hello"
    )
    connection.recv(65536)
    connection.sendall(b"\x88\x02\x03\xe8")


for name, version in VERSIONS.items():
    listener = socket.create_server(("127.0.0.1", 0))
    print(f"{name}: {listener.getsockname()[1]}", flush=True)
    arguments = (listener, context(version, *sys.argv[1:]))
    threading.Thread(target=serve, args=arguments).start()
