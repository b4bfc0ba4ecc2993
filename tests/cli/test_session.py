"""What the command line does with a connection: input to messages, messages to output."""

from __future__ import annotations

import os
import sys
import threading
import time
import types

import pytest
from helpers import PATIENCE, PROMPT, splits
from tables import each_row

from wsmini.blocking.connection import connect
from wsmini.cli import arguments, formats, output, session
from wsmini.cli import terminal as terminal_module
from wsmini.cli.output import Recorder
from wsmini.exceptions import Close, connection_closed
from wsmini.testing import echo_server

CLOSES = {  # received, sent, received first -> with the code 4001 as our own
    "by them": (1000, 1000, True, True),
    "going away": (1001, 1001, True, True),
    "without a code": (1005, 1005, True, True),
    "by us": (4001, 4001, False, True),
    "by us, answered with 1000": (1000, 4001, False, True),
    "policy": (1008, 1008, True, False),
    "private use": (4002, 4002, True, False),
    "by us, for their fault": (1002, 1002, False, False),
    "by us, for their fault, answered with 1000": (1000, 1009, False, False),
    "never answered": (None, 1000, None, False),
    "lost": (None, None, None, False),
}


@each_row("rcvd, sent, first, clean", CLOSES.values(), ids=CLOSES)
def test_what_a_clean_close_is(rcvd, sent, first, clean):
    closes = [None if code is None else Close(code, "") for code in (rcvd, sent)]
    assert session._is_clean(connection_closed(*closes, first), 4001) is clean


RECORDED = {  # received, sent, received first -> what is written down
    "by them": (1000, 1000, True, ("received", 1000)),
    "by them, not answered": (4001, None, None, ("received", 4001)),
    "by us": (1000, 4001, False, ("sent", 4001)),
    "by us, not answered": (None, 1000, None, ("sent", 1000)),
    "lost": (None, None, None, ("received", 1006)),
}


@pytest.mark.parametrize("rcvd, sent, first, expected", RECORDED.values(), ids=RECORDED)
def test_who_began_a_close(rcvd, sent, first, expected):
    closes = [None if code is None else Close(code, "why") for code in (rcvd, sent)]
    fields = formats.close_record(connection_closed(*closes, first))
    assert (fields["direction"], fields["code"]) == expected
    assert fields["reason"] == ("" if expected[1] == 1006 else "why")


# -- input --


LINES = {
    "nothing": (b"", []),
    "one": (b"a\n", ["a"]),
    "last without LF": (b"a\nb", ["a", "b"]),
    "empty ones": (b"\n\na\n\n", ["", "", "a", ""]),
    "CR LF": (b"a\r\n\r\nb\r\n", ["a", "", "b"]),
    "CR within": (b"a\rb\n\r\r\n", ["a\rb", "\r"]),
    "CR at the end": (b"a\r", ["a\r"]),
    "UTF-8": ("\xe9\N{EURO SIGN}\n\U0001f600".encode(), ["\xe9\N{EURO SIGN}", "\U0001f600"]),
    "NUL": (b"a\0b\n", ["a\0b"]),
}


def reading(chunks):
    """A function that returns one chunk after the other, and then nothing."""
    chunks = iter([chunk for chunk in chunks if chunk])
    return lambda: next(chunks, b"")


@pytest.mark.parametrize("data, lines", LINES.values(), ids=LINES)
def test_lines_however_they_are_split(data, lines):
    for chunks in splits(data):
        assert [formats.decoded(line) for line in formats.lines(reading(chunks))] == lines


def test_a_long_line_takes_linear_time():
    chunks = [b"x"] * 200_000 + [b"\n"]
    started = time.process_time()
    assert list(formats.lines(reading(chunks))) == [b"x" * 200_000]
    assert time.process_time() - started < PROMPT  # seconds; quadratic, it would be minutes


def test_input_in_many_small_pieces_takes_linear_time():
    chunks = [b"x"] * 200_000
    started = time.process_time()
    assert list(formats.blocks(reading(chunks))) == [b"x" * 200_000]
    assert time.process_time() - started < PROMPT  # seconds


def test_a_line_that_is_not_utf8_is_an_error():
    with pytest.raises(UnicodeError, match=r"at byte 1 of a line.*--binary"):
        formats.decoded(b"b\xff")


