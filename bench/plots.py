#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Draw the pictures of a result: time against memory, bars per case, memory over time.

usage: plots.py RESULT     (a folder of build/bench/results; the SVG files are written into it)
"""
import math
import sys
from pathlib import Path
from typing import Any

import summary
from allocators import BASELINE, QUARRY
from machine import machine_line
from stats import Estimate
from summary import MEMORY, TIME, Data, Metric

sys.path.append(str(Path(__file__).resolve().parents[1] / "tools" / "demo"))
from plot import BETTER, COLOURS, INK, LINE, PAPER, SHAPES, SOFT, pyplot, style

MORE_COLOURS = (*COLOURS[1:], "#0369a1", "#a16207", "#4d7c0f", "#86198f")
MORE_SHAPES = (*SHAPES[1:], "P", "X", "<", ">")
COLUMNS = 3
TICKS = (0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 10, 20)


def looks(result: Data) -> dict[str, tuple[str, str]]:
    """Return each allocator's colour and shape; Quarry's and glibc's are always the same."""
    others = [name for name in summary.names(result) if name not in (BASELINE, QUARRY)]
    chosen = {BASELINE: (SOFT, "*"), QUARRY: (COLOURS[0], SHAPES[0])}
    for place, name in enumerate(others):
        chosen[name] = (
            MORE_COLOURS[place % len(MORE_COLOURS)],
            MORE_SHAPES[place % len(MORE_SHAPES)],
        )
    return chosen


def clean(axes: Any, grid: str) -> None:
    """Give a panel the look that all of them have."""
    axes.set_facecolor(PAPER)
    axes.grid(axis=grid, color=LINE, linewidth=0.6, zorder=0.5)
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)


def save(figure: Any, result: Data, title: str, path: Path, remark: str = "") -> None:
    """Add title and machine, and write the file."""
    inch = 1 / figure.get_figheight()
    figure.patch.set_facecolor(PAPER)
    figure.text(0.02, 1 - 0.32 * inch, title, fontsize=14, fontweight="bold", va="center")
    note = f"{machine_line(result['machine'])}; {remark or 'medians of %d runs' % result['rounds']}"
    figure.text(0.02, 0.18 * inch, note, fontsize=8, color=SOFT, va="center")
    figure.savefig(path, facecolor=PAPER, metadata={"Date": None})
    pyplot.close(figure)


def draw_scatter(result: Data, path: Path) -> None:
    """Draw one point per allocator, its means, among the small points of its cases."""
    figure, axes = pyplot.subplots(figsize=(7.2, 6))
    figure.subplots_adjust(left=0.1, right=0.97, top=0.89, bottom=0.14)
    for name, (colour, shape) in looks(result).items():
        if name not in summary.names(result):
            continue
        points = []
        for case in summary.compared_cases(result):
            both = [summary.estimate(case, name, metric) for metric in (TIME, MEMORY)]
            if both[0] and both[1]:
                points.append((both[0].value, both[1].value))
        if name != BASELINE:
            axes.scatter(*zip(*points), s=14, color=colour, marker=shape, alpha=0.28, linewidths=0)
        means = [summary.mean(result, name, metric) for metric in (TIME, MEMORY)]
        if means[0] and means[1]:
            at = (means[0].value, means[1].value)
            axes.plot(*at, shape, color=colour, markersize=12, markeredgecolor=PAPER, zorder=5)
            axes.annotate(
                name, at, xytext=(9, 6), textcoords="offset points", fontsize=10, color=colour
            )
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis, label in ((axes.xaxis, "time"), (axes.yaxis, "peak resident memory")):
        axis.set_label_text(f"{label}, relative to glibc (logarithmic)")
        axis.set_major_locator(pyplot.FixedLocator(TICKS))
        axis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.set_minor_locator(pyplot.NullLocator())
    axes.axvline(1, color=SOFT, linewidth=0.8)
    axes.axhline(1, color=SOFT, linewidth=0.8)
    clean(axes, "both")
    save(figure, result, "Time against memory: large means, small cases", path)


def _bar(axes: Any, ratio: Estimate, at: float, height: float, colour: str) -> None:
    axes.barh(at, math.log2(ratio.value), height, color=colour, zorder=3)
    low, high = math.log2(max(ratio.low, 1e-3)), math.log2(max(ratio.high, 1e-3))
    axes.plot([low, high], [at, at], color=INK, linewidth=0.8, zorder=4)


