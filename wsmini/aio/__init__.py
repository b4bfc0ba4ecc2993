"""The asyncio API: ``connect()`` and ``Connection``.

::

    async with connect("wss://example.com/feed") as ws:
        await ws.send("hello")
        async for message in ws:
            print(message)
"""

from __future__ import annotations

from .connecting import connect
from .connection import Connection, Ping

__all__ = ["Connection", "Ping", "connect"]
