"""NS501: ReLUs most of whose units are dead."""

from __future__ import annotations

import pytest
import torch
from tests.checks.networks import cnn, images, mlp, sequences, trained, vectors
from tests.contracts.rule import Case, RuleContract
from torch import Tensor, nn
from torch.nn import functional as F

import normsmith
from normsmith.checks.rules.signal.dead_relu import by_chance

GIVEN = {"loss": F.cross_entropy, "level": "deep"}


def plain(act: type[nn.Module] = nn.ReLU, width: int = 16) -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, width), act(), nn.Linear(width, 2))


def shifted(model: nn.Sequential, layer: int, by: float, share: float = 1.0) -> nn.Module:
    """The model with lower biases in a share of a layer's units."""
    bias = model[layer].bias
    with torch.no_grad():
        bias[: round(share * len(bias))] += by
    return model


class Functional(nn.Module):
    """A CNN that calls `F.relu`, in place."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.head = nn.Linear(8, 2)
        nn.init.constant_(self.conv.bias, -9.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.conv(x), inplace=True).mean((2, 3)))


class FeedForward(nn.Module):
    """The feed-forward part of a transformer, over steps."""

    def __init__(self, bias: float = 0.0) -> None:
        super().__init__()
        self.up, self.act, self.down = nn.Linear(8, 32), nn.ReLU6(), nn.Linear(32, 8)
        self.head = nn.Linear(8, 2)
        nn.init.constant_(self.up.bias, bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.head((x + self.down(self.act(self.up(x)))).mean(1))


def pooled() -> nn.Module:
    """Units after a global pooling are on or off for all samples alike, each by chance."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 2),
    )  # fmt: skip


class TestDeadReLU(RuleContract):
    code = "NS501"
    faulty = {
        "an MLP with low biases": lambda: Case(shifted(plain(), 0, -9.0), vectors(8), GIVEN),
        "a CNN with a function": lambda: Case(Functional(), images(8), GIVEN),
        "a norm's β": lambda: Case(shifted(cnn(), 4, -9.0), images(8), GIVEN),
        "a feed-forward part over steps": lambda: Case(FeedForward(-9.0), sequences(8), GIVEN),
    }
    healthy = {
        "a third of the units is dead": lambda: Case(shifted(plain(), 0, -9.0, 0.3), vectors(8), GIVEN),
        "sparse units": lambda: Case(shifted(plain(), 0, -0.8), vectors(8), GIVEN),
        "leaky units": lambda: Case(shifted(plain(nn.LeakyReLU), 0, -9.0), vectors(8), GIVEN),
        "units after a pooling": lambda: Case(pooled(), images(8), GIVEN),
        "a trained network": lambda: Case(trained(mlp(), vectors()), vectors(), GIVEN),
        "a few samples": lambda: Case(shifted(plain(), 0, -1.5), vectors(8, size=2), GIVEN),
    }


def test_it_counts_the_units():
    model = shifted(plain(), 0, -9.0, 0.875)
    (finding,) = normsmith.check(model, vectors(8), select=["NS501"], **GIVEN)
    assert finding.path == "1"
    assert finding.message.startswith("14 of 16 units")
    assert finding.measured == 0.875


def test_chance():
    assert by_chance(14, 16) == pytest.approx(137 / 65536)
    assert by_chance(0, 4) == 1
