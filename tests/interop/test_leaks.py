"""Nothing stays behind an opening that fails: no thread, no socket, no file descriptor."""

from __future__ import annotations

import contextlib
import gc
import os
import re
import socket
import ssl
import struct
import threading

import pytest
from witness import USER, blackhole, free_port

import wsmini
from wsmini import InvalidMessage, InvalidRedirect, InvalidStatus, ProxyError, TooManyRedirects

pytest_plugins = ["proxies"]

COUNT = 200
SHORT = {"open_timeout": 0.01}

# The URL, options, and the exception. {program:port} is one of proxies.py, the other names in
# braces are of the fixture *places*.
KINDS = {
    "refused": ("ws://{closed}/", {}, ConnectionRefusedError),
    "reset": ("ws://{reset}/", {}, ConnectionError),
    "reset-in-tls": ("wss://{reset}/", {}, ConnectionError),
    "ended": ("ws://{nginx:ws}/ended", {}, (ConnectionError, InvalidMessage)),
    "garbage": ("ws://{garbage}/", {}, (ConnectionError, InvalidMessage)),
    "garbage-in-tls": ("wss://{garbage}/", {}, (ConnectionError, ssl.SSLError)),
    "plain-in-tls": ("wss://{nginx:ws}/", {}, ssl.SSLError),
    "untrusted": ("wss://{haproxy:self-signed}/", {}, ssl.SSLCertVerificationError),
    "expired": ("wss://{haproxy:expired}/", {}, ssl.SSLCertVerificationError),
    "no-certificate": ("wss://{haproxy:client}/", {}, ssl.SSLError),
    "no-websocket": ("ws://{nginx:ws}/page", {}, InvalidStatus),
    "no-websocket-in-tls": ("wss://{nginx:wss}/page", {}, InvalidStatus),
    "bad-gateway": ("ws://{nginx:ws}/nobody", {}, InvalidStatus),
    "basic": ("ws://{witness:ws}/private", {"auth": (USER, "x")}, InvalidStatus),
    "digest": ("wss://{apache:wss}/md5/", {"auth": (USER, "x")}, InvalidStatus),
    "redirects": ("ws://{nginx:ws}/longer", {}, TooManyRedirects),
    "redirect-in-loop": ("wss://{nginx:wss}/302?to=/302", {}, TooManyRedirects),
    "redirect-to-junk": ("wss://{nginx:wss}/302?to=ftp://x/", {}, InvalidRedirect),
    "redirect-to-ws": ("wss://{nginx:wss}/302?to=ws://x/", {}, InvalidRedirect),
    "redirect-to-nobody": ("ws://{nginx:ws}/302?to=ws://{closed}/", {}, ConnectionRefusedError),
    "proxy-refused": ("ws://x/", {"proxy": "http://{closed}"}, ConnectionRefusedError),
    "proxy-reset": ("ws://x/", {"proxy": "http://{reset}"}, (ConnectionError, InvalidMessage)),
    "proxy-garbage": ("ws://x/", {"proxy": "socks5h://{garbage}"}, (ConnectionError, ProxyError)),
    "proxy-forbids": ("ws://127.0.0.1:9/", {"proxy": "http://{squid:plain}"}, ProxyError),
    "proxy-basic": ("ws://x/", {"proxy": "http://u:x@{squid:basic}"}, ProxyError),
    "proxy-digest": ("ws://x/", {"proxy": "http://u:x@{squid:digest}"}, ProxyError),
    "proxy-untrusted": ("ws://x/", {"proxy": "https://{stunnel:server}"}, ssl.SSLError),
    "socks-password": ("ws://x/", {"proxy": "socks5h://u:x@{microsocks:password}"}, ProxyError),
    "socks-forbids": ("ws://127.0.0.1:9/", {"proxy": "socks5h://{dante:plain}"}, ProxyError),
    "socks-refused": ("ws://{closed}/", {"proxy": "socks4a://{dante:plain}"}, ProxyError),
    "tls-in-connect": ("wss://{haproxy:expired}/", {"proxy": "http://{squid:plain}"}, ssl.SSLError),
    "tls-in-socks": (
        "wss://{haproxy:expired}/",
        {"proxy": "socks5h://{dante:plain}"},
        ssl.SSLError,
    ),
    "timeout-tcp": ("ws://{blackhole}/", SHORT, TimeoutError),
    "timeout-tls": ("wss://{silent}/", SHORT, TimeoutError),
    "timeout-upgrade": ("ws://{silent}/", SHORT, TimeoutError),
    "timeout-proxy": ("ws://x/", {"proxy": "http://{silent}", **SHORT}, TimeoutError),
    "timeout-socks": ("ws://x/", {"proxy": "socks5h://{silent}", **SHORT}, TimeoutError),
    "timeout-dns": ("ws://hang.example/", SHORT, TimeoutError),
}


@contextlib.contextmanager
def answering(answer):
    """The port of a server that calls *answer* with each socket, and closes it."""
    with socket.create_server(("127.0.0.1", 0), backlog=COUNT) as server:

        def serve():
            with contextlib.suppress(OSError):  # that of the end
                while True:
                    with server.accept()[0] as sock, contextlib.suppress(OSError):
                        answer(sock)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


def reset(sock):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def babble(sock):
    sock.sendall(b"\x00\xff\x15 SSH-2.0\r\n" * 20)


@pytest.fixture(scope="module")
def places():
    """Ports where bad things happen."""
    with contextlib.ExitStack() as stack:
        silent = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=4 * COUNT))
        yield {
            "closed": free_port(),
            "reset": stack.enter_context(answering(reset)),
            "garbage": stack.enter_context(answering(babble)),
            "blackhole": stack.enter_context(blackhole("127.0.0.1"))[1],
            "silent": silent.getsockname()[1],
        }


@pytest.fixture
def fill_in(software, places):
    """Replace what is in braces."""

    def port(match):
        program, which = match.groups()
        return f"127.0.0.1:{software.port(program, which) if which else places[program]}"

    return lambda text: re.sub(r"\{([a-z]+)(?::([a-z0-9-]+))?\}", port, text)


def left():
    """The threads, and the file descriptors with what they are."""
    files = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the one that lists
            files[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    return set(threading.enumerate()), files


def hanging_up(monkeypatch):
    """Have the resolver hang; the function returned ends that."""
    getaddrinfo, answer = socket.getaddrinfo, threading.Event()

    def hang(host, *args, flags=0, **options):
        if host == "hang.example" and not flags & socket.AI_NUMERICHOST:
            answer.wait(30)
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return getaddrinfo(host, *args, flags=flags, **options)

    monkeypatch.setattr(socket, "getaddrinfo", hang)

    def release():
        answer.set()
        for thread in threading.enumerate():
            if thread.name.startswith("wsmini-"):
                thread.join(10)
        answer.clear()

    return release


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_left_behind(fill_in, trust, monkeypatch, kind):
    url, options, expected = KINDS[kind]
    url, options = fill_in(url), {"ssl": trust, "proxy": None, **options}
    if options["proxy"]:
        options["proxy"] = fill_in(options["proxy"])
    release = hanging_up(monkeypatch)

    def fail():
        with pytest.raises(expected):
            wsmini.connect(url, **options)

    fail()  # What is made once for all may stay.
    release()
    gc.collect()
    gc.disable()  # Nobody but the package itself tidies up.
    try:
        before = left()
        for number in range(COUNT):
            fail()
            if number % 50 == 49:  # More at the same time than this are an error of its own.
                release()
        assert left() == before
    finally:
        gc.enable()
