#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Run real programs, unmodified, on Quarry and on glibc's malloc, and compare.

Each program gets the same task under each allocator, in turns. Its output, and the files it writes,
must be the same bytes; then time, peak memory, page faults and system calls are shown side by side.
Before that, ld.so is asked to prove that each program's malloc and free are those of the allocator.
"""
import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import report
from runner import BASELINE, Allocator, Bench, Failure
from workloads import WORKLOADS, Workload, select

# In bench/, which runner has added to the path.
import command
from allocators import parse_allocator, parse_runs
from progress import Progress

ROOT = Path(__file__).resolve().parents[2]
PLOT = Path(__file__).with_name("plot.py")
LIBRARY = ROOT / "build" / "release" / "libquarry.so"
# What the extra runs cost beside a measured one, for the estimate of the time left.
PROOF_COST, STRACE_COST = 0.3, 2.0


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="demo.py",
        description=__doc__.split("\n\n", 1)[0],
        epilog=__doc__.split("\n\n", 1)[1]
        + "\nPeaks are read from /proc at the moment each process ends; nothing is sampled"
        " (bench/measure.py says how, and how exactly). Exit status: 0 if all went well,"
        " 1 if a program failed or its output differed, 2 for a wrong command line, 130 if"
        " interrupted.",
    )
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="NAME",
        help="run only this program (--list names them); may be given more than once",
    )
    parser.add_argument(
        "--runs",
        type=parse_runs,
        default=3,
        metavar="N",
        help="measured runs of each program under each allocator; medians are shown (default 3)",
    )
    parser.add_argument(
        "--small",
        action="store_true",
        help="give the programs small tasks: a quick check, the times say nothing",
    )
    parser.add_argument(
        "--allocator",
        action="append",
        default=[],
        type=parse_allocator,
        metavar="NAME=FILE.so",
        help="a further allocator to preload, or with the name quarry another build of it"
        f" (default {LIBRARY.relative_to(ROOT)}); may be given more than once",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure as JSON")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write medians and ratios as CSV")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw time and memory ratios")
    parser.add_argument(
        "--keep", action="store_true", help="keep the temporary directory and say where it is"
    )
    parser.add_argument("--list", action="store_true", help="list the programs and their tasks")
    return parser.parse_args(arguments)


def list_programs() -> None:
    """Print each program with its task and the Debian packages it needs."""
    width = max(len(workload.name) for workload in WORKLOADS)
    for workload in WORKLOADS:
        packages = ", ".join(sorted(set(workload.packages.values())))
        print(f"{workload.name:{width}}  {workload.about} (package {packages})")


def missing_programs(workloads: list[Workload]) -> list[str]:
    """Return a line for each program that is not installed."""
    missing: dict[str, str] = {}
    for workload in workloads:
        missing.update(workload.missing())
    if shutil.which("strace") is None:
        missing["strace"] = "strace"
    return [
        f"{program} is not installed: apt-get install {package}"
        for program, package in sorted(missing.items())
    ]


class Demo:
    """All programs under all allocators."""

    def __init__(
        self, options: argparse.Namespace, allocators: list[Allocator], base: Path
    ) -> None:
        self.options = options
        self.allocators = allocators
        self.base = base
        self.workloads = select(options.only)
        self.failures: list[str] = []
        steps = len(allocators) * (PROOF_COST + STRACE_COST + options.runs)
        self.progress = Progress(sum(workload.seconds for workload in self.workloads) * steps)

    def _measure(self, workload: Workload, title: str) -> report.Results:
        """Prove, count and measure one program; raises Failure."""
        progress, runs = self.progress, self.options.runs
        small = Bench(workload, workload.small, self.base / "small")
        for allocator in self.allocators:
            progress.step(f"{title}: checking whose malloc it uses under {allocator.name}")
            small.prove_allocator(allocator)
            progress.advance(workload.seconds * PROOF_COST)
        progress.step(f"{title}: preparing")
        size = workload.small if self.options.small else workload.full
        bench = Bench(workload, size, self.base / "full")
        calls = {}
        for allocator in self.allocators:
            progress.step(f"{title}: counting system calls under {allocator.name}")
            calls[allocator.name] = bench.count_calls(allocator)
            progress.advance(workload.seconds * STRACE_COST)
        measured: dict[str, list[dict[str, Any]]] = {item.name: [] for item in self.allocators}
        for number in range(runs):
            for allocator in self.allocators:
                progress.step(f"{title}: run {number + 1} of {runs} under {allocator.name}")
                measured[allocator.name].append(bench.measure(allocator).as_dict())
                progress.advance(workload.seconds)
        program: report.Results = {
            "name": workload.name,
            "task": workload.about,
            "packages": sorted(set(workload.packages.values())),
            "results": {
                name: report.summarise(runs_of, calls[name].as_dict())
                for name, runs_of in measured.items()
            },
        }
        report.add_ratios(program, BASELINE)
        return program

    def _remove_files(self, workload: Workload) -> None:
        for part in ("small", "full"):
            shutil.rmtree(self.base / part / workload.name, ignore_errors=True)

    def run(self) -> dict[str, Any]:
        """Run everything; failures are collected, and the program left out of the report."""
        programs = []
        for number, workload in enumerate(self.workloads, 1):
            title = f"[{number:2}/{len(self.workloads)}] {workload.name}"
            before = self.progress.done
            try:
                programs.append(self._measure(workload, title))
                self.progress.line(f"{title}: same output under every allocator")
                if not self.options.keep:
                    self._remove_files(workload)
            except Failure as failure:
                self.failures.append(str(failure))
                self.progress.line(f"{title}: FAILED: {failure}", left=False)
                steps = len(self.allocators) * (PROOF_COST + STRACE_COST + self.options.runs)
                self.progress.total -= workload.seconds * steps - (self.progress.done - before)
        return {
            "format": report.FORMAT,
            "machine": report.describe_machine(),
            "baseline": BASELINE,
            "allocators": [
                {"name": item.name, "library": os.path.basename(item.library or "libc.so.6")}
                for item in self.allocators
            ],
            "runs": self.options.runs,
            "size": "small" if self.options.small else "full",
            "programs": programs,
            "geometric_mean": {
                item.name: report.geometric_means(programs, item.name)
                for item in self.allocators[1:]
            },
            "failures": self.failures,
        }


def check_outputs(options: argparse.Namespace) -> None:
    """Raise what would keep the files from being written after minutes of work."""
    for path in filter(None, (options.json, options.csv, options.svg)):
        folder = path.parent
        if not folder.is_dir():
            raise Failure(f"{path}: there is no folder {folder}")
        if path.is_dir() or not os.access(path if path.exists() else folder, os.W_OK):
            raise Failure(f"{path} cannot be written")
    if options.svg and (complaint := command.draw(PLOT, "--check", str(options.svg))):
        raise Failure(f"no picture: {complaint}")


def write_files(results: dict[str, Any], options: argparse.Namespace, base: Path) -> None:
    """Write what --json, --csv and --svg ask for."""
    text = json.dumps(results, indent=1) + "\n"
    if options.json:
        options.json.write_text(text)
    if options.csv:
        report.write_csv(results, options.csv)
    if options.svg and results["programs"]:
        saved = base / "results.json"
        saved.write_text(text)
        if complaint := command.draw(PLOT, str(saved), str(options.svg)):
            raise Failure(f"no picture: {complaint}")


def choose_allocators(options: argparse.Namespace, base: Path) -> list[Allocator]:
    """Return glibc, Quarry and what was asked for besides, each found to work."""
    chosen = {"quarry": Allocator("quarry", str(LIBRARY))}
    chosen.update((allocator.name, allocator) for allocator in options.allocator)
    if not os.path.isfile(str(chosen["quarry"].library)):
        raise Failure(f"there is no library {chosen['quarry'].library}; build it with: make")
    for allocator in chosen.values():
        allocator.check(base / "check")
    return [Allocator(BASELINE), *chosen.values()]


def run_demo(options: argparse.Namespace, base: Path) -> bool:
    """Run, print and write everything; return whether all went well."""
    demo = Demo(options, choose_allocators(options, base), base)
    results = demo.run()
    if results["programs"]:
        colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        print(report.format_report(results, colour), flush=True)
    write_files(results, options, base)
    if demo.failures:
        sys.stdout.flush()
        count = len(demo.failures)
        print(f"\ndemo.py: {count} program{'s' * (count > 1)} failed:", file=sys.stderr)
        for failure in demo.failures:
            print(f"  {failure.splitlines()[0]}", file=sys.stderr)
    return not demo.failures


def run_checked(options: argparse.Namespace, base: Path) -> int:
    """Run the demonstration if all programs are there; keep the files of one that has failed."""
    check_outputs(options)
    missing = missing_programs(select(options.only))
    if missing:
        raise Failure("\ndemo.py: ".join(missing))
    good = run_demo(options, base)
    options.keep = options.keep or not good
    if options.keep:
        print(f"demo.py: inputs, outputs and repeat-*.sh are kept in {base}", file=sys.stderr)
    return 0 if good else 1


def main(arguments: list[str] | None = None) -> int:
    """Read the command line and do what it says; return the exit status."""
    options = parse_arguments(arguments)
    if options.list:
        list_programs()
        return 0
    base = Path(tempfile.mkdtemp(prefix="quarry-demo-"))
    try:
        return command.exit_status("demo.py", lambda: run_checked(options, base))
    finally:
        if not options.keep:
            shutil.rmtree(base, ignore_errors=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
