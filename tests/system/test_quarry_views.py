#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""quarry top, map, doctor, lazy, kmem, oom, record, plot and diff agree with a program and the kernel."""
import json
import os
import pty
import re
import sys
import tempfile
import xml.etree.ElementTree

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.dirname(HERE), HERE]
import cgroup
import tap
from quarry_tool import (BLOCK_CLASS, BLOCKS, ENVIRONMENT, MAPPING, PROGRAM, RUN, TOOL, Known, hooked,
                         reads, refuses, tool)

STEP_LIVE = 8192 * 1024  # of quarry_known.c
DRIPPED = 60 * 40 << 10
MIB = 1 << 20


def check_top(known):
    shown = reads("top", "top", known.pid)
    row = next((r for r in shown.get("classes", []) if r["object_size"] == BLOCK_CLASS), {})
    tap.check("top: its blocks are active", row.get("active") == BLOCKS and row.get("objects", 0) >= (
        2 * BLOCKS) and row.get("bytes", 0) >= 2 * BLOCKS * BLOCK_CLASS, row)
    live = shown.get("totals", {}).get("live", 0) - BLOCKS * BLOCK_CLASS - MAPPING - RUN
    tap.check("top: live bytes are what it holds", 0 <= live <= 64 << 10, shown.get("totals"))
    tap.check("top: its name and size are there", shown.get("command") == "quarry_known" and shown.get(
        "rss", 0) >= 2 * BLOCKS * BLOCK_CLASS, shown.get("rss"))
    for width in ("60", "80", "120"):
        text = tool("top", known.pid, COLUMNS=width).stdout
        tap.check(f"top fits {width} columns, with whole figures and no colour",
                  str(BLOCKS) in text and "…" not in text and "\x1b" not in text
                  and max(map(len, text.splitlines())) <= int(width), text)
    tap.check("top without a process lists this one", known.pid in [
        str(user["pid"]) for user in reads("top of all", "top")], "")
    script = ("import sys; sys.path.insert(0, sys.argv.pop(1)); from quarrytool import cli, memory; "
              "read = memory.read; memory.read = lambda *a: read(*a).replace(b'slab_shards', b'slab_shardz'); "
              "sys.exit(cli.main(sys.argv[1:]))")
    for what, words, status in (("its process: an error", [known.pid], 1), ("all: it is passed over", [], 0)):
        result = tap.run("/usr/bin/python3", "-B", "-c", script, os.path.dirname(TOOL), "top", *words)
        tap.check(f"top of a library that lacks a field, {what}", result.returncode == status
                  and "Traceback" not in result.stderr and (
                      not words or "lacks address.slab_shards" in result.stderr),
                  result.stdout + result.stderr)
    refuses("top: a process that is not there", "there is none", "top", "99999999")
    refuses("top: no views", "above 0", "top", known.pid, "-n", "0", status=2)
    check_top_without_keys(known)
    check_top_changes(known)


def check_top_without_keys(known):
    """On a terminal, but with none to read keys from."""
    for what, script in (("of another session", 'setsid -w "$@"'), ("closed", '"$@" <&-')):
        child, terminal = pty.fork()
        if child == 0:
            os.execvp("sh", ["sh", "-c", script, "sh", TOOL, "top", known.pid, "-n", "2", "-d", "0.1"])
        text = b""
        try:
            while part := os.read(terminal, 4096):
                text += part
        except OSError:  # so ends a terminal that nobody has any more
            pass
        os.close(terminal)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        tap.check(f"top, its input {what}", status == 0 and b"quarry-1024" in text and
                  b"Traceback" not in text, text.decode())


def check_top_changes(known):
    """An address that is not there any more, once: what was read before it tells nothing about the process."""
    for what, name in (("its process has run another program", "cli.top._one"),
                       ("a table has moved", "cli.top.Heap._mappings")):
        result = hooked(f"{name} = lambda it, *rest, real={name}, gone=[1]: real(it, *rest) if not gone else "
                        "(gone.clear(), memory.read(it.pid, 8, 8))", "top", known.pid)
        tap.check(f"top goes on where {what}", result.returncode == 0 and "quarry-1024" in result.stdout,
                  result.stdout + result.stderr)


