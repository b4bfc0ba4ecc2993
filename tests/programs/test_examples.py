"""The programs in examples/, run as they are: what they show, their ends, and their table.

A test waits for what a program prints or sends. None sleeps.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest
from helpers import PATIENCE, PROMPT, ROOT
from pairs import eventually

from wsmini import ConnectionClosed, testing
from wsmini.testing import (
    Bomb,
    Challenge,
    CloseWith,
    Cut,
    Drip,
    EndlessHeader,
    Garbage,
    IgnoreClose,
    Opcode,
    Redirect,
    Refuse,
    Reset,
    Send,
    Stall,
    WrongAccept,
    fault_server,
    scripted_server,
)

PATHS = {path.stem: path for path in sorted((ROOT / "examples").glob("*.py"))}

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the signals and pipes are POSIX's")


class Program:
    """An example that runs, with pipes."""

    def __init__(self, name, *argv, **variables):
        dropped = ("_proxy", "pythonunbuffered")
        kept = {k: v for k, v in os.environ.items() if not k.lower().endswith(dropped)}
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", str(PATHS[name]), *map(str, argv)],
            env={**kept, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8", **variables},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            encoding="utf-8",
        )  # fmt: skip
        self.notes = ""

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        if self.process.poll() is None:
            self.process.kill()
        with self.process:
            pass

    def type(self, text):
        self.process.stdin.write(text)
        self.process.stdin.flush()

    def line(self):
        """The next line of its output."""
        line = self.process.stdout.readline()
        assert line, f"it ended: {self.notes}{self.process.stderr.read()}"
        return line.rstrip("\n")

    def noted(self, text):
        """Wait until it has said *text* on standard error."""
        while text not in self.notes:
            line = self.process.stderr.readline()
            assert line, f"it ended without saying {text!r}: {self.notes}"
            self.notes += line

    def end(self, number=None):
        """Send a signal; wait until it has ended: (status, rest of its output)."""
        if number is not None:
            started = time.monotonic()
            self.process.send_signal(number)
            self.process.wait(PATIENCE)
            # Within a second, on a quiet machine; to wait for a deaf server would take ten.
            assert time.monotonic() - started < PROMPT
        output, notes = self.process.communicate(timeout=PATIENCE)
        self.notes += notes
        assert "Traceback" not in self.notes
        return self.process.returncode, output

    def end_of_input(self):
        """As ``end``, by the end of its standard input."""
        return self.end()  # communicate() closes it


@pytest.fixture
def heard():
    """What scripts have heard, in a queue."""
    return queue.Queue()


def hear(peer, heard):
    """Put the client's messages into *heard*, and in the end the code that it closes with."""
    try:
        while True:
            heard.put(peer.recv_message())
    except ConnectionClosed as exc:
        heard.put(exc.rcvd.code)


def get(heard):
    return heard.get(timeout=PATIENCE)


# -- every program --


def argv_for(name, url, folder):
    """Arguments that make an example talk to the server at *url*."""
    return {
        "ticker": [url, "EURUSD"],
        "chat": [url],
        "sensor": [folder / "pipe", url],
        "worker": [url, folder],
        "feeds": [f"a={url}"],
        "proxy": [url.replace("ws:", "http:"), "ws://h.example/", "question"],
        "asyncio_feed": [url, folder / "file"],
        "service": [url, folder / "health", "a"],
        "service_callbacks": [url, folder / "health", "a"],
    }[name]


@contextmanager
def pipe(path):
    """A named pipe, and a descriptor to write to it."""
    os.mkfifo(path)
    writer = os.open(path, os.O_RDWR)
    try:
        yield writer
    finally:
        os.close(writer)


LISTENERS = ("feeds", "asyncio_feed")  # which send nothing


def begin(peer, name):
    """Accept; have the client show that it knows."""
    accept(peer)
    peer.send_frame(Opcode.PING, "are you there?")
    if name == "worker":
        peer.send_message('{"name": "missing"}')
    shown = Opcode.PONG if name in LISTENERS else Opcode.TEXT
    while peer.recv_frame().opcode != shown:
        pass


def accept(peer):
    """Accept the client, and be the proxy of one that asks for one."""
    if peer.request().method == "CONNECT":
        peer.respond(200)
    peer.accept()


def answering(peer, name, heard, over):
    begin(peer, name)
    heard.put("open")
    hear(peer, heard)


