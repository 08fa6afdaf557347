"""Ticks are few, round, and inside what they measure."""

import math

import pytest

from normsmith.report.axes import MOST_TICKS, log_axis, ratio_ticks, round_ticks


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
