"""How the GPU kernels see a batch as a matrix, and how they cut it."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from normsmith.ops.gpu.plan import Matrix, matrix, plan
from normsmith.ops.moments import Groups, ghost_groups

SHAPES = [
    (60, 100),
    (4_000_000, 8),
    (32, 256, 56, 56),
    (64, 2048, 7, 7),
    (8, 3, 224, 224),
    (2, 3, 2, 3, 4),
    (1, 1, 2),
]


@pytest.mark.parametrize(
    ("shape", "channels_last", "ghost"), list(product(SHAPES, [False, True], [None, 2, 3]))
)
def test_every_element_is_in_exactly_one_tile(shape, channels_last, ghost):
    """What the kernels take for granted of a plan, on batches of all kinds."""
    samples, channels, positions = shape[0], shape[1], torch.Size(shape[2:]).numel()
    last = channels_last and len(shape) > 2
    batch = (
        Matrix(samples * positions, channels, 1, channels, positions)
        if last
        else Matrix(samples, channels * positions, positions, channels, 1)
    )
    groups: Groups | None = ghost_groups(samples, positions, ghost)
    for itemsize in (2, 4):
        cut = plan(batch, groups, itemsize, 132)
        assert cut.groups * cut.size >= batch.rows - cut.size
        assert (cut.groups - 1) * cut.size < batch.rows
        width = cut.tile.columns
        assert cut.blocks == channels if cut.planes else cut.blocks * width >= batch.columns
        assert not (cut.held and cut.planes) or width >= positions
        assert max(cut.tile.columns, cut.elementwise.columns) <= 2**10 or cut.held
        assert not cut.held or cut.tile.rows >= cut.size
        assert batch.columns % cut.unit == 0
        for tile in (cut.tile, cut.elementwise):
            assert tile.rows & (tile.rows - 1) == tile.columns & (tile.columns - 1) == 0
            assert tile.rows * tile.columns <= 2**20
            assert 1 <= tile.warps <= 32


def test_memory_orders():
    x = torch.empty(4, 3, 5, 6, device="meta")
    assert matrix(x) == Matrix(4, 90, 30, 3, 1)
    assert matrix(x.to(memory_format=torch.channels_last)) == Matrix(120, 3, 1, 3, 30)
    assert matrix(x.transpose(2, 3)) is None
