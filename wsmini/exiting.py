"""How a program ends by a signal, after it has cleaned up: ``exit_with()``."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def exit_with(status: int) -> NoReturn:
    """Exit as ``sys.exit(status)`` does, but die of SIGINT or SIGTERM if *status* is 130 or 143.

    ::

        wsmini.exit_with(client.run_forever())

    Shells and service managers tell a program that has died of a signal from one that has failed: a
    loop in a shell ends with Ctrl-C, and systemd counts the stop as clean. Threads that aren't
    daemons come to their end before, the functions of ``atexit`` are called, and the standard
    streams are flushed, but ``finally`` blocks around the call are skipped then. Call it last, in
    the main thread. A process that its signals can't kill, as the first one of a container, exits
    with *status*.

    Args:
        status: what ``Client.run_forever()`` returns: 0, 1, or 128 plus the number of a signal.

    Raises:
        SystemExit: for any other *status*.
    """
    import signal

    number = status - 128
    if os.name != "posix" or number not in (signal.SIGINT, signal.SIGTERM):
        sys.exit(status)
    import atexit
    import threading

    # A signal skips what the interpreter does at its end. It is done here, in the same order.
    for thread in threading.enumerate():
        if not thread.daemon and thread is not threading.current_thread():
            thread.join()
    # A public way to run them in time doesn't exist: the interpreter does so as its last act, and
    # a function that is registered now would be the first of them.
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError):
            pass  # None, closed, or a pipe without a reader
    # With a handler in Python, or blocked, the signal would not end the process.
    signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    os.kill(os.getpid(), number)
    os._exit(status)  # the kernel doesn't let PID 1 die of it
