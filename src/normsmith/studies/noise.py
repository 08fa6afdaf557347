"""Noise after norms: an edit that takes away the stillness that a batch norm is said to bring."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from normsmith.anatomy.batch_norms import is_batch_norm
from normsmith.studies.names import named
from normsmith.tasks import Task

_SHIFT, _SCALE, _JITTER = 0.5, 0.25, 0.1


@named("noise-after-norms")
def noise_after_norms(model: nn.Module, task: Task) -> nn.Module:
    """Have the output of every batch norm shifted and scaled in training, by other numbers at every step.

        y ← s·y + m,   m ~ U(μ − 0.1, μ + 0.1),   s ~ U(σ − 0.1, σ + 0.1)

    m and s are drawn for every value, μ ~ U(−0.5, 0.5) and σ ~ U(1, 1.25) for every channel and step, so that the
    distribution which the next layer receives changes at each step. Nothing is added in evaluation.

    Source: after Santurkar et al. 2018, section 2.
    """
    for module in model.modules():
        if is_batch_norm(module):
            module.register_forward_hook(_noisy)
    return model


def _noisy(norm: nn.Module, inputs: Any, y: Tensor) -> Tensor | None:
    if not norm.training:
        return None
    channel = (y.shape[1], *(1,) * (y.dim() - 2))
    shift = _SHIFT * _uniform(y, channel) + _JITTER * _uniform(y, y.shape)
    scale = 1 + _SCALE * (1 + _uniform(y, channel)) / 2 + _JITTER * _uniform(y, y.shape)
    return scale * y + shift


def _uniform(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Numbers between −1 and 1."""
    return 2 * torch.rand(shape, dtype=like.dtype, device=like.device) - 1
