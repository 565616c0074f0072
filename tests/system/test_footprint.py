#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What Quarry costs in memory: small programs, mappings, idle threads, fork children, metadata.

Each figure is printed, beside libc's malloc where it has the same.
"""
import os
import re
import shutil
import statistics
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import tap

PROGRAM = os.path.join(tap.BUILD, "system", "footprint")
KIB = 1024
PAGE = os.sysconf("SC_PAGE_SIZE")
RUNS = 5
FEW, MANY = 100, 500  # threads: what differs by their number is theirs

# The same work for each interpreter: a few hundred thousand blocks made, kept, dropped; at its end
# it prints its own mappings.
PYTHON = """
import json
rows = [{"number": i, "text": "x" * (i % 300), "list": list(range(i % 40))} for i in range(20000)]
copy = json.loads(json.dumps(rows))
del rows[::2]
print(open("/proc/self/maps").read())
"""
SQLITE = """create table t(a integer primary key, b text);
with recursive n(i) as (select 1 union all select i + 1 from n where i < 60000)
insert into t select i, hex(randomblob(i % 300)) from n;
create index u on t(b);
.system cat /proc/$PPID/maps
"""
PERL = """
my %table;
$table{$_} = [map { "x" x ($_ % 200) } 1 .. 20] for 1 .. 10000;
delete $table{$_ * 2} for 1 .. 4000;
open my $maps, "<", "/proc/self/maps";
print <$maps>;
"""
PROGRAMS = {"python3": ["python3", "-c", PYTHON], "perl": ["perl", "-e", PERL],
            "sqlite3": ["sh", "-c", "printf %s \"$0\" | sqlite3 :memory:", SQLITE]}


def figures(*arguments, preload=None, **environment):
    """The NAME=NUMBER lines of one run."""
    result = tap.run(PROGRAM, *arguments, preload=preload, **environment)
    if result.returncode != 0:
        tap.check(f"footprint {' '.join(arguments)} works", False, result.stdout + result.stderr)
        return {}
    return {name: int(value) for name, value in re.findall(r"(\w+)=(\d+)", result.stdout)}


def median(name, *arguments, **options):
    return statistics.median(figures(*arguments, **options).get(name, 0) for _ in range(RUNS))


def tell(text):
    print("# " + text, flush=True)


def mappings(smaps):
    return re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", smaps, flags=re.MULTILINE)


def resident(smaps):
    """Bytes of resident memory, but for the pages of libc and ld.so that the process shares with
    others: how many of those it has depends on what others did."""
    total = 0
    for mapping in mappings(smaps):
        of_libc = re.search(r"/(libc\.so|ld-linux)", mapping.partition("\n")[0])
        size = re.search(r"^Private_Dirty: +(\d+)" if of_libc else r"^Rss: +(\d+)", mapping,
                         re.MULTILINE)
        total += int(size[1]) * KIB if size else 0
    return total


def untouched(smaps):
    """How many mappings of the library's file can be read and have nothing resident."""
    return sum(bool(re.match(r"\S+ r.*/libquarry\.so.*\n(?:\w+: .*\n)*?Rss: +0 kB", mapping))
               for mapping in mappings(smaps))


def check_trivial():
    space, memory = {}, {}
    for name in [name for name in os.environ if re.match("MALLOC_|QUARRY_|GLIBC_TUNABLES", name)]:
        del os.environ[name]  # the names of options are read where one is set
    for malloc, library in (("libc", None), ("Quarry", tap.LIBRARY)):
        runs = [tap.run(PROGRAM, "trivial", preload=library).stdout for _ in range(RUNS)]
        space[malloc] = statistics.median(int(re.search(r"virtual=(\d+)", run)[1]) for run in runs)
        memory[malloc] = statistics.median(resident(run) for run in runs)
        tell(f"a trivial program on {malloc}: {space[malloc] // KIB} KiB of addresses, "
             f"{memory[malloc] // KIB} KiB resident beside libc's code")
    tap.check("a trivial program has at most twice the address space",
              0 < space["Quarry"] <= 2 * space["libc"], space)
    tap.check("a trivial program has at most 200 kB more resident memory",
              0 < memory["libc"] < memory["Quarry"] <= memory["libc"] + 200000, memory)
    tap.check("of what it does not use (src/layout.ld) nothing is resident",
              min(untouched(run) for run in runs) == 3, runs[0])


def accountable(smaps):
    """Bytes that count where overcommit is strict: private and writable.  "nr" is ignored there."""
    total = 0
    for size, names in re.findall(r"^Size: +(\d+) kB$.*?^VmFlags: ([^\n]*)$", smaps,
                                  re.MULTILINE | re.DOTALL):
        total += int(size) * KIB if {"ac", "nr"} & set(names.split()) else 0
    return total


