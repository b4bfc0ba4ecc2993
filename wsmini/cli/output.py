"""Where the command line writes to: pipes, files, screens and the file of ``--record``.

And what it has to say on standard error: notes, failures to connect, progress.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from _thread import allocate_lock
from contextlib import contextmanager, suppress
from time import monotonic

from ..exceptions import REFUSALS, PayloadTooBig
from ..sansio.redaction import redacted_header
from .arguments import Status
from .formats import as_json, clock, dumped, encoded64, indented, record, writing_for

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from typing import BinaryIO, Callable, Iterable, Iterator, TextIO

    from ..blocking.connection import Connection
    from ..sansio.http11 import Headers, Response

# What could drive a terminal or deceive its reader: controls but TAB and LF, marks that change the
# direction of text, separators of lines, annotations, and what can't be seen: what Unicode says may
# be ignored (fillers, tags...), but for joiners and variation selectors, which emojis and scripts
# need.
_UNSAFE = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200e\u200f"
    r"\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3"
    r"\U0001d173-\U0001d17a\U000e0000-\U000e00ff\U000e01f0-\U000e0fff]"
)
# The beginning of a line that could pass for a note; it is indented in messages.
_NOTE = re.compile(r"(?m)^(?=wsmini:|[<>*] )")
_SHOWN = 66  # bytes of a binary message that a terminal shows; in base64, without padding
_PROGRESS = 0.2  # seconds between two lines of progress

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


def described(exc: BaseException) -> str:
    """The text of an exception, with that of its cause unless it says the same."""
    text = str(exc) or type(exc).__name__
    cause = exc.__cause__
    if cause is not None and str(cause) not in text:
        text += f" ({described(cause)})"
    if isinstance(cause, PayloadTooBig):  # a limit of ours
        text = text.replace("(max_size)", "(--max-size)")
    return text


def note(text: str, mark: str = "wsmini:") -> None:
    """Write one line to standard error; above the line being typed, if there is one."""
    if sys.stderr is None:
        return
    # In one line whatever a server has put in: its second line could pass for another note.
    line = f"{mark} {printable(text)}".replace("\n", "\\n")
    screen = Screen.active
    if screen is not None and is_terminal(sys.stderr):
        screen.show(line)
        return
    with Progress.out_of_the_way():
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()


def show_failure(exc: Exception, verbose: int) -> int:
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


def _show_refusal(response: Response, verbose: int) -> None:
    """Show the answer that came instead of 101: all of it, or the first line of its text."""
    text = response.body.decode("utf-8", "replace").strip()
    if verbose:
        show_response(response)
        for line in text.splitlines():
            note(line, "<")
    elif text and not text.startswith("<"):  # not HTML
        note(text.splitlines()[0][:200], "<")


def show_response(response: Response) -> None:
    """Show the head of a response, without its secrets."""
    status = f"{response.status_code} {response.reason_phrase}"
    show_head(f"HTTP/{response.http_version} {status}", response.headers, "<")


def show_head(line: str, headers: Headers, mark: str) -> None:
    """Show the first line of an HTTP message and its headers, without their secrets."""
    note(line, mark)
    for name, value in headers.items():
        note(f"{name}: {redacted_header(name, value)}", mark)
    note("", mark)


def printable(text: str) -> str:
    """Escape, as Python does, the characters of *text* that aren't safe to print."""
    return _UNSAFE.sub(lambda match: match.group().encode("unicode_escape").decode(), text)


def is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and stream.isatty()


class OutputError(Exception):
    """A message couldn't be written down; ``problem`` says why.

    No ``OSError``, for those are about the connection where this passes through.
    """

    def __init__(self, problem: OSError) -> None:
        super().__init__(str(problem))
        self.problem = problem

    def report(self) -> int:
        """Say what has failed, standard output or a file; return the exit status for that."""
        if isinstance(self.problem, BrokenPipeError):
            return Status.BROKEN_PIPE
        note(str(self.problem) if self.problem.filename else f"standard output: {self.problem}")
        return Status.LOCAL


def write(data: bytes, file: BinaryIO | None = None, parts: list[int] | None = None) -> None:
    """Write to *file* or standard output, leaving nothing in a buffer for the end.

    An exception of a signal handler finds the sizes of what was written until then in *parts*.

    Raises:
        OutputError: if that fails.
    """
    parts = [] if parts is None else parts
    view = memoryview(data)
    try:
        if file is None:
            if sys.stdout is None:
                raise OSError("it is closed")
            raw = getattr(sys.stdout.buffer, "raw", sys.stdout.buffer)
        else:
            raw = file
        while view:
            parts.extend(map(raw.write, (view,)))  # in one step: nothing comes in between
            if parts[-1] is None:
                raise BlockingIOError("it is in non-blocking mode, and full")
            # A pipe may take a part of it only.
            view = view[parts[-1] :]
    except OSError as exc:
        if file is not None:
            exc.filename = file.name
        raise OutputError(exc) from exc


