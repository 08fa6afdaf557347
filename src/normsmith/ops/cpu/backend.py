"""The row `numba` of the dispatch table: one trip through memory on the CPU."""

from __future__ import annotations

import warnings
from functools import cache

import torch
from torch import Tensor
from torch.nn import Parameter

from normsmith.ops._shapes import Batch
from normsmith.ops.activation import ACTIVATIONS
from normsmith.ops.call import Call, Forward, Update, eager
from normsmith.ops.cpu import arguments as slot
from normsmith.ops.cpu.calling import APPLY, MEASURE, SETTLE, Values, run
from normsmith.ops.cpu.layout import Layout, layout_of
from normsmith.ops.cpu.memory import LARGE, like
from normsmith.ops.moments import Groups, Moments, counts
from normsmith.ops.resolve import Gradients, Resolved, Running

_ROWS = 9
_MEAN, _LOW, _INV_STD, _M2, _SCALE, _SHIFT, _R, _D, _SHARE = range(_ROWS)
_DTYPES = frozenset((torch.float32, torch.float64, torch.bfloat16, torch.float16))
_RELU = ACTIVATIONS["relu"]


class Packed:
    """What a forward leaves for its backward: nine rows of statistics, of shape (rows, groups, channels)."""

    __slots__ = ("bits", "code", "enough", "groups", "layout", "renorm", "statistics")

    def __init__(
        self,
        statistics: Tensor,
        layout: Layout,
        groups: tuple[int, int],
        code: Tensor | None,
        bits: Tensor | None,
        enough: Tensor | bool,
        renorm: bool,
    ) -> None:
        self.statistics, self.layout, self.groups = statistics, layout, groups
        self.code, self.bits, self.enough, self.renorm = code, bits, enough, renorm

    @property
    def resolved(self) -> Resolved:
        """What normalised, as `resolve` says it."""
        rows = self.statistics.unbind()
        low = None if self.enough is False else rows[_LOW]
        r, d = (rows[_R], rows[_D]) if self.renorm else (None, None)
        return Resolved(rows[_MEAN], low, rows[_INV_STD], r, d, self.enough)


