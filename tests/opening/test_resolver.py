"""Name look-ups: in threads, bounded, forgotten when nobody waits."""

from __future__ import annotations

import contextlib
import functools
import gc
import itertools
import os
import random
import socket
import threading
import time
import types
import weakref

import pytest
from helpers import COUNTS_REFERENCES, PATIENCE, SEED
from listeners import finish
from points import run

from wsmini.opening import resolver as resolver_module
from wsmini.opening.resolver import resolve
from wsmini.opening.steps import run_blocking
from wsmini.opening.streams import READ, wait

has_ipv6 = pytest.mark.skipif(not socket.has_ipv6, reason="this Python has no IPv6")


def no_lookups(monkeypatch):
    monkeypatch.setattr(resolver_module, "in_thread", None)


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
    assert resolver.asked == [("example.com", 80)]
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
    assert caught.value.args == exception.args
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


def test_an_abandoned_lookup_leaves_no_socket(resolver):
    steps = resolve("example.com", 80)
    next(steps)
    while not resolver.threads:
        time.sleep(0)
    steps.close()
    assert not resolver.open_sockets()
    resolver.end()
    assert nothing_is_left()


def nothing_is_left():
    """Whether no thread looks names up any more, and no look-up waits for one."""
    deadline = time.monotonic() + PATIENCE
    while resolver_module._threads and time.monotonic() < deadline:
        time.sleep(0)
    return not (resolver_module._threads or resolver_module._queue or resolver_module._shared)


def test_lookups_beyond_the_limit_wait_for_their_turn(resolver, monkeypatch):
    monkeypatch.setattr(resolver_module, "MAX_LOOKUPS", 4)
    begun = [resolve(f"{number}.example", 80) for number in range(12)]
    for steps in begun:
        next(steps)
    while len(resolver.asked) < 4:
        time.sleep(0)
    assert len(resolver_module._queue) == 8
    for steps in begun[::2]:  # two that are looked up, and four that wait
        steps.close()
    assert len(resolver_module._queue) == 4
    assert len(resolver.threads) == 4
    resolver.go_on.set()
    assert [run_blocking(steps) for steps in begun[1::2]] == [ANSWER] * 6
    assert len(resolver.asked) == 8 and len(resolver.threads) == 4
    assert nothing_is_left()
    assert not resolver.open_sockets()


def test_lookups_of_one_name_at_the_same_time_are_one(resolver):
    begun = [resolve("example.com", 80) for _ in range(5)]
    others = [resolve("example.com", 81), resolve("example.com", 80, socket.AF_INET)]
    for steps in begun + others:
        next(steps)
    begun.pop().close()
    resolver.go_on.set()
    assert [run_blocking(steps) for steps in begun + others] == [ANSWER] * 6
    assert sorted(resolver.asked) == [("example.com", 80)] * 2 + [("example.com", 81)]
    assert nothing_is_left()
    assert run_blocking(resolve("example.com", 80)) == ANSWER  # looked up anew
    assert len(resolver.asked) == 4


def test_a_failure_is_shared_but_each_gets_an_exception_of_its_own(resolver):
    resolver.answer = socket.gaierror(socket.EAI_AGAIN, "try again")
    begun = [resolve("example.com", 80) for _ in range(2)]
    for steps in begun:
        next(steps)
    resolver.go_on.set()
    failures = []
    for steps in begun:
        with pytest.raises(socket.gaierror, match="try again") as caught:
            run_blocking(steps)
        failures.append(caught.value)
    assert len(resolver.asked) == 1
    assert failures[0] is not failures[1]


def test_a_lookup_that_hangs_is_not_joined_for_ever(resolver, monkeypatch):
    first = resolve("example.com", 80)
    next(first)
    monkeypatch.setattr(resolver_module, "SHARED_FOR", -1.0)
    second = resolve("example.com", 80)
    next(second)
    resolver.go_on.set()
    assert run_blocking(first) == run_blocking(second) == ANSWER
    assert len(resolver.asked) == 2
    assert nothing_is_left()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="signals need POSIX")
