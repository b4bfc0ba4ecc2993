"""The command line: its parts, then the real process on pipes and on a pseudo-terminal."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time

import pytest
from helpers import CERTS, PATIENCE, ROOT
from programs.terminals import (
    Pushed,
    Terminal,
    command,
    environment,
    finish,
    needs_pty,
    posix_only,
    run,
    start,
)

from wsmini import arguments, cli, session
from wsmini.exceptions import (
    InvalidMessage,
    InvalidProxyStatus,
    InvalidStatus,
    InvalidURI,
    ProtocolError,
)
from wsmini.frames import Opcode
from wsmini.http11 import Response
from wsmini.reconnect import Backoff, Fixed
from wsmini.testing import echo_server, scripted_server

CA = str(CERTS / "ca.pem")


# -- arguments --


HEADERS = {
    "plain": ("X-Name: value", [("X-Name", "value")]),
    "no space": ("X-Name:value", [("X-Name", "value")]),
    "colons in the value": ("X-Name: a:b: c", [("X-Name", "a:b: c")]),
    "semicolon in the value": ("X-Name: a;", [("X-Name", "a;")]),
    "empty": ("X-Name:", [("X-Name", "")]),
    "empty, curl's way": ("X-Name;", [("X-Name", "")]),
    "spaces around": ("  X-Name :  value  ", [("X-Name", "value")]),
}


@pytest.mark.parametrize("text, expected", HEADERS.values(), ids=HEADERS)
def test_a_header_argument(text, expected):
    assert list(arguments._headers(text)) == expected


@pytest.mark.parametrize("text", ["X-Secret hunter2", ": hunter2", "", ";", "hunter2"])
def test_what_is_no_header_is_refused_and_not_shown(text):
    with pytest.raises(ValueError, match="expected 'NAME: VALUE'") as raised:
        list(arguments._headers(text))
    assert "hunter2" not in str(raised.value)


def test_headers_from_a_file(tmp_path):
    path = tmp_path / "headers"
    path.write_bytes("A: 1\r\n\n  \nB;\nC: \N{EURO SIGN}".encode())
    assert list(arguments._headers(f"@{path}")) == [("A", "1"), ("B", ""), ("C", "\N{EURO SIGN}")]
    path.write_text("A: 1\n\nhunter2\n")
    with pytest.raises(ValueError, match="headers, line 3: expected"):
        list(arguments._headers(f"@{path}"))


WRONG = {
    "no URL": ([], "expected a URL, or --demo alone"),
    "--demo with a URL": (["--demo", "ws://localhost"], "expected a URL, or --demo alone"),
    "two URLs": (["ws://a", "ws://b"], "unrecognized arguments"),
    "unknown option": (["--nonsense"], "unrecognized arguments"),
    "no time at all": (["--timeout=0", "ws://a"], "invalid number of seconds above 0 value: '0'"),
    "negative time": (["--wait=-1", "ws://a"], "invalid number of seconds value: '-1'"),
    "time that is none": (["--idle", "nan", "ws://a"], "invalid number of seconds value: 'nan'"),
    "negative count": (["--count=-1", "ws://a"], "invalid number value: '-1'"),
    "reserved close code": (["--close-code", "1006", "ws://a"], "invalid close code"),
    "close code beyond": (["--close-code", "5000", "ws://a"], "invalid close code"),
    "long reason": (["--close-reason", "\xe9" * 62, "ws://a"], "at most 123 bytes"),
    "header without value": (["-H", "hunter2", "ws://a"], "expected 'NAME: VALUE'"),
    "header file missing": (["-H", "@/no/such/file", "ws://a"], "No such file"),
    "CA file missing": (["--cafile", "/no/such/file", "wss://a"], "no certificates in /no/such"),
    "CA file without any": (["--cafile", __file__, "wss://a"], "no certificates in"),
    "insecure without TLS": (["--insecure", "ws://a"], "are for wss:// URLs"),
    "resolve without address": (["--resolve", "a:80", "ws://a"], "expected HOST:PORT:ADDR"),
    "two places": (["--unix", "a", "--resolve", "a:80:b", "ws://a"], "exclude each other"),
    "a policy that is none": (["--reconnect=-1", "ws://a"], "invalid number of seconds"),
    "key alone": (["--key", CA, "wss://a"], "--key needs --cert"),
    "no certificate": (["--cert", CA, "wss://a"], "no certificate with its key"),
    "passphrase alone": (["--key-password-file", CA, "wss://a"], "-file needs --cert"),
    "no file with a passphrase": (
        ["--cert", CA, "--key-password-file", "/no/such/file", "wss://a"],
        "No such file",
    ),
    "proxy's CA missing": (["--proxy-cafile", "/no/such", "ws://a"], "no certificates in /no/such"),
    "no cookies in it": (["--cookie-jar", CA, "ws://a"], "does not look like a Netscape format"),
    "cookies that can't be read": (["--cookie-jar", str(CERTS), "ws://a"], "Is a directory"),
    "password alone": (["--password-file", CA, "ws://a"], "--password-file needs --user"),
    "two formats": (["--hex", "--binary", "ws://a"], "--binary and --hex exclude each other"),
    "insecure, but verify": (["--insecure", "--cafile", CA, "wss://a"], "exclude each other"),
}


@pytest.mark.parametrize("argv, message", WRONG.values(), ids=WRONG)
def test_wrong_arguments_exit_with_2_and_say_why(argv, message, capsys):
    with pytest.raises(SystemExit) as raised:
        cli.main(argv)
    assert raised.value.code == arguments.USAGE == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert "hunter2" not in printed.err
    assert not printed.out


WRONG_FOR_CONNECT = {
    "scheme": ["http://localhost"],
    "no scheme": ["localhost"],
    "port": ["ws://localhost:99999"],
    "header name": ["-H", "X Y: hunter2", "ws://localhost"],
    "line break in a header": ["-H", "X: hunter2\nY: 1", "ws://localhost"],
    "subprotocol": ["--subprotocol", "a b", "ws://localhost"],
}


@pytest.mark.parametrize("argv", WRONG_FOR_CONNECT.values(), ids=WRONG_FOR_CONNECT)
def test_what_connect_refuses_has_status_2(argv, capsys):
    assert cli.main(argv) == arguments.USAGE
    printed = capsys.readouterr()
    assert printed.err.startswith("wsmini: cannot connect: ")
    assert "hunter2" not in printed.err
    assert not printed.out


RECONNECTS = {
    "growing": (["--reconnect"], Backoff),
    "named": (["--reconnect=backoff"], Backoff),
    "fixed": (["--reconnect=3"], Fixed),
    "fixed, apart": (["--reconnect", "3"], Fixed),
}


@pytest.mark.parametrize("argv, kind", RECONNECTS.values(), ids=RECONNECTS)
def test_when_to_reconnect(argv, kind):
    """A number behind it is its own, and a URL isn't."""
    for whole in ([*argv, "ws://a"], ["ws://a", *argv]):
        args = arguments.parsed(arguments.make_parser(), whole)
        assert (type(args.reconnect), args.url) == (kind, "ws://a")


