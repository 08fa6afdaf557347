"""NS205: batch norm over steps instead of features."""

from __future__ import annotations

import torch
from tests.checks.networks import Attention, Recurrent, cnn, images, mlp, sequences, vectors
from tests.contracts.rule import Case, RuleContract
from torch import Tensor, nn

import normsmith


class Tokens(nn.Module):
    """An embedding and a norm over tokens (N, L) → (N, L, C); `right` moves the channels for the norm."""

    def __init__(self, features: int, right: bool = False) -> None:
        super().__init__()
        self.embed, self.right = nn.Embedding(10, features), right
        self.norm = nn.BatchNorm1d(features if right else 5)
        self.head = nn.Linear(features, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = self.norm(x.transpose(1, 2)).transpose(1, 2) if self.right else self.norm(x)
        return self.head(x.mean(1))


class States(nn.Module):
    """All states of a GRU, normalised with the channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.cells, self.norm, self.head = (
            nn.GRU(8, 16, batch_first=True),
            nn.BatchNorm1d(5),
            nn.Linear(16, 2),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.cells(x)[0])[:, -1])


class Block(nn.Module):
    """A residual attention block whose norm takes the steps."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm = nn.BatchNorm1d(5)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x + self.attention(x, x, x, need_weights=False)[0])


def tokens() -> list[Tensor]:
    return [torch.randint(10, (16, 5)) for _ in range(4)]


def per_step(steps: int = 5) -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(steps), nn.ReLU(), nn.Linear(16, 2))


class TestWrongAxis(RuleContract):
    code = "NS205"
    faulty = {
        "a linear layer over steps": lambda: Case(per_step(), sequences(4)),
        "the same without data: 16 features, a norm of 5": lambda: Case(per_step()),
        "an embedding": lambda: Case(Tokens(8), tokens()),
        "states of a GRU": lambda: Case(States(), sequences(4)),
        "attention": lambda: Case(Block(), sequences(4)),
    }
    healthy = {
        "moved for the norm": lambda: Case(Tokens(8, right=True), tokens()),
        "a transformer that moves them": lambda: Case(Attention(), sequences(4)),
        "as many steps as features": lambda: Case(Tokens(5), tokens()),
        "vectors": lambda: Case(mlp(), vectors(4)),
        "the last state": lambda: Case(Recurrent(), sequences(4)),
        "maps": lambda: Case(cnn(), images(4)),
        "a convolution over time": lambda: Case(
            nn.Sequential(nn.Conv1d(5, 6, 3), nn.BatchNorm1d(6)), sequences(4)
        ),
    }


def test_it_is_information():
    findings = normsmith.check(per_step(), sequences(2), select=["NS205"])
    assert findings.passed()
    assert "5 steps, not the 16 features" in findings[0].message
