"""Coverage-guided fuzzing of the parsers with atheris, for as long as one likes.

    pip install atheris
    python tests/fuzz/coverage_guided.py TARGET -max_total_time=600 [CORPUS]
    python tests/fuzz/coverage_guided.py all SECONDS

TARGET is a name of ``targets.TARGETS``; the other arguments are libFuzzer's. Without atheris, which
isn't there for each Python and machine, ``all`` says so and does nothing.
"""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import tempfile

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parent.parent.parent)]


def run_all(seconds):
    """Each target in turn, from its words; whether one has failed."""
    from targets import TARGETS, WORDS

    failed = False
    for name in TARGETS:
        with tempfile.TemporaryDirectory() as folder:
            for n, word in enumerate([*WORDS[name], b"".join(WORDS[name])]):
                pathlib.Path(folder, f"word{n}").write_bytes(word)
            limits = [f"-max_total_time={seconds}", "-max_len=400", "-verbosity=0"]
            command = [sys.executable, __file__, name, *limits, folder]
            # libFuzzer ends the process without Python's own end: what that leaves goes, too.
            environment = {**os.environ, "TMPDIR": folder}
            run = subprocess.run(
                command, cwd=folder, env=environment, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )  # fmt: skip
        print(f"{name}: {'FAILED' if run.returncode else 'no failure'}", flush=True)
        if run.returncode:
            failed = True
            sys.stdout.buffer.write(run.stdout)
    return failed


def run_one(name, arguments):
    import atheris

    with atheris.instrument_imports(include=["wsmini"]):
        from targets import TARGETS
    atheris.Setup([sys.argv[0], *arguments], TARGETS[name])
    atheris.Fuzz()


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    if sys.argv[1] != "all":
        run_one(sys.argv[1], sys.argv[2:])
        return False
    try:
        import atheris  # noqa: F401
    except ImportError as exc:
        print(f"no coverage-guided fuzzing here: {exc}")
        return False
    return run_all(int(sys.argv[2]))


if __name__ == "__main__":
    sys.exit(main())
