"""permessage-deflate, with zlib itself as the peer."""

from __future__ import annotations

import random
import subprocess
import sys
import zlib

import pytest
from helpers import PATIENCE, SEED, splits
from tables import each_row

from wsmini.exceptions import NegotiationError, PayloadTooBig, ProtocolError
from wsmini.sansio import deflate
from wsmini.sansio.deflate import MAX_FINALS, Deflate, PerMessageDeflate
from wsmini.sansio.extensions import format_extensions, negotiate
from wsmini.sansio.frames import Frame, Opcode

TAIL = b"\x00\x00\xff\xff"
TEXT, BINARY, CONT = Opcode.TEXT, Opcode.BINARY, Opcode.CONT
CONTEXTS = {"takeover": False, "no takeover": True}


def compressor(bits=15):
    return zlib.compressobj(6, zlib.DEFLATED, -bits)


def flushed(compress, data):
    out = compress.compress(data) + compress.flush(zlib.Z_SYNC_FLUSH)
    assert out.endswith(TAIL)
    return out[:-4]


def final(data, history=b""):
    """*data* as a stream that ends with a block that has BFINAL set."""
    compress = zlib.compressobj(6, zlib.DEFLATED, -15, zdict=history)
    return compress.compress(data) + compress.flush(zlib.Z_FINISH)


def strictly_inflated(inflater, data, tail=TAIL):
    """Inflate byte by byte, so that zlib finds nothing outside its own window."""
    out, data = bytearray(), data + tail
    while data:
        out += inflater.decompress(data, 1)
        data = inflater.unconsumed_tail
    while True:
        byte = inflater.decompress(b"", 1)
        if not byte:
            return bytes(out)
        out += byte


def random_bytes(rng, n):
    return bytes(rng.getrandbits(8) for _ in range(n))


def random_messages(rng, count=30, size=3000):
    """Messages with much to refer to, at all distances, in themselves and in those before."""
    past = random_bytes(rng, 300)
    for _ in range(count):
        message = bytearray()
        for _ in range(rng.choice([0, 1, 5, 30])):
            kind = rng.randrange(4)
            if kind == 0:
                message += random_bytes(rng, rng.randrange(40))
            elif kind == 1:
                message += bytes([rng.getrandbits(8)]) * rng.randrange(600)
            else:
                whole = past + message
                at = rng.randrange(max(0, len(whole) - rng.choice([260, 600, 40000])), len(whole))
                message += whole[at : at + rng.randrange(300)]
        past += message
        yield bytes(message[:size])


# -- the offer --

OFFERS = {
    "default": ({}, "permessage-deflate; client_max_window_bits"),
    "as little as can be": ({"client_max_window_bits": False}, "permessage-deflate"),
    "None for no": ({"client_max_window_bits": None}, "permessage-deflate"),
    "client window": (
        {"client_max_window_bits": 9},
        "permessage-deflate; client_max_window_bits=9",
    ),
    "everything": (
        {
            "client_max_window_bits": 15,
            "server_max_window_bits": 8,
            "client_no_context_takeover": True,
            "server_no_context_takeover": True,
        },
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover;"
        " server_max_window_bits=8; client_max_window_bits=15",
    ),
    "any true value": (
        {"server_no_context_takeover": 1, "client_max_window_bits": None},
        "permessage-deflate; server_no_context_takeover",
    ),
}


@pytest.mark.parametrize("options, header", OFFERS.values(), ids=OFFERS)
def test_offer(options, header):
    offer = Deflate(**options)
    assert format_extensions([(offer.name, offer.offer())]) == header


