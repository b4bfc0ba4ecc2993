"""The servers for tests, seen by a client made of a raw socket."""

from __future__ import annotations

import random
import re
import socket
import threading
import time
import zlib

import pytest
from helpers import PATIENCE, PROMPT, SEED, splits
from pairs import reset

from wsmini.exceptions import Close, ConnectionClosedOK, PayloadTooBig, ProtocolError
from wsmini.sansio.frames import Frame, Opcode
from wsmini.testing import echo_server, frame, peer, scripted_server, servers

ssl = pytest.importorskip("ssl")

from certificates import client_context, server_context  # noqa: E402  # it needs ssl
from tables import each_row  # noqa: E402

DEFLATE = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
HANDSHAKE = {
    "Host": "localhost",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
}
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


class Client:
    """Says exactly what it is told to, and knows frames and heads of responses."""

    def __init__(self, server, context=None, server_hostname="localhost"):
        self.sock = socket.create_connection((server.host, server.port), timeout=PATIENCE)
        if context is not None:
            self.sock = context.wrap_socket(self.sock, server_hostname=server_hostname)
        self.reader = self.sock.makefile("rb")

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.reader.close()
        self.sock.close()

    def send(self, *args, **options):
        self.sock.sendall(frame(*args, masked=True, **options))

    def request(self, line="GET /chat?x=1 HTTP/1.1", **headers):
        self.sock.sendall(request(line, **headers))

    def line(self):
        line = self.reader.readline()
        if not line:
            raise EOFError("the server closed the connection")
        return line

    def response(self):
        """The status line, and the headers by their names in lower case."""
        line, *lines = iter(self.line, b"\r\n")
        pairs = [line.decode().rstrip().split(": ", 1) for line in lines]
        return line.decode().rstrip("\r\n"), {name.lower(): value for name, value in pairs}

    def open(self, **headers):
        self.request(**headers)
        status, answer = self.response()
        assert status == "HTTP/1.1 101 Switching Protocols"
        return answer

    def recv(self):
        """(first byte, payload) of a frame that must not be masked."""
        head, n = self.reader.read(2)
        if n == 126:
            n = int.from_bytes(self.reader.read(2), "big")
        elif n == 127:
            n = int.from_bytes(self.reader.read(8), "big")
        return head, self.reader.read(n)

    def rest(self):
        """All that comes until the server closes the connection."""
        return self.reader.read()


def request(line="GET /chat?x=1 HTTP/1.1", **headers):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    fields = {**HANDSHAKE, **named}
    lines = [f"{name}: {value}" for name, value in fields.items() if value is not None]
    return "\r\n".join([line, *lines, "", ""]).encode()


def in_background(function, *args):
    thread = threading.Thread(target=function, args=args)
    thread.start()
    return thread


# -- frame() --

FRAMES = {
    "empty": (frame(Opcode.TEXT), b"\x81\x00"),
    "text": (frame(Opcode.TEXT, "é"), b"\x81\x02\xc3\xa9"),
    "fragment": (frame(Opcode.BINARY, b"x", fin=False), b"\x02\x01x"),
    "reserved bits": (frame(0, b"", rsv1=True, rsv2=True, rsv3=True), b"\xf0\x00"),
    "125": (frame(2, bytes(125)), b"\x82\x7d" + bytes(125)),
    "126": (frame(2, bytes(126)), b"\x82\x7e\x00\x7e" + bytes(126)),
    "65535": (frame(2, bytes(65535)), b"\x82\x7e\xff\xff" + bytes(65535)),
    "65536": (frame(2, bytes(65536)), b"\x82\x7f" + (65536).to_bytes(8, "big") + bytes(65536)),
    "unknown opcode": (frame(11), b"\x8b\x00"),
}


@pytest.mark.parametrize("built, expected", FRAMES.values(), ids=FRAMES)
def test_frame(built, expected):
    assert built == expected


@pytest.mark.parametrize("size", [0, 5, 125, 126, 1000])
def test_a_masked_frame(size):
    data = random.Random(SEED).getrandbits(8 * size + 1).to_bytes(size + 1, "big")[1:]
    built = frame(Opcode.BINARY, data, masked=True)
    assert built[1] & 0x80
    key, payload = built[len(built) - size - 4 :][:4], built[len(built) - size :]
    assert bytes(byte ^ key[i % 4] for i, byte in enumerate(payload)) == data


