"""What a forward does to channels, as a list of steps: plain data, which a saved plan carries."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from normsmith._torch import Dropout, parameters_of
from normsmith.anatomy.describe import label
from normsmith.anatomy.graph import Event, Graph, is_linear, spatial_of
from normsmith.anatomy.kinds import is_activation, is_opaque
from normsmith.anatomy.locations import Locations
from normsmith.anatomy.remark import Refusal

Kind = Literal[
    "layer", "norm", "activation", "function", "keep", "zero", "vary", "add", "mul", "cat", "repeat", "slice",
    "foreign", "stop",
]  # fmt: skip

EXACT_FUNCTIONS = {
    "relu",
    "relu6",
    "sigmoid",
    "tanh",
    "silu",
    "selu",
    "softsign",
    "hardswish",
    "mish",
    "logsigmoid",
}
"""Activations without settings, so that a call of the function says all."""

_ZERO_STAYS = {
    "gelu",
    "leaky_relu",
    "elu",
    "celu",
    "hardtanh",
    "rrelu",
    "softshrink",
    "tanhshrink",
    "hardshrink",
}
_SAME_FUNCTIONS = {
    "contiguous", "clone", "detach", "to", "float", "half", "double", "interpolate", "upsample", "max_pool1d",
    "max_pool2d", "max_pool3d", "mean", "amax", "amin", "max", "min",
}  # fmt: skip
_SAME_PREFIXES = ("dropout", "alpha_dropout", "feature_alpha_dropout", "adaptive_")
_ZERO_FUNCTIONS = {"avg_pool1d", "avg_pool2d", "avg_pool3d", "lp_pool1d", "lp_pool2d", "lp_pool3d", "sum"}
_SAME_MODULES = (
    nn.Identity, Dropout, nn.AlphaDropout, nn.FeatureAlphaDropout, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d,
    nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d,
    nn.AdaptiveMaxPool3d, nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d, nn.ReflectionPad1d,
    nn.ReflectionPad2d, nn.ReflectionPad3d, nn.ReplicationPad1d, nn.ReplicationPad2d, nn.ReplicationPad3d,
)  # fmt: skip
_ZERO_MODULES = (nn.ZeroPad2d, nn.LPPool1d, nn.LPPool2d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)


@dataclass(frozen=True)
class Step:
    """One step: what it does to the channels that it takes.

    - `kind`: "layer" (channels of its own, made of those that it takes), "norm"; "activation" (a module) and "function"
      (an activation by its name), "keep" (a constant stays what it is), "zero" (a constant stays only if it is 0),
      "vary" (what becomes of a constant is not known); "add", "mul", "cat"; "repeat" (each channel so many times in a
      row), "slice" (some in a row); "foreign" (so many channels of which nothing is known), "stop" (takes channels in a
      way that is not followed).
    - `name`: the path of a module, the name of a function, or in words what stops.
    - `sources`: the steps whose channels it takes.
    - `numbers`: how often, from where to where, or how many.
    """

    kind: Kind
    name: str = ""
    sources: tuple[int, ...] = ()
    numbers: tuple[int, ...] = ()

    def to_row(self) -> list[Any]:
        """The step as JSON holds it."""
        return [self.kind, self.name, list(self.sources), list(self.numbers)]

    @classmethod
    def from_row(cls, row: Sequence[Any]) -> Step:
        """The step that `to_row` wrote.

        >>> Step.from_row(Step("slice", "", (3,), (0, 8)).to_row())
        Step(kind='slice', name='', sources=(3,), numbers=(0, 8))
        """
        return cls(row[0], row[1], tuple(row[2]), tuple(row[3]))


@dataclass(frozen=True)
class _Known:
    """Where the channels of an event's result are: the step that made them, and their dimension."""

    step: int
    dimension: int


def steps_of(graph: Graph, norms: set[nn.Module]) -> list[Step]:
    """The steps of a forward that was followed with a batch. `norms`: the batch norms that are single calls."""
    return _Reader(graph, norms).read()


