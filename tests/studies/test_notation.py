"""How effects are written: one sign convention, ratios as treatment over control."""

import math

import pytest
from tests.report import samples

from normsmith.studies import notation
from normsmith.studies.figures import headline
from normsmith.studies.results import Verdict
from normsmith.studies.statistics import Hypothesis, Pairs, judge


def test_a_ratio_leaves_the_logarithm_and_a_difference_keeps_its_sign():
    ratio = samples.effect("tanh", 0.9, 0.1, margin=math.log(1.5), verdict=Verdict.HOLDS).model_copy(
        update={"estimate": math.log(2.5), "low": math.log(0.5), "high": math.log(4)}
    )
    assert notation.estimate_and_interval(ratio) == "0.4× (0.25× to 2×)"
    assert notation.margin(ratio) == "at most 0.667×"
    higher = ratio.model_copy(update={"better": "higher"})
    assert notation.estimate_and_interval(higher) == "2.5× (0.5× to 4×)"
    assert notation.margin(higher) == "at least 1.5×"
    assert notation.margin(higher.model_copy(update={"kind": "equivalence"})) == "within 0.667× to 1.5×"
    assert notation.margin(ratio.model_copy(update={"margin": 0.0})) == "less than 1×"
    points = ratio.model_copy(
        update={"scale": "difference", "unit": "points", "kind": "equivalence", "margin": 1.0}
    )
    assert notation.estimate_and_interval(points) == "+0.916 points (−0.693 to +1.39)"
    assert notation.margin(points) == "within ±1 points"


def test_a_ratio_beyond_floating_point_is_infinite_not_an_error():
    huge = samples.effect("x", 1000.0, 0.0, margin=0.1, verdict=Verdict.HOLDS, better="higher")
    assert notation.amount(huge, 1000.0) == "∞×"


def test_too_few_seeds_have_a_range_and_no_interval():
    assert notation.interval_name(samples.placement().effects) == "95 % interval"
    assert notation.interval_name(samples.one_seed().answers[0].effects) == "range of the seeds"


@pytest.mark.parametrize("better", ["higher", "lower"])
def test_what_speaks_for_the_claim_has_a_plus_everywhere(better):
    """Whichever way the metric points: in the headline, the table and the interval of the sentence."""
    claim = Hypothesis("share", "the share is better", "BN", "no norm", "points", "difference", 0.0, better)
    good, bad = (0.5, 0.2) if better == "higher" else (0.2, 0.5)
    (effect,) = judge([Pairs(claim, tuple(range(8)), (good,) * 8, (bad,) * 8)])
    assert notation.estimate(effect) == "+0.3 points"
    assert notation.estimate_and_interval(effect) == "+0.3 points (+0.3 to +0.3)"
    assert headline("It helps", [effect]) == "It helps: holds (share +0.3 points)."
    assert "BN is 0.3 points better than no norm (95 % interval +0.3 to +0.3, p = 0.0078" in effect.sentence


def test_noise_of_additions_is_no_effect():
    effect = samples.effect("x", 0.0, 0.1, margin=1.0, verdict=Verdict.INCONCLUSIVE, scale="difference")
    assert notation.amount(effect, 1e-17) == "0"
    assert notation.amount(effect, -3e-9) == "−3e−09"
