"""An open connection on the command line: interactive on a terminal, exact on pipes.

Two threads. The main one receives, writes what it has received, and sends ``-m`` again after
reconnecting; it blocks in ``recv()``, and signals arrive there. A daemon thread reads the input
(``-m``, standard input), sends it (with ``--ndjson``, writes that down, too), and closes the
connection when nothing more is to be expected after the end of input; that wakes the main thread.
When the connection ends, the main thread returns and leaves the other behind, in ``input()`` or a
read: nothing can interrupt these on every system. So that the interpreter can exit meanwhile, no
lock of ``sys.stdin`` is held, Python's or C's: pipes are read below its buffer, and so are
terminals, where readline doesn't read them.
"""

from __future__ import annotations

import math
import os
import sys
from contextlib import suppress
from threading import TIMEOUT_MAX, Event, Thread
from time import monotonic

from ..blocking.connection import Connection, connect
from ..exceptions import Close, ConnectionClosed, WebSocketException, connection_closed
from ..options import Options
from ..policies import Attempts, NoReconnect
from .arguments import Status
from .formats import READ_SIZE, close_record, messages_in, parser_for
from .output import InputProgress, Output, OutputError, Recorder, described, note, show_failure
from .signals import Terminated, block_interrupts, second_ends_at_once
from .terminal import Terminal, run_command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from typing import Callable, Iterator

    from .formats import Sendable

_IDLE = 1.0  # seconds without a message after which input from a pipe counts as answered
_PONG = 10.0  # seconds for a server to answer the ping after the end of input
_CLOSE_SOON = 2.0  # seconds for the closing handshake when its result doesn't matter
_GRACE = 0.2  # seconds for the input thread to find that the connection is closed
_OFFLINE = 0.05  # seconds between two looks for the next connection
# On Windows, Ctrl-C doesn't interrupt a wait for a socket.
_TICK: float | None = 0.5 if os.name == "nt" else None


