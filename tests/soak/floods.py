"""Peers that flood, and what others notice of it: ``python floods.py NAME [...]``.

flood KIND            a server that floods each connection; see ``KINDS``
calm SECONDS          a server that pings all the time; at the end, the longest wait for a pong
blocking URL CALM SECONDS     a flooded connection and a calm one, which nobody receives from
loop URL SECONDS      a flooded ``Client``: the longest turn of its ``Loop``
aio URL SECONDS       the same on asyncio

Turns are measured in CPU time of their thread, since others may have the processor meanwhile.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import forging  # noqa: E402
from certificates import client_context, server_context  # noqa: E402

import wsmini  # noqa: E402
from wsmini.aio import connect as aio_connect  # noqa: E402
from wsmini.testing import Opcode, frame, scripted_server  # noqa: E402

BURST = 2000  # records, made beforehand

# -- servers --

PLAIN = {  # what comes first, and again and again
    "pongs": (b"", frame(Opcode.PONG) * 1000),
    "fragments": (frame(Opcode.BINARY, fin=False), frame(Opcode.CONT, fin=False) * 1000),
    "final blocks": (b"", frame(Opcode.TEXT, b"\3\0\0", rsv1=True) * 1000),
}
SECURE = {
    "tickets": lambda f: f.messages(forging.NEW_SESSION_TICKET, [f.ticket()] * 50),
    "key updates": lambda f: f.key_update(answered=True),
    "wishes": lambda f: f.messages(forging.CERTIFICATE_REQUEST, [f.certificate_request(0)]),
}
KINDS = [*PLAIN, *SECURE]


def flood(kind):
    def plain(peer):
        first, again = PLAIN[kind]
        peer.accept(extensions="permessage-deflate" if kind == "final blocks" else None)
        peer.send_raw(first)
        while True:
            peer.send_raw(again)

    def secure(peer):
        peer.accept()
        forger = forging.Forger(context.keylog_filename, peer.sock.cipher()[0], sent=1)
        threading.Thread(target=read_on, args=[peer.sock], daemon=True).start()
        count = BURST
        while True:
            data = b"".join(SECURE[kind](forger) for _ in range(count))
            socket.socket.sendall(peer.sock, data)  # past the engine, which would encrypt it again
            count = 20

    context = None
    if kind in SECURE:
        context = server_context(post_handshake_auth=True)
        folder = tempfile.TemporaryDirectory()
        forging.forging_context(context, Path(folder.name))
    with scripted_server(secure if context else plain, ssl=context, timeout=100) as server:
        print(server.url, flush=True)
        sys.stdin.read()
        os._exit(0)


def read_on(sock):
    """Take the answers, whatever they say."""
    while socket.socket.recv(sock, 1 << 16):
        pass


def calm(seconds):
    worst = 0.0

    def script(peer):
        nonlocal worst
        peer.accept()
        end = time.monotonic() + float(seconds)
        while time.monotonic() < end:
            start = time.monotonic()
            peer.send_frame(Opcode.PING, b"?")
            while peer.recv_frame().opcode != Opcode.PONG:
                pass
            worst = max(worst, time.monotonic() - start)
            time.sleep(0.05)

    with scripted_server(script, timeout=100) as server:
        print(server.url, flush=True)
        sys.stdin.read()
    print(json.dumps({"pong": round(worst, 3)}))


# -- clients --


def options(url):
    if url.startswith("ws:"):
        return {"proxy": None}
    context = client_context(certificate="client")
    context.post_handshake_auth = True
    return {"proxy": None, "ssl": context}


def blocking(url, calm_url, seconds):
    flooded = wsmini.connect(url, max_queue=1 << 30, **options(url))
    with wsmini.connect(calm_url, proxy=None):
        time.sleep(float(seconds))
    return {"state": flooded.state.name}


def loop(url, seconds):
    turns, last = [], 0.0

    def turn():
        nonlocal last
        now = time.thread_time()
        turns.append(now - last)
        last = now
        loop.call_soon(turn)

    def on_open(client):
        turns.clear()
        loop.call_later(float(seconds), loop.stop)

    loop = wsmini.Loop()
    client = wsmini.Client(
        url, on_open=on_open, on_message=lambda client, message: None,
        reconnect=wsmini.NoReconnect(), **options(url),
    ).start(loop)  # fmt: skip
    loop.call_soon(turn)
    loop.run_forever()
    return {"turns": len(turns), "turn": round(max(turns), 4), "state": client.state.name}


def aio(url, seconds):
    async def receive(ws):
        async for _ in ws:
            pass

    async def main():
        ws = await aio_connect(url, **options(url))
        receiving = asyncio.ensure_future(receive(ws))
        await asyncio.sleep(0)
        turns, end, last = [], time.monotonic() + float(seconds), time.thread_time()
        while time.monotonic() < end:
            await asyncio.sleep(0)
            now = time.thread_time()
            turns.append(now - last)
            last = now
        state = ws.state.name
        receiving.cancel()
        return {"turns": len(turns), "turn": round(max(turns), 4), "state": state}

    return asyncio.run(main())


if __name__ == "__main__":
    name, *args = sys.argv[1:]
    figures = {f.__name__: f for f in (flood, calm, blocking, loop, aio)}[name](*args)
    if figures is not None:
        print(json.dumps(figures), flush=True)
        os._exit(0)
