"""The numbers behind verdicts: exact sign counts against a margin, order statistics, and Holm's correction.

Everything here holds for every distribution of the effects, with skew, ties and censoring: a sign test asks no more
than whether more pairs lie on one side of the margin than a coin would put there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from normsmith.studies._pairs import Array, Effects, Interval

ALPHA = 0.05
"""The chance, at most, that a question says something false of a hypothesis, in either direction."""

INTERVAL_FROM = 6
"""Seeds below which no 95 % statement exists (2 / 2⁵ > 0.05): the range of the effects is given."""


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
        interval: the 95 % interval of the median, at least; with fewer than `INTERVAL_FROM` seeds their range.
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


def weigh(effects: Effects) -> Evidence:
    """Evidence from paired effects: exact sign counts against the margin, in two directions."""
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
        interval=median_interval(low, high),
        beyond=int(beyond.sum()),
        short=int(short.sum()),
        p_holds=2 * p_beyond,
        p_short=2 * float(sign_test(short)),
        p_reversed=2 * p_reversed,
    )


def median_interval(low: Array, high: Array) -> Interval:
    """The 95 % interval of the median (at least), from order statistics of the lower and of the upper ends.

    Thompson, Ann. Math. Statist. 7, 1936.
    """
    seeds = len(low)
    skipped = int((2 * tail(seeds) <= ALPHA).sum()) - 1 if seeds >= INTERVAL_FROM else 0
    return Interval(float(np.sort(low)[skipped]), float(np.sort(high)[seeds - 1 - skipped]))


def _median(ends: Array) -> float:
    """The middle value; infinite where one of the two middle ones is, and NaN never."""
    ordered = np.sort(ends)
    lower, upper = ordered[(len(ends) - 1) // 2], ordered[len(ends) // 2]
    return float(lower if lower == upper else (lower + upper) / 2)


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


def seeds_needed(hypotheses: int) -> int:
    """The fewest seeds with which one of so many judged hypotheses can be decided.

    >>> [seeds_needed(hypotheses) for hypotheses in (1, 2, 3)]
    [6, 7, 7]
    """
    return math.floor(math.log2(2 * hypotheses / ALPHA)) + 1


def pairs_needed(seeds: int, hypotheses: int) -> int | None:
    """How many of the pairs must lie on one side to decide the hardest of so many; None where none suffice.

    >>> pairs_needed(10, 2), pairs_needed(20, 3), pairs_needed(6, 2)
    (9, 16, None)
    """
    enough = np.flatnonzero(2 * hypotheses * tail(seeds) <= ALPHA)
    return int(enough[0]) if len(enough) else None
