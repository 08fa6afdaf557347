"""The host side of the forward: what it allocates, which buffers kernels may update, which bounds they get.

The launches themselves are tried by the backend contract in test_kernels.
"""

from __future__ import annotations

import pytest
import torch

from normsmith.ops import Renorm, Running
from normsmith.ops.moments import ghost_groups

pytest.importorskip("triton")
from normsmith.ops.gpu import forward, launch

CPU = torch.device("cpu")


def running(**others: torch.Tensor | None) -> Running:
    buffers = {"mean": torch.zeros(3), "var": torch.ones(3), "std": None, "batches": None}
    return Running(**(buffers | others))


@pytest.mark.parametrize(
    ("buffers", "expected"),
    [
        pytest.param(running(), True, id="float32"),
        pytest.param(running(std=torch.ones(3), batches=torch.tensor(0)), True, id="all four"),
        pytest.param(running(mean=torch.zeros(3, dtype=torch.float64)), False, id="another dtype"),
        pytest.param(running(var=torch.ones(6)[::2]), False, id="gaps"),
        pytest.param(running(std=torch.ones(3, dtype=torch.bfloat16)), False, id="half precision"),
        pytest.param(running(batches=torch.tensor(0.0)), False, id="a counter that is no whole number"),
        pytest.param(running(batches=torch.tensor(0, device="meta")), False, id="a counter elsewhere"),
    ],
)
def test_buffers_that_kernels_can_update(buffers, expected):
    assert forward.is_plain(buffers) == expected


def test_bounds_are_numbers_unless_they_are_on_the_device_already():
    r, d = torch.tensor(3.0), torch.tensor(5.0)
    nowhere = {"r_max_at": None, "d_max_at": None}
    assert forward.bounds(None, CPU) == {"r_max": 1.0, "d_max": 0.0, **nowhere}
    assert forward.bounds(Renorm(3.0, 5.0), CPU) == {"r_max": 3.0, "d_max": 5.0, **nowhere}
    assert forward.bounds(Renorm(r, d), CPU) == {"r_max": 1.0, "d_max": 0.0, "r_max_at": r, "d_max_at": d}
    assert forward.bounds(Renorm(3.0, d), CPU) == {
        "r_max": 3.0,
        "d_max": 0.0,
        "r_max_at": None,
        "d_max_at": d,
    }
    assert forward.bounds(Renorm(r, d), torch.device("meta")) == {"r_max": 3.0, "d_max": 5.0, **nowhere}


def written(batch: launch.Geometry, *, decide: bool = False) -> forward.Settled:
    """Room with the number of its row in each place, as if kernels had written it."""
    out = forward._room(batch, decide)
    out.kept.copy_(torch.arange(10.0).view(10, 1, 1).expand_as(out.kept))
    return out


def test_without_mask_or_weights_the_number_of_values_is_known():
    batch = launch.geometry(torch.randn(4, 3, 5), None, None)
    out = written(batch)
    assert (out.counts, out.enough) == (None, None)
    moments = out.moments(batch)
    assert (moments.count, moments.squares) == (20.0, 20.0)
    assert [part.shape for part in (moments.mean, moments.low, moments.m2)] == [(1, 3)] * 3
    assert [part[0, 0].item() for part in (moments.mean, moments.low, moments.m2)] == [8.0, 9.0, 5.0]


def test_a_last_ghost_batch_of_another_size_has_its_own_number():
    x = torch.randn(5, 3, 4)
    batch = launch.geometry(x, None, ghost_groups(len(x), 4, 2))
    moments = written(batch).moments(batch)
    assert moments.count.tolist() == [[8.0], [8.0], [4.0]]
    assert moments.mean.shape == (3, 3)


@pytest.mark.parametrize("decide", [True, False])
def test_under_a_mask_counts_and_decisions_are_written_on_the_device(decide):
    x = torch.randn(4, 3)
    batch = launch.geometry(x, launch.weighed(x, torch.ones(4, 1, dtype=torch.bool), None), None)
    out = written(batch, decide=decide)
    out.counts[0], out.counts[1] = 4.0, 2.0
    assert out.counts.shape == (2, 1, 1)
    assert (out.enough is None) != decide
    moments = out.moments(batch)
    assert (moments.count.tolist(), moments.squares.tolist()) == ([[4.0]], [[2.0]])
    assert out.saved(batch, False, None).weights is batch.weights


def test_what_is_saved_for_the_backward():
    batch = launch.geometry(torch.randn(4, 3), None, None)
    out = written(batch)
    plain, renormed = out.saved(batch, False, None), out.saved(batch, True, None)
    rows = [part[0, 0].item() for part in (plain.resolved.mean, plain.resolved.low, plain.resolved.inv_std)]
    assert rows == [0.0, 1.0, 2.0]
    assert (plain.scale[0, 0].item(), plain.shift[0, 0].item(), plain.count) == (3.0, 4.0, 4.0)
    assert (plain.resolved.r, plain.resolved.d) == (None, None)
    assert (renormed.resolved.r[0, 0].item(), renormed.resolved.d[0, 0].item()) == (6.0, 7.0)
    assert plain.resolved.by_batch is True
