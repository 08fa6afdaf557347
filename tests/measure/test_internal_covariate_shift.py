"""Internal covariate shift on deep linear networks, where it can be computed by hand."""

import math

import pytest
import torch
from torch import nn

from normsmith.layers import BatchNorm1d
from normsmith.measure import CovariateShift, Iterate, internal_covariate_shift
from normsmith.tasks import digits_rnn


def half_squares(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return (model(batch[0]) - batch[1]).square().sum() / 2


def linear(*weights: torch.Tensor) -> nn.Sequential:
    layers = [nn.Linear(weight.shape[1], weight.shape[0], bias=False) for weight in weights]
    with torch.no_grad():
        for layer, weight in zip(layers, weights, strict=True):
            layer.weight.copy_(weight)
    return nn.Sequential(*layers)


def test_a_deep_linear_network_by_hand():
    """L = ‖W₃W₂W₁x − y‖² / 2: G₂ = W₃ᵀ r (W₁x)ᵀ and G₃ = r (W₂W₁x)ᵀ with r = W₃W₂W₁x − y."""
    w1, w2, w3 = torch.randn(4, 3), torch.randn(4, 4), torch.randn(2, 4)
    x, y, rate = torch.randn(6, 3), torch.randn(6, 2), 1e-3

    def gradients(a, b, c):
        r = x @ a.T @ b.T @ c.T - y
        return (b.T @ c.T @ r.T) @ x, (c.T @ r.T) @ (x @ a.T), r.T @ (x @ a.T @ b.T)

    g1, g2, g3 = gradients(w1, w2, w3)
    moved2 = gradients(w1 - rate * g1, w2, w3)[1]
    moved3 = gradients(w1 - rate * g1, w2 - rate * g2, w3)[2]
    measured = internal_covariate_shift(Iterate(linear(w1, w2, w3), (x, y), half_squares), rate)
    assert list(measured) == ["1", "2"]
    for shift, before, after in ((measured["1"], g2, moved2), (measured["2"], g3, moved3)):
        assert shift.absolute == pytest.approx(float((before - after).norm()), rel=1e-3)
        assert shift.relative == pytest.approx(float((before - after).norm() / before.norm()), rel=1e-3)
        cosine = float((before * after).sum() / before.norm() / after.norm())
        assert shift.cosine == pytest.approx(cosine, abs=1e-6)


def test_a_step_that_turns_the_gradient_around():
    """L = (w₂w₁)² / 2 at 1, 1: G₂ = w₂w₁², and w₁ = 1 − rate; the gradient of the last layer never turns."""
    iterate = Iterate(linear(*[torch.ones(1, 1)] * 2), (torch.ones(1, 1), torch.zeros(1, 1)), half_squares)
    assert internal_covariate_shift(iterate, 3.0)["1"] == CovariateShift(3.0, 3.0, 1.0)  # w₁ = −2: G₂ = 4
    assert internal_covariate_shift(iterate, 1.0)["1"] == CovariateShift(1.0, 1.0, 0.0)  # w₁ = 0: G₂ = 0


def test_without_a_gradient_there_is_no_shift_and_from_none_to_some_it_is_infinite():
    x, y = torch.ones(1, 1), torch.ones(1, 1)
    solved = Iterate(linear(torch.ones(1, 1), torch.ones(1, 1)), (x, y), half_squares)
    assert internal_covariate_shift(solved, 0.1)["1"] == CovariateShift(0.0, 0.0, 1.0)
    dead = Iterate(linear(torch.zeros(1, 1), torch.ones(1, 1)), (x, y), half_squares)
    from_none = internal_covariate_shift(dead, 0.1)["1"]
    assert from_none.absolute == pytest.approx(0.09)  # w₁ = 0.1: G₂ = (0.1 − 1) · 0.1
    assert (from_none.relative, from_none.cosine) == (math.inf, 0.0)


def test_norms_are_updated_with_what_comes_before_the_next_layer():
    """Only γ of the norm moves: the gradients of the layers before it are stopped."""

    class Stopped(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.norm, self.last = nn.Linear(3, 3), BatchNorm1d(3), nn.Linear(3, 1)

        def forward(self, x):
            return self.last(self.norm(self.first(x).detach()))

    batch = torch.randn(8, 3), torch.randn(8, 1)
    model = Stopped()
    assert list(internal_covariate_shift(Iterate(model, batch, half_squares), 0.01)) == ["last"]
    assert internal_covariate_shift(Iterate(model, batch, half_squares), 0.01)["last"].absolute > 0
    model.norm.requires_grad_(False)
    assert internal_covariate_shift(Iterate(model, batch, half_squares), 0.01)["last"].absolute == 0


def test_layers_come_in_the_order_of_their_calls_and_noise_is_no_shift():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.last, self.first, self.idle = nn.Linear(4, 1), nn.Linear(3, 4), nn.Linear(2, 2)
            self.dropout = nn.Dropout(0.5)

        def forward(self, x):
            return self.last(self.dropout(self.first(x)))

    iterate = Iterate(Backwards(), (torch.randn(8, 3), torch.randn(8, 1)), half_squares)
    assert list(internal_covariate_shift(iterate, 0.1)) == ["last"]
    assert internal_covariate_shift(iterate, 1e-9)["last"].relative < 1e-5


def test_layers_that_are_called_again_and_again_count_by_their_first_call():
    assert list(internal_covariate_shift(digits_rnn(), 0.01)) == ["state", "head"]
