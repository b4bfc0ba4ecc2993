"""Sockets without blocking: waiting, name look-ups, connections to one of many addresses."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import select
import socket
import sys
import tempfile
import threading
import time
import weakref

import pytest
from helpers import COUNTS_REFERENCES, PATIENCE, PROMPT, splits

from wsmini.exceptions import InvalidMessage
from wsmini.opening import sockets as net
from wsmini.opening.sockets import (
    READ,
    WRITE,
    SocketStream,
    Wait,
    configure,
    connect_tcp,
    interleaved,
    receive_response,
    receive_some,
    resolve,
    run_blocking,
    send_all,
    shown_address,
    wait,
)
from wsmini.sansio.response import ResponseParser


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
    monkeypatch.setattr(net, "time", clock)
    return clock


@pytest.fixture
def pair():
    one, other = socket.socketpair()
    with one, other:
        yield one, other


@contextlib.contextmanager
def listener(family=socket.AF_INET, host="127.0.0.1", backlog=8):
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.bind((host, 0))
        sock.listen(backlog)
        yield sock


def address_of(sock):
    """As ``getaddrinfo`` has it."""
    return sock.family, socket.SOCK_STREAM, 0, "", sock.getsockname()


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


def finish(steps, ready):
    """Resume *steps*, which must end, and return the result."""
    with pytest.raises(StopIteration) as stop:
        steps.send(ready)
    return stop.value.value


# -- waiting --

WAYS = ["poll", "select"]


@pytest.fixture(params=WAYS)
def way(request, monkeypatch):
    if request.param == "select":
        monkeypatch.delattr(select, "poll", raising=False)
    elif not hasattr(select, "poll"):
        pytest.skip("this platform has no poll()")
    return request.param


def test_waiting_for_something_to_read(way, pair):
    one, other = pair
    assert wait({one: READ}, 0) == []
    other.send(b"x")
    assert wait({one: READ, other: READ}, None) == [one]
    assert wait({one: READ}, PATIENCE) == [one]


def test_waiting_to_write(way, pair):
    one, other = pair
    assert wait({one: WRITE}, None) == [one]
    one.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            one.send(bytes(65536))
    assert wait({one: WRITE}, 0) == []
    assert wait({one: READ | WRITE}, 0) == []
    assert wait({one: READ | WRITE, other: READ}, None) == [other]
    other.send(b"x")
    assert wait({one: READ | WRITE}, None) == [one]


def test_a_socket_that_can_do_both_is_named_once(way, pair):
    one, other = pair
    other.send(b"x")
    assert wait({one: READ | WRITE}, None) == [one]


def test_the_end_and_the_refusal_are_something_to_wait_for(way, refused):
    one, other = socket.socketpair()
    with one:
        other.close()
        assert wait({one: READ}, PATIENCE) == [one]
    with socket.socket() as sock:
        sock.setblocking(False)
        sock.connect_ex(refused[4])
        assert wait({sock: WRITE}, PATIENCE) == [sock]
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED


@pytest.mark.parametrize("timeout", [0, -1, -1e9, 0.0])
def test_no_time_left(way, pair, timeout):
    assert wait({pair[0]: READ}, timeout) == []
    assert wait({}, timeout) == []


def test_waiting_is_not_too_short(way, pair):
    for timeout in (0.0001, 0.0019, 0.01):
        start = time.monotonic()
        assert wait({pair[0]: READ}, timeout) == []
        assert time.monotonic() - start >= timeout


@pytest.mark.parametrize("timeout", [1e7, 2**31 / 1000, 1e12, float("inf")])
def test_a_timeout_of_months_is_no_error(way, pair, timeout):
    one, other = pair
    other.send(b"x")
    assert wait({one: READ}, timeout) == [one]


def test_waiting_for_time_only(way):
    start = time.monotonic()
    assert wait({}, 0.01) == []
    assert time.monotonic() - start >= 0.01


def test_select_is_not_called_with_nothing(monkeypatch, clock):
    monkeypatch.delattr(select, "poll", raising=False)
    monkeypatch.setattr(select, "select", None)  # Windows refuses
    assert wait({}, 5) == []
    assert sum(clock.slept) == 5
    monkeypatch.setattr(net, "in_main_thread", lambda: False)
    assert wait({}, None) == []
    assert clock.slept[-1] > 60


# -- running --


def test_running_to_the_end(pair):
    one, other = pair
    seen = []

    def steps():
        seen.append((yield Wait({one: WRITE, other: READ}, None)))
        one.send(b"x")
        seen.append((yield Wait({other: READ}, time.monotonic() + PATIENCE)))
        return "result"

    assert run_blocking(steps()) == "result"
    assert seen == [[one], [other]]


def test_a_deadline_resumes_with_nothing_ready(pair):
    seen = []

    def steps():
        for delay in (0.005, 0, -1):
            deadline = time.monotonic() + delay
            ready = yield Wait({pair[0]: READ}, deadline)
            seen.append((list(ready), time.monotonic() >= deadline))

    assert run_blocking(steps()) is None
    assert seen == [([], True)] * 3


def test_running_what_never_waits():
    def steps():
        return 5
        yield

    assert run_blocking(steps()) == 5


def test_an_exception_comes_out_of_run(pair):
    closed = []

    def steps():
        try:
            yield Wait({pair[0]: WRITE}, None)
            raise ZeroDivisionError
        finally:
            closed.append(True)

    with pytest.raises(ZeroDivisionError):
        run_blocking(steps())
    assert closed


def test_an_interrupted_wait_ends_the_steps(monkeypatch, pair):
    def interrupted(sockets, timeout):
        raise KeyboardInterrupt

    closed = []

    def steps():
        try:
            yield Wait({pair[0]: READ}, None)
        finally:
            closed.append(True)

    monkeypatch.setattr(net, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_blocking(steps())
    assert closed


# -- names --

has_ipv6 = pytest.mark.skipif(not socket.has_ipv6, reason="this Python has no IPv6")


def no_lookups(monkeypatch):
    monkeypatch.setattr(net, "_start_lookup", None)


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
    counted = net._lookups
    return counted if isinstance(counted, int) else len(counted)


def test_lookups_are_bounded(resolver):
    begun = [resolve(f"{number}.example", 80) for number in range(net.MAX_LOOKUPS)]
    for steps in begun:
        next(steps)
    for steps in begun[::2]:
        steps.close()  # The threads still hang.
    with pytest.raises(OSError, match=f"{net.MAX_LOOKUPS} name lookups are going on"):
        run_blocking(resolve("one.more", 80))
    assert run_blocking(resolve("127.0.0.1", 80))  # needs none
    while len(resolver.threads) < net.MAX_LOOKUPS:
        time.sleep(0)
    resolver.end()
    assert [run_blocking(steps) for steps in begun[1::2]] == [ANSWER] * (net.MAX_LOOKUPS // 2)
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


# -- the order of addresses --

V4, V6, OTHER = socket.AF_INET, socket.AF_INET6, -1
ORDERS = {
    "none": ([], []),
    "one": ([(V4, 1)], [(V4, 1)]),
    "one family": ([(V4, 1), (V4, 2)], [(V4, 1), (V4, 2)]),
    "IPv6 first": (
        [(V6, 1), (V6, 2), (V6, 3), (V4, 1), (V4, 2)],
        [(V6, 1), (V4, 1), (V6, 2), (V4, 2), (V6, 3)],
    ),
    "IPv4 first": ([(V4, 1), (V6, 1), (V6, 2)], [(V4, 1), (V6, 1), (V6, 2)]),
    "alternating already": ([(V6, 1), (V4, 1), (V6, 2)], [(V6, 1), (V4, 1), (V6, 2)]),
    "three families": (
        [(OTHER, 1), (V4, 1), (V4, 2), (V6, 1), (OTHER, 2)],
        [(OTHER, 1), (V4, 1), (V6, 1), (OTHER, 2), (V4, 2)],
    ),
}


@pytest.mark.parametrize("addresses, expected", ORDERS.values(), ids=ORDERS)
def test_families_take_turns(addresses, expected):
    assert interleaved(iter(addresses)) == expected


# -- connecting --


def connected_to(sock, server):
    """Whether *sock*, which is closed then, is connected to *server*."""
    with sock:
        return sock.getpeername() == server.getsockname()


def test_connecting(server):
    sock = run_blocking(connect_tcp([address_of(server)]))
    assert not sock.getblocking()
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert connected_to(sock, server)


@has_ipv6
def test_connecting_over_ipv6():
    try:
        context = listener(socket.AF_INET6, "::1")
        server = context.__enter__()
    except OSError:
        pytest.skip("this host has no IPv6")
    try:
        sock = run_blocking(connect_tcp(run_blocking(resolve("::1", server.getsockname()[1]))))
        assert connected_to(sock, server)
    finally:
        context.__exit__(None, None, None)


def test_no_addresses():
    with pytest.raises(OSError, match="no address") as caught:
        run_blocking(connect_tcp([]))
    assert caught.value.errno == errno.EADDRNOTAVAIL


def test_one_refusal(refused):
    with pytest.raises(ConnectionRefusedError) as caught:
        run_blocking(connect_tcp([refused]))
    assert caught.value.errno == errno.ECONNREFUSED
    assert os.strerror(errno.ECONNREFUSED) in str(caught.value)


def test_after_a_refusal_the_next_address_is_tried_at_once(refused, server, clock):
    steps = connect_tcp([refused, address_of(server)], delay=100)
    wanted = next(steps)
    assert wanted.deadline == 1100
    wanted = steps.send(wait(wanted.sockets, PATIENCE))
    assert wanted.deadline is None
    assert len(wanted.sockets) == 1
    assert connected_to(finish(steps, wait(wanted.sockets, PATIENCE)), server)


def test_when_all_fail_the_message_names_each(refused, refused_too):
    with pytest.raises(ConnectionRefusedError) as caught:
        run_blocking(connect_tcp([refused, refused_too]))
    for address in (refused, refused_too):
        assert f"127.0.0.1:{address[4][1]}: {os.strerror(errno.ECONNREFUSED)}" in str(caught.value)


def test_addresses_that_cannot_even_be_tried(refused, server):
    broken = (-1, socket.SOCK_STREAM, 0, "", ("x", 1))
    sock = run_blocking(connect_tcp([broken, broken, address_of(server)], delay=100))
    assert connected_to(sock, server)
    with pytest.raises(OSError, match="x:1: .*; 127.0.0.1:[0-9]+: "):
        run_blocking(connect_tcp([broken, refused]))


def test_the_next_address_waits_for_its_turn(servers, clock):
    first, second, third = servers
    steps = connect_tcp([address_of(server) for server in servers], delay=0.25)
    wanted = next(steps)
    ((one, events),) = wanted.sockets.items()
    assert events == WRITE
    assert wanted.deadline == 1000.25

    clock.now = 1000.2499
    assert steps.send([]) == wanted  # too early

    clock.now = 1000.3
    wanted = steps.send([])
    assert len(wanted.sockets) == 2
    assert wanted.deadline == 1000.55
    (two,) = set(wanted.sockets) - {one}

    clock.now = 1000.55
    wanted = steps.send([])
    assert len(wanted.sockets) == 3
    assert wanted.deadline is None
    (three,) = set(wanted.sockets) - {one, two}

    # The first to connect wins, and the others are closed.
    assert wait({two: WRITE}, PATIENCE) == [two]
    assert finish(steps, [two]) is two
    assert one.fileno() == three.fileno() == -1
    assert connected_to(two, second)


def test_no_delay_tries_all_at_once(servers, clock):
    steps = connect_tcp([address_of(server) for server in servers], delay=0)
    sizes = []
    wanted = next(steps)
    while True:
        sizes.append(len(wanted.sockets))
        if wanted.deadline is None:
            break
        assert wanted.deadline <= clock.now
        wanted = steps.send([])
    assert sizes == [1, 2, 3]
    steps.close()


def test_a_late_refusal_starts_the_next_one_early(refused, servers, clock):
    first, second, _ = servers
    steps = connect_tcp([address_of(first), refused, address_of(second)], delay=0.25)
    (one,) = next(steps).sockets
    clock.now = 1000.25
    wanted = steps.send([])
    (two,) = set(wanted.sockets) - {one}
    assert wanted.deadline == 1000.5
    clock.now = 1000.26
    wanted = steps.send(wait({two: WRITE}, PATIENCE))
    assert two.fileno() == -1
    assert wanted.deadline is None
    (three,) = set(wanted.sockets) - {one}
    assert connected_to(finish(steps, wait({three: WRITE}, PATIENCE)), second)
    assert one.fileno() == -1


def test_two_that_connect_at_once(servers, clock):
    steps = connect_tcp([address_of(server) for server in servers[:2]], delay=0)
    next(steps)
    sockets = list(steps.send([]).sockets)
    for sock in sockets:
        wait({sock: WRITE}, PATIENCE)
    winner = finish(steps, sockets)
    assert winner is sockets[0]
    assert sockets[1].fileno() == -1
    winner.close()


def test_a_connection_wins_over_a_refusal_at_the_same_time(refused, server, clock):
    steps = connect_tcp([refused, address_of(server)], delay=0)
    next(steps)
    sockets = list(steps.send([]).sockets)
    for sock in sockets:
        wait({sock: WRITE}, PATIENCE)
    assert connected_to(finish(steps, sockets), server)
    assert sockets[0].fileno() == -1


@pytest.mark.parametrize("end", ["close", "throw"])
def test_giving_up_closes_every_attempt(servers, clock, end):
    steps = connect_tcp([address_of(server) for server in servers], delay=0)
    next(steps)
    sockets = list(steps.send([]).sockets)
    if end == "close":
        steps.close()
    else:
        with pytest.raises(TimeoutError):
            steps.throw(TimeoutError())
    assert [sock.fileno() for sock in sockets] == [-1, -1]


@pytest.fixture
def blackhole():
    """The address of a listener whose queue is full: who connects waits."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(listener(backlog=0))
        for _ in range(16):
            sock = stack.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(server.getsockname())
            if not wait({sock: WRITE}, 0.1):
                break
        else:
            pytest.skip("here, no queue ever gets full")
        yield address_of(server)


