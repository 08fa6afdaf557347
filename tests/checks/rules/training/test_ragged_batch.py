"""NS302: a small last batch."""

from __future__ import annotations

import torch
from tests.checks.networks import Recurrent, cnn, images, mlp, sequences, vectors
from tests.contracts.rule import Case, RuleContract
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import normsmith
from normsmith import surgery


def loader(samples: int, size: int, shape: tuple[int, ...] = (8,), **options) -> DataLoader:
    data = TensorDataset(torch.randn(samples, *shape), torch.zeros(samples).long())
    return DataLoader(data, size, **{"shuffle": True, **options})


def of_one_colour(samples: int, size: int) -> DataLoader:
    """Images of next to one colour each: many positions, which say next to the same."""
    colours = torch.randn(samples, 3, 1, 1) + 0.1 * torch.randn(samples, 3, 16, 16)
    return DataLoader(TensorDataset(colours, torch.zeros(samples).long()), size, shuffle=True)


class TestRaggedBatch(RuleContract):
    code = "NS302"
    faulty = {
        "one sample left in an MLP": lambda: Case(mlp(), loader(65, 32)),
        "one image left in a CNN": lambda: Case(cnn(), loader(33, 16, (3, 8, 8))),
        "five of 64 left in a recurrent network": lambda: Case(Recurrent(), loader(133, 64, (5, 8))),
        "a list whose last batch is small": lambda: Case(mlp(), [*vectors(4), *vectors(1, size=3)]),
        "few images left, each of next to one colour": lambda: Case(cnn(), of_one_colour(197, 32)),
        "ghost batches that leave 2 of 16": lambda: Case(
            surgery.convert(mlp(), "ghost", ghost_batch_size=15).apply(), vectors(4)
        ),
    }
    healthy = {
        "dropped": lambda: Case(mlp(), loader(65, 32, drop_last=True)),
        "a half batch left": lambda: Case(mlp(), loader(80, 32)),
        "few images left, with many positions": lambda: Case(cnn(), loader(35, 16, (3, 32, 32))),
        "validation in order": lambda: Case(mlp().eval(), loader(65, 32, shuffle=False)),
        "frozen norms": lambda: Case(surgery.freeze(mlp(), "statistics").apply(), loader(65, 32)),
        "no remainder": lambda: Case(Recurrent(), sequences(4)),
        "layer norm": lambda: Case(nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8)), loader(65, 32)),
    }


def test_what_training_refuses_is_an_error():
    one, three = (normsmith.check(mlp(), loader(32 + rest, 32), select=["NS302"])[0] for rest in (1, 3))
    assert (one.severity, one.measured) == ("error", 1)
    assert (three.severity, three.measured) == ("warning", 3)


def test_an_image_alone_is_a_warning():
    (finding,) = normsmith.check(cnn(), [*images(2), *images(1, size=1)], select=["NS302"])
    assert finding.severity == "warning"


def test_values_that_resemble_each_other_are_counted_for_what_they_are_worth():
    (finding,) = normsmith.check(cnn(), of_one_colour(197, 32), select=["NS302"])
    assert finding.measured < 16
    assert "5 samples of 32" in finding.message
    assert "independent" in finding.message
    few = [*images(2, size=32), *images(1, size=5)]  # two full batches do not tell
    assert normsmith.check(cnn(), few, select=["NS302"]).clean


def test_a_loader_that_does_not_tell_is_not_run():
    findings = normsmith.check(mlp(), iter(vectors(40)), select=["NS302"])
    assert "no DataLoader" in findings.not_run[0].reason
