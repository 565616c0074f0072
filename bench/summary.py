# SPDX-License-Identifier: MIT
"""What the samples of a result come to: medians, ratios with intervals, the best of each row."""
import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import stats
from allocators import BASELINE
from stats import Estimate

# One case's or one allocator's part of a result, as in the JSON file.
Data = dict[str, Any]


def _of_run(key: str) -> Callable[[Data], list[float]]:
    return lambda entry: [run[key] for run in entry["runs"] if key in run]


def _of_memory(key: str) -> Callable[[Data], list[float]]:
    def values(entry: Data) -> list[float]:
        report = (entry["memory"] or {}).get("report", {})
        return [report[key]] if key in report else []

    return values


def _calls(entry: Data) -> list[float]:
    return [sum(entry["calls"].values())] if entry["calls"] else []


@dataclass(frozen=True)
class Metric:
    """A figure: its key in CSV and JSON, heading, where it comes from, how it is shown."""

    key: str
    heading: str
    values: Callable[[Data], list[float]]
    show: Callable[[float], str]


def _seconds(value: float) -> str:
    return f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


def _mib(kib: float) -> str:
    return f"{kib / 1024:.1f}"


def _count(value: float) -> str:
    return f"{value:,.0f}"


METRICS = (
    Metric("wall_s", "time s", _of_run("wall_s"), _seconds),
    Metric("user_s", "user s", _of_run("user_s"), _seconds),
    Metric("system_s", "system s", _of_run("system_s"), _seconds),
    Metric("cpu_s", "CPU s", _of_run("cpu_s"), _seconds),
    Metric("peak_rss_kib", "peak RSS MiB", _of_run("peak_rss_kib"), _mib),
    Metric("idle_rss_kib", "idle RSS MiB", _of_memory("rss_idle_kb"), _mib),
    Metric("rss_over_live", "RSS/live", _of_memory("rss_over_live_mean"), lambda v: f"{v:.2f}"),
    Metric("peak_vss_kib", "VSS MiB", _of_run("peak_vss_kib"), _mib),
    Metric("mappings", "mappings", _of_run("mappings"), _count),
    Metric("minor_faults", "faults", _of_run("minor_faults"), _count),
    Metric("system_calls", "system calls", _calls, _count),
)
BY_KEY = {metric.key: metric for metric in METRICS}
TIME, MEMORY = BY_KEY["wall_s"], BY_KEY["peak_rss_kib"]


def median(entry: Data, metric: Metric) -> float | None:
    """Return the median of one allocator's figure, None if it was not taken."""
    values = metric.values(entry)
    return statistics.median(values) if values else None


def ratios(case: Data, name: str, metric: Metric, base: str = BASELINE) -> list[float]:
    """Return one allocator's ratios to another's, run by run."""
    results = case["results"]
    if name not in results or base not in results:
        return []
    return stats.paired_ratios(metric.values(results[name]), metric.values(results[base]))


def estimate(case: Data, name: str, metric: Metric, base: str = BASELINE) -> Estimate | None:
    """Return one allocator's ratio to another, with its interval."""
    return stats.estimate(ratios(case, name, metric, base))


def compared_cases(result: Data) -> list[Data]:
    """Return the cases with times to compare; micro-benchmarks run as long as they are told."""
    return [case for case in result["cases"] if case["group"] != "micro"]


def in_means(case: Data) -> bool:
    """Tell whether means count a case: a replay is of a program that counts already."""
    return case["group"] in ("workload", "real")


def mean_cases(result: Data) -> list[Data]:
    """Return the cases that means are over: those that no allocator failed, for means over
    different cases cannot be compared. One that has finished nothing at all has no say."""
    cases = [case for case in compared_cases(result) if in_means(case)]
    running = {name for case in cases for name in case["results"]}
    return [case for case in cases if running == set(case["results"])]


def mean(result: Data, name: str, metric: Metric) -> Estimate | None:
    """Return an allocator's geometric mean over the cases that all have finished."""
    rows = [ratios(case, name, metric) for case in mean_cases(result)]
    return stats.estimate_mean([row for row in rows if row and statistics.median(row) > 0])


def names(result: Data) -> list[str]:
    """Return the allocators' names, the baseline first."""
    return [item["name"] for item in result["allocators"]]


def best_other(case: Data, metric: Metric, name: str) -> tuple[str, float] | None:
    """Return the allocator whose ratio to the baseline is least, not counting one, and the ratio.

    The baseline's own is 1. Of equals it is the one that stands first.
    """
    found = {
        other: statistics.median(pairs)
        for other in case["results"]
        if other != name and (pairs := ratios(case, other, metric))
    }
    return min(found.items(), key=lambda item: item[1]) if found else None


def verdicts(result: Data, name: str, metric: Metric) -> dict[str, int]:
    """Return in how many cases an allocator is better than the baseline, worse, or neither."""
    counts = {stats.BETTER: 0, stats.WORSE: 0, stats.CANNOT_TELL: 0}
    for case in compared_cases(result):
        if ratio := estimate(case, name, metric):
            counts[ratio.verdict()] += 1
    return counts


@dataclass(frozen=True)
class Loss:
    """A row where an allocator is behind the best of the others."""

    case: str
    metric: Metric
    rival: str
    ratio: Estimate


def losses(result: Data, name: str, margin: float) -> list[Loss]:
    """Return where an allocator is behind the best of the others by over margin, worst first."""
    found = []
    for case in compared_cases(result):
        for metric in (TIME, MEMORY):
            best = best_other(case, metric, name)
            ratio = estimate(case, name, metric, best[0]) if best else None
            if best and ratio and ratio.value > 1 + margin:
                found.append(Loss(case["name"], metric, best[0], ratio))
    return sorted(found, key=lambda loss: -loss.ratio.value)


def micro_rows(result: Data) -> dict[str, dict[str, list[float]]]:
    """Return for each micro-benchmark figure each allocator's values."""
    rows: dict[str, dict[str, list[float]]] = {}
    for case in result["cases"]:
        if case["group"] != "micro":
            continue
        for name, entry in case["results"].items():
            for run in entry["runs"]:
                for key, value in run.get("report", {}).items():
                    kind, dot, bench = key.partition(".")
                    if dot:
                        label = f"{bench}" if kind == "ns" else f"{bench} {kind}"
                        rows.setdefault(label, {}).setdefault(name, []).append(value)
    return rows


def load(path: Path) -> Data:
    """Read a result, given its folder or file."""
    file = path / "results.json" if path.is_dir() else path
    try:
        data = json.loads(file.read_text())
        if data["format"] != 1 or not isinstance(data["cases"], list):
            raise KeyError("format")
        return data
    except OSError as error:
        raise ValueError(
            f"{file}: {error.strerror}; give a folder of build/bench/results"
        ) from None
    except (json.JSONDecodeError, KeyError, TypeError, UnicodeDecodeError):
        raise ValueError(f"{file}: not a result written by bench/run.py") from None
