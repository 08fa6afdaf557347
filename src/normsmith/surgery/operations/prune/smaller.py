"""The smaller model: its edits and changes layer by layer, and what it saves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from normsmith._text import number
from normsmith._torch import ConvTranspose, parameters_of
from normsmith.anatomy.batch_norms import BatchNorm
from normsmith.anatomy.describe import describe_layer
from normsmith.anatomy.locations import Locations, find
from normsmith.surgery.operations.prune.channels import Channels
from normsmith.surgery.operations.prune.cuts import Cut, cut_layer, cut_norm
from normsmith.surgery.plans.edits import Edit
from normsmith.surgery.plans.plan import Change


def cut_edits(
    model: nn.Module, channels: Channels, gone: set[int], norms: Mapping[str, BatchNorm]
) -> Iterator[Edit]:
    """The edits that take channels out of every layer that has them."""
    beta = next((b for n in norms.values() if isinstance(b := n.tensors["bias"], nn.Parameter)), None)
    for path, cut in _cuts(channels, gone, model).items():
        yield from cut_layer(find(model, path), cut, beta)
    for path, numbers in channels.norms.items():
        keep = _kept(channels, numbers, gone)
        if len(keep) < len(numbers):
            yield from cut_norm(find(model, path), keep)


def changes_of(model: nn.Module, channels: Channels, gone: set[int]) -> Iterator[Change]:
    """What is changed at each layer."""
    paths = Locations(model).paths
    for path, cut in _cuts(channels, gone, model).items():
        layer: Any = find(model, path)
        first, second = _widths(layer)
        rows = first if cut.rows is None else len(cut.rows)
        columns = second if cut.columns is None else len(cut.columns)
        columns = rows if cut.depthwise else columns
        moved = cut.constants is not None and bool(cut.constants.any())
        why = "act(β) of its inputs goes into its bias" if moved else "|γ| is small"
        after = f"{type(layer).__name__}({columns}, {rows})"
        yield Change(path, describe_layer(layer), after, why, paths[layer][1:])
    for path, numbers in channels.norms.items():
        keep = _kept(channels, numbers, gone)
        if len(keep) < len(numbers):
            norm = find(model, path)
            yield Change(
                path, f"{len(numbers)} channels", f"{len(keep)} channels", "|γ| is small", paths[norm][1:]
            )


def savings_of(model: nn.Module, channels: Channels, gone: set[int], positions: Mapping[str, int]) -> str:
    """Parameters and multiply-adds before and after, in words."""
    before = sum(p.numel() for p in model.parameters())
    after, macs = before, [0.0, 0.0]
    cuts = _cuts(channels, gone, model)
    for path in {**positions, **cuts}:
        layer: Any = find(model, path)
        size = _size(layer, cuts.get(path, Cut()))
        macs[0] += positions.get(path, 0) * layer.weight.numel()
        macs[1] += positions.get(path, 0) * size
        after -= layer.weight.numel() - size
    for path, numbers in (*channels.rows.items(), *channels.norms.items()):
        vectors = [p for p in parameters_of(find(model, path)).values() if p is not None and p.dim() == 1]
        after -= len(vectors) * (len(numbers) - len(_kept(channels, numbers, gone)))
    new = [path for path, cut in cuts.items() if _has_new_bias(find(model, path), cut)]
    after += sum(len(_kept(channels, channels.rows[path], gone)) for path in new)
    saved = [_short(value) for value in (before, after, *macs)]
    return "parameters {} → {}, multiply-adds {} → {}".format(*saved)


def _short(value: float) -> str:
    """A count, a large one in millions or billions.

    >>> _short(1432), _short(25_557_032), _short(4.09e9)
    ('1,432', '25.6 M', '4.09 G')
    """
    for unit, size in (("G", 1e9), ("M", 1e6)):
        if value >= size:
            return f"{number(value / size)} {unit}"
    return f"{value:,.0f}"


def _cuts(channels: Channels, gone: set[int], model: nn.Module) -> dict[str, Cut]:
    """What is taken out of each layer with weights that loses something."""
    cuts: dict[str, Cut] = {}
    for path in {**channels.rows, **channels.columns}:
        layer: Any = find(model, path)
        rows = _fewer(channels, channels.rows.get(path, []), gone)
        numbers, values = channels.columns.get(path, ([], torch.zeros(0)))
        columns = _fewer(channels, numbers, gone)
        if rows is None and columns is None:
            continue
        goes = torch.tensor([channels.root(one) in gone for one in numbers], dtype=torch.bool)
        constants = None if columns is None else torch.where(goes, values, 0.0)
        is_depthwise = getattr(layer, "groups", 1) > 1
        cuts[path] = Cut(rows, columns, constants, is_depthwise)
    return cuts


def _fewer(channels: Channels, numbers: Sequence[int], gone: set[int]) -> list[int] | None:
    keep = _kept(channels, numbers, gone)
    return None if len(keep) == len(numbers) else keep


def _kept(channels: Channels, numbers: Sequence[int], gone: set[int]) -> list[int]:
    return [index for index, one in enumerate(numbers) if channels.root(one) not in gone]


def _widths(layer: Any) -> tuple[int, int]:
    if isinstance(layer, nn.Linear):
        return layer.out_features, layer.in_features
    return layer.out_channels, layer.in_channels


def _size(layer: Any, cut: Cut) -> int:
    """How many weights a layer has once it is cut."""
    shape = list(layer.weight.shape)
    first, second = (1, 0) if isinstance(layer, ConvTranspose) else (0, 1)
    if cut.rows is not None:
        shape[first] = len(cut.rows)
    if cut.columns is not None:
        shape[second] = len(cut.columns)
    return int(torch.Size(shape).numel())


def _has_new_bias(layer: Any, cut: Cut) -> bool:
    return layer.bias is None and cut.constants is not None and bool(cut.constants.any())
