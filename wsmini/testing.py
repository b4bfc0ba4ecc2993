"""Servers on the loopback interface for tests of WebSocket clients: yours, and wsmini's own.

``echo_server()`` is a complete small server; ``scripted_server(script)`` does what the script
says, right or wrong. Both listen at once, on a free port unless told otherwise, and are context
managers::

    def script(peer):
        peer.accept(subprotocol="chat")
        assert peer.recv_message() == "hello"
        peer.send_frame(Opcode.TEXT, "good bye")
        peer.close(1001, "going away")

    with scripted_server(script) as server:
        run_the_client(server.url)

How it works: one daemon thread accepts and one serves each connection, with blocking calls; a
``Peer`` belongs to the thread of its connection. ``Server.close()`` may be called from any thread.
It lets scripts come to their end, then shuts their sockets down, and waits for all threads, but
not forever. These servers trust their clients more than a server on a network could.
"""

from __future__ import annotations

import re
import selectors
import socket
import threading
import time
from collections.abc import Sequence

from .exceptions import (
    Close,
    ConnectionClosed,
    PayloadTooBig,
    ProtocolError,
    connection_closed,
    shown,
)
from .frames import FIN, MAX_CONTROL, RSV1, RSV2, RSV3, Frame, Opcode, header, mask, parse_close
from .frames import masked as masked_frame
from .handshake import accept_key
from .http11 import Headers, Request
from .replay import replay_script

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from ssl import SSLContext
    from types import TracebackType
    from typing import Optional, Tuple, Union

    Pairs = Sequence[Tuple[str, Optional[str]]]
    HeadersLike = Union[Headers, Mapping[str, str], Mapping[str, Optional[str]], Pairs]

__all__ = ["Peer", "Server", "echo_server", "frame", "replay", "scripted_server"]

_MAX_HEAD = 65536  # bytes of a request head
_CHUNK = 65536  # bytes asked of the socket, at least
_LINGER = 2.0  # seconds for a client to close its end after the server did
_GRACE = 0.2  # seconds for scripts to end by themselves when the server closes
_RETRY = 0.05  # seconds until what did not interrupt a script is tried again
_BACKLOG = 128  # connections waiting to be accepted
_OPCODES = frozenset(Opcode)
_VERSION = "Sec-WebSocket-Version"


def frame(
    opcode: int,
    data: str | bytes = b"",
    fin: bool = True,
    rsv1: bool = False,
    rsv2: bool = False,
    rsv3: bool = False,
    masked: bool = False,
) -> bytes:
    """A frame as it goes over the wire (RFC 6455, 5.2): a server's, or a client's if *masked*.

    Nothing is checked, so that wrong frames can be made as well.
    """
    payload = data.encode() if isinstance(data, str) else data
    head = Frame(opcode, payload, fin, rsv1, rsv2, rsv3).head
    if masked:
        return bytes(masked_frame(head, payload))
    return header(head, len(payload), 0) + payload


