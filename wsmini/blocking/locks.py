"""The locks of a connection, and what signals do to them. What they are for is told in ``wire``.

Signals. A handler may run between any two bytecodes of the main thread, also of the code here:

* If it calls ``close()`` of the connection whose method it has interrupted, waiting for that method
  would be waiting for itself. ``Connection`` then closes in a thread, and the handler returns; the
  interrupted call goes on and finds the end.
* If it raises, as Ctrl-C does, the connection stays usable where nothing is in the air: in every
  wait, and in the system call that waits for bytes (what that returns goes into ``_landed`` without
  a bytecode in between). Where a thread has bytes or messages in local variables only,
  ``_critical`` names it, or ``handing`` where it is about to return one, and an exception that
  passes ends the connection: it never goes on with something missing.
* A lock that is left locked, since the exception came between its ``acquire`` and the ``try``, is
  released when no thread is inside that could be holding it.
"""

from __future__ import annotations

from _thread import allocate_lock, get_ident
from time import monotonic, sleep

from ..exceptions import ConcurrencyError
from ..opening.sockets import patience
from .stacks import interrupted, others_inside

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _thread import LockType
    from typing import List, Optional

PAUSES = (0.001, 0.001, 0)  # seconds after each look for the holder of a lock
SETTLE = 1.0  # seconds until a lock that nobody gives back is suspected of being forgotten

LOST = "interrupted between receiving something and delivering it"


class Locks:
    """What a ``Wire`` is built on.

    Attributes:
        receiving, sending: held by the receiver and by the writer.
        mutex: around the protocol's changes of state.
    """

    def __init__(self) -> None:
        self.receiving, self.sending = allocate_lock(), allocate_lock()
        self.mutex = allocate_lock()
        self._landed: List[bytes] = []  # what was read last, until the protocol has it
        self._critical = 0  # the thread that has bytes or messages in local variables only
        self.handing = 0  # the consumer's thread, while it has the message that it returns
        self._repairing = allocate_lock()
        self._repaired = 0.0  # when a lock was released for whoever had forgotten it

    def cut(self, exc: BaseException) -> None:
        """End the connection because of *exc*."""
        raise NotImplementedError

    def lock(self, lock: LockType, deadline: Optional[float]) -> bool:
        """Acquire one of the locks; ``False`` if *deadline* passes first.

        Raises:
            ConcurrencyError: if this thread may be holding it.
        """
        if lock.acquire(False):
            return True
        if interrupted(self):
            raise ConcurrencyError(
                "a signal handler, or the like, needs what the call it has interrupted holds"
            )
        while True:
            left = patience(deadline)
            if lock.acquire(timeout=SETTLE if left < 0 else min(left, SETTLE)):
                return True
            if 0 <= left <= SETTLE:
                return False
            self._free(lock)

    def interrupted(self) -> None:
        """An exception leaves the methods of the connection: see above, "Signals"."""
        lost = get_ident() in (self._critical, self.handing)
        if not (lost or self.receiving.locked() or self.sending.locked()):
            return  # nearly always
        if interrupted(self):
            return  # it leaves those of a signal handler
        if lost:
            self._critical = self.handing = 0
            self.cut(InterruptedError(LOST))
        self._free(self.receiving)
        self._free(self.sending)

    def end_if_lost(self) -> None:
        """The same, before another thread can become the receiver, and be ``_critical``."""
        if self._critical == get_ident():
            self._critical = 0
            self.cut(InterruptedError(LOST))

    def _free(self, lock: LockType) -> None:
        """Release *lock* if it was forgotten; this thread doesn't hold it."""
        with self._repairing:
            # Who waited for it and has it now may look for a moment as if it waited still.
            if monotonic() >= self._repaired + SETTLE and self.forgotten(lock):
                self._repaired = monotonic()
                lock.release()

    def forgotten(self, lock: LockType) -> bool:
        """Whether *lock* is locked, and no other thread is here who could be holding it.

        Another thread may leave before it is looked for, and one more come and lock behind that,
        so one look could be wrong. And whoever has just been given the lock looks as if it waited
        still, until it gets to run: between the looks, it may.
        """
        for pause in PAUSES:
            if not lock.locked() or others_inside(self, but_for=lock):
                return False
            sleep(pause)
        return True
