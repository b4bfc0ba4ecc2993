"""Start other people's programs, wait for what they print, end them."""

from __future__ import annotations

import os
import re
import subprocess
import threading
import time
from collections import deque


class Process:
    """A program whose output is collected by a thread.

    *name* is for messages; the other arguments are as for ``subprocess.Popen``.
    """

    def __init__(self, name, args, env=None, **options):
        self.name = name
        self._popen = subprocess.Popen(
            [str(arg) for arg in args],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(env or {})},
            **options,
        )
        self._lines = deque(maxlen=100_000)
        self._ended = False
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, name=f"output of {name}")
        self._reader.start()

    def _read(self):
        for line in self._popen.stdout:
            with self._changed:
                self._lines.append(line.decode("utf-8", "replace").rstrip())
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def wait_for(self, pattern, timeout=10):
        """The first match of *pattern* in a line printed so far or within *timeout* seconds."""
        found = []

        def look():
            matches = (re.search(pattern, line) for line in self._lines)
            found[:] = [match for match in matches if match][:1]
            return found or self._ended

        with self._changed:
            self._changed.wait_for(look, timeout)
        if not found:
            raise AssertionError(f"{self.name}: no {pattern!r} in its output:\n{self.output()}")
        return found[0]

    def wait(self, timeout):
        """The exit status of a program that ends by itself within *timeout* seconds."""
        status = self._popen.wait(timeout)
        self._reader.join()
        return status

    def output(self, count=40):
        """The last *count* lines printed."""
        with self._changed:
            return "\n".join(list(self._lines)[-count:])

    def stop(self, timeout=5):
        if self._popen.poll() is None:
            self._popen.terminate()
        try:
            self._popen.wait(timeout)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()
        self._reader.join()
        self._popen.stdout.close()


def stopwatch():
    """A function that tells the seconds since this call."""
    start = time.monotonic()
    return lambda: time.monotonic() - start
