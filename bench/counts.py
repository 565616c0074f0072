#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Count what does not depend on the machine's speed, and compare with the accepted counts.

Instructions per operation inside the allocator's own library under callgrind (fixed loops,
bench/exact/loops.c), page faults and memory system calls of fixed phases (bench/exact/phases.c).
The loops bring a clock of their own: the same library gives the same counts every time, and a
regression shows even where times are noisy.
The accepted counts stand in bench/counts.json; instructions are kept for each version of
the compiler and machine.
"""
import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from allocators import LIBRARY
from measure import MEMORY_CALLS, RunError, count_system_calls

HERE = Path(__file__).resolve().parent
EXACT = HERE.parent / "build" / "bench" / "exact"
TABLE = HERE / "counts.json"
# The compiler's flags that the accepted instruction counts belong to.
FLAGS = "-O2 -g"
PHASES = ("first", "small", "again", "changing", "large", "huge", "growing", "threads", "trim")
# Not an allocator's, although it may call them.
SYSTEM_OBJECTS = ("libc.so", "libm.so", "libstdc++", "libgcc_s", "ld-linux", "libdl", "librt", "vg")
ACCEPT = "if this is meant: bench/counts.py --accept, and commit bench/counts.json"
# The kernel's version moves faults and calls a little (where mappings lie, how page tables fill):
# this share and so many more are no regression. Instructions have to be the same.
ALLOWED = {"faults": (0.02, 4), "system calls": (0.02, 1)}
Counts = dict[str, float]


def _environment(library: str | None) -> dict[str, str]:
    variables = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
    if library:
        variables["LD_PRELOAD"] = library
    return variables


def object_cost(dump: str, counted: Callable[[str], bool]) -> int:
    """Return the instructions that a dump of callgrind attributes to some object files themselves.

    A line "calls=" is followed by one with the callee's cost, which is not the caller's own; names
    are given in full once, then by number.
    """
    names: dict[str, str] = {}
    inside, skip, total = False, False, 0
    for line in dump.splitlines():
        if match := re.match(r"ob=(\(\d+\))(?: (.*))?$", line):
            names.setdefault(match[1], match[2] or "")
            inside = counted(names[match[1]])
        elif match := re.match(r"cob=(\(\d+\)) (.*)$", line):
            names.setdefault(match[1], match[2])
        elif line.startswith("calls="):
            skip = True
        elif match := re.match(r"(?:\+\d+|-\d+|\*|\d+) (\d+)$", line):
            total += int(match[1]) if inside and not skip else 0
            skip = False
    return total


def is_allocator(path: str, library: str | None) -> bool:
    """Tell whether an object is the allocator's: for glibc libc, else its library and what that
    brings, for some consist of two."""
    name = os.path.basename(path)
    if library is None:
        return name.startswith("libc.so")
    # callgrind does not know where code in sections of an unusual name, as tcmalloc's, belongs.
    return name == "???" or ".so" in name and not name.startswith(SYSTEM_OBJECTS)


def instructions(library: str | None) -> Counts:
    """Return instructions per operation of each loop, inside the allocator's own objects."""
    program = EXACT / "loops"
    if not program.is_file():
        raise RunError("build/bench/exact/loops is not built: make bench-programs")
    with tempfile.TemporaryDirectory(prefix="quarry-counts-") as folder:
        command = ["valgrind", "--tool=callgrind", "-q", f"--callgrind-out-file={folder}/out"]
        try:
            done = subprocess.run(
                [*command, str(program)],
                env=_environment(library),
                capture_output=True,
                text=True,
                timeout=300,
                check=False,
            )
        except FileNotFoundError:
            raise RunError("valgrind is not installed: apt-get install valgrind") from None
        except subprocess.TimeoutExpired:
            raise RunError("did not finish within 300 s under callgrind") from None
        if done.returncode != 0:
            raise RunError(f"{program.name} under callgrind failed: {done.stderr.strip()[:200]}")
        found: Counts = {}
        for dump in sorted(Path(folder).iterdir(), key=lambda path: (len(path.name), path.name)):
            text = dump.read_text()
            if match := re.search(r"^desc: Trigger: Client Request: (\S+) (\d+)$", text, re.M):
                cost = object_cost(text, lambda path: is_allocator(path, library))
                found[match[1]] = round(cost / int(match[2]), 2)
    if not found or not any(found.values()):
        raise RunError(f"callgrind counted nothing in {library or 'libc'}")
    return found


