"""The way back: what its kernels need, allocated, and their launches in order."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from normsmith.ops.gpu import backward_kernels as kernels
from normsmith.ops.gpu import launch
from normsmith.ops.gpu.launch import Geometry, Left
from normsmith.ops.resolve import Gradients, gradients
from normsmith.ops.sync import Sync


def differentiate(
    g: Tensor,
    batch: Geometry,
    residual: Tensor | None,
    kept: Left,
    act: str,
    wants_x: bool,
    added: torch.dtype | None,
    sync: Sync | None,
) -> tuple[Tensor | None, Tensor | None, Gradients]:
    """The way back: the gradients of x, of the residual (None where `added`, its dtype, is), and of γ and β."""
    plain = act == "none" and batch.weights is None  # the residual's gradient is then g itself
    dz = None
    if added is not None and wants_x and not plain:
        dz = torch.empty_like(batch.x, dtype=added)
    residual = residual if act != "none" and kept.bits is None else None
    if batch.plan.once and sync is None:
        dx, found = _back_at_once(g, batch, residual, kept, act, wants_x, dz)
    else:
        dx, found = _back_in_parts(g, batch, residual, kept, act, wants_x, dz, sync)
    return dx, g if dz is None else dz, found


class _Statistics(NamedTuple):
    """What the settling of gradients reads: whose statistics normalised, and how much they count."""

    by_batch: bool
    which: Tensor | None
    number: float
    counts: Tensor | None
    decided: tuple[Tensor | None, ...]


def _statistics(kept: Left) -> _Statistics:
    resolved = kept.resolved
    which = resolved.by_batch if isinstance(resolved.by_batch, Tensor) else None
    count, counts = (1.0, kept.count) if isinstance(kept.count, Tensor) else (float(kept.count), None)
    decided = launch.dense(resolved.low, resolved.inv_std, resolved.r, resolved.d)
    return _Statistics(resolved.by_batch is not False, which, count, counts, decided)


def _back_at_once(
    g: Tensor,
    batch: Geometry,
    residual: Tensor | None,
    kept: Left,
    act: str,
    wants_x: bool,
    dz: Tensor | None,
) -> tuple[Tensor | None, Gradients]:
    """One launch."""
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


def _back_in_parts(
    g: Tensor,
    batch: Geometry,
    residual: Tensor | None,
    kept: Left,
    act: str,
    wants_x: bool,
    dz: Tensor | None,
    sync: Sync | None,
) -> tuple[Tensor | None, Gradients]:
    """Three launches, or four of which ranks may talk between the first and the last."""
    by, given = _statistics(kept), launch.dense(kept.resolved.mean, kept.scale, kept.shift)
    # without bits, the residual's gradient is written by the first sweep: all that the last one needs of g and z
    simple = kept.bits is None and act in ("none", "relu")
    early = dz if dz is not None and dz.dtype == g.dtype and simple else None
    sums = _summed(g, batch, residual, kept.bits, given, act, early)
    grads = torch.empty((4, *batch.shape), dtype=torch.float32, device=batch.x.device)
    if sync is None:
        decided = (*by.decided, given[1])
        _settle_sums(
            batch, sums, decided, by.number, by.counts, by.which, grads, decide=True, by_batch=by.by_batch
        )
        found = _gradients(grads, by.by_batch)
    else:
        _settle_sums(batch, sums, (None,) * 5, 1.0, None, None, grads, decide=False, by_batch=False)
        exchange = sync.sum if wants_x else None
        found = gradients(kept.resolved, kept.scale, kept.count, grads[0], grads[1], exchange)
    if not wants_x:
        return None, found
    through = (found.offset, found.slope)
    if early is not None:
        return gradient(early, batch, None, None, given, through, "none", None), found
    return gradient(g, batch, residual, kept.bits, given, through, act, dz), found


def _gradients(grads: Tensor, by_batch: bool) -> Gradients:
    dweight, dbias, offset, slope = grads.unbind()
    if len(dweight) == 1:
        dweight, dbias = dweight.squeeze(0), dbias.squeeze(0)
    else:
        dweight, dbias = dweight.sum(0), dbias.sum(0)
    return Gradients(dweight, dbias, offset if by_batch else None, slope if by_batch else None)


class Sums(NamedTuple):
    """The workspace of the first backward sweep."""

    parts: Tensor
    width: int


def _summed(
    g: Tensor,
    batch: Geometry,
    residual: Tensor | None,
    bits: Tensor | None,
    given: tuple[Tensor | None, ...],
    act: str,
    dz: Tensor | None,
) -> Sums:
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
    """dx, and the residual's gradient into `dz` if there is one."""
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
