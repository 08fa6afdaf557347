"""Sentences: each says its verdict, the effect, how certain it is, and why the verdict is what it is."""

from __future__ import annotations

import math

import pytest
from tests.studies.claims import (
    BUDGET,
    FAST,
    NEVER,
    POINTS,
    SAME,
    SCATTERED,
    SLOW,
    a_hypothesis,
    effect_of,
    pairs_of,
)

from normsmith.studies.statistics import Pairs, judge


def test_sentence_says_effect_interval_p_and_how_many_seeds():
    faster, slower = a_hypothesis(name="a"), a_hypothesis(name="b")
    first, second = judge([pairs_of(FAST, SLOW, faster), pairs_of(SCATTERED, SAME, slower)])
    assert first.sentence == (
        "Holds: BN needs 0.405× the steps of no norm (95 % interval 0.364× to 0.45×, adjusted p = 0.0039); "
        "10 of 10 seeds lie below 0.667×."
    )
    assert (first.p, first.p_adjusted) == (2 / 2**10, 4 / 2**10)
    for (low, high), fast, slow in zip(first.effects, FAST, SLOW, strict=True):
        assert low == high == pytest.approx(math.log(slow / fast))
    assert second.sentence.startswith("Does not hold here: the typical seed does not differ between BN")
    assert "10 of 10 seeds lie above 0.667×" in second.sentence


@pytest.mark.parametrize(
    ("unit", "better", "said"),
    [
        ("steps", "lower", "BN needs 0.5× the steps of no norm"),
        ("updates to target", "lower", "BN needs 0.5× the updates to target of no norm"),
        ("loss", "lower", "BN has 0.5× the loss of no norm"),  # a loss is had, not needed
        ("speed", "higher", "BN has 0.5× the speed of no norm"),
    ],
)
def test_what_is_spent_is_needed_and_the_rest_is_had(unit, better, said):
    effect = effect_of((50.0,) * 8, (100.0,) * 8, a_hypothesis(unit=unit, better=better))
    assert said in effect.sentence


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "5 of 10 seeds lie below 0.667×, 5 above 0.667×; 9 of 10 seeds on one side decide"),
        ({"better": "higher"}, "5 of 10 seeds lie above 1.5×, 5 below 1.5×; 9 of 10"),
        ({**POINTS, "margin": 2.0}, "5 of 10 seeds lie above +2 points, 5 below +2 points"),
        ({"kind": "equivalence"}, "0 of 10 seeds lie within 0.667× to 1.5×, 5 on one side of 0.667× to 1.5×"),
        ({**POINTS, "margin": 1.0, "kind": "equivalence"}, "0 of 10 seeds lie within ±1 point"),
    ],
)
def test_what_is_inconclusive_says_what_is_missing(changes, said):
    steps = (50,) * 5 + (150,) * 5
    effect = effect_of(steps, steps[::-1], a_hypothesis(**changes))
    assert said in effect.sentence


def test_what_is_enough_by_itself_is_not_beside_others():
    """9 of 10 pairs: p = 0.021 alone, and of three hypotheses 0.064."""
    nine = (100,) * 9 + (300,)
    pairs = [pairs_of(nine, (200,) * 10, a_hypothesis(name=name)) for name in "abc"]
    assert all("enough by itself, not beside" in effect.sentence for effect in judge(pairs, most=3))
    assert "decide" not in judge(pairs[:1])[0].sentence


def test_open_ends_are_named_on_the_side_where_they_are():
    never_without = effect_of(FAST, NEVER).sentence
    assert "BN needs at most 0.0998× the steps" in never_without
    assert "0.112× or less" in never_without
    assert "an arm never got there for 10 of 10 seeds" in never_without
    never_with = effect_of(NEVER, FAST).sentence
    assert "at least 10×" in never_with
    assert "8.91× or more" in never_with
    hypothesis = a_hypothesis(scale="difference", unit="octaves", better="higher", margin=1.5)
    beyond = effect_of((BUDGET + 1,) * 10, (396.0, 397.0) * 5, hypothesis).sentence
    assert "+4 or more" in beyond


def test_numbers_are_written_as_everywhere_else():
    """Thousands are grouped, and minus signs are true."""
    samples = a_hypothesis(**{**POINTS, "unit": "samples"}, margin=0.5)
    (effect,) = judge([Pairs(samples, tuple(range(20)), (13345.0,) * 20, (1000.0,) * 20)])
    assert "BN against no norm: +12,345 samples" in effect.sentence
    points = effect_of(SCATTERED, SAME, a_hypothesis(**POINTS, margin=0.5))
    assert "\N{MINUS SIGN}" in points.sentence
    assert "-" not in points.sentence


def test_a_reason_that_was_decided_beforehand_is_the_sentence():
    effect = judge([pairs_of(FAST, SLOW, decided="renorm was never active.")])[0]
    assert effect.sentence == "Inconclusive: renorm was never active."