def help_text(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as raised:
        cli.main(["--help"])
    assert raised.value.code == 0
    return capsys.readouterr().out


def test_help_fits_80_columns_and_lists_every_status(capsys, monkeypatch):
    text = help_text(capsys, monkeypatch)
    assert max(map(len, text.splitlines())) < 80
    statuses = [int(number) for number in re.findall(r"(?m)^  (\d+) ", text)]
    assert statuses == [*range(8), arguments.INTERRUPTED, arguments.BROKEN_PIPE, 143]


def test_version(capsys):
    with pytest.raises(SystemExit) as raised:
        cli.main(["--version"])
    assert raised.value.code == 0
    assert re.fullmatch(r"wsmini \d+\.\d+\S*\n", capsys.readouterr().out)


def output_of(capfdbinary, *argv):
    assert cli.main(argv) == 0
    return capfdbinary.readouterr().out.decode()


def option_names():
    actions = arguments.make_parser()._actions
    return [name for action in actions for name in action.option_strings]


def test_the_documentation_has_every_option_and_status():
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert [name for name in option_names() if not re.search(rf"[`\s]{name}\b", text)] == []
    for status, meaning in arguments.STATUSES.items():
        assert f"| {status} | {meaning} |\n" in text


def test_the_manual_page_has_every_option_and_status(capfdbinary):
    text = output_of(capfdbinary, "--man")
    for name in option_names():
        assert rf"\fB{name}\fR".replace("-", r"\-") in text
    for status in arguments.STATUSES:
        assert rf"\fB{status}\fR" in text
    if shutil.which("groff"):
        check = ["groff", "-man", "-ww", "-z", "-Tascii"]
        done = subprocess.run(check, input=text.encode(), stderr=subprocess.PIPE, check=True)
        assert done.stderr == b""


COMPLETED = {
    "an option": ("wsmini --time", "--timeout --timestamps"),
    "a file": (f"wsmini --cafile {CERTS}/ca.p", f"{CERTS}/ca.pem"),
    "a shell": ("wsmini --completion z", "zsh"),
    "nothing": ("wsmini --count ", ""),
    "a value behind an equals sign": ("wsmini --completion = b", "bash"),
    "a file behind an equals sign": (f"wsmini --cafile = {CERTS}/ca.p", f"{CERTS}/ca.pem"),
    "when to reconnect": ("wsmini --reconnect = b", "backoff"),
    "when to reconnect, nothing yet": ("wsmini --reconnect =", "backoff 1 5 30 60"),
    "behind a bare --reconnect": ("wsmini --reconnect --rec", "--reconnect --record"),
}


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
@pytest.mark.parametrize("line, expected", COMPLETED.values(), ids=COMPLETED)
def test_bash_completes(line, expected, capfdbinary):
    script = output_of(capfdbinary, "--completion", "bash")
    words = " ".join(f"'{word}'" for word in line.split(" "))
    script += f"COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}}-1)); _wsmini\n"
    script += 'echo "${COMPREPLY[*]}"\n'
    done = subprocess.run(["bash", "-c", script], stdout=subprocess.PIPE, check=True)
    assert done.stdout.decode().split() == expected.split()


def test_zsh_completion_has_every_option(capfdbinary):
    script = output_of(capfdbinary, "--completion", "zsh")
    assert [n for n in option_names() if not re.search(rf"'\*{n}(=-)?\[", script)] == []
    if shutil.which("zsh"):
        subprocess.run(["zsh", "-n", "-c", script], check=True)


# -- statuses --


def in_phase(exc, phase):
    """What ``connect()`` makes of an exception."""
    exc.phase = phase
    return exc


FAILURES = {
    "timeout": (TimeoutError("it took too long"), 7),
    "name": (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), 3),
    "refused by TCP": (ConnectionRefusedError(111, "Connection refused"), 3),
    "certificate": (ssl.SSLCertVerificationError("certificate verify failed"), 4),
    "TLS": (ssl.SSLError(1, "wrong version number"), 4),
    "reset within TLS": (in_phase(ConnectionResetError(104, "reset"), "tls"), 4),
    "reset before": (in_phase(ConnectionResetError(104, "reset"), "upgrade"), 3),
    "proxy": (InvalidProxyStatus(Response(407, "Proxy Authentication Required")), 5),
    "status": (InvalidStatus(Response(403, "Forbidden")), 5),
    "no HTTP": (InvalidMessage("did not receive a valid HTTP response"), 5),
    "protocol": (ProtocolError("reserved bits"), 5),
    "URL": (InvalidURI("http://x", "scheme isn't ws or wss"), 2),
    "value": (ValueError("X: control characters"), 2),
}