class Peer:
    """The client of one connection, as its script sees it. Every method may block.

    Methods that wait raise ``EOFError`` or ``ConnectionError`` when the client is gone,
    ``TimeoutError`` when it does nothing for the server's ``timeout``, and ``ProtocolError`` when
    it does what no client may do.

    Attributes:
        sock: the socket, for whatever the methods don't offer: ``peer.sock.close()`` drops the
            connection.
    """

    def __init__(
        self,
        sock: socket.socket,
        requests: list[Request],
        *,
        timeout: float | None,
        max_size: int,
    ) -> None:
        self.sock = sock
        self._requests = requests
        self._timeout = timeout
        self._max_size = max_size
        self._buffer = bytearray()
        self._request: Request | None = None  # read and not yet answered
        self._deflate: _Deflate | None = None
        self._secure = False

    # -- the handshake --

    def request(self) -> Request:
        """Read the head of the next request: its ``method``, ``target`` and ``headers``."""
        self._request = request = _parse_request(self._read_head())
        self._requests.append(request)
        return request

    def accept(
        self,
        headers: HeadersLike = (),
        subprotocol: str | None = None,
        extensions: str | None = None,
        then: bytes = b"",
    ) -> None:
        """Answer the opening handshake with 101; read the request first unless that was done.

        Args:
            headers: replace those of the same name; ``None`` as a value leaves a header out.
            subprotocol: the value of ``Sec-WebSocket-Protocol``.
            extensions: the value of ``Sec-WebSocket-Extensions``.
            then: bytes that go out behind the response in the same write.

        Raises:
            ProtocolError: if the request isn't a correct opening handshake (RFC 6455, 4.1).
        """
        request = self._take_request()
        problem = _handshake_problem(request)
        if problem:
            raise ProtocolError(f"this is no opening handshake: {problem}")
        fields: dict[str, str | None] = {
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Accept": accept_key(request.headers["Sec-WebSocket-Key"]),
            "Sec-WebSocket-Protocol": subprotocol,
            "Sec-WebSocket-Extensions": extensions,
        }
        self.send_raw(_response(101, "Switching Protocols", fields, headers) + then)

    def respond(
        self, status: int, reason: str = "", headers: HeadersLike = (), body: bytes = b""
    ) -> None:
        """Answer with any HTTP response; read the request first unless that was done.

        ``Content-Length`` is added where it may be; as ``None`` in *headers* it is left out.
        """
        request = self._take_request()
        # RFC 9110, 8.6: never with 1xx, 204 and what opens a tunnel.
        tunnel = request.method == "CONNECT" and 200 <= status < 300
        length = None if status < 200 or status == 204 or tunnel else str(len(body))
        self.send_raw(_response(status, reason, {"Content-Length": length}, headers) + body)

    # -- frames --

    def send_frame(
        self, opcode: int, data: str | bytes = b"", fin: bool = True, **bits: bool
    ) -> None:
        """Send one frame, right or wrong; *bits* are those of ``frame()``."""
        self.send_raw(frame(opcode, data, fin, **bits))

    def send_message(self, message: str | bytes) -> None:
        """Send a text or binary message in one frame."""
        opcode = Opcode.TEXT if isinstance(message, str) else Opcode.BINARY
        data = message.encode() if isinstance(message, str) else message
        if self._deflate is not None:
            data = self._deflate.deflate(data)
        self.send_frame(opcode, data, rsv1=self._deflate is not None)

    def send_raw(self, data: bytes) -> None:
        """Send bytes as they are."""
        try:
            self.sock.sendall(data)
        except OSError as exc:
            raise self._translated(exc) from exc

    def recv_frame(self) -> Frame:
        """Receive the next frame, of any kind, unmasked: ``opcode``, ``data``, ``fin``, ``rsv1``...

        Nothing is answered. Only what makes a frame readable is checked.

        Raises:
            ProtocolError: if the frame isn't masked, or its length not in the shortest form.
            PayloadTooBig: if it exceeds the server's ``max_size``.
        """
        head, n = self._read(2)
        if not n & 0x80:
            raise ProtocolError("expected a masked frame from the client, got an unmasked one")
        n &= 0x7F
        if n > 125:
            n = self._extended_length(2 if n == 126 else 8)
        if n > self._max_size:
            raise PayloadTooBig(n, self._max_size)
        key = self._read(4)
        flags = [bool(head & bit) for bit in (FIN, RSV1, RSV2, RSV3)]
        return Frame(head & 0x0F, mask(self._read(n), key), *flags)

    def recv_message(self) -> str | bytes:
        """Receive the next message, whole. Pings are answered, and a Close frame is.

        Raises:
            ConnectionClosed: if a Close frame came instead.
            ProtocolError: if the client broke the protocol.
            PayloadTooBig: if the message exceeds the server's ``max_size``.
            ValueError: if a text isn't UTF-8 or compressed data can't be inflated.
        """
        opcode, compressed, data = 0, False, bytearray()
        while True:
            received = self.recv_frame()
            self._check(received, continued=bool(opcode))
            if received.opcode >= 8:
                self._answer(received)
                continue
            if not opcode:
                opcode, compressed = received.opcode, received.rsv1
            data += received.data
            if len(data) > self._max_size:
                raise PayloadTooBig(len(data), self._max_size)
            if received.fin:
                break
        if compressed and self._deflate is not None:
            data = bytearray(self._deflate.inflate(data, self._max_size))
        return data.decode() if opcode == Opcode.TEXT else bytes(data)

    def close(self, code: int = 1000, reason: str = "") -> Close:
        """Send a Close frame, with any code, and return what the client's says.

        Frames that come before it are discarded. TCP is closed when the script ends.
        """
        self.send_frame(Opcode.CLOSE, code.to_bytes(2, "big") + reason.encode())
        while True:
            received = self.recv_frame()
            if received.opcode == Opcode.CLOSE:
                return parse_close(received.data)

    # -- inside --

    def _take_request(self) -> Request:
        request = self._request or self.request()
        self._request = None
        return request

    def _extended_length(self, size: int) -> int:
        n = int.from_bytes(self._read(size), "big")
        # RFC 6455, 5.2: the minimal number of bytes, and the most significant bit is 0.
        if n < (126 if size == 2 else 65536) or n >= 1 << 63:
            raise ProtocolError(f"a length of {n} in {size} bytes")
        return n

    def _check(self, received: Frame, continued: bool) -> None:
        """The rules for frames in a message and between them (RFC 6455, 5.2, 5.4, 5.5)."""
        opcode = received.opcode
        if opcode not in _OPCODES:
            raise ProtocolError(f"unknown opcode {opcode}")
        may_compress = self._deflate is not None and opcode in (Opcode.TEXT, Opcode.BINARY)
        if received.rsv2 or received.rsv3 or received.rsv1 and not may_compress:
            raise ProtocolError("reserved bits that no extension uses here")
        if opcode >= 8:
            if not received.fin or len(received.data) > MAX_CONTROL:
                raise ProtocolError("a control frame that is fragmented or over 125 bytes")
        elif continued and opcode:
            raise ProtocolError("a new message before the last one ended")
        elif not continued and not opcode:
            raise ProtocolError("a continuation without a message to continue")

    def _answer(self, received: Frame) -> None:
        if received.opcode == Opcode.PING:
            self.send_frame(Opcode.PONG, received.data)
        elif received.opcode == Opcode.CLOSE:
            close = parse_close(received.data)
            self.send_frame(Opcode.CLOSE, received.data[:2])
            raise connection_closed(close, Close(close.code, ""), True)

    # -- the socket --

    def _start(self, context: SSLContext | None) -> None:
        try:
            self.sock.settimeout(self._timeout)
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if context is not None:
                self._secure = True
                self.sock = context.wrap_socket(
                    self.sock, server_side=True, do_handshake_on_connect=False
                )
                self.sock.do_handshake()
        except OSError as exc:
            raise self._translated(exc) from exc

    def _translated(self, exc: OSError) -> OSError:
        if isinstance(exc, socket.timeout):
            return TimeoutError(f"the client did nothing for {self._timeout} seconds")
        if self._secure and not isinstance(exc, ConnectionError):
            # An SSLError: the client refused the certificate, or left without saying so.
            return ConnectionError(str(exc))
        return exc

    def _fill(self, missing: int) -> None:
        try:
            data = self.sock.recv(max(_CHUNK, min(missing, 1 << 20)))
        except OSError as exc:
            raise self._translated(exc) from exc
        if not data:
            raise EOFError("the client closed the connection")
        self._buffer += data

    def _read(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._fill(size - len(self._buffer))
        with memoryview(self._buffer) as view:
            data = bytes(view[:size])
        del self._buffer[:size]
        return data

    def _read_head(self) -> bytes:
        start = 0
        while True:
            end = self._buffer.find(b"\r\n\r\n", start)
            if max(end, start) > _MAX_HEAD:
                raise ProtocolError(f"a request head of more than {_MAX_HEAD} bytes")
            if end >= 0:
                return self._read(end + 4)[:-4]
            start = max(0, len(self._buffer) - 3)
            self._fill(0)

    def _interrupt(self) -> None:
        """End what the script waits for. Called by another thread."""
        try:
            # SSLSocket's own method would also take the TLS state from under that thread.
            socket.socket.shutdown(self.sock, socket.SHUT_RDWR)
        except OSError:
            pass  # the connection is gone, or TLS is just taking over the socket

    def _finish(self) -> None:
        """Close such that the client gets all that was sent.

        Closing a socket with unread data resets the connection, and the client may lose what it
        has not read: so say that nothing more comes, and read on for a while.
        """
        deadline = time.monotonic() + _LINGER
        try:
            self.sock.settimeout(_LINGER)
            if self._secure:
                self.sock.unwrap()  # type: ignore[attr-defined]  # an SSLSocket
        except (OSError, ValueError):
            pass  # the client is gone or still sending; ValueError: TLS never started, or is over
        try:
            socket.socket.shutdown(self.sock, socket.SHUT_WR)
            while socket.socket.recv(self.sock, _CHUNK) and time.monotonic() < deadline:
                pass
        except OSError:
            pass  # the client is gone, or the script closed the socket
        finally:
            self.sock.close()


class Server:
    """A listening server: what ``echo_server()`` and ``scripted_server()`` return.

    Leaving its ``with`` block closes it and raises the first exception of a script, if any.

    Attributes:
        host: the address it listens on.
        port: the port it listens on.
        url: ``ws://host:port`` or ``wss://host:port``.
        requests: the opening requests seen so far: ``method``, ``target`` and ``headers``.
        connections: how many connections were accepted so far.
        errors: the exceptions that ended scripts, in the order of their ends.
    """

    def __init__(
        self,
        script: Callable[[Peer], object],
        *,
        host: str,
        port: int,
        ssl: SSLContext | None,
        timeout: float | None,
        max_size: int,
        grace: float = _GRACE,
        strict: bool = False,
    ) -> None:
        self.requests: list[Request] = []
        self.connections = 0
        self.errors: list[BaseException] = []
        self._script = script
        self._ssl = ssl
        self._timeout = timeout
        self._max_size = max_size
        self._grace = grace
        self._lost = () if strict else (ConnectionError, EOFError, ConnectionClosed)
        self._peers: dict[Peer, threading.Thread] = {}
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
        self._waker, self._wake = socket.socketpair()
        self.host, self.port = self._listener.getsockname()[:2]
        bracketed = f"[{self.host}]" if ":" in self.host else self.host
        self.url = f"{'ws' if ssl is None else 'wss'}://{bracketed}:{self.port}"
        self._acceptor = threading.Thread(target=self._accept, name="wsmini-server", daemon=True)
        self._acceptor.start()

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
        # What went wrong in a script explains what went wrong in the block: it becomes the
        # exception, and the other its context. Not so for KeyboardInterrupt and the like.
        if self.errors and (exc is None or isinstance(exc, Exception)):
            raise self.errors[0]

    def close(self) -> None:
        """Stop listening, end all connections and threads. May be called again.

        Scripts get a moment to end; then those that wait for their client lose it, and those that
        still run some seconds later are reported in ``errors``.
        """
        self._waker.close()
        self._acceptor.join(_LINGER)
        self._join(self._grace)
        deadline = time.monotonic() + _LINGER
        while self._running() and time.monotonic() < deadline:
            for peer in self._peers:
                peer._interrupt()
            self._join(_RETRY)
        if self._running():
            self.errors.append(RuntimeError("a script still runs though its client is gone"))

    def _running(self) -> list[threading.Thread]:
        # A script may close its server, but nobody can wait for oneself.
        own = threading.current_thread()
        return [t for t in self._peers.values() if t.is_alive() and t is not own]

    def _join(self, patience: float) -> None:
        deadline = time.monotonic() + patience
        for thread in self._running():
            thread.join(max(0.0, deadline - time.monotonic()))

    def _accept(self) -> None:
        self._listener.setblocking(False)
        with self._listener, self._wake, selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._wake, selectors.EVENT_READ)
            closing = False
            while not closing:
                closing = self._wake in [key.fileobj for key, _ in selector.select()]
                try:
                    # Also those who had come when close() was called: to them it was open.
                    for _ in range(_BACKLOG):
                        self._serve(self._listener.accept()[0])
                except (BlockingIOError, ConnectionError):
                    continue  # there are no more, or one left before it was accepted
                except OSError as exc:
                    self.errors.append(exc)
                    return

    def _serve(self, sock: socket.socket) -> None:
        peer = Peer(sock, self.requests, timeout=self._timeout, max_size=self._max_size)
        self.connections += 1
        name = f"wsmini-server-{self.connections}"
        thread = threading.Thread(target=self._run, args=(peer,), name=name, daemon=True)
        self._peers = {p: t for p, t in self._peers.items() if t.is_alive()}
        self._peers[peer] = thread
        thread.start()

    def _run(self, peer: Peer) -> None:
        try:
            peer._start(self._ssl)
            self._script(peer)
        except self._lost:
            pass  # the client is gone, and the script did not ask to hear of it
        except BaseException as exc:  # also what test frameworks raise to fail or skip
            self.errors.append(exc)
        finally:
            peer._finish()


