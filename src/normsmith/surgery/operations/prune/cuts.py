"""Layers without some of their channels: smaller weights, and biases that do what was constant."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from normsmith._torch import ConvTranspose, buffers_of, parameters_of
from normsmith.anatomy.float64 import in_float64
from normsmith.surgery.plans.edits import AttributeEdit, BufferEdit, Edit, ParameterEdit, RequireUnchanged

Keep = Sequence[int] | None
"""The channels that stay; None for all of them."""


@dataclass(frozen=True)
class Cut:
    """What is taken out of a layer with weights.

    - `rows`, `columns`: the output and input channels that stay.
    - `constants`: for each input channel that goes its constant, 0 for those that stay.
    - `depthwise`: whether each output channel is made of the input channel of its number, so that both go together.
    """

    rows: Keep = None
    columns: Keep = None
    constants: Tensor | None = None
    depthwise: bool = False


def cut_layer(layer: Any, cut: Cut, beta: nn.Parameter | None) -> Iterator[Edit]:
    """The edits that cut a linear layer or convolution. `beta`: whose work a new bias does."""
    yield RequireUnchanged(layer)
    first, second = cut.rows, cut.columns
    is_transposed = isinstance(layer, ConvTranspose)
    if is_transposed:
        first, second = second, first
    kept = partial(_kept, keeps=(first, second))
    yield ParameterEdit(
        layer, "weight", layer.weight, _like(layer.weight, kept(layer.weight)), True, cut=kept
    )
    moved = _moved(layer, cut.columns, cut.constants)
    if layer.bias is not None or moved is not None:
        yield _bias(layer, cut.rows, moved, beta)
    is_linear = isinstance(layer, nn.Linear)
    names = ("out_features", "in_features") if is_linear else ("out_channels", "in_channels")
    columns = cut.rows if cut.depthwise else cut.columns
    for name, keep in zip(names, (cut.rows, columns), strict=True):
        if keep is not None:
            yield AttributeEdit(layer, name, len(keep))
    if cut.depthwise and cut.rows is not None:
        yield AttributeEdit(layer, "groups", len(cut.rows))


def cut_norm(norm: nn.Module, keep: Sequence[int]) -> Iterator[Edit]:
    """The edits that take channels out of a batch norm."""
    yield RequireUnchanged(norm)
    kept = partial(_kept, keeps=(keep, None))
    for name, parameter in parameters_of(norm).items():
        if parameter is not None:
            yield ParameterEdit(norm, name, parameter, _like(parameter, kept(parameter)), True, cut=kept)
    for name, buffer in buffers_of(norm).items():
        if buffer is not None and buffer.dim() == 1:
            yield BufferEdit(norm, name, buffer, kept(buffer))
    yield AttributeEdit(norm, "num_features", len(keep))


def _bias(layer: Any, rows: Keep, moved: Tensor | None, beta: nn.Parameter | None) -> ParameterEdit:
    old: nn.Parameter | None = layer.bias
    kept = partial(_kept, keeps=(rows, None))
    if old is None:
        assert moved is not None
        trains = layer.weight.requires_grad if beta is None else beta.requires_grad
        new = nn.Parameter(kept(moved).to(layer.weight), requires_grad=trains)
        return ParameterEdit(layer, "bias", None, new, takes_over=beta)
    values = old.detach() if moved is None else (in_float64(old) + moved.to(in_float64(old))).to(old)
    return ParameterEdit(layer, "bias", old, _like(old, kept(values)), True, cut=kept)


def _moved(layer: Any, columns: Keep, constants: Tensor | None) -> Tensor | None:
    """What constant inputs that go have added to each output; None where it is nothing."""
    if columns is None or constants is None or not bool(constants.any()):
        return None
    weight = in_float64(layer.weight)
    if isinstance(layer, ConvTranspose):
        weight = weight.transpose(0, 1)
    return (
        weight.flatten(2).sum(2) @ constants.to(weight) if weight.dim() > 2 else weight @ constants.to(weight)
    )


def _kept(tensor: Tensor, keeps: tuple[Keep, Keep]) -> Tensor:
    """A tensor without the channels that go, in its first two dimensions."""
    result = tensor.detach()
    for dimension, keep in enumerate(keeps):
        if keep is not None:
            result = result.index_select(
                dimension, torch.tensor(keep, dtype=torch.long, device=result.device)
            )
    return result


def _like(old: nn.Parameter, values: Tensor) -> nn.Parameter:
    """A parameter of its own with an old one's memory format and `requires_grad`."""
    channels_last = old.dim() == 4 and old.is_contiguous(memory_format=torch.channels_last)
    kind = torch.channels_last if channels_last and not old.is_contiguous() else torch.contiguous_format
    return nn.Parameter(values.clone(memory_format=kind), requires_grad=old.requires_grad)
