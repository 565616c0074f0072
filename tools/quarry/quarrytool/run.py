# SPDX-License-Identifier: MIT
"""quarry run: start a program on Quarry; a short summary when it ends."""
import argparse
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from . import elf, heap, procfs, settings, show, start
from .errors import ToolError, UsageError, only_told
from .tracer import Outcome, Tracer

# Flag, variable or tunable, metavar, what it does: docs/OPTIONS.md.
OPTIONS = (
    ("--trim-threshold", "MALLOC_TRIM_THRESHOLD_", "BYTES", "dirty free memory to keep; -1: all"),
    ("--top-pad", "MALLOC_TOP_PAD_", "BYTES", "to ask for beyond the need, and to leave"),
    ("--mmap-threshold", "MALLOC_MMAP_THRESHOLD_", "BYTES", "larger blocks are mappings"),
    ("--mmap-max", "MALLOC_MMAP_MAX_", "N", "mappings at most"),
    ("--headroom", "QUARRY_HEADROOM", "PERCENT", "of the peak, free beside it; threshold -1 only"),
    ("--perturb", "MALLOC_PERTURB_", "BYTE", "overwrite freed memory"),
    ("--mxfast", "glibc.malloc.mxfast", "BYTES", "as M_MXFAST of mallopt"),
    ("--arena-test", "MALLOC_ARENA_TEST", "N", "as M_ARENA_TEST of mallopt"),
    ("--arena-max", "MALLOC_ARENA_MAX", "N", "as M_ARENA_MAX of mallopt"),
    ("--tcache-count", "glibc.malloc.tcache_count", "N", "objects a thread caches of one size"),
    ("--tcache-max", "glibc.malloc.tcache_max", "BYTES", "largest objects that threads cache"),
    ("--drain", "QUARRY_DRAIN", "WHEN", "others' caches are taken back: never, asked or idle"),
    ("--hugetlb", "glibc.malloc.hugetlb", "0|1", "1: ask for transparent huge pages"),
    ("--huge-share", "QUARRY_HUGE_SHARE", "PERCENT", "free and resident, for huge pages' sake"),
    ("--limit", "QUARRY_LIMIT", "BYTES|auto", "hold no more than this; then malloc fails"),
    ("--check", "QUARRY_CHECK", "0|1", "1: report every wrong free at once"),
    ("--check-action", "MALLOC_CHECK_", "0-3", "the same; 1: print a line, 2: abort, 3: both"),
    ("--zero", "QUARRY_ZERO", "0|1", "1: clear freed memory"),
    ("--quarantine", "QUARRY_QUARANTINE", "BYTES", "keep so much freed memory from reuse"),
    ("--canary", "QUARRY_CANARY", "0|1", "1: find writes beyond a block when it is freed"),
    ("--guard", "QUARRY_GUARD", "BYTES", "blocks of so many end at an inaccessible page"),
    ("--foreign", "QUARRY_FOREIGN", "WHAT", "pointers of other allocators: abort, leak or libc"),
)
_SUFFIXES = "; it may end with K, M, G or T"
_OR_NOTHING = "; or nothing, with '--' before the command"
_PUBLIC = "quarry_public"  # every build of Quarry has it
_ELF, _SHARED = b"\x7fELF", b"\3\0"  # how a file begins; its type, 16 bytes from there


def find(given: str | None, name: str, folder: str) -> str | None:
    """A file of Quarry's: the one given, or installed, or built in a folder of build/."""
    here = Path(os.path.realpath(sys.argv[0])).parent
    places = [here.parent / "libexec/quarry" / name, here.parents[1] / "build" / folder / name]
    for place in [Path(given)] if given else places:
        if place.is_file():
            return os.path.realpath(place)
    return None


def find_library(given: str | None = None, others: bool = False) -> str:
    """The library to preload: the one given, of the environment, installed, or built; Quarry, or others, too."""
    given = given or os.environ.get("QUARRY_LIBRARY")
    found = find(given, "libquarry.so", "release")
    if not found:
        raise ToolError(
            f"{given or 'libquarry.so'}: there is no such library; build it by 'make', "
            "or name it by --library"
        )
    _check_library(given or found, found, others)
    return preloadable(found)


