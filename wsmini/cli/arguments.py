"""The arguments of the command line: their parser, and what they stand for.

The help text, the man page and the completions (``manual``) are made from this parser and the
exit statuses; the tests compare docs/cli.md with them.
"""

from __future__ import annotations

import enum
import os
import re
import signal
import stat
import sys

from ..options import ssl_problem
from ..policies import Backoff, Fixed
from ..sansio.frames import is_close_code
from ..sansio.uri import parse_uri
from ..version import __version__
from .formats import parser_for
from .signals import handled

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Action, ArgumentParser, Namespace, _ArgumentGroup
    from http.cookiejar import MozillaCookieJar
    from ssl import SSLContext
    from typing import Any, Callable, Iterator, Sequence, TypeVar

    from ..policies import Policy

    T = TypeVar("T")


class Status(enum.IntEnum):
    """The exit statuses, of signals 128 + their number; ``meaning`` is what the help says."""

    meaning: str

    def __new__(cls, value: int, meaning: str) -> Status:
        status = int.__new__(cls, value)
        status._value_, status.meaning = value, meaning
        return status

    OK = 0, "closed normally (1000, 1001, or no code), or --count reached"
    LOCAL = 1, "standard input or output, or a file, failed"
    USAGE = 2, "wrong arguments or URL"
    NETWORK = 3, "no connection: name resolution, TCP"
    TLS = 4, "no connection: TLS"
    REFUSED = 5, "no connection: the server (or a proxy) refused, or answered wrongly"
    ABNORMAL = 6, "closed with another code, lost, or closed before all input was sent"
    TIMEOUT = 7, "timeout: of --timeout, or the wait ended before --count was reached"
    INTERRUPTED = 130, "interrupted (Ctrl-C), after closing: died of SIGINT"
    BROKEN_PIPE = 141, "whoever read standard output is gone"
    TERMINATED = 143, "terminated, after closing: died of SIGTERM"


