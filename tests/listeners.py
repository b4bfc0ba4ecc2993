"""Listeners on loopback, and generators brought to their end."""

from __future__ import annotations

import contextlib
import socket

import pytest


@contextlib.contextmanager
def listener(family=socket.AF_INET, host="127.0.0.1", backlog=8):
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.bind((host, 0))
        sock.listen(backlog)
        yield sock


def address_of(sock):
    """As ``getaddrinfo`` has it."""
    return sock.family, socket.SOCK_STREAM, 0, "", sock.getsockname()


def finish(steps, ready):
    """Resume *steps*, which must end, and return the result."""
    with pytest.raises(StopIteration) as stop:
        steps.send(ready)
    return stop.value.value
