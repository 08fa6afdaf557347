"""Batch norm for those who call it again and again: what does not change is checked and decided once.

`prepare` does what `batch_norm` does before a kernel starts, and `run` starts it. A prepared call holds for tensors
that are like those it was prepared for (`kinds.py` looks), with the same settings, where `nothing_looks_on`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import Parameter

from normsmith._torch import (
    applied,
    is_as_stored,
    is_batched_gradient,
    is_function_wrapper,
    runs_alone,
    runs_plainly,
)
from normsmith.errors import InputError
from normsmith.ops._check import check_batch, make_call
from normsmith.ops.call import Buffers, PreparedCall, Update
from normsmith.ops.closed_form import differentiable_gradients
from normsmith.ops.dispatch import choose
from normsmith.ops.resolve import Renorm, Running

_VARIABLES: Any = getattr(os.environ, "_data", os.environ)
"""The environment without the decoding that `os.environ` does at every look, which costs as much as a small kernel."""
_FORCED: Any = (
    os.environ.encodekey("NORMSMITH_BACKEND") if hasattr(os.environ, "_data") else "NORMSMITH_BACKEND"
)


def is_plain(x: Tensor) -> bool:
    """Whether a tensor is one block of plain numbers on the CPU or on a GPU."""
    kind = type(x)
    return (
        (kind is Tensor or kind is Parameter)
        and x.layout is torch.strided
        and (x.is_cpu or x.is_cuda)
        and not (x.is_nested or is_function_wrapper(x))
        and is_as_stored(x)
    )


def nothing_looks_on() -> bool:
    """Whether a call is free to take the backend that serves it, and is nothing but itself to torch."""
    return not _VARIABLES.get(_FORCED) and runs_alone()


def nothing_intervenes() -> bool:
    """Whether `nothing_looks_on`, and a call is no part of a recomputed forward, for which layers keep their state."""
    return not _VARIABLES.get(_FORCED) and runs_plainly()


def prepare(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running: Running | None,
    *,
    added: bool = False,
    normalize_with: Literal["batch", "running"] = "batch",
    update_running: bool = True,
    momentum: float | None = 0.1,
    eps: float = 1e-5,
    renorm: Renorm | None = None,
    activation: str | None = None,
    on_small_batch: Literal["error", "running"] = "error",
    on_nonfinite: Literal["skip", "propagate"] = "skip",
) -> PreparedCall | None:
    """Prepare calls of `batch_norm` with these arguments, on batches like `x`, which must be plain.

    Args:
        added: whether calls have a residual; all other arguments are those of `batch_norm`.

    Returns:
        The prepared call, or None where it cannot be prepared, or `batch_norm` would refuse it.

    >>> call = prepare(torch.zeros(8, 3), None, None, None, eps=0.0)
    >>> y = run(call, False, torch.arange(24.0).view(8, 3), None, None)
    >>> torch.allclose(y.mean(0), torch.zeros(3), atol=1e-6)
    True
    """
    try:
        mean, var, std, _ = (None, None, None, None) if running is None else running
        check_batch(x, None, weight=weight, bias=bias, running_mean=mean, running_var=var, running_std=std)
        call = make_call(
            x, normalize_with=normalize_with, eps=eps, renorm=renorm, activation=activation,
            on_small_batch=on_small_batch,
        )  # fmt: skip
    except InputError:
        return None
    needs_running = normalize_with == "running" or renorm is not None
    if (running is None and needs_running) or on_nonfinite not in ("skip", "propagate"):
        return None  # as `batch_norm` refuses
    update = None
    if call.by_batch and update_running and running is not None:
        if momentum is None:  # one factor for each call
            return None
        update = Update(momentum, on_nonfinite == "skip")
    return choose(x, call).prepare(x, weight, bias, running, added, call, update)


def run(
    call: PreparedCall,
    differentiated: bool,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None = None,
    running: Buffers | None = None,
    renorm: Renorm | None = None,
) -> Tensor:
    """Call what was prepared; `renorm` holds the bounds of this step.

    Args:
        differentiated: whether any of x, γ, β and the residual requires a gradient.
    """
    if differentiated and torch.is_grad_enabled():
        return _differentiable(x, weight, bias, residual, (call, running, renorm))
    return call.forward(x, weight, bias, residual, running, renorm, False)[0]


class _Prepared(torch.autograd.Function):
    """A prepared call with its gradient in closed form; gradients of gradients are those of the reference."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        of_call: tuple[PreparedCall, Buffers | None, Renorm | None],
    ) -> Tensor:
        call, running, renorm = of_call
        y, statistics, bits = call.forward(x, weight, bias, residual, running, renorm, True)
        ctx.save_for_backward(x, weight, bias, residual)
        ctx.run = call, statistics, bits
        return y

    @staticmethod
    def backward(ctx: Any, *incoming: Any) -> tuple[Tensor | None, ...]:
        inputs, (g,) = ctx.saved_tensors, incoming
        (call, statistics, bits), x = ctx.run, inputs[0]
        of_x, of_weight, of_bias, of_residual, _ = wants = ctx.needs_input_grad
        fits = call.fits(g, x)
        if torch.is_grad_enabled() or (not fits and is_batched_gradient(g)):
            return *differentiable_gradients(g, inputs, wants, call.resolved(statistics), call.call), None
        if not fits:
            g, x = call.fitted(g, x)
        dx, dresidual, dgamma, dbeta = call.backward(g, x, statistics, bits, of_x or of_residual)
        return (
            dx if of_x else None,
            dgamma if of_weight else None,
            dbeta if of_bias else None,
            dresidual if of_residual else None,
            None,
        )


_differentiable: Callable[..., Tensor] = applied(_Prepared)
