"""Tells what reached it, and from where: the target of redirects, the end of ways through proxies.

The last part of the path chooses what happens: ``/request`` sends the target, the headers and the
address of the peer; ``/private`` refuses with 401 and the same as its body; the rest echoes.
"""

from __future__ import annotations

import asyncio
import http
import json
import socket

from common import announce, split_target, tls_context
from websockets.asyncio.server import serve
from websockets.datastructures import Headers
from websockets.http11 import Response


def report(ws, request):
    headers = list(request.headers.raw_items())
    peer = ws.remote_address[:2]
    return json.dumps({"target": request.path, "headers": headers, "peer": peer})


def last(request):
    return split_target(request.path)[0].rpartition("/")[2]


def answer(ws, request):
    if last(request) != "private":
        return None
    body = report(ws, request).encode()
    headers = Headers([("WWW-Authenticate", 'Basic realm="witness"')])
    headers["Content-Length"] = str(len(body))
    status = http.HTTPStatus.UNAUTHORIZED
    return Response(status.value, status.phrase, headers, body)


async def handle(ws):
    if last(ws.request) == "request":
        await ws.send(report(ws, ws.request))
    async for message in ws:
        await ws.send(message)


def listeners():
    """The same port on each address that ``localhost`` may stand for."""
    for _ in range(100):
        first = socket.create_server(("127.0.0.1", 0))
        try:
            port = first.getsockname()[1]
            return [first, socket.create_server(("::1", port), family=socket.AF_INET6)]
        except OSError:
            if not socket.has_ipv6:
                return [first]
            first.close()
    raise OSError("no port is free for both families")


async def main():
    ports = {}
    options = {"process_request": answer, "max_size": 2**23, "ping_interval": None}
    for scheme, context in (("ws", None), ("wss", tls_context())):
        for sock in listeners():
            await serve(handle, sock=sock, ssl=context, **options).__aenter__()
            ports[scheme] = sock.getsockname()[1]
    announce(**ports)
    await asyncio.Future()


asyncio.run(main())
