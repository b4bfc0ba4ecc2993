"""The blocking API, one thread at a time: what goes in comes out, however it was cut."""

from __future__ import annotations

import array
import contextlib
import random
import socket
import threading
import zlib

import pytest
from helpers import COUNTS_REFERENCES, PATIENCE, SEED, splits
from pairs import Task, closing, connection, pair
from tables import each_row

import wsmini
from wsmini.blocking.connection import connect
from wsmini.blocking.reader import Reader
from wsmini.blocking.receiver import Receiver
from wsmini.blocking.transport import MAX_DEFERRED, BlockingTransport
from wsmini.exceptions import (
    Close,
    ConcurrencyError,
    ConnectionClosed,
    ConnectionClosedError,
    ConnectionClosedOK,
    PayloadTooBig,
    ProtocolError,
    SendBufferFull,
)
from wsmini.opening.streams import SocketStream
from wsmini.sansio.deflate import PerMessageDeflate
from wsmini.sansio.frames import Opcode
from wsmini.sansio.protocol import State
from wsmini.testing import echo_server, frame, scripted_server

TEXT, BINARY, CONT = Opcode.TEXT, Opcode.BINARY, Opcode.CONT
CLOSE, PING, PONG = Opcode.CLOSE, Opcode.PING, Opcode.PONG


# -- receiving --

MESSAGES = {
    "text": (frame(TEXT, "grüße"), "grüße"),
    "binary": (frame(BINARY, b"\x00\xff"), b"\x00\xff"),
    "empty text": (frame(TEXT), ""),
    "empty binary": (frame(BINARY), b""),
    "fragments": (
        frame(TEXT, "a", fin=False) + frame(PING) + frame(CONT, "b", fin=False) + frame(CONT),
        "ab",
    ),
    "medium": (frame(BINARY, bytes(70000)), bytes(70000)),
}


@each_row("timeout", [None, 10], ids=["forever", "timeout"])
@each_row("data, message", MESSAGES.values(), ids=MESSAGES)
def test_a_message_is_received(data, message, timeout):
    with pair() as (ws, peer):
        peer.send_raw(data)
        assert ws.recv(timeout) == message


def test_what_came_behind_the_handshake_is_received():
    with pair(rest=frame(TEXT, "early") + frame(TEXT, "cut")[:3]) as (ws, peer):
        assert ws.recv() == "early"
        peer.send_raw(b"ut")
        assert ws.recv() == "cut"


@pytest.mark.parametrize("data, message", list(MESSAGES.values())[:5], ids=list(MESSAGES)[:5])
def test_timeouts_lose_nothing_wherever_they_fall(data, message):
    with pair() as (ws, peer):
        for chunks in splits(data):
            chunks = list(filter(None, chunks))
            for i, chunk in enumerate(chunks):
                peer.send_raw(chunk)
                if i < len(chunks) - 1:
                    with pytest.raises(TimeoutError):
                        ws.recv(timeout=0.001 * (i % 2))
            assert ws.recv(timeout=0) == message


def test_a_timeout_of_0_takes_what_is_there():
    with pair(max_size=None) as (ws, peer):
        with pytest.raises(TimeoutError):
            ws.recv(timeout=0)
        peer.send_raw(frame(TEXT, "a") + frame(TEXT, "b") + frame(BINARY, bytes(100000)))
        assert [ws.recv(timeout=0) for _ in range(3)] == ["a", "b", bytes(100000)]
        with pytest.raises(TimeoutError):
            ws.recv(timeout=0)


def test_a_timeout_ends_a_receive_though_bytes_keep_coming():
    with pair(tcp=True) as (ws, peer):
        stop = threading.Event()

        def flood():
            while not stop.is_set():
                peer.send_raw(frame(PONG, bytes(125)) * 500)

        task = Task(flood)
        try:
            with pytest.raises(TimeoutError):
                ws.recv(timeout=0.05)
        finally:
            stop.set()
            peer.sock.shutdown(socket.SHUT_RDWR)
            with contextlib.suppress(OSError):
                task.result()


@pytest.mark.parametrize("timeout", [1e10, 1e300], ids=str)
@pytest.mark.parametrize("ping_interval", [None, 20, 1e10], ids=str)
def test_timeouts_may_be_longer_than_the_system_can_wait(timeout, ping_interval):
    with pair(ping_interval=ping_interval) as (ws, peer):
        task = Task(ws.recv, timeout)
        ping = ws.ping()
        peer.recv_frame()
        peer.send_message("x")
        assert task.result() == "x"
        task = Task(ping.wait, timeout)
        peer.sock.close()
        with pytest.raises(ConnectionClosed):
            task.result()


