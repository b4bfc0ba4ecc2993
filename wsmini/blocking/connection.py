"""The blocking API: ``connect()`` and ``Connection``.

A ``Connection`` has no thread of its own. Any number of threads may send, each message goes out
whole; one at a time receives. Who may touch the socket when is told in ``wire``; this module is
what a program sees of it.

Unread messages are in ``Wire.ready``, an iterator that ``recv`` and iteration share: whoever comes
takes the next one, so none is lost when one gives way to the other.
"""

from __future__ import annotations

import socket
from _thread import allocate_lock, get_ident, start_new_thread
from itertools import chain
from time import monotonic

from ..exceptions import ConcurrencyError, ConnectionClosed, ConnectionClosedOK
from ..info import ConnectionInfo
from ..opening.opening import Opening
from ..opening.sockets import HEED, deadline_after, patience, run_blocking
from ..options import read_options
from ..sansio.frames import close_payload
from ..sansio.payload import chunk_decoder, decode_message, encode_message
from ..sansio.protocol import ClientProtocol
from .stacks import interrupted, others_inside
from .transport import Wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import (
        Callable,
        Iterable,
        Iterator,
        Literal,
        Optional,
        Type,
        Union,
        overload,
    )

    from typing_extensions import Unpack

    from ..opening.opening import Opened
    from ..options import ConnectOptions, Options
    from ..sansio.frames import Data
    from ..sansio.messages import Message

TWO_RECEIVERS = "another thread, or a recv_streaming() that goes on, is receiving already"
_SENDABLE = (str, bytes, bytearray, memoryview)


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
    return open_connection(read_options(url, options))


def open_connection(settings: Options) -> Connection:
    """What ``connect()`` does, with options that were checked before."""
    opened = run_blocking(Opening(settings).steps())
    try:
        return Connection(opened, settings)
    except BaseException:
        opened.stream.close()
        raise


