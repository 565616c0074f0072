#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""PHP, which loads its extensions with RTLD_DEEPBIND, prints the same on Quarry as on libc.

Where a preloaded malloc leaves that flag alone the first block that PHP makes and an extension frees,
by libc's free, ends the process: `php --version` is enough.
"""
import os
import re
import shutil
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import tap

PROGRAM = os.path.join(tap.ROOT, "tests", "system", "program.php")
LIBCS_FREE = r"/pdo\.so \[0\] to \S*/libc\.so\.6 \[0\]: normal symbol `free'"

php = shutil.which("php", path="/usr/bin")
if not tap.check("php is installed (apt-get install php-cli)", php):
    tap.done()


def run(library=None, **options):
    return tap.run(php, "-d", "memory_limit=-1", PROGRAM, preload=library, **options)


plain = run()
tap.check("PHP runs on libc", plain.returncode == 0 and len(plain.stdout.splitlines()) == 4,
          plain.stdout + plain.stderr)
bindings = run(LD_DEBUG="bindings").stderr
tap.check("its extensions look in libc for free first", re.search(LIBCS_FREE, bindings),
          bindings[:2000])
for variant in ("release", "debug"):
    library = os.path.join(tap.BUILD, variant, "libquarry.so")
    for how, options in (("as it is", {}), ("with every object from malloc", {"USE_ZEND_ALLOC": "0"}),
                         ("with all checks", {"QUARRY_CHECK": "1", "QUARRY_CANARY": "1"})):
        result = run(library, **options)
        tap.check(f"PHP prints the same on Quarry, {how} ({variant})",
                  result.returncode == 0 and result.stdout == plain.stdout and not result.stderr,
                  f"exit status {result.returncode}\n{result.stdout}{result.stderr}")
tap.done()