DECODED = {
    "as it is, text": (frame(TEXT, "é"), None, "é"),
    "as it is, binary": (frame(BINARY, "é"), None, "é".encode()),
    "text as str": (frame(TEXT, "é"), True, "é"),
    "text as bytes": (frame(TEXT, "é"), False, "é".encode()),
    "binary as str": (frame(BINARY, "é"), True, "é"),
    "binary as bytes": (frame(BINARY, "é"), False, "é".encode()),
}


@pytest.mark.parametrize("data, decode, message", DECODED.values(), ids=DECODED)
def test_decode_chooses_the_type(data, decode, message):
    with pair() as (ws, peer):
        peer.send_raw(data * 3)
        assert [ws.recv(decode=decode), ws.recv(0, decode=decode)] == [message] * 2
        chunks = list(ws.recv_streaming(decode))
        assert chunks == [message]


def test_binary_that_is_not_utf_8_can_not_be_decoded_and_is_gone():
    with pair() as (ws, peer):
        peer.send_raw(frame(BINARY, b"\xff") + frame(BINARY, b"next"))
        with pytest.raises(UnicodeDecodeError):
            ws.recv(decode=True)
        assert ws.recv(decode=True) == "next"


@pytest.mark.parametrize("code", [1000, 1001])
def test_iteration_ends_at_a_normal_close(code):
    with pair() as (ws, peer):
        peer.send_raw(frame(TEXT, "a") + frame(BINARY, b"b") + closing(code))
        peer.sock.shutdown(socket.SHUT_WR)
        assert list(ws) == ["a", b"b"]
        assert list(ws) == []
        assert (ws.close_code, ws.state) == (code, State.CLOSED)


@pytest.mark.parametrize("code", [1002, 1008, 1011, 3000, 4999])
def test_iteration_raises_at_any_other_close(code):
    with pair() as (ws, peer):
        peer.send_raw(frame(TEXT, "a") + closing(code, "why"))
        peer.sock.shutdown(socket.SHUT_WR)
        messages = iter(ws)
        assert next(messages) == "a"
        with pytest.raises(ConnectionClosedError) as caught:
            next(messages)
        assert caught.value.rcvd == Close(code, "why")
        assert caught.value.rcvd_then_sent
        assert (ws.close_code, ws.close_reason) == (code, "why")


def test_all_ways_to_receive_may_alternate_and_nothing_is_lost():
    rng = random.Random(SEED)
    sent = [str(i) * rng.choice([1, 3, 40, 3000]) for i in range(600)]
    with pair(tcp=True) as (ws, peer):

        def send():
            data = b"".join(frame(TEXT, message) for message in sent)
            while data:
                n = rng.choice([1, 10, 1000, 40000])
                peer.send_raw(data[:n])
                data = data[n:]

        sending, received, buffer = Task(send), [], bytearray(20000)
        iterators = [iter(ws), iter(ws)]
        ways = [
            lambda: ws.recv(),
            lambda: ws.recv(timeout=PATIENCE),
            lambda: next(iterators[0]),
            lambda: next(iterators[1]),
            lambda: next(iter(ws)),
            lambda: buffer[: ws.recv_into(buffer)].decode(),
            lambda: "".join(ws.recv_streaming()),
        ]
        while len(received) < len(sent):
            way = rng.choice(ways)
            for _ in range(rng.choice([1, 2, 9])):
                if len(received) < len(sent):
                    received.append(way())
        sending.result()
        assert received == sent


def test_a_batch_of_recv_inside_an_iteration_is_not_lost():
    with pair() as (ws, peer):
        peer.send_raw(frame(TEXT, "0"))
        received = []
        for message in ws:
            received.append(message)
            if message == "0":
                peer.send_raw(b"".join(frame(TEXT, str(i)) for i in range(1, 5)))
                received.append(ws.recv())
            if message == "4":
                break
        assert received == ["0", "1", "2", "3", "4"]


# -- receiving in chunks --


