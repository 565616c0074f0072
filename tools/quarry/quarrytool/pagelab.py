# SPDX-License-Identifier: MIT
"""This process as its own guinea pig: memory is mapped, touched, advised, and what happens is counted."""
import ctypes
import mmap
import os
import resource
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from . import procfs
from .errors import ToolError

PAGE = procfs.PAGE
PRIVATE_ANONYMOUS, SHARED = 0x22, 0x01
DONTNEED, FREE, HUGEPAGE, NOHUGEPAGE, POPULATE_WRITE = 4, 8, 14, 15, 23
_FAILED = ctypes.c_void_p(-1).value
_FRAME_MASK = (1 << 55) - 1

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = (
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
)
libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
libc.memchr.restype = ctypes.c_void_p
libc.memchr.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t)
libc.memset.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t)
libc.sbrk.restype = ctypes.c_void_p
libc.sbrk.argtypes = (ctypes.c_ssize_t,)


@dataclass
class Seen:
    """What one action did: page faults, and the state of a stretch of memory after it."""

    faults: int = 0
    mapped: int = 0  # bytes of the stretch
    resident: int = 0  # bytes in frames of their own, or shared with another address
    zeros: int = 0  # pages that show the kernel's one page of zeros
    frames: list[int] = field(default_factory=list)  # of the first pages; empty: may not be seen


def map_memory(size: int, flags: int = PRIVATE_ANONYMOUS, file: int = -1) -> int:
    """New memory, without huge pages."""
    address = libc.mmap(None, size, mmap.PROT_READ | mmap.PROT_WRITE, flags, file, 0)
    if address == _FAILED:
        raise OSError(ctypes.get_errno(), "mmap: " + os.strerror(ctypes.get_errno()))
    libc.madvise(address, size, NOHUGEPAGE)
    return address


def advise(address: int, size: int, advice: int) -> bool:
    """Whether madvise succeeds."""
    return libc.madvise(address, size, advice) == 0


def read_all(address: int, size: int) -> None:
    """Read every byte, all of them zero, in one call."""
    libc.memchr(address, 1, size)


def write_pages(address: int, size: int) -> None:
    """Write one byte to each page, one after the other."""
    write = libc.memset
    for at in range(address, address + size, PAGE):
        write(at, 1, 1)


def minor_faults() -> int:
    """Page faults of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def frames(pagemap: procfs.Pagemap, address: int, count: int) -> list[int]:
    """The physical frames of pages; empty where the kernel hides them (it shows them to root)."""
    numbers = [
        entry & _FRAME_MASK if entry >> 63 else 0 for entry in pagemap.entries(address, count)
    ]
    return numbers if any(numbers) else []


def look(pagemap: procfs.Pagemap, address: int, size: int) -> Seen:
    """The state of a stretch now."""
    seen = Seen(mapped=size)
    framed, seen.zeros = pagemap.own_pages(address, address + size)
    seen.resident = framed * PAGE
    seen.frames = frames(pagemap, address, 4)
    return seen


def observe(pagemap: procfs.Pagemap, address: int, size: int, action: Callable[[], object]) -> Seen:
    """Do something and see what became of a stretch."""
    before = minor_faults()
    action()
    taken = minor_faults() - before
    seen = look(pagemap, address, size)
    seen.faults = taken
    return seen


def in_child(action: Callable[[procfs.Pagemap], list[int]]) -> list[int]:
    """Numbers that an action in a fork child returns; what goes wrong there is a ToolError here."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            with procfs.Pagemap(os.getpid()) as pagemap:
                numbers = action(pagemap)
            os.write(write_end, struct.pack(f"<{len(numbers)}q", *numbers))
            status = 0
        except Exception as error:  # pylint: disable=broad-except
            os.write(write_end, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(status)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as file:
        data = file.read()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status:
        why = data.decode() or f"it ended with status {status}"
        raise ToolError(f"the experiment in a child process failed: {why}")
    return list(struct.unpack(f"<{len(data) // 8}q", data))
