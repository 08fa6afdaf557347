"""The longest way without norms, and the scales on it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from normsmith.anatomy.forward import call
from normsmith.anatomy.trace import trace
from normsmith.checks.scales import Scale, Scales, longest_way, scales_of


class Block(nn.Module):
    """A residual branch whose end is dropped out and added."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.up, self.down, self.head = (nn.Linear(4, 4) for _ in range(4))
        self.drop = nn.Dropout()

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(x + self.drop(self.down(self.up(x).relu())))


def test_ends_of_branches_and_of_the_network_are_on_the_way_but_not_measured():
    model, x = Block(), torch.randn(8, 4)
    graph = trace(model, x)
    assert [event.path for event in longest_way(graph)] == ["stem", "up", "down", "head"]
    scales = scales_of(model, graph, x, call)
    assert scales.length == 4
    assert [scale.path for scale in scales.layers] == ["stem", "up"]
    assert scales.layers[0].deviation == pytest.approx(float(model.stem(x).detach().std()), rel=1e-4)


def test_a_norm_begins_a_new_way():
    layers = [nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 4)]
    assert [event.path for event in longest_way(trace(nn.Sequential(*layers)))] == ["2", "4", "5"]
    assert longest_way(trace(nn.Sequential(nn.ReLU()))) == ()


def test_what_puts_out_a_constant_is_left_out_and_overflow_is_not():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2), nn.Linear(2, 2))
    nn.init.zeros_(model[0].weight)
    nn.init.zeros_(model[0].bias)
    nn.init.constant_(model[2].bias, torch.inf)
    x = torch.randn(3, 2)
    scales = scales_of(model, trace(model, x), x, call)
    assert [scale.path for scale in scales.layers] == ["2"]
    assert scales.ratio == math.inf
    assert scales.are_apart


def test_apart_takes_ratio_and_range():
    assert not Scales(2, (Scale("0", 0.6), Scale("1", 1.8))).are_apart
    assert not Scales(2, (Scale("0", 0.1), Scale("1", 0.2))).are_apart
    assert Scales(2, (Scale("0", 0.1), Scale("1", 0.4))).are_apart
    assert Scales(0, ()).ratio == 1


class Gated(nn.Module):
    """A gate of two layers between norms, as in squeeze and excitation."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.squeeze, self.excite, self.head = (
            nn.BatchNorm1d(4), nn.Linear(4, 2), nn.Linear(2, 4), nn.Linear(4, 4),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        return self.head(x * self.excite(self.squeeze(x).relu()).sigmoid())


def test_a_gate_is_no_part_of_the_way():
    assert [event.path for event in longest_way(trace(Gated()))] == ["squeeze", "excite"]


def test_a_single_value_has_no_spread_and_is_left_out():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1), nn.Linear(1, 4), nn.Linear(4, 2))
    x = torch.randn(1, 4)
    scales = scales_of(model, trace(model, x), x, call)
    assert [scale.path for scale in scales.layers] == ["0", "2"]
    assert math.isfinite(scales.ratio)