def test_a_blackholed_address_costs_the_delay_only(blackhole, server):
    start = time.monotonic()
    sock = run_blocking(connect_tcp([blackhole, address_of(server)], delay=0.1))
    elapsed = time.monotonic() - start
    assert connected_to(sock, server)
    assert 0.1 <= elapsed < PROMPT  # a second attempt to reach the first would take longer


def test_a_blackholed_address_never_delays_the_first_one(blackhole, server):
    sock = run_blocking(connect_tcp([address_of(server), blackhole], delay=100))
    assert connected_to(sock, server)


# -- where from, and how --


def test_the_source_address(server):
    with run_blocking(connect_tcp([address_of(server)], source_address=("127.0.0.1", 0))) as sock:
        assert sock.getsockname()[0] == "127.0.0.1"
    with socket.socket() as reserved:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
    with run_blocking(
        connect_tcp([address_of(server)], source_address=("127.0.0.1", port))
    ) as sock:
        assert sock.getsockname() == ("127.0.0.1", port)


def test_a_source_address_that_is_not_ours(server):
    # 192.0.2.0/24 is for documentation (RFC 5737).
    with pytest.raises(OSError) as caught:
        run_blocking(connect_tcp([address_of(server)], source_address=("192.0.2.1", 0)))
    assert caught.value.errno == errno.EADDRNOTAVAIL


