#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The hygiene check finds what is planted in a tree, and does not pass where it reads nothing."""
import os
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import tap

CHECK = os.path.join(tap.ROOT, "tests", "lint", "hygiene.py")
SPDX = "/* SPDX-License-Identifier: MIT */\n"
# name of the test, file, content, what the complaint says; broken up so as not to be found here
PLANTED = [
    ("path of one machine", "docs/a.md", "see /ro" + "ot/secret\n", "path of one machine"),
    ("path of one machine at the start of a line", "a.txt", "/wor" + "k/main\n", "one machine"),
    ("unfinished business", "src/a.c", SPDX + "/* TO" + "DO: later */\n", "unfinished"),
    ("other unfinished business", "tests/a.sh", "# FIX" + "ME\n", "unfinished"),
    ("blanks at the end of a line", "a.md", "a \n", "blanks"),
    ("missing newline at the end", "a.md", "a", "no newline"),
    ("source of 501 lines", "src/a.c", SPDX + "\n" * 500, "501 lines"),
    ("library source without a licence", "src/a.h", "int a;\n", "no SPDX"),
    ("executable that is no script", "a.c+x", SPDX, "executable"),
    ("bytes that are no text", "a.c", b"\xff\xfe\n", "not UTF-8"),
]
CLEAN = [("a path inside the tree", "a.md", "see tests/ro" + "ot/x and src/wor" + "k/y\n"),
         ("500 lines", "src/a.c", SPDX + "\n" * 499),
         ("a script", "a.sh+x", "#!/bin/sh\n")]


def check_tree(name, content):
    with tempfile.TemporaryDirectory() as tree:
        path = os.path.join(tree, name.removesuffix("+x"))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(content if isinstance(content, bytes) else content.encode())
        if name.endswith("+x"):
            os.chmod(path, 0o755)
        return tap.run(CHECK, tree)


for title, name, content, complaint in PLANTED:
    result = check_tree(name, content)
    tap.check("finds: " + title, result.returncode == 1 and complaint in result.stdout
              and "1 files, 1 violations" in result.stdout, result.stdout + result.stderr)
for title, name, content in CLEAN:
    result = check_tree(name, content)
    tap.check("allows: " + title, result.returncode == 0, result.stdout + result.stderr)
with tempfile.TemporaryDirectory() as empty:
    result = tap.run(CHECK, empty)
    tap.check("fails where there is nothing to read",
              result.returncode == 1 and "no files" in result.stdout, result.stdout)
tap.done()
