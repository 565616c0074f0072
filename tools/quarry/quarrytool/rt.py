# SPDX-License-Identifier: MIT
"""quarry rt: whether a section with a deadline meets no page fault and no system call."""
import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from contextlib import nullcontext
from typing import IO, Any

from . import procfs, quantity, run, settings, show
from .errors import ToolError, UsageError
from .section import SectionTracer
from .statusline import StatusLine

MIXES = ("small", "mixed", "large", "bursts")
_SEEDS = (1, 2, 3)
_RESERVE = 64 << 20
_LEAST = 1 << 20
_LIMIT = "QUARRY_LIMIT"
_UNITS = "KMGT"
# Of the options, those that are about Quarry's own program.
_OWN = ("mix", "seed", "reserve", "lock", "thread", "worst")
# Its clock is a system call where the kernel trusts no clock of the processor.
_MEASURES = "clock_gettime"
_FIGURES = ("calls", "faults", "p50_ns", "p999_ns", "worst_ns")
_NO_MARK = (
    "quarry: {}: no section was seen: call close(-1000) where it begins and again where it ends, in the "
    "same process (docs/REALTIME.md)"
)


class _Stop(Exception):
    """There is nothing more to say; the argument is the exit status."""


def add_parser(verbs: Any) -> None:
    """Declare the verb."""
    parser = verbs.add_parser(
        "rt",
        help="prove that a section meets no page fault and no system call",
        description="Without a command, runs a program of Quarry's that follows the recipe of "
        "docs/REALTIME.md: it reserves memory, then allocates and frees at random within seven eighths of it, "
        "each call timed; what the machine did to the thread meanwhile is part of the worst time. With a "
        "command, runs it on Quarry with --trim-threshold=-1 and --mmap-max=0, and counts from its first "
        "call of close(-1000) to the next, in all threads; its report goes to stderr. Exit status: 0 "
        "where there was no page fault and no system call, 1 where there was, 2 for wrong use: also where "
        "the command marked no section.",
    )
    own = parser.add_argument_group("without a command")
    own.add_argument(
        "--reserve", type=_bytes, metavar="BYTES", help="memory to reserve, as in 64M (the default)"
    )
    own.add_argument(
        "--mix",
        action="append",
        choices=MIXES,
        help="1 B to 1 KiB, to 64 KiB, 4 to 512 KiB, or many that come and go as a whole; may be "
        "repeated (default: all)",
    )
    own.add_argument(
        "--seed",
        action="append",
        type=_natural,
        metavar="N",
        help="of the random sizes; may be repeated (default: 1, 2, 3)",
    )
    own.add_argument("--lock", action="store_true", help="call mlockall as well")
    own.add_argument("--thread", action="store_true", help="the section runs in a second thread")
    own.add_argument(
        "--worst",
        type=quantity.above_0("number of microseconds", 10**9),
        metavar="US",
        help="a call that takes more microseconds fails, too",
    )
    parser.add_argument(
        "--no-calls",
        action="store_true",
        help="do not look at system calls; without a command nothing is traced then, with one only "
        "the marks are",
    )
    parser.add_argument("--json", action="store_true", help="the report as JSON")
    parser.add_argument("-o", "--output", metavar="FILE", help="write the report there")
    run.add_options(parser)
    parser.add_argument(
        "command",
        nargs=argparse.REMAINDER,
        metavar="-- COMMAND",
        help="a program that marks its section, and its arguments",
    )
    parser.set_defaults(run=lambda arguments: main(arguments, parser))


def _natural(text: str) -> int:
    if not re.fullmatch(r"\d{1,18}", text):
        raise argparse.ArgumentTypeError(f"{text}: not a number from 0")
    return int(text)


def _bytes(text: str) -> int:
    count = _count(text)
    if count < _LEAST:
        raise argparse.ArgumentTypeError(f"{text}: give 1M or more, in bytes or with K, M, G or T")
    return count


def _count(text: str) -> int:
    """Bytes as the library reads them; 0 where these are none."""
    match = re.match(r"\+?(0x[0-9a-f]+|\d+)([KMGT]?)", text, re.IGNORECASE)
    if not match or not settings.accepts(settings.options()[_LIMIT], text):
        return 0
    base = 16 if match[1][1:2] in ("x", "X") else 8 if match[1][0] == "0" else 10
    return int(match[1], base) << 10 * (_UNITS.find(match[2].upper()) + 1 if match[2] else 0)