BAD_OPTIONS = {
    "server window of 128": ({"server_max_window_bits": 7}, ValueError, "8 to 15, not 7"),
    "server window of 64K": ({"server_max_window_bits": 16}, ValueError, "8 to 15, not 16"),
    "server window True": ({"server_max_window_bits": True}, TypeError, "an int, not bool"),
    "client window of 1": ({"client_max_window_bits": 0}, ValueError, "8 to 15, not 0"),
    "client window of 2": ({"client_max_window_bits": 1}, ValueError, "8 to 15, not 1"),
    "client window of 64K": ({"client_max_window_bits": 16}, ValueError, "8 to 15, not 16"),
    "window as text": ({"client_max_window_bits": "9"}, TypeError, "an int, not str"),
    "level": ({"level": 10}, ValueError, "-1 to 9, not 10"),
    "low level": ({"level": -2}, ValueError, "-1 to 9, not -2"),
    "memory": ({"mem_level": 0}, ValueError, "1 to 9, not 0"),
    "much memory": ({"mem_level": 10}, ValueError, "1 to 9, not 10"),
}


@each_row("options, error, words", BAD_OPTIONS.values(), ids=BAD_OPTIONS)
def test_bad_options_are_refused(options, error, words):
    with pytest.raises(error, match=words) as caught:
        Deflate(**options)
    assert str(caught.value).startswith(next(iter(options)))


# -- the response: options, parameters, and what is then
#    (server, client) no_context_takeover, (server, client) max_window_bits --

RESPONSES = {
    "nothing": ({}, "", (False, False, 15, 12)),
    "server forgets": ({}, "; server_no_context_takeover", (True, False, 15, 12)),
    "client must forget": ({}, "; client_no_context_takeover", (False, True, 15, 12)),
    "client forgets anyway": ({"client_no_context_takeover": True}, "", (False, True, 15, 12)),
    "server forgets as asked": (
        {"server_no_context_takeover": True},
        "; server_no_context_takeover",
        (True, False, 15, 12),
    ),
    "server window, not asked for": ({}, "; server_max_window_bits=8", (False, False, 8, 12)),
    "server window as asked": (
        {"server_max_window_bits": 10},
        "; server_max_window_bits=10",
        (False, False, 10, 12),
    ),
    "server window smaller than asked": (
        {"server_max_window_bits": 10},
        "; server_max_window_bits=9",
        (False, False, 9, 12),
    ),
    "largest server window goes without saying": (
        {"server_max_window_bits": 15},
        "",
        (False, False, 15, 12),
    ),
    "client window": ({}, "; client_max_window_bits=9", (False, False, 15, 9)),
    "client window 8": ({}, "; client_max_window_bits=8", (False, False, 15, 8)),
    "client window up to 15": ({}, "; client_max_window_bits=15", (False, False, 15, 12)),
    "client window as offered": ({"client_max_window_bits": 15}, "", (False, False, 15, 15)),
    "client window smaller than offered": (
        {"client_max_window_bits": 15},
        "; client_max_window_bits=14",
        (False, False, 15, 14),
    ),
    "client window larger than offered": (
        {"client_max_window_bits": 10},
        "; client_max_window_bits=11",
        (False, False, 15, 10),
    ),
    "client window not offered": ({"client_max_window_bits": False}, "", (False, False, 15, 12)),
    "quoted": ({}, '; client_max_window_bits="10"', (False, False, 15, 10)),
    "everything": (
        {},
        "; client_max_window_bits=9; server_no_context_takeover"
        "; server_max_window_bits=11; client_no_context_takeover",
        (True, True, 11, 9),
    ),
}


@each_row("options, params, expected", RESPONSES.values(), ids=RESPONSES)
def test_response_is_accepted(options, params, expected):
    offer = Deflate(level=3, mem_level=7, **options)
    (extension,) = negotiate(["permessage-deflate" + params], [offer])
    assert expected == (
        extension.server_no_context_takeover,
        extension.client_no_context_takeover,
        extension.server_max_window_bits,
        extension.client_max_window_bits,
    )
    assert (extension.level, extension.mem_level) == (3, 7)
    assert (extension.name, extension.rsv1, extension.optional) == (offer.name, True, True)
    assert f"server_max_window_bits={expected[2]}" in repr(extension)


