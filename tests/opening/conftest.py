"""Fixtures for what opens connections: pairs, listeners, addresses that refuse, a clock."""

from __future__ import annotations

import socket

import pytest
from listeners import address_of, listener

from wsmini.opening import streams, tcp


class Clock:
    """Stands in for the module ``time``; it only moves when it is told to, or put to sleep."""

    def __init__(self):
        self.now = 1000.0
        self.slept = []

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(streams, "time", clock)
    monkeypatch.setattr(tcp, "time", clock)
    return clock


@pytest.fixture
def pair():
    one, other = socket.socketpair()
    with one, other:
        yield one, other


@pytest.fixture
def server():
    with listener() as sock:
        yield sock


@pytest.fixture
def servers():
    with listener() as one, listener() as other, listener() as third:
        yield one, other, third


@pytest.fixture
def refused():
    """The address of a port that nobody listens at, and nobody can take."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield address_of(sock)


@pytest.fixture
def refused_too():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield address_of(sock)
