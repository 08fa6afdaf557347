"""Masks and sample weights: which elements of a batch count, and how much. An element is a sample at a position.

Layers, and passes that measure a model, read masks as the op does.
"""

from __future__ import annotations

import torch
from torch import Tensor

from normsmith.errors import InputError
from normsmith.ops.call import eager


def valid_elements(mask: Tensor | None, x: Tensor) -> Tensor | None:
    """The mask as a bool tensor of shape (batch, 1, *space), broadcastable against x; True is valid."""
    if mask is None:
        return None
    if mask.is_floating_point() or mask.is_complex():
        raise InputError(
            f"mask: expected bool or 0/1 integers, True or 1 = valid, got {mask.dtype}; "
            "note that torch's key_padding_mask means the inverse"
        )
    return _per_element("mask", mask.to(device=x.device, dtype=torch.bool), x)


def element_weights(
    weight: Tensor | None, valid: Tensor | None, x: Tensor, dtype: torch.dtype
) -> Tensor | None:
    """How much each element counts, mask × sample weight; None: all alike.

    Weights must not be negative: an error on the CPU; elsewhere, where looking would make the host wait for the
    device, and in compiled graphs a negative weight counts as 0.
    """
    if weight is None:
        return None if valid is None else valid.to(dtype)
    if weight.ndim == 1 and x.ndim > 2:
        weight = weight[(...,) + (None,) * (x.ndim - 2)]
    weight = _per_element("sample_weight", weight.detach().to(device=x.device, dtype=dtype), x)
    if x.device.type == "cpu" and eager() and not bool((weight >= 0).all()):
        raise InputError(
            f"sample_weight: expected weights ≥ 0, got a smallest value of {weight.min().item():g}; "
            "correct the weights, or leave elements out with a mask"
        )
    weight = weight.clamp(min=0.0)
    return weight if valid is None else torch.where(valid, weight, 0.0)


def _per_element(name: str, value: Tensor, x: Tensor) -> Tensor:
    """The value with a dimension of 1 in place of the channels; refused where it has not the shape of elements."""
    shape = (x.shape[0], *x.shape[2:])
    if value.ndim != len(shape) or any(
        have not in (1, want) for have, want in zip(value.shape, shape, strict=True)
    ):
        raise InputError(
            f"{name}: expected shape {shape}, that of the input {tuple(x.shape)} without its channels (or 1 where "
            f"it is the same for all), got {tuple(value.shape)}"
        )
    return value.unsqueeze(1)
