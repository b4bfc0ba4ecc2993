"""Property tests with hypothesis: `make fuzz`.

The same cases on every run, so that CI doesn't fail by chance. To look for new ones, say how many
examples each property gets: ``WSMINI_FUZZ_EXAMPLES=100000 make fuzz``; these are random.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sansio.test_frames import loop, parsed
from sansio.test_messages import (
    BINARY,
    CLOSE,
    CONT,
    PING,
    PONG,
    RSV1,
    TEXT,
    Model,
    compressed,
    deflate,
    events,
    frame,
    streamed,
)

from wsmini.exceptions import (
    Close,
    ConnectionClosed,
    InvalidState,
    PayloadTooBig,
    ProtocolError,
    SendBufferFull,
)
from wsmini.sansio import frames
from wsmini.sansio.deflate import PerMessageDeflate
from wsmini.sansio.messages import UNLIMITED
from wsmini.sansio.protocol import ClientProtocol, State

EXAMPLES = os.environ.get("WSMINI_FUZZ_EXAMPLES")

fuzz = settings(
    max_examples=int(EXAMPLES or 600),
    derandomize=not EXAMPLES,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

sizes = st.one_of(st.integers(0, 20), st.sampled_from([124, 125, 126, 127, 65535, 65536, 66000]))
payloads = st.one_of(
    st.binary(max_size=20),
    st.text(max_size=10).map(str.encode),
    st.builds(lambda n, byte: byte * n, sizes, st.binary(min_size=1, max_size=1)),
)
closes = st.builds(
    lambda code, reason: code.to_bytes(2, "big") + reason,
    st.one_of(st.integers(990, 1020), st.integers(0, 65535)),
    payloads.map(lambda data: data[:130]),
)


@st.composite
def any_frames(draw):
    """One frame, mostly allowed somewhere."""
    opcode = draw(st.sampled_from([CONT, CONT, TEXT, TEXT, BINARY, PING, PONG, CLOSE, 3, 11]))
    data = draw(closes if opcode == CLOSE else payloads)
    rsv = draw(st.sampled_from([0] * 7 + [RSV1] * 3 + [0x20, 0x10, 0x70]))
    fin = draw(st.booleans()) or (opcode > 7 and draw(st.booleans()))
    if rsv == RSV1 and draw(st.booleans()):
        data = compressed(data, fin)
    return frame(opcode, data, fin, rsv)


streams = st.one_of(
    st.lists(any_frames(), max_size=12).map(b"".join),
    st.builds(lambda parts, junk: b"".join(parts) + junk, st.lists(any_frames()), st.binary()),
    st.binary(max_size=300),
)
limits = st.sampled_from([(UNLIMITED, UNLIMITED), (0, 0), (125, 125), (200, 50), (65535, 65535)])


@st.composite
def chunks_of(draw, data):
    places = sorted(draw(st.lists(st.integers(0, len(data)), max_size=12)))
    return [data[i:j] for i, j in zip([0, *places], [*places, len(data)])]


@fuzz
@given(st.data(), streams, limits, st.booleans())
def test_readers_agree_with_the_model(data, stream, limit, deflated):
    """Whatever comes, however it is cut: fast way, plain way, streaming and model are the same."""

    def extensions():
        return deflate() if deflated else []

    expected = Model(stream, limit, *extensions()).events
    chunks = data.draw(chunks_of(stream))
    for plain in (False, True):
        assert events(chunks, plain=plain, limits=limit, extensions=extensions()) == expected
    assert streamed(chunks, limits=limit, extensions=extensions())[0] == expected


@fuzz
@given(payloads, st.integers(0, 255), st.integers(0, 8))
def test_frames_are_masked_as_the_loop_does(data, head, start):
    for whole in (frames.masked(head, data), b"".join(frames.masked_pieces(head, data))):
        assert parsed(whole)[:2] == (head, data)
    buffer = bytearray(start) + data
    frames.mask_in_place(buffer, start, b"\x01\x80\x7f\xff")
    assert buffer == bytes(start) + loop(data, b"\x01\x80\x7f\xff")


@fuzz
@given(st.binary(max_size=130))
def test_any_close_payload_is_parsed_or_refused(data):
    try:
        close = frames.parse_close(data)
    except (ProtocolError, UnicodeDecodeError):
        return
    if data:
        assert frames.close_payload(*close) == data or len(data) > 125
    else:
        assert close == Close(1005, "")


# What a program and its server may do, in any order.
steps = st.one_of(
    st.tuples(st.just("receive"), streams),
    st.tuples(st.sampled_from("take take chunk skip lost ping pong close flush abandon".split())),
    st.tuples(st.just("send"), payloads),
    st.tuples(st.just("fragment"), payloads, st.booleans()),
    st.tuples(st.just("wait"), st.integers(0, 30)),
)


class Run:
    """A protocol between a program and a server that both do anything; checked at each step."""

    def __init__(self, extensions):
        self.protocol = ClientProtocol(extensions, max_size=1000, ping_interval=20, ping_timeout=10)
        self.now, self.sent = 0.0, []

    def step(self, name, *args):
        before = self.protocol.state
        try:
            getattr(self, name)(*args)
        except (ConnectionClosed, InvalidState, SendBufferFull):
            pass  # the documented ones
        after = self.protocol.state
        assert after == before or after in (State.CLOSING, State.CLOSED)
        assert after >= before
        assert self.protocol.finished or not self.protocol.abort
        if self.protocol.finished and not self.protocol.pending:
            assert self.protocol.next_messages() == []

    def receive(self, data):
        self.protocol.receive_data(data, self.now)

    def take(self):
        if not self.protocol.reader.streaming:
            had = self.protocol.pending
            assert not self.protocol.next_messages() or had

    def chunk(self):
        self.protocol.next_chunk()

    def skip(self):
        self.protocol.reader.skip()

    def lost(self):
        self.protocol.connection_lost(OSError())

    def ping(self):
        self.protocol.ping(None, self.now, lambda trip: None)

    def pong(self):
        self.protocol.pong(b"?")

    def close(self):
        self.protocol.close(1000, "bye")

    def abandon(self):
        self.protocol.abandon_message()

    def wait(self, seconds):
        self.now += seconds
        self.protocol.tick(self.now)

    def send(self, data):
        self.protocol.check_can_send()
        self.write(self.protocol.encode_message(BINARY, data))

    def fragment(self, data, fin):
        self.protocol.check_open()
        self.write(self.protocol.encode_fragment(BINARY, data, fin))

    def flush(self):
        self.write(self.protocol.data_to_send())

    def write(self, data):
        if not isinstance(data, (bytes, bytearray)):
            data = b"".join(data)
        while data:
            head, n = data[0], data[1] & 0x7F
            size = 2 + {126: 2, 127: 8}.get(n, 0)
            n = n if n < 126 else int.from_bytes(data[2:size], "big")
            self.sent.append(parsed(data[: size + 4 + n])[:2])
            assert self.sent[-1][0] == head
            data = data[size + 4 + n :]


def check_sent(sent):
    """What was sent is in the grammar of RFC 6455, 5.4, with a Close frame at most as the last."""
    inside = False
    for i, (head, data) in enumerate(sent):
        opcode, fin = head & 15, head & 0x80
        if opcode > 7:
            assert fin and len(data) <= 125
            assert opcode != CLOSE or i == len(sent) - 1
        else:
            assert (opcode == CONT) == inside
            inside = not fin


@fuzz
@given(st.lists(steps, max_size=30), st.booleans())
def test_whatever_happens_what_is_sent_is_valid(script, deflated):
    run = Run([PerMessageDeflate(server_no_context_takeover=True)] if deflated else [])
    for step in script:
        run.step(*step)
    run.step("flush")
    check_sent(run.sent)
    protocol = run.protocol
    protocol.connection_lost()
    for _ in range(10000):
        if protocol.finished and not protocol.pending:
            break
        if protocol.reader.streaming:
            protocol.next_chunk()
        else:
            protocol.next_messages()
    assert protocol.finished and not protocol.pending
    assert not protocol.reader.streaming
    assert protocol.state is State.CLOSED
    assert isinstance(protocol.close_code, int)
    assert not isinstance(protocol.failure, PayloadTooBig) or protocol.rcvd is None
