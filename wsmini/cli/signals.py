"""Ctrl-C and SIGTERM: the first ends the session in the main thread, a second one the process."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from signal import Signals
    from typing import Any, ContextManager, Iterator


class Terminated(KeyboardInterrupt):
    """SIGTERM came."""


@contextmanager
def handled(handlers: dict[Signals, Any]) -> Iterator[None]:
    """Set *handlers* for this block. In another thread than the main one, nothing changes."""
    before = {}
    try:
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                # None stands for a handler of C code, which Python couldn't put back.
                if signal.getsignal(number) is not None:
                    before[number] = signal.signal(number, handler)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def terminable() -> ContextManager[None]:
    """Raise ``Terminated`` for SIGTERM in a block, if that had its default effect before."""

    def terminate(*args: object) -> None:
        raise Terminated

    # A parent that ignores SIGTERM for us, or a program that handles it, knows better.
    default = signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    return handled({signal.SIGTERM: terminate} if default else {})


def second_ends_at_once() -> ContextManager[None]:
    """Let a signal end the process in a block, which a first one has begun."""
    # What has no handler in Python is ignored, which it stays, or ends the process already.
    caught = [n for n in (signal.SIGINT, signal.SIGTERM) if callable(signal.getsignal(n))]
    return handled(dict.fromkeys(caught, signal.SIG_DFL))


def block_interrupts() -> None:
    """Leave signals to the main thread: in another one, they wouldn't interrupt ``recv()``."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGCONT})
