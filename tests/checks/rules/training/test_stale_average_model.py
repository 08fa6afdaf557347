"""NS308: averages of a model whose statistics do not fit."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from tests.checks.networks import Recurrent, cnn, images, mlp, sequences, trained, vectors
from tests.contracts.rule import Case, RuleContract
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, update_bn

import normsmith

VECTORS, SEQUENCES = vectors(), sequences()
IMAGES = [(x + 2, y) for x, y in images()]


def case(model: nn.Module, batches, ema: nn.Module) -> Case:
    return Case(model, batches, {"loss": F.cross_entropy, "ema": ema})


def forgotten() -> Case:
    """Parameters alone go to the copy, whose buffers are those of a new network."""
    copy = mlp()
    model = trained(mlp(), VECTORS)
    for mine, its in zip(copy.parameters(), model.parameters(), strict=True):
        mine.data.copy_(its.data)
    return case(model, VECTORS, copy)


def of_the_first_copy() -> Case:
    """A loop over parameters keeps the buffers of the moment at which the copy was made."""
    model = trained(cnn(), IMAGES[:1], 1)
    average = deepcopy(model)
    for _ in range(3):
        trained(model, IMAGES, 3)
        for mine, its in zip(average.parameters(), model.parameters(), strict=True):
            mine.data.lerp_(its.data, 0.5)
    return case(model, IMAGES, average)


def copied() -> Case:
    """A teacher that is far behind its student, whose buffers it gets."""
    model = trained(Recurrent(), SEQUENCES, 10)
    average = deepcopy(model)
    trained(model, SEQUENCES, 20, rate=0.05)
    for mine, its in zip(average.buffers(), model.buffers(), strict=True):
        mine.copy_(its)
    return case(model, SEQUENCES, average)


def recalibrated() -> Case:
    made = of_the_first_copy()
    update_bn([x for x, _ in IMAGES], made.given["ema"])
    return made


def slow(use_buffers: bool) -> Case:
    """An EMA whose buffers go along: averaged, or copied at the end."""
    model = trained(mlp(), VECTORS)
    average = AveragedModel(
        model, avg_fn=lambda mine, its, _: 0.9 * mine + 0.1 * its, use_buffers=use_buffers
    )
    for _ in range(8):
        trained(model, VECTORS[:2], 1, rate=1e-4)
        average.update_parameters(model)
    if not use_buffers:
        for mine, its in zip(average.module.buffers(), model.buffers(), strict=True):
            mine.copy_(its)
    return case(model, VECTORS, average)


def same() -> Case:
    model = trained(mlp(), VECTORS)
    return case(model, VECTORS, deepcopy(model))


class TestStaleAverageModel(RuleContract):
    code = "NS308"
    faulty = {
        "buffers of a new network": forgotten,
        "buffers of the first copy": of_the_first_copy,
        "buffers copied from far away": copied,
    }
    healthy = {
        "measured anew": recalibrated,
        "averaged buffers that fit": lambda: slow(True),
        "copied buffers that fit": lambda: slow(False),
        "a copy of the model": same,
        "an average without batch norms": lambda: case(mlp(), VECTORS, nn.Sequential(nn.Linear(8, 2))),
    }


@pytest.mark.parametrize(
    ("make", "says"), [(copied, "copied from the model"), (of_the_first_copy, "earlier time")]
)
def test_the_cause_is_told_by_the_buffers(make, says):
    torch.manual_seed(0)
    findings = make().check("NS308")
    assert says in findings[0].cause


def test_without_data_new_buffers_are_found_and_others_not_looked_at():
    made = forgotten()
    findings = normsmith.check(made.model, ema=made.given["ema"], select=["NS308"])
    assert [finding.path for finding in findings] == ["1", "4"]
    findings = normsmith.check(made.model, ema=deepcopy(made.model), select=["NS308"])
    assert [row.reason for row in findings.not_run] == ["give batches=..."]
