#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""M_ARENA_MAX and M_ARENA_TEST decide how many lock shards the lists of the size classes get.

A thread is made to wait at each; malloc_info and malloc_stats tell of one arena per shard.  Of the
smallest blocks threads have shards of their own, so that they do not write to the same lines.
"""
import os
import re
import sys
from xml.etree import ElementTree

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import tap

PROGRAM = os.path.join(tap.BUILD, "system", "arenas_core")
TEST, MAX = -7, -8
# To come to one more, a thread waits some dozen times at each that there is.
ROUNDS = 4000


class Report:
    """What the program has printed after so many waits."""
    def __init__(self, *parameters, rounds=ROUNDS, **variables):
        self.result = tap.run(PROGRAM, str(rounds), *(f"{number}={value}"
                                                      for number, value in parameters), **variables)
        try:
            self.root = ElementTree.fromstring(self.result.stdout)
        except ElementTree.ParseError:
            self.root = ElementTree.Element("malloc")
        self.heaps = self.root.findall("heap")
        self.arenas = re.findall(r"^Arena (\d+):\nsystem bytes     = +(\d+)\n"
                                 r"in use bytes     = +(\d+)$", self.result.stderr, re.M)

    def shards(self):
        """How many, where both reports tell of the same ones."""
        numbers = [str(number) for number in range(len(self.heaps))]
        good = (self.result.returncode == 0 and
                numbers == [heap.get("nr") for heap in self.heaps] ==
                [number for number, _, _ in self.arenas])
        return len(numbers) if good else 0

    def describe(self):
        return f"exit status {self.result.returncode}\n{self.result.stderr}{self.result.stdout}"


def check_count(name, wanted, *parameters, **variables):
    report = Report(*parameters, **variables)
    tap.check(f"{name}: {wanted}", report.shards() == wanted, report.describe())


def figure(element, path, attribute):
    return int(element.find(path).get(attribute))


def check_sums(report):
    """The totals are the sums over the heaps, and each heap's sizes are what is free in it."""
    for path, attribute in (("total[@type='rest']", "size"), ("total[@type='rest']", "count"),
                            ("system[@type='current']", "size"), ("system[@type='max']", "size"),
                            ("aspace[@type='total']", "size"),
                            ("aspace[@type='mprotect']", "size")):
        tap.equal(f"the heaps' {path} {attribute} add up",
                  sum(figure(heap, path, attribute) for heap in report.heaps),
                  figure(report.root, path, attribute))
    for heap in report.heaps[1:]:
        number = heap.get("nr")
        sizes = heap.findall("sizes/size")
        tap.equal(f"heap {number}: its sizes add up",
                  [sum(int(size.get(name)) for size in sizes) for name in ("count", "total")],
                  [figure(heap, "total[@type='rest']", name) for name in ("count", "size")])
        tap.check(f"heap {number}: it has slabs, part of them free",
                  0 < figure(heap, "total[@type='rest']", "size") <
                  figure(heap, "system[@type='current']", "size"), report.describe())
    tap.equal("malloc_stats says the same as malloc_info of all but the first",
              [int(system) for _, system, _ in report.arenas[1:]],
              [figure(heap, "system[@type='current']", "size") for heap in report.heaps[1:]])


def tunable(name, value):
    return {"GLIBC_TUNABLES": f"glibc.malloc.{name}={value}"}


check_count("without a wait there is one", 1, rounds=0)
check_count("by default, as glibc, 8 for a processor", 8)
for limit in (1, 4):
    check_count(f"MALLOC_ARENA_MAX={limit}", limit, MALLOC_ARENA_MAX=str(limit))
    check_count(f"glibc.malloc.arena_max={limit}", limit, **tunable("arena_max", limit))
    check_count(f"mallopt(M_ARENA_MAX, {limit})", limit, (MAX, limit))
check_count("mallopt wins over the variable", 3, (MAX, 3), MALLOC_ARENA_MAX="1")
for wrong in (0, -1):
    check_count(f"mallopt(M_ARENA_MAX, {wrong}) is ignored", 3, (MAX, 3), (MAX, wrong))
    check_count(f"MALLOC_ARENA_MAX={wrong} is ignored", 8, MALLOC_ARENA_MAX=str(wrong))
    check_count(f"mallopt(M_ARENA_TEST, {wrong}) is ignored", 10, (TEST, 10), (TEST, wrong))
check_count("MALLOC_ARENA_TEST=10", 10, MALLOC_ARENA_TEST="10")
check_count("glibc.malloc.arena_test=10", 10, **tunable("arena_test", 10))
check_count("mallopt(M_ARENA_TEST, 10)", 10, (TEST, 10))
check_count("a small M_ARENA_TEST: the processors decide", 8, (TEST, 1))
check_count("M_ARENA_MAX wins over M_ARENA_TEST", 2, (TEST, 10), (MAX, 2))
check_sums(Report((MAX, 4)))


def shared_lines(size, **variables):
    result = tap.run(os.path.join(tap.BUILD, "system", "lanes"), str(size), preload=tap.LIBRARY,
                     **variables)
    return int(result.stdout) if result.returncode == 0 else -1


for size in (16, 48, 112):
    NAME = f"two threads' blocks of {size} bytes lie in different lines"
    if len(os.sched_getaffinity(0)) < 2:
        tap.skip(NAME, "one processor")
        continue
    tap.equal(NAME, shared_lines(size), 0)
    tap.check(f"blocks of {size} bytes do not with one shard",
              shared_lines(size, MALLOC_ARENA_MAX="1") > 10)
tap.done()
