#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Libraries that stand in for libc's functions may allocate in them: the allocator calls none of those with locks held."""
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import tap

SYSTEM = os.path.join(tap.BUILD, "system")
MODULE = os.path.join(SYSTEM, "interposed_module.so")
LOADS = {"a heap that comes and goes": ([os.path.join(SYSTEM, "knobs"), "breathe"], {}),
         "the same under a threshold": ([os.path.join(SYSTEM, "knobs"), "breathe"],
                                        {"MALLOC_TRIM_THRESHOLD_": "65536"}),
         "threads and fork children": ([os.path.join(SYSTEM, "emulated")], {}),
         "python3": (["/usr/bin/python3", "-c", "print(sum(len(str(i) * (i % 300)) for i in range(60000)))"], {}),
         }

for variant in ("release", "debug"):
    library = os.path.join(tap.BUILD, variant, "libquarry.so")
    for name, (command, variables) in LOADS.items():
        result = tap.run(*command, preload=f"{library} {MODULE}", **variables)
        tap.check(f"{name}, with functions that allocate in libc's place ({variant})",
                  result.returncode == 0 and not result.stderr and result.stdout,
                  f"exit status {result.returncode}\n{result.stdout}{result.stderr}")
tap.done()
