# SPDX-License-Identifier: MIT
"""quarry oom --demo: the kernel kills a process for memory, in a control group made for that; and how
a soft limit is met instead.

Nothing takes memory but children in that group, or, where none can be made, under RLIMIT_AS.
"""
import errno
import os
import re
import signal
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import RenderableType

from . import oomgroup, procfs, run, show
from .errors import ToolError
from .oomchild import BLOCK, Child, Seen

LIMIT = 128 << 20
# oom_score_adj, and blocks of each turn: who has most is not who is killed.
APPETITES = ((0, 12), (300, 6), (800, 3))
_SHOW_EVERY = 4
_REPORT = (
    (
        r"invoked oom-killer",
        "whose page fault met the limit (not who is killed); gfp_mask: what kind of memory; "
        "order 0: one page",
    ),
    (r"memory: usage \d+kB, limit", "what the group used, its limit, how often it was met"),
    (r"\[ *\d+\] .*greedy-", "a candidate: pid, uid, tgid, total_vm and rss in pages, ... adj, name"),
    (
        r"oom-kill:constraint=",
        "CONSTRAINT_MEMCG: a group's limit, so only its processes were candidates; task, pid: "
        "who was chosen",
    ),
    (
        r"Killed process",
        "the victim: address space, resident memory by kind, page tables, its adj",
    ),
)


@dataclass
class Part:
    """One part of the demonstration: children take memory until something happens."""

    about: str
    kills: int = 0
    killed: int | None = None
    before: list[Seen] = field(default_factory=list)  # the last look before it happened
    statuses: dict[int, int] = field(default_factory=dict)  # by process
    refusals: dict[int, str] = field(default_factory=dict)  # errno of malloc by process
    went_on: bool = False
    report: list[tuple[str, str]] = field(default_factory=list)
    report_note: str = ""


Say = Callable[[RenderableType], None]


class KernelLog:
    """What the kernel says from now on."""

    def __init__(self) -> None:
        self.file, self.why = -1, ""
        try:
            self.file = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            os.lseek(self.file, 0, os.SEEK_END)
        except OSError as error:
            self.why = f"/dev/kmsg may not be read ({error.strerror}); as root 'dmesg' shows it"

    def lines(self, group: str) -> list[str]:
        """The messages since then of an OOM kill in a group of this name, and no others."""
        # By name: the kernel gives its path from the top, which a container does not see.
        ours_is = re.compile(rf"oom_memcg=[^,]*/{re.escape(group)},")
        found: list[str] = []
        while self.file >= 0:
            try:
                record = os.read(self.file, 8192).decode(errors="replace")
            except BrokenPipeError:  # overwritten meanwhile: the next record is the oldest there is
                continue
            except OSError:
                break
            found.append(record.partition(";")[2].partition("\n")[0])
        ours = [n for n, line in enumerate(found) if ours_is.search(line)]
        starts = [n for n, line in enumerate(found) if "invoked oom-killer" in line]
        if not ours:
            return []
        first = max((n for n in starts if n < ours[0]), default=ours[0])
        return found[first : ours[0] + 3]

    def close(self) -> None:
        """No more is read."""
        if self.file >= 0:
            os.close(self.file)


def explain(lines: list[str]) -> list[tuple[str, str]]:
    """The lines of a report that matter, each with what it means."""
    found = []
    for line in lines:
        means = next((about for pattern, about in _REPORT if re.search(pattern, line)), None)
        if means:
            found.append((line.strip(), means))
    return found


def panics() -> bool:
    """Whether the kernel stops at any OOM kill, also in a group."""
    try:
        with open("/proc/sys/vm/panic_on_oom", encoding="ascii") as file:
            return int(file.read()) > 1
    except (OSError, ValueError):
        return False


def demonstrate(say: Say) -> dict[str, Any]:
    """All parts, in a group of its own; oomgroup.Impossible where there can be none."""
    if panics():
        raise oomgroup.Impossible(["vm.panic_on_oom is 2: the kernel would stop the whole machine"])
    has_swap = procfs.keyed(os.getpid(), "../meminfo").get("SwapTotal", 0) > 0
    with oomgroup.made(LIMIT, has_swap) as group:
        say(
            f"Control group {group.folder} (version {group.version}), made for this and removed at "
            f"the end: {show.size(group.limit)} of memory, no swap. Only its processes take memory."
        )
        parts = [_until_killed(group, say)]
        try:
            library = run.find_library()
        except ToolError:
            say(
                "\nThe parts with Quarry's soft limit are left out, for there is no "
                f"{os.environ.get('QUARRY_LIBRARY') or 'libquarry.so'} to preload; build it by 'make', "
                "or name it in QUARRY_LIBRARY."
            )
        else:
            share = group.limit // 4 // BLOCK * BLOCK
            everything = ((0, 21),)
            parts.append(_until_refused(group, say, library, "auto", everything))
            parts.append(_until_refused(group, say, library, str(share), APPETITES))
        return {
            "place": "cgroup",
            "group": str(group.folder),
            "version": group.version,
            "limit": group.limit,
            "parts": [asdict(part) for part in parts],
            "as_expected": _as_expected(parts),
        }


def _as_expected(parts: list[Part]) -> bool:
    first, *others = parts
    return (
        first.killed is not None
        and first.killed == max(first.before, key=lambda seen: seen.points).pid
        and 1 <= first.kills == list(first.statuses.values()).count(-signal.SIGKILL)
        and set(first.statuses.values()) == {-signal.SIGKILL, 0}
        and all(
            part.kills == 0
            and part.went_on
            and set(part.statuses.values()) == {0}
            and set(part.refusals.values()) == {"ENOMEM"}
            for part in others
        )
    )


