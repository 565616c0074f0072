#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""mandoc finds nothing in the manual pages."""
import glob
import os

import lint_support
import tap

PAGES = sorted(glob.glob(os.path.join(tap.ROOT, "docs", "man", "*.[1-8]")))

lint_support.check_tool("mandoc", ["mandoc", "-Tlint", "-Wwarning"], PAGES,
                        ".Dd November 1, 2026\n.Dt PLANTED 1\n.Os\n.Sh NAME\n.Foo\n")
tap.done()
