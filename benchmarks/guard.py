"""Guard against slowness: what a message costs, counted rather than timed.

Each workload runs in a Python of its own, and says by a system call that does nothing where what is
counted begins and ends. Instructions are counted by ``valgrind --tool=callgrind`` (of the process,
not the kernel), system calls by ``strace``. Neither depends on how busy the machine is: one thread
plays both ends of a socket pair, nothing waits, hash seeds and addresses are fixed. The peer's part
is among what is counted, and constant.

    python benchmarks/guard.py [--record] [--only WORKLOAD...]

Exits with status 1 if a workload costs more than ``guard.json`` says, with some tolerance; it asks
for a new record if one costs less. Instructions depend on the build of Python and are recorded for
each minor version and machine; for one that isn't recorded, only system calls are compared.
"""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import threading

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
RECORD = os.path.join(ROOT, "benchmarks", "guard.json")
CERTS = os.path.join(ROOT, "tests", "certs")
sys.path.insert(0, ROOT)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

    from wsmini import Connection

    Workload = Callable[[Any, socket.socket, int], None]

MACHINE = os.uname().machine
PYTHON = "{}.{} {}".format(*sys.version_info[:2], MACHINE)
INSTRUCTIONS_TOLERANCE = 0.02  # of the record; other libraries count a little differently
CALLS_TOLERANCE = 0.02  # a message
# System calls that aren't counted: they depend on what was in the memory before.
MEMORY = set("brk madvise mmap mremap munmap".split())
TEXT = b"\x81\x64" + b"x" * 100
BATCH = 128  # messages that the peer sends at once
MARK = "getppid"  # the system call, and the function in libc


class OnLoop:
    """A ``Client`` on its loop, open when the handshake is answered."""

    def __init__(self, url: str, **options: Any) -> None:
        import wsmini

        self.loop = wsmini.Loop()
        self.client = wsmini.Client(url, reconnect=wsmini.NoReconnect(), **options)
        self.client.start(self.loop)
        while self.client.state is not wsmini.State.OPEN:
            self.loop.run_once()


class OnAsyncio:
    """An ``aio.Connection`` and asyncio's loop."""

    def __init__(self, url: str, **options: Any) -> None:
        import asyncio

        import wsmini.aio

        self.loop = asyncio.new_event_loop()

        async def connect() -> wsmini.aio.Connection:
            return await wsmini.aio.connect(url, **options)

        self.ws = self.loop.run_until_complete(connect())


# -- workloads: one end is the connection, the other a socket of the same thread --


