"""The moments of what reaches a layer: measured for each batch, and merged over all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from normsmith.anatomy.float64 import has_float64
from normsmith.measure.layers import MeasuredLayer
from normsmith.measure.statistics import Statistics
from normsmith.ops import Moments, batch_norm, merge, moments

_MERGED_AT = 64
"""Parts that wait before they are merged: merging is many small operations, and one call does for all."""


@dataclass
class Meter:
    """Collects the moments of one layer's inputs, and merges them in float64 by Chan's formula."""

    measured: MeasuredLayer
    own: Statistics
    """The statistics that the layer normalises by where no rule computes others for a batch."""
    parts: list[Moments] = field(default_factory=list)

    def add(self, part: Moments) -> None:
        """Count the moments of one more call of the layer."""
        self.parts.append(part)
        if len(self.parts) >= _MERGED_AT:
            self.parts = [merged(self.parts)]

    def take(self) -> Moments | None:
        """The moments of all calls since the last time, on the CPU; None where the layer was not called."""
        result = merged_on_cpu(self.parts)
        self.parts = []
        return result


def packed(parts: Sequence[Moments]) -> list[Moments]:
    """The same moments, all in one piece of memory (for each dtype and device).

    What a forward leaves in small pieces lies between its large outputs, whose memory cannot be used as a whole again.

    >>> from normsmith.ops import moments
    >>> one, other = packed([moments(torch.ones(2, 3)), moments(torch.zeros(2, 1))])
    >>> one.mean, one.mean.untyped_storage().data_ptr() == other.low.untyped_storage().data_ptr()
    (tensor([[1., 1., 1.]]), True)
    """
    kinds: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for value in chain.from_iterable(parts):
        if isinstance(value, Tensor):
            kinds.setdefault((value.dtype, value.device), []).append(value)
    copies = {kind: iter(_in_one_piece(values)) for kind, values in kinds.items()}

    def own(value: Any) -> Any:
        return next(copies[value.dtype, value.device]) if isinstance(value, Tensor) else value

    return [Moments(*map(own, part)) for part in parts]


def _in_one_piece(values: list[Tensor]) -> list[Tensor]:
    piece = torch.cat([value.flatten() for value in values])
    parts = torch.split(piece, [value.numel() for value in values])
    return [part.view(value.shape) for part, value in zip(parts, values, strict=True)]


def merged(parts: Sequence[Moments]) -> Moments:
    """The moments of all values together, in float64, from those of their parts; on the CPU for want of float64."""
    device = parts[0].mean.device
    if not has_float64(device):
        parts, device = [_on_cpu(part) for part in parts], torch.device("cpu")

    def column(values: list[Tensor | float]) -> Tensor:
        if all(isinstance(value, float) for value in values):
            return torch.tensor(values, dtype=torch.float64, device=device).unsqueeze(1)
        every = [torch.as_tensor(value, dtype=torch.float64, device=device) for value in values]
        return torch.cat([value.reshape(1, 1) for value in every])

    return merge(
        Moments(
            column([part.count for part in parts]),
            torch.cat([part.mean for part in parts]).double(),
            torch.cat([part.m2 for part in parts]).double().clamp(min=0),
            column([part.squares for part in parts]),
            torch.cat([part.low for part in parts]).double(),
        )
    )


def merged_on_cpu(parts: Sequence[Moments]) -> Moments | None:
    """The merged moments, in float64 on the CPU; None where there are no parts."""
    return _on_cpu(merged(parts)) if parts else None


def _on_cpu(moments: Moments) -> Moments:
    values: tuple[Any, ...] = tuple(value.cpu() if isinstance(value, Tensor) else value for value in moments)
    return Moments(*values)


def batch_moments(x: Tensor, weights: Tensor | None = None) -> Moments:
    """The moments of a whole batch, (batch, channels, *space); elements of weight 0 may hold anything.

    Without weights it is the kernel that normalises which measures, in one trip through memory.
    """
    if weights is not None:
        return moments(x.where(weights > 0, 0.0), weights)
    count = float(x.numel() // x.shape[1])
    if count < 2:  # nothing that normalises
        mean = x.reshape(-1, x.shape[1]) if count else x.new_zeros(1, x.shape[1])
        nothing = torch.zeros_like(mean)
        return Moments(count, mean, nothing, count, nothing)
    collected: list[Moments] = []
    batch_norm(x, collected=collected)
    return collected[0]


def has_variance(moments: Moments | None) -> bool:
    """Whether a layer was called with at least two values per channel, so that its inputs have a variance."""
    return moments is not None and bool(moments.enough)
