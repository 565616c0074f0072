# SPDX-License-Identifier: MIT
"""The ledger: each resident page of a process attributed once.

The kernel says what is resident: smaps by mapping, pagemap by page. Quarry's structures say what lies
on the pages of its heap. What they do not explain of a mapping is binaries, stacks, files, shared
memory, or other anonymous memory.
"""
from collections import Counter
from dataclasses import dataclass
from typing import Any

from . import pages, procfs
from .errors import NoQuarry
from .heap import Heap
from .procfs import Area

SHARED_PREFIXES = ("/dev/zero", "/memfd:", "/SYSV", "/dev/shm/", "[anon_shmem")


@dataclass(frozen=True)
class Line:
    """A line of the ledger: its key, its name, what can be done about it, whether that frees all."""

    key: str
    name: str
    remedy: str
    frees: bool = False


HEAP_LINES = (
    Line("live", "live objects", "the program's own; 'quarry top' tells their sizes"),
    Line("live_runs", "live large blocks", "the program's own; above 16 KiB each"),
    Line(
        "fragments",
        "free, on live pages",
        "free neighbours of live objects; comes back when those are " "freed, too",
    ),
    Line(
        "cached",
        "cached by threads",
        "malloc_trim(0), but for one of each size in each thread; fewer kept: "
        "glibc.malloc.tcache_count in GLIBC_TUNABLES",
        True,
    ),
    Line("dirty", "dirty: free runs", "malloc_trim(0), or a lower MALLOC_TRIM_THRESHOLD_", True),
    Line("holes", "dirty: holes in slabs", "malloc_trim(0)", True),
    Line(
        "surplus",
        "huge-page surplus",
        "free pages under huge pages: a lower QUARRY_HUGE_SHARE; or set "
        "/sys/kernel/mm/transparent_hugepage/enabled to madvise",
        True,
    ),
    Line("metadata", "metadata", "Quarry's tables; grows with the heap"),
)
OTHER_LINES = (
    Line("heap_other", "other [heap]", "another allocator's, or sbrk"),
    Line(
        "anonymous", "other anonymous", "mapped by the program, its libraries, or another allocator"
    ),
    Line("binaries", "binaries", "code and data of program and libraries; the code is shared"),
    Line("stacks", "stacks", "as deep as the threads ever were"),
    Line("files", "files", "mapped files; the kernel takes them back when it needs memory"),
    Line("shmem", "shared memory", "counted in every process that maps it"),
)


@dataclass
class Ledger:
    """Bytes by line; the kernel's figure; what is live without being resident."""

    pid: int
    command: str
    library: str
    amounts: Counter[str]
    virtual: int
    rss: int
    swap: int
    live_absent: int
    hint: str = ""

    @property
    def total(self) -> int:
        """The sum of all lines."""
        return sum(self.amounts.values())

    def lines(self) -> list[tuple[Line, int]]:
        """Every line that is not empty."""
        known = HEAP_LINES + OTHER_LINES if self.library else OTHER_LINES
        return [(line, self.amounts[line.key]) for line in known if self.amounts[line.key]]

    def heap_bytes(self) -> int:
        """The lines of Quarry's heap."""
        return sum(self.amounts[line.key] for line in HEAP_LINES)

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "pid": self.pid,
            "command": self.command,
            "quarry": self.library or None,
            "lines": [
                {
                    "key": line.key,
                    "name": line.name,
                    "bytes": count,
                    "remedy": line.remedy,
                    "brings": count if line.frees else 0,
                }
                for line, count in self.lines()
            ],
            "heap": self.heap_bytes(),
            "total": self.total,
            "virtual": self.virtual,
            "smaps_rollup_rss": self.rss,
            "difference": self.total - self.rss,
            "swapped": self.swap,
            "live_not_resident": self.live_absent,
        }


def make(pid: int) -> Ledger:
    """Read a process and attribute its pages."""
    hint = ""
    heap: Heap | None = None
    try:
        heap = Heap(pid)
    except NoQuarry as error:
        hint = str(error)
    areas = procfs.areas(pid, sizes=True)
    rollup = procfs.rollup(pid)
    amounts: Counter[str] = Counter()
    explained: Counter[int] = Counter()
    live_absent = 0
    if heap:
        live_absent = _attribute_heap(pid, heap, areas, amounts, explained)
    _attribute_rest(pid, areas, amounts, explained)
    return Ledger(
        pid,
        procfs.command(pid),
        heap.path if heap else "",
        amounts,
        procfs.status(pid).get("VmSize", 0),
        rollup.get("Rss", 0),
        rollup.get("Swap", 0),
        live_absent,
        hint,
    )


