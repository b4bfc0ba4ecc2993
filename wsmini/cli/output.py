"""Where the command line writes to: a terminal, a pipe or a file; and its notes on standard error.

On a terminal both threads write: readline the line being typed, the main thread messages above it.
What either writes at once is complete: the main thread's lines come with the cursor movements that
put them there and bring the cursor back to where readline believes it to be. So the two may follow
each other in any order. (With PYTHONUNBUFFERED, readline writes character by character: then an
escape sequence of its own may be torn apart if a message comes just when a key is pressed.)
"""

from __future__ import annotations

import os
import re
import stat
import sys
from _thread import allocate_lock
from contextlib import contextmanager
from time import monotonic

from ..exceptions import PayloadTooBig
from .arguments import BROKEN_PIPE, LOCAL
from .formats import as_json, clock, dumped, encoded64, indented, record, writing_for

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from typing import BinaryIO, Callable, Iterator, TextIO

_PROMPT = "> "
# What could drive a terminal or deceive its reader: controls but TAB and LF, marks that change the
# direction of text, separators of lines.
_UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_MODE = 1.0  # seconds for readline to set the mode of the terminal
_SHOWN = 66  # bytes of a binary message that a terminal shows; in base64, without padding
_PROGRESS = 0.2  # seconds between two lines of progress


def described(exc: BaseException) -> str:
    """The message of an exception, and of what caused it unless that is already said."""
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
    line = f"{mark} {_printable(text)}".replace("\n", "\\n")
    terminal = Terminal.active
    if terminal is not None and is_terminal(sys.stderr):
        terminal.show(line)
        return
    with Progress.out_of_the_way():
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()


def _printable(text: str) -> str:
    """*text* with what isn't safe to print escaped as in Python."""
    return _UNSAFE.sub(lambda match: match.group().encode("unicode_escape").decode(), text)


def is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and stream.isatty()


def output_for(args: Namespace) -> Output:
    """Where messages go to.

    Raises:
        OSError: if the file of ``--output`` can't be opened.
    """
    if args.output:
        return Output(args, open(args.output, "wb", buffering=0))
    if not is_terminal(sys.stdout) or args.ndjson:
        return Output(args)
    typing = is_terminal(sys.stdin) and not args.input
    if typing and (args.interactive or not args.message):
        return Terminal(args)
    return _Screen(args)


def output_failed(exc: OutputError) -> int:
    """The exit status for an error of standard output, or of a file that was written to."""
    problem = exc.problem
    if isinstance(problem, BrokenPipeError):
        return BROKEN_PIPE
    note(str(problem) if problem.filename else f"standard output: {problem}")
    return LOCAL


class OutputError(Exception):
    """What was received or sent couldn't be written down; ``problem`` says why.

    No ``OSError``, for those are about the connection where this passes through.
    """

    def __init__(self, problem: OSError) -> None:
        super().__init__(str(problem))
        self.problem = problem


def write(data: bytes, file: BinaryIO | None = None, parts: list[int] | None = None) -> None:
    """Write to *file* or standard output, leaving nothing in a buffer for the end.

    An exception of a signal handler finds the sizes of what was written until then in *parts*.
    """
    parts = [] if parts is None else parts
    if file is not None:
        write = file.write
    elif sys.stdout is not None:
        write = getattr(sys.stdout.buffer, "raw", sys.stdout.buffer).write
    else:
        raise OSError("it is closed")
    view = memoryview(data)
    while view:
        try:
            parts.extend(map(write, (view,)))  # in one step: nothing comes in between
        except OSError as exc:
            if file is not None:
                exc.filename = file.name
            raise
        if parts[-1] is None:
            raise BlockingIOError("it is in non-blocking mode, and full")
        view = view[parts[-1] :]


class Output:
    """Standard output that is a pipe or a file, or a file of ours."""

    def __init__(self, args: Namespace, file: BinaryIO | None = None) -> None:
        self.file = file
        self.format = writing_for(args)
        self.journal = args.ndjson  # whether it shows more than the messages received
        self.writing = allocate_lock()
        self.size, self.parts = 0, [0]  # of what was written last, and of the parts of it
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
        if self.journal:
            self.emit(as_json(record("sent", message)) + b"\n")

    def closed(self, fields: dict[str, object]) -> None:
        """Write how the connection ended, where that is wanted."""
        torn = 0 < sum(self.parts) < self.size  # an interrupt came when somebody didn't read on
        if self.journal and not torn and not self.failed:
            self.emit(as_json(fields) + b"\n")

    def emit(self, data: bytes) -> None:
        """Write *data* in one piece; two threads may do it."""
        with self.writing:
            self.parts = []
            self.size = len(data)
            try:
                write(data, self.file, self.parts)
            except OSError as exc:
                self.failed = True
                raise OutputError(exc) from exc


