#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The heap shares the program break with a program that moves it, and does without where it cannot.

sbrk.c checks that nothing overlaps, that neither side's bytes change, that malloc_trim never cuts
what the program got, and that it does lower the break where that is the heap's alone.
"""
import os
import re
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import tap

PROGRAM = os.path.join(tap.BUILD, "system", "sbrk")
LIBRARIES = [(variant, os.path.join(tap.BUILD, variant, "libquarry.so"))
             for variant in ("release", "debug")]
ON_BREAK = ["the heap is on the break"]
SCENARIOS = {
    "alone": ("a program grows the break by odd sizes between its allocations", ON_BREAK),
    "threads": ("threads do so in turns", ON_BREAK),
    "lower": ("a program lowers the break again, to where the heap ends", ON_BREAK),
    "blocked": ("a mapping directly above the break keeps it from growing", []),
    "blocked-later": ("a mapping above the break stops its growth after 3 MiB", []),
}
# The first three hold on any malloc; that they do shows that they ask for nothing special.
ON_LIBC = ("alone", "threads", "lower")


def check(name, scenario, place, **options):
    result = tap.run(PROGRAM, scenario, **options)
    lines = result.stdout.splitlines() or [""]
    tap.check(name, result.returncode == 0 and not result.stderr and
              lines[:-1] == place and
              re.match(r"[1-9]\d* checks$", lines[-1]),
              f"exit status {result.returncode}\n{result.stdout}{result.stderr}")


for scenario, (name, place) in SCENARIOS.items():
    for variant, library in LIBRARIES:
        check(f"{name} ({variant})", scenario, place, preload=library)
        check(f"{name}, everything is given back at once ({variant})", scenario, place,
              preload=library, MALLOC_TRIM_THRESHOLD_="0", MALLOC_TOP_PAD_="0")
    if scenario in ON_LIBC:
        check(f"{name} (libc)", scenario, place, MALLOC_ARENA_MAX="1")
tap.done()
