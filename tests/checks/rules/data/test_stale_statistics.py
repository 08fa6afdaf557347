"""NS404: running statistics that are not the data's, where that costs something."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from tests.checks.networks import (
    KINDS,
    Recurrent,
    cnn,
    images,
    mlp,
    sequences,
    trained,
    vectors,
)  # fmt: skip
from tests.contracts.rule import Case, RuleContract
from torch import nn
from torch.nn import functional as F

import normsmith
from normsmith import surgery

LOSS = {"loss": F.cross_entropy}


def averaged() -> nn.Module:
    """A copy whose parameters follow those of the training, and whose statistics are from the first epoch."""
    model = trained(cnn(), images(8), 1)
    copy = deepcopy(model)
    trained(model, images(8), 30, rate=0.03)
    for mine, its in zip(copy.parameters(), model.parameters(), strict=True):
        mine.data.copy_(its.data)
    return copy


def left_behind() -> nn.Module:
    """Statistics of an early time of training, held by a tiny momentum."""
    model = mlp(momentum=1e-4)
    with torch.no_grad():
        model(10 + 5 * torch.randn(64, 8))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean.add_(1.5)
    return trained(model, vectors(), 20)


def rescaled() -> nn.Module:
    """The layer before a norm was rescaled, as a pruning or quantisation does, and the norm does not know."""
    model = trained(Recurrent(), sequences(), 30)
    model.norm.running_mean.mul_(3).sub_(1)
    return model


def backbone() -> nn.Module:
    """A body that is frozen on purpose, on data with another offset."""
    model = trained(mlp(), vectors())
    for module in model[:-1]:
        module.requires_grad_(False)
    return model.train()


def moved(model: nn.Module) -> nn.Module:
    """Statistics that are off by half a standard deviation, before a head that does not look at them."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean.add_(0.5 * module.running_var.sqrt())
    nn.init.zeros_(model[-1].weight)
    return model


class TestStaleStatistics(RuleContract):
    code = "NS404"
    faulty = {
        "averaged weights": lambda: Case(averaged(), images(16), LOSS),
        "a momentum too small to follow": lambda: Case(left_behind(), vectors(), LOSS),
        "a recurrent network, rescaled": lambda: Case(rescaled(), sequences(), LOSS),
        "other data": lambda: Case(trained(mlp(), vectors(), 20), [(x + 2, y) for x, y in vectors()], LOSS),
        "outputs tell without a loss": lambda: Case(left_behind(), [x for x, _ in vectors()]),
    }
    healthy = {
        "trained to the end": lambda: Case(trained(mlp(), vectors(), 30), vectors(), LOSS),
        "off, but it costs nothing": lambda: Case(moved(trained(mlp(), vectors())), vectors(), LOSS),
        "a body that is frozen on purpose": lambda: Case(
            backbone(), [(x + 2, y) for x, y in vectors()], LOSS
        ),
        "frozen by freeze()": lambda: Case(
            surgery.freeze(rescaled(), "statistics").apply(), sequences(), LOSS
        ),
        "group norm has none": lambda: Case(
            nn.Sequential(nn.Linear(8, 8), nn.GroupNorm(2, 8)), vectors(), LOSS
        ),
    }


@pytest.mark.parametrize("kind", KINDS)
def test_healthy_networks_of_every_kind_are_clean(kind):
    make, data = KINDS[kind]
    for seed in range(3):
        torch.manual_seed(seed)
        model, batches = trained(make(), data(), 15, rate=0.02), data()
        findings = normsmith.check(model, batches, loss=F.cross_entropy, ignore=["NS101", "NS105"])
        assert not findings.found, findings
        assert normsmith.check(model, batches, select=["NS404"]).passed()


def test_the_metric_is_better_afterwards():
    model, batches = left_behind(), vectors()
    held_back = vectors(8, seed=5)

    def right(model: nn.Module) -> float:
        with torch.no_grad():
            hits = [(model.eval()(x).argmax(1) == y).float().mean() for x, y in held_back]
        return float(torch.stack(hits).mean())

    before = right(model)
    model = normsmith.check(model, batches, loss=F.cross_entropy, select=["NS404"]).fix(model)
    assert right(model) > before + 0.03


def test_a_new_network_is_not_judged():
    findings = normsmith.check(mlp(), vectors(), loss=F.cross_entropy, select=["NS404"])
    assert "no batch has moved" in findings.not_run[0].reason


def test_too_few_batches_are_not_judged():
    findings = normsmith.check(left_behind(), vectors(2), select=["NS404"])
    assert "at least 3 batches" in findings.not_run[0].reason


def test_an_averaged_copy_without_gradients_is_looked_at():
    model = deepcopy(averaged()).requires_grad_(False)
    assert normsmith.check(model, images(16), loss=F.cross_entropy, select=["NS404"]).codes == ("NS404",)


def clients() -> tuple[list[nn.Module], list[surgery.Recalibration], list]:
    """Three copies of a network with the statistics of data of their own, what was measured, and batches of all."""
    each = [[(x + 2 * number, y) for x, y in vectors(8, seed=number)] for number in range(3)]
    mixed = [
        tuple(torch.cat(parts) for parts in zip(*batches, strict=True)) for batches in zip(*each, strict=True)
    ]
    model = trained(mlp(), mixed, 10)
    copies = [deepcopy(model) for _ in each]
    measured = [surgery.recalibrate(copy, batches) for copy, batches in zip(copies, each, strict=True)]
    for result in measured:
        result.apply()
    return copies, measured, mixed


def test_variances_that_were_averaged_over_models_are_told_and_merging_keeps_what_they_lack():
    copies, measured, mixed = clients()
    merged = surgery.merge_statistics(copies[0], copies[1:], counts=measured).apply(copy=True)
    for mine, *others in zip(*(copy.buffers() for copy in copies), strict=True):
        if mine.is_floating_point():
            mine.copy_(torch.stack([mine, *others]).mean(0))
    told = {
        finding.path: finding.cause for finding in normsmith.check(copies[0], mixed, **LOSS, select=["NS404"])
    }
    assert "merge_statistics" in told["1"]
    assert "1" not in [finding.path for finding in normsmith.check(merged, mixed, **LOSS, select=["NS404"])]
    causes = [
        finding.cause for finding in normsmith.check(left_behind(), vectors(), **LOSS, select=["NS404"])
    ]
    assert not any("merge_statistics" in cause for cause in causes)
