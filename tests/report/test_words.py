import math

import pytest
from tests.report import samples

from normsmith.report import failures, words
from normsmith.report.axes import MOST_TICKS, log_axis, ratio_ticks, round_ticks
from normsmith.studies.results import Verdict


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (-0.0012345, "−0.00123"),  # a true minus sign
        (999.9, "1,000"),  # rounding does not lead into exponents
        (1234567.0, "1,234,567"),
        (math.inf, "∞"),
        (-math.inf, "−∞"),
        (math.nan, "not a number"),
    ],
)
def test_numbers(value, text):
    assert words.number(value) == text


def test_a_ratio_leaves_the_logarithm_and_a_difference_keeps_its_sign():
    ratio = samples.effect("tanh", 0.9, 0.1, margin=math.log(1.5), verdict=Verdict.HOLDS).model_copy(
        update={"estimate": math.log(2.5), "low": math.log(0.5), "high": math.log(4)}
    )
    assert words.estimate(ratio) == "0.4× (0.25× to 2×)"
    assert words.margin(ratio) == "at most 0.667×"
    higher = ratio.model_copy(update={"better": "higher"})
    assert words.estimate(higher) == "2.5× (0.5× to 4×)"
    assert words.margin(higher) == "at least 1.5×"
    assert words.margin(higher.model_copy(update={"kind": "equivalence"})) == "within 0.667× to 1.5×"
    assert words.margin(ratio.model_copy(update={"margin": 0.0})) == "less than 1×"
    points = ratio.model_copy(
        update={"scale": "difference", "unit": "points", "kind": "equivalence", "margin": 1.0}
    )
    assert words.estimate(points) == "+0.916 points (−0.693 to +1.39)"
    assert words.margin(points) == "within ±1 points"


def test_a_ratio_beyond_floating_point_is_infinite_not_an_error():
    huge = samples.effect("x", 1000.0, 0.0, margin=0.1, verdict=Verdict.HOLDS, better="higher")
    assert words.amount(huge, 1000.0) == "∞×"


def test_too_few_seeds_have_a_range_and_no_interval():
    assert words.interval_name(samples.placement().effects) == "95 % interval"
    assert words.interval_name(samples.one_seed().answers[0].effects) == "range of the seeds"


def test_a_finding_leaves_the_verdict_to_its_badge():
    effect = samples.placement().effects[0]
    assert words.finding(effect) == "Sigmoid: after is faster, as far as eight seeds can tell."
    other = effect.model_copy(update={"sentence": "Well: it depends."})
    assert words.finding(other) == "Well: it depends."


@pytest.mark.parametrize(
    ("low", "high"),
    [(0.0, 1.0), (-0.013, 0.021), (-1234.0, 5.0), (1e-9, 2e-9), (99.5, 100.5)],
)
def test_round_ticks_are_few_and_inside(low, high):
    ticks = round_ticks(low, high)
    assert 2 <= len(ticks) <= MOST_TICKS
    slack = 1e-6 * (high - low)
    assert all(low - slack <= tick <= high + slack for tick in ticks)


@pytest.mark.parametrize("decades", [0.02, 0.1, 0.5, 1, 2, 3, 5, 12, 60])
def test_ratio_ticks_are_few_at_any_range_and_name_no_effect(decades):
    half = decades * math.log(10) / 2
    ticks = ratio_ticks(-half, half)
    assert 1 <= len(ticks) <= MOST_TICKS + 1
    assert 1.0 in ticks


def test_ticks_of_learning_rates_are_powers_of_two_when_the_rates_are():
    axis = log_axis(2.0**k for k in range(-10, 6))
    assert axis["ticktext"] == [f"2<sup>{'−' if k < 0 else ''}{abs(k)}</sup>" for k in (-9, -6, -3, 0, 3)]
    assert log_axis([0.01, 0.1, 1.0])["ticktext"] == ["0.01", "0.1", "1"]


def test_failures_are_grouped_and_errors_come_first():
    groups = failures.grouped(samples.failures())
    assert [(g.status, g.setting, g.trials, g.seeds) for g in groups] == [
        ("raised", "lr=0.5", 1, "3"),
        ("diverged", "lr=4", 8, "0–7"),
        ("diverged", "lr=8", 8, "0–7"),
    ]
    assert groups[1].more_reasons == 6
    assert failures.summary(samples.failures()) == "16 trials diverged, 1 trial raised an error."
    assert failures.summary(()) == "Every trial ran to its last step."
