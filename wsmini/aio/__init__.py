"""The asyncio API: ``connect()`` and ``Connection``; see ``aio.connection``."""

from __future__ import annotations

from .connection import Connection, Ping, connect

__all__ = ["Connection", "Ping", "connect"]
