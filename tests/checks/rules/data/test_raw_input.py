"""NS401: raw data at the first layer."""

from __future__ import annotations

import pytest
import torch
from tests.checks.networks import Recurrent, cnn, images, mlp, sequences, vectors
from tests.contracts.rule import Case, RuleContract
from torch import nn

import normsmith

SCALES = torch.tensor([1.0, 0.5, 2.0, 1.0, 1.5, 0.7, 1.0, 60.0])


class TestRawInput(RuleContract):
    code = "NS401"
    faulty = {
        "grey values up to 255": lambda: Case(cnn(), [(128 + 60 * x, y) for x, y in images(8)]),
        "a table with an income": lambda: Case(mlp(), [(x * SCALES, y) for x, y in vectors(8)]),
        "a signal in volts": lambda: Case(Recurrent(), [(1e-4 * x, y) for x, y in sequences(8)]),
        "one feature much larger than the others": lambda: Case(
            mlp(), [(x * SCALES / 20, y) for x, y in vectors(8)]
        ),
    }
    healthy = {
        "standardised": lambda: Case(mlp(), vectors(8)),
        "pixels from 0 to 1": lambda: Case(cnn(), [(torch.rand_like(x), y) for x, y in images(8)]),
        "a norm comes first": lambda: Case(
            nn.Sequential(normsmith.InputNorm(8).fit([100 * x for x, _ in vectors(8)]), mlp()),
            [(100 * x, y) for x, y in vectors(8)],
        ),
        "rare large counts among zeros": lambda: Case(mlp(), [((x > 2) * 100 * x, y) for x, y in vectors(8)]),
        "features of somewhat different scales": lambda: Case(
            mlp(), [(x * SCALES.clamp(max=3), y) for x, y in vectors(8)]
        ),
    }


@pytest.mark.parametrize("data", [vectors, images, sequences])
def test_standardised_data_are_clean(data):
    make = {vectors: mlp, images: cnn, sequences: Recurrent}[data]
    assert normsmith.check(make(), data(8), select=["NS401"]).clean == ("NS401",)
