# SPDX-License-Identifier: MIT
"""Reads Quarry's structures in a running process, by nothing but what docs/FORMATS.md promises.

    heap = outside.Heap(pid, path)      path: of the object in the process that contains Quarry
    for slab in heap.slabs(): ...
"""
import collections
import os
import re
import struct
import subprocess

MAGIC = b"QUARRY1\0"
VERSION = 5
NAME_BYTES = 32
ABSENT, FREE, RUN, CONT, SLAB = range(5)

Region = collections.namedtuple("Region", "address base heads")
Slab = collections.namedtuple("Slab", "region slot base class_index objects words free_count clean_pages")
Class = collections.namedtuple("Class", "size objects pages")
Mapping = collections.namedtuple("Mapping", "address bytes")


def symbol_address(pid, path):
    """Where quarry_public lies, as a debugger finds it: symbol tables and the load address."""
    table = ""
    for option in ("-D", "-a"):
        table += subprocess.run(["nm", option, path], capture_output=True, text=True,
                                check=False).stdout
    value = int(re.search(r"^([0-9a-f]+) [A-Za-z] quarry_public$", table, re.MULTILINE)[1], 16)
    header = subprocess.run(["readelf", "-hW", path], capture_output=True, text=True, check=True)
    if "EXEC (" in header.stdout:
        return value
    with open(f"/proc/{pid}/maps", encoding="utf-8") as maps:
        for line in maps:
            words = line.split()
            if len(words) > 5 and words[5] == os.path.realpath(path):
                return int(words[0].split("-")[0], 16) + value
    raise LookupError(f"{path} is not in process {pid}")