# -- the echo server --


@pytest.fixture(scope="module")
def echo():
    with echo_server(max_size=2**25) as server:
        yield server


def test_the_opening_handshake_of_the_rfc(echo):
    before = len(echo.requests), echo.connections
    with Client(echo) as client:
        assert client.open(X_Test="1") == {
            "upgrade": "websocket",
            "connection": "Upgrade",
            "sec-websocket-accept": ACCEPT,
        }
        seen = echo.requests[-1]
        assert (len(echo.requests), echo.connections) == (before[0] + 1, before[1] + 1)
        assert (seen.method, seen.target) == ("GET", "/chat?x=1")
        assert seen.headers["x-test"] == "1"


def test_where_it_listens(echo):
    assert echo.host == "127.0.0.1"
    assert echo.port > 0
    assert echo.url == f"ws://127.0.0.1:{echo.port}"


def test_a_port_of_choice():
    with echo_server() as server:
        port = server.port
    with echo_server(port=port) as server, Client(server) as client:
        assert server.port == port
        client.open()


def test_ipv6():
    try:
        server = echo_server(host="::1")
    except OSError:
        pytest.skip("there is no IPv6 here")
    with server, Client(server) as client:
        assert server.url == f"ws://[::1]:{server.port}"
        client.open()


@each_row("opcode", [Opcode.TEXT, Opcode.BINARY])
@each_row("size", [0, 1, 125, 126, 127, 65535, 65536, 200000])
def test_messages_come_back(echo, opcode, size):
    data = random.Random(SEED).getrandbits(8 * size + 8).to_bytes(size + 1, "big")[1:]
    data = data.translate(bytes(range(128)) * 2)
    with Client(echo) as client:
        client.open()
        client.send(opcode, data)
        assert client.recv() == (0x80 | opcode, data)


def test_however_the_bytes_are_split(echo):
    data = request() + frame(1, "split", masked=True) + frame(8, b"", masked=True)
    for chunks in splits(data):
        with Client(echo) as client:
            client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for chunk in chunks:
                client.sock.sendall(chunk)
            client.response()
            assert client.rest() == frame(1, "split") + frame(8)


def test_fragments_are_put_together_and_pings_between_them_answered(echo):
    with Client(echo) as client:
        client.open()
        client.send(Opcode.TEXT, b"\xc3", fin=False)
        client.send(Opcode.PING, b"p")
        client.send(Opcode.CONT, b"\xa9", fin=False)
        client.send(Opcode.PONG, b"unasked")
        client.send(Opcode.CONT, b"!")
        assert client.recv() == (0x8A, b"p")
        assert client.recv() == (0x81, "é!".encode())


@pytest.mark.parametrize(
    "sent, answer",
    [(b"", b""), (b"\x03\xe8", b"\x03\xe8"), (b"\x0f\xa0bye", b"\x0f\xa0")],
    ids=["no code", "1000", "4000 with a reason"],
)
def test_a_close_frame_is_answered_and_the_connection_closed(echo, sent, answer):
    with Client(echo) as client:
        client.open()
        client.send(Opcode.CLOSE, sent)
        assert client.rest() == frame(Opcode.CLOSE, answer)


def masked(*args, **options):
    return frame(*args, masked=True, **options)