def deaf(peer, name, heard, over):
    begin(peer, name)
    heard.put("open")
    over.wait(PATIENCE)


def silent(peer, name, heard, over):
    heard.put("connecting")
    over.wait(PATIENCE)


def refusing(peer, name, heard, over):
    peer.respond(503, headers={"Retry-After": "3600", "Connection": "close"})
    heard.put("waiting")


STATES = [
    (answering, signal.SIGTERM),
    (answering, signal.SIGINT),
    (deaf, signal.SIGTERM),
    (silent, signal.SIGTERM),
    (refusing, signal.SIGTERM),
]


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("state, number", STATES, ids=lambda v: getattr(v, "name", None))
def test_signals_end_it_in_each_state_within_a_second(name, state, number, heard, tmp_path):
    over = threading.Event()
    with scripted_server(lambda peer: state(peer, name, heard, over)) as server:
        with pipe(tmp_path / "pipe") as writer:
            with Program(name, *argv_for(name, server.url, tmp_path)) as program:
                os.write(writer, b"1.5\n")
                if name == "chat" and state in (answering, deaf):
                    program.type("hello\n")
                get(heard)
                if state is refusing:
                    program.noted("connecting again")
                status, _ = program.end(number)
        over.set()
        if state is answering:
            assert get(heard) == 1001
    assert status == -number


SERVICES = ("service", "service_callbacks")  # which never give up


@pytest.mark.parametrize("name", sorted(set(PATHS) - set(SERVICES)))
def test_it_gives_up_when_the_server_does_not_know_it(name, tmp_path):
    with fault_server(then=Refuse(404)) as server, pipe(tmp_path / "pipe"):
        with Program(name, *argv_for(name, server.url, tmp_path)) as program:
            assert program.end() == (1, "")
    assert f"{name}: " in program.notes and "HTTP 404" in program.notes
    assert server.connections == 1


@pytest.mark.parametrize("name", PATHS)
def test_a_wrong_url_is_an_error(name, tmp_path):
    with Program(name, *argv_for(name, "gopher://h", tmp_path)) as program:
        assert program.end() == (1, "")
    assert "gopher" in program.notes


@pytest.mark.parametrize("name", sorted(set(PATHS) - {"proxy", "worker"}))
def test_a_normal_close_of_the_server_does_not_end_it(name, tmp_path):
    with fault_server(then=CloseWith(1000)) as server, pipe(tmp_path / "pipe"):
        with Program(name, *argv_for(name, server.url, tmp_path)) as program:
            program.noted("connecting again")
            program.noted("connecting again")
            assert program.end(signal.SIGTERM)[0] == -signal.SIGTERM


def test_a_server_without_jobs_ends_the_worker(tmp_path):
    with fault_server(then=CloseWith(1000)) as server:
        with Program("worker", *argv_for("worker", server.url, tmp_path)) as program:
            assert program.end() == (0, "")
    assert server.connections == 1


@pytest.mark.parametrize("name", PATHS)
def test_without_arguments_it_says_how_to_run_it(name):
    with Program(name) as program:
        assert program.end() == (1, "")
    assert program.notes == ast.get_docstring(ast.parse(PATHS[name].read_text()), False) + "\n"


@pytest.mark.parametrize("name", PATHS)
def test_its_documentation_says_what_it_shows_and_how_it_ends(name):
    text = ast.get_docstring(ast.parse(PATHS[name].read_text()))
    assert re.search(rf"^    .*python3 examples/{name}\.py ", text, re.M)
    assert re.search(r"\bShows ", text) and "\nExit status: " in text


def test_the_table_lists_all():
    table = re.findall(r"^\| \[(\w+)\.py\]\((\w+)\.py\) \| .+ \|$", readme(), re.M)
    assert sorted(table) == [(name, name) for name in PATHS]


def readme():
    return (ROOT / "examples" / "README.md").read_text()


# -- each of them --


def test_the_ticker_subscribes_again(heard):
    def script(peer):
        peer.accept()
        heard.put([json.loads(peer.recv_message())["subscribe"] for _ in range(2)])
        peer.send_message(f'{{"symbol": "EURUSD", "price": {peer.number}}}')
        for message in ("[", '{"symbol": "EURUSD"}', '{"symbol": "other", "price": 1}'):
            peer.send_message(message)
        if peer.number == 2:
            hear(peer, heard)

    with scripted_server(script) as server:
        with Program("ticker", server.url, "EURUSD", "GBPUSD") as program:
            assert program.line() == "EURUSD 1.0"
            assert program.line() == "EURUSD 2.0"
            assert program.end(signal.SIGTERM) == (-signal.SIGTERM, "")
    assert [get(heard) for _ in range(3)] == [["EURUSD", "GBPUSD"]] * 2 + [1001]
    assert "closed with 1006" in program.notes
    assert "connecting again in " in program.notes
    assert program.notes.count("not a price") == 6


