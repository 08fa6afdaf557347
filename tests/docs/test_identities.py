"""What docs/claims.md says is proved by a test: claims that are identities, of which no study has to be asked."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from normsmith.layers import BatchNorm1d
from normsmith.ops import batch_norm


def double(*shape: int, seed: int = 0) -> Tensor:
    """Values with many digits, so that what is zero is zero but for rounding."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def standardised(x: Tensor, *, constant: bool = False) -> Tensor:
    """x̂ with ε = 0, written out; with `constant` statistics, μ and σ have no part in the gradient."""
    mean, deviation = x.mean(0), x.var(0, correction=0).sqrt()
    if constant:
        mean, deviation = mean.detach(), deviation.detach()
    return (x - mean) / deviation


def test_gradients_through_the_statistics_never_point_along_what_normalization_removes() -> None:
    x = (3 * double(12, 5) + 7).requires_grad_()
    normalised = batch_norm(x, eps=0.0)
    (gradient,) = torch.autograd.grad((normalised * double(12, 5, seed=1)).sum(), x)
    zeros = torch.zeros(5, dtype=torch.float64)
    torch.testing.assert_close(normalised, standardised(x))
    assert gradient.abs().max() > 0.01
    torch.testing.assert_close(gradient.sum(0), zeros, rtol=0, atol=1e-12)
    torch.testing.assert_close((gradient * normalised).sum(0), zeros, rtol=0, atol=1e-12)


@pytest.mark.parametrize("constant", [True, False])
def test_a_bias_grows_without_bound_only_where_the_statistics_are_constants_of_the_backward_pass(
    constant: bool,
) -> None:
    """In section 3 of the paper: the step changes b, the normalization undoes it, and the loss stays as it is."""
    x, direction = double(12, 5), double(12, 5, seed=1)
    bias, biases, losses = torch.zeros(5, dtype=torch.float64), [], []
    for _ in range(50):
        bias.requires_grad_()
        loss = (standardised(x + bias, constant=constant) * direction).sum()
        (gradient,) = torch.autograd.grad(loss, bias)
        bias = (bias - 0.5 * gradient).detach()
        biases.append(bias.norm().item())
        losses.append(loss.item())
    assert losses == pytest.approx([losses[0]] * 50, abs=1e-9)
    if constant:
        steps = [after - before for before, after in itertools.pairwise(biases)]
        assert steps == pytest.approx([biases[0]] * 49, rel=1e-6)
        assert biases[-1] > 20
    else:
        assert max(biases) < 1e-10


def test_a_step_on_all_layers_of_a_chain_changes_its_output_by_products_of_all_of_the_steps() -> None:
    """ŷ = x·w₁⋯w_l after a step of rate t is a polynomial in t of degree l: its l-th difference is that of l steps."""
    weights, x, layers, h = double(5) + 2, 1.5, 5, 0.1
    gradient = x * weights.prod() / weights  # of ŷ in each weight
    outputs = [x * (weights - h * k * gradient).prod().item() for k in range(layers + 2)]
    first_order = -h * (gradient**2).sum().item()
    assert outputs[1] - outputs[0] != pytest.approx(first_order, rel=0.1), "cross terms are not small"
    differences = torch.tensor(outputs, dtype=torch.float64)
    for _ in range(layers):
        differences = differences.diff()
    of_all = math.factorial(layers) * x * (-h * gradient).prod().item()
    assert differences.tolist() == pytest.approx([of_all, of_all], rel=1e-6)


def test_lower_layers_no_longer_change_mean_and_scale_of_what_is_normalised_but_its_direction() -> None:
    lower = double(64, 4)
    scale, shift = torch.tensor([0.2, 3.0, 17.0, 1.0]).double(), torch.tensor([5.0, -2.0, 0.0, 9.0]).double()
    output = batch_norm(lower, eps=0.0)
    torch.testing.assert_close(batch_norm(scale * lower + shift, eps=0.0), output)
    assert (batch_norm(lower @ double(4, 4, seed=2), eps=0.0) - output).abs().max() > 0.1


def test_epsilon_keeps_a_constant_channel_at_beta_and_caps_the_amplification() -> None:
    constant, small = torch.full((12, 1), 3.0).double(), 1e-7 * double(12, 1)
    bias = torch.tensor([0.5]).double()
    assert not standardised(constant).isfinite().any(), "0 / 0, without ε"
    torch.testing.assert_close(batch_norm(constant, bias=bias, eps=1e-5), bias.expand(12, 1))
    amplified = batch_norm(small, eps=1e-5).std() / small.std()
    assert amplified.item() == pytest.approx(1e-5**-0.5, rel=1e-6)


@pytest.mark.parametrize("momentum", [0.01, 0.1, 0.5])
def test_a_small_momentum_is_late_and_a_large_one_is_noisy(momentum: float) -> None:
    """A batch of k steps ago counts m(1 − m)ᵏ; of the variance of independent batches' means m / (2 − m) is left."""
    steps = round(20 / momentum)
    batches = torch.eye(steps, dtype=torch.float64)  # channel k is 1 in batch k alone
    norm = BatchNorm1d(steps, momentum=momentum, affine=False).double()
    for batch in batches:
        norm(batch.expand(2, steps))
    counts = norm.running_mean
    assert isinstance(counts, Tensor)
    late = torch.arange(steps - 1, -1, -1, dtype=torch.float64)
    torch.testing.assert_close(counts, momentum * (1 - momentum) ** late)
    assert (counts**2).sum().item() == pytest.approx(momentum / (2 - momentum))


@pytest.mark.parametrize("norm", [nn.LayerNorm(6), nn.GroupNorm(2, 6)])
def test_layer_norm_and_group_norm_do_not_look_at_the_batch(norm: nn.Module) -> None:
    batch = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
    whole = norm.train()(batch)
    torch.testing.assert_close(norm(batch[:1]), whole[:1])
    torch.testing.assert_close(norm.eval()(batch), whole)