class Numba:
    """Kernels for training and inference, forward and backward, in every memory layout."""

    name = "numba"
    differentiates = False

    def supports(self, x: Tensor, call: Call) -> str | None:
        """None on CPUs, in eager mode, for plain tensors that hold anything."""
        if not eager() or torch._C._len_torch_dispatch_stack():
            return "runs in eager mode only, where nobody wants to see every operation"
        if not x.is_cpu:
            return f"runs on CPUs, got a tensor on {x.device.type}"
        if call.sync is not None:
            return "statistics cross ranks between two halves"
        if x.numel() == 0:
            return "the batch is empty"
        return _unreadable(x) or _unavailable(x.dtype == torch.float16)

    def forward(
        self,
        x: Batch,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Batch | None,
        running: Running | None,
        call: Call,
        update: Update | None = None,
    ) -> Forward:
        """Moments, decision, running update and output in one trip, where the cache holds a channel."""
        x, layout = _laid_out(x)
        work = torch.float64 if x.dtype == torch.float64 else torch.float32
        groups = _groups(call.groups, layout)
        code = _code(call, x, work)
        relu = call.activation is _RELU
        bits = _room_for_bits(layout, groups) if relu and residual is not None else None
        count, squares = _counts(x, call, layout) if call.by_batch else (0.0, 0.0)
        enough = call.by_batch and Moments(count, x, x, squares, x).enough
        statistics = torch.empty((_ROWS, groups[1], layout.channels), dtype=work)
        values = Values()
        residual = None if residual is None else _alike(residual, x)
        values.place(slot.RESIDUAL, residual)
        values.point(slot.GAMMA, weight, work)
        values.point(slot.BETA, bias, work)
        updated = False
        if running is not None:
            values.point(slot.RUNNING_MEAN, running.mean, work)
            values.point(slot.RUNNING_VAR, running.var, work)
            values.point(slot.RUNNING_STD, running.std, work)
            updated = update is not None and enough is not False and _in_place(running, work)
        if call.weights is not None and isinstance(squares, Tensor):
            values.point(slot.SQUARES, squares.flatten(), torch.float64)
        slots = values.slots
        slots[slot.BY_BATCH], slots[slot.EPS] = call.by_batch, call.eps
        if call.by_batch and call.renorm is not None:
            slots[slot.RENORM] = True
            slots[slot.R_MAX] = max(float(call.renorm.r_max), 1.0)
            slots[slot.D_MAX] = max(float(call.renorm.d_max), 0.0)
        if updated and running is not None and update is not None:
            slots[slot.UPDATE], slots[slot.SKIP_NONFINITE] = True, update.skip_nonfinite
            slots[slot.MOMENTUM], slots[slot.LARGEST] = update.momentum, torch.finfo(work).max
            values.point(slot.COUNTER, running.batches, torch.int64)
        kept = Packed(statistics, layout, groups, code, bits, enough, call.renorm is not None)
        y = _normalise(x, kept, relu, values, MEASURE | SETTLE | APPLY if call.by_batch else SETTLE | APPLY)
        if call.activation is not None and not relu:
            y = call.activation.forward(y)
            y = y if call.valid is None else torch.where(call.valid, y, 0.0)
        if not call.by_batch or updated:
            return Forward(y, kept, None)
        return Forward(y, kept, Moments(count, statistics[_MEAN], statistics[_M2], squares, statistics[_LOW]))

    def backward(
        self, g: Batch, x: Batch, residual: Batch | None, kept: Packed, call: Call, wants_x: bool
    ) -> tuple[Batch | None, Batch | None, Gradients]:
        """The sums of the gradient, dγ and dβ, and dx, in one trip where the cache holds a channel."""
        x, layout = _laid_out(x)
        relu = call.activation is _RELU
        if call.activation is not None and not relu:
            again = Values()
            added = None if residual is None else _alike(residual, x)
            again.place(slot.RESIDUAL, added)
            before = _normalise(x, kept, False, again, APPLY)
            g = call.activation.backward(g.to(before.dtype), before)
        g = _alike(g, x)
        work = kept.statistics.dtype
        channels, number = layout.channels, kept.groups[1]
        dgamma, dbeta = torch.empty(channels, dtype=work), torch.empty(channels, dtype=work)
        terms = torch.empty(2 * number * channels, dtype=work)
        values = Values()
        values.place(slot.G, g)
        values.place(slot.X, x)
        values.point(slot.STATISTICS, kept.statistics, work)
        values.point(slot.CODE, kept.code, work)
        values.point(slot.BITS, kept.bits, torch.int16)
        values.point(slot.TERMS, terms, work)
        values.point(slot.DGAMMA, dgamma, work)
        values.point(slot.DBETA, dbeta, work)
        slots = values.slots
        slots[slot.BIT_LINES], slots[slot.RELU] = _lines(layout, kept.groups), relu
        dx, dresidual = None, None
        if wants_x:
            dx = like(x)
            values.place(slot.DX, dx)
            slots[slot.STREAM] = dx.nbytes >= LARGE
            if residual is not None:
                masked = relu or kept.code is not None
                dresidual = like(x) if masked else g
                values.place(slot.DRESIDUAL, dresidual if masked else None)
        extras = kept.bits is not None or kept.code is not None
        phases = MEASURE | SETTLE | APPLY if wants_x else MEASURE | SETTLE
        run("backward", layout, x.dtype, extras, kept.groups, phases, values)
        return dx, dresidual, Gradients(dgamma, dbeta, None, None)


def _unreadable(x: Tensor) -> str | None:
    """Why the memory of a tensor cannot be read and written behind torch's back."""
    if x.dtype not in _DTYPES:
        return f"knows float32, float64, bfloat16 and float16, got {x.dtype}"
    if (type(x) is not Tensor and type(x) is not Parameter) or x.is_neg() or x.layout is not torch.strided:
        return f"reads the memory of plain tensors, got {type(x).__name__}"
    return None


