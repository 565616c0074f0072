# SPDX-License-Identifier: MIT
"""Writes what a run of the long suite gave into docs/TESTING.md, between two comments."""
import datetime
import os
import platform
import re
import subprocess

import tap

PAGE = os.path.join(tap.ROOT, "docs", "TESTING.md")
BEGIN, END = "<!-- results: written by tests/soak/run.py --write-results -->\n", "<!-- end -->\n"


def said(*command):
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tap.ROOT)
    return result.stdout.strip() if result.returncode == 0 else ""


def table(header, rows):
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(map(str, line)) + " |\n" for line in lines)


def text_of(runs, seconds, seed):
    """The section: when and of what, a row per program, a row per job."""
    commit = said("git", "rev-parse", "--short", "HEAD")
    changed = " and changes" if said("git", "status", "--porcelain", "--", "src", "preload",
                                     "tools", "tests") else ""
    text = (f"{datetime.date.today():%Y-%m-%d}, commit {commit or 'unknown'}{changed}, "
            f"{seconds / 60:.0f} minutes, seed {seed:#x}, {os.cpu_count()} processors, "
            f"{platform.machine()}, Linux {platform.release().split('-')[0]}.\n\n")
    text += table(["program", "passed", "failed", "not possible", "seconds"], [
        [run.test.label, len(run.outcome.passed), len(run.outcome.failed), len(run.outcome.skipped),
         f"{run.outcome.seconds:.0f}"] for run in runs])
    for run in runs:
        for name, why in run.outcome.failed:
            text += f"\nFailed: {run.test.label}, {name}" + (f" ({why})" if why else "") + ".\n"
    figures = {name: value for run in runs for name, value in run.figures.items()}
    jobs = [name.removeprefix("runs of ") for name in figures if name.startswith("runs of ")]
    if jobs:
        text += f"\nThe allocator: {figures.get('runs', '?')} runs.\n\n" + table(
            ["job", "runs", "the last one"],
            [[job, figures[f"runs of {job}"], figures.get(job, "")] for job in jobs])
    return text


def write(runs, seconds, seed):
    """Replaces what is between the comments."""
    with open(PAGE, encoding="utf-8") as file:
        page = file.read()
    section = re.compile(re.escape(BEGIN) + ".*?" + re.escape(END), re.DOTALL)
    if not section.search(page):
        raise SystemExit(f"run.py: {PAGE} has no comments to write the results between")
    page = section.sub(lambda _: BEGIN + "\n" + text_of(runs, seconds, seed) + "\n" + END, page)
    with open(PAGE, "w", encoding="utf-8") as file:
        file.write(page)
    print(f"results: {os.path.relpath(PAGE, tap.ROOT)}")
