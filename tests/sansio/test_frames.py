"""Building frames: masks compared with the loop of RFC 6455, 5.3, keys, and Close frames."""

from __future__ import annotations

import importlib.util
import itertools
import operator
import os
import random
import subprocess
import sys
import threading
import types

import pytest
from helpers import SEED
from tables import each_row

from wsmini.exceptions import Close, ProtocolError
from wsmini.sansio import frames, libcrypto
from wsmini.sansio.frames import LANES, PIECE, Frame, Opcode

BOUNDARIES = [n + d for n in (2048, 4096, 16384, 65536, PIECE) for d in (-1, 0, 1, 2, 3)]
SIZES = [*range(1101), *BOUNDARIES]
KEYS = [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x01\x02\x03\x04", b"\0\0\0\x80", b"\x80\0\0\0"]
EMSCRIPTEN = sys.platform == "emscripten"
CLOSE_CODES = {*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)}


def loop(data, key):
    """Masking as RFC 6455, 5.3 says it."""
    return bytes(map(operator.xor, data, itertools.cycle(key)))


def parsed(frame):
    """A masked frame as (first byte, payload, masking key), by a parser that knows only those."""
    frame = bytes(frame)
    assert frame[1] & 0x80, "not masked"
    n, at = frame[1] & 0x7F, 2
    if n == 126:
        n, at = int.from_bytes(frame[2:4], "big"), 4
        assert n > 125
    elif n == 127:
        n, at = int.from_bytes(frame[2:10], "big"), 10
        assert n > 65535
    key, payload = frame[at : at + 4], frame[at + 4 :]
    assert len(payload) == n
    return frame[0], loop(payload, key), key


def random_bytes(n, salt=0):
    return random.Random(SEED + salt).getrandbits(8 * n + 8).to_bytes(n + 1, "big")[:n]


