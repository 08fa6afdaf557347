"""Whether tensors are like others that were met before, told by one look at all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_guards: Any = getattr(getattr(torch._C, "_dynamo", None), "guards", None)
_TensorGuards: Any = getattr(_guards, "TensorGuards", None)


def alike(*tensors: Tensor) -> Callable[..., bool]:
    """A function that says whether other tensors, as many, are like these strided ones, each like the one in its place.

    They are alike in class, dtype, device, shape, strides, `requires_grad`, and what torch would do with their memory:
    a negative bit, a tensor of zeros without memory, or one that stands for another in a transform, is unlike a plain
    one. Of anything that is no tensor it says False, and of one tensor that is given twice. Within another context
    (inference mode, autocast, a dispatch mode, a transform) it may say False of the very tensors. No tensor is kept
    alive.

    Needs `torch._C._dynamo.guards.TensorGuards`, by which the compiler looks at the inputs of its graphs; it takes a
    quarter of the time of asking for these properties in Python, as is done where it is missing.
    """
    if _TensorGuards is None:
        return _alike_in_python(*tensors)
    check: Callable[..., bool] = _TensorGuards(
        *tensors, dynamic_dims_sizes=None, dynamic_dims_strides=None
    ).check
    return check


def _alike_in_python(*tensors: Tensor) -> Callable[..., bool]:
    """`alike`, one property after the other."""
    kinds = [_kind_of(tensor) for tensor in tensors]

    def check(*others: Any) -> bool:
        if len({id(other) for other in others}) < len(kinds):
            return False
        pairs = zip(others, kinds, strict=True)
        return all(other.__class__ is kind[0] and _kind_of(other) == kind for other, kind in pairs)

    return check


def _kind_of(tensor: Tensor) -> tuple[Any, ...]:
    if tensor.is_nested or tensor.layout is not torch.strided:
        return type(tensor), tensor.layout, tensor.is_nested
    keys = torch._C._dispatch_keys(tensor).raw_repr()
    return (
        type(tensor),
        tensor.dtype,
        tensor.device,
        tensor.shape,
        tensor.stride(),
        tensor.requires_grad,
        keys,
    )


def is_as_stored(x: Tensor) -> bool:
    """Whether a tensor has memory that holds its numbers.

    It does not where the memory holds their negatives, or where there is none because all are 0; a copy by `clone` is
    as stored. Needs `Tensor._is_zerotensor`.
    """
    return not (x.is_neg() or x._is_zerotensor())
