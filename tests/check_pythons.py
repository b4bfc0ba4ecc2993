"""Run the tests under every CPython on this machine, plainly and with -O, and most under PyPy.

    python tests/check_pythons.py [VERSION[:plain|:-O]...]

Looks for python3.8 ... python3.15 and pypy3 on the PATH, then among the versions of pyenv. A
version that was asked for must be there; without arguments, those that aren't are left out. Each
gets an environment of its own under .venvs/. ``pypy3-core`` is PyPy with what takes a minute: the
protocol, and a good deal of what has sockets.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

ROOT = pathlib.Path(__file__).resolve().parent.parent
SIDE_BY_SIDE = min(2, os.cpu_count() or 1)  # tests wait most of the time
PYPY, CORE = "pypy3", "pypy3-core"
VERSIONS = ["3.8", "3.9", "3.10", "3.11", "3.12", "3.13", "3.14", "3.15", PYPY]
# With -O too, but for what runs processes of its own, which know nothing of it.
WITHIN = [f"tests/programs/test_{name}.py" for name in ("cuts", "points", "secure", "signals")]
# Each in two runs, for pytest leaves one of a folder and a folder within out if it is given both.
MODES = {
    "plain": [["-bb", "-m", "pytest", "tests"], ["-bb", "-m", "pytest", "tests/programs"]],
    "-O": [["-bb", "-O", "-m", "pytest", "tests"], ["-bb", "-O", "-m", "pytest", *WITHIN]],
}

# What isn't run under PyPy, besides tests/programs, and why. It starts slowly, so that a process
# for each test takes too long; its readline edits lines in its own way; and what a signal
# interrupts is told from stacks, which compiled code has late.
NOT_UNDER_PYPY = {
    "test_layers.py": "is about the sources",
    "test_size.py": "is about the sources",
}

UNDER_CORE = """
    sansio test_exceptions.py test_policies.py blocking/test_connection.py
    callbacks/test_client.py testing/test_faults.py
""".split()


def output(*command):
    """What *command* prints, or None if it can't be run or fails."""
    try:
        run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    except OSError:
        return None
    return None if run.returncode else run.stdout.decode().strip()


def find(version):
    """The path of a Python of that version, or None."""
    prefix = output("pyenv", "prefix", version)
    name = version if version == PYPY else f"python{version}"
    which = "import sys; print(sys.implementation.name, '%d.%d' % sys.version_info[:2])"
    # A pyenv shim may be on the PATH and refuse to run.
    for path in (name, prefix and os.path.join(prefix, "bin", "python")):
        found = (output(path, "-c", which) or "").split() if path else []
        if found and (found == ["cpython", version] or [found[0], version] == ["pypy", PYPY]):
            return path
    return None


def runs(version, mode):
    """What to run with that version: lists of arguments. *mode*: one of two, if it isn't empty."""
    if version == CORE:
        return [["-bb", "-m", "pytest", *(f"tests/{name}" for name in UNDER_CORE)]]
    if version != PYPY:
        return MODES[mode] if mode else [*MODES["plain"], *MODES["-O"]]
    left_out = [f"--ignore=tests/{name}" for name in NOT_UNDER_PYPY]
    return [["-bb", "-m", "pytest", "tests", *left_out]]


def environment(version, python):
    """The Python of an environment with what the tests need; made once."""
    folder = ROOT / ".venvs" / version
    stamp = folder / "installed"
    inside = str(folder / "bin" / "python")
    if not stamp.exists():
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([python, "-m", "venv", str(folder)], check=True)
        subprocess.run(
            [inside, "-m", "pip", "install", "-q", "pytest>=7", "coverage>=7"], check=True
        )
        stamp.touch()
    return inside


def jobs(versions):
    """(version, interpreter, arguments) for each run; ``None`` for a version that isn't there."""
    for wanted in versions:
        version, _, mode = wanted.partition(":")
        python = find(PYPY if version == CORE else version)
        if python is None:
            print(f"Python {version}: not found", flush=True)
            yield None
            continue
        inside = environment(version, python)
        for arguments in runs(version, mode):
            yield version, inside, arguments


def run(job):
    """Run the tests, and print what they have printed when they are done; whether they passed."""
    version, inside, arguments = job
    started = time.monotonic()
    done = subprocess.run(
        [inside, *arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    result = f"status {done.returncode}" if done.returncode else "passed"
    flags = " ".join(arguments[: arguments.index("-m")])
    title = (
        f"Python {version} {flags} {arguments[-1]}: {result}, {time.monotonic() - started:.0f} s"
    )
    print(f"{done.stdout.decode('utf-8', 'replace')}{title}", flush=True)
    return not done.returncode


def main(versions):
    found = list(jobs(versions or VERSIONS))
    passed = not versions or None not in found
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        for result in pool.map(run, filter(None, found)):
            passed = passed and result
    return not passed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
