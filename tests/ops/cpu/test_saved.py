"""What a forward leaves for its backward, as `resolve` would say it."""

from __future__ import annotations

import pytest
import torch

from normsmith.ops.cpu.kernels import arguments as slot
from normsmith.ops.cpu.saved import Packed

ROWS = torch.arange(float(slot.STATISTICS_ROWS)).view(-1, 1, 1).expand(-1, 2, 3)
"""Each row of statistics holds its own number."""


def value(tensor):
    assert tensor.shape == (2, 3)
    (only,) = tensor.unique()
    return int(only)


def test_resolved_reads_the_rows_by_their_numbers():
    resolved = Packed(ROWS, None, None, None, True, renorm=True).resolved
    assert value(resolved.mean) == slot.MEAN
    assert value(resolved.low) == slot.LOW
    assert value(resolved.inv_std) == slot.INV_STD
    assert value(resolved.r) == slot.R
    assert value(resolved.d) == slot.D
    assert resolved.by_batch is True


@pytest.mark.parametrize("renorm", [True, False])
def test_only_renorm_has_r_and_d(renorm):
    resolved = Packed(ROWS, None, None, None, True, renorm).resolved
    assert (resolved.r is not None, resolved.d is not None) == (renorm, renorm)


def test_running_statistics_have_no_low_part():
    resolved = Packed(ROWS, None, None, None, False, renorm=False).resolved
    assert resolved.low is None
    assert resolved.by_batch is False


def test_which_groups_go_by_their_batch_may_be_known_at_run_time_only():
    enough = torch.tensor([[True], [False]])
    resolved = Packed(ROWS, None, None, None, enough, renorm=False).resolved
    assert resolved.by_batch is enough
    assert value(resolved.low) == slot.LOW
