"""The forward: allocates what its kernels need, and launches them in order."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from normsmith._torch import is_as_stored
from normsmith.ops.call import Call, Forward, Update
from normsmith.ops.gpu import forward_kernels as kernels
from normsmith.ops.gpu import launch
from normsmith.ops.gpu.launch import Cut, Geometry, Launch, Saved
from normsmith.ops.gpu.plan import Plan
from normsmith.ops.moments import Moments
from normsmith.ops.resolve import Renorm, Resolved, Running, coefficients, resolve


def normalize(
    batch: Geometry,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    running: Running | None,
    call: Call,
    update: Update | None,
) -> Forward:
    """Train in one launch or in three: moments, decisions, running statistics, output."""
    if running is None or batch.cut.plan.groups > 1 or not is_plain(running):
        update = None
    y, out, bits = trained(batch, weight, bias, residual, running, call, update)
    if update is not None and running is not None:
        # as torch's own in-place operations do: a graph that saved a buffer for its backward raises an error
        increment_version([buffer for buffer in running if buffer is not None])
    saved = out.saved(batch, call.renorm is not None, bits)
    return Forward(y, saved, out.moments(batch) if update is None else None)


def trained(
    batch: Geometry,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    running: Running | None,
    call: Call,
    update: Update | None,
) -> tuple[Tensor, Settled, Tensor | None]:
    """Launch, and return what was written: the output, what was settled, and where ReLU let an element pass."""
    out, act = _room(batch, True), launch.name_of(call.activation)
    y, bits = torch.empty_like(batch.x), batch.bits(residual, act)
    given = {
        **vectors(weight, bias, running),
        **bounds(call.renorm, batch.x.device),
        "batches": running.batches if running is not None and update is not None else None,
        "eps": call.eps,
        "momentum": update.momentum if update is not None else 0.0,
    }
    settling = Settling(
        call.renorm is not None, update is not None, update is not None and update.skip_nonfinite
    )
    launch.run(
        training(batch.cut, act, batch.weights is not None, settling),
        {**given, **_written(batch, out), "z": residual, "y": y, "bits": bits},
    )
    return y, out, bits


class Settling(NamedTuple):
    """What is decided per channel beside the moments: renorm, and an update of finite values or of all."""

    renorm: bool
    update: bool
    skip: bool


@lru_cache(maxsize=4096)
def training(cut: Cut, act: str | None, weighted: bool, settling: Settling) -> tuple[Launch, ...]:
    """The launches of a training forward: one, or three with moments, decisions and output."""
    plan = cut.plan
    if not plan.once:
        return *measuring(cut, weighted, settling), applying(cut, act, by_batch=True)
    arguments = (
        *("x", "w", "z", "y", "bits", *_DECIDES, *_WRITES), *cut.sizes, *reversed(cut.shape), plan.blocks, "eps",
        "momentum",
    )  # fmt: skip
    constants = {
        **_tile(plan), "UNIT": plan.unit, "PLANES": plan.planes, "HELD": plan.held, "ACT": act, **_flags(settling),
        "STAGES": plan.stages, "UNROLL": plan.unroll,
    }  # fmt: skip
    programs = plan.blocks * plan.groups
    return (Launch(kernels.forward_at_once, programs, arguments, plan.tile.warps, constants),)


@lru_cache(maxsize=4096)
def measuring(cut: Cut, weighted: bool, settling: Settling | None) -> tuple[Launch, Launch]:
    """The first two launches: moments of parts, which are merged, and settled where it is said how."""
    plan = cut.plan
    measure = Launch(
        kernels.measure_parts, plan.blocks * plan.splits * plan.groups,
        ("x", "w", "parts", *cut.sizes, plan.groups, plan.splits, plan.blocks, cut.width), plan.tile.warps,
        {**_tile(plan), "UNIT": plan.unit, "PLANES": plan.planes, "POLICY": launch.policy(plan),
         "STAGES": plan.stages, "UNROLL": plan.unroll, "CHAINED": cut.chained},
    )  # fmt: skip
    constants = {
        "WEIGHTED": weighted, "DECIDE": settling is not None, "CHANNELS": launch.CHANNELS,
        "PARTS": launch.parts_at_once(cut), **_flags(settling or Settling(False, False, False)), **launch.waiting(cut),
    }  # fmt: skip
    decides = _DECIDES if settling is not None else (*[None] * 6, 1.0, 0.0, None, None)
    arguments = (
        *("parts", *decides, *_WRITES), *launch.entries(cut), *reversed(cut.shape), "eps", "momentum",
    )  # fmt: skip
    return measure, Launch(kernels.settle_parts, launch.merging_programs(cut), arguments, 4, constants)


@lru_cache(maxsize=4096)
def applying(cut: Cut, act: str | None, *, by_batch: bool) -> Launch:
    """The last launch: the output, by given coefficients or, if not `by_batch`, by the running statistics."""
    tile, (programs, *counts) = cut.plan.elementwise, launch.elementwise(cut)
    if by_batch:
        coefficients = (*[None] * 5, "means", "scales", "shifts", None)
    else:
        coefficients = (*_READS, None, None, None, "kept")
    return Launch(
        kernels.apply, programs,
        ("x", "w", "z", "y", "bits", *coefficients, "eps", *cut.sizes, *reversed(cut.shape), *counts), tile.warps,
        {"ROWS": tile.rows, "COLUMNS": tile.columns, "UNIT": launch.unit(cut), "ACT": act, "POLICY": "evict_first",
         **(launch.waiting(cut) if by_batch else {"CHAINED": False})},
    )  # fmt: skip


_READS = ("gamma", "beta", "running_mean", "running_var", "running_std")
_DECIDES = (*_READS, "batches", "r_max", "d_max", "r_max_at", "d_max_at")
_WRITES = ("kept", "counts", "enough")


def _tile(plan: Plan) -> dict[str, int]:
    return {"ROWS": plan.tile.rows, "COLUMNS": plan.tile.columns}


def _flags(settling: Settling) -> dict[str, bool]:
    return {"RENORM": settling.renorm, "UPDATE": settling.update, "SKIP": settling.skip}


def vectors(weight: Tensor | None, bias: Tensor | None, running: Running | None) -> dict[str, Tensor | None]:
    """γ, β and the running statistics as launches name them, without gaps in memory."""
    tracked = (None, None, None) if running is None else running[:3]
    return dict(zip(_READS, map(launch.flat, (weight, bias, *tracked)), strict=True))


def _written(batch: Geometry, out: Settled) -> dict[str, Tensor | None]:
    """The batch, what is settled of it and, where that takes several launches, what they leave for each other."""
    values = {"x": batch.x, "w": batch.weights, "kept": out.kept, "counts": out.counts, "enough": out.enough}
    if not batch.cut.plan.once:
        values["parts"] = _parts(batch)
        for name, row in (("means", 0), ("scales", 3), ("shifts", 4)):
            values[name] = out.kept.select(0, row)
    return values


def _parts(batch: Geometry) -> Tensor:
    """Memory for the moments of parts."""
    cut = batch.cut
    shape = (4 if batch.weights is None else 5, cut.plan.groups, cut.plan.splits, cut.width)
    return torch.empty(shape, dtype=torch.float32, device=batch.x.device)


def is_plain(running: Running) -> bool:
    """Whether the kernels can update these buffers: float32 without gaps, and a counter on the same device."""
    mean, var, std, batches = running
    buffers = (mean, var) if std is None else (mean, var, std)
    if batches is not None and (batches.dtype != torch.int64 or batches.device != mean.device):
        return False
    return all(
        buffer.dtype == torch.float32 and buffer.is_contiguous() and is_as_stored(buffer)
        for buffer in buffers
    )


def normalize_across(
    batch: Geometry,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    running: Running | None,
    call: Call,
) -> Forward:
    """Train across ranks: moments, merged with those of the other ranks, decisions on small tensors, output."""
    assert call.sync is not None
    out, act = _room(batch, False), launch.name_of(call.activation)
    values = {**_written(batch, out), "parts": _parts(batch), "eps": 0.0, "momentum": 0.0}
    launch.run(measuring(batch.cut, batch.weights is not None, None), values)
    merged = call.sync.merge(out.moments(batch))
    resolved = resolve(merged, running, call.eps, call.renorm)
    scale, shift = coefficients(resolved, weight, bias)
    y, bits = torch.empty_like(batch.x), batch.bits(residual, act)
    given = dict(zip(("means", "scales", "shifts"), launch.dense(resolved.mean, scale, shift), strict=True))
    launch.run(
        [applying(batch.cut, act, by_batch=True)],
        {**values, **given, "z": residual, "y": y, "bits": bits, "eps": call.eps},
    )
    return Forward(y, Saved(resolved, scale, shift, merged.count, batch.weights, bits), merged)


def infer(
    batch: Geometry,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    running: Running,
    call: Call,
) -> Forward:
    """Normalise by the running statistics, in one launch."""
    kept = torch.empty((4, *batch.shape), dtype=torch.float32, device=batch.x.device)
    y = torch.empty_like(batch.x)
    launch.run(
        [applying(batch.cut, launch.name_of(call.activation), by_batch=False)],
        {
            **vectors(weight, bias, running),
            **{
                "x": batch.x,
                "w": batch.weights,
                "z": residual,
                "y": y,
                "bits": None,
                "kept": kept,
                "eps": call.eps,
            },
        },
    )
    mean, inv_std, scale, shift = kept.unbind()
    return Forward(
        y, Saved(Resolved(mean, None, inv_std, None, None, False), scale, shift, 1.0, batch.weights), None
    )


def bounds(renorm: Renorm | None, device: torch.device) -> dict[str, float | Tensor | None]:
    """The bounds of renorm as numbers, or, where the host would have to wait for them, as tensors on the device."""
    values: dict[str, float | Tensor | None] = {
        "r_max": 1.0,
        "d_max": 0.0,
        "r_max_at": None,
        "d_max_at": None,
    }
    for name, bound in zip(("r_max", "d_max"), renorm or (), strict=False):
        if isinstance(bound, Tensor) and bound.device == device:
            values[f"{name}_at"] = bound
        else:
            values[name] = float(bound)
    return values


class Settled(NamedTuple):
    """Where the settling kernels write: rows of (groups, channels) in one allocation, and counts per group."""

    kept: Tensor
    counts: Tensor | None
    enough: Tensor | None

    def moments(self, batch: Geometry) -> Moments:
        """The batch's own moments, even where running statistics normalised it."""
        mean, low, m2 = (self.kept.select(0, row) for row in (8, 9, 5))
        if self.counts is not None:
            count, squares = self.counts.unbind()
            return Moments(count, mean, m2, squares, low)
        if batch.counted:
            count = _counts(batch)
            return Moments(count, mean, m2, count, low)
        number = float(batch.cut.plan.size * batch.cut.matrix.columns // batch.cut.matrix.channels)
        return Moments(number, mean, m2, number, low)

    def saved(self, batch: Geometry, renorm: bool, bits: Tensor | None) -> Saved:
        """What the backward needs of it."""
        moments, by_batch = self.moments(batch), self.enough
        mean, low, inv_std, scale, shift, _, r, d, *_ = self.kept.unbind()
        resolved = Resolved(
            mean,
            low,
            inv_std,
            r if renorm else None,
            d if renorm else None,
            moments.enough if by_batch is None else by_batch,
        )
        return Saved(resolved, scale, shift, moments.count, batch.weights, bits)


def _counts(batch: Geometry) -> Tensor:
    """Values per group, where the last group differs."""
    assert batch.cut.groups is not None
    positions = batch.cut.matrix.columns // batch.cut.matrix.channels
    counts = torch.full(
        (batch.cut.plan.groups, 1), float(batch.cut.plan.size * positions), device=batch.x.device
    )
    counts.narrow(0, -1, 1).fill_(float(batch.cut.groups.last * batch.cut.matrix.rows_per_sample * positions))
    return counts


def _room(batch: Geometry, decide: bool) -> Settled:
    """Memory for what the settling kernels write; with `decide` also for which groups have enough values."""
    device, (groups, channels) = batch.x.device, batch.shape
    kept = torch.empty((10, groups, channels), dtype=torch.float32, device=device)
    if batch.weights is None:
        return Settled(kept, None, None)
    counts = torch.empty((2, groups, 1), dtype=torch.float32, device=device)
    enough = torch.empty((groups, 1), dtype=torch.bool, device=device) if decide else None
    return Settled(kept, counts, enough)
