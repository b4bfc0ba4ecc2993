"""One daemon thread for all blocking connections, for when nobody receives from them.

It answers pings, sends those of the keepalive, finds dead peers, and reads up to ``max_queue``
messages ahead: ``service`` is what it does to one connection, in the place of a receiver.

Who may do what, and what may interleave:

* The first connection with a keepalive starts the thread. It ends when there has been none for
  ``LINGER`` seconds, so that a program that connects again and again has one.
* ``_lock`` guards the list of connections and the birth and the death of the thread, nothing else.
  It lets the same thread in again, because of signal handlers that open connections.
* A thread inside ``recv`` doesn't tell the background thread, nor does one that leaves: that would
  cost on the hot path. A connection that has a receiver is looked at again after ``CHECK`` seconds,
  and one that has none is waited for, by its socket. When somebody receives from it again and
  something comes, the thread wakes once for nothing, and goes back to looking now and then.
* It refers to a connection weakly: one that is dropped without being closed goes.
* If the machine turns out to have slept when it wakes up, it pings all peers at once, whoever
  receives from them.
* A forked child has neither the thread nor the connections, which are the parent's. It begins with
  new locks, and makes its own thread when it connects. ``_busy`` is held while the thread deals
  with connections; ``os.fork`` waits for it, a while, as what the thread calls has locks, too. It
  lets the same thread in again, because of signal handlers that fork.
"""

from __future__ import annotations

import math
import os
import socket
import threading
import weakref
from collections.abc import Callable, Collection
from itertools import repeat
from time import monotonic

from ..clock import NEVER, suspend_detector
from ..interrupts import pass_on_handlers
from ..opening.streams import READ, SLOW_CLOSE, wait
from ..sansio.protocol import CLOSED
from .receiver import Receiver

LINGER = 1.0  # seconds that the thread stays when it has nothing to look after
FORK_WAIT = 1.0  # seconds that fork waits for it
CHECK = 1.0  # until a connection that has a receiver is looked at again
GRID = 8  # wake at multiples of 1/8 s: many connections cost few wake-ups
# Reads in a row of a connection that the background thread looks after, while others wait: one full
# of compressed messages that bring nothing takes 20 ms.
READS_AHEAD = 16

_lock = threading.RLock()
_busy = threading.RLock()
_background: Background | None = None


