"""The command line, ``python -m wsmini URL``: its arguments, and what it says about an opening.

What happens once the connection is open is in ``session``.
"""

from __future__ import annotations

import math
import sys
from time import monotonic

from .connection import connect
from .exceptions import Close, InvalidProxyStatus, InvalidStatus, WebSocketException
from .http11 import redacted
from .session import (
    BROKEN_PIPE,
    INTERRUPTED,
    NETWORK,
    OK,
    REFUSED,
    TIMEOUT,
    TLS,
    USAGE,
    Session,
    described,
    displayed,
    is_terminal,
    note,
    output_for,
    write,
)
from .uri import parse_uri
from .version import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from ssl import SSLContext
    from typing import Callable, Iterator, Sequence

    from .connection import Connection
    from .http11 import Headers, Response

_EPILOG = """\
Each line of standard input is sent as one text message, without its LF or
CR LF. A last line without one is sent, too; an empty line is an empty message
(but not on a terminal). With --binary, all of standard input is one binary
message, and so is each line typed on a terminal.

Standard output gets messages and nothing else, one per line: text as it is,
binary messages in hex. On a terminal, control characters are escaped. Notes
and errors go to standard error.

After the end of input, replies are awaited: until none came for 1 second since
the server answered a ping. --idle S makes that S seconds, --wait S waits for S
seconds even in silence, and --count N for the Nth message; with several of
them, what happens first ends it. "--wait inf" leaves the end to the server. On
a terminal, Ctrl-D closes at once unless --idle or --wait is given.

exit status:
  0    closed normally (1000, 1001, or no code), or --count reached
  1    standard input or output failed
  2    wrong arguments or URL
  3    no connection: name resolution, TCP
  4    no connection: TLS
  5    no connection: the server (or a proxy) refused, or answered wrongly
  6    closed with another code, lost, or closed before all input was sent
  7    timeout: of --timeout, or the wait ended before --count was reached
  130  interrupted (Ctrl-C)
  141  whoever read standard output is gone
"""

# What an endpoint may send (RFC 6455, 7.4, and the IANA registry).
# What hints call it -> what it is called here.
_OPTIONS = {
    "pass ssl=ssl.create_default_context(cafile=...)": "use --cafile",
    "origin=": "--origin",
    "auth=(user, password) passes them": "wss://user:password@host passes them",
    "raise open_timeout": "raise --timeout",
    "proxy=None goes without": "no_proxy=* in the environment goes without",
}

