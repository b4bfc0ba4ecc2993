"""The Autobahn cases: served by kosoku, answered by a front end of wsmini, judged here.

python tests/interop/autobahn.py                        all of them, and a table of the verdicts
python tests/interop/autobahn.py --cases '1.*,6.4.3'    some; of those that fail, all that is known
python tests/interop/autobahn.py --front-end asyncio    another of those in autobahn_client.py
python tests/interop/autobahn.py --python python3.8     the client in another Python
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
from collections import Counter
from pathlib import Path

from autobahn_client import FRONT_ENDS
from process import Process, stopwatch

CLIENT = Path(__file__).resolve().with_name("autobahn_client.py")
TOTAL = 517
# These have no right outcome: 7.1.6 because sending and closing race there, 7.13.* because no RFC
# says what close codes from 5000 mean. No other case can end as informational.
INFORMATIONAL = {"7.1.6", "7.13.1", "7.13.2"}
TIMEOUT = 1800
DETAILS = """description expectation expected expectedClose received result resultClose
    wasNotCleanReason localCloseCode remoteCloseCode remoteCloseReason httpRequest httpResponse"""


def run(reports, cases=("*",), python=sys.executable, jobs=2, front_end="blocking"):
    """Have the server judge *cases*, with *jobs* clients at a time.

    Its report is left in the folder *reports*. Returns what the clients complained about.
    """
    kosoku = Path(sys.executable).with_name("kosoku")
    selection = [word for case in cases for word in ("-i", case)]
    command = [kosoku, "-m", "fuzzingserver", "127.0.0.1:0", "-o", reports, *selection]
    with Process("kosoku", command) as server, contextlib.ExitStack() as stack:
        url = server.wait_for(r"listening on (ws://\S+)").group(1)

        def client(*args):
            return stack.enter_context(Process("client", [python, "-bb", CLIENT, url, *args]))

        clients = [client("run", front_end, first, jobs) for first in range(1, jobs + 1)]
        for each in clients:
            each.wait(TIMEOUT)
        reporter = client("report")
        reporter.wait(30)
        server.wait(60)
        return "\n".join(each.output() for each in [*clients, reporter]).strip()


def load(reports):
    """What the server wrote about each case: a list of dicts, in the order of the cases."""
    found = [json.loads(path.read_text()) for path in Path(reports).glob("*_case_*.json")]
    return sorted(found, key=lambda case: case["case"])


def is_right(case):
    """Whether both verdicts are the best that the case can give."""
    verdicts = {case["behavior"], case["behaviorClose"]}
    return verdicts == {"INFORMATIONAL" if case["id"] in INFORMATIONAL else "OK"}


def table(cases):
    """The number of cases for each pair of verdicts, as text."""
    counts = Counter((case["behavior"], case["behaviorClose"]) for case in cases)
    rows = [("cases", "behaviour", "close"), *((n, *pair) for pair, n in counts.most_common())]
    return "\n".join("{:>6}  {:14}  {}".format(*row) for row in [*rows, (len(cases), "in all", "")])


def details(case, limit=1000):
    """All that helps to find out why *case* failed, as text."""
    lines = [f"case {case['id']}: {case['behavior']}, close {case['behaviorClose']}"]
    lines += [f"  {name}: {case[name]!s:.{limit}}" for name in DETAILS.split()]
    lines += [f"  wire: {entry!s:.100}" for entry in case["wirelog"][-20:]]
    return "\n".join(lines)


def judge(cases, complaints, total):
    """A table of the verdicts, and what is wrong: two texts, the second empty if nothing is."""
    wrong = [case for case in cases if not is_right(case)]
    problems = [details(case) for case in wrong[:5]]
    if wrong:
        problems.append("wrong: " + " ".join(case["id"] for case in wrong))
    if len(cases) != total:
        problems.append(f"{len(cases)} cases were run instead of {total}")
    if complaints:
        problems.append(f"the client said:\n{complaints}")
    return table(cases), "\n\n".join(problems)


def main():
    parser = argparse.ArgumentParser(description="Run the Autobahn cases against wsmini.")
    parser.add_argument("--cases", default="*", help="like 1.*,6.4.3 (default: all)")
    parser.add_argument("--python", default=sys.executable, help="interpreter of the client")
    parser.add_argument("--front-end", choices=FRONT_ENDS, default="blocking")
    parser.add_argument("--jobs", type=int, default=2, help="clients at a time (default: 2)")
    parser.add_argument("--keep-reports", metavar="DIR", help="leave the server's report there")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        reports = options.keep_reports or stack.enter_context(tempfile.TemporaryDirectory())
        elapsed = stopwatch()
        complaints = run(
            reports, options.cases.split(","), options.python, options.jobs, options.front_end
        )
        cases = load(reports)
    total = TOTAL if options.cases == "*" else max(1, len(cases))
    counts, problems = judge(cases, complaints, total)
    print(f"{counts}\n{elapsed():.0f} seconds")
    sys.exit(problems)


if __name__ == "__main__":
    main()
