"""NS303: micro-batches whose gradients are accumulated."""

from __future__ import annotations

import torch
from tests.checks.networks import Recurrent, cnn, images, mlp, sequences, vectors
from tests.contracts.rule import Case, RuleContract
from torch import nn
from torch.nn import functional as F

import normsmith
from normsmith import surgery


def accumulating(model, batches, optimizer):
    model.train()
    for _ in range(4):
        x, y = next(batches)
        (F.cross_entropy(model(x), y) / 4).backward()
    optimizer.step()
    optimizer.zero_grad()


class EveryFourth:
    """The optimizer steps in every fourth training step."""

    def __init__(self):
        self.count = 0

    def __call__(self, model, batches, optimizer):
        x, y = next(batches)
        (F.cross_entropy(model(x), y) / 4).backward()
        self.count += 1
        if self.count % 4 == 0:
            optimizer.step()
            optimizer.zero_grad()


def usual(model, batches, optimizer):
    x, y = next(batches)
    optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()
    optimizer.step()


def sharpness_aware(model, batches, optimizer):
    """Two backwards on the same samples, the second with weights uphill."""
    x, y = next(batches)
    F.cross_entropy(model(x), y).backward()
    uphill = [0.05 * p.grad for p in model.parameters()]
    with torch.no_grad():
        for p, away in zip(model.parameters(), uphill, strict=True):
            p.add_(away)
    optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()
    with torch.no_grad():
        for p, away in zip(model.parameters(), uphill, strict=True):
            p.sub_(away)
    optimizer.step()


def of_its_own(model, batches, optimizer):
    """It steps by hand."""
    x, y = next(batches)
    model.zero_grad()
    F.cross_entropy(model(x), y).backward()
    with torch.no_grad():
        for p in model.parameters():
            p.sub_(0.01 * p.grad)


def given(training_step):
    return {"training_step": training_step, "level": "deep"}


def pooled() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.BatchNorm1d(8),
        nn.Linear(8, 2),
    )


class TestAccumulationMismatch(RuleContract):
    code = "NS303"
    faulty = {
        "an MLP": lambda: Case(mlp(), vectors(8, size=8), given(accumulating)),
        "a CNN with a norm after the pooling": lambda: Case(pooled(), images(8, size=4), given(accumulating)),
        "over training steps": lambda: Case(Recurrent(), sequences(8, size=4), given(EveryFourth())),
    }
    healthy = {
        "micro-batches that are large enough": lambda: Case(mlp(), vectors(8, size=32), given(accumulating)),
        "positions that are many": lambda: Case(cnn(), images(8, size=2), given(accumulating)),
        "renorm": lambda: Case(
            surgery.convert(mlp(), "renorm", total_steps=100).apply(), vectors(8, size=8), given(accumulating)
        ),
        "small batches without accumulation": lambda: Case(mlp(), vectors(8, size=8), given(usual)),
        "a sharpness-aware step": lambda: Case(mlp(), vectors(8, size=8), given(sharpness_aware)),
        "steps by hand": lambda: Case(mlp(), vectors(8, size=8), given(of_its_own)),
    }


def test_it_names_both_sizes():
    findings = normsmith.check(mlp(), vectors(8, size=8), select=["NS303"], **given(accumulating))
    assert [(finding.path, finding.measured, finding.batches) for finding in findings] == [
        ("1", 8, 4),
        ("4", 8, 4),
    ]
    assert "those of 32" in findings[0].message
