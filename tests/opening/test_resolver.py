"""Name look-ups: in threads, bounded, forgotten when nobody waits."""

from __future__ import annotations

import contextlib
import gc
import socket
import threading
import time
import weakref

import pytest
from helpers import COUNTS_REFERENCES, PATIENCE
from listeners import finish

from wsmini.opening import resolver as resolver_module
from wsmini.opening.resolver import resolve
from wsmini.opening.steps import run_blocking
from wsmini.opening.waiting import READ, wait

has_ipv6 = pytest.mark.skipif(not socket.has_ipv6, reason="this Python has no IPv6")


def no_lookups(monkeypatch):
    monkeypatch.setattr(resolver_module, "_start_lookup", None)


@pytest.mark.parametrize(
    "host, family, expected",
    [
        ("127.0.0.1", socket.AF_INET, "127.0.0.1"),
        pytest.param("::1", socket.AF_INET6, "::1", marks=has_ipv6),
        pytest.param("2001:DB8::1", socket.AF_INET6, "2001:db8::1", marks=has_ipv6),
    ],
)
def test_addresses_need_no_lookup(monkeypatch, host, family, expected):
    no_lookups(monkeypatch)
    (found,) = run_blocking(resolve(host, 443))
    assert found[0] == family
    assert found[1] == socket.SOCK_STREAM
    assert found[4][:2] == (expected, 443)


@has_ipv6
@pytest.mark.skipif(not hasattr(socket, "if_nameindex"), reason="PyPy doesn't list interfaces")
def test_the_zone_of_an_address_is_kept(monkeypatch):
    no_lookups(monkeypatch)
    index, name = socket.if_nameindex()[0]
    try:
        (found,) = run_blocking(resolve(f"fe80::1%{name}", 443))
    except socket.gaierror:
        pytest.skip("this host has no link-local addresses")
    assert found[4][3] == index


class Resolver:
    """``getaddrinfo`` that answers with *answer* (or raises it) when it is told to."""

    def __init__(self, monkeypatch, answer):
        self.original = socket.getaddrinfo
        self.answer = answer
        self.asked = []
        self.threads = set()
        self.go_on = threading.Event()
        self.pairs = []
        self.socketpair = socket.socketpair
        monkeypatch.setattr(socket, "getaddrinfo", self)
        monkeypatch.setattr(socket, "socketpair", self.make_pair)

    def __call__(self, host, port, *args, flags=0, **kwargs):
        if flags & socket.AI_NUMERICHOST:
            return self.original(host, port, *args, flags=flags, **kwargs)
        self.asked.append((host, port))
        self.threads.add(threading.current_thread())
        assert self.go_on.wait(PATIENCE)
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer

    def make_pair(self):
        self.pairs.append(self.socketpair())
        return self.pairs[-1]

    def end(self):
        """Let the look-ups end, and wait until they have."""
        self.go_on.set()
        for thread in list(self.threads):
            thread.join(PATIENCE)

    def open_sockets(self):
        return [sock for pair in self.pairs for sock in pair if sock.fileno() != -1]


ANSWER = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 80))]


@pytest.fixture
def resolver(monkeypatch):
    resolver = Resolver(monkeypatch, ANSWER)
    yield resolver
    resolver.end()


def test_names_are_looked_up_in_a_thread(resolver):
    resolver.go_on.set()
    assert run_blocking(resolve("example.com", 80)) == ANSWER
    assert resolver.asked == [(b"example.com", 80)]  # bytes: no idna codec
    (thread,) = resolver.threads
    assert thread is not threading.current_thread()
    assert thread.daemon
    resolver.end()
    assert not resolver.open_sockets()


def test_a_slow_lookup_is_waited_for(resolver):
    steps = resolve("example.com", 80)
    wanted = next(steps)
    ((sock, events),) = wanted.sockets.items()
    assert (events, wanted.deadline) == (READ, None)
    assert wait(wanted.sockets, 0.01) == []
    assert next(steps) == wanted  # resumed too early
    resolver.go_on.set()
    assert wait(wanted.sockets, PATIENCE) == [sock]
    assert finish(steps, [sock]) == ANSWER
    assert sock.fileno() == -1


@pytest.mark.parametrize(
    "exception",
    [
        socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
        OSError(5, "x"),
        MemoryError(),
    ],
)
def test_a_failed_lookup_raises_where_it_was_asked_for(resolver, exception):
    resolver.answer = exception
    resolver.go_on.set()
    with pytest.raises(type(exception)) as caught:
        run_blocking(resolve("example.com", 80))
    assert caught.value is exception
    resolver.end()
    assert not resolver.open_sockets()


@pytest.mark.skipif(not COUNTS_REFERENCES, reason="cycles aren't different there")
def test_a_failed_lookup_leaves_no_cycle(resolver):
    class Failure(OSError):
        pass

    resolver.answer = Failure()
    resolver.go_on.set()
    gone = weakref.ref(resolver.answer)
    gc.disable()
    try:
        with contextlib.suppress(Failure):
            run_blocking(resolve("example.com", 80))
        resolver.end()
        resolver.answer = None
        resolver.threads.clear()
        assert gone() is None
    finally:
        gc.enable()


def test_an_abandoned_lookup_leaves_no_socket_once_it_ends(resolver):
    steps = resolve("example.com", 80)
    next(steps)
    while not resolver.threads:
        time.sleep(0)
    steps.close()
    (reader, writer) = resolver.pairs[0]
    assert reader.fileno() == -1
    assert writer.fileno() != -1  # the thread's, which hangs
    resolver.end()
    assert not resolver.open_sockets()
    assert lookups() == 0


def lookups():
    """How many look-ups are counted as going on."""
    counted = resolver_module._lookups
    return counted if isinstance(counted, int) else len(counted)


def test_lookups_are_bounded(resolver):
    begun = [resolve(f"{number}.example", 80) for number in range(resolver_module.MAX_LOOKUPS)]
    for steps in begun:
        next(steps)
    for steps in begun[::2]:
        steps.close()  # The threads still hang.
    with pytest.raises(OSError, match=f"{resolver_module.MAX_LOOKUPS} name lookups are going on"):
        run_blocking(resolve("one.more", 80))
    assert run_blocking(resolve("127.0.0.1", 80))  # needs none
    while len(resolver.threads) < resolver_module.MAX_LOOKUPS:
        time.sleep(0)
    resolver.end()
    assert [run_blocking(steps) for steps in begun[1::2]] == [ANSWER] * (
        resolver_module.MAX_LOOKUPS // 2
    )
    assert lookups() == 0
    assert run_blocking(resolve("one.more", 80)) == ANSWER
    resolver.end()
    assert not resolver.open_sockets()


def test_a_thread_that_cannot_start(resolver, monkeypatch):
    def start(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(OSError, match="can't start new thread, which a name lookup needs"):
        run_blocking(resolve("example.com", 80))
    assert lookups() == 0
    assert not resolver.open_sockets()


def test_a_name_that_is_not_ascii_is_refused_before_anything_is_asked(resolver):
    with pytest.raises(ValueError):
        run_blocking(resolve("exämple.com", 80))
    assert not resolver.asked
