"""The row `triton` of the dispatch table: batch norm on NVIDIA GPUs."""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from types import ModuleType

import torch
from torch import Tensor

from normsmith.ops._shapes import Batch, Elements, PerGroup
from normsmith.ops.call import Call, Forward, Kept, eager
from normsmith.ops.moments import Groups, Moments
from normsmith.ops.reference import Operands, Reference
from normsmith.ops.resolve import Gradients, Running

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def _launch() -> ModuleType:
    from normsmith.ops.gpu import launch  # needs Triton

    return launch


@lru_cache
def _interpreted() -> bool:
    """Whether Triton runs kernels on the CPU, one program after another (TRITON_INTERPRET=1)."""
    import triton

    return bool(triton.knobs.runtime.interpret)


@lru_cache
def _unfit(device: torch.device) -> str | None:
    """Why a device cannot run the kernels."""
    if find_spec("triton") is None:
        return "needs Triton, which is not installed"
    if device.type == "cpu" and _interpreted():
        return None
    if device.type != "cuda":
        return f"serves NVIDIA GPUs, got a tensor on {device.type}"
    if torch.version.hip is not None:
        return "not tried on ROCm"
    capability = torch.cuda.get_device_capability(device)
    if capability < (8, 0):
        return f"needs compute capability 8.0, got {capability[0]}.{capability[1]}"
    return None


class Triton(Reference):
    """The row `triton`: one launch for small batches, a split reduction and an elementwise sweep for large ones."""

    name = "triton"

    def supports(self, x: Tensor, call: Call) -> str | None:
        """None for float32, bfloat16 and float16 on an NVIDIA GPU, in eager mode."""
        if not eager():
            return "runs in eager mode only: the compiler fuses the plain path"
        if x.dtype not in _DTYPES:
            return f"computes in float32, got {x.dtype}"
        if (reason := _unfit(x.device)) is not None:
            return reason
        if _launch().name_of(call.activation) is None:
            return "does not know the activation"
        values = x.numel() // max(x.shape[1], 1)
        if values < (2 if call.by_batch else 1) or x.numel() == 0:
            return f"needs 2 values per channel, got {values}"
        if x[0].numel() >= 2**31:
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
    ) -> Forward:
        """Everything fused where no other rank has a say; the halves otherwise."""
        if call.sync is not None:
            return super().forward(x, weight, bias, residual, running, call)
        launch = _launch()
        with torch.cuda.device_of(x), torch.no_grad():
            batch = launch.geometry(x, call.valid, call.weights, call.groups)
            residual = None if residual is None else batch.like(residual)
            if not call.by_batch:
                return launch.infer(batch, weight, bias, residual, running, call)
            return launch.normalize(batch, weight, bias, residual, running, call, None)

    def backward(
        self, g: Batch, x: Batch, residual: Batch | None, kept: Kept, call: Call, wants_x: bool
    ) -> tuple[Batch | None, Batch | None, Gradients]:
        """The gradients of x, of the residual, and of γ and β."""
        if call.sync is not None:
            return super().backward(g, x, residual, kept, call, wants_x)
        launch = _launch()
        with torch.cuda.device_of(x), torch.no_grad():
            batch = launch.geometry(x, call.valid, call.weights, call.groups)
            residual = None if residual is None else batch.like(residual)
            act = launch.name_of(call.activation)
            return launch.differentiate(batch.like(g), batch, residual, kept, act, wants_x)

    # The halves, for ranks that talk between them.

    def moments(self, x: Batch, weights: Elements | None = None, groups: Groups | None = None) -> Moments:  # type: ignore[override]
        """Count, mean and M2 of every channel; values of weight 0 may be anything."""
        launch = _launch()
        with torch.cuda.device_of(x), torch.no_grad():
            valid = None if weights is None else weights != 0
            return launch.measure(launch.geometry(x, valid, weights, groups))

    def apply(self, call: Operands) -> Batch:  # type: ignore[override]
        """The output from given coefficients."""
        launch = _launch()
        with torch.cuda.device_of(call.x), torch.no_grad():
            batch, residual = _laid_out(launch, call)
            return launch.apply(
                batch, residual, call.mean, call.scale, call.shift, Call(activation=call.activation)
            )

    def reduce(self, g: Batch, call: Operands) -> tuple[PerGroup, PerGroup]:  # type: ignore[override]
        """The two sums of the gradient."""
        launch = _launch()
        with torch.cuda.device_of(call.x), torch.no_grad():
            batch, residual = _laid_out(launch, call)
            act = launch.name_of(call.activation)
            return launch.reduce(batch.like(g), batch, residual, call.mean, call.scale, call.shift, act)

    def gradient(  # type: ignore[override]
        self, g: Batch, call: Operands, offset: PerGroup | None, slope: PerGroup | None
    ) -> tuple[Batch, Batch]:
        """The gradients of x and of the residual."""
        launch = _launch()
        with torch.cuda.device_of(call.x), torch.no_grad():
            batch, residual = _laid_out(launch, call)
            g, act = batch.like(g), launch.name_of(call.activation)
            dz = None if residual is None else torch.empty_like(residual)
            given = (call.mean, call.scale, call.shift)
            dx = launch.gradient(
                g, batch, residual if act != "none" else None, given, (offset, slope), act, dz
            )
            return dx, g if dz is None else dz


def _laid_out(launch: ModuleType, call: Operands) -> tuple[object, Tensor | None]:
    batch = launch.geometry(call.x, call.valid, call.weights, call.groups)
    return batch, None if call.residual is None else batch.like(call.residual)