def test_chunks_come_as_they_arrive():
    with pair() as (ws, peer):
        peer.send_raw(frame(BINARY, bytes(600000))[:1000])  # and not before the frame is complete
        chunks = ws.recv_streaming()
        assert next(chunks) == bytes(990)
        peer.send_raw(b"x" * 9)
        assert next(chunks) == b"x" * 9
        task = Task(peer.send_raw, bytes(600000 - 999) + frame(TEXT, "next"))
        rest = list(chunks)
        task.result()
        assert b"".join(rest) == bytes(600000 - 999)
        assert max(map(len, rest)) <= 131072
        assert ws.recv() == "next"


@pytest.mark.parametrize("decode", [None, True, False], ids=str)
@pytest.mark.parametrize("opcode", [TEXT, BINARY], ids=["text", "binary"])
def test_chunks_put_together_are_the_message(opcode, decode):
    message = "aé😀ß" * 5
    data = frame(opcode, message[:7], fin=False) + frame(PING) + frame(CONT, message[7:])
    is_text = decode or (decode is None and opcode == TEXT)
    expected = message if is_text else message.encode()
    with pair() as (ws, peer):
        for chunks in splits(data + frame(TEXT, "|")):
            sending = Task(lambda chunks: [peer.send_raw(chunk) for chunk in chunks], chunks)
            received = list(ws.recv_streaming(decode))
            assert type(expected)().join(received) == expected
            assert ws.recv() == "|"
            sending.result()


@pytest.mark.skipif(not COUNTS_REFERENCES, reason="a generator that was left isn't closed at once")
def test_leaving_early_skips_the_rest():
    with pair() as (ws, peer):
        peer.send_raw(frame(TEXT, "é", fin=False))
        for chunk in ws.recv_streaming():
            assert chunk == "é"
            break
        peer.send_raw(frame(CONT, "ü", fin=False) + frame(CONT, "ß") + frame(TEXT, "next"))
        assert ws.recv() == "next"


def test_a_stream_goes_on_where_receiving_timed_out():
    with pair() as (ws, peer):
        peer.send_raw(frame(TEXT, "abc", fin=False) + frame(CONT, "def")[:3])
        with pytest.raises(TimeoutError):
            ws.recv(timeout=0)
        peer.send_raw(b"ef")
        assert "".join(ws.recv_streaming()) == "abcdef"


def test_nothing_else_receives_while_a_message_is_streamed():
    with pair() as (ws, peer):
        peer.send_raw(frame(TEXT, "a", fin=False))
        chunks = ws.recv_streaming()
        assert next(chunks) == "a"
        for receive in (ws.recv, lambda: next(iter(ws)), lambda: next(ws.recv_streaming())):
            with pytest.raises(ConcurrencyError):
                receive()
        peer.send_raw(frame(CONT, "b") + frame(TEXT, "next"))
        assert list(chunks) == ["b"]
        assert ws.recv(timeout=PATIENCE) == "next"


def test_sending_and_pinging_work_while_a_message_is_streamed():
    with pair() as (ws, peer):
        peer.send_raw(frame(TEXT, "a", fin=False))
        chunks = ws.recv_streaming()
        assert next(chunks) == "a"
        ws.send("reply")
        assert peer.recv_message() == "reply"
        ping = ws.ping(b"!")
        assert peer.recv_frame().data == b"!"
        peer.send_raw(frame(CONT, "b", fin=False) + frame(PONG, b"!"))
        assert ping.wait(timeout=PATIENCE) >= 0  # and keeps the chunk in between
        peer.send_raw(frame(CONT, "c") + frame(TEXT, "next"))
        assert "".join(chunks) == "bc"
        assert ws.recv() == "next"


@pytest.mark.parametrize("max_queue", [1, 16])
def test_closing_while_a_message_is_streamed(max_queue):
    with pair(max_queue=max_queue) as (ws, peer):
        peer.send_raw(frame(TEXT, "a", fin=False))
        chunks = ws.recv_streaming()
        assert next(chunks) == "a"
        for i in range(5):
            peer.send_raw(frame(CONT, str(i), fin=False))
        peer.send_raw(frame(CONT, "z") + frame(TEXT, "next") + closing(1000))
        peer.sock.shutdown(socket.SHUT_WR)
        ws.close()
        received = []
        with pytest.raises(ConnectionClosedOK):
            for chunk in chunks:
                received.append(chunk)
            received.append(ws.recv())
            ws.recv()
        # All of it, or a part without a gap.
        assert "01234znext".startswith("".join(received))
        if max_queue > 10:
            assert received[-1] == "next"


