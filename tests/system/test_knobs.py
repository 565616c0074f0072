#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What a user sets for glibc's malloc is done by Quarry, as its system calls and memory show.

Variables, GLIBC_TUNABLES and mallopt; what is malformed counts for nothing and says nothing.
"""
import mmap
import os
import re
import shutil
import signal
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import tap
from quarry_tool import NO_SECCOMP, under_filter

SYSTEM = os.path.join(tap.BUILD, "system")
DEBUG_LIBRARY = os.path.join(tap.BUILD, "debug", "libquarry.so")
KIB, MIB = 1024, 1024 * 1024
PAGE = os.sysconf("SC_PAGE_SIZE")
MARK = "close(-1000)"
HUGE, MADV_COLLAPSE = 2 * MIB, 25


class Trace:
    """The memory calls of a load: brk steps in bytes, sizes of mmap and munmap, madvise."""
    def __init__(self, *arguments, **variables):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "trace")
            preload = [word for name, value in (variables | {"LD_PRELOAD": tap.LIBRARY}).items()
                       for word in ("-E", f"{name}={value}")]
            self.result = tap.run("strace", "-f", "-o", path, "-e",
                                  "trace=brk,mmap,munmap,madvise,close", *preload,
                                  os.path.join(SYSTEM, "knobs"), *arguments)
            with open(path, encoding="utf-8") as file:
                text = file.read()
        self.good = self.result.returncode == 0 and text.count(MARK) == 2
        # The break of the program's start is the last one before the load.
        before, self.text, _ = (text + MARK + MARK).split(MARK)[:3]
        known = re.findall(r"brk\(.*\) += (0x[0-9a-f]+)", before)
        breaks = [int(value, 16) for value in
                  known[-1:] + re.findall(r"brk\(.*\) += (0x[0-9a-f]+)", self.text)]
        steps = [new - old for old, new in zip(breaks, breaks[1:]) if new != old]
        self.growth = [step for step in steps if step > 0]
        self.shrinks = [-step for step in steps if step < 0]
        self.mapped = [int(size) for size in re.findall(r"mmap\(NULL, (\d+),", self.text)]
        self.unmapped = [int(size)
                         for size in re.findall(r"munmap\(0x[0-9a-f]+, (\d+)\)", self.text)]
        advice = re.findall(r"madvise\(.*, (\w+)", self.text)
        self.purges = advice.count("MADV_DONTNEED")

    def blocks(self, size):
        """How many mappings of this size were made, and given back."""
        pages = -(-size // PAGE) * PAGE
        return self.mapped.count(pages), self.unmapped.count(pages)

    def describe(self):
        return (f"exit status {self.result.returncode}\n{self.result.stderr}growth {self.growth}\n"
                f"shrinks {self.shrinks}\nmmap {self.mapped}\nmunmap {self.unmapped}\n"
                f"{self.purges} madvise")


def breathe(**variables):
    """What the load says, in bytes."""
    result = tap.run(os.path.join(SYSTEM, "knobs"), "breathe", preload=tap.LIBRARY, **variables)
    return {name: int(value) for name, value in re.findall(r"^(\w+)=(\d+)$", result.stdout,
                                                           re.MULTILINE)}


def memory(**variables):
    """What the process had resident at its peak, and after all was freed, beyond its start."""
    figures = breathe(**variables)
    return figures.get("peak", 0), figures.get("after", 0)


def probe(*arguments, library=tap.LIBRARY, **variables):
    """What probe_linked finds in force; empty if it fails or says anything on stderr."""
    result = tap.run(os.path.join(SYSTEM, "probe_linked"), *arguments, preload=library, **variables)
    if result.returncode != 0 or result.stderr:
        return {}
    return dict(line.split("=", 1) for line in result.stdout.splitlines() if "=" in line)


def check_trim_threshold():
    for name, variables in (("MALLOC_TRIM_THRESHOLD_", {"MALLOC_TRIM_THRESHOLD_": "-1"}),
                            ("the tunable", {"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=-1"})):
        trace = Trace("breathe", **variables)
        tap.check(f"a trim threshold of -1 gives nothing back ({name})",
                  trace.good and trace.growth and not trace.shrinks and not trace.unmapped and
                  trace.purges == 0, trace.describe())
        peak, after = memory(**variables)
        tap.check(f"and all stays resident ({name})", peak > 18 * MIB and after > peak - MIB,
                  f"{peak} at most, {after} afterwards")
    trace = Trace("breathe")
    tap.check("by default a heap that empties is given back",
              trace.good and (trace.shrinks or trace.purges), trace.describe())
    kept = {}
    for bound in (65536, 4 * MIB, 12 * MIB):
        peak, kept[bound] = memory(MALLOC_TRIM_THRESHOLD_=str(bound))
        print(f"# trim threshold {bound}: {peak} bytes resident at most, {kept[bound]} afterwards")
        # Beside what is free, the thread's cache and the descriptors stay.
        tap.check(f"a trim threshold of {bound} keeps no more free memory resident",
                  peak > 18 * MIB and kept[bound] <= bound + 768 * KIB,
                  f"{peak} at most, {kept[bound]} afterwards")
    tap.check("and a larger one keeps more", kept[65536] < kept[4 * MIB] < kept[12 * MIB], kept)


def check_headroom():
    """Where nothing is given back, free memory beside the peak is resident."""
    kept = {percent: memory(MALLOC_TRIM_THRESHOLD_="-1", QUARRY_HEADROOM=str(percent))[0]
            for percent in (0, 17, 50, 100)}
    print(f"# resident at the peak, by headroom in percent: {kept}")
    for percent in (17, 50, 100):
        more = (kept[percent] - kept[0]) / kept[0]
        # The peak is taken for a sixty-fourth higher than it is, and what was touched for the whole of it.
        tap.check(f"a headroom of {percent} makes so much more resident",
                  0.85 * percent < 100 * more < 1.05 * percent + 4, kept)
    default = memory(MALLOC_TRIM_THRESHOLD_="-1")[0]
    tap.check("it is 17 by default", abs(default - kept[17]) < MIB, f"{default}: {kept}")
    there, without = memory(QUARRY_HEADROOM="100")[0], memory()[0]
    tap.check("where memory is given back it counts for nothing", abs(there - without) < MIB,
              f"{there}, {without}")


def check_top_pad():
    for pad in (0, MIB, 4 * MIB):
        trace = Trace("breathe", MALLOC_TOP_PAD_=str(pad))
        good = trace.good and sum(trace.growth) > 16 * MIB
        if pad:
            good = good and all(step >= pad for step in trace.growth)
            good = good and len(trace.growth) <= 20 * MIB // pad + 2
        else:
            good = good and max(trace.growth) <= 256 * KIB
        tap.check(f"with a top pad of {pad} the break grows in such steps", good, trace.describe())


def check_mappings():
    tunable = "glibc.malloc.mmap_threshold="
    cases = [  # variables, size of ten blocks, how many are mappings
        ({}, 200000, 10), ({}, 100000, 0),
        ({"MALLOC_MMAP_THRESHOLD_": "1000000"}, 200000, 0),
        ({"MALLOC_MMAP_THRESHOLD_": "40000"}, 50000, 10),
        ({"MALLOC_MMAP_THRESHOLD_": "0x8000"}, 50000, 10),
        ({"GLIBC_TUNABLES": tunable + "40000"}, 50000, 10),
        ({"GLIBC_TUNABLES": tunable + "40000:" + tunable + "60000"}, 50000, 0),
        ({"GLIBC_TUNABLES": tunable + "40000", "MALLOC_MMAP_THRESHOLD_": "1000000"}, 50000, 10),
        ({"MALLOC_MMAP_MAX_": "3"}, 200000, 3), ({"MALLOC_MMAP_MAX_": "0"}, 200000, 0),
        ({"GLIBC_TUNABLES": "glibc.malloc.mmap_max=2"}, 200000, 2),
        ({"MALLOC_MMAP_THRESHOLD_": "9000"}, 9500, 10), ({"MALLOC_MMAP_THRESHOLD_": "9000"}, 8000, 0),
        ({"MALLOC_MMAP_THRESHOLD_": "0"}, 9500, 10),
        ({"MALLOC_MMAP_THRESHOLD_": "9000", "MALLOC_MMAP_MAX_": "4"}, 9500, 4),
    ]
    for variables, size, wanted in cases:
        trace = Trace("blocks", str(size), "10", **variables)
        words = " ".join(f"{name}={value}" for name, value in variables.items()) or "by default"
        tap.check(f"{wanted} of 10 blocks of {size} are mappings: {words}",
                  trace.good and trace.blocks(size)[0] == wanted, trace.describe())
    trace = Trace("again", "1000000", "5")
    tap.check("by default a large block that comes and goes is a mapping only once",
              trace.good and trace.blocks(1000000) == (1, 1), trace.describe())
    trace = Trace("again", "12000", "5", MALLOC_MMAP_THRESHOLD_="12000")
    tap.check("a small block above a small threshold is one each time",
              trace.good and trace.blocks(12000) == (5, 5), trace.describe())
    for name, value in (("MALLOC_MMAP_THRESHOLD_", 131072), ("MALLOC_TRIM_THRESHOLD_", 131072),
                        ("MALLOC_TOP_PAD_", 0), ("MALLOC_MMAP_MAX_", 1000)):
        trace = Trace("again", "1000000", "5", **{name: str(value)})
        tap.check(f"once {name} is set, every time", trace.good and
                  trace.blocks(1000000) == (5, 5), trace.describe())


def check_fill_and_cache():
    keys = ("fill_malloc", "fill_free", "calloc", "cached_100", "cached_2000", "second_mapped")
    default = ["none", "none", "zero", "1", "1", "1"]
    filled = ["90", "165", "zero", "0", "0", "1"]
    tunables = {"GLIBC_TUNABLES": "glibc.malloc.perturb=165", "MALLOC_PERTURB_": "7"}
    cases = [
        ("nothing is set", [], {}, default),
        ("MALLOC_PERTURB_", [], {"MALLOC_PERTURB_": "165"}, filled),
        ("the tunable, against the variable", [], tunables, filled),
        ("mallopt(M_PERTURB)", ["-6:165"], {}, filled),
        ("mallopt, against the variable", ["-6:165"], {"MALLOC_PERTURB_": "7"}, filled),
        ("a variable out of range is ignored", [], {"MALLOC_PERTURB_": "421"}, default),
        ("mallopt(M_PERTURB) takes the low eight bits", ["-6:421"], {}, filled),
        ("a value of 0", [], {"MALLOC_PERTURB_": "0"}, default),
        ("tcache_count=0", [], {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=0"},
         default[:3] + ["0", "0", "1"]),
        ("tcache_max=1000", [], {"GLIBC_TUNABLES": "glibc.malloc.tcache_max=1000"},
         default[:3] + ["1", "0", "1"]),
        ("mallopt(QUARRY_M_TCACHE_COUNT, 0)", ["-1001:0"], {}, default[:3] + ["0", "0", "1"]),
        ("mallopt(QUARRY_M_TCACHE_MAX, 1000)", ["-1002:1000"], {}, default[:3] + ["1", "0", "1"]),
        ("mallopt(QUARRY_M_CHECK, 1)", ["-1004:1"], {}, default[:3] + ["0", "0", "1"]),
        ("QUARRY_CHECK=1", [], {"QUARRY_CHECK": "1"}, default[:3] + ["0", "0", "1"]),
    ]
    for name, arguments, variables, wanted in cases:
        for variant, library in (("release", tap.LIBRARY), ("debug", DEBUG_LIBRARY)):
            got = probe(*arguments, library=library, **variables)
            tap.equal(f"fills and caches: {name} ({variant})", [got.get(key) for key in keys],
                      wanted)


def say(*arguments, **variables):
    """What the load prints, as lists of numbers by name."""
    result = tap.run(os.path.join(SYSTEM, "knobs"), *arguments, preload=tap.LIBRARY, **variables)
    found = {}
    for name, value in re.findall(r"^(\w+)=(\d+)$", result.stdout, re.MULTILINE):
        found.setdefault(name, []).append(int(value))
    return found if result.returncode == 0 else {}


def check_deep_caches():
    """A batch of 1000 fits into a cache that may be deep."""
    for value, size, deep in (("", 96, True), ("", 2000, True), ("mxfast=160", 96, True),
                              ("mxfast=160", 2000, False), ("mxfast=0", 96, False)):
        variables = {"GLIBC_TUNABLES": "glibc.malloc." + value} if value else {}
        cached = say("batches", str(size), "500", **variables).get("cached", [-1])[0]
        good = cached > 250 * size if deep else 0 < cached <= 80 * size + 4096
        tap.check(f"blocks of {size} are cached {'deeply' if deep else 'a little'}: {value}", good,
                  f"{cached} bytes cached")


def check_huge_pages():
    for value, load, wanted in (("0", ("blocks", "3000000", "2"), 0),
                                ("1", ("blocks", "3000000", "2"), 2),
                                ("1", ("blocks", "300000", "2"), 0), ("2", ("breathe",), None)):
        trace = Trace(*load, GLIBC_TUNABLES="glibc.malloc.hugetlb=" + value)
        calls = trace.text.count("MADV_HUGEPAGE")
        tap.check(f"hugetlb={value} asks for huge pages ({' '.join(load)})",
                  trace.good and (calls > 0 if wanted is None else calls == wanted),
                  trace.describe())


def kernel_makes_huge_pages():
    with mmap.mmap(-1, 2 * HUGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory_map:
        memory_map[:] = b"\1" * len(memory_map)
        try:
            memory_map.madvise(MADV_COLLAPSE)
            return True
        except OSError:
            return False


def check_huge_share():
    """Within a bound of 4 MiB, and a share of all that is in use, small blocks lie in huge pages."""
    found = {share: breathe(QUARRY_HUGE_SHARE=str(share), MALLOC_TRIM_THRESHOLD_="4M")
             for share in (0, 5, 100)}
    print(f"# the load by share: {found}")
    for share in (0, 5):
        tap.equal(f"a heap for which a share of {share} is too small has no huge pages",
                  found[share].get("huge"), 0)
    name = "a share of 100 makes huge pages"
    if not kernel_makes_huge_pages():
        return tap.skip(name, "this kernel makes no huge pages")
    tap.check(name, found[100].get("huge", 0) >= 4 * HUGE, found)
    tap.check("no more is resident than the bound allows",
              found[100].get("peak", 0) <= found[0].get("peak", 0) + 4 * MIB, found)
    tap.check("and it goes back", found[100].get("after", 1 << 40) <= 4 * MIB + 768 * KIB, found)


def check_trim_report():
    found = say("report")
    tap.equal("quarry_trim returns 1 only if it released memory", found.get("returned"), [10])
    released, elsewhere = found.get("released", [0] * 3), found.get("elsewhere", [0] * 3)
    tap.check("it tells how much", released[0] >= 100000 and released[1] == 0, found)
    tap.check("it tells what another thread's cache keeps, the last block of a size",
              200 <= elsewhere[0] < 1000 and elsewhere[1] == elsewhere[0], found)
    tap.check("which is free when the thread has ended",
              elsewhere[2] == 0 and released[2] >= 4096, found)


def check_drain():
    """In a sandbox that kills for membarrier, which glibc's malloc does not call."""
    name = "malloc_trim drains others' caches, but not where QUARRY_DRAIN is never"
    number = {"x86_64": 324, "aarch64": 283}.get(os.uname().machine)
    if number is None:
        return tap.skip(name, "another number for membarrier")
    start = under_filter(number, [(0x06, 0, 0, 0x80000000)])[:-1]
    ends = {when: tap.run(*start, "/usr/bin/env", f"LD_PRELOAD={tap.LIBRARY}", f"QUARRY_DRAIN={when}",
                          os.path.join(SYSTEM, "knobs"), "report").returncode
            for when in ("never", "asked", "idle")}
    if NO_SECCOMP in ends.values():
        return tap.skip(name, "no seccomp here")
    tap.equal(name, ends, {"never": 0, "asked": -signal.SIGSYS, "idle": -signal.SIGSYS})