def faults(library: str | None) -> Counts:
    """Return the page faults of each phase."""
    found: Counts = {}
    for phase in PHASES:
        done = subprocess.run(
            [str(EXACT / "phases"), phase],
            env=_environment(library),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if done.returncode != 0:
            raise RunError(f"phase {phase}: {done.stderr.strip() or done.returncode}")
        found[phase] = int(done.stdout)
    return found


def system_calls(library: str | None) -> Counts:
    """Return the memory system calls of each phase; those of a program that does nothing are
    ld.so's own, and are taken off."""
    found: dict[str, dict[str, int]] = {}
    with tempfile.TemporaryDirectory(prefix="quarry-counts-") as folder:
        where = Path(folder)
        for phase in ("nothing", *PHASES):
            command = [str(EXACT / "phases"), phase]
            counted = count_system_calls(command, where, _environment(library), where / phase, 120)
            if counted.exit_status != 0:
                raise RunError(f"phase {phase} under strace: exit status {counted.exit_status}")
            found[phase] = {kind: counted.by_name.get(kind, 0) for kind in MEMORY_CALLS}
    plain = found.pop("nothing")
    return {
        f"{phase} {kind}": counts[kind] - plain[kind]
        for phase, counts in found.items()
        for kind in MEMORY_CALLS
        if counts[kind] != plain[kind]
    }


def compiler() -> str | None:
    """Return the compiler that built the library, its version and the machine; None if with other flags."""
    words = (LIBRARY.parent / "flags").read_text()
    built = words.split()[0]
    version = subprocess.run(
        [built, "--version"], capture_output=True, text=True, check=False
    ).stdout.partition("\n")[0]
    number = re.search(r"\) (\d+\.\d+)|version (\d+\.\d+)", version)
    if not number or f" {FLAGS} " not in words:
        return None
    name = "clang" if "clang" in version else "gcc"
    return f"{name} {number[1] or number[2]} {platform.machine()}"


@dataclass(frozen=True)
class Change:
    """A count that is not the accepted one."""

    kind: str
    name: str
    accepted: float | None
    found: float | None

    @property
    def worse(self) -> bool:
        """Whether it is a regression: more than was accepted, a count that nobody has seen, or one
        that is gone: what is not counted any more is not checked any more."""
        if self.accepted is None or self.found is None:
            return True
        share, few = ALLOWED.get(self.kind, (0, 0))
        return self.found > self.accepted * (1 + share) + few

    @property
    def better(self) -> bool:
        """Whether it is so much less that the table should say so."""
        return not self.worse and Change(self.kind, self.name, self.found, self.accepted).worse

    @property
    def direction(self) -> str:
        """Return worse, better, or near."""
        return "worse" if self.worse else "better" if self.better else "near"

    def __str__(self) -> str:
        def show(value: float | None) -> str:
            return "none" if value is None else f"{value:g}"

        return f"{self.kind}, {self.name}: {show(self.found)}, accepted {show(self.accepted)}"


def compare(kind: str, found: Counts, accepted: Counts) -> Iterator[Change]:
    """Yield what differs; a system call that is absent on one side is zero there."""
    sparse = kind == "system calls"
    for name in dict.fromkeys([*accepted, *found]):
        now = found.get(name, 0 if sparse else None)
        before = accepted.get(name, 0 if sparse else None)
        if now != before:
            yield Change(kind, name, before, now)


def load(path: Path = TABLE) -> dict[str, Any]:
    """Return the accepted counts."""
    try:
        return dict(json.loads(path.read_text()))
    except FileNotFoundError:
        return {"instructions": {}, "faults": {}, "system calls": {}}
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not JSON ({error}); restore it with git checkout") from None


def count_all(library: str) -> dict[str, Any]:
    """Return the counts of this build, laid out as in the table."""
    version = compiler()
    return {
        "instructions": {version: instructions(library)} if version else {},
        "faults": faults(library),
        "system calls": system_calls(library),
    }


def changes(found: dict[str, Any], accepted: dict[str, Any]) -> list[Change]:
    """Return all differences; instructions of a compiler that the table lacks are none."""
    listed: list[Change] = []
    for version, counts in found["instructions"].items():
        if version in accepted["instructions"]:
            listed += compare("instructions", counts, accepted["instructions"][version])
    for kind in ("faults", "system calls"):
        listed += compare(kind, found[kind], accepted[kind])
    return listed


def build() -> None:
    """Build what is counted, lest the counts of an earlier state be accepted."""
    done = subprocess.run(
        ["make", "-s", "all", "bench-programs"],
        cwd=HERE.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RunError(f"make all bench-programs failed: {done.stderr.strip()[:200]}")


def accept(found: dict[str, Any], accepted: dict[str, Any]) -> None:
    """Write the counts of this build into the table; other compilers' stay."""
    merged = {**found, "instructions": {**accepted["instructions"], **found["instructions"]}}
    TABLE.write_text(json.dumps(merged, indent=1, sort_keys=True) + "\n")


def main() -> int:
    """Do what the command line says; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="counts.py",
        description=str(__doc__),
        epilog="Exit status: 0 if no count is above the accepted one, 1 if one is, 2 for an error.",
    )
    parser.add_argument(
        "--accept", action="store_true", help="build, and write the counts into counts.json"
    )
    options = parser.parse_args()
    try:
        if options.accept:
            build()
        accepted, found = load(), count_all(str(LIBRARY))
        listed = changes(found, accepted)
        for change in listed:
            print(f"{change.direction}: {change}")
        if options.accept:
            accept(found, accepted)
            print(f"{len(listed)} counts changed in {TABLE.relative_to(HERE.parent)}")
            return 0
        if not found["instructions"]:
            print(f"instructions: not compared, for the library was not built with '{FLAGS}'")
        worse = [change for change in listed if change.worse]
        print(f"{len(worse)} worse, {sum(change.better for change in listed)} better")
        if worse:
            print(ACCEPT)
        return 1 if worse else 0
    except (RunError, OSError, ValueError) as error:
        print(f"counts.py: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
