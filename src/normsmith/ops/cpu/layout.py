"""How a batch lies in memory, and how the work on it is cut."""

from __future__ import annotations

from functools import lru_cache
from math import gcd, prod
from typing import NamedTuple

from torch import Tensor

from normsmith.ops.cpu.kernels.arguments import LANES, RUN

PLANES_FROM = 256
"""Positions from which a batch is worked on by planes; with fewer, the channels of a sample are columns of one row."""


class Layout(NamedTuple):
    """A batch as a kernel sees it: `samples` × `rows` rows of `channels` × `positions` columns, or planes.

    Columns are worked on by `strips` of `strip` columns; `fold` short rows are taken as one line.
    """

    name: str
    samples: int
    channels: int
    rows: int
    positions: int
    strip: int = 0
    strips: int = 0
    fold: int = 1

    @property
    def pieces(self) -> int:
        """How many threads can have whole channels; with more of them they share out rows, or samples."""
        if self.name == "planes":
            return self.channels // 4
        return self.strips if self.positions > 1 else 0


def layout_of(x: Tensor) -> Layout | None:
    """The layout of a batch that is not empty, or None where it must be copied first."""
    return _layout(x.shape, x.stride())


@lru_cache(maxsize=512)
def _layout(shape: tuple[int, ...], strides: tuple[int, ...]) -> Layout | None:
    """`layout_of`, by shape and strides."""
    samples, channels, *space = shape
    positions = prod(space)
    if _is_dense(shape, strides, range(len(shape))):
        if positions == 1:
            return _rows(samples, channels, 1)
        if positions >= PLANES_FROM:
            return Layout("planes", samples, channels, 1, positions)
        together = _aligned(RUN // positions, positions)
        return Layout(
            "columns", samples, channels, 1, positions, together * positions, -(-channels // together)
        )
    if _is_dense(shape, strides, [0, *range(2, len(shape)), 1]):
        return _rows(samples, channels, positions)
    return None


def _is_dense(shape: tuple[int, ...], strides: tuple[int, ...], order: range | list[int]) -> bool:
    """Whether the dimensions lie in this order without gaps, the last one fastest."""
    expected = 1
    for dimension in reversed(order):
        if shape[dimension] > 1 and strides[dimension] != expected:
            return False
        expected *= shape[dimension]
    return True


def _rows(samples: int, channels: int, rows: int) -> Layout:
    """The layout of rows of channels, of which several make a line where they are short."""
    fold = _aligned(RUN // channels, channels)
    if fold == 1:
        return Layout("columns", samples, channels, rows, 1, min(RUN, channels), -(-channels // RUN))
    return Layout("columns", samples, channels, rows, 1, channels * fold, 1, fold)


def _aligned(number: int, size: int) -> int:
    """At most `number` pieces of `size` elements side by side, at least one, such that vectors fit if that can be."""
    step = LANES // gcd(LANES, size)
    return max(1, number // step * step or number)