# A section of the help each, and its options: their names, what stands for the value of one that
# takes a value, and the help. What else the parser has to know is in ``_SETTINGS``.
OPTIONS = """\
handshake
-H, --header 'NAME: VALUE'      send this header in the handshake; 'NAME:' or 'NAME;' sends it
                                empty, @FILE takes one header from each line of a file
-u, --user NAME[:PASSWORD]      answer Basic and Digest authentication; without :PASSWORD, that is
                                asked for on the terminal, or taken from --password-file
--password-file FILE            whose first line is the password of --user
-b, --cookie NAME=VALUE         send this cookie; may be repeated
-c, --cookie-jar FILE           send the cookies in this file (in Netscape's format, as curl and
                                browsers have it), and keep those that the server sets
--origin ORIGIN                 send this Origin
--subprotocol NAME              offer it; may be repeated
-A, --user-agent TEXT           send this User-Agent, none if it is empty
--no-compression                don't offer permessage-deflate
--max-redirects N               follow so many at most (default: 5)

connection
-x, --proxy URL                 go through this one, 'none' for no proxy in any case
--proxy-cafile FILE             trust these authorities as to an https proxy, and no others
--proxy-server-name NAME        what the certificate of an https proxy has to be for
--resolve HOST:PORT:ADDR        connect to this address for the host and port of the URL
--unix PATH                     connect to this Unix socket
--source ADDR                   connect from this address
-4, --ipv4                      use IPv4 alone, as --source 0.0.0.0
-6, --ipv6                      use IPv6 alone, as --source ::
--max-size BYTES                largest message to receive, 0 for any (default: 1048576)
--max-queue N                   messages to keep while output waits, from 1 on (default: 16)
--timeout SECONDS               for opening the connection, at most (default: 10)
--close-timeout SECONDS         for closing it, at most (default: 10)
--ping-interval SECONDS         of silence until a ping, 0 for none (default: 20)
--ping-timeout SECONDS          from there on until the peer is dead (default: 20)
--happy-eyeballs-delay SECONDS  until the next address of a name is tried, too (default: 0.25)
--busy-poll SECONDS             poll so long before each wait: quicker, but keeps the processor busy
--reconnect [=SECONDS]          connect again when that may help, after so many seconds; without
                                SECONDS after longer and longer; -m is sent again, too
--end-after-1000                with --reconnect, end when the server closes with 1000

security
--cafile FILE                   trust the authorities in this PEM file, and no others
--cert FILE                     our certificate, in PEM, and its key unless --key has it
--key FILE                      the key of --cert
--key-password-file FILE        whose first line is the passphrase of the key, which is asked for
                                otherwise if it has one
--server-name NAME              what the certificate has to be for, and SNI says
-k, --insecure                  don't verify who the server is (wss)

messages to send
-m, --message TEXT              send this instead of standard input; may be repeated
-i, --interactive               after the messages of -m, send standard input
--input FILE                    send this file instead of standard input
--binary                        send binary messages, all of the input as one
--text                          send all of the input as one text message
--hex                           binary messages are lines of hexadecimal digits, and -m is one
--base64                        binary messages are lines of base64, and -m is one
--ndjson                        messages are lines of JSON (see below)
-0, --null                      messages end with NUL, not with LF

messages received
-o, --output FILE               write messages to this file, not to standard output
--raw                           write messages as they are, binary ones too, and nothing between
                                them
--json                          indent messages that are JSON
--dump                          show binary messages as a hex dump
--timestamps                    write when it came in front of each message

ending
-n, --count N                   end after receiving N messages
--idle SECONDS                  after the end of input, end when no message came for so long
--wait SECONDS                  after the end of input, end when this has passed
--close-code CODE               close with this code (default: %(default)s)
--close-reason TEXT             and this reason

insight
-v, --verbose                   show the handshake, without its secrets, TLS, and what took how
                                long; -vv: each frame
--record FILE                   write the session to this file, for wsmini.testing.replay()
--bench SECONDS                 measure round trips so long, and the throughput if the server echoes
--bench-size BYTES              of the messages of --bench (default: %(default)s)
"""

DETAILS = """\
Each line of standard input is sent as one text message, without its LF or
CR LF. A last line without one is sent, too; an empty line is an empty message
(but not on a terminal). With --binary or --text, all of standard input is one
message, sent while it is read; a line typed on a terminal is one, too.

Standard output gets messages and nothing else, one per line: text as it is,
binary messages in hex. On a terminal, control characters are escaped. Notes
and errors go to standard error. With --ndjson, input and output are lines of
JSON: {"direction": "sent" or "received", "time": ..., "type": "text" or
"binary", "payload": ...}, where binary payloads are in base64; input needs
"payload" alone. Output has the messages sent, too, and a last line, of type
"close", with "code" and "reason" (1006: lost) and who began as direction.

After the end of input, replies are awaited: until none came for 1 second since
the server answered a ping. --idle S waits for S seconds of silence, from the
end of input on, --wait S for S seconds in any case, --count N for message N;
with several of these, what happens first ends it. "--wait inf" leaves the end
to the server. On a terminal, Ctrl-D closes at once unless --idle or --wait is
given. Ctrl-C and SIGTERM close, and end the process by that signal; a second
Ctrl-C doesn't wait for the server.

On a terminal, a line that begins with / is a command: /help lists them. Lines
typed are kept in the file that WSMINI_HISTORY names (~/.wsmini_history; set it
to nothing for none), but for those that look like secrets or begin with a
space. NO_COLOR, if set, switches colors off.
"""