def _grow(children: list[Child], appetites: tuple[tuple[int, int], ...], say: Say) -> list[Seen]:
    """Turns in which each takes some, until one has ended or all were refused; the look before."""
    turns = 2 * LIMIT // (BLOCK * sum(blocks for _, blocks in appetites)) + 1
    for turn in range(turns):
        before = [seen for child in children if (seen := child.look())]
        for child, (_, blocks) in zip(children, appetites):
            if not child.error:
                child.ask(blocks)
            if not all(other.alive() for other in children):
                return before
        done = all(child.error for child in children)
        if turn % _SHOW_EVERY == 0 or done:
            say(
                "  "
                + ", ".join(
                    f"{child.name} {show.size(child.blocks * BLOCK)}"
                    + (" (refused)" if child.error else "")
                    for child in children
                )
            )
        if done:
            return before
    raise ToolError(
        "oom: twice the limit was taken, and the kernel neither refused nor killed; "
        "the group's limit has no effect here"
    )


def _until_killed(group: oomgroup.Group, say: Say) -> Part:
    part = Part("malloc of libc, no limit but the group's")
    say(
        "\n1. Three children take and write memory page by page. Their oom_score_adj: "
        + ", ".join(str(adjustment) for adjustment, _ in APPETITES)
    )
    log, kills = KernelLog(), group.kills()
    children = [Child(group, adjustment, {}) for adjustment, _ in APPETITES]
    try:
        part.before = _grow(children, APPETITES, say)
        dead = {child.process.pid for child in children if not child.alive()}
        # The kernel may kill the next one before the memory of the first has come back.
        victims = sorted(part.before, key=lambda seen: seen.points, reverse=True)
        part.killed = next((seen.pid for seen in victims if seen.pid in dead), None)
        part.statuses = {child.process.pid: child.end() for child in children}
        part.kills = group.kills() - kills
        part.report = explain(log.lines(group.folder.name))
        part.report_note = log.why or ("" if part.report else "no report of this group was found")
    finally:
        log.close()
    _tell_killed(part, group, say)
    return part


def _tell_killed(part: Part, group: oomgroup.Group, say: Say) -> None:
    """Who, by which figures, why, and the kernel's words."""
    say("\nA moment before, WEIGHT being MEMORY and ADJ thousandths of the group's limit:")
    rows = [
        [
            str(seen.pid),
            seen.name,
            str(seen.adjustment),
            show.size(seen.memory),
            show.size(seen.points),
            str(seen.score),
            _fate(part.statuses[seen.pid]),
        ]
        for seen in part.before
    ]
    columns = ("PID", "NAME", "ADJ", "MEMORY", "WEIGHT", "SCORE", "THEN")
    say(show.table(columns, rows, (1, 6)))
    say(
        "SCORE is oom_score, as reckoned for the whole machine. The group counts "
        f"{part.kills} kill{'' if part.kills == 1 else 's'} (oom_kill)."
    )
    killed = next((seen for seen in part.before if seen.pid == part.killed), None)
    if not killed or not part.kills:
        say("The kernel killed nobody, or something else did: see the statuses.")
    else:
        most = max(part.before, key=lambda seen: seen.memory)
        say(
            f"Why {killed.name}: at its limit the kernel kills the process with the highest weight in the "
            f"group. {killed.name} held {show.size(killed.memory)}, and its oom_score_adj adds "
            f"{killed.adjustment}/1000 of {show.size(group.limit)}. "
            + (
                f"{most.name} held more, {show.size(most.memory)}, and lives."
                if most.pid != killed.pid and part.statuses[most.pid] == 0
                else ""
            )
        )
        if part.kills > 1:
            say("Another met the limit before its memory had come back, so the next one was killed as well.")
    if part.report:
        say("\nThe kernel's report:")
    after = [means for _, means in part.report[1:]] + [""]
    for (line, means), following in zip(part.report, after):
        say(f"  {line}")
        if means != following:
            say(f"    -> {means}")
    if part.report_note:
        say(f"The kernel's report is not shown: {part.report_note}.")


def _fate(status: int) -> str:
    return f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"


def _until_refused(
    group: oomgroup.Group,
    say: Say,
    library: str,
    limit: str,
    appetites: tuple[tuple[int, int], ...],
) -> Part:
    shown = limit if limit == "auto" else f"{limit} ({show.size(int(limit))}: each has its share)"
    part = Part(f"malloc of Quarry, QUARRY_LIMIT={limit}")
    say(
        f"\n{2 if limit == 'auto' else 3}. The same group, "
        + ("one child, which wants all of it" if len(appetites) == 1 else "all three children")
        + f"; Quarry's malloc, QUARRY_LIMIT={shown}"
    )
    variables = {"LD_PRELOAD": library, "QUARRY_LIMIT": limit, "PYTHONMALLOC": "malloc"}
    kills = group.kills()
    children = [Child(group, adjustment, variables) for adjustment, _ in appetites]
    part.before = _grow(children, appetites, say)
    part.refusals = {
        child.process.pid: errno.errorcode.get(child.error, str(child.error))
        for child in children
        if child.error
    }
    part.went_on = all(
        child.ask(-(child.blocks // 4)) and child.ask(1) and not child.error for child in children
    )
    part.statuses = {child.process.pid: child.end() for child in children}
    part.kills = group.kills() - kills
    say(
        f"malloc returned NULL ({', '.join(sorted(set(part.refusals.values())))}); each child "
        f"{'freed a quarter and went on' if part.went_on else 'could not go on'}. Exit statuses: "
        f"{', '.join(str(status) for status in part.statuses.values())}; kills: {part.kills}."
    )
    if limit == "auto":
        say("auto is what the group may hold: for one process in it. Several need a share each:")
    return part
