"""What the background thread does to one connection, in the place of a receiver. It never waits."""

from __future__ import annotations

import time
from collections import namedtuple
from itertools import repeat

from ..clock import NEVER
from ..opening.streams import READ, SLOW_CLOSE
from ..sansio.protocol import State

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .receiver import Receiver

CHECK = 1.0  # seconds until a connection that has a receiver is looked at again
# Reads in a row of a connection that the background thread looks after, while others wait: one full
# of compressed messages that bring nothing takes 20 ms.
READS_AHEAD = 16

OPEN, CLOSED = State.OPEN, State.CLOSED
monotonic = time.monotonic


class Next(namedtuple("Next", "events at")):
    """For which events of the socket to wait, and when to look again in any case."""

    __slots__ = ()

    events: int
    at: float


def service(receiver: Receiver) -> Next:
    """Do what the receiver would do, without waiting, if there is none: in the background."""
    now = monotonic()
    found = None if receiver.wanted else receiver.as_receiver(_look, receiver, now)
    if found is not None:
        return found
    if now >= receiver.transport.tick_at + CHECK:
        _tick_for_receiver(receiver, now)
    return Next(0, now + CHECK)


def _look(receiver: Receiver, now: float) -> Next:
    protocol, transport = receiver.protocol, receiver.transport
    if transport.buffer.waits:
        transport.flush()
    more = _read_ahead(receiver)
    unread = not more and _has_unread(receiver)
    if unread:
        protocol.heard(now)  # a peer whose bytes wait unread isn't dead
    if now >= transport.tick_at:
        transport.tick(now)
    if _is_overdue(receiver, now):
        transport.lose(TimeoutError(SLOW_CLOSE))
    if protocol.finished or protocol.state is CLOSED:
        if receiver.reader.reach_end(now):
            return Next(0, NEVER)
        lost = protocol.state is CLOSED  # its socket would be readable all the time
        events = 0 if lost else READ | transport.unwritten()
        return Next(events, min(transport.closing_deadline(), now + CHECK))
    at = transport.tick_at
    if protocol.state is not OPEN:
        at = min(at, transport.closing_deadline())
    if unread or more:
        return Next(0, now if more else min(at, now + CHECK))  # there may be room then
    return Next(READ | transport.unwritten(), at)


def _is_overdue(receiver: Receiver, now: float) -> bool:
    """Whether ``close_timeout`` is over, and whoever has called ``close()`` hasn't stayed."""
    if receiver.protocol.state is OPEN or receiver.protocol.finished:
        return False
    return now >= receiver.transport.closing_deadline()


def _read_ahead(receiver: Receiver) -> bool:
    """Keep what is there, as far as there is room; whether to go on, after the others."""
    for _ in repeat(None, READS_AHEAD):
        if receiver.wanted or _is_full(receiver):
            return False
        if not receiver.receive_now():
            return receiver.stream.unread
    return True


def _is_full(receiver: Receiver) -> bool:
    """Whether nothing is to be read: there is no room, or nothing more can come."""
    protocol = receiver.protocol
    if protocol.finished or protocol.state is CLOSED:
        return True
    return protocol.state is OPEN and not receiver.queue.has_room()


def _has_unread(receiver: Receiver) -> bool:
    """Whether something waits for room."""
    protocol = receiver.protocol
    if protocol.state is not OPEN or protocol.finished or receiver.queue.has_room():
        return False
    return receiver.stream.buffered() or receiver.transport.poll(READ, 0.0)


def _tick_for_receiver(receiver: Receiver, now: float) -> None:
    """Give a dead peer up whose receiver waits for a later moment, since before ``probe``."""
    transport, protocol = receiver.transport, receiver.protocol
    if transport.closed or receiver.reader.read_not_fed or not protocol.doubtful:
        return
    if not transport.poll(READ, 0.0) and not transport.tick(now):
        transport.shut_down()  # which wakes it
