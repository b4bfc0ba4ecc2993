"""Coverage-guided fuzzing of the protocol with atheris, for as long as one likes.

    pip install atheris && python tests/fuzz/fuzz_protocol.py -max_total_time=600 [CORPUS]

The first byte chooses limits and extensions, the second one how the rest is cut into chunks.
"""

from __future__ import annotations

import pathlib
import sys

import atheris

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

with atheris.instrument_imports(include=["wsmini"]):
    from wsmini.sansio.deflate import PerMessageDeflate
    from wsmini.sansio.protocol import ClientProtocol

LIMITS = (None, 1, 125, 70000, (None, 100), (1000, 10))


def outcome(chunks, options):
    protocol = ClientProtocol(max_size=LIMITS[(options & 0x3F) % len(LIMITS)], ping_interval=None)
    protocol.open([PerMessageDeflate()] if options & 0x80 else [])
    if options & 0x40:
        protocol.reader._fast_limit = -1
    messages = []
    for chunk in chunks:
        protocol.receive_data(chunk)
        while protocol.pending:
            messages += protocol.next_messages()
    return messages, protocol.state, protocol.rcvd, protocol.sent, type(protocol.failure)


def test_one_input(data):
    if len(data) > 2:
        options, size, stream = data[0], data[1] + 1, data[2:]
        chunks = [stream[i : i + size] for i in range(0, len(stream), size)]
        # Cut or not, parsed the fast way or the plain one: no exception, and the same outcome.
        assert outcome([stream], options) == outcome(chunks, options ^ 0x40), data


if __name__ == "__main__":
    atheris.Setup(sys.argv, test_one_input)
    atheris.Fuzz()
