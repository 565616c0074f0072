#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
# runner: timeout=600
"""Real programs give the same output, byte by byte, with Quarry preloaded as without.

The programs and tasks are those of the demonstration (tools/demo), at a small size.  Each also has
to use Quarry's malloc and free throughout, as ld.so's own trace shows.  The debug build is the same
library with its assertions.
"""
import os
import sys
import tempfile
from pathlib import Path

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.dirname(HERE), os.path.join(HERE, "..", "..", "tools", "demo")]
import tap
from runner import BASELINE, Allocator, Bench, Failure
from workloads import WORKLOADS

ALLOCATORS = [
    Allocator(variant, os.path.realpath(os.path.join(tap.BUILD, variant, "libquarry.so")))
    for variant in ("release", "debug")
]


def attempt(name, action):
    """One test: the action raises no Failure."""
    try:
        action()
    except Failure as failure:
        return tap.check(name, False, str(failure))
    return tap.check(name, True)


def test_workload(workload, folder):
    missing = workload.missing()
    if not tap.check(f"{workload.name} is installed", not missing,
                     "\n".join(f"{program}: apt-get install {package}"
                               for program, package in missing.items())):
        return
    bench = Bench(workload, workload.small, folder)
    if not attempt(f"{workload.name} runs under glibc",
                   lambda: bench.prove_allocator(Allocator(BASELINE))):
        return
    for allocator in ALLOCATORS:
        attempt(f"{workload.name} gives the same output on Quarry ({allocator.name})",
                lambda: (bench.measure(allocator), bench.prove_allocator(allocator)))


with tempfile.TemporaryDirectory(prefix="quarry-real-") as top:
    usable = [attempt(f"build/{allocator.name}/libquarry.so can be preloaded",
                      lambda: allocator.check(Path(top, "check"))) for allocator in ALLOCATORS]
    if all(usable):
        for each in WORKLOADS:
            test_workload(each, Path(top))
tap.done()