def check_verbose():
    variables = {"MALLOC_TOP_PAD_": "12q", "QUARRY_FOREIGN": "perhaps", "QUARRY_LIMIT": "1PB",
                 "GLIBC_TUNABLES": "glibc.malloc.mxfast=161"}
    result = tap.run("true", preload=tap.LIBRARY, QUARRY_VERBOSE="1", **variables)
    tap.equal("under QUARRY_VERBOSE each malformed value is told in a line", result.stderr,
              "quarry: MALLOC_TOP_PAD_: '12q' is not one of: any number "
              "(in bytes, or with K, M, G or T); the default stays\n"
              "quarry: QUARRY_LIMIT: '1PB' is not one of: 1 or more, auto "
              "(in bytes, or with K, M, G or T); the default stays\n"
              "quarry: QUARRY_FOREIGN: 'perhaps' is not one of: abort, leak, libc; "
              "the default stays\n"
              "quarry: glibc.malloc.mxfast: '161' is not one of: 0 .. 160 "
              "(in bytes, or with K, M, G or T); the default stays\n")
    result = tap.run("true", preload=tap.LIBRARY, QUARRY_VERBOSE="0", **variables)
    tap.equal("and under QUARRY_VERBOSE=0 none is", result.stderr, "")


def check_malformed():
    """What is no number, or out of range, changes nothing; nor is anything written about it."""
    default = probe()
    tap.check("the probe works", default.get("on_quarry") == "1", default)
    for value in ("", " ", "abc", "165x", " 165", "0x", "-", "+", "1e3", "18446744073709551616",
                  "99999999999999999999", "165:", "165 "):
        got = probe(MALLOC_PERTURB_=value, MALLOC_MMAP_THRESHOLD_=value, MALLOC_MMAP_MAX_=value,
                    MALLOC_TRIM_THRESHOLD_=value, MALLOC_TOP_PAD_=value, MALLOC_ARENA_MAX=value,
                    MALLOC_ARENA_TEST=value, QUARRY_CHECK=value, QUARRY_FOREIGN=value)
        tap.equal(f"variables set to '{value}' count for nothing",
                  {key: got.get(key) for key in default if key != "environment"},
                  {key: default[key] for key in default if key != "environment"})
    for value in ("glibc.malloc.perturb", "glibc.malloc.perturb=", "glibc.malloc.perturb=x",
                  "perturb=165", ":", "::=", "=165", "glibc.malloc.=165",
                  "glibc.malloc.perturbed=165",
                  "glibc.malloc.tcache_count=70000", "glibc.malloc.tcache_count=-1",
                  "glibc.malloc.mxfast=161:glibc.malloc.hugetlb=-1"):
        got = probe(GLIBC_TUNABLES=value)
        tap.equal(f"GLIBC_TUNABLES={value} counts for nothing",
                  {key: got.get(key) for key in default if key != "environment"},
                  {key: default[key] for key in default if key != "environment"})
    got = probe(GLIBC_TUNABLES="nonsense=1:glibc.malloc.perturb=x:glibc.malloc.perturb=165:=:")
    tap.equal("but what is right beside it counts", got.get("fill_free"), "165")


if tap.check("strace is installed", shutil.which("strace")):
    check_trim_threshold()
    check_headroom()
    check_top_pad()
    check_mappings()
    check_huge_pages()
check_huge_share()
check_deep_caches()
check_trim_report()
check_drain()
check_verbose()
check_fill_and_cache()
check_malformed()
tap.done()