def open_private(path: str, truncate: bool = False) -> BinaryIO:
    """Open a file to write to, unbuffered, and keep it for its user alone.

    Args:
        path: of the file, which is made if there is none. Devices and pipes are taken as they are.
        truncate: whether to empty it; else it is appended to.

    Raises:
        OSError: if it can't be opened, is a link, or others own it or may write to it.
    """
    # A link in a folder of all (/tmp) could lead anywhere; those in /dev are the system's.
    nofollow = 0 if path.startswith("/dev/") else getattr(os, "O_NOFOLLOW", 0)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | nofollow
    file = open(path, "wb", buffering=0, opener=lambda path, _: os.open(path, flags, 0o600))
    try:
        status = os.fstat(file.fileno())
        regular = stat.S_ISREG(status.st_mode)
        if regular and os.name == "posix":
            if status.st_uid != os.geteuid() or status.st_mode & stat.S_IWOTH:
                raise PermissionError(f"others own {path!r} or may write to it: it isn't used")
            os.fchmod(file.fileno(), 0o600)
        # Not before: another one's file is left as it is.
        if regular and truncate:
            file.truncate(0)
        return file
    except BaseException:
        file.close()
        raise


class Output:
    """Standard output that is a pipe or a file, or a file of ours."""

    def __init__(self, args: Namespace, file: BinaryIO | None = None) -> None:
        self.args, self.file = args, file
        self.format = writing_for(args)
        self.writing = allocate_lock()
        self.size = 0  # of what was written last
        self.parts: list[int] = []  # the sizes of its parts
        self.failed = False

    def __enter__(self) -> Output:
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass

    def close(self) -> None:
        """Close the file, if there is one of ours."""
        if self.file is not None:
            self.file.close()

    def message(self, message: str | bytes) -> None:
        """Write a message that was received."""
        self.emit(self.format(message))

    def sent(self, message: str | bytes) -> None:
        """Write a message that is being sent, where that is wanted; in the input thread."""
        if self.args.ndjson:
            self.emit(as_json(record("sent", message)) + b"\n")

    def closed(self, fields: dict[str, object]) -> None:
        """Write how the connection ended, where that is wanted."""
        # An interrupt may have come while the reader of a pipe was slow: half a line would go on
        # with this one.
        if self.args.ndjson and not self.failed and sum(self.parts) in (0, self.size):
            self.emit(as_json(fields) + b"\n")

    def emit(self, data: bytes) -> None:
        """Write *data* in one piece; two threads may do it."""
        # Messages received, of the main thread, and messages sent, of the input thread.
        with self.writing:
            self.parts = []
            self.size = len(data)
            try:
                write(data, self.file, self.parts)
            except OutputError:
                self.failed = True
                raise


class Recorder:
    """The file of ``--record``: a line of JSON for each event; nothing without a file.

    Each line is written at once, by whichever thread has it: appending keeps lines whole.
    """

    def __init__(self, path: str | None) -> None:
        self.file = None if path is None else open_private(path, truncate=True)

    def end(self) -> None:
        """Close the file; what comes later isn't recorded."""
        if self.file is not None:
            self.file.close()

    def write(self, fields: dict[str, object]) -> None:
        """Write *fields* as one line; end() may come meanwhile, in another thread."""
        if self.file is None:  # which would mean standard output to write()
            return
        try:
            write(as_json(fields) + b"\n", self.file)
        except ValueError:
            if not self.file.closed:
                raise

    def open(self, ws: Connection) -> None:
        """Record the handshake, without its secrets."""
        headers = ws.response_headers.items()
        shown = [[name, redacted_header(name, value)] for name, value in headers]
        # Not the URL: tokens are in queries, and paths hold names.
        self.write({"type": "open", "subprotocol": ws.subprotocol, "headers": shown})

    def message(self, direction: str, message: str | bytes) -> None:
        if self.file is not None:
            self.write(record(direction, message))

    def parts(self, parts: Iterable[str | bytes]) -> Iterator[str | bytes]:
        """Pass on the *parts* of a message to send; to be recorded, it has to fit into memory."""
        kept = []
        for part in parts:
            if self.file is not None:
                kept.append(part)
            yield part
        # One record for the whole message: behind what was received while it was sent.
        if kept:
            empty = kept[0][:0]  # of the type of them all
            self.message("sent", empty.join(kept))  # type: ignore[arg-type]


