"""The norms of a model with γ or β, and the layer beside each."""

from __future__ import annotations

from torch import nn

from normsmith.checks.neighbours import affine_norms


def test_the_layer_before_is_the_neighbour_and_else_the_one_after():
    first, last = nn.Linear(4, 4), nn.Linear(4, 2)
    model = nn.Sequential(nn.BatchNorm1d(4), first, nn.ReLU(), nn.GroupNorm(2, 4), last.requires_grad_(False))
    norms = affine_norms(model)
    assert [norm.path for norm in norms] == ["0", "3"]
    assert norms[0].neighbour == norms[1].neighbour == (first.weight, first.bias)
    assert norms[0].neighbour_trains


def test_norms_without_parameters_are_left_out_and_frozen_ones_have_none_that_train():
    model = nn.Sequential(nn.BatchNorm1d(4, affine=False), nn.LayerNorm(4).requires_grad_(False))
    (norm,) = affine_norms(model)
    assert (norm.path, norm.trainable, norm.neighbour) == ("1", (), ())
    assert not norm.neighbour_trains


def test_a_shared_norm_comes_once_and_lazy_parameters_are_none():
    norm = nn.LayerNorm(4)
    model = nn.Sequential(nn.LazyLinear(4), norm, nn.LazyBatchNorm1d(), norm)
    (only,) = affine_norms(model)
    assert (only.path, only.also, only.neighbour) == ("1", ("3",), ())
