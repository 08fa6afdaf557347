"""What a forward does, as a graph: calls, whose results each of them takes, and where the channels of results are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from torch import nn

from normsmith.anatomy.kinds import (
    ACTIVATION_FUNCTIONS,
    NORM_FUNCTIONS,
    PASSING,
    PASSING_FUNCTIONS,
    PRODUCING_FUNCTIONS,
    RESHAPING,
    RESHAPING_FUNCTIONS,
    is_activation,
    is_norm,
    is_producer,
    is_sequential,
)
from normsmith.anatomy.moves import Move
from normsmith.anatomy.pooling import Pooling

_RECURRENT = (nn.LSTM, nn.GRU, nn.RNN)
Role = Literal["producer", "norm", "activation", "add", "passing", "other"]


@dataclass(frozen=True, eq=False)
class Event:
    """One call in a forward, or a tensor that calls take.

    - `kind`: "module" (the call of a layer, whose own calls are not looked at), "function", "input" of the model, or
      "parameter" (a tensor of the model that a function uses).
    - `path`: that of the module or the parameter; for a function that of the module whose forward calls it.
    - `name`: the module's class; the function's name without the underscores of its variants ("add", "relu"). "write"
      is no call: it is a tensor of which calls have overwritten parts, made of what was there and what they wrote.
    - `sources`: the events whose results the call takes, in the order of its arguments.
    - `shape`: that of its (first) result, where a real forward was followed.
    - `writes`: the events whose results the call overwrites, as `torch.relu_(x)` and `x += y` do.
    - `reads_written`: those of its sources that have overwritten a tensor which the call takes in the place of what
      they returned, as in `self.act(h); return self.layer(h)`.
    - `shares`: whether its result lies in the memory of an earlier one: a view, the same tensor, or one overwritten.
    - `pooling`: of a function such as `mean`, over which dimensions it goes.
    - `move`: where a real forward was followed and the call only moved the numbers of its first source: the same
      move, to be made of another tensor.
    """

    index: int
    kind: Literal["input", "parameter", "module", "function"]
    path: str
    name: str
    sources: tuple[Event, ...] = field(default=(), repr=False)
    module: nn.Module | None = field(default=None, repr=False)
    shape: tuple[int, ...] | None = None
    writes: tuple[Event, ...] = field(default=(), repr=False)
    reads_written: tuple[Event, ...] = field(default=(), repr=False)
    shares: bool = field(default=False, repr=False)
    pooling: Pooling | None = None
    move: Move | None = field(default=None, repr=False)

    @cached_property
    def role(self) -> Role:
        """What the call is for: "producer" (linear or convolution), "norm", "activation", "add", "passing"
        (keeps the channels: dropout, pooling, identity) or "other"."""
        if self.module is not None:
            return _role_of_module(self.module)
        if self.kind != "function":
            return "other"
        names: tuple[tuple[Role, set[str]], ...] = (
            ("activation", ACTIVATION_FUNCTIONS),
            ("norm", NORM_FUNCTIONS),
            ("producer", PRODUCING_FUNCTIONS),
            ("add", {"add"}),
            ("passing", PASSING_FUNCTIONS),
        )
        return next((role for role, known in names if self.name in known), "other")

    @cached_property
    def keeps_channels(self) -> bool:
        """Whether the call only passes on the channels of the one result that it takes, as dropout and pooling do."""
        return keeps_channels(self)

    @cached_property
    def channel_source(self) -> Event | None:
        """The layer from which the result has its channels, or at least their dimension; None if it is not known."""
        return channel_source(self)


@dataclass(frozen=True, eq=False)
class Residual:
    """A residual block: an addition of two results that come from one, x + f(x) or, with a projection g, g(x) + f(x).

    `start` is the event whose result is x, `add` the addition. `skip` and `branch` are the calls between them, in
    order; `skip` has fewer calls, none if x itself is added.
    """

    start: Event
    skip: tuple[Event, ...]
    branch: tuple[Event, ...]
    add: Event


@dataclass(frozen=True, eq=False)
class Graph:
    """The events of one forward in the order of the calls.

    - `outputs`: the events whose results the model returns.
    - `calls`: how often each module of the model is called, containers too; one that is missing is not called.
    - `followed`: by "symbols" (torch.fx, whatever the input) or by a "forward" of one batch.
    - `outputs_written`: the events that have overwritten a tensor which the model returns in the place of their result.
    """

    events: tuple[Event, ...]
    outputs: tuple[Event, ...]
    calls: Mapping[nn.Module, int]
    followed: Literal["symbols", "forward"]
    outputs_written: tuple[Event, ...] = ()

    def of(self, module: nn.Module) -> tuple[Event, ...]:
        """The calls of a module, in order."""
        return self._by_module.get(module, ())

    def having(self, role: Role) -> tuple[Event, ...]:
        """The calls with this role."""
        return tuple(event for event in self.events if event.role == role)

    def consumers(self, event: Event) -> tuple[Event, ...]:
        """The calls that take an event's result, in order."""
        return self._consumers.get(event, ())

    def is_output(self, event: Event) -> bool:
        """Whether the model returns an event's result, by itself or among others."""
        return event in self.outputs

    def is_used_elsewhere(self, event: Event) -> bool:
        """Whether an event's result goes to more than one call, or is returned by the model."""
        return len(self.consumers(event)) > 1 or self.is_output(event)

    def overwritten_by(self, event: Event) -> tuple[Event, ...]:
        """The calls that overwrite an event's result, in order."""
        return self._overwritten.get(event, ())

    def reader_of_written(self, event: Event) -> Event | None:
        """The first call that takes what an event has overwritten in the place of what it returned, if any.

        The event itself where the model returns that.
        """
        reader = self._readers_of_written.get(event)
        return event if reader is None and event in self.outputs_written else reader

    def leads_to(self, event: Event, later: Event) -> bool:
        """Whether `later` was computed from an event's result, or is the event itself."""
        return bool(self._with_ancestors(later) >> event.index & 1)

    def is_called_once(self, module: nn.Module) -> bool:
        """Whether the forward calls a module exactly once."""
        return self.calls.get(module) == 1 and len(self.of(module)) == 1

    def producer(self, event: Event) -> Event | None:
        """The linear layer or convolution whose output channels are the channels of an event's input.

        Calls between them may be norms, activations and others that keep the channels, such as pooling. The channels
        of a linear layer come last, so reshapes of the other dimensions may follow it too. None where there is no
        such layer.
        """
        reshaped = False
        while event.sources and (len(event.sources) == 1 or _keeps_last(event)):
            event = event.sources[0]
            if event.role == "producer":
                return None if reshaped and not is_linear(event) else event
            reshaped = reshaped or _keeps_last(event)
            if event.role not in ("passing", "activation", "norm") and not _keeps_last(event):
                return None
        return None

    @cached_property
    def residuals(self) -> tuple[Residual, ...]:
        """The residual blocks, in the order of their additions."""
        return tuple(block for add in self.having("add") if (block := self._residual(add)) is not None)

    def _residual(self, add: Event) -> Residual | None:
        if len(add.sources) != 2 or add.sources[0] is add.sources[1]:
            return None
        one, other = add.sources
        common = self._with_ancestors(one) & self._with_ancestors(other)
        if not common:
            return None
        start = self.events[common.bit_length() - 1]
        ways = sorted((self._between(start, one), self._between(start, other)), key=len)
        return Residual(start, ways[0], ways[1], add)

    def _with_ancestors(self, event: Event) -> int:
        return self._ancestors[event.index] | 1 << event.index

    def _between(self, start: Event, end: Event) -> tuple[Event, ...]:
        """The calls on all ways from `start`, which is left out, to `end`."""
        on_the_way = self._with_ancestors(end)
        return tuple(
            event
            for event in self.events[start.index + 1 : end.index + 1]
            if on_the_way >> event.index & 1 and self._ancestors[event.index] >> start.index & 1
        )

    @cached_property
    def _ancestors(self) -> list[int]:
        """For each event the set of events that its result was computed from, as the bits of a number."""
        ancestors: list[int] = []
        for event in self.events:
            bits = 0
            for source in event.sources:
                bits |= ancestors[source.index] | 1 << source.index
            ancestors.append(bits)
        return ancestors

    @cached_property
    def _by_module(self) -> dict[nn.Module, tuple[Event, ...]]:
        calls = defaultdict[nn.Module, list[Event]](list)
        for event in self.events:
            if event.module is not None:
                calls[event.module].append(event)
        return {module: tuple(events) for module, events in calls.items()}

    @cached_property
    def _readers_of_written(self) -> dict[Event, Event]:
        readers: dict[Event, Event] = {}
        for event in self.events:
            for written in event.reads_written:
                readers.setdefault(written, event)
        return readers

    @cached_property
    def _overwritten(self) -> dict[Event, tuple[Event, ...]]:
        overwritten = defaultdict[Event, list[Event]](list)
        for event in self.events:
            for written in event.writes:
                overwritten[written].append(event)
        return {written: tuple(events) for written, events in overwritten.items()}

    @cached_property
    def _consumers(self) -> dict[Event, tuple[Event, ...]]:
        consumers = defaultdict[Event, list[Event]](list)
        for event in self.events:
            for source in dict.fromkeys(event.sources):
                consumers[source].append(event)
        return {source: tuple(events) for source, events in consumers.items()}