class Heap:
    def __init__(self, pid, path):
        self.memory = open(f"/proc/{pid}/mem", "rb", buffering=0)
        address = symbol_address(pid, path)
        magic, self.version, count, fields = struct.unpack("<8sIIQ", self.read(address, 24))
        if magic != MAGIC or self.version != VERSION:
            raise ValueError(f"unknown format: {magic} {self.version}")
        self.field = {}
        for name, value in struct.iter_unpack(f"<{NAME_BYTES}sQ",
                                              self.read(fields, count * (NAME_BYTES + 8))):
            self.field[name.split(b"\0")[0].decode()] = value
        self.field_count = count

    def close(self):
        self.memory.close()

    def read(self, address, count):
        self.memory.seek(address)
        data = self.memory.read(count)
        if len(data) != count:
            raise EOFError(f"{count} bytes at {address:#x} cannot be read")
        return data

    def number(self, address, form="Q"):
        return struct.unpack("<" + form, self.read(address, struct.calcsize(form)))[0]

    def member(self, address, name, form="Q"):
        """A field of the structure at an address; name is STRUCTURE.FIELD."""
        return self.number(address + self.field["offset." + name], form)

    def variable(self, name, member, form="Q"):
        """A field of a variable that is a structure."""
        return self.member(self.field["address." + name], f"{name}.{member}", form)

    def count(self, name):
        return self.field["count." + name]

    # ---- what there is ----

    def regions(self):
        chunks, each = self.field["address.region_chunks"], self.count("chunk_regions")
        for rank in range(self.number(self.field["address.region_count"], "I")):
            chunk = self.number(chunks + 8 * (rank // each))
            address = self.number(chunk + self.field["offset.region_chunk.region"] + 8 * (rank % each))
            pages = self.count("region_pages")
            heads = struct.unpack(f"<{pages}I", self.read(
                address + self.field["offset.region.head"], 4 * pages))
            yield Region(address, self.member(address, "region.base"), heads)

    def head(self, word):
        """Kind and argument of a head word."""
        shift = self.count("head_shift")
        return word >> shift, word & ((1 << shift) - 1)

    def pages_by_kind(self, region):
        """How many pages are FREE, in a RUN or its CONT, or in a SLAB: as one walks a region."""
        pages, page = collections.Counter(), 0
        while page < len(region.heads):
            kind, argument = self.head(region.heads[page])
            length = min(argument, len(region.heads) - page) if kind in (RUN, CONT) else 1
            pages[kind] += length
            page += max(length, 1)
        return pages

    def buddy(self, region, name):
        """The number of pages in a region's set of free ones, and which ones these are: a bit for each."""
        address = region.address + self.field["offset.region." + name]
        free = self.read(address + self.field["offset.buddy.free"], len(region.heads) // 8)
        return self.member(address, "buddy.pages", "I"), int.from_bytes(free, "little")

    def slab_at(self, region, slot):
        address = (region.address + self.field["offset.region.slab"] +
                   slot * self.field["stride.slab"])
        words = struct.unpack(f"<{self.count('slab_words')}Q", self.read(
            address + self.field["offset.slab.word"], 8 * self.count("slab_words")))
        return Slab(region, slot, self.member(address, "slab.base"),
                    self.member(address, "slab.class_index", "B"),
                    self.member(address, "slab.objects", "B"), words,
                    self.member(address, "slab.free_count", "B"),
                    self.member(address, "slab.clean_pages", "I"))

    def slabs(self):
        """Every slab whose descriptor and head word name each other."""
        page_bytes = self.count("page_bytes")
        for region in self.regions():
            for slot in range(self.member(region.address, "region.slots_used", "I")):
                slab = self.slab_at(region, slot)
                page = (slab.base - region.base) // page_bytes
                if (slab.class_index and 0 <= page < len(region.heads) and
                        self.head(region.heads[page]) == (SLAB, slot)):
                    yield slab

    def classes(self):
        """Sizes and shapes, by class index; class 0 is none."""
        start = self.field["address.size_classes"]
        result = []
        for index in range(self.count("classes")):
            address = start + index * self.field["stride.size_class"]
            result.append(Class(self.member(address, "size_class.size", "I"),
                                self.member(address, "size_class.objects", "H"),
                                self.member(address, "size_class.pages", "H")))
        return result

    def run_lengths(self):
        """Bytes of the runs that may be cached, by the index of their bin."""
        first, start = self.count("classes"), self.field["address.size_classes"]
        return {index: self.member(start + index * self.field["stride.size_class"],
                                   "size_class.size", "I")
                for index in range(first, self.count("bins"))}

    def class_counts(self, index):
        """Slabs, their objects, and the free ones of a class, in all shards."""
        shards = self.field["address.slab_shards"]
        classes = [self.number(shards + 8 * shard) + index * self.field["stride.slab_class"]
                   for shard in range(self.number(self.field["address.slab_shard_count"], "I"))]
        return tuple(sum(self.member(address, name) for address in classes)
                     for name in ("slab_class.slabs", "slab_class.objects",
                                  "slab_class.free_objects"))

    def caches(self):
        """The addresses of the threads' caches that are in use."""
        address = self.number(self.field["address.caches"])
        while address:
            if self.member(address, "cache.in_use", "I"):
                yield address
            address = self.member(address, "cache.next")

    def cached(self, index):
        """Objects of a class in all caches; each may be one off while its thread runs."""
        return sum(self._depth(cache, index) for cache in self.caches())

    def _depth(self, cache, index):
        """Of one bin. Where its stack is exchanged between two reads they do not fit: read again."""
        state = self.field["offset.cache.state"] + index * self.field["stride.bin_state"]
        while True:
            top = self.number(cache + self.field["offset.cache.top"] + 8 * index)
            end = self.number(cache + self.field["offset.cache.end"] + 8 * index)
            most = (self.member(cache + state, "bin_state.capacity", "H") -
                    self.member(cache + state, "bin_state.drained", "H"))
            if 0 <= (end - top) // 8 <= most:
                return most - (end - top) // 8

    def cached_objects(self, index):
        """The addresses of these objects; for a process that stands still."""
        for cache in self.caches():
            top = self.number(cache + self.field["offset.cache.top"] + 8 * index)
            while self.number(top):
                yield self.number(top)
                top -= 8

    def live(self, index):
        _, objects, free_objects = self.class_counts(index)
        return objects - free_objects - self.cached(index)

    def mappings(self):
        table = self.number(self.field["address.mappings"])
        if not table:
            return
        start = table + self.field["offset.mapping_table.entry"]
        stride = self.field["stride.mapping_entry"]
        for slot in range(self.member(table, "mapping_table.slots")):
            entry = Mapping(self.member(start + slot * stride, "mapping_entry.address"),
                            self.member(start + slot * stride, "mapping_entry.bytes"))
            if entry.address > 1:
                yield entry