def _attribute_heap(
    pid: int, heap: Heap, areas: list[Area], amounts: Counter[str], explained: Counter[int]
) -> int:
    """Adds the heap's pages to amounts, and to explained by mapping; returns live absent bytes."""
    layout = pages.HeapPages(heap)
    blocks = heap.mappings()
    with procfs.Pagemap(pid) as pagemap:
        for start, end, table in layout.spans():
            for area, low, high in _within(areas, start, end):
                for first, last, flags in pagemap.stretches(low, high):
                    explained[area.start] += _add_stretch(
                        table, layout.page_bytes, first, last, bool(flags & procfs.HUGE), amounts
                    )
        spans = [
            (start, end, "live_runs")
            for start, end in _whole_pages([(address, address + size) for address, size in blocks])
        ]
        spans += [(start, end, "metadata") for start, end in _whole_pages(heap.tables())]
        for start, end, key in spans:
            for area, low, high in _within(areas, start, end):
                if not area.path:  # the library's own variables are part of its binary
                    for first, last, _ in pagemap.stretches(low, high):
                        amounts[key] += last - first
                        explained[area.start] += last - first
    live = layout.live_objects + layout.run_bytes + sum(size for _, size in blocks)
    return max(live - amounts["live"] - amounts["live_runs"], 0)


def _add_stretch(
    table: pages.PageTable, page_bytes: int, start: int, end: int, huge: bool, amounts: Counter[str]
) -> int:
    """Adds resident pages [start, end) of a region; returns the bytes that were the heap's."""
    low, high = (start - table.base) // page_bytes, (end - table.base) // page_bytes
    codes = table.codes[low:high]
    count = [codes.count(code) * page_bytes for code in range(pages.CODES)]
    live, cached = sum(table.live[low:high]), sum(table.cached[low:high])
    amounts["live"] += live
    amounts["cached"] += cached + count[pages.CACHED_PAGE]
    amounts["fragments"] += count[pages.SLAB_PAGE] - live - cached
    amounts["live_runs"] += count[pages.RUN_PAGE]
    amounts["holes"] += count[pages.HOLE_PAGE]
    amounts["surplus" if huge else "dirty"] += count[pages.FREE_PAGE]
    amounts["dirty"] += count[pages.HOT_PAGE]
    return sum(count) - count[pages.ABSENT_PAGE]


def _within(areas: list[Area], start: int, end: int) -> list[tuple[Area, int, int]]:
    """The parts of [start, end) that are mapped."""
    return [
        (area, max(area.start, start), min(area.end, end))
        for area in areas
        if area.start < end and start < area.end
    ]


def _whole_pages(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Spans widened to pages and merged, so that no page is counted twice."""
    page = procfs.PAGE
    result: list[tuple[int, int]] = []
    for start, end in sorted(
        (start // page * page, -(-end // page) * page) for start, end in spans
    ):
        if result and start <= result[-1][1]:
            result[-1] = (result[-1][0], max(result[-1][1], end))
        else:
            result.append((start, end))
    return result


def _attribute_rest(
    pid: int, areas: list[Area], amounts: Counter[str], explained: Counter[int]
) -> None:
    """What of each mapping is not explained yet, by its kind."""
    code = {area.path for area in areas if area.path and "x" in area.mode}
    pointers = procfs.stack_pointers(pid)
    before: Area | None = None
    for area in areas:
        rest = area.sizes.get("Rss", 0) - explained[area.start]
        amounts[_kind(area, before, code, pointers)] += max(rest, 0)
        before = area


def _kind(area: Area, before: Area | None, code: set[str], pointers: list[int]) -> str:
    if area.name.startswith(SHARED_PREFIXES):
        return "shmem"
    if area.path:
        return "binaries" if area.path in code else "files"
    if area.name in ("[vdso]", "[vvar]", "[vvar_vclock]", "[vsyscall]"):
        return "binaries"
    if area.name == "[stack]" or any(area.start <= at < area.end for at in pointers):
        return "stacks"
    if area.name == "[heap]":
        return "heap_other"
    if not area.name and before and before.end == area.start and before.path in code:
        return "binaries"  # .bss, behind the data of its file
    return "anonymous"
