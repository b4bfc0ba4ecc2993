"""Long messages, in pieces, both ways."""

from __future__ import annotations

from typing import BinaryIO, Iterator

import wsmini


def chunks(file: BinaryIO) -> Iterator[bytes]:
    while True:
        chunk = file.read(65536)
        if not chunk:
            return
        yield chunk


def upload(ws: wsmini.Connection, path: str) -> None:
    with open(path, "rb") as file:
        ws.send(chunks(file))
    ws.send(["one ", "message ", "of text"])
    ws.send(line.upper() for line in ("so ", "is ", "this"))


def download(ws: wsmini.Connection, path: str) -> None:
    with open(path, "wb") as file:
        for piece in ws.recv_streaming(decode=False):
            file.write(piece)


def pieces(ws: wsmini.Connection) -> Iterator[str]:
    yield from ws.recv_streaming(decode=True)
    for piece in ws.recv_streaming():
        yield piece if isinstance(piece, str) else piece.hex()