@has_ipv6
def test_addresses_of_another_family_than_the_source_are_passed_over(server):
    other = (socket.AF_INET6, socket.SOCK_STREAM, 0, "", ("::1", 9, 0, 0))
    steps = connect_tcp([other, address_of(server)], 100, source_address=("127.0.0.1", 0))
    assert connected_to(run_blocking(steps), server)


def test_socket_options_are_set_on_every_attempt(refused, server):
    options = [
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_NODELAY, 0),  # over what wsmini sets
    ]
    with run_blocking(connect_tcp([refused, address_of(server)], options=options)) as sock:
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert not sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_an_option_that_cannot_be_set(server):
    with pytest.raises(OSError):
        run_blocking(connect_tcp([address_of(server)], options=[(socket.SOL_SOCKET, 9999, 1)]))
    with pytest.raises(TypeError):
        run_blocking(connect_tcp([address_of(server)], options=[(socket.SOL_SOCKET, "x", 1)]))


def test_configuring_what_is_not_tcp(pair):
    for family in (socket.AF_INET, getattr(socket, "AF_UNIX", socket.AF_INET)):
        with socket.socket(family) as sock:
            configure(sock, [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)])
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    configure(pair[0])


has_unix = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no Unix sockets here")


@pytest.fixture
def unix_path():
    # Not pytest's directory, which may be too long for the path of a socket.
    with tempfile.TemporaryDirectory() as directory:
        yield os.path.join(directory, "s")


