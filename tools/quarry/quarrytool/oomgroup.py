# SPDX-License-Identifier: MIT
"""A control group of the tool's own: made, limited, and removed with all that is in it."""
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from . import procfs
from .errors import ToolError

_MOUNT = Path("/sys/fs/cgroup")
_HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_REMOVAL_S = 20.0


class Impossible(Exception):
    """No group can be made; the lines say where it was tried, and why not."""

    def __init__(self, reasons: list[str]) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = reasons


class Group:
    """A group that this process has made. None of its methods touches any other."""

    def __init__(self, folder: Path, version: int) -> None:
        self.folder, self.version = folder, version
        self.identity = self._identify()
        self.limit = 0

    def _identify(self) -> tuple[int, int]:
        status = os.stat(self.folder)
        return status.st_dev, status.st_ino

    @property
    def name(self) -> str:
        """Its path as the kernel's reports give it."""
        mount = _MOUNT / "memory" if self.version == 1 else _MOUNT
        return "/" + str(self.folder.relative_to(mount))

    def write(self, name: str, value: int) -> None:
        """Set one of its files."""
        (self.folder / name).write_text(str(value), encoding="ascii")

    def read(self, name: str) -> str:
        """The text of one of its files."""
        return (self.folder / name).read_text(encoding="ascii")

    def set_limit(self, count: int, has_swap: bool) -> None:
        """Limits memory, and keeps its processes out of swap; OSError where that cannot be."""
        limit = "memory.max" if self.version == 2 else "memory.limit_in_bytes"
        if not (self.folder / limit).exists():
            raise OSError(0, "the memory controller is not enabled for the groups in it")
        self.write(limit, count)
        self.limit = int(self.read(limit))
        swap = {"memory.swap.max": 0} if self.version == 2 else {"memory.memsw.limit_in_bytes": count}
        for name, value in (swap | {"memory.oom.group": 0}).items():
            if (self.folder / name).exists():
                self.write(name, value)
            elif has_swap and name in swap:
                raise OSError(0, f"{name} is not there, so its processes would be swapped out")

    def join(self) -> None:
        """The calling process becomes a member; between fork and exec."""
        self.write("cgroup.procs", os.getpid())

    def members(self) -> list[int]:
        """The processes in it."""
        return [int(pid) for pid in self.read("cgroup.procs").split()]

    def kills(self) -> int:
        """How many of its processes the kernel has killed for memory."""
        file = "memory.events" if self.version == 2 else "memory.oom_control"
        words = self.read(file).split()
        return int(words[words.index("oom_kill") + 1])

    def remove(self) -> None:
        """Kills what is in it and removes it, if it is still the one that was made."""
        end = time.monotonic() + _REMOVAL_S
        while True:
            try:
                if self._identify() != self.identity:
                    return
                for pid in self.members():
                    os.kill(pid, signal.SIGKILL)
                    _reap(pid)
                self.folder.rmdir()
                return
            except FileNotFoundError:
                return
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.02)


def _reap(pid: int) -> None:
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        pass


def _own_folders() -> Iterator[tuple[Path, int]]:
    """Where a group may be made: in the own group, then those above it."""
    for line in procfs.read(os.getpid(), "cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        version = 1 if controllers else 2
        mount = _MOUNT / "memory" if version == 1 else _MOUNT
        inner = Path(path.lstrip("/"))
        for folder in (mount / inner, *(mount / above for above in inner.parents)):
            if (folder / "cgroup.procs").exists():
                yield folder, version


def _new(parent: Path) -> Path:
    """A folder that was not there before; one that is there is somebody else's."""
    for number in range(100):
        folder = parent / f"quarry-oom-{os.getpid()}-{number}"
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            continue
    raise FileExistsError(17, "a hundred groups of this name are there")


def _prove_join(group: Group) -> None:
    """A child that does nothing else joins it; OSError where it may not."""
    pid = os.fork()
    if pid == 0:
        try:
            group.join()
            os._exit(0)
        except OSError as error:
            os._exit(error.errno or 1)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status:
        raise OSError(status, "a process may not be moved into it: " + os.strerror(status))


def _make(limit: int, has_swap: bool) -> Group:
    reasons: list[str] = []
    for parent, version in _own_folders():
        group = None
        try:
            group = Group(_new(parent), version)
            group.set_limit(limit, has_swap)
            _prove_join(group)
            return group
        except (OSError, ValueError) as error:
            reasons.append(f"{parent}: {getattr(error, 'strerror', None) or error}")
            if group:
                group.remove()
    raise Impossible(reasons or ["no control group with a memory controller is mounted"])


@contextmanager
def made(limit: int, has_swap: bool) -> Iterator[Group]:
    """A new group, removed at the end whatever happens; Impossible where none can be made.

    Signals that end the tool wait while it is made and while it is removed.
    """
    before = {number: signal.signal(number, _interrupt) for number in _HANDLED}
    group = None
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)
        group = _make(limit, has_swap)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)
        yield group
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)
        _remove(group)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)
        for number, handler in before.items():
            signal.signal(number, handler)


def _remove(group: Group | None) -> None:
    try:
        if group:
            group.remove()
    except OSError as error:
        raise ToolError(
            f"oom: {group.folder} cannot be removed: {error.strerror}; remove it by rmdir"
        ) from None


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
