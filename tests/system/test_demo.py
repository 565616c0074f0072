#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
# runner: timeout=300
"""The demonstration (make demo) measures what it says, and notices what it should."""
import csv
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = os.path.dirname(os.path.abspath(__file__))
TOOL = os.path.join(os.path.dirname(os.path.dirname(HERE)), "tools", "demo")
sys.path[:0] = [os.path.dirname(HERE), TOOL]
import demo
import measure
import report
import tap
from runner import BASELINE, Allocator, Bench, Failure, describe_difference
from workloads import Workload

MIB = 1024  # in KiB

# Allocators that are glibc's own, with one fault each.
FORWARD = """
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>
void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
void __libc_free(void *);
static int calls;
void *malloc(size_t size) { if (++calls == LAST_CALL) abort(); return __libc_malloc(size); }
void *calloc(size_t count, size_t size) { return __libc_calloc(count, size); }
void *realloc(void *block, size_t size) { return __libc_realloc(block, size); }
void free(void *block) { __libc_free(block); }
"""
CHANGED_OUTPUT = FORWARD + """
ssize_t write(int fd, const void *data, size_t size)
{
    if (fd == 1 && size > 0 && getenv("ROUNDS"))
        syscall(SYS_write, fd, "#", 1);
    return syscall(SYS_write, fd, data, size);
}
"""


def build(folder, name, source, last_call=-1):
    """Compile a library; return its path."""
    path = os.path.join(folder, name + ".so")
    subprocess.run(["gcc", "-x", "c", "-shared", "-fPIC", "-O1", f"-DLAST_CALL={last_call}", "-o",
                    path, "-"], input=source, text=True, check=True)
    return path


def run_demo(folder, *arguments):
    """Run the tool with its temporary files below the folder."""
    return tap.run(sys.executable, os.path.join(TOOL, "demo.py"), *arguments, TMPDIR=folder)


def message_check(name, result, status, *texts):
    """One test: the tool ended with this status and said all this, without a traceback."""
    tap.check(name, result.returncode == status and "Traceback" not in result.stderr
              and all(text in result.stderr for text in texts),
              f"exit status {result.returncode}\n{result.stdout}\n{result.stderr}")


