"""The kernels in compiled graphs: functional operators that `torch.compile` sees into, differentiable once.

Where `torch.compile` traces the training forward, it records `normsmith::triton_batch_norm_v1`, and
`triton_batch_norm_backward_v1` for the gradient: `triton_op`s, whose launches stand in the graph themselves, so that
the compiler plans their memory and calls them without Python. The running statistics move by `commit`, in the graph.

Where sizes are symbols, launches cannot be planned: there the graph calls the same code as an opaque operator, which
decides when it runs; the same happens where Triton interprets. Torch keeps compiled graphs on disk by the names of
their operators and the sources of the kernels that it finds in `_KERNELS`: a change of a schema, or of what backward
is given, must change all names.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch.library import triton_op
from triton.runtime.jit import JITFunction

from normsmith._torch import is_functional, name_triton_kernels
from normsmith.ops.activation import ACTIVATIONS
from normsmith.ops.call import Call, Forward, Kept
from normsmith.ops.compiling import chunks, groups_of, laid_out_like
from normsmith.ops.gpu import backward, forward, launch
from normsmith.ops.gpu.backward_kernels import backward_at_once, gradient, reduce_parts, settle_sums
from normsmith.ops.gpu.forward import Settled
from normsmith.ops.gpu.forward_kernels import apply, forward_at_once, measure_parts, settle_parts
from normsmith.ops.moments import Moments, counts
from normsmith.ops.resolve import Renorm, Resolved, Running

_LAUNCHES_TRIED = torch.__version__ >= "2.13"
"""Earlier compilers have not been tried on the launches themselves, and get the opaque operator."""


def traced(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    running: Running | None,
    call: Call,
) -> Forward:
    """The forward as a node of the graph that is being recorded, which autograd differentiates."""
    bounds = None if call.renorm is None else torch.stack([_bound(bound, x) for bound in call.renorm])
    mean, var, std, _ = (None, None, None, None) if running is None else running
    weights = launch.weighed(x, call.valid, call.weights)
    y, kept, weighed, _, _ = torch.ops.normsmith.triton_batch_norm_v1(
        x, weight, bias, residual, mean, var, std, weights, bounds, call.eps, launch.name_of(call.activation),
        *chunks(x, call),
    )  # fmt: skip
    rows = kept.unbind()
    if weights is None:
        count, squares = counts(x, None, call.groups)
    else:
        count, squares = weighed.unbind()
    moments = Moments(count, rows[8], rows[5], squares, rows[9])
    return Forward(y, Kept(Resolved(rows[0], rows[1], rows[2], None, None, True), None, None, count), moments)


def _bound(bound: Tensor | float, x: Tensor) -> Tensor:
    if isinstance(bound, Tensor):
        return bound.detach().to(x.device, torch.float32)
    return torch.full((), bound, dtype=torch.float32, device=x.device)


def _forward(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    running_std: Tensor | None,
    weights: Tensor | None,
    bounds: Tensor | None,
    eps: float,
    act: str,
    size: int,
    number: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The operator's forward, on plain tensors and numbers."""
    running = None
    if running_mean is not None and running_var is not None:
        running = Running(running_mean, running_var, running_std)
    renorm = None if bounds is None else Renorm(*bounds.unbind())
    call = Call(eps=eps, renorm=renorm, groups=groups_of(x, size, number), activation=ACTIVATIONS.get(act))
    batch = launch.geometry(x, weights, call.groups)
    residual = None if residual is None else batch.like(residual)
    y, out, bits = forward.trained(batch, weight, bias, residual, running, call, None)
    weighed = x.new_empty(0, dtype=torch.float32) if out.counts is None else out.counts
    enough = x.new_empty(0, dtype=torch.bool) if out.enough is None else out.enough
    bits = x.new_zeros(_octets(x, residual, act), dtype=torch.uint8) if bits is None else bits
    return laid_out_like(y, x), out.kept, weighed, enough, bits


