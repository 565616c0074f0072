#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""quarry profile attributes bytes to the code that allocated them, however the program ends."""
import json
import os
import re
import shutil
import signal
import struct
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.dirname(HERE), HERE]
import tap
from quarry_tool import ENVIRONMENT, TOOL, Ready, refuses, tool

PROGRAM = os.path.join(tap.BUILD, "system", "profiled")
MODULE = os.path.join(tap.BUILD, "system", "profiled_module.so")
RING = os.path.join(tap.BUILD, "system", "profiled_ring_module.so")
SOURCE = os.path.join(HERE, "profiled.c")
SHIM = os.path.join(tap.BUILD, "release", "libquarry_profile.so")
SEED = os.environ.get("PROFILE_TEST_SEED", "1")
PAGE = os.sysconf("SC_PAGE_SIZE")
MIB = 1 << 20
# Of profiled.c: what each function keeps, and what went through it; block counts.
LIVE = {"keep_small": (100_000, 1000), "keep_large": (3 * MIB, 3),
        "keep_aligned": (5000 + 6000 + 6400 + 7000 + PAGE, 5), "resize": (700, 1)}
ALLOCATED = LIVE | {"drop": (500 * 64, 500), "resize": (300 + 200_000 + 700 + 50, 4)}
RANDOM_BYTES = sum(8 + i % 113 for i in range(400_000))

work = tempfile.TemporaryDirectory()
PROFILE = os.path.join(work.name, "made.prof")
KNOWN = os.path.join(work.name, "known.prof")


def make(*words, options=(), path=PROFILE, status=0):
    """Profiles the program; a test that it ends as it should."""
    result = tool("profile", "-q", "-o", path, *options, "--", PROGRAM, *words,
                  QUARRY_PROFILE_SEED=SEED)
    tap.check(f"the profiled program ends with {status}: {' '.join([*options, *words])}",
              result.returncode == status and not result.stderr,
              f"exit status {result.returncode}\n{result.stdout}{result.stderr}")
    return result


def report(*options, path=PROFILE):
    result = tool("profile", path, "--json", "-n", "1000", *options)
    try:
        return json.loads(result.stdout)
    except ValueError:
        tap.check("the report is JSON", False, result.stdout + result.stderr)
        return {"sites": [], "bytes": 0, "blocks": 0}


def by_function(shown, ours=True):
    """Bytes and blocks by the function that called malloc; of the program's own source, or all."""
    sums = {}
    for site in shown["sites"]:
        frame = site["frames"][0] if site["frames"] else {"function": "", "file": "", "line": 0}
        if not ours or os.path.basename(frame["file"]).startswith("profiled"):
            count = sums.setdefault(frame["function"], [0, 0])
            count[0] += site["bytes"]
            count[1] += site["blocks"]
    return {name: tuple(count) for name, count in sums.items()}


def check_known():
    make("known", options=["--rate=1"], path=KNOWN)
    shown = report("--depth", "1", path=KNOWN)
    tap.equal("what is live is attributed, to the byte", by_function(shown), LIVE)
    tap.equal("so is what was ever allocated", by_function(
        report("--allocated", "--depth", "1", path=KNOWN)), ALLOCATED)
    with open(SOURCE, encoding="utf-8") as file:
        lines = file.read().splitlines()
    places = [site["frames"][0] for site in shown["sites"] if site["frames"][0]["file"] == SOURCE or
              site["frames"][0]["file"].endswith("tests/system/profiled.c")]
    tap.check("lines are those of the calls", len(places) == 8 and all(
        "alloc" in lines[place["line"] - 1] or "memalign" in lines[place["line"] - 1] for place in places), places)
    deep = [site for site in report("--depth", "48", path=KNOWN)["sites"] if site["frames"]
            and site["frames"][0]["function"] == "keep_small"]
    tap.check("the stack goes down to main", deep and [frame["function"] for frame in deep[0]["frames"]][:3] ==
              ["keep_small", "known", "main"], deep)
    text = tool("profile", KNOWN, "-n", "2", COLUMNS="80").stdout
    tap.check("the text has the largest sites", "keep_large (profiled.c:" in text and "3.0M" in text
              and "keep_aligned" not in text and max(map(len, text.splitlines())) <= 80, text)
    tap.equal("a leak is what the program keeps", by_function(
        report("--leaks", "--depth", "1", path=KNOWN)), LIVE)


def check_program_without_leaks():
    make("balanced", options=["--rate=1"])
    shown = report("--leaks")
    tap.check("a program that frees all has no leaks", shown["sites"] == [] and shown["bytes"] == 0
              and shown["kept_by_runtime"] > 0, shown["sites"])
    out = os.path.join(work.name, "out")
    tap.check("and the text says so", "0B leaked" in tool("profile", "--leaks", PROFILE).stdout, "")
    tool("profile", "--leaks", "--folded", out, PROFILE)
    with open(out, encoding="utf-8") as file:
        tap.equal("and no stack is folded", file.read(), "")
    tap.check("what it allocated is known all the same", by_function(report(
        "--allocated", "--depth", "1")) == ALLOCATED, "")


