"""A server in a process of its own, on ``wsmini.Loop``, so that only clients are measured.

python server.py drop      accept each connection and drop it
python server.py echo      echo small unfragmented messages, answer pings; never close
"""

from __future__ import annotations

import base64
import hashlib
import resource
import socket
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from wsmini.callbacks.loop import Loop  # noqa: E402

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Connection:
    def __init__(self, loop, sock, drop):
        self.loop, self.sock, self.drop = loop, sock, drop
        self.data, self.is_open = b"", False
        loop.add_reader(sock, self.read)

    def read(self):
        try:
            data = self.sock.recv(65536)
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        self.data += data
        if not self.is_open:
            if b"\r\n\r\n" not in self.data:
                return
            self.accept()
        out = b"".join(self.answers())
        try:
            self.sock.sendall(out)
        except OSError:
            self.close()  # the client has left

    def accept(self):
        head, _, self.data = self.data.partition(b"\r\n\r\n")
        key = head.lower().split(b"sec-websocket-key: ")[1].split(b"\r\n")[0]
        start = head.lower().index(key)
        key = head[start : start + len(key)]
        accept = base64.b64encode(hashlib.sha1(key + GUID).digest())
        self.sock.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
        )
        self.is_open = True
        if self.drop:
            self.close()

    def answers(self):
        while len(self.data) >= 6 and len(self.data) >= 6 + (self.data[1] & 127):
            head, size = self.data[0], self.data[1] & 127
            mask, payload = self.data[2:6] * 32, self.data[6 : 6 + size]
            self.data = self.data[6 + size :]
            payload = bytes(a ^ b for a, b in zip(payload, mask))
            yield bytes([0x8A if head == 0x89 else head, size]) + payload

    def close(self):
        self.loop.remove_reader(self.sock)
        self.sock.close()


def main(mode):
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    with Loop() as loop, socket.create_server(("127.0.0.1", 0), backlog=4096) as listener:
        listener.setblocking(False)

        def accept():
            sock, _ = listener.accept()
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            Connection(loop, sock, mode == "drop")

        loop.add_reader(listener, accept)
        loop.add_reader(sys.stdin, loop.stop)
        print(f"ws://127.0.0.1:{listener.getsockname()[1]}", flush=True)
        loop.run_forever()


if __name__ == "__main__":
    main(sys.argv[1])
