"""Every decision about statistics: which ones normalise a batch, and how the running ones are updated.

All tensors here are small, of shape (groups, channels). What to do about small counts, about values that are not
finite, and about r and d of renorm is decided here and nowhere else, and the host never waits for the device. The
settling phases of the CPU and GPU kernels repeat these decisions.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from normsmith._torch import for_captured, has_function_transforms
from normsmith.errors import InputError
from normsmith.ops._shapes import PerChannel, PerGroup
from normsmith.ops.moments import Moments
from normsmith.ops.snapshot import snapshot
from normsmith.ops.sync import Sync


class Running(NamedTuple):
    """The running buffers of a layer, of shape (channels,), and its counter of updates.

    `std` is the running standard deviation of the renorm paper; without it σ = sqrt(var + eps).
    """

    mean: PerChannel
    var: PerChannel
    std: PerChannel | None = None
    batches: Tensor | None = None


class Renorm(NamedTuple):
    """Bounds of batch renormalization: r in [1/r_max, r_max], d in [−d_max, d_max]. Never below 1 and 0."""

    r_max: Tensor | float
    d_max: Tensor | float


class Resolved(NamedTuple):
    """What normalises each group and channel: y = γ·((x − mean)·inv_std·r + d) + β.

    `by_batch` says whether mean and inv_std are the batch's own (and so depend on x): for all groups, for none,
    or, where that is known only at run time, for the groups that are True in a tensor of shape (groups, 1). `r` and
    `d` are constants of the backward; None stands for 1 and 0. `low` is what rounding took from the mean; None
    stands for 0.
    """

    mean: PerGroup
    low: PerGroup | None
    inv_std: PerGroup
    r: PerGroup | None
    d: PerGroup | None
    by_batch: Tensor | bool


def resolve(
    moments: Moments | None, running: Running | None, eps: float, renorm: Renorm | None = None
) -> Resolved:
    """Decide which statistics normalise each group and channel.

    Without moments: the running statistics. With moments: the batch's own, corrected by renorm if asked; groups
    that have too few values (known only at run time) fall back to the running statistics, or to mean 0 and
    variance 1, their initial values, where nothing is tracked.

        r = clip(σ_B/σ, 1/r_max, r_max)    d = clip((μ_B − μ)/σ, −d_max, d_max)    σ_B = sqrt(var_B + eps)

    >>> from normsmith.ops import moments
    >>> batch = moments(torch.tensor([[0.0], [2.0]]))
    >>> resolve(batch, None, eps=0.0).mean.item(), resolve(batch, None, eps=0.0).inv_std.item()
    (1.0, 1.0)
    """
    if moments is None:
        if running is None:
            raise ValueError("resolve needs moments or running statistics; got neither")
        mean, inv_std = _population(running, eps, None)
        return Resolved(mean, None, inv_std, None, None, False)
    mean, low, inv_std, r, d = moments.mean, moments.low, (moments.variance + eps).rsqrt(), None, None
    population = None
    if renorm is not None:
        if running is None:
            raise ValueError("renorm needs running statistics; got None")
        population = _population(running, eps, mean.dtype)
        r, d = _correction(moments, inv_std, *population, renorm)
    enough = moments.enough
    if enough is True:
        return Resolved(mean, low, inv_std, r, d, True)
    if population is None:
        population = _initial(mean, eps) if running is None else _population(running, eps, mean.dtype)
    if enough is False:
        return Resolved(population[0], None, population[1], None, None, False)
    mean, inv_std = torch.where(enough, mean, population[0]), torch.where(enough, inv_std, population[1])
    if r is not None and d is not None:
        r, d = torch.where(enough, r, 1.0), torch.where(enough, d, 0.0)
    return Resolved(mean, torch.where(enough, low, 0.0), inv_std, r, d, enough)


def resolve_again(moments: Moments, eps: float, earlier: Resolved) -> Resolved:
    """Repeat an earlier decision on differentiable moments of the same batch, for gradients of gradients."""
    if earlier.by_batch is False:
        return earlier
    own = Resolved(
        moments.mean,
        moments.low,
        (moments.variance + eps).rsqrt(),
        earlier.r,
        earlier.d,
        earlier.by_batch,
    )
    if isinstance(own.by_batch, Tensor):
        own = own._replace(
            mean=torch.where(own.by_batch, own.mean, earlier.mean),
            low=torch.where(own.by_batch, moments.low, 0.0),
            inv_std=torch.where(own.by_batch, own.inv_std, earlier.inv_std),
        )
    return own


def correction(moments: Moments, running: Running, eps: float, renorm: Renorm) -> tuple[PerGroup, PerGroup]:
    """Renorm's r and d for these moments: within their bounds, and constants of the backward."""
    population = _population(running, eps, moments.mean.dtype)
    return _correction(moments, (moments.variance + eps).rsqrt(), *population, renorm)


