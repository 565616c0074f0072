# SPDX-License-Identifier: MIT
"""Typed views of /proc/PID: mappings, sizes, counters, resident pages."""
import ctypes
import fcntl
import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from .errors import Refused, ToolError

PAGE = os.sysconf("SC_PAGE_SIZE")
# Of kernel.yama.ptrace_scope: from which on it takes root to trace even a child, and nobody may trace.
YAMA_ROOT, YAMA_NOBODY = 2, 3
_HEADER = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S{4}) ([0-9a-f]+) (\S+) (\d+) *(.*)")

# <linux/fs.h>: ioctl PAGEMAP_SCAN of /proc/PID/pagemap, Linux 6.7.
_PAGEMAP_SCAN = 0xC0606610
PRESENT, SWAPPED, PFNZERO, HUGE = 1 << 3, 1 << 4, 1 << 5, 1 << 6
_SCAN_REGIONS = 4096
SCANS = True  # tests have Pagemap do without

# Bits of a word of pagemap: of a file or shared; mapped by this process alone (Linux 4.2).
_FILE, _EXCLUSIVE = 1 << 61, 1 << 56


@dataclass
class Area:
    """A mapping of a process, with its lines of smaps in bytes where they were read."""

    start: int
    end: int
    mode: str
    offset: int
    device: str
    inode: int
    name: str
    sizes: dict[str, int] = field(default_factory=dict)

    @property
    def path(self) -> str:
        """The file's path, without the note that it was deleted; empty where there is no file."""
        return self.name.removesuffix(" (deleted)") if self.name.startswith("/") else ""


def _explain(pid: int, name: str, error: OSError) -> ToolError:
    if isinstance(error, FileNotFoundError) and os.path.exists(f"/proc/{pid}"):
        return ToolError(f"process {pid}: this kernel has no /proc/PID/{name}")
    if isinstance(error, (FileNotFoundError, ProcessLookupError)):
        return ToolError(f"process {pid}: there is none; it may have ended")
    if isinstance(error, PermissionError):
        hint = yama_hint(YAMA_NOBODY if os.geteuid() == 0 else 1)
        return Refused(
            f"process {pid}: /proc/{pid}/{name} may not be read; {who_may('CAP_SYS_PTRACE')}{hint}"
        )
    return ToolError(f"process {pid}: /proc/{pid}/{name}: {error.strerror}")


def who_may(capability: str) -> str:
    """Who may do what the kernel just refused; to root, why it may be refused."""
    if os.geteuid() != 0:
        return "be its owner, or root"
    return (
        f"the kernel refuses even root here: {capability} is missing (give it to the container), or "
        "the process is in another user namespace (run this there), or a security module forbids it"
    )