def near(name, got, wanted, share):
    tap.check(name, abs(got - wanted) <= share * wanted, f"{got}, expected {wanted} within {share}")


def check_estimates():
    """Five standard deviations of the number of samples."""
    make("random", options=["--rate=16K"])
    bytes_, blocks = by_function(report("--depth", "1")).get("make_random_list", (0, 0))
    near("bytes of small blocks are estimated without bias", bytes_, RANDOM_BYTES, 0.13)
    near("so is their number", blocks, 400_000, 0.17)
    tap.equal("large blocks are exact", by_function(report("--depth", "1")).get("keep_large"), (3 * MIB, 3))
    medium = by_function(report("--allocated", "--depth", "1")).get("pass_medium", (0, 0))
    near("and those of blocks as large as the rate", medium[0], 2000 * 16 << 10, 0.09)
    make("passing")
    passed = by_function(report("--allocated", "--depth", "1")).get("pass", (0, 0))
    near("with the default rate, too", passed[0], 200_000_000, 0.26)
    tap.check("what was freed is not live", "pass" not in by_function(report()), "")


def check_threads():
    make("threads", options=["--rate=1"])
    tap.equal("blocks freed by other threads are not live", by_function(report("--depth", "1")),
              {"thread_keep": (4 * 200 * 48, 800)})
    tap.equal("those of all threads count", by_function(report("--allocated", "--depth", "1")),
              {"thread_keep": (4 * 2000 * 48, 8000)})


def check_processes():
    result = make("fork", options=["--rate=1"])
    tap.equal("a child changes nothing in its parent's profile", by_function(report("--depth", "1")),
              {"keep_small": LIVE["keep_small"]})
    tap.check("and has none", not os.path.exists(f"{PROFILE}.{result.stdout.strip()}"), result.stdout)
    result = make("fork", options=["--rate=1", "--follow"])
    child = report("--depth", "1", path=f"{PROFILE}.{result.stdout.strip()}")
    tap.equal("with --follow it has one, with what it did itself", by_function(child),
              {"child_keep": (12345, 1)})
    result = tool("profile", "-q", "-o", PROFILE, "--rate=1", "--", "sh", "-c", f"exec {PROGRAM} known")
    tap.equal("after an exec, the profile is that of the last program", by_function(report("--depth", "1")), LIVE)
    make("kill", options=["--rate=1"], status=128 + signal.SIGKILL)
    tap.equal("a program that was killed leaves its profile", by_function(report("--depth", "1")), LIVE)


def check_running():
    environment = dict(os.environ, LD_PRELOAD=f"{SHIM}:{tap.LIBRARY}", QUARRY_PROFILE_FILE=PROFILE,
                       QUARRY_PROFILE_RATE="1")
    with Ready([PROGRAM, "hold"], environment) as held:
        path = f"{PROFILE}.{held.pid}"
        shown = report("--depth", "1", path=path)
        tap.equal("a profile can be read while the program runs", by_function(shown), LIVE)
        tap.check("and tells so", shown["running"] and shown["pid"] == int(held.pid), shown)
        refuses("leaks are told at the end only", "still runs", "profile", "--leaks", path)
    tap.check("afterwards it does not run", not report(path=path)["running"], "")


def check_signals():
    result = tool("profile", "-q", "-o", PROFILE, "--rate=1", "--library", RING, "--", PROGRAM, "signal")
    tap.check("signal handlers that allocate find no lock taken", result.returncode == 0, result.stderr)
    shown = report("--allocated", "--depth", "1")
    tap.check("they interrupted the profiler, and were sampled elsewhere", shown["nested"] > 0 and "pass" in
              by_function(shown), shown)
    tap.equal("no block was lost", by_function(report()), {})


def check_locks():
    make("locked", options=["--rate=1"])
    shown = report("--depth", "3")
    stacks = [[frame["function"] for frame in site["frames"]] for site in shown["sites"]]
    tap.check("a stack is taken while another thread has the loader's lock", any(
        stack[:2] == ["keep_small", "allocate_meanwhile"] for stack in stacks), stacks)


