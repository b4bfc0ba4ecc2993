"""What each parser of peers' bytes costs as its input grows: twice the input, twice the work.

    python tests/growth.py     a table in instructions, by valgrind; status 1 if one grows faster

The tests count steps of Python with the same inputs, which takes a moment, and time what is read
by regular expressions; instructions show also what is copied or searched again and again in C.
"""

from __future__ import annotations

import glob
import http.cookiejar
import os
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if __name__ == "__main__":
    sys.path.insert(0, ROOT)

from wsmini.cli.formats import dumped, from_base64, indented  # noqa: E402
from wsmini.cli.output import _NOTE, printable  # noqa: E402
from wsmini.cli.tracing import FrameScanner  # noqa: E402
from wsmini.exceptions import (  # noqa: E402
    InvalidHeader,
    InvalidMessage,
    InvalidStatus,
    InvalidURI,
    ProtocolError,
)
from wsmini.opening.cookies import MAX_COOKIES, cookie_header, store_cookies  # noqa: E402
from wsmini.policies import retry_after  # noqa: E402
from wsmini.sansio.auth import Challenge, digest, parse_challenges  # noqa: E402
from wsmini.sansio.deflate import PerMessageDeflate  # noqa: E402
from wsmini.sansio.extensions import parse_extensions  # noqa: E402
from wsmini.sansio.frames import header, read_close  # noqa: E402
from wsmini.sansio.handshake import tokens  # noqa: E402
from wsmini.sansio.http11 import Headers, Response  # noqa: E402
from wsmini.sansio.protocol import ClientProtocol  # noqa: E402
from wsmini.sansio.redaction import redacted_header, redacted_uri  # noqa: E402
from wsmini.sansio.response import ResponseParser  # noqa: E402
from wsmini.sansio.uri import join, parse_uri  # noqa: E402
from wsmini.testing.peer import parse_request  # noqa: E402

MOST = 2.2  # times the work for twice the input
MARK = "getppid"  # the function of libc between whose calls instructions are counted
BASE = parse_uri("wss://h/a/b?c=d")
FIN, RSV1, TEXT, BINARY, PING, PONG = 0x80, 0x40, 1, 2, 9, 10


def frame(head, data=b""):
    return header(head, len(data), 0) + data


def pieces(data, size):
    return [data[at : at + size] for at in range(0, len(data), size)]


# -- each returns what is to be done, for *n* times something --


def challenges(start, again, end=""):
    return lambda n: lambda: parse_challenges([start + again * n + end])


def respond(start, again, end=b"\r\n\r\n", size=1 << 16):
    """A response that comes in pieces."""

    def prepare(n):
        chunks = pieces(start + again * n + end, size)

        def run():
            parser = ResponseParser()
            parser.max_line = parser.max_headers = parser.max_head = 1 << 20
            try:
                for chunk in chunks:
                    parser.receive_data(chunk)
            except InvalidMessage:
                pass

        return run

    return prepare


def receive(before, again, deflated=False, size=1 << 20, streaming=False):
    """Frames that come in pieces."""

    def prepare(n):
        chunks = pieces(before + again * n, size)

        def run():
            extensions = [PerMessageDeflate()] if deflated else []
            protocol = ClientProtocol(extensions, max_size=None, ping_interval=None)
            for chunk in chunks:
                protocol.receive_data(chunk)
                while protocol.pending:
                    if streaming:
                        protocol.next_chunk()
                    else:
                        protocol.next_messages()
            assert protocol.failure is None or b"\3\0\3\0" in again

        return run

    return prepare


def call(function, make, *errors):
    def prepare(n):
        argument = make(n)

        def run():
            try:
                function(argument)
            except errors:
                pass

        return run

    return prepare


def trace(again):
    def prepare(n):
        data = again * n
        return lambda: FrameScanner(len).feed(data)

    return prepare


