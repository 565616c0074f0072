#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Where the kernel says yes to all advice and follows none, as emulators do, nothing is lost.

A seccomp filter makes madvise return 0 without doing anything, or only for MADV_WIPEONFORK and advice that
does not exist, or fail.  The filter passes on what follows it (that of a program without the library).
"""
import errno
import os
import re
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import tap
from quarry_tool import NO_SECCOMP, under_filter

PROGRAM = os.path.join(tap.BUILD, "system", "emulated")
MADVISE = {"x86_64": 28, "aarch64": 233}[os.uname().machine]
MADV_DONTNEED = 4
THIRD_ARGUMENT = 16 + 8 * 2  # its lower half, in struct seccomp_data
YES, ALLOW = (0x06, 0, 0, 0x00050000), (0x06, 0, 0, 0x7FFF0000)
FILTERS = {
    "all advice is taken, none is followed": [YES],
    "all advice is taken, MADV_DONTNEED is followed":
        [(0x20, 0, 0, THIRD_ARGUMENT), (0x15, 0, 1, MADV_DONTNEED), ALLOW, YES],
    "no advice is known": [(0x06, 0, 0, 0x00050000 | errno.EINVAL)],
}


def main():
    for library in ("release", "debug"):
        preload = f"LD_PRELOAD={os.path.join(tap.BUILD, library, 'libquarry.so')}"
        for name, code in FILTERS.items():
            result = tap.run(*under_filter(MADVISE, code)[:-1], "/usr/bin/env", preload, PROGRAM)
            label = f"{name}: memory is zero, children go on ({library})"
            if result.returncode == NO_SECCOMP:
                tap.skip(label, "no seccomp here")
            else:
                tap.check(label, result.returncode == 0 and re.fullmatch(r"\d+ checks\n", result.stdout),
                          f"exit status {result.returncode}\n{result.stdout}{result.stderr}")


main()
tap.done()