def scripted_server(
    script: Callable[[Peer], object],
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    ssl: SSLContext | None = None,
    timeout: float | None = 10,
    max_size: int = 64 * 2**20,
    strict: bool = False,
) -> Server:
    """Start a server that calls ``script(peer)`` for each connection, in a thread of its own.

    The connection is closed when the script returns. What it raises is raised again where the
    server's ``with`` block ends.

    Args:
        script: a function of one ``Peer``.
        host: an IPv4 or IPv6 address, or a name that stands for an IPv4 address.
        port: 0 takes a free one.
        ssl: makes it a ``wss`` server.
        timeout: seconds that a ``Peer`` waits for its client; ``None``: until the server closes.
        max_size: bytes of the largest frame and message that a ``Peer`` receives.
        strict: whether it is an error, too, if the script ends because the client is gone:
            ``ConnectionError``, ``EOFError``, ``ConnectionClosed``.
    """
    return Server(
        script, host=host, port=port, ssl=ssl, timeout=timeout, max_size=max_size, strict=strict
    )


def echo_server(
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    ssl: SSLContext | None = None,
    subprotocols: Sequence[str] = (),
    compression: bool = False,
    max_size: int = 64 * 2**20,
) -> Server:
    """Start a server that sends every message back (RFC 6455).

    A client that breaks the protocol gets 1002, 1007 or 1009; one that asks for something else
    than a WebSocket gets 400 or 426.

    Args:
        host: an IPv4 or IPv6 address, or a name that stands for an IPv4 address.
        port: 0 takes a free one.
        ssl: makes it a ``wss`` server.
        subprotocols: the first of these that the client offers is chosen.
        compression: whether to accept permessage-deflate (RFC 7692), without context takeover.
        max_size: bytes of the largest message.
    """
    if compression:
        import zlib  # noqa: F401  # where there is none, say so now

    def script(peer: Peer) -> None:
        _echo(peer, subprotocols, compression)

    return Server(script, host=host, port=port, ssl=ssl, timeout=None, max_size=max_size, grace=0)


