"""New memory is what `torch.empty_strided` gives."""

from __future__ import annotations

import pytest
import torch

from normsmith._torch import allocation, empty_on_cpu


@pytest.mark.parametrize("empty", [empty_on_cpu, allocation._empty_on_cpu])
def test_new_memory(empty: allocation._Empty) -> None:
    x = empty((2, 3, 4), (12, 1, 3), torch.bfloat16)
    assert (x.shape, x.stride(), x.dtype) == ((2, 3, 4), (12, 1, 3), torch.bfloat16)
    assert (x.is_cpu, x.requires_grad, x.is_inference()) == (True, False, False)
    with torch.inference_mode():
        assert empty((3,), (1,), torch.float32).is_inference()
    assert empty((0, 3), (3, 1), torch.float64).numel() == 0


def test_torch_has_the_faster_way() -> None:
    assert empty_on_cpu is not allocation._empty_on_cpu
