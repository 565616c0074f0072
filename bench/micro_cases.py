# SPDX-License-Identifier: MIT
"""The micro-benchmarks (bench/micro) as cases."""
from case import Case


def cases() -> list[Case]:
    """Return the cases of this group."""
    return []
