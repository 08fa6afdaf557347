"""Freeze the statistics of all norms in a model, and undo it."""

from __future__ import annotations

from typing import Literal, TypeVar

from torch import nn

from normsmith._text import some
from normsmith.errors import InputError
from normsmith.layers.of_model import norms_of, norms_of_others

_Model = TypeVar("_Model", bound=nn.Module)


def freeze(model: _Model, normalize_with: Literal["batch", "running"] = "running") -> _Model:
    """Pin the statistics of all norms in a model: no update, whatever `.train()` is called, until `unfreeze`.

    As `layer.freeze(normalize_with)` of each norm: "running" normalises by the running statistics in training too,
    "batch" by the batch's. γ and β go on training; set their `requires_grad` for that.

    Batch norms of torch and others follow every `.train()` and cannot be pinned, so a model that holds any is refused:
    `normsmith.surgery.freeze` makes them normsmith's, and freezes γ and β if asked to.

    Returns:
        The model.

    Raises:
        InputError: the model holds no norm of ours, or one of others that keeps running statistics, or one that has
            no running statistics to normalise with. Nothing is frozen then.

    >>> from normsmith.layers import BatchNorm1d
    >>> net = freeze(nn.Sequential(BatchNorm1d(3), nn.ReLU(), BatchNorm1d(3)))
    >>> [net.train()[place].policy.normalize_with for place in (0, 2)]
    ['running', 'running']
    """
    others = norms_of_others(model, "freeze")
    if others:
        named = some([f"{path or type(module).__name__}" for path, module in others.items()], most=5)
        raise InputError(
            f"freeze: expected only norms of normsmith, which can be pinned, got others at {named}, which follow every "
            ".train(); use normsmith.surgery.freeze(model, ...), which converts them, or give the part of the model "
            "that holds ours"
        )
    layers = norms_of(model, "freeze")
    before = [layer.pinned for layer in layers]
    try:
        for layer in layers:
            layer.freeze(normalize_with)
    except InputError:
        for layer, pinned in zip(layers, before, strict=True):
            layer.pinned = pinned
        raise
    return model


def unfreeze(model: _Model) -> _Model:
    """Undo `freeze`, and `layer.freeze()` of single norms: the statistics of all norms follow `training` again.

    Norms of other libraries are left as they are: `freeze` has not frozen them.

    Returns:
        The model.

    Raises:
        InputError: the model holds no norm of ours.

    >>> from normsmith.layers import BatchNorm1d
    >>> net = nn.Sequential(BatchNorm1d(3))
    >>> unfreeze(freeze(net))[0].policy.update_running
    True
    """
    for layer in norms_of(model, "unfreeze"):
        layer.unfreeze()
    return model
