# SPDX-License-Identifier: MIT
"""quarry kmem: the kernel's own allocators on this machine, and malloc beside them."""
import argparse
import os
import re
from collections import defaultdict
from typing import Any

from . import procfs, show
from .errors import ToolError, UsageError

PROC = "/proc/"  # tests have another

# The same questions for each allocator: Linux, Documentation/core-api/memory-allocation.rst.
COMPARISON = (
    ("alloc_pages", "2^n pages", "yes", "always: the linear map", "buddy lists of a zone"),
    (
        "kmalloc, kmem_cache",
        "objects in slabs",
        "yes",
        "always: the linear map",
        "slabs of 2^n pages",
    ),
    ("vmalloc", "any pages", "no", "when it is called: page tables are written", "single pages"),
    ("ioremap", "a device's range", "yes: the device", "when it is called", "no memory at all"),
    (
        "malloc up to 16 KiB",
        "objects in slabs",
        "by chance",
        "page by page, when touched",
        "slabs of Quarry, runs of the break",
    ),
    ("malloc beyond", "any pages", "by chance", "page by page, when touched", "runs, or mmap"),
)


def add_parser(verbs: Any) -> None:
    """Declare the verb."""
    parser = verbs.add_parser(
        "kmem",
        help="the kernel's own allocators on this machine, and malloc beside them",
        description="Shows the zones and their buddy lists, the largest slab caches, and the vmalloc and "
        "ioremap areas by who made them; then what is contiguous and mapped when, for these and for "
        "malloc. Slab caches and areas are shown to root alone.",
    )
    parser.add_argument(
        "-n",
        "--count",
        type=int,
        default=12,
        metavar="N",
        help="caches and areas to show (default 12)",
    )
    parser.add_argument("--json", action="store_true", help="everything, as JSON")
    parser.set_defaults(run=main)


def _read(name: str) -> list[str] | None:
    """The lines of a file of /proc; None where it may not be read, is not there, or has none."""
    try:
        with open(PROC + name, encoding="utf-8", errors="replace") as file:
            return file.read().splitlines() or None
    except OSError:
        return None


def _why_absent(name: str) -> str:
    """Why there are no lines of a file."""
    try:
        with open(PROC + name, "rb") as file:
            file.read(1)
        return f"/proc/{name} is empty: it is masked, as in containers"
    except PermissionError:
        return f"/proc/{name} " + (
            "may not be read here, not even by root" if os.geteuid() == 0 else "is for root alone"
        )
    except FileNotFoundError:
        return f"/proc/{name} is not there: this kernel has none, or a container hides it"
    except OSError as error:
        return f"/proc/{name}: {error.strerror}"


def zones() -> list[dict[str, Any]]:
    """Zones with their sizes in bytes and free blocks by order."""
    free = {}
    for line in _read("buddyinfo") or []:
        match = re.match(r"Node (\d+), zone +(\S+) +([\d ]+)", line)
        if match:
            free[int(match[1]), match[2]] = [int(count) for count in match[3].split()]
    result: list[dict[str, Any]] = []
    for line in _read("zoneinfo") or []:
        words = line.split()
        match = re.match(r"Node (\d+), zone +(\S+)", line)
        if match:
            key = (int(match[1]), match[2])
            result.append({"node": key[0], "zone": key[1], "blocks": free.get(key, [])})
        elif result and len(words) == 2 and words[0] in ("min", "low", "high", "managed"):
            result[-1].setdefault(words[0], int(words[1]) * procfs.PAGE)
    for zone in result:
        zone["free"] = (
            sum(count << order for order, count in enumerate(zone["blocks"])) * procfs.PAGE
        )
    return [zone for zone in result if zone.get("managed")]


def caches() -> list[dict[str, Any]] | None:
    """Slab caches, largest first; None where they cannot be seen."""
    lines = _read("slabinfo")
    if lines is None:
        return None
    result = []
    for line in lines[2:]:
        words = line.split()
        if len(words) >= 16:
            active, count, size, per_slab, pages = map(int, words[1:6])
            result.append(
                {
                    "name": words[0],
                    "active": active,
                    "objects": count,
                    "object_size": size,
                    "per_slab": per_slab,
                    "pages_per_slab": pages,
                    "bytes": int(words[14]) * pages * procfs.PAGE,
                }
            )
    return sorted(result, key=lambda cache: -cache["bytes"])