def _correction(
    moments: Moments, inv_std: Tensor, running_mean: Tensor, running_inv_std: Tensor, renorm: Renorm
) -> tuple[Tensor, Tensor]:
    """`correction`, where both deviations are known."""
    r = running_inv_std / inv_std.detach()
    d = ((moments.mean.detach() - running_mean) + moments.low.detach()) * running_inv_std
    r_max, d_max = renorm
    return _within(r, r_max, 1.0, _inverse), _within(d, d_max, 0.0, operator.neg)


def _inverse(bound: Any) -> Any:
    return 1.0 / bound


def _within(value: Tensor, bound: Tensor | float, least: float, opposite: Callable[[Any], Any]) -> Tensor:
    """Clip a value by a bound, itself at least `least`, and by the bound's opposite."""
    if isinstance(bound, Tensor):
        bound = bound.to(value.dtype).clamp(min=least)
        return value.clamp(opposite(bound), bound)
    bound = max(bound, least)
    return value.clamp(opposite(bound), bound)


def _population(running: Running, eps: float, dtype: torch.dtype | None) -> tuple[Tensor, Tensor]:
    """Mean and inverse standard deviation of the running statistics, of shape (1, channels)."""
    # always copies: a running buffer that is saved for backward would change before it is read
    mean = snapshot(running.mean).unsqueeze(0)
    if running.std is not None:
        inv_std = snapshot(running.std).reciprocal().unsqueeze(0)
    else:
        inv_std = (snapshot(running.var) + eps).rsqrt().unsqueeze(0)
    # in the moments' dtype: all ranks must exchange one dtype, whatever their buffers and backends
    return (mean, inv_std) if dtype is None else (mean.to(dtype), inv_std.to(dtype))


