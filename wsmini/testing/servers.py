"""The servers for tests: one daemon thread accepts, and one serves each connection."""

from __future__ import annotations

import re
import selectors
import socket
import threading
import time

from ..exceptions import ConnectionClosed, PayloadTooBig, ProtocolError
from ..sansio.deflate import PerMessageDeflate
from ..sansio.frames import MAX_CONTROL, Opcode
from .peer import VERSION_HEADER, Peer, handshake_problem, response_head

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ssl import SSLContext
    from typing import Callable, Iterable, Sequence

    from ..sansio.http11 import Request

_GRACE = 0.2  # seconds for scripts to end by themselves when the server closes
_STUCK = 10.0  # seconds until a script that has lost its client, and still runs, is reported
_RETRY = 0.05  # seconds until what did not interrupt a script is tried again
_BACKLOG = 128  # connections waiting to be accepted


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
        self._script, self._ssl, self._grace = script, ssl, grace
        self._timeout, self._max_size = timeout, max_size
        self._lost = () if strict else (ConnectionError, EOFError, ConnectionClosed)
        self._peers: dict[Peer, threading.Thread] = {}
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
        # Closed by close(): the thread that accepts sees the end of it at the other side.
        self._waker, self._wake = socket.socketpair()
        self.host, self.port = self._listener.getsockname()[:2]
        bracketed = f"[{self.host}]" if ":" in self.host else self.host
        self.url = f"{'ws' if ssl is None else 'wss'}://{bracketed}:{self.port}"
        self._acceptor = threading.Thread(target=self._accept, name="wsmini-server", daemon=True)
        self._acceptor.start()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, kind: object, exc: BaseException | None, traceback: object) -> None:
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
        self._acceptor.join(_STUCK)
        self._join(self._grace)
        deadline = time.monotonic() + _STUCK
        # A script may be between two calls that wait: it is interrupted again until its thread
        # ends.
        while self._running() and time.monotonic() < deadline:
            for peer in self._peers:
                peer._interrupt()
            self._join(_RETRY)
        if self._running():
            self.errors.append(RuntimeError("a script still runs though its client is gone"))

    def _running(self) -> list[threading.Thread]:
        # A script may close its server, but a thread can't wait for its own end.
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
                    # Clients that had come when close() was called are served: to them it was open.
                    for _ in range(_BACKLOG):
                        self._serve(self._listener.accept()[0])
                except (BlockingIOError, ConnectionError):
                    continue  # there are no more, or one left before it was accepted
                except OSError as exc:
                    self.errors.append(exc)
                    return

    def _serve(self, sock: socket.socket) -> None:
        self.connections += 1
        peer = Peer(sock, self.requests, self._timeout, self._max_size, self.connections)
        name = f"wsmini-server-{self.connections}"
        thread = threading.Thread(target=self._run, args=(peer,), name=name, daemon=True)
        # A server that runs for long forgets the connections that are over.
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
    script = Echo(subprotocols, compression)
    return Server(script, host=host, port=port, ssl=ssl, timeout=None, max_size=max_size, grace=0)


# -- the echo server --


class Echo:
    """The script of an echo server.

    Args:
        subprotocols, compression: as for ``echo_server``.
        messages: to send before the echo begins.
    """

    def __init__(
        self, subprotocols: Sequence[str], compression: bool, messages: Iterable[str | bytes] = ()
    ) -> None:
        if compression:
            import zlib  # noqa: F401  # where there is none, say so now
        self._subprotocols, self._compression = subprotocols, compression
        self._messages = list(messages)

    def __call__(self, peer: Peer) -> None:
        if self.accept(peer):
            self.talk(peer)

    def accept(self, peer: Peer, compression: bool = False) -> bool:
        """Answer the opening handshake; return whether that accepts the client.

        With *compression*, the client may have it although the server wasn't asked to offer it.
        """
        try:
            # Challenge, say, has read it already.
            request = peer._request or peer.request()
            problem = handshake_problem(request)
        except ProtocolError as exc:
            problem = str(exc)
        if problem:
            _refuse(peer, problem)
            return False
        # Not by tokens(), which makes lower case of them: subprotocols have a case.
        names = request.headers.get("Sec-WebSocket-Protocol") or ""
        offered = [name.strip() for name in names.split(",")]
        subprotocol = next((name for name in self._subprotocols if name in offered), None)
        extensions = None
        if compression or self._compression:
            offers = request.headers.get("Sec-WebSocket-Extensions") or ""
            # From here on, Peer compresses what it sends, and inflates.
            extensions, peer._deflate = _accept_deflate(offers)
        peer.accept(subprotocol=subprotocol, extensions=extensions)
        return True

    def talk(self, peer: Peer) -> None:
        """Send the messages, then echo."""
        self.send_messages(peer)
        _echo_messages(peer)

    def send_messages(self, peer: Peer) -> None:
        """Send the messages that come before the echo."""
        for message in self._messages:
            peer.send_message(message)


def _refuse(peer: Peer, problem: str) -> None:
    body = problem.encode()
    fields = {"Content-Length": str(len(body)), "Connection": "close"}
    status, reason = 400, "Bad Request"
    if problem.startswith(VERSION_HEADER):
        # RFC 6455, 4.2.2: with the versions that are understood.
        status, reason = 426, "Upgrade Required"
        fields[VERSION_HEADER] = "13"
    peer.send_raw(response_head(status, reason, fields, ()) + body)


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
    # RFC 6455, 5.5: a control frame has 125 bytes at most, two of them for the code.
    reason = problem.encode("ascii", "replace")[: MAX_CONTROL - 2]
    peer.send_frame(Opcode.CLOSE, code.to_bytes(2, "big") + reason)


# An offer of permessage-deflate without white space. The server always forgets its context and
# asks for the same; a window of 8 bits is beyond zlib, so such an offer is declined.
_OFFER = re.compile(
    r"permessage-deflate(?:;(?:(?:server|client)_no_context_takeover"
    r'|client_max_window_bits(?:="?(?:[89]|1[0-5])"?)?'
    r'|server_max_window_bits="?(9|1[0-5])"?))*'
)


def _accept_deflate(offers: str) -> tuple[str | None, PerMessageDeflate | None]:
    """Take the first offer that can be met (RFC 7692, 5.1): the answer to it, and the codec."""
    for offer in re.sub(r"[ \t]", "", offers).split(","):
        match = _OFFER.fullmatch(offer)
        if match:
            answer = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
            bits = match.group(1)
            if bits:
                answer += f"; server_max_window_bits={bits}"
            # The codec is named from the client's side: what the server sends is the client's.
            deflate = PerMessageDeflate(
                server_no_context_takeover=True,
                client_no_context_takeover=True,
                client_max_window_bits=int(bits or 15),
            )
            return answer, deflate
    return None, None
