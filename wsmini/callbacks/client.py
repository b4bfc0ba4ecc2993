"""The callback client: a connection that is opened again and again, on a ``Loop``.

Everything happens in the thread that runs the loop. Other threads leave what they want in a queue,
``_requests``, and wake the loop. The life of a client, ``_NEXT`` as a table::

    CLOSED ── start() ──▶ CONNECTING ── open ──▶ OPEN ── close() ──▶ CLOSING
      ▲                     │     ▲                │                    │
      │       failed        │     └── the delay ── │ ────── WAITING     │
      └─────────────────────┴──────  is over  ─────┴──────────▲─────────┘
      └────────────────── the policy says when ───────────────┘

What belongs to one connection is in its ``ClientConnection``, which is thrown away with it.
Whatever is waited for can be cancelled at once: the opening (``LoopRun.cancel``), the delay (a
timer), and the closing handshake (``EventTransport.abort``).

A message is *unsent* until the socket has taken all of it. What is unsent when a connection ends
goes back to the front of the outbox as far as that has room, and the rest into ``Client.unsent``.
"""

from __future__ import annotations

import sys
from _thread import allocate_lock, get_ident
from functools import partial

from ..events.transport import NEVER
from ..exceptions import ConnectionClosed, InvalidState, SendBufferFull
from ..opening.opening import Opening
from ..opening.steps import run_on_loop
from ..options import read_options
from ..policies import Attempts, read_policy
from ..sansio.frames import MAX_CONTROL, Opcode, close_payload
from ..sansio.protocol import State
from .connection import ClientConnection
from .loop import Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl
    from typing import Any, Callable, Dict, List, Optional, Union

    from typing_extensions import Unpack

    from ..opening.opening import Opened
    from ..opening.sockets import Steps
    from ..opening.steps import LoopRun
    from ..options import ConnectOptions
    from ..policies import Policy
    from ..sansio.http11 import Request, Response
    from ..sansio.messages import Message
    from .connection import Item
    from .loop import Timer

    BytesLike = Union[bytes, bytearray, memoryview]

MAX_SEND_BUFFER = 1 << 24  # bytes
STOP_GRACE = 0.5  # seconds that a server has for its Close frame when the program has to end
GOING_AWAY = 1001

_NO_ITEMS: List[Item] = []  # which all the idle share

_CONNECTING, _OPEN, _CLOSING, _CLOSED, _WAITING = State

_NEXT = {
    _CLOSED: (_CONNECTING, _WAITING),
    _CONNECTING: (_OPEN, _CLOSED),
    _OPEN: (_CLOSING, _CLOSED),
    _CLOSING: (_CLOSED,),
    _WAITING: (_CONNECTING, _CLOSED),
}


