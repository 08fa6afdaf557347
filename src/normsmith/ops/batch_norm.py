"""Batch normalization, the op: moments → merge → resolve → apply, with its closed-form backward."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from normsmith.errors import InputError
from normsmith.ops._check import check_batch, element_weights, valid_elements
from normsmith.ops._shapes import Batch, Elements, PerChannel
from normsmith.ops.activation import Activation, activation_named
from normsmith.ops.dispatch import Backend, choose
from normsmith.ops.moments import Groups, Moments, ghost_groups
from normsmith.ops.reference import Operands
from normsmith.ops.resolve import (
    Renorm,
    Resolved,
    Running,
    coefficients,
    commit,
    gradients,
    resolve,
    resolve_again,
)


def batch_norm(
    x: Batch,
    running_mean: PerChannel | None = None,
    running_var: PerChannel | None = None,
    weight: PerChannel | None = None,
    bias: PerChannel | None = None,
    *,
    normalize_with: Literal["batch", "running"] = "batch",
    update_running: bool = True,
    momentum: float | None = 0.1,
    eps: float = 1e-5,
    num_batches_tracked: Tensor | None = None,
    running_std: PerChannel | None = None,
    mask: Tensor | None = None,
    sample_weight: Tensor | None = None,
    ghost_batch_size: int | None = None,
    renorm: Renorm | None = None,
    activation: str | None = None,
    residual: Batch | None = None,
    on_small_batch: Literal["error", "running"] = "error",
    on_nonfinite: Literal["skip", "propagate"] = "skip",
    collected: list[Moments] | None = None,
) -> Batch:
    """Normalise a batch channel by channel; a pure function, but for the running statistics it is given.

        y = act(γ·((x − μ)/sqrt(σ² + eps)·r + d) + β + residual)

    With `normalize_with="batch"` (training) μ and σ² are the mean and the biased variance over all valid elements
    of a channel, and, if `update_running`, the running statistics move towards them (the variance by its unbiased
    estimate). With `"running"` (inference) μ and σ² are the running statistics and nothing is updated.
    Differentiable, twice too, in x, weight, bias and residual.

    Args:
        x: shape (batch, channels, *space), float16, bfloat16, float32 or float64; the output has its dtype.
            Statistics are accumulated in float32 at least.
        running_mean, running_var: shape (channels,), updated in place.
        weight, bias: γ and β, shape (channels,).
        normalize_with: which statistics normalise.
        update_running: whether running statistics and counter are updated (only with "batch").
        momentum: weight of the new batch; None is the cumulative average by `num_batches_tracked`.
        eps: added to the variance.
        num_batches_tracked: int64 scalar; counts the updates.
        running_std: running mean of sqrt(σ² + eps), updated in place; takes the place of sqrt(running_var + eps).
        mask: bool or 0/1 integers, True = valid, shape of x without channels, broadcastable. Elements that are
            not valid count nowhere; their outputs and gradients are 0, whatever they hold.
        sample_weight: ≥ 0, shape (batch,) or that of x without channels: weights in the statistics. An element
            of weight 0 is still normalised.
        ghost_batch_size: with "batch", every chunk of so many rows has its own statistics.
        renorm: bounds of batch renormalization, with "batch"; None is batch norm (r = 1, d = 0).
        activation: "relu", "leaky_relu", "silu", "gelu", "hardswish", "sigmoid", "tanh" or None.
        residual: shape of x, added before the activation.
        on_small_batch: a single value per channel, known by the shape: "error" raises, "running" normalises with
            the running statistics, as is always done where only run time tells (masks, weights).
        on_nonfinite: "skip" keeps statistics that are not finite out of the running ones, "propagate" does not.
        collected: a list that takes the batch's moments in place of an update of the running statistics.

    Raises:
        InputError: an argument has the wrong dtype, shape or value, or the batch is too small.
            Running statistics are then as they were.

    >>> x = torch.tensor([[1.0, 0.0], [3.0, 0.0]])
    >>> mean, var = torch.zeros(2), torch.ones(2)
    >>> batch_norm(x, mean, var, eps=0.0, momentum=0.5)[:, 0]
    tensor([-1.,  1.])
    >>> mean, var
    (tensor([1., 0.]), tensor([1.5000, 0.5000]))

    Source: Ioffe and Szegedy (2015), arXiv:1502.03167; renorm: Ioffe (2017), arXiv:1702.03275.
    """
    vectors = {"weight": weight, "bias": bias, "running_mean": running_mean, "running_var": running_var}
    check_batch(x, vectors)
    if residual is not None and residual.shape != x.shape:
        raise InputError(
            f"residual: expected the input's shape {tuple(x.shape)}, got {tuple(residual.shape)}"
        )
    running = None
    if running_mean is not None and running_var is not None:
        running = Running(running_mean, running_var, running_std, num_batches_tracked)
    if normalize_with == "running" and running is None:
        raise InputError('normalize_with="running": expected running_mean and running_var, got None')
    if renorm is not None and running is None:
        raise InputError("renorm: expected running_mean and running_var to correct towards, got None")
    by_batch = normalize_with == "batch"
    positions = x.shape[2:].numel()
    if by_batch and on_small_batch == "error" and x.shape[0] * positions == 1:
        raise InputError(
            f"batch norm: expected more than one value per channel in training, got an input of shape "
            f'{tuple(x.shape)}; use larger batches (e.g. drop_last=True) or on_small_batch="running"'
        )
    if by_batch and ghost_batch_size is not None and ghost_batch_size * positions < 2:
        raise InputError(
            f"ghost_batch_size: expected ghost batches of more than one value per channel, got "
            f"{ghost_batch_size} rows × {positions} positions; make it at least 2"
        )
    plain = mask is None and sample_weight is None and activation is None and residual is None
    if not by_batch and plain and running_std is None and torch.compiler.is_exporting():
        return _exported(x, running_mean, running_var, weight, bias, eps)

    valid = valid_elements(mask, x)
    plan = _Plan(
        by_batch=by_batch,
        eps=eps,
        renorm=renorm,
        valid=valid,
        weights=element_weights(sample_weight, valid, x, _computing(x)) if by_batch else None,
        groups=ghost_groups(x.shape[0], positions, ghost_batch_size) if by_batch else None,
        activation=activation_named(activation),
        backend=choose(x),
    )
    if _needs_closed_form(x, weight, bias, residual):
        y, moments = _ClosedForm.apply(x, weight, bias, residual, running, plan)
    else:
        y, _, _, moments = _normalise(x, weight, bias, residual, running, plan)
    if moments is not None:
        moments = moments.detach()
        if collected is not None:
            collected.append(moments)
        elif update_running and running is not None:
            with torch.no_grad():
                commit(running, moments, momentum=momentum, eps=eps, on_nonfinite=on_nonfinite)
    return y


class _Plan(NamedTuple):
    """A checked call, but for the tensors that may need gradients and the running statistics."""

    by_batch: bool
    eps: float
    renorm: Renorm | None
    valid: Elements | None
    weights: Elements | None
    groups: Groups | None
    activation: Activation | None
    backend: Backend


def _normalise(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    running: Running | None,
    plan: _Plan,
) -> tuple[Tensor, Operands, Resolved, Moments | None]:
    """The one path. Differentiable as it stands: under autograd it is the oracle of the closed form."""
    batch = _finite_where_invalid(x, plan.valid).to(_computing(x))
    moments = plan.backend.moments(batch, plan.weights, plan.groups) if plan.by_batch else None
    resolved = resolve(moments, running, plan.eps, plan.renorm)
    operands = _operands(batch, weight, bias, residual, resolved, plan)
    return plan.backend.apply(operands).to(x.dtype), operands, resolved, moments


def _operands(
    batch: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    resolved: Resolved,
    plan: _Plan,
) -> Operands:
    scale, shift = coefficients(resolved, weight, bias)
    if residual is not None:
        residual = _finite_where_invalid(residual, plan.valid).to(batch.dtype)
    return Operands(
        batch, resolved.mean, scale, shift, residual, plan.activation, plan.valid, plan.weights, plan.groups
    )


class _ClosedForm(torch.autograd.Function):
    """The path with its gradient in closed form.

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
        plan: _Plan,
    ) -> tuple[Tensor, Moments | None]:
        y, operands, resolved, moments = _normalise(x, weight, bias, residual, running, plan)
        ctx.save_for_backward(x, weight, bias, residual)
        ctx.plan, ctx.resolved = plan, resolved
        ctx.scale, ctx.shift = operands.scale, operands.shift
        ctx.count = moments.count if moments is not None else 1.0
        return y, moments

    @staticmethod
    def backward(ctx: Any, *incoming: Any) -> tuple[Tensor | None, ...]:
        g = incoming[0]
        if torch.is_grad_enabled():
            return _differentiable_gradients(ctx, g)
        x, weight, bias, residual = ctx.saved_tensors
        resolved, plan = ctx.resolved, ctx.plan
        wants_x, wants_weight, wants_bias, wants_residual, *_ = ctx.needs_input_grad
        batch = _finite_where_invalid(x, plan.valid).to(_computing(x))
        if residual is not None:
            residual = _finite_where_invalid(residual, plan.valid).to(batch.dtype)
        operands = Operands(
            batch,
            resolved.mean,
            ctx.scale,
            ctx.shift,
            residual,
            plan.activation,
            plan.valid,
            plan.weights,
            plan.groups,
        )
        g = g.to(batch.dtype)
        dx = dweight = dbias = dresidual = offset = slope = None
        if wants_weight or wants_bias or resolved.by_batch is not False:
            sums = plan.backend.reduce(g, operands)
            dweight, dbias, offset, slope = gradients(resolved, ctx.scale, ctx.count, *sums)
        if wants_x or wants_residual:
            dx, dresidual = plan.backend.gradient(g, operands, offset, slope)
        return (
            dx.to(x.dtype) if wants_x else None,
            dweight.to(weight.dtype) if wants_weight else None,
            dbias.to(bias.dtype) if wants_bias else None,
            dresidual.to(ctx.saved_tensors[3].dtype) if wants_residual else None,
            None,
            None,
        )


