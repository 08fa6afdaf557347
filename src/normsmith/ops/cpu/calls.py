"""Calls of kernels: blocks of arguments that are kept from call to call, and phases on as many threads as pay."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from normsmith.errors import InputError
from normsmith.ops.cpu.kernels import arguments as slot
from normsmith.ops.cpu.kernels.arguments import APPLY, MEASURE, SETTLE
from normsmith.ops.cpu.layout import Layout, layout_of
from normsmith.ops.cpu.memory import LARGE
from normsmith.ops.cpu.threads import launch, threads_for

_ROOM = 1 << 14
"""Partial sums for which room is kept from call to call: 128 KiB for each Python thread."""


_LINE = 64
"""Bytes of a cache line."""


def _lasting(*size: int, dtype: torch.dtype) -> Tensor:
    """Memory that outlives a call: in whatever mode the first call was, torch may write to it in the next."""
    with torch.inference_mode(False):
        return torch.empty(*size, dtype=dtype, device="cpu")


class Block:
    """The arguments of calls for batches of one shape, in one Python thread: integers `q` and floats `d`, by slot.

    What the shape decides is filled in once. A caller sets all other slots that its direction reads, each time.
    """

    __slots__ = (
        "_block",
        "address",
        "busy",
        "d",
        "elements",
        "is_columns",
        "layout",
        "pieces",
        "q",
        "terms",
        "work",
    )

    def __init__(self, layout: Layout, dtype: torch.dtype, group_size: int, groups: int) -> None:
        self._block = ctypes.create_string_buffer(8 * slot.SLOTS)
        self.address = ctypes.addressof(self._block)
        bytes_ = memoryview(self._block).cast("B")
        self.q = bytes_.cast("q")
        self.d = bytes_.cast("d")
        self.busy, self.layout = False, layout
        self.pieces, self.is_columns = layout.pieces, layout.name == "columns"
        self.work = torch.float64 if dtype == torch.float64 else torch.float32
        _, samples, channels, rows, positions, strip, strips, fold = layout
        self.elements = samples * channels * rows * positions
        q = self.q
        q[slot.SELF], q[slot.THREADS], q[slot.PARTS] = self.address, 1, 1
        q[slot.SAMPLES], q[slot.CHANNELS], q[slot.ROWS], q[slot.POSITIONS] = (
            samples,
            channels,
            rows,
            positions,
        )
        q[slot.STRIP], q[slot.STRIPS], q[slot.FOLD] = strip, strips, fold
        q[slot.GROUP_SIZE], q[slot.GROUPS] = group_size, groups
        largest = max(group_size, samples - group_size * (groups - 1))
        q[slot.BIT_LINES] = -(-largest * rows // fold)
        self.d[slot.LARGEST] = torch.finfo(self.work).max
        # room for the terms of a gradient
        self.terms = _lasting(2, groups, channels, dtype=self.work)
        q[slot.TERMS] = self.terms.data_ptr()

    def streams(self, output: Tensor) -> bool:
        """Whether an output goes past the caches: if it is large, and planes do not share too many cache lines."""
        plane = self.layout.positions * output.itemsize
        return output.nbytes >= LARGE and (
            self.layout.name != "planes" or plane % _LINE == 0 or plane >= 256 * _LINE
        )

    def words(self) -> int:
        """Words of 16 bits that hold a bit for each element."""
        layout = self.layout
        if layout.name == "planes":
            return layout.samples * layout.channels * -(-layout.positions // 16)
        groups, lines = self.q[slot.GROUPS], self.q[slot.BIT_LINES]
        return int(layout.strips * groups * lines * -(-layout.strip // 16))

    def run(
        self,
        direction: str,
        dtype: torch.dtype,
        extras: bool,
        phases: int,
        settle: Callable[[Tensor], None] | None = None,
    ) -> None:
        """Run the phases of a kernel on this block; threads, and room for partial sums, are found here.

        `settle` takes the place of the kernel's own; it is given the partial sums, of shape
        (parts, groups, channels, 3), which do not last.
        """
        address, function = _function(self.layout.name, direction, dtype, extras)
        q, channels = self.q, self.layout.channels
        threads, parts = threads_for(self.elements), 1
        if self.pieces < threads:
            # rows are shared out, and phases launched one by one: that pays from twice as many elements
            threads = threads_for(self.elements // 2) if self.is_columns else threads
            parts = threads
        q[slot.BY_ROWS] = self.is_columns and (self.pieces == 0 or parts > 1)
        q[slot.PARTS], q[slot.PHASES] = parts, phases
        partial, room = _WORKSPACE.partial, 3 * parts * q[slot.GROUPS] * channels
        if partial is None or room > _ROOM:
            partial = _lasting(max(room, _ROOM), dtype=torch.float64)
        q[slot.PARTIAL] = partial.data_ptr()
        if parts == 1 and settle is None:
            launch(address, function, self.address, threads)
            return
        _WORKSPACE.partial = None  # who comes between two phases has others
        try:
            for phase in (MEASURE, SETTLE, APPLY):
                if phase & phases == SETTLE and settle is not None:
                    settle(partial[:room].view(parts, q[slot.GROUPS], channels, 3))
                elif phases & phase:
                    q[slot.PHASES] = phase
                    serial = phase == SETTLE and channels < 128
                    launch(address, function, self.address, 1 if serial else threads)
        finally:
            if len(partial) == _ROOM:
                _WORKSPACE.partial = partial


class _Workspace(threading.local):
    """Of each Python thread: its blocks, and room for partial sums."""

    def __init__(self) -> None:
        self.blocks: dict[Any, Block] = {}
        self.partial: Tensor | None = _lasting(_ROOM, dtype=torch.float64)


_WORKSPACE = _Workspace()
_BLOCKS = 512
"""Shapes whose blocks are kept."""


def block_for(x: Tensor, group_size: int | None, groups: int) -> Block | None:
    """The block for batches like this one, or None where the batch must be copied first; when done, `busy` is to end.

    Until then it is the caller's alone: a signal's handler, or whoever exchanges statistics, may call the same kernels
    in between. `group_size` None is the whole batch.
    """
    blocks = _WORKSPACE.blocks
    key = (x.shape, x.stride(), x.dtype, group_size, groups)
    found = blocks.get(key)
    if found is None or found.busy:
        layout = layout_of(x)
        if layout is None:
            return None
        if len(blocks) >= _BLOCKS:
            blocks.clear()
        size = layout.samples if group_size is None else group_size
        found = blocks[key] = Block(layout, x.dtype, size, groups)
    found.busy = True
    return found


def address_of(tensor: Tensor | None, dtype: torch.dtype, kept: list[Tensor]) -> int:
    """The address of a vector, or of a copy in that dtype that `kept` keeps alive; 0 for None.

    Raises:
        InputError: the vector lies on another device, whose addresses mean nothing here.
    """
    if tensor is None:
        return 0
    if not tensor.is_cpu:
        raise InputError(
            f"batch norm: expected weight, bias and running statistics on the input's device, cpu, "
            f"got one on {tensor.device}; move the layer or the input, e.g. with .to(x.device)"
        )
    if tensor.dtype != dtype or not tensor.is_contiguous():
        tensor = tensor.to(dtype).contiguous()
        kept.append(tensor)
    return tensor.data_ptr()


@cache
def _function(layout: str, direction: str, dtype: torch.dtype, extras: bool) -> tuple[int, Any]:
    from normsmith.ops.cpu.kernels.compile import as_function, kernel

    address = kernel(layout, direction, dtype, extras)
    return address, as_function(address)