def unix_address(path):
    return socket.AF_UNIX, socket.SOCK_STREAM, 0, "", path


@has_unix
def test_connecting_to_a_unix_socket(unix_path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(unix_path)
        server.listen(1)
        sock = run_blocking(connect_tcp([unix_address(unix_path)]))
        assert connected_to(sock, server)


@has_unix
def test_a_unix_socket_that_is_not_there(unix_path):
    with pytest.raises(FileNotFoundError):
        run_blocking(connect_tcp([unix_address(unix_path)]))
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(unix_path)
        with pytest.raises(ConnectionRefusedError):
            run_blocking(connect_tcp([unix_address(unix_path)]))


@has_unix
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere, it is refused")
def test_a_unix_socket_whose_queue_is_full_is_not_taken_for_connected(unix_path):
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.socket(socket.AF_UNIX))
        server.bind(unix_path)
        server.listen(0)
        while True:
            sock = stack.enter_context(socket.socket(socket.AF_UNIX))
            sock.setblocking(False)
            if sock.connect_ex(unix_path) == errno.EAGAIN:
                break
        with pytest.raises(BlockingIOError):
            run_blocking(connect_tcp([unix_address(unix_path)]))


SHOWN_ADDRESSES = {  # address -> text
    "IPv4": (("127.0.0.1", 80), "127.0.0.1:80"),
    "IPv6": (("::1", 443, 0, 0), "[::1]:443"),
    "zone": (("fe80::1%eth0", 1, 0, 2), "[fe80::1%eth0]:1"),
    "name": (("example.com", 8080), "example.com:8080"),
    "path": ("/run/x.sock", "/run/x.sock"),
    "bytes": (b"/run/x.sock", "/run/x.sock"),
    "number": (5, "5"),
    "short": (("x",), "('x',)"),
}


