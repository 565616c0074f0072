# SPDX-License-Identifier: MIT
"""Turns addresses of code into functions and lines: by addr2line where a file has debug
information, else by its symbol table."""
import bisect
import mmap
import os
import struct
import subprocess
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from .profiled import Mapping

_PT_LOAD = 1
_SHT_SYMTAB, _SHT_NOTE, _SHT_DYNSYM = 2, 7, 11
_FUNCTIONS = (2, 10)  # STT_FUNC, STT_GNU_IFUNC
_NT_GNU_BUILD_ID = 3
_DEBUG_FILES = "/usr/lib/debug/.build-id"


@dataclass(frozen=True)
class Frame:
    """A place in the code; what is not known is empty."""

    function: str
    file: str
    line: int
    module: str  # the path of the file that the code is from, or what the kernel calls the mapping
    address: int  # in that file

    def __str__(self) -> str:
        module = os.path.basename(self.module) or "code of no file"
        if not self.function:
            return f"{module}+{self.address:#x}"
        if not self.file:
            return f"{self.function} [{module}]"
        return f"{self.function} ({os.path.basename(self.file)}:{self.line})"


@dataclass
class _Image:
    """What is needed of an ELF file."""

    loads: list[tuple[int, int, int]] = field(default_factory=list)  # offset, address, bytes
    starts: list[int] = field(default_factory=list)
    functions: list[tuple[int, int, str]] = field(default_factory=list)  # start, bytes, name
    has_lines: bool = False

    def address(self, offset: int) -> int:
        """The address that a byte of the file is linked for."""
        for start, address, count in self.loads:
            if start <= offset < start + count:
                return offset - start + address
        return offset

    def function(self, address: int) -> str:
        """The function that has the address; empty where no symbol tells."""
        place = bisect.bisect_right(self.starts, address) - 1
        if place >= 0:
            start, count, name = self.functions[place]
            if address < start + count:
                return name
        return ""


def _read_image(path: str) -> _Image:
    """An image of nothing where the file is gone or no ELF file."""
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as data:
            return _parse(data) if data[:5] == b"\x7fELF\x02" else _Image()
    except (OSError, ValueError, IndexError, struct.error):
        return _Image()


def _parse(data: mmap.mmap) -> _Image:
    image = _Image()
    table, sections = struct.unpack_from("<QQ", data, 32)
    entry_bytes, count, section_bytes, section_count, names = struct.unpack_from("<5H", data, 54)
    for number in range(count):
        kind, _, offset, address, _, size = struct.unpack_from(
            "<IIQQQQ", data, table + number * entry_bytes
        )
        if kind == _PT_LOAD:
            image.loads.append((offset, address, size))
    headers = [
        struct.unpack_from("<IIQQQQIIQQ", data, sections + number * section_bytes)
        for number in range(section_count)
    ]
    tables = {header[1]: header for header in headers}
    found = tables.get(_SHT_SYMTAB) or tables.get(_SHT_DYNSYM)
    if found:
        strings = headers[found[6]][4]
        image.functions = sorted(_functions(data, found, strings))
        image.starts = [start for start, *_ in image.functions]
    for header in headers:
        if _string(data, headers[names][4] + header[0]) == ".debug_line":
            image.has_lines = True
        if header[1] == _SHT_NOTE and _has_debug_file(data, header[4]):
            image.has_lines = True
    return image


def _functions(
    data: mmap.mmap, table: tuple[int, ...], strings: int
) -> Iterable[tuple[int, int, str]]:
    for entry in struct.iter_unpack("<IBBHQQ", data[table[4] : table[4] + table[5]]):
        name, kind, _, section, value, size = entry
        if kind & 15 in _FUNCTIONS and section and size:
            yield value, size, _string(data, strings + name)


def _string(data: mmap.mmap, at: int) -> str:
    return data[at : data.find(b"\0", at)].decode(errors="replace")


def _has_debug_file(data: mmap.mmap, note: int) -> bool:
    """Whether the debug information that was stripped from a file is installed."""
    name_bytes, count, kind = struct.unpack_from("<III", data, note)
    if kind != _NT_GNU_BUILD_ID or name_bytes != 4:
        return False
    number = data[note + 16 : note + 16 + count].hex()
    return os.path.isfile(f"{_DEBUG_FILES}/{number[:2]}/{number[2:]}.debug")


def _ask(words: list[str], lines: Iterable[str]) -> list[str]:
    """What a program of binutils answers; nothing where there is no such program."""
    try:
        result = subprocess.run(
            words,
            input="\n".join(lines),
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    except OSError:
        return []
    return result.stdout.splitlines()


def _by_lines(path: str, addresses: set[int]) -> dict[int, list[Frame]]:
    """By debug information; a function that was inlined is a frame of its own, innermost first."""
    result: dict[int, list[Frame]] = {}
    lines = iter(_ask(["addr2line", "-afCi", "-e", path], map(hex, sorted(addresses))))
    address = 0
    for line in lines:
        if line.startswith("0x"):
            address = int(line, 16)
            continue
        file, _, number = next(lines, "").split(" (discriminator")[0].rpartition(":")
        known = not file.startswith("?") and number.isdigit()
        if line != "??":
            result.setdefault(address, []).append(
                Frame(line, file if known else "", int(number) if known else 0, path, address)
            )
    return result


def _readable(names: set[str]) -> dict[str, str]:
    """C++ names as one reads them."""
    mangled = sorted(name for name in names if name.startswith("_Z"))
    answers = _ask(["c++filt"], mangled) if mangled else []
    return dict(zip(mangled, answers)) if len(answers) == len(mangled) else {}


def _of_file(path: str, offsets: dict[int, int]) -> dict[int, list[Frame]]:
    """The frames of code at offsets of a file."""
    image = _read_image(path)
    places = {code: image.address(offset) for code, offset in offsets.items()}
    by_lines = _by_lines(path, set(places.values())) if image.has_lines else {}
    names = {address: image.function(address) for address in places.values()}
    readable = _readable(set(names.values()))
    return {
        code: by_lines.get(address)
        or [Frame(readable.get(names[address], names[address]), "", 0, path, address)]
        for code, address in places.items()
    }


def resolve(addresses: Iterable[int], mappings: list[Mapping]) -> dict[int, list[Frame]]:
    """The frames of return addresses, innermost first: several where functions were inlined."""
    result: dict[int, list[Frame]] = {}
    files: dict[str, dict[int, int]] = defaultdict(dict)
    for address in set(addresses):
        code = address - 1  # in the call
        mapping = next((each for each in mappings if each.start <= code < each.end), None)
        if mapping and mapping.name.startswith("/"):
            path = mapping.name.removesuffix(" (deleted)")
            files[path][address] = code - mapping.start + mapping.offset
        else:
            result[address] = [Frame("", "", 0, mapping.name if mapping else "", code)]
    for path, offsets in files.items():
        result |= _of_file(path, offsets)
    return result
