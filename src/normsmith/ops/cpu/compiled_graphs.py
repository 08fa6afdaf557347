"""The kernels as operators of compiled graphs: functional, opaque to the compiler, differentiable once.

Where `torch.compile` traces the training forward of a large batch, it records `normsmith::batch_norm_v1` in place of
the reference's many operations, and `batch_norm_backward_v1` for the gradient. Neither writes to its arguments: the
running statistics move by `commit`, in the graph. Activations other than ReLU stay outside, for the compiler to fuse.
An exported program gets no such operator, which would tie it to this package.

Torch keeps compiled graphs on disk by the names of their operators: a change of a schema, or of what backward is
given, must change both names.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from normsmith.ops import compiling
from normsmith.ops.call import Call, Forward, Kept, computing_dtype
from normsmith.ops.compiling import chunks, groups_of, laid_out_like
from normsmith.ops.cpu.backward import differentiate
from normsmith.ops.cpu.forward import RELU, code_of, normalize
from normsmith.ops.cpu.kernels import arguments as slot
from normsmith.ops.cpu.saved import Packed
from normsmith.ops.moments import Moments, counts
from normsmith.ops.resolve import Renorm, Resolved, Running

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

RELU_FROM, PLAIN_FROM = 2**14, 2**21
"""Elements from which the kernels are measured faster than what Inductor makes of the reference.

Its gradient of ReLU costs ten times its forward (torch 2.13), so kernels that fuse it win early.
"""


def unfit(x: Tensor, call: Call) -> str | None:
    """Why the operator cannot serve a call that is being compiled, None if it can."""
    if x.device.type != "cpu":
        return f"runs on CPUs, got a tensor on {x.device.type}"
    reason = compiling.unfit(x, call, DTYPES)
    if reason is not None:
        return reason
    fewest = RELU_FROM if call.activation is RELU else PLAIN_FROM
    return f"compilers are as fast below {fewest} elements" if x.numel() < fewest else None


def traced(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    running: Running | None,
    call: Call,
) -> Forward:
    """The forward as a node of the graph that is being recorded, which autograd differentiates."""
    relu = call.activation is RELU
    size, number = chunks(x, call)
    bounds = None if call.renorm is None else torch.stack([_scalar(bound, x) for bound in call.renorm])
    mean, var, std, _ = (None, None, None, None) if running is None else running
    y, statistics = torch.ops.normsmith.batch_norm_v1(
        x,
        weight,
        bias,
        residual,
        mean,
        var,
        std,
        call.valid,
        call.weights,
        bounds,
        call.eps,
        relu,
        size,
        number,
    )
    if call.activation is not None and not relu:
        y = call.activation.forward(y)
        y = y if call.valid is None else torch.where(call.valid, y, 0.0)
    count, squares = counts(x, call.weights, call.groups)
    moments = Moments(count, statistics[slot.MEAN], statistics[slot.M2], squares, statistics[slot.LOW])
    resolved = Resolved(moments.mean, moments.low, statistics[slot.INV_STD], None, None, True)
    return Forward(y, Kept(resolved, None, None, count), moments)


def _scalar(bound: Tensor | float, x: Tensor) -> Tensor:
    if isinstance(bound, Tensor):
        return bound.detach().to(torch.float64)
    return torch.full((), bound, dtype=torch.float64, device=x.device)


def _forward(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    running_std: Tensor | None,
    valid: Tensor | None,
    weights: Tensor | None,
    bounds: Tensor | None,
    eps: float,
    relu: bool,
    size: int,
    number: int,
) -> tuple[Tensor, Tensor]:
    """The operator's forward: the eager one on plain tensors and numbers."""
    running = None
    if running_mean is not None and running_var is not None:
        running = Running(running_mean, running_var, running_std)
    renorm = None if bounds is None else Renorm(*bounds.tolist())
    call = Call(True, eps, renorm, valid, weights, groups_of(x, size, number), RELU if relu else None)
    y, kept, _ = normalize(x, weight, bias, residual, running, call, None)
    assert isinstance(kept, Packed)  # this backend's own
    return laid_out_like(y, x), kept.statistics


