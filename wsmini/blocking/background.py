"""The keeper: one daemon thread for all blocking connections, for when nobody receives from them.

It answers pings, sends those of the keepalive, finds dead peers, and reads up to ``max_queue``
messages ahead. What it does to one connection is ``look``, which never waits.

Who may do what, and what may interleave:

* The first connection with a keepalive starts the thread. It ends when there has been none for
  ``LINGER`` seconds, so that a program that connects again and again has one.
* ``_lock`` guards the list of charges and the birth and the death of the thread, nothing else. It
  lets the same thread in again, because of signal handlers that open connections.
* A thread inside ``recv`` doesn't tell the keeper, nor does one that leaves: that would cost on the
  hot path. A connection that is found in good hands is looked at again after ``CHECK`` seconds, and
  one that is found alone is waited for, by its socket. When somebody receives from it again and
  something comes, the keeper wakes once for nothing, and goes back to looking now and then.
* The keeper refers to a connection weakly: one that is dropped without being closed goes. The
  connection refers to its ``Charge``, and says there that it is over.
* If the machine turns out to have slept when it wakes up, it pings all peers at once, whoever
  receives from them.
* ``_busy`` is held while it deals with connections. ``os.fork`` waits for it, a while, so that none
  of their locks is held in a child. The child forgets the keeper with its sockets, which are the
  parent's, and makes its own when it connects.
"""

from __future__ import annotations

import math
import os
import socket
import threading
import time
import weakref
from _thread import get_ident

from ..clock import suspend_detector
from ..opening.sockets import READ, WRITE, wait
from ..sansio.protocol import State

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Collection, Dict, List, Optional, Set, Tuple

    from .transport import Wire

CHECK = 1.0  # seconds until a connection that is new, or in good hands, is looked at (again)
LINGER = 1.0  # seconds that the thread stays when it has nothing to look after
READS = 64  # of one connection in a row; then it is the others' turn
PATIENCE = 1.0  # seconds that fork waits for the keeper
GRID = 8  # wake at multiples of 1/8 s: many connections cost few wake-ups

monotonic = time.monotonic

NEVER = math.inf

_lock = threading.RLock()
_busy = threading.Lock()
_keeper: Optional[Keeper] = None


def watch(wire: Wire) -> None:
    """Look after *wire* until its ``charge`` is over. Thread-safe."""
    global _keeper
    with _lock:
        if _keeper is None:
            keeper = Keeper()
            try:
                threading.Thread(target=keeper.run, name="wsmini-keeper", daemon=True).start()
            except RuntimeError:
                # No more threads, or the interpreter is shutting down. The connection works without
                # a keeper, and the next one tries again.
                keeper.close()
                return
            _keeper = keeper
        _keeper.add(wire)


def watched() -> int:
    """How many connections the keeper looks after."""
    with _lock:
        return 0 if _keeper is None else sum(not charge.is_over() for charge in _keeper.charges)


def look(wire: Wire) -> Tuple[int, float]:
    """Do what the receiver of *wire* would do, without waiting, if there is none.

    Returns:
        For which events of the socket to wait, and when to look again in any case.
    """
    protocol, now = wire.protocol, monotonic()
    if wire.wanted or not wire.receiving.acquire(False):
        if now >= wire.tick_at + CHECK:
            wire.tick_for_receiver(now)
        return 0, now + CHECK
    try:
        more = _read_ahead(wire)
        unread = not more and _has_unread(wire)
        if unread:
            protocol.heard(now)  # a peer whose bytes wait unread isn't dead
        if now >= wire.tick_at:
            wire.tick(now)
        if protocol.finished or protocol.state is State.CLOSED:
            return _look_at_end(wire, now)
    finally:
        wire.release_receiving()
    at = wire.tick_at
    if protocol.state is not State.OPEN:
        at = min(at, wire.closing_deadline())
    if unread or more:
        return 0, now if more else min(at, now + CHECK)  # there may be room then
    return READ | WRITE if wire.outbox.blocked() else READ, at


def _read_ahead(wire: Wire) -> bool:
    """Keep what is there, as far as there is room; whether to go on, after the others."""
    for _ in range(READS):
        if wire.wanted or _is_full(wire):
            return False
        progress = wire.receive_now()
        wire.flush_output()
        if not progress:
            return False
    return True


def _is_full(wire: Wire) -> bool:
    """Whether nothing is to be read: there is no room, or nothing more can come."""
    protocol = wire.protocol
    if protocol.finished or protocol.state is State.CLOSED:
        return True
    return protocol.state is State.OPEN and not wire.inbox.has_room()


def _has_unread(wire: Wire) -> bool:
    """Whether something waits for room."""
    protocol = wire.protocol
    if protocol.state is not State.OPEN or protocol.finished or wire.inbox.has_room():
        return False
    return wire.stream.buffered() or wire.poll(READ, 0.0)


def _look_at_end(wire: Wire, now: float) -> Tuple[int, float]:
    try:
        wire.end(now)
    except TimeoutError:
        lost = wire.protocol.state is State.CLOSED  # its socket would be readable all the time
        return 0 if lost else READ, min(wire.closing_deadline(), now + CHECK)
    return 0, NEVER


