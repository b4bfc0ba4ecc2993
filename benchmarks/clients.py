"""The clients side by side, each with as few options as make them do the same.

Peers run without keepalive and without limits on sizes; wsmini with its defaults, but for the one
message that is longer than they allow. Compression is on where the workload says so.

A client is a class with a way of waiting as its base: ``Blocking``, ``Asyncio`` or ``Callbacks``.
These have the workloads, written once for each way, and time them: each method returns the seconds
that the messages took. ``echo`` and ``receive`` also check every message if *ring* is given, for a
run that isn't timed; in one that is, the number of messages, of characters, and the last one.
"""

from __future__ import annotations

import importlib
from itertools import cycle, islice
from time import perf_counter

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl as ssl_module
    from typing import Any, Callable, Dict, List, Optional, Sequence, Union

    Message = Union[str, bytes]
    Context = Optional[ssl_module.SSLContext]


class Wrong(Exception):
    """A client didn't deliver what was sent."""


def check(expected: object, found: object) -> None:
    if expected != found:
        raise Wrong(f"expected {str(expected)[:60]!r}, got {str(found)[:60]!r}")


class Client:
    """What to connect to, and how.

    Attributes:
        package: what to install, for the version; ``None`` if that is this project or Python.
        module: what a program imports.
        deflate: whether it can do permessage-deflate.
        concurrent: whether many connections fit in one thread.
    """

    package: Optional[str] = None
    module = "socket"
    deflate = True
    concurrent = False

    def __init__(self, ssl: Context = None, deflate: bool = False, large: bool = False) -> None:
        self.ssl, self.compress, self.large = ssl, deflate, large
        if deflate and not self.deflate:
            raise NotImplementedError("it has no permessage-deflate")
        self.prepare()

    def prepare(self) -> None:
        """Import what is needed."""
        self.lib: Any = importlib.import_module(self.module)


# -- blocking --


class Blocking(Client):
    """``open(url)`` returns something with ``send``, ``recv`` and ``close``."""

    def open(self, url: str) -> Any:
        raise NotImplementedError

    def echo(self, url: str, message: Message, count: int) -> float:
        ws = self.open(url)
        send, recv = ws.send, ws.recv
        send(message)
        check(message, recv())
        begin = perf_counter()
        for _ in range(count):
            send(message)
            if recv() != message:
                raise Wrong("an echo")
        seconds = perf_counter() - begin
        ws.close()
        return seconds

    def receive(self, url: str, ring: Sequence[Message], counts: Sequence[int]) -> List[float]:
        """Receive floods, one after another; the first is checked message by message."""
        ws = self.open(url)
        start, times = 0, []
        for count in counts:
            # The last flood is what counts: the first may be checked at leisure.
            begin = perf_counter()
            ws.send(str(count))
            if start == 0:
                for number in range(count):
                    check(ring[number % len(ring)], ws.recv())
            else:
                total, last = self.receive_all(ws, count)
                check((len_of(ring, start, count), ring[(start + count - 1) % len(ring)]),
                      (total, last))  # fmt: skip
            times.append(perf_counter() - begin)
            start += count
        ws.close()
        return times

    def receive_all(self, ws: Any, count: int) -> Any:
        recv, total, message = ws.recv, 0, ""
        for _ in range(count):
            message = recv()
            total += len(message)
        return total, message

    def send(self, url: str, ring: Sequence[Message], count: int) -> Any:
        ws = self.open(url)
        send = ws.send
        begin = perf_counter()
        for message in islice(cycle(ring), count):
            send(message)
        send(b"?")
        answer = ws.recv()
        seconds = perf_counter() - begin
        ws.close()
        return seconds, answer

    def connect(self, url: str, count: int) -> List[float]:
        """Seconds that each of some connections took, one after the other."""
        times = []
        for _ in range(count):
            begin = perf_counter()
            self.open(url).close()
            times.append(perf_counter() - begin)
        return times

    def idle(self, url: str, count: int, measure: Callable[[], int]) -> float:
        """Bytes for each of *count* connections that have echoed one message."""
        kept = [self.open(url) for _ in range(8)]  # what is loaded and allocated once
        before = measure()
        for _ in range(count):
            kept.append(self.open(url))
            kept[-1].send("hello")
            check("hello", kept[-1].recv())
        return (measure() - before) / count


def len_of(ring: Sequence[Message], start: int, count: int) -> int:
    """The length of *count* messages from a position on."""
    turns, rest = divmod(count, len(ring))
    whole = sum(map(len, ring)) * turns if turns else 0
    first = start % len(ring)
    return whole + sum(len(ring[(first + i) % len(ring)]) for i in range(rest))


