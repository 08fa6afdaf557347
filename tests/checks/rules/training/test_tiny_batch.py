"""NS301: too few values per channel."""

from __future__ import annotations

import pytest
import torch
from tests.checks.networks import Attention, Recurrent, cnn, images, mlp, sequences, vectors
from tests.contracts.rule import Case, RuleContract
from torch import nn

import normsmith
from normsmith import surgery


def smooth(count: int = 8, size: int = 2) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Images whose pixels are alike, as those of photographs are: one random level each, and a little noise."""
    draw = torch.Generator().manual_seed(0)
    levels = torch.randn(count, size, 3, 1, 1, generator=draw)
    noise = 0.1 * torch.randn(count, size, 3, 8, 8, generator=draw)
    return [(x, torch.zeros(size).long()) for x in levels + noise]


def pooled() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(8)
    )


class TestTinyBatch(RuleContract):
    code = "NS301"
    faulty = {
        "an MLP with batches of 4": lambda: Case(mlp(), vectors(8, size=4)),
        "a norm after a global pooling, batches of 2": lambda: Case(pooled(), images(8, size=2)),
        "a recurrent network with batches of 8": lambda: Case(Recurrent(), sequences(8, size=8)),
        "images whose pixels are alike, batches of 2": lambda: Case(cnn(), smooth()),
        "ghost batches of 4": lambda: Case(
            surgery.convert(mlp(), "ghost", ghost_batch_size=4).apply(), vectors(8)
        ),
    }
    healthy = {
        "batches of 2 with many positions that differ": lambda: Case(cnn(), images(8, size=2, side=32)),
        "a norm after a global pooling, batches of 64": lambda: Case(pooled(), images(4, size=64)),
        "renorm": lambda: Case(surgery.convert(mlp(), "renorm").apply(), vectors(8, size=4)),
        "frozen": lambda: Case(surgery.freeze(mlp(), "statistics").apply(), vectors(8, size=4)),
        "group norm with one group": lambda: Case(
            nn.Sequential(nn.Linear(8, 8), nn.GroupNorm(1, 8)), vectors(8, size=2)
        ),
        "steps of sequences are positions": lambda: Case(Attention(), sequences(8, size=4)),
        "synchronised with devices that are not here": lambda: Case(
            nn.SyncBatchNorm.convert_sync_batchnorm(mlp()).eval(), vectors(8, size=4)
        ),
    }


@pytest.mark.parametrize(("size", "severity"), [(1, "error"), (2, "warning"), (15, "warning")])
def test_a_single_value_is_an_error(size, severity):
    findings = normsmith.check(mlp(), vectors(4, size=size), select=["NS301"])
    assert {finding.severity for finding in findings} == {severity}
    assert {finding.measured for finding in findings} == {size}


def test_sixteen_values_are_enough():
    assert normsmith.check(mlp(), vectors(4, size=16), select=["NS301"]).passed()


def test_pixels_that_are_alike_are_worth_little():
    findings = normsmith.check(cnn(), smooth(), select=["NS301"])
    assert findings[0].measured < 6  # two images in each batch
