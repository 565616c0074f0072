#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""quarry doctor: what a process sets of malloc, and what may be said of one that may not be read."""
import json
import os
import re
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.dirname(HERE), HERE]
import tap
from quarry_tool import (PROGRAM, TOOL, UNREADABLE_MEMORY, Known, Ready, hooked, reads, tool,
                         tool_words)

with open(os.path.join(tap.ROOT, "docs", "OPTIONS.md"), encoding="utf-8") as page:
    ROWS = re.findall(r"^\| (\w+) \| (\S+) \| (\S+) \| \S+ \|", page.read(), re.MULTILINE)
VARIABLES = [variable for _, variable, _ in ROWS if variable != "-"]
TUNABLES = [tunable for _, _, tunable in ROWS if tunable != "-"]
# Numbers of each form that src/option.c knows, words of options, and near misses of both.
VALUES = ("0", "1", "-1", "+3", "255", "256", "017", "09", "0144", "0x65", "0x", "1K", "4kB", "2MiB", "1Mb", "1G ",
          "-1K", "8T", "9999999T", "9223372036854775807", "9223372036854775808", "", "auto", "abort",
          "libc", "Abort", "any", "1 or more", "none", "1e3")


def of_environment(**environment):
    """What doctor finds in a program with this environment and no other."""
    with Ready([PROGRAM, "hold"], dict(environment, LD_PRELOAD=tap.LIBRARY)) as program:
        result = tool("doctor", program.pid, "--json")
    tap.check(f"doctor of {environment or 'an empty environment'}", not result.stderr, result.stderr)
    return result.returncode, {f["topic"]: f for f in json.loads(result.stdout or "[]")}


def check_settings():
    status, found = of_environment()
    tap.check("nothing is set, and that is said", status == 0 and "none" in found.get(
        "settings of malloc", {}).get("value", ""), found)
    status, found = of_environment(MALLOC_TRIM_THRESHOLD_="1M", QUARRY_FOREIGN="leak", QUARRY_PROFILE_RATE="1",
                                   GLIBC_TUNABLES="glibc.rtld.nns=4:glibc.malloc.tcache_count=9")
    tap.check("what is set, and well, is listed", status == 0 and [
        (found.get(name, {}).get("verdict"), found.get(name, {}).get("value"))
        for name in ("MALLOC_TRIM_THRESHOLD_", "QUARRY_FOREIGN", "QUARRY_PROFILE_RATE",
                     "glibc.malloc.tcache_count")] == [
            ("ok", "1M"), ("ok", "leak"), ("ok", "1"), ("ok", "9")] and "glibc.rtld.nns" not in found, found)
    wrong = {"MALLOC_TRIM_THRESHOLD": "MALLOC_TRIM_THRESHOLD_", "QUARRY_LIMITS": "QUARRY_LIMIT",
             "malloc_arena_max": "MALLOC_ARENA_MAX"}
    status, found = of_environment(**dict.fromkeys(wrong, "1M"), MALLOC_CONF="a:b",
                                   GLIBC_TUNABLES="malloc.tcache_max=9:glibc.malloc.check:"
                                   "glibc.malloc.tcache_unsorted_limit=7")
    wrong["malloc.tcache_max"] = "glibc.malloc.tcache_max"
    for name, meant in wrong.items():
        finding = found.get(name, {})
        tap.check(f"{name}: what is meant is said", finding.get("verdict") == "bad"
                  and f"is {meant} meant" in finding["advice"], finding)
    tap.check("a bad setting is a bad status", status == 1)
    for name in ("MALLOC_CONF", "glibc.malloc.tcache_unsorted_limit"):
        tap.check(f"{name}: not read, and like nothing", found.get(name, {}).get("verdict") == "note"
                  and "meant" not in found[name]["advice"], found.get(name))
    tap.check("a key without a value is told", "VALUE" in found.get("glibc.malloc.check", {}).get(
        "advice", ""), found.get("glibc.malloc.check"))
    status, found = of_environment(MALLOC_ARENA_MAX="many", QUARRY_HEADROOM="101")
    tap.check("a malformed value is told, with the range", status == 1 and "0 .. 100" in found.get(
        "QUARRY_HEADROOM", {}).get("advice", "") and "malformed" in found.get(
            "MALLOC_ARENA_MAX", {}).get("advice", ""), found)