def test_a_stream_ends_with_the_connection():
    with pair() as (ws, peer):
        peer.send_raw(frame(TEXT, "a", fin=False))
        chunks = ws.recv_streaming()
        assert next(chunks) == "a"
        peer.sock.close()
        with pytest.raises(ConnectionClosedError):
            next(chunks)
        with pytest.raises(ConnectionClosedError):
            ws.recv()


# -- receiving into a buffer --


def test_a_message_is_received_into_a_buffer():
    with pair() as (ws, peer):
        peer.send_raw(frame(BINARY, b"abc") + frame(TEXT, "é") + frame(BINARY))
        buffer = bytearray(b"-----")
        assert [ws.recv_into(buffer), buffer] == [3, b"abc--"]
        assert ws.recv_into(memoryview(buffer)[3:], timeout=PATIENCE) == 2
        assert buffer == b"abc\xc3\xa9"
        assert ws.recv_into(bytearray()) == 0
        numbers = array.array("i", [7, 7])
        peer.send_raw(frame(BINARY, bytes(4)))
        assert ws.recv_into(memoryview(numbers)) == 4
        assert list(numbers) == [0, 7]
        with pytest.raises(TimeoutError):
            ws.recv_into(buffer, timeout=0)


def test_a_message_that_does_not_fit_can_still_be_received():
    with pair() as (ws, peer):
        peer.send_raw(frame(TEXT, "abc") + frame(TEXT, "d"))
        with pytest.raises(ValueError, match="3 bytes"):
            ws.recv_into(bytearray(2))
        assert [ws.recv(), ws.recv()] == ["abc", "d"]


@pytest.mark.parametrize("buffer", [b"---", memoryview(b"---"), "---", memoryview(b"--")[::2]])
def test_a_wrong_buffer_costs_no_message(buffer):
    with pair() as (ws, peer):
        peer.send_raw(frame(TEXT, "abc"))
        with pytest.raises(TypeError):
            ws.recv_into(buffer)
        assert ws.recv() == "abc"


# -- sending --


class Text(str):
    pass


SENT = {
    "str": ("é", None, TEXT, "é".encode()),
    "str subclass": (Text("a"), None, TEXT, b"a"),
    "empty str": ("", None, TEXT, b""),
    "str as text": ("é", True, TEXT, "é".encode()),
    "str as binary": ("é", False, BINARY, "é".encode()),
    "bytes": (b"\xff", None, BINARY, b"\xff"),
    "empty bytes": (b"", None, BINARY, b""),
    "bytes as text": ("é".encode(), True, TEXT, "é".encode()),
    "bytes as binary": (b"a", False, BINARY, b"a"),
    "bytearray": (bytearray(b"ab"), None, BINARY, b"ab"),
    "memoryview": (memoryview(b"ab"), None, BINARY, b"ab"),
    "memoryview as text": (memoryview(b"ab"), True, TEXT, b"ab"),
    "empty memoryview": (memoryview(array.array("i")), None, BINARY, b""),
    "not contiguous": (memoryview(b"abcdef")[::-2], None, BINARY, b"fdb"),
    "array": (array.array("H", [1, 1]), None, BINARY, array.array("H", [1, 1])),
    "of numbers": (memoryview(array.array("H", [1, 1])), None, BINARY, array.array("H", [1, 1])),
    "of two dimensions": (memoryview(b"abcd").cast("B", [2, 2]), None, BINARY, b"abcd"),
    "long numbers": (memoryview(array.array("Q", [0]) * 300), None, BINARY, bytes(2400)),
}


@each_row("message, text, opcode, payload", SENT.values(), ids=SENT)
def test_a_message_is_sent(message, text, opcode, payload):
    for extensions in ([], [PerMessageDeflate()]):
        with pair(extensions) as (ws, peer):
            ws.send(message, text=text, compress=False)
            sent = peer.recv_frame()
            assert (sent.opcode, sent.data, sent.fin, sent.rsv1) == (
                opcode, bytes(payload), True, False,
            )  # fmt: skip
            ws.send([message], text=text, compress=False, timeout=PATIENCE)
            sent = peer.recv_frame()
            assert (sent.opcode, sent.data, sent.fin) == (opcode, bytes(payload), False)
            sent = peer.recv_frame()
            assert (sent.opcode, sent.data, sent.fin) == (CONT, b"", True)