def replay(
    path: str, *, host: str = "127.0.0.1", port: int = 0, ssl: SSLContext | None = None
) -> Server:
    """Start a server that serves a session recorded with ``python -m wsmini --record`` again.

    Each connection gets the messages that were received then, in their order among those that were
    sent, which the client has to send again: ``AssertionError`` where the ``with`` block ends, if
    it sends something else. Times, and what came through extensions, aren't repeated.

    Raises:
        ValueError, OSError: if there is no recorded session in the file *path*.
    """
    return scripted_server(replay_script(path), host=host, port=port, ssl=ssl, strict=True)


# -- the echo server --


def _echo(peer: Peer, subprotocols: Sequence[str], compression: bool) -> None:
    try:
        request = peer.request()
        problem = _handshake_problem(request)
    except ProtocolError as exc:
        problem = str(exc)
    if problem:
        _refuse(peer, problem)
        return
    offered = _tokens(request, "Sec-WebSocket-Protocol")
    subprotocol = next((name for name in subprotocols if name in offered), None)
    extensions = None
    if compression:
        extensions, peer._deflate = _accept_deflate(_value(request, "Sec-WebSocket-Extensions"))
    peer.accept(subprotocol=subprotocol, extensions=extensions)
    _echo_messages(peer)


def _refuse(peer: Peer, problem: str) -> None:
    body = problem.encode()
    fields = {"Content-Length": str(len(body)), "Connection": "close"}
    status, reason = 400, "Bad Request"
    if problem.startswith(_VERSION):
        # RFC 6455, 4.2.2: with the versions that are understood.
        status, reason = 426, "Upgrade Required"
        fields[_VERSION] = "13"
    peer.send_raw(_response(status, reason, fields, ()) + body)


