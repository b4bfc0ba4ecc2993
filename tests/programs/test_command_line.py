"""What people do with a command-line client: each by the real process, on pipes and a terminal.

``test_cli`` has the details of each option; here is what needs more than an echo server: proxies,
certificates, secrets that are typed, and terminals that change while somebody types.
"""

from __future__ import annotations

import http.cookiejar
import json
import os
import re
import shlex
import shutil
import signal
import ssl
import subprocess
import threading
import time

import doc_servers
import pytest
from certificates import server_context
from helpers import CERTS, PATIENCE
from programs.terminals import (
    Terminal,
    command,
    environment,
    finish,
    lose,
    needs_pty,
    posix_only,
    recorded,
    run,
    start,
)

from wsmini.cli import arguments
from wsmini.sansio.frames import Opcode
from wsmini.testing import echo_server, replay, scripted_server

CA, CLIENT = str(CERTS / "ca.pem"), str(CERTS / "client.pem")
ENCRYPTED = str(CERTS / "client-key-encrypted.pem")
HELLO = ["-m", "hello", "--count=1"]


def shown_by(*argv):
    """What a terminal shows of a process that ends by itself with the status 0."""
    with Terminal(*argv, columns=100, rows=50) as terminal:
        assert terminal.end() == 0, terminal.text
        return terminal.text


# -- the handshake --


def setting(value, *messages):
    """A script that sets a cookie, sends what cookies it got, and closes."""

    def script(peer):
        cookie = peer.request().headers.get("Cookie")
        peer.accept(headers={"Set-Cookie": value})
        peer.send_message(cookie or "none")
        peer.close()

    return script


def test_a_jar_keeps_cookies_from_one_run_to_the_next(tmp_path):
    jar = tmp_path / "jar"
    with scripted_server(setting("session=hunter2")) as server:
        assert run(server.url, "-c", str(jar), "--wait=inf") == (0, b"none\n", "")
        assert os.name != "posix" or jar.stat().st_mode & 0o77 == 0
        written = jar.stat().st_mtime_ns
        assert run(server.url, "-c", str(jar), "--wait=inf") == (0, b"session=hunter2\n", "")
    assert jar.stat().st_mtime_ns == written, "nothing changed, and it was written"
    # Others read it, too.
    loaded = http.cookiejar.MozillaCookieJar(str(jar))
    loaded.load(ignore_discard=True)
    assert [(cookie.name, cookie.value) for cookie in loaded] == [("session", "hunter2")]


def test_a_jar_that_cannot_be_written(tmp_path):
    with scripted_server(setting("session=hunter2")) as server:
        path = str(tmp_path / "none" / "jar")
        status, stdout, stderr = run(server.url, "-c", path, "--wait=inf")
    assert (status, stdout) == (1, b"none\n")
    assert re.fullmatch(r"wsmini: cannot write: .*No such file.*\n", stderr)


@pytest.mark.skipif(os.name != "posix", reason="modes and links are POSIX's")
def test_a_jar_is_for_its_user_alone(tmp_path):
    jar, link = tmp_path / "jar", tmp_path / "link"
    link.symlink_to(jar)
    with scripted_server(setting("session=hunter2")) as server:

        def ask(path):
            status, stdout, stderr = run(server.url, "-c", str(path), "--wait=inf")
            assert stdout == b"none\n"
            return status, stderr.replace(str(tmp_path), "")

        assert ask(link)[0] == 1
        assert not jar.exists()
        jar.touch(0o666)
        jar.chmod(0o666)
        assert ask(jar) == (
            1, "wsmini: cannot write: others own '/jar' or may write to it: it isn't used\n",
        )  # fmt: skip
        jar.chmod(0o644)
        assert ask(jar) == (0, "")
    assert jar.stat().st_mode & 0o77 == 0


# -- ways to the server --


def secure_server(context=None):
    return echo_server(ssl=context or server_context())


def test_the_proxy_of_the_environment_and_none(echo):
    with doc_servers.Proxy(doc_servers.http_connect) as proxy:
        env = environment(http_proxy=f"http://user:password@{proxy.address}", no_proxy="")
        assert run(echo.url, *HELLO, env=env) == (0, b"hello\n", "")
        assert proxy.used == 1
        assert run(echo.url, "--proxy=none", *HELLO, env=env) == (0, b"hello\n", "")
        assert proxy.used == 1


