"""One timer of an event loop for all the links that are due at the same moment.

Thousands of idle connections look after their peers at times that are rounded, so that many share
one. A timer for each would cost as much memory as the rest of the link's keepalive, and the loop a
heap of thousands.
"""

from __future__ import annotations

from _weakref import ref  # weakref itself would bring other modules along

from .driving import LATER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, Tuple

    from typing_extensions import Protocol

    from .driving import Cancellable, HostLoop

    class Member(Protocol):
        def on_time(self) -> None: ...


class Rounds:
    """The times at which somebody is due on one loop. Only for the loop's thread.

    The links and the loop's timers keep it; it must not be kept otherwise, as it keeps these.
    """

    def __init__(self) -> None:
        self._due: Dict[float, Tuple[Cancellable, Dict[Member, None]]] = {}

    def add(self, loop: HostLoop, when: float, member: Member) -> None:
        """Call ``member.on_time()`` at *when* of the loop's time, or after a day if that is sooner.

        Only one call for each pair of *when* and *member*.
        """
        if when not in self._due:
            delay = min(max(0.0, when - loop.time()), LATER)
            self._due[when] = loop.call_later(delay, self._call, loop, when), {}
        self._due[when][1][member] = None

    def discard(self, when: float, member: Member) -> None:
        """Take that back, if it is still to come."""
        if when in self._due:
            timer, members = self._due[when]
            members.pop(member, None)
            if not members:
                timer.cancel()
                del self._due[when]

    def _call(self, loop: HostLoop, when: float) -> None:
        for member in self._due.pop(when)[1]:
            loop.call_soon(member.on_time)  # one may raise


_rounds: Dict[ref[HostLoop], ref[Rounds]] = {}


def rounds_of(loop: HostLoop) -> Rounds:
    """Those of *loop*."""
    known = _rounds.get(ref(loop))
    rounds = None if known is None else known()
    if rounds is None:
        rounds = Rounds()
        _rounds[ref(loop, _forget)] = ref(rounds)
    return rounds


def _forget(loop: ref[HostLoop]) -> None:
    _rounds.pop(loop, None)
