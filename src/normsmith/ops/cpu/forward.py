"""The forward on the CPU: its outputs allocated, its argument block filled, its kernel run."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from normsmith._torch import is_as_stored
from normsmith.errors import InputError
from normsmith.ops.activation import ACTIVATIONS
from normsmith.ops.call import Call, Forward, Update
from normsmith.ops.cpu import memory
from normsmith.ops.cpu.across_ranks import settle_across
from normsmith.ops.cpu.argument_block import Block
from normsmith.ops.cpu.calls import ALL, batch_and_block, run
from normsmith.ops.cpu.kernels import arguments as slot
from normsmith.ops.cpu.kernels.arguments import APPLY, SETTLE
from normsmith.ops.cpu.saved import Packed
from normsmith.ops.moments import Moments, counts
from normsmith.ops.resolve import Running

CPU = torch.device("cpu")
RELU = ACTIVATIONS["relu"]
"""The only activation that kernels compute; others are applied to the output by torch."""


def normalize(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    running: Running | None,
    call: Call,
    update: Update | None,
) -> Forward:
    """Compute moments, decisions, running update and output, in one trip where the cache holds a channel."""
    x, block = batch_and_block(x, call.groups)
    work, relu = block.work, call.activation is RELU
    code = None if call.weights is None and call.valid is None else code_of(call, x, work)
    bits = None
    if relu and residual is not None:
        bits = torch.empty(block.words(), dtype=torch.int16, device=CPU)
    copies: list[Tensor] = []  # they live until the kernel has run
    block.set_vectors(weight, bias, running, copies)
    count, squares, enough = _counted(x, block, call)
    sums = None
    if call.by_batch and call.weights is not None and isinstance(squares, Tensor):
        sums = torch.where(torch.as_tensor(enough, device=CPU), squares, torch.inf).flatten().double()
    # copies in another dtype are read, not written
    if running is None or enough is False or not writable(running, work):
        update = None
    block.set_decisions(call, sums, update)
    statistics = torch.empty((slot.STATISTICS_ROWS, block.groups, x.shape[1]), dtype=work, device=CPU)
    packed = Packed(statistics, call.groups, code, bits, enough, call.renorm is not None)
    settle = None
    if call.sync is not None and call.by_batch:
        assert update is None  # the caller commits the moments that come back
        settle = partial(settle_across, call, packed, (count, squares), weight, bias, running)
    y = apply(block, x, residual, packed, relu, ALL if call.by_batch else SETTLE | APPLY, settle)
    block.busy = False
    if call.activation is not None and not relu:
        y = call.activation.forward(y)
        y = y if call.valid is None else torch.where(call.valid, y, 0.0)
    if update is not None and running is not None:
        # as torch's own in-place operations do: a graph that saved a buffer for its backward raises an error
        increment_version([buffer for buffer in running if buffer is not None])
    if not call.by_batch or update is not None:
        return Forward(y, packed, None)
    if packed.across is not None:
        return Forward(y, packed, packed.across)
    mean, m2, low = statistics[slot.MEAN], statistics[slot.M2], statistics[slot.LOW]
    return Forward(y, packed, Moments(count, mean, m2, squares, low))


def _counted(x: Tensor, block: Block, call: Call) -> tuple[Tensor | float, Tensor | float, Tensor | bool]:
    """Σw and Σw² of each group, and whether they are enough to normalise by."""
    if not call.by_batch:
        return 0.0, 0.0, False
    if call.weights is None and call.groups is None:
        count = block.elements / x.shape[1]
        return count, count, count >= 2
    counted, squares = counts(x, call.weights, call.groups)
    return counted, squares, Moments(counted, x, x, squares, x).enough


def apply(
    block: Block,
    x: Tensor,
    residual: Tensor | None,
    packed: Packed,
    relu: bool,
    phases: int,
    settle: Callable[[Tensor], None] | None = None,
) -> Tensor:
    """Run phases of the forward's kernel into a new output, whose memory is laid out as that of `x`."""
    y = memory.like(x)
    if residual is not None:
        residual = laid_out_like("residual", residual, x)
    block.set_forward(x, y, residual, packed, relu)
    run(block, "forward", x.dtype, residual is not None, packed.code is not None, phases, settle)
    return y


def laid_out_like(name: str, tensor: Tensor, x: Tensor) -> Tensor:
    """The tensor with the strides and the dtype of `x`, copied if need be.

    Raises:
        InputError: it lies on another device, whose addresses mean nothing here.
    """
    if not tensor.is_cpu:
        raise InputError(
            f"{name}: expected the input's device, cpu, got {tensor.device}; move it with .to(x.device)"
        )
    if tensor.dtype == x.dtype and tensor.stride() == x.stride() and is_as_stored(tensor):
        return tensor
    return torch.empty_like(x).copy_(tensor)


def code_of(call: Call, x: Tensor, work: torch.dtype) -> Tensor:
    """How much each element counts, −1 where it is padding, of shape (samples, positions)."""
    code = torch.ones((), dtype=work, device=CPU) if call.weights is None else call.weights.to(work)
    if call.valid is not None:
        code = torch.where(call.valid, code, -1.0)
    return code.expand(x.shape[0], 1, *x.shape[2:]).reshape(x.shape[0], -1).contiguous()


def writable(running: Running, work: torch.dtype) -> bool:
    """Whether the running buffers can be written where they are."""
    mean, var, std, batches = running
    if batches is not None and not (batches.dtype == torch.int64 and batches.is_cpu):
        return False
    moved = (mean, var) if std is None else (mean, var, std)
    return all(each.dtype == work and each.is_contiguous() and is_as_stored(each) for each in moved)
