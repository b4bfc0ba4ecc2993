"""The write buffer: frames that the stream hasn't taken yet, in order, and how they are written.

A connection has one, in whichever front end. One thread at a time uses it, which the front end sees
to; nothing here waits. What the protocol says by itself (pongs, keepalive pings) goes in front of
what waits, between two frames; but its Close frame goes last (RFC 6455, 5.5.1).

The network's errors end up in ``error``. Any other exception, of a signal handler, comes out and
leaves ``busy`` set (``write``: its caller's own mark): it isn't known what was written, so nothing
may follow.

A message counts as written when the socket has taken it. TLS takes more than its socket may: that
is *held*, and counts with the socket's last byte of it, or as many records as went out whole.
"""

from __future__ import annotations

from ..interrupts import pass_on_handlers
from ..sansio.protocol import OPEN
from .streams import DONTWAIT, Stream

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..sansio.protocol import ClientProtocol, Frames

JOIN = 65536  # bytes of small frames that are joined into one buffer, at most and about

_BUFFERS = (bytes, bytearray)

# All the idle ones share these. (Nuitka can't compile a tuple with a memoryview: one by one.)
_NO_BYTES = memoryview(b"")
_NO_PIECES = iter(())
_NO_ITEMS: list[tuple[Frames, int]] = []


