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
MARK = "close(-1000"
MIXES = ("small", "mixed", "large", "bursts")


def faults(recipe, mix, seed):
    """The page faults of the section, without anything that looks on; -1 if it does not run."""
    result = tap.run(PROGRAM, recipe, mix, str(seed), preload=tap.LIBRARY)
    found = re.search(r"^faults=(\d+)$", result.stdout, re.MULTILINE)
    if result.returncode != 0 or not found:
        print("# " + result.stdout + result.stderr)
        return -1
    return int(found.group(1))


def section(trace):
    """What the section's thread called between its two marks.

    The thread that waits for it may be late in beginning to: its own calls are not the section's.
    """
    lines = trace.split("\n")
    owners = {line.split()[0] for line in lines if MARK in line}
    if len(owners) != 1:
        return None
    own = [line for line in lines if line.split()[:1] == list(owners)]
    marks = [i for i, line in enumerate(own) if MARK in line and "resumed>" not in line]
    return own[marks[0] + 1:marks[1]] if len(marks) == 2 else None


def calls(recipe, mix, seed):
    """The system calls of the section; its clock is one where no processor's clock is trusted."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "trace")
        result = tap.run("strace", "-f", "-o", path, "-E", f"LD_PRELOAD={tap.LIBRARY}", PROGRAM,
                         recipe, mix, str(seed))
        with open(path, encoding="utf-8") as file:
            lines = section(file.read())
    if result.returncode != 0 or lines is None:
        return [f"exit status {result.returncode}", result.stdout, result.stderr]
    return [line for line in lines if "clock_gettime(" not in line and "close resumed>" not in line]


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
for mix in MIXES:
    tap.equal(f"no page fault where blocks came and went before, unused: {mix}",
              faults("plain-used", mix, 1), 0)
if tap.check("strace is installed", shutil.which("strace")):
    for recipe in recipes:
        for mix in MIXES:
            tap.equal(f"no system call: {recipe}, {mix}", calls(recipe, mix, 3), [])
    seen = calls("none", "large", 1)
    late = "7 close(-1000 <unfinished ...>\n8 futex(0x1, FUTEX_WAIT, 9, NULL) = 0\n" \
           "7 <... close resumed>) = -1 EBADF\n{}7 close(-1000) = -1 EBADF\n"
    tap.equal("a call of the thread that waits is not the section's",
              section(late.format("")), ["7 <... close resumed>) = -1 EBADF"])
    tap.equal("a call of the section's thread is", section(late.format("7 brk(0) = 1\n"))[1:],
              ["7 brk(0) = 1"])
    tap.check("without the recipe there are system calls",
              any(re.search(r"\b(brk|mmap)\(", line) for line in seen), "\n".join(seen))
for mix in MIXES:
    tap.check(f"without the recipe there are faults: {mix}", faults("none", mix, 1) > 100)
tap.done()
