"""The blocking API's ``reconnect()``: a ``for`` loop over connections, one after the other."""

from __future__ import annotations

import time

from .connection import Connection, open_connection
from .exceptions import InvalidHandshake
from .net import HEED, in_main_thread
from .options import FOREVER, read_options
from .protocol import State
from .reconnect import Backoff, add_note, check_policy, failure_after

LOOK = 0.1  # seconds of the main thread's waiting between two looks at *stop*

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Generator, Optional, Protocol

    from typing_extensions import Unpack

    from .options import ConnectOptions, Options
    from .reconnect import Policy

    Reported = Callable[[int, float, Exception], object]

    class Event(Protocol):
        """What ``threading.Event`` has, and ``multiprocessing.Event``."""

        def is_set(self) -> bool: ...

        def wait(self, timeout: Optional[float] = None) -> bool: ...


def reconnect(
    url: str,
    *,
    policy: Optional[Policy] = None,
    stop: Optional[Event] = None,
    on_reconnect: Optional[Reported] = None,
    **options: Unpack[ConnectOptions],
) -> Generator[Connection, None, None]:
    """Connect, and connect again whenever the connection is lost, as *policy* says.

    ::

        for ws in wsmini.reconnect("wss://example.com/feed"):
            try:
                for message in ws:
                    ...
            except wsmini.ConnectionClosed:
                continue

    The body gets an open connection each time. When it comes back, the connection is closed unless
    it is so already, and:

    * the loop ends, if the program has closed the connection, say with ``ws.close()``, or the
      server has with 1000;
    * else there will be another one, after the time that *policy* asks for, also if the body has
      left a connection that was still open;
    * or if *policy* gives up, the failure is raised, with a note that tells the attempts.

    To leave the loop, with ``break`` or an exception, closes the connection with 1001: a loop can't
    tell its iterator which of them it was. What is kept in a variable is closed by its ``close()``.

    Args:
        url: ``"ws://..."`` or ``"wss://..."``.
        policy: ``Backoff()`` by default; or ``Fixed``, ``NoReconnect``, or one of your own.
        stop: a ``threading.Event`` or the like; once it is set, there is no other connection, and
            no more waiting for one; an attempt that goes on ends within ``open_timeout``.
        on_reconnect: called before each wait with the number of the attempt that comes then (from 1
            on after a connection, from 2 on at the start), the seconds to wait, and the failure.
        options: as for ``connect()``.

    Raises:
        InvalidURI, ValueError, TypeError: at once, if the URL or an argument isn't valid.
        OSError, TimeoutError, InvalidHandshake, ConnectionClosed: in the loop, once *policy* gives
            up.
    """
    policy = Backoff() if policy is None else policy
    check_policy(policy)
    if stop is not None and not (hasattr(stop, "is_set") and hasattr(stop, "wait")):
        raise TypeError(f"stop is a threading.Event or the like, not {stop!r}")
    if on_reconnect is not None and not callable(on_reconnect):
        raise TypeError(f"on_reconnect is a callable, not {on_reconnect!r}")
    settings = read_options(url, options)
    if settings.sock is not None:
        raise ValueError("sock gives one connection, so there is nothing to reconnect with")
    return _connections(settings, policy, stop, on_reconnect)


def _connections(
    settings: Options, policy: Policy, stop: Optional[Event], on_reconnect: Optional[Reported]
) -> Generator[Connection, None, None]:
    retries, attempts = policy.start(), 0
    while stop is None or not stop.is_set():
        failure: Optional[Exception]
        left = False  # whether the body came back with a connection that was well
        try:
            ws = open_connection(settings)
        except (OSError, InvalidHandshake) as exc:
            failure, attempts = exc, attempts + 1
        else:
            attempts = 0
            retries.opened()
            with ws:
                yield ws
                left = ws.state is State.OPEN
            failure, left = failure_after(ws._protocol.close_exc(), left)
            del ws  # its buffers aren't needed while waiting
            if failure is None:
                return
        delay = retries.next_delay(failure)
        if delay is None and left:
            return
        if delay is None:
            add_note(failure, _told(attempts, policy))
            raise failure
        if on_reconnect is not None:
            on_reconnect(attempts + 1, delay, failure)
        if settings.logger is not None:
            settings.logger.info("connecting again in %.1f s: %s", delay, failure)
        del failure  # with its traceback, and so its frames
        _pause(delay, stop)


def _told(attempts: int, policy: Policy) -> str:
    what = "after the connection ended"
    if attempts:
        what = f"after {attempts} failed attempt{'s' * (attempts > 1)} in a row"
    return f"wsmini.reconnect() gave up {what}, as {policy!r} says"


def _pause(delay: float, stop: Optional[Event]) -> None:
    """Wait; an exception in a signal handler ends that, as does *stop*.

    In the main thread, a handler may ``set()`` it: that would wait for ever for the lock of an
    event that it has found within its ``wait()``. So that is not called there.
    """
    until, main = time.monotonic() + min(max(delay, 0.0), FOREVER), in_main_thread()
    while stop is None or not stop.is_set():
        left = until - time.monotonic()
        if left <= 0:
            break
        if stop is None:
            time.sleep(min(left, HEED))
        elif main:
            time.sleep(min(left, LOOK))
        else:
            stop.wait(left)
