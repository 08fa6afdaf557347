"""The backward: allocates what its kernels need, and launches them in order."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from normsmith.ops.gpu import backward_kernels as kernels
from normsmith.ops.gpu import launch
from normsmith.ops.gpu.launch import Geometry, Saved
from normsmith.ops.resolve import Gradients, gradients
from normsmith.ops.sync import Sync


def differentiate(
    g: Tensor,
    batch: Geometry,
    residual: Tensor | None,
    kept: Saved,
    act: str,
    wants_x: bool,
    added: torch.dtype | None,
    sync: Sync | None,
) -> tuple[Tensor | None, Tensor | None, Gradients]:
    """The gradients of x, of the residual, and of γ and β. `added` is the dtype of the residual, None without one."""
    plain = act == "none" and batch.weights is None  # the residual's gradient is then g itself
    dz = None
    if added is not None and wants_x and not plain:
        dz = torch.empty_like(batch.x, dtype=added)
    residual = residual if act != "none" and kept.bits is None else None
    if batch.plan.once and sync is None:
        dx, affine = _differentiate_at_once(g, batch, residual, kept, act, wants_x, dz)
    else:
        dx, affine = _differentiate_in_parts(g, batch, residual, kept, act, wants_x, dz, sync)
    return dx, g if dz is None else dz, affine


class _Statistics(NamedTuple):
    """What the settling of gradients reads: which statistics normalised, and over how many values."""

    by_batch: bool
    which: Tensor | None
    number: float
    counts: Tensor | None
    decided: tuple[Tensor | None, ...]


def _statistics(kept: Saved) -> _Statistics:
    """Read what a forward has saved into the form that the settling kernels take."""
    resolved = kept.resolved
    which = resolved.by_batch if isinstance(resolved.by_batch, Tensor) else None
    count, counts = (1.0, kept.count) if isinstance(kept.count, Tensor) else (float(kept.count), None)
    decided = launch.dense(resolved.low, resolved.inv_std, resolved.r, resolved.d)
    return _Statistics(resolved.by_batch is not False, which, count, counts, decided)


def _differentiate_at_once(
    g: Tensor,
    batch: Geometry,
    residual: Tensor | None,
    kept: Saved,
    act: str,
    wants_x: bool,
    dz: Tensor | None,
) -> tuple[Tensor | None, Gradients]:
    """Run the backward in one launch."""
    cut, by = batch.plan, _statistics(kept)
    mean, scale, shift = launch.dense(kept.resolved.mean, kept.scale, kept.shift)
    grads = torch.empty((4, *batch.shape), dtype=torch.float32, device=batch.x.device)
    dx = torch.empty_like(batch.x) if wants_x else None
    launch.start(
        kernels.backward_at_once, (cut.blocks * cut.groups,),
        g, batch.x, batch.weights, residual, kept.bits, dx, dz, mean, *by.decided, scale, shift,
        by.number, by.counts, by.which, grads, *batch.sizes, *reversed(batch.shape), cut.blocks,
        warps=cut.tile.warps, ROWS=cut.tile.rows, COLUMNS=cut.tile.columns, UNIT=cut.unit, PLANES=cut.planes,
        HELD=cut.held, ACT=act, BY_BATCH=by.by_batch,
    )  # fmt: skip
    return dx, _gradients(grads, by.by_batch)


def _differentiate_in_parts(
    g: Tensor,
    batch: Geometry,
    residual: Tensor | None,
    kept: Saved,
    act: str,
    wants_x: bool,
    dz: Tensor | None,
    sync: Sync | None,
) -> tuple[Tensor | None, Gradients]:
    """Run the backward in three launches; ranks exchange their sums before the last of them."""
    by, given = _statistics(kept), launch.dense(kept.resolved.mean, kept.scale, kept.shift)
    # without bits, the residual's gradient is written by the first sweep: all that the last one needs of g and z
    simple = kept.bits is None and act in ("none", "relu")
    early = dz if dz is not None and dz.dtype == g.dtype and simple else None
    sums = _sum_parts(g, batch, residual, kept.bits, given, act, early)
    grads = torch.empty((4, *batch.shape), dtype=torch.float32, device=batch.x.device)
    if sync is None:
        decided = (*by.decided, given[1])
        _settle_sums(
            batch, sums, decided, by.number, by.counts, by.which, grads, decide=True, by_batch=by.by_batch
        )
        affine = _gradients(grads, by.by_batch)
    else:
        _settle_sums(batch, sums, (None,) * 5, 1.0, None, None, grads, decide=False, by_batch=False)
        exchange = sync.sum if wants_x else None
        affine = gradients(kept.resolved, kept.scale, kept.count, grads[0], grads[1], exchange)
    if not wants_x:
        return None, affine
    through = (affine.offset, affine.slope)
    if early is not None:
        return gradient(early, batch, None, None, given, through, "none", None), affine
    return gradient(g, batch, residual, kept.bits, given, through, act, dz), affine


def _gradients(grads: Tensor, by_batch: bool) -> Gradients:
    """dγ and dβ summed over groups, and the terms of dx if the batch's statistics normalised."""
    dweight, dbias, offset, slope = grads.unbind()
    if len(dweight) == 1:
        dweight, dbias = dweight.squeeze(0), dbias.squeeze(0)
    else:
        dweight, dbias = dweight.sum(0), dbias.sum(0)
    return Gradients(dweight, dbias, offset if by_batch else None, slope if by_batch else None)