def _echo_messages(peer: Peer) -> None:
    try:
        while True:
            peer.send_message(peer.recv_message())
    except ProtocolError as exc:
        code, problem = 1002, str(exc)
    except PayloadTooBig as exc:
        code, problem = 1009, str(exc)
    except ValueError as exc:
        code, problem = 1007, str(exc)
    reason = problem.encode("ascii", "replace")[: MAX_CONTROL - 2]
    peer.send_frame(Opcode.CLOSE, code.to_bytes(2, "big") + reason)


# An offer of permessage-deflate without white space. The server always forgets its context and
# asks for the same; a window of 8 bits is beyond zlib, so such an offer is declined.
_OFFER = re.compile(
    r"permessage-deflate(?:;(?:(?:server|client)_no_context_takeover"
    r'|client_max_window_bits(?:="?(?:[89]|1[0-5])"?)?'
    r'|server_max_window_bits="?(9|1[0-5])"?))*'
)


def _accept_deflate(offers: str) -> tuple[str | None, _Deflate | None]:
    """The answer to the first offer that can be met, and what does it (RFC 7692, 5.1)."""
    for offer in re.sub(r"[ \t]", "", offers).split(","):
        match = _OFFER.fullmatch(offer)
        if match:
            answer = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
            bits = match.group(1)
            if bits:
                answer += f"; server_max_window_bits={bits}"
            return answer, _Deflate(int(bits or 15))
    return None, None


