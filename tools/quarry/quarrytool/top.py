# SPDX-License-Identifier: MIT
"""quarry top: a process's size classes, live, as slabtop shows the kernel's; or who uses Quarry."""
import argparse
import os
import select
import signal
import sys
import termios
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from . import memory, pages, procfs, quantity, show, signals
from .errors import ToolError, UsageError
from .heap import Heap, ObjectCache, Totals

SORTS = {
    "size": "bytes",
    "objs": "objects",
    "active": "active",
    "cached": "cached",
    "holes": "holes",
    "objsize": "object_size",
}
_ENDING = (signal.SIGTERM, signal.SIGHUP)
_QUIT = -1  # beside the numbers of signals


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
        usage="quarry top [OPTION ...] [PID]",
        description="Shows the size classes of a process, renewed until q or Ctrl-C: one view below the "
        "other where TERM is dumb, and one alone where the output is no terminal. OBJS, ACTIVE, USE, OBJ "
        "SIZE, SLABS, OBJ/SLAB and SIZE as in slabtop; CACHED: in threads' caches; HOLES: free pages inside "
        "slabs that are resident; RETURNED: those that are not. Without PID: every process that uses Quarry "
        "and may be looked at; one that is static and stripped cannot be told.",
    )
    parser.add_argument("pid", type=int, nargs="*", metavar="PID", help="one process")
    parser.add_argument(
        "-d",
        "--delay",
        type=quantity.seconds,
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
    """The verb; does not return where a signal asked it to end."""
    if arguments.count is not None and arguments.count < 1:
        raise UsageError("top: the number of views has to be above 0")
    if len(arguments.pid) > 1:
        raise UsageError(f"top: one process at a time: {' '.join(map(str, arguments.pid))}")
    heap = Heap(arguments.pid[0]) if arguments.pid else None
    if arguments.json:
        show.print_json(_as_json(heap, arguments.sort))
        return 0
    console = show.console()
    lacking: set[Any] = set()

    def view() -> RenderableType:
        nonlocal heap
        if not heap:
            return _all(lacking)
        height = console.height if sys.stdout.isatty() else 0
        try:
            return _one(heap, arguments.sort, height, console.width)
        except memory.Unreadable:  # it runs another program now
            heap = Heap(heap.pid)
            return _one(heap, arguments.sort, height, console.width)

    if sys.stdout.isatty():
        _on_terminal(view, console, arguments)
        return 0
    for number in range(arguments.count or 1):
        time.sleep(arguments.delay if number else 0)
        console.print(view())
    return 0


def _on_terminal(
    view: Callable[[], RenderableType], console: Console, arguments: argparse.Namespace
) -> None:
    """Renews the view until there is a reason to end; the terminal is left as it was."""
    with signals.Inbox(*_ENDING, signal.SIGTSTP) as inbox:
        left = arguments.count
        while True:
            with _keys(), _drawn(view, console, not arguments.count) as renew:
                reason, left = _renewed(renew, inbox, arguments.delay, left)
            if reason != signal.SIGTSTP:
                break
            _stop(inbox)
    if reason in _ENDING:
        os.kill(os.getpid(), reason)


@contextmanager
def _drawn(
    view: Callable[[], RenderableType], console: Console, whole_screen: bool
) -> Iterator[Callable[[], None]]:
    """Draws a view; what it gives draws the next in its place, on a dumb terminal below it."""
    if console.is_dumb_terminal:
        console.print(view())
        yield lambda: console.print(view())
        return
    with Live(view(), console=console, screen=whole_screen, auto_refresh=False) as live:
        yield lambda: live.update(view(), refresh=True)


def _renewed(
    renew: Callable[[], None], inbox: signals.Inbox, delay: float, left: int | None
) -> tuple[int, int | None]:
    """Renews a view; why that ended, and how many views are left of a number that was given."""
    while True:
        if left is not None:
            left -= 1
            if left == 0:
                return 0, 0
        reason = _wait(delay, inbox)
        if reason:
            return reason, left
        renew()


def _stop(inbox: signals.Inbox) -> None:
    """Stops, until the shell has this in the foreground again."""
    inbox.stop()
    with suppress(OSError, termios.error):  # continued in the background, it stops once more here
        if _is_terminal():
            termios.tcsetattr(0, termios.TCSADRAIN, termios.tcgetattr(0))


def _is_terminal() -> bool:
    return bool(sys.stdin) and sys.stdin.isatty()


def _has_keys() -> bool:
    """Whether there is a terminal to read keys from: this session's, and this group's."""
    try:
        return _is_terminal() and os.tcgetpgrp(0) == os.getpgrp()
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
        with suppress(termios.error):  # it was closed
            termios.tcsetattr(0, termios.TCSADRAIN, before)


def _wait(seconds: float, inbox: signals.Inbox) -> int:
    """Waits; the signal that came meanwhile, _QUIT where q was pressed, or 0."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        keys = [0] if _has_keys() else []
        came = inbox.wait(left, keys)
        if came:
            return came
        if keys and select.select(keys, [], [], 0)[0]:
            typed = os.read(0, 64)
            if not typed or b"q" in typed.lower():
                return _QUIT
    return 0


def _as_json(heap: Heap | None, sort: str) -> Any:
    if heap:
        return {
            "pid": heap.pid,
            "command": procfs.command(heap.pid),
            "rss": procfs.status(heap.pid).get("VmRSS", 0),
            "totals": asdict(heap.totals()),
            "classes": [asdict(row) for row in class_rows(heap, sort)],
        }
    return [
        {"pid": pid, "command": name, "rss": rss, "totals": asdict(totals)}
        for pid, name, rss, totals in users(set())
    ]


def class_rows(heap: Heap, sort: str) -> list[Row]:
    """The classes and object caches that have slabs, largest first."""
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
    rows += [_cache_row(cache) for cache in heap.object_caches() if cache.slabs]
    return sorted(rows, key=lambda row: -getattr(row, SORTS[sort]))


def _cache_row(cache: ObjectCache) -> Row:
    """Free objects of these stay constructed: no page of them is a hole."""
    return Row(
        cache.name,
        cache.slabs * cache.per_slab,
        cache.live,
        cache.size,
        cache.slabs,
        cache.per_slab,
        cache.slabs * cache.slab_bytes,
        cached=0,
        holes=0,
        returned=0,
    )


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
