"""wsmini beside other clients, in one run; `make bench` installs what it needs first.

    python benchmarks/bench.py [--workloads PATTERN...] [--clients PATTERN...] [--rounds 5]
        [--seconds 0.5] [--cores CLIENT,SERVER] [--json FILE] [--write]

Each measurement is a process of its own. In each round every client has its turn with a workload
before the next workload comes, and rounds follow one another, so that what disturbs the machine
for a while disturbs all alike. The table has medians over the rounds. Every run checks what came:
the number of messages, their length, their content. A client that can't do a workload is listed as
absent, with the reason, and so is one that fails.

``--write`` puts the table into docs/performance.md; ``--from FILE`` does it with an earlier result.
"""

from __future__ import annotations

import argparse
import compileall
import fnmatch
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from clients import CLIENTS
from payloads import write_rings
from report import markdown, write_page
from workloads import ROOT, WORKLOADS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Iterable, List, Sequence

HERE = Path(__file__).resolve().parent
CERTS = Path(ROOT, "tests", "certs")
LONGEST = 60  # seconds, of one measurement
SERVER_LIFE = 4 * 3600  # seconds


class Server:
    """The server, for a ``with`` statement: its ports and its process."""

    def __init__(self, program: Path, folder: str, core: int) -> None:
        write_rings(folder)
        command = ["taskset", "-c", str(core), str(program)]
        self.process = subprocess.Popen(
            [*command, folder, str(CERTS / "server.pem"), str(SERVER_LIFE)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self.process.stdout is not None
        ports = self.process.stdout.readline().split()
        if len(ports) != 2:
            sys.exit("the server didn't start")
        self.ports = [int(port) for port in ports]

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *exc: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(10)


def trusted_bundle(folder: str) -> str:
    """The system's authorities and ours in one file: a default context loads as much as anywhere.

    What a client connects to with its defaults is trusted through ``SSL_CERT_FILE``.
    """
    import ssl

    system = ssl.get_default_verify_paths().cafile
    candidates = [system, "/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/cert.pem"]
    bundle = next((path for path in candidates if path and os.path.exists(path)), None)
    if bundle is None:
        sys.exit("expected a bundle of the system's certificates, and found none")
    path = Path(folder, "bundle.pem")
    path.write_text(Path(bundle).read_text() + "\n" + (CERTS / "ca.pem").read_text())
    return str(path)


def measure(
    client: str, workload: str, core: int, settings: Dict[str, Any], bundle: str
) -> Dict[str, Any]:
    """One measurement; ``{"absent": reason}`` if there is none."""
    environment = {**os.environ, "SSL_CERT_FILE": bundle, "no_proxy": "*", "NO_PROXY": "*"}
    command = ["taskset", "-c", str(core), sys.executable, str(HERE / "workloads.py")]
    try:
        run = subprocess.run(
            [*command, client, workload, json.dumps(settings)], env=environment, timeout=LONGEST,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"absent": f"took longer than {LONGEST} s"}
    lines = run.stdout.decode().splitlines()
    if not lines:
        errors = run.stderr.decode().strip().splitlines() or [f"status {run.returncode}"]
        return {"absent": f"failed: {errors[-1][:150]}"}
    result: Dict[str, Any] = json.loads(lines[-1])
    return result


def matching(patterns: Sequence[str], names: Iterable[str]) -> List[str]:
    """Those of *names* that a pattern is part of or matches, or is with a = in front; or all."""
    chosen = [
        name for name in names
        if not patterns
        or any(p[1:] == name if p[:1] == "=" else p in name or fnmatch.fnmatch(name, p)
               for p in patterns)
    ]  # fmt: skip
    if not chosen:
        sys.exit(f"nothing is called {' or '.join(patterns)}")
    return chosen


def versions() -> Dict[str, str]:
    from importlib.metadata import version

    found = {client.package: version(client.package) for client in CLIENTS.values()
             if client.package}  # fmt: skip
    sys.path.insert(0, ROOT)
    import wsmini

    return {"wsmini": wsmini.__version__, "wsaccel": version("wsaccel"), **found}


def sizes() -> Dict[str, float]:
    """KiB on disk of each client's packages, with what they require."""
    from importlib.metadata import distribution

    def names(package: str, seen: List[str]) -> List[str]:
        if package not in seen:
            seen.append(package)
            for requirement in distribution(package).requires or ():
                if "extra ==" not in requirement and "python_version <" not in requirement:
                    name = requirement.replace(";", " ").split()[0]
                    for sign in "<>=!~[(":
                        name = name.partition(sign)[0]
                    try:
                        names(name, seen)
                    except ModuleNotFoundError:
                        pass  # not for this system
        return seen

    found = {}
    for client, made in CLIENTS.items():
        if client.startswith("wsmini"):
            paths = Path(ROOT, "wsmini").rglob("*.py")
        elif made.package is None:
            continue
        else:
            packages = names(made.package, [])
            if client.endswith("wsaccel"):
                packages.append("wsaccel")
            paths = (
                Path(str(file.locate()))
                for package in packages for file in distribution(package).files or ()
                if file.suffix != ".pyc"
            )  # fmt: skip
        found[client] = sum(path.stat().st_size for path in paths if path.exists()) / 1024
    return found


def machine() -> Dict[str, str]:
    with open("/proc/cpuinfo") as file:
        models = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    import ssl
    import zlib

    return {
        "processor": f"{models[0] if models else platform.machine()}, {os.cpu_count()} cores",
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "openssl": ssl.OPENSSL_VERSION, "zlib": zlib.ZLIB_RUNTIME_VERSION,
        "date": time.strftime("%Y-%m-%d"),
    }  # fmt: skip


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workloads", nargs="+", default=[], help="parts of names; all by default")
    parser.add_argument("--clients", nargs="+", default=[], help="parts of names, or =NAME")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5, help="that a measurement takes")
    parser.add_argument("--cores", help="CLIENT,SERVER: where to run the two")
    parser.add_argument("--json", default="", help="where to put the results")
    parser.add_argument("--from", dest="earlier", help="report these results; measure nothing")
    parser.add_argument("--write", action="store_true", help="put the table in the documentation")
    add = "a module with connect(url, ssl=, compression=), as a client"
    parser.add_argument("--add", action="append", default=[], metavar="NAME=FILE", help=add)
    parser.add_argument("--server", default=str(Path(sys.prefix, "server")))
    return parser.parse_args()


def run(arguments: argparse.Namespace) -> Dict[str, Any]:
    """All rounds: {"machine", "versions", "sizes", "results": {workload: {client: [...]}}}."""
    cores = sorted(os.sched_getaffinity(0))
    client_core, server_core = cores[0], cores[-1]
    if arguments.cores:
        client_core, server_core = map(int, arguments.cores.split(","))
    elif len(cores) < 2:
        print("one core for both: the server disturbs what is measured", file=sys.stderr)
    added = dict(pair.split("=", 1) for pair in arguments.add)
    clients = matching(arguments.clients, [*CLIENTS, *added])
    workloads = matching(arguments.workloads, WORKLOADS)
    results: Dict[str, Dict[str, List[Any]]] = {w: {c: [] for c in clients} for w in workloads}
    compileall.compile_dir(Path(ROOT, "wsmini"), quiet=1)  # as an installed package is
    with tempfile.TemporaryDirectory() as folder:
        bundle = trusted_bundle(folder)
        with Server(Path(arguments.server), folder, server_core) as server:
            settings = {
                "port": server.ports[0], "tls_port": server.ports[1], "added": added,
                "server": str(Path(folder, "busy")), "pid": server.process.pid,
                "seconds": arguments.seconds,
            }  # fmt: skip
            for number in range(arguments.rounds):
                for workload in workloads:
                    begin = time.monotonic()
                    for client in clients:
                        before = results[workload][client]
                        if not (before and "absent" in before[-1]):
                            before.append(measure(client, workload, client_core, settings, bundle))
                    took = time.monotonic() - begin
                    print(f"round {number + 1}: {workload}, {took:.0f} s", file=sys.stderr)
    return {
        "machine": machine(), "versions": versions(), "sizes": sizes(), "results": results,
        "rounds": arguments.rounds,
    }  # fmt: skip


def main() -> int:
    arguments = parse()
    if arguments.earlier:
        found = json.loads(Path(arguments.earlier).read_text())
    else:
        found = run(arguments)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(found, indent=1))
    print(markdown(found))
    if arguments.write:
        write_page(found, Path(ROOT, "docs", "performance.md"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
