"""From tensors to launches: what the kernels need, allocated, and the one place that starts them."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from normsmith.ops.activation import ACTIVATIONS, Activation
from normsmith.ops.call import Call, Forward, Update
from normsmith.ops.gpu import kernels
from normsmith.ops.gpu.plan import Matrix, Plan, matrix, plan
from normsmith.ops.moments import Groups, Moments
from normsmith.ops.resolve import Gradients, Renorm, Resolved, Running, coefficients, gradients, resolve
from normsmith.ops.sync import Sync

_PARTS, _CHANNELS = (16, 128), 8
"""How many parts, of how many channels, a merging program reads at once."""


class Left(NamedTuple):
    """What a forward leaves for its backward: what normalised, its coefficients, W, and mask and weights as one."""

    resolved: Resolved
    scale: Tensor
    shift: Tensor
    count: Tensor | float  # type: ignore[assignment]  # tuples have a method of this name
    weights: Tensor | None


class Geometry(NamedTuple):
    """A batch in a layout that the kernels know, and how it is cut."""

    x: Tensor
    matrix: Matrix
    plan: Plan
    groups: Groups | None
    weights: Tensor | None

    @property
    def shape(self) -> tuple[int, int]:
        """(groups, channels)."""
        return self.plan.groups, self.matrix.channels

    @property
    def counted(self) -> bool:
        """Whether the number of values differs between groups, or is known at run time only."""
        return self.weights is not None or (self.groups is not None and self.groups.last > 0)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Rows of a group, all rows, columns, positions."""
        return self.plan.size, self.matrix.rows, self.matrix.columns, self.matrix.positions

    def like(self, tensor: Tensor) -> Tensor:
        """The tensor in the batch's layout."""
        if tensor.stride() == self.x.stride():
            return tensor
        return torch.empty_like(self.x, dtype=tensor.dtype).copy_(tensor)


def weighed(x: Tensor, valid: Tensor | None, weights: Tensor | None) -> Tensor | None:
    """Mask and weights as one tensor of shape (batch, 1, *space): −1 where not valid."""
    if valid is not None:
        weights = torch.where(valid, 1.0 if weights is None else weights, -1.0)
    if weights is None:
        return None
    return weights.to(torch.float32).expand(x.shape[0], 1, *x.shape[2:]).contiguous()


def geometry(x: Tensor, weights: Tensor | None, groups: Groups | None) -> Geometry:
    """The batch in a layout that the kernels know, and cut."""
    layout = matrix(x)
    if layout is None:
        x = x.contiguous()
        layout = matrix(x)
        assert layout is not None
    return Geometry(x, layout, plan(layout, groups, x.element_size(), processors(x.device)), groups, weights)


@lru_cache
def processors(device: torch.device) -> int:
    """How many multiprocessors share the work."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def start(kernel: Any, programs: tuple[int, ...], *arguments: Any, warps: int = 4, **constants: Any) -> None:
    """Launch on the current stream of the tensors' device."""
    kernel[programs](*arguments, num_warps=warps, enable_fp_fusion=True, **constants)


def name_of(activation: Activation | None) -> str | None:
    """What the kernels call an activation; None: they do not know it."""
    if activation is None:
        return "none"
    return next((name for name, known in ACTIVATIONS.items() if known is activation), None)


def _flat(vector: Tensor | None) -> Tensor | None:
    return vector if vector is None or vector.is_contiguous() else vector.contiguous()


def _policy(plan: Plan) -> str:
    return "evict_last" if plan.resident else ""


def _bounds(renorm: Renorm | None) -> tuple[float, float, Tensor | None, Tensor | None]:
    """The bounds of renorm as numbers, or as tensors on the device."""
    numbers: list[float] = [1.0, 0.0]
    tensors: list[Tensor | None] = [None, None]
    for index, bound in enumerate(renorm or ()):
        if isinstance(bound, Tensor) and bound.device.type != "cpu":
            tensors[index] = bound
        else:
            numbers[index] = float(bound)
    return numbers[0], numbers[1], tensors[0], tensors[1]


