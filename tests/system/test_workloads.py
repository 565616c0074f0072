#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The workloads (bench/workloads) say the same under every allocator, and notice a lost byte."""
import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.dirname(HERE), os.path.join(HERE, "..", "..", "bench")]
import tap
from case import WORKLOADS, Place, read_report

PROGRAMS = {case.files[0].name for case in WORKLOADS}
LIBRARIES = {"glibc": None, "quarry": tap.LIBRARY,
             "quarry, debug": os.path.join(tap.BUILD, "debug", "libquarry.so")}
FIGURES = {"ops", "seconds", "ops_per_second", "rss_samples", "rss_mean_kb", "live_mean_bytes",
           "live_peak_bytes", "rss_peak_kb", "rss_idle_kb", "vss_peak_kb", "mappings"}
# glibc's allocator, but for one byte of one of many blocks.
SPOILT = """
#include <stdlib.h>
#include <string.h>
void *__libc_malloc(size_t), __libc_free(void *);
void *malloc(size_t size)
{
    static char *victim;
    static int calls;
    if (size >= 40 && ++calls == 200)
        victim = __libc_malloc(size);
    else if (victim && calls == 230)
        victim[33] ^= 1;
    return calls == 200 && size >= 40 ? victim : __libc_malloc(size);
}
"""


def path(program):
    return os.path.join(tap.BUILD, "bench", "workloads", program)


def test_same_output(case, folder):
    """Every byte is verified; only the number of threads and the scale differ from the usual."""
    place = Place(Path(folder), 0.003, 0.01, Path(folder) / "report")
    command = [path(case.files[0].name), *case.command(place)[1:], "--verify"]
    results = {name: tap.run(*command, preload=library) for name, library in LIBRARIES.items()}
    said = {(result.returncode, result.stdout, result.stderr) for result in results.values()}
    tap.check(f"{case.name}: the same output under every allocator",
              len(said) == 1 and results["glibc"].returncode == 0, said)
    figures = read_report(place.report)
    tap.check(f"{case.name}: the report has its figures", FIGURES <= set(figures)
              and figures["ops"] > 0, figures)


def test_options(program):
    result = tap.run(path(program), "--help")
    tap.check(f"{program}: --help", result.returncode == 0 and "--scale F" in result.stdout,
              result.stdout)
    for option, value in (("--scale", "0"), ("--threads", "0"), ("--threads", "x"),
                          ("--idle", "-1"), ("--seed", "")):
        result = tap.run(path(program), option, value)
        tap.check(f"{program}: {option} '{value}' is refused in one line", result.returncode == 2
                  and f"{option} '{value}': give a number from" in result.stderr
                  and result.stderr.count("\n") == 1, result.stderr)
    tap.check(f"{program}: another seed is another task",
              tap.run(path(program), "--scale", "0.001").stdout
              != tap.run(path(program), "--scale", "0.001", "--seed", "2").stdout)


def test_spoilt(folder):
    """A byte that changes while a block is live is noticed, with --verify wherever it is."""
    library = os.path.join(folder, "spoilt.so")
    subprocess.run(["gcc", "-x", "c", "-shared", "-fPIC", "-O1", "-fno-builtin", "-o", library,
                    "-"], input=SPOILT, text=True, check=True)
    for program in ("fragmentation", "phases", "redis_like", "compiler_like"):
        result = tap.run(path(program), "--scale", "0.003", "--verify", preload=library)
        tap.check(f"{program}: a lost byte is noticed", result.returncode == 1
                  and "lost its content" in result.stderr and result.stderr.count("\n") == 1,
                  f"exit status {result.returncode}\n{result.stdout}{result.stderr}")


with tempfile.TemporaryDirectory() as temporary:
    for one in WORKLOADS:
        test_same_output(one, temporary)
    for name in sorted(PROGRAMS):
        test_options(name)
    test_spoilt(temporary)
tap.done()
