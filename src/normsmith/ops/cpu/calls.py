"""Running a kernel on an argument block: which block a call gets, on how many threads, and in which phases."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from normsmith.ops.cpu.argument_block import Block
from normsmith.ops.cpu.kernels import arguments as slot
from normsmith.ops.cpu.kernels.arguments import APPLY, MEASURE, SETTLE
from normsmith.ops.cpu.layout import layout_of
from normsmith.ops.cpu.memory import lasting
from normsmith.ops.cpu.threads import can_wait, launch, threads_for
from normsmith.ops.moments import Groups

ALL = MEASURE | SETTLE | APPLY
"""Every phase: sums over the batch, decisions per channel, and the batch again."""
Function = tuple[int, Any]
"""A kernel: its address, and the same as a function to call from Python."""
_ROOM = 1 << 14
"""Partial sums for which memory is kept from call to call: 128 KiB for each Python thread."""
_BLOCKS = 512
"""Shapes whose blocks are kept, for each Python thread."""


class _Workspace(threading.local):
    """What each Python thread keeps from call to call: its blocks, and memory for partial sums."""

    def __init__(self) -> None:
        self.blocks: dict[Any, Block] = {}
        self.partial: Tensor | None = lasting(_ROOM, dtype=torch.float64)


_WORKSPACE = _Workspace()


def batch_and_block(x: Tensor, groups: Groups | None) -> tuple[Tensor, Block]:
    """The batch in a layout that a kernel knows, copied if need be, and the block for batches like it.

    The block is the caller's alone while it is busy, and the caller sets `busy` to False when done. In between, a
    signal's handler or an exchange of statistics may call the same kernels: it gets another block.
    """
    size, number = (None, 1) if groups is None else (groups.size, groups.number)
    block = _block_for(x, size, number)
    if block is None:
        x = x.contiguous()
        block = _block_for(x, size, number)
        assert block is not None  # every contiguous batch has a layout
    return x, block


def _block_for(x: Tensor, group_size: int | None, groups: int) -> Block | None:
    """A free block, or None where no kernel knows the layout; `group_size` None is the whole batch."""
    blocks = _WORKSPACE.blocks
    key = (x.shape, x.stride(), x.dtype, group_size, groups)
    block = blocks.get(key)
    if block is None or block.busy:
        layout = layout_of(x)
        if layout is None:
            return None
        if len(blocks) >= _BLOCKS:
            blocks.clear()
        size = layout.samples if group_size is None else group_size
        block = blocks[key] = Block(layout, x.dtype, size, groups)
    block.busy = True
    return block


def run(
    block: Block,
    direction: str,
    dtype: torch.dtype,
    added: bool,
    coded: bool,
    phases: int,
    settle: Callable[[Tensor], None] | None = None,
) -> None:
    """Run the phases of a kernel on a block whose slots are filled, on as many threads as pay.

    `settle` takes the place of the kernel's own phase of that name. It is given the partial sums, of shape
    (parts, groups, 3, channels), which are overwritten by later calls.
    """
    function, threads = function_of(block.layout.name, direction, dtype, added, coded), share_out(block)
    parts, channels = block.q[slot.PARTS], block.layout.channels
    partial, room = _WORKSPACE.partial, 3 * parts * block.groups * channels
    if partial is None or room > _ROOM:
        partial = lasting(max(room, _ROOM), dtype=torch.float64)
    block.q[slot.PARTIAL] = partial.data_ptr()
    if parts == 1 and settle is None:
        start(block, function, phases, threads)
        return
    _WORKSPACE.partial = None  # a call that comes between two phases takes other memory
    try:
        sums = partial[:room].view(parts, block.groups, 3, channels)
        start(block, function, phases, threads, settle and (lambda: settle(sums)))
    finally:
        if len(partial) == _ROOM:
            _WORKSPACE.partial = partial


def share_out(block: Block) -> int:
    """Fill in how the work on a block is shared out; the number of threads to start."""
    threads, parts = threads_for(block.elements), 1
    if block.pieces < threads:
        # rows are shared out, and threads wait for one another: that pays from twice as many elements
        threads = threads_for(block.elements // 2) if block.is_columns else threads
        parts = threads
    block.q[slot.BY_ROWS] = block.is_columns and (block.pieces == 0 or parts > 1)
    block.q[slot.PARTS] = parts
    return threads


def start(
    block: Block, function: Function, phases: int, threads: int, decide: Callable[[], None] | None = None
) -> None:
    """Run the phases of a kernel on a block that is filled: in one launch, or in one for each of them.

    `decide` takes the place of the kernel's own phase SETTLE.
    """
    q = block.q
    if decide is None and (q[slot.PARTS] == 1 or can_wait()):
        q[slot.PHASES] = phases
        launch(*function, block.address, threads)
        return
    for phase in (MEASURE, SETTLE, APPLY):
        if phase & phases == SETTLE and decide is not None:
            decide()
        elif phases & phase:
            q[slot.PHASES] = phase
            serial = phase == SETTLE and block.layout.channels < 128
            launch(*function, block.address, 1 if serial else threads)


@cache
def function_of(
    layout: str, direction: str, dtype: torch.dtype, added: bool = False, coded: bool = False
) -> Function:
    """A kernel's address, and the same as a function to call from Python."""
    from normsmith.ops.cpu.kernels.compile import as_function, kernel

    address = kernel(layout, direction, dtype, added, coded)
    return address, as_function(address)