def _forward_fake(x: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    """Shapes and dtypes of what `_forward` returns."""
    number = arguments[-1]
    return torch.empty_like(x), x.new_empty(
        (slot.STATISTICS_ROWS, number, x.shape[1]), dtype=computing_dtype(x)
    )


def _backward(
    g: Tensor,
    x: Tensor,
    y: Tensor | None,
    statistics: Tensor,
    valid: Tensor | None,
    weights: Tensor | None,
    relu: bool,
    size: int,
    number: int,
    wants_x: bool,
    wants_residual: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The operator's backward. `y` is the output where ReLU follows a residual, None otherwise."""
    call = Call(
        valid=valid, weights=weights, groups=groups_of(x, size, number), activation=RELU if relu else None
    )
    code = None if valid is None and weights is None else code_of(call, x, statistics.dtype)
    kept = Packed(statistics, call.groups, code, None, True, False)
    nothing = x.new_empty(0)
    dresidual = nothing
    if y is not None:  # ReLU after a residual: its mask is that of the output
        g = torch.ops.aten.threshold_backward(g, y, 0)
    if wants_residual:
        dresidual = g.clone() if valid is None else torch.where(valid, g, 0.0)
    dx, _, affine = differentiate(g, x, None, kept, call, wants_x)
    dx = nothing.clone() if dx is None else laid_out_like(dx, x)
    return dx, affine.weight, affine.bias, laid_out_like(dresidual, x) if wants_residual else nothing


def _backward_fake(
    g: Tensor, x: Tensor, y: Tensor | None, statistics: Tensor, *arguments: Any
) -> tuple[Tensor, ...]:
    """Shapes and dtypes of what `_backward` returns."""
    *_, wants_x, wants_residual = arguments
    like, channels = torch.empty_like(x), x.shape[1]
    return (
        like if wants_x else x.new_empty(0),
        statistics.new_empty(channels),
        statistics.new_empty(channels),
        torch.empty_like(x) if wants_residual else x.new_empty(0),
    )


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    """Keep what the backward operator needs."""
    x, weight, bias, residual, _, _, _, valid, weights, _, _, relu, size, number = inputs
    y, statistics = output
    ctx.mark_non_differentiable(statistics)
    ctx.save_for_backward(x, y if relu and residual is not None else None, statistics, valid, weights)
    ctx.call = relu and residual is None, size, number
    ctx.dtypes = [None if tensor is None else tensor.dtype for tensor in (x, weight, bias, residual)]


def _differentiate(ctx: Any, g: Tensor, _: Tensor | None) -> tuple[Any, ...]:
    """The gradients of the forward operator, by the backward operator."""
    wants = ctx.needs_input_grad
    dx, dweight, dbias, dresidual = torch.ops.normsmith.batch_norm_backward_v1(
        g, *ctx.saved_tensors, *ctx.call, wants[0], wants[3]
    )
    gradients = [
        gradient.to(dtype) if wanted else None
        for gradient, dtype, wanted in zip(
            (dx, dweight, dbias, dresidual), ctx.dtypes, wants[:4], strict=True
        )
    ]
    return (*gradients, *[None] * 10)


def _define(name: str, schema: str, function: Any, fake: Any) -> None:
    """Define an operator by its schema, its function on the CPU, and its shapes."""
    # not `custom_op`, whose wrapper costs as much as a small kernel
    torch.library.define(name, schema, tags=(torch.Tag.pt2_compliant_tag,))
    torch.library.impl(name, "CPU", function)
    torch.library.register_fake(name, fake)


_define(
    "normsmith::batch_norm_v1",
    "(Tensor x, Tensor? weight, Tensor? bias, Tensor? residual, Tensor? running_mean, Tensor? running_var, "
    "Tensor? running_std, Tensor? valid, Tensor? weights, Tensor? bounds, float eps, bool relu, SymInt size, "
    "SymInt number) -> (Tensor, Tensor)",
    _forward,
    _forward_fake,
)
_define(
    "normsmith::batch_norm_backward_v1",
    "(Tensor g, Tensor x, Tensor? y, Tensor statistics, Tensor? valid, Tensor? weights, bool relu, SymInt size, "
    "SymInt number, bool wants_x, bool wants_residual) -> (Tensor, Tensor, Tensor, Tensor)",
    _backward,
    _backward_fake,
)
torch.library.register_autograd("normsmith::batch_norm_v1", _differentiate, setup_context=_remember)
