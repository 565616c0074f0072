#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""quarry run, slabinfo, buddyinfo and why agree with what a program did, and with the kernel."""
import errno
import json
import os
import re
import signal
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.dirname(HERE), HERE]
import outside
import tap
from quarry_tool import (BLOCK_CLASS, BLOCKS, CACHED_RUN, ENVIRONMENT, MAPPING, PROGRAM, RUN, TOOL, Known, Ready,
                         hooked, reads, refuses, tool, tool_words, under_filter)

COLUMNS = ("name", "active_objs", "num_objs", "objsize", "objperslab", "pagesperslab", "limit",
           "batchcount", "sharedfactor", "active_slabs", "num_slabs", "sharedavail")
SLAB_LINE = re.compile(r"(\S+) +" + r" +".join([r"(\d+)"] * 5) + r" : tunables +" +
                       r" +".join([r"(\d+)"] * 3) + r" : slabdata +" + r" +".join([r"(\d+)"] * 3))
# For hooked: the kernel lets no mappings be read.
NO_MAPS = ("procfs.open = lambda name, *a, **k: open(name, *a, **k) if not name.endswith('maps') "
           "else (_ for _ in ()).throw(PermissionError(13, ''))")
# As the kernel prints them (mm/slab_common.c, slabinfo version 2.1).
SLAB_HEADER = [
    "slabinfo - version: 2.1",
    "# name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab>"
    " : tunables <limit> <batchcount> <sharedfactor> : slabdata <active_slabs> <num_slabs>"
    " <sharedavail>"]


def check_slabinfo(known):
    lines = tool("slabinfo", known.pid).stdout.splitlines()
    tap.equal("slabinfo begins as the kernel's does", lines[:2], SLAB_HEADER)
    rows = [SLAB_LINE.fullmatch(line) for line in lines[2:]]
    tap.check("every line is one of /proc/slabinfo", rows and all(rows), "\n".join(lines))
    parsed = {row[4]: dict(zip(COLUMNS, row.groups())) for row in rows if row}
    row = parsed.get(str(BLOCK_CLASS), {})
    tap.equal("its blocks are the active objects", row.get("active_objs"), str(BLOCKS))
    tap.check("there are as many objects as slabs have, of which the first are small",
              row and BLOCKS <= int(row["num_objs"]) < int(row["num_slabs"]) *
              int(row["objperslab"]), row)
    shown = reads("slabinfo as JSON", "slabinfo", known.pid).get("classes", [])
    tap.equal("the same figures as JSON", {str(c["objsize"]): {k: str(v) for k, v in c.items()}
                                           for c in shown}, parsed)


def check_object_caches():
    """Of tests/system/quarry_known.c: 700 of 1000 objects, 500 blocks in two heaps."""
    environment = dict(os.environ, LD_PRELOAD=tap.LIBRARY)
    with Ready([PROGRAM, "objects"], environment) as known:
        shown = reads("slabinfo of object caches", "slabinfo", known.pid).get("classes", [])
        views = reads("top of object caches", "top", known.pid).get("classes", [])
    rows = {row["name"]: row for row in shown}
    for name, size, live, most in (("known-things", 208, 700, 1000), ("heap-640", 640, 500, 500)):
        row = rows.get(name, {})
        good = row.get("objsize") == size and row.get("active_objs") == live
        tap.check(f"slabinfo has {name}", good and most <= row["num_objs"] < most + 256
                  and row["num_objs"] == row["num_slabs"] * row["objperslab"], row)
        view = next((view for view in views if view["name"] == name), {})
        tap.equal(f"top has {name}", [view.get(key) for key in ("active", "objects", "object_size")],
                  [row.get(key) for key in ("active_objs", "num_objs", "objsize")])


def blocks_of(bits, pages):
    """How many blocks of each order free pages are: from the first on, the largest that begins there."""
    counts, page = [0] * pages.bit_length(), 0
    while page < pages:
        if not bits >> page & 1:
            page += 1
            continue
        order = 0
        while page + (2 << order) <= pages and page % (2 << order) == 0 and \
                bits >> page & (1 << (2 << order)) - 1 == (1 << (2 << order)) - 1:
            order += 1
        counts[order] += 1
        page += 1 << order
    return counts


