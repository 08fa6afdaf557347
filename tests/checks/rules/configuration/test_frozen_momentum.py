"""NS209: a momentum of 0 or 1."""

from __future__ import annotations

from tests.checks.networks import Recurrent, Residual, cnn, mlp, trained, vectors
from tests.contracts.rule import Case, RuleContract
from torch import nn

import normsmith
from normsmith import surgery


def pretrained() -> nn.Module:
    """A network whose statistics were measured, and are then held by a momentum of 0."""
    model = surgery.recalibrate(trained(mlp(), vectors(4), 4), vectors(8)).apply()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.momentum = 0.0
    return model


def forgotten() -> nn.Module:
    """The same network, trained on without a thought of its momentum."""
    return trained(pretrained(), vectors(4), 8, rate=0.05)


class TestFrozenMomentum(RuleContract):
    code = "NS209"
    faulty = {
        "0 in a CNN": lambda: Case(cnn(momentum=0.0)),
        "0 in an MLP that was trained with it": lambda: Case(trained(mlp(momentum=0), vectors(4))),
        "1 in a recurrent network": lambda: Case(Recurrent(momentum=1.0)),
        "1 in a trained MLP": lambda: Case(trained(mlp(momentum=1), vectors(4))),
        "0 for a while, and forgotten": lambda: Case(forgotten(), vectors(8)),
    }
    healthy = {
        "0 after the statistics were measured is a freeze": lambda: Case(pretrained()),
        "the same, and the statistics are those of the data": lambda: Case(pretrained(), vectors(8)),
        "0 in layers that freeze() holds": lambda: Case(
            surgery.freeze(cnn(momentum=0.0), "statistics").apply()
        ),
        "almost 0": lambda: Case(Residual(momentum=1e-3)),
        "no running statistics to move": lambda: Case(mlp(momentum=0.0, track_running_stats=False)),
    }


def test_it_says_which_end():
    low, high = (normsmith.check(nn.Sequential(nn.BatchNorm1d(2, momentum=m)))[0] for m in (0, 1))
    assert "never move" in low.message
    assert "last batch" in high.message
