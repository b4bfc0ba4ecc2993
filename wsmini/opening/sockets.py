"""Sockets without blocking: waiting, name resolution, TCP connections, byte streams.

What takes time here is a generator that yields a ``Wait`` and is resumed with the sockets that are
ready, none if the time is over. Who waits (a private selector, a loop, asyncio) is the front end's
business; ``run_blocking`` is the simplest: it blocks.

Threads: a name that isn't an address is looked up in a daemon thread, because ``getaddrinfo`` can
hang for as long as it likes. The thread owns one end of a socket pair and closes it when it has an
answer; the generator owns the other end and forgets the thread when it is closed first. Nothing
else is shared but the list that the answer is put into before the end is closed.

A *stream* is what the opening and the connections read from and write to: a plain socket
(``SocketStream``) or TLS over another stream (``tls.TLSStream``). ``recv`` and ``send`` raise
``BlockingIOError`` where they would have to wait.
"""

from __future__ import annotations

import errno
import math
import os
import select
import socket
import struct
import sys
import time
from _thread import get_ident
from collections import deque, namedtuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import (
        Any,
        Callable,
        Deque,
        Dict,
        Generator,
        Iterable,
        List,
        Optional,
        Sequence,
        Set,
        Tuple,
        TypeVar,
        Union,
    )

    from ..sansio.http11 import Response, ResponseParser
    from .tls import TLSStream

    T = TypeVar("T")
    Stream = Union["SocketStream", TLSStream]
    Ready = Sequence[socket.socket]
    Steps = Generator["Wait", Ready, T]
    SocketOption = Tuple[int, int, Union[int, bytes]]
    # family, type, protocol, canonical name, address: what getaddrinfo returns
    Address = Tuple[int, int, int, str, Any]

READ, WRITE = 1, 2

# Where a flag makes one call not wait, sockets can stay blocking, which is the fastest way to
# wait for data. Elsewhere they are non-blocking, and polled before each call: Windows has no such
# flag, and other systems than Linux may wait for room to send in spite of it. (As plain integers:
# to combine members of an enum takes microseconds.)
DONTWAIT = int(getattr(socket, "MSG_DONTWAIT", 0)) if sys.platform.startswith("linux") else 0
WAITALL = int(socket.MSG_WAITALL) if DONTWAIT else 0

RESPONSE_READ = 65536  # bytes asked for at once while opening
# The same of an open connection: at first, and at most, as reads come back full. What is longer
# falls out of the cache before it is parsed. (For so much, malloc maps memory, but only at first.)
READ_SIZE, MAX_READ_SIZE = 32768, 1 << 19
CHUNK = 1 << 17  # while a message is taken in chunks: the longest
LARGE = 65536  # a frame that lacks at least so much is read exactly, without a copy
HEADER = 10  # bytes; all that is read behind a large frame, so that the next one needs no copy

SLOW_CLOSE = "the closing handshake took longer than close_timeout"
NO_CLOSE = "the server ended the connection without a Close frame"

MAX_LOOKUPS = 64  # threads that look names up at the same time, hanging ones included

# Seconds that the main thread waits without a look at signals: one that comes just before a system
# call, or to another thread, doesn't interrupt it.
HEED = 1.0
# Poll takes its timeout as a C int of milliseconds; who waits for longer waits again.
_LONGEST_WAIT = 2.0e6
MAX_WAIT = 86400.0  # seconds; who waits longer wakes once a day

_lookups: Set[socket.socket] = set()  # the threads' ends; changed by them without a lock

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_lookups.clear)  # the threads stay with the parent


class Wait(namedtuple("Wait", "sockets deadline")):
    """What a generator waits for: one of *sockets* (to ``READ`` and/or ``WRITE``), or the time."""

    __slots__ = ()

    sockets: Dict[socket.socket, int]
    deadline: Optional[float]


