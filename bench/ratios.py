"""Prints ours ÷ pass-through for every workload of a finished run, beside the bound we keep to, and
what a translated request costs beside one of ours that is passed through.

The ratio is taken within each round, so that what else the machine does weighs on both; shown are
the median round and the best one. Exits 1 when a workload has no figure for one of the two.
"""

from __future__ import annotations

import itertools
import json
import statistics
import sys
from typing import Any

BOUNDS = {  # workload: (figure, the most it may be times the pass-through's)
    "ns16": ("cpu_us_req", 2.2),
    "st16": ("cpu_us_chunk", 1.5),
    "st16p": ("cpu_us_chunk", 1.6),
    "st64p": ("cpu_us_chunk", 1.6),
}
MOST_MB_AFTER_START = 150
TRANSLATED = ("ours>anthropic", "ours>ollama")
MOST_TRANSLATED = 1.5
"""Times our own pass-through: what a request costs that is told to the upstream in other words."""


def by_round(
    rows: list[dict[str, Any]], system: str, workload: str, figure: str
) -> dict[int, float]:
    return {
        row["round"]: row[figure]
        for row in rows
        if row["system"] == system and row["workload"] == workload and row.get(figure)
    }


def ratio_line(
    rows: list[dict[str, Any]],
    workload: str,
    *,
    system: str = "ours",
    against: str = "pypass",
    most: float | None = None,
) -> str | None:
    """One row of the table, or None when either system has no figure."""
    default = "cpu_us_chunk" if workload.startswith("st") else "cpu_us_req"
    figure, bound = BOUNDS.get(workload, (default, None))
    bound = bound if most is None else most
    ours = by_round(rows, system, workload, figure)
    floor = by_round(rows, against, workload, figure)
    ratios = [ours[at] / floor[at] for at in ours if at in floor]
    if not ratios:
        return None
    median = statistics.median(ratios)
    verdict = "" if bound is None else ("within" if median <= bound else "**over**")
    cells = [
        workload if system == "ours" else f"{workload}, {system}",
        figure.replace("cpu_us_", "µs CPU/"),
        f"{statistics.median(floor.values()):.1f}",
        f"{statistics.median(ours.values()):.1f}",
        f"{median:.2f} [{min(ratios):.2f}]",
        "" if bound is None else f"≤ {bound}",
        verdict,
    ]
    return "| " + " | ".join(cells) + " |"


def server_line(title: str, value: float, most: float, unit: str) -> str:
    return f"{title}: {value:.1f} {unit} (≤ {most:g}: {'within' if value <= most else '**over**'})"


def main(path: str) -> int:
    with open(path, encoding="utf-8") as file:
        result = json.load(file)
    rows = result["rows"]
    workloads = list(dict.fromkeys(row["workload"] for row in rows))
    lines = {workload: ratio_line(rows, workload) for workload in workloads}
    print("\n### ours ÷ bare Python pass-through, translated ÷ ours: median round [best round]\n")
    print("| workload | figure | floor | measured | ratio | bound | |")
    print("|---|---|---|---|---|---|---|")
    print("\n".join(line for line in lines.values() if line))
    for workload, system in itertools.product(workloads, TRANSLATED):
        translated = ratio_line(rows, workload, system=system, against="ours", most=MOST_TRANSLATED)
        if translated:
            print(translated)
    if server := result["servers"].get("ours"):
        print()
        print(f"Start to first answer, as the suite starts it: {min(server['start_s']):.1f} s")
        print(server_line("Memory after start", server["rss_start"], MOST_MB_AFTER_START, "MB"))
        print(f"Memory after load: {server.get('rss_load', 0):.1f} MB")
    failed = sum(row["bad"] for row in rows if row["system"] == "ours")
    if failed:
        print(f"**{failed} requests to ours failed**")
    return 0 if lines and all(lines.values()) and not failed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
