"""The norms in a model: ours, and those of others that keep running statistics."""

from __future__ import annotations

from torch import nn

from normsmith._torch import buffers_of
from normsmith.layers.models import check_model, layers_of
from normsmith.layers.statistics import StatisticsBase


def norms_of(model: nn.Module, caller: str) -> list[StatisticsBase]:
    """The norms of normsmith in a model, at least one; `caller` is named in the message otherwise.

    Raises:
        InputError: there is none, or `model` is none.
    """
    advice = "convert it first, e.g. with normsmith.surgery"
    return layers_of(model, StatisticsBase, caller, what="norms of normsmith", advice=advice)


def norms_of_others(model: nn.Module, caller: str) -> dict[str, nn.Module]:
    """The modules of other classes that hold a running mean, by their paths in the model.

    Raises:
        InputError: `model` is none; `caller` is named in the message.

    >>> list(norms_of_others(nn.Sequential(nn.BatchNorm1d(3), nn.LayerNorm(3)), "here"))
    ['0']
    """
    check_model(model, caller)
    return {
        path: module
        for path, module in model.named_modules()
        if not isinstance(module, StatisticsBase) and buffers_of(module).get("running_mean") is not None
    }
