"""Parameters that a forward did not use, made part of it with gradient zero, where several ranks train together."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _TakesPart(torch.autograd.Function):
    """The first argument as it is; all others have gradient zero."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, *_: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, *incoming: Any) -> tuple[Tensor, ...]:
        return incoming[0], *(torch.zeros_like(parameter) for parameter in ctx.saved_tensors)


def take_part(x: Tensor, *parameters: Tensor) -> Tensor:
    """The input of a layer, by way of which parameters are part of its output, with gradient zero.

    DistributedDataParallel waits for a gradient of every parameter; one that took no part would be an error at the
    next forward. It is the input, and not the output, since what follows a layer may overwrite its output.

    >>> unused = torch.ones(3, requires_grad=True)
    >>> take_part(torch.ones(2), unused).sum().backward()
    >>> unused.grad
    tensor([0., 0., 0.])
    """
    if not parameters:
        return x
    y: Tensor = _TakesPart.apply(x, *parameters)  # type: ignore[no-untyped-call]
    return y