BAD_VALUES = ["7", "16", "0", "-9", "+9", "08", "015", "9.0", "0x9", "150", "nine", "1e1"]
BITS_ERROR = "max_window_bits is 8 to 15 in decimal digits, not "

REFUSED = {
    "unknown": ({}, "; window_bits=10", "parameter 'window_bits' isn't known"),
    "unknown without a value": ({}, "; x", "parameter 'x' isn't known"),
    "case matters": ({}, "; Server_no_context_takeover", "parameter 'Server_no_c.* isn't known"),
    "server forgets twice": (
        {},
        "; server_no_context_takeover; server_no_context_takeover",
        "server_no_context_takeover is repeated",
    ),
    "client window twice": (
        {},
        "; client_max_window_bits=10; server_max_window_bits=10; client_max_window_bits=10",
        "client_max_window_bits is repeated",
    ),
    "server window twice": (
        {},
        "; server_max_window_bits=10; server_max_window_bits=9",
        "server_max_window_bits is repeated",
    ),
    "value not allowed": (
        {},
        "; server_no_context_takeover=1",
        "server_no_context_takeover has no value, not '1'",
    ),
    "quoted value not allowed": (
        {},
        '; client_no_context_takeover="true"',
        "client_no_context_takeover has no value, not 'true'",
    ),
    "server window without a value": ({}, "; server_max_window_bits", BITS_ERROR + "without a"),
    "client window without a value": ({}, "; client_max_window_bits", BITS_ERROR + "without a"),
    "quoted leading zero": ({}, '; server_max_window_bits="08"', BITS_ERROR + "'08'"),
    "client window, not offered": (
        {"client_max_window_bits": False},
        "; client_max_window_bits=15",
        "client_max_window_bits wasn't offered",
    ),
    "server window larger than asked": (
        {"server_max_window_bits": 10},
        "; server_max_window_bits=11",
        "window is larger than the offered server_max_window_bits=10",
    ),
    "server window not promised": (
        {"server_max_window_bits": 10},
        "",
        "window is larger than the offered server_max_window_bits=10",
    ),
    "server doesn't promise to forget": (
        {"server_no_context_takeover": True},
        "; client_no_context_takeover",
        "server_no_context_takeover is missing",
    ),
}
for _side in ("server", "client"):
    for _value in BAD_VALUES:
        _name = f"{_side}_max_window_bits={_value}"
        REFUSED[_name] = ({}, f"; {_name}", f"{_side}_{BITS_ERROR}'{_value}'".replace("+", "[+]"))


@each_row("options, params, problem", REFUSED.values(), ids=REFUSED)
def test_response_is_refused(options, params, problem):
    with pytest.raises(NegotiationError, match=problem) as caught:
        negotiate(["permessage-deflate" + params], [Deflate(**options)])
    assert caught.value.value == "permessage-deflate" + params.replace('"', "")


def test_values_that_no_header_can_have_are_refused():
    for value in "", "10\n", "١٠", " 9":
        with pytest.raises(NegotiationError, match=BITS_ERROR):
            Deflate().accept([("client_max_window_bits", value)], [])


def test_offer_serves_many_connections():
    offer = Deflate()
    one, two = offer.accept([], []), offer.accept([], [])
    assert one.deflate(b"spam" * 9) == two.deflate(b"spam" * 9)


# -- whole messages --