def make_parser() -> ArgumentParser:
    """The parser of the command line."""
    import argparse

    class Parser(argparse.ArgumentParser):
        def _get_values(self, action: Action, strings: list[str]) -> Any:
            # argparse takes -- for the end of the options, also as the value of one.
            if strings == ["--"] and action.nargs is None and action.option_strings:
                return self._get_value(action, "--")
            return super()._get_values(action, strings)

    statuses = "".join(f"  {status:<4d} {status.meaning}\n" for status in Status)
    parser = Parser(
        prog="python -m wsmini",
        usage="%(prog)s [options] URL\n       %(prog)s --demo",
        description="Talk to a WebSocket server.",
        epilog=f"{DETAILS}\nexit status:\n{statuses}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # a new option must not break a script
    )
    add = parser.add_argument
    add("url", metavar="URL", nargs="?", help="where to connect to, ws://... or wss://...")
    add("--demo", action="store_true", help="start a server here, talk to it, show what happens")
    add("--version", action="version", version=f"wsmini {__version__}")
    add("--man", action="store_true", help="print the manual page, for man -l")
    add("--completion", choices=["bash", "zsh"], help="print what completes options in this shell")
    for section in OPTIONS.split("\n\n"):
        title, _, rows = section.partition("\n")
        group = parser.add_argument_group(title)
        # Two spaces part names from text; lines that begin with spaces go on with it.
        for names, text in re.findall(r"(?m)^(-.*?)  +(.*(?:\n +.*)*)", rows):
            _add_option(group, names, " ".join(text.split()))
    return parser


def _add_option(group: _ArgumentGroup, names: str, text: str) -> None:
    """Add a row of ``OPTIONS``; *names* are such as ``-x, --proxy URL``."""
    *short, long = names.split(", ")
    long, _, metavar = long.partition(" ")
    settings: dict[str, Any] = {"action": "store_true"}
    if metavar:
        settings = {"metavar": metavar, "type": _KINDS.get(metavar, str)}
    # Behind the others: they may replace what follows from the placeholder.
    settings.update(_SETTINGS.get(long, {}))
    group.add_argument(*short, long, help=text, **settings)


def _kind(name: str, read: Callable[[str], T], is_valid: Callable[[T], bool]) -> Callable[[str], T]:
    """Make the type of an argument: *read* makes its value of a text.

    Args:
        name: what argparse calls the type when a value is wrong.
    """

    def kind(text: str) -> T:
        value = read(text)
        if not is_valid(value):
            raise ValueError
        return value

    kind.__name__ = name
    return kind


def _utf8(text: str) -> str:
    """An argument that is UTF-8, whatever the locale says."""
    try:
        text.encode()
        return text
    except UnicodeError:
        return os.fsencode(text).decode()


def _policy(text: str) -> Policy:
    """When to connect again: after so many seconds, or ``backoff``."""
    return Backoff() if text == "backoff" else Fixed(_seconds(text))


# NaN is none of them, and infinity is.
_seconds = _kind("number of seconds", float, lambda value: value >= 0)
_limit = _kind("number of seconds above 0", float, lambda value: value > 0)
_natural = _kind("number", int, lambda value: value >= 0)
close_code = _kind("close code (1000-1003, 1007-1014, 3000-4999)", int, is_close_code)
# RFC 6455, 5.5: a Close frame has 125 bytes at most, two of them for the code.
close_reason = _kind(
    "reason (at most 123 bytes of UTF-8)", _utf8, lambda text: len(text.encode()) <= 123
)
_policy.__name__, _utf8.__name__ = _seconds.__name__, "UTF-8"

# What checks a value, by what stands for it in OPTIONS.
_KINDS: dict[str, Callable[[str], object]] = {
    "SECONDS": _seconds,
    "[=SECONDS]": _policy,
    "N": _natural,
    "BYTES": _natural,
    "CODE": close_code,
}
_LIST = {"action": "append", "default": []}
_SETTINGS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("--header", "--cookie", "--subprotocol", "--resolve"), _LIST),
    "--message": {"type": _utf8, **_LIST},
    "--ipv4": {"action": "store_const", "dest": "source", "const": "0.0.0.0"},
    "--ipv6": {"action": "store_const", "dest": "source", "const": "::"},
    "--timeout": {"type": _limit},
    "--ping-timeout": {"type": _limit},
    "--count": {"default": 0},
    "--close-code": {"default": 1000},
    "--close-reason": {"type": close_reason, "default": ""},
    "--verbose": {"action": "count", "default": 0},
    "--bench": {"type": _limit},
    "--bench-size": {"default": 1024},
}