def _check_library(name: str, path: str, others: bool) -> None:
    """A ToolError for a file that ld.so would tell of in each process and ignore, or that is no Quarry."""
    with open(path, "rb") as file:
        header = file.read(18)
    if header[:4] != _ELF or header[16:] != _SHARED:
        raise ToolError(f"{name}: this is no shared library; name a build of Quarry by --library")
    if not others and not elf.guess(os.getpid(), _PUBLIC, [procfs.Area(0, 0, "r-xp", 0, "", 0, path)]):
        raise ToolError(f"{name}: this is no build of Quarry, which has {_PUBLIC}; name one by --library")


def preloadable(path: str) -> str:
    """The path of a library; a ToolError where ld.so would take it for two, and ignore both."""
    if " " in path or ":" in path:
        raise ToolError(f"{path}: LD_PRELOAD cannot have a blank or a colon in a path; move it elsewhere")
    return path


def add_options(parser: argparse.ArgumentParser) -> None:
    """The allocator's options as flags."""
    group = parser.add_argument_group("options of the allocator (docs/OPTIONS.md)")
    verb = parser.prog.rpartition(" ")[2]
    for flag, name, metavar, about in OPTIONS:
        more = _SUFFIXES if metavar.startswith("BYTES") else ""
        group.add_argument(flag, type=_value(verb, flag, name, more), metavar=metavar, help=about)
    group.add_argument(
        "--control",
        metavar="0|1",
        nargs="?",
        const="1",
        type=_value(verb, "--control", "QUARRY_CONTROL", _OR_NOTHING),
        help="let 'quarry trim', 'limit', 'stats' and 'set' act on the command",
    )
    group.add_argument("--library", metavar="FILE", help="preload this build of Quarry")


def _value(verb: str, flag: str, name: str, more: str) -> Callable[[str], str]:
    """For argparse: a value that the library takes for its option; it would ignore others in silence."""

    def read(text: str) -> str:
        option = settings.options()[name]
        if not settings.accepts(option, text):
            raise UsageError(
                f"{verb}: {flag}: '{procfs.printable(text)}' is not one of: {option.range}{more}"
            )
        return text

    return read


def given(arguments: argparse.Namespace) -> list[str]:
    """The flags of add_options that are on the command line."""
    flags = [flag for flag, *_ in OPTIONS] + ["--control", "--library"]
    return [
        flag for flag in flags if getattr(arguments, flag[2:].replace("-", "_")) is not None
    ]


def environment(arguments: argparse.Namespace, others: bool = False) -> dict[str, str]:
    """The environment under which a command uses Quarry with the options given."""
    result = dict(os.environ)
    result["LD_PRELOAD"] = " ".join(
        filter(None, (find_library(arguments.library, others), result.get("LD_PRELOAD")))
    )
    given_before = filter(None, result.pop("GLIBC_TUNABLES", "").split(":"))
    tunables = [entry for entry in given_before if not _replaced(entry, arguments)]
    for flag, name, *_ in (*OPTIONS, ("--control", "QUARRY_CONTROL")):
        value = getattr(arguments, flag[2:].replace("-", "_"))
        if value is not None and name.startswith("glibc."):
            tunables.append(f"{name}={value}")
        elif value is not None:
            result[name] = value
    if tunables:
        result["GLIBC_TUNABLES"] = ":".join(tunables)
    return result


def _replaced(tunable: str, arguments: argparse.Namespace) -> bool:
    """Whether a flag says what a tunable does, which would win over the flag's variable."""
    option = settings.options().get(tunable.partition("=")[0])
    return option is not None and getattr(arguments, option.name, None) is not None


def add_parser(verbs: Any) -> None:
    """Declare the verb."""
    parser = verbs.add_parser(
        "run",
        help="run a program on Quarry, with a summary at its end",
        description="Runs a command with Quarry preloaded. At its end a summary is written to stderr: "
        "peaks, page faults, the system calls that move memory, bytes given back. It waits until every "
        "process that the command started has ended; with --quiet for the command alone. The exit status, "
        "or the signal, is the command's; 127 where it cannot be started.",
    )
    parser.add_argument("--quiet", "-q", action="store_true", help="no summary, no tracing")
    parser.add_argument(
        "--no-calls",
        action="store_true",
        help="do not count system calls: nothing but forks and ends is intercepted",
    )
    parser.add_argument("--json", action="store_true", help="the summary as JSON")
    parser.add_argument("-o", "--output", metavar="FILE", help="write the summary there")
    add_options(parser)
    parser.add_argument(
        "command",
        nargs=argparse.REMAINDER,
        metavar="-- COMMAND",
        help="the program and its arguments",
    )
    parser.set_defaults(run=main)


