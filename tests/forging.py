"""TLS 1.3 records as no library would send them: for servers that attack.

A server of ``ssl`` makes the handshake; from there on its records are made here, from the secret
that it logs. So any message can be sent, and any number of them.
"""

from __future__ import annotations

import hashlib
import hmac
import ssl

import pytest

forges = pytest.mark.skipif(
    not (ssl.HAS_TLSv1_3 and hasattr(ssl.SSLContext, "num_tickets")),
    reason="TLS 1.3 in CPython's way is needed",
)

APPLICATION_DATA, HANDSHAKE, ALERT = 23, 22, 21
NEW_SESSION_TICKET, CERTIFICATE_REQUEST, KEY_UPDATE = 4, 13, 24  # RFC 8446, 4
SIGNATURE_ALGORITHMS = 13  # an extension: RFC 8446, 4.2


class Forger:
    """Makes the records that the server's side of a connection sends after its handshake.

    Args:
        key_log: the ``keylog_filename`` of the server's context, which sends no tickets.
        cipher: its name, such as ``"TLS_AES_256_GCM_SHA384"``.
        sent: how many records the engine has sent since the handshake.
    """

    def __init__(self, key_log, cipher, sent=0):
        self._hash = hashlib.sha384 if cipher.endswith("SHA384") else hashlib.sha256
        self._key_size = 32 if "256_GCM" in cipher else 16
        with open(key_log, encoding="ascii") as file:
            secrets = [line.split()[2] for line in file if line.startswith("SERVER_TRAFFIC_SE")]
        self._use(bytes.fromhex(secrets[-1]))
        self._sequence = sent

    def _use(self, secret):
        self._secret, self._sequence = secret, 0
        self._seal = sealer(self._expand(b"key", self._key_size))
        self._iv = int.from_bytes(self._expand(b"iv", 12), "big")

    def _expand(self, label, size):
        """HKDF-Expand-Label for so little that one round gives it: RFC 8446, 7.1."""
        label = b"tls13 " + label
        info = size.to_bytes(2, "big") + bytes((len(label),)) + label + b"\0\1"
        return hmac.new(self._secret, info, self._hash).digest()[:size]

    def record(self, data, kind=APPLICATION_DATA):
        """A record with *data*, which may be empty: RFC 8446, 5.2."""
        head = b"\x17\3\3" + (len(data) + 17).to_bytes(2, "big")
        nonce = (self._iv ^ self._sequence).to_bytes(12, "big")
        self._sequence += 1
        return head + self._seal(nonce, data + bytes((kind,)), head)

    def messages(self, kind, bodies):
        """A record with messages of the handshake."""
        parts = [bytes((kind,)) + len(body).to_bytes(3, "big") + body for body in bodies]
        return self.record(b"".join(parts), HANDSHAKE)

    def key_update(self, answered=False):
        """A record that says that the next one has another key; the client has to do the same."""
        record = self.messages(KEY_UPDATE, [bytes((answered,))])
        self._use(self._expand(b"traffic upd", self._hash().digest_size))
        return record

    def ticket(self):
        """The body of a ticket: RFC 8446, 4.6.1."""
        return bytes(4) + bytes(4) + b"\1n" + b"\0\1t" + b"\0\0"

    def certificate_request(self, number):
        """The body of a request for the client's certificate: RFC 8446, 4.3.2."""
        algorithms = bytes.fromhex("0804 0805 0403 0503")  # RSA-PSS, ECDSA
        algorithms = len(algorithms).to_bytes(2, "big") + algorithms
        extension = SIGNATURE_ALGORITHMS.to_bytes(2, "big") + len(algorithms).to_bytes(2, "big")
        extension += algorithms
        context = number.to_bytes(4, "big")
        return bytes((4,)) + context + len(extension).to_bytes(2, "big") + extension


def forging_context(context, folder):
    """*context*, a server's, for connections whose records a ``Forger`` makes; and the key log."""
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    context.keylog_filename = str(folder / "keys")
    return context.keylog_filename