RFC_EXAMPLES = {  # RFC 7692, 7.2.3: payloads, in this order on one connection
    "one block": [("f248cdc9c90700", b"Hello")],
    "shared window": [("f248cdc9c90700", b"Hello"), ("f200110000", b"Hello")],
    "no compression": [("000500faff48656c6c6f00", b"Hello")],
    "BFINAL": [("f348cdc9c9070000", b"Hello")],
    "BFINAL again": [("f348cdc9c9070000", b"Hello")] * 3,
    "BFINAL, then its window": [("f348cdc9c9070000", b"Hello"), ("f200110000", b"Hello")],
    "two blocks": [("f248050000 00ffffcac9c90700", b"Hello")],
    "empty": [("00", b""), ("00", b"")],
    "empty between": [("f248cdc9c90700", b"Hello"), ("00", b""), ("f200110000", b"Hello")],
    "empty after BFINAL": [("f348cdc9c9070000", b"Hello"), ("00", b""), ("f200110000", b"Hello")],
    "no bytes": [("", b""), ("f248cdc9c90700", b"Hello"), ("", b""), ("f200110000", b"Hello")],
    "BFINAL, nothing behind": [("f348cdc9c90700", b"Hello"), ("f200110000", b"Hello")],
    "only a final block": [("0300", b""), ("030000", b""), ("f248cdc9c90700", b"Hello")],
}


@each_row("messages", RFC_EXAMPLES.values(), ids=RFC_EXAMPLES)
def test_examples_of_the_rfc(messages):
    whole = PerMessageDeflate()
    for payload, message in messages:
        assert whole.inflate(bytes.fromhex(payload)) == message
    for kinds in range(len(list(splits(b"x")))):
        extension = PerMessageDeflate()
        for payload, message in messages:
            chunks = list(splits(bytes.fromhex(payload)))[kinds]
            assert decoded(extension, fragments(chunks)) == message


@pytest.mark.parametrize("convert", [bytes, bytearray, memoryview])
def test_any_bytes_are_taken(convert):
    extension = PerMessageDeflate()
    assert extension.inflate(convert(bytes.fromhex("f248cdc9c90700"))) == b"Hello"
    assert extension.inflate(convert(bytes.fromhex("f200110000")), 5) == b"Hello"
    assert extension.inflate(convert(b"")) == b""
    for message in b"Hello", b"Hello", b"":
        assert extension.inflate(PerMessageDeflate().deflate(convert(message))) == message
    compressed = extension.encode(Frame(TEXT, convert(b"Hello")))
    assert extension.decode(compressed) == Frame(TEXT, b"Hello")


@each_row("resets", CONTEXTS.values(), ids=CONTEXTS)
@each_row("bits", range(8, 16))
def test_random_messages_are_inflated(resets, bits):
    rng = random.Random(SEED)
    extension = PerMessageDeflate(server_no_context_takeover=resets, server_max_window_bits=bits)
    peer = compressor(max(9, bits))
    for message in random_messages(rng):
        if resets:
            peer = compressor(max(9, bits))
        kind = rng.randrange(3)
        if kind == 0:
            assert extension.inflate(flushed(peer, message), len(message)) == message
        elif kind == 1:
            chunks = list(splits(flushed(peer, message)))[rng.randrange(2, 5)]
            assert decoded(extension, fragments(chunks)) == message
        else:
            frame = Frame(BINARY, message)
            assert extension.decode(frame) is frame


@each_row("resets", CONTEXTS.values(), ids=CONTEXTS)
@each_row("bits", range(8, 16))
@each_row("level", [1, 9])
def test_random_messages_are_deflated_within_the_window(resets, bits, level):
    rng = random.Random(SEED)
    extension = PerMessageDeflate(
        client_no_context_takeover=resets, client_max_window_bits=bits, level=level, mem_level=9
    )
    peer = zlib.decompressobj(-bits)
    for message in random_messages(rng, count=10):
        if resets:
            peer = zlib.decompressobj(-bits)
        if rng.randrange(2):
            assert strictly_inflated(peer, extension.deflate(message)) == message
        else:
            frames = encoded(extension, list(splits(message))[rng.randrange(2, 5)])
            data = b"".join(frame.data for frame in frames)
            assert strictly_inflated(peer, data) == message


def test_strict_inflater_of_these_tests_finds_what_is_too_far_back():
    data = random_bytes(random.Random(SEED), 400)
    with pytest.raises(zlib.error, match="too far back"):
        strictly_inflated(zlib.decompressobj(-8), flushed(compressor(10), data * 2))


