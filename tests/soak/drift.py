# SPDX-License-Identifier: MIT
"""Whether a process that repeats the same work grows."""
import re

# A heap may keep what it has earned by wanting it back, so its first rounds are no measure; then two
# quarters of the run are compared, by their peaks.
SHARE, SLACK_KIB = 0.08, 2048


def rounds(output):
    """KiB after each round, of lines 'round N KIB'."""
    return [int(kib) for kib in re.findall(r"^round \d+ (\d+)$", output, re.MULTILINE)]


def judge(series):
    """(whether it stays, one line about it)."""
    quarter = len(series) // 4
    if quarter < 5:
        return False, f"{len(series)} rounds are too few to tell"
    early, late = max(series[quarter:2 * quarter]), max(series[-quarter:])
    return (late <= early * (1 + SHARE) + SLACK_KIB,
            f"{len(series)} rounds, peaks {early} KiB, later {late} KiB")
