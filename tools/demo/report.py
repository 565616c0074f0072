# SPDX-License-Identifier: MIT
"""Turns measurements into a table for people, and into JSON and CSV for programs."""
import csv
import statistics
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[2] / "bench"))
from machine import describe_machine, machine_line
from stats import geometric_mean, ratio

__all__ = ["METRICS", "describe_machine", "format_report", "ratio", "write_csv"]

FORMAT = 1

# One program's results, as they go into the JSON file.
Results = dict[str, Any]


@dataclass(frozen=True)
class Metric:
    """A column: its key in JSON and CSV, its heading, and how a value is shown."""

    key: str
    heading: str
    show: Callable[[float], str]


METRICS = (
    Metric("wall_s", "wall s", lambda value: f"{value:.2f}"),
    Metric("cpu_s", "CPU s", lambda value: f"{value:.2f}"),
    Metric("peak_rss_kib", "RSS MiB", lambda value: f"{value / 1024:.1f}"),
    Metric("peak_vss_kib", "VSS MiB", lambda value: f"{value / 1024:.1f}"),
    Metric("minor_faults", "faults", lambda value: f"{value:,.0f}"),
    Metric("system_calls", "syscalls", lambda value: f"{value:,.0f}"),
    Metric("memory_calls", "memory", lambda value: f"{value:,.0f}"),
)
MEASURED = tuple(metric.key for metric in METRICS[:5])
LEGEND = """\
wall s    time from start to end            CPU s    user and system time of all processes
RSS MiB   peak resident memory              VSS MiB  peak address space, of the largest process
faults    page faults served without disk   syscalls system calls (one run under strace -f -c)
memory    of these: brk, mmap, munmap, mremap and madvise
ratio     to glibc; below 1 is less than glibc, with * where the two allocators' runs overlap"""


def summarise(runs: list[dict[str, Any]], calls: dict[str, int]) -> dict[str, Any]:
    """Return one allocator's entry for one program: medians, single runs, system calls."""
    medians = {key: statistics.median(run[key] for run in runs) for key in MEASURED}
    counts = {
        "system_calls": calls["total"],
        "memory_calls": calls["memory"],
    }
    return {"median": {**medians, **counts}, "runs": runs, "calls_by_name": calls["by_name"]}


def add_ratios(program: Results, baseline: str) -> None:
    """Add each other allocator's ratios to the baseline, and their range over pairs of runs."""
    base = program["results"][baseline]
    for name, entry in program["results"].items():
        if name == baseline:
            continue
        entry["ratio"] = {
            metric.key: ratio(entry["median"][metric.key], base["median"][metric.key])
            for metric in METRICS
        }
        entry["ratio_range"] = {}
        for key in MEASURED:
            pairs = [ratio(a[key], b[key]) for a, b in zip(entry["runs"], base["runs"])]
            known = [value for value in pairs if value is not None]
            entry["ratio_range"][key] = [min(known), max(known)] if known else None
        entry["overlaps"] = [key for key in MEASURED if _overlap(entry["runs"], base["runs"], key)]


def _overlap(first: list[dict[str, Any]], second: list[dict[str, Any]], key: str) -> bool:
    """Tell whether two sets of runs cannot be told apart by their extremes."""
    one, two = [run[key] for run in first], [run[key] for run in second]
    return max(min(one), min(two)) <= min(max(one), max(two))


def geometric_means(programs: Iterable[Results], name: str) -> dict[str, float | None]:
    """Return for each metric the geometric mean of one allocator's ratios."""
    means: dict[str, float | None] = {}
    listed = list(programs)
    for metric in METRICS:
        values = [item["results"][name]["ratio"][metric.key] for item in listed]
        means[metric.key] = geometric_mean([value for value in values if value is not None])
    return means


def write_csv(report: dict[str, Any], path: Path) -> None:
    """Write one line per program and allocator: medians, then ratios (empty for the baseline)."""
    keys = [metric.key for metric in METRICS]
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["program", "allocator", *keys, *(f"{key}_ratio" for key in keys)])
        for program in report["programs"]:
            for name, entry in program["results"].items():
                ratios = entry.get("ratio", {})
                cells = [ratios.get(key) for key in keys]
                writer.writerow(
                    [
                        program["name"],
                        name,
                        *(round(entry["median"][key], 6) for key in keys),
                        *("" if cell is None else round(cell, 4) for cell in cells),
                    ]
                )


class Table:
    """The terminal table; each program is a row per allocator, and one of ratios below it."""

    BOLD, GREEN, RED, DIM = "1", "32", "31", "2"

    def __init__(self, colour: bool) -> None:
        self.colour = colour
        self.rows: list[list[tuple[str, str]]] = []  # cells: text and colour

    def _paint(self, text: str, colour: str) -> str:
        return f"\033[{colour}m{text}\033[0m" if self.colour and colour else text

    def add_program(self, program: Results, baseline: str) -> None:
        """Add the rows of one program."""
        title = program["name"]
        for name, entry in program["results"].items():
            values = [(metric.show(entry["median"][metric.key]), "") for metric in METRICS]
            self.rows.append([(title, self.BOLD), (name, ""), *values])
            title = ""
            if name != baseline:
                self.add_ratios("", entry["ratio"], entry["overlaps"])

    def add_ratios(
        self, title: str, ratios: dict[str, float | None], overlaps: list[str], label: str = "ratio"
    ) -> None:
        """Add a row of ratios; those that the runs do not bear out are marked and not coloured."""
        cells = []
        for metric in METRICS:
            value = ratios[metric.key]
            if value is None:
                cells.append(("-", self.DIM))
            elif metric.key in overlaps:
                cells.append((f"*{value:.2f}", self.DIM))
            else:
                tint = self.GREEN if value < 0.995 else self.RED if value >= 1.005 else ""
                cells.append((f"{value:.2f}", tint))
        self.rows.append([(title, self.BOLD), (label, self.DIM), *cells])

    def add_rule(self) -> None:
        """Add a line between programs."""
        self.rows.append([])

    def text(self) -> str:
        """Return the table, the first two columns left-aligned, the others right-aligned."""
        head = [("program", self.BOLD), ("allocator", self.BOLD)]
        head += [(metric.heading, self.BOLD) for metric in METRICS]
        rows = [head, [], *self.rows]
        widths = [
            max(len(row[column][0]) for row in rows if row) for column in range(len(METRICS) + 2)
        ]
        lines = []
        for row in rows:
            if not row:
                lines.append(self._paint("-" * (sum(widths) + 2 * len(widths) - 2), self.DIM))
                continue
            cells = []
            for column, (text, colour) in enumerate(row):
                pad = " " * (widths[column] - len(text))
                painted = self._paint(text, colour)
                cells.append(painted + pad if column < 2 else pad + painted)
            lines.append("  ".join(cells).rstrip())
        return "\n".join(lines)


def format_report(report: dict[str, Any], colour: bool) -> str:
    """Return what is printed at the end: machine, table, legend."""
    machine, baseline = report["machine"], report["baseline"]
    table = Table(colour)
    for number, program in enumerate(report["programs"]):
        if number:
            table.add_rule()
        table.add_program(program, baseline)
    if len(report["programs"]) > 1:
        table.add_rule()
        title = "geometric mean"
        for name, means in report["geometric_mean"].items():
            table.add_ratios(title, means, [], name)
            title = ""
    times = "one run" if report["runs"] == 1 else f"medians of {report['runs']} runs"
    return (
        f"{machine_line(machine)}\n"
        f"{times}, the allocators taking turns; all runs shown gave the same output\n\n"
        f"{table.text()}\n\n{LEGEND}"
    )
