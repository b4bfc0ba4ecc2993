"""Reconnect with a policy of one's own, and watch it."""

from __future__ import annotations

import threading

import wsmini


class Patient:
    """A policy is any object with these methods."""

    def start(self) -> Patient:
        return self

    def opened(self) -> None:
        pass

    def next_delay(self, failure: BaseException) -> float | None:
        return 1.5 if wsmini.retryable(failure) else None


def report(attempt: int, delay: float, failure: Exception) -> None:
    print(f"attempt {attempt} in {delay:.1f} s: {failure}")


def follow(url: str, stop: threading.Event) -> None:
    for ws in wsmini.reconnect(url, policy=Patient(), stop=stop, on_reconnect=report):
        for message in ws:
            print(len(message))


def others(url: str) -> None:
    for policy in (wsmini.Backoff(initial=1, jitter=None), wsmini.Fixed(5), wsmini.NoReconnect()):
        for ws in wsmini.reconnect(url, policy=policy, ping_interval=None):
            ws.close()