def watch(receiver: Receiver) -> None:
    """Look after a connection until it is closed, or gone. Thread-safe."""
    global _background
    with _lock:
        if _background is None:
            background = Background()
            thread = threading.Thread(target=background.run, name="wsmini-background", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                # No more threads, or the interpreter is shutting down. The connection works without
                # the thread, and the next one tries again.
                background.close()
                return
            _background = background
        _background.add(receiver)


class Watched:
    """A connection, what is waited for on its socket, and when to look at it in any case."""

    __slots__ = ("_rouse", "at", "events", "receiver")

    def __init__(self, receiver: Receiver, rouse: Callable[[], None]) -> None:
        self.receiver = weakref.ref(receiver, self._dropped)
        self._rouse = rouse
        self.events, self.at = 0, monotonic() + CHECK

    def _dropped(self, _: object) -> None:
        """The connection is gone; the sleeping thread holds its socket if it waits for that."""
        if self.events:
            self._rouse()

    def is_over(self) -> bool:
        receiver = self.receiver()
        return receiver is None or receiver.transport.closed

    def service(self, receiver: Receiver, slept: bool) -> None:
        """Do what there is to do; if the machine has *slept*, ask the peer whether it is there."""
        try:
            if slept and not receiver.transport.closed:
                receiver.transport.probe(monotonic())
            self.events, at = service(receiver)
        except Exception as exc:  # of one connection, which has to end; the others go on
            receiver.transport.lose(exc)
            self.events, at = READ, monotonic() + CHECK
        # What is due at once isn't put off: there is more to be read.
        self.at = math.ceil(at * GRID) / GRID if monotonic() < at < NEVER else at


class Background:
    """The thread and the connections. See above for who may call what."""

    def __init__(self) -> None:
        self.watched: list[Watched] = []
        self._waker, self._wake = socket.socketpair()
        self._wake.setblocking(False)
        self._waker.setblocking(False)
        self._sleeps_until = self._leaves_at = 0.0
        self._has_slept = suspend_detector(monotonic())

    def add(self, receiver: Receiver) -> None:
        """Take on a connection; the caller holds ``_lock``."""
        watched = Watched(receiver, self._rouse)
        self.watched.append(watched)
        if self._sleeps_until > watched.at:
            self._rouse()

    def _rouse(self) -> None:
        try:
            self._waker.send(b"!")
        except OSError as exc:
            pass_on_handlers(exc)  # else it is awake, or has ended

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
                self._wake.recv(4096)
            now = monotonic()
            slept = self._has_slept(now, self._sleeps_until)
            with _busy:
                self._service(ready, now, slept)
            del ready  # which would keep the socket of a connection that is dropped meanwhile

    def _go_on(self) -> bool:
        """Forget what is over; whether there is anything left, or has been just now."""
        global _background
        with _lock:
            now = monotonic()
            if self.watched:
                self._leaves_at = now + LINGER
            self.watched = [each for each in self.watched if not each.is_over()]
            if self.watched or now < self._leaves_at:
                return True
            if _background is self:
                _background = None
            self.close()
            return False

    def _to_wait_for(self) -> tuple[dict[socket.socket, int], float]:
        """Sockets with events, and for how long."""
        sockets = {self._wake: READ}
        until = monotonic() + 3600.0 if self.watched else self._leaves_at
        self._sleeps_until = NEVER  # whoever is added from here on rouses
        for each in list(self.watched):
            receiver = each.receiver()
            if receiver is not None and each.events and receiver.stream.sock.fileno() >= 0:
                sockets[receiver.stream.sock] = each.events
            until = min(until, each.at)
        now = monotonic()
        self._sleeps_until = max(until, now)  # what is overdue isn't slept through
        return sockets, until - now

    def _service(self, ready: Collection[socket.socket], now: float, slept: bool) -> None:
        """Service those whose sockets are *ready* or whose time has come; if *slept*, all."""
        for each in list(self.watched):
            receiver = each.receiver()
            if receiver is None:
                continue
            if slept or each.at <= now or receiver.stream.sock in ready:
                each.service(receiver, slept)


def _leave_signals_to_others() -> None:
    """A signal that comes to this thread would not wake the main thread, which handles it."""
    import signal

    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


# -- one connection --


def service(receiver: Receiver) -> tuple[int, float]:
    """Do what the receiver would do, without waiting, if there is none.

    Returns:
        For which events of the socket to wait, and when to look again in any case.
    """
    now = monotonic()
    found = None if receiver.wanted else receiver.as_receiver(_look, receiver, now)
    if found is not None:
        return found
    if now >= receiver.transport.tick_at + CHECK:
        _tick_for_receiver(receiver, now)
    return 0, now + CHECK


def _look(receiver: Receiver, now: float) -> tuple[int, float]:
    protocol, transport = receiver.protocol, receiver.transport
    if transport.buffer.waits:
        transport.flush()
    more = _read_ahead(receiver)
    unread = not more and not receiver.may_step_in() and receiver.has_unread()
    if now >= transport.tick_at:
        receiver.tick(now)
    if now >= transport.end_by() and not protocol.finished:
        transport.lose(TimeoutError(SLOW_CLOSE))  # whoever has called close() hasn't stayed
    if receiver.is_at_end():
        if receiver.reader.reach_end(now):
            return 0, NEVER
        lost = protocol.state is CLOSED  # its socket would be readable all the time
        events = 0 if lost else READ | transport.unwritten()
        return events, min(transport.closing_deadline(), now + CHECK)
    at = min(transport.tick_at, transport.end_by())
    if unread or more:
        return 0, now if more else min(at, now + CHECK)  # there may be room then
    return READ | transport.unwritten(), at


def _read_ahead(receiver: Receiver) -> bool:
    """Keep what is there, as far as there is room; whether to go on, after the others."""
    for _ in repeat(None, READS_AHEAD):
        if receiver.is_at_end() or not receiver.may_step_in():
            return False
        if not receiver.receive_now():
            return receiver.stream.unread
    return True


def _tick_for_receiver(receiver: Receiver, now: float) -> None:
    """Give a dead peer up whose receiver waits for a later moment, since before ``probe``."""
    transport, protocol = receiver.transport, receiver.protocol
    if transport.closed or receiver.reader.read_not_fed or not protocol.doubtful:
        return
    if not transport.poll(READ, 0.0) and not transport.tick(now):
        transport.shut_down()  # which wakes it


# -- forks --


def _before_fork() -> None:
    # For ever would be too long: this may be a signal handler that has interrupted the thread whose
    # lock the background thread waits for.
    _busy.acquire(timeout=FORK_WAIT)


def _after_fork_in_parent() -> None:
    try:
        _busy.release()
    except RuntimeError:
        pass  # the thread that forks has waited in vain


def _after_fork_in_child() -> None:
    """The thread isn't here, and what it looks after is the parent's."""
    global _background, _lock, _busy
    background, _background = _background, None
    _lock, _busy = threading.RLock(), threading.RLock()
    if background is not None:
        background.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork_in_parent,
        after_in_child=_after_fork_in_child,
    )
