# SPDX-License-Identifier: MIT
"""Run a command tree and measure it from outside, exactly.

How the peaks are read. Every process of the tree is followed with ptrace, but only at the events
fork, exec and exit: no system call is intercepted, so between those points the program runs at full
speed. The stop at exit comes before the kernel drops the address space; there /proc/PID/status
gives the highest resident (VmHWM) and virtual (VmPeak) size the process ever had. Nothing is
sampled, so no peak can fall between two samples, and no process is too short-lived to be seen.

How wrong they can be. VmPeak is exact. The kernel counts resident pages in per-CPU (before Linux
6.2: per-thread) batches, so VmHWM may lag by up to 32 pages per CPU and kind of page, or 64 pages
per thread: 256 KiB on two CPUs. Following costs about half a millisecond per process started, the
same under every allocator. A child of fork starts with its parent's size, which exec resets.
ru_maxrss of wait4 is not used: exec does not reset it, so it would report this Python process for
every smaller program.

Wall time is that of the first process, CPU time and page faults are its wait4 figures, which
include all descendants that were waited for. Mappings are the lines of /proc/PID/maps when the
largest process ends.

Resident memory over time, where it is asked for, is sampled: the largest process's, every few
milliseconds, from /proc/PID/statm, which takes no lock of the program's.
"""
import contextlib
import ctypes
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

MEMORY_CALLS = ("brk", "mmap", "munmap", "mremap", "madvise")

_PTRACE_CONT = 7
_PTRACE_GETEVENTMSG = 0x4201
_PTRACE_SEIZE = 0x4206
_PTRACE_LISTEN = 0x4208
_EVENT_FORK, _EVENT_VFORK, _EVENT_CLONE, _EVENT_EXEC, _EVENT_EXIT, _EVENT_STOP = 1, 2, 3, 4, 6, 128
# TRACEFORK, TRACEVFORK, TRACECLONE, TRACEEXEC, TRACEEXIT; EXITKILL: nothing outlives this process.
_OPTIONS = 0x2 | 0x4 | 0x8 | 0x10 | 0x40 | 0x100000
_WALL = 0x40000000
_GROUP_STOPS = (signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.restype = ctypes.c_long
_libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)


class RunError(Exception):
    """A run that gives no result; the message is one line for the reader."""


@dataclass
class Process:
    """What one process had reached when it ended."""

    command: str
    peak_rss_kib: int = 0
    peak_vss_kib: int = 0
    mappings: int = 0
    has_library: bool = True


@dataclass
class Measurement:
    """The figures of one run; sizes are those of the largest process of the tree."""

    exit_status: int
    wall_s: float
    cpu_s: float
    user_s: float
    system_s: float
    peak_rss_kib: int
    peak_vss_kib: int
    mappings: int
    minor_faults: int
    largest: str
    processes: int
    without_library: list[str] = field(default_factory=list)
    timeline: list[tuple[float, int]] = field(default_factory=list)  # seconds, resident KiB

    def as_dict(self) -> dict[str, Any]:
        """Return the figures as plain data."""
        return asdict(self)


@dataclass
class SystemCalls:
    """Counts of `strace -f -c` over one run."""

    exit_status: int
    total: int
    memory: int
    by_name: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        """Return the counts as plain data."""
        return asdict(self)


def _ptrace(request: int, pid: int, data: int = 0) -> bool:
    """Issue a request; False where the process has just been killed."""
    if _libc.ptrace(request, pid, None, data) == 0:
        return True
    error = ctypes.get_errno()
    if error == 3:  # ESRCH
        return False
    raise OSError(error, f"ptrace: {os.strerror(error)}")


def _event_message(pid: int) -> int:
    message = ctypes.c_ulong()
    _libc.ptrace(_PTRACE_GETEVENTMSG, pid, None, ctypes.addressof(message))
    return message.value


