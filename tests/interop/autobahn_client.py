"""Echo what the fuzzing server sends, one connection for each case; needs nothing but wsmini.

python autobahn_client.py URL run FRONT_END FIRST STEP    cases FIRST, FIRST + STEP, ... of all
python autobahn_client.py URL report                      ends the server, which then reports

autobahn.py runs it, with any Python that wsmini supports.
"""

from __future__ import annotations

import asyncio
import sys
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import wsmini
import wsmini.aio
from wsmini.sansio.deflate import Deflate

AGENT = "wsmini"
# Cases 13.2, 13.5 and 13.6 only run with a client that offers client_no_context_takeover, which
# is not the default: a server that accepts the second offer costs compression.
OFFERS = [Deflate(), Deflate(client_no_context_takeover=True)]
OPTIONS = {"max_size": None, "compression": None, "extensions": OFFERS}


def connect(url):
    return wsmini.connect(url, **OPTIONS)


def case_count(url):
    with connect(url + "/getCaseCount") as ws:
        return int(ws.recv(timeout=10))


def run_blocking(url):
    with connect(url) as ws:
        for message in ws:
            ws.send(message)


def run_callbacks(url):
    def complain(client, exc):
        raise exc

    wsmini.Client(
        url, on_message=lambda client, message: client.send(message), on_error=complain,
        reconnect=wsmini.NoReconnect(), max_send_buffer=1 << 28, **OPTIONS,
    ).run_forever()  # fmt: skip


def run_asyncio(url):
    async def main():
        async with wsmini.aio.connect(url, **OPTIONS) as ws:
            async for message in ws:
                await ws.send(message)

    asyncio.run(main())


def run_uvloop(url):
    import uvloop

    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    run_asyncio(url)


FRONT_ENDS = {
    "blocking": run_blocking,
    "callbacks": run_callbacks,
    "asyncio": run_asyncio,
    "uvloop": run_uvloop,
}


def run(url, front_end, first, step):
    failures = 0
    for number in range(int(first), case_count(url) + 1, int(step)):
        try:
            FRONT_ENDS[front_end](f"{url}/runCase?case={number}&agent={AGENT}")
        except wsmini.ConnectionClosed:
            pass  # Most cases break the protocol: the server's report says if the end was right.
        except Exception:
            failures += 1
            print(f"case number {number}:", file=sys.stderr)
            traceback.print_exc()
    return 1 if failures else 0


def report(url):
    try:
        with connect(f"{url}/updateReports?agent={AGENT}") as ws:
            for _ in ws:
                pass
    except wsmini.ConnectionClosed:
        pass  # It leaves without a word.
    return 0


if __name__ == "__main__":
    url, command, *rest = sys.argv[1:]
    sys.exit({"run": run, "report": report}[command](url, *rest))
