"""Every example of the documentation runs as it stands; ``test_pages`` checks the rest.

Names such as ``example.com`` are replaced by servers of our own, see ``doc_servers``.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
import sys

import doc_servers
import pytest
from helpers import CERTS, PATIENCE, ROOT

from wsmini import Backoff, Fixed, policies

DOCS = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]


def fenced(language):
    for path in DOCS:
        text = path.read_text(encoding="utf-8")
        found = re.finditer(rf"^```{language}\n(.*?)^```", text, re.S | re.M)
        for number, match in enumerate(found):
            yield f"{path.stem}-{number}", match[1]


PYTHON = dict(fenced("python"))


@pytest.fixture(scope="module")
def servers():
    with doc_servers.running() as found:
        yield found


@pytest.fixture(autouse=True)
def no_proxies_of_this_machine(monkeypatch):
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@contextlib.contextmanager
def through_proxies(text, proxies):
    """Fail unless what is done goes through the proxies that *text* names."""
    used = {name: proxies[name].used for name in proxies if name in text}
    yield
    for name, before in used.items():
        assert proxies[name].used > before, f"it didn't go through {name}"


def real(text, names):
    """*text* with the servers that are here in the place of those it names."""
    longest_first = sorted(names, key=len, reverse=True)
    return re.sub("|".join(map(re.escape, longest_first)), lambda match: names[match[0]], text)


# -- examples --


@pytest.mark.parametrize("code", PYTHON.values(), ids=PYTHON)
def test_python_blocks_run(code, servers, monkeypatch):
    names, proxies = servers
    monkeypatch.chdir(CERTS)
    for policy in (Backoff, Fixed):  # the servers here close with 1000: that is to end loops
        monkeypatch.setitem(policy.__init__.__kwdefaults__, "after_normal_close", False)
    monkeypatch.setattr(policies._USUAL, "after_normal_close", False)
    with through_proxies(code, proxies):
        exec(compile(real(code, names), "block", "exec"), {"__name__": "block"})


@pytest.mark.parametrize("code", [code for code in PYTHON.values() if "import pytest" in code])
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
    assert len(PYTHON) >= 60
    assert len(COMMANDS) >= 10


# What a shell block may hold besides what runs here.
ELSEWHERE = ("make ", "python3 -m pip ", "ssh ")


def commands():
    for name, block in fenced("sh"):
        for line in block.splitlines():
            if line.strip() and not line.startswith((*ELSEWHERE, "#")):
                yield f"{name}: {line}"


COMMANDS = list(commands())


@pytest.fixture(scope="module")
def path_with_shims(tmp_path_factory):
    """A directory with ``python3``, which is this one, and what may not be installed."""
    folder = tmp_path_factory.mktemp("bin")
    python = shlex.quote(sys.executable)
    texts = "import sys; [print(line) for line in sys.stdin if 'text' in line]"
    shims = {"python3": f'{python} "$@"', "man": "cat", "jq": f'{python} -c "{texts}"'}
    for name, command in shims.items():
        path = folder / name
        path.write_text(f"#!/bin/sh\nexec {command}\n")
        path.chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


@pytest.mark.skipif(os.name != "posix", reason="the blocks are for a POSIX shell")
@pytest.mark.parametrize("command", COMMANDS)
def test_shell_commands_run(command, servers, path_with_shims, tmp_path):
    for file in CERTS.glob("*.pem"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "firmware.bin").write_bytes(os.urandom(300000))
    (tmp_path / "secret").write_text("password\n")
    names, proxies = servers
    environment = {**os.environ, "PATH": path_with_shims, "PYTHONPATH": str(ROOT)}
    with through_proxies(command, proxies):
        run = subprocess.run(
            ["sh", "-c", real(command.partition(": ")[2], names)], cwd=tmp_path,
            env=environment, input=b"subscribe\n", stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, timeout=PATIENCE,
        )  # fmt: skip
    assert run.returncode == 0, run.stderr.decode()
    assert run.stdout, run.stderr.decode()
    assert b"Traceback" not in run.stderr