_CLOSE_CODES = {*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line with *argv*, by default ``sys.argv[1:]``; return the exit status.

    Raises:
        SystemExit: as argparse does, for ``--help``, ``--version`` and wrong arguments.
    """
    parser = _parser()
    args = parser.parse_args(argv)
    try:
        _check(parser, args)
        return _demo() if args.demo else _run(args)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # a note or the demonstration, and nobody to read it
        return BROKEN_PIPE


# -- arguments --


def _parser() -> ArgumentParser:
    import argparse

    parser = argparse.ArgumentParser(
        prog="python -m wsmini",
        usage="%(prog)s [options] URL\n       %(prog)s --demo",
        description="Talk to a WebSocket server.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # a new option must not break a script
    )
    add = parser.add_argument
    add("url", metavar="URL", nargs="?", help="where to connect to, ws://... or wss://...")
    add("--demo", action="store_true", help="start a server here, talk to it, show what happens")
    add("--version", action="version", version=f"wsmini {__version__}")
    _add_connection(parser.add_argument_group("connection").add_argument)
    _add_messages(parser.add_argument_group("messages").add_argument)
    _add_ending(parser.add_argument_group("ending").add_argument)
    return parser


def _add_connection(add: Callable[..., object]) -> None:
    add(
        *("-H", "--header"),
        metavar="'NAME: VALUE'",
        action="append",
        default=[],
        help="send this header in the handshake; 'NAME:' or 'NAME;' sends it empty,"
        " @FILE takes one header from each line of a file",
    )
    add("--origin", help="send this Origin")
    add("--subprotocol", metavar="NAME", action="append", help="offer it; may be repeated")
    add("--cafile", metavar="FILE", help="trust the authorities in this PEM file, and no others")
    add("--insecure", action="store_true", help="don't verify who the server is (wss)")
    add("--no-compression", action="store_true", help="don't offer permessage-deflate")
    add(
        "--max-size",
        metavar="BYTES",
        type=_natural,
        default=1 << 20,
        help="largest message to receive, 0 for any (default: %(default)s)",
    )
    add(
        "--timeout",
        metavar="SECONDS",
        type=_seconds,
        default=10.0,
        help="for opening the connection, at most (default: %(default)g)",
    )
    add("-v", "--verbose", action="store_true", help="show the handshake, without its secrets")


def _add_messages(add: Callable[..., object]) -> None:
    add(
        *("-m", "--message"),
        metavar="TEXT",
        action="append",
        default=[],
        help="send this instead of standard input; may be repeated",
    )
    add(
        *("-i", "--interactive"),
        action="store_true",
        help="after the messages of -m, send standard input",
    )
    add("--binary", action="store_true", help="send binary messages")
    add(
        "--raw",
        action="store_true",
        help="write messages as they are, binary ones too, and nothing between them",
    )


def _add_ending(add: Callable[..., object]) -> None:
    add("--count", metavar="N", type=_natural, default=0, help="end after receiving N messages")
    for name, text in (
        ("--idle", "after the end of input, end when no message came for so long"),
        ("--wait", "after the end of input, end when this has passed"),
    ):
        add(name, metavar="SECONDS", type=_seconds, help=text)
    add(
        "--close-code",
        metavar="CODE",
        type=_close_code,
        default=1000,
        help="close with this code (default: %(default)s)",
    )
    add("--close-reason", metavar="TEXT", type=_close_reason, default="", help="and this reason")


def _seconds(text: str) -> float:
    value = float(text)
    if not value >= 0:
        raise ValueError
    return value


def _natural(text: str) -> int:
    value = int(text)
    if value < 0:
        raise ValueError
    return value


def _close_code(text: str) -> int:
    code = int(text)
    if code not in _CLOSE_CODES:
        raise ValueError
    return code


def _close_reason(text: str) -> str:
    if len(text.encode()) > 123:  # RFC 6455, 5.5
        raise ValueError
    return text


# What argparse calls the type when a value is wrong.
_seconds.__name__ = "number of seconds"
_natural.__name__ = "number"
_close_code.__name__ = "close code (1000-1003, 1007-1014, 3000-4999)"
_close_reason.__name__ = "reason (at most 123 bytes of UTF-8)"


def _check(parser: ArgumentParser, args: Namespace) -> None:
    """Complete the arguments, or exit with what's wrong about them."""
    if args.demo == (args.url is not None):
        parser.error("expected a URL, or --demo alone")
    if args.raw and is_terminal(sys.stdout):
        parser.error("--raw would let the server drive the terminal: redirect standard output")
    try:
        args.headers = [pair for text in args.header for pair in _headers(text)]
        args.ssl = _context(args)
    except (ValueError, OSError, ImportError) as exc:
        parser.error(str(exc))


def _headers(text: str) -> Iterator[tuple[str, str]]:
    """The headers that one ``--header`` stands for."""
    if not text.startswith("@"):
        yield _header(text, "--header")
        return
    with open(text[1:], encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield _header(line, f"{text[1:]}, line {number}")


def _header(text: str, where: str) -> tuple[str, str]:
    name, colon, value = text.strip().partition(":")
    if not colon and name.endswith(";"):
        name, colon = name[:-1], ";"
    # What isn't a header isn't shown: it may be a secret in the wrong place.
    if not colon or not name.strip():
        raise ValueError(f"{where}: expected 'NAME: VALUE'")
    return name.strip(), value.strip()


def _context(args: Namespace) -> SSLContext | None:
    """The TLS context that was asked for, if any."""
    if not args.cafile and not args.insecure:
        return None
    if args.cafile and args.insecure:
        raise ValueError("--cafile and --insecure exclude each other")
    if not parse_uri(args.url).secure:
        raise ValueError("--cafile and --insecure are for wss:// URLs")
    import ssl  # only now: it is slow to load, and not everywhere

    from .tls import unverified_context

    if args.insecure:
        return unverified_context()
    try:
        return ssl.create_default_context(cafile=args.cafile)
    except OSError as exc:  # SSLError is one
        raise ValueError(f"--cafile: no certificates in {args.cafile}: {exc}") from exc


# -- from the opening to the exit status --


def _run(args: Namespace) -> int:
    if args.insecure:
        note(
            "warning: --insecure: whoever is between here and the server can read and change"
            " everything, for nobody checks that it is the server"
        )
    try:
        ws = _open(args)
    except (WebSocketException, OSError, ValueError) as exc:
        text = described(exc)
        for name, option in _OPTIONS.items():
            text = text.replace(name, option)
        note(f"cannot connect: {text}")
        if isinstance(exc, (InvalidStatus, InvalidProxyStatus)):
            _show_refusal(exc.response, args.verbose)
        return _failure_status(exc)
    if args.verbose:
        _show_handshake(ws)
    return Session(ws, args, output_for(args)).run()


def _open(args: Namespace) -> Connection:
    return connect(
        args.url,
        ssl=args.ssl,
        origin=args.origin,
        subprotocols=args.subprotocol or (),
        additional_headers=args.headers,
        compression=None if args.no_compression else "deflate",
        open_timeout=_limit(args.timeout),
        max_size=args.max_size or None,
    )


def _limit(seconds: float) -> float | None:
    """*seconds*, or ``None`` where a wait takes that for infinity."""
    return None if seconds == math.inf else seconds


def _failure_status(exc: BaseException) -> int:
    """The exit status for what ``connect()`` raised."""
    if isinstance(exc, TimeoutError):
        return TIMEOUT
    if isinstance(exc, OSError):
        ssl = sys.modules.get("ssl")  # if it isn't loaded, this isn't one of its exceptions
        tls = ssl is not None and isinstance(exc, ssl.SSLError)
        return TLS if tls or getattr(exc, "phase", "") == "tls" else NETWORK
    if isinstance(exc, ValueError):
        return USAGE
    return REFUSED


def _show_handshake(ws: Connection) -> None:
    note(f"{ws.request.method} {ws.request.target} HTTP/1.1", ">")
    _show_headers(">", ws.request.headers)
    note(f"HTTP/{ws.response.http_version} {_status_line(ws.response)}", "<")
    _show_headers("<", ws.response.headers)
    note(f"subprotocol: {ws.subprotocol or 'none'}", "*")
    note(f"extensions: {', '.join(e.name for e in ws.extensions) or 'none'}", "*")


def _show_refusal(response: Response, verbose: bool) -> None:
    """What a server said instead of 101: all of it, or the first line of its text."""
    text = response.body.decode("utf-8", "replace").strip()
    if verbose:
        note(f"HTTP/{response.http_version} {_status_line(response)}", "<")
        _show_headers("<", response.headers)
        for line in text.splitlines():
            note(line, "<")
    elif text and not text.startswith("<"):  # not HTML
        note(text.splitlines()[0][:200], "<")


def _show_headers(mark: str, headers: Headers) -> None:
    for name, value in headers.items():
        note(f"{name}: {redacted(name, value)}", mark)
    note("", mark)


def _status_line(response: Response) -> str:
    return f"{response.status_code} {response.reason_phrase}"


# -- the demonstration --


def _demo() -> int:
    """Talk to a server of our own, and show it."""
    from .testing import echo_server

    with echo_server() as server:
        _say(f"An echo server listens on {server.url} and sends every message back.")
        with connect(server.url) as ws:
            _say(f"open  HTTP {_status_line(ws.response)}")
            for message in ("Hello!", "Is anybody there?", bytes(range(16))):
                _exchange(ws, message)
            _say(f"ping  answered after {ws.ping().wait(10) * 1000:.2f} ms")
        _say(f"close {Close(ws.close_code, ws.close_reason)}")
    _say("That works. For your own server: python -m wsmini ws://...; more with --help")
    return OK


def _exchange(ws: Connection, message: str | bytes) -> None:
    start = monotonic()
    ws.send(message)
    _say(f"sent  {displayed(message)}")
    reply = ws.recv(10)
    _say(f"got   {displayed(reply)}  after {(monotonic() - start) * 1000:.2f} ms")
    if reply != message:
        raise RuntimeError("the echo differs from what was sent")


def _say(text: str) -> None:
    write(text.encode() + b"\n")
