"""The asyncio front end."""

from __future__ import annotations

import asyncio

from wsmini import Backoff
from wsmini.aio import Connection, connect


async def ask(question: str) -> str | bytes:
    async with connect("wss://example.com/feed", extra_headers={"X-A": "b"}) as ws:
        await ws.send(question)
        await ws.send([b"a", b"b"], compress=False)
        seconds: float = await (await ws.ping())
        print(seconds)
        return await ws.recv()


async def read(ws: Connection) -> str:
    async for message in ws:
        print(len(message))
    async for chunk in ws.recv_streaming(decode=True):
        print(chunk.upper())
    count: int = await ws.recv_into(bytearray(10))
    print(count)
    return await ws.recv(decode=True)


async def report(attempt: int, delay: float, exc: Exception) -> None:
    print(attempt, delay, exc)


async def reconnect(stop: asyncio.Event) -> None:
    async for ws in connect("wss://example.com", policy=Backoff(), stop=stop, on_reconnect=report):
        tls = ws.ssl_object
        print(tls.version() if tls is not None else "no TLS")
        await ws.wait_closed()
    connect("ws://example.com", subprotcols=["chat"])  # type: ignore[call-arg]
