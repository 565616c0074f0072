# SPDX-License-Identifier: MIT
"""Reads a heap profile, also while the process writes it (docs/FORMATS.md)."""
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from . import procfs
from .errors import ToolError

MAGIC, VERSION = b"QHEAPPR\0", 1
_HEADER = struct.Struct("<8sIIQQIIIIIIQQQ64s")
_HEADER_BYTES = 4096
_STACK = struct.Struct("<II8Q")
_MAPPING = struct.Struct("<QQQII")
_FRAMES_MOST = 48


@dataclass
class Tally:
    """Samples and their bytes, and what they stand for."""

    samples: int = 0
    sampled_bytes: int = 0
    blocks: float = 0
    bytes: int = 0

    def less(self, other: "Tally") -> "Tally":
        """What is left; the counters of a process that runs were not read in one moment."""
        return Tally(
            max(self.samples - other.samples, 0),
            max(self.sampled_bytes - other.sampled_bytes, 0),
            max(self.blocks - other.blocks, 0),
            max(self.bytes - other.bytes, 0),
        )

    def add(self, other: "Tally") -> None:
        """Add up."""
        self.samples += other.samples
        self.sampled_bytes += other.sampled_bytes
        self.blocks += other.blocks
        self.bytes += other.bytes


@dataclass
class Stack:
    """Return addresses, innermost first; none for all those that had no record of their own."""

    frames: tuple[int, ...]
    allocated: Tally
    freed: Tally

    @property
    def live(self) -> Tally:
        """What was not freed."""
        return self.allocated.less(self.freed)


@dataclass
class Mapping:
    """A mapping with code."""

    start: int
    end: int
    offset: int
    name: str


@dataclass
class Profile:
    """A profile that was read."""

    name: str
    pid: int
    command: str
    rate: int
    running: bool
    untracked: int
    nested: int
    shallow: int
    stacks: list[Stack] = field(default_factory=list)
    mappings: list[Mapping] = field(default_factory=list)  # the newest first

    def total(self, what: str) -> Tally:
        """The sum over all stacks of what is live, or was allocated."""
        result = Tally()
        for stack in self.stacks:
            result.add(getattr(stack, what))
        return result


def load(name: str) -> Profile:
    """Read a profile; a ToolError says what is wrong with it."""
    try:
        with open(name, "rb") as file:
            inode = os.fstat(file.fileno()).st_ino
            data = file.read(_HEADER_BYTES)
            data += file.read() if data.startswith(MAGIC) else b""
    except OSError as error:
        raise ToolError(f"{name}: {error.strerror}") from None
    if not data.startswith(MAGIC):
        raise ToolError(f"{name}: this is no profile; 'quarry profile -o FILE -- COMMAND' makes them")
    if len(data) < _HEADER_BYTES:
        raise _damaged(name, "the header is cut off")
    header = _HEADER.unpack_from(data)
    _, version, pid, rate, _, slots, others, mapping, used, extended = header[:10]
    if version != VERSION:
        raise ToolError(
            f"{name}: profile version {version}; this tool reads version {VERSION}: use the one that made it"
        )
    if len(data) < extended or used > extended or _HEADER_BYTES + 4 * slots > len(data) or rate < 1:
        raise _damaged(name, f"it has {len(data)} bytes of {extended}")
    command = procfs.printable(header[14].split(b"\0")[0].decode(errors="replace"))
    result = Profile(name, pid, command, rate, _runs(pid, inode), *header[11:14])
    references = struct.unpack_from(f"<{slots}I", data, _HEADER_BYTES)
    result.stacks = [
        _stack(name, data, reference) for reference in (others, *references) if reference
    ]
    result.mappings = list(_mappings(name, data, mapping))
    return result


def _damaged(name: str, why: str) -> ToolError:
    return ToolError(f"{name}: damaged: {why}; profile again")


def _runs(pid: int, inode: int) -> bool:
    """Whether the process still writes to the file."""
    try:
        return any(area.inode == inode and area.mode[3] == "s" for area in procfs.areas(pid))
    except ToolError:
        return False


def _stack(name: str, data: bytes, at: int) -> Stack:
    try:
        depth, _, *numbers = _STACK.unpack_from(data, at)
        if depth > _FRAMES_MOST:
            raise _damaged(name, f"a stack of {depth} frames at byte {at}")
        frames = struct.unpack_from(f"<{depth}Q", data, at + _STACK.size)
    except struct.error:
        raise _damaged(name, f"no stack at byte {at}") from None
    allocated, freed = (
        Tally(samples, total, blocks / 256, estimated)
        for samples, total, blocks, estimated in (numbers[:4], numbers[4:])
    )
    return Stack(frames, allocated, freed)


def _mappings(name: str, data: bytes, at: int) -> Iterator[Mapping]:
    while at:
        try:
            start, end, offset, previous, path_bytes = _MAPPING.unpack_from(data, at)
        except struct.error:
            raise _damaged(name, f"no mapping at byte {at}") from None
        if previous >= at:
            raise _damaged(name, f"mappings in a circle at byte {at}")
        path = data[at + _MAPPING.size : at + _MAPPING.size + path_bytes - 1]
        yield Mapping(start, end, offset, path.decode(errors="replace"))
        at = previous