class _Reader:
    def __init__(self, graph: Graph, norms: set[nn.Module]) -> None:
        self._graph, self._norms = graph, norms
        self._steps: list[Step] = []
        self._known: dict[Event, _Known] = {}

    def read(self) -> list[Step]:
        for event in self._graph.events:
            if event.kind not in ("input", "parameter"):
                self._read_one(event)
        for event in (*self._graph.outputs, *self._graph.outputs_written):
            self._stop([event], "the model returns them")
        return self._steps

    def _read_one(self, event: Event) -> None:
        known = [self._known[source] for source in event.sources if source in self._known]
        if event.module is not None and event.role == "producer":
            self._layer(event)
        elif event.module in self._norms:
            self._norm(event)
        elif known and not event.reads_written and self._follows(event, known):
            return
        else:
            self._stop(event.sources, f"{label(event)} takes them")

    def _add(self, step: Step, event: Event, dimension: int) -> bool:
        self._steps.append(step)
        self._known[event] = _Known(len(self._steps) - 1, dimension)
        return True

    def _stop(self, sources: Sequence[Event], why: str) -> None:
        for known in dict.fromkeys(self._known[source] for source in sources if source in self._known):
            self._steps.append(Step("stop", why, (known.step,)))

    def _layer(self, event: Event) -> None:
        shape, entry = event.shape, event.sources[0] if event.sources else event  # a tensor from nowhere
        assert shape is not None
        last = len(shape) - 1
        dimension = last if is_linear(event) else 1
        if dimension == 0 or not (is_linear(event) or len(shape) == spatial_of(event) + 2):
            self._stop(event.sources, f"{label(event)} takes them without a batch")
            return
        known = self._known.get(entry)
        if known is not None and (known.dimension != dimension or event.reads_written):
            self._stop([entry], f"{label(event)} takes them in another layout")
            known = None
        self._add(Step("layer", event.path, () if known is None else (known.step,)), event, dimension)

    def _norm(self, event: Event) -> None:
        known = [self._known.get(source) for source in event.sources]
        one = known[0] if known else None
        if len(known) != 1 or event.reads_written or (one is not None and one.dimension != 1):
            self._stop(event.sources, f"{label(event)} takes them with others, or in another layout")
            one = None
        assert event.shape is not None
        if one is None:
            self._steps.append(
                Step("foreign", f"{label(event)} has them from elsewhere", (), (event.shape[1],))
            )
            one = _Known(len(self._steps) - 1, 1)
        self._add(Step("norm", event.path, (one.step,)), event, 1)

    def _follows(self, event: Event, known: Sequence[_Known]) -> bool:
        """Make the step of an event that keeps channels apart; False where it is none."""
        if event.name in ("add", "mul"):
            return self._together(event, known)
        if event.name.lower() in ("cat", "concat", "concatenate"):
            return self._beside_each_other(event)
        if event.sources[0] not in self._known:
            return False
        first = self._known[event.sources[0]]
        if event.move is not None:
            return self._moved(event, first)
        kind = None if len(event.sources) > 1 else _kind_of(event)
        if kind is None or not self._is_kept(event, first.dimension):
            return False
        name = event.path if event.module is not None else event.name
        return self._add(
            Step(kind, name, (first.step,)), event, self._dimension_after(event, first.dimension)
        )

    def _is_kept(self, event: Event, dimension: int) -> bool:
        """Whether the channels' dimension is as long as before, and no reduction goes over it."""
        before, after = event.sources[0].shape, event.shape
        if not before or not after:
            return False
        if event.pooling is not None and dimension in event.pooling.of(len(before)):
            return False
        place = self._dimension_after(event, dimension)
        return place < len(after) and before[dimension] == after[place]

    @staticmethod
    def _dimension_after(event: Event, dimension: int) -> int:
        if event.pooling is None or event.pooling.keeps:
            return dimension
        gone = event.pooling.of(len(event.sources[0].shape or ()))
        return dimension - sum(one < dimension for one in gone)

    def _together(self, event: Event, known: Sequence[_Known]) -> bool:
        """A sum or product of two results, or of one and a number."""
        shapes = [source.shape for source in event.sources]
        first = known[0]
        if len(event.sources) == 1:
            return self._add(
                Step("vary" if event.name == "add" else "zero", "", (first.step,)), event, first.dimension
            )
        if len(known) < 2 or len(event.sources) > 2 or known[1].dimension != first.dimension:
            return False
        if not (shapes[0] and shapes[1] and event.shape) or len(shapes[0]) != len(shapes[1]):
            return False
        if not shapes[0][first.dimension] == shapes[1][first.dimension] == event.shape[first.dimension]:
            return False
        sources = (first.step, known[1].step)
        return self._add(Step("add" if event.name == "add" else "mul", "", sources), event, first.dimension)

    def _beside_each_other(self, event: Event) -> bool:
        """A concatenation in the dimension of the channels."""
        shape = event.shape
        dimension = next(self._known[s].dimension for s in event.sources if s in self._known)
        lengths = [source.shape[dimension] if source.shape else 0 for source in event.sources]
        if not shape or sum(lengths) != shape[dimension]:
            return False
        sources: list[int] = []
        for source, length in zip(event.sources, lengths, strict=True):
            known = self._known.get(source)
            if known is None or known.dimension != dimension:
                self._stop([source], f"{label(event)} takes them in another layout")
                self._steps.append(Step("foreign", f"{label(event)} takes others beside them", (), (length,)))
                known = _Known(len(self._steps) - 1, dimension)
            sources.append(known.step)
        return self._add(Step("cat", "", tuple(sources)), event, dimension)

    def _moved(self, event: Event, known: _Known) -> bool:
        """A flatten, transpose, slice and the like, where each channel stays by itself."""
        shape = event.sources[0].shape
        assert event.move is not None
        if not shape or not event.shape:
            return False
        sizes = [1] * len(shape)
        sizes[known.dimension] = shape[known.dimension]
        numbers = torch.arange(shape[known.dimension]).reshape(sizes).expand(shape)
        moved = event.move(numbers)
        for dimension in range(1, moved.dim()):
            along = moved.movedim(dimension, 0).flatten(1)
            if along.numel() and bool((along == along[:, :1]).all()) and len(along) >= 1:
                step = _as_step(along[:, 0], shape[known.dimension], known.step)
                if step is not None:
                    return self._add(step, event, dimension)
        return False