class _Screen(Output):
    """A terminal that nobody types on."""

    def __init__(self, args: Namespace) -> None:
        super().__init__(args)
        self.args = args

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
        with Progress.out_of_the_way():
            self.write(f"{self.text(message)}\n")

    def write(self, text: str) -> None:
        try:
            write(text.encode(sys.stdout.encoding, "backslashreplace"))
        except OSError as exc:
            raise OutputError(exc) from exc


class Progress:
    """A line on standard error, if that is a terminal, about a large input that is being sent.

    The input thread draws it; whoever writes a line to the terminal removes it before.
    """

    active: Progress | None = None  # the one that is shown now
    _drawing = allocate_lock()

    def __init__(self, args: Namespace) -> None:
        self.on = is_terminal(sys.stderr)
        self.whole = args.binary or args.text
        self.count, self.size = 0, 0
        self.started = self.next = 0.0

    def begin(self, descriptor: int) -> None:
        """What is read from *descriptor* is counted from now on, if it is worth a line.

        Lines that trickle through a pipe aren't.
        """
        try:
            status = os.fstat(descriptor)
        except OSError:
            status = None
        if status is not None and stat.S_ISREG(status.st_mode):
            self.size = status.st_size
        self.on = self.on and (self.whole or self.size > 0)
        self.started = monotonic()
        self.next = self.started + _PROGRESS

    def add(self, count: int) -> None:
        """So many bytes more were read."""
        self.count += count
        now = monotonic()
        if self.on and now >= self.next:
            self.next = now + _PROGRESS
            self.draw(now - self.started)

    def draw(self, took: float) -> None:
        done, size = self.count / 1e6, self.size / 1e6
        part = f" of {size:.1f} MB sent, {min(1.0, done / size):.0%}" if size else " MB sent"
        with Progress._drawing:
            if self.on:
                Progress.active = self
                overwrite(f"{done:.1f}{part}, {done / took:.1f} MB/s ")

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


def overwrite(text: str) -> None:
    """Show *text*, as far as it fits, instead of the line that standard error's terminal is at."""
    room = _size(sys.stderr)[0] - 1
    sys.stderr.write(f"\r{'':{room}}\r{text[:room]}")
    sys.stderr.flush()


def displayed(message: str | bytes, encode: Callable[[bytes], str] = bytes.hex) -> str:
    """A message as a terminal shows it."""
    if isinstance(message, str):
        return _printable(message)
    more = "..." if len(message) > _SHOWN else ""
    return f"[{len(message)} bytes] {encode(message[:_SHOWN])}{more}"


class Terminal(_Screen):
    """A terminal with a line that is being typed, above which messages appear."""

    active: Terminal | None = None  # the one that is typed on now

    def __init__(self, args: Namespace) -> None:
        super().__init__(args)
        from threading import Lock

        self.restore = _saved_terminal()
        self.prepare: Callable[[], None] | None = None  # sets readline's mode while it reads
        self.ignore_continue: Callable[[], object] = lambda: None
        self.changing = Lock()  # held while the mode of the terminal changes, and from the end on
        self.asking = False  # whether there is a prompt, or one is just being written
        self.smart = os.name == "posix" and os.environ.get("TERM", "dumb") != "dumb"
        self.colored = self.smart and not os.environ.get("NO_COLOR")

    def __enter__(self) -> Output:
        _prepare_readline()
        note("connected; Ctrl-D closes the connection, /help lists commands")
        Terminal.active = self
        self.ignore_continue = _on_continue(self.resume)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.ignore_continue()
        Terminal.active = None
        self.changing.acquire(timeout=_MODE)
        # Leave the line behind, and readline's mode of the terminal.
        self.write("\r\n")
        self.restore()

    def read_line(self) -> str:
        """A line typed; in the input thread.

        ``input()`` lets go of the GIL before readline sets the mode of the terminal: if the
        connection ended just then, nobody would restore it. So the main thread waits until
        readline calls the hook, which it does behind that.
        """
        self.changing.acquire()
        changed = [self.changing.release]

        def hook() -> None:
            if changed:
                changed.pop()()

        def reading() -> None:
            self.prepare = _saved_terminal()
            hook()

        if not _hook_readline(reading):
            hook()
        self.asking = True
        try:
            return input(_PROMPT) if sys.modules.get("readline") else self.plain_line()
        finally:
            self.asking = False
            self.prepare = None
            hook()

    def plain_line(self) -> str:
        """What ``input()`` does, where there is no readline.

        That would read with C's stdio, which holds a lock meanwhile: glibc's ``exit()`` waits for
        it since 2.41, and so the end of the connection would for the end of the line.
        """
        self.write(_PROMPT)
        stdin = sys.stdin
        line: bytes = getattr(stdin.buffer, "raw", stdin.buffer).readline()
        if not line:
            raise EOFError
        return line.decode(stdin.encoding, stdin.errors or "strict").rstrip("\r\n")

    def resume(self) -> None:
        """Go on after Ctrl-Z and ``fg``: the shell has left the terminal in a mode of its own.

        Where in the line the cursor was, only readline knows: the next key has it draw the line
        anew, since it takes this for a change of the terminal's size.
        """
        if self.prepare is None or _in_background():
            return  # nobody types here
        import signal

        self.prepare()
        if self.smart:
            room = max(1, _size(sys.stdout)[0] - len(_PROMPT) - 1)
            shown = _wrapped(_printable(_line_buffer()), room)
            self.write(f"\r\x1b[K{_PROMPT}{shown[0]}")
            os.kill(os.getpid(), signal.SIGWINCH)

    def message(self, message: str | bytes) -> None:
        self.show("< " + self.text(message).replace("\n", "\n  "))

    def show(self, text: str) -> None:
        """Put *text* above the line being typed."""
        if not self.smart:
            typed = f"{_PROMPT}{_line_buffer()}"
            self.write(f"\n{text}\n{typed}" if self.asking else f"{text}\n")
            return
        columns, rows = _size(sys.stdout)
        lines = _wrapped(text, columns)
        if self.colored and text.startswith("<"):
            lines[0] = f"\x1b[36m<\x1b[m{lines[0][1:]}"
        step = max(1, rows - 1)
        for start in range(0, len(lines), step):
            self.insert(lines[start : start + step])

    def insert(self, lines: list[str]) -> None:
        """Put *lines*, fewer than fit on the screen, above the one with the cursor."""
        n = len(lines)
        above = "\r\n".join(lines)
        # Save the cursor; make room below, by scrolling if there's none; go back to where the line
        # is now; push it down; write; restore the cursor, and follow the line. Scrolling moves
        # the line up and the saved position not, which the bottom of the screen makes up for.
        self.write(f"\x1b7{chr(10) * n}\x1b[{n}A\r\x1b[{n}L{above}\x1b8\x1b[{n}B")


