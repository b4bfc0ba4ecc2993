"""The opening, end to end: redirects, authentication, cookies, one deadline, and who is told what.

The servers are scripted, on the loopback interface; where names are looked up, the look-up is ours.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.cookiejar
import itertools
import logging
import re
import select
import signal
import socket
import ssl
import sys
import threading
import time
import traceback
from urllib.error import URLError

import pytest
from certificates import client_context, server_context, shared_server_context
from helpers import CERTS, PATIENCE

from wsmini.exceptions import (
    InvalidHandshake,
    InvalidMessage,
    InvalidProxy,
    InvalidProxyStatus,
    InvalidRedirect,
    InvalidStatus,
    InvalidUpgrade,
    NegotiationError,
    ProxyError,
    TooManyRedirects,
)
from wsmini.opening import exchange, opening, resolver, tcp
from wsmini.opening.opening import Opening
from wsmini.opening.steps import run_blocking
from wsmini.opening.streams import READ, SocketStream, wait
from wsmini.options import Options
from wsmini.sansio.auth import basic, parse_challenges
from wsmini.sansio.handshake import accept_key
from wsmini.sansio.redaction import tag
from wsmini.testing import frame, scripted_server

SOON = 0.1  # seconds after which what never comes is given up
PASSWORD = "pa55-phrase"


needs_unix = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="needs Unix sockets")


class Clock:
    """Stands in for the module ``time``; it only moves when it is told to."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now


def track_sockets(monkeypatch):
    """A list of the sockets that the client makes from now on."""
    made = []
    begin, pair = tcp._begin_connect, socket.socketpair

    def begin_connect(*args):
        made.append(begin(*args))
        return made[-1]

    def socketpair():
        made.extend(pair())
        return tuple(made[-2:])

    monkeypatch.setattr(tcp, "_begin_connect", begin_connect)
    monkeypatch.setattr(resolver.socket, "socketpair", socketpair)
    return made


class Reluctant(SocketStream):
    """Blocks before each call does something: there is a wait wherever there may be one."""

    def __init__(self, sock):
        super().__init__(sock)
        self.recv, self.send = self._reluctant(sock.recv), self._reluctant(sock.send)

    @staticmethod
    def _reluctant(call):
        def do(*args):
            if next(calls) % 2 == 0:
                raise BlockingIOError(errno.EAGAIN, "not now")
            return call(*args)

        calls = itertools.count()
        return do


def wait_for_threads(name):
    for thread in threading.enumerate():
        if thread.name == name:
            thread.join(PATIENCE)


def options_for(url, **options):
    options.setdefault("proxy", None)
    options.setdefault("open_timeout", PATIENCE)
    return Options(url, **options)


def open_(url, **options):
    """Open a connection and close it; what the opening resulted in."""
    opened = run_blocking(Opening(options_for(url, **options)).steps())
    opened.stream.close()
    return opened


def failure(kind, url, **options):
    """The exception of an opening that has to fail."""
    with pytest.raises(kind) as info:
        open_(url, **options)
    return info.value


def site(pages, **options):
    """A server with a page for each path: a function of the peer, or (status, headers[, body]).

    ``None`` stands for a WebSocket.
    """

    def script(peer):
        request = peer.request()
        page = pages[request.target.partition("?")[0]]
        if page is None:
            peer.accept()
        elif callable(page):
            page(peer)
        else:
            status, headers, *body = page
            peer.respond(status, "Page", headers, *body)

    return scripted_server(script, **options)


def redirect(location, status=302):
    return status, {"Location": location}


def targets(server):
    return [request.target for request in server.requests]


@pytest.fixture
def named(monkeypatch):
    """Names that are looked up here: a dictionary of name and address."""
    names = {}
    real = resolver._getaddrinfo

    def look_up(name, port, family, flags=0):
        known = names.get(name)
        if known is None or flags:
            return real(name, port, family, flags)
        return real(known, port, family, flags)

    monkeypatch.setattr(resolver, "_getaddrinfo", look_up)
    return names


# -- a plain opening --


def test_what_an_opening_results_in():
    def script(peer):
        peer.accept(subprotocol="b", then=frame(1, "first") + frame(1, "second"))

    with scripted_server(script) as server:
        url = f"{server.url}/chat?x=1"
        opened = open_(url, subprotocols=["a", "b"], origin="https://o.example")
    assert opened.rest == frame(1, "first") + frame(1, "second")
    assert opened.request.target == "/chat?x=1"
    assert opened.request.headers["Host"] == f"127.0.0.1:{server.port}"
    assert server.requests[0].headers["Origin"] == "https://o.example"
    assert opened.response.status_code == 101
    assert (opened.subprotocol, opened.extensions) == ("b", ())
    assert list(opened.timings) == ["dns", "tcp", "upgrade"]
    assert all(0 <= seconds < PATIENCE for seconds in opened.timings.values())


@pytest.mark.parametrize("interim", [100, 102, 103])
def test_interim_responses_are_skipped(interim):
    def script(peer):
        peer.request()
        peer.send_raw(b"HTTP/1.1 %d Wait\r\nLink: </x>\r\n\r\n" % interim * 3)
        peer.accept()

    with scripted_server(script) as server:
        assert open_(server.url).response.status_code == 101


def accepted(peer):
    """The bytes of a 101, and the request has been read."""
    sent = []
    real, peer.send_raw = peer.send_raw, sent.append
    peer.accept()
    peer.send_raw = real
    return sent[0]


def test_a_response_byte_by_byte():
    def script(peer):
        for byte in accepted(peer) + frame(1, "hello"):
            peer.send_raw(bytes([byte]))

    with scripted_server(script) as server:
        opened = run_blocking(Opening(options_for(server.url)).steps())
        with opened.stream.sock as sock:
            sock.setblocking(True)
            rest = opened.rest
            while len(rest) < 7:
                rest += sock.recv(7)
    assert rest == frame(1, "hello")


def test_an_end_at_every_byte_of_the_head():
    sizes = itertools.count()
    whole = []

    def script(peer):
        data = accepted(peer)
        whole[:] = [len(data)]
        peer.send_raw(data[: next(sizes)])

    with scripted_server(script) as server:
        for size in itertools.count():
            if whole and size == whole[0]:
                break
            exc = failure(InvalidMessage, server.url)
            assert "connection closed" in str(exc)
            assert exc.phase == "upgrade"
        open_(server.url)


def test_a_reset_instead_of_a_response():
    def script(peer):
        peer.request()
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        peer.sock.close()

    with scripted_server(script) as server:
        exc = failure(ConnectionResetError, server.url)
    assert exc.phase == "upgrade"
    assert "see its log" in str(exc)


@pytest.mark.parametrize(
    "data, advice",
    [
        (b"SSH-2.0-x\r\n", "HTTP/1.1 listen"),
        (b"\x15\x03\x01\0\2\2\x46", "wss://"),
        (b"HTTP/2 101 x\r\n\r\n", "breaks the rules"),
    ],
)
def test_something_else_than_http(data, advice):
    def script(peer):
        peer.request()
        peer.send_raw(data)

    with scripted_server(script) as server:
        exc = failure(InvalidMessage, server.url)
    assert exc.phase == "upgrade"
    assert exc.address == f"127.0.0.1:{server.port}"
    assert advice in exc.hint
    assert exc.first_bytes == data


WRONG = {
    "no upgrade": ({"Upgrade": None}, InvalidUpgrade),
    "no accept": ({"Sec-WebSocket-Accept": "x"}, InvalidUpgrade),
    "extension": ({"Sec-WebSocket-Extensions": "x-unasked"}, NegotiationError),
    "subprotocol": ({"Sec-WebSocket-Protocol": "unasked"}, NegotiationError),
}


@pytest.mark.parametrize("headers, kind", WRONG.values(), ids=WRONG)
def test_a_wrong_answer(headers, kind):
    with site({"/": lambda peer: peer.accept(headers)}) as server:
        exc = failure(kind, server.url)
    assert (exc.phase, exc.address) == ("upgrade", f"127.0.0.1:{server.port}")