def _role_of_module(module: nn.Module) -> Role:
    if is_producer(module):
        return "producer"
    if is_norm(module):
        return "norm"
    if is_activation(module):
        return "activation"
    is_empty = is_sequential(module) and len(list(module.children())) == 0  # as shortcuts often are
    return "passing" if is_empty or isinstance(module, PASSING) else "other"


def _keeps_last(event: Event) -> bool:
    """Whether an event is a reshape of the other dimensions that keeps the last one."""
    shapes = (event.shape, event.sources[0].shape) if event.sources else (None, None)
    known = all(shape is not None and len(shape) > 1 for shape in shapes)
    return known and event.name in RESHAPING_FUNCTIONS and shapes[0][-1] == shapes[1][-1]  # type: ignore[index]


def keeps_channels(event: Event) -> bool:
    """Whether a call puts out the channels of the one result that it takes, each by itself and in its dimension.

    A reduction does where it leaves out the dimensions of batch and channels, a reshape where it leaves these as they
    are; both only where it is known which they are. `Event.keeps_channels` holds the answer.
    """
    if len(event.sources) != 1:
        return False
    if event.role == "passing":
        return True
    (source,) = event.sources
    rank, dimension = rank_of(source), channel_dimension(source)
    if rank is None or dimension is None:
        return False
    if event.pooling is not None:
        return not event.pooling.of(rank) & {0, dimension}
    return is_reshape(event) and _leaves(event, dimension)


