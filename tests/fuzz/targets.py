"""A fuzz target for each parser of peers' bytes: any input gives a result or a documented error.

Each takes bytes, asserts what must hold for whatever they are, and raises what nobody documents.
"""

from __future__ import annotations

import atexit
import http.cookiejar
import json
import os
import re
import shutil
import tempfile
import unicodedata
from argparse import Namespace

from wsmini.cli import formats
from wsmini.cli.output import Screen, printable
from wsmini.cli.tracing import FrameScanner
from wsmini.exceptions import (
    Close,
    ConnectionClosed,
    InvalidHandshake,
    InvalidHeader,
    InvalidMessage,
    InvalidStatus,
    InvalidURI,
    NegotiationError,
    PayloadTooBig,
    ProtocolError,
    ProxyError,
    connection_closed,
)
from wsmini.opening import opening as opening_module
from wsmini.opening.cookies import MAX_SENT, cookie_header, store_cookies
from wsmini.opening.hints import hint
from wsmini.opening.opening import Opening
from wsmini.opening.proxy import connect_http, connect_socks4, connect_socks5, parse_proxy
from wsmini.opening.tls import TLSStream
from wsmini.opening.tls_context import unverified_context
from wsmini.options import Options
from wsmini.policies import retry_after, retryable
from wsmini.sansio.auth import Authenticator, parse_challenges, strength
from wsmini.sansio.deflate import Deflate, PerMessageDeflate
from wsmini.sansio.extensions import format_extensions, negotiate, parse_extensions
from wsmini.sansio.frames import check_close, close_payload, parse_close, read_close
from wsmini.sansio.handshake import accept_key, tokens
from wsmini.sansio.http11 import Headers, Response, is_value
from wsmini.sansio.protocol import ClientProtocol
from wsmini.sansio.redaction import redacted_header, redacted_uri
from wsmini.sansio.response import ResponseParser
from wsmini.sansio.uri import join, parse_uri
from wsmini.testing.peer import Peer, handshake_problem, parse_request
from wsmini.testing.replay import replay_script

LIMITS = (None, 1, 125, 70000, (None, 100), (1000, 10))
BASE = parse_uri("wss://user:pass@h/a/b?c=d")
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
S = "S3CRET"


def cut(data, size):
    return [data[at : at + size] for at in range(0, len(data), size)]


def text_of(data):
    """A value that a header can have."""
    text = data.decode("utf-8", "replace")
    return text if is_value(text) else "".join(c for c in text if is_value(c))


def protocol(data):
    """Cut or not, parsed the fast way or the plain one: no exception, and the same outcome."""
    if len(data) > 2:
        options, size, stream = data[0], data[1] + 1, data[2:]
        whole = _outcome([stream], options, False)
        assert whole == _outcome(cut(stream, size), options, True)


def _outcome(chunks, options, plain):
    extensions = [PerMessageDeflate()] if options & 0x80 else []
    limit = LIMITS[(options & 0x3F) % len(LIMITS)]
    protocol = ClientProtocol(extensions, max_size=limit, ping_interval=None)
    if plain:
        protocol.reader._fast_limit = -1
    messages = []
    for chunk in chunks:
        protocol.receive_data(chunk)
        while protocol.pending:
            messages += protocol.next_messages()
    return messages, protocol.state, protocol.rcvd, protocol.sent, type(protocol.failure)


def streaming(data):
    """In chunks, skipped or not, it ends as with whole messages."""
    if len(data) > 2:
        extensions = [PerMessageDeflate()] if data[0] & 1 else []
        protocol = ClientProtocol(extensions, max_size=10000, ping_interval=None)
        for chunk in cut(data[2:], data[1] + 1):
            protocol.receive_data(chunk)
            while protocol.pending:
                protocol.next_chunk()
                if data[0] & 2:
                    protocol.reader.skip()
        assert not protocol.finished or not protocol.reader.streaming