@pytest.mark.parametrize("status", [200, 204, 400, 403, 404, 426, 500, 503])
def test_a_refusal_has_its_body(status):
    body = b"" if status == 204 else b"no"
    with site({"/": (status, {"X-Why": "not"}, body)}) as server:
        exc = failure(InvalidStatus, server.url)
    assert (exc.response.status_code, exc.response.body) == (status, body)
    assert exc.response.headers["X-Why"] == "not"
    assert exc.response.body_truncated is False
    assert f"HTTP {status} Page" in str(exc)


def test_the_host_of_the_url_can_be_overridden():
    with site({"/": None}) as server:
        open_("ws://elsewhere.example/", host="127.0.0.1", port=server.port)
    assert server.requests[0].headers["Host"] == "elsewhere.example"


@contextlib.contextmanager
def unix_server(path, *answers):
    """A server on the Unix socket *path* that gives each connection one of *answers*."""
    heads = []

    def serve():
        for answer in answers:
            with listener.accept()[0] as sock:
                head = b""
                while b"\r\n\r\n" not in head:
                    head += sock.recv(65536)
                heads.append(head.decode())
                sock.sendall(answer(head))

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(len(answers))
        thread = threading.Thread(target=serve)
        thread.start()
        yield heads
        thread.join(PATIENCE)


def upgraded(head):
    key = re.search(rb"Sec-WebSocket-Key: (\S+)", head)[1].decode()
    fields = f"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept_key(key)}"
    return f"HTTP/1.1 101 Hi\r\n{fields}\r\n\r\n".encode()


def to_other(head):
    return b"HTTP/1.1 302 Found\r\nLocation: /other\r\n\r\n"


