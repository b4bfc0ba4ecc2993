"""The blocking API's ``reconnect()``: a ``for`` loop over connections, one after the other."""

from __future__ import annotations

import time

from ..exceptions import InvalidHandshake
from ..opening.streams import HEED, in_main_thread
from ..options import Options
from ..policies import Attempts, read_policy
from .connection import Connection, open_connection

LOOK = 0.1  # seconds of the main thread's waiting between two looks at *stop*

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Generator, Protocol

    from typing_extensions import Unpack

    from ..options import ConnectOptions
    from ..policies import Policy, Reported

    class Event(Protocol):
        """A ``threading.Event``, a ``multiprocessing.Event`` or the like."""

        def is_set(self) -> bool: ...

        def wait(self, timeout: float | None = None) -> bool: ...


def reconnect(
    url: str,
    *,
    policy: Policy | None = None,
    reconnect: Policy | None = None,
    stop: Event | None = None,
    on_reconnect: Reported | None = None,
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
    it is so already, and the loop goes on after the time that *policy* asks for, until:

    * the program ends it: by ``break``, or by having called ``ws.close()``;
    * or *policy* gives up: the failure is raised, with a note that tells the attempts.

    A server that closes with 1000 doesn't end the loop, unless *policy* says so
    (``Backoff(after_normal_close=False)``). Nor does the end of the body, or of a ``with ws:`` in
    it: there will be a fresh connection after the policy's first delay.

    To leave the loop, with ``break`` or an exception, closes the connection with 1001: a loop can't
    tell its iterator which of them it was. What is kept in a variable is closed by its ``close()``.

    Args:
        url: ``"ws://..."`` or ``"wss://..."``.
        policy: ``Backoff()`` by default; or ``Fixed``, ``NoReconnect``, or one of your own.
        reconnect: another name of *policy*.
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
    policy = read_policy(policy, reconnect, on_reconnect)
    if stop is not None and not (hasattr(stop, "is_set") and hasattr(stop, "wait")):
        raise TypeError(f"stop is a threading.Event or the like, not {stop!r}")
    settings = Options(url, **options)
    if settings.sock is not None:
        raise ValueError("sock gives one connection, so there is nothing to reconnect with")
    return _connections(settings, policy, stop, on_reconnect)


def _connections(
    settings: Options, policy: Policy, stop: Event | None, on_reconnect: Reported | None
) -> Generator[Connection, None, None]:
    attempts = Attempts("wsmini.reconnect()", policy, settings, on_reconnect)
    while stop is None or not stop.is_set():
        closed_by_program = False
        try:
            ws = open_connection(settings)
        except (OSError, InvalidHandshake) as exc:
            failure: Exception = exc
        else:
            attempts.opened()
            with ws:
                yield ws
            failure, closed_by_program = ws._protocol.close_exc(), ws._closed_by_program
            del ws  # its buffers aren't needed while waiting
        stopped = stop is not None and stop.is_set()
        delay = attempts.failed(failure, closed_by_program or stopped)
        del failure  # with its traceback, and so its frames
        if delay is None:
            return
        _pause(delay, stop)


def _pause(delay: float, stop: Event | None) -> None:
    """Wait; an exception in a signal handler ends that, as does *stop*.

    In the main thread, a handler may ``set()`` it: that would wait for ever for the lock of an
    event that it has found within its ``wait()``. So that is not called there.
    """
    until, main = time.monotonic() + delay, in_main_thread()
    while stop is None or not stop.is_set():
        left = until - time.monotonic()
        if left <= 0:
            break
        if stop is not None and not main:
            stop.wait(left)
        else:
            time.sleep(min(left, HEED if stop is None else LOOK))
