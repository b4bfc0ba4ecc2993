"""The table of results, and the page of the documentation that holds it."""

from __future__ import annotations

from statistics import median

from clients import OURS
from workloads import HIGHER_IS_BETTER, WORKLOADS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any, Dict, List, Optional, Tuple

    Figures = Dict[str, Optional[float]]

BEGIN, END = "<!-- table: written by benchmarks/bench.py --write -->", "<!-- end of table -->"
BUSY = 0.9  # of a core, by the server: then it is the server that is measured


def medians(by_client: Dict[str, List[Dict[str, Any]]], what: str = "value") -> Figures:
    """Client -> the median over the rounds; ``None`` where it is absent."""
    found: Figures = {}
    for client, rounds in by_client.items():
        values = [one[what] for one in rounds if what in one]
        found[client] = median(values) if values and len(values) == len(rounds) else None
    return found


def shown(value: Optional[float]) -> str:
    """Three digits, or as many as it takes."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def advantage(ours: float, theirs: float, unit: str) -> float:
    """How many times better *ours* is than *theirs*."""
    return ours / theirs if unit in HIGHER_IS_BETTER else theirs / ours


def best(values: Figures, clients: List[str], unit: str) -> Optional[str]:
    there = [client for client in clients if values.get(client) is not None]
    choose = max if unit in HIGHER_IS_BETTER else min
    return choose(there, key=lambda client: values[client] or 0.0) if there else None


def row(name: str, unit: str, values: Figures, clients: List[str], flag: str = "") -> str:
    """A line of the table: the best of ours beside ``raw`` and the best peer, and each client."""
    ours = best(values, [client for client in clients if client in OURS], unit)
    peer = best(values, [c for c in clients if c not in OURS and c != "raw"], unit)
    ratios = []
    for other in (peer, "raw"):
        theirs, mine = values.get(other or ""), values.get(ours or "")
        known = theirs and mine
        ratios.append(f"{advantage(mine or 0, theirs or 1, unit):.2f}" if known else "–")
    if peer and ratios[0] != "–":
        ratios[0] += f" ({peer})"
    cells = [
        f"**{shown(values.get(client))}**" if client in (ours, peer) else shown(values.get(client))
        for client in clients
    ]
    label = f"{name}, {unit}" if unit else name
    return "| " + " | ".join([label + flag, *ratios, *cells]) + " |"


def markdown(found: Dict[str, Any]) -> str:
    """The table, what it was measured with, and who is absent from which line."""
    results = found["results"]
    clients = list(next(iter(results.values())))
    head = ["", "ours / best peer", "ours / raw", *clients]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    absent: Dict[Tuple[str, str], List[str]] = {}
    flagged, foreign = False, []
    for name, by_client in results.items():
        unit, busy = WORKLOADS[name].unit, medians(by_client, "server")
        is_busy = any((share or 0) > BUSY for share in busy.values())
        flagged = flagged or is_busy
        lines.append(row(name, unit, medians(by_client), clients, " †" if is_busy else ""))
        foreign += [one["foreign"] for rounds in by_client.values() for one in rounds
                    if "foreign" in one]  # fmt: skip
        for client, rounds in by_client.items():
            for one in rounds[-1:]:
                if "absent" in one:
                    absent.setdefault((client, one["absent"]), []).append(name)
    sizes = {client: found["sizes"].get(client) for client in clients}
    lines.append(row("size on disk with dependencies, KiB", "", sizes, clients))
    about = found["machine"]
    lines += [
        "",
        f"{about['date']}, {about['processor']}, {about['system']}, {about['python']},"
        f" {about['openssl']}, zlib {about['zlib']}; "
        + ", ".join(f"{name} {version}" for name, version in found["versions"].items())
        + f". Medians of {found['rounds']} rounds; others used"
        f" {median(foreign or [0.0]):.0%} of a core meanwhile.",
        "The ratios are of the best of ours, above 1 where it is better.",
    ]
    if flagged:
        lines.append("† The server was busy for more than 90% of the time with some client.")
    if absent:
        alike: Dict[Tuple[str, str], List[str]] = {}
        for (client, reason), names in absent.items():
            alike.setdefault((reason, ", ".join(names)), []).append(client)
        lines += ["", "Absent:", ""]
        lines += [f"* {', '.join(who)}: {reason} ({names})"
                  for (reason, names), who in alike.items()]  # fmt: skip
    return "\n".join(lines)


def write_page(found: Dict[str, Any], page: Path) -> None:
    """Put the table where the page has the last one."""
    text = page.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n\n{markdown(found)}\n\n{END}{after}")