VIOLATIONS = {
    "not masked": (frame(1, "x"), 1002),
    "rsv1": (masked(1, rsv1=True), 1002),
    "rsv2": (masked(1, rsv2=True), 1002),
    "rsv3": (masked(1, rsv3=True), 1002),
    "opcode 3": (masked(3), 1002),
    "opcode 11": (masked(11), 1002),
    "fragmented ping": (masked(9, fin=False), 1002),
    "long ping": (masked(9, bytes(126)), 1002),
    "nothing to continue": (masked(0, b"x"), 1002),
    "not continued": (masked(1, "x", fin=False) + masked(1, "x"), 1002),
    "length 125 in 2 bytes": (b"\x82\xfe\x00\x7d" + bytes(129), 1002),
    "length 65535 in 8 bytes": (b"\x82\xff" + (65535).to_bytes(8, "big") + bytes(65539), 1002),
    "length 2**63": (b"\x82\xff\x80" + bytes(7) + bytes(4), 1002),
    "close of 1 byte": (masked(8, b"x"), 1002),
    "close code 1005": (masked(8, b"\x03\xed"), 1002),
    "close code 999": (masked(8, b"\x03\xe7"), 1002),
    "reason not UTF-8": (masked(8, b"\x03\xe8\xff"), 1007),
    "text not UTF-8": (masked(1, b"\xff"), 1007),
    "text cut in a character": (masked(1, b"\xc3"), 1007),
    "declared too big": (b"\x82\xff" + (2**25 + 1).to_bytes(8, "big"), 1009),
    "fragments too big": (
        masked(2, bytes(2**24), fin=False) + masked(0, bytes(2**24 + 1), fin=False),
        1009,
    ),
}


@each_row("sent, code", VIOLATIONS.values(), ids=VIOLATIONS)
def test_a_violation_gets_its_close_code(echo, sent, code):
    with Client(echo) as client:
        client.open()
        client.sock.sendall(sent)
        head, payload = client.recv()
        assert (head, payload[:2]) == (0x88, code.to_bytes(2, "big"))
        assert 2 < len(payload) <= 125
        assert client.rest() == b""


def test_the_close_code_arrives_though_the_client_goes_on_sending(echo):
    with Client(echo) as client:
        client.open()
        thread = in_background(client.sock.sendall, frame(1, "x") + bytes(2**22))
        head, payload = client.recv()
        assert (head, payload[:2]) == (0x88, b"\x03\xea")
        thread.join()


REFUSALS = {
    "POST": ({"line": "POST / HTTP/1.1"}, "400 Bad Request"),
    "no host": ({"Host": None}, "400 Bad Request"),
    "no upgrade": ({"Upgrade": None}, "400 Bad Request"),
    "another upgrade": ({"Upgrade": "h2c"}, "400 Bad Request"),
    "connection": ({"Connection": "close"}, "400 Bad Request"),
    "no key": ({"Sec_WebSocket_Key": None, "Sec-WebSocket-Key": None}, "400 Bad Request"),
    "short key": ({"Sec-WebSocket-Key": "YWJj"}, "400 Bad Request"),
    "key not base64": ({"Sec-WebSocket-Key": "a"}, "400 Bad Request"),
    "version": ({"Sec-WebSocket-Version": "8"}, "426 Upgrade Required"),
    "no version": ({"Sec-WebSocket-Version": None}, "426 Upgrade Required"),
    "HTTP/2": ({"line": "GET / HTTP/2"}, "400 Bad Request"),
    "no HTTP": ({"line": "hello"}, "400 Bad Request"),
    "bad header": ({"a b": "c"}, "400 Bad Request"),
    "too long": ({"X-Long": "x" * 100000}, "400 Bad Request"),
}


@each_row("fields, status", REFUSALS.values(), ids=REFUSALS)
def test_a_wrong_handshake_is_refused(echo, fields, status):
    with Client(echo) as client:
        client.request(**fields)
        line, headers = client.response()
        assert line == f"HTTP/1.1 {status}"
        assert len(client.rest()) == int(headers["content-length"]) > 0
        assert headers.get("sec-websocket-version") == ("13" if status[0:3] == "426" else None)


@pytest.mark.parametrize("connection", ["upgrade", "keep-alive, Upgrade", "UPGRADE,x"])
def test_the_connection_header_is_a_list_in_any_case(echo, connection):
    with Client(echo) as client:
        client.open(Connection=connection, Upgrade="WebSocket")


@pytest.mark.parametrize(
    "offered, chosen",
    [("b, a", "a"), ("b", "b"), ("c", None), ("A", None), (None, None)],
)
def test_subprotocols(offered, chosen):
    with echo_server(subprotocols=["a", "b"]) as server, Client(server) as client:
        answer = client.open(Sec_WebSocket_Protocol=offered)
        assert answer.get("sec-websocket-protocol") == chosen


