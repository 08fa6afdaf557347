"""NS204: no running statistics."""

from __future__ import annotations

from tests.checks.networks import Attention, cnn, mlp
from tests.contracts.rule import Case, RuleContract
from torch import nn

from normsmith import layers


def taken_away() -> nn.Module:
    """What test-time adaptation leaves: statistics set to None on a finished layer."""
    model = cnn()
    model[1].track_running_stats = False
    model[1].running_mean = model[1].running_var = None
    return model


def told() -> nn.Module:
    model = nn.Sequential(layers.BatchNorm1d(8, track_running_stats=False))
    model[0].freeze("batch")
    return model


def held() -> nn.Module:
    """`track_running_stats=False` on a finished layer: evaluation goes on by the statistics that are there."""
    model = mlp()
    model[1].track_running_stats = False
    return model


class TestBatchStatsInEval(RuleContract):
    code = "NS204"
    faulty = {
        "an MLP": lambda: Case(mlp(track_running_stats=False)),
        "a transformer block": lambda: Case(Attention(track_running_stats=False).eval()),
        "statistics taken away": lambda: Case(taken_away()),
        "a layer of normsmith": lambda: Case(nn.Sequential(layers.BatchNorm2d(3, track_running_stats=False))),
    }
    healthy = {
        "instance norm keeps none by its nature": lambda: Case(nn.Sequential(nn.InstanceNorm2d(3))),
        "statistics that are held": lambda: Case(held()),
        "told to go by the batch": lambda: Case(told()),
        "group norm with one group": lambda: Case(nn.Sequential(nn.GroupNorm(1, 4))),
    }
