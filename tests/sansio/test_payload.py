"""What a program sends and receives, and the payloads of messages."""

from __future__ import annotations

import array

import pytest

from wsmini.sansio.payload import chunk_decoder, decode_message, encode_message, encode_whole

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
def test_chunks(decode, chunks, expected):
    convert = chunk_decoder(decode)
    assert [convert(chunk, at == 1) for at, chunk in enumerate(chunks)] == expected
