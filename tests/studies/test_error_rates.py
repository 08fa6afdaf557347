"""How often studies say something false, by simulation of the real code: at most 5 % of questions, in any direction.

The effects' median lies exactly at the margin (or at 0), so that neither side is true, for effects of many shapes.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from normsmith.studies._inference import ALPHA, holm, median_interval, sign_test, weigh
from normsmith.studies._pairs import Effects, Hypothesis, Pairs
from normsmith.studies.looks import LOOKS, is_decided, only
from normsmith.studies.results import Verdict
from normsmith.studies.statistics import judge, pairs_needed

STUDIES = 1500
MARGIN = 1.0


def lognormal(draw, shape):
    return np.exp(draw.normal(size=shape)) - 1.0


SHAPES = {
    "normal": lambda draw, shape: draw.normal(size=shape),
    "t3": lambda draw, shape: draw.standard_t(3, size=shape),
    "exponential": lambda draw, shape: draw.exponential(size=shape) - math.log(2),
    "lognormal, right tail": lognormal,
    "lognormal, left tail": lambda draw, shape: -lognormal(draw, shape),
    # 8 % of the seeds fail entirely: the others' median lies at their quantile 0.5 − 0.04/0.92 from above
    "failing seeds": lambda draw, shape: np.where(
        draw.random(shape) < 0.08, -100.0, draw.normal(-stats.norm.ppf((0.5 - 0.08) / 0.92), size=shape)
    ),
    "rounded to octaves": lambda draw, shape: np.round(
        draw.normal(scale=2.0, size=shape)
    ),  # ties with the margin
}
"""Draws of effects whose median is 0."""


def statements(low, high, margin=MARGIN):
    """What a question of several hypotheses (studies, hypotheses, seeds) says: +1 holds, −1 not, 0 nothing."""
    said = np.zeros(low.shape[:2], int)
    for study in range(len(low)):
        evidence = [weigh(Effects(low[study, h], high[study, h], margin, False)) for h in range(low.shape[1])]
        sides = [each.p_holds < each.p_short for each in evidence]
        adjusted = holm([each.p for each in evidence], sides, [None] * len(sides))
        said[study] = [(1 if up else -1) * (p <= ALPHA) for up, p in zip(sides, adjusted, strict=True)]
    return said


@pytest.mark.parametrize(("seeds", "hypotheses"), [(8, 2), (10, 2), (12, 2), (20, 3)])
@pytest.mark.parametrize("shape", SHAPES)
def test_false_statements_are_rare_whatever_the_distribution(shape, seeds, hypotheses):
    draw = np.random.default_rng([seeds, len(shape)])
    effects = MARGIN + SHAPES[shape](draw, (STUDIES, hypotheses, seeds))
    said = statements(effects, effects)
    assert (said != 0).any(axis=1).sum() <= stats.binom.ppf(0.999, STUDIES, ALPHA)
    for direction in (1, -1):
        assert (said == direction).any(axis=1).sum() <= stats.binom.ppf(0.999, STUDIES, ALPHA / 2)


@pytest.mark.parametrize("seeds", [8, 10, 20])
def test_a_true_ratio_of_076_is_not_said_to_be_067_by_censoring(seeds):
    """The control needs 158 steps in the middle, and the budget ends just short of that."""
    draw = np.random.default_rng(seeds)
    control = 158 * np.exp(draw.normal(scale=0.15, size=(STUDIES, 2, seeds)))
    treatment = 0.76 * control * np.exp(draw.normal(scale=0.15, size=control.shape))
    budget, margin = 150.0, -math.log(0.67)
    known = np.log(np.minimum(control, budget + 1) / np.minimum(treatment, budget + 1))
    low = np.where(treatment > budget, -np.inf, known)
    high = np.where(control > budget, np.inf, known)
    said = statements(low, high, margin)
    assert (said == 1).any(axis=1).sum() <= stats.binom.ppf(0.999, STUDIES, ALPHA / 2)


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape != "rounded to octaves"])
@pytest.mark.parametrize("seeds", [8, 10, 12, 20])
def test_intervals_cover_the_median(shape, seeds):
    draw = np.random.default_rng([seeds, len(shape)])
    values = SHAPES[shape](draw, (STUDIES, seeds))
    intervals = [median_interval(row, row) for row in values]
    covered = sum(low <= 0.0 <= high for low, high in intervals)
    assert covered >= stats.binom.ppf(0.001, STUDIES, 1 - ALPHA)


def test_equivalence_is_claimed_falsely_in_at_most_five_percent():
    """The median lies on the margin: the least false of the false claims."""
    values = MARGIN + 0.3 * np.random.default_rng(4).normal(size=(STUDIES, 10))
    evidence = [weigh(Effects(row, row, MARGIN, True)) for row in values]
    held = sum(each.p_holds <= ALPHA and each.p_holds < each.p_short for each in evidence)
    assert 0 < held <= stats.binom.ppf(0.999, STUDIES, ALPHA / 2)


@pytest.mark.parametrize(("effect", "least"), [(1.0, 0.45), (1.5, 0.80), (2.0, 0.95)])
def test_a_true_effect_is_found(effect, least):
    """So many standard deviations beyond the margin, at 10 seeds, beside a second hypothesis that is not true."""
    draw = np.random.default_rng(round(10 * effect))
    values = MARGIN + draw.normal(size=(STUDIES, 2, 10))
    values[:, 0] += effect
    found = (statements(values, values)[:, 0] == 1).mean()
    assert found >= least


# Several looks. What is counted is a false statement at *any* of them: whatever makes a study stop at one of them
# (its results, the time, its user) it can make no more.

SEQUENTIAL = 20_000


def said_at(look, effects):
    """What questions (studies, hypotheses, seeds) say at a look: +1 holds, −1 not, 0 nothing.

    The judged p-values are those of `weigh`, on arrays; Holm is asked only where something can be said.
    """
    seen = effects[..., : look.seeds]
    holds, short = 2 * sign_test(seen > MARGIN), 2 * sign_test(seen < MARGIN)
    p_values, sides = np.minimum(holds, short) / look.share, np.where(holds < short, 1, -1)
    said = np.zeros(p_values.shape, int)
    for study in np.flatnonzero((p_values <= ALPHA).any(axis=1)):
        nobody = [None] * effects.shape[1]
        adjusted = holm(np.minimum(p_values[study], 1.0).tolist(), (sides[study] > 0).tolist(), nobody)
        said[study] = sides[study] * (np.array(adjusted) <= ALPHA)
    return said


@pytest.mark.parametrize("hypotheses", [1, 2, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_false_statements_are_rare_over_both_looks(shape, hypotheses):
    draw = np.random.default_rng([hypotheses, len(shape)])
    effects = MARGIN + SHAPES[shape](draw, (SEQUENTIAL, hypotheses, LOOKS[-1].seeds))
    said = np.concatenate([said_at(look, effects) for look in LOOKS], axis=1)
    false = (said != 0).any(axis=1).sum()
    assert false <= stats.binom.ppf(0.999, SEQUENTIAL, ALPHA)
    assert (said == 1).any(axis=1).sum() <= stats.binom.ppf(0.999, SEQUENTIAL, ALPHA / 2)
    assert false > 0


def test_a_look_after_every_seed_would_say_too_much():
    """What these simulations find of somebody who looks whenever it suits, with the 5 % each time: they can fail."""
    effects = MARGIN + np.random.default_rng(0).normal(size=(SEQUENTIAL, 1, LOOKS[-1].seeds))
    said = np.concatenate([said_at(only(seeds), effects) for seeds in range(6, 21)], axis=1)
    assert (said != 0).any(axis=1).mean() > 2 * ALPHA


def test_the_simulation_of_looks_is_what_judge_says():
    draw = np.random.default_rng(3)
    effects = MARGIN + np.array([0.0, 0.8, -1.5])[:, None] + draw.normal(size=(60, 3, LOOKS[-1].seeds))
    for look in LOOKS:
        said = said_at(look, effects)
        for study in range(len(effects)):
            judged = judge(
                [
                    Pairs(
                        Hypothesis(str(h), "", "one", "other", "points", "difference", MARGIN, "higher"),
                        tuple(range(look.seeds)),
                        tuple(effects[study, h, : look.seeds]),
                        (0.0,) * look.seeds,
                    )
                    for h in range(3)
                ],
                look.most,
                look.share,
            )
            verdicts = [effect.verdict for effect in judged]
            short = {Verdict.NOT_HERE, Verdict.REVERSED}
            assert [(v is Verdict.HOLDS) - (v in short) for v in verdicts] == said[study].tolist()
            assert is_decided(judged) == all(said[study])


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape != "rounded to octaves"])
def test_intervals_cover_the_median_at_both_looks_at_once(shape):
    draw = np.random.default_rng(len(shape))
    values = SHAPES[shape](draw, (STUDIES, LOOKS[-1].seeds))
    covered = 0
    for row in values:
        intervals = [median_interval(row[: look.seeds], row[: look.seeds], look.share) for look in LOOKS]
        covered += all(low <= 0.0 <= high for low, high in intervals)
    assert covered >= stats.binom.ppf(0.001, STUDIES, 1 - ALPHA)


@pytest.mark.parametrize("hypotheses", [1, 2, 3])
def test_the_second_look_asks_for_no_more_pairs_than_a_single_one(hypotheses):
    """And the first can decide, if all of its pairs lie on one side."""
    first, second = LOOKS
    assert pairs_needed(second.seeds, hypotheses, second.share) == pairs_needed(second.seeds, hypotheses)
    assert pairs_needed(first.seeds, hypotheses, first.share) == first.seeds
    assert sum(look.share for look in LOOKS) <= 1.0
