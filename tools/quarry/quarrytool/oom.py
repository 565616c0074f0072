# SPDX-License-Identifier: MIT
"""quarry oom: whom the kernel would kill for memory, and how to be told instead."""
import argparse
import ctypes
import errno
import os
import resource
from pathlib import Path
from typing import Any

from . import oomdemo, oomgroup, pagelab, procfs, show
from .errors import ToolError, UsageError

MIB = 1 << 20
_SHOWN = 12
DEMO_ROOM, DEMO_BLOCK = 64 * MIB, 8 * MIB
SETTINGS = (
    (
        "vm.overcommit_memory",
        "0: a request beyond all memory is refused; 1: none is; 2: CommitLimit holds",
    ),
    ("vm.panic_on_oom", "0: a process is killed; 1: the machine stops; 2: also for a control group"),
    ("vm.oom_kill_allocating_task", "0: the highest score is killed; 1: whoever asked"),
    ("vm.swappiness", "how willingly anonymous pages are swapped out before that"),
)


def add_parser(verbs: Any) -> None:
    """Declare the verb."""
    parser = verbs.add_parser(
        "oom",
        help="whom the kernel would kill for memory, and why",
        description="Lists processes by oom_score, the next victim first, with what makes the score: "
        "memory (resident, swapped, page tables) and oom_score_adj, from -1000, never, to 1000, first. "
        "(oom_adj, from -17 to 15, is what it was called before Linux 2.6.36.) When a control group meets "
        "its limit, only its processes count. Sets nothing system-wide.",
    )
    parser.add_argument(
        "-n",
        "--count",
        type=int,
        metavar="N",
        help=f"processes to show (default {_SHOWN}; as JSON all)",
    )
    parser.add_argument(
        "--demo",
        action="store_true",
        help="in a control group made for it, and nowhere else, children take memory until one is "
        "killed, and what the kernel reports is explained; then the same with Quarry's soft limit: "
        "malloc returns NULL, and nobody is killed",
    )
    parser.add_argument(
        "--no-group",
        action="store_true",
        help="with --demo: no control group; a child with an address space limited to 64 MiB more "
        "than it has (RLIMIT_AS) is refused memory. So also where no group can be made",
    )
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.set_defaults(run=main)


def main(arguments: argparse.Namespace) -> int:
    """The verb."""
    if arguments.count is not None and arguments.count < 1:
        raise UsageError("oom: --count has to be above 0")
    if arguments.no_group and not arguments.demo:
        raise UsageError("oom: --no-group goes with --demo")
    if arguments.demo:
        return _demo(arguments.json, arguments.no_group)
    found = candidates()
    if arguments.json:
        show.print_json({"processes": found[: arguments.count]} | _settings())
        return 0
    console = show.console()
    rows = [
        [str(p["pid"]), str(p["score"]), str(p["adjustment"]), show.size(p["memory"]), p["command"]]
        for p in found[: arguments.count or _SHOWN]
    ]
    console.print(show.table(("PID", "SCORE", "ADJ", "MEMORY", "COMMAND"), rows, (4,)))
    victim = next((p for p in found if p["adjustment"] > -1000 and p["pid"] != 1), None)
    if victim:
        because = "its oom_score_adj" if victim["adjustment"] > 0 else "the memory it has"
        console.print(
            f"next to be killed if the whole machine runs out: {victim['command']} "
            f"({victim['pid']}), for {because}; to spare it: "
            f"echo -1000 >/proc/{victim['pid']}/oom_score_adj (as root)",
            markup=False,
        )
    console.print()
    _print_settings()
    return 0


def _settings() -> dict[str, Any]:
    memory = procfs.keyed(os.getpid(), "../meminfo")
    return {
        "settings": {name: _setting(name) for name, _ in SETTINGS},
        "swap_total": memory.get("SwapTotal", 0),
        "swap_free": memory.get("SwapFree", 0),
    }


def _print_settings() -> None:
    console, here = show.console(), _settings()
    rows = [[name, here["settings"][name], about] for name, about in SETTINGS]
    console.print(show.table(("SETTING", "IS", "MEANS"), rows, (0, 2), wrap=(2,)))
    console.print(
        f"swap: {show.size(here['swap_total'])}, free {show.size(here['swap_free'])}", markup=False
    )


def _setting(name: str) -> str:
    try:
        return Path("/proc/sys/" + name.replace(".", "/")).read_text(encoding="ascii").strip()
    except OSError:
        return "unknown"


