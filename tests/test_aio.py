"""The asyncio front end: over real sockets, in debug mode."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from pathlib import Path

import pytest
from integration.pairs import TRANSCRIPT, reset

from wsmini import ConcurrencyError, ConnectionClosed, ConnectionClosedError, Fixed, State
from wsmini.aio import connect
from wsmini.testing import echo_server, scripted_server

CERTS = Path(__file__).parent / "certs"
PATIENCE = 20


class NoReaders(asyncio.SelectorEventLoop):
    """As Windows' default loop: it can't watch sockets."""

    def add_reader(self, fd, callback, *args):
        raise NotImplementedError

    add_writer = remove_writer = add_reader

    def remove_reader(self, fd):
        raise NotImplementedError


@pytest.fixture(params=[asyncio.SelectorEventLoop, NoReaders], ids=["selector", "no readers"])
def run(request):
    """Run a coroutine on a loop of either kind, which must be silent."""

    def run(coroutine):
        loop = request.param()
        loop.set_debug(True)
        complaints = []
        loop.set_exception_handler(lambda loop, context: complaints.append(context))
        asyncio.set_event_loop(loop)
        try:
            result = loop.run_until_complete(asyncio.wait_for(coroutine, PATIENCE))
            assert asyncio.all_tasks(loop) == set()
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            asyncio.set_event_loop(None)
            loop.close()
        assert not complaints
        return result

    return run


@pytest.fixture(scope="module")
def url():
    with echo_server() as server:
        yield server.url


@contextlib.contextmanager
def serving(script, **options):
    with scripted_server(script, **options) as server:
        yield server.url


def test_echoes_of_all_kinds(run, url):
    async def main():
        async with connect(url, max_size=None) as ws:
            for message in ["é", b"", b"x" * 70000, bytes(3000000)]:
                await ws.send(message)
                assert await ws.recv() == message
            await ws.send(["a", "b"])
            assert await ws.recv(decode=False) == b"ab"
            await ws.send("large" * 100000)
            assert "".join([chunk async for chunk in ws.recv_streaming()]) == "large" * 100000
            await ws.send(b"abc")
            buffer = bytearray(2)
            with pytest.raises(ValueError):
                await ws.recv_into(buffer)
            assert await ws.recv_into(bytearray(3)) == 3
            assert await (await ws.ping()) > 0
            assert ws.latency > 0
        assert (ws.state, ws.close_code, ws.fileno()) == (State.CLOSED, 1000, -1)

    run(main())


def test_headers_and_their_older_name(run, url):
    async def main():
        async with connect(url, extra_headers={"X-A": "b"}) as ws:
            assert ws.request_headers["X-A"] == "b"
            assert ws.response.status_code == 101

    run(main())
    with pytest.raises(TypeError):
        connect(url, extra_headers={}, additional_headers={})
    with pytest.raises(TypeError):
        connect(url, no_such_option=1)


def test_a_cancelled_recv_loses_nothing(run, url):
    async def main():
        async with connect(url) as ws:
            for number in range(50):
                task = asyncio.ensure_future(ws.recv())
                await asyncio.sleep(0)
                await ws.send(str(number))
                for _ in range(number % 7):
                    await asyncio.sleep(0)
                task.cancel()
                try:
                    received = await task
                except asyncio.CancelledError:
                    received = await ws.recv()
                assert received == str(number)

    run(main())


def test_a_cancelled_stream_loses_nothing(run, url):
    async def main():
        async with connect(url) as ws:
            for turns in range(30):
                task = asyncio.ensure_future(ws.recv_streaming().__anext__())
                await asyncio.sleep(0)
                await ws.send(["lo", "ng"])
                for _ in range(turns):
                    await asyncio.sleep(0)
                task.cancel()
                try:
                    assert "long".startswith(await task)
                except asyncio.CancelledError:
                    assert await ws.recv() == "long"

    run(main())


def test_two_receivers(run, url):
    async def main():
        async with connect(url) as ws:
            task = asyncio.ensure_future(ws.recv())
            await asyncio.sleep(0)
            with pytest.raises(ConcurrencyError):
                await ws.recv()
            await ws.send("for the first")
            assert await task == "for the first"

    run(main())


def test_concurrent_senders(run, url):
    async def main():
        async with connect(url, max_size=None) as ws:
            messages = {bytes([n]) * (n * 40000) for n in range(1, 21)}
            sends = [asyncio.ensure_future(ws.send(message)) for message in messages]
            assert {await ws.recv() for _ in messages} == messages
            await asyncio.gather(*sends)

    run(main())


def test_sending_waits_while_the_peer_does_not_read(run):
    def script(peer):
        peer.accept()
        peer.recv_message()
        for _ in range(20):
            assert len(peer.recv_message()) == 1 << 20
        peer.close()

    async def talk(url):
        async with connect(url) as ws:
            await ws.send("begin")
            for _ in range(20):
                await ws.send(bytes(1 << 20))
                assert ws._link.buffered <= 1 << 16
            with pytest.raises(ConnectionClosed):
                await ws.recv()

    with serving(script) as url:
        run(talk(url))


def test_unread_messages_make_the_peer_wait(run):
    def script(peer):
        peer.accept()
        for number in range(3000):
            peer.send_message(b"%d" % number + bytes(5000))
        peer.close()

    async def main(url):
        async with connect(url, max_queue=4) as ws:
            await asyncio.sleep(0.2)
            assert len(ws._unread) < 20
            numbers = [int(message[:-5000]) async for message in ws]
            assert numbers == list(range(3000))

    with serving(script) as url:
        run(main(url))


def test_reconnecting_until_it_is_enough(run, url):
    async def main():
        count = 0
        async for ws in connect(url, policy=Fixed(0.0)):
            await ws.send("x")
            assert await ws.recv() == "x"
            count += 1
            if count == 3:
                await ws.close()
                break
            ws._link.abort()
            await asyncio.sleep(0)
        assert count == 3

    run(main())


def test_a_refused_connection_ends_reconnecting_with_its_failure(run):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

    async def main():
        with pytest.raises(ConnectionRefusedError):
            async for _ in connect(f"ws://127.0.0.1:{port}", policy=Fixed(0.0, attempts=2)):
                raise AssertionError("there is no server")

    run(main())


@pytest.mark.parametrize("turns", range(12))
def test_a_cancelled_opening_leaves_nothing(run, url, turns):
    async def main():
        task = asyncio.ensure_future(connect(url).__aenter__())
        for _ in range(turns):
            await asyncio.sleep(0.001 if turns > 8 else 0)
        task.cancel()
        try:
            ws = await task
        except asyncio.CancelledError:
            return
        await ws.close()

    run(main())


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("ending", ["fin", "rst"])
def test_a_connection_cut_at_every_byte(ending, secure):
    at = 0

    def script(peer):
        peer.accept()
        peer.send_raw(TRANSCRIPT[:at])
        if ending == "rst" and not secure:
            reset(peer.sock)

    options = {}
    if secure:
        options["ssl"] = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        options["ssl"].load_cert_chain(CERTS / "server.pem")
        context = ssl.create_default_context(cafile=str(CERTS / "ca.pem"))

    async def main(url):
        received = []
        ws = await connect(url, **({"ssl": context} if secure else {}))
        with pytest.raises(ConnectionClosed) as caught:
            while True:
                received.append(await ws.recv())
        assert received == ["one", "two"][: len(received)]
        if at == len(TRANSCRIPT) and ending == "fin":
            assert received == ["one", "two"]
            assert caught.value.code == 1000
        else:
            assert caught.value.code in (1000, 1006)
            assert isinstance(caught.value, ConnectionClosedError) or at == len(TRANSCRIPT)
        await ws.close()
        assert ws.fileno() == -1

    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    with serving(script, **options) as url:
        if secure:
            url = url.replace("127.0.0.1", "localhost")
        while at <= len(TRANSCRIPT):
            asyncio.run(asyncio.wait_for(main(url), PATIENCE))
            at += 1
    if before:
        assert len(os.listdir("/proc/self/fd")) <= before
