"""Opening connections on asyncio: ``connect()``, to be awaited, entered, or iterated over."""

from __future__ import annotations

import asyncio
from inspect import isawaitable, iscoroutinefunction

from ..exceptions import InvalidHandshake, InvalidState
from ..interrupts import MarkFailures
from ..opening.opening import Opened, Opening
from ..opening.steps import LoopRun
from ..options import Options
from ..policies import Attempts, read_policy
from ..sansio.handshake import user_headers
from .connection import Connection
from .selector_thread import host_loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, AsyncIterator, Generator

    from typing_extensions import Unpack

    from ..options import ConnectOptions
    from ..policies import Policy, Reported
    from ..sansio.handshake import HeaderSource


class connect:
    """Open a connection: ``async with connect(url) as ws``, which closes it, or ``await``.

    ``async for ws in connect(url)`` opens one after the other, as ``wsmini.reconnect`` does: a new
    one whenever the loop's body has done with the last, which is closed then. Between two it waits
    as the policy says. It ends if the program has called ``close()``, or the policy gives up: with
    the failure, and a note that tells the attempts. Leaving the body, or an ``async with`` in it,
    only closes that connection; and a server's 1000 is the policy's to judge.

    Args:
        url: ``"ws://..."`` or ``"wss://..."``.
        reconnect: the policy for ``async for``; ``policy`` is the same. ``Backoff()`` by default.
        stop: an ``asyncio.Event``, for ``async for``; once it is set, there is no other connection,
            and no more waiting for one; an attempt that goes on ends within ``open_timeout``.
        on_reconnect: a function or coroutine function, for ``async for``; called before each wait
            with the number of the attempt that comes then (from 1 on after a connection, from 2 on
            at the start), the seconds to wait, and the failure.
        extra_headers: an older name of ``additional_headers``.
        options: as for ``wsmini.connect``; ``help(wsmini.options.Options)`` explains each. The
            callable for ``additional_headers`` may be a coroutine function.

    Raises:
        InvalidURI, ValueError, TypeError: at once, if the URL or an argument isn't valid.
        OSError, TimeoutError, InvalidHandshake: when it is awaited, as ``wsmini.connect``.
        InvalidState: if two ``async with`` have the same one at a time.
    """

    def __init__(
        self,
        url: str,
        *,
        reconnect: Policy | None = None,
        policy: Policy | None = None,
        stop: asyncio.Event | None = None,
        on_reconnect: Reported | None = None,
        extra_headers: HeaderSource = None,
        **options: Unpack[ConnectOptions],
    ) -> None:
        if extra_headers is not None:
            if "additional_headers" in options:
                raise TypeError("extra_headers is an older name of additional_headers: use one")
            options["additional_headers"] = extra_headers
        if stop is not None and not iscoroutinefunction(getattr(stop, "wait", None)):
            raise TypeError(f"stop is an asyncio.Event or the like, not {stop!r}")
        self._options = Options(url, **options)
        self._policy = read_policy(policy, reconnect, on_reconnect)
        self._stop, self._on_reconnect = stop, on_reconnect
        self._entered = False
        self._connection: Connection | None = None

    def __await__(self) -> Generator[Any, None, Connection]:
        return _open(self._options).__await__()

    async def __aenter__(self) -> Connection:
        if self._entered:
            raise InvalidState("this connect() is within another async with; call it for each")
        self._entered = True
        try:
            self._connection = await _open(self._options)
        finally:
            self._entered = self._connection is not None
        return self._connection

    async def __aexit__(self, kind: type[BaseException] | None, *exc_info: object) -> None:
        ws, self._connection, self._entered = self._connection, None, False
        if ws is not None:
            await ws.__aexit__(kind, *exc_info)

    async def __aiter__(self) -> AsyncIterator[Connection]:
        options, report = self._options, self._on_reconnect
        stop = asyncio.Event() if self._stop is None else self._stop
        if options.sock is not None:
            raise ValueError("sock gives one connection, so there is nothing to reconnect with")
        attempts = Attempts("wsmini.aio.connect()", self._policy, options, report)
        while not stop.is_set():
            closed_by_program = False
            try:
                ws = await _open(options)
            except (OSError, InvalidHandshake) as exc:
                failure: Exception = exc
            else:
                attempts.opened()
                async with ws:
                    yield ws
                failure, closed_by_program = ws._protocol.close_exc(), ws._closed_by_program
                del ws  # its buffers aren't needed while waiting
            delay = attempts.failed(failure, closed_by_program or stop.is_set())
            del failure  # with its traceback, and so its frames
            if delay is None:
                return
            if isawaitable(attempts.told):
                await attempts.told
            await _pause(delay, stop)


async def _pause(delay: float, stop: asyncio.Event) -> None:
    # Not by asyncio.wait_for, which may lose a cancellation before Python 3.12.
    waiting = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait([waiting], timeout=delay)
    finally:
        waiting.cancel()


async def _open(options: Options) -> Connection:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Opened] = loop.create_future()
    host = host_loop(loop)

    def done(opened: Opened | None, exc: BaseException | None) -> None:
        if opened is None and not isinstance(exc, Exception):
            future.cancel()
            raise exc or AssertionError("neither open nor failed")
        if future.cancelled():
            if opened is not None:
                opened.stream.close()  # nobody will get it
        elif opened is not None:
            future.set_result(opened)
        elif exc is not None:
            future.set_exception(exc)

    # A coroutine function can't be asked by the opening, which is a generator of its own.
    given: Any = options.additional_headers
    if callable(given):
        with MarkFailures():
            given = given()
            given = user_headers(await given if isawaitable(given) else given)
    driven = LoopRun(host, Opening(options, given).steps(), done, at_once=True)
    try:
        opened = await future
    except asyncio.CancelledError:
        if not future.cancelled() and future.exception() is None:
            future.result().stream.close()  # it was open already
        driven.cancel()
        raise
    try:
        return Connection(loop, host, opened, options)
    except BaseException:
        opened.stream.close()
        raise