# -- AES-GCM: FIPS 197, and NIST SP 800-38D --


def _boxes():
    """The S-box, and the tables of a round."""
    logs, powers, x = [0] * 256, [0] * 256, 1
    for power in range(255):
        powers[power], logs[x] = x, power
        x ^= (x << 1) ^ (0x11B if x & 0x80 else 0)
        x &= 0xFF
    box = []
    for x in range(256):
        y = powers[255 - logs[x]] % 256 if x > 1 else x
        y |= y << 8
        box.append((y ^ y >> 4 ^ y >> 5 ^ y >> 6 ^ y >> 7) & 0xFF ^ 0x63)
    tables = []
    for turn in range(4):
        table = []
        for y in box:
            double = (y << 1 ^ (0x11B if y & 0x80 else 0)) & 0xFF
            word = double << 24 | y << 16 | y << 8 | double ^ y
            table.append((word >> 8 * turn | word << 32 - 8 * turn) & 0xFFFFFFFF)
        tables.append(table)
    return box, tables


BOX, TABLES = _boxes()


def _round_keys(key):
    size = len(key) // 4
    words = [int.from_bytes(key[i : i + 4], "big") for i in range(0, len(key), 4)]
    constant = 1
    for i in range(size, 4 * (size + 7)):
        word = words[-1]
        if i % size == 0:
            word = (word << 8 | word >> 24) & 0xFFFFFFFF
        if i % size == 0 or (size > 6 and i % size == 4):
            word = sum(BOX[word >> shift & 0xFF] << shift for shift in (0, 8, 16, 24))
        if i % size == 0:
            word ^= constant << 24
            constant = (constant << 1) ^ (0x11B if constant & 0x80 else 0)
        words.append(words[-size] ^ word)
    return words


def _block(words, data):
    """The AES block *data*, a number, encrypted."""
    a, b, c, d = TABLES
    state = [data >> shift & 0xFFFFFFFF ^ words[i] for i, shift in enumerate((96, 64, 32, 0))]
    for at in range(4, len(words) - 4, 4):
        state = [
            a[state[i] >> 24] ^ b[state[i - 3] >> 16 & 255] ^ c[state[i - 2] >> 8 & 255]
            ^ d[state[i - 1] & 255] ^ words[at + i]
            for i in range(4)
        ]  # fmt: skip
    out = 0
    for i in range(4):
        word = BOX[state[i] >> 24] << 24 | BOX[state[i - 3] >> 16 & 255] << 16
        word |= BOX[state[i - 2] >> 8 & 255] << 8 | BOX[state[i - 1] & 255]
        out = out << 32 | word ^ words[i - 4]
    return out


def sealer(key):
    """A function that takes a nonce, a text and what else is authenticated: text and tag."""
    words = _round_keys(key)
    h = _block(words, 0)
    multiples = []  # of h: by each bit
    for _ in range(128):
        multiples.append(h)
        h = h >> 1 ^ (0xE1 << 120 if h & 1 else 0)

    def digest(data):
        y = 0
        for at in range(0, len(data), 16):
            x, y = y ^ int.from_bytes(data[at : at + 16], "big"), 0
            for i, multiple in enumerate(multiples):
                if x >> 127 - i & 1:
                    y ^= multiple
        return y

    def seal(nonce, text, other):
        counter = int.from_bytes(nonce, "big") << 32
        blocks = -(-len(text) // 16)
        stream = b"".join(_block(words, counter + i + 2).to_bytes(16, "big") for i in range(blocks))
        sealed = bytes(map(int.__xor__, text, stream))
        padded = b"".join(part + bytes(-len(part) % 16) for part in (other, sealed))
        sizes = (8 * len(other)).to_bytes(8, "big") + (8 * len(sealed)).to_bytes(8, "big")
        tag = digest(padded + sizes) ^ _block(words, counter + 1)
        return sealed + tag.to_bytes(16, "big")

    return seal
