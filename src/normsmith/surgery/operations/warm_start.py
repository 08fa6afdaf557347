"""Batch renormalization that goes on from a checkpoint of batch norm: its schedule, counters and momentum."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import nn

from normsmith._choices import check_choice
from normsmith._torch import TorchBatchNorm, buffers_of
from normsmith.anatomy.batch_norms import is_batch_norm
from normsmith.anatomy.broken_statistics import broken_statistics, statistics_remarks
from normsmith.anatomy.locations import Locations
from normsmith.anatomy.remark import Refusal, Remark
from normsmith.anatomy.select import Only, selected
from normsmith.errors import InputError, SurgeryError
from normsmith.layers.batch_renorm import RenormBase
from normsmith.layers.schedules import Schedule, scaled
from normsmith.layers.statistics import StatisticsBase
from normsmith.measure.layers import why_kept, why_not_now
from normsmith.surgery.plans.edits import AttributeEdit, Edit, ValueEdit
from normsmith.surgery.plans.operation import operation
from normsmith.surgery.plans.plan import Change, Plan
from normsmith.surgery.plans.verify import Expectation

INITIAL = 0.01
"""The share of their initial values (mean 0, variance 1) above which running statistics are no start."""


@operation("warm_start")
def warm_start(
    model: nn.Module,
    *,
    updates: int | None = None,
    remaining: int | None = None,
    epochs: float | None = None,
    dataset_size: int | None = None,
    batch_size: int | None = None,
    trained_batch_size: int | None = None,
    bounds: Literal["open", "continue", "keep"] = "open",
    only: Only = None,
) -> Plan:
    """Plan to start batch renormalization layers from what they learned as batch norm.

    A layer that was batch norm holds statistics that renorm can lean on at once, but a counter that counts steps of
    another run, and a momentum that was set for its batches:

        num_batches_tracked ← updates · trained_batch_size / batch_size
        momentum ← 1 − (1 − momentum)^(batch_size / trained_batch_size)

    so that step and memory are those of the new batches: the running statistics average over as many samples as
    they did. Then the bounds of r and d, over the R steps that remain:

    - "open": closed now, when the network is used to batch statistics, and opening in the paper's shape over R:
      batch norm for 4 % of R, d_max open at 19 %, r_max at 31 %.
    - "continue": as if it had been renorm from the first step on, of a run of all steps, past and remaining.
    - "keep": the layer's schedule stays, and goes by the new counter.

    `running_std` (`track="std"`), if it was never updated, becomes sqrt(running_var + eps). Weights and running
    statistics stay. So does `momentum=None`, the cumulative average.

    Args:
        model: with batch renormalization layers; `convert` a network of batch norm first.
        updates: optimizer steps so far; None: those that each layer's counter has.
        remaining: R, the training steps to come; or give `epochs`, `dataset_size` and `batch_size`, of which it is
            epochs · ⌊dataset_size / batch_size⌋ steps.
        epochs, dataset_size: the training to come.
        batch_size: samples per step in the training to come.
        trained_batch_size: samples per step so far; None: the same.
        bounds: "open", "continue" or "keep".
        only: patterns of paths such as "layer1.*", or a function (path, module) → bool.

    Raises:
        InputError: an argument does not fit, or the steps to come are not known.
        SurgeryError: there is no batch renormalization layer.

    Refused are layers whose running statistics still are their initial values by more than 1 %: by their count
    of updates t, (1 − momentum)^t. `recalibrate` them first, and give `updates`.

    >>> from normsmith.layers import BatchRenorm1d
    >>> layer = BatchRenorm1d(2)
    >>> _ = layer.num_batches_tracked.fill_(1000)
    >>> print(warm_start(layer, remaining=10_000, batch_size=16, trained_batch_size=64))
    warm start: 1 change, 0 refusals
      (model)  momentum 0.1, schedule None → momentum 0.026, step 4000, schedule Linear(...)  10000 steps to come
      outputs: the same in evaluation; in training: may differ
    >>> _ = warm_start(layer, remaining=10_000, batch_size=16, trained_batch_size=64).apply()
    >>> layer.bounds()
    Renorm(r_max=1.0, d_max=0.0)

    Source: Ioffe (2017), arXiv:1702.03275, for the bounds; Busbridge et al. (2023), arXiv:2307.13813, for momentum
    and batch size.
    """
    check_choice("bounds", bounds, ("open", "continue", "keep"))
    if updates is not None and updates < 0:
        raise InputError(f"updates: expected a number of at least 0, got {updates!r}")
    times = _Times(
        updates=updates,
        remaining=_steps_to_come(remaining, epochs, dataset_size, batch_size, bounds),
        scale=_scale(batch_size, trained_batch_size),
        bounds=bounds,
    )
    changes: list[Change] = []
    refusals: list[Refusal] = []
    kept: list[Remark] = []
    edits: list[Edit] = []
    locations, started = Locations(model), list[nn.Module]()
    norms: dict[nn.Module, tuple[str, ...]] = {
        module: paths
        for module, paths in locations.paths.items()
        if isinstance(module, (TorchBatchNorm, StatisticsBase)) or is_batch_norm(module)
    }
    for layer in selected(norms, only, None, None):
        path, *also = norms[layer]
        if not isinstance(layer, RenormBase):
            kind = type(layer).__name__
            kept.append(Remark(path, f"{kind} is no batch renormalization of normsmith: convert it first"))
        elif (reason := why_kept(layer, model)) is not None:
            kept.append(Remark(path, reason))
        elif (reason := _refused(layer, times)) is not None:
            refusals.append(Refusal(path, reason))
        else:
            made, change = _started(layer, times)
            edits += made
            started.append(layer)
            changes.append(replace(change, path=path, also=tuple(also)))
    if not (changes or refusals):
        listed = "".join(f"; {remark.text}" for remark in kept)
        raise SurgeryError(
            f"warm_start: expected batch renormalization layers to start, found none in {type(model).__name__}{listed}"
        )
    return Plan(
        "warm start",
        model,
        changes=tuple(changes),
        refusals=tuple(refusals),
        kept=tuple(kept),
        edits=tuple(edits),
        expects=Expectation(evaluation="same"),
        warnings=statistics_remarks(locations, started),
    )


@dataclass(frozen=True)
class _Times:
    """The past and the training to come, in optimizer steps; `scale` is the new batch size over the old one."""

    updates: int | None
    remaining: int
    scale: float
    bounds: Literal["open", "continue", "keep"]

    def past(self, layer: RenormBase) -> int:
        """Updates of the running statistics so far, in steps of the training so far."""
        assert layer.num_batches_tracked is not None  # `why_kept` leaves layers without statistics
        return int(layer.num_batches_tracked) if self.updates is None else self.updates

    def step(self, layer: RenormBase) -> int:
        """The same past in steps of the training to come."""
        return round(self.past(layer) / self.scale)


def _refused(layer: RenormBase, times: _Times) -> str | None:
    if (reason := why_not_now(layer)) is not None:
        return reason
    broken = broken_statistics(layer)
    if broken is not None and broken.unusable:
        return f"{broken.advice}; renorm would correct towards them"
    past = times.past(layer)
    left = 0.0 if past and layer.momentum is None else (1 - (layer.momentum or 0.0)) ** past
    if left > INITIAL:
        return (
            f"its running statistics are {left:.0%} what they were initialised with, after {past} updates of momentum "
            f"{layer.momentum}: recalibrate them, and give updates="
        )
    return None


def _started(layer: RenormBase, times: _Times) -> tuple[list[Edit], Change]:
    assert layer.num_batches_tracked is not None
    step, momentum = times.step(layer), layer.momentum
    if momentum is not None:
        momentum = 1 - (1 - momentum) ** times.scale
    edits: list[Edit] = [
        ValueEdit(layer, "num_batches_tracked", torch.full_like(layer.num_batches_tracked, step)),
        AttributeEdit(layer, "momentum", momentum),
    ]
    schedule = layer.schedule
    if times.bounds != "keep":
        schedule = _schedule(step, times)
        total = step + times.remaining if times.bounds == "continue" else None
        # in this order: undone last, a schedule of None is derived anew from the total_steps that are back by then
        edits += [AttributeEdit(layer, "schedule", schedule), AttributeEdit(layer, "total_steps", total)]
    why = f"{times.remaining} steps to come" if times.bounds != "keep" else "its schedule stays"
    std = buffers_of(layer).get("running_std")
    if std is not None and layer.running_var is not None and bool((std == 1).all()):
        edits.append(ValueEdit(layer, "running_std", (layer.running_var + layer.epsilon).sqrt()))
        why += ", running_std from running_var"
    before = f"{_shown(layer.momentum)}, schedule {layer.schedule}"
    return edits, Change("", before, f"{_shown(momentum)}, step {step}, schedule {schedule}", why)


def _schedule(step: int, times: _Times) -> Schedule:
    if times.bounds == "continue":
        return scaled(step + times.remaining)
    shape = scaled(times.remaining)
    return replace(shape, start=step + shape.start, r_end=step + shape.r_end, d_end=step + shape.d_end)


def _shown(momentum: float | None) -> str:
    return "momentum none" if momentum is None else f"momentum {momentum:.3g}"


def _steps_to_come(
    remaining: int | None,
    epochs: float | None,
    dataset_size: int | None,
    batch_size: int | None,
    bounds: str,
) -> int:
    if remaining is not None and epochs is None:
        return _positive("remaining", remaining)
    if remaining is None and epochs is not None and dataset_size is not None and batch_size is not None:
        if not epochs > 0:
            raise InputError(f"epochs: expected a number above 0, got {epochs!r}")
        an_epoch = _positive("dataset_size", dataset_size) // _positive("batch_size", batch_size)
        return max(1, round(epochs * an_epoch))
    if remaining is None and epochs is None and bounds == "keep":
        return 0
    raise InputError(
        "warm_start: expected the steps to come, as remaining=..., or as epochs=..., dataset_size=... and "
        f"batch_size=...; got remaining={remaining!r}, epochs={epochs!r}, dataset_size={dataset_size!r}, "
        f"batch_size={batch_size!r}"
    )


def _scale(batch_size: int | None, trained_batch_size: int | None) -> float:
    if trained_batch_size is None:
        return 1.0
    if batch_size is None:
        raise InputError("warm_start: expected batch_size beside trained_batch_size, got None")
    return _positive("batch_size", batch_size) / _positive("trained_batch_size", trained_batch_size)


def _positive(name: str, number: int) -> int:
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise InputError(f"{name}: expected a positive whole number, got {number!r}")
    return number
