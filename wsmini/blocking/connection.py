"""The blocking API: ``connect()`` and ``Connection``.

A ``Connection`` has no thread of its own. Any number of threads may send, each message goes out
whole; one at a time receives. Who may touch the socket when is told in ``transport``; this module
is what a program sees of it.

Unread messages are in ``MessageQueue.ready``, an iterator that ``recv`` and iteration share:
whoever comes takes the next one, so none is lost when one gives way to the other. An exception of a
signal handler that comes while a message is on its way from there to the caller fails the
connection.
"""

from __future__ import annotations

from itertools import chain
from time import monotonic

from ..clock import deadline_after
from ..exceptions import ConcurrencyError, ConnectionClosed, ConnectionClosedOK
from ..info import ConnectionInfo
from ..sansio.frames import close_payload, control_payload
from ..sansio.messages import chunk_decoder, decode_message, encode_whole
from ..sansio.protocol import OPEN, ClientProtocol
from .consumer import IN_A_HANDLER, Consumer
from .receiver import Receiver
from .sender import Sender
from .transport import BlockingTransport

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Iterable, Iterator, Literal, overload

    from typing_extensions import Unpack

    from ..opening.opening import Opened
    from ..options import ConnectOptions, Options
    from ..sansio.frames import Data
    from ..sansio.messages import Message


def connect(url: str, **options: Unpack[ConnectOptions]) -> Connection:
    """Open a connection; use it in a ``with`` statement, which closes it.

    Args:
        url: ``"ws://..."`` or ``"wss://..."``.
        options: keyword arguments: ``additional_headers``, ``origin``, ``subprotocols``,
            ``compression``, ``ssl``, ``proxy``, ``host``, ``open_timeout``, ``ping_interval``,
            ``max_size`` and others. ``help(wsmini.options.Options)`` explains each.

    Returns:
        An open ``Connection``.

    Raises:
        InvalidURI, ValueError, TypeError: if the URL or an option isn't valid.
        OSError: if the network or TLS fails.
        TimeoutError: if ``open_timeout`` passes.
        InvalidHandshake: if the server refuses (``InvalidStatus``), or answers wrongly.
    """
    from ..options import Options  # with all that opening takes, when there is one

    return open_connection(Options(url, **options))


def open_connection(settings: Options) -> Connection:
    """What ``connect()`` does, with options that were checked before."""
    from ..opening.opening import Opening
    from ..opening.steps import run_blocking

    opened = run_blocking(Opening(settings).steps())
    try:
        return Connection(opened, settings)
    except BaseException:
        opened.stream.close()
        raise


class Ping:
    """A ping that was sent."""

    __slots__ = ("_receiver", "_refused", "_round_trip")

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._round_trip: float | None = None
        self._refused: Exception | None = None

    def _send(self, data: bytes | None, now: float) -> Exception | None:
        """Under the mutex; for a signal handler, when that has returned."""
        self._refused = self._receiver.protocol.ping(data, now, self._receive_pong)
        return self._refused

    def _receive_pong(self, round_trip: float) -> None:
        self._round_trip = round_trip
        self._receiver.transport.waiters.notify()

    def _is_over(self) -> bool:
        answered = self._round_trip is not None or self._refused is not None
        return answered or self._receiver.transport.closed

    def wait(self, timeout: float | None = None) -> float:
        """Wait for the pong. Thread-safe.

        If no thread receives, this does, and keeps up to ``max_queue`` messages for ``recv``.

        Returns:
            The round trip in seconds.

        Raises:
            TimeoutError: if it didn't come within *timeout* seconds; call again to wait on.
            ConnectionClosed: if the connection was closed before.
            ValueError, SendBufferFull: as ``Connection.ping``, if a signal handler called that and
                couldn't be told.
            ConcurrencyError: in a signal handler that has interrupted a call of this connection.
        """
        receiver = self._receiver
        if receiver.transport.is_interrupted():
            raise ConcurrencyError(IN_A_HANDLER)
        deadline = None if timeout is None else deadline_after(timeout)
        if not receiver.wait_until(self._is_over, deadline):
            raise TimeoutError(f"no pong within {timeout} s")
        if self._round_trip is None:
            raise self._refused or receiver.protocol.close_exc()
        return self._round_trip


