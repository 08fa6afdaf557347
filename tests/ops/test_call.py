"""What every backend asks before it computes: is torch eager, in which dtype, and what padding holds."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import forward_ad

from normsmith.ops.call import computing_dtype, eager, promoted


class TestEager:
    def test_is_the_usual_state(self):
        assert eager()
        with torch.no_grad():
            assert eager()

    def test_is_not_inside_transforms(self):
        seen = []
        torch.func.vmap(lambda x: seen.append(eager()) or x)(torch.ones(2, 3))
        with forward_ad.dual_level():
            seen.append(eager())
        assert seen == [False, False]
        assert eager()

    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    def test_is_not_while_torch_traces(self):
        seen = []

        def traced(x):
            seen.append(eager())
            return x + 1

        torch.jit.trace(traced, torch.ones(2), check_trace=False)
        assert seen == [False]

    def test_is_not_while_torch_compiles(self, monkeypatch):
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
        assert not eager()


@pytest.mark.parametrize(
    ("dtype", "work"),
    [
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
    ],
    ids=str,
)
def test_work_is_done_in_float32_at_least(dtype, work):
    x = torch.ones(2, 3, dtype=dtype)
    assert computing_dtype(x) == work
    assert [tensor.dtype for tensor in promoted(x, x, None)] == [work, work]


def test_padding_is_set_to_0_whatever_it_holds():
    x = torch.tensor([[1.0, 2.0], [torch.nan, torch.inf]])
    batch, residual = promoted(x, x, torch.tensor([[True], [False]]))
    assert batch.tolist() == residual.tolist() == [[1, 2], [0, 0]]


def test_what_is_ready_is_not_copied():
    x = torch.ones(2, 3)
    batch, residual = promoted(x, None, None)
    assert batch is x
    assert residual is None
