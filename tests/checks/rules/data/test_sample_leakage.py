"""NS409: samples that depend on each other in evaluation."""

from __future__ import annotations

import pytest
import torch
from tests.checks.held import held_bytes
from tests.checks.networks import KINDS, cnn, images, mlp, sequences, vectors
from tests.contracts.rule import Case, RuleContract
from torch import Tensor, nn

import normsmith
from normsmith.checks.rules.data import sample_leakage


class Turned(nn.Module):
    """A CNN whose reshape puts channels before the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8 * 36, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x))
        return self.head(y.transpose(0, 1).reshape(len(x), -1))


class OverBatch(nn.Module):
    """Attention that takes samples for steps."""

    def __init__(self, batch_first: bool = False) -> None:
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(8, 2, batch_first=batch_first), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.attention(x, x, x, need_weights=False)[0].mean(1))


class Recurrence(nn.Module):
    """A GRU that takes samples for steps, and goes over them one way only."""

    def __init__(self) -> None:
        super().__init__()
        self.cells, self.head = nn.GRU(8, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cells(x)[0][:, -1])


class Centred(nn.Module):
    """An MLP that subtracts the mean of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp()

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x - x.mean(0))


class Noisy(nn.Module):
    """Noise in evaluation too, which no seed makes the same."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(torch.seed() % 1000))


class TestSampleLeakage(RuleContract):
    code = "NS409"
    faulty = {
        "a reshape for a transpose, in a CNN": lambda: Case(Turned(), images(4)),
        "attention over the batch": lambda: Case(OverBatch(), sequences(4)),
        "recurrence over the batch": lambda: Case(Recurrence(), sequences(4)),
        "the mean of the batch, in an MLP": lambda: Case(Centred(), vectors(4)),
    }
    healthy = {
        "a CNN": lambda: Case(cnn(), images(4)),
        "attention over steps": lambda: Case(OverBatch(batch_first=True), sequences(4)),
        "dropout and norms in training mode": lambda: Case(
            nn.Sequential(mlp(), nn.Dropout(0.5)).train(), vectors(4)
        ),
        "samples put into one dimension with steps, and back": lambda: Case(
            nn.Sequential(nn.Flatten(0, 1), nn.Linear(8, 2), nn.Unflatten(0, (-1, 5))), sequences(4)
        ),
    }


def test_every_kind_is_clean():
    for make, data in KINDS.values():
        assert normsmith.check(make(), data(2), select=["NS409"]).clean == ("NS409",)


def test_the_first_layer_is_named():
    assert normsmith.check(Turned(), images(4), select=["NS409"])[0].path == "head"
    assert normsmith.check(OverBatch(), sequences(4), select=["NS409"])[0].path == "attention"


def test_noise_is_no_leak_and_time_first_is_not_judged():
    assert normsmith.check(Noisy(), vectors(4), select=["NS409"]).clean == ("NS409",)
    turned = [(x.transpose(0, 1), y) for x, y in sequences(4)]
    assert (
        "begin with the samples" in normsmith.check(OverBatch(), turned, select=["NS409"]).not_run[0].reason
    )


class Watched(nn.Module):
    """Thirty layers with outputs of 0.5 MB each, and a look at what is held after the last of them."""

    def __init__(self, mixes: bool) -> None:
        super().__init__()
        self.steps = nn.ModuleList(nn.Sequential(nn.Hardtanh()) for _ in range(30))
        self.mixes, self.held = mixes, 0

    def forward(self, x: Tensor) -> Tensor:
        x = x.repeat(1, 1024)
        for number, step in enumerate(self.steps):
            x = step(x + x.mean(0) if self.mixes and number == 20 else x)
        self.held = max(self.held, held_bytes())
        return x


@pytest.mark.parametrize("mixes", [False, True])
def test_the_outputs_of_few_layers_are_held_at_once(mixes, monkeypatch):
    monkeypatch.setattr(sample_leakage, "_HELD", 2**21)
    model, batches = Watched(mixes), vectors(1, size=16)
    with torch.no_grad():
        model(batches[0][0])
    plain = model.held
    findings = normsmith.check(model, batches, select=["NS409"])
    assert [finding.path for finding in findings] == (["steps.20.0"] if mixes else [])
    assert model.held - plain < 2**22  # all of them are 15 MB