@pytest.mark.parametrize("exc, status", FAILURES.values(), ids=FAILURES)
def test_the_status_of_a_failure_to_connect(exc, status):
    assert cli._failure_status(exc) == status


# -- in this process --


class Console:
    """Standard input and output for ``main()``, on memory."""

    def __init__(self, monkeypatch):
        self.monkeypatch = monkeypatch

    def run(self, *argv, data=b""):
        stdin = io.TextIOWrapper(io.BytesIO(data))
        stdout = io.TextIOWrapper(io.BytesIO())
        with self.monkeypatch.context() as patch:
            patch.setattr(sys, "stdin", stdin)
            patch.setattr(sys, "stdout", stdout)
            status = cli.main(argv)
        return status, stdout.buffer.getvalue()


@pytest.fixture
def console(monkeypatch):
    return Console(monkeypatch)


@pytest.fixture
def echo():
    with echo_server(subprotocols=["chat"]) as server:
        yield server


def test_nobody_reads_the_notes(console, monkeypatch):
    def broken(text, mark=""):
        raise BrokenPipeError

    monkeypatch.setattr(cli, "note", broken)
    assert console.run("http://localhost") == (arguments.BROKEN_PIPE, b"")


def test_main_can_be_called(console, echo):
    assert console.run(echo.url, "--idle=0", data=b"a\nb\n") == (0, b"a\nb\n")


def test_what_is_asked_for_goes_into_the_handshake(console, echo, tmp_path):
    (tmp_path / "headers").write_text("X-File: 2\n")
    status, _ = console.run(
        *("-H", "X-One: 1", "-H", "X-Empty;", "-H", f"@{tmp_path / 'headers'}"),
        *("--origin", "https://example.com", "--subprotocol", "other", "--subprotocol", "chat"),
        *("--no-compression", "--idle=0", f"{echo.url}/path?query"),
    )
    assert status == 0
    (request,) = echo.requests
    assert request.target == "/path?query"
    values = {name: request.headers.get(name) for name in ("X-One", "X-Empty", "X-File", "Origin")}
    expected = {"X-One": "1", "X-Empty": "", "X-File": "2", "Origin": "https://example.com"}
    assert values == expected
    assert request.headers["Sec-WebSocket-Protocol"] == "other, chat"
    assert "Sec-WebSocket-Extensions" not in request.headers


def test_an_error_of_ours_in_the_input_thread_is_not_hidden(console, echo, monkeypatch):
    monkeypatch.setattr(session, "reading_for", lambda args: lambda read: iter([None]))
    with pytest.raises(TypeError):
        console.run(echo.url)


# -- the process on pipes --


def test_replies_are_not_lost_at_the_end_of_input(echo):
    assert run(echo.url, "--idle=0", data=b"one\r\n\ntwo") == (0, b"one\n\ntwo\n", "")


PIPES = {
    "text as it is": (["--idle=0"], "\x1b[31m\xe9\t\r!\n".encode(), "\x1b[31m\xe9\t\r!\n".encode()),
    "binary in hex": (["--idle=0", "--binary"], b"\x00\xff\r\n", b"00ff0d0a\n"),
    "raw binary": (["--idle=0", "--binary", "--raw"], b"\x00\xff\r\n", b"\x00\xff\r\n"),
    "raw text": (["--idle=0", "--raw"], b"a\nb\n", b"ab"),
    "no binary input": (["--idle=0", "--binary"], b"", b""),
    "messages": (["--idle=0", "-m", "a\nb", "-m", ""], b"unread\n", b"a\nb\n\n"),
    "messages, then input": (["--idle=0", "-m", "a", "-i"], b"b\n", b"a\nb\n"),
    "binary messages": (["--idle=0", "-m", "\xe9", "--binary"], b"", b"c3a9\n"),
    "count before the end": (["--count=2"], b"a\nb\nc\nd\n", b"a\nb\n"),
    "count and wait": (["--count=1", "--wait=inf"], b"a\n", b"a\n"),
}


@pytest.mark.parametrize("argv, data, expected", PIPES.values(), ids=PIPES)
def test_pipes(argv, data, expected, echo):
    assert run(echo.url, *argv, data=data) == (0, expected, "")


