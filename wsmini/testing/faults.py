"""Faults: what servers and networks do to clients, for ``fault_server()``.

A fault makes one connection go wrong in one way. It is an object with ``serve(peer, echo)``, where
*echo* is what the server does otherwise; a function of a ``Peer``, a script, will do as well.

Nothing here is random. Faults of the network count the bytes that the server sends, and put
themselves between the ``Peer`` and its socket; so they cut through responses, frames and messages
alike, wherever the count says.
"""

from __future__ import annotations

import re
import socket
import struct
from functools import partial

from ..exceptions import ProtocolError
from ..options import check_count
from .peer import Peer, header_pairs
from .servers import Echo, Server

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ssl import SSLContext
    from typing import Callable, Iterable, NoReturn, Sequence

    from ..sansio.http11 import Request
    from .peer import HeadersLike

    Script = Callable[[Peer], object]

_CLOSE = b"\x88"  # how a Close frame of the server begins


def fault_server(
    *faults: Fault | Script | None,
    then: Fault | Script | None = None,
    messages: Iterable[str | bytes] = (),
    host: str = "127.0.0.1",
    port: int = 0,
    ssl: SSLContext | None = None,
    subprotocols: Sequence[str] = (),
    compression: bool = False,
    max_size: int = 64 * 2**20,
) -> Server:
    """Start a server whose first connections go wrong: one of *faults* for each, in this order.

    ::

        with fault_server(Refuse(503), Cut(after=7), None) as server:
            run_the_program(server.url)

    ``None`` stands for no fault; then the server echoes, as it does for all connections behind the
    last of *faults*.

    Args:
        faults: objects like ``Cut(after=100)``, functions of a ``Peer``, or ``None``.
        then: the fault of all connections behind those.
        messages: what is sent to each client that was accepted, before the echo begins.
        host, port, ssl, subprotocols, compression, max_size: as for ``echo_server``.

    Raises:
        TypeError: if something else is among *faults*.
    """
    for fault in (*faults, then):
        if isinstance(fault, type) or not (
            fault is None or isinstance(fault, Fault) or callable(fault)
        ):
            raise TypeError(f"a fault is an object like Cut(), a function or None, not {fault!r}")
    echo = Echo(subprotocols, compression, messages)

    def script(peer: Peer) -> None:
        fault = faults[peer.number - 1] if peer.number <= len(faults) else then
        if isinstance(fault, Fault):
            fault.serve(peer, echo)
        else:
            (fault or echo)(peer)

    return Server(script, host=host, port=port, ssl=ssl, timeout=None, max_size=max_size, grace=0)


class Fault:
    """Base of the faults. They don't change, and may be used again and in any number of servers."""

    def serve(self, peer: Peer, echo: Echo) -> None:
        """Serve the client *peer*; *echo* is the script of the server without this fault."""
        raise NotImplementedError

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({settings})"


def _hold(peer: Peer) -> NoReturn:
    """Neither read nor write nor close, until the server closes."""
    peer._server_closing.wait()
    raise ConnectionAbortedError("the server closes")


# -- of the network --


class _NetworkFault(Fault):
    """A fault of the bytes that the server sends, behind the handshake or from it on."""

    handshake = False  # whether to the bytes of the handshake, too

    def serve(self, peer: Peer, echo: Echo) -> None:
        if not self.handshake and not echo.accept(peer):
            return
        peer._sent, peer._output = 0, partial(self.write, peer)
        # For after=0, which is before anything is sent.
        self.write(peer, b"")
        if self.handshake:
            echo(peer)
        else:
            echo.talk(peer)

    def write(self, peer: Peer, data: bytes) -> None:
        """Send *data*, or what the fault makes of it."""
        raise NotImplementedError


class _FaultAtByte(_NetworkFault):
    """A fault that happens once the server has sent so many bytes.

    Args:
        after: how many bytes are sent before: of frames, or from the response's first byte on.
        handshake: whether to count from the response on. With 0, the client isn't answered at all.
    """

    def __init__(self, after: int = 0, handshake: bool = False) -> None:
        self.after, self.handshake = check_count("after", after, 0), handshake

    def write(self, peer: Peer, data: bytes) -> None:
        # The write that reaches the limit is cut there, wherever in a frame that is.
        peer._write(data[: self.after - peer._sent])
        if peer._sent == self.after:
            self.happen(peer)

    def happen(self, peer: Peer) -> NoReturn:
        """Do it."""
        raise NotImplementedError


