"""Weights that do a norm's work too, against the two layers computed one after the other in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from normsmith.anatomy.affine import Affine
from normsmith.surgery.operations.fold.weights import Weights


def affine(channels: int) -> Affine:
    draw = torch.Generator().manual_seed(3)
    return Affine(
        torch.rand(channels, generator=draw, dtype=torch.float64) + 0.5,
        torch.randn(channels, generator=draw, dtype=torch.float64),
    )


def applied(norm: Affine, x: Tensor) -> Tensor:
    """scale·x + shift, over the channels in dimension 1."""
    shape = (-1, *(1,) * (x.dim() - 2))
    return x * norm.scale.reshape(shape) + norm.shift.reshape(shape)


def output(layer: nn.Module, weights: Weights, x: Tensor) -> Tensor:
    """What a layer computes with other weights."""
    return torch.func.functional_call(layer, {"weight": weights.weight, "bias": weights.bias}, (x,))


LAYERS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "linear": (lambda **options: nn.Linear(6, 4, **options), (5, 6)),
    "1d": (lambda **options: nn.Conv1d(6, 4, 3, **options), (2, 6, 7)),
    "2d": (lambda **options: nn.Conv2d(6, 4, (3, 2), stride=2, **options), (2, 6, 7, 7)),
    "3d": (lambda **options: nn.Conv3d(6, 4, 2, dilation=2, **options), (2, 6, 5, 5, 5)),
    "in groups": (lambda **options: nn.Conv2d(6, 4, 3, groups=2, **options), (2, 6, 5, 5)),
    "depthwise, several each": (lambda **options: nn.Conv1d(6, 12, 3, groups=6, **options), (2, 6, 5)),
    "transposed 1d": (lambda **options: nn.ConvTranspose1d(6, 4, 3, stride=2, **options), (2, 6, 5)),
    "transposed 2d in groups": (
        lambda **options: nn.ConvTranspose2d(6, 4, 3, groups=2, output_padding=0, **options), (2, 6, 4, 4),
    ),
    "transposed 3d": (lambda **options: nn.ConvTranspose3d(6, 4, 2, **options), (2, 6, 3, 3, 3)),
}  # fmt: skip


def make(name: str, *, bias: bool) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    maker, shape = LAYERS[name]
    return maker(bias=bias, dtype=torch.float64), torch.randn(shape, dtype=torch.float64)


def close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", LAYERS)
def test_a_norm_that_comes_after(name, bias):
    layer, x = make(name, bias=bias)
    expected = layer(x)
    norm, weights = affine(expected.shape[1]), Weights.of(layer)
    weights.fold_after(norm)
    close(output(layer, weights, x), applied(norm, expected))


def without_border(name: str, *, bias: bool) -> tuple[nn.Module, Tensor]:
    """As `make`, a transposed convolution by the point: at its border fewer taps would meet the shift."""
    layer, x = make(name, bias=bias)
    if name.startswith("transposed"):
        groups = layer.groups
        layer = type(layer)(6, 4, 1, groups=groups, bias=bias, dtype=torch.float64)
    return layer, x


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", LAYERS)
def test_a_norm_that_comes_before(name, bias):
    layer, x = without_border(name, bias=bias)
    norm, weights = affine(6), Weights.of(layer)
    weights.fold_before(norm)
    close(output(layer, weights, x), layer(applied(norm, x)))


@pytest.mark.parametrize("name", ["2d", "in groups"])
def test_norms_on_both_sides_in_either_order(name):
    layer, x = make(name, bias=True)
    before, after = affine(6), affine(4)
    expected = applied(after, layer(applied(before, x)))
    for order in ("before first", "after first"):
        weights = Weights.of(layer)
        if order == "before first":
            weights.fold_before(before)
            weights.fold_after(after)
        else:
            weights.fold_after(after)
            weights.fold_before(before)
        close(output(layer, weights, x), expected)


def test_the_layer_itself_is_left_alone():
    layer, _ = make("2d", bias=True)
    before = {name: p.clone() for name, p in layer.named_parameters()}
    weights = Weights.of(layer)
    weights.fold_after(affine(4))
    weights.fold_before(affine(6))
    weights.stored()
    assert all(torch.equal(p, before[name]) for name, p in layer.named_parameters())


# What is stored.


def test_stored_parameters_are_like_the_layers():
    layer = nn.Conv2d(3, 4, 3, dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    layer.bias.requires_grad_(False)
    weights = Weights.of(layer)
    weights.fold_after(Affine(torch.full((4,), 2.0, dtype=torch.float64), torch.ones(4, dtype=torch.float64)))
    weight, bias = weights.stored()
    assert (weight.dtype, bias.dtype) == (torch.bfloat16, torch.bfloat16)
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert (weight.requires_grad, bias.requires_grad) == (True, False)
    assert torch.equal(weight, layer.weight * 2)


@pytest.mark.parametrize("trains", [True, False])
def test_a_new_bias_trains_as_the_beta_does_whose_work_it_takes_over(trains):
    weights = Weights.of(nn.Linear(3, 4, bias=False).requires_grad_(not trains))
    weight, bias = weights.stored(nn.Parameter(torch.zeros(4), trains))
    assert (weight.requires_grad, bias.requires_grad) == (not trains, trains)
    kept = nn.Linear(3, 4)
    assert Weights.of(kept).stored(nn.Parameter(torch.zeros(4), False))[1].requires_grad


@pytest.mark.parametrize("trains", [True, False])
def test_a_new_bias_trains_as_the_weight_does(trains):
    layer = nn.Linear(3, 4, bias=False).requires_grad_(trains)
    weight, bias = Weights.of(layer).stored()
    assert (weight.requires_grad, bias.requires_grad) == (trains, trains)
    assert bias.tolist() == [0.0] * 4
    assert torch.equal(weight, layer.weight)
    assert weight is not layer.weight
