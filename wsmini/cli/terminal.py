"""The terminal with a line that is being typed, messages above it, and the commands typed there.

On a terminal both threads write: readline the line being typed, the main thread messages above it.
What either writes at once is complete: the main thread's lines come with the cursor movements that
put them there and bring the cursor back to where readline believes it to be. So the two may follow
each other in any order. (With PYTHONUNBUFFERED, readline writes character by character: then an
escape sequence of its own may be torn apart if a message comes just when a key is pressed.)
"""

from __future__ import annotations

import os
import re
import signal
import sys
from contextlib import ExitStack
from threading import Lock

from ..exceptions import WebSocketException
from .arguments import close_code, close_reason
from .formats import from_hex
from .output import Output, Screen, is_terminal, note, open_private, printable, terminal_size
from .signals import handled

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from typing import Callable, Iterator

    from ..blocking.connection import Connection

_HELP = """\
/ping [TEXT]            send a ping, and show the round trip
/close [CODE [REASON]]  close the connection
/binary FILE            send a file as a binary message
/hex DIGITS             send a binary message
//TEXT                  send /TEXT
/help                   show this"""

_PROMPT = "> "
_MODE = 1.0  # seconds for readline to set the mode of the terminal
_PONG = 10.0  # seconds that a pong may take
_KEPT = 1000  # lines of history
# Lines that may hold a secret aren't kept; better one too few.
_SECRET = re.compile(r"(?i)token|secret|passw|passphrase|credential|authoriz|api.?key|bearer")


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
    return Screen(args)


class Terminal(Screen):
    """A terminal with a line that is being typed, above which messages appear."""

    def __init__(self, args: Namespace) -> None:
        super().__init__(args)
        # Before readline changes the mode for the first time.
        self.restore = _saved_terminal()
        self.set_mode: Callable[[], None] | None = None  # sets readline's mode while it reads
        self.handling = ExitStack()  # of SIGCONT
        self.changing = Lock()  # held while the mode of the terminal changes, and from the end on
        self.asking = False  # whether there is a prompt, or one is just being written
        self.smart = os.name == "posix" and os.environ.get("TERM", "dumb") != "dumb"
        self.colored = self.smart and not os.environ.get("NO_COLOR")

    def __enter__(self) -> Output:
        _prepare_readline()
        note("connected; Ctrl-D closes the connection, /help lists commands")
        Screen.active = self
        if hasattr(signal, "SIGCONT"):
            self.handling.enter_context(handled({signal.SIGCONT: self.resume}))
        return self

    def __exit__(self, *exc_info: object) -> None:
        # From here on, neither a SIGCONT nor a note draws the prompt again.
        self.handling.close()
        Screen.active = None
        # Not released any more: the input thread must not change the mode again.
        self.changing.acquire(timeout=_MODE)
        # Leave the line behind, and readline's mode of the terminal.
        self.write("\r\n")
        self.restore()

    def lines(self) -> Iterator[str]:
        """Lines typed, but for empty ones; in the input thread."""
        history = History()
        while True:
            try:
                line = self.read_line()
                # Fails for bytes that aren't UTF-8: the history would fail for them for good.
                line.encode()
            except EOFError:
                return
            except UnicodeError as exc:
                note(f"that line wasn't sent: {exc}")
                continue
            if line:
                history.add(line)
                yield line

    def read_line(self) -> str:
        """A line typed.

        ``input()`` releases the GIL before readline sets the mode of the terminal: a connection
        that ended just then would leave the terminal in that mode. So the main thread waits
        until readline calls the hook, which it does once the mode is set.
        """
        # Held until readline has set the mode: __exit__ waits for that before it restores the mode.
        self.changing.acquire()
        held = ExitStack()  # left once: in the hook, or at the end if readline never calls that
        held.callback(self.changing.release)

        def mode_is_set() -> None:
            self.set_mode = _saved_terminal()
            held.close()

        if not _hook_readline(mode_is_set):
            held.close()
        # Before the prompt is there: a message that comes now draws it once more, not never.
        self.asking = True
        try:
            return input(_PROMPT) if sys.modules.get("readline") else self.plain_line()
        finally:
            self.asking = False
            self.set_mode = None
            held.close()

    def plain_line(self) -> str:
        """Read a line as ``input()`` does, where there is no readline.

        ``input()`` itself reads with C's stdio, which holds a lock meanwhile. glibc's ``exit()``
        waits for that lock since 2.41: the program would end with the next line only.
        """
        self.write(_PROMPT)
        stdin = sys.stdin
        # Without the buffer either, whose lock the thread would hold at the interpreter's exit.
        line: bytes = getattr(stdin.buffer, "raw", stdin.buffer).readline()
        if not line:
            raise EOFError
        return line.decode(stdin.encoding, stdin.errors or "strict").rstrip("\r\n")

    def resume(self, *args: object) -> None:
        """Go on after Ctrl-Z and ``fg``: the shell has left the terminal in a mode of its own.

        Where in the line the cursor was, only readline knows: the next key has it draw the line
        anew, since it takes this for a change of the terminal's size.
        """
        # After "bg", too, there is a SIGCONT; then the terminal is the shell's.
        if self.set_mode is None or _in_background():
            return  # the input thread isn't waiting for a line
        self.set_mode()
        if self.smart:
            room = max(1, terminal_size(sys.stdout)[0] - len(_PROMPT) - 1)
            shown = _wrapped(printable(_line_buffer()), room)
            self.write(f"\r\x1b[K{_PROMPT}{shown[0]}")
            os.kill(os.getpid(), signal.SIGWINCH)

    def message(self, message: str | bytes) -> None:
        self.show("< " + self.text(message).replace("\n", "\n  "))

    def show(self, text: str) -> None:
        """Put *text* above the line being typed."""
        if not self.smart:
            typed = f"{_PROMPT}{_line_buffer()}"
            # No cursor movements: the line being typed is written again below.
            self.write(f"\n{text}\n{typed}" if self.asking else f"{text}\n")
            return
        columns, rows = terminal_size(sys.stdout)
        lines = _wrapped(text, columns)
        if self.colored and text.startswith("<"):
            lines[0] = f"\x1b[36m<\x1b[m{lines[0][1:]}"
        # insert() needs the lines to fit above the one with the cursor.
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