def set_cookies(start, again):
    """Set one, and send it."""

    def prepare(n):
        headers = Headers([("Set-Cookie", start + again * n)])

        def run():
            jar = http.cookiejar.CookieJar()
            store_cookies(jar, BASE, BASE, headers)
            cookie_header(jar, BASE, BASE)

        return run

    return prepare


def connect_again(n):
    """With one jar, that all responses put cookies into."""
    heads = [
        Headers([("Set-Cookie", f"c{200 * i + k}=1; Path=/") for k in range(20)]) for i in range(n)
    ]

    jar = http.cookiejar.CookieJar()
    full = [("Set-Cookie", f"full{k}=1; Path=/") for k in range(MAX_COOKIES)]
    store_cookies(jar, BASE, BASE, Headers(full))

    def run():
        for headers in heads:
            store_cookies(jar, BASE, BASE, headers)
            cookie_header(jar, BASE, BASE)

    return run


def compare(n):
    headers = Headers([(f"A{i}", "b") for i in range(n)])
    return lambda: headers == headers.copy()


def retry(value):
    return InvalidStatus(Response(503, "", [("Retry-After", value)]))


def follow(reference):
    return join(BASE, reference)


def digest_of(value):
    params = {"nonce": value, "realm": value, "qop": value, "opaque": value}
    return digest(Challenge("digest", params, None), ("u", "p"), "GET", "/", "c", 1)


def refusal(n):
    return InvalidStatus(Response(403, "", (), b"\xff <a>" * n))


def reason(n):
    return b"\x03\xe8" + b"\xff" * n


def notes(n):
    return "wsmini:\n" * n


OK = b"HTTP/1.1 403 No\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"