def channel_source(event: Event) -> Event | None:
    """The layer from which an event's result has its channels, or at least its layout; perhaps itself.

    None where no linear layer, convolution or recurrent layer leads to it through calls that keep the layout.
    `Event.channel_source` holds the answer.
    """
    if event.role == "producer" or is_recurrent(event):
        return event
    if not event.sources:
        return None
    if event.role in ("passing", "activation", "norm", "add") or _keeps_layout(event):
        layers = (source.channel_source for source in event.sources)
        return next((layer for layer in layers if layer is not None), None)
    if is_reshape(event) and _leaves(event, -1):  # as another result is laid out: `view_as`
        layer = event.sources[0].channel_source
        return layer if layer is not None and is_linear(layer) else None
    return None


def channel_dimension(event: Event) -> int | None:
    """The dimension of an event's result that holds the channels: the last after linear layers, else the second.

    None where it is not known, as for a result without a batch dimension.
    """
    layer, rank = event.channel_source, rank_of(event)
    if layer is None or rank is None or rank < 2:
        return None
    if is_linear(layer) or is_recurrent(layer):
        return rank - 1
    return 1 if layer.shape is None or len(layer.shape) == spatial_of(layer) + 2 else None


def rank_of(event: Event) -> int | None:
    """How many dimensions an event's result has. Without data those of linear layers are taken to have two."""
    if event.shape is not None:
        return len(event.shape)
    if event.role == "producer":
        return 2 if is_linear(event) else spatial_of(event) + 2
    rank = rank_of(event.sources[0]) if event.sources else None
    if rank is not None and event.pooling is not None:
        return event.pooling.rank_after(rank)
    keeps = event.role in ("passing", "activation", "norm", "add") or event.name == "mul"
    return rank if keeps else None


def spatial_of(convolution: Event) -> int:
    """How many dimensions a convolution's result has beside batch and channels."""
    name: Any = convolution.name
    return int(next(digit for digit in name if digit in "123"))


def is_linear(event: Event) -> bool:
    """Whether an event is the call of a linear layer, whose channels come last."""
    return isinstance(event.module, nn.Linear) or event.name == "linear"


def is_recurrent(event: Event) -> bool:
    """Whether an event is the call of a recurrent layer of torch's."""
    return isinstance(event.module, _RECURRENT)


def is_reshape(event: Event) -> bool:
    """Whether a call gives the values that it takes another shape, in the same order."""
    is_function = event.kind == "function" and event.name in RESHAPING_FUNCTIONS
    return is_function or type(event.module) in RESHAPING


def _leaves(reshape: Event, dimension: int) -> bool:
    """Whether a reshape leaves the channels in this dimension: the last, or the second, which the batch precedes."""
    before, after = reshape.sources[0].shape, reshape.shape
    if before is None or after is None or len(before) < 2 or len(after) < 2:
        return False
    return before[:2] == after[:2] if dimension == 1 else before[-1] == after[-1]


def _keeps_layout(event: Event) -> bool:
    """Whether an event leaves channels in their dimension, though it may put others beside them or scale them."""
    if event.name == "mul" or event.keeps_channels:
        return True
    shapes = event.shape, event.sources[0].shape
    known = shapes[0] is not None and shapes[1] is not None
    return known and event.name.lower() in ("cat", "concat") and len(shapes[0]) == len(shapes[1])  # type: ignore[arg-type]