def test_what_a_signal_handler_interrupts_is_not_waited_for(resolver):
    def interrupt():
        raise KeyboardInterrupt

    resolver.go_on.set()
    for at in itertools.count():
        steps = resolve("example.com", 80)
        _, error, points = run(lambda: next(steps), at, interrupt)  # noqa: B023
        steps.close()
        if points.where is None:
            break
        assert isinstance(error, KeyboardInterrupt)
        again = resolve("example.com", 80)
        with contextlib.suppress(StopIteration):  # the answer is there already
            assert wait(next(again).sockets, PATIENCE), points.where
        again.close()
    assert at > 10
    assert nothing_is_left()


def test_many_threads_join_and_leave_at_random(monkeypatch):
    def look_up(*args):
        time.sleep(0)
        return ANSWER

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(resolver_module, "MAX_LOOKUPS", 2)
    found = []

    def ask(seed):
        chance = random.Random(SEED + seed)
        for _ in range(100):
            steps = resolve(f"{chance.randrange(3)}.example", 80)
            if chance.randrange(3):
                found.append(run_blocking(steps))
            else:
                next(steps, None)
                steps.close()
                found.append(ANSWER)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert found == [ANSWER] * 400
    assert nothing_is_left()


def test_without_threads_names_are_looked_up_in_this_one(resolver, monkeypatch):
    def start(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    resolver.go_on.set()
    assert run_blocking(resolve("example.com", 80)) == ANSWER
    assert resolver.threads == {threading.current_thread()}
    resolver.threads.clear()
    assert nothing_is_left()
    assert not resolver.open_sockets()


def test_the_genuine_function_gets_bytes(monkeypatch):
    # They need no idna codec, which small systems lack.
    asked = []
    monkeypatch.setattr(
        socket, "_socket", types.SimpleNamespace(getaddrinfo=lambda *args: asked.append(args) or ())
    )
    assert run_blocking(resolve("example.com", 80)) == []
    assert [args[0] for args in asked] == [b"example.com"]


REPLACEMENTS = {
    "positions": lambda *args: ANSWER,
    "names": lambda host, port, family=0, type=0, proto=0, flags=0: ANSWER,
    "other names": lambda host, port, family=0, socktype=0, proto=0, flags=0: ANSWER,
    "four": lambda host, port, family, type: ANSWER,
    "a wrapper": functools.wraps(socket.getaddrinfo)(lambda *args, **kwargs: ANSWER),
    "pinned": lambda host, *args, **kwargs: {"example.com": ANSWER}[host],
}


@pytest.mark.parametrize("replacement", REPLACEMENTS.values(), ids=REPLACEMENTS)
def test_programs_may_replace_getaddrinfo(replacement, monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", replacement)
    assert run_blocking(resolve("example.com", 80)) == ANSWER


def test_what_is_no_name_is_a_failure_to_look_it_up(monkeypatch):
    def encode(host, *args):
        host.encode("idna")

    monkeypatch.setattr(socket, "getaddrinfo", encode)
    for name in ("a" * 64 + ".example", "a..b"):
        with pytest.raises(socket.gaierror, match="is no name"):
            run_blocking(resolve(name, 80))


@has_ipv6
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_only_one_family(family):
    try:
        found = run_blocking(resolve("localhost", 80, family))
    except socket.gaierror:
        pytest.skip("localhost has no such address here")
    assert {address[0] for address in found} == {family}
    other, literal = {
        socket.AF_INET: (socket.AF_INET6, "127.0.0.1"),
        socket.AF_INET6: (socket.AF_INET, "::1"),
    }[family]
    with pytest.raises(socket.gaierror):
        run_blocking(resolve(literal, 80, other))


def test_a_name_that_is_not_ascii_is_refused_before_anything_is_asked():
    with pytest.raises(socket.gaierror):
        run_blocking(resolve("exämple.com", 80))


def test_what_a_replacement_returns_may_be_any_iterable(monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args: iter(ANSWER))
    assert run_blocking(resolve("example.com", 80)) == ANSWER
