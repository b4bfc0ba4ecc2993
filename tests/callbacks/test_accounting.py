"""What a client has accepted is with the socket, or unsent, in order: seeded random schedules of
sends (from the loop, from threads), stalls, cuts, closes and reconnects, plain and over TLS.

``WSMINI_TEST_SCHEDULES=10000`` for more of them, of each kind."""

from __future__ import annotations

import os
import random
import socket
import threading
from types import SimpleNamespace

import fakes
import pytest
from helpers import SEED
from joined import End, handshake

from wsmini.callbacks.client import Client
from wsmini.callbacks.loop import Loop
from wsmini.exceptions import ConnectionClosed, InvalidState, SendBufferFull
from wsmini.opening.streams import SocketStream
from wsmini.policies import Fixed
from wsmini.sansio.frames import Opcode
from wsmini.sansio.protocol import State
from wsmini.testing import frame

# TLS takes several times as long as plain.
SCHEDULES = [int(os.environ.get("WSMINI_TEST_SCHEDULES") or some) for some in (40, 10)]


class Server(End):
    def messages(self):
        """Whole ones: what the peer has of a message that was cut doesn't count."""
        return [data.decode() for opcode, data in whole_frames(self.wire) if opcode == Opcode.TEXT]


def whole_frames(data):
    found, at = [], 0
    while at + 2 <= len(data):
        n, begin = data[at + 1] & 127, at + 2
        if n > 125:
            begin += 2 if n == 126 else 8
            n = int.from_bytes(data[at + 2 : begin], "big")
        end = begin + 4 + n
        if end > len(data):
            break
        found.append((data[at] & 15, unmask(data[begin : begin + 4], data[begin + 4 : end])))
        at = end
    return found


def unmask(key, payload):
    pad = key * (len(payload) // 4 + 1)
    number = int.from_bytes(payload, "big") ^ int.from_bytes(pad[: len(payload)], "big")
    return number.to_bytes(len(payload), "big")


class Schedule:
    def __init__(self, seed, tls):
        self.rng, self.tls = random.Random(seed), tls
        self.clock = fakes.Clock()
        self.loop = Loop(clock=self.clock, wall=self.clock.wall)
        self.servers, self.accepted, self.refused, self.number = [], [], 0, 0
        self.returned, self.cut = [], False
        self.client = Client(
            "ws://localhost", reconnect=Fixed(1), outbox=self.rng.choice([0, 3, 50]),
            max_send_buffer=self.rng.choice([2000, 1 << 20]), ping_interval=None,
            on_open=self.on_open, on_message=self.on_message, on_close=self.on_close,
            on_error=lambda client, exc: None,
        )  # fmt: skip
        self.client._steps = self.steps

    def steps(self):
        if self.rng.random() < 0.2:
            raise ConnectionRefusedError(111, "no")
        ours, theirs = socket.socketpair()
        for sock, option in ((ours, socket.SO_SNDBUF), (theirs, socket.SO_RCVBUF)):
            sock.setsockopt(socket.SOL_SOCKET, option, 4096)
        theirs.setblocking(False)
        stream, engine = (SocketStream(ours), None) if not self.tls else handshake(theirs)(ours)
        self.servers.append(Server(theirs, engine))
        opened = fakes.opened(stream)
        opened.request = opened.response = SimpleNamespace(headers=())
        return opened
        yield

    def on_open(self, client):
        self.send("first")  # in front of what was kept

    def on_message(self, client, message):
        self.send()

    def on_close(self, client, code, reason):
        self.returned += client.unsent

    def send(self, kind=""):
        size = self.rng.choice([0, 10, 10, 300, 5000, 70000])
        message = f"{self.number:06d}{kind}" + "x" * size
        self.number += 1
        try:
            self.client.send(message)
        except (ConnectionClosed, InvalidState, SendBufferFull):
            self.refused += 1
        else:
            self.accepted.append(message)

    def step(self):
        rng = self.rng
        action = rng.choice("send send send thread take take take drain say cut close time".split())
        server = self.servers[-1] if self.servers else None
        if action == "send":
            self.loop.call_soon(self.send)
        elif action == "thread":
            thread = threading.Thread(target=self.send)
            thread.start()
            thread.join()
        elif action == "take" and server:
            server.take(rng.choice([100, 5000, 70000]))
        elif action == "drain" and server:
            for _ in range(100):
                server.take(70000)
        elif action == "say" and server:
            server.send(frame(Opcode.TEXT, b"hello"))
        elif action == "cut" and server and rng.random() < 0.2:
            self.drain(server)
            server.sock.close()
        elif action == "close" and server and rng.random() < 0.2:
            server.send(frame(Opcode.CLOSE, b"\x03\xe9"))
        elif action == "time":
            self.clock.now += rng.random() * 2
        for _ in range(rng.randrange(4)):
            self.loop.run_once(0)

    def drain(self, server):
        """Take what the client's socket has: what is there when it is cut is lost otherwise."""
        while server.sock.fileno() >= 0:
            before = len(server.wire)
            more = server.take(1 << 20)
            if not more or len(server.wire) == before:
                break

    def run(self):
        self.client.start(self.loop)
        for _ in range(self.rng.randrange(10, 80)):
            self.step()
        self.client.close()
        for _ in range(60):
            for server in self.servers:
                self.drain(server)
            if self.servers and self.rng.random() < 0.3:
                self.servers[-1].send(frame(Opcode.CLOSE, b"\x03\xe8"))
            self.loop.run_once(0)
            self.clock.now += 0.5
        assert self.client.state is State.CLOSED and not self.client._running
        self.loop.close()

    def check(self):
        got = [message for server in self.servers for message in server.messages()]
        unsent = self.client.unsent
        handed_back = [message for message in self.returned if message not in unsent] + unsent
        both = got + handed_back
        assert sorted(set(both)) == sorted(self.accepted), "lost"
        for messages in [server.messages() for server in self.servers] + [unsent]:
            others = [message for message in messages if "first" not in message]
            assert others == sorted(others), "order"
        for server in self.servers:
            server.sock.close()
        return len(both) - len(set(both))


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_what_is_accepted_is_sent_or_unsent(tls):
    if tls:
        pytest.importorskip("ssl")
    doubled = 0
    for number in range(SCHEDULES[tls]):
        seed = SEED * 1000003 + number
        schedule = Schedule(seed, tls)
        try:
            schedule.run()
            doubled += schedule.check()
        except AssertionError as exc:
            raise AssertionError(f"seed {seed}: {exc}") from exc
    assert doubled == 0
