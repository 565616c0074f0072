#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""bench/latency: each call is counted once, percentiles are in order, mistakes are told."""
import json
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import tap

PROGRAM = os.path.join(tap.BUILD, "bench", "latency", "latency")
SCRIPT = os.path.join(tap.ROOT, "bench", "latency.py")
CALLS = 20000
ORDER = ("p50", "p99", "p99.9", "p99.99", "worst")

result = tap.run(PROGRAM, "3", str(CALLS), preload=tap.LIBRARY)
found = json.loads(result.stdout or "{}")
tap.equal("four fifths of the pairs of each thread are counted",
          found.get("malloc", {}).get("calls"), 3 * CALLS * 4 // 5)
for call in ("malloc", "free"):
    figures = [found.get(call, {}).get(name, -1) for name in ORDER]
    tap.check(f"percentiles of {call} are in order, and the worst is above the median",
              figures == sorted(figures) and figures[-1] > figures[0] >= 0, figures)
for words, culprit in ((("0",), "'0'"), (("2", "x"), "'x'"), (("65",), "'65'")):
    result = tap.run(PROGRAM, *words)
    tap.check(f"a wrong number is named: {' '.join(words)}", result.returncode == 2 and
              result.stderr.count("\n") == 1 and culprit in result.stderr, result.stderr)

result = tap.run(SCRIPT, "--runs", "2", "--calls", "3000", "--json")
rows = json.loads(result.stdout or "{}")
tap.check("glibc, Quarry and Quarry in real time are measured",
          {"glibc", "quarry", "quarry, real time"} <= set(rows) and
          all(rows[name]["free"]["worst"] > 0 for name in rows), result.stdout + result.stderr)
result = tap.run(SCRIPT, "--runs", "1", "--calls", "3000")
lines = result.stdout.splitlines()
tap.check("the table has a row for each", len(lines) == 2 + len(rows) and
          all(line.count("|") == 12 for line in lines), result.stdout + result.stderr)
result = tap.run(SCRIPT, "--allocator", "none=/nonexistent.so", "--runs", "1", "--calls", "3000")
tap.check("a library that is not there is named", result.returncode == 1 and
          "/nonexistent.so" in result.stderr and "Traceback" not in result.stderr, result.stderr)
result = tap.run(SCRIPT, "--runs", "none")
tap.check("a wrong number of rounds is named", result.returncode == 2 and "'none'" in result.stderr,
          result.stderr)
tap.done()