class Session:
    """One connection after the other, as ``--reconnect`` says: their input, and their output."""

    ws: Connection  # the open one, or the last one that was

    def __init__(self, args: Namespace, output: Output, recorder: Recorder) -> None:
        self.args, self.output, self.recorder = args, output, recorder
        policy = NoReconnect() if args.reconnect is None else args.reconnect
        options = Options(args.url, **args.options)
        self.attempts = Attempts("--reconnect", policy, options, self.tell_failure)
        self.leaving = Event()  # set when this side asks for the end
        self.count = 0  # of messages received
        self.greeted = False  # whether the messages of -m are sent
        self.last_ended: Connection | None = None  # the last one whose end is written down
        self.heard = monotonic()  # when the last message came
        self.unsent = False  # whether the connection ended before the input
        self.partial = False  # whether some of a message was read and not its end
        self.expired = False  # whether the wait for replies is over
        self.failure: Exception | None = None  # what ended the input, if not its end
        self.finished = Event()  # set when the main thread is done
        self.close_with = args.close_code, args.close_reason
        self.progress = InputProgress(args)

    # -- the main thread --

    def connect(self, failure: Exception | None = None) -> bool:
        """Open a connection: the first one, or that after *failure*, and send ``-m`` again.

        Returns:
            Whether there is one: not if *failure*, or this side, is the end of it all.

        Raises:
            Exception: the last failure, when the policy gives up.
        """
        again = failure is not None
        while True:
            if failure is not None:
                # Raises the failure where the policy gives up; None stands for a normal end.
                delay = self.attempts.failed(failure)
                if delay is None or self.leaving.wait(delay):
                    return False
            try:
                ws = open_connection(self.args)
                self.attempts.opened()
                self.recorder.open(ws)
                # Where the input thread is still sending these, it goes on with them by itself.
                for message in self.args.message if self.greeted else ():
                    self.tell_sent(message)
                    ws.send(message)
            except (WebSocketException, OSError) as exc:
                failure = exc
                continue
            self.ws = ws
            if again:
                note("connected again")
            # While this one was opened, close() may have been called, and found the last one.
            if self.leaving.is_set():
                self.close()
            return True

    def tell_failure(self, attempt: int, delay: float, failure: Exception) -> None:
        """Say that there will be another attempt, and why."""
        if isinstance(failure, ConnectionClosed):
            note(f"{described(failure)}; connecting again in {delay:.1f} s")
        else:
            show_failure(failure, self.args.verbose)
            note(f"connecting again in {delay:.1f} s")

    def run(self) -> int:
        """Send and receive until something ends it; return the exit status."""
        # A daemon: nothing interrupts a thread that reads the input, and the program ends without
        # it.
        feeder = Thread(target=self.feed, name="wsmini-input", daemon=True)
        try:
            with self.output:
                # Within the block, which loads readline before the thread calls input().
                feeder.start()
                return self.receive_all()
        except ConnectionClosed as exc:
            ended = exc
        except KeyboardInterrupt as exc:
            # The terminal has its mode back here: a second signal may end the process at once.
            terminated = isinstance(exc, Terminated)
            with second_ends_at_once():
                return self.close_soon(Status.TERMINATED if terminated else Status.INTERRUPTED)
        finally:
            # Wakes the input thread where it waits: in linger(), or for another connection.
            self.finished.set()
        # The input thread may be about to find that it couldn't send all, which decides the status.
        # On a terminal, it waits for a key.
        if not isinstance(self.output, Terminal):
            feeder.join(_GRACE)
        return self.closed(ended)

    def receive_all(self) -> int:
        """Call ``receive()`` for one connection after the other, if ``--reconnect`` says so."""
        while True:
            try:
                return self.receive()
            except ConnectionClosed as exc:
                self.tell_end(exc)
                if self.leaving.is_set() or not self.connect(exc):
                    raise

    def receive(self) -> int:
        """Print messages until the connection or their count ends; return the exit status."""
        while True:
            try:
                message = self.ws.recv(_TICK)
            except TimeoutError:
                continue
            self.heard = monotonic()
            try:
                self.recorder.message("received", message)
                self.output.message(message)
            except OutputError as exc:
                return self.close_soon(exc.report())
            self.count += 1
            if self.count == self.args.count:
                return self.close_soon(Status.OK)

    def closed(self, exc: ConnectionClosed) -> int:
        """Say how the connection ended, as far as that matters; return the exit status.

        Raises:
            Exception: what ended the input, if that isn't about the input.
        """
        self.progress.end()
        if isinstance(self.failure, (OSError, UnicodeError)):
            note(f"{self.args.input or 'standard input'}: {self.failure}")
            return Status.LOCAL
        if self.failure is not None:
            raise self.failure
        leaving = self.leaving.is_set()
        clean = _is_clean(exc, self.args.close_code if leaving else 1000)
        if not clean or self.args.verbose or isinstance(self.output, Terminal):
            note(f"connection closed: {described(exc)}")
        if self.unsent or self.partial:
            note("the connection was closed before all input was sent")
            return Status.ABNORMAL
        if clean and self.expired and self.args.count:
            note(f"fewer than {self.args.count} messages came in time")
            return Status.TIMEOUT
        return Status.OK if clean else Status.ABNORMAL

    def close_soon(self, status: int) -> int:
        """Close the connection, but don't wait long for the server; return *status*."""
        # In a thread, so that a server that doesn't answer can't keep the program from ending.
        closer = Thread(target=self.close, name="wsmini-close", daemon=True)
        closer.start()
        closer.join(_CLOSE_SOON)
        self.progress.end()
        try:
            self.tell_end(self.end_so_far(closer.is_alive()))
        except OutputError as exc:
            problem = exc.report()
            return status or problem
        return status

    def end_so_far(self, closing: bool) -> ConnectionClosed:
        """Find out how the connection ended, or is about to if it is *closing* still."""
        try:
            # Discard what came behind the last message wanted; then recv() raises the end.
            while not closing:
                self.ws.recv(0)
        except ConnectionClosed as exc:
            return exc
        except TimeoutError:
            pass
        return connection_closed(None, Close(self.args.close_code, self.args.close_reason), None)

    def tell_end(self, end: ConnectionClosed) -> None:
        """Write the connection's end to record and journal, once."""
        if self.last_ended is self.ws:  # an interrupt came before there was another one
            return
        self.last_ended = self.ws
        fields = close_record(end)
        self.recorder.write(fields)
        self.output.closed(fields)

    # -- the input thread (close() runs in others, too) --

    def feed(self) -> None:
        """Send the input, then close when the replies are there."""
        block_interrupts()
        try:
            for message in self.messages():
                if isinstance(message, (str, bytes)):
                    self.tell_sent(message)  # first: the answer may be quick
                    self.send(message)
                else:
                    self.ws.send(self.recorder.parts(message))
        except ConnectionClosed:
            # The main thread finds the end by itself; this decides the status.
            self.unsent = True
        except Exception as exc:  # the main thread reports it
            self.failure = exc
            self.close()
        else:
            self.linger()

    def tell_sent(self, message: str | bytes) -> None:
        """Write a message that is about to be sent to record and journal."""
        self.recorder.message("sent", message)
        self.output.sent(message)

    def send(self, message: str | bytes) -> None:
        """Send *message*; if the connection is lost before it went out, over the next one."""
        while True:
            ws = self.ws
            try:
                ws.send(message)
                return
            except ConnectionClosed:
                if self.args.reconnect is None:
                    raise
                # Nothing tells when the main thread has another connection, or is done with them
                # all. To look now and then will do: there is nothing to send with meanwhile.
                while self.ws is ws:
                    if self.finished.wait(_OFFLINE):
                        raise

    def messages(self) -> Iterator[Sendable]:
        """The messages to send: those of ``-m``, then standard input."""
        yield from self.args.message
        self.greeted = True
        if self.args.message and not self.args.interactive:
            return
        if self.args.input:
            with open(self.args.input, "rb", buffering=0) as file:
                self.progress.begin(file.fileno())
                yield from self.read(file.read)
        elif isinstance(self.output, Terminal):
            for line in self.output.lines():
                yield from self.typed(line)
        elif sys.stdin is not None:  # it is if it was closed before the start
            # Without its buffer, whose lock this thread would hold at the interpreter's exit.
            stdin = sys.stdin.buffer
            self.progress.begin(0)
            yield from self.read(getattr(stdin, "raw", stdin).read)

    def typed(self, line: str) -> Iterator[str | bytes]:
        """Obey a typed line if it is a command; yield the messages that it sends."""
        if line.startswith("//"):
            line = line[1:]
        elif line.startswith("/"):
            yield from run_command(line, self.ws, self.close)
            return
        try:
            yield parser_for(self.args)(line.encode())
        except UnicodeError as exc:
            note(f"that line wasn't sent: {exc}")

    def read(self, read_raw: Callable[[int], bytes | None]) -> Iterator[Sendable]:
        """The messages in what *read_raw* reads."""
        whole = self.args.binary or self.args.text
        end = b"\0" if self.args.null else b"\n"

        def read() -> bytes:
            data = read_raw(READ_SIZE)
            if data is None:
                raise BlockingIOError("it is in non-blocking mode, and has nothing yet")
            # What is read and not sent yet: the beginning of a line, or of the one message.
            self.partial = bool(data) and (whole or not data.endswith(end))
            self.progress.add(len(data))
            return data

        return messages_in(read, self.args)

    def linger(self) -> None:
        """Wait for replies after the end of input as long as asked, then close."""
        idle, wait = self.args.idle, self.args.wait
        start = monotonic()
        end = start + (math.inf if wait is None else wait)
        if idle is None and wait is None:
            if isinstance(self.output, Terminal):
                self.close()
                return
            idle = math.inf
            if not self.args.count:
                # Until the server has read all that was sent. Some don't answer pings.
                with suppress(TimeoutError, ConnectionClosed):
                    self.ws.ping().wait(_PONG)
                # Silence counts from the pong on: before, the server was busy with the input.
                idle, start = _IDLE, monotonic()
        while True:
            # Each message that came meanwhile moves the end of the silence, so both are asked
            # again.
            silent = math.inf if idle is None else max(self.heard, start) + idle
            left = min(silent, end) - monotonic()
            if left <= 0:
                break
            if self.finished.wait(min(left, TIMEOUT_MAX)):
                return
        # Before close(), which wakes the main thread.
        self.expired = True
        self.close()

    def close(self, code: int | None = None, reason: str = "") -> None:
        """Close for good, with the code and the reason of the arguments unless others are given."""
        if code is not None:
            self.close_with = code, reason
        # First: the main thread looks at this once it has another connection.
        self.leaving.set()
        self.ws.close(*self.close_with)


def open_connection(args: Namespace) -> Connection:
    """Open one, and show it as *args* want it."""
    if not args.verbose:
        return connect(args.url, **args.options)
    from .tracing import connect_traced  # rarely needed

    return connect_traced(args.url, args.options, frames=args.verbose > 1)


def _is_clean(exc: ConnectionClosed, own: int) -> bool:
    """Whether both sides closed, with codes that mean success, such as *own*."""
    # 1005: closed without a code, as servers do that have nothing to say.
    good = (1000, 1001, 1005, own)
    return exc.code in good and (exc.sent is None or exc.sent.code in good)
