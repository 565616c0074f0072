# SPDX-License-Identifier: MIT
"""One program of the demonstration: its output on Quarry is that on glibc, byte by byte.

usage: real_program.py NAME LIBRARY...      exit status 1, and what differs, where not
"""
import os
import sys
import tempfile
from pathlib import Path

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "..", "tools", "demo"))
from runner import BASELINE, Allocator, Bench, Failure
from workloads import WORKLOADS


def main():
    name, *libraries = sys.argv[1:]
    workload = next(each for each in WORKLOADS if each.name == name)
    with tempfile.TemporaryDirectory(prefix="quarry-soak-") as folder:
        try:
            bench = Bench(workload, workload.small, Path(folder))
            bench.prove_allocator(Allocator(BASELINE))
            for library in libraries:
                bench.measure(Allocator(os.path.basename(os.path.dirname(library)), library))
        except Failure as failure:
            sys.exit(str(failure))


if __name__ == "__main__":
    main()
