"""NS505: learning rates that do not fit the weights."""

from __future__ import annotations

import torch
from tests.checks.networks import Attention, Recurrent, cnn, images, mlp, sequences, trained, vectors
from tests.contracts.rule import Case, RuleContract
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR

import normsmith


def case(model: nn.Module, batches, rate: float, kind: str = "Adam", **options) -> Case:
    optimizer = getattr(torch.optim, kind)(model.parameters(), lr=rate, **options)
    return Case(model, batches, {"loss": F.cross_entropy, "optimizer": optimizer, "level": "deep"})


def warming_up() -> Case:
    made = case(mlp(), vectors(8), 0.01)
    LambdaLR(made.given["optimizer"], lambda step: max(step, 1e-6) / 1000)
    return made


def zero_head() -> nn.Module:
    model = mlp()
    nn.init.zeros_(model[6].weight)
    return model


class TestUpdateRatio(RuleContract):
    code = "NS505"
    faulty = {
        "too high for an MLP": lambda: case(mlp(), vectors(8), 10.0, "SGD", momentum=0.9),
        "too high for attention": lambda: case(Attention(), sequences(8), 1.0),
        "too low for a CNN": lambda: case(cnn(), images(8), 1e-6, "SGD"),
        "too low for a recurrent network": lambda: case(Recurrent(), sequences(8), 1e-7),
    }
    healthy = {
        "Adam": lambda: case(mlp(), vectors(8), 1e-3),
        "gradient descent": lambda: case(cnn(), images(8), 0.05, "SGD", momentum=0.9),
        "a warm-up": warming_up,
        "nothing left to learn": lambda: case(trained(cnn(), images()), images(), 1e-4, "SGD"),
        "a last layer that begins at 0": lambda: case(zero_head(), vectors(8), 1e-3),
    }


def test_it_names_the_group_and_the_rate():
    torch.manual_seed(0)
    model = mlp()
    groups = [{"params": model[:6].parameters(), "lr": 1e-7}, {"params": model[6].parameters()}]
    optimizer = torch.optim.SGD(groups, lr=0.01)
    given = {"loss": F.cross_entropy, "optimizer": optimizer, "level": "deep", "select": ["NS505"]}
    (finding,) = normsmith.check(model, vectors(8), **given)
    assert "of group 0" in finding.message
    assert finding.fix.code.startswith('optimizer.param_groups[0]["lr"] = ')
    assert finding.measured < finding.threshold == 1e-4
    assert optimizer.param_groups[0]["lr"] == 1e-7


def test_without_an_optimizer_there_is_nothing_to_judge():
    given = {"loss": F.cross_entropy, "level": "deep", "select": ["NS505"]}
    (row,) = normsmith.check(mlp(), vectors(8), **given).not_run
    assert row.reason == "give optimizer=..."
