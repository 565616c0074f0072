#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""quarry run, rt and profile: how a command starts, whom a signal reaches, whose exit status comes back, what
to do where nothing can be traced, and which values of the allocator's options and which libraries are taken."""
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.dirname(HERE), HERE]
import tap
from quarry_tool import ENVIRONMENT, NO_SECCOMP, TOOL, refuses, tool, under_filter

PATIENCE_S = 60
FAILS = ("--", "sh", "-c", "exit 5")
PAGE = os.sysconf("SC_PAGE_SIZE")
STARTS = ("--", "echo", "started")
BYTES = "; it may end with K, M, G or T"
WRONG_VALUES = (
    ("--limit", "x", "1 or more, auto" + BYTES), ("--limit", "0", "1 or more, auto" + BYTES),
    ("--limit", "", "1 or more, auto" + BYTES), ("--trim-threshold", "1Q", "any number" + BYTES),
    ("--guard", "-1", "0 or more" + BYTES), ("--perturb", "300", "0 .. 255"), ("--perturb", "1K", "0 .. 255"),
    ("--canary", "2", "0 .. 1"), ("--check-action", "9", "0 .. 3"), ("--hugetlb", "x", "0 or more"),
    ("--tcache-max", "1:2", "0 or more" + BYTES), ("--foreign", "x", "abort, leak, libc"),
    ("--drain", "x", "never, asked, idle"), ("--control", "2", "0 .. 1; or nothing"))
RIGHT_VALUES = (
    ("QUARRY_LIMIT", "--limit", ("1GiB", "64m", "0x10000000", "auto", "+1T")),
    ("MALLOC_TRIM_THRESHOLD_", "--trim-threshold", ("-1", "010")),
    ("MALLOC_PERTURB_", "--perturb", ("0xff",)), ("QUARRY_FOREIGN", "--foreign", ("leak", "2")),
    ("QUARRY_DRAIN", "--drain", ("asked",)), ("QUARRY_CONTROL", "--control", ("0",)))


def reaped(pid):
    """Whether a process is gone, its status taken."""
    end = time.monotonic() + PATIENCE_S
    while os.path.exists(f"/proc/{pid}") and time.monotonic() < end:
        time.sleep(0.01)
    return not os.path.exists(f"/proc/{pid}")


def check_descendants():
    """The command ends with status 3 and leaves two processes, which its end does not end."""
    script = "sleep 1000 & (sleep 1000; true) & echo $$; exit 3"
    process = subprocess.Popen([TOOL, "run", "--no-calls", "--", "sh", "-c", script], text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               env=dict(os.environ, **ENVIRONMENT))
    tap.check("the command ends", reaped(process.stdout.readline().strip()))
    tap.equal("run waits for those that it started", process.poll(), None)
    process.send_signal(signal.SIGTERM)
    left, said = process.communicate(timeout=PATIENCE_S)
    tap.check("a signal ends these, and the summary comes", process.returncode == 3 and not left
              and said.startswith("quarry: peak") and "Traceback" not in said,
              f"{process.returncode} {said}")


def check_no_ptrace():
    """A sandbox that refuses ptrace."""
    number = {"x86_64": 101, "aarch64": 117}[os.uname().machine]
    start = under_filter(number, [(0x06, 0, 0, 0x50000 | errno.EPERM)])
    if tap.run(*start, "run", "-q", "--", "true", **ENVIRONMENT).returncode == NO_SECCOMP:
        tap.skip("where nothing can be traced, run says what to do", "no seccomp to refuse it by")
        return
    for words, says in ((("run",), "quarry run -q "), (("run", "--no-calls"), "quarry run -q "),
                        (("rt",), "quarry rt --no-calls ")):
        result = tap.run(*start, *words, "--", "true", **ENVIRONMENT)
        tap.check(f"where nothing can be traced, {' '.join(words)} says what to do",
                  result.returncode == 1 and says in result.stderr and result.stderr.count("\n") == 1,
                  result.stderr)
    result = tap.run(*start, "run", "-q", "--", "sh", "-c", "echo $LD_PRELOAD", **ENVIRONMENT)
    tap.check("run -q helps", result.returncode == 0 and "libquarry" in result.stdout
              and not result.stderr, result.stderr)
    result = tap.run(*start, "rt", "--no-calls", "--mix", "small", "--seed", "5", **ENVIRONMENT,
                     QUARRY_REALTIME=os.path.join(tap.BUILD, "tools", "rt", "realtime"))
    tap.check("rt --no-calls helps", result.returncode == 0 and "passed" in result.stdout,
              result.stdout + result.stderr)


def check_signals_of_command(folder):
    """It ignores none for the tool's sake, and the command of profile gets those that are for it."""
    profiled = ("profile", "-q", "-o", os.path.join(folder, "profile"))
    for words in (("run", "-q"), ("run", "--no-calls"), profiled):
        ignored = int(tool(*words, "--", "grep", "SigIgn", "/proc/self/status").stdout.split()[1], 16)
        tap.equal(f"a command of {' '.join(words[:2])} ignores no signal that Python does", [
            number for number in (signal.SIGPIPE, signal.SIGXFSZ) if ignored >> number - 1 & 1], [])
    process = subprocess.Popen([TOOL, *profiled, "--", "sh", "-c", "trap 'exit 9' TERM; echo; read line"],
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=dict(os.environ, **ENVIRONMENT))
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    tap.equal("profile passes a signal on", process.wait(PATIENCE_S), 9)
    process.communicate()


