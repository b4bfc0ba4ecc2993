"""When to connect again: the policies, and ``Attempts``, which asks them for every front end.

A policy is any object with ``start()``, which returns the count of one client: an object with
``opened()`` and ``next_delay(failure)``. ``Attempts`` calls ``opened()`` when a connection has
opened, and ``next_delay(failure)`` when an attempt has failed or a connection has ended; the answer
is the seconds to wait before the next attempt, or ``None`` to give up. Policies don't change and
may be shared between clients and threads; what ``start()`` returns belongs to one client.

A *failure* is the exception that says what happened: ``OSError``, ``TimeoutError`` or
``InvalidHandshake`` where no connection could be opened, ``ConnectionClosed`` where an open one has
closed, also where it closed normally.

Nothing here waits.
"""

from __future__ import annotations

import math
import os
import sys
import time

from .exceptions import NORMAL, REFUSALS, Close, ConnectionClosed, InvalidHandshake
from .interrupts import is_from_handler
from .options import FOREVER, Options, check_count
from .sansio.uri import DestinationRefused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Literal, Protocol

    from .sansio.http11 import Response

    Reported = Callable[[int, float, Exception], object]

    class Retries(Protocol):
        """The count of one client, which a policy's ``start()`` returns."""

        def opened(self) -> None: ...

        def next_delay(self, failure: BaseException) -> float | None: ...

    class Policy(Protocol):
        """Decides when to connect again."""

        def start(self) -> Retries: ...


MAX_RETRY_AFTER = 3600.0  # seconds: a mistake in a header must not switch a device off for years
SPREAD = 0.1  # of Retry-After, is added at random: all clients were told the same

# X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CRL_NOT_YET_VALID: a device without a battery for its
# clock boots in the past, and some seconds later knows the time.
_NOT_YET_VALID = (9, 11)
# Parts of OpenSSL's reasons that stand for a wrong certificate, name or configuration, at either
# end. Any other failure of TLS (a broken record, an early end, an internal error) may pass.
_MISFITS = (
    "CERTIFICATE", "UNKNOWN_CA", "ACCESS_DENIED", "UNRECOGNIZED_NAME", "HANDSHAKE_FAILURE",
    "PROTOCOL_VERSION", "UNSUPPORTED_PROTOCOL", "WRONG_VERSION_NUMBER", "HTTP_REQUEST",
    "NO_CIPHERS", "NO_APPLICATION_PROTOCOL",
)  # fmt: skip
_TLS_RECORDS = (20, 21, 22, 23)  # the types of RFC 8446, 5.1
_STATUSES = {408, 425, 429}  # besides 5xx
_CODES = {1000, 1001, 1005, 1006, 1011, 1012, 1013, 1014, 3008}

_MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()
# RFC 9110, 5.6.7: three forms, two of them obsolete and to be understood still.
_DATE = (
    r"(?a)\w+, (?P<d>\d\d)[ -](?P<m>\w{3})[ -](?P<y>\d\d|\d{4}) (?P<t>\d\d:\d\d:\d\d) GMT"
    r"|\w{3} (?P<am>\w{3}) (?P<ad>[ \d]\d) (?P<at>\d\d:\d\d:\d\d) (?P<ay>\d{4})"
)


