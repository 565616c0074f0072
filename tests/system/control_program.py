# SPDX-License-Identifier: MIT
"""What the tests of QUARRY_CONTROL share: a program that listens, and what the kernel tells of it."""
import json
import os
import re
import subprocess
import time

import tap
from quarry_tool import tool

PROGRAM = os.path.join(tap.BUILD, "system", "control_linked")
KIB, MIB = 1024, 1024 * 1024
PATIENCE_S = 60  # for what comes by itself, after a few seconds


class Program:
    """The program, to be told what to do; usable as a context."""

    def __init__(self, program=PROGRAM, through=(), control="1", preload=tap.LIBRARY, **environment):
        settings = {"LD_PRELOAD": preload, "QUARRY_CONTROL": control, **environment}
        command = [*through, "env", *(f"{name}={value}" for name, value in settings.items()), program]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True)
        self.pid = str(self.process.pid)
        if self.process.stdout.readline() != "ready\n":
            self.process.communicate()
            raise EOFError(f"{command} did not get ready")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(60)

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
