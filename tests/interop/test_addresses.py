"""Names with several addresses, some of which lead nowhere, and resolvers that don't answer."""

from __future__ import annotations

import contextlib
import socket
import threading

import pytest
from helpers import PATIENCE, PROMPT
from process import stopwatch
from witness import FAMILIES, blackhole, free_port, is_direct, seen

import wsmini

pytest_plugins = ["proxies"]

NAME = "several.example"


@pytest.fixture
def name(monkeypatch):
    """Give NAME addresses; it is the only one that there is."""
    addresses = []
    getaddrinfo = socket.getaddrinfo

    def look_up(host, port, *args, flags=0, **options):
        if host != NAME:  # a str, as http.client passes it
            return getaddrinfo(host, port, *args, flags=flags, **options)
        if flags & socket.AI_NUMERICHOST or not addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        tcp = socket.SOCK_STREAM, socket.IPPROTO_TCP, ""
        return [(FAMILIES[address[0]], *tcp, address) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return addresses.extend


@pytest.mark.parametrize("scheme", ("ws", "wss"))
@pytest.mark.parametrize("delay", (0.05, 0.25))
@pytest.mark.parametrize(
    "holes", (("::1",), ("127.0.0.1",), ("::1", "127.0.0.2")), ids=("v6", "v4", "both")
)
def test_addresses_that_lead_nowhere(software, trust, name, holes, delay, scheme):
    with contextlib.ExitStack() as stack:
        try:
            name([stack.enter_context(blackhole(host)) for host in holes])
        except OSError:
            pytest.skip("there is no ::1 here")
        name([("127.0.0.1", software.port("witness", scheme))])
        options = {"happy_eyeballs_delay": delay, "server_hostname": "localhost", "ssl": trust}
        elapsed = stopwatch()
        with wsmini.connect(f"{scheme}://{NAME}:1/", **options):
            # Families in turn: the one that works is the second of its own. And nobody waits until
            # an address that leads nowhere fails.
            assert delay * len(holes) <= elapsed() < PROMPT


def test_addresses_of_a_proxy_that_lead_nowhere(software, name):
    with blackhole("127.0.0.1") as hole:
        name([hole, ("127.0.0.1", software.port("squid", "plain"))])
        url = f"ws://127.0.0.1:{software.port('witness', 'ws')}/request"
        with wsmini.connect(url, proxy=f"http://{NAME}:1") as ws:
            assert not is_direct(ws, seen(ws))
            assert ws.timings["tcp"] < PROMPT


def test_addresses_that_refuse_cost_no_time(software, name):
    name([("127.0.0.1", free_port()), ("127.0.0.2", free_port())])
    name([("127.0.0.1", software.port("witness", "ws"))])
    elapsed = stopwatch()
    with wsmini.connect(f"ws://{NAME}/", happy_eyeballs_delay=2 * PROMPT):
        assert elapsed() < PROMPT


def test_a_slow_one_is_waited_for_if_the_others_fail(name):
    with blackhole("127.0.0.1") as hole:
        name([hole, ("127.0.0.1", free_port())])
        with pytest.raises(TimeoutError) as info:
            wsmini.connect(f"ws://{NAME}/", open_timeout=0.5, happy_eyeballs_delay=0.05)
    assert info.value.phase == "tcp"


def test_no_address_that_answers(name):
    timeout = PROMPT / 2  # for all of them together, not for each
    with contextlib.ExitStack() as stack:
        name([stack.enter_context(blackhole("127.0.0.1")) for _ in range(3)])
        elapsed = stopwatch()
        with pytest.raises(TimeoutError, match=rf"tcp: {NAME}:80") as info:
            wsmini.connect(f"ws://{NAME}/", open_timeout=timeout)
        assert timeout <= elapsed() < 2 * timeout
    assert info.value.phase == "tcp"
    assert "firewall" in info.value.hint


def test_no_address_that_listens(name):
    ports = [free_port(), free_port()]
    name([("127.0.0.1", ports[0]), ("127.0.0.2", ports[1])])
    with pytest.raises(ConnectionRefusedError) as info:
        wsmini.connect(f"ws://{NAME}/")
    assert f"127.0.0.1:{ports[0]}" in str(info.value)
    assert f"127.0.0.2:{ports[1]}" in str(info.value)


def test_a_name_without_addresses(name):
    with pytest.raises(socket.gaierror, match=rf"dns: {NAME}:80.*spelt") as info:
        wsmini.connect(f"ws://{NAME}/")
    assert info.value.phase == "dns"


def test_the_address_to_connect_from(software):
    url = f"ws://127.0.0.1:{software.port('witness', 'ws')}/request"
    with wsmini.connect(url, source_address=("127.0.0.2", 0)) as ws:
        report = seen(ws)
        assert is_direct(ws, report)
    assert report["peer"][0] == "127.0.0.2"


# -- resolvers that don't answer --


@pytest.fixture
def hanging(monkeypatch):
    """A resolver that takes as long as the test."""
    answer = threading.Event()

    def hang(host, *args, flags=0, **options):
        if not flags & socket.AI_NUMERICHOST:
            answer.wait(2 * PATIENCE)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    yield
    answer.set()
    for thread in threading.enumerate():
        if thread.name.startswith("wsmini-"):
            thread.join(10)


@pytest.mark.parametrize(
    "proxy", (None, "http://slow.example:1", "socks5h://slow.example", "socks5://127.0.0.1:1")
)
def test_a_resolver_that_hangs(hanging, proxy):
    elapsed = stopwatch()
    with pytest.raises(TimeoutError, match=r"\(dns: ") as info:
        wsmini.connect(f"wss://{NAME}/", open_timeout=1, proxy=proxy)
    assert 1 <= elapsed() < 1 + PROMPT
    assert info.value.phase == "dns"
    assert "DNS" in info.value.hint


def test_many_names_at_once(hanging):
    for _ in range(100):
        with pytest.raises(OSError, match=r"\(dns: "):
            wsmini.connect(f"ws://{NAME}/", open_timeout=0.001)
