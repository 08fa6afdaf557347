"""A padded batch run with its lengths, compared with each sample run alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from normsmith import use_lengths


def padded(
    samples: Sequence[Tensor], dims: Sequence[int] = (-1,), *, more: int = 3, value: float = 7.0
) -> Tensor:
    """Samples of batch size 1 in one batch, with a value after the end of each along `dims`, and `more` than needed."""
    sizes = {dim: max(sample.shape[dim] for sample in samples) + more for dim in dims}
    rows = []
    for sample in samples:
        pad = [0] * (2 * sample.ndim)
        for dim, size in sizes.items():
            pad[2 * (-1 - dim) + 1] = size - sample.shape[dim]
        rows.append(F.pad(sample, pad, value=value))
    return torch.cat(rows)


def lengths_of(samples: Sequence[Tensor], dims: Sequence[int] = (-1,)) -> Tensor:
    """The sizes of samples along `dims`, as `use_lengths` takes them."""
    sizes = torch.tensor([[sample.shape[dim] for dim in dims] for sample in samples])
    return sizes[:, 0] if len(dims) == 1 else sizes


def assert_as_alone(
    net: nn.Module,
    samples: Sequence[Tensor],
    dims: Sequence[int] = (-1,),
    *,
    more: int = 3,
    tolerance: float = 1e-5,
    **options: Any,
) -> Tensor:
    """Run samples in one padded batch and one by one, compare each output, and return those of the batch."""
    net.eval()
    batch = padded(samples, dims, more=more)
    with torch.no_grad(), use_lengths(net, lengths_of(samples, dims), **options) as lengths:
        together = net(batch)
    mask = lengths.mask_of(together).expand_as(together)
    assert together[~mask].abs().max().item() == 0.0 if (~mask).any() else True
    for i, sample in enumerate(samples):
        with torch.no_grad():
            alone = net(sample)
        mine = together[i][mask[i]].reshape(alone.shape[1:])  # raises where there are more or fewer
        torch.testing.assert_close(mine, alone[0], rtol=0, atol=tolerance)
    return together


class Runs(nn.Module):
    """A model whose forward is a function, and which has the layers that this uses."""

    def __init__(self, function: Callable[[Tensor], Tensor], *layers: nn.Module) -> None:
        super().__init__()
        self.function = function
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def run_padded(
    net: nn.Module | Callable[[Tensor], Tensor],
    samples: Sequence[Tensor],
    dims: Sequence[int] = (-1,),
    *,
    value: float = 7.0,
    **options: Any,
) -> Tensor:
    """What a model, or a function, makes of samples in one padded batch."""
    net = net if isinstance(net, nn.Module) else Runs(net)
    with use_lengths(net, lengths_of(samples, dims), **options):
        return net(padded(samples, dims, value=value))