def test_context_takeover_makes_messages_smaller():
    message = random_bytes(random.Random(SEED), 500)
    with_context, without = PerMessageDeflate(), PerMessageDeflate(client_no_context_takeover=True)
    assert len(with_context.deflate(message)) == len(without.deflate(message)) > 500
    assert len(with_context.deflate(message)) < 50
    assert len(without.deflate(message)) > 500


def test_empty_messages_are_one_byte_whatever_came_before():
    extension = PerMessageDeflate()
    peer = zlib.decompressobj(-15)
    for message in b"", b"", b"spam", b"", b"", b"spam":
        data = extension.deflate(message)
        assert (data == b"\x00") == (message == b"")
        assert peer.decompress(data + TAIL) == message


# -- limits --


def test_message_of_just_max_size_is_inflated():
    for size in 0, 1, 5, 16384, 100000:
        message = b"x" * size
        extension, peer = PerMessageDeflate(), compressor()
        for limit in size, size + 1, None, sys.maxsize, 1 << 63, 1 << 70:
            assert extension.inflate(flushed(peer, message), limit) == message


@pytest.mark.parametrize("resets", CONTEXTS.values(), ids=CONTEXTS)
@pytest.mark.parametrize("make", [lambda data: flushed(compressor(), data), final])
def test_message_of_more_is_refused(resets, make):
    for size in 1, 2, 5, 16384, 100000:
        extension = PerMessageDeflate(server_no_context_takeover=resets)
        with pytest.raises(PayloadTooBig) as caught:
            extension.inflate(make(b"x" * size), size - 1)
        assert (caught.value.size, caught.value.limit) == (size, size - 1)


def test_no_limit_below_zero():
    with pytest.raises(PayloadTooBig):
        PerMessageDeflate().inflate(flushed(compressor(), b"x"), -1)


@pytest.mark.parametrize("fin", [True, False])
@pytest.mark.parametrize(
    "bomb",
    [
        flushed(compressor(), bytes(10 << 20)),
        final(bytes(10 << 20)),
        final(b"x") + final(bytes(10 << 20)),
        final(bytes(1 << 20)) * 10,
    ],
    ids=["plain", "final", "behind a final block", "many final blocks"],
)
def test_bomb_costs_no_more_than_max_size(bomb, fin):
    extension = PerMessageDeflate()
    tracemalloc = pytest.importorskip("tracemalloc")  # only CPython counts what is allocated
    tracemalloc.start()
    try:
        with pytest.raises(PayloadTooBig) as caught:
            extension.decode(Frame(BINARY, bomb, fin, True), 1 << 20)
        assert caught.value.size == (1 << 20) + 1
        # A buffer that grows in steps; behind final blocks, what is gathered and one piece.
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_limit_holds_for_each_fragment_as_given():
    data = flushed(compressor(), b"x" * 100000)
    extension, left = PerMessageDeflate(), 50000
    with pytest.raises(PayloadTooBig):
        for frame in fragments(list(splits(data))[1]):
            left -= len(extension.decode(frame, left).data)
    assert 0 <= left < 1000


# -- corrupt data --

CORRUPT = {
    "reserved block type": "07",
    "stored length": "000500fafe48656c6c6f00",
    "too far back": "f200110000",
    "behind a final block": "f348cdc9c9070007",
    "behind two final blocks": "f348cdc9c90700 0300 07",
}


@pytest.mark.parametrize("payload", CORRUPT.values(), ids=CORRUPT)
def test_corrupt_data_is_a_protocol_error(payload):
    for chunks in splits(bytes.fromhex(payload)):
        with pytest.raises(ProtocolError, match="compressed data is corrupt: ") as caught:
            decoded(PerMessageDeflate(), fragments(chunks))
        assert isinstance(caught.value.__cause__, zlib.error)