def check_parser():
    """What doctor takes for malformed is what the library takes for malformed."""
    script = ("import json, sys; sys.path.insert(0, sys.argv[1]); from quarrytool import settings; "
              "print(json.dumps([f.topic for value in [sys.argv[2]] for f in settings.examine("
              "dict.fromkeys(sys.argv[3].split(), value) | {'GLIBC_TUNABLES': "
              "':'.join(f'{key}={value}' for key in sys.argv[4].split())}) if f.verdict != 'ok']))")
    for value in VALUES:
        result = tap.run("true", preload=tap.LIBRARY, QUARRY_VERBOSE="1",
                         **dict.fromkeys(VARIABLES, value),
                         GLIBC_TUNABLES=":".join(f"{key}={value}" for key in TUNABLES))
        refused = re.findall(rf"^quarry: (\S+): '{re.escape(value)}' is not", result.stderr, re.MULTILINE)
        result = tap.run("/usr/bin/python3", "-B", "-c", script, os.path.dirname(TOOL),
                         value, " ".join(VARIABLES), " ".join(TUNABLES))
        tap.equal(f"the same options refuse '{value}'", sorted(json.loads(result.stdout or "[]")),
                  sorted(refused))


def check_mappings():
    with Known() as known:
        found = {f["topic"]: f for f in reads("doctor", "doctor", known.pid)}
        with open(f"/proc/{known.pid}/maps", encoding="utf-8") as file:
            count = len(file.readlines())
        with open("/proc/sys/vm/max_map_count", encoding="ascii") as file:
            tap.equal("doctor counts mappings", found.get("mappings", {}).get("value"),
                      f"{count} of {file.read().strip()}")


def refused(pid, what, user=1000):
    """The status and the findings where the kernel lets its memory, or nothing, be read by a user."""
    hook = UNREADABLE_MEMORY if what == "memory" else (
        "procfs.read = lambda of, name, read=procfs.read: read(of, name) if of != "
        f"{pid} or name in ('comm', 'cgroup') else (_ for _ in ()).throw("
        "procfs._explain(of, name, PermissionError(13, '')))")
    if what == "limits":
        hook = "cli.doctor.resource.prlimit = lambda *_: (_ for _ in ()).throw(PermissionError(1, ''))"
    result = hooked(f"{hook}; procfs.os.geteuid = lambda: {user}", "doctor", pid, "--json")
    tap.check(f"doctor where {what} may not be read is no error", not result.stderr, result.stderr)
    return result.returncode, {f["topic"]: f for f in json.loads(result.stdout or "[]")}


