"""The CPU kernels by halves: ranks that share statistics, one of them on the reference."""

import pytest
import torch
from tests.contracts import ranks

from normsmith.ops import Sync, batch_norm, moments
from normsmith.ops.cpu.across_ranks import _moments
from normsmith.ops.cpu.backend import Numba


class TestNumba(ranks.RanksContract):
    """The row `numba`."""

    backend = Numba()

    @pytest.mark.usefixtures("two_threads")
    @pytest.mark.parametrize("shape", [(40, 64, 7, 7), (300, 300), (40, 3, 40, 40)], ids=str)
    def test_ranks_share_a_batch_that_threads_share_too(self, shape):
        for options in ranks.OPTIONS:
            self.check(shape, False, options.values[0], "most", torch.float32)

    def test_a_block_from_inference_mode_serves_training(self):
        shape, options = (13, 6), {"act": "relu"}
        whole = ranks.batch_of(shape, torch.float32, False, options, 13, "cpu")
        with torch.inference_mode():
            batch_norm(whole.x.clone(), torch.zeros(6), torch.ones(6), normalize_with="running")
        self.check(shape, False, options, "all", torch.float32)

    def test_an_exchange_may_call_the_same_kernels(self):
        """As a signal's handler may: what it overwrites must be its own."""
        x, g = torch.randn(31, 7), torch.randn(31, 7)

        class Busy(Sync):
            rank, ranks = 0, 1

            def __init__(self):
                pass

            def sum(self, tensor):
                with torch.enable_grad():
                    batch_norm(torch.randn(31, 7, requires_grad=True)).sum().backward()
                return tensor

        found = []
        for sync in (None, Busy()):
            leaf = x.clone().requires_grad_()
            y = batch_norm(leaf, sync=sync)
            y.backward(g)
            found.append((y, leaf.grad))
        torch.testing.assert_close(*found)


def parts_of(batches):
    """Count, mean and M2 of batches of one channel, as the threads of a kernel leave them."""
    rows = []
    for batch in batches:
        measured = moments(batch.double()) if len(batch) else None
        rows.append(
            [0.0, torch.nan, torch.nan]
            if measured is None
            else [measured.count, measured.mean.item() + measured.low.item(), measured.m2.item()]
        )
    return torch.tensor(rows, dtype=torch.float64).view(len(rows), 1, 3, 1)


class TestMoments:
    """The parts of one rank's batch become its moments."""

    @pytest.mark.parametrize("cuts", [[9], [4, 5], [3, 0, 6], [1, 1, 7]], ids=str)
    def test_are_those_of_the_whole_batch(self, cuts):
        x = torch.randn(9, 1, dtype=torch.float64) + 1e4
        merged = _moments(parts_of(x.split(cuts)), 9.0, 9.0, torch.float32)
        whole = moments(x)
        assert merged.mean.dtype == merged.m2.dtype == merged.low.dtype == torch.float32
        torch.testing.assert_close(
            merged.mean.double() + merged.low, whole.mean + whole.low, rtol=1e-12, atol=0
        )
        torch.testing.assert_close(merged.m2.double(), whole.m2, rtol=1e-6, atol=0)
        assert (merged.count, merged.squares) == (9.0, 9.0)

    @pytest.mark.parametrize("number", [1, 3])
    def test_of_nothing_are_zeros(self, number):
        merged = _moments(parts_of([torch.empty(0, 1)] * number), 0.0, 0.0, torch.float32)
        assert (merged.mean.item(), merged.m2.item(), merged.low.item()) == (0.0, 0.0, 0.0)

    def test_of_a_part_that_is_not_finite_show_it(self):
        parts = parts_of([torch.tensor([[1.0], [torch.inf]]), torch.tensor([[1.0], [2.0]])])
        assert not _moments(parts, 4.0, 4.0, torch.float32).mean.isfinite()
