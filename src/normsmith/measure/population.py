"""Population statistics: those of a whole data set, for layers whose inputs depend on each other's statistics."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from normsmith.errors import InputError
from normsmith.measure.across_ranks import PassResult, merged_across_ranks
from normsmith.measure.fixed_point import EXACT, FixedPointSearch, largest
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

MAX_PASSES = 30
"""How many passes over the batches the exact statistics may take, unless another number is asked for."""

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
    - `repeated`: the numbers of the layers that were called more than once in a forward.
    - `loss`: the mean over the samples with the new statistics, if a loss was asked for.
    """

    statistics: list[Statistics]
    moments: tuple[Moments | None, ...]
    gaps: list[float | None]
    gap_of: Gap
    passes: int
    loss: float = 0.0
    repeated: tuple[int, ...] = ()

    @property
    def gap(self) -> float:
        """The largest gap of a layer; 0 where none was measured."""
        return largest(self.gaps)

    @property
    def moving(self) -> tuple[int, int, float]:
        """How far this is from exact: layers whose gap is not finite, those whose gap is too large, and the gap."""
        known = [gap for gap in self.gaps if gap is not None]
        broken, unsettled = (
            sum(not math.isfinite(gap) for gap in known),
            sum(not gap <= EXACT for gap in known),
        )
        return broken, unsettled, self.gap


@dataclass(frozen=True)
class Population:
    """Measures the statistics that layers should hold for the data of a loader.

    - `own`: the statistics that each layer holds now, in the order of the layers.
    - `batch_rule`: what a layer normalises by in the first pass, while nothing is measured yet.
    - `population_rule`: what it should hold, given the moments of its inputs over a pass.
    - `loss`: taken in passes over all batches with the new statistics.

    >>> from torch import nn
    >>> from normsmith.measure import EXACT, measurable_layers
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

    def exact(self, most: int = MAX_PASSES) -> PopulationResult:
        """Statistics that are those of every layer's inputs while all layers normalise by them.

        Passes are repeated, each with the statistics that the last one measured, until these move by no more than
        `EXACT`. The inputs of the n-th norm on a path depend on the statistics of those before it alone, so its
        statistics do not move after the n-th pass, and one more pass proves it. Where a layer is called several times
        in a forward, and passes do not settle it, `FixedPointSearch` chooses what to try next.

        After `most` passes, of which there are at least two, the search ends in any case, with those of its
        statistics by which most layers have settled. It also ends where layers stay without finite statistics.
        """
        first = self._first_pass(None)
        search = FixedPointSearch(self.passes.layers, first.calls)
        new = self._statistics_from(first)
        best: PopulationResult | None = None
        for passes in range(2, max(most, 2) + 1):
            measured = self.passes.run(self.loader, new, loss=self.loss)
            after = self._statistics_from(measured)
            gaps = self._gaps(new, after)
            result = PopulationResult(
                new, measured.moments, gaps, "all", passes, measured.loss, first.repeated
            )
            broken, unsettled, _ = result.moving
            stuck = best is not None and best.moving[0] > 0 and (broken, unsettled) >= best.moving[:2]
            if best is None or result.moving <= best.moving:
                best = result
            if best.gap <= EXACT or stuck:
                break
            new = search.next(new, after, gaps)
        assert best is not None  # there is at least one pass
        return replace(best, passes=passes)

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
    after, before = _wide(new), _wide(old)
    variance = after.var + epsilon
    mean = (after.mean - before.mean).abs() / variance.sqrt()
    spread = (after.var - before.var).abs() / variance
    return torch.maximum(mean, spread).max().item()


def _wide(statistics: Statistics) -> Statistics:
    return Statistics(statistics.mean.cpu().double(), statistics.var.cpu().double())