def test_random_bytes_are_inflated_or_a_documented_error():
    rng = random.Random(SEED)
    good = [flushed(compressor(), m) for m in random_messages(rng)]
    good += [final(m) + final(m[:9]) for m in random_messages(rng)]
    for _ in range(400):
        data = bytearray(rng.choice(good))
        for _ in range(rng.randrange(4)):
            data[rng.randrange(len(data))] = rng.getrandbits(8)
        results = []
        for chunks in [[bytes(data)], list(splits(data))[2]]:
            try:
                results.append(decoded(PerMessageDeflate(), fragments(chunks), 10000))
            except (ProtocolError, PayloadTooBig) as exc:
                results.append(type(exc))
        # Truncated data may be noticed or not, and an error may come before the limit or behind
        # it; whatever comes out of both ways is the same.
        if all(isinstance(result, bytes) for result in results):
            assert results[0] == results[1]


def test_data_without_context_cannot_refer_to_earlier_messages():
    peer = compressor()
    extension = PerMessageDeflate(server_no_context_takeover=True)
    assert extension.inflate(flushed(peer, b"spam, eggs, spam")) == b"spam, eggs, spam"
    with pytest.raises(ProtocolError, match="too far back"):
        extension.inflate(flushed(peer, b"spam, eggs, spam"))


# -- final blocks --


@pytest.mark.parametrize("padding", [b"\x00", b""], ids=["as in the RFC", "no padding"])
@pytest.mark.parametrize("resets", CONTEXTS.values(), ids=CONTEXTS)
def test_random_messages_with_final_blocks(resets, padding):
    rng = random.Random(SEED)
    extension = PerMessageDeflate(server_no_context_takeover=resets)
    # Once behind a final block, whether messages end with one or not makes no difference.
    history = b""
    for number, message in enumerate(random_messages(rng, 60)):
        data = b""
        for start in range(0, len(message) + 1, 1000):
            part = message[start : start + 1000]
            data += final(part, history[-32768:])
            history += part
        if number % 3 < 2:
            data += padding
        else:
            more = zlib.compressobj(6, zlib.DEFLATED, -15, zdict=history[-32768:])
            data += flushed(more, message)
            history += message
            message += message
        if number % 2:
            assert extension.inflate(data, len(message)) == message
        else:
            chunks = list(splits(data))[rng.randrange(1, 5)]
            assert decoded(extension, fragments(chunks)) == message
        if resets:
            history = b""


def test_window_before_the_first_final_block_is_not_kept():
    extension, peer = PerMessageDeflate(), compressor()
    assert extension.inflate(flushed(peer, b"spam, eggs")) == b"spam, eggs"
    assert extension.inflate(final(b"ham") + b"\0") == b"ham"
    with pytest.raises(ProtocolError, match="too far back"):
        extension.inflate(flushed(peer, b"spam, eggs"))


def test_long_stream_behind_a_final_block():
    message = random_bytes(random.Random(SEED), 50000)
    data = final(b"spam") + flushed(zlib.compressobj(6, zlib.DEFLATED, -15, zdict=b"spam"), message)
    for limit in None, 50004:
        assert PerMessageDeflate().inflate(data, limit) == b"spam" + message
    with pytest.raises(PayloadTooBig) as caught:
        PerMessageDeflate().inflate(data, 50003)
    assert (caught.value.size, caught.value.limit) == (50004, 50003)


def test_final_block_in_the_last_fragment_of_the_first_message():
    extension = PerMessageDeflate()
    for chunks in splits(final(b"spam, eggs") + b"\0"):
        assert decoded(extension, fragments(chunks)) == b"spam, eggs"
        more = zlib.compressobj(6, zlib.DEFLATED, -15, zdict=b"spam, eggs")
        assert extension.inflate(flushed(more, b"spam, eggs")) == b"spam, eggs"


def test_window_is_kept_behind_an_empty_final_block():
    extension = PerMessageDeflate()
    assert extension.inflate(final(b"") + final(b"spam, eggs") + b"\0") == b"spam, eggs"
    assert extension.inflate(final(b"spam, eggs", b"spam, eggs") + b"\0") == b"spam, eggs"