class _Deflate:
    """permessage-deflate without context takeover: each message for itself (RFC 7692, 7.2)."""

    def __init__(self, window_bits: int) -> None:
        self._window_bits = window_bits

    def deflate(self, data: bytes) -> bytes:
        import zlib

        compressor = zlib.compressobj(wbits=-self._window_bits)
        return (compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]

    def inflate(self, data: bytearray, max_size: int) -> bytes:
        import zlib

        try:
            inflated = zlib.decompressobj(wbits=-15).decompress(
                data + b"\x00\x00\xff\xff", max_size + 1
            )
        except zlib.error as exc:
            raise ValueError(f"can't inflate the message: {exc}") from exc
        if len(inflated) > max_size:
            raise PayloadTooBig(len(inflated), max_size)
        return inflated


# -- HTTP, the server's side --


def _parse_request(head: bytes) -> Request:
    try:
        text = head.decode()
    except UnicodeDecodeError:
        text = head.decode("latin-1")
    line, *lines = text.split("\r\n")
    words = line.split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        raise ProtocolError(f"expected an HTTP/1.1 request line, got {shown(line)}")
    headers = Headers()
    for line in lines:
        name, colon, value = line.partition(":")
        try:
            headers.add(name if colon else line, value.strip(" \t"))
        except ValueError as exc:
            raise ProtocolError(f"not an HTTP header: {shown(line)}") from exc
    return Request(words[0], words[1], headers)


def _response(
    status: int, reason: str, defaults: Mapping[str, str | None], headers: HeadersLike
) -> bytes:
    """The head of a response: the *defaults* that *headers* does not name, then *headers*."""
    pairs = headers if isinstance(headers, Sequence) else headers.items()
    own = list(pairs)
    named = {name.lower() for name, _ in own}
    fields = [field for field in defaults.items() if field[0].lower() not in named] + own
    lines = [f"HTTP/1.1 {status} {reason}"]
    lines += [f"{name}: {value}" for name, value in fields if value is not None]
    return "\r\n".join([*lines, "", ""]).encode()


def _value(request: Request, name: str) -> str:
    return ", ".join(request.headers.get_all(name))


def _tokens(request: Request, name: str) -> list[str]:
    return [token.strip() for token in _value(request, name).split(",")]


def _handshake_problem(request: Request) -> str:
    """What is wrong with an opening handshake (RFC 6455, 4.2.1), or an empty string."""
    import binascii

    if request.method != "GET":
        return f"the method is {shown(request.method)}, not GET"
    if "Host" not in request.headers:
        return "there is no Host header"
    for name, expected in (("Upgrade", "websocket"), ("Connection", "upgrade")):
        if expected not in [token.lower() for token in _tokens(request, name)]:
            return f"{name} is {shown(_value(request, name))}, not {expected}"
    if _value(request, _VERSION) != "13":
        return f"{_VERSION} is {shown(_value(request, _VERSION))}, not 13"
    key = _value(request, "Sec-WebSocket-Key")
    try:
        size = len(binascii.a2b_base64(key))
    except ValueError:
        size = -1
    return "" if size == 16 else f"Sec-WebSocket-Key is {shown(key)}, not 16 bytes in base64"
