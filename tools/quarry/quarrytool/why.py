# SPDX-License-Identifier: MIT
"""quarry why: where a process's resident memory is, and what would bring it back."""
import argparse
from typing import Any

from . import ledger, show
from .arguments import add_pid


def add_parser(verbs: Any) -> None:
    """Declare the verb."""
    parser = verbs.add_parser(
        "why",
        help="where a process's resident memory is, and what would bring it back",
        description="Attributes each resident page of a process once: to live objects, free memory, "
        "caches, tables, binaries, stacks, files. The lines add up to Rss of /proc/PID/smaps_rollup; "
        "where the process runs meanwhile, the difference is shown. Of a process without Quarry the heap "
        "is one line.",
    )
    add_pid(parser)
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.set_defaults(run=main)


def main(arguments: argparse.Namespace) -> int:
    """The verb."""
    account = ledger.make(arguments.pid)
    if arguments.json:
        show.print_json(account.as_json())
        return 0
    rows = [
        [
            line.name,
            show.size(count),
            _share(count, account.rss),
            show.size(count) if line.frees else "-",
            line.remedy,
        ]
        for line, count in account.lines()
    ]
    rows.append(
        [
            "sum",
            show.size(account.total),
            "",
            show.size(sum(count for line, count in account.lines() if line.frees)),
            "",
        ]
    )
    rows.append(["smaps_rollup", show.size(account.rss), "", "", ""])
    console = show.console()
    console.print(
        f"{account.command} ({account.pid}): {show.size(account.virtual)} virtual, "
        f"{show.size(account.rss)} resident, {show.size(account.swap)} swapped",
        markup=False,
    )
    console.print(
        show.table(("memory", "bytes", "share", "brings", "what to do"), rows, (0, 4), wrap=(4,))
    )
    if account.live_absent:
        console.print(
            f"beside it {show.size(account.live_absent)} are allocated, but not resident: never "
            "touched, or swapped",
            markup=False,
        )
    if account.hint:
        console.print(account.hint, markup=False)
    return 0


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f}%" if whole else "-"
