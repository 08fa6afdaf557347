"""The host side of the backward: what kernels read of a forward, and what becomes of their sums.

The launches themselves are tried by the backend contract in test_kernels.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from normsmith.ops.resolve import Resolved

pytest.importorskip("triton", minversion="3.6")  # older ones the row refuses
from normsmith.ops.gpu import backward, launch


def saved(by_batch: Tensor | bool, count: Tensor | float) -> launch.Saved:
    kept = torch.ones(2, 3)
    return launch.Saved(Resolved(kept, None, kept, None, None, by_batch), kept, kept, count, None)


@pytest.mark.parametrize(("by_batch", "expected"), [(True, True), (False, False)])
def test_which_statistics_normalised_may_be_known_beforehand(by_batch, expected):
    read = backward._statistics(saved(by_batch, 8.0))
    assert (read.by_batch, read.which) == (expected, None)
    assert (read.number, read.counts) == (8.0, None)


def test_or_only_on_the_device():
    which, counts = torch.tensor([[True], [False]]), torch.tensor([[4.0], [2.0]])
    read = backward._statistics(saved(which, counts))
    assert read.by_batch
    assert read.which is which
    assert read.counts is counts
    assert read.number == 1.0
    low, inv_std, r, d = read.decided
    assert (low, r, d) == (None, None, None)
    assert inv_std.shape == (2, 3)


@pytest.mark.parametrize("groups", [1, 3])
def test_gradients_of_the_affine_are_summed_over_groups(groups):
    grads = torch.randn(4, groups, 5)
    found = backward._gradients(grads, by_batch=True)
    torch.testing.assert_close(found.weight, grads[0].sum(0))
    torch.testing.assert_close(found.bias, grads[1].sum(0))
    assert torch.equal(found.offset, grads[2])
    assert torch.equal(found.slope, grads[3])


def test_running_statistics_give_dx_no_terms():
    found = backward._gradients(torch.randn(4, 1, 5), by_batch=False)
    assert (found.offset, found.slope) == (None, None)