class _Tree:
    """The processes of one run, by thread group."""

    def __init__(self, library: str | None) -> None:
        self.library = library
        self.alive: set[int] = set()
        self.seen: dict[int, Process] = {}
        self.finished: list[Process] = []

    def record_exit(self, tid: int) -> None:
        """Note the peaks of the process that thread tid belongs to."""
        try:
            status = Path(f"/proc/{tid}/status").read_text(errors="replace")
            fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
            group = int(fields["Tgid"])
            process = self.seen.setdefault(group, Process(fields["Name"].strip()))
            process.command = fields["Name"].strip() if tid == group else process.command
            process.peak_rss_kib = max(process.peak_rss_kib, int(fields["VmHWM"].split()[0]))
            process.peak_vss_kib = max(process.peak_vss_kib, int(fields["VmPeak"].split()[0]))
            if tid == group:
                maps = Path(f"/proc/{tid}/maps").read_text(errors="replace")
                process.mappings = maps.count("\n")
                process.has_library = self.library is None or self.library in maps
        except (FileNotFoundError, ProcessLookupError, KeyError):
            return  # killed while being read, or without an address space: nothing to see

    def forget(self, tid: int) -> None:
        """Move a process that has ended out of the way, for its number may come again."""
        self.alive.discard(tid)
        if tid in self.seen:
            self.finished.append(self.seen.pop(tid))

    def handle_stop(self, tid: int, status: int) -> None:
        """Answer one ptrace stop."""
        event, stop_signal = status >> 16, os.WSTOPSIG(status)
        self.alive.add(tid)
        if event == _EVENT_STOP:
            _ptrace(_PTRACE_LISTEN if stop_signal in _GROUP_STOPS else _PTRACE_CONT, tid)
            return
        if event in (_EVENT_FORK, _EVENT_VFORK, _EVENT_CLONE):
            self.alive.add(_event_message(tid))
        elif event == _EVENT_EXIT:
            self.record_exit(tid)
        _ptrace(_PTRACE_CONT, tid, 0 if event else stop_signal)

    def kill(self) -> None:
        """End every process of the run, by number, and reap it."""
        for tid in list(self.alive):
            with contextlib.suppress(ProcessLookupError):
                os.kill(tid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while self.alive:
                tid, status = os.waitpid(-1, _WALL)
                if os.WIFSTOPPED(status):
                    _ptrace(_PTRACE_CONT, tid)
                else:
                    self.alive.discard(tid)


class _Timeline:
    """A thread that notes the resident size of a tree's largest process at regular times."""

    def __init__(self, tree: _Tree, interval_s: float) -> None:
        self.tree = tree
        self.interval_s = interval_s
        self.points: list[tuple[float, int]] = []
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._sample, daemon=True)

    def _resident_kib(self) -> int:
        largest = 0
        for tid in list(self.tree.alive):
            with contextlib.suppress(OSError, IndexError):
                pages = int(Path(f"/proc/{tid}/statm").read_text().split()[1])
                largest = max(largest, pages * os.sysconf("SC_PAGE_SIZE") // 1024)
        return largest

    def _sample(self) -> None:
        started = time.monotonic()
        while not self.ended.wait(self.interval_s):
            resident = self._resident_kib()
            if resident:
                self.points.append((round(time.monotonic() - started, 4), resident))

    def __enter__(self) -> "_Timeline":
        if self.interval_s > 0:
            self.thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.ended.set()
        if self.interval_s > 0:
            self.thread.join()


@contextlib.contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    def expire(_number: int, _frame: object) -> None:
        raise RunError(f"did not finish within {seconds:.0f} s")

    previous = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def _start(
    command: list[str], directory: Path, environment: dict[str, str], output: Path
) -> tuple[int, int]:
    """Fork a child that waits for a byte, then becomes the command; return its pid and the pipe."""
    gate_read, gate_write = os.pipe()
    pid = os.fork()
    if pid:
        os.close(gate_read)
        return pid, gate_write
    try:
        os.close(gate_write)
        os.setsid()
        os.chdir(directory)
        for descriptor, name in enumerate(("/dev/null", f"{output}.stdout", f"{output}.stderr")):
            opened = os.open(
                name, os.O_RDWR | (os.O_CREAT | os.O_TRUNC if descriptor else 0), 0o644
            )
            os.dup2(opened, descriptor)
            os.close(opened)
        if os.read(gate_read, 1):
            os.execve(command[0], command, environment)
    except OSError as error:
        os.write(2, f"cannot start {command[0]}: {error.strerror}\n".encode())
    finally:
        os._exit(127)


def run(
    command: list[str],
    directory: Path,
    environment: dict[str, str],
    output: Path,
    library: str | None,
    limit_s: float,
    interval_s: float = 0,
) -> Measurement:
    """Run command, with stdout and stderr in OUTPUT.stdout and OUTPUT.stderr, and measure its tree.

    library is the real path of a file that every process must have mapped when it ends; the ones
    that have not are listed. With interval_s the resident size is sampled so often. Raises RunError
    after limit_s; nothing is left running then.
    """
    pid, gate = _start(command, directory, environment, output)
    tree = _Tree(library)
    tree.alive.add(pid)
    timeline = _Timeline(tree, interval_s)
    try:
        with _time_limit(limit_s), timeline:
            if not _ptrace(_PTRACE_SEIZE, pid, _OPTIONS):
                raise RunError("the first process vanished before it started")
            started = ended = time.monotonic()
            os.write(gate, b"x")
            root_status, usage = 0, None
            while True:
                try:
                    tid, status, used = os.wait4(-1, _WALL)
                except ChildProcessError:
                    break
                if os.WIFSTOPPED(status):
                    tree.handle_stop(tid, status)
                    continue
                if tid == pid:
                    ended, root_status, usage = time.monotonic(), status, used
                tree.forget(tid)
    except PermissionError as error:
        raise RunError(
            f"cannot follow the program ({error}); in a container, allow SYS_PTRACE"
        ) from None
    finally:
        os.close(gate)
        tree.kill()
    if usage is None or not tree.finished:
        raise RunError("the program ended unseen")
    largest = max(tree.finished, key=lambda process: process.peak_rss_kib)
    return Measurement(
        exit_status=os.waitstatus_to_exitcode(root_status),
        wall_s=ended - started,
        cpu_s=usage.ru_utime + usage.ru_stime,
        user_s=usage.ru_utime,
        system_s=usage.ru_stime,
        peak_rss_kib=largest.peak_rss_kib,
        peak_vss_kib=max(process.peak_vss_kib for process in tree.finished),
        mappings=largest.mappings,
        minor_faults=usage.ru_minflt,
        largest=largest.command,
        processes=len(tree.finished),
        without_library=sorted({item.command for item in tree.finished if not item.has_library}),
        timeline=timeline.points,
    )


def finish(child: subprocess.Popen[Any], limit_s: float, where: str = "") -> Any:
    """Wait for the first process of a session of its own, and return what it wrote to a pipe for
    stderr; kill it and all that it has started if that takes too long."""
    try:
        return child.communicate(timeout=limit_s)[1]
    except BaseException as error:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        if isinstance(error, subprocess.TimeoutExpired):
            raise RunError(f"did not finish within {limit_s:.0f} s{where}") from None
        raise


def count_system_calls(
    command: list[str],
    directory: Path,
    environment: dict[str, str],
    output: Path,
    limit_s: float,
) -> SystemCalls:
    """Run command under `strace -f -c`; the preload, if any, is given to the program alone."""
    strace = shutil.which("strace")
    if strace is None:
        raise RunError("strace is not installed: apt-get install strace")
    summary = Path(f"{output}.strace")
    outer = {name: value for name, value in environment.items() if name != "LD_PRELOAD"}
    inner = ["-E", f"LD_PRELOAD={environment['LD_PRELOAD']}"] if "LD_PRELOAD" in environment else []
    with open(f"{output}.stdout", "wb") as stdout, open(f"{output}.stderr", "wb") as stderr:
        child = subprocess.Popen(
            [strace, "-f", "-c", "-U", "name,calls", "-o", str(summary), *inner, "--", *command],
            cwd=directory,
            env=outer,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )
        finish(child, limit_s, " under strace")
    lines = re.findall(r"^(\w+) +(\d+)$", summary.read_text(), re.MULTILINE)
    calls = {name: int(count) for name, count in lines if name != "total"}
    if not calls:
        complaint = Path(f"{output}.stderr").read_text(errors="replace").strip()
        raise RunError(f"strace counted nothing: {complaint[:200]}")
    memory = sum(calls.get(name, 0) for name in MEMORY_CALLS)
    return SystemCalls(child.returncode, sum(calls.values()), memory, calls)


@dataclass(frozen=True)
class Binding:
    """ld.so's decision which file's definition of an allocation function another file uses."""

    user: str
    provider: str
    symbol: str


def read_bindings(trace_files: list[Path]) -> set[Binding]:
    """Return from traces of LD_DEBUG=bindings who uses whose malloc, calloc, realloc and free.

    Paths are real paths; the main program stands there under the name it was called by.
    """
    pattern = re.compile(
        r"binding file (\S+) \[\d+\] to (\S+) \[\d+\]:"
        r" normal symbol `(malloc|calloc|realloc|free)'"
    )

    def name(text: str) -> str:
        return os.path.realpath(text) if "/" in text else text

    found = set()
    for trace in trace_files:
        for match in pattern.finditer(trace.read_text(errors="replace")):
            found.add(Binding(name(match[1]), name(match[2]), match[3]))
    return found


def foreign_bindings(bindings: set[Binding], expected: str) -> list[Binding]:
    """Return the bindings that do not lead to the library expected, the allocator's own aside.

    An executable that takes malloc's address, linked at a fixed one, provides the others with its
    jump to malloc: such a binding leads where the executable's own does.
    """
    return sorted(
        (
            item
            for item in bindings
            if expected not in (item.user, item.provider)
            and Binding(item.provider, expected, item.symbol) not in bindings
        ),
        key=lambda item: (item.user, item.symbol),
    )
