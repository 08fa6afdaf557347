"""The forward of the CPU row: values that are not finite, running buffers and counters."""

from __future__ import annotations

import pytest
import torch
from tests.ops.cpu.cases import DTYPES, SHAPES, everything, make

from normsmith.layers import BatchNorm1d
from normsmith.ops import batch_norm


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_comes_through_and_stays_in_its_channel(shape, dtype, value):
    for layout in (torch.contiguous_format, torch.channels_last):
        if layout == torch.channels_last and len(shape) != 4:
            continue
        x, weight, bias, _, running, call, g = make(shape, dtype, layout, "renorm")
        x[(1, 1) + (2,) * (x.ndim - 2)] = value
        y, dx, dweight, dbias, mean, var = everything(x, weight, bias, None, running, call, g)
        others = [channel for channel in range(shape[1]) if channel != 1]
        assert all(t.transpose(0, 1)[others].isfinite().all() for t in (y, dx))
        assert all(t[others].isfinite().all() for t in (dweight, dbias))
        assert not y[(1, 1) + (2,) * (x.ndim - 2)].isfinite()
        assert not dweight[1].isfinite()
        assert torch.equal(mean[1], running.mean[1])  # such a batch is left out
        assert torch.equal(var[1], running.var[1])


def test_counters_of_another_dtype_count():
    counter = torch.zeros((), dtype=torch.int32)
    batch_norm(torch.randn(6, 3), torch.zeros(3), torch.ones(3), num_batches_tracked=counter)
    assert counter == 1


def test_a_running_buffer_that_was_saved_for_backward_may_not_change():
    layer, scale = BatchNorm1d(3), torch.ones(3, requires_grad=True)
    distance = (scale * layer.running_mean).sum()
    buffers = layer.running_mean, layer.running_var, layer.num_batches_tracked
    before = [buffer._version for buffer in buffers]
    layer(torch.randn(8, 3))
    assert [buffer._version for buffer in buffers] == [version + 1 for version in before]
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        distance.backward()
