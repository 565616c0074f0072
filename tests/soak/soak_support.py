# SPDX-License-Identifier: MIT
"""What the programs of the long suite share: the time they have, seeds, progress, and folders.

tests/soak/run.py sets the variables; each program also runs by itself, for a minute.
"""
import os
import random
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.dirname(HERE), os.path.join(os.path.dirname(HERE), "system")]
import tap

SECONDS = float(os.environ.get("SOAK_SECONDS", "60"))
SEED = int(os.environ.get("SOAK_SEED", "0"), 0) or random.SystemRandom().getrandbits(48)
KEPT = os.environ.get("SOAK_KEPT", os.path.join(tap.BUILD, "soak", "kept"))


def progress(text):
    """A line that the runner shows as it comes; no test result."""
    print(f"# progress: {text}", flush=True)


def figure(name, value):
    """A figure for the table of results."""
    print(f"# figure: {name}: {value}", flush=True)


def keep(name, text):
    """Writes what a failure needs to be looked at; its path."""
    os.makedirs(KEPT, exist_ok=True)
    path = os.path.join(KEPT, name)
    with open(path, "wb" if isinstance(text, bytes) else "w") as file:
        file.write(text)
    return os.path.relpath(path, tap.ROOT)


class Clock:
    """The time a program has."""

    def __init__(self, seconds=SECONDS):
        self.end = time.monotonic() + seconds

    def left(self):
        return max(self.end - time.monotonic(), 0)
