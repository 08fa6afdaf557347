"""NS203: an eps that is large beside the variances."""

from __future__ import annotations

import torch
from tests.checks.networks import Attention, Residual, cnn, images, mlp, sequences, trained, vectors
from tests.contracts.rule import Case, RuleContract
from torch import nn

import normsmith
from normsmith.surgery import freeze


def tiny_inputs() -> nn.Module:
    """Inputs in the wrong unit, normalised first."""
    model = nn.Sequential(nn.BatchNorm1d(8), *mlp())
    return trained(model, [(1e-3 * x, y) for x, y in vectors()])


def not_long() -> nn.Module:
    """A few batches in the wrong unit: most of the running variance is still the initial 1."""
    model = nn.Sequential(nn.BatchNorm1d(8), *mlp())
    return trained(model, [(1e-3 * x, y) for x, y in vectors()], 2)


def with_variances(model: nn.Module, *values: float) -> nn.Module:
    """The norms of a model, their first channels with these running variances."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_var[: len(values)] = torch.tensor(values)
    return model


def switched_off() -> nn.Module:
    model = with_variances(trained(cnn(), images(8), 2), 1e-6, 1e-6, 1e-6)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data[:3] = 0
    return model


class TestEpsDominates(RuleContract):
    code = "NS203"
    faulty = {
        "inputs in the wrong unit": lambda: Case(tiny_inputs()),
        "inputs in the wrong unit, not for long": lambda: Case(not_long()),
        "a residual network with an eps of 0.3": lambda: Case(trained(Residual(eps=0.3), images(8), 2)),
        "some channels of a CNN": lambda: Case(with_variances(cnn(), 1e-5, 3e-5)),
        "all of a transformer's, dead or not": lambda: Case(with_variances(Attention(), *[1e-12] * 8)),
        "an eps of 1 in a new network": lambda: Case(mlp(eps=1.0)),
    }
    healthy = {
        "the usual": lambda: Case(trained(Attention(), sequences(8), 3)),
        "Keras' eps of 1e-3": lambda: Case(trained(cnn(eps=1e-3), images(8), 3)),
        "a dead channel or two": lambda: Case(with_variances(trained(mlp(), vectors(8), 3), 0.0, 1e-12)),
        "one small channel among many": lambda: Case(with_variances(trained(mlp(), vectors(8), 3), 1e-5)),
        "channels that are switched off": lambda: Case(switched_off()),
        "a small variance that eps does not reach": lambda: Case(with_variances(cnn(), 2e-4, 3e-4)),
        "frozen": lambda: Case(freeze(tiny_inputs(), "statistics").apply()),
    }


def test_it_says_how_small_an_eps_would_do():
    (finding,) = normsmith.check(
        with_variances(nn.Sequential(nn.BatchNorm1d(4)), 1e-3, 1e-3, 1e-5, 1e-5), select=["NS203"]
    )
    assert finding.measured == 0.5
    assert "eps=1e-8" in finding.fix.code
