# SPDX-License-Identifier: MIT
"""Replayed traces: the allocations of a real program, without the program.

The trace is recorded when the case is prepared, from the task of the case of the same name in
bench/real.py. Its replay has the program's sizes, lifetimes and threads, but not its computing: so
differences between allocators show undiluted. docs/TRACE.md says what a replay cannot tell.
"""
import os
import shutil
import subprocess

import real
from allocators import Failure
from case import BUILT, ROOT, Case, Place
from measure import RunError, finish

TOOLS = BUILT / "trace"
QUARRY = ROOT / "build" / "release" / "libquarry.so"
# What is replayed, and what a replay takes.
SECONDS = {"perl": 0.5, "sqlite3": 0.5, "redis": 0.5, "gcc": 0.5, "python3-malloc": 1.0}


def _do(command: list[str], source: Place, environment: dict[str, str], limit_s: float) -> None:
    """Run one of the tools; raise RunError with its last line if it fails or hangs."""
    with subprocess.Popen(
        command,
        cwd=source.work,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as child:
        complaint = finish(child, limit_s)
    if child.returncode != 0:
        raise RunError((complaint.strip().splitlines() or ["no message"])[-1])


def record(program: Case, place: Place, limit_s: float) -> None:
    """Record the program's largest process into place.inputs/trace; raise Failure."""
    source = Place(place.directory / "program", place.scale)
    for directory in (source.inputs, source.work):
        directory.mkdir(parents=True)
    program.prepare(source)
    trace = place.inputs / "trace"
    tool = [str(TOOLS / "quarry_trace"), "-o", str(trace), "--largest", "--library", str(QUARRY)]
    check = [str(TOOLS / "quarry_replay"), "--check-only", str(trace)]
    environment = program.environment(source)
    for command in ([*tool, "--", *program.command(source)], check):
        try:
            _do(command, source, environment, limit_s)
        except RunError as error:
            name = os.path.basename(command[0])
            raise Failure(f"{name} failed for {program.name}: {error}") from None
    shutil.rmtree(source.directory)


def _case(program: Case, seconds: float) -> Case:
    def command(place: Place) -> list[str]:
        # What prepare has recorded was checked there.
        words = [str(TOOLS / "quarry_replay"), "--no-check"]
        if place.idle:
            words += ["--idle", f"{place.idle:g}"]
        if place.report:
            words += ["--report", str(place.report)]
        return [*words, str(place.inputs / "trace")]

    return Case(
        name=f"replay-{program.name}",
        group="trace",
        summary=f"the allocations of {program.name}'s task, recorded and replayed",
        seconds=seconds,
        command=command,
        prepare=lambda place: record(program, place, max(60.0, 30 * program.seconds)),
        threads=program.threads,
        report=True,
        samples=True,
        programs=program.programs,
        files=(
            TOOLS / "quarry_trace",
            TOOLS / "quarry_replay",
            TOOLS / "libquarry_trace.so",
            QUARRY,
        ),
    )


def cases() -> list[Case]:
    """Return the cases of this group."""
    programs = {program.name: program for program in real.cases()}
    return [_case(programs[name], seconds) for name, seconds in SECONDS.items()]
