#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Limits are met with NULL and ENOMEM, no live block is lost, and freed memory serves all sizes.

Limits on address space and data, on the number of mappings, and memory that is locked.  limits.c
checks contents and errno; here the limits are set and the figures judged.
"""
import os
import re
import resource
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import tap

PROGRAM = os.path.join(tap.BUILD, "system", "limits")
LIBRARIES = {variant: os.path.join(tap.BUILD, variant, "libquarry.so")
             for variant in ("release", "debug")}
KIB = 1024
# Of what the luckiest size got, what each other one has to get.  Blocks of 5 MB leave a rest, and
# other blocks' places among them.
SHARE, SHARE_OF_5_MB = 0.7, 0.4


def run(*arguments, library=None, limit=None, kib=0):
    """Runs the program on a library (libc's malloc if None) under a limit."""
    environment = {"LC_ALL": "C.UTF-8"} | ({"LD_PRELOAD": library} if library else {})
    arrange = (lambda: resource.setrlimit(limit, (kib * KIB, kib * KIB))) if limit else None
    return subprocess.run([PROGRAM, *arguments], stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, timeout=250, env=environment, preexec_fn=arrange, check=False)


def describe(result):
    return f"exit status {result.returncode}\n{result.stdout}{result.stderr}"


def works(name, result):
    last = (result.stdout.splitlines() or [""])[-1]
    return tap.check(name, result.returncode == 0 and re.match(r"\d+ checks$", last) and
                     not result.stderr, describe(result))


def check_start():
    """From which limit on a small program starts; below it, failures have to be clean."""
    least = {}
    for name, library in {"libc": None, **LIBRARIES}.items():
        statuses = {kib: run("start", library=library, limit=resource.RLIMIT_AS, kib=kib).returncode
                    for kib in range(1024, 7168, 128)}
        works_at = [kib for kib, status in statuses.items() if status == 0]
        least[name] = min(works_at, default=0)
        print(f"# a small program on {name} starts under ulimit -v {least[name]}")
        tap.check(f"above the least limit it always starts ({name})",
                  works_at and works_at == [k for k in statuses if k >= least[name]], statuses)
        if library:
            tap.check(f"below it, no start ends by a signal ({name})",
                      all(status >= 0 for status in statuses.values()), statuses)
    tap.check("Quarry starts under twice the limit that libc's malloc needs",
              least["release"] <= 2 * least["libc"], least)


def check_exhaust(name, library, limit, kib):
    result = run("exhaust", library=library, limit=limit, kib=kib)
    if not works(f"memory is used to the last under {name}, and again for other sizes", result):
        return
    rows = [(int(size), int(total)) for total, size in
            re.findall(r"(\d+) bytes in blocks of (\d+)", result.stdout)]
    best = max(total for _, total in rows)
    poor = [row for row in rows if row[1] < best * (SHARE_OF_5_MB if row[0] == 5000000 else SHARE)]
    tap.check(f"each size gets its share of it ({name})", len(rows) == 14 and not poor,
              f"{poor} of {rows}")
    tap.check(f"it is most of what the limit allows ({name})", best > 0.8 * kib * KIB, f"{rows}")


def check_mappings():
    with open("/proc/sys/vm/max_map_count", encoding="ascii") as file:
        limit = int(file.read())
    for variant, library in LIBRARIES.items():
        name = f"the kernel's limit on mappings is no limit to free and malloc ({variant})"
        if limit > 200000:
            tap.skip(name, f"vm.max_map_count is {limit}")
            continue
        result = run("mappings", str(limit * 2 + 10000), library=library)
        works(name, result)
        mappings = re.search(r"^mappings: (\d+)", result.stdout, re.MULTILINE)
        tap.check(f"there were as many mappings as the kernel allows ({variant})",
                  mappings and int(mappings[1]) >= limit - 10, describe(result))


def check_locked():
    for variant, library in LIBRARIES.items():
        name = f"memory may be locked, now and in future ({variant})"
        result = run("locked", library=library)
        if result.returncode == 4:
            tap.skip(name, "the memory of a process may not be locked")
            continue
        works(name, result)
        tap.equal(f"it was locked, and is given back when it is not any more ({variant})",
                  result.stdout.splitlines()[:-1],
                  ["locked memory", "resident after unlocking and trimming: little"])


check_start()
for variant, library in LIBRARIES.items():
    for kib in (32768, 65536):
        check_exhaust(f"ulimit -v {kib} ({variant})", library, resource.RLIMIT_AS, kib)
    check_exhaust(f"ulimit -d 32768 ({variant})", library, resource.RLIMIT_DATA, 32768)
    works(f"the one place that is large enough is found among thousands ({variant})",
          run("holes", library=library, limit=resource.RLIMIT_AS, kib=65536))
    works(f"threads compete for the last memory under ulimit -v 65536 ({variant})",
          run("threads", library=library, limit=resource.RLIMIT_AS, kib=65536))
check_mappings()
check_locked()
tap.done()
