"""NS410: statistics that no data can have."""

from __future__ import annotations

from copy import deepcopy

import torch
from tests.checks.networks import Recurrent, Residual, cnn, images, mlp, sequences, trained, vectors
from tests.contracts.rule import Case, RuleContract
from torch import nn

import normsmith


def after_a_bad_batch() -> nn.Module:
    model = trained(mlp(), vectors(4))
    model(torch.full((32, 8), float("nan")))
    return model


def overflown() -> nn.Module:
    model = Recurrent()
    model.norm.running_var[3] = torch.inf
    return model


def badly_merged() -> nn.Module:
    """Statistics extrapolated beyond two checkpoints, as task vectors do with weights."""
    one, two = trained(cnn(), images(4)), trained(cnn(), images(4, seed=1))
    for mine, its in zip(one.buffers(), deepcopy(two).buffers(), strict=True):
        if mine.is_floating_point():
            mine.copy_(mine + 12 * (mine - its))
    return one


def constant_channel() -> nn.Module:
    model = mlp()
    model[1].running_var.zero_()
    return model


class TestPoisonedStatistics(RuleContract):
    code = "NS410"
    faulty = {
        "one batch with NaN": lambda: Case(after_a_bad_batch(), vectors()),
        "one infinite variance": lambda: Case(overflown(), sequences()),
        "a merge that left variances below zero": lambda: Case(badly_merged(), images()),
        "without data the fix is a hint": lambda: Case(after_a_bad_batch()),
    }
    healthy = {
        "large but finite": lambda: Case(trained(mlp(), [(1e6 * x, y) for x, y in vectors(2)])),
        "a variance of 0, which eps covers": lambda: Case(constant_channel()),
        "no values yet": lambda: Case(nn.Sequential(nn.LazyBatchNorm1d())),
        "no statistics": lambda: Case(Residual(track_running_stats=False)),
    }


def test_a_frozen_layer_is_not_recalibrated():
    model = overflown().train()
    model.norm.eval()
    (finding,) = normsmith.check(model, sequences(4), select=["NS410"])
    assert not finding.fix.can_be_applied
