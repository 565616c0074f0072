# SPDX-License-Identifier: MIT
"""Compares two results, or two allocators of one: better, worse, or cannot tell."""
from dataclasses import dataclass
from pathlib import Path

import stats
import summary
from allocators import BASELINE, QUARRY
from report import table
from stats import Estimate
from summary import BY_KEY, Data, Metric

COMPARED = tuple(BY_KEY[key] for key in ("wall_s", "cpu_s", "peak_rss_kib", "minor_faults"))


@dataclass(frozen=True)
class Side:
    """One allocator of one result."""

    label: str
    path: Path
    result: Data
    name: str

    def cases(self) -> dict[str, Data]:
        """Return the cases that this allocator has finished."""
        found = summary.compared_cases(self.result)
        return {case["name"]: case for case in found if self.name in case["results"]}


def parse_side(text: str) -> Side:
    """Turn RESULT or RESULT:ALLOCATOR into a side."""
    where, _, name = text.partition(":")
    result = summary.load(Path(where))
    name = name or QUARRY
    if name not in summary.names(result):
        raise ValueError(
            f"{where} has no allocator '{name}'; it has: {', '.join(summary.names(result))}"
        )
    return Side(text, Path(where).resolve(), result, name)


def _ratios(
    first: Side, second: Side, name: str, metric: Metric
) -> tuple[list[float], list[float]]:
    """Return the second side's ratios and those to divide by: to each other if run in turns."""
    if first.path == second.path:
        pairs = summary.ratios(second.cases()[name], second.name, metric, first.name)
        return pairs, [1.0] * len(pairs)
    ours, theirs = (
        summary.ratios(side.cases()[name], side.name, metric, BASELINE) for side in (second, first)
    )
    return ours, theirs


def _row(name: str, metric: Metric, ratio: Estimate | None) -> list[str]:
    if ratio is None:
        return [name, metric.heading, "-", "-", stats.CANNOT_TELL]
    interval = f"{ratio.low:.3f} to {ratio.high:.3f}"
    return [name, metric.heading, f"{ratio.value:.3f}", interval, ratio.verdict()]


def compare(first: Side, second: Side) -> str:
    """Return a table of what the second side used, relative to the first."""
    ours, theirs = second.cases(), first.cases()
    rows, shared = [], [name for name in theirs if name in ours]
    notes = [
        f"{name}: only in {first.label if name in theirs else second.label}"
        for name in [*theirs, *ours]
        if name not in shared
    ]
    if not shared:
        raise ValueError(f"{first.label} and {second.label} have no case in common")
    if first.result["scale"] != second.result["scale"]:
        raise ValueError(
            f"{first.label} ran at scale {first.result['scale']:g}, {second.label} at"
            f" {second.result['scale']:g}: run one of them again"
        )
    for name in shared:
        if ours[name]["output"] != theirs[name]["output"]:
            notes.append(f"{name}: the outputs differ, so it was not the same task")
        for metric in COMPARED:
            rows.append(
                _row(name, metric, stats.estimate_quotient(*_ratios(first, second, name, metric)))
            )
    for metric in COMPARED:
        counted = [name for name in shared if summary.in_means(ours[name])]
        pairs = [_ratios(first, second, name, metric) for name in counted]
        usable = [
            (value, base) for value, base in pairs if value and base and min(base + value) > 0
        ]
        whole = stats.estimate_mean([v for v, _ in usable], [b for _, b in usable])
        rows.append(_row("geometric mean", metric, whole))
    few = min(first.result["rounds"], second.result["rounds"])
    if few < stats.FEWEST:
        notes.append(
            f"{few} runs are too few for a verdict: run with --runs {stats.FEWEST} or more"
        )
    text = f"{second.label} relative to {first.label}; below 1, and better, is less\n\n"
    text += table(["case", "figure", "ratio", "interval", "verdict"], rows)
    return text + "".join(f"\nnote: {note}" for note in notes)