def check_status(folder):
    """It is the command's, also where the report cannot be written."""
    path = os.path.join(folder, "output")
    for words in (("run", "--no-calls"), ("profile", "-o", path)):
        result = tap.run("sh", "-c", 'exec "$@" 2>/dev/full', "sh", TOOL, *words, *FAILS, **ENVIRONMENT)
        tap.equal(f"the status of {words[0]} without its report", result.returncode, 5)
    result = tool("run", "--no-calls", "-o", "/dev/full", *FAILS)
    tap.check("that there is none is told", result.returncode == 5 and result.stderr.count("\n") == 1 and
              "No space left" in result.stderr, result.stderr)
    with open(path, "w", encoding="ascii") as file:
        file.write("old\n")
    for words in (("run", "--no-calls"), ("profile",)):
        result = tool(*words, "-o", path, "--", "/nonexistent")
        with open(path, encoding="ascii") as file:
            tap.equal(f"a command that {words[0]} cannot start costs no file", (result.returncode, file.read()),
                      (127, "old\n"))
    result = tool("run", "--no-calls", "-o", path, "--", "true")
    with open(path, encoding="ascii") as file:
        tap.check("one that it starts does", file.read().startswith("quarry: peak"), result.stderr)


def check_library(folder):
    """ld.so takes a path with a blank or a colon for two, and neither is there."""
    for name in ("a b", "a:b"):
        path = shutil.copy(tap.LIBRARY, os.path.join(folder, name))
        refuses(f"a library '{name}' is refused", "move it", "run", "-q", "--library", path, "--", "true")
    text = os.path.join(tap.ROOT, "README.md")
    other = os.path.join(tap.BUILD, "release", "libquarry_profile.so")
    cut = os.path.join(folder, "cut.so")
    with open(tap.LIBRARY, "rb") as file, open(cut, "wb") as copy:
        copy.write(file.read(100))
    for what, path, says in (("a text", text, "no shared library"), ("an empty file", os.devnull, "no such library"),
                             ("a program", "/bin/sh", "no build of Quarry"), ("another", other, "no build of Quarry"),
                             ("a part of one", cut, "no build of Quarry")):
        refuses(f"{what} for a library is refused", f"{path}: ", "run", "--library", path, *STARTS)
        refuses(f"{what} for a library: why", says, "run", "-q", "--library", path, *STARTS)
    result = tap.run(TOOL, "run", *STARTS, QUARRY_LIBRARY=text)
    tap.check("so it is in the environment", result.returncode == 1 and not result.stdout
              and result.stderr.startswith(f"quarry: {text}: this is no shared library"), result.stderr)
    debug = tool("run", "--library", os.path.join(tap.BUILD, "debug", "libquarry.so"), *STARTS)
    tap.check("another build is taken", debug.stdout == "started\n" and "heap at the end" in debug.stderr, debug.stderr)


def check_values(folder):
    """What the library would ignore is told before anything starts; what it takes is passed on as it is."""
    for flag, value, range_ in WRONG_VALUES:
        refuses(f"run {flag}={value} is refused", f"quarry: run: {flag}: '{value}' is not one of: {range_}",
                "run", "-q", f"{flag}={value}", *STARTS, status=2)
    refuses("so it is as a word", "run: --limit: '0' is not", "run", "--limit", "0", *STARTS, status=2)
    path = os.path.join(folder, "none")
    for words in (("rt",), ("record", "-o", path), ("profile", "-o", path)):
        refuses(f"{words[0]} --limit=x is refused", f"quarry: {words[0]}: --limit: 'x' is not one of: 1 or more, auto",
                *words, "--limit=x", *STARTS, status=2)
    tap.check("and costs no file", not os.path.exists(path))
    for name, flag, values in RIGHT_VALUES:
        for value in values:
            result = tool("run", "-q", flag, value, "--", "env")
            tap.check(f"run {flag} {value} is taken", f"\n{name}={value}\n" in "\n" + result.stdout
                      and not result.stderr, result.stderr)


def check_quiet(folder):
    """There is no summary, and so none to be written anywhere."""
    path = os.path.join(folder, "none")
    for words in (("-o", path), ("--json",), ("-o", "", "--json")):
        refuses(f"run -q {words[0]}", "run: --quiet leaves out the summary", "run", "-q", *words, *STARTS, status=2)
    tap.check("there is no file", not os.path.exists(path))


def check_pages():
    """What is given back is counted as the kernel takes it, by whole pages."""
    script = ("import ctypes, sys; libc = ctypes.CDLL(None); libc.mmap.restype = ctypes.c_void_p; "
              f"page = {PAGE}; size = ctypes.c_size_t; start = libc.mmap(None, size(4 * page), 3, 0x22, -1, size(0)); "
              "at = lambda number: ctypes.c_void_p(start + number * page); "
              "sys.exit(libc.munmap(at(0), size(1)) or libc.madvise(at(1), size(page + 1), 4))")
    python = ("run", "--json", "--", "/usr/bin/python3", "-S", "-c")
    before, after = (tool(*python, text) for text in (script.replace("sys.exit(", "sys.exit(0 and "), script))
    if "refuses seccomp" in before.stderr or "cannot be traced" in before.stderr:
        tap.skip("what is given back is counted by pages", "no seccomp or no ptrace here")
        return
    first, second = (json.loads(result.stderr)["returned"] for result in (before, after))
    tap.equal("lengths are rounded up to whole pages", [
        first["munmap"] % PAGE, second["munmap"] % PAGE, second["madvise"] % PAGE, second["munmap"] > first["munmap"]],
              [0, 0, 0, True])


check_descendants()
check_no_ptrace()
with tempfile.TemporaryDirectory() as scratch:
    check_signals_of_command(scratch)
    check_status(scratch)
    check_library(scratch)
    check_values(scratch)
    check_quiet(scratch)
check_pages()
tap.done()
