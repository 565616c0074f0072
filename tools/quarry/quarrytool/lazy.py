# SPDX-License-Identifier: MIT
"""quarry lazy: what Linux does when memory is asked for, shown by measurement on this kernel."""
import argparse
import os
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from . import pagelab, procfs, show
from .errors import ToolError
from .pagelab import PAGE, Seen

MIB = 1 << 20
LARGE, PART, SOME = 100 * MIB, 25 * MIB, 16 * MIB
FORKED_PAGES = 100
_SLACK = 64  # page faults of the interpreter itself, at most


@dataclass
class Step:
    """One experiment: what was done, what came of it, whether that is what the text says."""

    did: str
    seen: Seen
    says: str
    holds: bool
    note: str = ""


def add_parser(verbs: Any) -> None:
    """Declare the verb."""
    parser = verbs.add_parser(
        "lazy",
        help="what Linux does lazily, measured on this kernel",
        description="Maps 100 MB, reads it, writes it, forks, gives it back, and shows after each step "
        "how much is mapped, how much is resident and how many page faults it took. Needs no root; root "
        "also sees physical frames. Exit status 1 where this kernel did something else than the text "
        "says.",
    )
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.set_defaults(run=main)


def main(arguments: argparse.Namespace) -> int:
    """The verb."""
    try:
        with procfs.Pagemap(os.getpid()) as pagemap:
            steps = list(experiments(pagemap))
    except OSError as error:
        raise ToolError(f"lazy: {error}; it needs 150 MB of address space (ulimit -v)") from None
    if arguments.json:
        show.print_json(
            {"kernel": platform.release(), "page": PAGE, "steps": [asdict(step) for step in steps]}
        )
    else:
        _print(steps)
    return 0 if all(step.holds for step in steps) else 1


def _print(steps: list[Step]) -> None:
    console = show.console()
    rows = [
        [
            str(number),
            step.did,
            show.size(step.seen.mapped),
            show.size(step.seen.resident),
            str(step.seen.faults),
            str(step.seen.zeros),
            ("" if step.holds else "NOT SO HERE: ")
            + step.says
            + (f" [{step.note}]" if step.note else ""),
        ]
        for number, step in enumerate(steps, 1)
    ]
    console.print(
        f"Linux {platform.release()}, pages of {show.size(PAGE)}; sizes are of the memory that "
        "the step is about.",
        markup=False,
    )
    console.print(
        show.table(
            ("", "what is done", "mapped", "resident", "faults", "zero pages", "what it shows"),
            rows,
            (0, 1, 6),
            wrap=(1, 6),
        )
    )
    console.print(
        "Widespread teaching has it that malloc maps all pages to one page of zeros, read-only, "
        "at once. Step 1 shows: nothing is mapped to anything. The page of zeros appears page by "
        "page, and only where memory is read before it is written (step 2).",
        markup=False,
    )


def _near(count: int, wanted: int) -> bool:
    return wanted <= count <= wanted + _SLACK


def experiments(pagemap: procfs.Pagemap) -> Iterator[Step]:
    """Every step, done as it is asked for."""
    address = pagelab.map_memory(LARGE)
    yield from _touching(pagemap, address)
    yield _forking(pagemap, address)
    yield from _returning(pagemap, address)
    pagelab.libc.munmap(address, LARGE)
    yield from _break(pagemap)
    yield _twice(pagemap)
    yield _huge(pagemap)