class Client:
    """A WebSocket connection with callbacks, which reconnects.

    ``run_forever()`` runs it alone; ``start(loop)`` puts it on a loop that many share. Callbacks
    are passed, set as attributes (both are called with the client first), or methods of a subclass.
    One that raises ends the run with its traceback, unless there is ``on_error``, which isn't
    guarded itself. ``KeyboardInterrupt`` and ``SystemExit`` always end the run.

    Args:
        url: ``"ws://..."`` or ``"wss://..."``.
        on_open: ``(client)``, each time a connection is open.
        on_message: ``(client, message)``, with ``str`` or ``bytes``.
        on_close: ``(client, code, reason)``, once for each connection that was open; 1006 if the
            server sent no Close frame.
        on_error: ``(client, exception)``: what a callback has raised, and the failure for which
            the policy has given up, with a note that tells the attempts.
        on_ping, on_pong: ``(client, data)``.
        on_reconnect: ``(client, attempt, delay, exception)``: why, and after how many seconds, it
            will connect again; *attempt* counts from 1 since the last connection.
        on_drain: ``(client)``: what waited for the server to read is written.
        reconnect: the policy: ``Backoff()``, ``Fixed()``, ``NoReconnect()``, or your own; also
            called ``policy``.
        outbox: how many messages to keep while there is no connection.
        max_send_buffer: how many bytes may wait to be sent until ``send`` raises.
        options: those of ``connect()``.

    Attributes:
        state: a ``State``: ``CLOSED`` until it is started, between two connections, and at the end.
        loop: where it was started.
        request, response, subprotocol, timings: of the last connection that was opened.

    Raises:
        InvalidURI, ValueError, TypeError: if the URL or an option isn't valid.
    """

    # Functions as attributes take the client, methods of a subclass don't: no type says both.
    on_open: Any = None
    on_message: Any = None
    on_close: Any = None
    on_error: Any = None
    on_ping: Any = None
    on_pong: Any = None
    on_reconnect: Any = None
    on_drain: Any = None

    _runs_loop = False  # in run_forever()
    _mutex = allocate_lock()  # one for all clients, as it is never held for long

    def __init__(
        self,
        url: str,
        *,
        on_open: Optional[Callable[[Client], object]] = None,
        on_message: Optional[Callable[[Client, Any], object]] = None,
        on_close: Optional[Callable[[Client, int, str], object]] = None,
        on_error: Optional[Callable[[Client, Exception], object]] = None,
        on_ping: Optional[Callable[[Client, bytes], object]] = None,
        on_pong: Optional[Callable[[Client, bytes], object]] = None,
        on_reconnect: Optional[Callable[[Client, int, float, Exception], object]] = None,
        on_drain: Optional[Callable[[Client], object]] = None,
        reconnect: Optional[Policy] = None,
        policy: Optional[Policy] = None,
        outbox: int = 0,
        max_send_buffer: int = MAX_SEND_BUFFER,
        **options: Unpack[ConnectOptions],
    ) -> None:
        given = (on_open, on_message, on_close, on_error, on_ping, on_pong, on_reconnect, on_drain)
        for name, callback in zip(CALLBACKS, given):
            if callback is not None:
                setattr(self, name, callback)
        self._options = read_options(url, options)
        self._policy, self._max_outbox = read_policy(policy, reconnect), outbox
        self._max_send_buffer = max_send_buffer
        self.state = _CLOSED
        self.loop: Optional[Loop] = None
        self.request: Optional[Request] = None
        self.response: Optional[Response] = None
        self.subprotocol: Optional[str] = None
        self.timings: Dict[str, float] = {}
        self._unsent: Optional[List[Message]] = None
        # Lists, as an empty deque takes 600 bytes; the idle share one.
        self._outbox = self._requests = _NO_ITEMS  # from other threads; _mutex guards both
        self._queued = 0  # bytes in both
        self._running = False  # from start() on, until it won't connect again
        self._wanted = False  # until close()
        self._signal = 0
        self._attempts: Optional[Attempts] = None
        self._attempt = 0
        self._waits: Union[LoopRun, Timer, None] = None  # for what CONNECTING or WAITING waits
        self._connection: Optional[ClientConnection] = None
        # Seconds that a callback may take: nobody answers the peer's pings meanwhile.
        interval, timeout = self._options.ping_interval, self._options.ping_timeout
        allowed = interval if timeout is None else timeout
        self._slow_after = NEVER if interval is None or allowed is None else allowed
        self._full = False  # on_drain is due when the connection has written all

    # -- life --

    def run_forever(self) -> int:
        """Run, with a loop of its own, until ``close()``, or until the policy gives up.

        In the main thread, SIGINT and SIGTERM close the connection with 1001 and end the run, half
        a second later at the latest; whatever the program has set for them is restored. In other
        threads, and in sub-interpreters, signals are left alone.

        Returns:
            What suits ``sys.exit()``: 0, or 128 plus the signal's number.

        Raises:
            Exception: without ``on_error``: that for which the policy has given up, and what a
                callback raises. The connection is dropped then.
        """
        import signal

        self._signal = 0
        with Loop() as loop:
            try:
                for number in (signal.SIGINT, signal.SIGTERM):
                    loop.add_signal_handler(number, self._interrupt, number)
            except ValueError:
                pass  # another thread, or a sub-interpreter: signals are somebody else's there
            try:
                self.start(loop)
                self._runs_loop = True
                while self._running:
                    loop.run_forever()
            finally:
                self._runs_loop = False
                self._drop()
        return 128 + self._signal if self._signal else 0

    def _interrupt(self, number: int) -> None:
        self._signal = number
        self.stop()

    def _drop(self) -> None:
        """End now, after an exception; ``on_close`` is called nevertheless."""
        if not self._running or self.loop is None:
            return
        self._close(GOING_AWAY, "")
        if self._connection is not None:
            self._connection.transport.abort()
        while self._running:
            self.loop.run_once()

    def start(self, loop: Loop) -> Client:
        """Connect and stay connected, while *loop* is run. Call it from the loop's thread.

        Returns:
            The client itself.

        Raises:
            InvalidState: if it is started already.
        """
        if self._running:
            raise InvalidState("the client is started already")
        self._attempts = Attempts("wsmini.Client", self._policy, self._options)
        self.loop, self._running, self._wanted = loop, True, True
        self._attempt = 0
        loop.add_sleep_handler(self._wake)
        self._serve()
        self._connect()
        return self

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Close, within ``close_timeout``, and don't reconnect. Thread-safe; returns at once.

        What is being waited for otherwise (names, TLS, a delay) is given up at once. ``on_close``
        comes if a connection was open. Does nothing if the client is closing, or isn't started.

        Raises:
            ValueError, TypeError: if *code* or *reason* can't be sent.
        """
        close_payload(code, reason)
        self._call_in_loop(self._close, code, reason)

    def stop(self) -> None:
        """As ``close(1001)``, but a server that doesn't answer is left after half a second."""
        self._call_in_loop(self._stop)

    def _stop(self) -> None:
        self._close(GOING_AWAY, "")
        if self._connection is not None and self.loop is not None:
            self._connection.limit_close(STOP_GRACE)

    def _close(self, code: int, reason: str) -> None:
        self._serve()  # what was sent before goes first
        self._wanted = False
        if self.state is _OPEN and self._connection is not None:
            self._move(_CLOSING)
            self._connection.close(code, reason)
        elif self.state in (_CONNECTING, _WAITING):
            if self._waits is not None:
                self._waits.cancel()
            self._move(_CLOSED)
            self._finish()

    def _move(self, state: State) -> None:
        if state not in _NEXT[self.state]:
            raise AssertionError(f"{self.state.name} -> {state.name}")  # a bug in wsmini
        self.state = state
        self._waits = None

    def _connect(self) -> None:
        if self.loop is None:
            raise AssertionError("only a started client connects")
        self._move(_CONNECTING)
        self._waits = run_on_loop(self.loop, self._steps(), self._opened)

    def _steps(self) -> Steps[Opened]:
        return Opening(self._options).steps()

    def _opened(self, opened: Optional[Opened], exc: Optional[BaseException]) -> None:
        """The opening has ended, either way."""
        if opened is None or self.loop is None:
            self._move(_CLOSED)
            if not isinstance(exc, Exception):
                self._finish()
                raise exc or AssertionError("neither open nor failed")
            self._lost(exc)
            return
        self._move(_OPEN)
        self.request, self.response = opened.request, opened.response
        self.subprotocol, self.timings = opened.subprotocol, opened.timings
        self._attempt = 0
        self._unsent = None
        connection = self._connection = ClientConnection(self, self.loop, opened, self._options)
        if self._attempts is not None:
            self._attempts.opened()
        try:
            self._call("on_open")
        finally:
            if self._connection is connection:
                self._send_kept()

    def _ended(self, exc: ConnectionClosed, unsent: List[Item]) -> None:
        """The connection is closed; for its connection."""
        self._connection = None
        self._move(_CLOSED)
        if unsent:
            with self._mutex:
                self._outbox = unsent + self._outbox
                self._queued += sum(len(item[1]) for item in unsent)
        self._trim_outbox()
        try:
            self._call("on_close", exc.code, exc.reason)
        finally:
            self._lost(exc)

    def _lost(self, failure: Exception) -> None:
        """There is no connection, because of *failure*: wait, or leave it at that."""
        if self.loop is None or self._attempts is None:
            self._finish()
            return
        try:
            delay = self._attempts.failed(failure, not self._wanted)
        except BaseException as exc:
            self._finish()
            if exc is not failure:
                raise  # a bug of the policy
            self._failed(failure)
            return
        if delay is None:
            self._finish()
            return
        self._move(_WAITING)
        self._attempt += 1
        self._waits = self.loop.call_later(delay, self._connect)
        self._call("on_reconnect", self._attempt, delay, failure)

    def _finish(self) -> None:
        """It won't connect again, unless started again."""
        self._running = self._wanted = False
        if self.loop is not None:
            self.loop.remove_sleep_handler(self._wake)
            if self._runs_loop:
                self.loop.stop()
        self._serve()
        self._trim_outbox()

    def _wake(self) -> None:
        """The machine has slept: what it waited for may be over, and nobody has noticed."""
        if self.state is _WAITING and self._waits is not None:
            self._waits.cancel()
            self._connect()
        elif self._connection is not None:
            self._connection.transport.probe()

    # -- callbacks --

    def _callback(self, name: str) -> Optional[Callable[..., object]]:
        """The callback *name*, to be called without the client."""
        found: Optional[Callable[..., object]] = getattr(self, name)
        if found is None:
            return None
        if getattr(type(self), name) is not None:  # a subclass has one
            given = self.__dict__.get(name)  # only here: to ask for that makes one for each client
            if given is None:
                return found
        return partial(found, self)

    def _call(self, name: str, *args: object) -> None:
        """Call the callback *name*, if there is one."""
        callback = self._callback(name)
        if callback is None or self.loop is None:
            return
        start = self.loop.time()
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
        on_error(exc)

    def _watch(self, name: str, start: float) -> None:
        """Log, once, that the callback *name*, begun at *start*, was too slow for the keepalive."""
        if self._slow_after == NEVER or self.loop is None:
            return
        duration = self.loop.time() - start
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
        message: Union[str, BytesLike],
        *,
        text: Optional[bool] = None,
        compress: Optional[bool] = None,
    ) -> None:
        """Send a message, or keep it in the outbox. Thread-safe; returns at once.

        Args:
            message: ``str`` is sent as text, bytes as binary.
            text: ``True`` and ``False`` send as text or as binary in any case.
            compress: ``False`` to send it uncompressed.

        Raises:
            ConnectionClosed, InvalidState: if there is no connection, and ``outbox`` is 0.
            SendBufferFull: if more than ``max_send_buffer`` bytes, or ``outbox`` messages, would
                wait.
        """
        if type(message) is str and text is None:
            item: Item = (1, message.encode(), compress)
        else:
            item = _item(message, text, compress)
        loop, connection = self.loop, self._connection
        waiting = self._queued
        if connection is not None:  # and what the transport has buffered
            queue = connection.transport.queue
            waiting += queue.accepted - queue.written
        if waiting and waiting + len(item[1]) > self._max_send_buffer:
            self._call_in_loop(self._fill)
            raise SendBufferFull(f"{waiting} bytes wait to be sent (max_send_buffer)")
        if loop is not None and loop.thread == get_ident():
            if self._requests:
                self._serve()  # what other threads have sent before
            if connection is None or not connection.send(item):
                self._keep(item)
        else:
            self._send_from_elsewhere(item)

    def _fill(self) -> None:
        """Somebody was refused for want of room: ``on_drain`` will tell when there is some."""
        self._full = True
        if self.loop is not None and self._connection is not None:
            self._connection.trim_soon()

    def _send_from_elsewhere(self, item: Item) -> None:
        """Leave *item* to the loop's thread."""
        loop = self.loop
        if self._connection is None:
            self._check_outbox()
        with self._mutex:
            is_first = not self._requests
            if is_first:
                self._requests = []
            self._requests.append(item)
            self._queued += len(item[1])
        if is_first and loop is not None and self._running:
            loop.call_soon_threadsafe(self._serve)

    def _check_outbox(self) -> None:
        """Raise unless a message can be kept."""
        if self._connection is not None and not (self._max_outbox and self._wanted):
            raise self._connection.transport.protocol.close_exc()
        if not self._max_outbox:
            raise InvalidState(f"there is no connection: the client is {self.state.name.lower()}")
        if len(self._outbox) + len(self._requests) >= self._max_outbox:
            raise SendBufferFull(f"{self._max_outbox} messages wait for a connection (outbox)")

    def _keep(self, item: Item) -> None:
        """Put *item* into the outbox."""
        self._check_outbox()
        self._store([item])

    def _store(self, items: List[Item]) -> None:
        """Append *items* to the outbox, however many these are."""
        with self._mutex:
            if not self._outbox:
                self._outbox = []
            self._outbox += items
            self._queued += sum(len(item[1]) for item in items)

    def _serve(self) -> None:
        """Send what other threads have left, but not before what is in the outbox."""
        if self._outbox and self._connection is not None:
            return  # _send_kept comes back here
        with self._mutex:
            items, self._requests = self._requests, _NO_ITEMS
            self._queued -= sum(len(item[1]) for item in items)
        connection = self._connection
        for item in items:
            if connection is None or not connection.send(item):
                self._store([item])
        self._trim_outbox()

    def _send_kept(self) -> None:
        """Send what is in the outbox, on the new connection."""
        connection, items, count, size = self._connection, self._outbox, 0, 0
        while connection is not None and count < len(items) and connection.send(items[count]):
            size += len(items[count][1])
            count += 1
        if count:
            with self._mutex:
                self._queued -= size
                del items[:count]
        self._serve()
        if self._full and connection is not None:
            connection.trim_soon()  # somebody may wait for on_drain since before

    def _trim_outbox(self) -> None:
        """Hand back what has no room; all, if there won't be a connection."""
        room = self._max_outbox if self._wanted else 0
        while len(self._outbox) > room:
            with self._mutex:
                opcode, data, _ = self._outbox[room]
                del self._outbox[room]
                self._queued -= len(data)
            if self._unsent is None:
                self._unsent = []
            self._unsent.append(data.decode() if opcode == Opcode.TEXT else data)

    @property
    def unsent(self) -> List[Message]:
        """The messages that were accepted and can't be sent any more.

        Since the last connection opened: look at it in ``on_close``, in ``on_reconnect``, and at
        the end.
        """
        return [] if self._unsent is None else self._unsent

    @property
    def buffered_amount(self) -> int:
        """How many bytes were accepted by ``send`` and not yet by the socket. Thread-safe."""
        connection = self._connection
        return self._queued + (0 if connection is None else connection.transport.buffered)

    def ping(self, data: Union[str, bytes, None] = None) -> None:
        """Send a ping; ``on_pong`` tells the answer. Thread-safe.

        Raises:
            ConnectionClosed, InvalidState: if there is no connection.
            ValueError: if *data* exceeds 125 bytes, or a ping with it isn't answered yet.
        """
        payload = data.encode() if isinstance(data, str) else data
        if payload is not None and len(payload) > MAX_CONTROL:
            raise ValueError(f"a ping has at most {MAX_CONTROL} bytes, not {len(payload)}")
        if self._connection is None:
            raise InvalidState(f"there is no connection: the client is {self.state.name.lower()}")
        self._call_in_loop(self._connection.ping, payload)

    @property
    def latency(self) -> float:
        """The last round trip in seconds; 0 if none was measured."""
        connection = self._connection
        return 0.0 if connection is None else connection.transport.protocol.latency

    @property
    def ssl_object(self) -> Optional[ssl.SSLObject]:
        """The ``ssl.SSLObject`` of the open connection; ``None`` for ``ws://``, or without one.

        To be asked, in the loop's thread, for ``getpeercert()``, ``version()`` and ``cipher()``.
        """
        connection = self._connection
        return None if connection is None else connection.ssl_object

    # -- backpressure --

    def pause(self) -> None:
        """Call ``on_message`` no more, and read no more: the server has to wait. Thread-safe."""
        self._call_in_loop(self._pause)

    def _pause(self) -> None:
        if self._connection is not None and self.state is _OPEN:  # closing has lifted it for good
            self._connection.pause()

    def resume(self) -> None:
        """Go on after ``pause()``; closing and reconnecting do that too. Thread-safe."""
        self._call_in_loop(self._resume)

    def _resume(self) -> None:
        if self._connection is not None:
            self._connection.resume()

    def _call_in_loop(self, method: Callable[..., None], *args: Any) -> None:
        """Call *method* now if this is the loop's thread, else soon."""
        if self.loop is None or not self._running:
            return
        if self.loop.thread == get_ident():
            method(*args)
        else:
            self.loop.call_soon_threadsafe(method, *args)


CALLBACKS = tuple(name for name in vars(Client) if name.startswith("on_"))


def _warn(text: str, *args: object) -> None:
    try:
        import logging  # only where there is something to say
    except ImportError:  # then do what it does for programs that don't set it up
        if sys.stderr is not None:
            print(text % args, file=sys.stderr)
    else:
        logging.getLogger("wsmini").warning(text, *args)


def _item(message: Union[str, BytesLike], text: Optional[bool], compress: Optional[bool]) -> Item:
    """*message* as it is queued; a copy, if it could be changed meanwhile."""
    if isinstance(message, str):
        return (Opcode.BINARY if text is False else Opcode.TEXT), message.encode(), compress
    if not isinstance(message, (bytes, bytearray, memoryview)):
        raise TypeError(f"a message is str or bytes-like, not {type(message).__name__}")
    data = message if type(message) is bytes else bytes(message)
    if text:
        data.decode()  # UnicodeDecodeError is a ValueError: nothing else may be sent as text
    return (Opcode.TEXT if text else Opcode.BINARY), data, compress
