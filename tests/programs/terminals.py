"""The command line as a process, on pipes and on a pseudo-terminal; and servers to talk to it."""

from __future__ import annotations

import json
import os
import re
import select
import subprocess
import sys
import threading
import time

import pytest
from helpers import PATIENCE, ROOT

from wsmini.sansio.frames import Opcode
from wsmini.testing import scripted_server

try:
    import fcntl
    import pty
    import struct
    import termios
except ImportError:
    pty = None

posix_only = pytest.mark.skipif(os.name != "posix", reason="needs POSIX")
needs_pty = pytest.mark.skipif(pty is None, reason="needs pseudo-terminals")


def environment(**changes):
    dropped = ("COLUMNS", "PYTHONUNBUFFERED", "NO_COLOR")
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    return {**kept, "PYTHONPATH": str(ROOT), "INPUTRC": os.devnull, "WSMINI_HISTORY": "", **changes}


def command(*argv):
    return [sys.executable, "-W", "error", "-m", "wsmini", *argv]


def completed(argv, **options):
    """Run any program to its end: (status, stdout, stderr), in bytes."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "timeout": PATIENCE, **options}
    argv = [part if isinstance(part, bytes) else str(part) for part in argv]
    done = subprocess.run(argv, **options)
    return done.returncode, done.stdout, done.stderr


def run(*argv, data=b"", run_as=command, **options):
    """Run the command line: (status, stdout, stderr).

    Args:
        run_as: makes the whole command of *argv*.
    """
    if "stdin" not in options:
        options["input"] = data
    status, stdout, stderr = completed(run_as(*argv), **{"env": environment(), **options})
    # On Windows, text streams write CR LF; standard output is written as bytes.
    return status, stdout, stderr.replace(b"\r\n", b"\n").decode()


def after(statements):
    """For *run_as*: the command line in a Python that has run *statements*."""
    program = (
        f"import sys, runpy\n{statements}\n"
        "runpy.run_module('wsmini', run_name='__main__', alter_sys=True)"
    )
    return lambda *argv: [sys.executable, "-c", program, *argv]


def start(*argv, **options):
    """Start the command line with pipes."""
    pipes = {name: subprocess.PIPE for name in ("stdin", "stdout", "stderr")}
    return subprocess.Popen(command(*argv), env=environment(), **{**pipes, **options})


def finish(process):
    """Wait for it: (status, rest of stdout, stderr). Its standard input stays open."""
    with process:
        status = process.wait(PATIENCE)
        rest = process.stdout.read() if not process.stdout.closed else b""
        return status, rest, process.stderr.read().decode()


TOKEN = re.compile(r"\x1b\[([?\d;]*)([@-~])|\x1b([78])|\x1b.?|([\r\n\b\a])|(.)", re.S)


class Screen:
    """What a terminal shows after some output: as much of a VT100 as is in use here."""

    def __init__(self, columns, rows, output):
        self.columns, self.rows = columns, rows
        self.lines = [[" "] * columns for _ in range(rows)]
        self.row = self.column = 0
        self.saved = 0, 0
        for numbers, final, private, control, character in TOKEN.findall(output):
            if final:
                self.sequence(final, int(numbers) if numbers.isdigit() else 1, numbers)
            elif private == "7":
                self.saved = self.row, self.column
            elif private == "8":
                self.row, self.column = self.saved
            elif control:
                self.control(control)
            elif character:
                self.put(character)

    def control(self, control):
        if control == "\r":
            self.column = 0
        elif control == "\b":
            self.column = max(0, self.column - 1)
        elif control == "\n":
            self.row += 1
            if self.row == self.rows:
                self.row -= 1
                self.lines = [*self.lines[1:], [" "] * self.columns]

    def put(self, character):
        if self.column == self.columns:
            self.control("\r")
            self.control("\n")
        self.lines[self.row][self.column] = character
        self.column += 1

    def sequence(self, final, number, numbers):
        line = self.lines[self.row]
        if final == "A":
            self.row = max(0, self.row - number)
        elif final == "B":
            self.row = min(self.rows - 1, self.row + number)
        elif final == "C":
            self.column = min(self.columns - 1, self.column + number)
        elif final == "D":
            self.column = max(0, self.column - number)
        elif final == "K":
            line[self.column :] = [" "] * (self.columns - self.column)
        elif final == "P":
            del line[self.column : self.column + number]
            line += [" "] * (self.columns - len(line))
        elif final == "@":
            line[self.column : self.column] = [" "] * number
            del line[self.columns :]
        elif final == "L":
            self.lines[self.row : self.row] = [[" "] * self.columns for _ in range(number)]
            del self.lines[self.rows :]
        else:
            assert final in "hlm", f"unknown sequence {numbers}{final}"

    @property
    def text(self):
        """The lines, without blanks at their ends and empty lines at the end."""
        return "\n".join("".join(line).rstrip() for line in self.lines).rstrip("\n")

    @property
    def cursor(self):
        return self.row, self.column


# A descriptor becomes the controlling terminal, so that Ctrl-C does what it does.
IN_TERMINAL = """\
import fcntl, runpy, sys, termios
fcntl.ioctl(int(sys.argv.pop(1)), termios.TIOCSCTTY, 0)
for name in sys.argv.pop(1).split():
    sys.modules[name] = None
