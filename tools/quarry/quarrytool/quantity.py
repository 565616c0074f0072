# SPDX-License-Identifier: MIT
"""Quantities on the command line."""
import argparse
from collections.abc import Callable

DAY_S = 24 * 60 * 60


def above_0(what: str, most: int) -> Callable[[str], float]:
    """For argparse: reads a number above 0; nan and inf are none."""

    def read(text: str) -> float:
        try:
            result = float(text)
        except ValueError:
            result = 0
        if not 0 < result <= most:
            raise argparse.ArgumentTypeError(
                f"'{text}' is no {what}: it has to be above 0, and at most {most}"
            )
        return result

    return read


seconds = above_0("number of seconds", DAY_S)
