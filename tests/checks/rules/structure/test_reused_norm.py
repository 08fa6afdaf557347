"""NS106: one norm, several calls with different inputs."""

from __future__ import annotations

import torch
from tests.checks.networks import images, mlp, sequences, vectors
from tests.contracts.rule import Case, RuleContract
from torch import Tensor, nn
from torch.nn import functional as F

import normsmith


class Loop(nn.Module):
    """One linear layer and one norm, over and over, as an unrolled recurrence."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.again, self.norm = nn.Linear(8, 8), nn.Linear(8, 8), nn.BatchNorm1d(8)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros_like(x[:, 0])
        for step in range(x.shape[1]):
            h = F.relu(self.norm(2 * self.into(x[:, step]) + self.again(h) + h))
        return h


class TwoStages(nn.Module):
    """Two convolutions of different scale with one norm between them."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.norm = (
            nn.Conv2d(3, 8, 3, padding=1),
            nn.Conv2d(8, 8, 3),
            nn.BatchNorm2d(8),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.two(F.relu(self.norm(self.one(x)))))


class Siamese(nn.Module):
    """One encoder for two halves of a batch; `apart` shifts the second half."""

    def __init__(self, apart: float) -> None:
        super().__init__()
        self.encoder, self.apart = mlp(), apart

    def forward(self, x: Tensor) -> Tensor:
        one, other = x.chunk(2)
        return self.encoder(one) - self.encoder(other + self.apart)


def in_a_sequence() -> nn.Module:
    norm = nn.BatchNorm1d(8)
    return nn.Sequential(nn.Linear(8, 8), norm, nn.ReLU(), nn.Linear(8, 8), norm)


def frozen() -> nn.Module:
    model = in_a_sequence().train()
    model[1].eval()
    return model


class TestReusedNorm(RuleContract):
    code = "NS106"
    faulty = {
        "two places of a Sequential": lambda: Case(in_a_sequence(), vectors()),
        "two stages of a CNN": lambda: Case(TwoStages(), images()),
        "a loop over steps": lambda: Case(Loop(), sequences()),
        "a siamese network whose inputs differ": lambda: Case(Siamese(2.0), vectors()),
        "without data it is information": lambda: Case(in_a_sequence()),
    }
    healthy = {
        "a siamese network with inputs of one kind": lambda: Case(Siamese(0.0), vectors()),
        "two norms with an activation between": lambda: Case(mlp(), vectors()),
        "frozen norms do not average": lambda: Case(frozen(), vectors()),
        "statistics of each step": lambda: Case(
            nn.Sequential(normsmith.BatchNormLSTM(8, 8, batch_first=True, max_steps=5)), sequences()
        ),
    }


def test_without_data_it_is_information():
    findings = normsmith.check(in_a_sequence(), select=["NS106"])
    assert findings[0].severity == "info"
    assert findings[0].measured == 2
    assert findings.passed()