def retryable(failure: BaseException) -> bool:
    """Whether to connect again after *failure*: whether it may be otherwise next time.

    Yes:
        * Network errors and timeouts, names that aren't known among them: resolvers also say so
          when there is no network yet.
        * TLS that broke off, and certificates that are *not yet* valid.
        * Responses 408, 425, 429 and 5xx, of the server or a proxy; a connection that was closed
          instead of an answer; a SOCKS proxy that can't reach the server.
        * Connections that were lost (1006, 1005), and those that the server closed with 1000, 1001,
          1011 to 1014, or 3008; or we with 1011: no answer to pings.

    No:
        * A URL, a proxy or an option that is wrong.
        * Certificates and names that aren't trusted, by us or by the server.
        * Any other response: 401, 403, 404, 407, a redirect that can't be followed...
        * 1002, 1003 and 1007 to 1010: it would go wrong again. 3000 to 4999 mean what the server
          wants them to mean; ``retryable=`` of a policy can say what that is.
        * Connections that the program has closed.

    ``Backoff`` and ``Fixed`` are more patient than this once a connection has been open.
    """
    if isinstance(failure, ConnectionClosed):
        ours = _sent_first(failure)
        return failure.code in _CODES if ours is None else ours.code == 1011
    if isinstance(failure, REFUSALS):
        status = failure.response.status_code
        return status in _STATUSES or 500 <= status < 600
    if isinstance(failure, InvalidHandshake):
        cause = failure.__cause__  # of what a proxy's answer was not
        hung_up = failure.hung_up or isinstance(cause, InvalidHandshake) and cause.hung_up
        return hung_up or isinstance(failure, DestinationRefused)
    ssl = sys.modules.get("ssl")  # without it, there is no SSLError
    if ssl is not None and isinstance(failure, ssl.SSLError):
        return _tls_may_pass(failure)
    return isinstance(failure, OSError)


def _tls_may_pass(failure: BaseException) -> bool:
    """Whether TLS failed for a reason that may be gone next time."""
    code = getattr(failure, "verify_code", 0)
    reason = getattr(failure, "reason", None) or ""
    # A certificate or a configuration that doesn't fit won't do so next time either; a record that
    # was damaged, or cut off, may.
    misfit = code or speaks_no_tls(failure) or any(part in reason for part in _MISFITS)
    return code in _NOT_YET_VALID or not misfit


def speaks_no_tls(failure: BaseException) -> bool:
    """Whether the peer's first bytes, kept where its handshake failed, begin no record of TLS.

    What OpenSSL says of that depends on its version, and may also mean a broken record.
    """
    first_bytes = getattr(failure, "first_bytes", b"")
    return bool(first_bytes) and first_bytes[0] not in _TLS_RECORDS


def _retryable_once_open(failure: BaseException) -> bool:
    """Whether to connect again after *failure* to a server with which it has worked before.

    Then a captive portal, a roll-out that answers 404, or a certificate that was renewed an hour
    late are more likely than a program that is wrong, and a device has to come back by itself.
    """
    if isinstance(failure, ConnectionClosed):
        ours = _sent_first(failure)
        return ours is not None and ours.code in (1002, 1007)  # bytes that were damaged, say
    if isinstance(failure, REFUSALS) and failure.response.status_code in (401, 407):
        # The same credentials would lock the account.
        return getattr(failure, "fresh_credentials", False)
    return isinstance(failure, (OSError, InvalidHandshake))


def _sent_first(closed: ConnectionClosed) -> Close | None:
    """The Close frame with which we began the end; ``None`` if we didn't."""
    return None if closed.rcvd_then_sent else closed.sent


def _closed_normally(failure: BaseException) -> bool:
    """Whether the server has closed with 1000."""
    return (
        isinstance(failure, ConnectionClosed)
        and _sent_first(failure) is None
        and failure.code == 1000
    )