def frames(n: int, frame: bytes = TEXT) -> Iterator[Tuple[int, bytes]]:
    """*n* messages in batches: (messages, bytes)."""
    for _ in range(n // BATCH):
        yield BATCH, frame * BATCH


def echo(ws: Connection, peer: socket.socket, n: int) -> None:
    answer = b"\x81\x20" + b"x" * 32
    for _ in range(n):
        ws.send("x" * 32)
        peer.recv(100)
        peer.send(answer)
        ws.recv()


def receive(ws: Connection, peer: socket.socket, n: int) -> None:
    for count, data in frames(n):
        peer.send(data)
        for _ in range(count):
            ws.recv()


def iterate(ws: Connection, peer: socket.socket, n: int) -> None:
    messages = iter(ws)
    for count, data in frames(n):
        peer.send(data)
        for _ in range(count):
            next(messages)


def send(ws: Connection, peer: socket.socket, n: int) -> None:
    message = "x" * 100
    for _ in range(n // BATCH):
        for _ in range(BATCH):
            ws.send(message)
        peer.recv(1 << 17)


def send_large(ws: Connection, peer: socket.socket, n: int) -> None:
    message, buffer = bytes(100000), bytearray(100014)
    for _ in range(n):
        ws.send(message)
        peer.recv_into(buffer, len(buffer), socket.MSG_WAITALL)


def send_translated(ws: Connection, peer: socket.socket, n: int) -> None:
    """The same, masked without libcrypto."""
    send_large(ws, peer, n)


def receive_medium(ws: Connection, peer: socket.socket, n: int) -> None:
    frame = b"\x82\x7e\x10\x00" + bytes(4096)
    for _ in range(n // 16):
        peer.send(frame * 16)
        for _ in range(16):
            ws.recv()


def receive_large(ws: Connection, peer: socket.socket, n: int) -> None:
    frame = b"\x82\x7f" + (120000).to_bytes(8, "big") + bytes(120000)
    for _ in range(n):
        peer.send(frame)
        ws.recv()


def tls_echo(ws: Connection, peer: socket.socket, n: int) -> None:
    echo(ws, peer, n)


def tls_receive(ws: Connection, peer: socket.socket, n: int) -> None:
    receive(ws, peer, n)


def inflate(ws: Connection, peer: socket.socket, n: int) -> None:
    import zlib

    deflater = zlib.compressobj(wbits=-12)
    for number in range(n):
        text = b'{"id": %d, "name": "a name", "tags": ["one", "two", "three"]}' % number
        data = (deflater.compress(text) + deflater.flush(zlib.Z_SYNC_FLUSH))[:-4]
        peer.send(bytes((0xC1, len(data))) + data)
        ws.recv()


# Those of the other front ends have the loop as well.


def client_echo(ended: OnLoop, peer: socket.socket, n: int) -> None:
    client, answer = ended.client, b"\x81\x20" + b"x" * 32
    client.on_message = lambda client, message: client.send(message)
    peer.send(answer)
    for _ in range(n):
        ended.loop.run_once()
        peer.recv(100)
        peer.send(answer)
    ended.loop.run_once()
    peer.recv(100)


def client_receive(ended: OnLoop, peer: socket.socket, n: int) -> None:
    got: List[object] = []
    ended.client.on_message = lambda client, message: got.append(message)
    for count, data in frames(n):
        peer.send(data)
        while len(got) < count:
            ended.loop.run_once()
        got.clear()


def aio_echo(ended: OnAsyncio, peer: socket.socket, n: int) -> None:
    answer = b"\x81\x20" + b"x" * 32

    async def run() -> None:
        for _ in range(n):
            await ended.ws.send("x" * 32)
            peer.recv(100)
            peer.send(answer)
            await ended.ws.recv()

    ended.loop.run_until_complete(run())


def aio_receive(ended: OnAsyncio, peer: socket.socket, n: int) -> None:
    async def run() -> None:
        for count, data in frames(n):
            peer.send(data)
            for _ in range(count):
                await ended.ws.recv()

    ended.loop.run_until_complete(run())


# Workload -> how many messages are counted.
MESSAGES: Dict[Callable[[Any, socket.socket, int], None], int] = {
    echo: 1024,
    receive: 8192,
    iterate: 8192,
    send: 2048,
    send_large: 256,
    send_translated: 256,
    receive_medium: 2048,
    receive_large: 256,
    inflate: 1024,
    tls_echo: 512,
    tls_receive: 4096,
    client_echo: 1024,
    client_receive: 8192,
    aio_echo: 1024,
    aio_receive: 8192,
}
BY_NAME = {workload.__name__: workload for workload in MESSAGES}


def answer_handshake(peer: socket.socket, extensions: str) -> None:
    from wsmini.sansio.handshake import accept_key

    head = b""
    while b"\r\n\r\n" not in head:
        head += peer.recv(65536)
    key = re.search(rb"(?i)sec-websocket-key: *(\S+)", head)
    assert key is not None
    peer.sendall(
        b"HTTP/1.1 101 OK\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: %s\r\n%s\r\n"
        % (accept_key(key[1].decode()).encode(), extensions.encode())
    )


def run(workload: Workload) -> None:
    """Run *workload*, after some messages that aren't counted."""
    import ssl

    import wsmini

    name = workload.__name__
    os.environ["WSMINI_NO_CTYPES"] = "1" if workload is send_translated else ""
    ours, theirs = socket.socketpair()
    for sock in (ours, theirs):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    peers = [theirs]
    secure = name.startswith("tls_")
    client_context: Optional[ssl.SSLContext] = None
    if secure:
        client_context = ssl.create_default_context(cafile=os.path.join(CERTS, "ca.pem"))

    def serve() -> None:
        if secure:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(os.path.join(CERTS, "server.pem"))
            peers[0] = context.wrap_socket(theirs, server_side=True)
        deflate = "Sec-WebSocket-Extensions: permessage-deflate\r\n"
        answer_handshake(peers[0], deflate if workload is inflate else "")

    server = threading.Thread(target=serve)
    server.start()
    connect: Callable[..., Any] = wsmini.connect
    if name.startswith(("client_", "aio_")):
        connect = OnLoop if name.startswith("client_") else OnAsyncio
    ws = connect(
        "wss://localhost/" if secure else "ws://localhost/",
        sock=ours,
        ssl=client_context,
        ping_interval=None,
        open_timeout=None,  # valgrind takes its time
        compression="deflate" if workload is inflate else None,
    )
    server.join()
    n = MESSAGES[workload]
    workload(ws, peers[0], n // 4)
    os.getppid()  # MARK
    workload(ws, peers[0], n)
    os.getppid()
    os._exit(0)  # closing would wait for the peer


# -- counting --


def child(*command: str) -> None:
    """Run *command*, with what is random as fixed as can be."""
    import shutil
    import subprocess

    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    if shutil.which("setarch"):
        command = ("setarch", MACHINE, "-R", *command)
    run = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300
    )
    if run.returncode:
        sys.exit(f"{' '.join(command)}\n{run.stdout.decode()}")


def instructions(name: str, folder: str) -> float:
    """Instructions for a message, of both ends."""
    path = os.path.join(folder, f"{name}.callgrind")
    valgrind = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={path}"]
    child(*valgrind, f"--dump-before={MARK}", sys.executable, __file__, "--run", name)
    with open(f"{path}.2") as file:  # the part between the first mark and the second
        found = re.search(r"^summary: (\d+)", file.read(), re.M)
    assert found is not None
    return int(found[1]) / MESSAGES[BY_NAME[name]]


def calls(name: str, folder: str) -> float:
    """System calls for a message, of both ends."""
    path = os.path.join(folder, f"{name}.strace")
    child("strace", "-f", "-o", path, sys.executable, __file__, "--run", name)
    with open(path) as file:
        before, between, after = re.split(rf".*\b{MARK}\(.*", file.read())
    names = re.findall(r"^\d+ +(\w+)\(", between, re.MULTILINE)
    return sum(name not in MEMORY for name in names) / MESSAGES[BY_NAME[name]]


def verdict(what: str, measured: float, recorded: Optional[float], tolerance: float) -> str:
    """``""`` if *measured* is as recorded, else what is wrong."""
    if recorded is None:
        return ""
    if measured > recorded + tolerance:
        return f"MORE {what} than recorded"
    if measured < recorded - tolerance:
        return f"fewer {what}: record that (--record)"
    return ""


def main() -> int:
    import argparse
    import tempfile
    from concurrent.futures import ThreadPoolExecutor
    from shutil import which

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--record", action="store_true", help="write what is counted to guard.json")
    parser.add_argument("--only", nargs="+", choices=BY_NAME, default=list(BY_NAME))
    arguments = parser.parse_args()
    record: Dict[str, Dict[str, object]] = {}
    if os.path.exists(RECORD):
        with open(RECORD) as file:
            record = json.load(file)
    recorded = record.setdefault("instructions", {}).get(PYTHON, {})
    counts: Dict[str, Callable[[str, str], float]] = {"calls": calls}
    for tool in ("strace", "valgrind"):
        if not which(tool):
            sys.exit(f"{tool} is missing: install Debian's package of that name")
    if recorded or arguments.record:
        counts["instructions"] = instructions
    else:
        print(f"no instructions are recorded for {PYTHON}: only system calls are compared")
    found: Dict[str, Dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        for what, count in counts.items():
            costs = pool.map(count, arguments.only, [folder] * len(arguments.only))
            found[what] = dict(zip(arguments.only, costs))
    if arguments.record:
        record.setdefault("calls", {}).update(
            {name: round(value, 3) for name, value in found["calls"].items()}
        )
        record["instructions"].setdefault(PYTHON, {}).update(
            {name: round(value) for name, value in found["instructions"].items()}
        )
        with open(RECORD, "w") as file:
            file.write(json.dumps(record, indent=2, sort_keys=True) + "\n")
    return report(found, record)


def report(found: Dict[str, Dict[str, float]], record: Dict[str, Dict[str, object]]) -> int:
    """Print the costs beside the record; the exit status."""
    failed = False
    for name in found["calls"]:
        line, problems = f"{name:16}", []
        measured = found["calls"][name]
        known = record.get("calls", {}).get(name)
        line += f"{measured:9.3f} system calls ({'-' if known is None else f'{known:.3f}'})"
        problems.append(verdict("system calls", measured, known, CALLS_TOLERANCE))
        if "instructions" in found:
            measured = found["instructions"][name]
            known = record["instructions"].get(PYTHON, {}).get(name)
            change = f"{measured / known - 1:+.1%}" if known else "not recorded"
            line += f"{measured:12,.0f} instructions ({change})"
            tolerance = INSTRUCTIONS_TOLERANCE * (known or 0)
            problems.append(verdict("instructions", measured, known, tolerance))
        problem = "; ".join(filter(None, problems))
        failed = failed or "MORE" in problem
        print(f"{line}  {problem}".rstrip(), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--run"]:  # before anything is imported that takes time under valgrind
        run(BY_NAME[sys.argv[2]])
    sys.exit(main())
