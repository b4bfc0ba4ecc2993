"""Ctrl-C and SIGTERM: the first ends the session in the main thread, a second one the process."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterator


class Terminated(KeyboardInterrupt):
    """SIGTERM came."""


@contextmanager
def terminable() -> Iterator[None]:
    """Raise ``Terminated`` for SIGTERM in this block, if that had its default effect before."""

    def terminate(*args: object) -> None:
        raise Terminated

    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def second_ends_at_once() -> Iterator[None]:
    """Let a signal end the process in this block, which a first one has begun."""
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            if callable(signal.getsignal(number)):  # else it is ignored, or ends it already
                before[number] = signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def block_interrupts() -> None:
    """Leave signals to the main thread: in another one, they wouldn't interrupt ``recv()``."""
    if hasattr(signal, "pthread_sigmask"):
        wanted = {signal.SIGINT, signal.SIGTERM, signal.SIGCONT}
        signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
