# SPDX-License-Identifier: MIT
"""The command line: one module per verb."""
import argparse
import io
import os
import sys
from collections.abc import Sequence
from typing import Any

from . import (
    completion,
    control,
    doctor,
    heapmap,
    kernel_formats,
    kmem,
    lazy,
    oom,
    plot,
    profile,
    record,
    rt,
    run,
    shipped,
    top,
    why,
)
from .errors import ToolError, UsageError, drop_output, tell

VERBS = (
    run,
    rt,
    why,
    top,
    kernel_formats,
    heapmap,
    profile,
    record,
    plot,
    lazy,
    oom,
    kmem,
    doctor,
    control,
    completion,
)


class _Version(argparse.Action):
    """Prints the version; it is not read before."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        print(f"quarry {shipped.version()}")
        parser.exit()


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    result = argparse.ArgumentParser(
        prog="quarry",
        description="Where a process's memory is, and what the kernel does lazily.",
        epilog="'quarry VERB --help' tells of each verb; every verb has --json. Exit status: 0, or 1 "
        "where something could not be done, 2 for a wrong command line, 130 after Ctrl-C; that of the command "
        "for 'run', 'record' and 'profile'.",
    )
    result.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    verbs = result.add_subparsers(dest="verb", metavar="VERB", required=True)
    for module in VERBS:
        module.add_parser(verbs)
    return result


def _replace_closed() -> None:
    """Where an output is closed, so is its stand-in to writing; else the next file would take its place."""
    for number, name, mode in ((1, "stdout", os.O_RDONLY), (2, "stderr", os.O_WRONLY)):
        if getattr(sys, name) is None:
            file = os.open(os.devnull, mode)
            if file != number:
                os.dup2(file, number)
                os.close(file)
            os.set_inheritable(number, True)  # for a command of 'run'
            setattr(sys, name, open(number, "w", encoding="utf-8", closefd=False))


def main(words: list[str]) -> int:
    """Run one command line; the exit status."""
    _replace_closed()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names of files need not be text
    try:
        return _run(words)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        drop_output(1)
        return 0
    except OSError as error:
        tell(error)
        drop_output(1)
        return 1


def _run(words: list[str]) -> int:
    try:
        arguments = parser().parse_args(words)
        return arguments.run(arguments)
    except ToolError as error:
        tell(error)
        return 2 if isinstance(error, UsageError) else 1
    finally:
        sys.stdout.flush()  # here, for at the interpreter's end an error is a traceback