# -- certificates --


@pytest.fixture
def mutual():
    with secure_server(doc_servers.mutual_context()) as server:
        yield server


def test_a_key_with_a_passphrase_from_a_file(mutual, tmp_path):
    (tmp_path / "passphrase").write_text("passphrase\n")
    (tmp_path / "wrong").write_text("hunter2\n")
    argv = [mutual.url, "--cafile", CA, "--cert", CLIENT, "--key", ENCRYPTED, *HELLO]
    right = f"--key-password-file={tmp_path / 'passphrase'}"
    assert run(*argv, right) == (0, b"hello\n", "")
    status, stdout, stderr = run(*argv, f"--key-password-file={tmp_path / 'wrong'}")
    assert (status, stdout) == (2, b"")
    assert "no certificate with its key" in stderr and "hunter2" not in stderr


@posix_only
@pytest.mark.parametrize("argv", [["-u", "me"], ["--cert", CLIENT, "--key", ENCRYPTED]])
def test_nobody_to_ask_for_a_password(argv):
    # A session of its own has no terminal, even if the tests have one.
    status, stdout, stderr = run("wss://localhost", *argv, start_new_session=True)
    assert (status, stdout) == (2, b"")
    assert "no terminal to ask for the password; use --" in stderr


@needs_pty
def test_a_passphrase_is_asked_for_and_not_shown(mutual):
    argv = ["--cafile", CA, "--cert", CLIENT, "--key", ENCRYPTED, *HELLO]
    with Terminal(mutual.url, *argv, columns=200) as terminal:
        terminal.wait_for(f"Passphrase of {ENCRYPTED}:")
        terminal.type("passphrase\r")
        assert terminal.end() == 0
        assert terminal.text == f"Passphrase of {ENCRYPTED}:\nhello"


# -- passwords --


def asking(peer):
    """Echo for who has the password."""
    if peer.request().headers.get("Authorization") != "Basic bWU6aHVudGVyMg==":
        peer.respond(401, headers={"WWW-Authenticate": 'Basic realm="x"'})
        return
    peer.accept()
    while True:
        peer.send_message(peer.recv_message())


@needs_pty
def test_a_password_is_asked_for_and_not_shown():
    with scripted_server(asking) as server, Terminal(server.url, "-u", "me") as terminal:
        terminal.wait_for("Password of me:")
        terminal.type("hunter2\r")
        terminal.wait_for("\n>")
        terminal.type("hello\r")
        terminal.wait_for("> hello\n< hello\n>")
        terminal.leave()
        assert b"hunter2" not in terminal.output


@needs_pty
def test_a_password_is_asked_for_on_the_terminal_though_the_input_is_a_pipe():
    """The terminal of the process is another descriptor than its standard input."""
    with scripted_server(asking) as server:
        argv = [server.url, "-u", "me", "--count=1"]
        with Terminal(*argv, stdin=subprocess.PIPE, controlling=1) as terminal:
            terminal.wait_for("Password of me:")
            terminal.type("hunter2\r")
            terminal.process.stdin.write(b"piped\n")
            terminal.process.stdin.close()
            assert terminal.end() == 0
            assert terminal.text == "Password of me:\npiped"


@needs_pty
@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
def test_a_password_is_not_shown_after_ctrl_z():
    with scripted_server(asking) as server:
        with Terminal(shell=True, columns=200, rows=30) as terminal:
            terminal.wait_for("$")
            terminal.type(f"{shlex.join(command(server.url, '-u', 'me'))}\r")
            terminal.wait_for("Password of me:")
            terminal.type("\x1ahunter2\r")  # the shell would take it for a command
            terminal.wait_for("\n>")
            assert b"hunter2" not in terminal.output and b"Stopped" not in terminal.output
            terminal.type("\x04")
            terminal.wait_for("\n$")
            terminal.type("exit\r")
            terminal.process.wait(PATIENCE)


