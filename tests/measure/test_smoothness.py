"""Smoothness on a quadratic, where all of it is known."""

import math

import pytest
import torch
from torch import nn

from normsmith.errors import InputError
from normsmith.layers import BatchNorm1d
from normsmith.measure import Iterate, Smoothness, smoothness
from normsmith.tasks import digits_mlp

CURVATURE = torch.tensor([[1.0, 4.0, 10.0]])


def quadratic(model: nn.Module, curvature: torch.Tensor) -> torch.Tensor:
    """L = Σ a w² / 2: its gradient is a·w, its Hessian has a on the diagonal."""
    return (curvature * model.weight.square()).sum() / 2


@pytest.fixture
def iterate():
    model = nn.Linear(3, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[3.0, -2.0, 1.0]]))
    return Iterate(model, CURVATURE, quadratic)


def test_a_quadratic_is_as_smooth_as_its_curvature_along_the_gradient(iterate):
    w, a = iterate.model.weight.detach().double(), CURVATURE.double()
    g = a * w
    measured = smoothness(iterate, 0.1)
    assert measured.steps == pytest.approx([0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4])
    assert measured.loss == pytest.approx(float((a * w**2).sum() / 2))
    assert measured.gradient_norm == pytest.approx(float(g.norm()))
    for step, loss, change in zip(measured.steps, measured.losses, measured.gradient_changes, strict=True):
        assert loss == pytest.approx(float((a * (w - step * g) ** 2).sum() / 2), rel=1e-5)
        assert change == pytest.approx(float(step * (a * g).norm()), rel=1e-5)
    assert measured.betas == pytest.approx([float((a * g).norm() / g.norm())] * 8, rel=1e-5)
    assert measured.beta == pytest.approx(float((a * g).norm() / g.norm()), rel=1e-5)
    assert measured.gradient_predictiveness == measured.gradient_changes[-1]
    assert measured.loss_range == pytest.approx(max(measured.losses) - min(measured.losses))


def test_a_linear_loss_is_perfectly_smooth():
    iterate = Iterate(nn.Linear(3, 1), torch.randn(8, 3), lambda model, x: model(x).mean())
    measured = smoothness(iterate, 0.5)
    assert measured.beta == 0
    drop = measured.gradient_norm**2 * (measured.steps[-1] - measured.steps[0])
    assert measured.loss_range == pytest.approx(drop, rel=1e-4)


def test_noise_and_statistics_that_move_do_not_pass_for_roughness():
    """A linear loss under dropout, beside a norm whose running statistics each forward moves."""
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(3, 1))
    model.norm = BatchNorm1d(3)

    def loss(network, x):
        network.norm(x)
        return network[1](network[0](x)).mean() + 0 * network.norm.running_mean.sum()

    assert smoothness(Iterate(model, torch.randn(8, 3), loss), 0.5).beta == 0


def test_a_loss_that_overflows_is_infinite(iterate):
    measured = smoothness(iterate, 1e30)
    assert measured.loss_range == math.inf
    assert measured.gradient_changes[-1] > 1e30


def test_where_the_gradient_is_zero_nothing_changes():
    iterate = Iterate(nn.Linear(1, 1), torch.ones(1, 1), lambda model, x: 0 * model(x).sum())
    assert smoothness(iterate, 1.0).beta == 0


def test_a_task_is_taken_with_a_new_network():
    measured = smoothness(digits_mlp(), 0.1, multiples=(1.0, 2.0))
    assert isinstance(measured, Smoothness)
    assert measured == smoothness(digits_mlp(), 0.1, multiples=(1.0, 2.0))
    assert measured.loss == pytest.approx(math.log(10), rel=0.05)


@pytest.mark.parametrize(
    ("rate", "multiples"), [(0.0, (1.0,)), (-1.0, (1.0,)), (0.1, ()), (math.nan, (1.0,))]
)
def test_steps_that_go_nowhere_are_refused(iterate, rate, multiples):
    with pytest.raises(InputError, match="expected a positive rate and multiples"):
        smoothness(iterate, rate, multiples=multiples)