def test_no_more_than_the_window_is_kept():
    extension = PerMessageDeflate()
    for _ in range(5):
        assert extension.inflate(final(bytes(100000)) * 3 + b"\0") == bytes(300000)
        assert len(extension._history) == 32768
        assert extension.inflate(flushed(compressor(), bytes(100000))) == bytes(100000)
        assert len(extension._history) == 32768
    extension = PerMessageDeflate(server_no_context_takeover=True)
    assert extension.inflate(final(bytes(100000)) + b"\0") == bytes(100000)
    assert not extension._history
    for chunks in splits(flushed(compressor(), bytes(100000))):
        extension = PerMessageDeflate()
        assert decoded(extension, fragments(chunks)) == bytes(100000)
        assert not extension._history


def test_final_blocks_are_bounded():
    """Each of them takes a new context, and an empty one is of two bytes."""
    made = []

    class Counting(PerMessageDeflate):
        def _new_inflater(self):
            made.append(1)
            return super()._new_inflater()

    for data in (b"", b"x"):
        extension = Counting()
        few = final(data) * (MAX_FINALS - 1) + b"\0"
        assert extension.inflate(few) == data * (MAX_FINALS - 1)
        assert extension.inflate(few) == data * (MAX_FINALS - 1)
        assert extension.inflate(final(b"x") + b"\0") == b"x"
        made.clear()
        with pytest.raises(ProtocolError, match=r"\d+ final blocks or more"):
            extension.inflate(final(data) * 65536 + b"\0")
        assert len(made) <= MAX_FINALS + 65536 * len(final(data)) // 1024
    extension = Counting()
    for _ in range(1000):  # one for each fragment is what a peer may need
        assert extension.inflate(final(b"x"), fin=False) == b"x"


# -- frames --


def fragments(chunks, opcode=TEXT):
    """The chunks of a compressed message as frames."""
    last = len(chunks) - 1
    for i, chunk in enumerate(chunks):
        yield Frame(CONT if i else opcode, chunk, i == last, i == 0)


def decoded(extension, frames, max_size=None):
    """The message in *frames*."""
    message = b""
    for frame in frames:
        result = extension.decode(frame, max_size)
        assert result[:1] + result[2:] == (frame.opcode, frame.fin, False, False, False)
        message += result.data
    return message


def encoded(extension, chunks):
    frames = [extension.encode(frame._replace(rsv1=False)) for frame in fragments(chunks)]
    assert [frame.rsv1 for frame in frames] == [True] + [False] * (len(chunks) - 1)
    assert [frame.fin for frame in frames] == [False] * (len(chunks) - 1) + [True]
    return frames


def test_fragments_are_inflated_as_they_arrive():
    peer = compressor()
    first = peer.compress(b"spam") + peer.flush(zlib.Z_SYNC_FLUSH)
    extension = PerMessageDeflate()
    assert extension.decode(Frame(TEXT, first, False, True)).data == b"spam"
    assert extension.decode(Frame(CONT, b"", False)).data == b""
    assert extension.decode(Frame(CONT, flushed(peer, b"eggs"))).data == b"eggs"


def test_fragments_can_be_inflated_as_they_are_sent():
    extension, peer = PerMessageDeflate(), zlib.decompressobj(-12)
    for message in range(3):
        chunks = [b"spam", b"", b"eggs", b"", b"ham" * message]
        for frame, chunk in zip(encoded(extension, chunks), chunks):
            assert peer.decompress(frame.data + (TAIL if frame.fin else b"")) == chunk


