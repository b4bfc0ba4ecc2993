"""What holds for every test: a seed that can be repeated, a time limit, and nothing left behind.

The time limit is faulthandler's watchdog, a C thread that waits for no lock of Python's. When a
test takes longer than ``WSMINI_TEST_TIMEOUT`` seconds (default 60, times
``WSMINI_TEST_PATIENCE``), or up to ``REARM`` more, it prints the stack of every
thread, whatever they are blocked in, and ends the whole run: a test that hangs is a bug, and what
runs after it couldn't be trusted. (An alarm would only interrupt the main thread, could be
swallowed by the code under test, and would disturb the tests of signals.)
"""

from __future__ import annotations

import faulthandler
import gc
import os
import shutil
import signal
import sys
import tempfile
import threading
import time

import pytest

pytest.register_assert_rewrite(
    "helpers", "pairs", "tables", "programs.terminals", "programs.worlds"
)

import helpers  # noqa: E402  (assertions of helpers must be rewritten first, or -O removes them)

TIMEOUT = float(os.environ.get("WSMINI_TEST_TIMEOUT") or 60) * helpers.PATIENCE_FACTOR
REARM = 5.0  # seconds that the watchdog may give a test too much
GRACE = 5.0 * helpers.PATIENCE_FACTOR  # seconds that a thread which has been told to end may take

# The stacks go where stderr went before pytest began to capture it.
_stderr = pytest.StashKey[int]()
_compiled = pytest.StashKey[str]()
_sockets = 0
_armed_at = -REARM


def _count_sockets(event, args):
    global _sockets
    if event == "socket.__new__":
        _sockets += 1


def pytest_configure(config):
    config.stash[_stderr] = os.dup(2)
    # A shell without job control ignores it for what runs in the background.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.addaudithook(_count_sockets)
    # Processes that tests start would else compile wsmini each time, where nothing may be written.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = config.stash[_compiled] = tempfile.mkdtemp()


def disarm():
    """Stop the watchdog until the next test: Python warns of threads when there is a fork."""
    global _armed_at
    if _armed_at >= 0:
        _armed_at = -REARM
        faulthandler.cancel_dump_traceback_later()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=disarm)


def pytest_unconfigure(config):
    disarm()
    os.close(config.stash[_stderr])
    shutil.rmtree(config.stash[_compiled], ignore_errors=True)


def pytest_collection_finish(session):
    collect()


def pytest_report_header(config):
    return f"seed: {helpers.SEED} (repeat with WSMINI_TEST_SEED={helpers.SEED})"


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item):
    if sys.platform == "emscripten":  # has no threads; who runs it there has the time limit
        yield
        return
    # Each call starts a thread and waits for the end of the one before: too dear for every test.
    global _armed_at
    now = time.monotonic()
    if now - _armed_at >= REARM:
        _armed_at = now
        stderr = item.config.stash[_stderr]
        faulthandler.dump_traceback_later(TIMEOUT + REARM, exit=True, file=stderr)
    yield


def collect():
    """Look for garbage, and never again at what there is now: each time takes as long, then.

    Without that, it would take longer from test to test, for pytest keeps a good deal of each.
    """
    gc.collect()
    if hasattr(gc, "freeze"):  # PyPy has none, nor the need
        gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def no_leaks_among_the_frozen():
    """Find what became garbage only after it had been frozen; it fails the last test of the run."""
    yield
    if hasattr(gc, "unfreeze"):
        gc.unfreeze()
        gc.collect()


@pytest.fixture(autouse=True)
def no_leaks():
    """Fail a test that leaves a thread running or a socket open."""
    threads, sockets = set(threading.enumerate()), _sockets
    yield
    leaked = [thread for thread in threading.enumerate() if thread not in threads and leaks(thread)]
    # Elsewhere a collection takes long, and each Python says the same about who closes what.
    if _sockets != sockets and helpers.COUNTS_REFERENCES:
        collect()  # ResourceWarning, which is an error, for each socket that nobody closed
    assert not leaked, f"threads left running: {leaked}"


def leaks(thread):
    """Whether *thread* should have ended, and doesn't."""
    if thread.daemon and not thread.name.startswith("wsmini-"):
        return False
    if thread.name == "wsmini-background":  # it ends a while after the last connection
        return helpers.watched(sys.modules["wsmini.blocking.background"]) > 0
    deadline = time.monotonic() + GRACE
    while thread.ident is None and time.monotonic() < deadline:
        time.sleep(0.001)  # it is just starting, and can't be joined yet
    if thread.ident is not None:
        thread.join(GRACE)
    return thread.is_alive()
