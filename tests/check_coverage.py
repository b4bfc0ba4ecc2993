"""Check that each module of the protocol is covered, every branch, by its own test module.

    python tests/check_coverage.py [MODULE...]

Prints what isn't covered, and exits with status 1 if there is any or if a test fails.
"""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor

from test_layers import SANS_IO

ROOT = pathlib.Path(__file__).resolve().parent.parent
MODULES = [*SANS_IO, "policies"]  # which doesn't wait either


def check(module, folder):
    """Run the tests of *module* and measure it: (status, output)."""
    coverage = [sys.executable, "-m", "coverage"]
    path = module.replace(".", "/")
    include = f"--include=wsmini/{path}.py"
    folder_of_it, slash, name = path.rpartition("/")
    tests = f"tests/{folder_of_it}{slash}test_{name}.py"
    pytest = ["-m", "pytest", "-q", "-p", "no:cacheprovider", tests]
    commands = (
        [*coverage, "run", include, *pytest],
        [*coverage, "report", include, "--fail-under=100"],
    )
    environment = {**os.environ, "COVERAGE_FILE": os.path.join(folder, module)}
    output = b""
    for command in commands:
        run = subprocess.run(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        output += run.stdout
        if run.returncode:
            return run.returncode, output
    return 0, output


def main(modules):
    failed = False
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        for module, (status, output) in zip(
            modules, pool.map(check, modules, [folder] * len(modules))
        ):
            print(f"{module}: {'NOT covered by its tests' if status else '100%'}", flush=True)
            if status:
                failed = True
                sys.stdout.buffer.write(output)
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or MODULES))
