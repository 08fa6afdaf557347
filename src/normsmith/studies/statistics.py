"""Verdicts: paired effects, tested, with their interval, and said in a sentence."""

from __future__ import annotations

from collections.abc import Sequence

from normsmith.errors import StudyError
from normsmith.studies._inference import (
    ALPHA,
    INTERVAL_FROM,
    Evidence,
    holm,
    pairs_needed,
    resampled_error,
    seeds_needed,
    weigh,
)
from normsmith.studies._pairs import Effects, Hypothesis, Interval, Pairs
from normsmith.studies._sentences import sentence
from normsmith.studies.results import Effect, Verdict

__all__ = [
    "ALPHA",
    "INTERVAL_FROM",
    "Hypothesis",
    "Interval",
    "Pairs",
    "judge",
    "most_judged",
    "pairs_needed",
    "resampled_error",
    "seeds_needed",
]


def most_judged(seeds: int) -> int:
    """How many hypotheses of one question a study of so many seeds judges; it shows the others.

    With 10 seeds, 9 of 10 pairs decide each of two; with 20, 16 of 20 pairs decide each of three.
    """
    return 2 if seeds < 20 else 3


def judge(pairs: Sequence[Pairs], most: int = 2, share: float = 1.0) -> tuple[Effect, ...]:
    """Verdicts on the hypotheses of one question, in their order.

    The effect of a pair is t − c or ln(t / c), positive in the direction of the claim; censored, it is an interval
    with an open end. The estimate is the median effect, that of the typical seed, with the interval that order
    statistics give. The first `most` hypotheses are judged, and those that rest on one of them (`after`), by exact
    sign tests against the margin, one in each direction at 2.5 %, adjusted by Holm for the number judged. A pair
    counts only if it lies on that side whatever censoring hides:

    - *holds*: the median effect lies beyond the margin (equivalence: within it);
    - *does not hold here*: it lies short of the margin (equivalence: outside);
    - *reversed*: it lies beyond the margin on the other side (superiority only);
    - *inconclusive*: none of these could be shown, there are too few seeds, or something `decided` so;
    - *not judged*: it comes after the first `most`, or is shown `beside` them.

    This holds for every distribution of the effects. `share` is the part of the 5 % that this look at the seeds has
    (see `studies.looks`): p-values are divided by it, so that the 5 % are those of all looks together (Bonferroni).

    Raises:
        StudyError: two hypotheses have one name, or one rests on a hypothesis that does not come before it.

    >>> fewer = Hypothesis("steps", "BN needs fewer steps", "BN", "no norm", "steps", "ratio", 0.1, "lower")
    >>> with_norm, without = (40.0, 35.0, 45.0, 40.0, 40.0, 35.0), (80.0, 75.0, 85.0, 90.0, 80.0, 80.0)
    >>> print(judge([Pairs(fewer, tuple(range(6)), with_norm, without)])[0].sentence)
    Holds: BN needs 0.483× the steps of no norm (95 % interval 0.438× to 0.529×, p = 0.031); 6 of 6 seeds lie below \
0.905×.
    """
    names = [pair.hypothesis.name for pair in pairs]
    after = [_parent(pair.hypothesis, names[:index]) for index, pair in enumerate(pairs)]
    if len(set(names)) != len(names):
        raise StudyError(f"expected hypotheses of different names, got {', '.join(names)}")
    beside = [pair.hypothesis.beside for pair in pairs]
    leading = [index for index, parent in enumerate(after) if parent is None and not beside[index]][:most]
    judged = [_root(index, after) in leading and not beside[index] for index in range(len(pairs))]
    effects = [pair.effects() for pair in pairs]
    evidence = [weigh(effect, share) for effect in effects]
    p_values = [
        1.0 if pair.decided else min(1.0, each.p / share) for pair, each in zip(pairs, evidence, strict=True)
    ]
    adjusted = _adjusted(p_values, evidence, after, judged)
    return tuple(
        _effect(pair, effect, each, p, len(leading), share, is_judged=is_judged)
        for pair, effect, each, p, is_judged in zip(pairs, effects, evidence, adjusted, judged, strict=True)
    )


def _parent(hypothesis: Hypothesis, earlier: Sequence[str]) -> int | None:
    if hypothesis.after is None:
        return None
    if hypothesis.after not in earlier:
        raise StudyError(
            f"hypothesis {hypothesis.name!r}: expected what it rests on before it, got {hypothesis.after!r}"
        )
    return earlier.index(hypothesis.after)


def _root(index: int, after: Sequence[int | None]) -> int:
    """The hypothesis on which this one rests in the end."""
    parent = after[index]
    return index if parent is None else _root(parent, after)


def _adjusted(
    p_values: Sequence[float],
    evidence: Sequence[Evidence],
    after: Sequence[int | None],
    judged: Sequence[bool],
) -> list[float]:
    """p-values adjusted among the judged hypotheses; the others keep theirs."""
    kept = [index for index, is_judged in enumerate(judged) if is_judged]
    places = {index: place for place, index in enumerate(kept)}
    adjusted = holm(
        [p_values[index] for index in kept],
        [evidence[index].p_holds < evidence[index].p_short for index in kept],
        [None if (parent := after[index]) is None else places[parent] for index in kept],
    )
    return [adjusted[places[index]] if index in places else p for index, p in enumerate(p_values)]


def _effect(
    pairs: Pairs,
    effects: Effects,
    evidence: Evidence,
    p_adjusted: float,
    of: int,
    share: float,
    *,
    is_judged: bool,
) -> Effect:
    hypothesis = pairs.hypothesis
    verdict = _verdict(evidence, p_adjusted) if is_judged else Verdict.NOT_JUDGED
    effect = Effect(
        name=hypothesis.name,
        hypothesis=hypothesis.text,
        treatment=hypothesis.treatment,
        control=hypothesis.control,
        unit=hypothesis.unit,
        scale=hypothesis.scale,
        kind=hypothesis.kind,
        better=hypothesis.better,
        margin=hypothesis.margin,
        after=hypothesis.after,
        beside=hypothesis.beside,
        seeds=pairs.seeds,
        effects=tuple(map(Interval, effects.low.tolist(), effects.high.tolist())),
        median=evidence.median,
        interval=evidence.interval,
        beyond=evidence.beyond,
        short=evidence.short,
        needed=pairs_needed(len(pairs.seeds), of, share),
        failed=pairs.failed,
        test_error=pairs.test_error,
        share=share,
        p=evidence.p,
        p_adjusted=p_adjusted,
        verdict=verdict,
        sentence="",
    )
    return effect.model_copy(update={"sentence": sentence(effect, of, pairs.decided)})


def _verdict(evidence: Evidence, p_adjusted: float) -> Verdict:
    if p_adjusted > ALPHA:
        return Verdict.INCONCLUSIVE
    if evidence.p_holds < evidence.p_short:
        return Verdict.HOLDS
    # the margin on the other side is held against the level at which this hypothesis was tested
    reversed_ = p_adjusted / evidence.p * evidence.p_reversed <= ALPHA
    return Verdict.REVERSED if reversed_ else Verdict.NOT_HERE