def wait(sockets: Dict[socket.socket, int], timeout: Optional[float]) -> List[socket.socket]:
    """Block until some of *sockets* are ready or *timeout* seconds are over; those ready."""
    if timeout is not None:
        timeout = min(max(timeout, 0.0), _LONGEST_WAIT)
    if (timeout is None or timeout > HEED) and in_main_thread():
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        while True:
            left = max(0.0, deadline - time.monotonic())
            ready = _wait_once(sockets, min(left, HEED))
            if ready or left <= HEED:
                return ready
    return _wait_once(sockets, timeout)


def in_main_thread() -> bool:
    """Whether this thread is the one that runs the handlers of signals."""
    threading = sys.modules.get("threading")  # without it, there are no others, nearly always
    return threading is None or threading.main_thread().ident == get_ident()


def _wait_once(sockets: Dict[socket.socket, int], timeout: Optional[float]) -> List[socket.socket]:
    if not hasattr(select, "poll"):
        return _wait_select(sockets, timeout)
    poll = select.poll()
    by_fd = {}
    for sock, events in sockets.items():
        fd = sock.fileno()
        by_fd[fd] = sock
        poll.register(
            fd, (select.POLLIN if events & READ else 0) | (select.POLLOUT if events & WRITE else 0)
        )
    # Rounded up: waking too early would mean waiting once more, for nothing.
    ready = poll.poll(None if timeout is None else int(timeout * 1000) + (timeout > 0))
    return [by_fd[fd] for fd, _ in ready]


def _wait_select(
    sockets: Dict[socket.socket, int], timeout: Optional[float]
) -> List[socket.socket]:
    readers = [sock for sock, events in sockets.items() if events & READ]
    writers = [sock for sock, events in sockets.items() if events & WRITE]
    if not sockets:  # Windows refuses to select nothing.
        time.sleep(3600.0 if timeout is None else timeout)
        return []
    # A failed connection attempt is an exceptional condition on Windows.
    ready = select.select(readers, writers, writers, timeout)
    return list(dict.fromkeys(sock for group in ready for sock in group))


def run_blocking(steps: Steps[T]) -> T:
    """LoopRun *steps* to their end in this thread, and return their result."""
    try:
        wanted = next(steps)
        while True:
            timeout = None if wanted.deadline is None else wanted.deadline - time.monotonic()
            wanted = steps.send(wait(wanted.sockets, timeout))
    except StopIteration as stop:
        result: T = stop.value
        return result
    finally:
        steps.close()  # after a KeyboardInterrupt in wait(), too


def set_receive_timeout(sock: socket.socket, seconds: float) -> bool:
    """Make blocking calls of ``recv`` return after *seconds*; whether that is possible."""
    whole, part = divmod(int(min(max(seconds, 0.01), _LONGEST_WAIT) * 1e6), 1000000)
    # A struct timeval of two longs; of two 64-bit numbers where time has outgrown a long.
    for layout in ("ll", "qq"):
        try:
            value = struct.pack(layout, whole, part)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)
        except OSError:
            continue
        return True
    return False


# -- names --


def resolve(host: str, port: int) -> Steps[Sequence[Address]]:
    """The addresses of *host*, in the resolver's order.

    Raises:
        socket.gaierror: if there are none.
        OSError: if ``MAX_LOOKUPS`` lookups are going on.
    """
    # Bytes need no idna codec, which small systems lack.
    name = host.encode("ascii")
    try:
        return _getaddrinfo(name, port, socket.AI_NUMERICHOST)
    except socket.gaierror:
        pass  # not an address
    return (yield from in_thread(lambda: _getaddrinfo(name, port)))


def in_thread(look_up: Callable[[], T]) -> Steps[T]:
    """What *look_up* returns, called in a thread that is left to itself if that takes too long.

    Raises:
        OSError: if ``MAX_LOOKUPS`` lookups are going on; and whatever *look_up* raises.
    """
    reader, answer = _start_lookup(look_up)
    try:
        while not answer:
            yield Wait({reader: READ}, None)
    finally:
        reader.close()
    found = answer.pop()
    if isinstance(found, BaseException):
        try:
            raise found
        finally:
            del found  # no cycle through the traceback
    return found


