#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Compare memory allocators: micro-benchmarks, workloads, real programs and replayed traces.

  bench/run.py [run] [CASE|GROUP...]    measure, and write build/bench/results/DATE-TIME/
  bench/run.py compare A B              is B better than A? each is RESULT or RESULT:ALLOCATOR
  bench/run.py list                     the cases and the allocators

glibc, Quarry and the rivals that Debian has take turns; `--allocator NAME=/path.so` adds any other.
docs/MEASURING.md says how it is measured and how far the figures can be trusted.
"""
import argparse
import datetime
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import allocators
import command
import compare
import counts
import report
from allocators import BASELINE, BEST_RIVAL, QUARRY, RIVALS, Allocator, Failure
from case import GROUPS, ROOT, Case, all_cases, select
from machine import describe_machine
from measure import RunError
from session import Plan, Session

RESULTS = ROOT / "build" / "bench" / "results"
QUICK = Plan(runs=3, scale=0.05, idle=0, prove=False, memory=False, calls=False)
EPILOG = "Exit status: 0 if all went well, 1 if a case failed under glibc or Quarry, 2 for a wrong\
 command line, 130 if interrupted (what has been measured by then is still written)."


def parse_scale(text: str) -> float:
    """Turn a text into a scale."""
    try:
        value = float(text)
    except ValueError:
        value = 0
    if not 0 < value <= 100:
        raise argparse.ArgumentTypeError(f"'{text}' is not a scale: a number above 0, at most 100")
    return value


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Add what the verb run understands."""
    parser.add_argument("cases", nargs="*", metavar="CASE|GROUP", help="only these (default all)")
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"small tasks, {QUICK.runs} runs, glibc, Quarry and {BEST_RIVAL}: under two minutes;"
        " says little about times",
    )
    parser.add_argument(
        "--runs", type=allocators.parse_runs, metavar="N", help="rounds (default 5, quick 3)"
    )
    parser.add_argument(
        "--scale", type=parse_scale, metavar="F", help="share of the usual work (default 1)"
    )
    allocators.add_option(parser)
    parser.add_argument(
        "--with",
        action="append",
        default=[],
        dest="wanted",
        metavar="NAME",
        help="only these allocators beside glibc and those given by --allocator; may be repeated",
    )
    parser.add_argument(
        "--no-memory", action="store_true", help="leave out the runs that look at memory"
    )
    parser.add_argument("--no-calls", action="store_true", help="leave out the runs under strace")
    parser.add_argument("--no-counts", action="store_true", help="leave out instruction counts")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help=f"results (default {RESULTS.relative_to(ROOT)}/...)"
    )
    parser.add_argument(
        "--write-results", type=Path, metavar="PAGE", help="also put the tables into this page"
    )


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """Read the command line; a verb that is left out is run."""
    head, _, tail = str(__doc__).partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="run.py",
        usage="run.py [run|compare|list] [options] ...",
        description=f"{head}\n\n{tail}",
        epilog=EPILOG + " `run.py run --help` lists the options of a run.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    add_run_options(verbs.add_parser("run", help="measure (the default)", epilog=EPILOG))
    comparing = verbs.add_parser("compare", help="say what is better, worse, or cannot be told")
    comparing.add_argument("first", metavar="A", help="RESULT or RESULT:ALLOCATOR (quarry)")
    comparing.add_argument("second", metavar="B", help="the same")
    verbs.add_parser("list", help="list cases and allocators")
    if arguments[:1] not in (["run"], ["compare"], ["list"], ["-h"], ["--help"]):
        arguments = ["run", *arguments]
    return parser.parse_args(arguments)


def list_everything() -> None:
    """Print the cases by group, and the allocators."""
    cases = all_cases()
    width = max(len(case.name) for case in cases)
    for group in GROUPS:
        print(f"{group}:")
        for case in cases:
            if case.group == group:
                print(f"  {case.name:{width}}  {case.summary}")
    usable, missing = allocators.choose([], [])
    print("allocators:")
    for item in usable:
        print(f"  {item.name:{width}}  {item.library or 'libc.so.6'}")
    for line in missing:
        print(f"  {line}")


def _said(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT)
    return done.stdout.strip() if done.returncode == 0 else ""


def describe(allocator: Allocator) -> dict[str, str]:
    """Return an allocator's name, its file's name and the version of its package or sources."""
    rival = RIVALS.get(allocator.name)
    version = ""
    if rival and str(allocator.library).startswith("/usr/lib/"):
        version = _said("dpkg-query", "-W", "-f", "${Version}", rival.package)
    elif allocator.library is None:
        version = str(describe_machine()["glibc"])
    elif allocator.name == QUARRY:
        version = _said("git", "describe", "--always", "--dirty")
    library = os.path.basename(allocator.library or "libc.so.6")
    return {"name": allocator.name, "library": library, "version": version}


def keep_copy(allocator: Allocator, base: Path) -> Allocator:
    """Return the allocator with a copy of its library, unless Debian installed it: a run may take
    an hour, and building anew in the meantime must not change what is measured."""
    if allocator.library is None or allocator.library.startswith("/usr/lib/"):
        return allocator
    if not os.path.isfile(allocator.library):
        return allocator  # which check will say
    copy = base / "libraries" / allocator.name / os.path.basename(allocator.library)
    copy.parent.mkdir(parents=True)
    shutil.copy2(allocator.library, copy)
    return Allocator(allocator.name, os.path.realpath(copy))