def check_refused():
    with Known() as known:
        status, found = refused(known.pid, "memory")
        tap.check("memory may not be read: the mappings tell that Quarry is there", status == 0 and found.get(
            "memory of quarry_known", {}).get("verdict") == "note" and found.get(
                "Quarry in quarry_known", {}).get("value") == os.path.realpath(tap.LIBRARY), found)
        status, found = refused(known.pid, "all")
        tap.check("nothing may be read: a note, and all else is told", status == 0 and found.get(
            "Quarry in quarry_known", {}).get("verdict") == "note" and "owner, or root" in found[
                "Quarry in quarry_known"]["advice"] and {
                    "page size", "max_map_count", "Yama ptrace_scope", "limit on address space",
                    "settings of malloc", "control group's memory limit"} <= set(found), found)
        status, found = refused(known.pid, "all", user=0)
        tap.check("nothing may be read by root: the kernel refuses even root, and why is told", status == 0 and [
            (advice.startswith("the kernel refuses even root here: CAP_SYS_PTRACE"), "owner" in advice)
            for advice in (found.get(topic, {}).get("advice", "") for topic in (
                "Quarry in quarry_known", "settings of malloc"))] == [(True, False)] * 2, found)
        for user, says in ((0, "the kernel refuses even root here: CAP_SYS_RESOURCE"), (1000, "be its owner, or root")):
            _, found = refused(known.pid, "limits", user)
            advice = [found.get(f"limit on {name}", {}).get("advice", "")
                      for name in ("address space", "data", "locked memory", "stack")]
            tap.check(f"limits that may not be read by user {user}", all(
                text.startswith(says) for text in advice), advice)
    with Known(preload="") as plain:
        status, found = refused(plain.pid, "memory")
        tap.check("memory may not be read: the mappings tell that Quarry is not there",
                  status == 1 and found.get("Quarry in quarry_known", {}).get("value") == "not there", found)
    if os.geteuid() == 0:
        with Known() as known:
            result = tap.run("setpriv", "--reuid=65534", "--clear-groups", "/usr/bin/python3", "-B",
                             *tool_words("doctor", known.pid))
            tap.check("another user's process: findings, not an error", result.returncode == 0 and
                      "may not be looked at" in result.stdout and "page size" in result.stdout
                      and not result.stderr, result.stdout + result.stderr)
    else:
        tap.skip("another user's process: findings, not an error",
                 "not root: no process of another user to look at")


def check_static():
    """What is stripped cannot be told from what was not linked with Quarry."""
    program = os.path.join(tap.BUILD, "system", "control_linked.static")
    with tempfile.TemporaryDirectory() as folder:
        stripped = os.path.join(folder, "stripped")
        subprocess.run(["strip", "-o", stripped, program], check=True)
        for path, says in ((program, ""), (stripped, "link it with libquarry.a, or if it is, do not strip it")):
            with Ready([path]) as static:
                found = {f["topic"]: f for f in json.loads(tool("doctor", static.pid, "--json").stdout or "[]")}
            finding = found.get(f"Quarry in {os.path.basename(path)[:15]}", {})
            tap.check(f"doctor of a static program, {os.path.basename(path)}", finding.get("verdict") == (
                "bad" if says else "ok") and says in finding["advice"], finding or found)


def check_kernel():
    """What the kernel lacks or refuses is told as that."""
    absent = ("lacks = lambda call: lambda name, *a, **k: call(name, *a, **k) if name.split('/')[-1] not in "
              "('pagemap', 'cgroup') else (_ for _ in ()).throw(FileNotFoundError(2, '')); "
              "procfs.open, procfs.os.open = lacks(open), lacks(procfs.os.open); ")
    for scope, says in ((2, "as does 'quarry run' without -q"), (3, "nobody may")):
        result = hooked(f"{absent}procfs.yama_scope = lambda: {scope}", "doctor", "--json")
        found = {f["topic"]: f for f in json.loads(result.stdout or "[]")}
        tap.check(f"doctor under Yama's scope {scope}", says in found.get("Yama ptrace_scope", {}).get("advice", ""),
                  found.get("Yama ptrace_scope"))
    for topic, name in (("pagemap", "pagemap"), ("control group's memory limit", "cgroup")):
        tap.check(f"without /proc/PID/{name} doctor says so, and goes on", f"no /proc/PID/{name}" in found.get(
            topic, {}).get("advice", ""), result.stderr)
    result = hooked("procfs.yama_scope = lambda: 3; cli.run.Tracer._start.__globals__['_ptrace'] = lambda *a: -1",
                    "run", "--", "true")
    tap.check("run says where Yama lets nobody trace", result.returncode == 1 and "ptrace_scope is 3" in result.stderr
              and "nobody may" in result.stderr, result.stderr)


check_settings()
check_parser()
check_mappings()
check_refused()
check_static()
check_kernel()
tap.done()