class Raw(Blocking):
    """Hand-written: prebuilt frames, next to no parsing, plain sockets: what Python costs."""

    concurrent = True

    def prepare(self) -> None:
        self.frames: Dict[Message, bytes] = {}

    def frame(self, message: Message) -> bytes:
        from payloads import encoded

        built = self.frames.get(message)
        if built is None:
            from wsmini.sansio.frames import masked

            head = 0x81 if isinstance(message, str) else 0x82
            built = self.frames[message] = bytes(masked(head, encoded(message)))
        return built

    def open(self, url: str) -> Any:
        return RawConnection(self, url)


class RawConnection:
    def __init__(self, client: Raw, url: str) -> None:
        import socket
        from urllib.parse import urlsplit

        parts = urlsplit(url)
        sock = socket.create_connection((parts.hostname, parts.port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if parts.scheme == "wss":
            import ssl

            context = client.ssl or ssl.create_default_context()
            sock = context.wrap_socket(sock, server_hostname=parts.hostname)
        sock.sendall(
            b"GET %s HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n%s\r\n"
            % (
                parts.path.encode(),
                b"Sec-WebSocket-Extensions: permessage-deflate\r\n" if client.compress else b"",
            )
        )
        self.sock, self.rest, self.frames = sock, b"", client.frames
        self.build, self.batch = client.frame, []
        self.inflate = self.deflater = None
        if client.compress:
            import zlib

            self.inflate = zlib.decompressobj(-15).decompress
            self.deflater = zlib.compressobj(wbits=-12, memLevel=5)
        while b"\r\n\r\n" not in self.rest:
            self.rest += self.sock.recv(4096)
        self.rest = self.rest.partition(b"\r\n\r\n")[2]

    def send(self, message: Message) -> None:
        if self.deflater is not None and len(message) > 10:
            from wsmini.sansio.frames import masked

            data = self.deflater.compress(message.encode()) + self.deflater.flush(2)
            self.sock.sendall(masked(0xC1, data[:-4]))
        else:
            self.sock.sendall(self.frames.get(message) or self.build(message))

    def recv(self) -> Message:
        while not self.batch:
            self.receive()
        return self.batch.pop()

    def receive(self) -> None:
        data = self.sock.recv(131000)
        if not data:
            raise EOFError
        if self.rest:
            data = self.rest + data
        batch, at, size = [], 0, len(data)
        while size - at >= 10 or 2 <= size - at and data[at + 1] <= size - at - 2:
            n, begin = data[at + 1], at + 2
            if n == 126:
                n, begin = data[begin] << 8 | data[begin + 1], at + 4
            elif n == 127:
                n, begin = int.from_bytes(data[begin : at + 10], "big"), at + 10
            end = begin + n
            if end > size:
                if n > 131000 and not batch:
                    self.rest = b""
                    whole = self.receive_large(data[begin:], n)
                    batch.append(whole.decode() if data[at] & 1 else whole)
                    self.batch = batch
                    return
                break
            payload = data[begin:end]
            if data[at] & 0x40:
                payload = self.inflate(payload + b"\0\0\xff\xff")
            batch.append(payload.decode() if data[at] & 1 else payload)
            at = end
        self.rest = data[at:]
        batch.reverse()
        self.batch = batch

    def receive_large(self, start: bytes, n: int) -> bytearray:
        whole = bytearray(n)
        view, at = memoryview(whole), len(start)
        whole[:at] = start
        while at < n:
            at += self.sock.recv_into(view[at:])
        return whole

    def close(self) -> None:
        self.sock.close()


class Wsmini(Blocking):
    module = "wsmini"

    def open(self, url: str) -> Any:
        options = {"max_size": None} if self.large else {}
        compression = "deflate" if self.compress else None
        return self.lib.connect(url, ssl=self.ssl, compression=compression, **options)


class WsminiIterating(Wsmini):
    """For receiving only."""

    def receive_all(self, ws: Any, count: int) -> Any:
        total, message = 0, ""
        for message in islice(ws, count):
            total += len(message)
        return total, message


class WebsocketsThreading(Blocking):
    package, module = "websockets", "websockets.sync.client"

    def open(self, url: str) -> Any:
        return self.lib.connect(
            url, ssl=self.ssl, compression="deflate" if self.compress else None,
            ping_interval=None, max_size=None, proxy=None,
        )  # fmt: skip


class WebsocketClient(Blocking):
    package, module, deflate = "websocket-client", "websocket", False
    accelerated = False

    def prepare(self) -> None:
        import sys

        if not self.accelerated:
            sys.modules["wsaccel"] = None  # type: ignore[assignment]
        super().prepare()

    def open(self, url: str) -> Any:
        options = {"context": self.ssl} if self.ssl else None
        ws = self.lib.create_connection(url, sslopt=options)
        return WebsocketClientConnection(ws)


class WebsocketClientConnection:
    def __init__(self, ws: Any) -> None:
        self.ws, self.recv, self.close = ws, ws.recv, ws.close

    def send(self, message: Message) -> None:
        if isinstance(message, str):
            self.ws.send(message)
        else:
            self.ws.send_binary(message)


class WebsocketClientAccelerated(WebsocketClient):
    accelerated = True


class Lomond(Blocking):
    package, module = "lomond", "lomond"

    def open(self, url: str) -> Any:
        return LomondConnection(self, url)


class LomondConnection:
    def __init__(self, client: Lomond, url: str) -> None:
        self.ws = client.lib.WebSocket(url, ssl_context=client.ssl, compress=client.compress)
        events = self.ws.connect(ping_rate=0)
        for event in events:
            if event.name == "ready":
                break
            if event.name in ("connect_fail", "rejected"):
                raise Wrong(event.reason)
        self.events = events
        self.recv = self.messages().__next__

    def messages(self) -> Any:
        for event in self.events:
            if event.name == "text":
                yield event.text
            elif event.name == "binary":
                yield event.data

    def send(self, message: Message) -> None:
        if isinstance(message, str):
            self.ws.send_text(message)
        else:
            self.ws.send_binary(message)

    def close(self) -> None:
        self.ws.close()
        for _ in self.events:
            pass


class Wsproto(Blocking):
    """A protocol without I/O: on a blocking socket, as its documentation does."""

    package, module = "wsproto", "wsproto"

    def open(self, url: str) -> Any:
        return WsprotoConnection(self, url)


class WsprotoConnection:
    def __init__(self, client: Wsproto, url: str) -> None:
        import socket
        from urllib.parse import urlsplit

        import wsproto.events as events
        from wsproto.extensions import PerMessageDeflate

        parts = urlsplit(url)
        self.sock = socket.create_connection((parts.hostname, parts.port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if parts.scheme == "wss":
            import ssl

            context = client.ssl or ssl.create_default_context()
            self.sock = context.wrap_socket(self.sock, server_hostname=parts.hostname)
        self.ws = client.lib.WSConnection(client.lib.ConnectionType.CLIENT)
        self.types = events
        extensions = [PerMessageDeflate()] if client.compress else []
        self.put(events.Request(host=parts.netloc, target=parts.path, extensions=extensions))
        self.recv = self.messages().__next__
        check(None, self.recv())

    def put(self, event: Any) -> None:
        self.sock.sendall(self.ws.send(event))

    def send(self, message: Message) -> None:
        self.put(self.types.Message(data=message))

    def messages(self) -> Any:
        parts: List[Any] = []
        types = self.types
        while True:
            for event in self.ws.events():
                if isinstance(event, types.Message):
                    parts.append(event.data)
                    if event.message_finished:
                        empty = "" if isinstance(event, types.TextMessage) else b""
                        yield parts[0] if len(parts) == 1 else empty.join(parts)
                        parts = []
                elif isinstance(event, types.AcceptConnection):
                    yield None
                elif isinstance(event, types.CloseConnection):
                    return
            self.ws.receive_data(self.sock.recv(65536) or None)

    def close(self) -> None:
        self.put(self.types.CloseConnection(code=1000))
        for _ in iter(lambda: next(self.messages(), None), None):
            pass
        self.sock.close()


# -- asyncio --


class Asyncio(Client):
    """``await open(url)`` returns something with ``send``, ``recv`` and ``close``, awaitable."""

    concurrent = True

    async def open(self, url: str) -> Any:
        raise NotImplementedError

    async def start(self) -> None:
        """In the loop, before the first connection."""

    async def stop(self) -> None:
        """In the loop, after the last one."""

    def run(self, coroutine: Any) -> Any:
        import asyncio

        async def session() -> Any:
            await self.start()
            try:
                return await coroutine
            finally:
                await self.stop()

        return asyncio.run(session())

    def echo(self, url: str, message: Message, count: int) -> float:
        async def session() -> float:
            ws = await self.open(url)
            send, recv = ws.send, ws.recv
            await send(message)
            check(message, await recv())
            begin = perf_counter()
            for _ in range(count):
                await send(message)
                if await recv() != message:
                    raise Wrong("an echo")
            seconds = perf_counter() - begin
            await ws.close()
            return seconds

        return self.run(session())

    def receive(self, url: str, ring: Sequence[Message], counts: Sequence[int]) -> List[float]:
        async def session() -> List[float]:
            ws = await self.open(url)
            start, times = 0, []
            for count in counts:
                begin = perf_counter()
                await ws.send(str(count))
                if start == 0:
                    for number in range(count):
                        check(ring[number % len(ring)], await ws.recv())
                else:
                    recv, total, message = ws.recv, 0, ""
                    for _ in range(count):
                        message = await recv()
                        total += len(message)
                    check((len_of(ring, start, count), ring[(start + count - 1) % len(ring)]),
                          (total, message))  # fmt: skip
                times.append(perf_counter() - begin)
                start += count
            await ws.close()
            return times

        return self.run(session())

    def send(self, url: str, ring: Sequence[Message], count: int) -> Any:
        async def session() -> Any:
            ws = await self.open(url)
            send = ws.send
            begin = perf_counter()
            for message in islice(cycle(ring), count):
                await send(message)
            await send(b"?")
            answer = await ws.recv()
            seconds = perf_counter() - begin
            await ws.close()
            return seconds, answer

        return self.run(session())

    def connect(self, url: str, count: int) -> List[float]:
        async def session() -> List[float]:
            times = []
            for _ in range(count):
                begin = perf_counter()
                await (await self.open(url)).close()
                times.append(perf_counter() - begin)
            return times

        return self.run(session())

    def idle(self, url: str, count: int, measure: Callable[[], int]) -> float:
        async def session() -> float:
            kept = [await self.open(url) for _ in range(8)]
            before = measure()
            for _ in range(count):
                kept.append(await self.open(url))
                await kept[-1].send("hello")
                check("hello", await kept[-1].recv())
            return (measure() - before) / count

        return self.run(session())

    def many(self, url: str, message: Message, connections: int, count: int) -> float:
        """Echo *count* times on each of some connections, all at once."""
        import asyncio

        async def converse(ws: Any) -> None:
            for _ in range(count):
                await ws.send(message)
                if await ws.recv() != message:
                    raise Wrong("an echo")

        async def session() -> float:
            opened = [await self.open(url) for _ in range(connections)]
            await asyncio.gather(*map(converse, opened[:1]))
            begin = perf_counter()
            await asyncio.gather(*map(converse, opened))
            seconds = perf_counter() - begin
            await asyncio.gather(*(ws.close() for ws in opened))
            return seconds

        return self.run(session())


class WebsocketsAsyncio(Asyncio):
    package, module = "websockets", "websockets.asyncio.client"

    async def open(self, url: str) -> Any:
        options = {"ssl": self.ssl} if self.ssl else {}
        return await self.lib.connect(
            url, compression="deflate" if self.compress else None,
            ping_interval=None, max_size=None, proxy=None, **options,
        )  # fmt: skip


class PicowsWebsockets(WebsocketsAsyncio):
    package, module = "picows", "picows.websockets"


class WsminiAsyncio(Asyncio):
    module = "wsmini.aio"

    async def open(self, url: str) -> Any:
        options = {"max_size": None} if self.large else {}
        compression = "deflate" if self.compress else None
        return await self.lib.connect(url, ssl=self.ssl, compression=compression, **options)


class Aiohttp(Asyncio):
    package, module = "aiohttp", "aiohttp"

    async def start(self) -> None:
        connector = self.lib.TCPConnector(limit=0)  # instead of 100 connections
        self.session = self.lib.ClientSession(connector=connector)

    async def stop(self) -> None:
        await self.session.close()

    async def open(self, url: str) -> Any:
        options = {"ssl": self.ssl} if self.ssl else {}
        ws = await self.session.ws_connect(
            url, compress=15 if self.compress else 0, max_msg_size=0, **options
        )
        return AiohttpConnection(ws)


class AiohttpConnection:
    def __init__(self, ws: Any) -> None:
        self.ws, self.close, self.receive = ws, ws.close, ws.receive
        self.send_str, self.send_bytes = ws.send_str, ws.send_bytes

    def send(self, message: Message) -> Any:
        return self.send_str(message) if isinstance(message, str) else self.send_bytes(message)

    async def recv(self) -> Message:
        return (await self.receive()).data


# -- callbacks --


class Callbacks(Client):
    """``session(urls, opened, received)`` connects to each, calls back, returns after ``stop()``.

    ``opened(ws)`` and ``received(ws, message)`` get something with ``send`` and ``close``.
    """

    concurrent = True

    def session(self, urls: Sequence[str], opened: Callable[..., None],
                received: Callable[..., None]) -> None:  # fmt: skip
        raise NotImplementedError

    def stop(self) -> None:
        raise NotImplementedError

    def later(self, function: Callable[[], None]) -> None:
        """Call *function* in the loop, after what waits to be written had a chance."""
        raise NotImplementedError

    def may_send(self, ws: Any) -> bool:
        """Whether what was sent has been taken, nearly."""
        raise NotImplementedError

    def echo(self, url: str, message: Message, count: int) -> float:
        return self.many(url, message, 1, count)

    def many(self, url: str, message: Message, connections: int, count: int) -> float:
        left, begin, end, waiting = connections * count, 0.0, 0.0, []

        def opened(ws: Any) -> None:
            nonlocal begin
            waiting.append(ws)
            if len(waiting) == connections:
                begin = perf_counter()
                for one in waiting:
                    one.send(message)

        def received(ws: Any, answer: Message) -> None:
            nonlocal left, end
            if answer != message:
                raise Wrong("an echo")
            left -= 1
            if left >= connections:
                ws.send(message)
            elif not left:
                end = perf_counter()
                self.stop()

        self.session([url] * connections, opened, received)
        return end - begin

    def receive(self, url: str, ring: Sequence[Message], counts: Sequence[int]) -> List[float]:
        times, start, seen, total, begin = [], 0, 0, 0, 0.0
        expected = [len_of(ring, sum(counts[:i]), n) for i, n in enumerate(counts)]
        count = counts[0]

        def opened(ws: Any) -> None:
            nonlocal begin
            begin = perf_counter()
            ws.send(str(count))

        def received(ws: Any, message: Message) -> None:
            nonlocal seen, total
            total += len(message)
            seen += 1
            if not start:
                check(ring[(seen - 1) % len(ring)], message)
            if seen == count:
                flood_ends(ws, message)

        def flood_ends(ws: Any, message: Message) -> None:
            nonlocal count, start, seen, total, begin
            times.append(perf_counter() - begin)
            start += count
            check((expected[len(times) - 1], ring[(start - 1) % len(ring)]), (total, message))
            if len(times) == len(counts):
                self.stop()
            else:
                count, seen, total = counts[len(times)], 0, 0
                opened(ws)

        self.session([url], opened, received)
        return times

    def send(self, url: str, ring: Sequence[Message], count: int) -> Any:
        """In slices, such that what isn't sent yet stays below a megabyte or a message."""
        slice_size = max(1, min(256, (1 << 18) // len(ring[0])))
        source, left, begin, result = cycle(ring), count, 0.0, []

        def opened(ws: Any) -> None:
            nonlocal begin
            begin = perf_counter()
            go_on(ws)

        def go_on(ws: Any) -> None:
            nonlocal left
            if self.may_send(ws):
                n = min(slice_size, left)
                for message in islice(source, n):
                    ws.send(message)
                left -= n
            if left:
                self.later(lambda: go_on(ws))
            else:
                ws.send(b"?")

        def received(ws: Any, answer: Message) -> None:
            result.extend((perf_counter() - begin, answer))
            self.stop()

        self.session([url], opened, received)
        return result

    def connect(self, url: str, count: int) -> List[float]:
        times = []
        for _ in range(count):
            begin = perf_counter()
            self.session([url], lambda ws: self.stop(), lambda ws, message: None)
            times.append(perf_counter() - begin)
        return times

    def idle(self, url: str, count: int, measure: Callable[[], int]) -> float:
        seen, before, after = 0, 0, 0

        def received(ws: Any, message: Message) -> None:
            nonlocal seen, before, after
            seen += 1
            if seen == 8:
                before = measure()
            if seen == count + 8:
                after = measure()
                self.stop()

        self.session([url] * (count + 8), lambda ws: ws.send("hello"), received)
        return (after - before) / count


class WsminiClient(Callbacks):
    module = "wsmini"

    def prepare(self) -> None:
        super().prepare()
        if not hasattr(self.lib, "Client"):
            raise NotImplementedError("wsmini.Client isn't there yet")

    def session(self, urls: Sequence[str], opened: Callable[..., None],
                received: Callable[..., None]) -> None:  # fmt: skip
        options: Dict[str, Any] = {"max_size": None} if self.large else {}
        self.loop = loop = self.lib.Loop()
        clients: List[Any] = []
        rest = list(reversed(urls))

        def start_next() -> None:
            if rest:
                clients.append(self.lib.Client(
                    rest.pop(), on_open=on_open, on_message=received, ssl=self.ssl,
                    reconnect=self.lib.NoReconnect(), on_error=on_error,
                    compression="deflate" if self.compress else None, **options,
                ).start(loop))  # fmt: skip

        def on_open(client: Any) -> None:
            start_next()
            opened(client)

        def on_error(client: Any, exc: BaseException) -> None:
            raise exc

        self.stopping = False
        start_next()
        loop.run_forever()
        for client in clients:
            client.close()
        while any(client.state.name != "CLOSED" for client in clients):
            loop.run_once(1)
        loop.close()

    def stop(self) -> None:
        self.loop.stop()

    def later(self, function: Callable[[], None]) -> None:
        self.loop.call_soon(function)

    def may_send(self, ws: Any) -> bool:
        return ws.buffered_amount < 1 << 18


class Picows(Callbacks):
    package, module, deflate = "picows", "picows", False

    def session(self, urls: Sequence[str], opened: Callable[..., None],
                received: Callable[..., None]) -> None:  # fmt: skip
        import asyncio

        picows = self.lib
        text, binary = picows.WSMsgType.TEXT, picows.WSMsgType.BINARY
        self.full = False

        class Handle:
            def __init__(self, transport: Any) -> None:
                self.transport = transport

            def send(self, message: Message) -> None:
                if isinstance(message, str):
                    self.transport.send(text, message.encode())
                else:
                    self.transport.send(binary, message)

        class Listener(picows.WSListener):
            def on_ws_connected(listener, transport: Any) -> None:
                listener.handle = Handle(transport)

            def on_ws_frame(listener, transport: Any, frame: Any) -> None:
                try:
                    if frame.msg_type == text:
                        received(listener.handle, frame.get_payload_as_utf8_text())
                    elif frame.msg_type == binary:
                        received(listener.handle, frame.get_payload_as_bytes())
                except Exception as exc:
                    if not self.done.done():
                        self.done.set_exception(exc)

            def pause_writing(listener) -> None:
                self.full = True

            def resume_writing(listener) -> None:
                self.full = False

        async def main() -> None:
            self.aio = asyncio.get_running_loop()
            self.done = self.aio.create_future()
            transports = []
            for url in urls:
                transport, listener = await picows.ws_connect(
                    Listener, url, ssl_context=self.ssl, max_frame_size=1 << 30
                )
                transports.append(transport)
                opened(listener.handle)
            await self.done
            for transport in transports:
                transport.send_close(1000)
            for transport in transports:
                await transport.wait_disconnected()

        asyncio.run(main())

    def stop(self) -> None:
        if not self.done.done():
            self.done.set_result(None)

    def later(self, function: Callable[[], None]) -> None:
        self.aio.call_soon(function)

    def may_send(self, ws: Any) -> bool:
        return not self.full


def module_client(path: str) -> type:
    """A client for a module with ``connect(url, ssl=, compression=)``, by its file."""

    class Module(Blocking):
        def prepare(self) -> None:
            from importlib.util import module_from_spec, spec_from_file_location

            spec = spec_from_file_location("module_client", path)
            assert spec is not None and spec.loader is not None
            self.lib = module_from_spec(spec)
            spec.loader.exec_module(self.lib)

        def open(self, url: str) -> Any:
            compression = "deflate" if self.compress else None
            return self.lib.connect(url, ssl=self.ssl, compression=compression)

    return Module


# In the order of the table.
CLIENTS = {
    "raw": Raw,
    "wsmini": Wsmini,
    "wsmini iterating": WsminiIterating,
    "wsmini Client": WsminiClient,
    "wsmini.aio": WsminiAsyncio,
    "picows": Picows,
    "picows.websockets": PicowsWebsockets,
    "aiohttp": Aiohttp,
    "websockets asyncio": WebsocketsAsyncio,
    "websockets threading": WebsocketsThreading,
    "websocket-client": WebsocketClient,
    "websocket-client wsaccel": WebsocketClientAccelerated,
    "lomond": Lomond,
    "wsproto": Wsproto,
}
OURS = [name for name in CLIENTS if name.startswith("wsmini")]
