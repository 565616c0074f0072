#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""quarry run, rt and profile: how a command starts, whom a signal reaches, whose exit status comes back, and
what to do where nothing can be traced."""
import errno
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


check_descendants()
check_no_ptrace()
with tempfile.TemporaryDirectory() as scratch:
    check_signals_of_command(scratch)
    check_status(scratch)
    check_library(scratch)
tap.done()