def check_map(known):
    shown = reads("map", "map", known.pid)
    tap.check("a count that is 0 is there", set(shown.get("counts", {})) >= {
        "live", "clean", "hole", "swapped", "huge", "physical_neighbours"}, shown.get("counts"))
    pictures = [region["pages"] for region in shown.get("regions", [])]
    drawn = {key: sum(picture.count(character) for picture in pictures)
             for key, character in (("dirty", "-"), ("hole", "+"), ("live", "#"))}
    tap.equal("the picture has as many pages of each kind as the counts", drawn, {
        key: shown["counts"].get(key, 0) for key in drawn})
    line = {line["key"]: line["bytes"] for line in reads("why", "why", known.pid).get("lines", [])}
    page = shown["page_bytes"]
    tap.equal("its free pages are those of the ledger",
              (drawn["dirty"] * page, drawn["hole"] * page),
              (line.get("dirty", 0) + line.get("surplus", 0), line.get("holes", 0)))
    tap.check("its live pages hold what the ledger has on them", drawn["live"] * page >= line["live"]
              + line.get("fragments", 0) + line.get("cached", 0), f"{drawn} {line}")
    text = tool("map", known.pid, COLUMNS="60").stdout
    tap.check("map draws", re.search(r"^ +[0-9a-f]+  [ #o.+-]+$", text, re.MULTILINE), text)
    text = tool("map", known.pid, "--pages", "8", COLUMNS="60").stdout
    lines = {}
    for region in shown.get("regions", []):
        groups = "".join(min(region["pages"][at:at + 8], key="#o-+. ".index)
                         for at in range(0, len(region["pages"]), 8))
        lines |= {region["base"] + at * 8 * page: groups[at:at + 32].rstrip()
                  for at in range(0, len(groups), 32)}
    tap.equal("a group of pages is drawn as the first of the legend that is in it", {
        int(line[1], 16): line[2] for line in re.finditer(
            r"^ +([0-9a-f]+)  ([ #o.+-]+)$", text, re.MULTILINE)},
        {at: line for at, line in lines.items() if line})
    refuses("map: no pages", "above 0", "map", known.pid, "--pages", "0", status=2)


def check_doctor(known):
    found = {f["topic"]: f for f in reads("doctor of a process on Quarry", "doctor", known.pid)}
    tap.equal("doctor finds the library", found.get("Quarry in quarry_known", {}).get("value"),
              os.path.realpath(tap.LIBRARY))
    with open("/proc/sys/vm/max_map_count", encoding="ascii") as file:
        tap.equal("doctor tells max_map_count", found.get("max_map_count", {}).get("value"),
                  file.read().strip())
    with Known(preload="") as plain:
        result = tool("doctor", plain.pid, "--json")
        verdict = [f for f in json.loads(result.stdout) if f["verdict"] == "bad"]
        tap.check("doctor says what to do where Quarry is missing", result.returncode == 1
                  and len(verdict) == 1 and "quarry run" in verdict[0]["advice"], result.stdout)
    check_doctor_group()
    limited = tap.run("sh", "-c", f"ulimit -v 4000000; exec {sys.argv[0]} --doctor")
    tap.check("doctor tells a limit on address space", "ulimit -v unlimited" in limited.stdout,
              limited.stdout + limited.stderr)


def check_doctor_group():
    """A limit holds for the groups below it, too."""
    limit = 777 * MIB
    with cgroup.limited(limit) as folder:
        if not folder:
            tap.skip("doctor tells a limit of a group above", "no cgroup can be made here")
            return
        inner = os.path.join(folder, "inner")
        os.mkdir(inner)
        result = tap.run(*cgroup.inside(inner, TOOL, "doctor", "--json"), **ENVIRONMENT)
        os.rmdir(inner)
        found = {f["topic"]: f["value"] for f in json.loads(result.stdout or "[]")}
        tap.equal("doctor tells a limit of a group above", found.get("control group's memory limit"),
                  "777M")


def meminfo(key):
    with open("/proc/meminfo", encoding="ascii") as file:
        return int(re.search(rf"^{key}: +(\d+) kB", file.read(), re.MULTILINE)[1]) * 1024