def test_what_is_typed_is_sent_and_what_comes_is_printed():
    with fault_server() as server, Program("chat", server.url) as program:
        program.type("hello\n\n\x1b[31m\xe9\n")
        assert program.line() == "hello"
        assert program.line() == "\ufffd[31m\xe9"
        assert program.end_of_input() == (0, "")


def test_the_chat_goes_on_over_another_connection():
    with fault_server(Cut(after=len("hello") + 2)) as server:
        with Program("chat", server.url) as program:
            program.type("hello\n")
            assert program.line() == "hello"
            program.noted("connecting again")
            program.notes = ""
            program.noted("connected")
            program.type("again\n")
            assert program.line() == "again"
            assert program.end(signal.SIGINT) == (-signal.SIGINT, "")
    assert server.connections == 2


def test_what_is_typed_without_a_connection_is_not_sent_and_the_end_ends_the_waiting():
    later = Refuse(503, retry_after=3600)
    with fault_server(Cut(after=len("hello") + 2), then=later) as server:
        with Program("chat", server.url) as program:
            program.type("hello\n")
            assert program.line() == "hello"
            program.noted("HTTP 503")
            program.type("lost\n")
            program.noted("not sent: lost")
            assert program.end_of_input() == (0, "")


def values(heard, count):
    return [json.loads(get(heard))["value"] for _ in range(count)]


@contextmanager
def serial_port(path):
    """A pseudo-terminal at *path*, as a serial port of which this returns the other end."""
    import pty

    device, port = pty.openpty()
    try:
        link = path.with_suffix(".new")
        link.symlink_to(os.ttyname(port))
        link.replace(path)  # there is always one, the old or the new
        yield device
    finally:
        os.close(port)
        os.close(device)


def test_measurements_of_a_serial_port_survive_a_drop_and_an_unplugged_cable(heard, tmp_path):
    wanted = threading.Event()

    def script(peer):
        if peer.number == 2:  # while there is no connection, it goes on measuring
            assert wanted.wait(PATIENCE)
        peer.accept()
        heard.put(peer.recv_message())
        if peer.number == 2:
            hear(peer, heard)

    path = tmp_path / "tty"
    with scripted_server(script) as server, serial_port(path) as cable:
        with Program("sensor", path, server.url) as program:
            program.noted(f"reading {path}")
            os.write(cable, b"1.5\r\n")
            assert values(heard, 1) == [1.5]
            program.noted("connecting again")
            os.write(cable, b"2\nnoise\nnan\n" + b"9" * 500 + b"\n3")
            os.write(cable, b".5\n")
            program.noted(f"not a number: b'{'9' * 100}'")
            wanted.set()
            assert values(heard, 2) == [2, 3.5]
            with serial_port(path) as other:
                os.write(other, b"4\n")
                unplug(cable)
                program.noted("will try again")
                assert values(heard, 1) == [4]
                assert program.end(signal.SIGTERM) == (-signal.SIGTERM, "")
    assert get(heard) == 1001
    assert program.notes.count("not a number") == 3


