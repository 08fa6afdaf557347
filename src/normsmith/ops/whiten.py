"""Whitening of groups of channels, the op: moments → whitening matrix → apply. Plain torch, on any device."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from normsmith._choices import check_choice
from normsmith._torch import has_function_transforms
from normsmith.errors import InputError
from normsmith.ops._shapes import Batch, PerChannel
from normsmith.ops.call import computing_dtype
from normsmith.ops.inverse_root import METHODS, inverse_root
from normsmith.ops.masks import valid_elements
from normsmith.ops.resolve import write_transformed
from normsmith.ops.snapshot import snapshot


class Comoments(NamedTuple):
    """Count n, mean, and co-moments Σ(x − mean)(x − mean)ᵀ of each group of channels.

    `mean` has the shape (groups, size), `product` (groups, size, size). `count` is a plain number where the shape of
    the batch decides it, a scalar tensor where a mask does. `low` is what rounding took from the mean.
    """

    count: Tensor | float  # type: ignore[assignment]  # tuples have a method of this name
    mean: Tensor
    product: Tensor
    low: Tensor

    @property
    def enough(self) -> Tensor | bool:
        """Whether the covariance can have full rank: more values than channels in a group."""
        return self.count > self.mean.shape[1]

    def covariance(self, eps: float) -> Tensor:
        """The biased covariance plus eps on its diagonal."""
        size = self.mean.shape[1]
        identity = torch.eye(size, dtype=self.product.dtype, device=self.product.device)
        return self.product / _at_least_one(self.count) + eps * identity

    def detach(self) -> Comoments:
        """The same moments without their autograd history."""
        return Comoments(self.count, self.mean.detach(), self.product.detach(), self.low.detach())


class RunningWhitening(NamedTuple):
    """The running buffers of a whitening layer: mean (channels,), matrix (groups, size, size), and a counter."""

    mean: Tensor
    matrix: Tensor
    batches: Tensor | None = None


def whiten(
    x: Batch,
    running_mean: PerChannel | None = None,
    running_whitening: Tensor | None = None,
    weight: PerChannel | None = None,
    bias: PerChannel | None = None,
    *,
    groups: int = 1,
    method: Literal["zca", "newton"] = "zca",
    iterations: int = 5,
    normalize_with: Literal["batch", "running"] = "batch",
    update_running: bool = True,
    momentum: float | None = 0.1,
    eps: float = 1e-5,
    num_batches_tracked: Tensor | None = None,
    mask: Tensor | None = None,
    on_small_batch: Literal["error", "running"] = "error",
    on_nonfinite: Literal["skip", "propagate"] = "skip",
    collected: list[Comoments] | None = None,
) -> Batch:
    """Make the channels of each group uncorrelated, with variance one, by the matrix closest to the identity.

        y = γ·W(x − μ) + β        W = (Σ + eps·I)^(−1/2)

    With `normalize_with="batch"` (training) μ and Σ are the mean and biased covariance over all valid elements, and, if
    `update_running`, the running mean and the running matrix move towards μ and W. With `"running"` (inference) they
    take their place and nothing is updated. It can be differentiated twice; repeated eigenvalues do no harm.

    Args:
        x: shape (batch, channels, *space), floating point; computed in float32 at least, the output has its dtype.
        running_mean: shape (channels,), updated in place.
        running_whitening: shape (groups, channels/groups, channels/groups), updated in place.
        weight, bias: γ and β, shape (channels,).
        groups: consecutive channels/groups channels are whitened together.
        method: "zca" by eigendecomposition, or "newton" by iterations that approach it.
        iterations: of "newton".
        normalize_with, update_running, momentum, num_batches_tracked, mask, on_nonfinite: as in `batch_norm`.
        eps: added to the diagonal of Σ.
        on_small_batch: no more values than channels in a group, so that Σ has no full rank, known by the shape:
            "error" raises, "running" whitens by the running statistics, as is always done where only a mask decides it.
        collected: a list that takes the batch's moments in place of an update of the running statistics.

    Raises:
        InputError: an argument has the wrong dtype, shape or value, or the batch is too small.

    >>> x = torch.tensor([[1.0, 1.0], [-1.0, -1.0], [0.5, -0.5], [-0.5, 0.5]])
    >>> y = whiten(x, eps=0.0)
    >>> (y.T @ y / 4).round(decimals=4).abs()
    tensor([[1., 0.],
            [0., 1.]])

    Source: Huang et al. (2018), arXiv:1804.08450; Newton: Huang et al. (2019), arXiv:1904.03441.
    """
    running = None
    if running_mean is not None and running_whitening is not None:
        running = RunningWhitening(running_mean, running_whitening, num_batches_tracked)
    by_batch = normalize_with == "batch"
    _check(x, groups, weight, bias, running)
    check_choice("method", method, METHODS)
    if not by_batch and running is None:
        raise InputError("whitening: expected running_mean and running_whitening to whiten by, got None")
    valid = valid_elements(mask, x)
    size, values = x.shape[1] // groups, x.shape[0] * x.shape[2:].numel()
    if by_batch and values <= size:
        if on_small_batch == "error" and values > 0:
            raise InputError(
                f"whitening: expected more values per channel than the {size} channels that are whitened together, "
                f"got {values} from an input of shape {tuple(x.shape)}; use larger batches, more groups, or "
                'on_small_batch="running"'
            )
        by_batch = False
    # half precision has too few digits for a covariance, and autocast would multiply in it
    with _full_precision(x.device.type):
        batch = (
            x.to(computing_dtype(x)) if valid is None else torch.where(valid, x, 0.0).to(computing_dtype(x))
        )
        rows = batch.transpose(0, 1).reshape(groups, size, values)
        counted = None if valid is None else valid.expand(-1, 1, *x.shape[2:]).reshape(1, 1, values)
        batch_moments = comoments(rows, counted) if by_batch else None
        mean, low, matrix = _resolve(batch_moments, running, rows, method, iterations, eps)
        y = matrix @ ((rows - mean.unsqueeze(2)) - low.unsqueeze(2))
        y = y.reshape(x.shape[1], x.shape[0], *x.shape[2:]).transpose(0, 1)
        y = _affine(y, weight, bias)
    if valid is not None:
        y = torch.where(valid, y, 0.0)
    if batch_moments is not None and collected is not None:
        collected.append(batch_moments.detach())
    elif batch_moments is not None and running is not None and update_running:
        commit_whitening(running, batch_moments, matrix, momentum=momentum, on_nonfinite=on_nonfinite)
    return _laid_out_like(y.to(x.dtype), x)


def comoments(rows: Tensor, valid: Tensor | None = None) -> Comoments:
    """Measure rows of shape (groups, size, values), where valid (1, 1, values); others must be 0."""
    count: Tensor | float = float(rows.shape[2]) if valid is None else valid.sum().to(rows.dtype)
    divisor = _at_least_one(count)
    mean = rows.sum(2) / divisor
    centred = _centred(rows, mean, valid)
    low = centred.sum(2) / divisor
    centred = _centred(centred, low, valid)
    return Comoments(count, mean, centred @ centred.mT, low)


def merge_comoments(parts: list[Comoments]) -> Comoments:
    """Merge the moments of several batches, by Chan's formula for matrices.

        n = Σn_i    mean = Σn_i·mean_i / n    product = Σproduct_i + Σn_i·(mean_i − mean)(mean_i − mean)ᵀ

    >>> rows = torch.tensor([[[1.0, 2.0, 3.0, 6.0]]])
    >>> merge_comoments([comoments(rows[..., :3]), comoments(rows[..., 3:])]).product.item()
    14.0
    """
    counts = torch.stack([torch.as_tensor(part.count, dtype=part.mean.dtype) for part in parts])
    means = torch.stack([part.mean + part.low for part in parts])
    share = (counts / _at_least_one(counts.sum()))[:, None, None]
    mean = (share * means).sum(0)
    apart = means - mean
    between = torch.einsum("i,igc,igd->gcd", counts, apart, apart)
    product = torch.stack([part.product for part in parts]).sum(0) + between
    return Comoments(counts.sum(), mean, product, torch.zeros_like(mean))


@torch.no_grad()
def commit_whitening(
    running: RunningWhitening,
    moments: Comoments,
    matrix: Tensor,
    *,
    momentum: float | None = 0.1,
    on_nonfinite: str = "skip",
) -> None:
    """Move the running statistics towards a batch and its whitening matrix, in place.

        running ← (1 − m)·running + m·(μ, W)

    Nothing moves where a mask left too few values. With `on_nonfinite="skip"` a group whose statistics are not
    finite keeps its old ones. `momentum=None` and the counter are those of `commit`.

    >>> running = RunningWhitening(torch.zeros(1), torch.ones(1, 1, 1))
    >>> moments = comoments(torch.tensor([[[1.0, 5.0]]]))
    >>> commit_whitening(running, moments, inverse_root(moments.covariance(eps=0.0)), momentum=0.5)
    >>> running.mean, running.matrix.flatten()
    (tensor([1.5000]), tensor([0.7500]))
    """
    mean = moments.mean + moments.low
    usable = torch.as_tensor(moments.enough, device=mean.device).expand(len(mean))
    if on_nonfinite == "skip":
        usable = usable & mean.isfinite().all(1) & matrix.isfinite().all(-1).all(-1)
    factor: Tensor | float
    if momentum is not None:
        factor = momentum
    elif running.batches is not None:
        factor = 1.0 / (running.batches + 1).to(running.mean.dtype)
    else:
        raise ValueError("momentum=None needs a counter of batches; got None")
    for old, new, moves in (
        (running.mean.view_as(mean), mean, usable.unsqueeze(1)),
        (running.matrix, matrix, usable[:, None, None]),
    ):
        step = torch.where(moves, new.to(old.dtype) - old, 0.0) * factor
        if has_function_transforms():
            write_transformed(old, old + step)
        else:
            old.add_(step)
    if running.batches is not None:
        running.batches.add_(1 if momentum is not None else usable.any())


def _resolve(
    moments: Comoments | None,
    running: RunningWhitening | None,
    rows: Tensor,
    method: str,
    iterations: int,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Decide what whitens: the mean and its low part, both (groups, size), and the matrix, (groups, size, size)."""
    if moments is not None:
        mean, low, matrix = (
            moments.mean,
            moments.low,
            inverse_root(moments.covariance(eps), method, iterations),
        )
        if not isinstance(moments.enough, Tensor):
            return mean, low, matrix
    groups, size, _ = rows.shape
    if running is None:
        # the initial values of running statistics
        old_mean = rows.new_zeros(groups, size)
        identity = torch.eye(size, dtype=rows.dtype, device=rows.device)
        old_matrix = (identity * (1 + eps) ** -0.5).expand(groups, size, size)
    else:
        # copies: a running buffer that is saved for backward would change before it is read
        old_mean = snapshot(running.mean.detach()).to(rows.dtype).view(groups, size)
        old_matrix = snapshot(running.matrix.detach()).to(rows.dtype)
    if moments is None:
        return old_mean, torch.zeros_like(old_mean), old_matrix
    enough = moments.enough
    assert isinstance(enough, Tensor)
    return (
        torch.where(enough, mean, old_mean),
        torch.where(enough, low, 0.0),
        torch.where(enough, matrix, old_matrix),
    )