def test_results(folder):
    files = [os.path.join(folder, name) for name in ("out.json", "out.csv")]
    result = run_demo(folder, "--small", "--runs", "2", "--only", "perl", "--only", "git",
                      "--json", files[0], "--csv", files[1])
    message_check("two programs run", result, 0, "perl: same output", "left")
    if result.returncode != 0:
        return
    with open(files[0], encoding="utf-8") as file:
        data = json.load(file)
    tap.equal("JSON: the programs asked for, in the listed order",
              [program["name"] for program in data["programs"]], ["perl", "git"])
    tap.equal("JSON: no failures", data["failures"], [])
    for program in data["programs"]:
        check_program(program)
    tap.check("JSON: geometric means of Quarry", set(data["geometric_mean"]["quarry"])
              == {metric.key for metric in report.METRICS}, data["geometric_mean"])
    with open(files[1], encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    tap.equal("CSV: a line per program and allocator",
              [(row["program"], row["allocator"]) for row in rows],
              [(name, who) for name in ("perl", "git") for who in ("glibc", "quarry")])
    tap.check("CSV: ratios for Quarry only",
              all(bool(row["peak_rss_kib_ratio"]) == (row["allocator"] == "quarry")
                  for row in rows), rows)
    lines = [line.split() for line in result.stdout.splitlines()]
    tap.check("table: a row for each program, and one for the mean",
              [line[0] for line in lines if line[1:2] == ["glibc"]] == ["perl", "git"]
              and any(line[:2] == ["geometric", "mean"] for line in lines), result.stdout)
    tap.check("table: no colour where nobody can see it", "\033" not in result.stdout)
    tap.equal("nothing is left in the temporary directory",
              [name for name in os.listdir(folder) if name.startswith("quarry-demo-")], [])


def check_program(program):
    """Tests of one program's entry: it is complete, and its figures agree with each other."""
    name, results = program["name"], program["results"]
    tap.equal(f"{name}: glibc and Quarry", list(results), ["glibc", "quarry"])
    medians = [entry["median"] for entry in results.values()]
    tap.check(f"{name}: all figures are there, and above zero",
              all(median[metric.key] > 0 for median in medians for metric in report.METRICS),
              medians)
    tap.check(f"{name}: two runs each, resident no more than mapped",
              all(len(entry["runs"]) == 2 and run["peak_rss_kib"] <= run["peak_vss_kib"]
                  for entry in results.values() for run in entry["runs"]), results)
    tap.check(f"{name}: memory calls are a part of all calls",
              all(entry["median"]["system_calls"] == sum(entry["calls_by_name"].values())
                  > entry["median"]["memory_calls"] for entry in results.values()), results)
    tap.check(f"{name}: ratios are the quotients of the medians",
              all(abs(results["quarry"]["ratio"][metric.key] * medians[0][metric.key]
                      - medians[1][metric.key]) < 1e-6 * medians[1][metric.key]
                  for metric in report.METRICS), results["quarry"]["ratio"])


def test_planted_faults(folder):
    small = ["--small", "--runs", "1", "--only", "perl"]
    changed = build(folder, "changed", CHANGED_OUTPUT)
    saved = os.path.join(folder, "changed.json")
    result = run_demo(folder, *small, "--allocator", f"odd={changed}", "--json", saved)
    message_check("other output: named, with a diff", result, 1,
                  "perl under odd: standard output differs", "\n  +#", "1 program failed",
                  "are kept in")
    with open(saved, encoding="utf-8") as file:
        tap.check("other output: in the JSON file too", len(json.load(file)["failures"]) == 1)
    aborting = build(folder, "aborting", FORWARD, last_call=400)
    result = run_demo(folder, *small, "--allocator", f"odd={aborting}")
    message_check("a crash: named, with its signal", result, 1, "perl under odd: died of signal 6")


def test_wrong_libraries(folder):
    small = ["--small", "--runs", "1", "--only", "perl", "--allocator"]
    message_check("no such library", run_demo(folder, *small, f"quarry={folder}/none.so"), 1,
                  f"there is no library {folder}/none.so")
    text = os.path.join(folder, "text.so")
    Path(text).write_text("no library\n", encoding="utf-8")
    message_check("no library at all", run_demo(folder, *small, f"odd={text}"), 1,
                  f"odd: the preload of {text} did not take")
    empty = build(folder, "empty", "int nothing;\n")
    message_check("a library without malloc", run_demo(folder, *small, f"odd={empty}"), 1,
                  f"odd: {empty} provides no malloc")
    message_check("a wrong --allocator", run_demo(folder, *small, "odd"), 2, "NAME=FILE.so")


def test_command_line(folder):
    result = run_demo(folder, "--help")
    tap.check("--help names every option", result.returncode == 0 and all(
        option in result.stdout for option in ("--only", "--runs", "--allocator", "--json",
                                               "--csv", "--svg", "--list", "--keep")))
    result = run_demo(folder, "--list")
    tap.check("--list names the programs and their packages",
              "redis" in result.stdout and "xz-utils" in result.stdout, result.stdout)
    message_check("an unknown program", run_demo(folder, "--only", "nosuch"), 2, "nosuch",
                  "python3")
    message_check("a wrong number of runs", run_demo(folder, "--runs", "0"), 2, "number of runs")
    absent = Workload("absent", "", {"no-such-program": "its-package"}, 1, "", {}, {})
    tap.equal("a program that is not installed: its package is named",
              demo.missing_programs([absent]),
              ["no-such-program is not installed: apt-get install its-package"])


def test_picture(folder):
    data, picture = os.path.join(folder, "drawn.json"), os.path.join(folder, "drawn.svg")
    result = run_demo(folder, "--small", "--runs", "1", "--only", "lua", "--json", data, "--svg",
                      picture)
    found = importlib.util.find_spec("matplotlib") or tap.run(
        "/usr/bin/python3", "-c", "import matplotlib").returncode == 0
    if found:
        tap.check("--svg draws a picture", result.returncode == 0
                  and "<svg" in Path(picture).read_text(encoding="utf-8"), result.stderr)
    else:
        message_check("--svg draws a picture", result, 1, "apt-get install python3-matplotlib")


def test_outputs(folder):
    """What cannot be written is told before the work; what turns out so, after the report."""
    small = ["--small", "--runs", "1", "--only", "lua"]
    for option in ("--json", "--csv", "--svg"):
        result = run_demo(folder, *small, option, f"{folder}/none/out.svg")
        tap.check(f"{option} in no folder: an error, and no work", result.returncode == 1
                  and result.stderr == f"demo.py: {folder}/none/out.svg: there is no folder {folder}/none\n"
                  and not result.stdout, result.stdout + result.stderr)
    result = run_demo(folder, *small, "--csv", folder)
    tap.check("a folder in a file's place", result.returncode == 1
              and result.stderr == f"demo.py: {folder} cannot be written\n", result.stderr)
    Path(folder, "matplotlib.py").write_text("raise ImportError\n", encoding="utf-8")
    for text, says, paths in (("no matplotlib", "apt-get install python3-matplotlib", {"PYTHONPATH": folder}),
                              ("another ending", "has to end with .svg or .png", {})):
        name = "out.gif" if not paths else "out.svg"
        result = tap.run(sys.executable, os.path.join(TOOL, "demo.py"), *small, "--svg",
                         os.path.join(folder, name), TMPDIR=folder, **paths)
        tap.check(f"--svg with {text}: an error, and no work", result.returncode == 1 and says in
                  result.stderr and result.stderr.count("\n") == 1 and not result.stdout,
                  result.stdout + result.stderr)
    result = run_demo(folder, *small, "--json", "/dev/full")
    tap.check("a full device: the report is there all the same", result.returncode == 1 and "No space"
              in result.stderr and "geometric" not in result.stderr and any(
                  line.split()[:1] == ["lua"] or "lua" in line for line in result.stdout.splitlines()),
              result.stdout + result.stderr)


def test_preload_lost(folder):
    """A child that drops the preload is noticed, although the first process had it."""
    workload = Workload("loser", "", {}, 1, "env -u LD_PRELOAD true\n:\n", {}, {})
    bench = Bench(workload, {}, Path(folder))
    bench.measure(Allocator(BASELINE))
    allocator = Allocator("quarry", os.path.realpath(tap.LIBRARY))
    for name, action in (("its maps", bench.measure), ("its bindings", bench.prove_allocator)):
        try:
            action(allocator)
            text = "no failure"
        except Failure as failure:
            text = str(failure)
        tap.check(f"a child without the preload is noticed by {name}",
                  "the preload did not take: true" in text, text)


def measure_command(folder, script, limit_s=60):
    return measure.run(["/bin/sh", "-c", script], Path(folder), {"PATH": "/usr/bin:/bin"},
                       Path(folder, "out"), None, limit_s)


def is_running(pid):
    """Whether there is a process that has not ended; one that only waits to be reaped has."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return False


def test_measuring(folder):
    touch = "perl -e 'my $text = chr(97) x (64 << 20); undef $text'"
    peak = measure_command(folder, touch + "; :").peak_rss_kib
    tap.check("the peak of a child that frees and ends at once is seen",
              64 * MIB <= peak <= 64 * MIB * 2.5, f"{peak} KiB")
    peak = measure_command(folder, f"{touch} & wait; exit 0")
    tap.equal("the largest process is named", peak.largest, "perl")
    status = measure_command(folder, "exit 7").exit_status
    tap.equal("the exit status is passed on", status, 7)
    try:
        measure_command(folder, "sleep 100 & echo $!; echo $$; wait", 1)
        text = "no error"
    except measure.RunError as error:
        text = str(error)
    tap.equal("a run that takes too long is ended", text, "did not finish within 1 s")
    pids = Path(folder, "out.stdout").read_text(encoding="utf-8").split()
    tap.check("and none of its processes is left",
              len(pids) == 2 and not any(is_running(pid) for pid in pids), pids)


def test_differences():
    tap.equal("text: a diff", describe_difference(b"a\nb\n", b"a\nc\n").splitlines()[-2:],
              ["  -b", "  +c"])
    text = describe_difference(b"\x00abc", b"\x00axc")
    tap.check("bytes: where they differ", "first difference at byte 2 of 4" in text, text)
    tap.check("bytes: one is shorter", "3 bytes instead of 4"
              in describe_difference(b"\xff\0ab", b"\xff\0a"))
    tap.equal("a ratio to zero is none", [report.ratio(1, 0), report.ratio(0, 0)], [None, 1.0])


with tempfile.TemporaryDirectory(prefix="quarry-test-demo-") as top:
    test_results(top)
    test_planted_faults(top)
    test_wrong_libraries(top)
    test_command_line(top)
    test_picture(top)
    test_outputs(top)
    test_preload_lost(top)
    test_measuring(top)
test_differences()
tap.done()
