"""The argument block of a kernel: which slot is filled with what.

A kernel takes one address, that of a block of 64-bit slots; `kernels/arguments.py` numbers them. What the shape of a
batch decides is filled in when the block is made. The `set_…` methods fill the rest, in every call; only phases,
parts, partial sums and threads are filled in where the kernel is started, by `calls.py` and `threads.launch`.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from normsmith._torch import is_as_stored
from normsmith.errors import InputError
from normsmith.ops.call import Call, Update
from normsmith.ops.cpu.kernels import arguments as slot
from normsmith.ops.cpu.layout import Layout
from normsmith.ops.cpu.memory import LARGE, lasting
from normsmith.ops.cpu.saved import Packed
from normsmith.ops.resolve import Renorm, Running

_CACHE_LINE = 64
"""Bytes of a cache line."""


class Block:
    """The arguments of calls for batches of one shape, in one Python thread: integers `q` and floats `d`, by slot.

    While `busy` it belongs to one call. A slot keeps its value until the next call that sets it, so each direction
    sets every slot that it reads.
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
        q[slot.SAMPLES], q[slot.CHANNELS] = samples, channels
        q[slot.ROWS], q[slot.POSITIONS] = rows, positions
        q[slot.STRIP], q[slot.STRIPS], q[slot.FOLD] = strip, strips, fold
        q[slot.GROUP_SIZE], q[slot.GROUPS] = group_size, groups
        largest = max(group_size, samples - group_size * (groups - 1))
        q[slot.BIT_LINES] = -(-largest * rows // fold)
        self.d[slot.LARGEST] = torch.finfo(self.work).max
        # memory for the terms of a gradient
        self.terms = lasting(2, groups, channels, dtype=self.work)
        q[slot.TERMS] = self.terms.data_ptr()

    @property
    def groups(self) -> int:
        """How many ghost batches have statistics of their own; 1 where the whole batch is one."""
        return self.q[slot.GROUPS]

    def set_vectors(
        self, weight: Tensor | None, bias: Tensor | None, running: Running | None, copies: list[Tensor]
    ) -> None:
        """Fill in the addresses of γ, β and the running statistics; `copies` keeps alive what had to be converted."""
        q, work = self.q, self.work
        q[slot.GAMMA], q[slot.BETA] = address_of(weight, work, copies), address_of(bias, work, copies)
        q[slot.RUNNING_MEAN] = q[slot.RUNNING_VAR] = q[slot.RUNNING_STD] = q[slot.COUNTER] = 0
        if running is not None:
            q[slot.RUNNING_MEAN] = address_of(running.mean, work, copies)
            q[slot.RUNNING_VAR] = address_of(running.var, work, copies)
            q[slot.RUNNING_STD] = address_of(running.std, work, copies)
            q[slot.COUNTER] = 0 if running.batches is None else running.batches.data_ptr()

    def set_decisions(self, call: Call, squares: Tensor | None, update: Update | None) -> None:
        """Fill in what the kernel decides by: eps, the bounds of renorm, and the update of the running statistics.

        `squares` holds Σw² of each group, in float64, where elements have weights. The kernel moves the running
        statistics if there is an `update`.
        """
        q, d = self.q, self.d
        q[slot.SQUARES] = 0 if squares is None else squares.data_ptr()
        q[slot.BY_BATCH], d[slot.EPS], q[slot.RENORM] = call.by_batch, call.eps, False
        if call.renorm is not None and call.by_batch:
            q[slot.RENORM] = True
            self.set_bounds(call.renorm)
        q[slot.UPDATE] = update is not None
        if update is not None:
            d[slot.MOMENTUM], q[slot.SKIP_NONFINITE] = update

    def set_bounds(self, renorm: Renorm) -> None:
        """Fill in the bounds of renorm, which may change from step to step."""
        self.d[slot.R_MAX] = max(float(renorm.r_max), 1.0)
        self.d[slot.D_MAX] = max(float(renorm.d_max), 0.0)

    def set_forward(self, x: Tensor, y: Tensor, residual: Tensor | None, packed: Packed, relu: bool) -> None:
        """Fill in the addresses of what a forward reads and writes: batches, statistics, codes, and bits of ReLU."""
        q, bits = self.q, packed.bits if relu else None
        q[slot.X], q[slot.Y], q[slot.STATISTICS] = x.data_ptr(), y.data_ptr(), packed.statistics.data_ptr()
        q[slot.RESIDUAL] = 0 if residual is None else residual.data_ptr()
        q[slot.CODE] = 0 if packed.code is None else packed.code.data_ptr()
        q[slot.BITS] = 0 if bits is None else bits.data_ptr()
        q[slot.RELU], q[slot.STREAM] = relu, self.streams(y)

    def set_backward(
        self, g: Tensor, x: Tensor, packed: Packed, dgamma: Tensor, dbeta: Tensor, relu: bool
    ) -> None:
        """Fill in the addresses of what every backward reads, and of dγ and dβ."""
        q = self.q
        q[slot.G], q[slot.X], q[slot.STATISTICS] = g.data_ptr(), x.data_ptr(), packed.statistics.data_ptr()
        q[slot.DGAMMA], q[slot.DBETA] = dgamma.data_ptr(), dbeta.data_ptr()
        q[slot.CODE] = 0 if packed.code is None else packed.code.data_ptr()
        q[slot.BITS] = 0 if packed.bits is None else packed.bits.data_ptr()
        q[slot.RELU] = relu

    def set_input_gradients(self, dx: Tensor, dresidual: Tensor | None) -> None:
        """Fill in the addresses of dx and of the residual's gradient, for a backward that is asked for them."""
        q = self.q
        q[slot.DX], q[slot.STREAM] = dx.data_ptr(), self.streams(dx)
        q[slot.DRESIDUAL] = 0 if dresidual is None else dresidual.data_ptr()

    def streams(self, output: Tensor) -> bool:
        """Whether an output goes past the caches: if it is large, and planes do not share too many cache lines."""
        if output.nbytes < LARGE:
            return False
        plane = self.layout.positions * output.itemsize
        return self.is_columns or plane % _CACHE_LINE == 0 or plane >= 256 * _CACHE_LINE

    def words(self) -> int:
        """Words of 16 bits that hold a bit for each element."""
        layout = self.layout
        if layout.name == "planes":
            return layout.samples * layout.channels * -(-layout.positions // 16)
        lines = self.q[slot.BIT_LINES]
        return int(layout.strips * self.groups * lines * -(-layout.strip // 16))


def address_of(tensor: Tensor | None, dtype: torch.dtype, copies: list[Tensor]) -> int:
    """The address of a vector, or of a copy of it in that dtype, which `copies` keeps alive; 0 for None.

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
    if tensor.dtype != dtype or not tensor.is_contiguous() or not is_as_stored(tensor):
        tensor = tensor.clone(memory_format=torch.contiguous_format).to(dtype)
        copies.append(tensor)
    return tensor.data_ptr()
