# SPDX-License-Identifier: MIT
"""Finds an exported object in a running process, as debuggers do: ELF and /proc/PID/maps.

The dynamic symbols are read from the process itself, so that a library whose file was replaced or
deleted since is found all the same. Static programs have none: there the symbol table of the
executable is read, through /proc/PID/exe.
"""
import os
import struct
from dataclasses import dataclass
from typing import Any

from . import memory, procfs
from .errors import Refused

_MAGIC = b"\x7fELF\x02"
_PT_LOAD, _PT_DYNAMIC = 1, 2
_DT_STRTAB, _DT_SYMTAB, _DT_GNU_HASH = 5, 6, 0x6FFFFEF5
_SHT_SYMTAB, _SHT_DYNSYM = 2, 11
_AT_ENTRY = 9
_SYMBOL = 24  # bytes of an entry


@dataclass
class Found:
    """Where a symbol lies, and the file that has it."""

    address: int
    path: str


def find(
    pid: int, symbol: str, areas: list[procfs.Area], lacking: set[Any] | None = None
) -> Found | None:
    """The address of an object in the process; None where nothing in it exports the name.

    Where its memory may not be read, files tell whether it would be worth it: else it is no error.

    lacking makes it cheap for many processes: it collects the files that were found to be without
    the symbol, and these are not looked at again.
    """
    lacking = set() if lacking is None else lacking
    for first in _candidates(areas):
        file = (first.device, first.inode, first.path)
        if file in lacking:
            continue
        try:
            address = _in_image(pid, first.start, symbol)
        except memory.Unreadable:
            continue
        except Refused:
            if _in_file(pid, first.path, symbol):
                raise
            address = 0
        if address:
            return Found(address, first.path)
        lacking.add(file)
    return _in_executable(pid, symbol, lacking)


def guess(pid: int, symbol: str, areas: list[procfs.Area]) -> str:
    """The file of the process that exports an object, as far as files tell; empty where none does."""
    paths = (area.path for area in _candidates(areas))
    return next((path for path in paths if _in_file(pid, path, symbol)), "")


def _in_file(pid: int, path: str, symbol: str) -> bool:
    """Whether a file that the process sees exports the symbol; one that is gone is told by its name."""
    try:
        with open(f"/proc/{pid}/root{path}", "rb") as file:
            if file.read(len(_MAGIC)) != _MAGIC:  # a device may have no end
                return False
            file.seek(0)
            return bool(_by_sections(file.read(), symbol))
    except (OSError, struct.error):
        return "libquarry" in path


def _candidates(areas: list[procfs.Area]) -> list[procfs.Area]:
    """The first mappings of the files with code in the process; likely ones first."""
    first: dict[str, procfs.Area] = {}
    code = set()
    for area in areas:
        if area.path:
            if area.offset == 0:
                first.setdefault(area.path, area)
            if "x" in area.mode:
                code.add(area.path)
    found = [area for path, area in first.items() if path in code]
    return sorted(found, key=lambda area: "quarry" not in area.path.rpartition("/")[2])


def _in_image(pid: int, base: int, symbol: str) -> int:
    """The symbol's address by the dynamic section of the image at base; 0 if it is not there."""
    header = memory.read(pid, base, 64)
    if header[: len(_MAGIC)] != _MAGIC:
        return 0
    table, entry_bytes, count = (
        *struct.unpack_from("<Q", header, 32),
        *struct.unpack_from("<HH", header, 54),
    )
    dynamic, bias = 0, None
    for i in range(count):
        kind, _, _, address = struct.unpack(
            "<IIQQ", memory.read(pid, base + table + i * entry_bytes, 24)
        )
        if kind == _PT_LOAD and bias is None:
            bias = base - address
        if kind == _PT_DYNAMIC:
            dynamic = address
    if not dynamic or bias is None:
        return 0
    tags = _dynamic_tags(pid, dynamic + bias)
    if not {_DT_STRTAB, _DT_SYMTAB, _DT_GNU_HASH} <= set(tags):
        return 0
    # ld.so writes addresses over the offsets, except where the section is read-only.
    hashes, symbols, strings = (
        tags[tag] + (bias if tags[tag] < bias else 0)
        for tag in (_DT_GNU_HASH, _DT_SYMTAB, _DT_STRTAB)
    )
    value = _by_hash(pid, hashes, symbols, strings, symbol)
    return value + bias if value else 0


