# SPDX-License-Identifier: MIT
"""Arguments that verbs have in common."""
import argparse
from collections.abc import Sequence
from typing import Any

from .errors import UsageError


class _NoMore(argparse.Action):
    """What follows the one process, as where $(pidof NAME) gives several."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        if values:
            raise UsageError(f"one process at a time: {namespace.pid} {' '.join(values)}")


def add_pid(parser: argparse.ArgumentParser, optional: bool = False) -> None:
    """The process that a verb looks at."""
    parser.add_argument("pid", type=int, metavar="PID", nargs="?" if optional else None)
    parser.add_argument("more", nargs="*", default=None, action=_NoMore, help=argparse.SUPPRESS)
