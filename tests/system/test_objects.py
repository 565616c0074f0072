#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Object caches: quarry_cache_create and its family."""
import os
import re
import signal
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import tap

PROGRAM = os.path.join(tap.BUILD, "system", "objects_core")

tap.succeeds("objects live, stay constructed, and go", PROGRAM)
NO_CACHE = "there is no such cache; it may have been destroyed before"
for how, function, reason in (("double", "quarry_cache_free", "already free"),
                              ("foreign", "quarry_cache_free", "not a block of this heap"),
                              ("inside", "quarry_cache_free",
                               r"inside a block of 16384 bytes that starts at 0x[0-9a-f]+"),
                              ("destroyed", "quarry_cache_destroy", NO_CACHE),
                              ("no-cache", "quarry_cache_destroy", NO_CACHE)):
    result = tap.run(PROGRAM, how)
    tap.check(f"a wrong call is reported and aborts: {how}",
              result.returncode == -signal.SIGABRT and
              re.fullmatch(rf"quarry: {function}\(0x[0-9a-f]+\): {reason}\n", result.stderr),
              f"exit status {result.returncode}: {result.stderr}")
tap.done()
