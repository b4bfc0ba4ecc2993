"""Servers for the command line to talk to."""

from __future__ import annotations

import pytest
from programs.terminals import Pushed

from wsmini.testing import echo_server


@pytest.fixture
def echo():
    with echo_server(subprotocols=["chat"]) as server:
        yield server


@pytest.fixture
def pushed():
    with Pushed() as pushed:
        yield pushed