NOT_SENT = {
    "int": (1, None, TypeError),
    "None": (None, None, TypeError),
    "dict": ({"a": "b"}, None, TypeError),
    "object": (object(), None, TypeError),
    "list of int": ([1], None, TypeError),
    "surrogate": ("\ud800", None, ValueError),
    "surrogate as text": ("\ud800", True, ValueError),
    "not utf-8": (b"\xff", True, ValueError),
    "not utf-8 in a fragment": ([b"\xff"], True, ValueError),
}


@pytest.mark.parametrize("message, text, error", NOT_SENT.values(), ids=NOT_SENT)
def test_what_is_no_message_is_refused_before_anything_is_sent(message, text, error):
    with pair() as (ws, peer):
        with pytest.raises(error):
            ws.send(message, text=text)
        ws.send("fine")
        assert peer.recv_frame().data == b"fine"


FRAGMENTS = {
    "list": (["a", "é"], None, TEXT, [b"a", "é".encode(), b""]),
    "tuple of bytes": ((b"a", bytearray(b"b")), None, BINARY, [b"a", b"b", b""]),
    "generator": ((c for c in "abc"), None, TEXT, [b"a", b"b", b"c", b""]),
    "bytes as text": ([b"a", b"b"], True, TEXT, [b"a", b"b", b""]),
    "both as binary": (["a", b"b"], False, BINARY, [b"a", b"b", b""]),
    "empty parts": (["", ""], None, TEXT, [b"", b"", b""]),
    "large": ([bytes(300000)] * 2, None, BINARY, [bytes(300000)] * 2 + [b""]),
}


@pytest.mark.parametrize("message, text, opcode, payloads", FRAGMENTS.values(), ids=FRAGMENTS)
def test_an_iterable_is_sent_as_fragments(message, text, opcode, payloads):
    with pair() as (ws, peer):
        task = Task(ws.send, message, text=text)
        frames = [peer.recv_frame() for _ in payloads]
        task.result()
        assert [f.data for f in frames] == payloads
        assert [f.opcode for f in frames] == [opcode] + [CONT] * (len(frames) - 1)
        assert [f.fin for f in frames] == [False] * (len(frames) - 1) + [True]


@pytest.mark.parametrize("message", [[], (), iter(()), set()], ids=repr)
def test_an_empty_iterable_sends_nothing(message):
    with pair() as (ws, peer):
        ws.send(message)
        ws.send("next")
        assert peer.recv_frame().data == b"next"


def failing(*parts):
    yield from parts
    raise LookupError("no more parts")


def test_an_iterable_that_fails_at_once_sends_nothing():
    with pair() as (ws, peer):
        with pytest.raises(LookupError):
            ws.send(failing())
        ws.send("next")
        assert peer.recv_frame().data == b"next"


BROKEN = {
    "fails": (failing("a"), LookupError),
    "mixes types": (["a", b"b"], TypeError),
    "has a wrong part": (["a", 1], TypeError),
    "has a surrogate": (["a", "\ud800"], ValueError),
}


@pytest.mark.parametrize("message, error", BROKEN.values(), ids=BROKEN)
def test_a_message_that_can_not_be_completed_ends_the_connection(message, error):
    with pair() as (ws, peer):
        task = Task(ws.send, message)
        assert peer.recv_frame().data == b"a"
        sent = peer.recv_frame()
        assert (sent.opcode, sent.data) == (CLOSE, b"\x03\xf3message abandoned")
        peer.send_raw(closing(1011))
        peer.sock.close()
        with pytest.raises(error):
            task.result()
        assert ws.state is State.CLOSED
        with pytest.raises(ConnectionClosedError):
            ws.send("next")


def test_what_is_sent_in_the_middle_of_ones_own_message_goes_behind_it():
    with pair() as (ws, peer):

        def parts():
            yield "a"
            ws.send("b")
            ws.send(["c", "d"])
            ws.pong(b"p")
            yield "e"

        ws.send(parts())
        received = [peer.recv_frame().data for _ in range(6)]
        assert received == [b"a", b"p", b"e", b"", b"b", b"cd"]


def test_there_is_a_limit_to_what_is_sent_in_the_middle_of_ones_own_message():
    with pair() as (ws, peer):

        def parts():
            yield "a"
            for _ in range(MAX_DEFERRED):
                ws.send("b")
            with pytest.raises(SendBufferFull):
                ws.send("c")

        reading = Task(lambda: [peer.recv_frame().data for _ in range(2 + MAX_DEFERRED)])
        ws.send(parts())
        assert reading.result() == [b"a", b"", *[b"b"] * MAX_DEFERRED]


