"""What stands behind the names in the documentation when its examples run: servers and proxies."""

from __future__ import annotations

import contextlib
import select
import socket
import socketserver
import ssl
import struct
import threading

from certificates import server_context

from wsmini.testing import Challenge, CloseWith, Refuse, echo_server, fault_server, scripted_server

USER, PASSWORD = "user", "password"


def mutual_context():
    """For a server that wants to see a certificate of the client's."""
    return server_context(client_ca="ca")


def old_context():
    """For a server of the time when SHA-1 was good enough."""
    context = server_context(maximum_version=ssl.TLSVersion.TLSv1_2)
    context.set_ciphers("ECDHE-ECDSA-AES128-SHA:@SECLEVEL=0")
    return context


def feed(peer):
    """Echo; and end in good order once somebody has subscribed."""
    peer.accept()
    while True:
        message = peer.recv_message()
        peer.send_message(message)
        if message == "subscribe":
            peer.close()
            return


class Proxy(socketserver.ThreadingTCPServer):
    """An HTTP proxy, over TLS if *context* is given, or a SOCKS5 proxy that looks names up.

    Attribute: ``used``, how many connections it has made.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, connect, context=None):
        super().__init__(("127.0.0.1", 0), _Tunnel)
        self.connect, self.context, self.used = connect, context, 0
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def address(self):
        return f"127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request, client_address):
        """A client that hangs up in the middle is its own business; it fails there."""

    def __exit__(self, *args):
        self.shutdown()
        self.server_close()


class _Tunnel(socketserver.BaseRequestHandler):
    def handle(self):
        proxy, sock = self.server, self.request
        if proxy.context is not None:
            sock = proxy.context.wrap_socket(sock, server_side=True)
        with sock:
            target = proxy.connect(sock)
            if target is not None:
                proxy.used += 1
                with target:
                    _relay(sock, target)


def _relay(one, other):
    while True:
        pending = getattr(one, "pending", int)()
        ready = [one] if pending else select.select([one, other], [], [])[0]
        for source, sink in ((one, other), (other, one)):
            if source in ready:
                data = source.recv(65536)
                if not data:
                    return
                sink.sendall(data)


def _exactly(sock, size):
    data = b""
    while len(data) < size:
        some = sock.recv(size - len(data))
        if not some:
            raise EOFError
        data += some
    return data


def http_connect(sock):
    """CONNECT, for who brings the right user and password; others get a 407."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += _exactly(sock, 1)
    if b"Proxy-Authorization: Basic dXNlcjpwYXNzd29yZA==\r\n" not in head:
        sock.sendall(
            b"HTTP/1.1 407 No\r\nProxy-Authenticate: Basic realm=x\r\nContent-Length: 0\r\n\r\n"
        )
        return None
    host, _, port = head.split()[1].decode().rpartition(":")
    target = socket.create_connection((host.strip("[]"), int(port)))
    sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    return target


def socks5(sock):
    """RFC 1928, without authentication."""
    _exactly(sock, _exactly(sock, 2)[1])
    sock.sendall(b"\5\0")
    kind = _exactly(sock, 4)[3]
    if kind == 3:
        host = _exactly(sock, _exactly(sock, 1)[0]).decode()
    else:
        family, size = (socket.AF_INET, 4) if kind == 1 else (socket.AF_INET6, 16)
        host = socket.inet_ntop(family, _exactly(sock, size))
    (port,) = struct.unpack(">H", _exactly(sock, 2))
    target = socket.create_connection((host, port))
    sock.sendall(b"\5\0\0\1\0\0\0\0\0\0")
    return target


@contextlib.contextmanager
def running():
    """What is written in the documentation -> what it stands for here; and the proxies."""
    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        names = {}
        plain = enter(echo_server())
        for scheme in ("ws", "wss"):
            names[f"{scheme}://example.com/feed"] = enter(scripted_server(feed)).url + "/feed"
            names[f"{scheme}://example.com"] = plain.url.rstrip("/")
        names["example.com:443:192.0.2.1"] = f"127.0.0.1:{plain.port}:127.0.0.1"
        secure = {
            "localhost": server_context(),
            "pinned.example": server_context("self-signed"),
            "mutual.example": mutual_context(),
            "old.example": old_context(),
        }
        for name, context in secure.items():
            names[f"wss://{name}"] = f"wss://localhost:{enter(echo_server(ssl=context)).port}"
        behaving = {
            "forbids": Refuse(403, body=b"not from there\n"),
            "asks": Challenge(USER, PASSWORD),
            "objects": CloseWith(1008, "no such channel"),
        }
        for name, fault in behaving.items():
            names[f"ws://{name}.example"] = enter(fault_server(then=fault)).url.rstrip("/")
        proxies = {
            "proxy.example:3128": enter(Proxy(http_connect)),
            "proxy.example:3129": enter(Proxy(http_connect, server_context())),
            "localhost:1080": enter(Proxy(socks5)),
        }
        names.update((name, proxy.address) for name, proxy in proxies.items())
        yield names, proxies