@pytest.mark.parametrize("count", [1, 2, 5])
def test_empty_fragments(count):
    extension, peer = PerMessageDeflate(), zlib.decompressobj(-12)
    for _ in range(2):
        frames = encoded(extension, [b""] * count)
        assert b"".join(frame.data for frame in frames) == b"\x00"
        assert peer.decompress(b"\x00" + TAIL) == b""
        assert decoded(extension, fragments([b""] * count)) == b""
        assert decoded(extension, fragments([b""] * (count - 1) + [b"\x00"])) == b""
        assert decoded(extension, fragments([b"\x00"] + [b""] * (count - 1))) == b""
    assert decoded(extension, fragments([bytes.fromhex("f248cdc9c90700"), b""])) == b"Hello"
    assert decoded(extension, fragments([bytes.fromhex("f200110000")])) == b"Hello"


def test_message_that_is_not_compressed_leaves_the_context_alone():
    extension, peer = PerMessageDeflate(), compressor()
    for frames in (
        fragments([flushed(peer, b"spam" * 50)]),
        [Frame(TEXT, b"spam" * 50)],
        [Frame(TEXT, b"spam", False), Frame(CONT, b"spam" * 48, False), Frame(CONT, b"spam")],
        fragments([b"", flushed(peer, b"spam" * 50), b""]),
    ):
        assert decoded(extension, frames) == b"spam" * 50


def test_other_bits_and_the_opcode_are_left_alone():
    extension = PerMessageDeflate()
    sent = extension.encode(Frame(BINARY, b"spam", rsv2=True, rsv3=True))
    assert sent[:1] + sent[2:] == (BINARY, True, True, True, True)
    received = PerMessageDeflate().decode(sent)
    assert received == Frame(BINARY, b"spam", True, False, True, True)


MARKED = {
    "continuation": (
        [Frame(TEXT, b"\xf2\x48", False, True), Frame(CONT, b"", True, True)],
        "RSV1 is set on a continuation frame",
    ),
    "continuation of a plain message": (
        [Frame(TEXT, b"spam", False), Frame(CONT, b"\x00", True, True)],
        "RSV1 is set on a continuation frame",
    ),
}


@pytest.mark.parametrize("frames, error", MARKED.values(), ids=MARKED)
def test_only_the_first_frame_is_marked(frames, error):
    extension = PerMessageDeflate()
    for frame in frames[:-1]:
        extension.decode(frame)
    with pytest.raises(ProtocolError, match=error):
        extension.decode(frames[-1])


# -- what is loaded and allocated when --


def test_contexts_are_made_when_first_used_and_dropped_when_not_taken_over():
    for resets in CONTEXTS.values():
        extension = PerMessageDeflate(
            server_no_context_takeover=resets, client_no_context_takeover=resets
        )
        extension.deflate(b"")
        extension.inflate(b"")
        extension.decode(Frame(TEXT, b"spam"))
        assert extension._deflater is extension._inflater is None
        data = extension.deflate(b"spam", fin=False)
        assert extension._deflater is not None
        extension.inflate(data, fin=False)
        assert extension._inflater is not None
        extension.inflate(extension.deflate(b""))
        assert (extension._deflater is None) is (extension._inflater is None) is resets


@pytest.mark.skipif(sys.platform == "emscripten", reason="no other processes here")
def test_zlib_is_loaded_when_first_used():
    code = """
import sys
before = set(sys.modules)
assert "zlib" not in before, before
from wsmini.sansio.deflate import Deflate
from wsmini.sansio.extensions import negotiate
extension, = negotiate(["permessage-deflate"], [Deflate()])
assert not {"zlib", "typing"} & (set(sys.modules) - before)
extension.deflate(b"x")
assert "zlib" in sys.modules
"""
    # Not through -m or a site directory, which may load zlib themselves.
    root = deflate.__file__.rpartition("wsmini")[0]
    code = f"import sys; sys.path.insert(0, {root!r}){code}"
    subprocess.run([sys.executable, "-S", "-c", code], check=True, timeout=PATIENCE)


def test_without_zlib_it_is_not_available(monkeypatch):
    assert deflate.available()
    monkeypatch.setitem(sys.modules, "zlib", None)
    assert not deflate.available()