def _touching(pagemap: procfs.Pagemap, address: int) -> Iterator[Step]:
    seen = pagelab.observe(pagemap, address, LARGE, lambda: None)
    yield Step(
        "ask for 100 MB",
        seen,
        "a promise: no page, no frame; VSS grows, RSS stands still",
        seen.resident == 0 and not seen.zeros,
    )
    seen = pagelab.observe(pagemap, address, LARGE, lambda: pagelab.read_all(address, LARGE))
    shared = len(set(seen.frames)) == 1
    yield Step(
        "read all of it",
        seen,
        "each page faults once, and shows the kernel's one page of zeros; " "RSS stands still",
        _near(seen.faults, LARGE // PAGE)
        and seen.resident == 0
        and seen.zeros == LARGE // PAGE,
        f"the first pages have one frame: {seen.frames[0]:#x}" if shared else "",
    )
    seen = pagelab.observe(pagemap, address, LARGE, lambda: pagelab.write_pages(address, PART))
    yield Step(
        "write a byte to each page of 25 MB",
        seen,
        "each page faults again and gets a frame of its " "own; RSS grows by 25 MB",
        _near(seen.faults, PART // PAGE) and seen.resident == PART,
        "frames now: " + ", ".join(f"{frame:#x}" for frame in seen.frames) if seen.frames else "",
    )


def _forking(pagemap: procfs.Pagemap, address: int) -> Step:
    """A fork child shares frames until it writes."""
    size = FORKED_PAGES * PAGE
    before = pagelab.frames(pagemap, address, 1)

    def write(of_child: procfs.Pagemap) -> list[int]:
        shared = pagelab.frames(of_child, address, 1)
        seen = pagelab.observe(of_child, address, size, lambda: pagelab.write_pages(address, size))
        return [seen.faults, seen.resident, seen.zeros, *shared, *seen.frames[:1]]

    faults, resident, zeros, *frames = pagelab.in_child(write)
    seen = Seen(faults, size, resident, zeros)
    holds, note = _near(faults, FORKED_PAGES), ""
    if before and len(frames) == 2:
        holds = holds and frames[0] == before[0] != frames[1]
        note = (
            f"frame in the parent {before[0]:#x}, in the child {frames[0]:#x}, then {frames[1]:#x}"
        )
    return Step(
        f"fork; the child writes {FORKED_PAGES} pages",
        seen,
        "both share the frames until one " "writes: then that page alone is copied",
        holds,
        note,
    )


def _returning(pagemap: procfs.Pagemap, address: int) -> Iterator[Step]:
    """What madvise can do."""
    seen = pagelab.observe(
        pagemap, address, PART, lambda: pagelab.advise(address, PART, pagelab.DONTNEED)
    )
    yield Step(
        "MADV_DONTNEED on those 25 MB",
        seen,
        "the frames are gone at once, the addresses stay; the " "next read gives zeros",
        seen.resident == 0,
    )
    pagelab.write_pages(address, SOME)
    seen = pagelab.observe(
        pagemap, address, SOME, lambda: pagelab.advise(address, SOME, pagelab.FREE)
    )
    lazy = sum(
        area.sizes.get("LazyFree", 0)
        for area in procfs.areas(os.getpid(), sizes=True)
        if area.start <= address < area.end
    )
    yield Step(
        "write 16 MB, then MADV_FREE",
        seen,
        "the frames stay until the kernel needs them: RSS does " "not fall",
        seen.resident == SOME and lazy > 0,
        f"LazyFree in smaps: {show.size(lazy)}",
    )
    pagelab.advise(address, SOME, pagelab.DONTNEED)
    done = []
    seen = pagelab.observe(
        pagemap,
        address,
        SOME,
        lambda: done.append(pagelab.advise(address, SOME, pagelab.POPULATE_WRITE)),
    )
    if done[0]:
        yield Step(
            "MADV_POPULATE_WRITE on 16 MB",
            seen,
            "one system call, all frames: a fault each is counted, "
            "but the kernel is entered once",
            seen.resident == SOME,
        )
    before = seen
    seen = pagelab.observe(pagemap, address, SOME, lambda: pagelab.write_pages(address, SOME))
    if before.resident == SOME:
        yield Step(
            "write those 16 MB",
            seen,
            "no page faults any more: what real-time programs do " "beforehand",
            seen.faults <= _SLACK,
        )


def _break(pagemap: procfs.Pagemap) -> Iterator[Step]:
    """The heap of 8 KiB, and of 16."""
    start = pagelab.libc.sbrk(0)
    first = -(-start // PAGE) * PAGE
    for number, more in ((1, 2 * PAGE + first - start), (2, 2 * PAGE)):
        if pagelab.libc.sbrk(more) == -1 & ((1 << 64) - 1):
            raise OSError(12, "sbrk: cannot allocate memory")
        size = 2 * PAGE * number
        newest = first + size - 2 * PAGE
        seen = pagelab.observe(
            pagemap, first, size, lambda at=newest: pagelab.write_pages(at, PAGE)
        )
        yield Step(
            f"raise the break to {size // 1024} KiB; write its {'third' if number == 2 else 'first'}"
            " page",
            seen,
            "the break is a line that is moved; pages above the old one come when "
            "they are written",
            seen.resident == number * PAGE,
        )


def _twice(pagemap: procfs.Pagemap) -> Step:
    """One frame at two addresses."""
    file = os.memfd_create("quarry")
    os.ftruncate(file, PAGE)
    one = pagelab.map_memory(PAGE, pagelab.SHARED, file)
    two = pagelab.map_memory(PAGE, pagelab.SHARED, file)

    def write_and_read() -> None:
        pagelab.write_pages(one, PAGE)
        pagelab.libc.memchr(two, 1, 1)

    seen = pagelab.observe(pagemap, two, PAGE, write_and_read)
    holds = pagelab.libc.memchr(two, 1, 1) == two
    frames = pagelab.frames(pagemap, one, 1) + pagelab.frames(pagemap, two, 1)
    note = ""
    if len(frames) == 2:
        holds = holds and frames[0] == frames[1]
        note = f"{one:#x} and {two:#x} are frame {frames[0]:#x}"
    os.close(file)
    pagelab.libc.munmap(one, PAGE)
    pagelab.libc.munmap(two, PAGE)
    return Step(
        "map a page of a memory file twice; write at one address",
        seen,
        "the byte is there at the " "other address: one frame, counted twice in RSS",
        holds,
        note,
    )


def _huge(pagemap: procfs.Pagemap) -> Step:
    """One byte, two megabytes."""
    huge = 2 * MIB
    area = pagelab.map_memory(2 * huge)
    start = -(-area // huge) * huge
    pagelab.advise(start, huge, pagelab.HUGEPAGE)
    seen = pagelab.observe(pagemap, start, huge, lambda: pagelab.write_pages(start, PAGE))
    pagelab.libc.munmap(area, 2 * huge)
    came = seen.resident == huge
    says = (
        "one fault brings 2 MiB: fast, and 511 pages that nobody asked for"
        if came
        else "huge pages are off here, or none was free: one page came"
    )
    return Step("MADV_HUGEPAGE on 2 MiB; write one byte", seen, says, came or seen.resident == PAGE)
