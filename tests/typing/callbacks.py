"""The callback client, as typed programs use it."""

from __future__ import annotations

import wsmini


def on_open(client: wsmini.Client) -> None:
    client.send("hello")
    client.send(b"data", text=True, compress=False)


def on_close(client: wsmini.Client, code: int, reason: str) -> None:
    print(code, reason, client.unsent, client.buffered_amount)


def facts(client: wsmini.Client) -> None:
    client.loop.stop()  # type: ignore[union-attr]
    loop: wsmini.Loop | None = client.loop
    print(client.request.target)  # type: ignore[union-attr]
    client.subprotocol = "chat"  # type: ignore[misc]
    client.loop = loop  # type: ignore[misc]
    numbers: tuple[float, int | None] = client.latency, client.close_code
    print(client.id.upper(), client.timings.get("tls"), len(client.extensions), numbers)


def main() -> int:
    with wsmini.Loop() as loop:
        client = wsmini.Client("ws://localhost", on_open=on_open, reconnect=wsmini.Fixed(1))
        client.start(loop)
        timer = loop.call_later(1, client.close, 1000, "bye")
        timer.cancel()
        loop.run_once(0.1)
    return wsmini.Client("ws://localhost", on_close=on_close, outbox=3).run_forever()
