"""The statistics that layers normalise by, and the rules by which measured moments become statistics."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from normsmith.ops import Moments


class Statistics(NamedTuple):
    """What a layer normalises by in evaluation: `mean` and `var` of shape (channels,).

    `std` is there only for layers that keep a running standard deviation, √(variance + epsilon), as well.
    """

    mean: Tensor
    var: Tensor
    std: Tensor | None = None

    def like(self, other: Statistics) -> Statistics:
        """The same statistics on the device and in the dtypes of others; with `std` only if the others have one.

        >>> narrow, wide = Statistics(torch.zeros(1), torch.ones(1)), Statistics(*torch.ones(2, 1).double())
        >>> narrow.like(wide).var
        tensor([1.], dtype=torch.float64)
        """
        if (
            other.std is None
            and self.mean.dtype == other.mean.dtype
            and self.mean.device == other.mean.device
        ):
            return self  # as at every call of a layer in float32
        std = None if other.std is None or self.std is None else self.std.to(other.std)
        return Statistics(self.mean.to(other.mean), self.var.to(other.var), std)

    def copied(self) -> Statistics:
        """The same statistics in tensors of their own, for those of a layer that goes on.

        >>> own = Statistics(torch.zeros(1), torch.ones(1))
        >>> own.copied().mean is own.mean
        False
        """
        std = None if self.std is None else self.std.clone()
        return Statistics(self.mean.clone(), self.var.clone(), std)


BatchRule = Callable[[float, Statistics, Moments, int], Statistics | None]
"""The statistics that a layer normalises one batch by, computed from the layer's epsilon, the layer's own statistics,
the moments of its input and the number of samples in the batch. None stands for the layer's own statistics."""

PopulationRule = Callable[[float, Statistics, Moments, int], Statistics]
"""The statistics that a layer should hold after a pass, computed from the layer's epsilon, the statistics that it
holds, the moments of its inputs over all batches and the number of samples in them."""


def batch_statistics(epsilon: float, own: Statistics, moments: Moments, _: int) -> Statistics | None:
    """A batch rule: normalise every batch by its own statistics, as in training.

    Where a batch has no variance, because fewer than two values per channel came, the layer's own statistics serve.

    >>> from normsmith.ops import moments
    >>> own = Statistics(torch.zeros(1), torch.ones(1))
    >>> mean, var, _ = batch_statistics(1e-5, own, moments(torch.tensor([[1.0], [3.0]])), 2)
    >>> mean, var
    (tensor([2.]), tensor([1.]))
    """
    enough = moments.enough
    if enough is False:
        return None
    mean, var = moments.mean[0], moments.variance[0]
    if isinstance(enough, Tensor):
        mean, var = torch.where(enough[0], mean, own.mean), torch.where(enough[0], var, own.var)
    std = None if own.std is None else (var + epsilon).sqrt()
    return Statistics(mean, var, std).like(own)


def population_statistics(epsilon: float, own: Statistics, moments: Moments, _: int = 0) -> Statistics:
    """A population rule: the mean and the unbiased variance of all values, as running statistics keep them.

    Layers that keep a standard deviation get √(biased variance + epsilon), by which they normalise in training.

    >>> from normsmith.ops import moments
    >>> held = Statistics(torch.zeros(1), torch.ones(1))
    >>> mean, var, _ = population_statistics(1e-5, held, moments(torch.tensor([[1.0], [3.0]])))
    >>> mean, var
    (tensor([2.]), tensor([2.]))
    """
    std = None if own.std is None else (moments.variance + epsilon).sqrt()[0]
    return Statistics((moments.mean + moments.low)[0], moments.unbiased_variance[0], std)
