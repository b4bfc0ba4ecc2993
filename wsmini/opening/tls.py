"""TLS over any stream of bytes, without blocking.

The TLS engine works on memory (``ssl.MemoryBIO``), the sockets stay ours: one read from the socket
brings many records, where ``ssl.SSLSocket`` makes two system calls for each; TLS can run inside
TLS; and nothing of OpenSSL ever waits for the network.

Threads: one may call ``recv`` while another calls ``send``. OpenSSL doesn't allow that on one
connection, so a lock is held around each call into the engine; never while waiting for the
network. A signal handler may interrupt its own thread in there and close the connection, so the
lock lets the same thread in again: between two calls, the engine is in order. ``send`` and
``flush`` are called by one thread at a time, which holds the connection's send lock: ciphertext
has to go out in the order in which it was made. What ``recv`` makes the engine want to say (a key
update, say) waits, with ``unsent`` set, for the next ``flush``. An exception that a signal handler
raises while bytes are on their way through ``recv`` is found by the next call (``busy``), which
fails: a connection never goes on with something missing.
"""

from __future__ import annotations

import ssl
import sys
import threading
from errno import EAGAIN
from io import BytesIO
from itertools import repeat

from .sockets import DONTWAIT, READ, WAITALL, WRITE, Wait

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Dict, Hashable, List, Optional, Tuple

    from ..sansio.frames import Data
    from .sockets import Steps, Stream

RECORD = 16384  # bytes of plaintext in a TLS record, at most (RFC 8446, 5.1)
SHORT = 1024  # bytes; of records up to so many, the next ones are taken to be short, too
READ_SIZE = 131000  # asked of the lower stream; with more, short messages take longer
MAX_SEND = 1 << 21  # bytes encrypted at once: a message must not cost its size in memory again

# Of a long message, decrypted at once: bytes, and in proportion to the bytes that are here.
MAX_GATHERED, GATHERED = 1 << 21, 16

# Whether the engine decrypts to where it is told to: PyPy's takes no part of a buffer.
GATHERS = sys.implementation.name == "cpython"

MAX_SESSIONS = 64  # remembered for each context
MAX_CONTEXTS = 4  # that sessions are remembered of: a session keeps its context alive

_default_context: Optional[ssl.SSLContext] = None

# By context, the last session with each server: a handshake that resumes it is cheaper. OpenSSL
# takes one only in the context that it belongs to, and what was verified then holds for it.
_sessions: Dict[ssl.SSLContext, Dict[Hashable, ssl.SSLSession]] = {}
_sessions_lock = threading.Lock()


def default_context() -> ssl.SSLContext:
    """The context of all connections that don't bring one: verifies chain and host name.

    It is made once in a process, since loading the system's certificates takes tens of
    milliseconds.
    """
    global _default_context
    if _default_context is None:
        _default_context = ssl.create_default_context()
    return _default_context


def unverified_context() -> ssl.SSLContext:
    """A context that trusts anybody: encrypted, but to whom isn't known."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # loads no authorities, which takes long
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _remember(context: ssl.SSLContext, server: Hashable, session: Optional[ssl.SSLSession]) -> None:
    """Remember *session*, and forget those that weren't used for the longest time."""
    # With TLS 1.3 there is a session before it can be resumed.
    if session is None or not session.id:
        return
    with _sessions_lock:
        sessions = _sessions.pop(context, {})
        while len(_sessions) >= MAX_CONTEXTS:
            del _sessions[next(iter(_sessions))]
        _sessions[context] = sessions
        sessions.pop(server, None)
        while len(sessions) >= MAX_SESSIONS:
            del sessions[next(iter(sessions))]
        sessions[server] = session


