"""Connections to one of many addresses."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
import tempfile
import time

import pytest
from helpers import PATIENCE, PROMPT
from listeners import address_of, finish, listener

from wsmini.opening.resolver import resolve
from wsmini.opening.steps import run_blocking
from wsmini.opening.streams import WRITE, wait
from wsmini.opening.tcp import configure, connect_tcp, interleaved

has_ipv6 = pytest.mark.skipif(not socket.has_ipv6, reason="this Python has no IPv6")


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


def test_one_that_can_not_be_tried_takes_no_turn(servers, clock):
    first, second, _ = servers
    broken = (-1, socket.SOCK_STREAM, 0, "", ("x", 1))
    steps = connect_tcp([address_of(first), broken, address_of(second)], delay=0.25)
    assert next(steps).deadline == 1000.25
    clock.now = 1000.25
    wanted = steps.send([])
    assert (len(wanted.sockets), wanted.deadline) == (2, None)
    steps.close()


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
