"""Bytes to messages: vectors, and the fast way compared with the plain one and with a model."""

from __future__ import annotations

import array
import random
import re
import zlib

import pytest
from helpers import SEED, splits
from tables import each_row

from wsmini.exceptions import PayloadTooBig, ProtocolError
from wsmini.sansio import messages
from wsmini.sansio.deflate import PerMessageDeflate
from wsmini.sansio.extensions import Extension
from wsmini.sansio.frames import Frame, Opcode, header
from wsmini.sansio.messages import (
    BATCH,
    FRAMES,
    INFLATED,
    MERGE,
    UNLIMITED,
    ByteQueue,
    MessageReader,
    chunk_decoder,
    decode_message,
    encode_message,
    encode_whole,
    parts_of,
)

CONT, TEXT, BINARY, CLOSE, PING, PONG = Opcode
FIN, RSV1, RSV2, RSV3 = 0x80, 0x40, 0x20, 0x10
INVALID = (ProtocolError, UnicodeDecodeError, PayloadTooBig)


def frame(opcode, data=b"", fin=True, rsv=0):
    return header(fin << 7 | rsv | opcode, len(data), 0) + data


def compressed(data, fin=True):
    """*data* as a fragment of a message, by a compressor without context takeover."""
    compress = zlib.compressobj(6, zlib.DEFLATED, -15)
    out = compress.compress(data) + compress.flush(zlib.Z_SYNC_FLUSH)
    return out[:-4] if fin else out


class Owner:
    """Keeps (opcode, payload) of control frames."""

    def __init__(self, found):
        self.found = found

    def receive_control(self, opcode, data):
        self.found.append((opcode, data))


def reader_with(extensions, limits=(UNLIMITED, UNLIMITED), found=None):
    return MessageReader(Owner([] if found is None else found), limits, extensions)


def events(chunks, *, plain=False, limits=(UNLIMITED, UNLIMITED), extensions=()):
    """All that comes out: messages, (opcode, payload) of control frames, the type of an error."""
    found = []
    reader = reader_with(extensions, limits, found=found)
    if plain:
        reader._fast_limit = -1
    for chunk in chunks:
        reader.receive_data(chunk)
        try:
            while True:
                batch = reader.messages()
                found += batch
                if not batch and not reader.pending:
                    break
        except INVALID as exc:
            found.append(type(exc))
            assert reader.pending
            with pytest.raises(type(exc)):
                reader.messages()
            reader.stop()
        assert not reader.pending
    return found


def streamed(chunks, *, limits=(UNLIMITED, UNLIMITED), extensions=()):
    """The same by ``next_chunk`` alone; and what there is of the last message."""
    found, parts = [], []
    reader = reader_with(extensions, limits, found=found)
    for chunk in chunks:
        reader.receive_data(chunk)
        try:
            while True:
                got = reader.next_chunk()
                if got is None:
                    if reader.pending:
                        continue
                    break
                assert got[0] or got[1], "an empty chunk before the last"
                parts.append(got[0])
                if got[1]:
                    found.append(type(got[0])().join(parts))
                    parts = []
                assert reader.streaming is not got[1]
        except INVALID as exc:
            found.append(type(exc))
            with pytest.raises(type(exc)):
                reader.next_chunk()
            reader.stop()
            assert reader.next_chunk() is None
        assert not reader.pending
    return found, (type(parts[0])().join(parts) if parts else None)


# RFC 3629, 4: characters, and what one may begin with.
UTF8 = re.compile(
    rb"(?:[\0-\x7f]|[\xc2-\xdf][\x80-\xbf]|\xe0[\xa0-\xbf][\x80-\xbf]"
    rb"|[\xe1-\xec\xee\xef][\x80-\xbf]{2}|\xed[\x80-\x9f][\x80-\xbf]"
    rb"|\xf0[\x90-\xbf][\x80-\xbf]{2}|[\xf1-\xf3][\x80-\xbf]{3}"
    rb"|\xf4[\x80-\x8f][\x80-\xbf]{2})*"
).match
UTF8_BEGUN = re.compile(
    rb"|[\xc2-\xf4]|\xe0[\xa0-\xbf]|[\xe1-\xec\xee\xef][\x80-\xbf]|\xed[\x80-\x9f]"
    rb"|\xf0[\x90-\xbf][\x80-\xbf]?|[\xf1-\xf3][\x80-\xbf]{1,2}|\xf4[\x80-\x8f][\x80-\xbf]?"
).fullmatch


class Model:
    """What RFC 6455, 5 says of the bytes from a server, plainly: all at once, and slow."""

    def __init__(self, data, limits=(UNLIMITED, UNLIMITED), extension=None):
        self.data, self.extension, self.events = data, extension, []
        self.max_message, self.max_fragment = limits
        self.opcode, self.coded, self.parts = 0, False, b""
        at = 0
        try:
            while at is not None and at < len(data):
                at = self.frame(at)
        except INVALID as exc:
            self.events.append(type(exc))

    def frame(self, at):
        """Where the next frame begins; ``None`` if this one isn't complete."""
        head, size = self.data[at], 0
        opcode, fin, rsv = head & 15, head & FIN, head & 0x70
        if rsv and not (rsv == RSV1 and self.extension and opcode in (TEXT, BINARY)):
            raise ProtocolError("reserved bits")
        if opcode not in list(Opcode) or (opcode > 7 and not fin):
            raise ProtocolError("opcode or control fragment")
        if opcode < 8 and (opcode == CONT) != bool(self.opcode):
            raise ProtocolError("order of fragments")
        n = int.from_bytes(self.data[at + 1 : at + 2], "big")
        if n > 127 or (opcode > 7 and n > 125):
            raise ProtocolError("mask or length")
        begin = at + 2
        if n > 125:
            size = 2 if n == 126 else 8
            n, begin = int.from_bytes(self.data[begin : begin + size], "big"), begin + size
        if len(self.data) < begin:
            return None
        if n < {0: 0, 2: 126, 8: 65536}[size] or n >> 63:
            raise ProtocolError("length")
        payload = self.data[begin : begin + n]
        if opcode > 7:
            if len(payload) < n:
                return None
            self.events.append((opcode, payload))
        else:
            if opcode:
                self.opcode, self.coded, self.parts = opcode, rsv > 0, b""
            if not self.payload(payload, n, bool(fin)):
                return None
        return begin + n

    def payload(self, payload, n, fin):
        slack = 64 + n // 16 if self.coded else 0
        if n - slack > min(self.max_fragment, self.max_message - len(self.parts)):
            raise PayloadTooBig(n, 0)
        complete = len(payload) == n
        if self.coded:
            if not complete:
                return False
            limit = min(self.max_fragment, self.max_message - len(self.parts))
            coded = Frame(CONT if self.parts else self.opcode, payload, fin, not self.parts)
            payload = self.extension.inflate(coded.data, limit, fin)
        self.parts += payload
        if self.opcode == TEXT:
            rest = self.parts[UTF8(self.parts).end() :]
            if not (UTF8_BEGUN(rest) if not (fin and complete) else not rest):
                raise UnicodeDecodeError("utf-8", rest, 0, 1, "wrong or cut")
        if complete and fin:
            self.events.append(self.parts.decode() if self.opcode == TEXT else self.parts)
            self.opcode = 0
        return complete


