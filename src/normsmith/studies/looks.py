"""Looks: at which numbers of seeds a study that may stop early judges, and with which part of the 5 % each time.

Who judges after every seed and stops when it suits says something false far more often than in 5 % of studies. So the
looks are declared before anything runs, at numbers of seeds and not at times, and they divide the 5 %: whatever makes a
study stop at a look, results, time or its user, the chance of a false statement at any of them is at most the sum.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from normsmith.studies.results import Effect, Verdict
from normsmith.studies.statistics import most_judged


@dataclass(frozen=True)
class Look:
    """One of the looks of a study.

    Attributes:
        seeds: how many there are by then; a look takes all of them, and no others.
        most: how many hypotheses of a question are judged, at every look the same.
        share: its part of the 5 %.
        number: which look it is, counted from 1.
        of: how many looks are declared.
    """

    seeds: int
    most: int
    share: float = 1.0
    number: int = 1
    of: int = 1


def only(seeds: int) -> Look:
    """The look of a study that looks once, when all its seeds have run."""
    return Look(seeds, most=most_judged(seeds))


def declared(seeds: tuple[int, ...], shares: tuple[float, ...]) -> tuple[Look, ...]:
    """Looks at these numbers of seeds with these parts of the 5 %, in their order.

    >>> [(look.number, look.seeds, look.share, look.most) for look in declared((10, 20), (0.16, 0.84))]
    [(1, 10, 0.16, 3), (2, 20, 0.84, 3)]
    """
    most = most_judged(seeds[-1])
    return tuple(
        Look(count, most, share, number, len(seeds))
        for number, (count, share) in enumerate(zip(seeds, shares, strict=True), 1)
    )


LOOKS = declared((10, 20), (0.16, 0.84))
"""The looks of every study with a budget: 0.8 % at 10 seeds, 4.2 % at 20.

The first can decide each of three hypotheses, if all 10 pairs lie on one side (3 · 0.2 % ≤ 0.8 %). The second asks for
no more pairs than a study of 20 seeds that looks once: a sign test's p-values are few, and 15 of 20 is 4.1 %.
"""


def is_decided(effects: Iterable[Effect]) -> bool:
    """Whether a question ends at a look: each hypothesis that is judged has a verdict, and there is one.

    A question that goes on judges all of its hypotheses again at the next look, and says what that look says.
    """
    judged = [effect.verdict for effect in effects if effect.verdict is not Verdict.NOT_JUDGED]
    return bool(judged) and Verdict.INCONCLUSIVE not in judged