class Cut(_FaultAtByte):
    """End the connection (FIN) without a Close frame; with TLS, without its goodbye either.

    ``Cut()`` does so behind the handshake, ``Cut(handshake=True)`` instead of an answer.

    Args:
        after: how many bytes are sent before: of frames, or from the response's first byte on.
        handshake: whether to count from the response on.
    """

    def happen(self, peer: Peer) -> NoReturn:
        # SSLSocket's own method would say goodbye.
        socket.socket.shutdown(peer.sock, socket.SHUT_WR)
        raise ConnectionAbortedError("cut")


class Reset(_FaultAtByte):
    """Reset the connection (RST). What was sent just before may not reach the program.

    Args:
        after, handshake: as for ``Cut``.
    """

    def happen(self, peer: Peer) -> NoReturn:
        # With a linger time of 0, close() sends RST.
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.sock.close()
        raise ConnectionAbortedError("reset")


class Stall(_FaultAtByte):
    """Fall silent: don't send, don't read, don't close, until the server closes.

    ``Stall()`` is a server, or a network, that dies behind the handshake; ``Stall(handshake=True)``
    is one that only accepts the TCP connection.

    Args:
        after, handshake: as for ``Cut``.
    """

    def happen(self, peer: Peer) -> NoReturn:
        _hold(peer)


class Drip(_NetworkFault):
    """Send *size* bytes every *delay* seconds, of frames, or of the response too (*handshake*)."""

    def __init__(self, size: int = 1, delay: float = 0.01, handshake: bool = False) -> None:
        if size < 1 or delay < 0:
            raise ValueError(f"size is from 1 on and delay from 0 on, not {size} and {delay}")
        self.size, self.delay, self.handshake = size, delay, handshake

    def write(self, peer: Peer, data: bytes) -> None:
        for start in range(0, len(data), self.size):
            # A sleep that the end of the server interrupts.
            if peer._server_closing.wait(self.delay):
                _hold(peer)
            peer._write(data[start : start + self.size])


# -- of the handshake --


class Refuse(Fault):
    """Answer with an HTTP response other than 101.

    Args:
        status: of the response.
        retry_after: the value of ``Retry-After``: seconds, or a date as ``str``.
        headers: others to send.
        body: of the response.
        reason: what follows the status.
    """

    def __init__(
        self,
        status: int = 503,
        *,
        retry_after: float | str | None = None,
        headers: HeadersLike = (),
        body: bytes = b"",
        reason: str = "",
    ) -> None:
        self.status, self.body, self.reason = status, body, reason
        self.headers = [("Connection", "close"), *header_pairs(headers)]
        if retry_after is not None:
            self.headers.append(("Retry-After", str(retry_after)))

    def serve(self, peer: Peer, echo: Echo) -> None:
        peer.respond(self.status, self.reason, self.headers, self.body)


class Redirect(Fault):
    """Redirect to *location*, with *status*; without one, to where the request came for: a loop."""

    def __init__(self, location: str | None = None, status: int = 302) -> None:
        self.location, self.status = location, status

    def serve(self, peer: Peer, echo: Echo) -> None:
        location = peer.request().target if self.location is None else self.location
        peer.respond(self.status, headers=[("Location", location), ("Connection", "close")])


