"""What is pooled: parts of a sample give the sample's own statistics, whatever their sizes."""

from __future__ import annotations

import torch

from normsmith.measure.statistics import Statistics
from normsmith.ops import Moments, moments
from normsmith.surgery.operations.merge.sources import Part, pooled, steps_of


def part_of(measured: Moments) -> Part:
    std = (measured.variance[0] + 1e-3).sqrt()
    statistics = Statistics((measured.mean + measured.low)[0], measured.unbiased_variance[0], std)
    return Part(statistics, float(measured.count), True, True, None)


def test_parts_give_the_statistics_of_the_whole():
    torch.manual_seed(0)
    x = torch.randn(20, 3).double() * torch.tensor([1.0, 1e-3, 50.0]) + 1e4
    pieces = [slice(0, 2), slice(2, 15), slice(15, 20)]
    parts = [part_of(moments(x[cut])) for cut in pieces]
    whole = part_of(moments(x)).statistics
    for got, expected in zip(pooled(parts, 1e-3), whole, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-7, atol=1e-7)


def test_shares_stand_for_whole_populations():
    parts = [
        Part(Statistics(torch.tensor([m]), torch.tensor([1.0])), s, False, False, 1)
        for m, s in ((0, 3), (4, 1))
    ]
    mean, var, std = pooled(parts, 1e-5)
    assert (mean.item(), var.item(), std) == (1, 1 + 3, None)


def test_steps_of_layers_without_a_counter():
    part = Part(Statistics(torch.zeros(1), torch.ones(1)), 1.0, False, False, None)
    assert list(steps_of([part, part], 0.1)) == []
