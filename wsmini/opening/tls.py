"""TLS over any stream of bytes, without blocking.

The TLS engine works on memory (``ssl.MemoryBIO``), the sockets stay ours: one read from the socket
brings many records, where ``ssl.SSLSocket`` makes two system calls for each; TLS can run inside
TLS; and nothing of OpenSSL ever waits for the network.

Threads: one may call ``recv`` while another calls ``send``. OpenSSL doesn't allow that on one
connection, so a lock is held around each call into the engine; never while waiting for the
network. A signal handler may interrupt its own thread in there and close the connection: it finds
the lock its own and goes on without it, since the engine is in order between two calls.
``send`` and ``flush`` are called by one thread at a time, which holds the connection's ``sending``:
ciphertext has to go out in the order in which it was made. What ``recv`` makes the engine want to
say (a key update, a certificate that is asked for late) waits, with ``unsent`` set, for the next
``flush``. An exception that a signal handler raises while bytes are on their way through ``recv``
is found by the next call (``busy``), which fails: a connection never goes on with something
missing.
"""

from __future__ import annotations

import ssl
import sys
from errno import EAGAIN, ECONNABORTED, ECONNRESET
from io import BytesIO
from itertools import repeat

from ..interrupts import MarkFailures, mark_failure, new_lock, pass_on_handlers
from .exchange import receive_some
from .steps import Wait
from .streams import DONTWAIT, WAITALL, WRITE, Stream
from .tls_context import refuse_sessions, remember_session, server_key, session_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, TypeVar

    from ..sansio.frames import Data
    from .steps import Steps

    T = TypeVar("T")

RECORD = 16384  # bytes of plaintext in a TLS record, at most (RFC 8446, 5.1)
SHORT = 1024  # bytes; of records up to so many, the next ones are taken to be short, too
READ_SIZE = 131000  # asked of the lower stream; with more, short messages take longer
MAX_SEND = 1 << 21  # bytes encrypted at once: a message must not cost its size in memory again
MAX_HANDSHAKE = 1 << 20  # bytes from the server; OpenSSL accepts 100 KB of certificates

# What was read goes to the engine in slices, each long enough to complete a record. A slice that
# brings no data has records that bring none (session tickets, key updates), and such may come
# without end: the caller looks at the time then, and at others. A slice of them takes some 20 ms;
# but of requests for a certificate, each of which is signed for, a much shorter one has to do
# (RFC 8446, 4.6.2).
SLICE = RECORD + 2048
AUTH_SLICE = 512
MAX_OVERHEAD = 16  # bytes of a slice for each byte of data in it: with more, don't go on at once
ANSWERS = 4096  # bytes of the engine's own to send, after which the caller shall do so
MAX_ANSWERS = 1 << 18  # bytes of them that the server lets wait, and wants more

# Of a long message, decrypted at once: bytes, and in proportion to the bytes that are here.
MAX_GATHERED, GATHERED = 1 << 21, 16

# Whether the engine decrypts to where it is told to: PyPy's takes no part of a buffer.
GATHERS = sys.implementation.name == "cpython"


