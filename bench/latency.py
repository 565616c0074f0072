#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Measure how long single calls of malloc and free take: median, percentiles, and the worst.

bench/latency/latency.c times each call of a mixed load; the allocators take turns. What is printed is
the median over the rounds of each figure, in nanoseconds, and the worst call of all rounds. The last
row is Quarry with the settings of docs/REALTIME.md.
"""
import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
from typing import Any

import allocators
import command
from allocators import QUARRY, Allocator, Failure
from case import BUILT

PROGRAM = BUILT / "latency" / "latency"
FIGURES = ("p50", "p99", "p99.9", "p99.99", "worst")
CALLS = ("malloc", "free")
REALTIME = {"MALLOC_TRIM_THRESHOLD_": "-1", "MALLOC_MMAP_MAX_": "0"}
LIMIT_S = 600
Round = dict[str, dict[str, float]]


def measure(allocator: Allocator, variables: dict[str, str], options: argparse.Namespace) -> Round:
    """Return the figures of one run."""
    environment = {"PATH": "/usr/bin:/bin", **variables}
    if allocator.library:
        environment["LD_PRELOAD"] = allocator.library
    try:
        done = subprocess.run(
            [PROGRAM, str(options.threads), str(options.calls)],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=LIMIT_S,
        )
    except OSError as error:
        raise Failure(f"{PROGRAM}: {error.strerror}; `make bench-programs` builds it") from None
    except subprocess.TimeoutExpired:
        raise Failure(f"{allocator.name}: no end after {LIMIT_S} s") from None
    if done.returncode != 0:
        raise Failure(f"{allocator.name}: exit status {done.returncode}: {done.stderr.strip()}")
    found: dict[str, Any] = json.loads(done.stdout)
    return {call: found[call] for call in CALLS}


def summarise(rounds: list[Round]) -> Round:
    """Return the median over rounds of each figure; of the worst, the worst."""
    return {
        call: {
            figure: (max if figure == "worst" else statistics.median)(
                [one[call][figure] for one in rounds]
            )
            for figure in FIGURES
        }
        for call in CALLS
    }


def table(rows: dict[str, Round]) -> str:
    """Return the figures as a Markdown table."""
    heads = [f"{call} {figure}" for call in CALLS for figure in FIGURES]
    lines = ["| ns | " + " | ".join(heads) + " |", "|---|" + "---|" * len(heads)]
    for name, row in rows.items():
        cells = [f"{row[call][figure]:,.0f}".replace(",", " ") for call in CALLS for figure in FIGURES]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    head, _, tail = str(__doc__).partition("\n\n")
    parser = argparse.ArgumentParser(prog="latency.py", description=head, epilog=tail)
    number = allocators.parse_runs
    parser.add_argument("--runs", type=number, default=5, metavar="N", help="rounds (default 5)")
    parser.add_argument("--threads", type=number, default=2, metavar="N", help="default 2")
    parser.add_argument(
        "--calls", type=number, default=2000000, metavar="N", help="pairs per thread (2 000 000)"
    )
    allocators.add_option(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> int:
    """Measure and print; return the exit status."""
    chosen, missing = allocators.choose(options.allocator, [])
    for line in missing:
        print(f"latency.py: left out: {line}", file=sys.stderr)
    kinds = [(item.name, item, {}) for item in chosen]
    kinds += [(f"{QUARRY}, real time", item, REALTIME) for item in chosen if item.name == QUARRY]
    rounds: dict[str, list[Round]] = {name: [] for name, _, _ in kinds}
    for item in chosen:
        if item.library and not os.path.isfile(item.library):
            raise Failure(f"{item.name}: there is no library {item.library}")
    for turn in range(options.runs):
        for name, item, variables in kinds:
            print(f"\rround {turn + 1} of {options.runs}: {name:24}", end="", file=sys.stderr)
            rounds[name].append(measure(item, variables, options))
    print(file=sys.stderr)
    rows = {name: summarise(found) for name, found in rounds.items()}
    print(json.dumps(rows, indent=1) if options.json else table(rows))
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    chosen_options = parse_arguments(sys.argv[1:])
    sys.exit(command.exit_status("latency.py", lambda: run(chosen_options)))
