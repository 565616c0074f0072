#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""After the recipe of docs/REALTIME.md a section makes no page fault and no system call.

The sizes are drawn at random; seven eighths of the reserved memory are in use at most.  strace counts the calls:
quarry rt, which runs the same program, counts by means of its own.
"""
import os
import re
import shutil
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import tap

PROGRAM = os.path.join(tap.BUILD, "tools", "rt", "realtime")
MARK = "close(-1000)"
MIXES = ("small", "mixed", "large", "bursts")


def faults(recipe, mix, seed):
    """The page faults of the section, without anything that looks on; -1 if it does not run."""
    result = tap.run(PROGRAM, recipe, mix, str(seed), preload=tap.LIBRARY)
    found = re.search(r"^faults=(\d+)$", result.stdout, re.MULTILINE)
    if result.returncode != 0 or not found:
        print("# " + result.stdout + result.stderr)
        return -1
    return int(found.group(1))


def calls(recipe, mix, seed):
    """The system calls of the section; its clock is one where no processor's clock is trusted."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "trace")
        result = tap.run("strace", "-f", "-o", path, "-E", f"LD_PRELOAD={tap.LIBRARY}", PROGRAM,
                         recipe, mix, str(seed))
        with open(path, encoding="utf-8") as file:
            parts = file.read().split(MARK)
    if result.returncode != 0 or len(parts) != 3:
        return [f"exit status {result.returncode}", result.stdout, result.stderr]
    lines = parts[1].split("\n")[1:-1]
    return [line for line in lines if "clock_gettime(" not in line]


def may_lock():
    """Whether this process may lock as much memory as the test needs."""
    import resource
    return resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] == resource.RLIM_INFINITY or \
        os.geteuid() == 0


recipes = ["plain", "plain-thread"]
if may_lock():
    recipes += ["locked", "locked-thread"]
    tap.equal("the recipe with mlockall", faults("locked", MIXES[0], 3), 0)
else:
    tap.skip("the recipe with mlockall", "the limit of locked memory is too low")
for recipe in recipes:
    for mix in MIXES:
        for seed in (1, 2):
            tap.equal(f"no page fault: {recipe}, {mix}, seed {seed}", faults(recipe, mix, seed), 0)
if tap.check("strace is installed", shutil.which("strace")):
    for recipe in recipes:
        for mix in MIXES:
            tap.equal(f"no system call: {recipe}, {mix}", calls(recipe, mix, 3), [])
    seen = calls("none", "large", 1)
    tap.check("without the recipe there are system calls",
              any(re.search(r"\b(brk|mmap)\(", line) for line in seen), "\n".join(seen))
for mix in MIXES:
    tap.check(f"without the recipe there are faults: {mix}", faults("none", mix, 1) > 100)
tap.done()
