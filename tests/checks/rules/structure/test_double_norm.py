"""NS103: a norm right after a norm."""

from __future__ import annotations

from tests.checks.networks import Attention, Residual, cnn, images, mlp, sequences
from tests.contracts.rule import Case, RuleContract
from torch import Tensor, nn

import normsmith
from normsmith import layers


class PreNorm(nn.Module):
    """A block whose first norm is used by the skip too."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.f = nn.LayerNorm(8), nn.LayerNorm(8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return x + self.f(self.second(x))


class Twice(nn.Module):
    """Two kinds of norm on the last state of a GRU."""

    def __init__(self) -> None:
        super().__init__()
        self.cells, self.one, self.two = nn.GRU(8, 16, batch_first=True), nn.LayerNorm(16), nn.BatchNorm1d(16)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.one(self.cells(x)[0][:, -1]))


def block(*after: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), *after, nn.BatchNorm2d(8), nn.ReLU())


class TestDoubleNorm(RuleContract):
    code = "NS103"
    faulty = {
        "two batch norms of a CNN": lambda: Case(block()),
        "with an identity between": lambda: Case(block(nn.Identity())),
        "layer norm and batch norm": lambda: Case(Twice(), sequences(2)),
        "at the input": lambda: Case(nn.Sequential(nn.LayerNorm(8), *PreNorm().children())),
    }
    healthy = {
        "an activation between": lambda: Case(block(nn.ReLU())),
        "a pooling between": lambda: Case(block(nn.AvgPool2d(2))),
        "an activation fused with the first": lambda: Case(
            nn.Sequential(nn.Conv2d(3, 8, 3), layers.BatchNormAct2d(8), nn.BatchNorm2d(8))
        ),
        "the first is used elsewhere too": lambda: Case(PreNorm()),
        "a layer between": lambda: Case(mlp()),
        "residual": lambda: Case(Residual(), images(2)),
        "a transformer": lambda: Case(Attention(), sequences(2)),
    }


def test_it_names_both():
    (finding,) = normsmith.check(block(), select=["NS103"])
    assert (finding.path, finding.severity) == ("2", "info")
    assert "1 has just normalised" in finding.message
    assert not normsmith.check(cnn(), select=["NS103"])
