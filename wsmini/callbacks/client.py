"""The callback client: a connection that is opened again and again, on a ``Loop``.

Everything happens in the thread that runs the loop. A method of the client, called from anywhere,
leaves what it wants to be done: messages in the ``Outbox``, all else in the queue of the loop, and
the loop's thread does it; what a callback has sent, as soon as that returns. To append to either is
one step, so that any thread and any signal handler may do it at any moment, and nothing is locked.

The life of a client, ``_NEXT`` as a table::

    CLOSED ── start() ──▶ CONNECTING ── open ──▶ OPEN ── close() ──▶ CLOSING
      ▲                     │     ▲                │                    │
      │       failed        │     └── the delay ── │ ────── WAITING     │
      └─────────────────────┴──────  is over  ─────┴──────────▲─────────┘
      └────────────────── the policy says when ───────────────┘

What belongs to one connection is in its ``ClientConnection``, which is thrown away with it.
Whatever is waited for can be cancelled at once: the opening (``LoopRun.cancel``), the delay (a
timer), and the closing handshake (``EventTransport.abort``).

A message is *unsent* until the socket has taken all of it. What is unsent when a connection ends
stays in the outbox as far as that has room, and the rest is in ``Client.unsent``.
"""

from __future__ import annotations

import sys
from _thread import get_ident
from functools import partial
from itertools import chain

from ..clock import LEAVING, NEVER, deadline_after, lock_timeout
from ..events.transport import EventTransport
from ..exceptions import Close, ConnectionClosed, InvalidState, SendBufferFull, connection_closed
from ..info import ConnectionInfo
from ..interrupts import Waiters, pass_on_handlers
from ..opening.opening import Opened, Opening
from ..opening.steps import LoopRun
from ..options import Options
from ..policies import Attempts, read_policy
from ..sansio.frames import Opcode, close_payload, control_payload
from ..sansio.messages import encode_whole
from ..sansio.protocol import State
from .loop import Loop, Timer, check_callback
from .outbox import COST, MOST_SMALL, NO_ITEMS, SMALL, Fragments, Outbox, message_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl
    from typing import Any, Callable, Iterable, Iterator, Sequence

    from typing_extensions import Unpack

    from ..opening.steps import Steps
    from ..options import ConnectOptions
    from ..policies import Policy
    from ..sansio.extensions import Extension
    from ..sansio.frames import Data
    from ..sansio.http11 import Headers, Request, Response
    from ..sansio.messages import Message
    from .outbox import Item

MAX_SEND_BUFFER = 1 << 24  # bytes
GOING_AWAY = 1001
FRAGMENTS = 64  # of a message in parts, in one iteration of the loop,
MAX_AHEAD = 65536  # and bytes of it that wait for the socket until the next part is asked for

_NOTHING: Iterator[Any] = iter(())  # which all the idle share
_CONNECTING, _OPEN, _CLOSING, _CLOSED, _WAITING = State

# CLOSING isn't among them: see ``Client.state``.
_NEXT = {
    _CLOSED: (_CONNECTING, _WAITING),
    _CONNECTING: (_OPEN, _CLOSED),
    _OPEN: (_CLOSED,),
    _WAITING: (_CONNECTING, _CLOSED),
}


class _NoConnection:
    """What there is to tell of the last connection before there was one."""

    request = response = request_headers = response_headers = subprotocol = None
    local_address = remote_address = close_code = close_reason = None
    extensions, id, latency = (), "", 0.0

    @property
    def timings(self) -> dict[str, float]:
        return {}


_NO_CONNECTION: Any = _NoConnection()