class TLSStream:
    """TLS as a client over *lower*, which it owns. ``handshake()`` comes first.

    Args:
        context: with what to trust.
        server_hostname: the name for SNI, and for the certificate if the context checks it.
        port: the server's, which tells its sessions from those of others on the host.
    """

    __slots__ = (
        "busy", "_context", "_ended", "_failure", "_incoming", "_landed", "_lock", "_lower",
        "_out", "_outgoing", "_server", "_session", "_tls", "sock", "unsent",
    )  # fmt: skip

    def __init__(
        self, lower: Stream, context: ssl.SSLContext, server_hostname: str, port: int
    ) -> None:
        self._lower, self._context = lower, context
        self.sock: socket.socket = lower.sock
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        # Bytes need no idna codec, which small systems lack.
        name = server_hostname.rstrip(".").encode("ascii")
        # What is verified is part of the key: a context may be changed between two connections.
        settings = (context.verify_mode, context.verify_flags, context.check_hostname)
        self._server = (name, port, settings)
        self._session = _sessions.get(context, {}).get(self._server)
        self._tls = context.wrap_bio(
            self._incoming, self._outgoing, server_hostname=name, session=self._session
        )
        self._lock = threading.RLock()
        self._out = memoryview(b"")  # ciphertext that the lower stream hasn't taken
        # Of recv(), once it has returned what it had: its failure, or the peer's goodbye.
        self._failure: Optional[OSError] = None
        self._ended = False
        self._landed: List[bytes] = []  # ciphertext that was read and isn't in _incoming yet
        self.busy = False  # whether recv() has bytes in local variables
        self.unsent = False

    @property
    def ssl_object(self) -> ssl.SSLObject:
        """The standard library's object, for ``getpeercert()``, ``cipher()`` and the like."""
        return self._tls

    def facts(self) -> Dict[str, object]:
        """What a trace tells of it."""
        cipher = self._tls.cipher()
        return {
            "version": self._tls.version(),
            "cipher": cipher[0] if cipher else None,
            "resumed": self._tls.session_reused,
        }

    def handshake(self) -> Steps[None]:
        """The TLS handshake.

        Raises:
            ssl.SSLError: if it fails; ``ssl.SSLCertVerificationError`` if the certificate does.
            ConnectionResetError: if the server ends the connection meanwhile.
        """
        done = False
        while not done:
            try:
                self._tls.do_handshake()
                done = True
            except ssl.SSLWantReadError:
                pass  # what is thrown into a wait must not have this as its context
            except ssl.SSLError:
                self._flush_quietly()  # the alert that tells the server why
                raise
            yield from self._flush_all()
            if not done:
                yield from self._feed()

    def _flush_all(self) -> Steps[None]:
        while not self.flush():
            yield Wait({self.sock: WRITE}, None)

    def _feed(self) -> Steps[None]:
        while True:
            try:
                data = self._lower.recv(READ_SIZE)
                break
            except BlockingIOError:
                pass  # as above
            yield Wait({self.sock: READ}, None)
        if not data:
            raise ConnectionResetError("the server ended the connection in the TLS handshake")
        self._incoming.write(data)

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Up to *size* bytes out of as many records as are here; ``b""`` at the end.

        With ``WAITALL`` it reads from the lower stream as long as that has something, too.

        Raises:
            BlockingIOError: if there are none, and the lower stream doesn't wait.
        """
        landed = self._landed
        if self.busy or landed:
            raise InterruptedError("a signal handler's exception came in the middle of a record")
        at_first = min(size, RECORD) if flags & WAITALL and GATHERS else size
        while True:
            with self._lock:
                self.busy = True
                try:
                    data = self._decrypted(at_first)
                except OSError:
                    self.busy = False
                    raise
            if data and at_first < size and self._failure is None:
                data = self._gathered(data, size)
            self.busy = False  # behind the lock, so that nothing is called before the return
            if data is not None:
                return data
            # In one step, see "Signals" in wire.
            landed.extend(map(self._lower.recv, (READ_SIZE,), (flags & DONTWAIT,)))
            if not landed[0]:
                landed.clear()
                return b""  # without TLS's goodbye: WebSocket has its own
            with self._lock:
                self.busy = True
                self._incoming.write(landed.pop())
                self.busy = False

    def _decrypted(self, size: int) -> Optional[bytes]:
        """What is here, decrypted; ``None`` if more is needed, ``b""`` at the end."""
        # The connection may have broken behind a record of which only a part was asked for so far.
        if self._failure is not None and not self._tls.pending():
            raise self._failure
        chunks: List[bytes] = []
        try:
            data = self._tls.read(min(size, RECORD))
            size -= len(data)
            if not data or size <= 0 or not (self._incoming.pending or self._tls.pending()):
                return data
            chunks.append(data)
            self._read_on(chunks, size)
        except ssl.SSLWantReadError:
            self.unsent = self.unsent or self._outgoing.pending > 0
            if not chunks:
                return None
        except ssl.SSLZeroReturnError:
            self._ended = True  # which is found again by the next call if there are chunks
        except ssl.SSLError as exc:
            self.unsent = self.unsent or self._outgoing.pending > 0  # the alert
            if not chunks:
                raise
            self._failure = exc
        return b"".join(chunks)

    def _read_on(self, chunks: List[bytes], size: int) -> None:
        """Append what else is here, *size* bytes at most; what is before an exception, too."""
        while size > 0 and chunks[-1]:
            # As many records as surely fit, without a step of Python for each. (What is longer
            # than SHORT comes in parts, until that is seen here.)
            most = SHORT if len(chunks[-1]) < SHORT else RECORD
            here = len(chunks)
            chunks.extend(map(self._tls.read, repeat(min(size, most), size // most or 1)))
            size -= sum(map(len, chunks[here:]))
        self._ended = not chunks[-1]

    def _gathered(self, first: bytes, size: int) -> bytes:
        """*first*, and what else is here: *size* bytes at most. For ``recv``, being ``busy``.

        It is decrypted to where it stays. Two copies of a long message at a time are so much memory
        that it is given back and taken again for each, which takes as long as decrypting it.
        """
        incoming = self._incoming
        more = incoming.pending > RECORD or self._fetched()
        if not more and not incoming.pending:
            return first
        # In proportion to what is here: of a slow server's message, little is here at a time.
        size = min(size, MAX_GATHERED, len(first) + GATHERED * incoming.pending)
        file = BytesIO(bytes(size))  # of all writable buffers, the one that becomes bytes uncopied
        n, more = file.write(first), True
        with file.getbuffer() as whole:
            while more:
                n, more = self._decrypted_into(whole, n)
                more = more and self._fetched()
        file.truncate(n)
        return file.getvalue()

    def _fetched(self) -> bool:
        """Whether there was more ciphertext that didn't have to be waited for."""
        try:
            data = self._lower.recv(READ_SIZE, DONTWAIT)
        except BlockingIOError:
            return False
        except OSError as exc:
            self._failure = exc
            return False
        with self._lock:
            return self._incoming.write(data) > 0

    def _decrypted_into(self, whole: memoryview, n: int) -> Tuple[int, bool]:
        """Decrypt to ``whole[n:]``; up to where, and whether more ciphertext is needed."""
        read, size = self._tls.read, len(whole)
        with self._lock:
            try:
                while n < size:
                    # With a buffer it returns a number, which its stub doesn't know.
                    taken: int = read(min(size - n, RECORD), whole[n : n + RECORD])  # type: ignore
                    n += taken
                    if not taken:
                        self._ended = True
                        break
            except ssl.SSLWantReadError:
                self.unsent = self.unsent or self._outgoing.pending > 0
                return n, True
            except ssl.SSLZeroReturnError:
                self._ended = True
            except ssl.SSLError as exc:
                self.unsent = self.unsent or self._outgoing.pending > 0  # the alert
                self._failure = exc.with_traceback(None)  # which has a part of the buffer
        return n, False

    def buffered(self) -> bool:
        """Whether there may be bytes to receive that the socket doesn't show."""
        with self._lock:
            here = self._incoming.pending or self._tls.pending() or self._ended
        return bool(here) or self._failure is not None or self._lower.buffered()

    def send(self, data: Data, flags: int = 0) -> int:
        """Take *data*, or the start of it; what the lower stream doesn't take waits for ``flush``.

        Raises:
            BlockingIOError: if earlier bytes wait still, or the engine has to read first; then
                nothing was taken.
        """
        if self.unsent and not self.flush(flags):
            raise BlockingIOError(EAGAIN, "earlier bytes aren't sent yet")
        if not data:
            return 0
        with self._lock:
            try:
                taken = self._tls.write(data if len(data) <= MAX_SEND else _start_of(data))
            except ssl.SSLWantReadError:
                self.unsent = True
                raise BlockingIOError(EAGAIN, "TLS has to read before it can write") from None
            out = self._outgoing.read()
        try:
            sent = self._lower.send(out, flags)
        except BlockingIOError:
            sent = 0
        if sent < len(out) or self._lower.unsent:
            self._out = memoryview(out)[sent:]
            self.unsent = True
        return taken

    def flush(self, flags: int = 0) -> bool:
        """Send what was taken; whether all of it is sent."""
        try:
            while self._out or self._take_ciphertext():
                self._out = self._out[self._lower.send(self._out, flags) :]
        except BlockingIOError:
            self.unsent = True
            return False
        if not self._lower.flush(flags):
            self.unsent = True
            return False
        return True

    def passed_on(self, taken: int) -> int:
        """How many of the last *taken* bytes of plaintext the socket has, while ``unsent``.

        What is in a record that went out in part doesn't count: the peer can't decrypt it.
        """
        left, whole = len(self._out), memoryview(self._out.obj).nbytes
        records = -(-taken // RECORD)
        extra = (whole - taken) // records if records else 0  # bytes that each record adds
        return min(taken, (whole - left) // (RECORD + extra) * RECORD) if left else taken

    def _take_ciphertext(self) -> bool:
        """Whether there was more; ``recv`` may say so again from now on."""
        with self._lock:
            self._out = memoryview(self._outgoing.read())
            self.unsent = bool(self._out)
            return self.unsent

    def say_goodbye(self) -> None:
        """Say that nothing more will be sent: TLS's goodbye, as far as it goes out at once."""
        with self._lock:
            try:
                self._tls.unwrap()
            except ssl.SSLError:
                pass  # it wants the peer's goodbye first, or the connection has failed
        if self._flush_quietly():
            self._lower.say_goodbye()

    def _flush_quietly(self) -> bool:
        try:
            return self.flush(DONTWAIT)
        except OSError:
            return False  # the connection is going down anyway

    def close(self) -> None:
        """Close the connection without a goodbye. May be called more than once."""
        self._lower.close()
        with self._lock:
            # Only now: with TLS 1.3 sessions come behind the handshake (RFC 8446, 4.6.1). But one
            # that could be resumed serves again, and to ask for another takes half a millisecond.
            if self._tls.version() is not None:
                session = self._session if self._tls.session_reused else self._tls.session
                _remember(self._context, self._server, session)


def _start_of(data: Data) -> memoryview:
    return memoryview(data)[:MAX_SEND]
