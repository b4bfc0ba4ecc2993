"""Connections over TLS: what the socket doesn't show, and how they end."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import zlib

import pytest
from certificates import client_context, server_context
from helpers import CERTS, PATIENCE
from pairs import Task, closing, eventually, receiving, reset

from wsmini import Client, aio
from wsmini.blocking.connection import connect
from wsmini.exceptions import Close, ConnectionClosedError, ConnectionClosedOK
from wsmini.sansio.frames import Opcode
from wsmini.sansio.protocol import State
from wsmini.testing import echo_server, frame, scripted_server

ssl = pytest.importorskip("ssl")

TEXT, BINARY, CONT = Opcode.TEXT, Opcode.BINARY, Opcode.CONT
CLOSE, PING, PONG = Opcode.CLOSE, Opcode.PING, Opcode.PONG
LARGE = 6 << 20

VERSIONS = {"TLS 1.2": "TLSv1_2", "TLS 1.3": "TLSv1_3"}


@pytest.fixture(params=VERSIONS.values(), ids=VERSIONS)
def context(request):
    return server_context(version=ssl.TLSVersion[request.param])


@pytest.fixture
def tls(context):
    """Serve a script and connect to it: ``with tls(script, **options) as ws``."""

    @contextlib.contextmanager
    def tls(script, *, accept=True, **options):
        def accepting(peer):
            if accept:
                peer.accept()
            script(peer)

        with scripted_server(accepting, ssl=context) as server:
            with connect(server.url, ssl=client_context(), **options) as ws:
                yield ws

    return tls


def echo(peer):
    while True:
        peer.send_message(peer.recv_message())


@pytest.mark.parametrize("options", [{}, {"ping_interval": None}, {"busy_poll": 0.001}], ids=str)
def test_messages_of_all_sizes_come_and_go(tls, options):
    with tls(echo, max_size=None, **options) as ws:
        for size in (0, 1, 16384, 16385, 65536, 300000, LARGE):
            for timeout in (None, PATIENCE):
                message = bytes([size % 251]) * size
                ws.send(message, timeout=timeout)
                assert ws.recv(timeout) == message
        ws.send(bytes([i]) * 1000 for i in range(100))
        assert ws.recv() == b"".join(bytes([i]) * 1000 for i in range(100))


@pytest.mark.parametrize("timeout", [None, PATIENCE])
def test_messages_in_one_record_are_received_though_the_socket_shows_nothing(tls, timeout):
    done = threading.Event()

    def script(peer):
        peer.send_raw(frame(TEXT, "a") + frame(BINARY, bytes(100)) + frame(TEXT, "b"))
        peer.recv_message()
        peer.send_raw(frame(BINARY, bytes(15000)) + frame(TEXT, "c"))  # beyond one small read
        done.wait(PATIENCE)

    with tls(script) as ws:
        assert [ws.recv(timeout) for _ in range(3)] == ["a", bytes(100), "b"]
        ws._receiver.reader._size = 16  # as behind a large frame
        ws.send("go")
        assert [ws.recv(timeout) for _ in range(2)] == [bytes(15000), "c"]
        done.set()


def test_tls_can_be_looked_into(context):
    with echo_server(ssl=context) as server:
        ws = connect(server.url, ssl=client_context())
        for _ in range(2):
            pem = ssl.DER_cert_to_PEM_cert(ws.ssl_object.getpeercert(binary_form=True))
            assert pem in (CERTS / "server.pem").read_text()
            assert ws.ssl_object.version() in ("TLSv1.2", "TLSv1.3")
            assert ws.ssl_object.cipher()[2] >= 128
            ws.close()  # and then it is known still


def test_a_record_that_dribbles_in_loses_nothing_to_timeouts(context):
    """Between client and server: a relay that passes one byte at a time on."""

    def script(peer):
        peer.accept()
        echo(peer)

    with scripted_server(script, ssl=context) as server:
        theirs = socket.create_connection((server.host, server.port))
        ours, relay = socket.socketpair()
        stop = threading.Event()

        def pass_on(source, sink, size):
            with contextlib.suppress(OSError):
                while not stop.is_set():
                    data = source.recv(65536)
                    if not data:
                        break
                    for i in range(0, len(data), size):
                        sink.sendall(data[i : i + size])
            with contextlib.suppress(OSError):
                sink.shutdown(socket.SHUT_WR)

        tasks = [Task(pass_on, relay, theirs, 1000), Task(pass_on, theirs, relay, 1)]
        with connect("wss://localhost/", sock=ours, ssl=client_context()) as ws:
            ws.send("x" * 1000)
            while True:
                with contextlib.suppress(TimeoutError):
                    assert ws.recv(timeout=0.0001) == "x" * 1000
                    break
        for task in tasks:
            task.result()
        relay.close()
        theirs.close()


def test_two_ends_that_both_send_do_not_wait_for_each_other(tls):
    def script(peer):
        for _ in range(3):
            peer.send_message(bytes(LARGE))
        for _ in range(3):
            assert len(peer.recv_message()) == LARGE

    with tls(script, max_size=None) as ws:
        for _ in range(3):
            ws.send(bytes(LARGE))
        assert [len(ws.recv()) for _ in range(3)] == [LARGE] * 3


def test_messages_of_many_threads_are_whole_while_one_receives(tls):
    threads, count = 4, 50
    with tls(echo) as ws:
        tasks = [
            Task(lambda me: [ws.send(f"{me} {i} " + "x" * i * i) for i in range(count)], me)
            for me in range(threads)
        ]
        seen = dict.fromkeys(range(threads), 0)
        for _ in range(threads * count):
            me, i, rest = ws.recv().split(" ")
            assert (int(i), len(rest)) == (seen[int(me)], int(i) ** 2)
            seen[int(me)] += 1
        for task in tasks:
            task.result()


def test_compression(context):
    assert zlib
    with echo_server(ssl=context, compression=True) as server:
        with connect(server.url, ssl=client_context()) as ws:
            for message in ("a" * 10000, "b", "", "c" * 10):
                ws.send(message)
                assert ws.recv() == message


def test_closing_in_order(tls):
    def script(peer):
        assert peer.recv_frame()[:2] == (CLOSE, b"\x03\xe8")
        peer.send_raw(frame(TEXT, "last") + closing(1000))

    with tls(script) as ws:
        ws.close()
        assert ws.recv() == "last"
        with pytest.raises(ConnectionClosedOK):
            ws.recv()
        assert (ws.state, ws.fileno()) == (State.CLOSED, -1)


def test_the_server_closes(tls):
    with tls(lambda peer: peer.close(1001)) as ws:
        assert list(ws) == []
        assert ws.close_code == 1001


def test_closing_while_another_thread_receives(tls):
    def script(peer):
        peer.recv_frame()
        peer.send_raw(closing(1000))

    with tls(script) as ws:
        task = Task(ws.recv)
        receiving(ws)
        ws.close()
        with pytest.raises(ConnectionClosedOK):
            task.result()


def test_a_server_that_does_not_answer(tls):
    done, tired = threading.Event(), []

    def script(peer):
        if not done.wait(PATIENCE):
            tired.append(peer)

    with tls(script, close_timeout=0.05) as ws:
        ws.close()
        assert not tired, "the server has ended it"
        assert ws.close_code == 1006
        done.set()


def test_a_reset(tls):
    def script(peer):
        peer.recv_message()
        reset(peer.sock)

    with tls(script) as ws:
        ws.send("go")
        with pytest.raises(ConnectionClosedError) as caught:
            ws.recv()
        assert isinstance(caught.value.__cause__, ConnectionResetError)


def test_the_end_without_any_goodbye(tls):
    def script(peer):
        peer.send_raw(frame(TEXT, "a") + frame(TEXT, "cut")[:3])
        socket.socket.shutdown(peer.sock, socket.SHUT_WR)

    with tls(script) as ws:
        assert ws.recv() == "a"
        with pytest.raises(ConnectionClosedError) as caught:
            ws.recv()
        assert caught.value.code == 1006
        assert isinstance(caught.value.__cause__, EOFError)


def test_a_send_that_fails_tells_which_close_frame_has_come(tls):
    gone = threading.Event()

    def script(peer):
        peer.send_raw(frame(TEXT, "a") + closing(1000))
        socket.socket.shutdown(peer.sock, socket.SHUT_RDWR)
        peer.sock.close()
        gone.set()

    with tls(script) as ws:
        gone.wait(PATIENCE)
        with pytest.raises(ConnectionClosedOK) as caught:
            for _ in range(10000):
                ws.send("x" * 1000)
        assert caught.value.rcvd == Close(1000, "")
        assert ws.recv() == "a"


def test_a_send_that_times_out_in_the_middle_ends_the_connection(tls):
    done = threading.Event()
    with tls(lambda peer: done.wait(PATIENCE), close_timeout=0.1) as ws:
        receiver = Task(ws.recv)
        receiving(ws)
        with pytest.raises(ConnectionClosedError) as caught:
            ws.send(bytes(2 * LARGE), timeout=0.1)
        assert isinstance(caught.value.__cause__, TimeoutError)
        with pytest.raises(ConnectionClosedError):
            receiver.result()
        done.set()


def test_a_send_that_can_not_begin_in_time_changes_nothing(tls):
    go_on = threading.Event()
    total = []

    def script(peer):
        go_on.wait(PATIENCE)
        while True:
            message = peer.recv_message()
            total.append(message)
            if message == b"end":
                return

    with tls(script) as ws:
        sent = 0
        try:
            while True:  # with time for the kernel to find room on the other side
                ws.send(bytes(1000), timeout=0.1)
                sent += 1
        except TimeoutError:
            go_on.set()
        ws.send(b"end", timeout=PATIENCE)
        eventually(lambda: total and total[-1] == b"end")
        assert total == [bytes(1000)] * sent + [b"end"]


def test_a_dead_peer_is_found(tls):
    options = {"ping_interval": 0.1, "ping_timeout": 0.1}
    uses = [
        lambda ws: ws.recv(),
        lambda ws: ws.recv(timeout=PATIENCE),
        lambda ws: ws.send(bytes(2 * LARGE)),
    ]
    for use in uses:
        done = threading.Event()
        with tls(lambda peer, done=done: done.wait(PATIENCE), **options) as ws:
            with pytest.raises(ConnectionClosedError) as caught:
                use(ws)
            assert isinstance(caught.value.__cause__, TimeoutError)
            done.set()


def test_ping_and_pong(tls):
    def script(peer):
        ping = peer.recv_frame()
        peer.send_raw(frame(TEXT, "kept") + frame(PING, b"?") + frame(PONG, ping.data))
        assert peer.recv_frame()[:2] == (PONG, b"?")
        peer.recv_frame()

    with tls(script) as ws:
        assert ws.ping().wait() > 0
        assert ws.recv() == "kept"


def test_chunks_come_as_they_arrive(tls):
    got_first = threading.Event()

    def script(peer):
        data = frame(BINARY, bytes(LARGE))
        peer.send_raw(data[:50000])
        got_first.wait(PATIENCE)
        peer.send_raw(data[50000:])
        peer.recv_frame()

    with tls(script, max_size=None) as ws:
        chunks = ws.recv_streaming()
        size = len(next(chunks))
        got_first.set()
        assert size + sum(map(len, chunks)) == LARGE


async def recv_of_aio(url, options):
    async with aio.connect(url, **options) as ws:
        return await ws.recv(timeout=PATIENCE)


def recv_of_client(url, options):
    got = []

    def on_message(client, message):
        got.append(message)
        client.close()

    Client(url, on_message=on_message, **options).run_forever()
    return got[0]


def recv_in_background(url, options):
    with connect(url, **{**options, "ping_interval": PATIENCE * 4}) as ws:
        eventually(lambda: len(ws._receiver.queue))
        return ws.recv(timeout=0)


def recv(url, options, timeout=None):
    with connect(url, **options) as ws:
        return ws.recv(timeout)


WAITING = {
    "recv": recv,
    "recv(timeout)": lambda url, options: recv(url, options, PATIENCE),
    "busy poll": lambda url, options: recv(url, {**options, "busy_poll": 0.05}),
    "background": recv_in_background,
    "aio": lambda url, options: asyncio.run(recv_of_aio(url, options)),
    "client": recv_of_client,
}


@pytest.mark.parametrize("receive", WAITING.values(), ids=WAITING)
def test_what_tls_has_to_answer_is_answered_while_nothing_else_happens(receive):
    """As a server that waits for a certificate, which it has asked for late (TLS 1.3)."""

    def script(peer):
        peer.accept()
        peer.sock.verify_client_post_handshake()
        peer.sock.do_handshake()
        peer.sock.settimeout(0.01)
        while not peer.sock.getpeercert():
            with contextlib.suppress(socket.timeout):
                peer.sock.recv(1)
        peer.sock.settimeout(PATIENCE)
        peer.send_message("hello")
        peer.recv_frame()

    ours = client_context(certificate="client")
    ours.post_handshake_auth = True
    theirs = server_context(
        version=ssl.TLSVersion.TLSv1_3, client_ca="ca", post_handshake_auth=True
    )
    with scripted_server(script, ssl=theirs) as server:
        assert receive(server.url, {"ssl": ours, "ping_interval": None}) == "hello"