class Client:
    """A WebSocket connection with callbacks, which reconnects.

    ``run_forever()`` runs it alone; ``start(loop)`` puts it on a loop that many share. Callbacks
    are passed, set as attributes (both are called with the client first), or methods of a subclass.
    One that raises ends the run with its traceback, unless there is ``on_error``, which isn't
    guarded itself. ``KeyboardInterrupt`` and ``SystemExit`` always end the run.

    Every method but ``run_forever`` may be called from any thread, at any moment, and from signal
    handlers; ``wait_open`` and ``wait_closed`` not from the loop's own thread.

    Args:
        url: ``"ws://..."`` or ``"wss://..."``.
        on_open: ``(client)``, each time a connection is open.
        on_message: ``(client, message)``, with ``str`` or ``bytes``.
        on_chunk: ``(client, chunk, fin)`` instead of ``on_message``, for messages that are large or
            slow: what has come of one, and whether that ends it. Set it before the connection
            opens. If that is lost in the middle of a message, no *fin* comes.
        on_close: ``(client, code, reason)``, once for each connection that was open; 1006 if the
            server sent no Close frame.
        on_error: ``(client, exception)``: what a callback has raised, or the parts of a message;
            and the failure for which the policy has given up, with a note that tells the attempts.
        on_ping, on_pong: ``(client, data)``.
        on_reconnect: ``(client, attempt, delay, exception)``: why, and after how many seconds, it
            will connect again; *attempt* counts from 1 since the last connection.
        on_drain: ``(client)``: what waited for the server to read is written.
        reconnect: the policy: ``Backoff()``, ``Fixed()``, ``NoReconnect()``, or your own;
            ``policy`` is the same.
        outbox: how many messages to keep while there is no connection.
        max_send_buffer: how many bytes may wait to be sent until ``send`` raises; each message
            counts as 200 more than it has.
        options: those of ``connect()``.

    Raises:
        InvalidURI, ValueError, TypeError: if the URL or an option isn't valid, a callback can't be
            called or is an ``async`` function.
    """

    # Functions as attributes take the client, methods of a subclass don't: no type says both.
    on_open: Any = None
    on_message: Any = None
    on_chunk: Any = None
    on_close: Any = None
    on_error: Any = None
    on_ping: Any = None
    on_pong: Any = None
    on_reconnect: Any = None
    on_drain: Any = None

    # What most clients never change, for thousands of them.
    _own_loop: Loop | None = None  # of run_forever()
    _signal = 0  # the one that has ended run_forever()
    _gave_up = False  # the policy
    _closing = Close(1000, "")  # what close() has said
    _grace = NEVER  # seconds for the server to answer, of stop()
    _drain_due = False  # on_drain is due when all is written
    _raised: Exception | None = None  # by on_error
    _waiters: Waiters | None = None

    def __init__(
        self,
        url: str,
        *,
        on_open: Callable[[Client], object] | None = None,
        on_message: Callable[[Client, Any], object] | None = None,
        on_chunk: Callable[[Client, Any, bool], object] | None = None,
        on_close: Callable[[Client, int, str], object] | None = None,
        on_error: Callable[[Client, Exception], object] | None = None,
        on_ping: Callable[[Client, bytes], object] | None = None,
        on_pong: Callable[[Client, bytes], object] | None = None,
        on_reconnect: Callable[[Client, int, float, Exception], object] | None = None,
        on_drain: Callable[[Client], object] | None = None,
        reconnect: Policy | None = None,
        policy: Policy | None = None,
        outbox: int = 0,
        max_send_buffer: int = MAX_SEND_BUFFER,
        **options: Unpack[ConnectOptions],
    ) -> None:
        _check_names(options)
        self._options = Options(url, **options)
        # What can be asked for, and other threads look at.
        self._state, self._connection = _CLOSED, None  # type: State, ClientConnection | None
        # Both are None until start(), and asked for behind that. (A subclass may have a _loop.)
        self._its_loop: Loop = None  # type: ignore[assignment]
        self._attempts: Attempts = None  # type: ignore[assignment]
        self._running = False  # from start() on, until it won't connect again
        self._wanted = False  # until close()
        # What is sent.
        self._outbox = Outbox()
        self._max_outbox, self._max_send_buffer = outbox, max_send_buffer
        self._front: int | None = None  # in on_open: how much it has sent, in front of the rest
        self._serve_due = False  # whether the loop's thread will look into the outbox
        # Connecting. All that each client sets some time is set here: Python lets instances share
        # their keys only if they come early, and a dictionary of its own is most of a KiB.
        self._policy = read_policy(policy, reconnect)
        self._attempt = 0
        self._waits: LoopRun | Timer | None = None  # for what CONNECTING or WAITING waits
        self._slow_after = _slow_after(self._options)
        self._failure: Exception | None = None  # the last one
        self._unjudged: Exception | None = None  # the last one, until the policy was asked
        self._owed = ""  # on_open or on_close, until it comes
        self._last_info: ConnectionInfo = _NO_CONNECTION  # of the last one, once it is closed
        given = (
            on_open, on_message, on_chunk, on_close, on_error, on_ping, on_pong, on_reconnect,
            on_drain,
        )  # fmt: skip
        for name, callback in zip(CALLBACKS, given):
            if callback is not None:
                setattr(self, name, callback)
        self._check_callbacks()

    def _check_callbacks(self) -> None:
        for name in CALLBACKS:
            check_callback(name, getattr(self, name))

    # -- life --

    def run_forever(self) -> int:
        """Run, with a loop of its own, until ``close()``, or until the policy gives up.

        In the main thread, SIGINT and SIGTERM close the connection with 1001 and end the run, half
        a second later at the latest; whatever the program has set for them is restored. In other
        threads, and in sub-interpreters, signals are left alone.

        Returns:
            What suits ``sys.exit()``: 0, 1 if the policy has given up, which ``on_error`` was told,
            or 128 plus the signal's number.

        Raises:
            InvalidState: if it is started already.
            Exception: without ``on_error``: that for which the policy has given up, and what a
                callback raises. The connection is dropped then.
        """
        import signal

        self._check_ended()
        self._signal = 0
        with Loop() as loop:
            try:
                for number in (signal.SIGINT, signal.SIGTERM):
                    loop.add_signal_handler(number, self._interrupt, number)
            except ValueError:
                pass  # another thread, or a sub-interpreter: signals are the main one's there
            try:
                self.start(loop)
                self._own_loop = loop
                while True:  # not a condition, whose jump back isn't in this try since 3.13
                    if not self._running or self._its_loop is not loop:
                        break
                    loop.run_forever()
            finally:
                # Also behind an exception: on_close comes still, and no descriptor is left.
                if self._its_loop is loop:  # another thread may have been faster to start it
                    self._drop()
            # The loop didn't get round any more to one that came in the last callback.
            late = loop._unheard.intersection((signal.SIGINT, signal.SIGTERM))
            self._signal = int(max(late, default=self._signal))
        return 128 + self._signal if self._signal else int(self._gave_up)

    def _interrupt(self, number: int) -> None:
        self._signal = number
        self.stop()

    def _drop(self) -> None:
        """End now, after an exception; ``on_close`` is called nevertheless."""
        if not self._running:
            return
        self._close(GOING_AWAY, "")
        if self._connection is not None:
            self._connection.transport.abort()
        while self._running:
            self._its_loop.run_once()

    def start(self, loop: Loop) -> Client:
        """Connect and stay connected, while *loop* is run.

        Returns:
            The client itself.

        Raises:
            InvalidState: if it is started already.
            TypeError: if an attribute is no callback.
            RuntimeError: if *loop* is closed, or belongs to a parent process.
        """
        self._check_ended()
        self._check_callbacks()
        attempts = Attempts("wsmini.Client", self._policy, self._options)
        loop._check()
        self._leave_closed_loop()
        self._attempts, self._its_loop = attempts, loop
        self._attempt = 0
        if self._grace < NEVER:
            self._grace = NEVER
        if self._gave_up:  # an attribute that most clients never have
            self._gave_up = False
        try:
            self._wanted, self._state = True, _CONNECTING
            loop._clients[self] = None
            self._running = True  # from here on, another thread may close it
            # Last, as the loop's thread may begin at once.
            loop.call_soon_threadsafe(self._begin, attempts)
        except BaseException:
            self._running, self._state = False, _CLOSED
            loop._clients.pop(self, None)
            raise
        return self

    def _leave_closed_loop(self) -> None:
        """Drop what a run has left whose loop was closed before it came to its end."""
        if self._waits is not None:
            self._waits.cancel()
        if self._connection is not None:
            self._connection.transport.drop()
            self._outbox.drop_written(self._connection.buffer.written)
            self._outbox.take_back(0)
        self._connection = self._waits = self._unjudged = None
        self._owed = ""

    def _check_ended(self) -> None:
        if self._running:
            raise InvalidState("the client is started already")

    def _begin(self, attempts: Attempts) -> None:
        # Unless it was closed, and perhaps started again, or an exception had it recover before.
        if self._running and self._attempts is attempts and self._waits is None:
            self._open()

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Close, within ``close_timeout``, and don't reconnect. Returns at once.

        What is being waited for otherwise (names, TLS, a delay) is given up at once. ``on_close``
        comes if a connection was open. Does nothing if the client is closing, or isn't started.

        Raises:
            ValueError, TypeError: if *code* or *reason* can't be sent.
        """
        close_payload(code, reason)
        self._end(code, reason)

    def stop(self) -> None:
        """As ``close(1001)``, but a server that doesn't answer is left after half a second."""
        self._end(GOING_AWAY, "", LEAVING)

    def _end(self, code: int, reason: str, grace: float = NEVER) -> None:
        if self._running:
            if self._wanted:  # what the first call says is what goes out
                self._closing = Close(code, reason)
            if grace < self._grace:
                self._grace = grace  # whatever comes first
            # At once, not when the loop gets round to it: from here on nothing is accepted.
            self._wanted = False
            self._request(self._close, code, reason, grace)

    def _close(self, code: int, reason: str, grace: float = NEVER) -> None:
        self._wanted = False
        if self._connection is not None:
            self._connection.give()  # what was sent before goes first
            self._connection.close(code, reason)
            self._connection.transport.end_within(grace)
        elif self._running and self._owed != "on_close":  # else that comes, and then _lost()
            if self._waits is not None:
                self._waits.cancel()
            self._move(_CLOSED)
            self._finish()

    def _move(self, state: State) -> None:
        if state not in _NEXT[self._state]:
            raise AssertionError(f"{self._state.name} -> {state.name}")  # a bug in wsmini
        self._state, self._waits = state, None

    def _connect(self) -> None:
        if self._state is _WAITING:  # else an interruption has left one timer more
            self._move(_CONNECTING)
            self._open()

    def _open(self) -> None:
        self._waits = LoopRun(self._its_loop, self._steps(), self._opened)

    def _steps(self) -> Steps[Opened]:
        return Opening(self._options).steps()

    def _opened(self, opened: Opened | None, exc: BaseException | None) -> None:
        """The opening has ended, either way."""
        if self._state is not _CONNECTING:  # an interruption has left one opening more
            if opened is not None:
                opened.stream.close()
            elif exc is not None and not isinstance(exc, Exception):
                raise exc
            return
        if opened is None:
            if not isinstance(exc, Exception):
                self._move(_CLOSED)
                self._finish()
                raise exc or AssertionError("neither open nor failed")
            self._unjudged = exc
            self._move(_CLOSED)
            self._lost(exc)
            return
        try:
            connection = ClientConnection(self, opened)
            connection.transport.start()  # not in there: behind it nobody would know the connection
        except OSError as exc:
            opened.stream.close()
            pass_on_handlers(exc)  # else the loop can't watch the socket: as if it hadn't opened
            self._opened(None, exc)
            return
        except BaseException:
            opened.stream.close()
            raise
        self._attempt = 0
        self._outbox.returned = NO_ITEMS
        try:
            self._owed = "on_open"
            self._connection = connection  # for other threads, it is open from here on
            self._move(_OPEN)
            self._attempts.opened()
            self._tell_waiters()
            # What on_open sends (a login, a subscription) goes in front of what has waited, and all
            # of it out together.
            self._front, self._serve_due = 0, True
            self._call("on_open")
        except BaseException:
            if self._owed:
                connection.transport.abort()  # nobody would log in, or subscribe
            raise
        finally:
            self._front, self._serve_due = None, False
            if self._connection is connection:
                connection.give()
                if self._drain_due:
                    connection.trim_soon()  # on_drain may have been waited for since before

    def _ended(self, connection: ClientConnection) -> None:
        """*connection* is closed; called by itself, and again if this was interrupted."""
        self._last_info = connection.info
        # What the socket has taken isn't unsent, even if nobody has looked since.
        self._outbox.drop_written(connection.buffer.written)
        self._outbox.take_back(self._max_outbox if self._wanted else 0)
        self._unjudged, self._owed = connection.protocol.close_exc(), "on_close"
        self._state, self._waits = _CLOSED, None  # before other threads see it
        self._connection = None  # from here on _recover_alone() sees to it
        self._tell_closed()

    def _tell_closed(self) -> None:
        exc = self._unjudged
        if not self._owed or not isinstance(exc, ConnectionClosed):
            return  # it has come
        try:
            self._call("on_close", exc.code, exc.reason)
        except BaseException as raised:
            if self._owed:
                raise  # a signal handler's: it is still to come
            # on_close ends the run, but the client has to come to its own end first.
            try:
                self._lost(exc)
            except Exception as failure:
                raised.__context__ = failure  # which comes second
            raise
        self._lost(exc)

    def _lost(self, failure: Exception) -> None:
        """There is no connection, because of *failure*: wait, or leave it at that."""
        self._failure = failure
        try:
            delay = self._attempts.failed(failure, not self._wanted)
        except Exception as exc:
            if exc is failure:
                self._gave_up = True
            self._finish()
            if exc is not failure:
                raise  # a bug of the policy's; one that gives up raises the failure itself
            self._failed(failure)
            return
        if delay is None:
            self._finish()
            return
        self._move(_WAITING)
        self._attempt += 1
        self._waits = self._its_loop.call_later(delay, self._connect)
        self._unjudged = None
        self._call("on_reconnect", self._attempt, delay, failure)

    def _finish(self) -> None:
        """It won't connect again, unless started again."""
        self._wanted, self._unjudged = False, None
        self._outbox.take_back(0)
        self._its_loop._clients.pop(self, None)
        if self._own_loop is self._its_loop:
            self._its_loop.stop()
        self._running = False  # last: from here on, another thread may start it again
        self._tell_waiters()

    def _wake(self) -> None:
        """For the loop: the machine has slept. What this waited for may be over, unnoticed."""
        if self._state is _WAITING and self._waits is not None and self._unjudged is None:
            self._waits.cancel()
            self._connect()
        elif self._connection is not None:
            self._connection.transport.probe()

    def _request(self, method: Callable[..., None], *args: Any) -> None:
        """Have *method* called in the loop's thread, soon, if this run goes on till then."""
        if self._running:
            self._tell_loop(self._carry_out, self._attempts, method, args)

    def _tell_loop(self, callback: Callable[..., None], *args: Any) -> None:
        loop = self._its_loop
        try:
            loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:
            self._serve_due = False
            if not loop.is_closed():
                raise  # in a forked child
            self._running = self._wanted = False
            self._tell_waiters()

    def _carry_out(self, run: Attempts, method: Callable[..., None], args: tuple[Any, ...]) -> None:
        if run is self._attempts and self._running:
            method(*args)

    def _recover(self) -> None:
        """For the loop: an exception has come out of a callback, perhaps a signal handler's."""
        if self._connection is None:
            self._recover_alone()
        else:
            self._connection.transport._recover()  # and come back

    def _recover_alone(self) -> None:
        """Find out from the state what was under way, as the exception may have come anywhere."""
        self._serve_due = False
        if not self._running:
            self._tell_waiters()  # the last step of its end
            return
        self._serve_soon()
        if not self._wanted:  # what close() has asked for may be lost; twice does no harm
            self._request(self._close, *self._closing, self._grace)
        if self._owed == "on_close":
            self._its_loop.call_soon(self._tell_closed)
        elif self._connection is not None:
            self._front = None
        elif self._waits is None or self._waits._loop is None:
            # A running client waits for something, always: it was interrupted on its way, or where
            # the timer had fired, whose call may be still to come.
            if self._waits is not None:
                self._waits.cancel()
            self._state = _WAITING if self._wanted else _CLOSED
            if not self._wanted:
                self._finish()
            elif self._unjudged is None:
                self._waits = self._its_loop.call_later(0.0, self._connect)
            else:
                self._waits = self._its_loop.call_later(0.0, self._judge, self._unjudged)

    def _judge(self, failure: Exception) -> None:
        """Ask the policy, perhaps again, because it was interrupted."""
        # Else an interruption has left one timer more.
        if self._state is _WAITING and self._unjudged is failure:
            self._move(_CLOSED)
            self._lost(failure)

    def _on_loop_error(self, exc: Exception) -> bool:
        """For the loop: a method of this client, as a callback of its own, has raised *exc*."""
        if exc is self._raised or self._callback("on_error") is None:
            return False
        self._failed(exc)
        return True

    # -- waiting, for other threads --

    def wait_open(self, timeout: float | None = None) -> None:
        """Block until a connection is open. Not in the loop's own thread.

        Raises:
            TimeoutError: if that takes longer than *timeout* seconds.
            InvalidState: if the client has ended, because of its ``__cause__``.
            RuntimeError: in the loop's thread, which would wait for itself.
        """
        self._wait(lambda: self.state is _OPEN or self._has_ended(), timeout, "open")
        if self._has_ended():
            raise InvalidState("the client has ended") from self._failure

    def wait_closed(self, timeout: float | None = None) -> None:
        """Block until the client has ended: it won't connect again. Not in the loop's own thread.

        Raises:
            TimeoutError: if that takes longer than *timeout* seconds.
            RuntimeError: as ``wait_open``.
        """
        self._wait(self._has_ended, timeout, "closed")

    def _has_ended(self) -> bool:
        return self._attempts is not None and not self._running

    def _wait(self, done: Callable[[], bool], timeout: float | None, what: str) -> None:
        deadline = None if timeout is None else deadline_after(timeout)
        if self._its_loop is not None and self._its_loop.thread == get_ident():
            raise RuntimeError(f"wait_{what}() in the loop's thread would wait for itself")
        while not done():
            left = lock_timeout(deadline)
            if not left:
                raise TimeoutError(f"the client wasn't {what} within {timeout} s")
            waiters: Waiters = self.__dict__.setdefault("_waiters", Waiters())
            waiters.wait(done, left)

    def _tell_waiters(self) -> None:
        if self._waiters is not None:
            self._waiters.notify()

    # -- callbacks --

    def _callback(self, name: str) -> Callable[..., object] | None:
        """The callback *name*, to be called without the client."""
        found: Callable[..., object] | None = getattr(self, name)
        if found is None:
            return None
        # A subclass has one. (Only then: to ask for the dictionary makes one for each client.)
        if getattr(type(self), name) is not None and name not in self.__dict__:
            return found
        if not callable(found):  # set since start(): its call shall fail, not this
            return found
        return partial(found, self)

    def _call(self, name: str, *args: object) -> None:
        """Call the callback *name*, if there is one."""
        callback = self._callback(name)
        start = self._its_loop.time()
        if name == self._owed:
            self._owed = ""  # from here on it has come
        if callback is None:
            return
        try:
            callback(*args)
        except Exception as exc:
            self._failed(exc)
        self._watch(name, start)

    def _failed(self, exc: Exception) -> None:
        """Tell ``on_error``; raise *exc* if there is none."""
        on_error = self._callback("on_error")
        if on_error is None:
            raise exc
        try:
            on_error(exc)
        except Exception as raised:
            self._raised = raised  # it isn't guarded
            raise

    def _watch(self, name: str, start: float) -> None:
        """Log, once, that the callback *name*, begun at *start*, was too slow for the keepalive."""
        duration = self._its_loop.time() - start
        if duration <= self._slow_after:
            return
        self._slow_after = NEVER
        text = "%s of %s took %.1f s: meanwhile no ping is answered, and the peer may hang up"
        logger = self._options.logger
        warn = _warn if logger is None else logger.warning
        warn(text, name, self._options.uri, duration)

    # -- sending --

    def send(
        self,
        message: str | Data | Iterable[str | Data],
        *,
        text: bool | None = None,
        compress: bool | None = None,
    ) -> None:
        """Send a message, or keep it in the outbox. Returns at once.

        Args:
            message: ``str`` is sent as text, bytes-like as binary. Anything else that can be
                iterated over is sent as one fragmented message: in the loop's thread, and the next
                part is asked for when there is room. If it raises, or yields something else,
                ``on_error`` gets that; if it does behind its first part, the message can't be
                completed, and the connection is closed with 1011.
            text: ``True`` and ``False`` send as text or as binary in any case.
            compress: ``False`` to send it uncompressed.

        Raises:
            ConnectionClosed, InvalidState: if there is no connection, and ``outbox`` is 0.
            SendBufferFull: if more than ``max_send_buffer`` bytes, or ``outbox`` messages, would
                wait.
            TypeError: if *message* is none of these.
            ValueError: if ``text=True`` and the bytes aren't UTF-8, or a ``str`` has surrogates.
        """
        if type(message) is str and text is None:
            item: Item = (1, message.encode(), compress)
        else:
            item = _item(message, text, compress)
        connection, outbox = self._connection, self._outbox
        if connection is None or not self._wanted or connection.protocol.state is not _OPEN:
            self._check_outbox(connection)
        waiting = outbox.waiting
        if connection is not None:
            buffer = connection.buffer
            waiting += buffer.accepted - buffer.written
        if waiting:  # else the first one is taken, however large
            self._check_room(connection, waiting, len(item[1]))
        outbox.waiting += len(item[1]) + 1
        front = self._front
        if front is None or self._its_loop.thread != get_ident():
            outbox.messages.append(item)
        else:  # what on_open sends goes in front of what has waited for the connection
            outbox.messages.insert(front, item)
            self._front = front + 1
        if not self._serve_due and connection is not None:
            self._serve_soon()

    def _check_room(self, connection: ClientConnection | None, waiting: int, size: int) -> None:
        """Raise unless a message of *size* bytes may wait, too, behind *waiting* bytes."""
        count = len(self._outbox.messages)
        if connection is not None and not connection.transport.buffered:
            count -= len(self._outbox.ends)  # which are only not forgotten yet
        if count > 0 and waiting + size + COST * count > self._max_send_buffer:
            self._drain_due = True
            if connection is not None:
                self._request(connection.trim_soon)
            text = "%d bytes in %d messages wait to be sent (max_send_buffer)"
            raise SendBufferFull(text % (waiting, count))

    def _check_outbox(self, connection: ClientConnection | None) -> None:
        """Raise unless a message can be kept."""
        if connection is not None and not (self._max_outbox and self._wanted):
            exc = connection.protocol.close_exc()
            # close() was called, and the loop's thread hasn't sent the Close frame yet.
            if exc.rcvd is None and exc.sent is None and not self._wanted:
                raise connection_closed(None, self._closing, None)
            raise exc
        if not self._max_outbox:
            raise InvalidState(f"there is no connection: the client is {self.state.name.lower()}")
        # Those that a connection was given don't count: they are on their way.
        if len(self._outbox.messages) - len(self._outbox.ends) >= self._max_outbox:
            raise SendBufferFull(f"{self._max_outbox} messages wait for a connection (outbox)")

    def _serve_soon(self) -> None:
        """Have the loop's thread look into the outbox."""
        self._serve_due = True
        self._tell_loop(self._serve)

    def _serve(self) -> None:
        self._serve_due = False
        if self._connection is not None:
            self._connection.give()

    @property
    def unsent(self) -> list[Any]:
        """The messages that were accepted and can't be sent any more.

        Since the last connection opened: look at it in ``on_close``, in ``on_reconnect``, and at
        the end. A message in parts is what was passed to ``send``; some may have been asked for.
        """
        items = self._outbox.returned[:]
        if self._has_ended():
            items += self._outbox.messages  # which came as it ended, or later
        return [message_of(item) for item in items]

    @property
    def buffered_amount(self) -> int:
        """How many bytes were accepted by ``send`` and not yet by the socket."""
        connection = self._connection
        given = 0 if connection is None else connection.transport.buffered
        return self._outbox.bytes_waiting() + given

    def ping(self, data: str | bytes | None = None) -> None:
        """Send a ping; ``on_pong`` tells the answer.

        Raises:
            ConnectionClosed, InvalidState: if there is no connection.
            ValueError, TypeError: if *data* exceeds 125 bytes, a ping with it isn't answered yet,
                or it is something else.
        """
        payload = None if data is None else control_payload(data)
        connection = self._open_connection()
        # Told here where it can be; a race that the loop's thread finds goes to on_error.
        if payload in connection.protocol._pings:
            raise ValueError("a ping with the same data isn't answered yet")
        self._request(self._send_control, connection.transport.ping, payload)

    def pong(self, data: str | bytes = b"") -> None:
        """Send a pong that nobody asked for (RFC 6455, 5.5.3); pings are answered without this.

        Raises:
            ConnectionClosed, InvalidState: if there is no connection.
            ValueError, TypeError: if *data* exceeds 125 bytes, or is something else.
        """
        payload = control_payload(data)
        self._request(self._send_control, self._open_connection().transport.pong, payload)

    def _open_connection(self) -> ClientConnection:
        connection = self._connection
        if connection is None:
            raise InvalidState(f"there is no connection: the client is {self.state.name.lower()}")
        connection.protocol.check_open()
        return connection

    def _send_control(self, send: Callable[[Any], Exception | None], payload: bytes | None) -> None:
        refusal = send(payload)
        # Closed since ping() or pong() was called: on_close tells.
        if refusal is not None and not isinstance(refusal, ConnectionClosed):
            self._on_loop_error(refusal)

    # -- backpressure --

    def pause(self) -> None:
        """Call ``on_message`` no more, and read no more: the server has to wait."""
        connection = self._connection
        if connection is not None and self._wanted:  # closing has lifted it for good
            connection.pause()

    def resume(self) -> None:
        """Go on after ``pause()``; closing and reconnecting do that too."""
        connection = self._connection
        if connection is not None:
            connection.resumes = True
            self._request(connection.resume)

    # -- facts --

    @property
    def loop(self) -> Loop | None:
        """Where it was started; ``None`` before."""
        return self._its_loop

    @property
    def _info(self) -> ConnectionInfo:
        """Of the last connection."""
        connection = self._connection
        return self._last_info if connection is None else connection.info

    @property
    def state(self) -> State:
        """A ``State``: ``CLOSED`` before it is started, in ``on_close``, and at the end.

        ``WAITING`` between two attempts, ``CONNECTING`` during one.
        ``CLOSING`` from the moment on at which nothing can be sent any more, because of ``close()``
        or a Close frame that has come, until ``on_close``.
        """
        connection = self._connection
        if connection is None:
            return self._state
        return _OPEN if self._wanted and connection.protocol.state is _OPEN else _CLOSING

    @property
    def ssl_object(self) -> ssl.SSLObject | None:
        """The ``ssl.SSLObject`` of the open connection; ``None`` for ``ws://``, or without one.

        To be asked, in the loop's thread, for ``getpeercert()``, ``version()`` and ``cipher()``.
        """
        connection = self._connection
        return None if connection is None else connection.info.ssl_object

    @property
    def request(self) -> Request | None:
        """The request of the last opening handshake that succeeded; ``None`` before."""
        return self._info.request

    @property
    def response(self) -> Response | None:
        """The response to it."""
        return self._info.response

    @property
    def request_headers(self) -> Headers | None:
        """The headers of that request."""
        return self._info.request_headers

    @property
    def response_headers(self) -> Headers | None:
        """The headers of that response."""
        return self._info.response_headers

    @property
    def subprotocol(self) -> str | None:
        """The one that the server chose for the last connection, or ``None``."""
        return self._info.subprotocol

    @property
    def extensions(self) -> Sequence[Extension]:
        """The extensions of the last connection, in the order of the response."""
        return self._info.extensions

    @property
    def timings(self) -> dict[str, float]:
        """Seconds that each phase of the last opening took, by its name."""
        return self._info.timings

    @property
    def local_address(self) -> Any:
        """Of the last connection's socket, as the ``socket`` module has it; ``None`` before."""
        return self._info.local_address

    @property
    def remote_address(self) -> Any:
        """The other end's."""
        return self._info.remote_address

    @property
    def id(self) -> str:
        """16 hexadecimal digits that tell the last connection from others; ``""`` before."""
        return self._info.id

    @property
    def close_code(self) -> int | None:
        """The close code of the last connection, 1006 if none came; ``None`` while not closed."""
        return self._info.close_code

    @property
    def close_reason(self) -> str | None:
        """The close reason of the last connection; ``None`` while not closed."""
        return self._info.close_reason

    @property
    def latency(self) -> float:
        """The last round trip in seconds; 0 if none was measured."""
        return self._info.latency

    def fileno(self) -> int:
        """The descriptor of the connection's socket, which the loop watches; -1 without one."""
        connection = self._connection
        return -1 if connection is None else connection.info.fileno()

    def __repr__(self) -> str:
        uri = self._options.uri
        name = f", {self.id}" if self._connection is not None else ""
        return f"<wsmini.Client of {uri.scheme}://{uri.authority}, {self.state.name}{name}>"


