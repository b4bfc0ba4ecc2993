"""The servers, started when a test needs them first and ended behind the last test."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import ssl

import peers
import pytest
import trustme
from tap import Tap

# Seconds for a test; test_autobahn.py has limits of its own.
TIMEOUT = 30

_stderr = pytest.StashKey[int]()


def pytest_configure(config):
    config.stash[_stderr] = os.dup(2)
    # All is on the loopback interface.
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        del os.environ[name]


def pytest_unconfigure(config):
    os.close(config.stash[_stderr])


@pytest.fixture(autouse=True)
def time_limit(request):
    """End the run with the stacks of all threads if a test takes too long."""
    if request.module.__name__ != "test_autobahn":
        faulthandler.dump_traceback_later(TIMEOUT, exit=True, file=request.config.stash[_stderr])
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture(scope="session")
def authority():
    return trustme.CA()


@pytest.fixture(scope="session")
def context(authority):
    """What a client needs to trust the servers' certificates."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.fixture(scope="session")
def pem(authority, tmp_path_factory):
    """A file with a certificate for the loopback interface and its key."""
    path = tmp_path_factory.mktemp("certificate") / "server.pem"
    certificate = authority.issue_cert("127.0.0.1", "localhost")
    certificate.private_key_and_cert_chain_pem.write_to_path(path)
    return path


@pytest.fixture(scope="session")
def stack():
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.fixture(scope="session")
def server(pem, stack, tmp_path_factory):
    """A function that gives the process and the ports of a server, which it starts if need be."""
    started = {}

    def start(name):
        if name == "nginx":
            process, ports = find("ws")
            folder = tmp_path_factory.mktemp("nginx")
            return process, stack.enter_context(peers.nginx(pem, folder, ports["ws"]))
        launch = peers.node_server if name == "ws" else peers.python_server
        process = stack.enter_context(launch(name, pem))
        return process, peers.announced(process)

    def find(name):
        if name not in started:
            started[name] = start(name)
        return started[name]

    return find


@pytest.fixture
def peer(request, server, context):
    name, _, scheme = request.param.partition("-")
    process, ports = server(name)
    return peers.Peer(name, scheme, ports[scheme], process, context)


@pytest.fixture(scope="session", params=peers.SCHEMES)
def libwebsockets(request, pem, context):
    with peers.libwebsockets(pem, request.param) as (process, port):
        yield peers.Peer("libwebsockets", request.param, port, process, context)


@pytest.fixture
def tap(peer):
    """A relay in front of the peer that records what passes."""
    with Tap(peer.port) as tap:
        yield tap


@pytest.fixture
def tag(request):
    """A word to recognise a connection by in the server's reports."""
    _tags.append(request.node.nodeid)
    return f"c{len(_tags)}"


_tags = []
