"""What is measured, and how a client's seconds become a figure.

As a program: one measurement, in a process of its own, whose result it prints as JSON.

    python workloads.py CLIENT WORKLOAD JSON     # bench.py says how
"""

from __future__ import annotations

import json
import os
import sys
from collections import namedtuple
from time import perf_counter, process_time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Tuple

    from clients import Client

# kind: which method of the client. unit: what the figure is; lower is better of µs, ms and KiB.
Workload = namedtuple("Workload", "kind unit ring deflate secure one_record connections",
                      defaults=("", False, False, False, 1))  # fmt: skip

WORKLOADS: Dict[str, Workload] = {
    "echo 32 B": Workload("echo", "µs", "text-32"),
    "echo 1 KiB": Workload("echo", "µs", "text-1k"),
    "echo 1 MiB": Workload("echo", "µs", "text-1m"),
    "receive 100 B text": Workload("receive", "k/s", "text-100"),
    "receive 4 KiB": Workload("receive", "k/s", "binary-4k"),
    "receive 1 MiB": Workload("receive", "MB/s", "binary-1m"),
    "receive 64 MiB": Workload("receive", "MB/s", "binary-64m"),
    "send 100 B text": Workload("send", "k/s", "text-100"),
    "send 1 MiB": Workload("send", "MB/s", "binary-1m"),
    "deflate receive 1 KiB JSON": Workload("receive", "k/s", "json-1k", True),
    "deflate send 1 KiB JSON": Workload("send", "k/s", "json-1k", True),
    "wss echo 32 B": Workload("echo", "µs", "text-32", secure=True),
    "wss echo 1 MiB": Workload("echo", "µs", "text-1m", secure=True),
    "wss receive 100 B text": Workload("receive", "k/s", "text-100", secure=True),
    "wss receive 100 B, a record each": Workload(
        "receive", "k/s", "text-100", secure=True, one_record=True
    ),
    "wss receive 1 MiB": Workload("receive", "MB/s", "binary-1m", secure=True),
    "wss send 100 B text": Workload("send", "k/s", "text-100", secure=True),
    "wss send 1 MiB": Workload("send", "MB/s", "binary-1m", secure=True),
    "connect ws": Workload("connect", "ms"),
    "connect wss, context given": Workload("connect", "ms", secure=True),
    "connect wss, defaults, first, with the import": Workload("cold", "ms", secure=True),
    "connect wss, defaults, later": Workload("warm", "ms", secure=True),
    "echo on 1 connection of a loop": Workload("many", "µs", "text-32"),
    "echo on 100 connections": Workload("many", "µs", "text-32", connections=100),
    "echo on 1000 connections": Workload("many", "µs", "text-32", connections=1000),
    "idle connection": Workload("idle", "KiB"),
    "idle connection, deflate": Workload("idle", "KiB", deflate=True),
    "import: time": Workload("import_time", "ms"),
    "import: memory": Workload("import_memory", "KiB"),
    "import: modules": Workload("import_modules", ""),
}
HIGHER_IS_BETTER = ("k/s", "MB/s")
IDLE = 500  # connections
MANY = 20000  # echoes in all


# -- what the system says --


def server_seconds(path: str) -> float:
    """How long the server has worked."""
    with open(path, "rb") as file:
        return int.from_bytes(file.read(8), "little") / 1e9


def processor_seconds(pid: int) -> float:
    """What the server has used of a processor, most of it for waiting."""
    with open(f"/proc/{pid}/schedstat") as file:
        return int(file.read().split()[0]) / 1e9


def busy_seconds() -> float:
    """Processor time of everything on the machine."""
    with open("/proc/stat") as file:
        user, nice, system, _, _, irq, softirq = map(int, file.readline().split()[1:8])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def memory() -> int:
    """Bytes of memory that only this process has."""
    import gc

    gc.collect()
    with open("/proc/self/smaps_rollup") as file:
        rows = [line.split() for line in file]
    return 1024 * sum(int(row[1]) for row in rows if row[0].startswith("Private_"))


# -- one measurement --


