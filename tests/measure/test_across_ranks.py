"""What several ranks measure together."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from tests.ranks import run_ranks
from torch import nn

from normsmith.errors import InputError, SyncError
from normsmith.measure import PassResult
from normsmith.measure.across_ranks import group_of, merged_across_ranks
from normsmith.ops import moments


def test_one_process_merges_nothing():
    result = PassResult((None,), 1.0, 3)
    assert merged_across_ranks(lambda: result, None) is result


def test_groups_that_are_none(unchecked):
    model = nn.Linear(1, 1)
    assert group_of(model, None) is None
    with pytest.raises(InputError, match=r"group: expected torch\.distributed to be initialised"):
        group_of(model, "world")
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        assert group_of(model, "world") is dist.group.WORLD
        assert group_of(model, dist.group.WORLD) is dist.group.WORLD
        assert group_of(model, None) is None
        assert group_of(nn.parallel.DistributedDataParallel(model), None) is dist.group.WORLD
        with pytest.raises(
            InputError, match="expected a process group, a FolderGroup, 'world' or None, got 'all'"
        ):
            group_of(model, "all")
    finally:
        dist.destroy_process_group()


def values() -> torch.Tensor:
    return torch.randn(12, 2, generator=torch.Generator().manual_seed(1)) * 3 + 7


def measured_on(rank: int) -> PassResult:
    """Uneven shares of `values`: rank 1 has two of twelve and does not reach the second layer."""
    share = values()[:10] if rank == 0 else values()[10:]
    part = moments(share)
    return PassResult((part, moments(share * 2) if rank == 0 else None, None), float(rank + 1), len(share))


def on_ranks(rank: int, size: int):
    merged = merged_across_ranks(lambda: measured_on(rank), dist.group.WORLD)

    def fail() -> PassResult:
        raise RuntimeError("disk")

    try:
        merged_across_ranks(fail if rank == 1 else lambda: measured_on(rank), dist.group.WORLD)
    except Exception as error:  # noqa: BLE001  what it is, is the result
        return merged, type(error).__name__, str(error)
    return merged, None, None


def test_ranks_get_the_moments_of_all_values_and_each_others_errors():
    results = run_ranks(on_ranks, 2)
    for merged, _, _ in results:
        var, mean = torch.var_mean(values().double(), 0, correction=0)
        torch.testing.assert_close(
            (merged.moments[0].mean + merged.moments[0].low)[0], mean, rtol=1e-7, atol=0
        )
        torch.testing.assert_close(merged.moments[0].variance[0], var, rtol=1e-6, atol=0)
        assert float(merged.moments[1].count) == 10
        assert merged.moments[2] is None
        assert merged.samples == 12
        assert merged.loss == pytest.approx((1 * 10 + 2 * 2) / 12)
    assert [(kind, message) for _, kind, message in results] == [
        (SyncError.__name__, "expected all 2 ranks to finish their pass, rank 1 had RuntimeError: disk"),
        ("RuntimeError", "disk"),
    ]