CASES = {  # name -> how often at first, what then is prepared and run
    "challenges: blanks, then a quote": (2000, challenges("Digest realm=", " ", '"x')),
    "challenges: blanks behind a value": (2000, challenges("Digest a=b", " ", '"')),
    "challenges: blanks": (2000, challenges("", " ")),
    "challenges: commas": (2000, challenges("Basic", ",")),
    "challenges: blanks behind a comma": (2000, challenges("Digest a=b,", " ", '"')),
    "challenges: commas, then a sign": (2000, challenges("", ",", "=")),
    "challenges: equals, then a quote": (2000, challenges("Basic a", "=", '"')),
    "challenges: a long token": (2000, challenges("", "a", '"')),
    "challenges: token68": (2000, challenges("Basic ", "a", '"')),
    "challenges: equals": (2000, challenges("Basic a", "=", "x")),
    "challenges: escapes": (2000, challenges('Digest a="', '\\"')),
    "challenges: escapes, closed": (2000, challenges('Digest a="', '\\"', '"')),
    "challenges: quotes": (2000, challenges("Digest ", '"')),
    "challenges: many": (1000, challenges("", "Basic, ")),
    "challenges: parameters": (500, challenges("Digest ", 'a="b", ')),
    "digest": (2000, call(digest_of, lambda n: 'auth,"' * n)),
    "head: headers": (500, respond(OK, b"A: b\r\n")),
    "head: bytewise": (2000, respond(OK + b"A: ", b"b", size=1)),
    "head: folded": (1000, respond(OK + b"A: b", b"\r\n c")),
    "head: folded blanks": (4000, respond(OK + b"A: b\r\n", b" \t")),
    "head: blanks": (4000, respond(OK + b"A:", b" ")),
    "head: line feeds": (2000, respond(OK, b"a:\n")),
    "head: no name": (4000, respond(OK, b"a")),
    "head: returns": (4000, respond(OK + b"A: ", b"\r", size=7)),
    "interim": (3, respond(b"", b"HTTP/1.1 100 Go on\r\n\r\n" * 1, size=1)),
    "body: chunks": (1000, respond(CHUNKED, b"1\r\na\r\n", b"0\r\n\r\n", 1)),
    "body: a chunk's extension": (4000, respond(CHUNKED + b"1", b";", size=3)),
    "body: trailers": (1000, respond(CHUNKED + b"0\r\n", b"A: b\r\n", size=5)),
    "extensions": (2000, call(parse_extensions, lambda n: "a;b=c," * n, InvalidHeader)),
    "extensions: parameters": (2000, call(parse_extensions, lambda n: "a" + ";b" * n)),
    "extensions: escapes": (
        2000, call(parse_extensions, lambda n: 'a;b="' + "\\c" * n + '"', InvalidHeader),
    ),
    "extensions: blanks": (2000, call(parse_extensions, lambda n: "a;" + " " * n + "b")),
    "headers compared": (200, compare),
    "tokens": (2000, call(tokens, lambda n: ["a, " * n])),
    "location: dots": (2000, call(follow, lambda n: "../x/" * n, InvalidURI)),
    "location: slashes": (2000, call(follow, lambda n: "/" + "/a" * n, InvalidURI)),
    "location: escapes": (2000, call(follow, lambda n: "%" * n, InvalidURI)),
    "location: @": (2000, call(follow, lambda n: "ws://" + "a@" * n, InvalidURI)),
    "location: not ASCII": (2000, call(follow, lambda n: "/" + "é" * n, InvalidURI)),
    "location: no-break spaces": (2000, call(follow, lambda n: "\xa0" * n, InvalidURI)),
    "location: colons": (2000, call(follow, lambda n: "ws://" + ":" * n, InvalidURI)),
    "location: a long host": (2000, call(follow, lambda n: "ws://" + "é" * n, InvalidURI)),
    "shown: @": (2000, call(redacted_uri, lambda n: "ws://:x" + "a@" * n)),
    "shown: a long host": (2000, call(redacted_uri, lambda n: "ws://u@" + "a:" * n + " ")),
    "shown: a long address": (2000, call(redacted_uri, lambda n: "ws://u@[" + "1:" * n + " ")),
    "shown: a long zone": (2000, call(redacted_uri, lambda n: "ws://u@[1%" + "%." * n)),
    "shown: pairs": (2000, call(redacted_uri, lambda n: "?" + "a=b&;" * n)),
    "shown: #": (2000, call(redacted_uri, lambda n: "#" * n + "@")),
    "shown: header": (2000, call(lambda name: redacted_header(name, ""), lambda n: "a-" * n)),
    "cookies: a jar": (5, connect_again),
    "cookies: semicolons": (2000, set_cookies("c=1", ";")),
    "cookies: blanks": (2000, set_cookies("c=1;", " ")),
    "cookies: attributes": (500, set_cookies("c=1", "; a")),
    "cookies: dates": (2000, set_cookies("c=1; Expires=", "1")),
    "cookies: dates with blanks": (2000, set_cookies("c=1; Expires=Mon, 1-Jan", " ")),
    "cookies: one too long": (20000, set_cookies("c=1", "; a")),
    "retry-after: digits": (2000, call(retry_after, lambda n: retry("1" * n))),
    "retry-after: blanks": (2000, call(retry_after, lambda n: retry("Sun, " + " " * n))),
    "messages": (2000, receive(b"", frame(FIN | TEXT, b"abc"))),
    "messages: not ASCII": (2000, receive(b"", frame(FIN | TEXT, "é€😀".encode()))),
    "messages: bytewise": (500, receive(b"", frame(FIN | TEXT, b"abc"), size=1)),
    "messages: cut": (1000, receive(b"", frame(FIN | BINARY, b"abcdefgh"), size=7)),
    "pings": (2000, receive(b"", frame(FIN | PING))),
    "pongs": (2000, receive(b"", frame(FIN | PONG, b"x"))),
    "pongs while streaming": (2000, receive(b"", frame(FIN | PONG, b"x"), streaming=True)),
    "fragments": (2000, receive(frame(TEXT), frame(0, "é".encode()))),
    "fragments: empty": (2000, receive(frame(BINARY), frame(0))),
    "fragments: bytewise": (500, receive(frame(BINARY), frame(0, b"ab"), size=1)),
    "fragments: pongs between": (1000, receive(frame(BINARY), frame(0, b"ab") + frame(FIN | PONG))),
    "fragments: streaming": (1000, receive(frame(TEXT), frame(0, "é".encode()), streaming=True)),
    "a long message, cut": (
        500, lambda n: receive(header(FIN | TEXT, 60 * 500 * 2, 0), b"x" * 60, size=17)(n),
    ),
    "deflated: empty": (1000, receive(b"", frame(FIN | RSV1 | TEXT, b"\0"), True)),
    "deflated: final blocks": (1000, receive(b"", frame(FIN | RSV1 | TEXT, b"\3\0\0"), True)),
    "deflated: fragments": (
        1000, receive(frame(RSV1 | TEXT), frame(0, b"\0\0\0\xff\xff"), True),
    ),
    "deflated: fragments with final blocks": (
        500, receive(frame(RSV1 | TEXT), frame(0, b"\3\0"), True),
    ),
    "deflated: one message of final blocks": (
        10000, lambda n: receive(b"", frame(FIN | RSV1 | TEXT, b"\3\0\3\0" * n), True)(1),
    ),
    "a refusal's text": (4000, call(str, refusal)),
    "a Close frame's reason": (60, call(lambda data: str(read_close(data)), reason)),
    "on a terminal: invisible": (2000, call(printable, lambda n: "\u200b" * n)),
    "on a terminal: notes": (2000, call(lambda text: _NOTE.sub("  ", text), notes)),
    "on a terminal: bytes": (4000, call(dumped, bytes)),
    "--json: numbers": (2000, call(indented, lambda n: "[" + "1," * n + "1]")),
    "--json: open brackets": (20000, call(indented, lambda n: "[" * n)),
    "--base64": (4000, call(from_base64, lambda n: b"QUJD" * n + b"Q", UnicodeError)),
    "served: a request": (
        1000, call(parse_request, lambda n: b"GET / HTTP/1.1" + b"\r\nA: b" * n, ProtocolError),
    ),
    "-vv: empty frames": (2000, trace(frame(FIN | TEXT))),
    "-vv: long frames": (500, trace(frame(FIN | BINARY, bytes(300)))),
}  # fmt: skip
if sys.platform == "emscripten":  # whose stack ends before json's recursion does
    del CASES["--json: open brackets"]


