"""Whether torch does what it is told and nothing else: no transform, mode, tracer or hook stands in between."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.autograd import forward_ad

from normsmith._torch.recomputation import _top_hooks, backward_number, checkpointed_segment
from normsmith._torch.transforms import has_function_transforms, number_of_dispatch_modes

_tracing_state: Callable[[], Any] = torch._C._get_tracing_state
_number_of_function_modes: Callable[[], int] = torch._C._len_torch_function_stack


def runs_alone() -> bool:
    """Whether an operation on plain tensors is that operation alone.

    False within a transform of `torch.func`, forward-mode autograd, `torch.jit.trace`, a mode of
    `__torch_function__` or `__torch_dispatch__`, and hooks of saved tensors. The compiler is asked for by
    `torch.compiler.is_compiling`, which it knows. Needs, beside what the other files here need,
    `torch._C._len_torch_function_stack` and `torch._C._get_tracing_state`; every forward calls them.
    """
    return not (
        has_function_transforms()
        or forward_ad._current_level >= 0
        or _number_of_function_modes()
        or number_of_dispatch_modes()
        or _tracing_state() is not None
        or (_top_hooks is not None and _top_hooks(False) is not None)
    )


def runs_plainly() -> bool:
    """Whether an operation `runs_alone`, neither in a checkpointed segment nor in a backward, which recomputes it.

    Needs what `runs_alone`, `backward_number` and `checkpointed_segment` need.
    """
    return (
        runs_alone()
        and backward_number() == -1
        and ((_top_hooks is not None and torch.is_grad_enabled()) or checkpointed_segment() is None)
    )


def applied(function: type[torch.autograd.Function]) -> Callable[..., Any]:
    """`function.apply` without what it does for transforms of `torch.func`; only to be called where `runs_plainly`.

    The backward, too, is called without looking for what else the function may define. Needs that the base of
    `torch.autograd.Function` has the method `apply`, and that autograd calls the `apply` of `function._backward_cls`.
    Without them, return `function.apply`, which is as right and takes 4 µs more.
    """
    function._backward_cls.apply = function.backward  # type: ignore[attr-defined]
    plain: Callable[..., Any] = super(torch.autograd.Function, function).apply  # type: ignore[misc]
    return plain