def test_receiving_in_the_middle_of_ones_own_message():
    with pair() as (ws, peer):
        peer.send_raw(frame(TEXT, "b") + frame(TEXT, "c"))
        ws.send(ws.recv() for _ in range(2))
        assert peer.recv_message() == "bc"


def test_messages_are_compressed_unless_asked_not_to():
    data = b"abc" * 100
    with pair([PerMessageDeflate()]) as (ws, peer):
        inflater = zlib.decompressobj(-15)
        for compress in (None, False, True, False):
            for message in (data, [data[:100], data[100:]]):
                ws.send(message, compress=compress)
                frames = [peer.recv_frame()]
                while not frames[-1].fin:
                    frames.append(peer.recv_frame())
                payload = b"".join(f.data for f in frames)
                assert [f.rsv1 for f in frames] == [compress is not False] + [False] * (
                    len(frames) - 1
                )
                if compress is not False:
                    assert len(payload) < 100
                    payload = inflater.decompress(payload + b"\0\0\xff\xff")
                assert payload == data


def test_compressed_messages_are_received():
    deflate, parts = PerMessageDeflate().deflate, [b"abc" * 99, b"def" * 99, b"abc" * 99]
    with pair([PerMessageDeflate()]) as (ws, peer):
        for part in parts:
            peer.send_frame(TEXT, deflate(part), rsv1=True)
        assert [ws.recv() for _ in parts] == [part.decode() for part in parts]


# -- control --


def test_a_ping_is_answered():
    with pair() as (ws, peer):
        peer.send_raw(frame(PING, b"1") + frame(PING, b"2") + frame(TEXT, "x"))
        assert ws.recv() == "x"
        assert [peer.recv_frame()[:2] for _ in range(2)] == [(PONG, b"1"), (PONG, b"2")]


@pytest.mark.parametrize("data, payload", [("é", "é".encode()), (b"", b""), (bytes(125),) * 2])
def test_ping_and_pong_send_their_data(data, payload):
    with pair() as (ws, peer):
        ws.ping(data)
        ws.pong(data)
        assert [peer.recv_frame()[:2] for _ in range(2)] == [(PING, payload), (PONG, payload)]


def test_a_ping_has_random_data_by_default():
    with pair() as (ws, peer):
        ws.ping()
        ws.ping()
        first, second = peer.recv_frame().data, peer.recv_frame().data
        assert len(first) == len(second) == 8 and first != second


def test_wrong_pings_are_refused():
    with pair() as (ws, _):
        ws.ping("a")
        with pytest.raises(ValueError, match="same data"):
            ws.ping(b"a")
        for call in (ws.ping, ws.pong):
            with pytest.raises(ValueError, match="125"):
                call(bytes(126))


def test_waiting_for_a_pong_receives_if_nobody_does():
    with pair() as (ws, peer):
        assert ws.latency == 0
        ping = ws.ping(b"!")
        peer.send_raw(frame(TEXT, "a") + frame(TEXT, "b"))
        with pytest.raises(TimeoutError):
            ping.wait(timeout=0.001)
        peer.send_raw(frame(PONG, b"!") + frame(TEXT, "c"))
        assert ping.wait() == ping.wait(timeout=0) == ws.latency > 0
        assert [ws.recv() for _ in range(3)] == ["a", "b", "c"]


def test_what_a_wait_for_a_pong_kept_can_be_streamed_and_iterated_over():
    with pair() as (ws, peer):
        peer.send_raw(frame(TEXT, "a") + frame(TEXT, "b") + frame(TEXT, "c") + frame(PONG, b"!"))
        ws.ping(b"!").wait()
        assert list(ws.recv_streaming()) == ["a"]
        assert next(iter(ws)) == "b"
        assert ws.recv(timeout=0) == "c"


def test_a_ping_is_not_answered_any_more_once_the_connection_is_closed():
    with pair() as (ws, peer):
        ping = ws.ping()
        peer.recv_frame()
        peer.send_raw(closing(1000))
        peer.sock.close()
        with pytest.raises(ConnectionClosedOK):
            ping.wait()
        for call in (ws.ping, ws.pong, lambda: ws.send("a"), lambda: ws.send(["a"])):
            with pytest.raises(ConnectionClosedOK):
                call()