def command_of(arguments: argparse.Namespace) -> list[str]:
    """The command behind the options; none is a wrong command line."""
    command = arguments.command
    if command[:1] == ["--"]:
        command = command[1:]
    if not command:
        raise UsageError(
            f"{arguments.verb}: no command given; usage: quarry {arguments.verb} [OPTIONS] -- COMMAND [ARGUMENT ...]"
        )
    return list(command)


def main(arguments: argparse.Namespace) -> int:
    """The verb; does not return where the command was killed by a signal."""
    command = command_of(arguments)
    if arguments.quiet and (arguments.json or arguments.output is not None):
        raise UsageError(
            "run: --quiet leaves out the summary that --json and --output are about; leave out the one or the other"
        )
    variables = environment(arguments)
    if arguments.quiet:
        start.become(command, variables)
    output = show.open_output(arguments.output, keep=True) if arguments.output else None
    last: dict[str, Any] = {}
    started = time.monotonic()
    tracer = Tracer(command, variables, not arguments.no_calls, lambda pid: _look(pid, last))
    outcome = tracer.follow()
    if not tracer.started:
        return finish(outcome.status)
    figures = _figures(outcome, last, time.monotonic() - started)
    with only_told(), output or nullcontext(sys.stderr) as stream:  # before a signal ends this, too
        if output:
            show.empty(output)
        if arguments.json:
            show.print_json(figures, stream)
        else:
            print(_text(figures), file=stream)
    return finish(outcome.status)


def finish(status: int) -> int:
    """The exit status of the command; where a signal killed it, the same signal ends this."""
    if os.WIFSIGNALED(status):
        sys.stderr.flush()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if os.WTERMSIG(status) != signal.SIGKILL:
            signal.signal(os.WTERMSIG(status), signal.SIG_DFL)
        os.kill(os.getpid(), os.WTERMSIG(status))
    return os.waitstatus_to_exitcode(status)


def _look(pid: int, last: dict[str, Any]) -> None:
    """What the allocator has to say as the process ends."""
    try:
        last.update(asdict(heap.Heap(pid).totals()))
    except ToolError:
        pass


def _figures(outcome: Outcome, last: dict[str, Any], wall_s: float) -> dict[str, Any]:
    return {
        "wall_s": round(wall_s, 3),
        "cpu_s": round(outcome.cpu_s, 3),
        "processes": outcome.processes,
        "peak_vss": outcome.peak_vss,
        "peak_rss": outcome.peak_rss,
        "minor_faults": outcome.minor_faults,
        "major_faults": outcome.major_faults,
        "calls": {
            name: outcome.calls[name] for name in ("brk", "mmap", "munmap", "mremap", "madvise")
        }
        if outcome.counted
        else None,
        "returned": {"munmap": outcome.unmapped, "madvise": outcome.advised, "brk": outcome.lowered}
        if outcome.counted
        else None,
        "quarry": last or None,
    }


def _text(figures: dict[str, Any]) -> str:
    text = (
        f"quarry: peak {show.size(figures['peak_vss'])} virtual, {show.size(figures['peak_rss'])} "
        f"resident; {figures['minor_faults']} page faults, {figures['major_faults']} from disk; "
        f"{figures['cpu_s']:.2f} s CPU in {figures['wall_s']:.2f} s"
    )
    if figures["processes"] > 1:
        text += f"; {figures['processes']} processes"
    if figures["calls"]:
        text += "\nquarry: calls: " + ", ".join(f"{n} {c}" for c, n in figures["calls"].items())
        text += "\nquarry: given back: " + ", ".join(
            f"{show.size(count)} by {name}" for name, count in figures["returned"].items()
        )
    if figures["quarry"]:
        heap_end = figures["quarry"]
        text += (
            f"\nquarry: heap at the end: {show.size(heap_end['live'])} live, "
            f"{show.size(heap_end['free_objects'])} free in slabs, {show.size(heap_end['cached'])}"
            f" cached, {show.size(heap_end['dirty'])} dirty"
        )
    else:
        text += (
            "\nquarry: the program did not use Quarry: it is static, set-user-ID, or has a malloc "
            "of its own; 'quarry doctor' tells more"
        )
    return text
