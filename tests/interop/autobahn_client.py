"""Echo what the fuzzing server sends, one connection for each case; needs nothing but wsmini.

python autobahn_client.py URL run FIRST STEP    cases FIRST, FIRST + STEP, ... of those served
python autobahn_client.py URL callbacks FIRST STEP    the same with wsmini.Client
python autobahn_client.py URL report            ends the server, which then writes its report

autobahn.py runs it, with any Python that wsmini supports.
"""

from __future__ import annotations

import sys
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import wsmini
from wsmini.deflate import Deflate

AGENT = "wsmini"
# Cases 13.2, 13.5 and 13.6 only run with a client that offers client_no_context_takeover, which
# is not the default: a server that accepts the second offer costs compression.
OFFERS = [Deflate(), Deflate(client_no_context_takeover=True)]


def connect(url):
    return wsmini.connect(url, max_size=None, compression=None, extensions=OFFERS)


def case_count(url):
    with connect(url + "/getCaseCount") as ws:
        return int(ws.recv(timeout=10))


def run_case(url, number):
    try:
        with connect(f"{url}/runCase?case={number}&agent={AGENT}") as ws:
            for message in ws:
                ws.send(message)
    except wsmini.ConnectionClosed:
        pass  # Most cases break the protocol: the server's report says if the end was right.


def run_case_with_callbacks(url, number):
    wsmini.Client(
        f"{url}/runCase?case={number}&agent={AGENT}",
        on_message=lambda client, message: client.send(message),
        on_error=complain,
        reconnect=wsmini.NoReconnect(), max_size=None, max_send_buffer=1 << 28,
        compression=None, extensions=OFFERS,
    ).run_forever()  # fmt: skip


def complain(client, exc):
    if not isinstance(exc, wsmini.ConnectionClosed):  # as above
        raise exc


def run(url, first, step, run_case=run_case):
    failures = 0
    for number in range(int(first), case_count(url) + 1, int(step)):
        try:
            run_case(url, number)
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
    if command == "callbacks":
        command, rest = "run", [*rest, run_case_with_callbacks]
    sys.exit({"run": run, "report": report}[command](url, *rest))
