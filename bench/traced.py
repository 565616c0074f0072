# SPDX-License-Identifier: MIT
"""Replayed traces: the allocations of a real program, without the program."""
from case import Case


def cases() -> list[Case]:
    """Return the cases of this group."""
    return []
