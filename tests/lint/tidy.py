#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
# runner: timeout=900
"""clang-tidy finds nothing in the library and the benchmarks (.clang-tidy says what it looks for)."""
import lint_support
import tap

COMMAND = ["clang-tidy", "--quiet", "--config-file=.clang-tidy", "--warnings-as-errors=*"]
FLAGS = ["--", "-std=gnu11", "-D_GNU_SOURCE=", "-DQUARRY_DEBUG", "-Iinclude", "-Isrc", "-Itools",
         "-Wno-unknown-attributes"]

lint_support.check_tool("clang-tidy", COMMAND,
                        lint_support.c_files("src", "preload", "tools", "bench", suffixes=(".c",)),
                        "int main(void) { int *p = 0; return *p; }\n", FLAGS)
tap.done()
