"""The header, the negotiation, and what an extension of one's own looks like."""

from __future__ import annotations

import time

import pytest
from helpers import PATIENCE_FACTOR
from tables import each_row

from wsmini.exceptions import InvalidHeader, NegotiationError
from wsmini.sansio.extensions import (
    Extension,
    ExtensionOffer,
    format_extensions,
    negotiate,
    parse_extensions,
)
from wsmini.sansio.frames import Frame, Opcode


class Xor(Extension):
    """Flips the bits of each payload byte that its key has, and says so with RSV2."""

    name = "x-xor"
    rsv2 = True

    def __init__(self, key):
        self.key = key

    def encode(self, frame):
        data = bytes(byte ^ self.key for byte in bytes(frame.data))
        return frame._replace(data=data, rsv2=True)

    def decode(self, frame, max_size=None):
        if not frame.rsv2:
            return frame
        return self.encode(frame)._replace(rsv2=False)


class XorOffer(ExtensionOffer):
    name = "x-xor"

    def __init__(self, *keys):
        self.keys = keys

    def offer(self):
        return [("key", str(key)) for key in self.keys]

    def accept(self, params, accepted):
        names = [name for name, _ in params]
        if names != ["key"]:
            raise self.refusal(params, "exactly one key was expected")
        if int(params[0][1]) not in self.keys:
            raise self.refusal(params, "this key wasn't offered")
        return Xor(int(params[0][1]))


class Suffix(Extension):
    """Appends what it is told to; claims the bits it is told to."""

    def __init__(self, name, suffix, bits):
        self.name = name
        self.suffix = suffix
        for bit in bits:
            setattr(self, bit, True)

    def encode(self, frame):
        return frame._replace(data=frame.data + self.suffix)

    def decode(self, frame, max_size=None):
        assert frame.data.endswith(self.suffix)
        return frame._replace(data=frame.data[: -len(self.suffix)])


class SuffixOffer(ExtensionOffer):
    def __init__(self, name="x-suffix", suffix=b"", bits=()):
        self.name = name
        self.made = name, suffix, bits

    def accept(self, params, accepted):
        self.accepted = [extension.name for extension in accepted]
        return Suffix(*self.made)


# -- the header --

GOOD = {
    "nothing": ("", []),
    "only white space": (" \t ", []),
    "only commas": (" , ,", []),
    "name": ("foo", [("foo", [])]),
    "any token": ("a!#$%&'*+-.^_`|~9", [("a!#$%&'*+-.^_`|~9", [])]),
    "names": ("foo,bar", [("foo", []), ("bar", [])]),
    "the same twice": ("foo, foo", [("foo", []), ("foo", [])]),
    "empty elements": (", foo ,\t, bar,", [("foo", []), ("bar", [])]),
    "parameter": ("foo; a", [("foo", [("a", None)])]),
    "value": ("foo;a=1", [("foo", [("a", "1")])]),
    "quoted value": ('foo; a="1"', [("foo", [("a", "1")])]),
    "escaped value": (r'foo; a="\1\2"', [("foo", [("a", "12")])]),
    "repeated parameter": ("foo; a; a=1", [("foo", [("a", None), ("a", "1")])]),
    "white space": ("\tfoo ; a\t = \t1 ;b ", [("foo", [("a", "1"), ("b", None)])]),
    "several": (
        'foo; a=1; b, bar; c="x"',
        [("foo", [("a", "1"), ("b", None)]), ("bar", [("c", "x")])],
    ),
}


@each_row("value, extensions", GOOD.values(), ids=GOOD)
def test_header_is_parsed(value, extensions):
    assert parse_extensions(value) == extensions
    assert parse_extensions(format_extensions(extensions)) == extensions


