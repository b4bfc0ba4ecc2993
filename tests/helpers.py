"""What several test modules share."""

from __future__ import annotations

import ast
import functools
import os
import pathlib
import random
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
CERTS = ROOT / "tests" / "certs"

# How much slower than a quiet machine this one may be: each limit in seconds is multiplied by it.
PATIENCE_FACTOR = float(os.environ.get("WSMINI_TEST_PATIENCE") or 1)
PATIENCE = 20 * PATIENCE_FACTOR  # seconds that what must happen may take
PROMPT = 5 * PATIENCE_FACTOR  # and what must happen promptly: no test asks for less

# Printed by conftest.py; set it to repeat a run.
SEED = int(os.environ.get("WSMINI_TEST_SEED") or int.from_bytes(os.urandom(4), "big"))

# What nobody refers to any more is gone at once; elsewhere that takes a garbage collection.
COUNTS_REFERENCES = sys.implementation.name == "cpython"


def watched(background):
    """How many connections the thread of that module looks after."""
    running = background._background
    return 0 if running is None else sum(not each.is_over() for each in running.watched)


@functools.lru_cache(maxsize=None)
def tree_of(path):
    """The syntax tree of a file, which several tests look at and none changes."""
    return ast.parse(path.read_text(encoding="utf-8"))


def offenders(check, cases):
    """Name -> what *check* has against it, of those of *cases* (name -> arguments) that fail.

    For what holds of every name, file or function there is: a test for each would cost more than
    what it checks.
    """
    found = {}
    for name, arguments in cases.items():
        try:
            check(*arguments)
        except Exception as exc:
            found[name] = f"{type(exc).__name__}: {exc}"
    return found


def splits(data, count=3):
    """Ways to cut *data* into chunks: whole, byte by byte, and some at random places."""
    data = bytes(data)
    yield [data]
    yield bytewise(data)
    rng = random.Random(SEED)
    for _ in range(count):
        places = sorted(rng.sample(range(len(data) + 1), min(len(data) + 1, rng.randint(1, 6))))
        yield [data[i:j] for i, j in zip([0, *places], [*places, len(data)])]


def bytewise(data, ends=1000):
    """*data* in single bytes; those in the midst of a lot, which are payload, in larger chunks."""
    last = max(0, len(data) - ends)
    places = [*range(min(ends, last)), *range(ends, last, 997), *range(last, len(data) + 1)]
    return [data[i:j] for i, j in zip(places, places[1:])]
