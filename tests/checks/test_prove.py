"""Fixes are tried on a copy, on batches that they have not seen; the model stays as it was."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from tests.checks.networks import mlp, vectors
from torch import nn
from torch.nn import functional as F

import normsmith
from normsmith import surgery
from normsmith.checks.check import check
from normsmith.checks.context import Context
from normsmith.checks.finding import Finding, Fix
from normsmith.checks.prove import proved
from normsmith.errors import InputError


def stale(batches):
    """A trained network whose statistics are those of a new one."""
    torch.manual_seed(0)
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(4):
        for x, y in batches:
            optimizer.zero_grad()
            F.cross_entropy(model(3 * x + 2), y).backward()
            optimizer.step()
    for norm in (model[1], model[4]):
        norm.reset_running_stats()
    return model.eval()


@pytest.fixture(scope="module")
def case():
    batches = vectors()
    return stale(batches), [(3 * x + 2, y) for x, y in batches]


def accuracy(output, target):
    return float((output.argmax(1) == target).float().mean())


def test_a_proof_has_loss_and_metric_before_and_after(case):
    model, batches = case
    before = copy.deepcopy(model.state_dict())
    findings = check(model, batches, loss=F.cross_entropy, metric=accuracy, select=["NS405"], prove=True)
    proof = findings[0].proof
    assert proof.loss[1] < proof.loss[0] - 0.05
    assert proof.metric[1] > proof.metric[0]
    assert (proof.batches, proof.held_back) == (6, True)
    assert f"proof: {proof}" in str(findings)
    assert findings[0].to_dict()["proof"]["loss"] == list(proof.loss)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_numbers_are_those_of_the_held_back_batches(case):
    model, batches = case
    findings = check(model, batches, loss=F.cross_entropy, select=["NS405"], prove=True)
    fixed = surgery.recalibrate(copy.deepcopy(model), batches[:10]).plan.apply().eval()
    for network, said in zip((model, fixed), findings[0].proof.loss, strict=True):
        with torch.no_grad():
            losses = [float(F.cross_entropy(network(x), y)) for x, y in batches[10:]]
        assert said == pytest.approx(sum(losses) / len(losses), rel=1e-5)


def test_each_fix_is_tried_once(case):
    model, batches = case
    made = []

    def plan(network):
        made.append(network)
        return surgery.set_momentum(network, 0.01)

    fix = Fix("momentum", plan=plan)
    context = Context(model, batches, loss=F.cross_entropy)
    first, second = proved([Finding("1", "", "", fix), Finding("4", "", "", fix)], context)
    assert len(made) == 1
    assert made[0] is not model
    assert first.proof == second.proof
    assert first.proof.loss[0] == first.proof.loss[1]
    assert model[1].momentum == 0.1


def test_few_batches_are_not_held_back(case):
    model, batches = case
    (finding,) = proved(
        [Finding("1", "", "", Fix("m", plan=partial(surgery.set_momentum, momentum=0.01)))],
        Context(model, batches[:3], loss=F.cross_entropy),
    )
    assert not finding.proof.held_back
    assert "held back" not in str(finding.proof)


class Uncopied(nn.BatchNorm1d):
    def __deepcopy__(self, memo):
        raise RuntimeError("not me")


def raises(_):
    raise ValueError("no plan")


@pytest.mark.parametrize(
    ("model", "plan", "given", "why"),
    [
        (nn.Sequential(nn.BatchNorm1d(8)), raises, {"loss": F.cross_entropy}, "ValueError: no plan"),
        (nn.Sequential(Uncopied(8)), raises, {"loss": F.cross_entropy}, "RuntimeError: not me"),
        (nn.Sequential(nn.BatchNorm1d(8)), raises, {}, "give loss=... or metric=..."),
        (nn.Sequential(nn.BatchNorm1d(9)), raises, {"loss": F.cross_entropy}, "raised"),
    ],
)
def test_what_cannot_be_tried_says_why(model, plan, given, why):
    (finding,) = proved([Finding("0", "", "", Fix("x", plan=plan))], Context(model, vectors(), **given))
    assert why in finding.proof.failed
    assert str(finding.proof).startswith("not tried: ")


def test_without_batches_nothing_is_tried():
    (finding,) = proved(
        [Finding("0", "", "", Fix("x", plan=raises))], Context(nn.BatchNorm1d(2), loss=F.cross_entropy)
    )
    assert finding.proof.failed == "give batches=..."


def test_code_to_copy_has_no_proof(case):
    model, batches = case
    (finding,) = proved([Finding("1", "", "", Fix("do it"))], Context(model, batches, loss=F.cross_entropy))
    assert finding.proof is None


def test_it_needs_data():
    with pytest.raises(InputError, match="level fast"):
        normsmith.check(mlp(), vectors(), level="fast", prove=True)