@needs_unix
@pytest.mark.parametrize("by_url", [True, False])
def test_a_unix_socket(tmp_path, by_url, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # there is no way through a proxy
    path = str(tmp_path / "s")
    with unix_server(path, to_other, upgraded) as heads:
        if by_url:
            opened = open_(f"ws+unix:{path}:/chat", proxy=True)
        else:
            opened = open_("ws://h.example/chat", unix_path=path, proxy=True)
    assert opened.response.status_code == 101
    assert [head.split()[1] for head in heads] == ["/chat", "/other"]
    host = "localhost" if by_url else "h.example"
    assert all(f"Host: {host}\r\n" in head for head in heads)


@needs_unix
def test_nobody_listens_on_a_unix_socket(tmp_path):
    path = str(tmp_path / "none")
    exc = failure(FileNotFoundError, f"ws+unix:{path}:/")
    assert (exc.phase, exc.address) == ("tcp", path)
    assert "Unix socket" in exc.hint


@needs_unix
def test_a_path_that_is_too_long_for_a_unix_socket():
    """Python says so without a number, as signal handlers do."""
    exc = failure(OSError, f"ws+unix:/{'a' * 200}:/")
    assert (exc.errno, exc.phase) == (errno.ENAMETOOLONG, "tcp")
    assert "too long" in str(exc)


def test_a_platform_without_unix_sockets(monkeypatch):
    monkeypatch.delattr(opening.socket, "AF_UNIX", raising=False)
    exc = failure(OSError, "ws+unix:/s:/")
    assert "no Unix sockets" in str(exc)


# -- sock= --


def test_a_socket_that_is_connected_already():
    with site({"/x": None}) as server:
        sock = socket.create_connection((server.host, server.port))
        opened = run_blocking(Opening(options_for("ws://h.example/x", sock=sock)).steps())
        with sock:
            assert opened.stream.sock is sock
    assert server.requests[0].headers["Host"] == "h.example"
    assert list(opened.timings) == ["dns", "tcp", "upgrade"]


def test_a_socket_for_tls():
    with site({"/x": None}, ssl=server_context()) as server:
        sock = socket.create_connection((server.host, server.port))
        opened = open_("wss://localhost/x", sock=sock, ssl=client_context())
    assert "tls" in opened.timings


SOCK_FAILURES = {
    "refused": ({"/x": (403, {})}, {}, InvalidStatus),
    "a bad option": ({}, {"socket_options": [(-1, -1, 1)]}, OSError),
    "redirect": ({"/x": redirect("/y")}, {}, InvalidRedirect),
    "401": ({"/x": (401, {"WWW-Authenticate": "Basic"})}, {"auth": ("u", "p")}, InvalidStatus),
}


@pytest.mark.parametrize("pages, options, kind", SOCK_FAILURES.values(), ids=SOCK_FAILURES)
def test_a_given_socket_is_closed_if_the_opening_fails(pages, options, kind):
    with site(pages) as server:
        sock = socket.create_connection((server.host, server.port))
        exc = failure(kind, "ws://h.example/x?token=t0ken", sock=sock, **options)
        assert sock.fileno() == -1
    assert exc.address == "h.example over sock="
    assert "t0ken" not in str(exc)


def test_a_given_socket_that_is_closed():
    sock = socket.socket()
    sock.close()
    assert failure(OSError, "ws://h.example/", sock=sock).phase == "tcp"


# -- redirects --


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed(status):
    with site({"/": redirect("/there", status), "/there": None}) as server:
        opened = open_(server.url)
        assert opened.request.target == "/there"
        assert targets(server) == ["/", "/there"]


@pytest.mark.parametrize("status", [300, 304, 305, 399])
def test_other_statuses_are_no_redirects(status):
    with site({"/": redirect("/there", status)}) as server:
        assert failure(InvalidStatus, server.url).response.status_code == status


LOCATIONS = {
    "absolute": ("ws://{}/there?y=2", "/there?y=2"),
    "http": ("http://{}/there", "/there"),
    "network path": ("//{}/there", "/there"),
    "absolute path": ("/there", "/there"),
    "relative path": ("there", "/a/there"),
    "up": ("../there", "/there"),
    "query only": ("?y=2", "/a/b?y=2"),
    "fragment": ("/there#part", "/there"),
    "not ASCII": ("/thére", "/th%C3%A9re"),
}


@pytest.mark.parametrize("location, expected", LOCATIONS.values(), ids=LOCATIONS)
def test_locations(location, expected):
    def script(peer):
        if peer.request().target == "/a/b?x=1":
            peer.respond(302, "Found", {"Location": location.format(server.url[5:])})
        else:
            peer.accept()

    with scripted_server(script) as server:
        open_(f"{server.url}/a/b?x=1")
        assert targets(server) == ["/a/b?x=1", expected]


def test_a_redirect_to_tls():
    with site({"/there": None}, ssl=server_context()) as secure:
        location = f"https://localhost:{secure.port}/there"
        with site({"/": redirect(location)}) as server:
            opened = open_(server.url, ssl=client_context())
    assert list(opened.timings) == ["dns", "tcp", "upgrade", "tls"]


def test_tls_is_verified_after_a_redirect():
    with site({}, ssl=server_context("other-server")) as secure:
        with site({"/": redirect(f"wss://localhost:{secure.port}/")}) as server:
            exc = failure(ssl.SSLCertVerificationError, server.url, ssl=client_context())
    assert (exc.phase, exc.address) == ("tls", f"localhost:{secure.port}")


def test_overrides_are_for_the_first_origin_only():
    # server_hostname would make the certificate fail, port lead to the first server again.
    with site({"/there": None}, ssl=server_context()) as secure:
        location = f"https://localhost:{secure.port}/there"
        pages = {"/": redirect("/again"), "/again": redirect(location)}
        with site(pages) as server:
            options = {"host": "127.0.0.1", "port": server.port, "server_hostname": "other"}
            open_("ws://home.example/", ssl=client_context(), **options)
            assert targets(server) == ["/", "/again"]
    assert targets(secure) == ["/there"]


@pytest.mark.parametrize("location", ["http://localhost/", "ws://localhost/"])
def test_a_redirect_from_wss_to_ws_is_not_followed(location):
    with site({"/": redirect(location)}, ssl=server_context()) as server:
        exc = failure(InvalidRedirect, server.url, ssl=client_context())
    assert "from wss to ws" in str(exc)
    assert exc.__cause__.response.status_code == 302


BAD_LOCATIONS = {
    "scheme": "ftp://h.example/",
    "no host": "http:///x",
    "space in the host": "//a b/",
    "Unix socket": "ws+unix:/s:/",
    "a user that can't be sent": f"http://a%3Ab:{PASSWORD}@h.example/",
    "port": f"http://u:{PASSWORD}@h.example:99999/?token={PASSWORD}",
}


@pytest.mark.parametrize("location", BAD_LOCATIONS.values(), ids=BAD_LOCATIONS)
def test_a_bad_location(location):
    with site({"/": redirect(location)}) as server:
        exc = failure(InvalidRedirect, server.url)
    assert exc.phase == "upgrade"
    assert PASSWORD not in str(exc)


def test_a_redirect_without_a_location():
    with site({"/": (302, {})}) as server:
        exc = failure(InvalidStatus, server.url)
    assert "max_redirects" not in exc.hint


def test_no_redirects_at_all():
    with site({"/": redirect("/there")}) as server:
        exc = failure(InvalidStatus, server.url, max_redirects=0)
        assert exc.response.headers["Location"] == "/there"
        assert "max_redirects" in exc.hint
        assert targets(server) == ["/"]


@pytest.mark.parametrize("location", ["", "/", "/?token=t0ken"])
def test_a_loop_is_named(location):
    with site({"/": redirect(location)}) as server:
        exc = failure(TooManyRedirects, server.url)
        assert len(server.requests) == (2 if "token" in location else 1)
    assert "loop" in str(exc)
    assert "t0ken" not in str(exc)


def test_a_long_loop():
    with site({"/": redirect("/a"), "/a": redirect("/b"), "/b": redirect("/a")}) as server:
        exc = failure(TooManyRedirects, server.url)
        assert targets(server) == ["/", "/a", "/b"]
    assert [uri.rpartition("/")[2] for uri in exc.uris] == ["", "a", "b", "a"]


def test_a_way_back_with_credentials_is_no_loop():
    def page(peer):
        if "Authorization" in peer._request.headers:
            peer.accept()
        else:
            peer.respond(302, "Found", {"Location": "/login"})

    def login(peer):
        if "Authorization" in peer._request.headers:
            peer.respond(302, "Found", {"Location": "/"})
        else:
            peer.respond(401, "Who?", {"WWW-Authenticate": "Basic realm=x"})

    with site({"/": page, "/login": login}) as server:
        open_(server.url, auth=("user", PASSWORD))
        assert targets(server) == ["/", "/login", "/login", "/"]


@pytest.mark.parametrize("limit", [1, 3])
def test_too_many_redirects(limit):
    def script(peer):
        number = int(peer.request().target[1:])
        peer.respond(302, "Found", {"Location": f"/{number + 1}"})

    with scripted_server(script) as server:
        exc = failure(TooManyRedirects, f"{server.url}/0", max_redirects=limit)
        assert targets(server) == [f"/{i}" for i in range(limit + 1)]
    assert [uri.rpartition("/")[2] for uri in exc.uris] == [str(i) for i in range(limit + 2)]
    assert "too often" in str(exc)
    assert exc.__cause__.response.status_code == 302


def test_the_body_of_a_redirect_may_never_end():
    released = threading.Event()

    def script(peer):
        if peer.request().target == "/":
            peer.send_raw(b"HTTP/1.1 302 Found\r\nLocation: /there\r\nContent-Length: 9\r\n\r\nx")
            released.wait(PATIENCE)
        else:
            peer.accept()

    with scripted_server(script) as server:
        open_(server.url)
        released.set()


# -- what stays with its origin --

SECRETS = {
    "auth": ("user", PASSWORD),
    "additional_headers": {"X-Own": "mine", "Cookie": f"own={PASSWORD}"},
}


def has_secrets(request):
    return any(name in request.headers for name in ("Authorization", "X-Own", "Cookie"))


def elsewhere_of(server, kind):
    return {
        "port": "ws://127.0.0.1:{}/",
        "host": "ws://localhost:{}/",
    }[kind].format(server.port)


@pytest.mark.parametrize("kind", ["port", "host"])
def test_secrets_do_not_follow_to_another_origin(kind, named):
    challenge = (401, {"WWW-Authenticate": "Basic realm=x"})

    def home(peer):
        if "Authorization" in peer._request.headers:
            peer.respond(302, "Found", {"Location": elsewhere_of(other, kind)})
        else:
            peer.respond(*challenge[:1], "Who?", challenge[1])

    with site({"/": challenge}) as other:
        with site({"/": home}) as server:
            exc = failure(InvalidStatus, server.url, **SECRETS)
    assert exc.response.status_code == 401
    assert [has_secrets(request) for request in server.requests] == [True, True]
    assert [has_secrets(request) for request in other.requests] == [False]


def test_the_same_port_with_tls_is_another_origin():
    with site({"/": None}, ssl=server_context()) as secure:
        with site({"/": redirect(f"https://localhost:{secure.port}/")}) as server:
            url = f"ws://user:{PASSWORD}@localhost:{server.port}/"
            open_(url, ssl=client_context(), additional_headers={"X-Own": "mine"})
    assert has_secrets(server.requests[0])
    assert not has_secrets(secure.requests[0])


def test_secrets_stay_within_the_origin_and_come_back_to_it():
    with site({"/": None}) as other:
        pages = {"/": redirect("/a"), "/a": None}
        with site(pages) as server:
            pages["/a"] = redirect(f"ws://127.0.0.1:{other.port}/")
            url = f"ws://user:{PASSWORD}@127.0.0.1:{server.port}/"
            open_(url, additional_headers={"X-Own": "mine"})
    for request in server.requests:
        assert request.headers["Authorization"].startswith("Basic ")
        assert request.headers["X-Own"] == "mine"
    assert not has_secrets(other.requests[0])


def test_a_callable_is_asked_for_headers_once_an_attempt():
    tokens = iter(["a", "b", "c"])
    pages = {"/": redirect("/a"), "/a": None}
    with site({"/": None}) as other, site(pages) as server:
        options = options_for(
            server.url, additional_headers=lambda: {"Authorization": next(tokens), "X-Own": "mine"}
        )
        for _ in range(2):
            run_blocking(Opening(options).steps()).stream.close()
        pages["/a"] = redirect(f"ws://127.0.0.1:{other.port}/")
        run_blocking(Opening(options).steps()).stream.close()
    sent = [request.headers["Authorization"] for request in server.requests]
    assert sent == ["a", "a", "b", "b", "c", "c"]
    assert not has_secrets(other.requests[0])


@pytest.mark.parametrize(
    "given, kind",
    [
        (OSError(113, "no token server"), OSError),
        (LookupError("no token"), LookupError),
        ({"A": "b\r\nc"}, ValueError),
        ("A: b", TypeError),
        (5, TypeError),
    ],
)
def test_an_attempt_without_headers_fails_before_anything_is_sent(given, kind):
    def headers():
        if isinstance(given, Exception):
            raise given
        return given

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        url = f"ws://127.0.0.1:{listener.getsockname()[1]}/"
        with pytest.raises(kind) as caught:
            run_blocking(Opening(options_for(url, additional_headers=headers)).steps())
        with pytest.raises(BlockingIOError):
            listener.accept()
    if isinstance(given, Exception):
        assert caught.value is given
        assert not hasattr(given, "phase")


def test_a_header_that_is_removed_does_not_come_back_elsewhere():
    with site({"/": None}) as other:
        with site({"/": redirect(f"ws://127.0.0.1:{other.port}/")}) as server:
            open_(server.url, additional_headers={"User-Agent": None, "X-Own": "mine"})
    assert "User-Agent" not in other.requests[0].headers
    assert not has_secrets(other.requests[0])


def test_a_redirect_brings_its_own_user():
    with site({"/": None}) as other:
        with site({"/": redirect(f"ws://else:where@127.0.0.1:{other.port}/")}) as server:
            open_(server.url, additional_headers={"Authorization": "Bearer x"})
    assert other.requests[0].headers["Authorization"] == basic("else", "where")


def test_no_redirect_chooses_as_whom_one_comes_back():
    pages = {"/": None, "/a": None}
    with site(pages) as server:
        pages["/"] = redirect(f"ws://else:where@127.0.0.1:{server.port}/a")
        open_(server.url)
    assert "Authorization" not in server.requests[1].headers


def test_the_settings_of_the_system_are_asked_in_a_thread(monkeypatch):
    asked = []

    def choose_proxy(uri):
        asked.append(threading.current_thread())

    monkeypatch.setattr(opening, "asks_system", lambda: True)
    monkeypatch.setattr(opening, "choose_proxy", choose_proxy)
    with site({"/": None}) as server:
        open_(server.url, proxy=True)
    assert asked and asked[0] is not threading.main_thread()


# -- authentication --


def challenge(peer):
    """401, until there are credentials."""
    if "Authorization" in peer._request.headers:
        peer.accept()
    else:
        peer.respond(401, "Who?", {"WWW-Authenticate": 'Basic realm="x"'}, b"body")


def test_the_userinfo_of_the_url_is_sent_at_once():
    with site({"/": None}) as server:
        open_(f"ws://us%20er:{PASSWORD}@127.0.0.1:{server.port}/")
    assert server.requests[0].headers["Authorization"] == basic("us er", PASSWORD)


def test_credentials_wait_for_a_challenge():
    with site({"/": challenge}) as server:
        open_(server.url, auth=("user", PASSWORD))
    sent = [request.headers.get("Authorization") for request in server.requests]
    assert sent == [None, basic("user", PASSWORD)]


def test_auth_is_preferred_to_the_url():
    with site({"/": challenge}) as server:
        open_(f"ws://a:b@127.0.0.1:{server.port}/", auth=("user", PASSWORD))
    sent = [request.headers.get("Authorization") for request in server.requests]
    assert sent == [None, basic("user", PASSWORD)]


def md5(*parts):
    return hashlib.md5(":".join(parts).encode()).hexdigest()


def digest_is_right(header, method, target, password=PASSWORD):
    params = parse_challenges([header])[0].params
    key = md5(params["username"], params["realm"], password)
    request = md5(method, params["uri"])
    rest = [params["nonce"], params["nc"], params["cnonce"], "auth", request]
    return params["uri"] == target and params["response"] == md5(key, *rest)


def test_digest_authentication():
    def script(peer):
        header = peer.request().headers.get("Authorization")
        if header and digest_is_right(header, "GET", "/x?y=1"):
            peer.accept()
        else:
            value = 'Basic realm="x", Digest realm="x", nonce="n", qop="auth", algorithm=MD5'
            peer.respond(401, "Who?", {"WWW-Authenticate": value})

    with scripted_server(script) as server:
        open_(f"{server.url}/x?y=1", auth=("user", PASSWORD))
        assert len(server.requests) == 2


@pytest.mark.parametrize("scheme", ["Basic realm=x", 'Digest realm=x, nonce="n", qop=auth'])
@pytest.mark.parametrize("in_url", [True, False])
def test_wrong_credentials(scheme, in_url):
    with site({"/": (401, {"WWW-Authenticate": scheme}, b"no")}) as server:
        if in_url:
            url, auth = f"ws://user:{PASSWORD}@127.0.0.1:{server.port}", None
        else:
            url, auth = server.url, ("user", PASSWORD)
        exc = failure(InvalidStatus, url, auth=auth)
        assert (exc.response.status_code, exc.response.body) == (401, b"no")
        assert len(server.requests) <= 2
    assert "auth=" in exc.hint


def test_a_callable_sees_the_challenges():
    seen = []

    def answer(challenges, method, target):
        seen.append(([c.scheme for c in challenges], method, target))
        return f"Bearer {len(seen)}"

    def script(peer):
        if peer.request().headers.get("Authorization") == "Bearer 2":
            peer.accept()
        else:
            peer.respond(401, "", {"WWW-Authenticate": "Bearer, Custom a=b"})

    with scripted_server(script) as server:
        open_(f"{server.url}/t", auth=answer)
    assert seen == [(["bearer", "custom"], "GET", "/t")] * 2


def test_a_callable_gives_up():
    with site({"/": (401, {"WWW-Authenticate": "Custom"})}) as server:
        failure(InvalidStatus, server.url, auth=lambda *args: None)
        assert len(server.requests) == 1


def test_rounds_are_bounded():
    numbers = itertools.count()
    with site({"/": (401, {"WWW-Authenticate": "Custom"})}) as server:
        failure(InvalidStatus, server.url, auth=lambda *args: f"Custom {next(numbers)}")
        assert 2 <= len(server.requests) <= 8


@pytest.mark.parametrize("error", [ValueError, URLError])
def test_what_a_callable_raises(error):
    def answer(*args):
        raise error("mine")

    with site({"/": (401, {"WWW-Authenticate": "Custom"})}) as server:
        assert "mine" in str(failure(error, server.url, auth=answer))


@pytest.mark.parametrize("value", ["Bearer mine", None])
def test_the_users_own_header_wins(value):
    headers = [("Authorization", value)]
    with site({"/": (401, {"WWW-Authenticate": "Basic realm=x"})}) as server:
        url = f"ws://user:{PASSWORD}@127.0.0.1:{server.port}"
        failure(InvalidStatus, url, auth=("user", PASSWORD), additional_headers=headers)
        assert [r.headers.get("Authorization") for r in server.requests] == [value]


def test_a_challenge_after_a_redirect():
    with site({"/": redirect("/a"), "/a": challenge}) as server:
        open_(server.url, auth=("user", PASSWORD))
        assert targets(server) == ["/", "/a", "/a"]
        assert "Authorization" in server.requests[2].headers


def test_a_challenge_of_another_origin_for_which_the_redirect_has_a_user():
    with site({"/": challenge}) as other:
        with site({"/": redirect(f"ws://else:where@127.0.0.1:{other.port}/")}) as server:
            open_(server.url, additional_headers={"Authorization": "mine"})
    assert other.requests[0].headers["Authorization"] == basic("else", "where")


# -- cookies --


def test_cookies_are_stored_and_sent():
    jar = http.cookiejar.CookieJar()
    pages = {
        "/": (302, {"Location": "/a", "Set-Cookie": "redirect=1"}),
        "/a": lambda peer: (
            peer.accept([("Set-Cookie", "open=1; Path=/"), ("Set-Cookie", "late=1; Path=/x")])
            if "Authorization" in peer._request.headers
            else peer.respond(
                401, "", {"WWW-Authenticate": "Basic realm=x", "Set-Cookie": "challenge=1"}
            )
        ),
        "/x": None,
    }
    with site(pages) as server:
        open_(server.url, cookies=jar, auth=("user", PASSWORD))
        open_(f"{server.url}/x", cookies=jar)
    sent = [set(r.headers.get("Cookie", "").split("; ")) for r in server.requests]
    expected = [{""}, {"redirect=1"}, {"redirect=1", "challenge=1"}]
    assert sent == [*expected, {"redirect=1", "challenge=1", "open=1", "late=1"}]


def test_secure_cookies_are_for_tls_only():
    jar = http.cookiejar.CookieJar()

    def accept(peer):
        peer.accept([("Set-Cookie", "s=1; Secure"), ("Set-Cookie", "p=1")])

    with site({"/": accept}, ssl=server_context()) as secure, site({"/": None}) as server:
        for _ in range(2):
            open_(f"wss://127.0.0.1:{secure.port}", cookies=jar, ssl=client_context())
        open_(server.url, cookies=jar)
    assert secure.requests[1].headers["Cookie"] in ("s=1; p=1", "p=1; s=1")
    assert server.requests[0].headers["Cookie"] == "p=1"


def test_the_users_own_cookie_wins():
    jar = http.cookiejar.CookieJar()
    with site({"/": lambda peer: peer.accept({"Set-Cookie": "a=1"})}) as server:
        for _ in range(2):
            open_(server.url, cookies=jar, additional_headers={"cookie": "mine"})
    assert [r.headers["Cookie"] for r in server.requests] == ["mine", "mine"]


def test_the_same_redirect_may_lead_on_with_another_cookie():
    jar = http.cookiejar.CookieJar()

    def page(peer):
        if "Cookie" in peer._request.headers:
            peer.accept()
        else:
            peer.respond(302, "", {"Location": "/", "Set-Cookie": "a=1"})

    with site({"/": page}) as server:
        open_(server.url, cookies=jar)
        assert len(server.requests) == 2


# -- time --


@pytest.fixture
def released():
    """Set when the test is over: what scripts wait for that do nothing."""
    event = threading.Event()
    yield event
    event.set()


def check_timeout(exc, phase, address, timeout=SOON):
    assert type(exc) is TimeoutError
    assert (exc.phase, exc.address) == (phase, address)
    assert timeout <= exc.elapsed < PATIENCE
    assert f"not open after {timeout} s ({phase}: {address}, after " in str(exc)
    assert exc.hint and exc.hint in str(exc)


def test_a_resolver_that_hangs(monkeypatch, released):
    def look_up(name, port, family, flags=0):
        if flags:
            raise socket.gaierror(socket.EAI_NONAME, "not an address")
        released.wait(PATIENCE)
        raise socket.gaierror(socket.EAI_NONAME, "too late")

    monkeypatch.setattr(resolver, "_getaddrinfo", look_up)
    exc = failure(TimeoutError, "ws://slow.example/", open_timeout=SOON)
    released.set()
    check_timeout(exc, "dns", "slow.example:80")


@contextlib.contextmanager
def blackhole():
    """An address where connections are neither accepted nor refused."""
    with contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.socket())
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):  # Linux drops what exceeds the backlog, as a firewall would
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        yield full.getsockname()


