# SPDX-License-Identifier: MIT
"""The children of quarry oom's demonstration: interpreters that take memory as they are told."""
import ctypes
import os
import signal
import subprocess
import sys
from dataclasses import dataclass

from . import procfs
from .errors import ToolError
from .oomgroup import Group

BLOCK = 256 << 10
_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)

# Told on its standard input, a number of blocks to take or, if negative, to free; each answer is the
# number it has, then errno where malloc returned NULL.  A page is written as soon as it is there.
_SCRIPT = """
import ctypes, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, (ctypes.c_size_t,)
libc.free.argtypes = (ctypes.c_void_p,)
libc.memset.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t)
libc.prctl(15, sys.argv[1].encode(), 0, 0, 0)
size, page, blocks = int(sys.argv[2]), int(sys.argv[3]), []
print(0, 0, flush=True)
for line in sys.stdin:
    error = 0
    for _ in range(-int(line)):
        libc.free(blocks.pop())
    for _ in range(int(line)):
        ctypes.set_errno(0)
        block = libc.malloc(size)
        if not block:
            error = ctypes.get_errno()
            break
        for at in range(block, block + size, page):
            libc.memset(at, 1, 1)
        blocks.append(block)
    print(len(blocks), error, flush=True)
"""


@dataclass
class Seen:
    """A child as it was at one moment; memory as the kernel's choice counts it."""

    pid: int
    name: str
    adjustment: int
    taken: int
    memory: int
    score: int
    points: int


class Child:
    """A process in the group, with an oom_score_adj."""

    def __init__(self, group: Group, adjustment: int, variables: dict[str, str]) -> None:
        self.name, self.group = f"greedy-{adjustment}", group
        self.blocks, self.error = 0, 0

        def enter() -> None:
            _libc.prctl(_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
                file.write(str(adjustment))
            group.join()

        keep = {k: v for k, v in os.environ.items() if not k.startswith(("LD_", "PYTHON"))}
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-S", "-B", "-c", _SCRIPT, self.name, str(BLOCK), str(procfs.PAGE)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env=keep | variables,
                start_new_session=True,
                preexec_fn=enter,
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise ToolError(f"oom: a child cannot be started in {group.folder}: {error}") from None
        self.answer()
        if self.alive() and self.process.pid not in group.members():
            self.end()
            raise ToolError(f"oom: a child is not in {group.folder}; it takes no memory elsewhere")

    def answer(self) -> bool:
        """Waits for what it says next; False where it has ended."""
        assert self.process.stdout
        words = self.process.stdout.readline().split()
        if len(words) != 2:
            self.process.wait()
            return False
        self.blocks, self.error = int(words[0]), int(words[1])
        return True

    def ask(self, blocks: int) -> bool:
        """Lets it take blocks, or free them; False where it has ended."""
        assert self.process.stdin
        try:
            self.process.stdin.write(f"{blocks}\n")
            self.process.stdin.flush()
        except OSError:
            self.process.wait()
            return False
        return self.answer()

    def alive(self) -> bool:
        """Whether it runs."""
        return self.process.poll() is None

    def look(self) -> Seen | None:
        """What the kernel's choice would be made by; None where it has ended."""
        pid = self.process.pid
        try:
            status = procfs.status(pid)
            if "VmRSS" not in status:
                return None
            memory = status["VmRSS"] + status.get("VmSwap", 0) + status.get("VmPTE", 0)
            adjustment = int(procfs.read(pid, "oom_score_adj"))
            score = int(procfs.read(pid, "oom_score"))
        except ToolError:
            return None
        points = memory + adjustment * self.group.limit // 1000
        return Seen(pid, self.name, adjustment, self.blocks * BLOCK, memory, score, points)

    def end(self) -> int:
        """Lets it end of itself; its exit status, negative for a signal."""
        assert self.process.stdin and self.process.stdout
        try:
            self.process.stdin.close()
        except OSError:
            pass
        status = self.process.wait()
        self.process.stdout.close()
        return status
