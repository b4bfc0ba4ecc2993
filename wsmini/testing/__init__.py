"""Servers on the loopback interface for tests of WebSocket clients: yours, and wsmini's own.

``echo_server()`` is a complete small server; ``fault_server(Refuse(503), Cut(after=7))`` is one
whose first connections go wrong, each in its way; ``scripted_server(script)`` does what the script
says, right or wrong. All listen at once, on a free port unless told otherwise, and are context
managers::

    def script(peer):
        peer.accept(subprotocol="chat")
        assert peer.recv_message() == "hello"
        peer.send_frame(Opcode.TEXT, "good bye")
        peer.close(1001, "going away")

    with scripted_server(script) as server:
        run_the_client(server.url)

How it works: one daemon thread accepts and one serves each connection, with blocking calls; a
``Peer`` belongs to the thread of its connection. ``Server.close()`` may be called from any thread.
It lets scripts come to their end, then shuts their sockets down, and waits for all threads, but
not forever. These servers trust their clients more than a server on a network could.
"""

from __future__ import annotations

from ..sansio.frames import Opcode
from .faults import (
    Bomb,
    Challenge,
    CloseWith,
    Cut,
    Drip,
    EndlessHeader,
    Fault,
    Garbage,
    IgnoreClose,
    Redirect,
    Refuse,
    Reset,
    Send,
    Stall,
    WrongAccept,
    fault_server,
)
from .peer import Peer, frame
from .replay import replay
from .servers import Server, echo_server, scripted_server

__all__ = [
    "Bomb", "Challenge", "CloseWith", "Cut", "Drip", "EndlessHeader", "Fault", "Garbage",
    "IgnoreClose", "Opcode", "Peer", "Redirect", "Refuse", "Reset", "Send", "Server", "Stall",
    "WrongAccept", "echo_server", "fault_server", "frame", "replay", "scripted_server",
]  # fmt: skip