def test_a_blackholed_address():
    with blackhole() as (host, port):
        exc = failure(TimeoutError, f"ws://{host}:{port}/", open_timeout=SOON)
    check_timeout(exc, "tcp", f"{host}:{port}")


def test_the_first_of_two_addresses_is_blackholed(monkeypatch):
    with site({"/": None}) as server, blackhole() as dead:
        addresses = [dead, (server.host, server.port)]
        found = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", address) for address in addresses]
        monkeypatch.setattr(resolver, "_getaddrinfo", lambda *args: found)
        steps = Opening(options_for("ws://two.example/", happy_eyeballs_delay=SOON)).steps()
        begun = time.monotonic()
        wanted = next(steps)
        assert begun + SOON <= wanted.deadline <= time.monotonic() + SOON
        with pytest.raises(StopIteration) as info:
            while True:
                timeout = wanted.deadline - time.monotonic()
                wanted = steps.send(wait(wanted.sockets, timeout))
        stream = info.value.value.stream
        assert stream.sock.getpeername() == (server.host, server.port)
        stream.close()


SILENT = {
    "upgrade": ("ws://localhost:{}/", {}, "upgrade", "localhost:{}"),
    "TLS": ("wss://localhost:{}/", {}, "tls", "localhost:{}"),
    "http proxy": ("ws://h.example/", {"proxy": "http://127.0.0.1:{}"}, "proxy", None),
    "https proxy": ("ws://h.example/", {"proxy": "https://127.0.0.1:{}"}, "proxy", None),
    "socks5": ("ws://h.example/", {"proxy": "socks5h://127.0.0.1:{}"}, "proxy", None),
    "socks4": ("ws://h.example/", {"proxy": "socks4a://127.0.0.1:{}"}, "proxy", None),
}


