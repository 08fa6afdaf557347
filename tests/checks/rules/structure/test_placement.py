"""NS109: norms before s-shaped activations, and after rectifiers."""

from __future__ import annotations

import pytest
import torch
from tests.checks.networks import Residual, cnn, images, mlp, sequences, vectors
from tests.contracts.rule import Case, RuleContract
from torch import Tensor, nn
from torch.nn import functional as F

import normsmith


class Functional(nn.Module):
    """A CNN with functions: a rectifier, a pooling, a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(F.max_pool2d(F.relu(self.conv(x)), 2)).mean((2, 3))


class Gate(nn.Module):
    """A gate over steps (N, T, C): the norm takes the channels second, the sigmoid what comes back."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(8)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.norm(x.transpose(1, 2)).transpose(1, 2))


def order(*middle: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(8, 8), *middle, nn.Linear(8, 2))


def frozen() -> nn.Module:
    model = order(nn.ReLU(), nn.BatchNorm1d(8)).train()
    model[2].eval()
    return model


class TestPlacement(RuleContract):
    code = "NS109"
    faulty = {
        "after a ReLU": lambda: Case(order(nn.ReLU(), nn.BatchNorm1d(8))),
        "before a tanh": lambda: Case(order(nn.BatchNorm1d(8), nn.Tanh())),
        "after a function and a pooling": lambda: Case(Functional(), images(2)),
        "before the sigmoid of a gate, moved": lambda: Case(Gate(), sequences(2)),
        "before a sigmoid, with dropout between": lambda: Case(
            order(nn.BatchNorm1d(8), nn.Dropout(), nn.Sigmoid())
        ),
    }
    healthy = {
        "before a ReLU": lambda: Case(mlp(), vectors(2)),
        "a CNN": lambda: Case(cnn(), images(2)),
        "a residual network": lambda: Case(Residual(), images(2)),
        "after a tanh": lambda: Case(order(nn.Tanh(), nn.BatchNorm1d(8))),
        "layer norm": lambda: Case(order(nn.ReLU(), nn.LayerNorm(8))),
        "frozen": lambda: Case(frozen()),
    }


@pytest.mark.parametrize(
    ("middle", "text"),
    [
        ((nn.BatchNorm1d(8), nn.Sigmoid()), "before an s-shaped activation, Sigmoid"),
        ((nn.GELU(), nn.BatchNorm1d(8)), "GELU"),
    ],
)
def test_it_is_information_that_says_where(middle, text):
    findings = normsmith.check(order(*middle), select=["NS109"])
    assert text in findings[0].message
    assert findings.passed()
