#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What every file in the tree has to honour.

usage: hygiene.py [TREE]      prints a line for each violation; the tests run it on a planted tree

No path of one machine, no unfinished business, no trailing blanks, a newline at the end, no file
with more lines than one can take in, an SPDX line in each source of the library, and nothing
executable that is no script.
"""
import os
import re
import sys

import lint_support
import tap

MAX_LINES = 500
SOURCES = (".c", ".h", ".cc", ".py", ".sh", "Makefile")
LIBRARY = ("src/", "preload/", "include/")
BINARY = (".png", ".gz", ".pdf")
# The brackets keep this file from being its own first violation.
MACHINE_PATH = re.compile(r"(?<![\w.])/(wor[k]|far[m]|roo[t]|hom[e]|User[s])/")
UNFINISHED = re.compile(r"\b(TOD[O]|FIXM[E]|XX[X]|HAC[K])\b")


def check_text(name, text):
    lines = text.split("\n")
    if lines[-1] != "":
        yield f"{name}: no newline at the end"
    for number, line in enumerate(lines, 1):
        if MACHINE_PATH.search(line):
            yield f"{name}:{number}: path of one machine: {line.strip()}"
        if UNFINISHED.search(line):
            yield f"{name}:{number}: unfinished: {line.strip()}"
        if line != line.rstrip():
            yield f"{name}:{number}: blanks at the end of the line"
    if name.endswith(SOURCES):
        if len(lines) - 1 > MAX_LINES:
            yield f"{name}: {len(lines) - 1} lines, more than {MAX_LINES}"
    if name.startswith(LIBRARY) and name.endswith(SOURCES):
        if "SPDX-License-Identifier: MIT" not in "".join(lines[:3]):
            yield f"{name}: no SPDX line in the first three"


def check_tree(root):
    """The number of files read, and what is wrong with them."""
    names = [name for name in lint_support.tracked_files(root) if not name.endswith(BINARY)]
    wrong = []
    for name in names:
        path = os.path.join(root, name)
        try:
            with open(path, encoding="utf-8") as file:
                text = file.read()
        except UnicodeDecodeError:
            wrong.append(f"{name}: not UTF-8")
            continue
        wrong.extend(check_text(name, text))
        if os.access(path, os.X_OK) and not text.startswith("#!"):
            wrong.append(f"{name}: executable, but begins with no #!")
    if not names:
        wrong.append("there are no files to check")
    return len(names), wrong


def main():
    if len(sys.argv) > 1:
        count, wrong = check_tree(sys.argv[1])
        print("\n".join(wrong + [f"{count} files, {len(wrong)} violations"]))
        sys.exit(1 if wrong else 0)
    count, wrong = check_tree(tap.ROOT)
    print(f"# {count} files")
    tap.check("every file is clean", not wrong, "\n".join(wrong))
    tap.done()


main()