class Backoff:
    """Wait longer from failure to failure, at random, so that many clients don't return at once.

    The n-th wait (from 0 on) is a random time of up to ``min(maximum, initial * factor**n)``
    seconds. Counting starts again once a connection has stayed open for *stable_after* seconds: a
    server that accepts connections and drops them is no reason to hurry.

    Once a connection has been open, failures to open another one that look permanent (a captive
    portal, a 404, an expired certificate) are retried too, within *attempts*, after up to *maximum*
    seconds; 401 and 407 only where a callable makes the credentials. So are connections that we
    have closed with 1002 or 1007. With a *retryable* of your own, that alone decides.

    ``Retry-After``, of a response that is retried, is the least to wait: seconds or a date, which
    is compared with the response's own ``Date``, or the clock where it has none; at most an hour.
    To that is added a random time, of up to a tenth of it or of the wait without it.

    Args:
        initial: seconds, above 0.
        factor: from 1 on.
        maximum: seconds, not below *initial*.
        jitter: ``"full"``, or ``None`` to wait exactly these times.
        attempts: how many times in a row to connect again before giving up; ``None``: no limit.
        stable_after: seconds.
        retryable: called with the failure: whether to connect again at all.
        after_normal_close: whether to connect again when the server has closed with 1000; if not,
            a loop over connections ends there without raising.

    Raises:
        TypeError, ValueError: if an argument is wrong.
    """

    def __init__(
        self,
        *,
        initial: float = 0.5,
        factor: float = 2.0,
        maximum: float = 60.0,
        jitter: Literal["full"] | None = "full",
        attempts: int | None = None,
        stable_after: float = 30.0,
        retryable: Callable[[BaseException], object] = retryable,
        after_normal_close: bool = True,
    ) -> None:
        self.initial = _number("initial", initial)
        self.factor = _number("factor", factor, 1)
        self.maximum = _number("maximum", maximum)
        self.stable_after = _number("stable_after", stable_after)
        if not self.initial:
            raise ValueError("initial is a number of seconds above 0; see Fixed for the same delay")
        if self.maximum < self.initial:
            raise ValueError(f"maximum ({maximum!r}) is below initial ({initial!r})")
        if jitter not in ("full", None):
            raise ValueError(f'jitter is "full" or None, not {jitter!r}')
        if attempts is not None:
            check_count("attempts", attempts, 0)
        if not callable(retryable):
            raise TypeError(f"retryable is a callable, not {retryable!r}")
        self.jitter, self.attempts, self.retryable = jitter, attempts, retryable
        self.after_normal_close = after_normal_close
        # Attributes, so that tests can have their own.
        self._random, self._clock = _random, time.monotonic

    def start(self) -> Retries:
        """The count of one client."""
        return _Count(self)

    def _delay(self, ceiling: float, least: float) -> float:
        """The wait, where it is *ceiling* at most and ``Retry-After`` is *least*."""
        if self.jitter is None:
            return max(ceiling, least)
        return least + max(ceiling, least * SPREAD) * self._random()

    def __repr__(self) -> str:
        names = ("initial", "factor", "maximum", "jitter", "attempts", "stable_after")
        settings = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
        return f"{type(self).__name__}({settings})"


class Fixed(Backoff):
    """Wait *delay* seconds each time; ``Retry-After`` counts here too.

    Args:
        delay: seconds; 0 for tests.
        jitter: ``"full"`` to wait a random time of up to *delay* seconds.
        attempts, stable_after, retryable, after_normal_close: as for ``Backoff``.
    """

    def __init__(
        self,
        delay: float,
        *,
        jitter: Literal["full"] | None = None,
        attempts: int | None = None,
        stable_after: float = 30.0,
        retryable: Callable[[BaseException], object] = retryable,
        after_normal_close: bool = True,
    ) -> None:
        delay = _number("delay", delay)
        super().__init__(
            initial=delay or 1.0, factor=1, maximum=delay or 1.0, jitter=jitter, attempts=attempts,
            stable_after=stable_after, retryable=retryable, after_normal_close=after_normal_close,
        )  # fmt: skip
        # Behind the checks of Backoff, which refuse 0, as that never grows.
        self.initial = self.maximum = delay


class NoReconnect:
    """Never connect again. A server's 1000 ends a loop over connections without raising."""

    after_normal_close = False

    def start(self) -> Retries:
        """The count of one client: there is nothing to count."""
        return self

    def opened(self) -> None:
        """A connection has opened."""

    def next_delay(self, failure: BaseException) -> None:
        """Give up, whatever the *failure* was."""

    def __repr__(self) -> str:
        return "NoReconnect()"


