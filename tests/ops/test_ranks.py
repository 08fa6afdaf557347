"""The CPU kernels by halves: ranks that share statistics, one of them on the reference."""

import pytest
import torch
from tests.contracts import ranks

from normsmith.ops.cpu.backend import Numba


class TestNumba(ranks.RanksContract):
    """The row `numba`."""

    backend = Numba()

    @pytest.mark.usefixtures("two_threads")
    @pytest.mark.parametrize("shape", [(9, 3, 16, 17), (300, 300), (40, 3, 40, 40)], ids=str)
    def test_ranks_share_a_batch_that_threads_share_too(self, shape):
        for options in ranks.OPTIONS:
            self.check(shape, False, options.values[0], "most", torch.float32)