def test_the_locale_does_not_matter_to_pipes(echo):
    env = environment(LC_ALL="C", PYTHONCOERCECLOCALE="0", PYTHONUTF8="0")
    data = "\xe9\U0001f600\n".encode()
    assert run(echo.url, "--idle=0", data=data, env=env) == (0, data, "")
    argv = ["-m", data.decode()[:-1], "--close-reason=\xe9", "-n1"]
    assert run(echo.url, *argv, env={**env, "LC_ALL": "C.UTF-8"}) == (0, data, "")
    if os.name == "posix":
        assert run(echo.url, *map(os.fsencode, argv), env=env) == (0, data, "")
        status, _, stderr = run(echo.url, "-m", b"\xff")
        assert status == 2 and "argument -m/--message: invalid UTF-8 value" in stderr


@posix_only
def test_non_blocking_pipes_are_an_error(echo):
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    try:
        status, stdout, stderr = run(echo.url, stdin=reading)
    finally:
        os.close(reading)
        os.close(writing)
    assert (status, stdout) == (1, b"")
    assert stderr.startswith("wsmini: standard input: it is in non-blocking mode")


def test_large_binary_input_is_one_message(echo):
    data = os.urandom(3_000_000)
    argv = ["--binary", "--raw", "--max-size=0", "--count=1"]
    assert run(echo.url, *argv, data=data) == (0, data, "")


def test_many_lines_in_order(echo):
    data = b"".join(b"%d\n" % number for number in range(5000))
    assert run(echo.url, "--count=5000", data=data) == (0, data, "")


def test_no_input_at_all(echo):
    with open(os.devnull) as null:
        assert run(echo.url, "--idle=0", stdin=null) == (0, b"", "")


