"""How often studies call an effect: hardly ever where there is none, as often as stated where there is one."""

from __future__ import annotations

import math

import numpy as np
import pytest
from benchmarks.power import power
from scipy import stats
from tests.studies.claims import BUDGET, POINTS, a_hypothesis, effect_of, pairs_of

from normsmith.studies import _inference as inference
from normsmith.studies.results import Verdict
from normsmith.studies.statistics import POWER, judge

HOLDS, REVERSED = Verdict.HOLDS, Verdict.REVERSED


def one_arm(draw, shape, kind):
    """Values of one arm; both arms of an A/A pair are drawn from it independently, over what seeds share."""
    if kind == "normal":
        return 100 + draw.normal(size=shape)
    if kind == "skewed":
        return np.exp(draw.normal(size=shape))
    if kind == "ties":
        return draw.integers(1, 4, size=shape).astype(float)
    return np.minimum(5.0 * draw.geometric(1 / 50, size=shape), BUDGET + 1)  # censored: 20 % never get there


@pytest.mark.parametrize("kind", ["normal", "skewed", "ties", "censored"])
def test_arms_that_do_not_differ_are_called_in_at_most_five_percent_of_studies(kind):
    """Questions with three hypotheses at 8 seeds and margin 0. Where the plain p-values already rule a call out
    (a censored pair's p is never below that of its signed ranks as they are), judging is spared for most."""
    studies, draw = 500, np.random.default_rng(3)
    arms = one_arm(draw, (studies, 3, 8, 2), kind)
    effects = np.round(arms[..., 1] - arms[..., 0], 9)
    if kind == "censored":
        effects = np.log(arms[..., 1] / arms[..., 0])
        effects = np.apply_along_axis(inference.signed_ranks, -1, np.round(effects, 9))
    smallest = inference.sign_flip(effects).min(axis=-1)
    suspects = np.flatnonzero(3 * smallest < 0.05)
    hypotheses = [
        a_hypothesis(name=name, scale="ratio" if kind == "censored" else "difference", margin=0.0)
        for name in "abc"
    ]

    def called(study):
        found = judge([pairs_of(*arms[study, index].T, hypotheses[index]) for index in range(3)])
        return sum(effect.verdict in (HOLDS, REVERSED) for effect in found)

    calls = {study: called(study) for study in suspects.tolist()}
    spared = [study for study in range(30) if study not in calls][:10]
    assert sum(called(study) for study in spared) == 0
    tolerated = stats.binom.ppf(0.999, studies, 0.05)
    assert 0 < sum(calls[study] > 0 for study in calls) <= tolerated  # studies
    assert sum(calls.values()) <= stats.binom.ppf(0.999, 3 * studies, 0.05)  # hypotheses


def test_equivalence_is_claimed_falsely_in_at_most_five_percent():
    """Effects whose true mean lies on the margin: the least false of the false claims."""
    draw = np.random.default_rng(4)
    values = 1.0 + 0.3 * draw.normal(size=(120, 8))
    hypothesis = a_hypothesis(**POINTS, margin=1.0, kind="equivalence")
    held = sum(effect_of(row, np.zeros(8), hypothesis).verdict is HOLDS for row in values)
    assert 0 < held <= stats.binom.ppf(0.999, 120, 0.05)


@pytest.mark.parametrize("hypotheses", [1, 3])
def test_a_true_effect_is_found_with_the_power_stated(hypotheses):
    studies = 80
    stated = POWER[1.5][8, hypotheses]
    found = power(1.5, 8, hypotheses, studies, stream=1)
    error = math.sqrt(stated * (1 - stated) * (1 / studies + 1 / 1000))  # of the table, too
    assert abs(found - stated) <= 4 * error
