"""Calls of the CPU kernels that are prepared once and made again and again, for batches of one shape.

Small batches spend more time on what is decided about them than in kernels. A prepared call keeps argument blocks in
which all is filled that does not change from call to call: the layout, the policy, the addresses of γ, β and the
running statistics. Each call fills in a few addresses and starts the kernel. The kernels, and how their work is shared
out, are those of `forward.normalize` and `backward.differentiate`, and so are all results.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from normsmith._torch import increment_versions
from normsmith.ops.call import Call, Update, computing_dtype
from normsmith.ops.cpu import memory
from normsmith.ops.cpu.argument_block import Block
from normsmith.ops.cpu.calls import ALL, Function, function_of, share_out, start
from normsmith.ops.cpu.forward import CPU, RELU, laid_out_like, writable
from normsmith.ops.cpu.kernels import arguments as slot
from normsmith.ops.cpu.kernels.arguments import APPLY, MEASURE, SETTLE
from normsmith.ops.cpu.layout import layout_of
from normsmith.ops.cpu.saved import Packed
from normsmith.ops.cpu.threads import SERIAL_BELOW, threads_for
from normsmith.ops.moments import Moments
from normsmith.ops.resolve import Renorm, Resolved, Running


class _Filled(Block):
    """A block that is filled but for the addresses of one call, with its kernel and memory for what nobody keeps."""

    __slots__ = ("_asked", "_is_small", "_kernel", "_partial", "_threads", "statistics", "vector")

    def __init__(self, like: Tensor, kernel: Function) -> None:
        layout = layout_of(like)
        assert layout is not None  # `prepare` has refused otherwise
        super().__init__(layout, like.dtype, layout.samples, 1)
        self._kernel, self._asked, self._is_small = kernel, 0, self.elements < SERIAL_BELOW
        self._share_out(threads_for(self.elements))
        self.statistics = memory.lasting(slot.STATISTICS_ROWS, 1, layout.channels, dtype=self.work)
        self.vector = memory.lasting(layout.channels, dtype=self.work)

    def run(self, phases: int) -> None:
        """Run phases of the kernel, on as many threads as torch now has."""
        if self._is_small:
            self.q[slot.PHASES] = phases
            self._kernel[1](self.address)
            return
        asked = threads_for(self.elements)
        if asked != self._asked:
            self._share_out(asked)
        start(self, self._kernel, phases, self._threads)

    def _share_out(self, asked: int) -> None:
        self._asked, self._threads = asked, share_out(self)
        self._partial = memory.lasting(3 * self.q[slot.PARTS] * self.layout.channels, dtype=torch.float64)
        self.q[slot.PARTIAL] = self._partial.data_ptr()


class Vectors(NamedTuple):
    """γ, β and the running statistics of a prepared call, which stay where they are."""

    weight: Tensor | None
    bias: Tensor | None
    running: Running | None


class Prepared:
    """A call that was checked and whose blocks are filled, for batches of the same shape, strides and dtype.

    Calls may run at once, in several threads or one within another: each takes blocks that nobody else has. What a
    backward reads is given to it, and stands in no block.
    """

    def __init__(self, x: Tensor, vectors: Vectors, added: bool, call: Call, update: Update | None) -> None:
        self.call, self._vectors, self._update = call, vectors, update
        self.like = torch.empty_like(x, device="meta")  # shape, strides and dtype without memory
        self._added, self._relu = added, call.activation is RELU
        self._phases = ALL if call.by_batch else SETTLE | APPLY
        moved = vectors.running if vectors.running is not None and update is not None else ()
        self._moved = [buffer for buffer in moved if buffer is not None]
        first = self._forward_block()
        self._forwards, self._statistics = [first], first.statistics
        self._count = 1.0 * first.elements / first.layout.channels
        self._backwards: list[_Filled] = []  # evaluation needs none, and its kernel may have to be compiled
        self._bits = first.words() if self._relu and added else 0

    def forward(
        self, x: Tensor, residual: Tensor | None, renorm: Renorm | None, keep: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """The output, and what `backward` needs: statistics, and the bits of a ReLU; only to be used if `keep`."""
        block = self._free_forward()
        try:
            y, bits, q = memory.like(x), None, block.q
            statistics = torch.empty_like(block.statistics) if keep else block.statistics
            q[slot.X], q[slot.Y], q[slot.STATISTICS] = x.data_ptr(), y.data_ptr(), statistics.data_ptr()
            if residual is not None:
                residual = laid_out_like("residual", residual, x)
                q[slot.RESIDUAL] = residual.data_ptr()
                if self._relu:
                    bits = torch.empty(self._bits, dtype=torch.int16, device=CPU)
                    q[slot.BITS] = bits.data_ptr()
            if renorm is not None:
                block.set_bounds(renorm)
            block.run(self._phases)
        finally:
            self._forwards.append(block)
        if self._moved:
            increment_versions(self._moved)
        return y, statistics, bits

    def backward(
        self, g: Tensor, x: Tensor, statistics: Tensor, bits: Tensor | None, wants_x: bool
    ) -> tuple[Tensor | None, Tensor | None, Tensor, Tensor]:
        """The gradients of x, of the residual, and of γ and β."""
        block = self._free_backward()
        try:
            g, q, dx, dresidual = laid_out_like("gradient", g, x), block.q, None, None
            dgamma, dbeta = torch.empty_like(block.vector), torch.empty_like(block.vector)
            q[slot.G], q[slot.X], q[slot.STATISTICS] = g.data_ptr(), x.data_ptr(), statistics.data_ptr()
            q[slot.DGAMMA], q[slot.DBETA] = dgamma.data_ptr(), dbeta.data_ptr()
            if wants_x:
                dx = memory.like(x)
                q[slot.DX] = dx.data_ptr()
            if bits is not None:
                q[slot.BITS], q[slot.DRESIDUAL] = bits.data_ptr(), 0
            if wants_x and self._added:
                dresidual = g
                if self._relu:
                    dresidual = memory.like(x)
                    q[slot.DRESIDUAL] = dresidual.data_ptr()
            block.run(ALL if wants_x else MEASURE | SETTLE)
        finally:
            self._backwards.append(block)
        return dx, dresidual, dgamma, dbeta

    def statistics_of(self, steps: int) -> Tensor:
        """Memory for the statistics of so many batches."""
        return self._statistics.new_empty((steps, *self._statistics.shape))

    def forward_into(self, y: Tensor, x: Tensor, statistics: Tensor) -> None:
        """Write the output and the statistics of a batch without a residual to memory that is laid out as they are."""
        block = self._free_forward()
        try:
            q = block.q
            q[slot.X], q[slot.Y], q[slot.STATISTICS] = x.data_ptr(), y.data_ptr(), statistics.data_ptr()
            block.run(self._phases)
        finally:
            self._forwards.append(block)

    def backward_into(self, dx: Tensor, affine: Tensor, g: Tensor, x: Tensor, statistics: Tensor) -> None:
        """Write the gradients of a batch without a residual, of γ and of β to memory that is laid out as they are."""
        block = self._free_backward()
        try:
            q, at = block.q, affine.data_ptr()
            q[slot.G], q[slot.X], q[slot.STATISTICS] = g.data_ptr(), x.data_ptr(), statistics.data_ptr()
            q[slot.DX], q[slot.DGAMMA], q[slot.DBETA] = dx.data_ptr(), at, at + affine.nbytes // 2
            block.run(ALL)
        finally:
            self._backwards.append(block)

    def moments(self, statistics: Tensor) -> Moments:
        """The moments of the batches that these are the statistics of, one after the other."""
        rows = statistics.squeeze(2).unbind(1)
        return Moments(self._count, rows[slot.MEAN], rows[slot.M2], self._count, rows[slot.LOW])

    def resolved(self, statistics: Tensor) -> Resolved:
        """What normalised, of the statistics that a forward kept."""
        call = self.call
        return Packed(statistics, None, None, None, call.by_batch, call.renorm is not None).resolved

    def _free_forward(self) -> _Filled:
        try:
            return self._forwards.pop()
        except IndexError:
            return self._forward_block()

    def _free_backward(self) -> _Filled:
        try:
            return self._backwards.pop()
        except IndexError:
            return self._backward_block()

    def _forward_block(self) -> _Filled:
        block = _Filled(self.like, self._function("forward", self._added))
        block.set_vectors(*self._vectors, [])
        block.set_decisions(self.call, None, self._vectors.running, self._update)
        block.set_forward(self.like, self.like, None, self._packed(block), self._relu)
        return block

    def _backward_block(self) -> _Filled:
        block = _Filled(self.like, self._function("backward", self._relu and self._added))
        packed = self._packed(block)
        block.set_backward(self.like, self.like, packed, block.vector, block.vector, self._relu)
        block.set_input_gradients(self.like, None)
        return block

    def _packed(self, block: _Filled) -> Packed:
        return Packed(block.statistics, None, None, None, True, False)

    def _function(self, direction: str, extras: bool) -> Function:
        layout = layout_of(self.like)
        assert layout is not None  # `prepare` has refused otherwise
        return function_of(layout.name, direction, self.like.dtype, extras)


def prepare(x: Tensor, vectors: Vectors, added: bool, call: Call, update: Update | None) -> Prepared | None:
    """Prepare a call for batches like `x`, with a residual if `added`; None where more than addresses would change."""
    work, running = computing_dtype(x), vectors.running
    affine = [vector for vector in vectors[:2] if vector is not None]
    special = [part is not None for part in (call.valid, call.weights, call.groups, call.sync)]
    if any(special) or call.activation not in (None, RELU) or layout_of(x) is None:
        return None
    if call.by_batch and x.numel() < 2 * x.shape[1]:  # the running statistics normalise
        return None
    if not all(vector.dtype == work and vector.is_cpu and vector.is_contiguous() for vector in affine):
        return None
    if running is not None and not (writable(running, work) and running.mean.is_cpu and running.var.is_cpu):
        return None
    return Prepared(x, vectors, added, call, update)
