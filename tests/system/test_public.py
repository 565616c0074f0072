#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What quarry_public shows of a running process agrees with what the process has done.

The process is read from outside, through /proc/PID/mem, and never stopped (outside.py).  It says
what it allocated (public_linked.c); found must be: those blocks taken and the freed ones free or
cached, its mappings with their sizes, its runs with theirs, and page counts that add up.
"""
import os
import re
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.dirname(HERE), HERE]
import outside
import tap

PROGRAM = os.path.join(tap.BUILD, "system", "public_linked")
FORMS = {
    "preloaded": ("", tap.LIBRARY),
    "preloaded, with assertions": ("", os.path.join(tap.BUILD, "debug", "libquarry.so")),
    "shared": (".shared", None),
    "static": (".static", None),
    "static-pie": (".static-pie", None),
}
BLOCK_BYTES, BLOCKS, FREED = 200, 10000, 3000
THREADS, HELD, CAPACITY = 4, 1000, 128
LOOKS = 40


class Target:
    """The program; step() lets it go on and returns what it says up to its next announcement."""
    def __init__(self, form, how):
        suffix, library = FORMS[form]
        environment = dict(os.environ, **({"LD_PRELOAD": library} if library else {}))
        self.process = subprocess.Popen([PROGRAM + suffix, how], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True, env=environment)
        if library or suffix == ".shared":
            self.path = os.path.realpath(library or tap.LIBRARY)
        else:
            self.path = PROGRAM + suffix

    def wait_for(self, announcement):
        lines = []
        for line in self.process.stdout:
            if line == announcement + "\n":
                return lines
            lines.append(line.split())
        raise EOFError(f"the program ended before '{announcement}': {lines[-3:]}")

    def step(self, announcement):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.wait_for(announcement)

    def end(self):
        self.process.stdin.write("\n")
        self.process.stdin.close()
        self.process.stdout.read()
        return self.process.wait(60)


def class_of(heap, size):
    return min(i for i, shape in enumerate(heap.classes()) if shape.size >= size)


def page_sums(heap):
    """The differences between counters of the page layer and what its structures hold; all 0."""
    free, dirty, clean, kinds, blocks = 0, 0, 0, {}, []
    for region in heap.regions():
        for kind, pages in heap.pages_by_kind(region).items():
            kinds[kind] = kinds.get(kind, 0) + pages
        for name in ("dirty", "clean"):
            pages, bits = heap.buddy(region, name)
            blocks.append(pages - bits.bit_count())
            dirty, clean = dirty + pages * (name == "dirty"), clean + pages * (name == "clean")
    free = kinds.get(outside.FREE, 0)
    ours = sum(pages for kind, pages in kinds.items() if kind != outside.ABSENT)
    slab_pages = sum(-(-slab.objects * heap.classes()[slab.class_index].size //
                       heap.count("page_bytes")) for slab in heap.slabs())

    def counter(name):
        return heap.variable("page_state", name)

    return {"dirty": dirty - counter("dirty_pages"), "clean": clean - counter("clean_pages"),
            "free heads": free - dirty - clean, "all": ours - counter("zone_pages"),
            "hot": kinds.get(outside.CONT, 0) - counter("hot_pages"),
            "slabs": kinds.get(outside.SLAB, 0) - slab_pages, "blocks": sum(map(abs, blocks))}


def slab_faults(heap):
    """What is wrong with slabs and class counters."""
    shapes, faults, slabs, objects, free = heap.classes(), [], {}, {}, {}
    for slab in heap.slabs():
        shape, index = shapes[slab.class_index], slab.class_index
        bits = sum(word << (64 * i) for i, word in enumerate(slab.words))
        if (bits >> slab.objects or slab.objects > shape.objects or
                bin(bits).count("1") != slab.free_count):
            faults.append(f"words of {slab}")
        slabs[index] = slabs.get(index, 0) + 1
        objects[index] = objects.get(index, 0) + slab.objects
        free[index] = free.get(index, 0) + slab.free_count
    for index in range(1, len(shapes)):
        if heap.class_counts(index) != (slabs.get(index, 0), objects.get(index, 0),
                                        free.get(index, 0)):
            faults.append(f"class {index}: {heap.class_counts(index)} but {slabs.get(index)} slabs "
                          f"with {free.get(index)} free objects")
    return faults


def free_in_slabs(heap, index):
    """The addresses of the free objects of a class, and those of all its objects."""
    shape, free, every = heap.classes()[index], set(), set()
    for slab in heap.slabs():
        if slab.class_index == index:
            for number in range(slab.objects):
                address = slab.base + number * shape.size
                every.add(address)
                if slab.words[number // 64] >> (number % 64) & 1:
                    free.add(address)
    return free, every


def check_blocks(form, heap, said):
    index = class_of(heap, BLOCK_BYTES)
    free, every = free_in_slabs(heap, index)
    cached = set(heap.cached_objects(index))
    blocks = {int(words[1], 16) for words in said if words[0] == "block"}
    freed = {int(words[1], 16) for words in said if words[0] == "freed"}
    tap.check(f"its blocks are objects, taken and not cached ({form})",
              len(blocks) == BLOCKS - FREED and blocks <= every and not blocks & (free | cached),
              f"{len(blocks)} blocks, {len(blocks - every)} no objects, {len(blocks & free)} free, "
              f"{len(blocks & cached)} cached")
    tap.check(f"what it freed is free, or cached ({form})",
              len(freed) == FREED and not (freed & every) - free - cached,
              f"{len(freed)} freed, {len((freed & every) - free - cached)} are neither")
    tap.check(f"two threads hold cached objects, no more than caches may ({form})",
              20 <= len(cached) <= 2 * CAPACITY and len(cached) == heap.cached(index),
              f"{len(cached)} by address, {heap.cached(index)} by depth")
    tap.check(f"no cached object is free as well ({form})", not cached & free)


def check_large(form, heap, said):
    mappings = {entry.address: entry.bytes for entry in heap.mappings()}
    told = {int(words[1], 16): int(words[2]) for words in said if words[0] == "mapping"}
    page = os.sysconf("SC_PAGE_SIZE")
    tap.check(f"its large blocks are mappings of their exact sizes ({form})",
              len(told) == 5 and all(mappings.get(address) == -(-size // page) * page
                                     for address, size in told.items()),
              f"told: {told}\nfound: {mappings}")
    runs, page_bytes = {}, heap.count("page_bytes")
    for region in heap.regions():
        for number, word in enumerate(region.heads):
            kind, pages = heap.head(word)
            if kind == outside.RUN:
                runs[region.base + number * page_bytes] = pages
    told = {int(words[1], 16): int(words[2]) for words in said if words[0] == "run"}
    lengths = sorted(heap.run_lengths().values())

    def pages(size):
        return -(-next((length for length in lengths if length >= size), size) // page_bytes)

    tap.check(f"its blocks in between are runs of the lengths that have a class, or exact ({form})",
              len(told) == 4 and len(lengths) == 16 and
              all(runs.get(address) == pages(size) for address, size in told.items()),
              f"told: {told}\nfound: {runs}")


def unlisted(names, text):
    """Names of quarry_public that its section of docs/FORMATS.md lacks: a constant in the table of them, a
    variable or a structure in the first cell of a row, a field in that of its structure."""
    section = text.partition("## `quarry_public`\n")[2].partition("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]

    def words(cells):
        return {word for cell in cells for code in re.findall("`([^`]+)`", cell)
                for word in re.findall(r"[\w.]+", code)}

    def listed(name):
        prefix, _, rest = name.partition(".")
        if prefix == "count":
            return any(name in words(cells[:1]) for cells in rows)
        structure, _, field = rest.partition(".")
        about = [cells for cells in rows if structure in words(cells[:1])]
        return bool(about) and (not field or any(field in words(cells[1:]) for cells in about))

    return [name for name in names if not listed(name)]


def check_documentation():
    target = Target("preloaded", "quiet")
    target.wait_for("started")
    heap = outside.Heap(target.process.pid, target.path)
    heap.close()
    target.process.kill()
    target.process.wait()
    with open(os.path.join(tap.ROOT, "docs", "FORMATS.md"), encoding="utf-8") as file:
        text = file.read()
    names = sorted(heap.field)
    tap.equal("docs/FORMATS.md lists every name", unlisted(names, text), [])
    lacking = [name for name in names if name.partition(".")[0] in ("address", "offset", "count") and name in
               unlisted(names, re.sub(rf"\b{name.split('.')[-1]}\b", "another", text))]
    tap.check("and a check notices each that is gone", names and set(lacking) == {
        name for name in names if not name.startswith("stride.")}, set(names) - set(lacking))


def check_quiet(form):
    target = Target(form, "quiet")
    target.wait_for("started")
    heap = outside.Heap(target.process.pid, target.path)
    index = class_of(heap, BLOCK_BYTES)
    before = heap.live(index)
    target.step("allocated")
    tap.equal(f"the live objects of a class are exact ({form})", heap.live(index) - before, BLOCKS)
    said = target.step("freed")
    tap.equal(f"and after frees, with caches filled ({form})", heap.live(index) - before,
              BLOCKS - FREED)
    check_blocks(form, heap, said)
    check_large(form, heap, said)
    tap.equal(f"slabs and class counters agree ({form})", slab_faults(heap), [])
    tap.equal(f"the page counters add up ({form})", set(page_sums(heap).values()), {0})
    target.step("trimmed")
    tap.equal(f"so they do after a trim ({form})", set(page_sums(heap).values()), {0})
    tap.equal(f"and no object of the class lives any more ({form})", heap.live(index) - before, 0)
    start, top = (heap.variable("page_state", name) for name in ("break_start", "break_top"))
    with open(f"/proc/{target.process.pid}/maps", encoding="utf-8") as maps:
        ends = [int(line.split()[0].split("-")[1], 16) for line in maps if "[heap]" in line]
    tap.check(f"the break's part of the heap ends where the kernel says ({form})",
              start < top and ends and ends[-1] == top, f"{start:#x} {top:#x} {ends}")
    heap.close()
    tap.equal(f"the process was not disturbed ({form})", target.end(), 0)


def check_busy(form):
    """While threads work, each look finds a sensible heap, and about the right number of blocks."""
    target = Target(form, "busy")
    target.wait_for("busy")
    heap = outside.Heap(target.process.pid, target.path)
    index, shapes = class_of(heap, BLOCK_BYTES), heap.classes()
    seen, nonsense = [], []
    for _ in range(LOOKS):
        seen.append(heap.live(index) - THREADS * HELD)
        for slab in list(heap.slabs()) + list(heap.mappings()):
            if isinstance(slab, outside.Mapping):
                if slab.address % 4096 or not 0 < slab.bytes < 1 << 30:
                    nonsense.append(slab)
            elif slab.class_index >= len(shapes) or slab.base % 4096:
                nonsense.append(slab)
    heap.close()
    # Per thread: from -200, freed and soon taken again, to what was cached since slabs were read.
    print(f"# live blocks seen, less those meant ({form}): {min(seen)} to {max(seen)}")
    tap.check(f"live blocks are seen while threads work, within a batch a thread ({form})",
              -THREADS * (200 + CAPACITY) <= min(seen) and max(seen) <= THREADS * CAPACITY, seen)
    tap.equal(f"nothing impossible is seen while threads work ({form})", nonsense, [])
    tap.equal(f"the busy process was not disturbed ({form})", target.end(), 0)


check_documentation()
for each in FORMS:
    check_quiet(each)
for each in ("preloaded", "static"):
    check_busy(each)
tap.done()
