# SPDX-License-Identifier: MIT
"""quarry profile: which code allocated what is live, by samples."""
import argparse
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict
from typing import Any, TextIO

from . import callsites, procfs, profiled, run, show, start
from .errors import ToolError, UsageError, only_told

_LIBRARY = "libquarry_profile.so"
_RATE = 512 << 10
_UNITS = {"": 0, "K": 10, "M": 20, "G": 30}
_START = "quarry profile -o FILE [OPTIONS] -- COMMAND [ARGUMENT ...]"


def add_parser(verbs: Any) -> None:
    """Declare the verb."""
    parser = verbs.add_parser(
        "profile",
        help="which code allocated what is live, by samples; leaks",
        usage=f"{_START}\n"
        "       quarry profile [OPTIONS] FILE",
        description="With -o, runs a command on Quarry and samples its allocations into a file; at its "
        "end the report goes to stderr, and the exit status is the command's. Without -o, reports what is "
        "in such a file, also while the process runs: live bytes by call site, estimated from the samples.",
    )
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="run a command; the profile to write"
    )
    parser.add_argument(
        "--rate",
        type=_bytes,
        metavar="BYTES",
        help="mean of the bytes from one sample to the next (default 512K); 1: every block",
    )
    parser.add_argument(
        "--follow", action="store_true", help="profile the command's children, too, into FILE.PID"
    )
    parser.add_argument(
        "--plain", action="store_true", help="run it with its own allocator, not on Quarry"
    )
    parser.add_argument("--quiet", "-q", action="store_true", help="no report at the command's end")
    report = parser.add_argument_group("report")
    report.add_argument(
        "-n", "--count", type=_positive, default=20, metavar="N", help="sites to show (default 20)"
    )
    report.add_argument(
        "--depth",
        type=_positive,
        default=3,
        metavar="N",
        help="functions that make a site, the caller of malloc and those above it (default 3)",
    )
    report.add_argument(
        "--leaks",
        action="store_true",
        help="what is live at the end, without the C library's and the loader's own",
    )
    report.add_argument(
        "--allocated", action="store_true", help="what was ever allocated, also if it was freed"
    )
    report.add_argument("--pprof", metavar="OUT", help="write the profile for pprof there")
    report.add_argument(
        "--folded", metavar="OUT", help="write folded stacks, for flame graphs, there"
    )
    report.add_argument("--json", action="store_true", help="the report as JSON")
    run.add_options(parser)
    parser.add_argument(
        "words", nargs="*", metavar="FILE | -- COMMAND", help="a profile, or a program"
    )
    parser.set_defaults(run=main)


def _bytes(text: str) -> int:
    number, unit = (text[:-1], text[-1].upper()) if text[-1:].isalpha() else (text, "")
    count = int(number) << _UNITS[unit] if number.isdecimal() and unit in _UNITS else 0
    if not 0 < count < 1 << 40:
        raise argparse.ArgumentTypeError("takes bytes, as in 64K; 1: every block")
    return count


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError("has to be above 0")
    return int(text)


def main(arguments: argparse.Namespace) -> int:
    """The verb."""
    if arguments.leaks and arguments.allocated:
        raise UsageError("profile: --leaks and --allocated exclude each other")
    if arguments.quiet and arguments.json:
        raise UsageError(
            "profile: --quiet leaves out the report that --json is about; leave out the one or the other"
        )
    if arguments.output is None:
        _report(_named(arguments), arguments, sys.stdout)
        return 0
    arguments.command = arguments.words
    command = run.command_of(arguments)
    variables = _environment(arguments)
    if not shutil.which(command[0]):  # what an earlier command left is worth more than no profile
        _refuse_process(command[0])
        start.become(command, variables)
    _make_way(arguments.output)
    status = _run(command, variables)
    with only_told():
        if os.path.getsize(arguments.output) == 0:
            os.unlink(arguments.output)
            if status != start.NOT_STARTED:
                raise ToolError(
                    f"{command[0]}: not profiled: it is static, set-user-ID, or allocated nothing; "
                    "there is no profile"
                )
        elif not arguments.quiet or arguments.pprof or arguments.folded:
            _report(profiled.load(arguments.output), arguments, sys.stderr)
    return status


def _named(arguments: argparse.Namespace) -> profiled.Profile:
    """The profile that the command line names; flags that only a command heeds are wrong there."""
    flags = [name for name in ("--rate", "--follow", "--plain") if getattr(arguments, name[2:])]
    flags += run.given(arguments)
    if flags:
        raise UsageError(f"profile: {', '.join(flags)}: this is for a COMMAND to start; to do so: {_START}")
    if len(arguments.words) != 1:
        raise UsageError(f"profile: name one profile; to run a command: {_START}")
    word = arguments.words[0]
    try:
        return profiled.load(word)
    except ToolError as error:
        _refuse_process(word)
        if shutil.which(word):
            raise UsageError(
                f"profile: {error}; to run it as a command, name the profile to write by -o: {_START}"
            ) from None
        raise


def _refuse_process(word: str) -> None:
    """A UsageError where a word that names nothing else is the number of a process."""
    if word.isdecimal() and os.path.exists(f"/proc/{word}") and not os.path.exists(word):
        raise UsageError(
            f"profile: {word}: a process that runs cannot be profiled; start its program by: {_START}"
        )


# ---- Running a command ---------------------------------------------------------------------------


