"""Verdicts: what the numbers allow, whatever the order, the unit and what censoring hides."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
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
    pairs_of,
    swapped,
)

from normsmith.errors import StudyError
from normsmith.studies.results import Effect, Verdict
from normsmith.studies.statistics import Pairs, judge, most_judged

HOLDS, NOT_HERE, REVERSED, INCONCLUSIVE, NOT_JUDGED = Verdict
OCTAVES = {**POINTS, "unit": "octaves"}


class TestVerdicts:
    @pytest.mark.parametrize(
        ("treatment", "control", "changes", "verdict", "said"),
        [
            (FAST, SLOW, {}, HOLDS, "10 of 10 seeds lie below 0.667×"),
            (SLOW, FAST, {}, REVERSED, "the claim was below 0.667×, and the opposite is the case"),
            (HARDLY_FASTER, SLOW, {}, NOT_HERE, "10 of 10 seeds lie above 0.667×"),
            (HARDLY_FASTER, SLOW, {"margin": 0.01}, HOLDS, "below 0.99×"),
            # slower, but not by as much as the claim is faster
            (SLOW, HARDLY_FASTER, {}, NOT_HERE, "10 of 10 seeds lie above 0.667×"),
            (
                (20, 150, 30, 90, 10, 300, 50, 60, 70, 200),
                SLOW,
                {},
                INCONCLUSIVE,
                "9 of 10 seeds on one side",
            ),
            (SAME, SAME_TOO, {**POINTS, "margin": 1.0}, NOT_HERE, "lie below +1 point"),
            (
                SCATTERED,
                SAME_TOO,
                {**POINTS, "margin": 1.0},
                INCONCLUSIVE,
                "3 of 10 seeds lie above +1 point",
            ),
            # a margin between the values that a count can take
            ((5,) * 10, (3,) * 10, {**OCTAVES, "margin": 1.5}, HOLDS, "+2 octaves"),
            ((5,) * 10, (3,) * 10, {**OCTAVES, "margin": 2.5}, NOT_HERE, "below +2.5 octaves"),
            (
                (5,) * 10,
                (3,) * 10,
                {**OCTAVES, "margin": 2.0},
                INCONCLUSIVE,
                "0 of 10 seeds lie above +2",
            ),  # on it
            ((5,) * 10, (5,) * 10, {**POINTS, "margin": 0.1}, NOT_HERE, "does not differ"),
            (SAME, SAME_TOO, {**POINTS, "margin": 1.0, "kind": "equivalence"}, HOLDS, "within ±1 point"),
            (
                SCATTERED,
                SAME_TOO,
                {**POINTS, "margin": 1.0, "kind": "equivalence"},
                INCONCLUSIVE,
                "within ±1",
            ),
            (SLOW, FAST, {"kind": "equivalence"}, NOT_HERE, "on one side of 0.667× to 1.5×"),
            (
                FAST,
                SLOW,
                {"kind": "equivalence"},
                NOT_HERE,
                "on one side of 0.667× to 1.5×",
            ),  # no "reversed" here
            # steps to a target that is not always reached
            (FAST, NEVER, {}, HOLDS, "an arm never got there for 10 of 10 seeds"),
            (NEVER, FAST, {}, REVERSED, "at least 10× the steps"),
            (NEVER, NEVER, {}, INCONCLUSIVE, "against no norm is not known for the typical seed"),
            (NEVER, NEVER, {"kind": "equivalence"}, INCONCLUSIVE, "0 of 10"),  # sameness is not seen
        ],
    )
    def test_are_what_the_numbers_allow(self, treatment, control, changes, verdict, said):
        effect = effect_of(treatment, control, a_hypothesis(**changes))
        assert effect.verdict is verdict
        assert effect.sentence.startswith(verdict.value.capitalize() + ": ")
        assert said in effect.sentence

    @pytest.mark.parametrize(("hypotheses", "needed"), [(1, 6), (2, 7)])
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
                assert told == (count < needed) == (effect.verdict is INCONCLUSIVE) == (effect.needed is None)
                assert told or effect.verdict is HOLDS
                assert ("range" in effect.sentence) == (count < 6)

    def test_may_be_decided_beforehand(self):
        """And then they are no evidence that could lower the bar for the others."""
        decided = pairs_of(FAST, SLOW, a_hypothesis(name="a"), decided="renorm's r and d were never active")
        first, second = judge([decided, pairs_of(FAST, SLOW, a_hypothesis(name="b"))])
        assert (first.verdict, first.p_adjusted) == (INCONCLUSIVE, 1.0)
        assert first.sentence == "Inconclusive: renorm's r and d were never active."
        assert second.p_adjusted == 2 * second.p

    def test_of_no_hypotheses_are_none(self):
        assert judge([]) == ()

    def test_say_that_trials_failed(self):
        effect = effect_of(FAST, SLOW, failed=(1, 0))
        assert effect.verdict is HOLDS
        assert "but BN diverged for 1 of 10 seeds" in effect.sentence
        assert "no norm diverged" not in effect.sentence


class TestManyHypotheses:
    def test_those_after_the_first_are_shown_and_not_judged(self):
        pairs = [pairs_of(FAST, SLOW, a_hypothesis(name=name)) for name in "abc"]
        first, second, third = judge(pairs, most=2)
        assert (first.verdict, second.verdict, third.verdict) == (HOLDS, HOLDS, NOT_JUDGED)
        assert first.p_adjusted == 2 * first.p
        assert "judges the question's first 2 hypotheses only" in third.sentence
        assert "p =" not in third.sentence
        assert [effect.verdict for effect in judge(pairs, most=3)] == [HOLDS] * 3

    @pytest.mark.parametrize(("seeds", "most", "deciding"), [(10, 2, 9), (20, 3, 16)])
    def test_as_many_are_judged_as_the_seeds_can_decide(self, seeds, most, deciding):
        assert most_judged(seeds) == most
        hypotheses = [a_hypothesis(name=str(name)) for name in range(most)]
        effects = judge([pairs_of((40,) * seeds, (100,) * seeds, each) for each in hypotheses], most)
        assert {effect.needed for effect in effects} == {deciding}

    def test_one_that_rests_on_another_waits_for_it(self):
        fails, better = a_hypothesis(name="fails"), a_hypothesis(name="better")
        half = a_hypothesis(name="half", after="better")
        good, same = (FAST, SLOW), (SLOW, SLOW)
        all_hold = judge([pairs_of(*good, fails), pairs_of(*good, better), pairs_of(*good, half)])
        assert [effect.verdict for effect in all_hold] == [HOLDS] * 3
        second_not = judge([pairs_of(*good, fails), pairs_of(*same, better), pairs_of(*good, half)])
        assert [effect.verdict for effect in second_not] == [HOLDS, NOT_HERE, INCONCLUSIVE]
        assert "it rests on “better”, which was not shown" in second_not[2].sentence

    def test_one_that_rests_on_what_is_not_judged_is_not_judged(self):
        hypotheses = [a_hypothesis(name="a"), a_hypothesis(name="b"), a_hypothesis(name="c", after="b")]
        effects = judge([pairs_of(FAST, SLOW, each) for each in hypotheses], most=1)
        assert [effect.verdict for effect in effects] == [HOLDS, NOT_JUDGED, NOT_JUDGED]


class TestBadInput:
    def test_two_hypotheses_of_one_name(self):
        with pytest.raises(StudyError, match="different names"):
            judge([pairs_of(FAST, SLOW)] * 2)

    def test_one_that_rests_on_nothing(self):
        with pytest.raises(StudyError, match="'steps': expected what it rests on before it, got 'speed'"):
            judge([pairs_of(FAST, SLOW, a_hypothesis(after="speed"))])


class TestProperties:
    @given(claim=claims, steps=arms)
    @settings(max_examples=50, deadline=None)
    def test_everything_is_in_order_and_kept_by_json(self, claim, steps):
        (effect,) = judge([drawn(claim, steps)])
        assert Effect.model_validate_json(effect.model_dump_json()) == effect
        assert effect.interval.low <= effect.median.low <= effect.median.high <= effect.interval.high
        assert 0 < effect.p <= effect.p_adjusted <= 1
        assert effect.beyond + effect.short <= len(steps)
        assert effect.censored == sum(max(pair) > BUDGET for pair in steps)

    @given(claim=claims, steps=arms)
    @settings(max_examples=30, deadline=None)
    def test_swapping_the_arms_mirrors_it(self, claim, steps):
        pairs = drawn({**claim, "kind": "superiority"}, steps)
        (one,), (other,) = judge([pairs]), judge([swapped(pairs)])
        for name in ("median", "interval"):
            mirrored = [-end + 0.0 for end in getattr(other, name)][::-1]
            assert mirrored == pytest.approx(getattr(one, name))
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
        for name in ("median", "interval", "beyond", "short", "p", "verdict", "sentence"):
            assert getattr(other, name) == getattr(one, name)

    @given(claim=claims, steps=arms, factor=st.sampled_from([0.5, 4.0, 1024.0]))
    @settings(max_examples=30, deadline=None)
    def test_the_unit_does_not_matter(self, claim, steps, factor):
        """Steps or thousands of steps: ratios stay, differences and their margin scale."""
        pairs = drawn(claim, steps)
        hypothesis, grows = pairs.hypothesis, pairs.hypothesis.scale == "difference"
        scaled = Pairs(
            a_hypothesis(**{**claim, "margin": hypothesis.margin * (factor if grows else 1)}),
            pairs.seeds,
            tuple(value * factor for value in pairs.treatment),
            tuple(value * factor for value in pairs.control),
            pairs.treatment_censored,
            pairs.control_censored,
        )
        (one,), (other,) = judge([pairs]), judge([scaled])
        growth = factor if grows else 1.0
        for name in ("median", "interval"):
            expected = [end * growth for end in getattr(one, name)]
            assert getattr(other, name) == pytest.approx(expected, rel=1e-9, abs=1e-9)
        assert other.verdict is one.verdict


class TestCensoring:
    @given(seed=st.integers(0, 2**32), shift=st.floats(-2.0, 2.0), margin=st.sampled_from([0.01, 0.3]))
    @settings(max_examples=40, deadline=None)
    def test_no_verdict_is_one_that_more_steps_would_have_denied(self, seed, shift, margin):
        """Whatever the hidden step counts are, a verdict that was given is the verdict on what was hidden."""
        draw = np.random.default_rng(seed)
        treatment, control = np.exp(5.3 + draw.normal(scale=0.5, size=(2, 10)) + [[-shift / 2], [shift / 2]])
        effect = effect_of(treatment, control, a_hypothesis(margin=margin))
        (truth,) = judge([Pairs(a_hypothesis(margin=margin), effect.seeds, tuple(treatment), tuple(control))])
        assert effect.verdict in (INCONCLUSIVE, truth.verdict) or (
            (effect.verdict, truth.verdict) == (NOT_HERE, REVERSED)  # less was said, and nothing wrong
        )
        assert effect.interval.low <= truth.interval.low <= truth.interval.high <= effect.interval.high

    def test_a_treatment_that_never_got_there_counts_against_the_claim(self):
        treatment, control = (25.0,) * 8 + (BUDGET + 1,) * 2, (100.0,) * 8 + (395.0,) * 2
        naive = Pairs(a_hypothesis(margin=0.01), tuple(range(10)), treatment, control)
        assert judge([naive])[0].beyond == 8
        effect = effect_of(treatment, control, a_hypothesis(margin=0.01))
        assert (effect.verdict, effect.beyond, effect.censored) == (INCONCLUSIVE, 8, 2)

    def test_a_budget_just_beyond_the_controls_steps_proves_nothing(self):
        """A true 0.76× is not 0.67×, though all that is known of the control is that it needs more than 151."""
        effect = effect_of(
            (120.0,) * 10, (BUDGET + 1,) * 10, a_hypothesis(margin=-math.log(0.67))
        )  # known: below 0.3×
        assert effect.verdict is HOLDS
        short = Pairs(
            a_hypothesis(margin=-math.log(0.67)),
            tuple(range(10)),
            (120.0,) * 10,
            (151.0,) * 10,
            control_censored=(True,) * 10,
        )
        assert judge([short])[0].verdict is INCONCLUSIVE

    def test_a_control_that_never_got_there_does_not_prove_the_effect_small(self):
        """Seen effects are far below the margin, but three of them are only known to be at least so large."""
        treatment = (390.0,) * 10
        control = (395.0,) * 7 + (BUDGET + 1,) * 3
        assert effect_of(treatment, control).verdict is INCONCLUSIVE
        assert effect_of(treatment, (395.0,) * 10).verdict is NOT_HERE

    def test_pairs_that_never_got_there_are_no_evidence_of_sameness(self):
        """Seven seeds tie, and of three nothing is known: neither equivalent nor short of the margin."""
        steps = (100.0,) * 7 + (BUDGET + 1,) * 3
        for kind in ("superiority", "equivalence"):
            effect = effect_of(steps, steps, a_hypothesis(kind=kind))
            assert (effect.verdict, effect.censored) == (INCONCLUSIVE, 3)
            known = effect_of((100.0,) * 10, (100.0,) * 10, a_hypothesis(kind=kind))
            assert known.verdict is (HOLDS if kind == "equivalence" else NOT_HERE)

    def test_higher_values_are_censored_the_other_way_round(self):
        """The treatment learned at every rate that was tried: its effect is at least what is seen."""
        hypothesis = a_hypothesis(scale="difference", unit="octaves", better="higher", margin=1.5)
        effect = effect_of((BUDGET + 1,) * 10, (396.0, 397.0) * 5, hypothesis)
        assert effect.verdict is HOLDS
        assert "an arm went beyond what was measured for 10 of 10 seeds" in effect.sentence
        assert "at least +4.5 octaves" in effect.sentence
        assert "or more" in effect.sentence
