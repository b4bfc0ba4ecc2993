"""The opening handshake: what is sent, what came back."""

from __future__ import annotations

from typing import Hashable

import wsmini


def session(url: str, token: str) -> str | None:
    headers = {"Authorization": f"Bearer {token}"}
    with wsmini.connect(
        url,
        origin="https://example.com",
        additional_headers=headers,
        subprotocols=("v2", "v1"),
        user_agent_header=None,
    ) as ws:
        assert ws.request_headers["Host"] == ws.request.headers["Host"]
        if ws.subprotocol == "v1":
            raise RuntimeError("server is too old")
        cookies: list[str] = ws.response_headers.get_all("Set-Cookie")
        print(ws.response.status_code, ws.response.reason_phrase, len(ws.response.body), cookies)
        for name, value in ws.response.headers.items():
            print(name.lower(), value.strip())
        return ws.response_headers.get("X-Session")


def repeated(url: str) -> None:
    pairs = [("X-Room", "1"), ("X-Room", "2")]
    wsmini.connect(url, additional_headers=pairs).close()


def where(ws: wsmini.Connection) -> str:
    phases: dict[str, float] = ws.timings
    slowest = max(phases, key=lambda phase: phases[phase])
    names = [extension.name for extension in ws.extensions]
    return f"{ws.id}: {ws.local_address} to {ws.remote_address}, {ws.state}, {slowest}, {names}"


def fresh() -> dict[str, str]:
    return {"Authorization": "Bearer x"}


def asked_for(url: str) -> None:
    wsmini.connect(url, additional_headers=fresh).close()
    wsmini.connect(url, additional_headers=lambda: [("X-Room", "1")]).close()
    wsmini.connect(url, additional_headers=lambda: 5)  # type: ignore[arg-type,return-value]


def no_key(headers: wsmini.Headers) -> Hashable:
    return headers  # type: ignore[return-value]  # as they can change
