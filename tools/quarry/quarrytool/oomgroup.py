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
_HANDLED = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGALRM,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
_SPARE = 64 << 20  # what a group above has to have beyond the limit, and the machine
_ROOM_FILES = {
    1: (
        ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ("memory.memsw.limit_in_bytes", "memory.memsw.usage_in_bytes"),
    ),
    2: (("memory.max", "memory.current"),),
}
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
                # One outside this PID namespace is listed as 0, which to kill() is the own group.
                for pid in (pid for pid in self.members() if pid > 0):
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


def _mount(version: int) -> Path:
    return _MOUNT / "memory" if version == 1 else _MOUNT


def _own_folders() -> Iterator[tuple[Path, int]]:
    """Where a group may be made: in the own group, then those above it."""
    for line in procfs.read(os.getpid(), "cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        version = 1 if controllers else 2
        mount = _mount(version)
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


def room(folder: Path, version: int) -> int | None:
    """What a group may still take; None where it has no limit. Its unused page cache counts as free."""
    rooms = []
    for limit, usage in _ROOM_FILES[version]:
        if not (folder / limit).exists():
            continue
        most = (folder / limit).read_text(encoding="ascii").strip()
        if most != "max":
            rooms.append(int(most) - int((folder / usage).read_text(encoding="ascii")))
    if not rooms:
        return None
    words = (folder / "memory.stat").read_text(encoding="ascii").split()
    key = "total_inactive_file" if version == 1 else "inactive_file"
    return min(rooms) + (int(words[words.index(key) + 1]) if key in words else 0)


def _prove_room(parent: Path, version: int, needed: int) -> None:
    """OSError where a limit above would be met first: the kernel would kill in that group."""
    above = parent
    while True:
        left = room(above, version)
        if left is not None and left < needed:
            whose = "it" if above == parent else str(above)
            raise OSError(
                0, f"{whose} has room for {left >> 20} MiB; {needed >> 20} MiB spare others' processes"
            )
        if above == _mount(version):
            return
        above = above.parent


def available() -> int:
    """What the machine has left, without swap."""
    return procfs.keyed(os.getpid(), "../meminfo").get("MemAvailable", 0)


def _make(limit: int, has_swap: bool) -> Group:
    reasons: list[str] = []
    needed, left = limit + _SPARE, available()
    if left < needed:
        raise Impossible(
            [f"the machine has {left >> 20} MiB available; {needed >> 20} MiB spare others' processes"]
        )
    for parent, version in _own_folders():
        group = None
        try:
            _prove_room(parent, version, needed)
            group = Group(_new(parent), version)
            group.set_limit(limit, has_swap)
            _prove_join(group)
            return group
        except (OSError, ValueError) as error:
            reasons.append(f"{parent}: {getattr(error, 'strerror', None) or error}")
            if group:
                group.remove()
    raise Impossible(reasons or ["no control group with a memory controller is mounted"])


class _Signals:
    """Makes the first signal a KeyboardInterrupt; while held, and after that, they are only noted."""

    def __init__(self) -> None:
        self.held, self.came = True, False

    def handle(self, *_: object) -> None:
        """The handler."""
        if self.held:
            self.came = True
        else:
            self.held = True
            raise KeyboardInterrupt

    def release(self) -> None:
        """From here on one is raised, also one that was noted."""
        self.held = False
        if self.came:
            self.held = True
            raise KeyboardInterrupt


@contextmanager
def made(limit: int, has_swap: bool) -> Iterator[Group]:
    """A new group, removed at the end whatever happens; Impossible where none can be made.

    Signals that end the tool wait while it is made and while it is removed.
    """
    signals = _Signals()
    before = {number: signal.signal(number, signals.handle) for number in _HANDLED}
    group = None
    try:
        try:
            group = _make(limit, has_swap)
            signals.release()
            yield group
        finally:
            signals.held = True  # at most one is raised: if here, then none below
    finally:
        try:
            _remove(group)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        if signals.came:
            raise KeyboardInterrupt


def _remove(group: Group | None) -> None:
    try:
        if group:
            group.remove()
    except OSError as error:
        raise ToolError(
            f"oom: {group.folder} cannot be removed: {error.strerror}; remove it by rmdir"
        ) from None
