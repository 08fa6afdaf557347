"""The numbers behind verdicts: exact sign-flip tests, intervals, Holm, and what censoring leaves open."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from normsmith.studies._pairs import Array, Effects

ALPHA = 0.05
EXACT_UP_TO = 14
"""Seeds up to which every sign assignment is tried; beyond, as many drawn with a fixed seed."""
RESAMPLES = 9_999
INTERVAL_FROM = 6
"""Seeds below which no two-sided 95 % statement exists (2 / 2⁵ > 0.05): the range of the values is given."""


@dataclass(frozen=True)
class Evidence:
    """What one set of paired effects amounts to: an estimate, its interval, and a p-value.

    `low` and `high` are finite and meant to be shown. `floor` and `roof` are the ends of the interval if every
    censored effect is as bad, or as good, as it can be; they are infinite where there is no bound. `ceiling` is the
    roof if pairs of which nothing is known are as good as they can be, too: a claim is only turned down where even
    the ceiling lies short of it.
    """

    estimate: float
    low: float
    high: float
    floor: float
    roof: float
    ceiling: float
    p: float


def sign_flip(effects: Array, alternative: Literal["two-sided", "greater"] = "two-sided") -> Array:
    """p-values of paired effects (…, n) → (…): the share of sign assignments with a sum as extreme.

    Exact up to `EXACT_UP_TO` effects under the null hypothesis that an effect and its negative are equally
    likely; ties and zeros are kept. Fisher, The Design of Experiments, 1935, §21.
    """
    # The effects are sorted, so that the order of the seeds does not matter where signs are drawn. A zero is added
    # to a single effect: it changes no sum, and the library asks for two effects at least.
    from scipy import stats  # a second of import time that worker processes are spared

    oriented = effects * np.sign(effects.sum(axis=-1, keepdims=True))
    order = np.lexsort((oriented, np.abs(effects)), axis=-1)
    ordered = np.take_along_axis(effects, order, axis=-1)
    if ordered.shape[-1] == 1:
        ordered = np.concatenate([ordered, np.zeros_like(ordered)], axis=-1)
    test = stats.permutation_test(
        (ordered,),
        _sum,
        permutation_type="samples",
        vectorized=True,
        n_resamples=2**EXACT_UP_TO,
        alternative=alternative,
        axis=-1,
        rng=np.random.default_rng(0),
    )
    return np.asarray(test.pvalue)


def _sum(effects: Array, axis: int) -> Array:
    return np.asarray(effects.sum(axis=axis))


def signed_ranks(effects: Array) -> Array:
    """Ranks of the magnitudes (n,) with the signs of the effects; zeros are no evidence and get rank 0."""
    from scipy import stats  # a second of import time that worker processes are spared

    ranks = np.zeros(len(effects))
    differ = effects != 0
    ranks[differ] = stats.rankdata(np.abs(effects[differ])) * np.sign(effects[differ])
    return ranks


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """p-values adjusted for their number, in their order. Holm, Scand. J. Statist. 6, 1979.

    >>> holm([0.01, 0.04, 0.03])
    (0.03, 0.06, 0.06)
    """
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        largest = max(largest, min(1.0, p_values[index] * (len(p_values) - rank)))
        adjusted[index] = largest
    return tuple(adjusted)


def seeds_needed(hypotheses: int, sides: Literal[1, 2]) -> int:
    """The fewest seeds with which the smallest p-value there is, times `hypotheses`, is below `ALPHA`.

    >>> [seeds_needed(hypotheses, sides=2) for hypotheses in (1, 2, 3)]
    [6, 7, 7]
    """
    return math.floor(math.log2(hypotheses * sides / ALPHA)) + 1


def mean_interval(effects: Array) -> tuple[float, float]:
    """95 % interval of the mean: BCa bootstrap; a point where all effects are equal.

    Mirrored effects have the mirrored interval. Efron, J. Amer. Statist. Assoc. 82, 1987.
    """
    from scipy import stats  # a second of import time that worker processes are spared

    smallest, largest = float(effects.min()), float(effects.max())
    if smallest == largest or len(effects) < INTERVAL_FROM:
        return smallest, largest
    if effects.mean() < 0:
        low, high = mean_interval(-effects)
        return -high, -low
    interval = stats.bootstrap(
        (np.sort(effects),),
        np.mean,
        vectorized=True,
        n_resamples=RESAMPLES,
        confidence_level=1 - ALPHA,
        method="BCa",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def walsh_averages(effects: Array) -> Array:
    """The averages of all pairs of effects, each with itself too, in order: n(n+1)/2 of them."""
    first, second = np.triu_indices(len(effects))
    return np.sort((effects[first] + effects[second]) / 2)


def rank_interval(effects: Array) -> tuple[float, float]:
    """95 % interval of the location, from the exact signed-rank test: ends may be infinite where effects are.

    Its ends are order statistics of the Walsh averages. Hodges & Lehmann, Ann. Math. Statist. 34, 1963.
    """
    count = len(effects)
    ways = np.ones(1)
    for rank in range(1, count + 1):  # in how many ways ranks 1…n sum to 0, 1, 2, …
        ways = np.convolve(ways, np.r_[1, np.zeros(rank - 1), 1])
    outside = int((np.cumsum(ways) / 2.0**count <= ALPHA / 2).sum())
    averages = walsh_averages(effects)
    skipped = max(outside - 1, 0)
    return float(averages[skipped]), float(averages[-1 - skipped])


def weigh(effects: Effects) -> Evidence:
    """Evidence from paired effects: mean, BCa interval and sign-flips if all are known; ranks if some are not.

    Equivalence is tested against both margins (TOST), each by the sign-flips of the effects' distances to it.
    """
    if effects.censored:
        return _weigh_censored(effects)
    values, margin = effects.values, effects.margin
    low, high = mean_interval(values)
    p = _equivalence(values + margin, margin - values) if effects.equivalence else float(sign_flip(values))
    return Evidence(float(values.mean()), low, high, low, high, high, p)


def _weigh_censored(effects: Effects) -> Evidence:
    """Evidence that does not rest on what censoring hides.

    Ranks are compared, for the effects as they are, with those known to be `at_most` so much taken as the worst
    there can be, and with those `at_least` so much as the best; p is the largest. Nothing is known of an effect
    whose pair is censored on both sides: it is zero, evidence for neither side, and taken as the worst and the
    best where zero would be evidence, namely of sameness.
    """
    values, margin = effects.values, effects.margin
    worst = np.where(effects.at_most, -np.inf, values)
    best = np.where(effects.at_least, np.inf, values)
    brightest = np.where(effects.unknown, np.inf, best)
    if effects.equivalence:
        worst, best = np.where(effects.unknown, -np.inf, worst), brightest
        p = _equivalence(signed_ranks(worst + margin), signed_ranks(margin - best))
    else:
        p = max(float(sign_flip(signed_ranks(case))) for case in (values, worst, best))
    floor, roof = rank_interval(worst)[0], rank_interval(best)[1]
    return Evidence(
        estimate=float(np.median(walsh_averages(values))),
        low=floor if math.isfinite(floor) else float(values.min()),
        high=roof if math.isfinite(roof) else float(values.max()),
        floor=floor,
        roof=roof,
        ceiling=rank_interval(brightest)[1],
        p=p,
    )


def _equivalence(above_lower: Array, below_upper: Array) -> float:
    """The larger of the one-sided p-values that the effects lie above one margin and below the other."""
    return max(float(sign_flip(side, "greater")) for side in (above_lower, below_upper))