def _initial(like: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return torch.zeros_like(like), torch.full_like(like, (1.0 + eps) ** -0.5)


def coefficients(
    resolved: Resolved, weight: PerChannel | None, bias: PerChannel | None
) -> tuple[PerGroup, PerGroup]:
    """Scale γr/σ and shift γd + β − low·scale of each group and channel: y = (x − mean)·scale + shift."""
    scale, shift = resolved.inv_std, resolved.d
    if resolved.r is not None:
        scale = scale * resolved.r
    if weight is not None:
        weight = weight.to(scale.dtype)
        scale = scale * weight
        shift = None if shift is None else shift * weight
    if bias is not None:
        bias = bias.to(scale.dtype)
        shift = bias if shift is None else shift + bias
    if shift is None:
        shift = torch.zeros_like(scale)
    if resolved.low is not None:
        return scale, torch.addcmul(shift, resolved.low, scale, value=-1)
    return scale, shift.expand_as(scale)


class Gradients(NamedTuple):
    """What follows from the two sums of a gradient: dγ and dβ, of shape (channels,), and the terms of dx.

    dx = scale·g − w·(offset + slope·(x − mean)); offset and slope are None where no group has its own moments.
    """

    weight: PerChannel
    bias: PerChannel
    offset: PerGroup | None
    slope: PerGroup | None


def gradients(
    resolved: Resolved,
    scale: PerGroup,
    count: Tensor | float,
    plain: PerGroup,
    moment: PerGroup,
    exchange: Callable[[Tensor], Tensor] | None = None,
) -> Gradients:
    """From the sums Σg (`plain`) and Σg·(x − mean) (`moment`) of each group to the gradients.

    `exchange` sums a tensor over ranks that share the statistics. Only the sums in dx cross ranks: dγ and dβ are
    averaged later, with the gradients of all other parameters.

    dβ = Σg    dγ = r·Σg·x̂ + d·Σg    dx = (γr/σ)·(g − (w/W)·(Σg + x̂·Σg·x̂))
    """
    if resolved.low is not None:
        moment = torch.addcmul(moment, resolved.low, plain, value=-1)
    normal = dweight = moment * resolved.inv_std
    if resolved.r is not None and resolved.d is not None:
        dweight = torch.addcmul(plain * resolved.d, normal, resolved.r)
    dweight, dbias = dweight.sum(0), plain.sum(0)
    if resolved.by_batch is False:
        return Gradients(dweight, dbias, None, None)
    offset, slope = scale * plain, scale * normal
    if exchange is not None:
        offset, slope = exchange(torch.stack([offset, slope])).unbind()
    share: Tensor | float = 1.0 / count
    if isinstance(resolved.by_batch, Tensor):
        share = torch.where(resolved.by_batch, share, 0.0)
    offset, slope = offset * share, slope * resolved.inv_std * share
    if resolved.low is not None:
        offset = torch.addcmul(offset, slope, resolved.low, value=-1)
    return Gradients(dweight, dbias, offset, slope)


def commit(
    running: Running,
    moments: Moments,
    *,
    momentum: float | None = 0.1,
    eps: float = 1e-5,
    on_nonfinite: str = "skip",
    sync: Sync | None = None,
) -> None:
    """Move the running statistics towards a batch, in place: one update, whatever the number of groups.

        running ← (1 − m)·running + m·(mean of the groups' means, or of their unbiased variances)

    `momentum=None` stands for m = 1/(updates so far + 1), the cumulative average. Groups with too few values
    are left out. With `on_nonfinite="skip"` a channel whose statistics are not finite (or do not fit the buffer)
    keeps its old values; `"propagate"` updates by them, as torch does. With `sync` the groups are
    those of all ranks. The counter counts training batches, or, with `momentum=None`, those that changed a channel.

    >>> from normsmith.ops import moments
    >>> running = Running(torch.zeros(1), torch.ones(1))
    >>> commit(running, moments(torch.tensor([[0.0], [2.0]])), momentum=0.5)
    >>> running.mean, running.var
    (tensor([0.5000]), tensor([1.5000]))
    """
    values = [moments.mean + moments.low, moments.unbiased_variance]
    if running.std is not None:
        values.append((moments.variance + eps).sqrt())
    enough, usable = moments.enough, None
    if sync is not None:
        enough = torch.as_tensor(enough, device=values[0].device).expand(len(values[0]), 1)
        (mean, var, *std), usable = sync.average(values, enough)
    elif enough is False:
        return
    else:
        mean, var, *std = [_average(value, enough) for value in values]
        usable = enough.any(0) if isinstance(enough, Tensor) else None
    if on_nonfinite == "skip":
        finite = var <= torch.finfo(running.var.dtype).max
        usable = finite if usable is None else finite & usable
    factor: Tensor | float
    if momentum is not None:
        factor = momentum
    elif running.batches is not None:
        factor = 1.0 / (running.batches + 1).to(running.mean.dtype)
    else:
        raise ValueError("momentum=None needs a counter of batches; got None")
    _move(running.mean, mean, factor, usable)
    _move(running.var, var, factor, usable)
    if running.std is not None:
        _move(running.std, std[0], factor, usable)
    if running.batches is not None:
        if usable is None or momentum is not None:
            running.batches.add_(1)
        else:
            running.batches.add_(for_captured(running.batches, usable.any()))


def _average(values: PerGroup, enough: Tensor | bool) -> PerChannel:
    if isinstance(enough, Tensor):
        return torch.where(enough, values, 0.0).sum(0) / enough.sum(0).clamp(min=1)
    return values[0] if values.shape[0] == 1 else values.mean(0)


def _move(buffer: Tensor, value: Tensor, factor: Tensor | float, usable: Tensor | None) -> None:
    """Move a buffer towards a value, where the value is usable."""
    if value.dtype != buffer.dtype:
        value = value.to(buffer.dtype)
    if usable is not None:
        value = torch.where(usable, value, buffer)
    if has_function_transforms():
        write_transformed(buffer, torch.lerp(buffer, value, factor))  # vmap has no rule for lerp_
    else:
        buffer.lerp_(value, factor)


def write_transformed(buffer: Tensor, value: Tensor) -> None:
    """Write a value into a running buffer while a transform of `torch.func` is at work.

    Raises:
        InputError: the transform does not let the forward write into the buffer.
    """
    try:
        buffer.copy_(for_captured(buffer, value))
    except RuntimeError as error:
        raise InputError(
            "running statistics: expected buffers that the forward may update, got some that a transform of torch.func "
            f"(vmap, grad, ...) protects ({str(error).splitlines()[0][:60]}...); run it within "
            "normsmith.layers.without_a_trace(model), which updates none, or pass the buffers through "
            "torch.func.functional_call, stacked under vmap"
        ) from error