def main(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """The verb."""
    words = arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command
    if words:
        for name in _OWN:
            if getattr(arguments, name) not in (None, False):
                parser.error(f"--{name} is about Quarry's own program; leave it out, or COMMAND")
        return _command(words, arguments)
    try:
        return _own_program(arguments)
    except _Stop as stop:
        return int(stop.args[0])


def _named(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _wrong(faults: int, calls: dict[str, int] | None) -> list[str]:
    """What a section should not have met."""
    result = []
    if faults:
        result.append(_named(faults, "page fault"))
    if calls:
        names = ", ".join(f"{name} {count}" for name, count in Counter(calls).most_common())
        result.append(f"{_named(sum(calls.values()), 'system call')}: {names}")
    return result


def _nothing(arguments: argparse.Namespace) -> str:
    calls = "system calls were not counted" if arguments.no_calls else "no system call"
    return f"no page fault, {calls}"


def _report(
    arguments: argparse.Namespace,
    figures: dict[str, Any],
    table: tuple[tuple[str, ...], list[list[str]]],
    passed: str,
    stream: IO[str],
) -> int:
    """Write what was found; the exit status."""
    figures = {"ok": not figures["problems"], **figures}
    output = show.open_output(arguments.output) if arguments.output else None
    with output or nullcontext(stream) as file:
        if arguments.json:
            show.print_json(figures, file)
            return 0 if figures["ok"] else 1
        show.console(file).print(show.table(*table))
        for line in figures["problems"] or [passed]:
            print(f"quarry: {'passed' if figures['ok'] else 'failed'}: {line}", file=file)
    return 0 if figures["ok"] else 1


# ---- Quarry's own program ----------------------------------------------------------------------------


def _time(nanoseconds: int) -> str:
    if nanoseconds < 1000:
        return f"{nanoseconds} ns"
    if nanoseconds < 1000000:
        return f"{nanoseconds / 1000:.1f} us"
    return f"{nanoseconds / 1000000:.1f} ms"


def _program() -> str:
    given = os.environ.get("QUARRY_REALTIME")
    found = run.find(given, "realtime", "tools/rt")
    if not found:
        raise ToolError(f"{given or 'realtime'}: there is no such program; build it by 'make'")
    return found


def _limit(arguments: argparse.Namespace, variables: dict[str, str]) -> str:
    """The limit that there is, and where it comes from; empty where there is none."""
    value = procfs.printable(variables.get(_LIMIT, ""))
    return value and f"{_LIMIT if arguments.limit is None else '--limit'}={value}"


def _check_room(reserve: int, arguments: argparse.Namespace, variables: dict[str, str]) -> None:
    """What cannot be reserved is told before it is tried, for it is touched, page by page."""
    limit = _count(variables.get(_LIMIT, ""))
    if 0 < limit <= reserve:
        fitting = limit // 2 >> 20
        raise UsageError(
            f"rt: {_limit(arguments, variables)}: no room for the {show.size(reserve)} of --reserve and a fifth "
            f"beside them; raise it to {(reserve * 3 // 2 >> 20) + 1}M"
            + (f", or lower --reserve to {fitting}M" if fitting else "")
        )
    memory = procfs.keyed(os.getpid(), "../meminfo")
    left = memory.get("MemAvailable", reserve) + memory.get("SwapFree", 0)
    if left < reserve:
        raise ToolError(
            f"rt: --reserve of {show.size(reserve)} is more than the {show.size(left)} that the machine has left; "
            "lower it"
        )


def _remedy(reserve: int, arguments: argparse.Namespace, variables: dict[str, str]) -> str:
    """What to change where the program fails, which is for want of memory."""
    limit = _limit(arguments, variables)
    raised = f", or raise {limit}" if limit else ""
    locked = ", or raise 'ulimit -l', or leave --lock out" if arguments.lock else ""
    return f"lower --reserve, now {show.size(reserve)}{raised}{locked}"


def _run_once(
    words: list[str], variables: dict[str, str], count_calls: bool, remedy: str
) -> dict[str, Any]:
    """Its figures, and system_calls; None where they were not counted."""
    calls = None
    with tempfile.TemporaryFile("w+", encoding="utf-8") as file:
        if count_calls:
            tracer = SectionTracer(words, variables, True, file.fileno())
            status = os.waitstatus_to_exitcode(tracer.follow().status)
            if not tracer.started and status > 0:
                raise _Stop(1)  # the child has said why
            calls = dict(tracer.sections.calls)
            calls.pop(_MEASURES, None)
        else:
            try:
                status = subprocess.run(words, env=variables, stdout=file, check=False).returncode
            except OSError as error:
                raise ToolError(f"{words[0]}: {error.strerror}") from None
        file.seek(0)
        found = dict(re.findall(r"^(\w+)=(\d+)$", file.read(), re.MULTILINE))
    if status == -signal.SIGINT:
        raise _Stop(130)
    if status or not all(name in found for name in _FIGURES):
        how = f"was killed by signal {-status}" if status < 0 else f"failed, with status {status}"
        raise ToolError(f"rt: {words[0]} {how}; where it lacked memory, {remedy}")
    return {name: int(found[name]) for name in _FIGURES} | {"system_calls": calls}


def _own_program(arguments: argparse.Namespace) -> int:
    recipe = ("locked" if arguments.lock else "plain") + ("-thread" if arguments.thread else "")
    reserve = arguments.reserve or _RESERVE
    program, variables = _program(), run.environment(arguments)
    _check_room(reserve, arguments, variables)
    remedy = _remedy(reserve, arguments, variables)
    runs: list[dict[str, Any]] = []
    problems = []
    mixes, seeds = dict.fromkeys(arguments.mix or MIXES), dict.fromkeys(arguments.seed or _SEEDS)
    plan = [(mix, seed) for mix in mixes for seed in seeds]
    with StatusLine() as progress:
        for number, (mix, seed) in enumerate(plan, 1):
            progress.show(f"run {number} of {len(plan)}: {mix}, seed {seed}")
            words = [program, recipe, mix, str(seed), str(reserve)]
            found = _run_once(words, variables, not arguments.no_calls, remedy)
            runs.append({"mix": mix, "seed": seed} | found)
            wrong = _wrong(found["faults"], found["system_calls"])
            if arguments.worst is not None and found["worst_ns"] > arguments.worst * 1000:
                wrong.append(f"a call took {_time(found['worst_ns'])}")
            problems += [f"{mix}, seed {seed}: {line}" for line in wrong]
    rows = [
        [
            entry["mix"],
            str(entry["seed"]),
            str(entry["calls"]),
            str(entry["faults"]),
            _calls(entry["system_calls"]),
            *(_time(entry[key]) for key in _FIGURES[2:]),
        ]
        for entry in runs
    ]
    columns = ("mix", "seed", "calls", "page faults", "system calls", "p50", "p99.9", "worst")
    worst = max(entry["worst_ns"] for entry in runs)
    return _report(
        arguments,
        {"problems": problems, "reserve": reserve, "recipe": recipe, "runs": runs},
        (columns, rows),
        f"{_nothing(arguments)}; the worst call took {_time(worst)}",
        sys.stdout,
    )


def _calls(calls: dict[str, int] | None) -> str:
    return "-" if calls is None else str(sum(calls.values()))


# ---- A command that marks its section ----------------------------------------------------------------


def _ended(status: int) -> list[str]:
    if status < 0:
        return [f"the command was killed by signal {-status}"]
    return [f"the command ended with status {status}"] if status else []


def _command(words: list[str], arguments: argparse.Namespace) -> int:
    if arguments.trim_threshold is None:
        arguments.trim_threshold = "-1"
    if arguments.mmap_max is None:
        arguments.mmap_max = "0"
    tracer = SectionTracer(words, run.environment(arguments), not arguments.no_calls)
    status = os.waitstatus_to_exitcode(tracer.follow().status)
    seen, name = tracer.sections, os.path.basename(words[0])
    if not tracer.started:
        return 1
    if not seen.marks:
        print(_NO_MARK.format(name), file=sys.stderr)
        return 2
    faults = seen.minor_faults + seen.major_faults
    calls = None if arguments.no_calls else dict(seen.calls)
    problems = _wrong(faults, calls) + _ended(status)
    if seen.opened:
        problems.append("a section did not end: the second close(-1000) is missing")
    if not seen.uses_quarry:
        problems.append("the program did not use Quarry; 'quarry doctor' tells more")
    return _report(
        arguments,
        {
            "problems": problems,
            "command": name,
            "status": status,
            "sections": seen.count,
            "minor_faults": seen.minor_faults,
            "major_faults": seen.major_faults,
            "system_calls": calls,
        },
        (
            ("command", "sections", "page faults", "from disk", "system calls"),
            [[name, str(seen.count), str(faults), str(seen.major_faults), _calls(calls)]],
        ),
        f"{_named(seen.count, 'section')}: {_nothing(arguments)}",
        sys.stderr,
    )