def areas() -> list[dict[str, Any]] | None:
    """Areas of /proc/vmallocinfo by kind and caller; None where they cannot be seen."""
    lines = _read("vmallocinfo")
    if lines is None:
        return None
    found: dict[tuple[str, str], dict[str, Any]] = defaultdict(lambda: {"areas": 0, "bytes": 0})
    for line in lines:
        words = line.split()
        kind = next(
            (
                word
                for word in ("ioremap", "vmalloc", "vmap", "user", "unpurged")
                if word in words[2:]
            ),
            "other",
        )
        named = len(words) > 2 and "+0x" in words[2]
        caller = words[2].partition("+")[0] if named else "-"
        area = found[kind, caller]
        area["areas"] += 1
        area["bytes"] += int(words[1])
        physical = next((word[5:] for word in words if word.startswith("phys=")), None)
        if physical:
            area["first_physical"] = min(physical, area.get("first_physical", physical))
    return sorted(
        ({"kind": kind, "caller": caller, **area} for (kind, caller), area in found.items()),
        key=lambda area: -area["bytes"],
    )


def main(arguments: argparse.Namespace) -> int:
    """The verb."""
    if arguments.count < 1:
        raise UsageError("kmem: --count has to be above 0")
    known_zones, known_caches, known_areas = zones(), caches(), areas()
    if not known_zones:
        raise ToolError("kmem: /proc/zoneinfo cannot be read; is /proc mounted?")
    columns = ("allocator", "gives", "physically_contiguous", "mapped", "takes_from")
    if arguments.json:
        show.print_json(
            {
                "zones": known_zones,
                "slab_caches": known_caches,
                "areas": known_areas,
                "comparison": [dict(zip(columns, row)) for row in COMPARISON],
            }
        )
        return 0
    console = show.console()
    console.print(
        show.table(
            (
                "ZONE",
                "MANAGED",
                "FREE",
                "MIN",
                "LOW",
                "HIGH",
                "LARGEST FREE",
                "FREE BLOCKS OF 1, 2, 4 ... PAGES",
            ),
            [
                [
                    f"{z['node']}/{z['zone']}",
                    *(
                        show.size(z.get(key, 0))
                        for key in ("managed", "free", "min", "low", "high")
                    ),
                    _largest(z["blocks"]),
                    " ".join(map(str, z["blocks"])),
                ]
                for z in known_zones
            ],
            (0, 7),
            wrap=(7,),
        )
    )
    _print_caches(console, known_caches, arguments.count)
    _print_areas(console, known_areas, arguments.count)
    console.print()
    console.print(
        show.table(
            ("ALLOCATOR", "GIVES", "CONTIGUOUS", "MAPPED WHEN", "TAKES FROM"),
            COMPARISON,
            (0, 1, 2, 3, 4),
            wrap=(0, 1, 2, 3, 4),
        )
    )
    return 0


def _largest(blocks: list[int]) -> str:
    orders = [order for order, count in enumerate(blocks) if count]
    return show.size(procfs.PAGE << orders[-1]) if orders else "none"


def _print_caches(console: Any, found: list[dict[str, Any]] | None, count: int) -> None:
    console.print()
    if found is None:
        console.print(f"slab caches: {_why_absent('slabinfo')}", markup=False)
        return
    rows = [
        [
            str(c["objects"]),
            str(c["active"]),
            f"{100 * c['active'] // max(c['objects'], 1)}%",
            str(c["object_size"]),
            str(c["pages_per_slab"]),
            show.size(c["bytes"]),
            c["name"],
        ]
        for c in found[:count]
    ]
    console.print(
        show.table(("OBJS", "ACTIVE", "USE", "OBJ SIZE", "PAGES", "SIZE", "SLAB CACHE"), rows, (6,))
    )
    kmalloc = sum(c["bytes"] for c in found if c["name"].startswith("kmalloc"))
    console.print(
        f"{len(found)} caches, {show.size(sum(c['bytes'] for c in found))}; of that "
        f"{show.size(kmalloc)} in kmalloc-N",
        markup=False,
    )


def _print_areas(console: Any, found: list[dict[str, Any]] | None, count: int) -> None:
    console.print()
    if found is None:
        console.print(
            f"vmalloc and ioremap areas: {_why_absent('vmallocinfo')}", markup=False
        )
        return
    rows = [
        [
            area["kind"],
            str(area["areas"]),
            show.size(area["bytes"]),
            area.get("first_physical", "-"),
            area["caller"],
        ]
        for area in found[:count]
    ]
    console.print(show.table(("AREA", "COUNT", "SIZE", "FIRST PHYSICAL", "MADE BY"), rows, (0, 4)))
    console.print(
        "unpurged: freed, and still mapped until enough has gathered to flush at once", markup=False
    )