def redirected(redirection, *argv):
    """Run it in a shell, since subprocess can't start a process with a closed descriptor."""
    shell = ["sh", "-c", f'exec "$@" {redirection}', "sh", *command(*argv)]
    done = subprocess.run(
        shell, env=environment(), input=b"a\n", stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        timeout=PATIENCE,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr.decode()


@posix_only
def test_closed_standard_input_is_no_input(echo):
    assert redirected("<&-", echo.url, "--idle=0") == (0, b"", "")


WRITING = {
    "messages": ["{url}"],
    "a measurement": ["{url}", "--bench=0.03"],
    "a demonstration": ["--demo"],
    "a manual page": ["--man"],
}


@posix_only
@pytest.mark.parametrize("argv", WRITING.values(), ids=WRITING)
@pytest.mark.parametrize("place, problem", [("&-", "it is closed"), ("/dev/full", "[Errno 28] No")])
def test_standard_output_that_takes_nothing_is_an_error(argv, place, problem, echo):
    if place == "/dev/full" and not os.path.exists(place):
        pytest.skip("needs /dev/full")
    argv = [argument.format(url=echo.url) for argument in argv]
    status, stdout, stderr = redirected(f">{place}", *argv)
    assert (status, stdout) == (1, b"")
    assert re.fullmatch(rf"wsmini: standard output: {re.escape(problem)}.*\n", stderr), stderr
    assert "None" not in stderr


@posix_only
def test_closed_standard_error_spoils_nothing(echo):
    assert redirected("2>&-", echo.url, "--idle=0", "-v") == (0, b"a\n", "")


@posix_only
def test_standard_input_that_cannot_be_read_is_an_error(echo):
    with open(os.devnull, "wb") as unreadable:
        status, stdout, stderr = run(echo.url, stdin=unreadable)
    assert (status, stdout) == (1, b"")
    assert re.fullmatch(r"wsmini: standard input: .*Bad file descriptor\n", stderr)


def test_input_that_is_not_utf8_is_an_error(echo):
    status, stdout, stderr = run(echo.url, data=b"a\n\xff\n")
    assert status == 1
    assert stdout in (b"", b"a\n")
    assert stderr.startswith("wsmini: standard input: not UTF-8 ")


def answering(text, event=None):
    """A script that answers the first message, and the ping after that, when *event* is set."""

    def script(peer):
        peer.accept()
        assert peer.recv_frame().opcode == Opcode.TEXT
        ping = peer.recv_frame()
        assert ping.opcode == Opcode.PING
        if event is not None:
            assert event.wait(PATIENCE)
        peer.send_message(text)
        peer.send_frame(Opcode.PONG, ping.data)
        assert peer.recv_frame().opcode == Opcode.CLOSE
        peer.send_frame(Opcode.CLOSE, b"\x03\xe8")

    return script


def test_silence_begins_when_the_server_has_answered_a_ping():
    with scripted_server(answering("late")) as server:
        assert run(server.url, "--idle=0", data=b"question\n") == (0, b"late\n", "")


def test_a_reply_is_flushed_at_once(echo):
    process = start(echo.url, "--count=2")
    for line in (b"a\n", b"b\n"):
        process.stdin.write(line)
        process.stdin.flush()
        assert process.stdout.readline() == line
    assert finish(process) == (0, b"", "")


def closing(code, reason="", messages=("last",)):
    """A script that sends something, and then a Close frame."""

    def script(peer):
        peer.accept()
        for message in messages:
            peer.send_message(message)
        if code is None:
            peer.send_frame(Opcode.CLOSE)
            assert peer.recv_frame().opcode == Opcode.CLOSE
        else:
            peer.close(code, reason)

    return script


CODES = {
    "1000": (1000, 0, ""),
    "1001": (1001, 0, ""),
    "no code": (None, 0, ""),
    "1008": (1008, 6, "1008 (policy violation) no"),
    "1011": (1011, 6, "1011 (internal error) no"),
    "4001": (4001, 6, "4001 (private use) no"),
}


@pytest.mark.parametrize("code, status, note", CODES.values(), ids=CODES)
def test_the_close_code_decides_the_status(code, status, note):
    # Standard input stays open: the process must not wait for its end.
    with scripted_server(closing(code, "no")) as server:
        result = finish(start(server.url))
    assert result[:2] == (status, b"last\n")
    if note:
        assert result[2].startswith(f"wsmini: connection closed: received {note}")
    else:
        assert result[2] == ""


def test_the_reason_cannot_drive_the_terminal():
    with scripted_server(closing(4000, "\x1b[2J\nwsmini: fake")) as server:
        status, _, stderr = run(server.url, "--wait=inf")
    assert status == 6
    assert "\x1b" not in stderr and stderr.count("\n") == 1


def test_a_lost_connection_is_abnormal():
    def script(peer):
        peer.accept()
        peer.send_message("last")

    with scripted_server(script) as server:
        status, stdout, stderr = run(server.url, "--wait=inf")
    assert (status, stdout) == (6, b"last\n")
    assert stderr.startswith("wsmini: connection closed: no close frame received or sent (")
    assert stderr.count("the server ended the connection") == 1


def test_a_message_that_is_too_big_is_abnormal(echo):
    status, stdout, stderr = run(echo.url, "--max-size=4", data=b"four\nfive!\n")
    assert (status, stdout) == (6, b"four\n")
    assert " 5 bytes exceed the limit of 4 bytes (--max-size); no" in stderr


def test_input_that_could_not_be_sent_is_no_success():
    with scripted_server(closing(1000, messages=())) as server:
        status, _, stderr = run(server.url, data=b"0123456789abcde\n" * 2_000_000)
    assert status == 6
    assert "wsmini: the connection was closed before all input was sent\n" in stderr


def test_the_close_code_and_reason_are_ours(echo):
    received = []

    def script(peer):
        peer.accept()
        frame = peer.recv_frame()
        received.append(frame.data)
        peer.send_frame(Opcode.CLOSE, frame.data[:2])

    with scripted_server(script) as server:
        argv = [server.url, "--wait=0", "--close-code=4242", "--close-reason=enough"]
        assert run(*argv) == (0, b"", "")
    assert received == [(4242).to_bytes(2, "big") + b"enough"]


@posix_only
def test_a_broken_pipe_ends_it_quietly(echo):
    def script(peer):
        peer.accept()
        for number in range(10**9):
            peer.send_message(f"{number}")

    with scripted_server(script) as server:
        process = start(server.url)
        assert process.stdout.readline() == b"0\n"
        process.stdout.close()
        assert finish(process) == (arguments.BROKEN_PIPE, b"", "")


@posix_only
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_closes_the_connection_quietly(number):
    closes = []

    def script(peer):
        peer.accept()
        peer.send_message("ready")
        close = peer.recv_frame()
        closes.append((close.opcode, close.data[:2]))
        peer.send_frame(Opcode.CLOSE, close.data)

    with scripted_server(script) as server:
        process = start(server.url)
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(number)
        assert finish(process) == (128 + number, b"", "")
    assert closes == [(Opcode.CLOSE, b"\x03\xe8")]


@pytest.mark.parametrize("blocked", ["readline", "zlib", "ssl", "json"])
def test_modules_that_small_systems_lack(blocked, echo):
    program = f"import runpy, sys; sys.modules[{blocked!r}] = None\n" \
        "runpy.run_module('wsmini', run_name='__main__', alter_sys=True)"
    done = subprocess.run(
        [sys.executable, "-c", program, echo.url, "--idle=0"], env=environment(), input=b"a\n",
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=PATIENCE,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, b"a\n", b"")


# -- reconnecting --


def test_it_connects_again_and_goes_on():
    replies = iter("ab")

    def script(peer):
        peer.accept()
        assert peer.recv_message() == "subscribe"
        letter = next(replies)
        peer.send_message(letter)
        peer.close(1012 if letter == "a" else 4001)

    with scripted_server(script) as server:
        argv = [server.url, "--reconnect=0.01", "-m", "subscribe", "--wait=inf"]
        status, stdout, stderr = run(*argv)
    assert (status, stdout) == (6, b"a\nb\n")
    assert "connecting again in 0.0 s" in stderr.splitlines()[0]


def test_input_goes_over_the_next_connection():
    served = []

    def script(peer):
        peer.accept()
        served.append(peer)
        if len(served) == 1:
            peer.send_message("first")
            peer.close(1012)
        else:
            peer.send_message(peer.recv_message())
            peer.close(1000)

    with scripted_server(script) as server:
        process = start("--reconnect=0.01", server.url)
        assert process.stdout.readline() == b"first\n"
        while len(served) < 2:
            time.sleep(0.01)
        process.stdin.write(b"x\n")
        process.stdin.flush()
        status, stdout, _ = finish(process)
    assert (status, stdout) == (0, b"x\n")


def test_what_cannot_help_is_not_tried_again(echo):
    with scripted_server(refusing) as server:
        assert run("--reconnect", server.url)[0] == 5
        assert server.connections == 1


# -- formats --

BAD_INPUT = {
    "hex": (["--hex"], b"0g\n", "isn't hexadecimal"),
    "base64": (["--base64"], b"A\n", "isn't base64"),
    "json": (["--ndjson"], b"[]\n", "isn't JSON with a"),
    "type": (["--ndjson"], b'{"payload": "", "type": "x"}\n', "neither text nor binary"),
    "text": (["--text"], b"a\xff", "not UTF-8"),
}


@pytest.mark.parametrize("argv, data, problem", BAD_INPUT.values(), ids=BAD_INPUT)
def test_input_that_cannot_be_read_that_way(argv, data, problem, echo):
    status, stdout, stderr = run(echo.url, *argv, data=data)
    assert (status, b"received" in stdout) == (1, False)
    assert stderr.startswith("wsmini: standard input: ") and problem in stderr


def test_a_file_in_and_a_file_out(echo, tmp_path):
    data = os.urandom(3_000_000)
    (tmp_path / "in").write_bytes(data)
    argv = ["--binary", "--raw", "--max-size=0", "--count=1"]
    files = [f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'out'}"]
    assert run(echo.url, *argv, *files, data=b"unread") == (0, b"", "")
    assert (tmp_path / "out").read_bytes() == data


def test_files_that_are_not_there(echo, tmp_path):
    status, stdout, stderr = run(echo.url, f"--input={tmp_path / 'none'}")
    assert (status, stdout) == (1, b"")
    assert "No such file" in stderr
    status, stdout, stderr = run(echo.url, f"--output={tmp_path / 'none' / 'out'}")
    assert (status, stdout) == (1, b"")
    assert stderr.startswith("wsmini: cannot write: ")


def test_large_input_needs_constant_memory():
    sizes = []

    def script(peer):
        peer.accept()
        frame = peer.recv_frame()
        sizes.append(len(frame.data))
        while not frame.fin:
            frame = peer.recv_frame()
            sizes.append(len(frame.data))
        peer.close(1000)

    limited = "import resource, runpy, sys\n" \
        "resource.setrlimit(resource.RLIMIT_DATA, (60 << 20,) * 2)\n" \
        "runpy.run_module('wsmini', run_name='__main__', alter_sys=True)\n"
    with scripted_server(script) as server:
        argv = [server.url, "--binary", "--input=/dev/stdin", "--no-compression"]
        done = subprocess.run(
            [sys.executable, "-c", limited, *argv], env=environment(), input=bytes(200 << 20),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=PATIENCE,
        )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert sum(sizes) == 200 << 20


def test_a_record_has_the_session_without_its_secrets(echo, tmp_path):
    path = tmp_path / "record"
    argv = ["--record", str(path), "-H", "Authorization: hunter2", "--idle=0"]
    url = echo.url.replace("//", "//me:hunter2@") + "/?token=hunter2"
    assert run(url, *argv, data=b"a\n") == (0, b"a\n", "")
    text = path.read_text()
    assert "hunter2" not in text
    opened, *messages, close = [json.loads(line) for line in text.splitlines()]
    assert opened["type"] == "open"
    shown = [(m["direction"], m["type"], m["payload"]) for m in messages]
    assert shown == [("sent", "text", "a"), ("received", "text", "a")]
    close.pop("time")
    assert close == {"type": "close", "direction": "sent", "code": 1000, "reason": ""}
    assert path.stat().st_mode & 0o77 == 0 or os.name != "posix"


# -- ways to connect --


def test_a_proxy_is_used(echo):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        proxy = f"http://127.0.0.1:{unused.getsockname()[1]}"
        status, _, stderr = run(echo.url, f"--proxy={proxy}")
    assert status == 3 and "proxy" in stderr


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="needs Unix sockets")
def test_a_unix_socket(tmp_path):
    status, _, stderr = run("ws://localhost", f"--unix={tmp_path / 'none'}")
    assert status == 3 and str(tmp_path) in stderr


