# SPDX-License-Identifier: MIT
"""What the lint tests share.  Each first shows that its tool rejects a planted mistake."""
import os
import re
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import tap


def tracked_files(root=tap.ROOT):
    """Files that git tracks, or would if they were added; all files where there is no git."""
    listing = subprocess.run(
        ["git", "-C", root, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True, text=True, check=False)
    if listing.returncode == 0:
        names = listing.stdout.split("\0")
    else:
        names = [os.path.relpath(os.path.join(at, name), root)
                 for at, _, found in os.walk(root) for name in found]
        names = [name for name in names if not name.startswith(("build/", ".git/"))]
    return sorted(name for name in names if name and os.path.isfile(os.path.join(root, name)))


def c_files(*folders, suffixes=(".c", ".h")):
    return [name for name in tracked_files() if name.endswith(suffixes)
            and (not folders or name.startswith(tuple(folder + "/" for folder in folders)))]


def check_tool(tool, command, files, planted, last=()):
    """Two tests: command rejects a file with the planted text, and accepts all files.

    last are arguments that follow the files."""
    with tempfile.TemporaryDirectory() as folder:
        bad = os.path.join(folder, "planted.c")
        with open(bad, "w", encoding="utf-8") as file:
            file.write(planted)
        result = tap.run(*command, bad, *last)
        tap.check(f"{tool} rejects a planted mistake", result.returncode != 0
                  and "planted.c" in result.stdout + result.stderr, result.stdout + result.stderr)
    result = tap.run(*command, *files, *last, timeout=1200) if files else None
    said = result.stdout + result.stderr if result else "there are no files"
    print(f"# {len(files)} files")
    tap.check(f"{tool} accepts every file", result and result.returncode == 0,
              re.sub(r"^\d+ warnings? generated\.\n", "", said, flags=re.MULTILINE))
