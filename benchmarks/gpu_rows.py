"""What is timed on a GPU: the rows, who stands on each, and whether the numbers are right before they count."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from normsmith.ops import Renorm, batch_norm

DEVICE, EPS = "cuda", 1e-5


class Row(NamedTuple):
    """One batch and what is done to it: "bn", "bn+relu", "bn+add+relu" or "renorm"."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    channels_last: bool = False
    op: str = "bn"

    @property
    def bytes(self) -> int:
        """Of the batch."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize

    def __str__(self) -> str:
        layout = "NHWC " if self.channels_last else "NCHW " if len(self.shape) == 4 else ""
        dtype = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[self.dtype]
        return f"{self.op} · {layout}{','.join(map(str, self.shape))} · {dtype}"


F32, BF16, F16 = torch.float32, torch.bfloat16, torch.float16

IMAGES = [
    (32, 256, 56, 56),
    (64, 256, 56, 56),  # 103 MB in 16 bits
    (32, 64, 56, 56),  # few channels
    (16, 64, 112, 112),  # few channels, long planes
    (32, 256, 14, 14),  # planes that are no multiple of 16
    (64, 2048, 7, 7),  # shorter than a warp's load
    (8, 3, 224, 224),  # hardly any channels
]
MATRICES = [(60, 100), (256, 512), (4096, 1024), (65536, 64), (4_000_000, 8), (128, 128, 200)]


def plain_rows() -> list[Row]:
    """Batch norm alone: every shape, layout and dtype; the largest first."""
    rows = [Row(shape, dtype, last) for shape in IMAGES for dtype in (F32, BF16) for last in (False, True)]
    rows += [Row((32, 256, 56, 56), F16, last) for last in (False, True)]
    return rows + [Row(shape, dtype) for shape in MATRICES for dtype in (F32, BF16)]


def fused_rows() -> list[Row]:
    """With ReLU, and with a residual and ReLU: where Inductor is the peer, which compiles for seconds."""
    shapes = [
        ((32, 256, 56, 56), F32, False),
        ((64, 256, 56, 56), BF16, True),
        ((32, 256, 14, 14), BF16, True),
    ]
    return [Row(*shape, op) for shape in shapes for op in ("bn+relu", "bn+add+relu")]


def renorm_rows() -> list[Row]:
    """Against our own batch norm, and against the operations that users write today."""
    shapes = [((32, 256, 56, 56), F32, False), ((64, 256, 56, 56), BF16, True), ((4096, 1024), F32, False)]
    return [Row(*shape, "renorm") for shape in shapes]


class Inputs(NamedTuple):
    """The tensors of a row."""

    x: Tensor
    weight: Tensor
    bias: Tensor
    residual: Tensor | None
    g: Tensor
    mean: Tensor
    var: Tensor

    @property
    def leaves(self) -> list[Tensor]:
        """What takes gradients."""
        return [t for t in (self.x, self.weight, self.bias, self.residual) if t is not None]


def inputs(row: Row, mean: float = 0.0) -> Inputs:
    """Seeded; in the row's layout and dtype, the affine and the running statistics in float32."""
    generator = torch.Generator(DEVICE).manual_seed(0)
    layout = torch.channels_last if row.channels_last else torch.contiguous_format

    def normal(around: float = 0.0) -> Tensor:
        values = torch.randn(row.shape, device=DEVICE, generator=generator).add_(around)
        return values.to(row.dtype).contiguous(memory_format=layout)

    channels = row.shape[1]
    weight = torch.rand(channels, device=DEVICE, generator=generator) + 0.5
    bias = torch.randn(channels, device=DEVICE, generator=generator)
    residual = normal().requires_grad_() if "add" in row.op else None
    return Inputs(
        normal(mean).requires_grad_(),
        weight.requires_grad_(),
        bias.requires_grad_(),
        residual,
        normal(),
        torch.full((channels,), mean, device=DEVICE),
        torch.ones(channels, device=DEVICE),
    )


Forward = Callable[[Inputs], Tensor]


def ours(row: Row) -> Forward:
    """The op with what the row fuses into it."""
    activation = "relu" if "relu" in row.op else None
    renorm = Renorm(3.0, 5.0) if row.op == "renorm" else None
    return lambda i: batch_norm(
        i.x, i.mean, i.var, i.weight, i.bias, activation=activation, residual=i.residual, renorm=renorm
    )


def eager(i: Inputs) -> Tensor:
    """torch's batch norm."""
    return F.batch_norm(i.x, i.mean, i.var, i.weight, i.bias, True, 0.1, EPS)