def _as_step(which: torch.Tensor, channels: int, source: int) -> Step | None:
    """The step that gives these of the channels, in this order; None where it is of no such kind."""
    count = len(which)
    if count >= channels and count % channels == 0:
        repeats = count // channels
        if bool((which == torch.arange(count) // repeats).all()):
            return Step("keep", "", (source,)) if repeats == 1 else Step("repeat", "", (source,), (repeats,))
    start = int(which[0])
    if count < channels and bool((which == torch.arange(start, start + count)).all()):
        return Step("slice", "", (source,), (start, start + count))
    return None


def _kind_of(event: Event) -> Kind | None:
    """What a call does to a constant channel; None where it may mix channels."""
    return _kind_of_module(event.module) if event.module is not None else _kind_of_function(event)


def _kind_of_module(module: nn.Module) -> Kind | None:
    layer: Any = module
    if is_activation(module):
        return None if isinstance(module, nn.PReLU) and module.num_parameters > 1 else "activation"
    if isinstance(module, _SAME_MODULES):
        return "keep"
    if isinstance(module, (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)):
        padding = layer.padding if isinstance(layer.padding, tuple) else (layer.padding,)
        is_plain = getattr(layer, "divisor_override", None) is None
        return "keep" if is_plain and not (any(padding) and layer.count_include_pad) else "zero"
    if isinstance(module, _ZERO_MODULES):
        return "zero"
    return "keep" if type(module) is nn.Sequential and not len(module) else None


def _kind_of_function(event: Event) -> Kind | None:
    name = event.name
    if name in EXACT_FUNCTIONS:
        return "function"
    if name in _SAME_FUNCTIONS or name.startswith(_SAME_PREFIXES):
        return (
            "keep"
            if event.pooling is not None or name not in ("mean", "amax", "amin", "max", "min")
            else None
        )
    if name in _ZERO_STAYS or name in _ZERO_FUNCTIONS:
        return "zero"
    return None


def positions_of(graph: Graph) -> Iterator[tuple[str, int]]:
    """For each call of a layer with weights how often each weight multiplies something."""
    for event in graph.having("producer"):
        layer: Any = event.module
        if layer is None or not event.shape or not event.sources or not event.sources[0].shape:
            continue
        if is_linear(event):
            yield event.path, math.prod(event.shape) // max(layer.out_features, 1)
        elif layer.transposed:
            yield event.path, math.prod(event.sources[0].shape) // layer.in_channels
        else:
            yield event.path, math.prod(event.shape) // layer.out_channels


def uncalled(graph: Graph, locations: Locations) -> Iterator[Refusal]:
    """Layers that a forward did not come by, as heads for training alone: they would go on expecting all channels."""
    parts = {inner for module in graph.calls if is_opaque(module) for inner in module.modules()}
    for module, (path, *_) in locations.paths.items():
        held = any(p is not None for p in parameters_of(module).values())
        if held and module not in graph.calls and module not in parts:
            yield Refusal(path, "this forward does not come by it, and it keeps all of its channels")
