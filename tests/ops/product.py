"""Every combination of what the one path takes, and an oracle in float64 that shares no code with it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from normsmith.ops import Renorm, Sync, batch_norm

SHARDS = {1: (9,), 2: (3, 6), 3: (4, 0, 5), 4: (2, 5, 1, 4)}
"""How many rows each rank holds: uneven, and one rank with none."""


@dataclass(frozen=True)
class Row:
    """One combination."""

    mask: bool = False
    weight: bool = False
    ghost: bool = False
    renorm: bool = False
    activation: str | None = None
    residual: bool = False
    space: tuple[int, ...] = ()
    ranks: int = 1

    def __str__(self) -> str:
        return "-".join(f"{field.name}={getattr(self, field.name)}" for field in fields(self))


VALUES = {
    "mask": (False, True),
    "weight": (False, True),
    "ghost": (False, True),
    "renorm": (False, True),
    "activation": (None, "relu", "gelu"),
    "residual": (False, True),
    "space": ((), (3,), (2, 2)),
}


def full(ranks: int) -> list[Row]:
    """The whole product."""
    return [
        Row(**dict(zip(VALUES, values, strict=True)), ranks=ranks)
        for values in itertools.product(*VALUES.values())
    ]


def pairwise(ranks: int) -> list[Row]:
    """Few rows in which every pair of values occurs: greedily, so always the same ones."""
    rows = full(ranks)

    def pairs(row: Row) -> set[tuple[object, ...]]:
        settings = [(name, getattr(row, name)) for name in VALUES]
        return set(itertools.combinations(settings, 2))

    missing = set().union(*map(pairs, rows))
    chosen = []
    while missing:
        best = max(rows, key=lambda row: len(pairs(row) & missing))
        missing -= pairs(best)
        chosen.append(best)
    return chosen


@dataclass
class Case:
    """The tensors of a row, for all ranks together."""

    x: Tensor
    weight: Tensor
    bias: Tensor
    g: Tensor
    mask: Tensor | None
    sample_weight: Tensor | None
    residual: Tensor | None
    running_mean: Tensor
    running_var: Tensor


def case(row: Row) -> Case:
    """Seeded by the row; padding holds NaN. Numbers that float32 holds, so that both dtypes see the same."""
    generator = torch.Generator().manual_seed(sum(map(ord, str(row))))
    rows, channels = sum(SHARDS[row.ranks]), 3
    shape = (rows, channels, *row.space)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator).double()

    mask = torch.rand(rows, *row.space, generator=generator) < 0.7 if row.mask else None
    x, residual = normal(*shape) * 2 + 3, normal(*shape) if row.residual else None
    if mask is not None:
        x = torch.where(mask.unsqueeze(1), x, torch.nan)
    return Case(
        _held(x),
        _held(normal(channels).exp()),
        normal(channels),
        normal(*shape),
        mask,
        _held(torch.rand(rows, generator=generator) + 0.1) if row.weight else None,
        residual,
        normal(channels),
        _held(normal(channels).exp()),
    )


def _held(values: Tensor) -> Tensor:
    return values.float().double()


def oracle(row: Row, data: Case) -> dict[str, Tensor]:
    """One process, float64, loops and plain formulas; gradients by autograd."""
    valid = torch.ones(len(data.x), *row.space, dtype=torch.bool) if data.mask is None else data.mask
    x = torch.where(valid.unsqueeze(1), data.x, 0).requires_grad_()
    weight, bias = data.weight.clone().requires_grad_(), data.bias.clone().requires_grad_()
    inputs = [x, weight, bias]
    if data.residual is not None:
        inputs.append(data.residual.clone().requires_grad_())
    w = valid.double()
    if data.sample_weight is not None:
        w = w * data.sample_weight.view(-1, *[1] * len(row.space))
    view = (1, -1, *[1] * len(row.space))
    outputs, means, variances = [], [], []
    for rows in _chunks(row):
        part, share = x[rows], w[rows].unsqueeze(1)
        dims = [0, *range(2, x.ndim)]
        total = share.expand(len(part), 1, *row.space).sum()
        squares = share.expand(len(part), 1, *row.space).square().sum()
        if total == 0 or total * total < (2 - 1e-6) * squares:
            mean, var, r, d = data.running_mean, data.running_var, 1.0, 0.0
        else:
            mean = (part * share).sum(dims) / total
            var = ((part - mean.view(view)).square() * share).sum(dims) / total
            means.append(mean.detach())
            variances.append((var * total / (total - squares / total)).detach())
            r, d = 1.0, 0.0
            if row.renorm:
                sigma = (data.running_var + 1e-5).sqrt()
                r = ((var.detach() + 1e-5).sqrt() / sigma).clamp(1 / 1.5, 1.5).view(view)
                d = ((mean.detach() - data.running_mean) / sigma).clamp(-0.5, 0.5).view(view)
        hat = (part - mean.view(view)) / (var.view(view) + 1e-5).sqrt()
        outputs.append(weight.view(view) * (hat * r + d) + bias.view(view))
    y = torch.cat(outputs)
    if data.residual is not None:
        y = y + inputs[3]
    if row.activation is not None:
        y = getattr(torch.nn.functional, row.activation)(y)
    y = torch.where(valid.unsqueeze(1), y, 0)
    gradients = torch.autograd.grad(y, inputs, data.g)
    mean, var = data.running_mean.clone(), data.running_var.clone()
    if means:
        mean, var = mean.lerp(torch.stack(means).mean(0), 0.1), var.lerp(torch.stack(variances).mean(0), 0.1)
    names = ("dx", "dweight", "dbias", "dresidual")
    return {"y": y.detach(), "running_mean": mean, "running_var": var} | dict(
        zip(names, gradients, strict=False)
    )


def _chunks(row: Row) -> list[slice]:
    """Rows that share statistics: ghost batches never cross ranks; without them all ranks are one."""
    if not row.ghost:
        return [slice(0, sum(SHARDS[row.ranks]))]
    found, start = [], 0
    for size in SHARDS[row.ranks]:
        edges = [*range(start, start + size, 2), start + size]
        if len(edges) > 2 and (edges[-1] - edges[-2]) * torch.Size(row.space).numel() == 1:
            del edges[-2]
        found += [slice(a, b) for a, b in itertools.pairwise(edges) if b > a]
        start += size
    return found


def measured(
    row: Row, data: Case, dtype: torch.dtype, rank: int = 0, sync: Sync | None = None
) -> dict[str, Tensor]:
    """What the op computes for one rank's shard."""
    start = sum(SHARDS[row.ranks][:rank])
    shard = slice(start, start + SHARDS[row.ranks][rank])

    def mine(tensor: Tensor | None) -> Tensor | None:
        if tensor is None:
            return None
        return tensor[shard].to(dtype) if tensor.is_floating_point() else tensor[shard]

    x, residual = mine(data.x).requires_grad_(), mine(data.residual)
    weight, bias = data.weight.to(dtype).requires_grad_(), data.bias.to(dtype).requires_grad_()
    running = data.running_mean.to(dtype, copy=True), data.running_var.to(dtype, copy=True)
    inputs = [x, weight, bias]
    if residual is not None:
        inputs.append(residual.requires_grad_())
    y = batch_norm(
        x,
        *running,
        weight,
        bias,
        mask=mine(data.mask),
        sample_weight=mine(data.sample_weight),
        ghost_batch_size=2 if row.ghost else None,
        renorm=Renorm(1.5, 0.5) if row.renorm else None,
        activation=row.activation,
        residual=residual,
        on_small_batch="running",
        sync=sync,
    )
    names = ("dx", "dweight", "dbias", "dresidual")
    gradients = torch.autograd.grad(y, inputs, mine(data.g))
    result = {"y": y.detach(), "running_mean": running[0], "running_var": running[1]}
    return result | dict(zip(names, gradients, strict=False))


def compare(row: Row, found: list[dict[str, Tensor]], want: dict[str, Tensor], tolerance: float) -> None:
    """All ranks together against the one process: rows are concatenated, dγ and dβ summed."""
    for name, right in want.items():
        parts = [part[name].double() for part in found]
        if name in ("running_mean", "running_var"):
            for part in parts:
                _close(part, right, tolerance, f"{row}: {name}")
        elif name in ("dweight", "dbias"):
            _close(sum(parts), right, tolerance, f"{row}: {name}")
        else:
            _close(torch.cat(parts), right, tolerance, f"{row}: {name}")


def _close(found: Tensor, right: Tensor, tolerance: float, message: str) -> None:
    scale = right.abs().max().clamp(min=1.0)
    error = ((found - right) / scale).abs().max() if right.numel() else torch.tensor(0.0)
    assert error <= tolerance, f"{message}: off by {error:.2e}, more than {tolerance:.0e}"
