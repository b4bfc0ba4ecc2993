"""The state machine: bytes and times in, messages, bytes and the way it ended out."""

from __future__ import annotations

import gc
import random
import weakref
import zlib

import pytest
from helpers import SEED, splits
from tables import each_row

from wsmini.exceptions import (
    Close,
    ConnectionClosedError,
    ConnectionClosedOK,
    InvalidState,
    PayloadTooBig,
    ProtocolError,
    SendBufferFull,
)
from wsmini.sansio import protocol as module
from wsmini.sansio.deflate import PerMessageDeflate
from wsmini.sansio.extensions import Extension
from wsmini.sansio.frames import MAX_CONTROL, PIECE, Frame, Opcode, header, read_close
from wsmini.sansio.messages import UNLIMITED, MessageReader
from wsmini.sansio.protocol import (
    CLOSED,
    CLOSING,
    MAX_PINGS,
    MAX_QUEUED,
    NEVER,
    OPEN,
    ClientProtocol,
    Keepalive,
    State,
    size_limits,
)

CONT, TEXT, BINARY, CLOSE, PING, PONG = Opcode
STATES = (OPEN, CLOSING, CLOSED)


def frame(opcode, data=b"", fin=True, rsv=0):
    """A frame from the server."""
    return header(fin << 7 | rsv | opcode, len(data), 0) + data


def close_frame(code, reason=""):
    return frame(CLOSE, code.to_bytes(2, "big") + reason.encode())


def opened(extensions=(), **options):
    return ClientProtocol(extensions, **options)


def send_message(protocol, opcode, data, compress=None):
    """As the front ends do: look first, then encode."""
    protocol.check_can_send()
    return protocol.encode_message(opcode, data, compress)


def send_fragment(protocol, opcode, data, fin, compress=None):
    protocol.check_open()
    return protocol.encode_fragment(opcode, data, fin, compress)


def joined(frames):
    return bytes(frames) if isinstance(frames, (bytes, bytearray)) else b"".join(frames)


def parsed(data):
    """What a server sees in *data*: (first byte, payload) for each frame."""
    frames, at = [], 0
    while at < len(data):
        n, begin = data[at + 1], at + 2
        assert n & 0x80, "a client masks"
        n &= 0x7F
        if n > 125:
            begin += 2 if n == 126 else 8
            n = int.from_bytes(data[at + 2 : begin], "big")
        key, payload = data[begin : begin + 4], data[begin + 4 : begin + 4 + n]
        assert len(payload) == n
        size = n // 4 + 1
        mask = int.from_bytes((key * size)[:n], "big")
        payload = (int.from_bytes(payload, "big") ^ mask).to_bytes(n, "big")
        frames.append((data[at], payload))
        at = begin + 4 + n
    return frames


def written(protocol):
    return parsed(protocol.data_to_send())


def feed(protocol, data, now=0.0):
    """Pass *data* in and take all messages."""
    protocol.receive_data(data, now)
    found = []
    while True:
        batch = protocol.next_messages()
        if not batch and not protocol.pending:
            return found
        found += batch


def unless_refused(refusal):
    if refusal is not None:
        raise refusal


def ended(protocol):
    """How it ended, as far as a Close frame says: received, sent, and which came first."""
    return protocol.rcvd, protocol.sent, protocol.rcvd_then_sent


# -- what comes from the server --

NORMAL = Close(1000, "")

INCOMING = {
    # bytes -> messages, the frames that answer them, the Close frames received and sent
    "messages": (frame(TEXT, b"a") + frame(BINARY, b"b"), ["a", b"b"], [], None, None),
    "ping": (
        frame(PING, b"1") + frame(TEXT, b"a") + frame(PING, b"2"),
        ["a"], [(0x8A, b"1"), (0x8A, b"2")], None, None,
    ),
    "ping between fragments": (
        frame(TEXT, b"a", False) + frame(PING, b"x" * 125) + frame(CONT, b"b"),
        ["ab"], [(0x8A, b"x" * 125)], None, None,
    ),
    "unsolicited pong": (frame(PONG, b"?") + frame(TEXT, b"a"), ["a"], [], None, None),
    "close": (
        frame(TEXT, b"a") + close_frame(1000, "bye") + frame(TEXT, b"late") + frame(PING),
        ["a"], [(0x88, b"\x03\xe8bye")], Close(1000, "bye"), Close(1000, "bye"),
    ),
    "close without a code": (
        frame(PING) + frame(CLOSE),
        [], [(0x8A, b""), (0x88, b"")], Close(1005, ""), Close(1005, ""),
    ),
    "close in a fragmented message": (
        frame(TEXT, b"a", False) + close_frame(1001) + frame(CONT, b"b"),
        [], [(0x88, b"\x03\xe9")], Close(1001, ""), Close(1001, ""),
    ),
    "nothing behind a close": (
        close_frame(4000) + b"\xff" * 99,
        [], [(0x88, b"\x0f\xa0")], Close(4000, ""), Close(4000, ""),
    ),
}  # fmt: skip


@pytest.mark.parametrize("data, messages, frames, rcvd, sent", INCOMING.values(), ids=INCOMING)
def test_incoming(data, messages, frames, rcvd, sent):
    for chunks in splits(data):
        protocol = opened()
        assert sum((feed(protocol, chunk) for chunk in chunks), []) == messages
        assert written(protocol) == frames
        assert ended(protocol) == (rcvd, sent, None if rcvd is None else True)
        assert protocol.finished is (rcvd is not None)
        assert protocol.state is (OPEN if rcvd is None else CLOSING)
        assert protocol.failure is None


FAILURES = {
    "rsv1": (frame(TEXT, b"a", rsv=0x40), 1002, ProtocolError),
    "opcode": (frame(3), 1002, ProtocolError),
    "masked": (b"\x82\x81" + bytes(4) + b"a", 1002, ProtocolError),
    "not minimal": (b"\x82\x7e\0\x01a", 1002, ProtocolError),
    "2**64 - 1": (b"\x82\x7f" + b"\xff" * 8, 1002, ProtocolError),
    "continuation": (frame(CONT), 1002, ProtocolError),
    "long ping": (frame(PING, b"x" * 126), 1002, ProtocolError),
    "close of one byte": (frame(CLOSE, b"\x03"), 1002, ProtocolError),
    "close 1005": (close_frame(1005), 1002, ProtocolError),
    "close 1006": (close_frame(1006), 1002, ProtocolError),
    "close 2999": (close_frame(2999), 1002, ProtocolError),
    "close 5000": (close_frame(5000), 1002, ProtocolError),
    "close not utf-8": (frame(CLOSE, b"\x03\xe8\xff"), 1007, UnicodeDecodeError),
    "close cut utf-8": (frame(CLOSE, b"\x03\xe8\xc3"), 1007, UnicodeDecodeError),
    "text not utf-8": (frame(TEXT, b"\xff"), 1007, UnicodeDecodeError),
    "fragment not utf-8": (frame(TEXT, b"\xff", False), 1007, UnicodeDecodeError),
    "too big": (frame(BINARY, bytes(101)), 1009, PayloadTooBig),
    "fragments too big": (
        frame(BINARY, bytes(51), False) + frame(CONT, bytes(50)),
        1009, PayloadTooBig,
    ),
}  # fmt: skip