class Connection(ConnectionInfo):
    """An open WebSocket connection. Use ``connect()`` to make one.

    Attributes:
        request, response: of the opening handshake, with ``headers``.
        subprotocol: the one that the server chose, or ``None``.
        timings: seconds that each phase of the opening took, by its name.
        ssl_object: the ``ssl.SSLObject`` that speaks TLS with the server, to be asked for its
            ``getpeercert()``, ``version()`` and ``cipher()``; ``None`` for ``ws://``.
        local_address, remote_address: of the socket, as the ``socket`` module has them.
    """

    def __init__(self, opened: Opened, options: Options) -> None:
        super().__init__(opened)
        self._protocol = ClientProtocol(
            opened.extensions,
            monotonic(),
            max_size=options.max_size,
            ping_interval=options.ping_interval,
            ping_timeout=options.ping_timeout,
        )
        self._transport = BlockingTransport(opened.stream, self._protocol, options)
        self._receiver = Receiver(self._transport, options, opened.rest)
        self._queue = self._receiver.queue
        self._consumer = Consumer(self._receiver)
        self._sender = Sender(self._transport, self._receiver)
        # Bound here once, for send().
        self._write = self._transport.buffer.write
        self._is_sending = self._transport.sending._is_owned
        self._acquire_sending = self._transport.sending.acquire
        self._release_sending = self._transport.sending.release
        if options.ping_interval is not None:
            from .background import watch  # with threading, when there is a connection

            watch(self._receiver)

    # -- receiving --

    if TYPE_CHECKING:

        @overload
        def recv(self, timeout: float | None = None, *, decode: Literal[True]) -> str: ...

        @overload
        def recv(self, timeout: float | None = None, *, decode: Literal[False]) -> bytes: ...

        @overload
        def recv(self, timeout: float | None = None, *, decode: None = None) -> Message: ...

    def recv(self, timeout: float | None = None, *, decode: bool | None = None) -> Message:
        """Receive a message: ``str`` if it is text, ``bytes`` if it is binary.

        Thread-safe, but one thread at a time may wait here. A timeout loses nothing: the next call
        goes on in the middle of the message.

        Args:
            timeout: seconds to wait, ``None`` for no limit; 0 takes what is there.
            decode: ``False`` for ``bytes`` and ``True`` for ``str`` (from UTF-8) in any case.

        Raises:
            TimeoutError: if no message is complete in time.
            ConnectionClosed: if the connection is closed and all messages were received.
            ConcurrencyError: if another thread is receiving.
            UnicodeDecodeError: with ``decode=True``, if a binary message isn't UTF-8; it is lost.
        """
        deadline = None
        while True:
            try:
                ready = self._queue.ready
                for message in ready:
                    return message if decode is None else decode_message(message, decode)
            except UnicodeDecodeError:
                raise
            except BaseException as exc:
                self._receiver.fail(exc)  # perhaps there was a message on its way
                raise
            if timeout is not None and deadline is None:
                deadline = deadline_after(timeout)
            self._consumer.fill(ready, deadline)

    def __iter__(self) -> Iterator[Message]:
        """Receive messages until the connection is closed with 1000 or 1001.

        Raises:
            ConnectionClosedError: if it is closed in another way.
            ConcurrencyError: as ``recv``.
        """
        # The step from message to message is in C, that between batches in Python.
        return chain.from_iterable(self._batches())

    def _batches(self) -> Iterator[Iterator[Message]]:
        queue, consumer = self._queue, self._consumer
        while True:
            ready = queue.ready
            yield ready
            try:
                consumer.fill(ready, None)
            except ConnectionClosedOK:
                return

    if TYPE_CHECKING:

        @overload
        def recv_streaming(self, decode: Literal[True]) -> Iterator[str]: ...

        @overload
        def recv_streaming(self, decode: Literal[False]) -> Iterator[bytes]: ...

        @overload
        def recv_streaming(self, decode: None = None) -> Iterator[Message]: ...

    def recv_streaming(self, decode: bool | None = None) -> Iterator[Message]:
        """Receive one message in chunks, as they arrive: for messages that are large or slow.

        Chunks end where the network or the sender cut; they aren't the fragments of the sender. To
        leave the iteration before its end skips the rest of the message. The limit on the size of
        a message holds; ``max_size=(None, 2**20)`` would limit its fragments only.

        Args:
            decode: as in ``recv``.

        Raises:
            ConnectionClosed: if the connection is closed; perhaps after some chunks.
            ConcurrencyError: as ``recv``.
        """
        consumer, begun = self._consumer, False
        token: list[None] = []
        try:
            try:
                consumer.start(token)
                convert = chunk_decoder(decode)
                # Not a condition: since 3.13, its jump back isn't in this try.
                while True:
                    chunk, fin = consumer.receive_chunk(begun)
                    begun = True
                    chunk = convert(chunk, fin)
                    consumer.handing = False
                    yield chunk
                    if fin:
                        break
            except UnicodeDecodeError:
                consumer.handing = False  # it is lost, and the next message isn't
                raise
            finally:
                consumer.leave_stream(token)
        except BaseException:
            consumer.leave_stream(token)  # if that was interrupted itself
            raise

    def recv_into(self, buffer: bytearray | memoryview, timeout: float | None = None) -> int:
        """Receive a message, text as UTF-8, into *buffer*.

        Args:
            buffer: a ``bytearray``, or what else can be written to.
            timeout: as for ``recv``.

        Returns:
            The number of bytes of the message.

        Raises:
            ValueError: if the message is longer than *buffer*; it can be received still.
            TypeError: if *buffer* can't be written to.
            TimeoutError, ConnectionClosed, ConcurrencyError: as ``recv``.
        """
        view = memoryview(buffer).cast("B")
        if view.readonly:
            raise TypeError(f"a {type(buffer).__name__} can't be written to")
        consumer, queue = self._consumer, self._queue
        deadline = None if timeout is None else deadline_after(timeout)
        token: list[None] = []
        message, waiting = None, True
        try:
            while message is None:
                consumer.start(token)  # so that nobody else fills ``ready``
                waiting = False
                ready = queue.ready
                message = next(ready, None)
                if message is None:
                    waiting = True
                    consumer.stop(token)
                    consumer.fill(ready, deadline)
            data = message.encode() if isinstance(message, str) else message
            if len(data) > len(view):
                queue.ready = iter([message, *queue.ready])
                waiting = True  # for a larger buffer
                raise ValueError(f"a message of {len(data)} bytes doesn't fit into {len(view)}")
            size = len(data)
            view[:size] = data  # with room for it
            consumer.stop(token)
            return size
        except BaseException as exc:
            consumer.stop(token)
            if not waiting:
                self._receiver.fail(exc)
            raise

    # -- sending --

    def send(
        self,
        message: str | Data | Iterable[str | Data],
        *,
        text: bool | None = None,
        compress: bool | None = None,
        timeout: float | None = None,
    ) -> None:
        """Send a message. Thread-safe: each message goes out whole.

        It returns when the operating system has taken all of it. While the peer doesn't read,
        this blocks, and receives meanwhile (up to ``max_queue`` messages, for ``recv``).

        Args:
            message: ``str`` is sent as text, bytes-like as binary. Anything else that can be
                iterated over is sent as one fragmented message, a fragment for each ``str`` or
                bytes-like in it; an empty one sends nothing. If it fails behind its first
                fragment, or yields something else, the message can't be completed, and the
                connection is closed with 1011.
            text: ``True`` or ``False`` to send as text or as binary whatever the type.
            compress: ``False`` to leave this message out of compression.
            timeout: seconds until it has to be taken, ``None`` for no limit.

        Raises:
            ConnectionClosed: if the connection is closed, or closing.
            TimeoutError: if the timeout passes before anything of it was sent. If a part was, the
                connection can't go on, and this is a ``ConnectionClosedError``.
            TypeError: if *message* is none of these.
            ValueError: if ``text=True`` and the bytes aren't UTF-8, or a ``str`` has surrogates.
        """
        data: Data
        if type(message) is str and text is None:
            opcode, data = 1, message.encode()
        else:
            whole = encode_whole(message, text)
            if whole is None:
                self._sender.send_fragments(message, text, compress, timeout)
                return
            opcode, data = whole
        if self._is_sending():  # a signal handler that has interrupted that
            self._transport.defer(opcode, data, compress)
            return
        transport, protocol, sender = self._transport, self._protocol, self._sender
        deadline = None if timeout is None else deadline_after(timeout)
        busy, written = False, True
        try:
            if timeout is not None or not self._acquire_sending(False):
                written = sender.start(deadline)
            elif protocol.state is not OPEN or protocol.sending:
                self._release_sending()
                written = sender.start(None)
            if not written:
                transport.defer(opcode, data, compress)
                return
            busy = True
            written = self._write(protocol.encode_message(opcode, data, compress), len(data))
            busy = False
            if not written:
                written = sender.wait_written(deadline)
            self._release_sending()
            if not written:
                raise sender.why_not_written()
            if protocol.has_output:
                self._receiver.flush_or_wait(deadline)
        except BaseException as exc:
            transport.stop_writing(exc, busy)
            raise

    # -- control --

    def ping(self, data: str | bytes | None = None) -> Ping:
        """Send a ping. Thread-safe.

        Args:
            data: at most 125 bytes; ``None`` for 8 random digits.

        Returns:
            A ``Ping``; its ``wait(timeout)`` waits for the pong and gives the round trip.

        Raises:
            ConnectionClosed: if the connection is closed, or closing.
            ValueError: if *data* is too long, or a ping with it isn't answered yet.
            SendBufferFull: if 1024 pings aren't answered yet.
        """
        waiter = Ping(self._receiver)
        payload = None if data is None else control_payload(data)
        self._send_control(waiter._send, payload, monotonic())
        return waiter

    def pong(self, data: str | bytes = b"") -> None:
        """Send a pong that nobody asked for (RFC 6455, 5.5.3). Thread-safe.

        Args:
            data: at most 125 bytes.

        Raises:
            ConnectionClosed, ValueError: as ``ping``.
        """
        self._send_control(self._protocol.pong, control_payload(data))

    def _send_control(self, queue: Callable[..., Exception | None], *args: object) -> None:
        refusal = self._transport.change(queue, *args)
        if isinstance(refusal, ConnectionClosed):
            raise self._sender.close_exc_when_known() from self._protocol.failure
        if refusal is not None:
            raise refusal
        self._receiver.flush_or_wait()

    # -- closing --

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Close the connection, with the closing handshake of RFC 6455, 7. Thread-safe.

        Returns when it is closed: the server has answered, or ``close_timeout`` has passed. Does
        nothing if it is closed already, and never raises because of the network. What was received
        before can still be received (up to ``max_queue`` messages of what comes meanwhile).

        In a signal handler that has interrupted a method of this connection in the same thread, it
        returns at once: the interrupted call goes on and ends as at any close.

        Args:
            code: 1000, 1001, or 3000 to 4999, mostly (RFC 6455, 7.4).
            reason: at most 123 bytes of UTF-8.

        Raises:
            ValueError, TypeError: if *code* or *reason* can't be sent.
        """
        close_payload(code, reason)  # what can't be sent is told here
        self._closed_by_program = True
        self._close(code, reason)

    def _close(self, code: int, reason: str = "") -> None:
        transport = self._transport
        transport.change(self._protocol.close, code, reason)
        if not transport.closed and not transport.is_interrupted():
            self._receiver.wait_closed()

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc_info: object) -> None:
        """Close: with 1000, or with 1011 after an error in the block.

        After Ctrl-C and the like with 1001, and the server has half a second to answer.
        """
        if kind is None or issubclass(kind, ConnectionClosed):
            self._close(1000)
        elif issubclass(kind, Exception):
            self._close(1011)
        else:
            if kind is not GeneratorExit:
                self._transport.shorten_close()
            self._close(1001)  # the program is leaving
