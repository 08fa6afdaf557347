"""Torch's compiler: modules that were compiled, what it traces, and kernels in its graphs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch._library import triton as _triton
from torch._subclasses.functional_tensor import FunctionalTensor

from normsmith._torch.modules import children_of

COMPILED_PREFIX = "_orig_mod."
"""What `torch.compile(model)` puts before every name in the model's state dict, since torch 2.0."""


def compiled_module(module: nn.Module) -> nn.Module | None:
    """The module that `torch.compile` wrapped in this one; None where it is no such wrapper.

    Needs the child `_orig_mod` of `OptimizedModule`, of torch 2.0. Names in state dicts that were saved from compiled
    models contain it, so torch will hardly take it away.
    """
    return children_of(module).get("_orig_mod")


def is_compiled_in_place(module: nn.Module) -> bool:
    """Whether `module.compile()` was called, which compiles a module without a wrapper.

    Needs `nn.Module._compiled_call_impl`. If it goes, a replaced layer that was compiled by itself is not refused.
    """
    return vars(module).get("_compiled_call_impl") is not None


def is_compiler_loaded() -> bool:
    """Whether torch's compiler was imported in this process; to import it takes seconds.

    Needs the module name `torch._dynamo`. If it changes, compiled models are run compiled where eager is meant.
    """
    return "torch._dynamo" in sys.modules


compiler_callback: Callable[[], Any] = getattr(
    torch._C._dynamo.eval_frame, "get_eval_frame_callback", lambda: None
)
"""What the compiler does with each function that is called; None where it does not look.

It looks at functions that run eagerly too, after a graph break in a compiled forward, and then traces what it was never
meant to see. Needs `torch._C._dynamo.eval_frame.get_eval_frame_callback`; without it, such functions are compiled, or
warned of. It is torch's own function, since a function of ours would be traced in its turn.
"""


def mark_constant(function: Callable[..., Any]) -> None:
    """Have the compiler call a function while it traces, and take the result as a constant.

    Needs the attribute that `torch.compiler.assume_constant_result` sets, `_dynamo_marked_constant`; to call that
    decorator at import would import the compiler. If it goes, call the decorator at the first compiled forward.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]


def is_exporting() -> bool:
    """Whether `torch.export` is recording; torch 2.6 does not say so, and exports what it would compile.

    Needs `torch.compiler._is_exporting_flag`, of torch 2.7. `torch.compiler.is_exporting` reads the same, but the
    compilers of torch 2.11 and before take it for True whatever they trace.
    """
    return bool(getattr(torch.compiler, "_is_exporting_flag", False))


def is_recording() -> bool:
    """Whether what runs is kept as a program, for other inputs: by `torch.export`, for ONNX, or by `torch.jit.trace`.

    Needs what `is_exporting` needs, and `torch._C._get_tracing_state`; what torch 2.6 exports is taken for compiled.
    """
    return is_exporting() or (not torch.compiler.is_compiling() and torch._C._get_tracing_state() is not None)


def is_functional(tensor: Tensor) -> bool:
    """Whether a tensor stands for one while the compiler rewrites a graph without mutations.

    Needs `torch._subclasses.functional_tensor.FunctionalTensor`, of torch 2.1."""
    return isinstance(tensor, FunctionalTensor)


def name_triton_kernels(operator: str, kernels: list[Any]) -> None:
    """Tell torch which Triton kernels an operator launches, so that its cache of graphs knows their sources.

    Needs `torch._library.triton.triton_ops_to_kernels`, which torch 2.6 does not have: it keeps no such list.
    """
    getattr(_triton, "triton_ops_to_kernels", {})[operator] = kernels
