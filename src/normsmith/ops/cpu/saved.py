"""What a kernel's forward leaves for its backward."""

from __future__ import annotations

from torch import Tensor

from normsmith.ops.cpu.kernels import arguments as slot
from normsmith.ops.moments import Groups, Moments
from normsmith.ops.resolve import Resolved


class Packed:
    """What a forward leaves for its backward: nine rows of statistics, of shape (rows, groups, channels).

    `across` holds the moments of all ranks, where statistics have crossed them.
    """

    __slots__ = ("across", "bits", "code", "enough", "groups", "renorm", "statistics")

    def __init__(
        self,
        statistics: Tensor,
        groups: Groups | None,
        code: Tensor | None,
        bits: Tensor | None,
        enough: Tensor | bool,
        renorm: bool,
    ) -> None:
        self.statistics, self.groups = statistics, groups
        self.code, self.bits, self.enough, self.renorm = code, bits, enough, renorm
        self.across: Moments | None = None

    @property
    def resolved(self) -> Resolved:
        """What normalised, as `resolve` says it."""
        rows = self.statistics.unbind()
        low = None if self.enough is False else rows[slot.LOW]
        r, d = (rows[slot.R], rows[slot.D]) if self.renorm else (None, None)
        return Resolved(rows[slot.MEAN], low, rows[slot.INV_STD], r, d, self.enough)