_EXCLUSIVE = (
    ("binary", "text", "hex", "base64", "ndjson"),
    ("raw", "ndjson", "timestamps"),
    ("raw", "ndjson", "dump"),
    ("raw", "ndjson", "json"),
    ("binary", "null"),
    ("text", "null"),
    ("cafile", "insecure"),
    ("input", "interactive"),
    ("input", "message"),
    ("unix", "resolve"),
    *(("bench", name) for name in ("message", "input", "interactive", "output", "record")),
)


def parsed(parser: ArgumentParser, argv: Sequence[str]) -> Namespace:
    """The arguments in *argv*: an option with a value takes the next one, even ``-5``.

    A bare ``--reconnect`` does so if that is a number.
    """
    # argparse takes what begins with a dash for an option, even behind one that wants a value: so
    # name and value are joined with an equals sign before it sees them.
    options = [action for action in parser._actions if action.nargs is None]
    long = {name: action.option_strings[-1] for action in options for name in action.option_strings}
    given: list[str] = []
    for argument in argv:
        last = given[-1] if given else ""
        # --reconnect may stand alone: only a number behind it is its value.
        if last in long and (last != "--reconnect" or re.fullmatch(r"[0-9.]+", argument)):
            given[-1] = f"{long[last]}={argument}"
        else:
            given.append(argument)
    # Not with argparse's nargs="?", which would take the URL for the value.
    given = ["--reconnect=backoff" if a == "--reconnect" else a for a in given]
    args = parser.parse_args(given)
    check(parser, args)
    return args


def check(parser: ArgumentParser, args: Namespace) -> None:
    """Complete *args* with ``options``, for ``connect()``; or exit with what's wrong about them."""
    # These print something, and need none of what is checked here.
    if args.man or args.completion:
        return
    if args.demo == (args.url is not None):
        parser.error("expected a URL, or --demo alone")
    for names in _EXCLUSIVE:
        given = [f"--{name}" for name in names if getattr(args, name)]
        if len(given) > 1:
            parser.error(f"{' and '.join(given)} exclude each other")
    if args.end_after_1000:
        if args.reconnect is None:
            parser.error("--end-after-1000 needs --reconnect")
        args.reconnect.after_normal_close = False
    if not args.demo:
        try:
            _check_output(args)
            _check_formats(args)
            args.options = connect_options(args)
        except (ValueError, OSError, ImportError) as exc:
            parser.error(str(exc))


def _check_output(args: Namespace) -> None:
    """Refuse to write what a server sends to a terminal, which it could drive."""
    if args.output and _is_terminal(args.output):
        raise ValueError("--output would let the server drive the terminal: leave it out")
    if args.raw and not args.output and sys.stdout is not None and sys.stdout.isatty():
        raise ValueError("--raw would let the server drive the terminal: redirect standard output")


def _is_terminal(path: str) -> bool:
    """Whether *path* is a terminal, such as /dev/tty. Only character devices are opened to ask."""
    try:
        if not stat.S_ISCHR(os.stat(path).st_mode):
            return False
        descriptor = os.open(path, os.O_WRONLY | os.O_NOCTTY)
    except (OSError, AttributeError):  # to open it for writing will tell; Windows has no O_NOCTTY
        return False
    with os.fdopen(descriptor, "wb", buffering=0) as file:
        return file.isatty()