OFFERS = {
    "plain": ("permessage-deflate", DEFLATE),
    "none": (None, None),
    "unknown extension": ("x-other", None),
    "unknown parameter": ("permessage-deflate; x=1", None),
    "client's window": ("permessage-deflate; client_max_window_bits", DEFLATE),
    "client's window of 10": ("permessage-deflate; client_max_window_bits=10", DEFLATE),
    "client's window of 7": ("permessage-deflate; client_max_window_bits=7", None),
    "server's window": (
        'permessage-deflate;server_max_window_bits="9"',
        f"{DEFLATE}; server_max_window_bits=9",
    ),
    "server's window of 8": ("permessage-deflate; server_max_window_bits=8", None),
    "second choice": (
        "permessage-deflate; server_max_window_bits=8 , x, permessage-deflate ;"
        " server_no_context_takeover; client_no_context_takeover",
        DEFLATE,
    ),
}


@each_row("offer, answer", OFFERS.values(), ids=OFFERS)
def test_what_is_answered_to_an_offer_of_compression(offer, answer):
    with echo_server(compression=True) as server, Client(server) as client:
        headers = client.open(Sec_WebSocket_Extensions=offer)
        assert headers.get("sec-websocket-extensions") == answer


def test_compression_is_off_by_default(echo):
    with Client(echo) as client:
        assert "sec-websocket-extensions" not in client.open(
            Sec_WebSocket_Extensions="permessage-deflate"
        )


