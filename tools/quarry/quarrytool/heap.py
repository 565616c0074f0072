# SPDX-License-Identifier: MIT
"""Reads Quarry's structures in a running process, by what docs/FORMATS.md promises.

The process runs on meanwhile: figures of one structure may be a batch of objects older than those of
another. On a process that stands still they are exact.
"""
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from . import elf, memory, procfs
from .errors import NoQuarry, ToolError

MAGIC = b"QUARRY1\0"
VERSION = 5
ABSENT, FREE, RUN, CONT, SLAB = range(5)
_NAME_BYTES = 32
_MAX_FIELDS = 4096


@dataclass
class Shape:
    """A size class: bytes per object; objects and pages of its slabs, and of its first, small ones."""

    size: int
    objects: int
    pages: int
    small_objects: int
    small_pages: int


@dataclass
class ClassCounts:
    """A size class now: its slabs, their free objects, what caches hold and may hold."""

    shape: Shape
    slabs: int
    objects: int
    free_objects: int
    cached: int
    capacity: int

    @property
    def pages(self) -> int:
        """All pages of the slabs: their number and that of their objects tell how many are small."""
        shape, small = self.shape, 0
        if shape.objects > shape.small_objects:
            missing = self.slabs * shape.objects - self.objects
            small = min(max(missing // (shape.objects - shape.small_objects), 0), self.slabs)
        return (self.slabs - small) * shape.pages + small * shape.small_pages

    @property
    def live(self) -> int:
        """Objects that the program holds."""
        return max(self.objects - self.free_objects - self.cached, 0)


@dataclass
class ObjectCache:
    """One of quarry_cache_create, or what all heaps have of one size; slab_bytes: of a slab."""

    name: str
    size: int
    per_slab: int
    slab_bytes: int
    slabs: int
    live: int


@dataclass
class Slab:
    """A slab: bit i of free says that object i is free and in the slab."""

    base: int
    class_index: int
    objects: int
    free: int
    clean_pages: int

    def page_count(self, shape: Shape, page_bytes: int) -> int:
        """How many pages it has."""
        return -(-self.objects * shape.size // page_bytes)


@dataclass
class Region:
    """32 MiB of address space: one head word per page, the free blocks by order."""

    address: int
    base: int
    heads: Sequence[int]
    dirty_blocks: tuple[int, ...]
    clean_blocks: tuple[int, ...]
    slabs: list[Slab] = field(default_factory=list)


@dataclass
class Totals:
    """The heap in bytes, from counters alone."""

    zones: int = 0
    dirty: int = 0
    clean: int = 0
    runs: int = 0
    slabs: int = 0
    mappings: int = 0
    mapping_count: int = 0
    live: int = 0
    free_objects: int = 0
    cached: int = 0
    purged_ever: int = 0
    trimmed_ever: int = 0


class _Fields(dict[str, int]):
    """What quarry_public describes; one that is missing is the library's fault, not a crash here."""

    def __init__(self, pid: int, path: str, fields: dict[str, int]) -> None:
        super().__init__(fields)
        self.pid, self.path = pid, path

    def __missing__(self, name: str) -> int:
        raise ToolError(
            f"process {self.pid}: the quarry_public of {self.path} lacks {name}; use the tool that "
            "was installed with that library"
        )


class Heap:
    """The allocator in one process."""

    def __init__(self, pid: int, lacking: set[Any] | None = None) -> None:
        """lacking: as of elf.find."""
        self.pid = pid
        found = elf.find(pid, "quarry_public", procfs.areas(pid), lacking)
        if found is None:
            raise NoQuarry(
                f"process {pid} ({procfs.command(pid)}) does not use Quarry, or is static "
                "and stripped; start it by 'quarry run -- COMMAND'"
            )
        self.path = found.path
        magic, version, count, fields = memory.numbers(pid, found.address, "8sIIQ")
        if magic != MAGIC or version != VERSION or count > _MAX_FIELDS:
            raise ToolError(
                f"process {pid}: its Quarry ({found.path}) has quarry_public version "
                f"{version}; this tool knows version {VERSION}: use the tool that was "
                "installed with that library"
            )
        data = memory.read(pid, fields, count * (_NAME_BYTES + 8))
        self.field = _Fields(
            pid,
            found.path,
            {
                name.split(b"\0")[0].decode(errors="replace"): value
                for name, value in struct.iter_unpack(f"<{_NAME_BYTES}sQ", data)
            },
        )
        self.page_bytes = self.count("page_bytes")
        self._shapes: list[Shape] = []
        self._run_sizes: dict[int, int] = {}

    def count(self, name: str) -> int:
        """A constant of the allocator."""
        return self.field["count." + name]

    def offset(self, name: str) -> int:
        """Where a field lies in its structure; name is STRUCTURE.FIELD."""
        return self.field["offset." + name]

    def number(self, address: int, form: str = "Q") -> int:
        """One number of the process."""
        return memory.numbers(self.pid, address, form)[0]

    def page_state(self, name: str) -> int:
        """A word of the page layer's state."""
        return self.number(self.field["address.page_state"] + self.offset("page_state." + name))

    # ---- size classes and caches ----

    def shapes(self) -> list[Shape]:
        """The size classes; all zero before the first allocation."""
        if not self._shapes or not self._shapes[-1].size:
            stride, classes = self.field["stride.size_class"], self.count("classes")
            data = memory.read(self.pid, self.field["address.size_classes"], stride * classes)
            self._shapes = [
                Shape(
                    self._at(data, i * stride, "size_class.size", "I"),
                    self._at(data, i * stride, "size_class.objects", "H"),
                    self._at(data, i * stride, "size_class.pages", "H"),
                    self._at(data, i * stride, "size_class.small_objects", "H"),
                    self._at(data, i * stride, "size_class.small_pages", "H"),
                )
                for i in range(classes)
            ]
        return self._shapes

    def _at(self, data: bytes, start: int, name: str, form: str = "Q") -> int:
        """A field of a structure that begins at an offset of a copy."""
        return struct.unpack_from("<" + form, data, start + self.offset(name))[0]

    def classes(self) -> list[ClassCounts]:
        """The counts of every class, by index; class 0 is none."""
        shapes = self.shapes()
        stride = self.field["stride.slab_class"]
        result = [ClassCounts(shape, 0, 0, 0, 0, 0) for shape in shapes]
        for shard in self._shards():
            data = memory.read(self.pid, shard, stride * len(shapes))
            for i, counts in enumerate(result):
                counts.slabs += self._at(data, i * stride, "slab_class.slabs")
                counts.objects += self._at(data, i * stride, "slab_class.objects")
                counts.free_objects += self._at(data, i * stride, "slab_class.free_objects")
        for cache in self._caches():
            for i in range(1, len(shapes)):
                depth, capacity, _ = self._bin(cache, i)
                result[i].cached += depth
                result[i].capacity = max(result[i].capacity, capacity)
        return result

    def _shards(self) -> tuple[int, ...]:
        """Where each shard's lists of the classes lie; none before the first allocation."""
        count = self.number(self.field["address.slab_shard_count"], "I")
        return memory.numbers(self.pid, self.field["address.slab_shards"], f"{count}Q")

    def _caches(self) -> Iterator[bytes]:
        """Copies of the threads' caches that are in use."""
        address = self.number(self.field["address.caches"])
        for _ in range(1 << 20):
            if not address:
                return
            cache = memory.read(self.pid, address, self.field["stride.cache"])
            if self._at(cache, 0, "cache.in_use", "I"):
                yield cache
            address = self._at(cache, 0, "cache.next")

    def _bin(self, cache: bytes, index: int) -> tuple[int, int, int]:
        """Depth, capacity and top of a cache's stack."""
        top = struct.unpack_from("<Q", cache, self.offset("cache.top") + 8 * index)[0]
        end = struct.unpack_from("<Q", cache, self.offset("cache.end") + 8 * index)[0]
        state = self.offset("cache.state") + index * self.field["stride.bin_state"]
        capacity = self._at(cache, state, "bin_state.capacity", "H")
        most = capacity - self._at(cache, state, "bin_state.drained", "H")
        return min(max(most - (end - top) // 8, 0), most), capacity, top

    def cached_objects(self) -> Iterator[int]:
        """The addresses of what lies in caches."""
        for cache in self._caches():
            for index in range(1, len(self.shapes())):
                depth, _, top = self._bin(cache, index)
                if depth:
                    yield from memory.numbers(self.pid, top - 8 * (depth - 1), f"{depth}Q")

    def run_sizes(self) -> dict[int, int]:
        """Bytes of the runs that threads cache, by the index of their bin; empty before the first."""
        if not self._run_sizes:
            stride, first = self.field["stride.size_class"], self.count("classes")
            count = self.count("bins") - first
            start = self.field["address.size_classes"] + first * stride
            data = memory.read(self.pid, start, stride * count)
            sizes = [self._at(data, i * stride, "size_class.size", "I") for i in range(count)]
            self._run_sizes = {first + i: size for i, size in enumerate(sizes) if size}
        return self._run_sizes

    def cached_runs(self) -> Iterator[tuple[int, int]]:
        """Address and bytes of each run that lies in a cache."""
        for cache in self._caches():
            for index, size in self.run_sizes().items():
                depth, _, top = self._bin(cache, index)
                if depth:
                    slots = memory.numbers(self.pid, top - 8 * (depth - 1), f"{depth}Q")
                    yield from ((address, size) for address in slots)

    # ---- pages ----

    def _region_addresses(self) -> Iterator[int]:
        left, each = self.number(self.field["address.region_count"], "I"), self.count("chunk_regions")
        pointer = self.field["address.region_chunks"]
        while left > 0:
            first = self.number(pointer) + self.offset("region_chunk.region")
            yield from memory.numbers(self.pid, first, f"{min(left, each)}Q")
            left, pointer = left - each, pointer + 8

    def regions(self, with_slabs: bool = True) -> Iterator[Region]:
        """Every region; a slab is in the list if its descriptor and head words name each other."""
        pages = self.count("region_pages")
        for address in self._region_addresses():
            base = self.number(address + self.offset("region.base"))
            heads = memory.numbers(self.pid, address + self.offset("region.head"), f"{pages}I")
            region = Region(
                address,
                base,
                heads,
                self._blocks(address, "region.dirty"),
                self._blocks(address, "region.clean"),
            )
            if with_slabs:
                region.slabs = list(self._slabs(region))
            yield region

    def _blocks(self, region: int, name: str) -> tuple[int, ...]:
        """Free blocks per order of a region's set: aligned groups of pages that are in no larger one."""
        address = region + self.offset(name) + self.offset("buddy.free")
        groups = int.from_bytes(memory.read(self.pid, address, self.count("region_pages") // 8), "little")
        counts = []
        for order in range(self.count("orders")):
            firsts = self._firsts(2 << order) if order + 1 < self.count("orders") else 0
            pairs = groups & groups >> (1 << order) & firsts
            counts.append(groups.bit_count() - 2 * pairs.bit_count())
            groups = pairs
        return tuple(counts)

    def _firsts(self, pages: int) -> int:
        """The bit of the first page of each aligned group of so many pages."""
        return ((1 << self.count("region_pages")) - 1) // ((1 << pages) - 1)

    def _slabs(self, region: Region) -> Iterator[Slab]:
        used = self.number(region.address + self.offset("region.slots_used"), "I")
        stride, words = self.field["stride.slab"], self.count("slab_words")
        data = memory.read(self.pid, region.address + self.offset("region.slab"), stride * used)
        for slot in range(used):
            start = slot * stride
            class_index = self._at(data, start, "slab.class_index", "B")
            base = self._at(data, start, "slab.base")
            page = (base - region.base) // self.page_bytes
            if (
                class_index
                and 0 <= page < len(region.heads)
                and self.head(region.heads[page]) == (SLAB, slot)
            ):
                word = start + self.offset("slab.word")
                yield Slab(
                    base,
                    class_index,
                    self._at(data, start, "slab.objects", "B"),
                    int.from_bytes(data[word : word + 8 * words], "little"),
                    self._at(data, start, "slab.clean_pages", "I"),
                )

    def head(self, word: int) -> tuple[int, int]:
        """Kind and argument of a head word."""
        shift = self.count("head_shift")
        return word >> shift, word & ((1 << shift) - 1)

    # ---- mappings and tables ----

    def mappings(self) -> list[tuple[int, int]]:
        """(address, bytes) of each block that is a mapping of its own."""
        try:
            return self._mappings()
        except memory.Unreadable:  # the table has grown, and lies elsewhere now
            return self._mappings()

    def _mappings(self) -> list[tuple[int, int]]:
        table = self.number(self.field["address.mappings"])
        if not table:
            return []
        slots = self.number(table + self.offset("mapping_table.slots"))
        stride = self.field["stride.mapping_entry"]
        data = memory.read(self.pid, table + self.offset("mapping_table.entry"), slots * stride)
        pairs = [
            (
                self._at(data, i * stride, "mapping_entry.address"),
                self._at(data, i * stride, "mapping_entry.bytes"),
            )
            for i in range(slots)
        ]
        return sorted(pair for pair in pairs if pair[0] > 1)

    def tables(self) -> list[tuple[int, int]]:
        """(start, end) of what is known to be the allocator's own: its map and all tables."""
        window = self.field["address.window"]
        class_map = self.number(window + self.offset("window.class_map"))
        limit = self.number(window + self.offset("window.limit"))
        spans = [(class_map, class_map + limit)] if class_map else []
        stride = self.field["stride.region"]
        spans += [(region, region + stride) for region in self._region_addresses()]
        cache = self.number(self.field["address.caches"])
        while cache:
            spans.append((cache, cache + self.field["stride.cache"]))
            cache = self.number(cache + self.offset("cache.next"))
        chunk = self.number(self.field["address.meta_chunks"])
        while chunk:
            spans.append((chunk, chunk + self.number(chunk + self.offset("meta_chunk.bytes"))))
            chunk = self.number(chunk + self.offset("meta_chunk.next"))
        table = self.number(self.field["address.mappings"])
        if table:
            slots = self.number(table + self.offset("mapping_table.slots"))
            spans.append((table, table + slots * self.field["stride.mapping_entry"]))
        return spans

    def totals(self) -> Totals:
        """The heap by its counters: cheap enough for many times a second."""
        page, totals = self.page_bytes, Totals()
        totals.zones = self.page_state("zone_pages") * page
        totals.dirty = (self.page_state("dirty_pages") + self.page_state("hot_pages")) * page
        totals.clean = self.page_state("clean_pages") * page
        totals.purged_ever = self.page_state("purged_total") * page
        totals.trimmed_ever = self.page_state("trimmed_total") * page
        live = 0
        for counts in self.classes():
            totals.slabs += counts.pages * page
            totals.free_objects += counts.free_objects * counts.shape.size
            totals.cached += counts.cached * counts.shape.size
            live += counts.live * counts.shape.size
        mappings = self.mappings()
        totals.mapping_count = len(mappings)
        totals.mappings = sum(size for _, size in mappings)
        runs = sum(size for _, size in self.cached_runs())
        totals.cached += runs
        totals.runs = max(totals.zones - totals.dirty - totals.clean - totals.slabs - runs, 0)
        totals.live = live + totals.runs + totals.mappings
        return totals

    # ---- object caches and heaps ----

    def object_caches(self) -> list[ObjectCache]:
        """Those with a name, newest first, then those of heaps, by size."""
        of_heaps: dict[int, ObjectCache] = {}
        for heap in self._list("heaps", "quarry_heap"):
            for cache in self._caches_of(heap):
                known = of_heaps.setdefault(cache.size, cache)
                if known is not cache:
                    known.slabs += cache.slabs
                    known.live += cache.live
        named = [self._object_cache(data) for data in self._list("object_caches", "quarry_cache")]
        return named + [of_heaps[size] for size in sorted(of_heaps)]

    def _list(self, name: str, structure: str) -> Iterator[bytes]:
        """Copies of the members of a list."""
        address = self.number(self.field["address." + name])
        for _ in range(1 << 20):
            if not address:
                return
            data = memory.read(self.pid, address, self.field["stride." + structure])
            yield data
            address = self._at(data, 0, structure + ".next")

    def _caches_of(self, heap: bytes) -> Iterator[ObjectCache]:
        first, stride = self.offset("quarry_heap.cache"), self.field["stride.quarry_cache"]
        for start in range(first, first + self.count("heap_caches") * stride, stride):
            cache = self._object_cache(heap[start : start + stride])
            if cache.size:
                cache.name = f"heap-{cache.size}"
                yield cache

    def _object_cache(self, data: bytes) -> ObjectCache:
        start = self.offset("quarry_cache.name")
        return ObjectCache(
            data[start : start + _NAME_BYTES].split(b"\0")[0].decode(errors="replace"),
            *(
                self._at(data, 0, "quarry_cache." + name)
                for name in ("size", "objects", "run_bytes", "slab_count", "live")
            ),
        )