@each_row("data, code, error", FAILURES.values(), ids=FAILURES)
def test_failures(data, code, error):
    """Messages before come out, nothing after; a Close frame says what is wrong."""
    for chunks in splits(frame(TEXT, b"ok") + data + frame(TEXT, b"late")):
        protocol = opened(max_size=100)
        assert sum((feed(protocol, chunk) for chunk in chunks), []) == ["ok"]
        ((head, payload),) = written(protocol)
        assert (head, payload[:2]) == (0x88, code.to_bytes(2, "big"))
        assert payload[2:].decode() == protocol.sent.reason != ""
        # What a Close frame said is kept, however it broke the rules.
        rcvd = read_close(data[2:]) if data[0] == 0x88 else None
        assert ended(protocol) == (rcvd, Close(code, protocol.sent.reason), rcvd and True)
        assert protocol.finished and protocol.state is CLOSING
        assert type(protocol.failure) is error
        assert type(protocol.close_exc()) is ConnectionClosedError
        assert protocol.close_exc().__cause__ is protocol.failure
        assert protocol.next_messages() == [] and protocol.next_chunk() is None


@each_row("data, code, error", FAILURES.values(), ids=FAILURES)
def test_failures_while_streaming(data, code, error):
    for chunks in splits(frame(TEXT, b"ok") + data):
        protocol, found = opened(max_size=100), []
        for chunk in chunks:
            protocol.receive_data(chunk)
            while True:
                got = protocol.next_chunk()
                if got is None and not protocol.pending:
                    break
                found.append(got)
        assert "".join(text for text, fin in found if type(text) is str) == "ok"
        assert protocol.sent.code == code
        assert protocol.finished and not protocol.reader.streaming and not protocol.pending


def test_a_long_reason_is_cut_between_characters():
    class Talkative(Extension):
        def decode(self, frame, max_size=None):
            raise ProtocolError(frame.data.decode("utf-8", "surrogateescape"))

    for text in (b"x" * 300, "€".encode() * 99, b"x" + "😀".encode() * 99, b"\xff\xfe"):
        protocol = opened([Talkative()])
        feed(protocol, frame(BINARY, text))
        ((head, payload),) = written(protocol)
        assert len(payload) <= MAX_CONTROL
        assert payload[2:].decode() == protocol.sent.reason
        assert len(payload) >= min(len(text) + 2, MAX_CONTROL - 3)


BAD_CLOSES = {
    # the payload -> what it is taken for
    "cut in a character": (b"\x03\xf4" + "x\u00e9".encode()[:2], Close(1012, "x\ufffd")),
    "another charset": (b"\x03\xf4\xfcbung", Close(1012, "\ufffdbung")),
    "no code": (b"\x03\xedgone", Close(1005, "gone")),
    "lost": (b"\x03\xee", Close(1006, "")),
    "one byte": (b"\x03", Close(1005, "")),
}


@pytest.mark.parametrize("payload, close", BAD_CLOSES.values(), ids=BAD_CLOSES)
def test_a_close_frame_that_breaks_the_rules_is_kept_and_shown(payload, close):
    theirs, ours = opened(), opened()
    feed(theirs, frame(CLOSE, payload))
    ours.close(1000)
    feed(ours, frame(CLOSE, payload))
    for protocol, first in ((theirs, True), (ours, False)):
        exc = protocol.close_exc()
        assert type(exc) is ConnectionClosedError
        assert (exc.rcvd, exc.rcvd_then_sent) == (close, first)
        assert f"received {close.code} " in str(exc)
        assert exc.__cause__ is protocol.failure is not None
    assert theirs.sent.code in (1002, 1007)


class Bug(Extension):
    """Raises what isn't the peer's fault."""

    def __init__(self, exc):
        self.exc = exc

    def decode(self, frame, max_size=None):
        raise self.exc


@pytest.mark.parametrize("exc", [ValueError(), KeyboardInterrupt(), MemoryError(), TimeoutError()])
def test_an_exception_that_is_nobodys_fault_passes_and_ends_the_connection(exc):
    """A signal handler's may come out of any call, and the server isn't to be blamed for it."""
    for receive in (ClientProtocol.next_messages, ClientProtocol.next_chunk):
        protocol = opened([Bug(exc)])
        protocol.receive_data(frame(BINARY, b"x") + frame(BINARY, b"y"))
        with pytest.raises(type(exc)) as info:
            receive(protocol)
        assert info.value is exc is protocol.failure
        assert protocol.state is CLOSED and protocol.finished and protocol.sent is None
        assert not protocol.pending and receive(protocol) in ([], None)


def test_a_failure_keeps_nothing_alive():
    protocol = opened()
    feed(protocol, frame(BINARY, bytes(1000)) + frame(TEXT, b"a\xff"))
    assert protocol.failure.__traceback__ is None  # frames of functions, with their variables
    assert protocol.reader._data == b""


def test_messages_before_a_close_can_be_answered():
    for last in (close_frame(1000), b"\xff\xff"):
        protocol = opened()
        protocol.receive_data(frame(TEXT, b"a") + frame(TEXT, b"b") + last)
        assert protocol.next_messages() == ["a", "b"]
        assert not protocol.finished and protocol.pending
        assert parsed(joined(send_message(protocol, TEXT, b"c"))) == [(0x81, b"c")]
        assert protocol.next_messages() == []
        assert protocol.finished
        with pytest.raises(ConnectionClosedError if last == b"\xff\xff" else ConnectionClosedOK):
            send_message(protocol, TEXT, b"d")


def test_on_control():
    calls = []

    class Listener:
        def on_control(self, opcode, data):
            calls.append((Opcode(opcode).name, data))

    protocol = opened()
    protocol.listener = Listener()
    feed(protocol, frame(PING, b"1") + frame(PONG, b"2"))
    assert calls == [("PING", b"1"), ("PONG", b"2")]


