"""Iterate over the messages until the connection closes."""

from __future__ import annotations

import json

import wsmini


def titles(url: str) -> list[str]:
    found: list[str] = []
    with wsmini.connect(url, subprotocols=["json"], compression=None) as ws:
        for message in ws:
            if isinstance(message, bytes):
                message = message.decode()
            found.append(json.loads(message)["title"])
    return found


def total(ws: wsmini.Connection) -> int:
    return sum(len(message) for message in ws)