class _Settled(NamedTuple):
    """Where the settling kernels write: rows of (groups, channels) in one allocation, and counts per group."""

    kept: Tensor
    counts: Tensor | None
    enough: Tensor | None

    def moments(self, batch: Geometry) -> Moments:
        rows = (8, 9) if batch.weights is not None and self.enough is not None else (0, 1)
        mean, low, m2 = self.kept[rows[0]], self.kept[rows[1]], self.kept[5]
        if self.counts is not None:
            return Moments(self.counts[0], mean, m2, self.counts[1], low)
        if batch.counted:
            count = _counts(batch)
            return Moments(count, mean, m2, count, low)
        number = float(batch.plan.size * batch.matrix.columns // batch.matrix.channels)
        return Moments(number, mean, m2, number, low)


def _counts(batch: Geometry) -> Tensor:
    """Values per group, where the last group differs."""
    assert batch.groups is not None
    positions = batch.matrix.columns // batch.matrix.channels
    counts = torch.full((batch.plan.groups, 1), float(batch.plan.size * positions), device=batch.x.device)
    counts[-1] = float(batch.groups.last * batch.matrix.rows_per_sample * positions)
    return counts


def _settled(batch: Geometry, decide: bool) -> _Settled:
    device, (groups, channels) = batch.x.device, batch.shape
    kept = torch.empty((10, groups, channels), dtype=torch.float32, device=device)
    if batch.weights is None:
        return _Settled(kept, None, None)
    counts = torch.empty((2, groups, 1), dtype=torch.float32, device=device)
    enough = torch.empty((groups, 1), dtype=torch.bool, device=device) if decide else None
    return _Settled(kept, counts, enough)


def normalize(
    batch: Geometry,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    running: Running | None,
    call: Call,
    update: Update | None,
) -> Forward:
    """Training in one launch or three: moments, decisions, running statistics, output."""
    cut, out = batch.plan, _settled(batch, True)
    y = torch.empty_like(batch.x)
    if running is None or cut.groups > 1 or not _movable(running):
        update = None
    tracked = running if running is not None else Running(*(None,) * 4)  # type: ignore[arg-type]
    renorm = call.renorm is not None
    affine = (_flat(weight), _flat(bias), *map(_flat, tracked[:3]))
    decisions = (
        tracked.batches if update is not None else None,
        *_bounds(call.renorm),
        out.kept,
        out.counts,
        out.enough,
    )
    constants = {
        "RENORM": renorm,
        "UPDATE": update is not None,
        "SKIP": update is not None and update.skip_nonfinite,
    }
    factor = update.momentum if update is not None else 0.0
    if cut.once:
        start(
            kernels.forward_at_once, (cut.blocks, cut.groups),
            batch.x, batch.weights, residual, y, *affine, *decisions, *batch.sizes, *reversed(batch.shape),
            call.eps, factor,
            warps=cut.tile.warps, ROWS=cut.tile.rows, COLUMNS=cut.tile.columns, UNIT=cut.unit, PLANES=cut.planes,
            HELD=cut.held, ACT=name_of(call.activation), **constants,
        )  # fmt: skip
    else:
        _measured(batch, affine, decisions, call.eps, factor, constants)
        _applied(batch, residual, y, (None,) * 5, tuple(out.kept[row] for row in (0, 3, 4)), None, call)
    found = out.moments(batch)
    by_batch: Tensor | bool = (
        True if not batch.counted else found.enough if out.enough is None else out.enough
    )
    mean, low, inv_std, scale, shift, _, r, d, *_ = out.kept.unbind()
    resolved = Resolved(mean, low, inv_std, r if renorm else None, d if renorm else None, by_batch)
    left = Left(resolved, scale, shift, found.count, batch.weights)
    return Forward(y, left, found if update is None else None)


def _movable(running: Running) -> bool:
    """Whether the kernels may move these buffers: float32, as they are summed in."""
    buffers = (running.mean, running.var, *([] if running.std is None else [running.std]))
    return all(buffer.dtype == torch.float32 and buffer.is_contiguous() for buffer in buffers)


def _measured(
    batch: Geometry,
    affine: tuple[Tensor | None, ...],
    decisions: tuple[Any, ...],
    eps: float,
    factor: float,
    constants: dict[str, Any] | None,
) -> None:
    """The first two launches: moments of parts, merged, and settled if there are constants to settle by."""
    cut = batch.plan
    width = batch.matrix.channels if cut.planes else batch.matrix.columns
    parts = torch.empty((5, cut.groups, cut.splits, width), dtype=torch.float32, device=batch.x.device)
    start(
        kernels.measure_parts, (cut.blocks * cut.splits * cut.groups,),
        batch.x, batch.weights, parts, *batch.sizes, cut.groups, cut.splits, cut.blocks, width,
        warps=cut.tile.warps, ROWS=cut.tile.rows, COLUMNS=cut.tile.columns, UNIT=cut.unit, PLANES=cut.planes,
        POLICY=_policy(cut),
    )  # fmt: skip
    start(
        kernels.settle_parts, *_merging(batch, width),
        parts, *affine, *decisions, *_entries(batch, width), *reversed(batch.shape), eps, factor,
        WEIGHTED=batch.weights is not None, DECIDE=constants is not None, CHANNELS=_CHANNELS,
        PARTS=_parts(batch, width), **(constants or {"RENORM": False, "UPDATE": False, "SKIP": False}),
    )  # fmt: skip


def _entries(batch: Geometry, width: int) -> tuple[int, int, int]:
    """Splits, width of the workspace, and how many of its columns belong to a channel."""
    return batch.plan.splits, width, width // batch.matrix.channels


def _parts(batch: Geometry, width: int) -> int:
    number = batch.plan.splits * (width // batch.matrix.channels)
    return _PARTS[0] if number <= _PARTS[0] else _PARTS[1]


def _merging(batch: Geometry, width: int) -> tuple[tuple[int, int]]:
    return ((-(-batch.matrix.channels // _CHANNELS), batch.plan.groups),)


def _elementwise(batch: Geometry) -> tuple[int, int, int, int]:
    """Programs of an elementwise launch; blocks of columns, tiles of a program, and programs per group and block."""
    cut, tile = batch.plan, batch.plan.elementwise
    blocks = -(-batch.matrix.columns // tile.columns)
    tallest = cut.size
    if batch.groups is not None:
        tallest = max(tallest, batch.groups.last * batch.matrix.rows_per_sample)
    per_group = -(-tallest // (tile.rows * cut.steps))
    return blocks * per_group * cut.groups, blocks, cut.steps, per_group


def _applied(
    batch: Geometry,
    residual: Tensor | None,
    y: Tensor,
    population: tuple[Tensor | None, ...],
    given: tuple[Tensor | None, ...],
    kept: Tensor | None,
    call: Call,
) -> None:
    cut, (programs, *counts) = batch.plan, _elementwise(batch)
    start(
        kernels.apply, (programs,),
        batch.x, batch.weights, residual, y, *population, *given, kept, call.eps, *batch.sizes,
        *reversed(batch.shape), *counts,
        warps=cut.elementwise.warps, ROWS=cut.elementwise.rows, COLUMNS=cut.elementwise.columns,
        UNIT=_unit(batch), ACT=name_of(call.activation), POLICY="evict_first",
    )  # fmt: skip


def _unit(batch: Geometry) -> int:
    return next(unit for unit in (8, 4, 2, 1) if batch.matrix.columns % unit == 0)


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
    population = (_flat(weight), _flat(bias), *map(_flat, running[:3]))
    _applied(batch, residual, y, population, (None,) * 3, kept, call)
    mean, inv_std, scale, shift = kept.unbind()
    return Forward(
        y, Left(Resolved(mean, None, inv_std, None, None, False), scale, shift, 1.0, batch.weights), None
    )


def agree(
    batch: Geometry,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    running: Running | None,
    call: Call,
) -> Forward:
    """Training across ranks: moments, theirs merged with ours, decisions on small tensors, output."""
    assert call.sync is not None
    out = _settled(batch, False)
    _measured(batch, (None,) * 5, (None, *_bounds(None), *out), 0.0, 0.0, None)
    found = call.sync.merge(out.moments(batch))
    resolved = resolve(found, running, call.eps, call.renorm)
    scale, shift = coefficients(resolved, weight, bias)
    y = torch.empty_like(batch.x)
    _applied(batch, residual, y, (None,) * 5, _dense(resolved.mean, scale, shift), None, call)
    return Forward(y, Left(resolved, scale, shift, found.count, batch.weights), found)


def _dense(*values: Tensor | None) -> tuple[Tensor | None, ...]:
    return tuple(map(_flat, values))


class Sums(NamedTuple):
    """The workspace of the first backward sweep."""

    parts: Tensor
    width: int


def _summed(
    g: Tensor,
    batch: Geometry,
    residual: Tensor | None,
    given: tuple[Tensor | None, ...],
    act: str,
    dz: Tensor | None,
) -> Sums:
    cut = batch.plan
    width = batch.matrix.channels if cut.planes else batch.matrix.columns
    parts = torch.empty((2, cut.groups, cut.splits, width), dtype=torch.float32, device=batch.x.device)
    start(
        kernels.reduce_parts, (cut.blocks * cut.splits * cut.groups,),
        g, batch.x, batch.weights, residual, dz, *given, parts, *batch.sizes, *reversed(batch.shape),
        cut.splits, cut.blocks, width,
        warps=cut.tile.warps, ROWS=cut.tile.rows, COLUMNS=cut.tile.columns, UNIT=cut.unit, PLANES=cut.planes,
        ACT=act, POLICY=_policy(cut),
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
    start(
        kernels.settle_sums, *_merging(batch, sums.width),
        sums.parts, *decided, count, counts, which, grads, *_entries(batch, sums.width), *reversed(batch.shape),
        CHANNELS=_CHANNELS, PARTS=_parts(batch, sums.width), DECIDE=decide, BY_BATCH=by_batch,
    )  # fmt: skip


def gradient(
    g: Tensor,
    batch: Geometry,
    residual: Tensor | None,
    given: tuple[Tensor | None, ...],
    through: tuple[Tensor | None, Tensor | None],
    act: str,
    dz: Tensor | None,
) -> Tensor:
    """dx, and the residual's gradient into `dz` if there is one."""
    cut, (programs, *counts) = batch.plan, _elementwise(batch)
    dx = torch.empty_like(batch.x)
    start(
        kernels.gradient, (programs,),
        g, batch.x, batch.weights, residual, dx, dz, *_dense(*given), *_dense(*through), *batch.sizes,
        *reversed(batch.shape), *counts,
        warps=cut.elementwise.warps, ROWS=cut.elementwise.rows, COLUMNS=cut.elementwise.columns,
        UNIT=_unit(batch), ACT=act, BY_BATCH=through[0] is not None, POLICY="evict_first",
    )  # fmt: skip
    return dx


def differentiate(
    g: Tensor,
    batch: Geometry,
    residual: Tensor | None,
    kept: Left,
    act: str,
    wants_x: bool,
    sync: Sync | None,
) -> tuple[Tensor | None, Tensor | None, Gradients]:
    """The way back: the gradients of x, of the residual, and of γ and β."""
    plain = act == "none" and batch.weights is None  # the residual's gradient is then g itself
    dz = torch.empty_like(residual) if residual is not None and wants_x and not plain else None
    residual = residual if act != "none" else None
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
    decided = _dense(resolved.low, resolved.inv_std, resolved.r, resolved.d)
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
    mean, scale, shift = _dense(kept.resolved.mean, kept.scale, kept.shift)
    grads = torch.empty((4, *batch.shape), dtype=torch.float32, device=batch.x.device)
    dx = torch.empty_like(batch.x) if wants_x else None
    start(
        kernels.backward_at_once, (cut.blocks, cut.groups),
        g, batch.x, batch.weights, residual, dx, dz, mean, *by.decided, scale, shift,
        by.number, by.counts, by.which, grads, *batch.sizes, *reversed(batch.shape),
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
    by, given = _statistics(kept), _dense(kept.resolved.mean, kept.scale, kept.shift)
    # the residual's gradient, written by the first sweep, is all that the last one needs of g and z
    early = dz if dz is not None and dz.dtype == g.dtype and act in ("none", "relu") else None
    sums = _summed(g, batch, residual, given, act, early)
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
        return gradient(early, batch, None, given, through, "none", None), found
    return gradient(g, batch, residual, given, through, act, dz), found


def _gradients(grads: Tensor, by_batch: bool) -> Gradients:
    dweight, dbias = (rows[0] if len(rows) == 1 else rows.sum(0) for rows in grads[:2])
    return Gradients(dweight, dbias, grads[2] if by_batch else None, grads[3] if by_batch else None)