CALLBACKS = tuple(name for name in vars(Client) if name.startswith("on_"))


class ClientConnection:
    """One connection of a client: its transport, and what goes through it both ways.

    It lasts as long as the connection; all of it is for the loop's thread.
    """

    __slots__ = (
        "_client", "_ended", "_ends", "_info", "_is_method", "_loop", "_messages", "_name",
        "_opened", "_outbox", "_paused", "_trims", "_unread", "buffer", "protocol", "resumes",
        "transport",
    )  # fmt: skip

    def __init__(self, client: Client, opened: Opened) -> None:
        self._client, self._loop, self._outbox = client, client._its_loop, client._outbox
        self._messages, self._ends = self._outbox.messages, self._outbox.ends
        self._unread: Iterator[Any] = _NOTHING
        self._paused = self._ended = False
        self.resumes = False  # Client.resume() was called, and isn't carried out yet
        self._trims = False  # soon
        self._opened, self._info = opened, None  # type: Opened, ConnectionInfo | None
        self.transport = EventTransport(self._loop, opened, client._options, self, gather=True)
        self.buffer = self.transport.buffer
        self.protocol = self.transport.protocol
        self.protocol.listener = self
        # Chunks or messages: one or the other as long as the connection lasts.
        self._name = "on_message" if client._callback("on_chunk") is None else "on_chunk"
        self.transport.streaming = self._name == "on_chunk"
        self._is_method = type(client).on_message is not None  # of a subclass

    # -- for the client --

    @property
    def info(self) -> ConnectionInfo:
        """Made when it is asked for; what only an open socket knows isn't there later."""
        if self._info is None:
            self._info = ConnectionInfo(self._opened)
            self._info._protocol = self.protocol
        return self._info

    def give(self) -> None:
        """Have the transport send what the client has accepted."""
        messages, ends, outbox = self._messages, self._ends, self._outbox
        if outbox.forgetting is not None:
            outbox.settle()
        size, outbox.waiting = outbox.waiting, 0  # as if all of it were given, which is the usual
        try:
            self.transport.send_messages(messages, ends)
            if len(ends) != len(messages):
                self._give_rest()
        except ConnectionClosed:  # what isn't given stays in the outbox, for the next one
            outbox.count_waiting()
        except Exception as exc:
            self._give_up(exc)
        # Small ones that are written may stay till then: to look for each would cost a wake-up.
        if size > SMALL or len(ends) >= MOST_SMALL or self._client._drain_due:
            self.trim_soon()

    def _give_rest(self) -> None:
        """The next message comes in parts, others may be behind it."""
        messages, ends, transport = self._messages, self._ends, self.transport
        while len(ends) != len(messages):
            _, message, compress = messages[len(ends)]
            if isinstance(message, Fragments):
                if not self._give_fragments(message, compress):
                    break
                ends.append(transport.buffer.accepted)
            else:
                transport.send_messages(messages, ends)
        self._outbox.count_waiting()

    def _give_up(self, exc: Exception) -> None:
        """A message has raised *exc*: its parts have, or an extension."""
        client = self._client
        if self.transport.half_done:
            # An extension has failed within a frame: what the peer gets behind it can't be decoded.
            self.transport.half_done = False
            self.transport.abort(exc)
        if len(self._ends) == len(self._messages):
            raise exc  # none of them has: a signal handler
        self._outbox.give_up()
        client._serve_soon()  # the others
        client._failed(exc)

    def _give_fragments(self, message: Fragments, compress: bool | None) -> bool:
        """Give some fragments, as many as there is room for; whether those are all."""
        transport = self.transport
        for _ in range(FRAGMENTS):
            if transport.buffer.waits or transport.buffered > MAX_AHEAD:
                break
            transport.protocol.check_open()
            try:
                part = message.next()
            except BaseException:
                if message.opcode:
                    transport.abandon_message()
                raise
            if part is None:
                if message.opcode:
                    transport.send_fragment(message.opcode, b"", True, compress)
                return True
            message.opcode = part[0]
            transport.send_fragment(part[0], part[1], False, compress)
        if not transport.buffer.waits:
            self._client._serve_soon()  # others have their turn first
        return False

    def trim_soon(self) -> None:
        if not self._trims:
            self._trims = True
            self._loop.call_soon(self._trim)

    def _trim(self) -> None:
        """Forget what is written; and tell the client if it waits for that."""
        self._trims = False
        transport, client, outbox = self.transport, self._client, self._outbox
        if self._ended:
            return  # Client._ended() looks through the outbox
        all_written = outbox.drop_written(transport.buffer.written)
        if not client._drain_due or transport.gone:
            return
        if all_written and not outbox.messages:
            client._drain_due = False
            client._call("on_drain")
            self._serve()
        elif all_written and outbox.messages[0][0]:
            # Not given yet, and not in parts, which go on by themselves when there is room.
            client._serve_soon()
            self.trim_soon()
        elif not transport.buffer.waits:
            self.trim_soon()  # it is on its way; if there is no room, the transport will tell

    def pause(self) -> None:
        """For any thread: deliver no more, but what is in a callback's hands."""
        if self.protocol.state is _OPEN:  # closing lifts it for good
            self._paused, self.resumes = True, False
            self.transport.pause()

    def resume(self) -> None:
        if self._paused:
            self._loop.call_soon(self._deliver_and_resume)
            self._paused = False
        self.resumes = False

    def _deliver_and_resume(self) -> None:
        """Hand over what is unread; read on when that is done, and nobody has paused again."""
        try:
            self._deliver()
        finally:  # what a callback raises ends nothing: the rest comes, too
            if self._unread is _NOTHING and not self._paused:
                self.transport.resume()
            elif not self._paused:
                self._loop.call_soon(self._deliver_and_resume)

    def close(self, code: int, reason: str) -> None:
        self.resume()  # a paused connection wouldn't see the answer
        self.transport.close(code, reason)

    # -- for the transport --

    def _on_message(self, message: Message, now: float) -> None:
        """As ``_on_messages``, for one; without what costs time where there is nothing else."""
        client = self._client
        if self._paused or self._unread is not _NOTHING or self._is_method:
            self._on_messages([message])
            return
        callback = client.on_message
        # From here on the message is the callback's: if that is interrupted, it has had it.
        self.transport.half_done = False
        if callback is None:
            return
        client._serve_due = True  # what is sent meanwhile goes out together
        try:
            callback(client, message)
        except Exception as exc:
            client._watch("on_message", now)
            client._failed(exc)
        finally:
            client._serve_due = False
            if len(self._messages) != len(self._ends):
                self.give()
        if client._slow_after < NEVER and self._loop.time() - now > client._slow_after:
            client._watch("on_message", now)

    def _on_messages(self, messages: list[Any]) -> None:
        none = self._unread is _NOTHING
        self._unread = iter(messages) if none else chain(self._unread, messages)
        self.transport.half_done = False
        self._deliver()

    def _on_chunk(self, chunk: tuple[Message, bool]) -> None:
        self.transport.streaming = True  # the next message, too
        self._on_messages([chunk])

    def _deliver(self) -> None:
        """Hand over what is unread; and tell the end behind it."""
        if self._paused:
            return
        client, start = self._client, self._loop.time()
        callback = client._callback(self._name)
        if callback is None:
            callback = _ignore
        if self._name == "on_chunk":
            callback = partial(_unpacked, callback)
        client._serve_due = True
        try:
            for message in self._unread:
                callback(message)
                if self._paused:
                    break
            else:
                self._unread = _NOTHING
        except BaseException as exc:
            self._loop.call_soon(self._deliver)  # the rest, the iterator being behind this one
            if not isinstance(exc, Exception):
                raise
            client._failed(exc)
            return
        finally:
            client._watch(self._name, start)
            client._serve_due = False
            self._serve()
        # on_close comes behind the last message; a pause holds both back.
        if self._ended and not self._paused and client._connection is self:
            client._ended(self)

    def _serve(self) -> None:
        if len(self._messages) != len(self._ends) and not self.transport.closed:
            self.give()

    def on_control(self, opcode: int, data: bytes) -> None:
        """For the protocol: a ping or a pong has come."""
        name = "on_ping" if opcode == Opcode.PING else "on_pong"
        self.transport.report(self._call_back, (name, data))

    def _call_back(self, what: tuple[str, bytes]) -> None:
        self.transport.half_done = False
        self._client._call(*what)

    def _on_drain(self) -> None:
        if not self.transport.gone:  # else on_close comes, and unsent tells
            self._client._drain_due = True
            self._serve()
            self.trim_soon()

    def _on_end(self) -> None:
        self._ended = True
        self._deliver()

    def _recover(self) -> None:
        """For the loop: an exception has come out of a callback of its own."""
        self.transport._recover()  # and come back

    def _on_recover(self) -> None:
        """A signal handler's exception may have come in the middle of anything."""
        self._outbox.settle()
        self._trims = False
        if self.resumes:
            self.resume()  # now: from the queue, it would lift a later pause, too
        if self._unread is not _NOTHING or self._ended:
            self._loop.call_soon(self._deliver)
        self._client._recover_alone()


