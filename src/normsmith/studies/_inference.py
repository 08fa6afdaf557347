"""The numbers behind verdicts: exact sign counts against a margin, order statistics, and Holm's correction.

Everything here holds for every distribution of the effects, with skew, ties and censoring: a sign test asks no more
than whether more pairs lie on one side of the margin than a coin would put there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from statistics import median, stdev

import numpy as np

from normsmith.studies._pairs import Array, Effects, Interval

ALPHA = 0.05
"""The chance, at most, that a question says something false of a hypothesis, in either direction."""

INTERVAL_FROM = 6
"""Seeds below which no 95 % statement exists (2 / 2⁵ > 0.05): the range of the effects is given."""


def has_interval(seeds: int, share: float = 1.0) -> bool:
    """Whether so many seeds have an interval at `share` of the 5 %, or no more than a range.

    >>> has_interval(INTERVAL_FROM), has_interval(INTERVAL_FROM - 1), has_interval(7, 0.16), has_interval(8, 0.16)
    (True, False, False, True)
    """
    return bool(2 / 2**seeds <= ALPHA * share)


@cache
def tail(seeds: int) -> Array:
    """P(X ≥ k) for k = 0…seeds, X the number of heads in so many tosses of a fair coin; shape (seeds + 1,).

    >>> tail(3).tolist()
    [1.0, 0.875, 0.5, 0.125]
    """
    ways = [math.comb(seeds, k) for k in range(seeds + 1)]
    return np.array([sum(ways[k:]) / 2**seeds for k in range(seeds + 1)])


def sign_test(counted: Array) -> Array:
    """One-sided p-values of a sign test: `counted` (…, n) says which pairs lie on the side in question → (…).

    The null hypothesis is that the median effect lies at the margin or on its other side. Pairs that lie at the
    margin, or whose side is not known, count against. Arbuthnot, Phil. Trans. 27, 1710.
    """
    return np.asarray(tail(counted.shape[-1])[counted.sum(axis=-1)])


@dataclass(frozen=True)
class Evidence:
    """What one set of paired effects amounts to: the median effect, its interval, and a p-value each way.

    Attributes:
        median: of the effects; a point where censoring does not hide it.
        interval: of the median, 95 % at least over all looks; where `has_interval` says no, the range of the seeds.
        beyond: how many pairs lie where the claim says: beyond the margin (equivalence: within it).
        short: how many pairs lie where it says not: short of the margin (equivalence: beyond it, on one side).
        p_holds, p_short: two times the one-sided p-value of either, since there are two directions.
        p_reversed: as `p_short`, for the margin on the other side; 1 for an equivalence.
    """

    median: Interval
    interval: Interval
    beyond: int
    short: int
    p_holds: float
    p_short: float
    p_reversed: float

    @property
    def p(self) -> float:
        """The p-value of the direction that the pairs speak for."""
        return min(1.0, self.p_holds, self.p_short)


def weigh(effects: Effects, share: float = 1.0) -> Evidence:
    """Evidence from paired effects: exact sign counts against the margin, in two directions.

    The p-values are of this look alone; the interval is as wide as `share`, the look's part of the 5 %, asks for.
    """
    low, high, margin = effects.low, effects.high, effects.margin
    above, below = low > margin, high < margin
    opposite = high < -margin
    if effects.equivalence:
        inside = [low > -margin, below]
        outside = max(above, opposite, key=np.sum)
        beyond, p_beyond = inside[0] & inside[1], max(float(sign_test(side)) for side in inside)
        short, p_reversed = outside, 1.0
    else:
        beyond, p_beyond = above, float(sign_test(above))
        short, p_reversed = below, float(sign_test(opposite))
    return Evidence(
        median=Interval(float(_median(low)), float(_median(high))),
        interval=median_interval(low, high, share),
        beyond=int(beyond.sum()),
        short=int(short.sum()),
        p_holds=2 * p_beyond,
        p_short=2 * float(sign_test(short)),
        p_reversed=2 * p_reversed,
    )


def median_interval(low: Array, high: Array, share: float = 1.0) -> Interval:
    """The interval of the median from order statistics of the lower and of the upper ends.

    It covers at least 95 %, or for one of several looks 1 − `share` · 5 %, so that those of all looks together cover
    95 %. Thompson, Ann. Math. Statist. 7, 1936; Jennison & Turnbull, J. R. Statist. Soc. B 51, 1989 (several looks).
    """
    seeds = len(low)
    skipped = int((2 * tail(seeds) <= ALPHA * share).sum()) - 1 if has_interval(seeds, share) else 0
    return Interval(float(np.sort(low)[skipped]), float(np.sort(high)[seeds - 1 - skipped]))


def _median(ends: Array) -> float:
    """The middle value; infinite where one of the two middle ones is, and NaN never."""
    ordered = np.sort(ends)
    lower, upper = ordered[(len(ends) - 1) // 2], ordered[len(ends) // 2]
    return float(lower if lower == upper else (lower + upper) / 2)


def resampled_error(
    treatment: Sequence[Sequence[float]], control: Sequence[Sequence[float]], draws: int
) -> float | None:
    """The standard deviation of the median difference over `draws` bootstrap samples of what both were measured on.

    Each pair has a value for each of the samples; None where one lacks some, or a median is not finite.

    >>> resampled_error([[1.0, 2.0]], [[0.0, 0.0]], 2)
    0.7071067811865476
    """
    if any(len(values) < draws for values in (*treatment, *control)):
        return None
    pairs = [*zip(treatment, control, strict=True)]
    medians = [median(t[draw] - c[draw] for t, c in pairs) for draw in range(draws)]
    return stdev(medians) if all(map(math.isfinite, medians)) else None


def holm(p_values: Sequence[float], holds: Sequence[bool], after: Sequence[int | None]) -> tuple[float, ...]:
    """p-values adjusted for their number, in their order.

    A hypothesis `after` another (its index) is tested only once that one is said to hold, and takes over its level;
    it adds nothing to their number. Without such, it is Holm, Scand. J. Statist. 6, 1979; with them, a graph of
    Bretz et al., Statist. Med. 28, 2009. What is not tested has 1.

    >>> nobody = [None, None, None]
    >>> holm([0.01, 0.04, 0.03], [True, True, True], nobody)
    (0.03, 0.06, 0.06)
    >>> holm([0.01, 0.02, 0.03], [True, True, True], [None, 0, None])
    (0.02, 0.04, 0.04)
    """
    adjusted, largest = [1.0] * len(p_values), 0.0
    waiting = [index for index, parent in enumerate(after) if parent is None]
    while waiting:
        index = min(waiting, key=lambda index: p_values[index])
        largest = adjusted[index] = max(largest, min(1.0, p_values[index] * len(waiting)))
        waiting.remove(index)
        if holds[index] and largest <= ALPHA:
            waiting += [child for child, parent in enumerate(after) if parent == index][:1]
    return tuple(adjusted)


def seeds_needed(hypotheses: int, share: float = 1.0) -> int:
    """The fewest seeds with which one of so many judged hypotheses can be decided, at `share` of the 5 %.

    >>> [seeds_needed(hypotheses) for hypotheses in (1, 2, 3)]
    [6, 7, 7]
    """
    return math.floor(math.log2(2 * hypotheses / (ALPHA * share))) + 1


def pairs_needed(seeds: int, hypotheses: int, share: float = 1.0) -> int | None:
    """How many of the pairs must lie on one side to decide the hardest of so many; None where none suffice.

    `share` is the part of the 5 % that may be spent, 1 where there is a single look.

    >>> pairs_needed(10, 2), pairs_needed(20, 3), pairs_needed(6, 2), pairs_needed(10, 3, 0.16)
    (9, 16, None, 10)
    """
    enough = np.flatnonzero(2 * hypotheses * tail(seeds) <= ALPHA * share)
    return int(enough[0]) if len(enough) else None
