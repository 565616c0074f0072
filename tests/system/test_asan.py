#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""AddressSanitizer and a preloaded Quarry: whichever comes first serves malloc, and ASan finds its errors."""
import os
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import tap

SOURCE = r"""
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
int main(int count, char **words)
{
    char *volatile block = malloc(100), *volatile other = calloc(1000, 100);
    Dl_info info = {0};
    (void)words;
    block = realloc(block, 5000);
    memset(block, 1, 5000);
    dladdr(dlsym(RTLD_DEFAULT, "malloc"), &info);
    printf("malloc of %s\n", info.dli_fname);
    fflush(stdout);
    free(other);
    free(block);
    return count > 1 ? block[50] : 0;
}
"""
# How to build it, and what to put before Quarry: gcc's shared library; the archive, as clang has it.
WAYS = {"shared": ([], tap.run("gcc", "-print-file-name=libasan.so").stdout.strip() + " "),
        "static": (["-static-libasan"], "")}


def check_way(folder, way, options, first):
    program = os.path.join(folder, way)
    source = program + ".c"
    with open(source, "w", encoding="utf-8") as file:
        file.write(SOURCE)
    tap.succeeds(f"a program is built ({way})", "gcc", "-D_GNU_SOURCE", "-fsanitize=address", "-g", *options, source, "-o",
                 program)
    # Leaks are looked for by ptrace, which a container may not permit.
    options = {"preload": first + tap.LIBRARY, "ASAN_OPTIONS": "detect_leaks=0"}
    result = tap.run(program, **options)
    served = result.stdout.split("malloc of ")[-1].strip()
    tap.check(f"it runs with Quarry preloaded ({way})", result.returncode == 0 and not result.stderr,
              result.stdout + result.stderr)
    tap.check(f"ASan's malloc is in use ({way})", served == program if way == "static" else
              os.path.basename(served).startswith("libasan"), served)
    result = tap.run(program, "wrong", **options)
    tap.check(f"ASan finds a use after free ({way})", result.returncode == 1 and
              "heap-use-after-free" in result.stderr and "freed by thread" in result.stderr,
              result.stdout + result.stderr)
    if first:
        result = tap.run(program, "wrong", preload=tap.LIBRARY)
        tap.check(f"Quarry alone, before ASan: it refuses to start ({way})", result.returncode != 0 and
                  "does not come first" in result.stderr, result.stdout + result.stderr)


with tempfile.TemporaryDirectory() as scratch:
    for name, (words, before) in WAYS.items():
        check_way(scratch, name, words, before)
tap.done()