def check_libraries():
    make("module", MODULE, options=["--rate=1"])
    shown = report("--depth", "4")
    stacks = [[frame["function"] for frame in site["frames"]] for site in shown["sites"]]
    tap.check("a stack goes through a library that was unloaded since", [
        "called_back", "module_keep", "call_module", "main"] in stacks, stacks)
    tap.equal("whose own blocks are known", by_function(shown).get("module_keep"), (7777, 1))
    make("registered", options=["--rate=1"])
    shown = report("--depth", "3")
    stacks = {site["frames"][0]["function"]: len(site["frames"]) for site in shown["sites"]
              if site["frames"][0]["function"].startswith("keep")}
    tap.equal("where unwind tables were registered, stacks are the caller alone", stacks,
              {"keep_small": 3, "keep_large": 1})
    tap.check("and that is told", shown["shallow"] == 3 and "3 samples have their caller alone" in tool(
        "profile", PROFILE).stdout, shown["shallow"])


def check_allocators():
    make("known", options=["--rate=1", "--plain"])
    tap.equal("the same with the C library's malloc", by_function(report("--depth", "1")), LIVE)


def check_without_binutils():
    """Only functions that a file exports, or that its symbol table has."""
    result = tap.run("/usr/bin/python3", TOOL, "profile", KNOWN, "--json", "--depth", "1", "-n", "1000",
                     PATH="")
    functions = by_function(json.loads(result.stdout or '{"sites": []}'), ours=False)
    tap.equal("without addr2line, functions are told by symbols",
              {name: functions.get(name) for name in LIVE}, LIVE)


def check_pprof():
    wanted = {name: [*LIVE.get(name, (0, 0)), *ALLOCATED[name]] for name in ALLOCATED}
    out = os.path.join(work.name, "out")
    tap.succeeds("a profile for pprof is written", TOOL, "profile", "--pprof", out, KNOWN)
    with open(out, encoding="utf-8") as file:
        stacks, maps = file.read().split("\nMAPPED_LIBRARIES:\n")
    head, *lines = stacks.splitlines()
    form = r"(\d+): (\d+) \[(\d+): (\d+)\] @ "
    tap.check("its first line is that of a heap profile", re.fullmatch("heap profile: " + form + "heapprofile", head),
              head)
    rows = [re.fullmatch(form + r"((?:0x[0-9a-f]+ ?)+)", line) for line in lines]
    tap.check("and the others are stacks", rows and all(rows), stacks)
    areas = [re.fullmatch(r"([0-9a-f]+)-([0-9a-f]+) r-xp ([0-9a-f]+) 00:00 0 ?(.*)", line)
             for line in maps.splitlines()]
    tap.check("the mappings are as in /proc", areas and all(areas), maps)
    sums = {}
    for row in filter(None, rows):
        name = function_at(int(row[5].split()[0], 16) - 1, areas)
        if name in wanted:
            total = sums.setdefault(name, [0, 0, 0, 0])
            for place, group in enumerate((2, 1, 4, 3)):
                total[place] += int(row[group])
    tap.equal("they say the same", sums, wanted)
    make("random", options=["--rate=64K"])
    tool("profile", "--pprof", out, PROFILE)
    with open(out, encoding="utf-8") as file:
        tap.check("of a sample, the rate is told", file.readline().endswith("@ heap_v2/65536\n"), "")


def function_at(code, areas):
    """By nm, of the program alone."""
    for area in areas:
        if area and int(area[1], 16) <= code < int(area[2], 16) and area[4] == PROGRAM:
            place = code - int(area[1], 16) + int(area[3], 16)
            symbols = [line.split() for line in tap.run("nm", "-S", "-n", PROGRAM).stdout.splitlines()]
            return next((words[3] for words in symbols if len(words) == 4 and int(
                words[0], 16) <= place < int(words[0], 16) + int(words[1], 16)), None)
    return None


def check_folded():
    out = os.path.join(work.name, "out")
    tap.succeeds("folded stacks are written", TOOL, "profile", "--folded", out, KNOWN)
    with open(out, encoding="utf-8") as file:
        lines = [line.rstrip("\n").rpartition(" ") for line in file]
    sums = {}
    for stack, _, count in lines:
        sums[stack.split(";")[-1]] = sums.get(stack.split(";")[-1], 0) + int(count)
    tap.equal("with the bytes of each", {name: sums.get(name) for name in LIVE},
              {name: count[0] for name, count in LIVE.items()})
    tap.check("outermost first", any(";main;known;keep_small" in stack for stack, *_ in lines), lines)