class Ping:
    """A ping that was sent."""

    __slots__ = ("_round_trip", "_wire")

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._round_trip: Optional[float] = None

    def _receive_pong(self, round_trip: float) -> None:
        self._round_trip = round_trip
        self._wire.notify()

    def wait(self, timeout: Optional[float] = None) -> float:
        """Wait for the pong. Thread-safe.

        If no thread receives, this does, and keeps up to ``max_queue`` messages for ``recv``.

        Returns:
            The round trip in seconds.

        Raises:
            TimeoutError: if it didn't come within *timeout* seconds; call again to wait on.
            ConnectionClosed: if the connection was closed before.
        """
        wire = self._wire
        deadline = None if timeout is None else deadline_after(timeout)
        try:
            done = wire.wait_until(lambda: self._round_trip is not None or wire.closed, deadline)
        except BaseException:
            wire.interrupted()
            raise
        if not done:
            raise TimeoutError(f"no pong within {timeout} s")
        if self._round_trip is None:
            raise wire.protocol.close_exc()
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

    _called = "wsmini"

    def __init__(self, opened: Opened, options: Options) -> None:
        super().__init__(opened)
        self._protocol = ClientProtocol(
            max_size=options.max_size,
            ping_interval=options.ping_interval,
            ping_timeout=options.ping_timeout,
        )
        self._protocol.open(opened.extensions, monotonic())
        self._wire = Wire(opened.stream, self._protocol, options, opened.rest)
        self._acquire_sending = self._wire.sending.acquire
        self._release_sending = self._wire.sending.release
        self._put = self._wire.outbox.put
        self._consuming = allocate_lock()  # held in recv and recv_streaming
        self._start_receiving = self._consuming.acquire
        self._streaming = False  # whether a recv_streaming() goes on, perhaps suspended
        self._fragments_by = 0  # the thread that is sending a fragmented message

    # -- receiving --

    if TYPE_CHECKING:

        @overload
        def recv(self, timeout: Optional[float] = None, *, decode: Literal[True]) -> str: ...

        @overload
        def recv(self, timeout: Optional[float] = None, *, decode: Literal[False]) -> bytes: ...

        @overload
        def recv(self, timeout: Optional[float] = None, *, decode: None = None) -> Message: ...

    def recv(self, timeout: Optional[float] = None, *, decode: Optional[bool] = None) -> Message:
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
        for message in self._wire.ready:
            return message if decode is None else decode_message(message, decode)
        wire = self._wire
        try:
            message = self._receive(None if timeout is None else deadline_after(timeout))
        except BaseException:
            wire.interrupted()
            raise
        wire.handing = 0
        return message if decode is None else decode_message(message, decode)

    def _receive(self, deadline: Optional[float], room: Optional[int] = None) -> Message:
        """Wait for a message, as the consumer; *room*: how many bytes it may have.

        For who then sets ``wire.handing`` to 0, or calls ``wire.interrupted()`` if it raises.
        """
        wire = self._wire
        if not self._start_receiving(False):
            self._start_consuming()
        try:
            if room is not None:
                return self._receive_within(room, deadline)
            wire.handing = get_ident()
            for message in wire.ready:
                return message  # another thread has made it ready since
            wire.handing = 0
            return wire.receive(deadline)
        finally:
            self._consuming.release()

    def _receive_within(self, room: int, deadline: Optional[float]) -> bytes:
        """A message as bytes, which stays where it is unless it fits."""
        wire = self._wire
        wire.handing = get_ident()
        message = next(wire.ready, None)
        if message is None:
            wire.handing = 0
            message = wire.receive(deadline)
        data = message.encode() if isinstance(message, str) else message
        if len(data) > room:
            wire.ready, wire.handing = iter([message, *wire.ready]), 0
            raise ValueError(f"a message of {len(data)} bytes doesn't fit into {room}")
        return data

    def _start_consuming(self) -> None:
        """Become the consumer.

        Raises:
            ConcurrencyError: if there is one.
        """
        wire = self._wire
        while not self._consuming.acquire(False):
            if self._streaming or others_inside(wire) or interrupted(wire):
                raise ConcurrencyError(TWO_RECEIVERS)
            if wire.forgotten(self._consuming):
                return  # left locked, see "Signals" in locks, and taken over

    def __iter__(self) -> Iterator[Message]:
        """Receive messages until the connection is closed with 1000 or 1001.

        Raises:
            ConnectionClosedError: if it is closed in another way.
            ConcurrencyError: as ``recv``.
        """
        # The step from message to message is in C, that between batches in Python.
        return chain.from_iterable(self._batches())

    def _batches(self) -> Iterator[Iterator[Message]]:
        while True:
            yield self._wire.ready
            try:
                messages = iter((self._receive(None),))
            except ConnectionClosedOK:
                return
            except BaseException:
                self._wire.interrupted()
                raise
            self._wire.handing = 0
            yield messages

    if TYPE_CHECKING:

        @overload
        def recv_streaming(self, decode: Literal[True]) -> Iterator[str]: ...

        @overload
        def recv_streaming(self, decode: Literal[False]) -> Iterator[bytes]: ...

        @overload
        def recv_streaming(self, decode: None = None) -> Iterator[Message]: ...

    def recv_streaming(self, decode: Optional[bool] = None) -> Iterator[Message]:
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
        wire, fin, begun = self._wire, False, False
        self._start_consuming()
        try:
            self._streaming = True
            for message in wire.ready:
                fin = True
                yield message if decode is None else decode_message(message, decode)
                return
            convert = chunk_decoder(decode)
            while not fin:
                chunk, fin = wire.receive_chunk(begun)
                begun = True
                yield convert(chunk, fin)
        finally:
            wire.interrupted()
            if not fin:
                wire.skip()
            self._streaming = False
            self._consuming.release()

    def recv_into(
        self, buffer: Union[bytearray, memoryview], timeout: Optional[float] = None
    ) -> int:
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
        deadline = None if timeout is None else deadline_after(timeout)
        try:
            data = self._receive(deadline, len(view))
            view[: len(data)] = data  # type: ignore[assignment]  # bytes, with room
        except BaseException:
            self._wire.interrupted()
            raise
        self._wire.handing = 0
        return len(data)

    # -- sending --

    def send(
        self,
        message: Union[str, Data, Iterable[Union[str, Data]]],
        *,
        text: Optional[bool] = None,
        compress: Optional[bool] = None,
        timeout: Optional[float] = None,
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
        elif isinstance(message, _SENDABLE):
            opcode, data = encode_message(message, text)
        else:
            try:
                view = memoryview(message)  # type: ignore[arg-type]  # of an array, say
            except TypeError:
                self._send_fragments(message, text, compress, timeout)
                return
            opcode, data = encode_message(view, text)
        wire, protocol, deadline = self._wire, self._protocol, None
        if timeout is not None:
            deadline = deadline_after(timeout)
        encoding = False
        try:
            if deadline is not None or not self._acquire_sending(False):
                self._start_sending(deadline)
            elif protocol.sending:
                self._start_between_fragments(deadline)
            try:
                if deadline is not None:
                    wire.wait_for_room(deadline)
                encoding = True
                written = self._put(protocol.send_message(opcode, data, compress))
                encoding = False
                if not written:
                    wire.wait_written(deadline)
            except BaseException as exc:
                wire.fail_sending(exc, encoding)
                raise
            self._release_sending()
            if protocol.has_output:
                wire.push(deadline)
        except BaseException:
            wire.interrupted()
            raise

    def _start_sending(self, deadline: Optional[float]) -> None:
        """Become the writer, when no fragmented message of another thread is under way.

        Raises:
            TimeoutError: if *deadline* passes first.
            ConcurrencyError: if it is of the same thread.
        """
        if not self._acquire_sending(False):
            if not self._wire.lock(self._wire.sending, deadline):
                raise TimeoutError("another thread's message wasn't taken in time")
        if self._protocol.sending:
            self._start_between_fragments(deadline)

    def _start_between_fragments(self, deadline: Optional[float]) -> None:
        """Wait, as the writer, for the end of a fragmented message; or stop being the writer."""
        try:
            self._wait_for_fragments(deadline)
        except BaseException:
            self._release_sending()
            self._wire.flush_output()
            raise

    def _wait_for_fragments(self, deadline: Optional[float]) -> None:
        if self._fragments_by == get_ident():
            raise ConcurrencyError("this thread is in the middle of sending a fragmented message")
        import threading

        wire = self._wire
        if wire.fragments is None:
            wire.fragments = threading.Condition(wire.sending)
        while self._protocol.sending and not wire.closed:
            if deadline is not None and monotonic() >= deadline:
                raise TimeoutError("another thread's fragmented message didn't end in time")
            wire.flush_as_writer()  # which this thread stops being now
            wire.fragments.wait(HEED if deadline is None else min(HEED, patience(deadline)))

    def _send_fragments(
        self,
        message: Iterable[Union[str, Data]],
        text: Optional[bool],
        compress: Optional[bool],
        timeout: Optional[float],
    ) -> None:
        """Send a fragment for each part, and an empty one to end the message.

        Other threads may send control frames between the fragments, but no messages.
        """
        if isinstance(message, dict) or not hasattr(message, "__iter__"):
            raise TypeError(
                "a message is str, bytes-like or an iterable of these,"
                f" not {type(message).__name__}"
            )
        deadline = None if timeout is None else deadline_after(timeout)
        first = 0
        try:
            for part in message:
                opcode, data = encode_message(part, text)
                if not first:
                    self._start_sending(deadline)
                    first = opcode
                elif opcode == first:
                    self._wire.lock(self._wire.sending, None)
                else:
                    raise TypeError("the fragments of a message are all str or all bytes-like")
                self._send_fragment(opcode, data, False, compress, deadline)
            if first:
                self._wire.lock(self._wire.sending, None)
                self._send_fragment(first, b"", True, compress, deadline)
        except BaseException as exc:
            self._wire.interrupted()
            # Not if it couldn't begin, and another thread's has begun since.
            if first and self._protocol.sending and self._fragments_by == get_ident():
                self._abandon_message(exc)
            raise

    def _send_fragment(
        self,
        opcode: int,
        data: Data,
        fin: bool,
        compress: Optional[bool],
        deadline: Optional[float],
    ) -> None:
        """Send a fragment, as the writer, and stop being it."""
        wire, protocol, encoding = self._wire, self._protocol, False
        try:
            if not protocol.sending:
                self._fragments_by = get_ident()
                if deadline is not None:
                    wire.wait_for_room(deadline)
            encoding = True
            written = self._put(protocol.send_fragment(opcode, data, fin, compress))
            encoding = False
            if not written:
                wire.wait_written(deadline)
            if fin and wire.fragments is not None:
                wire.fragments.notify_all()
        except BaseException as exc:
            wire.fail_sending(exc, encoding)
            raise
        self._release_sending()
        if protocol.has_output:
            wire.push(deadline)

    def _abandon_message(self, exc: BaseException) -> None:
        """A message that began and can't be completed: nothing else can be sent any more."""
        wire = self._wire
        with wire.sending:
            with wire.mutex:
                self._protocol.close(1011, "message abandoned")
            self._protocol.abandon_message()
            if wire.fragments is not None:
                wire.fragments.notify_all()
        if isinstance(exc, ConnectionClosed):
            return
        if not isinstance(exc, Exception):
            wire.hurry()  # the program is leaving
        self.close()

    # -- control --

    def ping(self, data: Optional[Union[str, bytes]] = None) -> Ping:
        """Send a ping. Thread-safe.

        Args:
            data: at most 125 bytes; ``None`` for 4 random ones.

        Returns:
            A ``Ping``; its ``wait(timeout)`` waits for the pong and gives the round trip.

        Raises:
            ConnectionClosed: if the connection is closed, or closing.
            ValueError: if *data* is too long, or a ping with it isn't answered yet.
            SendBufferFull: if 1024 pings aren't answered yet.
        """
        waiter = Ping(self._wire)
        payload = data.encode() if isinstance(data, str) else data
        self._send_control(self._protocol.ping, payload, monotonic(), waiter._receive_pong)
        return waiter

    def pong(self, data: Union[str, bytes] = b"") -> None:
        """Send a pong that nobody asked for (RFC 6455, 5.5.3). Thread-safe.

        Args:
            data: at most 125 bytes.

        Raises:
            ConnectionClosed, ValueError: as ``ping``.
        """
        self._send_control(self._protocol.pong, data.encode() if isinstance(data, str) else data)

    def _send_control(self, queue: Callable[..., None], *args: object) -> None:
        try:
            with self._wire.mutex:
                queue(*args)
            self._wire.push()
        except ConnectionClosed:
            raise self._wire.settled() from self._protocol.failure
        except BaseException:
            self._wire.interrupted()
            raise

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
        wire = self._wire
        if interrupted(wire):
            close_payload(code, reason)  # what can't be sent is told here
            self._close_elsewhere(code, reason)
            return
        try:
            wire.close(code, reason)
        except BaseException:
            wire.interrupted()
            raise

    def _close_elsewhere(self, code: int, reason: str) -> None:
        """Close in a thread: this one is interrupted in what would have to go on meanwhile."""
        try:
            start_new_thread(self._wire.close, (code, reason))
        except RuntimeError:  # there are no more threads: end it without a handshake
            try:
                self._wire.stream.sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # not connected any more

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self,
        exc_type: Optional[Type[BaseException]],
        exc: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        """Close: with 1000, or with 1011 after an error in the block.

        After Ctrl-C and the like with 1001, and the server has half a second to answer.
        """
        if exc_type is None or issubclass(exc_type, ConnectionClosed):
            self.close()
        elif issubclass(exc_type, Exception):
            self.close(1011)
        else:
            if exc_type is not GeneratorExit:
                self._wire.hurry()
            self.close(1001)  # the program is leaving
