"""The command line as a process, on pipes and a terminal; ``test_arguments`` has its parts."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading

import pytest
from helpers import CERTS, PATIENCE
from pairs import eventually
from programs.terminals import (
    Terminal,
    after,
    command,
    completed,
    environment,
    finish,
    lose,
    needs_pty,
    posix_only,
    recorded,
    refuse,
    run,
    start,
)

from wsmini.cli import arguments
from wsmini.sansio.frames import Opcode
from wsmini.testing import echo_server, scripted_server

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


@posix_only
@pytest.mark.parametrize("options", [[], ["--ndjson"]], ids=["plain", "ndjson"])
def test_a_full_pipe_in_non_blocking_mode_is_an_error(echo, options):
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    data = b'{"payload": "%s"}\n' % (b"x" * 900_000)
    try:
        status, _, stderr = run(echo.url, *options, data=data, stdout=writing)
    finally:
        os.close(reading)
        os.close(writing)
    assert status == 1
    assert stderr == "wsmini: standard output: it is in non-blocking mode, and full\n"


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
    shell = ["sh", "-c", f'exec "$@" {redirection}', "sh"]
    return run(*argv, data=b"a\n", run_as=lambda *argv: [*shell, *command(*argv)])


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
        assert run(server.url, data=b"question\n") == (0, b"late\n", "")


def test_idle_is_silence_and_asks_nothing():
    frames = []

    def script(peer):
        peer.accept()
        frames.append(peer.recv_frame().opcode)
        frames.append(peer.recv_frame().opcode)
        peer.send_message("late")
        peer.send_frame(Opcode.CLOSE, b"\x03\xe8")

    with scripted_server(script) as server:
        assert run(server.url, "--idle=0", data=b"question\n") == (0, b"late\n", "")
    assert frames == [Opcode.TEXT, Opcode.CLOSE]


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
    with scripted_server(lose) as server:
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
        assert finish(process) == (arguments.Status.BROKEN_PIPE, b"", "")


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
        assert finish(process) == (-number, b"", "")
    assert closes == [(Opcode.CLOSE, b"\x03\xe8")]


ENDING = {  # what is done before -> what the process ends with, and what it prints
    "functions of atexit": ("import atexit; atexit.register(print, 'bye')", -15, b"ready\nbye\n"),
    "process 1 of a container": ("import os; os.kill = lambda *args: None", 143, b"ready\n"),
}


@posix_only
@pytest.mark.parametrize("before, status, printed", ENDING.values(), ids=ENDING)
def test_ending_by_a_signal_cleans_up_before(before, status, printed):
    def script(peer):
        peer.accept()
        peer.send_message("ready")
        started.set()
        close = peer.recv_frame()
        peer.send_frame(Opcode.CLOSE, close.data)

    started = threading.Event()
    with scripted_server(script) as server:
        argv = after(before)(server.url)
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        process = subprocess.Popen(argv, env=environment(), **pipes)
        assert started.wait(PATIENCE)
        first = process.stdout.read(6)
        process.send_signal(signal.SIGTERM)
        end, rest, errors = finish(process)
    assert (end, first + rest, errors) == (status, printed, "")


@posix_only
def test_a_second_interrupt_does_not_wait_for_the_server():
    def script(peer):
        peer.accept()
        peer.send_message("ready")
        assert peer.recv_frame().opcode == Opcode.CLOSE
        closing.set()
        assert ended.wait(PATIENCE)

    closing, ended = threading.Event(), threading.Event()
    with scripted_server(script) as server:
        argv = after("from wsmini.cli import session; session._CLOSE_SOON = 10000")(server.url)
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        process = subprocess.Popen(argv, env=environment(), **pipes)
        assert process.stdout.read(6) == b"ready\n"
        process.send_signal(signal.SIGINT)
        assert closing.wait(PATIENCE)
        process.send_signal(signal.SIGINT)
        assert finish(process) == (-signal.SIGINT, b"", "")
        ended.set()


@posix_only
def test_an_interrupt_that_was_ignored_before_is_ignored(echo):
    """As for ``python -m wsmini URL &`` in a script: Ctrl-C is for the program in front."""
    argv = after("")(echo.url, "-n1")
    ignoring = "import os, signal, sys; signal.signal(2, signal.SIG_IGN)"
    ignoring += "; os.execv(sys.argv[1], sys.argv[1:])"
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(
        [sys.executable, "-c", ignoring, *argv], env=environment(), **pipes
    ) as process:
        eventually(lambda: echo.connections > 0)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(b"a\n", PATIENCE)
    assert (process.returncode, stdout, stderr) == (0, b"a\n", b"")


@pytest.mark.parametrize("blocked", ["readline", "zlib", "ssl", "json"])
def test_modules_that_small_systems_lack(blocked, echo):
    without = after(f"sys.modules[{blocked!r}] = None")
    assert run(echo.url, "--idle=0", data=b"a\n", run_as=without) == (0, b"a\n", "")


# -- what other programs make of what it prints --


def printed(*argv):
    status, text, notes = run(*argv)
    assert (status, notes) == (0, "")
    return text.decode()


@pytest.mark.skipif(not shutil.which("groff"), reason="needs groff")
def test_groff_has_nothing_against_the_manual_page():
    check = ["groff", "-man", "-ww", "-z", "-Tascii"]
    assert completed(check, input=printed("--man").encode()) == (0, b"", b"")


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
def test_bash_completes(line, expected):
    script = printed("--completion", "bash")
    words = " ".join(f"'{word}'" for word in line.split(" "))
    script += f"COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}}-1)); _wsmini\n"
    script += 'echo "${COMPREPLY[*]}"\n'
    status, completions, errors = completed(["bash", "-c", script])
    assert (status, completions.decode().split(), errors) == (0, expected.split(), b"")


@pytest.mark.skipif(not shutil.which("zsh"), reason="needs zsh")
def test_zsh_can_read_its_completion():
    assert completed(["zsh", "-n", "-c", printed("--completion", "zsh")]) == (0, b"", b"")


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
        process = start("--reconnect=0.01", "--end-after-1000", server.url)
        assert process.stdout.readline() == b"first\n"
        eventually(lambda: len(served) == 2)
        process.stdin.write(b"x\n")
        process.stdin.flush()
        status, stdout, _ = finish(process)
    assert (status, stdout) == (0, b"x\n")


def test_a_normal_close_is_followed_by_another_connection():
    def script(peer):
        peer.accept()
        if peer.number == 1:
            peer.close(1000)
        else:
            peer.send_message("again")

    with scripted_server(script) as server:
        assert run(server.url, "--reconnect=0", "-n1")[:2] == (0, b"again\n")


def test_what_looks_permanent_may_pass_where_it_has_worked():
    def script(peer):
        if peer.number == 2:
            refuse(peer)
            return
        peer.accept()
        peer.send_message(f"{peer.number}")

    with scripted_server(script) as server:
        status, stdout, stderr = run(server.url, "--reconnect=0", "-n2")
    assert (status, stdout) == (0, b"1\n3\n")
    assert "wsmini: cannot connect: " in stderr


def test_what_cannot_help_is_not_tried_again(echo):
    with scripted_server(refuse) as server:
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

    # What it has used, for some Pythons map more than they need.
    limited = after("""
