"""One call of a kernel: its arguments packed, its phases run on as many threads as pay."""

from __future__ import annotations

import ctypes
import struct
import threading
from functools import cache
from typing import Any

import torch
from torch import Tensor

from normsmith.ops.cpu import arguments as slot
from normsmith.ops.cpu.layout import Layout
from normsmith.ops.cpu.threads import launch, threads_for

MEASURE, SETTLE, APPLY = 1, 2, 4
"""As in `share`, which needs numba to be read."""

_FLOATS = {slot.EPS, slot.MOMENTUM, slot.R_MAX, slot.D_MAX, slot.LARGEST}
_FORMAT = struct.Struct("=" + "".join("d" if number in _FLOATS else "q" for number in range(slot.SLOTS)))
_KEEPABLE = 1 << 18
"""Partial sums for which room is kept between calls: 2 MiB."""


class Values:
    """The arguments of a call, one per slot, and the tensors that some of them are the addresses of."""

    __slots__ = ("slots", "tensors")

    def __init__(self) -> None:
        self.slots: list[Any] = [0] * slot.SLOTS
        self.tensors: list[Tensor] = []

    def place(self, number: int, batch: Tensor | None) -> None:
        """Give the address of a batch that lies as the layout says."""
        if batch is not None:
            self.slots[number] = batch.data_ptr()

    def point(self, number: int, tensor: Tensor | None, dtype: torch.dtype) -> None:
        """Give the address of a tensor, or of its copy in that dtype; None is address 0."""
        if tensor is None:
            return
        if tensor.dtype != dtype or not tensor.is_contiguous():
            tensor = tensor.to(dtype).contiguous()
            self.tensors.append(tensor)
        self.slots[number] = tensor.data_ptr()


class _Workspace(threading.local):
    """Of each Python thread: the block of arguments, and room for partial sums."""

    def __init__(self) -> None:
        self.block = ctypes.create_string_buffer(_FORMAT.size)
        self.address = ctypes.addressof(self.block)
        self.partial = torch.empty(1 << 14, dtype=torch.float64)


_WORKSPACE = _Workspace()


@cache
def _function(layout: str, direction: str, dtype: torch.dtype, extras: bool) -> tuple[int, Any]:
    from normsmith.ops.cpu.compiled import as_function, kernel

    address = kernel(layout, direction, dtype, extras)
    return address, as_function(address)


def run(
    direction: str,
    layout: Layout,
    dtype: torch.dtype,
    extras: bool,
    groups: tuple[int, int],
    phases: int,
    values: Values,
) -> None:
    """Run the phases of a kernel: slots of layout, groups, threads and partial sums are filled in here."""
    address, function = _function(layout.name, direction, dtype, extras)
    name, samples, channels, rows, positions, strip, strips, fold = layout
    by_rows = name == "columns" and positions == 1
    threads = threads_for(samples * channels * rows * positions)
    parts = threads if threads > 1 and (by_rows or (name == "planes" and channels < 4 * threads)) else 1
    space, partial = _WORKSPACE, _WORKSPACE.partial
    room = 3 * parts * groups[1] * channels
    if room > partial.numel():
        partial = torch.empty(room, dtype=torch.float64)
        if room <= _KEEPABLE:
            space.partial = partial
    slots = values.slots
    slots[slot.THREADS], slots[slot.PHASES], slots[slot.PARTS] = 1, phases, parts
    slots[slot.PARTIAL] = partial.data_ptr()
    slots[slot.SAMPLES], slots[slot.CHANNELS], slots[slot.ROWS], slots[slot.POSITIONS] = (
        samples,
        channels,
        rows,
        positions,
    )
    slots[slot.STRIP], slots[slot.STRIPS], slots[slot.FOLD], slots[slot.BY_ROWS] = (
        strip,
        strips,
        fold,
        by_rows,
    )
    slots[slot.GROUP_SIZE], slots[slot.GROUPS] = groups
    if parts == 1:
        _FORMAT.pack_into(space.block, 0, *slots)
        launch(address, function, space.address, threads)
        return
    for phase in (MEASURE, SETTLE, APPLY):
        if phases & phase:
            slots[slot.PHASES] = phase
            _FORMAT.pack_into(space.block, 0, *slots)
            launch(address, function, space.address, threads if phase != SETTLE or channels > 512 else 1)