JUNK = {
    "two names": "foo bar",
    "no name": "; a",
    "no parameter": "foo;",
    "no parameter before another": "foo;;a",
    "no parameter before a comma": "foo; , bar",
    "no value": "foo; a=",
    "no value before another": "foo; a=; b",
    "no parameter name": "foo; =1",
    "empty quotes": 'foo; a=""',
    "quoted white space": 'foo; a="1 2"',
    "quoted quote": r'foo; a="\""',
    "quoted backslash": r'foo; a="\\"',
    "backslash in front of no character": r'foo; a="1\"',
    "two backslashes": r'foo; a="1\\2"',
    "quoted separator": 'foo; a="1,2"',
    "open quotes": 'foo; a="1',
    "closing quotes alone": 'foo; a=1"',
    "one quote": 'foo; a="',
    "behind quotes": 'foo; a="1"2',
    "quoted name": '"foo"',
    "slash": "foo/bar",
    "equals": "foo=1",
    "control character": "foo\x00",
    "line end": "foo\n",
    "not ASCII": "föö",
    "not ASCII in a value": "foo; a=ö",
}


@each_row("value", JUNK.values(), ids=JUNK)
def test_junk_in_the_header_is_refused(value):
    with pytest.raises(InvalidHeader) as caught:
        parse_extensions(value)
    assert caught.value.name == "Sec-WebSocket-Extensions"
    assert caught.value.value == value


@pytest.mark.parametrize("filler", [" ", "\t", ",", "a", ";a", ";a=1", '="', "\\", " ;"])
def test_long_headers_take_linear_time(filler):
    # With quadratic time, each of these would take several seconds: CPU time, whatever else runs.
    filler *= 40000 // len(filler)
    for behind in ("x", ";", "=", '"', ";a", ";a=", ';a="'):
        for value in ("foo" + filler + behind, 'foo;a="' + filler + behind):
            started = time.process_time()
            try:
                parse_extensions(value)
            except InvalidHeader:
                pass
            assert time.process_time() - started < PATIENCE_FACTOR, behind


def test_header_is_formatted():
    extensions = [("foo", [("a", "1"), ("b", None)]), ("bar", [])]
    assert format_extensions(extensions) == "foo; a=1; b, bar"


UNSAFE = ["", "a b", "a,b", 'a"', "a\r\nEvil: 1", "a\0", "ä"]


@pytest.mark.parametrize("text", UNSAFE)
def test_what_is_not_a_token_is_never_formatted(text):
    for extensions in [(text, [])], [("foo", [(text, None)])], [("foo", [("a", text)])]:
        with pytest.raises(ValueError, match="is a token, not"):
            format_extensions(extensions)


# -- negotiation --


def test_no_extension_may_be_chosen():
    assert negotiate([], [XorOffer(1)]) == []
    assert negotiate([""], [XorOffer(1)]) == []


def test_offer_accepts_the_response():
    (extension,) = negotiate(["x-xor; key=85"], [XorOffer(7, 85)])
    assert extension.key == 85


def test_order_is_that_of_the_response_and_not_of_the_offers():
    offers = [SuffixOffer("one", b"1"), SuffixOffer("two", b"2"), SuffixOffer("three", b"3")]
    chosen = negotiate(["three, one", "two"], offers)
    assert [extension.name for extension in chosen] == ["three", "one", "two"]
    assert offers[0].accepted == ["three"]
    assert offers[1].accepted == ["three", "one"]
    assert offers[2].accepted == []


def test_offers_of_one_name_are_alternatives():
    offers = [XorOffer(1), XorOffer(2), XorOffer(3)]
    assert negotiate(["x-xor; key=2"], offers)[0].key == 2
    with pytest.raises(NegotiationError) as caught:
        negotiate(["x-xor; key=1; key=2"], [XorOffer(1), XorOffer(2)])
    assert caught.value.problem == "exactly one key was expected"


def test_what_the_preferred_one_of_alternatives_has_against_it_is_told():
    class Refusing(XorOffer):
        def accept(self, params, accepted):
            raise self.refusal(params, "never")

    for offers in ([Refusing(1), XorOffer(1)], [XorOffer(1), Refusing(1)]):
        with pytest.raises(NegotiationError) as caught:
            negotiate(["x-xor; key=2"], offers)
        expected = "never" if type(offers[0]) is Refusing else "this key wasn't offered"
        assert caught.value.problem == expected


