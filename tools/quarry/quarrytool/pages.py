# SPDX-License-Identifier: MIT
"""What each page of the heap holds, region by region, ready to be summed over resident stretches."""
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

from .heap import CONT, FREE, RUN, SLAB, Heap, Region, Shape

# One code per page.
ABSENT_PAGE, FREE_PAGE, HOT_PAGE, RUN_PAGE, SLAB_PAGE, HOLE_PAGE, CACHED_PAGE = range(7)
CODES = CACHED_PAGE + 1


@dataclass
class PageShape:
    """A page of a slab: the objects wholly on it, and what the others have of it."""

    whole: int  # a mask
    edges: list[tuple[int, int]]  # (mask of one object, bytes)
    touching: int  # a mask


def page_shapes(shape: Shape, page_bytes: int) -> list[PageShape]:
    """How objects lie on the pages of a slab."""
    result = []
    for page in range(shape.pages):
        low, high = page * page_bytes, (page + 1) * page_bytes
        whole, edges, touching = 0, [], 0
        for i in range(low // shape.size, min(-(-high // shape.size), shape.objects)):
            start, end = max(i * shape.size, low), min((i + 1) * shape.size, high)
            touching |= 1 << i
            if end - start == shape.size:
                whole |= 1 << i
            else:
                edges.append((1 << i, end - start))
        result.append(PageShape(whole, edges, touching))
    return result


def bytes_on(page: PageShape, bits: int, size: int) -> int:
    """The bytes of a page that the objects of a mask take."""
    total = (bits & page.whole).bit_count() * size
    for mask, count in page.edges:
        if bits & mask:
            total += count
    return total


@dataclass
class PageTable:
    """The pages of one region: a code each, and for slab pages the bytes live and cached."""

    base: int
    codes: bytearray
    live: "array[int]"
    cached: "array[int]"


def _compact(region: Region) -> Region:
    """The region, its words in a tenth of a tuple's memory, which would be 1 % of the heap."""
    region.heads = array("I", region.heads)
    return region


class HeapPages:
    """The page tables of a heap, and sums over the whole of it."""

    def __init__(self, heap: Heap) -> None:
        self.heap = heap
        self.page_bytes = heap.page_bytes
        self.live_objects = 0
        self.run_bytes = 0
        self.shapes = heap.shapes()
        self.page_shapes: dict[int, list[PageShape]] = {}
        self.left, self.next_base = 0, 0  # of a run that goes on in the next region
        regions = sorted(map(_compact, heap.regions()), key=lambda region: region.base)
        self.cached = self._cached_by_slab(regions)
        self.cached_runs = {address for address, _ in heap.cached_runs()}
        self.tables = [self._table(region) for region in regions]

    def _cached_by_slab(self, regions: list[Region]) -> dict[int, int]:
        """By the base of a slab: the mask of its objects that lie in caches."""
        slabs = sorted((slab.base, slab.class_index) for region in regions for slab in region.slabs)
        bases = [base for base, _ in slabs]
        masks: dict[int, int] = {}
        for address in self.heap.cached_objects():
            place = bisect_right(bases, address) - 1
            if place >= 0:
                base, class_index = slabs[place]
                number = (address - base) // self.shapes[class_index].size
                if number < self.shapes[class_index].objects:
                    masks[base] = masks.get(base, 0) | 1 << number
        return masks

    def _table(self, region: Region) -> PageTable:
        pages = len(region.heads)
        table = PageTable(
            region.base,
            bytearray(pages),
            array("H", bytes(2 * pages)),
            array("H", bytes(2 * pages)),
        )
        self._mark_runs(region, table)
        for slab in region.slabs:
            shape = self.shapes[slab.class_index]
            places = self.page_shapes.setdefault(slab.class_index, [])
            if not places:
                places += page_shapes(shape, self.page_bytes)
            cached = self.cached.get(slab.base, 0) & ~slab.free
            live = ((1 << slab.objects) - 1) & ~slab.free & ~cached
            self.live_objects += live.bit_count() * shape.size
            slab_pages = slab.page_count(shape, self.page_bytes)
            first = (slab.base - region.base) // self.page_bytes
            for number, place in enumerate(places[: min(slab_pages, pages - first)]):
                taken = place.touching & (live | cached)
                table.codes[first + number] = SLAB_PAGE if taken else HOLE_PAGE
                if taken:
                    table.live[first + number] = bytes_on(place, live, shape.size)
                    table.cached[first + number] = bytes_on(place, cached, shape.size)
        return table

    def _mark_runs(self, region: Region, table: PageTable) -> None:
        """Codes of all pages that are in no slab."""
        page, pages = 0, len(region.heads)
        goes_on = self.left if region.base == self.next_base else 0
        self.left, self.next_base = 0, region.base + pages * self.page_bytes
        while page < pages:
            kind, argument = self.heap.head(region.heads[page])
            length = 1
            if kind in (RUN, CONT):
                length = max(min(argument, pages - page), 1)
                is_run = kind == RUN or (page == 0 and goes_on > 0)
                cached = region.base + page * self.page_bytes in self.cached_runs
                code = CACHED_PAGE if cached else RUN_PAGE
                table.codes[page : page + length] = bytes([code if is_run else HOT_PAGE]) * length
                if is_run and not cached:
                    self.run_bytes += length * self.page_bytes
                if is_run:
                    self.left = argument - length
            elif kind == FREE:
                table.codes[page] = FREE_PAGE
            elif kind == SLAB:
                table.codes[page] = HOLE_PAGE  # a slab that was just opened or closed
            page += length

    def spans(self) -> Iterator[tuple[int, int, PageTable]]:
        """(start, end, table) of every region."""
        for table in self.tables:
            yield table.base, table.base + len(table.codes) * self.page_bytes, table
