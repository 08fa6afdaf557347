"""Saturation: how many of the values that leave an activation come from where it is nearly flat."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from normsmith.anatomy.forward import Forward, call, copied, unwrapped
from normsmith.anatomy.isolation import eager_forwards
from normsmith.anatomy.preserve import preserved
from normsmith.errors import InputError

FLAT: dict[type[nn.Module], Callable[[Tensor], Tensor]] = {
    nn.Sigmoid: lambda y: y * (1 - y) < 0.05,
    nn.Tanh: lambda y: 1 - y * y < 0.2,
    nn.ReLU: lambda y: y <= 0,
}
"""Where an activation's slope is below a fifth of its greatest value (ReLU: zero), from its output."""


def saturation(model: nn.Module, batches: Iterable[Any], forward: Forward = call) -> dict[str, float]:
    """The share of values at which each activation is nearly flat, so that little gradient passes through.

    Flat means that the slope is below a fifth of its greatest value: σ′ < 0.05 for a sigmoid, tanh′ < 0.2; for a ReLU
    that it is zero.

    Args:
        model: any module; it runs in evaluation mode and is as it was afterwards.
        batches: what `forward` takes, such as a DataLoader.
        forward: `forward(model, batch)`; by default the first part of a batch goes in.

    Returns the share, between 0 and 1, over all batches, for each `nn.Sigmoid`, `nn.Tanh` and `nn.ReLU` that was
    called, by its path. Activations that are called as functions are not seen.

    Raises InputError where there is no batch.

    Source: Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural networks", AISTATS
    2010.

    >>> saturation(nn.Sigmoid(), [torch.tensor([[0.0, 2.0], [3.0, -3.0]])])  # slopes 0.25, 0.105, 0.045, 0.045
    {'': 0.5}
    """
    model = unwrapped(model)
    paths = {module: path for path, module in model.named_modules() if type(module) in FLAT}
    flat: dict[str, int] = {}
    values: dict[str, int] = {}
    empty = True

    def look(module: nn.Module, inputs: Any, output: Tensor) -> None:
        path = paths[module]
        flat[path] = flat.get(path, 0) + int(FLAT[type(module)](output).sum())
        values[path] = values.get(path, 0) + output.numel()

    with preserved(model), eager_forwards(), torch.no_grad():
        model.eval()
        for module in paths:
            module.register_forward_hook(look)  # which `preserved` removes
        for batch in batches:
            empty = False
            forward(model, copied(batch))
    if empty:
        raise InputError("saturation: expected at least one batch, got none; an iterator can be used up")
    return {path: flat[path] / values[path] for path in paths.values() if values.get(path)}
