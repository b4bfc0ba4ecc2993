from __future__ import annotations

import asyncio
import http
import json

from common import (
    REFUSAL,
    SUBPROTOCOLS,
    announce,
    fragments,
    split_target,
    tell_closed,
    tls_context,
)
from websockets.asyncio.server import serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.http11 import Response

RESET = {"server_no_context_takeover": True, "client_no_context_takeover": True}
DEFLATE = {
    "default": {},
    "reset": RESET,
    "small": {"server_max_window_bits": 9, "client_max_window_bits": 9},
    "small-reset": {"server_max_window_bits": 9, "client_max_window_bits": 9, **RESET},
}


async def echo(ws, query):
    async for message in ws:
        await ws.send(message)


async def echo_fragments(ws, query):
    async for message in ws:
        text = isinstance(message, str)
        await ws.send(fragments(message.encode() if text else message), text=text)


async def close(ws, query):
    if "code" in query:
        await ws.close(int(query["code"]), query["reason"])
    else:
        # Its public API knows no close frame without a code.
        async with ws.send_context(expected_state=ws.state):
            ws.protocol.send_close()
    await ws.wait_closed()


async def burst(ws, query):
    for number in range(int(query["count"])):
        await ws.send(str(number))
    await ws.close()


async def drop(ws, query):
    await ws.recv()
    ws.transport.abort()


async def ping(ws, query):
    async for message in ws:
        await (await ws.ping(message))
        await ws.send(f"pong {message}")


async def request(ws, query):
    headers = list(ws.request.headers.raw_items())
    await ws.send(json.dumps({"target": ws.request.path, "headers": headers}))
    await ws.wait_closed()


HANDLERS = {
    "/echo": echo,
    "/fragments": echo_fragments,
    "/close": close,
    "/burst": burst,
    "/drop": drop,
    "/ping": ping,
    "/request": request,
    "/subprotocols": echo,
    "/deflate": echo,
}


async def handle(ws):
    path, query = split_target(ws.request.path)
    try:
        await HANDLERS[path](ws, query)
    except ConnectionClosed:
        pass
    await ws.wait_closed()
    received = ws.protocol.close_rcvd
    code, reason = (received.code, received.reason) if received else (1006, "")
    tell_closed(query, code, reason, first=ws.protocol.close_rcvd_then_sent)


def answer(ws, request):
    """Refuse, or choose what to negotiate."""
    path, query = split_target(request.path)
    if path == "/refuse":
        status = http.HTTPStatus(int(query["status"]))
        headers = Headers([("X-Why", "interop"), ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")])
        body = REFUSAL.encode() * int(query.get("times", 1))
        headers["Content-Length"] = str(len(body))
        return Response(status.value, status.phrase, headers, body)
    if path != "/subprotocols" or "Sec-WebSocket-Protocol" not in request.headers:
        ws.protocol.available_subprotocols = None
    if path == "/deflate":
        factory = ServerPerMessageDeflateFactory(**DEFLATE[query["as"]])
        ws.protocol.available_extensions = [factory]
    return None


async def main():
    options = {
        "process_request": answer,
        "subprotocols": SUBPROTOCOLS,
        "max_size": 2**23,
        "ping_interval": None,
    }
    # One that gives clients up which don't answer its pings.
    strict = {**options, "ping_interval": 1, "ping_timeout": 2}
    async with serve(handle, "127.0.0.1", 0, **options) as plain:
        async with serve(handle, "127.0.0.1", 0, ssl=tls_context(), **options) as tls:
            async with serve(handle, "127.0.0.1", 0, **strict) as pinging:
                servers = {"ws": plain, "wss": tls, "pinging": pinging}
                announce(**{k: each.sockets[0].getsockname()[1] for k, each in servers.items()})
                await asyncio.Future()


asyncio.run(main())
