"""Ticks are few, round, and inside what they measure."""

import math

import pytest

from normsmith.report.axes import MOST_TICKS, axis_of, ratio_ticks, round_ticks, share_axis


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
    axis = axis_of((2.0**k for k in range(-10, 6)), log=True)
    assert [label for _, label in axis.ticks] == ["2⁻⁹", "2⁻⁶", "2⁻³", "2⁰", "2³"]
    assert [label for _, label in axis_of([0.01, 0.1, 1.0], log=True).ticks] == ["0.01", "0.1", "1"]


@pytest.mark.parametrize("log", [False, True])
def test_an_axis_holds_its_values_and_little_more(log):
    axis = axis_of([0.5, 2.0, 8.0, math.nan], log=log)
    assert 0 < axis.share(0.5) < axis.share(2.0) < axis.share(8.0) < 1
    assert not axis.shows(math.inf)
    assert axis.shows(-1.0) is not log
    assert all(0 <= share <= 1 for share, _ in axis.ticks)


@pytest.mark.parametrize("values", [[], [3.0], [math.nan], [1e308, -1e308]])
def test_an_axis_of_nothing_one_value_or_huge_ones_is_an_axis_still(values):
    axis = axis_of(values)
    assert axis.low < axis.high
    assert all(math.isfinite(axis.share(value)) for value in values if axis.shows(value))


def test_an_axis_of_shares_is_stretched_towards_one_and_has_a_place_for_it():
    axis = share_axis([0.1, 0.97, 1.0])
    near, far = axis.share(1.0) - axis.share(0.95), axis.share(0.15) - axis.share(0.1)
    assert near > 5 * far > 0
    assert 0 < axis.share(0.1) < axis.share(1.0) < 1
    assert [label for _, label in axis.ticks][-6:] == ["0.5", "0.8", "0.9", "0.95", "0.98", "1"]