def _normalise(x: Tensor, kept: Packed, relu: bool, values: Values, phases: int) -> Tensor:
    """Run the phases of a forward; what `kept` names is pointed to here."""
    y = like(x)
    slots, work = values.slots, kept.statistics.dtype
    values.place(slot.X, x)
    values.place(slot.Y, y)
    values.point(slot.STATISTICS, kept.statistics, work)
    values.point(slot.CODE, kept.code, work)
    bits = kept.bits if relu else None
    values.point(slot.BITS, bits, torch.int16)
    slots[slot.BIT_LINES] = _lines(kept.layout, kept.groups)
    slots[slot.RELU], slots[slot.STREAM] = relu, y.nbytes >= LARGE
    extras = bits is not None or kept.code is not None or slots[slot.RESIDUAL] != 0
    run("forward", kept.layout, x.dtype, extras, kept.groups, phases, values)
    return y


def _laid_out(x: Tensor) -> tuple[Tensor, Layout]:
    layout = layout_of(x)
    if layout is None:
        x = x.contiguous()
        layout = layout_of(x)
        assert layout is not None  # contiguous
    return x, layout


def _alike(tensor: Tensor, x: Tensor) -> Tensor:
    """A tensor that lies in memory as `x` does, with its dtype."""
    if tensor.dtype == x.dtype and tensor.stride() == x.stride():
        return tensor
    return torch.empty_like(x).copy_(tensor)


def _groups(groups: Groups | None, layout: Layout) -> tuple[int, int]:
    """Samples in a group, and the number of groups; the last one takes what is left."""
    return (layout.samples, 1) if groups is None else (groups.size, groups.number)


def _counts(x: Tensor, call: Call, layout: Layout) -> tuple[Tensor | float, Tensor | float]:
    if call.weights is None and call.groups is None:
        count = float(layout.samples * layout.rows * layout.positions)
        return count, count
    return counts(x, call.weights, call.groups)


def _code(call: Call, x: Tensor, work: torch.dtype) -> Tensor | None:
    """How much each element counts, −1 where it is padding, of shape (samples, positions)."""
    if call.valid is None and call.weights is None:
        return None
    code = torch.ones((), dtype=work) if call.weights is None else call.weights.to(work)
    if call.valid is not None:
        code = torch.where(call.valid, code, -1.0)
    return code.expand(x.shape[0], 1, *x.shape[2:]).reshape(x.shape[0], -1).contiguous()


def _lines(layout: Layout, groups: tuple[int, int]) -> int:
    """Rows of the bits of a group, in a strip of columns."""
    largest = max(groups[0], layout.samples - groups[0] * (groups[1] - 1))
    return -(-largest * layout.rows // layout.fold)


def _room_for_bits(layout: Layout, groups: tuple[int, int]) -> Tensor:
    if layout.name == "planes":
        words = layout.samples * layout.channels * -(-layout.positions // 16)
    else:
        words = layout.strips * groups[1] * _lines(layout, groups) * -(-layout.strip // 16)
    return torch.empty(words, dtype=torch.int16)


def _in_place(running: Running, work: torch.dtype) -> bool:
    return all(
        buffer is None or (buffer.dtype == work and buffer.is_contiguous())
        for buffer in (running.mean, running.var, running.std)
    )


@cache
def _unavailable(half: bool) -> str | None:
    try:
        from normsmith.ops.cpu.compiled import converts_half
    except ImportError as error:
        _warn(str(error))
        return f"numba cannot be imported ({error})"
    return "this processor converts no float16" if half and not converts_half() else None


@cache
def _warn(error: str) -> None:
    warnings.warn(
        f"normsmith: expected numba for the CPU kernels, got: {error}; slower paths serve, pip install numba",
        stacklevel=2,
    )