def deflated(data):
    compressor = zlib.compressobj(wbits=-15)
    return (compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


def inflated(data, window_bits=15):
    return zlib.decompressobj(wbits=-window_bits).decompress(data + b"\x00\x00\xff\xff")


@pytest.fixture
def compressing():
    with echo_server(compression=True, max_size=2**20) as server, Client(server) as client:
        client.open(Sec_WebSocket_Extensions="permessage-deflate; server_max_window_bits=9")
        yield client


@pytest.mark.parametrize("text", ["", "hello", "x" * 100000], ids=len)
def test_compressed_messages_come_back_compressed(compressing, text):
    for _ in range(2):
        compressing.send(Opcode.TEXT, deflated(text.encode()), rsv1=True)
        head, payload = compressing.recv()
        assert head == 0xC1
        assert inflated(payload, window_bits=9) == text.encode()


def test_compressed_fragments(compressing):
    data = deflated(b"fragments")
    compressing.send(Opcode.BINARY, data[:3], fin=False, rsv1=True)
    compressing.send(Opcode.CONT, data[3:])
    head, payload = compressing.recv()
    assert (head, inflated(payload)) == (0xC2, b"fragments")


def test_messages_need_not_be_compressed(compressing):
    compressing.send(Opcode.TEXT, "plain")
    head, payload = compressing.recv()
    assert (head, inflated(payload)) == (0xC1, b"plain")


@pytest.mark.parametrize(
    "sent, code",
    [
        (masked(2, b"\xff\xff", rsv1=True), 1002),
        (masked(1, deflated(b"\xff"), rsv1=True), 1007),
        (masked(2, deflated(bytes(2**20 + 1)), rsv1=True), 1009),
        (masked(2, b"", rsv1=True, fin=False) + masked(0, b"", rsv1=True), 1002),
        (masked(9, b"", rsv1=True), 1002),
    ],
    ids=["not deflated", "not UTF-8", "too big when inflated", "rsv1 on a continuation", "ping"],
)
def test_a_violation_of_compression_gets_its_close_code(compressing, sent, code):
    compressing.sock.sendall(sent)
    head, payload = compressing.recv()
    assert (head, payload[:2]) == (0x88, code.to_bytes(2, "big"))


def test_a_large_message(echo):
    data = random.Random(SEED).getrandbits(8 * 2**22).to_bytes(2**22, "big")
    with Client(echo) as client:
        client.open()
        thread = in_background(client.send, Opcode.BINARY, data)
        assert client.recv() == (0x82, data)
        thread.join()


def test_many_small_messages(echo):
    messages = [b"%d" % i for i in range(3000)]
    with Client(echo) as client:
        client.open()
        data = b"".join(frame(1, message, masked=True) for message in messages)
        thread = in_background(client.sock.sendall, data)
        assert [client.recv()[1] for _ in messages] == messages
        thread.join()


def test_many_fragments(echo):
    with Client(echo) as client:
        client.open()
        data = masked(1, "x", fin=False) + masked(0, b"x", fin=False) * 10000 + masked(0, b"x")
        client.sock.sendall(data)
        assert client.recv() == (0x81, b"x" * 10002)


def test_connections_are_independent():
    with echo_server() as server:
        clients = [Client(server) for _ in range(10)]
        for client in clients:
            client.open()
        for i, client in enumerate(reversed(clients)):
            client.send(Opcode.TEXT, str(i))
            assert client.recv() == (0x81, str(i).encode())
            client.__exit__()
        assert server.connections == len(server.requests) == 10


def test_a_client_that_leaves_is_no_error():
    with echo_server() as server:
        with Client(server):
            pass
        with Client(server) as client:
            client.open()
            client.sock.sendall(b"\x81")
        with Client(server) as client:
            client.open()
            reset(client.sock)
    assert server.errors == []


def test_close_ends_connections_and_threads_at_once():
    server = echo_server()
    with Client(server) as client:
        client.open()
        start = time.monotonic()
        server.close()
        server.close()
        assert time.monotonic() - start < PROMPT
        assert client.rest() == b""
        with pytest.raises(OSError):
            socket.create_connection((server.host, server.port), timeout=PATIENCE).close()
    assert not [t for t in threading.enumerate() if t.name == "wsmini-server-1"]


def test_close_ends_a_connection_whose_client_does_not_read(monkeypatch):
    monkeypatch.setattr(peer, "LINGER", 0.1)
    monkeypatch.setattr(servers, "_STUCK", PATIENCE)  # for its thread, which has been told to end
    with echo_server() as server, Client(server) as client:
        client.open()
        client.sock.settimeout(0.2)
        with pytest.raises(socket.timeout):
            client.sock.sendall(masked(2, bytes(2**20)) * 64)  # until nothing moves
        server.close()
        assert server.errors == []


# -- the scripted server --


def run(script, client=None, **options):
    """Serve one client, or one that only opens a connection; the server, after its end."""
    with scripted_server(script, **options) as server, Client(server) as connected:
        (client or Client.open)(connected)
    return server


def test_a_conversation():
    def script(peer):
        peer.accept()
        assert peer.recv_message() == "hello"
        peer.send_frame(Opcode.TEXT, "good ", fin=False)
        peer.send_frame(Opcode.CONT, "bye")
        assert peer.close(1001, "going away") == Close(4000, "ok")

    def client(self):
        self.open()
        self.send(Opcode.TEXT, "hello")
        assert [self.recv() for _ in range(3)] == [
            (0x01, b"good "),
            (0x80, b"bye"),
            (0x88, b"\x03\xe9going away"),
        ]
        self.send(Opcode.TEXT, "too late")
        self.send(Opcode.CLOSE, b"\x0f\xa0ok")
        assert self.rest() == b""

    server = run(script, client)
    assert (server.connections, len(server.requests), server.errors) == (1, 1, [])


ACCEPTED = {
    "nothing": ({}, {"sec-websocket-accept": ACCEPT}),
    "subprotocol": ({"subprotocol": "chat"}, {"sec-websocket-protocol": "chat"}),
    "extensions": ({"extensions": "x; y=1"}, {"sec-websocket-extensions": "x; y=1"}),
    "a header more": ({"headers": {"X-A": "é"}}, {"upgrade": "websocket", "x-a": "é"}),
    "pairs": ({"headers": [("X-A", "1"), ("X-B", "2")]}, {"x-a": "1", "x-b": "2"}),
    "replaced": ({"headers": {"sec-websocket-ACCEPT": "no"}}, {"sec-websocket-accept": "no"}),
    "left out": ({"headers": {"Upgrade": None}}, {"upgrade": None, "connection": "Upgrade"}),
}


@pytest.mark.parametrize("options, expected", ACCEPTED.values(), ids=ACCEPTED)
def test_accept(options, expected):
    def client(self):
        headers = self.open()
        assert {name: headers.get(name) for name in expected} == expected

    run(lambda peer: peer.accept(**options), client)


def test_accept_with_bytes_behind_the_response():
    def client(self):
        self.open()
        assert self.rest() == b"\x81\x02hi\x88\x00"

    run(lambda peer: peer.accept(then=frame(1, "hi") + frame(8)), client)


def test_accept_demands_an_opening_handshake():
    with pytest.raises(ProtocolError, match="Upgrade is 'h2c', not websocket"):
        run(lambda peer: peer.accept(), lambda client: client.request(Upgrade="h2c"))


def test_the_request_can_be_looked_at_before_it_is_accepted():
    def script(peer):
        request = peer.request()
        assert (request.method, request.target) == ("GET", "/chat?x=1")
        assert request.headers["host"] == "localhost"
        peer.accept(headers={"X-Saw": request.headers["X-Name"]})

    def client(self):
        assert self.open(X_Name="é")["x-saw"] == "é"

    run(script, client)


def test_a_request_may_be_in_latin_1():
    def client(self):
        self.sock.sendall(request(X_Name="%").replace(b"%", b"\xe9"))
        self.response()

    assert run(lambda peer: peer.accept(), client).requests[0].headers["X-Name"] == "é"


RESPONSES = {
    "no body": ("GET", (404, "Not Found"), "404 Not Found", "0", b""),
    "no reason": ("GET", (404,), "404 ", "0", b""),
    "body": ("GET", (403, "No", {"X-A": "1"}, b"why"), "403 No", "3", b"why"),
    "wrong length": ("GET", (403, "No", {"Content-Length": "9"}, b"why"), "403 No", "9", b"why"),
    "no length": ("GET", (403, "No", {"content-length": None}, b"why"), "403 No", None, b"why"),
    "204": ("GET", (204,), "204 ", None, b""),
    "tunnel": ("CONNECT", (200, "OK"), "200 OK", None, b""),
    "no tunnel": ("CONNECT", (407, "Who?"), "407 Who?", "0", b""),
}


@pytest.mark.parametrize("method, args, line, length, body", RESPONSES.values(), ids=RESPONSES)
def test_respond(method, args, line, length, body):
    def client(self):
        self.request(f"{method} / HTTP/1.1")
        status, headers = self.response()
        assert (status, headers.get("content-length")) == (f"HTTP/1.1 {line}", length)
        assert self.rest() == body

    assert run(lambda peer: peer.respond(*args), client).requests[0].method == method


def test_several_requests_on_one_connection():
    def script(peer):
        peer.respond(100)
        peer.respond(200)
        peer.accept()

    def client(self):
        self.request("CONNECT example.com:80 HTTP/1.1")
        assert self.response()[0] == "HTTP/1.1 100 "
        self.request("CONNECT example.com:80 HTTP/1.1")
        assert self.response() == ("HTTP/1.1 200 ", {})
        self.open()

    targets = [request.target for request in run(script, client).requests]
    assert targets == ["example.com:80", "example.com:80", "/chat?x=1"]


def test_recv_frame_shows_every_frame_and_answers_none():
    def script(peer):
        peer.accept()
        expected = [
            Frame(Opcode.TEXT, b"a", False, True),
            Frame(Opcode.PING, b"p", True, False, True, True),
            Frame(3, b"", True),
            Frame(Opcode.CLOSE, b"\x00", True),
        ]
        assert [peer.recv_frame() for _ in expected] == expected
        peer.send_raw(b"raw")

    def client(self):
        self.open()
        self.send(1, "a", fin=False, rsv1=True)
        self.send(9, "p", rsv2=True, rsv3=True)
        self.send(3)
        self.send(8, b"\x00")
        assert self.rest() == b"raw"

    run(script, client)


def test_a_wrong_frame_can_be_sent():
    def script(peer):
        peer.accept()
        peer.send_frame(3, b"x", fin=False, rsv1=True, rsv2=True, rsv3=True, masked=True)

    def client(self):
        self.open()
        assert re.fullmatch(rb"\x73\x81.{5}", self.rest(), re.DOTALL)

    run(script, client)


def receive(peer):
    peer.accept()
    while True:
        peer.recv_message()


BROKEN = {
    "not masked": (frame(1, "x"), ProtocolError, "expected a masked frame"),
    "reserved bits": (masked(1, rsv1=True), ProtocolError, "reserved bits"),
    "not UTF-8": (masked(1, b"\xff"), UnicodeDecodeError, "invalid start byte"),
    "too big": (masked(2, bytes(1001)), PayloadTooBig, "1001 bytes exceed the limit of 1000"),
}


@pytest.mark.parametrize("sent, error, message", BROKEN.values(), ids=BROKEN)
def test_a_client_that_breaks_the_protocol_fails_the_test(sent, error, message):
    def client(self):
        self.open()
        self.sock.sendall(sent)

    with pytest.raises(error, match=message):
        run(receive, client, max_size=1000)


class Unusual(BaseException):
    """Not an ``Exception``, like what pytest.fail() raises."""


@pytest.mark.parametrize("error", [AssertionError, OSError, Unusual, SystemExit])
def test_the_exception_of_a_script_is_raised_where_the_block_ends(error):
    def script(peer):
        raise error("of the script")

    with pytest.raises(error, match="of the script"):
        run(script, lambda client: client.rest())


def test_the_exception_of_the_block_becomes_the_context():
    def script(peer):
        raise ValueError("of the script")

    with pytest.raises(ValueError, match="of the script") as info:
        with scripted_server(script) as server, Client(server) as client:
            client.rest()
            raise KeyError("of the block")
    assert isinstance(info.value.__context__, KeyError)


def test_an_interrupted_block_stays_interrupted():
    def script(peer):
        raise ValueError("of the script")

    with pytest.raises(KeyboardInterrupt):
        with scripted_server(script) as server, Client(server) as client:
            client.rest()
            raise KeyboardInterrupt
    assert len(server.errors) == 1


def test_all_exceptions_are_kept():
    def script(peer):
        raise ValueError(peer.recv_frame().data)

    server = scripted_server(script)
    for data in (b"1", b"2"):
        with Client(server) as client:
            client.send(2, data)
            client.rest()
    server.close()
    assert [error.args for error in server.errors] == [(b"1",), (b"2",)]


def leave(client):
    client.open()


def close_properly(client):
    client.open()
    client.send(Opcode.CLOSE, b"\x03\xe8")
    assert client.recv() == (0x88, b"\x03\xe8")


def leave_with_a_reset(client):
    client.open()
    reset(client.sock)


LOST = {
    "closed TCP": (leave, EOFError),
    "closed": (close_properly, ConnectionClosedOK),
    "reset": (leave_with_a_reset, ConnectionError),
}


@pytest.mark.parametrize("client, error", LOST.values(), ids=LOST)
def test_to_lose_the_client_is_an_error_only_if_asked_for(client, error):
    run(receive, client)
    with pytest.raises(error):
        run(receive, client, strict=True)


def test_a_client_that_does_nothing_is_an_error():
    def client(self):
        self.open()
        self.rest()

    with pytest.raises(TimeoutError, match="did nothing for 0.05 seconds"):
        run(receive, client, timeout=0.05)


def test_a_timeout_between_frames_loses_nothing():
    timed_out = threading.Event()

    def script(peer):
        peer.accept()
        peer.sock.settimeout(0.01)
        with pytest.raises(TimeoutError):
            peer.recv_frame()
        timed_out.set()
        peer.sock.settimeout(PATIENCE)
        assert peer.recv_message() == "late"
        peer.close()

    def client(self):
        self.open()
        assert timed_out.wait(PATIENCE)
        self.send(1, "late")
        assert self.recv() == (0x88, b"\x03\xe8")

    run(script, client)


def test_a_script_comes_to_its_end_though_the_block_has_ended():
    done = []

    def script(peer):
        peer.accept()
        done.extend(peer.recv_frame().data for _ in range(100))

    def client(self):
        self.open()
        self.sock.sendall(masked(2, b"x") * 100)

    run(script, client)
    assert len(done) == 100


def test_a_script_that_waits_for_its_client_loses_it_where_the_block_ends():
    start = time.monotonic()
    with scripted_server(receive) as server:
        client = Client(server)
        client.open()
    client.__exit__()
    assert time.monotonic() - start < PROMPT


def test_a_script_that_does_not_end_is_an_error(monkeypatch):
    monkeypatch.setattr(servers, "_STUCK", 0.05)
    begun, end = threading.Event(), threading.Event()

    def script(peer):
        begun.set()
        end.wait(PATIENCE)

    with pytest.raises(RuntimeError, match="still runs"):
        run(script, lambda client: begun.wait(PATIENCE))
    end.set()


def test_a_script_may_close_its_server():
    servers = []

    def script(peer):
        peer.accept()
        servers[0].close()

    with scripted_server(script) as server, Client(server) as client:
        servers.append(server)
        client.open()
        client.rest()
    with pytest.raises(OSError):
        socket.create_connection((server.host, server.port), timeout=PATIENCE).close()


def test_a_script_may_close_the_socket():
    def script(peer):
        peer.accept()
        peer.sock.close()

    def client(self):
        self.open()
        assert self.rest() == b""

    run(script, client)


# -- TLS --


def test_echo_over_tls():
    with echo_server(ssl=server_context("server")) as server:
        assert server.url == f"wss://127.0.0.1:{server.port}"
        with Client(server, client_context()) as client:
            client.open()
            for data in (b"x", bytes(2**20)):
                client.send(Opcode.BINARY, data)
                assert client.recv() == (0x82, data)
            client.send(Opcode.CLOSE, b"\x03\xe8")
            assert client.rest() == b"\x88\x02\x03\xe8"


@pytest.mark.parametrize("tls", [True, False], ids=["after the handshake", "before the handshake"])
def test_close_ends_tls_connections_too(tls):
    with echo_server(ssl=server_context("server")) as server:
        with Client(server, client_context() if tls else None) as client:
            start = time.monotonic()
            server.close()
            assert time.monotonic() - start < PROMPT
            assert client.rest() == b""


CERTIFICATES = {
    "good": ("server", "ca", "localhost", None),
    "good for IPv4": ("server", "ca", "127.0.0.1", None),
    "good for IPv6": ("server", "ca", "::1", None),
    "the other authority is trusted": ("other-server", "other-ca", "localhost", None),
    "itself is trusted": ("self-signed", "self-signed", "localhost", None),
    "expired": ("expired", "ca", "localhost", "expired"),
    "not yet valid": ("not-yet-valid", "ca", "localhost", "not yet valid"),
    "wrong host": ("wrong-host", "ca", "localhost", "[Hh]ostname mismatch"),
    "other authority": ("other-server", "ca", "localhost", "unable to get local issuer"),
    "self-signed": ("self-signed", "ca", "localhost", "self.signed certificate"),
    "a client's": ("client", "ca", "client.example", "certificate purpose"),
}


@each_row("name, ca, host, error", CERTIFICATES.values(), ids=CERTIFICATES)
def test_certificates(name, ca, host, error):
    with echo_server(ssl=server_context(name)) as server:
        if error is None:
            with Client(server, client_context(ca), host) as client:
                client.open()
        else:
            with pytest.raises(ssl.SSLCertVerificationError, match=error):
                Client(server, client_context(ca), host)
    assert server.errors == []


def test_a_client_certificate():
    def script(peer):
        peer.accept(headers={"X-Name": peer.sock.getpeercert()["subject"][0][0][1]})

    context = client_context(certificate="client")
    with scripted_server(script, ssl=server_context("server", client_ca="ca")) as server:
        with Client(server, context) as client:
            assert client.open()["x-name"] == "wsmini test client"


def test_a_client_without_the_certificate_that_is_asked_for():
    context = server_context("server", client_ca="ca")
    with scripted_server(receive, ssl=context) as server:
        with pytest.raises(OSError):  # noqa: PT012  # in the handshake or, TLS 1.3, behind it
            with Client(server, client_context()) as client:
                client.open()
    assert server.requests == []
