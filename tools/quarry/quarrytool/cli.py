# SPDX-License-Identifier: MIT
"""The command line: one module per verb."""
import argparse
import os
import sys

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
    record,
    rt,
    run,
    top,
    why,
)
from .errors import ToolError

VERBS = (
    run,
    rt,
    why,
    top,
    kernel_formats,
    heapmap,
    record,
    plot,
    lazy,
    oom,
    kmem,
    doctor,
    control,
    completion,
)


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    result = argparse.ArgumentParser(
        prog="quarry",
        description="Where a process's memory is, and what the kernel does lazily.",
        epilog="'quarry VERB --help' tells of each verb; every verb has --json. Exit status: 0, or 1 "
        "where something could not be done, 2 for a wrong command line; that of the command for 'run'.",
    )
    verbs = result.add_subparsers(dest="verb", metavar="VERB", required=True)
    for module in VERBS:
        module.add_parser(verbs)
    return result


def main(words: list[str]) -> int:
    """Run one command line; the exit status."""
    arguments = parser().parse_args(words)
    try:
        return arguments.run(arguments)
    except ToolError as error:
        print(f"quarry: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
