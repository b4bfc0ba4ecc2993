"""Send, receive and close."""

from __future__ import annotations

import ssl

import wsmini


def ask(question: str) -> str | bytes:
    with wsmini.connect("wss://example.com/feed", open_timeout=5) as ws:
        ws.send(question)
        ws.send(b"\x00\x01", timeout=2.5)
        ws.send(bytearray(2))
        ws.send(memoryview(b"ab"), text=True)
        ws.send("left alone", compress=False)
        return ws.recv(timeout=5)


def misused() -> None:
    wsmini.connect("ws://example.com", proxy=False)  # type: ignore[arg-type]
    wsmini.connect("ws://example.com", compression="gzip")  # type: ignore[arg-type]
    wsmini.connect("ws://example.com", subprotcols=["chat"])  # type: ignore[call-arg]


def close_code(exc: wsmini.ConnectionClosed) -> int:
    return 0 if exc.rcvd is None else exc.rcvd.code


def decoded(ws: wsmini.Connection) -> tuple[str, bytes]:
    text: str = ws.recv(decode=True)
    data: bytes = ws.recv(timeout=1, decode=False)
    return text, data


def round_trip(ws: wsmini.Connection) -> float:
    waiter = ws.ping(b"are you there?")
    ws.pong()
    seconds: float = waiter.wait(timeout=3)
    return seconds + ws.latency


def by_hand(port: int) -> tuple[int | None, str | None]:
    context = ssl.create_default_context()
    ws = wsmini.connect(
        f"wss://localhost:{port}",
        host="127.0.0.1",
        ssl=context,
        server_hostname="device.example",
        ping_interval=None,
        max_size=(2**24, 2**16),
        max_queue=4,
    )
    try:
        ws.send("hello")
    finally:
        ws.close(1001, "going away")
    descriptor: int = ws.fileno()
    assert descriptor == -1
    return ws.close_code, ws.close_reason


def misspelt() -> None:
    wsmini.connect("ws://localhost", time_out=5)  # type: ignore[call-arg]
    wsmini.connect("ws://localhost", open_timeout="5")  # type: ignore[arg-type]


def wrong(ws: wsmini.Connection) -> None:
    ws.send(5)  # type: ignore[arg-type]
    ws.recv("5")  # type: ignore[call-overload]
