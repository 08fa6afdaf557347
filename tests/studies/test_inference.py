"""Tests and intervals against enumeration, textbooks and scipy."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from tests.studies.claims import enumerated

from normsmith.studies import _inference as inference
from normsmith.studies._pairs import Effects


class TestSignFlip:
    @pytest.mark.parametrize("count", [1, 2, 5, 8, 14])
    def test_the_smallest_p_there_is(self, count):
        effects = np.arange(1.0, count + 1)
        assert inference.sign_flip(effects) == min(1.0, 2 / 2**count)
        assert inference.sign_flip(effects, "greater") == 1 / 2**count
        assert inference.sign_flip(-effects, "greater") == 1.0

    @given(
        effects=st.lists(st.integers(-4, 4).map(float), min_size=1, max_size=8),
        alternative=st.sampled_from(["two-sided", "greater"]),
    )
    @settings(max_examples=60, deadline=None)
    def test_agrees_with_enumeration_also_with_ties(self, effects, alternative):
        assert inference.sign_flip(np.array(effects), alternative) == pytest.approx(
            enumerated(effects, alternative), abs=1e-12
        )

    @given(seed=st.integers(0, 2**32), count=st.integers(6, 12))
    @settings(max_examples=20, deadline=None)
    def test_of_signed_ranks_is_wilcoxon(self, seed, count):
        effects = np.random.default_rng(seed).normal(0.5, 1, count)
        assert inference.sign_flip(inference.signed_ranks(effects)) == pytest.approx(
            stats.wilcoxon(effects, method="exact").pvalue
        )

    def test_many_studies_at_once_are_each_alone(self):
        effects = np.random.default_rng(0).normal(0.5, 1, (3, 4, 8))
        at_once = inference.sign_flip(effects)
        assert at_once.shape == (3, 4)
        for index in np.ndindex(3, 4):
            assert at_once[index] == inference.sign_flip(effects[index])

    def test_beyond_enumeration_is_near_it(self):
        effects = np.random.default_rng(1).integers(-3, 6, 17).astype(float)
        signs = np.array(list(itertools.product((1, -1), repeat=16)))
        sums = np.abs(signs @ effects[1:] + effects[0])  # the other half mirrors it
        exact = (sums >= abs(effects.sum())).mean()
        assert 0.01 < exact < 0.2
        drawn = inference.sign_flip(effects)
        assert drawn == pytest.approx(exact, abs=4 * math.sqrt(exact / 2**14))
        assert drawn == inference.sign_flip(effects[::-1]) == inference.sign_flip(-effects)


class TestHolm:
    @pytest.mark.parametrize(
        ("given_p", "adjusted"),
        [
            ((), ()),
            ((0.04,), (0.04,)),
            ((0.01, 0.04, 0.03), (0.03, 0.06, 0.06)),  # 3 × .01, then 2 × .03, then .04 held up by it
            ((0.5, 0.4, 0.9), (1.0, 1.0, 1.0)),
            ((0.02, 0.02, 0.02), (0.06, 0.06, 0.06)),
            ((0.001, 0.02, 0.03), (0.003, 0.04, 0.04)),
        ],
    )
    def test_by_hand(self, given_p, adjusted):
        assert inference.holm(given_p) == pytest.approx(adjusted)

    @pytest.mark.parametrize("hypotheses", [1, 2, 3])
    @pytest.mark.parametrize("sides", [1, 2])
    def test_seeds_needed_are_the_fewest(self, hypotheses, sides):
        reach = [seeds for seeds in range(1, 20) if hypotheses * sides / 2**seeds < 0.05]
        assert inference.seeds_needed(hypotheses, sides) == reach[0]


class TestIntervals:
    def test_ranks_agree_with_a_textbook(self):
        """Hollander & Wolfe, Nonparametric Statistical Methods, 1973: depression scores, as R's wilcox.test."""
        before = np.array([1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30])
        after = np.array([0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29])
        effects = np.round(before - after, 9)
        assert inference.sign_flip(inference.signed_ranks(effects)) == pytest.approx(0.0390625)
        assert inference.rank_interval(effects) == pytest.approx((0.010, 0.786))
        assert np.median(inference.walsh_averages(effects)) == pytest.approx(0.46)

    @given(seed=st.integers(0, 2**32), count=st.integers(6, 9))
    @settings(max_examples=5, deadline=None)
    def test_ranks_hold_what_their_test_does_not_reject(self, seed, count):
        effects = np.random.default_rng(seed).normal(size=count)
        low, high = inference.rank_interval(effects)
        averages = inference.walsh_averages(effects)
        between = (averages[1:] + averages[:-1]) / 2
        kept = [inference.sign_flip(inference.signed_ranks(effects - shift)) > 0.05 for shift in between]
        assert [low < shift < high for shift in between] == kept

    def test_mean_is_scipys_bca(self):
        effects = np.sort(np.random.default_rng(2).exponential(size=9))
        expected = stats.bootstrap(
            (effects,), np.mean, n_resamples=9_999, method="BCa", rng=np.random.default_rng(7)
        )
        assert inference.mean_interval(effects) == pytest.approx(
            tuple(expected.confidence_interval), rel=0.03
        )

    def test_mean_of_equal_effects_is_a_point(self):
        assert inference.mean_interval(np.full(8, 0.1)) == (0.1, 0.1)


def effects(values, *, at_least=(), at_most=(), unknown=(), margin=0.0, equivalence=False):
    """Paired effects of which those at the given places are bounds, or not known at all."""
    flags = [np.isin(np.arange(len(values)), places) for places in (at_least, at_most, unknown)]
    return Effects(np.array(values, float), *flags, margin, equivalence)


class TestWeigh:
    VALUES = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0)

    def test_known_effects_are_averaged(self):
        evidence = inference.weigh(effects(self.VALUES))
        assert evidence.estimate == 4.5
        assert (
            (evidence.low, evidence.high)
            == (evidence.floor, evidence.roof)
            == inference.mean_interval(np.array(self.VALUES))
        )
        assert evidence.ceiling == evidence.roof
        assert evidence.p == 2 / 2**8

    def test_a_bound_above_opens_the_roof_and_one_below_the_floor(self):
        above = inference.weigh(effects(self.VALUES, at_least=range(4)))
        assert (above.roof, above.high) == (math.inf, 8.0)
        assert math.isfinite(above.floor)
        below = inference.weigh(effects(self.VALUES, at_most=range(4)))
        assert (below.floor, below.low) == (-math.inf, 1.0)
        assert below.roof == below.ceiling < math.inf

    def test_p_is_that_of_the_worst_case(self):
        certain = inference.weigh(effects(self.VALUES, at_least=[7]))
        doubtful = inference.weigh(effects(self.VALUES, at_most=[7]))
        assert certain.p == 2 / 2**8
        assert doubtful.p > certain.p  # the eighth may be as bad as can be

    def test_what_is_not_known_lifts_the_ceiling_alone(self):
        evidence = inference.weigh(effects([0.0] * 5 + [1.0] * 3, unknown=range(5)))
        assert evidence.ceiling == math.inf
        assert math.isfinite(evidence.roof)

    def test_equivalence_is_not_shown_by_what_is_not_known(self):
        same = effects([0.0] * 8, margin=1.0, equivalence=True)
        unseen = effects([0.0] * 8, unknown=range(5), margin=1.0, equivalence=True)
        assert inference.weigh(same).p == 1 / 2**8
        assert inference.weigh(unseen).p > 0.05
