"""The gradient of batch norm in closed form, and gradients of gradients through the reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from normsmith._torch import is_batched_gradient
from normsmith.ops.call import Call, Update
from normsmith.ops.dispatch import Backend
from normsmith.ops.moments import Moments
from normsmith.ops.reference import Reference
from normsmith.ops.resolve import Resolved, Running

_ORACLE = Reference()
_Result = tuple[Tensor, Moments | None]


class _ClosedForm(torch.autograd.Function):
    """A backend's forward with its gradient in closed form.

    With g the gradient before the activation, and all sums over the valid elements of a group:

        dβ = Σg    dγ = r·Σg·x̂ + d·Σg    dx = (γr/σ)·(g − (w/W)·(Σg + x̂·Σg·x̂))

    Groups normalised by running statistics have no sums in dx. No running buffer is kept: under
    DistributedDataParallel the next broadcast would change the gradient silently.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        running: Running | None,
        call: Call,
        backend: Backend,
        update: Update | None,
    ) -> _Result:
        if call.valid is not None:  # the caller's own mask, which may change before the backward
            call = call._replace(valid=call.valid.clone())
        y, kept, moments = backend.forward(x, weight, bias, residual, running, call, update)
        ctx.save_for_backward(x, weight, bias, residual)
        ctx.run = call, backend, kept
        return y, moments

    @staticmethod
    def backward(ctx: Any, *incoming: Any) -> tuple[Tensor | None, ...]:
        inputs, wants = ctx.saved_tensors, ctx.needs_input_grad
        call, backend, kept = ctx.run
        if torch.is_grad_enabled() or is_batched_gradient(incoming[0]):
            gradients = differentiable_gradients(incoming[0], inputs, wants, kept.resolved, call)
            return *gradients, None, None, None, None
        x, weight, bias, residual = inputs
        dx, dresidual, affine = backend.backward(incoming[0], x, residual, kept, call, wants[0] or wants[3])
        return (
            _as_wanted(dx, x, wants[0]),
            _as_wanted(affine.weight, weight, wants[1]),
            _as_wanted(affine.bias, bias, wants[2]),
            _as_wanted(dresidual, residual, wants[3]),
            None,
            None,
            None,
            None,
        )


def _as_wanted(gradient: Tensor | None, to: Tensor | None, wanted: bool) -> Tensor | None:
    """The gradient in the dtype of its tensor, or None where it is not wanted."""
    if not wanted:
        return None
    if gradient is None or to is None or gradient.dtype == to.dtype:
        return gradient
    return gradient.to(to.dtype)


closed_form: Callable[..., _Result] = _ClosedForm.apply
"""The output and the moments that a backend returns, of the arguments of `_ClosedForm.forward`."""


def differentiable_gradients(
    g: Tensor, inputs: tuple[Any, ...], wants: tuple[bool, ...], resolved: Resolved, call: Call
) -> list[Tensor | None]:
    """The gradients as functions of g and of the inputs: autograd through the reference, with r and d as they were."""
    with torch.enable_grad():
        # new nodes: an input that depends on another one must not be differentiated through it
        aliases = [tensor if tensor is None else tensor.view_as(tensor) for tensor in inputs]
        x, weight, bias, residual = aliases
        assert x is not None
        y = _ORACLE.repeat(x, weight, bias, residual, resolved, call)
        wanted = [
            alias for alias, needed in zip(aliases, wants, strict=False) if needed and alias is not None
        ]
        gradients = iter(torch.autograd.grad(y, wanted, g, create_graph=True, materialize_grads=True))
    return [next(gradients) if needed else None for needed in wants[:4]]