def draw_panel(axes: Any, result: Data, metric: Metric, title: str) -> None:
    """Draw a bar per case and allocator from 1, with its interval, on a logarithmic scale."""
    names = [name for name in summary.names(result) if name != BASELINE]
    chosen = looks(result)
    height = 0.8 / len(names)
    for row, case in enumerate(summary.compared_cases(result)):
        for place, name in enumerate(names):
            ratio = summary.estimate(case, name, metric)
            if ratio and ratio.value > 0:
                at = row + (place - (len(names) - 1) / 2) * height
                _bar(axes, ratio, at, height * 0.9, chosen[name][0])
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    axes.xaxis.set_major_formatter(lambda value, _: "glibc" if value == 0 else f"{2**value:.3g}")
    axes.axvline(0, color=SOFT, linewidth=0.8, zorder=2)
    low, high = axes.get_xlim()
    axes.axvspan(min(low, -0.2), 0, color=BETTER, zorder=0, linewidth=0)
    axes.set_xlim(min(low, -0.2), max(high, 0.2))
    clean(axes, "x")


def draw_bars(result: Data, path: Path) -> None:
    """Draw time and peak memory of every case."""
    cases = summary.compared_cases(result)
    names = [name for name in summary.names(result) if name != BASELINE]
    height = 1.6 + len(cases) * max(0.3, 0.11 * len(names))
    figure, panels = pyplot.subplots(1, 2, figsize=(10, height), sharey=True)
    inch = 1 / height
    figure.subplots_adjust(
        left=0.15, right=0.98, top=1 - 1.0 * inch, bottom=0.6 * inch, wspace=0.05
    )
    for axes, metric, title in zip(panels, (TIME, MEMORY), ("Time", "Peak resident memory")):
        draw_panel(axes, result, metric, title)
    panels[0].set_yticks(range(len(cases)), [case["name"] for case in cases])
    panels[0].set_ylim(len(cases) - 0.4, -0.6)
    chosen = looks(result)
    handles = [pyplot.Rectangle((0, 0), 1, 1, color=chosen[name][0]) for name in names]
    figure.legend(handles, names, loc="upper right", ncols=len(names), frameon=False, fontsize=9)
    save(figure, result, "Each case, relative to glibc", path)


def draw_timelines(result: Data, path: Path) -> bool:
    """Draw resident memory over time, a panel per case that was sampled; False if none was."""
    sampled = [
        case
        for case in summary.compared_cases(result)
        if any((entry["memory"] or {}).get("timeline") for entry in case["results"].values())
    ]
    if not sampled:
        return False
    rows = math.ceil(len(sampled) / COLUMNS)
    height = 1.0 + 2.0 * rows
    figure, grid = pyplot.subplots(rows, COLUMNS, figsize=(11, height), squeeze=False)
    inch = 1 / height
    figure.subplots_adjust(
        left=0.06, right=0.98, top=1 - 0.85 * inch, bottom=0.55 * inch, wspace=0.2, hspace=0.45
    )
    panels = [axes for row in grid for axes in row]
    chosen = looks(result)
    for axes, case in zip(panels, sampled):
        for name, entry in case["results"].items():
            points = (entry["memory"] or {}).get("timeline") or []
            times, sizes = [time for time, _ in points], [kib / 1024 for _, kib in points]
            axes.plot(times, sizes, color=chosen[name][0], linewidth=1.1)
        axes.set_title(case["name"], loc="left", fontsize=10, fontweight="bold")
        axes.set_ylim(bottom=0)
        clean(axes, "both")
    for axes in panels[len(sampled) :]:
        axes.set_visible(False)
    # Of all panels, for a case that an allocator has failed lacks its line.
    names = [name for name in summary.names(result) if any(name in c["results"] for c in sampled)]
    handles = [pyplot.Line2D((), (), color=chosen[name][0]) for name in names]
    figure.legend(handles, names, loc="upper right", ncols=len(names), frameon=False, fontsize=9)
    remark = f"one run each, workloads with {result['idle_s']:g} s of rest at the end"
    save(figure, result, "Resident MiB over seconds", path, remark)
    return True


def main() -> int:
    """Draw what the command line names."""
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        print(str(__doc__).strip())
        return 0 if sys.argv[1:] == ["--help"] else 2
    folder = Path(sys.argv[1])
    try:
        result = summary.load(folder)
    except ValueError as error:
        print(f"plots.py: {error}", file=sys.stderr)
        return 2
    style()
    if summary.compared_cases(result) and len(summary.names(result)) > 1:
        draw_scatter(result, folder / "time-memory.svg")
        draw_bars(result, folder / "cases.svg")
    draw_timelines(result, folder / "memory.svg")
    return 0


if __name__ == "__main__":
    sys.exit(main())
