# SPDX-License-Identifier: MIT
"""The command line: one module per verb."""
import argparse
import errno
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
    profile,
    record,
    rt,
    run,
    top,
    why,
)
from .errors import ToolError, UsageError

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


_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    result = argparse.ArgumentParser(
        prog="quarry",
        description="Where a process's memory is, and what the kernel does lazily.",
        epilog="'quarry VERB --help' tells of each verb; every verb has --json. Exit status: 0, or 1 "
        "where something could not be done, 2 for a wrong command line, 130 after Ctrl-C; that of the command "
        "for 'run', 'record' and 'profile'.",
    )
    verbs = result.add_subparsers(dest="verb", metavar="VERB", required=True)
    for module in VERBS:
        module.add_parser(verbs)
    return result


def main(words: list[str]) -> int:
    """Run one command line; the exit status."""
    try:
        return _run(words)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        _drop_output()
        return 0
    except OSError as error:
        where = error.filename or ("the output" if error.errno in _UNWRITABLE else "")
        print(f"quarry: {where}{': ' if where else ''}{error.strerror or error}", file=sys.stderr)
        _drop_output()
        return 1


def _run(words: list[str]) -> int:
    try:
        arguments = parser().parse_args(words)
        return arguments.run(arguments)
    except ToolError as error:
        print(f"quarry: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    finally:
        if sys.stdout:
            sys.stdout.flush()  # here, for at the interpreter's end an error is a traceback


def _drop_output() -> None:
    """What could not be written is not tried again at the interpreter's end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