def _check(
    x: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, running: RunningWhitening | None
) -> None:
    """Refuse inputs, groups and vectors whose shapes do not fit together."""
    if not x.is_floating_point():
        raise InputError(
            f"whitening: expected a floating-point input, got {x.dtype}; convert it, e.g. with .float()"
        )
    if x.ndim < 2:
        raise InputError(
            f"whitening: expected an input of shape (batch, channels, ...), got {tuple(x.shape)}; "
            "add the missing dimension, e.g. with .unsqueeze(0)"
        )
    channels = x.shape[1]
    if groups < 1 or channels % groups:
        raise InputError(
            f"groups: expected a divisor of the {channels} channels of an input of shape {tuple(x.shape)}, "
            f"got {groups}"
        )
    size = channels // groups
    wanted: dict[str, tuple[Tensor | None, tuple[int, ...]]] = {
        "weight": (weight, (channels,)),
        "bias": (bias, (channels,)),
    }
    if running is not None:
        wanted["running_mean"] = (running.mean, (channels,))
        wanted["running_whitening"] = (running.matrix, (groups, size, size))
    for name, (tensor, shape) in wanted.items():
        if tensor is not None and tensor.shape != shape:
            raise InputError(
                f"whitening: expected {name} of shape {shape} for {channels} channels in {groups} groups, "
                f"got {tuple(tensor.shape)}"
            )


def _affine(y: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """γ·y + β."""
    shape = (-1,) + (1,) * (y.ndim - 2)
    if weight is not None:
        y = y * weight.to(y.dtype).view(shape)
    return y if bias is None else y + bias.to(y.dtype).view(shape)


def _full_precision(device: str) -> AbstractContextManager[object]:
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


def _laid_out_like(y: Tensor, x: Tensor) -> Tensor:
    """The output in the memory format of the input."""
    for layout in (torch.contiguous_format, torch.channels_last, torch.channels_last_3d):
        fits = layout == torch.contiguous_format or x.ndim == (4 if layout == torch.channels_last else 5)
        if fits and x.is_contiguous(memory_format=layout):
            return y.contiguous(memory_format=layout)
    return y


def _centred(rows: Tensor, mean: Tensor, valid: Tensor | None) -> Tensor:
    centred = rows - mean.unsqueeze(2)
    return centred if valid is None else torch.where(valid, centred, 0.0)


def _at_least_one(count: Tensor | float) -> Tensor | float:
    return count.clamp(min=1) if isinstance(count, Tensor) else max(count, 1.0)
