"""NS102: dropout before a batch norm, where that costs something."""

from __future__ import annotations

import torch
from tests.contracts.rule import Case, RuleContract
from torch import Tensor, nn
from torch.nn import functional as F

import normsmith

Batches = list[tuple[Tensor, Tensor]]
LOSS = {"loss": F.mse_loss}


def sums(*shape: int, count: int = 16) -> Batches:
    """Inputs with a mean of 3, and the sum of each over its last dimensions."""
    draw = torch.Generator().manual_seed(0)
    inputs = [3 + torch.randn(64, *shape, generator=draw) for _ in range(count)]
    return [(x, x.flatten(1).mean(1, keepdim=True)) for x in inputs]


def trained(model: nn.Module, batches: Batches, epochs: int = 10) -> nn.Module:
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(epochs):
        for x, y in batches:
            optimizer.zero_grad()
            F.mse_loss(model(x), y).backward()
            optimizer.step()
    return model


def mlp(p: float, kind: type[nn.Module] = nn.Dropout) -> nn.Module:
    return nn.Sequential(
        nn.Linear(8, 32),
        nn.ReLU(),
        kind(p),
        nn.Linear(32, 32),
        nn.BatchNorm1d(32),
        nn.ReLU(),
        nn.Linear(32, 1),
    )


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 16, 3),
        nn.ReLU(),
        nn.Dropout2d(0.7),
        nn.Conv2d(16, 16, 1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 1),
    )


class States(nn.Module):
    """A GRU, dropout as a function on its last state, a layer, and a norm; or the dropout at the end."""

    def __init__(self, after: bool = False) -> None:
        super().__init__()
        self.cells, self.linear = nn.GRU(4, 32, batch_first=True), nn.Linear(32, 32)
        self.norm, self.head, self.after = nn.BatchNorm1d(32), nn.Linear(32, 1), after

    def forward(self, x: Tensor) -> Tensor:
        x = self.cells(x)[0][:, -1]
        x = x if self.after else F.dropout(x, 0.8, self.training)
        x = F.relu(self.norm(self.linear(x)))
        return self.head(F.dropout(x, 0.3, self.training) if self.after else x)


def afterwards() -> nn.Module:
    return nn.Sequential(
        nn.Linear(8, 32),
        nn.BatchNorm1d(32),
        nn.ReLU(),
        nn.Linear(32, 32),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(32, 1),
    )


def switched_off() -> nn.Module:
    model = mlp(0.8).train()
    model[2].eval()
    return model


def rings(count: int = 16) -> Batches:
    """Points in 6 dimensions, and in which of four shells around the origin each lies."""
    draw = torch.Generator().manual_seed(0)
    inputs = [torch.randn(64, 6, generator=draw) for _ in range(count)]
    edges = torch.tensor([1.9, 2.3, 2.8])
    return [(x, torch.bucketize(x.norm(dim=1), edges)) for x in inputs]


def classifier(p: float) -> nn.Module:
    """A classifier with dropout before its norm."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(6, 64),
        nn.ReLU(),
        nn.Dropout(p),
        nn.Linear(64, 64),
        nn.BatchNorm1d(64),
        nn.ReLU(),
        nn.Linear(64, 4),
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(20):
        for x, y in rings():
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
    return model


def with_old_statistics(p: float) -> nn.Module:
    """The same, whose running statistics are those of before its training."""
    model = classifier(p)
    model[4].reset_running_stats()
    return model


CLASSES = {"loss": F.cross_entropy}


class TestDropoutBeforeNorm(RuleContract):
    code = "NS102"
    faulty = {
        "much of it in an MLP": lambda: Case(trained(mlp(0.8), sums(8)), sums(8), LOSS),
        "whole maps in a CNN": lambda: Case(trained(cnn(), sums(2, 6, 6)), sums(2, 6, 6), LOSS),
        "as a function, after a GRU": lambda: Case(trained(States(), sums(5, 4)), sums(5, 4), LOSS),
        "without data it is information": lambda: Case(mlp(0.1)),
        "without a loss too": lambda: Case(mlp(0.1), sums(8)),
        "a classifier that does better without it": lambda: Case(classifier(0.5), rings(), CLASSES),
    }
    healthy = {
        "dropout that costs nothing, and statistics that are old": lambda: Case(
            with_old_statistics(0.3), rings(), CLASSES
        ),
        "after the last norm": lambda: Case(trained(afterwards(), sums(8)), sums(8), LOSS),
        "the same as a function": lambda: Case(trained(States(after=True), sums(5, 4), 3), sums(5, 4), LOSS),
        "so little that it costs nothing": lambda: Case(trained(mlp(0.02), sums(8)), sums(8), LOSS),
        "dropout that is switched off": lambda: Case(switched_off()),
        "dropout that keeps the variance": lambda: Case(mlp(0.8, nn.AlphaDropout)),
        "a layer norm between": lambda: Case(
            nn.Sequential(nn.Dropout(0.5), nn.LayerNorm(8), nn.Linear(8, 8), nn.BatchNorm1d(8))
        ),
    }


def test_without_data_it_is_information_that_names_the_dropout():
    (finding,) = normsmith.check(mlp(0.5), select=["NS102"])
    assert (finding.path, finding.severity) == ("4", "info")
    assert "dropout (2)" in finding.message