def inflate(data):
    """No more than is allowed, however it comes."""
    for fin in (True, False):
        extension = PerMessageDeflate(server_no_context_takeover=len(data) % 2 == 0)
        try:
            for chunk in cut(data, len(data) // 2 + 1):
                assert len(extension.inflate(chunk, 5000, fin)) <= 5000
            extension.inflate(b"", 5000)
        except (ProtocolError, PayloadTooBig):
            pass


def response(data):
    """Cut or not, a response or an InvalidMessage, and the same one."""
    outcomes = []
    for chunks in ([data], cut(data, 7)):
        parser = ResponseParser()
        parser.max_body = 100
        try:
            for chunk in chunks:
                parser.receive_data(chunk)
            parser.receive_eof()
            found = parser.response
            outcomes.append((found.status_code, found.reason_phrase, found.headers, found.body))
            repr(found)
            found.headers.copy()
        except InvalidMessage as exc:
            outcomes.append(type(exc))
    assert outcomes[0] == outcomes[1]


def challenges(data):
    """Whatever a server asks for, an answer can be sent."""
    value = text_of(data)
    found = parse_challenges([value, value])
    assert all(one.scheme and (one.params == {} or one.token68 is None) for one in found)
    assert min(map(strength, found), default=0) >= 0
    authenticator = Authenticator(("user", "pass"))
    for _ in range(3):
        answer = authenticator.respond([value], "GET", "/")
        assert answer is None or is_value(answer)


def extensions(data):
    value = text_of(data)
    try:
        found = parse_extensions(value)
        assert parse_extensions(format_extensions(found)) == found
        negotiate([value], [Deflate(), Deflate(server_max_window_bits=10)])
    except (InvalidHeader, NegotiationError) as exc:
        str(exc)
    tokens([value])


def uris(data):
    """What is parsed can be asked for; what isn't is told without what is secret."""
    text = data.decode("utf-8", "surrogateescape")
    for parse in (parse_uri, lambda text: join(BASE, text)):
        try:
            uri = parse(text)
        except InvalidURI as exc:
            str(exc)
        else:
            assert uri.resource_name.isascii() and uri.authority.isascii()
            assert parse_uri(str(uri._replace(query=None, username=None))).host == uri.host
    try:
        parse_proxy(text)
    except ValueError as exc:
        str(exc)


def redaction(data):
    """Whatever stands around it, a password that a URL has isn't shown, nor a value."""
    text = data.decode("latin-1")
    front, middle = text[: len(text) // 2], text[len(text) // 2 :]
    user, secret = front.translate(dict.fromkeys(map(ord, "/?#"))), "S3CRET"
    assert secret not in redacted_uri(f"ws://{user}:{secret}{middle}@h/")
    assert secret not in redacted_uri(f"{user}:{secret}{middle}@h/")
    assert secret not in redacted_uri(f"ws://h/?{front}={secret}{middle}")
    assert secret not in redacted_uri(f"ws://h/#{front}={secret}{middle}")
    redacted_header(text, text)


def cookies(data):
    jar = http.cookiejar.CookieJar()
    values = [text_of(line) for line in data.split(b"\0")]
    for host in ("ws://h.example/a", "ws://127.0.0.1/", "ws://[::1]/"):
        uri = parse_uri(host)
        store_cookies(jar, uri, uri, Headers([("Set-Cookie", value) for value in values]))
        sent = cookie_header(jar, uri, uri)
        assert sent is None or (is_value(sent) and len(sent.encode()) <= MAX_SENT)


def retry(data):
    seconds = retry_after(InvalidStatus(Response(503, "", [("Retry-After", text_of(data))])))
    assert seconds >= 0


def close(data):
    data = data[:125]
    said = read_close(data)
    str(said)
    try:
        check_close(data)
    except (ProtocolError, UnicodeDecodeError):
        return
    assert parse_close(data) == said
    assert not data or close_payload(*said) == data


def trace(data):
    """Cut or not, the same lines."""
    lines, others = [], []
    FrameScanner(lines.append).feed(data)
    scanner = FrameScanner(others.append)
    for chunk in cut(data, 3):
        scanner.feed(chunk)
    assert lines == others


# -- the opening, from the first byte of a proxy to the response --


class Stream:
    """Has received all of *data* already, which comes in pieces of *size*, and then the end."""

    sock = None
    unsent = unread = busy = cut = False

    def __init__(self, data, size=1 << 16):
        self.pieces, self.sent, self.closed = cut(data, size)[::-1], b"", False

    def recv(self, size, flags=0):
        piece = self.pieces.pop() if self.pieces else b""
        if len(piece) > size:
            self.pieces.append(piece[size:])
        return piece[:size]

    def send(self, data, flags=0):
        self.sent += bytes(data)
        return len(data)

    def flush(self, flags=0):
        return True

    def close(self):
        self.closed = True


def result(steps):
    """What *steps* return that never have to wait."""
    try:
        next(steps)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it waits, though everything is there")


def proxies(data):
    """Each kind of proxy: it connects or refuses, and takes no byte that is the server's."""
    socks = parse_proxy("socks5h://u:p@h")
    for size in (1, 1 << 16):
        for connect, given in (
            (connect_socks5, (socks, "host.example", 1, None)),
            (connect_socks5, (socks._replace(username=None), "10.0.0.1", 1, None)),
            (connect_socks4, (socks, "host.example", 1, None)),
            (connect_http, (ResponseParser(method="CONNECT"), "host.example:1", [])),
        ):
            stream = Stream(data, size)
            try:
                response = result(connect(stream, *given))
            except ProxyError as exc:
                str(exc), hint(exc, "proxy")
            else:
                if response is not None and not 200 <= response.status_code < 300:
                    continue
                taken = data[: len(data) - len(b"".join(stream.pieces))]
                if connect is connect_http:
                    assert taken.endswith((b"\n\n", b"\n\r\n"))
                else:
                    assert len(taken) <= 2 + 2 + 4 + 1 + 255 + 2


class Scripted(Opening):
    """Each connection gets the next answer."""

    def __init__(self, options, answers):
        super().__init__(options)
        self.answers, self.streams, self.is_secure = answers[::-1], [], []

    def _connect_tcp(self, host, port, shown):
        self._journal.enter("tcp", shown)
        self.streams.append((host, Stream(self.answers.pop() if self.answers else b"")))
        return self._owned(self.streams[-1][1])
        yield

    def _resolve(self, host, port, shown):
        return [(2, 1, 6, "", ("10.0.0.1", port))]
        yield

    def _start_tls(self, stream, context, name, port):
        return stream
        yield


PROXIES = (
    None, "http://p:q@proxy.example", "https://proxy.example", "socks5h://p:q@proxy.example",
    "socks5://proxy.example", "socks4a://proxy.example",
)  # fmt: skip


def opening(data):
    """Whatever servers and proxies answer, round for round: a connection or a documented error.

    Secrets go to the server that they are for, and into no message.
    """
    if not data:
        return
    jar = http.cookiejar.CookieJar() if data[0] & 1 else None
    told = []
    options = Options(
        f"wss://u:{S}@home.example/?token={S}", proxy=PROXIES[(data[0] >> 4) % len(PROXIES)],
        subprotocols=["a", "b"], cookies=jar, trace=told.append,
        auth=("u", S) if data[0] & 2 else None,
        additional_headers={"X-Api-Key": S} if data[0] & 4 else (),
    )  # fmt: skip
    attempt = Scripted(options, data[1:].split(b"\0\0"))
    make_key, opening_module.make_key = opening_module.make_key, lambda: KEY
    try:
        opened = result(attempt.steps())
    except (OSError, InvalidHandshake) as exc:
        assert all(stream.closed for _, stream in attempt.streams)
        told += [str(exc), repr(exc), str(exc.__cause__), exc.hint]
        retryable(exc)
    else:
        assert [stream.closed for _, stream in attempt.streams].count(False) == 1
        told += [opened.request, opened.response]
    finally:
        opening_module.make_key = make_key
    assert len(attempt.streams) <= 40
    assert S not in repr(told)
    for host, stream in attempt.streams:
        if host != "home.example" and b"\r\nHost: home.example" not in stream.sent:
            assert S.encode() not in stream.sent


ENGINE = unverified_context()


def tls(data):
    """What answers the beginning of a TLS handshake ends it with an error of the network's."""
    stream = Stream(data, 100)
    secure = TLSStream(stream, ENGINE, "host.example", 443)
    try:
        result(secure.handshake())
    except OSError as exc:
        assert exc.errno is not None
        str(exc), hint(exc, "tls"), retryable(exc)
    else:
        raise AssertionError("a handshake without a certificate")


# -- what the command line shows, reads and plays again --

ARGS = Namespace(
    raw=False, ndjson=False, null=False, json=False, dump=False, base64=False, timestamps=False
)
RECORD = os.path.join(tempfile.mkdtemp(prefix="wsmini-fuzz-"), "record")
atexit.register(shutil.rmtree, os.path.dirname(RECORD))
# Unicode's Default_Ignorable_Code_Point, but for what emojis and scripts are written with: joiners
# and variation selectors.
IGNORABLE = (
    (0xAD, 0xAD), (0x34F, 0x34F), (0x61C, 0x61C), (0x115F, 0x1160), (0x17B4, 0x17B5),
    (0x180E, 0x180E), (0x200B, 0x200B), (0x200E, 0x200F), (0x202A, 0x202E), (0x2060, 0x206F),
    (0x3164, 0x3164), (0xFEFF, 0xFEFF), (0xFFA0, 0xFFA0), (0xFFF0, 0xFFF8), (0x1BCA0, 0x1BCA3),
    (0x1D173, 0x1D17A), (0xE0000, 0xE00FF), (0xE01F0, 0xE0FFF),
)  # fmt: skip
BIDI = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")


def shown(data):
    """Nothing of a message drives a terminal, or passes for a note."""
    text = data.decode("utf-8", "replace")
    safe = printable(text)
    assert all(c in "\n\t" or not unsafe(c) for c in safe)
    screen, lines = Screen(ARGS), []
    screen.show = lines.append
    for message in (text, data):
        screen.message(message)
    assert not any(re.match(r"wsmini:|[<>*] ", line) for line in "\n".join(lines).split("\n"))
    formats.dumped(data)


def unsafe(character):
    """Whether it is a control, ends a line or turns it round, or isn't seen."""
    category, code = unicodedata.category(character), ord(character)
    return (
        category in ("Cc", "Zl", "Zp")
        or unicodedata.bidirectional(character) in BIDI
        or any(first <= code <= last for first, last in IGNORABLE)
    )


def jsons(data):
    """Indented, it is the same JSON; and no line of input is anything but a message or an error."""
    text = data.decode("utf-8", "replace")
    indented = formats.indented(text)
    assert len(indented) <= 16 * len(text) + (1 << 17)
    if indented != text:
        assert repr(json.loads(indented)) == repr(json.loads(text))
    for parse in (formats.from_json, formats.from_hex, formats.from_base64, formats.decoded):
        try:
            message = parse(data)
        except UnicodeError as exc:
            str(exc)
        else:
            assert isinstance(message, (str, bytes))
            if parse is formats.from_base64:
                assert formats.encoded64(message).rstrip("=")[:-1] == text.rstrip("=")[:-1]


class Player:
    """Stands in for the peer of a script."""

    def __init__(self):
        self.messages, self.sent = ["a", "a"], []

    def accept(self, subprotocol):
        self.sent.append((subprotocol or "").encode())

    def send_message(self, message):
        self.sent.append(message if isinstance(message, bytes) else message.encode())

    def recv_message(self):
        if self.messages:
            return self.messages.pop()
        raise connection_closed(Close(1000, "x"), None, None)

    def close(self, code, reason):
        self.sent.append(code.to_bytes(2, "big") + reason.encode())


def records(data):
    """A file of --record is a script, or isn't one; and such a script can be played."""
    with open(RECORD, "wb") as file:
        file.write(data)
    try:
        script = replay_script(RECORD)
    except ValueError as exc:
        str(exc)
        return
    for _ in range(3):
        try:
            script(Player())
        except ConnectionClosed as exc:
            str(exc)
        except AssertionError as exc:
            assert str(exc).startswith("expected ")


# -- servers for tests, whose peers are clients --


class Client:
    """A socket from which *data* can be read."""

    def __init__(self, data):
        self.data = data

    def recv(self, size):
        data, self.data = self.data, b""
        return data

    def sendall(self, data):
        pass


def served(data):
    """What a client sends to a server of ``wsmini.testing``: a request, then messages."""
    head, _, rest = data.partition(b"\r\n\r\n")
    try:
        request = parse_request(head)
        handshake_problem(request)
        repr(request)
    except ProtocolError as exc:
        str(exc)
    peer = Peer(Client(rest), [], timeout=None, max_size=1000)
    try:
        while True:
            assert len(peer.recv_message()) <= 1000
    except (ProtocolError, PayloadTooBig, ConnectionClosed, EOFError, ValueError) as exc:
        str(exc)


TARGETS = {
    function.__name__: function
    for function in (
        protocol, streaming, inflate, response, challenges, extensions, uris, redaction, cookies,
        retry, close, trace, proxies, opening, tls, shown, jsons, records, served,
    )
}  # fmt: skip

# What inputs are made of: pieces that mean something to the parser, and anything between them.
WORDS = {
    "protocol": [
        b"\x81\x02hi",
        b"\x89\0",
        b"\x88\x02\x03\xe8",
        b"\xc1\x03\3\0\0",
        b"\0\0",
        b"\2\1a",
    ],
    "streaming": [b"\x81\x02hi", b"\1\2\xc3\xa9", b"\0\1a", b"\x80\0", b"\x8a\0", b"\x41\2\3\0"],
    "inflate": [b"\3\0", b"\0", b"\x4b\4\0", b"\0\0\0\xff\xff", b"\xf2H\xcd\xc9\xc9\7\0"],
    "response": [
        b"HTTP/1.1 101 OK\r\n",
        b"HTTP/1.1 100 x\r\n\r\n",
        b"\r\n",
        b"\n",
        b"A: b",
        b": ",
        b" ",
        b"Content-Length: 5\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"5\r\n",
        b"0\r\n",
    ],
    "challenges": [
        b"Basic",
        b"Digest",
        b"realm=",
        b'"',
        b",",
        b" ",
        b"\\",
        b"=",
        b"\t",
        b"a",
        b"nonce=n",
        b'qop="auth"',
        b"algorithm=SHA-256",
        b"stale=true",
        b"==",
        b"userhash=true",
    ],
    "extensions": [
        b"permessage-deflate",
        b";",
        b",",
        b"=",
        b'"',
        b" ",
        b"server_max_window_bits=10",
        b"\\",
        b"client_max_window_bits",
        b"server_no_context_takeover",
    ],
    "uris": [
        b"ws://",
        b"wss:",
        b"//",
        b"h",
        b":80",
        b"[::1]",
        b"@",
        b"u:p@",
        b"/",
        b"?",
        b"#",
        b"..",
        b"%41",
        b"%",
        b"\xc3\xa9",
        b"ws+unix:",
        b".",
        b"\\",
        b" ",
        b"socks5://",
    ],
    "redaction": [b"ws://", b"@", b"?", b"#", b"=", b"&", b";", b"/", b"\\", b":", b"[::1]", b"a"],
    "cookies": [
        b"a=1",
        b"; ",
        b"Path=/",
        b"Domain=.example",
        b"Max-Age=9",
        b"\0",
        b"\t",
        b"=",
        b'"',
        b"Expires=Mon, 01-Jan-2040 00:00:00 GMT",
        b"Secure",
        b"Version=1",
        b"port",
    ],
    "retry": [b"1", b"0", b".", b"Sun, 06 Nov 1994 08:49:37 GMT", b" ", b"Nov", b"9999999999"],
    "close": [b"\x03\xe8", b"\x03\xed", b"\x0f\xa0", b"\xc3", b"\xff", b"a"],
    "trace": [b"\x81\x02hi", b"\x81\x7e\x01\x00", b"\x82\x7f", b"\x81\x80", b"\0"],
    "proxies": [
        b"\5\0",
        b"\5\2",
        b"\1\0",
        b"\5\0\0\1",
        b"\5\0\0\3\4",
        b"\0\x5a",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 407 Who\r\n",
        b"Proxy-Authenticate: Basic realm=r\r\n\r\n",
        b"\0\0\0\0\0\0",
    ],
    "opening": [
        b"\x07",
        b"\x16",
        b"\x21",
        b"\0\0",
        b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: upgrade\r\n",
        b"Sec-WebSocket-Accept: " + accept_key(KEY).encode() + b"\r\n",
        b"Sec-WebSocket-Protocol: a\r\n",
        b"Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=9\r\n",
        b"HTTP/1.1 302 Found\r\n",
        b"Location: /x\r\n",
        b"Location: wss://other.example/?q=1\r\n",
        b"HTTP/1.1 401 Who\r\n",
        b"HTTP/1.1 407 Who\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"WWW-Authenticate: Basic realm=r\r\n",
        b'WWW-Authenticate: Digest realm="r", nonce="n", qop="auth"\r\n',
        b"Proxy-Authenticate: Digest nonce=n, stale=true\r\n",
        b"Set-Cookie: a=1; Path=/\r\n",
        b"Content-Length: 3\r\n",
        b"Retry-After: 9\r\n",
        b"\r\n",
        b"\5\0\5\0\0\1\1\2\3\4\5\6",
        b"\5\2\1\0\5\0\0\1\1\2\3\4\5\6",
        b"\0\x5a\0\1\2\3\4\5",
    ],
    "tls": [
        b"\x16\3\3",
        b"\x15\3\3\0\2\2\x28",
        b"\2\0\0",
        b"\0\x4a",
        b"\3\3",
        b"HTTP/1.1 400 Bad\r\n\r\n",
        b"\x14\3\3\0\1\1",
        b"\0\x2b\0\2\3\4",
        b"\x13\2\0",
        bytes(32),
    ],
    "shown": [
        b"wsmini:",
        b"> ",
        b"\n",
        b"\r",
        b"\x1b[2J",
        b"\xe2\x80\x8b",
        b"\xf3\xa0\x80\x81",
        b"\xe2\x80\xa8",
        b"\xc2\x85",
        b"\xef\xbb\xbf",
        b"\xe3\x85\xa4",
        b"\xf3\xa0\x84\x80",
        b"a",
    ],
    "jsons": [
        b"[",
        b"{",
        b'"a":',
        b"1,",
        b"]",
        b"}",
        b'{"payload": "',
        b'"}',
        b'"type": "binary"',
        b"\\ud800",
        b"NaN",
        b"1e999",
        b"QQ==",
        b"QUJD",
        b"0a",
        b" ",
        b"null",
        b"9" * 30,
    ],
    "records": [
        b'{"type": "open", "subprotocol": null}\n',
        b'{"type": "text", "direction": "sent", "payload": "a"}\n',
        b'{"type": "binary", "direction": "received", "payload": "QQ=="}\n',
        b'{"type": "close", "direction": "received", "code": 1000, "reason": "x"}\n',
        b'{"type": "close", "direction": "sent", "code": 1005, "reason": ""}\n',
        b'{"type": "close", "direction": "received", "reason": "x", "code": ',
        b'{"type": "close", "direction": "received", "code": 1000, "reason": ',
        b'{"type": "text", "direction": "received", "payload": ',
        b'{"type": "binary", "direction": "received", "payload": ',
        b'{"type": "open", "subprotocol": ',
        b"}\n",
        b"\n",
        b"null",
        b"-1",
        b"1e9",
        b"70000",
        b'"\\ud800"',
        b"[",
        b"{}",
        b'"received"',
    ],
    "served": [
        b"GET / HTTP/1.1\r\n",
        b"Host: h\r\n",
        b"Upgrade: websocket\r\n",
        b"Connection: upgrade\r\n",
        b"Sec-WebSocket-Version: 13\r\n",
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
        b"\r\n\r\n",
        b"\x81\x82abcd\0\0",
        b"\1\x81abcd\0",
        b"\x80\x80abcd",
        b"\x89\x80abcd",
        b"\x88\x82abcd\x62\x8a",
        b"\x82\xfe\0\x7e",
    ],
}
