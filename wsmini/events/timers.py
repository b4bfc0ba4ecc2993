"""One timer of an event loop for all the transports that are due at the same moment; and the news
that the machine has slept, for all of them.

Thousands of idle connections look after their peers at times that are rounded, so that many share
one. A timer of its own would cost each of them a twelfth of its memory, and would find out about
the machine's sleep for itself alone, up to ``ping_interval`` later than the first one does.
"""

from __future__ import annotations

from _weakref import ref  # weakref itself would bring other modules along

from ..clock import suspend_detector
from ..opening.streams import MAX_WAIT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing_extensions import Protocol

    from ..opening.steps import Cancellable, HostLoop

    class Member(Protocol):
        def on_time(self) -> None: ...
        def probe(self) -> None: ...


class SharedTimers:
    """The times at which members are due on one loop. Only for the loop's thread.

    When the machine turns out to have slept, all of them are told to ``probe()``; but where the
    loop itself tells its clients, as ``wsmini.Loop`` does, this is left to them.

    The transports and the loop's timers keep it; it must not be kept otherwise, as it keeps these.
    """

    def __init__(self, loop: HostLoop) -> None:
        self._loop = ref(loop)
        self._due: dict[float, tuple[Cancellable, dict[Member, None]]] = {}
        told = hasattr(loop, "add_sleep_handler")
        self._has_slept = None if told else suspend_detector(loop.time())

    def add(self, loop: HostLoop, when: float, member: Member) -> None:
        """Call ``member.on_time()`` at *when* of the loop's time, or after a day if that is sooner.

        Only one call for each pair of *when* and *member*.
        """
        if when not in self._due:
            now = loop.time()
            if not self._due and self._has_slept is not None:
                self._has_slept(now, now)  # what was before concerns nobody who comes now
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
        try:
            if self._has_slept is not None and self._has_slept(loop.time(), when):
                for _, members in self._due.values():
                    for member in members:
                        loop.call_soon(member.probe)
            for member in self._due[when][1]:
                loop.call_soon(member.on_time)  # not from here, as one may raise
            del self._due[when]
        except BaseException:
            self._recover()
            raise

    def _recover(self) -> None:
        """A signal handler's exception came: call all, as to be called early or twice is fine."""
        loop = self._loop()
        for when, (timer, members) in list(self._due.items()):
            timer.cancel()
            if loop is not None:
                self._due[when] = loop.call_soon(self._call, loop, when), members


_timers: dict[ref[HostLoop], ref[SharedTimers]] = {}


def shared_timers(loop: HostLoop) -> SharedTimers:
    """Those of *loop*."""
    known = _timers.get(ref(loop))
    timers = None if known is None else known()
    if timers is None:
        timers = SharedTimers(loop)
        _timers[ref(loop, _forget)] = ref(timers)
    return timers


def _forget(loop: ref[HostLoop]) -> None:
    _timers.pop(loop, None)
