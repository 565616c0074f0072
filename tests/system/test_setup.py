#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Set-up installs what is missing and nothing else, and says in one line why where it cannot."""
import os
import re
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import tap

SETUP = os.path.join(tap.ROOT, "tools", "setup.sh")
LIST = os.path.join(tap.ROOT, "tools", "packages.txt")
NEEDED = ("bash", "dirname", "awk", "sort", "mktemp", "rm", "cat")
INSTALLED = "echo installed"
MISSING_MAKE = '[ "$3" != make ] && echo installed'
RECORD = 'echo "$0 $*" >>"$RECORD"'


def setup(*sections, **commands):
    """Runs set-up where the only commands are NEEDED and those given as name="shell text".

    Returns its result, and what the commands that use RECORD were called with."""
    with tempfile.TemporaryDirectory() as folder:
        record = os.path.join(folder, "record")
        for name in NEEDED:
            found = tap.run("sh", "-c", "command -v " + name).stdout.strip()
            os.symlink(found, os.path.join(folder, name))
        for name, text in commands.items():
            path = os.path.join(folder, name.replace("_", "-"))
            with open(path, "w", encoding="utf-8") as file:
                file.write(f"#!/bin/sh\n{text}\n")
            os.chmod(path, 0o755)
        result = tap.run(SETUP, *sections, PATH=folder, RECORD=record)
        calls = ""
        if os.path.exists(record):
            with open(record, encoding="utf-8") as file:
                calls = file.read().replace(folder + "/", "")
        return result, calls


def refuses(name, says, *sections, **commands):
    result, calls = setup(*sections, **commands)
    lines = result.stderr.splitlines()
    tap.check(name, result.returncode == 1 and len(lines) == 1 and says in lines[0] and not calls,
              f"exit status {result.returncode}\n{result.stderr}{calls}")


result, calls = setup("build", "check", dpkg_query=INSTALLED, apt_get=RECORD, id="echo 0")
tap.check("nothing is done or said where nothing is missing", result.returncode == 0 and not calls
          and not result.stdout + result.stderr, result.stdout + result.stderr + calls)

result, calls = setup("build", dpkg_query=MISSING_MAKE, apt_get=RECORD, id="echo 0")
tap.check("a missing package is named, with the reason", result.returncode == 0 and re.search(
    r"1 missing Debian package.*\n  make +build$", result.stdout, re.MULTILINE),
          result.stdout + result.stderr)
lines = calls.splitlines()
tap.check("it alone is installed, by apt-get", len(lines) == 2 and re.match(
    r"apt-get .*install .*--no-install-recommends make$", lines[-1]), calls)

result, calls = setup("build", dpkg_query=MISSING_MAKE, sudo=RECORD, apt_get="exit 1",
                      id="echo 1000")
tap.check("a user who is not root uses sudo", result.returncode == 0 and len(calls.splitlines()) == 2
          and all(line.startswith("sudo apt-get ") for line in calls.splitlines()), calls)

refuses("no sudo is an error", "no sudo; install by hand: make", "build",
        dpkg_query=MISSING_MAKE, apt_get=RECORD, id="echo 1000")
refuses("no apt-get is an error", "no apt-get; install by hand: make", "build",
        dpkg_query=MISSING_MAKE, id="echo 0")
refuses("another system than Debian is an error", "no Debian system", "build")
refuses("an unknown section is an error", "no section 'bulid'", "bulid", dpkg_query=INSTALLED)
refuses("no section is an error", "usage")

result, calls = setup("build", dpkg_query=MISSING_MAKE, apt_get="echo 'E: no network'; exit 100",
                      id="echo 0")
tap.check("a failure of apt-get is shown and passed on", result.returncode == 1
          and "E: no network" in result.stderr and "could not install: make" in result.stderr,
          result.stdout + result.stderr)

with open(LIST, encoding="utf-8") as file:
    entries = [line.split(maxsplit=1) for line in file if not re.match(r"#|\[|\s*$", line)]
tap.check("every package in the list has a reason",
          entries and all(len(entry) == 2 for entry in entries), entries)
tap.done()
