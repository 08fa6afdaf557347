"""Torch's compiler still says what it wraps, traces and launches."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import nn

from normsmith import _torch


@pytest.mark.compiles
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiled_module_is_found_in_its_wrapper_and_named_by_the_prefix() -> None:
    net = nn.Sequential(nn.Linear(2, 2))
    compiled: Any = torch.compile(net)
    assert _torch.compiled_module(compiled) is net
    assert set(compiled.state_dict()) == {_torch.COMPILED_PREFIX + name for name in net.state_dict()}
    assert _torch.is_compiler_loaded()


def test_what_is_not_compiled_is_no_wrapper() -> None:
    assert _torch.compiled_module(nn.Sequential(nn.Linear(2, 2))) is None
    assert not _torch.is_compiled_in_place(nn.Linear(2, 2))


@pytest.mark.compiles
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_module_compiled_in_place_is_recognised() -> None:
    layer = nn.Linear(2, 2)
    layer.compile()
    assert _torch.is_compiled_in_place(layer)


@pytest.mark.compiles
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_compiler_watches_what_follows_a_graph_break() -> None:
    watched = []

    @torch.compiler.disable(recursive=False)
    def look() -> None:
        watched.append(_torch.compiler_callback() is not None)

    def looked(x: torch.Tensor) -> torch.Tensor:
        look()
        return x + 1

    torch.compile(looked, backend="eager")(torch.zeros(2))
    assert watched == [True]
    assert _torch.compiler_callback() is None


def test_the_compiler_counts_as_loaded_when_it_was_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch._dynamo", raising=False)
    assert not _torch.is_compiler_loaded()
    monkeypatch.setitem(sys.modules, "torch._dynamo", torch)
    assert _torch.is_compiler_loaded()


@pytest.mark.compiles
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_compiler_takes_the_result_of_a_marked_function_as_a_constant() -> None:
    calls = []

    def counted(x: int) -> int:
        calls.append(x)
        return sys.getrecursionlimit()  # the compiler cannot trace this

    _torch.mark_constant(counted)
    compiled = torch.compile(lambda x: x + counted(1), backend="eager", fullgraph=True)
    assert torch.equal(compiled(torch.zeros(1)), compiled(torch.zeros(1)))
    assert calls == [1]


def test_exporting_is_asked_of_torch_where_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not _torch.is_exporting()
    monkeypatch.setattr(torch.compiler, "_is_exporting_flag", True, raising=False)
    assert _torch.is_exporting()
    assert _torch.is_recording()
    monkeypatch.delattr(torch.compiler, "_is_exporting_flag")
    assert not _torch.is_exporting()


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_tracing_records_too() -> None:
    recorded = []

    def looked(x: torch.Tensor) -> torch.Tensor:
        recorded.append(_torch.is_recording())
        return x + 1

    torch.jit.trace(looked, torch.zeros(1), check_trace=False)
    assert recorded == [True]
    assert not _torch.is_recording()


def test_plain_tensors_are_not_functional_and_those_in_a_functionalized_graph_are() -> None:
    from torch._subclasses.functional_tensor import FunctionalTensor, FunctionalTensorMode

    assert not _torch.is_functional(torch.ones(2))
    with FunctionalTensorMode():
        assert _torch.is_functional(FunctionalTensor.to_functional(torch.ones(2)))


def test_the_kernels_of_an_operator_are_those_that_it_was_told_of() -> None:
    triton = pytest.importorskip("torch._library.triton")
    if not hasattr(triton, "get_triton_kernels_for_op"):
        pytest.skip("this torch keeps no list of the kernels of operators")
    kernel = object()
    _torch.name_triton_kernels("normsmith::nothing", [kernel])
    assert triton.get_triton_kernels_for_op("normsmith::nothing") == [kernel]
    del triton.triton_ops_to_kernels["normsmith::nothing"]
