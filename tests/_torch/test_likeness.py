"""One look tells whether tensors are like others, by torch's own means and by ours."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

from normsmith import _torch
from normsmith._torch import likeness

Alike = Callable[..., Callable[..., bool]]


@pytest.fixture(params=["torch's", "ours"])
def alike(request: Any, monkeypatch: pytest.MonkeyPatch) -> Alike:
    if request.param == "ours":
        monkeypatch.setattr(likeness, "_TensorGuards", None)
    else:
        assert likeness._TensorGuards is not None
    return likeness.alike


UNLIKE: dict[str, Callable[[Tensor], Any]] = {
    "dtype": lambda x: x.double(),
    "shape": lambda x: x[:, :2],
    "strides": lambda x: x.t().contiguous().t(),
    "dimensions": lambda x: x[None],
    "device": lambda x: x.to("meta"),
    "gradient": lambda x: x.clone().requires_grad_(),
    "parameter": lambda x: Parameter(x, requires_grad=False),
    "class": lambda x: x.as_subclass(type("Other", (Tensor,), {})),
    "negative bit": torch._neg_view,
    "zeros": lambda x: torch._efficientzerotensor(x.shape),
    "sparse": lambda x: x.to_sparse(),
    "inference": lambda x: torch.inference_mode()(x.clone)(),
    "none": lambda x: None,
    "number": lambda x: 1.0,
}


@pytest.mark.parametrize("name", UNLIKE)
def test_what_is_unlike(name: str, alike: Alike) -> None:
    x, y = torch.randn(4, 3), torch.randn(3)
    check = alike(x, y)
    assert check(torch.ones(4, 3), torch.ones(3))
    assert not check(UNLIKE[name](x), y)
    assert not alike(y, x)(y, UNLIKE[name](x))


def test_what_stands_for_another_tensor_is_unlike(alike: Alike) -> None:
    escaped: list[Tensor] = []
    torch.func.grad(lambda x: (escaped.append(x), x.sum())[1])(torch.randn(4, 3))
    check = alike(torch.randn(4, 3))
    assert check(torch.randn(4, 3))
    assert not check(escaped[0])


def test_one_tensor_is_not_two(alike: Alike) -> None:
    x, y = torch.randn(3), torch.randn(3)
    check = alike(x, y)
    assert check(y, x)
    assert not check(x, x)


def test_no_tensor_is_kept_alive(alike: Alike) -> None:
    x = torch.randn(3)
    check, gone = alike(x), weakref.ref(x)
    del x
    gc.collect()
    assert gone() is None
    assert check(torch.randn(3))


def test_torchs_own_means_are_what_is_offered() -> None:
    x = torch.randn(3)
    assert _torch.alike(x)(torch.zeros(3))
    assert not _torch.alike(x)(torch.zeros(4))


def test_memory_may_hold_other_numbers_than_a_tensor() -> None:
    x = torch.randn(3)
    assert _torch.is_as_stored(x)
    for other in (torch._neg_view(x), torch._efficientzerotensor((3,))):
        assert not _torch.is_as_stored(other)
        assert _torch.is_as_stored(other.clone())
