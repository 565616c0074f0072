#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The command line of quarry: one process or several, closed output, version; what may be absent."""
import json
import os
import re
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.dirname(HERE), HERE]
import tap
from quarry_tool import (BLOCK_CLASS, BLOCKS, ENVIRONMENT, PROGRAM, TOOL, UNREADABLE_MEMORY, Known, Ready, hooked,
                         reads, refuses, tool)


# To root: why even root may be refused.
REFUSED = "CAP_SYS_PTRACE" if os.geteuid() == 0 else "owner, or root"


def check_processes(known):
    for verb in ("why", "map", "slabinfo", "buddyinfo", "doctor", "stats"):
        refuses(f"{verb} of two processes", "one process at a time: 123 456", verb, "123", "456", status=2)
        text = tool(verb, "--help", COLUMNS="40").stdout
        tap.check(f"{verb} --help names one", text.count("PID") >= 1 and "more" not in text.split("PID")[0],
                  text)
    tap.equal("trim --json of several that cannot be reached", tool("trim", "--json", "123", "99999999").stdout,
              "[]\n")
    for words in (("why", known.pid, "--json"), ("why", "--json", known.pid), ("doctor", "--json", known.pid)):
        tap.check(f"{' '.join(words[:2])} ...: one process", json.loads(tool(*words).stdout or "0"), words)


def check_unreadable_memory(known):
    """As where Yama lets owners see smaps, and no memory."""
    with Known(preload="") as plain:
        result = hooked(UNREADABLE_MEMORY, "why", plain.pid, "--json")
        account = json.loads(result.stdout or "{}")
        tap.check("why needs smaps alone where Quarry is not used", result.returncode == 0
                  and account.get("quarry", 1) is None and account["total"] > 2 * BLOCKS * BLOCK_CLASS
                  and abs(account["difference"]) <= 256 << 10, result.stdout + result.stderr)
    result = hooked(UNREADABLE_MEMORY, "why", known.pid)
    tap.check("where it is used, the refusal is told", result.returncode == 1 and REFUSED in
              result.stderr and result.stderr.count("\n") == 1, result.stdout + result.stderr)


def check_closed(known):
    for words in (("why", known.pid), ("why", known.pid, "--json"), ("slabinfo", known.pid), ("kmem",),
                  ("doctor",), ("completion",), ("--version",), ("--help",)):
        result = tap.run("sh", "-c", '"$@" >&-', "sh", TOOL, *words, **ENVIRONMENT)
        tap.check(f"{' '.join(words[::2])} with its output closed: one line", result.returncode == 1
                  and result.stderr == "quarry: the output: Bad file descriptor\n",
                  f"{result.returncode}\n{result.stderr}")
    result = tap.run("sh", "-c", '"$@" >&-', "sh", TOOL, "run", "--no-calls", "--", "echo", "x",
                     **ENVIRONMENT)
    tap.check("a command of run finds it closed, too", result.returncode == 1 and "echo: write error" in
              result.stderr and "quarry: peak" in result.stderr, f"{result.returncode}\n{result.stderr}")
    result = tap.run("sh", "-c", '"$@" 2>&-', "sh", TOOL, "why", "99999999", **ENVIRONMENT)
    tap.check("errors with no place to go", result.returncode == 1 and not result.stdout, result.stdout)


def check_version():
    with open(os.path.join(tap.ROOT, "include", "quarry.h"), encoding="utf-8") as header:
        version = ".".join(re.findall(r"#define QUARRY_VERSION_\w+ (\d+)", header.read()))
    tap.equal("--version is the library's", tool("--version").stdout, f"quarry {version}\n")


def check_help():
    """Every option has a text."""
    script = ("import sys; sys.path.insert(0, sys.argv[1]); from quarrytool import cli\n"
              "for verb, parser in cli.parser()._subparsers._group_actions[0].choices.items():\n"
              "    for action in parser._actions:\n"
              "        if action.option_strings and not action.help: print(verb, action.option_strings)")
    result = tap.run("/usr/bin/python3", "-B", "-c", script, os.path.dirname(TOOL))
    tap.equal("every option has a text", (result.stdout, result.stderr), ("", ""))
    text = tool("stats", "--help").stdout
    tap.check("stats --help tells the default", "default" in text, text)