def _getaddrinfo(name: bytes, port: int, flags: int = 0) -> Sequence[Address]:
    return socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=flags)


def _start_lookup(
    look_up: Callable[[], T],
) -> Tuple[socket.socket, List[Union[T, BaseException]]]:
    """Call it in a thread: a socket that gets readable, and where the answer will be."""
    import threading  # not needed for addresses

    if len(_lookups) >= MAX_LOOKUPS:
        raise OSError(errno.EAGAIN, f"{MAX_LOOKUPS} name lookups are going on; does DNS answer?")
    reader, writer = socket.socketpair()
    answer: List[Union[T, BaseException]] = []

    def call() -> None:
        try:
            answer.append(look_up())
        except BaseException as exc:  # it belongs to the thread that asked
            answer.append(exc)
        finally:
            _lookups.discard(writer)
            writer.close()

    _lookups.add(writer)
    try:
        threading.Thread(target=call, name="wsmini-lookup", daemon=True).start()
    except BaseException as exc:
        _lookups.discard(writer)
        reader.close()
        writer.close()
        if isinstance(exc, RuntimeError):  # no memory for its stack, mostly: later there may be
            raise OSError(errno.EAGAIN, f"{exc}, which a name lookup needs") from exc
        raise
    return reader, answer


# -- TCP --


def interleaved(addresses: Iterable[Address]) -> List[Address]:
    """The address families in turn, beginning with the first one (RFC 8305, 4)."""
    families: Dict[int, Deque[Address]] = {}
    for address in addresses:
        families.setdefault(address[0], deque()).append(address)
    result = []
    while families:
        for family, queue in list(families.items()):
            result.append(queue.popleft())
            if not queue:
                del families[family]
    return result


def connect_tcp(
    addresses: Iterable[Address],
    delay: float = 0.25,
    source_address: Optional[Tuple[str, int]] = None,
    options: Sequence[SocketOption] = (),
) -> Steps[socket.socket]:
    """A non-blocking socket that is connected to one of *addresses*: Happy Eyeballs, RFC 8305.

    An attempt starts when the one before has failed, or *delay* seconds after it; the first to
    connect wins and the others are closed. *options* are set before connecting.

    Raises:
        OSError: of the first attempt to fail, if all do; its message names them all.
    """
    waiting = deque(interleaved(addresses))
    attempts: Dict[socket.socket, Address] = {}
    failures: List[Tuple[Address, OSError]] = []
    next_start = 0.0
    try:
        while waiting or attempts:
            now = time.monotonic()
            if waiting and (not attempts or now >= next_start):
                address = waiting.popleft()
                next_start = now + delay
                try:
                    sock = _begin_connect(address, source_address, options)
                except OSError as exc:
                    failures.append((address, exc))
                    continue
                attempts[sock] = address
            ready = yield Wait(dict.fromkeys(attempts, WRITE), next_start if waiting else None)
            for sock in ready:
                code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if code == 0:
                    del attempts[sock]
                    return sock
                failures.append((attempts.pop(sock), OSError(code, os.strerror(code))))
                sock.close()
                next_start = 0.0
        raise _no_connection(failures)
    finally:
        for sock in attempts:
            sock.close()


def _begin_connect(
    address: Address,
    source_address: Optional[Tuple[str, int]],
    options: Iterable[SocketOption],
) -> socket.socket:
    """A non-blocking socket that is connecting to *address*, or is connected."""
    family, kind, protocol, _, destination = address
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setblocking(False)
        configure(sock, options)
        if source_address is not None:
            sock.bind(source_address)
        code = sock.connect_ex(destination)
        # Windows says EWOULDBLOCK. Elsewhere that is EAGAIN: the queue of a Unix socket is full,
        # and nothing is in progress.
        pending = (0, errno.EINPROGRESS, errno.EWOULDBLOCK)
        if code not in pending or code == errno.EAGAIN:
            raise OSError(code, os.strerror(code))
    except BaseException:
        sock.close()
        raise
    return sock