def check_refusals():
    bad = os.path.join(work.name, "bad.prof")
    with open(KNOWN, "rb") as file:
        good = file.read()

    def damaged(what, says, data):
        with open(bad, "wb") as file:
            file.write(data)
        refuses(what, says, "profile", bad)

    refuses("no file", "No such file", "profile", bad)
    damaged("an empty file", "no profile", b"")
    damaged("a file of something else", "no profile", b"QUARRY?" * 1000)
    damaged("another version", "version 2", good[:8] + struct.pack("<I", 2) + good[12:])
    damaged("a header that is cut off", "damaged", good[:100])
    damaged("records that are cut off", "damaged", good[:150_000])
    damaged("references to nowhere", "damaged", good[:4096] + b"\xf0" * 4096 + good[8192:])
    newest = good[40:44]
    previous = struct.unpack("<I", newest)[0] + 24
    damaged("mappings in a circle", "damaged", good[:previous] + newest + good[previous + 4:])
    damaged("a rate of 0", "damaged", good[:16] + bytes(8) + good[24:])
    nowhere = os.path.join(work.name, "no", "such")
    refuses("a folder that is not there", "No such file", "profile", "-o", nowhere, "--", "true")
    refuses("an output that is no file", "regular file", "profile", "-o", "/dev/null", "--", "true")
    refuses("nor for pprof", "No such file", "profile", "--pprof", nowhere, KNOWN)
    refuses("nor for folded stacks", "No such file", "profile", "--folded", nowhere, KNOWN)
    for what, words in (("two profiles", [KNOWN, KNOWN]), ("no profile", []), (
            "two reports at once", ["--leaks", "--allocated", KNOWN]), ("a rate of 0", [
                "--rate=0", "-o", bad, "--", "true"]), ("a rate of words", ["--rate=x", "-o", bad, "--", "true"]), (
                    "no command", ["-o", bad]), ("no sites", ["-n", "0", KNOWN])):
        result = tool("profile", *words)
        tap.check(f"a wrong command line: {what}", result.returncode == 2 and "Traceback" not in result.stderr,
                  f"{result.returncode} {result.stderr}")
    os.remove(bad)
    check_meant(bad)
    result = tool("profile", "-o", bad, "--", "/no/such/program")
    tap.check("a command that is not there", result.returncode == 127 and result.stderr.count("\n") == 1
              and not os.path.exists(bad), result.stderr)
    result = tool("profile", "-o", bad, "--", os.path.join(tap.BUILD, "system", "public_linked.static"))
    tap.check("a static program is told of", "not profiled" in result.stderr and not os.path.exists(bad),
              result.stderr)


def check_meant(path):
    """What makes no sense is told with what may be meant, and costs no file."""
    start = "quarry profile -o FILE [OPTIONS] -- COMMAND"
    for words in (["--rate", "4K"], ["--limit", "1G"], ["--follow"], ["--plain"], ["--control=1"], ["--library", TOOL]):
        for where in ([*words, KNOWN], [KNOWN, *words]):
            flag = words[0].split("=")[0]
            refuses(f"of a profile that is there: {flag}", f"profile: {flag}: this is for a COMMAND to start; "
                    f"to do so: {start}", "profile", *where, status=2)
    refuses("several of them", "profile: --rate, --limit, --control: ", "profile", "--limit=1G", "--control",
            "--rate=1", "--", "true", status=2)
    with Ready([PROGRAM, "hold"]) as held:
        for words in (["-o", path, held.pid], ["-o", path, "--", held.pid], [held.pid]):
            refuses("a process that runs", f"profile: {held.pid}: a process that runs cannot be profiled; start its "
                    f"program by: {start}", "profile", *words, status=2)
    for word in ("true", shutil.which("true")):
        refuses("a command without -o", f"to run it as a command, name the profile to write by -o: {start}", "profile",
                "--", word, status=2)
    refuses("a longer one", start, "profile", "--", "true", "x", status=2)
    refuses("a report that --quiet leaves out", "profile: --quiet leaves out the report", "profile", "-q", "--json",
            "-o", path, "--", "true", status=2)
    refuses("an option of Quarry's with --plain", "--limit, --zero: this is for Quarry, which --plain leaves out",
            "profile", "-o", path, "--plain", "--zero=1", "--limit=1G", "--", "true", status=2)
    refuses("a library that is none", "no shared library", "profile", "-o", path, "--library", SOURCE, "--", "true")
    tap.check("there is no file", not os.path.exists(path))


def check_no_space():
    """A file that may not grow: stacks become the others, and the program goes on."""
    result = tap.run("sh", "-c", 'ulimit -f 400; exec "$@"', "sh", TOOL, "profile", "-q", "-o", PROFILE,
                     "--rate=1", "--", "python3", "-c", "import json, decimal, argparse", **ENVIRONMENT)
    tap.check("a program whose profile has no space goes on", result.returncode == 0, result.stderr)
    shown = report()
    tap.check("and it is told that stacks are missing", shown["without_stack"] > 0, shown.get("without_stack"))


check_known()
check_program_without_leaks()
check_estimates()
check_threads()
check_processes()
check_running()
check_signals()
check_locks()
check_libraries()
check_allocators()
check_without_binutils()
check_pprof()
check_folded()
check_refusals()
check_no_space()
work.cleanup()
tap.done()
