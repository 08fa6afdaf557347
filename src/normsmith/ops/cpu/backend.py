"""The row `numba` of the dispatch table: which calls it serves, and where it hands them on."""

from __future__ import annotations

import warnings
from functools import cache

import torch
from torch import Tensor
from torch.nn import Parameter

from normsmith._torch import is_as_stored, mark_constant, number_of_dispatch_modes
from normsmith.ops._shapes import Batch
from normsmith.ops.call import Call, Forward, PreparedCall, Update, eager
from normsmith.ops.cpu.backward import differentiate
from normsmith.ops.cpu.compiled_graphs import DTYPES, traced, unfit
from normsmith.ops.cpu.forward import normalize
from normsmith.ops.cpu.prepared import prepare
from normsmith.ops.cpu.saved import Packed
from normsmith.ops.resolve import Gradients, Running


class Numba:
    """Kernels for training and inference, forward and backward, in every memory layout."""

    name = "numba"
    differentiates = False

    def supports(self, x: Tensor, call: Call) -> str | None:
        """None for plain tensors with values on a CPU, in eager mode and in training steps that compile."""
        if not eager() or number_of_dispatch_modes():
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
        """Run the kernel; while a graph is recorded, put an operator into it that will."""
        if torch.compiler.is_compiling():
            return traced(x, weight, bias, residual, running, call)
        return normalize(x, weight, bias, residual, running, call, update)

    def backward(
        self, g: Batch, x: Batch, residual: Batch | None, kept: Packed, call: Call, wants_x: bool
    ) -> tuple[Batch | None, Batch | None, Gradients]:
        """The gradients of x, of the residual, and of γ and β."""
        return differentiate(g, x, residual, kept, call, wants_x)

    def prepare(
        self,
        x: Batch,
        weight: Tensor | None,
        bias: Tensor | None,
        running: Running | None,
        added: bool,
        call: Call,
        update: Update | None,
    ) -> PreparedCall | None:
        """Fill the argument blocks of a plain call once for all."""
        return prepare(x, weight, bias, running, added, call, update)


def _unfit_otherwise(x: Tensor, call: Call) -> str | None:
    """Why a call that is not eager cannot be served; None where it becomes an operator of a compiled graph."""
    if not torch.compiler.is_compiling():
        return "cannot serve tracers and transforms, which must see every operation"
    return unfit(x, call) or _settled_unavailable(x.dtype == torch.float16)


def _unreadable(x: Tensor) -> str | None:
    """Why a kernel cannot read and write the memory of a tensor directly."""
    if x.dtype not in DTYPES:
        return f"knows float32, float64, bfloat16 and float16, got {x.dtype}"
    if (type(x) is not Tensor and type(x) is not Parameter) or x.layout is not torch.strided:
        return f"reads the memory of plain tensors, got {type(x).__name__}"
    if not is_as_stored(x):
        return "reads memory, which does not hold the numbers of this tensor; its clone() does"
    return None


@cache
def _unavailable(half: bool) -> str | None:
    """Why the kernels cannot be compiled here, None if they can; `half` asks for float16."""
    try:
        from normsmith.ops.cpu.kernels.compile import converts_half
    except ImportError as error:
        _warn(str(error))
        return f"numba cannot be imported ({error})"
    return "this processor converts no float16" if half and not converts_half() else None


def _settled_unavailable(half: bool) -> str | None:
    return _unavailable(half)


mark_constant(_settled_unavailable)


@cache
def _warn(error: str) -> None:
    """Say once that numba is missing."""
    warnings.warn(
        f"normsmith: expected numba for the CPU kernels, got: {error}; slower paths serve, pip install numba",
        stacklevel=2,
    )
