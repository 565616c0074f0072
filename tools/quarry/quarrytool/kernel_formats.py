# SPDX-License-Identifier: MIT
"""quarry slabinfo and buddyinfo: a process's heap in the formats of /proc/slabinfo and buddyinfo."""
import argparse
from typing import Any

from . import show
from .arguments import add_pid
from .heap import ClassCounts, Heap, ObjectCache

SLABINFO_HEADER = (
    "slabinfo - version: 2.1\n"
    "# name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab>"
    " : tunables <limit> <batchcount> <sharedfactor>"
    " : slabdata <active_slabs> <num_slabs> <sharedavail>"
)


def add_parser(verbs: Any) -> None:
    """Declare both verbs."""
    slab = verbs.add_parser(
        "slabinfo",
        help="a heap in the format of /proc/slabinfo",
        description="Prints a process's size classes as the kernel prints its slab caches, in the "
        "format of /proc/slabinfo, version 2.1. Active objects are those that the program holds; "
        "limit is the depth that a thread's cache has earned, sharedavail the objects in all caches; "
        "objperslab and pagesperslab are of its full slabs, the first ones of a class are smaller. Object "
        "caches follow by their names, and what heaps hold as heap-SIZE.",
    )
    add_pid(slab)
    slab.add_argument("--all", action="store_true", help="classes without a slab, too")
    slab.add_argument("--json", action="store_true", help="as JSON")
    slab.set_defaults(run=slabinfo)
    buddy = verbs.add_parser(
        "buddyinfo",
        help="a heap's free pages in the format of /proc/buddyinfo",
        description="Prints the free blocks of 2^0, 2^1, ... pages of 4 KiB as the kernel prints its "
        "own, in the format of /proc/buddyinfo. Zone Dirty: used before, resident; zone Clean: costs no "
        "memory. Hot runs, free and kept whole, are in neither.",
    )
    add_pid(buddy)
    buddy.add_argument(
        "--regions",
        action="store_true",
        help="one node for each 32 MiB of address space, not one for all",
    )
    buddy.add_argument("--json", action="store_true", help="as JSON")
    buddy.set_defaults(run=buddyinfo)


def _class_row(counts: ClassCounts) -> dict[str, str | int]:
    return {
        "name": f"quarry-{counts.shape.size}",
        "active_objs": counts.live,
        "num_objs": counts.objects,
        "objsize": counts.shape.size,
        "objperslab": counts.shape.objects,
        "pagesperslab": counts.shape.pages,
        "limit": counts.capacity,
        "batchcount": (counts.capacity + 1) // 2,
        "sharedfactor": 0,
        "active_slabs": counts.slabs,
        "num_slabs": counts.slabs,
        "sharedavail": counts.cached,
    }


def _cache_row(cache: ObjectCache, page_bytes: int) -> dict[str, str | int]:
    """No thread keeps objects of these."""
    return {
        "name": cache.name,
        "active_objs": cache.live,
        "num_objs": cache.slabs * cache.per_slab,
        "objsize": cache.size,
        "objperslab": cache.per_slab,
        "pagesperslab": cache.slab_bytes // page_bytes,
        "limit": 0,
        "batchcount": 0,
        "sharedfactor": 0,
        "active_slabs": cache.slabs,
        "num_slabs": cache.slabs,
        "sharedavail": 0,
    }


def slabinfo(arguments: argparse.Namespace) -> int:
    """The verb slabinfo."""
    heap = Heap(arguments.pid)
    rows = [
        _class_row(counts)
        for counts in heap.classes()[1:]
        if counts.slabs or arguments.all and counts.shape.size
    ]
    rows += [
        _cache_row(cache, heap.page_bytes)
        for cache in heap.object_caches()
        if cache.slabs or arguments.all
    ]
    if arguments.json:
        show.print_json({"pid": arguments.pid, "classes": rows})
        return 0
    print(SLABINFO_HEADER)
    for row in rows:
        print(
            "{name:<17} {active_objs:6} {num_objs:6} {objsize:6} {objperslab:4} {pagesperslab:4}"
            " : tunables {limit:4} {batchcount:4} {sharedfactor:4}"
            " : slabdata {active_slabs:6} {num_slabs:6} {sharedavail:6}".format(**row)
        )
    return 0


def buddyinfo(arguments: argparse.Namespace) -> int:
    """The verb buddyinfo."""
    heap = Heap(arguments.pid)
    nodes: list[tuple[list[int], list[int]]] = []
    for region in heap.regions(with_slabs=False):
        nodes.append((list(region.dirty_blocks), list(region.clean_blocks)))
    if not arguments.regions:
        zeros = [0] * heap.count("orders")
        nodes = [
            (
                [sum(counts) for counts in zip(zeros, *(node[0] for node in nodes))],
                [sum(counts) for counts in zip(zeros, *(node[1] for node in nodes))],
            )
        ]
    if arguments.json:
        show.print_json(
            {
                "pid": arguments.pid,
                "page_bytes": heap.page_bytes,
                "nodes": [{"dirty": dirty, "clean": clean} for dirty, clean in nodes],
            }
        )
        return 0
    for number, node in enumerate(nodes):
        for zone, counts in zip(("Dirty", "Clean"), node):
            print(f"Node {number}, zone {zone:>8} " + "".join(f"{count:6} " for count in counts))
    return 0