# -- failing to connect --


def test_the_server_does_not_speak_tls():
    plain = b"HTTP/1.1 400 Bad Request\r\n\r\n"
    with scripted_server(lambda peer: peer.send_raw(plain)) as server:
        status, stdout, stderr = run(server.url.replace("ws:", "wss:"))
    assert (status, stdout) == (4, b"")
    assert stderr.startswith("wsmini: cannot connect: ")


def refusing(peer):
    peer.respond(403, "Forbidden", {"Set-Cookie": "hunter2"}, b"Not you,\x1b[2J\nagain.")


def test_a_refusal_in_all_detail():
    with scripted_server(refusing) as server:
        status, _, stderr = run(server.url, "-v")
    assert status == 5
    lines = stderr.splitlines()
    assert lines[1] == "< HTTP/1.1 403 Forbidden"
    assert "< Set-Cookie: ***" in lines
    assert lines[-2:] == ["< Not you,\\x1b[2J", "< again."]


def test_a_page_of_html_is_not_shown():
    with scripted_server(lambda peer: peer.respond(404, "Not Found", body=b"<html>")) as server:
        status, _, stderr = run(server.url)
    assert status == 5
    assert len(stderr.splitlines()) == 1


def test_verbose_shows_the_handshake_without_its_secrets(echo):
    argv = ["-v", "--subprotocol=chat", "-H", "Authorization: Bearer hunter2", "--idle=0"]
    status, stdout, stderr = run(*argv, echo.url.replace("//", "//me:hunter2@"), data=b"a\n")
    assert (status, stdout) == (0, b"a\n")
    lines = stderr.splitlines()
    assert lines[0] == "> GET / HTTP/1.1"
    assert "> Authorization: ***" in lines
    assert "< HTTP/1.1 101 Switching Protocols" in lines
    assert "* subprotocol: chat" in lines
    assert "* extensions: none" in lines
    assert lines[-1].startswith("wsmini: connection closed: sent 1000 (normal closure)")
    assert "hunter2" not in stderr


