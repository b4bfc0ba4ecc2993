"""What waits between the threads of a connection: messages received, frames to send.

``wire`` says who may call what when. Nothing here waits for the network.
"""

from __future__ import annotations

import socket

from ..opening.sockets import DONTWAIT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _thread import LockType
    from typing import Iterator, List, Optional, Tuple, Union

    from ..opening.sockets import Stream
    from ..sansio.messages import Message
    from ..sansio.protocol import ClientProtocol, Frames

    Chunk = Tuple[Message, bool]  # and whether it ends the message


class MessageQueue:
    """What was received, parsed or not, and not taken by the consumer yet.

    Others than the consumer keep what they meet, up to *limit* messages and chunks, and about as
    many more as one read brings. ``keep`` beyond that drops, and then everything, so that messages
    never go missing in the middle. All of it locks *mutex*.

    Attributes:
        messages: parsed ones.
        dropping: whether everything is dropped.
    """

    __slots__ = ("_chunks", "_limit", "_mutex", "_protocol", "dropping", "messages")

    def __init__(self, protocol: ClientProtocol, mutex: LockType, limit: int) -> None:
        self._protocol, self._mutex, self._limit = protocol, mutex, limit
        self.messages: List[Message] = []
        self._chunks: List[Chunk] = []  # of a message that is being streamed
        self.dropping = False

    def __len__(self) -> int:
        """How much was kept."""
        return len(self.messages) + len(self._chunks)

    def has_room(self) -> bool:
        """Whether more may be kept."""
        return len(self) < self._limit

    def take(self) -> Message:
        """The first message that was kept; for the consumer, when there is one."""
        return self.messages.pop(0)

    def take_chunk(self, begun: bool) -> Optional[Chunk]:
        """What was kept of the message that has *begun*, or of the next one."""
        with self._mutex:
            if self._chunks:
                return self._chunks.pop(0)
            if self.messages and not begun:
                return self.messages.pop(0), True
        return None

    def parse(self) -> List[Message]:
        """Some messages out of what isn't parsed; none if more bytes are needed."""
        with self._mutex:
            batch = self._protocol.next_messages()
            return self._drop() if self.dropping else batch

    def parse_chunk(self) -> Optional[Chunk]:
        """Some of the next message out of what isn't parsed."""
        with self._mutex:
            if not self.dropping:
                return self._protocol.next_chunk()
            self._drop()
        return None

    def keep(self) -> bool:
        """Parse, and keep what there is for the consumer; whether there was anything."""
        protocol = self._protocol
        with self._mutex:
            kept = len(self)
            self.dropping = self.dropping or kept >= self._limit
            if self.dropping:
                self._drop()
            elif protocol.streaming:
                chunk = protocol.next_chunk()
                self._chunks.extend([chunk] if chunk else ())
            else:
                self.messages.extend(protocol.next_messages())
            return len(self) > kept

    def _drop(self) -> List[Message]:
        self._protocol.skip()
        while self._protocol.next_messages():
            pass
        return []

    def skip(self) -> None:
        """Leave the rest of the message that is being streamed."""
        with self._mutex:
            self._protocol.skip()
            self._chunks.clear()


class WriteBuffer:
    """Frames that are encoded, in order, and not taken by the stream yet. For the writer."""

    __slots__ = ("_queue", "_stream", "_view")

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._view = memoryview(b"")  # of the first frame, or a piece of it
        self._queue: List[Iterator[Union[bytes, bytearray]]] = []

    def blocked(self) -> bool:
        """Whether something waits for room."""
        return bool(self._view or self._queue) or self._stream.unsent

    def put(self, frames: Frames) -> bool:
        """Write *frames*, or what the stream takes of them; whether that was all.

        Raises:
            OSError: if the connection is lost.
        """
        if not isinstance(frames, (bytes, bytearray)):
            self._queue.append(frames)
            return self.flush()
        if self._view or self._queue or self._stream.unsent:
            self._queue.append(iter((frames,)))
            return self.flush()
        # Nearly always: one system call, and it takes everything.
        try:
            sent = self._stream.send(frames, DONTWAIT)
        except BlockingIOError:
            sent = 0
        except BaseException as exc:
            self._check_interrupt(exc)
            raise
        if sent < len(frames):
            self._view = memoryview(frames)[sent:]
            return False
        return not self._stream.unsent

    def flush(self) -> bool:
        """Write what waits; whether there was room for all. Raises as ``put``."""
        stream = self._stream
        if stream.unsent and not stream.flush(DONTWAIT):
            return False
        try:
            while self._view or self._next():
                self._view = self._view[stream.send(self._view, DONTWAIT) :]
        except BlockingIOError:
            return False
        except BaseException as exc:
            self._check_interrupt(exc)
            raise
        return not stream.unsent

    def _check_interrupt(self, exc: BaseException) -> None:
        """After ``KeyboardInterrupt`` nobody knows what is sent: nothing may follow it."""
        if not isinstance(exc, OSError):
            self.clear()
            try:
                self._stream.sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # not connected any more

    def _next(self) -> bool:
        while self._queue:
            for piece in self._queue[0]:
                self._view = memoryview(piece)
                return True
            del self._queue[0]
        return False

    def clear(self) -> None:
        """Forget it all: the connection is over."""
        self._view = memoryview(b"")
        self._queue.clear()
