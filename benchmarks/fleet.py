"""A fleet that is cut off, simulated: how it comes back, by the policy of its clients.

    python3 benchmarks/fleet.py [--clients 1000000] [--only NAME] [--svg docs/fleet.svg]

All clients lose their connections at second 0. The server admits so many of them a second (a 200th
of the fleet) and refuses the others with 503, with or without ``Retry-After``; a minute later it
loses all connections once more. No socket is opened: the policies are wsmini's own, on a clock that
the simulation moves, and what is random comes from a seed, so each run gives the same. Times depend
on clients divided by admissions alone: another ``--clients`` gives the same table, sooner.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from wsmini import Backoff, ConnectionClosedError, Fixed, Headers, InvalidStatus
from wsmini.sansio.http11 import Response

STEP = 0.02  # seconds of a turn of the simulation
AGAIN = 60.0  # seconds until all are cut off for the second time
TURNS = 200  # seconds that it takes to admit all, one after the other
HORIZON = 1800.0  # seconds until the simulation gives up
LATENCY = 0.1  # seconds of an attempt, and up to as much again: a property of each client

# Name in the table -> the policy's class and its options.
POLICIES = {
    "Backoff()": (Backoff, {}),
    "Backoff(maximum=300)": (Backoff, {"maximum": 300.0}),
    "Backoff(initial=5)": (Backoff, {"initial": 5.0}),
    "Backoff(initial=20)": (Backoff, {"initial": 20.0}),
    "Backoff(initial=20, maximum=200)": (Backoff, {"initial": 20.0, "maximum": 200.0}),
    "Backoff(initial=200, maximum=800)": (Backoff, {"initial": 200.0, "maximum": 800.0}),
    "Fixed(60, jitter='full')": (Fixed, {"delay": 60.0, "jitter": "full"}),
    "every 5 s": (Fixed, {"delay": 5.0}),
    "1 s, 2 s, ... 60 s, no jitter": (Backoff, {"initial": 1.0, "jitter": None}),
}
HABITS = ("every 5 s", "1 s, 2 s, ... 60 s, no jitter")  # of other clients
SHOWN = ("Backoff()", "Backoff(initial=5)", "Backoff(initial=20, maximum=200)", *HABITS)


class Fleet:
    """So many clients with one policy, and the server that they want back."""

    def __init__(self, make, options, clients, retry_after, seed=1):
        self.now = -3600.0
        policy = make(**options)
        policy._random, policy._clock = random.Random(seed).random, lambda: self.now
        headers = [] if retry_after is None else [("Retry-After", str(retry_after))]
        self.refused = InvalidStatus(Response(503, "", Headers(headers)))
        self.lost = ConnectionClosedError(None, None)
        self.counts = [policy.start() for _ in range(clients)]
        self.due = defaultdict(list)  # turn -> the clients that try then
        self.attempts = defaultdict(int)  # second -> how many tried
        self.connected = set()
        self.refusals = 0
        self.rate = clients / TURNS
        for count in self.counts:
            count.opened()
        self.now = 0.0

    def wait(self, client, failure):
        """Have *client* try again when its policy says."""
        delay = self.counts[client].next_delay(failure)
        latency = LATENCY * (1 + client % 16 / 16)
        self.due[int((self.now + delay + latency) / STEP) + 1].append(client)

    def run(self):
        """Simulate; the seconds from each cut until 50% and 99% of the clients were back."""
        back = []
        for start, end in ((0.0, AGAIN), (AGAIN, HORIZON)):
            self.now = start
            cut = self.connected if start else range(len(self.counts))
            self.connected = set()
            for client in cut:
                self.wait(client, self.lost)
            back.append(self.until(start, end))
        return back

    def until(self, start, end):
        clients, room = len(self.counts), 0.0
        reached = {}
        for turn in range(int(start / STEP) + 1, int(end / STEP) + 1):
            self.now = turn * STEP
            room = min(room + self.rate * STEP, self.rate)
            trying = self.due.pop(turn, ())
            self.attempts[int(self.now)] += len(trying)
            for client in trying:
                if room >= 1:
                    room -= 1
                    self.connected.add(client)
                    self.counts[client].opened()
                else:
                    self.refusals += 1
                    self.wait(client, self.refused)
            for share in (50, 99):
                if share not in reached and len(self.connected) * 100 >= clients * share:
                    reached[share] = self.now - start
            if 99 in reached:
                break
        return reached


def simulate(name, clients, retry_after):
    """The row of the table for one policy, and the attempts in each second."""
    make, options = POLICIES[name]
    fleet = Fleet(make, options, clients, retry_after)
    back = fleet.run()[1]
    peak = max(fleet.attempts.values())
    half, nearly_all = (
        f"{back[share]:,.0f} s" if share in back else f"> {HORIZON:,.0f} s" for share in (50, 99)
    )
    shown = name if name in HABITS else f"`{name}`"
    row = (
        f"| {shown} | {retry_after or 'none'} | {peak / fleet.rate:,.0f} |"
        f" {fleet.refusals / clients:,.1f} | {half} | {nearly_all} |"
    )
    return row, fleet.attempts, fleet.rate


WIDTH, HEIGHT, LEFT, TOP, LEGEND = 700, 360, 60, 24, 260  # of the picture
COLORS = ("#1b6ca8", "#27864a", "#8e44ad", "#b9770e", "#c0392b")
SECONDS, LEAST, MOST = 600, 0.1, 1000.0  # of its axes


def text(x, y, words, **attributes):
    """A text of the picture."""
    more = "".join(f' {name.replace("_", "-")}="{value}"' for name, value in attributes.items())
    return f'<text x="{x:.0f}" y="{y:.0f}"{more}>{words}</text>'


def picture(curves):
    """An SVG: attempts a second in multiples of what the server admits, on a logarithmic axis."""

    def x(second):
        return LEFT + (WIDTH - LEFT) * second / SECONDS

    def y(multiple):
        return TOP + HEIGHT * (1 - math.log(max(multiple, LEAST) / LEAST) / math.log(MOST / LEAST))

    width, height, bottom = WIDTH + LEGEND, HEIGHT + TOP + 50, TOP + HEIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"'
        ' font-family="sans-serif" font-size="13">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        text(4, 14, "attempts a second / admissions a second"),
        text((LEFT + WIDTH) / 2, bottom + 42, "seconds", text_anchor="middle"),
    ]
    for multiple in (0.1, 1, 10, 100, 1000):
        parts.append(f'<path d="M{LEFT} {y(multiple):.0f}H{WIDTH}" stroke="#ccc"/>')
        parts.append(text(LEFT - 8, y(multiple) + 4, f"{multiple:g}", text_anchor="end"))
    for second in range(0, SECONDS + 1, 60):
        parts.append(text(x(second), bottom + 20, second, text_anchor="middle"))
    for number, (name, (attempts, rate)) in enumerate(curves.items()):
        points = " ".join(
            f"{x(second):.0f},{y(attempts.get(second, 0) / rate):.0f}" for second in range(SECONDS)
        )
        color = COLORS[number % len(COLORS)]
        parts.append(f'<polyline points="{points}" fill="none" stroke="{color}"/>')
        parts.append(text(WIDTH + 12, TOP + 20 + 22 * number, name, fill=color))
    return "\n".join([*parts, "</svg>", ""])


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--clients", type=int, default=1_000_000)
    parser.add_argument("--only", help="policies with this in their names")
    parser.add_argument("--svg", help="where to write the picture")
    args = parser.parse_args()
    print("| policy | `Retry-After` | peak | refusals a client | 50% back | 99% back |")
    print("| --- | --- | --- | --- | --- | --- |")
    curves = {}
    for name in POLICIES:
        if args.only and args.only not in name:
            continue
        for retry_after in (None, 30):
            if retry_after and name in HABITS:
                continue  # they don't look at it
            row, attempts, rate = simulate(name, args.clients, retry_after)
            print(row, flush=True)
            if retry_after is None:
                curves[name] = attempts, rate
    if args.svg:
        shown = {name: curve for name, curve in curves.items() if name in SHOWN}
        Path(args.svg).write_text(picture(shown), encoding="utf-8")


if __name__ == "__main__":
    main()
