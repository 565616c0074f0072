# SPDX-License-Identifier: MIT
"""The micro-benchmarks (bench/micro) as cases.

Each repeats for a time, not for a count: so only what its report says can be compared, and its
own time, memory and output are not.
"""
from case import BUILT, Case, Place

# Name, what it times, seconds at scale 1 (about the same under any allocator), threads.
PROGRAMS = (
    ("pairs", "one block at a time, by size or of varied sizes: malloc, calloc, aligned, touched", 9.0, 1),
    (
        "batches",
        "many blocks, freed last first, first first and at random; refill and flush",
        3.0,
        1,
    ),
    (
        "growing",
        "realloc that grows by steps, together with others, by doubling; and shrinks",
        3.0,
        1,
    ),
    ("threads", "threads for themselves, blocks handed over, threads that come and go", 3.0, 8),
    ("pages", "a page's price by policy, heaps dropped and rebuilt, malloc_trim", 3.0, 1),
    ("jemalloc", "jemalloc's own interface: mallocx, sdallocx, mallctl", 1.0, 1),
)


def _case(name: str, summary: str, seconds: float, threads: int) -> Case:
    path = BUILT / "micro" / name

    def command(place: Place) -> list[str]:
        return [str(path), "--scale", f"{place.scale:g}", "--report", str(place.report)]

    return Case(
        name=name,
        group="micro",
        summary=summary,
        seconds=seconds,
        command=command,
        threads=threads,
        checked="none",
        report=True,
        files=(path,),
    )


def cases() -> list[Case]:
    """Return the cases of this group."""
    return [_case(*program) for program in PROGRAMS]