def test_verbose_shows_the_extensions():
    pytest.importorskip("zlib")
    with echo_server(compression=True) as server:
        status, stdout, stderr = run(server.url, "-v", "--idle=0", data=b"a\n")
    assert (status, stdout) == (0, b"a\n")
    assert "* extensions: permessage-deflate" in stderr.splitlines()


def test_hints_have_what_is_replaced_in_them():
    source = (ROOT / "wsmini" / "diagnosis.py").read_text()
    assert [n for n in cli._OPTIONS if n.replace("proxy_", "") not in source] == []


@posix_only
def test_a_demo_that_nobody_reads():
    reading, writing = os.pipe()
    os.close(reading)
    try:
        assert run("--demo", stdout=writing) == (arguments.BROKEN_PIPE, None, "")
    finally:
        os.close(writing)


def test_demo():
    status, stdout, stderr = run("--demo")
    lines = stdout.decode().splitlines()
    assert (status, stderr) == (0, "")
    assert "open  HTTP 101 Switching Protocols" in lines
    assert "sent  Hello!" in lines
    assert "close 1000 (normal closure)" in lines
    assert all(line.isascii() for line in lines)


# -- on a terminal --


NORMAL = "1000 (normal closure)"
GOODBYE = f"wsmini: connection closed: sent {NORMAL}; then received {NORMAL}"


@needs_pty
def test_a_conversation_on_a_terminal(echo):
    with Terminal(echo.url, columns=100) as terminal:
        terminal.wait_for("\n>")
        terminal.type("hello\r")
        terminal.wait_for("> hello\n< hello\n>")
        terminal.type("\r")  # sends nothing
        terminal.wait_for(">\n>")
        terminal.type("h\xe9\r")
        terminal.wait_for("> h\xe9\n< h\xe9\n>")
        terminal.type("\x04")
        assert terminal.end() == 0
        assert terminal.text.endswith(f">\n{GOODBYE}")


@needs_pty
def test_commands_on_a_terminal(echo, tmp_path):
    (tmp_path / "file").write_bytes(b"\x01\x02")
    with Terminal(echo.url, columns=100, rows=30) as terminal:
        terminal.wait_for("\n>")
        terminal.type("/ping\r")
        terminal.wait_for(" ms\n>")
        assert re.search(r"> /ping\n\* pong after \d+\.\d\d ms\n>$", terminal.text)
        terminal.type(f"/binary {tmp_path / 'file'}\r")
        terminal.wait_for("< [2 bytes] 0102\n>")
        terminal.type("/hex 00 ff\r")
        terminal.wait_for("< [2 bytes] 00ff\n>")
        terminal.type("//x\r")
        terminal.wait_for("< /x\n>")
        for wrong, answer in (
            ("/hex 0g", "* /hex: a line isn't hexadecimal"),
            ("/binary /no/such", "* /binary: [Errno 2] No such file"),
            ("/close 1006", "* /close: wrong arguments"),
            ("/nonsense", "* there is no command /nonsense"),
        ):
            terminal.type(f"{wrong}\r")
            while answer not in terminal.text:
                assert terminal.read(PATIENCE), terminal.text
            terminal.wait_for("\n>")  # or the next line is echoed before there is a prompt
        terminal.type("/help\r")
        terminal.wait_for("show this\n>")
        terminal.type("/close 4001 bye\r")
        assert terminal.end() == 6
        assert "sent 4001 (private use) bye" in terminal.text


@needs_pty
def test_the_history_is_kept_but_no_secrets(echo, tmp_path):
    pytest.importorskip("readline")
    path = tmp_path / "history"
    for first in (True, False):
        with Terminal(echo.url, columns=100, history=str(path)) as terminal:
            terminal.wait_for("\n>")
            if first:
                for line in ("my password is hunter2", " with a space", "kept"):
                    terminal.type(f"{line}\r")
                    terminal.wait_for(f"< {line}\n>")
            else:
                terminal.type("\x10\r")  # the previous one
                terminal.wait_for("> kept\n< kept\n>")
            terminal.type("\x04")
            assert terminal.end() == 0
        assert path.stat().st_mode & 0o77 == 0
    assert path.read_text() == "kept\nkept\n"


@needs_pty
@pytest.mark.parametrize("no_color", ["", "1"])
def test_colors(no_color, echo):
    with Terminal(echo.url, no_color=no_color) as terminal:
        terminal.wait_for("\n>")
        terminal.type("a\r")
        terminal.wait_for("< a\n>")
        assert (b"\x1b[36m" in terminal.output) is (not no_color)
        terminal.type("\x04")
        assert terminal.end() == 0


@pytest.fixture
def pushed():
    with Pushed() as pushed:
        yield pushed


EDITORS = {"with readline": "", "without readline": "readline"}


@needs_pty
@pytest.mark.parametrize("blocked", EDITORS.values(), ids=EDITORS)
def test_messages_appear_above_the_line_being_typed(blocked, pushed):
    with Terminal(pushed.server.url, blocked=blocked) as terminal:
        terminal.wait_for("\n>")
        terminal.type("half ty")
        terminal.wait_for("> half ty")
        before = terminal.screen
        pushed.push("news", "more\nlines\tand \x1b[2J", b"\x01\x02", "x" * 50)
        shown = ["< news", "< more", "  lines and \\x1b[2J", "< [2 bytes] 0102"]
        wrapped = ["< " + "x" * 38, "x" * 12]
        terminal.wait_for("\n".join([*shown, *wrapped, "> half ty"]))
        assert terminal.screen.cursor == (7, before.cursor[1])
        terminal.type("ped\r")
        terminal.wait_for("> half typed\n>")
        terminal.type("\x04")
        assert terminal.end() == 0
    assert pushed.received == ["half typed"]


