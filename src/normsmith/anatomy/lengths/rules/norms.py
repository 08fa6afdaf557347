"""Norms of torch's functions: those within a position pass, those over positions are computed over the valid ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from normsmith.anatomy.lengths.layouts import LayoutError
from normsmith.anatomy.lengths.tracker import Call, Rule


def _batch_norm(call: Call) -> Any:
    """In evaluation a scale and shift; in training it would take padding into its statistics."""
    named = call.named(
        "input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps"
    )
    layout = call.tracker.of(named["input"])
    if not layout.is_plain(1):
        raise LayoutError("its channels are samples or lengths")
    if layout.is_padded and (named.get("training") or named.get("running_mean") is None):
        call.tracker.refuse(
            "torch's batch norm takes no mask, and would take padding into its statistics; convert the model first, "
            'normsmith.convert(model, to="batch")'
        )
    return call.tracker.set(call.run(), layout)


def _layer_norm(call: Call) -> Any:
    named = call.named("input", "normalized_shape", "weight", "bias", "eps")
    layout = call.tracker.of(named["input"])
    shape = named["normalized_shape"]
    if any(
        not layout.is_plain(-1 - i)
        for i in range(len(shape) if isinstance(shape, (tuple, list, torch.Size)) else 1)
    ):
        raise LayoutError("it normalises over samples or lengths, with weights that are made for one length")
    return call.tracker.set(call.run(), layout)


def _group_norm(call: Call) -> Any:
    named = call.named("input", "num_groups", "weight", "bias", "eps")
    return _over_valid(call, named, named["num_groups"])


def _instance_norm(call: Call) -> Any:
    named = call.named(
        "input", "running_mean", "running_var", "weight", "bias", "use_input_stats", "momentum", "eps"
    )
    if named.get("running_mean") is not None:
        raise LayoutError("an instance norm that keeps running statistics")
    return _over_valid(call, named, named["input"].shape[1])


def _over_valid(call: Call, named: dict[str, Any], groups: int) -> Any:
    """Statistics of each sample and group over its valid positions."""
    x, tracker = named["input"], call.tracker
    layout = tracker.of(x)
    mask = layout.valid(x.device)
    if mask is None or layout.dim_of_samples() != 0 or not layout.is_plain(1):
        if layout.dim_of_samples() != 0 or not layout.is_plain(1):
            raise LayoutError("it takes samples first and channels second")
        return tracker.set(call.run(), layout)
    dtype = torch.promote_types(x.dtype, torch.float32)
    values, of_groups = _in_groups(torch.where(mask, x, 0.0).to(dtype), groups), _in_groups(mask, 1)
    over = list(range(2, values.ndim))
    count = of_groups.expand(-1, -1, values.shape[2], *values.shape[3:]).sum(over, keepdim=True)
    mean = values.sum(over, keepdim=True) / count
    centred = torch.where(of_groups, values - mean, 0.0)
    variance = centred.square().sum(over, keepdim=True) / count
    y = (centred * (variance + named.get("eps", 1e-5)).rsqrt()).reshape(x.shape)
    shape = [-1 if i == 1 else 1 for i in range(x.ndim)]
    for name in ("weight", "bias"):
        if (parameter := named.get(name)) is not None:
            y = y * parameter.reshape(shape) if name == "weight" else y + parameter.reshape(shape)
    return tracker.set(y.to(x.dtype), layout)


def _in_groups(x: Tensor, groups: int) -> Tensor:
    """(batch, channels, *space) as (batch, groups, channels of a group, *space)."""
    return x.reshape(x.shape[0], groups, x.shape[1] // groups, *x.shape[2:])


RULES: dict[str, Rule] = {
    "batch_norm": _batch_norm, "layer_norm": _layer_norm, "rms_norm": _layer_norm, "group_norm": _group_norm,
    "instance_norm": _instance_norm,
}  # fmt: skip