def check_buddyinfo(known):
    lines = tool("buddyinfo", known.pid).stdout.splitlines()
    rows = [re.fullmatch(r"Node (\d+), zone +(\w+) ((?: *\d+ )+)", line) for line in lines]
    tap.check("every line is one of /proc/buddyinfo", rows and all(rows), "\n".join(lines))
    pages = {row[2]: sum(int(count) << order for order, count in enumerate(row[3].split()))
             for row in rows if row}
    heap = outside.Heap(int(known.pid), os.path.realpath(tap.LIBRARY))
    tap.equal("the blocks add up to the free pages", pages, {
        name.title(): heap.variable("page_state", name + "_pages") for name in ("dirty", "clean")})
    expected = [[blocks_of(heap.buddy(region, name)[1], len(region.heads))
                 for name in ("dirty", "clean")] for region in heap.regions()]
    heap.close()
    nodes = reads("buddyinfo by region, as JSON", "buddyinfo", known.pid, "--regions").get("nodes", [])
    tap.equal("regions add up to the whole", {name.title(): sum(
        count << order for node in nodes for order, count in enumerate(node[name]))
        for name in ("dirty", "clean")}, pages)
    tap.equal("blocks are the largest that the free pages make up",
              [[node["dirty"], node["clean"]] for node in nodes], expected)


def rollup(pid):
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        return int(re.search(r"^Rss: +(\d+) kB", file.read(), re.MULTILINE)[1]) * 1024


def check_tables(pid):
    """What the tool takes for metadata has every chunk of memory for tables in it."""
    heap = outside.Heap(pid, os.path.realpath(tap.LIBRARY))
    spans = set()
    chunk = heap.number(heap.field["address.meta_chunks"])
    while chunk:
        spans.add((chunk, chunk + heap.member(chunk, "meta_chunk.bytes")))
        chunk = heap.member(chunk, "meta_chunk.next")
    heap.close()
    script = ("import sys; sys.path.insert(0, sys.argv[1]); from quarrytool.heap import Heap; "
              "print(Heap(int(sys.argv[2])).tables())")
    result = tap.run("/usr/bin/python3", "-B", "-c", script, os.path.dirname(TOOL), str(pid))
    found = set(re.findall(r"\((\d+), (\d+)\)", result.stdout))
    missing = spans - {(int(low), int(high)) for low, high in found}
    tap.check("metadata has all tables", spans and not missing,
              f"{missing}\n{result.stdout}{result.stderr}")


