# SPDX-License-Identifier: MIT
"""Ratios of runs, how sure one can be of them, and what follows.

Two allocators are compared by runs that were made in turns. The figures of one turn are a pair,
and its ratio is what both met alike: a slow moment of the machine hits both. Of the ratios the
median counts, for one disturbed run must not move the result.

How sure. The bootstrap draws as many pairs as there are, with repetition, again and again; the
medians of these draws spread about as the median itself would if everything was measured anew. The
middle 99 % of them are the interval. Of so few runs this interval is a little too narrow: it holds
the true median in 94 % of the cases with 5 pairs, in 98 % with 7. Fewer than 5 give no verdict.
"""
import math
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

RESAMPLES = 1000
LEVEL = 0.99
FEWEST = 5
# Where code and data happen to lie moves a program's time by about this much.
MARGIN = 0.01

BETTER, WORSE, CANNOT_TELL = "better", "worse", "cannot tell"


def ratio(value: float, base: float) -> float | None:
    """Return value / base; two zeros are equal, and nothing can be compared with one zero."""
    if base == 0:
        return 1.0 if value == 0 else None
    return value / base


def paired_ratios(values: Sequence[float], bases: Sequence[float]) -> list[float]:
    """Return the ratio of each pair that has one."""
    found = (ratio(value, base) for value, base in zip(values, bases))
    return [value for value in found if value is not None]


def geometric_mean(values: Sequence[float]) -> float | None:
    """Return the geometric mean of the values above zero, None if there are none."""
    logs = [math.log(value) for value in values if value > 0]
    return math.exp(statistics.fmean(logs)) if logs else None


@dataclass(frozen=True)
class Estimate:
    """A ratio, the interval it lies in, and the number of pairs that it comes from."""

    value: float
    low: float
    high: float
    pairs: int

    def verdict(self, margin: float = MARGIN) -> str:
        """Say whether less was used (better), more (worse), or that this cannot be told."""
        if self.pairs < FEWEST:
            return CANNOT_TELL
        if self.high < 1 and self.value <= 1 - margin:
            return BETTER
        if self.low > 1 and self.value >= 1 + margin:
            return WORSE
        return CANNOT_TELL


def _interval(statistic: Callable[[random.Random], float]) -> tuple[float, float]:
    """Return the middle LEVEL of a statistic over resamples; the same data give the same."""
    chance = random.Random(1)
    drawn = sorted(statistic(chance) for _ in range(RESAMPLES))
    tail = int(RESAMPLES * (1 - LEVEL) / 2)
    return drawn[tail], drawn[-1 - tail]


def _draw(chance: random.Random, values: Sequence[float]) -> float:
    return statistics.median(chance.choices(values, k=len(values)))


def estimate(ratios: Sequence[float]) -> Estimate | None:
    """Return the median of paired ratios with its interval, None without any pair."""
    if not ratios:
        return None
    low, high = _interval(lambda chance: _draw(chance, ratios))
    return Estimate(statistics.median(ratios), low, high, len(ratios))


def estimate_quotient(ratios: Sequence[float], bases: Sequence[float]) -> Estimate | None:
    """Return the quotient of two medians that were not measured in turns with each other.

    Both are ratios to the same baseline, which ran in turns with each; so what the machine was like
    on either day cancels out.
    """
    if not ratios or not bases or statistics.median(bases) == 0:
        return None
    low, high = _interval(lambda chance: _draw(chance, ratios) / max(_draw(chance, bases), 1e-12))
    value = statistics.median(ratios) / statistics.median(bases)
    return Estimate(value, low, high, min(len(ratios), len(bases)))


def estimate_mean(
    rows: Sequence[Sequence[float]], bases: Sequence[Sequence[float]] | None = None
) -> Estimate | None:
    """Return the geometric mean over cases of their medians (or quotients of medians)."""
    if not rows:
        return None
    divisors = bases if bases is not None else [[1.0]] * len(rows)

    def mean(one: Callable[[Sequence[float]], float]) -> float:
        quotients = [one(row) / max(one(base), 1e-12) for row, base in zip(rows, divisors)]
        return geometric_mean(quotients) or 1.0

    low, high = _interval(lambda chance: mean(lambda values: _draw(chance, values)))
    pairs = min(len(row) for row in [*rows, *(bases or [])])
    return Estimate(mean(statistics.median), low, high, pairs)
