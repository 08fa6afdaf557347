"""How a batch is cut into programs: one of a few configurations, chosen by shape, so that no first call is tuned."""

from __future__ import annotations

from functools import lru_cache
from math import gcd
from typing import NamedTuple

from torch import Tensor

from normsmith.ops.moments import Groups

HELD = 2**13
"""Elements that one program may hold in registers between its two sweeps: 16 for each thread, which has 128."""

SMALL = 2**16
"""Bytes of a program's share up to which one launch beats three."""

CACHE = 32 * 2**20
"""Bytes in flight that stay in an L2 of 50 MB between two sweeps."""

PART = 2**17
"""Bytes that a program of a split reduction sums."""

CHANNELS = 32
"""Columns that a program of a split reduction sums, where each is a channel of a batch that stays in the cache."""

STAGES = 3
"""Tiles that a program of a split reduction has under way at once: the memory is far."""

PROGRAMS = 4
"""Programs of a split reduction for each processor, at least."""

GRAIN = 32
"""Bytes of a tensor that a thread reads at once: two of the widest loads."""


class Matrix(NamedTuple):
    """A batch as rows × columns with columns contiguous: column k belongs to channel k // positions."""

    rows: int
    columns: int
    positions: int
    channels: int
    rows_per_sample: int


class Tile(NamedTuple):
    """What a program handles at once, and by how many warps."""

    rows: int
    columns: int
    warps: int


class Plan(NamedTuple):
    """One launch (`once`) or a split reduction, and the tiles of both sweeps.

    `planes`: a program of the first sweep serves one channel, otherwise `tile.columns` columns. `unit` divides the
    start of every row of a tile. `size` rows make a group. `steps` tiles of the second sweep make a program. `stages`
    and `unroll` say how many tiles a program of a split reduction has under way: copied ahead, or read together where
    loads are too narrow for copies.
    """

    once: bool
    held: bool
    planes: bool
    unit: int
    size: int
    groups: int
    blocks: int
    splits: int
    tile: Tile
    elementwise: Tile
    steps: int
    resident: bool
    stages: int | None
    unroll: int


def matrix(x: Tensor) -> Matrix | None:
    """The batch as a matrix; None where its memory is neither contiguous nor channels-last."""
    samples, channels, positions = x.shape[0], x.shape[1], x.shape[2:].numel()
    if x.is_contiguous():
        return Matrix(samples, channels * positions, positions, channels, 1)
    if x.movedim(1, -1).is_contiguous():
        return Matrix(samples * positions, channels, 1, channels, positions)
    return None