CHOSEN_WRONGLY = {
    "not offered": ("x-other", "this extension wasn't offered"),
    "not offered, beside one that was": ("x-xor; key=1, x-other", "this extension wasn't offered"),
    "names are case-sensitive": ("X-Xor; key=1", "this extension wasn't offered"),
    "refused by the offer": ("x-xor; key=2", "this key wasn't offered"),
    "twice": ("x-xor; key=1, x-xor; key=1", "the server chose this extension twice"),
    "RSV1 twice": ("one, two", "RSV1 is already in use by one"),
    "RSV2 twice": ("x-xor; key=1, four", "RSV2 is already in use by x-xor"),
    "RSV3 twice, not side by side": ("three, one, four", "RSV3 is already in use by three"),
}


@pytest.mark.parametrize("value, problem", CHOSEN_WRONGLY.values(), ids=CHOSEN_WRONGLY)
def test_wrong_choices_are_refused(value, problem):
    offers = [
        XorOffer(1),
        SuffixOffer("one", bits=["rsv1"]),
        SuffixOffer("two", bits=["rsv1"]),
        SuffixOffer("three", bits=["rsv3"]),
        SuffixOffer("four", bits=["rsv2", "rsv3"]),
    ]
    for values in [value], value.split(", "):
        with pytest.raises(NegotiationError) as caught:
            negotiate(values, offers)
        assert caught.value.problem == problem
        assert caught.value.name == "Sec-WebSocket-Extensions"
        assert caught.value.value in value


def test_refusals_show_what_was_chosen():
    with pytest.raises(NegotiationError) as caught:
        negotiate(["x-xor; key=1; key"], [XorOffer(1)])
    assert str(caught.value) == (
        "invalid Sec-WebSocket-Extensions header: 'x-xor; key=1; key': exactly one key was expected"
    )


def test_junk_in_any_header_is_refused():
    with pytest.raises(InvalidHeader):
        negotiate(["x-xor; key=1", "junk junk"], [XorOffer(1)])


# -- the base classes --


def test_base_classes_change_nothing():
    frame = Frame(Opcode.TEXT, b"spam", rsv3=True)
    extension = Extension()
    assert extension.encode(frame) is extension.decode(frame) is frame
    assert extension.decode(frame, 10) is frame
    assert not (extension.rsv1 or extension.rsv2 or extension.rsv3 or extension.optional)
    assert ExtensionOffer().offer() == []


def test_offer_has_to_define_accept():
    with pytest.raises(NotImplementedError, match=r"ExtensionOffer doesn't define accept\(\)"):
        ExtensionOffer().accept([], [])


def test_extension_of_ones_own():
    (extension,) = negotiate(["x-xor; key=255"], [XorOffer(255)])
    sent = extension.encode(Frame(Opcode.BINARY, b"\x00\x0f"))
    assert sent == Frame(Opcode.BINARY, b"\xff\xf0", rsv2=True)
    assert extension.decode(sent) == Frame(Opcode.BINARY, b"\x00\x0f")
    untouched = Frame(Opcode.BINARY, b"\x00\x0f")
    assert extension.decode(untouched) is untouched


def test_extensions_encode_in_order_and_decode_in_reverse():
    chosen = negotiate(["x-suffix, x-xor; key=255"], [XorOffer(255), SuffixOffer(suffix=b"\x01")])
    frame = Frame(Opcode.BINARY, b"\x00")
    for extension in chosen:
        frame = extension.encode(frame)
    assert frame == Frame(Opcode.BINARY, b"\xff\xfe", rsv2=True)
    for extension in reversed(chosen):
        frame = extension.decode(frame)
    assert frame == Frame(Opcode.BINARY, b"\x00")
