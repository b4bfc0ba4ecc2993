"""The frames that -vv shows."""

from __future__ import annotations

import time

import pytest
from certificates import server_context
from helpers import PROMPT, splits
from tables import each_row

from wsmini import cli
from wsmini.cli.tracing import FrameScanner, TracedStream
from wsmini.sansio.frames import Opcode
from wsmini.testing import echo_server, frame

FRAMES = {
    "text": (frame(Opcode.TEXT, "hi"), "TEXT FIN 2 bytes 'hi'"),
    "empty": (frame(Opcode.TEXT), "TEXT FIN 0 bytes ''"),
    "escape": (frame(Opcode.TEXT, "\x1b[2J"), "TEXT FIN 4 bytes '\\x1b[2J'"),
    "masked": (frame(Opcode.BINARY, b"\x00\xff", masked=True), "BINARY FIN 2 bytes 00ff"),
    "fragment": (frame(Opcode.CONT, b"a", fin=False), "CONT 1 bytes 61"),
    "bits": (frame(Opcode.TEXT, b"a", rsv1=True), "TEXT FIN RSV1 1 bytes 61"),
    "close": (frame(Opcode.CLOSE, b"\x03\xe8"), "CLOSE FIN 2 bytes 03e8"),
    "unknown": (frame(3, b""), "opcode 3 FIN 0 bytes"),
    "medium": (frame(Opcode.BINARY, bytes(300)), f"BINARY FIN 300 bytes {'00' * 32}..."),
    "large": (frame(2, bytes(70000), masked=True), f"BINARY FIN 70000 bytes {'00' * 32}..."),
}


@each_row("data, expected", FRAMES.values(), ids=FRAMES)
def test_frames_however_they_are_split(data, expected):
    for chunks in splits(data * 2):
        shown = []
        scanner = FrameScanner(shown.append)
        for chunk in chunks:
            scanner.feed(chunk)
        assert shown == [expected] * 2


@pytest.mark.parametrize("tls, options", [(False, ["-vv"]), (True, ["-vvk"])], ids=["ws", "wss"])
def test_frames_are_shown_in_both_directions(tls, options, capfdbinary):
    with echo_server(ssl=server_context() if tls else None) as server:
        assert cli.main([server.url, *options, "-m", "hello", "--count=1"]) == 0
    printed = capfdbinary.readouterr()
    lines = printed.err.decode().splitlines()
    assert printed.out == b"hello\n"
    for line in ("> TEXT FIN 5 bytes 'hello'", "< TEXT FIN 5 bytes 'hello'",
                 "> CLOSE FIN 2 bytes 03e8", "< CLOSE FIN 2 bytes 03e8"):  # fmt: skip
        assert line in lines


def test_a_frame_is_shown_once_and_before_it_goes_out():
    """However much of it the stream takes at once: its answer is shown by another thread."""
    log, data = [], frame(Opcode.TEXT, "hello", masked=True) + frame(Opcode.TEXT, "you")

    class Stream:
        def send(self, data, flags=0):
            log.append("going")
            if len(log) == 3:
                raise BlockingIOError
            return min(4, len(data))

    stream = TracedStream(Stream(), lambda line, mark: log.append(line))
    rest = data
    while rest:
        try:
            rest = rest[stream.send(rest[:16]) :]
        except BlockingIOError:
            pass
    shown = [line for line in log if line != "going"]
    assert shown == ["TEXT FIN 5 bytes 'hello'", "TEXT FIN 3 bytes 'you'"]
    assert log[0] == shown[0] and log.index(shown[1]) < len(log) - 1


def test_many_frames_at_once_take_linear_time():
    shown, data = [], frame(Opcode.TEXT) * 20_000
    started = time.process_time()
    FrameScanner(shown.append).feed(data)
    assert len(shown) == 20_000
    assert time.process_time() - started < PROMPT  # quadratic, it would be a minute
