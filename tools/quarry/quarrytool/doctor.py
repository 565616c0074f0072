# SPDX-License-Identifier: MIT
"""quarry doctor: the settings of this machine and of a process that decide about memory."""
import argparse
import os
import resource
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from . import elf, procfs, run, settings, show
from .arguments import add_pid
from .errors import Refused, ToolError
from .finding import Finding

ALLOCATORS = (
    "libjemalloc",
    "libmimalloc",
    "libtcmalloc",
    "libtbbmalloc",
    "libsnmalloc",
    "libhardened_malloc",
    "libc_malloc_debug",
)
_MANY = 0.8  # of max_map_count, from which on it is told
_THP = "/sys/kernel/mm/transparent_hugepage/"


def add_parser(verbs: Any) -> None:
    """Declare the verb."""
    parser = verbs.add_parser(
        "doctor",
        help="settings of this machine and of a process that decide about memory",
        description="Reports page size, huge pages, overcommit, swap, limits, control group, Yama; with "
        "PID its limits and group, whether Quarry is in it, and whether another allocator is, too; what its "
        "environment sets of malloc, and which of that is malformed or unknown and so does nothing. Sets "
        "nothing. Exit status 1 where something is bad.",
    )
    add_pid(parser, optional=True)
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.set_defaults(run=main)


def main(arguments: argparse.Namespace) -> int:
    """The verb."""
    findings = list(examine(arguments.pid))
    if arguments.json:
        show.print_json([asdict(finding) for finding in findings])
    else:
        rows = [[f.verdict, f.topic, f.value, f.advice] for f in findings]
        show.console().print(
            show.table(("", "what", "is", "advice"), rows, (0, 1, 2, 3), wrap=(2, 3))
        )
    return 1 if any(finding.verdict == "bad" for finding in findings) else 0


def examine(pid: int | None) -> Iterator[Finding]:
    """Every finding, of the machine first."""
    for check in (_page_size, _huge_pages, _overcommit, _swap, _max_map_count, _yama, _pagemap):
        yield check()
    if pid is None:
        yield _library()
    else:
        yield from _process(pid)
        yield from _settings(pid)
    yield from _limits(pid)
    yield _group(pid)


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _page_size() -> Finding:
    return Finding(
        "ok",
        "page size",
        show.size(procfs.PAGE),
        "" if procfs.PAGE == 4096 else "smaller blocks of the heap share a page of this size",
    )


def _huge_pages() -> Finding:
    setting = _text(_THP + "enabled")
    chosen = setting.partition("[")[2].partition("]")[0] or "not there"
    advice = ""
    if chosen == "always":
        advice = (
            "free pages may come back under huge pages; for lean heaps set "
            f"{_THP}enabled to madvise"
        )
    return Finding("note" if advice else "ok", "transparent huge pages", chosen, advice)


def _overcommit() -> Finding:
    mode = _text("/proc/sys/vm/overcommit_memory")
    names = {"0": "0: heuristic", "1": "1: always", "2": "2: strict"}
    advice = {
        "1": "malloc never fails; too much ends with the OOM killer, not with NULL",
        "2": "mappings count when they are made; malloc fails with ENOMEM at CommitLimit",
    }
    return Finding(
        "note" if mode in advice else "ok",
        "overcommit",
        names.get(mode, mode or "unknown"),
        advice.get(
            mode,
            "a single request beyond all memory is refused; what is touched too "
            "much ends with the OOM killer",
        ),
    )


def _swap() -> Finding:
    lines = dict(line.split(":") for line in _text("/proc/meminfo").splitlines())
    total = int(lines.get("SwapTotal", "0 kB").split()[0]) * 1024
    return Finding(
        "ok",
        "swap",
        show.size(total) if total else "none",
        f"swappiness {_text('/proc/sys/vm/swappiness')}; real-time programs lock their memory "
        "(mlockall)"
        if total
        else "what is anonymous stays resident until it is given back",
    )


def _max_map_count() -> Finding:
    count = _text("/proc/sys/vm/max_map_count")
    few = count.isdigit() and int(count) < 65530
    return Finding(
        "note" if few else "ok",
        "max_map_count",
        count or "unknown",
        "sysctl vm.max_map_count=65530, or lower MALLOC_MMAP_MAX_" if few else "",
    )


def _yama() -> Finding:
    scope = procfs.yama_scope()
    if scope == 0:
        return Finding("ok", "Yama ptrace_scope", "0, or no Yama", "")
    owners = "sysctl kernel.yama.ptrace_scope=0 permits it to owners"
    if scope < procfs.YAMA_ROOT:
        advice = f"looking into running processes needs root; 'quarry run' does not; {owners}"
    elif scope < procfs.YAMA_NOBODY:
        advice = f"looking into running processes needs root, as does 'quarry run' without -q; {owners}"
    else:
        advice = "until a reboot nobody may look into running processes; 'quarry run -q' does not need to"
    return Finding("note", "Yama ptrace_scope", str(scope), advice)


def _pagemap() -> Finding:
    try:
        with procfs.Pagemap(os.getpid()) as pagemap:
            list(pagemap.stretches(*_own_page()))
            if pagemap.can_scan:
                return Finding("ok", "pagemap", "PAGEMAP_SCAN works", "")
    except ToolError as error:
        return Finding("note", "pagemap", "cannot be read", str(error))
    return Finding(
        "note",
        "pagemap",
        "no PAGEMAP_SCAN (Linux 6.7)",
        "'quarry why' may count pages of zeros that were only read",
    )


