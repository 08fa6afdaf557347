"""NS502: sigmoids and tanhs whose units are saturated."""

from __future__ import annotations

import torch
from tests.checks.networks import images, sequences, trained, vectors
from tests.contracts.rule import Case, RuleContract
from torch import Tensor, nn
from torch.nn import functional as F

import normsmith

GIVEN = {"loss": F.cross_entropy, "level": "deep"}


def plain(act: type[nn.Module] = nn.Tanh, scale: float = 1.0, units: int = 16) -> nn.Sequential:
    """Two layers; the weights of some units of the first are scaled."""
    model = nn.Sequential(nn.Linear(8, 16), act(), nn.Linear(16, 2))
    with torch.no_grad():
        model[0].weight[:units] *= scale
    return model


def convolutions(scale: float) -> nn.Sequential:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Sigmoid(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)
    )
    with torch.no_grad():
        model[0].weight *= scale
    return model


class Functional(nn.Module):
    """`torch.tanh` over steps, before a recurrent layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.cells, self.head = nn.Linear(8, 16), nn.GRU(16, 8, batch_first=True), nn.Linear(8, 2)
        nn.init.normal_(self.embed.weight, std=10.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cells(torch.tanh(self.embed(x)))[0][:, -1])


class Gated(nn.Module):
    """A gate that is open or closed."""

    def __init__(self) -> None:
        super().__init__()
        self.value, self.gate, self.head = nn.Linear(8, 16), nn.Linear(8, 16), nn.Linear(16, 2)
        nn.init.normal_(self.gate.weight, std=30.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.value(x) * torch.sigmoid(self.gate(x)))


class Sure(nn.Module):
    """Probabilities that are near 0 or 1."""

    def __init__(self) -> None:
        super().__init__()
        self.body = plain()
        nn.init.normal_(self.body[2].weight, std=50.0)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.body(x))


def squared(output: Tensor, target: Tensor) -> Tensor:
    return F.mse_loss(output, F.one_hot(target, 2).float())


class TestSaturated(RuleContract):
    code = "NS502"
    faulty = {
        "raw inputs": lambda: Case(plain(), [(50 * x, y) for x, y in vectors(8)], GIVEN),
        "large weights in a CNN": lambda: Case(convolutions(30.0), images(8), GIVEN),
        "a function before a recurrent layer": lambda: Case(Functional(), sequences(8), GIVEN),
    }
    healthy = {
        "unit scale": lambda: Case(plain(), vectors(8), GIVEN),
        "a trained network": lambda: Case(trained(plain(nn.Sigmoid), vectors()), vectors(8), GIVEN),
        "a gate": lambda: Case(Gated(), vectors(8), GIVEN),
        "a sure output": lambda: Case(Sure(), vectors(8), {**GIVEN, "loss": squared}),
        "a third of the units": lambda: Case(plain(scale=100.0, units=5), vectors(8), GIVEN),
        "ReLU on a large scale": lambda: Case(plain(nn.ReLU, scale=100.0), vectors(8), GIVEN),
    }


def test_it_counts_the_units():
    torch.manual_seed(0)
    (finding,) = normsmith.check(plain(scale=100.0, units=12), vectors(8), select=["NS502"], **GIVEN)
    assert finding.path == "1"
    assert finding.message.startswith("12 of 16 units have most of their inputs beyond ±2.5, where the tanh")
