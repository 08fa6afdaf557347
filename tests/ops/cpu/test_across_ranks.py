"""The CPU kernels by halves: ranks that share statistics, one of them on the reference."""

import pytest
import torch
from tests.contracts import ranks

from normsmith.ops import Sync, batch_norm
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
