# SPDX-License-Identifier: MIT
"""quarry plot and diff: recordings as pictures and as tables."""
import argparse
import html
import io
import os
from typing import Any

from . import recording, show
from .errors import ToolError, UsageError
from .recording import Recording

_MIB = 1 << 20
# Okabe and Ito's palette: told apart by colour-blind eyes, too.
_COLOURS = {
    "vss": "#999999",
    "rss": "#000000",
    "anon": "#56b4e9",
    "file": "#cccccc",
    "shmem": "#f0e442",
    "live": "#009e73",
    "dirty": "#d55e00",
    "cached": "#cc79a7",
    "free_objects": "#e69f00",
}
_NAMES = {
    "vss": "virtual (VSS)",
    "rss": "resident (RSS)",
    "anon": "anonymous",
    "file": "file",
    "shmem": "shared memory",
    "live": "live",
    "dirty": "dirty",
    "cached": "cached",
    "free_objects": "free in slabs",
}
_BYTES = ("peak", "mean", "given")


def add_parser(verbs: Any) -> None:
    """Declare both verbs."""
    plot = verbs.add_parser(
        "plot",
        help="draw a recording",
        description="Draws a recording as self-contained HTML or as SVG, by the ending of the output: "
        "virtual against resident size, what the resident pages are and hold, page faults per second, "
        "and when memory was given back.",
    )
    plot.add_argument("recording", metavar="FILE")
    plot.add_argument("-o", "--output", metavar="FILE.html|FILE.svg", help="default: FILE.html")
    plot.add_argument("--json", action="store_true", help="the summary as JSON, and no picture")
    plot.set_defaults(run=main)
    diff = verbs.add_parser(
        "diff",
        help="compare two recordings",
        description="Prints peaks, means over time and counts of two recordings side by side.",
    )
    diff.add_argument("one", metavar="A")
    diff.add_argument("two", metavar="B")
    diff.add_argument("--json", action="store_true", help="as JSON")
    diff.set_defaults(run=compare)


def main(arguments: argparse.Namespace) -> int:
    """The verb plot."""
    data = recording.load(arguments.recording)
    if arguments.json:
        show.print_json(
            {
                "command": data.command,
                "samples": len(data.samples),
                "end": data.end,
                "events": data.events,
                "summary": data.summary(),
            }
        )
        return 0
    output = arguments.output or os.path.splitext(arguments.recording)[0] + ".html"
    if not output.endswith((".html", ".svg")):
        raise UsageError(f"{output}: the ending has to be .html or .svg")
    if os.path.exists(output) and os.path.samefile(output, arguments.recording):
        raise UsageError(f"{output}: this is the recording; name another file for the picture by -o")
    picture = draw(data)
    text = page(data, picture) if output.endswith(".html") else picture
    try:
        with open(output, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise ToolError(f"{output}: {error.strerror}") from None
    print(output)
    return 0


def draw(data: Recording) -> str:
    """The picture as SVG."""
    try:
        import matplotlib
    except ImportError:
        raise ToolError("plot needs matplotlib; install the package python3-matplotlib") from None
    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "quarry", "font.size": 9})
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        3, 1, sharex=True, figsize=(9, 8), layout="constrained", height_ratios=(2, 3, 1)
    )
    for key in ("vss", "rss"):
        _line(axes[0], data, key)
    times, _ = data.series("rss")
    parts = ["anon", "shmem", "file"]
    stacks = [[value / _MIB for value in data.series(key)[1]] for key in parts]
    axes[1].stackplot(
        times,
        stacks,
        colors=[_COLOURS[key] for key in parts],
        labels=[_NAMES[key] for key in parts],
        alpha=0.5,
    )
    for key in ("live", "free_objects", "cached", "dirty"):
        _line(axes[1], data, key)
    times, rates = data.fault_rates()
    axes[2].plot(times, rates, drawstyle="steps-pre", color="black", linewidth=1)
    for number, event in enumerate(data.events):
        axes[1].axvline(
            event["t"],
            color="#0072b2",
            linewidth=0.7,
            linestyle=":",
            label="given back" if number == 0 else None,
        )
    for axis, title, unit in zip(
        axes,
        ("virtual against resident", "what is resident, and the heap in it", "page faults"),
        ("MiB", "MiB", "per second"),
    ):
        axis.set_title(title, loc="left")
        axis.set_ylabel(unit)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    for axis in axes[:2]:
        axis.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    axes[2].set_xlabel("seconds")
    axes[2].set_xlim(data.samples[0]["t"], data.samples[-1]["t"])
    figure.suptitle(f"{data.command}: memory over time")
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": "quarry"})
    pyplot.close(figure)
    return text.getvalue()


def _line(axis: Any, data: Recording, key: str) -> None:
    times, values = data.series(key)
    if times:
        axis.plot(
            times,
            [value / _MIB for value in values],
            color=_COLOURS[key],
            label=_NAMES[key],
            linewidth=1.3,
        )


def page(data: Recording, picture: str) -> str:
    """The picture and its figures as one HTML file that needs no other."""
    rows = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>"
        for name, value in _shown(data.summary())
    )
    svg = picture[picture.index("<svg") :].replace("<svg ", '<svg role="img" ', 1)
    title = html.escape(f"{data.command}: memory over time")
    end = html.escape(data.end or "the recording was cut off")
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 15px/1.4 sans-serif; max-width: 1000px; margin: 1em auto; padding: 0 1em }}
svg {{ width: 100%; height: auto }}
th {{ text-align: left; font-weight: normal; padding-right: 2em }}
td {{ text-align: right; font-variant-numeric: tabular-nums }}
</style>
</head>
<body>
<h1>{title}</h1>
<p>{len(data.samples)} samples; {end}.</p>
{svg}
<h2>Figures</h2>
<table>{rows}</table>
</body>
</html>
"""


def _shown(summary: dict[str, float]) -> list[tuple[str, str]]:
    return [(key.replace("_", " "), _figure(key, value)) for key, value in summary.items()]


def _figure(key: str, value: float) -> str:
    if key.startswith(_BYTES):
        return show.size(value)
    return f"{value:.2f}" if key in ("duration_s", "rss_per_live") else f"{value:.0f}"


def compare(arguments: argparse.Namespace) -> int:
    """The verb diff."""
    one, two = recording.load(arguments.one).summary(), recording.load(arguments.two).summary()
    keys = [key for key in one if key in two] + [
        key for key in (*one, *two) if (key in one) != (key in two)
    ]
    if arguments.json:
        show.print_json({key: {"a": one.get(key), "b": two.get(key)} for key in keys})
        return 0
    rows = []
    for key in keys:
        a, b = one.get(key), two.get(key)
        both = a is not None and b is not None
        rows.append(
            [
                key.replace("_", " "),
                _figure(key, a) if a is not None else "-",
                _figure(key, b) if b is not None else "-",
                _figure(key, b - a) if a is not None and b is not None else "-",
                f"{b / a:.2f}" if both and a and b is not None else "-",
            ]
        )
    show.console().print(show.table(("", "A", "B", "B - A", "B / A"), rows))
    return 0
