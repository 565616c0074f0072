# SPDX-License-Identifier: MIT
"""What the tool says when it cannot do what it was asked for."""
import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_UNWRITABLE = (errno.EBADF, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EPIPE)


class ToolError(Exception):
    """A failure whose message is one line: the culprit, and what to do about it."""


class UsageError(ToolError):
    """A command line that argparse takes and that makes no sense: exit status 2, as argparse's own."""


class Refused(ToolError):
    """The kernel does not let this user look into the process."""


class NoQuarry(ToolError):
    """The process runs, and does not use Quarry."""


def tell(error: Exception) -> None:
    """Say it in a line on stderr; where nobody listens there, nothing more is written there."""
    text = str(error)
    if isinstance(error, OSError):
        where = error.filename or ("the output" if error.errno in _UNWRITABLE else "")
        text = f"{where}{': ' if where else ''}{error.strerror or error}"
    try:
        print(f"quarry: {text}", file=sys.stderr, flush=True)
    except OSError:
        drop_output(2)


def drop_output(descriptor: int) -> None:
    """What could not be written is not tried again at the interpreter's end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)


@contextmanager
def only_told() -> Iterator[None]:
    """Around the report on a command: where that fails, the exit status is the command's all the same."""
    try:
        yield
    except (OSError, ToolError) as error:
        tell(error)
