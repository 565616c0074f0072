# SPDX-License-Identifier: MIT
"""Runs a command and watches it with ptrace: its peaks when it ends, its memory calls as they come.

The processes stop only where they fork, run another program or end, and, by a seccomp filter, at the
five system calls that move memory; all others run at full speed.
"""
import ctypes
import os
import platform
import signal
import struct
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from . import procfs, start
from .errors import ToolError

CALLS = ("brk", "mmap", "munmap", "mremap", "madvise")
# Audit number of the architecture, and the numbers of CALLS there.
_NUMBERS = {
    "x86_64": (0xC000003E, (12, 9, 11, 25, 28)),
    "aarch64": (0xC00000B7, (214, 222, 215, 216, 233)),
}
_DONTNEED, _FREE = 4, 8

_CONT, _GETEVENTMSG, _SEIZE, _LISTEN, _SYSCALL_INFO = 7, 0x4201, 0x4206, 0x4208, 0x420E
_EVENT_EXEC, _EVENT_EXIT, _EVENT_SECCOMP, _EVENT_STOP = 4, 6, 7, 128
# TRACEFORK, TRACEVFORK, TRACECLONE, TRACEEXEC, TRACEEXIT, TRACESECCOMP, EXITKILL: without its tracer
# a filtered call would fail.
_OPTIONS = 0x2 | 0x4 | 0x8 | 0x10 | 0x40 | 0x80 | 0x100000
_WALL = 0x40000000
_STOPS = (signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)
_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _SECCOMP_MODE_FILTER = 22, 38, 2

_NO_SECCOMP = (
    "quarry: the kernel or a sandbox refuses seccomp filters, which count the system calls; "
    "do without them: quarry run --no-calls -- COMMAND\n"
)

# Last lines of a seccomp program: let the call pass, or report it to the tracer.
PASS, REPORT = (0x06, 0, 0, 0x7FFF0000), (0x06, 0, 0, 0x7FF00000)

_PAGE = os.sysconf("SC_PAGE_SIZE")

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.restype = ctypes.c_long
_libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)


@dataclass
class Outcome:
    """What was seen of a command and its children."""

    status: int = 0  # as of waitpid
    peak_rss: int = 0
    peak_vss: int = 0
    minor_faults: int = 0
    major_faults: int = 0
    cpu_s: float = 0
    processes: int = 1
    calls: Counter[str] = field(default_factory=Counter)
    counted: bool = False
    unmapped: int = 0
    advised: int = 0
    lowered: int = 0


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


def audit_number() -> int | None:
    """How seccomp names this architecture; None where its system calls are not known here."""
    return _NUMBERS[platform.machine()][0] if platform.machine() in _NUMBERS else None


def assemble(code: list[tuple[int, int, int, int]]) -> bytes:
    """A seccomp program of (operation, jump if true, jump if false, operand)."""
    return b"".join(struct.pack("<HBBI", *line) for line in code)


def _filter() -> bytes | None:
    """A seccomp program that reports CALLS to the tracer and lets everything else pass."""
    known = _NUMBERS.get(platform.machine())
    if not known:
        return None
    audit, numbers = known
    count = len(numbers)
    code = [(0x20, 0, 0, 4), (0x15, 0, count + 1, audit), (0x20, 0, 0, 0)]
    code += [(0x15, count - i, 0, number) for i, number in enumerate(numbers)]
    return assemble([*code, PASS, REPORT])


