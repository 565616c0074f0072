#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The manual pages are well-formed, and every public function has its place in one of them."""
import glob
import os
import re
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import tap

PAGES = sorted(glob.glob(os.path.join(tap.ROOT, "docs", "man", "*.[1-8]")))


def lint(path):
    """What mandoc has to say about a page, but for references to pages not installed here."""
    result = tap.run("mandoc", "-Tlint", "-W", "warning", path)
    lines = (result.stdout + result.stderr).split("\n")
    return "\n".join(line for line in lines if line and "mandoc.db" not in line)


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


tap.check("there are manual pages", PAGES)
for page in PAGES:
    found = lint(page)
    tap.check(f"{os.path.basename(page)} is well-formed", not found, found)
with tempfile.TemporaryDirectory() as folder:
    planted = os.path.join(folder, "planted.3")
    with open(planted, "w", encoding="utf-8") as file:
        file.write(read(PAGES[0]).replace(".Sh NAME", ".Sh NAMELESS", 1) + ".Bl\n")
    tap.check("a page that is not would be noticed", lint(planted))

header = read(os.path.join(tap.ROOT, "include", "quarry.h"))
functions = set(re.findall(r"^QUARRY_API [^;]*?\b(quarry_\w+)\(", header, re.MULTILINE))
named = [name for page in PAGES if page.endswith(".3")
         for name in re.findall(r"^\.F[no] (quarry_\w+)",
                                read(page).split(".Sh DESCRIPTION")[0], re.MULTILINE)]
tap.equal("each function of quarry.h is in the synopsis of one page", sorted(named),
          sorted(functions))
tap.done()