@needs_pty
def test_notes_appear_above_the_line_being_typed(pushed):
    with Terminal(pushed.server.url, "-vv", columns=100) as terminal:
        terminal.wait_for("\n>")
        terminal.type("half ty")
        terminal.wait_for("> half ty")
        pushed.push("news")
        terminal.wait_for("\n< TEXT FIN 4 bytes 'news'\n< news\n> half ty")
        terminal.type("ped\r")
        terminal.wait_for("> TEXT FIN 10 bytes 'half typed'\n>")
        terminal.type("\x04")
        assert terminal.end() == 0


@needs_pty
def test_the_cursor_stays_in_the_middle_of_the_line(pushed):
    pytest.importorskip("readline")
    with Terminal(pushed.server.url) as terminal:
        terminal.wait_for("\n>")
        terminal.type("hd typed\x01\x06")  # to the start, one to the right
        terminal.wait_for("> hd typed")
        pushed.push(*(f"message {number}" for number in range(20)))
        terminal.wait_for("< message 18\n< message 19\n> hd typed")
        assert terminal.text.count("\n") == 7
        terminal.type("al")
        terminal.wait_for("> hald typed")
        terminal.type("f\x04 \r")  # Ctrl-D in a line deletes
        terminal.wait_for("> half  typed\n>")
        terminal.type("\x04")
        assert terminal.end() == 0
    assert pushed.received == ["half  typed"]


@needs_pty
def test_a_message_taller_than_the_screen(pushed):
    with Terminal(pushed.server.url, rows=4) as terminal:
        terminal.wait_for("\n>")
        terminal.type("typed")
        terminal.wait_for("> typed")
        pushed.push("\n".join(map(str, range(11))))
        terminal.wait_for("  8\n  9\n  10\n> typed")


@needs_pty
def test_a_line_longer_than_the_terminal(pushed):
    pytest.importorskip("readline")
    with Terminal(pushed.server.url, columns=20) as terminal:
        terminal.wait_for("\n>")
        line = "a line that is longer than its row"
        terminal.type(line)
        terminal.wait_for("its row")
        shown = terminal.text.splitlines()[-1]
        pushed.push("news")
        terminal.wait_for(f"< news\n{shown}")
        terminal.type("!\r")
        terminal.wait_for("\n>")
        terminal.type("\x10")  # the previous one in the history
        terminal.wait_for("its row!")
        terminal.type("\r\x04")
        assert terminal.end() == 0
    assert pushed.received == [f"{line}!"] * 2


@needs_pty
def test_a_terminal_without_cursor_movements(pushed):
    pytest.importorskip("readline")
    with Terminal(pushed.server.url, term="dumb") as terminal:
        terminal.wait_for("\n>")
        terminal.type("half ty")
        terminal.wait_for("> half ty")
        pushed.push("news")
        terminal.wait_for("> half ty\n< news\n> half ty")
        terminal.type("ped\r\x04")
        assert terminal.end() == 0
    assert pushed.received == ["half typed"]


@needs_pty
@pytest.mark.parametrize("blocked", EDITORS.values(), ids=EDITORS)
def test_the_server_closes_while_a_line_is_typed(blocked, pushed):
    with Terminal(pushed.server.url, blocked=blocked, columns=100) as terminal:
        terminal.wait_for("\n>")
        terminal.type("half")
        terminal.wait_for("> half")
        pushed.close(4001, "bye")
        assert terminal.end() == arguments.ABNORMAL
        closed = "received 4001 (private use) bye; then sent 4001 (private use) bye"
        assert terminal.text.endswith(f"> half\nwsmini: connection closed: {closed}")


@needs_pty
@pytest.mark.parametrize("blocked", EDITORS.values(), ids=EDITORS)
def test_interrupting_a_line_being_typed(blocked, pushed):
    with Terminal(pushed.server.url, blocked=blocked) as terminal:
        terminal.wait_for("\n>")
        terminal.type("half")
        terminal.wait_for("> half")
        terminal.type("\x03")
        assert terminal.end() == arguments.INTERRUPTED
        assert "Traceback" not in terminal.text


@needs_pty
def test_messages_go_before_the_typing(echo):
    with Terminal(echo.url, "-m", "first", "-i", "--binary") as terminal:
        terminal.wait_for("< [5 bytes] 6669727374\n>")
        terminal.type("x\r\x04")
        assert terminal.end() == 0


@needs_pty
def test_a_terminal_for_input_alone(echo):
    with Terminal(echo.url, "--count=1", stdout=subprocess.PIPE) as terminal:
        terminal.type("hello\n")
        assert terminal.end() == 0
        with terminal.process.stdout as stdout:
            assert stdout.read() == b"hello\n"
        assert terminal.text == "hello"  # what the terminal itself shows of the typing


@needs_pty
def test_raw_output_does_not_go_to_a_terminal():
    with Terminal("--raw", "ws://127.0.0.1", columns=100) as terminal:
        assert terminal.end() == arguments.USAGE
        assert "redirect standard output" in terminal.text
