#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""C sources are laid out as .clang-format says."""
import lint_support
import tap

lint_support.check_tool("clang-format",
                        ["clang-format", "--style=file:.clang-format", "--dry-run", "-Werror"],
                        lint_support.c_files(), "int  main( void ){return 0 ;}\n")
tap.done()