def chunked(data, rng):
    """*data* in chunks of very different sizes."""
    chunks, at = [], 0
    while at < len(data):
        n = int(2 ** rng.uniform(0, rng.choice([1, 4, 12, 18])))
        chunks.append(data[at : at + n])
        at += n
    return chunks


# -- vectors --

BIG = bytes(range(256)) * 257  # 65,792 bytes
SNOW = "snow ☃ crème 😀"

VALID = {
    "nothing": (b"", []),
    "text": (frame(TEXT, b"hello"), ["hello"]),
    "empty text": (frame(TEXT), [""]),
    "empty binary": (frame(BINARY), [b""]),
    "utf-8": (frame(TEXT, SNOW.encode()), [SNOW]),
    "latin-1 in utf-8": (frame(TEXT, "é".encode()), ["é"]),
    "binary": (frame(BINARY, b"\xff\xfe"), [b"\xff\xfe"]),
    "125 bytes": (frame(BINARY, BIG[:125]), [BIG[:125]]),
    "126 bytes": (frame(BINARY, BIG[:126]), [BIG[:126]]),
    "127 bytes": (frame(BINARY, BIG[:127]), [BIG[:127]]),
    "65535 bytes": (frame(BINARY, BIG[:65535]), [BIG[:65535]]),
    "65536 bytes": (frame(BINARY, BIG[:65536]), [BIG[:65536]]),
    "several": (frame(TEXT, b"a") + frame(BINARY, b"b") + frame(TEXT, b"c"), ["a", b"b", "c"]),
    "ping": (frame(PING, b"p"), [(PING, b"p")]),
    "pong": (frame(PONG), [(PONG, b"")]),
    "close": (frame(CLOSE, b"\x03\xe8"), [(CLOSE, b"\x03\xe8")]),
    "control of 125": (frame(PING, b"x" * 125), [(PING, b"x" * 125)]),
    "ping behind a message": (frame(TEXT, b"a") + frame(PING), ["a", (PING, b"")]),
    "two fragments": (frame(TEXT, b"a", False) + frame(CONT, b"b"), ["ab"]),
    "empty fragments": (
        frame(BINARY, b"", False) + frame(CONT, b"", False) * 3 + frame(CONT),
        [b""],
    ),
    "empty first and last": (
        frame(TEXT, b"", False) + frame(CONT, b"mid", False) + frame(CONT),
        ["mid"],
    ),
    "control between": (
        frame(TEXT, b"a", False) + frame(PING, b"1") + frame(PONG, b"2") + frame(CONT, b"b"),
        [(PING, b"1"), (PONG, b"2"), "ab"],
    ),
    "character over fragments": (
        frame(TEXT, "😀".encode()[:1], False) + frame(CONT, "😀".encode()[1:3], False)
        + frame(PING) + frame(CONT, "😀".encode()[3:] + b"!"),
        [(PING, b""), "😀!"],
    ),
    "message behind fragments": (
        frame(TEXT, b"a", False) + frame(CONT, b"b") + frame(TEXT, b"c") + frame(BINARY, b"d"),
        ["ab", "c", b"d"],
    ),
    "large and small fragments": (
        frame(BINARY, BIG[:5000], False) + frame(CONT, b"x", False) + frame(CONT, BIG[:MERGE]),
        [BIG[:5000] + b"x" + BIG[:MERGE]],
    ),
    "not complete": (frame(TEXT, b"a") + frame(TEXT, b"hello")[:-1], ["a"]),
    "half a header": (frame(TEXT, b"a") + b"\x82\x7e\x01", ["a"]),
    "half a long header": (frame(TEXT, b"a") + b"\x82\x7f\0\0\0\0\0\x01\0", ["a"]),
    "half a control frame": (frame(PING, b"ping")[:-1], []),
    "2**63 - 1 bytes begin": (b"\x82\x7f\x7f" + b"\xff" * 7 + b"begin", []),
}  # fmt: skip

PE, UE, TB = ProtocolError, UnicodeDecodeError, PayloadTooBig

