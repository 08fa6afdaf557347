"""Sign counts, order statistics and Holm against scipy, enumeration and the literature."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from normsmith.studies import _inference as inference
from normsmith.studies._pairs import Effects

INFINITE = math.inf


def effects_of(low, high=None, margin=1.0, *, equivalence=False):
    low = np.asarray(low, float)
    return Effects(low, low if high is None else np.asarray(high, float), margin, equivalence)


class TestSignTest:
    @given(seeds=st.integers(1, 40), data=st.data())
    @settings(max_examples=60, deadline=None)
    def test_is_the_binomial_test(self, seeds, data):
        counted = np.array(data.draw(st.lists(st.booleans(), min_size=seeds, max_size=seeds)))
        oracle = stats.binomtest(int(counted.sum()), seeds, alternative="greater").pvalue
        assert inference.sign_test(counted) == pytest.approx(oracle, rel=1e-9)

    def test_many_studies_at_once_are_each_alone(self):
        counted = np.random.default_rng(0).random((3, 4, 8)) < 0.7
        at_once = inference.sign_test(counted)
        assert at_once.shape == (3, 4)
        for index in np.ndindex(3, 4):
            assert at_once[index] == inference.sign_test(counted[index])


class TestEvidence:
    def test_counts_pairs_on_either_side_of_the_margin(self):
        evidence = inference.weigh(effects_of([2.0, 3.0, 4.0, 1.0, -5.0]))  # 1 lies on the margin: neither
        assert (evidence.beyond, evidence.short) == (3, 1)
        assert evidence.p_holds == 2 * stats.binomtest(3, 5, alternative="greater").pvalue
        assert evidence.p_short == 2 * stats.binomtest(1, 5, alternative="greater").pvalue
        assert evidence.p_reversed == evidence.p_short
        assert evidence.median == (2.0, 2.0)

    def test_an_open_pair_counts_only_where_all_of_it_lies(self):
        low, high = [2.0, -INFINITE, 0.0, -INFINITE], [INFINITE, 0.0, INFINITE, INFINITE]
        evidence = inference.weigh(effects_of(low, high))
        assert (evidence.beyond, evidence.short) == (1, 1)
        assert evidence.median == (-INFINITE, INFINITE)

    @pytest.mark.parametrize(
        ("values", "beyond", "short"),
        [([0.0, 0.5, -0.5, 0.9], 4, 0), ([2.0, 3.0, -2.0, 0.0], 1, 2), ([2.0, 1.5, 4.0, 9.0], 0, 4)],
    )
    def test_equivalence_is_two_tests(self, values, beyond, short):
        evidence = inference.weigh(effects_of(values, equivalence=True))
        assert (evidence.beyond, evidence.short) == (beyond, short)
        sides = [sum(value > -1 for value in values), sum(value < 1 for value in values)]
        tests = [stats.binomtest(count, 4, alternative="greater").pvalue for count in sides]
        assert evidence.p_holds == 2 * max(tests)
        assert evidence.p_reversed == 2.0

    @given(values=st.lists(st.floats(-5, 5), min_size=1, max_size=25))
    @settings(max_examples=60, deadline=None)
    def test_the_median_is_numpys(self, values):
        median = inference.weigh(effects_of(values)).median
        assert median.low == median.high == pytest.approx(np.median(values), abs=1e-12)


class TestInterval:
    @pytest.mark.parametrize("seeds", [6, 8, 10, 12, 20, 31])
    def test_is_the_textbooks(self, seeds):
        """The narrowest pair of order statistics, as far from either end, that covers at least 95 %."""
        order = np.arange(seeds, dtype=float)
        low, high = inference.median_interval(order, order)
        cut = int(low)
        assert high == seeds - 1 - cut
        assert stats.binom.cdf(cut, seeds, 0.5) <= 0.025 < stats.binom.cdf(cut + 1, seeds, 0.5)

    def test_of_few_seeds_is_their_range(self):
        assert inference.median_interval(np.array([3.0, 1.0]), np.array([3.0, 1.0])) == (1.0, 3.0)

    def test_is_of_the_lower_ends_below_and_the_upper_ends_above(self):
        low = np.array([*range(9), -INFINITE], float)
        high = np.array([*range(9), 3.0], float)
        assert inference.median_interval(low, high) == (0.0, 7.0)
        unknown = np.full(10, INFINITE)
        assert inference.median_interval(-unknown, unknown) == (-INFINITE, INFINITE)


class TestHolm:
    @given(p_values=st.lists(st.floats(1e-6, 1), min_size=1, max_size=5))
    @settings(max_examples=60, deadline=None)
    def test_without_sequences_is_holms(self, p_values):
        nobody = [None] * len(p_values)
        ranked = sorted(range(len(p_values)), key=p_values.__getitem__)
        expected, largest = {}, 0.0
        for rank, index in enumerate(ranked):
            largest = max(largest, min(1.0, p_values[index] * (len(p_values) - rank)))
            expected[index] = largest
        adjusted = inference.holm(p_values, [False] * len(p_values), nobody)
        assert adjusted == pytest.approx([expected[index] for index in range(len(p_values))])

    def test_what_rests_on_another_takes_its_level(self):
        assert inference.holm([0.01, 0.02, 0.024], [True] * 3, [None, 0, None]) == (0.02, 0.04, 0.04)
        # without its level, not tested
        assert inference.holm([0.03, 0.001, 0.9], [True] * 3, [None, 0, None]) == (0.06, 1.0, 0.9)
        # what it rests on was turned down: its level goes to the others
        assert inference.holm([0.01, 0.001, 0.04], [False, True, True], [None, 0, None]) == (0.02, 1.0, 0.04)

    def test_sequences_keep_the_chance_of_any_false_statement(self):
        """Two heads and what rests on the first; whichever are true nulls, p-values as large as they may be."""
        draw = np.random.default_rng(0).random((4000, 3))
        for nulls in itertools.product([False, True], repeat=3):
            p_values = np.where(nulls, draw, 0.0)
            false = sum(
                any(
                    null and p <= inference.ALPHA
                    for null, p in zip(nulls, inference.holm(row, [True] * 3, [None, 0, None]), strict=True)
                )
                for row in p_values.tolist()
            )
            assert false <= stats.binom.ppf(0.999, len(draw), inference.ALPHA)


def test_how_many_are_needed_is_what_the_tests_ask():
    for seeds, hypotheses in itertools.product(range(1, 25), (1, 2, 3)):
        needed = inference.pairs_needed(seeds, hypotheses)
        assert (needed is None) == (seeds < inference.seeds_needed(hypotheses))
        if needed is not None:
            enough = [2 * hypotheses * inference.tail(seeds)[count] <= 0.05 for count in (needed - 1, needed)]
            assert enough == [False, True]
    assert inference.pairs_needed(10, 2) == 9
