"""Run the tests under every CPython on this machine, plainly and with -O.

    python tests/check_pythons.py [VERSION...]

Looks for python3.8 ... python3.13 on the PATH, then among the versions of pyenv. A version that
was asked for must be there; without arguments, those that aren't are left out. Each gets an
environment of its own under .venvs/.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
VERSIONS = ["3.8", "3.9", "3.10", "3.11", "3.12", "3.13"]
MODES = ([], ["-O"])


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
    which = "import sys; print('%d.%d' % sys.version_info[:2])"
    # A pyenv shim may be on the PATH and refuse to run.
    for path in (f"python{version}", prefix and os.path.join(prefix, "bin", "python")):
        if path and output(path, "-c", which) == version:
            return path
    return None


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


def main(versions):
    status = 0
    for version in versions or VERSIONS:
        python = find(version)
        if python is None:
            print(f"CPython {version}: not found", flush=True)
            status |= bool(versions)
            continue
        inside = environment(version, python)
        for mode in MODES:
            started = time.monotonic()
            run = subprocess.run([inside, "-bb", *mode, "-m", "pytest"], cwd=ROOT)
            result = f"status {run.returncode}" if run.returncode else "passed"
            seconds = time.monotonic() - started
            print(f"CPython {version} {' '.join(mode)}: {result}, {seconds:.0f} s", flush=True)
            status |= bool(run.returncode)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
