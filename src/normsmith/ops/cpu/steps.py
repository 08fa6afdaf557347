"""Prepared calls of the CPU kernels for batches that come one by one, as the steps of a recurrence do."""

from __future__ import annotations

from torch import Tensor

from normsmith.ops.cpu.calls import ALL
from normsmith.ops.cpu.kernels import arguments as slot
from normsmith.ops.cpu.prepared import Prepared
from normsmith.ops.moments import Moments


class Steps:
    """What `prepared` prepared, for batches without a residual that are normalised by their own statistics.

    γ and β stay where they are. Outputs and gradients are written to memory that is laid out as the batches.
    """

    def __init__(self, prepared: Prepared, weight: Tensor | None, bias: Tensor | None) -> None:
        self._prepared, self._vectors = prepared, (weight, bias)  # kept alive
        self._gamma = 0 if weight is None else weight.data_ptr()
        self._beta = 0 if bias is None else bias.data_ptr()
        (block,) = prepared.forwards
        self._statistics, self._count = block.statistics, 1.0 * block.elements / block.layout.channels

    def statistics_of(self, steps: int) -> Tensor:
        """Memory for the statistics of so many batches."""
        return self._statistics.new_empty((steps, *self._statistics.shape))

    def forward_into(self, y: Tensor, x: Tensor, statistics: Tensor) -> None:
        """Write the output and the statistics of a batch."""
        prepared = self._prepared
        block = prepared.free_forward()
        try:
            q = block.q
            q[slot.GAMMA], q[slot.BETA] = self._gamma, self._beta
            q[slot.X], q[slot.Y], q[slot.STATISTICS] = x.data_ptr(), y.data_ptr(), statistics.data_ptr()
            block.run(ALL)
        finally:
            prepared.forwards.append(block)

    def backward_into(self, dx: Tensor, affine: Tensor, g: Tensor, x: Tensor, statistics: Tensor) -> None:
        """Write the gradients of a batch, and those of γ and of β."""
        prepared = self._prepared
        block = prepared.free_backward()
        try:
            q, at = block.q, affine.data_ptr()
            q[slot.G], q[slot.X], q[slot.STATISTICS] = g.data_ptr(), x.data_ptr(), statistics.data_ptr()
            q[slot.DX], q[slot.DGAMMA], q[slot.DBETA] = dx.data_ptr(), at, at + affine.nbytes // 2
            block.run(ALL)
        finally:
            prepared.backwards.append(block)

    def moments(self, statistics: Tensor) -> Moments:
        """The moments of the batches that these are the statistics of, one after the other."""
        rows = statistics.squeeze(2).unbind(1)
        return Moments(self._count, rows[slot.MEAN], rows[slot.M2], self._count, rows[slot.LOW])
