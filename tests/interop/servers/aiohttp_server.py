from __future__ import annotations

import asyncio
import json

from aiohttp import WSMsgType, web
from common import REFUSAL, SUBPROTOCOLS, announce, tell_closed, tls_context


async def echo(ws, query):
    async for message in ws:
        if message.type is WSMsgType.TEXT:
            await ws.send_str(message.data)
        elif message.type is WSMsgType.BINARY:
            await ws.send_bytes(message.data)


async def close(ws, query):
    if "code" in query:
        await ws.close(code=int(query["code"]), message=query["reason"].encode())
    else:
        await ws.send_frame(b"", WSMsgType.CLOSE)
        await ws.receive()


async def burst(ws, query):
    for number in range(int(query["count"])):
        await ws.send_str(str(number))
    await ws.close()


async def drop(ws, query):
    await ws.receive()
    ws._req.transport.abort()


async def ping(ws, query):
    async for message in ws:
        if message.type is WSMsgType.TEXT:
            await ws.ping(message.data.encode())
        elif message.type is WSMsgType.PONG:
            await ws.send_str(f"pong {message.data.decode()}")
        elif message.type is WSMsgType.PING:
            await ws.pong(message.data)


async def request(ws, query):
    headers = [[part.decode() for part in pair] for pair in ws._req.raw_headers]
    await ws.send_str(json.dumps({"target": ws._req.raw_path, "headers": headers}))
    await ws.receive()


HANDLERS = {
    "/echo": echo,
    "/close": close,
    "/burst": burst,
    "/drop": drop,
    "/ping": ping,
    "/request": request,
    "/subprotocols": echo,
}


async def handle(request):
    query = request.query
    if request.path == "/refuse":
        text = REFUSAL * int(query.get("times", 1))
        response = web.Response(status=int(query["status"]), text=text)
        response.headers.extend(
            [("X-Why", "interop"), ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")]
        )
        if "chunked" in query:
            response.enable_chunked_encoding()
        return response
    protocols = SUBPROTOCOLS if request.path == "/subprotocols" else ()
    # aiohttp doesn't know of the Close frame that close() sends by hand: it would answer the
    # client's with another one, on a TCP connection that the client has already ended.
    ws = web.WebSocketResponse(
        protocols=protocols,
        autoping=request.path != "/ping",
        autoclose=request.path != "/close",
        max_msg_size=2**23,
    )
    await ws.prepare(request)
    await HANDLERS[request.path](ws, query)
    code = 1006 if ws.close_code is None else int(ws.close_code)
    tell_closed(query, code or 1005, None)
    return ws


async def main():
    app = web.Application()
    app.router.add_get("/{path:.*}", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls_context()).start()
    announce(ws=runner.addresses[0][1], wss=runner.addresses[1][1])
    await asyncio.Future()


asyncio.run(main())