class Measurement:
    """A client and a workload, and what the server and the others on the machine did meanwhile."""

    def __init__(
        self, client: Client, workload: Workload, settings: Dict[str, Any], prepared: float
    ) -> None:
        self.client, self.workload, self.settings = client, workload, settings
        self.prepared = prepared  # seconds to import the client
        from payloads import messages

        self.ring = messages(workload.ring) if workload.ring else []
        self.count = 0

    def url(self) -> str:
        workload = self.workload
        scheme, port = ("wss", "tls_port") if workload.secure else ("ws", "port")
        path = {"send": "sink"}.get(workload.kind, "echo")
        if workload.kind == "receive":
            suffix = ".deflate" if workload.deflate else ""
            path = f"flood{'1' * workload.one_record}/{workload.ring}{suffix}"
        host = "localhost" if workload.secure else "127.0.0.1"
        return f"{scheme}://{host}:{self.settings[port]}/{path}"

    def watched(self, run: Callable[[], Any]) -> Any:
        """Run, and see what else ran; by the clock, with what is before and behind the timing."""
        path, pid = self.settings["server"], self.settings["pid"]
        used = process_time() + processor_seconds(pid)
        server, busy, begin = server_seconds(path), busy_seconds(), perf_counter()
        result = run()
        seconds = perf_counter() - begin
        self.server = (server_seconds(path) - server) / seconds
        used = process_time() + processor_seconds(pid) - used
        self.foreign = max(0.0, (busy_seconds() - busy - used) / seconds)
        return result

    def repeat(self, rate: float) -> int:
        """How many operations take about as long as asked for."""
        return max(1, min(4000000, int(rate * self.settings["seconds"])))

    def figure(self, seconds: float, count: int) -> float:
        self.count = count
        unit = self.workload.unit
        if unit == "MB/s":
            return count * len(self.ring[0]) / seconds / 1e6
        return count / seconds / 1e3 if unit == "k/s" else seconds / count * 1e6

    def echo(self) -> float:
        url, message = self.url(), self.ring[0]
        count = 3 if len(message) > 100000 else 200
        count = self.repeat(count / self.client.echo(url, message, count))
        return self.figure(self.watched(lambda: self.client.echo(url, message, count)), count)

    def receive(self) -> float:
        size, receive = len(self.ring[0]), self.client.receive
        first = max(len(self.ring), 1) if size > 100000 else 2000
        probes = [first, first]
        if size < 1 << 25:
            probes = [first, first * 4]
        rate = probes[1] / receive(self.url(), self.ring, probes)[1]
        count = self.repeat(rate) if size < 1 << 25 else 4
        counts = [first, count]
        seconds = self.watched(lambda: receive(self.url(), self.ring, counts))[1]
        return self.figure(seconds, count)

    def send(self) -> float:
        from clients import check
        from payloads import receipt

        count = 4 if len(self.ring[0]) > 100000 else 1000
        seconds, answer = self.client.send(self.url(), self.ring, count)
        check(receipt(self.ring, count), answer)
        count = self.repeat(count / seconds)
        seconds, answer = self.watched(lambda: self.client.send(self.url(), self.ring, count))
        check(receipt(self.ring, count), answer)
        return self.figure(seconds, count)

    def connect(self) -> float:
        from statistics import median

        url = self.url()
        seconds = median(self.client.connect(url, 5))
        self.count = min(1000, max(5, self.repeat(1 / seconds)))
        return median(self.watched(lambda: self.client.connect(url, self.count))) * 1e3

    def cold(self) -> float:
        """With the import, during which some clients load the certificates."""
        self.count = 1
        return (self.watched(lambda: self.client.connect(self.url(), 1))[0] + self.prepared) * 1e3

    def warm(self) -> float:
        self.client.connect(self.url(), 1)
        return self.connect()

    def many(self) -> float:
        if not hasattr(self.client, "many"):
            raise NotImplementedError("it blocks")
        connections, url, message = self.workload.connections, self.url(), self.ring[0]
        if connections == 1:
            self.client.many(url, message, 1, 500)
        count = max(MANY // connections, 20)
        seconds = self.watched(lambda: self.client.many(url, message, connections, count))
        return self.figure(seconds, count * connections)

    def idle(self) -> float:
        self.count = IDLE
        return self.watched(lambda: self.client.idle(self.url(), IDLE, memory)) / 1024


def measure(name: str, workload: Workload, settings: Dict[str, Any]) -> Dict[str, Any]:
    """The result of one measurement."""
    from clients import CLIENTS, module_client

    added = settings["added"].get(name)
    make = module_client(added) if added else CLIENTS[name]
    context = None
    if workload.secure and workload.kind not in ("cold", "warm"):
        import ssl

        context = ssl.create_default_context(cafile=os.path.join(ROOT, "tests/certs/ca.pem"))
    begin = perf_counter()
    client = make(context, workload.deflate, workload.ring == "binary-64m")
    measurement = Measurement(client, workload, settings, perf_counter() - begin)
    value = getattr(measurement, workload.kind)()
    return {
        "value": value, "count": measurement.count,
        "server": measurement.server, "foreign": measurement.foreign,
    }  # fmt: skip


# What it takes to import a client, measured where nothing else was imported. Raw sockets need
# what they use.
IMPORT = """
import sys, time
def pages():
    with open("/proc/self/statm") as file:
        return [int(n) for n in file.read().split()[1:3]]
loaded, before, begin = len(sys.modules), pages(), time.perf_counter()
import {modules}
seconds, after = time.perf_counter() - begin, pages()
private = (after[0] - after[1]) - (before[0] - before[1])
print(seconds * 1e3, private * 4, len(sys.modules) - loaded)
"""


def import_command(name: str, settings: Dict[str, Any]) -> Tuple[str, ...]:
    from clients import CLIENTS

    if name in settings["added"]:
        raise NotImplementedError("no package")
    module = CLIENTS[name].module if name != "raw" else "socket, os, struct"
    prefix = f"import sys; sys.path.insert(0, {ROOT!r})\n"
    if name == "websocket-client":
        prefix += "sys.modules['wsaccel'] = None\n"
    return sys.executable, "-c", prefix + IMPORT.format(modules=module)


def measure_import(name: str, kind: str, settings: Dict[str, Any]) -> Dict[str, Any]:
    import subprocess

    output = subprocess.run(
        import_command(name, settings), stdout=subprocess.PIPE, check=True, timeout=60
    ).stdout.split()
    value = float(output["import_time import_memory import_modules".split().index(kind)])
    return {"value": value, "count": 1, "server": 0.0, "foreign": 0.0}


def main() -> None:
    sys.path.insert(0, ROOT)
    name, workload_name, settings = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    workload = WORKLOADS[workload_name]
    try:
        if workload.kind.startswith("import"):
            result = measure_import(name, workload.kind, settings)
        else:
            result = measure(name, workload, settings)
    except (NotImplementedError, ModuleNotFoundError) as exc:
        result = {"absent": str(exc)}
    print(json.dumps(result), flush=True)
    os._exit(0)  # hundreds of idle connections need no goodbye


if __name__ == "__main__":
    main()
