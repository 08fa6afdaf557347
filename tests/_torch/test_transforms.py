"""Transforms, modes, recordings and writing in place are still seen."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from normsmith import _torch


def test_transforms_are_seen_while_they_run_and_not_otherwise() -> None:
    seen = []

    def function(x: Tensor) -> Tensor:
        seen.append((_torch.has_function_transforms(), _torch.is_transformed()))
        return x * x

    function(torch.ones(2))
    torch.func.vmap(function)(torch.ones(2))
    torch.func.grad(lambda x: function(x).sum())(torch.ones(2))
    with torch.autograd.forward_ad.dual_level():
        function(torch.ones(2))
    function(torch.ones(2))
    assert seen == [(False, False), (True, True), (True, True), (False, True), (False, False)]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_traces_are_seen_while_they_run_and_not_otherwise() -> None:
    seen = []

    def function(x: Tensor) -> Tensor:
        seen.append(_torch.is_traced_or_transformed())
        return x * x

    function(torch.ones(2))
    torch.jit.trace(function, torch.ones(2), check_trace=False)
    torch.func.grad(lambda x: function(x).sum())(torch.ones(2))
    assert seen == [False, True, True]


def test_dispatch_modes_are_counted() -> None:
    class Mode(_torch.DispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kernels.append(str(func))
            return func(*args, **(kwargs or {}))

    kernels: list[str] = []
    assert _torch.number_of_dispatch_modes() == 0
    with Mode():
        assert _torch.number_of_dispatch_modes() == 1
        torch.ones(2).exp()
    assert _torch.number_of_dispatch_modes() == 0
    assert "aten.exp.default" in kernels


def test_batched_gradients_are_told_from_single_ones() -> None:
    seen = []

    class Double(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return 2 * x

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            seen.append(_torch.is_batched_gradient(g))
            return 2 * g

    x = torch.ones(2, requires_grad=True)
    y = Double.apply(x)
    torch.autograd.grad(y, x, torch.ones(2), retain_graph=True)
    torch.autograd.grad(y, x, torch.eye(2), is_grads_batched=True)
    assert seen == [False, True]


def test_a_buffer_that_functionalize_was_not_given_takes_what_it_computes() -> None:
    buffer = torch.zeros(3)

    def forward(x: Tensor) -> Tensor:
        own = x * 2
        assert _torch.for_captured(own, own) is own
        buffer.copy_(_torch.for_captured(buffer, own))
        return own

    x = torch.arange(3.0)
    assert torch.equal(torch.func.functionalize(forward)(x), 2 * x)
    assert torch.equal(buffer, 2 * x)
    assert _torch.for_captured(buffer, x) is x


def test_torch_functions_are_called_neither_of_modes_nor_of_subclasses_in_the_block() -> None:
    class Mode(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            calls.append("mode")
            return func(*args, **(kwargs or {}))

    class Subclass(Tensor):
        @classmethod
        def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            calls.append("subclass")
            return super().__torch_function__(func, types, args, kwargs)

    calls: list[str] = []
    x = torch.ones(2).as_subclass(Subclass)
    with Mode():
        torch.exp(x)
        assert set(calls) == {"mode", "subclass"}
        calls.clear()
        with _torch.without_torch_functions():
            torch.exp(x)
    assert calls == []


def test_writing_into_a_tensor_moves_its_version() -> None:
    x = torch.ones(2)
    before = _torch.version_of(x)
    x.view(2, 1).add_(1)
    assert _torch.version_of(x) == before + 1
    x.exp()
    assert _torch.version_of(x) == before + 1


def test_mapped_tensors_are_known_within_other_transforms():
    seen = []

    def look(x):
        seen.append(_torch.is_mapped(x))
        return x.sum()

    x = torch.randn(3, 2)
    torch.func.vmap(look)(x)
    torch.func.vmap(torch.func.grad(look))(x)
    torch.func.grad(look)(x)
    look(x)
    assert seen == [True, True, False, False]