def _size(stream: TextIO) -> tuple[int, int]:
    """Columns and rows of the terminal."""
    try:
        columns, rows = os.get_terminal_size(stream.fileno())
    except OSError:
        columns = rows = 0
    return columns or 80, rows or 24  # a terminal without a size says 0


def _wrapped(text: str, columns: int) -> list[str]:
    """*text* in lines for so many columns at most.

    From Hangul on, characters may take two, and not every terminal agrees which: all are taken to.
    """
    lines = []
    for line in text.split("\n"):
        start = used = 0
        line = line.expandtabs()
        for index, character in enumerate(line):
            width = 1 if character < "\u1100" else 2
            if used + width > columns:
                lines.append(line[start:index])
                start, used = index, 0
            used += width
        lines.append(line[start:])
    return lines


def _saved_terminal() -> Callable[[], None]:
    """A function that restores the present mode of the terminal, unless that is another's now."""
    try:
        import termios
    except ImportError:  # not on Windows, which needs none of it
        return lambda: None
    descriptor = sys.stdin.fileno()
    mode = termios.tcgetattr(descriptor)

    def restore() -> None:
        if not _in_background():
            termios.tcsetattr(descriptor, termios.TCSADRAIN, mode)

    return restore


def _in_background() -> bool:
    """Whether the terminal is somebody else's, such as the shell's; to set its mode stops us."""
    try:
        return os.tcgetpgrp(sys.stdin.fileno()) != os.getpgrp()
    except OSError:  # it isn't one that has jobs
        return False


def _on_continue(action: Callable[[], None]) -> Callable[[], object]:
    """Have *action* called in the main thread when the process is continued; what ends that."""
    import signal
    import threading

    main = threading.current_thread() is threading.main_thread()
    if not main or not hasattr(signal, "SIGCONT"):
        return lambda: None
    before = signal.signal(signal.SIGCONT, lambda number, frame: action())
    return lambda: signal.signal(signal.SIGCONT, before)


def _prepare_readline() -> None:
    """Give ``input()`` line editing and a history, where there is readline."""
    try:
        import readline
    except ImportError:
        return
    if "libedit" not in (readline.__doc__ or ""):
        # A long line scrolls in its row: a second row would be in the way of messages.
        readline.parse_and_bind("set horizontal-scroll-mode on")
        # Leaving in the middle of a line would leave the terminal in this mode.
        readline.parse_and_bind("set enable-bracketed-paste off")


def _hook_readline(hook: Callable[[], None]) -> bool:
    """Have *hook* called when readline has set the mode of the terminal; whether it will be."""
    readline = sys.modules.get("readline")
    if readline is None or "libedit" in (readline.__doc__ or ""):
        return False
    readline.set_startup_hook(hook)
    return True


def _line_buffer() -> str:
    """What has been typed of the line, where readline knows."""
    readline = sys.modules.get("readline")
    return readline.get_line_buffer() if readline is not None else ""
