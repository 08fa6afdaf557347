"""NS504: gradients that vanish or explode on their way to the first layer."""

from __future__ import annotations

import torch
from tests.checks.networks import Residual, cnn, images, sequences, vectors
from tests.checks.rules.structure.test_missing_norm import scaled
from tests.contracts.rule import Case, RuleContract
from torch import Tensor, nn
from torch.nn import functional as F

import normsmith

GIVEN = {"loss": F.cross_entropy, "level": "deep"}


def deep(act: type[nn.Module] = nn.Sigmoid, depth: int = 9) -> nn.Sequential:
    layers = [layer for _ in range(depth) for layer in (nn.Linear(8, 8), act())]
    return nn.Sequential(*layers, nn.Linear(8, 2))


def convolutions() -> nn.Sequential:
    layers = [layer for _ in range(6) for layer in (nn.Conv2d(3, 3, 3, padding=1), nn.Sigmoid())]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))


class Sine(nn.Module):
    """Bounded activations with steep slopes, over steps."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.sin(30 * layer(x))
        return self.head(x[:, -1])


class Detached(nn.Module):
    """A second head that sends nothing back, and is called last."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.probe = nn.Linear(8, 16), nn.Linear(16, 2), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x).relu()
        return self.head(x) + self.probe(x.detach())


class Queries(nn.Module):
    """Attention that begins uniform: queries and keys have next to no gradient, values have one."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.head = (nn.Linear(8, 8) for _ in range(4))
        for layer in (self.query, self.key):
            nn.init.normal_(layer.weight, std=0.04)

    def forward(self, x: Tensor) -> Tensor:
        x = F.scaled_dot_product_attention(self.query(x), self.key(x), self.value(x), scale=1e-6)
        return self.head(x[:, 0])


def zero_head() -> nn.Module:
    model = deep(nn.ReLU, 2)
    nn.init.zeros_(model[-1].weight)
    return model


def frozen_start() -> nn.Module:
    model = cnn()
    model[0].requires_grad_(False)
    return model


class TestGradientScale(RuleContract):
    code = "NS504"
    faulty = {
        "sigmoids in an MLP": lambda: Case(deep(), vectors(8), GIVEN),
        "sigmoids in a CNN": lambda: Case(convolutions(), images(8), GIVEN),
        "steep slopes": lambda: Case(Sine(), sequences(8), GIVEN),
    }
    healthy = {
        "He's weights": lambda: Case(scaled(), vectors(8), GIVEN),
        "sigmoids with norms": lambda: Case(
            normsmith.surgery.insert(deep(), "batch").apply(), vectors(8), GIVEN
        ),
        "a residual branch that begins at 0": lambda: Case(Residual(zero=True), images(8), GIVEN),
        "a last layer that begins at 0": lambda: Case(zero_head(), vectors(8), GIVEN),
        "a frozen layer": lambda: Case(frozen_start(), images(8), GIVEN),
        "queries without gradients": lambda: Case(Queries(), sequences(8), GIVEN),
        "a detached head": lambda: Case(Detached(), vectors(8), GIVEN),
    }


def test_it_says_which_way():
    torch.manual_seed(0)
    (vanishing,) = normsmith.check(deep(), vectors(8), select=["NS504"], **GIVEN)
    (exploding,) = normsmith.check(Sine(), sequences(8), select=["NS504"], **GIVEN)
    assert vanishing.path == "0"
    assert vanishing.measured < vanishing.threshold == 1e-3
    assert exploding.measured > exploding.threshold == 70
    assert "clip" in exploding.fix.code
    assert {vanishing.severity, exploding.severity} == {"warning"}