# -- limits --

SIZES = {
    "default": (1 << 20, (1 << 20, 1 << 20)),
    "none": (None, (UNLIMITED, UNLIMITED)),
    "pair": ((100, 10), (100, 10)),
    "no fragment limit": ((100, None), (100, 100)),
    "no message limit": ((None, 10), (UNLIMITED, 10)),
    "fragment above message": ((10, 100), (10, 10)),
    "nothing limited": ((None, None), (UNLIMITED, UNLIMITED)),
}


@pytest.mark.parametrize("max_size, limits", SIZES.values(), ids=SIZES)
def test_size_limits(max_size, limits):
    assert size_limits(max_size) == limits


@pytest.mark.parametrize("max_size", [0, -1, (1, -1), (0, 1), (None, 0), (), (1,), (1, 2, 3)])
def test_a_size_limit_of_the_wrong_value(max_size):
    with pytest.raises(ValueError):
        ClientProtocol(max_size=max_size)


@pytest.mark.parametrize("max_size", [1.5, "1", True, [1, 2], (1, "2"), (False, 1)])
def test_a_size_limit_of_the_wrong_type(max_size):
    with pytest.raises(TypeError):
        ClientProtocol(max_size=max_size)


def test_the_defaults():
    protocol = ClientProtocol((), 0.0)
    assert len(feed(protocol, frame(BINARY, bytes(1 << 20)))) == 1
    assert protocol.tick(0.0) == 20.0
    assert protocol.tick(20.0) == 40.0
    feed(protocol, frame(BINARY, bytes((1 << 20) + 1)), 20.0)
    assert protocol.sent.code == 1009


@pytest.mark.parametrize("max_size", [1, 10, None, (20, 10), (10, None), (None, 10)])
def test_limits_are_exact(max_size):
    message, fragment = size_limits(max_size)
    data = frame(BINARY, bytes(min(fragment, 70000)))
    assert len(feed(opened(max_size=max_size), data)) == 1
    if fragment < UNLIMITED:
        protocol = opened(max_size=max_size)
        assert feed(protocol, frame(BINARY, bytes(fragment + 1))) == []
        assert protocol.sent.code == 1009
        assert str(fragment) in protocol.sent.reason
    if fragment < message < UNLIMITED:
        parts = frame(BINARY, bytes(fragment), False) + frame(CONT, bytes(message - fragment))
        assert len(feed(opened(max_size=max_size), parts)) == 1


# -- the states --


def test_a_state_is_shown_by_its_name():
    for state in State:
        assert str(state) == f"{state}" == f"{state:s}" == "{}".format(state) == state.name
        assert f"{state:>12}" == state.name.rjust(12)
    assert list(map(int, State)) == [0, 1, 2, 3, 4]


def in_state(state):
    protocol = ClientProtocol()
    if state is CLOSING:
        protocol.close()
    if state is CLOSED:
        protocol.connection_lost()
    assert protocol.state is state
    return protocol


SENDING = {
    "send_message": lambda protocol: send_message(protocol, TEXT, b"a"),
    "send_fragment": lambda protocol: send_fragment(protocol, TEXT, b"a", False),
    "ping": lambda protocol: unless_refused(protocol.ping()),
    "pong": lambda protocol: unless_refused(protocol.pong()),
    "check_open": lambda protocol: protocol.check_open(),
}


@pytest.mark.parametrize("send", SENDING.values(), ids=SENDING)
def test_only_an_open_connection_sends(send):
    send(in_state(OPEN))
    for state in (CLOSING, CLOSED):
        protocol = in_state(state)
        protocol.data_to_send()
        with pytest.raises(ConnectionClosedError):
            send(protocol)
        assert not protocol.has_output


MOVES = {  # what is done -> the state it leads to from OPEN
    "close": (lambda protocol: protocol.close(), CLOSING),
    "receive a Close": (lambda protocol: feed(protocol, close_frame(1000)), CLOSING),
    "receive a wrong Close": (lambda protocol: feed(protocol, close_frame(1005)), CLOSING),
    "receive what is no frame": (lambda protocol: feed(protocol, b"\xff\xff"), CLOSING),
    "abandon a message": (
        lambda protocol: [setattr(protocol, "sending", TEXT), protocol.abandon_message()], CLOSING,
    ),
    "give up": (lambda protocol: [protocol.probe(100.0), protocol.tick(999.0)], CLOSING),
    "lose": (lambda protocol: protocol.connection_lost(), CLOSED),
    "abandon": (lambda protocol: protocol.abandon(KeyError()), CLOSED),
}  # fmt: skip


@each_row("act, expected", MOVES.values(), ids=MOVES)
def test_a_state_never_goes_back(act, expected):
    for state in STATES:
        protocol = in_state(state)
        act(protocol)
        assert protocol.state is max(state, expected)
        sent = protocol.sent
        for again, _ in MOVES.values():
            before = protocol.state
            again(protocol)
            assert protocol.state >= before and protocol.sent is sent
        assert len([head for head, _ in written(protocol) if head == 0x88]) <= 1


@pytest.mark.parametrize("state", STATES)
def test_losing_the_connection_in_every_state(state):
    problem = ConnectionResetError("reset")
    protocol = in_state(state)
    protocol.connection_lost(problem)
    assert protocol.state is CLOSED and protocol.finished
    assert protocol.failure is (None if state is CLOSED else problem)
    assert protocol.close_code == 1006 and protocol.close_reason == ""
    assert not protocol.has_output and protocol.data_to_send() == b""
    protocol.connection_lost(OSError())
    assert protocol.failure is (None if state is CLOSED else problem)
    protocol.receive_data(frame(TEXT, b"late"))
    assert protocol.next_messages() == [] and not protocol.pending


def test_close_code_and_reason_are_known_when_closed():
    protocol = opened()
    assert protocol.close_code is protocol.close_reason is None
    feed(protocol, close_frame(3001, "because"))
    assert protocol.close_code is protocol.close_reason is None
    protocol.connection_lost()
    assert (protocol.close_code, protocol.close_reason) == (3001, "because")


# -- losing the connection while there are messages --


