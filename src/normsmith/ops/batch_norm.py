"""Batch normalization, the op: moments → merge → resolve → apply, with its closed-form backward."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from normsmith._choices import check_choice
from normsmith._torch import compiler_callback, is_exporting
from normsmith.errors import InputError
from normsmith.ops._check import check_batch, make_call
from normsmith.ops._shapes import Batch, PerChannel
from normsmith.ops.call import Call, Update, eager
from normsmith.ops.closed_form import closed_form
from normsmith.ops.dispatch import choose
from normsmith.ops.function_calls import FunctionCalls
from normsmith.ops.moments import Moments
from normsmith.ops.resolve import Renorm, Running, commit
from normsmith.ops.sync import Sync

_CALLS = FunctionCalls()


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
    sync: Sync | None = None,
    collected: list[Moments] | None = None,
) -> Batch:
    """Normalise a batch channel by channel; a pure function, but for the running statistics it is given.

        y = act(γ·((x − μ)/sqrt(σ² + eps)·r + d) + β + residual)

    With `normalize_with="batch"` (training) μ and σ² are the mean and the biased variance over all valid elements
    of a channel, and, if `update_running`, the running statistics move towards them (the variance by its unbiased
    estimate). With `"running"` (inference) μ and σ² are the running statistics and nothing is updated.
    It can be differentiated twice, in x, weight, bias and residual.

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
            the running statistics, as is always done where it is known only at run time (masks, weights).
        on_nonfinite: "skip" keeps statistics that are not finite out of the running ones, "propagate" does not.
        sync: with "batch", ranks that share their statistics; with ghost batches, only the running ones.
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
    usual = mask is None and sample_weight is None and ghost_batch_size is None and sync is None
    if usual and collected is None and not (torch.compiler.is_dynamo_compiling() or compiler_callback()):
        y = _CALLS.run(
            x, weight, bias, residual, running_mean, running_var, running_std, num_batches_tracked, renorm,
            normalize_with, update_running, momentum, eps, activation, on_small_batch, on_nonfinite,
        )  # fmt: skip
        if y is not None:
            return y
    check_batch(
        x, residual, weight=weight, bias=bias,
        running_mean=running_mean, running_var=running_var, running_std=running_std,
    )  # fmt: skip
    needed = normalize_with == "running" or renorm is not None
    running = _running(running_mean, running_var, running_std, num_batches_tracked, needed)
    if on_nonfinite not in ("skip", "propagate"):
        check_choice("on_nonfinite", on_nonfinite, ("skip", "propagate"))
    call = make_call(
        x, normalize_with=normalize_with, eps=eps, renorm=renorm, mask=mask, sample_weight=sample_weight,
        ghost_batch_size=ghost_batch_size, activation=activation, on_small_batch=on_small_batch, sync=sync,
    )  # fmt: skip
    if not call.by_batch and is_exporting() and _is_plain(call, residual, running_std):
        return _exported(x, running_mean, running_var, weight, bias, eps)
    wanted = call.by_batch and update_running and running is not None
    update = None
    if wanted and collected is None and momentum is not None and sync is None:
        update = Update(momentum, on_nonfinite == "skip")
    y, moments = _served(x, weight, bias, residual, running, call, update)
    if moments is not None and collected is not None:
        collected.append(moments.detach())
    elif moments is not None and wanted:
        ranks = sync if ghost_batch_size is not None else None
        assert running is not None  # wanted
        with torch.no_grad():
            commit(running, moments, momentum=momentum, eps=eps, on_nonfinite=on_nonfinite, sync=ranks)
    return y


def _running(
    mean: Tensor | None, var: Tensor | None, std: Tensor | None, batches: Tensor | None, needed: bool
) -> Running | None:
    """The running statistics, if there are both.

    Raises:
        InputError: one is missing, and they are needed.
    """
    if mean is not None and var is not None:
        return Running(mean, var, std, batches)
    if needed:
        raise InputError("batch norm: expected running_mean and running_var to normalise by, got None")
    return None


def _served(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    running: Running | None,
    call: Call,
    update: Update | None,
) -> tuple[Tensor, Moments | None]:
    """The output of the backend that serves a call, and the moments by which the caller shall update."""
    backend = choose(x, call)
    if not backend.differentiates and _needs_gradient(x, weight, bias, residual) and eager():
        return closed_form(x, weight, bias, residual, running, call, backend, update)
    y, _, moments = backend.forward(x, weight, bias, residual, running, call, update)
    return y, moments


def _is_plain(call: Call, residual: Tensor | None, running_std: Tensor | None) -> bool:
    """Whether a call is inference as every exporter knows it."""
    return call == Call(by_batch=False, eps=call.eps) and residual is None and running_std is None


def _needs_gradient(x: Tensor, weight: Tensor | None, bias: Tensor | None, residual: Tensor | None) -> bool:
    """Whether autograd will ask for a gradient of any of these tensors."""
    return torch.is_grad_enabled() and (
        x.requires_grad
        or (weight is not None and weight.requires_grad)
        or (bias is not None and bias.requires_grad)
        or (residual is not None and residual.requires_grad)
    )


def _exported(
    x: Tensor, mean: Tensor | None, var: Tensor | None, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    """Inference as the one operator that every exporter knows."""
    weight = weight if weight is None or mean is None else weight.to(mean.dtype)
    bias = bias if bias is None or mean is None else bias.to(mean.dtype)
    return F.batch_norm(x, mean, var, weight, bias, False, 0.0, eps)
