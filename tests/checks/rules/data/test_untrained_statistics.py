"""NS405: trained weights, statistics of a new layer."""

from __future__ import annotations

from copy import deepcopy

import torch
from tests.checks.networks import (
    Attention,
    Residual,
    cnn,
    images,
    mlp,
    sequences,
    trained,
    vectors,
)  # fmt: skip
from tests.contracts.rule import Case, RuleContract
from torch import nn

from normsmith import surgery


def copied_without_buffers() -> nn.Module:
    """A target network that follows the parameters alone."""
    model = mlp()
    target = deepcopy(model).requires_grad_(False).eval()
    trained(model, vectors())
    for mine, its in zip(target.parameters(), model.parameters(), strict=True):
        mine.copy_(its.detach())
    return target


def loaded_from_parameters() -> nn.Module:
    saved = dict(trained(cnn(), images()).named_parameters())
    model = cnn()
    model.load_state_dict({name: tensor.detach() for name, tensor in saved.items()}, strict=False)
    return model


def trained_in_evaluation() -> nn.Module:
    return trained(Attention().eval(), sequences())


def with_a_new_head() -> nn.Module:
    """A trained body, and a head that is not trained yet."""
    body = trained(mlp(), vectors())[:-1]
    return nn.Sequential(*body, nn.Linear(16, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 2))


class Unused(nn.Module):
    """A branch that the forward never takes, whose γ has been decayed unevenly."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = mlp(), nn.BatchNorm1d(4)
        self.unused.weight.data = torch.linspace(0.5, 1, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.used(x)


class TestUntrainedStatistics(RuleContract):
    code = "NS405"
    faulty = {
        "a target network without buffers": lambda: Case(copied_without_buffers(), vectors()),
        "a checkpoint of parameters": lambda: Case(loaded_from_parameters(), images()),
        "trained in evaluation mode": lambda: Case(trained_in_evaluation(), sequences()),
        "without data": lambda: Case(copied_without_buffers()),
    }
    healthy = {
        "a new network": lambda: Case(Residual(zero=True)),
        "a new head on a trained body": lambda: Case(with_a_new_head()),
        "a trained network": lambda: Case(trained(cnn(), images())),
        "frozen as an identity on purpose": lambda: Case(
            surgery.freeze(copied_without_buffers(), "statistics").apply()
        ),
        "a norm that is never called": lambda: Case(Unused(), vectors()),
    }