class Charge:
    """A connection, what is waited for on its socket, and when to look at it in any case.

    Attributes:
        over: whether the socket is closed, and there is nothing to look after any more.
    """

    __slots__ = ("_rouse", "at", "events", "over", "wire")

    def __init__(self, wire: Wire, rouse: Callable[[], None]) -> None:
        self.wire = weakref.ref(wire, self._dropped)
        self._rouse = rouse
        self.events, self.at, self.over = 0, monotonic() + CHECK, False

    def _dropped(self, _: object) -> None:
        """The connection is gone; if it wasn't closed, the sleeping keeper holds its socket."""
        if not self.over:
            self._rouse()

    def is_over(self) -> bool:
        return self.over or self.wire() is None

    def look(self, slept: bool) -> None:
        """Do what there is to do; if the machine has *slept*, ask the peer whether it is there."""
        wire = self.wire()
        if wire is None:
            return
        try:
            if slept and not wire.closed:
                wire.probe(monotonic())
            self.events, at = look(wire)
        except Exception as exc:  # of one connection, which has to end; the others go on
            wire.cut(exc)
            self.events, at = READ, monotonic() + CHECK
        self.at = math.ceil(at * GRID) / GRID if at < NEVER else at


class Keeper:
    """The thread and its charges. See above for who may call what."""

    def __init__(self) -> None:
        self.charges: List[Charge] = []
        self._waker, self._wake = socket.socketpair()
        self._wake.setblocking(False)
        self._waker.setblocking(False)
        self._sleeps_until = self._leaves_at = 0.0
        self._slept = suspend_detector(monotonic())

    def add(self, wire: Wire) -> None:
        """Take on *wire*; the caller holds ``_lock``."""
        charge = wire.charge = Charge(wire, self._rouse)  # before it is looked at, and may end
        self.charges.append(charge)
        if self._sleeps_until > charge.at:
            self._rouse()

    def _rouse(self) -> None:
        try:
            self._waker.send(b"!")
        except OSError:
            pass  # it is awake, or has ended

    def close(self) -> None:
        self._waker.close()
        self._wake.close()

    def run(self) -> None:
        """The thread."""
        _leave_signals_to_others()
        while self._go_on():
            try:
                ready = set(wait(*self._to_wait_for()))
            except (OSError, ValueError):
                continue  # its owner has closed a socket just now
            if self._wake in ready:
                self._drain()
            now = monotonic()
            slept = self._slept(now, self._sleeps_until)
            with _busy:
                for charge in list(self.charges) if slept else self._ready_or_due(ready, now):
                    charge.look(slept)

    def _go_on(self) -> bool:
        """Forget what is over; whether there is anything left, or has been just now."""
        global _keeper
        with _lock:
            now = monotonic()
            if self.charges:
                self._leaves_at = now + LINGER
            self.charges = [charge for charge in self.charges if not charge.is_over()]
            if self.charges or now < self._leaves_at:
                return True
            if _keeper is self:
                _keeper = None
            self.close()
            return False

    def _to_wait_for(self) -> Tuple[Dict[socket.socket, int], float]:
        """Sockets with events, and for how long."""
        sockets = {self._wake: READ}
        until = monotonic() + 3600.0 if self.charges else self._leaves_at
        self._sleeps_until = NEVER  # whoever is added from here on rouses
        for charge in list(self.charges):
            wire = charge.wire()
            if wire is not None and charge.events and wire.stream.sock.fileno() >= 0:
                sockets[wire.stream.sock] = charge.events
            until = min(until, charge.at)
        self._sleeps_until = until
        return sockets, until - monotonic()

    def _ready_or_due(self, ready: Collection[socket.socket], now: float) -> List[Charge]:
        found = []
        for charge in list(self.charges):
            wire = charge.wire()
            if wire is not None and (charge.at <= now or wire.stream.sock in ready):
                found.append(charge)
        return found

    def _drain(self) -> None:
        try:
            while self._wake.recv(4096):
                pass
        except BlockingIOError:
            pass


def _leave_signals_to_others() -> None:
    """A signal that comes to this thread would not wake the main thread, which handles it."""
    import signal

    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


def _after_fork() -> None:
    """In the child: the thread isn't here, and what it looks after is the parent's."""
    global _keeper, _lock, _busy
    keeper, _keeper = _keeper, None
    _lock, _busy = threading.RLock(), threading.Lock()
    _forking.clear()
    if keeper is not None:
        keeper.close()


_forking: Set[int] = set()  # threads that hold _busy for that


def _before_fork() -> None:
    # For ever would be too long: this may be a signal handler that has interrupted the thread whose
    # lock the keeper waits for.
    if _busy.acquire(timeout=PATIENCE):
        _forking.add(get_ident())


def _after_fork_in_parent() -> None:
    if get_ident() in _forking:
        _forking.discard(get_ident())
        _busy.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork_in_parent,
        after_in_child=_after_fork,
    )