# -- failing --

WRONG = {
    "masked": (frame(TEXT, "a", masked=True), 1002, ProtocolError),
    "reserved bit": (frame(TEXT, "a", rsv2=True), 1002, ProtocolError),
    "bad utf-8": (frame(TEXT, b"\xff"), 1007, UnicodeDecodeError),
    "too big": (frame(BINARY, bytes(101)), 1009, PayloadTooBig),
}


@pytest.mark.parametrize("data, code, error", WRONG.values(), ids=WRONG)
def test_a_peer_that_breaks_the_rules_is_told_so(data, code, error):
    with pair(max_size=100) as (ws, peer):
        peer.send_raw(frame(TEXT, "good") + data + frame(TEXT, "late"))
        assert ws.recv() == "good"
        task = Task(ws.recv)
        sent = peer.recv_frame()
        assert (sent.opcode, sent.data[:2]) == (CLOSE, code.to_bytes(2, "big"))
        peer.sock.close()
        with pytest.raises(ConnectionClosedError) as caught:
            task.result()
        assert isinstance(caught.value.__cause__, error)
        assert (caught.value.sent.code, caught.value.rcvd) == (code, None)


# -- leaving --

EXITS = {
    "normal": (None, 1000),
    "error": (LookupError, 1011),
    "interrupt": (KeyboardInterrupt, 1001),
    "exit": (SystemExit, 1001),
}


@pytest.mark.parametrize("error, code", EXITS.values(), ids=EXITS)
def test_leaving_the_with_block_closes(error, code):
    with pair() as (ws, peer):
        answer = Task(lambda: (peer.recv_frame(), peer.send_raw(closing(code)), peer.sock.close()))
        if error is None:
            with ws as same:
                assert same is ws
        else:
            with pytest.raises(error), ws:
                raise error()
        sent = answer.result()[0]
        assert (sent.opcode, sent.data) == (CLOSE, code.to_bytes(2, "big"))
        assert (ws.state, ws.fileno()) == (State.CLOSED, -1)


def test_leaving_because_the_connection_is_closed():
    with pair() as (ws, peer):
        peer.send_raw(closing(1012))
        peer.sock.shutdown(socket.SHUT_WR)
        with pytest.raises(ConnectionClosedError), ws:
            ws.recv()
        assert ws.close_code == 1012


WRONG_CODES = [(1005, "", ValueError), (1000, "x" * 124, ValueError), ("1000", "", TypeError)]


@pytest.mark.parametrize("code, reason, error", WRONG_CODES)
def test_a_wrong_close_code_closes_nothing(code, reason, error):
    with pair() as (ws, peer):
        with pytest.raises(error):
            ws.close(code, reason)
        assert ws.state is State.OPEN
        peer.send_message("x")
        assert ws.recv() == "x"


# -- connect() and what there is to know --


def test_connecting_tells_what_happened():
    with echo_server(subprotocols=["chat"], compression=True) as server:
        with connect(server.url, subprotocols=["chat"], origin="http://me.example") as ws:
            ws.send("hello")
            assert ws.recv() == "hello"
            assert ws.subprotocol == "chat"
            assert [extension.name for extension in ws.extensions] == ["permessage-deflate"]
            assert ws.request_headers["Origin"] == "http://me.example"
            assert ws.response.status_code == 101
            assert ws.response_headers["Upgrade"] == "websocket"
            assert ws.remote_address == (server.host, server.port)
            assert ws.local_address[0] == "127.0.0.1"
            assert ws.timings and all(seconds >= 0 for seconds in ws.timings.values())
            assert ws.fileno() >= 0
            assert len(ws.id) == 16 and ws.id == ws.id
            assert repr(ws) == f"<wsmini.Connection {ws.id} to 127.0.0.1:{server.port}, OPEN>"
            assert (ws.state, ws.close_code, ws.close_reason) == (State.OPEN, None, None)
        assert (ws.close_code, ws.close_reason) == (1000, "")


def test_a_connected_socket_can_be_used():
    with echo_server() as server:
        sock = socket.create_connection((server.host, server.port))
        with connect("ws://elsewhere.example/", sock=sock) as ws:
            ws.send(b"x" * 100000)
            assert ws.recv() == b"x" * 100000
        assert sock.fileno() == -1
        assert server.requests[0].headers["Host"] == "elsewhere.example"


