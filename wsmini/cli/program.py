"""The command line, ``python -m wsmini URL``: from its arguments to its exit status.

What the arguments are is in ``arguments``, and what becomes of connections in ``session``.
"""

from __future__ import annotations

import sys
from time import monotonic

from ..blocking.connection import Connection, connect
from ..exceptions import Close, WebSocketException
from .arguments import Status, make_parser, parsed
from .output import OutputError, Recorder, displayed, note, open_private, show_failure, write
from .session import Session
from .signals import Terminated, terminable
from .terminal import output_for

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from typing import Sequence

    from .output import Output

_PACKAGE = __name__.rpartition(".cli.")[0]


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
    try:
        session = Session(args, output, recorder)
        session.connect()  # or raise: there is no end of a connection yet that could be normal
    except (WebSocketException, OSError, ValueError) as exc:
        return show_failure(exc, args.verbose)
    if args.bench is not None:
        from .benchmark import bench  # rarely needed

        return bench(session.ws, args.bench, args.bench_size)
    try:
        return session.run()
    except (WebSocketException, OSError) as exc:  # there is no other connection
        return show_failure(exc, args.verbose)


# -- the demonstration --


def _demo() -> int:
    """Talk to a server of our own, and show it."""
    from ..testing import echo_server

    with echo_server() as server:
        _say(f"An echo server listens on {server.url} and sends every message back.")
        with connect(server.url) as ws:
            _say(f"open  HTTP {ws.response.status_code} {ws.response.reason_phrase}")
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