class WriteBuffer:
    """Frames on their way to *stream*, those of the program and those of *protocol* itself.

    Attributes:
        accepted, written: bytes that came in to wait, and of these, that the socket has taken. A
            message that is encoded piece by piece counts with the size it had before. What the
            protocol says by itself doesn't count, nor does what ``write`` never had to keep.
        error: how writing has failed; nothing is written any more.
        waits: whether something waits for room.
        needs_read: whether it waits for the stream to be read from, as TLS may.
        busy: whether a thread is writing, or an exception has interrupted it there.
        tail: small frames, behind the others, in one buffer.
        items, view, uncounted: the others; false if there are none.
    """

    __slots__ = (
        "_held", "_pieces", "_protocol", "_send", "_stream", "accepted", "busy", "error", "items",
        "needs_read", "tail", "uncounted", "view", "waits", "written",
    )  # fmt: skip

    def __init__(self, stream: Stream, protocol: ClientProtocol) -> None:
        self._stream, self._protocol, self._send = stream, protocol, stream.send
        self.error: OSError | None = None
        self.busy = self.waits = self.needs_read = False
        self.accepted = self.written = self._held = 0
        self.items = _NO_ITEMS  # few, as small frames are joined
        self.tail: bytes | bytearray = b""
        self.view = _NO_BYTES  # what goes out now, of the frame that has begun;
        self._pieces: Any = _NO_PIECES  # the rest of that frame,
        self.uncounted = 0  # and what is still to be counted of both

    def __bool__(self) -> bool:
        return bool(self.view or self.uncounted or self.items or self.tail)

    # -- writing --

    def write(self, frames: Frames, size: int) -> bool:
        """Write *frames* of a message of *size* bytes, or what the stream takes of them.

        Returns:
            Whether that was all; what is left is written by ``flush``.
        """
        if self.waits or self.error is not None or not isinstance(frames, _BUFFERS):
            self.put(frames, size)
            return self.flush()
        # Nearly always: one system call, and it takes everything.
        try:
            sent = self._send(frames, DONTWAIT)
        except BlockingIOError as exc:
            pass_on_handlers(exc)
            sent = 0
        except OSError as exc:
            self.fail(exc)
            return False
        size = len(frames)
        if sent == size and not self._stream.unsent:
            return True
        # TLS may have taken all of it, and hold a part: the view is empty then, and waits as well.
        self.accepted += size
        self._count(sent)
        self.view = memoryview(frames)[sent:]
        self.uncounted = size - sent
        self.waits = True
        return False

    def flush(self) -> bool:
        """Write what waits and what the protocol has to say; whether there was room for all."""
        if self.error is not None:
            return False
        stream, tail = self._stream, self.tail
        flushed = done = needs_read = False
        self.busy = True
        try:
            if not stream.unsent or stream.flush(DONTWAIT):
                flushed = True
                # The stream had held bytes of these, and they have gone out just now: they count as
                # written from here on.
                if self._held:
                    self._count(0)
                size = self.accepted - self.written
                if tail and len(tail) == size and not (self.view or self._protocol.has_output):
                    # What a loop has gathered in one iteration, and nothing else: the usual.
                    sent = self._send(tail, DONTWAIT)
                    self.tail = b""
                    if sent == size and not stream.unsent:
                        self.written += sent
                        self.busy = self.waits = False
                        return True
                    self.view = memoryview(tail)[sent:]
                    self.uncounted = size - sent
                    self._count(sent)
                if not stream.unsent:
                    done = self._write_all()
        except BlockingIOError as exc:
            pass_on_handlers(exc)
            # With nothing to flush, TLS takes nothing: it has to read before it can write.
            needs_read = flushed and stream.unsent
        except OSError as exc:
            self.fail(exc)
        # Not in a finally: behind an exception of a signal handler, busy stays set for good.
        self.busy, self.needs_read = False, needs_read
        self.waits = not done and self.error is None
        return done

    def _write_all(self) -> bool:
        protocol, stream = self._protocol, self._stream
        while True:
            self._advance()
            # Control frames overtake what waits, but only between two frames: the bytes of one must
            # not be torn apart. A Close has to be the last frame.
            if not self.view and protocol.has_output:
                if protocol.state is OPEN or not self:
                    self.view = memoryview(protocol.data_to_send())
            if self.view:
                self._took(self._send(self.view, DONTWAIT))
                if stream.unsent:
                    return False
            elif self.items or self.tail:
                self._begin_next()
            elif not protocol.has_output:
                return True

    def _advance(self) -> None:
        """Go on in the frame that has begun; it is complete if there is no more of it."""
        if not self.view:
            piece = next(self._pieces, None)
            if piece is not None:
                self.view = memoryview(piece)
                return
            # The message's last byte, which _took() has left.
            self._count(self.uncounted)
            self.uncounted, self._pieces = 0, _NO_PIECES

    def _begin_next(self) -> None:
        """Take the first of what waits."""
        if not self.items:
            self._seal()
        frames, self.uncounted = self.items.pop(0)
        self._pieces = iter((frames,)) if isinstance(frames, _BUFFERS) else frames

    def _took(self, count: int) -> None:
        """Go on behind *count* bytes of ``view``, which the stream has taken."""
        # An empty slice would keep the frame.
        self.view = self.view[count:] if count < len(self.view) else _NO_BYTES
        # The last byte counts when all is taken: the headers of what comes in pieces don't count.
        counted = min(count, max(0, self.uncounted - 1))
        self.uncounted -= counted
        self._count(counted)

    def _count(self, taken: int) -> None:
        """Count *taken* bytes more that the stream has taken, as written or as held."""
        self._held += taken
        if not self._stream.unsent:
            self.written += self._held
            self._held = 0

    def fail(self, exc: OSError) -> None:
        """Writing has met *exc*: nothing is written any more.

        Raises:
            OSError: *exc* itself, if it isn't the network's.
        """
        pass_on_handlers(exc)
        self.error = exc
        self.clear()

    # -- what waits --

    def put(self, frames: Frames, size: int) -> None:
        """Append *frames* of a message of *size* bytes."""
        # The size of what is masked piece by piece isn't known before. (One more tells an empty
        # queue from an empty message's.)
        size = len(frames) if isinstance(frames, _BUFFERS) else size + 1
        self.accepted += size
        if size >= JOIN or not isinstance(frames, _BUFFERS):
            self._seal()
            self._append(frames, size)
            return
        tail = self.tail
        if not tail:
            self.tail = frames  # nearly always the only one
            return
        # The first one isn't copied before there is a second one to join.
        if type(tail) is bytes:
            self.tail = tail = bytearray(tail)
        tail += frames
        if len(tail) >= JOIN:
            self._seal()

    def _seal(self) -> None:
        """Put the tail behind the other items: it doesn't grow any more."""
        if self.tail:
            self._append(self.tail, len(self.tail))
            self.tail = b""

    def _append(self, frames: Frames, size: int) -> None:
        # Others share the empty list.
        if not self.items:
            self.items = []
        self.items.append((frames, size))

    def clear(self) -> None:
        """Forget it all; it will never be written."""
        # But what the socket has taken of what the stream still holds is written,
        self.written += self._stream.passed_on(self._held)
        self._held = 0
        if not (self.busy or self.view or self._stream.unsent):
            self._advance()  # and so is a message in pieces that is complete
        self.waits = False
        self.items, self.tail, self.uncounted = _NO_ITEMS, b"", 0
        self.view, self._pieces = _NO_BYTES, _NO_PIECES
