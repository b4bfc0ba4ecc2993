"""Commands typed on a terminal, and the history of the lines typed there."""

from __future__ import annotations

import os
import re
import sys

from ..exceptions import WebSocketException
from .arguments import close_code, close_reason
from .formats import from_hex
from .output import note, open_private

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Iterator

    from ..blocking.connection import Connection

_HELP = """\
/ping [TEXT]            send a ping, and show the round trip
/close [CODE [REASON]]  close the connection
/binary FILE            send a file as a binary message
/hex DIGITS             send a binary message
//TEXT                  send /TEXT
/help                   show this"""

_PONG = 10.0  # seconds that a pong may take
_KEPT = 1000  # lines of history
# Lines that may hold a secret aren't kept; better one too few.
_SECRET = re.compile(r"(?i)token|secret|passw|passphrase|credential|authoriz|api.?key|bearer")


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
