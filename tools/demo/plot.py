#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Draw the picture of a demonstration: time and peak memory of each program, relative to glibc.

usage: plot.py RESULTS.json PICTURE     (the ending, .svg or .png, decides the format)
       plot.py --check PICTURE          only tells whether such a picture can be drawn
"""
import json
import math
import sys
from typing import Any

try:
    import matplotlib
    from matplotlib import pyplot
except ImportError:
    sys.exit("matplotlib is not installed: apt-get install python3-matplotlib")

# CPU time, for it says less than wall time about what else the machine was doing.
PANELS = (("cpu_s", "CPU time"), ("peak_rss_kib", "Peak resident memory"))
# Told apart also by those who see few colours, and by shape in print.
COLOURS = ("#0f766e", "#b45309", "#6d28d9", "#be123c", "#475569")
SHAPES = ("o", "D", "s", "^", "v")
PAPER, INK, SOFT, LINE, BETTER = "#fbfaf7", "#24292f", "#6e7781", "#d8dee4", "#eef4f0"


def style() -> None:
    """Set what holds for the whole picture; a fixed salt makes the same data the same file."""
    matplotlib.use("svg")
    pyplot.rcParams.update(
        {
            "font.family": "DejaVu Sans",
            "font.size": 10,
            "svg.fonttype": "path",
            "svg.hashsalt": "quarry",
            "text.color": INK,
            "axes.edgecolor": LINE,
            "axes.labelcolor": SOFT,
            "xtick.color": SOFT,
            "ytick.color": INK,
        }
    )


def limits(values: list[float]) -> tuple[float, float]:
    """Return an axis range that holds all values with room for labels, 1 well inside."""
    low, high = min([*values, 0.9]), max([*values, 1.1])
    room = 0.16 * (high - low)
    return low - room, high + room


def rows_of(report: dict[str, Any], name: str, key: str) -> list[tuple[float, list[float]]]:
    """Return one allocator's ratio and range for each program, and their mean last."""
    rows = []
    for program in report["programs"]:
        entry = program["results"][name]
        rows.append((entry["ratio"][key], entry["ratio_range"][key]))
    if len(rows) > 1:
        mean = report["geometric_mean"][name][key]
        rows.append((mean, [mean, mean]))
    return rows


def draw_panel(axes: Any, report: dict[str, Any], names: list[str], key: str, title: str) -> None:
    """Draw one ratio for all programs: a dot, a stem from 1, the range over the runs, a number."""
    offset = 0.24 if len(names) > 1 else 0.0
    seen = []
    for place, name in enumerate(names):
        colour, shape = COLOURS[place % len(COLOURS)], SHAPES[place % len(SHAPES)]
        for row, (value, spread) in enumerate(rows_of(report, name, key)):
            at = row + (place - (len(names) - 1) / 2) * offset
            seen += [value, *spread]
            axes.plot(
                [1, value], [at, at], color=colour, linewidth=2.4, zorder=3, solid_capstyle="butt"
            )
            axes.plot(
                spread,
                [at, at],
                color=colour,
                linewidth=6,
                alpha=0.22,
                zorder=2,
                solid_capstyle="round",
            )
            axes.plot(
                value,
                at,
                shape,
                color=colour,
                markersize=7.5,
                markeredgecolor=PAPER,
                markeredgewidth=1.2,
                zorder=4,
            )
            left = value < 1
            edge = min(spread[0], value) if left else max(spread[1], value)
            axes.annotate(
                f"{value:.2f}",
                (edge, at),
                xytext=(-9 if left else 9, 0),
                textcoords="offset points",
                ha="right" if left else "left",
                va="center",
                color=INK,
                fontsize=9 if len(names) == 1 else 7.5,
            )
    low, high = limits(seen)
    axes.set_xlim(low, high)
    count = len(rows_of(report, names[0], key))
    axes.set_ylim(count - 0.4, -0.6)
    if count > 1:
        axes.axhline(count - 1.5, color=LINE, linewidth=1, zorder=1)
    axes.axvspan(low, 1, color=BETTER, zorder=0, linewidth=0)
    axes.axvline(1, color=SOFT, linewidth=1, zorder=1)
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold", pad=10, color=INK)
    axes.xaxis.set_major_locator(pyplot.MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(
        lambda value, _: "glibc" if math.isclose(value, 1) else f"{value:g}"
    )
    axes.tick_params(length=0)
    axes.grid(axis="x", color=LINE, linewidth=0.6, zorder=0.5)
    axes.set_facecolor(PAPER)
    for side in axes.spines.values():
        side.set_visible(False)


def draw(report: dict[str, Any], path: str) -> None:
    """Draw all panels into the file."""
    style()
    names = [item["name"] for item in report["allocators"] if item["name"] != report["baseline"]]
    labels = [program["name"] for program in report["programs"]]
    labels += ["geometric mean"] if len(labels) > 1 else []
    height = 2.1 + len(labels) * (0.34 + 0.16 * (len(names) - 1))
    figure, panels = pyplot.subplots(1, len(PANELS), figsize=(9.6, height), sharey=True)
    figure.patch.set_facecolor(PAPER)
    for axes, (key, title) in zip(panels, PANELS):
        draw_panel(axes, report, names, key, title)
    panels[0].set_yticks(range(len(labels)), labels, fontsize=11)
    inch = 1 / height
    figure.subplots_adjust(
        left=0.155, right=0.975, top=1 - 1.12 * inch, bottom=0.82 * inch, wspace=0.07
    )
    who = " on Quarry" if names == ["quarry"] else ""
    figure.text(
        0.02,
        1 - 0.42 * inch,
        f"Real programs{who}, unmodified",
        fontsize=15,
        fontweight="bold",
        va="center",
    )
    machine = report["machine"]
    times = (
        "one run"
        if report["runs"] == 1
        else f"medians of {report['runs']} runs, pale bands their range"
    )
    figure.text(
        0.02,
        0.3 * inch,
        f"Ratio to glibc {machine['glibc']}; left of the line is less.  {times.capitalize()}."
        f"  {machine['system'].split(' (')[0]}, {machine['processors']} x {machine['processor']}.",
        fontsize=8.5,
        color=SOFT,
        va="center",
    )
    if len(names) > 1:
        handles = [
            pyplot.Line2D(
                [],
                [],
                color=COLOURS[i % len(COLOURS)],
                marker=SHAPES[i % len(SHAPES)],
                linewidth=2.4,
                label=name,
            )
            for i, name in enumerate(names)
        ]
        figure.legend(
            handles=handles,
            loc="upper right",
            ncols=len(names),
            frameon=False,
            bbox_to_anchor=(0.985, 1 - 0.18 * inch),
            fontsize=10,
        )
    figure.savefig(path, metadata={"Date": None} if path.endswith(".svg") else None, dpi=150)


def main() -> None:
    """Read the report named first, draw the picture named second."""
    if len(sys.argv) != 3:
        sys.exit(__doc__.strip())
    if not sys.argv[2].endswith((".svg", ".png")):
        sys.exit(f"{sys.argv[2]}: the name has to end with .svg or .png")
    if sys.argv[1] == "--check":
        return
    with open(sys.argv[1], encoding="utf-8") as file:
        draw(json.load(file), sys.argv[2])


if __name__ == "__main__":
    main()