def _check_formats(args: Namespace) -> None:
    """Before connecting, not at the first message."""
    if args.binary or args.hex or args.base64:
        # -m is checked before connecting, which lines of input can't be.
        args.message = [parser_for(args)(text.encode()) for text in args.message]
    for name in ("ndjson", "json", "record"):
        if getattr(args, name):
            try:
                import json  # noqa: F401  # only these need it
            except ImportError as exc:
                raise ValueError(f"--{name} needs the json module: {exc}") from exc


def connect_options(args: Namespace) -> dict[str, Any]:
    """Translate *args* into options of ``connect()``, whose defaults hold for what isn't given.

    Raises:
        ValueError, OSError, ImportError: if they can't be.
    """
    headers: list[tuple[str, str | None]] = [h for text in args.header for h in _headers(text)]
    if args.cookie:
        headers.append(("Cookie", "; ".join(args.cookie)))
    options: dict[str, Any] = {
        "additional_headers": headers,
        "compression": None if args.no_compression else "deflate",
        "ssl": _context(args),
        "host": _resolved(args),
        "auth": _credentials(args),
    }
    for name, (option, translate) in _TRANSLATIONS.items():
        value = getattr(args, name)
        if value is not None:
            options[option] = translate(value)
    return options


def _headers(text: str) -> Iterator[tuple[str, str]]:
    """The headers that one ``--header`` stands for."""
    if not text.startswith("@"):
        yield _header(text, "--header")
        return
    with open(text[1:], encoding="utf-8-sig") as file:  # with or without a byte order mark
        for number, line in enumerate(file, 1):
            if line.strip():
                yield _header(line, f"{text[1:]}, line {number}")


def _header(text: str, where: str) -> tuple[str, str]:
    name, colon, value = text.strip().partition(":")
    # As curl has it: 'NAME;' sends a header without a value.
    if not colon and name.endswith(";"):
        name, colon = name[:-1], ";"
    # What isn't a header isn't shown: it may be a secret in the wrong place.
    if not colon or not name.strip():
        raise ValueError(f"{where}: expected 'NAME: VALUE'")
    return name.strip(), value.strip()


def _resolved(args: Namespace) -> str | None:
    """The address that ``--resolve`` has for the URL's host and port; the last one counts."""
    address = None
    for text in args.resolve:
        # IPv6 addresses have colons: the host is in front of the first ones that has a port behind.
        host, _, rest = text.rpartition("]:") if text.startswith("[") else text.partition(":")
        port, _, given = rest.partition(":")
        if not host or not port.isdecimal() or not given:
            raise ValueError(f"--resolve: expected HOST:PORT:ADDR, not {text!r}")
        uri = parse_uri(args.url)
        if (host.lstrip("[").lower(), int(port)) == (uri.host, uri.port):
            address = given.strip("[]")
    return address


def _cookie_jar(path: str) -> MozillaCookieJar:
    """Load the cookies in the file *path*, if there is one; those of a session are kept, too."""
    from http.cookiejar import MozillaCookieJar  # only users of the option need it

    jar = MozillaCookieJar(path)
    if os.path.exists(path) and os.path.getsize(path):
        try:
            jar.load(ignore_discard=True)
        except (OSError, UnicodeError) as exc:  # LoadError is an OSError
            raise ValueError(f"--cookie-jar: {exc}") from exc
    return jar


def _credentials(args: Namespace) -> tuple[str, str] | None:
    if args.user is None:
        if args.password_file:
            raise ValueError("--password-file needs --user")
        return None
    name, colon, password = args.user.partition(":")
    if args.password_file:
        password = _first_line(args.password_file)
    elif not colon:
        password = _ask_secret(f"Password of {name}: ", "--user", "--password-file")
    return name, password


def _first_line(path: str) -> str:
    with open(path, encoding="utf-8-sig") as file:  # with or without a byte order mark
        return file.readline().rstrip("\r\n")


