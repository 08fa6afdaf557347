"""The row `aten`: torch's kernel, around an estimate of the mean."""

from __future__ import annotations

import pytest
import torch

from normsmith.ops.aten import Aten
from normsmith.ops.call import Call


def test_says_why_it_passes():
    row, x = Aten(), torch.randn(4, 3)
    assert "mask" in row.supports(x, Call(valid=x[:, :1] > 0, weights=x[:, :1]))
    assert "batch" in row.supports(x, Call(by_batch=False))
    assert "loses digits" in row.supports(torch.zeros(2**15, 1), Call())
    assert "2 values" in row.supports(torch.zeros(1, 3), Call())
    assert row.supports(torch.zeros(2**15, 1, 2), Call()) is None
    assert "CPU only" in row.supports(x.to("meta"), Call())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_residual_is_added_and_the_dtype_kept(dtype):
    x, z = torch.randn(2, 8, 3).to(dtype)
    alone = Aten().forward(x, None, None, None, None, Call()).y
    both = Aten().forward(x, None, None, z, None, Call()).y
    assert both.dtype == dtype
    torch.testing.assert_close(both, alone + z, rtol=2e-2, atol=2e-2)


def test_moments_are_those_of_the_batch_far_from_zero():
    x = torch.randn(1000, 2) + 1e4
    moments = Aten().forward(x, None, None, None, None, Call()).moments
    exact = x.double()
    torch.testing.assert_close((moments.mean.double() + moments.low)[0], exact.mean(0), rtol=0, atol=1e-6)
    torch.testing.assert_close(moments.variance[0].double(), exact.var(0, correction=0), rtol=1e-5, atol=0)