class Challenge(Fault):
    """Ask for a user and a password, and echo for clients that know them.

    A client that answers a challenge mostly opens another connection for it, so this belongs to
    all of them: ``fault_server(then=Challenge("user", "secret"))``.

    Args:
        user, password: the right ones.
        scheme: ``"basic"`` or ``"digest"`` (MD5).
        proxy: whether to be an HTTP proxy that says 407 to ``CONNECT``; behind it is the server
            itself, whatever it was asked for.
    """

    _NONCE = "0123456789abcdef"

    def __init__(
        self, user: str, password: str, scheme: str = "basic", proxy: bool = False
    ) -> None:
        if scheme not in ("basic", "digest"):
            raise ValueError(f'scheme is "basic" or "digest", not {scheme!r}')
        self.user, self.password, self.scheme, self.proxy = user, password, scheme, proxy

    def serve(self, peer: Peer, echo: Echo) -> None:
        request = peer.request()
        if self._is_known(request):
            if self.proxy:
                peer.respond(200)
            echo(peer)
            return
        value = 'Basic realm="test"'
        if self.scheme == "digest":
            value = f'Digest realm="test", qop="auth", nonce="{self._NONCE}"'
        name = "Proxy-Authenticate" if self.proxy else "WWW-Authenticate"
        status = 407 if self.proxy else 401
        peer.respond(status, headers=[(name, value), ("Connection", "close")])

    def _is_known(self, request: Request) -> bool:
        name = "Proxy-Authorization" if self.proxy else "Authorization"
        scheme, _, rest = ", ".join(request.headers.get_all(name)).partition(" ")
        if scheme.lower() != self.scheme:
            return False
        if self.scheme == "basic":
            import binascii

            pair = f"{self.user}:{self.password}".encode()
            return rest == binascii.b2a_base64(pair, newline=False).decode()
        found = dict(re.findall(r'(\w+)="?([^",]*)', rest))
        a1 = _md5(f"{self.user}:test:{self.password}")
        a2 = _md5(f"{request.method}:{request.target}")
        once = ":".join(found.get(name, "") for name in ("nonce", "nc", "cnonce", "qop"))
        # RFC 7616, 3.4.1
        return found.get("nonce") == self._NONCE and found.get("response") == _md5(
            f"{a1}:{once}:{a2}"
        )


def _md5(text: str) -> str:
    import hashlib  # not on all small systems, which may still run the other servers

    return hashlib.md5(text.encode()).hexdigest()


class Garbage(Fault):
    """Send *data* where a response should be, and end the connection."""

    def __init__(self, data: bytes = b"SSH-2.0-OpenSSH_9.6\r\n") -> None:
        self.data = data

    def serve(self, peer: Peer, echo: Echo) -> None:
        peer.request()
        peer.send_raw(self.data)


class EndlessHeader(Fault):
    """Send a response with headers, and more headers, until the client has had enough."""

    def serve(self, peer: Peer, echo: Echo) -> None:
        peer.request()
        peer.send_raw(b"HTTP/1.1 101 Switching Protocols\r\n")
        while True:
            peer.send_raw(b"X-More: and more\r\n" * 1000)


class WrongAccept(Fault):
    """Accept with a ``Sec-WebSocket-Accept`` that doesn't belong to the client's key."""

    def serve(self, peer: Peer, echo: Echo) -> None:
        peer.accept(headers={"Sec-WebSocket-Accept": "AAAAAAAAAAAAAAAAAAAAAAAAAAA="})


# -- of the protocol --


class Send(Fault):
    """Send *data* as it is behind the handshake; then echo.

    ``Send(frame(Opcode.TEXT, "hi", masked=True))`` is a frame as no server may send it;
    ``Send(b"\\x82\\x7f" + (2**62).to_bytes(8, "big"))`` is the head of one that is too large.
    """

    def __init__(self, data: bytes) -> None:
        self.data = data

    def serve(self, peer: Peer, echo: Echo) -> None:
        if echo.accept(peer):
            peer.send_raw(self.data)
            echo.talk(peer)


class Bomb(Fault):
    """Send a compressed message, a thousandth of the *size* in bytes that it inflates to.

    The client has to offer permessage-deflate; otherwise, that is an error of the test.
    """

    def __init__(self, size: int = 64 * 2**20) -> None:
        self.size = size

    def serve(self, peer: Peer, echo: Echo) -> None:
        if not echo.accept(peer, compression=True):
            return
        if peer._deflate is None:
            raise ProtocolError("there can't be a Bomb: the client doesn't offer compression")
        # Zeros are what deflate shrinks most.
        peer.send_message(bytes(self.size))
        echo.talk(peer)


class CloseWith(Fault):
    """Close with *code* and *reason*, after *messages* of the server, if any."""

    def __init__(self, code: int = 1000, reason: str = "") -> None:
        self.code, self.reason = code, reason

    def serve(self, peer: Peer, echo: Echo) -> None:
        if echo.accept(peer):
            echo.send_messages(peer)
            peer.close(self.code, self.reason)


class IgnoreClose(_NetworkFault):
    """Echo, but don't answer the client's Close frame, nor end the connection."""

    def write(self, peer: Peer, data: bytes) -> None:
        # Peer writes frame by frame, so a Close frame begins a write.
        if data.startswith(_CLOSE):
            _hold(peer)
        peer._write(data)