@pytest.mark.parametrize(
    "last, code", [(b"", 1006), (b"\x81", 1006), (close_frame(1000), 1000), (b"\xff\xff", 1006)]
)
def test_messages_that_came_before_the_end_are_delivered(last, code):
    """A front end reads until ``finished``; it must not need another byte to find that out."""
    protocol = opened()
    protocol.receive_data(frame(BINARY, bytes(1000)) * 40 + frame(PING) + last)
    protocol.connection_lost(ConnectionResetError())
    found = 0
    while not protocol.finished:
        assert protocol.pending
        found += len(protocol.next_messages())
    assert found == 40
    assert protocol.next_messages() == [] and not protocol.pending
    assert protocol.close_code == code
    assert not protocol.has_output
    failure = ProtocolError if last == b"\xff\xff" else ConnectionResetError
    assert type(protocol.failure) is failure
    assert protocol.sent is None


def test_data_behind_the_end_is_ignored():
    protocol = opened()
    protocol.receive_data(frame(TEXT, b"a"))
    protocol.connection_lost()
    protocol.receive_data(frame(TEXT, b"late"))
    assert protocol.next_messages() == ["a"]
    assert protocol.finished
    protocol = kept_alive()
    protocol.receive_data(frame(TEXT, b"a"), 100.0)
    protocol.tick(120.0)
    protocol.tick(130.0)
    protocol.receive_data(frame(TEXT, b"late"), 131.0)
    assert protocol.next_messages() == ["a"]
    assert protocol.next_messages() == []


def test_nothing_is_sent_behind_the_end():
    for lost_first in (True, False):
        protocol = opened()
        protocol.receive_data(frame(PING) + frame(PING))
        if lost_first:
            protocol.connection_lost()
        assert protocol.next_messages() == []
        protocol.connection_lost()
        assert not protocol.has_output and protocol.data_to_send() == b""


def test_chunks_that_came_before_the_end_are_delivered():
    protocol = opened()
    protocol.receive_data(frame(TEXT, b"ab", False) + frame(CONT, b"cd", False))
    assert protocol.next_chunk() == ("ab", False)
    assert protocol.reader.streaming
    protocol.connection_lost()
    assert not protocol.finished
    assert protocol.next_chunk() == ("cd", False)
    assert protocol.finished and not protocol.reader.streaming
    assert protocol.next_chunk() is None


def test_half_a_message_does_not_outlive_the_connection():
    protocol = opened()
    feed(protocol, frame(BINARY, bytes(500000))[:-1])
    protocol.connection_lost()
    assert protocol.finished
    assert protocol.reader._gathered.size == 0


# -- the closing handshake --


def test_the_server_closes_first():
    protocol = opened()
    feed(protocol, close_frame(1001, "restart"))
    assert protocol.finished and not protocol.abort
    assert written(protocol) == [(0x88, b"\x03\xe9restart")]
    protocol.connection_lost()
    exc = protocol.close_exc()
    assert type(exc) is ConnectionClosedOK
    assert (exc.code, exc.reason, exc.rcvd_then_sent) == (1001, "restart", True)


def test_the_client_closes_first():
    protocol = opened()
    protocol.close(1000, "bye")
    assert protocol.state is CLOSING and not protocol.finished
    assert written(protocol) == [(0x88, b"\x03\xe8bye")]
    # What the server had sent is still delivered; its pings aren't answered behind a Close.
    assert feed(protocol, frame(TEXT, b"a") + frame(PING) + frame(TEXT, b"b")) == ["a", "b"]
    assert feed(protocol, close_frame(1000, "bye")) == []
    assert protocol.finished
    assert not protocol.has_output
    protocol.connection_lost()
    exc = protocol.close_exc()
    assert type(exc) is ConnectionClosedOK
    assert (exc.rcvd, exc.sent, exc.rcvd_then_sent) == (Close(1000, "bye"),) * 2 + (False,)


def test_both_close_at_the_same_time():
    protocol = opened()
    protocol.receive_data(close_frame(1001))
    protocol.close(1000)
    assert protocol.next_messages() == []
    assert written(protocol) == [(0x88, b"\x03\xe8")]
    assert ended(protocol) == (Close(1001, ""), NORMAL, False)
    assert protocol.finished


def test_closing_twice_sends_one_close_frame():
    protocol = opened()
    protocol.close(1000)
    protocol.close(4000, "again")
    assert written(protocol) == [(0x88, b"\x03\xe8")]
    feed(protocol, close_frame(1000))
    protocol.close()
    protocol.connection_lost()
    protocol.close()
    assert not protocol.has_output
    assert protocol.sent == NORMAL


def test_the_connection_is_lost_before_the_answer_to_a_close():
    protocol = opened()
    protocol.close()
    protocol.connection_lost()
    assert ended(protocol) == (None, NORMAL, None)
    assert type(protocol.close_exc()) is ConnectionClosedError
    assert protocol.close_code == 1006


def test_a_bad_frame_while_closing_sends_nothing_more():
    protocol = opened()
    protocol.close()
    protocol.data_to_send()
    feed(protocol, b"\xff\xff")
    assert protocol.finished and not protocol.has_output
    assert ended(protocol) == (None, NORMAL, None)
    assert type(protocol.failure) is ProtocolError


def test_a_loss_behind_the_closing_handshake_is_no_failure():
    protocol = opened()
    feed(protocol, close_frame(1000))
    protocol.connection_lost(ConnectionResetError())
    assert protocol.failure is None
    assert type(protocol.close_exc()) is ConnectionClosedOK


@each_row("code", [1000, 1001, 1002, 1003, *range(1007, 1015), 3000, 4000, 4999])
def test_every_close_code_both_ways(code):
    protocol = opened()
    protocol.close(code, "é")
    assert written(protocol) == [(0x88, code.to_bytes(2, "big") + "é".encode())]
    protocol = opened()
    for chunk in splits(close_frame(code, "é")):
        protocol = opened()
        for data in chunk:
            feed(protocol, data)
        assert protocol.rcvd == protocol.sent == Close(code, "é")