@pytest.mark.parametrize("url, options, phase, address", SILENT.values(), ids=SILENT)
def test_a_silent_server(url, options, phase, address, released, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(opening, "time", clock)
    with scripted_server(lambda peer: released.wait(PATIENCE)) as server:
        options = {name: value.format(server.port) for name, value in options.items()}
        options = options_for(url.format(server.port), open_timeout=5, **options)
        steps = Opening(options).steps()
        wanted = next(steps)
        while not (server.connections and READ in wanted.sockets.values()):
            wanted = steps.send(wait(wanted.sockets, 0.01))
        with pytest.raises(TimeoutError) as info:
            clock.now += 5
            steps.send([])
        released.set()
    address = f"proxy {options.proxy}" if address is None else address.format(server.port)
    check_timeout(info.value, phase, address, 5)


def test_one_deadline_for_all_rounds(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(opening, "time", clock)

    def script(peer):
        number = int(peer.request().target[1:])
        clock.now += 3  # of 10 seconds
        peer.respond(302, "Found", {"Location": f"/{number + 1}"})

    with scripted_server(script) as server:
        exc = failure(TimeoutError, f"{server.url}/0", open_timeout=10, max_redirects=9)
        assert targets(server) == ["/0", "/1", "/2", "/3"]
    assert exc.elapsed == 12


def test_the_deadline_holds_against_a_server_that_sends_without_end(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(opening, "time", clock)
    one, other = socket.socketpair()
    with one, other:
        options = options_for("ws://h.example/", sock=one, open_timeout=5)
        steps = Opening(options).steps()
        wanted = next(steps)
        assert wanted.deadline == clock.now + 5
        other.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        wanted = steps.send([one])
        other.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        clock.now += 5
        with pytest.raises(TimeoutError, match="upgrade"):
            steps.send([one])


@pytest.mark.parametrize("status", [200, 403, 302])
def test_the_body_of_a_refusal_may_never_end(status, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(opening, "time", clock)
    one, other = socket.socketpair()
    with one, other:
        steps = Opening(options_for("ws://h.example/", sock=one, open_timeout=5)).steps()
        next(steps)
        other.sendall(b"HTTP/1.1 %d No\r\nContent-Length: 9\r\n\r\nstart" % status)
        assert steps.send([one]).sockets == {one: READ}
        clock.now += 5
        with pytest.raises(InvalidStatus) as info:
            steps.send([])
        assert one.fileno() == -1
    assert info.value.response.body == b"start"
    assert info.value.response.body_truncated


def test_no_deadline():
    with site({"/": None}) as server:
        steps = Opening(options_for(server.url, open_timeout=None)).steps()
        with pytest.raises(StopIteration) as info:
            wanted = next(steps)
            while True:
                assert wanted.deadline is None
                wanted = steps.send(wait(wanted.sockets, PATIENCE))
        info.value.value.stream.close()


# -- proxies --


def test_a_proxy_is_asked_for_the_destination_not_the_url(monkeypatch):
    with site({"/": None}) as server:
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        open_("ws://h.example/", host="127.0.0.1", port=server.port, proxy=True)
        monkeypatch.setenv("no_proxy", "h.example")
        options = {"host": "127.0.0.1", "port": server.port, "proxy": True}
        exc = failure(ConnectionRefusedError, "ws://h.example/", **options)
    assert (exc.phase, exc.address) == ("tcp", "proxy http://127.0.0.1:9")


def connect_proxy(answers):
    """An HTTP proxy that gives one answer after another to CONNECT: a status and headers."""
    answers = iter(answers)

    def script(peer):
        peer.request()
        status, headers = next(answers)
        peer.respond(status, "Proxy", headers)
        if status == 200:
            peer.accept()

    return scripted_server(script)


def sent_to(proxy, name):
    return [request.headers.get(name) for request in proxy.requests]


def test_without_a_proxy_the_environment_does_not_matter(monkeypatch):
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "ws_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with site({"/": None}) as server:
        assert failure(OSError, server.url, proxy=True).address.startswith("proxy http://127.0.0.1")
        open_(server.url, proxy=None)
    assert len(server.requests) == 1


def test_credentials_for_an_http_proxy():
    digest = {"Proxy-Authenticate": 'Digest realm="x", nonce="n", qop="auth", algorithm=MD5'}
    with connect_proxy([(407, digest), (200, {})]) as proxy:
        opened = open_("ws://h.example/", proxy=f"http://user:{PASSWORD}@127.0.0.1:{proxy.port}")
    first, second, upgrade = sent_to(proxy, "Proxy-Authorization")
    assert first == basic("user", PASSWORD)
    assert digest_is_right(second, "CONNECT", "h.example:80")
    assert upgrade is None
    assert sent_to(proxy, "User-Agent")[0].startswith("Python/")
    assert list(opened.timings) == ["dns", "tcp", "proxy", "upgrade"]


def test_no_user_agent_for_the_proxy():
    with connect_proxy([(200, {})]) as proxy:
        url = f"http://127.0.0.1:{proxy.port}"
        open_("ws://h.example/", proxy=url, user_agent_header=None)
    assert sent_to(proxy, "User-Agent") == [None, None]


BASIC = {"Proxy-Authenticate": "Basic realm=x"}


@pytest.mark.parametrize("userinfo, rounds", [("", 1), (f"user:{PASSWORD}@", 1)])
def test_a_proxy_that_refuses_the_credentials(userinfo, rounds):
    with connect_proxy([(407, BASIC)] * 3) as proxy:
        url = f"http://{userinfo}127.0.0.1:{proxy.port}"
        exc = failure(InvalidProxyStatus, "ws://h.example/", proxy=url)
        assert len(proxy.requests) == rounds
    assert (exc.phase, exc.response.status_code) == ("proxy", 407)
    assert "the proxy's URL" in exc.hint


@pytest.mark.parametrize("code", [101, 300, 403, 407, 502])
def test_an_http_proxy_refuses(code):
    head = b"HTTP/1.1 %d No\r\nProxy-Authenticate: Basic\r\n" % code
    body = b"\r\n" if code == 101 else b"Content-Length: 4\r\n\r\nbody"

    def script(peer):
        peer.request()
        peer.send_raw(head + body)

    with scripted_server(script) as proxy:
        url = f"http://127.0.0.1:{proxy.port}"
        exc = failure(InvalidProxyStatus, "ws://h.example/", proxy=url)
    assert exc.response.status_code == code
    assert exc.response.body == (b"" if code == 101 else b"body")


def test_an_http_proxy_is_asked_for_an_ipv6_address():
    with connect_proxy([(200, {})]) as proxy:
        open_("ws://[::1]/", proxy=f"http://127.0.0.1:{proxy.port}")
    assert proxy.requests[0].target == "[::1]:80"


def test_a_proxy_that_forbids():
    with connect_proxy([(403, {})]) as proxy:
        url = f"http://user:{PASSWORD}@127.0.0.1:{proxy.port}"
        exc = failure(InvalidProxyStatus, "ws://h.example/", proxy=url)
    assert exc.address == f"proxy http://***@127.0.0.1:{proxy.port}"
    assert "HTTP 403" in str(exc) and "allow connections" in str(exc)


def test_the_server_behind_a_proxy_is_named():
    def script(peer):
        if peer.request().method == "CONNECT":
            peer.respond(200, "OK")
            peer.respond(403, "No")

    with scripted_server(script) as proxy:
        url = f"http://127.0.0.1:{proxy.port}"
        exc = failure(InvalidStatus, "ws://h.example/", proxy=url)
    assert (exc.phase, exc.address) == ("upgrade", "h.example:80")


def test_tls_is_verified_behind_a_proxy():
    def script(peer):
        peer.request()
        peer.respond(200, "OK")
        peer._start(server_context("other-server"))

    with scripted_server(script) as proxy:
        url = f"http://127.0.0.1:{proxy.port}"
        options = {"proxy": url, "ssl": client_context()}
        exc = failure(ssl.SSLCertVerificationError, "wss://localhost/", **options)
    assert (exc.phase, exc.address) == ("tls", "localhost:443")
    assert "proxy" not in exc.hint


def test_tls_to_the_proxy_is_verified():
    with scripted_server(lambda peer: None, ssl=server_context("other-server")) as proxy:
        options = {"proxy": f"https://localhost:{proxy.port}", "proxy_ssl": client_context()}
        exc = failure(ssl.SSLCertVerificationError, "ws://h.example/", **options)
    assert (exc.phase, exc.address) == ("proxy", f"proxy https://localhost:{proxy.port}")
    assert "pass proxy_ssl=" in exc.hint


def certificate(opened):
    """The server's certificate as files have it."""
    return ssl.DER_cert_to_PEM_cert(opened.ssl_object.getpeercert(binary_form=True))


def test_tls_within_tls():
    def script(peer):
        peer.request()
        peer.respond(200, "OK")
        bridge(peer, server)

    with site({"/": None}, ssl=server_context()) as server:
        with scripted_server(script, ssl=server_context("other-server")) as proxy:
            opened = open_(
                f"wss://localhost:{server.port}/",
                proxy=f"https://127.0.0.1:{proxy.port}",
                proxy_server_hostname="localhost",
                proxy_ssl=client_context("other-ca"),
                ssl=client_context(),
            )
    assert list(opened.timings) == ["dns", "tcp", "proxy", "tls", "upgrade"]
    assert certificate(opened) in (CERTS / "server.pem").read_text()


def test_tls_to_a_proxy_is_not_tls_to_the_server():
    def script(peer):
        peer.request()
        peer.respond(200, "OK")
        peer.accept()

    with scripted_server(script, ssl=server_context()) as proxy:
        url = f"https://localhost:{proxy.port}"
        opened = open_("ws://h.example/", proxy=url, proxy_ssl=client_context())
    assert opened.ssl_object is None


def bridge(peer, server):
    """Pass on what the client sends to *server*, and its answers, until one of them ends.

    In one thread: OpenSSL doesn't allow two on one connection.
    """
    with socket.create_connection((server.host, server.port)) as sock, contextlib.suppress(OSError):
        ends, data = {peer.sock: sock, sock: peer.sock}, b"x"
        while data:
            pending = isinstance(peer.sock, ssl.SSLSocket) and peer.sock.pending()
            for end in [peer.sock] if pending else select.select(list(ends), [], [])[0]:
                data = end.recv(65536)
                ends[end].sendall(data)
                if not data:
                    break


def socks_proxy(replies):
    """A SOCKS proxy of both versions; a list of what it was asked for, and the server."""
    asked, replies = [], iter(replies)

    def script(peer):
        if peer._read(1) == b"\4":
            head = peer._read(7)
            peer._read(1)
            asked.append(socket.inet_ntoa(head[3:]))
            peer.send_raw(b"\0" + bytes([next(replies)]) + bytes(6))
        else:
            peer._read(peer._read(1)[0])
            peer.send_raw(b"\5\0")
            kind = peer._read(4)[3]
            family = {1: socket.AF_INET, 4: socket.AF_INET6}[kind]
            asked.append(socket.inet_ntop(family, peer._read(4 if kind == 1 else 16)))
            peer._read(2)
            peer.send_raw(b"\5" + bytes([next(replies)]) + b"\0\1" + bytes(6))
        peer.accept()

    return asked, scripted_server(script)


@pytest.fixture
def many_addresses(monkeypatch):
    """many.example has four IPv6 addresses and two IPv4 ones, in this order."""
    real = resolver._getaddrinfo

    def look_up(name, port, family, flags=0):
        if name != "many.example":
            return real(name, port, family, flags)
        if flags:
            raise socket.gaierror(socket.EAI_NONAME, "not an address")
        found = [(socket.AF_INET6, 1, 6, "", (f"2001:db8::{i}", port, 0, 0)) for i in "1234"]
        return found + [(socket.AF_INET, 1, 6, "", (f"192.0.2.{i}", port)) for i in "12"]

    monkeypatch.setattr(resolver, "_getaddrinfo", look_up)


ATTEMPTS = {
    "first": ("socks5", [0], ["2001:db8::1"], True),
    "other family": ("socks5", [4, 0], ["2001:db8::1", "192.0.2.1"], True),
    "none": ("socks5", [1] * 9, "2001:db8::1 192.0.2.1 2001:db8::2 192.0.2.2".split(), False),
    "socks4": ("socks4", [91, 90], ["192.0.2.1", "192.0.2.2"], True),
    "none by socks4": ("socks4", [91] * 9, ["192.0.2.1", "192.0.2.2"], False),
}


@pytest.mark.parametrize("scheme, replies, expected, opens", ATTEMPTS.values(), ids=ATTEMPTS)
def test_addresses_that_we_look_up(scheme, replies, expected, opens, many_addresses):
    asked, server = socks_proxy(replies)
    with server as proxy:
        url = f"{scheme}://127.0.0.1:{proxy.port}"
        if opens:
            open_("ws://many.example/", proxy=url)
        else:
            exc = failure(ProxyError, "ws://many.example/", proxy=url)
            assert (exc.phase, exc.address) == ("proxy", f"proxy {url}")
    assert asked == expected


def test_socks4_has_no_ipv6(monkeypatch):
    found = [(socket.AF_INET6, 1, 6, "", ("2001:db8::1", 80, 0, 0))]
    real = resolver._getaddrinfo
    monkeypatch.setattr(
        resolver, "_getaddrinfo", lambda name, *a: found if "only" in name else real(name, *a)
    )
    with scripted_server(lambda peer: peer._read(1)) as proxy:
        url = f"socks4://127.0.0.1:{proxy.port}"
        exc = failure(ProxyError, "ws://only6.example/", proxy=url)
    assert proxy.connections == 1
    assert "IPv4" in str(exc)


def test_wrong_credentials_are_not_tried_for_each_address(many_addresses):
    def script(peer):
        peer._read(4)
        peer.send_raw(b"\5\2")
        peer._read(1 + 1 + 4 + 1 + len(PASSWORD))
        peer.send_raw(b"\1\1")

    with scripted_server(script) as proxy:
        url = f"socks5://user:{PASSWORD}@127.0.0.1:{proxy.port}"
        exc = failure(ProxyError, "ws://many.example/", proxy=url)
        assert proxy.connections == 1
    assert "refused the user or the password" in str(exc)
    assert PASSWORD not in str(exc)


# -- generators that are closed --


WAYS = {
    "plain": ("ws://localhost:{0}/", {}),
    "TLS": ("wss://localhost:{1}/", {}),
    "proxy": ("ws://h.example/", {"proxy": "http://localhost:{0}"}),
    "https proxy": ("ws://h.example/", {"proxy": "https://localhost:{1}"}),
    "SOCKS": ("ws://h.example/", {"proxy": "socks5h://localhost:{2}"}),
    "local names": ("ws://localhost/", {"proxy": "socks5://localhost:{2}"}),
    "redirect": ("ws://localhost:{0}/redirect", {}),
    "challenge": ("ws://user:pw@localhost:{0}/challenge", {}),
    "challenge of a proxy": ("ws://challenge/", {"proxy": "http://user:pw@localhost:{0}"}),
    "refusal of a proxy": ("ws://refusal/", {"proxy": "http://localhost:{0}"}),
    "SOCKS, the second address": ("ws://many.example/", {"proxy": "socks5://localhost:{2}"}),
    "TLS within TLS": ("wss://localhost:{1}/", {"proxy": "https://localhost:{3}"}),
}


@pytest.mark.parametrize("url, options", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("how", ["close", "throw", "time"])
def test_wherever_the_generator_ends_no_socket_is_left(
    url, options, how, monkeypatch, many_addresses
):
    made = track_sockets(monkeypatch)
    monkeypatch.setattr(opening, "SocketStream", Reluctant)
    clock = Clock()
    if how == "time":
        monkeypatch.setattr(opening, "time", clock)

    def script(peer):
        request = peer.request()
        wants = 'Digest realm="x", nonce="n", qop="auth"'
        answered = "Digest" in str(request.headers.items())
        if request.target == "/redirect":
            peer.respond(302, "", {"Location": "/"})
        elif request.target == "/challenge" and not answered:
            peer.respond(401, "", {"WWW-Authenticate": wants})
        elif request.target == "challenge:80" and not answered:
            peer.respond(407, "", {"Proxy-Authenticate": wants})
        elif request.target == "refusal:80":
            peer.respond(403, "", {}, b"no")
        elif request.method == "CONNECT":
            peer.respond(200, "OK")
            peer.accept()
        else:
            peer.accept()

    def socks(peer):
        peer._read(3)
        peer.send_raw(b"\5\0")
        kind = peer._read(4)[3]
        asked = peer._read({1: 4, 4: 16}.get(kind, 0) or peer._read(1)[0])
        peer._read(2)
        refused = asked == socket.inet_pton(socket.AF_INET6, "2001:db8::1")
        peer.send_raw(b"\5" + bytes([4 if refused else 0]) + b"\0\1\0\0\0\0\0\0")
        if not refused:
            peer.accept()

    def tunnel(peer):
        peer.request()
        peer.respond(200, "OK")
        bridge(peer, secure)

    with scripted_server(script) as plain, scripted_server(
        script, ssl=shared_server_context()
    ) as secure, scripted_server(socks) as proxy, scripted_server(
        tunnel, ssl=shared_server_context()
    ) as secure_proxy:
        ports = plain.port, secure.port, proxy.port, secure_proxy.port
        options = {name: value.format(*ports) for name, value in options.items()}
        context = client_context()
        for waits in itertools.count():
            made.clear()
            steps = Opening(
                options_for(url.format(*ports), ssl=context, proxy_ssl=context, **options)
            ).steps()
            try:
                wanted = next(steps)
                for _ in range(waits):
                    ready = wait(wanted.sockets, PATIENCE)
                    assert ready
                    wanted = steps.send(ready)
            except StopIteration as stop:
                stop.value.stream.close()
                break
            except InvalidProxyStatus:
                break
            if how == "close":
                steps.close()
            elif how == "throw":
                with pytest.raises(KeyboardInterrupt):
                    steps.throw(KeyboardInterrupt)
            else:
                clock.now += 2 * PATIENCE
                with pytest.raises(TimeoutError):
                    steps.send([])
            wait_for_threads("wsmini-lookup")
            assert all(sock.fileno() == -1 for sock in made)
        assert waits >= 3
        assert all(sock.fileno() == -1 for sock in made)


# -- who is told what --


class Told:
    """What trace and logger get."""

    def __init__(self):
        self.records = []
        self.lines = []
        self.logger = logging.Logger("test")
        handler = logging.Handler()
        handler.emit = lambda record: self.lines.append(record.getMessage())
        self.logger.addHandler(handler)

    def options(self):
        return {"trace": self.records.append, "logger": self.logger}

    def events(self):
        return [record["event"] for record in self.records]

    def all(self):
        return repr(self.records) + "\n".join(self.lines)


def test_the_events_of_an_opening():
    told = Told()
    with site({"/": redirect("/a"), "/a": None}) as server:
        open_(server.url, **told.options())
    events = "resolved connected request response redirect resolved connected request response open"
    assert told.events() == events.split()
    phases = [record["phase"] for record in told.records]
    assert phases == ["dns", "tcp", *["upgrade"] * 3, "dns", "tcp", *["upgrade"] * 2, "done"]
    times = [record["time"] for record in told.records]
    assert times == sorted(times) and times[0] >= 0
    assert told.records[1]["address"] == f"127.0.0.1:{server.port}"
    assert dict(told.records[2]["headers"])["Host"] == f"127.0.0.1:{server.port}"
    assert told.records[3]["status_code"] == 302
    assert told.records[-1]["timings"].keys() == {"dns", "tcp", "upgrade"}
    assert len(told.lines) == len(told.records)


def test_the_event_of_a_failure():
    told = Told()
    with site({"/": (403, {})}) as server:
        exc = failure(InvalidStatus, server.url, **told.options())
    last = told.records[-1]
    assert (last["event"], last["error"]) == ("failed", "InvalidStatus")
    assert (last["message"], last["hint"]) == (str(exc), exc.hint)


def test_tls_is_told_of():
    told = Told()
    with site({"/": None}, ssl=server_context()) as server:
        url = f"wss://localhost:{server.port}"
        open_(url, ssl=client_context(), trace=told.records.append)
    [secured] = [record for record in told.records if record["event"] == "secured"]
    assert secured["server_hostname"] == "localhost"
    assert secured["version"] in ("TLSv1.2", "TLSv1.3")
    assert secured["resumed"] is False


def test_only_a_logger():
    told = Told()
    with site({"/": None}) as server:
        open_(server.url, logger=told.logger)
    assert len(told.lines) == 5 and not told.records


def test_a_peer_that_has_hung_up_has_no_address(monkeypatch):
    with socket.socket() as sock:
        assert opening.address_of(sock.getpeername) is None
    told = Told()
    with site({"/": None}) as server, monkeypatch.context() as patch:
        patch.setattr(opening, "address_of", lambda ask: None)
        open_(server.url, trace=told.records.append)
    assert told.records[1]["address"] == ""


@pytest.mark.parametrize(
    "event", ["resolved", "connected", "secured", "request", "response", "open"]
)
def test_what_trace_raises_comes_out_and_no_socket_is_left(event, monkeypatch):
    def trace(record):
        if record["event"] == event:
            raise ZeroDivisionError(event)

    with site({"/": None}, ssl=server_context()) as server:
        made = track_sockets(monkeypatch)
        url = f"wss://localhost:{server.port}"
        failure(ZeroDivisionError, url, ssl=client_context(), trace=trace)
        wait_for_threads("wsmini-lookup")
        assert made and all(sock.fileno() == -1 for sock in made)


SHOWN = f"{PASSWORD}|t0ken|{basic('user', PASSWORD)[6:]}|{basic('prox', PASSWORD)[6:]}"


def secretive(peer):
    """A server and a proxy that ask for credentials, and set secrets in all ways."""
    request = peer.request()
    if request.method == "CONNECT":
        if not request.headers.get("Proxy-Authorization", "").startswith("Digest"):
            value = 'Digest realm="x", nonce="n", qop="auth"'
            peer.respond(407, "Who?", {"Proxy-Authenticate": value})
            return
        peer.respond(200, "OK")
        request = peer.request()
    if not request.headers.get("Authorization", "").startswith("Digest"):
        value = 'Digest realm="x", nonce="n", qop="auth"'
        peer.respond(401, "Who?", {"WWW-Authenticate": value, "Set-Cookie": "s=t0ken"})
    elif request.target.startswith("/again"):
        peer.respond(403, "No", {"X-Auth-Token": "t0ken", "Set-Cookie": "s=t0ken"}, b"no")
    else:
        location = "/again?access_token=t0ken&x=1&flag"
        peer.respond(302, "Found", {"Location": location, "Set-Cookie": "t=t0ken"})


def test_secrets_are_never_shown():
    told = Told()
    jar = http.cookiejar.CookieJar()
    with scripted_server(secretive) as server:
        options = options_for(
            f"ws://user:{PASSWORD}@127.0.0.1:{server.port}/?token=t0ken",
            proxy=f"http://prox:{PASSWORD}@127.0.0.1:{server.port}",
            cookies=jar,
            additional_headers={"X-Api-Key": "t0ken", "Cookie": "own=t0ken"},
            **told.options(),
        )
        attempt = Opening(options)
        with pytest.raises(InvalidStatus) as info:
            run_blocking(attempt.steps())
    everything = "\n".join(
        [told.all(), *traceback.format_exception(None, info.value, None), repr(info.value)]
    )
    everything += repr(attempt) + repr(options) + repr(options.fixed_proxy)
    assert "403" in everything and "redirect" in told.events()
    assert not re.findall(SHOWN, everything)


def test_the_secrets_of_a_location_are_not_shown():
    told = Told()
    location = f"ws://user:{PASSWORD}@127.0.0.1:9/?a=1&sessionid=t0ken"
    with site({"/": redirect(location)}) as server:
        exc = failure(ConnectionRefusedError, server.url, **told.options())
        failure(InvalidStatus, server.url, max_redirects=0, **told.options())
    assert f"***@127.0.0.1:9/?a={tag('1')}&sessionid={tag('t0ken')}" in told.all()
    assert not re.findall(SHOWN, told.all() + str(exc))


# -- what failures say --


def test_the_words_of_a_refused_connection():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        exc = failure(ConnectionRefusedError, f"ws://127.0.0.1:{port}/")
    assert re.fullmatch(
        rf"\[Errno \d+\] Connection refused \(tcp: 127\.0\.0\.1:{port}, after \d+\.\d\d s;"
        r" is a server listening there\?\)",
        str(exc),
    )
    assert 0 <= exc.elapsed < PATIENCE


def test_the_words_of_an_unknown_name(monkeypatch):
    def look_up(name, port, family, flags=0):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(resolver, "_getaddrinfo", look_up)
    exc = failure(socket.gaierror, "ws://nowhere.example/")
    assert "Name or service not known (dns: nowhere.example:80, after " in str(exc)
    assert "is the name spelt right" in str(exc)


def test_an_error_without_words(monkeypatch):
    def look_up(name, port, family, flags=0):
        raise socket.gaierror if flags else OSError  # no address; and in a thread

    monkeypatch.setattr(resolver, "_getaddrinfo", look_up)
    assert "OSError (dns: h.example:80" in str(failure(OSError, "ws://h.example/"))


def test_the_words_of_a_refusal():
    with site({"/": (401, {}, b"x")}) as server:
        exc = failure(InvalidStatus, server.url)
    assert str(exc).startswith(
        "server refused the WebSocket connection: HTTP 401 Page: x (upgrade: "
    )
    assert str(exc).endswith(f"{exc.hint})")
    assert isinstance(exc, InvalidHandshake)


# -- without TLS --


@pytest.fixture
def no_ssl(monkeypatch):
    monkeypatch.setitem(sys.modules, "ssl", None)
    monkeypatch.delitem(sys.modules, "wsmini.opening.tls", raising=False)


def test_a_redirect_to_tls_that_is_not_there(no_ssl):
    with site({"/": redirect("wss://localhost/")}) as server:
        exc = failure(InvalidRedirect, server.url)
    assert "ssl module" in str(exc)


def test_an_https_proxy_without_tls(no_ssl, monkeypatch):
    monkeypatch.setenv("http_proxy", f"https://u:{PASSWORD}@127.0.0.1:9")
    exc = failure(InvalidProxy, "ws://h.example/", proxy=True)
    assert "ssl module" in str(exc)
    assert PASSWORD not in str(exc)


# -- refusals without an end --


def endless(status, headers, more=b""):
    """A response without a length, of a connection that stays open and says *more* for ever."""

    def script(peer):
        peer.request()
        lines = [f"HTTP/1.1 {status} No", *(f"{name}: {value}" for name, value in headers.items())]
        peer.send_raw("\r\n".join([*lines, "", ""]).encode())
        with contextlib.suppress(OSError, EOFError):
            while more:
                peer.send_raw(more)
                peer.sock.settimeout(0.05)
                with contextlib.suppress(socket.timeout):
                    peer.sock.recv(1)
                    return
            peer.sock.recv(1)

    return script


REFUSALS = {
    "403": (403, {}, b""),
    "an event stream": (200, {"Content-Type": "text/event-stream"}, b": alive\n\n"),
    "401 without credentials": (401, {"WWW-Authenticate": "Basic"}, b""),
    "a length that is never reached": (500, {"Content-Length": "100"}, b"x"),
}


@pytest.mark.parametrize("status, headers, more", REFUSALS.values(), ids=REFUSALS)
def test_a_refusal_without_an_end_is_told_by_its_head(status, headers, more, monkeypatch):
    monkeypatch.setattr(exchange, "BODY_TIME", SOON)
    with scripted_server(endless(status, headers, more)) as server:
        exc = failure(InvalidStatus, server.url)
    assert exc.response.status_code == status


@pytest.mark.parametrize("of_proxy", [False, True])
def test_a_challenge_without_an_end_is_answered(of_proxy, monkeypatch):
    monkeypatch.setattr(exchange, "BODY_TIME", PATIENCE * 10)  # nobody waits for a body here
    status, name = (407, "Proxy-Authenticate") if of_proxy else (401, "WWW-Authenticate")
    challenge = endless(status, {name: 'Digest realm="x", nonce="n", qop="auth"'})

    def script(peer):
        if peer.number == 1:
            challenge(peer)
            return
        if of_proxy:
            peer.request()
            peer.respond(200, "OK")
        peer.accept()

    with scripted_server(script) as server:
        if of_proxy:
            open_("ws://h.example/", proxy=f"http://u:p@127.0.0.1:{server.port}")
        else:
            open_(server.url, auth=("u", "p"))


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this platform has no alarms")
def test_what_a_signal_handler_raises_comes_out_as_it_is():
    def ring(*args):
        raise TimeoutError("enough")

    before = signal.signal(signal.SIGALRM, ring)
    try:
        with scripted_server(lambda peer: peer._read(1000)) as server:
            signal.setitimer(signal.ITIMER_REAL, SOON)
            exc = failure(TimeoutError, server.url)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert exc.args == ("enough",)