class _Count:
    """How often a client has failed since its last stable connection."""

    __slots__ = ("_ceiling", "_failures", "_opened", "_policy", "_worked")

    def __init__(self, policy: Backoff) -> None:
        self._policy = policy
        self._failures = 0
        self._ceiling = policy.initial
        self._opened: float | None = None
        self._worked = False  # whether a connection has been open

    def opened(self) -> None:
        """A connection has opened; ``next_delay`` or ``left`` is called at its end."""
        self._opened = self._policy._clock()
        self._worked = True

    def left(self) -> float | None:
        """Seconds to wait after the program has left a connection: the first delay.

        That is no failure, so nothing grows; but a body that always comes back at once must not
        make a busy loop.
        """
        self._reset_if_stable()
        policy = self._policy
        return None if policy.attempts == 0 else policy._delay(policy.initial, 0.0)

    def next_delay(self, failure: BaseException) -> float | None:
        """Seconds to wait after *failure*, or ``None`` to give up."""
        self._reset_if_stable()
        policy = self._policy
        # Before the question whether it is retryable: attempts bounds everything.
        if self._failures == policy.attempts:
            return None
        if not policy.after_normal_close and _closed_normally(failure):
            return None
        ceiling = self._ceiling
        if not policy.retryable(failure):
            # A predicate of the user's has the last word.
            patient = self._worked and policy.retryable is retryable
            if not (patient and _retryable_once_open(failure)):
                return None
            # What looks permanent won't be over in a second.
            ceiling = policy.maximum
        self._failures += 1
        self._ceiling = min(self._ceiling * policy.factor, policy.maximum)
        return policy._delay(ceiling, retry_after(failure))

    def _reset_if_stable(self) -> None:
        """Count from 0 again if a connection has ended that was stable."""
        policy, opened = self._policy, self._opened
        # Forgotten here, at its end: it mustn't count again when the next one can't be opened.
        self._opened = None
        if opened is not None and policy._clock() - opened >= policy.stable_after:
            self._failures, self._ceiling = 0, policy.initial


# -- for the front ends --


def read_policy(
    policy: Policy | None, reconnect: Policy | None, on_reconnect: Reported | None = None
) -> Policy:
    """The policy that was passed under one of its two names; ``Backoff()`` if none was.

    Raises:
        TypeError: if both were, or it is none; if *on_reconnect* can't be called.
    """
    if on_reconnect is not None and not callable(on_reconnect):
        raise TypeError(f"on_reconnect is a callable, not {on_reconnect!r}")
    if policy is not None and reconnect is not None:
        raise TypeError("reconnect and policy are the same: use one")
    given = policy if reconnect is None else reconnect
    if given is None:
        return _USUAL
    # A class has a start(), too: the parentheses were forgotten.
    if isinstance(given, type) or not callable(getattr(given, "start", None)):
        raise TypeError(f"a reconnect policy is wsmini.Backoff() or the like, not {given!r}")
    return given


class Attempts:
    """The one rule of what comes after a connection, or a failure to open one.

    ``reconnect()``, ``async for``, ``Client`` and ``--reconnect`` each have one of these for as
    long as they run. They call ``opened()`` when a connection is open, and ``failed()`` when it is
    closed or couldn't be opened, and wait for the seconds that it returns.

    Args:
        loop: the name of the front end, for the note on the exception that it ends with.
        policy: asked after each failure.
        options: of the connections.
        on_reconnect: called with the number of the next attempt, the seconds until then, and the
            failure. The options' logger is told the same, at info level.
    """

    __slots__ = (
        "_failed", "_fresh", "_logger", "_loop", "_on_reconnect", "_policy", "_retries", "told",
    )  # fmt: skip

    def __init__(
        self, loop: str, policy: Policy, options: Options, on_reconnect: Reported | None = None
    ) -> None:
        self._loop, self._policy, self._on_reconnect = loop, policy, on_reconnect
        self._logger = options.logger
        self._fresh = callable(options.auth) or callable(options.additional_headers)
        self._retries, self._failed = policy.start(), 0
        self.told: object = None  # what on_reconnect has returned, which may be awaitable

    def opened(self) -> None:
        """A connection has opened."""
        self._failed = 0
        self._retries.opened()

    def failed(self, failure: Exception, closed_by_program: bool = False) -> float | None:
        """Say when to connect again, after a connection is closed or couldn't be opened.

        Args:
            failure: how it is closed, or why it couldn't be opened.
            closed_by_program: whether the program has called ``close()``, at whatever time.

        Returns:
            The seconds to wait; ``None`` to end without raising.

        Raises:
            Exception: *failure*, with a note that tells the attempts, if the policy gives up; as it
                is, if a signal handler has raised it.
        """
        if is_from_handler(failure):
            raise failure
        if closed_by_program:
            return None
        closed = failure if isinstance(failure, ConnectionClosed) else None
        ours = closed and _sent_first(closed)
        if ours and ours.code in NORMAL:
            # No explicit close(): the body of the loop has come back, or that of a ``with`` in it.
            delay = self._delay_after_leaving(failure)
        else:
            if closed is None:
                self._failed += 1
                # Policies ask for it: a callable may have other credentials after a 401.
                failure.fresh_credentials = self._fresh  # type: ignore[attr-defined]
            delay = self._retries.next_delay(failure)
            if delay is None:
                self._give_up(failure)
        if delay is None:
            return None
        if self._on_reconnect is not None:
            self.told = self._on_reconnect(self._failed + 1, delay, failure)
        if self._logger is not None:
            self._logger.info("connecting again in %.1f s: %s", delay, failure)
        # A policy of the user may return anything, infinity among it.
        return min(max(delay, 0.0), FOREVER)

    def _delay_after_leaving(self, failure: Exception) -> float | None:
        left = getattr(self._retries, "left", None)
        if left is not None:
            return left()  # type: ignore[no-any-return]
        # A policy of the user's: what it says at first.
        return self._policy.start().next_delay(failure)

    def _give_up(self, failure: Exception) -> None:
        """Raise *failure*, unless it is a normal end that the policy takes for one."""
        if _closed_normally(failure) and not getattr(self._policy, "after_normal_close", False):
            return
        what = "after the connection ended"
        if self._failed:
            what = f"after {self._failed} failed attempt{'s' * (self._failed > 1)} in a row"
        note = f"{self._loop} gave up {what}, as {self._policy!r} says"
        # What add_note() does, from Python 3.11 on (PEP 678).
        failure.__notes__ = [*getattr(failure, "__notes__", ()), note]
        raise failure


