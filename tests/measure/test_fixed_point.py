"""The search for statistics that stay, on maps whose fixed points are known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from normsmith.measure import EXACT, Statistics, measurable_layers
from normsmith.measure.fixed_point import FixedPointSearch, largest


def layers(number: int) -> tuple:
    model = nn.Sequential(*(nn.BatchNorm1d(2, eps=0.0) for _ in range(number)))
    return measurable_layers(model).layers


def searched(update, start: list[Tensor], calls: list[int], most: int) -> tuple[list[Tensor], int]:
    """Means for which `update(means)` gives the same means, and how often it was asked."""
    search = FixedPointSearch(layers(len(start)), calls)
    one = torch.ones(2, dtype=torch.float64)
    tried = [Statistics(mean, one) for mean in start]
    passes = 0
    while passes < most:
        passes += 1
        means = update([statistics.mean for statistics in tried])
        measured = [Statistics(mean, one) for mean in means]
        gaps = [(a.mean - b.mean).abs().max().item() for a, b in zip(tried, measured, strict=True)]
        if max(gaps) <= EXACT:
            break
        tried = search.next(tried, measured, gaps)
    return [statistics.mean for statistics in tried], passes


def point(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_layers_that_feed_each_other_take_what_was_measured():
    def update(means):
        return [point(1.0, 2.0), 3 * means[0], -5 * means[1]]

    means, passes = searched(update, [point(9.0, 9.0)] * 3, [0, 1, 2], 10)
    assert passes == 4
    assert [mean.tolist() for mean in means] == [[1.0, 2.0], [3.0, 6.0], [-15.0, -30.0]]


@pytest.mark.parametrize("slope", [-1.0, -0.98, -3.0, 0.97, 2.0])
def test_a_layer_that_feeds_itself_arrives_where_plain_passes_swing_or_run_away(slope):
    target = point(1.0, -2.0)
    (mean,), passes = searched(
        lambda means: [target + slope * (means[0] - target)], [point(5.0, 5.0)], [0, 0], 10
    )
    assert passes <= 4
    torch.testing.assert_close(mean, target, rtol=0, atol=2 * EXACT / abs(1 - slope))


def test_a_step_that_turns_out_worse_is_taken_back():
    target = point(1.0, -2.0)

    def update(means):
        away = means[0] - target
        return [target - 1.5 * away - 0.3 * away**3]

    (mean,), passes = searched(update, [point(2.0, 2.0)], [0, 0], 30)
    assert passes < 30
    torch.testing.assert_close(mean, target, rtol=0, atol=EXACT)


def test_layers_outside_of_the_cycle_follow_as_measured():
    def update(means):
        return [point(1.0, 1.0), means[0] - 1.2 * means[1], 4 * means[1], 2 * means[2]]

    means, passes = searched(update, [point(8.0, 7.0)] * 4, [0, 1, 1, 2, 3], 12)
    assert passes < 12
    torch.testing.assert_close(means[3], point(8 / 2.2, 8 / 2.2), rtol=1e-3, atol=0)


def test_variances_stay_positive():
    search = FixedPointSearch(layers(1), [0, 0])
    tried = [Statistics(point(0.0, 0.0), point(1.0, 4.0))]
    for _ in range(6):
        measured = [Statistics(tried[0].mean, 1 / tried[0].var)]
        gaps = [((tried[0].var - measured[0].var).abs() / measured[0].var).max().item()]
        tried = search.next(tried, measured, gaps)
        assert (tried[0].var > 0).all()
    torch.testing.assert_close(tried[0].var, point(1.0, 1.0), rtol=1e-3, atol=0)


def test_a_gap_that_is_not_a_number_is_the_largest():
    assert largest([float("nan"), 0.1]) == float("inf")
    assert largest([0.1, float("nan")]) == float("inf")
    assert largest([]) == 0.0