# -- counting --


def steps(function):
    """How many lines of Python *function* executes."""
    count = 0

    def on_event(frame, event, argument):
        nonlocal count
        count += 1
        return on_event

    before = sys.gettrace()
    sys.settrace(on_event)
    try:
        function()
    finally:
        sys.settrace(before)
    return count


def run_all():
    """What valgrind sees: each case twice, between marks; the first time is to warm up."""
    for n, prepare in CASES.values():
        prepare(n)()
        for size in (n, 2 * n):
            function = prepare(size)
            os.getppid()
            function()
            os.getppid()


def instructions():
    """Name -> instructions for the input and for twice of it."""
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "out")
        valgrind = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}"]
        command = [*valgrind, f"--dump-before={MARK}", sys.executable, __file__, "--run"]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        counts = []
        for path in sorted(glob.glob(f"{out}.*"), key=lambda path: int(path.rpartition(".")[2])):
            with open(path) as file:
                counts.append(int(re.search(r"^(?:summary|totals): (\d+)", file.read(), re.M)[1]))
    counts = counts[1::2]
    return {name: (counts[2 * i], counts[2 * i + 1]) for i, name in enumerate(CASES)}


def main():
    if not shutil.which("valgrind"):
        sys.exit("valgrind is needed")
    failed = False
    for name, (once, twice) in instructions().items():
        wrong = twice > MOST * once
        failed = failed or wrong
        print(
            f"{name:40} {once:12,} {twice:12,} {twice / once:5.2f}{'  TOO MUCH' if wrong else ''}"
        )
    return failed


if __name__ == "__main__":
    if sys.argv[1:] == ["--run"]:
        run_all()
    else:
        sys.exit(main())