def eager_relu(i: Inputs) -> Tensor:
    """torch's batch norm, the sum and ReLU."""
    return _relu(i.x, i.mean, i.var, i.weight, i.bias, i.residual)


def _relu(
    x: Tensor, mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None
) -> Tensor:
    y = F.batch_norm(x, mean, var, weight, bias, True, 0.1, EPS)
    return F.relu(y if residual is None else y + residual)


def inductor() -> Forward:
    """The same, compiled anew: the compiler gives up on a function after eight shapes."""
    torch._dynamo.reset()
    compiled = torch.compile(_relu, dynamic=False)
    return lambda i: compiled(i.x, i.mean, i.var, i.weight, i.bias, i.residual)


def native(i: Inputs) -> Tensor:
    """torch's own kernel instead of cuDNN's."""
    with torch.backends.cudnn.flags(enabled=False):
        return eager(i)


def composed(i: Inputs) -> Tensor:
    """Batch renormalization from torch's operations, as it is written today."""
    dims = [0, *range(2, i.x.ndim)]
    view = (1, -1, *[1] * (i.x.ndim - 2))
    mean, var = i.x.mean(dims), i.x.var(dims, unbiased=False)
    std, running = (var + EPS).sqrt(), (i.var + EPS).sqrt()
    r = (std.detach() / running).clamp(1 / 3.0, 3.0)
    d = ((mean.detach() - i.mean) / running).clamp(-5.0, 5.0)
    y = ((i.x - mean.view(view)) / std.view(view) * r.view(view) + d.view(view)) * i.weight.view(view)
    y = y + i.bias.view(view)
    i.mean.lerp_(mean.detach().float(), 0.1)
    i.var.lerp_(i.x.detach().var(dims).float(), 0.1)
    return y.to(i.x.dtype)


def candidates(row: Row) -> dict[str, Forward]:
    """Ours first, then the peers; torch's default takes cuDNN where it can."""
    if row.op == "bn":
        return {"ours": ours(row), "cuDNN": eager, "native": native}
    if row.op == "renorm":
        return {"ours": ours(row), "our BN": ours(row._replace(op="bn")), "composed": composed}
    return {"ours": ours(row), "eager": eager_relu, "Inductor": inductor()}


def wrong(row: Row) -> Iterator[str]:
    """What differs from float64, at means 0, 1e2 and 1e4, in output or gradient."""
    allowed = {F32: 2e-5, BF16: 2**-7, F16: 2**-10}[row.dtype]
    for mean in (0.0, 1e2, 1e4):
        i = inputs(row, mean)
        exact = exactly(row, i, mean)
        got_y = ours(row)(i)
        found = [got_y, *torch.autograd.grad(got_y, i.leaves, i.g)]
        names = ["y", "dx", "dγ", "dβ", "dz"]
        for name, got, want in zip(names, found, exact, strict=False):
            error = ((got.double() - want).abs().max() / want.abs().max().clamp(min=1.0)).item()
            if not error <= allowed:
                yield f"{row}, mean {mean:g}: {name} is off by {error:.1e} of its largest value"


def exactly(row: Row, i: Inputs, running_mean: float) -> list[Tensor]:
    """Output and gradients by plain formulas in float64.

    Where rounding may decide on which side of ReLU's corner an element falls, its gradient is set to 0.
    """
    dims = [0, *range(2, i.x.ndim)]
    view = (1, -1, *[1] * (i.x.ndim - 2))
    x = i.x.detach().double()
    weight, bias = i.weight.detach().double().view(view), i.bias.detach().double().view(view)
    mean = x.mean(dims, keepdim=True)
    x = x - mean
    var = x.square().mean(dims, keepdim=True)
    inv_std = (var + EPS).rsqrt()
    x = x * inv_std
    r = d = None
    if row.op == "renorm":
        population = (1.0 + EPS) ** -0.5
        r = (population / inv_std).clamp(1 / 3.0, 3.0)
        d = ((mean - running_mean) * population).clamp(-5.0, 5.0)
    hat = x if r is None else x * r + d
    y = hat * weight + bias
    if i.residual is not None:
        y = y + i.residual.detach().double()
    if "relu" in row.op:
        i.g.masked_fill_(y.abs() < 1e-3, 0.0)
    g = i.g.double()
    if "relu" in row.op:
        g = torch.where(y > 0, g, 0.0)
        y = y.relu()
    dweight, dbias = (g * hat).sum(dims), g.sum(dims)
    plain, moment = g.mean(dims, keepdim=True), (g * x).mean(dims, keepdim=True)
    dx = weight * inv_std * (1.0 if r is None else r) * (g - plain - x * moment)
    return [y, dx, dweight, dbias, *([g] if i.residual is not None else [])]