def _own_page() -> tuple[int, int]:
    area = procfs.areas(os.getpid())[0]
    return area.start, area.end


def _library() -> Finding:
    try:
        return Finding("ok", "library", run.find_library())
    except ToolError as error:
        return Finding("bad", "library", "cannot be preloaded", str(error))


def _process(pid: int) -> Iterator[Finding]:
    name = procfs.command(pid)
    try:
        areas = procfs.areas(pid)
    except Refused as error:
        yield Finding("note", f"Quarry in {name}", "may not be looked at", _remedy(error))
        return
    yield _mappings(len(areas))
    try:
        found = elf.find(pid, "quarry_public", areas)
        path = found.path if found else ""
    except Refused as error:
        path = elf.guess(pid, "quarry_public", areas)
        yield Finding("note", f"memory of {name}", "may not be read", _remedy(error))
    if path:
        yield Finding("ok", f"Quarry in {name}", path)
    else:
        yield Finding("bad", f"Quarry in {name}", "not there", _why_not(pid, areas))
    others = sorted(
        {
            area.path
            for area in areas
            if any(area.path.rpartition("/")[2].startswith(library) for library in ALLOCATORS)
        }
    )
    if others:
        yield Finding(
            "bad" if path else "note",
            "other allocators",
            ", ".join(others),
            "whichever comes first in LD_PRELOAD serves malloc; keep one" if path else "",
        )
    else:
        yield Finding("ok", "other allocators", "none that is known")


def _remedy(error: ToolError) -> str:
    """What to do, without what the finding says already."""
    return str(error).partition("; ")[2]


def _mappings(count: int) -> Finding:
    most = _text("/proc/sys/vm/max_map_count")
    many = most.isdigit() and count > int(most) * _MANY
    return Finding(
        "note" if many else "ok",
        "mappings",
        f"{count} of {most or 'unknown'}",
        "where there can be no more, malloc may fail: raise vm.max_map_count by sysctl"
        if many
        else "",
    )


def _settings(pid: int) -> Iterator[Finding]:
    try:
        found = settings.of_process(pid)
    except Refused as error:
        yield Finding("note", "settings of malloc", "may not be read", _remedy(error))
        return
    yield from found or [Finding("ok", "settings of malloc", "none: the defaults hold")]


def _why_not(pid: int, areas: list[procfs.Area]) -> str:
    if not any("/ld-" in area.path or "/ld.so" in area.path for area in areas):
        return "the program is static: link it with libquarry.a, or if it is, do not strip it"
    try:
        preload = [
            value
            for value in procfs.read(pid, "environ").split("\0")
            if value.startswith("LD_PRELOAD=")
        ]
    except ToolError:
        preload = []
    if preload and "quarry" in preload[0]:
        return (
            f"{preload[0]} was set, but did not take: the file is missing, or the program runs with "
            "other rights (set-user-ID)"
        )
    return "start it by 'quarry run -- COMMAND'"


def _limits(pid: int | None) -> Iterator[Finding]:
    of_pid: Callable[[int], tuple[int, int]] = lambda number: resource.prlimit(pid or 0, number)
    for name, number, flag in (
        ("address space", resource.RLIMIT_AS, "-v"),
        ("data", resource.RLIMIT_DATA, "-d"),
        ("locked memory", resource.RLIMIT_MEMLOCK, "-l"),
        ("stack", resource.RLIMIT_STACK, "-s"),
    ):
        try:
            soft = of_pid(number)[0]
        except (OSError, ValueError):
            advice = procfs.who_may("CAP_SYS_RESOURCE")
            yield Finding("note", f"limit on {name}", "may not be read", advice)
            continue
        limited = soft != resource.RLIM_INFINITY
        meets = limited and number in (resource.RLIMIT_AS, resource.RLIMIT_DATA)
        yield Finding(
            "note" if meets else "ok",
            f"limit on {name}",
            show.size(soft) if limited else "none",
            f"malloc fails with ENOMEM there; ulimit {flag} unlimited lifts it" if meets else "",
        )


def _group(pid: int | None) -> Finding:
    topic = "control group's memory limit"
    try:
        lines = procfs.read(pid or os.getpid(), "cgroup").splitlines()
    except ToolError as error:
        return Finding("note", topic, "cannot be seen here", str(error))
    texts = [text for line in lines for text in _group_limits(line)]
    limits = [int(text) for text in texts if text.isdigit() and int(text) < 1 << 60]
    if not limits:
        return Finding("ok", topic, "none" if texts else "cannot be seen here")
    return Finding(
        "note",
        topic,
        show.size(min(limits)),
        "the OOM killer acts inside the group when it is met; QUARRY_LIMIT=auto makes malloc fail "
        "before",
    )


def _group_limits(line: str) -> list[str]:
    """What limits a group and those above it, as src/limit.c reads it; line: of /proc/PID/cgroup."""
    _, controllers, path = line.split(":", 2)
    if controllers not in ("", "memory"):
        return []
    mount, file = (
        ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
        if controllers
        else ("/sys/fs/cgroup", "memory.max")
    )
    names = path.strip("/").split("/")
    folders = [f"{mount}/{'/'.join(names[:count])}" for count in range(len(names) + 1)]
    return list(filter(None, (_text(f"{folder}/{file}") for folder in folders)))
