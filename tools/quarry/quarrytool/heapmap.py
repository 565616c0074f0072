# SPDX-License-Identifier: MIT
"""quarry map: a picture of the heap's pages, a character each, or for each group of pages."""
import argparse
from collections import Counter
from typing import Any

from . import pages, procfs, show
from .arguments import add_pid
from .errors import UsageError
from .heap import Heap

# From the page table and pagemap: what is there, resident or not. A group is drawn as the first of
# these that is in it: what keeps memory before what is free, what is there before what is not.
LEGEND = (
    ("live", "#", "holds live or cached objects, or is part of a live large block"),
    ("live_absent", "o", "the same, never touched or swapped out: no frame"),
    ("dirty", "-", "free and resident: dirty"),
    ("hole", "+", "a hole: free inside a slab in use, resident"),
    ("clean", ".", "free and not resident"),
    ("absent", " ", "not the heap's"),
)
_ORDER = [key for key, _, _ in LEGEND]
_PROPERTIES = ("swapped", "huge", "neighbours", "physical_neighbours")


def add_parser(verbs: Any) -> None:
    """Declare the verb."""
    parser = verbs.add_parser(
        "map",
        help="a picture of the heap's pages",
        description="Draws the heap of a process by address, a character for each page (or, with "
        "--pages, group of pages, by the first of these that is in it): "
        + "; ".join(f"'{character}' {about}" for _, character, about in LEGEND[:-1])
        + ". Counts follow: huge, "
        "swapped, and, for root, how many neighbours in the heap are neighbours in physical memory.",
    )
    add_pid(parser)
    parser.add_argument(
        "-p",
        "--pages",
        type=int,
        metavar="N",
        help="pages for each character (default: as few as fit 40 lines)",
    )
    parser.add_argument("--json", action="store_true", help="the counts, and the picture by region")
    parser.set_defaults(run=main)


def main(arguments: argparse.Namespace) -> int:
    """The verb."""
    if arguments.pages is not None and arguments.pages < 1:
        raise UsageError("map: --pages has to be above 0")
    heap = Heap(arguments.pid)
    counts = Counter(dict.fromkeys((*_ORDER, *_PROPERTIES), 0))
    regions = []
    layout = pages.HeapPages(heap)
    with procfs.Pagemap(heap.pid) as pagemap:
        for table in layout.tables:
            regions.append((table.base, _states(table, pagemap, layout.page_bytes, counts)))
    if arguments.json:
        show.print_json(
            {
                "pid": heap.pid,
                "page_bytes": layout.page_bytes,
                "counts": dict(counts),
                "regions": [{"base": base, "pages": _draw(states, 1)} for base, states in regions],
            }
        )
        return 0
    _print(regions, arguments.pages, layout.page_bytes, counts)
    return 0


def _states(
    table: pages.PageTable, pagemap: procfs.Pagemap, page_bytes: int, counts: Counter[str]
) -> list[str]:
    """What each page of a region is; counts are added to."""
    end = table.base + len(table.codes) * page_bytes
    resident = bytearray(len(table.codes))
    huge = bytearray(len(table.codes))
    for first, last, flags in pagemap.stretches(table.base, end):
        low, high = (first - table.base) // page_bytes, (last - table.base) // page_bytes
        resident[low:high] = b"\1" * (high - low)
        if flags & procfs.HUGE:
            huge[low:high] = b"\1" * (high - low)
    entries = pagemap.entries(table.base, (end - table.base) // procfs.PAGE)
    shared = procfs.PAGE // page_bytes
    states, before = [], 0
    for page, code in enumerate(table.codes):
        states.append(_state(code, resident[page]))
        counts[states[-1]] += 1
        if code == pages.ABSENT_PAGE:
            before = 0
            continue
        entry = entries[page // shared]
        counts["swapped"] += entry >> 62 & 1
        counts["huge"] += huge[page]
        frame = entry & ((1 << 55) - 1) if resident[page] else 0
        if frame and before:
            counts["neighbours"] += 1
            counts["physical_neighbours"] += frame == before + 1
        before = frame
    return states


def _state(code: int, resident: int) -> str:
    if code == pages.ABSENT_PAGE:
        return "absent"
    if code in (pages.RUN_PAGE, pages.SLAB_PAGE, pages.CACHED_PAGE):
        return "live" if resident else "live_absent"
    if not resident:
        return "clean"
    return "hole" if code == pages.HOLE_PAGE else "dirty"


def _draw(states: list[str], group: int) -> str:
    """A character for each group of pages: the first of LEGEND that is in it."""
    ranks = [_ORDER.index(state) for state in states]
    return "".join(
        LEGEND[min(ranks[start : start + group])][1] for start in range(0, len(ranks), group)
    )


def _print(
    regions: list[tuple[int, list[str]]], group: int | None, page_bytes: int, counts: Counter[str]
) -> None:
    console = show.console()
    width = max(console.width - 16, 8)
    width = 1 << (width.bit_length() - 1)  # so that lines begin at round addresses
    used = sum(1 for _, states in regions for state in states if state != "absent")
    if group is None:
        group = 1
        while used > group * width * 40:
            group *= 2
    console.print(f"{show.size(group * page_bytes)} for each character", markup=False)
    for base, states in regions:
        line_bytes = width * group * page_bytes
        picture = _draw(states, group)
        for number in range(0, len(picture), width):
            line = picture[number : number + width].rstrip()
            if line:
                console.print(
                    f"{base + number // width * line_bytes:14x}  {line}",
                    markup=False,
                    soft_wrap=True,
                )
    for key, character, about in LEGEND[:-1]:
        console.print(f"{character}  {counts[key]:8} pages: {about}", markup=False)
    console.print(
        f"   {counts['huge']:8} of them under huge pages, {counts['swapped']} swapped out",
        markup=False,
    )
    if counts["neighbours"]:
        console.print(
            f"   {counts['physical_neighbours']:8} of {counts['neighbours']} pairs of neighbours "
            "are neighbours in physical memory, too",
            markup=False,
        )
    else:
        console.print("   physical frames are shown to root alone", markup=False)