import atexit, re
@atexit.register
def complain():
    peak = int(re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read()).group(1)) >> 10
    if peak > 100: print(peak, "MiB", file=sys.stderr)
""")
    with scripted_server(script) as server:
        argv = [server.url, "--binary", "--input=/dev/stdin", "--no-compression"]
        assert run(*argv, data=bytes(200 << 20), run_as=limited) == (0, b"", "")
    assert sum(sizes) == 200 << 20


def test_a_record_has_the_session_without_its_secrets(echo, tmp_path):
    path = tmp_path / "record"
    argv = ["--record", str(path), "-H", "Authorization: hunter2", "--idle=0"]
    url = echo.url.replace("//", "//me:hunter2@") + "/?token=hunter2"
    assert run(url, *argv, data=b"a\n") == (0, b"a\n", "")
    text = path.read_text()
    assert "hunter2" not in text
    opened, *messages, close = recorded(path)
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


def test_a_refusal_in_all_detail():
    with scripted_server(refuse) as server:
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


@posix_only
def test_a_demo_that_nobody_reads():
    reading, writing = os.pipe()
    os.close(reading)
    try:
        assert run("--demo", stdout=writing) == (arguments.Status.BROKEN_PIPE, None, "")
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
        terminal.leave()
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
            terminal.leave()
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
        terminal.leave()


EDITORS = {"with readline": "", "without readline": "readline"}


@needs_pty
@pytest.mark.parametrize("blocked", EDITORS.values(), ids=EDITORS)
def test_messages_appear_above_the_line_being_typed(blocked, pushed):
    with Terminal(pushed.server.url, blocked=blocked) as terminal:
        terminal.type_at_prompt("half ty")
        before = terminal.screen
        pushed.push("news", "more\nlines\tand \x1b[2J", b"\x01\x02", "x" * 50)
        shown = ["< news", "< more", "  lines and \\x1b[2J", "< [2 bytes] 0102"]
        wrapped = ["< " + "x" * 38, "x" * 12]
        terminal.wait_for("\n".join([*shown, *wrapped, "> half ty"]))
        assert terminal.screen.cursor == (7, before.cursor[1])
        terminal.type("ped\r")
        terminal.wait_for("> half typed\n>")
        terminal.leave()
    assert pushed.received == ["half typed"]


@needs_pty
def test_notes_appear_above_the_line_being_typed(pushed):
    with Terminal(pushed.server.url, "-vv", columns=100) as terminal:
        terminal.type_at_prompt("half ty")
        pushed.push("news")
        terminal.wait_for("\n< TEXT FIN 4 bytes 'news'\n< news\n> half ty")
        terminal.type("ped\r")
        terminal.wait_for("> TEXT FIN 10 bytes 'half typed'\n>")
        terminal.leave()


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
        terminal.leave()
    assert pushed.received == ["half  typed"]


@needs_pty
def test_a_message_taller_than_the_screen(pushed):
    with Terminal(pushed.server.url, rows=4) as terminal:
        terminal.type_at_prompt("typed")
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
        terminal.type_at_prompt("half ty")
        pushed.push("news")
        terminal.wait_for("> half ty\n< news\n> half ty")
        terminal.type("ped\r\x04")
        assert terminal.end() == 0
    assert pushed.received == ["half typed"]


@needs_pty
@pytest.mark.parametrize("blocked", EDITORS.values(), ids=EDITORS)
def test_the_server_closes_while_a_line_is_typed(blocked, pushed):
    with Terminal(pushed.server.url, blocked=blocked, columns=100) as terminal:
        terminal.type_at_prompt("half")
        pushed.close(4001, "bye")
        assert terminal.end() == arguments.Status.ABNORMAL
        closed = "received 4001 (private use) bye; then sent 4001 (private use) bye"
        assert terminal.text.endswith(f"> half\nwsmini: connection closed: {closed}")


@needs_pty
@pytest.mark.parametrize("blocked", EDITORS.values(), ids=EDITORS)
def test_interrupting_a_line_being_typed(blocked, pushed):
    with Terminal(pushed.server.url, blocked=blocked) as terminal:
        terminal.type_at_prompt("half")
        terminal.type("\x03")
        assert terminal.end() == -signal.SIGINT
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
        assert terminal.end() == arguments.Status.USAGE
        assert "redirect standard output" in terminal.text


@needs_pty
def test_a_terminal_is_no_file_for_output():
    with Terminal("--output=/dev/tty", "--raw", "ws://127.0.0.1", columns=100) as terminal:
        assert terminal.end() == arguments.Status.USAGE
        assert "leave it out" in terminal.text


@needs_pty
def test_a_message_is_no_note(echo):
    message = "a\nwsmini: connection closed"
    with Terminal(echo.url, "-m", message, "-n1", columns=100) as terminal:
        assert terminal.end() == 0
        assert terminal.text == "a\n  wsmini: connection closed"
