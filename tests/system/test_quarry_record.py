#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""quarry record ends well however it is ended, takes natural command lines, and keeps to the real clock."""
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.dirname(HERE), HERE]
import tap
from quarry_tool import ENVIRONMENT, PROGRAM, TOOL, Known, reads, refuses, tool

PATIENCE_S = 60


def lines_of(name):
    with open(name, encoding="utf-8") as file:
        return file.read().splitlines(keepends=True)


def grown(name, count):
    """Whether a recording gets so many lines."""
    end = time.monotonic() + PATIENCE_S
    while len(lines_of(name)) < count and time.monotonic() < end:
        time.sleep(0.01)
    return len(lines_of(name)) >= count


@contextlib.contextmanager
def recorder(name, interval="0.01", ignored=()):
    """quarry record of a program that holds its memory."""
    def set_signals():
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN if number in ignored else signal.SIG_DFL)

    process = subprocess.Popen([TOOL, "record", "-o", name, "-i", interval, "--", PROGRAM, "hold"],
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                               env=dict(os.environ, **ENVIRONMENT), preexec_fn=set_signals)
    process.stdout.readline()
    try:
        yield process
    finally:
        process.stdin.close()
        process.stdout.close()
        process.wait(PATIENCE_S)


def check_signals(name):
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        with recorder(name) as process:
            grown(name, 5)
            process.send_signal(number)
            status = process.wait(PATIENCE_S)
            if number == signal.SIGINT:  # a terminal sends it to all; here the program ends by itself
                process.stdin.close()
            left = process.stdout.read()  # until the program has ended, too
        tap.equal(f"{number.name} ends recorder and program", (left, status), ("", 0))
        shown = reads(f"{number.name} leaves a recording", "plot", name)
        tap.equal(f"whose end tells {number.name}", shown.get("end"), f"interrupted by {number.name}")
    with recorder(name, ignored=[signal.SIGHUP]) as process:
        process.send_signal(signal.SIGHUP)
        tap.check("it goes on where it ignores SIGHUP", grown(name, len(lines_of(name)) + 5))
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE_S)
    tap.equal("a signal that was ignored stays so", reads("plot after SIGHUP", "plot", name).get("end"),
              "interrupted by SIGTERM")


def check_cut(name):
    with recorder(name, "3600") as process:
        tap.check("a line is in the file at once", grown(name, 2))
        process.stdin.close()
        tap.equal("the end of a command is seen before the next sample", process.wait(PATIENCE_S), 7)
    with recorder(name) as process:
        grown(name, 10)
        process.kill()
        process.wait()
    lines = lines_of(name)
    tap.check("a recorder that was killed leaves whole lines", all(
        line.endswith("\n") and json.loads(line) for line in lines), lines[-1:])
    lines = [lines[0], *[line for line in lines[1:] if "event" not in json.loads(line)]]
    for what, last, samples in (("that is cut", lines[-1][:-9], len(lines) - 2),
                                ("without a newline", lines[-1][:-1], len(lines) - 1)):
        with open(name, "w", encoding="utf-8") as file:
            file.writelines([*lines[:-1], last])
        result = tool("plot", name, "--json")
        shown = json.loads(result.stdout or "{}")
        tap.equal(f"a last line {what}: the others are read", shown.get("samples"), samples)
        tap.equal(f"a last line {what}: told if it was left out", result.stderr, "" if (
            samples == len(lines) - 1) else f"quarry: {name}: the last line was cut off; it is left out\n")


def check_words(name, known, other):
    for words in ((known.pid, "-o", name, "-t", "0.05"), ("-o", name, known.pid, "-t", "0.05", "-i", "0.02"),
                  ("-t", "0.05", known.pid, "-q", "-o", name)):
        with contextlib.suppress(FileNotFoundError):
            os.remove(name)
        result = tool("record", *words)
        tap.check("options before and behind the PID: " + " ".join(words[:3]).replace(name, "FILE").replace(
            known.pid, "PID"),
                  result.returncode == 0 and tool("plot", name, "--json").returncode == 0, result.stderr)
    result = tool("record", "-o", name, known.pid, "-t", "0.05", "--json")
    tap.check("--json behind the PID", result.returncode == 0 and "peak_rss" in json.loads(
        result.stderr or "{}"), result.stderr)
    both = f"one process at a time: {known.pid} {other.pid}"
    for words, says in (
            ((known.pid,), "by -o FILE"), (("-o", name, known.pid, other.pid), both),
            ((known.pid, other.pid, "-o", name), both), (("-o", name, known.pid, "true"), "'true': behind"),
            (("-o", name, "0"), "no process 0"),
            (("--trim-threshold=1", "--control", "-o", name, known.pid), "--trim-threshold, --control: "),
            (("-o", name, known.pid, "--library", "x"), "--library: ")):
        shown = " ".join(words).replace(known.pid, "PID").replace(other.pid, "PID2").replace(name, "FILE")
        refuses(f"record {shown}", says, "record", *words, status=2)
    for word in ("abc", "\u00b2", "./abc"):
        refuses(f"record {word}: no PID and no program", f"record: {word}: neither a PID nor a program; usage: quarry "
                "record -o FILE ", "record", "-o", name, word, status=2)
    refuses("record -- \u00b2: a command, not a PID", "\u00b2: No such file", "record", "-o", name, "--", "\u00b2")
    result = tool("record", "-q", "-o", name, "echo", "x")
    tap.check("record PROGRAM: it is started", result.stdout == "x\n" and result.returncode == 0, result.stderr)
    refuses("top PID PID2", both, "top", known.pid, other.pid, status=2)
    refuses("top 0 is not top of all", "process 0: there is none", "top", "0")
    result = tool("record", "-o", name, "--", "sh", "-c", "echo $1", "sh", "-t")
    tap.check("what is behind a command is the command's", result.stdout == "-t\n", result.stderr)