@needs_pty
@pytest.mark.parametrize("key, status", [("\x03", -2), ("\x04", 2)], ids=["Ctrl-C", "Ctrl-D"])
def test_whoever_does_not_want_to_tell_the_password(key, status):
    with Terminal("ws://localhost", "-u", "me", rows=30, columns=100) as terminal:
        terminal.wait_for("Password of me:")
        terminal.type(key)
        assert terminal.end() == status
        assert "Traceback" not in terminal.text


# -- TLS, as -v tells --


def test_the_certificate_is_shown():
    with secure_server() as server:
        argv = [server.url, "-v", "--cafile", CA, *HELLO]
        status, stdout, stderr = run(*argv)
        if os.name == "posix":
            assert "\n* certificate: commonName=wsmini test server\n" in shown_by(*argv)
    assert (status, stdout) == (0, b"hello\n")
    lines = stderr.splitlines()
    assert re.fullmatch(r"\* TLS: TLSv1\.[23], \w+[-\w]*", lines[0])
    assert lines[1:5] == [
        "* certificate: commonName=wsmini test server",
        "* certificate for: localhost, 127.0.0.1, 0:0:0:0:0:0:0:1",
        "* certificate by: commonName=wsmini test CA",
        "* certificate valid: Jan  1 00:00:00 2000 GMT to Jan  1 00:00:00 2125 GMT",
    ]
    assert f"* connected to: 127.0.0.1:{server.port}" in lines


def test_a_certificate_that_nobody_verified_is_shown_by_its_digest():
    import hashlib

    with secure_server() as server:
        status, _, stderr = run(server.url, "-kv", *HELLO)
    assert status == 0
    der = ssl.PEM_cert_to_DER_cert((CERTS / "server.pem").read_text().partition("-----BEGIN P")[0])
    assert hashlib.sha256(der).hexdigest() in stderr


# -- lines of JSON --


def journal(data):
    """The records in lines of JSON, without their times, which have to be in order."""
    return timeless([json.loads(line) for line in data.splitlines()])


def timeless(records):
    times = [record.pop("time") for record in records]
    assert times == sorted(times) and abs(times[0] - time.time()) < PATIENCE
    return records


def test_json_has_both_directions_and_the_end(echo):
    data = b'{"payload": "a\\nb"}\n{"type": "binary", "payload": "AP8="}\n'
    status, stdout, stderr = run(echo.url, "--idle=0", "--ndjson", data=data)
    assert (status, stderr) == (0, "")
    records = journal(stdout)
    sent = [
        {"direction": "sent", "type": "text", "payload": "a\nb"},
        {"direction": "sent", "type": "binary", "payload": "AP8="},
    ]
    close = {"direction": "sent", "type": "close", "code": 1000, "reason": ""}
    assert [r for r in records if r["direction"] == "sent"] == [*sent, close]
    received = [r for r in records if r["direction"] == "received"]
    assert received == [{**record, "direction": "received"} for record in sent]
    assert records[0] == sent[0] and records[-1] == close


ENDS = {
    "by the server": (lambda peer: peer.close(4001, "bye"), "received", 4001, "bye", 6),
    "lost": (lambda peer: None, "received", 1006, "", 6),
}


@pytest.mark.parametrize("end, direction, code, reason, status", ENDS.values(), ids=ENDS)
def test_json_and_the_record_tell_how_it_ended(end, direction, code, reason, status, tmp_path):
    def script(peer):
        peer.accept()
        end(peer)

    path = tmp_path / "record"
    with scripted_server(script) as server:
        argv = [server.url, "--ndjson", "--wait=inf", f"--record={path}"]
        result, stdout, _ = run(*argv)
    assert result == status
    close = {"direction": direction, "type": "close", "code": code, "reason": reason}
    assert journal(stdout) == [close]
    opened, end = recorded(path)
    end.pop("time")
    assert opened["type"] == "open" and end == close


def test_the_end_is_recorded_when_the_count_is_reached(echo, tmp_path):
    path = tmp_path / "record"
    argv = ["--ndjson", "-n", "1", "--close-code=4242", f"--record={path}"]
    status, stdout, stderr = run(echo.url, *argv, data=b'{"payload": "a"}\n')
    assert (status, stderr) == (0, "")
    records = journal(stdout)
    assert records[-1] == {"direction": "sent", "type": "close", "code": 4242, "reason": ""}
    assert timeless(recorded(path)[1:]) == records


