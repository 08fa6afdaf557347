"""NS107: deep networks without norms whose scales differ."""

from __future__ import annotations

import torch
from tests.checks.networks import images, mlp, sequences, trained, vectors
from tests.contracts.rule import Case, RuleContract
from torch import Tensor, nn
from torch.nn import functional as F

import normsmith


def deep(act: type[nn.Module] = nn.ReLU, depth: int = 6, size: int = 16) -> nn.Module:
    hidden = [layer for _ in range(depth - 2) for layer in (nn.Linear(size, size), act())]
    return nn.Sequential(nn.Linear(8, size), act(), *hidden, nn.Linear(size, 2))


def convolutions() -> nn.Module:
    stages = [layer for _ in range(5) for layer in (nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())]
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)
    )


def exploding() -> nn.Module:
    """Initial weights that are too large."""
    model = deep()
    for module in model:
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=1.0)
    return model


class FromZero(nn.Module):
    """Residual branches whose last layer begins at 0."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.ModuleList([nn.Linear(8, 8) for _ in range(4)])
        self.last = nn.ModuleList([nn.Linear(8, 8) for _ in range(4)])
        for layer in self.first:
            nn.init.orthogonal_(layer.weight)
        for layer in self.last:
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        for first, last in zip(self.first, self.last, strict=True):
            x = x + last(first(x).relu())
        return self.head(x)


def scaled(act: type[nn.Module] = nn.ReLU, gain: str = "relu") -> nn.Module:
    """Initial weights that keep the scale."""
    model = deep(act, size=128)
    for module in model:
        if isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity=gain)
            nn.init.zeros_(module.bias)
    return model


class TestMissingNorm(RuleContract):
    code = "NS107"
    faulty = {
        "a deep MLP with torch's initial weights": lambda: Case(deep(depth=8), vectors(2)),
        "a deep CNN": lambda: Case(convolutions(), images(2)),
        "weights that are too large": lambda: Case(exploding(), vectors(2)),
        "linear layers over steps": lambda: Case(deep(depth=8), sequences(2)),
    }
    healthy = {
        "He's initial weights": lambda: Case(scaled(), vectors(2)),
        "a self-normalizing network": lambda: Case(scaled(nn.SELU, "linear"), vectors(2)),
        "residual branches that begin at 0": lambda: Case(FromZero(), vectors(2)),
        "four layers": lambda: Case(deep(depth=4), vectors(2)),
        "a network that has learned without": lambda: Case(
            trained(deep(depth=8), vectors(), 30), vectors(), {"loss": F.cross_entropy}
        ),
        "with norms": lambda: Case(mlp(), vectors(2)),
        "with norms after all": lambda: Case(
            normsmith.surgery.insert(deep(depth=8), "layer").apply(), vectors(2)
        ),
    }


def test_it_says_how_far_scales_are_apart():
    torch.manual_seed(0)
    (finding,) = normsmith.check(exploding(), vectors(2), select=["NS107"])
    assert finding.path == ""
    assert finding.measured > 100
    assert "6 layers with weights and no norm" in finding.message
    assert finding.severity == "info"
