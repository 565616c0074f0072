#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""quarry rt passes where a section keeps its promise, and names what happened where it does not."""
import json
import os
import stat
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.dirname(HERE), HERE]
import tap
from quarry_tool import tool

REALTIME = os.path.join(tap.BUILD, "tools", "rt", "realtime")
SECTIONS = os.path.join(tap.BUILD, "system", "rt_sections")
QUICK = ("--mix", "small", "--seed", "5")
PAGE = os.sysconf("SC_PAGE_SIZE")


def rt(*words, **options):
    return tool("rt", *words, QUARRY_REALTIME=options.pop("program", REALTIME), **options)


def seccomp_works():
    result = rt("--", SECTIONS, "clean")
    return "refuses seccomp" not in result.stderr and "cannot be traced" not in result.stderr


def ends(name, result, status, *says):
    said = result.stdout + result.stderr
    return tap.check(name, result.returncode == status and all(text in said for text in says)
                     and "Traceback" not in said, f"exit status {result.returncode}\n{said}")


def parsed(name, text):
    try:
        return json.loads(text)
    except ValueError:
        tap.check(name + ": it is JSON", False, text)
        return {}


def check_own_program(counting):
    result = rt("--thread", "--seed", "7", *counting)
    ends("Quarry's program passes in each mix", result, 0, "quarry: passed: no page fault",
         *("\n" + mix for mix in ("small", "mixed", "large", "bursts")))
    tap.check("where calls are not counted it says so", bool(counting) == (
        "not counted" in result.stdout), result.stdout)
    result = rt("--json", "--mix", "small", "--mix", "bursts", "--seed", "5", "--seed", "6",
                "--reserve", "32M", *counting)
    figures = parsed("the report", result.stdout)
    runs = figures.get("runs", [])
    tap.equal("a run for each mix and seed", [(entry["mix"], entry["seed"]) for entry in runs],
              [("small", 5), ("small", 6), ("bursts", 5), ("bursts", 6)])
    tap.check("the report tells what was reserved, and no fault", result.returncode == 0
              and figures["ok"] is True and figures["reserve"] == 32 << 20
              and not any(entry["faults"] for entry in runs), result.stdout)
    tap.check("the report has the calls, if they were counted", all(
        entry["system_calls"] == (None if counting else {}) for entry in runs), result.stdout)
    tap.check("times are in order", all(
        entry["p50_ns"] <= entry["p999_ns"] <= entry["worst_ns"] and entry["worst_ns"]
        for entry in runs), result.stdout)
    ends("a bound on the worst call is enforced", rt(*QUICK, "--worst", "0.001", *counting), 1,
         "quarry: failed: small, seed 5: a call took")
    with tempfile.NamedTemporaryFile("r", encoding="utf-8") as file:
        result = rt(*QUICK, "-o", file.name, *counting)
        tap.check("-o writes the report there", "quarry: passed" in file.read()
                  and not result.stdout + result.stderr, result.stdout + result.stderr)


def check_planted(counting):
    """A program in the place of Quarry's that leaves the recipe out must not pass."""
    with tempfile.TemporaryDirectory() as folder:
        program = os.path.join(folder, "realtime")
        with open(program, "w", encoding="utf-8") as file:
            file.write(f'#!/bin/sh\nshift\nexec "{REALTIME}" none "$@"\n')
        os.chmod(program, stat.S_IRWXU)
        result = rt("--mix", "large", "--seed", "5", *counting, program=program)
        ends("without the recipe it fails and tells of faults", result, 1,
             "quarry: failed: large, seed 5:", " page faults")
        if not counting:
            ends("and of system calls", result, 1, " system calls: ", "brk ")
    ends("a program that cannot be run is told", rt(*QUICK, *counting, program="/nonexistent"), 1,
         "/nonexistent: there is no such program")


def check_use():
    for words, says in ((("--reserve", "12"), "give 1M or more"), (("--reserve", "1Q"), "or with K, M, G or T"),
                        (("--reserve", "auto"), "give 1M or more"), (("--reserve", "-1T"), "--reserve"),
                        (("--mix", "tiny"), "tiny"),
                        (("--seed", "-1"), "--seed"), (("--lock", "--", "true"), "--lock"),
                        (("--mix", "small", "--", "true"), "--mix")):
        ends("wrong use: " + " ".join(words), rt(*words), 2, says, "usage: quarry rt")
    result = rt("--help")
    ends("the help has each option", result, 0, "--reserve", "--mix", "--seed", "--lock", "--thread",
         "--worst", "--no-calls", "--json", "--output", "--library", "close(-1000)")
    words = parsed("completion", tool("completion", "--json").stdout)
    tap.check("the options are completed", "--reserve" in words.get("rt", []), words)