@pytest.mark.parametrize("address, text", SHOWN_ADDRESSES.values(), ids=SHOWN_ADDRESSES)
def test_addresses_for_people(address, text):
    assert shown_address(address) == text


# -- streams --


def test_a_stream_over_a_socket(pair):
    one, other = pair
    stream = SocketStream(one)
    assert stream.sock is one
    assert stream.send(b"abc") == 3
    assert other.recv(10) == b"abc"
    other.send(b"xyz")
    assert stream.recv(2) == b"xy"
    assert not stream.buffered()
    assert not stream.unsent
    assert stream.flush() is True
    assert stream.flush(0) is True
    stream.say_goodbye()
    assert stream.recv(2) == b"z"
    one.setblocking(False)
    with pytest.raises(BlockingIOError):
        stream.recv(2)
    other.close()
    assert stream.recv(2) == b""
    stream.close()
    assert one.fileno() == -1


def test_sending_all_waits_for_room(pair):
    one, other = pair
    one.setblocking(False)
    stream, data = SocketStream(one), os.urandom(1 << 22)
    steps = send_all(stream, data)
    assert next(steps) == Wait({one: WRITE}, None)
    received = []

    def receive():
        while sum(map(len, received)) < len(data):
            received.append(other.recv(1 << 20))

    thread = threading.Thread(target=receive)
    thread.start()
    assert run_blocking(steps) is None
    thread.join(PATIENCE)
    assert b"".join(received) == data


def test_what_a_peer_said_before_it_hung_up_can_still_be_received(pair):
    one, other = pair
    other.send(b"the reason")
    other.close()
    stream = SocketStream(one)
    assert isinstance(run_blocking(send_all(stream, b"a request")), ConnectionError)
    assert run_blocking(receive_some(stream)) == b"the reason"


def test_a_peer_that_hung_up_without_a_word_is_a_connection_error(pair):
    pair[1].close()
    stream = SocketStream(pair[0])
    broken = run_blocking(send_all(stream, b"a request"))
    with pytest.raises(ConnectionError) as raised:
        run_blocking(receive_response(stream, ResponseParser(), broken))
    assert raised.value is broken


