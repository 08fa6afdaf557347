"""The backward on the CPU: its gradients allocated, its argument block filled, its kernel run."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from normsmith.ops.call import Call
from normsmith.ops.cpu import memory
from normsmith.ops.cpu.across_ranks import settle_gradient_across
from normsmith.ops.cpu.calls import ALL, batch_and_block, run
from normsmith.ops.cpu.forward import CPU, RELU, apply, laid_out_like
from normsmith.ops.cpu.kernels.arguments import APPLY, MEASURE, SETTLE
from normsmith.ops.cpu.saved import Packed
from normsmith.ops.resolve import Gradients


def differentiate(
    g: Tensor, x: Tensor, residual: Tensor | None, kept: Packed, call: Call, wants_x: bool
) -> tuple[Tensor | None, Tensor | None, Gradients]:
    """Compute the sums of the gradient, dγ, dβ and dx, in one trip where the cache holds a channel."""
    x, block = batch_and_block(x, kept.groups)
    relu = call.activation is RELU
    if call.activation is not None and not relu:
        pre_activation = apply(block, x, residual, kept, False, APPLY)
        g = call.activation.backward(g.to(pre_activation.dtype), pre_activation)
    g = laid_out_like("gradient", g, x)
    work, channels = block.work, x.shape[1]
    dgamma, dbeta = (torch.empty(channels, dtype=work, device=CPU) for _ in range(2))
    block.set_backward(g, x, kept, dgamma, dbeta, relu)
    dx, dresidual = None, None
    if wants_x:
        dx, written = memory.like(x), None
        if residual is not None:
            dresidual = g
            if relu or kept.code is not None:
                dresidual = written = memory.like(x)
        block.set_input_gradients(dx, written)
    settle = None
    affine = Gradients(dgamma, dbeta, None, None)
    if kept.across is not None:
        assert call.sync is not None  # as in the forward
        exchange = call.sync.sum if wants_x else None
        settle = partial(settle_gradient_across, exchange, kept, block.terms, affine)
    coded = kept.code is not None
    added = kept.bits is not None or (residual is not None and coded)
    run(block, "backward", x.dtype, added, coded, ALL if wants_x else MEASURE | SETTLE, settle)
    block.busy = False
    return dx, dresidual, affine