def _make_way(path: str) -> None:
    """An empty file, a new one: a process that still writes an old profile keeps that."""
    if os.path.lexists(path):
        if not os.path.isfile(path):
            raise ToolError(f"{path}: this is no regular file; name another one")
        os.unlink(path)
    show.open_output(path).close()


def _environment(arguments: argparse.Namespace) -> dict[str, str]:
    flags = run.given(arguments)
    if arguments.plain and flags:
        raise UsageError(
            f"profile: {', '.join(flags)}: this is for Quarry, which --plain leaves out; give the one or the other"
        )
    shim = run.find(None, _LIBRARY, "release")
    if not shim:
        raise ToolError(f"{_LIBRARY}: there is no such library; build it by 'make'")
    result = dict(os.environ) if arguments.plain else run.environment(arguments, others=True)
    result["LD_PRELOAD"] = " ".join(filter(None, (run.preloadable(shim), result.get("LD_PRELOAD"))))
    result["QUARRY_PROFILE_FILE"] = os.path.abspath(arguments.output)
    result["QUARRY_PROFILE_RATE"] = str(arguments.rate or _RATE)
    if arguments.follow:
        result["QUARRY_PROFILE_FOLLOW"] = "1"
    return result


def _run(command: list[str], variables: dict[str, str]) -> int:
    """The command's exit status; 128 and the signal where one killed it."""
    pid = os.fork()
    if pid == 0:
        start.become(command, variables | {"QUARRY_PROFILE_PID": str(os.getpid())})
    before = start.pass_on(lambda number: _send(pid, number))
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    for number, handler in before.items():  # the report is still to come
        signal.signal(number, handler)
    return status if status >= 0 else 128 - status


def _send(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):  # it has just ended
        os.kill(pid, number)


# ---- The report ----------------------------------------------------------------------------------


def _report(profile: profiled.Profile, arguments: argparse.Namespace, stream: TextIO) -> None:
    if arguments.leaks and profile.running:
        raise ToolError(
            f"{profile.name}: process {profile.pid} still runs; what is live now may be freed: leave "
            "--leaks out, or end it"
        )
    what = "allocated" if arguments.allocated else "live"
    if arguments.pprof:
        _write(arguments.pprof, lambda out: callsites.write_pprof(profile, out))
    if arguments.quiet and not arguments.folded:
        return
    resolved = callsites.Resolved(profile)
    if arguments.folded:
        _write(
            arguments.folded,
            lambda out: callsites.write_folded(resolved, what, arguments.leaks, out),
        )
    if arguments.quiet:
        return
    report = _figures(resolved, arguments, what)
    if arguments.json:
        show.print_json(report, stream)
    elif not (arguments.pprof or arguments.folded) or arguments.output:
        _print(report, stream)


def _write(path: str, writer: Callable[[TextIO], None]) -> None:
    with show.open_output(path) as out:
        writer(out)


def _figures(
    resolved: callsites.Resolved, arguments: argparse.Namespace, what: str
) -> dict[str, Any]:
    profile = resolved.profile
    sites = resolved.sites(what, arguments.depth, arguments.leaks)
    kept = resolved.kept() if arguments.leaks else profiled.Tally()
    return {
        "command": profile.command,
        "pid": profile.pid,
        "running": profile.running,
        "rate": profile.rate,
        "what": "leaked" if arguments.leaks else what,
        "bytes": sum(site.tally.bytes for site in sites),
        "blocks": round(sum(site.tally.blocks for site in sites)),
        "kept_by_runtime": kept.bytes,
        "untracked": profile.untracked,
        "nested": profile.nested,
        "shallow": profile.shallow,
        "without_stack": sum(
            getattr(stack, what).samples for stack in profile.stacks if not stack.frames
        ),
        "site_count": len(sites),
        "sites": [
            {
                "bytes": site.tally.bytes,
                "blocks": round(site.tally.blocks),
                "samples": site.tally.samples,
                "frames": [asdict(frame) | {"text": str(frame)} for frame in site.frames],
            }
            for site in sites[: arguments.count]
        ],
    }


def _print(report: dict[str, Any], stream: TextIO) -> None:
    whole = report["bytes"]
    how = f"a sample each {show.size(report['rate'])}" if report["rate"] > 1 else "every block"
    state = ", which runs" if report["running"] else ""
    print(
        f"{report['command']} ({report['pid']}){state}: {show.size(whole)} {report['what']} in "
        f"{report['blocks']} blocks at {report['site_count']} sites; {how}",
        file=stream,
    )
    rows = [
        (
            show.size(site["bytes"]),
            f"{100 * site['bytes'] / max(whole, 1):.1f}%",
            str(site["blocks"]),
            " < ".join(frame["text"] for frame in site["frames"]) or "(stacks without room)",
        )
        for site in report["sites"]
    ]
    if rows:
        table = show.table((report["what"], "share", "blocks", "site"), rows, left=(3,), wrap=(3,))
        show.console(stream).print(table)
    for line in _notes(report):
        print(line, file=stream)


def _notes(report: dict[str, Any]) -> Iterator[str]:
    """What the figures leave out."""
    if report["kept_by_runtime"]:
        yield f"{show.size(report['kept_by_runtime'])} that the C library keeps to the end are left out"
    if report["untracked"]:
        yield f"{report['untracked']} samples are missing: too many at once; a larger --rate has room"
    if report["without_stack"]:
        yield f"{report['without_stack']} samples have no stack: too many, or no space for the file"
    if report["shallow"]:
        yield (
            f"{report['shallow']} samples have their caller alone: code was compiled at run time, and "
            "libgcc's unwinder would take a lock"
        )