class TLSStream(Stream):
    """TLS as a client over *lower*, which it owns. ``handshake()`` comes first.

    Args:
        context: with what to trust.
        server_hostname: the name for SNI, and for the certificate if the context checks it.
        port: the server's, which tells its sessions from those of others on the host.
        resumption: as ``tls_resumption``.

    Attributes:
        ssl_object: the engine, for ``getpeercert()``, ``cipher()`` and the like, too.
    """

    __slots__ = (
        "_context", "_ended", "_failure", "_fed", "_gathers", "_incoming", "_lock", "_lower",
        "_out", "_outgoing", "_server", "_session", "_slice", "_unfed", "busy", "cut",
        "ssl_object", "unsent",
    )  # fmt: skip

    def __init__(
        self,
        lower: Stream,
        context: ssl.SSLContext,
        server_hostname: str,
        port: int,
        resumption: bool | None = None,
    ) -> None:
        self._lower, self._context = lower, context
        self.sock = lower.sock
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        # Bytes need no idna codec, which small systems lack.
        name = server_hostname.rstrip(".").encode("ascii")
        self._server = server_key(context, name, port, resumption)
        self._session = session_of(context, self._server)
        with MarkFailures():  # it may be a context of the program's own class
            self.ssl_object = context.wrap_bio(
                self._incoming, self._outgoing, server_hostname=name, session=self._session
            )
        self._lock = new_lock()
        self._out = memoryview(b"")  # ciphertext that the lower stream hasn't taken
        # Of recv(), once it has returned what it had: its failure, or the peer's goodbye.
        self._failure: OSError | None = None
        self._ended = False
        self._unfed: list[Data] = []  # ciphertext that was read and isn't in _incoming yet
        self._slice = AUTH_SLICE if getattr(context, "post_handshake_auth", False) else SLICE
        # The flag with which recv() gathers a long message; 0 if it never does.
        self._gathers = WAITALL if GATHERS and self._slice > RECORD else 0
        self._fed = 0  # bytes that the engine got from this recv()
        self.busy = self.cut = False
        self.unsent = False

    def details(self) -> dict[str, object]:
        """The version, the cipher and whether a session was resumed, for ``trace=``."""
        cipher = self.ssl_object.cipher()
        return {
            "version": self.ssl_object.version(),
            "cipher": cipher[0] if cipher else None,
            "resumed": self.ssl_object.session_reused,
        }

    def _locked(self, call: Callable[..., T], args: tuple[Any, ...] = (), wait: bool = True) -> T:
        """Return what ``call(*args)`` does, while no other thread calls the engine.

        Unless it shall *wait*, it calls nothing if one does.
        """
        lock = self._lock
        if lock._is_owned():  # we have interrupted such a call of this thread, between two steps
            return call(*args)
        try:
            result = None
            if lock.acquire(wait):
                result = call(*args)
                lock.release()
        except BaseException:
            if lock._is_owned():  # the exception may have come just before, or after
                lock.release()
            raise
        return result  # type: ignore[return-value]

    # -- the handshake --

    def handshake(self) -> Steps[None]:
        """The TLS handshake.

        Raises:
            ssl.SSLError: if it fails; ``ssl.SSLCertVerificationError`` if the certificate does. Its
                ``first_bytes`` are those that the server sent.
            ConnectionError: if the server ends the connection meanwhile, or never comes to an end.
        """
        done, received, first_bytes = False, 0, b""
        while not done:
            try:
                self.ssl_object.do_handshake()
                done = True
            except ssl.SSLWantReadError:
                pass  # what is thrown into a wait must not have this as its context
            except ssl.SSLError as exc:
                mark_failure(exc).first_bytes = first_bytes  # type: ignore[attr-defined]
                self._flush_quietly()  # the alert that tells the server why
                raise
            while not self.flush():
                yield Wait({self.sock: WRITE}, None)
            if not done:
                # Behind the handshake's messages, others may come.
                data = yield from receive_some(self._lower, self._slice)
                if not data:
                    text = "the server ended the connection in the TLS handshake"
                    raise ConnectionResetError(ECONNRESET, text)
                first_bytes = first_bytes or data[:1024]
                received += len(data)
                if received > MAX_HANDSHAKE:
                    raise ConnectionAbortedError(ECONNABORTED, "the TLS handshake has no end")
                self._incoming.write(data)

    def refuse_resumption(self) -> bool:
        """Resume no session with this server again, if this connection was to: it has failed.

        Some servers fail each time (OpenSSL's that want a certificate and have no session id
        context, say).

        Returns:
            Whether the connection was to resume a session, so that another one may do better.
        """
        if self._session is not None:
            refuse_sessions(self._context, self._server)
        return self._session is not None

    # -- receiving --

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Up to *size* bytes out of as many records as are here; ``b""`` at the end.

        With ``WAITALL`` it reads from the lower stream as long as that has something, too.

        Raises:
            BlockingIOError: if there are none, and the lower stream doesn't wait; or if records
                came that brought none, so that the caller can look at the time. If there is more
                to look at, it is ``unread``.
        """
        received: list[bytes] = []
        self.recv_onto(received, size, flags)
        return received[0]

    def recv_onto(self, received: list[bytes], size: int, flags: int = 0) -> None:
        """Append what ``recv`` returns to *received*.

        CPython 3.8 and 3.9 look for signals in front of a ``return``, too: what it would return is
        lost then.
        """
        unfed, self._fed = self._unfed, 0
        if self.busy:
            text = "a signal handler's exception came in the middle of a record"
            raise ConnectionAbortedError(ECONNABORTED, text)
        # To gather a message, one record at first: _gather decrypts the others to where they stay.
        at_first = min(size, RECORD) if flags & self._gathers else size
        while True:
            try:
                data = self._locked(self._decrypt, (at_first,))
            except OSError as exc:
                self.busy = exc.errno is None  # a signal handler's; nothing is lost else
                raise
            if data and at_first < size and self._failure is None:
                data = self._gather(data, size)
            if data is not None:
                received += (data,)  # which isn't a call, either
            self.busy = False  # behind the lock, so that nothing is called before the return
            if data is not None:
                return
            # Answers have to be sent before the lower stream waits; else a few may gather.
            if self._fed >= SLICE or self._outgoing.pending > (flags & DONTWAIT and ANSWERS):
                raise BlockingIOError(EAGAIN, "the records that came brought no data")
            if unfed:
                continue
            # In one step, so that an exception of a signal handler can't lose what was read.
            unfed.extend(map(self._lower.recv, (READ_SIZE,), (flags & DONTWAIT,)))
            if not unfed[0]:
                unfed.clear()
                self.cut = True
                received.append(b"")  # without TLS's goodbye: WebSocket has its own
                return

    @property
    def unread(self) -> bool:
        """Whether ``recv`` has more to look at, and shan't wait for the socket."""
        return bool(self._unfed) or self._lower.unread

    def _feed(self) -> int:
        """Pass a slice of what was read to the engine; how many bytes."""
        data: Data = self._unfed.pop()
        if len(data) > self._slice:
            view = memoryview(data)
            self._unfed.append(view[self._slice :])
            data = view[: self._slice]
        self._fed += len(data)
        return self._incoming.write(data)

    def _decrypt(self, size: int) -> bytes | None:
        """Decrypt what has come; ``None`` if more is needed, ``b""`` at the end."""
        # recv_onto() resets it, once it has passed on what comes out of here.
        self.busy = True
        if self._unfed:
            self._feed()
        # The connection may have failed behind a record of which only a part was asked for so far.
        if self._failure is not None and not self.ssl_object.pending():
            raise self._failure
        try:
            data: bytes | None = self.ssl_object.read(min(size, RECORD))
        except ssl.SSLError as exc:
            self._stop(exc)
            if self._failure is not None:
                raise self._failure from None
            data = b"" if self._ended else None
        if not data or size <= len(data):
            return data
        if self._incoming.pending or self._unfed or self.ssl_object.pending():
            chunks = [data]
            self._decrypt_more(chunks, size)
            data = b"".join(chunks)
        return data

    def _decrypt_more(self, chunks: list[bytes], size: int) -> None:
        """Append what else is here, up to *size* bytes in all; what ends it, the next call tells.

        It goes on with what was read, slice by slice, while that is data for the most part.
        """
        read, here = self.ssl_object.read, 0  # where in chunks the data of this slice begins
        while True:
            left = size - sum(map(len, chunks[here:]))
            try:
                while left > 0 and chunks[-1]:
                    # As many records as surely fit, without a step of Python for each. (What is
                    # longer than SHORT comes in parts, until that is seen here.)
                    most = SHORT if len(chunks[-1]) < SHORT else RECORD
                    known, count = len(chunks), left // most or 1
                    chunks.extend(map(read, repeat(min(left, most), count)))
                    if len(chunks) < known + count:
                        raise StopIteration  # a signal handler's, which has passed for map's
                    left -= sum(map(len, chunks[known:]))
                self._ended = not chunks[-1]
            except ssl.SSLError as exc:
                self._stop(exc)
            if not self._unfed or self._ended or self._failure is not None:
                return
            brought = sum(map(len, chunks[here:]))
            size -= brought
            if size <= 0 or brought * MAX_OVERHEAD < SLICE:
                return
            here = len(chunks)
            self._feed()

    def _stop(self, exc: ssl.SSLError) -> None:
        """Note why the engine has no more plaintext, as *exc* says."""
        self.unsent = self.unsent or self._outgoing.pending > 0  # an answer, or an alert
        if isinstance(exc, ssl.SSLZeroReturnError):
            self._ended = True
        elif not isinstance(exc, ssl.SSLWantReadError):
            self._failure = exc
        elif self._outgoing.pending > MAX_ANSWERS:
            text = "the server wants more answers of TLS than it takes"
            self._failure = ConnectionAbortedError(ECONNABORTED, text)

    def _gather(self, first: bytes, size: int) -> bytes:
        """*first*, and what else is here: *size* bytes at most. For ``recv``, being ``busy``.

        It is decrypted to where it stays. Two copies of a long message at a time are so much memory
        that it is given back and taken again for each, which takes as long as decrypting it.
        """
        incoming = self._incoming
        count = self._fetch() if incoming.pending <= RECORD else 0
        if not count and not incoming.pending:
            return first
        # In proportion to what is here: of a slow server's message, little is here at a time.
        here = incoming.pending + sum(map(len, self._unfed))
        size = min(size, MAX_GATHERED, len(first) + GATHERED * here)
        file = BytesIO(bytes(size))  # of all writable buffers, the one that becomes bytes uncopied
        start = file.write(first)
        with file.getbuffer() as whole:
            end = self._locked(self._decrypt_into, (whole, start))
            # As long as there is more, and it is data for the most part.
            fed = 0 if (end - start) * MAX_OVERHEAD >= count else count
            while end < size and fed < SLICE and not self._ended and self._failure is None:
                count = self._fetch()
                if not count:
                    break
                start, end = end, self._locked(self._decrypt_into, (whole, end))
                fed = 0 if (end - start) * MAX_OVERHEAD >= count else fed + count
        file.truncate(end)
        return file.getvalue()

    def _decrypt_into(self, whole: memoryview, end: int) -> int:
        """Decrypt what is here to ``whole[end:]``; up to where."""
        read, size = self.ssl_object.read, len(whole)
        try:
            while end < size:
                # With a buffer it returns a number, which its stub doesn't know.
                taken: int = read(min(size - end, RECORD), whole[end : end + RECORD])  # type: ignore
                end += taken
                if not taken:
                    self._ended = True
                    break
        except ssl.SSLError as exc:
            self._stop(exc.with_traceback(None))  # which has a part of the buffer
        return end

    def _fetch(self) -> int:
        """Pass on a slice of what the lower stream has without waiting; how many bytes."""
        if not self._unfed:
            try:
                data = self._lower.recv(READ_SIZE, DONTWAIT)
            except OSError as exc:
                pass_on_handlers(exc)
                if not isinstance(exc, BlockingIOError):
                    self._failure = exc
                return 0
            if not data:
                return 0
            self._unfed.append(data)
        return self._locked(self._feed)

    def buffered(self) -> bool:
        """Whether there may be bytes to receive that the socket doesn't show."""
        here = self._unfed or self._incoming.pending or self._ended
        here = here or self._locked(self.ssl_object.pending)
        return bool(here) or self._failure is not None or self._lower.buffered()

    # -- sending --

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
        taken, out = self._locked(self._encrypt, (data,))
        # From here on it is taken: the engine has counted the records, and can't take them back.
        try:
            sent = self._lower.send(out, flags)
        except BlockingIOError as exc:
            pass_on_handlers(exc)
            sent = 0
        if sent < len(out) or self._lower.unsent:
            self._out = memoryview(out)[sent:]
            self.unsent = True
        return taken

    def _encrypt(self, data: Data) -> tuple[int, bytes]:
        if len(data) > MAX_SEND:
            data = memoryview(data)[:MAX_SEND]
        try:
            taken = self.ssl_object.write(data)
        # Set though there is nothing to flush, which is how a write buffer tells what to wait for.
        except ssl.SSLWantReadError:
            self.unsent = True
            raise BlockingIOError(EAGAIN, "TLS has to read before it can write") from None
        return taken, self._outgoing.read()

    def flush(self, flags: int = 0) -> bool:
        """Send what was taken; whether all of it is sent."""
        try:
            while len(self._out) or self._locked(self._take_ciphertext):
                self._out = self._out[self._lower.send(self._out, flags) :]
            flushed = self._lower.flush(flags)
        except BlockingIOError as exc:
            pass_on_handlers(exc)
            flushed = False
        if not flushed:
            self.unsent = True
        return flushed

    def passed_on(self, taken: int) -> int:
        """How many of the last *taken* bytes of plaintext the socket has, while ``unsent``.

        What is in a record that went out in part doesn't count: the peer can't decrypt it.
        """
        left = len(self._out)
        whole = memoryview(self._out.obj).nbytes
        records = -(-taken // RECORD)
        extra = (whole - taken) // records if records else 0  # bytes that each record adds
        return min(taken, (whole - left) // (RECORD + extra) * RECORD) if left else taken

    def _take_ciphertext(self) -> bool:
        """Whether there was more; ``recv`` may say so again from now on."""
        self._out = memoryview(self._outgoing.read())
        self.unsent = bool(self._out)
        return self.unsent

    # -- the end --

    def say_goodbye(self) -> None:
        """Say that nothing more will be sent: TLS's goodbye, as far as it goes out at once."""
        try:
            self._locked(self.ssl_object.unwrap)
        except ssl.SSLError:
            pass  # it wants the peer's goodbye first, or the connection has failed
        if self._flush_quietly():
            self._lower.say_goodbye()

    def _flush_quietly(self) -> bool:
        try:
            return self.flush(DONTWAIT)
        except OSError as exc:
            pass_on_handlers(exc)
            return False  # the connection is going down anyway

    def close(self) -> None:
        """Close the connection without a goodbye. May be called more than once, and anywhere."""
        self._lower.close()
        if self._server is not None:
            # Without waiting: after a fork, the thread that has the lock may not exist.
            self._locked(self._keep_session, wait=False)

    def _keep_session(self) -> None:
        # Only now: with TLS 1.3 sessions come behind the handshake (RFC 8446, 4.6.1). But one
        # that could be resumed serves again, and to ask for another takes half a millisecond.
        if self.ssl_object.version() is not None:
            session = self._session if self.ssl_object.session_reused else self.ssl_object.session
            remember_session(self._context, self._server, session)
