#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""First-class heaps: quarry_heap_create and its family."""
import os
import re
import signal
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import tap

PROGRAM = os.path.join(tap.BUILD, "system", "heaps_core")
INSIDE = r"inside a block of \d+ bytes that starts at 0x[0-9a-f]+"
NOT_OURS = "not a block of this heap"
NO_HEAP = "there is no such heap; it may have been destroyed before"

tap.succeeds("blocks keep their contents, threads share a heap, it goes as a whole", PROGRAM)
for how, function, reason in (("double", "quarry_heap_free", "already free"),
                              ("double-large", "quarry_heap_free", NOT_OURS),
                              ("foreign", "quarry_heap_free", NOT_OURS),
                              ("other", "quarry_heap_free", NOT_OURS),
                              ("inside", "quarry_heap_free", INSIDE),
                              ("free", "free", INSIDE),
                              ("realloc", "quarry_heap_realloc", NOT_OURS),
                              ("destroyed", "quarry_heap_destroy", NO_HEAP),
                              ("no-heap", "quarry_heap_destroy", NO_HEAP)):
    result = tap.run(PROGRAM, how)
    tap.check(f"a wrong call is reported and aborts: {how}",
              result.returncode == -signal.SIGABRT and
              re.fullmatch(rf"quarry: {function}\(0x[0-9a-f]+\): {reason}\n", result.stderr),
              f"exit status {result.returncode}: {result.stderr}")
tap.done()
