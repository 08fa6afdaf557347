"""Poolings that are written as reductions: `x.mean((2, 3))`, `torch.amax(x, -1)`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from normsmith.anatomy.kinds import REDUCTIONS


@dataclass(frozen=True)
class Pooling:
    """The dimensions that a reduction goes over, as its call names them, and whether they stay with one entry each."""

    dimensions: tuple[int, ...]
    keeps: bool = False

    def of(self, rank: int) -> frozenset[int]:
        """The dimensions, counted from the first, of an input that has `rank` of them.

        >>> sorted(Pooling((-1, 2)).of(4))
        [2, 3]
        """
        return frozenset(dimension % rank for dimension in self.dimensions)

    def rank_after(self, rank: int) -> int:
        """How many dimensions the result has if the input has `rank`.

        >>> Pooling((2, 3)).rank_after(4), Pooling((2, 3), keeps=True).rank_after(4)
        (2, 4)
        """
        return rank if self.keeps else rank - len(self.of(rank))


def pooling_of(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Pooling | None:
    """The pooling that a call of a function is, by the function's plain name and the call's arguments.

    None for other functions, for a reduction to a single number, and for `max` and `min` of two tensors.

    >>> pooling_of("mean", (None, (2, 3)), {}), pooling_of("amax", (None,), {"dim": -1, "keepdim": True})
    (Pooling(dimensions=(2, 3), keeps=False), Pooling(dimensions=(-1,), keeps=True))
    >>> pooling_of("mean", (None,), {}), pooling_of("relu", (None,), {})
    (None, None)
    """
    if name not in REDUCTIONS:
        return None
    given = args[1] if len(args) > 1 else kwargs.get("dim", kwargs.get("axis"))
    dimensions = (given,) if isinstance(given, int) else given
    if not isinstance(dimensions, (tuple, list)) or not all(isinstance(d, int) for d in dimensions):
        return None
    keeps = args[2] if len(args) > 2 else kwargs.get("keepdim", kwargs.get("keepdims", False))
    return Pooling(tuple(dimensions), bool(keeps)) if dimensions else None