def check_quantities(name, known):
    for words, values in ((("record", "-o", name, known.pid, "-t"), ("nan", "inf", "0", "-1", "1e300", "soon")),
                          (("record", "-o", name, "-i"), ("nan", "inf")), (("top", "-d"), ("nan", "0")),
                          (("rt", "--no-calls", "--worst"), ("nan",))):
        for value in values:
            result = tool(*words, value)
            tap.check(f"{words[0]} {words[-1]} {value} is refused", result.returncode == 2
                      and f"'{value}' is no number of " in result.stderr.splitlines()[-1], result.stderr)


def check_clock(name, known):
    words = ("record", "-o", name, "-i", "1e-6", "-t", "0.2", known.pid)
    result = tool(*words)
    tap.check("a rate that cannot be reached is told in a line", re.fullmatch(
        r"quarry: a sample each [\d.e-]+ s, not each 1e-06 s: .*\n", result.stderr), result.stderr)
    shown = reads("its recording", "plot", name)
    tap.check("which is as long as asked, by the real clock", shown.get("end") == "the time was over"
              and shown["samples"] < 0.2 / 1e-6 and shown["summary"]["duration_s"] >= 0.19, shown)
    tap.equal("--quiet says nothing", tool(*words, "--quiet").stderr, "")
    result = tool("record", "-o", name, "-i", "3600", "-t", "0.1", known.pid)
    shown = reads("a duration below the interval", "plot", name)
    tap.check("has a sample at its begin and one at its end", shown.get("samples") == 2
              and not result.stderr, f"{shown} {result.stderr}")


def check_command(name):
    """Its status comes back, and it ends by itself, whatever becomes of the recording."""
    result = tool("record", "--json", "-o", name, "-i", "3600", "--", "sh", "-c", "exit 5")
    tap.check("a recording too short for a summary: the command's status", result.returncode == 5 and
              "too few" in result.stderr and result.stderr.count("\n") == 1, result.stderr)
    before = lines_of(name)
    for words in (("--", "/nonexistent"), ("2",)):
        result = tool("record", "-o", name, *words)
        tap.check(f"record {words[-1]} costs no recording", result.returncode == 1 and lines_of(name) == before,
                  result.stderr)
    result = tool("record", "--json", "-o", "/dev/full", "--", "sh", "-c", "sleep 0.1; echo ended; exit 5")
    tap.check("where nothing can be written the command goes on", result.returncode == 5 and
              result.stdout == "ended\n" and result.stderr.count("\n") == 1, result.stdout + result.stderr)


def check_late_heap():
    """A program that uses Quarry after long without is seen to."""
    script = """if True:
        import os, sys
        sys.path.insert(0, sys.argv[1])
        from quarrytool import record
        looks, now = [0], [0.0]
        record.time.monotonic = lambda: now[0]
        def heap(pid):
            looks[0] += 1
            if now[0] < 1000:
                raise record.ToolError
            return Heap()
        class Heap:
            totals = staticmethod(record.Totals)
        record.Heap = heap
        sampler = record.Sampler(os.getpid(), False)
        for now[0] in range(1002):
            for _ in range(200):
                entry = sampler.sample()[-1]
        print("live" in entry, looks[0] < 2000)"""
    result = tap.run("/usr/bin/python3", "-B", "-c", script, os.path.dirname(TOOL))
    tap.equal("a heap that is there late is found, and seldom looked for", result.stdout, "True True\n")


def check_plot_over(folder):
    name = os.path.join(folder, "memory.html")
    tool("record", "-o", name, "-i", "0.01", "--", PROGRAM, "drips")
    link = os.path.join(folder, "link.svg")
    os.link(name, link)
    before = lines_of(name)
    for words in ((name,), (name, "-o", link)):
        refuses("plot does not write over its recording", "this is the recording", "plot", *words,
                status=2)
    tap.check("which stays as it was", before and lines_of(name) == before)


with tempfile.TemporaryDirectory() as scratch:
    recording = os.path.join(scratch, "recording")
    check_signals(recording)
    check_cut(recording)
    with Known() as one, Known() as two:
        check_words(recording, one, two)
        check_quantities(recording, one)
        check_clock(recording, one)
    check_command(recording)
    check_late_heap()
    check_plot_over(scratch)
tap.done()
