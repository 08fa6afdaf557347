"""Statistics of a whole data set for layers that feed each other: in one pass, or until nothing moves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from normsmith.errors import InputError
from normsmith.measure.layers import Measured, Statistics
from normsmith.measure.meter import Blend, by_batch
from normsmith.measure.passes import Found, Loss, Sample, Walk
from normsmith.ops import Moments

EXACT = 1e-6
"""Of a standard deviation, or of a variance: the gap up to which statistics are called exact."""

Gap = Literal["none", "sample", "all"]
Settle = Callable[[Measured, Statistics, Moments, int], Statistics]
"""What a layer should hold: from what it holds, the moments of its inputs, and the number of samples."""


@dataclass(frozen=True)
class Settled:
    """Statistics of every layer, in the order of the layers, and what a pass with them found."""

    after: list[Statistics]
    moments: tuple[Moments | None, ...]
    gaps: list[float | None]
    gap_of: Gap
    passes: int
    loss: float = 0.0


def population(measured: Measured, held: Statistics, moments: Moments, _: int = 0) -> Statistics:
    """Mean and unbiased variance, which running statistics keep, and sqrt(variance + epsilon) where they keep that."""
    std = None if held.std is None else (moments.variance + measured.epsilon).sqrt()[0]
    return Statistics((moments.mean + moments.low)[0], moments.unbiased_variance[0], std)


def reached(moments: Moments | None) -> bool:
    """Whether the values that came to a layer have a variance."""
    return moments is not None and bool(moments.enough)


@dataclass(frozen=True)
class Quest:
    """Passes over a loader to the statistics that layers should hold there.

    `blend` is what a layer goes by while it is measured for the first time, `settle` what it should hold then.
    """

    walk: Walk
    loader: Iterable[Any]
    own: Sequence[Statistics]
    blend: Blend = by_batch
    settle: Settle = population
    loss: Loss | None = None

    def fast(self, gap: Gap) -> Settled:
        """One pass, and what tells its gap."""
        sample = Sample() if gap == "sample" else None
        found = self._first(sample)
        after = self._settled(found)
        if gap == "none":
            return Settled(after, found.moments, [None] * len(after), gap, 1)
        if sample is None:
            check = self.walk.through(self.loader, after, loss=self.loss)
            return Settled(after, found.moments, self._gaps(after, self._settled(check)), gap, 2, check.loss)
        during = self.walk.together(lambda: sample.found(self.walk.measured))
        then = self.walk.through(sample.batches, after)
        return Settled(after, found.moments, self._gaps(self._settled(during), self._settled(then)), gap, 1)

    def exact(self, most: int) -> Settled:
        """Statistics with which a pass finds these same statistics, up to `EXACT`; after `most` passes, nearly.

        The inputs of the n-th norm on a path depend on the statistics of those before it alone. Once these do not
        move any more, one pass finds its own, and the next pass finds the same again.
        """
        found = self._first(None)
        passes = 1
        while True:
            after = self._settled(found)
            found = self.walk.through(self.loader, after, loss=self.loss)
            passes += 1
            gaps = self._gaps(after, self._settled(found))
            if passes > most or all(gap is None or gap <= EXACT for gap in gaps):
                return Settled(after, found.moments, gaps, "all", passes, found.loss)

    def _first(self, sample: Sample | None) -> Found:
        found = self.walk.through(self.loader, self.own, self.blend, sample=sample)
        if not found.samples:
            raise InputError("expected at least one batch, got none; an iterator can be used up")
        return found

    def _settled(self, found: Found) -> list[Statistics]:
        """What each layer should hold; what it holds where fewer than two values per channel reached it."""
        return [
            held
            if moments is None or not reached(moments)
            else self.settle(layer, held, moments, found.samples)
            for layer, held, moments in zip(self.walk.measured, self.own, found.moments, strict=True)
        ]

    def _gaps(self, held: Sequence[Statistics], found: Sequence[Statistics]) -> list[float | None]:
        """By how much what each layer goes by differs from what it should; None where nothing reached it."""
        rows = zip(self.walk.measured, self.own, held, found, strict=True)
        return [None if new is own else _gap(layer, old, new) for layer, own, old, new in rows]


def _gap(layer: Measured, old: Statistics, new: Statistics) -> float:
    variance = new.var.double() + layer.epsilon
    mean = (new.mean.double() - old.mean.double()).abs() / variance.sqrt()
    spread = (new.var.double() - old.var.double()).abs() / variance
    return torch.maximum(mean, spread).max().item()
