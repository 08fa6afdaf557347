"""NS507: batch renorm whose corrections are cut off."""

from __future__ import annotations

import torch
from tests.checks.networks import Recurrent, cnn, images, mlp, sequences, vectors
from tests.contracts.rule import Case, RuleContract
from torch import nn
from torch.nn import functional as F

import normsmith
from normsmith import surgery
from normsmith.layers.schedules import constant

GIVEN = {"loss": F.cross_entropy, "level": "deep"}


def run(model: nn.Module, batches, schedule, forwards: int = 60, **options) -> Case:
    """A model with renorm in the place of its norms, and running statistics that fit."""
    model = surgery.convert(model, "renorm", schedule=schedule, **options).apply().train()
    with torch.no_grad():
        for number in range(forwards):
            model(batches[number % len(batches)][0])
    return Case(model, batches, GIVEN)


class TestRenormClipping(RuleContract):
    code = "NS507"
    faulty = {
        "an MLP": lambda: run(mlp(), vectors(16, size=8), constant(1.1, 0.1)),
        "a CNN": lambda: run(cnn(), images(16, size=2), constant(1.01, 0.02)),
        "a recurrent network": lambda: run(Recurrent(), sequences(16, size=4), constant(1.5, 0.2)),
    }
    healthy = {
        "wide bounds": lambda: run(mlp(), vectors(16, size=8), "constant"),
        "none": lambda: run(mlp(), vectors(16, size=8), "keras"),
        "bounds that are still closed": lambda: run(mlp(), vectors(16, size=8), "paper"),
        "batch norm on purpose": lambda: run(mlp(), vectors(16, size=8), constant(1.0, 0.0)),
        "new layers": lambda: run(mlp(), vectors(16, size=8), constant(1.1, 0.1), forwards=2),
        "large batches": lambda: run(cnn(), images(16, size=32), constant(1.5, 0.5)),
    }


def test_it_names_bounds_that_do():
    torch.manual_seed(0)
    made = run(mlp(), vectors(16, size=8), constant(1.1, 0.1))
    findings = made.check("NS507")
    assert [finding.path for finding in findings] == ["1", "4"]
    for finding in findings:
        scope = {"model": made.model, "normsmith": normsmith}
        exec(finding.fix.code, scope)
    with torch.no_grad():
        for x, _ in 4 * made.batches:  # the second norm's input is another now
            made.model(x)
    assert made.check("NS507").passed()
