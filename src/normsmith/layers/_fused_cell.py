"""Recurrences whose norms are constants for now, run by torch's own fused layers.

Where only W_x·x is normalised, and by running statistics, BN(W_x·x) + b is W'·x + b' with other weights: then the cell
is an LSTM or a GRU of torch, and one call computes all of its steps. The other weights are computed anew in each
forward, which takes little beside the recurrence, so that nothing can be out of date, and gradients reach γ.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from normsmith._torch import forward_hooks_of, forward_pre_hooks_of
from normsmith.layers._step_norm import SequenceNorm
from normsmith.ops.prepared import is_plain, nothing_intervenes

_LARGEST_OFFSET = 16.0
"""Means are folded up to so many standard deviations, times γ: what they add, b' takes away, which costs digits."""


class Weights(NamedTuple):
    """W' and b' of a cell of torch."""

    weight: Tensor
    bias: Tensor


def folded(x: Tensor, weight: Tensor, bias: Tensor | None, norm: SequenceNorm) -> Weights | None:
    """W' and b' such that W'·x + b' is BN(W·x) + b; None where the norm is no constant, or a fold would lose digits.

    The result is that of the layers one by one to rounding. Where anything looks on (hooks, modes, transforms,
    compilers, autocast, a forced backend) they are called one by one.
    """
    mean, var = norm.running_mean, norm.running_var
    if mean is None or var is None or not _is_constant(norm, x):
        return None
    tensors = (weight, norm.weight, mean, var)
    if any(each.dtype != x.dtype or each.device != x.device for each in tensors):
        return None
    scale = norm.weight * (var + norm.epsilon).rsqrt()
    offset = mean * scale
    if not float(offset.detach().abs().max()) <= _LARGEST_OFFSET:
        return None
    return Weights(weight * scale.unsqueeze(1), -offset if bias is None else bias - offset)


def _is_constant(norm: SequenceNorm, x: Tensor) -> bool:
    """Whether running statistics normalise, and nothing looks on."""
    if norm.policy.normalize_with == "batch" or torch.compiler.is_compiling():
        return False
    if not (is_plain(x) and nothing_intervenes()) or torch.is_autocast_enabled(x.device.type):
        return False
    hooks = (forward_hooks_of(norm), forward_pre_hooks_of(norm))
    return x.dtype in (torch.float32, torch.float64) and not any(hooks)