def test_frames_sent_with_the_handshake_are_received():
    def script(peer):
        peer.accept(then=frame(TEXT, "hello") + closing(1000))

    with scripted_server(script) as server, connect(server.url) as ws:
        assert list(ws) == ["hello"]


def test_nothing_stays_open_if_the_connection_can_not_be_set_up(monkeypatch):
    def fail(*args):
        raise MemoryError

    monkeypatch.setattr("wsmini.blocking.connection.BlockingTransport", fail)
    with echo_server() as server, pytest.raises(MemoryError):
        connect(server.url)


def test_a_connection_whose_peer_has_gone_before_it_was_set_up():
    ours, theirs = socket.socketpair()
    theirs.close()
    with connection(SocketStream(ours)) as ws, pytest.raises(wsmini.ConnectionClosedError):
        ws.recv()


def test_arguments_of_the_wrong_type_are_named():
    with echo_server() as server, connect(server.url) as ws:
        for call in (ws.recv, lambda timeout: ws.send("x", timeout=timeout), ws.ping().wait):
            with pytest.raises(TypeError, match="timeout is a number of seconds or None, not '5'"):
                call("5")
        with pytest.raises(TypeError, match="takes str or bytes, not int"):
            ws.ping(5)
        ws.send("still there")
        assert ws.recv() == "still there"


def test_threads_that_take_turns_receiving_lose_nothing():
    count, threads = 6000, 3

    def script(peer):
        peer.accept()
        peer.send_raw(b"".join(frame(TEXT, str(i).encode()) for i in range(count)))
        peer.close()

    def take(ws, received):
        with contextlib.suppress(ConnectionClosedOK):
            while True:
                with contextlib.suppress(ConcurrencyError):
                    received.append(ws.recv())

    with scripted_server(script) as server, connect(server.url) as ws:
        received = [[] for _ in range(threads)]
        tasks = [Task(take, ws, one) for one in received]
        for task in tasks:
            task.result()
    assert sorted(int(text) for one in received for text in one) == list(range(count))


def test_a_message_that_does_not_fit_can_be_refused_for_ever():
    with pair(rest=frame(TEXT, b"too long") + frame(TEXT, b"next")) as (ws, _):
        for _ in range(2000):  # more than calls may be nested
            with pytest.raises(ValueError):
                ws.recv_into(bytearray(3))
        assert [ws.recv(), ws.recv()] == ["too long", "next"]


def test_receiving_ends_though_closing_was_interrupted(monkeypatch):
    with pair(close_timeout=0.2) as (ws, _):
        with monkeypatch.context() as patch:
            patch.setattr(Receiver, "wait_until", interrupt)
            with pytest.raises(KeyboardInterrupt):
                ws.close()
        with pytest.raises(ConnectionClosedError):
            ws.recv()


@pytest.mark.parametrize("closing", [False, True], ids=["receiving", "closing"])
def test_an_interrupt_has_no_other_error_as_its_context(closing, monkeypatch):
    with pair(ping_interval=0.04) as (ws, _):  # the blocking read ends soon
        with monkeypatch.context() as patch:
            patch.setattr(BlockingTransport, "poll", interrupt)
            if closing:
                drop = ws._receiver.reader._drop_or_wait
                patch.setattr(Reader, "read_until", lambda *args, **kwargs: drop(0.0))
            with pytest.raises(KeyboardInterrupt) as raised:
                ws.recv()
    assert raised.value.__context__ is None


def test_a_message_that_was_interrupted_while_it_was_compressed_is_the_last_one(monkeypatch):
    extension = PerMessageDeflate()
    with pair([extension]) as (ws, _):
        with monkeypatch.context() as patch:
            patch.setattr(ws, "_write", interrupt)
            with pytest.raises(KeyboardInterrupt):
                ws.send("some text")
        with pytest.raises(ConnectionClosedError):
            ws.send("what would be garbage")


def interrupt(*args):
    raise KeyboardInterrupt


def test_a_connection_that_is_given_up_says_why():
    with pair(ping_interval=0.05, ping_timeout=0.05) as (ws, _), pytest.raises(
        ConnectionClosedError, match=r"no close frame received \(nothing received for 0\.\d s: "
    ) as caught:
        ws.recv()
    assert str(caught.value).count(str(caught.value.__cause__)) == 1


def test_without_tls_there_is_no_ssl_object():
    with echo_server() as server, connect(server.url) as ws:
        assert ws.ssl_object is None
