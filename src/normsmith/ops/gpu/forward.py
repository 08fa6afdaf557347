"""The forward: allocates what its kernels need, and launches them in order."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from normsmith.ops.call import Call, Forward, Update
from normsmith.ops.gpu import forward_kernels as kernels
from normsmith.ops.gpu import launch
from normsmith.ops.gpu.launch import Geometry, Saved
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
    if running is None or batch.plan.groups > 1 or not _is_plain(running):
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
    cut, out = batch.plan, _room(batch, True)
    act = launch.name_of(call.activation)
    y, bits = torch.empty_like(batch.x), batch.bits(residual, act)
    tracked = running if running is not None else Running(*(None,) * 4)  # type: ignore[arg-type]
    affine = (launch.flat(weight), launch.flat(bias), *map(launch.flat, tracked[:3]))
    decisions = (
        tracked.batches if update is not None else None,
        *_bounds(call.renorm, batch.x.device),
        out.kept,
        out.counts,
        out.enough,
    )
    constants = {
        "RENORM": call.renorm is not None,
        "UPDATE": update is not None,
        "SKIP": update is not None and update.skip_nonfinite,
    }
    factor = update.momentum if update is not None else 0.0
    if cut.once:
        launch.start(
            kernels.forward_at_once, (cut.blocks * cut.groups,),
            batch.x, batch.weights, residual, y, bits, *affine, *decisions, *batch.sizes, *reversed(batch.shape),
            cut.blocks, call.eps, factor,
            warps=cut.tile.warps, ROWS=cut.tile.rows, COLUMNS=cut.tile.columns, UNIT=cut.unit, PLANES=cut.planes,
            HELD=cut.held, ACT=act, **constants,
        )  # fmt: skip
    else:
        _measure(batch, affine, decisions, call.eps, factor, constants)
        given = tuple(out.kept.select(0, row) for row in (0, 3, 4))
        _apply(batch, residual, y, bits, (None,) * 5, given, None, call)
    return y, out, bits


def _is_plain(running: Running) -> bool:
    """Whether the kernels can update these buffers: float32 without gaps, and a counter on the same device."""
    mean, var, std, batches = running
    buffers = (mean, var) if std is None else (mean, var, std)
    if batches is not None and (batches.dtype != torch.int64 or batches.device != mean.device):
        return False
    return all(buffer.dtype == torch.float32 and buffer.is_contiguous() for buffer in buffers)


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
    out = _room(batch, False)
    _measure(batch, (None,) * 5, (None, *_bounds(None, batch.x.device), *out), 0.0, 0.0, None)
    merged = call.sync.merge(out.moments(batch))
    resolved = resolve(merged, running, call.eps, call.renorm)
    scale, shift = coefficients(resolved, weight, bias)
    y, bits = torch.empty_like(batch.x), batch.bits(residual, launch.name_of(call.activation))
    _apply(batch, residual, y, bits, (None,) * 5, launch.dense(resolved.mean, scale, shift), None, call)
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
    population = (launch.flat(weight), launch.flat(bias), *map(launch.flat, running[:3]))
    _apply(batch, residual, y, None, population, (None,) * 3, kept, call)
    mean, inv_std, scale, shift = kept.unbind()
    return Forward(
        y, Saved(Resolved(mean, None, inv_std, None, None, False), scale, shift, 1.0, batch.weights), None
    )


def _measure(
    batch: Geometry,
    affine: tuple[Tensor | None, ...],
    decisions: tuple[Any, ...],
    eps: float,
    factor: float,
    constants: dict[str, Any] | None,
) -> None:
    """The first two launches: moments of parts, which are merged, and settled if there are `constants` to settle by."""
    cut = batch.plan
    width = batch.matrix.channels if cut.planes else batch.matrix.columns
    parts = torch.empty((5, cut.groups, cut.splits, width), dtype=torch.float32, device=batch.x.device)
    launch.start(
        kernels.measure_parts, (cut.blocks * cut.splits * cut.groups,),
        batch.x, batch.weights, parts, *batch.sizes, cut.groups, cut.splits, cut.blocks, width,
        warps=cut.tile.warps, ROWS=cut.tile.rows, COLUMNS=cut.tile.columns, UNIT=cut.unit, PLANES=cut.planes,
        POLICY=launch.policy(cut),
    )  # fmt: skip
    launch.start(
        kernels.settle_parts, launch.merging_programs(batch),
        parts, *affine, *decisions, *launch.entries(batch, width), *reversed(batch.shape), eps, factor,
        WEIGHTED=batch.weights is not None, DECIDE=constants is not None, CHANNELS=launch.CHANNELS,
        PARTS=launch.parts_at_once(batch, width), **(constants or {"RENORM": False, "UPDATE": False, "SKIP": False}),
    )  # fmt: skip


def _apply(
    batch: Geometry,
    residual: Tensor | None,
    y: Tensor,
    bits: Tensor | None,
    population: tuple[Tensor | None, ...],
    given: tuple[Tensor | None, ...],
    kept: Tensor | None,
    call: Call,
) -> None:
    """The last launch: the output, by given coefficients or by the running statistics (`population`)."""
    cut, (programs, *counts) = batch.plan, launch.elementwise(batch)
    launch.start(
        kernels.apply, (programs,),
        batch.x, batch.weights, residual, y, bits, *population, *given, kept, call.eps, *batch.sizes,
        *reversed(batch.shape), *counts,
        warps=cut.elementwise.warps, ROWS=cut.elementwise.rows, COLUMNS=cut.elementwise.columns,
        UNIT=launch.unit(batch), ACT=launch.name_of(call.activation), POLICY="evict_first",
    )  # fmt: skip


def _bounds(renorm: Renorm | None, device: torch.device) -> tuple[float, float, Tensor | None, Tensor | None]:
    """The bounds of renorm as numbers, or, where the host would have to wait for them, as tensors on the device."""
    numbers: list[float] = [1.0, 0.0]
    tensors: list[Tensor | None] = [None, None]
    for index, bound in enumerate(renorm or ()):
        if isinstance(bound, Tensor) and bound.device == device:
            tensors[index] = bound
        else:
            numbers[index] = float(bound)
    return numbers[0], numbers[1], tensors[0], tensors[1]


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
        number = float(batch.plan.size * batch.matrix.columns // batch.matrix.channels)
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
    assert batch.groups is not None
    positions = batch.matrix.columns // batch.matrix.channels
    counts = torch.full((batch.plan.groups, 1), float(batch.plan.size * positions), device=batch.x.device)
    counts.narrow(0, -1, 1).fill_(float(batch.groups.last * batch.matrix.rows_per_sample * positions))
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
