"""What the benchmarks send and receive: the same bytes in each run, and how to check them."""

from __future__ import annotations

import json
import random
import struct
import zlib
from itertools import accumulate
from pathlib import Path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterable, List, Sequence, Union

    Message = Union[str, bytes]

CYCLE = 262144  # bytes in a ring of short messages: the server writes so many at once
WORD = (1 << 64) - 1


def _text(seed: random.Random, size: int) -> str:
    return "".join(seed.choices("abcdefghijklmnopqrstuvwxyz 0123456789", k=size))


def _binary(seed: random.Random, size: int) -> bytes:
    return seed.getrandbits(8 * size).to_bytes(size, "little")


def _json(seed: random.Random, size: int) -> str:
    """Like the ticks of a market: much the same, never equal."""
    items = []
    while len(json.dumps(items)) < size - 60:
        items.append({
            "id": seed.randrange(10**9), "symbol": seed.choice("BTC ETH XRP LTC SOL".split()),
            "price": round(seed.uniform(1, 50000), 2), "side": seed.choice(("buy", "sell")),
        })  # fmt: skip
    return json.dumps(items)


# Name -> (how a message is made, bytes of it, how many there are).
_MAKERS = {
    "text-32": (_text, 32, 1),
    "text-1k": (_text, 1024, 1),
    "text-1m": (_text, 1 << 20, 1),
    "text-100": (_text, 100, CYCLE // 100),
    "binary-4k": (_binary, 4096, CYCLE // 4096),
    "binary-1m": (_binary, 1 << 20, 4),
    "binary-64m": (_binary, 1 << 26, 1),
    "json-1k": (_json, 1024, CYCLE // 1024),
}


def messages(name: str) -> List[Message]:
    """The messages of a ring, in turn."""
    make, size, count = _MAKERS[name]
    seed = random.Random(name)
    return [make(seed, size) for _ in range(count)]


def encoded(message: Message) -> bytes:
    return message.encode() if isinstance(message, str) else message


def frame(head: int, data: bytes) -> bytes:
    """A server's frame."""
    n = len(data)
    if n < 126:
        return bytes((head, n)) + data
    return struct.pack(">BBH" if n < 65536 else ">BBQ", head, 126 if n < 65536 else 127, n) + data


def write_rings(folder: str) -> None:
    """The files that the server floods from; of text that is compressed, also ``NAME.deflate``."""
    for name in _MAKERS:
        ring = messages(name)
        head = 0x81 if isinstance(ring[0], str) else 0x82
        with open(Path(folder, name), "wb") as file:
            file.writelines(frame(head, encoded(message)) for message in ring)
        if name.startswith("json"):
            deflater = zlib.compressobj(wbits=-12)
            # A second turn refers back to the first as all later ones do to the one before.
            for suffix in ("deflate.first", "deflate"):
                with open(Path(folder, f"{name}.{suffix}"), "wb") as file:
                    for message in ring:
                        data = deflater.compress(encoded(message))
                        data += deflater.flush(zlib.Z_SYNC_FLUSH)
                        file.write(frame(0xC1, data[:-4]))


def receipt(sent: Sequence[Message], count: int) -> str:
    """What the server's sink answers to *count* messages, *sent* in turn."""
    sums = []
    for message in sent:
        data = encoded(message)
        words = struct.unpack(f"<{(len(data) + 7) // 8}Q", data + bytes(-len(data) % 8))
        sums.append((sum(words) + 7 * sum(accumulate(words))) & WORD)
    checksum = 0
    for value in _turns(sums, count):
        checksum = (checksum * 31 + value) & WORD
    lengths = [len(encoded(message)) for message in sent]
    return f"{count} {sum(_turns(lengths, count))} {checksum}"


def _turns(values: Sequence[int], count: int) -> Iterable[int]:
    from itertools import cycle, islice

    return islice(cycle(values), count)
