"""NS503: scales that grow or fade from layer to layer."""

from __future__ import annotations

import pytest
import torch
from tests.checks.networks import images, mlp, sequences, trained, vectors
from tests.checks.rules.structure.test_missing_norm import FromZero, convolutions, deep, scaled
from tests.contracts.rule import Case, RuleContract
from torch import Tensor, nn
from torch.nn import functional as F

import normsmith

GIVEN = {"loss": F.cross_entropy, "level": "deep"}


def drawn(model: nn.Module, std: float) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return model


class Growing(nn.Module):
    """A residual stream without norms, each of whose branches is larger than what it is added to."""

    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8)) for _ in range(4)
        )
        self.head = nn.Linear(8, 2)
        drawn(self.branches, 0.7)

    def forward(self, x: Tensor) -> Tensor:
        for branch in self.branches:
            x = x + branch(x)
        return self.head(x[:, -1])


class Stacked(nn.Module):
    """Recurrent layers without gates, each of which makes less of what it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.RNN(8, 8, batch_first=True) for _ in range(5))
        self.head = nn.Linear(8, 2)
        for name, parameter in self.layers.named_parameters():
            nn.init.normal_(parameter, std=0.1 if "weight" in name else 0.0)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)[0]
        return self.head(x[:, -1])


class TestScaleByDepth(RuleContract):
    code = "NS503"
    faulty = {
        "torch's own weights in an MLP": lambda: Case(deep(depth=8), vectors(8), GIVEN),
        "torch's own weights in a CNN": lambda: Case(convolutions(), images(8), GIVEN),
        "few layers that explode": lambda: Case(drawn(deep(depth=4), 2.0), vectors(8), GIVEN),
        "recurrent layers with small weights": lambda: Case(Stacked(), sequences(8), GIVEN),
        "a residual stream": lambda: Case(Growing(), sequences(8), GIVEN),
    }
    healthy = {
        "He's weights": lambda: Case(scaled(), vectors(8), GIVEN),
        "residual branches that begin at 0": lambda: Case(FromZero(), vectors(8), GIVEN),
        "four layers": lambda: Case(deep(depth=4), vectors(8), GIVEN),
        "four layers, trained": lambda: Case(trained(deep(depth=4), vectors()), vectors(8), GIVEN),
        "large weights between norms": lambda: Case(drawn(mlp(), 5.0), vectors(8), GIVEN),
    }


def test_a_network_that_has_learned_is_told_but_not_warned():
    torch.manual_seed(0)
    model = trained(deep(depth=8), vectors(), epochs=40)
    (finding,) = normsmith.check(model, vectors(), select=["NS503"], **GIVEN)
    assert finding.severity == "info"


@pytest.mark.parametrize(("loss", "severity"), [(F.cross_entropy, "warning"), (None, "info")])
def test_a_warning_takes_a_loss(loss, severity):
    def step(model, batches, optimizer):
        x, y = next(batches)
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

    torch.manual_seed(0)
    given = {"loss": loss, "training_step": step, "level": "deep", "select": ["NS503"]}
    (finding,) = normsmith.check(drawn(deep(depth=4), 2.0), vectors(8), **given)
    assert finding.severity == severity
    assert "after 0 to" in finding.message


def test_it_says_what_unit_variance_would_bring():
    torch.manual_seed(0)
    model = drawn(deep(depth=8), 0.05)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    (finding,) = normsmith.check(model, vectors(), optimizer=optimizer, select=["NS503"], **GIVEN)
    assert finding.severity == "warning"
    assert "after 16 steps" in finding.message
    assert finding.message.endswith("with layers of unit variance")


def test_the_initial_weights_of_torch_are_no_fault():
    torch.manual_seed(0)
    model = deep(depth=8)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)  # with which the proof above costs loss as well
    (finding,) = normsmith.check(model, vectors(), optimizer=optimizer, select=["NS503"], **GIVEN)
    assert finding.severity == "info"
    assert finding.message.endswith("with layers of unit variance")


def test_a_moderate_factor_that_costs_nothing_is_information():
    torch.manual_seed(0)
    (finding,) = normsmith.check(deep(depth=8), vectors(8), select=["NS503"], **GIVEN)  # steps of 0.001
    assert 10 < finding.measured < 100
    assert finding.severity == "info"