@posix_only
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("answers", [True, False], ids=["answered", "unanswered"])
def test_the_end_is_recorded_when_a_signal_comes(number, answers, tmp_path):
    released = threading.Event()

    def script(peer):
        peer.accept()
        peer.send_message("ready")
        close = peer.recv_frame()
        if answers:
            peer.send_frame(Opcode.CLOSE, close.data)
        else:
            released.wait(PATIENCE)

    path = tmp_path / "record"
    with scripted_server(script) as server:
        process = start(server.url, "--ndjson", f"--record={path}")
        first = process.stdout.readline()
        process.send_signal(number)
        status, rest, stderr = finish(process)
        released.set()
    assert (status, stderr) == (-number, "")
    records = journal(first + rest)
    assert records == [
        {"direction": "received", "type": "text", "payload": "ready"},
        {"direction": "sent", "type": "close", "code": 1000, "reason": ""},
    ]
    assert timeless(recorded(path)[1:]) == records


@posix_only
def test_the_end_is_told_once_though_an_interrupt_follows():
    def script(peer):
        peer.accept()
        peer.close(1012)

    with scripted_server(script) as server:
        process = start(server.url, "--ndjson", "--reconnect=1000")
        close = process.stdout.readline()
        assert b"connecting again in" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        assert finish(process)[:2] == (-signal.SIGINT, b"")
    assert [record["code"] for record in journal(close)] == [1012]


