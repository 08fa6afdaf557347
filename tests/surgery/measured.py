"""Data, networks and exact statistics that the tests of recalibration compare with."""

from __future__ import annotations

import torch
from torch import nn

from normsmith.layers import BatchNorm1d


def population(x):
    """Mean and unbiased variance of all values of each channel, in float64."""
    rows = x.double().movedim(1, -1).flatten(0, -2)
    return rows.mean(0), rows.var(0)


def assert_population(layer, x, rtol=3e-6, atol=0.0):
    mean, var = population(x)
    scale = var.sqrt().max().item()
    torch.testing.assert_close(layer.running_mean.double(), mean, rtol=rtol, atol=atol + 1e-6 * scale)
    torch.testing.assert_close(layer.running_var.double(), var, rtol=rtol, atol=0.0)


def class_sorted():
    """Seven classes of distant means, in batches of 2 of one class, and a tail of 2 far from all."""
    draw = torch.Generator().manual_seed(3)
    x = torch.cat([torch.randn(16, 8, generator=draw) * 0.3 + number for number in range(-3, 4)])
    return [*x.split(2), torch.full((2, 8), 9.0)]


def three_norms():
    return nn.Sequential(
        nn.BatchNorm1d(8),
        nn.Linear(8, 16),
        nn.BatchNorm1d(16),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(16, 16),
        BatchNorm1d(16),
        nn.Linear(16, 2),
    )


class ChannelsLast(nn.BatchNorm1d):
    def forward(self, x):
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class Short:
    """A loader that breaks after some batches."""

    def __init__(self, error):
        self.error = error

    def __iter__(self):
        yield from class_sorted()[:3]
        raise self.error


class Branches(nn.Module):
    """Four norms in parallel, one after them: two norms deep."""

    def __init__(self):
        super().__init__()
        self.ways = nn.ModuleList(nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4)) for _ in range(4))
        self.end = nn.BatchNorm1d(4)

    def forward(self, x):
        return self.end(sum(way(x).relu() for way in self.ways))
