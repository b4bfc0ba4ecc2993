"""Signal handlers, finalizers and forks: what may interrupt a call, and how its locks live with it.

A signal handler or a finalizer runs between two bytecodes of any call, in the same thread. It may
call every method of the same connection, and it may raise anything. So:

* **The locks of a connection know their owner** (``Lock``). A call looks at that before it takes
  one: if its thread has the lock already, it has interrupted another call, and waiting would be
  waiting for itself. It leaves a request instead, which the interrupted call carries out when it
  lets go, also if another handler's exception ends it: the look at what was left is within the
  same ``try`` as the lock, and its ``except`` looks, too. No lock is ever taken twice by a thread.
* **A connection's lock is taken and released within one ``try``**, whose ``except`` releases what
  is still held. (``with lock`` has places, between two bytecodes of Python 3.8 and 3.9, where an
  exception leaves the lock locked; ``lock.acquire()`` in front of a ``try`` has them in all
  versions.) A thread that didn't own the lock before it came to that ``try`` and does in its
  ``except`` has taken it there.
* **What is half done is marked** by a flag before it is begun. An exception that passes with the
  flag set fails the connection for good: it never goes on with something missing, or twice.
* **The network's errors are taken where the system call is made.** The kernel's have an ``errno``;
  an ``OSError`` without one (the built-in ``TimeoutError`` of many a handler, say) is passed on
  (``pass_on_handlers``), as any other exception is. A handler's ``OSError`` that has an ``errno``
  can't be told from the network's, and ends the connection. Our own deadlines, and what the
  protocol refuses, are told by return values, and become exceptions in the public method alone.
  While a connection is opened, what the program's callables raise counts as the attempt's failure,
  and so do an expired deadline and what TLS says: they are told from a handler's by a mark
  (``mark_failure``).
* **No thread waits while it holds the mutex**, the last lock in the order, so that any thread may
  wait for the mutex.
* **Forks**: no lock is shared by the whole process, but for the two of the background thread, which
  a child replaces.
"""

from __future__ import annotations

from _thread import RLock, allocate_lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _thread import LockType
    from typing import Callable, Protocol, TypeVar

    E = TypeVar("E", bound=BaseException)

    class Lock(Protocol):
        """A lock that knows which thread has it."""

        def acquire(self, blocking: bool = True, timeout: float = -1) -> bool: ...
        def release(self) -> None: ...
        def _is_owned(self) -> bool: ...


def new_lock() -> Lock:
    """A lock that knows its owner. (It would let that in again: look first.)"""
    # Its stub lacks _is_owned(), which threading.Condition uses, too.
    return RLock()  # type: ignore[return-value]


def mark_failure(exc: E) -> E:
    """*exc*, marked: it is the failure of an opening, though it may have no ``errno``."""
    exc.is_failure = True  # type: ignore[attr-defined]
    return exc


class MarkFailures:
    """A block in which the program's code runs: an ``OSError`` of it is the opening's failure.

    One that a signal handler raises in there can't be told from it.
    """

    __slots__ = ()

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, exc: BaseException | None, traceback: object) -> None:
        if isinstance(exc, OSError):
            mark_failure(exc)


def is_from_handler(failure: BaseException) -> bool:
    """Whether *failure*, of an opening, is an ``OSError`` that a signal handler has raised."""
    unnumbered = isinstance(failure, OSError) and failure.errno is None
    return unnumbered and not hasattr(failure, "is_failure")


def pass_on_handlers(exc: OSError) -> None:
    """Raise *exc* again, if it isn't the network's but a signal handler's: those have no number."""
    if exc.errno is None:
        raise exc


class Waiters:
    """Threads that wait until something changes. Needs no lock, so handlers may come anywhere.

    Attributes:
        locks: one for each waiting thread.
    """

    __slots__ = ("locks",)

    def __init__(self) -> None:
        self.locks: dict[LockType, None] = {}

    def wait(self, done: Callable[[], bool], timeout: float) -> None:
        """Wait for ``notify``, *timeout* seconds at most, unless *done()* says it is there."""
        # The second acquire() is the wait: it takes the lock when notify() has released it.
        lock = allocate_lock()
        lock.acquire()
        try:
            self.locks[lock] = None  # first: what changes behind the look at done() is told
            if not done():
                lock.acquire(True, timeout)
        finally:
            self.locks.pop(lock, None)

    def notify(self) -> None:
        """Wake all that wait now."""
        if not self.locks:
            return
        for lock in list(self.locks):
            # Told first, then taken out: one that an interruption keeps in there is told again.
            try:
                lock.release()
            except RuntimeError as exc:
                # The lock's own has no frame below this one, which a signal handler's has.
                if exc.__traceback__ is None or exc.__traceback__.tb_next is not None:
                    raise
                # Its thread is on its way already.
            self.locks.pop(lock, None)
