"""Verdicts on the same hypotheses from several places: where they differ, and where they contradict each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias, TypeVar

from normsmith.studies.results import Verdict

Hypothesis = TypeVar("Hypothesis")

Verdicts: TypeAlias = Mapping[Hypothesis, Mapping[str, Verdict]]
"""What each place says of a hypothesis, by the name of the place, where it was put to the test there."""


def differing(verdicts: Verdicts[Hypothesis]) -> list[Hypothesis]:
    """The hypotheses of which not all say the same."""
    return [key for key, said in verdicts.items() if len(set(said.values())) > 1]


def contradictions(verdicts: Verdicts[Hypothesis]) -> list[Hypothesis]:
    """Those of which two say something else, and neither that it is inconclusive.

    >>> contradictions({
    ...     "steps": {"here": Verdict.HOLDS, "there": Verdict.INCONCLUSIVE},
    ...     "points": {"here": Verdict.HOLDS, "there": Verdict.REVERSED},
    ... })
    ['points']
    """
    open_ = {Verdict.INCONCLUSIVE, Verdict.NOT_JUDGED}
    return [key for key in differing(verdicts) if len({*verdicts[key].values()} - open_) > 1]
