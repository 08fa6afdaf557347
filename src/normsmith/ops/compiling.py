"""What the operators of compiled graphs share: which calls they cannot serve, how they pass groups and layouts."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import Parameter

from normsmith._torch import is_exporting, is_transformed
from normsmith.ops.call import Call
from normsmith.ops.moments import Groups


def unfit(x: Tensor, call: Call, dtypes: tuple[torch.dtype, ...]) -> str | None:
    """Why no operator can serve a call that is being compiled, None if one can.

    An exported program gets no operator, which would tie it to this package.
    """
    if is_transformed() or is_exporting():
        return "transforms and exporters see through every operation"
    if not call.by_batch:
        return "compilers fuse inference with its neighbours"
    if call.sync is not None:
        return "statistics cross ranks between two halves"
    if x.dtype not in dtypes or (type(x) is not Tensor and type(x) is not Parameter):
        names = ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        return f"knows plain tensors of {names}, got {type(x).__name__}, {x.dtype}"
    return None


def chunks(x: Tensor, call: Call) -> tuple[int, int]:
    """Ghost batches as two numbers, as an operator takes them: the rows of a group, and how many groups there are."""
    return (x.shape[0], 1) if call.groups is None else (call.groups.size, call.groups.number)


def groups_of(x: Tensor, size: int, number: int) -> Groups | None:
    """Ghost batches from the two numbers of `chunks`."""
    if number == 1:
        return None
    last = x.shape[0] - size * (number - 1)
    return Groups(size, number, 0) if last == size else Groups(size, number - 1, last)


def laid_out_like(y: Tensor, x: Tensor) -> Tensor:
    """The tensor with the strides that the compiler was told of, which are those of `empty_like(x)`."""
    if y.stride() == x.stride():
        return y
    wanted = torch.empty_like(x, dtype=y.dtype)
    return y if y.stride() == wanted.stride() else wanted.copy_(y)
