"""Variance shift: how far the running variances are from those of the inputs that come in evaluation."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from normsmith.anatomy.forward import Forward, call, unwrapped
from normsmith.anatomy.select import Only
from normsmith.errors import InputError
from normsmith.measure.layers import measurable_layers
from normsmith.measure.meter import has_variance
from normsmith.measure.passes import Passes


def variance_shift(
    model: nn.Module, batches: Iterable[Any], forward: Forward = call, only: Only = None
) -> dict[str, float]:
    """The variance shift of each batch norm: 1 where its running variance is that of its input in evaluation.

        shift = mean over channels of max(r / v, v / r),   r = running variance + epsilon,  v = variance + epsilon

    Dropout before a norm makes its input vary more in training than in evaluation: the running variance is that of
    training, and the output in evaluation is too small. In the same way a norm is off whose running statistics lag
    behind the weights, or come from other data.

    Args:
        model: any module; it runs in evaluation mode and is as it was afterwards.
        batches: what `forward` takes, such as a DataLoader. The variance of a channel is that of all batches together.
        forward: `forward(model, batch)`; by default the first part of a batch goes in.
        only: patterns of paths such as "layer1.*", or a function (path, module) → bool.

    Returns the shift of each layer that keeps running statistics by its path, in the order of the model's modules;
    layers that no batch reached are left out.

    Raises InputError where there is no batch.

    Source: Li, Chen, Hu and Yang, "Understanding the Disharmony between Dropout and Batch Normalization by Variance
    Shift", CVPR 2019.

    >>> norm = nn.BatchNorm1d(1, eps=0.0)
    >>> _ = norm.running_var.fill_(2.0)
    >>> variance_shift(norm, [torch.tensor([[1.0], [3.0]]), torch.tensor([[1.0], [3.0]])])  # variance 4 / 3
    {'': 1.5}
    """
    model = unwrapped(model)
    layers = measurable_layers(model, only).layers
    passes = Passes(model, layers, forward)
    with passes.borrowed_model():
        result = passes.run(batches)
    if not result.samples:
        raise InputError("variance_shift: expected at least one batch, got none; an iterator can be used up")
    shifts: dict[str, float] = {}
    for layer, moments in zip(layers, result.moments, strict=True):
        if moments is not None and has_variance(moments):
            running = layer.statistics().var.cpu().double() + layer.epsilon
            ratio = running / (moments.unbiased_variance[0] + layer.epsilon)
            shifts[layer.path] = torch.maximum(ratio, 1 / ratio).mean().item()
    return shifts
