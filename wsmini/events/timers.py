"""One timer of an event loop for all the transports that are due at the same moment; and their
sleep.

Thousands of idle connections look after their peers at times that are rounded, so that many share
one. A timer for each would cost as much memory as the rest of the transport's keepalive, and the
loop a heap of thousands.
"""

from __future__ import annotations

from _weakref import ref  # weakref itself would bring other modules along

from ..clock import suspend_detector
from ..opening.waiting import MAX_WAIT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, Tuple

    from typing_extensions import Protocol

    from ..opening.steps import Cancellable, HostLoop

    class Member(Protocol):
        def on_time(self) -> None: ...
        def probe(self) -> None: ...


class SharedTimers:
    """The times at which somebody is due on one loop. Only for the loop's thread.

    When the machine turns out to have slept, all of them are told to ``probe()``; but where the
    loop itself tells whoever asks, as ``wsmini.Loop`` does, this is left to them.

    The transports and the loop's timers keep it; it must not be kept otherwise, as it keeps these.
    """

    def __init__(self, loop: HostLoop) -> None:
        self._due: Dict[float, Tuple[Cancellable, Dict[Member, None]]] = {}
        told = hasattr(loop, "add_sleep_handler")
        self._slept = None if told else suspend_detector(loop.time())

    def add(self, loop: HostLoop, when: float, member: Member) -> None:
        """Call ``member.on_time()`` at *when* of the loop's time, or after a day if that is sooner.

        Only one call for each pair of *when* and *member*.
        """
        if when not in self._due:
            now = loop.time()
            if not self._due and self._slept is not None:
                self._slept(now, now)  # who comes after it needn't know
            delay = min(max(0.0, when - now), MAX_WAIT)
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
        if self._slept is not None and self._slept(loop.time(), when):
            for _, members in self._due.values():
                for member in members:
                    loop.call_soon(member.probe)
        for member in self._due.pop(when)[1]:
            loop.call_soon(member.on_time)  # one may raise


_timers: Dict[ref[HostLoop], ref[SharedTimers]] = {}


def shared_timers(loop: HostLoop) -> SharedTimers:
    """Those of *loop*."""
    known = _timers.get(ref(loop))
    rounds = None if known is None else known()
    if rounds is None:
        rounds = SharedTimers(loop)
        _timers[ref(loop, _forget)] = ref(rounds)
    return rounds


def _forget(loop: ref[HostLoop]) -> None:
    _timers.pop(loop, None)