def _forward_fake(
    x: Tensor, weight: Any, bias: Any, residual: Any, mean: Any, var: Any, std: Any, weights: Any, bounds: Any,
    eps: float, act: str, size: int, number: int,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Shapes and dtypes of what `_forward` returns."""
    kept = x.new_empty((10, number, x.shape[1]), dtype=torch.float32)
    weighed = x.new_empty((0,) if weights is None else (2, number, 1), dtype=torch.float32)
    enough = x.new_empty((0,) if weights is None else (number, 1), dtype=torch.bool)
    bits = x.new_empty(_octets(x, residual, act), dtype=torch.uint8)
    return torch.empty_like(x), kept, weighed, enough, bits


def _octets(x: Tensor, residual: Tensor | None, act: str) -> int:
    """Bytes for the bits of ReLU, needed or not: of symbolic sizes it is not known whether octets fit."""
    return 0 if residual is None or act != "relu" else (x.numel() + 7) // 8


def _backward(
    g: Tensor,
    x: Tensor,
    residual: Tensor | None,
    kept: Tensor,
    weighed: Tensor,
    enough: Tensor,
    bits: Tensor,
    weights: Tensor | None,
    renorm: bool,
    act: str,
    size: int,
    number: int,
    wants_x: bool,
    added: torch.dtype | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The operator's backward, on plain tensors and numbers."""
    batch = launch.geometry(x, weights, groups_of(x, size, number))
    residual = None if residual is None else batch.like(residual)
    out = Settled(kept, weighed, enough) if weights is not None else Settled(kept, None, None)
    saved = out.saved(batch, renorm, bits if batch.cut.octets and bits.numel() else None)
    dx, dz, affine = backward.differentiate(batch.like(g), batch, residual, saved, act, wants_x, added, None)
    dx = x.new_empty(0) if dx is None else laid_out_like(dx, x)
    dz = x.new_empty(0) if added is None or dz is None else laid_out_like(dz, x)
    return dx, torch.stack([affine.weight, affine.bias]), dz


def _backward_fake(g: Tensor, x: Tensor, residual: Any, kept: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    """Shapes and dtypes of what `_backward` returns."""
    *_, wants_x, added = arguments
    dx = torch.empty_like(x) if wants_x else x.new_empty(0)
    dz = x.new_empty(0) if added is None else torch.empty_like(x, dtype=added)
    return dx, kept.new_empty((2, x.shape[1])), dz


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    """Keep what the backward operator needs."""
    x, weight, bias, residual, _, _, _, weights, bounds, _, act, size, number = inputs
    _, kept, weighed, enough, bits = output
    ctx.mark_non_differentiable(kept, weighed, enough, bits)
    ctx.dtypes = [None if tensor is None else tensor.dtype for tensor in (x, weight, bias, residual)]
    if act == "none" or (
        act == "relu" and _concrete(x) and launch.geometry(x, None, groups_of(x, size, number)).cut.octets
    ):
        residual = None  # the bits say what is needed of it, or nothing is
    ctx.save_for_backward(x, residual, kept, weighed, enough, bits, weights)
    ctx.call = bounds is not None, act, size, number
    ctx.plain = act == "none" and weights is None  # the residual's gradient is then the output's


def _differentiate(ctx: Any, g: Tensor, *_: Tensor | None) -> tuple[Any, ...]:
    """The gradients of the forward operator, by the backward operator."""
    wants = ctx.needs_input_grad
    added = ctx.dtypes[3] if wants[3] and not ctx.plain else None
    dx, affine, dz = torch.ops.normsmith.triton_batch_norm_backward_v1(
        g, *ctx.saved_tensors, *ctx.call, wants[0] or added is not None, added
    )
    gradients = [
        gradient.to(dtype) if wanted else None
        for gradient, dtype, wanted in zip(
            (dx, *affine.unbind(), g if ctx.plain else dz), ctx.dtypes, wants[:4], strict=True
        )
    ]
    return (*gradients, *[None] * 9)


def _shows_launches(x: Tensor) -> bool:
    """Whether launches may stand in the graph: it is being recorded, its sizes are known, Triton compiles."""
    return _LAUNCHES_TRIED and is_functional(x) and _concrete(x) and isinstance(apply, JITFunction)


def _concrete(x: Tensor) -> bool:
    return all(type(number) is int for number in (*x.shape, *x.stride()))


def _define(name: str, function: Callable[..., Any], fake: Callable[..., Any]) -> Any:
    """Define a `triton_op`, and an opaque operator that does the same where launches cannot stand in the graph."""
    torch.library.define(f"{name}_opaque", torch.library.infer_schema(function, mutates_args=()))

    @torch.library.impl(f"{name}_opaque", ("CPU", "CUDA"))
    def run(*arguments: Any) -> Any:
        with torch.cuda.device_of(arguments[0]):  # type: ignore[no-untyped-call]
            return function(*arguments)

    torch.library.register_fake(f"{name}_opaque", fake)
    opaque = getattr(torch.ops.normsmith, f"{name}_opaque".partition("::")[2])

    @wraps(function)
    def either(*given: Any) -> Any:
        return (function if _shows_launches(given[0]) else opaque)(*given)

    operator: Any = triton_op(name, either, mutates_args=())
    operator.register_fake(fake)
    # torch finds kernels by reading the operator's own source only, which launches none
    name_triton_kernels(name, list(_KERNELS))
    return operator


_KERNELS = (
    *(apply, forward_at_once, measure_parts, settle_parts),
    *(backward_at_once, gradient, reduce_parts, settle_sums),
)
_define("normsmith::triton_batch_norm_backward_v1", _backward, _backward_fake)
_define("normsmith::triton_batch_norm_v1", _forward, _forward_fake).register_autograd(
    _differentiate, setup_context=_remember
)