def check_commitment():
    """With vm.overcommit_memory=2 what is mapped counts, touched or not."""
    counted = {}
    for malloc, library in (("libc", None), ("Quarry", tap.LIBRARY)):
        counted[malloc] = accountable(tap.run(PROGRAM, "trivial", preload=library).stdout)
        tell(f"a trivial program on {malloc}: {counted[malloc] // KIB} KiB count for CommitLimit")
    tap.check("a trivial program commits the kernel to at most 1 MiB more",
              0 < counted["libc"] < counted["Quarry"] <= counted["libc"] + (1 << 20), counted)


def check_mappings():
    for name, command in PROGRAMS.items():
        if not tap.check(f"{name} is installed", shutil.which(name)):
            continue
        counts = {}
        for malloc, library in (("libc", None), ("Quarry", tap.LIBRARY)):
            lines = [line for line in tap.run(*command, preload=library).stdout.splitlines()
                     if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line)]
            named = re.compile(r" (/.*|\[(stack|vvar|vdso|vsyscall).*\])$")
            counts[malloc] = sum(not named.search(line) for line in lines)
            tell(f"{name} on {malloc}: {len(lines)} mappings, {counts[malloc]} of no file")
        tap.check(f"{name} has at most 64 mappings of no file",
                  counts["libc"] > 0 and 0 < counts["Quarry"] <= 64, counts)


def check_threads():
    """What the process keeps free is not its threads': with a fixed bound it cancels out."""
    def of_threads(threads, what, library):
        return median("resident", "threads", str(threads), what, preload=library,
                      MALLOC_TRIM_THRESHOLD_=str(1 << 20))

    per_thread = {}
    for malloc, library in (("libc", None), ("Quarry", tap.LIBRARY)):
        extra = {threads: of_threads(threads, "used", library) -
                 of_threads(threads, "idle", library) for threads in (FEW, MANY)}
        per_thread[malloc] = (extra[MANY] - extra[FEW]) / (MANY - FEW)
        tell(f"an idle thread that has used a little of everything, on {malloc}: "
             f"{per_thread[malloc]:.0f} bytes more than one that has used nothing")
    tap.check("an idle thread that used the heap costs at most 4 kB",
              per_thread["Quarry"] <= 4096, per_thread)


def check_fork():
    libc, quarry = figures("fork"), figures("fork", preload=tap.LIBRARY)
    for malloc, got in (("libc", libc), ("Quarry", quarry)):
        tell(f"a fork child frees 20 000 of 200 000 blocks, on {malloc}: "
             f"{got.get('faults')} faults, {got.get('copied', 0) // PAGE} pages copied")
    tap.check("a fork child that frees a tenth of 200 000 blocks copies at most 100 pages",
              0 < quarry.get("copied", 0) <= 100 * PAGE and quarry["faults"] <= 100, quarry)
    tap.check("the same test tells another malloc apart", libc.get("copied", 0) > 1000 * PAGE, libc)


def check_metadata():
    for size in (16, 48, 200, 1000, 3000, 20000, 300000):
        got = figures("metadata", str(size), preload=tap.LIBRARY)
        if not got:
            continue
        metadata = got["resident"] - got["in_use"]
        tell(f"64 MiB in blocks of {size}: {got['resident'] // KIB} KiB resident, "
             f"{metadata // KIB} KiB ({100 * metadata / got['resident']:.2f} %) beside the blocks")
        tap.check(f"metadata of blocks of {size} is at most 2 % and 64 KiB",
                  metadata <= got["resident"] * 2 // 100 + 64 * KIB, got)


def check_shrink():
    """Without a call and without a thread, in whatever order the blocks are freed."""
    for percent, most in ((95, 75), (100, 10)):
        libc, got = figures("shrink", str(percent)), figures("shrink", str(percent),
                                                             preload=tap.LIBRARY)
        for malloc, of in (("libc", libc), ("Quarry", got)):
            tell(f"{percent} % of {of.get('peak', 0) / 1e6:.0f} MB freed in random order, on {malloc}: "
                 f"{of.get('resident', 0) / 1e6:.1f} MB resident")
        tap.check(f"of 200 MB of which {percent} % are freed at most {most} MB stay",
                  got.get("peak", 0) > 200e6 and 0 < got["resident"] <= most * 1e6, got)
        tap.check(f"the same test tells another malloc apart, {percent} %",
                  libc.get("resident", 0) > 150e6, libc)


check_trivial()
check_commitment()
check_mappings()
check_threads()
check_fork()
check_metadata()
check_shrink()
tap.done()
