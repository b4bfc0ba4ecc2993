"""The command line, asked the same on pipes and on a terminal, for the same answer.

A row is what somebody would type. What goes on longer (typing, signals, terminals) is in
``test_cli`` and ``test_command_line``.
"""

from __future__ import annotations

import contextlib
import re
import shlex
import socket
import socketserver
import subprocess
import sys
import threading
import types

import doc_servers
import pytest
from certificates import server_context
from helpers import CERTS
from programs.terminals import (
    Terminal,
    environment,
    finish,
    needs_pty,
    recorded,
    refuse,
    run,
    start,
)

from wsmini.sansio.frames import Opcode
from wsmini.testing import replay, scripted_server

WAYS = ["pipes", pytest.param("terminal", marks=needs_pty)]
CA, CLIENT = ((CERTS / f"{name}.pem").as_posix() for name in ("ca", "client"))
ANOTHER = "127.0.0.2" if sys.platform == "linux" else "127.0.0.1"
JAR = "# Netscape HTTP Cookie File\n127.0.0.1\tFALSE\t/\tFALSE\t\tkept\t1\n"


def server_script():
    """Does what the path says; then echoes, but ``?NAME`` asks for a header or where from."""
    turns = iter(range(1000))

    def script(peer):
        request = peer.request()
        path = request.target
        if path == "/refuse":
            refuse(peer)
        elif path == "/moved":
            peer.respond(302, "Found", {"Location": "/"})
        elif path == "/user" and request.headers.get("Authorization") != "Basic bWU6aHVudGVyMg==":
            peer.respond(401, "Unauthorized", {"WWW-Authenticate": 'Basic realm="x"'})
        else:
            offered = request.headers.get("Sec-WebSocket-Protocol", "").partition(",")[0]
            cookie = {"Set-Cookie": "new=2; Max-Age=1000"} if path == "/cookie" else {}
            peer.accept(cookie, subprotocol=offered or None)
            talk(peer, path, request.headers)

    def talk(peer, path, headers):
        if path[1:].isdecimal():
            peer.recv_frame()  # what the client has to say: its last word else comes too late
            peer.close(int(path[1:]), "bye")
        elif path == "/again" and next(turns) % 2 == 0:
            peer.close(1012)
        elif path == "/ping":
            pinged = next(f for f in iter(peer.recv_frame, None) if f.opcode == Opcode.PING)
            peer.send_frame(Opcode.PONG, pinged.data)
            peer.close()
        elif path == "/dead":
            while True:
                peer.recv_frame()
        else:
            answer(peer, path, headers)

    def answer(peer, path, headers):
        while True:
            message = peer.recv_message()
            if isinstance(message, str) and message[:1] == "?":
                asked = {"from": peer.sock.getpeername()[0]}
                message = asked.get(message[1:]) or headers.get(message[1:], "none")
            if path != "/silent":
                peer.send_message(message)

    return script