def configure(sock: socket.socket, options: Iterable[SocketOption] = ()) -> None:
    """Set TCP_NODELAY, where it exists, and then *options*: (level, name, value) each."""
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for option in options:
        sock.setsockopt(*option)


def _no_connection(failures: Sequence[Tuple[Address, OSError]]) -> OSError:
    """One exception for all *failures*: of the first one's class, telling each."""
    if not failures:
        return OSError(errno.EADDRNOTAVAIL, "there is no address to connect to")
    first = failures[0][1]
    if len(failures) == 1:
        return first
    each = "; ".join(f"{shown_address(a[4])}: {exc.strerror or exc}" for a, exc in failures)
    # OSError picks the class, such as ConnectionRefusedError, by the number.
    return OSError(first.errno, each) if first.errno is not None else OSError(each)


def shown_address(address: Any) -> str:
    """*address*, as sockets have it, for people: ``127.0.0.1:80``, ``[::1]:80``, a path."""
    if isinstance(address, tuple) and len(address) >= 2:
        return f"[{address[0]}]:{address[1]}" if ":" in address[0] else f"{address[0]}:{address[1]}"
    return os.fsdecode(address) if isinstance(address, (str, bytes)) else str(address)


# -- streams --


class SocketStream:
    """A stream of bytes over a plain socket, which it owns."""

    __slots__ = ("recv", "send", "sock")

    unsent = False  # whether accepted bytes wait for flush(): never here
    busy = False  # whether recv() was left with bytes in its hands: never here

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.recv = sock.recv  # (size, flags=0); b"" at the end
        self.send = sock.send  # (data, flags=0); how many bytes were taken

    def close(self) -> None:
        """Close the socket."""
        self.sock.close()

    def buffered(self) -> bool:
        """Whether there may be bytes to receive that the socket doesn't show."""
        return False

    def flush(self, flags: int = 0) -> bool:
        """Send accepted bytes; whether all of them are sent."""
        return True

    def passed_on(self, taken: int) -> int:
        """How many of the last *taken* bytes the socket has, while ``unsent``: see TLS's."""
        return taken

    def say_goodbye(self) -> None:
        """Say that nothing more will be sent, where that takes bytes: not here."""


def send_all(stream: Stream, data: bytes) -> Steps[Optional[ConnectionError]]:
    """Send all of *data*; less if the peer has hung up, and then return the exception.

    What it said before that tells more than the reset: a response, or TLS's alert that it wants a
    certificate, say. So receiving comes next, and the exception counts if there is nothing.
    """
    view = memoryview(data)
    try:
        while view or not stream.flush():
            try:
                view = view[stream.send(view) :]
                continue
            except BlockingIOError:
                pass  # what is thrown into the wait must not have this as its context
            yield Wait({stream.sock: WRITE}, None)
    except ConnectionError as exc:
        return exc
    return None


def receive_some(stream: Stream, size: int = RESPONSE_READ) -> Steps[bytes]:
    """The next bytes, at most *size*; ``b""`` at the end."""
    while True:
        try:
            return stream.recv(size)
        except BlockingIOError:
            pass  # as above
        yield Wait({stream.sock: READ}, None)


def receive_response(
    stream: Stream,
    parser: ResponseParser,
    broken: Optional[ConnectionError] = None,
    head_only: bool = False,
) -> Steps[Response]:
    """Feed *parser* until the response is complete, or until its head is.

    Once the head is there, what goes wrong with the body only cuts it off, a timeout too.

    Args:
        broken: what ``send_all`` returned for the request.

    Raises:
        InvalidMessage: if it isn't an HTTP response.
        OSError: if the connection is lost before the end of the head.
    """
    while not parser.complete and not (head_only and parser.response is not None):
        try:
            data = yield from receive_some(stream)
        except OSError:
            if parser.response is None:
                raise
            data = b""
        if data:
            parser.receive_data(data)
        elif broken is not None and parser.response is None:
            raise broken
        else:
            parser.receive_eof()
    if parser.response is None:
        raise AssertionError("a complete response has a head")
    return parser.response