def said_command(arguments: list[str]) -> str:
    """Return the command line for the report; files elsewhere lose their folder, for it says
    something of one machine only."""
    words = [word.replace(f"{ROOT}/", "") for word in arguments]
    words = [re.sub(r"(^|=)/.*/", r"\1.../", word) for word in words]
    return shlex.join(["bench/run.py", *words])


def choose_allocators(options: argparse.Namespace, base: Path) -> list[Allocator]:
    """Return the allocators to compare, each shown to provide malloc when preloaded."""
    wanted = list(options.wanted)
    if options.quick and not wanted:
        installed = allocators.find_library(RIVALS[BEST_RIVAL].soname)
        wanted = [QUARRY, *([BEST_RIVAL] if installed else [])]
    if wanted:
        wanted += [item.name for item in options.allocator]
    chosen, missing = allocators.choose(options.allocator, wanted)
    for line in missing:
        print(f"run.py: left out: {line}", file=sys.stderr)
    chosen = [keep_copy(item, base) for item in chosen]
    for item in chosen:
        item.check(base / "check")
    return chosen


def make_plan(options: argparse.Namespace) -> Plan:
    """Return what the options ask for."""
    plan = QUICK if options.quick else Plan()
    return Plan(
        runs=options.runs or plan.runs,
        scale=options.scale or plan.scale,
        idle=plan.idle,
        prove=plan.prove,
        memory=plan.memory and not options.no_memory,
        calls=plan.calls and not options.no_calls,
    )


def check_cases(cases: list[Case], calls: bool) -> None:
    """Raise Failure with a line for each thing that the cases need and that is not there."""
    missing = sorted({line for case in cases for line in case.missing()})
    if calls and shutil.which("strace") is None:
        missing.append("strace is not installed: apt-get install strace")
    if missing:
        raise Failure("\n".join(missing) + "\n`make bench` installs and builds all of this")


def collect(
    session: Session, options: argparse.Namespace, described: list[dict[str, str]]
) -> dict[str, Any]:
    """Return everything that is known, as it goes into the JSON file."""
    result: dict[str, Any] = {
        "format": report.FORMAT,
        "command": options.command,
        "date": datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
        "machine": describe_machine(),
        "allocators": described,
        "rounds": session.rounds,
        "scale": session.plan.scale,
        "idle_s": session.plan.idle,
        "cases": session.results(),
        "failures": session.failures,
        "instructions": {},
    }
    if not options.no_counts and not options.cases:
        for item in session.allocators:
            session.progress.step(f"counting instructions under {item.name}")
            try:
                result["instructions"][item.name] = counts.instructions(item.library)
            except RunError as error:
                text = f"instructions under {item.name}: {error}"
                result["failures"].append({"case": "", "allocator": item.name, "text": text})
    return result


def write_result(result: dict[str, Any], folder: Path) -> str:
    """Write all files of a result; return the tables."""
    folder.mkdir(parents=True, exist_ok=True)
    report.write_json(result, folder / "results.json")
    report.write_csv(result, folder / "cases.csv")
    report.write_micro_csv(result, folder / "micro.csv")
    text = report.format_report(result)
    (folder / "report.md").write_text(text)
    if complaint := command.draw(Path(__file__).with_name("plots.py"), str(folder)):
        print(f"run.py: no plots: {complaint}", file=sys.stderr)
    return text


def run(options: argparse.Namespace, base: Path) -> int:
    """Measure, write and print; return the exit status."""
    cases = select(options.cases)
    plan = make_plan(options)
    check_cases(cases, plan.calls and any(case.group != "micro" for case in cases))
    if options.write_results:
        report.around(options.write_results)  # now, and not after an hour
    session = Session(cases, choose_allocators(options, base), plan, base)
    # Now, for afterwards the sources may be others.
    described = [describe(item) for item in session.allocators]
    status = 0
    try:
        session.run()
    except KeyboardInterrupt:
        status = 130
        print("\nrun.py: interrupted; writing what there is", file=sys.stderr)
        options.no_counts = True
    result = collect(session, options, described)
    if not result["rounds"]:
        return status
    stamp = datetime.datetime.now().strftime("%Y-%m-%d-%H%M%S")
    folder = options.out or RESULTS / stamp
    text = write_result(result, folder)
    session.progress.line("done", left=False)
    print(text)
    if options.write_results:
        report.write_into(options.write_results, text)
    shown = folder.relative_to(ROOT) if folder.is_relative_to(ROOT) else folder
    print(f"tables, JSON, CSV and plots: {shown}/", file=sys.stderr)
    bad = [item for item in session.failures if item["allocator"] in (BASELINE, QUARRY)]
    return status or (1 if bad else 0)


def do_verb(options: argparse.Namespace, base: Path) -> int:
    """Do what the command line says; return the exit status."""
    if options.verb == "list":
        list_everything()
        return 0
    if options.verb == "compare":
        print(compare.compare(*map(compare.parse_side, (options.first, options.second))))
        return 0
    return run(options, base)


def main(arguments: list[str]) -> int:
    """Read the command line and do what it says; return the exit status."""
    options = parse_arguments(arguments)
    options.command = said_command(arguments)
    base = Path(tempfile.mkdtemp(prefix="quarry-bench-"))
    try:
        return command.exit_status("run.py", lambda: do_verb(options, base))
    finally:
        shutil.rmtree(base, ignore_errors=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main(sys.argv[1:]))
