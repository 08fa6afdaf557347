"""Arguments of the batch norm op: checked, and brought into the shape that the backends expect."""

from __future__ import annotations

from torch import Tensor

from normsmith._choices import check_choice
from normsmith.errors import InputError
from normsmith.ops.activation import activation_named
from normsmith.ops.call import Call, computing_dtype
from normsmith.ops.masks import element_weights, valid_elements
from normsmith.ops.moments import ghost_groups
from normsmith.ops.resolve import Renorm
from normsmith.ops.sync import Sync


def check_batch(x: Tensor, residual: Tensor | None, **vectors: Tensor | None) -> None:
    """Refuse inputs that are not (batch, channels, *space) in floating point, or partners of another shape."""
    if not x.is_floating_point():
        raise InputError(
            f"batch norm: expected a floating-point input, got {x.dtype}; convert it, e.g. with .float()"
        )
    shape = x.shape
    if len(shape) < 2:
        raise InputError(
            f"batch norm: expected an input of shape (batch, channels, ...), got {tuple(shape)}; "
            "add the missing dimension, e.g. with .unsqueeze(0)"
        )
    want = shape[1:2]
    for name, vector in vectors.items():
        if vector is not None and vector.shape != want:
            raise InputError(
                f"batch norm: expected {name} of shape ({x.shape[1]},) for an input with {x.shape[1]} channels "
                f"(dimension 1 of {tuple(x.shape)}), got {tuple(vector.shape)}; channels come second"
            )
    if residual is not None and residual.shape != shape:
        raise InputError(f"residual: expected the input's shape {tuple(shape)}, got {tuple(residual.shape)}")


def make_call(
    x: Tensor,
    *,
    normalize_with: str = "batch",
    eps: float = 1e-5,
    renorm: Renorm | None = None,
    mask: Tensor | None = None,
    sample_weight: Tensor | None = None,
    ghost_batch_size: int | None = None,
    activation: str | None = None,
    on_small_batch: str = "error",
    sync: Sync | None = None,
) -> Call:
    """Check the arguments of `batch_norm` against its input, and put them into the form that backends take.

    Raises:
        InputError: an argument has the wrong dtype, shape or value, or the batch is too small.
    """
    if normalize_with not in ("batch", "running"):
        check_choice("normalize_with", normalize_with, ("batch", "running"))
    if on_small_batch not in ("error", "running"):
        check_choice("on_small_batch", on_small_batch, ("error", "running"))
    valid = None if mask is None else valid_elements(mask, x)
    act = None if activation is None else activation_named(activation)
    if normalize_with == "running":
        return Call(False, eps, None, valid, None, None, act)
    alone = sync is None or ghost_batch_size is not None
    if alone and on_small_batch == "error" and x.numel() == x.shape[1]:
        raise InputError(
            f"batch norm: expected more than one value per channel in training, got an input of shape "
            f'{tuple(x.shape)}; use larger batches (e.g. drop_last=True) or on_small_batch="running"'
        )
    if valid is None and sample_weight is None and ghost_batch_size is None:
        return Call(True, eps, renorm, None, None, None, act, sync)
    positions = x.shape[2:].numel()
    if ghost_batch_size is not None and ghost_batch_size * positions < 2:
        raise InputError(
            f"ghost_batch_size: expected ghost batches of more than one value per channel, got "
            f"{ghost_batch_size} rows × {positions} positions; make it at least 2"
        )
    return Call(
        True,
        eps,
        renorm,
        valid,
        element_weights(sample_weight, valid, x, computing_dtype(x)),
        ghost_groups(x.shape[0], positions, ghost_batch_size),
        act,
        None if alone else sync,
    )
