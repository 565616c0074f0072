#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""cppcheck finds nothing in the C sources."""
import lint_support
import tap

# selfAssignment does not know volatile; clang's -Wself-assign, which does, is on for the library.
COMMAND = ["cppcheck", "--quiet", "--std=c11", "--enable=warning,performance,portability",
           "--inline-suppr", "--error-exitcode=1", "--suppress=missingIncludeSystem",
           "--suppress=selfAssignment", "-Iinclude", "-Isrc", "-Itools", "-D__x86_64__", "-D__GNUC__=12"]

lint_support.check_tool("cppcheck", COMMAND, lint_support.c_files("src", "preload", "tools", "bench"),
                        "int main(void) { int a[2]; a[2] = 1; return a[2]; }\n")
tap.done()