def candidates() -> list[dict[str, Any]]:
    """Every process with memory of its own, the highest score first."""
    result = []
    for pid in procfs.processes():
        try:
            status = procfs.status(pid)
            if "VmRSS" not in status:
                continue
            memory = status["VmRSS"] + status.get("VmSwap", 0) + status.get("VmPTE", 0)
            result.append(
                {
                    "pid": pid,
                    "score": int(procfs.read(pid, "oom_score")),
                    "adjustment": int(procfs.read(pid, "oom_score_adj")),
                    "memory": memory,
                    "command": procfs.command(pid),
                }
            )
        except (ToolError, ValueError):
            continue  # it has ended meanwhile
    return sorted(result, key=lambda p: (-p["score"], -p["memory"]))


def demonstrate() -> dict[str, int]:
    """Takes memory in a child until malloc refuses; what it got, the error, and whether it went on."""
    allocate = pagelab.libc.malloc
    allocate.restype, allocate.argtypes = ctypes.c_void_p, (ctypes.c_size_t,)
    pagelab.libc.free.argtypes = (ctypes.c_void_p,)

    def take(_: procfs.Pagemap) -> list[int]:
        limit = procfs.status(os.getpid())["VmSize"] + DEMO_ROOM
        try:
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        except (OSError, ValueError):
            return []
        blocks = []
        while len(blocks) <= DEMO_ROOM // DEMO_BLOCK:
            ctypes.set_errno(0)
            block = allocate(DEMO_BLOCK)
            if not block:
                break
            pagelab.libc.memset(block, 1, DEMO_BLOCK)
            blocks.append(block)
        error, count = ctypes.get_errno(), len(blocks)
        if not blocks:
            return [limit, 0, error, 0]
        pagelab.libc.free(blocks.pop())
        again = allocate(DEMO_BLOCK)
        return [limit, count * DEMO_BLOCK, error, 1 if again else 0]

    numbers = pagelab.in_child(take)
    if len(numbers) != 4:
        raise ToolError(
            "oom: the child could not be limited; a hard limit (ulimit -Hv) is in the way"
        )
    if not numbers[1]:
        raise ToolError(
            f"oom: the child was refused its first {show.size(DEMO_BLOCK)}; another limit (ulimit -v, "
            "ulimit -d, QUARRY_LIMIT, CommitLimit) is met before the one of the demonstration"
        )
    return dict(zip(("limit", "taken", "errno", "went_on"), numbers))


def _demo(as_json: bool, no_group: bool) -> int:
    """In a group of its own; under RLIMIT_AS where none can be made."""
    reasons: list[str] = []
    console = show.console()

    def say(text: str) -> None:
        if not as_json:
            console.print(text, markup=False)

    if not as_json:
        _print_settings()
        say("None of these is changed.\n")
    if not no_group:
        try:
            seen = oomdemo.demonstrate(say)
        except oomgroup.Impossible as impossible:
            reasons = impossible.reasons
        else:
            if as_json:
                show.print_json(seen | _settings())
            return 0 if seen["as_expected"] else 1
    seen = {"place": "rlimit", "no_group": reasons} | demonstrate()
    if as_json:
        show.print_json(seen | _settings())
    else:
        _tell(seen, reasons, say)
    return 0 if seen["errno"] == errno.ENOMEM and seen["went_on"] else 1


def _tell(seen: dict[str, Any], reasons: list[str], say: oomdemo.Say) -> None:
    if reasons:
        say(
            "No control group with a limit on memory can be made here:\n"
            + "\n".join(f"  {reason}" for reason in reasons)
            + "\nSo it cannot be shown whom the kernel kills, and what it reports. It takes root, or "
            "a group that was handed over to this user (Delegate=yes in systemd) with the memory "
            "controller, and room for it in each group above. What a limit on address space does is shown instead.\n"
        )
    say(
        f"A child with RLIMIT_AS (ulimit -v) of {show.size(seen['limit'])} took and wrote "
        f"{show.size(seen['taken'])}; then malloc returned NULL and errno was "
        f"{errno.errorcode.get(seen['errno'], seen['errno'])}. It freed one block and "
        f"{'got it again' if seen['went_on'] else 'did not get it again'}: it lives, and nobody was "
        "killed. Without a limit malloc would have gone on succeeding, for nothing is taken before it "
        "is written, and the kernel would have killed a process at a write."
    )