def test_the_head_of_a_response_alone():
    stream, parser = Shy([b"HTTP/1.1 404 Not Found\r\n\r\n", b"the body"]), ResponseParser()
    response, _ = drive(receive_response(stream, parser, head_only=True), stream, READ)
    assert response.status_code == 404
    assert stream.incoming == [b"the body"]


def test_sending_nothing(pair):
    assert run_blocking(send_all(SocketStream(pair[0]), b"")) is None


class Shy:
    """A stream that takes and gives one byte at a time, and has to be asked twice."""

    unsent = False

    def __init__(self, incoming=()):
        self.sock = object()
        self.asked = 0
        self.sent = b""
        self.flushed = 0
        self.incoming = list(incoming)

    def _shy(self):
        self.asked += 1
        if self.asked % 2:
            raise BlockingIOError

    def send(self, data, flags=0):
        self._shy()
        self.sent += bytes(data[:1])
        return 1

    def recv(self, size, flags=0):
        self._shy()
        found = self.incoming.pop(0)
        if isinstance(found, BaseException):
            raise found
        assert len(found) <= size
        return found

    def flush(self, flags=0):
        self.flushed += 1
        return self.flushed > 1


def drive(steps, stream, events):
    """Run *steps*, which may only wait for *stream*; the result, and how often they waited."""
    waits = 0
    while True:
        try:
            assert next(steps) == Wait({stream.sock: events}, None)
        except StopIteration as stop:
            return stop.value, waits
        waits += 1


@pytest.mark.parametrize("make", [receive_some, lambda stream: send_all(stream, b"x")])
def test_what_is_thrown_into_a_wait_has_no_other_error_as_its_context(make):
    steps = make(Shy([b"x"]))
    next(steps)
    with pytest.raises(TimeoutError) as raised:
        steps.throw(TimeoutError("over"))
    assert raised.value.__context__ is None


def test_sending_byte_by_byte():
    stream = Shy()
    assert drive(send_all(stream, b"abc"), stream, WRITE)[0] is None
    assert stream.sent == b"abc"
    assert stream.flushed == 2  # what a stream had kept back is sent, too


def test_receiving_some():
    stream = Shy([b"ab", b""])
    assert drive(receive_some(stream), stream, READ) == (b"ab", 1)
    assert drive(receive_some(stream, 5), stream, READ) == (b"", 1)


RESPONSE = b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nbody"


def test_receiving_a_response():
    for chunks in splits(RESPONSE):
        stream, parser = Shy(chunk for chunk in chunks if chunk), ResponseParser()
        response, _ = drive(receive_response(stream, parser), stream, READ)
        assert response is parser.response
        assert (response.status_code, response.body) == (404, b"body")
        assert not response.body_truncated


CUT = {  # what comes -> body
    "end in the body": ([RESPONSE[:-2], b""], b"bo"),
    "reset in the body": ([RESPONSE[:-2], ConnectionResetError()], b"bo"),
    "timeout in the body": ([RESPONSE[:-4], TimeoutError()], b""),
}


@pytest.mark.parametrize("incoming, body", CUT.values(), ids=CUT)
def test_a_response_that_is_cut_off_in_its_body_still_counts(incoming, body):
    stream = Shy(incoming)
    response, _ = drive(receive_response(stream, ResponseParser()), stream, READ)
    assert response.body == body
    assert response.body_truncated


NO_RESPONSE = {
    "nothing": ([b""], InvalidMessage),
    "end in the head": ([RESPONSE[:9], b""], InvalidMessage),
    "junk": ([b"SSH-2.0\r\n"], InvalidMessage),
    "reset": ([RESPONSE[:9], ConnectionResetError()], ConnectionResetError),
    "timeout": ([TimeoutError()], TimeoutError),
}


@pytest.mark.parametrize("incoming, exception", NO_RESPONSE.values(), ids=NO_RESPONSE)
def test_a_response_without_a_head(incoming, exception):
    stream = Shy(incoming)
    with pytest.raises(exception):
        drive(receive_response(stream, ResponseParser()), stream, READ)


def test_a_timeout_thrown_into_the_wait_for_a_body_only_cuts_it_off():
    stream = Shy([RESPONSE[:-2], b"unread"])
    steps = receive_response(stream, ResponseParser())
    next(steps)
    next(steps)
    with pytest.raises(StopIteration) as stop:
        steps.throw(TimeoutError())
    assert stop.value.value.body == b"bo"
