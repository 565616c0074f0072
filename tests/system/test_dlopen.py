#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Quarry loaded late, closed early, without thread-specific keys, and beside another malloc."""
import os
import re
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import tap

SYSTEM = os.path.join(tap.BUILD, "system")
LIBRARIES = {variant: os.path.join(tap.BUILD, variant, "libquarry.so")
             for variant in ("release", "debug")}
MODULE = os.path.join(SYSTEM, "deepbind_module.so")
STATIC_TLS_SURPLUS = 64  # bytes that an object loaded late may count on; libc keeps more in reserve
HOW = {
    "local": "loaded by dlopen beside running threads (RTLD_LOCAL)",
    "deepbind": "the same with RTLD_GLOBAL and RTLD_DEEPBIND",
    "keys": "the same in a program that has taken all thread-specific keys",
}


def run(program, *arguments, **options):
    return tap.run(os.path.join(SYSTEM, program), *arguments, **options)


def describe(result):
    return f"exit status {result.returncode}\n{result.stdout}{result.stderr}"


def succeeds(name, result, *lines):
    """A test: the program's checks hold, and it printed these lines before their number."""
    printed = result.stdout.splitlines() or [""]
    return tap.check(name, result.returncode == 0 and re.match(r"[1-9]\d* checks$", printed[-1]) and
                     printed[:-1] == list(lines) and not result.stderr, describe(result))


def check_late():
    for variant, library in LIBRARIES.items():
        for how, name in HOW.items():
            succeeds(f"{name}: both allocators work, nothing is lost ({variant})",
                     run("dlopen", library, how), "0 bytes in use")
    segments = tap.run("readelf", "-lW", tap.LIBRARY).stdout
    tls = re.search(r"^ +TLS +0x\S+ 0x\S+ 0x\S+ 0x\S+ (0x\S+)", segments, re.MULTILINE)
    tap.check("the library's thread-local storage is so small that dlopen finds room for it",
              tls and 0 < int(tls[1], 16) <= STATIC_TLS_SURPLUS, segments)


def check_keys():
    succeeds("a program gets all keys from libc", run("keys"), "keys=1024 of 1024")
    for variant, library in LIBRARIES.items():
        succeeds(f"a preloaded Quarry takes one key, and does not believe its value ({variant})",
                 run("keys", preload=library), "keys=1023 of 1024")


def check_deepbind():
    """A module's malloc is the program's, however deeply it is bound; blocks of libc's are foreign."""
    for variant, library in LIBRARIES.items():
        def freed_by(policy, module, library=library):
            return run("deepbind", module, preload=library, QUARRY_FOREIGN=policy)
        for policy in ("abort", "nonsense"):
            result = freed_by(policy, MODULE)
            block = re.search(r"first block (0x[0-9a-f]+)", result.stdout)
            tap.check(f"a foreign block is reported, the process aborts ({policy}, {variant})",
                      block and result.returncode == -6 and
                      result.stderr == f"quarry: free({block[1]}): not a block of this heap\n",
                      describe(result))
        for policy, given_back in (("leak", "no"), ("libc", "yes")):
            result = freed_by(policy, os.path.basename(MODULE))
            name = f"a deeply bound module, and blocks of another malloc: {policy} ({variant})"
            tap.check(name, result.returncode == 0 and not result.stderr and
                      f"given back: {given_back}" in result.stdout.splitlines(), describe(result))
    result = run("deepbind", MODULE)
    tap.check("the same program on libc alone finds one malloc, and not Quarry's",
              result.returncode == 1 and "does not hold: (void *)take" in result.stdout,
              describe(result))


check_late()
check_keys()
check_deepbind()
tap.done()