class Screen(Output):
    """A terminal that shows messages, where the input comes from elsewhere."""

    active: Screen | None = None  # the terminal with the line that is being typed

    def text(self, message: str | bytes) -> str:
        """A message as it is shown."""
        if self.args.json and isinstance(message, str):
            message = indented(message)
        if self.args.dump and isinstance(message, bytes):
            text = f"[{len(message)} bytes]\n{dumped(message)}"
        else:
            text = displayed(message, encoded64 if self.args.base64 else bytes.hex)
        return f"{clock()} {text}" if self.args.timestamps else text

    def message(self, message: str | bytes) -> None:
        self.show(_NOTE.sub("  ", self.text(message)))

    def show(self, text: str) -> None:
        """Write lines of *text*."""
        with Progress.out_of_the_way():
            self.write(f"{text}\n")

    def write(self, text: str) -> None:
        write(text.encode(sys.stdout.encoding, "backslashreplace"))


class Progress:
    """A line on standard error, if that is a terminal, that is drawn anew as something goes on.

    One thread draws it; the writer of another line on the terminal removes it before.
    """

    active: Progress | None = None  # what the terminal shows now
    _drawing = allocate_lock()

    def __init__(self) -> None:
        self.on = is_terminal(sys.stderr)
        self.started = monotonic()
        self.next = self.started + _PROGRESS

    def text(self, took: float) -> str:
        """The line, after so many seconds."""
        raise NotImplementedError

    def draw(self) -> None:
        """Draw the line, unless it was drawn a moment ago."""
        now = monotonic()
        if self.on and now >= self.next:
            self.next = now + _PROGRESS
            with Progress._drawing:
                # Once more: end() may have come in between, and nothing would remove it then.
                if self.on:
                    Progress.active = self
                    overwrite(self.text(now - self.started))

    def end(self) -> None:
        """Remove it, for good."""
        self.on = False
        with Progress.out_of_the_way():
            pass

    @staticmethod
    @contextmanager
    def out_of_the_way() -> Iterator[None]:
        """Keep it off the screen in this block, in which a line is written."""
        with Progress._drawing:
            if Progress.active is not None:
                Progress.active = None
                overwrite("")
            yield


class InputProgress(Progress):
    """How much of a large input was read, and so is being sent; the input thread draws it."""

    def __init__(self, args: Namespace) -> None:
        super().__init__()
        self.whole = args.binary or args.text
        self.count = self.size = 0

    def begin(self, descriptor: int) -> None:
        """Count what is read from *descriptor* from now on, if it is worth a line.

        Lines that trickle through a pipe aren't.
        """
        with suppress(OSError):  # standard input may have no descriptor
            status = os.fstat(descriptor)
            self.size = status.st_size if stat.S_ISREG(status.st_mode) else 0
        self.on = self.on and (self.whole or self.size > 0)
        self.started = monotonic()
        self.next = self.started + _PROGRESS

    def add(self, count: int) -> None:
        """So many bytes more were read."""
        self.count += count
        self.draw()

    def text(self, took: float) -> str:
        done, size = self.count / 1e6, self.size / 1e6
        part = f" of {size:.1f} MB sent, {min(1.0, done / size):.0%}" if size else " MB sent"
        return f"{done:.1f}{part}, {done / took:.1f} MB/s "


def overwrite(text: str) -> None:
    """Show *text*, as far as it fits, instead of the line that standard error's terminal is at."""
    # A row that is full would wrap, and "\r" go to the beginning of the next one.
    room = terminal_size(sys.stderr)[0] - 1
    sys.stderr.write(f"\r{'':{room}}\r{text[:room]}")
    sys.stderr.flush()


def terminal_size(stream: TextIO) -> tuple[int, int]:
    """Columns and rows of the terminal."""
    try:
        # shutil's function goes by COLUMNS, which a resized terminal doesn't change.
        columns, rows = os.get_terminal_size(stream.fileno())
    except OSError:
        columns = rows = 0
    return columns or 80, rows or 24  # a terminal without a size says 0


def displayed(message: str | bytes, encode: Callable[[bytes], str] = bytes.hex) -> str:
    """A message as a terminal shows it."""
    if isinstance(message, str):
        return printable(message)
    more = "..." if len(message) > _SHOWN else ""
    return f"[{len(message)} bytes] {encode(message[:_SHOWN])}{more}"
