"""The row `numba` of the dispatch table: one trip through memory on the CPU."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache, partial

import torch
from torch import Tensor
from torch.nn import Parameter

from normsmith.errors import InputError
from normsmith.ops._shapes import Batch
from normsmith.ops.activation import ACTIVATIONS
from normsmith.ops.call import Call, Forward, Update, eager
from normsmith.ops.cpu.across_ranks import settle_across, settle_gradient_across
from normsmith.ops.cpu.calls import Block, address_of, block_for
from normsmith.ops.cpu.compiled_graphs import DTYPES, traced, unfit
from normsmith.ops.cpu.kernels import arguments as slot
from normsmith.ops.cpu.kernels.arguments import APPLY, MEASURE, SETTLE
from normsmith.ops.cpu.memory import like
from normsmith.ops.cpu.saved import Packed
from normsmith.ops.moments import Groups, Moments, counts
from normsmith.ops.resolve import Gradients, Running

_CPU = torch.device("cpu")
_RELU = ACTIVATIONS["relu"]
_ALL = MEASURE | SETTLE | APPLY


class Numba:
    """Kernels for training and inference, forward and backward, in every memory layout."""

    name = "numba"
    differentiates = False

    def supports(self, x: Tensor, call: Call) -> str | None:
        """None on CPUs, in eager mode, for plain tensors that hold anything."""
        if not eager() or torch._C._len_torch_dispatch_stack():
            return _unfit_otherwise(x, call)
        if not x.is_cpu:
            return f"runs on CPUs, got a tensor on {x.device.type}"
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
        if torch.compiler.is_compiling():
            return traced(x, weight, bias, residual, running, call)
        x, block = _block(x, call.groups)
        work, channels = block.work, x.shape[1]
        relu = call.activation is _RELU
        code = None if call.weights is None and call.valid is None else code_of(call, x, work)
        bits = (
            torch.empty(block.words(), dtype=torch.int16, device=_CPU)
            if relu and residual is not None
            else None
        )
        kept: list[Tensor] = []
        q, d = block.q, block.d
        q[slot.GAMMA], q[slot.BETA] = address_of(weight, work, kept), address_of(bias, work, kept)
        q[slot.RUNNING_MEAN] = q[slot.RUNNING_VAR] = q[slot.RUNNING_STD] = 0
        if running is not None:
            q[slot.RUNNING_MEAN] = address_of(running.mean, work, kept)
            q[slot.RUNNING_VAR] = address_of(running.var, work, kept)
            q[slot.RUNNING_STD] = address_of(running.std, work, kept)
        count: Tensor | float = 0.0
        squares: Tensor | float = 0.0
        enough: Tensor | bool = False
        q[slot.SQUARES] = 0
        if call.by_batch:
            if call.weights is None and call.groups is None:
                count = squares = block.elements / channels
                enough = count >= 2
            else:
                count, squares = counts(x, call.weights, call.groups)
                enough = Moments(count, x, x, squares, x).enough
                if call.weights is not None and isinstance(squares, Tensor):
                    kept.append(
                        torch.where(torch.as_tensor(enough, device=_CPU), squares, torch.inf)
                        .flatten()
                        .double()
                    )
                    q[slot.SQUARES] = kept[-1].data_ptr()
        q[slot.BY_BATCH], d[slot.EPS], q[slot.RENORM] = call.by_batch, call.eps, False
        if call.renorm is not None and call.by_batch:
            q[slot.RENORM] = True
            d[slot.R_MAX], d[slot.D_MAX] = (
                max(float(call.renorm.r_max), 1.0),
                max(float(call.renorm.d_max), 0.0),
            )
        # copies in another dtype are read, not written
        updated = (
            update is not None and running is not None and enough is not False and _is_plain(running, work)
        )
        q[slot.UPDATE] = updated
        if updated and running is not None and update is not None:
            d[slot.MOMENTUM], q[slot.SKIP_NONFINITE] = update
            q[slot.COUNTER] = 0 if running.batches is None else running.batches.data_ptr()
        statistics = torch.empty((slot.STATISTICS_ROWS, q[slot.GROUPS], channels), dtype=work, device=_CPU)
        packed = Packed(statistics, call.groups, code, bits, enough, call.renorm is not None)
        settle = None
        if call.sync is not None and call.by_batch:
            assert not updated  # the caller commits what comes back
            settle = partial(settle_across, call, packed, (count, squares), weight, bias, running)
        y = _normalise(block, x, residual, packed, relu, _ALL if call.by_batch else SETTLE | APPLY, settle)
        block.busy = False
        if call.activation is not None and not relu:
            y = call.activation.forward(y)
            y = y if call.valid is None else torch.where(call.valid, y, 0.0)
        if updated and running is not None:
            # as torch's own in-place operations do: who has saved a buffer for backward gets an error
            torch._C._increment_version([buffer for buffer in running if buffer is not None])
        if not call.by_batch or updated:
            return Forward(y, packed, None)
        if packed.across is not None:
            return Forward(y, packed, packed.across)
        return Forward(
            y,
            packed,
            Moments(count, statistics[slot.MEAN], statistics[slot.M2], squares, statistics[slot.LOW]),
        )

    def backward(
        self, g: Batch, x: Batch, residual: Batch | None, kept: Packed, call: Call, wants_x: bool
    ) -> tuple[Batch | None, Batch | None, Gradients]:
        """The sums of the gradient, dγ and dβ, and dx, in one trip where the cache holds a channel."""
        x, block = _block(x, kept.groups)
        relu = call.activation is _RELU
        if call.activation is not None and not relu:
            before = _normalise(block, x, residual, kept, False, APPLY)
            g = call.activation.backward(g.to(before.dtype), before)
        g = _alike("gradient", g, x)
        work, channels, q = block.work, x.shape[1], block.q
        dgamma, dbeta = (torch.empty(channels, dtype=work, device=_CPU) for _ in range(2))
        q[slot.G], q[slot.X], q[slot.STATISTICS] = g.data_ptr(), x.data_ptr(), kept.statistics.data_ptr()
        q[slot.DGAMMA], q[slot.DBETA] = dgamma.data_ptr(), dbeta.data_ptr()
        q[slot.CODE] = 0 if kept.code is None else kept.code.data_ptr()
        q[slot.BITS] = 0 if kept.bits is None else kept.bits.data_ptr()
        q[slot.RELU] = relu
        dx, dresidual = None, None
        if wants_x:
            dx = like(x)
            q[slot.DX], q[slot.DRESIDUAL], q[slot.STREAM] = dx.data_ptr(), 0, block.streams(dx)
            if residual is not None:
                dresidual = g
                if relu or kept.code is not None:
                    dresidual = like(x)
                    q[slot.DRESIDUAL] = dresidual.data_ptr()
        extras = kept.bits is not None or kept.code is not None
        settle = None
        affine = Gradients(dgamma, dbeta, None, None)
        if kept.across is not None:
            assert call.sync is not None  # as in the forward
            settle = partial(
                settle_gradient_across, call.sync.sum if wants_x else None, kept, block.terms, affine
            )
        block.run("backward", x.dtype, extras, _ALL if wants_x else MEASURE | SETTLE, settle)
        block.busy = False
        return dx, dresidual, affine


def _normalise(
    block: Block,
    x: Tensor,
    residual: Tensor | None,
    packed: Packed,
    relu: bool,
    phases: int,
    settle: Callable[[Tensor], None] | None = None,
) -> Tensor:
    """Run the phases of a forward; batches, codes and bits are pointed to here."""
    y, q = like(x), block.q
    if residual is not None:
        residual = _alike("residual", residual, x)
    bits = packed.bits if relu else None
    q[slot.X], q[slot.Y], q[slot.STATISTICS] = x.data_ptr(), y.data_ptr(), packed.statistics.data_ptr()
    q[slot.RESIDUAL] = 0 if residual is None else residual.data_ptr()
    q[slot.CODE] = 0 if packed.code is None else packed.code.data_ptr()
    q[slot.BITS] = 0 if bits is None else bits.data_ptr()
    q[slot.RELU], q[slot.STREAM] = relu, block.streams(y)
    block.run("forward", x.dtype, residual is not None or packed.code is not None, phases, settle)
    return y


def _block(x: Tensor, groups: Groups | None) -> tuple[Tensor, Block]:
    size, number = (None, 1) if groups is None else (groups.size, groups.number)
    block = block_for(x, size, number)
    if block is None:
        x = x.contiguous()
        block = block_for(x, size, number)
        assert block is not None  # contiguous
    return x, block


def _alike(name: str, tensor: Tensor, x: Tensor) -> Tensor:
    """A tensor that lies in memory as `x` does, with its dtype."""
    if not tensor.is_cpu:
        raise InputError(
            f"{name}: expected the input's device, cpu, got {tensor.device}; move it with .to(x.device)"
        )
    if tensor.dtype == x.dtype and tensor.stride() == x.stride():
        return tensor
    return torch.empty_like(x).copy_(tensor)


def code_of(call: Call, x: Tensor, work: torch.dtype) -> Tensor:
    """How much each element counts, −1 where it is padding, of shape (samples, positions)."""
    code = torch.ones((), dtype=work, device=_CPU) if call.weights is None else call.weights.to(work)
    if call.valid is not None:
        code = torch.where(call.valid, code, -1.0)
    return code.expand(x.shape[0], 1, *x.shape[2:]).reshape(x.shape[0], -1).contiguous()


def _is_plain(running: Running, work: torch.dtype) -> bool:
    """Whether the running buffers can be written where they are."""
    mean, var, std, batches = running
    same = mean.dtype == work and var.dtype == work and mean.is_contiguous() and var.is_contiguous()
    if batches is not None and not (batches.dtype == torch.int64 and batches.is_cpu):
        return False
    return same and (std is None or (std.dtype == work and std.is_contiguous()))


def _unfit_otherwise(x: Tensor, call: Call) -> str | None:
    """Why a call that is not eager cannot be served; None where it becomes an operator of a compiled graph."""
    if not torch.compiler.is_compiling():
        return "runs where nobody wants to see every operation"
    return unfit(x, call) or _settled_unavailable(x.dtype == torch.float16)


def _unreadable(x: Tensor) -> str | None:
    """Why the memory of a tensor cannot be read and written behind torch's back."""
    if x.dtype not in DTYPES:
        return f"knows float32, float64, bfloat16 and float16, got {x.dtype}"
    if (type(x) is not Tensor and type(x) is not Parameter) or x.is_neg() or x.layout is not torch.strided:
        return f"reads the memory of plain tensors, got {type(x).__name__}"
    return None


@cache
def _unavailable(half: bool) -> str | None:
    try:
        from normsmith.ops.cpu.kernels.compile import converts_half
    except ImportError as error:
        _warn(str(error))
        return f"numba cannot be imported ({error})"
    return "this processor converts no float16" if half and not converts_half() else None


def _settled_unavailable(half: bool) -> str | None:
    return _unavailable(half)


# what torch.compiler.assume_constant_result sets; calling it here would import the compiler with normsmith
_settled_unavailable._dynamo_marked_constant = True  # type: ignore[attr-defined]


@cache
def _warn(error: str) -> None:
    warnings.warn(
        f"normsmith: expected numba for the CPU kernels, got: {error}; slower paths serve, pip install numba",
        stacklevel=2,
    )