runpy.run_module("wsmini", run_name="__main__", alter_sys=True)
"""


# The same with a shell around it, for Ctrl-Z.
IN_SHELL = """\
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.environ["PS1"] = "$ "
os.execvp("bash", ["bash", "--norc", "--noprofile", "--noediting", "-i"])
"""


class Terminal:
    """The command line in a pseudo-terminal, or a shell that waits for commands."""

    def __init__(
        self, *argv, columns=40, rows=8, blocked="", term="xterm", history="", no_color="",
        controlling=0, shell=False, **streams,
    ):  # fmt: skip
        self.columns, self.rows = columns, rows
        self.output = b""
        self.master, self.slave = pty.openpty()
        size = struct.pack("HHHH", rows, columns, 0, 0)
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, size)
        self.mode = termios.tcgetattr(self.slave)
        direct = [sys.executable, "-c", IN_TERMINAL, str(controlling), blocked, *argv]
        self.process = subprocess.Popen(
            [sys.executable, "-c", IN_SHELL] if shell else direct,
            env=environment(TERM=term, LC_ALL="C.UTF-8", WSMINI_HISTORY=history, NO_COLOR=no_color),
            start_new_session=True,
            **{**dict.fromkeys(["stdin", "stdout", "stderr"], self.slave), **streams},
        )

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.process.kill()
        self.process.wait()
        os.close(self.master)
        os.close(self.slave)

    @property
    def screen(self):
        return Screen(self.columns, self.rows, self.output.decode("utf-8", "ignore"))

    @property
    def text(self):
        return self.screen.text

    def type(self, text):
        os.write(self.master, text.encode())

    def type_at_prompt(self, text):
        """Wait for the prompt, and for *text* to be shown behind it."""
        self.wait_for("\n>")
        self.type(text)
        self.wait_for(f"> {text}")

    def leave(self):
        """Type Ctrl-D, which ends it."""
        self.type("\x04")
        assert self.end() == 0

    def paste(self, text):
        """Type *text* as fast as it is taken, which may take until some of the echo is read."""
        data = text.encode()
        while data:
            readable, writable, _ = select.select([self.master], [self.master], [], PATIENCE)
            assert readable or writable, "neither does it read nor write"
            if readable:
                self.output += os.read(self.master, 65536)
            if writable:
                data = data[os.write(self.master, data[:256]) :]

    def resize(self, columns, rows):
        """Change the size; the system tells the process with SIGWINCH."""
        self.columns, self.rows = columns, rows
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def wait_until_in_it(self, text):
        """Wait until *text* has been output at any time, before what came over it."""
        deadline = time.monotonic() + PATIENCE
        while text.encode() not in self.output:
            if not self.read(deadline - time.monotonic()):
                raise AssertionError(f"{text!r} was never shown:\n{self.output!r}")

    def wait_for(self, text):
        """Wait until the screen ends with *text*."""
        deadline = time.monotonic() + PATIENCE
        while not self.text.endswith(text):
            if not self.read(deadline - time.monotonic()):
                raise AssertionError(f"the screen doesn't end with {text!r}:\n{self.text}")

    def read(self, patience):
        if not select.select([self.master], [], [], max(0, patience))[0]:
            return False
        self.output += os.read(self.master, 65536)
        return True

    def end(self):
        """Wait for the process, and return its status."""
        try:
            status = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.read(0)
            raise AssertionError(f"it doesn't end:\n{self.text}") from None
        while self.read(0):
            pass
        assert termios.tcgetattr(self.slave) == self.mode, "the terminal's mode isn't restored"
        return status


def recorded(path):
    """What ``--record`` has written."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def refuse(peer):
    """A script that refuses, with a body of two lines that would clear the screen."""
    peer.respond(403, "Forbidden", {"Set-Cookie": "hunter2"}, b"Not you,\x1b[2J\nagain.")


def lose(peer):
    """A script that sends a message, and then ends the connection without a word."""
    peer.accept()
    peer.send_message("last")


class Pushed:
    """A server that sends what the test tells it to, and keeps what it gets."""

    def __init__(self):
        self.peers = []
        self.ready = threading.Event()
        self.received = []
        self.arrived = threading.Condition()
        self.server = scripted_server(self.script)

    def script(self, peer):
        peer.accept()
        self.peers.append(peer)
        self.ready.set()
        while True:
            message = peer.recv_message()
            with self.arrived:
                self.received.append(message)
                self.arrived.notify_all()

    def __enter__(self):
        self.server.__enter__()
        return self

    def __exit__(self, *exc_info):
        self.server.__exit__(*exc_info)

    def wait_for(self, count):
        """Wait until so many messages were received."""
        with self.arrived:
            assert self.arrived.wait_for(lambda: len(self.received) >= count, PATIENCE)

    def push(self, *messages):
        assert self.ready.wait(PATIENCE)
        for message in messages:
            self.peers[0].send_message(message)

    def close(self, code, reason):
        assert self.ready.wait(PATIENCE)
        self.peers[0].send_frame(Opcode.CLOSE, code.to_bytes(2, "big") + reason.encode())
