"""Process groups of a layer's own, and what ranks of real processes exchange over them."""

import time
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from tests.ranks import run_ranks, wait_for

from normsmith.errors import SyncError
from normsmith.ops import Sync, moments, own_group

DATA = torch.linspace(-3, 5, 14, dtype=torch.float64).view(7, 2).sin() + 1e3


def _group(parent, name="layer"):
    return own_group(parent, lambda: name)


def _apart(rank, size):
    """An exchange of the layer's and one of somebody else's, in another order on each rank."""
    world = dist.group.WORLD
    sync = Sync(_group(world))
    theirs = torch.tensor([100.0 * (rank + 1)])
    pending = dist.all_reduce(theirs, async_op=True) if rank == 0 else None
    ours = sync.sum(torch.tensor([float(rank + 1)]))
    if pending is None:
        dist.all_reduce(theirs)
    else:
        pending.wait()
    return ours.item(), theirs.item(), sync.group is not world, dist.get_process_group_ranks(sync.group)


def _timeout(rank, size, over):
    parent = dist.new_group([0, 1], timeout=timedelta(seconds=1))
    group = _group(parent)
    if rank == 1:
        wait_for(over)
        return None
    start = time.monotonic()
    with pytest.raises(SyncError) as caught:
        Sync(group, lambda: "net.norm").sum(torch.ones(1))
    over.touch()
    return str(caught.value), time.monotonic() - start


def _not_created(rank, size, over):
    parent = dist.new_group([0, 1], timeout=timedelta(seconds=1))
    if rank == 1:
        wait_for(over)
        return None
    with pytest.raises(SyncError) as caught:
        _group(parent, "net.norm")
    over.touch()
    return str(caught.value)


def _merged(rank, size):
    edges = [0, 1, 1, 7]  # rank 1 has nothing
    sync = Sync(_group(dist.group.WORLD))
    found = sync.merge(moments(DATA[edges[rank] : edges[rank + 1]]))
    low = 0 if found.low is None else found.low
    return found.count, found.mean + low, found.m2


def _averaged(rank, size):
    """Channel 0 has enough values in one group of rank 0 and none of rank 1; channel 1 nowhere."""
    sync = Sync(_group(dist.group.WORLD))
    values = torch.tensor([[4.0, 1.0], [8.0, 1.0]]) if rank == 0 else torch.tensor([[torch.nan, 1.0]])
    enough = torch.tensor([[True, False], [True, False]]) if rank == 0 else torch.tensor([[False, False]])
    (mean,), any_ = sync.average([values], enough)
    return mean, any_


def test_own_group_is_not_mixed_up_with_the_group_it_comes_from():
    for ours, theirs, separate, ranks in run_ranks(_apart, 2):
        assert (ours, theirs, separate, ranks) == (3.0, 300.0, True, [0, 1])


def test_own_group_has_the_timeout_of_its_parent_and_the_error_names_the_layer(tmp_path):
    (message, seconds), _ = run_ranks(_timeout, 2, tmp_path / "over")
    assert seconds < 3.5
    assert message.startswith(
        "net.norm: expected all 2 ranks to exchange statistics, rank 0 got none in time"
    )


def test_own_group_that_a_rank_does_not_join_is_an_error(tmp_path):
    message, _ = run_ranks(_not_created, 2, tmp_path / "over")
    assert message.startswith("net.norm: expected all 2 ranks to join")


def test_merged_moments_are_those_of_the_whole_batch_on_every_rank():
    whole = moments(DATA)
    for count, mean, m2 in run_ranks(_merged, 3):
        assert (count == 7).all()
        torch.testing.assert_close(mean, DATA.mean(0, keepdim=True), rtol=1e-12, atol=0)
        torch.testing.assert_close(m2, whole.m2, rtol=1e-9, atol=0)


def test_average_counts_the_groups_that_have_enough_values():
    for mean, any_ in run_ranks(_averaged, 2):
        assert any_.tolist() == [True, False]
        assert mean.tolist() == [6.0, 0.0]
