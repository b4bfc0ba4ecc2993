"""The command line, ``python -m wsmini URL``: it connects, tells about that, and has a status.

Its arguments are in ``arguments``; what happens once the connection is open is in ``session``.
"""

from __future__ import annotations

import sys
from time import monotonic

from ..blocking.connection import connect
from ..exceptions import REFUSALS, Close, ConnectionClosed, WebSocketException
from ..sansio.redaction import redacted_header, redacted_uri
from ..sansio.uri import shown_address
from .arguments import Status, make_parser, parsed
from .output import OutputError, Recorder, described, displayed, note, open_private, write
from .session import Session
from .signals import Terminated, terminable
from .terminal import output_for

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from typing import Sequence

    from ..blocking.connection import Connection
    from ..sansio.http11 import Headers, Response
    from .output import Output

_PACKAGE = __name__.rpartition(".cli.")[0]

# An option as hints name it, for programs -> as it is named here.
_OPTIONS = {
    "pass ssl=ssl.create_default_context(cafile=...)": "use --cafile",
    "pass proxy_ssl=ssl.create_default_context(cafile=...)": "use --proxy-cafile",
    " ssl= with load_cert_chain()": " --cert",
    " server_hostname=": " --server-name",
    " proxy_server_hostname=": " --proxy-server-name",
    "origin=": "--origin",
    "auth=(user, password) passes them": "--user passes them",
    "cookies= or auth=": "--cookie or --user",
    "source_address": "--source",
    "max_redirects=0": "--max-redirects 0",
    "raise open_timeout": "raise --timeout",
    "proxy=None goes without": "--proxy none goes without",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line with *argv*, by default ``sys.argv[1:]``; return the exit status.

    Raises:
        SystemExit: as argparse does, for ``--help``, ``--version`` and wrong arguments.
    """
    try:
        parser = make_parser()
        args = parsed(parser, sys.argv[1:] if argv is None else argv)
        if args.man or args.completion:
            from .manual import completion, man_page  # rarely needed

            text = man_page(parser) if args.man else completion(parser, args.completion)
            write(text.encode())
            return Status.OK
        return _demo() if args.demo else _run(args)
    except ModuleNotFoundError as exc:
        if exc.name == "argparse":
            note("this Python has no argparse module, which the command line needs")
        elif str(exc.name).startswith(f"{_PACKAGE}."):
            note(f"this copy of {_PACKAGE} has no {str(exc.name)[len(_PACKAGE) + 1 :]}")
        else:
            raise
        return Status.USAGE
    # In front of KeyboardInterrupt, of which it is one.
    except Terminated:
        return Status.TERMINATED
    except KeyboardInterrupt:
        return Status.INTERRUPTED
    except BrokenPipeError:  # standard error, or the output of --help, has no reader
        return Status.BROKEN_PIPE
    except OutputError as exc:
        return exc.report()


# -- from the opening to the exit status --


def _run(args: Namespace) -> int:
    if args.insecure:
        note(
            "warning: --insecure: whoever is between here and the server can read and change"
            " everything, for nobody checks that it is the server"
        )
    try:
        # Before connecting: no session is worth its while if it can't be written down.
        recorder, output = Recorder(args.record), output_for(args)
    except OSError as exc:
        note(f"cannot write: {exc}")
        return Status.LOCAL
    cookies = repr(args.options.get("cookies"))
    try:
        with terminable():
            status = _talk(args, output, recorder)
    finally:
        recorder.end()
        output.close()
        # After an interrupt, too. A jar that no server has changed is left alone.
        kept = repr(args.options.get("cookies")) == cookies or _save_cookies(args)
    return status if kept else status or Status.LOCAL


def _save_cookies(args: Namespace) -> bool:
    """Write the jar to its file, for its user alone; return whether that worked."""
    try:
        # save() would make a file that others can read.
        open_private(args.cookie_jar).close()
        args.options["cookies"].save(ignore_discard=True)
    except OSError as exc:
        note(f"cannot write: {exc}")
        return False
    return True


def _talk(args: Namespace, output: Output, recorder: Recorder) -> int:
    def open_connection() -> Connection:
        if not args.verbose:
            return connect(args.url, **args.options)
        from .tracing import connect_traced  # rarely needed

        ws = connect_traced(args.url, args.options, note, frames=args.verbose > 1)
        _show_handshake(ws)
        return ws

    def show(failure: Exception) -> int:
        return _show_failure(failure, args.verbose)

    try:
        session = Session(args, output, recorder, open_connection, show)
        session.connect()  # or raise: there is no end of a connection yet that could be normal
    except (WebSocketException, OSError, ValueError) as exc:
        return show(exc)
    if args.bench is not None:
        return _bench(session.ws, args)
    try:
        return session.run()
    except (WebSocketException, OSError) as exc:  # there is no other connection
        return show(exc)


def _bench(ws: Connection, args: Namespace) -> int:
    from .benchmark import measure  # rarely needed

    try:
        with ws:
            for line in measure(ws, args.bench, args.bench_size):
                _say(line)
    except TimeoutError as exc:
        note(str(exc))
        return Status.TIMEOUT
    except ConnectionClosed as exc:
        note(f"connection closed: {described(exc)}")
        return Status.ABNORMAL
    return Status.OK


def _show_failure(exc: Exception, verbose: int) -> int:
    """Say why there is no connection; return the exit status for that."""
    text, hint = described(exc), getattr(exc, "hint", "")
    if hint:  # not what the server says, which may have the same words
        head, _, tail = text.rpartition(hint)
        for keyword, option in _OPTIONS.items():
            hint = hint.replace(keyword, option)
        text = f"{head}{hint}{tail}"
    note(f"cannot connect: {text}")
    if isinstance(exc, REFUSALS):
        _show_refusal(exc.response, verbose)
    return _failure_status(exc)


def _failure_status(exc: Exception) -> int:
    """The exit status for what ``connect()`` raised."""
    if isinstance(exc, TimeoutError):
        return Status.TIMEOUT
    if isinstance(exc, OSError):
        ssl = sys.modules.get("ssl")  # if it isn't loaded, this isn't one of its exceptions
        tls = ssl is not None and isinstance(exc, ssl.SSLError)
        return Status.TLS if tls or getattr(exc, "phase", "") == "tls" else Status.NETWORK
    if isinstance(exc, ValueError):
        return Status.USAGE
    return Status.REFUSED


def _show_handshake(ws: Connection) -> None:
    note(f"{ws.request.method} {redacted_uri(ws.request.target)} HTTP/1.1", ">")
    _show_headers(">", ws.request.headers)
    note(f"HTTP/{ws.response.http_version} {_status_line(ws.response)}", "<")
    _show_headers("<", ws.response.headers)
    note(f"connected to: {shown_address(ws.remote_address)}", "*")
    note(f"subprotocol: {ws.subprotocol or 'none'}", "*")
    took = ", ".join(f"{phase} {t * 1000:.1f} ms" for phase, t in ws.timings.items())
    note(f"timings: {took}", "*")
    note(f"extensions: {', '.join(e.name for e in ws.extensions) or 'none'}", "*")


def _show_refusal(response: Response, verbose: int) -> None:
    """Show the answer that came instead of 101: all of it, or the first line of its text."""
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
        note(f"{name}: {redacted_header(name, value)}", mark)
    note("", mark)


def _status_line(response: Response) -> str:
    return f"{response.status_code} {response.reason_phrase}"


# -- the demonstration --


def _demo() -> int:
    """Talk to a server of our own, and show it."""
    from ..testing import echo_server

    with echo_server() as server:
        _say(f"An echo server listens on {server.url} and sends every message back.")
        with connect(server.url) as ws:
            _say(f"open  HTTP {_status_line(ws.response)}")
            for message in ("Hello!", "Is anybody there?", bytes(range(16))):
                _exchange(ws, message)
            _say(f"ping  answered after {ws.ping().wait(10) * 1000:.2f} ms")
        _say(f"close {Close(ws.close_code, ws.close_reason)}")
    _say("That works. For your own server: python -m wsmini ws://...; more with --help")
    return Status.OK


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
