#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""QUARRY_LIMIT: malloc fails where the limit is reached, and goes on when memory was freed.

Also in a real cgroup, where one can be made.
"""
import os
import re
import signal
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.dirname(HERE), HERE]
import cgroup
import tap

PROGRAM = os.path.join(tap.BUILD, "system", "softlimit")
MIB = 1024 * 1024
LIMIT = 64 * MIB


def figures(result):
    found = re.findall(r"^(\w+)=(\d+)$", result.stdout, re.MULTILINE)
    return {name: int(value) for name, value in found} if result.returncode == 0 else {}


def check_limit(size, other):
    result = tap.run(PROGRAM, str(size), str(other), str(4 * LIMIT), preload=tap.LIBRARY,
                     QUARRY_LIMIT=str(LIMIT))
    found = figures(result)
    name = f"blocks of {size}, then {other}"
    tap.check(f"malloc fails at the limit, not far below it: {name}",
              0.85 * LIMIT < found.get("first", 0) <= LIMIT, result.stdout + result.stderr)
    tap.check(f"what was freed serves other sizes: {name}",
              0.3 * LIMIT < found.get("second", 0) <= 0.6 * LIMIT, found)
    tap.check(f"the heap has no more resident: {name}",
              0 < found.get("resident", 0) <= LIMIT + MIB, found)
    tap.check(f"each request that failed is counted once: {name}",
              found.get("limit") == LIMIT and found.get("refusals") == 3, found)


def check_explained():
    """The first refusal is told to who wants to know, with figures that fit the limit."""
    line = (r"quarry: QUARRY_LIMIT: (\d+) bytes refused: (\d+) are held, the limit is (\d+); (\d+) of "
            r"them are free, but beside live blocks or in threads' caches; see 'quarry why (\d+)'\n")
    for size, other in ((1000, 50000), (50000, 100), (300000, 20000)):
        result = tap.run(PROGRAM, str(size), str(other), str(4 * LIMIT), preload=tap.LIBRARY,
                         QUARRY_LIMIT=str(LIMIT), QUARRY_VERBOSE="1")
        found = re.fullmatch(line, result.stderr)
        asked, held, limit, free, _ = map(int, found.groups()) if found else (0, 0, 0, 0, 0)
        tap.check(f"the first refusal is explained, once: blocks of {size}, then {other}",
                  found and asked >= min(size, 4096) and LIMIT - asked < held <= LIMIT and
                  limit == LIMIT and free < held // 8, result.stderr)
    tap.equal("and not unless it is asked for",
              tap.run(PROGRAM, "1000", "50000", str(4 * LIMIT), preload=tap.LIBRARY,
                      QUARRY_LIMIT=str(LIMIT)).stderr, "")


def check_cgroup(folder):
    if not folder:
        tap.skip("QUARRY_LIMIT=auto in a cgroup", "no cgroup with a memory limit can be made here")
        return
    command = cgroup.inside(folder, "env", f"LD_PRELOAD={tap.LIBRARY}", PROGRAM, "1000", "50000",
                            str(4 * LIMIT))
    result = tap.run(*command, QUARRY_LIMIT="auto")
    found = figures(result)
    tap.check("QUARRY_LIMIT=auto in a cgroup",
              found.get("limit") == LIMIT - LIMIT // 16 and
              0.75 * LIMIT < found.get("first", 0) < LIMIT, result.stdout + result.stderr)
    bare = tap.run(*command)
    tap.equal("without it the process is killed there", bare.returncode, -signal.SIGKILL)


for size, other in ((1000, 50000), (50000, 100), (300000, 20000), (16, 300000)):
    check_limit(size, other)
check_explained()
result = tap.run(PROGRAM, "1000", "1000", str(LIMIT), preload=tap.LIBRARY)
tap.equal("without a limit nothing fails", figures(result).get("first"), -(-LIMIT // 1000) * 1000)
with cgroup.limited(LIMIT) as group:
    check_cgroup(group)
tap.done()
