"""A fuzz target for each parser of peers' bytes: any input gives a result or a documented error.

Each takes bytes, asserts what must hold for whatever they are, and raises what nobody documents.
"""

from __future__ import annotations

import http.cookiejar

from wsmini.cli.tracing import FrameScanner
from wsmini.exceptions import (
    InvalidHeader,
    InvalidMessage,
    InvalidStatus,
    InvalidURI,
    NegotiationError,
    PayloadTooBig,
    ProtocolError,
)
from wsmini.opening.cookies import MAX_SENT, cookie_header, store_cookies
from wsmini.opening.proxy import parse_proxy
from wsmini.policies import retry_after
from wsmini.sansio.auth import Authenticator, parse_challenges, strength
from wsmini.sansio.deflate import Deflate, PerMessageDeflate
from wsmini.sansio.extensions import format_extensions, negotiate, parse_extensions
from wsmini.sansio.frames import check_close, close_payload, parse_close, read_close
from wsmini.sansio.handshake import tokens
from wsmini.sansio.http11 import Headers, Response, is_value
from wsmini.sansio.protocol import ClientProtocol
from wsmini.sansio.redaction import redacted_header, redacted_uri
from wsmini.sansio.response import ResponseParser
from wsmini.sansio.uri import join, parse_uri

LIMITS = (None, 1, 125, 70000, (None, 100), (1000, 10))
BASE = parse_uri("wss://user:pass@h/a/b?c=d")


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
    protocol = ClientProtocol(max_size=LIMITS[(options & 0x3F) % len(LIMITS)], ping_interval=None)
    protocol.open([PerMessageDeflate()] if options & 0x80 else [])
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
        protocol = ClientProtocol(max_size=10000, ping_interval=None)
        protocol.open([PerMessageDeflate()] if data[0] & 1 else [])
        for chunk in cut(data[2:], data[1] + 1):
            protocol.receive_data(chunk)
            while protocol.pending:
                protocol.next_chunk()
                if data[0] & 2:
                    protocol.skip()
        assert not protocol.finished or not protocol.streaming


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
        parser = ResponseParser(max_body=100)
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


TARGETS = {
    function.__name__: function
    for function in (
        protocol, streaming, inflate, response, challenges, extensions, uris, redaction, cookies,
        retry, close, trace,
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
}
