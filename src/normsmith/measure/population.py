"""Population statistics: those of a whole data set, for layers whose inputs depend on each other's statistics."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from normsmith.errors import InputError
from normsmith.measure.across_ranks import PassResult, merged_across_ranks
from normsmith.measure.meter import has_variance
from normsmith.measure.passes import BatchSample, Loss, Passes
from normsmith.measure.statistics import (
    BatchRule,
    PopulationRule,
    Statistics,
    batch_statistics,
    population_statistics,
)
from normsmith.ops import Moments

EXACT = 1e-6
"""The gap, in standard deviations or variances, up to which statistics are called exact."""

Gap = Literal["none", "sample", "all"]
"""The batches on which a gap is measured: none, a sample of at most 8, or all."""


@dataclass(frozen=True)
class PopulationResult:
    """The statistics that every layer should hold, in the order of the layers, and how good they are.

    - `statistics`: of each layer; what it holds where fewer than two values per channel reached it.
    - `moments`: of its inputs over all batches.
    - `gaps`: how far the statistics are from those of the layer's inputs once all layers normalise by the new ones:
      the largest of |Δmean|/σ and |Δvariance|/σ² over the channels. None where it was not measured.
    - `gap_of`: the batches of the gaps.
    - `passes`: how many were made over the loader.
    - `loss`: the mean over the samples with the new statistics, if a loss was asked for.
    """

    statistics: list[Statistics]
    moments: tuple[Moments | None, ...]
    gaps: list[float | None]
    gap_of: Gap
    passes: int
    loss: float = 0.0


@dataclass(frozen=True)
class Population:
    """Measures the statistics that layers should hold for the data of a loader.

    - `own`: the statistics that each layer holds now, in the order of the layers.
    - `batch_rule`: what a layer normalises by in the first pass, while nothing is measured yet.
    - `population_rule`: what it should hold, given the moments of its inputs over a pass.
    - `loss`: taken in passes over all batches with the new statistics.

    >>> from torch import nn
    >>> from normsmith.measure import measurable_layers
    >>> model = nn.Sequential(nn.BatchNorm1d(1), nn.Tanh(), nn.BatchNorm1d(1))
    >>> layers = measurable_layers(model).layers
    >>> passes = Passes(model, layers)
    >>> population = Population(passes, list(torch.randn(5, 8, 1)), [layer.statistics() for layer in layers])
    >>> with passes.borrowed_model():
    ...     result = population.exact(most=3)
    >>> result.passes, max(result.gaps) <= EXACT
    (3, True)
    """

    passes: Passes
    loader: Iterable[Any]
    own: Sequence[Statistics]
    batch_rule: BatchRule = batch_statistics
    population_rule: PopulationRule = population_statistics
    loss: Loss | None = None

    def fast(self, gap: Gap) -> PopulationResult:
        """Statistics from one pass in which layers normalise by `batch_rule`.

        They are exact for the first layers of a network alone; the inputs of the others change with the statistics
        of those before. `gap` says on which batches to measure by how much; "all" takes one more pass.
        """
        sample = BatchSample() if gap == "sample" else None
        first = self._first_pass(sample)
        new = self._statistics_from(first)
        if gap == "none":
            return PopulationResult(new, first.moments, [None] * len(new), gap, 1)
        if sample is None:
            check = self.passes.run(self.loader, new, loss=self.loss)
            gaps = self._gaps(new, self._statistics_from(check))
            return PopulationResult(new, first.moments, gaps, gap, 2, check.loss)
        during = merged_across_ranks(lambda: sample.result(self.passes.layers), self.passes.group)
        check = self.passes.run(sample.batches, new)
        gaps = self._gaps(self._statistics_from(during), self._statistics_from(check))
        return PopulationResult(new, first.moments, gaps, gap, 1)

    def exact(self, most: int) -> PopulationResult:
        """Statistics that are those of every layer's inputs while all layers normalise by them.

        Passes are repeated, each with the statistics that the last one measured, until these move by no more than
        `EXACT`. The inputs of the n-th norm on a path depend on the statistics of those before it alone, so its
        statistics do not move after the n-th pass, and one more pass proves it. After `most` passes the search ends
        in any case, and `gaps` says how far it came.
        """
        measured = self._first_pass(None)
        passes = 1
        while True:
            new = self._statistics_from(measured)
            measured = self.passes.run(self.loader, new, loss=self.loss)
            passes += 1
            gaps = self._gaps(new, self._statistics_from(measured))
            if passes > most or all(gap is None or gap <= EXACT for gap in gaps):
                return PopulationResult(new, measured.moments, gaps, "all", passes, measured.loss)

    def _first_pass(self, sample: BatchSample | None) -> PassResult:
        result = self.passes.run(self.loader, self.own, self.batch_rule, sample=sample)
        if not result.samples:
            raise InputError("expected at least one batch, got none; an iterator can be used up")
        return result

    def _statistics_from(self, result: PassResult) -> list[Statistics]:
        """What each layer should hold by a pass; what it holds where fewer than two values per channel reached it."""
        return [
            own
            if moments is None or not has_variance(moments)
            else self.population_rule(layer.epsilon, own, moments, result.samples)
            for layer, own, moments in zip(self.passes.layers, self.own, result.moments, strict=True)
        ]

    def _gaps(self, old: Sequence[Statistics], new: Sequence[Statistics]) -> list[float | None]:
        """How far apart two statistics of each layer are; None where nothing reached it."""
        rows = zip(self.passes.layers, self.own, old, new, strict=True)
        return [
            None if after is own else _gap(layer.epsilon, before, after) for layer, own, before, after in rows
        ]


def _gap(epsilon: float, old: Statistics, new: Statistics) -> float:
    variance = new.var.double() + epsilon
    mean = (new.mean.double() - old.mean.double()).abs() / variance.sqrt()
    spread = (new.var.double() - old.var.double()).abs() / variance
    return torch.maximum(mean, spread).max().item()