@contextlib.contextmanager
def unix_socket(path, port):
    """A Unix socket in front of *port*."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self):
            with socket.create_connection(("127.0.0.1", port)) as target:
                doc_servers._relay(self.request, target)

    class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
        daemon_threads = True

    with Server(path, Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield
        server.shutdown()


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """What the names in rows stand for."""
    tmp = tmp_path_factory.mktemp("both")
    for name, text in (("headers", "X-File: 2\n"), ("password", "hunter2\n"), ("in", "a\nb")):
        (tmp / name).write_bytes(text.encode())
    script = server_script()
    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        plain = enter(scripted_server(script, timeout=None))
        secure = enter(scripted_server(script, ssl=server_context()))
        mutual = enter(scripted_server(script, ssl=doc_servers.mutual_context()))
        closed = enter(socket.socket())  # bound, so that nobody else listens there either
        closed.bind(("127.0.0.1", 0))
        silent = enter(socket.create_server(("127.0.0.1", 0)))
        http = enter(doc_servers.Proxy(doc_servers.http_connect))
        https = enter(doc_servers.Proxy(doc_servers.http_connect, server_context()))
        socks = enter(doc_servers.Proxy(doc_servers.socks5))
        if hasattr(socket, "AF_UNIX"):
            enter(unix_socket(f"{tmp}/socket", plain.port))
        yield {
            "tmp": tmp.as_posix(),
            "ask": plain.url.rstrip("/"),
            "port": plain.port,
            "secure": secure.url,
            "mutual": mutual.url,
            "closed": f"ws://127.0.0.1:{closed.getsockname()[1]}",
            "mute": f"ws://127.0.0.1:{silent.getsockname()[1]}",
            "http": f"http://user:password@{http.address}",
            "stranger": f"http://{http.address}",
            "https": f"https://user:password@{https.address}",
            "socks": f"socks5h://{socks.address}",
            "CA": CA,
            "CLIENT": CLIENT,
        }


def row(line, out="", notes="", status=0, screen=None, data=None):
    """What is typed; what is on standard output and standard error (as regular expressions).

    Args:
        screen: what a terminal shows instead of *out*.
        data: standard input; otherwise that stays open, and nothing comes.
    """
    screen = out if screen is None else screen
    return types.SimpleNamespace(
        line=line, out=out, notes=notes, status=status, screen=screen, data=data
    )


def answer_to(way, argv, data=None, **streams):
    """Run it: (status, standard output, standard error); on a terminal, both are the screen."""
    if way == "pipes":
        status, out, notes = finish(start(*argv)) if data is None else run(*argv, data=data)
        return status, out.decode().replace("\r\n", "\n"), notes.replace("\r\n", "\n")
    if data is not None:
        streams.update(stdin=subprocess.PIPE, controlling=1)
    with Terminal(*argv, columns=300, rows=100, **streams) as terminal:
        if data is not None:
            with terminal.process.stdin as stdin:
                stdin.write(data)
        return terminal.end(), terminal.text, terminal.text


CLOSED = "wsmini: connection closed: "
CANNOT = "wsmini: cannot connect: "
CLOCK = r"\d\d:\d\d:\d\d\.\d\d\d "
BENCH = r" +p50 +p90 .*\nping( +[\d.]+){5} ms, \d+ round trips\necho.*\nthroughput: [\d,]+ mess.*\n"
SENT = r'{"direction": "sent", "time": [\d.]+, "type": "text", "payload": "a"}' "\n"
ENDED = r'{"direction": "sent", "time": [\d.]+, "type": "close", "code": 1000, "reason": ""}' "\n"

# What people ask of a client.
ROWS = {
    "a header": row("{ask} -H 'X-One: 1' -m ?X-One -n1", "1\n"),
    "a header from a file": row("{ask} -H @{tmp}/headers -m ?X-File -n1", "2\n"),
    "binary": row("{ask} --binary -m a -n1", "61\n", screen=r"\[1 bytes\] 61\n"),
    "a line of input": row("{ask}", "hello\n", data=b"hello\n"),
    "one message": row("{ask} -m hello -n1", "hello\n"),
    "a message that looks like an option": row("{ask} -m -5 -m --help -n2", "-5\n--help\n"),
    "a message, and then input": row("{ask} -m a -i --idle=0", "a\nb\n", data=b"b\n"),
    "the server closes": row("{ask}/1000 -m a --wait inf"),
    "the server closes with a code": row(
        "{ask}/4001 -m a --wait inf", "", f"{CLOSED}received 4001 .*\n", 6
    ),
    "nobody listens": row("{closed} -m a", "", f"{CANNOT}.*efused.*\n", 3),
    "refused": row(
        "{ask}/refuse -m a", "", rf"{CANNOT}.*HTTP 403 Forbidden.*\n< Not you,\\x1b\[2J\n", 5
    ),
    "a close code of ours": row(
        "{ask} --close-code=4242 --close-reason=enough -m a -v --idle=0",
        "a\n",
        rf"(.*\n)+{CLOSED}sent 4242 \(private use\) enough; then received 4242 .*\n",
    ),
    "round trips": row("{ask} --bench 0.03", BENCH),
    "time stamps": row("{ask} --timestamps -m a -n1", f"{CLOCK}a\n"),
    "indented JSON": row("{ask} --json -m '{{\"a\":1}}' -n1", '{\n  "a": 1\n}\n'),
    "a hex dump": row(
        "{ask} --dump --binary -m a -n1",
        r"0{8}  61 +\|a\|\n",
        screen=r"\[1 bytes\]\n0{8}  61 +\|a\|\n",
    ),
    "hexadecimal": row(
        "{ask} --hex --idle=0", "00ff\n", data=b"00 ff\n", screen=r"\[2 bytes\] 00ff\n"
    ),
    "base64": row(
        "{ask} --base64 --idle=0", "AP8=\n", data=b"AP8=\n", screen=r"\[2 bytes\] AP8=\n"
    ),
    "a message of hexadecimal digits": row(
        "{ask} --hex -m 00ff -n1", "00ff\n", screen=r"\[2 bytes\] 00ff\n"
    ),
    "a message that isn't base64": row(
        "{ask} --base64 -m AP8", "", "usage: (.*\n)+.* a line isn't base64: .*padding\n", 2
    ),
    "control characters": row("{ask} -m '\x1b[2J' -n1", "\x1b\\[2J\n", screen=r"\\x1b\[2J\n"),
    "connecting again": row(
        "{ask}/again --reconnect=0.01 -m a -n1",
        "a\n",
        "wsmini: .* connecting again in 0.0 s\nwsmini: connected again\n",
    ),
    "connecting again, not": row("{ask}/refuse --reconnect -m a -n1", "", f"{CANNOT}(.*\n)+", 5),
    "nobody is verified": row("{secure} -k -m a -n1", "a\n", "wsmini: warning: --insecure: .*\n"),
    "nobody is trusted": row(
        "{secure} -m a -n1", "", f"{CANNOT}.*verify failed.*use --cafile.*\n", 4
    ),
    "an authority": row("{secure} --cafile {CA} -m a -n1", "a\n"),
    "another name": row(
        "{secure} --cafile {CA} --server-name b.example -m a", "", f"{CANNOT}.*verify failed.*\n", 4
    ),
    "a certificate of ours": row("{mutual} --cafile {CA} --cert {CLIENT} -m a -n1", "a\n"),
    "a certificate and its key": row(
        "{mutual} --cafile {CA} --cert {CLIENT} --key {CLIENT} -m a -n1", "a\n"
    ),
    "no certificate of ours": row(
        "{mutual} --cafile {CA} -m a", "", f"{CANNOT}.*certificate.*\n", 4
    ),
    "an http proxy": row("{ask} -x {http} -m a -n1", "a\n"),
    "an http proxy that refuses": row("{ask} -x {stranger} -m a", "", f"{CANNOT}.*407.*\n", 5),
    "an https proxy": row("{ask} -x {https} --proxy-cafile {CA} -m a -n1", "a\n"),
    "an https proxy that nobody trusts": row(
        "{ask} -x {https} -m a", "", f"{CANNOT}.*use --proxy-cafile.*\n", 4
    ),
    "an https proxy of another name": row(
        "{ask} -x {https} --proxy-cafile {CA} --proxy-server-name b.example -m a",
        "",
        f"{CANNOT}.*--proxy-server-name names another one.*\n",
        4,
    ),
    "a SOCKS proxy": row("{ask} -x {socks} -m a -n1", "a\n"),
    "the handshake": row(
        "{ask} -v -m a -n1", "a\n", r"> GET / HTTP/1.1\n(.*\n)+< HTTP/1.1 101 .*\n(.*\n)+"
    ),
    "frames": row("{ask} -vv -m a -n1", "a\n", r"(.*\n)+> TEXT FIN 1 bytes 'a'\n(.*\n)+"),
    # Other ways to the server.
    "another address": row(
        "ws://name.invalid:{port} --resolve name.invalid:{port}:127.0.0.1 -m ?Host -n1",
        "name.invalid:{port}\n",
    ),
    "a source address": row(f"{{ask}} --source {ANOTHER} -m ?from -n1", f"{ANOTHER}\n"),
    "the finer points": row(
        "ws://localhost:{port} --happy-eyeballs-delay=0.01 --busy-poll=0.001 -m a -n1", "a\n"
    ),
    "IPv4": row("ws://localhost:{port} -4 -m ?from -n1", "127.0.0.1\n"),
    "IPv6 where there is none": row("{ask} -6 -m a", "", f"{CANNOT}.*is --source .*\n", 3),
    "elsewhere": row("{ask}/moved -m a -n1", "a\n"),
    "elsewhere, not": row("{ask}/moved --max-redirects=0 -m a", "", f"{CANNOT}.*302.*\n", 5),
    # The handshake.
    "a user": row("{ask}/user -u me --password-file {tmp}/password -m a -n1", "a\n"),
    "a user of the command line": row("{ask}/user -u me:hunter2 -m a -n1", "a\n"),
    "a user who isn't": row("{ask}/user -u me:x -m a", "", f"{CANNOT}.*401.*\n", 5),
    "cookies": row("{ask} -b a=1 -b b=2 -m ?Cookie -n1", "a=1; b=2\n"),
    "a subprotocol": row(
        "{ask} --subprotocol one --subprotocol two -m ?Sec-WebSocket-Protocol -n1", "one, two\n"
    ),
    "an origin": row("{ask} --origin https://a.example -m ?Origin -n1", "https://a.example\n"),
    "a name": row("{ask} -A me -m ?User-Agent -n1", "me\n"),
    "no name": row("{ask} -A '' -m ?User-Agent -n1", "none\n"),
    "compression": row("{ask} -m ?Sec-WebSocket-Extensions -n1", "permessage-deflate.*\n"),
    "no compression": row("{ask} --no-compression -m ?Sec-WebSocket-Extensions -n1", "none\n"),
    # Limits of size and time.
    "a message too big": row(
        "{ask} --max-size 4 -m hello -n1", "", rf"{CLOSED}sent 1009 .*\(--max-size\).*\n", 6
    ),
    "few at once": row("{ask} --max-queue 1 -m a -m b -n2", "a\nb\n"),
    "a timeout": row("{mute} --timeout 0.1 -m a", "", f"{CANNOT}.*\n", 7),
    "pings": row(
        "{ask}/ping --ping-interval 0.03 -vv --wait inf -m a",
        "",
        r"(.*\n)+> PING FIN (.*\n)+< PONG FIN (.*\n)+",
    ),
    "a dead server": row(
        "{ask}/dead --ping-interval 0.03 --ping-timeout 0.1 -m a -n1",
        "",
        f"{CLOSED}.*nothing received.*\n",
        6,
    ),
    "a number of messages": row("{ask} -n2", "a\nb\n", data=b"a\nb\nc\n"),
    "silence": row("{ask} --idle 0 -m a", "a\n"),
    "a while": row("{ask}/silent --wait 0.05 -m a"),
    "a while that is too short": row(
        "{ask}/silent --wait 0.05 -n1 -m a", "", "wsmini: fewer than 1 messages came in time\n", 7
    ),
    # Formats.
    "all of it as text": row("{ask} --text -n1", "\xe9\nb\n", data="\xe9\nb".encode()),
    "all of it as binary": row(
        "{ask} --binary -n1", "610a62\n", data=b"a\nb", screen=r"\[3 bytes\] 610a62\n"
    ),
    "all of a file": row("{ask} --text --input {tmp}/in -n1", "a\nb\n"),
    "lines of JSON": row(
        "{ask} --ndjson --idle=0",
        SENT + SENT.replace("sent", "received") + ENDED,
        data=b'{"payload": "a"}\n',
    ),
    "NUL": row("{ask} -0 --idle=0", "a\nb\0", data=b"a\nb\0", screen="a\nb\n"),
    "not hexadecimal": row(
        "{ask} --hex", "", "wsmini: standard input: a line isn't hexadecimal.*\n", 1, data=b"0g\n"
    ),
    # What needs no server.
    "wrong arguments": row(
        "{ask} --nonsense", "", "usage: (.*\n)+.* error: unrecognized arguments: --nonsense\n", 2
    ),
    "two things at once": row(
        "{ask} --bench 1 --record {tmp}/record",
        "",
        "usage: (.*\n)+.* error: --bench and --record exclude each other\n",
        2,
    ),
    "a manual page": row("--man", "(.*\n)+"),
    "completion": row("--completion bash", "(.*\n)+"),
}
if hasattr(socket, "AF_UNIX"):
    ROWS["a Unix socket"] = row("ws://a.example --unix {tmp}/socket -m ?Host -n1", "a.example\n")
    ROWS["a Unix socket's URL"] = row("ws+unix:{tmp}/socket:/moved -m ?Host -n1", "localhost\n")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("asked", ROWS.values(), ids=ROWS)
def test_the_same_is_answered(asked, way, places):
    out, notes = (text.replace("{port}", str(places["port"])) for text in (asked.out, asked.notes))
    status, stdout, stderr = answer_to(way, shlex.split(asked.line.format(**places)), asked.data)
    assert status == asked.status, stderr
    if way == "pipes":
        assert re.fullmatch(out, stdout), stdout
        assert re.fullmatch(notes, stderr), stderr
    elif len(stdout.splitlines()) < 99:  # or some of it is gone, and it was on pipes, too
        screen = asked.screen.replace("{port}", str(places["port"]))
        shown = f"{stdout}\n" if stdout else ""
        if screen and notes.startswith("("):  # -v has some on both sides
            assert re.search(f"(?m)^{screen}", shown), shown
            shown = re.sub(f"(?m)^{screen}", "", shown)
            screen = ""
        assert re.fullmatch(f"{notes}{screen}|{screen}{notes}", shown), shown


@pytest.mark.parametrize("way", WAYS)
def test_cookies_are_kept_in_a_jar(way, places, tmp_path):
    jar = tmp_path / "jar"
    jar.write_text(JAR)
    argv = [f"{places['ask']}/cookie", "-c", str(jar), "-m", "?Cookie", "-n1"]
    assert answer_to(way, argv)[:2] == (0, "kept=1" + "\n" * (way == "pipes"))
    assert answer_to(way, argv)[1].strip() in ("kept=1; new=2", "new=2; kept=1")


@pytest.mark.parametrize("way", WAYS)
def test_a_file_is_written(way, places, tmp_path):
    path = tmp_path / "out"
    assert answer_to(way, [places["ask"], "-o", str(path), "-m", "a\x1b", "-n1"]) == (0, "", "")
    assert path.read_bytes() == b"a\x1b\n"


@pytest.mark.parametrize("way", WAYS)
def test_a_session_is_recorded_and_served_again(way, places, tmp_path):
    path = tmp_path / "record"
    argv = ["--record", str(path), "-m", "a", "--idle=0"]
    status, shown, _ = answer_to(way, [places["ask"], *argv])
    assert (status, shown.strip()) == (0, "a")
    assert [event["type"] for event in recorded(path)] == ["open", "text", "text", "close"]
    with replay(str(path)) as server:
        status, shown, _ = answer_to(way, [server.url, "-m", "a", "-n1"])
    assert (status, shown.strip()) == (0, "a")


TYPED = {
    "hexadecimal": (["--hex"], "00 ff", "< [2 bytes] 00ff"),
    "base64": (["--base64"], "AP8=", "< [2 bytes] AP8="),
    "not base64": (
        ["--base64"],
        "AP8",
        "that line wasn't sent: a line isn't base64: wrong characters, or incorrect padding",
    ),
    "binary": (["--binary"], "a", "< [1 bytes] 61"),
    "text": (["--text"], "a", "< a"),
    "NUL": (["--null"], "a", "< a"),
    "JSON": (["--ndjson", "--idle=0"], '{"payload": "a"}', '"received"'),
}


@needs_pty
@pytest.mark.parametrize("argv, line, answer", TYPED.values(), ids=TYPED)
def test_what_is_typed_is_taken_as_what_comes_through_a_pipe(argv, line, answer, places):
    with Terminal(places["ask"], *argv, columns=100) as terminal:
        programs = "--ndjson" in argv  # and they have no prompt
        terminal.wait_for("" if programs else "\n>")
        terminal.type(f"{line}\r")
        terminal.wait_until_in_it(answer) if programs else terminal.wait_for(f"{answer}\n>")
        terminal.leave()


@needs_pty
def test_nobody_reads_what_is_printed_while_somebody_types(places):
    with Terminal(places["ask"], stdout=subprocess.PIPE, columns=100) as terminal:
        terminal.process.stdout.close()
        terminal.type("a\r")
        assert terminal.end() == 141
        assert terminal.text == "a"


def test_lines_of_a_pipe_are_no_history(places, tmp_path):
    path = tmp_path / "history"
    env = environment(WSMINI_HISTORY=str(path))
    assert run(places["ask"], "--idle=0", data=b"a\n", env=env) == (0, b"a\n", "")
    assert not path.exists()
