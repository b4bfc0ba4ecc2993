"""Servers for blocking.py, in a process of their own: ``python blocking_server.py MODE [PEM]``.

echo       every message back
flood      send COUNT messages of 1 MiB, and only then read as many
exchange   send and read as many at the same time, in two threads
source     send one message of SIZE bytes, in one frame
messages   send SIZE bytes in messages of 1 MiB
sink       read one message, in fragments; answer with its size and whether it is right
away       ping every second; give the client up that doesn't answer within two
"""

from __future__ import annotations

import ssl
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from wsmini.testing import Opcode, echo_server, scripted_server  # noqa: E402

MIB = 1 << 20
COUNT = 100
SIZE = 1 << 30
PATTERN = bytes(range(251)) * (2 * MIB // 251 + 2)  # repeats where no buffer's size does


def pattern(position, size):
    """*size* bytes, at most 2 MiB, of what is sent from *position* on."""
    start = position % 251
    return memoryview(PATTERN)[start : start + size]


def send_all(peer):
    for number in range(COUNT):
        peer.send_message(bytes([number]) * MIB)


def receive_all(peer):
    for number in range(COUNT):
        assert peer.recv_message() == bytes([number]) * MIB


def flood(peer):
    peer.accept()
    send_all(peer)
    receive_all(peer)
    peer.close()


def exchange(peer):
    peer.accept()
    sending = threading.Thread(target=send_all, args=[peer])
    sending.start()
    receive_all(peer)
    sending.join()
    peer.close()


def source(peer):
    peer.accept()
    peer.send_raw(bytes([0x80 | Opcode.BINARY, 127]) + SIZE.to_bytes(8, "big"))
    for position in range(0, SIZE, MIB):
        peer.send_raw(pattern(position, MIB))
    peer.close()


def messages(peer):
    peer.accept()
    for position in range(0, SIZE, MIB):
        peer.send_message(bytes(pattern(position, MIB)))
    peer.close()


def sink(peer):
    peer.accept()
    size, right, fin = 0, True, False
    while not fin:
        received = peer.recv_frame()
        if received.opcode < 8:
            right = right and received.data == pattern(size, len(received.data))
            size, fin = size + len(received.data), received.fin
    peer.send_message(f"{size} {right}")
    peer.close()


def away(peer):
    peer.accept()
    peer.sock.settimeout(2)
    number = 0
    while True:
        number += 1
        peer.send_frame(Opcode.PING, b"%d" % number)
        answered = False
        while not answered:
            received = peer.recv_frame()
            if received.opcode == Opcode.CLOSE:
                peer.send_frame(Opcode.CLOSE, received.data)
                return
            answered = received.opcode == Opcode.PONG and received.data == b"%d" % number
        time.sleep(1)


def main(mode, pem=None):
    options = {}
    if pem is not None:
        options["ssl"] = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        options["ssl"].load_cert_chain(pem)
    scripts = {f.__name__: f for f in (flood, exchange, source, messages, sink, away)}
    if mode == "echo":
        server = echo_server(**options)
    else:
        server = scripted_server(scripts[mode], timeout=100, **options)
    with server:
        print(server.url, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