@pytest.fixture
def counted_keys(monkeypatch):
    """Keys 0, 1, 2...: each as good as random, and a repetition can be told from chance."""
    drawn = []
    lock = threading.Lock()

    def urandom(n):
        with lock:
            first = len(drawn) * 1024
            drawn.append(n)
        return b"".join((first + i).to_bytes(4, sys.byteorder) for i in range(n // 4))

    monkeypatch.setattr(frames, "os", types.SimpleNamespace(urandom=urandom))
    frames._keys.clear()
    yield drawn
    frames._keys.clear()


# -- masking --


@pytest.mark.parametrize("key", KEYS, ids=bytes.hex)
def test_mask_equals_the_loop_at_every_size(key):
    data = random_bytes(SIZES[-1])
    for n in SIZES:
        if n < 5000 or key == KEYS[2]:
            assert frames.mask(data[:n], key) == loop(data[:n], key), n


def test_masking_twice_gives_the_data_back():
    for n in (0, 1, 125, LANES - 1, LANES, LANES + 1, 70000):
        data = random_bytes(n)
        assert frames.mask(frames.mask(data, b"abcd"), b"abcd") == data


@each_row("in_place", [frames.mask_in_place, frames.translate_in_place])
@each_row("start", range(9))
def test_masking_in_place_begins_at_any_place(in_place, start):
    for n in (0, 1, 2, 3, 4, 5, 7, 8, 63, 64, 65, LANES):
        data = random_bytes(start + n)
        buffer = bytearray(data)
        in_place(buffer, start, b"\x01\x80\xfe\x33")
        assert buffer == data[:start] + loop(data[start:], b"\x01\x80\xfe\x33")


def other(data, start, key):
    """Masks as a libcrypto would."""
    data[start:] = loop(data[start:], key)


@pytest.fixture
def patience(monkeypatch):
    """A program that hasn't masked much yet, and becomes impatient after 10,000 bytes."""
    monkeypatch.setattr(frames, "_mask_in_place", frames._translate_at_first)
    monkeypatch.setattr(frames, "_to_translate", 10000)


@pytest.mark.parametrize("found", [other, None], ids=["found", "not found"])
def test_after_many_bytes_libcrypto_masks_if_there_is_one(monkeypatch, patience, found):
    loaded = []
    monkeypatch.setattr(libcrypto, "load", lambda proven: loaded.append(proven) or found)
    data = random_bytes(4000)
    for i in range(6):
        assert parsed(frames.masked(0x82, data))[:2] == (0x82, data)
        assert loaded == [frames.translate_in_place][: i // 2], i
    assert frames._mask_in_place is (found or frames.translate_in_place)


def test_a_package_without_libcrypto_py_translates(monkeypatch, patience):
    monkeypatch.setitem(sys.modules, libcrypto.__name__, None)
    for _ in range(4):
        assert parsed(frames.masked(0x82, bytes(4000)))[:2] == (0x82, bytes(4000))
    assert frames._mask_in_place is frames.translate_in_place


@pytest.mark.parametrize("n", [0, 1, 125, 126, LANES - 1, LANES, 70000])
def test_masking_takes_any_bytes_and_leaves_them_alone(n):
    data = random_bytes(n)
    for same in (bytearray(data), memoryview(data), memoryview(bytearray(b"x" + data))[1:]):
        assert frames.mask(same, b"keys") == loop(data, b"keys")
        assert parsed(frames.masked(0x82, same))[:2] == (0x82, data)
        assert parsed(b"".join(frames.masked_pieces(0x82, same)))[:2] == (0x82, data)
        assert same == data


# -- frames --


def test_a_frame_is_parsed_back_at_every_size():
    data = random_bytes(SIZES[-1], salt=1)
    for n in SIZES:
        assert parsed(frames.masked(0x82, data[:n]))[:2] == (0x82, data[:n]), n


def test_every_first_byte():
    for head in range(256):
        for n in (0, 5, 125, 126):
            assert parsed(frames.masked(head, b"a" * n))[:2] == (head, b"a" * n)


@pytest.mark.parametrize("n", [0, 1, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE, 3 * PIECE + 3])
def test_pieces_make_up_the_same_frame(n):
    data = random_bytes(n)
    pieces = list(frames.masked_pieces(0x81, data))
    assert parsed(b"".join(pieces))[:2] == (0x81, data)
    assert len(pieces) == max(1, -(-n // PIECE))
    assert all(len(piece) <= PIECE + 14 for piece in pieces)


HEADERS = {
    0: "8100", 125: "817d", 126: "817e007e", 65535: "817effff", 65536: "817f0000000000010000",
    (1 << 63) - 1: "817f7fffffffffffffff",
}  # fmt: skip


@pytest.mark.parametrize("n", HEADERS)
def test_a_header_has_the_shortest_length(n):
    plain = bytes.fromhex(HEADERS[n])
    assert frames.header(0x81, n, 0) == plain
    assert frames.header(0x81, n) == bytes((plain[0], plain[1] | 0x80)) + plain[2:]


HEADS = {
    "text": (Frame(Opcode.TEXT, b""), 0x81),
    "fragment": (Frame(Opcode.TEXT, b"", False), 0x01),
    "rsv1": (Frame(Opcode.BINARY, b"", rsv1=True), 0xC2),
    "rsv2": (Frame(Opcode.BINARY, b"", rsv2=True), 0xA2),
    "rsv3": (Frame(Opcode.BINARY, b"", rsv3=True), 0x92),
    "continuation": (Frame(0, b"", False, True, True, True), 0x70),
}


@pytest.mark.parametrize("frame, head", HEADS.values(), ids=HEADS)
def test_the_first_byte_of_a_frame(frame, head):
    assert frame.head == head


# -- keys --


@pytest.mark.parametrize("n", [0, 5, 125, 126, LANES - 1, LANES, 1000])
def test_no_key_is_used_twice(counted_keys, n):
    keys = [parsed(frames.masked(0x82, bytes(n)))[2] for _ in range(1100)]  # in two blocks
    assert len(set(keys)) == 1100


def test_keys_come_from_the_operating_system(counted_keys):
    keys = {frames.masking_key() for _ in range(1024)}
    assert keys == {i.to_bytes(4, "big") for i in range(1024)}
    assert counted_keys == [4096]
    assert parsed(b"".join(frames.masked_pieces(0x82, b"")))[2] not in keys
    assert counted_keys == [4096, 4096]


def test_every_bit_of_a_key_varies():
    keys = [int.from_bytes(frames.masking_key(), "big") for _ in range(200)]
    for bit in range(32):
        assert len({key >> bit & 1 for key in keys}) == 2


@pytest.mark.skipif(EMSCRIPTEN, reason="no threads here")
def test_threads_never_share_a_key(counted_keys):
    keys = [[] for _ in range(4)]
    # All have started before they are switched fast: coverage can't begin in two at a time.
    begin = threading.Barrier(len(keys) + 1)

    def take(mine):
        begin.wait()
        for _ in range(5000):
            mine.append(frames.masking_key())

    threads = [threading.Thread(target=take, args=(mine,)) for mine in keys]
    for thread in threads:
        thread.start()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        begin.wait()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert len(set().union(*keys)) == 20000


FORK = """
import os
from wsmini.sansio.frames import masking_key
masking_key()
read, write = os.pipe()
if not os.fork():
    os.write(write, b"".join(masking_key() for _ in range(100)))
    os._exit(0)
mine = b"".join(masking_key() for _ in range(100))
os.wait()
assert os.read(read, 400) != mine
"""


@pytest.mark.skipif(not hasattr(os, "fork") or EMSCRIPTEN, reason="no fork here")
def test_a_forked_child_has_other_keys():
    subprocess.run([sys.executable, "-W", "error", "-c", FORK], check=True)


def test_where_there_is_no_fork(monkeypatch):
    monkeypatch.delattr(os, "register_at_fork", raising=False)
    spec = importlib.util.spec_from_file_location("wsmini.sansio._frames_again", frames.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert parsed(module.masked(0x82, b"hello"))[:2] == (0x82, b"hello")


# -- Close frames --


def test_which_codes_a_close_frame_may_have():
    assert {code for code in range(-1, 70000) if frames.is_close_code(code)} == CLOSE_CODES


def test_a_close_payload_is_parsed_back():
    assert frames.parse_close(b"") == Close(1005, "")
    for code in CLOSE_CODES:
        assert frames.parse_close(frames.close_payload(code)) == Close(code, "")
        assert frames.parse_close(frames.close_payload(code, "Grüße")) == Close(code, "Grüße")


@pytest.mark.parametrize("reason", ["x" * 123, "é" * 61 + "x", "€" * 41, "😀" * 30 + "xyz"])
def test_a_reason_has_at_most_123_bytes(reason):
    assert frames.parse_close(frames.close_payload(1000, reason)).reason == reason
    with pytest.raises(ValueError, match="at most 123 bytes of UTF-8, not 124"):
        frames.close_payload(1000, reason + "x")


BAD_CLOSES = {
    "code 0": ((0, ""), ValueError),
    "code below": ((999, ""), ValueError),
    "reserved": ((1004, ""), ValueError),
    "no code": ((1005, ""), ValueError),
    "abnormal": ((1006, ""), ValueError),
    "TLS": ((1015, ""), ValueError),
    "code above": ((5000, ""), ValueError),
    "negative": ((-1000, ""), ValueError),
    "surrogate": ((1000, "\ud800"), ValueError),
    "code a str": (("1000", ""), TypeError),
    "code None": ((None, ""), TypeError),
    "reason bytes": ((1000, b"x"), TypeError),
    "reason None": ((1000, None), TypeError),
}


@each_row("args, error", BAD_CLOSES.values(), ids=BAD_CLOSES)
def test_a_close_that_cannot_be_sent(args, error):
    with pytest.raises(error):
        frames.close_payload(*args)


def test_the_payload_of_pings_and_pongs():
    changing = bytearray(125)
    payload = frames.control_payload(changing)
    changing[0] = 1
    assert payload == bytes(125) and type(payload) is bytes
    assert frames.control_payload("é") == "é".encode() == frames.control_payload("é".encode())
    for data in (bytes(126), "é" * 63):
        with pytest.raises(ValueError, match="a ping or pong has at most 125 bytes, not 126"):
            frames.control_payload(data)
    for data in (5, None, memoryview(b"x")):
        with pytest.raises(TypeError, match="a ping or pong takes str or bytes, not"):
            frames.control_payload(data)


def test_every_code_that_may_not_be_received():
    for code in [*range(5100), 32768, 65535]:
        if code not in CLOSE_CODES:
            with pytest.raises(ProtocolError, match=f"close code {code} "):
                frames.parse_close(code.to_bytes(2, "big") + b"reason")
            assert frames.read_close(code.to_bytes(2, "big")) == Close(code, "")


def test_a_close_payload_of_one_byte():
    with pytest.raises(ProtocolError, match="not 1"):
        frames.parse_close(b"\x03")


@pytest.mark.parametrize("reason", [b"\xff", b"ok\xc3", b"\xed\xa0\x80", b"\xc0\x80", b"\xf5"])
def test_a_reason_that_is_not_utf8(reason):
    with pytest.raises(UnicodeDecodeError):
        frames.parse_close(b"\x03\xe8" + reason)
    assert frames.read_close(b"\x03\xe8" + reason) == (1000, reason.decode("utf-8", "replace"))
