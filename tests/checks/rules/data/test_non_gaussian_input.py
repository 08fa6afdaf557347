"""NS402: features far from normal."""

from __future__ import annotations

import torch
from tests.checks.networks import Recurrent, cnn, images, mlp, sequences, vectors
from tests.contracts.rule import Case, RuleContract
from torch import nn

import normsmith
from normsmith.tasks import load


def cells() -> nn.Module:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = nn.GRUCell(8, 8), nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.cell(x))

    return Last()


def pixels() -> Case:
    """Real digits as vectors: many pixels are black nearly always."""
    task = load("digits-mlp")
    x, y = task.train.tensors
    return Case(task.model(), list(zip(x.split(64), y.split(64), strict=True))[:8])


class TestNonGaussianInput(RuleContract):
    code = "NS402"
    faulty = {
        "amounts, whose logarithm is normal": lambda: Case(
            mlp(), [(torch.exp(1.5 * x), y) for x, y in vectors()]
        ),
        "heavy tails on both sides": lambda: Case(mlp(), [(x**5, y) for x, y in vectors()]),
        "one feature of eight, in a recurrent cell": lambda: Case(
            cells(), [(torch.cat([x[:, :7], torch.exp(2 * x[:, 7:])], 1), y) for x, y in vectors()]
        ),
        "images with hot pixels": lambda: Case(
            cnn(), [(x + 40 * (torch.rand_like(x) < 0.005), y) for x, y in images(8, size=32)]
        ),
        "sequences with heavy tails": lambda: Case(Recurrent(), [(x**5, y) for x, y in sequences(8)]),
    }
    healthy = {
        "normal": lambda: Case(mlp(), vectors()),
        "even between two ends": lambda: Case(mlp(), [(torch.rand_like(x), y) for x, y in vectors()]),
        "flags": lambda: Case(mlp(), [((x > 2).float(), y) for x, y in vectors()]),
        "counts that are mostly zero": lambda: Case(mlp(), [((x > 1) * (1 + x**2), y) for x, y in vectors()]),
        "pixels of flattened images": pixels,
        "images": lambda: Case(cnn(), [(torch.exp(0.5 * x), y) for x, y in images(8, size=32)]),
        "small bright objects before a background": lambda: Case(
            cnn(), [(torch.where(x > 2, 9.0, -1.0), y) for x, y in images(8, size=32)]
        ),
        "padded sequences": lambda: Case(
            Recurrent(), [(x * (torch.arange(5) < 2)[:, None], y) for x, y in sequences(8)]
        ),
    }


def test_few_samples_are_not_judged():
    findings = normsmith.check(mlp(), vectors(4, size=8), select=["NS402"])
    assert "at least 100" in findings.not_run[0].reason
