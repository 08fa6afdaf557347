"""What runs around an operation: transforms, modes, recordings; and what was written in place."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

# These two are torch's own functions without a wrapper: every forward calls them.
has_function_transforms: Callable[[], bool] = torch._C._are_functorch_transforms_active
"""Whether a transform of `torch.func`, such as vmap or grad, is at work. Without it, ask whether inputs are wrapped."""

number_of_dispatch_modes: Callable[[], int] = torch._C._len_torch_dispatch_stack
"""How many dispatch modes see every kernel now. Without it, kernels of ours would not be seen by fake tensor modes."""


is_function_wrapper: Callable[[Tensor], bool] = torch._C._functorch.is_functorch_wrapped_tensor
"""Whether a tensor stands for another one in a transform of `torch.func`, or has escaped from one."""


def is_transformed() -> bool:
    """Whether a transform of `torch.func`, or forward-mode autograd, is at work.

    Needs `torch._C._are_functorch_transforms_active` and the level in `torch.autograd.forward_ad`, which is −1 outside
    of every `dual_level`. Without it, ask the inputs for tangents.
    """
    return torch._C._are_functorch_transforms_active() or torch.autograd.forward_ad._current_level >= 0


def is_traced_or_transformed() -> bool:
    """Whether `torch.jit.trace` is recording, or `is_transformed`. Needs `torch._C._get_tracing_state` beside that."""
    transformed = torch._C._are_functorch_transforms_active() or torch.autograd.forward_ad._current_level >= 0
    return transformed or torch._C._get_tracing_state() is not None


def for_captured(buffer: Tensor, value: Tensor) -> Tensor:
    """What to write into a buffer that `torch.func.functionalize` was not given. Needs `_is_functional_tensor`."""
    compiling = torch.compiler.is_compiling()  # which rewrites what is written by itself
    if compiling or not torch._is_functional_tensor(value) or torch._is_functional_tensor(buffer):
        return value
    torch._sync(value)  # type: ignore[attr-defined, no-untyped-call]
    return torch._from_functional_tensor(value)


def is_batched_gradient(tensor: Tensor) -> bool:
    """Whether a gradient stands for many at once, as with `torch.autograd.grad(..., is_grads_batched=True)`.

    Needs `torch._C._functorch.is_legacy_batchedtensor`. Without it, our kernels raise errors for batched gradients.
    """
    return bool(torch._C._functorch.is_legacy_batchedtensor(tensor))


def is_mapped(tensor: Tensor) -> bool:
    """Whether a tensor is one of many that `torch.func.vmap` maps over, also within other transforms.

    Needs `is_functorch_wrapped_tensor`, `is_batchedtensor` and `get_unwrapped` in `torch._C._functorch`. Without it, a
    norm that is mapped over samples is not found.
    """
    functorch = torch._C._functorch
    while functorch.is_functorch_wrapped_tensor(tensor):
        if functorch.is_batchedtensor(tensor):
            return True
        tensor = functorch.get_unwrapped(tensor)
    return False


def without_torch_functions() -> AbstractContextManager[Any]:
    """A block without `__torch_function__`, of modes and of subclasses. Needs `torch._C.DisableTorchFunction`."""
    return torch._C.DisableTorchFunction()


def version_of(tensor: Tensor) -> int:
    """How often a tensor was written to in place; tensors that share memory share the number.

    Needs `Tensor._version`, which torch's own documentation of autograd names. Without it, what writes into its
    arguments cannot be told from what does not while a forward is recorded.
    """
    return tensor._version


increment_versions: Callable[[list[Tensor]], None] = torch._C._increment_version
"""What `torch.autograd.graph.increment_version` does, which looks at its argument first."""
