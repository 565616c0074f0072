# SPDX-License-Identifier: MIT
"""quarry top: a process's size classes, live, as slabtop shows the kernel's; or who uses Quarry."""
import argparse
import os
import select
import sys
import termios
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from . import pages, procfs, show
from .errors import ToolError, UsageError
from .heap import Heap, Totals

SORTS = {
    "size": "bytes",
    "objs": "objects",
    "active": "active",
    "cached": "cached",
    "holes": "holes",
    "objsize": "object_size",
}


@dataclass
class Row:
    """A size class; all but the counts in bytes."""

    name: str
    objects: int
    active: int
    object_size: int
    slabs: int
    per_slab: int
    bytes: int
    cached: int
    holes: int
    returned: int


def add_parser(verbs: Any) -> None:
    """Declare the verb."""
    parser = verbs.add_parser(
        "top",
        help="a process's size classes, live, as slabtop shows the kernel's",
        description="Shows the size classes of a process, renewed until q or Ctrl-C; once, where the output "
        "is no terminal. OBJS, ACTIVE, USE, OBJ SIZE, SLABS, OBJ/SLAB and SIZE as in slabtop; CACHED: in "
        "threads' caches; HOLES: free pages inside slabs that are resident; RETURNED: those that are "
        "not. Without PID: every process that uses Quarry and may be looked at; one that is static and "
        "stripped cannot be told.",
    )
    parser.add_argument("pid", type=int, nargs="?", metavar="PID")
    parser.add_argument(
        "-d",
        "--delay",
        type=float,
        default=1.0,
        metavar="SECONDS",
        help="between two views (default 1)",
    )
    parser.add_argument("-n", "--count", type=int, metavar="N", help="end after so many views")
    parser.add_argument(
        "-s",
        "--sort",
        choices=sorted(SORTS),
        default="size",
        help="largest first by this column (default size)",
    )
    parser.add_argument("--json", action="store_true", help="one view as JSON")
    parser.set_defaults(run=main)


def main(arguments: argparse.Namespace) -> int:
    """The verb."""
    if arguments.delay <= 0 or (arguments.count or 1) < 1:
        raise UsageError("top: the delay and the number of views have to be above 0")
    heap = Heap(arguments.pid) if arguments.pid else None
    if arguments.json:
        show.print_json(_as_json(heap, arguments.sort))
        return 0
    console = show.console()
    count = arguments.count or (0 if sys.stdout.isatty() else 1)
    lacking: set[Any] = set()

    def view() -> RenderableType:
        if not heap:
            return _all(lacking)
        return _one(
            heap, arguments.sort, console.height if sys.stdout.isatty() else 0, console.width
        )

    if not sys.stdout.isatty():
        for number in range(count):
            time.sleep(arguments.delay if number else 0)
            console.print(view())
        return 0
    shown = 0
    with _keys(), Live(
        view(), console=console, screen=not arguments.count, auto_refresh=False
    ) as live:
        while not count or (shown := shown + 1) < count:
            if _asked_to_end(arguments.delay):
                break
            live.update(view(), refresh=True)
    return 0


def _has_keys() -> bool:
    """Whether there is a terminal to read keys from: this session's, and this group's."""
    try:
        return bool(sys.stdin) and sys.stdin.isatty() and os.tcgetpgrp(0) == os.getpgrp()
    except OSError:
        return False


@contextmanager
def _keys() -> Iterator[None]:
    """While in use, keys arrive as they are pressed and are not shown."""
    if not _has_keys():
        yield
        return
    before = termios.tcgetattr(0)
    changed = termios.tcgetattr(0)
    changed[3] &= ~(termios.ICANON | termios.ECHO)
    termios.tcsetattr(0, termios.TCSADRAIN, changed)
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


