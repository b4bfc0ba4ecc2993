"""Every Python block of the documentation runs as it stands, against servers of our own."""

from __future__ import annotations

import re
import ssl
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
                context.load_cert_chain(CERTS / pem)
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


def test_there_are_blocks():
    assert len(list(blocks())) >= 10
