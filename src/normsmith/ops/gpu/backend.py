"""The row `triton` of the dispatch table: batch norm on NVIDIA GPUs."""

from __future__ import annotations

import os
from functools import lru_cache
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import Parameter

from normsmith._torch import is_as_stored, mark_constant, number_of_dispatch_modes
from normsmith.ops._shapes import Batch
from normsmith.ops.call import Call, Forward, PreparedCall, Update, eager
from normsmith.ops.compiling import unfit
from normsmith.ops.resolve import Gradients, Running

if TYPE_CHECKING:
    from normsmith.ops.gpu.launch import Saved

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_OLDEST_TRITON = (3, 6)
"""The oldest Triton that the kernels were tried with; with 3.2, of torch 2.6, its interpreter gives wrong results."""


def _launches() -> tuple[ModuleType, ModuleType, ModuleType]:
    from normsmith.ops.gpu import backward, forward, launch  # need Triton

    return launch, forward, backward


@lru_cache
def _interpreted() -> bool:
    """Whether Triton runs kernels on the CPU, one program after another (TRITON_INTERPRET=1)."""
    if "TRITON_INTERPRET" not in os.environ:
        return False
    from triton.runtime import JITFunction

    return not isinstance(_launches()[1].kernels.apply, JITFunction)  # Triton before 3.4 says it nowhere else


@lru_cache
def _unfit(device: torch.device) -> str | None:
    """Why a device cannot run the kernels, None if it can."""
    if find_spec("triton") is None:
        return "needs Triton, which is not installed"
    if device.type == "cpu" and _interpreted():
        return None
    if device.type != "cuda":
        return f"serves NVIDIA GPUs, got a tensor on {device.type}"
    if torch.version.hip is not None:
        return "not tried on ROCm"
    if not torch.cuda.is_available():
        return "torch sees no GPU here"
    return _cannot_launch(device)


def _cannot_launch(device: torch.device) -> str | None:
    """Why nothing can be launched on this NVIDIA GPU, None if kernels can be.

    Triton builds its link to the driver with a C compiler and Python's headers, which small machine images lack.
    """
    capability = torch.cuda.get_device_capability(device)
    if capability < (8, 0):
        return f"needs compute capability 8.0, got {capability[0]}.{capability[1]}"
    import triton
    from triton.runtime import driver

    if tuple(int(part) for part in triton.__version__.split(".")[:2]) < _OLDEST_TRITON:
        return f"needs Triton {'.'.join(map(str, _OLDEST_TRITON))} or newer, got {triton.__version__}"
    try:
        _launches()
        driver.active.get_current_target()
    except Exception as error:  # noqa: BLE001 — whatever it is, another backend serves
        return f"Triton does not start here ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
    return None


def _unfit_compiled(device: torch.device) -> str | None:
    """Why a device cannot run the kernels in a compiled graph; where it can, their operators are defined on return."""
    reason = _unfit(device)
    if reason is None:
        from normsmith.ops.gpu import compiled_graphs  # noqa: F401
    return reason


mark_constant(_unfit_compiled)


def _unreadable(x: Tensor) -> str | None:
    """Why a kernel cannot read the memory of a tensor directly, None if it can."""
    if x.dtype not in _DTYPES:
        return f"computes in float32, got {x.dtype}"
    if (type(x) is not Tensor and type(x) is not Parameter) or x.layout is not torch.strided:
        return f"reads the memory of plain tensors, got {type(x).__name__}"
    if not is_as_stored(x):
        return "reads memory, which does not hold the numbers of this tensor; its clone() does"
    return None


class Triton:
    """The row `triton`: one launch for small batches, a split reduction and an elementwise sweep for large ones."""

    name = "triton"
    differentiates = False

    def supports(self, x: Tensor, call: Call) -> str | None:
        """None for float32, bfloat16 and float16 on an NVIDIA GPU, in eager mode and in training steps that compile."""
        if torch.compiler.is_compiling():
            return _unfit_compiled(x.device) or unfit(x, call, _DTYPES) or self._refusal(x, call)
        if not eager() or number_of_dispatch_modes():
            return "cannot serve tracers and transforms, which must see every operation"
        return _unfit(x.device) or _unreadable(x) or self._refusal(x, call)

    def _refusal(self, x: Tensor, call: Call) -> str | None:
        """Why the kernels cannot serve a call that the device could run, None if they can."""
        if _launches()[0].name_of(call.activation) is None:
            return "does not know the activation"
        values, least = x.numel() // max(x.shape[1], 1), 2 if call.by_batch else 1
        if values < least:
            return f"needs {least} values per channel, got {values}"
        if x.numel() // max(x.shape[0], 1) > 2**31 - 2**10:  # a tile may reach past the last of them
            return "indexes the values of a sample with 32 bits"
        return None

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
        """Run fused kernels; across ranks, some for the moments of this rank, and one for the output."""
        if torch.compiler.is_compiling():
            from normsmith.ops.gpu import compiled_graphs  # needs Triton

            return compiled_graphs.traced(x, weight, bias, residual, running, call)
        launch, forward, _ = _launches()
        launch.check_device(x, weight, bias, *(() if running is None else running[:3]))
        with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]
            batch = launch.geometry(x, launch.weighed(x, call.valid, call.weights), call.groups)
            residual = None if residual is None else batch.like(residual)
            if not call.by_batch:
                result = forward.infer(batch, weight, bias, residual, running, call)
            elif call.sync is not None:
                result = forward.normalize_across(batch, weight, bias, residual, running, call)
            else:
                result = forward.normalize(batch, weight, bias, residual, running, call, update)
        return result if batch.x is x else result._replace(y=torch.empty_like(x).copy_(result.y))  # type: ignore[no-any-return]

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
        """Compile the launches of a plain call once for all; None where Triton interprets."""
        if not x.is_cuda:
            return None
        from normsmith.ops.gpu import prepared  # needs Triton

        with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]
            return prepared.prepare(x, prepared.Vectors(weight, bias, running), added, call, update)

    def backward(
        self, g: Batch, x: Batch, residual: Batch | None, kept: Saved, call: Call, wants_x: bool
    ) -> tuple[Batch | None, Batch | None, Gradients]:
        """The gradients of x, of the residual, and of γ and β."""
        launch, _, backward = _launches()
        with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]
            batch = launch.geometry(x, kept.weights, call.groups)
            added = None if residual is None else residual.dtype
            if residual is not None and kept.bits is None:
                residual = batch.like(residual)
            act = launch.name_of(call.activation)
            gradients = backward.differentiate(
                batch.like(g), batch, residual, kept, act, wants_x, added, call.sync
            )
        return gradients  # type: ignore[no-any-return]