@lru_cache(maxsize=4096)
def plan(batch: Matrix, groups: Groups | None, itemsize: int, processors: int) -> Plan:
    """Choose the regime and the tiles.

    >>> plan(Matrix(32, 256 * 196, 196, 256, 1), None, 4, 132).held
    True
    >>> plan(Matrix(401408, 64, 1, 64, 3136), None, 2, 132).once
    False
    """
    number, size = (groups.number, groups.size * batch.rows_per_sample) if groups else (1, batch.rows)
    tallest = max(size, groups.last * batch.rows_per_sample) if groups else size
    planes = batch.positions > 1
    single, held = _at_once(batch, planes, tallest, itemsize, number, processors)
    if single is not None:
        tile, splits = single, 1
    else:
        planes = planes and not _strips(batch)
        if planes or batch.positions > 1:
            tile = _wide(batch.positions if planes else batch.columns, tallest, 4, itemsize, planes)
        else:
            tile = _narrow(batch, tallest, 4, itemsize)
        splits = _splits(batch, planes, tile, tallest, itemsize, number, processors)
    elementwise = _wide(batch.columns, tallest, 4, itemsize, False)
    tiles = _ceil(batch.columns, elementwise.columns) * number * _ceil(tallest, elementwise.rows)
    unit = gcd(batch.columns, batch.positions if planes else 8, 8)
    split, copied = single is None, unit * itemsize >= 8
    return Plan(
        once=not split,
        held=held,
        planes=planes,
        unit=unit,
        size=size,
        groups=number,
        blocks=batch.channels if planes else _ceil(batch.columns, tile.columns),
        splits=splits,
        tile=tile,
        elementwise=elementwise,
        steps=max(1, min(8, tiles // (8 * processors), _ceil(tallest, elementwise.rows))),
        resident=_resident(batch, itemsize),
        stages=STAGES if split and copied else None,
        unroll=4 if split and not copied else 1,
    )


def _ceil(number: int, divisor: int) -> int:
    return -(-number // divisor)


def _power(number: int) -> int:
    """The next power of two."""
    return 1 << max(number - 1, 0).bit_length()


def _at_once(
    batch: Matrix, planes: bool, tallest: int, itemsize: int, groups: int, processors: int
) -> tuple[Tile | None, bool]:
    """The tile of a single launch, and whether it holds the whole share of a program; None: a split is better."""
    height = _power(tallest)
    if planes:
        width, share, programs = _power(batch.positions), tallest * batch.positions, batch.channels * groups
    else:
        # as narrow as a sector of memory, so that there are many programs; wider where there would be too many
        width = 32 // itemsize
        while width < 128 and groups * batch.columns // width > 4 * processors and 2 * width * height <= HELD:
            width *= 2
        width = min(width, _power(batch.columns))
        share, programs = tallest * width, groups * _ceil(batch.columns, width)
    if height * width <= HELD:
        elements = height * width
        many = planes and (
            elements <= HELD // 2 or itemsize == 2
        )  # fewer threads, which have more to do each
        return Tile(height, width, max(1, elements // (1024 if many else 512))), True
    share *= itemsize
    # the backward reads two batches; what is read by narrow strips must be in the cache the second time
    fits = 4 * programs >= 3 * processors and 2 * processors * share <= CACHE
    fits = fits and (planes or _resident(batch, itemsize, 2))
    if share > SMALL and not fits:
        return None, False
    return _wide(batch.positions if planes else width, tallest, 16, itemsize, planes), False


def _strips(batch: Matrix) -> bool:
    """Whether a channel's run of memory is so short, or so badly aligned, that rows of many channels read better."""
    short = batch.positions < 256 or (batch.positions % 8 > 0 and batch.positions < 1024)
    return short and batch.rows >= 8


def _wide(columns: int, rows: int, warps: int, itemsize: int, planes: bool) -> Tile:
    """A tile of GRAIN bytes a thread, or, where rows are few, as many as 1024 columns have."""
    elements = max(1, warps * 32 * GRAIN // itemsize)
    width = min(_power(columns), 1024 if planes else max(256, min(1024, elements // _power(rows))))
    if planes:  # the widest that wastes little at the end of a plane
        widths = [w for w in (1024, 512, 256, 128) if w <= width] or [width]
        waste = [_ceil(columns, w) * w / columns for w in widths]
        width = next((w for w, share in zip(widths, waste, strict=True) if share < 1.15), widths[-1])
    return Tile(max(1, min(_power(rows), elements // width)), width, warps)


def _narrow(batch: Matrix, rows: int, warps: int, itemsize: int) -> Tile:
    """A tile of GRAIN bytes a thread with few columns, so that threads of a warp add most of its rows among themselves.

    Where the batch comes from memory, its rows are read by 128 bytes at least.
    """
    elements = max(1, warps * 32 * GRAIN // itemsize)
    width = min(
        _power(batch.columns), CHANNELS if _resident(batch, itemsize) else max(CHANNELS, 128 // itemsize)
    )
    return Tile(max(1, min(_power(rows), elements // width)), width, warps)


def _resident(batch: Matrix, itemsize: int, share: int = 1) -> bool:
    """Whether a batch takes at most such a share of the cache."""
    return batch.rows * batch.columns * itemsize * share <= CACHE


def _splits(
    batch: Matrix, planes: bool, tile: Tile, tallest: int, itemsize: int, groups: int, processors: int
) -> int:
    """Into how many parts the rows of a group are cut, so that all processors have work."""
    width = batch.positions if planes else tile.columns
    blocks = batch.channels if planes else _ceil(batch.columns, tile.columns)
    tiles = _ceil(tallest, tile.rows) * _ceil(width, tile.columns)
    wanted = max(_ceil(tallest * width * itemsize, PART), _ceil(PROGRAMS * processors, blocks * groups))
    return max(1, min(wanted, _ceil(tiles, 4), 1024))
