"""Population statistics for batch norm layers, measured on data: "precise BN"."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from normsmith._choices import check_choice
from normsmith._text import count, number, path_text, signed
from normsmith.anatomy.broken_statistics import broken_statistics, broken_values
from normsmith.anatomy.forward import Forward, call, check_runnable, unwrapped
from normsmith.anatomy.locations import Locations, find
from normsmith.anatomy.remark import Remark
from normsmith.anatomy.select import Only
from normsmith.errors import InputError, SurgeryError
from normsmith.layers.batches import Select
from normsmith.measure.across_ranks import Group, group_of
from normsmith.measure.fixed_point import EXACT, largest
from normsmith.measure.layers import MeasuredLayer, measurable_layers
from normsmith.measure.meter import has_variance
from normsmith.measure.passes import Loss, Passes
from normsmith.measure.population import MAX_PASSES, Gap, Population, PopulationResult
from normsmith.measure.statistics import Statistics
from normsmith.surgery.operations.set_statistics import extent, set_statistics
from normsmith.surgery.plans.plan import Plan


@dataclass(frozen=True)
class LayerStatistics:
    """Running statistics of one layer, before and after; tensors of shape (channels,), float64 on the CPU."""

    path: str
    count: float
    """Values per channel that were measured; with weights, their sum."""
    before: Mapping[str, Tensor]
    after: Mapping[str, Tensor]
    gap: float | None
    """What is left between the statistics and those of the layer's input once all layers go by the new ones:
    the largest of |Δmean|/σ and |Δvariance|/σ² over the channels. None: not measured."""
    epsilon: float

    @property
    def shift(self) -> str:
        """By how many standard deviations, as they were before, the means move at most; of channels that had some."""
        moved = (self.after["running_mean"] - self.before["running_mean"]).abs()
        shifts = moved / (self.before["running_var"] + self.epsilon).sqrt()
        usable = shifts[shifts.isfinite()]
        return f"{usable.max().item():.2g} σ" if len(usable) else "–"

    @property
    def factor(self) -> str:
        """The new variances divided by the old ones, epsilon added to both: the range over channels that had some."""
        before = self.before["running_var"] + self.epsilon
        usable = before.isfinite() & (before > 0)
        ratios = ((self.after["running_var"] + self.epsilon) / before)[usable]
        return extent(ratios) if len(ratios) else "–"


@dataclass(frozen=True)
class Recalibration:
    """What was measured, and the plan that writes it into the model; print it for a table.

    - `layers`: for each layer that was measured its statistics before and after.
    - `kept`: the layers that stay as they are, and why.
    - `healed`: the layers whose statistics were negative or not finite, and what was wrong with them.
    - `gap_of`: the batches over which `gap` was measured: "none", a "sample", or "all".
    - `mode`: "fast" or "exact", as asked for.
    - `passes`: how often the whole loader was gone through, for the loss and the gap too.
    - `repeated`: the layers that were called more than once in a forward.
    - `loss_before`, `loss_after`: the mean loss over all samples, if a loss was given.
    """

    plan: Plan
    layers: tuple[LayerStatistics, ...]
    kept: tuple[Remark, ...]
    healed: tuple[Remark, ...]
    gap_of: Gap
    mode: Literal["fast", "exact"]
    passes: int
    repeated: tuple[str, ...]
    loss_before: float | None
    loss_after: float | None

    @property
    def gap(self) -> float | None:
        """The largest gap of a layer; None where it was not measured."""
        gaps = [layer.gap for layer in self.layers]
        return None if all(gap is None for gap in gaps) else largest(gaps)

    @property
    def converged(self) -> bool | None:
        """Whether the gap over all batches is at most 1e-4; None where it was not measured over all of them."""
        return None if self.gap is None or self.gap_of != "all" else self.gap <= EXACT

    def apply(self, **options: Any) -> nn.Module:
        """`plan.apply`: write the statistics; the same options."""
        return self.plan.apply(**options)

    def revert(self) -> nn.Module:
        """`plan.revert`: put the statistics from before back, bit for bit."""
        return self.plan.revert()

    def __str__(self) -> str:
        rows = [("layer", "mean moves by", "variance times", "values", "gap")]
        rows += [
            (path_text(layer.path), layer.shift, layer.factor, f"{layer.count:g}", _number(layer.gap))
            for layer in self.layers
        ]
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = [
            "  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows
        ]
        lines += [f"kept {remark.text}" for remark in self.kept]
        lines += [f"heals {remark.text}" for remark in self.healed]
        lines += [f"warning {remark.text}" for remark in self.plan.warnings]
        if self.gap is not None:
            passes = f" after {count(self.passes, 'pass')}" if self.mode == "exact" else ""
            lines.append(f"largest gap, over {_BATCHES[self.gap_of]}: {number(self.gap, 2)}{passes}")
        if self.mode == "exact" and not self.converged:
            lines.append(self._not_exact())
        if self.loss_before is not None and self.loss_after is not None:
            change = self.loss_after - self.loss_before
            lines.append(
                f"loss {number(self.loss_before, 4)} → {number(self.loss_after, 4)} ({signed(change, 2)})"
            )
        return "\n".join(lines)

    def _not_exact(self) -> str:
        repeated = ", ".join(map(path_text, self.repeated))
        because = f"; called more than once in a forward: {repeated}" if repeated else ""
        return f"not exact: the gap is still above {EXACT:.0e}{because}; more passes with max_passes=..."


_BATCHES = {"sample": "a sample of the batches", "all": "all batches"}


def _number(value: float | None) -> str:
    return "–" if value is None else number(value, 2)


def recalibrate(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    mode: Literal["fast", "exact"] = "fast",
    only: Only = None,
    forward: Forward = call,
    mask: Select = None,
    dropout: bool = False,
    loss: Loss | None = None,
    group: Group = None,
    gap: Gap = "sample",
    max_passes: int = MAX_PASSES,
) -> Recalibration:
    """Measure the population statistics of batch norm layers over all batches, and plan to write them.

        W = Σw    mean = Σwx / W    running_var = Σw(x − mean)² / (W − Σw²/W)

    over every call of a layer in all batches, merged in float64 by Chan's formula: each batch weighs by its values,
    and the variance between batches is in it. The variance is the unbiased one, as in training. The model is not
    changed before `apply`, and is as it was if anything raises: buffers, modes, hooks, random numbers.

    Fast: one pass in which all layers normalise by their batches, as in training (batch renormalization as batch
    norm, ghost batches as one, ranks apart). The first norms of the network are then exact; after them inputs
    differ from those in evaluation, and the gap says how much: of 8 batches at most, one in 40, spread evenly, the
    moments with the new statistics against those of the pass. `gap="all"` takes one more pass.

    Exact: every layer is measured with all layers before it on their final statistics. After a fast pass come
    passes in which all layers go by what the last one measured, until nothing moves by more than 1e-4 of a standard
    deviation or variance. The n-th norm on a path cannot move after the n-th pass, parallel paths share theirs, and
    the pass in which nothing moved is the proof. Layers called more than once in a forward depend on themselves; where
    such passes swing they are damped (Anderson's mixing). At most `max_passes` are made; `converged` says whether
    they were enough, and `gap` what is left.

    Layers stay as they are, and are named with the reason, where their user has frozen them: by `freeze()`, by
    `momentum=0`, in evaluation mode within a model in training mode, or frozen by their class.
    Of layers with domains those are measured whose domain the batches are of: run it within `use_domain(model, ...)`.

    `num_batches_tracked` counts training steps and stays, and so do momentum and renorm's schedule.

    Args:
        model: any module; the one within DistributedDataParallel or torch.compile is run.
        loader: batches; a loader, or a list (an iterator, which is gone after one pass, only for the fast mode
            without `loss` and with another gap than "all").
        mode: "fast" or "exact".
        only: patterns of paths such as "layer1.*", or a function (path, module) → bool.
        forward: `forward(model, batch)`; by default a tensor goes in as it is, the first of a tuple or list, a
            dict by keywords.
        mask: a key, an index or a function of the batch: the elements that are valid, as in `use_mask`. Layers of
            torch are measured over valid elements too.
        dropout: whether all but the norms is in training mode, so that dropout drops.
        loss: `loss(output, batch)`, the mean over the batch; takes a pass before and one after.
        group: ranks that measure together, each with its own loader of any length: a process group, "world", a
            `FolderGroup` of parties that share a folder and nothing else, or None: the ranks of
            DistributedDataParallel, if it is that, or this process alone.
        gap: which batches tell it in fast mode; "all" wherever a pass over them is made anyway.
        max_passes: for "exact": the most passes over the batches, at least 2, those for `loss_before` not counted.

    Raises:
        InputError: an argument does not fit, or no batch came.
        SurgeryError: no layer can be measured, or what was measured is not finite.
        SyncError: another rank failed, or did not arrive in time.

    >>> model = nn.Sequential(nn.BatchNorm1d(1))
    >>> result = recalibrate(model, [torch.tensor([[0.0], [0.0]]), torch.tensor([[3.0]])])
    >>> _ = result.apply()
    >>> model[0].running_mean, model[0].running_var
    (tensor([1.]), tensor([3.]))

    Source: Wu and Johnson (2021), "Rethinking 'Batch' in BatchNorm", arXiv:2105.07576, section 3.
    """
    check_choice("mode", mode, ("fast", "exact"))
    check_choice("gap", gap, ("none", "sample", "all"))
    if max_passes < 2:
        raise InputError(
            f"max_passes: expected at least 2, one that measures and one that checks, got {max_passes!r}"
        )
    again = mode == "exact" or loss is not None or gap == "all"
    if again and isinstance(loader, Iterator):
        raise InputError(
            "recalibrate: expected batches that can be gone through again (a loader or a list) for the exact mode, a "
            "loss or gap='all'; got an iterator"
        )
    measurable = measurable_layers(model, only)
    layers = measurable.all_for("recalibrate")
    check_runnable(unwrapped(model))
    settings = f"{mode} gap={gap} {max_passes} dropout={dropout} loss={loss is not None} {[one.path for one in layers]}"
    together = group_of(model, group, layers, settings)
    passes = Passes(unwrapped(model), layers, forward, mask, dropout, together)
    own = [layer.statistics() for layer in layers]
    population = Population(passes, loader, own, loss=loss)
    with passes.borrowed_model():
        before = None if loss is None else passes.run(loader, own, loss=loss)
        result = population.exact(max_passes) if mode == "exact" else population.fast("all" if again else gap)
    kept = tuple(
        _with_fault(model, remark) for remark in (*_unreached(model, layers, result), *measurable.kept)
    )
    _check_finite(layers, result.statistics, kept)
    return Recalibration(
        _plan(model, layers, result),
        tuple(_layers(layers, own, result)),
        kept,
        tuple(_healed(layers, own, result)),
        result.gap_of,
        mode,
        result.passes + (before is not None),
        tuple(layers[number].path for number in result.repeated),
        None if before is None else before.loss,
        None if before is None else result.loss,
    )


def _check_finite(layers: Sequence[MeasuredLayer], new: Sequence[Statistics], kept: Sequence[Remark]) -> None:
    stay = "".join(f"; kept {remark.text}" for remark in kept)
    for layer, statistics in zip(layers, new, strict=True):
        wrong = ~(statistics.mean.isfinite() & statistics.var.isfinite())
        if wrong.any():
            raise SurgeryError(
                f"recalibrate: expected finite values, got NaN or infinite ones into {path_text(layer.path)}, in "
                f"{int(wrong.sum())} of {len(wrong)} channels; clean the data, leave them out with mask=..., or "
                'take mode="exact" if the present statistics are so wrong that forwards overflow'
                f"{stay}"
            )


def _plan(model: nn.Module, layers: Sequence[MeasuredLayer], result: PopulationResult) -> Plan:
    numbers = {
        layer.path: {name: value.tolist() for name, value in _buffers(after).items()}
        for layer, after, moments in zip(layers, result.statistics, result.moments, strict=True)
        if has_variance(moments)
    }
    return set_statistics(model, numbers)


def _with_fault(model: nn.Module, kept: Remark) -> Remark:
    """The remark on a layer that stays as it is, with what is wrong with its statistics."""
    broken = broken_statistics(find(model, kept.path))
    return kept if broken is None else replace(kept, reason=f"{kept.reason}; {broken.text}")


def _healed(
    layers: Sequence[MeasuredLayer], own: Sequence[Statistics], result: PopulationResult
) -> Iterator[Remark]:
    for layer, held, moments in zip(layers, own, result.moments, strict=True):
        broken = broken_values(_buffers(held), layer.epsilon)
        if broken is not None and has_variance(moments):
            yield Remark(layer.path, broken.text)


def _unreached(
    model: nn.Module, layers: Sequence[MeasuredLayer], result: PopulationResult
) -> Iterator[Remark]:
    locations = Locations(model)
    for layer, moments in zip(layers, result.moments, strict=True):
        if moments is None:
            none = f"no batch {'' if locations.with_domains(layer.layer) is None else 'of its domain '}reached it"
            yield Remark(layer.path, locations.code.by_hand(layer.layer) or none)
        elif not has_variance(moments):
            yield Remark(layer.path, "fewer than two values per channel reached it")


def _layers(
    layers: Sequence[MeasuredLayer], own: Sequence[Statistics], result: PopulationResult
) -> Iterator[LayerStatistics]:
    for layer, held, after, moments, gap in zip(
        layers, own, result.statistics, result.moments, result.gaps, strict=True
    ):
        yield LayerStatistics(
            layer.path,
            0.0 if moments is None else float(moments.count),
            _copies(held),
            _copies(after),
            gap,
            layer.epsilon,
        )


def _buffers(statistics: Statistics) -> dict[str, Tensor]:
    return {f"running_{name}": value for name, value in statistics._asdict().items() if value is not None}


def _copies(statistics: Statistics) -> dict[str, Tensor]:
    return {
        name: value.detach().cpu().to(torch.float64, copy=True)
        for name, value in _buffers(statistics).items()
    }