def _differentiable_gradients(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    """The gradients as functions of g and of the inputs: autograd through the path, with r and d as they were."""
    with torch.enable_grad():
        # new nodes: an input that depends on another one must not be differentiated through it
        x, weight, bias, residual = inputs = [
            tensor if tensor is None else tensor.view_as(tensor) for tensor in ctx.saved_tensors
        ]
        plan, resolved = ctx.plan, ctx.resolved
        batch = _finite_where_invalid(x, plan.valid).to(_computing(x))
        if resolved.by_batch is not False:
            resolved = resolve_again(
                plan.backend.moments(batch, plan.weights, plan.groups), plan.eps, resolved
            )
        y = plan.backend.apply(_operands(batch, weight, bias, residual, resolved, plan)).to(x.dtype)
        wanted = [t for t, needed in zip(inputs, ctx.needs_input_grad, strict=False) if needed]
        found = iter(torch.autograd.grad(y, wanted, g, create_graph=True, materialize_grads=True))
    return (*(next(found) if needed else None for needed in ctx.needs_input_grad[:4]), None, None)


def _computing(x: Tensor) -> torch.dtype:
    """The dtype of elementwise work: float32 at least."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _finite_where_invalid(x: Tensor, valid: Tensor | None) -> Tensor:
    return x if valid is None else torch.where(valid, x, 0.0)


def _needs_closed_form(*inputs: Tensor | None) -> bool:
    """Whether autograd is at work in eager mode; compilers and functorch differentiate the path itself."""
    return (
        torch.is_grad_enabled()
        and any(tensor is not None and tensor.requires_grad for tensor in inputs)
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
        and torch.autograd.forward_ad._current_level < 0
    )


def _exported(
    x: Tensor, mean: Tensor | None, var: Tensor | None, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    """Inference as the one operator that every exporter knows."""
    weight = weight if weight is None or mean is None else weight.to(mean.dtype)
    bias = bias if bias is None or mean is None else bias.to(mean.dtype)
    return F.batch_norm(x, mean, var, weight, bias, False, 0.0, eps)