def yama_scope() -> int:
    """How far Yama restricts looking into processes; 0 where it is not there."""
    try:
        with open("/proc/sys/kernel/yama/ptrace_scope", encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return 0


def yama_hint(least: int = 1) -> str:
    """What to add to a refusal where Yama may be the cause, which it is from some scope on."""
    scope = yama_scope()
    if scope < least:
        return ""
    remedy = "run this as root, or set it to 0 by 'sysctl kernel.yama.ptrace_scope=0'"
    if scope >= YAMA_NOBODY:
        remedy = "nobody may, until a reboot"
    return f"; Yama refuses, too (kernel.yama.ptrace_scope is {scope}): {remedy}"


def read(pid: int, name: str) -> str:
    """The text of /proc/PID/NAME; a ToolError tells why it cannot be read."""
    try:
        with open(f"/proc/{pid}/{name}", encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError as error:
        raise _explain(pid, name, error) from None


def areas(pid: int, sizes: bool = False) -> list[Area]:
    """The mappings, in order; with sizes, from smaps."""
    result: list[Area] = []
    for line in read(pid, "smaps" if sizes else "maps").splitlines():
        match = _HEADER.match(line)
        if match:
            result.append(
                Area(
                    int(match[1], 16),
                    int(match[2], 16),
                    match[3],
                    int(match[4], 16),
                    match[5],
                    int(match[6]),
                    match[7],
                )
            )
        elif line.endswith(" kB"):
            key, value = line[:-3].split(":")
            result[-1].sizes[key] = int(value) * 1024
    if not result:
        raise no_memory(pid)
    return result


def no_memory(pid: int) -> ToolError:
    """What to say of a process that has none, or of one that has ended."""
    if has_ended(pid):
        parent = status(pid)["PPid"]
        return ToolError(
            f"process {pid}: it has ended; only its exit status is left, until its parent ({parent}) asks for it"
        )
    return ToolError(f"process {pid}: it has no memory; it is a kernel thread or has ended")


def keyed(pid: int, name: str) -> dict[str, int]:
    """The lines 'Key:  N kB' of a file, in bytes, and 'Key:  N' as they are."""
    result = {}
    for line in read(pid, name).splitlines():
        key, _, value = line.partition(":")
        words = value.split()
        if words and words[0].isdecimal():
            result[key] = int(words[0]) * (1024 if words[1:] == ["kB"] else 1)
    return result


def status(pid: int) -> dict[str, int]:
    """VmSize, VmRSS, RssAnon, Threads, ... of /proc/PID/status."""
    return keyed(pid, "status")


def rollup(pid: int) -> dict[str, int]:
    """Rss, Pss, Anonymous, ... of /proc/PID/smaps_rollup."""
    return keyed(pid, "smaps_rollup")


@dataclass
class Faults:
    """Fields of /proc/PID/stat."""

    minor: int
    major: int
    cpu_s: float
    state: str


def faults(pid: int) -> Faults:
    """Page faults and CPU time so far."""
    words = read(pid, "stat").rpartition(")")[2].split()
    ticks = os.sysconf("SC_CLK_TCK")
    return Faults(int(words[7]), int(words[9]), (int(words[11]) + int(words[12])) / ticks, words[0])


def has_ended(pid: int) -> bool:
    """Whether a process is a zombie; where its first thread alone is, the others run on."""
    return faults(pid).state == "Z" and len(threads(pid)) <= 1


def printable(name: str) -> str:
    """A name without what would steer a terminal, or is no text; anybody may give one to a process."""
    return "".join(character if character.isprintable() else "?" for character in name)


def command(pid: int) -> str:
    """The name of the program, as ps shows it."""
    return printable(read(pid, "comm").removesuffix("\n"))


def processes() -> list[int]:
    """Every process there is."""
    return sorted(int(name) for name in os.listdir("/proc") if name.isdigit())


def threads(pid: int) -> list[int]:
    """The threads of a process; none where it has ended."""
    try:
        return [int(name) for name in os.listdir(f"/proc/{pid}/task")]
    except OSError:
        return []


def stack_pointers(pid: int) -> list[int]:
    """Where the threads that sleep have their stacks."""
    result = []
    for thread in threads(pid):
        try:
            with open(f"/proc/{pid}/task/{thread}/syscall", encoding="ascii") as file:
                words = file.read().split()
        except OSError:
            continue
        if len(words) >= 3:
            result.append(int(words[-2], 16))
    return result


class _ScanArguments(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_uint64)
        for name in (
            "size",
            "flags",
            "start",
            "end",
            "walk_end",
            "vec",
            "vec_len",
            "max_pages",
            "category_inverted",
            "category_mask",
            "category_anyof_mask",
            "return_mask",
        )
    ]


class Pagemap:
    """Which pages of a process are resident, by the ioctl PAGEMAP_SCAN or by reading pagemap."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        try:
            self.file = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY)
        except OSError as error:
            raise _explain(pid, "pagemap", error) from None
        self.can_scan = SCANS

    def __enter__(self) -> "Pagemap":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.file)

    def stretches(self, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """(start, end, categories) of resident pages; the shared page of zeros is not one."""
        if self.can_scan:
            try:
                yield from self._scan(start, end)
                return
            except OSError:
                self.can_scan = False
        yield from self._read(start, end)

    def _scan(self, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        found = (ctypes.c_uint64 * (3 * _SCAN_REGIONS))()
        while start < end:
            ask = _ScanArguments(
                96,
                0,
                start,
                end,
                0,
                ctypes.addressof(found),
                _SCAN_REGIONS,
                0,
                PFNZERO,
                PRESENT | PFNZERO,
                0,
                PRESENT | HUGE,
            )
            count = fcntl.ioctl(self.file, _PAGEMAP_SCAN, ask)
            for i in range(count):
                yield found[3 * i], found[3 * i + 1], found[3 * i + 2]
            start = ask.walk_end

    def _read(self, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        while start < end:
            count = min((end - start) // PAGE, 65536)
            entries = self.entries(start, count)
            first = None
            for i, entry in enumerate(entries + [0]):
                if entry >> 63 and first is None:
                    first = i
                elif not entry >> 63 and first is not None:
                    yield start + first * PAGE, start + i * PAGE, PRESENT
                    first = None
            start += count * PAGE

    def own_pages(self, start: int, end: int) -> tuple[int, int]:
        """Pages with a frame, and pages of zeros; of a stretch that fork shares with no other process.

        Without the ioctl: the page of zeros has neither bit, for the kernel counts no mapping of it.
        """
        present = [entry for entry in self.entries(start, (end - start) // PAGE) if entry >> 63]
        framed = sum(last - first for first, last, _ in self.stretches(start, end)) // PAGE
        if not self.can_scan:
            framed = sum(1 for entry in present if entry & (_FILE | _EXCLUSIVE))
        return framed, len(present) - framed

    def entries(self, start: int, count: int) -> list[int]:
        """The words of pagemap of count pages: bit 63 present, 62 swapped, 0-54 the frame."""
        data = os.pread(self.file, 8 * count, start // PAGE * 8)
        if len(data) < 8 * count:
            raise ToolError(f"process {self.pid}: it ended meanwhile")
        return list(struct.unpack(f"<{len(data) // 8}Q", data))