def run_command(
    line: str, ws: Connection, close: Callable[[int, str], object]
) -> Iterator[str | bytes]:
    """Do what *line* says, and yield what it sends; a note says what is wrong with it."""
    command, _, rest = line.partition(" ")
    rest = rest.strip()
    try:
        if command == "/ping":
            note(f"pong after {ws.ping(rest or None).wait(_PONG) * 1000:.2f} ms", "*")
        elif command == "/close":
            code, _, reason = rest.partition(" ")
            close(close_code(code or "1000"), close_reason(reason.strip()))
        elif command == "/binary":
            with open(os.path.expanduser(rest), "rb") as file:
                yield file.read()
        elif command == "/hex":
            yield from_hex(rest.encode())
        elif command == "/help":
            for text in _HELP.splitlines():
                note(text, "*")
        else:
            note(f"there is no command {command}; /help lists them, //... sends /...", "*")
    except (OSError, ValueError, WebSocketException) as exc:
        # The end of the connection is said here, too; the main thread finds it by itself.
        note(f"{command}: {str(exc) or 'wrong arguments'}", "*")


class History:
    """The lines typed, kept in a file that only its user can read; never a reason to fail."""

    def __init__(self) -> None:
        usual = os.path.join(os.path.expanduser("~"), ".wsmini_history")
        self.path = os.environ.get("WSMINI_HISTORY", usual)
        # Terminal has imported it where there is one: then input() uses it.
        self.readline = sys.modules.get("readline")
        if self.readline is None or not hasattr(self.readline, "set_auto_history"):
            self.path = ""
        else:
            # add() does that, or each line would be there twice.
            self.readline.set_auto_history(False)
            self.load()

    def load(self) -> None:
        """Give readline the last ``_KEPT`` lines of the file; drop others if it has got long."""
        try:
            with open(self.path, encoding="utf-8", errors="replace") as file:
                lines = file.read().splitlines()
            # Seldom, and in one step: another session may be reading the file.
            if len(lines) > 2 * _KEPT:
                with open_private(f"{self.path}.new", truncate=True) as new:
                    new.write("".join(f"{line}\n" for line in lines[-_KEPT:]).encode())
                os.replace(f"{self.path}.new", self.path)
        except (OSError, ValueError):  # none yet, or not to be had; ValueError: NUL in its name
            return
        for line in lines[-_KEPT:]:
            self.readline.add_history(line)  # type: ignore[union-attr]

    def add(self, line: str) -> None:
        """Keep *line*: for this session, and in the file unless it may be a secret."""
        if self.readline is not None and hasattr(self.readline, "add_history"):
            self.readline.add_history(line)
        if not self.path or line.startswith(" ") or _SECRET.search(line):
            return
        try:
            with open_private(self.path) as file:
                file.write(line.encode() + b"\n")
        except (OSError, ValueError):
            self.path = ""  # a disk that is full or read-only: go on without


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
    """Whether another process, the shell say, has the terminal: setting its mode would stop us."""
    try:
        return os.tcgetpgrp(sys.stdin.fileno()) != os.getpgrp()
    except OSError:  # the terminal has no job control
        return False


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
    """Have readline call *hook* once it has set the terminal's mode; return whether it will."""
    readline = sys.modules.get("readline")
    # Only GNU's readline is known to call its hook behind that.
    if readline is None or "libedit" in (readline.__doc__ or ""):
        return False
    readline.set_startup_hook(hook)
    return True


def _line_buffer() -> str:
    """The beginning of the line, as typed so far, where readline knows."""
    readline = sys.modules.get("readline")
    return readline.get_line_buffer() if readline is not None else ""
