"""The forward of the CPU row: values that are not finite, running buffers and counters."""

from __future__ import annotations

import pytest
import torch
from tests.ops.cpu.cases import DTYPES, SHAPES, everything, make

from normsmith.layers import BatchNorm1d
from normsmith.ops import Running, batch_norm
from normsmith.ops._check import make_call
from normsmith.ops.call import Update
from normsmith.ops.cpu.forward import code_of, laid_out_like, normalize


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_values_that_are_not_finite_stay_in_their_channel(shape, dtype, value):
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


class TestCode:
    """Mask and weights as one number per element."""

    def test_is_the_weight_and_below_0_in_padding(self):
        x = torch.empty(3, 2, 4)
        call = make_call(x, mask=torch.tensor([[True] * 4, [True, False] * 2, [False] * 4]))
        code = code_of(call, x, torch.float32)
        assert code.tolist() == [[1.0] * 4, [1.0, -1.0] * 2, [-1.0] * 4]

    def test_of_weights_alone(self):
        x = torch.empty(3, 2, 4)
        call = make_call(x, sample_weight=torch.tensor([0.5, 0.0, 2.0]))
        code = code_of(call, x, torch.float64)
        assert code.dtype == torch.float64
        assert code.tolist() == [[0.5] * 4, [0.0] * 4, [2.0] * 4]

    def test_of_rows_has_one_position(self):
        x = torch.empty(3, 2)
        call = make_call(x, mask=torch.tensor([True, False, True]))
        assert code_of(call, x, torch.float32).tolist() == [[1.0], [-1.0], [1.0]]


class TestLaidOutLike:
    def test_tensors_that_lie_alike_are_taken_as_they_are(self):
        x, z = torch.randn(2, 4, 3, 5, 6)
        assert laid_out_like("residual", z, x) is z

    @pytest.mark.parametrize(
        "z", [torch.randn(4, 3, 5, 6).to(memory_format=torch.channels_last), torch.randn(4, 3, 5, 6).half()]
    )
    def test_others_are_copied(self, z):
        x = torch.randn(4, 3, 5, 6)
        copied = laid_out_like("residual", z, x)
        assert (copied.stride(), copied.dtype) == (x.stride(), x.dtype)
        assert torch.equal(copied, z.float())


@pytest.mark.parametrize(
    ("running", "plain"),
    [
        (Running(torch.zeros(3), torch.ones(3)), True),
        (Running(torch.zeros(3), torch.ones(3), torch.ones(3), torch.tensor(0)), True),
        (Running(torch.zeros(3).double(), torch.ones(3).double()), False),
        (Running(torch.zeros(3, 2)[:, 0], torch.ones(3)), False),
        (Running(torch.zeros(3), torch.ones(3), torch.ones(3).half()), False),
        (Running(torch.zeros(3), torch.ones(3), None, torch.tensor(0, dtype=torch.int32)), False),
    ],
    ids=["plain", "all of them", "another dtype", "gaps", "a deviation of another dtype", "another counter"],
)
def test_buffers_that_the_kernel_cannot_write_to_come_back_as_moments(running, plain):
    """The caller then updates them by `commit`: either way they move alike."""
    x = torch.randn(8, 3)
    got = normalize(x, None, None, None, running, make_call(x), Update(0.5, True))
    assert (got.moments is None) is plain
    if plain:
        torch.testing.assert_close(running.mean, x.mean(0) / 2)
        torch.testing.assert_close(running.var, 0.5 + x.var(0) / 2)
    else:
        assert running.mean.tolist() == [0, 0, 0]
        torch.testing.assert_close(got.moments.mean[0], x.mean(0))