def check_kmem():
    shown = reads("kmem", "kmem")
    with open("/proc/zoneinfo", encoding="ascii") as file:
        text = file.read()
    page = os.sysconf("SC_PAGE_SIZE")
    managed, free = (sum(int(count) * page for count in re.findall(word, text, re.MULTILINE))
                     for word in (r"^ +managed +(\d+)", r"^  pages free +(\d+)"))
    tap.equal("the zones have the pages that the kernel gave them", sum(
        zone["managed"] for zone in shown.get("zones", [])), managed)
    tap.check("their buddy lists are what is free", abs(sum(
        zone["free"] for zone in shown.get("zones", [])) - free) < managed // 20, f"{shown} {free}")
    try:
        with open("/proc/slabinfo", encoding="ascii") as file:
            readable = bool(file.read())
    except OSError:
        readable = False
    if not readable:
        tap.skip("the slab caches add up", "/proc/slabinfo may not be read here")
    else:
        slabs = sum(cache["bytes"] for cache in shown["slab_caches"] or [])
        tap.check("the slab caches add up", meminfo("Slab") * 0.7 < slabs < meminfo("Slab") * 1.1,
                  f"{slabs} {meminfo('Slab')}")
    text = tool("kmem", COLUMNS="70").stdout
    tap.check("kmem compares the allocators", all(
        word in text for word in ("alloc_pages", "vmalloc", "malloc beyond")), text)
    refuses("kmem: nothing to show", "above 0", "kmem", "-n", "0", status=2)


def check_oom():
    shown = reads("oom", "oom")
    mine = next((p for p in shown.get("processes", []) if p["pid"] == os.getpid()), {})
    with open("/proc/self/oom_score_adj", encoding="ascii") as file:
        tap.equal("oom tells this process's oom_score_adj", mine.get("adjustment"), int(file.read()))
    scores = [process["score"] for process in shown.get("processes", [])]
    tap.check("the highest score is first", scores and scores == sorted(scores, reverse=True), scores)
    refuses("oom: nothing to show", "above 0", "oom", "-n", "0", status=2)


def check_completion():
    script, pid = tool("completion").stdout, str(os.getpid())
    for words, wanted in (("ru", "run"), ("why --js", "--json"), (f"top {pid}", pid), (f"set {pid}", pid),
                          (f"record -o x {pid}", pid), ("record -o ''", ""), ("record -- ''", ""),
                          ("run -- ls --js", ""), (f"set {pid} ''", "")):
        result = tap.run("bash", "-c", f"{script}\nCOMP_WORDS=(quarry {words}); COMP_CWORD=$((${{#COMP_WORDS[*]}} - 1)); "
                         "_quarry; echo ${COMPREPLY[*]}")
        found = result.stdout.split()
        tap.check(f"bash completes {words}".replace(pid, "PID"), wanted in found if wanted else not found,
                  result.stdout + result.stderr)


def check_lazy():
    steps = reads("lazy", "lazy").get("steps", [])
    tap.check("every step shows what it says", len(steps) >= 9 and all(
        step["holds"] for step in steps), json.dumps(steps, indent=1))
    if len(steps) >= 9:
        asked, read, written, forked = (step["seen"] for step in steps[:4])
        page = os.sysconf("SC_PAGE_SIZE")
        tap.check("asking makes nothing resident", asked["resident"] == 0 and asked["mapped"] ==
                  100 * MIB, asked)
        tap.check("reading faults page by page", read["faults"] >= 100 * MIB // page, read)
        tap.check("writing makes resident what is written", written["resident"] == 25 * MIB,
                  written)
        tap.check("a fork child copies what it writes", forked["faults"] >= 100, forked)
    text = tool("lazy", COLUMNS="70").stdout
    tap.check("lazy fits the width", text and max(map(len, text.splitlines())) <= 70, text)


def check_record(folder):
    one, two = (os.path.join(folder, name) for name in ("one", "two"))
    for name, options in ((one, []), (two, ["--trim-threshold=-1"])):
        tap.equal("record returns the command's status", tool(
            "record", "-o", name, "-i", "0.02", *options, "--", PROGRAM, "steps").returncode, 0)
    shown = reads("plot as JSON", "plot", one)
    summary = shown.get("summary", {})
    tap.check("the peak of live bytes is what it held", STEP_LIVE <= summary.get("peak_live", 0) <=
              STEP_LIVE + (64 << 10), summary)
    tap.check("the resident peak holds it", STEP_LIVE <= summary.get("peak_rss", 0) <= STEP_LIVE + (
        6 << 20), summary)
    tap.check("what it gave back was seen", summary.get("given_back", 0) >= MIB and any(
        "given back" in event["event"] for event in shown.get("events", [])), shown)
    tap.equal("the end is told", shown.get("end"), "the process ended")
    drips = os.path.join(folder, "drips")
    tool("record", "-o", drips, "-i", "0.005", "--", PROGRAM, "drips")
    summary = reads("plot of little given back often", "plot", drips).get("summary", {})
    tap.check("it adds up", summary.get("given_back", 0) >= DRIPPED, summary)
    both = reads("diff as JSON", "diff", one, two)
    tap.check("without trimming nothing is given back", both.get("given_back", {}).get("a", 0) > 0
              and both.get("given_back", {}).get("b") == 0, both)
    same = tool("diff", one, one).stdout
    tap.check("a recording does not differ from itself", set(re.findall(
        r"(\d\.\d\d)$", same.rstrip(), re.MULTILINE)) == {"1.00"}, same)
    check_means(os.path.join(folder, "means"))
    check_plot(one, folder)
    check_damage(one, folder)
    with Known() as known:
        third = os.path.join(folder, "third")
        tap.equal("a running process is recorded", tool(
            "record", "-o", third, "-i", "0.02", "-t", "0.2", known.pid).returncode, 0)
        samples = reads("and plotted", "plot", third)
        tap.check("as it is", samples.get("end") == "the time was over" and 0 <= samples["summary"][
            "peak_live"] - BLOCKS * BLOCK_CLASS - MAPPING - RUN <= 64 << 10, samples)
        gone = known.pid
    refuses("record: a process that has ended", "there is none", "record", "-o", third, gone)
    refuses("record: a command that is not there", "/nonexistent: No such", "record", "-o", third,
            "--", "/nonexistent")
    refuses("record: a file that cannot be written", "/nonexistent/x: No such", "record", "-o",
            "/nonexistent/x", "--", "true")
    check_record_end(folder)


def check_means(name):
    """Samples are not all as far apart, and not all have the heap's figures."""
    lines = [{"format": "quarry-recording", "version": 1}]
    for t, rss, live in ((0, 1000, None), (1, 3000, 100), (2, 3000, 300), (10, 5000, 300)):
        lines.append({"t": t, "vss": 9000, "rss": rss, "minor": 0, "major": 0}
                     | ({"live": live} if live else {}))
    with open(name, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    summary = reads("plot of a recording with gaps", "plot", name).get("summary", {})
    live = (200 + 8 * 300) / 9
    tap.equal("means are over time, and a ratio over the same time",
              {key: round(summary.get(key, 0), 6) for key in ("mean_rss", "mean_live", "rss_per_live")},
              {"mean_rss": (2000 + 3000 + 8 * 4000) / 10, "mean_live": round(live, 6),
               "rss_per_live": round((3000 + 8 * 4000) / 9 / live, 6)})


def check_record_end(folder):
    """A program that fails is told as such, also while its memory is taken down or main has ended."""
    name = os.path.join(folder, "end")
    for what, command in (("failure", ["sh", "-c", "exit 5"]),
                          ("failure, with a large heap", [PROGRAM, "fails"]),
                          ("failure, of a thread", [PROGRAM, "outlives"])):
        tap.equal(f"record returns a command's {what}", tool(
            "record", "-o", name, "-i", "0.002", "--", *command).returncode, 5)
    summary = reads("the recording of a thread", "plot", name).get("summary", {})
    tap.check("a program whose main has ended is sampled on",
              summary.get("peak_live", 0) >= STEP_LIVE and summary["duration_s"] > 0.3, summary)


def check_plot(name, folder):
    for ending in (".svg", ".html"):
        output = os.path.join(folder, "plot" + ending)
        tap.equal(f"plot writes {ending}", tool("plot", name, "-o", output).returncode, 0)
        with open(output, encoding="utf-8") as file:
            text = file.read()
        picture = text[text.index("<svg"):text.index("</svg>") + 6]
        try:
            texts = "".join(xml.etree.ElementTree.fromstring(picture).itertext())
        except xml.etree.ElementTree.ParseError as error:
            texts = f"no XML: {error}"
        tap.check(f"{ending}: the picture is well formed and names its lines", all(
            word in texts for word in ("resident (RSS)", "live", "page faults")), texts[:2000])
        tap.check(f"{ending}: it needs nothing else", not re.search(
            r"(src|href)\s*=\s*[\"'](?!#)|@import|url\((?!#)", text))
    refuses("plot: another ending", ".html or .svg", "plot", name, "-o", name + ".gif", status=2)


def check_damage(name, folder):
    with open(name, encoding="utf-8") as file:
        lines = file.read().splitlines(keepends=True)
    damaged = os.path.join(folder, "damaged")
    cases = {
        "of another version": (["{\"format\": \"quarry-recording\", \"version\": 9}\n"], "version 9"),
        "with a cut line": (lines[:5] + [lines[5][:20] + "\n"] + lines[6:], "damaged at line 6"),
        "with a figure missing": (lines[:3] + ['{"t": 1}\n'], "damaged at line 4"),
        "with a wrong figure": (lines[:3] + [lines[3].replace('"rss": ', '"rss": "')
                                             .replace(', "anon"', '", "anon"')], "damaged at line 4"),
        "with one sample": (lines[:2], "too few"),
        "that is none": (["hello\n"], "no recording"),
        "that is empty": ([], "no recording"),
    }
    for what, (content, says) in cases.items():
        with open(damaged, "w", encoding="utf-8") as file:
            file.writelines(content)
        refuses(f"a recording {what}", says, "plot", damaged)
    refuses("a recording that is not there", "No such file", "diff", name, damaged + "x")


if sys.argv[1:] == ["--doctor"]:
    print(tool("doctor").stdout)
    sys.exit(0)
with Known() as process:
    check_top(process)
    check_map(process)
    check_doctor(process)
check_lazy()
check_kmem()
check_oom()
check_completion()
with tempfile.TemporaryDirectory() as scratch:
    check_record(scratch)
tap.done()