def _ask_secret(prompt: str, option: str, instead: str) -> str:
    """Ask for a secret on the terminal, though standard input may be something else.

    Raises:
        ValueError: if there is no terminal, or no answer.
    """
    # Without a terminal, getpass() would read standard input, which is for messages.
    if sys.stdin is None or not sys.stdin.isatty():
        try:
            os.close(os.open("/dev/tty", os.O_RDWR))
        except OSError:
            problem = f"{option}: no terminal to ask for the password; use {instead}"
            raise ValueError(problem) from None
    from getpass import getpass

    # After Ctrl-Z and fg, what is typed would be shown: Ctrl-Z has no effect meanwhile.
    ignored = {signal.SIGTSTP: signal.SIG_IGN} if hasattr(signal, "SIGTSTP") else {}
    try:
        with handled(ignored):
            return getpass(prompt)
    except EOFError:
        raise ValueError(f"{option}: no password was given") from None


def _trusting_context(path: str | None, option: str) -> SSLContext:
    """A context that trusts the authorities in a file, or those of the system."""
    import ssl  # only now: it is slow to load, and not everywhere

    try:
        return ssl.create_default_context(cafile=path)
    except OSError as exc:  # SSLError is one
        raise ValueError(f"{option}: no certificates in {path}: {exc}") from exc


def _context(args: Namespace) -> SSLContext | None:
    """The TLS context that was asked for, if any."""
    if not args.cert and (args.key or args.key_password_file):
        raise ValueError(f"{'--key' if args.key else '--key-password-file'} needs --cert")
    if not (args.cafile or args.insecure or args.cert):
        return None
    # connect() allows this, for a redirect to wss://. Here, the user more likely believes in a
    # verification that doesn't happen.
    if not parse_uri(args.url).secure:
        raise ValueError("--cafile, --cert and --insecure are for wss:// URLs")
    problem = ssl_problem()
    if problem:
        raise ValueError(problem)
    from ..opening.tls_context import unverified_context  # which loads ssl

    context = unverified_context() if args.insecure else _trusting_context(args.cafile, "--cafile")
    if args.cert:
        _load_certificate(context, args)
    return context


def _load_certificate(context: SSLContext, args: Namespace) -> None:
    """Load the client certificate."""
    known = args.key_password_file and _first_line(args.key_password_file)

    def passphrase() -> str:  # called if the key has one
        prompt = f"Passphrase of {args.key or args.cert}: "
        return known or _ask_secret(prompt, "--cert", "--key-password-file")

    try:
        context.load_cert_chain(args.cert, args.key, passphrase)
        context.post_handshake_auth = True  # some servers ask for it after the request
    except OSError as exc:
        raise ValueError(f"--cert: no certificate with its key in {args.cert}: {exc}") from exc


def _as_it_is(value: Any) -> Any:
    return value


def _or_none(value: Any) -> Any:
    """*value*; ``None`` where it is 0 or empty, which stands for no limit, or no header, here."""
    return value or None


# Arguments that have the name and the values of an option.
_SAME = "origin max_redirects happy_eyeballs_delay close_timeout ping_timeout max_queue busy_poll"
# Argument -> the option that it gives, and how.
_TRANSLATIONS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    **{name: (name, _as_it_is) for name in _SAME.split()},
    "subprotocol": ("subprotocols", _as_it_is),
    "user_agent": ("user_agent_header", _or_none),
    "cookie_jar": ("cookies", _cookie_jar),
    "unix": ("unix_path", _as_it_is),
    "source": ("source_address", lambda address: (address, 0)),
    "proxy": ("proxy", lambda url: None if url == "none" else url),
    "proxy_cafile": ("proxy_ssl", lambda path: _trusting_context(path, "--proxy-cafile")),
    "proxy_server_name": ("proxy_server_hostname", _as_it_is),
    "server_name": ("server_hostname", _as_it_is),
    "timeout": ("open_timeout", _as_it_is),
    "ping_interval": ("ping_interval", _or_none),
    "max_size": ("max_size", _or_none),
}