class Sums(NamedTuple):
    """The workspace of the first backward sweep: sums of parts, and how many of them stand in a row."""

    parts: Tensor
    width: int


def _sum_parts(
    g: Tensor,
    batch: Geometry,
    residual: Tensor | None,
    bits: Tensor | None,
    given: tuple[Tensor | None, ...],
    act: str,
    dz: Tensor | None,
) -> Sums:
    """The first launch: Σg and Σg·(x − mean) of each part, and the residual's gradient into `dz` if there is one."""
    cut = batch.plan
    width = batch.matrix.channels if cut.planes else batch.matrix.columns
    parts = torch.empty((2, cut.groups, cut.splits, width), dtype=torch.float32, device=batch.x.device)
    launch.start(
        kernels.reduce_parts, (cut.blocks * cut.splits * cut.groups,),
        g, batch.x, batch.weights, residual, bits, dz, *given, parts, *batch.sizes, *reversed(batch.shape),
        cut.splits, cut.blocks, width,
        warps=cut.tile.warps, ROWS=cut.tile.rows, COLUMNS=cut.tile.columns, UNIT=cut.unit, PLANES=cut.planes,
        ACT=act, POLICY=launch.policy(cut),
    )  # fmt: skip
    return Sums(parts, width)


def _settle_sums(
    batch: Geometry,
    sums: Sums,
    decided: tuple[Tensor | None, ...],
    count: float,
    counts: Tensor | None,
    which: Tensor | None,
    grads: Tensor,
    *,
    decide: bool,
    by_batch: bool,
) -> None:
    """The second launch: sums of parts become those of channels, and with `decide` the gradients."""
    launch.start(
        kernels.settle_sums, launch.merging_programs(batch),
        sums.parts, *decided, count, counts, which, grads, *launch.entries(batch, sums.width), *reversed(batch.shape),
        CHANNELS=launch.CHANNELS, PARTS=launch.parts_at_once(batch, sums.width), DECIDE=decide, BY_BATCH=by_batch,
    )  # fmt: skip


def gradient(
    g: Tensor,
    batch: Geometry,
    residual: Tensor | None,
    bits: Tensor | None,
    given: tuple[Tensor | None, ...],
    through: tuple[Tensor | None, Tensor | None],
    act: str,
    dz: Tensor | None,
) -> Tensor:
    """Compute dx; the residual's gradient goes into `dz`, if there is one."""
    cut, (programs, *counts) = batch.plan, launch.elementwise(batch)
    dx = torch.empty_like(batch.x)
    launch.start(
        kernels.gradient, (programs,),
        g, batch.x, batch.weights, residual, bits, dx, dz, *launch.dense(*given), *launch.dense(*through), *batch.sizes,
        *reversed(batch.shape), *counts,
        warps=cut.elementwise.warps, ROWS=cut.elementwise.rows, COLUMNS=cut.elementwise.columns,
        UNIT=launch.unit(batch), ACT=act, BY_BATCH=through[0] is not None, POLICY="evict_first",
    )  # fmt: skip
    return dx
