"""A session recorded by ``python -m wsmini --record FILE`` as a script for ``testing``."""

from __future__ import annotations

import binascii
import itertools
import json

from ..exceptions import Close, ConnectionClosed
from ..sansio.http11 import is_token
from ..sansio.redaction import shown
from .servers import Server, scripted_server

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ssl import SSLContext
    from typing import Callable

    from .peer import Peer

    Event = str | bytes | Close
    Recorded = tuple[str | None, list[tuple[bool, Event]]]


def replay(
    path: str, *, host: str = "127.0.0.1", port: int = 0, ssl: SSLContext | None = None
) -> Server:
    """Start a server that serves a session recorded with ``python -m wsmini --record`` again.

    Each connection gets the messages that were received then, in their order among those that were
    sent, which the client has to send again: ``AssertionError`` where the ``with`` block ends, if
    it sends something else. If the session had several connections (``--reconnect``), they are
    served in their order, then from the first again. Times, and what came through extensions,
    aren't repeated.

    Args:
        path: of the file.
        host, port, ssl: as for ``echo_server``.

    Raises:
        ValueError, OSError: if there is no recorded session in the file.
    """
    return scripted_server(replay_script(path), host=host, port=port, ssl=ssl, strict=True)


def replay_script(path: str) -> Callable[[Peer], None]:
    """A script that plays the server of the session in the file *path*, for each connection.

    It sends what was received, and expects what was sent, in the order of the file; the next
    connection of the file for the next connection.

    Raises:
        ValueError: if the file isn't a recorded session.
        OSError: if it can't be read.
    """
    with open(path, encoding="utf-8") as file:
        try:
            sessions = _sessions([json.loads(line) for line in file if line.strip()])
        except (ValueError, KeyError, TypeError, IndexError, RecursionError) as exc:
            raise ValueError(f"{path} isn't a recorded session: {exc!r}") from exc
    # Shared by all connections: each takes the next one, whoever made it.
    following = itertools.cycle(sessions)

    def script(peer: Peer) -> None:
        subprotocol, events = next(following)
        peer.accept(subprotocol=subprotocol)
        for received, event in events:
            _play(peer, received, event)

    return script


def _sessions(records: list[dict[str, object]]) -> list[Recorded]:
    """Sort *records* by connection: its subprotocol, and its events."""
    sessions: list[Recorded] = []
    for record in records:
        # What comes before the first handshake is an IndexError: no recorded session.
        if record["type"] == "open":
            chosen = record["subprotocol"]
            subprotocol = None if chosen is None else _text(chosen)
            if subprotocol is not None and not is_token(subprotocol):
                raise ValueError(f"{shown(subprotocol)} is no subprotocol")
            sessions.append((subprotocol, []))
        else:
            sessions[-1][1].append(_event(record))
    if not sessions:
        raise IndexError("it has no connection")
    return sessions


def _event(record: dict[str, object]) -> tuple[bool, Event]:
    """Read a *record*: whether the client received it, and the message or the Close frame."""
    kind, received = record["type"], record["direction"] == "received"
    if kind == "close":
        code, reason = record["code"], record["reason"]
        if type(code) is not int or not 0 <= code < 1 << 16:
            raise ValueError(f"{shown(code)} is no code of a Close frame")
        return received, Close(code, _text(reason))
    payload = _text(record["payload"])
    return received, binascii.a2b_base64(payload) if kind == "binary" else payload


def _text(value: object) -> str:
    """*value*, if it can be sent as text."""
    if not isinstance(value, str):
        raise TypeError(f"{shown(value)} is no text")
    value.encode()
    return value


def _play(peer: Peer, received: bool, event: Event) -> None:
    """Send what the client *received* then, or expect what it sent."""
    if not received:
        _expect(peer, event)
    elif not isinstance(event, Close):
        peer.send_message(event)
    elif event.code != 1006:  # that is no Close frame: the connection was lost
        # 1005 stands for an empty Close frame, and must not be in one (RFC 6455, 7.4.1).
        peer.close(1000 if event.code == 1005 else event.code, event.reason)


def _expect(peer: Peer, event: Event) -> None:
    got: object
    closed = None
    try:
        got = peer.recv_message()
    except ConnectionClosed as exc:
        got, closed = exc.rcvd, exc  # which says who closed first
    if got != event:
        problem = f"expected {shown(event)} from the client, got {shown(got)}"
        raise AssertionError(problem) from closed