def unplug(cable):
    """Close the other end of a serial port; the descriptor stays, for who closes it."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, cable)
    os.close(null)


def test_measurements_that_could_not_be_sent_are_counted(tmp_path):
    later = Refuse(503, retry_after=3600)
    with fault_server(then=later) as server, pipe(tmp_path / "pipe") as writer:
        with Program("sensor", tmp_path / "pipe", server.url) as program:
            program.noted("connecting again")
            os.write(writer, b"1\n" * 1002 + b"noise\n")
            program.noted("noise")
            assert program.end(signal.SIGTERM) == (-signal.SIGTERM, "")
    assert program.notes.count("lost 1.0: 1000 messages wait for a connection") == 2
    assert "1000 measurements weren't sent" in program.notes


def test_a_job_is_done_and_the_next_one_over_another_connection(heard, tmp_path):
    (tmp_path / "firmware.bin").write_bytes(b"\0" * 100_000)

    def script(peer):
        peer.accept()
        names = ["firmware.bin", "missing"] if peer.number == 1 else ["../passwd", 3]
        for name in names:
            peer.send_message(json.dumps({"name": name}))
            heard.put(json.loads(peer.recv_message()))
        if peer.number == 2:
            hear(peer, heard)

    with scripted_server(script) as server:
        with Program("worker", server.url, tmp_path) as program:
            digest = hashlib.sha256(b"\0" * 100_000).hexdigest()
            assert get(heard) == {"name": "firmware.bin", "sha256": digest}
            assert get(heard)["error"].startswith("FileNotFoundError")
            assert get(heard)["error"] == "ValueError: that isn't the name of a file"
            assert get(heard)["error"].startswith("TypeError")
            assert program.end(signal.SIGTERM) == (-signal.SIGTERM, "")
    assert get(heard) == 1001
    assert "connecting again" in program.notes


@contextmanager
def worker_with_a_job(heard, folder):
    """A worker in the middle of a job; the file that it reads is a pipe, to whose end we write."""
    os.mkfifo(folder / "pipe")

    def script(peer):
        peer.accept()
        peer.send_message('{"name": "pipe"}')
        hear(peer, heard)

    with scripted_server(script) as server, Program("worker", server.url, folder) as program:
        with open(folder / "pipe", "wb", buffering=0) as writer:  # when it has opened it
            yield program, writer


def test_sigterm_lets_the_job_in_hand_come_to_its_end(heard, tmp_path):
    with worker_with_a_job(heard, tmp_path) as (program, writer):
        program.process.send_signal(signal.SIGTERM)
        program.noted("behind the job")
        writer.write(b"abc")
        writer.close()
        assert program.end() == (-signal.SIGTERM, "")
    assert json.loads(get(heard))["sha256"] == hashlib.sha256(b"abc").hexdigest()
    assert get(heard) == 1001


def test_a_second_signal_does_not_wait_for_the_job(heard, tmp_path):
    with worker_with_a_job(heard, tmp_path) as (program, _):
        program.process.send_signal(signal.SIGTERM)
        program.noted("behind the job")
        assert program.end(signal.SIGINT) == (-signal.SIGINT, "")


def test_each_feed_lives_by_itself(heard):
    def good(peer):
        peer.accept()
        peer.send_message(f"price {peer.number}")
        if peer.number == 2:
            hear(peer, heard)

    with scripted_server(good) as one, fault_server(messages=[b"\xff"]) as two:
        with fault_server(then=Refuse(403)) as three:
            urls = zip(("one", "two", "three"), (one.url, two.url, three.url))
            with Program("feeds", *(f"{name}={url}" for name, url in urls)) as program:
                lines = sorted(program.line() for _ in range(3))
                assert lines == ["one price 1", "one price 2", "two ff"]
                program.noted("three: server refused the WebSocket connection: HTTP 403")
                program.process.send_signal(signal.SIGUSR1)
                for report in ("one: open, 2", "two: open, 1", "three: closed, 0"):
                    program.noted(f"feeds: {report} messages")
                assert program.end(signal.SIGTERM) == (-signal.SIGTERM, "")
    assert get(heard) == 1001
    assert "one: connecting again" in program.notes
    assert three.connections == 1


def test_feeds_that_come_to_their_ends_tell_the_worst():
    with fault_server(then=Refuse(403)) as bad, fault_server(then=CloseWith(4000)) as worse:
        with Program("feeds", f"a={bad.url}", f"b={worse.url}") as program:
            assert program.end() == (1, "")


SECRET = "p@ss: w/rd%"


def ask(proxy, *questions, password=SECRET, user="me"):
    argv = [f"http://127.0.0.1:{proxy.port}", "ws://h.example/ask", *questions]
    variables = {"PROXY_USER": user, "PROXY_PASSWORD": password}
    with Program("proxy", *argv, **variables) as program:
        status, output = program.end()
    assert SECRET not in program.notes and "p%40ss" not in program.notes
    return status, output, program.notes


def test_questions_are_answered_through_the_proxy():
    with fault_server(then=Challenge("me", SECRET, "digest", proxy=True)) as proxy:
        assert ask(proxy, "one", "two") == (0, "one\ntwo\n", "")
    assert proxy.requests[0].target == "h.example:80"


def test_wrong_credentials_are_told_from_other_failures():
    with fault_server(then=Challenge("me", "another", proxy=True)) as proxy:
        status, output, notes = ask(proxy, "one")
    assert (status, output) == (1, "")
    assert notes.startswith("proxy: the proxy wants another PROXY_USER or PROXY_PASSWORD: ")

    with fault_server(then=Refuse(403)) as proxy:
        status, output, notes = ask(proxy, "one")
    assert (status, output) == (1, "")
    assert notes.startswith("proxy: the proxy doesn't let us through: ")


def test_what_a_lost_connection_has_left_is_asked_again():
    def script(peer):
        accept(peer)
        for _ in range(2 if peer.number == 2 else 1):
            peer.send_message(f"{peer.recv_message()}, {peer.number}")
        if peer.number == 2:
            peer.close(1000)

    with scripted_server(script) as proxy:
        status, output, notes = ask(proxy, "one", "two", "three", "four")
    assert (status, output) == (0, "one, 1\ntwo, 2\nthree, 2\nfour, 3\n")
    assert notes.count("connecting again") == 2


def test_a_feed_is_stored_over_several_connections(heard, tmp_path):
    def script(peer):
        peer.accept()
        for number in range(1500):  # more than the queue holds
            peer.send_message(f"{peer.number}\n{number}")
        peer.send_message(b"\xff")
        if peer.number == 2:
            peer.send_frame(Opcode.PING)
            while peer.recv_frame().opcode != Opcode.PONG:
                pass
            heard.put("received")
            hear(peer, heard)

    with scripted_server(script) as server:
        with Program("asyncio_feed", server.url, tmp_path / "file") as program:
            assert get(heard) == "received"
            assert program.end(signal.SIGTERM) == (-signal.SIGTERM, "")
    assert get(heard) == 1001
    numbers = [f"{n}\n{number}" for n in (1, 2) for number in [*range(1500), None]]
    lines = [json.loads(line) for line in (tmp_path / "file").read_text().splitlines()]
    assert lines == [{"hex": "ff"} if n.endswith("None") else n for n in numbers]
    assert "connecting again" in program.notes


FAULTS = [
    *(Refuse(503), Refuse(404), Refuse(503, retry_after=0), Redirect(), WrongAccept()),
    *(Garbage(), EndlessHeader(), Challenge("a", "b"), Drip(size=9, handshake=True)),
    *(Cut(), Cut(handshake=True), Cut(after=3), Reset(), Reset(after=20, handshake=True)),
    *(Stall(), Stall(after=40, handshake=True), Bomb(1 << 22), IgnoreClose(), Send(b"\x83\0")),
    *(CloseWith(code) for code in (1000, 1001, 1008, 1012, 4000)),
]


def test_the_services_meet_every_fault_that_there_is():
    public = [getattr(testing, name) for name in testing.__all__]
    kinds = {kind for kind in public if isinstance(kind, type) and issubclass(kind, testing.Fault)}
    assert {type(fault) for fault in FAULTS} == kinds - {testing.Fault}


def closed_feeds(path):
    return json.loads(path.read_text())["closed"]


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_loses_no_feed(name, tmp_path):
    """With every fault that there is; each feed is subscribed again on its next connection."""
    feeds = [f"feed{number}" for number in range(20)]
    health = tmp_path / "health"
    with fault_server(*FAULTS, messages=["news"]) as server:
        with Program(name, server.url, health, *feeds) as program:
            reads = threading.Thread(target=program.process.stderr.read, daemon=True)
            subscribed = set()
            while len(subscribed) < len(feeds) or server.connections < len(FAULTS):
                feed, _, message = program.line().partition(" ")
                # The server sends everything back.
                if json.loads(message) == json.dumps({"subscribe": feed}):
                    subscribed.add(feed)
            eventually(lambda: server.connections >= len(FAULTS) and not closed_feeds(health))
            assert json.loads(health.read_text())["feeds"] == 20
            program.process.send_signal(signal.SIGTERM)
            reads.start()
            assert program.process.wait(PATIENCE) == -signal.SIGTERM


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no such device")
def test_a_full_disk_ends_it_though_the_server_goes_on(heard):
    def script(peer):
        peer.accept()
        for _ in range(10_000):
            peer.send_message("price")
        hear(peer, heard)

    with scripted_server(script) as server:
        with Program("asyncio_feed", server.url, "/dev/full") as program:
            assert program.end() == (1, "")
    assert "No space left on device" in program.notes
