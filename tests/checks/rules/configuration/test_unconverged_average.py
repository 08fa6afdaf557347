"""NS202: running statistics that are partly still those of a new layer."""

from __future__ import annotations

import pytest
import torch
from tests.checks.networks import Batches, Recurrent, cnn, images, mlp, sequences, trained, vectors
from tests.contracts.rule import Case, RuleContract
from torch import nn
from torch.nn import functional as F

import normsmith

LOSS = {"loss": F.cross_entropy}


def far(batches: Batches, scale: float = 10.0) -> Batches:
    """The same batches far from the mean 0 and variance 1 of new statistics."""
    return [(scale * x + scale, y) for x, y in batches]


def short(momentum: float = 0.01) -> nn.Module:
    return trained(mlp(momentum=momentum), far(vectors()), 1)


def loaded() -> nn.Module:
    """Statistics that were measured, whose counter began anew, as in checkpoints without it."""
    model = trained(mlp(), vectors(), 20)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.num_batches_tracked.fill_(3)
    return model


def frozen() -> nn.Module:
    model = short().train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.eval()
    return model


class TestUnconvergedAverage(RuleContract):
    code = "NS202"
    faulty = {
        "an MLP after one epoch, momentum 0.01": lambda: Case(short(), far(vectors()), LOSS),
        "a CNN with momentum 0.001": lambda: Case(
            trained(cnn(momentum=0.001), far(images(size=64)), 4), far(images(size=64)), LOSS
        ),
        "a recurrent network with 0.001, without a loss": lambda: Case(
            trained(Recurrent(momentum=0.001), sequences(), 3), [x for x, _ in sequences()]
        ),
        "without batches the counter tells": lambda: Case(short()),
        "a norm without γ and β": lambda: Case(
            trained(mlp(momentum=0.01, affine=False), far(vectors()), 1), far(vectors()), LOSS
        ),
    }
    healthy = {
        "long enough": lambda: Case(trained(mlp(), vectors(), 10), vectors(), LOSS),
        "a detector's 0.03, long enough": lambda: Case(
            trained(cnn(momentum=0.03), images(), 10), images(), LOSS
        ),
        "the plain average": lambda: Case(trained(mlp(momentum=None), far(vectors()), 1)),
        "a new network": lambda: Case(mlp(momentum=0.01), far(vectors()), LOSS),
        "the counter began anew, the statistics did not": lambda: Case(loaded(), vectors(), LOSS),
        "the same without batches": lambda: Case(loaded()),
        "frozen norms": lambda: Case(frozen(), far(vectors()), LOSS),
    }


def test_it_says_how_much_is_left_of_the_start():
    findings = normsmith.check(short(), select=["NS202"])
    assert findings[0].measured == pytest.approx(0.99**16)
    assert "16 batches" in findings[0].message


def test_the_loss_in_evaluation_is_better_afterwards():
    model, held_back = short(), far(vectors(8, seed=5))

    def loss(model: nn.Module) -> float:
        with torch.no_grad():
            return float(torch.stack([F.cross_entropy(model.eval()(x), y) for x, y in held_back]).mean())

    before = loss(model)
    model = normsmith.check(model, far(vectors()), select=["NS202"], **LOSS).fix(model)
    assert loss(model) < before - 0.05
