"""What a layer of others does to each channel, tried with a few numbers: normalise it, or scale and shift it."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from normsmith._torch import NormBase, buffers_of, children_of, parameters_of
from normsmith.anatomy.isolation import same_random_numbers
from normsmith.layers.ours import Ours

Kind = Literal["fixed", "running", "own", "first batch"]
_KNOWN = (NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, Ours, torch.jit.ScriptModule)
_LAYOUTS = ((2, 1), (3, 1), (3, 2), (4, 1), (4, 3), (5, 1))
"""Numbers of dimensions that inputs may have, each with the dimension of the channels."""

_MOST_CHANNELS = 2**16
"""Longer vectors are tables of words or positions rather than channels, and inputs for them would fill the memory."""


@dataclass(frozen=True, eq=False)
class Behaviour:
    """What a layer of others does to the channels of its input.

    - `kind`: "fixed": it scales and shifts each channel, and in training does the same. "running": evaluation scales
      and shifts each channel, and training standardises the batch, and keeps statistics. "own": it normalises by what
      it is given, in evaluation too. "first batch": it is to take its scale and shift from the first training batch.
    - `text`: that in words, after the name of its class.
    - `scale`, `shift`: those of evaluation, in float64, with one number for all channels or one for each; None of
      "own".
    - `layouts`: the inputs that it takes: (number of dimensions, dimension of the channels).
    """

    kind: Kind
    text: str
    scale: Tensor | None
    shift: Tensor | None
    layouts: frozenset[tuple[int, int]]

    @property
    def is_norm(self) -> bool:
        """Whether it normalises."""
        return self.kind in ("running", "own")


def behaviour_of(module: nn.Module) -> Behaviour | None:
    """What a layer that neither torch nor normsmith wrote does; None where it is neither a norm nor an affine map.

    A copy in float64 is tried, without hooks: the layer itself is not called. Looked at are layers without children
    that hold vectors and numbers alone, as norms do.

    >>> class Scale(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.gamma = nn.Parameter(torch.tensor([2.0, 3.0]))
    ...     def forward(self, x):
    ...         return x * self.gamma
    >>> behaviour = behaviour_of(Scale())
    >>> behaviour.kind, behaviour.scale, sorted(behaviour.layouts)
    ('fixed', tensor([2., 3.], dtype=torch.float64), [(2, 1), (3, 2), (4, 3)])
    """
    if not _may_be_a_norm(module):
        return None
    try:
        twin = _Twin(module)
    except Exception:  # noqa: BLE001  somebody's layer that cannot be copied
        return None
    with torch.no_grad(), same_random_numbers(module):
        affine = {layout: fit for layout in _LAYOUTS if (fit := twin.affine(*layout)) is not None}
        if not affine:
            return twin.own_statistics()
        layout, (scale, shift) = next(iter(affine.items()))
        told = twin.training(layout, scale, shift)
    return None if told is None else Behaviour(*told, scale, shift, frozenset(affine))


def _may_be_a_norm(module: nn.Module) -> bool:
    """Whether a layer of others holds what a norm holds: vectors and numbers, and nothing else."""
    known_packages = ("torch.", "normsmith.layers.", "normsmith.surgery.")
    if isinstance(module, _KNOWN) or type(module).__module__.startswith(known_packages):
        return False
    if children_of(module) or "forward" in vars(module) or type(module).forward is nn.Module.forward:
        return False
    tensors = list(_tensors(module))
    return any(t.is_floating_point() for t in tensors) and all(
        not is_lazy(t)
        and not t.is_meta
        and t.numel() <= _MOST_CHANNELS
        and sum(size > 1 for size in t.shape) <= 1
        for t in tensors
    )


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    return (t for t in (*parameters_of(module).values(), *buffers_of(module).values()) if t is not None)


class _Twin:
    """A copy of a layer in float64 on the CPU, whose forward is tried without hooks."""

    def __init__(self, module: nn.Module) -> None:
        self._module = deepcopy(module).double().cpu()
        self._name = type(module).__name__
        largest = max(t.numel() for t in _tensors(module) if t.is_floating_point())
        self._is_scalar = largest == 1
        self._channels = 3 if self._is_scalar else largest
        self._draw = torch.Generator().manual_seed(0)

    def affine(self, dimensions: int, channel: int) -> tuple[Tensor, Tensor] | None:
        """The scale and shift of each channel in evaluation, for inputs of a layout; None where it does more."""
        x = self._input(dimensions, channel)
        zero, one, y = (self._output(part) for part in (torch.zeros_like(x), torch.ones_like(x), x))
        if zero is None or one is None or y is None:
            return None
        shift, scale = (part.movedim(channel, 0).flatten(1)[:, 0] for part in (zero, one - zero))
        if not _is_close(y, _applied(x, channel, scale, shift)):
            return None
        return (scale[:1], shift[:1]) if self._is_scalar else (scale, shift)

    def training(self, layout: tuple[int, int], scale: Tensor, shift: Tensor) -> tuple[Kind, str] | None:
        """What training does, of a layer that scales and shifts each channel in evaluation; it changes the copy."""
        channel = layout[1]
        x, before = self._input(*layout), [tensor.clone() for tensor in _tensors(self._module)]
        y = self._output(x, training=True)
        if y is None:
            return None
        changed = {
            id(new)
            for old, new in zip(before, _tensors(self._module), strict=False)
            if not torch.equal(old, new)
        }
        if any(id(parameter) in changed for parameter in self._module.parameters()):
            return (
                "first batch",
                f"{self._name} takes its scale and shift from its first training batch; take a step first",
            )
        if not changed and _is_close(y, _applied(x, channel, scale, shift)):
            return "fixed", f"{self._name} is a fixed scale and shift of each channel, in training too"
        holds_statistics = any(
            t is not None and t.is_floating_point() for t in buffers_of(self._module).values()
        )
        if holds_statistics and _is_linear_in_each_channel(x, y, channel):
            return (
                "running",
                f"{self._name} is a norm with running statistics, of a class that is not known here",
            )
        return None

    def own_statistics(self) -> Behaviour | None:
        """Whether it normalises by its input: then the input's size makes no difference, and its sign mirrors all."""
        layouts, by = set[tuple[int, int]](), ""
        for dimensions, channel in _LAYOUTS:
            x = 10 * self._input(dimensions, channel)
            tried = [self._output(part) for part in (x, 7 * x, -x, x + 1e-4 * x.flip(0))]
            y, larger, mirrored, other = tried
            if y is None or larger is None or mirrored is None or other is None:
                continue
            middle = (y + mirrored).movedim(channel, 0).flatten(1)
            is_mirrored = _is_close(middle, middle[:, :1].expand_as(middle), 1e-3)
            if not (_is_close(y, larger, 1e-3) and is_mirrored) or _is_close(y, other, 1e-7):
                continue
            if not layouts:
                alone = self._output(x[:1])
                is_each = alone is not None and _is_close(alone, y[:1], 1e-6)
                by = "each sample's own statistics" if is_each else "the batch's statistics in evaluation too"
            layouts.add((dimensions, channel))
        text = f"{self._name} goes by {by}, which no weights can"
        return Behaviour("own", text, None, None, frozenset(layouts)) if layouts else None

    def _input(self, dimensions: int, channel: int) -> Tensor:
        """Random numbers of very different sizes; no other dimension is as large as that of the channels."""
        sizes = [size for size in (5, 2, 3, 4, 6) if size != self._channels][: dimensions - 1]
        sizes.insert(channel, self._channels)
        x = torch.randn(sizes, generator=self._draw, dtype=torch.float64)
        return x * 10 ** (2 * torch.rand(sizes, generator=self._draw, dtype=torch.float64))

    def _output(self, x: Tensor, *, training: bool = False) -> Tensor | None:
        """What the copy makes of an input; None where it does not take it, or makes something of another shape."""
        try:
            y = type(self._module).forward(self._module.train(training), x.clone())
        except Exception:  # noqa: BLE001  somebody's forward
            return None
        is_like = isinstance(y, Tensor) and y.shape == x.shape and bool(y.isfinite().all())
        return y.to(x, copy=True) if is_like else None


def _applied(x: Tensor, channel: int, scale: Tensor, shift: Tensor) -> Tensor:
    shape = [-1 if dimension == channel else 1 for dimension in range(x.dim())]
    return x * scale.reshape(shape) + shift.reshape(shape)


def _is_close(one: Tensor, other: Tensor, tolerance: float = 1e-5) -> bool:
    """Whether two results are the same; some layers compute in float32 whatever they are given."""
    return bool((one - other).abs().max() <= tolerance * max(1e-6, float(other.abs().max())))


def _is_linear_in_each_channel(x: Tensor, y: Tensor, channel: int) -> bool:
    """Whether each channel of y is a scaled and shifted channel of x."""
    xs, ys = (part.movedim(channel, 0).flatten(1) for part in (x, y))
    xs, ys = (part - part.mean(1, keepdim=True) for part in (xs, ys))
    slope = (xs * ys).sum(1, keepdim=True) / xs.square().sum(1, keepdim=True)
    return _is_close(slope * xs, ys, 1e-4)
