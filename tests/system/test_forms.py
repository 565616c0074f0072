#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Quarry gets into a program in five ways, and in each the whole family is Quarry's.

Preloaded, linked as a shared library, and linked from the archive into a dynamic, a static and a
static position-independent program.  forms_linked.c uses all of the family and what of libc and
threads allocates; forms_cxx_linked.cc the same for C++.
"""
import os
import re
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import tap

SYSTEM = os.path.join(tap.BUILD, "system")
DEBUG_LIBRARY = os.path.join(tap.BUILD, "debug", "libquarry.so")
WAYS = ("shared", "archive", "static", "static-pie")
FALL_BACK = {
    # Each of these changes a route that all blocks take.
    "without caches": {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=0"},
    "with every wrong free found": {"QUARRY_CHECK": "1"},
    "with fills": {"MALLOC_PERTURB_": "165"},
    "without mappings": {"MALLOC_MMAP_MAX_": "0"},
    "with mappings for all that is large": {"MALLOC_MMAP_THRESHOLD_": "16385"},
    "with mappings alone": {"MALLOC_MMAP_THRESHOLD_": "0"},
    "giving all back at once": {"MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_TOP_PAD_": "0"},
}
STATS = re.compile(r"Arena 0:\nsystem bytes     = +\d+\nin use bytes     = +\d+\n"
                   r"Total \(incl. mmap\):\nsystem bytes     = +\d+\nin use bytes     = +\d+\n"
                   r"max mmap regions = +\d+\nmax mmap bytes   = +\d+\n"
                   r"Quarry:\n(\w+ += +\d+\n)+$")


def works(name, program, stats=False, **options):
    """A test: the program says that it ran on Quarry and all of its checks held."""
    result = tap.run(os.path.join(SYSTEM, program), **options)
    lines = result.stdout.splitlines()
    good = (result.returncode == 0 and re.match(r"Quarry \d+\.\d+\.\d+$", lines[0]) and
            re.match(r"[1-9]\d* checks$", lines[-1]) and
            (STATS.match(result.stderr) if stats else not result.stderr))
    tap.check(name, good, f"exit status {result.returncode}\n{result.stdout}{result.stderr}")


for language, program, stats in (("C", "forms_linked", True), ("C++", "forms_cxx_linked", False)):
    alone = tap.run(os.path.join(SYSTEM, program))
    tap.check(f"the {language} program notices that it does not run on Quarry",
              alone.returncode == 4 and "does not run on Quarry" in alone.stdout, alone.stdout)
    works(f"{language}, preloaded", program, stats, preload=tap.LIBRARY)
    works(f"{language}, preloaded, with assertions", program, stats, preload=DEBUG_LIBRARY)
    for way in WAYS:
        works(f"{language}, linked: {way}", f"{program}.{way}", stats)
    for how, variables in FALL_BACK.items():
        works(f"{language}, preloaded, {how}", program, stats, preload=DEBUG_LIBRARY, **variables)
        works(f"{language}, static, {how}", f"{program}.static", stats, **variables)

for way in WAYS:
    needed = tap.run("readelf", "-dW", os.path.join(SYSTEM, f"forms_linked.{way}")).stdout
    tap.equal(f"the program linked as {way} {'needs' if way == 'shared' else 'does not need'} "
              "libquarry.so.0", "[libquarry.so.0]" in needed, way == "shared")
    tap.equal(f"the program linked as {way} {'is static' if 'static' in way else 'is dynamic'}",
              "(NEEDED)" not in needed, "static" in way)
tap.done()