SIZES = {
    "nothing": [],
    "small": [3, 4],
    "one block": [formats.READ_SIZE] * (formats.BLOCK // formats.READ_SIZE),
    "a byte more": [formats.BLOCK, 1],
    "three blocks": [formats.BLOCK] * 3,
    "many small": [1000] * 5000,
}


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_binary_input_is_one_message(sizes):
    data = os.urandom(sum(sizes))
    chunks, start = [], 0
    for size in sizes:
        chunks.append(data[start : start + size])
        start += size
    messages = []
    for message in formats.blocks(reading(chunks)):
        messages.append(message if isinstance(message, bytes) else b"".join(message))
    assert messages == ([data] if data else [])


def test_fragments_of_binary_input_have_the_size_of_a_block():
    chunks = [b"a" * 1000] * 5000
    (message,) = formats.blocks(reading(chunks))
    *sizes, rest = map(len, message)
    assert len(sizes) == 5000000 // (formats.BLOCK + 999)
    assert all(formats.BLOCK <= size < formats.BLOCK + 1000 for size in sizes)
    assert rest < formats.BLOCK


def test_binary_input_that_is_small_is_not_fragmented():
    assert list(formats.blocks(reading([b"a"] * 20))) == [b"a" * 20]


# -- output --


PRINTABLE = {
    "text": ("H\xe9llo \N{EURO SIGN} \U0001f600", "H\xe9llo \N{EURO SIGN} \U0001f600"),
    "tabs and lines": ("a\tb\nc", "a\tb\nc"),
    "escape": ("\x1b[2J", "\\x1b[2J"),
    "C1 controls": ("\x9b2J\x85", "\\x9b2J\\x85"),
    "others": ("\0\a\b\r\v\f\x7f", "\\x00\\x07\\x08\\r\\x0b\\x0c\\x7f"),
    "direction": ("\u202egnp.exe\u2066", "\\u202egnp.exe\\u2066"),
    "separators": ("a\u2028b", "a\\u2028b"),
    "zero width": ("a\u200bb\u2060\ufeff", "a\\u200bb\\u2060\\ufeff"),
    "annotations": ("\ufff9a\ufffb", "\\ufff9a\\ufffb"),
    "tags": ("a\U000e0041", "a\\U000e0041"),
    "fillers": ("a\u3164\uffa0\u115f", "a\\u3164\\uffa0\\u115f"),
    "variations": ("\u2764\ufe0f \u908a\U000e0100", "\u2764\ufe0f \u908a\U000e0100"),
    "joined": ("\U0001f468\u200d\U0001f469", "\U0001f468\u200d\U0001f469"),
}


@each_row("text, expected", PRINTABLE.values(), ids=PRINTABLE)
def test_what_could_drive_a_terminal_is_escaped(text, expected):
    assert output.printable(text) == expected


def test_binary_messages_are_cut_on_a_terminal():
    assert output.displayed(b"\x00\xff") == "[2 bytes] 00ff"
    assert output.displayed(bytes(1000)) == f"[1000 bytes] {'00' * output._SHOWN}..."


WRAPPED = {
    "empty": ("", 3, [""]),
    "fits": ("abc", 3, ["abc"]),
    "too long": ("abcdefg", 3, ["abc", "def", "g"]),
    "lines": ("ab\n\ncdef", 3, ["ab", "", "cde", "f"]),
    "tab": ("a\tb", 20, ["a       b"]),
    "wide": ("\u4e2d\u6587a\u5b57", 5, ["\u4e2d\u6587a", "\u5b57"]),
}


@pytest.mark.parametrize("text, columns, lines", WRAPPED.values(), ids=WRAPPED)
def test_lines_are_wrapped_to_the_terminal(text, columns, lines):
    assert terminal_module._wrapped(text, columns) == lines


# -- the terminal --


def test_a_terminal_without_cursor_movements_has_one_prompt(monkeypatch):
    """A message may come while a line is typed, and behind it before the next prompt is there."""
    monkeypatch.setattr(terminal_module, "_saved_terminal", lambda: None)
    monkeypatch.setattr(terminal_module, "_hook_readline", lambda hook: False)
    monkeypatch.setattr(terminal_module, "_line_buffer", lambda: "ty")
    terminal = terminal_module.Terminal(arguments.make_parser().parse_args(["ws://localhost"]))
    monkeypatch.setattr(terminal, "smart", False)
    monkeypatch.setattr(terminal, "restore", lambda: None)
    written = []
    monkeypatch.setattr(terminal, "write", written.append)

    def typed(prompt):
        terminal.show("< a")
        return "line"

    monkeypatch.setattr("builtins.input", typed)
    monkeypatch.setitem(sys.modules, "readline", types.ModuleType("readline"))  # it may have none
    assert terminal.read_line() == "line"
    terminal.show("< b")
    assert written == ["\n< a\n> ty", "< b\n"]


def test_the_mode_of_the_terminal_is_restored_after_readline_has_set_it(monkeypatch):
    """The connection ends when readline is about to set it, in the other thread."""
    about_to_set, log, hooks = threading.Event(), [], []
    leaving = threading.Event()

    class Readline:
        set_startup_hook = staticmethod(hooks.append)

    class Watched:
        """A lock that tells when somebody wants it with a timeout: who leaves."""

        def __init__(self):
            self.lock = threading.Lock()
            self.release = self.lock.release

        def acquire(self, timeout=-1):
            if timeout != -1:
                leaving.set()
            return self.lock.acquire(timeout=timeout)

    def typed(prompt):
        about_to_set.set()
        assert leaving.wait(PATIENCE)
        log.append("set")
        hooks[-1]()
        return "line"

    monkeypatch.setitem(sys.modules, "readline", Readline)
    monkeypatch.setattr("builtins.input", typed)
    monkeypatch.setattr(terminal_module, "_saved_terminal", lambda: lambda: log.append("restored"))
    terminal = terminal_module.Terminal(arguments.make_parser().parse_args(["ws://localhost"]))
    terminal.changing = Watched()
    monkeypatch.setattr(terminal, "write", lambda text: None)
    thread = threading.Thread(target=terminal.read_line)
    thread.start()
    assert about_to_set.wait(PATIENCE)
    terminal.__exit__(None, None, None)
    thread.join(PATIENCE)
    assert log == ["set", "restored"]
    assert not terminal.changing.acquire(timeout=0)  # nobody sets it again


# -- formats --


DEEP = "[" * 950 + "1," * 100_000 + "1" + "]" * 950


@pytest.mark.parametrize("text", [DEEP, "[" * 10**6, "{", "nothing"], ids=len)
def test_json_that_would_grow_or_is_none_is_shown_as_it_is(text):
    assert formats.indented(text) == text


def test_json_is_indented():
    assert formats.indented('{"a": [1]}') == '{\n  "a": [\n    1\n  ]\n}'


NOT_JSON = ["[" * 10**5, "{}", "3", '{"payload": 3}', '{"type": "x", "payload": "a"}']


@pytest.mark.parametrize("text", NOT_JSON, ids=range(len(NOT_JSON)))
def test_what_is_no_message_in_json_is_an_error(text):
    with pytest.raises(UnicodeError, match="a line isn't JSON"):
        formats.from_json(text.encode())


def test_a_mark_of_windows_in_front_of_json_is_no_part_of_it():
    assert formats.from_json(b'\xef\xbb\xbf{"payload": "x"}') == "x"


@pytest.mark.parametrize(
    "line, data", [(b"", b""), (b"AA==", b"\0"), (b"AAA=", b"\0\0"), (b"+/+/", b"\xfb\xff\xbf")]
)
def test_base64(line, data):
    assert formats.from_base64(line) == data


@pytest.mark.parametrize("line", [b"AA", b"AA=", b"A===", b"A A=", b"AA==AA==", b"AA==x", b"_-_-"])
def test_what_is_no_base64_is_an_error(line):
    with pytest.raises(UnicodeError, match="isn't base64"):
        formats.from_base64(line)


# -- reconnecting --


ENDS = {
    "end of input": lambda talk: talk.close(),
    "/close": lambda talk: list(talk.typed("/close")),
    "/close 4000 bye": lambda talk: list(talk.typed("/close 4000 bye")),
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("when", ["connecting", "waiting"])
def test_a_session_that_ends_while_it_connects_again_leaves_no_connection(end, when, monkeypatch):
    opened, notes, leave = [], [], ENDS[end]
    code = 4000 if "4000" in end else 1000

    def open_connection(args):
        opened.append(connect(server.url))
        if len(opened) == 2:
            leave(talk)
        return opened[-1]

    def note(text, mark=""):
        notes.append(text)
        if when == "waiting":
            leave(talk)

    monkeypatch.setattr(session, "note", note)
    monkeypatch.setattr(session, "open_connection", open_connection)
    delay = "0" if when == "connecting" else "1000"
    with echo_server() as server:
        args = arguments.parsed(arguments.make_parser(), [server.url, "--reconnect", delay])
        talk = session.Session(args, output.Output(args), Recorder(None))
        assert talk.connect()
        with opened[0]:
            lost = connection_closed(None, None, None)
            assert talk.connect(lost) is (when == "connecting")
        assert [ws.close_code for ws in opened] == [code] * (1 + (when == "connecting"))


# -- files --


def test_what_is_recorded_while_the_program_ends_is_not_on_standard_output(
    tmp_path, monkeypatch, capfdbinary
):
    """The input thread is about to write when the main thread closes the file."""
    recorder = Recorder(str(tmp_path / "file"))
    monkeypatch.setattr("wsmini.cli.output.as_json", lambda fields: recorder.end() or b"{}")
    recorder.message("sent", "a")
    assert (tmp_path / "file").read_bytes() == b""
    assert capfdbinary.readouterr().out == b""


@pytest.mark.skipif(os.name != "posix", reason="needs modes and links")
def test_private_files(tmp_path):
    path = tmp_path / "file"
    path.write_text("before")
    path.chmod(0o664)
    with output.open_private(str(path)) as file:
        file.write(b", after")
    assert path.read_text() == "before, after" and path.stat().st_mode & 0o777 == 0o600
    output.open_private(str(path), truncate=True).close()
    assert path.read_text() == ""
    output.open_private(os.devnull, truncate=True).close()
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(OSError):
        output.open_private(str(tmp_path / "link"))
    path.write_text("theirs")
    path.chmod(0o606)
    with pytest.raises(PermissionError, match="others"):
        output.open_private(str(path), truncate=True)
    assert path.read_text() == "theirs"
