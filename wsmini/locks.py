"""The locks of a connection, and what signals do to them. What they are for is told in ``wire``.

Signals. A handler may run between any two bytecodes of the main thread, also of the code here:

* If it calls ``close()`` of the connection whose method it has interrupted, waiting for that method
  would be waiting for itself. ``Connection`` then closes in a thread, and the handler returns; the
  interrupted call goes on and finds the end.
* If it raises, as Ctrl-C does, the connection stays usable where nothing is in the air: in every
  wait, and in the system call that waits for bytes (what that returns goes into ``_landed`` without
  a bytecode in between). Where bytes or messages are in local variables only, ``_critical`` is set,
  and an exception that passes ends the connection: it never goes on with something missing.
* A lock that is left locked, since the exception came between its ``acquire`` and the ``try``, is
  released by ``interrupted`` when no other thread is in here.
"""

from __future__ import annotations

from _thread import allocate_lock

from .exceptions import ConcurrencyError
from .net import patience
from .stacks import interrupted, others_inside

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _thread import LockType
    from typing import List, Optional

SETTLE = 1.0  # seconds until a lock that nobody gives back is suspected of being forgotten


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
        self._critical = False  # whether bytes or messages are in local variables only

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
            self.interrupted()

    def interrupted(self) -> None:
        """An exception leaves the methods of the connection: see above, "Signals"."""
        if not (self._critical or self._landed or self.receiving.locked() or self.sending.locked()):
            return  # nearly always
        if others_inside(self) or interrupted(self):
            return
        for lock in (self.receiving, self.sending):
            if self.forgotten(lock):
                lock.release()
        if self._critical or self._landed:
            self._critical = False
            self._landed.clear()
            self.cut(InterruptedError("interrupted between receiving something and delivering it"))

    def forgotten(self, lock: LockType) -> bool:
        """Whether *lock* is locked, and nobody is here who could be holding it.

        Another thread may leave before it is looked for, and one more come and lock behind that,
        so one look could be wrong.
        """
        if interrupted(self):
            return False
        return all(lock.locked() and not others_inside(self) for _ in range(3))
