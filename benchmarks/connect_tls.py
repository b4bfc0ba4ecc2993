"""How much faster a program reconnects over TLS than it connected the first time.

The first connection of a process loads the system's certificates; later ones take the cached
context and resume the TLS session. Both are measured in one fresh process, several times, against
a server in another one. Its authority is trusted through ``SSL_CERT_FILE``, in a copy of the
system's bundle, so that as much is loaded as in the field.

    python benchmarks/connect_tls.py [--rounds 5] [--at-least 5]
"""

from __future__ import annotations

import argparse
import os
import ssl
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CERTS = ROOT / "tests" / "certs"
sys.path.insert(0, str(ROOT))

CLIENT = """
import json, sys, time
import wsmini

def connect():
    start = time.perf_counter()
    with wsmini.connect(sys.argv[1], compression=None) as ws:
        return time.perf_counter() - start, ws.timings["tls"]

first = connect()
later = [connect() for _ in range(20)]
print(json.dumps([first, later]))
"""

SERVER = """
import ssl, sys
from wsmini.testing import echo_server

context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1])
with echo_server(ssl=context) as server:
    print(server.port, flush=True)
    sys.stdin.read()
"""


def trusted_bundle(folder: str) -> str:
    """The system's authorities and ours, in one file."""
    system = ssl.get_default_verify_paths().cafile
    candidates = [system, "/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/cert.pem"]
    bundle = next((path for path in candidates if path and os.path.exists(path)), None)
    if bundle is None:
        sys.exit("expected a bundle of the system's certificates, and found none")
    path = os.path.join(folder, "bundle.pem")
    with open(path, "w") as file:
        file.write(Path(bundle).read_text() + "\n" + (CERTS / "ca.pem").read_text())
    return path


def measure(url: str, environment: dict[str, str]) -> tuple[float, float]:
    """Seconds that the first connection of a process takes, and the median of the later ones."""
    import json

    command = [sys.executable, "-c", CLIENT, url]
    output = subprocess.run(
        command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, check=True, timeout=60
    ).stdout
    first, later = json.loads(output)
    return first[0], statistics.median(total for total, _ in later)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--at-least", type=float, default=0.0, help="fail below this ratio")
    arguments = parser.parse_args()
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(CERTS / "server.pem")],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with server, tempfile.TemporaryDirectory() as folder:
        try:
            port = int(server.stdout.readline())
            environment = {**os.environ, "SSL_CERT_FILE": trusted_bundle(folder)}
            environment["no_proxy"] = "*"
            url = f"wss://localhost:{port}/"
            rounds = [measure(url, environment) for _ in range(arguments.rounds)]
        finally:
            server.stdin.close()
    first = statistics.median(cold for cold, _ in rounds)
    later = statistics.median(warm for _, warm in rounds)
    ratio = statistics.median(cold / warm for cold, warm in rounds)
    print(f"first {first * 1e3:.1f} ms, later {later * 1e3:.2f} ms, ratio {ratio:.1f}")
    return 0 if ratio >= arguments.at_least else 1


if __name__ == "__main__":
    sys.exit(main())
