from __future__ import annotations

import asyncio
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
from picows import (
    WSListener,
    WSMsgType,
    WSUpgradeResponse,
    WSUpgradeResponseWithListener,
    ws_create_server,
)


class Listener(WSListener):
    """What all paths have in common. picows passes frames on, and gathers no messages."""

    def __init__(self, query):
        self.query = query
        self.received = (1006, "")
        self.closing = False

    def on_ws_frame(self, transport, frame):
        if frame.msg_type == WSMsgType.CLOSE:
            payload = frame.get_payload_as_bytes()
            code = int.from_bytes(payload[:2], "big") or 1005
            self.received = (code, payload[2:].decode())
            if not self.closing:
                transport.send(WSMsgType.CLOSE, payload)
            transport.disconnect()
        elif frame.msg_type == WSMsgType.PONG:
            self.on_pong(transport, frame.get_payload_as_bytes())
        elif frame.msg_type != WSMsgType.PING:
            self.on_data(transport, frame)

    def on_data(self, transport, frame):
        pass

    def on_pong(self, transport, payload):
        pass

    def on_ws_disconnected(self, transport):
        tell_closed(self.query, *self.received)


class Echo(Listener):
    def on_data(self, transport, frame):
        transport.send(frame.msg_type, frame.get_payload_as_bytes(), frame.fin)


class Fragments(Listener):
    def on_data(self, transport, frame):
        msg_type = frame.msg_type
        pieces = fragments(frame.get_payload_as_bytes())
        for piece in pieces[:-1]:
            transport.send(msg_type, piece, fin=False)
            transport.send_ping(b"between fragments")
            msg_type = WSMsgType.CONTINUATION
        transport.send(msg_type, pieces[-1], frame.fin)


class Close(Listener):
    def on_ws_connected(self, transport):
        payload = b""
        if "code" in self.query:
            payload = int(self.query["code"]).to_bytes(2, "big") + self.query["reason"].encode()
        transport.send(WSMsgType.CLOSE, payload)
        self.closing = True


class Burst(Listener):
    def on_ws_connected(self, transport):
        for number in range(int(self.query["count"])):
            transport.send(WSMsgType.TEXT, str(number))
        transport.send(WSMsgType.CLOSE, (1000).to_bytes(2, "big"))
        self.closing = True


class Drop(Listener):
    def on_data(self, transport, frame):
        transport.disconnect(graceful=False)


class Ping(Listener):
    def on_data(self, transport, frame):
        transport.send_ping(frame.get_payload_as_bytes())

    def on_pong(self, transport, payload):
        transport.send(WSMsgType.TEXT, b"pong " + payload)


class Request(Listener):
    def on_ws_connected(self, transport):
        request = transport.request
        seen = {"target": request.path.decode(), "headers": list(request.headers.items())}
        transport.send(WSMsgType.TEXT, json.dumps(seen))


LISTENERS = {
    "/echo": Echo,
    "/fragments": Fragments,
    "/close": Close,
    "/burst": Burst,
    "/drop": Drop,
    "/ping": Ping,
    "/request": Request,
    "/subprotocols": Echo,
}


def answer(request):
    path, query = split_target(request.path.decode())
    if path == "/refuse":
        headers = [("X-Why", "interop"), ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")]
        body = REFUSAL.encode() * int(query.get("times", 1))
        response = WSUpgradeResponse.create_error_response(int(query["status"]), body, headers)
        return WSUpgradeResponseWithListener(response, None)
    headers = []
    if path == "/subprotocols":
        offered = request.headers.get("Sec-WebSocket-Protocol", "").split(", ")
        for name in [name for name in SUBPROTOCOLS if name in offered][:1]:
            headers.append(("Sec-WebSocket-Protocol", name))
    response = WSUpgradeResponse.create_101_response(headers)
    return WSUpgradeResponseWithListener(response, LISTENERS[path](query))


async def main():
    plain = await ws_create_server(answer, "127.0.0.1", 0)
    tls = await ws_create_server(answer, "127.0.0.1", 0, ssl=tls_context())
    announce(ws=plain.sockets[0].getsockname()[1], wss=tls.sockets[0].getsockname()[1])
    await asyncio.Future()


asyncio.run(main())
