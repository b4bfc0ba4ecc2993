"""The command line in this process: its arguments, its statuses, and ``main()`` on memory.

``programs/test_cli`` runs it as a process.
"""

from __future__ import annotations

import io
import re
import socket
import ssl
import sys

import pytest
from helpers import CERTS, ROOT
from tables import each_row

from wsmini.cli import arguments, output, session
from wsmini.cli import program as cli
from wsmini.exceptions import (
    InvalidMessage,
    InvalidProxyStatus,
    InvalidStatus,
    InvalidURI,
    ProtocolError,
)
from wsmini.policies import Backoff, Fixed
from wsmini.sansio.http11 import Response
from wsmini.testing import echo_server

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


VALUES = {
    "message": (["-m", "--"], "message", ["--"]),
    "message behind =": (["--message=--"], "message", ["--"]),
    "origin": (["--origin", "--"], "origin", "--"),
    "negative": (["-m", "-5"], "message", ["-5"]),
}


@pytest.mark.parametrize("argv, name, value", VALUES.values(), ids=VALUES)
def test_an_option_takes_what_comes_next(argv, name, value):
    args = arguments.parsed(arguments.make_parser(), [*argv, "ws://a"])
    assert getattr(args, name) == value and args.url == "ws://a"


def test_files_of_windows(tmp_path):
    (tmp_path / "file").write_bytes(b"\xef\xbb\xbfA: 1\r\n")
    assert list(arguments._headers(f"@{tmp_path / 'file'}")) == [("A", "1")]
    assert arguments._first_line(str(tmp_path / "file")) == "A: 1"


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
    "a header that is --": (["-H", "--", "ws://a"], "expected 'NAME: VALUE'"),
    "an address that is --": (["--resolve", "--", "ws://a"], "expected HOST:PORT:ADDR"),
    "a number that is --": (["-n", "--", "ws://a"], "invalid number value: '--'"),
    "an end without another": (["--end-after-1000", "ws://a"], "needs --reconnect"),
    "insecure, but verify": (["--insecure", "--cafile", CA, "wss://a"], "exclude each other"),
}


@pytest.mark.parametrize("argv, message", WRONG.values(), ids=WRONG)
def test_wrong_arguments_exit_with_2_and_say_why(argv, message, capsys):
    with pytest.raises(SystemExit) as raised:
        cli.main(argv)
    assert raised.value.code == arguments.Status.USAGE == 2
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
    assert cli.main(argv) == arguments.Status.USAGE
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
    assert statuses == [*range(8), 130, 141, 143]


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
    for status in arguments.Status:
        assert f"| {status:d} | {status.meaning} |\n" in text


def test_the_manual_page_has_every_option_and_status(capfdbinary):
    text = output_of(capfdbinary, "--man")
    for name in option_names():
        assert rf"\fB{name}\fR".replace("-", r"\-") in text
    for status in arguments.Status:
        assert rf"\fB{status:d}\fR" in text


def test_zsh_completion_has_every_option(capfdbinary):
    script = output_of(capfdbinary, "--completion", "zsh")
    assert [n for n in option_names() if not re.search(rf"'\*{n}(=-)?\[", script)] == []


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


@each_row("exc, status", FAILURES.values(), ids=FAILURES)
def test_the_status_of_a_failure_to_connect(exc, status):
    assert output._failure_status(exc) == status


# -- main() --


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

    monkeypatch.setattr(output, "note", broken)
    assert console.run("http://localhost") == (arguments.Status.BROKEN_PIPE, b"")


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
    monkeypatch.setattr(session, "messages_in", lambda read, args: iter([None]))
    with pytest.raises(TypeError):
        console.run(echo.url)


def test_hints_have_what_is_replaced_in_them():
    source = (ROOT / "wsmini" / "opening" / "hints.py").read_text()
    assert [n for n in output._OPTIONS if n.replace("proxy_", "") not in source] == []