def _dynamic_tags(pid: int, address: int) -> dict[int, int]:
    tags = {}
    while True:
        tag, value = memory.numbers(pid, address, "QQ")
        if tag == 0 or len(tags) > 200:
            return tags
        tags[tag] = value
        address += 16


def _by_hash(pid: int, hashes: int, symbols: int, strings: int, symbol: str) -> int:
    """The value of a symbol by the GNU hash table; 0 if it is not there or not defined."""
    wanted = 5381
    for letter in symbol.encode():
        wanted = (wanted * 33 + letter) & 0xFFFFFFFF
    buckets, offset, bloom, _ = memory.numbers(pid, hashes, "IIII")
    start = hashes + 16 + bloom * 8
    index = memory.numbers(pid, start + wanted % buckets * 4, "I")[0]
    while index >= offset:
        value = memory.numbers(pid, start + buckets * 4 + (index - offset) * 4, "I")[0]
        if value | 1 == wanted | 1:
            name, section, address = _symbol(memory.read(pid, symbols + index * _SYMBOL, _SYMBOL))
            text = memory.read(pid, strings + name, len(symbol) + 1)
            if section and text == symbol.encode() + b"\0":
                return address
        if value & 1:
            break
        index += 1
    return 0


def _symbol(entry: bytes) -> tuple[int, int, int]:
    """Name offset, section and value of a symbol table entry."""
    name, _, _, section, value = struct.unpack_from("<IBBHQ", entry)
    return name, section, value


def _in_executable(pid: int, symbol: str, lacking: set[Any]) -> Found | None:
    """By the full symbol table of the executable, if it was not stripped."""
    try:
        with open(f"/proc/{pid}/exe", "rb") as file:
            status = os.fstat(file.fileno())
            executable = ("executable", status.st_dev, status.st_ino, status.st_mtime_ns)
            if executable in lacking:
                return None
            data = file.read()
        value = _by_sections(data, symbol)
        if not value:
            lacking.add(executable)
            return None
        moved = _entry(pid) - struct.unpack_from("<Q", data, 24)[0]
        return Found(value + moved, os.readlink(f"/proc/{pid}/exe").removesuffix(" (deleted)"))
    except (OSError, KeyError, struct.error):  # not ours, or it has ended, or is odd
        return None


def _entry(pid: int) -> int:
    """Where the kernel entered the executable: e_entry of its header, plus what it was moved by."""
    with open(f"/proc/{pid}/auxv", "rb") as file:
        return dict(struct.iter_unpack("<QQ", file.read()))[_AT_ENTRY]


def _by_sections(data: bytes, symbol: str) -> int:
    """The value of a symbol in a file; 0 if it is not there."""
    if data[: len(_MAGIC)] != _MAGIC or symbol.encode() not in data:
        return 0
    sections = struct.unpack_from("<Q", data, 40)[0]
    entry_bytes, count = struct.unpack_from("<HH", data, 58)

    def section(number: int) -> tuple[int, ...]:
        return struct.unpack_from("<IIQQQQIIQQ", data, sections + number * entry_bytes)

    for number in range(count):
        _, kind, _, _, start, size, link, *_ = section(number)
        if kind not in (_SHT_SYMTAB, _SHT_DYNSYM):
            continue
        strings, string_bytes = section(link)[4:6]
        place = data.find(b"\0" + symbol.encode() + b"\0", strings, strings + string_bytes)
        for at in range(start, start + size, _SYMBOL):
            name, defined, value = _symbol(data[at : at + _SYMBOL])
            if defined and strings + name == place + 1:
                return value
    return 0
