"""Verdicts: paired effects, tested, with their interval, and said in a sentence."""

from __future__ import annotations

from collections.abc import Sequence

from normsmith.errors import StudyError
from normsmith.studies._inference import ALPHA, Evidence, holm, seeds_needed, weigh
from normsmith.studies._pairs import Effects, Hypothesis, Pairs
from normsmith.studies._sentences import sentence
from normsmith.studies.results import Effect, Verdict

__all__ = ["MOST_HYPOTHESES", "POWER", "Hypothesis", "Pairs", "judge"]

MOST_HYPOTHESES = 3

POWER = {
    1.0: {(8, 1): 0.66, (8, 2): 0.49, (8, 3): 0.43, (10, 1): 0.80, (10, 2): 0.66, (10, 3): 0.57},
    1.5: {(8, 1): 0.93, (8, 2): 0.85, (8, 3): 0.73, (10, 1): 0.99, (10, 2): 0.96, (10, 3): 0.93},
    2.0: {(8, 1): 1.00, (8, 2): 0.97, (8, 3): 0.95, (10, 1): 1.00, (10, 2): 1.00, (10, 3): 1.00},
    3.0: {(8, 1): 1.00, (8, 2): 1.00, (8, 3): 1.00, (10, 1): 1.00, (10, 2): 1.00, (10, 3): 1.00},
}
"""The share of studies that call a true effect *holds*, by its size and the size of the study.

{effect / standard deviation of the paired effects: {(seeds, hypotheses of the question): share}}, for normal effects,
a margin of 0 and no other hypothesis true. Measured on 1,000 simulated studies a cell by `python -m benchmarks.power`.
"""


def judge(pairs: Sequence[Pairs]) -> tuple[Effect, ...]:
    r"""Verdicts on the hypotheses of one question, in their order.

    An effect is $t - c$ or $\ln(t / c)$, its sign such that positive speaks for the claim. Effects are tested
    by exact sign-flips ($2^n$ of them), adjusted by Holm over the hypotheses given, and estimated by their mean
    with a 95 % BCa bootstrap interval. If a value is censored, ranks are compared instead: sign-flips of the
    signed ranks, the Hodges-Lehmann estimate and the interval that belongs to them, such that no verdict
    depends on what censoring hides. With adjusted $p < 0.05$:

    - *holds*: the interval lies at or beyond the margin (equivalence: within it, tested by TOST);
    - *reversed*: the interval lies at or beyond the margin on the other side (superiority only);

    and otherwise *does not hold here* if the interval lies short of the margin (equivalence: outside), else
    *inconclusive*, as is everything with too few seeds to reach $p < 0.05$, with most pairs censored in both
    arms, or `decided`.

    How large an effect must be for a study to detect it: `POWER`.

    Raises:
        StudyError: there are more than three hypotheses, or two of one name.

    >>> fewer = Hypothesis("steps", "BN needs fewer steps", "BN", "no norm", "steps", "ratio", 0.0, "lower")
    >>> with_norm, without = (40.0, 35.0, 45.0, 40.0, 40.0, 35.0), (80.0, 75.0, 85.0, 90.0, 80.0, 80.0)
    >>> print(judge([Pairs(fewer, tuple(range(6)), with_norm, without)])[0].sentence)
    Holds: BN needs 0.479× the steps of no norm (95 % interval 0.453× to 0.504×, p = 0.031, 6 seeds).
    """
    names = [pair.hypothesis.name for pair in pairs]
    if len(names) > MOST_HYPOTHESES or len(set(names)) != len(names):
        raise StudyError(
            f"expected at most {MOST_HYPOTHESES} primary hypotheses of different names, got {len(names)}: "
            f"{', '.join(names)}; choose those that answer the question"
        )
    effects = [pair.effects() for pair in pairs]
    evidence = [weigh(effect) for effect in effects]
    adjusted = holm([1.0 if pair.decided else each.p for pair, each in zip(pairs, evidence, strict=True)])
    return tuple(
        _effect(*measured, len(pairs)) for measured in zip(pairs, effects, evidence, adjusted, strict=True)
    )


def _effect(pairs: Pairs, effects: Effects, evidence: Evidence, p_adjusted: float, hypotheses: int) -> Effect:
    hypothesis = pairs.hypothesis
    needed = seeds_needed(hypotheses, sides=1 if effects.equivalence else 2)
    testable = not pairs.decided and not pairs.mostly_unknown and len(pairs.seeds) >= needed
    verdict = _verdict(effects, evidence, p_adjusted) if testable else Verdict.INCONCLUSIVE
    return Effect(
        name=hypothesis.name,
        hypothesis=hypothesis.text,
        treatment=hypothesis.treatment,
        control=hypothesis.control,
        unit=hypothesis.unit,
        scale=hypothesis.scale,
        kind=hypothesis.kind,
        better=hypothesis.better,
        margin=hypothesis.margin,
        seeds=pairs.seeds,
        values=tuple(effects.values.tolist()),
        censored=int(effects.unknown.sum()),
        estimate=evidence.estimate,
        low=evidence.low,
        high=evidence.high,
        p=evidence.p,
        p_adjusted=p_adjusted,
        verdict=verdict,
        sentence=sentence(pairs, effects, evidence, verdict, p_adjusted, needed, of=hypotheses),
    )


def _verdict(effects: Effects, evidence: Evidence, p_adjusted: float) -> Verdict:
    margin, significant = effects.margin, p_adjusted < ALPHA
    if effects.equivalence:
        if significant and -margin < evidence.floor and evidence.roof < margin:
            return Verdict.HOLDS
        outside = evidence.floor >= margin or evidence.roof <= -margin
        return Verdict.NOT_HERE if outside else Verdict.INCONCLUSIVE
    if significant and _reaches(evidence.floor, margin):
        return Verdict.HOLDS
    if significant and _reaches(-evidence.roof, margin):
        return Verdict.REVERSED
    return Verdict.INCONCLUSIVE if _reaches(evidence.ceiling, margin) else Verdict.NOT_HERE


def _reaches(effect: float, margin: float) -> bool:
    return effect > 0 and effect >= margin
