"""NS406: batches that are not drawn at random."""

from __future__ import annotations

import pytest
import torch
from tests.checks.networks import KINDS, Attention, Recurrent, cnn, images, mlp, sequences, trained, vectors
from tests.contracts.rule import Case, RuleContract
from torch import nn

import normsmith
from normsmith import surgery

Batches = list[tuple[torch.Tensor, torch.Tensor]]


def sorted_by_class(batches: Batches) -> Batches:
    """The same samples, those of class 0 first; classes far enough apart."""
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    x = x + y.reshape(-1, *[1] * (x.ndim - 1))
    order = y.argsort(stable=True)
    size = len(batches[0][0])
    return list(zip(x[order].split(size), y[order].split(size), strict=True))


def brightness(batches: Batches, size: float = 1.0) -> Batches:
    """Each batch with a brightness of its own, as from one camera."""
    draw = torch.Generator().manual_seed(3)
    return [(x + size * torch.randn(1, generator=draw), y) for x, y in batches]


def drift() -> Batches:
    """A stream whose level moves slowly."""
    return [(x + 0.2 * number, y) for number, (x, y) in enumerate(sequences())]


def few_drift() -> Case:
    """A level that moves slowly in a quarter of the channels, and by little beside the samples' own spread."""
    levels = torch.linspace(-0.45, 0.45, 16)[:, None] * (torch.arange(20) < 6)
    batches = [(x + level, y) for (x, y), level in zip(vectors(size=64, features=20), levels, strict=True)]
    return Case(nn.Sequential(nn.BatchNorm1d(20), nn.Linear(20, 2)), batches)


def stratified() -> Batches:
    """The same share of each class in every batch."""
    x, y = (torch.cat(parts) for parts in zip(*vectors(32), strict=True))
    zero, one = x[y == 0][:256], x[y == 1][:256] + 3
    labels = torch.tensor([0] * 16 + [1] * 16)
    return [(torch.cat([a, b]), labels) for a, b in zip(zero.split(16), one.split(16), strict=True)]


class TestNonIidBatches(RuleContract):
    code = "NS406"
    faulty = {
        "an MLP, sorted by class": lambda: Case(trained(mlp(), vectors()), sorted_by_class(vectors())),
        "a CNN, a camera for each batch": lambda: Case(cnn(), brightness(images())),
        "a recurrent network, a stream that drifts": lambda: Case(Recurrent(), drift()),
        "a transformer block, sorted by class": lambda: Case(Attention(), sorted_by_class(sequences())),
        "a level that drifts in few channels": few_drift,
    }
    healthy = {
        "drawn at random": lambda: Case(trained(mlp(), vectors()), vectors()),
        "stratified": lambda: Case(mlp(), stratified()),
        "a brightness that varies less than 0.1 σ": lambda: Case(cnn(), brightness(images(), 0.005)),
        "frozen": lambda: Case(surgery.freeze(mlp(), "statistics").apply(), sorted_by_class(vectors())),
        "no batch norm": lambda: Case(
            nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8)), sorted_by_class(vectors())
        ),
    }


@pytest.mark.parametrize("kind", KINDS)
def test_random_batches_of_every_kind_are_clean(kind):
    make, data = KINDS[kind]
    for seed in range(2):
        findings = normsmith.check(make(), data(seed=seed), select=["NS406"])
        assert findings.clean == ("NS406",), findings


def test_few_batches_are_not_judged():
    assert "at least 4" in normsmith.check(mlp(), vectors(3), select=["NS406"]).not_run[0].reason
    single = normsmith.check(mlp(), vectors(8, size=1), select=["NS406"])
    assert "one sample" in single.not_run[0].reason
