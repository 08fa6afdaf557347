"""Copies of running buffers: what a backward pass goes by, although the buffer has moved on."""

import pytest
import torch

from normsmith.ops import snapshot


def later(buffer, x):
    """Uses the buffer as it was, for backward too, and updates it in the same graph."""
    before = snapshot(buffer)
    y = x * (before + 1).rsqrt()
    buffer.mul_(0.5).add_(x.detach().mean())
    return y.sum()


def test_is_a_copy_of_its_own_memory():
    buffer = torch.tensor([1.0, 2.0])
    before = snapshot(buffer)
    buffer.fill_(9)
    assert before.tolist() == [1.0, 2.0]
    assert before.dtype == buffer.dtype


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.float64], ids=str)
def test_keeps_the_dtype_of_counters_and_statistics(dtype):
    buffer = torch.ones((), dtype=dtype)
    assert snapshot(buffer).dtype == dtype
    assert snapshot(buffer).shape == ()


def test_gradients_go_by_the_value_before_the_update():
    buffer, x = torch.tensor([3.0]), torch.ones(4, requires_grad=True)
    later(buffer, x).backward()
    assert buffer.item() == 2.5
    torch.testing.assert_close(x.grad, torch.full((4,), 0.5))


@pytest.mark.compiles
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")  # of torch, at an import
@pytest.mark.parametrize("again", [1, 2], ids=["first call", "second call"])
def test_compiled_gradients_go_by_the_value_before_the_update(again):
    """What torch's partitioner recomputes from the updated buffer where a plain clone is in its place."""
    compiled = torch.compile(later, fullgraph=True, backend="aot_eager_decomp_partition")
    buffer, x = torch.tensor([3.0]), torch.ones(4, requires_grad=True)
    for _ in range(again):
        held, x.grad = buffer.clone(), None
        compiled(buffer, x).backward()
        torch.testing.assert_close(x.grad, (held + 1).rsqrt().expand(4))


def test_is_an_operator_by_torchs_rules():
    torch.library.opcheck(torch.ops.normsmith.snapshot.default, (torch.randn(3),))
