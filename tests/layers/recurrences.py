"""A slow oracle of the recurrent layers, which knows no padding, and layers and sequences to try them on."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from normsmith.layers import BatchNormGRU, BatchNormLSTM
from normsmith.layers.recurrent import RecurrentBase

LAYERS = [BatchNormLSTM, BatchNormGRU]
TORCHS = {BatchNormLSTM: nn.LSTM, BatchNormGRU: nn.GRU}
LENGTHS = [5, 2, 4, 1, 3]

both = pytest.mark.parametrize("cls", LAYERS)


class OracleNorm:
    """A norm by its definition, in float64, on sequences of their own lengths, one step after the other."""

    def __init__(self, norm: nn.Module) -> None:
        self.per_step = norm.running_mean.ndim == 2
        self.eps, self.weight, self.bias = norm.eps, norm.weight, norm.bias
        self.mean, self.var = norm.running_mean.clone(), norm.running_var.clone()
        self.updates: dict[int, list[tuple[Tensor, Tensor]]] = {}

    def __call__(self, values: list[Tensor], step: int) -> list[Tensor]:
        x = torch.stack(values)
        row = min(step, len(self.mean) - 1)
        mean, var = (self.mean[row], self.var[row]) if self.per_step else (self.mean, self.var)
        if len(x) > 1:
            mean, var = x.mean(0), x.var(0, correction=0)
            self.updates.setdefault(row, []).append((mean.detach(), x.var(0).detach()))
        y = (x - mean) / (var + self.eps).sqrt() * self.weight
        return list(y if self.bias is None else y + self.bias)

    def running(self, momentum: float = 0.1) -> tuple[Tensor, Tensor]:
        for row, moments in self.updates.items():
            mean, var = (torch.stack(values).mean(0) for values in zip(*moments, strict=True))
            into = (self.mean[row], self.var[row]) if self.per_step else (self.mean, self.var)
            into[0].lerp_(mean, momentum)
            into[1].lerp_(var, momentum)
        return self.mean, self.var


def oracle_cell(cell: nn.Module, xs: list[Tensor], norms: dict[str, OracleNorm]) -> list[Tensor]:
    """Outputs of each sequence by one cell; `norms` receive the updates."""
    for name, norm in cell.named_children():
        norms[name] = OracleNorm(norm)
    size = cell.hidden_size
    h = [x.new_zeros(size) for x in xs]
    c = [x.new_zeros(size) for x in xs]
    outputs: list[list[Tensor]] = [[] for _ in xs]
    products = [x @ cell.weight_ih.T for x in xs]
    bias = 0 if cell.bias is None else cell.bias
    whole = None
    if not norms["norm_ih"].per_step:
        whole = norms["norm_ih"]([p for product in products for p in product], 0)
        parts = iter(whole)
        whole = [[next(parts) for _ in product] for product in products]
    for step in range(max(map(len, xs))):
        alive = [b for b, x in enumerate(xs) if len(x) > step]
        if whole is None:
            ih = norms["norm_ih"]([products[b][step] for b in alive], step)
        else:
            ih = [whole[b][step] for b in alive]
        hh = [cell.weight_hh @ h[b] for b in alive]
        if "norm_hh" in norms:
            hh = norms["norm_hh"](hh, step)
        if cell.states == 2:
            for b, left, right in zip(alive, ih, hh, strict=True):
                i, f, g, o = (left + right + bias).chunk(4)
                c[b] = f.sigmoid() * c[b] + i.sigmoid() * g.tanh()
                h[b] = o.sigmoid()
            shown = [c[b] for b in alive]
            if "norm_c" in norms:
                shown = norms["norm_c"](shown, step)
            for b, value in zip(alive, shown, strict=True):
                h[b] = h[b] * value.tanh()
        else:
            for b, left, right in zip(alive, ih, hh, strict=True):
                (r, z, n), (hr, hz, hn) = (left + bias).chunk(3), right.chunk(3)
                r, z = (r + hr).sigmoid(), (z + hz).sigmoid()
                h[b] = (1 - z) * (n + r * hn).tanh() + z * h[b]
        for b in alive:
            outputs[b].append(h[b])
    return [torch.stack(output) for output in outputs]


def oracle(layer: RecurrentBase, xs: list[Tensor]) -> tuple[list[Tensor], dict[str, OracleNorm]]:
    """Outputs of each sequence, and the norms by their path."""
    norms: dict[str, OracleNorm] = {}
    for number in range(layer.num_layers):
        directions = []
        for suffix in ["", "_reverse"][: 2 if layer.bidirectional else 1]:
            name = f"l{number}{suffix}"
            own: dict[str, OracleNorm] = {}
            turned = [x.flip(0) if suffix else x for x in xs]
            outputs = oracle_cell(layer.get_submodule(name), turned, own)
            directions.append([x.flip(0) if suffix else x for x in outputs])
            norms |= {f"{name}.{key}": norm for key, norm in own.items()}
        xs = [torch.cat(parts, dim=1) for parts in zip(*directions, strict=True)]
    return xs, norms


def padded(xs: list[Tensor], value: float = 0.0) -> tuple[Tensor, Tensor]:
    """Sequences as (time, batch, features), and their mask (time, batch)."""
    x = nn.utils.rnn.pad_sequence(xs, padding_value=value)
    return x, torch.arange(len(x)).unsqueeze(1) < torch.tensor([len(x) for x in xs])


def draw(features: int = 3, lengths: list[int] = LENGTHS) -> list[Tensor]:
    return [torch.randn(length, features, dtype=torch.float64, requires_grad=True) for length in lengths]


def lively(layer: RecurrentBase) -> RecurrentBase:
    """Weights, γ, β and running statistics that are not their initial values."""
    for name, parameter in layer.named_parameters():
        nn.init.normal_(parameter, 1.0 if "norm" in name else 0.0, 0.5)
    for name, buffer in layer.named_buffers():
        if "running" in name:
            nn.init.uniform_(buffer, 0.5, 1.5)
    return layer


def as_identity(layer: RecurrentBase, torchs: nn.RNNBase) -> None:
    """Torch's weights, and norms that in evaluation change nothing."""
    for key, cell in layer.named_children():
        suffix = key.removeprefix("l")
        cell.weight_ih.data = getattr(torchs, f"weight_ih_l{suffix}").data.clone()
        cell.weight_hh.data = getattr(torchs, f"weight_hh_l{suffix}").data.clone()
        if cell.bias is not None:
            b_hh = getattr(torchs, f"bias_hh_l{suffix}").data
            if cell.states == 1:
                b_hh[2 * cell.hidden_size :] = 0  # inside of r·(…) torch has a bias, the formula has none
            cell.bias.data = getattr(torchs, f"bias_ih_l{suffix}").data + b_hh
        for norm in cell.children():
            norm.eps = 1e-12
            nn.init.ones_(norm.weight)
