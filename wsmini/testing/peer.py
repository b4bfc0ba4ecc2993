"""The client of one connection, as a test server sees it: ``Peer``, and the frames to send it.

Blocking calls, for one thread: that of the connection. Only ``_interrupt`` is for others.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Sequence

from ..exceptions import Close, PayloadTooBig, ProtocolError, connection_closed
from ..sansio.frames import FIN, RSV1, RSV2, RSV3, Frame, Opcode, header, mask, parse_close
from ..sansio.frames import masked as masked_frame
from ..sansio.handshake import accept_key, tokens
from ..sansio.http11 import Headers, Request
from ..sansio.messages import MessageReader
from ..sansio.redaction import shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ssl import SSLContext
    from typing import Callable, Mapping

    from ..sansio.deflate import PerMessageDeflate

    Pairs = Sequence[tuple[str, str | None]]
    HeadersLike = Headers | Mapping[str, str] | Mapping[str, str | None] | Pairs


MAX_HEAD = 65536  # bytes of a request head
LINGER = 2.0  # seconds for a client to close its end after the server did
VERSION_HEADER = "Sec-WebSocket-Version"
_READ_SIZE = 65536  # bytes asked of the socket, at least


def frame(
    opcode: int,
    data: str | bytes = b"",
    fin: bool = True,
    rsv1: bool = False,
    rsv2: bool = False,
    rsv3: bool = False,
    masked: bool = False,
) -> bytes:
    """A frame as it goes over the wire (RFC 6455, 5.2).

    Nothing is checked, so that wrong frames can be made as well.

    Args:
        opcode: an ``Opcode``, or another number below 16.
        data: the payload, before it is masked; ``str`` as UTF-8.
        fin: whether the message ends here.
        rsv1, rsv2, rsv3: the reserved bits.
        masked: as clients have to, and servers must not.
    """
    payload = data.encode() if isinstance(data, str) else data
    head = Frame(opcode, payload, fin, rsv1, rsv2, rsv3).head
    if masked:
        return bytes(masked_frame(head, payload))
    return header(head, len(payload), 0) + payload


class _NoControls:
    """Ignores the control frames of a ``MessageReader``, which has checked them."""

    def receive_control(self, opcode: int, data: bytes) -> None:
        pass


class Peer:
    """The client of one connection, as its script sees it. Every method may block.

    Methods that wait raise ``EOFError`` or ``ConnectionError`` when the client is gone,
    ``TimeoutError`` when it does nothing for the server's ``timeout``, and ``ProtocolError`` when
    it does what no client may do.

    Attributes:
        sock: the socket, for whatever the methods don't offer: ``peer.sock.close()`` drops the
            connection.
        number: which of the server's connections this is, from 1 on.
    """

    def __init__(
        self,
        sock: socket.socket,
        requests: list[Request],
        timeout: float | None,
        max_size: int,
        number: int = 1,
    ) -> None:
        self.sock, self.number = sock, number
        self._requests, self._timeout, self._max_size = requests, timeout, max_size
        self._buffer = bytearray()
        self._request: Request | None = None  # read and not yet answered
        self._deflate: PerMessageDeflate | None = None
        self._secure = False
        self._output: Callable[[bytes], None] = self._write  # faults put themselves in between
        self._sent = 0  # bytes, since the connection or a fault began
        self._server_closing = threading.Event()  # set when the server closes

    # -- the handshake --

    def request(self) -> Request:
        """Read the head of the next request: its ``method``, ``target`` and ``headers``."""
        self._request = request = parse_request(self._read_head())
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
        problem = handshake_problem(request)
        if problem:
            raise ProtocolError(f"this is no opening handshake: {problem}")
        fields: dict[str, str | None] = {
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Accept": accept_key(request.headers["Sec-WebSocket-Key"]),
            "Sec-WebSocket-Protocol": subprotocol,
            "Sec-WebSocket-Extensions": extensions,
        }
        self.send_raw(response_head(101, "Switching Protocols", fields, headers) + then)

    def respond(
        self, status: int, reason: str = "", headers: HeadersLike = (), body: bytes = b""
    ) -> None:
        """Answer with any HTTP response; read the request first unless that was done.

        Args:
            status: a number, such as 200.
            reason: what follows the status.
            headers: ``Content-Length`` is added where it may be; as ``None`` it is left out.
            body: what follows the headers.
        """
        request = self._take_request()
        # RFC 9110, 8.6: never with 1xx, 204 and what opens a tunnel.
        tunnel = request.method == "CONNECT" and 200 <= status < 300
        length = None if status < 200 or status == 204 or tunnel else str(len(body))
        self.send_raw(response_head(status, reason, {"Content-Length": length}, headers) + body)

    # -- frames --

    def send_frame(
        self, opcode: int, data: str | bytes = b"", fin: bool = True, **bits: bool
    ) -> None:
        """Send one frame, right or wrong.

        Args:
            opcode, data, fin: as for ``frame()``.
            bits: those that ``frame()`` can set: ``rsv1=True``.
        """
        self.send_raw(frame(opcode, data, fin, **bits))

    def send_message(self, message: str | bytes) -> None:
        """Send a text or binary message in one frame."""
        opcode = Opcode.TEXT if isinstance(message, str) else Opcode.BINARY
        data = message.encode() if isinstance(message, str) else message
        if self._deflate is not None:
            data = self._deflate.deflate(data)
        self.send_frame(opcode, data, rsv1=self._deflate is not None)

    def send_raw(self, data: bytes) -> None:
        """Send *data* as it is."""
        self._output(data)

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
            n = MessageReader.extended_length(self._read(2 if n == 126 else 8))
        # Before anything is read or allocated: the client only claims that size.
        if n > self._max_size:
            raise PayloadTooBig(n, self._max_size)
        key = self._read(4)
        flags = [bool(head & bit) for bit in (FIN, RSV1, RSV2, RSV3)]
        return Frame(head & 0x0F, mask(self._read(n), key), *flags)

    def recv_message(self) -> str | bytes:
        """Receive the next message, whole. Pings are answered, and a Close frame is.

        Raises:
            ConnectionClosed: if a Close frame came instead.
            ProtocolError: if the client broke the protocol, or compressed data can't be inflated.
            PayloadTooBig: if the message exceeds the server's ``max_size``.
            ValueError: if a text isn't UTF-8.
        """
        extensions = [] if self._deflate is None else [self._deflate]
        reader = MessageReader(_NoControls(), (self._max_size, self._max_size), extensions)
        while True:
            received = self.recv_frame()
            # Unmasked, it is a frame as clients read them: the rules are those of both sides.
            reader.receive_data(header(received.head, len(received.data), 0) + received.data)
            for message in reader.messages():
                return message
            # Control frames (RFC 6455, 5.5) may come between the fragments of a message.
            self._answer(received)

    def close(self, code: int = 1000, reason: str = "") -> Close:
        """Send a Close frame, with any *code* and *reason*, and return what the client's says.

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

    def _answer(self, received: Frame) -> None:
        if received.opcode == Opcode.PING:
            self.send_frame(Opcode.PONG, received.data)
        elif received.opcode == Opcode.CLOSE:
            close = parse_close(received.data)
            # RFC 6455, 5.5.1: with the code of the client. The reason may be left out.
            self.send_frame(Opcode.CLOSE, received.data[:2])
            raise connection_closed(close, Close(close.code, ""), True)

    # -- the socket --

    def _write(self, data: bytes) -> None:
        try:
            self.sock.sendall(data)
        except OSError as exc:
            raise self._translated(exc) from exc
        self._sent += len(data)

    def _start(self, context: SSLContext | None) -> None:
        try:
            self.sock.settimeout(self._timeout)
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if context is not None:
                self._secure = True
                # In two steps, so that _interrupt() finds the new socket while the handshake waits.
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
            data = self.sock.recv(max(_READ_SIZE, min(missing, 1 << 20)))
        except OSError as exc:
            raise self._translated(exc) from exc
        if not data:
            raise EOFError("the client closed the connection")
        self._buffer += data

    def _read(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._fill(size - len(self._buffer))
        # A bytearray must not change its size while there is a view of it.
        with memoryview(self._buffer) as view:
            data = bytes(view[:size])
        del self._buffer[:size]
        return data

    def _read_head(self) -> bytes:
        start = 0
        while True:
            end = self._buffer.find(b"\r\n\r\n", start)
            # Where there is no end yet, start says how much of the head is here.
            if max(end, start) > MAX_HEAD:
                raise ProtocolError(f"a request head of more than {MAX_HEAD} bytes")
            if end >= 0:
                return self._read(end + 4)[:-4]
            # What was searched needs no second look, but for the beginning of an end.
            start = max(0, len(self._buffer) - 3)
            self._fill(0)

    def _interrupt(self) -> None:
        """Wake the script from whatever it waits for. Called by another thread."""
        self._server_closing.set()
        try:
            # SSLSocket's own method would also take the TLS state from under that thread.
            socket.socket.shutdown(self.sock, socket.SHUT_RDWR)
        except OSError:
            pass  # the connection is gone, or TLS is just taking over the socket

    def _finish(self) -> None:
        """Close the connection, in such a way that the client gets all that was sent.

        Closing a socket with unread data resets the connection, and the client may lose what it
        has not read: so say that nothing more comes, and read on for a while.
        """
        deadline = time.monotonic() + LINGER
        try:
            self.sock.settimeout(LINGER)
            if self._secure:
                # The goodbye of TLS; it waits for that of the client.
                self.sock.unwrap()  # type: ignore[attr-defined]  # an SSLSocket
        except (OSError, ValueError):
            pass  # the client is gone or still sending; ValueError: TLS never started, or is over
        try:
            socket.socket.shutdown(self.sock, socket.SHUT_WR)
            while socket.socket.recv(self.sock, _READ_SIZE) and time.monotonic() < deadline:
                pass
        except OSError:
            pass  # the client is gone, or the script closed the socket
        finally:
            self.sock.close()


# -- HTTP, the server's side --


def parse_request(head: bytes) -> Request:
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
        name, _, value = line.partition(":")
        try:
            headers.add(name, value)
        except ValueError as exc:
            raise ProtocolError(f"not an HTTP header: {shown(line)}") from exc
    return Request(words[0], words[1], headers)


def header_pairs(headers: HeadersLike) -> list[tuple[str, str | None]]:
    """The pairs in *headers*, of whichever kind."""
    return [*(headers if isinstance(headers, Sequence) else headers.items())]


def response_head(
    status: int, reason: str, defaults: Mapping[str, str | None], headers: HeadersLike
) -> bytes:
    """The head of a response: the *defaults* that *headers* does not name, then *headers*."""
    own = header_pairs(headers)
    # A default whose name is among the headers is left out, also where its value there is None.
    named = {name.lower() for name, _ in own}
    fields = [field for field in defaults.items() if field[0].lower() not in named] + own
    lines = [f"HTTP/1.1 {status} {reason}"]
    lines += [f"{name}: {value}" for name, value in fields if value is not None]
    return "\r\n".join([*lines, "", ""]).encode()


def handshake_problem(request: Request) -> str:
    """Name a fault of an opening handshake (RFC 6455, 4.2.1); empty if there is none."""
    import binascii

    if request.method != "GET":
        return f"the method is {shown(request.method)}, not GET"
    headers = request.headers
    if "Host" not in headers:
        return "there is no Host header"
    for name, expected in (("Upgrade", "websocket"), ("Connection", "upgrade")):
        if expected not in tokens(headers.get_all(name)):
            return f"{name} is {shown(headers.get(name, ''))}, not {expected}"
    version = headers.get(VERSION_HEADER, "")
    if version != "13":
        return f"{VERSION_HEADER} is {shown(version)}, not 13"
    key = headers.get("Sec-WebSocket-Key") or ""
    try:
        size = len(binascii.a2b_base64(key))
    except ValueError:
        size = -1
    return "" if size == 16 else f"Sec-WebSocket-Key is {shown(key)}, not 16 bytes in base64"
