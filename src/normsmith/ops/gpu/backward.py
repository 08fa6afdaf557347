"""The backward: allocates what its kernels need, and launches them in order."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from normsmith.ops.gpu import backward_kernels as kernels
from normsmith.ops.gpu import launch
from normsmith.ops.gpu.launch import Cut, Geometry, Launch, Saved
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
    if batch.cut.plan.once and sync is None:
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


def _values(
    g: Tensor, batch: Geometry, residual: Tensor | None, kept: Saved, grads: Tensor
) -> tuple[bool, dict[str, Any]]:
    """Whether the batch's statistics normalised; and what launches read and write, but for gradients of batches."""
    by = _statistics(kept)
    values: dict[str, Any] = {"g": g, "x": batch.x, "w": batch.weights, "z": residual, "bits": kept.bits}
    values |= zip(
        ("means", "scales", "shifts"), launch.dense(kept.resolved.mean, kept.scale, kept.shift), strict=True
    )
    values |= zip(("low", "inv_std", "r", "d"), by.decided, strict=True)
    return by.by_batch, values | {
        "count": by.number,
        "counts": by.counts,
        "by_batch": by.which,
        "grads": grads,
    }


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
    grads = torch.empty((4, *batch.shape), dtype=torch.float32, device=batch.x.device)
    dx = torch.empty_like(batch.x) if wants_x else None
    by_batch, values = _values(g, batch, residual, kept, grads)
    launch.run([at_once(batch.cut, act, by_batch)], {**values, "dx": dx, "dz": dz})
    return dx, _gradients(grads, by_batch)


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
    cut = batch.cut
    # without bits, the residual's gradient is written by the first sweep: all that the last one needs of g and z
    simple = kept.bits is None and act in ("none", "relu")
    early = dz if dz is not None and dz.dtype == g.dtype and simple else None
    grads = torch.empty((4, *batch.shape), dtype=torch.float32, device=batch.x.device)
    by_batch, values = _values(g, batch, residual, kept, grads)
    parts = (2, cut.plan.groups, cut.plan.splits, cut.width)
    values |= {"dz": early, "parts": torch.empty(parts, dtype=torch.float32, device=batch.x.device)}
    launch.run(in_parts(cut, act, by_batch, decide=sync is None), values)
    if sync is None:
        affine = _gradients(grads, by_batch)
    else:
        exchange = sync.sum if wants_x else None
        affine = gradients(kept.resolved, kept.scale, kept.count, grads[0], grads[1], exchange)
    if not wants_x:
        return None, affine
    values |= zip(("offsets", "slopes"), launch.dense(affine.offset, affine.slope), strict=True)
    values["dx"] = torch.empty_like(batch.x)
    if early is not None:
        values |= {"g": early, "z": None, "bits": None, "dz": None}
        launch.run([last(cut, "none", affine.offset is not None)], values)
    else:
        launch.run([last(cut, act, affine.offset is not None)], {**values, "dz": dz})
    return values["dx"], affine


def _gradients(grads: Tensor, by_batch: bool) -> Gradients:
    """dγ and dβ summed over groups, and the terms of dx if the batch's statistics normalised."""
    dweight, dbias, offset, slope = grads.unbind()
    if len(dweight) == 1:
        dweight, dbias = dweight.squeeze(0), dbias.squeeze(0)
    else:
        dweight, dbias = dweight.sum(0), dbias.sum(0)
    return Gradients(dweight, dbias, offset if by_batch else None, slope if by_batch else None)


_SETTLED = ("low", "inv_std", "r", "d")
_BEFORE = ("means", "scales", "shifts")


@lru_cache(maxsize=4096)
def at_once(cut: Cut, act: str, by_batch: bool) -> Launch:
    """The launch of a backward that needs one only."""
    plan, tile = cut.plan, cut.plan.tile
    arguments = (
        *("g", "x", "w", "z", "bits", "dx", "dz", "means", *_SETTLED, "scales", "shifts", "count", "counts"),
        *("by_batch", "grads"), *cut.sizes, *reversed(cut.shape), plan.blocks,
    )  # fmt: skip
    constants = {
        "ROWS": tile.rows, "COLUMNS": tile.columns, "UNIT": plan.unit, "PLANES": plan.planes, "HELD": plan.held,
        "ACT": act, "BY_BATCH": by_batch, "STAGES": plan.stages, "UNROLL": plan.unroll,
    }  # fmt: skip
    return Launch(kernels.backward_at_once, plan.blocks * plan.groups, arguments, tile.warps, constants)


@lru_cache(maxsize=4096)
def in_parts(cut: Cut, act: str, by_batch: bool, *, decide: bool) -> tuple[Launch, Launch]:
    """The first two launches of a large backward: Σg and Σg·(x − mean) of parts, which are added.

    With `decide` they become the gradients of γ and β, and the terms of dx.
    """
    plan, tile = cut.plan, cut.plan.tile
    sums = Launch(
        kernels.reduce_parts, plan.blocks * plan.splits * plan.groups,
        ("g", "x", "w", "z", "bits", "dz", *_BEFORE, "parts", *cut.sizes, *reversed(cut.shape), plan.splits,
         plan.blocks, cut.width),
        tile.warps,
        {"ROWS": tile.rows, "COLUMNS": tile.columns, "UNIT": plan.unit, "PLANES": plan.planes, "ACT": act,
         "POLICY": launch.policy(plan), "STAGES": plan.stages, "UNROLL": plan.unroll, "CHAINED": cut.chained},
    )  # fmt: skip
    decides = (
        (*_SETTLED, "scales", "count", "counts", "by_batch") if decide else (*[None] * 5, 1.0, None, None)
    )
    settle = Launch(
        kernels.settle_sums, launch.merging_programs(cut),
        ("parts", *decides, "grads", *launch.entries(cut), *reversed(cut.shape)), 4,
        {"CHANNELS": launch.CHANNELS, "PARTS": launch.parts_at_once(cut), "DECIDE": decide,
         "BY_BATCH": by_batch and decide, **launch.waiting(cut)},
    )  # fmt: skip
    return sums, settle


@lru_cache(maxsize=4096)
def last(cut: Cut, act: str, by_batch: bool) -> Launch:
    """The last launch of a large backward: the gradients of x and of the residual."""
    tile, (programs, *counts) = cut.plan.elementwise, launch.elementwise(cut)
    arguments = (
        *("g", "x", "w", "z", "bits", "dx", "dz", *_BEFORE, "offsets", "slopes"), *cut.sizes, *reversed(cut.shape),
        *counts,
    )  # fmt: skip
    constants = {
        "ROWS": tile.rows, "COLUMNS": tile.columns, "UNIT": launch.unit(cut), "ACT": act, "BY_BATCH": by_batch,
        "POLICY": "evict_first", **launch.waiting(cut),
    }  # fmt: skip
    return Launch(kernels.gradient, programs, arguments, tile.warps, constants)
