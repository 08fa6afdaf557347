"""How effects are written: what happened to the quantity, ratios as treatment over control."""

import math

import pytest
from tests.report import samples

from normsmith.studies import notation
from normsmith.studies.figures import headline
from normsmith.studies.results import Verdict
from normsmith.studies.statistics import Hypothesis, Interval, Pairs, judge


def at(value):
    return Interval(value, value)


def test_a_ratio_leaves_the_logarithm_and_a_difference_has_its_sign():
    ratio = samples.effect("tanh", 0.9, 0.1, margin=math.log(1.5), verdict=Verdict.HOLDS).model_copy(
        update={"median": at(math.log(2.5)), "interval": Interval(math.log(0.5), math.log(4))}
    )
    assert notation.estimate_and_interval(ratio) == "0.4× (0.25× to 2×)"
    assert (notation.margin(ratio), notation.missed(ratio)) == ("below 0.667×", "above 0.667×")
    higher = ratio.model_copy(update={"better": "higher"})
    assert notation.estimate_and_interval(higher) == "2.5× (0.5× to 4×)"
    assert notation.margin(higher) == "above 1.5×"
    assert notation.margin(higher.model_copy(update={"kind": "equivalence"})) == "within 0.667× to 1.5×"
    points = higher.model_copy(
        update={"scale": "difference", "unit": "points", "kind": "equivalence", "margin": 1.0}
    )
    assert notation.estimate_and_interval(points) == "+0.916 points (−0.693 to +1.39)"
    assert notation.margin(points) == "within ±1 point"


@pytest.mark.parametrize(
    ("low", "high", "higher", "lower"),
    [
        (1.0, 1.0, "+1", "−1"),
        (1.0, math.inf, "at least +1", "at most −1"),
        (-math.inf, 1.0, "at most +1", "at least −1"),
        (1.0, 3.0, "+1 to +3", "−3 to −1"),
        (-math.inf, math.inf, "not known", "not known"),
    ],
)
def test_what_is_known_by_its_bounds_says_so(low, high, higher, lower):
    for better, said in (("higher", higher), ("lower", lower)):
        hypothesis = Hypothesis("a", "b", "c", "d", "points", "difference", 1.0, better)
        assert notation.span(hypothesis, Interval(low, high)) == said


def test_a_ratio_beyond_floating_point_is_infinite_not_an_error():
    huge = samples.effect("x", 1000.0, 0.0, margin=0.1, verdict=Verdict.HOLDS, better="higher")
    assert notation.amount(huge, 1000.0) == "∞×"


def test_too_few_seeds_have_a_range_and_no_interval():
    assert notation.interval_name(samples.placement().effects) == "95 % interval"
    assert notation.interval_name(samples.one_seed().answers[0].effects) == "range of the seeds"


@pytest.mark.parametrize(("better", "sign"), [("higher", "+"), ("lower", "−")])
def test_an_effect_is_what_happened_to_the_quantity_everywhere(better, sign):
    """Whichever way the claim points: in the headline, the table and the interval of the sentence."""
    claim = Hypothesis("share", "the share is better", "BN", "no norm", "points", "difference", 0.1, better)
    good, bad = (0.5, 0.2) if better == "higher" else (0.2, 0.5)
    (effect,) = judge([Pairs(claim, tuple(range(8)), (good,) * 8, (bad,) * 8)])
    assert effect.verdict is Verdict.HOLDS
    assert notation.estimate(effect) == f"{sign}0.3 points"
    assert notation.estimate_and_interval(effect) == f"{sign}0.3 points ({sign}0.3 to {sign}0.3)"
    assert headline("It helps", [effect]) == f"It helps: holds (share {sign}0.3 points)."
    assert f"BN against no norm: {sign}0.3 points (95 % interval {sign}0.3 to" in effect.sentence
    side = "above +0.1" if better == "higher" else "below −0.1"
    assert f"8 of 8 seeds lie {side} points" in effect.sentence


def test_a_headline_does_not_hide_what_failed():
    claim = Hypothesis("share", "it is better", "BN", "no norm", "points", "difference", 0.1, "higher")
    (effect,) = judge([Pairs(claim, tuple(range(8)), (0.5,) * 8, (0.2,) * 8, failed=(2, 5))])
    assert headline("It helps", [effect]) == "It helps: holds (share +0.3 points, but 2 of 8 diverged)."


def test_noise_of_additions_is_no_effect():
    effect = samples.effect(
        "x", 0.0, 0.1, margin=1.0, verdict=Verdict.INCONCLUSIVE, scale="difference", better="higher"
    )
    assert notation.amount(effect, 1e-17) == "0"
    assert notation.amount(effect, -3e-9) == "−3e−09"


def test_one_has_no_plural_and_what_is_not_known_no_unit():
    octaves = samples.effect("rate", 1.0, 0.1, margin=1.0, verdict=Verdict.HOLDS).model_copy(
        update={"scale": "difference", "unit": "octaves", "better": "higher", "median": at(1.0)}
    )
    assert notation.estimate(octaves) == "+1 octave"
    assert notation.estimate(octaves.model_copy(update={"median": at(2.0)})) == "+2 octaves"
    assert notation.margin(octaves) == "above +1 octave"
    assert (
        notation.estimate(octaves.model_copy(update={"median": Interval(-math.inf, math.inf)})) == "not known"
    )
    share = octaves.model_copy(update={"unit": "share of units"})
    assert notation.estimate(share) == "+1 share of units"
