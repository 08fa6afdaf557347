"""NS104: outputs that come out of a norm."""

from __future__ import annotations

import torch
from tests.checks.networks import Recurrent, cnn, images, mlp, sequences, vectors
from tests.contracts.rule import Case, RuleContract
from torch import Tensor, nn

import normsmith


def regression() -> list[tuple[Tensor, Tensor]]:
    return [(x, x[:, :2]) for x, _ in vectors(2)]


def segmentation() -> list[tuple[Tensor, Tensor]]:
    return [(x, (x[:, 0] > 0).long()) for x, _ in images(2)]


def maps() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 1), nn.BatchNorm2d(2))


def states() -> nn.Module:
    model = Recurrent()
    model.head = nn.Sequential(nn.Linear(16, 2), nn.LayerNorm(2), nn.LogSoftmax(1))
    return model


def embedding() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4), nn.LayerNorm(4))


class TestNormOnOutput(RuleContract):
    code = "NS104"
    faulty = {
        "logits": lambda: Case(nn.Sequential(mlp(), nn.BatchNorm1d(2)), vectors(2)),
        "a regression": lambda: Case(nn.Sequential(mlp(), nn.BatchNorm1d(2)), regression()),
        "a segmentation": lambda: Case(maps(), segmentation()),
        "through a softmax, after a GRU": lambda: Case(states(), sequences(2)),
        "without targets, a batch norm after a linear layer": lambda: Case(
            nn.Sequential(nn.Linear(8, 2), nn.BatchNorm1d(2))
        ),
    }
    healthy = {
        "a linear layer at the end": lambda: Case(mlp(), vectors(2)),
        "an embedding with layer norm": lambda: Case(embedding(), [x for x, _ in vectors(2)]),
        "an embedding that a loss of its own compares": lambda: Case(
            embedding(), [(x, torch.arange(len(x))) for x, _ in vectors(2)]
        ),
        "an activation after the norm": lambda: Case(
            nn.Sequential(nn.Linear(8, 2), nn.BatchNorm1d(2), nn.ReLU()), vectors(2)
        ),
        "a CNN": lambda: Case(cnn(), images(2)),
    }


def test_it_is_information_at_the_last_norm():
    (finding,) = normsmith.check(nn.Sequential(mlp(), nn.BatchNorm1d(2)), vectors(2), select=["NS104"])
    assert (finding.path, finding.severity) == ("1", "info")
    assert "targets" in finding.message