def _install(code: bytes) -> bool:
    """Filter this process and those that it starts; whether it was allowed."""
    buffer = ctypes.create_string_buffer(code, len(code))
    program = _Program(len(code) // 8, ctypes.addressof(buffer))
    arguments = (_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0)
    if _libc.prctl(*arguments) == 0:
        return True
    _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    return _libc.prctl(*arguments) == 0


def _whole_pages(count: int) -> int:
    """The bytes that a call means by so many, as the kernel rounds them."""
    return -(-count // _PAGE) * _PAGE


def _ptrace(request: int, pid: int, address: int = 0, data: int = 0) -> int:
    return _libc.ptrace(request, pid, address, data)


class Tracer:
    """Follows one command."""

    no_seccomp = _NO_SECCOMP
    untraced = "quarry run -q does without, and without a summary"

    def __init__(
        self,
        command: list[str],
        environment: dict[str, str],
        count_calls: bool,
        at_end: Callable[[int], None],
    ) -> None:
        """at_end is called with the first process's number when it is about to lose its memory."""
        self.outcome = Outcome()
        self.at_end = at_end
        self.code = self.filter() if count_calls else None
        self.outcome.counted = self.code is not None
        self.breaks: dict[int, int] = {}  # by process
        self.process_of: dict[int, int] = {}  # by thread
        self.seen = set[int]()
        self.started = False
        self.ended = False
        self.faults_before = procfs.Faults(0, 0, 0, "")
        self._start(command, environment)

    def filter(self) -> bytes | None:
        """The seccomp program to run the command under; None where its numbers are not known."""
        return _filter()

    def _start(self, command: list[str], environment: dict[str, str]) -> None:
        wait_end, go_end = os.pipe()
        pid = os.fork()
        if pid == 0:
            self.become(command, environment, wait_end, go_end)
        self.first = pid
        os.close(wait_end)
        start.pass_on(self._pass_on)
        if _ptrace(_SEIZE, pid, 0, _OPTIONS) != 0:
            error = os.strerror(ctypes.get_errno())
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise ToolError(
                f"the command cannot be traced: {error}; a debugger or sandbox may forbid "
                f"it; {self.untraced}{procfs.yama_hint(procfs.YAMA_ROOT)}"
            )
        os.write(go_end, b"g")
        os.close(go_end)

    def _pass_on(self, number: int) -> None:
        """A signal for the command; where that has ended, for those that it started and that run on."""
        try:
            if not self.ended:
                os.kill(self.first, number)
                return
        except ProcessLookupError:
            pass
        for pid in procfs.processes():
            with suppress(ToolError, ProcessLookupError):
                if procfs.status(pid).get("TracerPid") == os.getpid():
                    os.kill(pid, number)

    def become(
        self, command: list[str], environment: dict[str, str], wait_end: int, go_end: int
    ) -> None:
        """In the child: wait until the parent traces, then turn into the command."""
        try:
            os.close(go_end)
            if os.read(wait_end, 1) != b"g":
                os._exit(126)
            if self.code and not _install(self.code):
                os.write(2, self.no_seccomp.encode())
                os._exit(start.NOT_STARTED)
            start.become(command, environment)
        finally:
            os._exit(start.NOT_STARTED)

    def follow(self) -> Outcome:
        """Until the last process of the tree has ended."""
        while True:
            try:
                pid, status, usage = os.wait4(-1, _WALL)
            except ChildProcessError:
                return self.outcome
            if os.WIFSTOPPED(status):
                self._continue(pid, status)
            elif pid == self.first:
                self.ended = True
                self.outcome.status = status
                before = self.faults_before
                self.outcome.minor_faults = usage.ru_minflt - before.minor
                self.outcome.major_faults = usage.ru_majflt - before.major
                self.outcome.cpu_s = usage.ru_utime + usage.ru_stime - before.cpu_s

    def _continue(self, pid: int, status: int) -> None:
        number, event = os.WSTOPSIG(status), status >> 16
        if event == _EVENT_STOP:
            _ptrace(_LISTEN if number in _STOPS else _CONT, pid)
            return
        if event == _EVENT_SECCOMP:
            self.count(pid)
        elif event == _EVENT_EXEC:
            self._replaced(pid)
        elif event == _EVENT_EXIT:
            self._last_look(pid)
        _ptrace(_CONT, pid, 0, 0 if event else number)

    def _replaced(self, pid: int) -> None:
        """A process runs another program: its break is new."""
        self.breaks.pop(pid, None)
        if pid == self.first and not self.started:
            self.started = True
            self.outcome.calls.clear()
            self.faults_before = procfs.faults(pid)  # this tool's own, after its fork

    def process(self, thread: int) -> int:
        """The process that a thread belongs to."""
        if thread not in self.process_of:
            self.process_of[thread] = procfs.status(thread).get("Tgid", thread)
        return self.process_of[thread]

    def _last_look(self, pid: int) -> None:
        """A thread is about to end; its process still has its memory."""
        try:
            status = procfs.status(pid)
        except ToolError:
            return
        self.outcome.peak_rss = max(self.outcome.peak_rss, status.get("VmHWM", 0))
        self.outcome.peak_vss = max(self.outcome.peak_vss, status.get("VmPeak", 0))
        self.process_of.pop(pid, None)
        self.seen.add(status.get("Tgid", pid))
        self.outcome.processes = len(self.seen)
        if pid == self.first:
            self.at_end(pid)

    def call(self, pid: int) -> tuple[int, int, int, int] | None:
        """The call at which a thread has stopped: its number and its first arguments."""
        info = ctypes.create_string_buffer(88)
        if _ptrace(_SYSCALL_INFO, pid, len(info), ctypes.addressof(info)) <= 0:
            return None
        number, first, second, third = struct.unpack_from("<QQQQ", info.raw, 24)
        return number, first, second, third

    def count(self, pid: int) -> None:
        """A thread has stopped at a call that the filter reports."""
        call = self.call(pid)
        if not call:
            return
        number, first, second, third = call
        name = dict(zip(_NUMBERS[platform.machine()][1], CALLS)).get(number)
        if not name:
            return
        self.outcome.calls[name] += 1
        if name == "munmap":
            self.outcome.unmapped += _whole_pages(second)
        elif name == "madvise" and third in (_DONTNEED, _FREE):
            self.outcome.advised += _whole_pages(second)
        elif name == "brk" and first:
            process = self.process(pid)
            end = _whole_pages(first)
            self.outcome.lowered += max(self.breaks.get(process, end) - end, 0)
            self.breaks[process] = end