# -- Retry-After --


def retry_after(failure: BaseException) -> float:
    """The seconds that *failure* asks to wait (RFC 9110, 10.2.3), 0 where it doesn't."""
    if not isinstance(failure, REFUSALS):
        return 0.0
    return min(max(_asked_seconds(failure.response), 0.0), MAX_RETRY_AFTER)


def _asked_seconds(response: Response) -> float:
    value = ",".join(response.headers.get_all("Retry-After")).strip()
    # Some servers send fractions.
    if value.isascii() and all(digits.isdigit() for digits in value.split(".", 1)):
        return float(value)
    until = _timestamp(value)
    if until is None:
        return 0.0
    # Both times are the server's, so that it doesn't matter whether ours is right.
    date = _timestamp(",".join(response.headers.get_all("Date")))
    return until - (time.time() if date is None else date)


def _timestamp(date: str) -> float | None:
    """Seconds from 1970 to *date*, or ``None`` if it isn't one of HTTP."""
    import re  # few servers send dates

    match = re.fullmatch(_DATE, date.strip())
    month = match and (match["m"] or match["am"])
    if not match or month not in _MONTHS:
        return None
    year, day = int(match["y"] or match["ay"]), int(match["d"] or match["ad"])
    if year < 100:
        # RFC 9110, 5.6.7 goes by the present year; a fixed limit needs no clock.
        year += 2000 if year < 70 else 1900
    hours, minutes, seconds = map(int, (match["t"] or match["at"]).split(":"))
    # The days of the Gregorian calendar, with years that begin in March: the leap day is the last.
    # Modules that know this are large.
    index = (_MONTHS.index(month) - 2) % 12
    year -= index >= 10
    days = 365 * year + year // 4 - year // 100 + year // 400 + (153 * index + 2) // 5 + day
    return (days - 719469) * 86400.0 + hours * 3600 + minutes * 60 + seconds


def _random() -> float:
    """A number from 0 to 1. The module ``random`` is large, and repeats itself after a fork."""
    return (int.from_bytes(os.urandom(7), "big") >> 3) / (1 << 53)


def _number(name: str, value: float, least: float = 0) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} is a number, not {value!r}")
    if not (value >= least and math.isfinite(value)):
        raise ValueError(f"{name} is a finite number from {least} on, not {value!r}")
    return value


_USUAL = Backoff()  # for all who have none of their own: what it remembers is in start()'s result
