#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
# runner: slow timeout=600
"""Memcheck finds in programs on Quarry what it finds on libc's malloc, and nothing in Quarry.

Memcheck puts its own malloc in the place of a program's, wherever that is defined: so programs
that are linked with Quarry, or preload it, need no option.  A static program has no loader that
could do that, with any malloc; it runs.  Told to leave the program's malloc alone
(somalloc=nouserintercepts), or given the quarry_ names, memcheck watches Quarry itself at work.
"""
import os
import re
import shutil
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import tap

SYSTEM = os.path.join(tap.BUILD, "system")
DEBUG_LIBRARY = os.path.join(tap.BUILD, "debug", "libquarry.so")
ERROR = 99  # valgrind's exit status where it found one
FAULTS = {
    "leak": "1,234 bytes in 1 blocks are definitely lost",
    "read-past": "Invalid read of size 1",
    "write-past": "Invalid write of size 1",
    "read-freed": "Invalid read of size 1",
    "uninitialised": "Conditional jump or move depends on uninitialised value",
    "double-free": "Invalid free()",
}
FORMS = {"preloaded": ("", tap.LIBRARY), "shared": (".shared", None), "archive": (".archive", None)}
OPTIONS = {
    "by default": {},
    "giving all back at once": {"MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_TOP_PAD_": "0"},
    "without caches": {"QUARRY_CHECK": "1"},
    "with fills": {"MALLOC_PERTURB_": "85"},
}
# mallopt's parameters: trim threshold, mmap threshold, number of mappings, perturb.
PARAMETERS = [[], ["-1", "0"], ["-3", "0"], ["-3", "16385"], ["-4", "0"], ["-6", "85"]]


def memcheck(*command, **options):
    return tap.run("valgrind", "--quiet", "--leak-check=full", f"--error-exitcode={ERROR}",
                   *command, timeout=500, **options)


def faults(fault, suffix="", **options):
    return memcheck(os.path.join(SYSTEM, "faults_linked" + suffix), fault, **options)


def report(result):
    """What valgrind said, without addresses and process numbers."""
    lines = re.findall(r"^==\d+== (.*)$", result.stderr, re.MULTILINE)
    return [re.sub(r"0x[0-9A-Fa-f]+", "ADDRESS", line) for line in lines]


def describe(result):
    return f"exit status {result.returncode}\n{result.stdout}{result.stderr}"


def is_clean(name, result):
    tap.check(name, result.returncode == 0 and re.search(r"^[1-9]\d* checks$", result.stdout, re.M)
              and not [line for line in report(result) if "brk segment" not in line and
                       "Limitations in user manual" not in line and "NOTE: further" not in line],
              describe(result))


if not tap.check("valgrind is installed", shutil.which("valgrind")):
    tap.done()

is_clean("a correct program on libc's malloc is clean", faults("none"))
for form, (suffix, library) in FORMS.items():
    is_clean(f"a correct program is clean ({form})", faults("none", suffix, preload=library))
for fault, headline in FAULTS.items():
    libc = faults(fault)
    wanted = report(libc)
    tap.check(f"{fault} is found on libc's malloc",
              libc.returncode == ERROR and wanted and headline in wanted[0], describe(libc))
    for form, (suffix, library) in FORMS.items():
        result = faults(fault, suffix, preload=library)
        tap.check(f"{fault} is found with the same words ({form})",
                  result.returncode == ERROR and report(result) == wanted, describe(result))

for suffix in (".static", ".static-pie"):
    static = tap.run("valgrind", "--quiet", os.path.join(SYSTEM, "faults_linked" + suffix), "none")
    tap.check(f"a program linked as {suffix[1:]} runs under valgrind",
              static.returncode == 0 and re.search(r"^[1-9]\d* checks$", static.stdout, re.M),
              describe(static))

for how, variables in OPTIONS.items():
    is_clean(f"Quarry itself, as a program's malloc, is clean ({how})",
             memcheck("--soname-synonyms=somalloc=nouserintercepts",
                      os.path.join(SYSTEM, "faults_linked"), "none", preload=DEBUG_LIBRARY,
                      **variables))
CORE = os.path.join(SYSTEM, "memcheck_core")
for words in PARAMETERS:
    is_clean(f"Quarry's own code is clean, by its own names ({' '.join(words) or 'by default'})",
             memcheck("--trace-children=yes", CORE, *words))
planted = memcheck(CORE, "planted")
tap.check("an error planted there is seen", planted.returncode == ERROR and
          FAULTS["uninitialised"] in planted.stderr, describe(planted))
tap.done()