def refused(name, result, status, *says):
    tap.check(name, result.returncode == status and result.stderr.count("\n") == 1 and not result.stdout
              and all(text in result.stderr for text in ("quarry: rt: ", *says)),
              f"{result.returncode}\n{result.stdout}{result.stderr}")


def check_room():
    """What cannot be reserved is told with what to change, before it is tried."""
    refused("a limit below what is to be reserved", rt("--limit", "10M"), 2, "--limit=10M: ",
            "64.0M of --reserve", "raise it to 97M", "lower --reserve to 5M")
    refused("a limit of the environment", rt("--reserve=32MiB", QUARRY_LIMIT="32M"), 2, "QUARRY_LIMIT=32M: ",
            "raise it to 49M", "lower --reserve to 16M")
    refused("a limit below any", rt("--limit", "4K"), 2, "raise it to 97M\n")
    refused("more than the machine has", rt("--reserve", "4000T"), 1, "--reserve of 4000T", "lower it")
    for counting in ((), ("--no-calls",)):
        result = rt(*QUICK, "--limit", str((64 << 20) + PAGE), *counting)
        ends("a limit that leaves no room beside it", result, 1, "realtime failed, with status 2; where it lacked "
             "memory, lower --reserve, now 64.0M, or raise --limit=")
    for text in ("8M", "8m", "8MiB", "0x800000", "8388608"):
        figures = parsed(text, rt("--json", "--no-calls", *QUICK, "--reserve", text).stdout)
        tap.equal(f"--reserve {text}", figures.get("reserve"), 8 << 20)


def check_commands():
    ends("a clean section passes", rt("--", SECTIONS, "clean"), 0,
         "quarry: passed: 1 section: no page fault, no system call")
    # After a fork a page may be copied at any time.
    seen = parsed("child", rt("--json", "--", SECTIONS, "child").stderr)
    tap.check("a section in a child process is seen", seen.get("sections") == 1
              and seen["system_calls"] == {}, seen)
    ends("what lies between two sections does not count", rt("--", SECTIONS, "twice"), 0,
         "passed: 2 sections")
    result = rt("--", SECTIONS, "fault")
    ends("page faults are told", result, 1, "quarry: failed: 10 page faults")
    for how, name in (("call", "system calls are counted"), ("thread", "in another thread, too")):
        result = rt("--json", "--", SECTIONS, how)
        figures = parsed(how, result.stderr)
        ends(f"system calls are told: {how}", result, 1)
        tap.check(name, figures.get("ok") is False
                  and sum(figures["system_calls"].values()) == 3
                  and figures["problems"][0].startswith("3 system calls: "), figures)
    result = rt("--no-calls", "--", SECTIONS, "call")
    ends("calls are not looked at where they shall not be", result, 0, "were not counted")
    ends("faults are told all the same", rt("--no-calls", "--", SECTIONS, "fault"), 1, "10 page faults")
    ends("a status of the command is a failure", rt("--", SECTIONS, "status"), 1,
         "ended with status 7")
    ends("a section without an end is a failure", rt("--", SECTIONS, "open"), 1, "did not end")
    for words in ((SECTIONS, "none"), ("true",)):
        result = rt("--", *words)
        ends("no section: it says how to mark one", result, 2, "close(-1000)")
        tap.equal("in one line", result.stderr.count("\n"), 1)
    ends("a command that cannot be started", rt("--", "/nonexistent"), 1, "No such file")
    result = rt("--", "env")
    tap.check("the recipe's variables are set", "MALLOC_TRIM_THRESHOLD_=-1\n" in result.stdout
              and "MALLOC_MMAP_MAX_=0\n" in result.stdout, result.stdout)
    result = rt("--", "env", "-u", "LD_PRELOAD", SECTIONS, "clean")
    ends("a section that another allocator served does not pass", result, 1, "did not use Quarry")


check_use()
if seccomp_works():
    check_own_program([])
    check_planted([])
    check_commands()
    check_room()
else:
    tap.skip("system calls are counted", "no seccomp or no ptrace here")
check_own_program(["--no-calls"])
check_planted(["--no-calls"])
tap.done()
