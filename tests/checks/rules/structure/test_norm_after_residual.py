"""NS105: norms after residual additions."""

from __future__ import annotations

import torch
from tests.checks.networks import Attention, Residual, images, mlp, sequences, vectors
from tests.contracts.rule import Case, RuleContract
from torch import Tensor, nn
from torch.nn import functional as F

import normsmith


class Block(nn.Module):
    """A residual block with its norm `where`."""

    def __init__(self, where: str, norm: nn.Module, f: nn.Module) -> None:
        super().__init__()
        self.where, self.norm, self.f = where, norm, f

    def forward(self, x: Tensor) -> Tensor:
        if self.where == "after":
            return self.norm(x + F.dropout(self.f(x), 0.1, self.training))
        return x + (self.f(self.norm(x)) if self.where == "before" else self.norm(self.f(x)))


def blocks(where: str, *more: nn.Module) -> nn.Module:
    made = [
        Block(where, nn.LayerNorm(8), nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)))
        for _ in "ab"
    ]
    return nn.Sequential(*made, *more, nn.Linear(8, 2))


def maps(where: str) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.ReLU(),
        Block(where, nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, padding=1)),
        nn.ReLU(),
    )


class TestNormAfterResidual(RuleContract):
    code = "NS105"
    faulty = {
        "layer norms of an MLP": lambda: Case(blocks("after")),
        "batch norm of a CNN": lambda: Case(maps("after"), images(2)),
        "a transformer with batch norm over channels": lambda: Case(Attention(), sequences(2)),
    }
    healthy = {
        "before the branch": lambda: Case(blocks("before")),
        "before the branch, and one at the end": lambda: Case(blocks("before", nn.LayerNorm(8))),
        "at the branch's end": lambda: Case(blocks("end")),
        "a residual network": lambda: Case(Residual(), images(2)),
        "no residual": lambda: Case(mlp(), vectors(2)),
        "an activation between": lambda: Case(nn.Sequential(maps("end"), nn.BatchNorm2d(8)), images(2)),
    }


def test_one_finding_for_each_norm():
    findings = normsmith.check(blocks("after"), [torch.randn(4, 8)], select=["NS105"])
    assert [finding.path for finding in findings] == ["0.norm", "1.norm"]
    assert findings.passed()
