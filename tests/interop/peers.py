"""The servers that wsmini is tried with, each in a process of its own, for ws and for wss."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import string
import sys
from pathlib import Path
from urllib.parse import quote

import pytest
from process import Process

import wsmini

HERE = Path(__file__).resolve().parent
NODE_MODULES = Path(sys.prefix) / "node" / "node_modules"

# What differs between them; README.md says what each means.
FEATURES = {
    "websockets": {"fragments", "deflate", "windows", "reason"},
    "aiohttp": {"deflate"},
    "picows": {"fragments", "reason"},
    "ws": {"fragments", "deflate", "windows", "reason"},
    "nginx": {"fragments", "deflate", "windows", "reason"},
}
SCHEMES = ("ws", "wss")


def every(*features, schemes=SCHEMES):
    """A decorator that runs a test with each peer that has all of *features*."""
    names = [name for name, has in FEATURES.items() if has.issuperset(features)]
    ids = [f"{name}-{scheme}" for name in names for scheme in schemes]
    return pytest.mark.parametrize("peer", ids, indirect=True)


class Peer:
    """One server: what it is called, how to connect to it, and what it tells.

    *process* is the program that the messages reach in the end.
    """

    def __init__(self, name, scheme, port, process, context):
        self.name = name
        self.port = port
        self.url = f"{scheme}://127.0.0.1:{port}"
        self.process = process
        self.options = {"ssl": context} if scheme == "wss" else {}

    def connect(self, target="/echo", **options):
        return wsmini.connect(self.url + target, **{**self.options, **options})

    def closed(self, tag):
        """How the connection ended whose URL had *tag*: ``code`` and ``reason`` received."""
        pattern = r'^\{"closed": ?"%s".*' % tag
        return json.loads(self.process.wait_for(pattern).group())


def target(path, **query):
    """A request target with *query* encoded."""
    return path + "?" + "&".join(f"{name}={quote(str(value))}" for name, value in query.items())


def program(name):
    """The path of an installed program; Debian keeps those for root off the PATH of users."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])
    found = shutil.which(name, path=path)
    if not found:
        raise FileNotFoundError(f"{name} isn't installed: run tests/interop/install")
    return found


def python_server(name, pem):
    return Process(name, [sys.executable, HERE / "servers" / f"{name}_server.py", pem])


def node_server(name, pem):
    if not (NODE_MODULES / name).is_dir():
        raise FileNotFoundError(f"{NODE_MODULES / name} isn't there: run tests/interop/install")
    command = [program("node"), HERE / "servers" / f"{name}_server.js", pem]
    return Process(name, command, {"NODE_PATH": str(NODE_MODULES)})


def announced(process):
    """The ports that a server of ours has printed, by scheme."""
    return json.loads(process.wait_for(r'^\{"ports".*').group())["ports"]


@contextlib.contextmanager
def nginx(pem, folder, backend):
    """nginx in front of the server on the port *backend*; gives its ports by scheme."""
    with contextlib.ExitStack() as stack:
        listeners = [stack.enter_context(socket.socket()) for _ in SCHEMES]
        for listener in listeners:
            listener.bind(("127.0.0.1", 0))
            listener.listen(128)
        ports = {s: each.getsockname()[1] for s, each in zip(SCHEMES, listeners)}
        template = string.Template((HERE / "nginx.conf").read_text())
        config = Path(folder) / "nginx.conf"
        config.write_text(template.substitute(ports, pem=pem, backend=backend))
        # It takes over listening sockets that it is told of (as from the old process in an
        # upgrade): nobody can snatch the ports, and connections may come at once.
        descriptors = [listener.fileno() for listener in listeners]
        environment = {"NGINX": "".join(f"{number};" for number in descriptors)}
        command = [program("nginx"), "-p", folder, "-c", config, "-e", "stderr"]
        with Process("nginx", command, environment, pass_fds=descriptors):
            stack.close()
            yield ports


@contextlib.contextmanager
def libwebsockets(pem, scheme):
    """The test server of libwebsockets; gives the process and its port."""
    tls = ["--ssl", "--ssl-cert", pem, "--ssl-key", pem] if scheme == "wss" else []
    # Which port it got, and that it listens, is only told to those who debug (16).
    command = [program("libwebsockets-test-server"), "-p", "0", "-i", "lo", "-d", "23", *tls]
    with Process("libwebsockets-test-server", command) as process:
        process.wait_for("-> [0-9]+ 'OPERATIONAL'")
        yield process, int(process.wait_for(r"lws_socket_bind says (\d+)").group(1))
