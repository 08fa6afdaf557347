"""Verdicts: what the numbers allow, whatever the order, the unit and what censoring hides."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.studies.claims import (
    BUDGET,
    FAST,
    HARDLY_FASTER,
    NEVER,
    POINTS,
    SAME,
    SAME_TOO,
    SCATTERED,
    SLOW,
    a_hypothesis,
    arms,
    claims,
    drawn,
    effect_of,
    enumerated,
    pairs_of,
    swapped,
)

from normsmith.errors import StudyError
from normsmith.studies import _inference as inference
from normsmith.studies.results import Verdict
from normsmith.studies.statistics import Pairs, judge

HOLDS, NOT_HERE, REVERSED, INCONCLUSIVE = Verdict


class TestVerdicts:
    @pytest.mark.parametrize(
        ("treatment", "control", "changes", "verdict", "said"),
        [
            (FAST, SLOW, {}, HOLDS, "BN needs 0.401× the steps of no norm (95 % interval"),
            (SLOW, FAST, {}, REVERSED, "the claim is the opposite"),
            (HARDLY_FASTER, SLOW, {}, NOT_HERE, "the claim is at most 0.667×"),  # significant, but short
            (HARDLY_FASTER, SLOW, {"margin": 0.0}, HOLDS, "0.88×"),
            ((20, 150, 30, 90, 10, 300, 50, 60), SLOW, {}, INCONCLUSIVE, "this could be chance"),
            # Significant, and on both sides of the margin.
            ((80, 40, 90, 50, 60, 90, 50, 70), SLOW, {}, INCONCLUSIVE, "the claim is at most 0.667×"),
            (SAME, SAME_TOO, {**POINTS, "margin": 1.0}, NOT_HERE, "0.0125 points worse"),
            (SCATTERED, SAME_TOO, {**POINTS, "margin": 1.0}, INCONCLUSIVE, "at least 1 points better"),
            # A discrete metric right at its margin: "at least 2" holds.
            ((5,) * 8, (3,) * 8, {**POINTS, "unit": "octaves", "margin": 2.0}, HOLDS, "2 octaves better"),
            ((5,) * 8, (3,) * 8, {**POINTS, "margin": 2.1}, NOT_HERE, "at least 2.1"),
            ((5,) * 8, (5,) * 8, {**POINTS, "margin": 0.0}, NOT_HERE, "do not differ"),  # never "at least 0"
            # Only some seeds differ.
            (
                (5, 6, 7, 5, 5, 5, 5, 5),
                (5,) * 8,
                {**POINTS, "margin": 0.0},
                INCONCLUSIVE,
                "only 2 seeds differ",
            ),
            (SAME, SAME_TOO, {**POINTS, "margin": 1.0, "kind": "equivalence"}, HOLDS, "within 1 points"),
            (SCATTERED, SAME_TOO, {**POINTS, "margin": 1.0, "kind": "equivalence"}, INCONCLUSIVE, "within 1"),
            (SLOW, FAST, {"kind": "equivalence"}, NOT_HERE, "a factor of 1.5"),
            (FAST, SLOW, {"kind": "equivalence"}, NOT_HERE, "a factor of 1.5"),  # no "reversed" here
            # Steps to a target that is not always reached.
            (
                FAST,
                NEVER,
                {},
                HOLDS,
                "0.0873× or less to 0.112×, p = 0.0078, 8 seeds); no norm never got there",
            ),
            (NEVER, FAST, {}, REVERSED, "BN never got there for 8 seeds"),
            (NEVER, NEVER, {}, INCONCLUSIVE, "neither BN nor no norm got there within the budget for 8 of 8"),
            (FAST[:3] + NEVER[:5], NEVER, {}, INCONCLUSIVE, "for 5 of 8 seeds"),
            (NEVER, NEVER, {"kind": "equivalence"}, INCONCLUSIVE, "for 8 of 8 seeds"),  # sameness is not seen
        ],
    )
    def test_are_what_the_numbers_allow(self, treatment, control, changes, verdict, said):
        effect = effect_of(treatment, control, a_hypothesis(**changes))
        assert effect.verdict is verdict
        assert effect.sentence.startswith(verdict.value.capitalize() + ": ")
        assert said in effect.sentence

    @pytest.mark.parametrize(("hypotheses", "needed"), [(1, 6), (2, 7), (3, 7)])
    def test_say_how_many_seeds_are_needed(self, hypotheses, needed):
        for count in range(1, 9):
            effects = judge(
                [
                    pairs_of(FAST[:count], SLOW[:count], a_hypothesis(name=str(name)))
                    for name in range(hypotheses)
                ]
            )
            for effect in effects:
                told = f"at least {needed} seeds are needed" in effect.sentence
                assert told == (count < needed) == (effect.verdict is INCONCLUSIVE)
                assert told or effect.verdict is HOLDS
                assert ("range" in effect.sentence) == (count < 6)
                assert min(effect.values) <= effect.low <= effect.high <= max(effect.values)

    def test_may_be_decided_beforehand(self):
        """And then they are no evidence that could lower the bar for the others."""
        decided = pairs_of(FAST, SLOW, a_hypothesis(name="a"), decided="renorm's r and d were never active")
        first, second = judge([decided, pairs_of(FAST, SLOW, a_hypothesis(name="b"))])
        assert (first.verdict, first.p_adjusted) == (INCONCLUSIVE, 1.0)
        assert first.sentence == "Inconclusive: renorm's r and d were never active."
        assert second.p_adjusted == 2 * second.p

    def test_equivalence_is_two_one_sided_tests(self):
        lower = [value - 0.1 for value in SAME]
        effect = effect_of(lower, SAME_TOO, a_hypothesis(**POINTS, margin=0.2, kind="equivalence"))
        values = np.array(effect.values)
        sides = [enumerated(np.round(0.2 + side * values, 9), "greater") for side in (1, -1)]
        assert effect.p == pytest.approx(max(sides))
        assert 0 < min(sides) < max(sides) < 0.05

    def test_ties_of_exact_arithmetic_tie(self):
        """0.97 − 0.95 and 0.96 − 0.94 differ in floating point; as effects they are one number."""
        effect = effect_of((0.97, 0.96) * 4, (0.95, 0.94) * 4, a_hypothesis(**POINTS, margin=0.0))
        assert set(effect.values) == {0.02}
        assert (effect.low, effect.estimate, effect.high) == pytest.approx((0.02, 0.02, 0.02), abs=1e-15)

    def test_of_no_hypotheses_are_none(self):
        assert judge([]) == ()


class TestBadInput:
    def test_more_hypotheses_than_three(self):
        with pytest.raises(StudyError, match="at most 3 primary hypotheses"):
            judge([pairs_of(FAST, SLOW, a_hypothesis(name=str(name))) for name in range(4)])

    def test_two_hypotheses_of_one_name(self):
        with pytest.raises(StudyError, match="different names"):
            judge([pairs_of(FAST, SLOW)] * 2)


class TestProperties:
    @given(claim=claims, steps=arms)
    @settings(max_examples=50, deadline=None)
    def test_everything_is_finite_and_in_order(self, claim, steps):
        pairs = drawn(claim, steps)
        (effect,) = judge([pairs])
        json.dumps(effect.model_dump(), allow_nan=False)
        assert min(effect.values) <= effect.low <= effect.high <= max(effect.values)
        assert effect.low <= effect.estimate <= effect.high
        assert 0 < effect.p <= effect.p_adjusted <= 1
        assert effect.censored == sum(
            np.array(pairs.treatment_censored) & np.array(pairs.control_censored),
        )

    @given(claim=claims, steps=arms)
    @settings(max_examples=30, deadline=None)
    def test_swapping_the_arms_mirrors_it(self, claim, steps):
        pairs = drawn({**claim, "kind": "superiority"}, steps)
        (one,), (other,) = judge([pairs]), judge([swapped(pairs)])
        assert other.values == tuple(-value + 0.0 for value in one.values)
        assert (other.p, other.estimate) == pytest.approx((one.p, -one.estimate))
        if one.estimate != 0:  # at zero the bootstrap has no side to start from
            assert (other.low, other.high) == pytest.approx((-one.high, -one.low))
            assert (one.verdict is HOLDS) == (other.verdict is REVERSED)

    @given(claim=claims, steps=arms, shuffle=st.integers(0, 100))
    @settings(max_examples=30, deadline=None)
    def test_the_order_of_the_seeds_does_not_matter(self, claim, steps, shuffle):
        pairs = drawn(claim, steps)
        order = np.random.default_rng(shuffle).permutation(len(steps)).tolist()
        names = ("seeds", "treatment", "control", "treatment_censored", "control_censored")
        shuffled = Pairs(
            pairs.hypothesis, *(tuple(getattr(pairs, name)[index] for index in order) for name in names)
        )
        (one,), (other,) = judge([pairs]), judge([shuffled])
        for name in ("low", "estimate", "high", "p"):
            assert getattr(other, name) == pytest.approx(getattr(one, name), abs=1e-12)
        assert other.verdict is one.verdict

    @given(claim=claims, steps=arms, factor=st.sampled_from([0.5, 4.0, 1024.0]))
    @settings(max_examples=30, deadline=None)
    def test_the_unit_does_not_matter(self, claim, steps, factor):
        """Steps or thousands of steps: ratios stay, differences and their margin scale."""
        pairs = drawn(claim, steps)
        hypothesis, grows = pairs.hypothesis, pairs.hypothesis.scale == "difference"
        scaled = Pairs(
            a_hypothesis(
                scale=hypothesis.scale,
                better=hypothesis.better,
                kind=hypothesis.kind,
                margin=hypothesis.margin * (factor if grows else 1),
            ),
            pairs.seeds,
            tuple(value * factor for value in pairs.treatment),
            tuple(value * factor for value in pairs.control),
            pairs.treatment_censored,
            pairs.control_censored,
        )
        (one,), (other,) = judge([pairs]), judge([scaled])
        growth = factor if grows else 1.0
        for name in ("low", "estimate", "high"):
            assert getattr(other, name) == pytest.approx(getattr(one, name) * growth, rel=1e-9, abs=1e-9)
        assert other.verdict is one.verdict


class TestCensoring:
    @given(seed=st.integers(0, 2**32), shift=st.floats(-2.0, 2.0), margin=st.sampled_from([0.0, 0.3]))
    @settings(max_examples=40, deadline=None)
    def test_no_verdict_is_one_that_more_steps_would_have_denied(self, seed, shift, margin):
        """Whatever the hidden step counts are, the uncensored analysis agrees with a verdict that was given."""
        draw = np.random.default_rng(seed)
        treatment, control = np.exp(5.3 + draw.normal(scale=0.5, size=(2, 10)) + [[-shift / 2], [shift / 2]])
        hidden = np.maximum(treatment, control) > BUDGET
        assume(hidden.any() and not (np.minimum(treatment, control) > BUDGET).any())
        effect = effect_of(treatment, control, a_hypothesis(margin=margin))
        truth = np.log(control / treatment)
        p = inference.sign_flip(inference.signed_ranks(truth))
        low, high = inference.rank_interval(truth)
        if effect.verdict is HOLDS:
            assert p < 0.05
            assert low >= margin
        if effect.verdict is REVERSED:
            assert p < 0.05
            assert high <= -margin
        if effect.verdict is NOT_HERE:
            assert high < max(margin, 1e-9)

    def test_a_treatment_that_never_got_there_is_not_averaged_away(self):
        """At ten seeds nine are four times faster, and one needs 401 steps or, for all we know, forever."""
        treatment, control = (25.0,) * 9 + (BUDGET + 1,), (100.0,) * 9 + (395.0,)
        naive = Pairs(a_hypothesis(margin=0.0), tuple(range(10)), treatment, control)
        assert judge([naive])[0].verdict is HOLDS
        effect = effect_of(treatment, control, a_hypothesis(margin=0.0))
        assert effect.verdict is INCONCLUSIVE
        assert "what censoring hides could decide either way" in effect.sentence

    def test_a_control_that_never_got_there_does_not_prove_the_effect_small(self):
        """Seen effects are far below the margin, but three of them are only known to be at least so large."""
        treatment = (390.0,) * 8
        control = (395.0,) * 5 + (BUDGET + 1,) * 3
        effect = effect_of(treatment, control)
        assert effect.verdict is INCONCLUSIVE
        assert effect_of((390.0,) * 8, (395.0,) * 8).verdict is NOT_HERE

    def test_pairs_that_never_got_there_are_no_evidence_of_sameness(self):
        """Five seeds tie, and of three nothing is known: neither equivalent nor short of the margin."""
        steps = (100.0,) * 5 + (BUDGET + 1,) * 3
        for kind in ("superiority", "equivalence"):
            effect = effect_of(steps, steps, a_hypothesis(kind=kind))
            assert (effect.verdict, effect.censored) == (INCONCLUSIVE, 3)
            known = effect_of((100.0,) * 8, (100.0,) * 8, a_hypothesis(kind=kind))
            assert known.verdict is (HOLDS if kind == "equivalence" else NOT_HERE)

    def test_higher_values_are_censored_the_other_way_round(self):
        """The treatment learned at every rate that was tried: its effect is at least what is seen."""
        hypothesis = a_hypothesis(scale="difference", unit="octaves", better="higher", margin=2.0)
        effect = effect_of((BUDGET + 1,) * 8, (396.0, 397.0) * 4, hypothesis)
        assert effect.verdict is HOLDS
        assert "BN went beyond what was measured for 8 seeds" in effect.sentence
        assert "or more" in effect.sentence