def _check_names(options: ConnectOptions) -> None:
    """Raise ``TypeError`` for an option that looks like a callback, as only a mistyped one can."""
    for name in options:
        if name.startswith("on_"):
            raise TypeError(f"there is no callback {name}; there are {', '.join(CALLBACKS)}")


def _slow_after(options: Options) -> float:
    """Seconds that a callback may take: no ping of the peer's is answered meanwhile."""
    interval, timeout = options.ping_interval, options.ping_timeout
    allowed = interval if timeout is None else timeout
    return NEVER if interval is None or allowed is None else allowed


def _warn(text: str, *args: object) -> None:
    try:
        import logging  # only where there is something to say
    except ImportError:  # then do what it does for programs that don't set it up
        if sys.stderr is not None:
            print(text % args, file=sys.stderr)
    else:
        logging.getLogger("wsmini").warning(text, *args)


def _item(message: Any, text: bool | None, compress: bool | None) -> Item:
    """*message* as it is queued; a copy, if it could be changed meanwhile."""
    whole = encode_whole(message, text)
    if whole is None:
        return 0, Fragments(message, text), compress
    opcode, data = whole
    return opcode, data if type(data) is bytes else bytes(data), compress


def _unpacked(callback: Callable[..., object], chunk: tuple[Message, bool]) -> None:
    callback(*chunk)


def _ignore(*args: object) -> None:
    """For a client without ``on_message``."""
