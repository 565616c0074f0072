# SPDX-License-Identifier: MIT
"""What the tests of QUARRY_CONTROL share: a program that listens, and what the kernel tells of it."""
import json
import os
import re
import time

import tap
from quarry_tool import Ready, tool

PROGRAM = os.path.join(tap.BUILD, "system", "control_linked")
KIB, MIB = 1024, 1024 * 1024
PATIENCE_S = 60  # for what comes by itself, after a few seconds


class Program(Ready):
    """The program, to be told what to do."""

    def __init__(self, program=PROGRAM, through=(), control="1", preload=tap.LIBRARY, **environment):
        settings = {"LD_PRELOAD": preload, "QUARRY_CONTROL": control, **environment}
        super().__init__([*through, "env", *(f"{name}={value}" for name, value in settings.items()),
                          program])

    def do(self, words):
        """What the program answers to a line."""
        self.send(words)
        return self.process.stdout.readline().strip()

    def send(self, words):
        self.process.stdin.write(words + "\n")
        self.process.stdin.flush()


def field(pid, key, name="status"):
    with open(f"/proc/{pid}/{name}", encoding="ascii") as file:
        return int(re.search(rf"^{key}:\s+(\d+)", file.read(), re.MULTILINE)[1])


def rss(pid):
    return field(pid, "Rss", "smaps_rollup") * KIB


def comes(condition):
    """Whether something comes about, sooner or later."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def figures(program):
    return json.loads(tool("stats", "--json", program.pid).stdout or "{}")


def names(pid):
    """The names that the kernel lists for a process."""
    with open("/proc/net/unix", encoding="ascii", errors="replace") as file:
        return re.findall(rf"@(quarry-control-{pid}(?:-\d+)?)$", file.read(), re.MULTILINE)