INVALID_STREAMS = {
    "rsv1": (frame(TEXT, b"a", rsv=RSV1), [PE]),
    "rsv2": (frame(TEXT, b"a", rsv=RSV2), [PE]),
    "rsv3": (frame(BINARY, b"a", rsv=RSV3), [PE]),
    "rsv1 on a continuation": (frame(TEXT, b"a", False) + frame(CONT, b"b", rsv=RSV1), [PE]),
    "rsv1 on a ping": (frame(PING, rsv=RSV1), [PE]),
    "rsv alone": (frame(TEXT, b"a") + b"\xc1", ["a", PE]),
    **{f"opcode {n}": (frame(n, b"a"), [PE]) for n in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
    "opcode 3 alone": (b"\x83", [PE]),
    "fragmented ping": (frame(PING, b"a", False), [PE]),
    "fragmented close": (frame(CLOSE, b"", False), [PE]),
    "continuation of nothing": (frame(CONT, b"a"), [PE]),
    "continuation behind a message": (frame(TEXT, b"a") + frame(CONT, b"b"), ["a", PE]),
    "message inside a message": (frame(TEXT, b"a", False) + frame(TEXT, b"b"), [PE]),
    "control of 126": (frame(PING, b"x" * 126), [PE]),
    "control of 65536": (frame(CLOSE, b"x" * 65536), [PE]),
    "masked": (b"\x81\x85" + bytes(4) + b"hello", [PE]),
    "masked, empty": (b"\x82\x80" + bytes(4), [PE]),
    "masked ping": (frame(TEXT, b"a") + b"\x89\x80" + bytes(4), ["a", PE]),
    "masked of 126": (b"\x82\xfe\0\x7e" + bytes(130), [PE]),
    "masked of 65536": (b"\x82\xff" + (65536).to_bytes(8, "big") + bytes(20), [PE]),
    "125 in 2 bytes": (b"\x82\x7e\0\x7d" + bytes(125), [PE]),
    "0 in 2 bytes": (b"\x82\x7e\0\0", [PE]),
    "65535 in 8 bytes": (b"\x82\x7f" + (65535).to_bytes(8, "big") + bytes(9), [PE]),
    "0 in 8 bytes": (b"\x82\x7f" + bytes(8), [PE]),
    "2**63 bytes": (b"\x82\x7f\x80" + bytes(7), [PE]),
    "2**64 - 1 bytes": (b"\x82\x7f" + b"\xff" * 8, [PE]),
    "bad byte": (frame(TEXT, b"ok") + frame(TEXT, b"a\xff"), ["ok", UE]),
    "cut character": (frame(TEXT, b"a\xe2\x98"), [UE]),
    "surrogate": (frame(TEXT, b"\xed\xa0\x80"), [UE]),
    "overlong": (frame(TEXT, b"\xc0\x80"), [UE]),
    "above U+10FFFF": (frame(TEXT, b"\xf4\x90\x80\x80"), [UE]),
    "bad byte in the first of ten fragments": (
        frame(TEXT, b"\xff", False) + frame(PING) + frame(CONT, b"a", False) * 8,
        [UE],
    ),
    "bad byte in the second fragment": (
        frame(TEXT, b"a\xc3", False) + frame(PING, b"1") + frame(CONT, b"a", False) + frame(PING),
        [(PING, b"1"), UE],
    ),
    "cut character at the end": (
        frame(TEXT, b"\xc3\xa9", False) + frame(CONT, b"\xc3"),
        [UE],
    ),
    "cut character, empty last fragment": (frame(TEXT, b"\xc3", False) + frame(CONT), [UE]),
    "bad byte in a partial frame": (frame(TEXT, b"abc\xff" + bytes(9))[:-9], [UE]),
    "surrogate in a partial frame": (frame(TEXT, b"\xed\xa0" + bytes(9))[:-9], [UE]),
    "messages and control frames before": (
        frame(TEXT, b"a") + frame(PING) + frame(BINARY, b"b") + frame(3) + frame(TEXT, b"late"),
        ["a", (PING, b""), b"b", PE],
    ),
}  # fmt: skip


@each_row(
    "data, expected", [*VALID.values(), *INVALID_STREAMS.values()], ids=[*VALID, *INVALID_STREAMS]
)
def test_what_comes_of_a_stream(data, expected):
    """By the fast way, the plain way, in chunks, and by the model."""
    for chunks in splits(data):
        assert events(chunks) == expected
        assert events(chunks, plain=True) == expected
        assert streamed(chunks)[0] == expected
    assert Model(data).events == expected


def test_no_byte_of_an_invalid_frame_is_delivered():
    for data in (b"\x82\x85" + bytes(4) + b"hello", frame(BINARY, b"hello", rsv=RSV2)):
        for chunks in splits(data):
            assert streamed(chunks) == ([ProtocolError], None)


def test_what_errors_say():
    for data, words in {
        b"\xb1\x00": "0xb1", b"\x83\x00": "opcode 3", b"\x81\x80": "masked",
        b"\x89\x7e": "125 bytes", b"\x82\x7e\0\x05": "length 5",
        b"\x82\x7f" + b"\xff" * 8: "2**63", b"HTTP/1.1": "another HTTP response",
    }.items():  # fmt: skip
        reader = MessageReader(Owner([]))
        reader.receive_data(data)
        with pytest.raises(ProtocolError) as info:
            reader.messages()
        assert words in str(info.value)


# -- limits --

LIMITS = {
    # limits, frames that are accepted, frames that aren't
    "message": ((10, 10), [frame(TEXT, b"x" * 10)], frame(TEXT, b"x" * 11)),
    "zero": ((0, 0), [frame(TEXT), frame(BINARY)], frame(BINARY, b"x")),
    "total": (
        (10, 10),
        [frame(TEXT, b"x" * 5, False) + frame(PING, b"y" * 99) + frame(CONT, b"x" * 5)],
        frame(TEXT, b"x" * 5, False) + frame(CONT, b"x" * 6),
    ),
    "empty fragments behind the limit": (
        (3, 3),
        [frame(BINARY, b"abc", False) + frame(CONT, b"", False) * 5 + frame(CONT)],
        frame(BINARY, b"abc", False) + frame(CONT, b"", False) + frame(CONT, b"d"),
    ),
    "fragment": (
        (10, 4),
        [frame(TEXT, b"x" * 4), frame(TEXT, b"x" * 4, False) + frame(CONT, b"x" * 4)],
        frame(TEXT, b"x" * 5),
    ),
    "continued fragment": ((10, 4), [], frame(TEXT, b"x" * 4, False) + frame(CONT, b"x" * 5)),
    "fragments without a limit": (
        (10, UNLIMITED),
        [frame(TEXT, b"x" * 10)],
        frame(TEXT, b"x" * 8, False) + frame(CONT, b"x" * 3),
    ),
    "fragments only": (
        (UNLIMITED, 4),
        [frame(BINARY, b"x" * 4, False) + frame(CONT, b"x" * 4, False) * 9 + frame(CONT)],
        frame(BINARY, b"x" * 4, False) + frame(CONT, b"x" * 5),
    ),
    "126": ((126, 126), [frame(BINARY, b"x" * 126)], frame(BINARY, b"x" * 127)),
    "65536": ((65536, 65536), [frame(BINARY, BIG[:65536])], frame(BINARY, BIG[:65537])),
}


@each_row("limits, good, bad", LIMITS.values(), ids=LIMITS)
def test_limits(limits, good, bad):
    for data in good:
        for chunks in splits(data):
            for plain in (False, True):
                assert PayloadTooBig not in events(chunks, plain=plain, limits=limits)
            assert PayloadTooBig not in streamed(chunks, limits=limits)[0]
    for chunks in splits(bad):
        for plain in (False, True):
            assert events(chunks, plain=plain, limits=limits)[-1] == PayloadTooBig
        assert streamed(chunks, limits=limits)[0][-1] == PayloadTooBig


def test_a_declared_length_fails_before_anything_is_buffered():
    reader = MessageReader(Owner([]), (1000, 1000))
    reader.receive_data(header(0x82, 1001, 0))
    with pytest.raises(PayloadTooBig) as info:
        reader.messages()
    assert (info.value.size, info.value.limit) == (1001, 1000)
    reader = MessageReader(Owner([]), (1000, 1000))
    reader.receive_data(frame(BINARY, b"x" * 600, False) + header(0x80, 401, 0))
    with pytest.raises(PayloadTooBig) as info:
        reader.messages()
    assert (info.value.size, info.value.limit) == (1001, 1000)


# -- permessage-deflate and other extensions --

JSON = b'{"name": "value", "list": [1, 2, 3]}' * 40


def deflate():
    return [PerMessageDeflate(server_no_context_takeover=True)]


def fragments(data, size, opcode=TEXT):
    """A compressed message in frames with a payload of *size*."""
    data = compressed(data)
    parts = [data[i : i + size] for i in range(0, len(data), size)]
    heads = [opcode | RSV1] + [CONT] * (len(parts) - 1)
    heads[-1] |= FIN
    return b"".join(header(head, len(part), 0) + part for head, part in zip(heads, parts))


DEFLATED = {
    "text": (frame(TEXT, compressed(JSON), rsv=RSV1), [JSON.decode()]),
    "binary": (frame(BINARY, compressed(BIG), rsv=RSV1), [BIG]),
    "empty": (frame(TEXT, b"\0", rsv=RSV1), [""]),
    "no byte at all": (frame(BINARY, rsv=RSV1), [b""]),
    "not compressed": (frame(TEXT, b"plain") + frame(BINARY, b"\xff"), ["plain", b"\xff"]),
    "not compressed, fragments": (frame(TEXT, b"a", False) + frame(CONT, b"b"), ["ab"]),
    "mixed": (
        frame(TEXT, b"a") + frame(TEXT, compressed(b"b"), rsv=RSV1) + frame(BINARY, b"c"),
        ["a", "b", b"c"],
    ),
    "fragments": (fragments(JSON, 7), [JSON.decode()]),
    "empty fragments": (
        frame(TEXT, b"", False, rsv=RSV1) + frame(CONT, b"", False) + frame(CONT, compressed(JSON)),
        [JSON.decode()],
    ),
    "control frames between": (
        frame(TEXT, compressed(b"ab", False), False, rsv=RSV1) + frame(PING)
        + frame(CONT, compressed(b"cd")),
        [(PING, b""), "abcd"],
    ),
    "rsv1 on a continuation": (
        frame(TEXT, compressed(b"ab", False), False, RSV1) + frame(CONT, b"\0", rsv=RSV1), [PE],
    ),
    "rsv1 on a continuation of none": (frame(TEXT, b"a", False) + frame(CONT, rsv=RSV1), [PE]),
    "rsv1 on a ping": (frame(PING, rsv=RSV1), [PE]),
    "rsv2": (frame(TEXT, compressed(b"a"), rsv=RSV1 | RSV2), [PE]),
    "corrupt": (
        frame(TEXT, compressed(b"a"), rsv=RSV1) + frame(TEXT, b"\xff" * 9, rsv=RSV1), ["a", PE],
    ),
    "corrupt fragment": (frame(TEXT, b"\xff" * 9, False, rsv=RSV1), [PE]),
    "not utf-8": (frame(TEXT, compressed(b"a\xff"), rsv=RSV1), [UE]),
    "not utf-8, first of ten fragments": (
        frame(TEXT, compressed(b"a\xff", False), False, rsv=RSV1) + frame(CONT, b"", False) * 8,
        [UE],
    ),
    "character over fragments": (
        frame(TEXT, compressed("é".encode()[:1], False), False, rsv=RSV1)
        + frame(CONT, compressed("é".encode()[1:])),
        ["é"],
    ),
}  # fmt: skip


@each_row("data, expected", DEFLATED.values(), ids=DEFLATED)
def test_deflated(data, expected):
    assert Model(data, extension=deflate()[0]).events == expected
    for chunks in splits(data):
        for plain in (False, True):
            assert events(chunks, plain=plain, extensions=deflate()) == expected
        assert streamed(chunks, extensions=deflate())[0] == expected


@pytest.mark.parametrize("size", [len(JSON), len(JSON) - 1, 0])
def test_limit_on_the_inflated_size(size):
    message = frame(BINARY, compressed(JSON), rsv=RSV1)
    in_two = (
        frame(BINARY, compressed(JSON[:500], False), False, rsv=RSV1)
        + frame(CONT, compressed(JSON[500:]))
    )  # fmt: skip
    expected = [JSON] if size == len(JSON) else [TB]
    for data in (message, in_two, fragments(JSON, 10, BINARY)):
        for chunks in splits(data):
            for limits in ((size, size), (size, UNLIMITED)):
                for plain in (False, True):
                    found = events(chunks, plain=plain, limits=limits, extensions=deflate())
                    assert found == expected
                assert streamed(chunks, limits=limits, extensions=deflate())[0] == expected


def test_limit_on_an_inflated_fragment():
    data = (
        frame(BINARY, compressed(JSON[:500], False), False, rsv=RSV1)
        + frame(CONT, compressed(JSON[500:]))
    )  # fmt: skip
    rest = len(JSON) - 500
    for limits, expected in (((9999, rest), [JSON]), ((9999, rest - 1), [TB])):
        assert events([data], limits=limits, extensions=deflate()) == expected
    for limits, expected in (((UNLIMITED, rest), [JSON]), ((UNLIMITED, rest - 1), [TB])):
        assert events([data], limits=limits, extensions=deflate()) == expected


def test_a_bomb_is_not_inflated():
    compress = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = b"".join(compress.compress(bytes(1 << 20)) for _ in range(16))
    bomb += compress.flush(zlib.Z_SYNC_FLUSH)
    data = frame(BINARY, bomb[:-4], rsv=RSV1)
    tracemalloc = pytest.importorskip("tracemalloc")  # only CPython counts what is allocated
    tracemalloc.start()
    try:
        found = events([data], limits=(1 << 17, 1 << 17), extensions=deflate())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found == [TB]
    assert peak < 1 << 20


@pytest.mark.parametrize("size", [1, 100, 1000, 65536, 200_000])
def test_what_does_not_compress_is_accepted_up_to_the_limit(size):
    data = random.Random(SEED).getrandbits(8 * size).to_bytes(size, "big")
    for level, mem_level in ((0, 1), (9, 1), (6, 8)):
        compress = zlib.compressobj(level, zlib.DEFLATED, -15, mem_level)
        payload = compress.compress(data) + compress.flush(zlib.Z_SYNC_FLUSH)
        for plain in (False, True):
            assert [data] == events(
                [frame(BINARY, payload[:-4], rsv=RSV1)],
                plain=plain, limits=(size, size), extensions=deflate(),
            )  # fmt: skip


def test_a_declared_length_that_no_deflated_message_has():
    for n in (1000, 1 << 20, 1 << 40):
        reader = reader_with(deflate(), (n // 2, n // 2))
        reader.receive_data(header(0xC2, n, 0))
        with pytest.raises(PayloadTooBig):
            reader.messages()


class Tag(Extension):
    """Appends its letter to each frame and claims a bit; checks both when receiving."""

    def __init__(self, letter, bit):
        self.letter, self.bit, self.limits = letter, bit, []
        setattr(self, bit, True)

    def decode(self, frame, max_size=None):
        self.limits.append(max_size)
        if not getattr(frame, self.bit) or not frame.data.endswith(self.letter):
            raise ProtocolError(f"{self.letter!r} is missing")
        return frame._replace(data=bytearray(frame.data[:-1]), **{self.bit: False})


def test_extensions_decode_every_frame_the_last_one_first():
    data = (
        frame(TEXT, b"helloab", False, RSV2 | RSV3) + frame(PING) + frame(CONT, b" ab", False, 0x30)
        + frame(CONT, b"ab", rsv=RSV2 | RSV3) + frame(BINARY, b"xab", rsv=RSV2 | RSV3)
    )  # fmt: skip
    for chunks in splits(data):
        found = events(chunks, extensions=[Tag(b"a", "rsv2"), Tag(b"b", "rsv3")])
        assert found == [(PING, b""), "hello ", b"x"]
        assert all(type(message) is not bytearray for message in found)
        # In the other order, the tags don't come off.
        assert events(chunks, extensions=[Tag(b"b", "rsv3"), Tag(b"a", "rsv2")]) == [PE]


def test_bits_that_extensions_claim_are_not_for_control_frames():
    for chunks in splits(frame(PING, rsv=RSV2)):
        assert events(chunks, extensions=[Tag(b"a", "rsv2")]) == [PE]
    for chunks in splits(frame(TEXT, b"a", rsv=RSV2 | RSV1)):
        assert events(chunks, extensions=[Tag(b"a", "rsv2")]) == [PE]


def test_a_custom_extension_beside_deflate():
    tag = Tag(b"a", "rsv2")
    payload = compressed(b"hello") + b"a"
    data = frame(TEXT, payload, rsv=RSV1 | RSV2) + frame(TEXT, b"plaina", rsv=RSV2)
    for chunks in splits(data):
        assert events(chunks, extensions=deflate() + [tag]) == ["hello", "plain"]
    bad = frame(TEXT, b"aa", False, RSV2) + frame(CONT, b"aa", rsv=RSV1 | RSV2)
    for chunks in splits(bad):
        assert events(chunks, extensions=deflate() + [tag]) == [PE]


def test_a_subclass_of_deflate_sees_the_frames():
    class Counting(PerMessageDeflate):
        def decode(self, frame, max_size=None):
            seen.append(frame.data)
            return super().decode(frame, max_size)

    seen = []
    data = frame(TEXT, compressed(b"hello"), rsv=RSV1) + frame(TEXT, b"plain")
    assert events([data], extensions=[Counting()]) == ["hello", "plain"]
    assert seen == [compressed(b"hello"), b"plain"]


def test_the_limit_that_extensions_are_told():
    data = frame(BINARY, b"xxxa", False, RSV2) + frame(CONT, b"xxa", rsv=RSV2)
    told = {
        (UNLIMITED, UNLIMITED): [None, None],
        (UNLIMITED, 100): [100, 100],
        (100, 100): [100, 97],
        (100, 50): [50, 50],
        (100, UNLIMITED): [100, 97],
    }
    for limits, expected in told.items():
        tag = Tag(b"a", "rsv2")
        assert events([data], limits=limits, extensions=[tag]) == [b"xxxxx"]
        assert tag.limits == expected


class Broken(Extension):
    """Does what an extension shouldn't."""

    name = "x-broken"

    def decode(self, frame, max_size=None):
        if frame.data == b"bug":
            raise ValueError("a bug")
        return frame._replace(data=frame.data * 100)


def test_an_extension_that_breaks_its_contract():
    for chunks in splits(frame(BINARY, b"grow")):
        assert events(chunks, limits=(399, 399), extensions=[Broken()]) == [TB]
        assert events(chunks, limits=(400, 400), extensions=[Broken()]) == [b"grow" * 100]
    reader = reader_with([Broken()])
    reader.receive_data(frame(BINARY, b"bug"))
    with pytest.raises(ValueError, match="a bug"):
        reader.messages()


# -- order --


def test_messages_come_before_what_follows_takes_effect():
    for last, effect in ((frame(CLOSE), (CLOSE, b"")), (frame(PING), (PING, b"")), (b"\xff", PE)):
        for before in (frame(TEXT, b"a"), frame(TEXT, b"", False) + frame(CONT, b"a")):
            found = []
            reader = MessageReader(Owner(found))
            reader.receive_data(before + last)
            assert reader.messages() == ["a"]
            assert found == []
            assert reader.pending
            if effect is PE:
                with pytest.raises(ProtocolError):
                    reader.messages()
            else:
                assert reader.messages() == []
                assert found == [effect]


def test_a_batch_comes_before_the_error_in_it():
    reader = MessageReader(Owner([]))
    reader.receive_data(frame(TEXT, b"a") + frame(TEXT, b"b") + frame(TEXT, b"\xff"))
    assert reader.messages() == ["a", "b"]
    assert reader.pending
    with pytest.raises(UnicodeDecodeError):
        reader.next_chunk()
    with pytest.raises(UnicodeDecodeError):
        reader.messages()


@pytest.mark.parametrize("size, most", [(100, messages.BATCH), (1000, 8 * messages.BATCH)])
def test_little_is_parsed_ahead(size, most):
    reader = MessageReader(Owner([]))
    reader.receive_data(frame(BINARY, bytes(size)) * 1000)
    ahead = len(reader.messages()) * size
    assert most / 2 < ahead < most + 2 * size


def test_little_is_inflated_ahead():
    reader = reader_with(deflate())
    reader.receive_data(frame(BINARY, compressed(bytes(10000)), rsv=RSV1) * 50)
    assert len(reader.messages()) * 10000 < messages.BATCH + 20000


def test_the_fast_way_takes_whole_messages():
    class Fast(MessageReader):
        __slots__ = ()

        def _begin_frame(self):
            assert self._at == len(self._data), "left to the plain way"
            return False

    payloads = [b"a" * n for n in (0, 1, 125, 126, 127, 65535, 65536)] + ["é".encode()]
    for payload in payloads:
        for rsv in (0, RSV1):
            for opcode in (TEXT, BINARY):
                reader = Fast(Owner([]), extensions=deflate())
                data = compressed(payload) if rsv else payload
                reader.receive_data(frame(opcode, data, rsv=rsv))
                assert reader.messages() == [payload.decode() if opcode == TEXT else payload]
                assert reader.messages() == []


# -- pending, stop, memory --


def test_pending_means_that_something_may_come_without_more_bytes():
    """A front end that reads only when nothing is pending must not spin on half a frame."""
    parts = [frame(TEXT, b"hello"), frame(TEXT, b"x" * 200), frame(PING, b"abc"), frame(TEXT, b"a")]
    data = b"".join(parts)
    for end in range(len(data) + 1):
        for take in (MessageReader.messages, MessageReader.next_chunk):
            reader = MessageReader(Owner([]))
            assert not reader.pending
            reader.receive_data(data[:end])
            assert reader.pending
            while take(reader):
                pass
            assert not reader.pending
            reader.receive_data(data[end:] + b"\x81")
            assert reader.pending


def test_missing_is_what_the_frame_needs_yet():
    reader = MessageReader(Owner([]))
    data = frame(BINARY, bytes(1000))
    for end, missing in ((1, 0), (3, 0), (4, 1000), (5, 999), (500, 504), (1003, 1), (1004, 0)):
        reader = MessageReader(Owner([]))
        reader.receive_data(data[:end])
        reader.messages()
        assert reader.missing == missing
    reader.receive_data(data[:100])
    reader.messages()
    reader.stop()
    assert reader.missing == 0


BEGUN = {
    "nothing": b"",
    "header": b"\x82\x7e",
    "frame": frame(BINARY, bytes(100))[:50],
    "fragment": frame(TEXT, b"a", False),
    "deflated frame": frame(TEXT, compressed(JSON), rsv=RSV1)[:-1],
    "control frame": frame(PING, b"abc")[:-1],
    "messages": frame(TEXT, b"a") * 3,
    "error": frame(TEXT, b"a") + b"\xff",
}


@each_row("take", [None, MessageReader.messages, MessageReader.next_chunk])
@each_row("data", BEGUN.values(), ids=BEGUN)
def test_after_stop_nothing_comes_and_nothing_is_kept(data, take):
    found = []
    reader = reader_with(deflate(), found=found)
    reader.receive_data(data)
    if take is not None:
        take(reader)
    reader.stop()
    for _ in range(3):
        reader.receive_data(frame(PING) + frame(TEXT, b"late") + b"\xff")
        assert not reader.pending
        assert not reader.streaming
        assert reader.messages() == []
        assert reader.next_chunk() is None
        reader.skip()
    assert found == []
    assert reader._data == b"" and not reader._gathered.size and not reader._payload.size


def test_a_close_frame_may_stop_the_reader():
    for take in (MessageReader.messages, MessageReader.next_chunk):
        for begin in (b"", frame(TEXT, b"a", False)):
            owner = Owner([])
            reader = MessageReader(owner)
            owner.receive_control = lambda *args, reader=reader: reader.stop()
            reader.receive_data(begin + frame(CLOSE) + frame(TEXT, b"late"))
            while take(reader):
                pass
            assert not reader.pending


def test_an_idle_reader_keeps_no_buffer():
    for take in (MessageReader.messages, MessageReader.next_chunk):
        for data in (frame(TEXT, b"a" * 999), frame(BINARY, bytes(9999))[:-1], frame(PING)):
            reader = MessageReader(Owner([]))
            reader.receive_data(data)
            while take(reader):
                pass
            assert reader._data == b"" and reader._latin1 is None


def test_a_chunk_that_was_taken_is_not_kept():
    for data in (frame(TEXT, b"a" * 999), frame(TEXT, b"a" * 999)[:-1]):
        reader = MessageReader(Owner([]))
        reader.receive_data(data)
        assert reader.next_chunk() is not None
        assert reader._data == b"" and not reader.pending


def test_byte_by_byte_costs_linear_time():
    """Each byte is copied a bounded number of times: what isn't parsed stays short."""
    streams = [
        frame(BINARY, bytes(20000)), frame(TEXT, b"a" * 300) * 9, frame(PING, b"x" * 125) * 9,
        frame(TEXT, b"a" * 99, False) + frame(CONT, b"a" * 99, False) * 99 + frame(CONT),
    ]  # fmt: skip
    for data in streams:
        reader = MessageReader(Owner([]))
        for i in range(len(data)):
            reader.receive_data(data[i : i + 1])
            reader.messages()
            assert len(reader._data) - reader._at < 2 + 125
            assert len(reader._gathered._chunks or ()) <= 1


def test_half_a_header_does_not_keep_what_came_before_it():
    reader = MessageReader(Owner([]))
    reader.receive_data(frame(TEXT, b"a" * 1000) * 16 + b"\x81")
    while reader.messages():
        pass
    assert len(reader._data) == 1 and reader._latin1 is None


def test_empty_fragments_cost_no_memory():
    reader = MessageReader(Owner([]))
    reader.receive_data(frame(BINARY, b"", False))
    assert reader.messages() == []
    data = frame(CONT, b"", False) * 5000
    for _ in range(4):
        reader.receive_data(data)
        while reader.pending:
            assert reader.messages() == []
        assert reader._gathered._chunks == []
    reader.receive_data(frame(CONT))
    assert reader.messages() == [b""]


FLOODS = {
    # what comes again and again, in front of what, deflated
    "pings": (frame(PING, b"x"), b"", False),
    "pongs": (frame(PONG), b"", False),
    "empty fragments": (frame(CONT, b"", False), frame(BINARY, b"", False), False),
    "short fragments": (frame(CONT, b"a", False), frame(TEXT, b"", False), False),
    "pongs in a message": (frame(PONG), frame(TEXT, b"", False), False),
    "deflated empty fragments": (frame(CONT, b"", False), frame(TEXT, b"", False, RSV1), True),
    "empty blocks": (
        frame(CONT, compressed(b"", False), False), frame(TEXT, b"", False, RSV1), True,
    ),
    "final blocks": (frame(CONT, b"\3\0", False), frame(TEXT, b"", False, RSV1), True),
    "empty messages": (frame(TEXT), b"", False),
    "deflated empty messages": (frame(TEXT, b"\0", rsv=RSV1), b"", True),
    "deflated final blocks": (frame(TEXT, b"\3\0\0", rsv=RSV1), b"", True),
}  # fmt: skip


@each_row("again, before, deflated", FLOODS.values(), ids=FLOODS)
def test_each_call_does_a_bounded_amount_of_work(again, before, deflated):
    """A flood ends the call, though not the data: others get their turn in between."""
    # Enough for three calls, at least: where messages come out, bytes are counted.
    count = 3 * BATCH // len(again) if again == frame(TEXT) else 4 * FRAMES
    for receive in (MessageReader.messages, MessageReader.next_chunk):
        found = []
        reader = reader_with(deflate() if deflated else (), found=found)
        reader.receive_data(before + again * count)
        calls, begun = 0, len(reader._data) - reader._at
        while reader.pending:
            calls += 1
            got = receive(reader)
            # The frames that this call has parsed: no more than so many bytes, or so many frames.
            left = len(reader._data) - reader._at
            parsed, begun = begun - left, left
            most = BATCH + len(again) if got else FRAMES * len(again) + len(before)
            assert 0 < parsed <= most
            if deflated and got:
                assert len(got) <= BATCH // INFLATED + 1
        assert calls > 2


def test_many_short_fragments_are_gathered_in_one_piece():
    tracemalloc = pytest.importorskip("tracemalloc")  # only CPython counts what is allocated
    tracemalloc.start()
    try:
        reader = MessageReader(Owner([]))
        reader.receive_data(frame(TEXT, b"a", False))
        for _ in range(16):
            reader.receive_data(frame(CONT, b"a", False) * 1024)
            while reader.pending:
                assert reader.messages() == []
            assert len(reader._gathered._chunks) == 1
        reader.receive_data(frame(CONT, b"b"))
        assert reader.messages() == ["a" * 16385 + "b"]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 400000


def test_chunks():
    rng = random.Random(SEED)
    for _ in range(50):
        chunks, expected = ByteQueue(), b""
        for _ in range(rng.randrange(30)):
            chunk = bytes(rng.choice([0, 1, 10, MERGE - 1, MERGE, MERGE + 1]))
            chunks.add(chunk)
            expected += chunk
            assert chunks.size == len(expected)
        assert len(chunks._chunks or ()) <= 2 + 2 * len(expected) // MERGE
        taken = chunks.take()
        assert taken == expected and type(taken) is bytes
        assert chunks.take() == b"" and chunks.size == 0


def test_a_single_large_chunk_is_not_copied():
    chunks, chunk = ByteQueue(), bytes(MERGE)
    chunks.add(chunk)
    assert chunks.take() is chunk


# -- streaming --


def test_chunks_of_a_message():
    reader = MessageReader(Owner([]))
    reader.receive_data(frame(TEXT, "aé☃".encode(), False)[:4])  # a and half of é
    assert reader.next_chunk() == ("a", False)
    assert reader.streaming
    assert reader.next_chunk() is None
    reader.receive_data("é☃".encode()[1:] + frame(PING) + frame(CONT, b"b"))
    assert reader.next_chunk() == ("é☃", False)
    assert reader.next_chunk() == ("b", True)
    assert not reader.streaming
    assert reader.next_chunk() is None
    reader.receive_data(frame(TEXT, b"one") + frame(BINARY, b"two"))
    assert reader.next_chunk() == ("one", True)
    assert reader.messages() == [b"two"]


def test_streaming_begins_with_what_was_gathered():
    for first, rest, whole in (
        (b"a\xc3", b"\xa9b", "aéb"),
        (b"ab", b"c", "abc"),
        ("é".encode(), b"c", "éc"),
    ):
        reader = MessageReader(Owner([]))
        reader.receive_data(frame(TEXT, first, False))
        assert reader.messages() == []
        begin, fin = reader.next_chunk()
        assert not fin
        reader.receive_data(frame(CONT, rest))
        end, fin = reader.next_chunk()
        assert fin
        assert begin + end == whole


def test_a_message_that_is_too_big_after_some_of_it():
    for extensions, rsv in (([], 0), (deflate(), RSV1)):
        reader = reader_with(extensions, (10, 10))
        parts = [b"abcdef", b"ghijkl"]
        if rsv:
            parts = [compressed(part, False) for part in parts]
        reader.receive_data(frame(TEXT, parts[0], False, rsv) + frame(CONT, parts[1], False))
        assert reader.next_chunk() == ("abcdef", False)
        with pytest.raises(PayloadTooBig):
            reader.next_chunk()


def test_skip_leaves_the_rest_of_a_message():
    rest = [frame(PING), frame(CONT, "☃é".encode()), frame(TEXT, b"next")]
    for begin in ("a".encode(), "aé".encode(), "é".encode()[:1]):
        for extra in (b"", "é".encode()):
            first = frame(TEXT, begin + extra, False)
            for chunks in splits(b"".join(rest)):
                if begin + extra == b"\xc3":
                    chunks = [frame(CONT, b"\xa9", False), *chunks]
                for take in (MessageReader.messages, MessageReader.next_chunk):
                    if extra and begin == b"\xc3":
                        continue  # not UTF-8
                    found = []
                    reader = MessageReader(Owner(found))
                    reader.receive_data(first)
                    reader.next_chunk()
                    reader.skip()
                    assert not reader.streaming
                    for chunk in chunks:
                        reader.receive_data(chunk)
                        while True:
                            got = take(reader)
                            if not got:
                                break
                            found += got if type(got) is list else got[:1]
                    assert found[0] == (PING, b"")
                    assert "".join(found[1:]) == "next"


SKIPPED_ERRORS = {
    "utf-8": (b"\xff", UnicodeDecodeError),
    "cut utf-8": (b"\xc3", UnicodeDecodeError),
    "too big": (b"x" * 30, PayloadTooBig),
}


@pytest.mark.parametrize("rest, error", SKIPPED_ERRORS.values(), ids=SKIPPED_ERRORS)
def test_what_is_skipped_is_checked(rest, error):
    for begin in (b"", b"a", "é".encode()):
        reader = MessageReader(Owner([]), (20, 20))
        reader.receive_data(frame(TEXT, begin, False))
        reader.next_chunk()
        reader.skip()
        reader.receive_data(frame(CONT, rest))
        with pytest.raises(error):
            reader.next_chunk()
        with pytest.raises(error):
            reader.messages()


def test_skip_does_nothing_outside_a_stream():
    reader = MessageReader(Owner([]))
    reader.skip()
    reader.receive_data(frame(BINARY, b"a", False))
    assert reader.messages() == []
    reader.skip()
    reader.receive_data(frame(CONT, b"b"))
    assert reader.messages() == [b"ab"]


def test_what_is_skipped_is_not_kept():
    reader = MessageReader(Owner([]))
    reader.receive_data(frame(BINARY, b"a", False))
    assert reader.next_chunk() == (b"a", False)
    reader.skip()
    for _ in range(5):
        reader.receive_data(frame(CONT, bytes(10000), False))
        assert reader.next_chunk() is None
        assert reader._gathered.size == 0
    reader.receive_data(frame(CONT, b"x") + frame(BINARY, b"b"))
    assert reader.messages() == [b"b"]


# -- random streams --


def random_payload(rng, text):
    n = rng.choice([0, 1, 5, 30, 124, 125, 126, 127, 300, 5000, 65535, 65536, 70000])
    if rng.random() < 0.7:
        n = min(n, 200)
    if not text:
        return rng.getrandbits(8 * n + 1).to_bytes(n + 1, "big")[:n]
    alphabet = rng.choice(["abc", "aé", "é☃😀", "😀"])
    return "".join(rng.choices(alphabet, k=n // 2)).encode()


def random_message(rng, deflated):
    opcode = rng.choice([TEXT, BINARY])
    data, rsv = random_payload(rng, opcode == TEXT), 0
    if deflated and rng.random() < 0.5:
        data, rsv = compressed(data), RSV1
    places = sorted(rng.randrange(len(data) + 1) for _ in range(rng.choice([0, 0, 1, 2, 6])))
    parts = [data[i:j] for i, j in zip([0, *places], [*places, len(data)])]
    out = frame(opcode, parts[0], len(parts) == 1, rsv)
    for i, part in enumerate(parts[1:], 2):
        if rng.random() < 0.3:
            out += random_control(rng)
        out += frame(CONT, part, i == len(parts))
    return out


def random_control(rng):
    return frame(rng.choice([PING, PONG, CLOSE]), bytes(rng.choice([0, 1, 2, 125])))


def random_stream(rng, deflated):
    """Some valid frames, often with something wrong in them."""
    parts = []
    for _ in range(rng.randrange(1, 12)):
        control = rng.random() < 0.25
        parts.append(random_control(rng) if control else random_message(rng, deflated))
    data = bytearray(b"".join(parts) + bytes(rng.choice([0, 50])))
    if rng.random() < 0.6:
        for _ in range(rng.choice([1, 1, 2, 5])):
            place = rng.randrange(min(len(data) or 1, rng.choice([10, 100, 100000])))
            change = rng.randrange(4)
            if place >= len(data):
                break
            if change == 0:
                data[place] ^= 1 << rng.randrange(8)
            elif change == 1:
                data[place] = rng.choice([0, 1, 0x7E, 0x7F, 0x80, 0xFF])
            elif change == 2:
                del data[place : place + rng.choice([1, 2, 9])]
            else:
                data[place:place] = frame(rng.randrange(16), b"\xc3", rng.random() < 0.5)
    return bytes(data[: rng.randrange(len(data) + 1)] if rng.random() < 0.3 else data)


def random_limits(rng):
    limit = rng.choice([UNLIMITED, UNLIMITED, 0, 125, 126, 3000, 65535, 65536])
    return limit, min(limit, rng.choice([UNLIMITED, UNLIMITED, 100, 5000]))


@pytest.mark.parametrize("deflated", [False, True], ids=["not deflated", "deflated"])
def test_random_streams(deflated):
    """Model, fast way, plain way and streaming agree, however the bytes come."""
    rng = random.Random(f"{SEED} {deflated}")
    for _ in range(100):
        data, limits = random_stream(rng, deflated), random_limits(rng)

        def extensions():
            return deflate() if deflated else []

        expected = Model(data, limits, *extensions()).events
        for chunks in ([data], chunked(data, rng), chunked(data, rng)):
            for plain in (False, True):
                found = events(chunks, plain=plain, limits=limits, extensions=extensions())
                assert found == expected
            assert streamed(chunks, limits=limits, extensions=extensions())[0] == expected


class Skipped:
    """Equal to any message."""

    def __eq__(self, other):
        return not isinstance(other, (tuple, type))


def mixed(chunks, rng, extensions):
    """As ``events``, taking messages now whole and now in chunks, and skipping some."""
    found, parts = [], []
    reader = reader_with(extensions)
    for chunk in chunks:
        reader.receive_data(chunk)
        got = True
        try:
            while got or reader.pending:
                if reader.streaming or rng.random() < 0.5:
                    got = reader.next_chunk()
                    if got:
                        parts.append(got[0])
                        if got[1]:
                            found.append(type(got[0])().join(parts))
                            parts = []
                else:
                    got = reader.messages()
                    found += got
                if reader.streaming and rng.random() < 0.2:
                    reader.skip()
                    parts = []
                    found.append(Skipped())
        except INVALID as exc:
            found.append(type(exc))
            reader.stop()
    return found


@pytest.mark.parametrize("deflated", [False, True], ids=["not deflated", "deflated"])
def test_messages_whole_in_chunks_and_skipped(deflated):
    rng = random.Random(f"{SEED} {deflated} mixed")
    for _ in range(60):
        data = random_stream(rng, deflated)
        model = Model(data, (UNLIMITED, UNLIMITED), *(deflate() if deflated else ()))
        expected = [event for event in model.events if type(event) is not tuple]
        found = mixed(chunked(data, rng), rng, deflate() if deflated else [])
        if len(found) > len(expected):  # the last message, which isn't complete
            del found[-2 if found[-1] in INVALID else -1]
        assert found == expected


def test_a_whole_message_is_taken_as_the_plain_way_takes_it():
    """``whole_message`` gives what ``messages`` gives, or nothing, and only where it may."""
    payloads = [b"x" * n for n in (0, 1, 30, 124, 125, 126, 127, 200, 65535, 65536, 70000)]
    payloads += ["\xe9".encode(), b"\xe9", b"\xed\xa0\x80", "\U0001f600".encode() * 40]
    heads = [head | bits for head in range(16) for bits in (0, 0x80, 0x40, 0xC0, 0x30)]
    taken = 0
    for payload in payloads:
        for head in heads:
            whole = bytes((head,)) + header(0, len(payload), 0)[1:] + payload
            long = bytes((head, 127)) + len(payload).to_bytes(8, "big") + payload
            masked = bytes((head,)) + header(0, len(payload))[1:] + bytes(4) + payload
            for data in (whole, whole[:-1], whole + b"\x81", whole * 2, long, masked):
                found = MessageReader(Owner([])).whole_message(data)
                if found is not None:
                    assert data is whole or data == whole
                    assert [found] == events([data]) and type(found) is type(events([data])[0])
                    taken += 1
                elif data is whole and head in (0x81, 0x82) and len(payload) < 65536:
                    assert head == 0x81 and not is_utf8(payload)
    assert taken > 20


def is_utf8(data):
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def test_a_whole_message_is_left_alone_where_something_else_goes_on():
    data = frame(TEXT, b"abc")
    for begun in (frame(TEXT, b"a", False), frame(BINARY, b"abcd")[:3], frame(TEXT)[:1]):
        reader = MessageReader(Owner([]))
        reader.receive_data(begun)
        assert reader.messages() == []
        assert reader.whole_message(data) is None
    reader = MessageReader(Owner([]))
    reader.stop()
    assert reader.whole_message(data) is None
    assert MessageReader(Owner([]), (2, 2)).whole_message(data) is None
    assert MessageReader(Owner([]), (3, 3)).whole_message(data) == "abc"
    assert reader_with([Broken()]).whole_message(data) is None
    assert reader_with(deflate()).whole_message(data) == "abc"
    deflated = frame(TEXT, compressed(b"abc"), rsv=RSV1)
    assert reader_with(deflate()).whole_message(deflated) is None


# -- as programs have them --


ENCODED = [
    ("é", None, (1, b"\xc3\xa9")),
    ("é", True, (1, b"\xc3\xa9")),
    ("é", False, (2, b"\xc3\xa9")),
    (b"a", None, (2, b"a")),
    (b"a", True, (1, b"a")),
    (bytearray(b"a"), False, (2, b"a")),
    (memoryview(b"abc"), None, (2, b"abc")),
    (memoryview(b"abcd")[::2], None, (2, b"ac")),
    (array.array("H", [0x6161]), None, (2, b"aa")),
]


@pytest.mark.parametrize("message, text, expected", ENCODED)
def test_opcode_and_payload(message, text, expected):
    assert encode_whole(message, text) == encode_message(message, text) == expected
    assert encode_message(message, text, expected[0]) == expected
    with pytest.raises(TypeError, match="all str or all bytes-like"):
        encode_message(message, text, 3 - expected[0])


@pytest.mark.parametrize("message", [["a"], iter("a"), None, 1, {}, object()])
def test_what_is_not_sent_whole(message):
    assert encode_whole(message, None) is encode_whole(message, True) is None


class Numbered:
    """What ``iter()`` takes without an ``__iter__``."""

    def __getitem__(self, index):
        return ["a", "b"][index]


@pytest.mark.parametrize("message", [["a", "b"], iter("ab"), Numbered(), {"a": 1, "b": 2}.keys()])
def test_a_message_in_parts(message):
    assert list(parts_of(message)) == ["a", "b"]


@pytest.mark.parametrize("message", [1, None, object(), {"a": 1}])
def test_what_has_no_parts(message):
    problem = f"str, bytes-like or an iterable of these, not {type(message).__name__}"
    with pytest.raises(TypeError, match=problem):
        parts_of(message)


def test_what_can_not_be_sent():
    with pytest.raises(TypeError, match="str or bytes-like, not int"):
        encode_message(1, None)
    for encode in (encode_message, encode_whole):
        with pytest.raises(UnicodeDecodeError):
            encode(b"\xff", True)
        with pytest.raises(UnicodeEncodeError):
            encode("\ud800", None)


def test_messages_in_the_type_that_is_asked_for():
    assert decode_message("é", True) == decode_message("é".encode(), True) == "é"
    assert decode_message("é", False) == decode_message("é".encode(), False) == "é".encode()


@pytest.mark.parametrize(
    "decode, chunks, expected",
    [
        (None, ["a", b"b"], ["a", b"b"]),
        (False, ["é", b"b"], ["é".encode(), b"b"]),
        (True, [b"\xc3", b"\xa9"], ["", "é"]),
        (True, ["a", "é"], ["a", "é"]),
    ],
)
def test_chunks_in_the_type_that_is_asked_for(decode, chunks, expected):
    convert = chunk_decoder(decode)
    assert [convert(chunk, at == 1) for at, chunk in enumerate(chunks)] == expected
