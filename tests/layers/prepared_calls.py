"""What the tests of prepared calls share."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest
import torch
from torch import nn

from normsmith.layers import prepared
from normsmith.ops.function_calls import FunctionCalls


@pytest.fixture
def taken(monkeypatch):
    """The prepared calls that ran."""
    calls, run = [], prepared.run

    def counted(call, *arguments):
        calls.append(call)
        return run(call, *arguments)

    monkeypatch.setattr(prepared, "run", counted)
    return calls


@contextmanager
def nothing_prepared() -> Iterator[None]:
    """A block in which every call of `batch_norm` is checked and decided anew."""
    with mock.patch.object(FunctionCalls, "run", return_value=None):
        yield


def unprepared(layer: nn.Module) -> nn.Module:
    """A copy whose every call is checked and decided anew."""
    twin = copy.deepcopy(layer)
    twin._prepared_calls = None

    def forward(*arguments: Any, **options: Any) -> torch.Tensor:
        with nothing_prepared():
            return type(twin).forward(twin, *arguments, **options)

    twin.forward = forward
    return twin


def step(layer, x, g, **options):
    """The output of a forward and all gradients."""
    x = x.detach().requires_grad_()
    inputs = [x, *layer.parameters(), *options.values()]
    y = layer(x, **options)
    return [y.detach(), *torch.autograd.grad(y, inputs, g, allow_unused=True)]


def same(found, expected) -> bool:
    return all((a is None and b is None) or torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def meet(layer, x, times=2):
    """Let the layer meet a kind of batch, so that the next call of that kind is prepared."""
    for _ in range(times):
        layer(x)