def _asked_to_end(seconds: float) -> bool:
    """Waits; whether q was pressed meanwhile."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if not _has_keys():
            time.sleep(left)
        elif select.select([0], [], [], left)[0]:
            keys = os.read(0, 64)
            if not keys or b"q" in keys.lower():
                return True
    return False


def _as_json(heap: Heap | None, sort: str) -> Any:
    if heap:
        return {
            "pid": heap.pid,
            "totals": asdict(heap.totals()),
            "classes": [asdict(row) for row in class_rows(heap, sort)],
        }
    return [
        {"pid": pid, "command": name, "rss": rss, "totals": asdict(totals)}
        for pid, name, rss, totals in users(set())
    ]


def class_rows(heap: Heap, sort: str) -> list[Row]:
    """The classes that have slabs, largest first."""
    shapes, holes, returned = heap.shapes(), Counter[int](), Counter[int]()
    places: dict[int, list[int]] = {}
    for region in heap.regions():
        for slab in region.slabs:
            index = slab.class_index
            if index not in places:
                places[index] = [
                    place.touching for place in pages.page_shapes(shapes[index], heap.page_bytes)
                ]
            returned[index] += slab.clean_pages.bit_count()
            slab_pages = slab.page_count(shapes[index], heap.page_bytes)
            free = slab.free | -1 << slab.objects  # so is what it does not have
            for page, touching in enumerate(places[index][:slab_pages]):
                if free & touching == touching and not slab.clean_pages >> page & 1:
                    holes[index] += 1
    page = heap.page_bytes
    rows = [
        Row(
            f"quarry-{counts.shape.size}",
            counts.objects,
            counts.live,
            counts.shape.size,
            counts.slabs,
            counts.shape.objects,
            counts.pages * page,
            counts.cached * counts.shape.size,
            holes[index] * page,
            returned[index] * page,
        )
        for index, counts in enumerate(heap.classes())
        if index and counts.slabs
    ]
    return sorted(rows, key=lambda row: -getattr(row, SORTS[sort]))


def users(lacking: set[Any]) -> list[tuple[int, str, int, Totals]]:
    """Every process that may be looked at and uses Quarry; lacking: as of elf.find, for the next time."""
    result = []
    for pid in procfs.processes():
        try:
            totals = Heap(pid, lacking).totals()
            rss = procfs.status(pid).get("VmRSS", 0)
            result.append((pid, procfs.command(pid), rss, totals))
        except ToolError:
            continue
    return sorted(result, key=lambda user: -user[2])


def _all(lacking: set[Any]) -> RenderableType:
    rows = [
        [
            str(pid),
            show.size(rss),
            show.size(t.live),
            show.size(t.free_objects),
            show.size(t.cached),
            show.size(t.dirty),
            name,
        ]
        for pid, name, rss, t in users(lacking)
    ]
    if not rows:
        return Text(
            "no process that may be looked at uses Quarry, unless it is static and stripped"
        )
    return show.table(("PID", "RSS", "LIVE", "FREE", "CACHED", "DIRTY", "COMMAND"), rows, (6,))


def _one(heap: Heap, sort: str, height: int, width: int) -> RenderableType:
    totals, rss = heap.totals(), procfs.status(heap.pid).get("VmRSS", 0)
    head = Text(
        f"{procfs.command(heap.pid)} ({heap.pid})  RSS {show.size(rss)}  live "
        f"{show.size(totals.live)}  large {show.size(totals.runs)} in runs, "
        f"{show.size(totals.mappings)} in {totals.mapping_count} mappings\n"
        f"free: in slabs {show.size(totals.free_objects)}, cached {show.size(totals.cached)}, "
        f"dirty {show.size(totals.dirty)}, clean {show.size(totals.clean)}  given back: "
        f"{show.size(totals.purged_ever)} by madvise, {show.size(totals.trimmed_ever)} by brk"
    )
    listed = class_rows(heap, sort)
    if height:
        listed = listed[: max(height - 5, 1)]
    rows = [
        [
            str(r.objects),
            str(r.active),
            f"{100 * r.active // max(r.objects, 1)}%",
            str(r.object_size),
            str(r.slabs),
            str(r.per_slab),
            show.size(r.bytes),
            show.size(r.cached),
            show.size(r.holes),
            show.size(r.returned),
            r.name,
        ]
        for r in listed
    ]
    names, rows = show.fit(
        (
            "OBJS",
            "ACTIVE",
            "USE",
            "OBJ SIZE",
            "SLABS",
            "OBJ/SLAB",
            "SIZE",
            "CACHED",
            "HOLES",
            "RETURNED",
            "NAME",
        ),
        rows,
        width,
        ("OBJ/SLAB", "OBJ SIZE", "SLABS", "USE", "RETURNED", "OBJS", "HOLES", "CACHED"),
    )
    return Group(head, show.table(names, rows, (len(names) - 1,)))
