"""Every Python block of the documentation runs as it stands, against servers of our own."""

from __future__ import annotations

import os
import re
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from wsmini.testing import echo_server

ROOT = Path(__file__).parent.parent
CERTS = ROOT / "tests" / "certs"
DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks():
    for path in DOCS:
        for number, match in enumerate(re.finditer(r"```python\n(.*?)```", path.read_text(), re.S)):
            yield pytest.param(match[1], id=f"{path.stem}-{number}")


@pytest.fixture(scope="module")
def servers():
    """URLs in the documentation, and those that stand for them here."""
    names = {"localhost": "server.pem", "pinned.example": "self-signed.pem"}
    with echo_server() as plain:
        urls = {f"{scheme}://example.com": plain.url.rstrip("/") for scheme in ("ws", "wss")}
        secure = []
        try:
            for name, pem in names.items():
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(str(CERTS / pem))
                secure.append(echo_server(ssl=context).__enter__())
                urls[f"wss://{name}"] = f"wss://localhost:{secure[-1].port}"
            yield urls
        finally:
            for server in secure:
                server.close()


@pytest.mark.parametrize("code", list(blocks()))
def test_python_blocks_run(code, servers, monkeypatch):
    monkeypatch.chdir(CERTS)
    for shown, real in servers.items():
        code = code.replace(shown, real)
    exec(compile(code, "block", "exec"), {"__name__": "block"})


@pytest.mark.parametrize("code", [b for b in blocks() if "import pytest" in b.values[0]])
def test_examples_of_tests_pass(code, tmp_path):
    path = tmp_path / "test_example.py"
    path.write_text(code)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(path)]
    run = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE
    )
    assert run.returncode == 0, run.stdout.decode()
    assert b"1 passed" in run.stdout


def test_there_are_blocks():
    assert len(list(blocks())) >= 10