@each_row("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535, 65536])
def test_codes_that_cannot_be_sent(code):
    for state in (OPEN, CLOSING, CLOSED):
        with pytest.raises(ValueError):
            in_state(state).close(code)


def test_close_checks_its_arguments():
    protocol = opened()
    bad = {(1000, "x" * 124): ValueError, ("1000",): TypeError, (1000, b""): TypeError}
    for args, error in bad.items():
        with pytest.raises(error):
            protocol.close(*args)
    assert protocol.state is OPEN and not protocol.has_output


# -- pings and pongs --


def test_a_pong_gives_the_round_trip():
    protocol, trips = opened(), []
    assert protocol.latency == 0.0
    protocol.ping(b"abc", 10.0, trips.append)
    assert written(protocol) == [(0x89, b"abc")]
    feed(protocol, frame(PONG, b"other"), 11.0)
    assert trips == []
    feed(protocol, frame(PONG, b"abc"), 12.5)
    assert trips == [2.5] and protocol.latency == 2.5
    feed(protocol, frame(PONG, b"abc"), 99.0)
    assert trips == [2.5] and protocol.latency == 2.5


def test_a_pong_answers_the_pings_before_its_own():
    protocol, trips = opened(), []
    for i in range(4):
        protocol.ping(b"%d" % i, float(i), lambda trip, i=i: trips.append((i, trip)))
    protocol.ping(b"no callback", 4.0)
    feed(protocol, frame(PONG, b"2"), 5.0)
    assert trips == [(0, 5.0), (1, 4.0), (2, 3.0)] and protocol.latency == 3.0
    protocol.ping(b"1", 6.0)  # answered, so it may be used again
    feed(protocol, frame(PONG, b"1"), 7.0)
    assert trips[3:] == [(3, 4.0)] and protocol.latency == 1.0


def test_a_callback_may_end_the_connection():
    protocol, trips = opened(), []

    def callback(trip):
        trips.append(trip)
        protocol.connection_lost()

    protocol.ping(b"1", 0.0, callback)
    protocol.ping(b"2", 0.0, callback)
    assert feed(protocol, frame(PONG, b"2") + frame(TEXT, b"a"), 1.0) in ([], ["a"])
    assert trips == [1.0, 1.0]


def test_pings_without_data_differ_and_are_printable():
    protocol = opened(ping_interval=20, ping_timeout=None)
    for _ in range(100):
        protocol.ping()
    protocol.tick(20.0)
    payloads = [payload for head, payload in written(protocol)]
    assert len(set(payloads)) == 101
    assert all(len(data) == 8 and data.isalnum() for data in payloads)


def test_random_data_that_is_in_use_is_not_used_again(monkeypatch):
    keys = [b"aaaa", b"aaaa", b"aaaa", b"bbbb"]
    monkeypatch.setattr(module, "masking_key", lambda: keys.pop(0))
    protocol = opened()
    protocol.ping()
    protocol.ping()
    assert written(protocol) == [(0x89, b"61616161"), (0x89, b"62626262")]


def test_pings_that_are_refused():
    protocol = opened()
    protocol.ping(b"x" * 125)
    protocol.ping(b"")
    protocol.pong(b"y" * 125)
    protocol.pong()
    with pytest.raises(ValueError, match="same data"):
        unless_refused(protocol.ping(b""))
    assert [head for head, _ in written(protocol)] == [0x89, 0x89, 0x8A, 0x8A]
    protocol.ping(b"x" * 124)  # and nothing of the refused ones is remembered
    feed(protocol, frame(PONG, b"x" * 124))
    assert protocol._pings == {}


def test_pings_that_wait_for_a_pong_are_bounded():
    protocol = opened()
    for i in range(MAX_PINGS):
        protocol.ping(b"%d" % i)
        protocol.data_to_send()
    with pytest.raises(SendBufferFull):
        unless_refused(protocol.ping())
    feed(protocol, frame(PONG, b"0"))
    protocol.ping()


def test_pings_that_wait_to_be_sent_are_bounded():
    protocol = opened()
    for i in range(MAX_QUEUED):
        protocol.ping(b"%d" % i)
    with pytest.raises(SendBufferFull):
        unless_refused(protocol.ping(b"too many"))
    with pytest.raises(SendBufferFull):
        unless_refused(protocol.pong())
    feed(protocol, frame(PING, b"p"))
    protocol.close()
    frames = written(protocol)
    assert frames[0] == (0x8A, b"p") and frames[-1] == (0x88, b"\x03\xe8")
    assert frames[1:-1] == [(0x89, b"%d" % i) for i in range(MAX_QUEUED)]


def test_a_flood_of_pings_queues_the_latest_pongs_and_drops_nothing_else():
    protocol = opened()
    protocol.ping(b"mine")
    for i in range(10 * MAX_QUEUED):
        feed(protocol, frame(PING, b"%d" % i))
    protocol.ping(b"mine too")
    frames = written(protocol)
    pongs = [frame for frame in frames if frame[0] == 0x8A]
    assert pongs == [(0x8A, b"%d" % i) for i in range(9 * MAX_QUEUED, 10 * MAX_QUEUED)]
    assert [frame for frame in frames if frame[0] != 0x8A] == [(0x89, b"mine"), (0x89, b"mine too")]
    feed(protocol, frame(PING) * 1000 + close_frame(1000))
    frames = written(protocol)
    assert len(frames) == MAX_QUEUED + 1 and frames[-1][0] == 0x88


def test_output_is_given_once():
    protocol = opened()
    assert not protocol.has_output and protocol.data_to_send() == b""
    feed(protocol, frame(PING, b"a"))
    assert protocol.has_output
    assert written(protocol) == [(0x8A, b"a")]
    protocol.pong(b"b")
    assert protocol.has_output
    assert written(protocol) == [(0x8A, b"b")]
    assert not protocol.has_output and protocol.data_to_send() == b""


def test_callbacks_are_dropped_when_no_pong_can_come():
    endings = {
        "lost": lambda protocol: protocol.connection_lost(),
        "closed": lambda protocol: feed(protocol, close_frame(1000)),
        "failed": lambda protocol: feed(protocol, b"\xff\xff"),
    }
    for end in endings.values():
        protocol = opened()

        def callback(trip):
            raise AssertionError

        alive = weakref.ref(callback)
        protocol.ping(None, 0.0, callback)
        end(protocol)
        del callback
        gc.collect()
        assert alive() is None


def test_a_pong_that_came_before_the_loss_counts():
    protocol, trips = opened(), []
    protocol.ping(b"1", 0.0, trips.append)
    protocol.receive_data(frame(TEXT, b"a") + frame(PONG, b"1"), 2.0)
    protocol.connection_lost()
    assert protocol.next_messages() == ["a"]
    assert protocol.next_messages() == []
    assert trips == [2.0]


# -- keepalive --


def kept_alive(interval=20.0, timeout=10.0):
    return ClientProtocol((), 100.0, ping_interval=interval, ping_timeout=timeout)


def test_a_pong_that_came_a_moment_after_its_ping_costs_no_tick_of_its_own():
    protocol = kept_alive()
    assert protocol.tick(120.0) == 130.0
    protocol.receive_data(b"", 120.2)
    assert not protocol.doubtful
    assert protocol.tick(130.0) == 140.2
    assert protocol.tick(140.0) == 150.0


def test_a_silent_peer_is_pinged_and_given_up():
    protocol = kept_alive()
    assert protocol.tick(100.0) == 120.0
    assert protocol.tick(119.5) == 120.0
    assert not protocol.has_output and not protocol.doubtful
    assert protocol.tick(120.0) == 130.0
    assert protocol.doubtful
    ((head, payload),) = written(protocol)
    assert head == 0x89
    assert protocol.tick(129.9) == 130.0
    assert not protocol.has_output and protocol.state is OPEN
    assert protocol.tick(130.0) == NEVER
    assert written(protocol) == [(0x88, b"\x03\xf3keepalive ping timeout")]
    assert protocol.finished and protocol.abort
    assert protocol._pings == {}
    assert isinstance(protocol.failure, TimeoutError)
    assert "30.0 s" in str(protocol.failure)
    assert ended(protocol) == (None, Close(1011, "keepalive ping timeout"), None)
    assert protocol.tick(999.0) == NEVER


@pytest.mark.parametrize("data", [b"\x81", frame(PONG, b"?"), frame(TEXT, b"a"), frame(PING)])
def test_any_byte_is_life(data):
    protocol = kept_alive()
    protocol.tick(120.0)
    protocol.data_to_send()
    feed(protocol, data, 129.0)
    assert protocol.tick(130.0) == 149.0
    assert protocol.tick(149.0) == 159.0
    assert written(protocol)[-1][0] == 0x89
    feed(protocol, b"\x81" if data != b"\x81" else b"\x00", 149.0)  # in the same tick of the clock
    assert protocol.tick(159.0) == 169.0
    assert protocol.tick(169.0) == 179.0
    assert protocol.tick(179.0) == NEVER


def test_the_answer_to_a_keepalive_ping_gives_the_latency():
    protocol = kept_alive()
    protocol.tick(120.0)
    ((_, payload),) = written(protocol)
    feed(protocol, frame(PONG, payload), 120.5)
    assert protocol.latency == 0.5
    assert protocol.tick(130.0) == 140.5


def test_a_late_tick_pings_before_it_gives_up():
    protocol = kept_alive()
    assert protocol.tick(1000.0) == 1010.0
    assert protocol.state is OPEN
    assert protocol.tick(2000.0) == NEVER


def test_without_a_timeout_it_pings_again_and_never_gives_up():
    protocol = kept_alive(timeout=None)
    for i in range(1, 2000):
        assert protocol.tick(100.0 + 20 * i - 1) == 100.0 + 20 * i
        assert not protocol.has_output
        assert protocol.tick(100.0 + 20 * i) == 120.0 + 20 * i
        ((head, payload),) = written(protocol)
        assert head == 0x89
    assert len(protocol._pings) == MAX_PINGS
    feed(protocol, frame(TEXT, b"a"), 50000.0)
    assert protocol.tick(50000.0) == 50020.0


def test_a_peer_that_takes_what_is_sent_is_alive():
    protocol = kept_alive()
    assert protocol.tick(120.0) == 130.0
    protocol.heard(129.0)
    assert protocol.tick(130.0) == 149.0
    silent = opened(ping_interval=None)
    silent.heard(1.0)
    assert silent.tick(2.0) == NEVER


def test_without_an_interval_there_is_no_keepalive():
    protocol = kept_alive(interval=None)
    assert protocol.tick(1e9) == NEVER
    feed(protocol, frame(TEXT, b"a"), 1e9)
    assert protocol.tick(2e9) == NEVER and not protocol.has_output


def test_pings_of_the_program_do_not_stop_the_keepalive():
    protocol = kept_alive()
    for i in range(MAX_PINGS):
        protocol.ping(b"%d" % i, 100.0)
        protocol.data_to_send()
    protocol.tick(120.0)
    assert [head for head, _ in written(protocol)] == [0x89]
    protocol = kept_alive()
    for i in range(MAX_QUEUED):
        protocol.ping(b"%d" % i, 100.0)
    assert protocol.tick(120.0) == 130.0
    assert len(written(protocol)) == MAX_QUEUED
    assert protocol.tick(130.0) == NEVER


def test_messages_that_came_before_the_peer_was_given_up_are_delivered():
    protocol = kept_alive()
    data = frame(TEXT, b"a") * 2 + frame(PING) + frame(BINARY, b"b") + close_frame(1000)
    protocol.receive_data(data, 100.0)
    protocol.tick(120.0)
    assert protocol.tick(130.0) == NEVER
    assert protocol.finished and protocol.pending
    protocol.data_to_send()
    assert protocol.next_messages() == ["a", "a"]
    assert protocol.next_messages() == [b"b"]
    assert protocol.next_messages() == []
    assert not protocol.pending and not protocol.has_output
    assert protocol.rcvd == NORMAL


def test_no_keepalive_while_closing():
    protocol = kept_alive()
    protocol.close()
    protocol.data_to_send()
    assert protocol.tick(120.0) == NEVER
    assert not protocol.has_output


def test_a_probe_pings_at_once_and_then_gives_up():
    protocol = ClientProtocol((), 100.0, ping_interval=20, ping_timeout=5)
    assert protocol.probe(101.0) == 106.0
    assert protocol.has_output
    assert protocol.tick(106.0) == NEVER
    assert protocol.abort and protocol.sent.code == 1011


def test_a_probe_after_a_long_silence_does_not_shorten_it():
    protocol = ClientProtocol((), 100.0, ping_interval=20, ping_timeout=5)
    protocol.probe(200.0)
    assert protocol.tick(205.0) == NEVER
    assert "nothing received for 105.0 s" in str(protocol.failure)


def test_a_probe_without_a_keepalive_does_nothing():
    protocol = ClientProtocol(ping_interval=None)
    assert protocol.probe(1.0) == NEVER
    assert not protocol.has_output


def test_keepalive_alone():
    keepalive = Keepalive(5.0, 2.0)
    keepalive.received = 0.0
    script = [
        (0.0, "wait", 5.0), (4.9, "wait", 5.0), (5.0, "ping", 7.0), (6.9, "wait", 7.0),
        (7.0, "give up", 7.0), (99.0, "give up", 7.0),
    ]  # fmt: skip
    for now, action, again in script:
        assert keepalive.tick(now) == (action, again)
    keepalive.received = 100.0
    assert keepalive.tick(100.0) == ("wait", 105.0)


# -- sending --


def frames_of(protocol, *calls):
    return parsed(b"".join(joined(call) for call in calls))


@pytest.mark.parametrize("n", [0, 1, 125, 126, 65535, 65536, PIECE, PIECE + 1, 3 * PIECE])
def test_send_message(n):
    protocol, data = opened(), bytes(n)
    frames = send_message(protocol, BINARY, data)
    assert isinstance(frames, (bytes, bytearray)) is (n <= PIECE)
    assert parsed(joined(frames)) == [(0x82, data)]
    for same in (bytearray(data), memoryview(data)):
        assert parsed(joined(send_message(protocol, TEXT, same))) == [(0x81, data)]
        assert parsed(joined(send_fragment(protocol, TEXT, same, True))) == [(0x81, data)]


def test_send_fragments():
    protocol = opened()
    assert not protocol.sending
    sent = [send_fragment(protocol, TEXT, b"a", False)]
    assert protocol.sending
    with pytest.raises(InvalidState, match="fragmented"):
        send_message(protocol, TEXT, b"x")
    protocol.ping(b"between")
    sent.append(send_fragment(protocol, BINARY, b"", False))
    sent.append(send_fragment(protocol, TEXT, b"c", True))
    assert not protocol.sending
    sent.append(send_message(protocol, BINARY, b"d"))
    sent.append(send_fragment(protocol, BINARY, b"e", True))
    assert not protocol.sending
    assert frames_of(protocol, *sent) == [
        (0x01, b"a"), (0x00, b""), (0x80, b"c"), (0x82, b"d"), (0x82, b"e"),
    ]  # fmt: skip


def test_a_close_between_fragments():
    protocol = opened()
    send_fragment(protocol, TEXT, b"a", False)
    protocol.close()
    with pytest.raises(ConnectionClosedError):
        send_fragment(protocol, TEXT, b"b", True)


def test_behind_an_abandoned_message_no_message_is_sent():
    protocol = opened()
    protocol.abandon_message()  # nothing was begun
    send_message(protocol, TEXT, b"ok")
    send_fragment(protocol, TEXT, b"a", False)
    protocol.abandon_message()
    protocol.abandon_message()
    assert not protocol.sending
    for _ in range(2):
        with pytest.raises(ConnectionClosedError):
            send_message(protocol, TEXT, b"b")
        with pytest.raises(ConnectionClosedError):
            send_fragment(protocol, TEXT, b"b", True)
    assert not protocol.sending
    protocol.close(1000)
    assert written(protocol) == [(0x88, b"\x03\xf3message abandoned")]
    with pytest.raises(ConnectionClosedError):
        send_fragment(protocol, TEXT, b"b", True)


# -- extensions --


def inflated(payloads):
    """Messages compressed by one context, each as a list of payloads."""
    inflater = zlib.decompressobj(-15)
    return [inflater.decompress(b"".join(parts) + b"\0\0\xff\xff") for parts in payloads]


def test_deflate_both_ways():
    protocol = opened([PerMessageDeflate()])
    text = b"hello hello hello"
    sent = [send_message(protocol, TEXT, text) for _ in range(2)]
    sent.append(send_message(protocol, BINARY, b"plain", compress=False))
    sent.append(send_message(protocol, BINARY, text, compress=True))
    frames = frames_of(protocol, *sent)
    assert [head for head, _ in frames] == [0xC1, 0xC1, 0x82, 0xC2]
    assert frames[2][1] == b"plain"
    assert inflated([[frames[i][1]] for i in (0, 1, 3)]) == [text] * 3
    echo = b"".join(header(head, len(data), 0) + data for head, data in frames)
    for chunks in splits(echo):
        receiver = opened([PerMessageDeflate()])
        found = sum((feed(receiver, chunk) for chunk in chunks), [])
        assert found == [text.decode()] * 2 + [b"plain", text]


def test_deflate_fragments():
    protocol = opened([PerMessageDeflate()])
    sent = [send_fragment(protocol, TEXT, b"a" * 50, False) for _ in range(3)]
    sent.append(send_fragment(protocol, TEXT, b"", True))
    # The choice of the first fragment holds for the message.
    sent.append(send_fragment(protocol, TEXT, b"b", False, compress=False))
    sent.append(send_fragment(protocol, TEXT, b"c", False, compress=True))
    sent.append(send_fragment(protocol, TEXT, b"d", True))
    sent.append(send_fragment(protocol, BINARY, b"e", False))
    sent.append(send_fragment(protocol, BINARY, b"f", True, compress=False))
    frames = frames_of(protocol, *sent)
    heads = [head for head, _ in frames]
    assert heads == [0x41, 0, 0, 0x80, 0x01, 0, 0x80, 0x42, 0x80]
    data = [payload for _, payload in frames]
    assert data[4:7] == [b"b", b"c", b"d"]
    assert inflated([data[:4], data[7:]]) == [b"a" * 150, b"ef"]


class Tag(Extension):
    """Adds a letter to each frame and sets a bit; takes both off."""

    def __init__(self, letter, bit, optional=False):
        self.letter, self.bit, self.optional = letter, bit, optional
        setattr(self, bit, True)

    def encode(self, frame):
        return frame._replace(data=bytes(frame.data) + self.letter, **{self.bit: True})

    def decode(self, frame, max_size=None):
        if not getattr(frame, self.bit) or frame.data[-1:] != self.letter:
            raise ProtocolError("no tag")
        return frame._replace(data=frame.data[:-1], **{self.bit: False})


def test_extensions_encode_in_order_and_decode_in_reverse():
    protocol = opened([Tag(b"1", "rsv2"), Tag(b"2", "rsv3")])
    sent = [
        send_message(protocol, TEXT, b"a"),
        send_fragment(protocol, BINARY, b"b", False),
        send_fragment(protocol, BINARY, memoryview(b"c"), True),
        send_message(protocol, BINARY, bytes(PIECE)),
    ]
    frames = frames_of(protocol, *sent)
    assert frames == [
        (0xB1, b"a12"), (0x32, b"b12"), (0xB0, b"c12"), (0xB2, bytes(PIECE) + b"12"),
    ]  # fmt: skip
    protocol.ping(b"p")
    assert written(protocol) == [(0x89, b"p")]
    for chunks in splits(b"".join(header(h, len(data), 0) + data for h, data in frames[:3])):
        protocol = opened([Tag(b"1", "rsv2"), Tag(b"2", "rsv3")])
        assert sum((feed(protocol, chunk) for chunk in chunks), []) == ["a", b"bc"]
        protocol = opened([Tag(b"2", "rsv3"), Tag(b"1", "rsv2")])
        assert sum((feed(protocol, chunk) for chunk in chunks), []) == []
        assert protocol.sent.code == 1002


def test_optional_extensions_can_be_left_out():
    for compress, expected in ((None, b"a12"), (True, b"a12"), (False, b"a2")):
        protocol = opened([Tag(b"1", "rsv2", optional=True), Tag(b"2", "rsv3")])
        head = 0xB1 if compress is not False else 0x91
        frames = frames_of(protocol, send_message(protocol, TEXT, b"a", compress))
        assert frames == [(head, expected)]
        sent = [send_fragment(protocol, TEXT, b"a", fin, compress) for fin in (False, True)]
        assert [data for _, data in frames_of(protocol, *sent)] == [expected] * 2


def test_deflate_with_another_extension():
    protocol = opened([PerMessageDeflate(), Tag(b"2", "rsv2")])
    frames = frames_of(protocol, send_message(protocol, TEXT, b"a" * 99))
    assert frames[0][0] == 0xE1 and frames[0][1].endswith(b"2")
    protocol = opened([PerMessageDeflate(), Tag(b"2", "rsv2")])
    data = b"".join(header(head, len(data), 0) + data for head, data in frames)
    assert feed(protocol, data) == ["a" * 99]


def test_a_subclass_of_deflate_encodes_the_frames():
    class Never(PerMessageDeflate):
        def encode(self, frame):
            return frame

    protocol = opened([Never()])
    assert frames_of(protocol, send_message(protocol, TEXT, b"a")) == [(0x81, b"a")]


def test_an_extension_that_cannot_encode_leaves_no_message_begun():
    class Picky(Extension):
        def encode(self, frame):
            if frame.data == b"bad":
                raise ValueError("bad")
            return frame

    protocol = opened([Picky()])
    with pytest.raises(ValueError):
        send_fragment(protocol, TEXT, b"bad", False)
    assert not protocol.sending
    assert frames_of(protocol, send_message(protocol, TEXT, b"good")) == [(0x81, b"good")]


def test_a_frame_may_set_any_bit():
    class Bits(Extension):
        def encode(self, frame):
            return Frame(frame.opcode, frame.data, False, True, True, True)

    protocol = opened([Bits()])
    assert parsed(joined(send_message(protocol, TEXT, b"a"))) == [(0x71, b"a")]
    assert parsed(joined(send_fragment(protocol, TEXT, b"a", True))) == [(0x71, b"a")]


# -- streaming --


def test_streaming():
    protocol = opened()
    protocol.receive_data(frame(TEXT, b"ab", False))
    assert protocol.next_chunk() == ("ab", False)
    assert protocol.reader.streaming and not protocol.pending
    assert protocol.next_chunk() is None
    protocol.receive_data(frame(PING, b"p") + frame(CONT, b"cd") + frame(TEXT, b"next"))
    assert protocol.next_chunk() == ("cd", True)
    assert written(protocol) == [(0x8A, b"p")]
    assert not protocol.reader.streaming and protocol.pending
    assert protocol.next_messages() == ["next"]


def test_skip():
    protocol = opened()
    protocol.receive_data(frame(TEXT, b"ab", False))
    assert protocol.next_chunk() == ("ab", False)
    protocol.reader.skip()
    assert not protocol.reader.streaming
    assert feed(protocol, frame(CONT, b"cd") + frame(TEXT, b"next")) == ["next"]


def test_a_close_while_streaming():
    protocol = opened()
    protocol.receive_data(frame(TEXT, b"ab", False) + close_frame(1001) + frame(CONT, b"c"))
    assert protocol.next_chunk() == ("ab", False)
    assert protocol.state is OPEN
    assert protocol.next_chunk() is None
    assert protocol.finished and not protocol.reader.streaming
    assert written(protocol) == [(0x88, b"\x03\xe9")]


def test_missing_says_how_much_to_read():
    protocol = opened()
    assert protocol.reader.missing == 0
    feed(protocol, header(0x82, 100000, 0) + b"x")
    assert protocol.reader.missing == 99999
    feed(protocol, bytes(99999))
    assert protocol.reader.missing == 0


# -- any bytes --


def random_bytes_of_a_server(rng):
    parts = []
    for _ in range(rng.randrange(1, 9)):
        opcode = rng.choice([0, 1, 2, 8, 9, 10, rng.randrange(16)])
        payload = bytes(rng.randrange(256) for _ in range(rng.choice([0, 1, 2, 5, 130])))
        if opcode == CLOSE:
            payload = rng.choice([1000, 1005, 3000]).to_bytes(2, "big") + b"x" * rng.randrange(3)
        elif opcode in (TEXT, PING, PONG):
            payload = b"abc"
        parts.append(frame(opcode, payload, rng.random() < 0.8, rng.choice([0, 0, 0, 0, 0x40])))
    return b"".join(parts)


@pytest.mark.parametrize("deflated", [False, True], ids=["not deflated", "deflated"])
def test_any_bytes_end_the_same_however_they_come(deflated, monkeypatch):
    """No exception, the same messages, answers and end; the plain way agrees with the fast one."""
    rng = random.Random(f"{SEED} {deflated}")

    class PlainReader(MessageReader):
        __slots__ = ()

        def __init__(self, *args):
            super().__init__(*args)
            self._fast_limit = -1

    for _ in range(150):
        data, outcomes = random_bytes_of_a_server(rng), []
        for chunks in [*splits(data), "plain"]:
            with monkeypatch.context() as patch:
                if chunks == "plain":
                    patch.setattr(module, "MessageReader", PlainReader)
                    chunks = [data]
                protocol = opened([PerMessageDeflate()] if deflated else [], max_size=200)
            messages = sum((feed(protocol, chunk) for chunk in chunks), [])
            end = protocol.state, protocol.finished, ended(protocol), type(protocol.failure)
            outcomes.append((messages, written(protocol), end))
            protocol.connection_lost()
            assert protocol.finished and protocol.state is CLOSED
        assert all(outcome == outcomes[0] for outcome in outcomes), data


@pytest.mark.parametrize("interval", [None, 20])
def test_a_read_that_is_one_message_is_taken_at_once(interval):
    protocol = ClientProtocol(now=0.0, ping_interval=interval)
    assert protocol.receive_message(frame(TEXT, b"a"), 15.0) == "a"
    assert protocol.receive_message(frame(BINARY, b"b"), 15.0) == b"b"
    assert protocol.receive_message(frame(PING, b"b"), 30.0) is None
    assert protocol.tick(30.0) == (NEVER if interval is None else 35.0)  # since it was heard last
    protocol.close()
    assert protocol.receive_message(frame(TEXT, b"late"), 31.0) is None
