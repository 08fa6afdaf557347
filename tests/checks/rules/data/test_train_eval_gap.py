"""NS403: worse in evaluation than in training on the same batches."""

from __future__ import annotations

import pytest
import torch
from tests.checks.networks import KINDS, Recurrent, cnn, images, mlp, sequences, trained, vectors
from tests.contracts.rule import Case, RuleContract
from torch import nn
from torch.nn import functional as F

import normsmith
from normsmith import surgery

LOSS = {"loss": F.cross_entropy}


def slow_average(model: nn.Module, batches: list) -> nn.Module:
    """Trained with a momentum so small that its running statistics are still those of a new layer."""
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.momentum = 1e-4
    return trained(model, [(x + 2, y) for x, y in batches], 15)


def rescaled() -> nn.Module:
    model = trained(Recurrent(), sequences(), 30)
    model.norm.running_mean.mul_(3).sub_(1)
    return model


def dropped() -> nn.Sequential:
    """Dropout before a norm, whose running variance is then that of training alone."""
    layers = list(mlp())
    return nn.Sequential(*layers[:3], nn.Dropout(0.8), nn.ReLU(), *layers[3:])


def sorted_vectors() -> list:
    """Batches of which each has another offset: what a sample is, its batch tells."""
    return [
        (x + 4 * torch.randn(8, generator=torch.Generator().manual_seed(i)), y)
        for i, (x, y) in enumerate(vectors())
    ]


class TestTrainEvalGap(RuleContract):
    code = "NS403"
    faulty = {
        "an average too slow, in an MLP": lambda: Case(
            slow_average(mlp(), vectors()), [(x + 2, y) for x, y in vectors()], LOSS
        ),
        "the same in a CNN": lambda: Case(
            slow_average(cnn(), images()), [(x + 2, y) for x, y in images()], LOSS
        ),
        "a recurrent network, rescaled": lambda: Case(rescaled(), sequences(), LOSS),
        "batches with an offset each": lambda: Case(
            trained(mlp(), sorted_vectors(), 30), sorted_vectors(), LOSS
        ),
    }
    healthy = {
        "trained to the end": lambda: Case(trained(mlp(), vectors(), 30), vectors(), LOSS),
        "dropout after the last norm": lambda: Case(
            trained(nn.Sequential(*mlp()[:6], nn.Dropout(0.5), nn.Linear(16, 2)), vectors(), 20),
            vectors(),
            LOSS,
        ),
        "renorm goes by its averages in training too": lambda: Case(
            surgery.convert(trained(mlp(), vectors(), 20), "renorm").apply(), vectors(), LOSS
        ),
        "frozen by freeze()": lambda: Case(
            surgery.freeze(rescaled(), "statistics").apply(), sequences(), LOSS
        ),
        "group norm has none": lambda: Case(
            nn.Sequential(nn.Linear(8, 8), nn.GroupNorm(2, 8), nn.Linear(8, 2)), vectors(), LOSS
        ),
    }


@pytest.mark.parametrize("kind", KINDS)
def test_healthy_networks_of_every_kind_are_clean(kind):
    make, data = KINDS[kind]
    torch.manual_seed(1)
    findings = normsmith.check(trained(make(), data(), 15, rate=0.02), data(), select=["NS403"], **LOSS)
    assert findings.clean == ("NS403",), findings


def test_dropout_before_a_norm_has_its_share():
    torch.manual_seed(0)
    model = trained(dropped(), vectors(), 40)
    findings = normsmith.check(model, vectors(), select=["NS403"], level="deep", **LOSS)
    if findings:
        assert findings[0].evidence["dropout_off"]["loss"]["mean"] < 0


def test_the_parts_add_up_to_the_whole():
    torch.manual_seed(0)
    batches = [(x + 2, y) for x, y in vectors()]
    findings = normsmith.check(
        slow_average(mlp(), vectors()), batches, level="deep", select=["NS403"], **LOSS
    )
    evidence = findings[0].evidence
    steps = [evidence["dropout_off"], *(step["in_order"] for step in evidence["steps"])]
    whole = evidence["evaluation"]["loss"]["mean"] - evidence["training"]["loss"]["mean"]
    assert sum(step["loss"]["mean"] for step in steps) == pytest.approx(whole)
    assert [step["layers"] for step in evidence["steps"]] == [["1"], ["4"]]
    assert "most comes from" in findings[0].message
    assert findings.to_dict()["findings"][0]["evidence"] == evidence


def test_the_cause_tells_stale_statistics_from_batches_that_tell():
    torch.manual_seed(0)
    stale = normsmith.check(rescaled(), sequences(), select=["NS403"], **LOSS)
    assert stale[0].fix.can_be_applied
    telling = normsmith.check(
        trained(mlp(), sorted_vectors(), 30), sorted_vectors(), select=["NS403"], **LOSS
    )
    assert not telling[0].fix.can_be_applied
    assert "sorted" in telling[0].cause


def test_a_loss_or_a_metric_is_needed_and_a_new_network_is_not_judged():
    assert "give loss=" in normsmith.check(rescaled(), sequences(), select=["NS403"]).not_run[0].reason
    assert "no batch" in normsmith.check(mlp(), vectors(), select=["NS403"], **LOSS).not_run[0].reason
    inputs = [x for x, _ in sequences()]
    assert "no targets" in normsmith.check(rescaled(), inputs, select=["NS403"], **LOSS).not_run[0].reason