def check_why(known):
    account = reads("why", "why", known.pid)
    line = {line["key"]: line["bytes"] for line in account.get("lines", [])}
    near = max(rollup(known.pid) // 100, 256 << 10)
    tap.check("the virtual size is beside them", account.get("virtual", 0) > account.get("total", 0) + MAPPING // 3,
              account.get("virtual"))
    tap.check("the lines add up to smaps_rollup", line and abs(
        sum(line.values()) - rollup(known.pid)) <= near, f"{account}\n{rollup(known.pid)}")
    small, large = BLOCKS * BLOCK_CLASS, MAPPING // 2 + RUN

    def within(key, low, slack):
        tap.check(f"{key}: what the program did", low <= line.get(key, 0) <= low + slack,
                  f"{line.get(key)}, expected {low} to {low + slack}")

    within("live", small, 64 << 10)
    within("live_runs", large, 64 << 10)
    # Freed blocks lie beside live ones, or in its cache; all the pages that the blocks took are there.
    tap.check("freed neighbours are free on live pages, or cached",
              small - (64 << 10) <= line.get("fragments", 0) + line.get("cached", 0) - CACHED_RUN
              <= small + (256 << 10), line)
    tap.check("a run that is cached is no live one", line.get("cached", 0) >= CACHED_RUN, line)
    tap.check("half of the mapping was never touched", MAPPING // 2 <= account.get(
        "live_not_resident", 0) <= MAPPING // 2 + (64 << 10), account.get("live_not_resident"))
    text = tool("why", known.pid, COLUMNS="60").stdout
    tap.check("the text fits the width", "live objects" in text and max(
        map(len, text.splitlines())) <= 60, text)


def check_memory_of_why():
    """The tool needs little for each page of a heap: here of one that was never there, of 3 GiB."""
    script = """if True:
        import sys, tracemalloc
        sys.path.insert(0, sys.argv[1])
        from quarrytool import heap, pages
        class Large:
            page_bytes, regions_made = 4096, 100
            shapes = cached_objects = cached_runs = lambda self: []
            head = lambda self, word: (word >> 28, word & (1 << 28) - 1)
            def regions(self):
                for i in range(self.regions_made):
                    heads = (heap.RUN << 28 | 8192, *range(1 << 20, (1 << 20) + 8191))
                    yield heap.Region(0, i * 8192 * 4096, heads, (), ())
        tracemalloc.start()
        layout = pages.HeapPages(Large())
        print(layout.run_bytes // 4096, tracemalloc.get_traced_memory()[1] // (100 * 8192))"""
    result = tap.run("/usr/bin/python3", "-B", "-c", script, os.path.dirname(TOOL))
    pages, for_each = map(int, result.stdout.split() or (0, 0))
    tap.check("less than 16 bytes for each page of a heap", pages == 100 * 8192 and for_each < 16,
              result.stdout + result.stderr)


def check_without_quarry():
    with Known(preload="") as plain:
        account = reads("why of a program on glibc", "why", plain.pid)
        tap.check("its lines add up, too", abs(account.get("difference", 1 << 60)) <= 256 << 10
                  and account.get("quarry", 1) is None, account)
        for verb in ("slabinfo", "buddyinfo"):
            refuses(f"{verb} says that it does not use Quarry", "does not use Quarry", verb, plain.pid)


def check_no_seccomp():
    """A filter that refuses further filters (prctl 22), as of a sandbox, before the tool starts."""
    number = {"x86_64": 157, "aarch64": 167}[os.uname().machine]
    filtered = [*under_filter(number, [(0x20, 0, 0, 16), (0x15, 0, 1, 22),
                                       (0x06, 0, 0, 0x50000 | errno.EPERM)]), "run"]
    result = tap.run(*filtered, "--", "true", **ENVIRONMENT)
    tap.check("where seccomp is refused, run says what to do", result.returncode == 127 and
              "--no-calls" in result.stderr and result.stderr.count("\n") == 1, result.stderr)
    result = tap.run(*filtered, "--no-calls", "--", "true", **ENVIRONMENT)
    tap.check("and that helps", result.returncode == 0 and "peak" in result.stderr, result.stderr)


def check_run():
    def counted(count):
        result = tool("run", "--json", "--", PROGRAM, "calls", str(count))
        if "--no-calls" in result.stderr:
            return {"calls": None}
        tap.equal(f"run returns the status of a program with {count} calls", result.returncode, 0)
        return json.loads(result.stderr)

    none, many = counted(0), counted(50)
    run = ["run"] if many["calls"] else ["run", "--no-calls"]
    if many["calls"] is None:
        tap.skip("run counts system calls", "no seccomp here")
    else:
        check_no_seccomp()
        tap.check("run counts system calls", many["calls"]["mmap"] > 50, many["calls"])
        for name in ("mmap", "madvise", "munmap"):
            tap.equal(f"run counts {name}", many["calls"][name] - none["calls"][name], 50)
        for name in ("madvise", "munmap"):
            tap.equal(f"run adds up what {name} gave back",
                      many["returned"][name] - none["returned"][name], 50 * 65536)
    result = tool(*run, "--json", "--", PROGRAM, "hold")
    figures = json.loads(result.stderr)
    tap.equal("the exit status is the program's", result.returncode, 7)
    held = 2 * BLOCKS * BLOCK_CLASS + MAPPING // 2 + RUN
    tap.check("peaks are what it held", held <= figures["peak_rss"] <= held + (8 << 20)
              and figures["peak_vss"] >= held + MAPPING // 2, figures)
    live = BLOCKS * BLOCK_CLASS + MAPPING + RUN
    tap.check("what it held at its end is live", live <= figures["quarry"]["live"] <= live + (
        64 << 10), figures)
    result = tool(*run, "--", "sh", "-c", "kill -TERM $$")
    tap.equal("a signal is the program's", result.returncode, -signal.SIGTERM)
    with tempfile.NamedTemporaryFile("r", encoding="utf-8") as file:
        result = tool(*run, "-o", file.name, "--", "sh", "-c", "kill -TERM $$")
        text = file.read()
    tap.check("a signal leaves the summary in its file", result.returncode == -signal.SIGTERM
              and text.startswith("quarry: peak") and not result.stderr, text + result.stderr)
    result = tool(*run, "--", "sh", "-c", "cat /proc/self/environ", "--tcache-max=1")
    tap.check("what follows the program is the program's", result.returncode == 0
              and "LD_PRELOAD" in result.stdout and "tcache" not in result.stdout, result)
    result = tool("run", "--quiet", "--perturb=9", "--tcache-max=1", "--", "env")
    tap.check("options become variables and tunables", "MALLOC_PERTURB_=9\n" in result.stdout and
              "glibc.malloc.tcache_max=1" in result.stdout and not result.stderr,
              result.stdout + result.stderr)
    with open(os.path.join(tap.ROOT, "docs", "OPTIONS.md"), encoding="utf-8") as file:
        rows = re.findall(r"^\| (\w+) \| (\S+) \| (\S+) \| \S+ \| ([^|]+) \|", file.read(), re.MULTILINE)
    values = [allowed.split()[-1] if re.fullmatch(r"\d+ \.\. \d+|\w+(, \w+)+", allowed) else str((1 << 30) + i)
              for i, (*_, allowed) in enumerate(rows)]
    given = [f"--{name.replace('_', '-')}={value}" for (name, *_), value in zip(rows, values)]
    result = tool("run", "-q", *given, "--", "env",
                  GLIBC_TUNABLES="glibc.malloc.perturb=5:glibc.rtld.nns=4:glibc.malloc.check=3")
    tap.check("every option of docs/OPTIONS.md is a flag", rows and all(
        re.search(rf"({key}|{variable})={value}\b", result.stdout)
        for (_, variable, key, _), value in zip(rows, values)), result.stdout + result.stderr)
    tap.check("a flag wins over a tunable that is there, and leaves others", "glibc.rtld.nns=4" in result.stdout
              and "perturb=5" not in result.stdout and "check=3" not in result.stdout, result.stdout)
    result = tool(*run, "--", "/nonexistent")
    tap.check("a program that cannot be started: 127", result.returncode == 127
              and "/nonexistent: No such file" in result.stderr, result.stderr)
    refuses("a library that is not there", "--library", "run", "--library=/nonexistent", "--", "true")
    refuses("no command", "usage", "run", status=2)


def announced(form, how, preload=""):
    """public_linked, up to its first announcement."""
    process = subprocess.Popen([os.path.join(tap.BUILD, "system", "public_linked" + form), how],
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                               env=dict(os.environ, LD_PRELOAD=preload))
    process.stdout.readline()
    return process


def check_forms():
    for form in (".shared", ".archive", ".static", ".static-pie"):
        process = announced(form, "quiet")
        account = reads(f"why of a program linked {form}", "why", str(process.pid))
        tap.check(f"Quarry is found in it, and the lines add up ({form})", account.get("quarry")
                  and account["heap"] > 0 and abs(account["difference"]) <= 256 << 10, account)
        tap.check(f"top of all lists it ({form})", process.pid in [
            user["pid"] for user in reads(f"top of all, {form}", "top")])
        process.kill()
        process.communicate()
    process = announced("", "busy", tap.LIBRARY)
    for verb in ("why", "top"):
        results = [tool(verb, str(process.pid)) for _ in range(2)]
        tap.check(f"{verb} of a program whose threads allocate meanwhile", not any(
            result.returncode or result.stderr for result in results), results)
    check_tables(process.pid)
    process.kill()
    process.communicate()


def check_refusals():
    with Known() as known:
        gone = known.pid
        if os.geteuid() == 0:
            result = tap.run("setpriv", "--reuid=65534", "--clear-groups", "/usr/bin/python3", "-B",
                             *tool_words("why", known.pid))
            tap.check("a refusal is told", result.returncode == 1 and "owner, or root" in
                      result.stderr and len(result.stderr.splitlines()) == 1, result.stderr)
        else:
            tap.skip("a refusal is told", "not root: no process of another user to look at")
        for verb in ("why", "top"):
            for user, says in ((0, "the kernel refuses even root here: CAP_SYS_PTRACE"),
                               (1000, "be its owner, or root")):
                result = hooked(f"{NO_MAPS}; procfs.os.geteuid = lambda: {user}", verb, known.pid)
                tap.check(f"{verb}: maps that the kernel refuses to user {user}", result.returncode == 1 and
                          f"/proc/{known.pid}/maps may not be read; {says}" in result.stderr and
                          result.stderr.count("\n") == 1, result.stdout + result.stderr)
    for verb in ("why", "slabinfo", "buddyinfo"):
        refuses(f"{verb}: a process that has ended", "there is none", verb, gone)
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    for verb in ("why", "top", "map"):
        refuses(f"{verb}: a process that waits for its parent alone", f"{child.pid}: it has ended", verb,
                str(child.pid))
    child.wait()
    result = tool("why", "pid")
    tap.check("a wrong command line: status 2", result.returncode == 2, result.stderr)


with Known() as process:
    check_slabinfo(process)
    check_buddyinfo(process)
    check_why(process)
check_object_caches()
check_memory_of_why()
check_without_quarry()
check_run()
check_forms()
check_refusals()
tap.done()
