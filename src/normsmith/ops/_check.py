"""Arguments of the batch norm op: checked, and brought into the shape that the backends expect."""

from __future__ import annotations

import torch
from torch import Tensor

from normsmith.errors import InputError


def check_batch(x: Tensor, vectors: dict[str, Tensor | None]) -> None:
    """Refuse inputs that are not (batch, channels, *space) in floating point, or vectors of another length."""
    if not x.is_floating_point():
        raise InputError(
            f"batch norm: expected a floating-point input, got {x.dtype}; convert it, e.g. with .float()"
        )
    if x.ndim < 2:
        raise InputError(
            f"batch norm: expected an input of shape (batch, channels, ...), got {tuple(x.shape)}; "
            "add the missing dimension, e.g. with .unsqueeze(0)"
        )
    for name, vector in vectors.items():
        if vector is not None and vector.shape != (x.shape[1],):
            raise InputError(
                f"batch norm: expected {name} of shape ({x.shape[1]},) for an input with {x.shape[1]} channels "
                f"(dimension 1 of {tuple(x.shape)}), got {tuple(vector.shape)}; channels come second"
            )


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
    if x.device.type == "cpu" and _may_look() and not bool((weight >= 0).all()):
        raise InputError(
            f"sample_weight: expected weights ≥ 0, got a smallest value of {weight.min().item():g}; "
            "correct the weights, or leave elements out with a mask"
        )
    weight = weight.clamp(min=0.0)
    return weight if valid is None else torch.where(valid, weight, 0.0)


def _may_look() -> bool:
    return not (torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active())


def _per_element(name: str, value: Tensor, x: Tensor) -> Tensor:
    shape = (x.shape[0], *x.shape[2:])
    if value.ndim != len(shape) or any(
        have not in (1, want) for have, want in zip(value.shape, shape, strict=True)
    ):
        raise InputError(
            f"{name}: expected shape {shape}, that of the input {tuple(x.shape)} without its channels (or 1 where "
            f"it is the same for all), got {tuple(value.shape)}"
        )
    return value.unsqueeze(1)
