# SPDX-License-Identifier: MIT
"""Follows a command and counts what happens in its sections: from one close(-1000) to the next.

A seccomp filter reports every system call, so that a call is seen whichever thread makes it; a section
that keeps its promise makes none, and is not slowed down.  Page faults are the kernel's count for the
process, read while the thread that marks is stopped.
"""
import os
import platform
import signal
from collections import Counter
from dataclasses import dataclass, field

from . import heap, procfs, tracer
from .errors import NoQuarry, ToolError

_MARK = -1000 & 0xFFFFFFFF
# What a section is likely to call; others are shown by number. x86_64, aarch64.
_CALLS = {
    "read": (0, 63),
    "write": (1, 64),
    "close": (3, 57),
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "munmap": (11, 215),
    "brk": (12, 214),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "ioctl": (16, 29),
    "readv": (19, 65),
    "writev": (20, 66),
    "sched_yield": (24, 124),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "nanosleep": (35, 101),
    "getpid": (39, 172),
    "sendto": (44, 206),
    "recvfrom": (45, 207),
    "sendmsg": (46, 211),
    "recvmsg": (47, 212),
    "clone": (56, 220),
    "execve": (59, 221),
    "exit": (60, 93),
    "wait4": (61, 260),
    "fcntl": (72, 25),
    "gettimeofday": (96, 169),
    "getrusage": (98, 165),
    "mlock": (149, 228),
    "munlock": (150, 229),
    "gettid": (186, 178),
    "futex": (202, 98),
    "clock_gettime": (228, 113),
    "clock_nanosleep": (230, 115),
    "exit_group": (231, 94),
    "openat": (257, 56),
    "ppoll": (271, 73),
    "epoll_pwait": (281, 22),
    "getrandom": (318, 278),
    "clone3": (435, 435),
}
_COLUMN = {"x86_64": 0, "aarch64": 1}.get(platform.machine(), 0)
_NAMES = {numbers[_COLUMN]: name for name, numbers in _CALLS.items()}
_CLOSE = _CALLS["close"][_COLUMN]


@dataclass
class Sections:
    """What happened in the sections of a command's processes, all their threads together."""

    marks: int = 0
    minor_faults: int = 0
    major_faults: int = 0
    calls: Counter[str] = field(default_factory=Counter)
    uses_quarry: bool = True  # each process that has marked one
    opened: dict[int, procfs.Faults] = field(default_factory=dict)  # by process

    @property
    def count(self) -> int:
        """Sections that have ended."""
        return (self.marks - len(self.opened)) // 2


class SectionTracer(tracer.Tracer):
    """Follows one command; its sections are counted."""

    no_seccomp = (
        "quarry: the kernel or a sandbox refuses seccomp filters, by which system calls and marks are "
        "seen; without a command there is quarry rt --no-calls\n"
    )
    untraced = "quarry rt --no-calls does without, but only without a command"

    def __init__(
        self,
        command: list[str],
        environment: dict[str, str],
        count_calls: bool,
        output: int | None = None,
    ) -> None:
        """Without count_calls only the marks are seen. output: what its standard output shall be."""
        self.sections = Sections()
        self.every = count_calls
        self.standard_output = output
        super().__init__(command, environment, True, lambda pid: None)

    def filter(self) -> bytes | None:
        """Reports every call, or the marks alone."""
        audit = tracer.audit_number()
        if audit is None:
            raise ToolError(f"sections cannot be seen on {platform.machine()} yet")
        if self.every:
            return tracer.assemble(
                [(0x20, 0, 0, 4), (0x15, 1, 0, audit), tracer.PASS, tracer.REPORT]
            )
        # The architecture; the number; the lower half of the first argument.
        return tracer.assemble(
            [
                (0x20, 0, 0, 4),
                (0x15, 0, 4, audit),
                (0x20, 0, 0, 0),
                (0x15, 0, 2, _CLOSE),
                (0x20, 0, 0, 16),
                (0x15, 1, 0, _MARK),
                tracer.PASS,
                tracer.REPORT,
            ]
        )

    def become(
        self, command: list[str], environment: dict[str, str], wait_end: int, go_end: int
    ) -> None:
        """In the child: its standard output first; Ctrl-C ends it, though a run before may ignore that."""
        if self.standard_output is not None:
            os.dup2(self.standard_output, 1)
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        super().become(command, environment, wait_end, go_end)

    def count(self, pid: int) -> None:
        """A mark, or a call that should not be."""
        call = self.call(pid)
        try:
            process = self.process(pid)
        except ToolError:  # it was killed meanwhile
            return
        if call and call[0] == _CLOSE and call[1] & 0xFFFFFFFF == _MARK:
            self._mark(process)
        elif call and process in self.sections.opened:
            self.sections.calls[_NAMES.get(call[0], f"number {call[0]}")] += 1

    def _mark(self, process: int) -> None:
        faults = procfs.faults(process)
        before = self.sections.opened.pop(process, None)
        self.sections.marks += 1
        if before is None:
            self.sections.opened[process] = faults
            return
        self.sections.minor_faults += faults.minor - before.minor
        self.sections.major_faults += faults.major - before.major
        try:
            heap.Heap(process)
        except NoQuarry:
            self.sections.uses_quarry = False
        except ToolError:  # it may not be looked at: nothing is known
            pass