@posix_only
def test_nobody_reads_the_json_of_what_is_sent():
    def script(peer):
        peer.accept()
        while True:
            peer.recv_message()

    with scripted_server(script) as server:
        process = start(server.url, "--ndjson")
        process.stdout.close()
        process.stdin.write(b'{"payload": "a"}\n')
        process.stdin.flush()
        assert finish(process) == (arguments.Status.BROKEN_PIPE, b"", "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("option", ["--record", "--output"])
def test_a_full_disk_is_named(option, echo):
    status, stdout, stderr = run(echo.url, f"{option}=/dev/full", *HELLO)
    assert (status, stdout) == (1, b"")
    assert re.match(r"wsmini: .*No space left on device.*'/dev/full'\n", stderr), stderr


def test_each_connection_is_recorded_and_served_again(tmp_path):
    """--reconnect: what was sent again counts, and each connection is one when it is replayed."""
    codes = iter([1012, 4001])

    def script(peer):
        peer.accept()
        assert peer.recv_message() == "subscribe"
        peer.send_message("news")
        peer.close(next(codes))

    path = tmp_path / "record"
    argv = ["-m", "subscribe", "--wait=inf", "--reconnect=0.01"]
    with scripted_server(script) as server:
        assert run(server.url, *argv, f"--record={path}")[:2] == (6, b"news\nnews\n")
    assert [event["type"] for event in recorded(path)] == ["open", "text", "text", "close"] * 2
    with replay(str(path)) as server:
        assert run(server.url, *argv)[:2] == (6, b"news\nnews\n")


def test_a_lost_connection_is_served_again(tmp_path):
    path = tmp_path / "record"
    with scripted_server(lose) as server:
        assert run(server.url, "--wait=inf", f"--record={path}")[:2] == (6, b"last\n")
    with replay(str(path)) as server:
        status, stdout, stderr = run(server.url, "--wait=inf")
    assert (status, stdout) == (6, b"last\n")
    assert "no close frame received or sent" in stderr


# -- staying --


def test_a_first_message_and_then_staying(pushed):
    process = start(pushed.server.url, "-m", "subscribe", "--wait=inf")
    pushed.push("news")
    assert process.stdout.readline() == b"news\n"
    pushed.close(1000, "")
    assert finish(process) == (0, b"", "")
    assert pushed.received == ["subscribe"]


@needs_pty
def test_the_end_of_typing_can_be_followed_by_a_wait(pushed):
    with Terminal(pushed.server.url, "--wait=inf", columns=100) as terminal:
        terminal.wait_for("\n>")
        terminal.type("subscribe\r")
        terminal.wait_for("> subscribe\n>")
        terminal.type("\x04")
        pushed.push("news")
        terminal.wait_until_in_it("news")
        pushed.close(1000, "")
        assert terminal.end() == 0
    assert pushed.received == ["subscribe"]


@needs_pty
def test_it_connects_again_while_a_line_is_typed():
    """The connection is lost, and found again, and the line that is typed meanwhile goes out."""
    served, losing = [], threading.Event()

    def script(peer):
        peer.accept()
        served.append(peer)
        if len(served) == 1:
            assert losing.wait(PATIENCE)
            peer.close(1012)
            return
        peer.send_message("again")
        peer.send_message(peer.recv_message())
        peer.close()

    with scripted_server(script) as server:
        with Terminal(server.url, "--reconnect=0.01", "--end-after-1000", columns=120) as terminal:
            terminal.type_at_prompt("half ty")
            losing.set()
            terminal.wait_for("in 0.0 s\nwsmini: connected again\n< again\n> half ty")
            terminal.type("ped\r")
            assert terminal.end() == 0
            assert "< half typed" in terminal.text


# -- what messages look like on a terminal --


@needs_pty
def test_looks_while_typing(pushed):
    argv = [pushed.server.url, "--json", "--dump", "--timestamps"]
    with Terminal(*argv, columns=100, rows=30) as terminal:
        terminal.type_at_prompt("half")
        pushed.push('{"a":1}', b"a\x01")
        terminal.wait_for("|a.|\n> half")
        clock = r"< \d\d:\d\d:\d\d\.\d\d\d "
        expected = rf'{clock}\{{\n    "a": 1\n  \}}\n{clock}\[2 bytes\]\n  00000000  61 01 +\|a\.\|'
        assert re.search(rf"\n{expected}\n> half$", terminal.text), terminal.text


@needs_pty
@pytest.mark.parametrize("columns", [100, 16])
def test_a_measurement_with_its_bar(columns, echo):
    with Terminal(echo.url, "--bench=0.3", columns=columns, rows=30, term="dumb") as terminal:
        terminal.wait_until_in_it("###")
        assert terminal.text.count("\n") == 0, "it doesn't fit into its line"
        assert terminal.end() == 0
        assert re.search(r"\nthroughput: [\d,]+", terminal.text)
        assert "#" not in terminal.text and b"\x1b" not in terminal.output


# -- a terminal that changes, and much that is typed at once --


@needs_pty
def test_the_terminal_changes_its_size_while_a_line_is_typed(pushed):
    pytest.importorskip("readline")
    with Terminal(pushed.server.url, columns=80) as terminal:
        terminal.type_at_prompt("half ty")
        terminal.resize(20, 10)
        pushed.push("x" * 30)
        terminal.wait_for(f"\n< {'x' * 18}\n{'x' * 12}\n> half ty")
        terminal.type("ped, and more than fits")
        terminal.wait_for(" fits")
        terminal.resize(60, 10)
        pushed.push("y" * 40)
        terminal.wait_until_in_it("y" * 40)
        terminal.type("!")
        terminal.wait_for("> half typed, and more than fits!")
        terminal.type("\r\x04")
        assert terminal.end() == 0
    assert pushed.received == ["half typed, and more than fits!"]


@needs_pty
@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
def test_it_is_stopped_and_continued_by_a_shell(pushed):
    pytest.importorskip("readline")
    with Terminal(shell=True, columns=200, rows=30) as terminal:
        terminal.wait_for("$")
        terminal.type(f"{shlex.join(command(pushed.server.url))}\r")
        terminal.type_at_prompt("half ty")
        terminal.type("\x1a")  # Ctrl-Z
        terminal.wait_for("\n$")
        terminal.type("fg\r")  # the shell has changed the mode of the terminal meanwhile
        terminal.wait_for(f"{pushed.server.url}\n> half ty")
        terminal.type("\x01X")  # to the start of the line
        terminal.wait_for("\n> Xhalf ty")
        terminal.type("\x1a")
        terminal.wait_for("\n$")
        terminal.type("bg\r")
        terminal.wait_for("&\n$")
        pushed.push("news")  # which still comes, and the terminal is the shell's
        terminal.wait_until_in_it(" news")
        # What is typed now stops it, as anything that reads from the terminal: no "wait".
        terminal.type("kill -9 %1 $$\r")
        assert terminal.end() == -signal.SIGKILL
        assert "Traceback" not in terminal.text


@needs_pty
def test_a_long_line_is_pasted_while_messages_come(pushed):
    pytest.importorskip("readline")
    line = "".join(f"{number} " for number in range(2500))
    with Terminal(pushed.server.url) as terminal:
        terminal.wait_for("\n>")
        terminal.paste(line[:5000])
        pushed.push("news")
        terminal.paste(f"{line[5000:]}\r")
        terminal.wait_for("\n>")
        terminal.paste("first\rsecond\r")
        terminal.wait_for("> second\n>")
        pushed.wait_for(3)
        terminal.leave()
    assert pushed.received == [line, "first", "second"]


# -- progress --


MUCH = 32  # MiB: more than fits into the buffers of sockets


def slow(received):
    """A script that takes one message, slowly enough for its progress to be shown."""

    def script(peer):
        peer.accept()
        frame = peer.recv_frame()
        received.append(frame.data)
        time.sleep(0.3)  # until the next line of progress is due
        while not frame.fin:
            frame = peer.recv_frame()
            received.append(frame.data)
        peer.send_message("thank you")
        peer.recv_frame()

    return script


@needs_pty
@pytest.mark.parametrize("columns", [100, 30])
@pytest.mark.parametrize("quiet", [False, True], ids=["screen", "file"])
def test_an_upload_shows_its_progress(quiet, columns, tmp_path):
    data = os.urandom(1 << 20) * MUCH
    (tmp_path / "file").write_bytes(data)
    received = []
    streams = {"stdout": subprocess.PIPE} if quiet else {}
    with scripted_server(slow(received)) as server:
        argv = [server.url, "--binary", f"--input={tmp_path / 'file'}", "--count=1"]
        with Terminal(*argv, columns=columns, term="dumb", **streams) as terminal:
            terminal.wait_until_in_it("%, ")
            assert terminal.end() == 0
            shown = re.search(rb"\r(\d+\.\d of 33\.6 MB sent, \d+%, [^\r]*)", terminal.output)[1]
            assert len(shown) < columns and b"\x1b" not in terminal.output
            assert columns < 100 or re.search(rb"%, \d+\.\d MB/s $", shown)
            assert terminal.text == ("" if quiet else "thank you")
            if quiet:
                with terminal.process.stdout as stdout:
                    assert stdout.read() == b"thank you\n"
    assert b"".join(received) == data


@needs_pty
def test_the_progress_of_a_pipe_and_an_interrupt():
    """How much is to come isn't known; Ctrl-C leaves no line of progress behind."""
    received = []
    with scripted_server(slow(received)) as server:
        argv = [server.url, "--binary"]
        with Terminal(*argv, columns=100, stdin=subprocess.PIPE, controlling=1) as terminal:
            piped = terminal.process.stdin
            # Without the end, which the process waits for.
            writer = threading.Thread(target=piped.write, args=(bytes(MUCH << 20),))
            writer.start()
            terminal.wait_until_in_it(" MB/s ")
            writer.join(PATIENCE)
            assert re.search(rb"\r\d+\.\d MB sent, \d+\.\d MB/s ", terminal.output)
            terminal.type("\x03")
            assert terminal.end() == -signal.SIGINT
            assert "MB" not in terminal.text
            piped.close()


@needs_pty
def test_lines_that_trickle_have_no_progress(echo):
    with Terminal(echo.url, "--count=2", stdin=subprocess.PIPE, controlling=1) as terminal:
        terminal.process.stdin.write(b"a\n")
        terminal.process.stdin.flush()
        terminal.wait_for("a")
        time.sleep(0.25)  # until it would be shown
        terminal.process.stdin.write(b"b\n")
        terminal.process.stdin.close()
        assert terminal.end() == 0
        assert b"MB" not in terminal.output


def test_no_progress_without_a_terminal():
    received = []
    with scripted_server(slow(received)) as server:
        argv = [server.url, "--binary", "--count=1"]
        assert run(*argv, data=bytes(MUCH << 20)) == (0, b"thank you\n", "")