def check_names(folder):
    """Names may be no text, or steer a terminal; a process may end while it is looked at."""
    program = os.path.join(folder, "\u00b2 \x1b[31mx")
    os.symlink(PROGRAM, program)
    with Ready([program, "hold"], dict(os.environ, LD_PRELOAD=tap.LIBRARY)) as held:
        result = tool("why", held.pid)
        tap.check("a process's name does not steer the terminal", result.returncode == 0 and
                  result.stdout.startswith(f"\u00b2 ?[31mx ({held.pid})"), result.stdout + result.stderr)
        result = hooked("procfs.os.pread = lambda *_: b''", "map", held.pid)
        tap.check("map of a process that ends meanwhile", result.returncode == 1 and result.stderr ==
                  f"quarry: process {held.pid}: it ended meanwhile\n", result.stderr)
    name = os.path.join(os.fsencode(folder), b"caf\xe9")
    os.symlink(PROGRAM, name)
    result = tool("record", "-o", name + b".rec", "-i", "0.005", "--", name, "drips")
    tap.check("a program whose name is no text is recorded", result.returncode == 0, result.stderr)
    result = tool("plot", name + b".rec")
    tap.check("and plotted, into a file with such a name", result.returncode == 0 and result.stdout ==
              f"{folder}/caf\\udce9.html\n" and os.path.exists(name + b".html"), result.stdout + result.stderr)


def check_oom():
    everybody = len(reads("oom", "oom").get("processes", []))
    tap.equal("oom --json -n 1 shows one", len(reads("oom -n 1", "oom", "-n", "1").get("processes", [])), 1)
    tap.check("oom --json shows all", everybody > 1, everybody)


def check_kmem(folder):
    for name in ("zoneinfo", "buddyinfo"):
        with open("/proc/" + name, "rb") as source, open(os.path.join(folder, name), "wb") as copy:
            copy.write(source.read())
    with open(os.path.join(folder, "vmallocinfo"), "w", encoding="ascii"):
        pass
    hook = f"kmem.PROC = {folder + '/'!r}"
    text = " ".join(hooked(hook, "kmem").stdout.split())
    tap.check("kmem: a file that is not there", "/proc/slabinfo is not there" in text, text)
    tap.check("kmem: a file that is masked", "/proc/vmallocinfo is empty" in text, text)
    shown = json.loads(hooked(hook, "kmem", "--json").stdout or "{}")
    tap.check("kmem: null in JSON", shown.get("slab_caches", 1) is None and shown.get("areas", 1) is None)
    denied = "kmem.open = lambda name, *a, **k: (_ for _ in ()).throw(PermissionError(13, '')) if " \
        "name.endswith('slabinfo') else open(name, *a, **k)"
    for user, says in (("0", "not even by root"), ("1", "is for root alone")):
        text = hooked(f"{denied}; kmem.os.geteuid = lambda: {user}", "kmem").stdout
        tap.check(f"kmem: a file that may not be read by user {user}", f"slab caches: /proc/slabinfo" in text
                  and says in " ".join(text.split()), text)


def check_lazy():
    """Without the ioctl the same is seen."""
    steps = [json.loads(hooked(f"procfs.SCANS = {scans}", "lazy", "--json").stdout or "{}").get("steps", [])
             for scans in (True, False)]
    seen = [[(step["did"], step["holds"], step["seen"]["resident"], step["seen"]["zeros"])
             for step in each] for each in steps]
    tap.check("lazy without PAGEMAP_SCAN sees the same", len(seen[0]) >= 9 and seen[0] == seen[1],
              json.dumps(seen, indent=1))
    tap.check("reading brings zeros alone, writing frames", len(seen[1]) >= 3 and seen[1][1][2:] == (
        0, (100 << 20) // os.sysconf("SC_PAGE_SIZE")) and seen[1][2][2] == 25 << 20, seen[1][:3])


with Known() as process:
    check_processes(process)
    check_unreadable_memory(process)
    check_closed(process)
check_version()
check_help()
check_oom()
with tempfile.TemporaryDirectory() as scratch:
    check_names(scratch)
    check_kmem(scratch)
check_lazy()
tap.done()
