"""Recalibration on several ranks: uneven loaders, DDP, and a rank that fails."""

from __future__ import annotations

import pytest
import torch
from tests.ranks import run_ranks
from tests.surgery.measured import Short, class_sorted, three_norms
from tests.surgery.states import state_of
from torch import nn

from normsmith.surgery import recalibrate


def uneven(rank):
    """All of the batches but three on rank 0, these on rank 1, nothing on rank 2."""
    batches = class_sorted()
    return [batches[:-3], batches[-3:], []][rank]


def seeded_norms():
    torch.manual_seed(7)
    return three_norms()


def statistics_of(network):
    return [(network[at].running_mean, network[at].running_var) for at in (0, 2, 6)]


def on_ranks(rank, size):
    """What each way of measuring gives on this rank, and how it fails when another rank does."""
    found = {}
    for name, mode, wrapped in (
        ("exact", "exact", False),
        ("fast", "fast", False),
        ("wrapped", "exact", True),
    ):
        network = seeded_norms()
        model = nn.parallel.DistributedDataParallel(network) if wrapped else network
        result = recalibrate(
            model,
            uneven(rank),
            mode=mode,
            group=None if wrapped else "world",
            loss=lambda output, _: output.mean(),
        )
        result.apply()
        found[name] = statistics_of(network), result.gap, result.loss_after
    network = three_norms()
    before = state_of(network)
    try:
        recalibrate(network, Short(RuntimeError("disk")) if rank == 1 else class_sorted(), group="world")
    except Exception as error:  # noqa: BLE001 — what it is, is the result
        found["failed"] = type(error).__name__, str(error), state_of(network) == before
    return found


def test_ranks_with_uneven_loaders():
    ranks = run_ranks(on_ranks, 3)
    for name, mode in (("exact", "exact"), ("fast", "fast"), ("wrapped", "exact")):
        network = seeded_norms()
        alone = recalibrate(network, class_sorted(), mode=mode, loss=lambda output, _: output.mean())
        alone.apply()
        for rank in ranks:
            found, gap, loss = rank[name]
            torch.testing.assert_close(found, statistics_of(network), rtol=1e-5, atol=1e-6)
            assert found[0][0].equal(ranks[0][name][0][0][0])
            assert gap == ranks[0][name][1]
            assert gap == pytest.approx(alone.gap, rel=1e-3, abs=1e-6)
            assert loss == pytest.approx(alone.loss_after, rel=1e-4)
    failed = [rank["failed"] for rank in ranks]
    assert [kind for kind, _, _ in failed] == ["SyncError", "RuntimeError", "SyncError"]
    assert "rank 1 had RuntimeError: disk" in failed[0][1]
    assert all(as_before for _, _, as_before in failed)
