"""Sentences: each says its verdict, the effect, how certain it is, and why the verdict is what it is."""

from __future__ import annotations

import math
from statistics import fmean

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


def test_sentence_says_effect_interval_p_and_seeds():
    faster, slower = a_hypothesis(name="a"), a_hypothesis(name="b", margin=0.0)
    first, second = judge([pairs_of(FAST, SLOW, faster), pairs_of(SCATTERED, SAME, slower)])
    assert first.sentence == (
        "Holds: BN needs 0.401× the steps of no norm (95 % interval 0.351× to 0.429×, adjusted p = 0.016, "
        "8 seeds); the claim is at most 0.667×."
    )
    assert (first.p, first.p_adjusted) == (2 / 2**8, 4 / 2**8)
    assert second.p_adjusted == second.p  # the last of Holm's steps
    assert first.values == pytest.approx([math.log(s / f) for f, s in zip(FAST, SLOW, strict=True)])
    assert first.estimate == pytest.approx(fmean(first.values))


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
        ({"margin": math.log(1.5)}, "the claim is at most 0.667×"),
        ({"margin": math.log(1.5), "better": "higher"}, "the claim is at least 1.5×"),
        ({"margin": 0.0}, "the claim is lower steps"),
        ({**POINTS, "margin": 2.0}, "the claim is at least 2 points better"),
        ({"margin": math.log(1.5), "kind": "equivalence"}, "the same was to mean within a factor of 1.5"),
        ({**POINTS, "margin": 1.0, "kind": "equivalence"}, "the same was to mean within 1 points"),
    ],
)
def test_a_claim_that_is_not_met_is_said(changes, said):
    steps = tuple(range(60, 140, 10))
    effect = effect_of(steps, steps[::-1], a_hypothesis(**changes))
    assert said in effect.sentence


def test_ends_that_censoring_leaves_open_are_named_on_the_side_where_they_are():
    never_without = effect_of(FAST, NEVER).sentence
    assert "0.0873× or less to 0.112×" in never_without
    assert "no norm never got there for 8 seeds" in never_without
    never_with = effect_of(NEVER, FAST).sentence
    assert "× to 11.5× or more" in never_with
    hypothesis = a_hypothesis(scale="difference", unit="octaves", better="higher", margin=2.0)
    beyond = effect_of((BUDGET + 1,) * 8, (396.0, 397.0) * 4, hypothesis).sentence
    assert "+5 or more" in beyond


def test_numbers_are_written_as_everywhere_else():
    """Thousands are grouped, and minus signs are true."""
    samples = a_hypothesis(**{**POINTS, "unit": "samples"}, margin=0.0)
    (effect,) = judge([Pairs(samples, tuple(range(20)), (13345.0,) * 20, (1000.0,) * 20)])
    assert "BN is 12,345 samples better than no norm" in effect.sentence
    assert "p = 0.00012, 20 seeds" in effect.sentence
    points = effect_of(SCATTERED, SAME, a_hypothesis(**POINTS, margin=0.0))
    assert "\N{MINUS SIGN}" in points.sentence
    assert "-" not in points.sentence


def test_a_reason_that_was_decided_beforehand_is_the_sentence():
    effect = judge([pairs_of(FAST, SLOW, decided="renorm was never active.")])[0]
    assert effect.sentence == "Inconclusive: renorm was never active."
