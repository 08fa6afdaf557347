"""What stands between an operation and its tensors is still seen, and a plain call of a function is still one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from normsmith import _torch


class Seen(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def test_nothing_stands_between() -> None:
    assert _torch.runs_plainly()
    with torch.no_grad():
        assert _torch.runs_plainly()


@pytest.mark.parametrize(
    "context",
    [
        Seen,
        lambda: FlopCounterMode(display=False),
        torch.autograd.forward_ad.dual_level,
        lambda: torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t),
    ],
)
def test_contexts_are_seen(context: Any) -> None:
    with context():
        assert not _torch.runs_plainly()
        assert not _torch.runs_alone()
    assert _torch.runs_plainly()
    assert _torch.runs_alone()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_transforms_traces_and_recomputations_are_seen() -> None:
    seen = []

    def function(x: Tensor) -> Tensor:
        seen.append(_torch.runs_plainly())
        return x * x

    x = torch.ones(2, requires_grad=True)
    torch.func.vmap(function)(torch.ones(2))
    torch.jit.trace(function, torch.ones(2), check_trace=False)
    for reentrant in (False, True):
        checkpoint(function, x, use_reentrant=reentrant).sum().backward()
    assert seen == [False] * 6


def test_a_plain_call_of_a_function_is_differentiated() -> None:
    class Twice(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x * 2

        @staticmethod
        def backward(ctx: Any, *incoming: Tensor) -> Tensor:
            assert ctx.saved_tensors
            return incoming[0] * 2

    x = torch.ones(3, requires_grad=True)
    y = _torch.applied(Twice)(x)
    assert torch.autograd.grad(y, x, torch.full((3,), 5.0))[0].tolist() == [10.0] * 3


def test_versions_are_counted() -> None:
    buffers = [torch.ones(2), torch.tensor(0)]
    _torch.increment_versions(buffers)
    assert [_torch.version_of(buffer) for buffer in buffers] == [1, 1]


def test_wrappers_of_a_transform_are_told_from_tensors() -> None:
    seen = []
    torch.func.grad(lambda x: (seen.append(x), x.sum())[1])(torch.ones(2))
    assert _torch.is_function_wrapper(seen[0])
    assert not _torch.is_function_wrapper(torch.ones(2))


def test_dictionaries_of_a_module_are_where_forwards_look() -> None:
    layer = torch.nn.BatchNorm1d(2)
    assert vars(layer)[_torch.PARAMETERS] is _torch.parameters_of(layer)
    assert vars(layer)[_torch.BUFFERS] is _torch.buffers_of(layer)
